//! The memory of a pass.

use std::ops::Range;

use super::packed::prefer_huge_pages;
use crate::plan::{Buffer, BufferId, Plan};

/// The memory of a pass; buffers lie where the plan put them, from the first cache line on.
#[derive(Default)]
pub struct Arena {
    numbers: Vec<f32>,
}

impl Arena {
    /// Numbers of a cache line.
    const LINE: usize = 16;

    /// Makes room for so many numbers.
    pub fn reserve(&mut self, len: usize) {
        let numbers = len + Arena::LINE - 1;
        if self.numbers.len() < numbers {
            self.numbers = Vec::new();
            // Zeros as the system hands them out: what a narrow class never writes takes no memory. (An allocation of
            // aligned lines would be filled.)
            self.numbers = vec![0.0; numbers];
            prefer_huge_pages(self.numbers.as_ptr().cast(), numbers * size_of::<f32>());
        }
    }

    /// Numbers that there is room for: none before the first pass.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Numbers before the first cache line.
    fn offset(&self) -> usize {
        self.numbers
            .as_ptr()
            .align_offset(Arena::LINE * size_of::<f32>())
            .min(Arena::LINE - 1)
            .min(self.numbers.len())
    }

    /// What an op reads and what it writes.
    pub fn borrow(&mut self, plan: &Plan, reads: &[BufferId], write: BufferId) -> (Vec<&[f32]>, &mut [f32]) {
        let offset = self.offset();
        let numbers = &mut self.numbers[offset..];
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
        &self.numbers[self.offset()..][buffer.range()]
    }
}
