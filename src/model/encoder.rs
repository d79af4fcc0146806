//! The tensors of an encoder by their place in the network, whatever the checkpoint calls them.

use std::collections::HashSet;

use crate::error::Result;

use super::adapter::Site;
use super::config::{Family, ModelConfig, Positions};
use super::weights::{Checkpoint, Dtype, Tensor};

/// All base weights of a model: windows into the mapped files.
#[derive(Debug)]
pub struct Encoder {
    /// `[vocab_size, hidden_size]`; gathered by row, never converted whole.
    pub word: Tensor,
    /// `[type_vocab_size, hidden_size]`.
    pub token_type: Tensor,
    /// `[rows, hidden_size]` where positions are learned.
    pub position: Option<Tensor>,
    /// LayerNorm after the embeddings.
    pub norm: Norm,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
}

/// One post-LayerNorm layer: `x = norm1(x + out(attention(qkv(x))))`, then
/// `x = norm2(x + fc2(gelu(fc1(x))))`.
#[derive(Debug)]
pub struct Layer {
    /// Rows: q (all heads), k (all heads), v (all heads).
    pub qkv: Linear,
    /// The attention's output projection.
    pub out_proj: Linear,
    /// LayerNorm after attention.
    pub norm1: Norm,
    /// Into the feed-forward layer.
    pub fc1: Linear,
    /// Out of the feed-forward layer.
    pub fc2: Linear,
    /// LayerNorm after the feed-forward layer.
    pub norm2: Norm,
}

/// `y = x Wᵀ + b`. Weight and bias may be in several tensors, stacked by rows.
#[derive(Debug)]
pub struct Linear {
    /// `[rows, in_features]` each.
    pub weight: Vec<Tensor>,
    /// `[rows]` each.
    pub bias: Vec<Tensor>,
    /// Rows in all.
    pub out_features: usize,
    /// Columns.
    pub in_features: usize,
}

/// LayerNorm's gain and offset, `[hidden_size]` each.
#[derive(Debug)]
pub struct Norm {
    /// The gain γ.
    pub weight: Tensor,
    /// The offset β.
    pub bias: Tensor,
}

/// Finds tensors under a family's names.
struct Names<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'static str,
    /// Put between a weight's module and nothing (`.weight`) or the stacked layout's level.
    weight_suffix: &'static str,
}

impl Names<'_> {
    fn weight(&self, module: &str, shape: &[usize]) -> Result<Tensor> {
        self.checkpoint
            .get(&format!("{}{module}{}", self.prefix, self.weight_suffix), shape)
    }

    fn plain(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.checkpoint.get(&format!("{}{name}", self.prefix), shape)
    }

    fn linear(&self, modules: &[String], out_features: usize, in_features: usize) -> Result<Linear> {
        let rows = out_features / modules.len();
        Ok(Linear {
            weight: modules
                .iter()
                .map(|m| self.weight(m, &[rows, in_features]))
                .collect::<Result<_>>()?,
            bias: modules
                .iter()
                .map(|m| self.plain(&format!("{m}.bias"), &[rows]))
                .collect::<Result<_>>()?,
            out_features,
            in_features,
        })
    }

    fn norm(&self, module: &str, size: usize) -> Result<Norm> {
        // TensorFlow's names live on in old BERT checkpoints.
        let old = format!("{module}.gamma");
        let (weight, bias) = if self.checkpoint.contains(&format!("{}{old}", self.prefix)) {
            (old, format!("{module}.beta"))
        } else {
            (format!("{module}.weight"), format!("{module}.bias"))
        };
        Ok(Norm {
            weight: self.plain(&weight, &[size])?,
            bias: self.plain(&bias, &[size])?,
        })
    }
}

