//! AMX: eight registers of 16 rows of 64 bytes, and products of two of them.
//!
//! The compiler knows nothing of them: each instruction is a function of inline assembly. The registers are configured at
//! the start of each piece of work and released at its end, so that nothing else finds them in use (and the system need
//! not save them).

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::super::isa::Isa;
use super::{Block, PANEL, PANEL_BLOCK, ROW_BYTES, TILE_BYTES, TILE_ROWS, grouped};

/// AMX-TILE, AMX-BF16 and AMX-INT8 in register EDX of CPUID's leaf 7.
const TILE: u32 = 1 << 24;
const BF16: u32 = 1 << 22;
const INT8: u32 = 1 << 25;

/// Whether this processor has AMX's products of bf16 numbers, and the system lets us use them.
pub fn has_bf16() -> bool {
    usable() & BF16 != 0
}

/// The same of int8 numbers.
pub fn has_int8() -> bool {
    usable() & INT8 != 0
}

/// The features of AMX that this processor has and the system lets us use, as [`TILE`] and its like.
fn usable() -> u32 {
    static FEATURES: OnceLock<u32> = OnceLock::new();
    *FEATURES.get_or_init(|| {
        let features = features();
        if features & TILE != 0 && permitted() {
            features
        } else {
            0
        }
    })
}

/// Those that the processor has; none where the system does not save both parts of AMX's state.
fn features() -> u32 {
    if !is_x86_feature_detected!("xsave") {
        return 0;
    }
    // Safe functions from some later Rust on than the oldest that this is for.
    #[allow(unused_unsafe)]
    // SAFETY: every processor that Rust's x86-64 is for has the instruction.
    let features = unsafe {
        if __cpuid(0).eax < 7 {
            return 0;
        }
        __cpuid_count(7, 0).edx
    };
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: register 0 is there where XSAVE is.
        unsafe { _xgetbv(0) }
    }
    // OSXSAVE is part of what `xsave` was found by.
    // SAFETY: the feature was just found.
    let saved = unsafe { enabled() } & (3 << 17) == 3 << 17;
    if saved { features & (TILE | BF16 | INT8) } else { 0 }
}

/// Asks the system for the registers' state, for the whole process: Linux grants it on demand only.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: this request takes no pointer.
    let refused = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) };
    if refused != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "AMX is refused");
    }
    refused == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The registers' shapes, as `LDTILECFG` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight of full size.
static FULL: Shapes = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        row_bytes[register] = ROW_BYTES as u16;
        rows[register] = TILE_ROWS as u8;
        register += 1;
    }
    Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes,
        rows,
    }
};

/// Configures all registers to full size, and zeroes them.
///
/// # Safety
/// [`has_bf16`] or [`has_int8`] says yes.
#[inline(always)]
pub unsafe fn configure() {
    // SAFETY: reads the 64 bytes of a valid configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack, preserves_flags, readonly)) }
}

/// Gives the registers back.
///
/// # Safety
/// [`has_bf16`] or [`has_int8`] says yes.
#[inline(always)]
pub unsafe fn release() {
    // SAFETY: touches nothing but the registers.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
}

/// Register `T` = 0.
///
/// # Safety
/// The registers are configured.
#[inline(always)]
pub unsafe fn zero<const T: u8>() {
    // SAFETY: touches nothing but the register.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem)) }
}

/// Register `T` = 16 rows at `from`, `stride` bytes apart.
///
/// # Safety
/// The registers are configured; the rows are readable.
#[inline(always)]
pub unsafe fn load<const T: u8>(from: *const u8, stride: usize) {
    // SAFETY: the caller's word.
    unsafe {
        asm!("tileloadd tmm{t}, [{p} + {s}]", t = const T, p = in(reg) from, s = in(reg) stride,
            options(nostack, preserves_flags, readonly));
    }
}

/// 16 rows at `to`, `stride` bytes apart, = register `T`.
///
/// # Safety
/// The registers are configured; the rows are writable.
#[inline(always)]
pub unsafe fn store<const T: u8>(to: *mut u8, stride: usize) {
    // SAFETY: the caller's word.
    unsafe {
        asm!("tilestored [{p} + {s}], tmm{t}", t = const T, p = in(reg) to, s = in(reg) stride,
            options(nostack, preserves_flags));
    }
}

/// Register `C` += register `A` · register `B`, of bf16 pairs: see [`super`] for its rounding.
///
/// # Safety
/// The registers are configured.
#[inline(always)]
pub unsafe fn multiply_bf16<const C: u8, const A: u8, const B: u8>() {
    // SAFETY: touches nothing but the registers.
    unsafe {
        asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
            options(nostack, preserves_flags, nomem));
    }
}

/// The same of four int8 numbers each, summed in 32 bits.
///
/// # Safety
/// The registers are configured; the processor has AMX-INT8.
#[inline(always)]
unsafe fn multiply_int8<const C: u8, const A: u8, const B: u8>() {
    // SAFETY: touches nothing but the registers.
    unsafe {
        asm!("tdpbssd tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
            options(nostack, preserves_flags, nomem));
    }
}

/// One of them.
///
/// # Safety
/// As for them.
#[inline(always)]
unsafe fn multiply<const INT8: bool, const C: u8, const A: u8, const B: u8>() {
    // SAFETY: the caller's word.
    unsafe {
        if INT8 {
            multiply_int8::<C, A, B>();
        } else {
            multiply_bf16::<C, A, B>();
        }
    }
}

