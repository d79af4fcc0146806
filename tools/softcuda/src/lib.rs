//! A CUDA driver library that runs compiled kernels on the CPU, and checks them harder than a GPU does.

pub mod counters;
pub mod driver;
pub mod ir;
pub mod lower;
pub mod machine;
pub mod memory;
pub mod ptx;
pub mod run;
