//! The pipelines of the engine's own kernels (`cuda/sm90`): each instruction of theirs left out or changed is noticed, by a
//! finding or by numbers that differ. That the kernels as they are compute the right numbers, the engine's tests say.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::all;
use super::harness::engine::{Run, UNWRITTEN};
use super::harness::{Args, Ended, Gpu, Shape, compile, shuffled};
use super::mutants::{Mutant, mutants};
use softcuda::machine::Module;

/// A kernel of the text alone, with what stands around all of them.
fn only(text: &str, kernel: &str) -> String {
    let (head, _) = text.split_once(".visible .entry").expect("kernels");
    let body = text
        .split(".visible .entry")
        .find(|part| part.trim_start().starts_with(&format!("{kernel}(")))
        .unwrap_or_else(|| panic!("no kernel {kernel}"));
    let files = match text.find("\n\t.file") {
        Some(at) if !body.contains("\n\t.file") => &text[at..],
        _ => "",
    };
    format!("{head}.visible .entry{body}{files}")
}

/// A launch before the kernel's, that it must have waited for.
const BEFORE: &[u8] =
    b".version 8.4\n.target sm_90\n.address_size 64\n.visible .entry before()\n{\nret;\n}\n";

/// What prepares a launch: the first is enough for most changes.
type Prepare<'a> = &'a (dyn Fn(&mut Gpu) -> Run + Sync);

/// How a kernel's text ends with a schedule, and all of its out.
fn launch(text: &str, seed: Option<u64>, prepare: Prepare) -> Result<Vec<u16>, String> {
    let mut gpu = Gpu::with(|settings| {
        settings.seed = seed;
        settings.spin_limit = 20_000;
    });
    let before = gpu.load_text("before", BEFORE);
    gpu.launch(&before, "before", Shape::new(1, 1), &Args::new());
    let run = prepare(&mut gpu);
    // What is changed may be no PTX any more.
    let module = Module::load(text.as_bytes(), &mut gpu.device).map_err(|e| e.to_string())?;
    match run.launch(&mut gpu, &module) {
        (Ended::Well, out) if gpu.hints.is_empty() => Ok(out),
        (Ended::Well, _) => Err(gpu.hints[0].to_string()),
        (Ended::Refused(_, why), _) => Err(why),
        (Ended::Found(findings), _) => Err(findings[0].to_string()),
    }
}

/// All changes of one kernel: those that nobody noticed in any of the launches.
fn unnoticed(text: &str, stage_bytes: u32, launches: &[Prepare]) -> Vec<String> {
    let text = only(text, &launches[0](&mut Gpu::new()).kernel);
    let want = |prepare: &Prepare| {
        let want = launch(&text, None, *prepare).unwrap_or_else(|found| panic!("as it is: {found}"));
        assert!(want.iter().any(|&bits| bits != UNWRITTEN), "it writes");
        want
    };
    let wants: Vec<Vec<u16>> = launches.iter().map(want).collect();
    let seeds: &[Option<u64>] = if all() { &[None, Some(1), Some(2)] } else { &[None] };
    let mutants = mutants(&text, stage_bytes);
    let missed = |mutant: &Mutant, seed| {
        let same = |(prepare, want): (&Prepare, &Vec<u16>)| {
            launch(&mutant.text, seed, *prepare).is_ok_and(|out| out == *want)
        };
        launches.iter().zip(&wants).all(same)
    };
    let reached = |mutant: &Mutant| {
        launches
            .iter()
            .any(|prepare| launch(&mutant.trapped, None, *prepare).is_err())
    };
    let (next, list) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if seeds.iter().any(|&seed| missed(mutant, seed)) {
                        let name = match reached(mutant) {
                            true => mutant.name.clone(),
                            false => format!("{} is not reached", mutant.site()),
                        };
                        list.lock().expect("no panic").push(name);
                    }
                }
            });
        }
    });
    println!("{} changes", mutants.len());
    let mut list = list.into_inner().expect("no panic");
    list.sort();
    list.dedup();
    list
}

