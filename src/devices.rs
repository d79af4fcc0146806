//! What this build can compute on, here.

use crate::cpu::{Isa, Kernel, Number};
use crate::gpu::driver::{self, DeviceFacts};
use crate::kernels::kernels;

/// A device, or why there is none of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// As [`Device`](crate::Device) is written: `cpu`, `cuda:0`; `cuda` where there is none.
    pub kind: String,
    /// The device's own name.
    pub name: String,
    /// What of it is used, or why it is not.
    pub detail: String,
    /// Whether this build has kernels that run on it.
    pub usable: bool,
    /// What a CUDA device is.
    pub cuda: Option<CudaDevice>,
}

/// What a CUDA device is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CudaDevice {
    /// As `nvidia-smi -L` prints it: `GPU-`, or `MIG-` for a part of a GPU, and 32 hexadecimal digits in groups.
    /// `CUDA_VISIBLE_DEVICES` takes it.
    pub uuid: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Memory, in bytes.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// It is softcuda, which runs kernels on the CPU to check them: `auto` never takes it.
    pub simulated: bool,
}

/// The devices of this machine, as this build sees them: the CPU, then CUDA devices by their number.
pub fn devices() -> Vec<DeviceInfo> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let sets: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let cpu = DeviceInfo {
        kind: "cpu".into(),
        name: cpu_name().unwrap_or_else(|| env!("ROPEWAY_TARGET").to_owned()),
        detail: format!(
            "{cores} threads, kernels (best first) for f32: {}; for bf16: {}; for int8: {}",
            sets.join(", "),
            narrow_kernels(Number::Bf16),
            narrow_kernels(Number::Int8)
        ),
        usable: true,
        cuda: None,
    };
    let mut all = vec![cpu];
    match driver::devices() {
        Ok(found) => all.extend(found.iter().map(cuda)),
        Err(reason) => all.push(DeviceInfo {
            kind: "cuda".into(),
            name: "none".into(),
            detail: reason.to_string(),
            usable: false,
            cuda: None,
        }),
    }
    all
}

/// The CPU's kernels for such numbers, and whether it has fast instructions for them: what pays, short of measuring.
fn narrow_kernels(number: Number) -> String {
    let kernels = Kernel::available(number);
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.name).collect();
    let native = if kernels[0].native {
        "which has fast instructions for it"
    } else {
        "without fast instructions for it: less memory, not more speed"
    };
    format!("{}, {native}", names.join(", "))
}

/// Whether the loader finds a CUDA driver, usable or not. Where it does, an engine that [`Device::Auto`](crate::Device::Auto)
/// leaves on the CPU has a reason that its user may want to hear: [`Engine::fallback_reason`](crate::Engine::fallback_reason).
pub fn has_cuda_driver() -> bool {
    driver::found()
}

fn cuda(facts: &DeviceFacts) -> DeviceInfo {
    let (major, minor) = facts.capability;
    let version = driver::version();
    let kernels = match &version {
        Ok(version) => kernels().check(facts.capability, *version),
        Err(reason) => Err(reason.to_string()),
    };
    let mut detail = format!(
        "compute capability {major}.{minor}, {:.1} GiB, {} multiprocessors, {}",
        facts.memory as f64 / f64::from(1 << 30),
        facts.multiprocessors,
        facts.uuid_text()
    );
    if let Ok((major, minor)) = version {
        detail += &format!(", driver for CUDA {major}.{minor}");
    }
    if facts.simulated() {
        detail += "; a simulation on the CPU, which `auto` never takes";
    }
    match &kernels {
        Ok(()) => detail += "; this build has kernels for it",
        Err(problem) => detail += &format!("; not usable: {problem}"),
    }
    DeviceInfo {
        kind: format!("cuda:{}", facts.index),
        name: facts.name.clone(),
        detail,
        usable: kernels.is_ok(),
        cuda: Some(CudaDevice {
            uuid: facts.uuid_text(),
            capability: facts.capability,
            memory: facts.memory,
            multiprocessors: facts.multiprocessors,
            simulated: facts.simulated(),
        }),
    }
}

/// As Linux tells it.
fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
