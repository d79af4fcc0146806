//! Integer, logic, comparison and move instructions against their definitions in the PTX ISA, computed here in
//! 128 bits one lane at a time.

mod machine;

use std::collections::HashSet;

use machine::{LOCAL, Machine, Random, instruction, reg};
use softcuda::ir::Special;
use softcuda::lower::isa;
use softcuda::ptx::ast::{Operand, RegId, Type, VarId};

/// What stands at an operand's place.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Pred,
    Bits(u32),
    Immediate(i64),
}
use Kind::{Immediate, Pred};

const W8: Kind = Kind::Bits(8);
const W16: Kind = Kind::Bits(16);
const W32: Kind = Kind::Bits(32);
const W64: Kind = Kind::Bits(64);
const W128: Kind = Kind::Bits(128);

impl Kind {
    fn ty(self) -> Type {
        match self {
            Kind::Pred => Type::Pred,
            Kind::Bits(8) => Type::B8,
            Kind::Bits(16) => Type::B16,
            Kind::Bits(32) => Type::B32,
            Kind::Bits(64) => Type::B64,
            Kind::Bits(_) => Type::B128,
            Kind::Immediate(_) => unreachable!("not a register"),
        }
    }
    fn bits(self) -> u32 {
        match self {
            Kind::Pred => 1,
            Kind::Bits(bits) => bits,
            Kind::Immediate(_) => 64,
        }
    }
}

/// How destinations are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    /// `d, a, b`
    Plain,
    /// `d|p, a, b`
    Pair,
    /// `{d, e}, a`
    Unpack,
    /// `d, {a, b}`
    Pack,
}

/// From the sources' bits to the results' bits.
type Reference = Box<dyn Fn(&[u128]) -> Vec<u128>>;

struct Row {
    name: String,
    shape: Shape,
    dst: Vec<Kind>,
    src: Vec<Kind>,
    reference: Reference,
}

fn low(bits: u32) -> u128 {
    if bits == 128 { u128::MAX } else { (1 << bits) - 1 }
}
/// The low bits of a number, two's complement.
fn cut(value: i128, bits: u32) -> u128 {
    value as u128 & low(bits)
}
/// The number that these bits stand for.
fn number(bits: u128, width: u32, signed: bool) -> i128 {
    if signed && bits >> (width - 1) & 1 != 0 {
        bits as i128 - (1i128 << width)
    } else {
        bits as i128
    }
}
fn bit(value: u128, index: u32) -> bool {
    value >> index & 1 != 0
}

struct Rows(Vec<Row>);

impl Rows {
    fn add(
        &mut self,
        name: impl Into<String>,
        dst: &[Kind],
        src: &[Kind],
        reference: impl Fn(&[u128]) -> Vec<u128> + 'static,
    ) {
        let shape = if dst.len() == 2 { Shape::Pair } else { Shape::Plain };
        self.shaped(name, shape, dst, src, reference);
    }
    fn shaped(
        &mut self,
        name: impl Into<String>,
        shape: Shape,
        dst: &[Kind],
        src: &[Kind],
        reference: impl Fn(&[u128]) -> Vec<u128> + 'static,
    ) {
        self.0.push(Row {
            name: name.into(),
            shape,
            dst: dst.to_vec(),
            src: src.to_vec(),
            reference: Box::new(reference),
        });
    }
    /// One result of the given width from sources of the given widths and signedness, as numbers.
    fn numbers(
        &mut self,
        name: impl Into<String>,
        result: u32,
        sources: &[(u32, bool)],
        reference: impl Fn(&[i128]) -> i128 + 'static,
    ) {
        let kinds: Vec<Kind> = sources.iter().map(|s| Kind::Bits(s.0)).collect();
        let sources = sources.to_vec();
        self.add(name, &[Kind::Bits(result)], &kinds, move |bits| {
            let numbers: Vec<i128> = bits
                .iter()
                .zip(&sources)
                .map(|(&b, &(width, signed))| number(b, width, signed))
                .collect();
            vec![cut(reference(&numbers), result)]
        });
    }
}

const TYPES: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

fn clamp(value: i128, bits: u32) -> i128 {
    value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
}

