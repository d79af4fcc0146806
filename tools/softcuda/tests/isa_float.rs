//! The floating-point instructions against exact arithmetic.
//!
//! The reference shares nothing with the implementation: numbers are naturals of any size times a power of two,
//! and a result is rounded by searching the target format's patterns, which are ordered as their values, for the
//! two neighbours of the exact result.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use softcuda::ir::regs::{FULL, Regs, Slot, Width};
use softcuda::ir::{Alu, Op, Ref};
use softcuda::lower::isa::FAMILIES;
use softcuda::lower::{Addresses, Builder, Constants, Refused, Virtual};
use softcuda::ptx::ast::{Instruction, Module, Operand, RegId, Register, Type, VarId};

// ---------------------------------------------------------------------------------------------- running

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

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code)] [u8; 64]);

/// Bytes of a virtual register: room for any width.
const STRIDE: usize = 512;

/// One instruction over registers of its own, ready to run.
struct Program {
    name: String,
    steps: Vec<(Alu, Vec<Slot>)>,
    window: Vec<Line>,
    constants: Vec<Line>,
    dst: Vec<Type>,
    src: Vec<Type>,
}

fn instruction(name: &str, operands: Vec<Operand>) -> Instruction {
    let mut words = name.split('.');
    Instruction {
        guard: None,
        opcode: words.next().unwrap().into(),
        modifiers: words.map(Arc::from).collect(),
        operands,
        loc: None,
        line: 7,
    }
}

/// Lowers `name` with registers of the given types; two destinations are `p|q`.
fn lower(name: &str, dst: &[Type], src: &[Type]) -> Result<Program, Refused> {
    let registers: Vec<Register> = dst
        .iter()
        .chain(src)
        .enumerate()
        .map(|(i, &ty)| Register {
            name: format!("%r{i}").into(),
            ty,
        })
        .collect();
    let reg = |i: usize| Operand::Reg(RegId(i as u32));
    let mut operands = vec![if dst.len() == 2 {
        Operand::Pair(Box::new(reg(0)), Box::new(reg(1)))
    } else {
        reg(0)
    }];
    operands.extend((dst.len()..registers.len()).map(reg));
    let instruction = instruction(name, operands);
    let mut virtuals: Vec<Virtual> = registers
        .iter()
        .map(|r| Virtual {
            width: Width::of(r.ty),
            ty: r.ty,
        })
        .collect();
    let mut constants = Constants::default();
    let mut b = Builder {
        registers: &registers,
        addresses: &NoAddresses,
        virtuals: &mut virtuals,
        constants: &mut constants,
        areas: &HashMap::new(),
        module: &Module::default(),
        carry: &mut None,
        before: Vec::new(),
        after: Vec::new(),
    };
    let mut found = None;
    for (_, family, _) in FAMILIES {
        found = family(&instruction, &mut b)?;
        if found.is_some() {
            break;
        }
    }
    let code = found.ok_or_else(|| Refused::new(format!("no family knows {name}")))?;
    let (before, after) = (b.before, b.after);
    let mut codes: Vec<_> = before.into_iter().map(|(code, _)| code).collect();
    codes.push(code);
    codes.extend(after);
    let steps = codes
        .into_iter()
        .map(|code| {
            let Op::Alu(run) = code.op else {
                panic!("{name} is not pure")
            };
            let slots = code
                .dst
                .iter()
                .chain(&code.src)
                .map(|r| match r {
                    Ref::Reg(i) => Slot(i * STRIDE as u32),
                    Ref::Const(i) => constants.slot(*i),
                })
                .collect();
            (run, slots)
        })
        .collect();
    let bytes = constants.lay_out();
    let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64).max(1)];
    for (line, piece) in lines.iter_mut().zip(bytes.chunks(64)) {
        line.0[..piece.len()].copy_from_slice(piece);
    }
    Ok(Program {
        name: name.into(),
        steps,
        window: vec![Line([0; 64]); virtuals.len() * STRIDE / 64],
        constants: lines,
        dst: dst.into(),
        src: src.into(),
    })
}

fn program(name: &str, dst: &[Type], src: &[Type]) -> Program {
    lower(name, dst, src).unwrap_or_else(|e| panic!("{name}: {e}"))
}

impl Program {
    fn regs(&mut self) -> Regs {
        // SAFETY: slots lie in these two areas, which nobody else uses while the instruction runs.
        unsafe { Regs::new(self.window.as_mut_ptr().cast(), self.constants.as_ptr().cast()) }
    }

    fn put(&mut self, index: usize, lane: usize, value: u64) {
        let ty = if index < self.dst.len() {
            self.dst[index]
        } else {
            self.src[index - self.dst.len()]
        };
        let slot = Slot((index * STRIDE) as u32);
        let regs = self.regs();
        match Width::of(ty) {
            Width::Pred => regs.set_pred(slot, (value as u32 & 1) << lane, 1 << lane),
            Width::W64 => regs.set_lane64(slot, lane, value),
            _ => regs.set_lane32(slot, lane, value as u32),
        }
    }

    fn get(&mut self, index: usize, lane: usize) -> u64 {
        let slot = Slot((index * STRIDE) as u32);
        let ty = self.dst[index];
        let regs = self.regs();
        match Width::of(ty) {
            Width::Pred => (regs.pred(slot) >> lane & 1).into(),
            Width::W64 => regs.lane64(slot, lane),
            _ => regs.lane32(slot, lane).into(),
        }
    }

    fn execute(&mut self, mask: u32) {
        let regs = self.regs();
        for (run, slots) in &self.steps {
            run(regs, slots, mask);
        }
    }

