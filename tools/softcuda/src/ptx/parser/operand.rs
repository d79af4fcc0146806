//! Operands of instructions.

use super::super::ast::{Address, Base, LabelId, Operand, RegId};
use super::super::lexer::Kind;
use super::body::BodyParser;
use super::constant::Value;
use super::scope::Local;
use super::{DEEPEST, Result, Symbol, quoted};

/// Special registers, without percent sign and component.
const SPECIAL: &[&str] = &[
    "aggr_smem_size",
    "clock",
    "clock64",
    "clock_hi",
    "cluster_ctaid",
    "cluster_ctarank",
    "cluster_nctaid",
    "cluster_nctarank",
    "clusterid",
    "ctaid",
    "current_graph_exec",
    "dynamic_smem_size",
    "globaltimer",
    "globaltimer_hi",
    "globaltimer_lo",
    "gridid",
    "is_explicit_cluster",
    "laneid",
    "lanemask_eq",
    "lanemask_ge",
    "lanemask_gt",
    "lanemask_le",
    "lanemask_lt",
    "nclusterid",
    "nctaid",
    "nsmid",
    "ntid",
    "nwarpid",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_cap",
    "reserved_smem_offset_end",
    "smid",
    "tid",
    "total_smem_size",
    "warpid",
];

/// Special registers that are vectors.
const VECTORS: &[&str] = &[
    "tid",
    "ntid",
    "ctaid",
    "nctaid",
    "clusterid",
    "nclusterid",
    "cluster_ctaid",
    "cluster_nctaid",
];

/// Families of special registers with a number: `%envreg0` to `%envreg31`.
const NUMBERED: &[(&str, u32)] = &[("envreg", 32), ("pm", 8), ("reserved_smem_offset_", 2)];

fn is_special(name: &str) -> bool {
    SPECIAL.binary_search(&name).is_ok()
        || NUMBERED.iter().any(|&(prefix, count)| {
            let number = name
                .strip_prefix(prefix)
                .map(|number| number.strip_suffix("_64").unwrap_or(number));
            number
                .and_then(|number| number.parse::<u32>().ok())
                .is_some_and(|number| number < count)
        })
}