fn arithmetic(rows: &mut Rows) {
    for (t, w, signed) in TYPES {
        let n = (w, signed);
        rows.numbers(format!("add.{t}"), w, &[n, n], |v| v[0] + v[1]);
        rows.numbers(format!("sub.{t}"), w, &[n, n], |v| v[0] - v[1]);
        rows.numbers(format!("mul.lo.{t}"), w, &[n, n], |v| v[0].wrapping_mul(v[1]));
        // |product| < 2^128; an unsigned one of 64 bits does not fit i128, so its bits are taken as u128.
        rows.numbers(format!("mul.hi.{t}"), w, &[n, n], move |v| {
            high(v[0], v[1], w, signed)
        });
        rows.numbers(format!("mad.lo.{t}"), w, &[n, n, n], |v| {
            v[0].wrapping_mul(v[1]).wrapping_add(v[2])
        });
        rows.numbers(format!("mad.hi.{t}"), w, &[n, n, n], move |v| {
            high(v[0], v[1], w, signed) + v[2]
        });
        if w < 64 {
            rows.numbers(format!("mul.wide.{t}"), 2 * w, &[n, n], |v| v[0] * v[1]);
            rows.numbers(format!("mad.wide.{t}"), 2 * w, &[n, n, (2 * w, signed)], |v| {
                v[0] * v[1] + v[2]
            });
        }
        rows.numbers(format!("div.{t}"), w, &[n, n], |v| {
            if v[1] == 0 { -1 } else { v[0] / v[1] }
        });
        rows.numbers(format!("rem.{t}"), w, &[n, n], |v| {
            if v[1] == 0 { -1 } else { v[0] % v[1] }
        });
        rows.numbers(format!("min.{t}"), w, &[n, n], |v| v[0].min(v[1]));
        rows.numbers(format!("max.{t}"), w, &[n, n], |v| v[0].max(v[1]));
        rows.numbers(format!("sad.{t}"), w, &[n, n, n], |v| v[2] + (v[0] - v[1]).abs());
        if signed {
            rows.numbers(format!("abs.{t}"), w, &[n], |v| v[0].abs());
            rows.numbers(format!("neg.{t}"), w, &[n], |v| -v[0]);
        }
    }
    let s32 = (32, true);
    rows.numbers("add.sat.s32", 32, &[s32, s32], |v| clamp(v[0] + v[1], 32));
    rows.numbers("sub.sat.s32", 32, &[s32, s32], |v| clamp(v[0] - v[1], 32));
    rows.numbers("mad.hi.sat.s32", 32, &[s32, s32, s32], |v| {
        clamp(((v[0] * v[1]) >> 32) + v[2], 32)
    });
    rows.numbers("min.relu.s32", 32, &[s32, s32], |v| v[0].min(v[1]).max(0));
    rows.numbers("max.s32.relu", 32, &[s32, s32], |v| v[0].max(v[1]).max(0));
    for (t, signed) in [("u32", false), ("s32", true)] {
        let product = move |v: &[i128]| number(cut(v[0], 24), 24, signed) * number(cut(v[1], 24), 24, signed);
        let n = (32, signed);
        rows.numbers(format!("mul24.lo.{t}"), 32, &[n, n], product);
        rows.numbers(format!("mul24.hi.{t}"), 32, &[n, n], move |v| product(v) >> 16);
        rows.numbers(format!("mad24.lo.{t}"), 32, &[n, n, n], move |v| {
            product(v) + v[2]
        });
        rows.numbers(format!("mad24.hi.{t}"), 32, &[n, n, n], move |v| {
            (product(v) >> 16) + v[2]
        });
        if signed {
            rows.numbers("mad24.hi.sat.s32", 32, &[n, n, n], move |v| {
                clamp((product(v) >> 16) + v[2], 32)
            });
        }
    }
    for (t, signed) in [("u16x2", false), ("s16x2", true)] {
        let mut pairs = |name: String, f: fn(i128, i128) -> i128| {
            rows.add(name, &[W32], &[W32, W32], move |v| {
                let half = |i: u32| {
                    let part = |x: u128| number(x >> (16 * i) & 0xffff, 16, signed);
                    cut(f(part(v[0]), part(v[1])), 16) << (16 * i)
                };
                vec![half(0) | half(1)]
            });
        };
        pairs(format!("add.{t}"), |a, b| a + b);
        pairs(format!("min.{t}"), |a, b| a.min(b));
        pairs(format!("max.{t}"), |a, b| a.max(b));
        if signed {
            pairs(format!("min.relu.{t}"), |a, b| a.min(b).max(0));
            pairs(format!("max.{t}.relu"), |a, b| a.max(b).max(0));
        }
    }
    for (a_type, a_signed) in [("u32", false), ("s32", true)] {
        for (b_type, b_signed) in [("u32", false), ("s32", true)] {
            let byte = |x: u128, i: u32, signed: bool| number(x >> (8 * i) & 0xff, 8, signed);
            rows.add(
                format!("dp4a.{a_type}.{b_type}"),
                &[W32],
                &[W32, W32, W32],
                move |v| {
                    let sum: i128 = (0..4)
                        .map(|i| byte(v[0], i, a_signed) * byte(v[1], i, b_signed))
                        .sum();
                    vec![cut(sum + v[2] as i128, 32)]
                },
            );
            for (part, first) in [("lo", 0), ("hi", 2)] {
                rows.add(
                    format!("dp2a.{part}.{a_type}.{b_type}"),
                    &[W32],
                    &[W32, W32, W32],
                    move |v| {
                        let half = |i: u32| number(v[0] >> (16 * i) & 0xffff, 16, a_signed);
                        let sum: i128 = (0..2).map(|i| half(i) * byte(v[1], first + i, b_signed)).sum();
                        vec![cut(sum + v[2] as i128, 32)]
                    },
                );
            }
        }
    }
    // Immediate sources.
    rows.add("add.s32", &[W32], &[W32, Immediate(-5)], |v| {
        vec![cut(v[0] as i128 - 5, 32)]
    });
    rows.add("add.s64", &[W64], &[W64, Immediate(i64::MIN)], |v| {
        vec![cut(v[0] as i128 + i128::from(i64::MIN), 64)]
    });
    rows.add("sub.s16", &[W16], &[Immediate(-1), W16], |v| {
        vec![cut(-1 - v[1] as i128, 16)]
    });
    rows.add("mul.wide.s32", &[W64], &[W32, Immediate(-4)], |v| {
        vec![cut(number(v[0], 32, true) * -4, 64)]
    });
    rows.add("mul.wide.u16", &[W32], &[W16, Immediate(-1)], |v| {
        vec![cut(v[0] as i128 * 0xffff, 32)]
    });
}

/// The upper half of a product.
fn high(a: i128, b: i128, width: u32, signed: bool) -> i128 {
    if signed {
        (a * b) >> width
    } else {
        ((a as u128 * b as u128) >> width) as i128
    }
}

fn bits(rows: &mut Rows) {
    for (t, w) in [("b32", 32), ("b64", 64)] {
        let k = Kind::Bits(w);
        rows.add(format!("popc.{t}"), &[W32], &[k], move |v| {
            vec![(0..w).filter(|&i| bit(v[0], i)).count() as u128]
        });
        rows.add(format!("clz.{t}"), &[W32], &[k], move |v| {
            vec![(0..w).rev().take_while(|&i| !bit(v[0], i)).count() as u128]
        });
        rows.add(format!("brev.{t}"), &[k], &[k], move |v| {
            vec![(0..w).map(|i| u128::from(bit(v[0], i)) << (w - 1 - i)).sum()]
        });
        rows.add(format!("bfi.{t}"), &[k], &[k, k, W32, W32], move |v| {
            let (position, length) = ((v[2] & 255) as u32, (v[3] & 255) as u32);
            let mut f = v[1];
            for i in 0..length {
                if position + i < w {
                    f &= !(1 << (position + i));
                    f |= u128::from(i < 128 && bit(v[0], i)) << (position + i);
                }
            }
            vec![f]
        });
    }
    for (t, w, signed) in &TYPES[2..] {
        let (w, signed) = (*w, *signed);
        let k = Kind::Bits(w);
        let found = move |a: u128| {
            let negative = signed && bit(a, w - 1);
            (0..w).rev().find(|&i| bit(a, i) != negative)
        };
        rows.add(format!("bfind.{t}"), &[W32], &[k], move |v| {
            vec![found(v[0]).map_or(0xffff_ffff, u128::from)]
        });
        rows.add(format!("bfind.shiftamt.{t}"), &[W32], &[k], move |v| {
            vec![found(v[0]).map_or(0xffff_ffff, |i| u128::from(w - 1 - i))]
        });
        rows.add(format!("bfe.{t}"), &[k], &[k, W32, W32], move |v| {
            let (position, length) = ((v[1] & 255) as u32, (v[2] & 255) as u32);
            let msb = w - 1;
            let sign = signed && length != 0 && bit(v[0], (position + length - 1).min(msb));
            let from = |i: u32| {
                if i < length && position + i <= msb {
                    bit(v[0], position + i)
                } else {
                    sign
                }
            };
            vec![(0..w).map(|i| u128::from(from(i)) << i).sum()]
        });
    }
    rows.add("fns.b32", &[W32], &[W32, W32, W32], |v| {
        let (base, offset) = (v[1], number(v[2], 32, true));
        if base > 31 {
            return vec![0xffff_ffff];
        }
        // The set positions in the order in which they are met.
        let base = base as u32;
        let set: Vec<u32> = if offset < 0 {
            (0..=base).rev().filter(|&i| bit(v[0], i)).collect()
        } else {
            (base..32).filter(|&i| bit(v[0], i)).collect()
        };
        let result = if offset == 0 {
            Some(base).filter(|&i| bit(v[0], i))
        } else {
            set.get(offset.unsigned_abs() as usize - 1).copied()
        };
        vec![result.map_or(0xffff_ffff, u128::from)]
    });
    for clamp in [false, true] {
        let mode = if clamp { "clamp" } else { "wrap" };
        rows.add(format!("bmsk.{mode}.b32"), &[W32], &[W32, W32], move |v| {
            let (a, b) = if clamp {
                (v[0].min(32), v[1].min(32))
            } else {
                (v[0] & 31, v[1] & 31)
            };
            vec![(0..32).map(|i| u128::from(i >= a && i < a + b) << i).sum()]
        });
        for (t, signed) in [("u32", false), ("s32", true)] {
            rows.add(format!("szext.{mode}.{t}"), &[W32], &[W32, W32], move |v| {
                let n = if clamp {
                    v[1].min(32) as u32
                } else {
                    (v[1] & 31) as u32
                };
                if n == 0 {
                    return vec![0];
                }
                vec![cut(number(v[0] & low(n), n, signed), 32)]
            });
        }
    }
}

