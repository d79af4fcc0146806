//! Bodies of functions: scopes, declarations, labels and instructions.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::ast::{
    Body, Guard, Instruction, Label, LabelId, Linkage, Loc, Operand, Prototype, Space, Type, VarId, Variable,
};
use super::super::lexer::Kind;
use super::scope::{Duplicate, Local, Mention, Names};
use super::{Parser, Result, Symbol, quoted};

/// Most parameters of a function in `.calltargets`: each such list has a copy of them.
const MOST_PARAMETERS: usize = 256;

/// How deep the scopes of a body may nest.
const DEEPEST_SCOPE: usize = 200;

/// Parses a function's body.
pub(super) struct BodyParser<'p, 'a> {
    pub parser: &'p mut Parser<'a>,
    pub names: Names<'a>,
    variables: Vec<Variable>,
    body: Body,
    /// Labels of `.branchtargets`, `.callprototype` and `.calltargets`.
    named: Vec<Arc<str>>,
    /// These labels as the text has them.
    named_before: HashSet<&'a str>,
    /// The instructions that mention labels.
    mentioning: Vec<usize>,
    loc: Option<Loc>,
    /// The function's name.
    function: &'a str,
    /// Whether the instruction is a call, whose operands have lists.
    pub is_call: bool,
    /// Whether the instruction is a branch, whose operands are labels.
    pub is_branch: bool,
}

impl<'p, 'a> BodyParser<'p, 'a> {
    /// For the body of a function, of whose signature the names and variables are.
    pub fn new(
        parser: &'p mut Parser<'a>,
        function: &'a str,
        names: Names<'a>,
        variables: Vec<Variable>,
    ) -> BodyParser<'p, 'a> {
        BodyParser {
            parser,
            names,
            variables,
            body: Body::default(),
            named: Vec::new(),
            named_before: HashSet::new(),
            mentioning: Vec::new(),
            loc: None,
            function,
            is_call: false,
            is_branch: false,
        }
    }

    /// The body and all variables of the function, the opening brace being behind us.
    pub fn parse(mut self) -> Result<(Body, Vec<Variable>)> {
        self.statements()?;
        self.finish()
    }

    /// Everything up to the brace that closes the body, which is consumed.
    fn statements(&mut self) -> Result<()> {
        loop {
            match self.parser.token.kind {
                Kind::Mark(b'}') => {
                    self.parser.bump()?;
                    let done = self.names.depth() == 0;
                    self.names.close();
                    if done {
                        return Ok(());
                    }
                }
                Kind::Mark(b'{') => {
                    if self.names.depth() == DEEPEST_SCOPE {
                        return Err(self.parser.error_here("scopes nest too deep".into()));
                    }
                    self.parser.bump()?;
                    self.names.open();
                }
                Kind::Dot(name) => self.directive(name)?,
                Kind::Mark(b'@') => {
                    let line = self.parser.token.line;
                    self.parser.bump()?;
                    let negated = self.parser.take(b'!')?;
                    let at = self.parser.token.start;
                    let reg = self.register("a predicate after `@`")?;
                    if self.names.registers[reg.0 as usize].ty != Type::Pred {
                        return Err(self
                            .parser
                            .error(at, "a guard must be a register of type `.pred`".into()));
                    }
                    let opcode = self.parser.word("an instruction after its guard")?;
                    self.instruction(opcode, line, Some(Guard { reg, negated }))?;
                }
                Kind::Word(word) => {
                    let (at, line) = (self.parser.token.start, self.parser.token.line);
                    self.parser.bump()?;
                    if self.parser.take(b':')? {
                        self.label_here(word, at)?;
                    } else {
                        self.instruction(word, line, None)?;
                    }
                }
                Kind::End => return Err(self.parser.unexpected("`}` at the end of the function")),
                _ => {
                    return Err(self
                        .parser
                        .unexpected("an instruction, a directive, a label or `}`"));
                }
            }
        }
    }

    /// An instruction, its opcode being behind us.
    fn instruction(&mut self, opcode: &'a str, line: u32, guard: Option<Guard>) -> Result<()> {
        if !opcode.starts_with(|c: char| c.is_ascii_lowercase()) {
            let message = format!(
                "expected an instruction or a label with `:`, found {}",
                quoted(opcode)
            );
            return Err(self.parser.error(self.parser.previous, message));
        }
        let mut modifiers = Vec::new();
        while let Kind::Dot(modifier) = self.parser.token.kind {
            modifiers.push(self.parser.intern(modifier));
            self.parser.bump()?;
        }
        let opcode = self.parser.intern(opcode);
        self.is_call = &*opcode == "call";
        self.is_branch = &*opcode == "bra";
        let mentions = self.names.mentions.len();
        let mut operands = Vec::new();
        if self.parser.token.kind != Kind::Mark(b';') {
            loop {
                operands.push(self.operand(0)?);
                if !self.parser.take(b',')? {
                    break;
                }
            }
        }
        self.parser.expect(b';', "or `,` after an operand")?;
        if self.names.mentions.len() > mentions {
            self.mentioning.push(self.body.instructions.len());
        }
        self.body.instructions.push(Instruction {
            guard,
            opcode,
            modifiers,
            operands,
            loc: self.loc,
            line,
        });
        Ok(())
    }

