//! `mma.sync`: one warp's matrix product, D = A·B + C with A m×k in rows and B k×n in columns.
//!
//! # Fragments
//!
//! With g = lane / 4 and t = lane mod 4, PTX puts into a lane (PTX ISA 9.0, "Matrix fragments for mma"): of A the
//! rows g and g + 8, of B the column g, of C and D the rows g and g + 8 and the columns 2t and 2t + 1. A 32-bit
//! register of A or B holds 1, 2 or 4 neighbours in k (tf32, 16-bit types, 8-bit types), so that the four
//! lanes of a group hold 4, 8 or 16, and each further register the next 4, 8 or 16. For a register as it lies here,
//! 32 lanes in a row, this means: eight rows (A) or columns (B) of four words. The code keeps that order:
//! k is permuted to `[block][place in the word][t]`, alike for A and B, which leaves the sum the same, and columns of
//! the result are kept as the even ones and then the odd ones, which is how C and D lie in their registers. Nothing
//! but B, which is transposed, has to move across lanes.
//!
//! # Numerics
//!
//! NVIDIA documents little (PTX ISA: products at full precision, sums "at least single precision", order
//! unspecified). Measured by others:
//!
//! * Products are exact, subnormals are taken and given, f32 sums are rounded toward zero, f16 results to nearest
//!   even: Fasi, Higham, Mikaitis & Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7
//!   (2021) e330; the truncation also in Ootomo & Yokota, "Recovering single precision accuracy from Tensor
//!   Cores", IJHPCA 36 (2022).
//! * C and the products of one group are aligned to the greatest exponent among them, cut to 24 (sm_80, sm_89) or
//!   25 (sm_90 and later) bits behind the point, and added as integers; a group is 8 products of 16-bit types on
//!   sm_80, and the whole k of the instruction on sm_90; what overflows is infinity, not the greatest
//!   finite number; a NaN is 0x7fffffff (f32) or 0x7fff (f16); tf32 operands are cut to 10 bits of fraction; f64
//!   is a chain of fused multiply-adds: "MMA-Sim: Bit-Accurate Reference Model of Tensor Cores and Matrix Cores"
//!   (2025).
//!
//! Modelled here: products exact; C and all the products of the instruction added in f64, then one rounding, to f32
//! toward zero (infinity from 2^128 on), to f16 to nearest even (infinity from 65520 on). Hence a device's f32 may
//! differ from this:
//!
//! * It is the less accurate where a sum cancels: its terms lost what lay below 2^-24 of the largest one before they
//!   were added. The difference is at most (k + 1)·2^-24 of the largest term per group.
//! * On sm_80 every group of 8 rounds once. fp8 on sm_89 keeps 13 bits only.
//! * The f64 sum is exact as long as all terms' bits lie within 53: for fp8 always, but a C of any size; for f16
//!   when |C| is 0 or between 2^-24 and 2^5 or so; for bf16 and tf32, if the terms span no more than about 2^30. Else
//!   it rounds at 2^-53 of the running sum, far below what a device drops; only then can "toward zero"
//!   be off, by one unit in the last place, and the order matter.
//! * A product that is zero takes no part in the alignment, whatever its other factor is: MMA-Sim aligns to it, an H200
//!   does not (`tests/parity/zero_products.rs`).
//! * A sum of negative zeros is -0 here and may be +0 there.
//!
//! Integers are exact, and wrap to 32 bits without `.satfinite`.

use crate::ir::regs::{LANES, Regs, Slot};
use crate::ir::{Alu, Class, Code, MatrixWork, Ref};
use crate::lower::builder::{Builder, Refused};
use crate::ptx::ast::{Instruction, Operand, Type};

use super::{Covered, fp8_sums};

