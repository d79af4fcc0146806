//! Every step written plainly in float64: the oracle of the tests, and the right-hand side of
//! `ropeway diff` when it is asked which executor is wrong. Slow on purpose; read this first.

use crate::batch::{Batch, PoolKind};
use crate::model::adapter::Site;
use crate::model::weights::Tensor;
use crate::model::{Layer, Linear, Model, Norm, Positions};
use crate::plan::{BufferId, Form, NormSite, Op, Output, Plan};

/// A matrix of a step, row-major.
type Matrix = Vec<f64>;

/// Runs a plan. `after` sees every buffer as soon as a step has written it.
pub fn run(
    model: &Model,
    plan: &Plan,
    batch: &Batch,
    after: &mut dyn FnMut(usize, BufferId, &[f64]),
) -> Matrix {
    let mut buffers: Vec<Matrix> = vec![Vec::new(); plan.buffers.len()];
    let naive = Naive { model, batch };
    for (number, step) in plan.steps.iter().enumerate() {
        for (i, &Output { op, layer, buffer }) in step.outputs.iter().enumerate() {
            let matrix = naive.op(op, layer.unwrap_or(0), &step.reads_of(i), &buffers);
            after(number, buffer, &matrix);
            buffers[buffer] = matrix;
        }
    }
    buffers.pop().expect("the outputs are the last buffer")
}

struct Naive<'a> {
    model: &'a Model,
    batch: &'a Batch,
}

