//! Allocations and race detection. Every rule of the memory model has a racy order that is found and its
//! corrected twin that is not; random programs are compared with exact vector clocks in `memory_random.rs`.

use softcuda::ir::{Order, Scope};
use softcuda::memory::{
    BlockClocks, DeviceMemory, Domain, Hazard, How, Kind, Launch, Pattern, Published, RaceKind, Shadow, Var,
};

const ALL: u32 = u32::MAX;
const WEAK: How = How::Weak;

/// One block with shared memory, and some global memory that it shares with others.
struct Block<'a> {
    clocks: BlockClocks,
    shared: Shadow,
    global: &'a Shadow,
}

impl<'a> Block<'a> {
    fn new(launch: &Launch, block: u32, warps: u32, global: &'a Shadow) -> Self {
        let shared = Shadow::new(4096, Domain::Shared);
        let mut clocks = BlockClocks::new(launch);
        clocks.begin_block(block, warps * 32, &shared, 4096);
        shared.set_initialised(0, 4096);
        Self {
            clocks,
            shared,
            global,
        }
    }

    fn shadow(&self, var: Var) -> (&Shadow, u64) {
        match var {
            Var::Shared(offset) => (&self.shared, offset.into()),
            Var::Global(offset) => (self.global, offset),
        }
    }

    fn read(&self, at: Var, warp: usize, lane: usize) -> Result<(), Hazard> {
        let (shadow, offset) = self.shadow(at);
        shadow.read(offset, 4, &self.clocks.who(warp), lane, WEAK, 10)
    }

    fn write(&self, at: Var, warp: usize, lane: usize) -> Result<(), Hazard> {
        let (shadow, offset) = self.shadow(at);
        shadow.write(offset, 4, &self.clocks.who(warp), lane, WEAK, false, 20)
    }

    fn load(&mut self, at: Var, warp: usize, lane: usize, order: Order, scope: Scope) -> Result<(), Hazard> {
        let (shadow, offset) = self.shadow(at);
        shadow.read(offset, 4, &self.clocks.who(warp), lane, How::Strong(scope), 30)?;
        self.clocks.after_strong_read(warp, 1 << lane, at, order, scope);
        Ok(())
    }

    fn store(&mut self, at: Var, warp: usize, lane: usize, order: Order, scope: Scope) -> Result<(), Hazard> {
        self.clocks
            .before_strong_write(warp, 1 << lane, at, order, scope, false);
        let (shadow, offset) = self.shadow(at);
        shadow.write(
            offset,
            4,
            &self.clocks.who(warp),
            lane,
            How::Strong(scope),
            false,
            40,
        )
    }

    fn add(&mut self, at: Var, warp: usize, lane: usize, order: Order, scope: Scope) -> Result<(), Hazard> {
        self.clocks
            .before_strong_write(warp, 1 << lane, at, order, scope, true);
        let (shadow, offset) = self.shadow(at);
        shadow.atomic(offset, 4, &self.clocks.who(warp), lane, scope, 50)?;
        self.clocks.after_strong_read(warp, 1 << lane, at, order, scope);
        Ok(())
    }

    fn sync(&mut self, warps: usize) {
        let participants: Vec<_> = (0..warps).map(|warp| (warp, ALL)).collect();
        self.clocks.barrier(&participants);
    }
}

fn launch() -> Launch {
    DeviceMemory::new(1 << 20).begin_launch()
}

fn global() -> Shadow {
    let shadow = Shadow::new(4096, Domain::Global);
    shadow.set_initialised(0, 4096);
    shadow
}

/// The race's kind and the other thread's (block, warp, lane).
#[track_caller]
fn raced(result: Result<(), Hazard>) -> (RaceKind, (u32, u32, u32)) {
    match result {
        Err(Hazard::Race(race)) => (race.kind, (race.other.block, race.other.warp, race.other.lane)),
        other => panic!("no race: {other:?}"),
    }
}

/// Data and a flag, in both spaces.
const PAIRS: [(Var, Var); 2] = [
    (Var::Shared(64), Var::Shared(128)),
    (Var::Global(64), Var::Global(128)),
];

#[test]
fn barriers_order_warps() {
    for (data, _) in PAIRS {
        let (launch, global) = (launch(), global());
        let mut block = Block::new(&launch, 3, 2, &global);
        block.write(data, 0, 7).unwrap();
        assert_eq!(
            raced(block.read(data, 1, 0)),
            (RaceKind::ReadAfterWrite, (3, 0, 7))
        );
        assert_eq!(
            raced(block.write(data, 1, 0)),
            (RaceKind::WriteAfterWrite, (3, 0, 7))
        );
        block.sync(2);
        block.read(data, 1, 0).unwrap();
        assert_eq!(
            raced(block.write(data, 0, 7)),
            (RaceKind::WriteAfterRead, (3, 1, 0))
        );
        block.sync(2);
        block.write(data, 0, 7).unwrap();
        // After the barrier is not before it.
        raced(block.read(data, 1, 0));
    }
}

#[test]
fn messages_name_the_other_instruction() {
    let (launch, global) = (launch(), global());
    let block = Block::new(&launch, 0, 2, &global);
    block.write(Var::Shared(0), 0, 5).unwrap();
    let Err(Hazard::Race(race)) = block.read(Var::Shared(0), 1, 1) else {
        panic!("no race");
    };
    assert_eq!(
        (race.other_pc, race.offset, race.other.in_block()),
        (Some(20), 0, 5)
    );
    assert!(!race.other_async && !race.other_many);
}

