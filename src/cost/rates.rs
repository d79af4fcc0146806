//! What devices do per second: one table, and what a measurement puts in its place.

use std::fmt;

use crate::tile::{Multiprocessors, REACHED};

/// A row of the table.
struct Board {
    /// What a user calls it.
    key: &'static str,
    /// What its driver calls it, exactly.
    names: &'static [&'static str],
    capability: (u32, u32),
    multiprocessors: usize,
    /// GHz while tensor cores work: the data sheet's peak of dense 16-bit products, over multiprocessors and FLOP per clock.
    clock: f64,
    /// GB/s of the memory.
    memory: f64,
    /// MB of L2.
    l2: u64,
}

/// GHz of an H200 while tensor cores work.
pub(super) const H200_CLOCK: f64 = 1.83;

// From NVIDIA's data sheets and white papers: peak of dense products in bf16, memory, and L2.
#[rustfmt::skip] // A table.
const BOARDS: [Board; 9] = [
    // A100 data sheet (2021): 312 TFLOP/s, 1555 GB/s with 40 GB, 1935 and 2039 GB/s with 80 GB; 40 MB of L2.
    Board {
        key: "a100-40gb", names: &["NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"],
        capability: (8, 0), multiprocessors: 108, clock: 1.41, memory: 1555.0, l2: 40,
    },
    Board {
        key: "a100-pcie", names: &["NVIDIA A100 80GB PCIe"],
        capability: (8, 0), multiprocessors: 108, clock: 1.41, memory: 1935.0, l2: 40,
    },
    Board {
        key: "a100", names: &["NVIDIA A100-SXM4-80GB"],
        capability: (8, 0), multiprocessors: 108, clock: 1.41, memory: 2039.0, l2: 40,
    },
    // L4 data sheet: 242 TFLOP/s of sparse products, 300 GB/s. Its 72 W hold the clock lower under load.
    Board {
        key: "l4", names: &["NVIDIA L4"],
        capability: (8, 9), multiprocessors: 58, clock: 2.04, memory: 300.0, l2: 48,
    },
    // L40S data sheet: 362 TFLOP/s, 864 GB/s.
    Board {
        key: "l40s", names: &["NVIDIA L40S"],
        capability: (8, 9), multiprocessors: 142, clock: 2.49, memory: 864.0, l2: 96,
    },
    // Ada white paper: 165 TFLOP/s with float32 sums, 1008 GB/s, 72 MB.
    Board {
        key: "rtx4090", names: &["NVIDIA GeForce RTX 4090"],
        capability: (8, 9), multiprocessors: 128, clock: 2.52, memory: 1008.0, l2: 72,
    },
    // H100 data sheet and white paper: 989 and 756 TFLOP/s, 3350 and 2000 GB/s, 50 MB.
    Board {
        key: "h100", names: &["NVIDIA H100 80GB HBM3"],
        capability: (9, 0), multiprocessors: 132, clock: 1.83, memory: 3350.0, l2: 50,
    },
    Board {
        key: "h100-pcie", names: &["NVIDIA H100 PCIe"],
        capability: (9, 0), multiprocessors: 114, clock: 1.62, memory: 2000.0, l2: 50,
    },
    // H200 data sheet: 989 TFLOP/s, 4800 GB/s; its driver says 60 MiB of L2.
    Board {
        key: "h200", names: &["NVIDIA H200"],
        capability: (9, 0), multiprocessors: 132, clock: H200_CLOCK, memory: 4800.0, l2: 60,
    },
];

/// The part of its data sheet's bytes per second that a copy reaches: measured on an H200 (4247 of 4800 GB/s, report of
/// 2026-11-29), assumed of others.
const COPIED: f64 = 0.885;
/// GHz and GB/s of a device whose driver tells none: those of no GPU in particular.
const UNTOLD: [f64; 2] = [1.5, 500.0];
/// µs from the end of a kernel of a CUDA graph to the start of the next. Assumed; with it the shortest kernels take on an
/// H200 what was measured.
const LAUNCH: f64 = 1.3;

/// What a device does per second, as far as a step's time depends on it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceRates {
    /// The device's name.
    pub name: String,
    /// Its multiprocessors.
    pub multiprocessors: Multiprocessors,
    /// GHz of the multiprocessors while tensor cores work.
    pub clock: f64,
    /// FLOP of `mma.sync` per multiprocessor and clock.
    pub flop: f64,
    /// Bytes of L2.
    pub l2_bytes: u64,
    /// What a measurement can replace.
    pub rates: MeasuredRates,
    /// Where the figures are from.
    pub source: RatesSource,
}

/// Where the figures of [`DeviceRates`] are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RatesSource {
    /// The table of data sheets.
    Table,
    /// What the driver says of a device that is in no table.
    Attributes,
    /// A measurement on the device, beside one of these.
    Measured,
}

/// What can be measured of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeasuredRates {
    /// µs from the end of a kernel of a CUDA graph to the start of the next.
    pub launch_micros: f64,
    /// GB/s of memory, read and written.
    pub dram_gb_per_s: f64,
    /// GB/s of L2, read and written.
    pub l2_gb_per_s: f64,
    /// The part of the busiest rate that the main loop of a large product reaches, on the tiles for all GPUs.
    pub reached: f64,
    /// The speed of large products on the tiles for compute capability 9.0, that of an H200 being 1 at the same clock.
    pub sm90_speed: f64,
}

/// What the driver says of a device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceAttributes {
    pub name: String,
    pub multiprocessors: Multiprocessors,
    /// GHz at most.
    pub clock: f64,
    /// GB/s of the memory, by its clock and the width of its bus.
    pub memory: f64,
    pub l2_bytes: u64,
}

