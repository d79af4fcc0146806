//! CUB.

use super::harness::{Args, Gpu, Random, Scalar, Shape, bytes};
use super::{Number, all, larger, load, randoms, seeds, sizes};
use softcuda::machine::Module;
use softcuda::run::check::Check;

fn reduce<T: Number>(gpu: &mut Gpu, module: &Module, name: &str, threads: usize, items: usize) {
    let tile = threads * items;
    for seed in seeds() {
        let mut random = Random(seed);
        for n in sizes(tile) {
            let data: Vec<T> = randoms(&mut random, n);
            let blocks = n.div_ceil(tile);
            let (input, out) = (gpu.upload(&data), gpu.alloc(3 * blocks * size_of::<T>()));
            let args = Args::new().with(input).with(out).with(n as i32);
            gpu.launch(module, name, Shape::new(blocks as u32, threads as u32), &args);
            let out: Vec<T> = gpu.download(out, 3 * blocks);
            for (block, part) in data.chunks(tile).enumerate() {
                let sum = part.iter().copied().fold(T::ZERO, T::plus);
                // The last tile is filled up with zeros.
                let least = if part.len() < tile { T::ZERO } else { part[0] };
                let most = part.iter().copied().fold(least, larger);
                let some = part.iter().copied().step_by(items).fold(T::ZERO, T::plus);
                assert_eq!(
                    out[3 * block..3 * block + 3],
                    [sum, most, some],
                    "{name}, {n} items, block {block}"
                );
            }
        }
    }
}

/// x → scale·x + shift, mod 2^32 or 2^64.
trait Affine: Copy + PartialEq + std::fmt::Debug {
    fn then(self, next: Self) -> Self;
}

macro_rules! affine {
    ($ty:ty) => {
        impl Affine for [$ty; 2] {
            fn then(self, next: Self) -> Self {
                [
                    self[0].wrapping_mul(next[0]),
                    self[1].wrapping_mul(next[0]).wrapping_add(next[1]),
                ]
            }
        }
    };
}
affine!(u32);
affine!(u64);

fn maps(random: &mut Random, n: usize) -> Vec<[u32; 2]> {
    (0..n).map(|_| [random.next() | 1, random.next()]).collect()
}

fn pairs<T: Scalar>(values: Vec<T>) -> Vec<[T; 2]> {
    values.chunks_exact(2).map(|p| [p[0], p[1]]).collect()
}

#[test]
fn block_reduce() {
    let Some((mut gpu, module)) = load("reduce_scan.cu") else {
        return;
    };
    let (gpu, m) = (&mut gpu, &module);
    reduce::<u32>(gpu, m, "reduce_commutative_u32_96x3", 96, 3);
    reduce::<u32>(gpu, m, "reduce_raking_u32_64x4", 64, 4);
    reduce::<f64>(gpu, m, "reduce_raking_f64_100x2", 100, 2);
    reduce::<u32>(gpu, m, "reduce_warps_u32_256x1", 256, 1);
    reduce::<f32>(gpu, m, "reduce_warps_f32_128x4", 128, 4);
    reduce::<u64>(gpu, m, "reduce_warps_u64_48x5", 48, 5);
}

#[test]
fn block_reduce_and_scan_of_what_does_not_commute() {
    let Some((mut gpu, module)) = load("reduce_scan.cu") else {
        return;
    };
    let mut random = Random(5);
    for (name, threads) in [("compose_raking_96", 96), ("compose_warps_160", 160)] {
        for n in sizes(threads) {
            let data = maps(&mut random, n);
            let blocks = n.div_ceil(threads);
            let (input, out) = (gpu.upload(data.as_flattened()), gpu.alloc(8 * blocks));
            let args = Args::new().with(input).with(out).with(n as i32);
            gpu.launch(&module, name, Shape::new(blocks as u32, threads as u32), &args);
            let want: Vec<[u32; 2]> = data
                .chunks(threads)
                .map(|part| part.iter().copied().fold([1, 0], Affine::then))
                .collect();
            assert_eq!(pairs(gpu.download::<u32>(out, 2 * blocks)), want, "{name}, {n}");
        }
    }
    for (name, threads) in [("compose_scan_raking_64", 64), ("compose_scan_warps_128", 128)] {
        for n in sizes(threads) {
            let data = maps(&mut random, n);
            let blocks = n.div_ceil(threads);
            let (input, out) = (gpu.upload(data.as_flattened()), gpu.alloc(8 * n));
            let args = Args::new().with(input).with(out).with(n as i32);
            gpu.launch(&module, name, Shape::new(blocks as u32, threads as u32), &args);
            let mut want = Vec::new();
            for part in data.chunks(threads) {
                let mut before = [3, 5];
                for &map in part {
                    want.push(before);
                    before = before.then(map);
                }
            }
            assert_eq!(pairs(gpu.download::<u32>(out, 2 * n)), want, "{name}, {n}");
        }
    }
}

