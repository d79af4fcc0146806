//! What the kernels of a pass do, counted under softcuda: no times, and no GPU.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use anyhow::{Context as _, Result, bail};
use ropeway::inspect::{
    AttentionTile, DeviceLimits, GemmTile, Op, Pass, ProductTile, SPLIT16, Site, Sm90Tile, Step, kernels,
};
use ropeway::{Cost, Engine};

use super::batches;
use super::report::markdown;

/// Names the file that softcuda appends its counts to. It is read when the driver starts.
pub const COUNTERS: &str = "SOFTCUDA_COUNTERS";

/// Launches to be counted, once without adapters and once with all of them mixed.
struct Case {
    tile: ProductTile,
    tokens: usize,
    /// The tile of attention, where it is not that which all GPUs have for the lengths.
    attention: Option<AttentionTile>,
    beside: Beside,
}

/// What is counted beside the products.
#[derive(PartialEq)]
enum Beside {
    Nothing,
    Attention,
    All,
}

impl Case {
    fn wants(&self, step: &Step, adapted: bool) -> bool {
        let Some(site) = step.site() else {
            let attention = self.beside == Beside::Attention && step.op() == Op::Attention;
            return self.beside == Beside::All || attention;
        };
        match self.tile {
            ProductTile::AllGpus(_) => true,
            // What is fused with a LayerNorm or a down-projection is not split.
            ProductTile::Split16 => step.op().site().is_some(),
            // Adapters, and rows past the last, add the same to each product: two of the four will do.
            ProductTile::Sm90(tile) => {
                let whole = self.tokens.is_multiple_of(tile.shape().rows as usize);
                whole && !adapted || [Site::Qkv, Site::OutProj].contains(&site)
            }
        }
    }
}

/// One row of tiles of every kernel of a product. The kernels that are no products are the same beside any of them: two
/// sizes are enough.
fn cases() -> Vec<Case> {
    let [largest, .., smallest] = GemmTile::ALL;
    let case = |tile: GemmTile| Case {
        tile: ProductTile::AllGpus(tile),
        tokens: tile.shape().rows as usize,
        attention: None,
        beside: match tile == largest || tile == smallest {
            true => Beside::All,
            false => Beside::Nothing,
        },
    };
    let split = Case {
        tile: ProductTile::Split16,
        tokens: SPLIT16.rows as usize,
        attention: None,
        beside: Beside::Nothing,
    };
    GemmTile::ALL.into_iter().map(case).chain([split]).collect()
}

/// The same of those for compute capability 9.0. Beside two of them attention, which has two tiles, and beside the
/// smallest a row of tiles that has few rows in its last.
fn sm90_cases() -> Vec<Case> {
    let case = |tile: Sm90Tile, tokens: usize, attention: Option<AttentionTile>| Case {
        tile: ProductTile::Sm90(tile),
        tokens,
        attention,
        beside: attention.map_or(Beside::Nothing, |_| Beside::Attention),
    };
    let full = Sm90Tile::ALL.map(|tile| {
        let attention = match tile {
            Sm90Tile::Wide => Some(AttentionTile::Large),
            Sm90Tile::Square => Some(AttentionTile::Small),
            _ => None,
        };
        case(tile, tile.shape().rows as usize, attention)
    });
    let few = case(Sm90Tile::Quarter, 72, Some(AttentionTile::Small));
    full.into_iter().chain([few]).collect()
}

/// What was counted.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Version of this library.
    pub ropeway: &'static str,
    /// `count`.
    pub bench: &'static str,
    /// Where the model is.
    pub model: String,
    /// The 16-bit type of weights and activations.
    pub precision: String,
    /// The simulated device.
    pub device: String,
    /// What compiled the kernels: instructions depend on it.
    pub compiler: &'static str,
    /// A launch each.
    pub rows: Vec<CountRow>,
}

/// A launch, and what it did.
#[derive(Clone, Debug, Serialize)]
pub struct CountRow {
    /// Launches that belong together: `gemm`, `attention`.
    pub group: &'static str,
    /// The kernel.
    pub case: String,
    /// On what.
    pub shape: String,
    /// What its result needs at least: bytes of DRAM, and FLOP of products.
    pub least: LowerBound,
    /// What was counted. Less is better, of all of them.
    pub counts: Count,
    /// Warp instructions by class.
    pub classes: BTreeMap<String, u64>,
    /// The numbers behind `shape`.
    pub parameters: Map<String, Value>,
}

