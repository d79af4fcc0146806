//! Whole kernels, compiled by nvcc from tests/kernels, against answers computed here. Nothing may be found in them.

mod harness;
mod parity;
mod support;

use std::collections::HashMap;

use half::{bf16, f16};
use harness::rule::Float;
use harness::{Args, Ended, Gpu, Random, Rule, Scalar, Shape};

/// A device and the module of a source; the test ends here where there is no nvcc.
macro_rules! load {
    ($name:literal) => {{
        let mut gpu = Gpu::new();
        match gpu.load($name) {
            Some(module) => (gpu, module),
            None => return,
        }
    }};
}

fn with_shared(mut shape: Shape, bytes: u32) -> Shape {
    shape.shared = bytes;
    shape
}

fn ints(random: &mut Random, count: usize) -> Vec<i32> {
    (0..count).map(|_| random.next() as i32).collect()
}

// --- Shared memory and shuffles -------------------------------------------------------------------------

#[test]
fn reductions_by_shuffle_and_shared_memory() {
    let (mut gpu, module) = load!("reduce.cu");
    let mut random = Random(1);
    for (n, grid, block) in [(1, 1, 32), (1000, 3, 64), (4099, 2, 1024)] {
        // Whole numbers, whose sums are exact in any order.
        let x: Vec<f32> = (0..n).map(|_| random.below(1000) as f32 - 500.0).collect();
        let (input, out) = (gpu.upload(&x), gpu.zeros(4));
        let args = Args::new().with(input).with(n).with(out);
        gpu.launch(&module, "reduce_sum", Shape::new(grid, block), &args);
        assert_eq!(gpu.download::<f32>(out, 1)[0], x.iter().sum::<f32>());
    }
    let (rows, columns) = (7usize, 150usize);
    // Few different values, so that the greatest stands there several times.
    let x: Vec<f32> = (0..rows * columns).map(|_| random.below(20) as f32).collect();
    let (input, out) = (gpu.upload(&x), gpu.alloc(rows * 4));
    let args = Args::new()
        .with(input)
        .with(rows as i32)
        .with(columns as i32)
        .with(out);
    gpu.launch(&module, "row_argmax", Shape::new(2, 128), &args);
    let want: Vec<i32> = x
        .chunks(columns)
        .map(|row| {
            let most = row.iter().cloned().fold(f32::MIN, f32::max);
            row.iter().position(|&value| value == most).unwrap() as i32
        })
        .collect();
    assert_eq!(gpu.download::<i32>(out, rows), want);
}

#[test]
fn transposes() {
    let (mut gpu, module) = load!("transpose.cu");
    for (rows, columns) in [(32usize, 32usize), (45, 70), (1, 100)] {
        let x: Vec<i32> = (0..rows * columns).map(|i| i as i32).collect();
        for kernel in ["transpose_padded", "transpose_swizzled"] {
            let (input, out) = (gpu.upload(&x), gpu.alloc(x.len() * 4));
            let mut shape = Shape::new(columns.div_ceil(32) as u32, 32);
            shape.grid[1] = rows.div_ceil(32) as u32;
            shape.block[1] = 8;
            let args = Args::new()
                .with(input)
                .with(out)
                .with(rows as i32)
                .with(columns as i32);
            gpu.launch(&module, kernel, shape, &args);
            let want: Vec<i32> = (0..rows * columns)
                .map(|i| x[i % rows * columns + i / rows])
                .collect();
            assert_eq!(
                gpu.download::<i32>(out, x.len()),
                want,
                "{kernel} {rows} x {columns}"
            );
        }
    }
}

#[test]
fn histograms() {
    let (mut gpu, module) = load!("histogram.cu");
    let mut random = Random(2);
    let bytes: Vec<u8> = (0..5000)
        .map(|_| (random.below(16) * random.below(16)) as u8)
        .collect();
    let (input, out) = (gpu.upload(&bytes), gpu.zeros(1024));
    let args = Args::new().with(input).with(bytes.len() as i32).with(out);
    gpu.launch(&module, "histogram", Shape::new(3, 96), &args);
    let mut want = vec![0u32; 256];
    for byte in bytes {
        want[usize::from(byte)] += 1;
    }
    assert_eq!(gpu.download::<u32>(out, 256), want);
}

#[test]
fn atomics_of_every_kind() {
    let (mut gpu, module) = load!("histogram.cu");
    let n = 96;
    let mut cells = vec![0i32; 12];
    cells[4] = -1;
    let (cells, wide, sum) = (gpu.upload(&cells), gpu.zeros(16), gpu.upload(&[0.25f32]));
    let args = Args::new().with(cells).with(wide).with(sum);
    // Which value was stored last hangs on the order: it and the sum of the others make up all of them.
    gpu.compare(
        cells + 36,
        8,
        Rule::Invariant(|bytes| {
            let [last, others] = [0, 4].map(|at| i32::read(&bytes[at..at + 4]));
            last + others == 96 * 97 / 2
        }),
    );
    gpu.launch(&module, "atomics", Shape::new(3, 32), &args);
    let total = n * (n - 1) / 2;
    let got = gpu.download::<i32>(cells, 12);
    assert_eq!(got[..4], [total, -total, 5 - (n - 1), 7 * (n - 1)]);
    // Every bit cleared; bits 0 to 30 set; 0 ^ 1 ^ … ^ 95 = 0.
    assert_eq!(got[4..7], [0, 0x7fff_ffff, (0..n).fold(0, |x, i| x ^ i)]);
    // 96 steps up from 0 with a wrap behind 9; down from 0, which wraps to 9 first.
    assert_eq!(got[7..9], [n % 10, (10 - n % 10) % 10]);
    // The values 1..=96 and the first 0 came back, but for the one that is still there.
    assert_eq!(got[9] + got[10], n * (n + 1) / 2);
    assert_eq!(got[11], n);
    assert_eq!(
        gpu.download::<u64>(wide, 2),
        [(n as u64) << 33, (n as u64 - 1) << 32]
    );
    assert_eq!(gpu.download::<f32>(sum, 1), [0.25 + 0.5 * n as f32]);
}

#[test]
fn scans() {
    let (mut gpu, module) = load!("scan.cu");
    let mut random = Random(3);
    let prefix = |x: &[i32]| -> Vec<i32> {
        x.iter()
            .scan(0i32, |sum, &value| {
                *sum = sum.wrapping_add(value);
                Some(*sum)
            })
            .collect()
    };
    for n in [1usize, 77, 256] {
        let x = ints(&mut random, n);
        let (input, out) = (gpu.upload(&x), gpu.alloc(4 * n));
        let args = Args::new().with(input).with(out).with(n as i32);
        gpu.launch(&module, "scan_block", Shape::new(1, 256), &args);
        assert_eq!(gpu.download::<i32>(out, n), prefix(&x), "{n}");
    }
}

