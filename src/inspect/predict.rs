//! What a plan is predicted to take on a device, which need not be there.

use super::{DeviceLimits, Pass};
use crate::cost::predict::{self, Prediction, Work};
use crate::cost::rates::{DeviceAttributes, DeviceRates};
use crate::device::KernelChoice;
use crate::error::{Error, Result};
use crate::gpu::check;
use crate::model::adapter::Site;
use crate::plan::{Fusion, GpuOptions, Plan};
use crate::precision::{Numerics, Precision};
use crate::tile::{AttentionTile, Multiprocessors};

/// A step of a plan, and what it is predicted to take.
#[derive(Clone, Debug)]
pub struct StepPrediction {
    /// The kernel, by its name without precision and head size: `gemm small16`.
    pub variant: String,
    /// How long, and what binds.
    pub prediction: Prediction,
}

impl DeviceRates {
    /// Those of an engine's GPU: by the table if it is there, else by what the driver says.
    pub fn of_device(device: &DeviceLimits) -> DeviceRates {
        DeviceRates::of(DeviceAttributes {
            name: device.name.clone(),
            multiprocessors: Multiprocessors {
                capability: device.capability,
                count: device.multiprocessors as usize,
            },
            clock: 1e-6 * f64::from(device.clock_khz),
            // Two edges of a clock in kHz, and bits to bytes.
            memory: 1e-6 * 2.0 * f64::from(device.memory_clock_khz) * f64::from(device.memory_bus_bits) / 8.0,
            l2_bytes: device.l2_bytes,
        })
    }
}

impl Pass<'_> {
    /// The plan that an engine on another device would run: with these kernels, and adapters as they are.
    ///
    /// # Errors
    /// A precision or a model that the GPU kernels are not for; kernels that the device cannot run.
    pub fn plan_on(
        &self,
        device: &DeviceRates,
        precision: Precision,
        numerics: Numerics,
        kernels: KernelChoice,
    ) -> Result<Plan> {
        let config = self.engine.config();
        check(config).map_err(Error::Device)?;
        let precision = precision
            .half()
            .ok_or_else(|| Error::Device(format!("a GPU computes in bf16 or f16, not in {precision}")))?;
        let sm90 = kernels.sm90(device.multiprocessors.capability);
        let sm90 = sm90.map_err(|problem| Error::Device(format!("{}: {problem}", device.name)))?;
        let gpu = GpuOptions {
            precision,
            numerics,
            fusion: Fusion::Extended,
            attention: AttentionTile::choose_for(self.batch.lengths().into_iter(), config.head_dim, sm90),
            multiprocessors: device.multiprocessors,
            sm90,
            sm90_tile: None,
        };
        let columns = Site::ALL.map(|site| self.batch.adapters.columns(site).1);
        Ok(Plan::gpu(config, self.batch.shape(), columns, gpu))
    }

    /// What each step of a plan for a GPU is predicted to take on a device.
    ///
    /// # Errors
    /// A plan for the CPU.
    pub fn predict(&self, plan: &Plan, device: &DeviceRates) -> Result<Vec<StepPrediction>> {
        if plan.gpu.is_none() {
            return Err(Error::Device(
                "times are predicted of plans for a GPU alone".into(),
            ));
        }
        let config = self.engine.config();
        let lengths = self.lengths();
        let tokens = self.tokens().max(1) as f64;
        let used_columns = Site::ALL.map(|site| {
            let rank = |&(slot, _): &(usize, f32)| self.batch.adapters.get(slot).rank(site);
            let of = |mixture: &Vec<_>| mixture.iter().map(rank).sum::<usize>();
            let used = self.batch.mixtures.iter().map(of).zip(&lengths);
            used.map(|(columns, length)| columns * length).sum::<usize>() as f64 / tokens
        });
        let work = Work {
            config,
            plan,
            lengths: &lengths,
            used_columns,
        };
        let predicted = predict::predict(&work, device).into_iter().zip(&plan.steps);
        let steps = predicted.map(|(prediction, step)| StepPrediction {
            variant: plan.variant(config, step).to_string(),
            prediction,
        });
        Ok(steps.collect())
    }
}
