//! Pairs of kernels: one with a fault that a check must find, at the very line, and its twin without, in which nothing
//! may be found.
//!
//! A source in tests/kernels/faults has a head of `//! key: …` lines. `check` is the check's name, or `launch` where
//! the launch is to be refused; `launch` is the shape (`ok-launch` the twin's, if it is another); `args` are the
//! parameters in order: `in N` is N initialised bytes (0, 1, 2, …), `zero N` N zeros, `out N` N bytes that nobody has
//! written, `map N` and `mapout N` the tensor map of N rows of 128 bytes, written or not, `freed N` N bytes given back before the launch, `int N` a pointer-sized number. The finding must be at the
//! line marked `// FAULT`; a race has its other half at `// OTHER` where there is one.

mod harness;
#[path = "faults/reports.rs"]
mod reports;

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
    mbarrier_too_many_arrivals
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
    wgmma_stage_given_back
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
