//! Variables: declarations, sizes and initial values.

use std::sync::Arc;

use super::super::ast::{Linkage, Relocation, Space, Type, Variable};
use super::super::lexer::Kind;
use super::constant::Value;
use super::{DEEPEST, Parser, Result, Symbol, quoted};

/// Most bytes that a module's initialised variables may have beyond the elements listed: what is declared in a few
/// characters must not take any amount of memory. Real tables list nearly all of their elements.
pub(super) const MOST_PADDING: usize = 64 << 20;

/// Largest variable, as a power of two: beyond what any GPU has.
const LARGEST: usize = 1 << 40;

/// What a declaration says before the names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub ty: Type,
    /// Elements of `.v2` and `.v4`, otherwise 1.
    pub lanes: usize,
    pub align: usize,
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
            let name = self.word("the variable's name")?;
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
        })
    }

    fn alignment(&mut self) -> Result<usize> {
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
            let count = self.initial(head.ty, &shape.dimensions, &mut initial)?;
            if let Some(first @ None) = shape.dimensions.first_mut() {
                *first = Some(count);
            }
        }
        let size = self.size(head, &shape)?;
        match size {
            None if space == Space::Param || linkage == Linkage::Extern => {}
            None => {
                let message =
                    "an array without a length: expected `.extern`, a length or initial values".to_string();
                return Err(self.error(shape.at, message));
            }
            Some(size) if initial.bytes.is_empty() || size == initial.bytes.len() => {}
            Some(size) => {
                let padding = size - initial.bytes.len();
                let Some(left) = self.padding_left.checked_sub(padding) else {
                    let message =
                        format!("more than {MOST_PADDING} bytes of initialised variables are not listed");
                    return Err(self.error(at, message));
                };
                self.padding_left = left;
                initial.bytes.resize(size, 0);
            }
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

    /// The values of an array (in braces) or of a scalar. Returns how many elements of the first dimension it lists.
    fn initial(&mut self, ty: Type, dimensions: &[Option<usize>], initial: &mut Initial) -> Result<usize> {
        let Some((&length, inner)) = dimensions.split_first() else {
            self.initial_scalar(ty, initial)?;
            return Ok(1);
        };
        self.expect(b'{', "before the values of an array or vector")?;
        let mut stride = ty.size();
        for &length in inner {
            stride = match stride.checked_mul(length.unwrap_or(0)) {
                Some(stride) if stride <= LARGEST => stride,
                _ => return Err(self.error_here("this array is too large".into())),
            };
        }
        let begin = initial.bytes.len();
        let mut count = 0;
        while self.token.kind != Kind::Mark(b'}') {
            if length == Some(count) {
                return Err(self.error_here(format!("more than {count} initial values")));
            }
            // An inner array may list fewer values than it has.
            let padding = (begin + count * stride).saturating_sub(initial.bytes.len());
            let Some(left) = self.padding_left.checked_sub(padding) else {
                let message =
                    format!("more than {MOST_PADDING} bytes of initialised variables are not listed");
                return Err(self.error_here(message));
            };
            self.padding_left = left;
            initial.bytes.resize(begin + count * stride, 0);
            self.initial(ty, inner, initial)?;
            count += 1;
            if !self.take(b',')? {
                break;
            }
        }
        self.expect(b'}', "or `,` after an initial value")?;
        Ok(count)
    }

    fn initial_scalar(&mut self, ty: Type, initial: &mut Initial) -> Result<()> {
        let at = self.token.start;
        if let Kind::Word(word) = self.token.kind
            && word != "WARP_SZ"
        {
            return self.initial_address(ty, initial);
        }
        let value = self.constant()?;
        if self.token.kind == Kind::Mark(b'(') {
            return Err(self.error(
                at,
                "the bytes of an address (`0xFF(symbol)`) as initial values are not supported".into(),
            ));
        }
        let mismatch = |parser: &Self| {
            let message = format!("this value does not fit the type {ty:?}", ty = ty).to_lowercase();
            parser.error(at, message)
        };
        let size = ty.size();
        let bits = match (ty, value) {
            (Type::F32, Value::F32(bits)) => bits.into(),
            (Type::F32, Value::F64(value)) => (value as f32).to_bits().into(),
            (Type::F64, Value::F32(_) | Value::F64(_)) => value.float().to_bits(),
            (Type::B32, Value::F32(bits)) => bits.into(),
            (Type::B32, Value::F64(value)) => (value as f32).to_bits().into(),
            (Type::B64, Value::F64(value)) => value.to_bits(),
            (_, Value::Int { bits, .. }) if !ty.is_float() && ty != Type::Pred => {
                // Sign or zero extension of what is kept must give the value again.
                let unused = 64 - 8 * size.min(8) as u32;
                let signed = ((bits << unused) as i64 >> unused) as u64;
                if bits != signed && bits != bits << unused >> unused {
                    return Err(mismatch(self));
                }
                bits
            }
            _ => return Err(mismatch(self)),
        };
        let extension = match value {
            Value::Int {
                bits,
                unsigned: false,
            } if (bits as i64) < 0 => [0xff; 8],
            _ => [0; 8],
        };
        let bytes = [bits.to_le_bytes(), extension].concat();
        initial.bytes.extend(&bytes[..size]);
        Ok(())
    }

    /// `symbol+8` or `generic(symbol)+8`.
    fn initial_address(&mut self, ty: Type, initial: &mut Initial) -> Result<()> {
        let at = self.token.start;
        let mut name = self.word("a symbol")?;
        let mut symbol_at = at;
        let mut generic = false;
        if self.token.kind == Kind::Mark(b'(') {
            match name {
                "generic" => generic = true,
                "mask" => return Err(self.error(at, "`mask(…)` as an initial value is not supported".into())),
                _ => return Err(self.error(at, format!("{} is no operator of initial values", quoted(name)))),
            }
            self.bump()?;
            symbol_at = self.token.start;
            name = self.word("a symbol")?;
            self.expect(b')', "after the symbol")?;
        }
        let mut addend = 0i64;
        loop {
            let negative = self.token.kind == Kind::Mark(b'-');
            if !negative && self.token.kind != Kind::Mark(b'+') {
                break;
            }
            self.bump()?;
            let term = self.integer_term()?;
            addend = if negative {
                addend.wrapping_sub(term)
            } else {
                addend.wrapping_add(term)
            };
        }
        let size = ty.size();
        if !matches!(size, 4 | 8) || ty.is_float() {
            return Err(self.error(at, "an address needs an integer type of 32 or 64 bits".into()));
        }
        self.referenced.push((name, symbol_at));
        let symbol = self.intern(name);
        initial.relocations.push(Relocation {
            at: initial.bytes.len(),
            size,
            symbol,
            addend,
            generic,
        });
        initial.bytes.extend(&[0; 8][..size]);
        Ok(())
    }
}

/// A variable's initial value so far.
#[derive(Default)]
struct Initial {
    bytes: Vec<u8>,
    relocations: Vec<Relocation>,
}
