//! The barriers of `sm90/attention.cu` in every order in which its roles can run ([`protocol`](super::protocol)): none waits
//! for ever, none overtakes.

use super::protocol::{Op, Protocol, Ring};

/// An item: boxes of queries; key tiles; whether the last of these is not whole.
type Item = (usize, usize, bool);

/// The roles of attention: one copies boxes, one writes the last values of sequences, `readers` multiply. `alone`: only who
/// fills a stage arrives, and the other role that fills stages passes it by.
fn attention(stages: usize, readers: usize, items: &[Item], alone: bool) -> Protocol {
    let ring = Ring(stages);
    let (mut boxes, mut tails, mut multiply) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 0;
    let mut fill = |count: usize, tail: bool| {
        for at in next..next + count {
            boxes.push(ring.await_empty(at));
            tails.push(ring.await_empty(at));
            let (filler, other) = match tail {
                false => (&mut boxes, &mut tails),
                true => (&mut tails, &mut boxes),
            };
            filler.push(if tail { ring.write(at) } else { ring.fill(at) });
            filler.push(ring.arrive_full(at));
            if !alone {
                other.push(ring.arrive_full(at));
            }
        }
        next += count;
    };
    let mut first = 0;
    for &(queries, keys, ragged) in items {
        // k, and then from k of the next tile on k and v in turn.
        fill(queries + 2 * keys - 1, false);
        fill(1, ragged);
        let wait = |at: usize| [ring.await_full(at), ring.read(at)];
        for at in first..first + queries + 1 {
            multiply.extend(wait(at));
            multiply.extend(ring.release(at));
        }
        let mut at = first + queries + 1;
        multiply.extend(wait(at));
        for _ in 1..keys {
            for (held, awaited) in [(at, at + 1), (at + 1, at + 2)] {
                multiply.extend(wait(awaited));
                multiply.extend(ring.release(held));
            }
            at += 2;
        }
        multiply.extend(ring.release(at));
        first = at + 1;
    }
    let mut roles = vec![boxes, tails];
    roles.resize(2 + readers, multiply);
    ring.protocol(roles, if alone { 1 } else { 2 }, readers as u8)
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
    let [_, arrive] = Ring(3).release(1);
    let first = twice.roles[3].iter().position(|&op: &Op| op == arrive);
    twice.roles[3].insert(first.expect("a key tile"), arrive);
    let problem = twice.search().unwrap_err();
    assert!(
        problem.contains("while it is read") || problem.starts_with("no role can go on"),
        "{problem}"
    );
}
