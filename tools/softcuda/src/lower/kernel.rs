//! From the syntax tree to a [`Kernel`]: families lower the instructions one by one, then
//! come control flow (meeting points) and slots (registers that are never alive together share one).

use std::collections::HashMap;
use std::fmt;

use crate::ir::regs::{LANES, Slot, Width};
use crate::ir::{
    Builtin, Call, Class, Code, Converge, Function, Inst, Kernel, Op, Param, RESERVED_SHARED, Ref, Special,
    Target,
};
use crate::lower::flow;
use crate::lower::slots::{self, Effects};
use crate::ptx::ast::{self, Guard, Instruction, Operand, Type};

/// Why a module or kernel cannot be loaded: said with the instruction and its line, never skipped over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub message: String,
    /// Line of the PTX text, from 1; 0 until the lowering fills it in.
    pub line: u32,
}

impl Refused {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: 0,
        }
    }

    /// `what` of this instruction is not supported.
    pub fn unsupported(instruction: &Instruction, what: &str) -> Self {
        Self {
            message: format!("`{}`: {what}", instruction.name()),
            line: instruction.line,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Refused {}

/// Constants of a kernel, one slot for each value and width.
#[derive(Default)]
pub struct Constants {
    index: HashMap<(u128, Width), u32>,
    list: Vec<(u128, Width, u32)>,
    bytes: u32,
}

impl Constants {
    pub fn get(&mut self, value: u128, width: Width) -> Ref {
        let next = self.list.len() as u32;
        let index = *self.index.entry((value, width)).or_insert(next);
        if index == next {
            // Predicates are four bytes; keep what follows aligned.
            let size = (width.bytes() as u32).next_multiple_of(64);
            self.list.push((value, width, self.bytes));
            self.bytes += size;
        }
        Ref::Const(index)
    }

    pub fn slot(&self, index: u32) -> Slot {
        Slot(Slot::CONST | self.list[index as usize].2)
    }

    /// The bytes, every lane filled.
    pub fn lay_out(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; self.bytes as usize];
        for &(value, width, at) in &self.list {
            let at = at as usize;
            let value = value.to_le_bytes();
            let size = match width {
                Width::Pred => 4,
                other => other.bytes() / 32,
            };
            for piece in bytes[at..at + width.bytes()].chunks_exact_mut(size) {
                piece.copy_from_slice(&value[..size]);
            }
        }
        bytes
    }
}

/// A virtual register.
#[derive(Debug, Clone, Copy)]
pub struct Virtual {
    pub width: Width,
    pub ty: Type,
}

/// Where addresses of variables come from while a kernel is lowered.
pub trait Addresses {
    /// Address of a module-scope variable in its own space's window (a shared variable's offset in the block's
    /// shared memory, a global's device address).
    fn module_variable(&self, index: u32) -> Result<u64, Refused>;
    /// The same for a variable of the function at hand.
    fn variable(&self, id: ast::VarId) -> Result<u64, Refused>;
    /// The address that stands for a function.
    fn function(&self, index: u32) -> Result<u64, Refused>;
    /// Whether a variable lies in the frame of local memory, so that its address is relative to it.
    fn is_local(&self, id: ast::VarId) -> bool;
}

/// What a family sees while it lowers one instruction.
pub struct Builder<'a> {
    pub registers: &'a [ast::Register],
    pub addresses: &'a dyn Addresses,
    pub virtuals: &'a mut Vec<Virtual>,
    pub constants: &'a mut Constants,
    /// Parameter areas of the register window by variable: (offset, bytes per thread).
    pub areas: &'a HashMap<u32, (u32, u32)>,
    pub module: &'a ast::Module,
    /// The function's carry flag, once an instruction has used it.
    pub carry: &'a mut Option<Ref>,
    /// Instructions to put before the one at hand.
    pub before: Vec<(Code, Option<Guard>)>,
    /// Instructions to put behind it, under the same guard.
    pub after: Vec<Code>,
}

/// Width in which values of this type are kept.
pub fn width_of(ty: Type) -> Width {
    match ty {
        Type::Pred => Width::Pred,
        _ => match ty.size() {
            1..=4 => Width::W32,
            8 => Width::W64,
            _ => Width::W128,
        },
    }
}

