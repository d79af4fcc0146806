//! One entry: the functions that it can reach, its shared memory and parameters, and the instructions of each function.

use std::collections::HashMap;

use super::builder::{Addresses, Builder, Constants, Refused, Virtual};
use super::isa::FAMILIES;
use super::slots::{self, Effects};
use super::{control, flow};
use crate::ir::regs::Width;
use crate::ir::{Class, Code, Converge, Function, Inst, Kernel, Op, Param, RESERVED_SHARED, Ref};
use crate::ptx::ast::{self, Guard, Operand};

/// What a module's variables are given when it is loaded: one address each, in the order of
/// [`ast::Module::variables`] (shared variables have none: each kernel lays out its own).
pub struct Placed<'a> {
    pub module: &'a ast::Module,
    pub addresses: &'a [u64],
}

/// Where function addresses begin; function i of the module is at `FUNCTIONS + 16·i`.
pub const FUNCTIONS: u64 = 0x4_0000_0000_0000;

/// The next offset that has this alignment and no better: a kernel that needs more than it declares must fail here
/// rather than on a GPU.
pub fn no_better_aligned(offset: u64, align: u64) -> u64 {
    let at = offset.next_multiple_of(align);
    if at.is_multiple_of(2 * align) {
        at + align
    } else {
        at
    }
}

/// Where the first byte of a block's shared memory lies on sm_90: behind 1024 bytes of the system's. Triton declares an
/// alignment of 16 and lays swizzled boxes at multiples of 1024 from there, so kernels with bulk copies or `wgmma` and no
/// static shared memory find their dynamic part aligned as it is there.
const BLOCK_START: u64 = 1024;

/// Whether a function has bulk copies or `wgmma`.
fn is_asynchronous(module: &ast::Module, function: u32) -> bool {
    let body = module.functions[function as usize].body.as_ref();
    body.is_some_and(|b| {
        b.instructions
            .iter()
            .any(|i| &*i.opcode == "wgmma" || &*i.opcode == "cp" && i.has("bulk"))
    })
}

/// Addresses inside one function of one kernel.
struct Layout<'a> {
    placed: &'a Placed<'a>,
    shared_module: &'a HashMap<u32, u64>,
    shared_local: &'a HashMap<(u32, u32), u64>,
    function: u32,
    /// Offsets of `.local` variables in the function's frame and of entry parameters in the parameter block.
    offsets: HashMap<u32, u64>,
}

impl Addresses for Layout<'_> {
    fn module_variable(&self, index: u32) -> Result<u64, Refused> {
        let variable = &self.placed.module.variables[index as usize];
        match variable.space {
            ast::Space::Shared => Ok(self.shared_module[&index]),
            _ => Ok(self.placed.addresses[index as usize]),
        }
    }

    fn variable(&self, id: ast::VarId) -> Result<u64, Refused> {
        let function = &self.placed.module.functions[self.function as usize];
        let variable = &function.variables[id.0 as usize];
        match variable.space {
            ast::Space::Shared => Ok(self.shared_local[&(self.function, id.0)]),
            ast::Space::Local => Ok(self.offsets[&id.0]),
            ast::Space::Param
                if function.kind == ast::FunctionKind::Kernel && function.params.contains(&id) =>
            {
                Ok(self.offsets[&id.0])
            }
            _ => Err(Refused::new(format!(
                "the address of `{}` cannot be taken",
                variable.name
            ))),
        }
    }

    fn function(&self, index: u32) -> Result<u64, Refused> {
        Ok(FUNCTIONS + 16 * u64::from(index))
    }

    fn is_local(&self, id: ast::VarId) -> bool {
        self.placed.module.functions[self.function as usize].variables[id.0 as usize].space
            == ast::Space::Local
    }
}

/// Functions that a kernel can reach, the entry first: calls, and whatever has its address taken.
fn reachable(module: &ast::Module, entry: u32) -> Vec<u32> {
    let mut list = vec![entry];
    let visit = |list: &mut Vec<u32>, index: u32| {
        if module.functions[index as usize].body.is_some() && !list.contains(&index) {
            list.push(index);
        }
    };
    // A pointer may come from a table in memory.
    let in_tables = || {
        let symbols = module
            .variables
            .iter()
            .flat_map(|v| &v.relocations)
            .map(|r| &r.symbol);
        let symbols: std::collections::HashSet<_> = symbols.collect();
        (0..module.functions.len() as u32)
            .filter(move |&i| symbols.contains(&module.functions[i as usize].name))
    };
    let mut tables_visited = false;
    let mut i = 0;
    while i < list.len() {
        let function = &module.functions[list[i] as usize];
        for instruction in function.body.iter().flat_map(|b| &b.instructions) {
            let mut direct = false;
            for operand in &instruction.operands {
                if let Operand::Function(index) = operand {
                    direct = true;
                    visit(&mut list, *index);
                }
            }
            if &*instruction.opcode == "call" && !direct && !tables_visited {
                tables_visited = true;
                in_tables().for_each(|index| visit(&mut list, index));
            }
        }
        i += 1;
    }
    list
}

