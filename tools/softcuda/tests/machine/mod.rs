//! A bench for single instructions: registers of one warp, filled and read directly, and instructions built by
//! hand, lowered by the families and run one after the other without control flow.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use softcuda::ir::regs::{LANES, Regs, Slot, Width};
use softcuda::ir::{Code, Op, Ref, Special};
use softcuda::lower::isa;
use softcuda::lower::{Addresses, Builder, Constants, Refused, Virtual};
use softcuda::ptx::ast::{self, Instruction, Operand, RegId, Type};

/// Bytes between the slots: room for the widest.
const STRIDE: usize = 16 * LANES;
/// Slots of a machine.
const SLOTS: usize = 64;

#[repr(align(64))]
#[derive(Clone)]
struct Line([u8; 64]);

/// Bytes aligned as slots are.
struct Bytes(Vec<Line>);

impl Bytes {
    fn new(content: &[u8]) -> Self {
        let mut lines = vec![Line([0; 64]); content.len().div_ceil(64) + 1];
        for (line, chunk) in lines.iter_mut().zip(content.chunks(64)) {
            line.0[..chunk.len()].copy_from_slice(chunk);
        }
        Self(lines)
    }
    fn pointer(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
    fn slice(&mut self) -> &mut [u8] {
        // SAFETY: lines are plain bytes, one after the other.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), 64 * self.0.len()) }
    }
}

/// Addresses that a test can know: each variable at a place of its own.
pub struct Places;

/// The variable that lies in local memory.
pub const LOCAL: ast::VarId = ast::VarId(9);

impl Addresses for Places {
    fn module_variable(&self, index: u32) -> Result<u64, Refused> {
        Ok(0x7f00_0000_0000 + 256 * u64::from(index))
    }
    fn variable(&self, id: ast::VarId) -> Result<u64, Refused> {
        Ok(0x400 + 64 * u64::from(id.0))
    }
    fn is_local(&self, id: ast::VarId) -> bool {
        id.0 == LOCAL.0
    }
    fn function(&self, index: u32) -> Result<u64, Refused> {
        Ok(0x5_0000 + 16 * u64::from(index))
    }
}

/// One warp.
pub struct Machine {
    registers: Vec<ast::Register>,
    virtuals: Vec<Virtual>,
    constants: Constants,
    carry: Option<Ref>,
    window: Bytes,
    /// What `%cluster_ctarank` reads as.
    pub rank: u32,
    /// Special registers that were read.
    pub specials: Vec<Special>,
}

impl Machine {
    pub fn new(types: &[Type]) -> Self {
        Self {
            registers: types
                .iter()
                .enumerate()
                .map(|(i, &ty)| ast::Register {
                    name: Arc::from(format!("%v{i}")),
                    ty,
                })
                .collect(),
            virtuals: types
                .iter()
                .map(|&ty| Virtual {
                    width: Width::of(ty),
                    ty,
                })
                .collect(),
            constants: Constants::default(),
            carry: None,
            window: Bytes::new(&vec![0xa5; STRIDE * SLOTS]),
            rank: 0,
            specials: Vec::new(),
        }
    }

    fn place(&self, register: usize, lane: usize) -> (usize, usize) {
        let size = match self.virtuals[register].width {
            Width::Pred => 0,
            Width::W32 => 4,
            Width::W64 => 8,
            Width::W128 => 16,
        };
        (STRIDE * register + lane * size, size)
    }

