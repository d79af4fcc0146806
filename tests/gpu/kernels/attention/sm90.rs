//! The variants of compute capability 9.0: the bits of the others, whatever the lengths, the company and the schedule.

use half::{bf16, f16};

use super::*;

const VARIANTS: [Variant; 2] = [Variant::Wgmma64, Variant::Wgmma128];

/// Around the 64 keys of a step and the 64 queries of a warpgroup; around the queries of a tile; more steps than the ring
/// has room for; ragged batches, whose tiles' other warpgroups have nothing to do, and whose sequences begin at any row.
const LENGTHS: [&[usize]; 12] = [
    &[],
    &[1],
    &[2, 1, 63],
    &[64],
    &[65],
    &[127, 128],
    &[129],
    &[191, 1, 192],
    &[193],
    &[300],
    &[0, 31, 0, 0, 64, 5, 0, 130],
    &[3, 577, 17, 1, 64, 19],
];

/// The parameters of these variants for those of the others, with a map of this many rows.
pub fn params<T: Number>(
    device: &Device,
    variant: Variant,
    attention: AttentionParams,
    rows: usize,
) -> AttentionSm90Params {
    let columns = 3 * attention.heads as u64 * 64;
    let matrix = [rows as u64, columns, attention.qkv_stride.into()];
    AttentionSm90Params {
        qkv: TensorMap {
            words: device.tensor_map::<T>(attention.qkv, matrix, variant.rows() as u32),
        },
        attention,
        stall: 0,
        reserved: [0; 7],
    }
}

/// The device, if it has these variants.
fn open() -> Option<Device> {
    Device::open().filter(|device| device.capability() == (9, 0))
}

fn shape(lengths: &[usize], turn: usize) -> Shape {
    let tokens: usize = lengths.iter().sum();
    Shape {
        lengths: lengths.to_vec(),
        heads: if tokens > 200 { 1 } else { [2, 1, 3][turn % 3] },
        head_dim: 64,
        rope: false,
        spread: [1.7, 0.1, 5.0][turn % 3],
        gap: [0, 8, 40][turn / 2 % 3],
        seed: turn as u64,
    }
}

fn same_bits<T: Number>() {
    let Some(device) = open() else { return };
    for (turn, lengths) in LENGTHS.into_iter().enumerate() {
        let shape = shape(lengths, turn);
        let _case = Case(&shape);
        let inputs = Inputs::<T>::new(&shape);
        let wanted = inputs.run(&device, &Launch::new(lengths, Variant::Large, 40));
        for (variant, blocks) in VARIANTS
            .into_iter()
            .zip([[1, 2, 40][turn % 3], [3, 40, 1][turn % 3]])
        {
            let launch = Launch::new(lengths, variant, blocks);
            assert_same(variant.name(), &inputs.run(&device, &launch), &wanted);
        }
    }
}

#[test]
fn wgmma_attention_bf16_has_the_bits_of_the_other_variants() {
    same_bits::<bf16>();
}

#[test]
fn wgmma_attention_f16_has_the_bits_of_the_other_variants() {
    same_bits::<f16>();
}

/// Lengths of all sizes side by side, on any number of blocks.
#[test]
fn wgmma_attention_of_random_batches_has_the_bits_of_the_other_variants() {
    let Some(device) = open() else { return };
    for_each_seed(3, 60, |seed| {
        let random = &mut Random::new(seed);
        let lengths: Vec<usize> = (0..1 + random.below(7))
            .map(|_| match random.below(3) {
                0 => random.below(20),
                1 => (64 * (1 + random.below(4)) + random.below(3)) - 1,
                _ => random.below(200),
            })
            .collect();
        let shape = Shape {
            heads: 1 + random.below(3),
            spread: [1.7, 0.1, 5.0][random.below(3)],
            gap: [0, 8, 40][random.below(3)],
            seed,
            ..shape(&lengths, 0)
        };
        let _case = Case(&shape);
        let inputs = Inputs::<bf16>::new(&shape);
        let wanted = inputs.run(&device, &Launch::new(&lengths, Variant::Large, 40));
        for variant in VARIANTS {
            let launch = Launch::new(&lengths, variant, 1 + random.below(40));
            assert_same(variant.name(), &inputs.run(&device, &launch), &wanted);
        }
    });
}

#[test]
fn a_sequence_of_nan_leaves_those_beside_it_alone() {
    let Some(device) = open() else { return };
    let shape = shape(&[70, 5, 133, 64], 2);
    let clean = Inputs::<bf16>::new(&shape);
    let width = clean.width();
    let of = |numbers: &[bf16], rows: std::ops::Range<usize>| {
        numbers[rows.start * width..rows.end * width].to_vec()
    };
    // Each in turn: the keys, values and queries of the one behind lie in the last boxes of the one before.
    for poisoned in 0..shape.lengths.len() {
        let mut inputs = clean.clone();
        let rows = inputs.rows(poisoned);
        inputs.qkv[rows.start * 3 * width..rows.end * 3 * width].fill(bf16::NAN);
        for variant in VARIANTS {
            let launch = Launch::new(&shape.lengths, variant, 2);
            let (wanted, got) = (clean.run(&device, &launch), inputs.run(&device, &launch));
            for sequence in 0..shape.lengths.len() {
                let (rows, what) = (inputs.rows(sequence), variant.name());
                if sequence == poisoned {
                    assert!(of(&got, rows).iter().all(|number| number.is_nan()), "{what}");
                } else {
                    assert_same(what, &of(&got, rows.clone()), &of(&wanted, rows));
                }
            }
        }
    }
}

#[test]
fn a_value_of_nan_counts_where_it_belongs() {
    let Some(device) = open() else { return };
    let shape = shape(&[9, 100, 9], 1);
    let mut inputs = Inputs::<f16>::new(&shape);
    let width = inputs.width();
    // The last value of the sequence, in one column.
    let (rows, column) = (inputs.rows(1), 17);
    inputs.qkv[(rows.end - 1) * 3 * width + 2 * width + column] = f16::NAN;
    for variant in VARIANTS {
        let got = inputs.run(&device, &Launch::new(&shape.lengths, variant, 2));
        for (at, number) in got.iter().enumerate() {
            let poisoned = rows.contains(&(at / width)) && at % width == column;
            assert_eq!(number.is_nan(), poisoned, "{} at {at}", variant.name());
        }
    }
}

#[test]
fn wgmma_attention_reads_the_number_of_tiles_on_the_device() {
    let Some(device) = open() else { return };
    for variant in VARIANTS {
        let inputs = Inputs::<bf16>::new(&shape(&[200, 3, 65], 0));
        let launch = Launch::new(&inputs.shape.lengths, variant, 2);
        reads_the_number_of_tiles(&device, &inputs, &launch);
    }
}
