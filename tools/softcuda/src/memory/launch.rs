//! What all blocks of one launch share: its number, the table of epochs, the sync variables in global memory.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, fence};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::memory::clocks::Published;
use crate::memory::region::Region;

/// One kernel launch, as the race stamps know it. Cheap to clone; dropped when the launch has ended.
///
/// Launches follow each other: everything of a launch is ordered before the next one. What a dependent launch
/// (programmatic dependent launch) does before its `griddepcontrol.wait` is asked for separately, with
/// [`Shadow::touched_by_launch`](crate::memory::Shadow::touched_by_launch).
#[derive(Clone)]
pub struct Launch {
    pub(super) shared: Arc<Shared>,
}

impl Launch {
    /// Serial number, from 1.
    pub fn number(&self) -> u64 {
        self.shared.number
    }

    /// The first epoch of the oldest of these launches: a word without a stamp from then on was touched by none of them, nor
    /// by a later one. Of those before the last few nothing is known.
    pub fn first_epoch_of(&self, numbers: &[u64]) -> u32 {
        let first = |&number: &u64| self.epochs_of(number).map(|epochs| epochs.start);
        numbers.iter().filter_map(first).min().unwrap_or(u32::MAX)
    }

    /// The epochs of launch `number`, if it is this one or one of the last few before it.
    pub(super) fn epochs_of(&self, number: u64) -> Option<std::ops::Range<u32>> {
        if number == self.number() {
            return Some(self.shared.first..u32::MAX);
        }
        let history = &self.shared.history;
        let at = history.iter().position(|&(launch, _)| launch == number)?;
        let end = history.get(at + 1).map_or(self.shared.first, |&(_, first)| first);
        Some(history[at].1..end)
    }
}

/// Body of a [`Launch`].
pub(super) struct Shared {
    pub number: u64,
    /// First epoch of this launch; all stamps of smaller epochs are ordered before it.
    pub first: u32,
    pub epochs: Arc<Epochs>,
    /// Numbers and first epochs of the launches before this one, oldest first.
    history: Vec<(u64, u32)>,
    pub variables: Variables,
}

/// Epochs: which warp of which block at which of its clocks, by a number that fits into a stamp.
///
/// A warp takes a number when it touches global memory for the first time at a clock. Numbers only grow, so
/// those of earlier launches are told by comparison; when they run out, all stamps are cleared.
pub(super) struct Epochs {
    /// Block in the upper half, agent and clock in the lower.
    table: Region,
    next: AtomicU32,
}

impl Epochs {
    fn new() -> Self {
        let mut len = 1usize << 32;
        let table = loop {
            match Region::new(len) {
                Some(table) => break table,
                None if len > 1 << 16 => len /= 2,
                None => panic!("no room for a table of {len} epochs"),
            }
        };
        Self {
            table,
            next: AtomicU32::new(1),
        }
    }

    /// A new epoch, or 0 when there is none left: accesses leave no stamp then.
    #[cold]
    pub fn take(&self, block: u32, agent_clock: u32) -> u32 {
        // Threads that meet here at the end overshoot by at most their number.
        if u64::from(self.next.load(Relaxed)) + 4096 >= self.table.len() as u64 {
            return 0;
        }
        let epoch = self.next.fetch_add(1, Relaxed);
        self.table[epoch as usize].store(u64::from(block) << 32 | u64::from(agent_clock), Release);
        epoch
    }

    /// Block, agent and clock of an epoch.
    #[inline]
    pub fn get(&self, epoch: u32) -> (u32, u32) {
        let entry = self.table[epoch as usize].load(Acquire);
        ((entry >> 32) as u32, entry as u32)
    }
}

/// Numbers launches and hands out their epochs.
pub(super) struct Launches {
    number: u64,
    epochs: Arc<Epochs>,
    history: Vec<(u64, u32)>,
    /// Entries of the table below this have been given back.
    dropped: u32,
}

impl Launches {
    /// Launches whose stamps can be asked for by number.
    const REMEMBERED: usize = 8;

    pub fn new() -> Self {
        Self {
            number: 0,
            epochs: Arc::new(Epochs::new()),
            history: Vec::new(),
            dropped: 0,
        }
    }

    /// The next launch; `clear` must forget all stamps in global memory.
    pub fn begin(&mut self, clear: impl FnOnce()) -> Launch {
        let epochs = &self.epochs;
        if u64::from(epochs.next.load(Relaxed)) > epochs.table.len() as u64 / 4 * 3 {
            clear();
            epochs.table.clear(0, epochs.table.len());
            epochs.next.store(1, Relaxed);
            self.history.clear();
            self.dropped = 0;
        }
        self.number += 1;
        let first = epochs.next.load(Relaxed);
        let history = self.history.clone();
        if self.history.len() == Self::REMEMBERED {
            self.history.remove(0);
        }
        self.history.push((self.number, first));
        let oldest = self.history[0].1;
        if oldest - self.dropped > 1 << 20 {
            epochs.table.clear(self.dropped as usize, oldest as usize);
            self.dropped = oldest;
        }
        Launch {
            shared: Arc::new(Shared {
                number: self.number,
                first,
                epochs: self.epochs.clone(),
                history,
                variables: Variables::default(),
            }),
        }
    }

    /// As if this many epochs had been used.
    #[cfg(test)]
    pub fn skip(&mut self, epochs: u32) {
        self.epochs.next.store(epochs, Relaxed);
    }
}

/// What was published at a variable in global memory.
#[derive(Default)]
pub(super) struct Variable {
    /// At cluster, gpu or system scope.
    pub wide: Published,
    /// At block scope, by block.
    pub narrow: Vec<(u32, Published)>,
}

/// Variables in global memory at which something was published in this launch.
///
/// A publication is joined to what is there already even where a plain store would begin anew: between a store
/// and its publication another block may look, and must find what belongs to the value that it read. So a
/// reader may be taken to know of an earlier release than the one whose value it saw.
#[derive(Default)]
pub(super) struct Variables {
    any: AtomicBool,
    shards: [Mutex<HashMap<u64, Variable>>; 32],
}

impl Variables {
    fn shard(&self, address: u64) -> MutexGuard<'_, HashMap<u64, Variable>> {
        let shard = &self.shards[(address >> 2 ^ address >> 8) as usize % 32];
        // A panic elsewhere leaves whole values behind.
        shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes the variable at `address`.
    pub fn update(&self, address: u64, change: impl FnOnce(&mut Variable)) {
        let mut shard = self.shard(address);
        self.any.store(true, Release);
        change(shard.entry(address).or_default());
        drop(shard);
        // Whoever sees the value that the caller stores next sees the publication too.
        fence(Release);
    }

    /// Looks at the variable at `address`, if anything was published there.
    pub fn look<T>(&self, address: u64, look: impl FnOnce(&Variable) -> T) -> Option<T> {
        // The reader has seen the writer's value, so it sees the flag, which was set before the value was stored.
        fence(Acquire);
        if !self.any.load(Acquire) {
            return None;
        }
        self.shard(address).get(&address).map(look)
    }
}