    /// Writes one lane.
    pub fn set(&mut self, register: usize, lane: usize, value: u128) {
        let (at, size) = self.place(register, lane);
        let bytes = self.window.slice();
        if size == 0 {
            let bit = 1 << (lane % 8);
            let byte = &mut bytes[at + lane / 8];
            *byte = if value != 0 { *byte | bit } else { *byte & !bit };
        } else {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    /// Reads one lane: all bits of its slot.
    pub fn get(&mut self, register: usize, lane: usize) -> u128 {
        let (at, size) = self.place(register, lane);
        let bytes = self.window.slice();
        if size == 0 {
            return u128::from(bytes[at + lane / 8] >> (lane % 8) & 1);
        }
        let mut value = [0; 16];
        value[..size].copy_from_slice(&bytes[at..at + size]);
        u128::from_le_bytes(value)
    }

    /// Lowers an instruction and runs it in the lanes of `mask`.
    pub fn run(&mut self, instruction: &Instruction, mask: u32) -> Result<(), Refused> {
        self.repeat(instruction, mask, 1).map(drop)
    }

    /// The same any number of times; seconds for one.
    pub fn repeat(&mut self, instruction: &Instruction, mask: u32, times: u32) -> Result<f64, Refused> {
        let codes = self.lower(instruction)?;
        let mut seconds = 0.0;
        assert!(self.virtuals.len() <= SLOTS, "more slots than the bench has");
        let mut constants = Bytes::new(&self.constants.lay_out());
        // SAFETY: every virtual register has a slot in the window, and the constants' slots are theirs.
        let regs = unsafe { Regs::new(self.window.pointer(), constants.pointer()) };
        let last = codes.len() - 1;
        for (i, code) in codes.iter().enumerate() {
            // What stands before the instruction has no guard.
            let mask = if i == last { mask } else { u32::MAX };
            let slots: Vec<Slot> = code.dst.iter().chain(&code.src).map(|r| self.slot(r)).collect();
            match &code.op {
                Op::Alu(run) => {
                    let begin = Instant::now();
                    for _ in 0..times {
                        black_box(run)(regs, black_box(&slots), mask);
                    }
                    seconds += begin.elapsed().as_secs_f64() / f64::from(times);
                }
                Op::Special(special) => {
                    self.specials.push(*special);
                    let value = match special {
                        Special::ClusterCtaRank => self.rank,
                        _ => 0x5eed_0000,
                    };
                    let wide = [u64::from(value); LANES];
                    match code.dst[0] {
                        Ref::Reg(r) if self.virtuals[r as usize].width == Width::W64 => {
                            regs.set64(slots[0], &wide, mask);
                        }
                        _ => regs.set32(slots[0], &[value; LANES], mask),
                    }
                }
                _ => panic!("not a register instruction: {}", instruction.name()),
            }
        }
        // Temporaries end with their instruction; the carry flag stays.
        let kept = match self.carry {
            Some(Ref::Reg(flag)) => flag as usize + 1,
            _ => 0,
        };
        self.virtuals.truncate(kept.max(self.registers.len()));
        Ok(seconds)
    }

    /// The first family's answer.
    pub fn lower(&mut self, instruction: &Instruction) -> Result<Vec<Code>, Refused> {
        let module = ast::Module::default();
        let areas = HashMap::new();
        let mut builder = Builder {
            registers: &self.registers,
            addresses: &Places,
            virtuals: &mut self.virtuals,
            constants: &mut self.constants,
            areas: &areas,
            module: &module,
            carry: &mut self.carry,
            before: Vec::new(),
            after: Vec::new(),
        };
        for (_, lower, _) in isa::FAMILIES {
            if let Some(code) = lower(instruction, &mut builder)? {
                assert!(builder.after.is_empty());
                let mut codes: Vec<Code> = builder.before.into_iter().map(|(code, _)| code).collect();
                codes.push(code);
                return Ok(codes);
            }
        }
        Err(Refused::new(format!("no family knows `{}`", instruction.name())))
    }

    fn slot(&self, r: &Ref) -> Slot {
        match *r {
            Ref::Reg(r) => Slot((STRIDE * r as usize) as u32),
            Ref::Const(c) => self.constants.slot(c),
        }
    }
}

/// A builder of a function without registers.
pub fn with_builder<T>(f: impl FnOnce(&mut Builder<'_>) -> T) -> T {
    f(&mut Builder {
        registers: &[],
        addresses: &Places,
        virtuals: &mut Vec::new(),
        constants: &mut Constants::default(),
        areas: &HashMap::new(),
        module: &ast::Module::default(),
        carry: &mut None,
        before: Vec::new(),
        after: Vec::new(),
    })
}

/// `name` as written, `add.s32`, with operands.
pub fn instruction(name: &str, operands: Vec<Operand>) -> Instruction {
    let mut parts = name.split('.').map(Arc::from);
    Instruction {
        guard: None,
        opcode: parts.next().expect("an opcode"),
        modifiers: parts.collect(),
        operands,
        loc: None,
        line: 1,
    }
}

pub fn reg(index: usize) -> Operand {
    Operand::Reg(RegId(index as u32))
}

/// Seeded random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
