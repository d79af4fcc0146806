//! The context in which one instruction is lowered: [`Builder`] resolves operands and makes temporaries and
//! [`Constants`]. [`Refused`] is the error of the whole lowering.

use std::collections::HashMap;
use std::fmt;

use crate::ir::regs::{LANES, Slot, Width};
use crate::ir::{Class, Code, Op, Ref, Special};
use crate::ptx::ast::{self, Guard, Instruction, Operand, Type};

/// Why a module or kernel cannot be loaded: said with the instruction and its line, never skipped over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub message: String,
    /// Line of the PTX text, from 1; 0 until the lowering fills it in.
    pub line: u32,
}

impl Refused {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: 0,
        }
    }

    /// `what` of this instruction is not supported.
    pub fn unsupported(instruction: &Instruction, what: &str) -> Self {
        Self {
            message: format!("`{}`: {what}", instruction.name()),
            line: instruction.line,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Refused {}

/// Constants of a kernel, one slot for each value and width.
#[derive(Default)]
pub struct Constants {
    index: HashMap<(u128, Width), u32>,
    list: Vec<(u128, Width, u32)>,
    bytes: u32,
}

impl Constants {
    pub fn get(&mut self, value: u128, width: Width) -> Ref {
        let next = self.list.len() as u32;
        let index = *self.index.entry((value, width)).or_insert(next);
        if index == next {
            // Predicates are four bytes; keep what follows aligned.
            let size = (width.bytes() as u32).next_multiple_of(64);
            self.list.push((value, width, self.bytes));
            self.bytes += size;
        }
        Ref::Const(index)
    }

    pub fn slot(&self, index: u32) -> Slot {
        Slot(Slot::CONST | self.list[index as usize].2)
    }

    /// The bytes, every lane filled.
    pub fn lay_out(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; self.bytes as usize];
        for &(value, width, at) in &self.list {
            let at = at as usize;
            let value = value.to_le_bytes();
            let size = match width {
                Width::Pred => 4,
                other => other.bytes() / 32,
            };
            for piece in bytes[at..at + width.bytes()].chunks_exact_mut(size) {
                piece.copy_from_slice(&value[..size]);
            }
        }
        bytes
    }
}

/// A virtual register.
#[derive(Debug, Clone, Copy)]
pub struct Virtual {
    pub width: Width,
    pub ty: Type,
}

/// Where addresses of variables come from while a kernel is lowered.
pub trait Addresses {
    /// Address of a module-scope variable in its own space's window (a shared variable's offset in the block's
    /// shared memory, a global's device address).
    fn module_variable(&self, index: u32) -> Result<u64, Refused>;
    /// The same for a variable of the function at hand.
    fn variable(&self, id: ast::VarId) -> Result<u64, Refused>;
    /// The address that stands for a function.
    fn function(&self, index: u32) -> Result<u64, Refused>;
    /// Whether a variable lies in the frame of local memory, so that its address is relative to it.
    fn is_local(&self, id: ast::VarId) -> bool;
}

/// What a family sees while it lowers one instruction.
pub struct Builder<'a> {
    pub registers: &'a [ast::Register],
    pub addresses: &'a dyn Addresses,
    pub virtuals: &'a mut Vec<Virtual>,
    pub constants: &'a mut Constants,
    /// Parameter areas of the register window by variable: (offset, bytes per thread).
    pub areas: &'a HashMap<u32, (u32, u32)>,
    pub module: &'a ast::Module,
    /// The function's carry flag, once an instruction has used it.
    pub carry: &'a mut Option<Ref>,
    /// Instructions to put before the one at hand.
    pub before: Vec<(Code, Option<Guard>)>,
    /// Instructions to put behind it, under the same guard.
    pub after: Vec<Code>,
}