fn scan<T: Number>(gpu: &mut Gpu, module: &Module, name: &str, threads: usize, items: usize) {
    let tile = threads * items;
    for seed in seeds() {
        let mut random = Random(seed);
        for n in sizes(tile) {
            let data: Vec<T> = randoms(&mut random, n);
            let input = gpu.upload(&data);
            let out: [u64; 3] = std::array::from_fn(|_| gpu.alloc(n * size_of::<T>()));
            let args = Args::new()
                .with(input)
                .with(out[0])
                .with(out[1])
                .with(out[2])
                .with(n as i32);
            gpu.launch(module, name, Shape::new(1, threads as u32), &args);
            let [exclusive, inclusive, most] = out.map(|at| gpu.download::<T>(at, n));
            let (mut sum, mut top) = (T::ZERO, T::ZERO);
            for i in 0..n {
                assert_eq!(exclusive[i], sum, "{name}, {n} items, exclusive sum {i}");
                sum = sum.plus(data[i]);
                assert_eq!(inclusive[i], sum, "{name}, {n} items, inclusive sum {i}");
                top = if i % tile == 0 {
                    data[i]
                } else {
                    larger(top, data[i])
                };
                assert_eq!(most[i], top, "{name}, {n} items, maximum {i}");
            }
        }
    }
}

#[test]
fn block_scan() {
    let Some((mut gpu, module)) = load("reduce_scan.cu") else {
        return;
    };
    let (gpu, m) = (&mut gpu, &module);
    scan::<u32>(gpu, m, "scan_raking_u32_96x3", 96, 3);
    scan::<u64>(gpu, m, "scan_raking_u64_50x2", 50, 2);
    scan::<u32>(gpu, m, "scan_memoize_u32_128x4", 128, 4);
    scan::<u32>(gpu, m, "scan_warps_u32_256x1", 256, 1);
    scan::<u64>(gpu, m, "scan_warps_u64_64x5", 64, 5);
}

#[test]
fn warp_reduce_and_scan() {
    let Some((mut gpu, module)) = load("reduce_scan.cu") else {
        return;
    };
    let n = 256;
    let data: Vec<u32> = randoms(&mut Random(9), n);
    for lanes in [32, 16, 4, 5] {
        let input = gpu.upload(&data);
        let out: [u64; 4] = std::array::from_fn(|_| gpu.zeros(4 * n));
        let mut args = Args::new().with(input);
        for at in out {
            args = args.with(at);
        }
        gpu.launch(&module, &format!("warps_of_{lanes}"), Shape::new(2, 128), &args);
        let [sum, most, inclusive, exclusive] = out.map(|at| gpu.download::<u32>(at, n));
        for warp in 0..n / 32 {
            let logical_warps = if lanes == 5 { 1 } else { 32 / lanes };
            for logical in 0..logical_warps {
                let first = 32 * warp + lanes * logical;
                let part = &data[first..first + lanes];
                assert_eq!(
                    sum[first],
                    part.iter().copied().fold(0, u32::wrapping_add),
                    "{lanes} lanes"
                );
                // All but the last lane take part.
                assert_eq!(
                    Some(&most[first]),
                    part[..lanes - 1].iter().max(),
                    "{lanes} lanes"
                );
                let mut so_far = 7u32;
                for i in first..first + lanes {
                    assert_eq!(exclusive[i], so_far, "{lanes} lanes, {i}");
                    so_far = so_far.wrapping_add(data[i]);
                    assert_eq!(inclusive[i], so_far, "{lanes} lanes, {i}");
                }
            }
        }
    }
}

