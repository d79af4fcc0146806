//! Pairs of kernels: one with a fault that a check must find, at the very line, and its twin without, in which nothing
//! may be found.
//!
//! A source in tests/kernels/faults has a head of `//! key: …` lines. `check` is the check's name, or `launch` where
//! the launch is to be refused; `launch` is the shape (`ok-launch` the twin's, if it is another); `args` are the
//! parameters in order: `in N` is N initialised bytes (0, 1, 2, …), `zero N` N zeros, `out N` N bytes that nobody has
//! written, `map N` and `mapout N` the tensor map of N rows of 128 bytes, written or not, `freed N` N bytes given back before the launch, `int N` a pointer-sized number. The finding must be at the
//! line marked `// FAULT`; a race has its other half at `// OTHER` where there is one.

mod harness;

use harness::{Args, Ended, Gpu, Shape, compile, folder, header};
use softcuda::memory::{Fill, Swizzle, TENSOR_MAP_BYTES, TensorMap};
use softcuda::run::check::{Finding, Site};

fn shape(text: &str) -> Shape {
    let mut shape = Shape::new(1, 1);
    for part in text.split(", ") {
        let (what, number) = part.split_once(' ').expect("a name and a number");
        let number: u32 = number.parse().expect("a number");
        match what {
            "grid" => shape.grid[0] = number,
            "block" => shape.block[0] = number,
            "shared" => shape.shared = number,
            "cluster" => shape.cluster = Some([number, 1, 1]),
            other => panic!("a launch has no {other}"),
        }
    }
    shape
}

fn args(gpu: &mut Gpu, text: &str) -> Args {
    let mut args = Args::new();
    for part in text.split(", ") {
        let (what, number) = part.split_once(' ').expect("a name and a number");
        let bytes: usize = number.parse().expect("a number");
        if let "map" | "mapout" = what {
            args = args.with_bytes(&map(gpu, bytes, what == "map"), 128);
            continue;
        }
        args = args.with(match what {
            "in" => gpu.upload(&(0..bytes).map(|i| i as u8).collect::<Vec<_>>()),
            "zero" => gpu.zeros(bytes),
            "out" => gpu.alloc(bytes),
            "freed" => {
                let address = gpu.alloc(bytes);
                gpu.device.memory.free(address).expect("just allocated");
                address
            }
            "int" => bytes as u64,
            other => panic!("an argument is no {other}"),
        });
    }
    args
}

/// The tensor map of some rows of 64 bf16, which are one box.
fn map(gpu: &mut Gpu, rows: usize, written: bool) -> [u8; TENSOR_MAP_BYTES] {
    let address = match written {
        true => gpu.upload(&vec![0x3f80u16; 64 * rows]),
        false => gpu.alloc(128 * rows),
    };
    let map = TensorMap {
        address,
        rank: 2,
        element: 2,
        dimensions: [64, rows as u64, 1],
        strides: [128, 0],
        tile: [64, rows as u32, 1],
        swizzle: Swizzle::B128,
        fill: Fill::Zero,
    };
    map.check().expect("a good map");
    map.encode()
}

/// The source line that a site points to: the kernel's own, where code of other functions is inlined.
fn line(finding: &Finding, site: &Site, file: &str) -> Option<usize> {
    finding
        .places(site)
        .iter()
        .rfind(|place| place.file.ends_with(file))
        .map(|place| place.line as usize)
}

/// Runs one pair and says what is wrong with what was found.
fn pair(name: &str, seed: Option<u64>) -> Result<(), String> {
    let file = format!("faults/{name}.cu");
    if compile(&file).is_none() {
        return Ok(());
    }
    let text = std::fs::read_to_string(folder().join(&file)).expect("compiled just now");
    let head = |key: &str| header(&text, key);
    let marked = |mark: &str| {
        let lines: Vec<usize> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.trim_end().ends_with(mark))
            .map(|(index, _)| index + 1)
            .collect();
        assert!(lines.len() <= 1, "{name} has one {mark} at most");
        lines.first().copied()
    };
    let (fault, other) = (marked("// FAULT"), marked("// OTHER"));
    let check = head("check").expect("a check");
    let launch = head("launch").expect("a launch");
    let ok_launch = head("ok-launch").unwrap_or_else(|| launch.clone());
    let arguments = head("args").expect("arguments");
    let run = |kernel: &str, launch: &str| {
        let mut gpu = Gpu::with(|settings| {
            settings.seed = seed;
            if seed.is_some() {
                settings.threads = 2;
            }
        });
        let module = gpu.load(&file).expect("nvcc was there before");
        let args = args(&mut gpu, &arguments);
        match gpu.try_launch(&module, &format!("{kernel}_{name}"), shape(launch), &args) {
            Ended::Well if !gpu.hints.is_empty() => Ended::Found(gpu.hints),
            ended => ended,
        }
    };

    match run("ok", &ok_launch) {
        Ended::Well => {}
        Ended::Refused(_, message) => return Err(format!("the twin was refused: {message}")),
        Ended::Found(findings) => {
            let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
            return Err(format!("the twin is clean, but:\n{}", text.join("\n")));
        }
    }
    match run("fault", &launch) {
        Ended::Well => Err("nothing was found".into()),
        Ended::Refused(_, message) if check == "launch" => match message.is_empty() {
            true => Err("refused without a word".into()),
            false => Ok(()),
        },
        Ended::Refused(_, message) => Err(format!("refused: {message}")),
        Ended::Found(findings) => {
            let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
            let text = text.join("\n");
            for finding in &findings {
                if finding.check.name() != check {
                    return Err(format!("{check} was expected:\n{text}"));
                }
                // Of a race either half may come second; the report names both.
                let here = line(finding, &finding.site, &file);
                let there: Vec<_> = finding
                    .others
                    .iter()
                    .map(|site| line(finding, site, &file))
                    .collect();
                let good = match check.as_str() {
                    // That a block may have exited has no other place.
                    "race" if there.is_empty() => other.is_none() && here == fault,
                    "race" => {
                        let other = other.or(fault);
                        there.len() == 1
                            && ((here == fault && there[0] == other) || (here == other && there[0] == fault))
                    }
                    // Which of those that wait for each other comes first depends on who came first.
                    "deadlock" if seed.is_some() => here == fault || there.contains(&fault),
                    _ => here == fault,
                };
                if !good {
                    return Err(format!(
                        "line {fault:?} (and {other:?}) was expected, not {here:?} (and {there:?}):\n{text}"
                    ));
                }
            }
            Ok(())
        }
    }
}

