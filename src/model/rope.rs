//! The table of rotary position embeddings (arXiv 2104.09864).

/// Cosines and sines for rotary position embedding.
///
/// Dimension i of a head is rotated together with i + half by the angle
/// position · base^(-2i/head_dim), taken in f32 as the reference
/// implementations do.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// A table for positions 0..positions and heads of `head_dim`, which is
    /// even.
    pub fn new(positions: usize, head_dim: usize, base: f64) -> RopeTable {
        assert!(head_dim.is_multiple_of(2), "rotary needs pairs");
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = (2 * i) as f32 / head_dim as f32;
                1.0 / base.powf(f64::from(exponent)) as f32
            })
            .collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        RopeTable {
            cos: angles.clone().map(|a| a.cos() as f32).collect(),
            sin: angles.map(|a| a.sin() as f32).collect(),
            half,
        }
    }

    /// Pairs of a head: half its dimensions.
    pub fn half(&self) -> usize {
        self.half
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Cosines and sines of one position, `half` of each.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}
