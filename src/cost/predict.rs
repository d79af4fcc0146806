//! How long each step of a plan takes on a device, from first principles: what its launch takes, then the busiest of tensor
//! cores, shared memory, L2 and DRAM, or a chain of latencies that none of them shortens, then what overlaps with none of it.
//!
//! A prediction, whose constants are assumed or measured on one H200 alone: it says what binds and how much there is to gain,
//! and is no measurement. Kernels of a pass follow one another in it, as in one CUDA graph.

use std::fmt;

use super::rates::{DeviceRates, H200_CLOCK};
use crate::model::ModelConfig;
use crate::plan::{Op, Plan, Step, Variant};
use crate::tile::{AttentionTile, GemmTile, K_BLOCK, RESERVED_SHARED, START_CLOCKS, STEP, STEP_CLOCKS};

/// What the time of a step is predicted to be.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// µs, from the end of the kernel before it.
    pub micros: f64,
    /// What takes most of it.
    pub bound: Bound,
}

/// What takes most of a step's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// Its launch, until the first data is there.
    Launch,
    /// Instructions that wait for one another; loads and products of a warp that is alone on its scheduler.
    Latency,
    /// Tensor cores; of attention with the exponentials, which do not overlap with them.
    Tensor,
    /// Shared memory.
    Shared,
    /// Issue of other instructions.
    Issue,
    /// L2.
    L2,
    /// DRAM.
    Dram,
    /// What overlaps with none of these: bias, GELU, rotation and stores behind a product, h behind a row, a LayerNorm before its
    /// product.
    Epilogue,
}

/// What a batch asks of its plan's steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work<'a> {
    pub config: &'a ModelConfig,
    pub plan: &'a Plan,
    /// Of the sequences.
    pub lengths: &'a [usize],
    /// The columns of the down-projection that a token uses, on average, by site.
    pub used_columns: [f64; 4],
}

/// Clocks from a block's start until a row, or the tile of a sequence, is loaded, and from its last instruction to its end.
/// With it a LayerNorm of 16 tokens takes on an H200 what was measured.
const ROW_CLOCKS: f64 = 3000.0;
/// Instructions of a LayerNorm's row, and of each column of h that it uses: counted in machine code (cuda/NOTES.md).
const ROW_INSTRUCTIONS: f64 = 700.0;
const COLUMN_INSTRUCTIONS: f64 = 500.0 / 4.0;
/// More clocks of a row kernel that writes h too: what each row's columns are is read first. By the H200's 5.0 µs of a LayerNorm
/// with h and 3.0 without.
const LORA_CLOCKS: f64 = 3700.0;
/// Clocks of two sums over a row, one after the other.
const SUM_CLOCKS: f64 = 900.0;
/// Warp instructions that a multiprocessor issues per clock.
const ISSUE: f64 = 4.0;
/// Clocks that a vector takes beside the loads of its rows; by the 8.6 µs of 16 rows on an H200.
const POOL_CLOCKS: f64 = 13000.0;
/// Exponentials per clock of a multiprocessor.
const EXPONENTIALS: f64 = 16.0;
/// Exponentials of a row and a tile of keys beside one for each key.
const RESCALES: f64 = 4.0;
/// Blocks of attention that a multiprocessor's registers hold, on the kernels for all GPUs.
const ATTENTION_BLOCKS: u32 = 2;
/// Clocks of a tile of keys at least, as its products and its softmax wait for one another: on the kernels for all GPUs, and
/// on those for compute capability 9.0. By an H200's times of one sequence of 128 to 512 tokens.
const ATTENTION_CLOCKS: f64 = 2100.0;
const ATTENTION_SM90_CLOCKS: f64 = 1050.0;

/// Predicts every step of a plan for a GPU.
pub(crate) fn predict(work: &Work<'_>, rates: &DeviceRates) -> Vec<Prediction> {
    let steps = work.plan.steps.iter();
    steps
        .map(|step| Times::of(work, step, rates).prediction())
        .collect()
}

/// The parts of a step's time, in µs.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    launch: f64,
    latency: f64,
    tensor: f64,
    shared: f64,
    issue: f64,
    l2: f64,
    dram: f64,
    /// The main part at least: of a product the sum of its rounds, each of which has its own busiest part.
    least: f64,
    epilogue: f64,
}

