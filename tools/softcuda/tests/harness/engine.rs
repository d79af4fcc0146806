//! The engine's kernels for compute capability 9.0 (`cuda/sm90`), with inputs for a run.

use std::path::Path;

use softcuda::memory::{Fill, Swizzle, TensorMap};

use super::{Args, Ended, Gpu, Random, Shape};
use softcuda::machine::Module;

/// A constant of `cuda/params.h`.
fn constant(name: &str) -> u32 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cuda/params.h");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .find_map(|line| {
            line.strip_prefix("#define ")?
                .strip_prefix(name)?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("params.h has no number {name}"))
}

fn bf16(value: f32) -> u16 {
    half::bf16::from_f32(value).to_bits()
}

/// What was never written.
pub const UNWRITTEN: u16 = 0xffff;

/// A launch of one of the kernels, ready to run.
pub struct Run {
    pub kernel: String,
    shape: Shape,
    args: Args,
    out: u64,
    /// Elements.
    size: usize,
}

/// A matrix of bf16 as boxes of 64 columns.
fn map(address: u64, rows: usize, columns: usize, stride: usize, box_rows: u32) -> [u8; 128] {
    TensorMap {
        address,
        rank: 2,
        element: 2,
        dimensions: [columns as u64, rows as u64, 1],
        strides: [2 * stride as u64, 0],
        tile: [64, box_rows, 1],
        swizzle: Swizzle::B128,
        fill: Fill::Zero,
    }
    .encode()
}

/// Small whole numbers, whose sums are exact; behind `rows` NaN, which is read and must not count.
fn numbers(random: &mut Random, rows: usize, all: usize, columns: usize) -> Vec<u16> {
    let mut values: Vec<u16> = (0..rows * columns)
        .map(|_| bf16(random.below(5) as f32 - 2.0))
        .collect();
    values.resize(all * columns, bf16(f32::NAN));
    values
}

impl Run {
    /// out = x Wᵀ + h Bᵀ + bias by a tile of `sm90/gemm.cu` (`pingpong`, …): tokens, n, k and the columns of h.
    pub fn gemm(gpu: &mut Gpu, tile: &str, [tokens, n, k, columns]: [usize; 4], blocks: u32) -> Self {
        let of = |what: &str| constant(&format!("GEMM_{}_{what}", tile.to_uppercase()));
        let (rows, out_rows) = (of("ROWS"), constant("GEMM_SM90_OUT_ROWS"));
        let mut random = Random(7);
        let all = tokens.next_multiple_of(64);
        let mut upload = |rows, all, columns| gpu.upload(&numbers(&mut random, rows, all, columns));
        let (x, w) = (upload(tokens, all, k), upload(n, n, k));
        // A map has a column at least.
        let (h, b) = (
            upload(tokens, all, columns.max(16)),
            upload(n, n, columns.max(16)),
        );
        let bias = upload(1, 1, n);
        let (count, out) = (
            gpu.upload(&[tokens as u32]),
            gpu.upload(&vec![UNWRITTEN; all * n]),
        );
        let adapted = columns.max(16);
        let maps = [
            map(x, all, k, k, rows),
            map(w, n, k, k, of("COLUMNS")),
            map(h, all, columns.max(1), adapted, rows),
            map(b, n, columns.max(1), adapted, of("COLUMNS")),
            map(out, all, n, n, out_rows),
        ];
        let mut args = Args::new();
        for map in &maps {
            args = args.with_bytes(map, 64);
        }
        for pointer in [count, x, w, h, b, bias, 0, out] {
            args = args.with(pointer);
        }
        // No rotation.
        args = args.with(0u64).with(0u64).with(0u32).with(0f32);
        // n, k, columns; strides of x, residual and out; no GELU.
        for number in [n, k, columns, k, 0, n, 0, 0] {
            args = args.with(number as u32);
        }
        Self {
            kernel: format!("gemm_bf16_{tile}"),
            shape: Shape {
                shared: of("SHARED"),
                programmatic: true,
                ..Shape::new(blocks, of("THREADS"))
            },
            args: args.with(0u64),
            out,
            size: all * n,
        }
    }

    /// softmax(q kᵀ / 8) v of sequences of these lengths, by `attention_bf16_hd64_` and the tile's name (`wgmma128`, …).
    pub fn attention(gpu: &mut Gpu, tile: &str, lengths: &[usize], heads: usize, blocks: u32) -> Self {
        let of = |what: &str| constant(&format!("ATTENTION_{}_{what}", tile.to_uppercase()));
        let rows = of("ROWS");
        let tokens: usize = lengths.iter().sum();
        // What follows the last sequence belongs to somebody else.
        let all = tokens.next_multiple_of(64) + 64;
        let width = 3 * heads * 64;
        let qkv = gpu.upload(&numbers(&mut Random(9), tokens, all, width));
        let mut starts = vec![0u32];
        for length in lengths {
            starts.push(starts[starts.len() - 1] + *length as u32);
        }
        let mut longest: Vec<usize> = (0..lengths.len()).collect();
        longest.sort_by_key(|&sequence| std::cmp::Reverse(lengths[sequence]));
        let tiles: Vec<u32> = longest
            .into_iter()
            .flat_map(|sequence| {
                (0..lengths[sequence] as u32)
                    .step_by(rows as usize)
                    .flat_map(move |first| [sequence as u32, first])
            })
            .collect();
        let (count, tile_list) = (gpu.upload(&[tiles.len() as u32 / 2]), gpu.upload(&tiles));
        let starts = gpu.upload(&starts);
        let out_stride = heads * 64;
        let out = gpu.upload(&vec![UNWRITTEN; all * out_stride]);
        let args = Args::new()
            .with_bytes(&map(qkv, all, width, width, rows), 64)
            .with(count)
            .with(tile_list)
            .with(starts)
            .with(qkv)
            .with(0u64)
            .with(out)
            .with(heads as u32)
            .with(0.125f32)
            .with(width as u32)
            .with(out_stride as u32)
            .with(0u64)
            .with_bytes(&[0; 56], 8);
        Self {
            kernel: format!("attention_bf16_hd64_{tile}"),
            shape: Shape {
                shared: of("SHARED"),
                programmatic: true,
                ..Shape::new(blocks, of("THREADS"))
            },
            args,
            out,
            size: all * out_stride,
        }
    }

    /// How it ended, and all of out.
    pub fn launch(&self, gpu: &mut Gpu, module: &Module) -> (Ended, Vec<u16>) {
        let ended = gpu.try_launch(module, &self.kernel, self.shape, &self.args);
        (ended, gpu.download(self.out, self.size))
    }
}
