//! What launches do, as softcuda counts it: no bank conflicts, hardly more DRAM traffic than operands and results need,
//! no more FLOPs of matrix instructions than the tiles have. The counts are exact for the algorithm, so a small shape
//! stands for a large one.

use std::io::Write as _;
use std::process::Command;

use cudarc::driver::result;
use serde_json::Value;

use super::attention::Variant;
use super::device::Device;
use super::gemm::Then;
use super::params::*;
use super::{attention, down_gemm, embed, gemm, layernorm, lora_down, norm_gemm, pool};

/// A launch, and its limits.
struct Launch {
    entry: String,
    shape: String,
    run: Box<dyn Fn(&Device)>,
    /// Bytes of all operands and results, each once: the minimum DRAM traffic.
    bytes: usize,
    /// 2·m·n·k of its matrix products.
    flops: usize,
    /// The same with m, n and k rounded up to whole tiles: the maximum for matrix instructions.
    tiled: usize,
}

/// The largest ratio of DRAM bytes to the minimum.
const TRAFFIC: f64 = 1.1;

/// Functions that have bank conflicts, none of them in a loop: wavefronts per request beyond the minimum.
const CONFLICTS: [(&str, f64); 1] = [
    // In pool: a thread writes its eight float32 of the record as two vectors, 32 bytes apart from the next thread's.
    ("encode", 4.0),
];

/// The tiles of gemm: BLOCK_M, BLOCK_N, BLOCK_K, and the columns of h that are multiplied or left out together.
const TILES: [(&str, [u32; 4]); 5] = [
    ("large", [GEMM_LARGE_ROWS, GEMM_LARGE_COLUMNS, 32, 32]),
    ("medium", [GEMM_MEDIUM_ROWS, GEMM_MEDIUM_COLUMNS, 64, 64]),
    ("small64", [GEMM_SMALL64_ROWS, GEMM_SMALL64_COLUMNS, 64, 64]),
    ("small16", [GEMM_SMALL16_ROWS, GEMM_SMALL16_COLUMNS, 64, 64]),
    ("split16", [GEMM_SPLIT16_ROWS, GEMM_SPLIT16_COLUMNS, 64, 64]),
];

/// Those of compute capability 9.0.
const SM90_TILES: [(&str, [u32; 4]); 5] = [
    ("wide", [GEMM_WIDE_ROWS, GEMM_WIDE_COLUMNS, 64, 32]),
    ("pingpong", [GEMM_PINGPONG_ROWS, GEMM_PINGPONG_COLUMNS, 64, 32]),
    ("square", [GEMM_SQUARE_ROWS, GEMM_SQUARE_COLUMNS, 64, 32]),
    ("half", [GEMM_HALF_ROWS, GEMM_HALF_COLUMNS, 64, 32]),
    ("quarter", [GEMM_QUARTER_ROWS, GEMM_QUARTER_COLUMNS, 64, 32]),
];

fn up(number: usize, step: u32) -> usize {
    number.next_multiple_of(step as usize)
}

