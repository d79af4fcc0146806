//! What the checks cost: `cargo test --release -p softcuda --test memory_speed -- --ignored --nocapture`.

use std::time::Instant;

use softcuda::ir::{Order, Scope};
use softcuda::memory::{BlockClocks, DeviceMemory, Domain, How, Kind, Shadow, Var};

/// Nanoseconds for each of `count` things that `f` does, best of several runs.
fn time(name: &str, count: usize, mut f: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / count as f64);
    }
    println!("{name:55} {best:8.1} ns");
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    const WARPS: usize = 8;
    let mut memory = DeviceMemory::new(1 << 30);
    let launch = memory.begin_launch();
    let shared = Shadow::new(64 << 10, Domain::Shared);
    let global = Shadow::new(1 << 20, Domain::Global);
    global.set_initialised(0, 1 << 20);
    let mut clocks = BlockClocks::new(&launch);
    clocks.begin_block(0, WARPS as u32 * 32, &shared, 64 << 10);
    shared.set_initialised(0, 64 << 10);
    let all: Vec<_> = (0..WARPS).map(|warp| (warp, u32::MAX)).collect();
    const ROUNDS: usize = 16;

    for (space, shadow) in [("shared", &shared), ("global", &global)] {
        for bytes in [2usize, 4, 16] {
            // Every warp its own rows; then all warps read what others wrote.
            let row = |warp: usize, index: usize| {
                let mut offsets = [0; 32];
                for (lane, offset) in offsets.iter_mut().enumerate() {
                    *offset = (((warp * 4 + index) * 32 + lane) * bytes) as u64;
                }
                offsets
            };
            let count = ROUNDS * WARPS * 4 * 32;
            time(&format!("{space}: write, {bytes} bytes, per lane"), count, || {
                for _ in 0..ROUNDS {
                    for warp in 0..WARPS {
                        for index in 0..4 {
                            let (who, at) = (clocks.who(warp), row(warp, index));
                            shadow
                                .write_lanes(&at, u32::MAX, bytes, &who, How::Weak, 0, 1)
                                .unwrap();
                        }
                    }
                    clocks.barrier(&all);
                }
            });
            time(
                &format!("{space}: read of own rows, {bytes} bytes, per lane"),
                count,
                || {
                    for _ in 0..ROUNDS {
                        for warp in 0..WARPS {
                            for index in 0..4 {
                                let (who, at) = (clocks.who(warp), row(warp, index));
                                shadow
                                    .read_lanes(&at, u32::MAX, bytes, &who, How::Weak, 1)
                                    .unwrap();
                            }
                        }
                        clocks.barrier(&all);
                    }
                },
            );
            time(
                &format!("{space}: all warps read one's rows, {bytes} bytes, per lane"),
                count,
                || {
                    for _ in 0..ROUNDS {
                        for warp in 0..WARPS {
                            for index in 0..4 {
                                let (who, at) = (clocks.who(warp), row(7 - index, index));
                                shadow
                                    .read_lanes(&at, u32::MAX, bytes, &who, How::Weak, 1)
                                    .unwrap();
                            }
                        }
                        clocks.barrier(&all);
                    }
                },
            );
            clocks.barrier(&all);
        }
        time(
            &format!("{space}: all lanes read one word, per lane"),
            ROUNDS * WARPS * 32,
            || {
                for _ in 0..ROUNDS {
                    for warp in 0..WARPS {
                        let who = clocks.who(warp);
                        shadow
                            .read_lanes(&[64; 32], u32::MAX, 4, &who, How::Weak, 1)
                            .unwrap();
                    }
                    clocks.barrier(&all);
                }
            },
        );
        time(
            &format!("{space}: red of one word, per lane"),
            ROUNDS * WARPS * 32,
            || {
                for _ in 0..ROUNDS {
                    for warp in 0..WARPS {
                        for lane in 0..32 {
                            let var = Var::Global(1 << 20);
                            clocks.before_strong_write(
                                warp,
                                1 << lane,
                                var,
                                Order::Relaxed,
                                Scope::Gpu,
                                true,
                            );
                            let who = clocks.who(warp);
                            shadow.atomic(4096, 4, &who, lane, Scope::Gpu, 1).unwrap();
                            clocks.after_strong_read(warp, 1 << lane, var, Order::Relaxed, Scope::Gpu);
                        }
                    }
                    clocks.barrier(&all);
                }
            },
        );
    }
    let touch = |clocks: &BlockClocks, warps: usize| {
        for warp in 0..warps {
            let _ = clocks.who(warp);
        }
    };
    time("barrier of 8 warps", 1000, || {
        for _ in 0..1000 {
            touch(&clocks, WARPS);
            clocks.barrier(&all);
        }
    });
    time("warp_sync", 1000, || {
        for _ in 0..1000 {
            touch(&clocks, 1);
            clocks.warp_sync(0, u32::MAX);
        }
    });
    time("fence of a warp", 1000, || {
        for _ in 0..1000 {
            touch(&clocks, 1);
            clocks.fence(0, u32::MAX, Scope::Gpu);
        }
    });
    time("release by a warp, acquire by another", 1000, || {
        for _ in 0..1000 {
            touch(&clocks, 1);
            let published = clocks.release(0, u32::MAX);
            clocks.acquire(1, u32::MAX, &published);
        }
    });
    time("release store, acquire load by one lane, warp_sync", 1000, || {
        for _ in 0..1000 {
            touch(&clocks, 1);
            let var = Var::Shared(0);
            clocks.before_strong_write(0, 1, var, Order::Release, Scope::Cta, false);
            clocks.after_strong_read(1, 1, var, Order::Acquire, Scope::Cta);
            clocks.warp_sync(1, u32::MAX);
        }
    });
    time("begin_block, 8 warps, 64 KiB", 1000, || {
        for block in 0..1000 {
            clocks.begin_block(block, 256, &shared, 64 << 10);
        }
    });

    // A cooperative grid: every barrier is 200 × (2 block barriers, 2 fences, an atomic, a few polls).
    const BLOCKS: usize = 200;
    let launch = memory.begin_launch();
    let mut blocks: Vec<_> = (0..BLOCKS)
        .map(|block| {
            let mut clocks = BlockClocks::new(&launch);
            clocks.begin_block(block as u32, 256, &shared, 0);
            clocks
        })
        .collect();
    let counter = Var::Global(4096);
    time(
        "grid barrier of 200 blocks of 8 warps, per block",
        20 * BLOCKS,
        || {
            for _ in 0..20 {
                for clocks in &mut blocks {
                    touch(clocks, WARPS);
                    clocks.barrier(&all);
                    clocks.fence(0, 1, Scope::Gpu);
                    clocks.before_strong_write(0, 1, counter, Order::Relaxed, Scope::Gpu, true);
                    clocks.after_strong_read(0, 1, counter, Order::Relaxed, Scope::Gpu);
                    clocks.after_strong_read(0, 1, counter, Order::Relaxed, Scope::Gpu);
                }
                for clocks in &mut blocks {
                    for _ in 0..3 {
                        clocks.after_strong_read(0, 1, counter, Order::Relaxed, Scope::Gpu);
                    }
                    clocks.fence(0, 1, Scope::Gpu);
                    clocks.barrier(&all);
                }
            }
        },
    );
    time("read of another block's word, known, per lane", 100 * 32, || {
        let (first, second) = (&blocks[17], &blocks[170]);
        global
            .write_lanes(
                &std::array::from_fn(|lane| lane as u64 * 4),
                0,
                4,
                &first.who(0),
                How::Weak,
                0,
                1,
            )
            .unwrap();
        for _ in 0..100 {
            let offsets = std::array::from_fn(|lane| lane as u64 * 4);
            global
                .read_lanes(&offsets, u32::MAX, 4, &second.who(0), How::Weak, 1)
                .unwrap();
        }
    });

    let mut addresses = Vec::new();
    time("allocate 4 KiB", 1000, || {
        for _ in 0..1000 {
            addresses.push(memory.allocate(4096, Kind::Device, "cuMemAlloc").unwrap());
        }
    });
    let (mut hint, mut sum) = (0, 0);
    time("find_cached, same allocation", 1_000_000, || {
        for index in 0..1_000_000u64 {
            sum += memory
                .find_cached(addresses[5] + index % 4096, &mut hint)
                .unwrap()
                .bytes();
        }
    });
    time("find_cached, another of 7000", 1_000_000, || {
        for index in 0..1_000_000 {
            sum += memory
                .find_cached(addresses[index * 7919 % 7000], &mut hint)
                .unwrap()
                .bytes();
        }
    });
    assert_ne!(sum, 0);
}
