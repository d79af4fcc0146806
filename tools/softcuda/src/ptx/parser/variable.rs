//! Variables: declarations and sizes.

use std::sync::Arc;

use super::super::ast::{Linkage, Space, Type, Variable};
use super::super::lexer::Kind;
use super::initial::Initial;
use super::{DEEPEST, Parser, Result, Symbol, quoted};

/// Largest variable, as a power of two: beyond what any GPU has.
pub(super) const LARGEST: usize = 1 << 40;

/// What a declaration says before the names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub ty: Type,
    /// Elements of `.v2` and `.v4`, otherwise 1.
    pub lanes: usize,
    pub align: usize,
    /// Whether the names may be arrays without a length, as the last parameter of a variadic function.
    pub open: bool,
}

/// The shape of one name: `x[4][2]`.
pub(super) struct Shape {
    /// Lengths, outermost first; the first is `None` for `[]`. The lanes of a vector type are the last.
    dimensions: Vec<Option<usize>>,
    /// Where the first bracket or the name stands.
    at: usize,
}

impl<'a> Parser<'a> {
    /// Variables of module scope, the space being the next token.
    pub(super) fn module_variables(&mut self, space: Space, linkage: Linkage) -> Result<()> {
        self.bump()?;
        let head = self.head()?;
        loop {
            let at = self.token.start;
            let name = self.name("the variable's name")?;
            let variable = self.variable(name.into(), space, linkage, head)?;
            self.add_variable(name, at, variable)?;
            if !self.take(b',')? {
                return self.expect(b';', "after the declaration");
            }
        }
    }

    /// Puts a variable into the module's tables. A declaration may meet its definition.
    fn add_variable(&mut self, name: &'a str, at: usize, variable: Variable) -> Result<()> {
        let Some(&symbol) = self.symbols.get(name) else {
            self.symbols
                .insert(name, Symbol::Variable(self.module.variables.len() as u32));
            self.module.variables.push(variable);
            return Ok(());
        };
        let Symbol::Variable(index) = symbol else {
            return Err(self.error(at, format!("{} is declared as a function before", quoted(name))));
        };
        let known = &mut self.module.variables[index as usize];
        let same = known.space == variable.space
            && known.ty == variable.ty
            && (known.size == variable.size || known.size == 0 || variable.size == 0);
        if !same {
            return Err(self.error(at, format!("{} is declared differently before", quoted(name))));
        }
        let align = known.align.max(variable.align);
        if known.linkage == Linkage::Extern {
            let size = known.size.max(variable.size);
            *known = Variable {
                size,
                align,
                ..variable
            };
        } else if variable.linkage == Linkage::Extern {
            known.align = align;
        } else {
            return Err(self.error(at, format!("{} is defined twice", quoted(name))));
        }
        Ok(())
    }

    /// Alignment, attributes and type, in any order.
    pub(super) fn head(&mut self) -> Result<Head> {
        let mut align = None;
        let mut lanes = 1;
        let mut ty = None;
        while let Kind::Dot(name) = self.token.kind {
            match name {
                "align" => {
                    self.bump()?;
                    align = Some(self.alignment()?);
                    continue;
                }
                "attribute" => {
                    self.attribute()?;
                    continue;
                }
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "v8" => lanes = 8,
                // Says of a kernel's parameter what it points to: hints for ptxas.
                "ptr" => {
                    self.bump()?;
                    while let Kind::Dot(
                        "global" | "const" | "shared" | "local" | "generic" | "param" | "align",
                    ) = self.token.kind
                    {
                        let is_align = self.token.kind == Kind::Dot("align");
                        self.bump()?;
                        if is_align {
                            self.alignment()?;
                        }
                    }
                    continue;
                }
                "texref" | "samplerref" | "surfref" => {
                    return Err(
                        self.error_here("texture, sampler and surface references are not supported".into())
                    );
                }
                _ => match Type::parse(name) {
                    Some(Type::Pred) | None => return Err(self.unexpected("the variable's type")),
                    Some(_) if ty.is_some() => return Err(self.unexpected("a name after the type")),
                    found => ty = found,
                },
            }
            self.bump()?;
        }
        let Some(ty) = ty else {
            return Err(self.unexpected("the variable's type"));
        };
        Ok(Head {
            ty,
            lanes,
            align: align.unwrap_or(ty.size() * lanes),
            open: false,
        })
    }

