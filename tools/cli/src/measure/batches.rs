//! Batches of random tokens.

use anyhow::Result;
use ropeway::Engine;
use ropeway::inspect::{Pass, Random};
use ropeway::{Embed, Request};

/// Token ids, the same for the same `seed`.
pub fn ids(engine: &Engine, length: usize, seed: u64) -> Vec<u32> {
    let vocab = engine.config().vocab_size as u32;
    let mut random = Random::new(seed);
    (0..length).map(|_| random.bits() % vocab).collect()
}

/// Lengths between `least` and `most`, their logarithms uniform, `tokens` in all; the last is what is left.
pub fn log_uniform(least: usize, most: usize, tokens: usize) -> Vec<usize> {
    let mut random = Random::new(1);
    let mut lengths = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let exponent = (least as f64).ln() + random.unit() * (most as f64 / least as f64).ln();
        let length = (exponent.exp().round() as usize).clamp(least, most).min(left);
        lengths.push(length);
        left -= length;
    }
    lengths
}

/// What sequence `number` asks for: one of the loaded adapters after the other, or the base weights.
pub fn options(engine: &Engine, number: usize, adapted: bool) -> Embed {
    let names = engine.adapters();
    match (adapted, names.is_empty()) {
        (true, false) => Embed::task(&names[number % names.len()]),
        _ => Embed::base(),
    }
}

/// One pass of sequences of these lengths.
pub fn pass<'e>(engine: &'e Engine, lengths: &[usize], adapted: bool) -> Result<Pass<'e>> {
    let options: Vec<Embed> = (0..lengths.len()).map(|n| options(engine, n, adapted)).collect();
    let requests: Vec<Request<'_>> = lengths
        .iter()
        .zip(&options)
        .enumerate()
        .map(|(number, (&length, options))| Request::ids(ids(engine, length, number as u64 + 1), options))
        .collect();
    Ok(Pass::new(engine, &requests)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lengths_are_log_uniform() {
        let lengths = super::log_uniform(16, 512, 1 << 20);
        assert_eq!(lengths.iter().sum::<usize>(), 1 << 20);
        let (_, all) = lengths.split_last().unwrap();
        assert!(all.iter().all(|length| (16..=512).contains(length)));
        // The middle is the geometric mean of the ends, 90.5; a quarter is below 38.
        let below = |limit| all.iter().filter(|&&length| length < limit).count() as f64 / all.len() as f64;
        assert!((below(91) - 0.5).abs() < 0.02, "{}", below(91));
        assert!((below(38) - 0.25).abs() < 0.02, "{}", below(38));
    }
}
