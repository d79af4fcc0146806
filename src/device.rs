//! Where an engine computes, as a user chooses it.

use std::fmt;
use std::str::FromStr;

use crate::devices::UuidPrefix;
use crate::error::{Error, Result};

/// Where an engine computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// A GPU where there is one that this build has kernels for, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
    /// The CUDA device whose UUID begins so.
    CudaUuid(UuidPrefix),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(s: &str) -> Result<Device> {
        match s {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|which| match which.parse() {
                    Ok(index) => Some(Device::Cuda(index)),
                    Err(_) => which.parse().ok().map(Device::CudaUuid),
                })
                .ok_or_else(|| {
                    Error::Device(format!(
                        "`{s}` is not one of auto, cpu, cuda, cuda:N, cuda:GPU-UUID"
                    ))
                }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
            Device::CudaUuid(prefix) => write!(f, "cuda:{prefix}"),
        }
    }
}
