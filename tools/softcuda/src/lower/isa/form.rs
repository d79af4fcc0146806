//! An instruction's modifiers: a family consumes those that it knows, and any that is left is refused.

use crate::lower::builder::Refused;
use crate::ptx::ast::{Instruction, Operand, Type};

/// What is left of an instruction's modifiers.
pub struct Form<'a> {
    instruction: &'a Instruction,
    rest: Vec<&'a str>,
}

impl<'a> Form<'a> {
    pub fn new(instruction: &'a Instruction) -> Self {
        Self {
            instruction,
            rest: instruction.modifiers.iter().map(|m| &**m).collect(),
        }
    }

    /// Whether the modifier is there; it is taken.
    pub fn take(&mut self, modifier: &str) -> bool {
        match self.rest.iter().position(|m| *m == modifier) {
            Some(at) => {
                self.rest.remove(at);
                true
            }
            None => false,
        }
    }

    /// The first modifier that is one of these; it is taken.
    pub fn take_any<'b>(&mut self, modifiers: &[&'b str]) -> Option<&'b str> {
        let at = self.rest.iter().position(|m| modifiers.contains(m))?;
        let taken = self.rest.remove(at);
        modifiers.iter().copied().find(|m| *m == taken)
    }

    /// The first type; it is taken.
    pub fn ty(&mut self) -> Result<Type, Refused> {
        let at = self.rest.iter().position(|m| Type::parse(m).is_some());
        match at {
            Some(at) => Ok(Type::parse(self.rest.remove(at)).expect("found above")),
            None => Err(Refused::unsupported(self.instruction, "a type is missing")),
        }
    }

    /// Every modifier is known and there are `N` operands: here they are.
    pub fn operands<const N: usize>(&self) -> Result<&'a [Operand; N], Refused> {
        if let Some(modifier) = self.rest.first() {
            return Err(self.refuse(&format!("the modifier .{modifier} is not supported here")));
        }
        let operands = &self.instruction.operands;
        operands
            .as_slice()
            .try_into()
            .map_err(|_| self.refuse(&format!("{N} operands expected, not {}", operands.len())))
    }

    /// The instruction does not exist for this type.
    pub fn wrong_type(&self, ty: Type) -> Refused {
        self.refuse(&format!("not an instruction for .{ty:?}"))
    }

    pub fn refuse(&self, what: &str) -> Refused {
        Refused::unsupported(self.instruction, what)
    }
}

/// Evaluates `$body` with `$T` standing for the Rust type that belongs to the PTX type; `None` for one that is
/// not in the list.
///
/// ```ignore
/// by_type!(ty, T in { U16 = u16, S16 = i16 }, alu!(|a: T, b: T| -> T { a.min(b) }))
/// ```
macro_rules! by_type {
    ($ty:expr, $T:ident in { $($($variant:ident)|+ = $rust:ty),+ $(,)? }, $body:expr) => {
        match $ty {
            $($($crate::ptx::ast::Type::$variant)|+ => {
                type $T = $rust;
                Some($body)
            })+
            _ => None,
        }
    };
}

pub(crate) use by_type;
