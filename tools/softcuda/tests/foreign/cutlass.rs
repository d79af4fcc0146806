//! Products that CUTLASS has for sm_90a, unchanged: persistent, with specialised warps and clusters. cutlass/generate.py says how
//! they are made; the head of each file has the tensor maps that CUTLASS asks the driver for, and its parameters.

use half::{bf16, f16};
use softcuda::machine::Module;
use softcuda::memory::{Fill, Swizzle, TensorMap};

use super::harness::{Args, Gpu, Random, Shape, folder, shuffled};
use super::{all, seeds};

/// Of A, B or D.
#[derive(Clone, Copy, PartialEq)]
enum Element {
    F16,
    Bf16,
    E4m3,
    E5m2,
}

impl Element {
    /// A small whole number: exact in each type.
    fn write(self, value: f32) -> Vec<u8> {
        // Sign, exponent and mantissa of f16, without the bits that the 8-bit types lack.
        let bits = f16::from_f32(value).to_bits();
        match self {
            Element::F16 => bits.to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f32(value).to_bits().to_le_bytes().to_vec(),
            Element::E5m2 => vec![(bits >> 8) as u8],
            // The exponent's bias is 7 and not 15.
            Element::E4m3 if value == 0.0 => vec![0],
            Element::E4m3 => vec![(bits >> 8 & 0x80) as u8 | (((bits & 0x7fff) >> 7) as u8 - (8 << 3))],
        }
    }

    /// The bits of a sum, rounded to nearest even.
    fn round(self, value: f32) -> u16 {
        match self {
            Element::F16 => f16::from_f32(value).to_bits(),
            _ => bf16::from_f32(value).to_bits(),
        }
    }
}

/// The number behind `key=`, and more behind each `x`.
fn numbers(line: &str, key: &str) -> Vec<u64> {
    let field = line
        .split(' ')
        .find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let field = field.unwrap_or_else(|| panic!("{key} in {line}"));
    field.split('x').map(|n| n.parse().expect("a number")).collect()
}

fn product(name: &str, [left, right, output]: [Element; 3]) {
    let path = folder().join(format!("../foreign/cutlass/{name}.ptx"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = |key: &str| {
        let key = format!("// {key}: ");
        text.lines()
            .find_map(|line| line.strip_prefix(&key))
            .expect("a head")
    };
    let launch = line("launch");
    let [m, n, k] = numbers(launch, "shape")[..] else {
        panic!("{launch}")
    };
    let [m, n, k] = [m, n, k].map(|n| n as usize);

    let mut gpu = Gpu::new();
    let module: Module = gpu.load_text(name, text.as_bytes());
    let mut random = Random(11);
    let mut matrix =
        |rows: usize| -> Vec<f32> { (0..rows * k).map(|_| random.below(5) as f32 - 2.0).collect() };
    let (a, b) = (matrix(m), matrix(n));
    let mut upload = |values: &[f32], rows: usize, map: &str, element: Element| {
        // Along k, or along the rows.
        let along_k = numbers(line(map), "size")[0] == k as u64;
        let at = |i: usize| match along_k {
            true => values[i],
            false => values[i % rows * k + i / rows],
        };
        let bytes: Vec<u8> = (0..rows * k).flat_map(|i| element.write(at(i))).collect();
        gpu.upload(&bytes)
    };
    let (at_a, at_b) = (upload(&a, m, "map 1", left), upload(&b, n, "map 2", right));
    let at_d = gpu.upload(&vec![0xffffu16; m * n]);

    let params: String = line("params").chars().filter(|c| *c != ' ').collect();
    let mut params: Vec<u8> = (0..params.len() / 2)
        .map(|i| u8::from_str_radix(&params[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect();
    let addresses = [at_a, at_b, at_d];
    for place in params.chunks_exact_mut(8) {
        let marked = u64::from_le_bytes(place.try_into().expect("eight bytes"));
        if (1..=3).contains(&(marked >> 40)) && marked << 24 == 0 {
            place.copy_from_slice(&addresses[(marked >> 40) as usize - 1].to_le_bytes());
        }
    }
    for number in 1u8..=3 {
        let Some(map) = text
            .lines()
            .find(|line| line.starts_with(&format!("// map {number}: ")))
        else {
            continue;
        };
        let (size, tile, strides) = (numbers(map, "size"), numbers(map, "box"), numbers(map, "strides"));
        assert_eq!((size.len(), numbers(map, "interleave")[0]), (3, 0), "{map}");
        let element = if numbers(map, "type")[0] == 0 { 1 } else { 2 };
        let swizzle = numbers(map, "swizzle")[0] as usize;
        let map = TensorMap {
            address: addresses[numbers(map, "tensor")[0] as usize - 1],
            rank: 3,
            element,
            dimensions: [size[0], size[1], size[2]],
            strides: [strides[0], strides[1]],
            tile: [tile[0], tile[1], tile[2]].map(|n| n as u32),
            swizzle: [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][swizzle],
            fill: Fill::Zero,
        };
        map.check().unwrap_or_else(|e| panic!("{name}: {e:?}"));
        // Where the mark lies that the map was given, whose bit 85 CUTLASS may have cleared.
        let mut encoded = map.encode();
        let is_mark = |window: &[u8]| {
            window
                .iter()
                .enumerate()
                .all(|(i, &byte)| byte | if i == 10 { 0x20 } else { 0 } == 0xe0 + number)
        };
        let at = params
            .windows(128)
            .position(is_mark)
            .expect("a place for each map");
        encoded[10] &= params[at + 10] | !0x20;
        params[at..at + 128].copy_from_slice(&encoded);
    }

    let three = |key: &str| {
        let all = numbers(launch, key);
        [all[0], all[1], all[2]].map(|n| n as u32)
    };
    let cluster = three("cluster");
    let shape = Shape {
        grid: three("grid"),
        shared: numbers(launch, "shared")[0] as u32,
        cluster: (cluster != [1; 3]).then_some(cluster),
        ..Shape::new(1, numbers(launch, "block")[0] as u32)
    };
    gpu.launch(&module, name, shape, &Args(params));
    let got: Vec<u16> = gpu.download(at_d, m * n);
    for (i, got) in got.into_iter().enumerate() {
        let (x, y) = (&a[i / n * k..][..k], &b[i % n * k..][..k]);
        let want: f64 = x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum();
        assert_eq!(got, output.round(want as f32), "{name}: [{}, {}]", i / n, i % n);
    }
}

fn in_some_orders(name: &str, elements: [Element; 3]) {
    product(name, elements);
    let count = if all() { 8 } else { 1 };
    for seed in seeds().take(count) {
        shuffled(seed, || product(name, elements));
    }
}

/// A cluster shares B by multicast; two warpgroups take tiles in turn.
#[test]
fn a_persistent_ping_pong_product_of_clusters() {
    in_some_orders("pingpong_bf16", [Element::Bf16; 3]);
}

/// A along m and B along n, 96 columns, shared among a cluster's blocks.
#[test]
fn a_cooperative_product_along_m_and_n() {
    in_some_orders("cooperative_f16", [Element::F16; 3]);
}

/// B along n in rows of 16 bytes, which have no swizzle, and of 32.
#[test]
fn products_of_a_few_columns() {
    in_some_orders("narrow_f16", [Element::F16; 3]);
    in_some_orders("narrow_bf16", [Element::Bf16; 3]);
}

#[test]
fn a_product_of_e5m2_by_e4m3() {
    in_some_orders("e5m2", [Element::E5m2, Element::E4m3, Element::F16]);
}
