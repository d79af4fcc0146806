//! Cooperative groups.

use softcuda::run::check::Check;

use super::harness::{Args, Random, Shape};
use super::{load, randoms, seeds};

#[test]
fn tiles_of_every_size() {
    let Some((mut gpu, module)) = load("groups.cu") else {
        return;
    };
    let (grid, block) = (2, 256);
    let total = grid * block;
    for size in [4, 16, 32, 64, 128] {
        // Across warps, the last one's first lane acquires what the others wrote and tells its neighbours so by
        // __shfl_sync alone (cooperative_groups/details/sync.h, sync_warps_last_releases), and one collective's
        // outcome is read and the next one's written with no more than that or a redux between. CUDA C++ Programming
        // Guide, on the shuffles: "These intrinsics do not imply a memory barrier. They do not guarantee any memory
        // ordering." Among a warp's lanes bar.warp.sync does (PTX ISA). In lock step the answer is right.
        let relies_on_lock_step = size > 32;
        gpu.device.settings.without = if relies_on_lock_step {
            vec![Check::Race]
        } else {
            vec![]
        };
        for seed in seeds() {
            let data: Vec<u32> = randoms(&mut Random(seed), total);
            let (input, out) = (gpu.upload(&data), gpu.alloc(4 * 6 * total));
            gpu.launch(
                &module,
                &format!("tiles_of_{size}"),
                Shape::new(grid as u32, block as u32),
                &Args::new().with(input).with(out),
            );
            let rows = if size <= 32 { 6 } else { 4 };
            let out: Vec<u32> = gpu.download(out, rows * total);
            let sum = |part: &[u32]| part.iter().copied().fold(0, u32::wrapping_add);
            for i in 0..total {
                let tile = &data[i / size * size..][..size];
                let rank = i % size;
                let mut want = vec![
                    sum(tile),
                    *tile.iter().max().expect("a tile"),
                    sum(&tile[..=rank]),
                    sum(&tile[..rank]),
                ];
                if size <= 32 {
                    want.push(tile[size - 1]);
                    want.push((0..size).fold(0, |m, l| m | u32::from(tile[l] > tile[0]) << l));
                }
                let got: Vec<u32> = (0..rows).map(|row| out[row * total + i]).collect();
                assert_eq!(got, want, "tiles of {size}, thread {i}");
            }
        }
    }
}

#[test]
fn coalesced_and_labeled_groups() {
    let Some((mut gpu, module)) = load("groups.cu") else {
        return;
    };
    let n = 256;
    for seed in seeds() {
        let mut random = Random(seed);
        let data: Vec<u32> = (0..n).map(|_| random.below(1000)).collect();
        let (input, counter) = (gpu.upload(&data), gpu.zeros(4));
        let (places, sums) = (gpu.alloc(4 * n), gpu.alloc(4 * n));
        let args = Args::new().with(input).with(counter).with(places).with(sums);
        gpu.launch(&module, "coalesced", Shape::new(2, 128), &args);
        let (places, sums): (Vec<u32>, Vec<u32>) = (gpu.download(places, n), gpu.download(sums, n));
        let mut taken: Vec<u32> = places.iter().copied().filter(|&p| p != u32::MAX).collect();
        taken.sort_unstable();
        let odd = data.iter().filter(|&v| v % 2 == 1).count() as u32;
        assert!(taken.iter().copied().eq(0..odd), "places {taken:?}");
        assert_eq!(gpu.download::<u32>(counter, 1), [odd]);
        for i in 0..n {
            let warp = &data[i / 32 * 32..][..32];
            let group: u32 = warp.iter().filter(|&v| v % 2 == 1).sum();
            let own = if data[i] % 2 == 1 { group } else { 0 };
            assert_eq!(places[i] == u32::MAX, data[i].is_multiple_of(2), "thread {i}");
            let label = warp.iter().filter(|&v| v % 5 == data[i] % 5).count() as u32;
            let half = warp.iter().filter(|&&v| (v > 500) == (data[i] > 500)).count() as u32;
            // softcuda keeps the odd lanes of a warp together in their branch.
            assert_eq!(sums[i], own + 1000 * label + 100_000 * half, "thread {i}");
        }
    }
}

#[test]
fn copies_of_a_group() {
    let Some((mut gpu, module)) = load("groups.cu") else {
        return;
    };
    for (n, threads) in [(1, 32), (300, 64), (1777, 96), (4000, 128)] {
        let data: Vec<u32> = randoms(&mut Random(21), n);
        let (input, out) = (gpu.upload(&data), gpu.alloc(4 * n));
        let shape = Shape {
            shared: 1200,
            ..Shape::new(2, threads)
        };
        let args = Args::new().with(input).with(out).with(n as i32);
        gpu.launch(&module, "copied", shape, &args);
        let want: Vec<u32> = data.chunks(300).flat_map(|c| c.iter().rev().copied()).collect();
        assert_eq!(gpu.download::<u32>(out, n), want, "{n} words, {threads} threads");
    }
}

#[test]
fn grids_wait_for_each_other() {
    let Some((mut gpu, module)) = load("groups.cu") else {
        return;
    };
    for (threads, seed) in [(1, None), (3, None), (3, Some(1)), (3, Some(2))] {
        gpu.device.settings.threads = threads;
        gpu.device.settings.seed = seed;
        for (grid, block) in [(1, 32), (5, 64), (9, 96)] {
            let n = grid * block;
            let shape = Shape {
                cooperative: true,
                ..Shape::new(grid as u32, block as u32)
            };
            let mut a: Vec<u32> = randoms(&mut Random(31), n);
            let (da, db) = (gpu.upload(&a), gpu.alloc(4 * n));
            let args = Args::new().with(da).with(db).with(5i32);
            gpu.launch(&module, "rounds", shape, &args);
            for _ in 0..5 {
                a = (0..n)
                    .map(|i| a[i].wrapping_add(a[(i + block + 1) % n]))
                    .collect();
            }
            // Five rounds: the last one wrote to b.
            assert_eq!(
                gpu.download::<u32>(db, n),
                a,
                "{grid} blocks, {threads} threads, {seed:?}"
            );

            let (da, db) = (gpu.alloc(4 * n), gpu.alloc(4 * n));
            gpu.launch(&module, "halves", shape, &Args::new().with(da).with(db));
            let want: Vec<u32> = (0..n as u32)
                .map(|i| i * i + 3 * (n as u32 - 1 - i) + 1)
                .collect();
            assert_eq!(gpu.download::<u32>(db, n), want, "{grid} blocks, halves");
        }
    }
}
