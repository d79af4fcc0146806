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

/// Which kernels a GPU runs, as a user chooses it. Written `auto`, `sm80` and `sm90`.
///
/// Those of compute capability 9.0 use what other GPUs do not have (wgmma, TMA). An engine that is opened with them first
/// compares them with the kernels for all GPUs, which they are to agree with bit for bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelChoice {
    /// What is best for the GPU, of what has been measured on one: so far the kernels for all GPUs.
    #[default]
    Auto,
    /// The kernels for all GPUs from compute capability 8.0 on.
    Sm80,
    /// The kernels for compute capability 9.0 where there are such, beside those for all GPUs.
    Sm90,
}

/// Whether [`KernelChoice::Auto`] takes the kernels for compute capability 9.0: once a report from such a GPU says that
/// they are right and faster as they are. `benches/results` has one of their first version, which was.
const SM90_BY_DEFAULT: bool = false;

impl KernelChoice {
    /// Whether a device of this compute capability runs the kernels for 9.0.
    ///
    /// # Errors
    /// A message, if they are asked for and the device is another.
    pub(crate) fn sm90(self, capability: (u32, u32)) -> Result<bool, String> {
        let fits = capability == (9, 0);
        match self {
            KernelChoice::Auto => Ok(SM90_BY_DEFAULT && fits),
            KernelChoice::Sm80 => Ok(false),
            KernelChoice::Sm90 if fits => Ok(true),
            KernelChoice::Sm90 => Err(format!(
                "the kernels sm90 are for compute capability 9.0, and the device has {}.{}: choose auto or sm80",
                capability.0, capability.1
            )),
        }
    }
}

impl FromStr for KernelChoice {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<KernelChoice, ParseError> {
        match s {
            "auto" => Ok(KernelChoice::Auto),
            "sm80" => Ok(KernelChoice::Sm80),
            "sm90" => Ok(KernelChoice::Sm90),
            _ => Err(ParseError::new(s, "auto, sm80, sm90")),
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KernelChoice::Auto => "auto",
            KernelChoice::Sm80 => "sm80",
            KernelChoice::Sm90 => "sm90",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_compute_capability() {
        for name in ["auto", "sm80", "sm90"] {
            assert_eq!(name.parse::<KernelChoice>().unwrap().to_string(), name);
        }
        assert!("sm_90".parse::<KernelChoice>().is_err());
        let sm90 =
            |choice: KernelChoice| [(8, 0), (9, 0), (10, 0)].map(|capability| choice.sm90(capability).ok());
        assert_eq!(sm90(KernelChoice::Sm80), [Some(false); 3]);
        assert_eq!(sm90(KernelChoice::Sm90), [None, Some(true), None]);
        assert_eq!(
            sm90(KernelChoice::Auto),
            [Some(false), Some(SM90_BY_DEFAULT), Some(false)]
        );
        let problem = KernelChoice::Sm90.sm90((8, 9)).unwrap_err();
        assert!(
            problem.ends_with("the device has 8.9: choose auto or sm80"),
            "{problem}"
        );
    }

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
