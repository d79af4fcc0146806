//! The barrier protocols of warp-specialised kernels, searched: every order in which their roles and their asynchronous
//! copies can go on.
//!
//! A kernel is a few roles, each a list of [`Op`]s: what its loops do, unrolled for a few blocks of data. The search finds a
//! state where nothing can go on, a stage that is filled while it is read or before it was, and one that is read while it is
//! filled or holds another block. It visits every reachable state once, so what it does not find does not happen, as far
//! as the lists are what the kernel does.

use std::collections::{BTreeSet, HashSet};

/// What a role does. Barriers and stages are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Waits until the barrier's phase of this parity has ended.
    Wait { barrier: usize, parity: u8 },
    /// Arrives at a barrier.
    Arrive { barrier: usize },
    /// Starts a copy of `block` to a stage, and lets the barrier's phase wait for it.
    Fill { stage: usize, barrier: usize, block: u8 },
    /// Fills a stage with `block` by the role's own writes.
    Write { stage: usize, block: u8 },
    /// Starts to read `block` in a stage. The stage counts as read up to `Finish`: that an asynchronous product may end
    /// sooner allows nothing that is not found so.
    Read { stage: usize, block: u8 },
    /// Has read the stage.
    Finish { stage: usize },
}

/// A kernel: its roles, and how many arrivals each barrier's phases take.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub roles: Vec<Vec<Op>>,
    pub arrivals: Vec<u8>,
    pub stages: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The next op of each role.
    at: Vec<usize>,
    /// The parity of each barrier's phase, its missing arrivals and its copies.
    barriers: Vec<(u8, u8, u8)>,
    /// What each stage holds, if nothing copies to it.
    holds: Vec<Option<u8>>,
    /// Copies under way: stage, barrier, block.
    copies: BTreeSet<(usize, usize, u8)>,
    /// Reads under way: role, stage.
    reads: BTreeSet<(usize, usize)>,
}

impl State {
    fn may_be_filled(&self, stage: usize, block: u8) -> Result<(), String> {
        if self.reads.iter().any(|&(_, read)| read == stage) {
            return Err(format!("stage {stage} is filled with {block} while it is read"));
        }
        if self.copies.iter().any(|&(filled, ..)| filled == stage) {
            return Err(format!("stage {stage} is filled with {block} while it is filled"));
        }
        Ok(())
    }
}

impl Protocol {
    /// Searches all orders. The number of states, or the first fault with the roles' places.
    pub fn search(&self) -> Result<usize, String> {
        let first = State {
            at: vec![0; self.roles.len()],
            barriers: self.arrivals.iter().map(|&count| (0, count, 0)).collect(),
            holds: vec![None; self.stages],
            copies: BTreeSet::new(),
            reads: BTreeSet::new(),
        };
        let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
        while let Some(state) = open.pop() {
            let fault = |what: String| format!("{what}, with the roles at {:?}", state.at);
            let next = self.next(&state).map_err(fault)?;
            let over = (0..self.roles.len()).all(|role| state.at[role] == self.roles[role].len());
            if next.is_empty() && !(over && state.copies.is_empty()) {
                return Err(fault("no role can go on".into()));
            }
            open.extend(next.into_iter().filter(|next| seen.insert(next.clone())));
        }
        Ok(seen.len())
    }

    /// The states that can follow: one role goes on, or a copy ends.
    fn next(&self, state: &State) -> Result<Vec<State>, String> {
        let mut next = Vec::new();
        for (role, ops) in self.roles.iter().enumerate() {
            if let Some(&op) = ops.get(state.at[role])
                && let Some(mut after) = self.step(state, role, op)?
            {
                after.at[role] += 1;
                next.push(after);
            }
        }
        for &copy in &state.copies {
            let (stage, barrier, block) = copy;
            let mut after = state.clone();
            after.copies.remove(&copy);
            after.holds[stage] = Some(block);
            after.barriers[barrier].2 -= 1;
            self.end_phase(&mut after, barrier);
            next.push(after);
        }
        Ok(next)
    }

    /// What the op of a role leads to; `None` if it has to wait.
    fn step(&self, state: &State, role: usize, op: Op) -> Result<Option<State>, String> {
        let mut after = state.clone();
        match op {
            Op::Wait { barrier, parity } => return Ok((state.barriers[barrier].0 != parity).then_some(after)),
            Op::Arrive { barrier } => {
                let missing = &mut after.barriers[barrier].1;
                *missing = missing
                    .checked_sub(1)
                    .ok_or_else(|| format!("one arrival too many at barrier {barrier}"))?;
                self.end_phase(&mut after, barrier);
            }
            Op::Fill {
                stage,
                barrier,
                block,
            } => {
                state.may_be_filled(stage, block)?;
                after.holds[stage] = None;
                after.copies.insert((stage, barrier, block));
                after.barriers[barrier].2 += 1;
            }
            Op::Write { stage, block } => {
                state.may_be_filled(stage, block)?;
                after.holds[stage] = Some(block);
            }
            Op::Read { stage, block } => {
                if state.holds[stage] != Some(block) {
                    let holds = state.holds[stage];
                    return Err(format!("stage {stage} is read for {block} and holds {holds:?}"));
                }
                after.reads.insert((role, stage));
            }
            Op::Finish { stage } => {
                after.reads.remove(&(role, stage));
            }
        }
        Ok(Some(after))
    }

