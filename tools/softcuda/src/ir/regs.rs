//! A warp's registers, each as an array over its 32 lanes.
//!
//! A *slot* is where a value lives. Registers of up to 32 bits take 32 `u32` (narrower values are kept
//! zero-extended), 64-bit ones 32 `u64`, 128-bit ones 32 `u128`, a predicate one `u32` with a bit per lane.
//! Constants have slots too, with the value in every lane, so an instruction does not distinguish its operands.

use crate::ptx::ast::Type;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// Every lane of a full warp.
pub const FULL: u32 = u32::MAX;

/// Byte offset of a value: in the constants if the top bit is set, else in the current register window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

impl Slot {
    pub const CONST: u32 = 1 << 31;
}

/// How a value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Width {
    /// One bit per lane in one `u32`.
    Pred,
    /// Up to 32 bits: `[u32; 32]`.
    W32,
    /// `[u64; 32]`
    W64,
    /// `[u128; 32]`
    W128,
}

impl Width {
    /// Width in which values of this type are kept.
    pub fn of(ty: Type) -> Self {
        match ty {
            Type::Pred => Width::Pred,
            _ => match ty.size() {
                1..=4 => Width::W32,
                8 => Width::W64,
                _ => Width::W128,
            },
        }
    }

    /// Bytes of a slot.
    pub const fn bytes(self) -> usize {
        match self {
            Width::Pred => 4,
            Width::W32 => 4 * LANES,
            Width::W64 => 8 * LANES,
            Width::W128 => 16 * LANES,
        }
    }
}

/// The registers that an instruction sees: the current function's window and the kernel's constants.
#[derive(Clone, Copy)]
pub struct Regs {
    bases: [*mut u8; 2],
}

impl Regs {
    /// # Safety
    /// `window` and `constants` are aligned to 64 bytes and hold every slot that the program's instructions
    /// name; nobody else uses them while this value is in use. Constants are never written.
    pub unsafe fn new(window: *mut u8, constants: *const u8) -> Self {
        Self {
            bases: [window, constants.cast_mut()],
        }
    }

    #[inline(always)]
    fn at(self, slot: Slot) -> *mut u8 {
        // SAFETY: by `new`, the slot lies inside its area.
        unsafe { self.bases[(slot.0 >> 31) as usize].add((slot.0 & !Slot::CONST) as usize) }
    }

    /// All lanes of a 32-bit (or narrower) value.
    #[inline(always)]
    pub fn get32(self, slot: Slot) -> [u32; LANES] {
        // SAFETY: by `new`; slots are aligned and of the width that the lowering gave the instruction.
        unsafe { self.at(slot).cast::<[u32; LANES]>().read() }
    }

    #[inline(always)]
    pub fn get64(self, slot: Slot) -> [u64; LANES] {
        // SAFETY: by `new`, the slot is aligned and of this width.
        unsafe { self.at(slot).cast::<[u64; LANES]>().read() }
    }

    #[inline(always)]
    pub fn get128(self, slot: Slot) -> [u128; LANES] {
        // SAFETY: by `new`, the slot is aligned and of this width.
        unsafe { self.at(slot).cast::<[u128; LANES]>().read() }
    }

    /// A predicate, one bit per lane.
    #[inline(always)]
    pub fn pred(self, slot: Slot) -> u32 {
        // SAFETY: by `new`, the slot is aligned and of this width.
        unsafe { self.at(slot).cast::<u32>().read() }
    }

    #[inline(always)]
    pub fn lane32(self, slot: Slot, lane: usize) -> u32 {
        debug_assert!(lane < LANES);
        // SAFETY: by `new`, the slot is aligned and holds 32 values of this width; lane < 32.
        unsafe { self.at(slot).cast::<u32>().add(lane).read() }
    }

    #[inline(always)]
    pub fn lane64(self, slot: Slot, lane: usize) -> u64 {
        debug_assert!(lane < LANES);
        // SAFETY: by `new`, the slot is aligned and holds 32 values of this width; lane < 32.
        unsafe { self.at(slot).cast::<u64>().add(lane).read() }
    }

    /// Writes the lanes in `mask`.
    #[inline(always)]
    pub fn set32(self, slot: Slot, value: &[u32; LANES], mask: u32) {
        let to = self.at(slot).cast::<[u32; LANES]>();
        // SAFETY: by `new`, the slot is aligned and of this width; a destination is never a constant.
        unsafe {
            if mask == FULL {
                to.write(*value);
            } else {
                let to = &mut *to;
                for lane in 0..LANES {
                    to[lane] = if mask >> lane & 1 != 0 {
                        value[lane]
                    } else {
                        to[lane]
                    };
                }
            }
        }
    }

    #[inline(always)]
    pub fn set64(self, slot: Slot, value: &[u64; LANES], mask: u32) {
        let to = self.at(slot).cast::<[u64; LANES]>();
        // SAFETY: by `new`, the slot is aligned and of this width; a destination is never a constant.
        unsafe {
            if mask == FULL {
                to.write(*value);
            } else {
                let to = &mut *to;
                for lane in 0..LANES {
                    to[lane] = if mask >> lane & 1 != 0 {
                        value[lane]
                    } else {
                        to[lane]
                    };
                }
            }
        }
    }

    #[inline(always)]
    pub fn set128(self, slot: Slot, value: &[u128; LANES], mask: u32) {
        let to = self.at(slot).cast::<[u128; LANES]>();
        // SAFETY: by `new`, the slot is aligned and of this width; a destination is never a constant.
        let to = unsafe { &mut *to };
        for lane in 0..LANES {
            if mask >> lane & 1 != 0 {
                to[lane] = value[lane];
            }
        }
    }

    /// Writes a predicate's lanes in `mask`.
    #[inline(always)]
    pub fn set_pred(self, slot: Slot, value: u32, mask: u32) {
        let to = self.at(slot).cast::<u32>();
        // SAFETY: by `new`, the slot is aligned and of this width; a destination is never a constant.
        unsafe { to.write((to.read() & !mask) | (value & mask)) }
    }

    #[inline(always)]
    pub fn set_lane32(self, slot: Slot, lane: usize, value: u32) {
        debug_assert!(lane < LANES);
        // SAFETY: by `new`, the slot is aligned and holds 32 values of this width; lane < 32.
        unsafe { self.at(slot).cast::<u32>().add(lane).write(value) }
    }

    #[inline(always)]
    pub fn set_lane64(self, slot: Slot, lane: usize, value: u64) {
        debug_assert!(lane < LANES);
        // SAFETY: by `new`, the slot is aligned and holds 32 values of this width; lane < 32.
        unsafe { self.at(slot).cast::<u64>().add(lane).write(value) }
    }

    /// One lane of a value of any width but `Pred`, zero-extended.
    #[inline(always)]
    pub fn lane(self, slot: Slot, width: Width, lane: usize) -> u64 {
        match width {
            Width::W64 => self.lane64(slot, lane),
            _ => self.lane32(slot, lane).into(),
        }
    }
}