/// Those of every device; with `sm90` those of compute capability 9.0 too.
fn launches(sm90: bool) -> Vec<Launch> {
    let mut launches = Vec::new();
    // Whole tiles; heads with RoPE; partial tiles in every dimension, with adapters.
    let sm90_tiles = SM90_TILES.into_iter().filter(|_| sm90);
    for (variant, [rows, columns_of_tile, block_k, step]) in TILES.into_iter().chain(sm90_tiles) {
        let (m, n) = (rows as usize, columns_of_tile as usize);
        for ([tokens, n, k, columns], then) in [
            ([m, 2 * n, 256, 0], Then::Residual),
            ([m, 192, 64, 64], Then::Rope(64)),
            ([m + m / 2 + 1, n + 8, 136, 16], Then::Gelu),
        ] {
            let residual = usize::from(then == Then::Residual);
            let rope = if let Then::Rope(head_dim) = then {
                head_dim
            } else {
                0
            };
            launches.push(Launch {
                entry: format!("gemm_bf16_{variant}"),
                shape: format!("{tokens} tokens, n {n}, k {k}, {columns} columns, {then:?}"),
                run: Box::new(move |device| gemm::launch(device, variant, [tokens, n, k, columns], then)),
                bytes: 2 * (tokens + n) * (k + columns)
                    + 2 * n * (1 + tokens * (1 + residual))
                    // Positions are random, with hardly a repetition.
                    + if rope > 0 { tokens * (4 + 4 * rope) } else { 0 },
                flops: 2 * tokens * n * (k + columns),
                tiled: 2 * up(tokens, rows) * up(n, columns_of_tile) * (up(k, block_k) + up(columns, step)),
            });
        }
    }
    let mut attentions = Vec::new();
    for head_dim in [32, 64, 128] {
        attentions.extend([
            (head_dim, Variant::Large, &[256][..], true),
            (head_dim, Variant::Small, &[128, 64], false),
            (head_dim, Variant::Large, &[3, 70, 133], false),
            (head_dim, Variant::Small, &[3, 70, 133], true),
        ]);
    }
    if sm90 {
        for variant in [Variant::Wgmma64, Variant::Wgmma128] {
            attentions.extend([
                (64, variant, &[384][..], false),
                (64, variant, &[3, 70, 133], false),
            ]);
        }
    }
    for (head_dim, variant, lengths, rope) in attentions {
        let tokens: usize = lengths.iter().sum();
        let longest = lengths.iter().max().copied().unwrap_or_default();
        let table = if rope { 4 * head_dim * longest } else { 0 };
        // Whole warps or warpgroups, whole key tiles.
        let rows = match variant {
            Variant::Large | Variant::Small => variant.rows() as u32 / 4,
            Variant::Wgmma64 | Variant::Wgmma128 => ATTENTION_WGMMA64_ROWS,
        };
        let keys = ATTENTION_MAX_KEYS.min(ATTENTION_TILE_NUMBERS / head_dim as u32);
        let products = |of: &dyn Fn(usize) -> usize| lengths.iter().map(|&length| of(length)).sum::<usize>();
        launches.push(Launch {
            entry: format!("attention_bf16_hd{head_dim}_{}", variant.name()),
            shape: format!("lengths {lengths:?}, 2 heads{}", if rope { ", rope" } else { "" }),
            run: Box::new(move |device| attention::launch(device, lengths, 2, head_dim, rope, variant)),
            bytes: 2 * 2 * head_dim * 4 * tokens + table,
            flops: 2 * 4 * head_dim * products(&|length| length * length),
            tiled: 2 * 4 * head_dim * products(&|length| up(length, rows) * up(length, keys)),
        });
    }
    for hidden in [1024, 4096] {
        for ranks in [&[][..], &[4]] {
            // A, h, and the owners of the columns; the weights are a few bytes.
            let down = |tokens: usize| match ranks {
                [rank] => 2 * hidden * rank + 16 * (2 * tokens + 8) + 4 * tokens,
                _ => 0,
            };
            let shape = format!("48 rows of {hidden}, ranks {ranks:?}");
            launches.push(Launch {
                entry: "layernorm_bf16".into(),
                shape: shape.clone(),
                run: Box::new(move |device| layernorm::launch(device, hidden, &[40, 8], ranks)),
                bytes: 2 * hidden * (3 * 48 + 2) + down(48),
                flops: 0,
                tiled: 0,
            });
            launches.push(Launch {
                entry: "embed_bf16".into(),
                shape: shape.clone(),
                run: Box::new(move |device| embed::launch(device, hidden, &[40, 8], ranks)),
                bytes: 2 * hidden * (2 * 48 + 3) + 4 * 48 + down(48),
                flops: 0,
                tiled: 0,
            });
        }
    }
    // Whole tiles; partial ones in every dimension, with adapters.
    for ([tokens, hidden, n], ranks) in [([16, 1024, 64], &[][..]), ([11, 392, 104], &[20])] {
        let (rank, columns) = (ranks.iter().sum::<usize>(), if ranks.is_empty() { 0 } else { 32 });
        let k = hidden + columns;
        launches.push(Launch {
            entry: "norm_gemm_bf16".into(),
            shape: format!("{tokens} tokens, n {n}, k {hidden}, ranks {ranks:?}"),
            run: Box::new(move |device| norm_gemm::launch(device, [tokens, hidden, n], ranks, None)),
            // x, y, the rows, gain and offset; A, h and what it is made of; W, B, bias and out.
            bytes: 2 * hidden * (3 * tokens + 2)
                + 2 * (hidden * rank + tokens * columns)
                + if columns > 0 { 8 * columns + 4 * tokens } else { 0 }
                + 2 * n * (k + 1 + tokens),
            flops: 2 * tokens * n * k,
            tiled: 2 * up(tokens, 16) * up(n, NORM_GEMM_COLUMNS) * (up(hidden, 64) + up(columns, 64)),
        });
    }
    // Whole tiles; partial ones in every dimension.
    for ([tokens, k, n], ranks) in [([16, 1024, 64], &[20][..]), ([11, 392, 40], &[4])] {
        let rank: usize = ranks.iter().sum();
        let columns = rank.next_multiple_of(16);
        launches.push(Launch {
            entry: "down_gemm_bf16".into(),
            shape: format!("{tokens} tokens, n {n}, k {k}, ranks {ranks:?}"),
            run: Box::new(move |device| down_gemm::launch(device, [tokens, k, n], ranks)),
            // x; A, h and what it is made of; W, B, bias and out.
            bytes: 2 * k * (tokens + rank)
                + 2 * tokens * columns
                + 8 * columns
                + 4 * tokens
                + 2 * n * (k + columns + 1 + tokens),
            flops: 2 * tokens * n * (k + columns) + 2 * tokens * k * rank,
            // Every block makes all of h, in whole tiles of columns: one, two, or four.
            tiled: 2
                * up(tokens, 16)
                * (up(n, DOWN_GEMM_COLUMNS) * (up(k, 64) + columns)
                    + up(n, DOWN_GEMM_COLUMNS) / 16 * up(k, 128) * if rank > 16 { 32 } else { up(rank, 8) }),
        });
    }
    for (k, ranks) in [(1024, &[4][..]), (4096, &[16])] {
        let rank = ranks[0];
        launches.push(Launch {
            entry: "lora_down_bf16".into(),
            shape: format!("64 rows of {k}, rank {rank}"),
            run: Box::new(move |device| lora_down::launch(device, k, &[64], ranks)),
            bytes: 2 * k * (64 + rank) + 16 * (2 * 64 + 8) + 4 * 64,
            flops: 2 * 64 * k * rank,
            tiled: 2 * 64 * k * up(rank, 8),
        });
    }
    for hidden in [384, 1024] {
        launches.push(Launch {
            entry: "pool_bf16".into(),
            shape: format!("vectors of 1, 64 and 150 rows of {hidden}"),
            run: Box::new(move |device| pool::launch(device, hidden, &[1, 64, 150])),
            bytes: 2 * hidden * 215 + 3 * (24 + 8 + 4 * hidden),
            flops: 0,
            tiled: 0,
        });
    }
    launches
}

