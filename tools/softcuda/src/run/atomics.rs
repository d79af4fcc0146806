//! `atom` and `red`.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::block::Block;
use super::check::{Check, Finding};
use super::memory::{Deed, addresses, name};
use super::step::{At, each};
use super::warp::Warp;
use crate::ir::regs::{LANES, Width};
use crate::ir::{Atomic, AtomicOp};
use crate::ptx::ast::{Space, Type};

impl<'l> Block<'l> {
    pub(super) fn atomic(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        atomic: &Atomic,
    ) -> Result<(), Box<Finding>> {
        let size = atomic.ty.size();
        let elements = atomic.elements as usize;
        let bytes = size * elements;
        let width = Width::of(atomic.ty);
        let regs = at.regs;
        let mut addresses = addresses(regs, at.src(0), atomic.base, atomic.offset);
        let mut changed = false;
        for (space, mask) in self.spaces(atomic.space, at.mask, &mut addresses) {
            if mask == 0 {
                continue;
            }
            let shared = space == Space::Shared;
            match space {
                Space::Shared => {
                    let near = mask & !self.far_of(mask, &addresses);
                    self.meter.shared(at.pc, near, &addresses, bytes);
                }
                _ => self.meter.global(at.pc, mask, &addresses, bytes),
            }
            for lane in each(mask) {
                let address = addresses[lane];
                let scope = atomic.scope;
                let place = match space {
                    Space::Global | Space::Const => {
                        let allocation = self.global(warp, at, lane, address, bytes, Deed::Atomic)?;
                        if !address.is_multiple_of(bytes as u64) {
                            return Err(self.misaligned(warp, at, lane, address, bytes, Deed::Atomic));
                        }
                        let offset = allocation.offset(address);
                        let mut offsets = [0; LANES];
                        offsets[lane] = offset;
                        self.meter.touched(allocation, 1 << lane, &offsets, bytes, true);
                        self.meter.touched(allocation, 1 << lane, &offsets, bytes, false);
                        self.check_previous(warp, at, lane, address, bytes, allocation, Deed::Atomic);
                        let who = self.clocks.who(warp.index);
                        if let Err(hazard) = allocation
                            .shadow()
                            .atomic(offset, bytes, &who, lane, scope, at.pc)
                        {
                            let what = name(allocation);
                            self.hazard(warp, at, lane, address, bytes, &what, offset, hazard);
                        }
                        allocation.host(address)
                    }
                    Space::Shared if self.far_of(1 << lane, &addresses) != 0 => {
                        let rank = self.far(address).expect("just found");
                        self.far_atomic(warp, at, lane, rank, address, bytes, scope)?
                    }
                    Space::Shared => {
                        self.shared_bounds(warp, at, lane, address, bytes, Deed::Atomic)?;
                        if !address.is_multiple_of(bytes as u64) {
                            return Err(self.misaligned(warp, at, lane, address, bytes, Deed::Atomic));
                        }
                        let who = self.clocks.who(warp.index);
                        if let Err(hazard) = self.shadow.atomic(address, bytes, &who, lane, scope, at.pc) {
                            self.hazard(warp, at, lane, address, bytes, "shared memory", address, hazard);
                        }
                        self.shared.ptr().wrapping_add(address as usize)
                    }
                    Space::Local | Space::Param => {
                        let message = "an atomic operation on memory that only one thread has".to_owned();
                        return Err(self.at_address(Check::Illegal, warp, at, lane, address, message));
                    }
                };
                self.before_strong_write(warp, lane, shared, address, atomic.order, scope, true);
                for e in 0..elements {
                    let value = regs.lane(at.src(1 + e), width, lane);
                    let other = if atomic.op == AtomicOp::Cas {
                        regs.lane(at.src(1 + elements + e), width, lane)
                    } else {
                        0
                    };
                    let place = place.wrapping_add(e * size);
                    let change = |old: u64| apply(atomic.op, atomic.ty, old, value, other);
                    // SAFETY: the bytes were checked to exist and to be aligned.
                    let old = unsafe { update(place, size, change) };
                    changed |= change(old) != old;
                    if atomic.returns {
                        match width {
                            Width::W64 => regs.set_lane64(at.dst(e), lane, old),
                            _ => regs.set_lane32(at.dst(e), lane, old as u32),
                        }
                    }
                }
                self.after_strong_read(warp, lane, shared, address, atomic.order, scope);
            }
        }
        if changed {
            self.event();
        }
        Ok(())
    }
}

