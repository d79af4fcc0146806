//! Device memory and what is known of it: allocations, initialised bytes, the last accesses to each word.
//!
//! * [`DeviceMemory`] allocates, and explains a bad address: out of bounds, freed, never allocated.
//! * [`Shadow`] accompanies every allocation and every block's shared memory: a bit per byte (initialised) and the
//!   last write and read of every 4-byte word.
//! * [`BlockClocks`] holds vector clocks: which accesses of other threads happened before what a thread does next.
//!   Barriers, fences, releases and acquires advance them. An access to a word is a race if another thread's access
//!   to it did not happen before.
//! * [`TensorMap`] is what tensor copies know of a tensor, as the driver encodes it.
//!
//! No pair of accesses that the PTX memory model orders is reported. Where exact clocks would cost too much, they claim
//! more order than there is, so a race may be missed (each such place says so).
//!
//! `clocks`, `shadow` and `launch` name each other: they are one algorithm, happens-before race detection, in three
//! files. Clocks per block, stamps per word, epochs per launch.

mod arena;
mod clocks;
mod device;
mod launch;
mod region;
mod shadow;
mod tensor_map;

pub use clocks::{BlockClocks, Published, Var, Who};
pub use device::{AccessError, Allocation, BadFree, DeviceMemory, Kind, OutOfMemory, Pattern};
pub use launch::Launch;
pub use shadow::{Domain, Hazard, How, Race, RaceKind, Shadow, Thread, Touch};
pub use tensor_map::{Fill, Swizzle, TENSOR_MAP_BYTES, TensorMap};