    /// The number of `.align`.
    pub(super) fn alignment(&mut self) -> Result<usize> {
        let at = self.token.start;
        let align = self.unsigned("an alignment")?;
        if !align.is_power_of_two() || align > 1 << 20 {
            return Err(self.error(at, format!("an alignment of {align}: expected a power of two")));
        }
        Ok(align as usize)
    }

    /// `.attribute(.managed)` and other attributes, which say nothing about the value.
    pub(super) fn attribute(&mut self) -> Result<()> {
        self.bump()?;
        self.expect(b'(', "after `.attribute`")?;
        let mut open = 1;
        while open > 0 {
            match self.token.kind {
                Kind::Mark(b'(') => open += 1,
                Kind::Mark(b')') => open -= 1,
                Kind::Dot(_) | Kind::Number(_) | Kind::Mark(b',') => {}
                _ => return Err(self.unexpected("`)` after the attributes")),
            }
            self.bump()?;
        }
        Ok(())
    }

    /// What follows a variable's name: lengths and initial values.
    pub(super) fn variable(
        &mut self,
        name: Arc<str>,
        space: Space,
        linkage: Linkage,
        head: Head,
    ) -> Result<Variable> {
        let mut shape = self.shape(head)?;
        let at = self.token.start;
        let mut initial = Initial::default();
        if self.take(b'=')? {
            if !matches!(space, Space::Global | Space::Const) {
                return Err(self.error(
                    at,
                    "only `.global` and `.const` variables can have initial values".into(),
                ));
            }
            if linkage == Linkage::Extern {
                return Err(self.error(at, "an `.extern` variable cannot have initial values".into()));
            }
            let count = self.initial_values(head.ty, &shape.dimensions, &mut initial)?;
            self.whole_address(&initial)?;
            if let Some(first @ None) = shape.dimensions.first_mut() {
                *first = Some(count);
            }
        }
        let size = self.size(head, &shape)?;
        match size {
            None if head.open || linkage == Linkage::Extern => {}
            None => {
                let message =
                    "an array without a length: expected `.extern`, a length or initial values".to_string();
                return Err(self.error(shape.at, message));
            }
            Some(_) if initial.bytes.is_empty() => {}
            Some(size) => self.pad(&mut initial, size)?,
        }
        Ok(Variable {
            name,
            space,
            ty: head.ty,
            size: size.unwrap_or(0),
            align: head.align,
            linkage,
            init: initial.bytes,
            relocations: initial.relocations,
        })
    }

    fn shape(&mut self, head: Head) -> Result<Shape> {
        let at = self.token.start;
        let mut dimensions = Vec::new();
        while self.take(b'[')? {
            if dimensions.len() == DEEPEST {
                return Err(self.error_here("an array of too many dimensions".into()));
            }
            if self.token.kind == Kind::Mark(b']') {
                if !dimensions.is_empty() {
                    return Err(self.unexpected("a length: only the first may be left out"));
                }
                dimensions.push(None);
            } else {
                dimensions.push(Some(self.unsigned("the array's length")? as usize));
            }
            self.expect(b']', "after the array's length")?;
        }
        if head.lanes > 1 {
            dimensions.push(Some(head.lanes));
        }
        Ok(Shape { dimensions, at })
    }

    /// Bytes in all, or `None` without a first length.
    fn size(&self, head: Head, shape: &Shape) -> Result<Option<usize>> {
        let mut size = Some(head.ty.size());
        for &length in &shape.dimensions {
            let Some(length) = length else {
                return Ok(None);
            };
            size = size
                .and_then(|size| size.checked_mul(length))
                .filter(|&size| size <= LARGEST);
        }
        match size {
            Some(size) => Ok(Some(size)),
            None => Err(self.error(shape.at, "this array is too large".into())),
        }
    }
}
