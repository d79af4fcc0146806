//! What this build can compute on, here.

use std::fmt;
use std::str::FromStr;

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

/// What tells a GPU from every other, `GPU-` and 32 hexadecimal digits: as `nvidia-smi -L` prints it.
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
    fn write(&self, f: &mut fmt::Formatter<'_>, digits: usize) -> fmt::Result {
        f.write_str("GPU-")?;
        for at in 0..digits {
            if [8, 12, 16, 20].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{:x}", self.digit(at))?;
        }
        Ok(())
    }

    fn digit(&self, at: usize) -> u8 {
        self.0[at / 2] >> (4 * (1 - at % 2)) & 0xf
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 32)
    }
}

impl UuidPrefix {
    /// Whether the UUID begins so.
    pub fn matches(&self, uuid: Uuid) -> bool {
        (0..usize::from(self.digits)).all(|at| self.uuid.digit(at) == uuid.digit(at))
    }
}

impl FromStr for UuidPrefix {
    type Err = String;

    /// Dashes between digits do not matter, nor does case.
    fn from_str(s: &str) -> Result<UuidPrefix, String> {
        let problem = || format!("`{s}` is not how a GPU's UUID begins: GPU- and 1 to 32 hexadecimal digits");
        let mut uuid = Uuid([0; 16]);
        let mut digits = 0;
        for digit in s
            .strip_prefix("GPU-")
            .ok_or_else(problem)?
            .chars()
            .filter(|c| *c != '-')
        {
            let digit = digit.to_digit(16).ok_or_else(problem)?;
            let byte = uuid.0.get_mut(digits / 2).ok_or_else(problem)?;
            *byte |= (digit as u8) << (4 * (1 - digits % 2));
            digits += 1;
        }
        let digits = digits as u8;
        if digits == 0 {
            Err(problem())
        } else {
            Ok(UuidPrefix { uuid, digits })
        }
    }
}

impl fmt::Display for UuidPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.write(f, self.digits.into())
    }
}
