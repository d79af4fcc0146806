//! `mma.sync` against exact sums in integers, over fragment layouts written down from the PTX ISA's formulas.

use std::collections::HashMap;
use std::sync::Arc;

use softcuda::ir::regs::{FULL, LANES, Regs, Slot, Width};
use softcuda::ir::{Alu, Code, Converge, Op, Ref};
use softcuda::lower::isa::mma;
use softcuda::lower::{Addresses, Builder, Constants, Refused, Virtual};
use softcuda::ptx::ast::{Instruction, Module, Operand, RegId, Register, Type, VarId};

// --- Lowering one instruction and running it ------------------------------------------------------------

struct NoAddresses;

impl Addresses for NoAddresses {
    fn module_variable(&self, _: u32) -> Result<u64, Refused> {
        Err(Refused::new("no variables here"))
    }
    fn variable(&self, _: VarId) -> Result<u64, Refused> {
        Err(Refused::new("no variables here"))
    }
    fn function(&self, _: u32) -> Result<u64, Refused> {
        Err(Refused::new("no functions here"))
    }
    fn is_local(&self, _: VarId) -> bool {
        false
    }
}

/// Memory of one register: 256 bytes, aligned as `Regs` wants it.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Storage([u64; LANES]);

/// A lowered instruction with memory for its registers, each in a slot of the largest kind in use.
struct Lowered {
    code: Code,
    run: Alu,
    slots: Vec<Slot>,
    window: Vec<Storage>,
    constants: Vec<Storage>,
}

/// Lowers the instruction of this name; `registers` are the types of those that the operands refer to.
fn lower(name: &str, registers: &[Type], operands: Vec<Operand>) -> Result<Lowered, Refused> {
    let mut parts = name.split('.');
    let instruction = Instruction {
        guard: None,
        opcode: parts.next().unwrap().into(),
        modifiers: parts.map(Arc::from).collect(),
        operands,
        loc: None,
        line: 7,
    };
    let declared: Vec<Register> = registers
        .iter()
        .enumerate()
        .map(|(index, &ty)| Register {
            name: format!("%r{index}").into(),
            ty,
        })
        .collect();
    let mut virtuals: Vec<Virtual> = registers
        .iter()
        .map(|&ty| Virtual {
            width: Width::of(ty),
            ty,
        })
        .collect();
    let mut constants = Constants::default();
    let mut builder = Builder {
        registers: &declared,
        addresses: &NoAddresses,
        virtuals: &mut virtuals,
        constants: &mut constants,
        areas: &HashMap::new(),
        module: &Module::default(),
        carry: &mut None,
        before: vec![],
        after: vec![],
    };
    let code = mma::lower(&instruction, &mut builder)?.expect("mma is this family's opcode");
    assert!(builder.before.is_empty() && builder.after.is_empty());
    let Op::Alu(run) = code.op else {
        panic!("not a pure register instruction");
    };
    let slots = code
        .dst
        .iter()
        .chain(&code.src)
        .map(|r| match *r {
            Ref::Reg(index) => Slot(index * 256),
            Ref::Const(index) => constants.slot(index),
        })
        .collect();
    let bytes = constants.lay_out();
    let mut laid_out = vec![Storage([0; LANES]); bytes.len().div_ceil(256)];
    for (at, byte) in bytes.iter().enumerate() {
        laid_out[at / 256].0[at % 256 / 8] |= u64::from(*byte) << (8 * (at % 8));
    }
    Ok(Lowered {
        code,
        run,
        slots,
        window: vec![Storage([0; LANES]); virtuals.len()],
        constants: laid_out,
    })
}

impl Lowered {
    fn regs(&mut self) -> Regs {
        // SAFETY: a register has 256 bytes, at 256 times its number; nobody else uses the memory.
        unsafe { Regs::new(self.window.as_mut_ptr().cast(), self.constants.as_ptr().cast()) }
    }

    fn run(&mut self, mask: u32) {
        let regs = self.regs();
        (self.run)(regs, &self.slots, mask);
    }

    /// A register of `width` bytes in one lane.
    fn get(&self, register: usize, width: usize, lane: usize) -> u64 {
        let words = &self.window[register].0;
        match width {
            8 => words[lane],
            _ => words[lane / 2] >> (32 * (lane % 2)) & 0xffff_ffff,
        }
    }

    fn set(&mut self, register: usize, width: usize, lane: usize, value: u64) {
        let words = &mut self.window[register].0;
        if width == 8 {
            words[lane] = value;
        } else {
            let shift = 32 * (lane % 2);
            words[lane / 2] = words[lane / 2] & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
        }
    }
}

fn reg(index: usize) -> Operand {
    Operand::Reg(RegId(index as u32))
}

fn vector(registers: impl IntoIterator<Item = usize>) -> Operand {
    Operand::Vector(registers.into_iter().map(reg).collect())
}

// --- Layouts, from the formulas in the PTX ISA ----------------------------------------------------------

