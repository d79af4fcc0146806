//! HOPPER.md: what reports of the pairs say, and how they are read.

use super::harness::{Ended, Gpu, compile, folder, header};
use super::{args, shape};

/// What the page of reports shows: a kernel of the folder, and how its report is read.
const REPORTS: &[(&str, &str)] = &[
    (
        "tma_read_before_phase",
        "**Data that is still on its way.** A bulk copy writes from its issue until a wait at its mbarrier has found the phase \
         complete. The first place is the access, the second the copy. Wait for the mbarrier's phase before the access.",
    ),
    (
        "tma_stage_reused",
        "**A stage that is filled again while somebody reads it.** A race whose other half is an asynchronous copy, or a read \
         that the copy overtakes: the producer must wait until all readers of the stage have arrived at its `empty` mbarrier.",
    ),
    (
        "mbarrier_arrive_without_syncwarp",
        "**One lane that speaks for its warp.** The place is the copy that fills the stage again, the other half a read by a lane whose \
         warp's arrival at `empty` another lane has made. `__syncwarp` before that arrival orders all lanes' reads before it.",
    ),
    (
        "tma_wrong_parity",
        "**The wrong parity.** A wait for the parity of the phase before the current one returns at once, so what comes behind \
         it touches data that has not arrived. Read the line of the wait before the place that is named.",
    ),
    (
        "tma_too_few_bytes_expected",
        "**Bytes that do not add up, too few expected.** The deadlock names the mbarrier by its offset in shared memory, the \
         parity of the phase, the arrivals that are missing and the bytes that have come without being expected.",
    ),
    (
        "tma_too_many_bytes_expected",
        "**Bytes that do not add up, too many expected.** As many bytes are missing as `expect_tx` has too many; or a copy was \
         not issued.",
    ),
    (
        "mbarrier_too_many_arrivals",
        "**An arrival too many.** `mbarrier.arrive.expect_tx` is an arrival itself.",
    ),
    (
        "deadlock_mbarrier",
        "**Arrivals that never come.** The deadlock says how many of the phase are missing.",
    ),
    (
        "mbarrier_uninitialised",
        "**An mbarrier that nobody has initialised**, or one that `mbarrier.inval` has ended.",
    ),
    (
        "tma_not_a_map",
        "**Bytes that are no tensor map**: what the address leads to was not made by `cuTensorMapEncodeTiled`, or is over.",
    ),
    (
        "tma_misaligned",
        "**A box that is not aligned.** 128 bytes at least; a swizzle of 128 bytes wants 1024.",
    ),
    (
        "tma_store_without_fence",
        "**A missing `fence.proxy.async`.** The thread that wrote shared memory must execute the fence after its write and before \
         the barrier behind which a bulk copy or `wgmma` reads it; a fence by another thread does not count. The first place \
         is the reader, the second the write.",
    ),
    (
        "tma_store_without_syncwarp",
        "**Written by a warp, stored by one lane.** Every lane has fenced its writes, but nothing orders them before the store.",
    ),
    (
        "tma_store_overwritten",
        "**A source that changes while a copy reads it.** Wait for `cp.async.bulk.wait_group.read`, in the thread that \
         committed the group, and let the others wait for that thread.",
    ),
    (
        "tma_store_exit",
        "**A thread that exits before its store has read.** Shared memory goes with the block: `cp.async.bulk.wait_group.read` first.",
    ),
    (
        "bulk_store_read_before_wait",
        "**Stored bytes that are read too early.** `wait_group.read` says that the source has been read; `wait_group` that the \
         bytes are in global memory.",
    ),
    (
        "wgmma_without_fence",
        "**A missing `wgmma.fence`.** Registers of a product were written, or its result read, since the last fence.",
    ),
    (
        "wgmma_read_early",
        "**A result that is read before its wait.** `wgmma.wait_group N` lets the last N groups go on; registers of these are \
         poison until a wait that covers them.",
    ),
    ("wgmma_wrong_group", "**A wait that lets the wrong group go on.**"),
    (
        "wgmma_a_overwritten",
        "**Registers of A that change under a product.** They belong to it until the wait.",
    ),
    (
        "wgmma_operand_overwritten",
        "**An operand that is overwritten before the product's wait.** A race whose other half is an asynchronous operation: here \
         the product. Release the stage after `wgmma.wait_group`, not before.",
    ),
    (
        "wgmma_without_proxy_fence",
        "**An operand written by threads, without `fence.proxy.async`.** As for a copy: the writer's fence, then a barrier.",
    ),
    (
        "wgmma_descriptor_past_end",
        "**A descriptor that leads past the end** of shared memory: its start, its strides, or the number of columns.",
    ),
    (
        "wgmma_warps_disagree",
        "**Warps of a warpgroup that do not do the same.** The report has both warps' descriptors.",
    ),
    (
        "swizzles_disagree",
        "**Swizzles that disagree.** A hint: it is printed, and the launch goes well. The operand's last writer is a tensor copy, whose \
         map has another swizzle than the descriptor.",
    ),
    (
        "tma_never_waited_for",
        "**A copy that nobody waits for.** The block ends while its shared memory is being written. The place is the copy.",
    ),
    (
        "registers_do_not_add_up",
        "**`setmaxnreg` that does not add up.** Warpgroups that increase wait until others have decreased.",
    ),
    (
        "cluster_race",
        "**A race between blocks of a cluster.** `barrier.cluster` or an mbarrier orders them; `bar.sync` does not.",
    ),
    (
        "multicast_stage_reused",
        "**A multicast into a stage that another block still reads.** The copy's issuer must wait for all blocks' arrivals at its \
         `empty` mbarrier. The reader stands under \"the read\".",
    ),
    (
        "cluster_mbarrier_init_without_fence",
        "**An mbarrier that another block uses too early.** `barrier.cluster` must release, or stand behind a `fence.mbarrier_init`.",
    ),
    (
        "cluster_flag_relaxed",
        "**A flag without a release.** Strong and atomic accesses of another block's shared memory synchronise as in global memory: \
         `release` or a fence by the writer, `acquire` or a fence by the reader, both at `cluster` scope or wider.",
    ),
    (
        "cluster_barrier_twice",
        "**A second arrival at the cluster's barrier** by a thread that has not waited since the first.",
    ),
    (
        "cluster_read_of_exited",
        "**A block that may have exited.** Shared memory is gone when its block exits. Whichever came first in this run, no thread \
         of that block knew of the access when it ended. A `barrier.cluster` at the kernel's end is the usual cure.",
    ),
];

