//! Whether what an adapter adds to a weight is of a size that training makes.
//!
//! A scale that is far too large (a broken `lora_alpha`, factors of another model) gives finite vectors that are the same
//! for all texts. An adapter that adds a thousand times a weight's own norm is therefore refused. Two bounds decide nearly
//! always, with one pass over the factors and a few rows of the weights; the rest is linear too.

use super::{Adapter, EmbeddingLora, LoraPart, Site};
use crate::error::{AdapterError, Error, Result};
use crate::model::encoder::{Encoder, Linear};
use crate::model::weights::Tensor;

/// What an adapter may add to a weight at most: this many times the weight's own Frobenius norm.
const LARGEST_CHANGE: f64 = 1000.0;

/// Rows of a weight that its norm is estimated from.
const SAMPLED_ROWS: usize = 64;

/// Random vectors that the norm of a product is estimated with; its standard deviation is at most a quarter then.
const PROBES: u64 = 32;

impl Adapter {
    /// Checks that `scale·B·A` is at most [`LARGEST_CHANGE`] times as large as the weight that it is added to, in the
    /// Frobenius norm, for every weight. A weight of zeros is not compared with.
    ///
    /// # Errors
    /// [`AdapterError::TooLarge`] with both norms.
    pub(crate) fn check_magnitude(&self, encoder: &Encoder) -> Result<()> {
        for (number, (layer, weights)) in self.layers.iter().zip(&encoder.layers).enumerate() {
            for site in Site::ALL {
                for part in &layer[site as usize] {
                    let weight = Rows::of_linear(weights.linear(site), part);
                    let name = || format!("the {site:?} weight of layer {number}");
                    self.check_change(part, &weight, name)?;
                }
            }
        }
        let tables = [
            (&self.word, &encoder.word, "the word embeddings"),
            (&self.token_type, &encoder.token_type, "the token-type embeddings"),
        ];
        for (lora, table, name) in tables {
            if let Some(lora) = lora {
                self.check_change(lora, &Rows::of_table(table), || name.to_owned())?;
            }
        }
        Ok(())
    }

    fn check_change(
        &self,
        change: &impl Product,
        weight: &Rows<'_>,
        name: impl Fn() -> String,
    ) -> Result<()> {
        if change.bound() <= LARGEST_CHANGE * weight.norm(SAMPLED_ROWS) {
            return Ok(());
        }
        let (change, weight) = (estimate(change), weight.norm(usize::MAX));
        if weight == 0.0 || change <= LARGEST_CHANGE * weight {
            return Ok(());
        }
        let too_large = AdapterError::TooLarge {
            target: name(),
            change,
            weight,
            limit: LARGEST_CHANGE,
        };
        Err(Error::adapter(&self.name, too_large))
    }
}

/// Reads a row by its number.
type ReadRow<'a> = Box<dyn Fn(usize, &mut [f32]) + 'a>;

/// Rows of a weight.
struct Rows<'a> {
    count: usize,
    columns: usize,
    read: ReadRow<'a>,
}

