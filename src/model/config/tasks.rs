//! The tasks of a model: names, prefixes, and whether there is an adapter for each.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::sentence::{PROMPTS_FILE, SentenceTransformers};
use super::{Decision, Family, Source, TaskConfig, limit};
use crate::error::Result;
use crate::model::file;
use crate::model::settings::Settings;

/// The tasks with their prefixes, and rank and alpha of stacked adapters.
pub(super) fn tasks(
    config: &Settings<'_>,
    folder: &Path,
    family: Family,
    sentence: &SentenceTransformers,
    decisions: &mut Vec<Decision>,
) -> Result<(Vec<TaskConfig>, usize, f32)> {
    let instructions = config.object("task_instructions")?;
    // A task's prefix, and where it comes from.
    let prefix = |name: &str| -> Result<(String, Decision)> {
        let prompt = sentence.prompt(name);
        let of_prompts = Source::new(PROMPTS_FILE, "prompts");
        let mut decision = Decision::default();
        let prefix = match instructions.and_then(|map| map.get(name)) {
            Some(Value::String(prefix)) => {
                decision.source = Some(Source::new("config.json", "task_instructions"));
                if let Some(prompt) = prompt {
                    decision.note_other(of_prompts, (prompt != prefix).then(|| format!("{prompt:?}")));
                }
                prefix.clone()
            }
            Some(other) if !other.is_null() => {
                return Err(config.error(format!(
                    "task_instructions has {other} for `{name}`; wanted a text"
                )));
            }
            _ => match prompt {
                Some(prefix) => {
                    decision.source = Some(of_prompts);
                    prefix.to_owned()
                }
                // The transformers layout leaves the prefixes to the model card.
                None if family == Family::JinaV3Native => {
                    decision.note = "the prefix is that of the published model";
                    default_jina_prefix(name).to_owned()
                }
                None => String::new(),
            },
        };
        Ok((prefix, decision))
    };
    let adapted = |name: &str| -> Result<TaskConfig> {
        let (prefix, decision) = prefix(name)?;
        let task = TaskConfig {
            name: name.into(),
            prefix,
            adapter: true,
        };
        decisions.push(decided(&task, decision));
        Ok(task)
    };
    match family {
        Family::JinaV3 => {
            let Some(list) = config.get("lora_adaptations") else {
                return Ok((Vec::new(), 1, 1.0));
            };
            let names: Option<Vec<&str>> = list
                .as_array()
                .and_then(|names| names.iter().map(Value::as_str).collect());
            let names = names.ok_or_else(|| config.error("lora_adaptations is not a list of names"))?;
            if names.len() > limit::TASKS {
                return Err(config.error(format!(
                    "lora_adaptations has {} names; wanted at most {}",
                    names.len(),
                    limit::TASKS
                )));
            }
            let mut seen = HashSet::new();
            for name in &names {
                if name.is_empty() || !seen.insert(name) {
                    return Err(
                        config.error(format!("lora_adaptations names \"{name}\" twice or not at all"))
                    );
                }
            }
            let rank = config.size("lora_rank", limit::RANK)?;
            let alpha = config.float("lora_alpha", None)?;
            if !(alpha > 0.0 && alpha <= f64::from(f32::MAX)) {
                return Err(config.error(format!("lora_alpha is {alpha:?}; wanted a positive number")));
            }
            let tasks = names.into_iter().map(adapted).collect::<Result<_>>()?;
            Ok((tasks, rank, alpha as f32))
        }
        Family::JinaV3Native => {
            let there = |name: &&str| {
                let adapter = folder.join(jina_adapter_folder(name)).join("adapter_config.json");
                file::is_present(&adapter)
            };
            let tasks = JINA_TASKS
                .into_iter()
                .filter(there)
                .map(adapted)
                .collect::<Result<_>>()?;
            Ok((tasks, 1, 1.0))
        }
        Family::Bert | Family::XlmRoberta => {
            let task = |(name, prefix): &(String, String)| TaskConfig {
                name: name.clone(),
                prefix: prefix.clone(),
                adapter: false,
            };
            let tasks: Vec<TaskConfig> = sentence.prompts.iter().map(task).collect();
            decisions.extend(tasks.iter().map(|task| {
                let source = Some(Source::new(PROMPTS_FILE, "prompts"));
                decided(
                    task,
                    Decision {
                        source,
                        ..Decision::default()
                    },
                )
            }));
            Ok((tasks, 1, 1.0))
        }
    }
}

/// The decision of a task, with what is known of it.
fn decided(task: &TaskConfig, decision: Decision) -> Decision {
    let adapter = if task.adapter { "its adapter, " } else { "" };
    let value = match task.prefix.as_str() {
        "" => format!("{adapter}no prefix"),
        prefix => format!("{adapter}prefix {prefix:?}"),
    };
    Decision {
        name: format!("task {}", task.name),
        value,
        ..decision
    }
}

/// jina-embeddings-v3's tasks in index order.
const JINA_TASKS: [&str; 5] = [
    "retrieval.query",
    "retrieval.passage",
    "separation",
    "classification",
    "text-matching",
];

/// The sub-folder of a task's PEFT adapter in the transformers layout.
pub(crate) fn jina_adapter_folder(task: &str) -> String {
    task.replace(['.', '-'], "_")
}

fn default_jina_prefix(task: &str) -> &'static str {
    match task {
        "retrieval.query" => "Represent the query for retrieving evidence documents: ",
        "retrieval.passage" => "Represent the document for retrieval: ",
        _ => "",
    }
}
