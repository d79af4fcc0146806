//! The driver's calls in steady state: one copy up, one graph, one copy down, one wait.

use std::collections::BTreeMap;

use super::child::Job;
use super::device::{Gpu, jina};

/// What a pass may call: each of these once; and what makes the engine's context current as often as it
/// likes, which costs no trip to the device.
const PASS: [&str; 4] = [
    "cuMemcpyHtoDAsync_v2",
    "cuGraphLaunch",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamSynchronize",
];
const FREE: [&str; 4] = [
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
];

/// On close the contexts go first, with their streams and graphs, then the kernels and weights that those use. softcuda says
/// what goes in another order.
#[test]
fn an_engine_is_closed_from_its_graphs_to_its_kernels() {
    let Some(_) = Gpu::find_simulated().filter(|gpu| gpu.is_first()) else {
        return;
    };
    for mode in ["eager", "lazy"] {
        let ended = Job::four_batches(jina(64)).run(&[("SOFTCUDA_ASYNC", mode)]);
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
            ..Job::four_batches(jina(64))
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
        .filter(|&(name, more)| more != 0.0 && !FREE.contains(&name))
        .collect();
    assert_eq!(per_batch, PASS.map(|name| (name, 1.0)).into());
    // And all kernels of the first two were launched while graphs were made: one of each kind of batch.
    assert_eq!(few["cuStreamBeginCapture_v2"], 2, "{few:?}");
    assert_eq!(few["cuGraphLaunch"], 2, "{few:?}");
}
