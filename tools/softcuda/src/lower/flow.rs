//! Control flow of one function: basic blocks, and where the paths of a branch reconverge.

/// A basic block: instructions `start..end`.
#[derive(Debug, Clone)]
pub struct Block {
    pub start: usize,
    pub end: usize,
    /// Successors by block; none for a block that ends in exit, ret or trap.
    pub next: Vec<usize>,
}

/// Marks "the end of the function" among post-dominators.
pub const END: usize = usize::MAX;

/// The immediate post-dominator of each block: the first block that every path from it passes, or [`END`].
///
/// Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the reversed graph with one virtual
/// end. Blocks that cannot reach the end (endless loops) get an edge to it; without one, nothing would reconverge in them.
pub fn post_dominators(blocks: &[Block]) -> Vec<usize> {
    let n = blocks.len();
    let end = n;
    let mut before = vec![Vec::new(); n + 1];
    let mut ends: Vec<bool> = blocks.iter().map(|b| b.next.is_empty()).collect();
    for (index, block) in blocks.iter().enumerate() {
        for &next in &block.next {
            before[next].push(index);
        }
    }
    // Blocks from which no end can be reached: give the last of each such group an edge to the end.
    let mut reaches = vec![false; n];
    let mut stack: Vec<usize> = (0..n).filter(|&b| ends[b]).collect();
    loop {
        while let Some(b) = stack.pop() {
            if std::mem::replace(&mut reaches[b], true) {
                continue;
            }
            stack.extend(before[b].iter().copied().filter(|&p| !reaches[p]));
        }
        match (0..n).rev().find(|&b| !reaches[b]) {
            Some(b) => {
                ends[b] = true;
                stack.push(b);
            }
            None => break,
        }
    }
    let next = |b: usize| -> Vec<usize> {
        let mut next = blocks[b].next.clone();
        if ends[b] {
            next.push(end);
        }
        next
    };
    before[end].extend((0..n).filter(|&b| ends[b]));
    // Post-order of the reversed graph from the end.
    let mut order = Vec::with_capacity(n + 1);
    let mut number = vec![usize::MAX; n + 1];
    let mut seen = vec![false; n + 1];
    let mut walk = vec![(end, 0)];
    seen[end] = true;
    while let Some((b, i)) = walk.pop() {
        if let Some(&p) = before[b].get(i) {
            walk.push((b, i + 1));
            if !std::mem::replace(&mut seen[p], true) {
                walk.push((p, 0));
            }
        } else {
            number[b] = order.len();
            order.push(b);
        }
    }
    let mut idom = vec![usize::MAX; n + 1];
    idom[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().skip(1) {
            let mut new = usize::MAX;
            for p in next(b) {
                if idom[p] == usize::MAX {
                    continue;
                }
                new = if new == usize::MAX {
                    p
                } else {
                    let (mut x, mut y) = (new, p);
                    while x != y {
                        while number[x] < number[y] {
                            x = idom[x];
                        }
                        while number[y] < number[x] {
                            y = idom[y];
                        }
                    }
                    x
                };
            }
            if new != idom[b] {
                idom[b] = new;
                changed = true;
            }
        }
    }
    (0..n)
        .map(|b| {
            if idom[b] == end || idom[b] == usize::MAX {
                END
            } else {
                idom[b]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[&[usize]]) -> Vec<Block> {
        edges
            .iter()
            .enumerate()
            .map(|(i, next)| Block {
                start: i,
                end: i + 1,
                next: next.to_vec(),
            })
            .collect()
    }

    #[test]
    fn a_diamond_meets_below_and_a_loop_at_its_exit() {
        assert_eq!(
            post_dominators(&graph(&[&[1, 2], &[3], &[3], &[]])),
            [3, 3, 3, END]
        );
        assert_eq!(post_dominators(&graph(&[&[1], &[1, 2], &[]])), [1, 2, END]);
        // An early exit: the ways from the branch meet only at the end.
        assert_eq!(post_dominators(&graph(&[&[1, 2], &[], &[]])), [END, END, END]);
    }

    #[test]
    fn an_endless_loop_has_meeting_points_too() {
        // 0 → 1 → (2 | 3) → 1: nothing reaches an end.
        let meets = post_dominators(&graph(&[&[1], &[2, 3], &[1], &[1]]));
        assert_eq!(meets[0], 1);
    }
}
