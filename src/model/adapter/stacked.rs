//! The adapters in a checkpoint of jina-embeddings-v3: stacked tensors, each of which holds one factor of all tasks.

use rayon::prelude::*;

use super::{Adapter, EmbeddingLora, LoraPart, Site, transpose};
use crate::error::Result;
use crate::model::config::{ModelConfig, TaskConfig};
use crate::model::weights::{Checkpoint, Tensor};

/// Reads the adapters of a stacked checkpoint, one per task that the configuration names.
pub(crate) fn read_stacked(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<Vec<Adapter>> {
    let count = config.tasks.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let stacked = Stacked {
        checkpoint,
        prefix: if checkpoint.contains("embeddings.word_embeddings.parametrizations.weight.original") {
            ""
        } else {
            "roberta."
        },
        count,
        rank: config.lora_rank,
        scale: config.lora_alpha / config.lora_rank as f32,
    };
    let read = |(index, task): (usize, &TaskConfig)| -> Result<Adapter> {
        let layer = |n: usize| -> Result<[Vec<LoraPart>; 4]> {
            let at = |site: Site| -> Result<Vec<LoraPart>> {
                let module = match site {
                    Site::Qkv => "mixer.Wqkv",
                    Site::OutProj => "mixer.out_proj",
                    Site::Fc1 => "mlp.fc1",
                    Site::Fc2 => "mlp.fc2",
                };
                let (out, input) = site.shape(config);
                Ok(vec![stacked.linear(
                    &format!("encoder.layers.{n}.{module}"),
                    index,
                    out,
                    input,
                )?])
            };
            Ok([at(Site::Qkv)?, at(Site::OutProj)?, at(Site::Fc1)?, at(Site::Fc2)?])
        };
        Ok(Adapter {
            name: task.name.clone(),
            word: Some(stacked.embedding("word", index, config.vocab_size, config.hidden_size)?),
            token_type: Some(stacked.embedding(
                "token_type",
                index,
                config.type_vocab_size,
                config.hidden_size,
            )?),
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
        })
    };
    config.tasks.par_iter().enumerate().map(read).collect()
}

/// The stacked layout: one tensor holds one factor of all tasks.
struct Stacked<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'static str,
    count: usize,
    rank: usize,
    scale: f32,
}

impl Stacked<'_> {
    /// Factor `which` of a module for one task; the whole stack's shape is checked.
    fn factor(&self, module: &str, which: &str, index: usize, shape: [usize; 2]) -> Result<Tensor> {
        let name = format!("{}{module}.parametrizations.weight.0.{which}", self.prefix);
        let tensor = self
            .checkpoint
            .get(&name, &[self.count, shape[0], shape[1]])?
            .index(index);
        tensor.check_finite()?;
        Ok(tensor)
    }

    fn linear(&self, module: &str, index: usize, out: usize, input: usize) -> Result<LoraPart> {
        let a = self.factor(module, "lora_A", index, [self.rank, input])?;
        let b = self.factor(module, "lora_B", index, [out, self.rank])?;
        let bt = transpose(&b.read(), out, self.rank);
        Ok(LoraPart {
            rank: self.rank,
            scale: self.scale,
            a: a.read(),
            bt,
            column: 0,
            width: out,
        })
    }

    fn embedding(&self, table: &str, index: usize, rows: usize, width: usize) -> Result<EmbeddingLora> {
        let module = format!("embeddings.{table}_embeddings");
        let a = self.factor(&module, "lora_A", index, [rows, self.rank])?;
        let b = self.factor(&module, "lora_B", index, [self.rank, width])?.read();
        Ok(EmbeddingLora {
            a,
            transposed: false,
            rank: self.rank,
            scale: self.scale,
            b,
        })
    }
}