/// A key in the order in which it sorts, as an unsigned number.
trait Key: Scalar {
    const BITS: u32;
    /// Sorts behind all others, in ascending or descending order.
    fn filler(descending: bool) -> Self;
    fn random(random: &mut Random) -> Self;
    fn ordered(self) -> u64;
}

impl Key for u32 {
    const BITS: u32 = 32;
    fn filler(descending: bool) -> Self {
        if descending { 0 } else { u32::MAX }
    }
    fn random(random: &mut Random) -> Self {
        // Many equal ones among others.
        match random.below(4) {
            0 => random.below(8),
            1 => u32::MAX,
            _ => random.next(),
        }
    }
    fn ordered(self) -> u64 {
        self.into()
    }
}

impl Key for u64 {
    const BITS: u32 = 64;
    fn filler(descending: bool) -> Self {
        if descending { 0 } else { u64::MAX }
    }
    fn random(random: &mut Random) -> Self {
        u64::from(<u32 as Key>::random(random)) << 32 | u64::from(<u32 as Key>::random(random))
    }
    fn ordered(self) -> u64 {
        self
    }
}

impl Key for i16 {
    const BITS: u32 = 16;
    fn filler(descending: bool) -> Self {
        if descending { i16::MIN } else { i16::MAX }
    }
    fn random(random: &mut Random) -> Self {
        random.next() as i16
    }
    fn ordered(self) -> u64 {
        (self as u16 ^ 0x8000).into()
    }
}

/// Bits of a float in order; both zeros are the same key.
fn ordered_float(bits: u64, width: u32) -> u64 {
    let sign = 1u64 << (width - 1);
    let all = sign | (sign - 1);
    let bits = if bits == sign { 0 } else { bits };
    if bits & sign != 0 {
        !bits & all
    } else {
        bits | sign
    }
}

impl Key for f32 {
    const BITS: u32 = 32;
    fn filler(descending: bool) -> Self {
        if descending {
            f32::from_bits(u32::MAX)
        } else {
            f32::from_bits(i32::MAX as u32)
        }
    }
    fn random(random: &mut Random) -> Self {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-40, 1.0];
        match random.below(3) {
            0 => special[random.below(7) as usize],
            1 => f32::from_bits(random.next()),
            _ => random.unit(),
        }
    }
    fn ordered(self) -> u64 {
        ordered_float(self.to_bits().into(), 32)
    }
}

impl Key for f64 {
    const BITS: u32 = 64;
    fn filler(descending: bool) -> Self {
        if descending {
            f64::from_bits(u64::MAX)
        } else {
            f64::from_bits(i64::MAX as u64)
        }
    }
    fn random(random: &mut Random) -> Self {
        f64::from(<f32 as Key>::random(random))
    }
    fn ordered(self) -> u64 {
        ordered_float(self.to_bits(), 64)
    }
}

#[derive(Clone, Copy)]
struct Radix {
    name: &'static str,
    threads: usize,
    items: usize,
    descending: bool,
}

fn radix<K: Key>(gpu: &mut Gpu, module: &Module, kernel: Radix) {
    let Radix {
        name,
        threads,
        items,
        descending,
    } = kernel;
    let tile = threads * items;
    for seed in seeds() {
        let mut random = Random(seed);
        for (case, n) in sizes(tile).into_iter().enumerate() {
            // All bits; then some only.
            let (begin, end) = match case % 4 {
                2 => (K::BITS / 4, K::BITS / 4 + 9),
                3 => (3, K::BITS / 2),
                _ => (0, K::BITS),
            };
            let keys: Vec<K> = (0..n).map(|_| K::random(&mut random)).collect();
            let blocks = n.div_ceil(tile);
            let filler = K::filler(descending);
            let (input, out, places) = (gpu.upload(&keys), gpu.alloc(n * size_of::<K>()), gpu.alloc(4 * n));
            let args = Args::new()
                .with(input)
                .with(out)
                .with(places)
                .with(n as i32)
                .with(filler)
                .with(begin as i32)
                .with(end as i32);
            gpu.launch(module, name, Shape::new(blocks as u32, threads as u32), &args);
            let (mut want_keys, mut want_places) = (Vec::new(), Vec::new());
            for part in keys.chunks(tile) {
                let mut padded: Vec<(K, u32)> = part.iter().copied().zip(0..).collect();
                padded.extend((part.len()..tile).map(|i| (filler, i as u32)));
                let digits = |key: K| key.ordered() >> begin & (u64::MAX >> (64 - (end - begin)));
                padded.sort_by_key(|&(key, _)| {
                    if descending {
                        u64::MAX - digits(key)
                    } else {
                        digits(key)
                    }
                });
                for &(key, place) in &padded[..part.len()] {
                    want_keys.push(key);
                    want_places.push(place);
                }
            }
            assert_eq!(
                gpu.download::<u32>(places, n),
                want_places,
                "{name}, {n} items: places"
            );
            // As bytes: NaN is not equal to itself.
            assert!(
                gpu.download::<u8>(out, n * size_of::<K>()) == bytes(&want_keys),
                "{name}, {n} items: keys"
            );
        }
    }
}