/// Tiles, changes after which nothing is wrong, and why. A site that is not reached is one that the tile does not have.
const UNNOTICED: &[(&[&str], &[&str], &str)] = &[
    (
        &[
            "pingpong", "wide", "square", "half", "quarter", "wgmma64", "wgmma128",
        ],
        &["fence.mbarrier_init 1 left out"],
        "the block is alone in its cluster, and the barrier behind orders the initialisation for its threads",
    ),
    (
        &[
            "pingpong", "wide", "square", "half", "quarter", "wgmma64", "wgmma128",
        ],
        &["setmaxnreg.inc 1 left out"],
        "that threads have fewer registers than their code was compiled for is not seen in PTX",
    ),
    (
        &["half", "quarter"],
        &[
            "setmaxnreg.dec 1 left out",
            "setmaxnreg.dec 1 8 registers more",
            "setmaxnreg.inc 1 8 registers more",
        ],
        "256 threads leave registers over",
    ),
    (
        &["half"],
        &[
            "bar.sync 10 is not reached",
            "bar.sync 2 is not reached",
            "bar.sync 4 is not reached",
            "bar.sync 6 is not reached",
            "bar.sync 8 is not reached",
        ],
        "the barrier of a second warpgroup",
    ),
    (
        &["quarter"],
        &[
            "bar.sync 2 is not reached",
            "bar.sync 4 is not reached",
            "bar.sync 6 is not reached",
        ],
        "the barrier of a second warpgroup",
    ),
    (
        &["pingpong", "wide", "square", "half", "quarter"],
        &["cp.async.bulk.commit_group 1 is not reached"],
        "a tile's first 64 columns are never all behind the last column",
    ),
    (
        &["pingpong"],
        &["cp.async.bulk.commit_group 5 is not reached"],
        "neither are those of the tile's second 64 rows",
    ),
    (
        &["pingpong", "wide", "square", "half", "quarter"],
        &["wgmma.fence 2 left out"],
        "the products of the last columns add to sums that nobody has touched since those before them",
    ),
    (
        &["wide"],
        &[
            "cp.async.bulk.commit_group 3 left out",
            "cp.async.bulk.commit_group 5 left out",
        ],
        "the empty group of the second or third 64 columns: where there is one, that of the fourth follows",
    ),
    (
        &["wgmma128"],
        &[
            "bar.warp.sync 10 left out",
            "bar.warp.sync 2 left out",
            "bar.warp.sync 3 left out",
            "bar.warp.sync 4 left out",
            "bar.warp.sync 5 left out",
            "bar.warp.sync 8 left out",
            "bar.warp.sync 9 left out",
        ],
        "a stage of keys or values is given back: products have read it, which are the whole warp's",
    ),
    (
        &["wgmma128"],
        &["bar.warp.sync 6 left out", "bar.warp.sync 7 left out"],
        "a warp that passes by a stage reads nothing of it; lanes meet at the next",
    ),
    (
        &["wgmma64"],
        &[
            "bar.warp.sync 2 left out",
            "bar.warp.sync 3 left out",
            "bar.warp.sync 4 left out",
            "bar.warp.sync 5 left out",
        ],
        "a stage of keys or values is given back: products have read it, which are the whole warp's",
    ),
    (
        &["wgmma128"],
        &["bar.warp.sync 11 left out"],
        "lanes have met since they read the rows of the item before: where they gave back the queries",
    ),
    (
        &["wgmma128"],
        &["bar.sync 2 is not reached"],
        "the barrier of one warpgroup where more than 64 keys are left: then both have queries",
    ),
    (
        &["wgmma64"],
        &["bar.warp.sync 6 left out"],
        "lanes have met since they read the rows of the item before: where they gave back the queries",
    ),
    (
        &["wgmma128"],
        &["wait 10 left out", "wait 9 left out", "wait 9 the next barrier"],
        "a warpgroup without queries gives a stage back for which it has not waited: wrong where it is a round ahead of the \
         other, which no schedule here has; src/kernels/tests/ring.rs finds it",
    ),
    (
        &["wgmma128"],
        &[
            "wgmma.fence 2 left out",
            "wgmma.fence 4 left out",
            "wgmma.fence 6 left out",
        ],
        "the product begins sums of its own, in registers that PTX has for nothing else, with queries fenced before",
    ),
    (
        &["wgmma64"],
        &["wgmma.fence 3 left out"],
        "the product begins sums of its own, in registers that PTX has for nothing else, with queries fenced before",
    ),
    (
        &["wgmma64"],
        &[
            "arrive 6 is not reached",
            "arrive 7 is not reached",
            "bar.warp.sync 8 is not reached",
            "bar.warp.sync 9 is not reached",
            "wait 10 is not reached",
            "wait 9 is not reached",
        ],
        "its only warpgroup has queries in every tile",
    ),
];

