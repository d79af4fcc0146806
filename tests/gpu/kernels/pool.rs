//! `pool_bf16`, `pool_f16`.

use bytemuck::bytes_of;
use half::{bf16, f16};
use ropeway::{Encoding, Vector};

use super::device::{Device, SENTINEL};
use super::numbers::{Number, Random, Real};
use super::params::{
    POOL_BINARY, POOL_F16, POOL_F32, POOL_HEAD_BYTES, POOL_INT8, POOL_MAX, POOL_MEAN, POOL_NORMALIZE,
    POOL_SHARED_BYTES, POOL_SQRT_LEN, POOL_THREADS, POOL_WEIGHTED, PoolParams, PoolRow,
};
use super::{Case, exhaustive};

/// Values of hidden_size: one vector; groups that do not fill a block; models' sizes; as wide as the block, wider, the
/// maximum.
const HIDDEN: [usize; 10] = [8, 40, 128, 384, 768, 1024, 1032, 4096, 4104, 8192];
const ROWS: [usize; 6] = [1, 7, 63, 64, 65, 700];
const FLAGS: [u32; 7] = [
    0,
    POOL_MEAN,
    POOL_NORMALIZE,
    POOL_MEAN | POOL_NORMALIZE,
    POOL_MAX | POOL_NORMALIZE,
    POOL_MEAN | POOL_WEIGHTED,
    POOL_MEAN | POOL_SQRT_LEN | POOL_NORMALIZE,
];
const ENCODINGS: [u32; 4] = [POOL_F16, POOL_INT8, POOL_F32, POOL_BINARY];
const HEAD: usize = POOL_HEAD_BYTES as usize;

/// A row of the table: one launch.
#[derive(Debug, Clone)]
struct Shape {
    hidden: usize,
    /// Elements between the end of a row of x and the next.
    gap: usize,
    mean: f32,
    /// Blocks: fewer than vectors, or more.
    blocks: u32,
    seed: usize,
}

fn shapes() -> Vec<Shape> {
    let seeds = if exhaustive() { 3 } else { 1 };
    let all = (0..HIDDEN.len()).flat_map(|h| (h..h + seeds).map(move |seed| (HIDDEN[h], seed)));
    all.map(|(hidden, seed)| Shape {
        hidden,
        gap: [0, 8, 40][seed % 3],
        mean: [0.0, 3.0][seed % 2],
        blocks: [5, 1, 200][seed / 2 % 3],
        seed,
    })
    .collect()
}

/// The first of that size.
fn shape(hidden: usize) -> Shape {
    let mut all = shapes().into_iter();
    all.find(|shape| shape.hidden == hidden)
        .expect("a size of the table")
}

/// The inputs of a launch.
#[derive(Clone)]
struct Inputs<T> {
    shape: Shape,
    /// [tokens, hidden_size], without the gaps.
    x: Vec<T>,
    /// `out` is not set.
    vectors: Vec<PoolRow>,
}

/// An output vector that a kernel has written.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    finite: u32,
    scale: u32,
    numbers: Vec<u8>,
}

impl Record {
    /// The elements of a float32 record.
    fn floats(&self) -> Vec<f32> {
        let bytes = self.numbers.chunks_exact(4);
        bytes
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    }
}

fn bytes(vector: &PoolRow) -> usize {
    let dimensions = vector.dimensions as usize;
    match vector.encoding {
        POOL_F32 => 4 * dimensions,
        POOL_F16 => 2 * dimensions,
        POOL_INT8 => dimensions,
        _ => dimensions / 8,
    }
}

impl<T: Number> Inputs<T> {
    /// All row counts with all flags, truncated to each number of dimensions in turn.
    fn new(shape: &Shape) -> Inputs<T> {
        let random = &mut Random::new(shape.seed as u64);
        let hidden = shape.hidden;
        // A few long rows test as much as many.
        let many = hidden < 1100 || exhaustive() && shape.seed.is_multiple_of(3);
        let most = if many { 700 } else { 65 };
        let tokens = most + 20;
        let places = [hidden, 33, hidden - 1, 64, 1, 8, hidden / 2, hidden - 8];
        let places: Vec<usize> = places
            .into_iter()
            .filter(|cut| (1..=hidden).contains(cut))
            .collect();
        let mut vectors = Vec::new();
        for &rows in ROWS.iter().filter(|&&rows| rows <= most) {
            for flags in FLAGS {
                vectors.push(PoolRow {
                    first: random.below(tokens - rows) as u32,
                    rows: rows as u32,
                    dimensions: places[(vectors.len() + shape.seed) % places.len()] as u32,
                    flags,
                    encoding: POOL_F32,
                    out: 0,
                });
            }
        }
        Inputs {
            shape: shape.clone(),
            x: random.numbers(tokens * hidden, shape.mean, 1.0),
            vectors,
        }
    }

