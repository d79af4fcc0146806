//! The barrier protocols of warp-specialised kernels, searched: every order in which their roles and their asynchronous
//! copies and products can go on.
//!
//! A kernel is a few roles, each a list of [`Op`]s: what its loops do, unrolled for a few k-blocks. The search finds a state
//! where nothing can go on, a stage that is filled while it is read or before it was, and one that is read while it is
//! filled or holds another k-block. It visits every reachable state once, so what it does not find does not happen, as far
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
    /// Starts a product that reads `block` in a stage.
    Read { stage: usize, block: u8 },
    /// Waits until the role's product on this stage has ended.
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
    /// Products under way: role, stage.
    products: BTreeSet<(usize, usize)>,
}

impl Protocol {
    /// Searches all orders. The number of states, or the first fault with the roles' places.
    pub fn search(&self) -> Result<usize, String> {
        let first = State {
            at: vec![0; self.roles.len()],
            barriers: self.arrivals.iter().map(|&count| (0, count, 0)).collect(),
            holds: vec![None; self.stages],
            copies: BTreeSet::new(),
            products: BTreeSet::new(),
        };
        let (mut seen, mut open) = (HashSet::from([first.clone()]), vec![first]);
        while let Some(state) = open.pop() {
            let fault = |what: String| format!("{what}, with the roles at {:?}", state.at);
            let next = self.next(&state).map_err(fault)?;
            let over = (0..self.roles.len()).all(|role| state.at[role] == self.roles[role].len());
            if next.is_empty() && !(over && state.copies.is_empty() && state.products.is_empty()) {
                return Err(format!("nothing can go on, with the roles at {:?}", state.at));
            }
            open.extend(next.into_iter().filter(|next| seen.insert(next.clone())));
        }
        Ok(seen.len())
    }

    /// The states that can follow: one role goes on, or a copy or a product ends.
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
        for product in &state.products {
            let mut after = state.clone();
            after.products.remove(product);
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
                if state.products.iter().any(|&(_, read)| read == stage) {
                    return Err(format!("stage {stage} is filled with {block} while it is read"));
                }
                if state.copies.iter().any(|&(filled, ..)| filled == stage) {
                    return Err(format!("stage {stage} is filled with {block} while it is filled"));
                }
                after.holds[stage] = None;
                after.copies.insert((stage, barrier, block));
                after.barriers[barrier].2 += 1;
            }
            Op::Read { stage, block } => {
                if state.holds[stage] != Some(block) {
                    let holds = state.holds[stage];
                    return Err(format!("stage {stage} is read for {block} and holds {holds:?}"));
                }
                after.products.insert((role, stage));
            }
            Op::Finish { stage } => {
                return Ok((!state.products.contains(&(role, stage))).then_some(after));
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

/// The protocol of `cuda/sm90/gemm.cuh`, with this many k-blocks, over all tiles of a block: barriers are `full` of each
/// stage, then `empty`; a role stands for each warpgroup that multiplies. `tile` are the k-blocks of a tile, behind which
/// no product is left under way.
fn gemm(stages: usize, blocks: usize, tile: usize, warpgroups: usize) -> Protocol {
    let (full, empty) = (|stage| stage, |stage| stages + stage);
    let place = |block: usize| (block % stages, (block / stages % 2) as u8);
    let copies = (0..blocks).flat_map(|block| {
        let (stage, parity) = place(block);
        [
            Op::Wait {
                barrier: empty(stage),
                parity: parity ^ 1,
            },
            Op::Fill {
                stage,
                barrier: full(stage),
                block: block as u8,
            },
            Op::Arrive { barrier: full(stage) },
        ]
    });
    let mut multiplies = Vec::new();
    for block in 0..blocks {
        let (stage, parity) = place(block);
        multiplies.push(Op::Wait {
            barrier: full(stage),
            parity,
        });
        multiplies.push(Op::Read {
            stage,
            block: block as u8,
        });
        let give_back = |block: usize| {
            let (stage, _) = place(block);
            [
                Op::Finish { stage },
                Op::Arrive {
                    barrier: empty(stage),
                },
            ]
        };
        if !block.is_multiple_of(tile) {
            multiplies.extend(give_back(block - 1));
        }
        if (block + 1).is_multiple_of(tile) || block + 1 == blocks {
            multiplies.extend(give_back(block));
        }
    }
    let mut roles = vec![copies.collect()];
    roles.extend(vec![multiplies; warpgroups]);
    Protocol {
        roles,
        arrivals: [vec![1; stages], vec![warpgroups as u8; stages]].concat(),
        stages,
    }
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
                Op::Fill { .. } | Op::Read { .. } => continue,
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