    /// Runs the cases, 32 at a time, and gives each one's results to `check`. Every third warp runs under a
    /// random mask: lanes outside of it must keep what they held.
    fn check(&mut self, cases: &[Vec<u64>], mut want: impl FnMut(&[u64]) -> Vec<u64>) {
        let mut random = Random(0x5eed ^ cases.len() as u64);
        for (warp, chunk) in cases.chunks(32).enumerate() {
            let mask = if warp % 3 == 2 { random.next() as u32 } else { FULL };
            let mut old = Vec::new();
            for index in 0..self.dst.len() {
                for lane in 0..32 {
                    let bits = self.dst[index].size() * 8;
                    let value = if self.dst[index] == Type::Pred {
                        random.next() & 1
                    } else {
                        random.next() >> (64 - bits)
                    };
                    self.put(index, lane, value);
                    old.push(value);
                }
            }
            for lane in 0..32 {
                let case = &chunk[lane.min(chunk.len() - 1)];
                assert_eq!(case.len(), self.src.len(), "{}", self.name);
                for (i, &value) in case.iter().enumerate() {
                    self.put(self.dst.len() + i, lane, value);
                }
            }
            self.execute(mask);
            for (lane, case) in chunk.iter().enumerate() {
                let got: Vec<u64> = (0..self.dst.len()).map(|i| self.get(i, lane)).collect();
                if mask >> lane & 1 == 0 {
                    let kept: Vec<u64> = (0..self.dst.len()).map(|i| old[i * 32 + lane]).collect();
                    assert_eq!(got, kept, "{} wrote lane {lane} outside of {mask:#x}", self.name);
                    continue;
                }
                let want = want(case);
                assert!(
                    got == want,
                    "{} of {case:x?}: {got:x?}, should be {want:x?}",
                    self.name
                );
            }
        }
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

// ---------------------------------------------------------------------------------------------- exact numbers

/// A natural number, least significant limb first, no zero limb at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Nat(Vec<u32>);

impl Nat {
    fn new(mut x: u128) -> Nat {
        let mut limbs = Vec::new();
        while x != 0 {
            limbs.push(x as u32);
            x >>= 32;
        }
        Nat(limbs)
    }
    fn trim(mut self) -> Nat {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
    fn shl(&self, by: u32) -> Nat {
        let mut limbs = vec![0; by as usize / 32];
        let by = by % 32;
        let mut carry = 0u64;
        for &limb in &self.0 {
            carry |= u64::from(limb) << by;
            limbs.push(carry as u32);
            carry >>= 32;
        }
        limbs.push(carry as u32);
        Nat(limbs).trim()
    }
    fn add(&self, other: &Nat) -> Nat {
        let mut limbs = Vec::new();
        let mut carry = 0u64;
        for i in 0..self.0.len().max(other.0.len()) {
            carry += u64::from(*self.0.get(i).unwrap_or(&0)) + u64::from(*other.0.get(i).unwrap_or(&0));
            limbs.push(carry as u32);
            carry >>= 32;
        }
        limbs.push(carry as u32);
        Nat(limbs).trim()
    }
    /// self − other, which is not greater.
    fn sub(&self, other: &Nat) -> Nat {
        let mut limbs = Vec::new();
        let mut borrow = 0i64;
        for i in 0..self.0.len() {
            borrow += i64::from(self.0[i]) - i64::from(*other.0.get(i).unwrap_or(&0));
            limbs.push(borrow as u32);
            borrow >>= 32;
        }
        assert_eq!(borrow, 0);
        Nat(limbs).trim()
    }
    fn mul(&self, other: &Nat) -> Nat {
        let mut limbs = vec![0u32; self.0.len() + other.0.len()];
        for (i, &x) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, &y) in other.0.iter().enumerate() {
                carry += u64::from(x) * u64::from(y) + u64::from(limbs[i + j]);
                limbs[i + j] = carry as u32;
                carry >>= 32;
            }
            limbs[i + other.0.len()] = carry as u32;
        }
        Nat(limbs).trim()
    }
    fn cmp(&self, other: &Nat) -> Ordering {
        (self.0.len().cmp(&other.0.len())).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
    fn bits(&self) -> i64 {
        match self.0.last() {
            None => 0,
            Some(top) => self.0.len() as i64 * 32 - i64::from(top.leading_zeros()),
        }
    }
}

/// n · 2^e, not negative.
#[derive(Clone, Debug)]
struct Dyadic {
    n: Nat,
    e: i32,
}

impl Dyadic {
    fn align(&self, other: &Dyadic) -> (Nat, Nat, i32) {
        let e = self.e.min(other.e);
        (
            self.n.shl((self.e - e) as u32),
            other.n.shl((other.e - e) as u32),
            e,
        )
    }
    fn cmp(&self, other: &Dyadic) -> Ordering {
        if self.n.is_zero() || other.n.is_zero() {
            return self.n.cmp(&other.n);
        }
        let tops = (self.n.bits() + i64::from(self.e)).cmp(&(other.n.bits() + i64::from(other.e)));
        tops.then_with(|| {
            let (a, b, _) = self.align(other);
            a.cmp(&b)
        })
    }
    fn add(&self, other: &Dyadic) -> Dyadic {
        let (a, b, e) = self.align(other);
        Dyadic { n: a.add(&b), e }
    }
    fn mul(&self, other: &Dyadic) -> Dyadic {
        Dyadic {
            n: self.n.mul(&other.n),
            e: self.e + other.e,
        }
    }
}

/// A datum of some format.
#[derive(Clone, Debug)]
enum Num {
    Nan,
    Inf(bool),
    Fin(bool, Dyadic),
}

use Num::{Fin, Inf, Nan};

fn int(x: i128) -> Num {
    Fin(
        x < 0,
        Dyadic {
            n: Nat::new(x.unsigned_abs()),
            e: 0,
        },
    )
}

fn zero(negative: bool) -> Num {
    Fin(negative, Dyadic { n: Nat::new(0), e: 0 })
}

/// A format: fraction and exponent bits, first pattern that is not finite, canonical NaN.
#[derive(Clone, Copy, Debug)]
struct Fmt {
    f: u32,
    e: u32,
    inf: u64,
    nan: u64,
}

const H: Fmt = Fmt {
    f: 10,
    e: 5,
    inf: 0x7c00,
    nan: 0x7fff,
};
const B: Fmt = Fmt {
    f: 7,
    e: 8,
    inf: 0x7f80,
    nan: 0x7fff,
};
const S: Fmt = Fmt {
    f: 23,
    e: 8,
    inf: 0x7f80_0000,
    nan: 0x7fff_ffff,
};
const D: Fmt = Fmt {
    f: 52,
    e: 11,
    inf: 0x7ff << 52,
    nan: 0xfff8 << 48,
};
const E4: Fmt = Fmt {
    f: 3,
    e: 4,
    inf: 0x7f,
    nan: 0x7f,
};
const E5: Fmt = Fmt {
    f: 2,
    e: 5,
    inf: 0x7c,
    nan: 0x7f,
};
const T: Fmt = Fmt {
    f: 10,
    e: 8,
    inf: 0x3_fc00,
    nan: 0x3_ffff,
};

impl Fmt {
    fn sign(self) -> u64 {
        1 << (self.f + self.e)
    }
    /// The value that a pattern without a sign would have if no pattern were special.
    fn value(self, pattern: u64) -> Dyadic {
        let bias = (1 << (self.e - 1)) - 1;
        let (exponent, fraction) = (pattern >> self.f, pattern & ((1 << self.f) - 1));
        let (significand, exponent) = if exponent == 0 {
            (fraction, 1)
        } else {
            (fraction | 1 << self.f, exponent as i32)
        };
        Dyadic {
            n: Nat::new(significand.into()),
            e: exponent - bias - self.f as i32,
        }
    }
    fn decode(self, bits: u64) -> Num {
        let (negative, pattern) = (bits & self.sign() != 0, bits & (self.sign() - 1));
        match pattern.cmp(&self.inf) {
            Ordering::Less => Fin(negative, self.value(pattern)),
            // e4m3 has a NaN where others have infinity.
            Ordering::Equal if self.nan != self.inf => Inf(negative),
            _ => Nan,
        }
    }
    fn subnormal(self, bits: u64) -> bool {
        let pattern = bits & (self.sign() - 1);
        pattern != 0 && pattern >> self.f == 0
    }
    fn flush(self, bits: u64) -> u64 {
        if self.subnormal(bits) {
            bits & self.sign()
        } else {
            bits
        }
    }
    /// Rounds a magnitude that is known by how it compares to any number: `cmp(v)` is the order of v and it.
    fn round(self, negative: bool, mode: &str, cmp: impl Fn(&Dyadic) -> Ordering) -> u64 {
        let (mut low, mut high) = (0, self.inf);
        // Powers of two first: whole exponents of the pattern.
        let (mut least, mut above) = (0, (self.inf >> self.f) + 1);
        while above - least > 1 {
            let middle = (least + above) / 2;
            if cmp(&self.value(middle << self.f)) == Ordering::Greater {
                above = middle;
                high = high.min(middle << self.f);
            } else {
                least = middle;
                low = (middle << self.f).min(self.inf - 1);
            }
        }
        // The greatest finite pattern whose value is not above it.
        while high - low > 1 {
            let middle = (low + high) / 2;
            if cmp(&self.value(middle)) == Ordering::Greater {
                high = middle;
            } else {
                low = middle;
            }
        }
        let exact = cmp(&self.value(low)) == Ordering::Equal;
        let mut half = self.value(low).add(&self.value(low + 1));
        half.e -= 1;
        let up = !exact
            && match mode {
                "rz" => false,
                "rm" => negative,
                "rp" => !negative,
                "rna" => cmp(&half) != Ordering::Greater,
                _ => match cmp(&half) {
                    Ordering::Less => true,
                    Ordering::Equal => low % 2 == 1,
                    Ordering::Greater => false,
                },
            };
        (low + u64::from(up)) | if negative { self.sign() } else { 0 }
    }
    fn encode(self, x: &Num, mode: &str) -> u64 {
        match x {
            Nan => self.nan,
            Inf(negative) => self.inf | if *negative { self.sign() } else { 0 },
            Fin(negative, d) => self.round(*negative, mode, |v| v.cmp(d)),
        }
    }
}

fn negative(x: &Num) -> bool {
    match x {
        Nan => false,
        Inf(s) | Fin(s, _) => *s,
    }
}

fn is_zero(x: &Num) -> bool {
    matches!(x, Fin(_, d) if d.n.is_zero())
}

fn neg(x: &Num) -> Num {
    match x {
        Nan => Nan,
        Inf(s) => Inf(!s),
        Fin(s, d) => Fin(!s, d.clone()),
    }
}

fn add(a: &Num, b: &Num, mode: &str) -> Num {
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Inf(x), Inf(y)) => {
            if x == y {
                Inf(*x)
            } else {
                Nan
            }
        }
        (Inf(x), _) | (_, Inf(x)) => Inf(*x),
        (Fin(s, x), Fin(t, y)) if s == t => Fin(*s, x.add(y)),
        (Fin(s, x), Fin(_, y)) => {
            let (m, n, e) = x.align(y);
            match m.cmp(&n) {
                Ordering::Equal => zero(mode == "rm"),
                Ordering::Greater => Fin(*s, Dyadic { n: m.sub(&n), e }),
                Ordering::Less => Fin(!s, Dyadic { n: n.sub(&m), e }),
            }
        }
    }
}

fn mul(a: &Num, b: &Num) -> Num {
    let sign = negative(a) != negative(b);
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Inf(_), x) | (x, Inf(_)) => {
            if is_zero(x) {
                Nan
            } else {
                Inf(sign)
            }
        }
        (Fin(_, x), Fin(_, y)) => Fin(sign, x.mul(y)),
    }
}

fn div(a: &Num, b: &Num, fmt: Fmt, mode: &str) -> u64 {
    let sign = negative(a) != negative(b);
    let bit = if sign { fmt.sign() } else { 0 };
    match (a, b) {
        (Nan, _) | (_, Nan) | (Inf(_), Inf(_)) => fmt.nan,
        (Inf(_), _) => fmt.inf | bit,
        (_, Inf(_)) => bit,
        _ if is_zero(b) => {
            if is_zero(a) {
                fmt.nan
            } else {
                fmt.inf | bit
            }
        }
        (Fin(_, x), Fin(_, y)) => fmt.round(sign, mode, |v| v.mul(y).cmp(x)),
    }
}

fn sqrt(a: &Num, fmt: Fmt, mode: &str) -> u64 {
    match a {
        x if is_zero(x) => fmt.encode(x, mode),
        Fin(false, x) => fmt.round(false, mode, |v| v.mul(v).cmp(x)),
        Inf(false) => fmt.inf,
        _ => fmt.nan,
    }
}

