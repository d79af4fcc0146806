//! The program that runs: kernels as arrays of instructions, made by the lowering and read by everything above it.
//!
//! * A [`Kernel`] holds the instructions of an entry and of every function that it can reach, with their operands'
//!   slots, the reconvergence points and the layout of shared memory and parameters.
//! * An [`Inst`] has one [`Op`]: a pure function over the lanes ([`Alu`]), or plain data that the executor interprets.
//! * [`regs`] says how registers lie in memory, [`windows`] how the state spaces lie in the generic address space.

mod hopper;
mod ops;
mod program;
pub mod regs;
pub mod windows;

pub use hopper::{Bulk, Multiply, WarpGroup};
pub use ops::{
    Access, Alu, Async, Atomic, AtomicOp, BarrierKind, Builtin, Call, FenceOrder, LaneMask, MatrixCopy, Op,
    Order, Place, RESERVED_SHARED, Redux, Scope, Shuffle, Special, Sync, Target, Vote,
};
pub use program::{Class, Code, Converge, Function, Inst, Kernel, MatrixWork, Param, Ref};
