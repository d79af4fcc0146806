//! From the syntax tree to a [`Kernel`](crate::ir::Kernel).
//!
//! The families of [`isa`] lower the instructions one by one. Then `flow` finds where divergent branches reconverge,
//! and `slots` lets registers that are never live together share a slot.
//!
//! Layers, bottom to top, by the same rule as those of [the crate](crate):
//!
//! | layer | what it does |
//! |---|---|
//! | `flow` | finds the immediate post-dominators of basic blocks |
//! | `slots` | assigns register slots |
//! | `builder` | resolves one instruction's operands, makes temporaries and constants; defines the error [`Refused`] |
//! | `isa` | lowers the instructions, by family |
//! | `control` | lowers branches, calls and ends |
//! | `kernel` | lowers an entry with every function that it can reach |

pub mod builder;
mod control;
mod flow;
pub mod isa;
mod kernel;
mod slots;

pub use builder::{Addresses, Builder, Constants, Refused, Virtual};
pub use control::COVERED;
pub use kernel::{FUNCTIONS, Placed, kernel, no_better_aligned};
