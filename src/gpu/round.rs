//! Rounding from float32 to the 16-bit types of the device.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::model::weights::Dtype;
use crate::precision::Half;

impl Half {
    /// The type in a file whose elements need no conversion.
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Half::Bf16 => Dtype::Bf16,
            Half::F16 => Dtype::F16,
        }
    }

    /// The nearest number, ties to even, as its bits.
    pub(crate) fn round(self, x: f32) -> u16 {
        match self {
            Half::Bf16 => bf16::from_f32(x).to_bits(),
            Half::F16 => f16::from_f32(x).to_bits(),
        }
    }

    /// Whether the nearest number is finite.
    pub(crate) fn fits(self, x: f32) -> bool {
        // Half-way from the largest number to the one that would follow it: ties go there, to infinity.
        let limit = match self {
            Half::Bf16 => f32::from_bits(0x7f7f_8000),
            Half::F16 => 65520.0,
        };
        x.abs() < limit
    }

    /// Rounds `x` into `out`, two little-endian bytes per element. Returns the index of the first finite element
    /// that becomes infinite, if there is one; all are written.
    pub(crate) fn round_into(self, x: &[f32], out: &mut [u8]) -> Option<usize> {
        /// Converted at once: what stays in the first-level cache.
        const STEP: usize = 1024;
        assert_eq!(out.len(), x.len() * self.bytes());
        let mut lost = None;
        for (step, (x, out)) in x.chunks(STEP).zip(out.chunks_mut(2 * STEP)).enumerate() {
            let first = match self {
                Half::Bf16 => {
                    let rounded = &mut [bf16::ZERO; STEP][..x.len()];
                    rounded.convert_from_f32_slice(x);
                    out.copy_from_slice(bytemuck::cast_slice(rounded));
                    first_lost(x, rounded, |n| n.is_finite())
                }
                Half::F16 => {
                    let rounded = &mut [f16::ZERO; STEP][..x.len()];
                    rounded.convert_from_f32_slice(x);
                    out.copy_from_slice(bytemuck::cast_slice(rounded));
                    first_lost(x, rounded, |n| n.is_finite())
                }
            };
            lost = lost.or(first.map(|at| step * STEP + at));
        }
        lost
    }

    /// The message for a finite number that is infinite in this type: why, and what to do.
    pub(crate) fn overflow(self) -> &'static str {
        match self {
            Half::Bf16 => "which is infinite as bf16 (up to 3.39e38); take precision f32, on the CPU",
            Half::F16 => "which is infinite as f16 (up to 65504); take precision bf16",
        }
    }
}

fn first_lost<T>(x: &[f32], rounded: &[T], finite: impl Fn(&T) -> bool) -> Option<usize> {
    x.iter()
        .zip(rounded)
        .position(|(x, rounded)| !finite(rounded) && x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// From the definition of the formats: exponent, fraction, ties to even.
    #[test]
    fn numbers_are_rounded_to_nearest_even() {
        let cases: [(f32, u16, u16); 10] = [
            (0.0, 0x0000, 0x0000),
            (-0.0, 0x8000, 0x8000),
            (1.0, 0x3f80, 0x3c00),
            (1.0 + 1.0 / 256.0, 0x3f80, 0x3c04), // half-way in bfloat16, down to even
            (1.0 + 3.0 / 256.0, 0x3f82, 0x3c0c), // half-way, up to even
            (1.0 + 1.0 / 2048.0, 0x3f80, 0x3c00), // half-way in float16, down to even
            (1.0 + 3.0 / 2048.0, 0x3f80, 0x3c02),
            (65519.0, 0x4780, 0x7bff), // the last that is not infinite in float16
            (6e-8, 0x3381, 0x0001),    // the smallest in float16
            (f32::INFINITY, 0x7f80, 0x7c00),
        ];
        for (x, b, f) in cases {
            assert_eq!(Half::Bf16.round(x), b, "{x} as bf16");
            assert_eq!(Half::F16.round(x), f, "{x} as f16");
        }
        assert!(bf16::from_bits(Half::Bf16.round(f32::NAN)).is_nan());
        assert!(f16::from_bits(Half::F16.round(f32::NAN)).is_nan());
    }

    #[test]
    fn what_fits_is_finite_after_rounding() {
        for limit in [65520.0_f32, f32::from_bits(0x7f7f_8000)] {
            for x in [
                limit.next_down(),
                limit,
                limit.next_up(),
                1.0,
                f32::MAX,
                f32::INFINITY,
                f32::NAN,
            ] {
                for x in [x, -x] {
                    assert_eq!(Half::F16.fits(x), f16::from_f32(x).is_finite(), "{x:e} as f16");
                    assert_eq!(Half::Bf16.fits(x), bf16::from_f32(x).is_finite(), "{x:e} as bf16");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn slices_are_rounded_as_numbers_are(
            mut bits in prop::collection::vec(any::<u32>(), 0..2100),
            large in prop::option::of(0usize..2100),
        ) {
            // Numbers of modest size, NaN and infinities among them, and one too large at most.
            for b in &mut bits {
                let exponent = *b >> 23 & 0xff;
                if exponent > 140 && exponent < 255 {
                    *b &= !(1 << 30);
                }
            }
            let mut x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let large = large.filter(|&at| at < x.len());
            if let Some(at) = large {
                x[at] = f32::MAX;
            }
            for precision in [Half::Bf16, Half::F16] {
                let mut out = vec![0; 2 * x.len()];
                prop_assert_eq!(precision.round_into(&x, &mut out), large);
                for (x, out) in x.iter().zip(out.chunks(2)) {
                    let bits = u16::from_le_bytes([out[0], out[1]]);
                    prop_assert!(bits == precision.round(*x) || x.is_nan(), "{} as {}", x, precision);
                }
            }
        }
    }
}