/// See [`Block`].
///
/// # Safety
/// [`has_bf16`] says yes; everything that the block points to is there.
pub unsafe fn block_bf16(isa: Isa, t: &Block) {
    // SAFETY: the caller's word.
    unsafe {
        configure();
        panels::<false>(isa, t);
        release();
    }
}

/// The same of int8 numbers.
///
/// # Safety
/// [`has_int8`] says yes; everything that the block points to is there.
pub unsafe fn block_int8(isa: Isa, t: &Block) {
    // SAFETY: the caller's word.
    unsafe {
        configure();
        grouped::block(isa, t, panels::<true>);
        release();
    }
}

/// All of a block; of int8 numbers the result is `i32`.
///
/// # Safety
/// As for the block, with the registers configured.
unsafe fn panels<const INT8: bool>(_: Isa, t: &Block) {
    // SAFETY: the caller's word.
    unsafe {
        let tiles = t.rows.div_ceil(TILE_ROWS);
        for p in 0..t.panels {
            let b = t.b.add(p * t.b_panel);
            let mut tile = 0;
            while tile < tiles {
                let a = t.a.add(tile * t.a_tile_row);
                let c = t.c.add(tile * TILE_ROWS * t.c_row + p * PANEL);
                if tile + 1 < tiles {
                    two::<INT8>(t, a, b, c);
                } else {
                    one::<INT8>(t, a, b, c);
                }
                tile += 2;
            }
        }
    }
}

/// Registers 0 to 3 hold 32 rows of a panel.
///
/// # Safety
/// As for the block, with the registers configured.
#[inline(always)]
unsafe fn two<const INT8: bool>(t: &Block, a: *const u8, b: *const u8, c: *mut f32) {
    let row = t.c_row * 4;
    let c = c.cast::<u8>();
    let below = c.wrapping_add(TILE_ROWS * row);
    // SAFETY: the caller's word.
    unsafe {
        if t.resume {
            load::<0>(c, row);
            load::<1>(c.add(ROW_BYTES), row);
            load::<2>(below, row);
            load::<3>(below.add(ROW_BYTES), row);
        } else {
            zero::<0>();
            zero::<1>();
            zero::<2>();
            zero::<3>();
        }
        for k in 0..t.k_blocks {
            let (a, b) = (a.add(k * TILE_BYTES), b.add(k * PANEL_BLOCK));
            load::<6>(b, ROW_BYTES);
            load::<4>(a, ROW_BYTES);
            multiply::<INT8, 0, 4, 6>();
            load::<7>(b.add(TILE_BYTES), ROW_BYTES);
            multiply::<INT8, 1, 4, 7>();
            load::<5>(a.add(t.a_tile_row), ROW_BYTES);
            multiply::<INT8, 2, 5, 6>();
            multiply::<INT8, 3, 5, 7>();
        }
        store::<0>(c, row);
        store::<1>(c.add(ROW_BYTES), row);
        store::<2>(below, row);
        store::<3>(below.add(ROW_BYTES), row);
    }
}

/// How far ahead of its use the kernel asks for a panel, where few rows make it wait for memory.
const AHEAD: usize = 4 * PANEL_BLOCK;

/// Registers 0 and 1 hold 16 rows of a panel.
///
/// # Safety
/// As for the block, with the registers configured.
#[inline(always)]
unsafe fn one<const INT8: bool>(t: &Block, a: *const u8, b: *const u8, c: *mut f32) {
    let row = t.c_row * 4;
    let c = c.cast::<u8>();
    // SAFETY: the caller's word; a prefetch never faults.
    unsafe {
        if t.resume {
            load::<0>(c, row);
            load::<1>(c.add(ROW_BYTES), row);
        } else {
            zero::<0>();
            zero::<1>();
        }
        for k in 0..t.k_blocks {
            let (a, b) = (a.add(k * TILE_BYTES), b.add(k * PANEL_BLOCK));
            for line in 0..PANEL_BLOCK / ROW_BYTES {
                let line = b.wrapping_add(AHEAD + line * ROW_BYTES);
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
            }
            load::<4>(a, ROW_BYTES);
            load::<6>(b, ROW_BYTES);
            multiply::<INT8, 0, 4, 6>();
            load::<7>(b.add(TILE_BYTES), ROW_BYTES);
            multiply::<INT8, 1, 4, 7>();
        }
        store::<0>(c, row);
        store::<1>(c.add(ROW_BYTES), row);
    }
}

/// Rounds of four products side by side, as [`two`] has them; gives their operations.
///
/// # Safety
/// [`has_bf16`] or [`has_int8`] says yes.
#[cfg(any(test, feature = "inspect"))]
pub unsafe fn peak<const INT8: bool>(_: Isa, rounds: usize) -> f64 {
    // SAFETY: the caller's word; the registers hold zeros.
    unsafe {
        configure();
        for _ in 0..rounds {
            multiply::<INT8, 0, 4, 6>();
            multiply::<INT8, 1, 4, 7>();
            multiply::<INT8, 2, 5, 6>();
            multiply::<INT8, 3, 5, 7>();
        }
        release();
    }
    let depth = if INT8 {
        super::Number::Int8
    } else {
        super::Number::Bf16
    }
    .per_row();
    (4 * 2 * TILE_ROWS * 16 * depth * rounds) as f64
}