/// The family's part of the coverage table.
pub const COVERED: &[Covered] = &[Covered {
    opcode: "mma",
    forms: "m16n8k8/k16 f16 (to f16 or f32), bf16; m16n8k4/k8 tf32; m16n8k16/k32 e4m3, e5m2, mixed (to f16 or f32); \
            m8n8k16, m16n8k16/k32 s8, u8, mixed, .satfinite; m8n8k4, m16n8k4/k8/k16 f64",
    notes: "sum in f64, rounded once, toward zero for f32; not: m8n8k4 f16, s4/u4, b1, f4/f6 and block scaling, mma.sp",
}];

/// Lowers `mma.sync`.
pub fn lower(instruction: &Instruction, builder: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    if &*instruction.opcode != "mma" {
        return Ok(None);
    }
    let refuse = |what: &str| Err(Refused::unsupported(instruction, what));
    let mut rest = instruction.modifiers.iter().map(|m| &**m).peekable();
    if rest.next() != Some("sync") || rest.next_if_eq(&"aligned").is_none() {
        return refuse("only mma.sync.aligned is supported, not sparse matrices");
    }
    let Some(shape) = rest.next() else {
        return refuse("a shape is missing");
    };
    if rest.next() != Some("row") || rest.next() != Some("col") {
        return refuse("only .row.col is supported");
    }
    let saturate = rest.next_if_eq(&"satfinite").is_some();
    let types: Option<Vec<Type>> = rest.map(Type::parse).collect();
    let Some([d, a, b, c]) = types
        .as_deref()
        .and_then(|types| <[Type; 4]>::try_from(types).ok())
    else {
        return refuse("these types or modifiers are not supported");
    };
    let Some(form) = Form::of(shape, [d, a, b, c], saturate, vectors()) else {
        return refuse("this shape is not supported with these types");
    };

    let [to, left, right, add] = &instruction.operands[..] else {
        return refuse("four operands are wanted");
    };
    let operands = [(to, form.d), (left, form.a), (right, form.b), (add, form.d)];
    for ((operand, wanted), name) in operands.iter().zip(["D", "A", "B", "C"]) {
        if elements(operand).len() != *wanted {
            return refuse(&format!(
                "{name} has {} registers, not {wanted}",
                elements(operand).len()
            ));
        }
    }
    let dst = elements(to)
        .iter()
        .map(|operand| builder.dst(operand, form.register_d))
        .collect::<Result<Vec<Ref>, _>>()?;
    let mut src = Vec::with_capacity(form.a + form.b + form.d);
    for (operand, ty) in [
        (left, form.register_a),
        (right, form.register_a),
        (add, form.register_d),
    ] {
        for element in elements(operand) {
            src.push(builder.src(element, ty)?);
        }
    }
    let mut code = Code::alu(form.run, Class::Matrix, dst, src).aligned();
    code.matrix = Some(MatrixWork {
        ty: a,
        flops: form.flops,
    });
    Ok(Some(code))
}

/// What computes 16 rows and 8 columns over 32 bytes of k, with f32 results: the product of which `wgmma` is made.
pub fn tile(a: Type, b: Type) -> Option<Alu> {
    match fp8_sums::tile(a, b) {
        None if a.size() == 2 => {
            Form::of("m16n8k16", [Type::F32, a, b, Type::F32], false, vectors()).map(|form| form.run)
        }
        narrow => narrow,
    }
}

/// The registers of a fragment: a vector, or one register without braces.
fn elements(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(elements) => elements,
        other => std::slice::from_ref(other),
    }
}

/// One shape with its types: what runs it, and how many registers each fragment has.
struct Form {
    run: Alu,
    /// Registers of D, and of C.
    d: usize,
    a: usize,
    b: usize,
    register_d: Type,
    register_a: Type,
    flops: u32,
}