    /// One vector, of the given rows.
    fn of(x: Vec<T>, hidden: usize, flags: u32) -> Inputs<T> {
        let shape = Shape {
            hidden,
            gap: 0,
            mean: 0.0,
            blocks: 1,
            seed: 0,
        };
        let vector = PoolRow {
            first: 0,
            rows: (x.len() / hidden) as u32,
            dimensions: hidden as u32,
            flags,
            encoding: POOL_F32,
            out: 0,
        };
        Inputs {
            shape,
            x,
            vectors: vec![vector],
        }
    }

    /// Each vector once in every encoding that its dimensions allow.
    fn encoded(&self) -> Inputs<T> {
        let mut all = self.clone();
        let every = self
            .vectors
            .iter()
            .flat_map(|&vector| ENCODINGS.map(|encoding| PoolRow { encoding, ..vector }));
        all.vectors = every
            .filter(|vector| vector.encoding != POOL_BINARY || vector.dimensions % 8 == 0)
            .collect();
        all
    }

    fn run(&self, device: &Device) -> Vec<Record> {
        self.run_first(device, self.vectors.len())
    }

    /// Runs the first vectors alone, with NaN in rows of x that belong to none of them. Panics if anything else was
    /// written.
    fn run_first(&self, device: &Device, count: usize) -> Vec<Record> {
        let Shape {
            hidden, gap, blocks, ..
        } = self.shape;
        let stride = hidden + gap;
        let tokens = self.x.len() / hidden;
        let mut x = vec![T::NAN; tokens * stride];
        for vector in &self.vectors {
            for row in vector.first as usize..(vector.first + vector.rows) as usize {
                x[row * stride..][..hidden].copy_from_slice(&self.x[row * hidden..][..hidden]);
            }
        }
        let mut placed = self.vectors.clone();
        let mut end = 0;
        for (i, vector) in placed.iter_mut().enumerate() {
            end = usize::next_multiple_of(end, 8) + [0, 8, 24][i % 3];
            vector.out = end as u32;
            end += HEAD + bytes(vector);
        }

        let (number, rows, x) = (
            device.upload(&[count as u32]),
            device.upload(&placed),
            device.upload(&x),
        );
        let out = device.output::<u8>(end);
        let params = PoolParams {
            count: number.address(),
            rows: rows.address(),
            x: x.address(),
            out: out.address(),
            hidden_size: hidden as u32,
            x_stride: stride as u32,
        };
        let kernel = device.kernel::<PoolParams>("pool", &format!("pool_{}", T::NAME));
        kernel.launch(blocks, POOL_THREADS, POOL_SHARED_BYTES, &params);

        let mut out = out.download();
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
        let records: Vec<Record> = placed[..count]
            .iter()
            .map(|vector| Record {
                finite: word(vector.out as usize),
                scale: word(vector.out as usize + 4),
                numbers: out[vector.out as usize + HEAD..][..bytes(vector)].to_vec(),
            })
            .collect();
        for vector in &placed[..count] {
            let record = vector.out as usize..vector.out as usize + HEAD + bytes(vector);
            record.for_each(|at| out[at] = SENTINEL[at % 2]);
        }
        if let Some(at) = (0..out.len()).find(|&at| out[at] != SENTINEL[at % 2]) {
            panic!("byte {at}, which is no record's, was written");
        }
        records
    }