impl Naive<'_> {
    fn op(&self, op: Op, layer: usize, reads: &[BufferId], buffers: &[Matrix]) -> Matrix {
        let read = |i: usize| buffers[reads[i]].as_slice();
        let h = reads.get(1).map(|&id| buffers[id].as_slice());
        match op {
            Op::Embed => self.embed(),
            Op::LoraDown(site) => self.lora_down(read(0), layer, site),
            Op::Qkv => self.linear(read(0), h, layer, Site::Qkv),
            Op::Attention => self.attention(read(0)),
            Op::OutProj => self.linear(read(0), h, layer, Site::OutProj),
            Op::Fc1 => self.linear(read(0), h, layer, Site::Fc1),
            Op::Fc2 => self.linear(read(0), h, layer, Site::Fc2),
            Op::BaseGemm(site) => self.base_gemm(read(0), self.weights(layer).linear(site)),
            Op::LoraUp(site) => self.finish(read(0).to_vec(), h, layer, site),
            Op::AddLayerNorm(site) => {
                let norm = match site {
                    NormSite::Attention => &self.weights(layer).norm1,
                    NormSite::Mlp => &self.weights(layer).norm2,
                };
                let mut x: Matrix = read(0).iter().zip(read(1)).map(|(x, y)| x + y).collect();
                self.layer_norm(&mut x, norm);
                x
            }
            Op::Pool => self.pool(read(0)),
        }
    }

    fn embed(&self) -> Matrix {
        let (config, encoder, batch) = (&self.model.config, &self.model.encoder, self.batch);
        let mut out = Vec::new();
        for sequence in 0..batch.sequences() {
            let ids = &batch.ids[batch.rows(sequence)];
            for (position, &id) in config.positions.of(ids).zip(ids) {
                let id = id as usize;
                let mut x = row(&encoder.word, id);
                add(&mut x, &row(&encoder.token_type, 0));
                if let Some(table) = &encoder.position {
                    add(&mut x, &row(table, position as usize));
                }
                for &(slot, weight) in &batch.mixtures[sequence] {
                    let adapter = batch.adapters.get(slot);
                    if let Some(lora) = &adapter.word {
                        lora.add_row_f64(id, weight, &mut x);
                    }
                    if let Some(lora) = &adapter.token_type {
                        lora.add_row_f64(0, weight, &mut x);
                    }
                }
                out.extend(x);
            }
        }
        self.layer_norm(&mut out, &encoder.norm);
        out
    }

    fn lora_down(&self, x: &[f64], layer: usize, site: Site) -> Matrix {
        let (_, k) = site.shape(&self.model.config);
        let (starts, columns) = self.batch.adapters.columns(site);
        let mut h = vec![0.0; self.batch.tokens() * columns];
        for sequence in 0..self.batch.sequences() {
            for row in self.batch.rows(sequence) {
                for &(slot, weight) in &self.batch.mixtures[sequence] {
                    let mut column = starts[slot];
                    for part in self.batch.adapters.get(slot).parts(layer, site) {
                        for a in part.a.chunks(k) {
                            let sum = dot(&x[row * k..(row + 1) * k], a);
                            h[row * columns + column] = sum * f64::from(weight) * f64::from(part.scale);
                            column += 1;
                        }
                    }
                }
            }
        }
        h
    }

    fn weights(&self, layer: usize) -> &Layer {
        &self.model.encoder.layers[layer]
    }

    fn linear(&self, x: &[f64], h: Option<&[f64]>, layer: usize, site: Site) -> Matrix {
        let base = self.base_gemm(x, self.weights(layer).linear(site));
        self.finish(base, h, layer, site)
    }

    /// `x Wᵀ`.
    fn base_gemm(&self, x: &[f64], linear: &Linear) -> Matrix {
        let (n, k) = (linear.out_features, linear.in_features);
        let tokens = self.batch.tokens();
        let mut y = vec![0.0; tokens * n];
        let mut w = vec![0.0; k];
        for column in 0..n {
            linear.read_row(column, &mut w);
            for row in 0..tokens {
                y[row * n + column] = dot(&x[row * k..(row + 1) * k], &w);
            }
        }
        y
    }

    /// From `x Wᵀ` to the linear layer's result: bias, `h Bᵀ`, and GELU for Fc1.
    fn finish(&self, mut y: Matrix, h: Option<&[f64]>, layer: usize, site: Site) -> Matrix {
        let bias = self.weights(layer).linear(site).read_bias();
        let n = bias.len();
        for y in y.chunks_mut(n) {
            y.iter_mut()
                .zip(&bias)
                .for_each(|(y, &bias)| *y += f64::from(bias));
        }
        if let Some(h) = h {
            self.add_up_projection(&mut y, h, layer, site);
        }
        if site == Site::Fc1 {
            y.iter_mut().for_each(|x| *x = gelu(*x));
        }
        y
    }

    /// `y += h Bᵀ`.
    fn add_up_projection(&self, y: &mut [f64], h: &[f64], layer: usize, site: Site) {
        let (n, _) = site.shape(&self.model.config);
        let (starts, columns) = self.batch.adapters.columns(site);
        for sequence in 0..self.batch.sequences() {
            for row in self.batch.rows(sequence) {
                for &(slot, _) in &self.batch.mixtures[sequence] {
                    let mut column = starts[slot];
                    for part in self.batch.adapters.get(slot).parts(layer, site) {
                        for bt in part.bt.chunks(part.width) {
                            for (i, &b) in bt.iter().enumerate() {
                                y[row * n + part.column + i] += h[row * columns + column] * f64::from(b);
                            }
                            column += 1;
                        }
                    }
                }
            }
        }
    }

    fn attention(&self, qkv: &[f64]) -> Matrix {
        let config = &self.model.config;
        let (hidden, heads, d) = (config.hidden_size, config.num_attention_heads, config.head_dim);
        let mut out = vec![0.0; self.batch.tokens() * hidden];
        for sequence in 0..self.batch.sequences() {
            let rows = self.batch.rows(sequence);
            for head in 0..heads {
                // third: 0, 1, 2 for q, k, v.
                let vector = |row: usize, third: usize| {
                    let start = row * 3 * hidden + third * hidden + head * d;
                    let mut x = qkv[start..start + d].to_vec();
                    if let (Positions::Rotary { base }, true) = (config.positions, third < 2) {
                        rotate(&mut x, row - rows.start, base);
                    }
                    x
                };
                let keys: Vec<Matrix> = rows.clone().map(|row| vector(row, 1)).collect();
                let values: Vec<Matrix> = rows.clone().map(|row| vector(row, 2)).collect();
                for row in rows.clone() {
                    let q = vector(row, 0);
                    let product = |k: &Matrix| q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
                    let scores: Vec<f64> = keys.iter().map(|k| product(k) / (d as f64).sqrt()).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let out = &mut out[row * hidden + head * d..][..d];
                    for (weight, value) in weights.iter().zip(&values) {
                        for (o, v) in out.iter_mut().zip(value) {
                            *o += weight / total * v;
                        }
                    }
                }
            }
        }
        out
    }

    /// `(x − mean) / √(variance + ε) · γ + β` with the biased variance (arXiv 1607.06450).
    fn layer_norm(&self, x: &mut [f64], norm: &Norm) {
        let (gamma, beta) = (row(&norm.weight, 0), row(&norm.bias, 0));
        let n = gamma.len() as f64;
        for x in x.chunks_mut(gamma.len()) {
            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (variance + f64::from(self.model.config.layer_norm_eps)).sqrt();
            for ((x, gamma), beta) in x.iter_mut().zip(&gamma).zip(&beta) {
                *x = (*x - mean) * scale * gamma + beta;
            }
        }
    }

    fn pool(&self, x: &[f64]) -> Matrix {
        let hidden = self.model.config.hidden_size;
        let mut out = Vec::new();
        for pool in &self.batch.pools {
            let rows = self.batch.pool_rows(pool);
            let row = |r: usize| &x[r * hidden..(r + 1) * hidden];
            let mut results: Vec<Matrix> = match pool.kind {
                PoolKind::First => vec![row(rows.start).to_vec()],
                PoolKind::Rows => rows.clone().map(|r| row(r).to_vec()).collect(),
                PoolKind::Max => {
                    let column = |i| {
                        rows.clone()
                            .map(move |r| row(r)[i])
                            .fold(f64::NEG_INFINITY, f64::max)
                    };
                    vec![(0..hidden).map(column).collect()]
                }
                PoolKind::Sum | PoolKind::Mean | PoolKind::MeanSqrtLen | PoolKind::WeightedMean => {
                    let weighted = pool.kind == PoolKind::WeightedMean;
                    let mut sum = vec![0.0; hidden];
                    for (i, r) in rows.clone().enumerate() {
                        let weight = if weighted { (i + 1) as f64 } else { 1.0 };
                        sum.iter_mut().zip(row(r)).for_each(|(sum, x)| *sum += weight * x);
                    }
                    let divisor = pool.kind.divisor(rows.len());
                    sum.iter_mut().for_each(|x| *x /= divisor);
                    vec![sum]
                }
            };
            for result in &mut results {
                // Numbers past the dimensions kept are not part of the result.
                result[pool.dimensions..].fill(0.0);
                let norm = result.iter().map(|x| x * x).sum::<f64>().sqrt();
                if pool.normalize && norm > 0.0 {
                    result.iter_mut().for_each(|x| *x /= norm);
                }
            }
            out.extend(results.into_iter().flatten());
        }
        out
    }
}

