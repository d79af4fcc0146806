//! The weights of the modules between pooling and the embedding.

use std::path::Path;

use super::config::{Activation, HeadModule, ModelConfig};
use super::weights::{Checkpoint, Tensor};
use crate::error::Result;

/// A step of the head with its weights, as float32.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadStep {
    /// `y = f(x Wᵀ + b)`.
    Dense {
        /// W, `[out_features, in_features]`.
        weight: Vec<f32>,
        /// b, `[out_features]`; zeros where there is none.
        bias: Vec<f32>,
        /// f.
        activation: Activation,
        /// What is added to y.
        residual: Residual,
    },
    /// `y = (x − mean) / √(variance + ε) · γ + β`.
    LayerNorm {
        /// γ, `[dimension]`.
        gamma: Vec<f32>,
        /// β, `[dimension]`.
        beta: Vec<f32>,
    },
    /// `y = x / ‖x‖`.
    Normalize,
}

/// What a dense layer adds to its result.
#[derive(Clone, Debug, PartialEq)]
pub enum Residual {
    /// Nothing.
    None,
    /// x.
    Input,
    /// `x Rᵀ`; R is `[out_features, in_features]`.
    Projected(Vec<f32>),
}

/// ε of `torch.nn.LayerNorm`, which sentence-transformers does not change.
pub const LAYER_NORM_EPS: f32 = 1e-5;

/// The tensors of a model's head, checked to be of the configured shapes, and finite: they are small.
pub(super) fn read(folder: &Path, config: &ModelConfig) -> Result<(Vec<HeadStep>, Vec<Tensor>)> {
    let mut tensors = Vec::new();
    let steps = config
        .head
        .iter()
        .map(|module| read_module(folder, module, &mut tensors))
        .collect::<Result<_>>()?;
    Ok((steps, tensors))
}

fn read_module(folder: &Path, module: &HeadModule, tensors: &mut Vec<Tensor>) -> Result<HeadStep> {
    let (HeadModule::Dense { folder: sub, .. } | HeadModule::LayerNorm { folder: sub, .. }) = module else {
        return Ok(HeadStep::Normalize);
    };
    let checkpoint = Checkpoint::open_folder(&folder.join(sub))?;
    let mut read = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
        let tensor = checkpoint.get(name, shape)?;
        tensor.check_finite()?;
        let numbers = tensor.read();
        tensors.push(tensor);
        Ok(numbers)
    };
    match *module {
        HeadModule::Dense {
            in_features,
            out_features,
            bias,
            activation,
            residual,
            ..
        } => Ok(HeadStep::Dense {
            weight: read("linear.weight", &[out_features, in_features])?,
            bias: match bias {
                true => read("linear.bias", &[out_features])?,
                false => vec![0.0; out_features],
            },
            activation,
            residual: match residual {
                false => Residual::None,
                true if in_features == out_features => Residual::Input,
                true => Residual::Projected(read("residual.weight", &[out_features, in_features])?),
            },
        }),
        HeadModule::LayerNorm { dimension, .. } => Ok(HeadStep::LayerNorm {
            gamma: read("norm.weight", &[dimension])?,
            beta: read("norm.bias", &[dimension])?,
        }),
        HeadModule::Normalize => Ok(HeadStep::Normalize),
    }
}