#[test]
fn block_radix_sort() {
    let Some((mut gpu, module)) = load("sort.cu") else {
        return;
    };
    let (gpu, m) = (&mut gpu, &module);
    let kernel = |name, threads, items, descending| Radix {
        name,
        threads,
        items,
        descending,
    };
    radix::<u32>(gpu, m, kernel("radix_u32_64x4_4", 64, 4, false));
    radix::<u32>(gpu, m, kernel("radix_u32_128x7_6", 128, 7, false));
    radix::<u32>(gpu, m, kernel("radix_u32_32x5_1_descending", 32, 5, true));
    radix::<u64>(gpu, m, kernel("radix_u64_96x3_5", 96, 3, false));
    radix::<f32>(gpu, m, kernel("radix_f32_128x4_4", 128, 4, false));
    radix::<f64>(gpu, m, kernel("radix_f64_64x3_4_descending", 64, 3, true));
    radix::<i16>(gpu, m, kernel("radix_i16_256x2_4", 256, 2, false));
    let data: Vec<u32> = randoms(&mut Random(3), 1280);
    let (input, out) = (gpu.upload(&data), gpu.alloc(4 * 1280));
    gpu.launch(
        m,
        "radix_keys_striped_128x5",
        Shape::new(2, 128),
        &Args::new().with(input).with(out),
    );
    let mut want = data;
    want.chunks_mut(640).for_each(<[u32]>::sort_unstable);
    assert_eq!(gpu.download::<u32>(out, 1280), want);
}

/// CUB's serial merge reads the key behind the end of a run before it knows that it needs none (block_merge_sort.cuh,
/// `key2 = keys_shared[keys2_beg]`): one that nobody has written behind the last. It never chooses by it.
#[test]
fn merge_sort() {
    let Some((mut gpu, module)) = load("sort.cu") else {
        return;
    };
    gpu.device.settings.without = vec![Check::Uninitialised];
    for seed in seeds() {
        let mut random = Random(seed);
        for (name, threads, items) in [("merge_64x3", 64, 3), ("merge_256x5", 256, 5)] {
            let tile = threads * items;
            for n in sizes(tile) {
                let data: Vec<u32> = randoms(&mut random, n);
                let blocks = n.div_ceil(tile);
                let (input, out, places) = (gpu.upload(&data), gpu.alloc(4 * n), gpu.alloc(4 * n));
                let args = Args::new().with(input).with(out).with(places).with(n as i32);
                gpu.launch(&module, name, Shape::new(blocks as u32, threads as u32), &args);
                let (mut want, mut want_places) = (Vec::new(), Vec::new());
                for part in data.chunks(tile) {
                    let mut sorted: Vec<(u32, u32)> = part.iter().copied().zip(0..).collect();
                    sorted.sort_by_key(|p| p.0 & 255);
                    want.extend(sorted.iter().map(|p| p.0));
                    want_places.extend(sorted.iter().map(|p| p.1));
                }
                assert_eq!(gpu.download::<u32>(places, n), want_places, "{name}, {n} items");
                assert_eq!(gpu.download::<u32>(out, n), want, "{name}, {n} items");
            }
        }
        let data: Vec<u32> = randoms(&mut random, 256);
        let (input, out) = (gpu.upload(&data), gpu.alloc(1024));
        gpu.launch(
            &module,
            "warp_merge_16x4",
            Shape::new(1, 64),
            &Args::new().with(input).with(out),
        );
        let mut want = data;
        want.chunks_mut(64).for_each(<[u32]>::sort_unstable);
        assert_eq!(gpu.download::<u32>(out, 256), want);
    }
}

