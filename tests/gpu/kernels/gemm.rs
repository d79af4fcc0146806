//! `gemm_{bf16,f16}_{large,medium,small64,small16,split16}`, and on compute capability 9.0 those of
//! `sm90/gemm.cu`.

use half::{bf16, f16};

use super::device::{Device, WILD};
use super::gelu::{ERROR, normal_cdf};
use super::numbers::{Number, Random, Real, assert_close, assert_row_of_nan, assert_same, assert_untouched};
use super::params::*;
use super::{Case, exhaustive, for_each_seed};

/// A tile. The elements of out do not depend on it.
#[derive(Debug)]
struct Variant {
    name: &'static str,
    rows: u32,
    columns: u32,
    threads: u32,
    shared: u32,
}

/// Those of compute capability 9.0: blocks that take any number of tiles, and matrices as maps.
const SM90: [Variant; 5] = [
    Variant {
        name: "wide",
        rows: GEMM_WIDE_ROWS,
        columns: GEMM_WIDE_COLUMNS,
        threads: GEMM_WIDE_THREADS,
        shared: GEMM_WIDE_SHARED,
    },
    Variant {
        name: "pingpong",
        rows: GEMM_PINGPONG_ROWS,
        columns: GEMM_PINGPONG_COLUMNS,
        threads: GEMM_PINGPONG_THREADS,
        shared: GEMM_PINGPONG_SHARED,
    },
    Variant {
        name: "square",
        rows: GEMM_SQUARE_ROWS,
        columns: GEMM_SQUARE_COLUMNS,
        threads: GEMM_SQUARE_THREADS,
        shared: GEMM_SQUARE_SHARED,
    },
    Variant {
        name: "half",
        rows: GEMM_HALF_ROWS,
        columns: GEMM_HALF_COLUMNS,
        threads: GEMM_HALF_THREADS,
        shared: GEMM_HALF_SHARED,
    },
    Variant {
        name: "quarter",
        rows: GEMM_QUARTER_ROWS,
        columns: GEMM_QUARTER_COLUMNS,
        threads: GEMM_QUARTER_THREADS,
        shared: GEMM_QUARTER_SHARED,
    },
];

/// The one with other bits.
const SPLIT16: Variant = Variant {
    name: "split16",
    rows: GEMM_SPLIT16_ROWS,
    columns: GEMM_SPLIT16_COLUMNS,
    threads: GEMM_SPLIT16_THREADS,
    shared: GEMM_SPLIT16_SHARED,
};

/// Those that a device has, all with the same bits.
fn variants(device: &Device) -> Vec<&'static Variant> {
    let sm90 = SM90.iter().filter(|_| device.capability() == (9, 0));
    VARIANTS.iter().chain(sm90).collect()
}

const VARIANTS: [Variant; 4] = [
    Variant {
        name: "small16",
        rows: GEMM_SMALL16_ROWS,
        columns: GEMM_SMALL16_COLUMNS,
        threads: GEMM_SMALL16_THREADS,
        shared: GEMM_SMALL16_SHARED,
    },
    Variant {
        name: "small64",
        rows: GEMM_SMALL64_ROWS,
        columns: GEMM_SMALL64_COLUMNS,
        threads: GEMM_SMALL64_THREADS,
        shared: GEMM_SMALL64_SHARED,
    },
    Variant {
        name: "medium",
        rows: GEMM_MEDIUM_ROWS,
        columns: GEMM_MEDIUM_COLUMNS,
        threads: GEMM_MEDIUM_THREADS,
        shared: GEMM_MEDIUM_SHARED,
    },
    Variant {
        name: "large",
        rows: GEMM_LARGE_ROWS,
        columns: GEMM_LARGE_COLUMNS,
        threads: GEMM_LARGE_THREADS,
        shared: GEMM_LARGE_SHARED,
    },
];

/// The epilogue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Then {
    Nothing,
    Residual,
    /// The residual is out.
    ResidualInPlace,
    Gelu,
    ResidualGelu,
    /// RoPE with this head_dim; n is a multiple of three.
    Rope(usize),
    /// RoPE of the sum with a residual, which is out.
    ResidualRope(usize),
}

impl Then {
    /// 0 without RoPE.
    fn head_dim(self) -> usize {
        match self {
            Then::Rope(head_dim) | Then::ResidualRope(head_dim) => head_dim,
            _ => 0,
        }
    }

