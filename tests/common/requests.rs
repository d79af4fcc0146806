//! Requests of every kind, for random models.

use ropeway::{Chunking, Embed, Pooling, Request};

/// Token ids below 700.
pub fn ids(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2654435761).wrapping_add(seed * 977) >> 7) % 700)
        .collect()
}

/// Options of every kind, to be mixed in one batch.
pub fn mixed_options() -> Vec<Embed> {
    vec![
        Embed::default(),
        Embed::task("retrieval.query"),
        Embed::task("text-matching").dimensions(32),
        Embed::mixture([("retrieval.query", 0.7), ("separation", 0.3)]),
        Embed::mixture([("classification", -1.5)]).normalize(false),
        Embed::default().pooling(Pooling::Cls),
        Embed::task("separation").pooling(Pooling::None).dimensions(64),
        Embed::default().chunks(Chunking::Tokens(5)),
    ]
}

/// Requests of mixed lengths that use those options in turn.
pub fn mixed_requests<'a>(options: &'a [Embed], lengths: &[usize]) -> Vec<Request<'a>> {
    let request =
        |(i, &length): (usize, &usize)| Request::ids(ids(length, i as u32), &options[i % options.len()]);
    lengths.iter().enumerate().map(request).collect()
}

/// A small deterministic generator: the next number below `limit`.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}