const HEAD: &str = "# Reading a report of a Hopper kernel

Written by tests/faults.rs with SOFTCUDA_WRITE_REPORTS=1: each example is what one of the kernels in tests/kernels/faults gives.

A report begins with the check and what happened, then the place where it was noticed, and then the other half: who wrote, who
issued the copy, who else waits. Copies and products are agents of their own, which know what their thread knew at the issue,
and of which a thread knows from its wait on. So what is found does not hang on timing: a stage that could be filled too early
is found even where it was not.

";

/// Addresses of global memory (12 digits) differ from run to run, but for their last digits.
fn without_high_digits(text: &str) -> String {
    let mut parts = text.split("0x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        match digits {
            9..=12 => out += &format!("0x…{}", &part[digits - 3..]),
            _ => out += &format!("0x{part}"),
        }
    }
    out
}

/// The page says what is said today.
#[test]
fn the_page_of_reports_is_current() {
    let mut page = HEAD.to_owned();
    for (name, text) in REPORTS {
        let file = format!("faults/{name}.cu");
        if compile(&file).is_none() {
            return;
        }
        let source = std::fs::read_to_string(folder().join(&file)).expect("compiled just now");
        let mut gpu = Gpu::new();
        let module = gpu.load(&file).expect("nvcc was there before");
        let args = args(&mut gpu, &header(&source, "args").expect("arguments"));
        let launch = shape(&header(&source, "launch").expect("a launch"));
        let findings = match gpu.try_launch(&module, &format!("fault_{name}"), launch, &args) {
            Ended::Found(findings) => findings,
            _ => std::mem::take(&mut gpu.hints),
        };
        assert!(!findings.is_empty(), "{name}: nothing was found");
        let report = findings[0].to_string();
        // Paths differ from machine to machine.
        let report = without_high_digits(&report)
            .replace(&format!("{}/", folder().display()), "")
            .replace("faults/../", "");
        page += &format!("{text}\n\n```text\n{}\n```\n\n", report.trim_end());
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/HOPPER.md");
    if std::env::var_os("SOFTCUDA_WRITE_REPORTS").is_some() {
        std::fs::write(path, page).expect("the page can be written");
        return;
    }
    let have = std::fs::read_to_string(path).expect("the page");
    assert!(
        have == page,
        "HOPPER.md is stale: SOFTCUDA_WRITE_REPORTS=1 cargo test -p softcuda --test faults the_page_of_reports"
    );
}
