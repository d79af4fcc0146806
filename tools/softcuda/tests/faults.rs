//! Pairs of kernels: one with a fault that a check must find, at the very line, and its twin without, in which nothing
//! may be found.
//!
//! A source in tests/kernels/faults has a head of `//! key: …` lines. `check` is the check's name, or `launch` where
//! the launch is to be refused; `launch` is the shape (`ok-launch` the twin's, if it is another); `args` are the
//! parameters in order: `in N` is N initialised bytes (0, 1, 2, …), `zero N` N zeros, `out N` N bytes that nobody has
//! written, `freed N` N bytes given back before the launch, `int N` a pointer-sized number. The finding must be at the
//! line marked `// FAULT`; a race has its other half at `// OTHER` where there is one.

mod harness;

use harness::{Args, Ended, Gpu, Shape, compile, folder, header};
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
        gpu.try_launch(&module, &format!("{kernel}_{name}"), shape(launch), &args)
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
    mbarrier_uninitialised
    misaligned
    missing_fence
    more_threads_than_bounds
    null_pointer
    read_before_own_write
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
    too_many_threads
    too_much_shared
    trap
    use_after_free
    warp_race
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
    for seed in 1..=seeds {
        for name in NAMES {
            if let Err(problem) = pair(name, Some(seed)) {
                panic!("{name} with seed {seed}: {problem}");
            }
        }
    }
}