impl Encoder {
    /// Finds every tensor of the model, and checks its type and shape.
    pub fn new(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<Encoder> {
        let suffix = ".weight";
        let stacked = ".parametrizations.weight.original";
        let word = "embeddings.word_embeddings";
        let prefix = ["", "roberta.", "bert."]
            .into_iter()
            .find(|p| {
                [suffix, stacked]
                    .iter()
                    .any(|s| checkpoint.contains(&format!("{p}{word}{s}")))
            })
            .unwrap_or(if config.family == Family::JinaV3 {
                "roberta."
            } else {
                ""
            });
        // A hub checkpoint whose adapters were merged has plain names.
        let parametrized = checkpoint.contains(&format!("{prefix}{word}{stacked}"));
        let weight_suffix = if parametrized { stacked } else { suffix };
        let names = Names {
            checkpoint,
            prefix,
            weight_suffix,
        };
        check_layers(config, checkpoint, prefix)?;
        let (h, f) = (config.hidden_size, config.intermediate_size);

        let jina = matches!(config.family, Family::JinaV3 | Family::JinaV3Native);
        let position = match config.positions {
            Positions::Learned { rows, .. } => {
                Some(names.weight("embeddings.position_embeddings", &[rows, h])?)
            }
            Positions::Rotary { .. } => None,
        };
        let layer = |n: usize| -> Result<Layer> {
            if jina {
                let at = |module: &str| vec![format!("encoder.layers.{n}.{module}")];
                return Ok(Layer {
                    qkv: names.linear(&at("mixer.Wqkv"), 3 * h, h)?,
                    out_proj: names.linear(&at("mixer.out_proj"), h, h)?,
                    norm1: names.norm(&at("norm1")[0], h)?,
                    fc1: names.linear(&at("mlp.fc1"), f, h)?,
                    fc2: names.linear(&at("mlp.fc2"), h, f)?,
                    norm2: names.norm(&at("norm2")[0], h)?,
                });
            }
            let at = |module: &str| format!("encoder.layer.{n}.{module}");
            let qkv = ["query", "key", "value"].map(|m| at(&format!("attention.self.{m}")));
            Ok(Layer {
                qkv: names.linear(&qkv, 3 * h, h)?,
                out_proj: names.linear(&[at("attention.output.dense")], h, h)?,
                norm1: names.norm(&at("attention.output.LayerNorm"), h)?,
                fc1: names.linear(&[at("intermediate.dense")], f, h)?,
                fc2: names.linear(&[at("output.dense")], h, f)?,
                norm2: names.norm(&at("output.LayerNorm"), h)?,
            })
        };
        Ok(Encoder {
            word: names.weight(word, &[config.vocab_size, h])?,
            token_type: names.weight("embeddings.token_type_embeddings", &[config.type_vocab_size, h])?,
            position,
            norm: names.norm(if jina { "emb_ln" } else { "embeddings.LayerNorm" }, h)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// The small tensors: what is added or multiplied element by element. Few enough to be read when a model is opened,
    /// and where a number that is not finite hurts most: GELU takes a bias of -∞ to 0, and vectors stay finite.
    pub fn small_tensors(&self) -> Vec<&Tensor> {
        let mut small = vec![&self.token_type, &self.norm.weight, &self.norm.bias];
        for layer in &self.layers {
            for linear in [&layer.qkv, &layer.out_proj, &layer.fc1, &layer.fc2] {
                small.extend(&linear.bias);
            }
            for norm in [&layer.norm1, &layer.norm2] {
                small.extend([&norm.weight, &norm.bias]);
            }
        }
        small
    }

    /// The tensors of a checkpoint that nothing is known to be computed with: neither the encoder's nor its adapters', nor
    /// those that published models have beside them.
    pub fn surplus<'c>(&self, checkpoint: &'c Checkpoint) -> Vec<&'c str> {
        let used: HashSet<&str> = self.tensors().into_iter().map(Tensor::name).collect();
        let is_surplus = |name: &&str| {
            let adapter = name.contains(".parametrizations.weight.0.lora_");
            !adapter && !used.contains(name) && !is_known_surplus(name)
        };
        let mut surplus: Vec<&str> = checkpoint.names().filter(is_surplus).collect();
        surplus.sort_unstable();
        surplus
    }

    /// Every tensor, for checks over all of them.
    pub fn tensors(&self) -> Vec<&Tensor> {
        let mut all = self.small_tensors();
        all.push(&self.word);
        all.extend(&self.position);
        for layer in &self.layers {
            for linear in [&layer.qkv, &layer.out_proj, &layer.fc1, &layer.fc2] {
                all.extend(&linear.weight);
            }
        }
        all
    }
}

/// Checks that the file has no layers past those of the configuration: a model without its last layers gives vectors that
/// look like others.
fn check_layers(config: &ModelConfig, checkpoint: &Checkpoint, prefix: &str) -> Result<()> {
    let layers = config.num_hidden_layers;
    let number = |name: &str| -> Option<usize> {
        let name = name.strip_prefix(prefix)?.strip_prefix("encoder.layer")?;
        let name = name.strip_prefix('s').unwrap_or(name).strip_prefix('.')?;
        name.split('.').next()?.parse().ok()
    };
    let numbered = checkpoint.names().filter_map(|name| Some((number(name)?, name)));
    match numbered.max().filter(|&(number, _)| number >= layers) {
        None => Ok(()),
        Some((number, name)) => Err(checkpoint.error(
            name,
            format!(
                "is of layer {number}, counted from 0, and num_hidden_layers in config.json is {layers}; set it to {}, or save \
                 the model without the layers that it does not have",
                number.saturating_add(1)
            ),
        )),
    }
}

/// Tensors that an encoder does not use and published models have: heads on top of it, numbers that are computed, and
/// PyTorch's buffers.
fn is_known_surplus(name: &str) -> bool {
    const HEADS: [&str; 7] = [
        "cls",
        "classifier",
        "lm_head",
        "pooler",
        "qa_outputs",
        "score",
        "seq_relationship",
    ];
    const BUFFERS: [&str; 4] = [
        "position_ids",
        "token_type_ids",
        "inv_freq",
        "num_batches_tracked",
    ];
    let mut parts = name.split('.');
    let heads = parts.clone().take(2).any(|part| HEADS.contains(&part));
    heads || parts.next_back().is_some_and(|last| BUFFERS.contains(&last))
}

impl Layer {
    /// The linear layer at a site.
    pub fn linear(&self, site: Site) -> &Linear {
        match site {
            Site::Qkv => &self.qkv,
            Site::OutProj => &self.out_proj,
            Site::Fc1 => &self.fc1,
            Site::Fc2 => &self.fc2,
        }
    }
}

impl Linear {
    /// Reads row `row` of the weight, `[in_features]`.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let rows = self.out_features / self.weight.len();
        self.weight[row / rows].read_row(row % rows, out);
    }

    /// Whether the file has all of the weight in bf16.
    pub fn is_bf16(&self) -> bool {
        self.weight.iter().all(|tensor| tensor.dtype() == Dtype::Bf16)
    }

    /// Copies row `row` of a weight that [is in bf16](Self::is_bf16), as its bits.
    ///
    /// Panics for one that is not.
    pub fn read_bf16_row(&self, row: usize, out: &mut [u16]) {
        let rows = self.out_features / self.weight.len();
        let tensor = &self.weight[row / rows];
        assert!(tensor.dtype() == Dtype::Bf16 && out.len() == self.in_features);
        let bytes = &tensor.bytes()[row % rows * self.in_features * 2..][..self.in_features * 2];
        for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *out = u16::from_le_bytes([b[0], b[1]]);
        }
    }

    /// Reads the whole bias, `[out_features]`.
    pub fn read_bias(&self) -> Vec<f32> {
        self.bias.iter().flat_map(Tensor::read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::is_known_surplus;

    #[test]
    fn tensors_beside_an_encoder_are_known() {
        for name in [
            "bert.pooler.dense.weight",
            "pooler.dense.bias",
            "roberta.pooler.dense.parametrizations.weight.original",
            "cls.predictions.transform.LayerNorm.gamma",
            "cls.seq_relationship.bias",
            "lm_head.decoder.weight",
            "classifier.out_proj.weight",
            "embeddings.position_ids",
            "bert.embeddings.token_type_ids",
            "encoder.layers.0.mixer.rotary_emb.inv_freq",
        ] {
            assert!(is_known_surplus(name), "{name}");
        }
        for name in [
            "encoder.layer.0.attention.self.query.weight",
            "encoder.layer.0.adapter.dense.weight",
            "embeddings.position_embeddings.weight",
            "embeddings.projection.weight",
        ] {
            assert!(!is_known_surplus(name), "{name}");
        }
    }
}