/// An instruction on its way: families' output with its place in the source.
struct Draft {
    code: Code,
    guard: Option<Guard>,
    loc: Option<ast::Loc>,
    line: u32,
    /// Index of the source instruction that a branch goes to.
    targets: Vec<usize>,
}

/// Lowers the entry `entry` of a module with all that it can reach.
pub fn kernel(placed: &Placed<'_>, entry: u32) -> Result<Kernel, Refused> {
    let module = placed.module;
    let list = reachable(module, entry);
    let place: HashMap<u32, u32> = list.iter().enumerate().map(|(i, &f)| (f, i as u32)).collect();

    // Shared memory: static variables first, then the dynamic part, which all `extern` arrays share.
    let mut shared_module = HashMap::new();
    let mut shared_local = HashMap::new();
    let asks = |f: &u32| {
        let body = module.functions[*f as usize].body.as_ref();
        body.is_some_and(|b| b.instructions.iter().any(|i| i.operands.iter().any(reserved)))
    };
    let reserved_shared = if list.iter().any(asks) { RESERVED_SHARED } else { 0 };
    let mut at = u64::from(reserved_shared);
    let mut dense = 0u64;
    let mut dynamic_align = 0u64;
    let mut dynamic_module = Vec::new();
    let mut dynamic_local = Vec::new();
    for (index, variable) in module.variables.iter().enumerate() {
        if variable.space != ast::Space::Shared {
            continue;
        }
        let used = list.iter().any(|&f| {
            let body = module.functions[f as usize].body.as_ref();
            body.is_some_and(|b| {
                b.instructions
                    .iter()
                    .any(|i| i.operands.iter().any(|o| names(o, index as u32)))
            })
        });
        if !used {
            continue;
        }
        if variable.size == 0 {
            dynamic_align = dynamic_align.max(variable.align as u64);
            dynamic_module.push(index as u32);
            continue;
        }
        at = no_better_aligned(at, variable.align as u64);
        shared_module.insert(index as u32, at);
        at += variable.size as u64;
        dense = dense.next_multiple_of(variable.align as u64) + variable.size as u64;
    }
    for &f in &list {
        for (id, variable) in module.functions[f as usize].variables.iter().enumerate() {
            if variable.space != ast::Space::Shared {
                continue;
            }
            if variable.size == 0 {
                dynamic_align = dynamic_align.max(variable.align as u64);
                dynamic_local.push((f, id as u32));
                continue;
            }
            at = no_better_aligned(at, variable.align as u64);
            shared_local.insert((f, id as u32), at);
            at += variable.size as u64;
            dense = dense.next_multiple_of(variable.align as u64) + variable.size as u64;
        }
    }
    let least = if at == u64::from(reserved_shared) && list.iter().any(|&f| is_asynchronous(module, f)) {
        BLOCK_START
    } else {
        16
    };
    let dynamic_base = no_better_aligned(at, dynamic_align.max(least));
    shared_module.extend(dynamic_module.iter().map(|&i| (i, dynamic_base)));
    shared_local.extend(dynamic_local.iter().map(|&i| (i, dynamic_base)));

    let mut kernel = Kernel {
        name: module.functions[entry as usize].name.clone(),
        insts: Vec::new(),
        operands: Vec::new(),
        constants: Vec::new(),
        functions: Vec::new(),
        function_index: place
            .iter()
            .map(|(&f, &i)| (FUNCTIONS + 16 * u64::from(f), i))
            .collect(),
        params: Vec::new(),
        param_bytes: 0,
        static_shared: dense as u32,
        reserved_shared,
        shared_end: at as u32,
        dynamic_align: dynamic_align as u32,
        dynamic_base: dynamic_base as u32,
        limits: module.functions[entry as usize].limits.clone(),
        uses_grid_dependency: false,
        uses_wgmma: false,
    };
    let mut constants = Constants::default();
    for &f in &list {
        let mut lowering = FunctionLowering::new(placed, f, &place, &shared_module, &shared_local);
        lowering.run(&mut kernel, &mut constants).map_err(|mut refused| {
            refused.message = format!("in `{}`: {}", module.functions[f as usize].name, refused.message);
            refused
        })?;
    }
    kernel.constants = constants.lay_out();
    Ok(kernel)
}

