//! Adapters from PEFT folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::targets::Targets;
use super::{Adapter, EmbeddingLora, LoraPart, Site, keys, transpose};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::file;
use crate::model::settings::{Settings, read_json};
use crate::model::weights::{Checkpoint, Tensor};

impl Adapter {
    /// Reads a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`).
    pub fn read_peft(name: &str, folder: &Path, config: &ModelConfig) -> Result<Adapter> {
        let settings = PeftSettings::read(folder, config)?;
        let file = folder.join("adapter_model.safetensors");
        if !file::is_present(&file) && file::is_present(&folder.join("adapter_model.bin")) {
            return Err(Error::model(
                folder,
                "only adapter_model.bin is here, and pickled weights are not read; save the adapter with safetensors",
            ));
        }
        let checkpoint = Checkpoint::open_file(&file)?;
        let mut pairs: BTreeMap<Target, Pair> = BTreeMap::new();
        let mut factors = Vec::new();
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
            factors.push(tensor.clone());
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
        for tensor in &factors {
            settings.targets.check(tensor)?;
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

/// One of the two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
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

/// What a factor's name says: the module that it adapts, as PEFT calls it, which of the two factors it is, and whether it is
/// that of an embedding.
pub(super) fn module_of(tensor: &str) -> Option<(&str, Half, bool)> {
    let halves = [
        (".lora_A.weight", Half::A, false),
        (".lora_B.weight", Half::B, false),
        (".lora_embedding_A", Half::A, true),
        (".lora_embedding_B", Half::B, true),
    ];
    let mut found = halves.into_iter();
    let (module, half, embedding) =
        found.find_map(|(suffix, half, embedding)| Some((tensor.strip_suffix(suffix)?, half, embedding)))?;
    let module = module.strip_prefix("base_model.model.").unwrap_or(module);
    Some((module, half, embedding))
}

impl Target {
    /// From a name such as `base_model.model.encoder.layer.0.attention.self.query.lora_A.weight`.
    fn parse(tensor: &Tensor, config: &ModelConfig) -> Result<(Target, Half)> {
        let unknown = || {
            tensor.error(
                "is not a LoRA factor this model can use; supported targets are word_embeddings, \
                 token_type_embeddings, query/key/value (q_proj, k_proj, v_proj, Wqkv), the attention's output \
                 (o_proj, out_proj, attention.output.dense), fc1 (intermediate.dense) and fc2 (output.dense)",
            )
        };
        let (mut module, half, embedding) = module_of(tensor.name()).ok_or_else(unknown)?;
        let of_kind = |target: Target, of_embedding: bool| match embedding == of_embedding {
            true => Ok((target, half)),
            false => Err(tensor.error(format!(
                "is named as a factor of {}, which its module is not, and PEFT would not use it; wanted {}",
                if embedding {
                    "an embedding"
                } else {
                    "a linear layer"
                },
                if of_embedding {
                    "lora_embedding_A and lora_embedding_B"
                } else {
                    "lora_A.weight and lora_B.weight"
                }
            ))),
        };
        for prefix in ["model.", "roberta.", "bert."] {
            module = module.strip_prefix(prefix).unwrap_or(module);
        }
        match module {
            "embeddings.word_embeddings" => return of_kind(Target::Word, true),
            "embeddings.token_type_embeddings" => return of_kind(Target::TokenType, true),
            "pooler.dense" => return of_kind(Target::Unused, false),
            _ => {}
        }
        let module = module.strip_prefix("encoder.").unwrap_or(module);
        let module = module
            .strip_prefix("layers.")
            .or_else(|| module.strip_prefix("layer."))
            .ok_or_else(unknown)?;
        let (number, rest) = module.split_once('.').ok_or_else(unknown)?;
        // As the model's own modules are called: `+1` and `01` are none of them.
        let layer = number
            .parse::<usize>()
            .ok()
            .filter(|layer| layer.to_string() == number);
        let layer = layer.ok_or_else(unknown)?;
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
        of_kind(Target::Linear { layer, site, third }, false)
    }
}

/// The parts of `adapter_config.json` that change what is computed.
struct PeftSettings {
    rank: usize,
    scale: f32,
    targets: Targets,
}

impl PeftSettings {
    fn read(folder: &Path, config: &ModelConfig) -> Result<PeftSettings> {
        let path = folder.join("adapter_config.json");
        let json = read_json(&path)?;
        let settings = Settings::new(&path, &json)?;
        match settings.text("peft_type")? {
            Some("LORA") => {}
            kind => {
                return Err(settings.error(format!(
                    "peft_type is {}; only LORA adapters are supported",
                    kind.unwrap_or("missing")
                )));
            }
        }
        if let Some(unknown) = settings.check(&[keys::ADAPTER])?.first() {
            return Err(settings.error(format!(
                "{unknown} is set, which is not a key of PEFT up to 0.21, so that it is not known what it changes; update \
                 ropeway, or take the key out if it has no effect on embeddings"
            )));
        }
        match settings.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => {}
            Some(Value::String(word)) if keys::PLAIN_INITIALISATIONS.contains(&word.as_str()) => {}
            Some(other) => {
                return Err(settings.error(format!(
                    "init_lora_weights is {other}: training began with other weights of the model than those on disk, and the \
                     factors fit those alone; save the adapter with path_initial_model_for_weight_conversion, which makes \
                     them fit (supported are true, false, {})",
                    keys::PLAIN_INITIALISATIONS.join(", ")
                )));
            }
        }
        let rank = settings
            .get("r")
            .and_then(Value::as_u64)
            .filter(|r| (1..=4096).contains(r));
        let rank = rank.ok_or_else(|| {
            let found = settings.get("r").map_or("missing".into(), Value::to_string);
            settings.error(format!("r is {found}; wanted 1 to 4096"))
        })? as usize;
        let alpha = settings.float("lora_alpha", None)?;
        // Rank-stabilised LoRA, arXiv 2312.03732.
        let divisor = match settings.switch("use_rslora")? {
            Some(true) => (rank as f64).sqrt(),
            _ => rank as f64,
        };
        let scale = (alpha / divisor) as f32;
        if !scale.is_finite() {
            return Err(settings.error(format!(
                "lora_alpha is {alpha:e}, so that the scale of the factors is not finite in float32; wanted the one it was \
                 trained with"
            )));
        }
        Ok(PeftSettings {
            rank,
            scale,
            targets: Targets::read(&settings, config.family)?,
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
