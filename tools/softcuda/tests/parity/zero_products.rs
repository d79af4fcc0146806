//! Zeros of A beside huge factors of B. softcuda aligns C to a product that is zero, as the published model of tensor cores
//! does (src/lower/isa/mma.rs); whether a device does is not documented. So every bit is compared, one program per factor: a
//! device that masks zeros shows as a disagreement, with its value beside softcuda's.

use half::bf16;

use super::{HEAD, product};
use crate::harness::{Args, Gpu, Shape};

/// Registers of A, B and C.
const REGISTERS: [usize; 3] = [4, 2, 4];

#[test]
fn zero_products_beside_huge_factors() {
    const NAME: &str = "m16n8k16.row.col.f32.bf16.bf16.f32";
    let addends = [0.3f32, -0.3, 1e-6, 4.5];
    // With a zero's exponent field (2^-126), 0 · 2^127 counts as 2^1, whose 24 bits end at 2^-23.
    let cut = |c: f32| (c * 8_388_608.0).trunc() / 8_388_608.0;
    let cases: [(&str, f32, [f32; 4]); 4] = [
        ("1", 1.0, addends),
        ("2^64", 2f32.powi(64), addends),
        ("2^96", 2f32.powi(96), addends),
        ("3e38", 3e38, addends.map(cut)),
    ];
    assert_ne!(addends[0], cut(addends[0]));
    for (factor, b, want) in cases {
        let mut gpu = Gpu::new();
        let title = format!("tensor cores: zeros times {factor} in mma.{NAME}");
        let text = format!("{HEAD}{}", product(NAME, REGISTERS, "form"));
        let module = gpu.load_text(&title, text.as_bytes());
        let pair = u32::from(bf16::from_f32(b).to_bits()) * 0x1_0001;
        let thread = [[0; 4].as_slice(), &[pair; 2], &addends.map(f32::to_bits)].concat();
        let (from, to) = (gpu.upload(&thread.repeat(32)), gpu.zeros(32 * 16));
        let args = Args::new().with(from).with(to);
        gpu.launch(&module, "form", Shape::new(1, 32), &args);
        assert_eq!(gpu.download::<f32>(to, 128), want.repeat(32), "{title}");
    }
}