fn names(operand: &Operand, variable: u32) -> bool {
    match operand {
        Operand::Global(index, _) => *index == variable,
        Operand::Address(a) => {
            a.base == ast::Base::Global(variable) || a.more.iter().any(|o| names(o, variable))
        }
        Operand::Vector(list) | Operand::List(list) => list.iter().any(|o| names(o, variable)),
        _ => false,
    }
}

/// Whether an operand asks where the shared memory of the system lies.
fn reserved(operand: &Operand) -> bool {
    matches!(operand, Operand::Special(name) if name.starts_with("reserved_smem_offset"))
}

struct FunctionLowering<'a> {
    placed: &'a Placed<'a>,
    index: u32,
    place: &'a HashMap<u32, u32>,
    layout: Layout<'a>,
    /// Areas of parameters in the window (device functions, call sequences): variable → (offset, bytes).
    areas: HashMap<u32, (u32, u32)>,
    areas_end: u32,
    local: u32,
}

impl<'a> FunctionLowering<'a> {
    fn new(
        placed: &'a Placed<'a>,
        index: u32,
        place: &'a HashMap<u32, u32>,
        shared_module: &'a HashMap<u32, u64>,
        shared_local: &'a HashMap<(u32, u32), u64>,
    ) -> Self {
        let function = &placed.module.functions[index as usize];
        let entry = function.kind == ast::FunctionKind::Kernel;
        let mut offsets = HashMap::new();
        let mut areas = HashMap::new();
        let (mut block, mut local, mut end) = (0u64, 0u64, 0u32);
        for id in &function.params {
            let variable = &function.variables[id.0 as usize];
            if entry {
                block = block.next_multiple_of(variable.align as u64);
                offsets.insert(id.0, block);
                block += variable.size as u64;
            }
        }
        for (id, variable) in function.variables.iter().enumerate() {
            let id = id as u32;
            match variable.space {
                ast::Space::Local => {
                    local = local.next_multiple_of(variable.align as u64);
                    offsets.insert(id, local);
                    local += variable.size as u64;
                }
                ast::Space::Param if !offsets.contains_key(&id) => {
                    // Rounded up so that each thread's area begins aligned to 16 bytes.
                    let bytes = (variable.size.max(1) as u32).next_multiple_of(16);
                    areas.insert(id, (end, bytes));
                    end = (end + 32 * bytes).next_multiple_of(128);
                }
                _ => {}
            }
        }
        Self {
            placed,
            index,
            place,
            layout: Layout {
                placed,
                shared_module,
                shared_local,
                function: index,
                offsets,
            },
            areas,
            areas_end: end,
            local: local.next_multiple_of(16) as u32,
        }
    }