    fn in_place(self) -> bool {
        matches!(self, Then::ResidualInPlace | Then::ResidualRope(_))
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
struct Shape {
    tokens: usize,
    n: usize,
    k: usize,
    /// Columns of h.
    columns: usize,
    bias: bool,
    then: Then,
    /// Elements between the end of a row and the next.
    gap: usize,
    seed: u64,
}

const TOKENS: [usize; 9] = [1, 7, 16, 17, 63, 64, 65, 129, 200];
/// n and k: a single vector; parts of a tile, of a k-block and of a k-step; several of each.
const SIZES: [(usize, usize); 9] = [
    (8, 8),
    (24, 24),
    (64, 128),
    (128, 64),
    (384, 40),
    (136, 384),
    (1024, 8),
    (16, 1024),
    (48, 3072),
];
/// None; in the last k-block few enough for half of its products, and as many; more; a k-block, and few.
const COLUMNS: [usize; 5] = [0, 16, 32, 48, 80];
const THENS: [Then; 5] = [
    Then::Nothing,
    Then::Residual,
    Then::Gelu,
    Then::ResidualInPlace,
    Then::ResidualGelu,
];

impl Shape {
    /// All values of every dimension, the slow ones with few tokens. If `exhaustive`, each number of tokens with each size
    /// has all columns and all epilogues, which the kernels deal with one after the other.
    fn all() -> Vec<Shape> {
        let mut shapes = Vec::new();
        for (t, &tokens) in TOKENS.iter().enumerate() {
            for (s, &(n, k)) in SIZES.iter().enumerate() {
                let dear = tokens.next_multiple_of(128) * n.next_multiple_of(128) * k.max(128) > 1 << 22;
                let wanted = if dear { t == s } else { (t + s) % 3 == 0 };
                if !exhaustive() && !wanted {
                    continue;
                }
                for (c, &columns) in COLUMNS.iter().enumerate() {
                    for (f, &then) in THENS.iter().enumerate() {
                        let turn = t + 2 * s + c + f;
                        let wanted = match exhaustive() {
                            true => (c + f) % THENS.len() == (t + s) % THENS.len(),
                            false => c == (t + s / 3) % COLUMNS.len() && f == (t + s) % THENS.len(),
                        };
                        if !wanted {
                            continue;
                        }
                        shapes.push(Shape {
                            tokens,
                            n,
                            k,
                            columns,
                            bias: turn % 3 != 0,
                            then,
                            gap: [0, 8, 24][turn % 3],
                            seed: turn as u64,
                        });
                    }
                }
            }
        }
        shapes
    }

    /// Cases of Wqkv: heads narrower and wider than the tiles.
    fn rotated() -> Vec<Shape> {
        let mut shapes = Vec::new();
        for (t, &tokens) in [17, 1, 70, 150].iter().enumerate() {
            for (d, &head_dim) in [32, 64, 128].iter().enumerate() {
                for heads in [1, 2, 3] {
                    if !exhaustive() && (tokens != 17 && heads > 1 || tokens == 150 && head_dim > 32) {
                        continue;
                    }
                    shapes.push(Shape {
                        tokens,
                        n: 3 * heads * head_dim,
                        k: [64, 24, 136][(t + d) % 3],
                        columns: COLUMNS[(t + d + heads) % 3],
                        bias: (d + heads) % 3 != 0,
                        then: match (t + heads) % 2 {
                            0 => Then::ResidualRope(head_dim),
                            _ => Then::Rope(head_dim),
                        },
                        gap: [0, 8, 24][(t + d) % 3],
                        seed: (t + d + heads) as u64,
                    });
                }
            }
        }
        shapes
    }
}

/// One of the elements.
fn any<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.below(of.len())]
}

