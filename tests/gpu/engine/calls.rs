//! The driver's calls in steady state: one copy up, one graph, one copy down, one wait; and the next batch before the wait.

use std::collections::BTreeMap;

use super::child::{Ended, Job, Kind, Outcome};
use super::device::{Gpu, tiny};

/// What a pass calls, and how often: the engine's context is made current to submit it and to wait for it.
const PASS: [(&str, f64); 7] = [
    ("cuMemcpyHtoDAsync_v2", 1.0),
    ("cuGraphLaunch", 1.0),
    ("cuMemcpyDtoHAsync_v2", 1.0),
    ("cuEventRecord", 1.0),
    ("cuEventSynchronize", 1.0),
    ("cuCtxPushCurrent_v2", 2.0),
    ("cuCtxPopCurrent_v2", 2.0),
];

/// On close the contexts go first, with their streams and graphs, then the kernels and weights that those use. softcuda says
/// what goes in another order.
#[test]
fn an_engine_is_closed_from_its_graphs_to_its_kernels() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    for mode in ["eager", "lazy"] {
        let ended = Job::four_batches(tiny()).run(&[("SOFTCUDA_ASYNC", mode)]);
        assert_eq!(ended.calls["cuGraphExecDestroy"], 2, "{:?}", ended.calls);
        assert_eq!(ended.calls["cuModuleLoadData"], ended.calls["cuModuleUnload"]);
        assert!(!ended.log.contains("softcuda: "), "{mode}:\n{}", ended.log);
    }
}

#[test]
fn a_pass_is_a_copy_up_a_graph_a_copy_down_and_a_wait() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let calls = |batches: usize| {
        let job = Job {
            batches,
            ..Job::four_batches(tiny())
        };
        let ended = job.run(&[]);
        assert_eq!(ended.leaked_allocations, 0, "{}", ended.log);
        ended.calls
    };
    // After the first two, both kinds of batch have their graphs.
    const MORE: usize = 6;
    let (few, many) = (calls(2), calls(2 + MORE));
    let per_batch: BTreeMap<&str, f64> = many
        .iter()
        .map(|(name, &count)| {
            (
                name.as_str(),
                (count - few.get(name).copied().unwrap_or(0)) as f64 / MORE as f64,
            )
        })
        .filter(|&(_, more)| more != 0.0)
        .collect();
    assert_eq!(per_batch, PASS.into());
    // And all kernels of the first two were launched while graphs were made: one of each kind of batch.
    assert_eq!(few["cuStreamBeginCapture_v2"], 2, "{few:?}");
    assert_eq!(few["cuGraphLaunch"], 2, "{few:?}");
}

/// The calls of one `embed_batch` of many batches, in their order: `L` launches a graph, `W` waits for a batch.
fn launches_and_waits(variables: &[(&str, &str)]) -> (String, Ended) {
    let job = Job {
        batches: 1,
        texts: 12,
        ..Job::four_batches(tiny())
    };
    let ended = job.run(&[&[("SOFTCUDA_LOG", "calls")], variables].concat());
    let call = |line: &str| match line.split('(').next()?.split(' ').next_back()? {
        "cuGraphLaunch" => Some('L'),
        "cuEventSynchronize" => Some('W'),
        _ => None,
    };
    // The waits before the first launch are those of the weights' upload.
    let calls: String = ended.log.lines().filter_map(call).collect();
    (calls.trim_start_matches('W').to_owned(), ended)
}

#[test]
fn the_next_batch_is_launched_before_the_last_is_waited_for() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let (calls, ended) = launches_and_waits(&[]);
    let batches = calls.matches('L').count();
    assert!(batches > 4, "{calls}");
    assert_eq!(calls, format!("L{}W", "LW".repeat(batches - 1)));
    // The same bits where work is done only when somebody waits for it.
    let (_, lazy) = launches_and_waits(&[("SOFTCUDA_ASYNC", "lazy")]);
    assert!(
        matches!(ended.outcomes[1], Outcome::Bits(_)),
        "{:?}",
        ended.outcomes
    );
    assert_eq!(lazy.outcomes, ended.outcomes);
    assert_eq!(lazy.leaked_allocations, 0, "{}", lazy.log);
}

/// How idle the device is between them is measured by `benches/pipeline.rs`.
#[test]
fn launches_that_take_time_change_nothing_but_that() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let (calls, ended) = launches_and_waits(&[]);
    assert!(ended.device.is_none());
    let slow = [("SOFTCUDA_FAULTS", "slow-launches=5ms;slow-copies=1GB")];
    let (slow_calls, slow) = launches_and_waits(&slow);
    assert_eq!((&slow_calls, &slow.outcomes), (&calls, &ended.outcomes));
    let device = slow.device.unwrap();
    assert_eq!(device.launches, calls.matches('L').count() as u64);
    assert_eq!(device.busy_us, 5000 * device.launches);
    assert!(device.span_us >= device.busy_us, "{device:?}");
}

/// A wait that fails must not leave a batch in flight: the later ones use the same buffers.
#[test]
fn a_wait_that_fails_costs_its_own_batch_alone() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let (calls, _) = launches_and_waits(&[]);
    for which in [1, 2] {
        // Counted from the process's start, where uploads wait as well.
        let uploads = launches_and_waits(&[("SOFTCUDA_ASYNC", "lazy")]).1.calls["cuEventSynchronize"]
            - calls.matches('W').count() as u64;
        let fault = format!("cuEventSynchronize:{}=CUDA_ERROR_OUT_OF_MEMORY", uploads + which);
        let (_, ended) = launches_and_waits(&[("SOFTCUDA_FAULTS", &fault)]);
        let Outcome::Failed { kind, message } = &ended.outcomes[1] else {
            panic!("{:?}", ended.outcomes)
        };
        assert!(
            *kind == Kind::Gpu && message.contains("cuEventSynchronize"),
            "{message}"
        );
        assert_eq!(ended.leaked_allocations, 0, "{}", ended.log);
    }
}

#[test]
fn after_a_warm_up_no_batch_makes_a_graph() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    let calls = |batches: usize| {
        let job = Job {
            batches,
            warm_up: true,
            ..Job::four_batches(tiny())
        };
        job.run(&[]).calls
    };
    let (none, four) = (calls(0), calls(4));
    assert!(none["cuStreamBeginCapture_v2"] > 20, "{none:?}");
    for call in [
        "cuStreamBeginCapture_v2",
        "cuGraphInstantiateWithFlags",
        "cuMemAlloc_v2",
    ] {
        assert_eq!(none[call], four[call], "{call}");
    }
    assert_eq!(none["cuGraphLaunch"] + 4, four["cuGraphLaunch"]);
}
