//! The sums of fp8 `wgmma`: fewer bits than f32 has.
//!
//! As MMA-Sim (2025) has measured it on Hopper, the products of an instruction and C are aligned to the greatest exponent
//! among them and cut to 13 bits behind the point, added exactly, and the sum is cut to 13 bits of fraction again, in the
//! format of f32. A product's exponent is the sum of its factors' fields, those of subnormals and zero being the least of
//! their type. `mma.sync` of the same types sums otherwise (see [`super::mma`]).

use super::mma::{Element, Fp8E4, Fp8E5, Single, Sums, rows_of_a, rows_of_b};
use crate::ir::Alu;
use crate::ir::regs::{LANES, Regs, Slot};
use crate::ptx::ast::Type;

/// Bits of fraction that are kept.
const FRACTION: i32 = 13;
/// k in quads.
const QUADS: usize = 8;

/// 16 rows and 8 columns over 32 elements of k; `None` for types that are not of 8 bits.
pub fn tile(a: Type, b: Type) -> Option<Alu> {
    Some(match (a, b) {
        (Type::E4M3, Type::E4M3) => product::<Fp8E4, Fp8E4>,
        (Type::E4M3, Type::E5M2) => product::<Fp8E4, Fp8E5>,
        (Type::E5M2, Type::E4M3) => product::<Fp8E5, Fp8E4>,
        (Type::E5M2, Type::E5M2) => product::<Fp8E5, Fp8E5>,
        _ => return None,
    })
}

/// The exponent of an element's field.
trait Field: Element<Value = f64> {
    const LEAST: i32;
    fn exponent(value: f64) -> i32 {
        exponent(value).max(Self::LEAST)
    }
}

impl Field for Fp8E4 {
    const LEAST: i32 = -6;
}

impl Field for Fp8E5 {
    const LEAST: i32 = -14;
}

fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52 & 0x7ff) as i32 - 1023
}

fn product<A: Field, B: Field>(regs: Regs, ops: &[Slot], mask: u32) {
    let (d, ops) = ops.split_at(4);
    let (a, ops) = ops.split_at(4);
    let (b, c) = ops.split_at(2);
    let a = rows_of_a::<A, 2, QUADS, false>(regs, a);
    let b = rows_of_b::<B, QUADS, false>(regs, b);
    let mut sums = Single::load::<false>(regs, c);
    for (row, n) in (0..16).flat_map(|row| (0..8).map(move |n| (row, n))) {
        let (half, g) = (row / 8, row % 8);
        let place = &mut sums[2 * half + n / 4][4 * g + n % 4];
        let factors = (0..QUADS)
            .flat_map(|quad| (0..4).map(move |t| (quad, t)))
            .map(|(quad, t)| (a[quad][half][4 * g + t], b[quad][8 * t + n]));
        *place = sum(
            *place,
            factors.map(|(x, y)| (x * y, A::exponent(x) + B::exponent(y))),
        );
    }
    for (sums, &slot) in sums.iter().zip(d) {
        let words: [u32; LANES] = std::array::from_fn(|lane| match sums[lane].is_nan() {
            true => 0x7fff_ffff,
            false => (sums[lane] as f32).to_bits(),
        });
        regs.set32(slot, &words, mask);
    }
}

/// C and products with their exponents.
fn sum(c: f64, products: impl Iterator<Item = (f64, i32)> + Clone) -> f64 {
    let plain = products.clone().fold(c, |sum, (product, _)| sum + product);
    if !plain.is_finite() {
        return plain;
    }
    let most = products
        .clone()
        .map(|(_, exponent)| exponent)
        .fold(exponent(c), i32::max);
    let step = 2f64.powi(most - FRACTION);
    let cut = |value: f64| (value / step).trunc() * step;
    let exact = products.fold(cut(c), |sum, (product, _)| sum + cut(product));
    // An f64 has 52 bits of fraction.
    f64::from_bits(exact.to_bits() & !((1 << (52 - FRACTION)) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_13_bits_below_the_largest_is_cut() {
        let products = |list: &'static [f64]| list.iter().map(|&p| (p, exponent(p)));
        assert_eq!(sum(0.0, products(&[8192.0, 1.0, -1.75])), 8192.0);
        assert_eq!(sum(8192.0, products(&[0.5, 0.5])), 8192.0);
        // The sum of 2^14 and more has steps of 2.
        assert_eq!(sum(8192.0, products(&[8192.0, 3.0])), 16386.0);
        assert_eq!(sum(0.25, products(&[0.0])), 0.25);
        assert!(sum(f64::INFINITY, products(&[1.0])).is_infinite());
    }
}