/// What is wrong with a kernel's list: changes that were not noticed, and excuses that it does not need. Counted as
/// the compiler orders them.
fn check(source: &str, tile: &str, stage_bytes: u32, launches: &[Prepare]) -> Vec<String> {
    let Some(ptx) = compile(source) else {
        return Vec::new();
    };
    let text = String::from_utf8(ptx.to_vec()).expect("PTX is text");
    let list = unnoticed(&text, stage_bytes, launches);
    let excused: Vec<&str> = UNNOTICED
        .iter()
        .filter(|(tiles, ..)| tiles.contains(&tile))
        .flat_map(|(_, what, _)| what.iter().copied())
        .collect();
    let missed = list
        .iter()
        .filter(|what| !excused.contains(&what.as_str()))
        .map(|what| format!("{tile}: {what}: not noticed"));
    let needless = excused
        .iter()
        .filter(|excused| !list.iter().any(|what| what == **excused))
        .map(|what| format!("{tile}: {what}: noticed, and excused"));
    missed.chain(needless).collect()
}

/// One block, several times around the ring: rows and columns that end within a tile, and the last tiles of a row without
/// their last columns of 64; then several blocks and whole rows of tiles, in ping-pong with more k-blocks than stages, so
/// that who does not wait for its turn takes one round of the ring for another.
#[test]
fn whatever_is_left_out_of_gemm_is_noticed() {
    let tiles = [
        ("pingpong", 32768, [300, 296, 136, 16], [256, 256, 512, 0], 2),
        ("wide", 49152, [300, 664, 136, 16], [256, 552, 64, 0], 4),
        ("square", 32768, [300, 296, 136, 16], [256, 256, 64, 0], 2),
        ("half", 24576, [300, 296, 136, 16], [128, 256, 64, 0], 2),
        ("quarter", 16384, [300, 168, 136, 16], [128, 128, 64, 0], 2),
    ];
    let count = if all() { tiles.len() } else { 2 };
    let problems: Vec<String> = tiles[..count]
        .iter()
        .flat_map(|&(tile, bytes, shape, other, blocks)| {
            check(
                "engine_gemm.cu",
                tile,
                bytes,
                &[&|gpu| Run::gemm(gpu, tile, shape, 1), &|gpu| {
                    Run::gemm(gpu, tile, other, blocks)
                }],
            )
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Tiles of one and of two warpgroups' queries; a warpgroup without any passes by a whole round of the ring.
#[test]
fn whatever_is_left_out_of_attention_is_noticed() {
    let problems: Vec<String> = [("wgmma128", 16384), ("wgmma64", 8192)]
        .iter()
        .flat_map(|&(tile, bytes)| {
            check(
                "engine_attention.cu",
                tile,
                bytes,
                &[&|gpu| Run::attention(gpu, tile, &[64, 530, 130, 1, 70, 256], 2, 2)],
            )
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// In any order of warps and blocks the kernels find nothing wrong and have the same bits.
#[test]
fn the_pipelines_have_one_result_in_every_order() {
    let seeds = if all() { 200 } else { 3 };
    let every = |source: &str, tiles: &[&str], prepare: &(dyn Fn(&mut Gpu, &str) -> Run + Sync)| {
        for tile in tiles {
            let run = || {
                let mut gpu = Gpu::new();
                let module = gpu.load(source)?;
                let run = prepare(&mut gpu, tile);
                let (ended, out) = run.launch(&mut gpu, &module);
                assert!(matches!(ended, Ended::Well), "{tile}: {ended:?}");
                gpu.assert_no_hints(tile);
                Some(out)
            };
            let Some(want) = run() else { return };
            for seed in 1..=seeds {
                shuffled(seed, || {
                    assert!(run().as_ref() == Some(&want), "{tile}, seed {seed}")
                });
            }
        }
    };
    every(
        "engine_gemm.cu",
        &["pingpong", "wide", "square", "half", "quarter"],
        &|gpu, tile| Run::gemm(gpu, tile, [200, 296, 136, 16], 2),
    );
    every("engine_attention.cu", &["wgmma128", "wgmma64"], &|gpu, tile| {
        Run::attention(gpu, tile, &[64, 200, 130, 1], 2, 3)
    });
}
