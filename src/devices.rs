//! What this build can compute on, here.

use std::fmt;
use std::str::FromStr;

use crate::cpu::Isa;
use crate::gpu::driver::{self, DeviceFacts};
use crate::kernels::kernels;

/// A device, or why there is none of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As `--device` takes it: `cpu`, `cuda:0`; `cuda` where there is none.
    pub kind: String,
    /// The device's own name.
    pub name: String,
    /// What of it is used, or why it is not.
    pub detail: String,
    /// Whether this build has kernels that run on it.
    pub usable: bool,
    /// What a CUDA device is.
    pub cuda: Option<CudaInfo>,
}

/// What a CUDA device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaInfo {
    /// What tells it from every other.
    pub uuid: Uuid,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// It is softcuda, which runs kernels on the CPU to check them: `auto` never takes it.
    pub simulated: bool,
}

/// The devices of this machine, as this build sees them.
pub fn devices() -> Vec<DeviceInfo> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let sets: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    let cpu = DeviceInfo {
        kind: "cpu".into(),
        name: cpu_name().unwrap_or_else(|| env!("ROPEWAY_TARGET").to_owned()),
        detail: format!("{cores} threads, kernels for {} (best first)", sets.join(", ")),
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

fn cuda(facts: &DeviceFacts) -> DeviceInfo {
    let (major, minor) = facts.capability;
    let kernels = kernels().check(facts.capability);
    let mut detail = format!(
        "compute capability {major}.{minor}, {:.1} GiB, {} multiprocessors, {}",
        facts.memory as f64 / f64::from(1 << 30),
        facts.multiprocessors,
        Uuid(facts.uuid)
    );
    if let Ok(version) = driver::version() {
        detail += &format!(", driver for CUDA {version}");
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
        cuda: Some(CudaInfo {
            uuid: Uuid(facts.uuid),
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
    fn from_str(s: &str) -> Result<UuidPrefix, String> {
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
    use crate::Device;

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