#[test]
fn decoupled_look_back() {
    // In order, and with blocks on several threads in any order.
    for seed in [None, Some(1), Some(2)] {
        let mut gpu = Gpu::with(|settings| {
            settings.seed = seed;
            settings.threads = if seed.is_some() { 4 } else { 1 };
        });
        let Some(module) = gpu.load("scan.cu") else { return };
        let (n, block) = (1500usize, 128u32);
        let blocks = n.div_ceil(block as usize);
        let x: Vec<i32> = (0..n as i32).map(|i| i % 17 - 5).collect();
        let (input, out) = (gpu.upload(&x), gpu.alloc(4 * n));
        let (states, ticket) = (gpu.zeros(8 * blocks), gpu.zeros(4));
        let args = Args::new()
            .with(input)
            .with(out)
            .with(n as i32)
            .with(states)
            .with(ticket);
        gpu.launch(&module, "scan_lookback", Shape::new(blocks as u32, block), &args);
        let mut sum = 0;
        let want: Vec<i32> = x.iter().map(|value| (sum += value, sum).1).collect();
        assert_eq!(gpu.download::<i32>(out, n), want, "seed {seed:?}");
    }
}

// --- Tensor cores ---------------------------------------------------------------------------------------

fn bf16s(random: &mut Random, count: usize) -> Vec<bf16> {
    (0..count).map(|_| bf16::from_f32(random.unit())).collect()
}

fn upload_bf16(gpu: &mut Gpu, values: &[bf16]) -> u64 {
    let bits: Vec<u16> = values.iter().map(|value| value.to_bits()).collect();
    gpu.upload(&bits)
}

/// A sum of k products, each group of 16 rounded toward zero to f32, is off by no more than this.
fn tolerance(k: usize, magnitude: f64) -> f64 {
    (k / 16 + 1) as f64 * 2f64.powi(-23) * magnitude
}

#[test]
fn gemm_of_bf16_through_the_tensor_cores() {
    let (mut gpu, module) = load!("gemm_bf16.cu");
    let mut random = Random(4);
    for (m, n, k) in [(128usize, 128usize, 32usize), (150, 256, 160)] {
        let (a, b) = (bf16s(&mut random, m * k), bf16s(&mut random, n * k));
        let (left, right, out) = (
            upload_bf16(&mut gpu, &a),
            upload_bf16(&mut gpu, &b),
            gpu.alloc(m * n * 4),
        );
        let params = Args::new()
            .with(left)
            .with(right)
            .with(out)
            .with(m as i32)
            .with(n as i32)
            .with(k as i32);
        let mut shape = Shape::new((n / 128) as u32, 256);
        shape.grid[1] = m.div_ceil(128) as u32;
        // Each of the two is off by its own roundings inside of the tensor core; factors are at most 1.
        gpu.compare(
            out,
            m * n * 4,
            Rule::absolute(Float::F32, 2.0 * tolerance(k, k as f64)),
        );
        gpu.launch(&module, "gemm_bf16", with_shared(shape, 49152), &params);
        let got = gpu.download::<f32>(out, m * n);
        let [a, b] = [&a, &b].map(|x| -> Vec<f64> { x.iter().map(|value| value.to_f64()).collect() });
        for row in 0..m {
            for column in 0..n {
                let terms = (0..k).map(|i| a[row * k + i] * b[column * k + i]);
                let want: f64 = terms.clone().sum();
                let magnitude: f64 = terms.map(f64::abs).sum();
                let error = (f64::from(got[row * n + column]) - want).abs();
                assert!(
                    error <= tolerance(k, magnitude),
                    "{m} x {n} x {k} at {row}, {column}: off by {error}"
                );
            }
        }
    }
}

#[test]
fn flash_attention_over_sequences_of_different_lengths() {
    let (mut gpu, module) = load!("flash_attention.cu");
    let mut random = Random(5);
    let (heads, dim) = (2usize, 64usize);
    let lengths = [1usize, 70, 64, 130];
    let mut cu_seqlens = vec![0i32];
    for length in lengths {
        cu_seqlens.push(cu_seqlens.last().unwrap() + length as i32);
    }
    let tokens = *cu_seqlens.last().unwrap() as usize;
    let [q, k, v] = [3.0, 3.0, 1.0].map(|scale: f32| -> Vec<bf16> {
        (0..tokens * heads * dim)
            .map(|_| bf16::from_f32(random.unit() * scale))
            .collect()
    });
    let [q_at, k_at, v_at] = [&q, &k, &v].map(|x| upload_bf16(&mut gpu, x));
    let (lengths_at, out) = (gpu.upload(&cu_seqlens), gpu.alloc(tokens * heads * dim * 2));
    let args = Args::new()
        .with(q_at)
        .with(k_at)
        .with(v_at)
        .with(out)
        .with(lengths_at)
        .with(heads as i32);
    let mut shape = Shape::new(130u32.div_ceil(64), 128);
    shape.grid = [shape.grid[0], heads as u32, lengths.len() as u32];
    // Twice what either may be off below: ex2.approx and the tensor core's sums differ, and then bf16 rounds.
    gpu.compare(
        out,
        tokens * heads * dim * 2,
        Rule::absolute(Float::Bf16, 4.0 * 2f64.powi(-9)),
    );
    gpu.launch(&module, "flash_attention", shape, &args);

    let got = gpu.download::<u16>(out, tokens * heads * dim);
    let [q, k, v] = [&q, &k, &v].map(|x| -> Vec<f64> { x.iter().map(|value| value.to_f64()).collect() });
    for (sequence, &length) in lengths.iter().enumerate() {
        let begin = cu_seqlens[sequence] as usize;
        for head in 0..heads {
            let at = |token: usize| ((begin + token) * heads + head) * dim;
            for token in 0..length {
                let scores: Vec<f64> = (0..length)
                    .map(|other| (0..dim).map(|d| q[at(token) + d] * k[at(other) + d]).sum::<f64>() / 8.0)
                    .collect();
                let most = scores.iter().cloned().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let want: f64 = (0..length)
                        .map(|other| weights[other] * v[at(other) + d])
                        .sum::<f64>()
                        / total;
                    let error = (bf16::from_bits(got[at(token) + d]).to_f64() - want).abs();
                    // Weights and result are bf16: half a unit of 8 bits each, of values up to 1.
                    assert!(
                        error <= 2.0 * 2f64.powi(-9),
                        "token {token} of {length}, {d}: off by {error}"
                    );
                }
            }
        }
    }
}

