//! `modules.json`: where the transformer is, how its tokens are pooled, and what becomes of the pooled vector.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::decision::{Decision, Source};
use super::{file_keys, keys, limit, optional_json};
use crate::error::{Error, Result};
use crate::model::settings::{Settings, Table, read_json};
use crate::request::Pooling;

/// A module between pooling and the embedding, in the words of sentence-transformers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadModule {
    /// `y = f(x Wᵀ + b)`, and `+ x` (of another width, `+ x Rᵀ`) where it is residual.
    Dense {
        /// Its folder in the model's.
        folder: String,
        /// Numbers of x.
        in_features: usize,
        /// Numbers of y.
        out_features: usize,
        /// Whether there is a b.
        bias: bool,
        /// f.
        activation: Activation,
        /// Whether x is added.
        residual: bool,
    },
    /// `y = (x − mean) / √(variance + 10⁻⁵) · γ + β`.
    LayerNorm {
        /// Its folder in the model's.
        folder: String,
        /// Numbers of x and y.
        dimension: usize,
    },
    /// `y = x / ‖x‖`. One at the end is [`ModelConfig::normalize`](super::ModelConfig::normalize) instead.
    Normalize,
}

/// The activation of a dense layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x.
    Identity,
    /// tanh x.
    Tanh,
    /// The exact GELU, with erf.
    Gelu,
    /// max(x, 0).
    Relu,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
}

/// Classes of PyTorch by their last name.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("Identity", Activation::Identity),
    ("Tanh", Activation::Tanh),
    ("GELU", Activation::Gelu),
    ("ReLU", Activation::Relu),
    ("Sigmoid", Activation::Sigmoid),
];

impl HeadModule {
    /// The numbers of a vector that it takes and makes; none for one that takes any.
    pub(crate) fn widths(&self) -> Option<(usize, usize)> {
        match *self {
            HeadModule::Dense {
                in_features,
                out_features,
                ..
            } => Some((in_features, out_features)),
            HeadModule::LayerNorm { dimension, .. } => Some((dimension, dimension)),
            HeadModule::Normalize => None,
        }
    }
}

/// What `modules.json` and the files that it names say.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// The transformer's folder in the model's; empty where its files are beside `modules.json`.
    pub transformer: String,
    /// Vectors that are concatenated.
    pub pooling: Option<Vec<Pooling>>,
    pub include_prompt: bool,
    pub head: Vec<HeadModule>,
    pub normalize: bool,
    /// Folders whose `config.json` was read.
    pub folders: Vec<String>,
    /// Keys that are in no table, with their files.
    pub unknown: Vec<String>,
    pub decisions: Vec<Decision>,
}

const FILE: &str = "modules.json";

/// The module of jina-embeddings-v3's own code.
const JINAS_TRANSFORMER: &str = "custom_st.Transformer";

/// The order in which modules are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Tokens,
    Pooled,
}

impl Modules {
    /// Those of a folder without a list.
    pub fn of_transformer() -> Modules {
        Modules {
            include_prompt: true,
            normalize: true,
            ..Modules::default()
        }
    }

    /// Reads them; `None` in a folder without, which is one of transformers alone.
    pub fn read(folder: &Path) -> Result<Option<Modules>> {
        let Some((path, json)) = optional_json(folder.join(FILE))? else {
            return Ok(None);
        };
        let list = json
            .as_array()
            .ok_or_else(|| Error::model(&path, "is not a list of modules"))?;
        if list.len() > limit::MODULES {
            return Err(Error::model(
                &path,
                format!("lists {} modules; wanted at most {}", list.len(), limit::MODULES),
            ));
        }
        let mut this = Modules {
            normalize: false,
            ..Modules::of_transformer()
        };
        let mut stage = Stage::Start;
        let mut names = HashSet::new();
        for module in list {
            let module = Settings::new(&path, module).map_err(|_| {
                Error::model(
                    &path,
                    format!("holds {module}; wanted objects with a type and a path"),
                )
            })?;
            this.unknown
                .extend(file_keys(FILE, &module.check(&[keys::MODULE])?));
            // sentence-transformers keeps modules by their names: the later one would be computed in the earlier one's place.
            if let Some(name) = module.text("name")?.filter(|name| !names.insert(*name)) {
                return Err(module.error(format!(
                    "two modules have the name \"{name}\", of which sentence-transformers keeps one; give each a name of its own"
                )));
            }
            stage = this.read_module(folder, &module, stage)?;
        }
        if stage != Stage::Pooled {
            return Err(Error::model(
                &path,
                "has no Pooling module, so that it makes no embedding; add one, or take the file away for the mean of all \
                 tokens, normalised",
            ));
        }
        // A vector that is normalised last is normalised after it is cut, not before.
        while this.head.last() == Some(&HeadModule::Normalize) {
            this.head.pop();
            this.normalize = true;
        }
        this.decisions.push(Decision {
            source: Some(Source::new(FILE, "type")),
            ..Decision::new("normalisation", if this.normalize { "yes" } else { "no" })
        });
        Ok(Some(this))
    }

