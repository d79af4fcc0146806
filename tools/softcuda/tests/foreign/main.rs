//! Code that was not written for softcuda: CUB's collectives and device-wide kernels, cooperative groups and libcu++
//! from the CUDA toolkit's headers, and what Triton compiles. Everything runs with all checks on, gives the right
//! answers and no finding.
//!
//! The CUDA sources in this folder need nvcc (see tests/harness); Triton's PTX lies in triton/. With
//! `ROPEWAY_TEST_ALL=1` there are more sizes and seeds.

#[path = "../harness/mod.rs"]
mod harness;

mod cub;
mod cutlass;
mod groups;
mod libcu;
mod regressions;
mod triton;
mod triton_sm_90;

use harness::{Gpu, Random, Scalar};
use softcuda::machine::Module;

/// Whether the long tests are asked for.
fn all() -> bool {
    std::env::var_os("ROPEWAY_TEST_ALL").is_some_and(|v| v == "1")
}

/// Seeds for random data.
fn seeds() -> std::ops::RangeInclusive<u64> {
    1..=if all() { 8 } else { 1 }
}

/// A device with a source of this folder loaded; `None`: no nvcc.
fn load(name: &str) -> Option<(Gpu, Module)> {
    let mut gpu = Gpu::new();
    let module = gpu.load(&format!("../foreign/{name}"))?;
    Some((gpu, module))
}

/// Sizes around a tile's own.
fn sizes(tile: usize) -> Vec<usize> {
    let mut sizes = vec![1, tile - 1, tile, 3 * tile + tile / 2];
    if all() {
        sizes.extend([2, tile / 2, tile + 1, 2 * tile, 4 * tile - 1]);
    }
    sizes
}

/// Numbers whose sums are exact in every order.
trait Number: Scalar + PartialOrd + PartialEq + std::fmt::Debug {
    const ZERO: Self;
    fn random(random: &mut Random) -> Self;
    fn plus(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($ty:ident: $random:expr, $plus:expr;)*) => {$(
        impl Number for $ty {
            const ZERO: Self = 0 as $ty;
            fn random(random: &mut Random) -> Self {
                let generate: fn(&mut Random) -> $ty = $random;
                generate(random)
            }
            fn plus(self, other: Self) -> Self {
                let plus: fn($ty, $ty) -> $ty = $plus;
                plus(self, other)
            }
        }
    )*};
}

numbers! {
    u32: |r| r.next(), u32::wrapping_add;
    u64: |r| u64::from(r.next()) << 32 | u64::from(r.next()), u64::wrapping_add;
    f32: |r| r.below(2001) as f32 - 1000.0, |a, b| a + b;
    f64: |r| f64::from(r.next()) - 2f64.powi(31), |a, b| a + b;
}

fn larger<T: Number>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

fn randoms<T: Number>(random: &mut Random, count: usize) -> Vec<T> {
    (0..count).map(|_| T::random(random)).collect()
}
