//! What blocks of a cluster do together, against plain loops.

use super::harness::{Args, Ended, Gpu, Random, Shape, shuffled};
use softcuda::machine::Invalid;
use softcuda::memory::{Fill, Swizzle, TensorMap};

fn shape(grid: [u32; 3], block: u32, cluster: [u32; 3]) -> Shape {
    Shape {
        grid,
        cluster: Some(cluster),
        ..Shape::new(1, block)
    }
}

fn in_some_orders(test: impl Fn()) {
    test();
    for seed in 1..=if super::all() { 20 } else { 3 } {
        shuffled(seed, &test);
    }
}

#[test]
fn blocks_read_each_others_shared_memory() {
    in_some_orders(|| {
        let mut gpu = Gpu::new();
        let Some(module) = gpu.load("clusters.cu") else {
            return;
        };
        for (grid, cluster) in [
            ([8u32, 1, 1], [8u32, 1, 1]),
            ([6, 4, 1], [2, 2, 1]),
            ([5, 2, 1], [1, 2, 1]),
        ] {
            let blocks = (grid[0] * grid[1]) as usize;
            let mut random = Random(1);
            let numbers: Vec<u32> = (0..64 * blocks).map(|_| random.next()).collect();
            let (out, places) = (gpu.alloc(256 * blocks), gpu.alloc(4 * blocks));
            let args = Args::new().with(gpu.upload(&numbers)).with(out).with(places);
            gpu.launch(&module, "sum_over_cluster", shape(grid, 64, cluster), &args);
            let (out, places): (Vec<u32>, Vec<u32>) =
                (gpu.download(out, 64 * blocks), gpu.download(places, blocks));
            let cluster_of = |block: usize| {
                let (x, y) = (block as u32 % grid[0], block as u32 / grid[0]);
                (x / cluster[0], y / cluster[1])
            };
            for block in 0..blocks {
                let (x, y) = (block as u32 % grid[0], block as u32 / grid[0]);
                let rank = x % cluster[0] + cluster[0] * (y % cluster[1]);
                let place = (x / cluster[0])
                    | ((x % cluster[0]) << 8)
                    | ((grid[1] / cluster[1]) << 16)
                    | (rank << 24);
                assert_eq!(places[block], place, "block {block} of {grid:?}, {cluster:?}");
                for i in 0..64 {
                    let want = (0..blocks)
                        .filter(|&other| cluster_of(other) == cluster_of(block))
                        .fold(0u32, |sum, other| sum.wrapping_add(numbers[64 * other + i]));
                    assert_eq!(out[64 * block + i], want, "block {block}, {i}");
                }
            }
        }
    });
}

#[test]
fn blocks_push_into_each_others_shared_memory() {
    in_some_orders(|| {
        let mut gpu = Gpu::new();
        let Some(module) = gpu.load("clusters.cu") else {
            return;
        };
        let (blocks, size) = (12usize, 4usize);
        let numbers: Vec<u32> = (0..128 * blocks as u32).collect();
        let (out, plain) = (gpu.alloc(512 * blocks), gpu.alloc(128 * blocks));
        let args = Args::new().with(gpu.upload(&numbers)).with(out).with(plain);
        gpu.launch(
            &module,
            "pass_around_cluster",
            shape([12, 1, 1], 32, [4, 1, 1]),
            &args,
        );
        let before = |block: usize| block / size * size + (block + size - 1) % size;
        let want: Vec<u32> = (0..blocks)
            .flat_map(|b| numbers[128 * before(b)..][..128].to_vec())
            .collect();
        assert_eq!(gpu.download::<u32>(out, 128 * blocks), want);
        let want: Vec<u32> = (0..blocks)
            .flat_map(|b| (0..32).map(move |i| (100 * before(b) + i) as u32))
            .collect();
        assert_eq!(gpu.download::<u32>(plain, 32 * blocks), want);
    });
}

#[test]
fn a_multicast_reaches_every_block() {
    in_some_orders(|| {
        let mut gpu = Gpu::with(|settings| settings.counters = true);
        let Some(module) = gpu.load("clusters.cu") else {
            return;
        };
        for size in [2u32, 8] {
            let words: Vec<u32> = (0..256 * size).collect();
            let map = TensorMap {
                address: gpu.upload(&words),
                rank: 2,
                element: 2,
                dimensions: [64, 8 * u64::from(size), 1],
                strides: [128, 0],
                tile: [64, 8, 1],
                swizzle: Swizzle::None,
                fill: Fill::Zero,
            };
            let out = gpu.alloc(1024 * size as usize * 2 * size as usize);
            let args = Args::new().with_bytes(&map.encode(), 128).with(out);
            let launch = Shape {
                shared: 1024 * size,
                ..shape([2 * size, 1, 1], 32, [size, 1, 1])
            };
            gpu.launch(&module, "share_rows", launch, &args);
            let got: Vec<u32> = gpu.download(out, 256 * (size * 2 * size) as usize);
            assert!(got.chunks(words.len()).all(|block| block == words), "{size}");
            // Each of 2 · size blocks asks once for 1024 bytes, which arrive in `size` blocks.
            let bytes = 2048 * u64::from(size);
            let bulk = gpu.counters.bulk;
            assert_eq!(
                (bulk.loads, bulk.loaded_bytes),
                (2 * u64::from(size), bytes * u64::from(size))
            );
            assert_eq!(bulk.saved_bytes, bulk.loaded_bytes - bytes);
            let memory = gpu.counters.memory.as_ref().expect("counted");
            assert_eq!(memory.global.copies.bytes(), bytes);
        }
    });
}

#[test]
fn clusters_that_cannot_be_are_refused() {
    let mut gpu = Gpu::new();
    let Some(module) = gpu.load("clusters.cu") else {
        return;
    };
    for (grid, cluster) in [
        ([32, 1, 1], [32, 1, 1]),
        ([7, 1, 1], [2, 1, 1]),
        ([8, 1, 1], [0, 1, 1]),
    ] {
        let args = Args::new().with(0u64).with(0u64).with(0u64);
        match gpu.try_launch(&module, "sum_over_cluster", shape(grid, 64, cluster), &args) {
            Ended::Refused(Invalid::Cluster, message) => assert!(message.contains("cluster"), "{message}"),
            other => panic!("{grid:?}, {cluster:?}: {other:?}"),
        }
    }
}