/// Row and column of A's element `i` in the lane of group `g` and thread-in-group `t`.
fn place_a(m: usize, k: usize, bits: usize, i: usize, g: usize, t: usize) -> (usize, usize) {
    match (m, k, bits) {
        (16, 8, 16) => (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1)),
        (16, 16, 16) => (
            if i < 2 || (4..6).contains(&i) { g } else { g + 8 },
            t * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
        ),
        (16, 4, 32) => (if i == 0 { g } else { g + 8 }, t),
        (16, 8, 32) => (
            if i == 0 || i == 2 { g } else { g + 8 },
            if i < 2 { t } else { t + 4 },
        ),
        (8, 16, 8) => (g, t * 4 + i),
        (16, 16, 8) => (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3)),
        (16, 32, 8) => (
            if i < 4 || (8..12).contains(&i) { g } else { g + 8 },
            t * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
        ),
        (8, 4, 64) => (g, t),
        (16, 4 | 8 | 16, 64) => (if i & 1 == 0 { g } else { g + 8 }, t + 4 * (i / 2)),
        other => panic!("no such fragment: {other:?}"),
    }
}

fn place_b(k: usize, bits: usize, i: usize, g: usize, t: usize) -> (usize, usize) {
    let row = match (k, bits) {
        (8, 16) => t * 2 + i,
        (16, 16) => t * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        (4, 32) => t,
        (8, 32) => t + if i == 0 { 0 } else { 4 },
        (16, 8) => t * 4 + i,
        (32, 8) => t * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
        (4 | 8 | 16, 64) => t + 4 * i,
        other => panic!("no such fragment: {other:?}"),
    };
    (row, g)
}

fn place_c(i: usize, g: usize, t: usize) -> (usize, usize) {
    (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
}

/// One form of the instruction under test.
#[derive(Clone, Copy)]
struct Case {
    m: usize,
    k: usize,
    d: Type,
    a: Type,
    b: Type,
    saturate: bool,
}

fn bits(ty: Type) -> usize {
    ty.size() * 8
}

impl Case {
    /// A and B of one type.
    fn new(m: usize, k: usize, d: Type, a: Type) -> Self {
        let (b, saturate) = (a, false);
        Case {
            m,
            k,
            d,
            a,
            b,
            saturate,
        }
    }

    fn name(&self) -> String {
        let ty = |ty: Type| format!("{ty:?}").to_lowercase();
        format!(
            "mma.sync.aligned.m{}n8k{}.row.col{}.{}.{}.{}.{}",
            self.m,
            self.k,
            if self.saturate { ".satfinite" } else { "" },
            ty(self.d),
            ty(self.a),
            ty(self.b),
            ty(self.d)
        )
    }

    /// Bytes of a register.
    fn width(&self) -> usize {
        if self.d == Type::F64 { 8 } else { 4 }
    }

    /// Registers of D (and C), A and B.
    fn registers(&self) -> [usize; 3] {
        let count = |elements: usize, ty: Type| elements / 32 * ty.size() / self.width();
        [
            count(self.m * 8, self.d),
            count(self.m * self.k, self.a),
            count(self.k * 8, self.b),
        ]
    }

    /// Lowered with D in the registers from 0 on, then A, B and C.
    fn lower(&self) -> Lowered {
        let [d, a, b] = self.registers();
        let c = d + a + b;
        let types: Vec<Type> = (0..c + d)
            .map(|index| match self.d {
                Type::F64 => Type::F64,
                Type::F32 | Type::S32 if index < d || index >= c => self.d,
                _ => Type::B32,
            })
            .collect();
        let operands = vec![vector(0..d), vector(d..d + a), vector(d + a..c), vector(c..c + d)];
        let lowered = lower(&self.name(), &types, operands).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(lowered.code.converge, Converge::Warp);
        let work = lowered.code.matrix.expect("counted as matrix work");
        assert_eq!(work.ty, self.a);
        assert_eq!(work.flops as usize, 2 * self.m * 8 * self.k);
        lowered
    }

    /// Runs D = A·B + C on matrices of encodings in row-major order.
    fn product(&self, lowered: &mut Lowered, a: &[u64], b: &[u64], c: &[u64]) -> Vec<u64> {
        let [nd, na, nb] = self.registers();
        let width = self.width();
        // Element i of a fragment whose registers begin at `from`.
        let mut write = |from: usize, lane: usize, i: usize, ty: Type, value: u64| {
            let per = width / ty.size();
            let (register, shift) = (from + i / per, bits(ty) * (i % per));
            let mask = (u64::MAX >> (64 - bits(ty))) << shift;
            let old = lowered.get(register, width, lane);
            lowered.set(register, width, lane, old & !mask | value << shift);
        };
        for lane in 0..LANES {
            let (g, t) = (lane >> 2, lane % 4);
            for i in 0..self.m * self.k / 32 {
                let (row, column) = place_a(self.m, self.k, bits(self.a), i, g, t);
                write(nd, lane, i, self.a, a[row * self.k + column]);
            }
            for i in 0..self.k * 8 / 32 {
                let (row, column) = place_b(self.k, bits(self.b), i, g, t);
                write(nd + na, lane, i, self.b, b[row * 8 + column]);
            }
            for i in 0..self.m * 8 / 32 {
                let (row, column) = place_c(i, g, t);
                write(nd + na + nb, lane, i, self.d, c[row * 8 + column]);
            }
        }
        lowered.run(FULL);
        let mut d = vec![0; self.m * 8];
        for lane in 0..LANES {
            for i in 0..self.m * 8 / 32 {
                let (row, column) = place_c(i, lane >> 2, lane % 4);
                let per = width / self.d.size();
                let word = lowered.get(i / per, width, lane);
                d[row * 8 + column] = word >> (bits(self.d) * (i % per)) & (u64::MAX >> (64 - bits(self.d)));
            }
        }
        d
    }
}

// --- Exact arithmetic -----------------------------------------------------------------------------------

/// A floating-point number taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Exact {
    /// `m·2^e`
    Number(i128, i32),
    /// Infinity, negative if true.
    Infinite(bool),
    Nan,
}

