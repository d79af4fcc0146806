//! What a device does, as far as a prediction needs it: measured with the engine's own kernels and with copies.

use anyhow::{Context as _, Result, bail};
use ropeway::Engine;
use ropeway::inspect::{DeviceLimits, DeviceRates, MeasuredRates, Pass, Rotation, Sm90Tile, copy_bandwidth};

use super::report::{Micros, markdown};
use super::{Effort, batches, ceiling};
use crate::tuned::Figures;

/// What was measured, and where to keep it.
pub struct Tuning {
    /// The device.
    pub device: DeviceLimits,
    /// What was measured.
    pub figures: Figures,
    /// What the table says of the device.
    table: DeviceRates,
}

/// Tokens of the large product, in sequences of [`LENGTH`]: enough that a wave more or less is nothing.
const TOKENS: usize = 8192;
const LENGTH: usize = 512;
/// Copies within L2, of which the best counts: each is some µs.
const COPIES_IN_L2: usize = 50;
/// Bounds of what a large product reaches of the busiest rate; a measurement beyond them is none.
const LEAST: f64 = 0.01;
const MOST: f64 = 10.0;

/// Measures an engine's GPU.
///
/// # Errors
/// An engine on the CPU; a call of the driver that failed.
pub fn tune(engine: &Engine, effort: Effort) -> Result<Tuning> {
    let device = DeviceLimits::of(engine)?;
    let table = DeviceRates::of_device(&device);
    let mut figures = Figures {
        dram_gb_per_s: Some(1e-9 * ceiling::copied(engine, &device)?),
        l2_gb_per_s: l2(engine, &device)?,
        ..Figures::default()
    };
    // A LayerNorm of one token does almost nothing: what it takes beside what the table says of it is its launch's.
    let one = Kernel::of(engine, &[1], "layernorm")?;
    let took = one.time(effort)?;
    let rest = one.predicted(&table)? - table.rates.launch_micros;
    figures.launch_micros = Some(took - rest).filter(|&micros| micros > 0.0);
    let known = table.clone().measured(figures.or(table.rates));

    let tokens = match effort {
        Effort::Full => TOKENS,
        Effort::Quick => 128,
    };
    let tokens = tokens.min(engine.batch_tokens());
    let length = LENGTH.min(tokens).min(engine.config().max_tokens);
    let product = Kernel::of(engine, &vec![length; tokens / length], "gemm")?;
    let took = product.time(effort)?;
    let with = |factor: f64| {
        let rates = match product.is_sm90 {
            true => MeasuredRates {
                sm90_speed: factor,
                ..known.rates
            },
            false => MeasuredRates {
                reached: factor,
                ..known.rates
            },
        };
        product.predicted(&known.clone().measured(rates))
    };
    let factor = solve(took, with)?;
    match product.is_sm90 {
        true => figures.sm90_speed = factor,
        false => figures.reached = factor,
    }
    Ok(Tuning {
        device,
        figures,
        table,
    })
}

/// GB/s of copies within L2, by what a copy takes longer than one of half its size: each has the same launch. `None` if the
/// larger one takes no longer.
fn l2(engine: &Engine, device: &DeviceLimits) -> Result<Option<f64>> {
    // What is read and what is written take half of it.
    let large = match device.simulated {
        true => 1 << 15,
        false => device.l2_bytes as usize / 4,
    };
    let micros = |bytes: usize| -> Result<f64> {
        Ok(2e6 * bytes as f64 / copy_bandwidth(engine, bytes, COPIES_IN_L2)?)
    };
    let small = large / 2;
    let rate = 2e-3 * (large - small) as f64 / (micros(large)? - micros(small)?);
    Ok(Some(rate).filter(|rate| rate.is_finite() && *rate > 0.0))
}

