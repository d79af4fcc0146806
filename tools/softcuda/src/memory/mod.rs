//! Memory and what is known of it: allocations, which bytes were ever written, who touched them last.
//!
//! * [`DeviceMemory`] hands out addresses and answers for them: out of bounds, freed, never allocated.
//! * [`Shadow`] lies beside every allocation and beside a block's shared memory: a bit per byte (initialised) and
//!   the last write and read of every 4-byte word.
//! * [`BlockClocks`] says what each thread of a block knows of the others' accesses: barriers, fences, releases
//!   and acquires raise that knowledge. An access to a word that another thread touched without this thread
//!   knowing of it is a race.
//!
//! Nothing reported is ordered by the PTX memory model; where exact knowledge would cost too much, threads are
//! taken to know more than they do, so a race may be missed (each place says so).

mod arena;
mod clocks;
mod device;
mod launch;
mod region;
mod shadow;

pub use clocks::{BlockClocks, Published, Var, Who};
pub use device::{AccessError, Allocation, BadFree, DeviceMemory, Kind, OutOfMemory, Pattern};
pub use launch::Launch;
pub use shadow::{Domain, Hazard, How, Race, RaceKind, Shadow, Thread, Touch};
