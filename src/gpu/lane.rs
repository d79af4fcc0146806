//! One batch after the other: a stream, the memory that a pass needs, and the graphs made so far.

use std::collections::HashMap;
use std::sync::Arc;

use super::adapters::Resident;
use super::driver::{Context, DeviceMemory, DriverError, Graph, Pinned, Stream};
use super::packed::Layout;
use crate::plan::{Fusion, Tile};

/// What a graph follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Tokens that it has room for.
    pub bucket: usize,
    pub adapted: bool,
    pub attention: Tile,
    pub fusion: Fusion,
}

/// A captured pass, and where its output lies.
#[derive(Debug)]
pub struct Pass {
    pub graph: Graph,
    pub layout: Layout,
    /// The records of the output vectors.
    pub records: u64,
    /// The last launch, which may be repeated with other output vectors.
    pub pool: super::exec::Launch,
}

/// What one pass computes with; reused from call to call.
#[derive(Debug)]
pub struct Lane {
    /// Declared first: dropped, and so drained, before what it works on.
    pub stream: Stream,
    pub passes: HashMap<Key, Pass>,
    /// The adapters that the passes with adapters were made for.
    resident: Arc<Resident>,
    pub arena: DeviceMemory,
    pub upload: DeviceMemory,
    /// What goes up, and what comes back.
    pub sent: Pinned,
    pub received: Pinned,
}

/// Bytes of a lane's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub arena: usize,
    pub upload: usize,
    pub records: usize,
}

impl Lane {
    pub fn new(context: &Context, sizes: Sizes, resident: &Arc<Resident>) -> Result<Lane, DriverError> {
        Ok(Lane {
            stream: context.stream()?,
            passes: HashMap::new(),
            resident: resident.clone(),
            arena: context.allocate(sizes.arena)?,
            upload: context.allocate(sizes.upload)?,
            sent: context.pinned(sizes.upload)?,
            received: context.pinned(sizes.records)?,
        })
    }

    /// Makes the lane ready for these adapters: more of them may need more memory, and the passes with
    /// adapters hold their addresses.
    pub fn adapt(
        &mut self,
        context: &Context,
        sizes: impl FnOnce() -> Sizes,
        resident: &Arc<Resident>,
    ) -> Result<(), DriverError> {
        if Arc::ptr_eq(&self.resident, resident) {
            return Ok(());
        }
        let sizes = sizes();
        if sizes.arena > self.arena.len() {
            self.passes.clear();
            self.arena = context.allocate(sizes.arena)?;
        }
        if sizes.upload > self.upload.len() {
            self.passes.clear();
            // Both or, if there is no memory, neither.
            (self.upload, self.sent) = (context.allocate(sizes.upload)?, context.pinned(sizes.upload)?);
        }
        self.passes.retain(|key, _| !key.adapted);
        self.resident = resident.clone();
        Ok(())
    }
}

/// The room that a batch of so many tokens gets: the next of 16, 24, 32, 48, 64, …, at most `capacity`. Blocks
/// past the tokens end at once, so that half as many again at the most cost little, and the graphs stay few.
pub fn bucket(tokens: usize, capacity: usize) -> usize {
    let mut room = 16;
    while room < tokens {
        room = if room + room / 2 >= tokens {
            room + room / 2
        } else {
            2 * room
        };
    }
    room.min(capacity)
}

#[cfg(test)]
mod tests {
    #[test]
    fn buckets_hold_their_tokens_with_little_to_spare() {
        let rooms = [1, 16, 17, 25, 33, 49, 65, 8194, 16000].map(|tokens| super::bucket(tokens, 16384));
        assert_eq!(rooms, [16, 16, 24, 32, 48, 64, 96, 12288, 16384]);
        assert_eq!(super::bucket(8194, 8194), 8194);
        for tokens in 1..5000 {
            let room = super::bucket(tokens, 1 << 20);
            assert!(
                room >= tokens && (room <= 16 || 2 * room < 3 * tokens + 2),
                "{tokens} in {room}"
            );
        }
    }
}