#[test]
fn warp_mates_need_a_warp_barrier() {
    for (data, _) in PAIRS {
        let (launch, global) = (launch(), global());
        let mut block = Block::new(&launch, 0, 1, &global);
        block.write(data, 0, 0).unwrap();
        block.read(data, 0, 0).unwrap();
        assert_eq!(
            raced(block.read(data, 0, 1)),
            (RaceKind::ReadAfterWrite, (0, 0, 0))
        );
        block.clocks.warp_sync(0, ALL);
        block.read(data, 0, 1).unwrap();
        raced(block.write(data, 0, 0));
        block.clocks.warp_sync(0, ALL);
        block.write(data, 0, 0).unwrap();
        // A warp's barrier is none for others.
        let mut block = Block::new(&launch, 1, 2, &global);
        block.write(Var::Shared(0), 0, 0).unwrap();
        block.clocks.warp_sync(0, ALL);
        block.clocks.warp_sync(1, ALL);
        raced(block.read(Var::Shared(0), 1, 0));
    }
}

#[test]
fn threads_know_their_own_accesses() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    block.write(Var::Shared(0), 0, 3).unwrap();
    block.clocks.fence(0, 1 << 3, Scope::Gpu);
    block.read(Var::Shared(0), 0, 3).unwrap();
    block.write(Var::Shared(0), 0, 3).unwrap();
    raced(block.read(Var::Shared(0), 0, 4));
}

#[test]
fn writes_of_the_same_value_are_no_race() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    let write = |block: &Block<'_>, warp: usize, lane: usize, same| {
        let who = block.clocks.who(warp);
        block.shared.write(0, 4, &who, lane, WEAK, same, 1)
    };
    write(&block, 0, 0, false).unwrap();
    write(&block, 0, 1, true).unwrap();
    write(&block, 1, 0, true).unwrap();
    // Each reads back what it wrote itself.
    block.read(Var::Shared(0), 0, 0).unwrap();
    block.read(Var::Shared(0), 1, 0).unwrap();
    assert_eq!(raced(write(&block, 1, 1, false)).0, RaceKind::WriteAfterWrite);
    block.sync(2);
    write(&block, 1, 1, false).unwrap();
    assert_eq!(raced(write(&block, 0, 1, false)).0, RaceKind::WriteAfterWrite);
}

/// Two blocks add to a number at the very same time: the read of the second is seen by nobody, and it writes what the first
/// has written.
#[test]
fn what_was_read_is_not_written_by_two_blocks() {
    let (launch, global) = (launch(), global());
    let [first, second] = [0, 1].map(|block| Block::new(&launch, block, 1, &global));
    let write = |block: &Block<'_>, offset: u64, same| {
        global.write(offset, 4, &block.clocks.who(0), 0, WEAK, same, 1)
    };
    second.read(Var::Global(0), 0, 0).unwrap();
    // What the first block's host thread finds that does not see this read yet.
    let _ = write(&first, 0, false);
    let race = raced(write(&second, 0, true));
    assert_eq!(race, (RaceKind::WriteAfterWrite, (0, 0, 0)));
    // Who has not read it, or something else, may write the same.
    second.read(Var::Global(8), 0, 0).unwrap();
    write(&first, 4, false).unwrap();
    write(&second, 4, true).unwrap();
}

#[test]
fn a_report_has_no_sequel() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    block.shared.set_uninitialised(0, 1024);
    block.write(Var::Shared(0), 0, 0).unwrap();
    // The first lane races; the others' bytes, and its own, are written all the same.
    let offsets = std::array::from_fn(|lane| lane as u64 * 16);
    let who = block.clocks.who(1);
    let result = block.shared.write_lanes(&offsets, ALL, 16, &who, WEAK, 0, 1);
    assert!(matches!(result, Err((0, Hazard::Race(_)))));
    block.shared.read_lanes(&offsets, ALL, 16, &who, WEAK, 2).unwrap();
    block.sync(2);
    assert_eq!(block.shared.first_uninitialised(0, 512), None);
    assert_eq!(block.shared.first_uninitialised(0, 513), Some(512));
    let add = block.add(Var::Shared(512), 0, 0, Order::Relaxed, Scope::Cta);
    assert_eq!(add, Err(Hazard::Uninitialised { offset: 512 }));
    block
        .add(Var::Shared(512), 0, 0, Order::Relaxed, Scope::Cta)
        .unwrap();
}

#[test]
fn parts_of_a_word_are_told_apart() {
    let (launch, global) = (launch(), global());
    let block = Block::new(&launch, 0, 2, &global);
    let (first, second) = (block.clocks.who(0), block.clocks.who(1));
    let shadow = &block.shared;
    for lane in 0..4 {
        shadow
            .write(lane as u64, 1, &first, lane, WEAK, false, 1)
            .unwrap();
    }
    // Own bytes are fine (which lane wrote which is forgotten), another warp's are not.
    shadow.read(2, 1, &first, 2, WEAK, 1).unwrap();
    raced(shadow.read(2, 1, &second, 2, WEAK, 1));
    // Halves by two warps.
    shadow.write(8, 2, &first, 0, WEAK, false, 1).unwrap();
    shadow.write(10, 2, &second, 0, WEAK, false, 1).unwrap();
    raced(shadow.read(10, 2, &first, 0, WEAK, 1));
    // An access across words.
    shadow.write(18, 1, &first, 0, WEAK, false, 1).unwrap();
    let Err(Hazard::Race(race)) = shadow.read(15, 4, &second, 0, WEAK, 1) else {
        panic!("no race");
    };
    assert_eq!(race.offset, 18);
    shadow.read(15, 3, &second, 0, WEAK, 1).unwrap();
    // All bytes of the widest access.
    shadow.write(60, 4, &first, 0, WEAK, false, 1).unwrap();
    raced(shadow.write(32, 32, &second, 0, WEAK, false, 1));
    shadow.write(64, 32, &second, 0, WEAK, false, 1).unwrap();
}