/// (bits of the exponent, bits of the fraction)
fn format_of(ty: Type) -> (u32, u32) {
    match ty {
        Type::F16 => (5, 10),
        Type::BF16 => (8, 7),
        Type::E4M3 => (4, 3),
        Type::E5M2 => (5, 2),
        Type::F32 | Type::TF32 => (8, 23),
        other => panic!("{other:?}"),
    }
}

fn exact(ty: Type, encoding: u64) -> Exact {
    let (exponent_bits, fraction_bits) = format_of(ty);
    let encoding = if ty == Type::TF32 {
        encoding & !0x1fff
    } else {
        encoding
    };
    let negative = encoding >> (exponent_bits + fraction_bits) & 1 != 0;
    let field = (encoding >> fraction_bits) as i32 & ((1 << exponent_bits) - 1);
    let fraction = i128::from(encoding & ((1 << fraction_bits) - 1));
    let bias = (1 << (exponent_bits - 1)) - 1;
    if ty == Type::E4M3 {
        if field == 15 && fraction == 7 {
            return Exact::Nan;
        }
    } else if field == (1 << exponent_bits) - 1 {
        return if fraction == 0 {
            Exact::Infinite(negative)
        } else {
            Exact::Nan
        };
    }
    let magnitude = if field == 0 {
        fraction
    } else {
        fraction | 1 << fraction_bits
    };
    let exponent = field.max(1) - bias - fraction_bits as i32;
    Exact::Number(if negative { -magnitude } else { magnitude }, exponent)
}

fn times(a: Exact, b: Exact) -> Exact {
    use Exact::*;
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Number(m, e), Number(n, f)) => Number(m * n, e + f),
        (Infinite(sign), Infinite(other)) => Infinite(sign != other),
        (Infinite(_), Number(0, _)) | (Number(0, _), Infinite(_)) => Nan,
        (Infinite(sign), Number(m, _)) | (Number(m, _), Infinite(sign)) => Infinite(sign != (m < 0)),
    }
}

/// What is known of a sum.
enum Sum {
    Nan,
    /// Infinity, negative if true.
    Infinite(bool),
    /// The value `m·2^e`, and whether all the terms' bits lie within 53.
    Known(i128, i32, bool),
    /// The terms span more than 120 bits.
    Wide,
}

fn sum(terms: &[Exact]) -> Sum {
    let (mut positive, mut negative) = (false, false);
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for term in terms {
        match *term {
            Exact::Nan => return Sum::Nan,
            Exact::Infinite(sign) => {
                positive |= !sign;
                negative |= sign;
            }
            Exact::Number(0, _) => {}
            Exact::Number(m, e) => {
                low = low.min(e + m.trailing_zeros() as i32);
                high = high.max(e + 128 - m.unsigned_abs().leading_zeros() as i32);
            }
        }
    }
    if positive && negative {
        return Sum::Nan;
    }
    if positive || negative {
        return Sum::Infinite(negative);
    }
    if low == i32::MAX {
        return Sum::Known(0, 0, true);
    }
    // 33 terms carry into six more bits.
    let span = high - low + 6;
    if span > 120 {
        return Sum::Wide;
    }
    let total = terms
        .iter()
        .map(|term| match *term {
            Exact::Number(0, _) => 0,
            Exact::Number(m, e) if e >= low => m << (e - low),
            // The bits that go are zeros, by the choice of `low`.
            Exact::Number(m, e) => m >> (low - e),
            _ => unreachable!("sorted out above"),
        })
        .sum();
    Sum::Known(total, low, span <= 53)
}

/// Exponent of the leading bit of `m·2^e`.
fn top_of(m: i128, e: i32) -> i32 {
    127 - m.unsigned_abs().leading_zeros() as i32 + e
}

/// `m·2^e` as an f32's bits, rounded toward zero; infinity from 2^128 on.
fn f32_toward_zero(m: i128, e: i32) -> u32 {
    if m == 0 {
        return 0;
    }
    let sign = u32::from(m < 0) << 31;
    let top = top_of(m, e);
    if top >= 128 {
        return sign | 0x7f80_0000;
    }
    // Weight of the last bit that stays.
    let last = (top - 23).max(-149);
    let magnitude = m.unsigned_abs();
    let kept = if last >= e {
        magnitude.checked_shr((last - e) as u32).unwrap_or(0)
    } else {
        magnitude << (e - last)
    } as u32;
    // The leading bit of a normal number counts as one in the exponent's field.
    sign | if top >= -126 {
        (((top + 126) as u32) << 23) + kept
    } else {
        kept
    }
}

