//! Executes a split of a warp, instruction by instruction.

use super::block::Block;
use super::check::{Check, Finding};
use super::warp::{Frame, LOCAL_LIMIT, Meet, Split, Wait, Warp};
use crate::ir::regs::{LANES, Regs, Slot};
use crate::ir::{Builtin, Call, Converge, Inst, LaneMask, Op, Special, Target};

/// Depth of calls that a thread may reach.
const MOST_FRAMES: usize = 4096;

/// What an instruction leaves its split to do.
pub(super) enum Next {
    /// Go on behind it.
    On,
    /// Go on behind it, after waiting.
    Wait(Wait),
}

/// An instruction at work: where, by whom, with which registers.
#[derive(Clone, Copy)]
pub(super) struct At<'k> {
    pub pc: u32,
    pub inst: &'k Inst,
    pub regs: Regs,
    pub ops: &'k [Slot],
    pub mask: u32,
    /// Frame of local memory.
    pub local: u32,
    /// Bytes of local memory that the frame and those before it have.
    pub local_end: u32,
    /// Register window, for areas.
    pub window: u32,
}

impl<'k> At<'k> {
    /// The i-th destination.
    pub fn dst(&self, i: usize) -> Slot {
        self.ops[i]
    }
    /// The i-th source.
    pub fn src(&self, i: usize) -> Slot {
        self.ops[self.inst.dst as usize + i]
    }
}