impl Times {
    fn of(work: &Work<'_>, step: &Step, rates: &DeviceRates) -> Times {
        let Work { config, plan, .. } = *work;
        let moved = Moved::of(work, step, rates);
        let memory = Times {
            launch: rates.rates.launch_micros,
            l2: moved.l2 / (1e3 * rates.rates.l2_gb_per_s),
            dram: moved.dram / (1e3 * rates.rates.dram_gb_per_s),
            ..Times::default()
        };
        let micros = |clocks: f64| 1e-3 * clocks / rates.clock;
        let count = rates.multiprocessors.count;
        let columns = |id: usize| plan.buffers[id].columns;
        let out = &plan.buffers[step.outputs[0].buffer];
        // Of h, if the step writes it beside its rows.
        let h_columns = step.outputs.iter().find_map(|output| match output.op {
            Op::LoraDown(site) => Some(work.used_columns[site as usize]),
            _ => None,
        });
        let of_gemm = |tile: GemmTile, shape: [usize; 3]| {
            let clocks = rates
                .multiprocessors
                .gemm_parts(tile, shape, rates.flop, rates.rates.reached);
            let clocks = clocks.unwrap_or_default();
            Times {
                launch: memory.launch + micros(clocks.start),
                latency: micros(clocks.chain.max(clocks.serial)),
                tensor: micros(clocks.tensor),
                shared: micros(clocks.shared),
                l2: micros(clocks.l2),
                least: micros(clocks.steps),
                epilogue: micros(clocks.epilogue),
                ..memory
            }
        };
        // Of a product that is a step by itself; `LoraUp` adds its first buffer to the product of the second.
        let factors = match step.op() {
            Op::LoraUp(_) => &step.reads[1..],
            _ => &step.reads[..],
        };
        let k = || factors.iter().map(|&id| columns(id)).sum::<usize>();
        match plan.variant(config, step) {
            Variant::Gemm(tile) => of_gemm(tile, [out.rows, out.columns, k()]),
            Variant::GemmSplit16 => {
                use crate::kernels::params::GEMM_SPLIT16_PARTS as PARTS;
                let of_part = k().div_ceil(PARTS as usize);
                let part = of_gemm(GemmTile::Small16, [out.rows, out.columns, of_part]);
                // All parts run at the same time, and share these.
                let all = |of_part: f64| f64::from(PARTS) * of_part;
                Times {
                    tensor: all(part.tensor),
                    shared: all(part.shared),
                    l2: all(part.l2),
                    ..part
                }
            }
            Variant::GemmSm90(tile) => {
                let k_blocks: usize = factors.iter().map(|&id| columns(id).div_ceil(K_BLOCK)).sum();
                let shape = [out.rows, out.columns];
                // Timed on an H200.
                let measured = tile.micros(shape, k_blocks as f64, rates.multiprocessors);
                let [launch, tiles, steps] = measured.map(|micros| micros * H200_CLOCK / rates.clock);
                Times {
                    // The launch that was measured has the start of an H200's kernels in it.
                    launch,
                    tensor: steps / rates.rates.sm90_speed,
                    epilogue: tiles,
                    l2: 0.0,
                    ..memory
                }
            }
            Variant::NormGemm => {
                use crate::kernels::params::{NORM_GEMM_COLUMNS, NORM_GEMM_ROWS};
                let product = &plan.buffers[step.outputs[step.outputs.len() - 1].buffer];
                let k = out.columns
                    + step.outputs[1..step.outputs.len() - 1]
                        .iter()
                        .map(|output| columns(output.buffer))
                        .sum::<usize>();
                let blocks = product
                    .columns
                    .div_ceil(NORM_GEMM_COLUMNS as usize)
                    .div_ceil(count) as f64;
                // Each block normalises all rows.
                let issued = blocks * out.rows as f64 * row_instructions(h_columns) / ISSUE;
                let steps = k.div_ceil(STEP as usize) as f64;
                let flops = 2 * NORM_GEMM_ROWS * NORM_GEMM_COLUMNS * STEP;
                let reached = rates.rates.reached;
                Times {
                    launch: memory.launch + micros(START_CLOCKS),
                    latency: micros(steps * STEP_CLOCKS),
                    tensor: micros(steps * blocks * f64::from(flops) / (rates.flop * reached)),
                    // As an epilogue of the LayerNorm: nothing overlaps with it.
                    epilogue: micros(issued + SUM_CLOCKS),
                    ..memory
                }
            }
            Variant::DownGemm => {
                use crate::kernels::params::DOWN_GEMM_ROWS;
                let product = &plan.buffers[step.outputs[step.outputs.len() - 1].buffer];
                let k = columns(step.reads[0]);
                let tile = GemmTile::Small16;
                let gemm = of_gemm(tile, [product.rows, product.columns, k + out.columns]);
                // Each block reads x and A once more, beside its product.
                let blocks = product
                    .columns
                    .div_ceil(tile.shape().columns as usize)
                    .div_ceil(count);
                let bytes = blocks * 2 * k * (DOWN_GEMM_ROWS as usize + out.columns);
                Times {
                    l2: gemm.l2 + bytes as f64 / l2_of_one(rates),
                    ..gemm
                }
            }
            variant @ (Variant::Embed | Variant::LayerNorm) => {
                let rows = out.rows as f64 / count as f64;
                // The embedding's own adapters come before h: a row of A, then its columns of B.
                let [chains, columns] = match variant {
                    Variant::Embed => [3.0, 2.0],
                    _ => [1.0, 1.0],
                };
                let of_h = h_columns.map_or(0.0, |used| {
                    chains * LORA_CLOCKS + columns * rows * used * COLUMN_INSTRUCTIONS / ISSUE
                });
                Times {
                    launch: memory.launch + micros(ROW_CLOCKS),
                    issue: micros(rows * ROW_INSTRUCTIONS / ISSUE),
                    epilogue: micros(of_h),
                    ..memory
                }
            }
            Variant::LoraDown => {
                use crate::kernels::params::LORA_DOWN_ROWS;
                let rows = LORA_DOWN_ROWS as usize;
                let blocks = out.rows.div_ceil(rows).div_ceil(count);
                let bytes = blocks * 2 * columns(step.reads[0]) * (rows + out.columns);
                Times {
                    launch: memory.launch + micros(ROW_CLOCKS),
                    l2: memory.l2.max(bytes as f64 / l2_of_one(rates)),
                    ..memory
                }
            }
            Variant::Attention(tile) => {
                let shape = tile.shape(config.head_dim as u32);
                let room =
                    rates.multiprocessors.rates().shared_bytes / (shape.shared_bytes + RESERVED_SHARED);
                let kernel = Attention {
                    tile,
                    keys: shape.columns as usize,
                    blocks: ATTENTION_BLOCKS.min(room).max(1) as usize,
                    flop: rates.flop * rates.rates.reached,
                    clocks: ATTENTION_CLOCKS,
                };
                kernel.times(work, rates, memory)
            }
            Variant::AttentionSm90(tile, kernel) => {
                let kernel = Attention {
                    tile,
                    keys: tile.shape(config.head_dim as u32).columns as usize,
                    blocks: kernel.blocks as usize,
                    flop: rates.multiprocessors.rates().peak_flop,
                    clocks: ATTENTION_SM90_CLOCKS,
                };
                kernel.times(work, rates, memory)
            }
            Variant::Pool => {
                // A block takes the rows of a vector one after the other.
                let longest = work.lengths.iter().max().copied().unwrap_or(0);
                let tokens: usize = work.lengths.iter().sum();
                let rows = longest.min(tokens.div_ceil(out.rows.max(1)));
                let bytes = out.rows.div_ceil(count) * rows * columns(step.reads[0]) * 2;
                Times {
                    launch: memory.launch,
                    latency: micros(POOL_CLOCKS),
                    epilogue: bytes as f64 / l2_of_one(rates),
                    ..memory
                }
            }
        }
    }