impl Shape {
    /// Any tokens, sizes, columns and epilogue. A large n comes with a small k.
    fn random(seed: u64) -> Shape {
        let random = &mut Random::new(seed);
        let longest = any(random, &[8, 64, 256, 1000]);
        let k = 8 * (1 + random.below(longest / 8));
        let head_dim = any(random, &[32, 64, 128]);
        let then = [&THENS[..], &[Then::Rope(head_dim), Then::ResidualRope(head_dim)]].concat();
        let then = any(random, &then);
        let n = match then.head_dim() {
            0 => 8 * (1 + random.below((1 << 16) / k.max(128) / 8)),
            head_dim => 3 * head_dim * (1 + random.below(2)),
        };
        let most = any(random, &[16, 64, 200]);
        Shape {
            tokens: 1 + random.below(most),
            n,
            k,
            columns: 16 * random.below(9),
            bias: random.below(3) > 0,
            then,
            gap: any(random, &[0, 8, 24]),
            seed,
        }
    }
}

/// The inputs of a case; rows without their gaps.
#[derive(Clone)]
struct Inputs<T> {
    shape: Shape,
    /// [tokens, k]
    x: Vec<T>,
    /// [n, k]
    w: Vec<T>,
    /// [tokens, columns]
    h: Vec<T>,
    /// [n, columns]
    b: Vec<T>,
    /// [n]
    bias: Vec<T>,
    /// [tokens, n]
    residual: Vec<T>,
    /// [positions, head_dim / 2] cosines and sines.
    table: Vec<[f32; 2]>,
    /// [tokens]
    positions: Vec<u32>,
}

const POSITIONS: usize = 300;
const Q_SCALE: f32 = 0.17;

impl<T: Number> Inputs<T> {
    fn new(shape: &Shape) -> Inputs<T> {
        let Shape {
            tokens,
            n,
            k,
            columns,
            then,
            ..
        } = *shape;
        let random = &mut Random::new(shape.seed);
        let half = then.head_dim() / 2;
        // Sums between about -3 and 3, where GELU is not linear.
        let spread = 3.0 / ((k + columns) as f32).sqrt();
        let table = (0..POSITIONS * half).map(|at| {
            let (position, i) = (at / half, at % half);
            let angle = position as f64 * 10_000_f64.powf(-(i as f64) / half as f64);
            [angle.cos() as f32, angle.sin() as f32]
        });
        Inputs {
            shape: *shape,
            x: random.numbers(tokens * k, 0.0, 1.0),
            w: random.numbers(n * k, 0.0, spread),
            h: random.numbers(tokens * columns, 0.0, 1.0),
            b: random.numbers(n * columns, 0.0, spread),
            bias: random.numbers(n, 0.0, 1.0),
            residual: random.numbers(tokens * n, 0.0, 2.0),
            table: table.collect(),
            positions: (0..tokens).map(|_| random.below(POSITIONS) as u32).collect(),
        }
    }

    /// The rows from `first` on, as a separate batch.
    fn rows(&self, first: usize, tokens: usize) -> Inputs<T> {
        let Shape { n, k, columns, .. } = self.shape;
        let of = |numbers: &[T], width: usize| numbers[first * width..][..tokens * width].to_vec();
        Inputs {
            shape: Shape { tokens, ..self.shape },
            x: of(&self.x, k),
            h: of(&self.h, columns),
            residual: of(&self.residual, n),
            positions: self.positions[first..][..tokens].to_vec(),
            ..self.clone()
        }
    }

    /// [tokens, n]
    fn reference<R: Real>(&self) -> Vec<R> {
        let Shape {
            tokens,
            n,
            k,
            columns,
            then,
            ..
        } = self.shape;
        let number = |number: T| R::from(number.to_f32());
        let mut out = Vec::new();
        for row in 0..tokens {
            let mut sums: Vec<R> = Vec::new();
            for column in 0..n {
                let mut sum = R::from(0.0);
                for (&x, &w) in self.x[row * k..][..k].iter().zip(&self.w[column * k..]) {
                    sum += number(x) * number(w);
                }
                for (&h, &b) in self.h[row * columns..][..columns]
                    .iter()
                    .zip(&self.b[column * columns..])
                {
                    sum += number(h) * number(b);
                }
                if self.shape.bias {
                    sum += number(self.bias[column]);
                }
                if then.in_place() || matches!(then, Then::Residual | Then::ResidualGelu) {
                    sum += number(self.residual[row * n + column]);
                }
                if matches!(then, Then::Gelu | Then::ResidualGelu) {
                    sum = sum * R::from(normal_cdf(sum.into()) as f32);
                }
                sums.push(sum);
            }
            let head_dim = then.head_dim();
            if head_dim > 0 {
                let half = head_dim / 2;
                for (head, pairs) in sums[..n / 3 * 2].chunks_mut(head_dim).enumerate() {
                    let scale = if head < n / 3 / head_dim { Q_SCALE } else { 1.0 };
                    for i in 0..half {
                        let [cos, sin] = self.table[self.positions[row] as usize * half + i].map(R::from);
                        let (a, b) = (pairs[i], pairs[i + half]);
                        pairs[i] = (a * cos - b * sin) * R::from(scale);
                        pairs[i + half] = (b * cos + a * sin) * R::from(scale);
                    }
                }
            }
            out.extend(sums.into_iter().map(R::written::<T>));
        }
        out
    }