    fn read_module(&mut self, folder: &Path, module: &Settings<'_>, stage: Stage) -> Result<Stage> {
        let kind = module
            .text("type")?
            .ok_or_else(|| module.error("a module has no type"))?;
        let class = kind;
        let kind = class.rsplit('.').next().unwrap_or_default();
        // jina-embeddings-v3 brings a Transformer module of its own, which reads the same files; a model that was trained on
        // from it names the module in which that was loaded before it. What another module of somebody's own computes is not
        // known, whatever it is called.
        let is_jinas = class == JINAS_TRANSFORMER
            || class
                .strip_suffix(JINAS_TRANSFORMER)
                .is_some_and(|rest| rest.ends_with('.') && rest.starts_with("transformers_modules."));
        if !is_jinas && !class.starts_with("sentence_transformers.") {
            return Err(module.error(format!(
                "the model has a module of its own code, {class}, which is not supported; those of sentence_transformers are: \
                 Transformer, Pooling, Dense, LayerNorm and Normalize"
            )));
        }
        let at = module.text("path")?;
        let (wanted, next) = match kind {
            // Of training.
            "Dropout" => return Ok(stage),
            "Transformer" => (Stage::Start, Stage::Tokens),
            "Pooling" => (Stage::Tokens, Stage::Pooled),
            "Dense" | "LayerNorm" | "Normalize" => (Stage::Pooled, Stage::Pooled),
            other => {
                return Err(module.error(format!(
                    "the model has a {other} module, which is not supported; Transformer, Pooling, Dense, LayerNorm and \
                     Normalize are"
                )));
            }
        };
        if stage != wanted {
            return Err(module.error(format!(
                "the {kind} module is not where it is computed; supported are Transformer and Pooling, each once, then any \
                 of Dense, LayerNorm and Normalize"
            )));
        }
        let default = match kind {
            "Transformer" => "",
            "Pooling" => "1_Pooling",
            "Normalize" => "2_Normalize",
            _ => return self.read_head(folder, module, kind, at).map(|()| next),
        };
        let at = at.unwrap_or(default);
        let inner = plain_folder(module, folder, at)?;
        match kind {
            "Transformer" if at == "." => {}
            "Transformer" => at.clone_into(&mut self.transformer),
            "Pooling" => self.read_pooling(at, &inner.join("config.json"))?,
            _ => {
                if let Some((path, json)) = optional_json(inner.join("config.json"))? {
                    self.folders.push(at.to_owned());
                    let unknown = Settings::new(&path, &json)?.check(&[keys::NORMALIZE])?;
                    self.unknown
                        .extend(file_keys(&format!("{at}/config.json"), &unknown));
                }
                self.head.push(HeadModule::Normalize);
            }
        }
        Ok(next)
    }

    /// A Dense or LayerNorm module.
    fn read_head(
        &mut self,
        folder: &Path,
        module: &Settings<'_>,
        kind: &str,
        at: Option<&str>,
    ) -> Result<()> {
        let at = at.ok_or_else(|| module.error(format!("the {kind} module has no path")))?;
        let path = plain_folder(module, folder, at)?.join("config.json");
        let json = read_json(&path)?;
        let settings = Settings::new(&path, &json)?;
        let table: &Table = if kind == "Dense" {
            keys::DENSE
        } else {
            keys::LAYER_NORM
        };
        let file = format!("{at}/config.json");
        self.unknown.extend(file_keys(&file, &settings.check(&[table])?));
        self.folders.push(at.to_owned());
        let folder = at.to_owned();
        let (found, key) = match kind {
            "Dense" => (
                HeadModule::Dense {
                    folder,
                    in_features: settings.size("in_features", limit::POOLED)?,
                    out_features: settings.size("out_features", limit::HIDDEN)?,
                    bias: settings.switch("bias")?.unwrap_or(true),
                    activation: activation(&settings)?,
                    residual: settings.switch("use_residual")?.unwrap_or(false),
                },
                "activation_function",
            ),
            _ => (
                HeadModule::LayerNorm {
                    folder,
                    dimension: settings.size("dimension", limit::POOLED)?,
                },
                "dimension",
            ),
        };
        let value = match &found {
            HeadModule::Dense {
                in_features,
                out_features,
                activation,
                ..
            } => format!("Dense {in_features} → {out_features}, {activation:?}"),
            _ => "LayerNorm".to_owned(),
        };
        self.decisions.push(Decision {
            source: Some(Source::new(&file, key)),
            ..Decision::new("after pooling", value)
        });
        self.head.push(found);
        Ok(())
    }

