//! `mma.sync`: one warp's matrix product, D = A·B + C with A m×k in rows and B k×n in columns.
//!
//! # Fragments
//!
//! With g = lane / 4 and t = lane mod 4, PTX puts into a lane (PTX ISA 9.0, "Matrix fragments for mma"): of A the
//! rows g and g + 8, of B the column g, of C and D the rows g and g + 8 and the columns 2t and 2t + 1. A 32-bit
//! register of A or B holds 1, 2 or 4 neighbours in k (tf32, 16-bit types, 8-bit types), so that the four
//! lanes of a group hold 4, 8 or 16, and further registers hold the next so many. For a register as it lies here,
//! 32 lanes in a row, this means: eight rows (A) or columns (B) of four words. The code keeps that order:
//! k is permuted to [block][place in the word][t], alike for A and B, which a sum does not mind, and columns of
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
//! * A sum of negative zeros is -0 here and may be +0 there.
//!
//! Integers are exact, and wrap to 32 bits without `.satfinite`.

use crate::lower::{Builder, Refused};
use crate::program::{Alu, Class, Code, MatrixWork, Ref};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::regs::{LANES, Regs, Slot};

use super::Covered;

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
    let Some(form) = Form::of(shape, [d, a, b, c], saturate) else {
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
    fn of(shape: &str, types: [Type; 4], saturate: bool) -> Option<Form> {
        use Type::*;
        let [d, a, b, c] = types;
        if d != c || (saturate && d != S32) {
            return None;
        }
        Some(match (shape, d, a, b) {
            ("m16n8k8", F32, F16, F16) => floats::<Half, Half, Single, 8>(),
            ("m16n8k16", F32, F16, F16) => floats::<Half, Half, Single, 16>(),
            ("m16n8k8", F16, F16, F16) => floats::<Half, Half, Packed, 8>(),
            ("m16n8k16", F16, F16, F16) => floats::<Half, Half, Packed, 16>(),
            ("m16n8k8", F32, BF16, BF16) => floats::<Brain, Brain, Single, 8>(),
            ("m16n8k16", F32, BF16, BF16) => floats::<Brain, Brain, Single, 16>(),
            ("m16n8k4", F32, TF32, TF32) => floats::<Tf32, Tf32, Single, 4>(),
            ("m16n8k8", F32, TF32, TF32) => floats::<Tf32, Tf32, Single, 8>(),
            ("m16n8k16", F32, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Single, 16>(),
            ("m16n8k16", F32, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Single, 16>(),
            ("m16n8k16", F32, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Single, 16>(),
            ("m16n8k16", F32, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Single, 16>(),
            ("m16n8k16", F16, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Packed, 16>(),
            ("m16n8k16", F16, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Packed, 16>(),
            ("m16n8k16", F16, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Packed, 16>(),
            ("m16n8k16", F16, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Packed, 16>(),
            ("m16n8k32", F32, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Single, 32>(),
            ("m16n8k32", F32, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Single, 32>(),
            ("m16n8k32", F32, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Single, 32>(),
            ("m16n8k32", F32, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Single, 32>(),
            ("m16n8k32", F16, E4M3, E4M3) => floats::<Fp8E4, Fp8E4, Packed, 32>(),
            ("m16n8k32", F16, E4M3, E5M2) => floats::<Fp8E4, Fp8E5, Packed, 32>(),
            ("m16n8k32", F16, E5M2, E4M3) => floats::<Fp8E5, Fp8E4, Packed, 32>(),
            ("m16n8k32", F16, E5M2, E5M2) => floats::<Fp8E5, Fp8E5, Packed, 32>(),
            ("m8n8k16", S32, _, _) => integers::<8, 16>(a, b, saturate)?,
            ("m16n8k16", S32, _, _) => integers::<16, 16>(a, b, saturate)?,
            ("m16n8k32", S32, _, _) => integers::<16, 32>(a, b, saturate)?,
            ("m8n8k4", F64, F64, F64) => doubles::<8, 4>(),
            ("m16n8k4", F64, F64, F64) => doubles::<16, 4>(),
            ("m16n8k8", F64, F64, F64) => doubles::<16, 8>(),
            ("m16n8k16", F64, F64, F64) => doubles::<16, 16>(),
            _ => return None,
        })
    }
}

fn floats<A: Element<Value = f32>, B: Element<Value = f32>, S: Sums, const K: usize>() -> Form {
    #[cfg(target_arch = "x86_64")]
    let fast = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let fast = false;
    Form {
        run: if fast {
            float_product_avx2::<A, B, S, K>
        } else {
            float_product::<A, B, S, K>
        },
        d: 2 * S::PER_HALF,
        a: 2 * K / (4 * A::PER_WORD),
        b: K / (4 * B::PER_WORD),
        register_d: S::REGISTER,
        register_a: Type::B32,
        flops: (2 * 16 * 8 * K) as u32,
    }
}

fn integers<const M: usize, const K: usize>(a: Type, b: Type, saturate: bool) -> Option<Form> {
    use Type::{S8, U8};
    let run: Alu = match (a, b, saturate) {
        (S8, S8, false) => integer_product::<Signed, Signed, M, K, false>,
        (S8, U8, false) => integer_product::<Signed, Unsigned, M, K, false>,
        (U8, S8, false) => integer_product::<Unsigned, Signed, M, K, false>,
        (U8, U8, false) => integer_product::<Unsigned, Unsigned, M, K, false>,
        (S8, S8, true) => integer_product::<Signed, Signed, M, K, true>,
        (S8, U8, true) => integer_product::<Signed, Unsigned, M, K, true>,
        (U8, S8, true) => integer_product::<Unsigned, Signed, M, K, true>,
        (U8, U8, true) => integer_product::<Unsigned, Unsigned, M, K, true>,
        _ => return None,
    };
    Some(Form {
        run,
        d: M / 4,
        a: M / 8 * K / 16,
        b: K / 16,
        register_d: Type::S32,
        register_a: Type::B32,
        flops: (2 * M * 8 * K) as u32,
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
trait Element {
    type Value: Copy + Default;
    const PER_WORD: usize;
    /// The element at this place of the word, exactly.
    fn decode(word: u32, place: usize) -> Self::Value;
}

struct Half;
struct Brain;
struct Tf32;
struct Fp8E4;
struct Fp8E5;
struct Signed;
struct Unsigned;

impl Element for Half {
    type Value = f32;
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f32 {
        half_value(word >> (16 * place))
    }
}

impl Element for Brain {
    type Value = f32;
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f32 {
        f32::from_bits(if place == 0 {
            word << 16
        } else {
            word & 0xffff_0000
        })
    }
}

impl Element for Tf32 {
    type Value = f32;
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn decode(word: u32, _place: usize) -> f32 {
        f32::from_bits(word & !0x1fff)
    }
}

impl Element for Fp8E4 {
    type Value = f32;
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f32 {
        let byte = word >> (8 * place);
        // No infinities; the one NaN is S.1111.111.
        let nan = if byte & 0x7f == 0x7f { f32::NAN } else { 0.0 };
        widen((byte & 0x7f) << 20, 127 - 7, (byte & 0x80) << 24) + nan
    }
}

impl Element for Fp8E5 {
    type Value = f32;
    const PER_WORD: usize = 4;
    #[inline(always)]
    fn decode(word: u32, place: usize) -> f32 {
        // The upper half of an f16.
        half_value((word >> (8 * place)) << 8)
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

/// Sums of the result, by row: columns 0, 2, 4, 6, then 1, 3, 5, 7.
type Row<T> = [T; 8];

/// Type of C and D.
trait Sums {
    /// Registers for eight rows.
    const PER_HALF: usize;
    const REGISTER: Type;
    /// C, from the registers for rows `8·half..`.
    fn load(regs: Regs, slots: &[Slot], half: usize, rows: &mut [Row<f64>]);
    fn store(regs: Regs, slots: &[Slot], half: usize, rows: &[Row<f64>], mask: u32);
}

/// f32, a register for the even columns and one for the odd ones.
struct Single;
/// f16, an even column and its neighbour in one register.
struct Packed;

impl Sums for Single {
    const PER_HALF: usize = 2;
    const REGISTER: Type = Type::F32;

    #[inline(always)]
    fn load(regs: Regs, slots: &[Slot], half: usize, rows: &mut [Row<f64>]) {
        for odd in 0..2 {
            let words = regs.get32(slots[2 * half + odd]);
            for g in 0..8 {
                for t in 0..4 {
                    rows[g][4 * odd + t] = f64::from(f32::from_bits(words[4 * g + t]));
                }
            }
        }
    }

    #[inline(always)]
    fn store(regs: Regs, slots: &[Slot], half: usize, rows: &[Row<f64>], mask: u32) {
        for odd in 0..2 {
            let mut words = [0; LANES];
            for g in 0..8 {
                for t in 0..4 {
                    words[4 * g + t] = truncate(rows[g][4 * odd + t]);
                }
            }
            regs.set32(slots[2 * half + odd], &words, mask);
        }
    }
}

impl Sums for Packed {
    const PER_HALF: usize = 1;
    const REGISTER: Type = Type::B32;

    #[inline(always)]
    fn load(regs: Regs, slots: &[Slot], half: usize, rows: &mut [Row<f64>]) {
        let words = regs.get32(slots[half]);
        for odd in 0..2 {
            for g in 0..8 {
                for t in 0..4 {
                    rows[g][4 * odd + t] = Half::decode(words[4 * g + t], odd).into();
                }
            }
        }
    }

    #[inline(always)]
    fn store(regs: Regs, slots: &[Slot], half: usize, rows: &[Row<f64>], mask: u32) {
        let mut words = [0; LANES];
        for g in 0..8 {
            for t in 0..4 {
                words[4 * g + t] = round_half(rows[g][t]) | round_half(rows[g][4 + t]) << 16;
            }
        }
        regs.set32(slots[half], &words, mask);
    }
}

/// The f32 nearest to `sum` toward zero, infinity from 2^128 on, NaN as the hardware writes it.
#[inline(always)]
fn truncate(sum: f64) -> u32 {
    // 23 of 52 fraction bits stay. A quiet NaN's uppermost bit is among them.
    let cut = f64::from_bits(sum.to_bits() & !((1 << 29) - 1));
    let single = cut as f32;
    // The conversion is exact now, but for overflow, which is to be infinity, and subnormals, which it may have
    // rounded up.
    let up = f64::from(single.abs()) > cut.abs() && single.abs() < 1.0;
    let bits = single.to_bits() - u32::from(up);
    if sum.is_nan() { 0x7fff_ffff } else { bits }
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

/// A's rows: k in the order of [`transposed`].
#[inline(always)]
fn rows_of_a<E: Element, const M: usize, const K: usize>(regs: Regs, slots: &[Slot]) -> [[E::Value; K]; M] {
    let mut a = [[E::Value::default(); K]; M];
    let halves = M / 8;
    for (index, &slot) in slots.iter().enumerate() {
        let (block, half) = (index / halves, index % halves);
        let words = regs.get32(slot);
        for g in 0..8 {
            for place in 0..E::PER_WORD {
                for t in 0..4 {
                    a[8 * half + g][4 * (E::PER_WORD * block + place) + t] =
                        E::decode(words[4 * g + t], place);
                }
            }
        }
    }
    a
}

/// B's rows, each with the even columns first: k in the order [register][place in the word][t].
#[inline(always)]
fn transposed<E: Element, const K: usize>(regs: Regs, slots: &[Slot]) -> [Row<E::Value>; K] {
    let mut b = [Row::<E::Value>::default(); K];
    for (block, &slot) in slots.iter().enumerate() {
        let words = regs.get32(slot);
        for t in 0..4 {
            let column: Row<u32> = std::array::from_fn(|n| words[4 * (2 * (n % 4) + n / 4) + t]);
            for place in 0..E::PER_WORD {
                b[4 * (E::PER_WORD * block + place) + t] = column.map(|word| E::decode(word, place));
            }
        }
    }
    b
}

#[inline(always)]
fn float_product_any<A, B, S, const K: usize, const FUSED: bool>(regs: Regs, ops: &[Slot], mask: u32)
where
    A: Element<Value = f32>,
    B: Element<Value = f32>,
    S: Sums,
{
    let (d, ops) = ops.split_at(2 * S::PER_HALF);
    let (a, ops) = ops.split_at(2 * K / (4 * A::PER_WORD));
    let (b, c) = ops.split_at(K / (4 * B::PER_WORD));
    let a = rows_of_a::<A, 16, K>(regs, a);
    let b = transposed::<B, K>(regs, b).map(|row| row.map(f64::from));
    let mut sums = [Row::<f64>::default(); 16];
    for half in 0..2 {
        S::load(regs, c, half, &mut sums[8 * half..8 * half + 8]);
    }
    // Four rows at a time: eight vectors of four sums stay in registers, a row of B serves four rows of A.
    for (sums, a) in sums.chunks_exact_mut(4).zip(a.chunks_exact(4)) {
        let mut block: [Row<f64>; 4] = [sums[0], sums[1], sums[2], sums[3]];
        for k in 0..K {
            for (row, a) in block.iter_mut().zip(a) {
                let factor = f64::from(a[k]);
                for (sum, &b) in row.iter_mut().zip(&b[k]) {
                    // The product is exact in f64, so both give the same bits.
                    *sum = if FUSED {
                        factor.mul_add(b, *sum)
                    } else {
                        factor * b + *sum
                    };
                }
            }
        }
        sums.copy_from_slice(&block);
    }
    for half in 0..2 {
        S::store(regs, d, half, &sums[8 * half..8 * half + 8], mask);
    }
}

fn float_product<A, B, S, const K: usize>(regs: Regs, ops: &[Slot], mask: u32)
where
    A: Element<Value = f32>,
    B: Element<Value = f32>,
    S: Sums,
{
    float_product_any::<A, B, S, K, false>(regs, ops, mask);
}

/// The same for a processor with AVX2 and FMA; [`floats`] asks before it takes it.
fn float_product_avx2<A, B, S, const K: usize>(regs: Regs, ops: &[Slot], mask: u32)
where
    A: Element<Value = f32>,
    B: Element<Value = f32>,
    S: Sums,
{
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
    unsafe fn run<A, B, S, const K: usize>(regs: Regs, ops: &[Slot], mask: u32)
    where
        A: Element<Value = f32>,
        B: Element<Value = f32>,
        S: Sums,
    {
        float_product_any::<A, B, S, K, true>(regs, ops, mask);
    }
    // SAFETY: `floats` gives this function out only where the processor has both features.
    unsafe { run::<A, B, S, K>(regs, ops, mask) }
}

fn integer_product<A, B, const M: usize, const K: usize, const SATURATE: bool>(
    regs: Regs,
    ops: &[Slot],
    mask: u32,
) where
    A: Element<Value = i32>,
    B: Element<Value = i32>,
{
    let (d, ops) = ops.split_at(M / 4);
    let (a, ops) = ops.split_at(M / 8 * K / 16);
    let (b, c) = ops.split_at(K / 16);
    let a = rows_of_a::<A, M, K>(regs, a);
    let b = transposed::<B, K>(regs, b);
    let mut sums = [Row::<i32>::default(); M];
    for (sums, a) in sums.iter_mut().zip(&a) {
        for (factor, b) in a.iter().zip(&b) {
            for (sum, b) in sums.iter_mut().zip(b) {
                // At most 32·255², far from overflow.
                *sum += factor * b;
            }
        }
    }
    // All of C is read before any of D is written: D's registers may be C's in another order.
    let mut words = [[0; LANES]; 4];
    for (index, &slot) in c.iter().enumerate() {
        let (half, odd) = (index / 2, index % 2);
        words[index] = regs.get32(slot);
        for (lane, word) in words[index].iter_mut().enumerate() {
            let (sum, add) = (sums[8 * half + lane / 4][4 * odd + lane % 4], *word as i32);
            *word = if SATURATE {
                add.saturating_add(sum)
            } else {
                add.wrapping_add(sum)
            } as u32;
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