/// `m·2^e` as an f16's bits, to nearest, ties to even.
fn f16_to_nearest(m: i128, e: i32) -> u32 {
    if m == 0 {
        return 0;
    }
    let sign = u32::from(m < 0) << 15;
    let top = top_of(m, e);
    if top >= 16 {
        return sign | 0x7c00;
    }
    let last = (top - 10).max(-24);
    let magnitude = m.unsigned_abs();
    let kept = if last <= e {
        magnitude << (e - last)
    } else if last - e > 126 {
        0
    } else {
        let unit = 1u128 << (last - e);
        let (whole, rest) = (magnitude / unit, magnitude % unit);
        whole + u128::from(rest > unit / 2 || (rest == unit / 2 && whole % 2 == 1))
    } as u32;
    // Rounding up may carry into the exponent, up to infinity.
    sign | if top >= -14 {
        (((top + 14) as u32) << 10) + kept
    } else {
        kept
    }
}

// --- Encodings to try -----------------------------------------------------------------------------------

/// Marsaglia's xorshift64*, seeded by a name.
struct Random(u64);

impl Random {
    fn new(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Which encodings a trial draws.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Within eight powers of two around 2^this.
    Around(i64),
    /// Any bits.
    Any,
    /// Few values that cancel: 0, ±1, ±1 with the last bit set, ± the least subnormal (2^-20 in wide formats, whose
    /// subnormals are beyond comparison with 1).
    Cancelling,
    /// Positive, in the two topmost powers of two.
    Greatest,
}

const NEAR: Kind = Kind::Around(0);

fn draw(random: &mut Random, ty: Type, kind: Kind) -> u64 {
    let (exponent_bits, fraction_bits) = format_of(ty);
    let width = exponent_bits + fraction_bits + 1;
    let bias = (1i64 << (exponent_bits - 1)) - 1;
    let largest = (1i64 << exponent_bits) - 2;
    let sign = random.below(2) << (width - 1);
    let fraction = random.below(1 << fraction_bits);
    let number =
        |field: i64, fraction: u64| sign | (field.clamp(0, largest) as u64) << fraction_bits | fraction;
    let encoding = match kind {
        Kind::Around(exponent) => number(bias + exponent - 4 + random.below(8) as i64, fraction),
        Kind::Any => random.below(1 << width),
        Kind::Cancelling => match random.below(5) {
            0 => number(0, 0),
            1 => number(bias, 1),
            2 if exponent_bits == 8 => number(bias - 20, 0),
            2 => number(0, 1),
            _ => number(bias, 0),
        },
        Kind::Greatest => number(largest - random.below(2) as i64, fraction) & !(1 << (width - 1)),
    };
    // Bits that tf32 lacks stay as drawn: they are to be ignored.
    encoding
}

fn float_cases() -> Vec<Case> {
    use Type::*;
    let mut cases = vec![
        Case::new(16, 8, F32, F16),
        Case::new(16, 16, F32, F16),
        Case::new(16, 8, F16, F16),
        Case::new(16, 16, F16, F16),
        Case::new(16, 8, F32, BF16),
        Case::new(16, 16, F32, BF16),
        Case::new(16, 4, F32, TF32),
        Case::new(16, 8, F32, TF32),
    ];
    for k in [16, 32] {
        for d in [F32, F16] {
            for a in [E4M3, E5M2] {
                for b in [E4M3, E5M2] {
                    cases.push(Case {
                        b,
                        ..Case::new(16, k, d, a)
                    });
                }
            }
        }
    }
    cases
}

/// What the results of some trials were, so that a test can tell whether it tested anything.
#[derive(Debug, Default)]
struct Seen {
    /// Compared bit by bit.
    exact: usize,
    nan: usize,
    infinite: usize,
    overflow: usize,
    subnormal: usize,
    /// Exact sums of more bits than the result has.
    rounded: usize,
    /// Compared within a bound, for sums inexact in f64.
    bounded: usize,
    wide: usize,
}

fn value_of(ty: Type, encoding: u32) -> f64 {
    match exact(ty, encoding.into()) {
        Exact::Number(m, e) => m as f64 * 2f64.powi(e),
        Exact::Infinite(negative) => f64::INFINITY * if negative { -1.0 } else { 1.0 },
        Exact::Nan => f64::NAN,
    }
}

fn check(case: &Case, [a, b, c, d]: [&[u64]; 4], seen: &mut Seen) {
    let single = case.d == Type::F32;
    let (infinity, nan, sign, fraction_bits) = if single {
        (0x7f80_0000, 0x7fff_ffff, 1 << 31, 23)
    } else {
        (0x7c00, 0x7fff, 1 << 15, 10)
    };
    for (at, &got) in d.iter().enumerate() {
        let (row, column, got) = (at / 8, at % 8, got as u32);
        let mut terms: Vec<Exact> = (0..case.k)
            .map(|k| {
                times(
                    exact(case.a, a[row * case.k + k]),
                    exact(case.b, b[k * 8 + column]),
                )
            })
            .collect();
        terms.push(exact(case.d, c[at]));
        let context = || format!("{} at {row}, {column}: got {got:#x}; {terms:?}", case.name());
        match sum(&terms) {
            Sum::Nan => {
                assert_eq!(got, nan, "{}", context());
                seen.nan += 1;
            }
            Sum::Infinite(negative) => {
                let want = infinity | if negative { sign } else { 0 };
                assert_eq!(got, want, "{}", context());
                seen.infinite += 1;
            }
            Sum::Known(m, e, true) => {
                let want = if single {
                    f32_toward_zero(m, e)
                } else {
                    f16_to_nearest(m, e)
                };
                // Which zero is not laid down.
                let zeros = want & !sign == 0 && got & !sign == 0;
                assert!(got == want || zeros, "want {want:#x}, {}", context());
                seen.exact += 1;
                seen.overflow += usize::from(want & !sign == infinity);
                let magnitude = want & !sign;
                seen.subnormal += usize::from(magnitude != 0 && magnitude < 1 << fraction_bits);
                if m != 0 {
                    let length = 128 - m.unsigned_abs().leading_zeros() - m.trailing_zeros();
                    seen.rounded += usize::from(length > fraction_bits + 1);
                }
            }
            Sum::Known(m, e, false) => {
                // f64 rounds on the way, each time by 2^-53 of no more than all magnitudes together.
                let reach: f64 = terms
                    .iter()
                    .map(|term| match *term {
                        Exact::Number(m, e) => m.abs() as f64 * 2f64.powi(e),
                        _ => unreachable!("a number's terms are numbers"),
                    })
                    .sum();
                let exact = m as f64 * 2f64.powi(e);
                let slack = reach * terms.len() as f64 * 2f64.powi(-52);
                let (unit, least, limit) = if single {
                    (2f64.powi(-23), 2f64.powi(-149), 2f64.powi(128))
                } else {
                    (2f64.powi(-11), 2f64.powi(-25), 65520.0)
                };
                let value = value_of(case.d, got);
                if value.is_infinite() {
                    assert!(
                        exact.abs() + slack >= limit && value * exact > 0.0,
                        "{}",
                        context()
                    );
                } else {
                    let bound = slack + 1.000001 * exact.abs() * unit + least;
                    assert!((value - exact).abs() <= bound, "{exact:e}, {}", context());
                }
                seen.bounded += 1;
            }
            Sum::Wide => seen.wide += 1,
        }
    }
}

fn trial(case: &Case, lowered: &mut Lowered, random: &mut Random, kinds: [Kind; 3], seen: &mut Seen) {
    let mut fill = |count: usize, ty: Type, kind: Kind| -> Vec<u64> {
        (0..count).map(|_| draw(random, ty, kind)).collect()
    };
    let a = fill(16 * case.k, case.a, kinds[0]);
    let b = fill(case.k * 8, case.b, kinds[1]);
    let c = fill(16 * 8, case.d, kinds[2]);
    let d = case.product(lowered, &a, &b, &c);
    check(case, [&a, &b, &c, &d], seen);
}

// --- Tests ----------------------------------------------------------------------------------------------

#[test]
fn random_sums_are_rounded_once() {
    for case in float_cases() {
        let mut lowered = case.lower();
        let mut random = Random::new(&case.name());
        let mut seen = Seen::default();
        for _ in 0..40 {
            trial(&case, &mut lowered, &mut random, [NEAR; 3], &mut seen);
        }
        assert!(seen.exact > 4500, "{}: {seen:?}", case.name());
        // Else the rounding was not put to the test.
        assert!(seen.rounded > 1500, "{}: {seen:?}", case.name());
    }
}

#[test]
fn any_bits_with_infinities_and_nans() {
    let mut total = Seen::default();
    for case in float_cases() {
        let mut lowered = case.lower();
        let mut random = Random::new(&case.name());
        let mut seen = Seen::default();
        for round in 0..60 {
            // Mostly plain numbers, so that not every sum is a NaN.
            let kinds = match round % 4 {
                0 => [Kind::Any; 3],
                1 => [Kind::Any, NEAR, NEAR],
                2 => [NEAR, Kind::Any, NEAR],
                _ => [NEAR, NEAR, Kind::Any],
            };
            trial(&case, &mut lowered, &mut random, kinds, &mut seen);
        }
        assert!(seen.exact + seen.bounded > 300, "{}: {seen:?}", case.name());
        total.nan += seen.nan;
        total.infinite += seen.infinite;
        total.bounded += seen.bounded;
    }
    assert!(
        total.nan > 1000 && total.infinite > 200 && total.bounded > 1000,
        "{total:?}"
    );
}

#[test]
fn cancellation_leaves_what_is_left() {
    for case in float_cases() {
        let mut lowered = case.lower();
        let mut random = Random::new(&case.name());
        let mut seen = Seen::default();
        for _ in 0..20 {
            trial(&case, &mut lowered, &mut random, [Kind::Cancelling; 3], &mut seen);
        }
        assert!(seen.exact + seen.bounded > 2000, "{}: {seen:?}", case.name());
        assert!(seen.exact > 50, "{}: {seen:?}", case.name());
    }
}

#[test]
fn subnormal_results() {
    let mut total = 0;
    for case in float_cases() {
        let mut lowered = case.lower();
        let mut random = Random::new(&case.name());
        let mut seen = Seen::default();
        // Products among the least that the type of the result has; E4M3 does not reach so far down as f16, and
        // no product of 8-bit or f16 numbers as f32.
        let (factor, add) = match (case.d, case.a) {
            (Type::F32, Type::BF16 | Type::TF32) => (-68, -132),
            (Type::F32, _) => (-6, -132),
            _ => (-9, -16),
        };
        let kinds = [Kind::Around(factor), Kind::Around(factor), Kind::Around(add)];
        for _ in 0..20 {
            trial(&case, &mut lowered, &mut random, kinds, &mut seen);
        }
        if case.d == Type::F16 || matches!(case.a, Type::BF16 | Type::TF32) {
            assert!(seen.subnormal > 100, "{}: {seen:?}", case.name());
        }
        total += seen.subnormal;
    }
    assert!(total > 2000, "{total}");
}

#[test]
fn overflow_is_infinity() {
    for case in float_cases() {
        let mut lowered = case.lower();
        let mut random = Random::new(&case.name());
        let mut seen = Seen::default();
        // Only bf16 and tf32 products reach past f32.
        let kinds = match (case.d, case.a) {
            (Type::F32, Type::BF16 | Type::TF32) => [Kind::Around(63), Kind::Around(63), Kind::Greatest],
            (Type::F32, _) => [NEAR, NEAR, Kind::Greatest],
            _ => [Kind::Around(6), Kind::Around(6), Kind::Around(12)],
        };
        for _ in 0..20 {
            trial(&case, &mut lowered, &mut random, kinds, &mut seen);
        }
        if case.d == Type::F16 || matches!(case.a, Type::BF16 | Type::TF32) {
            assert!(seen.overflow > 50, "{}: {seen:?}", case.name());
            assert!(seen.exact > seen.overflow + 50, "{}: {seen:?}", case.name());
        }
    }
}

/// Numbers picked by hand: where truncation and rounding to nearest part.
#[test]
fn hand_picked_roundings() {
    let case = Case::new(16, 16, Type::F32, Type::BF16);
    let mut lowered = case.lower();
    let mut one = |products: &[(f32, f32)], c: f32| -> f32 {
        let (mut a, mut b, mut cs) = (vec![0; 256], vec![0; 128], vec![0; 128]);
        for (k, &(x, y)) in products.iter().enumerate() {
            a[5 * 16 + k] = u64::from(x.to_bits() >> 16);
            b[k * 8 + 3] = u64::from(y.to_bits() >> 16);
        }
        cs[5 * 8 + 3] = c.to_bits().into();
        let d = case.product(&mut lowered, &a, &b, &cs);
        // Everything else is zero.
        assert!(d.iter().filter(|&&other| other != 0).count() <= 1);
        f32::from_bits(d[5 * 8 + 3] as u32)
    };
    let ulp = 2f32.powi(-23);
    // 1 + 0.75 ulp: down, where nearest would go up; the same on the negative side.
    assert_eq!(one(&[(0.75, ulp)], 1.0), 1.0);
    assert_eq!(one(&[(-0.75, ulp)], -1.0), -1.0);
    // 1 - 2^-30 truncates to the number before 1.
    assert_eq!(one(&[(-1.0, 2f32.powi(-30))], 1.0), 1.0 - ulp / 2.0);
    // Halves that make a whole only if they are not rounded one by one.
    assert_eq!(one(&[(0.5, ulp), (0.5, ulp)], 1.0), 1.0 + ulp);
    // 2^127 + 2^127 overflows; the greatest finite number and a little does not.
    let big = 2f32.powi(64);
    assert_eq!(one(&[(big, big / 2.0), (big, big / 2.0)], 0.0), f32::INFINITY);
    assert_eq!(one(&[(1.0, 1.0)], f32::MAX), f32::MAX);
    assert_eq!(one(&[(-big, big)], 0.0), f32::NEG_INFINITY);
    // Overflow on the way, not in the sum.
    let less = 2f32.powi(36);
    assert_eq!(
        one(&[(big, big), (-big, big), (3.0 * less, big)], 0.0),
        3.0 * less * big
    );
    // The least subnormal stays, half as much again truncates to it, less than it to zero.
    let tiny = 2f32.powi(-100);
    assert_eq!(one(&[(tiny, 2f32.powi(-49))], 0.0).to_bits(), 1);
    assert_eq!(one(&[(tiny, 1.5 * 2f32.powi(-49))], 0.0).to_bits(), 1);
    assert_eq!(one(&[(tiny, 1.75 * 2f32.powi(-50))], 0.0).to_bits(), 0);
}

/// Ties and the border to infinity in f16.
#[test]
fn hand_picked_half_roundings() {
    let case = Case::new(16, 8, Type::F16, Type::F16);
    let mut lowered = case.lower();
    // 2^-11 · y + c, as encodings.
    let mut one = |x: u64, y: u64, c: u64| -> u64 {
        let (mut a, mut b, mut cs) = (vec![0; 128], vec![0; 64], vec![0; 128]);
        (a[9 * 8 + 7], b[7 * 8 + 4], cs[9 * 8 + 4]) = (x, y, c);
        case.product(&mut lowered, &a, &b, &cs)[9 * 8 + 4]
    };
    let eleventh = 0x1000; // 2^-11
    // 1 + 2^-11 is a tie: to the even 1; one unit higher it is to the even neighbour above.
    assert_eq!(one(eleventh, 0x3c00, 0x3c00), 0x3c00);
    assert_eq!(one(eleventh, 0x3c00, 0x3c01), 0x3c02);
    // A little above the tie goes up.
    assert_eq!(one(eleventh, 0x3c01, 0x3c00), 0x3c01);
    // 65504 + 16 = 65520 is the tie between the greatest number and infinity; 65504 + 15 stays.
    assert_eq!(one(0x4c00, 0x3c00, 0x7bff), 0x7c00);
    assert_eq!(one(0x4b80, 0x3c00, 0x7bff), 0x7bff);
    assert_eq!(one(0x4c00, 0xbc00, 0xfbff), 0xfc00);
    // 2^-12 · 2^-12 is the least subnormal; half of it ties to zero, three halves to two units.
    assert_eq!(one(0x0c00, 0x0c00, 0), 1);
    assert_eq!(one(0x0c00, 0x0800, 0), 0);
    assert_eq!(one(0x0c00, 0x0e00, 0), 2);
}

#[test]
fn integers_wrap_or_saturate() {
    use Type::{S8, U8};
    let value = |ty: Type, byte: u64| -> i64 {
        if ty == S8 && byte >= 128 {
            byte as i64 - 256
        } else {
            byte as i64
        }
    };
    for (m, k) in [(8, 16), (16, 16), (16, 32)] {
        for (a, b) in [(S8, S8), (S8, U8), (U8, S8), (U8, U8)] {
            for saturate in [false, true] {
                let case = Case {
                    m,
                    k,
                    d: Type::S32,
                    a,
                    b,
                    saturate,
                };
                let mut lowered = case.lower();
                let mut random = Random::new(&case.name());
                let mut clipped = 0;
                for round in 0..20 {
                    let mut bytes = |count: usize| -> Vec<u64> {
                        (0..count)
                            .map(|_| match (round, random.below(4)) {
                                // Extremes, for the greatest sums.
                                (0..4, 0) => 0x80,
                                (0..4, 1) => 0x7f,
                                (0..4, _) => 0xff,
                                _ => random.below(256),
                            })
                            .collect()
                    };
                    let (left, right) = (bytes(m * k), bytes(k * 8));
                    let add: Vec<u64> = (0..m * 8)
                        .map(|_| match random.below(3) {
                            0 => 0x7fff_ffff - random.below(1 << 16),
                            1 => 0x8000_0000 + random.below(1 << 16),
                            _ => random.below(1 << 32),
                        })
                        .collect();
                    let d = case.product(&mut lowered, &left, &right, &add);
                    for (at, &got) in d.iter().enumerate() {
                        let (row, column) = (at / 8, at % 8);
                        let exact = i64::from(add[at] as u32 as i32)
                            + (0..k)
                                .map(|i| value(a, left[row * k + i]) * value(b, right[i * 8 + column]))
                                .sum::<i64>();
                        let limited = exact.clamp(i32::MIN.into(), i32::MAX.into());
                        clipped += usize::from(limited != exact);
                        let want = if saturate { limited } else { exact };
                        assert_eq!(got as u32, want as u32, "{} at {row}, {column}", case.name());
                    }
                }
                assert!(clipped > 20, "{}: {clipped}", case.name());
            }
        }
    }
}

/// f64 on integers, where every order of additions is exact, and one product whose fusion shows.
#[test]
fn doubles() {
    for (m, k) in [(8, 4), (16, 4), (16, 8), (16, 16)] {
        let case = Case::new(m, k, Type::F64, Type::F64);
        let mut lowered = case.lower();
        let mut random = Random::new(&case.name());
        let mut draw = |count: usize| -> (Vec<i64>, Vec<u64>) {
            let values: Vec<i64> = (0..count)
                .map(|_| random.below(1 << 21) as i64 - (1 << 20))
                .collect();
            let encodings = values.iter().map(|&v| (v as f64).to_bits()).collect();
            (values, encodings)
        };
        let ((a, a_bits), (b, b_bits), (c, c_bits)) = (draw(m * k), draw(k * 8), draw(m * 8));
        let d = case.product(&mut lowered, &a_bits, &b_bits, &c_bits);
        for (at, &got) in d.iter().enumerate() {
            let (row, column) = (at / 8, at % 8);
            let want = c[at] + (0..k).map(|i| a[row * k + i] * b[i * 8 + column]).sum::<i64>();
            assert_eq!(f64::from_bits(got), want as f64, "{}", case.name());
        }
        // (1 + 2^-30)² - (1 + 2^-29) = 2^-60, which only a fused product keeps.
        let x = 1.0 + 2f64.powi(-30);
        let (mut a, mut b, mut c) = (vec![0; m * k], vec![0; k * 8], vec![0; m * 8]);
        a[2 * k + 1] = x.to_bits();
        b[8 + 6] = x.to_bits();
        c[2 * 8 + 6] = (-(1.0 + 2f64.powi(-29))).to_bits();
        let d = case.product(&mut lowered, &a, &b, &c);
        assert_eq!(f64::from_bits(d[2 * 8 + 6]), 2f64.powi(-60));
    }
}

/// D in C's or A's registers in another order: everything is read before anything is written.
#[test]
fn destinations_may_be_sources() {
    for case in [
        Case::new(16, 16, Type::F32, Type::BF16),
        Case::new(16, 8, Type::F16, Type::F16),
        Case::new(16, 32, Type::S32, Type::S8),
        Case::new(16, 8, Type::F64, Type::F64),
    ] {
        let [nd, na, nb] = case.registers();
        let c = nd + na + nb;
        let width = case.width();
        let mut apart = case.lower();
        let ty = if width == 8 { Type::F64 } else { Type::B32 };
        let over_c: Vec<usize> = (c..c + nd).rev().collect();
        let over_a: Vec<usize> = (nd..nd + na).rev().chain(0..nd).take(nd).collect();
        for target in [over_c, over_a] {
            let operands = vec![
                vector(target.iter().copied()),
                vector(nd..nd + na),
                vector(nd + na..c),
                vector(c..c + nd),
            ];
            let mut together =
                lower(&case.name(), &vec![ty; c + nd], operands).unwrap_or_else(|why| panic!("{why}"));
            let mut random = Random::new(&case.name());
            for register in nd..c + nd {
                for lane in 0..LANES {
                    // Small positive numbers in every format.
                    let word = random.next() & 0x0fff_0fff_0fff_0fff | 0x3000_3000_3000_3000;
                    apart.set(register, width, lane, word);
                    together.set(register, width, lane, word);
                }
            }
            apart.run(FULL);
            together.run(FULL);
            for (index, &register) in target.iter().enumerate() {
                for lane in 0..LANES {
                    assert_eq!(
                        together.get(register, width, lane),
                        apart.get(index, width, lane),
                        "{} register {index}, lane {lane}",
                        case.name()
                    );
                }
            }
        }
    }
}

#[test]
fn lanes_outside_the_mask_keep_their_values() {
    let case = Case::new(16, 16, Type::F32, Type::BF16);
    let mut lowered = case.lower();
    for register in 0..4 {
        for lane in 0..LANES {
            lowered.set(register, 4, lane, 0xabcd_0000 + lane as u64);
        }
    }
    lowered.run(0x0000_ffff);
    for register in 0..4 {
        for lane in 0..LANES {
            let want = if lane < 16 { 0 } else { 0xabcd_0000 + lane as u64 };
            assert_eq!(lowered.get(register, 4, lane), want);
        }
    }
}

/// C as literals, B as one register without braces.
#[test]
fn constants_and_single_registers() {
    let mut types = vec![Type::F32; 4];
    types.extend([Type::B32; 3]);
    let literals = [1f32, 2.0, 3.0, 4.0].map(|value| Operand::F32(value.to_bits()));
    let operands = vec![
        vector(0..4),
        vector(4..6),
        reg(6),
        Operand::Vector(literals.to_vec()),
    ];
    let name = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32";
    let mut lowered = lower(name, &types, operands).unwrap_or_else(|why| panic!("{why}"));
    lowered.run(FULL);
    for register in 0..4 {
        for lane in 0..LANES {
            let got = f32::from_bits(lowered.get(register, 4, lane) as u32);
            assert_eq!(got, register as f32 + 1.0);
        }
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    let refused = |name: &str, counts: [usize; 4]| {
        let mut next = 0;
        let operands = counts
            .iter()
            .map(|&count| {
                next += count;
                vector(next - count..next)
            })
            .collect();
        match lower(name, &[Type::B32; 32], operands) {
            Ok(_) => panic!("{name} was taken"),
            Err(why) => {
                assert_eq!(why.line, 7);
                assert!(why.message.contains(name), "{why}");
            }
        }
    };
    refused("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32", [8, 2, 2, 8]);
    refused("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32", [4, 4, 2, 4]);
    refused(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc",
        [4, 4, 2, 4],
    );
    refused(
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        [4, 2, 2, 4],
    );
    refused(
        "mma.sync.aligned.m16n8k16.col.row.f32.bf16.bf16.f32",
        [4, 4, 2, 4],
    );
    refused("mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32", [4, 4, 2, 4]);
    refused(
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        [2, 4, 2, 2],
    );
    refused("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f32", [2, 4, 2, 4]);
    refused(
        "mma.sync.aligned.m16n8k16.row.col.satfinite.f32.bf16.bf16.f32",
        [4, 4, 2, 4],
    );
    // Too few registers of A.
    refused(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        [4, 2, 2, 4],
    );
}

/// Time per instruction, best of ten: `cargo test --release --test isa_mma -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time_per_instruction() {
    let mut cases = float_cases();
    cases.push(Case::new(16, 32, Type::S32, Type::S8));
    for case in cases {
        let mut lowered = case.lower();
        let mut random = Random::new("time");
        for register in 0..lowered.window.len() {
            for lane in 0..LANES {
                lowered.set(register, 4, lane, random.next() & 0x0fff_0fff | 0x3000_3000);
            }
        }
        let regs = lowered.regs();
        let best = (0..10)
            .map(|_| {
                let start = std::time::Instant::now();
                for _ in 0..20_000 {
                    (lowered.run)(regs, std::hint::black_box(&lowered.slots), FULL);
                }
                start.elapsed().as_secs_f64() / 20_000.0
            })
            .fold(f64::MAX, f64::min);
        println!("{:6.0} ns  {}", best * 1e9, case.name());
    }
}
