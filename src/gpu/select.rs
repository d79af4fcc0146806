//! The device that a user means.

use super::driver::{self, Context, DeviceFacts};
use super::failure::in_step;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::kernels::kernels;

/// The index of the device that is meant, if this build has kernels for it; else the reason. [`Device::Auto`] means the
/// first device that is a GPU.
pub fn find(device: Device) -> Result<usize, String> {
    kernels()
        .compiler
        .map_err(|reason| format!("this build has no GPU kernels: {reason}"))?;
    let devices = driver::devices().map_err(|reason| reason.to_string())?;
    let version = driver::version().map_err(|reason| reason.to_string())?;
    choose(device, &devices, |facts| {
        kernels().check(facts.capability, version)
    })
}

/// Opens the device with this index.
///
/// # Errors
/// [`Error::Device`] if CUDA cannot be used or there is no such device, [`Error::Gpu`] if it cannot be opened.
pub fn open(index: usize) -> Result<Context> {
    let facts = driver::devices().map_err(|reason| Error::Device(reason.to_string()))?;
    let facts = facts.into_iter().nth(index);
    let facts = facts.ok_or_else(|| Error::Device(format!("there is no cuda:{index}")))?;
    Ok(Context::open(facts).map_err(in_step(format!("opening cuda:{index}")))?)
}

fn choose(
    device: Device,
    devices: &[DeviceFacts],
    check: impl Fn(&DeviceFacts) -> Result<(), String>,
) -> Result<usize, String> {
    let meant = |facts: &&DeviceFacts| match device {
        Device::Auto => !facts.simulated() && check(facts).is_ok(),
        Device::Cpu => false,
        Device::Cuda(index) => facts.index == index,
    };
    let why = match (device, devices.iter().find(meant)) {
        (Device::Auto, Some(first)) => return Ok(first.index),
        (_, Some(found)) => match check(found) {
            Ok(()) => return Ok(found.index),
            Err(problem) => return Err(format!("cuda:{} ({}): {problem}", found.index, found.name)),
        },
        (Device::Auto, None) => "finds no GPU that it can use",
        (_, None) => "is no CUDA device here",
    };
    // What `auto` leaves out, it gives a reason for.
    let problem = |facts: &DeviceFacts| match check(facts) {
        _ if device != Device::Auto => String::new(),
        Err(problem) => format!(": {problem}"),
        Ok(()) => ": a simulation on the CPU".into(),
    };
    let list = devices.iter().map(|facts| {
        let (index, name, uuid) = (facts.index, &facts.name, facts.uuid_text());
        format!("cuda:{index} ({name}, {uuid}){}", problem(facts))
    });
    Err(format!(
        "`{device}` {why}; there are: {}",
        list.collect::<Vec<_>>().join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing;

    #[test]
    fn a_device_is_chosen_by_number() {
        let facts = |index: usize, name: &str, capability| DeviceFacts {
            index,
            name: name.into(),
            uuid: [index as u8 + 0x10; 16],
            capability,
            multiprocessors: 1,
            memory: 1,
            shared_per_block: 1,
            shared_per_multiprocessor: 1,
            l2: 1,
        };
        let mut all = vec![
            facts(0, "softcuda sm_90", (9, 0)),
            facts(1, "an old one", (7, 5)),
            facts(2, "a good one", (9, 0)),
            facts(3, "another", (8, 0)),
        ];
        let check = |facts: &DeviceFacts| match facts.capability {
            (7, _) => Err("too old".to_owned()),
            _ => Ok(()),
        };
        let choose = |name: &str, all: &[DeviceFacts]| super::choose(name.parse().unwrap(), all, check);
        assert_eq!(choose("auto", &all), Ok(2));
        assert_eq!(choose("cuda", &all), Ok(0));
        assert_eq!(choose("cuda:3", &all), Ok(3));
        assert_eq!(
            choose("cuda:1", &all).unwrap_err(),
            "cuda:1 (an old one): too old"
        );
        let problem = choose("cuda:4", &all).unwrap_err();
        assert!(
            problem.starts_with(
                "`cuda:4` is no CUDA device here; there are: cuda:0 (softcuda sm_90, GPU-10101010-1010-1010-1010-1010"
            ),
            "{problem}"
        );
        for name in ["cuda:4", "cuda:5", "cpu"] {
            let problem = choose(name, &all).unwrap_err();
            assert!(
                problem.starts_with(&format!("`{name}` is no CUDA device here; there are: ")),
                "{problem}"
            );
        }
        all[3].name = "another MIG 1g.5gb".into();
        assert!(all[3].uuid_text().starts_with("MIG-13131313-") && all[2].uuid_text().starts_with("GPU-"));
        all.truncate(2);
        let problem = choose("auto", &all).unwrap_err();
        assert_eq!(
            problem,
            "`auto` finds no GPU that it can use; there are: cuda:0 (softcuda sm_90, \
             GPU-10101010-1010-1010-1010-101010101010): a simulation on the CPU; cuda:1 (an old one, \
             GPU-11111111-1111-1111-1111-111111111111): too old"
        );
    }

    #[test]
    fn a_device_is_found_and_opened_by_its_number_alone() {
        let Some(context) = testing::context() else { return };
        let all = driver::devices().unwrap();
        assert_eq!(&all[0], context.facts());
        assert_eq!(find(Device::Cuda(0)), Ok(0));
        assert!(find(Device::Cuda(all.len())).is_err());
        if all.iter().all(DeviceFacts::simulated) {
            assert!(find(Device::Auto).is_err());
        }
        let beyond = open(all.len()).unwrap_err().to_string();
        assert_eq!(beyond, format!("device: there is no cuda:{}", all.len()));
    }
}
