//! A CUDA driver library that runs compiled kernels on the CPU, and checks them harder than a GPU does.

pub mod exec;
pub mod flow;
pub mod isa;
pub mod lower;
pub mod memory;
pub mod program;
pub mod ptx;
pub mod regs;
pub mod slots;
pub mod windows;
