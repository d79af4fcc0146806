//! The barriers of `sm90/attention.cu` in every order in which its roles can run ([`protocol`](super::protocol)): none waits
//! for ever, none overtakes.

use super::protocol::{Op, Protocol, Ring};

/// How a warpgroup goes through keys and values: `attend` and `attend_ahead`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    InTurn,
    Ahead,
}

/// An item: stages of keys; whether the last of these is not whole; warpgroups that have queries.
type Item = (usize, bool, usize);

/// The roles of attention: one copies, `readers` multiply. `meet`: they do where they zero the last values.
fn attention(order: Order, stages: usize, readers: usize, items: &[Item], meet: bool) -> Protocol {
    let ring = Ring(stages);
    // Behind those of the ring.
    let meeting = 2 * stages;
    let wait = |at: usize| [ring.await_full(at), ring.read(at)];
    let (mut copies, mut multiply) = (Vec::new(), vec![Vec::new(); readers]);
    let (mut first, mut meetings) = (0, 0);
    for &(keys, ragged, active) in items {
        let end = first + 1 + 2 * keys;
        for at in first..end {
            copies.extend([ring.await_empty(at), ring.fill(at), ring.arrive_full(at)]);
        }
        let met = ragged && active > 1 && meet;
        for (reader, ops) in multiply.iter_mut().enumerate() {
            ops.extend(wait(first));
            ops.extend(ring.release(first));
            if reader >= active {
                for at in first + 1..end {
                    ops.push(ring.await_full(at));
                    ops.extend(ring.release(at));
                }
                continue;
            }
            ops.extend(wait(first + 1));
            for k in (first + 1..end).step_by(2) {
                let (v, last) = (k + 1, k + 2 == end);
                if order == Order::InTurn {
                    ops.extend(ring.release(k));
                }
                ops.push(ring.await_full(v));
                if last && ragged {
                    ops.push(ring.write(v));
                }
                if last && met {
                    let (barrier, parity) = (meeting, (meetings % 2) as u8);
                    ops.extend([Op::Arrive { barrier }, Op::Wait { barrier, parity }]);
                }
                ops.push(ring.read(v));
                if order == Order::Ahead {
                    if k > first + 1 {
                        ops.extend(ring.release(k - 1));
                    }
                    ops.extend(ring.release(k));
                }
                if !last {
                    ops.extend(wait(k + 2));
                    if order == Order::InTurn {
                        ops.extend(ring.release(v));
                    }
                }
            }
            ops.extend(ring.release(end - 1));
        }
        meetings += usize::from(met);
        first = end;
    }
    let roles = [vec![copies], multiply].concat();
    let mut protocol = ring.protocol(roles, 1, readers as u8);
    protocol.arrivals.push(readers as u8);
    protocol
}

#[test]
fn attention_neither_hangs_nor_overtakes_in_any_order() {
    let items: [&[Item]; 5] = [
        &[(1, false, 1), (1, true, 1)],
        &[(1, true, 1), (1, true, 2), (2, true, 1)],
        &[(2, true, 2), (1, true, 2)],
        &[(2, false, 2), (1, true, 1), (2, true, 2)],
        &[(4, true, 2)],
    ];
    for items in items {
        for (order, stages, readers) in [
            (Order::InTurn, 2, 1),
            (Order::InTurn, 3, 1),
            (Order::Ahead, 3, 2),
            (Order::Ahead, 4, 2),
        ] {
            let items: Vec<_> = items
                .iter()
                .map(|&(k, r, active)| (k, r, active.min(readers)))
                .collect();
            let states = attention(order, stages, readers, &items, true).search();
            let states = states.unwrap_or_else(|e| panic!("{items:?}, {order:?}, {stages} stages: {e}"));
            assert!(states > 20, "{states}");
        }
    }
}

/// That the search sees faults: each of these was possible.
#[test]
fn the_search_finds_what_is_wrong() {
    // A warpgroup multiplies by values that the other still zeroes.
    let problem = attention(Order::Ahead, 3, 2, &[(1, true, 2)], false)
        .search()
        .unwrap_err();
    assert!(problem.contains("while it is read"), "{problem}");

    // A role that multiplies holds stages while it awaits the next.
    for (order, stages) in [(Order::InTurn, 1), (Order::Ahead, 2)] {
        let problem = attention(order, stages, 1, &[(2, false, 1)], true)
            .search()
            .unwrap_err();
        assert!(problem.starts_with("no role can go on"), "{problem}");
    }

    // One gives a stage back twice, in the place of the other.
    let mut twice = attention(Order::Ahead, 3, 2, &[(4, false, 2)], true);
    let [_, arrive] = Ring(3).release(1);
    let first = twice.roles[2].iter().position(|&op: &Op| op == arrive);
    twice.roles[2].insert(first.expect("a stage of keys"), arrive);
    let problem = twice.search().unwrap_err();
    assert!(
        problem.contains("while it is read") || problem.starts_with("no role can go on"),
        "{problem}"
    );

    // A warpgroup without queries gives back what it has not waited for: at the next round it takes one phase for another.
    let right = attention(Order::Ahead, 3, 2, &[(4, false, 1), (2, false, 2)], true);
    assert!(right.search().is_ok());
    let ops = &right.roles[2];
    let passes_by =
        |at: &usize| matches!(ops[*at], Op::Wait { .. }) && matches!(ops[at + 1], Op::Finish { .. });
    let waits: Vec<usize> = (0..ops.len()).filter(passes_by).collect();
    assert_eq!(waits.len(), 8, "four stages of keys, and of values");
    // From the third on, which is where the ring begins anew, each of them is needed.
    for &at in &waits[2..] {
        let mut hasty = right.clone();
        hasty.roles[2].remove(at);
        assert!(hasty.search().is_err(), "without {:?}", ops[at]);
    }
}