    fn prediction(self) -> Prediction {
        let Times {
            launch,
            latency,
            tensor,
            shared,
            issue,
            l2,
            dram,
            least,
            epilogue,
        } = self;
        let busy = [
            (Bound::Latency, latency),
            (Bound::Tensor, tensor),
            (Bound::Shared, shared),
            (Bound::Issue, issue),
            (Bound::L2, l2),
            (Bound::Dram, dram),
        ];
        let micros = launch + busy.iter().fold(least, |most, &(_, time)| most.max(time)) + epilogue;
        let parts = busy
            .into_iter()
            .chain([(Bound::Epilogue, epilogue), (Bound::Launch, launch)]);
        let most = parts.max_by(|a, b| a.1.total_cmp(&b.1));
        let (bound, _) = most.expect("there are parts");
        Prediction { micros, bound }
    }
}

/// Instructions of a row, with those of the columns of h that it uses.
fn row_instructions(h_columns: Option<f64>) -> f64 {
    ROW_INSTRUCTIONS + h_columns.unwrap_or(0.0) * COLUMN_INSTRUCTIONS
}

/// Bytes per µs from L2 to one multiprocessor.
fn l2_of_one(rates: &DeviceRates) -> f64 {
    1e3 * rates.rates.l2_gb_per_s / rates.multiprocessors.count as f64
}

