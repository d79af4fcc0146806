//! A CUDA driver library that runs compiled kernels on the CPU, and checks them harder than a GPU does.

pub mod ptx;
