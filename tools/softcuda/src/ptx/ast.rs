//! PTX as parsed: names resolved, nothing interpreted yet.
//!
//! The parser flattens the nested scopes of a function body: every register, variable and label of every scope
//! has an index of its own in the function's tables, and operands refer to these indices. What an opcode and
//! its modifiers mean is for [`crate::lower::isa`] to say.

use std::sync::Arc;

/// One PTX module: a translation unit as nvcc, Triton or a hand-written file has it.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// PTX ISA version, `(9, 0)` for `.version 9.0`.
    pub version: (u32, u32),
    /// `.target`, first name: `sm_80`, `sm_90a`.
    pub target: String,
    /// Module-scope variables: `.global`, `.const`, `.shared`.
    pub variables: Vec<Variable>,
    /// Functions and entries, declarations (`body: None`) among them.
    pub functions: Vec<Function>,
    /// Every source position that an instruction refers to by [`Loc`].
    pub locations: Vec<Location>,
    /// `.file` table: index as in the text to path.
    pub files: Vec<(u32, Arc<str>)>,
}

/// Index into [`Module::locations`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc(pub u32);

/// A source position from `.loc`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// The file's number in [`Module::files`].
    pub file: u32,
    pub line: u32,
    pub column: u32,
    /// The inlined function's name, where `.loc … function_name` gives one (resolved from `.debug_str`).
    pub function: Option<Arc<str>>,
    /// The call site, for a position inside an inlined function. Following it to the end leads to the kernel's
    /// own line.
    pub inlined_at: Option<Loc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// `.entry`
    Kernel,
    /// `.func`
    Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Linkage {
    #[default]
    Internal,
    Visible,
    Extern,
    Weak,
    Common,
}

#[derive(Debug, Clone)]
pub struct Function {
    pub kind: FunctionKind,
    pub linkage: Linkage,
    pub name: Arc<str>,
    /// Return parameters of a device function, as indices into `variables`.
    pub returns: Vec<VarId>,
    /// Parameters in order, as indices into `variables` (space [`Space::Param`]) — or, in hand-written PTX,
    /// `.reg` parameters, which the parser refuses with a clear error.
    pub params: Vec<VarId>,
    pub limits: Limits,
    pub noreturn: bool,
    /// `None` for a declaration.
    pub body: Option<Body>,
    /// Variables declared in the signature and in the body, of every scope. Spaces: param, local, shared.
    pub variables: Vec<Variable>,
    /// Line of the PTX text where the function begins, from 1.
    pub line: u32,
}

/// Performance-tuning and cluster directives of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// `.maxntid`: most threads per block, x, y, z (1 where not given).
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid`: the block's exact shape.
    pub required_threads: Option<[u32; 3]>,
    pub min_blocks_per_sm: Option<u32>,
    pub max_registers: Option<u32>,
    /// `.reqnctapercluster`, `.explicitcluster`, `.maxclusterrank`.
    pub required_cluster: Option<[u32; 3]>,
    pub explicit_cluster: bool,
    pub max_cluster_rank: Option<u32>,
}

/// Index into [`Body::registers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);
/// Index into [`Function::variables`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VarId(pub u32);
/// Index into [`Body::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

#[derive(Debug, Clone, Default)]
pub struct Body {
    pub registers: Vec<Register>,
    /// Where each label points: the index in `instructions` of the instruction after it (its length at the end).
    pub labels: Vec<Label>,
    pub instructions: Vec<Instruction>,
    /// `.branchtargets` lists by the label they carry: `brx.idx` names one.
    pub branch_targets: Vec<(Arc<str>, Vec<LabelId>)>,
    /// `.callprototype` / `.calltargets` by label: return and parameter sizes for indirect calls.
    pub prototypes: Vec<Prototype>,
}

#[derive(Debug, Clone)]
pub struct Prototype {
    pub name: Arc<str>,
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
    pub noreturn: bool,
}

#[derive(Debug, Clone)]
pub struct Register {
    /// As written, for messages: `%r12`.
    pub name: Arc<str>,
    pub ty: Type,
}

#[derive(Debug, Clone)]
pub struct Label {
    pub name: Arc<str>,
    pub target: usize,
}

/// The fundamental types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    BF16,
    BF16x2,
    TF32,
    E4M3,
    E5M2,
    E4M3x2,
    E5M2x2,
    F32,
    F32x2,
    F64,
    U16x2,
    S16x2,
}

impl Type {
    /// Size in bytes (a predicate counts as 1).
    pub const fn size(self) -> usize {
        use Type::*;
        match self {
            Pred | B8 | U8 | S8 | E4M3 | E5M2 => 1,
            B16 | U16 | S16 | F16 | BF16 | E4M3x2 | E5M2x2 => 2,
            B32 | U32 | S32 | F16x2 | BF16x2 | TF32 | F32 | U16x2 | S16x2 => 4,
            B64 | U64 | S64 | F64 | F32x2 => 8,
            B128 => 16,
        }
    }