    /// Reads `1_Pooling/config.json`.
    fn read_pooling(&mut self, folder: &str, path: &Path) -> Result<()> {
        let file = &format!("{folder}/config.json");
        self.folders.push(folder.to_owned());
        let json = read_json(path)?;
        let settings = Settings::new(path, &json)?;
        if let Some(unknown) = settings.check(&[keys::POOLING])?.first() {
            return Err(settings.error(format!(
                "sets `{unknown}`, which is not known, so that its effect on the pooling is not either; take it out if it \
                 has none"
            )));
        }
        let mut switched = Vec::new();
        for (mode, switch) in POOLING_SWITCHES {
            if settings.switch(switch)?.unwrap_or(false) {
                switched.push((mode, switch));
            }
        }
        // Newer files name the modes, older ones have a switch for each.
        let named: Option<Vec<&Value>> = match settings.get("pooling_mode") {
            Some(Value::Array(modes)) => Some(modes.iter().collect()),
            mode => mode.map(|mode| vec![mode]),
        };
        let mut decision = Decision::new("pooling", "");
        let modes: Vec<Pooling> = if let Some(named) = named {
            decision.source = Some(Source::new(file, "pooling_mode"));
            decision.overruled = switched
                .iter()
                .map(|(_, switch)| Source::new(file, switch).with("true"))
                .collect();
            let mode = |name: &Value| {
                let found = POOLING_SWITCHES.iter().find(|(mode, _)| name == mode.name());
                found.map(|&(mode, _)| mode).ok_or_else(|| {
                    settings.error(format!(
                        "pooling mode {name} is not supported; wanted {}",
                        mode_names()
                    ))
                })
            };
            named.into_iter().map(mode).collect::<Result<_>>()?
        } else if let [(_, first), ..] = switched[..] {
            decision.source = Some(Source::new(file, first));
            switched.into_iter().map(|(mode, _)| mode).collect()
        } else {
            // Without a mode it is the mean; without a width the file is no pooling's, and the library does not take it.
            let has_width = ["embedding_dimension", "word_embedding_dimension"]
                .iter()
                .any(|key| settings.get(key).is_some());
            decision.note = "what sentence-transformers takes where no mode is named";
            if has_width {
                vec![Pooling::Mean]
            } else {
                Vec::new()
            }
        };
        if modes.is_empty() || modes.len() > MOST_MODES {
            return Err(settings.error(format!(
                "names {} pooling modes; wanted 1 to {MOST_MODES} of {}",
                modes.len(),
                mode_names()
            )));
        }
        decision.value = names(&modes);
        self.decisions.push(decision);
        self.pooling = Some(modes);
        if let Some(include) = settings.switch("include_prompt")? {
            self.include_prompt = include;
            self.decisions.push(Decision {
                source: Some(Source::new(file, "include_prompt")),
                ..Decision::new("prompt is pooled", if include { "yes" } else { "no" })
            });
        }
        Ok(())
    }
}

/// The most vectors that are concatenated; sentence-transformers has six modes.
const MOST_MODES: usize = 8;

/// Pooling modes and their switches in older files, in the order in which their vectors are concatenated.
const POOLING_SWITCHES: [(Pooling, &str); 6] = [
    (Pooling::Cls, "pooling_mode_cls_token"),
    (Pooling::Max, "pooling_mode_max_tokens"),
    (Pooling::Mean, "pooling_mode_mean_tokens"),
    (Pooling::MeanSqrtLen, "pooling_mode_mean_sqrt_len_tokens"),
    (Pooling::WeightedMean, "pooling_mode_weightedmean_tokens"),
    (Pooling::LastToken, "pooling_mode_lasttoken"),
];

fn mode_names() -> String {
    POOLING_SWITCHES.map(|(mode, _)| mode.name()).join(", ")
}

/// The modes of a pooling, as people write them.
pub(super) fn names(modes: &[Pooling]) -> String {
    let names: Vec<&str> = modes.iter().map(|mode| mode.name()).collect();
    names.join(" + ")
}

/// The activation of a dense layer; Tanh where none is named.
fn activation(settings: &Settings<'_>) -> Result<Activation> {
    let Some(name) = settings.text("activation_function")? else {
        return Ok(Activation::Tanh);
    };
    let class = name
        .strip_prefix("torch.")
        .and_then(|name| name.rsplit('.').next());
    let found = ACTIVATIONS.iter().find(|(known, _)| class == Some(known));
    found.map(|&(_, activation)| activation).ok_or_else(|| {
        settings.error(format!(
            "activation_function is \"{name}\", which is not supported; of torch.nn wanted {}",
            ACTIVATIONS.map(|(name, _)| name).join(", ")
        ))
    })
}

/// A module's folder in the model's: a list of modules is not to reach outside.
fn plain_folder(module: &Settings<'_>, folder: &Path, sub: &str) -> Result<PathBuf> {
    match sub.contains(['/', '\\']) || sub == ".." {
        true => Err(module.error(format!("the module path `{sub}` is not a plain folder name"))),
        false => Ok(folder.join(sub)),
    }
}
