//! Runs kernels: warps in lock step, blocks over the host's cores.

pub mod asynchronous;
pub mod matrix;
pub mod sync;
