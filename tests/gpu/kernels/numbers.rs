//! The 16-bit types, random values, and the tolerance between two computations.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use bytemuck::Pod;
use half::{bf16, f16};

/// A type of activations and weights.
pub trait Number: Pod + Debug {
    /// The suffix in the names of its entries.
    const NAME: &str;
    const NAN: Self;
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    fn bits(self) -> u16;
}

impl Number for bf16 {
    const NAME: &str = "bf16";
    const NAN: bf16 = bf16::NAN;
    fn from_f32(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn bits(self) -> u16 {
        self.to_bits()
    }
}

impl Number for f16 {
    const NAME: &str = "f16";
    const NAN: f16 = f16::NAN;
    fn from_f32(x: f32) -> f16 {
        f16::from_f32(x)
    }
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn bits(self) -> u16 {
        self.to_bits()
    }
}

/// The arithmetic of a reference. In float64 it is the oracle, without rounding to 16 bits. In float32, with each
/// result that the kernel writes rounded to its type, it is the plain computation whose error sets the tolerance.
pub trait Real:
    Copy
    + Into<f64>
    + From<f32>
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    fn sqrt(self) -> Self;
    /// The value after rounding to a `T`.
    fn written<T: Number>(self) -> Self;
}

impl Real for f64 {
    fn sqrt(self) -> f64 {
        self.sqrt()
    }
    fn written<T: Number>(self) -> f64 {
        self
    }
}

impl Real for f32 {
    fn sqrt(self) -> f32 {
        self.sqrt()
    }
    fn written<T: Number>(self) -> f32 {
        T::from_f32(self).to_f32()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same sequence on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// From `mean` - `spread` to `mean` + `spread`.
    pub fn numbers<T: Number>(&mut self, length: usize, mean: f32, spread: f32) -> Vec<T> {
        (0..length)
            .map(|_| T::from_f32(mean + spread * self.unit()))
            .collect()
    }
}

/// Asserts that the error of `got` against `exact` is at most twice that of `plain`, in the maximum and in the mean
/// square, and that it has NaN exactly where `exact` has. (With so small a mean square a cosine would show nothing
/// further.)
pub fn assert_close<T: Number>(what: &str, got: &[T], plain: &[f32], exact: &[f64]) {
    assert_eq!((got.len(), plain.len()), (exact.len(), exact.len()), "{what}");
    let (mut worst, mut allowed_worst) = ((0.0, 0), 0.0);
    let (mut square, mut allowed_square) = (0.0, 0.0);
    for (at, ((got, &plain), &exact)) in got.iter().zip(plain).zip(exact).enumerate() {
        let value = f64::from(got.to_f32());
        assert_eq!(
            value.is_nan(),
            exact.is_nan(),
            "{what}: number {at} is {value} ({:#06x}), and should be {exact}",
            got.bits()
        );
        if exact.is_nan() {
            continue;
        }
        // Masked elements, rather than sums that happen to cancel.
        assert!(
            exact != 0.0 || got.bits() == 0,
            "{what}: number {at} is {value}, and should be 0"
        );
        let (error, allowed) = ((value - exact).abs(), (f64::from(plain) - exact).abs());
        if error > worst.0 {
            worst = (error, at);
        }
        allowed_worst = f64::max(allowed_worst, allowed);
        square += error * error;
        allowed_square += allowed * allowed;
    }
    let at = worst.1;
    assert!(
        worst.0 <= 2.0 * allowed_worst,
        "{what}: number {at} is {}, {:.3e} from {}; the plain computation's worst error is {allowed_worst:.3e}",
        got[at].to_f32(),
        worst.0,
        exact[at]
    );
    assert!(
        square <= 4.0 * allowed_square,
        "{what}: the mean square error is {:.2} times the plain computation's",
        square / allowed_square
    );
}

/// Asserts that all elements have the same bits.
pub fn assert_same<T: Number>(what: &str, got: &[T], wanted: &[T]) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!(
            got.bits() == wanted.bits(),
            "{what}: number {at} is {got:?}, not {wanted:?}"
        );
    }
}

/// Asserts that of rows of `width` elements the one at `bad` is NaN, and the others have the bits that they have beside a clean
/// one.
pub fn assert_row_of_nan<T: Number>(bad: usize, width: usize, got: &[T], clean: &[T]) {
    for (row, (got, clean)) in got.chunks(width).zip(clean.chunks(width)).enumerate() {
        match row == bad {
            true => assert!(got.iter().all(|number| number.to_f32().is_nan())),
            false => assert_same("a row beside one of NaN", got, clean),
        }
    }
}

/// Asserts that these elements are unwritten.
pub fn assert_untouched<T: Number>(what: &str, numbers: &[T]) {
    let sentinel = u16::from_le_bytes(super::device::SENTINEL);
    if let Some(at) = numbers.iter().position(|number| number.bits() != sentinel) {
        panic!("{what}: number {at} was written: {:?}", numbers[at]);
    }
}