/// The order of two numbers, −0 and +0 being equal; `None` with a NaN.
fn order(a: &Num, b: &Num) -> Option<Ordering> {
    let sign = |x: &Num| {
        if is_zero(x) {
            0
        } else if negative(x) {
            -1
        } else {
            1
        }
    };
    Some(match (a, b) {
        (Nan, _) | (_, Nan) => return None,
        _ if sign(a) != sign(b) => sign(a).cmp(&sign(b)),
        (Inf(_), Inf(_)) => Ordering::Equal,
        (Inf(s), _) => {
            if *s {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (_, Inf(s)) => {
            if *s {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (Fin(s, x), Fin(_, y)) => {
            if *s {
                y.cmp(x)
            } else {
                x.cmp(y)
            }
        }
    })
}

// ---------------------------------------------------------------------------------------------- inputs

/// Interesting patterns of a format: zeros, the ends of the ranges, numbers around 1, infinity, NaNs.
fn edges(fmt: Fmt) -> Vec<u64> {
    let one = ((1 << (fmt.e - 1)) - 1) << fmt.f;
    let half_fraction = 1 << (fmt.f - 1);
    let mut list = vec![
        0,
        1,
        (1 << fmt.f) - 1,
        1 << fmt.f,
        (1 << fmt.f) + 1,
        one,
        one + 1,
        one - 1,
        one + half_fraction,
        one + half_fraction + 1,
        one + (1 << fmt.f),
        one + (u64::from(fmt.f) << fmt.f),
        one - ((u64::from(fmt.f) + 1).min(one >> fmt.f) << fmt.f),
        one + ((1 << fmt.f) - 1),
        fmt.inf - 1,
        fmt.inf - half_fraction,
        fmt.inf,
        fmt.nan & (fmt.sign() - 1),
        fmt.inf + 1,
    ];
    list.extend(list.clone().iter().map(|x| x | fmt.sign()));
    list
}

/// Random operands: any bits, numbers of like size, and numbers with few bits set (which make ties).
fn random(fmt: Fmt, random: &mut Random, count: usize, operands: usize) -> Vec<Vec<u64>> {
    let all = fmt.sign() | (fmt.sign() - 1);
    (0..count)
        .map(|i| {
            let base = random.next() & all;
            (0..operands)
                .map(|_| {
                    let bits = random.next() & all;
                    let fraction = (1 << fmt.f) - 1;
                    match i % 4 {
                        0 => bits,
                        1 => {
                            // Exponents within a few binary places of each other.
                            let near =
                                (base >> fmt.f).wrapping_add(random.next() % 5) << fmt.f & (fmt.sign() - 1);
                            near | bits & (fraction | fmt.sign())
                        }
                        2 => bits & !(fraction >> 3 & random.next()),
                        _ => {
                            // Near 1, or near the subnormals.
                            let bias = (1u64 << (fmt.e - 1)) - 1;
                            let exponent = if i % 8 == 3 { bias - 2 } else { 0 } + random.next() % 5;
                            exponent << fmt.f | bits & (fraction | fmt.sign())
                        }
                    }
                })
                .collect()
        })
        .collect()
}

/// All tuples of the edges, then random operands.
fn inputs(fmt: Fmt, operands: usize, count: usize) -> Vec<Vec<u64>> {
    let edges = edges(fmt);
    let edges: Vec<u64> = if operands == 3 {
        edges.into_iter().step_by(2).collect()
    } else {
        edges
    };
    let mut cases = vec![vec![]];
    for _ in 0..operands {
        cases = cases
            .iter()
            .flat_map(|case| {
                edges.iter().map(move |x| {
                    let mut case = case.clone();
                    case.push(*x);
                    case
                })
            })
            .collect();
    }
    cases.extend(random(
        fmt,
        &mut Random(0x1234_5678 + operands as u64),
        count,
        operands,
    ));
    cases
}

/// Packs pairs of 16-bit cases into 32-bit ones (the second half runs through the list backwards).
fn pack16(cases: &[Vec<u64>]) -> Vec<Vec<u64>> {
    cases
        .iter()
        .zip(cases.iter().rev())
        .map(|(low, high)| low.iter().zip(high).map(|(l, h)| l | h << 16).collect())
        .collect()
}

/// A reference for 16 bits applied to both halves.
fn both(case: &[u64], f: impl Fn(&[u64]) -> u64) -> u64 {
    let low: Vec<u64> = case.iter().map(|x| x & 0xffff).collect();
    let high: Vec<u64> = case.iter().map(|x| x >> 16 & 0xffff).collect();
    f(&low) | f(&high) << 16
}

// ---------------------------------------------------------------------------------------------- arithmetic

/// The exact operation on one tuple, with rounding and flags by name.
fn arithmetic(op: &str, fmt: Fmt, case: &[u64], mode: &str, flags: &[&str]) -> u64 {
    let ftz = flags.contains(&"ftz");
    let x: Vec<u64> = case
        .iter()
        .map(|x| if ftz { fmt.flush(*x) } else { *x })
        .collect();
    let v: Vec<Num> = x.iter().map(|x| fmt.decode(*x)).collect();
    let bits = match op {
        "add" => fmt.encode(&add(&v[0], &v[1], mode), mode),
        "sub" => fmt.encode(&add(&v[0], &neg(&v[1]), mode), mode),
        "mul" => fmt.encode(&mul(&v[0], &v[1]), mode),
        "fma" | "mad" => fmt.encode(&add(&mul(&v[0], &v[1]), &v[2], mode), mode),
        "div" => div(&v[0], &v[1], fmt, mode),
        "rcp" => div(&int(1), &v[0], fmt, mode),
        "sqrt" => sqrt(&v[0], fmt, mode),
        _ => unreachable!(),
    };
    let bits = if ftz { fmt.flush(bits) } else { bits };
    let nan = matches!(fmt.decode(bits), Nan);
    let one = fmt.encode(&int(1), "rn");
    if flags.contains(&"sat") {
        if nan || bits & fmt.sign() != 0 {
            0
        } else {
            bits.min(one)
        }
    } else if flags.contains(&"relu") {
        if !nan && bits & fmt.sign() != 0 { 0 } else { bits }
    } else if nan && fmt.f == 52 {
        // Double precision keeps the payload of the first NaN.
        x.iter()
            .find(|x| matches!(fmt.decode(**x), Nan))
            .map_or(fmt.nan, |x| x | 1 << 51)
    } else {
        bits
    }
}

fn operands_of(op: &str) -> usize {
    match op {
        "fma" | "mad" => 3,
        "rcp" | "sqrt" => 1,
        _ => 2,
    }
}

#[test]
fn f32_arithmetic_in_every_direction() {
    for op in ["add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt"] {
        let n = operands_of(op);
        let cases = inputs(S, n, 3000);
        for mode in ["rn", "rz", "rm", "rp"] {
            for flags in [&[][..], &["ftz"], &["sat"], &["ftz", "sat"]] {
                if flags.contains(&"sat") && matches!(op, "div" | "rcp" | "sqrt") {
                    continue;
                }
                let dots: String = flags.iter().map(|f| format!(".{f}")).collect();
                let mut p = program(
                    &format!("{op}.{mode}{dots}.f32"),
                    &[Type::F32],
                    &vec![Type::F32; n],
                );
                p.check(&cases, |case| vec![arithmetic(op, S, case, mode, flags)]);
            }
        }
    }
}

#[test]
fn f64_arithmetic_in_every_direction() {
    for op in ["add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt"] {
        let n = operands_of(op);
        let cases = inputs(D, n, 1500);
        for mode in ["rn", "rz", "rm", "rp"] {
            let mut p = program(&format!("{op}.{mode}.f64"), &[Type::F64], &vec![Type::F64; n]);
            p.check(&cases, |case| vec![arithmetic(op, D, case, mode, &[])]);
        }
    }
}

#[test]
fn rounding_defaults_to_nearest() {
    for (name, op, fmt, ty) in [
        ("add.f32", "add", S, Type::F32),
        ("sub.ftz.f32", "sub", S, Type::F32),
        ("mul.f32", "mul", S, Type::F32),
        ("add.f64", "add", D, Type::F64),
        ("mul.f64", "mul", D, Type::F64),
    ] {
        let flags: &[&str] = if name.contains("ftz") { &["ftz"] } else { &[] };
        let mut p = program(name, &[ty], &[ty, ty]);
        p.check(&inputs(fmt, 2, 500), |case| {
            vec![arithmetic(op, fmt, case, "rn", flags)]
        });
    }
}

#[test]
fn f32x2_is_f32_twice() {
    for op in ["add", "sub", "mul", "fma"] {
        let n = operands_of(op);
        let singles = inputs(S, n, 1000);
        let cases: Vec<Vec<u64>> = singles
            .iter()
            .zip(singles.iter().rev())
            .map(|(l, h)| l.iter().zip(h).map(|(l, h)| l | h << 32).collect())
            .collect();
        for mode in ["rn", "rz", "rm", "rp"] {
            for flags in [&[][..], &["ftz"]] {
                let dot = if flags.is_empty() { "" } else { ".ftz" };
                let mut p = program(
                    &format!("{op}.{mode}{dot}.f32x2"),
                    &[Type::B64],
                    &vec![Type::B64; n],
                );
                p.check(&cases, |case| {
                    let low: Vec<u64> = case.iter().map(|x| x & 0xffff_ffff).collect();
                    let high: Vec<u64> = case.iter().map(|x| x >> 32).collect();
                    vec![arithmetic(op, S, &low, mode, flags) | arithmetic(op, S, &high, mode, flags) << 32]
                });
            }
        }
    }
}

#[test]
fn mixed_precision_widens_exactly() {
    for (ty, fmt, suffix) in [(Type::B16, H, "f16"), (Type::B16, B, "bf16")] {
        let mut r = Random(99);
        for mode in ["rn", "rz", "rm", "rp"] {
            for op in ["add", "sub", "fma"] {
                let fused = op == "fma";
                let cases: Vec<Vec<u64>> = (0..2000)
                    .map(|i| {
                        let wide = if i % 2 == 0 {
                            r.next() >> 32
                        } else {
                            (r.next() >> 56) << 20 | 0x3f00_0000
                        };
                        let mut case = vec![r.next() & 0xffff];
                        if fused {
                            case.push(r.next() & 0xffff);
                        }
                        case.push(wide);
                        case
                    })
                    .collect();
                let mut src = vec![ty; 1 + usize::from(fused)];
                src.push(Type::F32);
                let mut p = program(&format!("{op}.{mode}.f32.{suffix}"), &[Type::F32], &src);
                p.check(&cases, |case| {
                    let mut wide: Vec<u64> = case[..case.len() - 1]
                        .iter()
                        .map(|x| S.encode(&fmt.decode(*x), "rn"))
                        .collect();
                    wide.push(case[case.len() - 1]);
                    vec![arithmetic(op, S, &wide, mode, &[])]
                });
            }
        }
    }
}

#[test]
fn half_arithmetic_rounds_once() {
    for (fmt, name) in [(H, "f16"), (B, "bf16")] {
        for op in ["add", "sub", "mul", "fma"] {
            let n = operands_of(op);
            let cases = inputs(fmt, n, 12000);
            let packed = pack16(&cases);
            for (flags, everywhere) in [
                (&[][..], true),
                (&["ftz"][..], false),
                (&["sat"], false),
                (&["ftz", "sat"], false),
                (&["relu"], true),
                (&["ftz", "relu"], false),
            ] {
                if flags.contains(&"relu") && op != "fma" || !everywhere && name == "bf16" {
                    continue;
                }
                let dots: String = flags.iter().map(|f| format!(".{f}")).collect();
                let want = |case: &[u64]| arithmetic(op, fmt, case, "rn", flags);
                let mut p = program(
                    &format!("{op}.rn{dots}.{name}"),
                    &[Type::B16],
                    &vec![Type::B16; n],
                );
                p.check(&cases, |case| vec![want(case)]);
                let mut p = program(
                    &format!("{op}.rn{dots}.{name}x2"),
                    &[Type::B32],
                    &vec![Type::B32; n],
                );
                p.check(&packed, |case| vec![both(case, want)]);
            }
        }
    }
}

/// Sums that lie so near to the middle between two bf16 or f16 numbers that a second rounding would go astray.
#[test]
fn half_fma_does_not_round_twice() {
    // 1 + 2^-8 is the middle between 1 and the next bf16; ± 2^-60 must decide.
    let bf = |x: f32| u64::from(x.to_bits() >> 16);
    let tiny = bf(2f32.powi(-60));
    let mut p = program("fma.rn.bf16", &[Type::B16], &[Type::B16; 3]);
    // 1.0625² + 1 = 2.12890625 = 2^-8 · 545 lies between two bf16 numbers.
    let cases = [
        (bf(1.0625), bf(1.0625), bf(1.0)),
        (bf(1.0078125), bf(1.0), tiny),
        (bf(0.50390625), bf(2.0), tiny),
    ];
    let cases: Vec<Vec<u64>> = cases
        .iter()
        .flat_map(|&(a, b, c)| [vec![a, b, c], vec![a, b, c ^ 0x8000]])
        .collect();
    p.check(&cases, |case| vec![arithmetic("fma", B, case, "rn", &[])]);
    // Products with the middle's bit pattern, one after the other, plus and minus something far below.
    for (fmt, name, low) in [(B, "bf16", 0x0001), (H, "f16", 0x0001)] {
        let mut p = program(&format!("fma.rn.{name}"), &[Type::B16], &[Type::B16; 3]);
        let mut r = Random(5);
        let cases: Vec<Vec<u64>> = (0..20000)
            .map(|_| {
                let near = fmt.encode(&int(1), "rn");
                let fraction = (1 << fmt.f) - 1;
                vec![
                    near | r.next() & fraction,
                    near | r.next() & fraction,
                    low | r.next() & 0x83ff,
                ]
            })
            .collect();
        p.check(&cases, |case| vec![arithmetic("fma", fmt, case, "rn", &[])]);
    }
}

// ---------------------------------------------------------------------------------------------- signs, min, max

#[test]
fn signs() {
    for (ty, reg, fmt, packed) in [
        ("f32", Type::F32, S, false),
        ("f64", Type::F64, D, false),
        ("f16", Type::B16, H, false),
        ("bf16", Type::B16, B, false),
        ("f16x2", Type::B32, H, true),
        ("bf16x2", Type::B32, B, true),
    ] {
        let mut cases = if fmt.f < 23 {
            (0..65536).map(|x| vec![x]).collect()
        } else {
            inputs(fmt, 1, 500)
        };
        if packed {
            cases = pack16(&cases);
        }
        for op in ["neg", "abs"] {
            for ftz in [false, true] {
                if ftz && matches!(ty, "f64" | "bf16" | "bf16x2") {
                    assert!(lower(&format!("{op}.ftz.{ty}"), &[reg], &[reg]).is_err());
                    continue;
                }
                let want = |case: &[u64]| {
                    let x = if ftz { fmt.flush(case[0]) } else { case[0] };
                    if op == "neg" {
                        x ^ fmt.sign()
                    } else {
                        x & !fmt.sign()
                    }
                };
                let dot = if ftz { ".ftz" } else { "" };
                program(&format!("{op}{dot}.{ty}"), &[reg], &[reg]).check(&cases, |case| {
                    vec![if packed { both(case, want) } else { want(case) }]
                });
            }
        }
        if fmt.f >= 23 {
            program(&format!("copysign.{ty}"), &[reg], &[reg, reg]).check(&inputs(fmt, 2, 500), |case| {
                vec![case[0] & fmt.sign() | case[1] & (fmt.sign() - 1)]
            });
            for (op, of) in [
                ("finite", 0b0111),
                ("infinite", 0b1000),
                ("number", 0b1111),
                ("notanumber", 0b10000),
                ("normal", 0b0101),
                ("subnormal", 0b0010),
            ] {
                program(&format!("testp.{op}.{ty}"), &[Type::Pred], &[reg]).check(
                    &inputs(fmt, 1, 500),
                    |case| {
                        let class = match fmt.decode(case[0]) {
                            _ if fmt.subnormal(case[0]) => 1,
                            Fin(_, d) if d.n.is_zero() => 0,
                            Fin(..) => 2,
                            Inf(_) => 3,
                            Nan => 4,
                        };
                        vec![of >> class & 1]
                    },
                );
            }
        }
    }
}

/// min or max of two, as the ISA's pseudocode has it.
fn extreme(fmt: Fmt, a: u64, b: u64, max: bool, flags: &[&str]) -> u64 {
    let abs = |x: u64| {
        if flags.contains(&"abs") {
            x & !fmt.sign()
        } else {
            x
        }
    };
    let ftz = |x: u64| if flags.contains(&"ftz") { fmt.flush(x) } else { x };
    let (a, b) = (ftz(a), ftz(b));
    let sign = (a ^ b) & fmt.sign();
    let (a, b) = (abs(a), abs(b));
    let (x, y) = (fmt.decode(a), fmt.decode(b));
    let d = match (&x, &y) {
        (Nan, Nan) => return fmt.nan,
        (Nan, _) | (_, Nan) if flags.contains(&"NaN") => return fmt.nan,
        (Nan, _) => b,
        (_, Nan) => a,
        _ => {
            let less = match order(&x, &y).unwrap() {
                Ordering::Equal => a & fmt.sign() > b & fmt.sign(),
                other => other == Ordering::Less,
            };
            if less != max { a } else { b }
        }
    };
    if flags.contains(&"xorsign") {
        d & !fmt.sign() | sign
    } else {
        d
    }
}

#[test]
fn min_and_max() {
    for max in [false, true] {
        let op = if max { "max" } else { "min" };
        for (ty, reg, fmt) in [
            ("f32", Type::F32, S),
            ("f16", Type::B16, H),
            ("bf16", Type::B16, B),
        ] {
            let cases = inputs(fmt, 2, 4000);
            for flags in [
                &[][..],
                &["NaN"],
                &["ftz"],
                &["ftz", "NaN"],
                &["xorsign", "abs"],
                &["NaN", "xorsign", "abs"],
                &["ftz", "NaN", "xorsign", "abs"],
            ] {
                if flags.contains(&"ftz") && ty == "bf16" {
                    continue;
                }
                let dots: String = flags.iter().map(|f| format!(".{f}")).collect();
                let want = |case: &[u64]| extreme(fmt, case[0], case[1], max, flags);
                program(&format!("{op}{dots}.{ty}"), &[reg], &[reg, reg]).check(&cases, |c| vec![want(c)]);
                if fmt.f < 23 {
                    program(&format!("{op}{dots}.{ty}x2"), &[Type::B32], &[Type::B32; 2])
                        .check(&pack16(&cases), |c| vec![both(c, want)]);
                }
            }
        }
        for flags in [
            &[][..],
            &["NaN"],
            &["ftz", "NaN"],
            &["abs"],
            &["ftz", "NaN", "abs"],
        ] {
            let dots: String = flags.iter().map(|f| format!(".{f}")).collect();
            program(&format!("{op}{dots}.f32"), &[Type::F32], &[Type::F32; 3])
                .check(&inputs(S, 3, 2000), |c| {
                    vec![extreme(S, extreme(S, c[0], c[1], max, flags), c[2], max, flags)]
                });
        }
        program(&format!("{op}.f64"), &[Type::F64], &[Type::F64; 2]).check(&inputs(D, 2, 2000), |c| {
            let nan = |x: u64| matches!(D.decode(x), Nan);
            // Two NaNs: the first one's payload.
            let both = nan(c[0]) && nan(c[1]);
            vec![if both {
                c[0] | 1 << 51
            } else {
                extreme(D, c[0], c[1], max, &[])
            }]
        });
    }
}

// ---------------------------------------------------------------------------------------------- comparisons

const COMPARISONS: [&str; 14] = [
    "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

fn compares(op: &str, fmt: Fmt, a: u64, b: u64, ftz: bool) -> bool {
    let decode = |x| fmt.decode(if ftz { fmt.flush(x) } else { x });
    let order = order(&decode(a), &decode(b));
    match (op, order) {
        ("num", o) => o.is_some(),
        ("nan", o) => o.is_none(),
        (op, None) => op.len() == 3,
        (op, Some(o)) => match &op[..2] {
            "eq" => o.is_eq(),
            "ne" => o.is_ne(),
            "lt" => o.is_lt(),
            "le" => o.is_le(),
            "gt" => o.is_gt(),
            _ => o.is_ge(),
        },
    }
}

fn combine(op: &str, t: bool, c: u64) -> u64 {
    let t = u64::from(t);
    match op {
        ".and" => t & c,
        ".or" => t | c,
        ".xor" => t ^ c,
        _ => t,
    }
}

#[test]
fn comparisons() {
    for (ty, reg, fmt, packed) in [
        ("f32", Type::F32, S, false),
        ("f64", Type::F64, D, false),
        ("f16", Type::B16, H, false),
        ("bf16", Type::B16, B, false),
        ("f16x2", Type::B32, H, true),
        ("bf16x2", Type::B32, B, true),
    ] {
        let mut plain = inputs(fmt, 2, 300);
        if packed {
            plain = pack16(&plain);
        }
        for op in COMPARISONS {
            for boolean in ["", ".and", ".or", ".xor"] {
                for ftz in [false, true] {
                    if ftz && matches!(ty, "f64" | "bf16" | "bf16x2") {
                        continue;
                    }
                    let dot = if ftz { ".ftz" } else { "" };
                    let mut src = vec![reg, reg];
                    let mut cases = plain.clone();
                    if !boolean.is_empty() {
                        src.push(Type::Pred);
                        for (i, case) in cases.iter_mut().enumerate() {
                            case.push((i as u64).wrapping_mul(0x9e37_79b9) >> 7 & 1);
                        }
                    }
                    let results = |case: &[u64]| {
                        let c = *case.get(2).unwrap_or(&0);
                        if packed {
                            let low = compares(op, fmt, case[0] & 0xffff, case[1] & 0xffff, ftz);
                            let high = compares(op, fmt, case[0] >> 16, case[1] >> 16, ftz);
                            vec![combine(boolean, low, c), combine(boolean, high, c)]
                        } else {
                            let t = compares(op, fmt, case[0], case[1], ftz);
                            vec![combine(boolean, t, c), combine(boolean, !t, c)]
                        }
                    };
                    let name = format!("setp.{op}{boolean}{dot}.{ty}");
                    program(&name, &[Type::Pred; 2], &src).check(&cases, results);
                    if boolean.is_empty() {
                        program(&name, &[Type::Pred], &src).check(&cases, |case| vec![results(case)[0]]);
                    }
                    let targets: &[(&str, Type, u64)] = if packed {
                        &[("u32", Type::U32, 0xffff_ffff), ("s32", Type::S32, 0xffff_ffff)]
                    } else if fmt.f < 23 {
                        &[
                            ("u16", Type::U16, 0xffff),
                            ("s16", Type::S16, 0xffff),
                            ("u32", Type::U32, 0xffff_ffff),
                            ("f16", Type::B16, 0x3c00),
                            ("bf16", Type::B16, 0x3f80),
                        ]
                    } else {
                        &[
                            ("u32", Type::U32, 0xffff_ffff),
                            ("s32", Type::S32, 0xffff_ffff),
                            ("f32", Type::F32, 0x3f80_0000),
                            ("f16", Type::B16, 0x3c00),
                        ]
                    };
                    let own = match ty {
                        "f16x2" => Some(("f16x2", Type::B32, 0x3c00_3c00)),
                        "bf16x2" => Some(("bf16x2", Type::B32, 0x3f80_3f80)),
                        _ => None,
                    };
                    for &(to, to_reg, truth) in targets.iter().chain(&own) {
                        let name = format!("set.{op}{boolean}{dot}.{to}.{ty}");
                        program(&name, &[to_reg], &src).check(&cases, |case| {
                            let r = results(case);
                            vec![if packed {
                                ((r[0] * 0xffff) | (r[1] * 0xffff_0000)) & truth
                            } else {
                                r[0] * truth
                            }]
                        });
                    }
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------- conversions

#[derive(Clone, Copy, Debug)]
enum Kind {
    Int { bits: u32, signed: bool },
    Float(Fmt),
}

const KINDS: [(&str, Type, Kind); 12] = [
    (
        "u8",
        Type::U8,
        Kind::Int {
            bits: 8,
            signed: false,
        },
    ),
    (
        "u16",
        Type::U16,
        Kind::Int {
            bits: 16,
            signed: false,
        },
    ),
    (
        "u32",
        Type::U32,
        Kind::Int {
            bits: 32,
            signed: false,
        },
    ),
    (
        "u64",
        Type::U64,
        Kind::Int {
            bits: 64,
            signed: false,
        },
    ),
    (
        "s8",
        Type::S8,
        Kind::Int {
            bits: 8,
            signed: true,
        },
    ),
    (
        "s16",
        Type::S16,
        Kind::Int {
            bits: 16,
            signed: true,
        },
    ),
    (
        "s32",
        Type::S32,
        Kind::Int {
            bits: 32,
            signed: true,
        },
    ),
    (
        "s64",
        Type::S64,
        Kind::Int {
            bits: 64,
            signed: true,
        },
    ),
    ("f16", Type::F16, Kind::Float(H)),
    ("bf16", Type::BF16, Kind::Float(B)),
    ("f32", Type::F32, Kind::Float(S)),
    ("f64", Type::F64, Kind::Float(D)),
];

/// Rounds to an integer by cutting the number's digits; saturates at ±2^70.
fn integer(x: &Num, mode: &str) -> Option<i128> {
    let limit = 1i128 << 70;
    let (negative, d) = match x {
        Nan => return None,
        Inf(s) => return Some(if *s { -limit } else { limit }),
        Fin(s, d) => (*s, d),
    };
    let low = |n: &Nat| {
        n.0.iter()
            .rev()
            .fold(0i128, |all, limb| all << 32 | i128::from(*limb))
    };
    let magnitude = if d.n.is_zero() {
        0
    } else if d.n.bits() + i64::from(d.e) > 70 {
        limit
    } else if d.e >= 0 {
        low(&d.n.shl(d.e as u32))
    } else {
        // Every significand here has at most 64 bits.
        let n = low(&d.n);
        let by = -d.e as u32;
        let (whole, twice_rest, unit) = if by > 100 {
            (0, 1, 1i128 << 100)
        } else {
            (n >> by, (n & ((1 << by) - 1)) * 2, 1i128 << by)
        };
        let up = match mode {
            "rzi" => false,
            "rmi" => negative && twice_rest != 0,
            "rpi" => !negative && twice_rest != 0,
            _ => twice_rest > unit || twice_rest == unit && whole % 2 == 1,
        };
        whole + i128::from(up)
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// What `cvt` gives, before extension to the register.
fn converted(to: Kind, from: Kind, x: u64, mode: &str, flags: &[&str]) -> u64 {
    let ftz = |kind: Kind, x: u64| match kind {
        Kind::Float(fmt) if fmt.f == 23 && flags.contains(&"ftz") => fmt.flush(x),
        _ => x,
    };
    let x = ftz(from, x);
    let value = match from {
        Kind::Int { bits, signed } => {
            let value = i128::from(x) & ((1 << bits) - 1);
            int(if signed && value >> (bits - 1) & 1 == 1 {
                value - (1 << bits)
            } else {
                value
            })
        }
        Kind::Float(fmt) => fmt.decode(x),
    };
    if let (Kind::Float(to), Kind::Float(from), Nan, false) = (to, from, &value, flags.contains(&"sat"))
        && (to.f == 52 || from.f == 52 && to.f == 23 || (to.f, from.f) == (23, 7))
    {
        // As an H200 does: the sign, and the payload from its top; quiet, if a double takes part.
        let payload = (x & (from.inf ^ (from.sign() - 1))) << (52 - from.f) >> (52 - to.f);
        let quiet = if to.f == 52 || from.f == 52 {
            1 << (to.f - 1)
        } else {
            0
        };
        let sign = if x & from.sign() != 0 { to.sign() } else { 0 };
        return sign | to.inf | payload | quiet;
    }
    match to {
        Kind::Int { bits, signed } => {
            let (low, high) = if signed {
                (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
            } else {
                (0, (1i128 << bits) - 1)
            };
            let double = matches!(from, Kind::Float(f) if f.f == 52);
            let clamp = matches!(from, Kind::Float(_)) || flags.contains(&"sat");
            let all = (1i128 << bits) - 1;
            (match integer(&value, mode) {
                None if !double && bits < 64 => 0,
                None => 1 << (bits - 1),
                Some(i) if clamp => i.clamp(low, high) & all,
                Some(i) => i & all,
            }) as u64
        }
        Kind::Float(fmt) => {
            let value = if mode.ends_with('i') && mode.len() == 3 {
                match integer(&value, mode) {
                    Some(i) if i.abs() < 1 << 70 => match i {
                        0 => zero(negative(&value)),
                        i => int(i),
                    },
                    _ => value,
                }
            } else {
                value
            };
            let bits = ftz(to, fmt.encode(&value, mode));
            // Not by the result: rounding up the greatest e4m3 gives its NaN's pattern.
            let nan = matches!(value, Nan);
            let sign = bits & fmt.sign();
            if flags.contains(&"sat") {
                if nan || sign != 0 {
                    0
                } else {
                    bits.min(fmt.encode(&int(1), "rn"))
                }
            } else if nan {
                bits
            } else if flags.contains(&"relu") && sign != 0 {
                0
            } else if flags.contains(&"satfinite") {
                (bits & !fmt.sign()).min(fmt.inf - 1) | sign
            } else {
                bits
            }
        }
    }
}

/// Source values: every one of a small type, edges and random bits of the others, and numbers near powers of two.
fn sources(kind: Kind) -> Vec<u64> {
    match kind {
        Kind::Int { bits, .. } if bits <= 16 => (0..1 << bits).collect(),
        Kind::Float(fmt) if fmt.f < 23 => (0..65536).collect(),
        Kind::Int { bits, .. } => {
            let all = u64::MAX >> (64 - bits);
            let mut r = Random(3);
            let mut list: Vec<u64> = (0..bits)
                .flat_map(|b| {
                    let x = 1u64 << b;
                    [
                        x,
                        x - 1,
                        x + 1,
                        x.wrapping_neg(),
                        x | x >> 24 | 1,
                        x | x >> 25,
                        x | x >> 8 | x >> 9,
                        x | x >> 53 | x >> 54,
                    ]
                })
                .collect();
            list.extend((0..600).map(|_| r.next() >> (r.next() % 64)));
            list.iter().map(|x| x & all).collect()
        }
        Kind::Float(fmt) => {
            let mut r = Random(4);
            let bias = (1u64 << (fmt.e - 1)) - 1;
            let mut list: Vec<u64> = inputs(fmt, 1, 1000).into_iter().map(|c| c[0]).collect();
            // Halves, the ends of the integer ranges, the ends of the smaller formats.
            for exponent in bias.saturating_sub(160).max(1)..bias.saturating_add(140).min(2 * bias) {
                for _ in 0..3 {
                    let fraction = r.next() & ((1 << fmt.f) - 1) & !(((1 << fmt.f) - 1) >> (r.next() % 24));
                    list.push(exponent << fmt.f | fraction | if r.next() & 1 == 1 { fmt.sign() } else { 0 });
                }
                list.push((exponent << fmt.f) - 1);
                list.push(exponent << fmt.f | fmt.sign());
                list.push(exponent << fmt.f | 1);
            }
            list
        }
    }
}

/// The register's bits: signed integers extended by their sign, everything else by zeros.
fn extend(to: Kind, bits: u64, register: usize) -> u64 {
    let value = match to {
        Kind::Int {
            bits: n,
            signed: true,
        } if n < 64 => ((bits << (64 - n)) as i64 >> (64 - n)) as u64,
        _ => bits,
    };
    if register == 64 {
        value
    } else {
        value & ((1 << register) - 1)
    }
}

#[test]
fn conversions_between_all_numbers() {
    for (to_name, to_ty, to) in KINDS {
        for (from_name, from_ty, from) in KINDS {
            let cases: Vec<Vec<u64>> = sources(from).into_iter().map(|x| vec![x]).collect();
            let single = to_name == "f32" || from_name == "f32";
            let integral = ["rni", "rzi", "rmi", "rpi"];
            let ieee = ["rn", "rz", "rm", "rp"];
            let modes: Vec<&str> = match (to, from) {
                (Kind::Int { .. }, Kind::Int { .. }) => vec![""],
                (Kind::Int { .. }, _) => integral.into(),
                (_, Kind::Int { .. }) => ieee.into(),
                _ if to_name == from_name => [&[""][..], &integral].concat(),
                _ if to_ty.size() > from_ty.size() => vec![""],
                _ => ieee.into(),
            };
            for mode in modes {
                for flags in [&[][..], &["sat"], &["ftz"], &["ftz", "sat"]] {
                    if flags.contains(&"ftz") && !single || flags.contains(&"sat") && to_name == "bf16" {
                        continue;
                    }
                    let mut name = "cvt".to_string();
                    for word in std::iter::once(&mode).chain(flags) {
                        if !word.is_empty() {
                            name = format!("{name}.{word}");
                        }
                    }
                    let name = format!("{name}.{to_name}.{from_name}");
                    let bits = to_ty.size() * 8;
                    // All of a 16-bit type's values once per rounding.
                    let thin = if flags.is_empty() {
                        1
                    } else {
                        cases.len().div_ceil(5000) | 1
                    };
                    let cases: Vec<Vec<u64>> = cases.iter().step_by(thin).cloned().collect();
                    program(&name, &[to_ty], &[from_ty]).check(&cases, |case| {
                        vec![extend(to, converted(to, from, case[0], mode, flags), bits)]
                    });
                }
            }
        }
    }
}

/// What an H200 gave for NaNs whose payload is not the canonical one.
#[test]
fn conversions_keep_the_payload_of_a_nan_as_a_gpu_does() {
    let cases: &[(&str, Type, Type, u64, u64)] = &[
        ("cvt.f32.bf16", Type::F32, Type::BF16, 0xff81, 0xff81_0000),
        ("cvt.f32.f16", Type::F32, Type::F16, 0xfc01, 0x7fff_ffff),
        ("cvt.f64.f16", Type::F64, Type::F16, 0xfc01, 0xfff8_0400_0000_0000),
        (
            "cvt.f64.f32",
            Type::F64,
            Type::F32,
            0x7fa0_0001,
            0x7ffc_0000_2000_0000,
        ),
        (
            "cvt.rn.f32.f64",
            Type::F32,
            Type::F64,
            0x7ff4_0000_2000_0000,
            0x7fe0_0001,
        ),
        (
            "cvt.rz.f32.f64",
            Type::F32,
            Type::F64,
            0xfff0_0000_0000_0001,
            0xffc0_0000,
        ),
        (
            "cvt.rni.f64.f64",
            Type::F64,
            Type::F64,
            0x7ff1_2345_6789_abcd,
            0x7ff9_2345_6789_abcd,
        ),
        ("cvt.rna.tf32.f32", Type::B32, Type::F32, 0xffba_bcde, 0xffba_a000),
        ("cvt.rna.tf32.f32", Type::B32, Type::F32, 0x7f80_0001, 0x7f80_0000),
        ("cvt.rni.f32.f32", Type::F32, Type::F32, 0xffc0_0000, 0x7fff_ffff),
    ];
    for &(name, to, from, bits, want) in cases {
        program(name, &[to], &[from]).check(&[vec![bits]], |_| vec![want]);
    }
}

#[test]
fn conversions_in_wider_registers() {
    let mut r = Random(11);
    for (to_name, to_ty, to) in KINDS {
        for (from_name, from_ty, from) in KINDS {
            if to_name == "bf16" || from_name == "bf16" {
                continue;
            }
            let mode = match (to, from) {
                (Kind::Int { .. }, Kind::Int { .. }) => "",
                (Kind::Int { .. }, _) => "rni",
                (_, Kind::Int { .. }) => "rn",
                _ if to_ty.size() < from_ty.size() => "rn",
                _ => "",
            };
            let dot = if mode.is_empty() { "" } else { "." };
            let name = format!("cvt{dot}{mode}.{to_name}.{from_name}");
            let registers = [(8, Type::B8), (16, Type::B16), (32, Type::B32), (64, Type::B64)];
            for (to_bits, to_reg) in registers {
                for (from_bits, from_reg) in registers {
                    if to_bits < to_ty.size() * 8 || from_bits < from_ty.size() * 8 {
                        assert!(lower(&name, &[to_reg], &[from_reg]).is_err(), "{name}");
                        continue;
                    }
                    // Whatever lies above the type's own bits is not looked at.
                    let cases: Vec<Vec<u64>> = (0..128).map(|_| vec![r.next() >> (64 - from_bits)]).collect();
                    let own = u64::MAX >> (64 - from_ty.size() * 8);
                    program(&name, &[to_reg], &[from_reg]).check(&cases, |case| {
                        vec![extend(to, converted(to, from, case[0] & own, mode, &[]), to_bits)]
                    });
                }
            }
        }
    }
}

#[test]
fn narrow_conversions_with_relu_and_satfinite() {
    let list: Vec<u64> = sources(Kind::Float(S));
    let singles: Vec<Vec<u64>> = list.iter().map(|&x| vec![x]).collect();
    let pairs: Vec<Vec<u64>> = list
        .iter()
        .zip(list.iter().rev())
        .map(|(&a, &b)| vec![a, b])
        .collect();
    let single = Kind::Float(S);
    for flags in [&[][..], &["relu"], &["satfinite"], &["relu", "satfinite"]] {
        let dots: String = flags.iter().map(|f| format!(".{f}")).collect();
        for (fmt, name) in [(H, "f16"), (B, "bf16")] {
            for mode in ["rn", "rz"] {
                let to = Kind::Float(fmt);
                program(
                    &format!("cvt.{mode}{dots}.{name}.f32"),
                    &[Type::B16],
                    &[Type::F32],
                )
                .check(&singles, |c| vec![converted(to, single, c[0], mode, flags)]);
                program(
                    &format!("cvt.{mode}{dots}.{name}x2.f32"),
                    &[Type::B32],
                    &[Type::F32; 2],
                )
                .check(&pairs, |c| {
                    // The first source is the upper half.
                    vec![
                        converted(to, single, c[0], mode, flags) << 16
                            | converted(to, single, c[1], mode, flags),
                    ]
                });
            }
        }
        for mode in ["rna", "rn", "rz"] {
            if mode == "rna" && flags.contains(&"relu") {
                continue;
            }
            program(&format!("cvt.{mode}{dots}.tf32.f32"), &[Type::B32], &[Type::F32]).check(&singles, |c| {
                let bits = converted(Kind::Float(T), single, c[0], mode, flags);
                vec![match bits == T.nan {
                    true if mode == "rna" => c[0] & !0x1fff,
                    true => S.nan,
                    false => bits << 13,
                }]
            });
        }
    }
}

#[test]
fn bytes() {
    let all: Vec<Vec<u64>> = (0..65536).map(|x| vec![x]).collect();
    let list: Vec<u64> = sources(Kind::Float(S));
    let pairs: Vec<Vec<u64>> = list
        .iter()
        .zip(list.iter().rev())
        .map(|(&a, &b)| vec![a, b])
        .collect();
    for (fmt, name) in [(E4, "e4m3x2"), (E5, "e5m2x2")] {
        for relu in [false, true] {
            let dot = if relu { ".relu" } else { "" };
            let flags: &[&str] = if relu {
                &["relu", "satfinite"]
            } else {
                &["satfinite"]
            };
            let to = Kind::Float(fmt);
            program(
                &format!("cvt.rn.satfinite{dot}.{name}.f32"),
                &[Type::B16],
                &[Type::F32; 2],
            )
            .check(&pairs, |c| {
                let one = |x| converted(to, Kind::Float(S), x, "rn", flags);
                vec![one(c[0]) << 8 | one(c[1])]
            });
            program(
                &format!("cvt.rn.satfinite{dot}.{name}.f16x2"),
                &[Type::B16],
                &[Type::B32],
            )
            .check(&pack16(&all), |c| {
                let one = |x| converted(to, Kind::Float(H), x, "rn", flags);
                vec![one(c[0] >> 16) << 8 | one(c[0] & 0xffff)]
            });
            let flags: &[&str] = if relu { &["relu"] } else { &[] };
            program(&format!("cvt.rn{dot}.f16x2.{name}"), &[Type::B32], &[Type::B16]).check(&all, |c| {
                let one = |x| converted(Kind::Float(H), to, x, "rn", flags);
                vec![one(c[0] >> 8) << 16 | one(c[0] & 0xff)]
            });
        }
    }
}

#[test]
fn integer_packs() {
    let list = sources(Kind::Int {
        bits: 32,
        signed: true,
    });
    let mut r = Random(21);
    for (name, bits, signed) in [
        ("u16", 16, false),
        ("s16", 16, true),
        ("u8", 8, false),
        ("s8", 8, true),
        ("u4", 4, false),
        ("s4", 4, true),
        ("u2", 2, false),
        ("s2", 2, true),
    ] {
        let third = bits < 16;
        let full = if third {
            format!("cvt.pack.sat.{name}.s32.b32")
        } else {
            format!("cvt.pack.sat.{name}.s32")
        };
        let cases: Vec<Vec<u64>> = list
            .iter()
            .map(|&a| {
                let small = |x: u64| (x as i32 >> (x >> 59)) as u32;
                let mut case = vec![a, small(r.next()).into()];
                if third {
                    case.push(r.next() >> 32);
                }
                case
            })
            .collect();
        let src = &[Type::S32, Type::S32, Type::B32][..if third { 3 } else { 2 }];
        program(&full, &[Type::U32], src).check(&cases, |case| {
            let one = |x: u64| {
                let x = i64::from(x as u32 as i32);
                let (low, high) = if signed {
                    (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
                } else {
                    (0, (1 << bits) - 1)
                };
                (if x < low {
                    low
                } else if x > high {
                    high
                } else {
                    x
                }) as u64
                    & ((1 << bits) - 1)
            };
            let above = case.get(2).map_or(0, |c| c << (2 * bits) & 0xffff_ffff);
            vec![above | one(case[0]) << bits | one(case[1])]
        });
    }
}

// ---------------------------------------------------------------------------------------------- functions

/// 2^62 is one: fixed-point numbers for the references of the transcendental functions.
const ONE: i128 = 1 << 62;

fn fixed_mul(a: i128, b: i128) -> i128 {
    (a * b) >> 62
}

/// π · 2^108
const PI: i128 = 0x3243_f6a8_885a_308d_3131_98a2_e037;

/// sin and cos by their series, after an exact reduction; |x| below 2^10.
fn sin_cos(x: f32) -> (f64, f64) {
    // x · 2^108, with at most 118 bits; below 2^-108 nothing is lost that matters.
    let (mantissa, exponent) = {
        let bits = x.to_bits();
        let e = (bits >> 23 & 0xff) as i32;
        let f = i128::from(bits & 0x7f_ffff | if e > 0 { 1 << 23 } else { 0 });
        (if bits >> 31 == 1 { -f } else { f }, e.max(1) - 150)
    };
    let by = exponent + 108;
    let scaled = if by >= 0 {
        mantissa << by
    } else {
        mantissa >> (-by).min(127)
    };
    let quarter = PI / 2;
    let turns = (scaled + quarter / 2).div_euclid(quarter);
    let r = (scaled - turns * quarter) >> 46;
    let (mut sin, mut cos, mut term) = (0, 0, ONE);
    for k in 0..24 {
        // term = r^k / k!, its sign by the two series
        let signed = if k / 2 % 2 == 0 { term } else { -term };
        if k % 2 == 0 {
            cos += signed
        } else {
            sin += signed
        }
        term = fixed_mul(term, r) / (k + 1);
    }
    let f = |x: i128| x as f64 / ONE as f64;
    match turns.rem_euclid(4) {
        0 => (f(sin), f(cos)),
        1 => (f(cos), f(-sin)),
        2 => (f(-sin), f(-cos)),
        _ => (f(-cos), f(sin)),
    }
}

/// log2 of a positive finite number, bit by bit: squaring doubles the logarithm.
fn log2(x: f32) -> f64 {
    let bits = x.to_bits();
    let (mut m, mut e) = (i128::from(bits & 0x7f_ffff), (bits >> 23) as i32 - 127);
    if e == -127 {
        e = -126;
        while m < 1 << 23 {
            m <<= 1;
            e -= 1;
        }
    } else {
        m |= 1 << 23;
    }
    let mut m = m << (62 - 23);
    let mut fraction = 0i64;
    for _ in 0..44 {
        m = fixed_mul(m, m);
        fraction <<= 1;
        if m >= 2 * ONE {
            m >>= 1;
            fraction |= 1;
        }
    }
    f64::from(e) + fraction as f64 / (1i64 << 44) as f64
}

/// 2^f for f in [0, 1] as fixed point: the product of the roots 2^(2^-k) that f's bits ask for.
fn exp2(x: f64) -> f64 {
    let whole = x.floor();
    let mut f = ((x - whole) * ONE as f64) as i128;
    // 2^(1/2), 2^(1/4), … by integer square roots: root(y · 2^62).
    let (mut y, mut root) = (ONE, 2 * ONE);
    for _ in 0..60 {
        root = ((root as u128) << 62).isqrt() as i128;
        f <<= 1;
        if f >= ONE {
            f -= ONE;
            y = fixed_mul(y, root);
        }
    }
    y as f64 / ONE as f64 * 2f64.powi(whole as i32)
}

/// Distance in units of the last place of the format at the exact value (subnormals have their own).
fn ulps(fmt: Fmt, got: f64, exact: f64) -> f64 {
    let exponent = (exact.abs().to_bits() >> 52) as i32 - 1023;
    let bias = (1 << (fmt.e - 1)) - 1;
    let ulp = 2f64.powi(exponent.max(1 - bias) - fmt.f as i32);
    (got - exact).abs() / ulp
}

/// Every `step`th single-precision number of one sign, and the other sign's.
fn sweep(low: f32, high: f32, step: usize) -> Vec<f32> {
    (low.to_bits()..high.to_bits())
        .step_by(step)
        .flat_map(|x| [f32::from_bits(x), -f32::from_bits(x)])
        .collect()
}

/// Runs an f32 function over inputs; the results must lie within 0.51 ulp plus `slack` of the reference.
fn near(name: &str, list: &[f32], slack: f64, exact: impl Fn(f32) -> f64) {
    let ftz = name.contains(".ftz");
    let mut p = program(name, &[Type::F32], &[Type::F32]);
    for chunk in list.chunks(32) {
        for lane in 0..32 {
            p.put(1, lane, chunk[lane.min(chunk.len() - 1)].to_bits().into());
        }
        p.execute(FULL);
        for (lane, &x) in chunk.iter().enumerate() {
            let got = f32::from_bits(p.get(0, lane) as u32);
            let input = if ftz && x.is_subnormal() {
                0.0f32.copysign(x)
            } else {
                x
            };
            let exact = exact(input);
            if ftz && exact.abs() < f64::from(f32::MIN_POSITIVE) * (1.0 - 1e-7) {
                assert!(got == 0.0, "{name} of {x:e}: {got:e} is not flushed");
                continue;
            }
            if exact.abs() >= 3.402_823_669_209_385e38 {
                assert!(got.is_infinite(), "{name} of {x:e}: {got:e}, should overflow");
                continue;
            }
            let far = ulps(S, got.into(), exact);
            assert!(
                far <= 0.51 || (f64::from(got) - exact).abs() <= slack,
                "{name} of {x:e}: {got:e}, {far} ulp from {exact:e}"
            );
        }
    }
}

/// Special cases by their bits.
fn table(name: &str, ty: Type, cases: &[(u64, u64)]) {
    let mut p = program(name, &[ty], &[ty]);
    let inputs: Vec<Vec<u64>> = cases.iter().map(|c| vec![c.0]).collect();
    p.check(&inputs, |case| {
        vec![cases.iter().find(|c| c.0 == case[0]).unwrap().1]
    });
}

const PINF: u64 = 0x7f80_0000;
const NINF: u64 = 0xff80_0000;
const NZERO: u64 = 0x8000_0000;
const NAN: u64 = 0x7fff_ffff;
const UNIT: u64 = 0x3f80_0000;

#[test]
fn ex2() {
    let mut list = sweep(1e-42, 1e-6, 2_000_003);
    list.extend(sweep(1e-6, 151.0, 10_007));
    list.extend([
        149.0, -149.0, -149.5, -150.0, -126.0, -127.0, 127.0, 127.99999, 128.0, 1e30, -1e30,
    ]);
    near("ex2.approx.f32", &list, 0.0, |x| {
        exp2(f64::from(x).clamp(-300.0, 300.0))
    });
    near("ex2.approx.ftz.f32", &list, 0.0, |x| {
        exp2(f64::from(x).clamp(-300.0, 300.0))
    });
    let special = [
        (NINF, 0),
        (NZERO, UNIT),
        (0, UNIT),
        (1, UNIT),
        (PINF, PINF),
        (0x7fc0_1234, NAN),
        (0xff80_0001, NAN),
    ];
    table("ex2.approx.f32", Type::F32, &special);
    table("ex2.approx.ftz.f32", Type::F32, &special);
}

#[test]
fn tanh() {
    let mut list = sweep(1e-44, 1e-3, 1_000_003);
    list.extend(sweep(1e-3, 12.0, 10_007));
    // (e − 1)/(e + 1), or by its series where that cancels.
    let exact = |x: f32| {
        let x = f64::from(x);
        if x.abs() < 0.02 {
            let q = x * x;
            x - x * q / 3.0 + 2.0 * x * q * q / 15.0 - 17.0 * x * q * q * q / 315.0
        } else {
            let e = exp2(2.0 * x * std::f64::consts::LOG2_E);
            (e - 1.0) / (e + 1.0)
        }
    };
    near("tanh.approx.f32", &list, 0.0, exact);
    table(
        "tanh.approx.f32",
        Type::F32,
        &[
            (NINF, UNIT | NZERO),
            (PINF, UNIT),
            (NZERO, NZERO),
            (0, 0),
            (1, 1),
            (0x807f_ffff, 0x807f_ffff),
            (0x42c8_0000, UNIT),
            (0xffff_0000, NAN),
        ],
    );
}

#[test]
fn sin_and_cos() {
    let mut list = sweep(1e-15, 1e-3, 1_000_003);
    list.extend(sweep(1e-3, 1000.0, 20_011));
    for dot in ["", ".ftz"] {
        near(&format!("sin.approx{dot}.f32"), &list, 1e-16, |x| sin_cos(x).0);
        near(&format!("cos.approx{dot}.f32"), &list, 1e-16, |x| sin_cos(x).1);
        let nan = [(NINF, NAN), (PINF, NAN), (0x7f80_0001, NAN)];
        table(
            &format!("sin.approx{dot}.f32"),
            Type::F32,
            &[&nan[..], &[(0, 0), (NZERO, NZERO)]].concat(),
        );
        table(
            &format!("cos.approx{dot}.f32"),
            Type::F32,
            &[&nan[..], &[(0, UNIT), (NZERO, UNIT), (1, UNIT)]].concat(),
        );
    }
    table("sin.approx.f32", Type::F32, &[(5, 5), (0x8000_0005, 0x8000_0005)]);
    table("sin.approx.ftz.f32", Type::F32, &[(5, 0), (0x8000_0005, NZERO)]);
}

#[test]
fn lg2() {
    let list: Vec<f32> = (1..0x7f80_0000u32).step_by(100_003).map(f32::from_bits).collect();
    near("lg2.approx.f32", &list, 1e-12, log2);
    let normal: Vec<f32> = list.iter().copied().filter(|x| x.is_normal()).collect();
    near("lg2.approx.ftz.f32", &normal, 1e-12, log2);
    let special = [
        (NINF, NAN),
        (0xbf80_0000, NAN),
        (NZERO, NINF),
        (0, NINF),
        (PINF, PINF),
        (0x7f80_0001, NAN),
        (UNIT, 0),
        (0x4000_0000, UNIT),
    ];
    table("lg2.approx.f32", Type::F32, &special);
    table(
        "lg2.approx.ftz.f32",
        Type::F32,
        &[&special[..], &[(1, NINF), (0x8000_0001, NINF)]].concat(),
    );
    table(
        "lg2.approx.f32",
        Type::F32,
        &[(1, 0xc315_0000), (0x8000_0001, NAN)],
    );
}

#[test]
fn approximate_quotients_and_roots_are_correctly_rounded() {
    let unary = inputs(S, 1, 6000);
    for (dot, flags) in [("", &[][..]), (".ftz", &["ftz"][..])] {
        for op in ["rcp", "sqrt"] {
            program(&format!("{op}.approx{dot}.f32"), &[Type::F32], &[Type::F32])
                .check(&unary, |case| vec![arithmetic(op, S, case, "rn", flags)]);
        }
        let binary = inputs(S, 2, 4000);
        program(&format!("div.full{dot}.f32"), &[Type::F32], &[Type::F32; 2])
            .check(&binary, |case| vec![arithmetic("div", S, case, "rn", flags)]);
        program(&format!("div.approx{dot}.f32"), &[Type::F32], &[Type::F32; 2]).check(&binary, |case| {
            let size = case[1] & 0x7fff_ffff;
            let sign = (case[0] ^ case[1]) & NZERO;
            vec![match S.decode(case[0]) {
                Nan => NAN,
                Inf(_) if size > 0x7e80_0000 && size < PINF => NAN,
                Fin(..) if size > 0x7e80_0000 && size < PINF => sign,
                _ => arithmetic("div", S, case, "rn", flags),
            }]
        });
        // The exact root's reciprocal: v² · x compared with 1.
        program(&format!("rsqrt.approx{dot}.f32"), &[Type::F32], &[Type::F32]).check(&unary, |case| {
            let x = if flags.is_empty() {
                case[0]
            } else {
                S.flush(case[0])
            };
            let one = Dyadic { n: Nat::new(1), e: 0 };
            vec![match S.decode(x) {
                v if is_zero(&v) => PINF | x & NZERO,
                Fin(false, x) => S.round(false, "rn", |v| v.mul(v).mul(&x).cmp(&one)),
                Inf(false) => 0,
                _ => NAN,
            }]
        });
    }
}

#[test]
fn gross_double_approximations() {
    let upper = |x: u64| x & !0xffff_ffff;
    let mut r = Random(8);
    let mut cases = inputs(D, 1, 3000);
    cases.extend((0..1000).map(|_| vec![0x3ff0 << 48 | r.next() >> 12]));
    for op in ["rcp", "rsqrt"] {
        program(&format!("{op}.approx.ftz.f64"), &[Type::F64], &[Type::F64]).check(&cases, |case| {
            let x = D.flush(upper(case[0]));
            let v = D.decode(x);
            let sign = x & D.sign();
            // A format of 20 fraction bits: the upper word of a double.
            let word = Fmt {
                f: 20,
                e: 11,
                inf: 0x7ff << 20,
                nan: 0x7fff_ffff,
            };
            let one = Dyadic { n: Nat::new(1), e: 0 };
            let bits = match (&v, op) {
                (Nan, _) => word.nan,
                (x, _) if is_zero(x) => word.inf | sign >> 32,
                (Inf(s), "rcp") => {
                    if *s {
                        word.sign()
                    } else {
                        0
                    }
                }
                (Inf(false), _) => 0,
                (Fin(s, x), "rcp") => word.flush(word.round(*s, "rn", |v| v.mul(x).cmp(&one))),
                (Fin(false, x), _) => word.round(false, "rn", |v| v.mul(v).mul(x).cmp(&one)),
                _ => word.nan,
            };
            vec![bits << 32]
        });
    }
    // rsqrt.approx.f64: within an ulp of the exact value.
    let mut p = program("rsqrt.approx.f64", &[Type::F64], &[Type::F64]);
    for case in &cases {
        p.put(1, 0, case[0]);
        p.execute(1);
        let got = p.get(0, 0);
        match D.decode(case[0]) {
            Fin(false, x) if !x.n.is_zero() => {
                let one = Dyadic { n: Nat::new(1), e: 0 };
                let exact = D.round(false, "rn", |v| v.mul(v).mul(&x).cmp(&one));
                assert!(
                    got.abs_diff(exact) <= 1,
                    "{:x}: {got:x}, should be {exact:x}",
                    case[0]
                );
            }
            Fin(s, x) if x.n.is_zero() => assert_eq!(got, D.inf | if s { D.sign() } else { 0 }),
            Inf(false) => assert_eq!(got, 0),
            Nan => assert_eq!(got, case[0] | 1 << 51),
            _ => assert_eq!(got, D.nan),
        }
    }
}

#[test]
fn half_functions() {
    let all: Vec<Vec<u64>> = (0..65536).map(|x| vec![x]).collect();
    let value = |fmt: Fmt, bits: u64| -> f64 {
        let single = if fmt.f == 7 {
            bits << 16
        } else {
            S.encode(&fmt.decode(bits), "rn")
        };
        f32::from_bits(single as u32).into()
    };
    for (fmt, name, ftz) in [(H, "f16", ""), (B, "bf16", ".ftz")] {
        for (op, full) in [
            ("ex2", format!("ex2.approx{ftz}.{name}")),
            ("tanh", format!("tanh.approx.{name}")),
        ] {
            let flush = op == "ex2" && !ftz.is_empty();
            let mut results = vec![0; 65536];
            let mut p = program(&full, &[Type::B16], &[Type::B16]);
            for x in 0..65536u64 {
                p.put(1, (x % 32) as usize, x);
                if x % 32 == 31 {
                    p.execute(FULL);
                    for lane in 0..32 {
                        results[(x - 31) as usize + lane] = p.get(0, lane);
                    }
                }
            }
            for bits in 0..65536u64 {
                let got = results[bits as usize];
                let x = if flush { fmt.flush(bits) } else { bits };
                let (inf, one) = (fmt.inf, fmt.encode(&int(1), "rn"));
                match (op, fmt.decode(x)) {
                    (_, Nan) => assert_eq!(got, 0x7fff, "{full} of {bits:#x}"),
                    ("ex2", Inf(s)) => assert_eq!(got, if s { 0 } else { inf }, "{full} of {bits:#x}"),
                    ("tanh", Inf(s)) => assert_eq!(got, one | u64::from(s) << 15, "{full} of {bits:#x}"),
                    ("tanh", v) if is_zero(&v) => assert_eq!(got, x),
                    _ => {
                        let v = value(fmt, x);
                        let exact = if op == "ex2" {
                            exp2(v.clamp(-300.0, 300.0))
                        } else if v.abs() < 0.02 {
                            v - v * v * v / 3.0 + 2.0 * v.powi(5) / 15.0
                        } else {
                            let e = exp2(2.0 * v.clamp(-30.0, 30.0) * std::f64::consts::LOG2_E);
                            (e - 1.0) / (e + 1.0)
                        };
                        let top = fmt.value(fmt.inf).n.0[0] as f64 * 2f64.powi(fmt.value(fmt.inf).e);
                        if exact >= top {
                            assert_eq!(got, inf, "{full} of {bits:#x}");
                        } else if flush && exact < 2f64.powi(-126) * 0.99 {
                            assert_eq!(got, 0, "{full} of {bits:#x}");
                        } else if got != inf {
                            let far = ulps(fmt, value(fmt, got), exact);
                            assert!(far <= 0.51, "{full} of {bits:#x}: {got:#x}, {far} ulp off");
                        } else {
                            assert!(
                                exact > top * (1.0 - 2f64.powi(-(fmt.f as i32) - 2)),
                                "{full} of {bits:#x}"
                            );
                        }
                    }
                }
            }
            program(&format!("{full}x2"), &[Type::B32], &[Type::B32])
                .check(&pack16(&all), |case| vec![both(case, |c| results[c[0] as usize])]);
        }
    }
}

// ---------------------------------------------------------------------------------------------- refusals

#[test]
fn what_is_unknown_is_refused() {
    use Type::*;
    let refused: &[(&str, &[Type], &[Type])] = &[
        ("add.rna.f32", &[F32], &[F32, F32]),
        ("add.rn.rz.f32", &[F32], &[F32, F32]),
        ("add.rn.relu.f32", &[F32], &[F32, F32]),
        ("add.rz.f16", &[B16], &[B16, B16]),
        ("add.sat.bf16", &[B16], &[B16, B16]),
        ("add.ftz.f64", &[F64], &[F64, F64]),
        ("add.rn.f32", &[F32], &[F32, F64]),
        ("add.rn.f32", &[F32], &[F32]),
        ("fma.f32", &[F32], &[F32, F32, F32]),
        ("mad.f32", &[F32], &[F32, F32, F32]),
        ("fma.rn.oob.f16", &[B16], &[B16, B16, B16]),
        ("fma.rn.sat.relu.f16", &[B16], &[B16, B16, B16]),
        ("fma.rn.relu.f32", &[F32], &[F32, F32, F32]),
        ("div.f32", &[F32], &[F32, F32]),
        ("div.approx.rn.f32", &[F32], &[F32, F32]),
        ("rcp.f32", &[F32], &[F32]),
        ("rcp.approx.f64", &[F64], &[F64]),
        ("sqrt.approx.f64", &[F64], &[F64]),
        ("ex2.f32", &[F32], &[F32]),
        ("ex2.approx.bf16", &[B16], &[B16]),
        ("ex2.approx.ftz.f16", &[B16], &[B16]),
        ("tanh.approx.ftz.f32", &[F32], &[F32]),
        ("sin.approx.f64", &[F64], &[F64]),
        ("min.xorsign.f32", &[F32], &[F32, F32]),
        ("min.abs.f16", &[B16], &[B16, B16]),
        ("min.NaN.f64", &[F64], &[F64, F64]),
        ("max.xorsign.abs.f32", &[F32], &[F32, F32, F32]),
        ("setp.lo.f32", &[Pred], &[F32, F32]),
        ("setp.lt.nor.f32", &[Pred], &[F32, F32, Pred]),
        ("setp.lt.ftz.f64", &[Pred], &[F64, F64]),
        ("set.lt.u64.f32", &[U64], &[F32, F32]),
        ("testp.big.f32", &[Pred], &[F32]),
        ("cvt.f32.f64", &[F32], &[F64]),
        ("cvt.s32.f32", &[S32], &[F32]),
        ("cvt.rn.s32.f32", &[S32], &[F32]),
        ("cvt.rni.f32.s32", &[F32], &[S32]),
        ("cvt.f32.s32", &[F32], &[S32]),
        ("cvt.rni.f32.f64", &[F32], &[F64]),
        ("cvt.ftz.s32.f64", &[S32], &[F64]),
        ("cvt.rn.sat.bf16.f32", &[B16], &[F32]),
        ("cvt.rm.f16x2.f32", &[B32], &[F32, F32]),
        ("cvt.rs.f16x2.f32", &[B32], &[F32, F32, B32]),
        ("cvt.rn.e4m3x2.f32", &[B16], &[F32, F32]),
        ("cvt.rn.satfinite.e2m1x2.f32", &[B8], &[F32, F32]),
        ("cvt.rn.satfinite.e3m2x2.f32", &[B16], &[F32, F32]),
        ("cvt.rz.ue8m0x2.f32", &[B16], &[F32, F32]),
        ("cvt.rna.f16.f32", &[B16], &[F32]),
        ("cvt.rn.tf32.f64", &[B32], &[F64]),
        ("cvt.pack.s8.s32.b32", &[U32], &[S32, S32, B32]),
        ("cvt.pack.sat.u8.s32", &[U32], &[S32, S32]),
        ("cvt.pack.sat.u16.s32.b32", &[U32], &[S32, S32, B32]),
    ];
    for (name, dst, src) in refused {
        let error = lower(name, dst, src)
            .err()
            .unwrap_or_else(|| panic!("{name} is accepted"));
        assert!(!error.message.is_empty());
        assert!(!error.message.starts_with("no family"), "{name}: {error}");
    }
}

#[test]
fn every_opcode_is_in_the_table() {
    for opcode in [
        "add", "sub", "mul", "fma", "mad", "neg", "abs", "copysign", "min", "max", "div", "rcp", "sqrt",
        "rsqrt", "sin", "cos", "lg2", "ex2", "tanh", "testp", "set", "setp", "cvt", "cvt.pack",
    ] {
        let covered = FAMILIES
            .iter()
            .filter(|(name, ..)| matches!(*name, "float" | "half" | "approx" | "convert"))
            .flat_map(|(.., rows)| rows.iter())
            .any(|row| row.opcode.split(' ').any(|word| word == opcode));
        assert!(covered, "{opcode}");
    }
}
