//! Ceilings of real GPUs, each with its source.

use crate::run::profile::{self, Profile};

/// A rate that a GPU does not exceed, and who says so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    /// Per second: bytes, FLOP.
    pub rate: f64,
    pub source: &'static str,
}

/// A GPU model for roofline estimates.
#[derive(Debug)]
pub struct Gpu {
    /// As `softcuda-report --gpu` names it.
    pub key: &'static str,
    pub name: &'static str,
    /// Limits per multiprocessor; the number of multiprocessors and the clock are the GPU's own.
    pub profile: &'static Profile,
    pub multiprocessors: u32,
    /// The clock that the data sheet's peaks are stated at.
    pub clock_hz: f64,
    pub dram: Ceiling,
    /// Where a figure is public.
    pub l2: Option<Ceiling>,
    /// Dense matrix products with float32 (int32) sums, by type of A.
    pub matrix: &'static [(&'static str, Ceiling)],
    /// float32 lanes per clock and multiprocessor.
    pub float32_lanes: u32,
}

/// Warp instructions that a multiprocessor issues per clock: four schedulers, one each (CUDA programming guide,
/// compute capabilities 8.x and 9.0).
pub const ISSUE: u32 = 4;
/// Lanes per clock and multiprocessor of reciprocal, square root, exponential, logarithm, sine, tanh (CUDA
/// programming guide, table of arithmetic throughput: 16 for 8.0, 8.9 and 9.0).
pub const SPECIAL_LANES: u32 = 16;
/// Wavefronts per clock and multiprocessor: 32 banks of 4 bytes per clock (CUDA programming guide, shared memory of
/// compute capability 5.x and later).
pub const WAVEFRONTS: u32 = 1;

const fn sheet(rate: f64) -> Ceiling {
    Ceiling {
        rate,
        source: "data sheet",
    }
}

const HOPPER: &[(&str, Ceiling)] = &[
    ("f16", sheet(989.4e12)),
    ("bf16", sheet(989.4e12)),
    ("tf32", sheet(494.7e12)),
    ("e4m3", sheet(1978.9e12)),
    ("e5m2", sheet(1978.9e12)),
    ("s8", sheet(1978.9e12)),
    ("u8", sheet(1978.9e12)),
    ("f64", sheet(66.9e12)),
];

const MEASURED: Ceiling = Ceiling {
    rate: 788e12,
    source: "measured: 8192³ bf16 product of random data; data sheet 989.4",
};

/// As Hopper's, with the 16-bit product that was measured.
const H200: &[(&str, Ceiling)] = &[
    ("f16", MEASURED),
    ("bf16", MEASURED),
    ("tf32", sheet(494.7e12)),
    ("e4m3", sheet(1978.9e12)),
    ("e5m2", sheet(1978.9e12)),
    ("s8", sheet(1978.9e12)),
    ("u8", sheet(1978.9e12)),
    ("f64", sheet(66.9e12)),
];

const A100: &[(&str, Ceiling)] = &[
    ("f16", sheet(312e12)),
    ("bf16", sheet(312e12)),
    ("tf32", sheet(156e12)),
    ("s8", sheet(624e12)),
    ("u8", sheet(624e12)),
    ("f64", sheet(19.5e12)),
];

const L40S: &[(&str, Ceiling)] = &[
    ("f16", sheet(362e12)),
    ("bf16", sheet(362e12)),
    ("tf32", sheet(183e12)),
    ("e4m3", sheet(733e12)),
    ("e5m2", sheet(733e12)),
    ("s8", sheet(733e12)),
    ("u8", sheet(733e12)),
];

const L4: &[(&str, Ceiling)] = &[
    ("f16", sheet(121e12)),
    ("bf16", sheet(121e12)),
    ("tf32", sheet(60e12)),
    ("e4m3", sheet(242.5e12)),
    ("e5m2", sheet(242.5e12)),
    ("s8", sheet(242.5e12)),
    ("u8", sheet(242.5e12)),
];