/// Changes a value in one piece, whatever other host threads do; returns the old one.
///
/// # Safety
/// `at` is readable, writable and aligned to `bytes`.
unsafe fn update(at: *mut u8, bytes: usize, change: impl Fn(u64) -> u64) -> u64 {
    macro_rules! with {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: by the caller.
            let cell = unsafe { &*at.cast::<$atomic>() };
            let old = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                Some(change(u64::from(old)) as $int)
            });
            u64::from(old.expect("the closure always has a value"))
        }};
    }
    match bytes {
        2 => with!(AtomicU16, u16),
        4 => with!(AtomicU32, u32),
        _ => with!(AtomicU64, u64),
    }
}

/// The new value of an atomic operation.
fn apply(op: AtomicOp, ty: Type, old: u64, value: u64, other: u64) -> u64 {
    use AtomicOp::*;
    let (old32, value32) = (old as u32, value as u32);
    match (op, ty) {
        (And, _) => old & value,
        (Or, _) => old | value,
        (Xor, _) => old ^ value,
        (Exch, _) => value,
        (Cas, Type::B16) => {
            if old & 0xffff == value & 0xffff {
                other & 0xffff
            } else {
                old
            }
        }
        (Cas, _) => {
            if old == value {
                other
            } else {
                old
            }
        }
        (Inc, _) => u64::from(if old32 >= value32 { 0 } else { old32 + 1 }),
        (Dec, _) => u64::from(if old32 == 0 || old32 > value32 {
            value32
        } else {
            old32 - 1
        }),
        (Add, Type::F32) => u64::from((f32::from_bits(old32) + f32::from_bits(value32)).to_bits()),
        (Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(value)).to_bits(),
        (Add, Type::U64 | Type::S64) => old.wrapping_add(value),
        (Add, Type::U32 | Type::S32) => u64::from(old32.wrapping_add(value32)),
        (Min, Type::U32) => u64::from(old32.min(value32)),
        (Max, Type::U32) => u64::from(old32.max(value32)),
        (Min, Type::S32) => u64::from((old32 as i32).min(value32 as i32) as u32),
        (Max, Type::S32) => u64::from((old32 as i32).max(value32 as i32) as u32),
        (Min, Type::U64) => old.min(value),
        (Max, Type::U64) => old.max(value),
        (Min, Type::S64) => (old as i64).min(value as i64) as u64,
        (Max, Type::S64) => (old as i64).max(value as i64) as u64,
        (Add | Min | Max, Type::F16 | Type::BF16) => u64::from(half(op, ty, old as u16, value as u16)),
        (Add | Min | Max, Type::F16x2 | Type::BF16x2) => {
            let ty = if ty == Type::F16x2 { Type::F16 } else { Type::BF16 };
            let low = half(op, ty, old as u16, value as u16);
            let high = half(op, ty, (old >> 16) as u16, (value >> 16) as u16);
            u64::from(low) | u64::from(high) << 16
        }
        _ => unreachable!("refused by the lowering"),
    }
}

/// 16-bit float operations: through f32, which holds the sum of two of them exactly enough to round once.
fn half(op: AtomicOp, ty: Type, old: u16, value: u16) -> u16 {
    let float = ty == Type::F16;
    let from = |bits: u16| {
        if float {
            half::f16::from_bits(bits).to_f32()
        } else {
            half::bf16::from_bits(bits).to_f32()
        }
    };
    let (a, b) = (from(old), from(value));
    match op {
        AtomicOp::Add if float => half::f16::from_f32(a + b).to_bits(),
        // Two bf16 may be too far apart for an f32 sum to be exact; an f64 sum that is inexact is far from a tie.
        AtomicOp::Add => half::bf16::from_f64(f64::from(a) + f64::from(b)).to_bits(),
        AtomicOp::Min => {
            if a.is_nan() {
                value
            } else if b.is_nan() {
                old
            } else if b < a || (a == b && b.is_sign_negative()) {
                value
            } else {
                old
            }
        }
        _ => {
            if a.is_nan() {
                value
            } else if b.is_nan() {
                old
            } else if b > a || (a == b && a.is_sign_negative()) {
                value
            } else {
                old
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inc_and_dec_wrap_at_their_limit() {
        assert_eq!(apply(AtomicOp::Inc, Type::U32, 4, 5, 0), 5);
        assert_eq!(apply(AtomicOp::Inc, Type::U32, 5, 5, 0), 0);
        assert_eq!(apply(AtomicOp::Inc, Type::U32, 9, 5, 0), 0);
        assert_eq!(apply(AtomicOp::Dec, Type::U32, 0, 5, 0), 5);
        assert_eq!(apply(AtomicOp::Dec, Type::U32, 6, 5, 0), 5);
        assert_eq!(apply(AtomicOp::Dec, Type::U32, 5, 5, 0), 4);
    }
}
