//! Which modules an adapter's settings name, by PEFT's rules.
//!
//! PEFT makes factors for these modules alone, and leaves out factors of a file that belong to others. A file that holds
//! such factors is refused: with them or without, somebody gets other vectors than expected.

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::peft::module_of;
use crate::error::Result;
use crate::model::config::Family;
use crate::model::settings::Settings;
use crate::model::weights::Tensor;

/// `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern`.
pub(super) struct Targets {
    included: Included,
    excluded: Option<Modules>,
    /// The layers' numbers; empty: all.
    layers: Vec<u64>,
    /// The names that stand before a layer's number; empty: any.
    lists: Vec<String>,
}

/// Names of a list, and bytes of a pattern, at most: every factor is held against them.
const LONGEST: usize = 1 << 14;

/// What `target_modules` says.
enum Included {
    /// Every linear layer: all that factors can be of, but for embeddings.
    AllLinear,
    Modules(Modules),
}

/// A list of names or the ends of names, or a regular expression.
enum Modules {
    Names(Vec<String>),
    Pattern(Box<Regex>),
}

impl Targets {
    pub fn read(settings: &Settings<'_>, family: Family) -> Result<Targets> {
        let layers = match settings.get("layers_to_transform") {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(Value::as_u64).collect(),
            Some(one) => one.as_u64().map(|one| vec![one]),
        };
        let included = match settings.get("target_modules") {
            Some(word) if word == "all-linear" => Included::AllLinear,
            None => Included::Modules(Modules::Names(default_targets(settings, family)?)),
            _ => Included::Modules(Modules::read(settings, "target_modules")?.ok_or_else(|| {
                settings.error(
                    "target_modules is an empty text, which names no module; name those that were trained",
                )
            })?),
        };
        let layers = layers.ok_or_else(|| {
            settings.error(
                "layers_to_transform holds something else than whole numbers from 0; wanted layers' numbers",
            )
        })?;
        let lists = names_of(settings, "layers_pattern")?;
        let is_text = settings.get("target_modules").is_some_and(Value::is_string);
        for (key, is_there) in [
            ("layers_to_transform", !layers.is_empty()),
            ("layers_pattern", !lists.is_empty()),
        ] {
            if is_text && is_there {
                return Err(settings.error(format!(
                    "{key} stands beside a text as target_modules, where PEFT refuses it; give target_modules as a list of names"
                )));
            }
        }
        if !lists.is_empty() && layers.is_empty() {
            return Err(settings.error(
                "layers_pattern stands without layers_to_transform, where PEFT refuses it; give both, or none",
            ));
        }
        Ok(Targets {
            included,
            excluded: Modules::read(settings, "exclude_modules")?,
            layers,
            lists,
        })
    }

    /// Checks that the settings name the module of a factor.
    pub fn check(&self, factor: &Tensor) -> Result<()> {
        let Some((module, _, is_embedding)) = module_of(factor.name()) else {
            return Ok(());
        };
        let refused = |key: &str| {
            Err(factor.error(format!(
                "belongs to a module that {key} in adapter_config.json leaves out, and PEFT would not use it; take it out of \
                 this file, or name the module there"
            )))
        };
        if self
            .excluded
            .as_ref()
            .is_some_and(|excluded| excluded.hold(module, true))
        {
            return refused("exclude_modules");
        }
        match &self.included {
            Included::AllLinear if is_embedding => refused("target_modules"),
            Included::Modules(included) if !included.hold(module, false) => refused("target_modules"),
            // By its whole name a module is meant whatever its layer; a pattern says by itself which layers it means.
            Included::Modules(Modules::Names(names)) if names.iter().any(|name| name == module) => Ok(()),
            Included::Modules(Modules::Pattern(_)) => Ok(()),
            _ if !self.layers.is_empty() && !self.in_layer(module) => refused("layers_to_transform"),
            _ => Ok(()),
        }
    }

    /// Whether the first number in a module's name, after one of the lists' names, is that of a chosen layer.
    fn in_layer(&self, module: &str) -> bool {
        let parts: Vec<&str> = module.split('.').collect();
        let number = parts.windows(2).find_map(|pair| {
            let named = self.lists.is_empty() || self.lists.iter().any(|list| list == pair[0]);
            pair[1].parse().ok().filter(|_: &u64| named)
        });
        number.is_some_and(|number| self.layers.contains(&number))
    }
}

impl Modules {
    fn read(settings: &Settings<'_>, key: &str) -> Result<Option<Modules>> {
        match settings.get(key) {
            None => Ok(None),
            // As PEFT has it: an empty list of exceptions is none.
            Some(Value::String(pattern)) if pattern.is_empty() => Ok(None),
            Some(Value::String(pattern)) => {
                if pattern.len() > LONGEST {
                    return Err(settings.error(format!(
                        "{key} has {} bytes; wanted at most {LONGEST}",
                        pattern.len()
                    )));
                }
                let whole = RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
                    .backtrack_limit(100_000)
                    .build();
                let whole = whole.map_err(|_| {
                    settings.error(format!(
                        "{key} is \"{pattern}\", which is not a regular expression that can be read; give \
                                            a list of names"
                    ))
                })?;
                Ok(Some(Modules::Pattern(Box::new(whole))))
            }
            Some(_) => Ok(Some(Modules::Names(names(settings, key)?))),
        }
    }

    /// Whether a module is among them; `unclear` where a pattern takes too long to say.
    fn hold(&self, module: &str, unclear: bool) -> bool {
        match self {
            Modules::Names(names) => names.iter().any(|name| {
                module
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
            Modules::Pattern(pattern) => pattern.is_match(module).unwrap_or(unclear),
        }
    }
}

/// What PEFT takes where no modules are named, by the model's type.
fn default_targets(settings: &Settings<'_>, family: Family) -> Result<Vec<String>> {
    match family {
        Family::Bert | Family::XlmRoberta => Ok(["query", "value"].map(str::to_owned).to_vec()),
        Family::JinaV3 | Family::JinaV3Native => Err(settings.error(
            "target_modules is missing, and PEFT has no default for this kind of model; name the modules that were trained",
        )),
    }
}

/// A name or a list of names; empty where it is not there.
fn names_of(settings: &Settings<'_>, key: &str) -> Result<Vec<String>> {
    match settings.get(key) {
        Some(Value::String(one)) if !one.is_empty() => Ok(vec![one.clone()]),
        _ => names(settings, key),
    }
}

/// A list of names; empty where it is not there.
fn names(settings: &Settings<'_>, key: &str) -> Result<Vec<String>> {
    let Some(value) = settings.get(key) else {
        return Ok(Vec::new());
    };
    if value == "" {
        return Ok(Vec::new());
    }
    let name = |name: &Value| name.as_str().map(str::to_owned);
    let list = value.as_array().filter(|list| list.len() <= LONGEST);
    let names = list.and_then(|list| list.iter().map(name).collect());
    names.ok_or_else(|| {
        settings.error(format!(
            "{key} is {value}; wanted a list of at most {LONGEST} names"
        ))
    })
}