const ADA: &str = "Ada whitepaper, float32 sums";

const fn ada(rate: f64) -> Ceiling {
    Ceiling { rate, source: ADA }
}

const RTX4090: &[(&str, Ceiling)] = &[
    ("f16", ada(165.2e12)),
    ("bf16", ada(165.2e12)),
    ("tf32", ada(82.6e12)),
    ("e4m3", ada(330.3e12)),
    ("e5m2", ada(330.3e12)),
    ("s8", ada(660.6e12)),
    ("u8", ada(660.6e12)),
];

/// The GPUs that estimates are made for.
pub static GPUS: [Gpu; 6] = [
    Gpu {
        key: "h200",
        name: "NVIDIA H200",
        profile: &profile::SM_90,
        multiprocessors: 132,
        clock_hz: 1.83e9,
        dram: Ceiling {
            rate: 4.3e12,
            source: "measured: device copy, read + write; data sheet 4.8",
        },
        l2: Some(Ceiling {
            rate: 5120.0 * 1.83e9,
            source: "assumed: A100's published 5120 B/clock at 1.83 GHz",
        }),
        matrix: H200,
        float32_lanes: 128,
    },
    Gpu {
        key: "h100",
        name: "NVIDIA H100 SXM",
        profile: &profile::SM_90_H100,
        multiprocessors: 132,
        clock_hz: 1.83e9,
        dram: sheet(3.35e12),
        l2: Some(Ceiling {
            rate: 5120.0 * 1.83e9,
            source: "assumed: A100's published 5120 B/clock at 1.83 GHz",
        }),
        matrix: HOPPER,
        float32_lanes: 128,
    },
    Gpu {
        key: "a100",
        name: "NVIDIA A100 SXM 80 GB",
        profile: &profile::SM_80,
        multiprocessors: 108,
        clock_hz: 1.41e9,
        dram: sheet(2.039e12),
        l2: Some(Ceiling {
            rate: 5120.0 * 1.41e9,
            source: "A100 whitepaper: 5120 B/clock, at 1.41 GHz",
        }),
        matrix: A100,
        float32_lanes: 64,
    },
    Gpu {
        key: "l40s",
        name: "NVIDIA L40S",
        profile: &profile::SM_89,
        multiprocessors: 142,
        clock_hz: 2.52e9,
        dram: sheet(0.864e12),
        l2: None,
        matrix: L40S,
        float32_lanes: 128,
    },
    Gpu {
        key: "l4",
        name: "NVIDIA L4",
        profile: &profile::SM_89,
        multiprocessors: 58,
        clock_hz: 2.04e9,
        dram: sheet(0.3e12),
        l2: None,
        matrix: L4,
        float32_lanes: 128,
    },
    Gpu {
        key: "rtx4090",
        name: "NVIDIA GeForce RTX 4090",
        profile: &profile::SM_89,
        multiprocessors: 128,
        clock_hz: 2.52e9,
        dram: Ceiling {
            rate: 1.008e12,
            source: "Ada whitepaper",
        },
        l2: None,
        matrix: RTX4090,
        float32_lanes: 128,
    },
];

impl Gpu {
    /// The GPU of this name.
    pub fn find(key: &str) -> Result<&'static Gpu, String> {
        GPUS.iter().find(|gpu| gpu.key == key).ok_or_else(|| {
            let known: Vec<_> = GPUS.iter().map(|gpu| gpu.key).collect();
            format!(
                "--gpu {key}: there are no figures for this GPU; known are {}",
                known.join(", ")
            )
        })
    }

    /// The GPU that a device's key stands for: `sm_90` for an H200.
    pub fn for_device(key: &str) -> Option<&'static Gpu> {
        let wanted = match key {
            "sm_80" => "a100",
            "sm_89" => "l40s",
            _ => "h200",
        };
        GPUS.iter().find(|gpu| gpu.key == wanted)
    }
}