#[test]
#[ignore = "the test below runs it, in a process whose launches are counted"]
fn every_launch_once() {
    let Some(device) = Device::open() else { return };
    let launches = launches(device.capability() == (9, 0));
    launches.iter().for_each(|launch| (launch.run)(&device));
}

#[test]
fn launches_cost_no_more_than_they_must() {
    let Some(device) = Device::open() else { return };
    let name = result::device::get(0).and_then(result::device::get_name);
    let sm90 = device.capability() == (9, 0);
    drop(device);
    if !name.is_ok_and(|name| name.starts_with("softcuda")) {
        let line = b"SKIPPED: counts of what launches cost: only tools/softcuda/run has them\n";
        std::io::stderr().write_all(line).unwrap_or_default();
        return;
    }
    let folder = tempfile::tempdir().expect("a folder for the counts");
    let file = folder.path().join("counts");
    let child = Command::new(std::env::current_exe().expect("this test has a path"))
        .args(["kernels::counts::every_launch_once", "--exact", "--ignored"])
        .env("SOFTCUDA_COUNTERS", &file)
        .output()
        .expect("this test can be run again");
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
    let counts = std::fs::read_to_string(&file).expect("softcuda wrote its counts");
    let counts: Vec<Value> = counts
        .lines()
        .map(|line| serde_json::from_str(line).expect("counts are JSON"))
        .collect();
    let launches = launches(sm90);
    assert_eq!(counts.len(), launches.len(), "launches that were counted");

    println!(
        "{:27} {:50}   DRAM: bytes / minimum | sectors / fewest | MMA FLOP / useful | bank conflicts",
        "entry", "shape"
    );
    let mut worse = Vec::new();
    for (launch, count) in launches.iter().zip(&counts) {
        assert_eq!(count["kernel"], launch.entry);
        let Launch { entry, shape, .. } = launch;
        let number = |of: &Value| of.as_u64().unwrap_or_else(|| panic!("{of} for a count"));
        let dram = &count["memory"]["dram"];
        let bytes = number(&dram["read_bytes"]) + number(&dram["written_bytes"]);
        let traffic = bytes as f64 / launch.bytes as f64;
        let matrix = count["matrix"].as_array().into_iter().flatten();
        let flops: u64 = matrix.map(|of| number(&of["flops"])).sum();
        let useful = flops as f64 / launch.flops.max(1) as f64;
        // All requests to L2.
        let requests = count["memory"]["global"].as_object().into_iter().flatten();
        let [sectors, fewest] = ["sectors", "ideal_sectors"]
            .map(|name| requests.clone().map(|(_, of)| number(&of[name])).sum::<u64>() as f64);
        let sectors = sectors / fewest;
        let (mut conflicts, mut places) = (0, Vec::new());
        for line in count["memory"]["lines"].as_array().into_iter().flatten() {
            let of = |name: &str| number(&line["shared"][name]);
            let (requests, more) = (of("requests"), of("wavefronts") - of("ideal"));
            if more == 0 {
                continue;
            }
            conflicts += more;
            let function = line["function"].as_str().unwrap_or(entry);
            let known = CONFLICTS.iter().find(|(known, _)| function.contains(known));
            if more as f64 > known.map_or(0.0, |(_, most)| *most) * requests as f64 {
                places.push(format!(
                    "{}:{} in {function}: {more} wavefronts too many in {requests} requests",
                    line["at"]["file"], line["at"]["line"]
                ));
            }
        }
        println!(
            "{entry:27} {shape:50} {bytes:13} {traffic:9.3} | {sectors:16.2} | {flops:8} {useful:8.3} | {conflicts}"
        );
        // Much less than the minimum means that the minimum or the count is wrong.
        if !(0.9..=TRAFFIC).contains(&traffic) {
            places.push(format!(
                "{bytes} bytes of DRAM, and {} must be moved",
                launch.bytes
            ));
        }
        if !(launch.flops..=launch.tiled).contains(&(flops as usize)) {
            places.push(format!(
                "{flops} FLOP of matrix instructions, and {} are useful, {} with the tiles' edges",
                launch.flops, launch.tiled
            ));
        }
        worse.extend(places.iter().map(|place| format!("{entry}, {shape}: {place}")));
    }
    assert!(worse.is_empty(), "{}", worse.join("\n"));
}
