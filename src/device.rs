//! Where an engine computes, as a user chooses it.

use std::fmt;
use std::str::FromStr;

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

/// What tells a GPU from every other. Written as `nvidia-smi -L` does: `GPU-` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

/// How a [`Uuid`] begins: `GPU-` and at least one digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UuidPrefix {
    /// Zeros after the digits.
    uuid: Uuid,
    digits: u8,
}

impl Uuid {
    /// The first digits, in groups.
    fn write(self, f: &mut fmt::Formatter<'_>, digits: usize) -> fmt::Result {
        f.write_str("GPU-")?;
        for at in 0..digits {
            if [8, 12, 16, 20].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{:x}", self.digit(at))?;
        }
        Ok(())
    }

    fn digit(self, at: usize) -> u8 {
        (self.0[at / 2] >> shift(at)) & 0xf
    }
}

/// Where in its byte a digit is; the first is the high one.
fn shift(at: usize) -> usize {
    4 * (1 - at % 2)
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 32)
    }
}

impl UuidPrefix {
    /// Whether the UUID begins so.
    pub fn matches(self, uuid: Uuid) -> bool {
        (0..usize::from(self.digits)).all(|at| self.uuid.digit(at) == uuid.digit(at))
    }
}

impl FromStr for UuidPrefix {
    type Err = String;

    /// Dashes after `GPU-` do not matter, nor does the digits' case.
    fn from_str(s: &str) -> std::result::Result<UuidPrefix, String> {
        let problem = || format!("`{s}` is not how a GPU's UUID begins: GPU- and 1 to 32 hexadecimal digits");
        let digits = s.strip_prefix("GPU-").ok_or_else(problem)?.chars();
        let digits: Option<Vec<u32>> = digits.filter(|c| *c != '-').map(|c| c.to_digit(16)).collect();
        let digits = digits.filter(|digits| (1..=32).contains(&digits.len()));
        let digits = digits.ok_or_else(problem)?;
        let mut uuid = Uuid([0; 16]);
        for (at, digit) in digits.iter().enumerate() {
            uuid.0[at / 2] |= (*digit as u8) << shift(at);
        }
        Ok(UuidPrefix {
            uuid,
            digits: digits.len() as u8,
        })
    }
}

impl fmt::Display for UuidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.write(f, self.digits.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "GPU-0123abcd-4567-89ef-fedc-ba9876543210";
    const UUID: Uuid = Uuid([
        0x01, 0x23, 0xab, 0xcd, 0x45, 0x67, 0x89, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10,
    ]);

    #[test]
    fn a_uuid_is_written_as_nvidia_smi_writes_it() {
        assert_eq!(UUID.to_string(), WHOLE);
    }

    #[test]
    fn every_beginning_of_a_uuid_is_one_and_is_written_back() {
        for end in "GPU-0".len()..=WHOLE.len() {
            let prefix: UuidPrefix = WHOLE[..end].parse().unwrap();
            assert!(prefix.matches(UUID));
            assert_eq!(prefix.to_string(), WHOLE[..end].trim_end_matches('-'));
            // All other digits than the last.
            let mut other = WHOLE[..end].trim_end_matches('-').to_owned();
            let last = other.pop().unwrap().to_digit(16).unwrap();
            for digit in (0..16).filter(|digit| *digit != last) {
                let other = format!("{other}{digit:x}");
                assert!(!other.parse::<UuidPrefix>().unwrap().matches(UUID), "{other}");
            }
        }
        let loose: UuidPrefix = "GPU-0123ABCD4567".parse().unwrap();
        assert!(loose.matches(UUID));
        assert_eq!(loose.to_string(), "GPU-0123abcd-4567");
    }

    #[test]
    fn devices_are_read_and_written_back() {
        for name in [
            "auto",
            "cpu",
            "cuda:0",
            "cuda:7",
            "cuda:GPU-0123abcd",
            &format!("cuda:{WHOLE}"),
        ] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        let long = format!("cuda:{WHOLE}0");
        for name in [
            "",
            "gpu",
            "cuda:",
            "cuda:-1",
            "cuda:GPU-",
            "cuda:GPU-x",
            "cuda:0123abcd",
            "cuda:gpu-0",
            &long,
        ] {
            let problem = name.parse::<Device>().unwrap_err().to_string();
            assert!(
                problem.contains(&format!("`{name}` is not one of auto, cpu")),
                "{problem}"
            );
        }
    }
}