/// The lanes of a mask, in order.
#[inline]
pub(super) fn each(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

impl<'l> Block<'l> {
    /// Runs split `index` of a warp for up to `budget` instructions; returns how many it ran.
    pub(super) fn execute(
        &mut self,
        warp: &mut Warp,
        index: usize,
        budget: u32,
    ) -> Result<u32, Box<Finding>> {
        let kernel = self.run.kernel;
        let watched = kernel.uses_wgmma;
        let mut split = warp.splits.remove(index);
        let mut done = 0;
        let mut frame = *split.frames.last().expect("a frame");
        let mut regs = warp.regs(frame.window, &self.run.constants);
        loop {
            if done >= budget {
                split.wait = Wait::Ready;
                warp.splits.push(split);
                return Ok(done);
            }
            let pc = split.pc;
            let inst = &kernel.insts[pc as usize];
            if inst.joins
                && let Some(&meet) = split.meets.last()
                && warp.meets[meet as usize].pc == pc
                && warp.meets[meet as usize].depth == split.frames.len()
            {
                match self.arrive(warp, split) {
                    Some(joined) => {
                        split = joined;
                        continue;
                    }
                    None => return Ok(done),
                }
            }
            let mask = match inst.guard {
                None => split.mask,
                Some((slot, negated)) => {
                    let value = regs.pred(slot);
                    split.mask & if negated { !value } else { value }
                }
            };
            let first = inst.first as usize;
            let ops = &kernel.operands[first..first + inst.count as usize];
            done += 1;
            if watched {
                self.watch(warp, pc, ops, frame.window, mask);
            }
            if let Op::Alu(run) = inst.op
                && inst.converge == Converge::None
            {
                self.meter.count(pc, mask);
                if mask != 0 {
                    run(regs, ops, mask);
                }
                split.pc += 1;
                continue;
            }
            if mask == 0 {
                self.meter.count(pc, mask);
                split.pc += 1;
                continue;
            }
            if inst.converge != Converge::None {
                let need = self.need(warp, inst, regs, ops, mask, pc)? & warp.live;
                if need & !mask != 0 {
                    if mask != split.mask {
                        // Lanes that skip the instruction go their own way.
                        let mut rest = split.clone();
                        rest.mask &= !mask;
                        rest.pc += 1;
                        rest.wait = Wait::Ready;
                        warp.splits.push(rest);
                        split.mask = mask;
                    }
                    split.wait = Wait::Lanes { need, passed: 0 };
                    warp.splits.push(split);
                    Self::join_waiting(warp);
                    return Ok(done);
                }
            }
            self.meter.count(pc, mask);
            let at = At {
                pc,
                inst,
                regs,
                ops,
                mask,
                local: frame.local,
                local_end: frame.local + kernel.functions[frame.function as usize].local,
                window: frame.window,
            };
            let next = match &inst.op {
                Op::Alu(run) => {
                    run(regs, ops, mask);
                    Next::On
                }
                Op::Nop => Next::On,
                Op::Special(special) => {
                    self.special(warp, &at, *special);
                    Next::On
                }
                Op::Branch { target, meet } => {
                    if mask == split.mask {
                        split.pc = *target;
                    } else {
                        self.prepare_meet(warp, &mut split, *meet);
                        let mut taken = split.clone();
                        taken.mask = mask;
                        taken.pc = *target;
                        taken.wait = Wait::Ready;
                        warp.splits.push(taken);
                        split.mask &= !mask;
                        split.pc += 1;
                    }
                    continue;
                }
                Op::BranchIndexed { targets, meet } => {
                    let index = regs.get32(at.src(0));
                    if let Some(lane) = each(mask).find(|&l| index[l] as usize >= targets.len()) {
                        let message = format!(
                            "brx.idx has {} targets and was given index {}",
                            targets.len(),
                            index[lane]
                        );
                        return Err(self.finding(Check::Illegal, warp, pc, lane as u32, message));
                    }
                    let target = targets[index[mask.trailing_zeros() as usize] as usize];
                    let same = each(mask).all(|l| targets[index[l] as usize] == target);
                    if mask == split.mask && same {
                        split.pc = target;
                        continue;
                    }
                    self.prepare_meet(warp, &mut split, *meet);
                    let mut rest = mask;
                    while rest != 0 {
                        let target = targets[index[rest.trailing_zeros() as usize] as usize];
                        let lanes = each(rest)
                            .filter(|&l| targets[index[l] as usize] == target)
                            .fold(0, |m, l| m | 1 << l);
                        let mut taken = split.clone();
                        taken.mask = lanes;
                        taken.pc = target;
                        taken.wait = Wait::Ready;
                        warp.splits.push(taken);
                        rest &= !lanes;
                    }
                    split.mask &= !mask;
                    if split.mask == 0 {
                        return Ok(done);
                    }
                    split.pc += 1;
                    continue;
                }
                Op::Call(call) => {
                    if let Target::Builtin(builtin) = call.target {
                        self.builtin(warp, &at, call, builtin)?;
                        split.pc += 1;
                        continue;
                    }
                    if mask != split.mask {
                        // Lanes that do not call go on alone as far as the return.
                        self.prepare_meet(warp, &mut split, Some(pc + 1));
                        let mut rest = split.clone();
                        rest.mask &= !mask;
                        rest.pc += 1;
                        rest.wait = Wait::Ready;
                        warp.splits.push(rest);
                        split.mask = mask;
                    }
                    self.call(warp, &mut split, &at, call)?;
                    frame = *split.frames.last().expect("a frame");
                    regs = warp.regs(frame.window, &self.run.constants);
                    continue;
                }
                Op::Return => {
                    if mask != split.mask {
                        let mut rest = split.clone();
                        rest.mask &= !mask;
                        rest.pc += 1;
                        rest.wait = Wait::Ready;
                        warp.splits.push(rest);
                        split.mask = mask;
                    }
                    self.give_back(warp, &mut split, mask);
                    frame = *split.frames.last().expect("a frame");
                    regs = warp.regs(frame.window, &self.run.constants);
                    continue;
                }
                Op::Exit => {
                    split.mask &= !mask;
                    split.pc += 1;
                    let ended = split.mask == 0;
                    if !ended {
                        // Held with the others while barriers and meeting points are looked after.
                        warp.splits.push(split);
                    }
                    self.exit_lanes(warp, mask)?;
                    if ended {
                        return Ok(done);
                    }
                    let held = warp
                        .splits
                        .iter()
                        .position(|s| s.wait == Wait::Ready && s.pc == pc + 1)
                        .expect("it was put there");
                    split = warp.splits.remove(held);
                    frame = *split.frames.last().expect("a frame");
                    regs = warp.regs(frame.window, &self.run.constants);
                    continue;
                }
                Op::Trap => {
                    let message = "the kernel executed a trap".to_owned();
                    return Err(self.finding(Check::Trap, warp, pc, mask.trailing_zeros(), message));
                }
                Op::Load(access) => {
                    self.load(warp, &at, access)?;
                    Next::On
                }
                Op::Store(access) => {
                    self.store(warp, &at, access)?;
                    Next::On
                }
                Op::Atomic(atomic) => {
                    self.atomic(warp, &at, atomic)?;
                    Next::On
                }
                Op::Sync(sync) => self.synchronise(warp, &at, sync, split.mask)?,
                Op::Async(what) => self.asynchronous(warp, &at, what)?,
                Op::Matrix(copy) => {
                    self.matrix_copy(warp, &at, copy)?;
                    Next::On
                }
                Op::Bulk(bulk) => {
                    self.bulk(warp, &at, bulk)?;
                    Next::On
                }
                Op::WarpGroup(what) => match self.warpgroup(warp, &at, what)? {
                    true => Next::On,
                    false => {
                        // Once more, when others have had their turn. The whole warp is here.
                        split.wait = Wait::Poll { mbarrier: None };
                        warp.splits.push(split);
                        return Ok(done);
                    }
                },
            };
            match next {
                Next::On => split.pc += 1,
                Next::Wait(wait) => {
                    if mask != split.mask {
                        let mut rest = split.clone();
                        rest.mask &= !mask;
                        rest.pc += 1;
                        rest.wait = Wait::Ready;
                        warp.splits.push(rest);
                        split.mask = mask;
                    }
                    split.pc += 1;
                    split.wait = wait;
                    warp.splits.push(split);
                    return Ok(done);
                }
            }
        }
    }

    /// Which lanes must execute this instruction together with those of `mask`.
    fn need(
        &self,
        warp: &Warp,
        inst: &Inst,
        regs: Regs,
        ops: &[Slot],
        mask: u32,
        pc: u32,
    ) -> Result<u32, Box<Finding>> {
        match inst.converge {
            Converge::None => Ok(mask),
            Converge::Warp => Ok(warp.live),
            Converge::Members(operand) => {
                let members = regs.get32(ops[operand]);
                let mut need = 0;
                for lane in each(mask) {
                    if members[lane] >> lane & 1 == 0 {
                        let message = format!(
                            "lane {lane} executes a .sync instruction with the mask {:#010x}, in which it is not",
                            members[lane]
                        );
                        return Err(self.finding(Check::SyncMask, warp, pc, lane as u32, message));
                    }
                    need |= members[lane];
                }
                Ok(need)
            }
        }
    }

    /// The lanes of a split are about to part: they meet again at `meet`.
    fn prepare_meet(&mut self, warp: &mut Warp, split: &mut Split, meet: Option<u32>) {
        let Some(pc) = meet else { return };
        let depth = split.frames.len();
        if let Some(&top) = split.meets.last()
            && warp.meets[top as usize].pc == pc
            && warp.meets[top as usize].depth == depth
        {
            return;
        }
        let index = warp.new_meet(Meet {
            pc,
            depth,
            expected: split.mask,
            arrived: 0,
            waiting: None,
            used: true,
        });
        split.meets.push(index);
    }

    fn call(
        &mut self,
        warp: &mut Warp,
        split: &mut Split,
        at: &At<'_>,
        call: &Call,
    ) -> Result<(), Box<Finding>> {
        let kernel = self.run.kernel;
        let index = match call.target {
            Target::Direct(index) => index,
            Target::Indirect => {
                let address = at.regs.get64(at.src(0));
                let first = at.mask.trailing_zeros() as usize;
                if let Some(lane) = each(at.mask).find(|&l| address[l] != address[first]) {
                    // One target at a time; the others call when it is their turn.
                    let mut rest = split.clone();
                    rest.mask = each(at.mask)
                        .filter(|&l| address[l] != address[first])
                        .fold(0, |m, l| m | 1 << l);
                    rest.wait = Wait::Ready;
                    debug_assert!(rest.mask >> lane & 1 != 0);
                    self.prepare_meet(warp, split, Some(at.pc + 1));
                    rest.meets.clone_from(&split.meets);
                    split.mask &= !rest.mask;
                    warp.splits.push(rest);
                }
                match kernel.function_index.get(&address[first]) {
                    Some(&index) => index,
                    None => {
                        let message = format!("a call to {:#x}, where no function is", address[first]);
                        return Err(self.finding(Check::Illegal, warp, at.pc, first as u32, message));
                    }
                }
            }
            Target::Builtin(_) => unreachable!("not a function"),
        };
        self.prepare_meet(warp, split, Some(at.pc + 1));
        let caller = *split.frames.last().expect("a frame");
        let callee = &kernel.functions[index as usize];
        let window = caller.window + kernel.functions[caller.function as usize].window;
        let local = caller.local + kernel.functions[caller.function as usize].local;
        if split.frames.len() >= MOST_FRAMES || local + callee.local > LOCAL_LIMIT {
            let message = format!(
                "the stack is full: {} calls inside each other",
                split.frames.len()
            );
            return Err(self.finding(Check::Illegal, warp, at.pc, split.mask.trailing_zeros(), message));
        }
        warp.registers.grow((window + callee.window) as usize);
        warp.ensure_local(local + callee.local);
        if call.arguments.len() != callee.params.len() || call.results.len() != callee.returns.len() {
            let message = format!("`{}` is called with other parameters than it has", callee.name);
            return Err(self.finding(Check::Illegal, warp, at.pc, split.mask.trailing_zeros(), message));
        }
        for (&from, &to) in call.arguments.iter().zip(&callee.params) {
            copy_areas(warp, caller.window, from, window, to, split.mask);
        }
        split.frames.push(Frame {
            function: index,
            window,
            local,
            return_pc: at.pc + 1,
            call_pc: at.pc,
        });
        split.pc = callee.entry;
        Ok(())
    }

    /// Leaves a function: its results go to the caller.
    fn give_back(&mut self, warp: &mut Warp, split: &mut Split, mask: u32) {
        let kernel = self.run.kernel;
        let callee = split.frames.pop().expect("a frame");
        let caller = *split.frames.last().expect("a device function has a caller");
        let Op::Call(call) = &kernel.insts[callee.call_pc as usize].op else {
            unreachable!("frames are made by calls")
        };
        let returns = &kernel.functions[callee.function as usize].returns;
        for (&from, &to) in returns.iter().zip(&call.results) {
            copy_areas(warp, callee.window, from, caller.window, to, mask);
        }
        split.pc = callee.return_pc;
    }

    fn builtin(
        &mut self,
        warp: &mut Warp,
        at: &At<'_>,
        call: &Call,
        builtin: Builtin,
    ) -> Result<(), Box<Finding>> {
        // Areas are read lane by lane, as the 64-bit and 32-bit arguments that they are.
        let argument = |warp: &Warp, i: usize, lane: usize| -> u64 {
            let Some(&(offset, bytes)) = call.arguments.get(i) else {
                return 0;
            };
            let start = at.window as usize + offset as usize + lane * bytes as usize;
            u64::from_le_bytes(
                warp.registers.as_ref()[start..start + 8]
                    .try_into()
                    .expect("8 bytes"),
            )
        };
        for lane in each(at.mask) {
            let result: u32 = match builtin {
                Builtin::Printf => {
                    let (format, values) = (argument(warp, 0, lane), argument(warp, 1, lane));
                    let text = super::printf::format(
                        |address, bytes| self.peek(warp, lane, address, bytes),
                        format,
                        values,
                    );
                    let count = text.as_ref().map_or(u32::MAX, |(_, n)| *n);
                    if let Some((text, _)) = text {
                        let mut output = self.run.output.lock().unwrap_or_else(|e| e.into_inner());
                        output.extend_from_slice(&text);
                    }
                    count
                }
                Builtin::AssertFail => {
                    let text = |i| {
                        let bytes = super::printf::string(
                            |address, bytes| self.peek(warp, lane, address, bytes),
                            argument(warp, i, lane),
                        );
                        String::from_utf8_lossy(&bytes).into_owned()
                    };
                    let message = format!(
                        "assertion `{}` failed ({}:{} in {})",
                        text(0),
                        text(1),
                        argument(warp, 2, lane) as u32,
                        text(3)
                    );
                    return Err(self.finding(Check::Assert, warp, at.pc, lane as u32, message));
                }
                Builtin::Malloc | Builtin::Free => {
                    let message = "the device heap (malloc, free, new, delete) is not supported".to_owned();
                    return Err(self.finding(Check::Illegal, warp, at.pc, lane as u32, message));
                }
            };
            if let Some(&(offset, bytes)) = call.results.first() {
                let start = at.window as usize + offset as usize + lane * bytes as usize;
                warp.registers.as_mut()[start..start + 4].copy_from_slice(&result.to_le_bytes());
            }
        }
        Ok(())
    }

    fn special(&mut self, warp: &Warp, at: &At<'_>, special: Special) {
        let run = self.run;
        let block = run.block;
        let wide = matches!(
            special,
            Special::Clock64
                | Special::GlobalTimer
                | Special::GridId
                | Special::LocalFrame { wide: true, .. }
        );
        let timer = || run.timer(self.executed);
        let mut by_lane = [0u64; LANES];
        let same: u64 = match special {
            Special::Tid(axis) => {
                for (lane, value) in by_lane.iter_mut().enumerate() {
                    *value = warp.tid[axis as usize][lane].into();
                }
                return self.set_special(at, &by_lane, wide);
            }
            Special::LaneId => {
                for (lane, value) in by_lane.iter_mut().enumerate() {
                    *value = lane as u64;
                }
                return self.set_special(at, &by_lane, wide);
            }
            Special::LaneMask(which) => {
                for (lane, value) in by_lane.iter_mut().enumerate() {
                    let eq = 1u32 << lane;
                    let lt = eq - 1;
                    *value = u64::from(match which {
                        LaneMask::Eq => eq,
                        LaneMask::Lt => lt,
                        LaneMask::Le => lt | eq,
                        LaneMask::Gt => !(lt | eq),
                        LaneMask::Ge => !lt,
                    });
                }
                return self.set_special(at, &by_lane, wide);
            }
            Special::Ntid(axis) => block[axis as usize].into(),
            Special::Ctaid(axis) => self.id[axis as usize].into(),
            Special::Nctaid(axis) => run.grid[axis as usize].into(),
            Special::WarpId => warp.index as u64,
            Special::NumWarps => self.warps.len() as u64,
            Special::SmId => self.linear % u64::from(run.profile.multiprocessors),
            Special::NumSms => run.profile.multiprocessors.into(),
            Special::GridId => run.grid_id,
            Special::Clock32 => self.executed & 0xffff_ffff,
            Special::Clock64 => self.executed,
            Special::ClockHi => self.executed >> 32,
            Special::GlobalTimer => timer(),
            Special::GlobalTimerLo => timer() & 0xffff_ffff,
            Special::GlobalTimerHi => timer() >> 32,
            Special::DynamicSharedSize => run.dynamic_shared.into(),
            Special::TotalSharedSize | Special::AggregateSharedSize => run.shared_bytes.into(),
            Special::ReservedShared(offset) => offset.into(),
            Special::ClusterId(axis) => (self.id[axis as usize] / run.cluster[axis as usize]).into(),
            Special::NumClusters(axis) => (run.grid[axis as usize] / run.cluster[axis as usize]).into(),
            Special::ClusterCtaId(axis) => (self.id[axis as usize] % run.cluster[axis as usize]).into(),
            Special::ClusterCtaRank => self.member.rank.into(),
            Special::IsExplicitCluster => {
                let explicit = if run.cluster_blocks() > 1 { u32::MAX } else { 0 };
                return at.regs.set_pred(at.dst(0), explicit, at.mask);
            }
            Special::ClusterNumCtas(axis) => run.cluster[axis as usize].into(),
            Special::ClusterNumCtaRank => run.cluster_blocks().into(),
            Special::ActiveMask => at.mask.into(),
            Special::LocalFrame { offset, .. } => u64::from(at.local + offset),
            Special::Workspace { high: true } => run.workspace >> 32,
            Special::Workspace { high: false } => run.workspace & 0xffff_ffff,
        };
        self.set_special(at, &[same; LANES], wide);
    }

    fn set_special(&self, at: &At<'_>, value: &[u64; LANES], wide: bool) {
        // `mov.u64 %rd, %clock64`, `mov.u32 %r, %tid.x`: the lowering gave the destination the register's width,
        // and 32-bit specials go to 32-bit registers.
        if wide {
            at.regs.set64(at.dst(0), value, at.mask);
        } else {
            at.regs.set32(at.dst(0), &value.map(|v| v as u32), at.mask);
        }
    }
}

/// Copies parameter areas (offset, bytes per thread) between windows for the lanes of `mask`.
fn copy_areas(
    warp: &mut Warp,
    from_window: u32,
    from: (u32, u32),
    to_window: u32,
    to: (u32, u32),
    mask: u32,
) {
    let bytes = from.1.min(to.1) as usize;
    for lane in each(mask) {
        let source = (from_window + from.0) as usize + lane * from.1 as usize;
        let target = (to_window + to.0) as usize + lane * to.1 as usize;
        warp.registers
            .as_mut()
            .copy_within(source..source + bytes, target);
    }
}
