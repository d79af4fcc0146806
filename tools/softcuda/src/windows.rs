//! Generic addresses of memory that is not global: each space has a window.

/// Shared memory. Block r of a cluster is at `SHARED_WINDOW + (r << 24)`.
pub const SHARED_WINDOW: u64 = 0x1_0000_0000_0000;
/// Local memory.
pub const LOCAL_WINDOW: u64 = 0x2_0000_0000_0000;
/// Kernel parameters.
pub const PARAM_WINDOW: u64 = 0x3_0000_0000_0000;
/// Bytes of each window.
pub const WINDOW_BYTES: u64 = 0x1_0000_0000_0000;
