//! The state beside memory: initialised bytes, last accesses.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::ir::Scope;
use crate::memory::clocks::{CLOCK_BITS, CLOCK_MAX, WARPS, Who, lanes};
use crate::memory::launch::Launch;
use crate::memory::region::Region;

/// Whose memory a [`Shadow`] describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Global memory: several blocks, many launches.
    Global,
    /// One block's shared memory.
    Shared,
}

/// How an access is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Weak,
    /// Volatile, relaxed, acquire, release, atomic: strong at this scope.
    Strong(Scope),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaceKind {
    ReadAfterWrite,
    WriteAfterRead,
    WriteAfterWrite,
}

/// A thread, for messages. A `warp` from 32 on is an asynchronous agent of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Linear index of the block in the grid.
    pub block: u32,
    pub warp: u32,
    pub lane: u32,
}

impl Thread {
    /// Linear index of the thread in its block.
    pub fn in_block(&self) -> u32 {
        self.warp * 32 + self.lane
    }
}

/// An earlier access that the present one is not ordered after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Race {
    pub kind: RaceKind,
    /// First byte (offset in the shadow) of the present access that the other touched too, or of its word where
    /// only the word is known.
    pub offset: u64,
    pub other: Thread,
    /// Several lanes of the other's warp did it together; `other` is one of them.
    pub other_many: bool,
    /// Instruction index of the other's access; `None` in a kernel of more than a million instructions.
    pub other_pc: Option<u32>,
    pub other_how: How,
    /// The other is an asynchronous agent (a bulk copy, …).
    pub other_async: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hazard {
    /// The first byte that was never written.
    Uninitialised {
        offset: u64,
    },
    Race(Race),
    /// An asynchronous copy that was not waited for writes here.
    AsyncPending {
        offset: u64,
        issuer: Thread,
        issuer_pc: Option<u32>,
    },
}

/// What an earlier launch did to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    pub offset: u64,
    pub wrote: bool,
    pub thread: Thread,
    pub pc: Option<u32>,
}

/// A stamp: who made an access, when, where in the kernel. From the top: epoch (32 bits), instruction (20),
/// lane (5), bytes of the word (4), kind (3). 0: none.
///
/// In shared memory the epoch is the agent and its clock; in global memory it is a number that stands for block,
/// agent and clock (see [`crate::memory::launch::Epochs`]).
mod stamp {
    pub const EPOCH: u32 = 32;
    pub const PC: u32 = 12;
    pub const PC_MAX: u32 = (1 << 20) - 1;
    pub const LANE: u32 = 7;
    pub const LANES: u64 = 31 << LANE;
    pub const MASK: u32 = 3;
    pub const MASKS: u64 = 15 << MASK;
    pub const KINDS: u64 = 7;

    pub const WEAK: u64 = 0;
    /// Strong at block scope.
    pub const CTA: u64 = 1;
    /// Strong at a wider scope.
    pub const WIDE: u64 = 2;
    /// As a write: strong, and another thread has read it strongly.
    pub const SEEN: u64 = 3;
    /// With this bit the stamp's lane is not the whole truth.
    pub const SPECIAL: u64 = 4;
    /// Several lanes of one warp at one clock, weak. Which lane touched which bytes is not known — as a read:
    /// if all touched the same ones, it is `SAME_BYTES`.
    pub const MIXED: u64 = 4;
    /// As a read.
    pub const SAME_BYTES: u64 = 5;
    /// As a write: `cp.async` was issued.
    pub const PENDING: u64 = 5;
    /// As a write: not ordered with an earlier one, but of the same value.
    pub const SAME_VALUE: u64 = 6;

    /// Epoch and lane, and a plain kind: two stamps that agree here are of one thread.
    pub const THREAD: u64 = !((1 << EPOCH) - 1) | LANES | SPECIAL;
}

/// Initialised bits and access stamps of a piece of memory. Offsets are in bytes from its start.
///
/// Of every word the last write and the last read are kept; of reads by several threads that are not ordered one by
/// another thread than the last writer, the one with the greatest clock, in shared memory also one by another warp.
/// A thread's strong write keeps the stamp of its weak one at the same clock. A write that is ordered after these
/// but not after one forgotten is not reported. Halves of a word written by different warps share one record,
/// that of the later one.
///
/// An access that meets a hazard leaves its stamps and marks its bytes like any other, so that who goes on after a
/// report is not told of its consequences.
///
/// May be used by several host threads at once (`&self`), each running blocks of its own.
pub struct Shadow {
    bytes: u64,
    domain: Domain,
    /// Every byte counts as initialised.
    initialised: bool,
    bits: Region,
    writes: Region,
    reads: Region,
    /// A reader of another warp than the one in `reads`; shared memory only.
    others: Region,
}