    /// [tokens, n]. Panics if anything else was written.
    fn run(&self, device: &Device, variant: &Variant) -> Vec<T> {
        // A grid for more tokens than there are: some blocks have a part of their rows, some none.
        let bucket = (self.shape.tokens + 1).next_multiple_of(16) + variant.rows as usize;
        self.run_first(device, variant, self.shape.tokens, bucket)
    }

    /// As `run`, with the first rows alone, on a grid for `bucket` rows.
    fn run_first(&self, device: &Device, variant: &Variant, tokens: usize, bucket: usize) -> Vec<T> {
        let Shape {
            n,
            k,
            columns,
            bias,
            then,
            gap,
            ..
        } = self.shape;
        // The allocation ends with the last row, without its gap.
        let padded = |numbers: &[T], width: usize| -> Vec<T> {
            let mut rows: Vec<T> = Vec::new();
            for row in numbers.chunks(width) {
                rows.resize(rows.len().next_multiple_of(width + gap), T::NAN);
                rows.extend(row);
            }
            rows
        };
        let count = device.upload(&[tokens as u32]);
        let (x, w) = (device.upload(&padded(&self.x, k)), device.upload(&self.w));
        let (h, b) = (device.upload(&self.h), device.upload(&self.b));
        let bias_numbers = device.upload(&self.bias);
        let residual = device.upload(&padded(&self.residual, n));
        let (table, positions) = (device.upload(&self.table), device.upload(&self.positions));
        let written = device.output::<T>(bucket * (n + gap));
        if then.in_place() {
            for (row, numbers) in self.residual.chunks(n).take(tokens).enumerate() {
                written.write(row * (n + gap), numbers);
            }
        }
        let head_dim = then.head_dim();
        let params = GemmParams {
            tokens: count.address(),
            x: x.address(),
            w: w.address(),
            h: if columns > 0 { h.address() } else { WILD },
            b: if columns > 0 { b.address() } else { WILD },
            bias: if bias { bias_numbers.address() } else { 0 },
            residual: match then {
                Then::Residual | Then::ResidualGelu => residual.address(),
                _ if then.in_place() => written.address(),
                _ => 0,
            },
            out: written.address(),
            rope: Rope {
                table: if head_dim > 0 { table.address() } else { 0 },
                position_of_row: if head_dim > 0 { positions.address() } else { WILD },
                head_dim: head_dim as u32,
                q_scale: Q_SCALE,
            },
            n: n as u32,
            k: k as u32,
            columns: columns as u32,
            x_stride: (k + gap) as u32,
            residual_stride: (n + gap) as u32,
            out_stride: (n + gap) as u32,
            gelu: u32::from(matches!(then, Then::Gelu | Then::ResidualGelu)),
            reserved: 0,
        };
        let tiles = (
            (n as u32).div_ceil(variant.columns),
            (bucket as u32).div_ceil(variant.rows),
        );
        let (entry, Variant { threads, shared, .. }) =
            (format!("gemm_{}_{}", T::NAME, variant.name), variant);
        if SM90.iter().all(|known| known.name != variant.name) {
            let kernel = device.kernel("gemm", &entry);
            kernel.launch_grid(tiles, *threads, *shared, &params);
        } else {
            // More tiles than blocks, and the other way around.
            let blocks = 1 + (tiles.0 * tiles.1 / 2 + self.shape.seed as u32) % 5;
            let kernel = device.kernel("sm90/gemm", &entry);
            kernel.launch(
                blocks,
                *threads,
                *shared,
                &self.with_maps(device, variant, &params, tokens),
            );
        }

        let mut got = Vec::new();
        for (row, numbers) in written.download().chunks(n + gap).enumerate() {
            let inside = if row < tokens { n } else { 0 };
            got.extend(&numbers[..inside]);
            assert_untouched(&format!("row {row} past its end"), &numbers[inside..]);
        }
        got
    }

