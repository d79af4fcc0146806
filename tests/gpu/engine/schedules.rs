//! Blocks and warps in other orders: the same bits, and nothing that softcuda finds fault with.

use super::child::{Job, Outcome};
use super::device::{Gpu, jina};
use super::sm90::has_sm90;
use crate::{exhaustive, for_each_seed};

#[test]
fn no_order_of_blocks_and_warps_changes_a_bit() {
    let Some(_) = Gpu::find_simulated() else { return };
    check(false, 2);
}

#[test]
fn no_order_of_blocks_and_warps_changes_a_bit_of_the_kernels_for_sm90() {
    let Some(gpu) = Gpu::find_simulated() else { return };
    if has_sm90(gpu) {
        // Each run of these begins with the self-check of all of them.
        check(true, 1);
    }
}

fn check(sm90: bool, few: u64) {
    let bits = |variables: &[(&str, &str)]| {
        let job = Job {
            batches: 2,
            sm90,
            ..Job::four_batches(jina(64))
        };
        let ended = job.run(variables);
        assert!(
            !ended.log.contains("softcuda: "),
            "with {variables:?}:\n{}",
            ended.log
        );
        ended.outcomes[1..].to_vec()
    };
    let want = bits(&[("SOFTCUDA_THREADS", "1")]);
    assert!(
        want.iter().all(|outcome| matches!(outcome, Outcome::Bits(_))),
        "{want:?}"
    );
    for_each_seed(few, 24, |seed| {
        assert_eq!(bits(&[("SOFTCUDA_SEED", &seed.to_string())]), want, "seed {seed}");
    });
    // Work that is done only when somebody waits for it: whatever the kernels, the host's calls are the same.
    if !sm90 || exhaustive() {
        assert_eq!(bits(&[("SOFTCUDA_ASYNC", "lazy")]), want);
    }
}
