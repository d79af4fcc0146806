//! The program that runs: kernels as arrays of instructions, made by the lowering and read by everything above it.

mod program;
pub mod regs;
pub mod windows;

pub use program::*;