    /// Parameters of the variants of compute capability 9.0. The maps have the rows that the operands have, not those of
    /// the bucket.
    fn with_maps(
        &self,
        device: &Device,
        variant: &Variant,
        params: &GemmParams,
        tokens: usize,
    ) -> GemmSm90Params {
        let map = |address: u64, rows: usize, columns: u32, stride: u32, box_rows: u32| TensorMap {
            words: device.tensor_map::<T>(address, [rows as u64, columns.into(), stride.into()], box_rows),
        };
        let p = params;
        let (rows, n) = (tokens.max(1), p.n as usize);
        let lora = |address: u64, rows: usize, box_rows: u32| match p.columns {
            0 => bytemuck::Zeroable::zeroed(),
            columns => map(address, rows, columns, columns, box_rows),
        };
        GemmSm90Params {
            x: map(p.x, rows, p.k, p.x_stride, variant.rows),
            w: map(p.w, n, p.k, p.k, variant.columns),
            h: lora(p.h, rows, variant.rows),
            b: lora(p.b, n, variant.columns),
            out: map(p.out, rows, p.n, p.out_stride, GEMM_SM90_OUT_ROWS),
            gemm: GemmParams {
                x: WILD,
                w: WILD,
                h: WILD,
                b: WILD,
                ..*p
            },
            stall: 0,
        }
    }

    /// The result of all variants; panics if they differ.
    fn run_all(&self, device: &Device) -> Vec<T> {
        let first = self.run(device, &VARIANTS[0]);
        // The narrowest tile has no whole heads of 128 elements.
        let whole = |variant: &&Variant| variant.name != "quarter" || self.shape.then.head_dim() <= 64;
        for variant in variants(device).into_iter().skip(1).filter(whole) {
            let what = format!("{}, and not as {} has it", variant.name, VARIANTS[0].name);
            assert_same(&what, &self.run(device, variant), &first);
        }
        first
    }

    fn check(&self, got: &[T]) {
        let (plain, exact) = (self.reference::<f32>(), self.reference::<f64>());
        assert_close("out", got, &plain, &exact);
    }
}

/// One launch of bfloat16, for `counts`.
pub fn launch(device: &Device, variant: &str, [tokens, n, k, columns]: [usize; 4], then: Then) {
    let shape = Shape {
        tokens,
        n,
        k,
        columns,
        bias: true,
        then,
        gap: 0,
        seed: 1,
    };
    let mut all = VARIANTS.iter().chain(&SM90).chain([&SPLIT16]);
    let variant = all.find(|known| known.name == variant);
    Inputs::<bf16>::new(&shape).run(device, variant.expect("it is one of the variants"));
}

fn table<T: Number>(shapes: &[Shape]) {
    let Some(device) = Device::open() else { return };
    for shape in shapes {
        let _case = Case(shape);
        let inputs = Inputs::<T>::new(shape);
        inputs.check(&inputs.run_all(&device));
        // With several rows of tiles too, for which no plan has it, but not with all.
        if shape.tokens <= 64 {
            inputs.check(&inputs.run(&device, &SPLIT16));
        }
    }
}

#[test]
fn gemm_bf16_is_the_formula_in_every_variant() {
    table::<bf16>(&Shape::all());
}

#[test]
fn gemm_f16_is_the_formula_in_every_variant() {
    table::<f16>(&Shape::all());
}

#[test]
fn gemm_of_random_shapes_is_the_formula_in_every_variant() {
    for_each_seed(4, 80, |seed| {
        let shape = [Shape::random(seed)];
        match seed % 2 {
            0 => table::<f16>(&shape),
            _ => table::<bf16>(&shape),
        }
    });
}

#[test]
fn gemm_rotates_q_and_k_in_every_variant() {
    let shapes = Shape::rotated();
    table::<bf16>(&shapes);
    table::<f16>(&shapes[..if exhaustive() { shapes.len() } else { 5 }]);
}

/// A shape for the tests of what must not matter: several blocks of all tiles but the largest.
fn mixed(then: Then, columns: usize) -> Shape {
    Shape {
        tokens: 70,
        n: 96,
        k: 72,
        columns,
        bias: true,
        then,
        gap: 8,
        seed: 5,
    }
}