fn logic(rows: &mut Rows) {
    for (t, k) in [("pred", Pred), ("b16", W16), ("b32", W32), ("b64", W64)] {
        rows.add(format!("and.{t}"), &[k], &[k, k], |v| vec![v[0] & v[1]]);
        rows.add(format!("or.{t}"), &[k], &[k, k], |v| vec![v[0] | v[1]]);
        rows.add(format!("xor.{t}"), &[k], &[k, k], |v| vec![v[0] ^ v[1]]);
        rows.add(format!("not.{t}"), &[k], &[k], move |v| {
            vec![v[0] ^ low(k.bits())]
        });
        if k == Pred {
            continue;
        }
        rows.add(format!("cnot.{t}"), &[k], &[k], |v| vec![u128::from(v[0] == 0)]);
        let w = k.bits();
        rows.add(format!("shl.{t}"), &[k], &[k, W32], move |v| {
            vec![v[0] << v[1].min(u128::from(w)) & low(w)]
        });
        rows.add(format!("shr.{t}"), &[k], &[k, W32], move |v| {
            vec![v[0] >> v[1].min(u128::from(w))]
        });
    }
    for (t, w, signed) in TYPES {
        let n = (w, signed);
        rows.numbers(format!("shr.{t}"), w, &[n, (32, false)], move |v| {
            v[0] >> v[1].min(w.into())
        });
    }
    rows.add("shl.b32", &[W32], &[W32, Immediate(3)], |v| {
        vec![v[0] << 3 & 0xffff_ffff]
    });
    rows.add("shr.s64", &[W64], &[W64, Immediate(63)], |v| {
        vec![cut(-i128::from(bit(v[0], 63)), 64)]
    });
    rows.add("and.b16", &[W16], &[W16, Immediate(-256)], |v| {
        vec![v[0] & 0xff00]
    });

    for table in 0..256u32 {
        let look_up = move |v: &[u128]| -> u128 {
            (0..32)
                .map(|i| {
                    let row =
                        4 * u32::from(bit(v[0], i)) + 2 * u32::from(bit(v[1], i)) + u32::from(bit(v[2], i));
                    u128::from(table >> row & 1) << i
                })
                .sum()
        };
        let immediate = Immediate(table.into());
        rows.add("lop3.b32", &[W32], &[W32, W32, W32, immediate], move |v| {
            vec![look_up(v)]
        });
        if table % 37 == 0 {
            rows.add(
                "lop3.and.b32",
                &[W32, Pred],
                &[W32, W32, W32, immediate, Pred],
                move |v| {
                    let d = look_up(v);
                    vec![d, u128::from(d != 0) & v[4]]
                },
            );
            rows.add(
                "lop3.or.b32",
                &[W32, Pred],
                &[W32, W32, W32, immediate, Pred],
                move |v| {
                    let d = look_up(v);
                    vec![d, u128::from(d != 0) | v[4]]
                },
            );
        }
    }
    for (mode, clamp) in [("wrap", false), ("clamp", true)] {
        let amount = move |c: u128| if clamp { c.min(32) } else { c & 31 };
        rows.add(format!("shf.l.{mode}.b32"), &[W32], &[W32, W32, W32], move |v| {
            let n = amount(v[2]);
            vec![(v[1] << n | v[0] >> (32 - n)) & 0xffff_ffff]
        });
        rows.add(format!("shf.r.{mode}.b32"), &[W32], &[W32, W32, W32], move |v| {
            let n = amount(v[2]);
            vec![(v[1] << (32 - n) | v[0] >> n) & 0xffff_ffff]
        });
    }
    rows.add("prmt.b32", &[W32], &[W32, W32, W32], |v| {
        let bytes = v[1] << 32 | v[0];
        let mut result = 0;
        for i in 0..4 {
            let select = v[2] >> (4 * i) & 15;
            let byte = bytes >> (8 * (select & 7)) & 0xff;
            let byte = match (select & 8 != 0, byte & 0x80 != 0) {
                (false, _) => byte,
                (true, true) => 0xff,
                (true, false) => 0,
            };
            result |= byte << (8 * i);
        }
        vec![result]
    });
    // The ISA's table: for each control value the source bytes of result bytes 3, 2, 1, 0.
    let modes: [(&str, [[u32; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, table) in modes {
        rows.add(format!("prmt.b32.{mode}"), &[W32], &[W32, W32, W32], move |v| {
            let bytes = v[1] << 32 | v[0];
            let from = table[(v[2] & 3) as usize];
            vec![from.iter().fold(0, |all, b| all << 8 | (bytes >> (8 * b) & 0xff))]
        });
    }
}

fn comparisons(rows: &mut Rows) {
    let test: fn(&str, i128, i128) -> bool = |op, a, b| match op {
        "eq" => a == b,
        "ne" => a != b,
        "lt" | "lo" => a < b,
        "le" | "ls" => a <= b,
        "gt" | "hi" => a > b,
        "ge" | "hs" => a >= b,
        _ => unreachable!(),
    };
    let bit_types = [("b16", 16, false), ("b32", 32, false), ("b64", 64, false)];
    for (t, w, signed) in TYPES.into_iter().chain(bit_types) {
        let k = Kind::Bits(w);
        for op in ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"] {
            let order = op != "eq" && op != "ne";
            let unsigned_only = matches!(op, "lo" | "ls" | "hi" | "hs");
            if order && t.starts_with('b') || unsigned_only && signed {
                continue;
            }
            let holds = move |v: &[u128]| test(op, number(v[0], w, signed), number(v[1], w, signed));
            rows.add(format!("setp.{op}.{t}"), &[Pred], &[k, k], move |v| {
                vec![holds(v).into()]
            });
            rows.add(format!("setp.{op}.{t}"), &[Pred, Pred], &[k, k], move |v| {
                vec![holds(v).into(), (!holds(v)).into()]
            });
            for combine in ["and", "or", "xor"] {
                let with = move |t: bool, c: u128| -> u128 {
                    match combine {
                        "and" => (t && c != 0).into(),
                        "or" => (t || c != 0).into(),
                        _ => (t != (c != 0)).into(),
                    }
                };
                rows.add(
                    format!("setp.{op}.{combine}.{t}"),
                    &[Pred, Pred],
                    &[k, k, Pred],
                    move |v| vec![with(holds(v), v[2]), with(!holds(v), v[2])],
                );
                rows.add(
                    format!("setp.{op}.{combine}.{t}"),
                    &[Pred],
                    &[k, k, Pred],
                    move |v| vec![with(holds(v), v[2])],
                );
                rows.add(
                    format!("set.{op}.{combine}.u32.{t}"),
                    &[W32],
                    &[k, k, Pred],
                    move |v| vec![with(holds(v), v[2]) * 0xffff_ffff],
                );
            }
            for (result, kind, truth) in [
                ("u32", W32, 0xffff_ffff),
                ("s32", W32, 0xffff_ffff),
                ("f32", W32, 0x3f80_0000),
                ("f16", W16, 0x3c00),
                ("bf16", W16, 0x3f80),
            ] {
                rows.add(format!("set.{op}.{result}.{t}"), &[kind], &[k, k], move |v| {
                    vec![u128::from(holds(v)) * truth]
                });
            }
        }
    }
    rows.add("setp.gt.s32", &[Pred], &[W32, Immediate(-1)], |v| {
        vec![(!bit(v[0], 31)).into()]
    });
    rows.add("setp.lt.u16", &[Pred], &[Immediate(-2), W16], |v| {
        vec![(v[1] == 0xffff).into()]
    });
}

fn moves(rows: &mut Rows) {
    for (t, k) in [
        ("pred", Pred),
        ("b16", W16),
        ("u16", W16),
        ("s16", W16),
        ("b32", W32),
        ("u32", W32),
        ("s32", W32),
        ("f32", W32),
        ("b64", W64),
        ("u64", W64),
        ("s64", W64),
        ("f64", W64),
        ("b128", W128),
    ] {
        rows.add(format!("mov.{t}"), &[k], &[k], |v| vec![v[0]]);
        if k == Pred || k == W128 {
            continue;
        }
        rows.add(format!("selp.{t}"), &[k], &[k, k, Pred], |v| {
            vec![if v[2] != 0 { v[0] } else { v[1] }]
        });
        rows.add(format!("slct.{t}.s32"), &[k], &[k, k, W32], |v| {
            vec![if bit(v[2], 31) { v[1] } else { v[0] }]
        });
        for ftz in [false, true] {
            let name = if ftz {
                format!("slct.ftz.{t}.f32")
            } else {
                format!("slct.{t}.f32")
            };
            rows.add(name, &[k], &[k, k, W32], move |v| {
                // From the bits: NaN chooses b, zero of either sign a, else the sign.
                let magnitude = v[2] & 0x7fff_ffff;
                let zero = magnitude == 0 || ftz && magnitude < 0x80_0000;
                let nan = magnitude > 0x7f80_0000;
                vec![if !nan && (zero || !bit(v[2], 31)) {
                    v[0]
                } else {
                    v[1]
                }]
            });
        }
    }
    rows.add("mov.u32", &[W32], &[Immediate(-7)], |_| vec![0xffff_fff9]);
    rows.add("mov.b16", &[W16], &[Immediate(-7)], |_| vec![0xfff9]);
    rows.add("mov.u64", &[W64], &[Immediate(-7)], |_| {
        vec![0xffff_ffff_ffff_fff9]
    });
    rows.add("mov.pred", &[Pred], &[Immediate(1)], |_| vec![1]);
    rows.add("mov.pred", &[Pred], &[Immediate(0)], |_| vec![0]);
    rows.add("selp.b32", &[W32], &[W32, Immediate(-1), Pred], |v| {
        vec![if v[2] != 0 { v[0] } else { 0xffff_ffff }]
    });
    for (whole, part, n) in [
        (W16, W8, 2),
        (W32, W16, 2),
        (W32, W8, 4),
        (W64, W32, 2),
        (W64, W16, 4),
        (W128, W64, 2),
        (W128, W32, 4),
    ] {
        let name = format!("mov.b{}", whole.bits());
        let w = part.bits();
        rows.shaped(name.clone(), Shape::Pack, &[whole], &vec![part; n], move |v| {
            vec![v.iter().rev().fold(0, |all, x| all << w | x)]
        });
        rows.shaped(name, Shape::Unpack, &vec![part; n], &[whole], move |v| {
            (0..n as u32).map(|i| v[0] >> (w * i) & low(w)).collect()
        });
    }
    rows.shaped("mov.b32", Shape::Pack, &[W32], &[W16, Immediate(-1)], |v| {
        vec![0xffff_0000 | v[0]]
    });
}

fn rows() -> Vec<Row> {
    let mut rows = Rows(Vec::new());
    arithmetic(&mut rows);
    bits(&mut rows);
    logic(&mut rows);
    comparisons(&mut rows);
    moves(&mut rows);
    rows.0
}

const EDGES: [u64; 36] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7f_ffff,
    0x80_0000,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    // As f32: the subnormal and the normal number below 0 that are next to each other.
    0x807f_ffff,
    0x8080_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

/// A value of this kind: an edge, mostly, or random bits of random length.
fn value(random: &mut Random, kind: Kind) -> u128 {
    let r = random.next();
    let wide = match r % 8 {
        0..=3 => {
            let edge = EDGES[(r >> 8) as usize % EDGES.len()];
            // A narrow edge at the top as well as at the bottom, and its complement.
            let edge = u128::from(edge);
            match r >> 40 & 3 {
                0 => !edge,
                1 => edge << (kind.bits() / 2),
                _ => edge,
            }
        }
        4 => u128::from(random.next() % 70),
        _ => (u128::from(random.next()) << 64 | u128::from(random.next())) >> (r >> 16 & 127),
    };
    wide & low(kind.bits())
}

/// The operands of a row with registers from 0 on: destinations, then sources.
fn operands(row: &Row, destinations: &[usize], sources: &[usize]) -> Vec<Operand> {
    let mut dst: Vec<Operand> = destinations.iter().map(|&r| reg(r)).collect();
    let src = row.src.iter().zip(sources).map(|(kind, &r)| match kind {
        Immediate(value) => Operand::Int(*value),
        _ => reg(r),
    });
    let src: Vec<Operand> = src.collect();
    match row.shape {
        Shape::Plain => dst.into_iter().chain(src).collect(),
        Shape::Pair => {
            let q = dst.pop().expect("two destinations");
            let p = dst.pop().expect("two destinations");
            std::iter::once(Operand::Pair(p.into(), q.into()))
                .chain(src)
                .collect()
        }
        Shape::Unpack => std::iter::once(Operand::Vector(dst)).chain(src).collect(),
        Shape::Pack => dst.into_iter().chain([Operand::Vector(src)]).collect(),
    }
}

/// Runs the row on `warps` warps of values from `source(warp, lane, operand)`, some with every lane and some
/// with a random mask.
fn check(row: &Row, random: &mut Random, warps: usize, exhaustive: bool, in_place: bool) {
    let registers: Vec<Kind> = row.dst.iter().chain(&row.src).copied().collect();
    let types: Vec<Type> = registers
        .iter()
        .map(|k| if let Immediate(_) = k { Type::B32 } else { k.ty() })
        .collect();
    let n = row.dst.len();
    let sources: Vec<usize> = (n..registers.len()).collect();
    let mut destinations: Vec<usize> = (0..n).collect();
    if in_place {
        // The first destination is the first source of its kind.
        match row.src.iter().position(|k| *k == row.dst[0]) {
            Some(same) => destinations[0] = n + same,
            None => return,
        }
    }
    let mut machine = Machine::new(&types);
    let code = instruction(&row.name, operands(row, &destinations, &sources));
    for warp in 0..warps {
        let mask = match warp % 3 {
            0 => u32::MAX,
            1 => random.next() as u32,
            _ => 1 << (random.next() % 32),
        };
        let mut inputs = vec![vec![0u128; 32]; row.src.len()];
        let mut old = vec![[0u128; 32]; n];
        for lane in 0..32 {
            for (i, kind) in row.dst.iter().enumerate() {
                let v = value(random, *kind);
                machine.set(i, lane, v);
            }
            for (i, kind) in row.src.iter().enumerate() {
                let mut v = value(random, *kind);
                if exhaustive && i < 2 {
                    let pair = warp * 32 + lane;
                    let edge = if i == 0 { pair / EDGES.len() } else { pair };
                    v = u128::from(EDGES[edge % EDGES.len()]) & low(kind.bits());
                }
                if let Immediate(given) = kind {
                    v = *given as u64 as u128;
                } else {
                    machine.set(sources[i], lane, v);
                }
                inputs[i][lane] = v;
            }
            for (i, d) in destinations.iter().enumerate() {
                old[i][lane] = machine.get(*d, lane);
            }
        }
        machine
            .run(&code, mask)
            .unwrap_or_else(|e| panic!("{}: {e}", row.name));
        for lane in 0..32 {
            let given: Vec<u128> = inputs.iter().map(|i| i[lane]).collect();
            let wanted = (row.reference)(&given);
            for (i, d) in destinations.iter().enumerate() {
                let wanted = if mask >> lane & 1 != 0 {
                    wanted[i]
                } else {
                    old[i][lane]
                };
                let got = machine.get(*d, lane);
                assert_eq!(
                    got, wanted,
                    "{} result {i} of {given:x?}, lane {lane} of mask {mask:08x}: {got:x} is not {wanted:x}",
                    row.name
                );
            }
        }
    }
}

#[test]
fn every_instruction_computes_what_the_isa_says() {
    let rows = rows();
    println!("{} rows", rows.len());
    assert!(rows.len() > 900);
    let mut random = Random(0x0501_2e57);
    for baseline in [false, true] {
        isa::simd::use_baseline(baseline);
        for row in &rows {
            check(row, &mut random, 48, false, false);
            check(row, &mut random, 6, false, true);
            if row.src.len() > 1 && row.name != "lop3.b32" {
                check(row, &mut random, EDGES.len() * EDGES.len() / 32 + 1, true, false);
            }
        }
    }
    isa::simd::use_baseline(false);
}

/// Nanoseconds per warp: `cargo test --release -p softcuda --test isa_integer -- --ignored --nocapture speed`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let mut seen = HashSet::new();
    for row in rows() {
        if !seen.insert((row.name.clone(), row.dst.len(), row.shape)) {
            continue;
        }
        let kinds: Vec<Kind> = row.dst.iter().chain(&row.src).copied().collect();
        let types: Vec<Type> = kinds
            .iter()
            .map(|k| if let Immediate(_) = k { Type::B32 } else { k.ty() })
            .collect();
        let all: Vec<usize> = (0..kinds.len()).collect();
        let code = instruction(
            &row.name,
            operands(&row, &all[..row.dst.len()], &all[row.dst.len()..]),
        );
        let mut machine = Machine::new(&types);
        let mut times = [u32::MAX, 0x7fff_fff0].map(|mask| {
            let best = (0..5).map(|_| machine.repeat(&code, mask, 20_000).unwrap());
            1e9 * best.fold(f64::INFINITY, f64::min)
        });
        times.iter_mut().for_each(|t| *t = (*t * 10.0).round() / 10.0);
        println!(
            "{:6.1} {:6.1} ns  {}{}",
            times[0],
            times[1],
            row.name,
            if row.shape == Shape::Plain {
                ""
            } else {
                " (several results or parts)"
            }
        );
    }
}

#[test]
fn what_is_not_known_is_refused() {
    for row in rows() {
        let kinds: Vec<Kind> = row.dst.iter().chain(&row.src).copied().collect();
        let types: Vec<Type> = kinds
            .iter()
            .map(|k| if let Immediate(_) = k { Type::B32 } else { k.ty() })
            .collect();
        let n = row.dst.len();
        let all: Vec<usize> = (0..kinds.len()).collect();
        let operands = operands(&row, &all[..n], &all[n..]);
        for extra in ["bogus", "rn", "sat", "relu", "cc", "ftz", "aligned", "s32"] {
            // These are forms of their own.
            let name = format!("{}.{extra}", row.name);
            let known = match extra {
                "sat" => ["add.s32", "sub.s32", "mad.hi.s32", "mad24.hi.s32"].contains(&&*row.name),
                "relu" => ["min.s32", "max.s32", "min.s16x2", "max.s16x2"].contains(&&*row.name),
                "cc" => {
                    let whole = ["u32", "s32", "u64", "s64"].iter().any(|t| row.name.ends_with(t));
                    let head = ["add.", "sub.", "mad.lo.", "mad.hi."];
                    whole && head.iter().any(|h| row.name.starts_with(h)) && !row.name.contains("sat")
                }
                "ftz" => {
                    row.name.starts_with("slct.") && row.name.ends_with(".f32") && !row.name.contains("ftz")
                }
                _ => false,
            };
            if known {
                continue;
            }
            let code = instruction(&name, operands.clone());
            let refused = Machine::new(&types).run(&code, u32::MAX);
            assert!(refused.is_err(), "{name} is accepted");
        }
        let mut fewer = operands.clone();
        fewer.pop();
        let refused = Machine::new(&types).run(&instruction(&row.name, fewer), u32::MAX);
        assert!(
            refused.is_err(),
            "{} is accepted with an operand too few",
            row.name
        );
    }
}

#[test]
fn carries_link_instructions_into_wide_arithmetic() {
    // Two numbers of four words in registers 0..4 and 4..8, the result in 8..12, a flag in 12.
    let mut random = Random(0xca44);
    let registers: Vec<Type> = vec![Type::U32; 13];
    for round in 0..200 {
        let mask = if round % 2 == 0 {
            u32::MAX
        } else {
            random.next() as u32
        };
        let mut numbers = [[0u128; 2]; 32];
        let mut machine = Machine::new(&registers);
        for (lane, pair) in numbers.iter_mut().enumerate() {
            for (i, number) in pair.iter_mut().enumerate() {
                // Words of all ones and all zeros let the carry run through.
                for word in 0..4 {
                    let bits = match random.next() % 4 {
                        0 => 0,
                        1 => 0xffff_ffff,
                        2 => 1,
                        _ => random.next() as u32 as u128,
                    };
                    *number |= bits << (32 * word);
                    machine.set(4 * i + word, lane, bits);
                }
            }
        }
        // Sums after differences and differences after sums: a - b is a + !b + 1 with the carry of that.
        for (head, tail) in [("sub.cc.u32", "addc.u32"), ("add.cc.u32", "subc.u32")] {
            let code = instruction(head, vec![reg(8), reg(0), reg(4)]);
            machine.run(&code, mask).unwrap();
            let code = instruction(tail, vec![reg(9), Operand::Int(7), Operand::Int(3)]);
            machine.run(&code, mask).unwrap();
            for (lane, [a, b]) in numbers.into_iter().enumerate() {
                if mask >> lane & 1 != 0 {
                    let (a, b) = (a as u32, b as u32);
                    let wanted = if tail == "addc.u32" {
                        10 + u128::from(a >= b)
                    } else {
                        3 + u128::from(a.checked_add(b).is_none())
                    };
                    assert_eq!(
                        machine.get(9, lane),
                        wanted,
                        "{tail} after {head} of {a:x} and {b:x}"
                    );
                }
            }
        }
        for (head, tail) in [("add.cc.u32", "addc"), ("sub.cc.s32", "subc")] {
            for r in 8..13 {
                for lane in 0..32 {
                    machine.set(r, lane, 0xdead);
                }
            }
            for word in 0..4 {
                let name = if word == 0 {
                    head.into()
                } else {
                    format!("{tail}.cc.u32")
                };
                let code = instruction(&name, vec![reg(8 + word), reg(word), reg(4 + word)]);
                machine.run(&code, mask).unwrap();
            }
            // The last carry or borrow itself: 0 + 0 + CF, 0 - 0 - CF.
            let code = instruction(
                &format!("{tail}.u32"),
                vec![reg(12), Operand::Int(0), Operand::Int(0)],
            );
            machine.run(&code, mask).unwrap();
            for (lane, [a, b]) in numbers.into_iter().enumerate() {
                if mask >> lane & 1 == 0 {
                    assert_eq!(machine.get(12, lane), 0xdead);
                    continue;
                }
                let (wanted, carry) = if tail == "addc" {
                    a.overflowing_add(b)
                } else {
                    a.overflowing_sub(b)
                };
                let got: u128 = (0..4).map(|w| machine.get(8 + w, lane) << (32 * w)).sum();
                assert_eq!(got, wanted, "{head} of {a:x} and {b:x}");
                let flag = if tail == "addc" { 1 } else { 0xffff_ffff };
                assert_eq!(
                    machine.get(12, lane),
                    u128::from(carry) * flag,
                    "{head} of {a:x} and {b:x}"
                );
            }
        }
    }
}

#[test]
fn products_with_carry() {
    // Registers: a, b, c, result, flag, then two that set the flag.
    for (t, w, signed) in [
        ("u32", 32, false),
        ("s32", 32, true),
        ("u64", 64, false),
        ("s64", 64, true),
    ] {
        let ty = if w == 32 { Type::B32 } else { Type::B64 };
        let mut random = Random(0x3ad);
        for part in ["lo", "hi"] {
            for carried in [false, true] {
                let head = if carried { "madc" } else { "mad" };
                for round in 0..60 {
                    let mask = if round % 2 == 0 {
                        u32::MAX
                    } else {
                        random.next() as u32
                    };
                    let mut machine = Machine::new(&[ty, ty, ty, ty, Type::B32, Type::B32]);
                    let mut inputs = [[0u128; 4]; 32];
                    for (lane, input) in inputs.iter_mut().enumerate() {
                        for (i, v) in input.iter_mut().enumerate().take(3) {
                            *v = value(&mut random, Kind::Bits(w));
                            machine.set(i, lane, *v);
                        }
                        input[3] = u128::from(random.next() & 1);
                        machine.set(5, lane, input[3] * 0xffff_ffff);
                    }
                    // ffffffff + 1 carries, 0 + 1 does not.
                    let set = instruction("add.cc.u32", vec![Operand::Sink, reg(5), Operand::Int(1)]);
                    machine.run(&set, u32::MAX).unwrap();
                    let code = instruction(
                        &format!("{head}.{part}.cc.{t}"),
                        vec![reg(3), reg(0), reg(1), reg(2)],
                    );
                    machine.run(&code, mask).unwrap();
                    let get = instruction("addc.u32", vec![reg(4), Operand::Int(0), Operand::Int(0)]);
                    machine.run(&get, u32::MAX).unwrap();
                    for (lane, [a, b, c, flag]) in inputs.into_iter().enumerate() {
                        let (x, y) = (number(a, w, signed), number(b, w, signed));
                        let product = if part == "lo" {
                            cut(x.wrapping_mul(y), w)
                        } else {
                            cut(high(x, y, w, signed), w)
                        };
                        let sum = product + c + if carried { flag } else { 0 };
                        let (carry, given) = (machine.get(4, lane), machine.get(3, lane));
                        if mask >> lane & 1 != 0 {
                            assert_eq!(given, sum & low(w), "{} of {a:x} {b:x} {c:x}", code.name());
                            assert_eq!(carry, sum >> w, "{} of {a:x} {b:x} {c:x}", code.name());
                        } else {
                            assert_eq!(carry, flag, "{} writes the flag of other lanes", code.name());
                        }
                    }
                }
            }
        }
    }
    // Without .cc the flag is read and stays.
    let mut machine = Machine::new(&[Type::U32, Type::U32]);
    for (name, operands) in [
        (
            "add.cc.u32",
            vec![Operand::Sink, Operand::Int(-1), Operand::Int(1)],
        ),
        (
            "madc.lo.u32",
            vec![reg(0), Operand::Int(3), Operand::Int(5), Operand::Int(-1)],
        ),
        ("addc.u32", vec![reg(1), Operand::Int(-1), Operand::Int(-1)]),
        ("addc.u32", vec![reg(1), Operand::Int(10), Operand::Int(20)]),
    ] {
        machine.run(&instruction(name, operands), u32::MAX).unwrap();
    }
    assert_eq!(machine.get(0, 7), 15);
    assert_eq!(machine.get(1, 7), 31);
}

/// The result of one instruction in one lane, its sources (registers from 1 on) given.
fn one(name: &str, result: Type, operands: Vec<Operand>, sources: &[(Type, u128)], rank: u32) -> u128 {
    let types: Vec<Type> = std::iter::once(result)
        .chain(sources.iter().map(|s| s.0))
        .collect();
    let mut machine = Machine::new(&types);
    machine.rank = rank;
    for (i, (_, v)) in sources.iter().enumerate() {
        machine.set(i + 1, 5, *v);
    }
    let code = instruction(name, operands);
    machine
        .run(&code, 1 << 5)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    machine.get(0, 5)
}

#[test]
fn moves_of_addresses_and_special_registers() {
    let global = |offset| Operand::Global(3, offset);
    assert_eq!(
        one("mov.u64", Type::U64, vec![reg(0), global(8)], &[], 0),
        0x7f00_0000_0308
    );
    assert_eq!(
        one("mov.b64", Type::B64, vec![reg(0), global(-8)], &[], 0),
        0x7f00_0000_02f8
    );
    let shared = Operand::Variable(VarId(2), 4);
    assert_eq!(
        one("mov.u32", Type::U32, vec![reg(0), shared.clone()], &[], 0),
        0x484
    );
    assert_eq!(
        one("mov.u64", Type::U64, vec![reg(0), shared.clone()], &[], 0),
        0x484
    );
    assert_eq!(
        one("mov.u64", Type::U64, vec![reg(0), Operand::Function(1)], &[], 0),
        0x5_0010
    );
    assert_eq!(
        one("cvta.shared.u64", Type::U64, vec![reg(0), shared], &[], 2),
        0x1_0000_0200_0484
    );
    assert_eq!(
        one("cvta.global.u64", Type::U64, vec![reg(0), global(0)], &[], 0),
        0x7f00_0000_0300
    );
    let lanes = Operand::Special("WARP_SZ".into());
    assert_eq!(one("mov.u32", Type::U32, vec![reg(0), lanes.clone()], &[], 0), 32);
    assert_eq!(
        one(
            "add.u32",
            Type::U32,
            vec![reg(0), reg(1), lanes],
            &[(Type::U32, 10)],
            0
        ),
        42
    );

    for (ty, name, special) in [
        ("u32", "tid.x", Special::Tid(0)),
        ("b32", "ctaid.z", Special::Ctaid(2)),
        ("u32", "clock", Special::Clock32),
        ("u64", "clock64", Special::Clock64),
        ("u64", "globaltimer", Special::GlobalTimer),
        ("u32", "cluster_ctarank", Special::ClusterCtaRank),
        ("u16", "tid.y", Special::Tid(1)),
        ("u64", "gridid", Special::GridId),
        ("u32", "gridid", Special::GridId),
    ] {
        let ty_of = Type::parse(ty).unwrap();
        let mut machine = Machine::new(&[ty_of]);
        machine.rank = 0x5eed_0000;
        let code = instruction(&format!("mov.{ty}"), vec![reg(0), Operand::Special(name.into())]);
        machine.run(&code, u32::MAX).unwrap();
        assert_eq!(machine.specials, [special]);
        let wanted = if ty == "u16" { 0 } else { 0x5eed_0000 };
        assert_eq!(machine.get(0, 31), wanted, "{name}");
    }
    // A local variable lies in the function's frame, wherever that is.
    let mut machine = Machine::new(&[Type::U64]);
    let code = instruction("mov.u64", vec![reg(0), Operand::Variable(LOCAL, 4)]);
    machine.run(&code, u32::MAX).unwrap();
    assert_eq!(
        machine.specials,
        [Special::LocalFrame {
            offset: 0x400 + 64 * 9 + 4,
            wide: true
        }]
    );
    assert_eq!(machine.get(0, 31), 0x5eed_0000);

    // As ptxas has it, widths of special registers must fit.
    for (ty, name) in [
        ("u64", "tid.x"),
        ("u32", "clock64"),
        ("u64", "clock"),
        ("f32", "tid.x"),
        ("u32", "nosuch"),
    ] {
        let mut machine = Machine::new(&[Type::parse(ty).unwrap()]);
        let code = instruction(&format!("mov.{ty}"), vec![reg(0), Operand::Special(name.into())]);
        assert!(machine.run(&code, u32::MAX).is_err(), "{name} as {ty}");
    }
}

#[test]
fn sinks_and_negated_predicates() {
    let mut machine = Machine::new(&[Type::B64, Type::B32, Type::Pred, Type::Pred]);
    for lane in 0..32 {
        machine.set(0, lane, 0x1111_2222_3333_4444 + lane as u128);
        machine.set(1, lane, 7);
        machine.set(2, lane, lane as u128 & 1);
        machine.set(3, lane, 0);
    }
    let mut run = |name: &str, operands: Vec<Operand>| {
        machine.run(&instruction(name, operands), 0xffff_fffe).unwrap();
    };
    run(
        "mov.b64",
        vec![Operand::Vector(vec![Operand::Sink, reg(1)]), reg(0)],
    );
    let odd = Operand::NotReg(RegId(2));
    let pair = Operand::Pair(Operand::Sink.into(), reg(3).into());
    run(
        "setp.eq.and.s32",
        vec![pair, reg(1), Operand::Int(0), odd.clone()],
    );
    for lane in 0..32 {
        assert_eq!(machine.get(1, lane), if lane == 0 { 7 } else { 0x1111_2222 });
        // q is (not equal) and (lane even), and lane 0 did not run.
        assert_eq!(
            machine.get(3, lane),
            u128::from(lane != 0 && lane % 2 == 0),
            "lane {lane}"
        );
    }
    machine
        .run(
            &instruction("selp.b32", vec![reg(1), Operand::Int(1), Operand::Int(2), odd]),
            u32::MAX,
        )
        .unwrap();
    for lane in 0..32 {
        assert_eq!(machine.get(1, lane), if lane % 2 == 0 { 1 } else { 2 });
    }
    // The table of lop3 with `_` for the value: (a & b & c) != 0 or q.
    let pair = Operand::Pair(Operand::Sink.into(), reg(3).into());
    let table = vec![
        pair,
        reg(1),
        Operand::Int(2),
        Operand::Int(-1),
        Operand::Int(0x80),
        Operand::Int(0),
    ];
    machine.run(&instruction("lop3.or.b32", table), u32::MAX).unwrap();
    for lane in 0..32 {
        assert_eq!(machine.get(3, lane), lane as u128 & 1);
    }
}

/// Addresses in every window and beside it.
const ADDRESSES: [u64; 14] = [
    0,
    0x7f00_0000_1000,
    0xffff_ffff_ffff,
    0x1_0000_0000_0000,
    0x1_0000_0000_0400,
    0x1_0000_0100_0000,
    0x1_0000_0200_0400,
    0x1_ffff_ffff_ffff,
    0x2_0000_0000_0000,
    0x2_0000_0000_1234,
    0x3_0000_0000_0000,
    0x3_0000_0000_0010,
    0x4_0000_0000_0000,
    u64::MAX,
];

#[test]
fn addresses_between_spaces() {
    const SHARED: u64 = 0x1_0000_0000_0000;
    const LOCAL_AT: u64 = 0x2_0000_0000_0000;
    const PARAM: u64 = 0x3_0000_0000_0000;
    let cvta = |name: &str, address: u64, rank: u32| {
        one(
            name,
            Type::U64,
            vec![reg(0), reg(1)],
            &[(Type::U64, address.into())],
            rank,
        ) as u64
    };
    for rank in [0, 1, 7] {
        for offset in [0, 4, 0x3_8fff] {
            let own = SHARED + (u64::from(rank) << 24) + offset;
            for space in ["shared", "shared::cta", "shared::cluster"] {
                assert_eq!(cvta(&format!("cvta.{space}.u64"), offset, rank), own);
                assert_eq!(cvta(&format!("cvta.to.{space}.u64"), own, rank), offset);
            }
            // Another block's memory, there and back.
            let other = SHARED + (3 << 24) + offset;
            let mapped = cvta("cvta.to.shared::cluster.u64", other, rank);
            assert_ne!(mapped, offset);
            assert!(mapped <= u64::from(u32::MAX));
            assert_eq!(cvta("cvta.shared::cluster.u64", mapped, rank), other);
        }
    }
    for offset in [0, 12, 0x1234_5678] {
        assert_eq!(cvta("cvta.local.u64", offset, 0), LOCAL_AT + offset);
        assert_eq!(cvta("cvta.to.local.u64", LOCAL_AT + offset, 0), offset);
        for space in ["param", "param::entry"] {
            assert_eq!(cvta(&format!("cvta.{space}.u64"), offset, 0), PARAM + offset);
            assert_eq!(cvta(&format!("cvta.to.{space}.u64"), PARAM + offset, 0), offset);
        }
        for space in ["global", "const"] {
            assert_eq!(
                cvta(&format!("cvta.{space}.u64"), 0x7f00_0000_0000 + offset, 0),
                0x7f00_0000_0000 + offset
            );
            assert_eq!(
                cvta(&format!("cvta.to.{space}.u64"), 0x7f00_0000_0000 + offset, 0),
                0x7f00_0000_0000 + offset
            );
        }
    }
    // What is not shared does not become a shared address that could be valid, in 32 bits neither.
    for address in ADDRESSES {
        let shared = cvta("cvta.to.shared.u64", address, 0);
        if !(SHARED..LOCAL_AT).contains(&address) {
            assert!(shared as u32 >= 0xff00_0000, "{address:x} becomes {shared:x}");
        }
        let local = cvta("cvta.to.local.u64", address, 0);
        if !(LOCAL_AT..PARAM).contains(&address) {
            assert!(local as u32 >= 0xff00_0000, "{address:x} becomes {local:x}");
        }
        for rank in [0, 2] {
            let is = |space: &str| {
                let operands = vec![reg(0), reg(1)];
                one(
                    &format!("isspacep.{space}"),
                    Type::Pred,
                    operands,
                    &[(Type::U64, address.into())],
                    rank,
                ) != 0
            };
            let shared = (SHARED..LOCAL_AT).contains(&address);
            let own = shared && (address - SHARED) >> 24 == u64::from(rank);
            assert_eq!(is("shared::cluster"), shared, "{address:x}");
            assert_eq!(is("shared::cta"), own, "{address:x}");
            assert_eq!(is("shared"), own, "{address:x}");
            assert_eq!(is("local"), (LOCAL_AT..PARAM).contains(&address), "{address:x}");
            let param = (PARAM..PARAM + SHARED).contains(&address);
            assert_eq!(is("param"), param, "{address:x}");
            assert_eq!(is("param::entry"), param, "{address:x}");
            assert_eq!(is("global"), !(SHARED..PARAM).contains(&address), "{address:x}");
        }
    }
}

#[test]
fn what_ptxas_refuses_is_refused() {
    let p = || Type::Pred;
    let cases: &[(&str, &[Type])] = &[
        ("sub.u16x2", &[Type::B32; 3]),
        ("add.sat.u32", &[Type::B32; 3]),
        ("add.sat.s16x2", &[Type::B32; 3]),
        ("add.b32", &[Type::B32; 3]),
        ("add.cc.u16", &[Type::B16; 3]),
        ("mul.u32", &[Type::B32; 3]),
        ("mul.wide.u64", &[Type::B64; 3]),
        ("mad.u32", &[Type::B32; 4]),
        ("mad.lo.sat.s32", &[Type::B32; 4]),
        ("mad.hi.sat.u32", &[Type::B32; 4]),
        ("mad24.lo.sat.s32", &[Type::B32; 4]),
        ("mad.lo.cc.u16", &[Type::B16; 4]),
        ("mul24.wide.u32", &[Type::B32; 3]),
        ("neg.u32", &[Type::B32; 2]),
        ("abs.s16x2", &[Type::B32; 2]),
        ("max.relu.u16x2", &[Type::B32; 3]),
        ("min.relu.s64", &[Type::B64; 3]),
        ("and.u32", &[Type::B32; 3]),
        ("popc.b16", &[Type::B16; 2]),
        ("clz.b64", &[Type::B64; 2]),
        ("bfind.b32", &[Type::B32; 2]),
        ("bfi.u32", &[Type::B32; 5]),
        ("shl.u32", &[Type::B32; 3]),
        ("shl.b32", &[Type::B32, Type::B32, Type::B16]),
        ("shf.l.b32", &[Type::B32; 4]),
        ("shf.l.wrap.b64", &[Type::B64; 4]),
        ("setp.lo.s32", &[p(), Type::B32, Type::B32]),
        ("setp.lt.b32", &[p(), Type::B32, Type::B32]),
        ("setp.equ.s32", &[p(), Type::B32, Type::B32]),
        ("setp.eq.s32", &[p(), Type::B32, Type::B32, p()]),
        ("setp.eq.pred", &[p(), p(), p()]),
        ("set.lt.u16.s32", &[Type::B16, Type::B32, Type::B32]),
        ("selp.pred", &[p(), p(), p(), p()]),
        ("selp.f16", &[Type::B16, Type::B16, Type::B16, p()]),
        ("slct.ftz.f32.s32", &[Type::B32; 4]),
        ("mov.f16", &[Type::B16; 2]),
        ("mov.b8", &[Type::B8; 2]),
        ("mov.u32", &[Type::B32, Type::B64]),
        ("cvta.u64", &[Type::B64; 2]),
        ("cvta.shared.u32", &[Type::B32; 2]),
        ("isspacep.const", &[p(), Type::B64]),
        ("lop3.b32", &[Type::B32; 5]),
        ("dp2a.u32.u32", &[Type::B32; 4]),
        ("bmsk.b32", &[Type::B32; 3]),
    ];
    for (name, types) in cases {
        let operands = (0..types.len()).map(reg).collect();
        let refused = Machine::new(types).run(&instruction(name, operands), u32::MAX);
        let error = refused.expect_err(name);
        assert!(!error.message.contains("no family"), "{name}: {}", error.message);
    }
    let table = |last| vec![reg(0), reg(1), reg(2), reg(3), Operand::Int(last)];
    for bad in [-1, 256] {
        assert!(
            Machine::new(&[Type::B32; 4])
                .run(&instruction("lop3.b32", table(bad)), 1)
                .is_err()
        );
    }
}

#[test]
fn floating_point_is_left_to_its_families() {
    let families = ["integer", "logic", "compare", "moves"];
    for name in [
        "add.f32",
        "sub.rn.f64",
        "mul.f16x2",
        "mad.rn.f32",
        "div.full.f32",
        "abs.f32",
        "neg.f16",
        "min.f32",
        "max.bf16x2",
        "setp.lt.f32",
        "set.lt.u32.f32",
        "add.f32x2",
        "cvt.u32.f32",
    ] {
        let code = instruction(name, vec![reg(0), reg(1), reg(2)]);
        for (family, lower, _) in isa::FAMILIES {
            if families.contains(family) {
                // Another family's opcode needs nothing of the builder.
                let answer = machine::with_builder(|builder| lower(&code, builder).map(|c| c.is_none()));
                assert_eq!(answer, Ok(true), "{name} in {family}");
            }
        }
    }
}

#[test]
fn the_coverage_table_names_what_is_tested() {
    let mut tested: HashSet<String> = rows()
        .iter()
        .map(|row| row.name.split('.').next().unwrap().to_owned())
        .collect();
    // In tests of their own, those of clusters in tests/hopper.
    tested.extend(["addc", "subc", "madc", "cvta", "isspacep", "mapa", "getctarank"].map(String::from));
    let mut covered = HashSet::new();
    for (family, _, table) in isa::FAMILIES {
        if ["integer", "logic", "compare", "moves"].contains(family) {
            for line in *table {
                for opcode in line.opcode.split(' ').filter(|o| *o != "cvta.to") {
                    assert!(covered.insert(opcode.to_owned()), "{opcode} is listed twice");
                }
            }
        }
    }
    assert_eq!(tested, covered);
}
