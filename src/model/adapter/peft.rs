//! Adapters from PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Adapter, EmbeddingLora, LoraPart, Site, transpose};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::read_json;
use crate::model::weights::{Checkpoint, Tensor};

impl Adapter {
    /// Reads a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`).
    pub fn read_peft(name: &str, folder: &Path, config: &ModelConfig) -> Result<Adapter> {
        let settings = PeftSettings::read(folder)?;
        let file = folder.join("adapter_model.safetensors");
        if !file.exists() && folder.join("adapter_model.bin").exists() {
            return Err(Error::model(
                folder,
                "only adapter_model.bin is here, and pickled weights are not read; save the adapter with safetensors",
            ));
        }
        let checkpoint = Checkpoint::open_file(&file)?;
        let mut pairs: BTreeMap<Target, Pair> = BTreeMap::new();
        for tensor in checkpoint.names() {
            let tensor = checkpoint.any(tensor)?;
            let (target, half) = Target::parse(&tensor, config)?;
            if target == Target::Unused {
                continue;
            }
            let pair = pairs.entry(target).or_default();
            let slot = if half == Half::A { &mut pair.a } else { &mut pair.b };
            if let Some(other) = slot {
                return Err(tensor.error(format!("means the same weight as `{}`", other.name())));
            }
            *slot = Some(tensor);
        }
        if pairs.is_empty() {
            return Err(Error::model(&file, "holds no LoRA factors of this model"));
        }
        let mut adapter = Adapter {
            name: name.into(),
            word: None,
            token_type: None,
            layers: (0..config.num_hidden_layers)
                .map(|_| Default::default())
                .collect(),
        };
        for (target, pair) in pairs {
            let (a, b) = pair.complete()?;
            match target {
                Target::Word => {
                    adapter.word = Some(settings.embedding(a, b, config.vocab_size, config.hidden_size)?)
                }
                Target::TokenType => {
                    adapter.token_type =
                        Some(settings.embedding(a, b, config.type_vocab_size, config.hidden_size)?)
                }
                Target::Linear { layer, site, third } => {
                    let part = settings.linear(&a, &b, site, third, config)?;
                    adapter.layers[layer][site as usize].push(part);
                }
                Target::Unused => {}
            }
        }
        for (number, layer) in adapter.layers.iter_mut().enumerate() {
            let qkv = &layer[Site::Qkv as usize];
            if qkv.len() > 1 && qkv.iter().any(|part| part.width == 3 * config.hidden_size) {
                return Err(Error::model(
                    &file,
                    format!(
                        "layer {number} has factors of Wqkv and of query, key or value; wanted one or the other"
                    ),
                ));
            }
            merge_shared(&mut layer[Site::Qkv as usize]);
        }
        Ok(adapter)
    }
}

/// Where q, k and v share A, as in jina-embeddings-v3, their three parts are one.
fn merge_shared(parts: &mut Vec<LoraPart>) {
    let [q, k, v] = parts.as_slice() else { return };
    let w = q.width;
    let same = |x: &LoraPart, column: usize| {
        x.width == w && x.column == column && x.rank == q.rank && x.scale == q.scale && x.a == q.a
    };
    if !(same(q, 0) && same(k, w) && same(v, 2 * w)) {
        return;
    }
    let bt = (0..q.rank)
        .flat_map(|r| {
            [q, k, v]
                .into_iter()
                .flat_map(move |part| part.bt[r * w..(r + 1) * w].iter().copied())
        })
        .collect();
    *parts = vec![LoraPart {
        bt,
        width: 3 * w,
        ..q.clone()
    }];
}

/// What a PEFT tensor adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Word,
    TokenType,
    /// `third`: 0, 1, 2 for q, k, v; none for the whole layer.
    Linear {
        layer: usize,
        site: Site,
        third: Option<usize>,
    },
    /// The pooler, which no embedding uses.
    Unused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    A,
    B,
}

#[derive(Default)]
struct Pair {
    a: Option<Tensor>,
    b: Option<Tensor>,
}

impl Pair {
    fn complete(self) -> Result<(Tensor, Tensor)> {
        match (self.a, self.b) {
            (Some(a), Some(b)) => Ok((a, b)),
            (Some(a), None) => Err(a.error("has no matching B factor")),
            (None, Some(b)) => Err(b.error("has no matching A factor")),
            (None, None) => unreachable!("an entry is made for a tensor"),
        }
    }
}

