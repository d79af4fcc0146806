//! `ldmatrix`, `stmatrix` and `movmatrix`.

use super::Covered;
use super::asynchronous::at;
use super::memory::elements;
use super::sync::only;
use crate::ir::regs::{LANES, Regs, Slot};
use crate::ir::{Class, Code, MatrixCopy, Op};
use crate::lower::builder::{Builder, Refused};
use crate::ptx::ast::{Instruction, Type};

pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "ldmatrix stmatrix",
        forms: ".m8n8 .x1 .x2 .x4 .trans of .b16",
        notes: "",
    },
    Covered {
        opcode: "movmatrix",
        forms: ".m8n8.trans.b16",
        notes: "",
    },
];

pub fn lower(i: &Instruction, b: &mut Builder<'_>) -> Result<Option<Code>, Refused> {
    Ok(Some(match &*i.opcode {
        "ldmatrix" | "stmatrix" => {
            only(
                i,
                &[
                    "sync",
                    "aligned",
                    "m8n8",
                    "x1",
                    "x2",
                    "x4",
                    "trans",
                    "shared",
                    "shared::cta",
                    "b16",
                ],
            )?;
            let load = &*i.opcode == "ldmatrix";
            let tiles = match (i.has("x1"), i.has("x2"), i.has("x4")) {
                (true, ..) => 1,
                (_, true, _) => 2,
                (.., true) => 4,
                _ => return Err(Refused::unsupported(i, "no number of tiles")),
            };
            let (registers, address) = if load { (0, 1) } else { (1, 0) };
            let generic = !i.modifiers.iter().any(|m| m.starts_with("shared"));
            let (base, place) = at(i, b, address, generic)?;
            let list = elements(
                i.operands
                    .get(registers)
                    .ok_or_else(|| Refused::unsupported(i, "too few operands"))?,
            );
            if list.len() != tiles {
                return Err(Refused::unsupported(
                    i,
                    "the number of registers does not fit the tiles",
                ));
            }
            let mut refs = Vec::new();
            for element in list {
                refs.push(if load {
                    b.dst(element, Type::B32)?
                } else {
                    b.src(element, Type::B32)?
                });
            }
            let op = Op::Matrix(Box::new(MatrixCopy {
                load,
                tiles: tiles as u8,
                transposed: i.has("trans"),
                place,
            }));
            let code = if load {
                Code::new(op, Class::MatrixCopy, refs, vec![base])
            } else {
                let mut src = vec![base];
                src.extend(refs);
                Code::new(op, Class::MatrixCopy, vec![], src)
            };
            code.aligned()
        }
        "movmatrix" => {
            only(i, &["sync", "aligned", "m8n8", "trans", "b16"])?;
            let dst = b.dst(&i.operands[0], Type::B32)?;
            let src = b.src(&i.operands[1], Type::B32)?;
            Code::alu(transpose, Class::MatrixCopy, vec![dst], vec![src]).aligned()
        }
        _ => return Ok(None),
    }))
}

/// Row r of the tile lies in lanes 4r…4r+3, two elements each; the transposed tile likewise.
fn transpose(regs: Regs, ops: &[Slot], mask: u32) {
    let from = regs.get32(ops[1]);
    let element = |row: usize, column: usize| from[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    let mut to = [0; LANES];
    for (lane, value) in to.iter_mut().enumerate() {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        *value = element(column, row) | element(column + 1, row) << 16;
    }
    regs.set32(ops[0], &to, mask);
}