impl DeviceRates {
    /// The device of the table that a user means by this name: `h200`, or what its driver calls it.
    ///
    /// # Errors
    /// The names that there are.
    pub fn named(name: &str) -> Result<DeviceRates, String> {
        let is = |board: &&Board| {
            board.key.eq_ignore_ascii_case(name) || board.names.iter().any(|of| of.eq_ignore_ascii_case(name))
        };
        BOARDS.iter().find(is).map(DeviceRates::of_board).ok_or_else(|| {
            let keys: Vec<&str> = BOARDS.iter().map(|board| board.key).collect();
            format!("`{name}` is not one of {}", keys.join(", "))
        })
    }

    /// A device, by the table if it is there, else by what the driver says.
    pub(crate) fn of(device: DeviceAttributes) -> DeviceRates {
        let listed = BOARDS.iter().find(|board| board.names.contains(&&*device.name));
        match listed.map(DeviceRates::of_board) {
            // A part of a GPU has fewer than its board.
            Some(board) if board.multiprocessors == device.multiprocessors => board,
            _ => DeviceRates::new(device, RatesSource::Attributes),
        }
    }

    fn of_board(board: &Board) -> DeviceRates {
        let device = DeviceAttributes {
            name: board.names[0].to_owned(),
            multiprocessors: Multiprocessors {
                capability: board.capability,
                count: board.multiprocessors,
            },
            clock: board.clock,
            memory: board.memory,
            l2_bytes: board.l2 << 20,
        };
        DeviceRates::new(device, RatesSource::Table)
    }

    fn new(device: DeviceAttributes, source: RatesSource) -> DeviceRates {
        let DeviceAttributes {
            name,
            multiprocessors,
            clock,
            memory,
            l2_bytes,
        } = device;
        let told = |figure: f64, untold: f64| if figure > 0.0 { figure } else { untold };
        let (clock, memory) = (told(clock, UNTOLD[0]), told(memory, UNTOLD[1]));
        let rates = multiprocessors.rates();
        // GeForce boards add up in float32 at half the rate.
        let halved = multiprocessors.capability >= (8, 6) && name.contains("GeForce");
        DeviceRates {
            multiprocessors,
            clock,
            flop: rates.flop * if halved { 0.5 } else { 1.0 },
            l2_bytes,
            rates: MeasuredRates {
                launch_micros: LAUNCH,
                dram_gb_per_s: COPIED * memory,
                l2_gb_per_s: multiprocessors.count as f64 * clock * rates.l2_bytes,
                reached: REACHED,
                sm90_speed: 1.0,
            },
            source,
            name,
        }
    }

    /// The same device with these measured.
    pub fn measured(self, rates: MeasuredRates) -> DeviceRates {
        DeviceRates {
            rates,
            source: RatesSource::Measured,
            ..self
        }
    }
}

impl fmt::Display for RatesSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RatesSource::Table => "its data sheet",
            RatesSource::Attributes => "what its driver says",
            RatesSource::Measured => "what `ropeway bench tune` measured",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peaks are those of the data sheets, in TFLOP/s.
    #[test]
    fn the_table_gives_the_data_sheets_peaks() {
        let peaks = [312.0, 312.0, 312.0, 121.0, 362.0, 165.0, 989.0, 756.0, 989.0];
        for (board, peak) in BOARDS.iter().zip(peaks) {
            let device = DeviceRates::of_board(board);
            let (rates, count) = (
                device.multiprocessors.rates(),
                device.multiprocessors.count as f64,
            );
            let halved = device.flop / rates.flop;
            let tflops = 1e-3 * rates.peak_flop * halved * count * device.clock;
            assert!(
                (tflops / peak - 1.0).abs() < 0.005,
                "{}: {tflops} of {peak}",
                board.key
            );
            for name in board.names.iter().chain([&board.key]) {
                assert_eq!(DeviceRates::named(&name.to_lowercase()).unwrap(), device);
            }
        }
        let problem = DeviceRates::named("b300").unwrap_err();
        assert!(
            problem.starts_with("`b300` is not one of a100-40gb, "),
            "{problem}"
        );
    }

    #[test]
    fn a_device_that_is_not_in_the_table_is_what_its_driver_says() {
        let device = |name: &str, capability, count| DeviceAttributes {
            name: name.into(),
            multiprocessors: Multiprocessors { capability, count },
            clock: 2.0,
            memory: 1000.0,
            l2_bytes: 1 << 20,
        };
        let h200 = DeviceRates::of(device("NVIDIA H200", (9, 0), 132));
        assert_eq!(h200, DeviceRates::named("h200").unwrap());
        assert_eq!(h200.source, RatesSource::Table);
        // A part of one.
        let part = DeviceRates::of(device("NVIDIA H200", (9, 0), 16));
        assert_eq!((part.source, part.clock), (RatesSource::Attributes, 2.0));
        assert_eq!(part.rates.l2_gb_per_s, 16.0 * 2.0 * 46.0);
        assert_eq!(part.rates.dram_gb_per_s, 885.0);
        let untold = DeviceRates::of(DeviceAttributes {
            clock: 0.0,
            memory: 0.0,
            ..device("a new one", (10, 0), 148)
        });
        assert!(untold.clock > 0.0 && untold.rates.dram_gb_per_s > 0.0 && untold.rates.l2_gb_per_s > 0.0);
        assert_eq!(
            DeviceRates::of(device("NVIDIA RTX A6000", (8, 6), 84)).flop,
            1024.0
        );
        assert_eq!(
            DeviceRates::of(device("NVIDIA GeForce RTX 3090", (8, 6), 82)).flop,
            512.0
        );
    }
}
