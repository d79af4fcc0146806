//! Makes a launch's counters from its meters.

use std::collections::{BTreeMap, HashMap};

use super::{
    Barriers, ClassCount, Counters, Executed, Global, Line, Local, MatrixBlocks, MatrixCount, MbarrierWaits,
    Memory, Position, Requests, Shared, Site, Waves,
};
use crate::ir::{Async, Class, Inst, Kernel, Op};
use crate::ptx::ast::{Loc, Type};
use crate::run::check::places;
use crate::run::grid::Run;
use crate::run::meter::{Count, Meter};

/// Every class with its name.
const CLASSES: [(Class, &str); Class::COUNT] = [
    (Class::Integer, "integer"),
    (Class::Logic, "logic"),
    (Class::Compare, "compare"),
    (Class::Move, "move"),
    (Class::Convert, "convert"),
    (Class::Float16, "float16"),
    (Class::Float32, "float32"),
    (Class::Float64, "float64"),
    (Class::Special, "special"),
    (Class::Matrix, "matrix"),
    (Class::MatrixCopy, "matrix copy"),
    (Class::Control, "control"),
    (Class::LoadGlobal, "load global"),
    (Class::StoreGlobal, "store global"),
    (Class::LoadShared, "load shared"),
    (Class::StoreShared, "store shared"),
    (Class::LoadLocal, "load local"),
    (Class::StoreLocal, "store local"),
    (Class::LoadConst, "load const"),
    (Class::Atomic, "atomic"),
    (Class::AsyncCopy, "async copy"),
    (Class::Barrier, "barrier"),
    (Class::Fence, "fence"),
    (Class::Warp, "warp"),
    (Class::Other, "other"),
];

fn name(class: Class) -> &'static str {
    CLASSES
        .iter()
        .find(|(c, _)| *c == class)
        .expect("every class has a name")
        .1
}

fn type_name(ty: Type) -> String {
    format!("{ty:?}").to_lowercase()
}

impl From<&Count> for Executed {
    fn from(count: &Count) -> Self {
        Self {
            warps: count.issued,
            lanes: count.lanes,
            skipped: count.skipped,
        }
    }
}

impl Counters {
    /// Counters of a launch that has ended.
    pub fn new(run: &Run<'_>, meter: &Meter) -> Self {
        let kernel = run.kernel;
        let blocks = run.blocks();
        let threads: u64 = run.block.iter().map(|&n| u64::from(n)).product();
        let mut counters = Counters {
            kernel: kernel.name.to_string(),
            device: run.profile.key.to_owned(),
            launch: run.grid_id,
            grid: run.grid,
            block: run.block,
            static_shared: kernel.static_shared,
            dynamic_shared: run.dynamic_shared,
            blocks,
            warps: blocks * threads.div_ceil(32),
            barriers: Barriers {
                arrivals: meter.barriers,
                mbarrier_polls: 0,
                mbarriers: mbarriers(run, meter),
            },
            bulk: meter.bulk,
            local: Local {
                read_bytes: meter.local[0],
                written_bytes: meter.local[1],
            },
            matrix_blocks: matrix_blocks(kernel, &meter.counts),
            ..Counters::default()
        };
        let mut classes = [Executed::default(); Class::COUNT];
        let mut matrix = BTreeMap::<String, MatrixCount>::new();
        for (inst, count) in kernel.insts.iter().zip(&meter.counts) {
            let executed = Executed::from(count);
            classes[inst.class as usize].add(&executed);
            counters.instructions.add(&executed);
            if let Some(work) = inst.matrix
                && count.issued > count.skipped
            {
                let name = type_name(work.ty);
                let sum = matrix.entry(name.clone()).or_insert_with(|| MatrixCount {
                    ty: name,
                    ..MatrixCount::default()
                });
                sum.instructions += count.issued - count.skipped;
                sum.flops += (count.issued - count.skipped) * u64::from(work.flops);
            }
            if let Op::Async(what) = &inst.op
                && matches!(**what, Async::TestWait { .. })
            {
                counters.barriers.mbarrier_polls += count.issued - count.skipped;
            }
        }
        counters.matrix = matrix.into_values().collect();
        counters.classes = CLASSES
            .iter()
            .map(|&(class, name)| ClassCount {
                class: name.to_owned(),
                executed: classes[class as usize],
            })
            .filter(|count| count.executed.warps > 0)
            .collect();
        counters.memory = memory(run, meter);
        counters
    }
}

/// Waits at mbarriers, most of them first.
fn mbarriers(run: &Run<'_>, meter: &Meter) -> Vec<MbarrierWaits> {
    let mut waits: Vec<_> = meter
        .waits
        .iter()
        .map(|(&(offset, pc), &in_vain)| {
            let (at, kernel_at, _) = origin(run, &run.kernel.insts[pc as usize]);
            MbarrierWaits {
                offset,
                at,
                kernel_at,
                in_vain,
            }
        })
        .collect();
    waits.sort_by(|a, b| {
        let key = |w: &MbarrierWaits| {
            (
                std::cmp::Reverse(w.in_vain),
                w.offset,
                w.kernel_at.line,
                w.at.line,
            )
        };
        key(a).cmp(&key(b))
    });
    waits
}