#[test]
fn several_readers_are_remembered() {
    for readers in [vec![0, 1], vec![1, 0], vec![0, 1, 2, 3]] {
        for writer in [0, 1] {
            let (launch, global) = (launch(), global());
            let mut block = Block::new(&launch, 0, 4, &global);
            for &warp in &readers {
                for lane in 0..32 {
                    block.read(Var::Shared(0), warp, lane).unwrap();
                }
            }
            assert_eq!(
                raced(block.write(Var::Shared(0), writer, 0)).0,
                RaceKind::WriteAfterRead
            );
            block.sync(4);
            block.write(Var::Shared(0), writer, 0).unwrap();
        }
    }
    // All lanes of one warp read, one of them writes: the others may still be reading.
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 1, &global);
    for lane in 0..32 {
        block.read(Var::Shared(0), 0, lane).unwrap();
    }
    raced(block.write(Var::Shared(0), 0, 31));
    block.clocks.warp_sync(0, ALL);
    block.write(Var::Shared(0), 0, 31).unwrap();
}

#[test]
fn a_named_barrier_orders_its_warps_only() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 3, &global);
    block.write(Var::Shared(0), 0, 0).unwrap();
    block.clocks.barrier(&[(0, ALL), (1, ALL)]);
    block.read(Var::Shared(0), 1, 0).unwrap();
    raced(block.read(Var::Shared(0), 2, 0));
}

#[test]
fn arriving_releases_and_does_not_acquire() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    // Warp 0 produces and arrives, warp 1 syncs.
    block.write(Var::Shared(0), 0, 0).unwrap();
    block.write(Var::Shared(4), 1, 0).unwrap();
    let mut barrier = Published::default();
    barrier.join(&block.clocks.release(0, ALL));
    block.write(Var::Shared(8), 0, 0).unwrap();
    barrier.join(&block.clocks.release(1, ALL));
    block.clocks.acquire(1, ALL, &barrier);
    block.read(Var::Shared(0), 1, 0).unwrap();
    // What was written after the arrival is not covered, nor has the producer waited.
    raced(block.read(Var::Shared(8), 1, 0));
    raced(block.read(Var::Shared(4), 0, 0));
    block.clocks.acquire(0, ALL, &barrier);
    block.read(Var::Shared(4), 0, 0).unwrap();
}

#[test]
fn a_lane_that_acquires_alone_knows_alone() {
    for (data, flag) in PAIRS {
        let (launch, global) = (launch(), global());
        let mut block = Block::new(&launch, 0, 2, &global);
        block.write(data, 0, 0).unwrap();
        block.store(flag, 0, 0, Order::Release, Scope::Gpu).unwrap();
        block.load(flag, 1, 4, Order::Acquire, Scope::Gpu).unwrap();
        block.read(data, 1, 4).unwrap();
        raced(block.read(data, 1, 5));
        // The warp's barrier passes it on, to the lanes that take part.
        block.clocks.warp_sync(1, 1 << 4 | 1 << 6);
        block.read(data, 1, 6).unwrap();
        raced(block.read(data, 1, 5));
        block.clocks.warp_sync(1, ALL);
        block.read(data, 1, 5).unwrap();
    }
}

#[test]
fn exited_lanes_are_not_waited_for() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    block.clocks.exit(1, 0xFFFF_0000);
    block.write(Var::Shared(0), 0, 0).unwrap();
    let released = block.clocks.release(0, ALL);
    block.clocks.acquire(1, 0x1, &released);
    block.clocks.warp_sync(1, 0xFFFF);
    for lane in 0..16 {
        block.read(Var::Shared(0), 1, lane).unwrap();
    }
}

#[test]
fn fences_make_relaxed_accesses_synchronise() {
    for (data, flag) in PAIRS {
        // (fence before the store, fence after the load, data written after the fence)
        for (release, acquire, late) in [
            (true, true, false),
            (false, true, false),
            (true, false, false),
            (true, true, true),
        ] {
            let (launch, global) = (launch(), global());
            let mut block = Block::new(&launch, 0, 2, &global);
            if !late {
                block.write(data, 0, 0).unwrap();
            }
            if release {
                block.clocks.fence(0, 1, Scope::Gpu);
            }
            if late {
                block.write(data, 0, 0).unwrap();
            }
            block.store(flag, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
            block.load(flag, 1, 9, Order::Relaxed, Scope::Gpu).unwrap();
            if acquire {
                block.clocks.fence(1, 1 << 9, Scope::Gpu);
            }
            let read = block.read(data, 1, 9);
            if release && acquire && !late {
                read.unwrap();
            } else {
                raced(read);
            }
        }
    }
}

#[test]
fn fences_are_the_lanes_own() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    let (data, flag) = PAIRS[1];
    block.write(data, 0, 0).unwrap();
    block.clocks.fence(0, 1, Scope::Gpu);
    // Another lane of the warp sets the flag: no release pattern.
    block.store(flag, 0, 1, Order::Relaxed, Scope::Gpu).unwrap();
    block.load(flag, 1, 0, Order::Acquire, Scope::Gpu).unwrap();
    raced(block.read(data, 1, 0));
    block.store(flag, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
    block.load(flag, 1, 0, Order::Acquire, Scope::Gpu).unwrap();
    block.read(data, 1, 0).unwrap();
}

#[test]
fn release_sequences() {
    for (data, flag) in PAIRS {
        let (launch, global) = (launch(), global());
        let mut block = Block::new(&launch, 0, 3, &global);
        block.write(data, 0, 0).unwrap();
        block.store(flag, 0, 0, Order::Release, Scope::Gpu).unwrap();
        // An atomic operation of a third thread in between keeps the release alive.
        block.add(flag, 1, 0, Order::Relaxed, Scope::Gpu).unwrap();
        block.load(flag, 2, 0, Order::Acquire, Scope::Gpu).unwrap();
        block.read(data, 2, 0).unwrap();
        raced(block.read(data, 1, 0));
    }
    // A plain store of another thread does not, in shared memory.
    let (data, flag) = PAIRS[0];
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 3, &global);
    block.write(data, 0, 0).unwrap();
    block.store(flag, 0, 0, Order::Release, Scope::Cta).unwrap();
    block.store(flag, 0, 0, Order::Relaxed, Scope::Cta).unwrap();
    block.load(flag, 2, 0, Order::Acquire, Scope::Cta).unwrap();
    block.read(data, 2, 0).unwrap();
    block.store(flag, 1, 0, Order::Relaxed, Scope::Cta).unwrap();
    block.load(flag, 2, 1, Order::Acquire, Scope::Cta).unwrap();
    raced(block.read(data, 2, 1));
}