impl Builder<'_> {
    /// Declared type of a register operand.
    pub fn register_type(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Reg(id) | Operand::NotReg(id) => Some(self.registers[id.0 as usize].ty),
            _ => None,
        }
    }

    /// A new register that no operand names.
    pub fn temporary(&mut self, ty: Type) -> Ref {
        self.virtuals.push(Virtual {
            width: Width::of(ty),
            ty,
        });
        Ref::Reg(self.virtuals.len() as u32 - 1)
    }

    /// The carry flag (`CC.CF`) as a predicate: one for the function, which no operand names.
    pub fn carry(&mut self) -> Ref {
        let flag = match *self.carry {
            Some(flag) => flag,
            None => self.temporary(Type::Pred),
        };
        *self.carry = Some(flag);
        flag
    }

    /// A constant with this value in every lane.
    pub fn constant(&mut self, value: u128, width: Width) -> Ref {
        self.constants.get(value, width)
    }

    /// A source of type `ty`: a register of the same width, a literal (rounded to `ty`), an address, a special
    /// register. A predicate may be negated.
    pub fn src(&mut self, operand: &Operand, ty: Type) -> Result<Ref, Refused> {
        let width = Width::of(ty);
        match operand {
            Operand::Reg(id) => {
                let declared = self.registers[id.0 as usize].ty;
                if Width::of(declared) != width || (declared.size() != ty.size() && ty != Type::Pred) {
                    return Err(Refused::new(format!(
                        "register {} is .{declared:?}, which does not fit .{ty:?}",
                        self.registers[id.0 as usize].name
                    )));
                }
                Ok(Ref::Reg(id.0))
            }
            Operand::NotReg(id) => {
                if ty != Type::Pred {
                    return Err(Refused::new("only a predicate can be negated with `!`"));
                }
                let not = self.temporary(Type::Pred);
                let code = Code::alu(
                    |regs, ops, mask| regs.set_pred(ops[0], !regs.pred(ops[1]), mask),
                    Class::Logic,
                    vec![not],
                    vec![Ref::Reg(id.0)],
                );
                self.before.push((code, None));
                Ok(not)
            }
            Operand::Special(name) if &**name == "WARP_SZ" => Ok(self.constants.get(LANES as u128, width)),
            Operand::Special(name) => {
                let special = Special::named(name)
                    .ok_or_else(|| Refused::new(format!("special register %{name} is not supported")))?;
                let value = self.temporary(ty);
                let code = Code::new(Op::Special(special), Class::Move, vec![value], vec![]);
                self.before.push((code, None));
                Ok(value)
            }
            Operand::Variable(id, offset) if self.addresses.is_local(*id) => {
                let offset = self.addresses.variable(*id)?.wrapping_add_signed(*offset);
                self.local_address(offset, ty)
            }
            other => {
                let value = self.literal(other, ty)?;
                Ok(self.constants.get(value, width))
            }
        }
    }

    /// An address in the current frame of local memory.
    pub fn local_address(&mut self, offset: u64, ty: Type) -> Result<Ref, Refused> {
        let value = self.temporary(ty);
        let code = Code::new(
            Op::Special(Special::LocalFrame {
                offset: offset as u32,
                wide: Width::of(ty) == Width::W64,
            }),
            Class::Move,
            vec![value],
            vec![],
        );
        self.before.push((code, None));
        Ok(value)
    }

    /// The bits of a literal or an address as a value of type `ty`.
    pub fn literal(&self, operand: &Operand, ty: Type) -> Result<u128, Refused> {
        let size = ty.size();
        let cut = |value: u64| -> u128 {
            match size {
                1 => u128::from(value as u8),
                2 => u128::from(value as u16),
                4 => u128::from(value as u32),
                _ => u128::from(value),
            }
        };
        Ok(match operand {
            Operand::Int(value) if ty == Type::Pred => {
                if *value != 0 {
                    u128::from(u32::MAX)
                } else {
                    0
                }
            }
            Operand::Int(value) => match ty {
                // An integer literal where a float is wanted is not in the language, but compilers write 0.
                Type::F32 if *value != 0 => u128::from((*value as f32).to_bits()),
                Type::F64 if *value != 0 => u128::from((*value as f64).to_bits()),
                Type::B128 => *value as i128 as u128,
                _ => cut(*value as u64),
            },
            Operand::F32(bits) => match ty {
                Type::F64 => u128::from(f64::from(f32::from_bits(*bits)).to_bits()),
                Type::F16 => u128::from(half::f16::from_f32(f32::from_bits(*bits)).to_bits()),
                Type::BF16 => u128::from(half::bf16::from_f32(f32::from_bits(*bits)).to_bits()),
                _ => u128::from(*bits),
            },
            Operand::F64(bits) => match ty {
                Type::F32 | Type::TF32 => u128::from((f64::from_bits(*bits) as f32).to_bits()),
                Type::F16 => u128::from(half::f16::from_f64(f64::from_bits(*bits)).to_bits()),
                Type::BF16 => u128::from(half::bf16::from_f64(f64::from_bits(*bits)).to_bits()),
                _ => u128::from(*bits),
            },
            Operand::Variable(id, offset) => cut(self.addresses.variable(*id)?.wrapping_add_signed(*offset)),
            Operand::Global(index, offset) => cut(self
                .addresses
                .module_variable(*index)?
                .wrapping_add_signed(*offset)),
            Operand::Function(index) => cut(self.addresses.function(*index)?),
            other => return Err(Refused::new(format!("{other:?} is not a value"))),
        })
    }

    /// A destination of type `ty`; `_` gives a register that nobody reads.
    pub fn dst(&mut self, operand: &Operand, ty: Type) -> Result<Ref, Refused> {
        match operand {
            Operand::Reg(id) => {
                let declared = self.registers[id.0 as usize].ty;
                if Width::of(declared) != Width::of(ty) || (declared.size() != ty.size() && ty != Type::Pred)
                {
                    return Err(Refused::new(format!(
                        "register {} is .{declared:?}, which does not fit .{ty:?}",
                        self.registers[id.0 as usize].name
                    )));
                }
                Ok(Ref::Reg(id.0))
            }
            Operand::Sink => Ok(self.temporary(ty)),
            other => Err(Refused::new(format!("{other:?} cannot be written"))),
        }
    }

    /// A register operand of whatever width, with that width: for instructions that allow wider registers than
    /// their type (`ld`, `st`, `cvt`).
    pub fn any_dst(&mut self, operand: &Operand, ty: Type) -> Result<(Ref, Width), Refused> {
        match operand {
            Operand::Reg(id) => Ok((Ref::Reg(id.0), Width::of(self.registers[id.0 as usize].ty))),
            Operand::Sink => Ok((self.temporary(ty), Width::of(ty))),
            other => Err(Refused::new(format!("{other:?} cannot be written"))),
        }
    }

    /// As [`Builder::any_dst`] for a source; a literal has the width of `ty`.
    pub fn any_src(&mut self, operand: &Operand, ty: Type) -> Result<(Ref, Width), Refused> {
        match operand {
            Operand::Reg(id) => Ok((Ref::Reg(id.0), Width::of(self.registers[id.0 as usize].ty))),
            other => Ok((self.src(other, ty)?, Width::of(ty))),
        }
    }
}
