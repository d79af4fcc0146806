//! Blocks and warps in other orders: the same bits, and nothing that softcuda finds fault with.

use super::child::{Job, Outcome};
use super::device::{Gpu, jina};
use crate::exhaustive;

#[test]
fn no_order_of_blocks_and_warps_changes_a_bit() {
    let Some(_) = Gpu::find_simulated() else { return };
    let bits = |variables: &[(&str, &str)]| {
        let job = Job {
            batches: 2,
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
    for seed in 1..=if exhaustive() { 24 } else { 2 } {
        assert_eq!(bits(&[("SOFTCUDA_SEED", &seed.to_string())]), want, "seed {seed}");
    }
    // Work that is done only when somebody waits for it.
    assert_eq!(bits(&[("SOFTCUDA_ASYNC", "lazy")]), want);
}
