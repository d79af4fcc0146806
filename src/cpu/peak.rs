//! What this processor can do at most, measured: the instruction that does a product's work, on registers alone, and a copy.

use std::time::{Duration, Instant};

use super::isa::{Isa, isa_fn};
use super::team::Team;

/// What a machine can do at most, all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Floating-point operations; a multiply-add is two.
    pub flops_per_s: f64,
    /// Bytes read and bytes written, by a copy of what no cache holds.
    pub bytes_per_s: f64,
}

/// Chains side by side: enough for two instructions a cycle of four cycles each, and no more than AVX2 has registers.
const CHAINS: usize = 12;

isa_fn! {
    /// So many rounds of fused multiply-adds of float32 numbers; gives the operations that they were.
    fn multiply_adds<S>(s, rounds: usize) -> f64 {
        let (a, b) = (s.splat(std::hint::black_box(0.5)), s.splat(std::hint::black_box(0.25)));
        let mut sums = [s.zero(); CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = s.fma(*sum, a, b);
            }
        }
        let total = sums.into_iter().fold(s.zero(), |total, sum| s.add(total, sum));
        std::hint::black_box(s.sum(total));
        (2 * CHAINS * S::LANES * rounds) as f64
    }
}

/// The same as a function of its own: what kernels that multiply float32 numbers are measured by.
pub fn float32(isa: Isa, rounds: usize) -> f64 {
    multiply_adds(isa, rounds)
}

/// Measures with `work(rounds)` on each thread, which gives the operations that it did. Takes about a third of a second.
pub fn limits(team: &mut Team, work: &(dyn Fn(usize) -> f64 + Sync)) -> Limits {
    // The clock settles under load.
    let warm = Instant::now();
    let mut rounds = 1000;
    let mut took = Duration::ZERO;
    while warm.elapsed() < Duration::from_millis(50) {
        let start = Instant::now();
        work(rounds);
        took = start.elapsed();
        if took < Duration::from_millis(5) {
            rounds *= 2;
        }
    }
    let threads = team.threads();
    let least = |team: &mut Team, work: &(dyn Fn(usize) + Sync)| {
        let runs = (0..8).map(|_| {
            let start = Instant::now();
            team.run(threads, work);
            start.elapsed().as_secs_f64()
        });
        runs.fold(f64::INFINITY, f64::min)
    };
    debug_assert!(took > Duration::ZERO);
    let seconds = least(team, &|_| {
        work(rounds);
    });
    let flops = work(rounds) * threads as f64;
    /// Larger than most caches.
    const BYTES: usize = 128 << 20;
    let from = vec![1u8; BYTES];
    let to: Vec<std::sync::Mutex<Vec<u8>>> = (0..threads)
        .map(|_| std::sync::Mutex::new(vec![0; BYTES / threads]))
        .collect();
    let copy = least(team, &|part| {
        // Each part is one task's; a lock that nobody else holds costs nothing here.
        let mut to = to[part].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let length = to.len();
        to.copy_from_slice(&from[part * length..][..length]);
        std::hint::black_box(to.as_ptr());
    });
    Limits {
        flops_per_s: flops / seconds,
        bytes_per_s: 2.0 * (BYTES / threads * threads) as f64 / copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted() {
        for isa in Isa::available() {
            let per_round = float32(isa, 1000) / 1000.0;
            assert!(
                per_round >= 2.0 * 8.0 * CHAINS as f64,
                "{}: {per_round}",
                isa.name()
            );
        }
        let limits = limits(&mut Team::new(2), &|rounds| float32(Isa::detect(), rounds));
        assert!(limits.flops_per_s > 1e8 && limits.bytes_per_s > 1e7, "{limits:?}");
    }
}