/// Small whole numbers, which every type holds and whose sums are exact.
#[test]
fn every_shape_of_mma() {
    let (mut gpu, module) = load!("mma_shapes.cu");
    let mut random = Random(17);
    // An encoding's low bytes.
    type Encode = fn(i32) -> (u64, usize);
    let f16_: Encode = |v| (f16::from_f32(v as f32).to_bits().into(), 2);
    let bf16_: Encode = |v| (bf16::from_f32(v as f32).to_bits().into(), 2);
    let f32_: Encode = |v| ((v as f32).to_bits().into(), 4);
    let f64_: Encode = |v| (f64::from(v).to_bits(), 8);
    let i32_: Encode = |v| (u64::from(v as u32), 4);
    let byte: Encode = |v| (u64::from(v as u8), 1);
    let e4m3: Encode = |v| (fp8_code(v, 3), 1);
    let e5m2: Encode = |v| (fp8_code(v, 2), 1);
    let forms: [(&str, usize, usize, Encode, Encode); 15] = [
        ("f16_k8", 16, 8, f16_, f32_),
        ("f16_k16", 16, 16, f16_, f32_),
        ("bf16_k8", 16, 8, bf16_, f32_),
        ("bf16_k16", 16, 16, bf16_, f32_),
        ("tf32_k4", 16, 4, f32_, f32_),
        ("tf32_k8", 16, 8, f32_, f32_),
        ("e4m3_k32", 16, 32, e4m3, f32_),
        ("e5m2_k32", 16, 32, e5m2, f32_),
        ("s8_k16", 16, 16, byte, i32_),
        ("s8_k32", 16, 32, byte, i32_),
        ("u8_k32_satfinite", 16, 32, byte, i32_),
        ("f16_to_f16_k16", 16, 16, f16_, f16_),
        ("s8_m8_k16", 8, 16, byte, i32_),
        ("f64_m8_k4", 8, 4, f64_, f64_),
        // Once more, with sums that leave s32.
        ("u8_k32_satfinite", 16, 32, byte, i32_),
    ];
    for (index, (kernel, m, k, encode, encode_sum)) in forms.into_iter().enumerate() {
        let unsigned = kernel.starts_with('u');
        let mut draw = |count: usize| -> Vec<i32> {
            (0..count)
                .map(|_| random.below(9) as i32 - if unsigned { 0 } else { 4 })
                .collect()
        };
        let (a, b, mut c) = (draw(m * k), draw(8 * k), draw(m * 8));
        if index == 14 {
            c.iter_mut().for_each(|c| *c += i32::MAX - 100);
        }
        let mut upload = |values: &[i32], encode: Encode| {
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|&value| {
                    let (bits, size) = encode(value);
                    bits.to_le_bytes().into_iter().take(size)
                })
                .collect();
            gpu.upload(&bytes)
        };
        let (left, right, add) = (upload(&a, encode), upload(&b, encode), upload(&c, encode_sum));
        let size = encode_sum(0).1;
        let out = gpu.alloc(m * 8 * size);
        let args = Args::new().with(left).with(right).with(add).with(out);
        gpu.launch(&module, kernel, Shape::new(1, 32), &args);
        let got: Vec<u64> = gpu
            .download::<u8>(out, m * 8 * size)
            .chunks(size)
            .map(|bytes| {
                bytes
                    .iter()
                    .rev()
                    .fold(0, |value, &byte| value << 8 | u64::from(byte))
            })
            .collect();
        let want: Vec<u64> = (0..m * 8)
            .map(|at| {
                let (row, column) = (at / 8, at % 8);
                let product: i32 = (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
                encode_sum(c[at].saturating_add(product)).0
            })
            .collect();
        assert_eq!(got, want, "{kernel}");
    }
}

/// The 8-bit float that a small whole number is exactly.
fn fp8_code(value: i32, fraction: u32) -> u64 {
    let code = (0..=127u8).find(|&code| fp8(code, fraction) == f64::from(value.abs()));
    u64::from(code.expect("a number of few bits") | u8::from(value < 0) << 7)
}

#[test]
fn matrices_stored_by_stmatrix() {
    let (mut gpu, module) = load!("stmatrix.cu");
    let out = gpu.alloc(1024);
    gpu.launch(&module, "stmatrix", Shape::new(1, 32), &Args::new().with(out));
    let got = gpu.download::<u16>(out, 512);
    for matrix in 0..4 {
        for row in 0..8 {
            for column in 0..8 {
                let at = |row: usize, column: usize| (matrix * 8 + row) * 8 + column;
                let value = (matrix * 100 + row * 8 + column) as u16;
                assert_eq!(got[at(row, column)], value);
                assert_eq!(got[256 + at(column, row)], value);
            }
        }
    }
}

// --- Blocks that wait, copies that run by themselves ----------------------------------------------------

#[test]
fn cooperative_grid_barrier() {
    let (mut gpu, module) = load!("grid_barrier.cu");
    let (grid, block, rounds) = (5u32, 64u32, 6);
    let n = (grid * block) as usize;
    let mut values: Vec<u32> = (0..n as u32).map(|i| i * i).collect();
    let (memory, arrived) = (gpu.alloc(8 * n), gpu.zeros(4));
    gpu.write(memory, &harness::bytes(&values));
    let mut shape = Shape::new(grid, block);
    shape.cooperative = true;
    let args = Args::new().with(memory).with(arrived).with(rounds);
    gpu.launch(&module, "grid_barrier", shape, &args);
    for _ in 0..rounds {
        values = (0..n)
            .map(|i| values[i].wrapping_add(values[(i + 1) % n]))
            .collect();
    }
    assert_eq!(gpu.download::<u32>(memory, n), values);
}

