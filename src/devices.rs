//! What this build can compute on, here.

use crate::cpu::Isa;

/// A device, or why there is none of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As `--device` takes it.
    pub kind: &'static str,
    /// The device's own name.
    pub name: String,
    /// What of it is used, or why it is not.
    pub detail: String,
    /// Whether an engine can be opened on it.
    pub usable: bool,
}

/// The devices of this machine, as this build sees them.
pub fn devices() -> Vec<DeviceInfo> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let sets: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let cpu = DeviceInfo {
        kind: "cpu",
        name: cpu_name().unwrap_or_else(|| env!("ROPEWAY_TARGET").to_owned()),
        detail: format!("{cores} threads, kernels for {} (best first)", sets.join(", ")),
        usable: true,
    };
    let cuda = DeviceInfo {
        kind: "cuda",
        name: "none".into(),
        detail: match crate::kernels().compiler {
            Ok(_) => "this version does not run its GPU kernels yet".into(),
            Err(reason) => format!("no GPU kernels: {reason}"),
        },
        usable: false,
    };
    vec![cpu, cuda]
}

/// As Linux tells it.
fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
