//! From the syntax tree to a [`Kernel`](crate::ir::Kernel).

mod flow;
pub mod isa;
mod kernel;
mod slots;

pub use kernel::*;