    /// A directive in a body.
    fn directive(&mut self, name: &'a str) -> Result<()> {
        match name {
            "reg" => self.registers(),
            "local" => self.local_variables(Space::Local),
            "shared" => self.local_variables(Space::Shared),
            "param" => self.local_variables(Space::Param),
            "global" => self.static_variables(Space::Global),
            "const" => self.static_variables(Space::Const),
            "loc" => {
                self.loc = Some(self.parser.loc()?);
                Ok(())
            }
            "pragma" => self.parser.pragma(),
            "file" => self.parser.file(),
            "branchtargets" | "callprototype" | "calltargets" => {
                Err(self.parser.unexpected("a label before this directive"))
            }
            _ => Err(self.parser.unknown_directive(name)),
        }
    }

    fn registers(&mut self) -> Result<()> {
        self.parser.bump()?;
        let mut ty = None;
        while let Kind::Dot(name) = self.parser.token.kind {
            match Type::parse(name) {
                Some(found) if ty.is_none() => ty = Some(found),
                None if name == "align" => {
                    self.parser.bump()?;
                    self.parser.alignment()?;
                    continue;
                }
                None if matches!(name, "v2" | "v4" | "v8") => {
                    return Err(self
                        .parser
                        .error_here("vector registers are not supported".into()));
                }
                _ => return Err(self.parser.unexpected("the registers' type and names")),
            }
            self.parser.bump()?;
        }
        let Some(ty) = ty else {
            return Err(self.parser.unexpected("the registers' type"));
        };
        loop {
            let at = self.parser.token.start;
            let name = self.parser.name("a register's name")?;
            let declared = if self.parser.take(b'<')? {
                let count = self.parser.unsigned32("the count of registers")?;
                self.parser.expect(b'>', "after the count of registers")?;
                self.names.declare_range(name, count, ty)
            } else {
                self.names.declare_register(name, ty)
            };
            if declared.is_err() {
                return Err(self.twice(name, at));
            }
            if !self.parser.take(b',')? {
                return self.parser.expect(b';', "or `,` after a register");
            }
        }
    }

    /// An error about a name that its scope has already.
    fn twice(&self, name: &str, at: usize) -> super::ParseError {
        self.parser
            .error(at, format!("{} is declared twice in this scope", quoted(name)))
    }

    fn local_variables(&mut self, space: Space) -> Result<()> {
        self.parser.bump()?;
        let head = self.parser.head()?;
        loop {
            let at = self.parser.token.start;
            let name = self.parser.name("the variable's name")?;
            let interned = self.parser.intern(name);
            let variable = self.parser.variable(interned, space, Linkage::Internal, head)?;
            let id = VarId(self.variables.len() as u32);
            self.variables.push(variable);
            if self.names.declare(name, Local::Variable(id)).is_err() {
                return Err(self.twice(name, at));
            }
            if !self.parser.take(b',')? {
                return self.parser.expect(b';', "after the declaration");
            }
        }
    }

    /// `.global` and `.const` variables in a function live as long as the module, which has them under a name that
    /// no other can have.
    fn static_variables(&mut self, space: Space) -> Result<()> {
        self.parser.bump()?;
        let head = self.parser.head()?;
        loop {
            let at = self.parser.token.start;
            let name = self.parser.name("the variable's name")?;
            let index = self.parser.module.variables.len() as u32;
            let unique = format!("{}::{name}#{index}", self.function).into();
            let variable = self.parser.variable(unique, space, Linkage::Internal, head)?;
            self.parser.module.variables.push(variable);
            if self.names.declare(name, Local::Global(index)).is_err() {
                return Err(self.twice(name, at));
            }
            if !self.parser.take(b',')? {
                return self.parser.expect(b';', "after the declaration");
            }
        }
    }

    /// A label, its colon being behind us: of what comes next, or of a list for indirect branches and calls.
    fn label_here(&mut self, name: &'a str, at: usize) -> Result<()> {
        let local = match self.parser.token.kind {
            Kind::Dot(directive @ ("branchtargets" | "callprototype" | "calltargets")) => {
                self.parser.bump()?;
                let unique = self.unique_name(name);
                match directive {
                    "branchtargets" => self.branch_targets(unique.clone())?,
                    "callprototype" => self.call_prototype(unique.clone())?,
                    _ => self.call_targets(unique.clone())?,
                }
                self.named.push(unique);
                Local::Named(self.named.len() as u32 - 1)
            }
            _ => {
                let id = LabelId(self.body.labels.len() as u32);
                let interned = self.parser.intern(name);
                self.body.labels.push(Label {
                    name: interned,
                    target: self.body.instructions.len(),
                });
                Local::Label(id)
            }
        };
        self.names
            .declare(name, local)
            .map_err(|Duplicate| self.twice(name, at))
    }