/// Rotates pairs (i, i + d/2) by `position · base^(-2i/d)` (RoFormer, arXiv 2104.09864, with
/// NeoX's pairing). The angle is formed in float32, as the reference does.
pub(crate) fn rotate(x: &mut [f64], position: usize, base: f32) {
    let half = x.len() / 2;
    for i in 0..half {
        let exponent = (2 * i) as f32 / x.len() as f32;
        let angle = f64::from(position as f32 * (1.0 / base.powf(exponent)));
        let (a, b) = (x[i], x[i + half]);
        x[i] = a * angle.cos() - b * angle.sin();
        x[i + half] = b * angle.cos() + a * angle.sin();
    }
}

/// Brings queries, keys and values in this form to the plain one: not rotated, not scaled.
pub(crate) fn plain_qkv(model: &Model, batch: &Batch, form: Form, qkv: &mut [f64]) {
    let config = &model.config;
    let (hidden, d) = (config.hidden_size, config.head_dim);
    for sequence in 0..batch.sequences() {
        for (position, row) in batch.rows(sequence).enumerate() {
            let row = &mut qkv[row * 3 * hidden..][..3 * hidden];
            if form.q_scaled {
                row[..hidden].iter_mut().for_each(|q| *q *= (d as f64).sqrt());
            }
            if let (Positions::Rotary { base }, true) = (config.positions, form.rotated) {
                for head in row[..2 * hidden].chunks_mut(d) {
                    // Rotating (a, -b) and turning the sign again is rotating back.
                    head[d / 2..].iter_mut().for_each(|b| *b = -*b);
                    rotate(head, position, base);
                    head[d / 2..].iter_mut().for_each(|b| *b = -*b);
                }
            }
        }
    }
}

/// `x/2 · (1 + erf(x/√2))`.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

/// erf by its Taylor series (Abramowitz & Stegun 7.1.6) where that converges well, else by the
/// continued fraction of erfc (7.1.14).
pub(crate) fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 3.0 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > 1e-18 * sum {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI * (-z * z).exp()
    } else {
        let fraction = (1..60).rev().fold(z, |f, k| z + f64::from(k) / 2.0 / f);
        1.0 - (-z * z).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

fn row(tensor: &Tensor, row: usize) -> Matrix {
    let columns = tensor.shape()[tensor.shape().len() - 1];
    let mut out = vec![0.0; columns];
    tensor.read_into(row * columns, &mut out);
    out.into_iter().map(f64::from).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn dot(x: &[f64], w: &[f32]) -> f64 {
    x.iter().zip(w).map(|(x, &w)| x * f64::from(w)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_has_its_known_values() {
        // Abramowitz & Stegun, table 7.1, and erfc(4) from table 7.2's asymptotics.
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.5204998778),
            (1.0, 0.8427007929),
            (2.0, 0.9953222650),
            (-1.5, -0.9661051465),
        ] {
            assert!((erf(x) - want).abs() < 1e-10, "erf({x}) = {}", erf(x));
        }
        assert!((erf(2.9999999) - erf(3.0000001)).abs() < 1e-7);
        assert!((1.0 - erf(4.0) - 1.541725790e-8).abs() < 1e-15);
    }
}
