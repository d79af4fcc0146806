//! Memory that passes use one after another.

use std::alloc::{Layout, handle_alloc_error};

use memmap2::MmapMut;

use super::packed::{PAGE, prefer_huge_pages};

/// Memory that grows to what the largest pass so far needed; zeros at first, on a page's boundary.
///
/// It is mapped, not taken from the allocator: that keeps what is returned to it, so that with each pass a little larger than
/// the ones before, a process would hold the old memory beside the new.
#[derive(Default)]
pub struct Scratch {
    map: Option<MmapMut>,
}

impl Scratch {
    /// Makes room for so many bytes. Where that takes new memory, what was in the old is lost.
    pub fn reserve(&mut self, bytes: usize) {
        if self.bytes().len() < bytes {
            self.map = None;
            // More than asked for, or passes that get larger by a token each would all map anew. The system hands out pages
            // when they are first written to: what no pass needs takes none.
            let roomy = (bytes + bytes / 4).next_multiple_of(PAGE);
            let map = MmapMut::map_anon(roomy).unwrap_or_else(|_| {
                handle_alloc_error(Layout::array::<u8>(roomy).expect("less than the address space"))
            });
            prefer_huge_pages(map.as_ptr(), roomy);
            self.map = Some(map);
        }
    }

    /// All there is room for, aligned for numbers even where there is none.
    pub fn bytes(&self) -> &[u8] {
        self.map
            .as_deref()
            .unwrap_or_else(|| bytemuck::cast_slice::<u64, u8>(&[]))
    }

    /// The same, to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map
            .as_deref_mut()
            .unwrap_or_else(|| bytemuck::cast_slice_mut::<u64, u8>(&mut []))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_room_to_spare() {
        let mut scratch = Scratch::default();
        scratch.reserve(0);
        assert!(bytemuck::cast_slice::<u8, f32>(scratch.bytes()).is_empty());
        assert!(bytemuck::cast_slice_mut::<u8, f32>(scratch.bytes_mut()).is_empty());
        scratch.reserve(100_000);
        let first = scratch.bytes().as_ptr();
        assert_eq!(first.addr() % PAGE, 0);
        assert!(scratch.bytes().len() >= 100_000 && scratch.bytes().iter().all(|&byte| byte == 0));
        // A little more needs no new memory, and keeps what is there.
        scratch.bytes_mut()[99_999] = 7;
        scratch.reserve(110_000);
        assert_eq!((scratch.bytes().as_ptr(), scratch.bytes()[99_999]), (first, 7));
        scratch.reserve(1_000_000);
        assert!(scratch.bytes().len() >= 1_000_000 && scratch.bytes().iter().all(|&byte| byte == 0));
    }
}
