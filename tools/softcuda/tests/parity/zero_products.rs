//! Zeros of A beside huge factors of B. A published model of tensor cores aligns C to a product that is zero; an H200 does
//! not, nor does softcuda (src/lower/isa/mma.rs). Of other devices it is not known: every bit is compared, one program per
//! factor, and one that aligns shows as a disagreement, with its value beside softcuda's.

use half::bf16;

use super::{HEAD, product};
use crate::harness::{Args, Gpu, Shape};

/// Registers of A, B and C.
const REGISTERS: [usize; 3] = [4, 2, 4];

#[test]
fn zero_products_beside_huge_factors() {
    const NAME: &str = "m16n8k16.row.col.f32.bf16.bf16.f32";
    let addends = [0.3f32, -0.3, 1e-6, 4.5];
    let factors = [
        ("1", 1.0),
        ("2^64", 2f32.powi(64)),
        ("2^96", 2f32.powi(96)),
        ("3e38", 3e38),
    ];
    for (factor, b) in factors {
        let mut gpu = Gpu::new();
        let title = format!("tensor cores: zeros times {factor} in mma.{NAME}");
        let text = format!("{HEAD}{}", product(NAME, REGISTERS, "form"));
        let module = gpu.load_text(&title, text.as_bytes());
        let pair = u32::from(bf16::from_f32(b).to_bits()) * 0x1_0001;
        let thread = [[0; 4].as_slice(), &[pair; 2], &addends.map(f32::to_bits)].concat();
        let (from, to) = (gpu.upload(&thread.repeat(32)), gpu.zeros(32 * 16));
        let args = Args::new().with(from).with(to);
        gpu.launch(&module, "form", Shape::new(1, 32), &args);
        assert_eq!(gpu.download::<f32>(to, 128), addends.repeat(32), "{title}");
    }
}
