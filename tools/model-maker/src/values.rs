//! The random numbers: a counter-based generator, so that any slice of any tensor can be made on its own.
//!
//! Value `i` of a stream is a function of `(key, i)` alone. The two layouts of a jina model hold the same numbers in different
//! orders (stacked, split by rows, transposed); each computes the numbers it needs where it needs them, and nothing is held in memory.
//! Only integer arithmetic and one `f32` multiply-add (never fused) are used: the bytes are the same on every machine.

/// SplitMix64's output function (Steele, Lea and Flood, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The stream of one tensor: FNV-1a of its name, mixed with the model's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    pub fn new(seed: u64, name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(mix(seed.wrapping_add(GOLDEN)) ^ hash))
    }

    /// Value `index` of the stream, roughly normal with mean 0 and variance 1, within ±3.47.
    ///
    /// The sum of four uniform 16-bit numbers, centred and divided by its standard deviation `sqrt((2^32 - 1) / 3)`.
    pub fn normal(self, index: u64) -> f32 {
        const INV_STD: f32 = 1.0 / 37_837.227;
        let bits = mix(self.0.wrapping_add(index.wrapping_mul(GOLDEN)));
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        // At most 262,140 and so exact in f32.
        (sum as f32 - 131_070.0) * INV_STD
    }
}

/// A run of values inside a tensor: `rows x cols` numbers of one stream, in row-major order.
#[derive(Debug, Clone)]
pub struct Part {
    pub key: Key,
    pub mean: f32,
    pub std: f32,
    /// First value of the stream that is used.
    pub start: usize,
    pub rows: usize,
    pub cols: usize,
    /// The stream holds the matrix as `cols x rows`; it is written transposed.
    pub transpose: bool,
}

impl Part {
    /// `rows x cols` values from the beginning of the stream.
    pub fn matrix(key: Key, std: f32, rows: usize, cols: usize) -> Self {
        Self {
            key,
            mean: 0.0,
            std,
            start: 0,
            rows,
            cols,
            transpose: false,
        }
    }

    pub fn count(&self) -> usize {
        self.rows * self.cols
    }

    /// Value `i` of the part, in the order in which it is written.
    pub fn value(&self, i: usize) -> f32 {
        let at = if self.transpose {
            (i % self.cols) * self.rows + i / self.cols
        } else {
            i
        };
        self.mean + self.std * self.key.normal((self.start + at) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_never_change() {
        let key = Key::new(0, "encoder.layers.0.mixer.Wqkv.weight");
        let first: Vec<u32> = (0..3).map(|i| key.normal(i).to_bits()).collect();
        assert_eq!(first, [1_070_432_149, 3_212_629_251, 1_059_693_051]);
    }

    #[test]
    fn values_are_centred_with_unit_variance() {
        let key = Key::new(7, "x");
        let n = 100_000_u32;
        let (sum, squares) = (0..n).fold((0.0_f64, 0.0_f64), |(sum, squares), i| {
            let v = f64::from(key.normal(u64::from(i)));
            (sum + v, squares + v * v)
        });
        assert!((sum / f64::from(n)).abs() < 0.01);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02);
    }

    #[test]
    fn names_and_seeds_give_different_streams() {
        assert_ne!(Key::new(0, "a"), Key::new(0, "b"));
        assert_ne!(Key::new(0, "a"), Key::new(1, "a"));
    }

    #[test]
    fn a_transposed_part_holds_the_same_numbers() {
        let straight = Part::matrix(Key::new(0, "a"), 0.5, 3, 2);
        let turned = Part {
            rows: 2,
            cols: 3,
            transpose: true,
            ..straight.clone()
        };
        for row in 0..3 {
            for col in 0..2 {
                assert_eq!(straight.value(row * 2 + col), turned.value(col * 3 + row));
            }
        }
    }
}