impl Form {
    fn of(shape: &str, types: [Type; 4], saturate: bool, fast: bool) -> Option<Form> {
        use Type::*;
        let [d, a, b, c] = types;
        if d != c || (saturate && d != S32) {
            return None;
        }
        Some(match (shape, d, a, b) {
            ("m16n8k8", F32, F16, F16) => floats::<Half, Half, Single, 2>(fast),
            ("m16n8k16", F32, F16, F16) => floats::<Half, Half, Single, 4>(fast),
            ("m16n8k8", F16, F16, F16) => floats::<Half, Half, Packed, 2>(fast),
            ("m16n8k16", F16, F16, F16) => floats::<Half, Half, Packed, 4>(fast),
            ("m16n8k8", F32, BF16, BF16) => floats::<Brain, Brain, Single, 2>(fast),
            ("m16n8k16", F32, BF16, BF16) => floats::<Brain, Brain, Single, 4>(fast),
            ("m16n8k4", F32, TF32, TF32) => floats::<Tf32, Tf32, Single, 1>(fast),
            ("m16n8k8", F32, TF32, TF32) => floats::<Tf32, Tf32, Single, 2>(fast),
            ("m16n8k16", F32, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Single, 4>(fast),
            ("m16n8k16", F32, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Single, 4>(fast),
            ("m16n8k16", F32, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Single, 4>(fast),
            ("m16n8k16", F32, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Single, 4>(fast),
            ("m16n8k16", F16, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Packed, 4>(fast),
            ("m16n8k16", F16, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Packed, 4>(fast),
            ("m16n8k16", F16, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Packed, 4>(fast),
            ("m16n8k16", F16, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Packed, 4>(fast),
            ("m16n8k32", F32, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Single, 8>(fast),
            ("m16n8k32", F32, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Single, 8>(fast),
            ("m16n8k32", F32, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Single, 8>(fast),
            ("m16n8k32", F32, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Single, 8>(fast),
            ("m16n8k32", F16, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Packed, 8>(fast),
            ("m16n8k32", F16, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Packed, 8>(fast),
            ("m16n8k32", F16, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Packed, 8>(fast),
            ("m16n8k32", F16, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Packed, 8>(fast),
            ("m8n8k16", S32, _, _) => integers::<1, 4>(a, b, saturate)?,
            ("m16n8k16", S32, _, _) => integers::<2, 4>(a, b, saturate)?,
            ("m16n8k32", S32, _, _) => integers::<2, 8>(a, b, saturate)?,
            ("m8n8k4", F64, F64, F64) => doubles::<8, 4>(),
            ("m16n8k4", F64, F64, F64) => doubles::<16, 4>(),
            ("m16n8k8", F64, F64, F64) => doubles::<16, 8>(),
            ("m16n8k16", F64, F64, F64) => doubles::<16, 16>(),
            _ => return None,
        })
    }
}

/// Whether the processor has AVX2, FMA and F16C.
fn vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `QUADS` is k / 4; `fast` only with [`vectors`].
fn floats<A: Element<Value = f64>, B: Element<Value = f64>, S: Sums, const QUADS: usize>(fast: bool) -> Form {
    Form {
        run: if fast {
            float_product_avx2::<A, B, S, QUADS>
        } else {
            float_product::<A, B, S, QUADS>
        },
        d: S::REGISTERS,
        a: 2 * QUADS / A::PER_WORD,
        b: QUADS / B::PER_WORD,
        register_d: S::REGISTER,
        register_a: Type::B32,
        flops: (2 * 16 * 8 * 4 * QUADS) as u32,
    }
}

fn integers<const HALVES: usize, const QUADS: usize>(a: Type, b: Type, saturate: bool) -> Option<Form> {
    use Type::{S8, U8};
    let run: Alu = match (a, b, saturate) {
        (S8, S8, false) => integer_product::<Signed, Signed, HALVES, QUADS, false>,
        (S8, U8, false) => integer_product::<Signed, Unsigned, HALVES, QUADS, false>,
        (U8, S8, false) => integer_product::<Unsigned, Signed, HALVES, QUADS, false>,
        (U8, U8, false) => integer_product::<Unsigned, Unsigned, HALVES, QUADS, false>,
        (S8, S8, true) => integer_product::<Signed, Signed, HALVES, QUADS, true>,
        (S8, U8, true) => integer_product::<Signed, Unsigned, HALVES, QUADS, true>,
        (U8, S8, true) => integer_product::<Unsigned, Signed, HALVES, QUADS, true>,
        (U8, U8, true) => integer_product::<Unsigned, Unsigned, HALVES, QUADS, true>,
        _ => return None,
    };
    Some(Form {
        run,
        d: 2 * HALVES,
        a: HALVES * QUADS / 4,
        b: QUADS / 4,
        register_d: Type::S32,
        register_a: Type::B32,
        flops: (2 * 8 * HALVES * 8 * 4 * QUADS) as u32,
    })
}

fn doubles<const M: usize, const K: usize>() -> Form {
    Form {
        run: double_product::<M, K>,
        d: M / 4,
        a: M / 8 * K / 4,
        b: K / 4,
        register_d: Type::F64,
        register_a: Type::F64,
        flops: (2 * M * 8 * K) as u32,
    }
}

/// How the elements of A or B lie in a 32-bit register.
pub(super) trait Element {
    type Value: Copy + Default;
    const PER_WORD: usize;
    /// The element at this place of the word, exactly.
    fn decode(word: u32, place: usize) -> Self::Value;
    /// The same for a register. `FAST` says that the processor has AVX2, FMA and F16C.
    #[inline(always)]
    fn decode_all<const FAST: bool>(words: &[u32; LANES], place: usize, to: &mut [Self::Value; LANES]) {
        for lane in 0..LANES {
            to[lane] = Self::decode(words[lane], place);
        }
    }
}

struct Half;
struct Brain;
struct Tf32;
pub(super) struct Fp8E4;
pub(super) struct Fp8E5;
struct Signed;
struct Unsigned;

impl Element for Half {
    type Value = f64;
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f64 {
        half_value(word >> (16 * place)).into()
    }
    #[inline(always)]
    fn decode_all<const FAST: bool>(words: &[u32; LANES], place: usize, to: &mut [f64; LANES]) {
        let mut halves = [0; LANES];
        for lane in 0..LANES {
            halves[lane] = (words[lane] >> (16 * place)) as u16;
        }
        half_values::<FAST>(&halves, to);
    }
}

impl Element for Brain {
    type Value = f64;
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f64 {
        f32::from_bits(if place == 0 {
            word << 16
        } else {
            word & 0xffff_0000
        })
        .into()
    }
}

impl Element for Tf32 {
    type Value = f64;
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn decode(word: u32, _place: usize) -> f64 {
        f32::from_bits(word & !0x1fff).into()
    }
}

impl Element for Fp8E4 {
    type Value = f64;
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f64 {
        let byte = word >> (8 * place);
        // No infinities; the one NaN is S.1111.111.
        let nan = if byte & 0x7f == 0x7f { f32::NAN } else { 0.0 };
        (widen((byte & 0x7f) << 20, 127 - 7, (byte & 0x80) << 24) + nan).into()
    }
}

impl Element for Fp8E5 {
    type Value = f64;
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f64 {
        // The upper half of an f16.
        half_value((word >> (8 * place)) << 8).into()
    }
    #[inline(always)]
    fn decode_all<const FAST: bool>(words: &[u32; LANES], place: usize, to: &mut [f64; LANES]) {
        let mut halves = [0; LANES];
        for lane in 0..LANES {
            halves[lane] = ((words[lane] >> (8 * place)) << 8) as u16;
        }
        half_values::<FAST>(&halves, to);
    }
}

impl Element for Signed {
    type Value = i32;
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> i32 {
        (word << (24 - 8 * place)) as i32 >> 24
    }
}

impl Element for Unsigned {
    type Value = i32;
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> i32 {
        (word >> (8 * place) & 0xff) as i32
    }
}

/// The value of a format with fewer exponent bits, whose exponent and fraction stand in `bits` where an f32 has
/// them; `bias` is the difference of the biases. Branch-free, and without an f32 subnormal on the way, which
/// would take a microcode assist.
#[inline(always)]
fn widen(bits: u32, bias: u32, sign: u32) -> f32 {
    let scaled = f32::from_bits(bits + (bias << 23));
    // Exponent field 0: 0.f·2^(1-bias), read as 1.f·2^-bias.
    let subnormal = (scaled - f32::from_bits(bias << 23)) * 2.0;
    let value = if bits < 1 << 23 { subnormal } else { scaled };
    f32::from_bits(value.to_bits() | sign)
}

/// The f16 in the low half of `bits`.
#[inline(always)]
fn half_value(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    let value = widen(magnitude << 13, 127 - 15, 0);
    // Infinity and NaN: 2^16·1.f so far.
    let top = f32::from_bits(value.to_bits() + ((255 - 143) << 23));
    let value = if magnitude >= 0x7c00 { top } else { value };
    f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
}

/// The f16 of a register, as numbers.
#[inline(always)]
fn half_values<const FAST: bool>(halves: &[u16; LANES], to: &mut [f64; LANES]) {
    #[cfg(target_arch = "x86_64")]
    if FAST {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut singles = [0f32; LANES];
        for block in 0..4 {
            // SAFETY: the processor has F16C, by the meaning of `FAST`; both arrays have 32 elements.
            unsafe {
                let eight = _mm_loadu_si128(halves.as_ptr().add(8 * block).cast());
                _mm256_storeu_ps(singles.as_mut_ptr().add(8 * block), _mm256_cvtph_ps(eight));
            }
        }
        for lane in 0..LANES {
            to[lane] = singles[lane].into();
        }
        return;
    }
    for lane in 0..LANES {
        to[lane] = half_value(halves[lane].into()).into();
    }
}

/// C and D while the sum is formed, as f32 registers have them: by half (rows 0-7, 8-15) and then even and odd
/// columns, lane by lane.
pub(super) type Tile<T> = [[T; LANES]; 4];

/// Type of C and D.
pub(super) trait Sums {
    const REGISTERS: usize;
    const REGISTER: Type;
    fn load<const FAST: bool>(regs: Regs, slots: &[Slot]) -> Tile<f64>;
    fn store(regs: Regs, slots: &[Slot], sums: &Tile<f64>, mask: u32);
}

/// f32, a register for the even columns and one for the odd ones.
pub(super) struct Single;
/// f16, an even column and its neighbour in one register.
struct Packed;

impl Sums for Single {
    const REGISTERS: usize = 4;
    const REGISTER: Type = Type::F32;

    #[inline(always)]
    fn load<const FAST: bool>(regs: Regs, slots: &[Slot]) -> Tile<f64> {
        let mut sums = [[0.0; LANES]; 4];
        for (sums, &slot) in sums.iter_mut().zip(slots) {
            let words = regs.get32(slot);
            for lane in 0..LANES {
                sums[lane] = f32::from_bits(words[lane]).into();
            }
        }
        sums
    }

    #[inline(always)]
    fn store(regs: Regs, slots: &[Slot], sums: &Tile<f64>, mask: u32) {
        for (sums, &slot) in sums.iter().zip(slots) {
            let mut words = [0; LANES];
            let mut small = 0;
            for lane in 0..LANES {
                let bits = (cut(sums[lane]) as f32).to_bits();
                let magnitude = bits & 0x7fff_ffff;
                small |= u32::from(magnitude.wrapping_sub(1) < 0x0080_0000);
                words[lane] = if magnitude > 0x7f80_0000 {
                    0x7fff_ffff
                } else {
                    bits
                };
            }
            if small != 0 {
                words = truncate_all(sums);
            }
            regs.set32(slot, &words, mask);
        }
    }
}

impl Sums for Packed {
    const REGISTERS: usize = 2;
    const REGISTER: Type = Type::B32;

    #[inline(always)]
    fn load<const FAST: bool>(regs: Regs, slots: &[Slot]) -> Tile<f64> {
        let mut sums = [[0.0; LANES]; 4];
        for (half, &slot) in slots.iter().enumerate() {
            let words = regs.get32(slot);
            for odd in 0..2 {
                Half::decode_all::<FAST>(&words, odd, &mut sums[2 * half + odd]);
            }
        }
        sums
    }

    #[inline(always)]
    fn store(regs: Regs, slots: &[Slot], sums: &Tile<f64>, mask: u32) {
        for (half, &slot) in slots.iter().enumerate() {
            let mut words = [0; LANES];
            for lane in 0..LANES {
                words[lane] = round_half(sums[2 * half][lane]) | round_half(sums[2 * half + 1][lane]) << 16;
            }
            regs.set32(slot, &words, mask);
        }
    }
}

/// The sum with an f32's 23 bits of fraction. A quiet NaN's uppermost bit stays.
#[inline(always)]
fn cut(sum: f64) -> f64 {
    f64::from_bits(sum.to_bits() & !((1 << 29) - 1))
}

/// The f32 nearest to `sum` toward zero, infinity from 2^128 on, NaN as the hardware writes it.
fn truncate(sum: f64) -> u32 {
    let cut = cut(sum);
    let single = cut as f32;
    // The conversion is exact now, but for overflow, which is to be infinity, and subnormals, which it may have
    // rounded up.
    let up = f64::from(single.abs()) > cut.abs() && single.abs() < 1.0;
    let bits = single.to_bits() - u32::from(up);
    if sum.is_nan() { 0x7fff_ffff } else { bits }
}

/// [`truncate`] for a register, where there are subnormals.
#[cold]
#[inline(never)]
fn truncate_all(sums: &[f64; LANES]) -> [u32; LANES] {
    sums.map(truncate)
}

/// The f16 nearest to `sum`, ties to even, NaN as the hardware writes it.
#[inline(always)]
fn round_half(sum: f64) -> u32 {
    let sign = (sum.to_bits() >> 48) as u32 & 0x8000;
    let magnitude = sum.abs();
    let bits = magnitude.to_bits();
    // Ten fraction bits of 52: add half a unit (less one if it would not tie to odd) and cut; a carry goes where it
    // belongs, into the exponent.
    let normal = ((bits + ((1 << 41) - 1) + (bits >> 42 & 1)) >> 42) as u32;
    let normal = normal.wrapping_sub((1023 - 15) << 10);
    // Adding 2^52 rounds to an integer, here a multiple of the least subnormal, 2^-24.
    let subnormal = (magnitude * f64::from(1 << 24) + (1u64 << 52) as f64).to_bits() as u32;
    let value = if magnitude < 1.0 / 16384.0 {
        subnormal
    } else if magnitude >= 65520.0 {
        0x7c00
    } else {
        normal
    };
    if sum.is_nan() { 0x7fff } else { sign | value }
}

/// A, by quad of k (four that lie in the same place of the words of a group's lanes), by half, lane by lane.
#[inline(always)]
pub(super) fn rows_of_a<E: Element, const HALVES: usize, const QUADS: usize, const FAST: bool>(
    regs: Regs,
    slots: &[Slot],
) -> [[[E::Value; LANES]; HALVES]; QUADS] {
    let mut a = [[[E::Value::default(); LANES]; HALVES]; QUADS];
    for (index, &slot) in slots.iter().enumerate() {
        let words = regs.get32(slot);
        for place in 0..E::PER_WORD {
            let to = &mut a[E::PER_WORD * (index / HALVES) + place][index % HALVES];
            E::decode_all::<FAST>(&words, place, to);
        }
    }
    a
}

/// B, by quad of k, its four rows one after the other: columns 0, 2, 4, 6, 1, 3, 5, 7.
#[inline(always)]
pub(super) fn rows_of_b<E: Element, const QUADS: usize, const FAST: bool>(
    regs: Regs,
    slots: &[Slot],
) -> [[E::Value; LANES]; QUADS] {
    let mut b = [[E::Value::default(); LANES]; QUADS];
    for (index, &slot) in slots.iter().enumerate() {
        let words = regs.get32(slot);
        let mut transposed = [0; LANES];
        for t in 0..4 {
            for n in 0..8 {
                transposed[8 * t + n] = words[4 * (2 * (n % 4) + n / 4) + t];
            }
        }
        for place in 0..E::PER_WORD {
            let to = &mut b[E::PER_WORD * index + place];
            E::decode_all::<FAST>(&transposed, place, to);
        }
    }
    b
}

#[inline(always)]
fn float_product_any<A, B, S, const QUADS: usize, const FAST: bool>(regs: Regs, ops: &[Slot], mask: u32)
where
    A: Element<Value = f64>,
    B: Element<Value = f64>,
    S: Sums,
{
    let (d, ops) = ops.split_at(S::REGISTERS);
    let (a, ops) = ops.split_at(2 * QUADS / A::PER_WORD);
    let (b, c) = ops.split_at(QUADS / B::PER_WORD);
    let a = rows_of_a::<A, 2, QUADS, FAST>(regs, a);
    let b = rows_of_b::<B, QUADS, FAST>(regs, b);
    let mut sums = S::load::<FAST>(regs, c);
    // Four rows at a time: eight vectors of four sums stay in registers, a row of B serves four rows of A.
    for half in 0..2 {
        for block in [0, 16] {
            let mut rows = [[0.0; 8]; 4];
            for g in 0..4 {
                for n in 0..4 {
                    rows[g][n] = sums[2 * half][block + 4 * g + n];
                    rows[g][4 + n] = sums[2 * half + 1][block + 4 * g + n];
                }
            }
            for quad in 0..QUADS {
                for t in 0..4 {
                    for g in 0..4 {
                        let factor = a[quad][half][block + 4 * g + t];
                        for n in 0..8 {
                            let other = b[quad][8 * t + n];
                            // The product is exact in f64, so both give the same bits.
                            rows[g][n] = if FAST {
                                factor.mul_add(other, rows[g][n])
                            } else {
                                factor * other + rows[g][n]
                            };
                        }
                    }
                }
            }
            for g in 0..4 {
                for n in 0..4 {
                    sums[2 * half][block + 4 * g + n] = rows[g][n];
                    sums[2 * half + 1][block + 4 * g + n] = rows[g][4 + n];
                }
            }
        }
    }
    S::store(regs, d, &sums, mask);
}

fn float_product<A, B, S, const QUADS: usize>(regs: Regs, ops: &[Slot], mask: u32)
where
    A: Element<Value = f64>,
    B: Element<Value = f64>,
    S: Sums,
{
    float_product_any::<A, B, S, QUADS, false>(regs, ops, mask);
}

/// The same for a processor with AVX2, FMA and F16C; see [`vectors`].
fn float_product_avx2<A, B, S, const QUADS: usize>(regs: Regs, ops: &[Slot], mask: u32)
where
    A: Element<Value = f64>,
    B: Element<Value = f64>,
    S: Sums,
{
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
    unsafe fn run<A, B, S, const QUADS: usize>(regs: Regs, ops: &[Slot], mask: u32)
    where
        A: Element<Value = f64>,
        B: Element<Value = f64>,
        S: Sums,
    {
        float_product_any::<A, B, S, QUADS, true>(regs, ops, mask);
    }
    // SAFETY: `floats` gives this function out only where `vectors` found them all.
    unsafe { run::<A, B, S, QUADS>(regs, ops, mask) }
}

fn integer_product<A, B, const HALVES: usize, const QUADS: usize, const SATURATE: bool>(
    regs: Regs,
    ops: &[Slot],
    mask: u32,
) where
    A: Element<Value = i32>,
    B: Element<Value = i32>,
{
    let (d, ops) = ops.split_at(2 * HALVES);
    let (a, ops) = ops.split_at(HALVES * QUADS / 4);
    let (b, c) = ops.split_at(QUADS / 4);
    let a = rows_of_a::<A, HALVES, QUADS, false>(regs, a);
    let b = rows_of_b::<B, QUADS, false>(regs, b);
    // All of C is read before any of D is written: D's registers may be C's in another order.
    let mut words: Tile<u32> = [[0; LANES]; 4];
    for (index, &slot) in c.iter().enumerate() {
        words[index] = regs.get32(slot);
    }
    for half in 0..HALVES {
        for g in 0..8 {
            let mut row = [0i32; 8];
            for quad in 0..QUADS {
                for t in 0..4 {
                    let factor = a[quad][half][4 * g + t];
                    for n in 0..8 {
                        // At most 32·255² in all, far from overflow.
                        row[n] += factor * b[quad][8 * t + n];
                    }
                }
            }
            for n in 0..8 {
                let word = &mut words[2 * half + n / 4][4 * g + n % 4];
                let add = *word as i32;
                *word = if SATURATE {
                    add.saturating_add(row[n])
                } else {
                    add.wrapping_add(row[n])
                } as u32;
            }
        }
    }
    for (&slot, words) in d.iter().zip(&words) {
        regs.set32(slot, words, mask);
    }
}

fn double_product<const M: usize, const K: usize>(regs: Regs, ops: &[Slot], mask: u32) {
    let (d, ops) = ops.split_at(M / 4);
    let (a, ops) = ops.split_at(M / 8 * K / 4);
    let (b, c) = ops.split_at(K / 4);
    let halves = M / 8;
    let mut words = [[0; LANES]; 4];
    for (index, &slot) in c.iter().enumerate() {
        let (half, odd) = (index / 2, index % 2);
        let mut sums = regs.get64(slot).map(f64::from_bits);
        for (block, &b) in b.iter().enumerate() {
            let a = regs.get64(a[halves * block + half]).map(f64::from_bits);
            let b = regs.get64(b).map(f64::from_bits);
            for (lane, sum) in sums.iter_mut().enumerate() {
                let (row, column) = (lane / 4, 2 * (lane % 4) + odd);
                for k in 0..4 {
                    *sum = a[4 * row + k].mul_add(b[4 * column + k], *sum);
                }
            }
        }
        words[index] = sums.map(f64::to_bits);
    }
    for (&slot, words) in d.iter().zip(&words) {
        regs.set64(slot, words, mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::regs::FULL;

    #[repr(align(64))]
    struct Window([[u32; LANES]; 20]);

    /// The portable code gives the bits that the AVX2 code gives, which tests/isa_mma.rs compares with exact sums.
    #[test]
    fn portable_and_vector_code_agree() {
        use Type::*;
        if !vectors() {
            eprintln!("skipped: this processor runs the portable code everywhere");
            return;
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        };
        let forms = [
            ("m16n8k8", F32, F16, F16),
            ("m16n8k16", F16, F16, F16),
            ("m16n8k16", F32, BF16, BF16),
            ("m16n8k8", F32, TF32, TF32),
            ("m16n8k32", F32, E4M3, E5M2),
            ("m16n8k16", F16, E5M2, E4M3),
        ];
        for (shape, d, a, b) in forms {
            let [portable, vector] =
                [false, true].map(|fast| Form::of(shape, [d, a, b, d], false, fast).unwrap());
            let slots: Vec<Slot> = (0..(2 * portable.d + portable.a + portable.b) as u32)
                .map(|index| Slot(index * 128))
                .collect();
            for round in 0..2000 {
                let mut left = Window([[0; LANES]; 20]);
                for register in &mut left.0 {
                    for word in register {
                        // Any bits, or exponents near each other.
                        let near = if round % 2 == 0 { u32::MAX } else { 0xbfff_bfff };
                        *word = random() & near;
                    }
                }
                let mut right = Window(left.0);
                for (form, window) in [(&portable, &mut left), (&vector, &mut right)] {
                    // SAFETY: twenty slots of 128 bytes, aligned to 64, which nobody else uses.
                    let regs = unsafe { Regs::new(window.0.as_mut_ptr().cast(), std::ptr::null()) };
                    (form.run)(regs, &slots, FULL);
                }
                assert_eq!(left.0, right.0, "{shape} {d:?} {a:?} {b:?}");
            }
        }
    }
}