#[test]
fn pipelines_of_asynchronous_copies() {
    let (mut gpu, module) = load!("async_copy.cu");
    let mut random = Random(6);
    for tiles in [1usize, 2, 3, 9] {
        let x = ints(&mut random, tiles * 256);
        let (input, out) = (gpu.upload(&x), gpu.alloc(x.len() * 4));
        let args = Args::new().with(input).with(out).with(tiles as i32);
        gpu.launch(&module, "pipeline_groups", Shape::new(1, 64), &args);
        let want: Vec<i32> = x.iter().map(|value| value.wrapping_add(1)).collect();
        assert_eq!(gpu.download::<i32>(out, x.len()), want, "groups, {tiles} tiles");

        let x = &x[..tiles * 128];
        let out = gpu.alloc(x.len() * 4);
        let args = Args::new().with(input).with(out).with(tiles as i32);
        gpu.launch(&module, "pipeline_mbarrier", Shape::new(1, 128), &args);
        let want: Vec<i32> = (0..x.len())
            .map(|i| x[i / 128 * 128 + 127 - i % 128].wrapping_mul(2))
            .collect();
        assert_eq!(gpu.download::<i32>(out, x.len()), want, "mbarrier, {tiles} tiles");

        let x = &x[..tiles * 96];
        let out = gpu.alloc(96 * 4);
        let args = Args::new().with(input).with(out).with(tiles as i32);
        gpu.launch(&module, "warp_specialised_ring", Shape::new(1, 128), &args);
        let want: Vec<i32> = (0..96)
            .map(|i| {
                (0..tiles).fold(0i32, |sum, tile| {
                    sum.wrapping_add((tile as i32 + 1).wrapping_mul(x[tile * 96 + i]))
                })
            })
            .collect();
        assert_eq!(gpu.download::<i32>(out, 96), want, "ring, {tiles} tiles");
    }
}

#[test]
fn asynchronous_copies_fill_with_zeros() {
    let (mut gpu, module) = load!("async_copy.cu");
    let n = 40usize;
    let x: Vec<u8> = (0..16 * n).map(|i| (i % 255) as u8 + 1).collect();
    let (input, out) = (gpu.upload(&x), gpu.alloc(16 * n));
    let shape = with_shared(Shape::new(1, n as u32), 16 * n as u32);
    gpu.launch(&module, "zero_fill", shape, &Args::new().with(input).with(out));
    let want: Vec<u8> = (0..16 * n)
        .map(|i| if i % 16 < i / 16 % 17 { x[i] } else { 0 })
        .collect();
    assert_eq!(gpu.download::<u8>(out, 16 * n), want);
}

#[test]
fn producers_and_consumers_with_named_barriers() {
    let (mut gpu, module) = load!("named_barriers.cu");
    let mut random = Random(7);
    for rounds in [1usize, 2, 3, 8] {
        let x = ints(&mut random, rounds * 64);
        let (input, out) = (gpu.upload(&x), gpu.alloc(x.len() * 4));
        let args = Args::new().with(input).with(out).with(rounds as i32);
        gpu.launch(&module, "producer_consumer", Shape::new(1, 128), &args);
        let want: Vec<i32> = (0..x.len())
            .map(|i| {
                x[i / 64 * 64 + 63 - i % 64]
                    .wrapping_mul(3)
                    .wrapping_add(i as i32 / 64)
            })
            .collect();
        assert_eq!(gpu.download::<i32>(out, x.len()), want, "{rounds} rounds");
    }
    for (flags, want) in [
        (vec![0; 64], [0, 0, 0]),
        (vec![1; 64], [64, 1, 1]),
        ((0..64).map(|i| i32::from(i % 3 == 0)).collect(), [22, 0, 1]),
    ] {
        let (input, out) = (gpu.upload(&flags), gpu.alloc(12));
        let args = Args::new().with(input).with(out);
        gpu.launch(&module, "barrier_votes", Shape::new(1, 64), &args);
        assert_eq!(gpu.download::<i32>(out, 3), want);
    }
}

#[test]
fn lanes_of_a_warp_fight_for_a_lock() {
    let (mut gpu, module) = load!("spin_lock.cu");
    for kernel in ["spin_lock", "spin_lock_outside"] {
        let (lock, counter) = (gpu.zeros(4), gpu.zeros(4));
        let args = Args::new().with(lock).with(counter);
        gpu.launch(&module, kernel, Shape::new(2, 64), &args);
        assert_eq!(gpu.download::<i32>(counter, 1), [128], "{kernel}");
        assert_eq!(gpu.download::<i32>(lock, 1), [0], "{kernel}");
    }
    let (token, order) = (gpu.zeros(4), gpu.alloc(128));
    let args = Args::new().with(token).with(order);
    gpu.launch(&module, "lane_relay", Shape::new(1, 32), &args);
    let want: Vec<i32> = (0..32).map(|i| i * i).collect();
    assert_eq!(gpu.download::<i32>(order, 32), want);
}

// --- Calls, control flow, memory spaces -----------------------------------------------------------------

/// Bytes of stack that each thread of `recursion` gets on a GPU: on an H100 1.0 GiB in all.
const RECURSION_STACK: usize = 4 << 10;

#[test]
fn recursion_and_function_pointers() {
    let (mut gpu, module) = load!("functions.cu");
    gpu.stack(RECURSION_STACK);
    let (out, sums, depths) = (gpu.alloc(256), gpu.alloc(512), gpu.alloc(256));
    let args = Args::new().with(out).with(sums).with(depths);
    gpu.launch(&module, "recursion", Shape::new(1, 64), &args);
    let fibonacci = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    let want: Vec<i32> = (0..64).map(|i| fibonacci[i % 12]).collect();
    assert_eq!(gpu.download::<i32>(out, 64), want);
    let want: Vec<i64> = (0..64).map(|i| i * (i + 1) / 2).collect();
    assert_eq!(gpu.download::<i64>(sums, 64), want);
    assert_eq!(gpu.download::<i32>(depths, 64), (0..64).collect::<Vec<i32>>());

    gpu.launch(
        &module,
        "function_pointers",
        Shape::new(1, 64),
        &Args::new().with(out),
    );
    let want: Vec<i32> = (0..64)
        .map(|i| match i % 3 {
            0 => i + 10,
            1 => i - 10,
            _ => i * 25,
        })
        .collect();
    assert_eq!(gpu.download::<i32>(out, 64), want);
}