/// What a result needs at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LowerBound {
    /// Bytes that must be read or written: operands, weights, results, each once.
    pub bytes: u64,
    /// Floating-point operations of its products; a multiply-add counts as 2.
    pub flops: u64,
}

impl From<Cost> for LowerBound {
    fn from(cost: Cost) -> LowerBound {
        LowerBound {
            bytes: cost.bytes,
            flops: cost.flops,
        }
    }
}

/// What one launch did, over all of its warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Bytes of device memory touched, in whole sectors of 32: what DRAM moves if L2 keeps everything.
    pub dram_bytes: u64,
    /// Sectors of 32 bytes asked of L2, if L1 keeps nothing.
    pub sectors: u64,
    /// Of these, sectors beyond the fewest that the bytes of each request fit in.
    pub excess_sectors: u64,
    /// FLOP of matrix instructions.
    pub mma_flops: u64,
    /// Matrix instructions.
    pub mma: u64,
    /// All instructions, of PTX.
    pub instructions: u64,
    /// Passes through the banks of shared memory beyond the fewest.
    pub bank_conflicts: u64,
    /// Warps that came to a barrier.
    pub barriers: u64,
}

/// Launches every kernel of a pass over a row of tiles once, and says what softcuda counted. The process must have been
/// started with [`COUNTERS`] set.
///
/// # Errors
/// An engine that is not on softcuda; the variable is not set; a call of the driver that failed.
pub fn count(engine: &Engine) -> Result<Counts> {
    let file = std::env::var_os(COUNTERS).filter(|path| !path.is_empty());
    let file = file.with_context(|| {
        format!("softcuda counts nothing: {COUNTERS}=FILE must be set when the process starts")
    })?;
    let file = PathBuf::from(file);
    let device = DeviceLimits::of(engine)?;
    if !device.simulated {
        bail!(
            "launches are counted by softcuda, and this is {}: tools/softcuda/run ropeway bench count",
            device.name
        );
    }
    let mut rows: Vec<CountRow> = Vec::new();
    // They are counted where the engine would take them.
    let one = batches::pass(engine, &[1], false)?;
    let has_sm90 = one.plan().gpu.is_some_and(|options| options.sm90);
    let mut cases = cases();
    if has_sm90 {
        cases.extend(sm90_cases());
    }
    for case in &cases {
        for (lengths, adapted) in batches_of(engine, case.tokens) {
            let pass = batches::pass(engine, &lengths, adapted)?;
            for row in launches(&file, &pass, case, adapted)? {
                // A layer's second LayerNorm is the first again, where neither has adapters.
                if !rows
                    .iter()
                    .any(|other| (&other.case, &other.shape) == (&row.case, &row.shape))
                {
                    rows.push(row);
                }
            }
        }
    }
    if rows.is_empty() {
        bail!(
            "a row of tiles has at least {} tokens, and the engine takes fewer: raise batch_tokens",
            GemmTile::Small16.shape().rows
        );
    }
    Ok(Counts {
        ropeway: env!("CARGO_PKG_VERSION"),
        bench: "count",
        model: engine.path().display().to_string(),
        precision: engine.precision().to_string(),
        device: device.name,
        compiler: kernels().compiler.unwrap_or("unknown"),
        rows,
    })
}

/// Batches of so many tokens: the lengths of their sequences, and whether they use adapters. One sequence without, and one
/// for each adapter.
fn batches_of(engine: &Engine, tokens: usize) -> Vec<(Vec<usize>, bool)> {
    if tokens > engine.config().max_tokens.min(engine.batch_tokens()) {
        return Vec::new();
    }
    let mut all = vec![(vec![tokens], false)];
    let parts = engine.adapters().len().min(tokens);
    if parts > 0 {
        let length = |part: usize| tokens * (part + 1) / parts - tokens * part / parts;
        all.push(((0..parts).map(length).collect(), true));
    }
    all
}

