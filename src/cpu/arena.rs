//! The memory of a pass.

use std::ops::Range;

use super::scratch::Scratch;
use crate::plan::{Buffer, BufferId, Plan};

/// The memory of a pass; buffers lie where the plan put them.
#[derive(Default)]
pub struct Arena(Scratch);

impl Arena {
    /// Makes room for so many numbers.
    pub fn reserve(&mut self, len: usize) {
        self.0.reserve(len * size_of::<f32>());
    }

    /// Numbers that there is room for: none before the first pass.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.numbers().len()
    }

    fn numbers(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.bytes())
    }

    /// What an op reads and what it writes.
    pub fn borrow(&mut self, plan: &Plan, reads: &[BufferId], write: BufferId) -> (Vec<&[f32]>, &mut [f32]) {
        let numbers: &mut [f32] = bytemuck::cast_slice_mut(self.0.bytes_mut());
        let (start, length) = (numbers.as_mut_ptr(), numbers.len());
        let write = plan.buffers[write].range();
        let reads: Vec<Range<usize>> = reads.iter().map(|&id| plan.buffers[id].range()).collect();
        assert!(write.end <= length && reads.iter().all(|read| read.end <= length));
        assert!(
            reads
                .iter()
                .all(|read| read.end <= write.start || write.end <= read.start)
        );
        // SAFETY: the ranges lie in the arena, which is borrowed for as long as the slices live;
        // the one that is written overlaps none that is read.
        unsafe {
            let slice = |r: Range<usize>| std::slice::from_raw_parts(start.add(r.start), r.len());
            let out = std::slice::from_raw_parts_mut(start.add(write.start), write.len());
            (reads.into_iter().map(slice).collect(), out)
        }
    }

    /// A buffer.
    pub fn get(&self, buffer: &Buffer) -> &[f32] {
        &self.numbers()[buffer.range()]
    }
}
