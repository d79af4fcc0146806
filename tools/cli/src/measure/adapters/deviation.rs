//! How far the vectors of several ways may be apart, and are.

use anyhow::{Result, bail};
use ropeway::Precision;
use ropeway::Vector;

/// How far vectors of several ways are apart, over their length: the furthest pair.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// K-extended and merged, of the sequences that use the adapter that is merged.
    pub extended: f64,
    /// Separate and K-extended, of all sequences.
    pub separate: f64,
    /// Without and with adapters: what leaving them out would show as.
    pub base: f64,
}

impl Deviation {
    /// Nobody is fast and wrong.
    pub fn check(&self, precision: Precision, layers: usize) -> Result<()> {
        let limit = limit(precision, layers);
        for (way, apart, other) in [
            ("extended", self.extended, "merged"),
            ("separate", self.separate, "extended"),
        ] {
            if apart > limit {
                bail!(
                    "with {way} adapters a vector is {apart:.1e} of its length away from the {other} one; roundings to \
                     {precision} explain {limit:.1e}"
                );
            }
        }
        Ok(())
    }
}

/// How far roundings may drive the vectors of two ways apart. Each rounding errs by at most half a unit in the last
/// place, mostly less; a layer has about eight between its input and its output, and errors that know nothing of
/// each other add up as the root of their squares.
fn limit(precision: Precision, layers: usize) -> f64 {
    let rounding = 0.5_f64.powi(precision.significand_bits() as i32);
    rounding * ((8 * layers.max(1)) as f64).sqrt()
}

/// The most by which a vector is away from what it should be, over the latter's length; of every `step`th.
pub fn relative_deviation(got: &[Option<Vector>], want: &[Option<Vector>], step: usize) -> f64 {
    let length = |numbers: &[f64]| numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    let pair = |(got, want): (&Option<Vector>, &Option<Vector>)| match (got, want) {
        (Some(Vector::F32(got)), Some(Vector::F32(want))) => {
            let want: Vec<f64> = want.iter().map(|&x| x.into()).collect();
            let differences: Vec<f64> = got.iter().zip(&want).map(|(&a, b)| f64::from(a) - b).collect();
            length(&differences) / length(&want)
        }
        // One whose numbers are not finite.
        _ => f64::INFINITY,
    };
    got.iter().zip(want).step_by(step).map(pair).fold(0.0, f64::max)
}
