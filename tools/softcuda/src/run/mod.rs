//! Executes launches: the lanes of a warp in lock step, blocks on host threads.
//!
//! * [`grid`] distributes a launch's blocks over host threads and collects their findings.
//! * [`block`] holds one block: its warps, shared memory and barriers. It schedules the warps.
//! * [`warp`] holds one warp: its registers, and the *splits* into which its lanes diverge until they reconverge.
//! * `step` executes instructions. Loads and stores, atomics, barriers and warp-level instructions, asynchronous
//!   copies, bulk copies (`bulk`; `tensor` finds the pieces of a tensor's box), matrix tiles, `wgmma` and `printf` have a file
//!   each; `cluster` has what blocks of a cluster do together.
//! * [`check`] defines findings, [`meter`] counts, [`profile`] describes the devices, [`settings`] says how to run.
//!
//! `grid`, `block`, `meter` and the files of instructions name each other. That is no circle to break: a block and the
//! launch that it belongs to are one algorithm, `impl Block`, in several files.

mod asynchronous;
mod atomics;
pub mod block;
mod bulk;
pub mod check;
mod cluster;
pub mod grid;
mod matrix;
mod memory;
pub mod meter;
mod printf;
pub mod profile;
pub mod settings;
mod step;
mod sync;
mod tensor;
pub mod warp;
mod wgmma;

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