#[test]
fn gemm_sums_a_long_k() {
    let shape = Shape {
        tokens: 3,
        n: 16,
        k: 4096,
        columns: 16,
        ..mixed(Then::Nothing, 16)
    };
    table::<bf16>(&[shape]);
    table::<f16>(&[shape]);
}

#[test]
fn gemm_has_the_same_bits_in_any_batch() {
    let Some(device) = Device::open() else { return };
    for then in [Then::ResidualGelu, Then::Rope(32)] {
        let shape = mixed(then, 16);
        let _case = Case(&shape);
        let inputs = Inputs::<bf16>::new(&shape);
        let together = inputs.run(&device, &VARIANTS[3]);
        // At other rows of other tiles.
        for (variant, first, tokens) in [(0, 0, 1), (0, 69, 1), (1, 13, 9), (2, 3, 67), (3, 31, 1)] {
            let got = inputs.rows(first, tokens).run(&device, &VARIANTS[variant]);
            assert_same(
                "some rows",
                &got,
                &together[first * shape.n..][..tokens * shape.n],
            );
        }
    }
}

#[test]
fn gemm_without_adapters_is_gemm_with_a_down_projection_of_zeros() {
    let Some(device) = Device::open() else { return };
    for columns in [16, 80] {
        let shape = mixed(Then::Nothing, columns);
        let _case = Case(&shape);
        let mut inputs = Inputs::<f16>::new(&shape);
        let with = inputs.run_all(&device);
        inputs.h.fill(f16::ZERO);
        let zeros = inputs.run_all(&device);
        assert!(with != zeros);
        inputs.shape.columns = 0;
        assert_same("without columns", &inputs.run_all(&device), &zeros);
    }
}

#[test]
fn a_row_of_nan_leaves_the_rows_of_gemm_beside_it_alone() {
    let Some(device) = Device::open() else { return };
    let (n, bad) = (192, 21);
    for then in [Then::Residual, Then::Rope(64)] {
        let shape = Shape { n, ..mixed(then, 16) };
        let _case = Case(&shape);
        for from in ["x", "h"] {
            let mut inputs = Inputs::<bf16>::new(&shape);
            let clean = inputs.run_all(&device);
            match from {
                "x" => inputs.x[bad * shape.k..][..shape.k].fill(bf16::NAN),
                _ => inputs.h[bad * 16..][..16].fill(bf16::NAN),
            }
            let got = inputs.run_all(&device);
            assert_row_of_nan(bad, n, &got, &clean);
        }
    }
}

#[test]
fn gemm_reads_the_number_of_tokens_on_the_device() {
    let Some(device) = Device::open() else { return };
    for then in [Then::Residual, Then::ResidualInPlace, Then::ResidualRope(32)] {
        let shape = mixed(then, 16);
        let _case = Case(&shape);
        let inputs = Inputs::<bf16>::new(&shape);
        let all = inputs.run(&device, &VARIANTS[0]);
        for variant in variants(&device) {
            // One grid, as in a captured graph, with fewer tokens at every launch; rows past them are NaN.
            for tokens in [69, 64, 1, 0] {
                let mut inputs = inputs.clone();
                inputs.x[tokens * shape.k..].fill(bf16::NAN);
                inputs.h[tokens * shape.columns..].fill(bf16::NAN);
                inputs.residual[tokens * shape.n..].fill(bf16::NAN);
                inputs.positions[tokens..].fill(u32::MAX);
                let got = inputs.run_first(&device, variant, tokens, 160);
                assert_same("the first rows", &got, &all[..tokens * shape.n]);
            }
        }
    }
}