impl<'a> BodyParser<'_, 'a> {
    /// An operand of an instruction.
    pub(super) fn operand(&mut self, depth: usize) -> Result<Operand> {
        let first = self.single_operand(depth)?;
        if !self.parser.take(b'|')? {
            return Ok(first);
        }
        let second = self.single_operand(depth)?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    /// Operands up to a closing mark, which is consumed.
    fn operands_until(&mut self, close: u8, depth: usize) -> Result<Vec<Operand>> {
        if depth > DEEPEST {
            return Err(self.parser.error_here("these operands nest too deep".into()));
        }
        let mut operands = Vec::new();
        if self.parser.take(close)? {
            return Ok(operands);
        }
        loop {
            operands.push(self.operand(depth + 1)?);
            if !self.parser.take(b',')? {
                self.parser.expect(close, "or `,` after an operand")?;
                return Ok(operands);
            }
        }
    }

    fn single_operand(&mut self, depth: usize) -> Result<Operand> {
        match self.parser.token.kind {
            Kind::Word("_") => {
                self.parser.bump()?;
                Ok(Operand::Sink)
            }
            Kind::Word(name) => self.named_operand(name),
            Kind::Mark(b'[') => {
                self.parser.bump()?;
                Ok(Operand::Address(self.address(depth)?))
            }
            Kind::Mark(b'{') => {
                self.parser.bump()?;
                let elements = self.operands_until(b'}', depth)?;
                if elements.is_empty() {
                    return Err(self
                        .parser
                        .error(self.parser.previous, "a vector without elements".into()));
                }
                Ok(Operand::Vector(elements))
            }
            Kind::Mark(b'(') if self.is_call => {
                self.parser.bump()?;
                Ok(Operand::List(self.operands_until(b')', depth)?))
            }
            Kind::Mark(b'!') => match self.parser.peek()? {
                Kind::Word(name) if name != "WARP_SZ" => {
                    self.parser.bump()?;
                    Ok(Operand::NotReg(self.register("a predicate after `!`")?))
                }
                _ => self.constant_operand(),
            },
            Kind::Number(_) | Kind::Dot(_) | Kind::Mark(b'+' | b'-' | b'~' | b'(') => self.constant_operand(),
            _ => Err(self.parser.unexpected("an operand")),
        }
    }

    fn constant_operand(&mut self) -> Result<Operand> {
        Ok(match self.parser.constant()? {
            Value::Int { bits, .. } => Operand::Int(bits as i64),
            Value::F32(bits) => Operand::F32(bits),
            Value::F64(value) => Operand::F64(value.to_bits()),
        })
    }

    /// A register that must be next.
    pub(super) fn register(&mut self, expected: &str) -> Result<RegId> {
        let at = self.parser.token.start;
        let name = self.parser.word(expected)?;
        match self.names.find(name) {
            Some(Local::Register(register)) => Ok(register),
            Some(_) => Err(self.parser.error(at, format!("{} is no register", quoted(name)))),
            None => Err(self.unknown(name, at)),
        }
    }

    /// An operand that begins with a name.
    fn named_operand(&mut self, name: &'a str) -> Result<Operand> {
        let at = self.parser.token.start;
        if let Some(local) = self.names.find(name) {
            self.parser.bump()?;
            return match local {
                Local::Register(register) => {
                    self.no_component(name)?;
                    Ok(Operand::Reg(register))
                }
                Local::Variable(variable) => Ok(Operand::Variable(variable, self.offset()?)),
                Local::Global(global) => Ok(Operand::Global(global, self.offset()?)),
                Local::Label(_) | Local::Named(_) => Ok(self.label(name, at)),
            };
        }
        if name == "WARP_SZ" {
            let value = self.constant_operand()?;
            let alone = self.parser.previous == at;
            return Ok(if alone {
                Operand::Special(self.parser.intern(name))
            } else {
                value
            });
        }
        self.parser.bump()?;
        // A branch goes to a label of the function, even if something outside has the same name.
        let symbol = if self.is_branch {
            None
        } else {
            self.parser.symbols.get(name).copied()
        };
        match symbol {
            Some(Symbol::Variable(global)) => Ok(Operand::Global(global, self.offset()?)),
            Some(Symbol::Function(function)) => Ok(Operand::Function(function)),
            None if name.starts_with('%') => self.special(name, at),
            None => Ok(self.label(name, at)),
        }
    }

    /// A label: its number is that of the mention until the function ends.
    pub(super) fn label(&mut self, name: &'a str, at: usize) -> Operand {
        Operand::Label(LabelId(self.names.mention(name, at) as u32))
    }

    /// `%tid.x`, the name being behind us.
    fn special(&mut self, name: &'a str, at: usize) -> Result<Operand> {
        let family = &name[1..];
        if !is_special(family) {
            return Err(self.unknown(name, at));
        }
        let Kind::Dot(component) = self.parser.token.kind else {
            return Ok(Operand::Special(self.parser.intern(family)));
        };
        if !VECTORS.contains(&family) || !matches!(component, "x" | "y" | "z" | "w") {
            return Err(self
                .parser
                .unexpected(&format!("`,` or `;` after {}", quoted(name))));
        }
        self.parser.bump()?;
        // Nearly always written without a blank, so that a part of the text is the name.
        Ok(Operand::Special(
            match self.parser.lexer.between(at + 1, self.parser.previous + 2) {
                text if text.len() == family.len() + 2 => self.parser.intern(text),
                _ => format!("{family}.{component}").into(),
            },
        ))
    }

    /// Refuses `.x` and `.b0` behind a register.
    fn no_component(&self, name: &str) -> Result<()> {
        let Kind::Dot(component) = self.parser.token.kind else {
            return Ok(());
        };
        let what = match component {
            "x" | "y" | "z" | "w" | "r" | "g" | "b" | "a" => "elements of vector registers",
            _ => "selectors of bytes and halves (video instructions)",
        };
        Err(self.parser.error_here(format!(
            "{what} are not supported: {}",
            quoted(&format!("{name}.{component}"))
        )))
    }

    /// An error about a name that nothing has.
    pub(super) fn unknown(&self, name: &'a str, at: usize) -> super::ParseError {
        let message = match self.names.range_beside(name) {
            Some((prefix, count)) => {
                let range = quoted(&format!("{prefix}<{count}>"));
                format!("{} is not declared: {range} ends before it", quoted(name))
            }
            None if name.starts_with('%') => {
                format!(
                    "{} is no register declared here, nor a special register",
                    quoted(name)
                )
            }
            None => format!(
                "no register, variable, function or label {} is declared here",
                quoted(name)
            ),
        };
        self.parser.error(at, message)
    }

    /// `+8` behind a variable, if there.
    fn offset(&mut self) -> Result<i64> {
        let mut offset = 0i64;
        while self.parser.take(b'+')? {
            offset = offset.wrapping_add(self.parser.integer_term()?);
        }
        if self.parser.token.kind == Kind::Mark(b'[') {
            let message = "indices of arrays (`x[2]`) are not supported: expected an offset in bytes (`x+8`)";
            return Err(self.parser.error_here(message.into()));
        }
        Ok(offset)
    }

    /// What stands in brackets, the opening one being behind us.
    fn address(&mut self, depth: usize) -> Result<Address> {
        if depth > DEEPEST {
            return Err(self.parser.error_here("these operands nest too deep".into()));
        }
        let at = self.parser.token.start;
        let (base, offset) = match self.parser.token.kind {
            Kind::Word(name) if name != "WARP_SZ" => {
                self.parser.bump()?;
                let base = match (self.names.find(name), self.parser.symbols.get(name)) {
                    (Some(Local::Register(register)), _) => {
                        self.no_component(name)?;
                        Base::Reg(register)
                    }
                    (Some(Local::Variable(variable)), _) => Base::Variable(variable),
                    (Some(Local::Global(global)), _) => Base::Global(global),
                    (None, Some(&Symbol::Variable(global))) => Base::Global(global),
                    (None, None) if !(name.starts_with('%') && is_special(&name[1..])) => {
                        return Err(self.unknown(name, at));
                    }
                    _ => {
                        let message =
                            format!("{} is no address: expected a register or variable", quoted(name));
                        return Err(self.parser.error(at, message));
                    }
                };
                (base, self.offset()?)
            }
            _ => (Base::Absolute, self.parser.integer()?),
        };
        if self.parser.token.kind == Kind::Mark(b'-') {
            return Err(self.parser.unexpected("`]` (a negative offset is written `+-8`)"));
        }
        let more = if self.parser.take(b',')? {
            self.operands_until(b']', depth)?
        } else {
            self.parser.expect(b']', "after the address")?;
            Vec::new()
        };
        Ok(Address { base, offset, more })
    }
}
