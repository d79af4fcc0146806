//! A device: its memory, modules and launches, as Rust values. The driver API is a thin layer over it, and tests use it
//! directly.

mod launch;
mod module;

use std::collections::HashMap;

pub use launch::{Done, Invalid, Launch, LaunchError, check, launch};
pub use module::{LoadError, Module};

use crate::memory::DeviceMemory;
use crate::run::profile::Profile;
pub use crate::run::settings::Settings;

/// One device.
pub struct Device {
    pub profile: &'static Profile,
    pub memory: DeviceMemory,
    pub settings: Settings,
    /// Launches so far.
    pub launches: u64,
    /// What `printf` wrote, until the caller takes it.
    pub output: Vec<u8>,
    /// Where grids of cooperative launches keep their barrier.
    workspace: Option<u64>,
    /// Memory's numbers of launches by stream, for programmatic dependent launch: those that may not have ended when the
    /// next one begins, if that one may begin early. The last is at the end.
    unfinished: HashMap<u64, Vec<u64>>,
}

impl Device {
    pub fn new(profile: &'static Profile, settings: Settings) -> Self {
        Self {
            profile,
            memory: DeviceMemory::new(profile.memory),
            settings,
            launches: 0,
            output: Vec::new(),
            workspace: None,
            unfinished: HashMap::new(),
        }
    }

    /// Notes work in a stream that is not a launch: the next launch depends on all of it.
    pub fn order_stream(&mut self, stream: u64) {
        self.unfinished.remove(&stream);
    }
}