/// The deepest call of 64 threads is 65 frames of `triangle`, or 12 of `fibonacci`.
#[test]
fn the_stack_for_recursion_holds_its_frames() {
    let Some(ptx) = harness::compile("functions.cu") else {
        return;
    };
    let Some(toolkit) = support::toolkit() else { return };
    let folder = support::folder("stack");
    std::fs::write(folder.join("functions.ptx"), &*ptx).unwrap();
    for architecture in ["sm_80", "sm_89", "sm_90"] {
        let output = std::process::Command::new(toolkit.join("bin/ptxas"))
            .args(["-v", "-o", "/dev/null", "-arch", architecture])
            .arg(folder.join("functions.ptx"))
            .output()
            .expect("ptxas");
        let log = support::stderr(&output) + &support::stdout(&output);
        let frames: Vec<usize> = log
            .lines()
            .filter_map(|line| line.trim().split_once(" bytes stack frame")?.0.parse().ok())
            .collect();
        assert!(frames.len() >= 4, "{log}");
        let deepest = 65 * frames.iter().max().unwrap();
        assert!(deepest > 0, "{architecture}: {log}");
        // As much again is for what the calling convention adds.
        assert!(2 * deepest <= RECURSION_STACK, "{architecture}: {deepest} bytes");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn printf_writes_what_c_would() {
    let (mut gpu, module) = load!("print.cu");
    gpu.launch(&module, "print", Shape::new(1, 32), &Args::new().with(3i32));
    let got = String::from_utf8(gpu.device.output.clone()).unwrap();
    let mut lines: Vec<&str> = got.lines().collect();
    lines.sort_unstable();
    let want = [
        "thread 0:  0.00|0   |beef0000|even|a|-1099511627776%",
        "thread 1:  1.50|1   |beef0001|odd|b|-1099511627777%",
        "thread 2:  3.00|2   |beef0002|even|c|-1099511627778%",
    ];
    assert_eq!(lines, want);
}

#[test]
fn assertions_say_what_was_asserted() {
    let (mut gpu, module) = load!("print.cu");
    let values = gpu.upload(&(0..32).collect::<Vec<i32>>());
    let args = Args::new().with(values).with(32i32);
    gpu.launch(&module, "check_value", Shape::new(1, 32), &args);
    let args = Args::new().with(values).with(31i32);
    let Ended::Found(findings) = gpu.try_launch(&module, "check_value", Shape::new(1, 32), &args) else {
        panic!("thread 31 asserts");
    };
    let text = findings[0].to_string();
    assert_eq!(findings[0].check.name(), "assert");
    assert_eq!(findings[0].site.thread, Some([31, 0, 0]));
    assert!(text.contains("value is too large"), "{text}");
    assert!(text.contains("print.cu"), "{text}");
}

#[test]
fn local_memory() {
    let (mut gpu, module) = load!("local_arrays.cu");
    let mut random = Random(8);
    let n = 23usize;
    let x = ints(&mut random, 64 * n);
    let (input, out) = (gpu.upload(&x), gpu.alloc(x.len() * 4));
    let args = Args::new().with(input).with(out).with(n as i32);
    gpu.launch(&module, "insertion_sort", Shape::new(1, 64), &args);
    let mut want = x;
    for row in want.chunks_mut(n) {
        row.sort_unstable();
    }
    assert_eq!(gpu.download::<i32>(out, want.len()), want);

    let x: Vec<u64> = (0..32)
        .map(|_| u64::from(random.next()) << 32 | u64::from(random.next()))
        .collect();
    let (input, out) = (gpu.upload(&x), gpu.alloc(96 * 8));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "generic_pointers", Shape::new(1, 32), &args);
    let want: Vec<u64> = (0..96).map(|i| x[i % 32].swap_bytes()).collect();
    assert_eq!(gpu.download::<u64>(out, 96), want);
}

#[test]
fn control_flow() {
    let (mut gpu, module) = load!("control.cu");
    let out = gpu.alloc(128 * 4);
    gpu.launch(&module, "collatz", Shape::new(1, 100), &Args::new().with(out));
    let collatz = |mut n: i64| {
        let mut count = 0;
        while n != 1 {
            n = if n % 2 != 0 { 3 * n + 1 } else { n / 2 };
            count += 1;
        }
        count
    };
    assert_eq!(
        gpu.download::<i32>(out, 100),
        (1..=100).map(collatz).collect::<Vec<i32>>()
    );

    let nested = |i: i32, n: i32| -> i32 {
        let mut sum = 0;
        for a in 0..n {
            if (a + i) % 3 == 0 {
                continue;
            }
            for b in 0..i {
                if b * a > 40 {
                    break;
                }
                if (b ^ i) & 1 != 0 {
                    sum += b;
                    continue;
                }
                sum -= a;
                if sum < -200 {
                    return sum;
                }
            }
            sum += 1;
        }
        sum
    };
    let args = Args::new().with(out).with(20i32);
    gpu.launch(&module, "nested", Shape::new(1, 100), &args);
    assert_eq!(
        gpu.download::<i32>(out, 100),
        (0..100).map(|i| nested(i, 20)).collect::<Vec<i32>>()
    );
}

#[test]
fn switches_and_jump_tables() {
    let (mut gpu, module) = load!("control.cu");
    let which: Vec<i32> = (0..96).map(|i| i * 7 % 23).collect();
    let before: Vec<i32> = (0..96).map(|i| 1000 - 13 * i).collect();
    let (input, out) = (gpu.upload(&which), gpu.upload(&before));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "dense_switch", Shape::new(1, 96), &args);
    let want: Vec<i32> = (0..96i32)
        .map(|i| {
            let old = before[i as usize];
            match which[i as usize] {
                0 => i * 3 + 1,
                1 => i ^ 0x55,
                2 => old - i,
                3 => (i << 3) + 1000,
                4 => i + 1000,
                5 => (0..i).fold(i, |x, k| x + (old ^ k)),
                6 => old + i,
                7 => i.count_ones() as i32,
                8 => -i,
                9 => old,
                10 => old / (i + 1),
                11 => old % (i + 1),
                12 => 24,
                13 => old * 2,
                14 => i.leading_zeros() as i32,
                15 => (i as u32).reverse_bits() as i32 >> 24 & 0xff,
                16 => i.max(20),
                17 => i.min(20),
                18 => i * i,
                19 => i * i * i - 1,
                _ => 7777,
            }
        })
        .collect();
    assert_eq!(gpu.download::<i32>(out, 96), want);

    let which: Vec<i32> = (0..96).map(|i| i * 5 % 4).collect();
    let input = gpu.upload(&which);
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "jump_table", Shape::new(1, 96), &args);
    let want: Vec<i32> = (0..96)
        .map(|i| match which[i as usize] {
            0 | 3 => i + 500,
            1 => i * 3,
            _ => -i,
        })
        .collect();
    assert_eq!(gpu.download::<i32>(out, 96), want);
}

#[test]
fn warps_that_leave_before_a_barrier() {
    let (mut gpu, module) = load!("control.cu");
    let out = gpu.zeros(160 * 4);
    gpu.launch(&module, "early_exit", Shape::new(1, 160), &Args::new().with(out));
    let want: Vec<i32> = (0..160).map(|i| i / 32).collect();
    assert_eq!(gpu.download::<i32>(out, 160), want);
}