/// Its rows are their own too, as long as it is this kernel that computes them.
#[test]
fn gemm_split16_has_the_same_bits_in_any_rows_of_a_tile() {
    let Some(device) = Device::open() else { return };
    for then in [Then::ResidualGelu, Then::ResidualRope(32)] {
        let shape = Shape {
            tokens: 16,
            k: 1000,
            ..mixed(then, 80)
        };
        let _case = Case(&shape);
        let mut inputs = Inputs::<bf16>::new(&shape);
        let together = inputs.run(&device, &SPLIT16);
        for (first, tokens) in [(0, 1), (15, 1), (3, 9)] {
            let got = inputs.rows(first, tokens).run(&device, &SPLIT16);
            let wanted = &together[first * shape.n..][..tokens * shape.n];
            assert_same("some rows", &got, wanted);
        }
        let few = 5;
        inputs.x[few * shape.k..].fill(bf16::NAN);
        inputs.h[few * shape.columns..].fill(bf16::NAN);
        inputs.positions[few..].fill(u32::MAX);
        for tokens in [few, 0] {
            let got = inputs.run_first(&device, &SPLIT16, tokens, 16);
            assert_same("the first rows", &got, &together[..tokens * shape.n]);
        }
    }
}

/// One number in each part of k, of which any other order or grouping has another sum.
#[test]
fn gemm_split16_adds_the_parts_of_k_in_their_order() {
    let Some(device) = Device::open() else { return };
    const LARGE: f32 = (1 << 24) as f32;
    let columns = [
        [1.0, LARGE, 1.0, -LARGE],
        [LARGE, 1.0, -LARGE, 1.0],
        [1.0, 1.0, LARGE, -LARGE],
        [LARGE, -LARGE, 1.0, 1.0],
        [LARGE, 1.0, 1.0, -LARGE],
        [0.0, 0.0, 0.0, 3.0],
        [5.0, 0.0, 0.0, 0.0],
        [-LARGE, 1.0, 1.0, LARGE],
    ];
    let k = 64 * GEMM_SPLIT16_PARTS as usize;
    let mut inputs = Inputs::<bf16>::new(&Shape {
        tokens: 1,
        n: columns.len(),
        k,
        columns: 0,
        bias: false,
        then: Then::Nothing,
        gap: 0,
        seed: 0,
    });
    let number = |at: usize, number: f32| bf16::from_f32(if at % 64 == 37 { number } else { 0.0 });
    inputs.x = (0..k).map(|at| number(at, 1.0)).collect();
    let row = |parts: &[f32; 4]| (0..k).map(|at| number(at, parts[at / 64])).collect();
    inputs.w = columns
        .iter()
        .flat_map(|parts| -> Vec<bf16> { row(parts) })
        .collect();
    let sums = columns.map(|[a, b, c, d]| bf16::from_f32(((a + b) + c) + d));
    assert_eq!(inputs.run(&device, &SPLIT16), sums);
}

/// Every value of the 16-bit type, through W = 1.
fn every_gelu<T: Number>(finite: impl Fn(T) -> bool, from_bits: impl Fn(u16) -> T, digits: i32) {
    let Some(device) = Device::open() else { return };
    let numbers: Vec<T> = (0..=u16::MAX).map(from_bits).filter(|&x| finite(x)).collect();
    let tokens = numbers.len() / 8;
    let mut inputs = Inputs::<T>::new(&Shape {
        tokens,
        n: 8,
        k: 8,
        columns: 0,
        bias: false,
        then: Then::Gelu,
        gap: 0,
        seed: 0,
    });
    inputs.x = numbers;
    inputs.w = (0..64)
        .map(|at| T::from_f32(if at / 8 == at % 8 { 1.0 } else { 0.0 }))
        .collect();
    for (&x, &got) in inputs.x.iter().zip(&inputs.run(&device, &VARIANTS[3])) {
        let x = f64::from(x.to_f32());
        let exact = x * normal_cdf(x);
        let got = f64::from(got.to_f32());
        // Half a unit in the last place for the one rounding, and 1 % of that for the function. The smallest values of
        // float16 are 2^-24 apart.
        let unit = 2_f64.powi(
            exact
                .abs()
                .log2()
                .floor()
                .max(if digits == 11 { -14.0 } else { -126.0 }) as i32
                - digits
                + 1,
        );
        let allowed = 0.5 * unit + exact.abs() * ERROR.0 + ERROR.1;
        assert!(
            (got - exact).abs() <= allowed,
            "GELU of {x} is {got}, not {exact}"
        );
    }
}

#[test]
fn gelu_is_exact_to_the_one_rounding() {
    every_gelu::<f16>(|x| x.is_finite(), f16::from_bits, 11);
    every_gelu::<bf16>(|x| x.is_finite() && x.to_f32().abs() < 1e30, bf16::from_bits, 8);
}