#[test]
fn block_histogram() {
    let Some((mut gpu, module)) = load("sort.cu") else {
        return;
    };
    for (name, tile, threads, bins) in [
        ("histogram_sort_64x4", 256, 64, 100),
        ("histogram_atomic_128x3", 384, 128, 256),
    ] {
        for one_value in [false, true] {
            let mut random = Random(4);
            let blocks = 3;
            let data: Vec<u8> = (0..2 * tile * blocks)
                .map(|_| if one_value { 42 } else { random.below(bins) as u8 })
                .collect();
            let count = blocks * bins as usize;
            let (input, out) = (gpu.upload(&data), gpu.alloc(4 * count));
            gpu.launch(
                &module,
                name,
                Shape::new(blocks as u32, threads),
                &Args::new().with(input).with(out),
            );
            let mut want = vec![0u32; count];
            for (block, part) in data.chunks(2 * tile).enumerate() {
                for &item in part {
                    want[block * bins as usize + usize::from(item)] += 1;
                }
            }
            assert_eq!(gpu.download::<u32>(out, count), want, "{name}");
        }
    }
}

fn copy<T: Scalar + std::fmt::Debug + PartialEq>(
    gpu: &mut Gpu,
    module: &Module,
    (name, threads, items): (&str, usize, usize),
    make: fn(u64) -> T,
) {
    let tile = threads * items;
    let mut random = Random(8);
    for n in sizes(tile) {
        let data: Vec<u64> = (0..n).map(|_| u64::from(random.next()) << 13).collect();
        let input: Vec<T> = data.iter().map(|&v| make(v)).collect();
        let blocks = n.div_ceil(tile);
        let (input, out) = (gpu.upload(&input), gpu.alloc(n * size_of::<T>()));
        let args = Args::new().with(input).with(out).with(n as i32);
        gpu.launch(module, name, Shape::new(blocks as u32, threads as u32), &args);
        let want: Vec<T> = data
            .iter()
            .enumerate()
            .map(|(i, v)| make(v.wrapping_mul(3).wrapping_add((i % tile) as u64)))
            .collect();
        assert_eq!(gpu.download::<T>(out, n), want, "{name}, {n} items");
    }
}

#[test]
fn block_load_and_store() {
    let Some((mut gpu, module)) = load("sort.cu") else {
        return;
    };
    let (gpu, m) = (&mut gpu, &module);
    copy(gpu, m, ("copy_direct_u32_64x3", 64, 3), |v| v as u32);
    copy(gpu, m, ("copy_striped_u32_96x4", 96, 4), |v| v as u32);
    copy(gpu, m, ("copy_vectorize_u32_64x4", 64, 4), |v| v as u32);
    copy(gpu, m, ("copy_transpose_u8_128x5", 128, 5), |v| v as u8);
    copy(gpu, m, ("copy_transpose_u64_64x3", 64, 3), |v| v);
    copy(gpu, m, ("copy_warps_u32_96x6", 96, 6), |v| v as u32);
    copy(gpu, m, ("copy_timesliced_u32_128x4", 128, 4), |v| v as u32);
}