/// The bytes that a step moves at least, by where they are.
struct Moved {
    l2: f64,
    dram: f64,
}

impl Moved {
    /// The step before has left its result in L2 where that has room for it; the weights of all layers have none.
    fn of(work: &Work<'_>, step: &Step, rates: &DeviceRates) -> Moved {
        let Work {
            config,
            plan,
            lengths,
            ..
        } = *work;
        let all = super::step(config, plan, step, lengths, 2, 2).bytes;
        let elements: usize = step.buffers().map(|id| plan.buffers[id].elements()).sum();
        let activations = 2 * elements as u64;
        let (l2, dram) = match activations < rates.l2_bytes / 2 {
            true => (activations, all - activations),
            false => (0, all),
        };
        Moved {
            l2: l2 as f64,
            dram: dram as f64,
        }
    }
}

/// A kernel of attention.
struct Attention {
    tile: AttentionTile,
    /// Keys of a tile.
    keys: usize,
    /// Blocks that a multiprocessor has at a time.
    blocks: usize,
    /// FLOP per clock of its products.
    flop: f64,
    /// Clocks of a tile of keys at least.
    clocks: f64,
}

impl Attention {
    fn times(&self, work: &Work<'_>, rates: &DeviceRates, memory: Times) -> Times {
        let count = rates.multiprocessors.count;
        let (rows, keys) = (self.tile.rows() as usize, self.keys);
        // Tiles of keys of each item, the longest first.
        let mut lengths = work.lengths.to_vec();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let items = lengths.iter().flat_map(|length| {
            let items = length.div_ceil(rows) * work.config.num_attention_heads;
            std::iter::repeat_n(length.div_ceil(keys) as f64, items)
        });
        let items: Vec<f64> = items.collect();
        let products = (4 * rows * keys * work.config.head_dim) as f64 / self.flop;
        let exponentials = rows as f64 * (keys as f64 + RESCALES) / EXPONENTIALS;
        let loads = (4 * keys * work.config.head_dim) as f64 / rates.multiprocessors.rates().l2_bytes;
        let (mut start, mut latency, mut tensor, mut l2) = (0.0, 0.0, 0.0, 0.0);
        let mut least = 0.0;
        // Blocks that a multiprocessor has at once share it, and take as long as the longest of them.
        for round in items.chunks(count * self.blocks) {
            let blocks = round.len().div_ceil(count) as f64;
            let busy = blocks * (products + exponentials).max(loads);
            start += ROW_CLOCKS;
            latency += round[0] * self.clocks;
            tensor += round[0] * blocks * (products + exponentials);
            l2 += round[0] * blocks * loads;
            least += round[0] * busy.max(self.clocks);
        }
        let micros = |clocks: f64| 1e-3 * clocks / rates.clock;
        Times {
            launch: memory.launch + micros(start),
            latency: micros(latency),
            tensor: micros(tensor),
            l2: micros(l2),
            least: micros(least),
            ..memory
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Launch => "launch",
            Bound::Latency => "latency",
            Bound::Tensor => "tensor cores",
            Bound::Shared => "shared memory",
            Bound::Issue => "issue",
            Bound::L2 => "L2",
            Bound::Dram => "DRAM",
            Bound::Epilogue => "epilogue",
        })
    }
}

#[cfg(test)]
mod tests;