    fn run(&mut self, kernel: &mut Kernel, constants: &mut Constants) -> Result<(), Refused> {
        let module = self.placed.module;
        let function = &module.functions[self.index as usize];
        let body = function
            .body
            .as_ref()
            .expect("only functions with a body are reachable");
        let mut virtuals: Vec<Virtual> = body
            .registers
            .iter()
            .map(|r| Virtual {
                width: Width::of(r.ty),
                ty: r.ty,
            })
            .collect();

        let mut carry = None;
        let mut drafts: Vec<Draft> = Vec::new();
        // Where each source instruction begins among the drafts.
        let mut begins = Vec::with_capacity(body.instructions.len() + 1);
        for instruction in &body.instructions {
            begins.push(drafts.len());
            let mut builder = Builder {
                registers: &body.registers,
                addresses: &self.layout,
                virtuals: &mut virtuals,
                constants,
                areas: &self.areas,
                module,
                carry: &mut carry,
                before: Vec::new(),
                after: Vec::new(),
            };
            let at_line = |mut refused: Refused| {
                if refused.line == 0 {
                    refused.message = format!("`{}`: {}", instruction.name(), refused.message);
                    refused.line = instruction.line;
                }
                refused
            };
            let mut targets = Vec::new();
            let code = match control::lower(
                instruction,
                &mut builder,
                body,
                function,
                self.place,
                &mut targets,
            ) {
                Ok(Some(code)) => code,
                Ok(None) => {
                    let mut found = None;
                    for (_, lower, _) in FAMILIES {
                        if let Some(code) = lower(instruction, &mut builder).map_err(at_line)? {
                            found = Some(code);
                            break;
                        }
                    }
                    found.ok_or_else(|| Refused {
                        message: format!("the instruction `{}` is not supported", instruction.name()),
                        line: instruction.line,
                    })?
                }
                Err(refused) => return Err(at_line(refused)),
            };
            let (before, after) = (builder.before, builder.after);
            let draft = |code, guard| Draft {
                code,
                guard,
                loc: instruction.loc,
                line: instruction.line,
                targets: Vec::new(),
            };
            drafts.extend(before.into_iter().map(|(code, guard)| draft(code, guard)));
            let mut main = draft(code, instruction.guard);
            main.targets = targets;
            drafts.push(main);
            drafts.extend(after.into_iter().map(|code| draft(code, instruction.guard)));
        }
        begins.push(drafts.len());
        // Falling off the end returns.
        drafts.push(Draft {
            code: Code::new(
                if function.kind == ast::FunctionKind::Kernel {
                    Op::Exit
                } else {
                    Op::Return
                },
                Class::Control,
                vec![],
                vec![],
            ),
            guard: None,
            loc: body.instructions.last().and_then(|i| i.loc),
            line: body.instructions.last().map_or(function.line, |i| i.line),
            targets: Vec::new(),
        });

        for draft in &mut drafts {
            for target in &mut draft.targets {
                *target = begins[*target];
            }
        }
        note_unread(&mut drafts, virtuals.len());
        let blocks = blocks(&drafts);
        let meets = flow::post_dominators(&blocks);
        let mut effects: Vec<Effects> = drafts.iter().map(effects).collect();
        pin(&drafts, &mut effects);
        let widths: Vec<Width> = virtuals.iter().map(|v| v.width).collect();
        let (slots, window) = slots::assign(&widths, &effects, &blocks, self.areas_end);

        let first = kernel.insts.len() as u32;
        let mut block_of = vec![0usize; drafts.len()];
        for (b, block) in blocks.iter().enumerate() {
            block_of[block.start..block.end].fill(b);
        }
        let mut joins = vec![false; drafts.len()];
        let meet_of = |i: usize| match meets[block_of[i]] {
            flow::END => None,
            b => Some(first + blocks[b].start as u32),
        };
        for (i, draft) in drafts.iter().enumerate() {
            let diverges = matches!(draft.code.op, Op::BranchIndexed { .. })
                || (matches!(draft.code.op, Op::Branch { .. }) && draft.guard.is_some());
            if diverges && let Some(meet) = meet_of(i) {
                joins[(meet - first) as usize] = true;
            }
            if matches!(draft.code.op, Op::Call(_)) {
                joins[i + 1] = true;
            }
        }
        let slot = |r: &Ref| match *r {
            Ref::Reg(r) => slots[r as usize],
            Ref::Const(c) => constants.slot(c),
        };
        for (i, draft) in drafts.iter().enumerate() {
            debug_assert!(
                draft.code.dst.iter().all(|r| matches!(r, Ref::Reg(_))),
                "constants are never written"
            );
            kernel.uses_wgmma |= draft.code.is_wgmma();
            kernel.uses_grid_dependency |= draft.code.needs_grid_dependency();
            let operands = kernel.operands.len() as u32;
            kernel
                .operands
                .extend(draft.code.dst.iter().chain(&draft.code.src).map(slot));
            let count = u16::try_from(draft.code.dst.len() + draft.code.src.len()).expect("few operands");
            kernel.insts.push(Inst {
                op: Op::Nop,
                guard: draft.guard.map(|g| (slots[g.reg.0 as usize], g.negated)),
                first: operands,
                count,
                dst: draft.code.dst.len() as u16,
                class: draft.code.class,
                joins: joins[i],
                converge: match draft.code.converge {
                    // Counted among all operands from here on.
                    Converge::Members(m) => Converge::Members(m + draft.code.dst.len()),
                    other => other,
                },
                matrix: draft.code.matrix,
                loc: draft.loc,
                line: draft.line,
            });
        }
        for (i, draft) in drafts.into_iter().enumerate() {
            let meet = meet_of(i);
            kernel.insts[first as usize + i].op = match draft.code.op {
                Op::Branch { .. } => Op::Branch {
                    target: first + draft.targets[0] as u32,
                    meet,
                },
                Op::BranchIndexed { .. } => Op::BranchIndexed {
                    targets: draft.targets.iter().map(|&t| first + t as u32).collect(),
                    meet,
                },
                other => other,
            };
        }

        let areas = |ids: &[ast::VarId]| ids.iter().map(|id| self.areas[&id.0]).collect::<Vec<_>>();
        let entry = function.kind == ast::FunctionKind::Kernel;
        if entry {
            for id in &function.params {
                let variable = &function.variables[id.0 as usize];
                kernel.params.push(Param {
                    offset: self.layout.offsets[&id.0] as u32,
                    size: variable.size as u32,
                });
            }
            kernel.param_bytes = kernel.params.last().map_or(0, |p| p.offset + p.size);
        }
        kernel.functions.push(Function {
            name: function.name.clone(),
            entry: first,
            window,
            params: if entry { vec![] } else { areas(&function.params) },
            returns: areas(&function.returns),
            local: self.local,
        });
        Ok(())
    }
}