    /// The name of a list: scopes may use one twice, the function's tables may not.
    fn unique_name(&mut self, name: &'a str) -> Arc<str> {
        if self.named_before.insert(name) {
            self.parser.intern(name)
        } else {
            format!("{name}#{}", self.named.len()).into()
        }
    }

    fn branch_targets(&mut self, name: Arc<str>) -> Result<()> {
        let mut targets = Vec::new();
        loop {
            let at = self.parser.token.start;
            let label = self.parser.word("a label")?;
            targets.push(LabelId(self.names.mention(label, at) as u32));
            if !self.parser.take(b',')? {
                break;
            }
        }
        self.body.branch_targets.push((name, targets));
        self.parser.expect(b';', "or `,` after a label")
    }

    /// `(.param .b32 _) _ (.param .b32 _, …)`
    fn call_prototype(&mut self, name: Arc<str>) -> Result<()> {
        let mut variables = Vec::new();
        let returns = self.parser.parameters(&mut variables)?;
        self.parser.word("`_` in place of the function's name")?;
        self.parser.parameters(&mut variables)?;
        let mut noreturn = false;
        while let Kind::Dot(directive) = self.parser.token.kind {
            match directive {
                "noreturn" => noreturn = true,
                "abi_preserve" | "abi_preserve_control" => {
                    self.parser.bump()?;
                    self.parser.unsigned32("the directive's number")?;
                    continue;
                }
                _ => return Err(self.parser.unknown_directive(directive)),
            }
            self.parser.bump()?;
        }
        let mut variables = variables.into_iter().map(|(parameter, _)| parameter.variable);
        let returns = variables.by_ref().take(returns).collect();
        self.body.prototypes.push(Prototype {
            name,
            returns,
            params: variables.collect(),
            noreturn,
        });
        self.parser.expect(b';', "after the prototype")
    }

    /// `f, g`: all have one signature, which is the first one's.
    fn call_targets(&mut self, name: Arc<str>) -> Result<()> {
        let mut prototype = None;
        loop {
            let at = self.parser.token.start;
            let function = self.parser.word("a function's name")?;
            let Some(&Symbol::Function(index)) = self.parser.symbols.get(function) else {
                return Err(self
                    .parser
                    .error(at, format!("no function {} is declared", quoted(function))));
            };
            if prototype.is_none() {
                let function = &self.parser.module.functions[index as usize];
                if function.returns.len() + function.params.len() > MOST_PARAMETERS {
                    let message =
                        format!("a function of more than {MOST_PARAMETERS} parameters in `.calltargets`");
                    return Err(self.parser.error(at, message));
                }
                // This function's own variables are here while its body is parsed.
                let own = function.name.as_ref() == self.function;
                let variables = if own { &self.variables } else { &function.variables };
                let pick = |ids: &[VarId]| ids.iter().map(|id| variables[id.0 as usize].clone()).collect();
                prototype = Some(Prototype {
                    name: name.clone(),
                    returns: pick(&function.returns),
                    params: pick(&function.params),
                    noreturn: function.noreturn,
                });
            }
            if !self.parser.take(b',')? {
                break;
            }
        }
        self.body.prototypes.extend(prototype);
        self.parser.expect(b';', "or `,` after a function")
    }

    /// Puts the labels in where they are mentioned.
    fn finish(mut self) -> Result<(Body, Vec<Variable>)> {
        for &Mention { name, at, local } in &self.names.mentions {
            if local.is_none() {
                return Err(self.unknown(name, at));
            }
        }
        for (_, targets) in &mut self.body.branch_targets {
            for target in targets {
                let Mention { name, at, local } = self.names.mentions[target.0 as usize];
                match local {
                    Some(Local::Label(label)) => *target = label,
                    _ => return Err(self.parser.error(at, format!("{} is no label", quoted(name)))),
                }
            }
        }
        for &instruction in &self.mentioning {
            for operand in &mut self.body.instructions[instruction].operands {
                resolve(operand, &self.names.mentions, &self.named);
            }
        }
        self.body.registers = self.names.registers;
        Ok((self.body, self.variables))
    }
}

/// Replaces the numbers of mentions by what they mention.
fn resolve(operand: &mut Operand, mentions: &[Mention], named: &[Arc<str>]) {
    match operand {
        Operand::Label(mention) => {
            *operand = match mentions[mention.0 as usize].local {
                Some(Local::Label(label)) => Operand::Label(label),
                Some(Local::Named(index)) => Operand::Named(named[index as usize].clone()),
                _ => return,
            }
        }
        Operand::Vector(operands) | Operand::List(operands) => {
            operands
                .iter_mut()
                .for_each(|operand| resolve(operand, mentions, named));
        }
        Operand::Address(address) => {
            address
                .more
                .iter_mut()
                .for_each(|operand| resolve(operand, mentions, named));
        }
        Operand::Pair(first, second) => {
            resolve(first, mentions, named);
            resolve(second, mentions, named);
        }
        _ => {}
    }
}
