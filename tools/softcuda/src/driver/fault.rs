//! Faults on demand: `SOFTCUDA_FAULTS` makes driver calls fail, so that a program's error paths can be tested.
//!
//! Entries are separated by `;`:
//!
//! | entry | effect |
//! |---|---|
//! | `cuMemAlloc_v2:3=CUDA_ERROR_OUT_OF_MEMORY` | the third call of the function fails and does nothing |
//! | `cuMemAlloc:*=…` | every call; a name without `_v2` means every version of the function |
//! | `any:17=CUDA_ERROR_UNKNOWN` | the 17th driver call |
//! | `sticky:cuLaunchKernel:2=CUDA_ERROR_ILLEGAL_ADDRESS` | that call, and every later one in its context |
//! | `memory=512MiB` | the device has no more memory than that |
//! | `allocation=64MiB` | a single allocation larger than that is out of memory |
//! | `slow-copies`, `slow-copies=100MB` | copies take the device their time: 1 GB, or that many bytes, per second |
//! | `slow-launches=20ms` | every launch of a kernel or a graph takes the device that long |
//! | `slow-page-locking`, `slow-page-locking=100MB` | `cuMemHostAlloc` locks 1 GB, or that many bytes, per second |
//! | `context-memory=400MiB` | every context takes that much of the device's memory |
//! | `driver=12.4` | the driver says that it is for CUDA 12.4 |
//!
//! Functions that only describe errors or look functions up are never made to fail and do not count for `any`.

use std::time::Duration;

use super::result::CUresult;

/// Which calls.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    Any,
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct CallFault {
    which: Which,
    /// From 1; `None`: every one.
    nth: Option<u64>,
    error: CUresult,
    sticky: bool,
    /// Calls that matched so far.
    seen: u64,
}

/// What `SOFTCUDA_FAULTS` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    calls: Vec<CallFault>,
    /// Bytes of memory that the device has at most.
    pub memory: Option<u64>,
    /// Bytes of the largest allocation that succeeds.
    pub allocation: Option<u64>,
    /// Bytes per second that copies run at.
    slow_copies: Option<u64>,
    /// What a launch takes the device.
    pub slow_launches: Option<Duration>,
    /// Bytes per second that memory of the host is page-locked at.
    slow_page_locking: Option<u64>,
    /// Bytes that a context takes of the device's memory.
    pub context_memory: u64,
    /// What `cuDriverGetVersion` says.
    pub driver: Option<i32>,
}

/// A call that is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    pub error: CUresult,
    pub sticky: bool,
}

const SYNTAX: &str = "understood are `FUNCTION:N=ERROR`, `any:N=ERROR` (N from 1, or * for every call; ERROR such as \
    CUDA_ERROR_OUT_OF_MEMORY), `sticky:FUNCTION:N=ERROR`, `memory=SIZE`, `allocation=SIZE`, `slow-copies`, \
    `slow-copies=BYTES_PER_SECOND`, `slow-launches=TIME` (such as 20ms), `slow-page-locking`, \
    `slow-page-locking=BYTES_PER_SECOND`, `context-memory=SIZE` (SIZE such as 512MiB) and `driver=MAJOR.MINOR`, separated by \
    `;`";

/// Descriptions and look-ups: part of handling a failure, so never a failure themselves.
fn exempt(function: &str) -> bool {
    function.starts_with("cuGetError") || function.starts_with("cuGetProcAddress")
}

/// The name without its version and stream suffix.
pub fn base_name(function: &str) -> &str {
    let name = function
        .strip_suffix("_ptsz")
        .or_else(|| function.strip_suffix("_ptds"))
        .unwrap_or(function);
    match name.rsplit_once("_v") {
        Some((base, version)) if version.parse::<u8>().is_ok() => base,
        _ => name,
    }
}

fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// `20ms`, `500us`, `2s`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u32 = text[..digits].parse().ok().filter(|&number| number > 0)?;
    let unit = match text[digits..].trim() {
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => return None,
    };
    unit.checked_mul(number)
}

/// `12.4` as `cuDriverGetVersion` says it.
fn version(text: &str) -> Option<i32> {
    let (major, minor) = text.split_once('.')?;
    let (major, minor): (i32, i32) = (major.parse().ok()?, minor.parse().ok()?);
    ((1..100).contains(&major) && (0..100).contains(&minor)).then_some(1000 * major + 10 * minor)
}

fn at_rate(bytes: u64, per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second as f64)
}

impl Faults {
    /// Reads the variable's value. `known` tells the driver's functions.
    pub fn parse(text: &str, known: impl Fn(&str) -> bool) -> Result<Self, String> {
        let mut faults = Self::default();
        for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = |what: &str| format!("SOFTCUDA_FAULTS: `{entry}`: {what}; {SYNTAX}");
            let (left, right) = match entry.split_once('=') {
                Some((left, right)) => (left.trim(), Some(right.trim())),
                None => (entry, None),
            };
            let bytes = || {
                right
                    .and_then(size)
                    .filter(|&bytes| bytes > 0)
                    .ok_or_else(|| wrong("not a size"))
            };
            let rate = || match right {
                Some(_) => bytes(),
                None => Ok(1_000_000_000),
            };
            match left {
                "memory" => faults.memory = Some(bytes()?),
                "allocation" => faults.allocation = Some(bytes()?),
                "slow-copies" => faults.slow_copies = Some(rate()?),
                "slow-page-locking" => faults.slow_page_locking = Some(rate()?),
                "slow-launches" => {
                    let time = right.and_then(duration);
                    faults.slow_launches = Some(time.ok_or_else(|| wrong("not a time"))?);
                }
                "context-memory" => faults.context_memory = bytes()?,
                "driver" => {
                    let version = right.and_then(version);
                    faults.driver = Some(version.ok_or_else(|| wrong("not a version of CUDA"))?);
                }
                _ => {
                    let (sticky, call) = match left.strip_prefix("sticky:") {
                        Some(call) => (true, call),
                        None => (false, left),
                    };
                    let (name, nth) = call.split_once(':').ok_or_else(|| wrong("which call?"))?;
                    let nth = match nth.trim() {
                        "*" => None,
                        nth => Some(
                            nth.parse()
                                .ok()
                                .filter(|&n: &u64| n > 0)
                                .ok_or_else(|| wrong("the call's number is counted from 1"))?,
                        ),
                    };
                    let error = right
                        .and_then(CUresult::from_name)
                        .filter(|&error| error != CUresult::SUCCESS)
                        .ok_or_else(|| wrong("not the name of an error"))?;
                    let which = match name.trim() {
                        "any" => Which::Any,
                        name if exempt(name) => return Err(wrong("this function does not fail")),
                        name if known(name) => Which::Named(name.to_owned()),
                        _ => return Err(wrong("not a function of the driver API")),
                    };
                    faults.calls.push(CallFault {
                        which,
                        nth,
                        error,
                        sticky,
                        seen: 0,
                    });
                }
            }
        }
        Ok(faults)
    }

    /// Counts a call; what it is to fail with, if it is.
    pub fn on_call(&mut self, function: &str) -> Option<Injected> {
        if self.calls.is_empty() || exempt(function) {
            return None;
        }
        let mut injected = None;
        for fault in &mut self.calls {
            let matches = match &fault.which {
                Which::Any => true,
                Which::Named(name) => name == function || name == base_name(function),
            };
            if !matches {
                continue;
            }
            fault.seen += 1;
            if fault.nth.is_none_or(|nth| nth == fault.seen) && injected.is_none() {
                injected = Some(Injected {
                    error: fault.error,
                    sticky: fault.sticky,
                });
            }
        }
        injected
    }

    /// What a copy of this many bytes takes the device.
    pub fn copy_delay(&self, bytes: u64) -> Option<Duration> {
        Some(at_rate(bytes, self.slow_copies?))
    }

    /// What it takes to page-lock this many bytes.
    pub fn page_locking_delay(&self, bytes: u64) -> Option<Duration> {
        Some(at_rate(bytes, self.slow_page_locking?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Faults, String> {
        Faults::parse(text, |name| {
            ["cuMemAlloc_v2", "cuMemAlloc", "cuLaunchKernel"].contains(&name)
        })
    }

    #[test]
    fn the_nth_call_fails_once() {
        let mut faults = parse("cuMemAlloc_v2:2=CUDA_ERROR_OUT_OF_MEMORY").unwrap();
        assert_eq!(faults.on_call("cuMemAlloc_v2"), None);
        assert_eq!(faults.on_call("cuLaunchKernel"), None);
        let injected = faults.on_call("cuMemAlloc_v2").unwrap();
        assert_eq!((injected.error.0, injected.sticky), (2, false));
        assert_eq!(faults.on_call("cuMemAlloc_v2"), None);
    }

    #[test]
    fn a_name_without_version_means_all_versions() {
        let mut faults =
            parse("cuMemAlloc:*=OUT_OF_MEMORY; sticky:cuLaunchKernel:1=ILLEGAL_ADDRESS").unwrap();
        assert!(faults.on_call("cuMemAlloc_v2").is_some());
        assert!(faults.on_call("cuMemAlloc_v2").is_some());
        assert!(faults.on_call("cuLaunchKernel_ptsz").unwrap().sticky);
    }

    #[test]
    fn any_counts_all_but_descriptions() {
        let mut faults = parse("any:3=CUDA_ERROR_UNKNOWN").unwrap();
        assert_eq!(faults.on_call("cuInit"), None);
        assert_eq!(faults.on_call("cuGetErrorName"), None);
        assert_eq!(faults.on_call("cuDeviceGet"), None);
        assert_eq!(faults.on_call("cuDeviceGet").unwrap().error.0, 999);
    }

    #[test]
    fn sizes_and_rates() {
        let faults = parse("memory=512MiB; allocation = 1000 ; slow-copies=2MB").unwrap();
        assert_eq!(faults.memory, Some(536_870_912));
        assert_eq!(faults.allocation, Some(1000));
        assert_eq!(faults.copy_delay(1_000_000), Some(Duration::from_millis(500)));
        assert_eq!(parse("").unwrap().copy_delay(1), None);
        assert_eq!(parse("driver=12.4").unwrap().driver, Some(12040));
        let faults = parse("slow-launches=20ms;slow-page-locking;context-memory=2MiB").unwrap();
        assert_eq!(faults.slow_launches, Some(Duration::from_millis(20)));
        assert_eq!(
            faults.page_locking_delay(500_000_000),
            Some(Duration::from_millis(500))
        );
        assert_eq!(faults.context_memory, 2 << 20);
    }

    #[test]
    fn a_wrong_entry_says_what_is_understood() {
        for text in [
            "cuMemAlloc_v2=CUDA_ERROR_UNKNOWN",
            "cuMemAlloc_v2:0=CUDA_ERROR_UNKNOWN",
            "cuMemAlloc_v2:1",
            "cuMemAlloc_v2:1=CUDA_SUCCESS",
            "cuMemAlloc_v2:1=CUDA_ERROR_NONSENSE",
            "cuNothing:1=CUDA_ERROR_UNKNOWN",
            "cuGetErrorName:1=CUDA_ERROR_UNKNOWN",
            "memory=lots",
            "memory=99999999999GiB",
            "driver=12",
            "slow-launches",
            "slow-launches=20",
            "slow",
        ] {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(text) && error.contains("sticky:FUNCTION:N=ERROR"),
                "{text}: {error}"
            );
        }
    }
}
