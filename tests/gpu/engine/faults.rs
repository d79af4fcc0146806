//! The driver's calls fail, one at a time: a typed error that names the call, no panic, nothing leaked, and an
//! engine that goes on, or says for good that its device is lost.

use super::child::{Ended, Job, Kind, Outcome};
use super::device::{Gpu, jina, tiny};
use crate::exhaustive;

/// Whether this call gives something back, or leads to one that does: nobody can be told that it failed, and
/// nothing depends on it.
fn gives_back(calls: &[String], index: usize) -> bool {
    let is_any = |call: &String, words: &[&str]| words.iter().any(|&word| call.contains(word));
    let leads = |call: &&String| is_any(call, &["PushCurrent", "PopCurrent", "StreamSynchronize"]);
    let next = calls[index..].iter().find(|call| !leads(call));
    is_any(&calls[index], &["PopCurrent"])
        || next.is_none_or(|call| is_any(call, &["Free", "Destroy", "Unload", "Release"]))
}

/// All calls of a run without faults that can be made to fail, in order.
fn calls_in_order(ended: &Ended) -> Vec<String> {
    let call = |line: &str| -> Option<String> {
        let (_, rest) = line.strip_prefix("softcuda: call ")?.split_once(' ')?;
        Some(rest.split_once('(')?.0.to_owned())
    };
    let fails = |call: &String| !call.starts_with("cuGetError") && !call.starts_with("cuGetProcAddress");
    ended.log.lines().filter_map(call).filter(fails).collect()
}

/// Which of the calls are tried: of every function the first and one in the middle, or all. Of those around every
/// other call, which make the context current and the one before again, every eighth will do.
fn tried(calls: &[String]) -> Vec<usize> {
    let kept = |&index: &usize| {
        let same: Vec<usize> = (0..calls.len()).filter(|&i| calls[i] == calls[index]).collect();
        let all = exhaustive() && (index.is_multiple_of(8) || !calls[index].contains("Current"));
        all || [same[0], same[same.len() / 2]].contains(&index)
    };
    (0..calls.len()).filter(kept).collect()
}

/// Whether the message is of this call: its step before it, the driver's word behind.
fn names(message: &str, call: &str, error: &str) -> bool {
    let name = call.trim_end_matches("_v2");
    message.find(name).is_some_and(|at| at > 2) && message.contains(error)
}

#[test]
fn each_call_fails_once() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let job = Job::four_batches(tiny());
    let whole = job.run(&[("SOFTCUDA_LOG", "calls")]);
    let calls = calls_in_order(&whole);
    let mut problems = Vec::new();
    let mut failed = 0;
    for index in tried(&calls) {
        let call = &calls[index];
        const ERROR: &str = "CUDA_ERROR_OUT_OF_MEMORY";
        let ended = job.run(&[("SOFTCUDA_FAULTS", &format!("any:{}={ERROR}", index + 1))]);
        let mut problem = |what: &str| {
            let outcomes = &ended.outcomes;
            problems.push(format!("call {} {call}: {what}: {outcomes:#?}", index + 1));
        };
        let errors: Vec<(Kind, &str)> = ended.outcomes.iter().filter_map(Outcome::error).collect();
        match errors[..] {
            [] if gives_back(&calls, index) => {}
            [] => problem("nobody noticed"),
            [(Kind::Gpu | Kind::Device, message)] => {
                failed += 1;
                if !names(message, call, ERROR) {
                    problem("the message names another call");
                }
            }
            _ => problem("more than one error, or one of another kind"),
        }
        // What did not fail has the right bits, and all of it was tried if the engine was opened.
        let right = |(got, want): (&Outcome, &Outcome)| got == want || got.error().is_some();
        if !ended.outcomes.iter().zip(&whole.outcomes).all(right) {
            problem("other bits");
        }
        let opened = ended.outcomes[0].error().is_none();
        if opened && ended.outcomes.len() != whole.outcomes.len() {
            problem("a batch is missing");
        }
        if ended.leaked_allocations > 0 && !gives_back(&calls, index) {
            problem(&format!("{} allocations leaked", ended.leaked_allocations));
        }
    }
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
    assert!(failed > 20, "{failed} calls failed, of {}", calls.len());
}