#[test]
fn large_parameters() {
    let (mut gpu, module) = load!("spaces.cu");
    let out = gpu.alloc(64 * 4);
    let table: Vec<i16> = (0..2000).map(|i| (i * 37 % 1999) as i16 - 1000).collect();
    // As C lays it out: an int and four bytes of padding, a double, the table, a pointer, a byte and seven.
    let mut big = Args::new().with(-5i32).with(0.5f64);
    for &value in &table {
        big = big.with(value);
    }
    let big = big.with(out).with(200u8).with_bytes(&[0; 7], 1);
    assert_eq!(big.0.len(), 4032);
    gpu.launch(&module, "big_params", Shape::new(1, 64), &big);
    let want: Vec<i32> = (0..64)
        .map(|i| -5 + (f64::from(table[i * 7 % 2000]) * 0.5) as i32 + 200)
        .collect();
    assert_eq!(gpu.download::<i32>(out, 64), want);

    let mut huge = Args::new().with(out);
    for i in 0..2000 {
        huge = huge.with(i * 3);
    }
    gpu.launch(&module, "huge_params", Shape::new(1, 64), &huge);
    let want: Vec<i32> = (0..64).map(|i| (1999 - i) * 3).collect();
    assert_eq!(gpu.download::<i32>(out, 64), want);
}

#[test]
fn variables_of_the_module() {
    let (mut gpu, module) = load!("spaces.cu");
    let out = gpu.alloc(64 * 4);
    let (factor, size) = module.global("factor").expect("a constant");
    assert_eq!(size, 4);
    gpu.write(factor, &1.75f32.to_le_bytes());
    gpu.launch(&module, "variables", Shape::new(1, 64), &Args::new().with(out));
    let digits = [3, 1, 4, 1, 5, 9, 2, 6];
    let want: Vec<i32> = (0..64usize)
        .map(|i| digits.get(i).unwrap_or(&0) + 3 + (i as i32 % 8).pow(2) + (2 + i as i32 % 4).pow(2))
        .collect();
    assert_eq!(gpu.download::<i32>(out, 64), want);
    let (counter, _) = module.global("counter").expect("a variable");
    assert_eq!(gpu.download::<i32>(counter, 1), [40 + 64]);
}

#[test]
fn dynamic_shared_memory_and_dimensions() {
    let (mut gpu, module) = load!("spaces.cu");
    let out = gpu.alloc(96 * 8);
    let shape = with_shared(Shape::new(1, 96), 96 * 8);
    gpu.launch(&module, "dynamic_shared", shape, &Args::new().with(out));
    let want: Vec<i64> = (0..96).map(|i| (i + 5) % 96 * 1000).collect();
    assert_eq!(gpu.download::<i64>(out, 96), want);

    let mut shape = Shape::new(1, 1);
    (shape.grid, shape.block) = ([3, 2, 2], [5, 3, 4]);
    let n = 12 * 60;
    let out = gpu.alloc(n * 4);
    gpu.launch(&module, "dimensions", shape, &Args::new().with(out));
    let mut want = Vec::new();
    for bz in 0..2 {
        for by in 0..2 {
            for bx in 0..3 {
                for z in 0..4 {
                    for y in 0..3 {
                        for x in 0..5 {
                            want.push(x + 10 * y + 100 * z + 1000 * bx + 10000 * by + 100_000 * bz);
                        }
                    }
                }
            }
        }
    }
    assert_eq!(gpu.download::<i32>(out, n), want);

    let x: Vec<u8> = (0..496).map(|i| (i * 7 % 251) as u8).collect();
    let (input, out) = (gpu.upload(&x), gpu.alloc(496));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "vectors", Shape::new(1, 16), &args);
    assert_eq!(gpu.download::<u8>(out, 496), x);
}

// --- Arithmetic -----------------------------------------------------------------------------------------

#[test]
fn dot_products_of_bytes() {
    let (mut gpu, module) = load!("arithmetic.cu");
    let mut random = Random(9);
    let n = 64;
    let (a, b) = (ints(&mut random, n), ints(&mut random, n));
    let (left, right, out) = (gpu.upload(&a), gpu.upload(&b), gpu.alloc(n * 16));
    let args = Args::new().with(left).with(right).with(out);
    gpu.launch(&module, "integer_dots", Shape::new(1, n as u32), &args);
    let mut want = Vec::new();
    for (&a, &b) in a.iter().zip(&b) {
        let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
        let signed = |i: usize| i32::from(x[i] as i8) * i32::from(y[i] as i8);
        want.push(7 + (0..4).map(signed).sum::<i32>());
        want.push(7 + (0..4).map(|i| i32::from(x[i]) * i32::from(y[i])).sum::<i32>());
        // The two 16-bit halves of a by the two lower bytes of b.
        want.push(-3 + i32::from(a as i16) * i32::from(y[0] as i8) + (a >> 16) * i32::from(y[1] as i8));
        want.push((a.abs_diff(b)).wrapping_add(11) as i32);
    }
    assert_eq!(gpu.download::<i32>(out, n * 4), want);
}

#[test]
fn double_precision() {
    let (mut gpu, module) = load!("arithmetic.cu");
    let mut random = Random(10);
    let n = 64;
    let [a, b] = [0, 1].map(|_| -> Vec<f64> {
        (0..n)
            .map(|_| f64::from(random.unit()) * (1.0 + f64::from(random.next()) * 2f64.powi(-52)) * 1e3)
            .collect()
    });
    let (left, right, out) = (gpu.upload(&a), gpu.upload(&b), gpu.alloc(n * 48));
    let args = Args::new().with(left).with(right).with(out);
    gpu.launch(&module, "doubles", Shape::new(1, n as u32), &args);
    let got = gpu.download::<f64>(out, n * 6);
    for i in 0..n {
        let (a, b) = (a[i], b[i]);
        let want = [
            a + b,
            a * b,
            a.mul_add(b, -a * b),
            a / b,
            a.abs().sqrt(),
            f64::from(a as f32),
        ];
        assert_eq!(got[6 * i..6 * i + 6], want, "{a} {b}");
    }
}