/// Launches and counts.
fn launches(file: &Path, pass: &Pass<'_>, case: &Case, adapted: bool) -> Result<Vec<CountRow>> {
    let before = read(file)?.len();
    let usual = || AttentionTile::choose(pass.lengths().into_iter(), false);
    let attention = case.attention.unwrap_or_else(usual);
    let launched = pass.single_launches(case.tile, Some(attention), |step| case.wants(step, adapted))?;
    let text = read(file)?;
    let counted: Vec<Counted> = text[before..]
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| {
            format!(
                "{}: this is not what softcuda of this version writes",
                file.display()
            )
        })?;
    let names = |names: Vec<&str>| names.join(", ");
    let (expected, found) = (
        names(launched.iter().map(|launch| launch.kernel.as_str()).collect()),
        names(counted.iter().map(|of| of.kernel.as_str()).collect()),
    );
    if expected != found {
        bail!(
            "{}: launched were {expected}, and counted were {found}: does another process write there?",
            file.display()
        );
    }
    let rows = launched
        .into_iter()
        .zip(&counted)
        .map(|(launch, counted)| CountRow {
            group: launch.group,
            case: launch.kernel,
            shape: launch.shape,
            least: launch.cost.into(),
            counts: counted.count(),
            classes: counted
                .classes
                .iter()
                .map(|of| (of.class.clone(), of.warps))
                .collect(),
            parameters: launch.parameters,
        });
    Ok(rows.collect())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// A line of softcuda's file, as far as it matters here.
#[derive(Deserialize)]
struct Counted {
    kernel: String,
    instructions: Executed,
    classes: Vec<Class>,
    matrix: Vec<Matrix>,
    barriers: Barriers,
    memory: Memory,
}

#[derive(Deserialize)]
struct Executed {
    warps: u64,
}

#[derive(Deserialize)]
struct Class {
    class: String,
    warps: u64,
}

#[derive(Deserialize)]
struct Matrix {
    instructions: u64,
    flops: u64,
}

#[derive(Deserialize)]
struct Barriers {
    arrivals: u64,
}

#[derive(Deserialize)]
struct Memory {
    global: BTreeMap<String, Requests>,
    dram: Dram,
    shared: BTreeMap<String, Waves>,
}

#[derive(Deserialize)]
struct Requests {
    sectors: u64,
    ideal_sectors: u64,
}

#[derive(Deserialize)]
struct Dram {
    read_bytes: u64,
    written_bytes: u64,
}

#[derive(Deserialize)]
struct Waves {
    wavefronts: u64,
    ideal: u64,
}

impl Counted {
    fn count(&self) -> Count {
        let (global, shared) = (self.memory.global.values(), self.memory.shared.values());
        Count {
            dram_bytes: self.memory.dram.read_bytes + self.memory.dram.written_bytes,
            sectors: global.clone().map(|of| of.sectors).sum(),
            excess_sectors: global.map(|of| of.sectors - of.ideal_sectors).sum(),
            mma_flops: self.matrix.iter().map(|of| of.flops).sum(),
            mma: self.matrix.iter().map(|of| of.instructions).sum(),
            instructions: self.instructions.warps,
            bank_conflicts: shared.map(|of| of.wavefronts - of.ideal).sum(),
            barriers: self.barriers.arrivals,
        }
    }
}

impl Counts {
    /// For programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("counts have no keys but strings");
        text.push('\n');
        text
    }

    /// For people: a Markdown table.
    pub fn table(&self) -> String {
        let ratio = |is: u64, least: u64, digits: usize| match least {
            0 => "–".to_owned(),
            _ => format!("{:.digits$}", is as f64 / least as f64),
        };
        let heads = [
            "kernel",
            "shape",
            "DRAM bytes",
            "/ least",
            "L2 / DRAM bytes",
            "sectors / fewest",
            "MMA FLOP / useful",
            "instructions / MMA",
            "bank conflicts",
            "barriers",
        ];
        let mut rows = vec![heads.map(String::from)];
        for CountRow {
            case,
            shape,
            least,
            counts,
            ..
        } in &self.rows
        {
            let flops = if counts.mma == 0 { 0 } else { least.flops };
            rows.push([
                case.clone(),
                shape.clone(),
                counts.dram_bytes.to_string(),
                ratio(counts.dram_bytes, least.bytes, 3),
                ratio(32 * counts.sectors, counts.dram_bytes, 1),
                ratio(counts.sectors, counts.sectors - counts.excess_sectors, 2),
                ratio(counts.mma_flops, flops, 3),
                ratio(counts.instructions, counts.mma, 2),
                counts.bank_conflicts.to_string(),
                counts.barriers.to_string(),
            ]);
        }
        let mut text = format!(
            "ropeway {} bench count: {} in {} on {}, kernels by {}\n\
             Counted on PTX as it ran on the CPU: what a launch does, not how long it takes.\n\n",
            self.ropeway, self.model, self.precision, self.device, self.compiler
        );
        text += &markdown(&rows);
        text
    }
}
