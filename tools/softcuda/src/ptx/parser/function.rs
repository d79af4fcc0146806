//! Functions: signatures and directives.

use super::super::ast::{Function, FunctionKind, Limits, Linkage, Space, VarId, Variable};
use super::super::lexer::Kind;
use super::body::BodyParser;
use super::scope::{Duplicate, Local, Names};
use super::variable::Head;
use super::{Parser, Result, Symbol, quoted};

/// A parameter of a signature.
pub(super) struct Parameter<'a> {
    /// `None` for `_`.
    name: Option<&'a str>,
    pub variable: Variable,
}

impl<'a> Parser<'a> {
    /// `.entry` or `.func`, which is the next token.
    pub(super) fn function(&mut self, kind: FunctionKind, linkage: Linkage) -> Result<()> {
        let line = self.token.line;
        self.bump()?;
        if self.token.kind == Kind::Dot("attribute") {
            self.attribute()?;
        }
        let mut names = Names::new();
        let mut variables = Vec::new();
        let returns = match kind {
            FunctionKind::Device => self.parameters(&mut variables)?,
            FunctionKind::Kernel => 0,
        };
        let at = self.token.start;
        let name = self.name("the function's name")?;
        self.parameters(&mut variables)?;
        for (index, (variable, at)) in variables.iter().enumerate() {
            let Some(name) = variable.name else {
                return Err(self.error(*at, "a parameter of a function needs a name".into()));
            };
            if let Err(Duplicate) = names.declare(name, Local::Variable(VarId(index as u32))) {
                return Err(self.error(*at, format!("a second parameter {}", quoted(name))));
            }
        }
        let ids: Vec<VarId> = (0..variables.len() as u32).map(VarId).collect();
        let (returns, params) = ids.split_at(returns);
        let mut function = Function {
            kind,
            linkage,
            name: self.intern(name),
            returns: returns.to_vec(),
            params: params.to_vec(),
            limits: Limits::default(),
            noreturn: false,
            body: None,
            variables: variables
                .into_iter()
                .map(|(parameter, _)| parameter.variable)
                .collect(),
            line,
        };
        self.function_directives(&mut function)?;
        let has_body = self.token.kind == Kind::Mark(b'{');
        let index = self.add_function(name, at, function, has_body)?;
        if !has_body {
            return self.expect(b';', "or `{` after the function's signature");
        }
        self.bump()?;
        self.debug.begin_function();
        let variables = std::mem::take(&mut self.module.functions[index].variables);
        let (body, variables) = BodyParser::new(self, name, names, variables).parse()?;
        let function = &mut self.module.functions[index];
        function.body = Some(body);
        function.variables = variables;
        Ok(())
    }

    /// Puts a function into the module's table, or finds it there if it has been declared, and returns its index.
    fn add_function(
        &mut self,
        name: &'a str,
        at: usize,
        function: Function,
        has_body: bool,
    ) -> Result<usize> {
        let Some(&symbol) = self.symbols.get(name) else {
            self.symbols
                .insert(name, Symbol::Function(self.module.functions.len() as u32));
            self.module.functions.push(function);
            return Ok(self.module.functions.len() - 1);
        };
        let Symbol::Function(index) = symbol else {
            return Err(self.error(at, format!("{} is declared as a variable before", quoted(name))));
        };
        let known = &mut self.module.functions[index as usize];
        let same_variable = |&known_id: &VarId, &id: &VarId, known: &Function| {
            let (known, variable) = (
                &known.variables[known_id.0 as usize],
                &function.variables[id.0 as usize],
            );
            (known.ty, known.size, known.align) == (variable.ty, variable.size, variable.align)
        };
        let same = |known_ids: &[VarId], ids: &[VarId]| {
            known_ids.len() == ids.len()
                && known_ids
                    .iter()
                    .zip(ids)
                    .all(|(k, id)| same_variable(k, id, known))
        };
        if known.kind != function.kind
            || !same(&known.returns, &function.returns)
            || !same(&known.params, &function.params)
        {
            let message = format!(
                "{} is declared with another signature in line {}",
                quoted(name),
                known.line
            );
            return Err(self.error(at, message));
        }
        if !has_body {
            return Ok(index as usize);
        }
        if known.body.is_some() {
            let message = format!("{} is defined twice, first in line {}", quoted(name), known.line);
            return Err(self.error(at, message));
        }
        let noreturn = known.noreturn || function.noreturn;
        *known = Function { noreturn, ..function };
        Ok(index as usize)
    }

    /// A list of parameters in parentheses, if there is one; returns how many.
    pub(super) fn parameters(&mut self, parameters: &mut Vec<(Parameter<'a>, usize)>) -> Result<usize> {
        let before = parameters.len();
        if !self.take(b'(')? || self.take(b')')? {
            return Ok(0);
        }
        loop {
            match self.token.kind {
                Kind::Dot("param") => self.bump()?,
                Kind::Dot("reg") => {
                    return Err(self
                        .error_here("parameters in registers are not supported: expected `.param`".into()));
                }
                _ => return Err(self.unexpected("`.param` or `)`")),
            }
            let head = Head {
                open: true,
                ..self.head()?
            };
            let at = self.token.start;
            let name = self.word("the parameter's name")?;
            let interned = self.intern(name);
            let variable = self.variable(interned, Space::Param, Linkage::Internal, head)?;
            parameters.push((
                Parameter {
                    name: (name != "_").then_some(name),
                    variable,
                },
                at,
            ));
            if !self.take(b',')? {
                self.expect(b')', "or `,` after a parameter")?;
                return Ok(parameters.len() - before);
            }
        }
    }

    /// What stands between a function's parameters and its body.
    fn function_directives(&mut self, function: &mut Function) -> Result<()> {
        while let Kind::Dot(name) = self.token.kind {
            let limits = &mut function.limits;
            match name {
                "pragma" => {
                    self.pragma()?;
                    continue;
                }
                "noreturn" => function.noreturn = true,
                "explicitcluster" => limits.explicit_cluster = true,
                "maxntid" | "reqntid" | "reqnctapercluster" => {
                    self.bump()?;
                    let sizes = Some(self.sizes()?);
                    match name {
                        "maxntid" => limits.max_threads = sizes,
                        "reqntid" => limits.required_threads = sizes,
                        _ => limits.required_cluster = sizes,
                    }
                    continue;
                }
                "minnctapersm"
                | "maxnctapersm"
                | "maxnreg"
                | "maxclusterrank"
                | "abi_preserve"
                | "abi_preserve_control" => {
                    self.bump()?;
                    let value = Some(self.unsigned32("the directive's number")?);
                    match name {
                        "minnctapersm" => limits.min_blocks_per_sm = value,
                        "maxnreg" => limits.max_registers = value,
                        "maxclusterrank" => limits.max_cluster_rank = value,
                        // An old name, and what concerns ptxas alone.
                        _ => {}
                    }
                    continue;
                }
                "blocksareclusters" => {
                    return Err(self.error_here("`.blocksareclusters` is not supported".into()));
                }
                _ => return Err(self.unknown_directive(name)),
            }
            self.bump()?;
        }
        Ok(())
    }

    /// One to three sizes.
    fn sizes(&mut self) -> Result<[u32; 3]> {
        let mut sizes = [1; 3];
        for (index, size) in sizes.iter_mut().enumerate() {
            if index > 0 && !self.take(b',')? {
                break;
            }
            let at = self.token.start;
            *size = self.unsigned32("a size")?;
            if *size == 0 {
                return Err(self.error(at, "a size of 0: expected at least 1".into()));
            }
        }
        Ok(sizes)
    }
}