impl<'a> Rows<'a> {
    fn of_linear(linear: &'a Linear, part: &LoraPart) -> Rows<'a> {
        let first = part.column;
        Rows {
            count: part.width,
            columns: linear.in_features,
            read: Box::new(move |row, out| linear.read_row(first + row, out)),
        }
    }

    fn of_table(table: &'a Tensor) -> Rows<'a> {
        Rows {
            count: table.shape()[0],
            columns: table.shape()[1],
            read: Box::new(|row, out| table.read_row(row, out)),
        }
    }

    /// The Frobenius norm, from at most `limit` rows at equal distances.
    fn norm(&self, limit: usize) -> f64 {
        let sampled = self.count.min(limit);
        let mut row = vec![0.0; self.columns];
        let mut sum = 0.0;
        for i in 0..sampled {
            (self.read)(i * self.count / sampled, &mut row);
            sum += squares(&row);
        }
        (sum * self.count as f64 / sampled as f64).sqrt()
    }
}

/// A scaled product of two factors.
trait Product {
    /// No less than its Frobenius norm.
    fn bound(&self) -> f64;

    /// The product with a vector of signs, scaled.
    fn times(&self, signs: &mut Signs) -> Vec<f64>;
}

/// `‖P‖_F`: the mean of `‖P x‖²` over vectors x of random signs is its square.
fn estimate(product: &impl Product) -> f64 {
    let square = |probe| -> f64 {
        let y = product.times(&mut Signs(probe));
        y.iter().map(|y| y * y).sum()
    };
    ((1..=PROBES).map(square).sum::<f64>() / PROBES as f64).sqrt()
}

impl Product for LoraPart {
    fn bound(&self) -> f64 {
        f64::from(self.scale.abs()) * (squares(&self.a) * squares(&self.bt)).sqrt()
    }

    fn times(&self, signs: &mut Signs) -> Vec<f64> {
        let columns = self.a.len() / self.rank;
        let x: Vec<f64> = (0..columns).map(|_| signs.next()).collect();
        let mut y = vec![0.0; self.width];
        for (a, bt) in self.a.chunks(columns).zip(self.bt.chunks(self.width)) {
            let h: f64 = a.iter().zip(&x).map(|(a, x)| f64::from(*a) * x).sum();
            add_scaled(&mut y, h * f64::from(self.scale), bt);
        }
        y
    }
}

impl Product for EmbeddingLora {
    fn bound(&self) -> f64 {
        let mut sum = 0.0;
        let mut buffer = vec![0.0; 4096];
        for start in (0..self.a.len()).step_by(buffer.len()) {
            let count = buffer.len().min(self.a.len() - start);
            self.a.read_into(start, &mut buffer[..count]);
            sum += squares(&buffer[..count]);
        }
        f64::from(self.scale.abs()) * (sum * squares(&self.b)).sqrt()
    }

    /// From the left, `x A B`: the table has a row for each token.
    fn times(&self, signs: &mut Signs) -> Vec<f64> {
        let mut h = vec![0.0; self.rank];
        let mut row = vec![0.0; self.rank];
        for number in 0..self.rows() {
            self.read_a(number * self.rank, &mut row);
            add_scaled(&mut h, signs.next(), &row);
        }
        let width = self.b.len() / self.rank;
        let mut y = vec![0.0; width];
        for (h, b) in h.iter().zip(self.b.chunks(width)) {
            add_scaled(&mut y, h * f64::from(self.scale), b);
        }
        y
    }
}

/// Reproducible random signs (xorshift64).
struct Signs(u64);

impl Signs {
    fn next(&mut self) -> f64 {
        // The seeds are small numbers: the multiplication spreads their bits.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        if self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 63 == 0 {
            1.0
        } else {
            -1.0
        }
    }
}

fn squares(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

fn add_scaled(y: &mut [f64], factor: f64, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += factor * f64::from(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_of_a_product_is_estimated_and_bounded() {
        let mut signs = Signs(77);
        let mut noise =
            |n: usize| -> Vec<f32> { (0..n).map(|i| (signs.next() * (i % 7) as f64) as f32).collect() };
        for (rank, width, columns) in [(1, 40, 30), (4, 64, 16), (9, 5, 50)] {
            let part = LoraPart {
                rank,
                scale: -2.5,
                a: noise(rank * columns),
                bt: noise(rank * width),
                column: 0,
                width,
            };
            let mut exact = 0.0;
            for i in 0..width {
                for j in 0..columns {
                    let of =
                        |r: usize| f64::from(part.bt[r * width + i]) * f64::from(part.a[r * columns + j]);
                    exact += (2.5 * (0..rank).map(of).sum::<f64>()).powi(2);
                }
            }
            let exact = exact.sqrt();
            assert!(part.bound() >= exact * 0.999_999, "{} {exact}", part.bound());
            let found = estimate(&part);
            assert!(
                (0.5 * exact..2.0 * exact).contains(&found),
                "rank {rank}: {found} for {exact}"
            );
        }
    }
}