#[test]
fn block_discontinuity_difference_shuffle_exchange() {
    let Some((mut gpu, module)) = load("sort.cu") else {
        return;
    };
    let (blocks, threads, items) = (3, 96, 3);
    let (tile, n) = (threads * items, blocks * threads * items);
    let mut random = Random(6);
    let data: Vec<u32> = (0..n).map(|_| random.below(3)).collect();
    let input = gpu.upload(&data);
    let out = [n, n, blocks * threads, n].map(|count| (gpu.alloc(4 * count), count));
    let mut args = Args::new().with(input);
    for (at, _) in out {
        args = args.with(at);
    }
    gpu.launch(&module, "neighbours_96x3", Shape::new(3, 96), &args);
    let [heads, differences, rotated, scattered] = out.map(|(at, count)| gpu.download::<u32>(at, count));
    for (block, part) in data.chunks(tile).enumerate() {
        for i in 0..tile {
            let at = block * tile + i;
            let (head, difference) = match i {
                0 => (1, part[0]),
                _ => (
                    u32::from(part[i] != part[i - 1]),
                    part[i].wrapping_sub(part[i - 1]),
                ),
            };
            assert_eq!(heads[at], head, "head {at}");
            assert_eq!(differences[at], difference, "difference {at}");
            assert_eq!(scattered[at], part[tile - 1 - i], "scattered {at}");
        }
        for thread in 0..threads {
            let next = part[(thread + 1) % threads * items];
            assert_eq!(rotated[block * threads + thread], next, "rotated {thread}");
        }
    }
}

/// Runs a scan over all blocks, with the tile states that CUB's host code would set up.
fn device_scan<T: Scalar>(gpu: &mut Gpu, module: &Module, kind: &str, data: &[T], words: usize) -> Vec<T> {
    let n = data.len() / words;
    let sizes = |gpu: &mut Gpu, tiles: usize| {
        let out = gpu.alloc(48);
        gpu.launch(
            module,
            "scan_sizes",
            Shape::new(1, 1),
            &Args::new().with(tiles as i32).with(out),
        );
        let sizes: Vec<u64> = gpu.download(out, 6);
        let at = match kind {
            "u32" => 0,
            "u64" => 2,
            _ => 4,
        };
        (sizes[at], sizes[at + 1] as usize)
    };
    let tile = sizes(gpu, 1).1;
    let tiles = n.div_ceil(tile);
    let bytes = sizes(gpu, tiles).0;
    let state = gpu.alloc(bytes as usize);
    let args = Args::new().with(state).with(bytes as i32).with(tiles as i32);
    let blocks = tiles.div_ceil(128) as u32;
    gpu.launch(
        module,
        &format!("scan_init_{kind}"),
        Shape::new(blocks, 128),
        &args,
    );
    let (input, out) = (gpu.upload(data), gpu.alloc(size_of_val(data)));
    let args = Args::new()
        .with(input)
        .with(out)
        .with(state)
        .with(bytes as i32)
        .with(tiles as i32)
        .with(n as u32);
    gpu.launch(
        module,
        &format!("scan_{kind}"),
        Shape::new(tiles as u32, 128),
        &args,
    );
    gpu.download(out, data.len())
}

/// In order on one thread; then blocks side by side; then, where the order may be any, shuffled.
fn schedules(shuffled: bool) -> Vec<(usize, Option<u64>)> {
    let mut schedules = vec![(1, None), (4, None)];
    if shuffled {
        schedules.extend((1..if all() { 5 } else { 2 }).map(|seed| (4, Some(seed))));
    }
    schedules
}

#[test]
fn device_scan_looks_back() {
    let Some((mut gpu, module)) = load("device.cu") else {
        return;
    };
    let mut random = Random(12);
    let most = if all() { 20_000 } else { 9_000 };
    for (threads, seed) in schedules(true) {
        gpu.device.settings.threads = threads;
        gpu.device.settings.seed = seed;
        for n in [1, 511, 512, 513, most] {
            let data: Vec<u32> = randoms(&mut random, n);
            let mut before = 11u32;
            let want: Vec<u32> = data
                .iter()
                .map(|&v| {
                    let sum = before;
                    before = sum.wrapping_add(v);
                    sum
                })
                .collect();
            assert_eq!(device_scan(&mut gpu, &module, "u32", &data, 1), want, "{n}");

            let data: Vec<u64> = randoms(&mut random, n);
            let mut sum = 0u64;
            let want: Vec<u64> = data
                .iter()
                .map(|&v| {
                    sum = sum.wrapping_add(v);
                    sum
                })
                .collect();
            assert_eq!(device_scan(&mut gpu, &module, "u64", &data, 1), want, "{n}");

            let data: Vec<u64> = (0..2 * n)
                .map(|_| <u64 as Number>::random(&mut random) | 1)
                .collect();
            let mut all = [1, 0];
            let want: Vec<u64> = pairs(data.clone())
                .into_iter()
                .flat_map(|map| {
                    all = all.then(map);
                    all
                })
                .collect();
            assert_eq!(device_scan(&mut gpu, &module, "affine", &data, 2), want, "{n}");
        }
    }
}

