//! Where an engine computes and in which precision: decided before a model is opened, and again where a GPU fails then.

use crate::cpu::Cpu;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::gpu;
use crate::precision::{Half, Precision};

/// Where an engine computes, as it was decided.
pub enum Placement {
    /// On the CUDA device of this index.
    Gpu { index: usize, precision: Half },
    /// On the CPU.
    Cpu(OnCpu),
}

/// The CPU, in a precision that it has.
pub struct OnCpu {
    pub precision: Precision,
    /// Why no GPU was taken, where one might have been.
    pub fallback: Option<String>,
}

impl Placement {
    /// What the settings ask for; `None` is a device's own default.
    ///
    /// # Errors
    /// [`Error::Device`] for a GPU that is not there or cannot be used, and for a precision that the device has not.
    pub fn choose(device: Device, precision: Option<Precision>) -> Result<Placement> {
        let cpu = |fallback| OnCpu::new(precision, fallback).map(Placement::Cpu);
        if let Device::Cpu = device {
            return cpu(None);
        }
        let gpu = gpu_precision(precision).and_then(|precision| {
            let index = gpu::select::find(device)?;
            Ok(Placement::Gpu { index, precision })
        });
        match (gpu, device) {
            (Err(reason), Device::Auto) => cpu(Some(no_gpu(&reason))),
            (gpu, _) => gpu.map_err(Error::Device),
        }
    }
}

impl OnCpu {
    /// # Errors
    /// [`Error::Device`] for a precision that the CPU has not; with the reason why it is the CPU, where that was not chosen.
    pub fn new(precision: Option<Precision>, fallback: Option<String>) -> Result<OnCpu> {
        let [default, ..] = Cpu::PRECISIONS;
        let precision = precision.unwrap_or(default);
        if Cpu::PRECISIONS.contains(&precision) {
            return Ok(OnCpu { precision, fallback });
        }
        let names = Cpu::PRECISIONS.map(|precision| precision.to_string());
        let [first @ .., last] = &names;
        let names = format!("{} or {last}", first.join(", "));
        let why = fallback.map_or(String::new(), |reason| format!(" ({reason})"));
        Err(Error::Device(format!(
            "the CPU computes in {names}, not in {precision}{why}"
        )))
    }

    /// Instead of a GPU that failed while an engine was opened on it.
    ///
    /// # Errors
    /// The GPU's, for everyone who chose it and not [`Device::Auto`]; as [`OnCpu::new`].
    pub fn after(error: Error, device: Device, precision: Option<Precision>) -> Result<OnCpu> {
        match (error, device) {
            (error @ (Error::Gpu { .. } | Error::DeviceLost(_)), Device::Auto) => {
                OnCpu::new(precision, Some(no_gpu(&error.to_string())))
            }
            (error, _) => Err(error),
        }
    }
}

/// The type that a GPU computes with, or why it cannot.
fn gpu_precision(precision: Option<Precision>) -> Result<Half, String> {
    let precision = precision.unwrap_or(Precision::Bf16);
    precision
        .half()
        .ok_or_else(|| format!("GPUs compute in bf16 or f16, not in {precision}, which the CPU does"))
}

/// Why [`Device::Auto`] computes on the CPU.
pub fn no_gpu(reason: &str) -> String {
    format!("no GPU is used: {reason}")
}