macro_rules! pairs {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                if let Err(problem) = pair(stringify!($name), None) {
                    panic!("{problem}");
                }
            }
        )*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

pairs! {
    assertion
    atomic_hides_write
    barrier_count
    bulk_store_read_before_wait
    cluster_arrive_at_exited
    cluster_barrier_twice
    cluster_flag_never_raised
    cluster_flag_relaxed
    cluster_mbarrier_init_without_fence
    cluster_plain_beside_atomic
    cluster_race
    cluster_read_of_exited
    cp_async_other_threads_copy
    cp_async_overwritten
    cp_async_read_before_wait
    cp_async_read_initialised
    cp_async_wrong_group
    deadlock_barrier_count
    deadlock_flag
    deadlock_lost_warp
    deadlock_mbarrier
    divergent_barrier
    global_one_byte_past_end
    global_race_between_blocks
    global_race_within_block
    global_read_past_end
    global_uninitialised
    global_uninitialised_byte
    global_write_before_start
    local_past_end
    mbarrier_after_inval
    mbarrier_arrive_without_syncwarp
    mbarrier_full_without_syncwarp
    mbarrier_uninitialised
    misaligned
    missing_fence
    more_threads_than_bounds
    multicast_stage_reused
    null_pointer
    read_before_own_write
    registers_do_not_add_up
    same_value_within_warp
    shared_misaligned
    shared_past_end
    shared_race_read_after_write
    shared_race_write_after_read
    shared_race_write_after_write
    shared_uninitialised
    shared_write_past_end
    shuffle_around
    shuffle_mask
    shuffle_not_in_mask
    swizzles_disagree
    tma_barrier_not_initialised
    tma_misaligned
    tma_never_waited_for
    tma_not_a_map
    tma_read_before_phase
    tma_stage_reused
    tma_store_exit
    tma_store_fence_by_another
    tma_store_overwritten
    tma_store_without_fence
    tma_store_without_syncwarp
    tma_too_few_bytes_expected
    tma_too_many_bytes_expected
    tma_wrong_parity
    too_many_threads
    too_much_shared
    trap
    use_after_free
    warp_race
    wgmma_a_overwritten
    wgmma_descriptor_past_end
    wgmma_no_fence_at_all
    wgmma_operand_overwritten
    wgmma_read_early
    wgmma_warps_disagree
    wgmma_without_fence
    wgmma_without_proxy_fence
    wgmma_wrong_group
}

#[test]
fn every_source_is_tested() {
    let mut files: Vec<String> = std::fs::read_dir(folder().join("faults"))
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter_map(|name| name.strip_suffix(".cu").map(str::to_owned))
        .collect();
    files.sort();
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    assert_eq!(files, names);
}

/// What is found does not hang on the order in which blocks and warps happen to run.
#[test]
fn in_any_order() {
    // More orders in the exhaustive run.
    let seeds = if std::env::var_os("ROPEWAY_TEST_ALL").is_some() {
        20
    } else {
        3
    };
    let mut problems = Vec::new();
    for seed in 1..=seeds {
        for name in NAMES {
            // A copy that lands early by chance has done no harm.
            if *name == "tma_never_waited_for" {
                continue;
            }
            if let Err(problem) = pair(name, Some(seed)) {
                problems.push(format!("{name} with seed {seed}: {problem}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

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
        "tma_store_without_fence",
        "**A missing `fence.proxy.async`.** The thread that wrote shared memory must execute the fence after its write and before \
         the barrier behind which a bulk copy or `wgmma` reads it; a fence by another thread does not count. The first place \
         is the reader, the second the write.",
    ),
    (
        "tma_store_overwritten",
        "**A source that changes while a copy reads it.** Wait for `cp.async.bulk.wait_group.read`, in the thread that \
         committed the group, and let the others wait for that thread.",
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
    (
        "wgmma_operand_overwritten",
        "**An operand that is overwritten before the product's wait.** A race whose other half is an asynchronous operation: here \
         the product. Release the stage after `wgmma.wait_group`, not before.",
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
        let Ended::Found(findings) = gpu.try_launch(&module, &format!("fault_{name}"), launch, &args) else {
            panic!("{name}: nothing was found");
        };
        let report = findings[0].to_string();
        // Addresses of global memory differ from run to run; paths from machine to machine.
        let report = report
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
