//! Runs kernels: warps in lock step, blocks over the host's cores.
//!
//! * [`grid`] shares a launch's blocks out over host threads and gathers what they found.
//! * [`block`] holds one block: its warps, shared memory and barriers, and lets every warp make progress.
//! * [`warp`] holds one warp: registers, and the *splits* into which its lanes fall when they take different ways,
//!   until they meet again.
//! * `step` executes instructions; memory, synchronisation, copies and matrix tiles have a module each.

pub mod asynchronous;
mod atomics;
pub mod block;
pub mod check;
pub mod grid;
pub mod matrix;
mod memory;
mod printf;
pub mod profile;
mod step;
pub mod sync;
pub mod warp;

/// Lanes in words: `lanes 0-15, 31`.
pub fn lanes(mask: u32) -> String {
    if mask == u32::MAX {
        return "all lanes".to_owned();
    }
    let mut text = String::from(if mask.count_ones() == 1 { "lane" } else { "lanes" });
    let mut lane = 0;
    let mut lead = ' ';
    while lane < 32 {
        if mask >> lane & 1 == 0 {
            lane += 1;
            continue;
        }
        let run = (mask >> lane).trailing_ones();
        text.push(lead);
        text.push_str(&lane.to_string());
        if run > 1 {
            text.push_str(&format!("-{}", lane + run - 1));
        }
        if lead == ' ' {
            lead = ',';
        }
        lane += run;
    }
    if mask == 0 {
        text.push_str(" none");
    }
    text.replace(',', ", ")
}