/// After an error that the context does not survive, every later call says so.
#[test]
fn a_lost_device_is_told_of_for_good() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let job = Job::four_batches(tiny());
    const ERROR: &str = "CUDA_ERROR_ILLEGAL_ADDRESS";
    for call in [
        "cuMemcpyHtoDAsync",
        "cuGraphLaunch",
        "cuMemcpyDtoHAsync",
        "cuEventSynchronize",
    ] {
        let count = job
            .run(&[])
            .calls
            .iter()
            .filter(|(name, _)| name.starts_with(call))
            .map(|(_, n)| n)
            .sum::<u64>();
        // The last but one: of the third batch.
        let ended = job.run(&[("SOFTCUDA_FAULTS", &format!("sticky:{call}:{}={ERROR}", count - 1))]);
        let outcomes = &ended.outcomes;
        assert!(
            matches!(outcomes[1..3], [Outcome::Bits(_), Outcome::Bits(_)]),
            "{call}: {outcomes:#?}"
        );
        let (kind, message) = outcomes[3]
            .error()
            .unwrap_or_else(|| panic!("{call}: {outcomes:#?}"));
        assert!(
            matches!(kind, Kind::Gpu | Kind::DeviceLost),
            "{call}: {outcomes:#?}"
        );
        assert!(names(message, call, ERROR), "{call}: {message}");
        let (kind, message) = outcomes[4]
            .error()
            .unwrap_or_else(|| panic!("{call}: {outcomes:#?}"));
        assert_eq!(kind, Kind::DeviceLost, "{call}: {message}");
        assert!(
            names(message, call, ERROR) && message.contains("open the engine anew"),
            "{message}"
        );
    }
}

#[test]
fn too_little_memory_is_told_with_the_way_out() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let job = Job::four_batches(jina(64));
    for memory in ["1KiB", "300KiB", "1MiB"] {
        let ended = job.run(&[("SOFTCUDA_FAULTS", &format!("memory={memory}"))]);
        let (kind, message) = ended.outcomes[0]
            .error()
            .unwrap_or_else(|| panic!("{memory} sufficed"));
        assert_eq!(kind, Kind::Gpu, "{message}");
        assert!(
            message.contains("CUDA_ERROR_OUT_OF_MEMORY") && message.contains("batch_tokens"),
            "{message}"
        );
        assert_eq!(ended.leaked_allocations, 0, "{}", ended.log);
    }
}

/// `auto` computes on the CPU rather than on softcuda or with a broken driver, and says why.
#[test]
fn auto_falls_back_to_the_cpu_and_says_why() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let job = Job {
        device: "auto".into(),
        ..Job::four_batches(tiny())
    };
    for (faults, word) in [
        ("", "softcuda"),
        (
            "cuInit:1=CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
        ),
        ("cuInit:1=CUDA_ERROR_NO_DEVICE", "no "),
        ("cuDeviceGetCount:1=CUDA_ERROR_OUT_OF_MEMORY", "cuDeviceGetCount"),
    ] {
        let ended = job.run(&[("SOFTCUDA_FAULTS", faults)]);
        let [Outcome::Opened { device, fallback }, batches @ ..] = &ended.outcomes[..] else {
            panic!("{faults}: {:#?}", ended.outcomes)
        };
        assert!(device.starts_with("cpu"), "{faults}: {device}");
        let fallback = fallback.as_deref().unwrap_or_default();
        assert!(fallback.contains(word), "{faults}: {fallback}");
        assert!(batches.iter().all(|outcome| matches!(outcome, Outcome::Bits(_))) && batches.len() == 4);
    }
}

impl Outcome {
    fn error(&self) -> Option<(Kind, &str)> {
        match self {
            Outcome::Failed { kind, message } => Some((*kind, message)),
            _ => None,
        }
    }
}
