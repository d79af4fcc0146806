//! The driver of narrow products: how one is cut into tasks and blocks.

use std::cell::RefCell;

use super::super::Line;
use super::super::team::{SendPtr, Team};
use super::tiles::add_outliers;
use super::{Block, Kernel, Number, PANEL, PackedTiles, Scales, TILE_BYTES, TILE_ROWS, Tiles};

/// Blocks of k that a task takes at a time: its part of a panel is 32 KB then, which stays in the first level cache while
/// all rows of the task go over it.
const K_BLOCKS: usize = 16;
/// Up to this many rows every panel is read once, from memory or the last level cache, and that is what takes the time.
const FEW_TILES: usize = 4;
/// Rows of tiles of a task, at most, and panels: the operands' blocks and the result fit the second level cache.
const TASK_TILES: usize = 16;
const TASK_PANELS: usize = 8;

thread_local! {
    /// The result of one task.
    static RESULT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// y[M, N] = x[M, K] · W[N, K]ᵀ; `epilogue(row, first column, segment)` changes every element once, in segments of rows
/// that are still in the cache, which begin and end at multiples of `unit` columns. Without `y` the result goes nowhere
/// else than to the epilogue.
pub fn gemm(
    team: &mut Team,
    kernel: Kernel,
    x: &Tiles,
    w: &PackedTiles,
    unit: usize,
    y: Option<&mut [f32]>,
    epilogue: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    let (m, n, k_blocks) = (x.rows(), w.n(), x.k_blocks());
    assert!(x.k() == w.k(), "operands of other lengths");
    assert!(
        [x.number(), w.number()] == [kernel.number; 2],
        "operands of other numbers"
    );
    assert!(w.flipped() == kernel.flips, "packed for another kernel");
    assert!(y.as_ref().is_none_or(|y| y.len() == m * n), "y of another size");
    if m == 0 {
        return;
    }
    let y = y.map(|y| SendPtr(y.as_mut_ptr()));
    let tiles = m.div_ceil(TILE_ROWS);
    // Panels that cannot be parted.
    let unit = lcm(unit, PANEL) / PANEL;
    let units = w.panels().div_ceil(unit);
    let threads = team.threads();
    let (height, group) = split(tiles, units, unit, threads);
    let (row_parts, groups) = (tiles.div_ceil(height), units.div_ceil(group));
    // Row parts vary fastest: threads at work together share their panels.
    team.run(row_parts * groups, &|task| {
        let (i, g) = (task % row_parts, task / row_parts);
        let part = |i: usize| i * tiles / row_parts * TILE_ROWS;
        let rows = part(i)..part(i + 1).min(m);
        let bound = |g: usize| w.panels().min(g * units / groups * unit);
        let panels = bound(g)..bound(g + 1);
        // The distance between rows is not a multiple of 4096 bytes, for those would compete for the same cache lines.
        let c_row = panels.len() * PANEL + 16;
        RESULT.with_borrow_mut(|result| {
            let lines = rows.len().next_multiple_of(TILE_ROWS) * c_row / 16;
            if result.len() < lines {
                result.resize(lines, Line([0.0; 16]));
            }
            let c: *mut f32 = result.as_mut_ptr().cast();
            for first in (0..k_blocks).step_by(K_BLOCKS) {
                // After the task's last part comes what is this thread's next task, if all take as long.
                let next = if first + K_BLOCKS < k_blocks {
                    w.block(panels.start, first + K_BLOCKS)
                } else {
                    w.block(bound(((task + threads) / row_parts).min(groups - 1)), 0)
                };
                let block = Block {
                    a: x.tile(rows.start / TILE_ROWS, first),
                    a_tile_row: k_blocks * TILE_BYTES,
                    rows: rows.len(),
                    b: w.block(panels.start, first),
                    b_panel: w.panel_bytes(),
                    next,
                    panels: panels.len(),
                    k_blocks: K_BLOCKS.min(k_blocks - first),
                    scales: (kernel.number == Number::Int8).then(|| Scales {
                        a: x.scales()[rows.start * k_blocks + first..].as_ptr(),
                        offsets: x.offsets()[rows.start * k_blocks + first..].as_ptr(),
                        b: w.scales(panels.start, first).as_ptr(),
                        k_blocks,
                    }),
                    c,
                    c_row,
                    resume: first > 0,
                };
                // SAFETY: tiles and panels are inside of x and w, and `result` holds all rows of the last tile.
                unsafe { kernel.run(&block) };
            }
            let first = panels.start * PANEL;
            let width = n.min(panels.end * PANEL) - first;
            if kernel.number == Number::Int8 {
                let outliers = &x.outliers()[rows.clone()];
                // SAFETY: the rows of the result, in whole panels.
                unsafe { add_outliers(kernel.isa, w, panels, outliers, c, c_row) };
            }
            for (i, row) in rows.enumerate() {
                // SAFETY: row i of the result, of which nothing else is borrowed.
                let segment = unsafe { std::slice::from_raw_parts_mut(c.add(i * c_row), width) };
                epilogue(row, first, segment);
                if let Some(y) = y {
                    // SAFETY: the length of y was checked above, and no two tasks have an element of it in common.
                    unsafe {
                        let to = y.get().add(row * n + first);
                        to.copy_from_nonoverlapping(segment.as_ptr(), width);
                    }
                }
            }
        });
    });
}

/// The least common multiple.
fn lcm(a: usize, b: usize) -> usize {
    let (mut gcd, mut rest) = (a, b);
    while rest > 0 {
        (gcd, rest) = (rest, gcd % rest);
    }
    a / gcd * b
}

/// How one product is cut into tasks: rows of tiles and units of panels of each, at most.
fn split(tiles: usize, units: usize, unit: usize, threads: usize) -> (usize, usize) {
    // Tasks enough for threads of uneven speed to finish about together.
    let wanted = if threads == 1 { 1 } else { threads * 6 };
    let most = (TASK_PANELS / unit).max(1);
    if tiles <= FEW_TILES {
        return (tiles, (units / wanted).clamp(1, most));
    }
    let group = most.min(units);
    let groups = units.div_ceil(group);
    // Where panels cannot be parted, fewer rows.
    let most_tiles = (TASK_TILES * TASK_PANELS / (group * unit)).clamp(4, TASK_TILES);
    // Two rows of tiles at the least, as the kernels take two at a time.
    let row_parts = wanted
        .div_ceil(groups)
        .max(tiles.div_ceil(most_tiles))
        .min(tiles.div_ceil(2));
    (tiles.div_ceil(row_parts), group)
}