impl Builder<'_> {
    /// Declared type of a register operand.
    pub fn register_type(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Reg(id) | Operand::NotReg(id) => Some(self.registers[id.0 as usize].ty),
            _ => None,
        }
    }

    /// A new register that no operand names.
    pub fn temporary(&mut self, ty: Type) -> Ref {
        self.virtuals.push(Virtual {
            width: width_of(ty),
            ty,
        });
        Ref::Reg(self.virtuals.len() as u32 - 1)
    }

    /// The carry flag (`CC.CF`) as a predicate: one for the function, which no operand names.
    pub fn carry(&mut self) -> Ref {
        let flag = match *self.carry {
            Some(flag) => flag,
            None => self.temporary(Type::Pred),
        };
        *self.carry = Some(flag);
        flag
    }

    /// A constant with this value in every lane.
    pub fn constant(&mut self, value: u128, width: Width) -> Ref {
        self.constants.get(value, width)
    }

    /// A source of type `ty`: a register of the same width, a literal (rounded to `ty`), an address, a special
    /// register. A predicate may be negated.
    pub fn src(&mut self, operand: &Operand, ty: Type) -> Result<Ref, Refused> {
        let width = width_of(ty);
        match operand {
            Operand::Reg(id) => {
                let declared = self.registers[id.0 as usize].ty;
                if width_of(declared) != width || (declared.size() != ty.size() && ty != Type::Pred) {
                    return Err(Refused::new(format!(
                        "register {} is .{declared:?}, which does not fit .{ty:?}",
                        self.registers[id.0 as usize].name
                    )));
                }
                Ok(Ref::Reg(id.0))
            }
            Operand::NotReg(id) => {
                if ty != Type::Pred {
                    return Err(Refused::new("only a predicate can be negated with `!`"));
                }
                let not = self.temporary(Type::Pred);
                let code = Code::alu(
                    |regs, ops, mask| regs.set_pred(ops[0], !regs.pred(ops[1]), mask),
                    Class::Logic,
                    vec![not],
                    vec![Ref::Reg(id.0)],
                );
                self.before.push((code, None));
                Ok(not)
            }
            Operand::Special(name) if &**name == "WARP_SZ" => Ok(self.constants.get(LANES as u128, width)),
            Operand::Special(name) => {
                let special = crate::lower::isa::special(name)
                    .ok_or_else(|| Refused::new(format!("special register %{name} is not supported")))?;
                let value = self.temporary(ty);
                let code = Code::new(Op::Special(special), Class::Move, vec![value], vec![]);
                self.before.push((code, None));
                Ok(value)
            }
            Operand::Variable(id, offset) if self.addresses.is_local(*id) => {
                let offset = self.addresses.variable(*id)?.wrapping_add_signed(*offset);
                self.local_address(offset, ty)
            }
            other => {
                let value = self.literal(other, ty)?;
                Ok(self.constants.get(value, width))
            }
        }
    }

    /// An address in the current frame of local memory.
    pub fn local_address(&mut self, offset: u64, ty: Type) -> Result<Ref, Refused> {
        let value = self.temporary(ty);
        let code = Code::new(
            Op::Special(Special::LocalFrame {
                offset: offset as u32,
                wide: width_of(ty) == Width::W64,
            }),
            Class::Move,
            vec![value],
            vec![],
        );
        self.before.push((code, None));
        Ok(value)
    }

    /// The bits of a literal or an address as a value of type `ty`.
    pub fn literal(&self, operand: &Operand, ty: Type) -> Result<u128, Refused> {
        let size = ty.size();
        let cut = |value: u64| -> u128 {
            match size {
                1 => u128::from(value as u8),
                2 => u128::from(value as u16),
                4 => u128::from(value as u32),
                _ => u128::from(value),
            }
        };
        Ok(match operand {
            Operand::Int(value) if ty == Type::Pred => {
                if *value != 0 {
                    u128::from(u32::MAX)
                } else {
                    0
                }
            }
            Operand::Int(value) => match ty {
                // An integer literal where a float is wanted is not in the language, but compilers write 0.
                Type::F32 if *value != 0 => u128::from((*value as f32).to_bits()),
                Type::F64 if *value != 0 => u128::from((*value as f64).to_bits()),
                Type::B128 => *value as i128 as u128,
                _ => cut(*value as u64),
            },
            Operand::F32(bits) => match ty {
                Type::F64 => u128::from(f64::from(f32::from_bits(*bits)).to_bits()),
                Type::F16 => u128::from(half::f16::from_f32(f32::from_bits(*bits)).to_bits()),
                Type::BF16 => u128::from(half::bf16::from_f32(f32::from_bits(*bits)).to_bits()),
                _ => u128::from(*bits),
            },
            Operand::F64(bits) => match ty {
                Type::F32 | Type::TF32 => u128::from((f64::from_bits(*bits) as f32).to_bits()),
                Type::F16 => u128::from(half::f16::from_f64(f64::from_bits(*bits)).to_bits()),
                Type::BF16 => u128::from(half::bf16::from_f64(f64::from_bits(*bits)).to_bits()),
                _ => u128::from(*bits),
            },
            Operand::Variable(id, offset) => cut(self.addresses.variable(*id)?.wrapping_add_signed(*offset)),
            Operand::Global(index, offset) => cut(self
                .addresses
                .module_variable(*index)?
                .wrapping_add_signed(*offset)),
            Operand::Function(index) => cut(self.addresses.function(*index)?),
            other => return Err(Refused::new(format!("{other:?} is not a value"))),
        })
    }

    /// A destination of type `ty`; `_` gives a register that nobody reads.
    pub fn dst(&mut self, operand: &Operand, ty: Type) -> Result<Ref, Refused> {
        match operand {
            Operand::Reg(id) => {
                let declared = self.registers[id.0 as usize].ty;
                if width_of(declared) != width_of(ty) || (declared.size() != ty.size() && ty != Type::Pred) {
                    return Err(Refused::new(format!(
                        "register {} is .{declared:?}, which does not fit .{ty:?}",
                        self.registers[id.0 as usize].name
                    )));
                }
                Ok(Ref::Reg(id.0))
            }
            Operand::Sink => Ok(self.temporary(ty)),
            other => Err(Refused::new(format!("{other:?} cannot be written"))),
        }
    }

    /// A register operand of whatever width, with that width: for instructions that allow wider registers than
    /// their type (`ld`, `st`, `cvt`).
    pub fn any_dst(&mut self, operand: &Operand, ty: Type) -> Result<(Ref, Width), Refused> {
        match operand {
            Operand::Reg(id) => Ok((Ref::Reg(id.0), width_of(self.registers[id.0 as usize].ty))),
            Operand::Sink => Ok((self.temporary(ty), width_of(ty))),
            other => Err(Refused::new(format!("{other:?} cannot be written"))),
        }
    }

    /// As [`Builder::any_dst`] for a source; a literal has the width of `ty`.
    pub fn any_src(&mut self, operand: &Operand, ty: Type) -> Result<(Ref, Width), Refused> {
        match operand {
            Operand::Reg(id) => Ok((Ref::Reg(id.0), width_of(self.registers[id.0 as usize].ty))),
            other => Ok((self.src(other, ty)?, width_of(ty))),
        }
    }
}

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
    let dynamic_base = no_better_aligned(at, dynamic_align.max(16));
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
                width: width_of(r.ty),
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
            let code = match control(
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
                    for (_, lower, _) in crate::lower::isa::FAMILIES {
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
        let effects: Vec<Effects> = drafts.iter().map(effects).collect();
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

/// What is known of branches, calls and ends, for the coverage table.
pub const COVERED: &[crate::lower::isa::Covered] = &[
    crate::lower::isa::Covered {
        opcode: "bra brx.idx",
        forms: "guarded and not, .uni",
        notes: "lanes that part meet at the branch's immediate post-dominator",
    },
    crate::lower::isa::Covered {
        opcode: "call ret exit trap brkpt",
        forms: "direct and indirect calls, recursion, .param arguments and results; vprintf and __assertfail",
        notes: "malloc and free are refused; brkpt is a trap",
    },
];

/// Branches, calls and ends.
fn control(
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