/// An earlier access, decoded.
struct Earlier {
    thread: Thread,
    clock: u32,
    known: bool,
    own_agent: bool,
}

impl Shadow {
    /// For `bytes` bytes, nothing initialised, never touched. Costs memory as it is touched.
    ///
    /// # Panics
    /// If the machine has no address space left.
    pub fn new(bytes: u64, domain: Domain) -> Self {
        Self::try_new(bytes, domain, false).expect("address space for a shadow")
    }

    pub(super) fn try_new(bytes: u64, domain: Domain, initialised: bool) -> Option<Self> {
        let words = bytes.div_ceil(4) as usize;
        Some(Self {
            bytes,
            domain,
            initialised,
            bits: Region::new(if initialised {
                0
            } else {
                bytes.div_ceil(64) as usize
            })?,
            writes: Region::new(words)?,
            reads: Region::new(words)?,
            others: Region::new(if domain == Domain::Shared { words } else { 0 })?,
        })
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A lane reads `bytes` (1 to 32) bytes.
    #[inline]
    pub fn read(
        &self,
        offset: u64,
        bytes: usize,
        who: &Who<'_>,
        lane: usize,
        how: How,
        pc: u32,
    ) -> Result<(), Hazard> {
        if let Err(uninitialised) = self.check_initialised(offset, bytes) {
            // That a copy is still on its way says more than that nothing has arrived.
            let pending = for_words(offset, bytes, |word, mask| {
                self.read_after(word, self.writes[word].load(Relaxed), mask, who, lane, how)
            });
            return Err(match pending {
                Err(pending @ Hazard::AsyncPending { .. }) => pending,
                _ => uninitialised,
            });
        }
        let floor = who.floor(self.domain);
        let mine = who.epoch(self.domain) << stamp::EPOCH | plain(lane, how, pc);
        if how == How::Weak
            && let Some(words) = whole_words(offset, bytes)
            && let Some(written) = alike(&self.writes[words.clone()])
            && !self.is_open(written, mine, floor, who)
            && let Some(read) = alike(&self.reads[words.clone()])
            && (self.domain == Domain::Global || alike(&self.others[words.clone()]).is_some())
        {
            self.keep_read(words, read, mine | stamp::MASKS, floor, who, lane);
            return Ok(());
        }
        for_words(offset, bytes, |word, mask| {
            let written = self.writes[word].load(Relaxed);
            let result = if self.is_open(written, mine, floor, who) {
                self.read_after(word, written, mask, who, lane, how)
            } else {
                Ok(())
            };
            if how != How::Weak && matches!(written & stamp::KINDS, stamp::CTA | stamp::WIDE) {
                self.note_seen(word, written, mine);
            }
            let read = self.reads[word].load(Relaxed);
            self.keep_read(word..word + 1, read, mine | mask << stamp::MASK, floor, who, lane);
            result
        })
    }

    /// Keeps a read of words whose stamps are alike, `old` that of the reads.
    #[inline(always)]
    fn keep_read(&self, words: Range<usize>, old: u64, new: u64, floor: u64, who: &Who<'_>, lane: usize) {
        if old < floor || (old ^ new) >> stamp::EPOCH != 0 && who.surely_knows(self.domain, old) {
            put(&self.reads[words], new);
        } else if old != new && !repeats(old, new) {
            self.note_read(words, old, new, who, lane);
        }
    }

    /// A lane writes. `same_value`: memory holds these very bytes already, so an unordered write of another
    /// thread is no race, unless that is of another block and this thread has read them. Marks the bytes initialised.
    #[inline]
    #[allow(clippy::too_many_arguments)]
    pub fn write(
        &self,
        offset: u64,
        bytes: usize,
        who: &Who<'_>,
        lane: usize,
        how: How,
        same_value: bool,
        pc: u32,
    ) -> Result<(), Hazard> {
        let floor = who.floor(self.domain);
        let mine = who.epoch(self.domain) << stamp::EPOCH | plain(lane, how, pc);
        let result = match self.closed(offset, bytes, mine, floor, who) {
            Some(words) => {
                put(&self.writes[words], mine | stamp::MASKS);
                Ok(())
            }
            None => for_words(offset, bytes, |word, mask| {
                self.write_word(word, mask, mine, floor, who, lane, how, same_value)
            }),
        };
        self.initialise(offset, bytes);
        result
    }

    /// The words of a write of several whole ones, if their stamps are alike and none of them has to be looked at closely,
    /// as in copies and tiles, whose pieces are of one size: they are then one word that is checked once.
    #[inline(always)]
    fn closed(
        &self,
        offset: u64,
        bytes: usize,
        mine: u64,
        floor: u64,
        who: &Who<'_>,
    ) -> Option<Range<usize>> {
        let words = whole_words(offset, bytes)?;
        let closed = |stamps: &Region| {
            alike(&stamps[words.clone()]).is_some_and(|stamp| !self.is_open(stamp, mine, floor, who))
        };
        let written = self.writes[words.start].load(Relaxed);
        ((written ^ mine) & stamp::THREAD != 0
            && mine >> stamp::EPOCH != 0
            && closed(&self.writes)
            && closed(&self.reads)
            && (self.domain == Domain::Global || closed(&self.others)))
        .then_some(words)
    }

    /// A lane reads and writes atomically (`atom`, `red`).
    #[inline]
    pub fn atomic(
        &self,
        offset: u64,
        bytes: usize,
        who: &Who<'_>,
        lane: usize,
        scope: Scope,
        pc: u32,
    ) -> Result<(), Hazard> {
        let initialised = self.check_initialised(offset, bytes);
        let how = How::Strong(scope);
        let floor = who.floor(self.domain);
        let mine = who.epoch(self.domain) << stamp::EPOCH | plain(lane, how, pc);
        // Whatever conflicts with the read conflicts with the write.
        let result = for_words(offset, bytes, |word, mask| {
            self.write_word(word, mask, mine, floor, who, lane, how, false)
        });
        if initialised.is_err() {
            self.initialise(offset, bytes);
        }
        initialised.and(result)
    }

    /// [`Shadow::read`] for the lanes of `mask`, each at its own offset; the first lane with a hazard.
    pub fn read_lanes(
        &self,
        offsets: &[u64; 32],
        mask: u32,
        bytes: usize,
        who: &Who<'_>,
        how: How,
        pc: u32,
    ) -> Result<(), (usize, Hazard)> {
        let mut result = Ok(());
        for lane in lanes(mask) {
            if let Err(hazard) = self.read(offsets[lane], bytes, who, lane, how, pc) {
                result = result.and(Err((lane, hazard)));
            }
        }
        result
    }

    /// [`Shadow::write`] for the lanes of `mask`; `same_value` has a bit per lane. Lanes of one instruction that
    /// write the same value to the same bytes are no race either: all but the first need their bit, whatever
    /// memory holds before.
    #[allow(clippy::too_many_arguments)]
    pub fn write_lanes(
        &self,
        offsets: &[u64; 32],
        mask: u32,
        bytes: usize,
        who: &Who<'_>,
        how: How,
        same_value: u32,
        pc: u32,
    ) -> Result<(), (usize, Hazard)> {
        let mut result = Ok(());
        for lane in lanes(mask) {
            let same = same_value >> lane & 1 != 0;
            if let Err(hazard) = self.write(offsets[lane], bytes, who, lane, how, same, pc) {
                result = result.and(Err((lane, hazard)));
            }
        }
        result
    }

    /// `cp.async` was issued: these bytes are nobody's until [`Shadow::complete_pending`]. Checked as a write of
    /// the issuing thread.
    pub fn mark_pending(
        &self,
        offset: u64,
        bytes: usize,
        who: &Who<'_>,
        lane: usize,
        pc: u32,
    ) -> Result<(), Hazard> {
        let floor = who.floor(self.domain);
        let mine = who.epoch(self.domain) << stamp::EPOCH | plain(lane, How::Weak, pc);
        if let Some(words) = self.closed(offset, bytes, mine, floor, who) {
            put(&self.writes[words], mine | stamp::MASKS | stamp::PENDING);
            return Ok(());
        }
        for_words(offset, bytes, |word, mask| {
            let result = self.write_word(word, mask, mine, floor, who, lane, How::Weak, false);
            let new = mine | mask << stamp::MASK | stamp::PENDING;
            self.writes[word].store(new, Relaxed);
            result
        })
    }

    /// The issuing thread has waited: the bytes count as written by it now. `pc` is the copy's.
    pub fn complete_pending(&self, offset: u64, bytes: usize, who: &Who<'_>, lane: usize, pc: u32) {
        let mine = who.epoch(self.domain) << stamp::EPOCH | plain(lane, How::Weak, pc);
        if let Some(words) = whole_words(offset, bytes) {
            put(&self.writes[words], mine | stamp::MASKS);
        } else {
            let done = for_words(offset, bytes, |word, mask| {
                self.writes[word].store(mine | mask << stamp::MASK, Relaxed);
                Ok(())
            });
            debug_assert_eq!(done, Ok(()));
        }
        self.initialise(offset, bytes);
    }

    /// The first thread (not an asynchronous agent) that was the last to write one of these bytes of shared memory and
    /// for which `fenced` (given the thread and its clock then) is false, with its instruction.
    pub fn unfenced_writer(
        &self,
        offset: u64,
        bytes: u64,
        who: &Who<'_>,
        fenced: impl Fn(Thread, u32) -> bool,
    ) -> Option<(Thread, Option<u32>)> {
        (offset / 4..(offset + bytes).div_ceil(4)).find_map(|word| {
            let written = self.writes[word as usize].load(Relaxed);
            let direct = (written >> stamp::EPOCH) as u32;
            let thread = thread_of(who.block, direct, written);
            let clock = clock_of(direct);
            let counts = written != 0 && clock > who.base && (thread.warp as usize) < WARPS;
            (counts && !fenced(thread, clock)).then(|| (thread, pc_of(written)))
        })
    }

    /// The first byte that was never written, without regard to races.
    pub fn first_uninitialised(&self, offset: u64, bytes: u64) -> Option<u64> {
        if self.initialised {
            return None;
        }
        let mut missing = None;
        for_bits(offset, bytes, |index, bits| {
            let hole = bits & !self.bits[index].load(Relaxed);
            if hole != 0 {
                missing = Some(index as u64 * 64 + u64::from(hole.trailing_zeros()));
            }
            missing.is_none()
        });
        missing
    }

    /// Marks bytes as initialised (a copy from the host, a memset).
    pub fn set_initialised(&self, offset: u64, bytes: u64) {
        if self.initialised {
            return;
        }
        for_bits(offset, bytes, |index, bits| {
            if bits == u64::MAX {
                self.bits[index].store(bits, Relaxed);
            } else {
                self.bits[index].fetch_or(bits, Relaxed);
            }
            true
        });
    }

    /// Marks bytes as never written.
    pub fn set_uninitialised(&self, offset: u64, bytes: u64) {
        if self.initialised {
            return;
        }
        for_bits(offset, bytes, |index, bits| {
            if bits == u64::MAX {
                self.bits[index].store(0, Relaxed);
            } else {
                self.bits[index].fetch_and(!bits, Relaxed);
            }
            true
        });
    }

    /// Copies which bytes are initialised. Ranges may overlap if `from` is `self`.
    pub(super) fn copy_initialised(&self, offset: u64, from: &Shadow, from_offset: u64, bytes: u64) {
        if self.initialised {
            return;
        }
        // Runs of 64 bytes through a buffer; backwards where the end of the source would be overwritten.
        let chunks = bytes.div_ceil(64);
        let backwards = offset > from_offset;
        for step in 0..chunks {
            let at = 64 * if backwards { chunks - 1 - step } else { step };
            let count = (bytes - at).min(64);
            let set = from.bits_at(from_offset + at, count);
            let all = u64::MAX >> (64 - count);
            let low = (offset + at) % 64;
            let index = ((offset + at) / 64) as usize;
            let put = |index: usize, all: u64, set: u64| {
                let old = self.bits[index].load(Relaxed);
                self.bits[index].store(old & !all | set, Relaxed);
            };
            put(index, all << low, set << low);
            if low + count > 64 {
                put(index + 1, all >> (64 - low), set >> (64 - low));
            }
        }
    }

    /// The initialised bits of up to 64 bytes.
    fn bits_at(&self, offset: u64, count: u64) -> u64 {
        let all = u64::MAX >> (64 - count);
        if self.initialised {
            return all;
        }
        let (index, low) = ((offset / 64) as usize, offset % 64);
        let mut set = self.bits[index].load(Relaxed) >> low;
        if low != 0 && low + count > 64 {
            set |= self.bits[index + 1].load(Relaxed) << (64 - low);
        }
        set & all
    }

    /// Whether these words surely have no stamp of this epoch or a later one: of a write, or with `reads` of a read. Only for
    /// global memory.
    #[inline]
    pub fn untouched_since(&self, offset: u64, bytes: usize, epoch: u32, reads: bool) -> bool {
        let words = (offset / 4) as usize..(offset + bytes as u64).div_ceil(4) as usize;
        let since = u64::from(epoch) << stamp::EPOCH;
        let before = |stamps: &[AtomicU64]| stamps.iter().all(|stamp| stamp.load(Relaxed) < since);
        before(&self.writes[words.clone()]) && (!reads || before(&self.reads[words]))
    }

    /// What launch number `number` last did to these bytes, if its stamps are still there: a write rather than a
    /// read. Only for global memory.
    pub fn touched_by_launch(
        &self,
        offset: u64,
        bytes: usize,
        launch: &Launch,
        number: u64,
    ) -> Option<Touch> {
        let epochs = launch.epochs_of(number)?;
        let mut found: Option<Touch> = None;
        let mut look = |word: usize, mask: u64| {
            for (stamps, wrote) in [(&self.writes, true), (&self.reads, false)] {
                let stamp = stamps[word].load(Relaxed);
                let epoch = (stamp >> stamp::EPOCH) as u32;
                let both = stamp >> stamp::MASK & mask;
                if both == 0 || !epochs.contains(&epoch) || found.is_some_and(|touch| touch.wrote || !wrote) {
                    continue;
                }
                let (block, direct) = launch.shared.epochs.get(epoch);
                found = Some(Touch {
                    offset: word as u64 * 4 + u64::from(both.trailing_zeros()),
                    wrote,
                    thread: thread_of(block, direct, stamp),
                    pc: pc_of(stamp),
                });
            }
            Ok(())
        };
        // A bulk copy has more than one access of an instruction.
        for first in (0..bytes).step_by(64) {
            let done = for_words(offset + first as u64, (bytes - first).min(64), &mut look);
            debug_assert_eq!(done, Ok(()));
        }
        found
    }

    /// Forgets every access, not what is initialised.
    pub(super) fn clear_stamps(&self) {
        for stamps in [&self.writes, &self.reads, &self.others] {
            stamps.clear(0, stamps.len());
        }
    }

    #[inline(always)]
    fn check_initialised(&self, offset: u64, bytes: usize) -> Result<(), Hazard> {
        debug_assert!(offset + bytes as u64 <= self.bytes);
        if self.initialised {
            return Ok(());
        }
        let (index, low) = ((offset / 64) as usize, offset % 64);
        let bits = u64::MAX >> (64 - bytes) << low;
        if bits & !self.bits[index].load(Relaxed) == 0 && low as usize + bytes <= 64 {
            return Ok(());
        }
        match self.first_uninitialised(offset, bytes as u64) {
            None => Ok(()),
            Some(offset) => Err(Hazard::Uninitialised { offset }),
        }
    }

    #[inline(always)]
    fn initialise(&self, offset: u64, bytes: usize) {
        if self.initialised {
            return;
        }
        let (index, low) = ((offset / 64) as usize, offset % 64);
        let bits = u64::MAX >> (64 - bytes) << low;
        let old = self.bits[index].load(Relaxed);
        if low as usize + bytes > 64 {
            self.set_initialised(offset, bytes as u64);
        } else if bits & !old != 0 {
            match self.domain {
                // One host thread runs a block.
                Domain::Shared => self.bits[index].store(old | bits, Relaxed),
                Domain::Global => {
                    self.bits[index].fetch_or(bits, Relaxed);
                }
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn write_word(
        &self,
        word: usize,
        mask: u64,
        mine: u64,
        floor: u64,
        who: &Who<'_>,
        lane: usize,
        how: How,
        same_value: bool,
    ) -> Result<(), Hazard> {
        let written = self.writes[word].load(Relaxed);
        let mut new = mine | mask << stamp::MASK;
        let mut result = Ok(());
        if self.is_open(written, mine, floor, who) {
            match self.write_after_write(word, written, new, who, lane, how, same_value) {
                Ok(merged) => new = merged,
                // Still pending for the next one.
                Err(hazard @ Hazard::AsyncPending { .. }) => return Err(hazard),
                Err(hazard) => result = Err(hazard),
            }
        } else if (written ^ mine) & stamp::THREAD == 0 {
            if (written ^ mine) & stamp::KINDS == 0 {
                new |= written & stamp::MASKS;
            } else if (written ^ new) & stamp::MASKS == 0 && written & stamp::KINDS == stamp::WEAK {
                // A strong write over the thread's own weak one, with no release between: who has to know of the
                // weak one still has to.
                new = written;
            }
        }
        let read = self.reads[word].load(Relaxed);
        if self.is_open(read, mine, floor, who) {
            result = result.and(self.write_after_read(word, read, mask, who, lane, how));
        }
        if self.domain == Domain::Shared {
            let read = self.others[word].load(Relaxed);
            if self.is_open(read, mine, floor, who) {
                result = result.and(self.write_after_read(word, read, mask, who, lane, how));
            }
        }
        // No stamp without an epoch: they have run out.
        if mine >> stamp::EPOCH != 0 {
            self.writes[word].store(new, Relaxed);
        }
        result
    }

    /// Whether the access of a stamp must be looked at closely: there was one, not by the same thread, and it is
    /// not surely ordered before this one (or is under way).
    #[inline(always)]
    fn is_open(&self, stamp: u64, mine: u64, floor: u64, who: &Who<'_>) -> bool {
        stamp >= floor
            && (stamp ^ mine) & stamp::THREAD != 0
            && (stamp & stamp::KINDS == stamp::PENDING || !who.surely_knows(self.domain, stamp))
    }

    /// Who made the access of a stamp, and whether `lane` of `who` knows of it. `None` for what lies before the
    /// launch or block.
    fn decode(&self, stamp: u64, who: &Who<'_>, lane: usize) -> Option<Earlier> {
        let epoch = (stamp >> stamp::EPOCH) as u32;
        let (block, direct) = match self.domain {
            Domain::Shared => (who.block, epoch),
            Domain::Global if u64::from(epoch) << stamp::EPOCH < who.floor(Domain::Global) => return None,
            Domain::Global => who.launch.epochs.get(epoch),
        };
        let thread = thread_of(block, direct, stamp);
        let clock = clock_of(direct);
        let own_block = block == who.block;
        if own_block && clock <= who.base {
            return None;
        }
        let own_agent = own_block && thread.warp == who.agent;
        let exact = stamp & stamp::SPECIAL == 0 || stamp & stamp::KINDS == stamp::SAME_VALUE;
        let same_thread = own_agent && thread.lane as usize == lane && exact;
        // Of several lanes: those that are known may be all that count, beside the thread itself.
        let some =
            stamp & stamp::KINDS == stamp::MIXED || own_agent && !exact && thread.lane as usize == lane;
        let known =
            same_thread || who.knows(lane, thread, clock) || some && who.knows_some(lane, thread, clock);
        Some(Earlier {
            thread,
            clock,
            known,
            own_agent,
        })
    }

    #[cold]
    fn read_after(
        &self,
        word: usize,
        written: u64,
        mask: u64,
        who: &Who<'_>,
        lane: usize,
        how: How,
    ) -> Result<(), Hazard> {
        let both = written >> stamp::MASK & mask;
        if both == 0 {
            return Ok(());
        }
        let Some(earlier) = self.decode(written, who, lane) else {
            return Ok(());
        };
        self.check_pending(word, both, written, &earlier)?;
        let kind = written & stamp::KINDS;
        if earlier.known
            || kind == stamp::SAME_VALUE
            || kind == stamp::MIXED && earlier.own_agent
            || both_strong(kind, how, same_block(&earlier, who))
        {
            return Ok(());
        }
        Err(race(
            RaceKind::ReadAfterWrite,
            word,
            both,
            written,
            &earlier,
            kind == stamp::MIXED,
        ))
    }

    #[cold]
    fn write_after_read(
        &self,
        word: usize,
        read: u64,
        mask: u64,
        who: &Who<'_>,
        lane: usize,
        how: How,
    ) -> Result<(), Hazard> {
        let both = read >> stamp::MASK & mask;
        if both == 0 {
            return Ok(());
        }
        let Some(earlier) = self.decode(read, who, lane) else {
            return Ok(());
        };
        let kind = read & stamp::KINDS;
        if earlier.known
            || kind == stamp::MIXED && earlier.own_agent
            || both_strong(kind, how, same_block(&earlier, who))
        {
            return Ok(());
        }
        Err(race(
            RaceKind::WriteAfterRead,
            word,
            both,
            read,
            &earlier,
            kind & stamp::SPECIAL != 0,
        ))
    }

    /// Checks a write against the last one and gives the stamp to store.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)]
    fn write_after_write(
        &self,
        word: usize,
        written: u64,
        new: u64,
        who: &Who<'_>,
        lane: usize,
        how: How,
        same_value: bool,
    ) -> Result<u64, Hazard> {
        let both = (written & new & stamp::MASKS) >> stamp::MASK;
        let Some(earlier) = self.decode(written, who, lane) else {
            return Ok(new);
        };
        self.check_pending(word, both, written, &earlier)?;
        let kind = written & stamp::KINDS;
        // One warp's lanes at one clock, weak: one record for all of them where they do not conflict.
        let together = (written ^ new) >> stamp::EPOCH == 0
            && matches!(kind, stamp::WEAK | stamp::MIXED)
            && how == How::Weak;
        let merged = new | stamp::MIXED | written & stamp::MASKS;
        if both == 0 {
            return Ok(if together { merged } else { new });
        }
        let strong = both_strong(kind, how, same_block(&earlier, who));
        if earlier.known || strong || kind == stamp::MIXED && earlier.own_agent {
            return Ok(if together { merged } else { new });
        }
        // Not so of a thread that has read the word: where two blocks add to a number at the very same time, on two host threads,
        // neither may have seen the other's read, and both write the same.
        let has_read = || !same_block(&earlier, who) && self.has_read(word, who, lane);
        if same_value && !has_read() {
            return Ok(if together {
                merged
            } else {
                new & !stamp::KINDS | stamp::SAME_VALUE
            });
        }
        Err(race(
            RaceKind::WriteAfterWrite,
            word,
            both,
            written,
            &earlier,
            kind == stamp::MIXED,
        ))
    }

    /// Whether the read that is kept of a word is the thread's own, in this launch.
    fn has_read(&self, word: usize, who: &Who<'_>, lane: usize) -> bool {
        let read = self.decode(self.reads[word].load(Relaxed), who, lane);
        read.is_some_and(|read| read.own_agent && read.thread.lane as usize == lane)
    }

    /// Keeps a read of words whose stamps are alike beside, or instead of, the reads that are known.
    #[inline(never)]
    fn note_read(&self, words: Range<usize>, old: u64, new: u64, who: &Who<'_>, lane: usize) {
        if new >> stamp::EPOCH == 0 {
            return;
        }
        let kind = old & stamp::KINDS;
        let new_kind = new & stamp::KINDS;
        if (old ^ new) >> stamp::EPOCH == 0 {
            // The same warp at the same clock.
            let masks = (old | new) & stamp::MASKS;
            let store = if matches!(kind, stamp::CTA | stamp::WIDE) {
                // Both strong, or the weak one, which conflicts with more.
                new
            } else if new_kind != stamp::WEAK {
                old
            } else if kind == stamp::WEAK && (old ^ new) & stamp::LANES == 0 {
                new | masks
            } else if kind != stamp::MIXED && (old ^ new) & stamp::MASKS == 0 {
                new & !stamp::KINDS | stamp::SAME_BYTES
            } else {
                new & !stamp::KINDS | masks | stamp::MIXED
            };
            if store != old {
                put(&self.reads[words], store);
            }
            return;
        }
        // Not ordered: what a writer has least chance to know of by accident, the greatest clock.
        match self.decode(old, who, lane) {
            Some(earlier) if !earlier.known && !earlier.own_agent => {
                // The last writer often writes again, and its own read says nothing about that.
                let writer = self.decode(self.writes[words.start].load(Relaxed), who, lane);
                let writes = |block, warp, lane| {
                    writer.as_ref().is_some_and(|w| {
                        (w.thread.block, w.thread.warp, w.thread.lane) == (block, warp, lane)
                    })
                };
                let thread = earlier.thread;
                let keep_old = if writes(who.block, who.agent, lane as u32) {
                    true
                } else if writes(thread.block, thread.warp, thread.lane) {
                    false
                } else {
                    earlier.clock >= who.clock
                };
                let (keep, other) = if keep_old { (old, new) } else { (new, old) };
                put(&self.reads[words.clone()], keep);
                if self.domain == Domain::Shared {
                    self.note_other(words, other, who, lane);
                }
            }
            _ => put(&self.reads[words], new),
        }
    }

    /// A strong write was read strongly. What comes after such a read, in its thread or where other
    /// synchronisation leads from there, is ordered after the write (causality order holds observed writes, fence
    /// or not); which accesses these are is not kept, so none is reported against this write any more.
    fn note_seen(&self, word: usize, written: u64, mine: u64) {
        if (written ^ mine) & stamp::THREAD != 0 {
            let seen = written | stamp::SEEN;
            // Fails if somebody has written since, which this read has not seen.
            let _ = self.writes[word].compare_exchange(written, seen, Relaxed, Relaxed);
        }
    }

    fn note_other(&self, words: Range<usize>, new: u64, who: &Who<'_>, lane: usize) {
        let old = self.others[words.start].load(Relaxed);
        let replace = match self.decode(old, who, lane) {
            Some(earlier) => earlier.known || clock_of((new >> stamp::EPOCH) as u32) > earlier.clock,
            None => true,
        };
        if old == 0 || replace {
            put(&self.others[words], new);
        }
    }

    #[inline]
    fn check_pending(&self, word: usize, both: u64, written: u64, earlier: &Earlier) -> Result<(), Hazard> {
        if both == 0 || written & stamp::KINDS != stamp::PENDING {
            return Ok(());
        }
        Err(Hazard::AsyncPending {
            offset: word as u64 * 4 + u64::from(both.trailing_zeros()),
            issuer: earlier.thread,
            issuer_pc: pc_of(written),
        })
    }
}

/// A stamp without epoch and mask.
#[inline(always)]
fn plain(lane: usize, how: How, pc: u32) -> u64 {
    let kind = match how {
        How::Weak => stamp::WEAK,
        How::Strong(Scope::Cta) => stamp::CTA,
        How::Strong(_) => stamp::WIDE,
    };
    u64::from(pc.min(stamp::PC_MAX)) << stamp::PC | (lane as u64) << stamp::LANE | kind
}

/// Whether a read adds nothing to one that stands for several lanes of the same warp at the same clock.
#[inline(always)]
fn repeats(read: u64, new: u64) -> bool {
    (read ^ new) >> stamp::EPOCH == 0
        && match read & stamp::KINDS {
            stamp::SAME_BYTES => (read ^ new) & stamp::MASKS == 0,
            stamp::MIXED => new & !read & stamp::MASKS == 0,
            _ => false,
        }
}

fn pc_of(stamp: u64) -> Option<u32> {
    let pc = (stamp >> stamp::PC) as u32 & stamp::PC_MAX;
    (pc != stamp::PC_MAX).then_some(pc)
}

fn thread_of(block: u32, direct: u32, stamp: u64) -> Thread {
    Thread {
        block,
        warp: direct >> CLOCK_BITS,
        lane: (stamp >> stamp::LANE & 31) as u32,
    }
}

fn clock_of(direct: u32) -> u32 {
    direct & CLOCK_MAX
}

/// Whether two accesses are by threads of one block. What other blocks of the cluster do in the block's memory is done by
/// agents.
fn same_block(earlier: &Earlier, who: &Who<'_>) -> bool {
    let agent = |warp: u32| warp as usize >= WARPS;
    earlier.thread.block == who.block && agent(earlier.thread.warp) == agent(who.agent)
}

/// Whether two accesses are strong towards each other, or the earlier is a strong write that was seen: no race,
/// whatever their order.
fn both_strong(kind: u64, how: How, same_block: bool) -> bool {
    if kind == stamp::SEEN {
        return true;
    }
    let How::Strong(scope) = how else {
        return false;
    };
    match kind {
        stamp::CTA => same_block,
        stamp::WIDE => same_block || scope != Scope::Cta,
        _ => false,
    }
}

#[cold]
fn race(kind: RaceKind, word: usize, both: u64, stamp: u64, earlier: &Earlier, many: bool) -> Hazard {
    Hazard::Race(Race {
        kind,
        offset: word as u64 * 4 + u64::from(both.trailing_zeros()),
        other: earlier.thread,
        other_many: many,
        other_pc: pc_of(stamp),
        other_how: match stamp & stamp::KINDS {
            stamp::CTA => How::Strong(Scope::Cta),
            stamp::WIDE => How::Strong(Scope::Gpu),
            _ => How::Weak,
        },
        other_async: earlier.thread.warp as usize >= WARPS,
    })
}

/// The words of a range of several whole ones.
#[inline(always)]
fn whole_words(offset: u64, bytes: usize) -> Option<Range<usize>> {
    let word = (offset / 4) as usize;
    (bytes > 4 && offset.is_multiple_of(4) && bytes.is_multiple_of(4)).then_some(word..word + bytes / 4)
}

/// The stamp of all these words, if they have the same.
#[inline(always)]
fn alike(stamps: &[AtomicU64]) -> Option<u64> {
    let first = stamps[0].load(Relaxed);
    let differ = stamps[1..]
        .iter()
        .fold(0, |differ, stamp| differ | stamp.load(Relaxed) ^ first);
    (differ == 0).then_some(first)
}

#[inline(always)]
fn put(stamps: &[AtomicU64], stamp: u64) {
    for at in stamps {
        at.store(stamp, Relaxed);
    }
}

/// Calls `f` with each word that the range touches and the mask of the bytes in it; the first hazard, but only
/// after all of them, so that one report does not lead to others.
#[inline(always)]
fn for_words(
    offset: u64,
    bytes: usize,
    mut f: impl FnMut(usize, u64) -> Result<(), Hazard>,
) -> Result<(), Hazard> {
    debug_assert!((1..=64).contains(&bytes));
    let word = (offset / 4) as usize;
    let low = offset % 4;
    let mut result = Ok(());
    if low == 0 && bytes.is_multiple_of(4) {
        for word in word..word + bytes / 4 {
            if let Err(hazard) = f(word, 15) {
                result = result.and(Err(hazard));
            }
        }
        return result;
    }
    let last = ((offset + bytes as u64 - 1) / 4) as usize;
    for at in word..=last {
        let from = if at == word { low } else { 0 };
        let to = (offset + bytes as u64 - at as u64 * 4).min(4);
        if let Err(hazard) = f(at, (1 << to) - (1 << from)) {
            result = result.and(Err(hazard));
        }
    }
    result
}

/// Calls `f` with each 64-bit word of initialised bits that the range touches and its bits, until it says false.
fn for_bits(offset: u64, bytes: u64, mut f: impl FnMut(usize, u64) -> bool) {
    let end = offset + bytes;
    let mut at = offset;
    while at < end {
        let low = at % 64;
        let count = (64 - low).min(end - at);
        if !f((at / 64) as usize, u64::MAX >> (64 - count) << low) {
            return;
        }
        at += count;
    }
}