impl Target {
    /// From a name such as `base_model.model.encoder.layer.0.attention.self.query.lora_A.weight`.
    fn parse(tensor: &Tensor, config: &ModelConfig) -> Result<(Target, Half)> {
        let name = tensor.name();
        let unknown = || {
            tensor.error(
                "is not a LoRA factor this model can use; supported targets are word_embeddings, \
                 token_type_embeddings, query/key/value (q_proj, k_proj, v_proj, Wqkv), the attention's output \
                 (o_proj, out_proj, attention.output.dense), fc1 (intermediate.dense) and fc2 (output.dense)",
            )
        };
        let halves = [
            (".lora_A.weight", Half::A),
            (".lora_B.weight", Half::B),
            (".lora_embedding_A", Half::A),
            (".lora_embedding_B", Half::B),
        ];
        let (module, half) = halves
            .iter()
            .find_map(|(suffix, half)| Some((name.strip_suffix(suffix)?, *half)))
            .ok_or_else(unknown)?;
        let mut module = module.strip_prefix("base_model.model.").unwrap_or(module);
        for prefix in ["model.", "roberta.", "bert."] {
            module = module.strip_prefix(prefix).unwrap_or(module);
        }
        match module {
            "embeddings.word_embeddings" => return Ok((Target::Word, half)),
            "embeddings.token_type_embeddings" => return Ok((Target::TokenType, half)),
            "pooler.dense" => return Ok((Target::Unused, half)),
            _ => {}
        }
        let module = module.strip_prefix("encoder.").unwrap_or(module);
        let module = module
            .strip_prefix("layers.")
            .or_else(|| module.strip_prefix("layer."))
            .ok_or_else(unknown)?;
        let (number, rest) = module.split_once('.').ok_or_else(unknown)?;
        let layer: usize = number.parse().map_err(|_| unknown())?;
        if layer >= config.num_hidden_layers {
            return Err(tensor.error(format!("the model has {} layers only", config.num_hidden_layers)));
        }
        let (site, third) = match rest {
            "mixer.Wqkv" => (Site::Qkv, None),
            "self_attn.q_proj" | "attention.self.query" => (Site::Qkv, Some(0)),
            "self_attn.k_proj" | "attention.self.key" => (Site::Qkv, Some(1)),
            "self_attn.v_proj" | "attention.self.value" => (Site::Qkv, Some(2)),
            "self_attn.o_proj" | "mixer.out_proj" | "attention.output.dense" => (Site::OutProj, None),
            "mlp.fc1" | "intermediate.dense" => (Site::Fc1, None),
            "mlp.fc2" | "output.dense" => (Site::Fc2, None),
            _ => return Err(unknown()),
        };
        Ok((Target::Linear { layer, site, third }, half))
    }
}

/// The parts of `adapter_config.json` that change what is computed.
struct PeftSettings {
    rank: usize,
    scale: f32,
}

impl PeftSettings {
    fn read(folder: &Path) -> Result<PeftSettings> {
        let path = folder.join("adapter_config.json");
        let json = read_json(&path)?;
        let error = |problem: String| Error::model(&path, problem);
        let kind = json.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
        if kind != "LORA" {
            return Err(error(format!(
                "peft_type is {kind}; only LORA adapters are supported"
            )));
        }
        // Each of these changes the formula; none is silently ignored.
        for key in ["use_dora", "fan_in_fan_out", "lora_bias"] {
            if json.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(error(format!("{key} is true, which is not supported")));
            }
        }
        if !matches!(json.get("bias").and_then(Value::as_str), None | Some("none")) {
            return Err(error(
                "bias is not \"none\"; adapters that train biases are not supported".into(),
            ));
        }
        for key in [
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
            "layer_replication",
        ] {
            let empty = match json.get(key) {
                None | Some(Value::Null) => true,
                Some(Value::Object(map)) => map.is_empty(),
                Some(Value::Array(list)) => list.is_empty(),
                Some(_) => false,
            };
            if !empty {
                return Err(error(format!("{key} is set, which is not supported")));
            }
        }
        let rank = json
            .get("r")
            .and_then(Value::as_u64)
            .filter(|r| (1..=4096).contains(r));
        let rank = rank.ok_or_else(|| {
            let found = json.get("r").map_or("missing".into(), Value::to_string);
            error(format!("r is {found}; wanted 1 to 4096"))
        })? as usize;
        let alpha = json
            .get("lora_alpha")
            .and_then(Value::as_f64)
            .filter(|a| a.abs() <= f64::from(f32::MAX));
        let alpha = alpha.ok_or_else(|| error("lora_alpha is missing or not a finite number".into()))?;
        // Rank-stabilised LoRA, arXiv 2312.03732.
        let stabilised = json.get("use_rslora").and_then(Value::as_bool) == Some(true);
        let divisor = if stabilised {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        Ok(PeftSettings {
            rank,
            scale: (alpha / divisor) as f32,
        })
    }

    fn linear(
        &self,
        a: &Tensor,
        b: &Tensor,
        site: Site,
        third: Option<usize>,
        config: &ModelConfig,
    ) -> Result<LoraPart> {
        let (out, input) = site.shape(config);
        let width = if third.is_some() { out / 3 } else { out };
        check(a, [self.rank, input])?;
        check(b, [width, self.rank])?;
        Ok(LoraPart {
            rank: self.rank,
            scale: self.scale,
            a: a.read(),
            bt: transpose(&b.read(), width, self.rank),
            column: third.unwrap_or(0) * width,
            width,
        })
    }

    fn embedding(&self, a: Tensor, b: Tensor, rows: usize, width: usize) -> Result<EmbeddingLora> {
        check(&a, [self.rank, rows])?;
        check(&b, [width, self.rank])?;
        let b = transpose(&b.read(), width, self.rank);
        Ok(EmbeddingLora {
            a,
            transposed: true,
            rank: self.rank,
            scale: self.scale,
            b,
        })
    }
}

fn check(tensor: &Tensor, shape: [usize; 2]) -> Result<()> {
    if tensor.shape() != shape {
        return Err(tensor.error(format!(
            "has shape {:?}; the rank in adapter_config.json and the model want {shape:?}",
            tensor.shape()
        )));
    }
    tensor.check_finite()
}