#[test]
fn pairs_of_half_numbers() {
    let (mut gpu, module) = load!("arithmetic.cu");
    let mut random = Random(11);
    let n = 64;
    let values: Vec<f32> = (0..4 * n)
        .map(|_| random.unit() * 2f32.powi(random.below(12) as i32 - 6))
        .collect();
    let (a, b) = values.split_at(2 * n);
    // Sums and products of two such numbers are exact in f64, their fused sum too; then one rounding.
    let expected = |round: &dyn Fn(f64) -> (u16, f64)| -> Vec<u16> {
        let mut want = vec![0; 10 * n];
        for i in 0..2 * n {
            let ((_, a), (_, b)) = (round(f64::from(a[i])), round(f64::from(b[i])));
            let results = [a + b, a * b, a * b + a, a.max(b), f64::from(u8::from(a < b))];
            for (k, value) in results.into_iter().enumerate() {
                want[(i / 2 * 5 + k) * 2 + i % 2] = round(value).0;
            }
        }
        want
    };
    let to_half = |value: f64| {
        let half = f16::from_bits(round_to::<5, 10>(value));
        (half.to_bits(), half.to_f64())
    };
    let to_bfloat = |value: f64| {
        let bfloat = bf16::from_bits(round_to::<8, 7>(value));
        (bfloat.to_bits(), bfloat.to_f64())
    };
    type Round<'a> = &'a dyn Fn(f64) -> (u16, f64);
    let kernels: [(&str, Round<'_>); 2] = [("half_pairs", &to_half), ("bfloat_pairs", &to_bfloat)];
    for (kernel, round) in kernels {
        let upload = |gpu: &mut Gpu, values: &[f32]| {
            let bits: Vec<u16> = values.iter().map(|&value| round(f64::from(value)).0).collect();
            gpu.upload(&bits)
        };
        let (left, right) = (upload(&mut gpu, a), upload(&mut gpu, b));
        let out = gpu.alloc(n * 20);
        let args = Args::new().with(left).with(right).with(out);
        gpu.launch(&module, kernel, Shape::new(1, n as u32), &args);
        assert_eq!(gpu.download::<u16>(out, n * 10), expected(round), "{kernel}");
    }
}

/// `value` in a format of so many exponent and fraction bits, to nearest, ties to even; for values in its range.
fn round_to<const EXPONENT: i32, const FRACTION: i32>(value: f64) -> u16 {
    let bias = (1 << (EXPONENT - 1)) - 1;
    let sign = u16::from(value.is_sign_negative()) << (EXPONENT + FRACTION);
    let magnitude = value.abs();
    if magnitude == 0.0 {
        return sign;
    }
    let exponent = (magnitude.log2().floor() as i32).max(1 - bias);
    // log2 may be off by one at the edges of a power of two; units of the last place put it right.
    let units = (magnitude * 2f64.powi(FRACTION - exponent)).round_ties_even() as i32;
    let normal = units >= 1 << FRACTION;
    // A normal number's leading bit counts as one in the exponent's field.
    let field = if normal { exponent + bias - 1 } else { 0 };
    sign | ((field << FRACTION) + units) as u16
}

#[test]
fn conversions_round_as_asked() {
    let (mut gpu, module) = load!("arithmetic.cu");
    let mut x: Vec<f32> = vec![
        0.5, 1.5, -0.5, -1.5, 2.5, 0.0, -7.75, 1e9, -2e9, 3e9, -3e9, 1e20, -1e20,
    ];
    let mut random = Random(12);
    x.resize_with(64, || random.unit() * 2f32.powi(random.below(24) as i32 - 8));
    let (input, out) = (gpu.upload(&x), gpu.alloc(64 * 24));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "conversions", Shape::new(1, 64), &args);
    let got = gpu.download::<i32>(out, 64 * 6);
    for (i, &x) in x.iter().enumerate() {
        // `as` saturates, as the instruction does.
        let want = [
            x.round_ties_even() as i32,
            x.trunc() as i32,
            x.ceil() as i32,
            x.floor() as i32,
            f16::from_f32(x).to_bits().into(),
            bf16::from_f32(x).to_bits().into(),
        ];
        assert_eq!(got[6 * i..6 * i + 6], want, "{x}");
    }
}

#[test]
fn bits() {
    let (mut gpu, module) = load!("arithmetic.cu");
    let mut random = Random(13);
    let n = 64;
    let mut x: Vec<u32> = (0..n).map(|_| random.next() >> random.below(32)).collect();
    let y: Vec<u32> = (0..n).map(|_| random.next()).collect();
    x[0] = 0;
    let (left, right, out) = (gpu.upload(&x), gpu.upload(&y), gpu.alloc(n * 28));
    let args = Args::new().with(left).with(right).with(out);
    gpu.launch(&module, "bit_tricks", Shape::new(1, n as u32), &args);
    let got = gpu.download::<u32>(out, n * 7);
    for i in 0..n {
        let (x, y) = (x[i], y[i]);
        let both = u64::from(y) << 32 | u64::from(x);
        let byte = |n: u32| (both >> (8 * n)) as u32 & 0xff;
        let want = [
            x.count_ones(),
            x.leading_zeros(),
            if x == 0 { 0 } else { x.trailing_zeros() + 1 },
            x.reverse_bits(),
            byte(2) | byte(6) << 8 | byte(3) << 16 | byte(5) << 24,
            (both << (y % 32) >> 32) as u32,
            ((u64::from(x) * u64::from(y)) >> 32) as u32,
        ];
        assert_eq!(got[7 * i..7 * i + 7], want, "{x:#x} {y:#x}");
    }
    gpu.launch(&module, "bit_fields", Shape::new(1, n as u32), &args);
    let got = gpu.download::<u32>(out, n * 4);
    for i in 0..n {
        let (x, y) = (x[i], y[i]);
        let z = x.wrapping_mul(3);
        let want = [
            x >> 5 & 0x1ff,
            ((x << 18) as i32 >> 23) as u32,
            (x & 0xfff) << 8 | y & !0x000f_ff00,
            // Majority of the three.
            x & y | x & z | y & z,
        ];
        assert_eq!(got[4 * i..4 * i + 4], want, "{x:#x} {y:#x}");
    }
}

/// Value of an 8-bit float with this many fraction bits; e4m3 has no infinity, e5m2 has.
fn fp8(code: u8, fraction: u32) -> f64 {
    let bias = if fraction == 3 { 7 } else { 15 };
    let magnitude = u32::from(code & 0x7f);
    let (field, rest) = (
        (magnitude >> fraction) as i32,
        f64::from(magnitude % (1 << fraction)),
    );
    let scale = f64::from(1 << fraction);
    let value = match (fraction, magnitude) {
        (3, 0x7f) => f64::NAN,
        (2, 0x7c) => f64::INFINITY,
        (2, 0x7d..) => f64::NAN,
        _ if field == 0 => rest / scale * 2f64.powi(1 - bias),
        _ => (1.0 + rest / scale) * 2f64.powi(field - bias),
    };
    if code & 0x80 != 0 { -value } else { value }
}

#[test]
fn eight_bit_floats() {
    let (mut gpu, module) = load!("fp8.cu");
    let out = gpu.alloc(1024);
    gpu.launch(&module, "from_fp8", Shape::new(1, 256), &Args::new().with(out));
    let got = gpu.download::<u16>(out, 512);
    for code in 0..=255u8 {
        for (k, fraction) in [3, 2].into_iter().enumerate() {
            let (want, got) = (
                fp8(code, fraction),
                f16::from_bits(got[2 * usize::from(code) + k]).to_f64(),
            );
            assert!(
                got == want || (got.is_nan() && want.is_nan()),
                "{code:#x}: {got}, not {want}"
            );
        }
    }

    let mut random = Random(14);
    let mut x: Vec<f32> = vec![
        0.0,
        -0.0,
        1e6,
        -1e6,
        448.0,
        464.0,
        480.0,
        57344.0,
        61440.0,
        1e-9,
        f32::INFINITY,
        17.0,
    ];
    x.resize_with(128, || random.unit() * 2f32.powi(random.below(28) as i32 - 18));
    let (input, out) = (gpu.upload(&x), gpu.alloc(256));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "to_fp8", Shape::new(1, 64), &args);
    let got = gpu.download::<u8>(out, 256);
    for (i, &x) in x.iter().enumerate() {
        for (k, fraction) in [3, 2].into_iter().enumerate() {
            // The nearest finite number; of two as near, the one with an even code.
            let nearest = (0..=127u8)
                .filter(|&code| fp8(code, fraction).is_finite())
                .min_by(|&a, &b| {
                    let distance = |code: u8| (fp8(code, fraction) - f64::from(x.abs()).min(1e6)).abs();
                    distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))
                })
                .unwrap();
            let want = nearest | u8::from(x.is_sign_negative()) << 7;
            // Pair i / 2: two formats, each with the low byte first.
            assert_eq!(got[i / 2 * 4 + 2 * k + i % 2], want, "{x} with {fraction} bits");
        }
    }
}