/// Tells loads which of their elements go to registers that the function never reads: they count as not loaded.
fn note_unread(drafts: &mut [Draft], registers: usize) {
    let mut read = vec![false; registers];
    for draft in drafts.iter() {
        for source in &draft.code.src {
            if let Ref::Reg(r) = source {
                read[*r as usize] = true;
            }
        }
        if let Some(guard) = draft.guard {
            read[guard.reg.0 as usize] = true;
        }
    }
    for draft in drafts {
        if let Op::Load(access) = &mut draft.code.op
            && access.elements > 1
        {
            let wanted = |r: &Ref| matches!(r, Ref::Reg(r) if read[*r as usize]);
            let dst = &draft.code.dst;
            if let (Some(first), Some(last)) = (dst.iter().position(wanted), dst.iter().rposition(wanted)) {
                let size = access.ty.size();
                access.wanted = ((first * size) as u8, ((last + 1 - first) * size) as u8);
            }
        }
    }
}

/// Registers read and written by a draft.
fn effects(draft: &Draft) -> Effects {
    let registers = |list: &[Ref]| -> Vec<u32> {
        list.iter()
            .filter_map(|r| match r {
                Ref::Reg(r) => Some(*r),
                Ref::Const(_) => None,
            })
            .collect()
    };
    let writes = registers(&draft.code.dst);
    let mut reads = registers(&draft.code.src);
    if let Some(guard) = draft.guard {
        reads.push(guard.reg.0);
        // Lanes whose guard is false keep the old value.
        reads.extend(&writes);
    }
    Effects { reads, writes }
}

/// Registers of a `wgmma` are read and written after it was executed: they keep their slots through the whole function.
fn pin(drafts: &[Draft], effects: &mut [Effects]) {
    for draft in drafts.iter().filter(|draft| draft.code.is_wgmma()) {
        // All but B's descriptor and the predicate, which are read at once.
        let kept = draft.code.src.len() - 2;
        for operand in &draft.code.src[..kept] {
            if let Ref::Reg(register) = *operand {
                effects[0].writes.push(register);
                effects[drafts.len() - 1].reads.push(register);
            }
        }
    }
}

fn blocks(drafts: &[Draft]) -> Vec<flow::Block> {
    let mut leads = vec![false; drafts.len() + 1];
    leads[0] = true;
    for (i, draft) in drafts.iter().enumerate() {
        draft.targets.iter().for_each(|&t| leads[t] = true);
        // A call's return is a meeting point, which only a block's beginning can be.
        if matches!(
            draft.code.op,
            Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Return | Op::Exit | Op::Trap | Op::Call(_)
        ) {
            leads[i + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..drafts.len()).filter(|&i| leads[i]).collect();
    let index: HashMap<usize, usize> = starts.iter().enumerate().map(|(b, &s)| (s, b)).collect();
    starts
        .iter()
        .enumerate()
        .map(|(b, &start)| {
            let end = starts.get(b + 1).copied().unwrap_or(drafts.len());
            let last = &drafts[end - 1];
            let mut next: Vec<usize> = last.targets.iter().map(|t| index[t]).collect();
            let falls = match last.code.op {
                Op::Branch { .. } | Op::Return | Op::Exit | Op::Trap => last.guard.is_some(),
                Op::BranchIndexed { .. } => last.guard.is_some(),
                _ => true,
            };
            if falls && b + 1 < starts.len() {
                next.push(b + 1);
            }
            next.sort_unstable();
            next.dedup();
            flow::Block { start, end, next }
        })
        .collect()
}
