//! From a function of one lane to an instruction over a warp.
//!
//! `alu!` writes the loop over the 32 lanes twice: once for the target's baseline and, on x86-64,
//! once with AVX2 and its companions, and takes the better one that the host has. That happens when a kernel is
//! lowered; running it asks nothing.
//!
//! ```ignore
//! let add: Alu = alu!(|a: u32, b: u32| -> u32 { a.wrapping_add(b) });
//! let less: Alu = alu!(|a: i32, b: i32| -> bool { a < b });
//! let split: Alu = alu!(|a: u64| -> (u32, u32) { (a as u32, (a >> 32) as u32) });
//! ```
//!
//! Sources and results are [`Element`]s: an 8- or 16-bit one reads the low bits of its 32-bit slot and is written
//! zero-extended; `bool` is a predicate. The function must be total: lanes outside of the mask are computed too,
//! from whatever they hold.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::ir::Alu;
use crate::ir::regs::{LANES, Regs, Slot};

/// A value of one lane, and how a slot holds 32 of them.
pub trait Element: Copy {
    /// A slot's content.
    type Lanes: Copy;
    /// A slot to be filled with [`Element::put`].
    fn empty() -> Self::Lanes;
    fn load(regs: Regs, slot: Slot) -> Self::Lanes;
    fn get(lanes: &Self::Lanes, lane: usize) -> Self;
    fn put(lanes: &mut Self::Lanes, lane: usize, value: Self);
    fn store(regs: Regs, slot: Slot, lanes: &Self::Lanes, mask: u32);
}

macro_rules! element {
    ($ty:ty, $raw:ty, $get:ident, $set:ident, |$r:ident| $from:expr, |$v:ident| $to:expr) => {
        impl Element for $ty {
            type Lanes = [$raw; LANES];
            #[inline(always)]
            fn empty() -> Self::Lanes {
                [0; LANES]
            }
            #[inline(always)]
            fn load(regs: Regs, slot: Slot) -> Self::Lanes {
                regs.$get(slot)
            }
            #[inline(always)]
            fn get(lanes: &Self::Lanes, lane: usize) -> Self {
                let $r = lanes[lane];
                $from
            }
            #[inline(always)]
            fn put(lanes: &mut Self::Lanes, lane: usize, $v: Self) {
                lanes[lane] = $to;
            }
            #[inline(always)]
            fn store(regs: Regs, slot: Slot, lanes: &Self::Lanes, mask: u32) {
                regs.$set(slot, lanes, mask);
            }
        }
    };
}

element!(u8, u32, get32, set32, |r| r as u8, |v| u32::from(v));
element!(i8, u32, get32, set32, |r| r as i8, |v| u32::from(v as u8));
element!(u16, u32, get32, set32, |r| r as u16, |v| u32::from(v));
element!(i16, u32, get32, set32, |r| r as i16, |v| u32::from(v as u16));
element!(u32, u32, get32, set32, |r| r, |v| v);
element!(i32, u32, get32, set32, |r| r as i32, |v| v as u32);
element!(f32, u32, get32, set32, |r| f32::from_bits(r), |v| v.to_bits());
element!(u64, u64, get64, set64, |r| r, |v| v);
element!(i64, u64, get64, set64, |r| r as i64, |v| v as u64);
element!(f64, u64, get64, set64, |r| f64::from_bits(r), |v| v.to_bits());
element!(u128, u128, get128, set128, |r| r, |v| v);

impl Element for bool {
    type Lanes = u32;
    #[inline(always)]
    fn empty() -> u32 {
        0
    }
    #[inline(always)]
    fn load(regs: Regs, slot: Slot) -> u32 {
        regs.pred(slot)
    }
    #[inline(always)]
    fn get(lanes: &u32, lane: usize) -> bool {
        lanes & 1 << lane != 0
    }
    #[inline(always)]
    fn put(lanes: &mut u32, lane: usize, value: bool) {
        *lanes |= u32::from(value) << lane;
    }
    #[inline(always)]
    fn store(regs: Regs, slot: Slot, lanes: &u32, mask: u32) {
        regs.set_pred(slot, *lanes, mask);
    }
}

/// The sources of an instruction: a tuple of elements.
pub trait Sources: Copy {
    type Lanes: Copy;
    fn load(regs: Regs, slots: &[Slot]) -> Self::Lanes;
    fn get(lanes: &Self::Lanes, lane: usize) -> Self;
}

/// The results of an instruction: an element or a tuple of them.
pub trait Results: Copy {
    const COUNT: usize;
    type Lanes: Copy;
    fn empty() -> Self::Lanes;
    fn put(lanes: &mut Self::Lanes, lane: usize, value: Self);
    fn store(regs: Regs, slots: &[Slot], lanes: &Self::Lanes, mask: u32);
}

