//! A CUDA driver library that runs compiled kernels on the CPU, and checks them harder than a GPU does.

pub mod check;
pub mod counters;
pub mod driver;
pub mod exec;
pub mod fatbin;
pub mod fault;
pub mod flow;
pub mod isa;
pub mod lower;
pub mod machine;
pub mod memory;
pub mod profile;
pub mod program;
pub mod ptx;
pub mod regs;
pub mod slots;
pub mod windows;
