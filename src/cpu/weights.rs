//! The weights of linear layers in the layout of their class.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::isa::Isa;
use super::narrow::{self, Kernel, MAX_INT8_K, Number, PackedTiles};
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

impl LinearWeights {
    /// Packs a layer for a kernel, or for float32 where there is none.
    ///
    /// # Errors
    /// A weight that is not finite, or not in the kernel's numbers; rows too long for sums of int8 products.
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
        let matrix = match kernel.map(|kernel| kernel.number) {
            None => Matrix::F32(PackedMatrix::pack(team, n, k, &read_row)),
            Some(Number::Bf16) if linear.is_bf16() => {
                Matrix::Narrow(PackedTiles::pack(team, n, k, &|row, out| {
                    linear.read_bf16_row(row, out);
                    check(is_finite(out));
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
            Some(Number::Int8) if k > MAX_INT8_K => {
                return Err(linear.weight[0].error(format!(
                    "has rows of {k} numbers; sums of int8 products hold {MAX_INT8_K}; take precision bf16"
                )));
            }
            Some(Number::Int8) => Matrix::Narrow(PackedTiles::quantise(team, isa, n, k, &read_row)),
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
