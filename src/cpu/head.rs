//! The modules after pooling, in float32, for vectors of either executor.
//!
//! Its products are of one row: a few per cent of what one token costs in the encoder. So a GPU hands the pooled vectors
//! back as they are, and everything after them is computed here, once for both.

use super::isa::Isa;
use super::math;
use crate::model::Activation;
use crate::model::head::{HeadStep, LAYER_NORM_EPS, Residual};

/// Sends a pooled vector through the modules.
pub fn apply(isa: Isa, steps: &[HeadStep], mut x: Vec<f32>) -> Vec<f32> {
    for step in steps {
        match step {
            HeadStep::Dense {
                weight,
                bias,
                activation,
                residual,
            } => {
                let mut y = product(isa, weight, &x);
                math::add(isa, &mut y, bias);
                activate(isa, *activation, &mut y);
                match residual {
                    Residual::None => {}
                    Residual::Input => math::add(isa, &mut y, &x),
                    Residual::Projected(weight) => math::add(isa, &mut y, &product(isa, weight, &x)),
                }
                x = y;
            }
            HeadStep::LayerNorm { gamma, beta } => {
                math::layer_norm(isa, &mut x, gamma, beta, LAYER_NORM_EPS);
            }
            HeadStep::Normalize => math::normalize(isa, &mut x),
        }
    }
    x
}

/// `x Wᵀ`.
fn product(isa: Isa, weight: &[f32], x: &[f32]) -> Vec<f32> {
    weight
        .chunks_exact(x.len())
        .map(|row| math::dot(isa, row, x))
        .collect()
}

fn activate(isa: Isa, activation: Activation, y: &mut [f32]) {
    match activation {
        Activation::Identity => {}
        Activation::Tanh => y.iter_mut().for_each(|y| *y = y.tanh()),
        Activation::Gelu => math::gelu(isa, y),
        Activation::Relu => y.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y }),
        Activation::Sigmoid => y.iter_mut().for_each(|y| *y = 1.0 / (1.0 + (-*y).exp())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_computed_in_order() {
        let dense = |activation, residual| HeadStep::Dense {
            weight: vec![1.0, 2.0, -3.0, 0.5],
            bias: vec![0.25, -1.0],
            activation,
            residual,
        };
        let run = |steps: &[HeadStep]| apply(Isa::detect(), steps, vec![2.0, 1.0]);
        // x Wᵀ + b = (4.25, -6.5).
        assert_eq!(run(&[dense(Activation::Identity, Residual::None)]), [4.25, -6.5]);
        assert_eq!(run(&[dense(Activation::Relu, Residual::Input)]), [6.25, 1.0]);
        let projected = Residual::Projected(vec![0.0, 1.0, 1.0, 0.0]);
        assert_eq!(run(&[dense(Activation::Relu, projected)]), [5.25, 2.0]);
        let tanh = run(&[dense(Activation::Tanh, Residual::None)]);
        assert!(
            (tanh[0] - 0.999_593).abs() < 1e-6 && tanh[1] < -0.999_99,
            "{tanh:?}"
        );
        let sigmoid = run(&[dense(Activation::Sigmoid, Residual::None)]);
        assert!((sigmoid[0] - 0.985_936_4).abs() < 1e-6, "{sigmoid:?}");
        let norm = HeadStep::LayerNorm {
            gamma: vec![2.0, 2.0],
            beta: vec![0.0, 1.0],
        };
        // Mean 1.5, variance 0.25.
        let both = run(&[norm, HeadStep::Normalize]);
        let wanted = 2.0 / 5f32.sqrt();
        assert!(
            (both[0] - wanted).abs() < 1e-4 && (both[1] + wanted / 2.0).abs() < 1e-4,
            "{both:?}"
        );
        assert_eq!(
            apply(Isa::detect(), &[HeadStep::Normalize], vec![0.0; 3]),
            [0.0; 3]
        );
    }
}