    /// The vector, by its definition.
    fn reference<R: Real>(&self, vector: &PoolRow) -> Vec<R> {
        let hidden = self.shape.hidden;
        let is = |flag| vector.flags & flag != 0;
        let nothing = if is(POOL_MAX) { f32::NEG_INFINITY } else { 0.0 };
        let mut x = vec![R::from(nothing); vector.dimensions as usize];
        let mut weights = 0.0;
        for row in 0..vector.rows as usize {
            let weight = if is(POOL_WEIGHTED) { row as f32 + 1.0 } else { 1.0 };
            weights += weight;
            let row = vector.first as usize + row;
            for (x, more) in x.iter_mut().zip(&self.x[row * hidden..]) {
                let more = R::from(more.to_f32());
                if !is(POOL_MAX) {
                    *x += R::from(weight) * more;
                } else if Into::<f64>::into(more) > (*x).into() {
                    *x = more;
                }
            }
        }
        let divide = |x: &mut Vec<R>, by: R| x.iter_mut().for_each(|x| *x = *x / by);
        if is(POOL_MEAN) {
            let weights = R::from(weights);
            divide(
                &mut x,
                if is(POOL_SQRT_LEN) {
                    weights.sqrt()
                } else {
                    weights
                },
            );
        }
        if is(POOL_NORMALIZE) {
            let mut squares = R::from(0.0);
            x.iter().for_each(|&x| squares += x * x);
            divide(&mut x, squares.sqrt());
        }
        x
    }

    /// The size that the rounding errors of a vector are relative to: its largest element, as large as it would be if
    /// nothing cancelled out in its sums (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2).
    fn unit(&self, vector: &PoolRow) -> f64 {
        let largest = |x: Vec<f64>| x.into_iter().fold(0.0, |max, x| f64::max(max, x.abs()));
        let unit = largest(self.reference(vector));
        if vector.flags & POOL_MAX != 0 {
            return unit;
        }
        let sums = PoolRow {
            flags: vector.flags & POOL_WEIGHTED,
            ..*vector
        };
        let mut absolute = self.clone();
        absolute
            .x
            .iter_mut()
            .for_each(|x| *x = T::from_f32(x.to_f32().abs()));
        unit * largest(absolute.reference(&sums)) / largest(self.reference(&sums))
    }

    /// Asserts that the error of every vector, relative to its `unit`, is at most twice that of the plain computation, or
    /// two roundings.
    fn check(&self, got: &[Record]) {
        for flags in FLAGS {
            let (mut worst, mut square, mut count) = ([0.0; 2], [0.0; 2], 0);
            let vectors = self.vectors.iter().zip(got);
            for (vector, record) in vectors.filter(|(vector, _)| vector.flags == flags) {
                assert_eq!((record.finite, record.scale), (1, 0));
                let (plain, exact) = (self.reference::<f32>(vector), self.reference::<f64>(vector));
                let unit = self.unit(vector);
                let got = record.floats();
                assert_eq!(got.len(), exact.len());
                for ((&got, &plain), exact) in got.iter().zip(&plain).zip(exact) {
                    for (i, value) in [got, plain].into_iter().enumerate() {
                        let error = (f64::from(value) - exact).abs() / unit;
                        assert!(!error.is_nan(), "{value} for {exact} in {vector:?}");
                        worst[i] = f64::max(worst[i], error);
                        square[i] += error * error;
                    }
                    count += 1;
                }
                if vector.rows == 1 && flags & POOL_NORMALIZE == 0 {
                    assert_eq!(got, plain, "a row alone is itself");
                }
            }
            let rounding = f64::from(f32::EPSILON) / 2.0;
            let mean = square.map(|square| (square / f64::from(count)).sqrt());
            assert!(
                worst[0] <= 2.0 * worst[1].max(rounding) && mean[0] <= 2.0 * mean[1].max(rounding / 2.0),
                "flags {flags}: errors of {worst:?} at worst and {mean:?} in the mean, here and in the plain computation"
            );
        }
    }
}

/// One launch of bfloat16, for `counts`: vectors of `rows` rows each, with all columns.
pub fn launch(device: &Device, hidden: usize, rows: &[usize]) {
    let mut first = 0;
    let mut inputs = Inputs::of(
        Random::new(1).numbers::<bf16>(rows.iter().sum::<usize>() * hidden, 0.0, 1.0),
        hidden,
        POOL_MEAN | POOL_NORMALIZE,
    );
    let vector = inputs.vectors[0];
    inputs.vectors.clear();
    for &rows in rows {
        let rows = rows as u32;
        inputs.vectors.push(PoolRow {
            first,
            rows,
            ..vector
        });
        first += rows;
    }
    inputs.shape.blocks = rows.len() as u32;
    inputs.run(device);
}