#[test]
fn device_radix_sort_in_one_sweep() {
    let Some((mut gpu, module)) = load("device.cu") else {
        return;
    };
    let mut random = Random(13);
    let tile = 256 * 6;
    let sizes = [1, tile, 3 * tile + 700];
    for (threads, seed) in schedules(true) {
        gpu.device.settings.threads = threads;
        gpu.device.settings.seed = seed;
        for name in ["sweep_match", "sweep_match_any", "sweep_atomic_or"] {
            // This one lets the leader of some lanes clear a word that the others have read, with no more than
            // __shfl_sync between (block_radix_rank.cuh, `*p_match_mask = 0`). CUDA C++ Programming Guide: shuffles
            // "do not imply a memory barrier. They do not guarantee any memory ordering." So it is a race; in lock
            // step the answer is right.
            let relies_on_lock_step = name == "sweep_atomic_or";
            gpu.device.settings.without = if relies_on_lock_step {
                vec![Check::Race]
            } else {
                vec![]
            };
            // The in-order schedule takes every size, the others the largest.
            let few = if threads == 1 { 0 } else { 2 };
            for &n in &sizes[few..] {
                let keys: Vec<u32> = (0..n).map(|_| <u32 as Key>::random(&mut random)).collect();
                let places: Vec<u32> = (0..n as u32).collect();
                let bins = gpu.zeros(4 * 4 * 256);
                let mut from = [gpu.upload(&keys), gpu.upload(&places)];
                let mut to = [gpu.alloc(4 * n), gpu.alloc(4 * n)];
                let args = Args::new()
                    .with(bins)
                    .with(from[0])
                    .with(n as u32)
                    .with(0i32)
                    .with(32i32);
                gpu.launch(&module, "sweep_histogram", Shape::new(3, 128), &args);
                gpu.launch(&module, "sweep_sum", Shape::new(4, 256), &Args::new().with(bins));
                let blocks = n.div_ceil(tile);
                for pass in 0..4u64 {
                    let lookback = gpu.zeros(4 * 256 * blocks);
                    let counter = gpu.zeros(4);
                    let next_bins = gpu.alloc(4 * 256);
                    let args = Args::new()
                        .with(lookback)
                        .with(counter)
                        .with(next_bins)
                        .with(bins + 4 * 256 * pass)
                        .with(to[0])
                        .with(from[0])
                        .with(to[1])
                        .with(from[1])
                        .with(n as i32)
                        .with(8 * pass as i32)
                        .with(8i32);
                    gpu.launch(&module, name, Shape::new(blocks as u32, 256), &args);
                    std::mem::swap(&mut from, &mut to);
                }
                let mut want = places;
                want.sort_by_key(|&i| keys[i as usize]);
                assert_eq!(gpu.download::<u32>(from[1], n), want, "{name}, {n} items: places");
                let want: Vec<u32> = want.into_iter().map(|i| keys[i as usize]).collect();
                assert_eq!(gpu.download::<u32>(from[0], n), want, "{name}, {n} items: keys");
            }
        }
    }
}

#[test]
fn device_reduce_in_even_shares() {
    let Some((mut gpu, module)) = load("device.cu") else {
        return;
    };
    let tile = 128 * 16;
    let mut random = Random(14);
    for (n, blocks) in [(1, 1), (tile, 1), (5 * tile + 77, 4), (9 * tile - 1, 3)] {
        let data: Vec<f32> = randoms(&mut random, n + 1);
        let input = gpu.upload(&data);
        // Aligned to vectors, and not.
        for skip in [0, 1] {
            let out = gpu.alloc(8 * blocks);
            let args = Args::new().with(input + 4 * skip as u64).with(out).with(n as u32);
            gpu.launch(&module, "reduce_shares", Shape::new(blocks as u32, 128), &args);
            let sum: f64 = gpu.download::<f64>(out, blocks).iter().sum();
            let want: f64 = data[skip..skip + n].iter().map(|&v| f64::from(v)).sum();
            assert_eq!(sum, want, "{n} items from {skip}");
        }
    }
}
