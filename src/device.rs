//! Where an engine computes, as a user chooses it.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseError;

/// Where an engine computes. Written `auto`, `cpu`, `cuda` (for `cuda:0`) and `cuda:N`.
///
/// CUDA devices are numbered as the driver shows them: `CUDA_VISIBLE_DEVICES` orders and selects them, by number or by
/// UUID (`CUDA_VISIBLE_DEVICES=GPU-8f3e…` leaves that one, as `cuda:0`). [`devices`](crate::devices) lists them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// A GPU where there is one that this build has kernels for, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this index, from 0.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Device, ParseError> {
        let number = |s: &str| s.strip_prefix("cuda:")?.parse().ok();
        match s {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => number(s).map(Device::Cuda).ok_or_else(|| {
                ParseError::new(
                    s,
                    "auto, cpu, cuda, cuda:N (CUDA_VISIBLE_DEVICES selects by UUID)",
                )
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written_back() {
        for name in ["auto", "cpu", "cuda:0", "cuda:7"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for name in [
            "",
            "gpu",
            "cuda:",
            "cuda:-1",
            "cuda:GPU-",
            "cuda:GPU-0123abcd",
            "cuda:0123abcd",
            "cuda:gpu-0",
        ] {
            let problem = name.parse::<Device>().unwrap_err();
            assert_eq!(problem.word(), name);
            assert!(
                problem
                    .to_string()
                    .contains(&format!("`{name}` is not one of auto, cpu")),
                "{problem}"
            );
        }
    }
}
