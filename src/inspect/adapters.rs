//! Random adapters beside an engine's own, applied in each of the ways.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Pass, PassTimes, Random};
use crate::batch::{Batch, Mixture};
use crate::engine::Engine;
use crate::error::Result;
use crate::gpu::adapters::DeviceAdapters;
use crate::gpu::merged::Merged;
use crate::model::adapter::{AdapterTable, LoraPart, Site};
use crate::model::{Adapter, Model};
use crate::output::Vector;
use crate::plan::Fusion;

/// Random adapters of one rank for all linear layers, on an engine's GPU; the engine's own stay as they are. A copy of the
/// weights with adapter 0 merged into them is uploaded as well.
///
/// The adapters have no factors of the embedding tables, which cost the same in every way.
pub struct AdapterLab<'e> {
    engine: &'e Engine,
    rank: usize,
    relative_size: f32,
    table: AdapterTable,
    merged: Arc<Merged>,
    on_device: Arc<DeviceAdapters>,
}

impl<'e> AdapterLab<'e> {
    /// One adapter. `relative_size` is the size of its ΔW over that of W.
    ///
    /// # Errors
    /// An engine on the CPU; a call of the driver that failed, for want of memory also.
    pub fn new(engine: &'e Engine, rank: usize, relative_size: f32) -> Result<AdapterLab<'e>> {
        let (gpu, model) = (engine.gpu()?, engine.model());
        let table = AdapterTable::new(vec![random(model, rank, relative_size, 0)]);
        let merged = Arc::new(Merged::upload(
            gpu.device(),
            model,
            table.get(0),
            gpu.precision(),
        )?);
        Ok(AdapterLab {
            on_device: upload(engine, &table, &merged)?,
            engine,
            rank,
            relative_size,
            table,
            merged,
        })
    }

    /// How many adapters there are.
    pub fn adapters(&self) -> usize {
        self.table.slots()
    }

    /// Adds adapters up to this many.
    ///
    /// # Errors
    /// A call of the driver that failed, for want of memory also; the adapters are those from before then.
    pub fn grow(&mut self, adapters: usize) -> Result<()> {
        let mut table = self.table.clone();
        while table.slots() < adapters {
            let (model, number) = (self.engine.model(), table.slots());
            table.add(random(model, self.rank, self.relative_size, number))?;
        }
        self.on_device = upload(self.engine, &table, &self.merged)?;
        self.table = table;
        Ok(())
    }

    /// The sequences of a pass with these adapters: `mixture` gives the adapters of a sequence, ascending, with weights
    /// that are not zero.
    pub fn assign(&self, pass: &Pass<'e>, mixture: impl Fn(usize) -> Mixture) -> Pass<'e> {
        Pass {
            engine: self.engine,
            batch: Batch {
                mixtures: (0..pass.batch.sequences()).map(mixture).collect(),
                adapters: self.table.clone(),
                ..pass.batch.clone()
            },
        }
    }

    /// Runs a pass of [`assign`](Self::assign), with the adapters in this way, and times it. Output vectors are `None`
    /// where their values are not all finite. [`Fusion::Merged`] of 0 takes the merged weights for every sequence.
    ///
    /// # Errors
    /// A call of the driver that failed.
    pub fn run(&self, pass: &Pass<'_>, fusion: Fusion) -> Result<(Vec<Option<Vector>>, PassTimes)> {
        self.engine.with_gpu(|gpu, context, staging| {
            gpu.rebind_adapters(context, &self.on_device)?;
            gpu.run_timed(context, staging, &pass.batch, fusion)
        })
    }
}

fn upload(engine: &Engine, table: &AdapterTable, merged: &Arc<Merged>) -> Result<Arc<DeviceAdapters>> {
    let gpu = engine.gpu()?;
    let adapters = DeviceAdapters::new(gpu.device(), engine.config(), gpu.precision(), table, None)?;
    Ok(Arc::new(adapters.with_merged(0, merged.clone())))
}

/// Adapter `number`: a different one for each number, the same in every process.
fn random(model: &Model, rank: usize, relative_size: f32, number: usize) -> Adapter {
    let config = &model.config;
    let layers = config.num_hidden_layers;
    let layer = |layer: usize| {
        let seed = (number * layers + layer + 1) as u64;
        let mut random = Random::new(seed);
        let mut numbers =
            |count: usize| -> Vec<f32> { (0..count).map(|_| 2.0 * random.unit() as f32 - 1.0).collect() };
        Site::ALL.map(|site| {
            let (out_features, in_features) = site.shape(config);
            let mut row = vec![0.0; in_features];
            model.encoder.layers[layer].linear(site).read_row(0, &mut row);
            let squares: f32 = row.iter().map(|x| x * x).sum();
            // An element of B·A is a sum of `rank` products of two numbers whose squares are 1/3 in the mean.
            let (w, product) = ((squares / in_features as f32).sqrt(), (rank as f32).sqrt() / 3.0);
            vec![LoraPart {
                rank,
                scale: relative_size * w / product,
                a: numbers(rank * in_features),
                bt: numbers(rank * out_features),
                column: 0,
                width: out_features,
            }]
        })
    };
    Adapter {
        name: format!("random {number}"),
        word: None,
        token_type: None,
        layers: (0..layers).into_par_iter().map(layer).collect(),
    }
}
