//! The engine on a GPU, through its public interface: text or ids in, vectors out.
//!
//! What does not depend on the device runs on one of softcuda's alone ([`device::Gpu::is_first`]).
//!
//! | | |
//! |---|---|
//! | `golden` | the vectors of reference implementations: tasks, sizes, poolings, chunks, encodings, families |
//! | `steps` | every step against the CPU's float32, and which step a planted difference is found at |
//! | `invariance` | a result depends on its own input alone, bit for bit |
//! | `adapters` | adapters that come and go, and broken ones |
//! | `calls` | the driver's calls in steady state |
//! | `faults` | each of the driver's calls fails once |
//! | `schedules` | other orders of blocks and warps |
//! | `sm90` | the kernels for compute capability 9.0 give the same bits |
//! | `cli` | the command line |
//! | `serve` | the server, whose device is lost |
//! | `device`, `child` | the device under test; child processes, for what softcuda is told by the environment |

mod adapters;
mod calls;
mod child;
mod cli;
pub mod device;
mod faults;
mod golden;
mod invariance;
mod schedules;
mod serve;
mod sm90;
mod steps;