impl<E: Element> Results for E {
    const COUNT: usize = 1;
    type Lanes = E::Lanes;
    #[inline(always)]
    fn empty() -> E::Lanes {
        E::empty()
    }
    #[inline(always)]
    fn put(lanes: &mut E::Lanes, lane: usize, value: Self) {
        E::put(lanes, lane, value);
    }
    #[inline(always)]
    fn store(regs: Regs, slots: &[Slot], lanes: &E::Lanes, mask: u32) {
        E::store(regs, slots[0], lanes, mask);
    }
}

macro_rules! sources {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Element),*> Sources for ($($name,)*) {
            type Lanes = ($($name::Lanes,)*);
            #[inline(always)]
            fn load(regs: Regs, slots: &[Slot]) -> Self::Lanes {
                ($($name::load(regs, slots[$index]),)*)
            }
            #[inline(always)]
            fn get(lanes: &Self::Lanes, lane: usize) -> Self {
                ($($name::get(&lanes.$index, lane),)*)
            }
        }
    };
}

macro_rules! results {
    ($count:literal: $($name:ident $index:tt),*) => {
        impl<$($name: Element),*> Results for ($($name,)*) {
            const COUNT: usize = $count;
            type Lanes = ($($name::Lanes,)*);
            #[inline(always)]
            fn empty() -> Self::Lanes {
                ($($name::empty(),)*)
            }
            #[inline(always)]
            fn put(lanes: &mut Self::Lanes, lane: usize, value: Self) {
                $($name::put(&mut lanes.$index, lane, value.$index);)*
            }
            #[inline(always)]
            fn store(regs: Regs, slots: &[Slot], lanes: &Self::Lanes, mask: u32) {
                $($name::store(regs, slots[$index], &lanes.$index, mask);)*
            }
        }
    };
}

sources!(A 0);
sources!(A 0, B 1);
sources!(A 0, B 1, C 2);
sources!(A 0, B 1, C 2, D 3);
sources!(A 0, B 1, C 2, D 3, E 4);
sources!(A 0, B 1, C 2, D 3, E 4, F 5);
results!(2: A 0, B 1);
results!(4: A 0, B 1, C 2, D 3);

/// Runs `f` on every lane and writes the results of those in `mask`. Every source is read before a result is
/// written, so destinations may be sources.
#[inline(always)]
pub fn map<S: Sources, R: Results>(regs: Regs, ops: &[Slot], mask: u32, f: impl Fn(S) -> R) {
    let (dst, src) = ops.split_at(R::COUNT);
    let sources = S::load(regs, src);
    let mut results = R::empty();
    for lane in 0..LANES {
        R::put(&mut results, lane, f(S::get(&sources, lane)));
    }
    R::store(regs, dst, &results, mask);
}

/// As an [`Alu`], but compiled for more than the baseline of the target.
pub type Wide = unsafe fn(Regs, &[Slot], u32);

static BASELINE: AtomicBool = AtomicBool::new(false);

/// Makes `alu!` take the baseline version on every host, for tests of both.
pub fn use_baseline(on: bool) {
    BASELINE.store(on, Ordering::Relaxed);
}

/// Whether the host has every feature that `alu!` compiles its second version for.
#[cfg(target_arch = "x86_64")]
pub fn has_wide() -> bool {
    // The macro caches what the processor said: one load each.
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("f16c")
}

/// The version to run on this host.
///
/// # Safety
/// `wide` needs no more features than [`has_wide`] asks for.
#[cfg(target_arch = "x86_64")]
pub unsafe fn choose(baseline: Alu, wide: Wide) -> Alu {
    if has_wide() && !BASELINE.load(Ordering::Relaxed) {
        // SAFETY: the same type but for `unsafe`, which stands for the features; the host has them.
        unsafe { std::mem::transmute::<Wide, Alu>(wide) }
    } else {
        baseline
    }
}

/// An [`Alu`] from a function of one lane; see [the module](crate::lower::isa::simd).
macro_rules! alu {
    (|$($a:ident: $t:ty),+ $(,)?| -> $r:ty $body:block) => {
        $crate::lower::isa::simd::alu_loop!(|regs, ops, mask| {
            $crate::lower::isa::simd::map::<($($t,)+), $r>(regs, ops, mask, |($($a,)+)| -> $r { $body })
        })
    };
}

pub(crate) use alu;

/// An [`Alu`] from a function of the whole warp, compiled twice as `alu!` does.
macro_rules! alu_loop {
    (|$regs:ident, $ops:ident, $mask:ident| $body:block) => {{
        fn baseline($regs: $crate::ir::regs::Regs, $ops: &[$crate::ir::regs::Slot], $mask: u32) {
            $body
        }
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
            fn wide($regs: $crate::ir::regs::Regs, $ops: &[$crate::ir::regs::Slot], $mask: u32) {
                $body
            }
            // SAFETY: the features above are those of `has_wide`.
            unsafe { $crate::lower::isa::simd::choose(baseline as $crate::ir::Alu, wide) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            baseline as $crate::ir::Alu
        }
    }};
}

pub(crate) use alu_loop;
