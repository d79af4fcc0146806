//! The barriers of `sm90/attention.cu` in every order in which its roles can run: none waits for ever, none overtakes.
//!
//! A role is a list of steps around one ring of stages. A stage has two barriers, `full` and `empty`, which are counted here
//! as mbarriers count: a phase ends with its last arrival, and who waits sees its parity alone.

use std::collections::HashSet;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// Waits until the stage of this use is empty.
    AwaitEmpty(usize),
    /// Arrives at `full` and begins a copy, whose bytes come at any time after.
    Copy(usize),
    /// Arrives at `full`, having filled the stage or left that to another role.
    Arrive(usize),
    /// Waits until it is full.
    AwaitFull(usize),
    /// Gives it back.
    Release(usize),
}
use Step::*;

struct Protocol {
    stages: usize,
    /// Of the role that copies boxes, of the one that copies the last values of sequences, of each that multiplies.
    roles: Vec<Vec<Step>>,
    /// Arrivals in a phase of `full`, and of `empty`.
    fillers: usize,
    readers: usize,
}

/// An item: boxes of queries; key tiles; whether the last of these is not whole.
type Item = (usize, usize, bool);

/// The roles of attention. `alone`: only who fills a stage arrives, and the other role that fills stages passes it by.
fn attention(stages: usize, readers: usize, items: &[Item], alone: bool) -> Protocol {
    let (mut boxes, mut tails, mut multiply) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 0;
    let mut fill = |count: usize, tail: bool| {
        for at in next..next + count {
            boxes.push(AwaitEmpty(at));
            tails.push(AwaitEmpty(at));
            if !tail {
                boxes.push(Copy(at));
            } else if !alone {
                boxes.push(Arrive(at));
            }
            if tail || !alone {
                tails.push(Arrive(at));
            }
        }
        next += count;
    };
    let mut first = 0;
    for &(queries, keys, ragged) in items {
        // k, and then from k of the next tile on k and v in turn.
        fill(queries + 2 * keys - 1, false);
        fill(1, ragged);
        for at in first..first + queries + 1 {
            multiply.extend([AwaitFull(at), Release(at)]);
        }
        let mut at = first + queries + 1;
        multiply.push(AwaitFull(at));
        for _ in 1..keys {
            multiply.extend([AwaitFull(at + 1), Release(at), AwaitFull(at + 2), Release(at + 1)]);
            at += 2;
        }
        multiply.push(Release(at));
        first = at + 1;
    }
    let mut roles = vec![boxes, tails];
    roles.resize(2 + readers, multiply);
    Protocol {
        stages,
        roles,
        fillers: if alone { 1 } else { 2 },
        readers,
    }
}

/// How far each role is, and which copies have been begun and are not complete.
type State = (Vec<usize>, Vec<usize>);

impl Protocol {
    /// How many phases of the barriers of a use's stage have ended: of `full`, of `empty`.
    fn phases(&self, (done, flying): &State, of: usize) -> (usize, usize) {
        let same = |at: usize| at % self.stages == of % self.stages;
        let (mut filled, mut released) = (0, 0);
        for (steps, &done) in self.roles.iter().zip(done) {
            for step in &steps[..done] {
                match *step {
                    Copy(at) | Arrive(at) if same(at) => filled += 1,
                    Release(at) if same(at) => released += 1,
                    _ => {}
                }
            }
        }
        // A phase lasts until its bytes have come, too.
        let flying = flying.iter().find(|&&at| same(at));
        let full = (filled / self.fillers).min(flying.map_or(usize::MAX, |at| at / self.stages));
        (full, released / self.readers)
    }

    /// Whether a role can take this step. `Err`: it can, and must not.
    fn ready(&self, state: &State, step: Step) -> Result<bool, String> {
        let (at, ended, wanted, early) = match step {
            AwaitEmpty(at) => (at, self.phases(state, at).1, at / self.stages, 1),
            AwaitFull(at) => (at, self.phases(state, at).0, at / self.stages + 1, 0),
            Copy(_) | Arrive(_) | Release(_) => return Ok(true),
        };
        // The phase of the parity that is waited for is the one before the current one.
        let parity = (at / self.stages + early) % 2;
        let ready = ended % 2 != parity;
        if ready && ended != wanted {
            return Err(format!("{step:?} passes after {ended} phases, and not {wanted}"));
        }
        if let (true, AwaitEmpty(_), Some(before)) = (ready, step, at.checked_sub(self.stages)) {
            let mut readers = self.roles.iter().zip(&state.0).skip(2);
            if !readers.all(|(steps, &done)| steps[..done].contains(&Release(before))) {
                return Err(format!("{step:?} overtakes a role that reads the stage"));
            }
        }
        Ok(ready)
    }

    /// Takes every step that can be taken in every state that can be reached; the number of these.
    fn search(&self) -> Result<usize, String> {
        let start = (vec![0; self.roles.len()], Vec::new());
        let mut seen = HashSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            let mut next = Vec::new();
            for (role, steps) in self.roles.iter().enumerate() {
                let Some(&step) = steps.get(state.0[role]) else {
                    continue;
                };
                if self.ready(&state, step)? {
                    let (mut done, mut flying) = state.clone();
                    done[role] += 1;
                    if let Copy(at) = step {
                        flying.push(at);
                        flying.sort();
                    }
                    next.push((done, flying));
                }
            }
            for at in 0..state.1.len() {
                let (done, mut flying) = state.clone();
                flying.remove(at);
                next.push((done, flying));
            }
            let ended = self
                .roles
                .iter()
                .zip(&state.0)
                .all(|(steps, &done)| done == steps.len());
            if next.is_empty() && !ended {
                return Err(format!("no role can go on: {:?}", state.0));
            }
            open.extend(next.into_iter().filter(|state| seen.insert(state.clone())));
        }
        Ok(seen.len())
    }
}

#[test]
fn attention_neither_hangs_nor_overtakes_in_any_order() {
    let items: [&[Item]; 4] = [
        &[(1, 1, false), (1, 1, true)],
        &[(1, 1, true), (1, 1, true), (1, 2, true)],
        &[(2, 2, true), (2, 1, false)],
        &[(2, 4, true)],
    ];
    for items in items {
        for stages in [4, 5] {
            for readers in [1, 2] {
                let states = attention(stages, readers, items, false).search();
                let states = states.unwrap_or_else(|e| panic!("{items:?}, {stages} stages: {e}"));
                assert!(states > 100, "{states}");
            }
        }
    }
}

/// That the search sees faults: each of these was possible.
#[test]
fn the_search_finds_what_is_wrong() {
    // A role that fills stages passes one by so late that the stage is already at its next phase, of the same parity as
    // the one that is waited for.
    let problem = attention(4, 1, &[(1, 1, false), (1, 1, true)], true)
        .search()
        .unwrap_err();
    assert!(problem.starts_with("no role can go on"), "{problem}");

    // A role that multiplies holds a stage while it awaits the next.
    let problem = attention(1, 1, &[(1, 2, false)], false).search().unwrap_err();
    assert!(problem.starts_with("no role can go on"), "{problem}");

    // One gives a stage back twice, in the place of the other.
    let mut twice = attention(3, 2, &[(1, 4, false)], false);
    let first = twice.roles[3].iter().position(|step| *step == Release(1));
    twice.roles[3].insert(first.expect("a key tile"), Release(1));
    let problem = twice.search().unwrap_err();
    assert!(
        problem.contains("overtakes") || problem.starts_with("no role can go on"),
        "{problem}"
    );
}