    fn end_phase(&self, state: &mut State, barrier: usize) {
        let (parity, missing, copies) = &mut state.barriers[barrier];
        if (*missing, *copies) == (0, 0) {
            (*parity, *missing) = (*parity ^ 1, self.arrivals[barrier]);
        }
    }
}

/// A ring of stages: of each a barrier `full`, then of each one `empty`. The blocks go around it in order.
#[derive(Clone, Copy)]
pub struct Ring(pub usize);

impl Ring {
    fn place(self, block: usize) -> (usize, u8) {
        (block % self.0, (block / self.0 % 2) as u8)
    }

    pub fn await_empty(self, block: usize) -> Op {
        let (stage, parity) = self.place(block);
        Op::Wait {
            barrier: self.0 + stage,
            parity: parity ^ 1,
        }
    }

    pub fn await_full(self, block: usize) -> Op {
        let (barrier, parity) = self.place(block);
        Op::Wait { barrier, parity }
    }

    /// A copy to the block's stage, which its barrier `full` waits for.
    pub fn fill(self, block: usize) -> Op {
        let (stage, _) = self.place(block);
        Op::Fill {
            stage,
            barrier: stage,
            block: block as u8,
        }
    }

    pub fn write(self, block: usize) -> Op {
        Op::Write {
            stage: self.place(block).0,
            block: block as u8,
        }
    }

    pub fn arrive_full(self, block: usize) -> Op {
        Op::Arrive {
            barrier: self.place(block).0,
        }
    }

    pub fn read(self, block: usize) -> Op {
        Op::Read {
            stage: self.place(block).0,
            block: block as u8,
        }
    }

    /// Ends a read and gives the stage back.
    pub fn release(self, block: usize) -> [Op; 2] {
        let (stage, _) = self.place(block);
        [
            Op::Finish { stage },
            Op::Arrive {
                barrier: self.0 + stage,
            },
        ]
    }

    /// Of arrivals at `full` and at `empty`.
    pub fn protocol(self, roles: Vec<Vec<Op>>, fillers: u8, readers: u8) -> Protocol {
        Protocol {
            roles,
            arrivals: [vec![fillers; self.0], vec![readers; self.0]].concat(),
            stages: self.0,
        }
    }
}

/// The protocol of `cuda/sm90/gemm.cuh`, with this many k-blocks, over all tiles of a block: a role copies, and one stands
/// for each warpgroup that multiplies. `tile` are the k-blocks of a tile, behind which no product is left under way.
fn gemm(stages: usize, blocks: usize, tile: usize, warpgroups: usize) -> Protocol {
    let ring = Ring(stages);
    let copies =
        (0..blocks).flat_map(|block| [ring.await_empty(block), ring.fill(block), ring.arrive_full(block)]);
    let mut multiplies = Vec::new();
    for block in 0..blocks {
        multiplies.extend([ring.await_full(block), ring.read(block)]);
        if !block.is_multiple_of(tile) {
            multiplies.extend(ring.release(block - 1));
        }
        if (block + 1).is_multiple_of(tile) || block + 1 == blocks {
            multiplies.extend(ring.release(block));
        }
    }
    let mut roles = vec![copies.collect()];
    roles.extend(vec![multiplies; warpgroups]);
    ring.protocol(roles, 1, warpgroups as u8)
}

#[test]
fn the_pipeline_of_gemm_neither_deadlocks_nor_overruns() {
    // Fewer k-blocks than stages, as many, and several times around the ring; one and two warpgroups; tiles that end
    // anywhere in the ring.
    for (stages, warpgroups) in [(3, 1), (4, 2)] {
        for (blocks, tile) in [(1, 1), (2, 3), (stages, 2), (2 * stages + 1, stages + 1), (9, 9)] {
            let states = gemm(stages, blocks, tile, warpgroups).search();
            let states = states.unwrap_or_else(|fault| panic!("{stages} stages, {blocks} k-blocks: {fault}"));
            assert!(states > blocks, "{states} states");
        }
    }
}

