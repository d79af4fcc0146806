//! The weights of linear layers in the layout of their class.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::isa::Isa;
use super::math;
use super::narrow::{self, Kernel, Number, PackedTiles};
use super::packed::PackedMatrix;
use super::team::Team;
use crate::error::Result;
use crate::model::Linear;

/// `[out, in]` packed, and `[out]`.
pub struct LinearWeights {
    pub matrix: Matrix,
    pub bias: Vec<f32>,
}

/// A packed matrix.
pub enum Matrix {
    F32(PackedMatrix),
    Narrow(PackedTiles),
}

impl Matrix {
    pub fn n(&self) -> usize {
        match self {
            Matrix::F32(matrix) => matrix.n(),
            Matrix::Narrow(matrix) => matrix.n(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Matrix::F32(matrix) => matrix.bytes(),
            Matrix::Narrow(matrix) => matrix.bytes(),
        }
    }
}

thread_local! {
    /// One row of a weight, as float32.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// How far int8 weights may be off, relative to those that are not the largest of their block. Products with them are off
/// by as much, and what is off by r has a cosine of 1 − r²/2 to what it should be: 0.999 here. Normally distributed weights
/// are off by 0.006; those whose blocks have a number of 20 times the others, by this.
const MAX_ROUNDING: f64 = 0.045;

/// Says that a few numbers are so much larger than the others of their blocks that int8 leaves little of those.
fn warn_of_outliers(linear: &Linear, rounding: f64) {
    if rounding > MAX_ROUNDING {
        let tensor = linear.weight[0].name();
        tracing::warn!(
            tensor,
            rounding,
            limit = MAX_ROUNDING,
            "int8 rounds this weight's small numbers off, for its blocks have outliers; take precision bf16"
        );
    }
}

impl LinearWeights {
    /// Packs a layer for a kernel, or for float32 where there is none.
    ///
    /// # Errors
    /// A weight that is not finite, or not in the kernel's numbers.
    pub fn pack(team: &mut Team, isa: Isa, kernel: Option<Kernel>, linear: &Linear) -> Result<LinearWeights> {
        let (n, k) = (linear.out_features, linear.in_features);
        let finite = AtomicBool::new(true);
        let check = |all: bool| {
            if !all {
                finite.store(false, Ordering::Relaxed);
            }
        };
        let read_row = |row: usize, out: &mut [f32]| {
            linear.read_row(row, out);
            check(out.iter().fold(true, |finite, x| finite & x.is_finite()));
        };
        let is_finite = |bits: &[u16]| {
            bits.iter()
                .fold(true, |finite, x| finite & (x & 0x7f80 != 0x7f80))
        };
        let read_bf16_row = |row: usize, out: &mut [u16]| {
            linear.read_bf16_row(row, out);
            check(is_finite(out));
        };
        let flips = kernel.is_some_and(|kernel| kernel.flips);
        let matrix = match kernel.map(|kernel| kernel.number) {
            // Half the memory, and half of what few rows wait for.
            None if linear.is_bf16() => Matrix::F32(PackedMatrix::pack_bf16(team, n, k, &read_bf16_row)),
            None => Matrix::F32(PackedMatrix::pack(team, n, k, &read_row)),
            Some(Number::Bf16) if linear.is_bf16() => {
                Matrix::Narrow(PackedTiles::pack(team, n, k, &|row, out| {
                    read_bf16_row(row, out);
                    out.iter_mut().for_each(|x| *x = narrow::flush(*x));
                }))
            }
            Some(Number::Bf16) => Matrix::Narrow(PackedTiles::pack(team, n, k, &|row, out| {
                ROW.with_borrow_mut(|wide| {
                    wide.resize(k, 0.0);
                    linear.read_row(row, wide);
                    narrow::round_row(isa, wide, out);
                });
                check(is_finite(out));
            })),
            Some(Number::Int8) => {
                let squares = Mutex::new(0.0);
                let packed = PackedTiles::quantise(team, isa, flips, n, k, &|row, out| {
                    read_row(row, out);
                    let of_row = f64::from(math::dot(isa, out, out));
                    *squares.lock().unwrap_or_else(PoisonError::into_inner) += of_row;
                });
                let squares = squares.into_inner().unwrap_or_else(PoisonError::into_inner);
                warn_of_outliers(linear, packed.relative_rounding(squares));
                Matrix::Narrow(packed)
            }
        };
        if !finite.into_inner() {
            for tensor in &linear.weight {
                tensor.check_finite()?;
            }
            return Err(linear.weight[0]
                .error("holds a number that is infinite as bf16 (up to 3.39e38); take precision f32"));
        }
        // The packed copy is what is used from here on.
        linear.weight.iter().for_each(|tensor| tensor.release_pages());
        Ok(LinearWeights {
            matrix,
            bias: linear.read_bias(),
        })
    }

    /// Bytes of the packed form.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes() + self.bias.len() * size_of::<f32>()
    }
}