// --- Warps ----------------------------------------------------------------------------------------------

#[test]
fn votes_and_matches() {
    let (mut gpu, module) = load!("warp.cu");
    let x: Vec<i32> = (0..32).map(|i| (i * 11 % 13) - 5).collect();
    let (input, out) = (gpu.upload(&x), gpu.alloc(32 * 32));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "votes", Shape::new(1, 32), &args);
    let got = gpu.download::<u32>(out, 256);
    let ballot = |test: &dyn Fn(usize) -> bool| (0..32).fold(0u32, |mask, i| mask | u32::from(test(i)) << i);
    let mut classes: HashMap<i32, u32> = HashMap::new();
    for (i, value) in x.iter().enumerate() {
        *classes.entry(value % 4).or_default() |= 1 << i;
    }
    for lane in 0..32 {
        let want = [
            ballot(&|i| x[i] > 0),
            0,
            1,
            if lane % 3 == 0 {
                ballot(&|i| i % 3 == 0 && i > 10)
            } else {
                0
            },
            classes[&(x[lane] % 4)],
            0,
            0,
            // All lanes agree: their mask, and one for the predicate.
            u32::MAX.wrapping_add(1),
        ];
        assert_eq!(got[8 * lane..8 * lane + 8], want, "lane {lane}");
    }
}

#[test]
fn reductions_of_a_warp() {
    let (mut gpu, module) = load!("warp.cu");
    let mut random = Random(15);
    let x = ints(&mut random, 32);
    let (input, out) = (gpu.upload(&x), gpu.alloc(32 * 32));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "reductions", Shape::new(1, 32), &args);
    let got = gpu.download::<u32>(out, 256);
    let unsigned: Vec<u32> = x.iter().map(|&value| value as u32).collect();
    let odd = (1..32)
        .step_by(2)
        .fold(0u32, |sum, i| sum.wrapping_add(unsigned[i]));
    for lane in 0..32 {
        let want = [
            unsigned.iter().fold(0u32, |sum, &value| sum.wrapping_add(value)),
            *x.iter().min().unwrap() as u32,
            *x.iter().max().unwrap() as u32,
            *unsigned.iter().min().unwrap(),
            unsigned.iter().fold(u32::MAX, |all, &value| all & value),
            unsigned.iter().fold(0, |any, &value| any | value),
            unsigned.iter().fold(0, |parity, &value| parity ^ value),
            if lane % 2 == 1 { odd } else { 0 },
        ];
        assert_eq!(got[8 * lane..8 * lane + 8], want, "lane {lane}");
    }
}

#[test]
fn shuffles_within_segments() {
    let (mut gpu, module) = load!("warp.cu");
    let mut random = Random(16);
    let x = ints(&mut random, 32);
    let (input, out) = (gpu.upload(&x), gpu.alloc(32 * 40));
    let args = Args::new().with(input).with(out);
    gpu.launch(&module, "shuffles", Shape::new(1, 32), &args);
    let got = gpu.download::<i64>(out, 160);
    for lane in 0..32usize {
        let (segment, within) = (lane / 8 * 8, lane % 8);
        let from = [
            segment + lane * 7 % 8,
            if within >= 3 { lane - 3 } else { lane },
            if within + 3 < 8 { lane + 3 } else { lane },
            segment + (within ^ 5),
        ];
        for (k, &from) in from.iter().enumerate() {
            assert_eq!(got[5 * lane + k], i64::from(x[from]), "lane {lane}, {k}");
        }
        assert_eq!(got[5 * lane + 4], i64::from(x[5]) << 20);
    }
}

/// The same with blocks on several threads and everything shuffled: no answer hangs on the order.
#[test]
fn in_any_order() {
    let tests: &[fn()] = &[
        reductions_by_shuffle_and_shared_memory,
        transposes,
        histograms,
        atomics_of_every_kind,
        scans,
        gemm_of_bf16_through_the_tensor_cores,
        flash_attention_over_sequences_of_different_lengths,
        every_shape_of_mma,
        matrices_stored_by_stmatrix,
        cooperative_grid_barrier,
        pipelines_of_asynchronous_copies,
        asynchronous_copies_fill_with_zeros,
        producers_and_consumers_with_named_barriers,
        lanes_of_a_warp_fight_for_a_lock,
        recursion_and_function_pointers,
        printf_writes_what_c_would,
        assertions_say_what_was_asserted,
        local_memory,
        control_flow,
        switches_and_jump_tables,
        warps_that_leave_before_a_barrier,
        large_parameters,
        variables_of_the_module,
        dynamic_shared_memory_and_dimensions,
        dot_products_of_bytes,
        double_precision,
        pairs_of_half_numbers,
        conversions_round_as_asked,
        bits,
        eight_bit_floats,
        votes_and_matches,
        reductions_of_a_warp,
        shuffles_within_segments,
    ];
    // More orders in the exhaustive run.
    let seeds = if std::env::var_os("ROPEWAY_TEST_ALL").is_some() {
        12
    } else {
        2
    };
    for seed in 1..=seeds {
        for test in tests {
            harness::shuffled(seed, test);
        }
    }
}