/// The record that the CPU encodes.
fn encode(values: &[f32], encoding: u32) -> Record {
    let [f32, f16, int8, binary] = [POOL_F32, POOL_F16, POOL_INT8, POOL_BINARY];
    let encoding = match encoding {
        e if e == f32 => Encoding::F32,
        e if e == f16 => Encoding::F16,
        e if e == int8 => Encoding::Int8,
        e if e == binary => Encoding::Binary,
        other => panic!("no encoding {other}"),
    };
    let (scale, numbers) = match Vector::encode(values, encoding) {
        Vector::F32(values) => (0.0, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Vector::F16(values) => (0.0, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Vector::Int8 { values, scale } => (scale, values.iter().map(|&x| x as u8).collect()),
        Vector::Binary(bytes) => (0.0, bytes),
        other => unreachable!("{other:?} was not asked for"),
    };
    Record {
        finite: 1,
        scale: f32::to_bits(scale),
        numbers,
    }
}

/// Asserts that each vector in each encoding is what the CPU encodes from its float32.
fn check_encoded<T: Number>(inputs: &Inputs<T>, device: &Device, floats: &[Record]) {
    let encoded = inputs.encoded();
    let of = |vector: &PoolRow| {
        let wanted = PoolRow {
            encoding: POOL_F32,
            ..*vector
        };
        let same = |one: &PoolRow| bytes_of(one) == bytes_of(&wanted);
        let at = inputs.vectors.iter().position(same);
        floats[at.expect("it was float32 before")].floats()
    };
    for (vector, got) in encoded.vectors.iter().zip(encoded.run(device)) {
        assert_eq!(got, encode(&of(vector), vector.encoding), "{vector:?}");
    }
}

fn agrees<T: Number>() {
    let Some(device) = Device::open() else { return };
    for shape in shapes() {
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        let floats = inputs.run(&device);
        inputs.check(&floats);
        check_encoded(&inputs, &device, &floats);
    }
}

#[test]
fn pool_bf16_agrees_with_float64_and_encodes_as_the_cpu_does() {
    agrees::<bf16>();
}

#[test]
fn pool_f16_agrees_with_float64_and_encodes_as_the_cpu_does() {
    agrees::<f16>();
}

fn alone<T: Number>() {
    let Some(device) = Device::open() else { return };
    for hidden in [40, 384, 1024, 4104] {
        let shape = &shape(hidden);
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(shape).encoded();
        let together = inputs.run(&device);
        for at in (0..inputs.vectors.len()).step_by(7) {
            let vector = inputs.vectors[at];
            // At other rows, with NaN around them and past their columns.
            let before = 3 + at % 4;
            let mut x = vec![T::NAN; (before + vector.rows as usize + 2) * hidden];
            for row in 0..vector.rows as usize {
                let from = &inputs.x[(vector.first as usize + row) * hidden..][..vector.dimensions as usize];
                x[(before + row) * hidden..][..from.len()].copy_from_slice(from);
            }
            let mut alone = Inputs::of(x, hidden, 0);
            alone.vectors = vec![PoolRow {
                first: before as u32,
                ..vector
            }];
            assert_eq!(alone.run(&device)[0], together[at], "{vector:?}");
        }
    }
}

#[test]
fn pool_has_the_same_bits_in_any_batch() {
    alone::<bf16>();
    alone::<f16>();
}

fn poisoned<T: Number>() {
    let Some(device) = Device::open() else { return };
    for (hidden, poison) in [(384, f32::NAN), (40, f32::INFINITY), (4104, f32::NEG_INFINITY)] {
        let shape = &shape(hidden);
        let _case = Case(&shape);
        let mut inputs = Inputs::<T>::new(shape).encoded();
        let clean = inputs.run(&device);
        let (row, column) = (inputs.vectors[0].first as usize, 7);
        inputs.x[row * hidden + column] = T::from_f32(poison);
        let got = inputs.run(&device);
        let (mut inside, mut outside) = (0, 0);
        for (vector, (got, clean)) in inputs.vectors.iter().zip(got.iter().zip(&clean)) {
            let rows = vector.first as usize..(vector.first + vector.rows) as usize;
            let reads = rows.contains(&row) && vector.dimensions as usize > column;
            if reads && vector.flags & POOL_MAX != 0 && poison == f32::NEG_INFINITY && rows.len() > 1 {
                assert_eq!(got.finite, 1, "the largest number is another row's: {vector:?}");
            } else if reads {
                assert_eq!(got.finite, 0, "{vector:?}");
                inside += 1;
            } else {
                assert_eq!(got, clean, "{vector:?}");
                outside += 1;
            }
        }
        assert!(inside > 3 && outside > 3, "{inside} and {outside}");
    }
}

#[test]
fn a_number_that_is_not_finite_shows_in_its_vectors_and_in_no_other() {
    poisoned::<bf16>();
    poisoned::<f16>();
}

#[test]
fn pool_reads_the_number_of_vectors_on_the_device() {
    let Some(device) = Device::open() else { return };
    let inputs = Inputs::<bf16>::new(&shape(128)).encoded();
    let all = inputs.run(&device);
    for count in [all.len() - 1, 7, 1, 0] {
        assert_eq!(inputs.run_first(&device, count), all[..count]);
    }
}

#[test]
fn zeros_stay_zeros() {
    let Some(device) = Device::open() else { return };
    for flags in FLAGS {
        let inputs = Inputs::of(vec![bf16::from_f32(0.0); 5 * 768], 768, flags).encoded();
        for (vector, got) in inputs.vectors.iter().zip(inputs.run(&device)) {
            let zeros = Record {
                finite: 1,
                scale: 0,
                numbers: vec![0; bytes(vector)],
            };
            assert_eq!(got, zeros, "{vector:?}");
        }
    }
}

#[test]
fn numbers_whose_squares_are_none_are_normalised() {
    let Some(device) = Device::open() else { return };
    // The largest and the smallest values of bfloat16, and one without a finite reciprocal.
    for size in [3.3e38, 2e38, 1e30, 1e-30, 2e-38, 9.2e-41] {
        let _case = Case(&size);
        let row: Vec<bf16> = Random::new(1)
            .numbers::<bf16>(768, 0.0, 1.0)
            .iter()
            .map(|x| bf16::from_f32(x.to_f32() * size))
            .collect();
        let inputs = Inputs::of(row, 768, POOL_NORMALIZE);
        let got = inputs.run(&device);
        inputs.check_normalised(&got[0]);
        check_encoded(&inputs, &device, &got);
    }
}

impl<T: Number> Inputs<T> {
    /// As `check`, for a case in which the plain computation overflows.
    fn check_normalised(&self, got: &Record) {
        assert_eq!(got.finite, 1);
        for (got, exact) in got.floats().iter().zip(self.reference::<f64>(&self.vectors[0])) {
            assert!((f64::from(*got) - exact).abs() < 1e-7, "{got} is not {exact}");
        }
    }
}

#[test]
fn every_edge_of_an_encoding_is_the_cpus() {
    let Some(device) = Device::open() else { return };
    // 127·x / max = 0.5, 1.5, -2.5: ties. Signs of zero. 127·x that overflows. Float16's largest value, the first that
    // rounds to infinity, its smallest value and half of that, which rounds to even.
    let edges: [[f32; 8]; 3] = [
        [1.0, 3.0, -5.0, 254.0, 0.0, -0.0, 1e-30, -1e-30],
        [3e38, -3e38, 2e38, 1e36, -1e37, 1.0, -1.0, 0.0],
        [65504.0, 65536.0, -65280.0, 5.96e-8, 2.98e-8, -4.5e-8, 6.1e-5, 1.0],
    ];
    for values in edges {
        let _case = Case(&values);
        let inputs = Inputs::of(values.map(bf16::from_f32).to_vec(), 8, 0);
        let got = inputs.run(&device);
        let unchanged: Vec<f32> = values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        assert_eq!(got[0].floats(), unchanged);
        check_encoded(&inputs, &device, &got);
    }
}