    pub const fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64 | Type::S16x2)
    }

    pub const fn is_float(self) -> bool {
        use Type::*;
        matches!(
            self,
            F16 | F16x2 | BF16 | BF16x2 | TF32 | E4M3 | E5M2 | E4M3x2 | E5M2x2 | F32 | F32x2 | F64
        )
    }

    /// The type that a modifier such as `s32` names.
    pub fn parse(name: &str) -> Option<Type> {
        use Type::*;
        Some(match name {
            "pred" => Pred,
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => BF16,
            "bf16x2" => BF16x2,
            "tf32" => TF32,
            "e4m3" => E4M3,
            "e5m2" => E5M2,
            "e4m3x2" => E4M3x2,
            "e5m2x2" => E5M2x2,
            "f32" => F32,
            "f32x2" => F32x2,
            "f64" => F64,
            "u16x2" => U16x2,
            "s16x2" => S16x2,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    /// Kernel parameters (read-only, one copy per launch) and the parameters of device functions (per thread).
    Param,
}

#[derive(Debug, Clone)]
pub struct Variable {
    pub name: Arc<str>,
    pub space: Space,
    pub ty: Type,
    /// Bytes in all; 0 for an `extern` array without a length (dynamic shared memory).
    pub size: usize,
    /// Declared alignment in bytes, or the type's own.
    pub align: usize,
    pub linkage: Linkage,
    /// Initial bytes (`size` of them) and addresses to put into them; empty means zero.
    pub init: Vec<u8>,
    pub relocations: Vec<Relocation>,
}

/// An initialiser that is an address: `.global .u64 p = other+8;`, `= generic(x)`.
#[derive(Debug, Clone)]
pub struct Relocation {
    /// Byte offset in the variable.
    pub at: usize,
    /// Bytes to write: 8, or 4 (or 1 with `mask(…)`, which the parser may refuse).
    pub size: usize,
    pub symbol: Arc<str>,
    pub addend: i64,
    pub generic: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Reg(RegId),
    /// `!%p1` as a source predicate.
    NotReg(RegId),
    /// Integer literal, two's complement.
    Int(i64),
    /// `0f3F800000`
    F32(u32),
    /// `0d3FF0000000000000`, or a decimal literal such as `1.5`.
    F64(u64),
    /// `%tid.x`, `%laneid`, `%clock64`, `WARP_SZ`: without the percent sign.
    Special(Arc<str>),
    /// A variable of this function (param, local, shared) as a value: its address plus an offset.
    Variable(VarId, i64),
    /// A module-scope variable as a value: index into [`Module::variables`], and an offset.
    Global(u32, i64),
    /// A function's name (call target, or its address taken): index into [`Module::functions`].
    Function(u32),
    Label(LabelId),
    /// `.branchtargets`, `.callprototype` and `.calltargets` labels.
    Named(Arc<str>),
    /// `[…]`
    Address(Address),
    /// `{a, b, …}`
    Vector(Vec<Operand>),
    /// `(a, b, …)`: the return or parameter list of a call.
    List(Vec<Operand>),
    /// `_`
    Sink,
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
}

/// What stands in brackets: a base plus a constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    pub base: Base,
    pub offset: i64,
    /// Further elements, as in a tensor's coordinates `[map, {x, y}]`.
    pub more: Vec<Operand>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    Reg(RegId),
    Variable(VarId),
    Global(u32),
    /// An absolute address; it is in `offset`.
    Absolute,
}

#[derive(Debug, Clone)]
pub struct Instruction {
    /// `@%p` or `@!%p`.
    pub guard: Option<Guard>,
    /// `ld`, `mad`, `cp`: what stands before the first dot.
    pub opcode: Arc<str>,
    /// The rest, without dots: `["global", "nc", "L2::128B", "v4", "f32"]`.
    pub modifiers: Vec<Arc<str>>,
    pub operands: Vec<Operand>,
    pub loc: Option<Loc>,
    /// Line of the PTX text, from 1.
    pub line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    pub reg: RegId,
    pub negated: bool,
}

impl Instruction {
    /// The instruction's name as written: `ld.global.nc.v4.f32`.
    pub fn name(&self) -> String {
        let mut name = self.opcode.to_string();
        for modifier in &self.modifiers {
            name.push('.');
            name.push_str(modifier);
        }
        name
    }

    /// Whether a modifier is there.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|m| &**m == modifier)
    }

    /// The types among the modifiers, in order.
    pub fn types(&self) -> impl DoubleEndedIterator<Item = Type> + '_ {
        self.modifiers.iter().filter_map(|m| Type::parse(m))
    }
}
