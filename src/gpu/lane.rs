//! One batch after the other: a stream, the memory that a pass needs, and the graphs made so far.

use std::collections::HashMap;
use std::sync::Arc;

use super::adapters::Resident;
use super::driver::{Context, DeviceMemory, DriverError, Graph, Pinned, Stream};
use super::exec::NUMBER;
use super::packed::Layout;
use crate::batch::BatchShape;
use crate::plan::{Fusion, Plan, Tile};

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

/// What passes of up to `capacity` tokens need, of which `plan` makes the plans. All of them are looked at: a smaller
/// one, or one without adapters, may lie less densely in the arena than the largest.
pub fn sizes(capacity: usize, slots: usize, plan: impl Fn(BatchShape, Fusion) -> Plan) -> Sizes {
    let mut sizes = Sizes {
        arena: 0,
        upload: Layout::new(capacity, slots).bytes,
        records: 0,
    };
    for tokens in buckets(capacity) {
        // A pass on merged weights has the buffers of one without adapters.
        for (adapted, fusion) in [
            (true, Fusion::Extended),
            (true, Fusion::Separate),
            (false, Fusion::Extended),
        ] {
            let output_rows = tokens;
            let plan = plan(
                BatchShape {
                    tokens,
                    output_rows,
                    adapted,
                },
                fusion,
            );
            sizes.arena = sizes.arena.max(plan.arena_len * NUMBER);
            sizes.records = sizes.records.max(plan.output().room * NUMBER);
        }
    }
    sizes
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
    let fits = |room: &usize| *room >= tokens;
    buckets(capacity).find(fits).unwrap_or(capacity)
}

/// All of them, ascending; the last is `capacity`.
pub fn buckets(capacity: usize) -> impl Iterator<Item = usize> {
    let rooms = (4..usize::BITS - 1).flat_map(|power| [1 << power, (1 << power) + (1 << (power - 1))]);
    rooms.take_while(move |&room| room < capacity).chain([capacity])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan;
    use crate::precision::{Numerics, Precision};

    proptest! {
        /// What a lane was made for has room for every pass.
        #[test]
        fn every_pass_has_room(
            (hidden, capacity, tokens) in (1usize..40, 1usize..5000, 1usize..5000),
            columns in prop::collection::vec(0usize..6, 4),
            adapted: bool,
            fusion in prop::sample::select(vec![Fusion::Extended, Fusion::Separate, Fusion::Merged(0)]),
        ) {
            let config = crate::cost::tests::model(8 * hidden, 2);
            let plan = |shape, fusion| {
                let gpu = plan::Gpu {
                    precision: Precision::Bf16,
                    numerics: Numerics::Invariant,
                    fusion,
                    attention: Tile::AttentionLarge,
                    multiprocessors: 132,
                };
                let columns = [0, 1, 2, 3].map(|site| 16 * columns[site]);
                Plan::gpu(&config, shape, columns, gpu)
            };
            let sizes = sizes(capacity, 3, plan);
            let room = bucket(tokens.min(capacity), capacity);
            let pass = plan(BatchShape { tokens: room, output_rows: room, adapted }, fusion);
            prop_assert!(pass.arena_len * NUMBER <= sizes.arena);
            prop_assert!(pass.output().room * NUMBER <= sizes.records);
            prop_assert!(Layout::new(room, 3).bytes <= sizes.upload);
        }
    }

    /// Eighty more columns, and the arena is smaller: what `sizes` looks at all passes for.
    #[test]
    fn fewer_buffers_may_need_a_larger_arena() {
        let config = crate::cost::tests::model(24, 2);
        let arena = |adapted| {
            let shape = BatchShape {
                tokens: 5,
                output_rows: 5,
                adapted,
            };
            let gpu = plan::Gpu {
                precision: Precision::Bf16,
                numerics: Numerics::Invariant,
                fusion: Fusion::Extended,
                attention: Tile::AttentionLarge,
                multiprocessors: 132,
            };
            Plan::gpu(&config, shape, [0, 16, 0, 0], gpu).arena_len
        };
        assert!(arena(false) > arena(true), "{} {}", arena(false), arena(true));
    }

    #[test]
    fn buckets_hold_their_tokens_with_little_to_spare() {
        let rooms = [1, 16, 17, 25, 33, 49, 65, 8194, 16000].map(|tokens| bucket(tokens, 16384));
        assert_eq!(rooms, [16, 16, 24, 32, 48, 64, 96, 12288, 16384]);
        assert_eq!(bucket(8194, 8194), 8194);
        for tokens in 1..5000 {
            let room = bucket(tokens, 1 << 20);
            assert!(
                room >= tokens && (room <= 16 || 2 * room < 3 * tokens + 2),
                "{tokens} in {room}"
            );
        }
    }
}
