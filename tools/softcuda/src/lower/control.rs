//! Branches, calls and ends: the instructions that need to see the whole function.

use std::collections::HashMap;

use super::builder::{Builder, Refused};
use super::isa::Covered;
use crate::ir::{Builtin, Call, Class, Code, Op, Target};
use crate::ptx::ast::{self, Instruction, Operand, Type};

/// What is known of branches, calls and ends, for the coverage table.
pub const COVERED: &[Covered] = &[
    Covered {
        opcode: "bra brx.idx",
        forms: "guarded and not, .uni",
        notes: "lanes that part meet at the branch's immediate post-dominator",
    },
    Covered {
        opcode: "call ret exit trap brkpt",
        forms: "direct and indirect calls, recursion, .param arguments and results; vprintf and __assertfail",
        notes: "malloc and free are refused; brkpt is a trap",
    },
];

/// Branches, calls and ends.
pub(super) fn lower(
    instruction: &Instruction,
    builder: &mut Builder<'_>,
    body: &ast::Body,
    function: &ast::Function,
    place: &HashMap<u32, u32>,
    targets: &mut Vec<usize>,
) -> Result<Option<Code>, Refused> {
    let label = |operand: &Operand| match operand {
        Operand::Label(id) => Ok(body.labels[id.0 as usize].target),
        other => Err(Refused::new(format!("{other:?} is not a label"))),
    };
    let only_uni = |allowed: &[&str]| match instruction.modifiers.iter().find(|m| !allowed.contains(&&***m)) {
        Some(m) => Err(Refused::unsupported(
            instruction,
            &format!("modifier .{m} is not supported"),
        )),
        None => Ok(()),
    };
    let class = Class::Control;
    Ok(Some(match &*instruction.opcode {
        "bra" => {
            only_uni(&["uni"])?;
            targets.push(label(&instruction.operands[0])?);
            Code::new(
                Op::Branch {
                    target: 0,
                    meet: None,
                },
                class,
                vec![],
                vec![],
            )
        }
        "brx" => {
            only_uni(&["idx", "uni"])?;
            let Some(Operand::Named(name)) = instruction.operands.get(1) else {
                return Err(Refused::new("brx.idx needs a list of targets"));
            };
            let (_, list) = body
                .branch_targets
                .iter()
                .find(|(n, _)| n == name)
                .ok_or_else(|| Refused::new(format!("no .branchtargets is called {name}")))?;
            targets.extend(list.iter().map(|id| body.labels[id.0 as usize].target));
            let index = builder.src(&instruction.operands[0], Type::U32)?;
            Code::new(
                Op::BranchIndexed {
                    targets: Box::new([]),
                    meet: None,
                },
                class,
                vec![],
                vec![index],
            )
        }
        "ret" => {
            only_uni(&["uni"])?;
            let op = if function.kind == ast::FunctionKind::Kernel {
                Op::Exit
            } else {
                Op::Return
            };
            Code::new(op, class, vec![], vec![])
        }
        "exit" => {
            only_uni(&[])?;
            Code::new(Op::Exit, class, vec![], vec![])
        }
        "trap" | "brkpt" => {
            only_uni(&[])?;
            Code::new(Op::Trap, class, vec![], vec![])
        }
        "call" => {
            only_uni(&["uni"])?;
            call(instruction, builder, place)?
        }
        _ => return Ok(None),
    }))
}

/// `call (ret), f, (args);` and its shorter and indirect forms.
fn call(
    instruction: &Instruction,
    builder: &mut Builder<'_>,
    place: &HashMap<u32, u32>,
) -> Result<Code, Refused> {
    let mut lists: Vec<&[Operand]> = Vec::new();
    let mut target = None;
    let mut results: &[Operand] = &[];
    for operand in &instruction.operands {
        match operand {
            Operand::List(list) if target.is_none() => results = list,
            Operand::List(list) => lists.push(list),
            Operand::Function(_) | Operand::Reg(_) if target.is_none() => target = Some(operand),
            // The prototype or list of targets: the callee's own signature is what counts.
            Operand::Named(_) => {}
            other => return Err(Refused::new(format!("{other:?} is not expected in a call"))),
        }
    }
    let areas = |list: &[Operand]| -> Result<Vec<(u32, u32)>, Refused> {
        list.iter()
            .map(|operand| match operand {
                Operand::Variable(id, 0) => builder
                    .areas
                    .get(&id.0)
                    .copied()
                    .ok_or_else(|| Refused::new("only .param variables can be passed")),
                other => Err(Refused::new(format!(
                    "{other:?} cannot be passed: only .param variables"
                ))),
            })
            .collect()
    };
    let arguments = areas(lists.first().copied().unwrap_or(&[]))?;
    let results = areas(results)?;
    let (target, src) = match target {
        Some(Operand::Function(index)) => match place.get(index) {
            Some(&at) => (Target::Direct(at), vec![]),
            None => {
                let name = &*builder.module.functions[*index as usize].name;
                let builtin = match name {
                    "vprintf" => Builtin::Printf,
                    "__assertfail" => Builtin::AssertFail,
                    "malloc" => Builtin::Malloc,
                    "free" => Builtin::Free,
                    _ => {
                        return Err(Refused::new(format!(
                            "the function `{name}` has no body in this module"
                        )));
                    }
                };
                (Target::Builtin(builtin), vec![])
            }
        },
        Some(register) => (Target::Indirect, vec![builder.src(register, Type::U64)?]),
        None => return Err(Refused::new("a call without a target")),
    };
    let call = Call {
        target,
        arguments,
        results,
    };
    Ok(Code::new(Op::Call(Box::new(call)), Class::Control, vec![], src))
}