/// The source line of an instruction, the kernel's own line that led there, and the inlined function between.
fn origin(run: &Run<'_>, inst: &Inst) -> (Position, Position, Option<String>) {
    let places = places(run.module, inst.loc);
    let position = |place: &crate::run::check::Place| Position {
        file: place.file.to_string(),
        line: place.line,
    };
    match (places.first(), places.last()) {
        (Some(first), Some(last)) => (
            position(first),
            position(last),
            first.function.as_ref().map(|name| name.to_string()),
        ),
        _ => {
            let at = Position {
                file: "PTX".to_owned(),
                line: inst.line,
            };
            (at.clone(), at, None)
        }
    }
}

/// Instructions around matrix instructions, by basic block.
fn matrix_blocks(kernel: &Kernel, counts: &[Count]) -> Option<MatrixBlocks> {
    if kernel.insts.iter().all(|inst| inst.matrix.is_none()) {
        return None;
    }
    let mut starts = vec![false; kernel.insts.len() + 1];
    kernel
        .functions
        .iter()
        .for_each(|function| starts[function.entry as usize] = true);
    for (pc, inst) in kernel.insts.iter().enumerate() {
        match &inst.op {
            Op::Branch { target, .. } => {
                starts[*target as usize] = true;
                starts[pc + 1] = true;
            }
            Op::BranchIndexed { targets, .. } => {
                targets.iter().for_each(|&target| starts[target as usize] = true);
                starts[pc + 1] = true;
            }
            Op::Return | Op::Exit | Op::Trap => starts[pc + 1] = true,
            _ => {}
        }
    }
    let mut sum = MatrixBlocks::default();
    let mut start = 0;
    for end in 1..=kernel.insts.len() {
        if end < kernel.insts.len() && !starts[end] {
            continue;
        }
        let all: u64 = counts[start..end].iter().map(|c| c.issued).sum();
        let matrix: u64 = (start..end)
            .filter(|&pc| kernel.insts[pc].matrix.is_some())
            .map(|pc| counts[pc].issued - counts[pc].skipped)
            .sum();
        if matrix > 0 {
            sum.warps += all;
            sum.matrix += matrix;
            if all > sum.hottest_warps {
                sum.hottest_warps = all;
                sum.hottest_matrix = matrix;
                sum.hottest_lines = [kernel.insts[start].line, kernel.insts[end - 1].line];
            }
        }
        start = end;
    }
    (sum.matrix > 0).then_some(sum)
}

fn memory(run: &Run<'_>, meter: &Meter) -> Option<Memory> {
    let counted = meter.memory.as_ref()?;
    let mut global = Global::default();
    let mut shared = Shared::default();
    let mut lines = Lines::default();
    let mut sites = Vec::new();
    for (pc, inst) in run.kernel.insts.iter().enumerate() {
        let executed = Executed::from(&meter.counts[pc]);
        if executed.warps == 0 {
            continue;
        }
        let (requests, waves) = (counted.requests[pc], counted.waves[pc]);
        let local_bytes = counted.local[pc];
        match inst.class {
            Class::Atomic => global.atomics.add(&requests),
            Class::AsyncCopy => global.copies.add(&requests),
            Class::StoreGlobal => global.stores.add(&requests),
            _ => global.loads.add(&requests),
        }
        match inst.class {
            Class::Atomic => shared.atomics.add(&waves),
            Class::AsyncCopy => shared.copies.add(&waves),
            Class::Matrix => shared.wgmma.add(&waves),
            Class::MatrixCopy => shared.matrix.add(&waves),
            // A generic store is one to global memory until its addresses are known.
            Class::StoreShared | Class::StoreGlobal => shared.stores.add(&waves),
            _ => shared.loads.add(&waves),
        }
        let index = lines.index(run, inst);
        let line = &mut lines.list[index];
        line.executed.add(&executed);
        line.global.add(&requests);
        line.shared.add(&waves);
        line.local_bytes += local_bytes;
        if requests != Requests::default() || waves != Waves::default() || local_bytes != 0 {
            sites.push(Site {
                ptx_line: inst.line,
                class: name(inst.class).to_owned(),
                line: index,
                executed,
                global: requests,
                shared: waves,
                local_bytes,
            });
        }
    }
    Some(Memory {
        global,
        dram: run.touched.total(),
        shared,
        lines: lines.list,
        sites,
    })
}

/// The source lines met so far.
#[derive(Default)]
struct Lines {
    list: Vec<Line>,
    by_position: HashMap<(Position, Position), usize>,
    by_location: HashMap<Loc, usize>,
}

impl Lines {
    /// The entry of an instruction's line.
    fn index(&mut self, run: &Run<'_>, inst: &Inst) -> usize {
        if let Some(loc) = inst.loc
            && let Some(&index) = self.by_location.get(&loc)
        {
            return index;
        }
        let (at, kernel_at, function) = origin(run, inst);
        let list = &mut self.list;
        let index = *self
            .by_position
            .entry((at.clone(), kernel_at.clone()))
            .or_insert_with(|| {
                list.push(Line {
                    at,
                    function,
                    kernel_at,
                    ..Line::default()
                });
                list.len() - 1
            });
        if let Some(loc) = inst.loc {
            self.by_location.insert(loc, index);
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_once_and_in_order() {
        for (index, (class, name)) in CLASSES.iter().enumerate() {
            assert_eq!(*class as usize, index, "{name}");
            assert_eq!(CLASSES.iter().filter(|(_, n)| n == name).count(), 1);
        }
    }
}