#[test]
fn block_scope_does_not_reach_other_blocks() {
    let (data, flag) = PAIRS[1];
    for (release, acquire) in [
        (Scope::Gpu, Scope::Gpu),
        (Scope::Sys, Scope::Cluster),
        (Scope::Cta, Scope::Gpu),
        (Scope::Gpu, Scope::Cta),
    ] {
        let (launch, global) = (launch(), global());
        let mut first = Block::new(&launch, 0, 1, &global);
        let mut second = Block::new(&launch, 1, 1, &global);
        first.write(data, 0, 0).unwrap();
        first.store(flag, 0, 0, Order::Release, release).unwrap();
        let _ = second.load(flag, 0, 0, Order::Acquire, acquire);
        let read = second.read(data, 0, 0);
        if release != Scope::Cta && acquire != Scope::Cta {
            read.unwrap();
        } else {
            assert_eq!(raced(read), (RaceKind::ReadAfterWrite, (0, 0, 0)));
        }
    }
    // The same with fences: a fence's scope bounds what a wide store publishes.
    for (fence, fine) in [(Scope::Gpu, true), (Scope::Cta, false)] {
        let (launch, global) = (launch(), global());
        let mut first = Block::new(&launch, 0, 2, &global);
        let mut second = Block::new(&launch, 1, 1, &global);
        first.write(data, 0, 0).unwrap();
        first.clocks.fence(0, 1, fence);
        first.store(flag, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
        first.load(flag, 1, 0, Order::Acquire, Scope::Gpu).unwrap();
        first.read(data, 1, 0).unwrap();
        second.load(flag, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
        second.clocks.fence(0, 1, Scope::Gpu);
        assert_eq!(second.read(data, 0, 0).is_ok(), fine);
    }
    // And the acquiring fence's.
    let (launch, global) = (launch(), global());
    let mut first = Block::new(&launch, 0, 1, &global);
    let mut second = Block::new(&launch, 1, 1, &global);
    first.write(data, 0, 0).unwrap();
    first.store(flag, 0, 0, Order::Release, Scope::Gpu).unwrap();
    second.load(flag, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
    second.clocks.fence(0, 1, Scope::Cta);
    raced(second.read(data, 0, 0));
    second.clocks.fence(0, 1, Scope::Gpu);
    second.read(data, 0, 0).unwrap();
}

#[test]
fn strong_accesses_do_not_race_with_each_other() {
    let at = Var::Global(0);
    let (launch, global) = (launch(), global());
    let mut first = Block::new(&launch, 0, 2, &global);
    let mut second = Block::new(&launch, 1, 1, &global);
    first.add(at, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
    first.load(at, 1, 0, Order::Relaxed, Scope::Gpu).unwrap();
    second.add(at, 0, 0, Order::Relaxed, Scope::Sys).unwrap();
    second.store(at, 0, 1, Order::Relaxed, Scope::Gpu).unwrap();
    // Too narrow for another block.
    raced(first.add(at, 0, 0, Order::Relaxed, Scope::Cta));
    // Weak against strong, both ways round.
    raced(second.read(at, 0, 0));
    let at = Var::Global(12);
    first.add(at, 0, 0, Order::Relaxed, Scope::Cta).unwrap();
    first.add(at, 1, 0, Order::Relaxed, Scope::Cta).unwrap();
    raced(second.load(at, 0, 0, Order::Relaxed, Scope::Gpu));
    let at = Var::Global(4);
    first.read(at, 0, 0).unwrap();
    raced(second.add(at, 0, 0, Order::Relaxed, Scope::Gpu));
    let at = Var::Global(8);
    first.load(at, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
    raced(second.write(at, 0, 0));
}

#[test]
fn a_flag_that_was_seen_may_be_used_weakly() {
    for (_, flag) in PAIRS {
        let (launch, global) = (launch(), global());
        let mut block = Block::new(&launch, 0, 2, &global);
        block.store(flag, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
        // Without having seen the store: a race.
        raced(block.read(flag, 1, 1));
        let (launch, global) = (self::launch(), self::global());
        let mut block = Block::new(&launch, 0, 2, &global);
        block.store(flag, 0, 0, Order::Release, Scope::Gpu).unwrap();
        block.load(flag, 1, 0, Order::Acquire, Scope::Gpu).unwrap();
        block.read(flag, 1, 0).unwrap();
        block.write(flag, 1, 0).unwrap();
        // Its weak use is an access like any other.
        raced(block.read(flag, 0, 0));
    }
}

/// The grid barrier of cooperative groups: block barrier, thread 0 fences, counts, polls, fences, block barrier.
fn arrive(block: &mut Block<'_>, warps: usize, counter: Var, fence: bool) {
    block.sync(warps);
    if fence {
        block.clocks.fence(0, 1, Scope::Gpu);
    }
    block.add(counter, 0, 0, Order::Relaxed, Scope::Gpu).unwrap();
}

fn depart(block: &mut Block<'_>, warps: usize, counter: Var, fence: bool) {
    for _ in 0..3 {
        block.load(counter, 0, 0, Order::Relaxed, Scope::Sys).unwrap();
    }
    if fence {
        block.clocks.fence(0, 1, Scope::Gpu);
    }
    block.sync(warps);
}

#[test]
fn grid_barriers() {
    for (before, after) in [(true, true), (false, true), (true, false)] {
        let (launch, global) = (launch(), global());
        let mut blocks: Vec<_> = (0..3)
            .map(|block| Block::new(&launch, block, 2, &global))
            .collect();
        let counter = Var::Global(1024);
        let word = |block: usize, warp: usize| Var::Global((block * 2 + warp) as u64 * 4);
        for round in 0..3 {
            for (index, block) in blocks.iter_mut().enumerate() {
                for warp in 0..2 {
                    block.write(word(index, warp), warp, 31).unwrap();
                }
            }
            blocks
                .iter_mut()
                .for_each(|block| arrive(block, 2, counter, before));
            blocks
                .iter_mut()
                .for_each(|block| depart(block, 2, counter, after));
            for (index, block) in blocks.iter_mut().enumerate() {
                for other in 0..3 {
                    for warp in 0..2 {
                        let read = block.read(word(other, warp), 1 - warp, 3);
                        if before && after || other == index {
                            read.unwrap();
                        } else {
                            assert_eq!(raced(read).0, RaceKind::ReadAfterWrite, "round {round}");
                        }
                    }
                }
            }
            if !(before && after) {
                break;
            }
            // Without a second barrier the next round's writes race with these reads.
            raced(blocks[0].write(word(0, 0), 0, 31));
            blocks
                .iter_mut()
                .for_each(|block| arrive(block, 2, counter, true));
            blocks
                .iter_mut()
                .for_each(|block| depart(block, 2, counter, true));
        }
    }
}

#[test]
fn look_back_through_many_blocks() {
    // Each block adds to what its predecessor has published, and publishes: knowledge passes down the chain, also
    // beyond the number of blocks that a view tells apart.
    let (launch, global) = (launch(), Shadow::new(64 << 10, Domain::Global));
    global.set_initialised(0, 64 << 10);
    let blocks = 1500;
    for index in 0..blocks {
        let mut block = Block::new(&launch, index, 1, &global);
        let (data, flag) = (u64::from(index) * 8, u64::from(index) * 8 + 4);
        if index > 0 {
            block
                .load(Var::Global(flag - 8), 0, 0, Order::Relaxed, Scope::Gpu)
                .unwrap();
            block.clocks.fence(0, 1, Scope::Gpu);
            for back in [1, 2, 3, 700] {
                if index >= back {
                    block.read(Var::Global(data - 8 * u64::from(back)), 0, 0).unwrap();
                }
            }
        }
        block.write(Var::Global(data), 0, 0).unwrap();
        block.clocks.fence(0, 1, Scope::Gpu);
        block
            .store(Var::Global(flag), 0, 0, Order::Relaxed, Scope::Gpu)
            .unwrap();
        if index > 0 && index + 1 < blocks {
            // The next one has published nothing yet.
            block
                .load(Var::Global(flag + 8), 0, 0, Order::Acquire, Scope::Gpu)
                .unwrap();
        }
    }
    let last = Block::new(&launch, blocks, 1, &global);
    raced(last.read(Var::Global(0), 0, 0));
}

#[test]
fn asynchronous_copies_are_pending_until_waited_for() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    block.shared.set_uninitialised(0, 64);
    block
        .shared
        .mark_pending(0, 16, &block.clocks.who(0), 3, 77)
        .unwrap();
    for (warp, lane) in [(0, 3), (0, 4), (1, 0)] {
        let write = block.write(Var::Shared(12), warp, lane);
        let Err(Hazard::AsyncPending {
            offset,
            issuer,
            issuer_pc,
        }) = write
        else {
            panic!("{write:?}");
        };
        assert_eq!(
            (offset, issuer.warp, issuer.lane, issuer_pc),
            (12, 0, 3, Some(77))
        );
    }
    // Nothing has arrived either, but the copy says more.
    let read = block.read(Var::Shared(0), 0, 3);
    assert!(
        matches!(read, Err(Hazard::AsyncPending { offset: 0, .. })),
        "{read:?}"
    );
    // A barrier is no wait.
    block.sync(2);
    assert!(matches!(
        block.write(Var::Shared(0), 1, 0),
        Err(Hazard::AsyncPending { .. })
    ));
    block.shared.complete_pending(0, 16, &block.clocks.who(0), 3, 77);
    block.read(Var::Shared(12), 0, 3).unwrap();
    raced(block.read(Var::Shared(12), 0, 4));
    raced(block.read(Var::Shared(0), 1, 0));
    block.sync(2);
    block.read(Var::Shared(0), 1, 0).unwrap();
    // The copy itself must not overtake readers.
    raced(block.shared.mark_pending(0, 4, &block.clocks.who(0), 3, 78));
    block.shared.complete_pending(0, 4, &block.clocks.who(0), 3, 78);
    block.sync(2);
    block
        .shared
        .mark_pending(0, 4, &block.clocks.who(0), 3, 78)
        .unwrap();
}

#[test]
fn asynchronous_agents_are_known_after_acquiring() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 2, &global);
    let stages = [block.clocks.async_agent(512), block.clocks.async_agent(520)];
    assert_ne!(stages[0], stages[1]);
    assert_eq!(stages[0], block.clocks.async_agent(512));
    // Warp 1 still reads the buffer that the copy will fill.
    block.read(Var::Shared(0), 1, 0).unwrap();
    for (stage, agent) in stages.into_iter().enumerate() {
        block.clocks.async_begin(agent, 0, 5);
        let who = block.clocks.who_async(agent);
        let write = block.shared.write(stage as u64 * 16, 16, &who, 5, WEAK, false, 9);
        match stage {
            0 => assert_eq!(raced(write), (RaceKind::WriteAfterRead, (0, 1, 0))),
            _ => write.unwrap(),
        }
    }
    let published = block.clocks.async_end(stages[1]);
    let Err(Hazard::Race(race)) = block.read(Var::Shared(16), 0, 5) else {
        panic!("no race");
    };
    assert!(race.other_async && race.other.warp >= 32 && race.other_pc == Some(9));
    block.clocks.acquire(0, 1 << 5, &published);
    block.read(Var::Shared(16), 0, 5).unwrap();
    raced(block.read(Var::Shared(16), 1, 5));

    // Waiting for the wrong stage does not help.
    let mut block = Block::new(&launch, 1, 1, &global);
    let stages = [block.clocks.async_agent(0), block.clocks.async_agent(1)];
    for (stage, agent) in stages.into_iter().enumerate() {
        block.clocks.async_begin(agent, 0, 0);
        let who = block.clocks.who_async(agent);
        block
            .shared
            .write(stage as u64 * 16, 16, &who, 0, WEAK, false, 9)
            .unwrap();
    }
    let second = block.clocks.async_end(stages[1]);
    block.clocks.acquire(0, ALL, &second);
    block.read(Var::Shared(16), 0, 1).unwrap();
    raced(block.read(Var::Shared(0), 0, 1));
    let first = block.clocks.async_end(stages[0]);
    block.clocks.acquire(0, ALL, &first);
    block.read(Var::Shared(0), 0, 1).unwrap();
}

#[test]
fn a_new_block_starts_clean_on_the_same_shadow() {
    let (launch, global) = (launch(), global());
    let mut block = Block::new(&launch, 0, 4, &global);
    for round in 1..5 {
        block.write(Var::Shared(0), 3, 0).unwrap();
        block.sync(4);
        block.write(Var::Shared(4), 2, 0).unwrap();
        block
            .shared
            .mark_pending(8, 4, &block.clocks.who(1), 0, 1)
            .unwrap();
        block
            .clocks
            .begin_block(round, if round % 2 == 0 { 128 } else { 40 }, &block.shared, 4096);
        assert_eq!(
            block.read(Var::Shared(0), 0, 0),
            Err(Hazard::Uninitialised { offset: 0 })
        );
        for offset in [0, 4, 8] {
            block.write(Var::Shared(offset), 0, 0).unwrap();
            block.read(Var::Shared(offset), 0, 0).unwrap();
            raced(block.read(Var::Shared(offset), 1, 0));
        }
        block.clocks.begin_block(round, 128, &block.shared, 4096);
    }
}

#[test]
fn launches_follow_each_other() {
    let mut memory = DeviceMemory::new(1 << 20);
    let global = global();
    let first = memory.begin_launch();
    Block::new(&first, 0, 1, &global)
        .write(Var::Global(0), 0, 7)
        .unwrap();
    Block::new(&first, 1, 1, &global)
        .read(Var::Global(4), 0, 0)
        .unwrap();
    let second = memory.begin_launch();
    assert_eq!((first.number(), second.number()), (1, 2));
    // A dependent launch that has not waited yet may ask.
    let touch = global.touched_by_launch(0, 4, &second, 1).unwrap();
    assert!(touch.wrote);
    assert_eq!((touch.thread.lane, touch.pc), (7, Some(20)));
    let touch = global.touched_by_launch(4, 8, &second, 1).unwrap();
    assert!(!touch.wrote && touch.offset == 4 && touch.thread.block == 1);
    assert_eq!(global.touched_by_launch(8, 32, &second, 1), None);
    assert_eq!(global.touched_by_launch(0, 16, &second, 2), None);
    let block = Block::new(&second, 1, 1, &global);
    block.read(Var::Global(0), 0, 0).unwrap();
    block.write(Var::Global(4), 0, 0).unwrap();
    assert!(global.touched_by_launch(0, 8, &second, 2).unwrap().wrote);
    let third = memory.begin_launch();
    assert!(global.touched_by_launch(4, 4, &third, 2).unwrap().wrote);
    // What launch 2 did not read, launch 1's read still stands for.
    assert!(!global.touched_by_launch(4, 4, &third, 1).unwrap().wrote);
    assert!(global.touched_by_launch(8, 4, &third, 1).is_none());
}

#[test]
fn uninitialised_bytes_are_exact() {
    let (launch, global) = (launch(), global());
    let block = Block::new(&launch, 0, 1, &global);
    let who = block.clocks.who(0);
    let shadow = Shadow::new(301, Domain::Global);
    assert_eq!(
        shadow.read(0, 1, &who, 0, WEAK, 0),
        Err(Hazard::Uninitialised { offset: 0 })
    );
    shadow.write(60, 8, &who, 0, WEAK, false, 0).unwrap();
    shadow.read(60, 8, &who, 0, WEAK, 0).unwrap();
    for (offset, bytes, first) in [(59, 4, 59), (62, 8, 68), (64, 16, 68), (56, 16, 56)] {
        let read = shadow.read(offset, bytes, &who, 0, WEAK, 0);
        assert_eq!(read, Err(Hazard::Uninitialised { offset: first }));
    }
    assert_eq!(
        shadow.atomic(66, 4, &who, 0, Scope::Gpu, 0),
        Err(Hazard::Uninitialised { offset: 68 })
    );
    shadow.set_initialised(68, 233);
    shadow.read(300, 1, &who, 0, WEAK, 0).unwrap();
    assert_eq!(shadow.first_uninitialised(0, 301), Some(0));
    assert_eq!(shadow.first_uninitialised(60, 241), None);
    shadow.set_uninitialised(128, 64);
    assert_eq!(shadow.first_uninitialised(60, 241), Some(128));
    assert_eq!(shadow.first_uninitialised(192, 109), None);
}

#[test]
fn allocations_end_at_the_byte() {
    let mut memory = DeviceMemory::new(64 << 20);
    let mut spans = Vec::new();
    for bytes in [1u64, 3, 255, 256, 257, 4096, 100_000, 1 << 20, 9_000_001] {
        let address = memory.allocate(bytes, Kind::Device, "cuMemAlloc").unwrap();
        assert_eq!(address % if bytes >= 1 << 20 { 512 } else { 256 }, 0);
        assert!((1 << 47..1u64 << 48).contains(&address));
        let allocation = memory.find(address + bytes - 1).unwrap();
        assert_eq!((allocation.address(), allocation.bytes()), (address, bytes));
        assert!(allocation.contains(address, bytes) && !allocation.contains(address, bytes + 1));
        assert!(allocation.contains(address + bytes - 1, 1) && !allocation.contains(address + bytes, 1));
        assert!(!allocation.contains(address + 1, u64::MAX));
        // Red zones of 256 bytes at least.
        for outside in [address - 1, address - 256, address + bytes, address + bytes + 255] {
            assert!(memory.find(outside).is_none());
        }
        let mut data = vec![0; bytes as usize];
        memory.read(address, &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == 0xFF), "poisoned");
        memory.write(address, &vec![7; bytes as usize]).unwrap();
        spans.push((address, bytes));
    }
    for (address, bytes) in &spans {
        let mut data = vec![0; *bytes as usize];
        memory.read(*address, &mut data).unwrap();
        assert!(data.iter().all(|byte| *byte == 7));
        let mut hint = 12345;
        assert_eq!(memory.find_cached(*address, &mut hint).unwrap().bytes(), *bytes);
        assert_eq!(
            memory
                .find_cached(address + bytes - 1, &mut hint)
                .unwrap()
                .bytes(),
            *bytes
        );
    }
    assert_eq!(memory.live().count(), spans.len());
    assert_eq!(memory.live().map(|allocation| allocation.serial()).max(), Some(9));
}

#[test]
fn memory_runs_out_and_comes_back() {
    let mut memory = DeviceMemory::new(1 << 20);
    assert_eq!(memory.usage(), (1 << 20, 1 << 20));
    let half = memory.allocate(512 << 10, Kind::Device, "cuMemAlloc").unwrap();
    let error = memory
        .allocate((512 << 10) + 1, Kind::Pool, "cuMemAllocAsync")
        .unwrap_err();
    assert_eq!(
        (error.wanted, error.free, error.total),
        ((512 << 10) + 1, 512 << 10, 1 << 20)
    );
    memory.free(half).unwrap();
    assert_eq!(memory.usage(), (1 << 20, 1 << 20));
    memory.set_limit(1000);
    memory.allocate(1500, Kind::Device, "cuMemAlloc").unwrap_err();
    // Pinned memory is the host's.
    memory.allocate(1500, Kind::Pinned, "cuMemHostAlloc").unwrap();
    memory.set_limit(1 << 20);
    // Many times the device's size: what was freed is used again in the end.
    for round in 0..1_000 {
        let address = memory.allocate(1 << 19, Kind::Device, "cuMemAlloc").unwrap();
        memory.fill(address, Pattern::U8(round as u8), 8).unwrap();
        memory.free(address).unwrap();
    }
}

#[test]
fn freed_memory_is_not_reused_at_once() {
    let mut memory = DeviceMemory::new(1 << 20);
    let first = memory.allocate(1024, Kind::Device, "cuMemAlloc").unwrap();
    memory.free(first).unwrap();
    let others: Vec<_> = (0..100)
        .map(|_| memory.allocate(1024, Kind::Device, "cuMemAlloc").unwrap())
        .collect();
    assert!(others.iter().all(|other| other.abs_diff(first) >= 1024));
    assert!(memory.find(first).is_none());
    let explained = memory.explain(first + 12, 4);
    assert_eq!(
        explained,
        format!("12 bytes into freed allocation #1 (cuMemAlloc, 1024 bytes at {first:#x})")
    );
    assert!(
        memory
            .read(first, &mut [0; 4])
            .unwrap_err()
            .message
            .contains(&explained[13..])
    );
}

#[test]
fn bad_frees_are_explained() {
    use softcuda::memory::BadFree;
    let mut memory = DeviceMemory::new(1 << 20);
    let address = memory.allocate(1024, Kind::Device, "cuMemAlloc").unwrap();
    let interior = memory.free(address + 16).unwrap_err();
    assert!(matches!(&interior, BadFree::Interior { message } if message.contains("16 bytes into")));
    memory.free(address).unwrap();
    let double = memory.free(address).unwrap_err();
    assert!(matches!(&double, BadFree::Double { message } if message.contains("freed before")));
    for unknown in [0, 8, address + 1_000_000, 0x1234_5678_9abc] {
        assert!(matches!(memory.free(unknown), Err(BadFree::Unknown { .. })));
    }
}

#[test]
fn addresses_are_explained() {
    let mut memory = DeviceMemory::new(1 << 30);
    let a = memory.allocate(1024, Kind::Device, "cuMemAlloc").unwrap();
    let b = memory.allocate(50, Kind::Device, "cuMemAllocAsync").unwrap();
    let huge = memory.allocate(64 << 20, Kind::Device, "cuMemAlloc").unwrap();
    let c = memory.allocate(50, Kind::Device, "cuMemAlloc").unwrap();
    assert!(a < b && b < huge && huge < c);
    let first = format!("the 1024-byte allocation #1 (cuMemAlloc) at {a:#x}");
    let second = format!("the 50-byte allocation #2 (cuMemAllocAsync) at {b:#x}");
    assert_eq!(
        memory.explain(a + 1024, 4),
        format!("right past the end of {first}")
    );
    assert_eq!(
        memory.explain(a + 1028, 4),
        format!("4 bytes past the end of {first}")
    );
    assert_eq!(memory.explain(b - 1, 4), format!("1 byte before {second}"));
    assert_eq!(
        memory.explain(a + 1020, 16),
        format!("1020 bytes into {first}, of which the last 12 lie past its end")
    );
    assert_eq!(memory.explain(a + 8, 8), format!("8 bytes into {first}"));
    assert_eq!(memory.explain(0, 4), "a null pointer");
    assert_eq!(memory.explain(16, 4), "a null pointer plus 16");
    let host = [0u8; 64];
    assert_eq!(
        memory.explain(host.as_ptr() as u64, 4),
        "a host pointer that was never registered"
    );
    assert_eq!(memory.explain((1 << 48) - 4096, 4), "no allocation is near");
    assert_eq!(
        memory.explain(1 << 55, 4),
        "no allocation is near: not an address of this device"
    );
    assert!(
        memory
            .explain(u64::MAX - 15, 4)
            .starts_with("never-written memory")
    );
    memory.free(huge).unwrap();
    assert!(
        memory
            .explain(huge + 70_000, 4)
            .starts_with("70000 bytes into freed allocation #3")
    );
}

#[test]
fn host_memory_has_its_own_address() {
    let mut memory = DeviceMemory::new(1 << 20);
    for kind in [Kind::Pinned, Kind::Managed] {
        let address = memory.allocate(100_000, kind, "cuMemHostAlloc").unwrap();
        // SAFETY: the address of pinned memory is a host address.
        unsafe { (address as *mut u8).write_bytes(42, 100_000) };
        let mut byte = [0];
        memory.read(address + 99_999, &mut byte).unwrap();
        assert_eq!(byte, [42]);
        assert_eq!(
            memory
                .find(address)
                .unwrap()
                .shadow()
                .first_uninitialised(0, 100_000),
            None
        );
        memory.free(address).unwrap();
        assert!(
            memory
                .explain(address + 4, 4)
                .starts_with("4 bytes into freed allocation")
        );
    }
    let mut own = vec![0u8; 1001];
    let start = own.as_mut_ptr();
    // SAFETY: `own` lives until it is unregistered.
    let address = unsafe { memory.register_host(start, 1001, "cuMemHostRegister") }.unwrap();
    assert_eq!(address, start as u64);
    memory.write(address + 1000, &[9]).unwrap();
    memory.write(address + 1000, &[9, 9]).unwrap_err();
    // SAFETY: `own` lives until it is unregistered; this range overlaps it and is refused.
    unsafe { memory.register_host(start.wrapping_add(500), 10, "cuMemHostRegister") }.unwrap_err();
    memory.free(address).unwrap_err();
    memory.unregister_host(start).unwrap();
    memory.unregister_host(start).unwrap_err();
    assert_eq!(own[1000], 9);
    let device = memory.allocate(16, Kind::Device, "cuMemAlloc").unwrap();
    memory.unregister_host(device as *mut u8).unwrap_err();
}

#[test]
fn copies_take_initialised_bits_along() {
    let mut memory = DeviceMemory::new(1 << 20);
    let from = memory.allocate(1000, Kind::Device, "cuMemAlloc").unwrap();
    let to = memory.allocate(1000, Kind::Device, "cuMemAlloc").unwrap();
    let missing = |address: u64| {
        let allocation = memory.find(address).unwrap();
        let offset = allocation.offset(address);
        allocation.shadow().first_uninitialised(offset, 1) == Some(offset)
    };
    // Every length and skew against a model of one bool per byte.
    let mut seed = 1u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from((seed >> 8) % below)
    };
    let mut model = [[false; 1000], [false; 1000]];
    for _ in 0..400 {
        let (a, b) = (random(2) as usize, random(2) as usize);
        let most = if random(2) == 0 { 20 } else { 300 };
        let bytes = random(most);
        let (x, y) = (random(700), random(700));
        let base = |index: usize| if index == 0 { from } else { to };
        if random(3) == 0 {
            memory.write(base(a) + x, &vec![1; bytes as usize]).unwrap();
            model[a][x as usize..(x + bytes) as usize].fill(true);
        } else if random(4) == 0 {
            let allocation = memory.find(base(a)).unwrap();
            allocation.shadow().set_uninitialised(x, bytes);
            model[a][x as usize..(x + bytes) as usize].fill(false);
        } else {
            memory.copy(base(a) + x, base(b) + y, bytes).unwrap();
            let moved = model[b][y as usize..(y + bytes) as usize].to_vec();
            model[a][x as usize..(x + bytes) as usize].copy_from_slice(&moved);
        }
        for (index, state) in model.iter().enumerate() {
            for (at, set) in state.iter().enumerate() {
                assert_eq!(missing(base(index) + at as u64), !set);
            }
        }
    }
    // As memmove.
    memory.write(from, &[1, 2, 3, 4, 5]).unwrap();
    memory.copy(from + 1, from, 4).unwrap();
    let mut data = [0; 5];
    memory.read(from, &mut data).unwrap();
    assert_eq!(data, [1, 1, 2, 3, 4]);
    memory.copy(to + 999, from, 2).unwrap_err();
    memory.copy(to, from + 999, 2).unwrap_err();
    memory.copy(0, 0, 0).unwrap();
}

#[test]
fn fills_repeat_their_pattern() {
    let mut memory = DeviceMemory::new(1 << 20);
    let address = memory.allocate(12, Kind::Device, "cuMemAlloc").unwrap();
    memory.fill(address, Pattern::U8(1), 12).unwrap();
    memory.fill(address, Pattern::U32(0x0403_0201), 2).unwrap();
    memory.fill(address + 8, Pattern::U16(0x0605), 1).unwrap();
    let mut data = [0; 12];
    memory.read(address, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 1, 1]);
    memory.fill(address, Pattern::U16(0), 7).unwrap_err();
    memory.fill(address, Pattern::U32(0), u64::MAX / 2).unwrap_err();
    let error = memory.fill(address + 4, Pattern::U32(0), 3).unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "memset of 12 bytes at {:#x}: 4 bytes into the 12-byte allocation #1 (cuMemAlloc) at {address:#x}, \
             of which the last 4 lie past its end",
            address + 4
        )
    );
}

#[test]
fn a_huge_device_costs_nothing() {
    let mut memory = DeviceMemory::new(80 << 30);
    let (free, total) = memory.usage();
    assert_eq!(free, total);
    let bytes = total / 2;
    let address = memory.allocate(bytes, Kind::Device, "cuMemAlloc").unwrap();
    let end = address + bytes;
    let mut data = [0; 16];
    for at in [address, address + bytes / 2, end - 16] {
        memory.read(at, &mut data).unwrap();
        assert_eq!(data, [0xFF; 16]);
        memory.write(at, &[5; 16]).unwrap();
        memory.read(at, &mut data).unwrap();
        assert_eq!(data, [5; 16]);
    }
    memory.free(address).unwrap();
}