/// The factor with which `predicted`, which falls as it grows, is `took`; `None` if none within bounds does it.
fn solve(took: f64, predicted: impl Fn(f64) -> Result<f64>) -> Result<Option<f64>> {
    let (mut low, mut high) = (LEAST, MOST);
    if predicted(low)? < took || predicted(high)? > took {
        return Ok(None);
    }
    for _ in 0..50 {
        let middle = (low * high).sqrt();
        match predicted(middle)? > took {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(Some(high))
}

/// A kind of steps of a pass.
struct Kernel<'e> {
    pass: Pass<'e>,
    kind: usize,
    /// The first step of the kind.
    step: usize,
    is_sm90: bool,
}

impl<'e> Kernel<'e> {
    /// The kind of this group with the most work, in a pass without adapters.
    fn of(engine: &'e Engine, lengths: &[usize], group: &str) -> Result<Kernel<'e>> {
        let pass = batches::pass(engine, lengths, false)?;
        let found = pass.time_steps(Rotation::QUICK, |steps| {
            let kinds = (0..steps.kinds()).map(|kind| (kind, steps.describe(kind).launch));
            let of_group = kinds.filter(|(_, launch)| launch.group == group);
            let most =
                of_group.max_by_key(|(_, launch)| (launch.cost.flops, launch.parameters["tokens"].as_u64()));
            Ok(most.map(|(kind, launch)| (kind, launch.kernel)))
        })?;
        let (kind, kernel) = found.with_context(|| format!("a pass has no {group}"))?;
        let plan = pass.plan();
        let Some(first) = plan.kinds().get(kind).map(|kind| kind[0]) else {
            bail!("a pass has other steps than its plan");
        };
        Ok(Kernel {
            kind,
            step: first,
            is_sm90: Sm90Tile::ALL
                .iter()
                .any(|tile| kernel.ends_with(&format!("_{tile}"))),
            pass,
        })
    }

    /// The median of some times in µs.
    fn time(&self, effort: Effort) -> Result<f64> {
        let (rotation, warm, samples) = match effort {
            Effort::Full => (Rotation::FULL, 3, 50),
            Effort::Quick => (Rotation::QUICK, 0, 2),
        };
        let times = self.pass.time_steps(rotation, |steps| {
            for _ in 0..warm {
                steps.time(self.kind)?;
            }
            (0..samples).map(|_| steps.time(self.kind)).collect()
        })?;
        Ok(Micros::of(times).median)
    }

    fn predicted(&self, rates: &DeviceRates) -> Result<f64> {
        let steps = self.pass.predict(&self.pass.plan(), rates)?;
        Ok(steps[self.step].prediction.micros)
    }
}

impl Tuning {
    /// For people.
    pub fn table(&self) -> String {
        let Tuning {
            device,
            figures,
            table,
        } = self;
        let row = |what: &str, digits: usize, was: f64, is: Option<f64>| {
            let is = is.map_or("–".into(), |is| format!("{is:.digits$}"));
            [what.to_owned(), format!("{was:.digits$}"), is]
        };
        let was = &table.rates;
        let rows = [
            ["", "before", "measured"].map(String::from),
            row("launch, µs", 2, was.launch_micros, figures.launch_micros),
            row("memory, GB/s", 0, was.dram_gb_per_s, figures.dram_gb_per_s),
            row("L2, GB/s", 0, was.l2_gb_per_s, figures.l2_gb_per_s),
            row(
                "large products, of the busiest rate",
                3,
                was.reached,
                figures.reached,
            ),
            row(
                "large products on the kernels sm90, of an H200's",
                3,
                was.sm90_speed,
                figures.sm90_speed,
            ),
        ];
        let meaning = match device.simulated {
            true => "softcuda computes on the CPU: THE FIGURES MEAN NOTHING\n",
            false => "",
        };
        format!(
            "{}, driver for CUDA {}; before: {}\n{meaning}\n{}",
            device.name,
            device.driver,
            table.source,
            markdown(&rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_found_where_there_is_one() {
        let time = |factor: f64| Ok(5.0 + 7.0 / factor);
        let found = solve(15.0, time).unwrap().unwrap();
        assert!((found - 0.7).abs() < 1e-6, "{found}");
        // No factor makes it as short as its launch, or longer than with the least.
        assert_eq!(solve(5.0, time).unwrap(), None);
        assert_eq!(solve(1e4, time).unwrap(), None);
    }
}
