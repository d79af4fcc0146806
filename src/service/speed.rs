//! How long a pass takes on this machine: a line through what was measured.

use std::time::Duration;

/// What a pass is taken to cost before any was measured: 20 GFLOP/s, one CPU core.
const UNMEASURED_SECONDS_PER_FLOP: f64 = 1.0 / 20e9;

/// The weight of a pass against the one after it: some twenty passes are remembered.
const DECAY: f64 = 0.95;

/// `seconds = fixed + per_flop · flops`, fitted to the passes that were measured. Least squares of the relative errors,
/// so that short passes count as much as long ones; older passes count less.
#[derive(Clone, Debug, Default)]
pub struct Speed {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Speed {
    /// Takes a measured pass in.
    pub fn learn(&mut self, flops: u64, took: Duration) {
        let (x, y) = (flops as f64, took.as_secs_f64().max(1e-7));
        let weight = 1.0 / (y * y);
        for sum in [
            &mut self.weight,
            &mut self.x,
            &mut self.y,
            &mut self.xx,
            &mut self.xy,
        ] {
            *sum *= DECAY;
        }
        self.weight += weight;
        self.x += weight * x;
        self.y += weight * y;
        self.xx += weight * x * x;
        self.xy += weight * x * y;
    }

    /// The predicted time of a pass.
    pub fn predict(&self, flops: u64) -> Duration {
        let (fixed, per_flop) = self.line();
        // Bounded so that sums of it stay far from the largest duration.
        Duration::from_secs_f64((fixed + per_flop * flops as f64).clamp(0.0, 1e9))
    }

    fn line(&self) -> (f64, f64) {
        if self.xx <= 0.0 {
            return (0.0, UNMEASURED_SECONDS_PER_FLOP);
        }
        let through_zero = (0.0, self.xy / self.xx);
        let determinant = self.weight * self.xx - self.x * self.x;
        // Passes of one size only: no line.
        if determinant <= 1e-6 * self.weight * self.xx {
            return through_zero;
        }
        let per_flop = (self.weight * self.xy - self.x * self.y) / determinant;
        let fixed = (self.xx * self.y - self.x * self.xy) / determinant;
        match per_flop > 0.0 && fixed >= 0.0 {
            true => (fixed, per_flop),
            false => through_zero,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_a_change_of_it_followed() {
        let mut speed = Speed::default();
        let took = |flops: u64, scale: f64| Duration::from_secs_f64(scale * (0.001 + flops as f64 / 1e9));
        for scale in [1.0, 3.0] {
            for step in 0..200u64 {
                let flops = 1_000_000 * (1 + step % 9);
                speed.learn(flops, took(flops, scale));
            }
            for flops in [500_000, 20_000_000] {
                let ratio = speed.predict(flops).as_secs_f64() / took(flops, scale).as_secs_f64();
                assert!((0.97..1.03).contains(&ratio), "{ratio}");
            }
        }
    }

    #[test]
    fn few_or_strange_measurements_still_predict_more_time_for_more_work() {
        let mut speed = Speed::default();
        let grows = |speed: &Speed| speed.predict(2_000_000_000) > speed.predict(1_000_000_000);
        assert!(grows(&speed));
        speed.learn(1_000_000, Duration::from_millis(5));
        assert!(grows(&speed));
        // Larger and faster.
        speed.learn(9_000_000, Duration::from_millis(1));
        assert!(grows(&speed));
        speed.learn(0, Duration::ZERO);
        assert!(grows(&speed));
    }
}