/// Each op left out, each parity turned around, each wait for a product behind the arrival that it guards.
#[test]
fn every_mistake_in_the_pipeline_of_gemm_is_found() {
    let right = gemm(2, 5, 3, 2);
    assert!(right.search().is_ok());
    let mut planted = 0;
    for role in 0..2 {
        for at in 0..right.roles[role].len() {
            let mut wrong = right.clone();
            let ops = &mut wrong.roles[role];
            let what = ops[at];
            let harmless = match what {
                // On a new barrier nothing has to be awaited.
                Op::Wait { parity, .. } => {
                    ops.remove(at);
                    role == 0 && at < 3 * right.stages && parity == 1
                }
                Op::Finish { .. } => {
                    ops.swap(at, at + 1);
                    // Nothing is filled behind the last arrivals.
                    at + 4 >= ops.len()
                }
                Op::Arrive { .. } => {
                    ops.remove(at);
                    role > 0 && at + 3 >= right.roles[role].len()
                }
                Op::Fill { .. } | Op::Write { .. } | Op::Read { .. } => continue,
            };
            planted += usize::from(!harmless);
            assert!(
                harmless || wrong.search().is_err(),
                "role {role} without {what:?} at {at}"
            );
            if let Op::Wait { barrier, parity } = what {
                let mut turned = right.clone();
                turned.roles[role][at] = Op::Wait {
                    barrier,
                    parity: parity ^ 1,
                };
                assert!(turned.search().is_err(), "role {role}, {what:?} turned around");
            }
        }
    }
    assert_eq!(planted, 19, "mistakes that must be found");
    for barrier in 0..right.arrivals.len() {
        let mut wrong = right.clone();
        wrong.arrivals[barrier] += 1;
        assert!(wrong.search().is_err(), "one arrival more at barrier {barrier}");
    }
}

/// The protocol of the tile `pingpong`: two roles that multiply take tiles in turn, `k_blocks` each, and pass by the stages
/// of the other's. Behind the ring's barriers stand those of their turns.
fn pingpong(stages: usize, tiles: usize, k_blocks: usize) -> Protocol {
    let ring = Ring(stages);
    let turn = |warpgroup: usize| 2 * stages + warpgroup;
    let copies = (0..tiles * k_blocks)
        .flat_map(|block| [ring.await_empty(block), ring.fill(block), ring.arrive_full(block)]);
    let mut roles = vec![copies.collect::<Vec<_>>()];
    for warpgroup in 0..2 {
        let mut ops = Vec::new();
        // The first may begin: on a new barrier the phase of parity 1 has ended.
        let mut parity = warpgroup as u8 ^ 1;
        for tile in (warpgroup..tiles).step_by(2) {
            let blocks = tile * k_blocks..(tile + 1) * k_blocks;
            let barrier = turn(warpgroup);
            ops.push(Op::Wait { barrier, parity });
            parity ^= 1;
            for block in blocks.clone() {
                ops.extend([ring.await_full(block), ring.read(block)]);
                if block > blocks.start {
                    ops.extend(ring.release(block - 1));
                }
            }
            let barrier = turn(warpgroup ^ 1);
            ops.push(Op::Arrive { barrier });
            ops.extend(ring.release(blocks.end - 1));
        }
        roles.push(ops);
    }
    let mut protocol = ring.protocol(roles, 1, 1);
    protocol.arrivals.extend([1, 1]);
    protocol
}

#[test]
fn the_turns_of_ping_pong_neither_deadlock_nor_overrun() {
    // Tiles of fewer k-blocks than stages, of as many, and of more, which go around the ring alone.
    for stages in [2, 3, 4] {
        for k_blocks in [1, stages - 1, stages, stages + 1, 2 * stages + 1] {
            for tiles in 1..=5 {
                let states = pingpong(stages, tiles, k_blocks).search();
                let states = states.unwrap_or_else(|fault| {
                    panic!("{stages} stages, {tiles} tiles of {k_blocks} k-blocks: {fault}")
                });
                assert!(states > tiles * k_blocks, "{states} states");
            }
        }
    }
}

/// Each wait for a turn and each word of one left out, each parity turned around, both beginning and neither.
#[test]
fn every_mistake_in_the_turns_of_ping_pong_is_found() {
    // A stage is several rounds further when a turn comes.
    let right = pingpong(2, 5, 3);
    assert!(right.search().is_ok());
    let turns = 2 * right.stages..2 * right.stages + 2;
    let mut planted = 0;
    for role in 1..3 {
        let ops = &right.roles[role];
        let last = ops
            .iter()
            .rposition(|op| matches!(op, Op::Arrive { barrier } if turns.contains(barrier)));
        for (at, &op) in ops.iter().enumerate() {
            let mut wrong = right.clone();
            wrong.roles[role].remove(at);
            let harmless = match op {
                // The first begins; and nobody waits for word of the last tile's end.
                Op::Wait { barrier, .. } if turns.contains(&barrier) => role == 1 && at == 0,
                Op::Arrive { barrier } if turns.contains(&barrier) => role == 1 && Some(at) == last,
                _ => continue,
            };
            planted += usize::from(!harmless);
            assert_eq!(
                wrong.search().is_ok(),
                harmless,
                "role {role} without {op:?} at {at}"
            );
            if let Op::Wait { barrier, parity } = ops[at] {
                let mut turned = right.clone();
                let parity = parity ^ 1;
                turned.roles[role][at] = Op::Wait { barrier, parity };
                assert!(
                    turned.search().is_err(),
                    "role {role}, {:?} turned around",
                    ops[at]
                );
            }
        }
    }
    assert_eq!(planted, 8, "mistakes that must be found");
    for barrier in turns {
        let mut wrong = right.clone();
        wrong.arrivals[barrier] += 1;
        assert!(wrong.search().is_err(), "one arrival more at barrier {barrier}");
    }
}
