//! Settings that follow from several files: the longest input, the pooling, the sizes of an embedding.

use std::path::Path;

use serde_json::Value;

use super::sentence::SentenceTransformers;
use super::{Decision, Family, HeadModule, Source};
use crate::error::{Error, Result};
use crate::model::settings::Settings;
use crate::request::Pooling;

/// The longest input, in a model with `rows` positions of which texts can have `table`.
pub(super) fn longest_input(sentence: &SentenceTransformers, rows: usize, table: usize) -> (usize, Decision) {
    let name = "longest input";
    let positions = Source::new("config.json", "max_position_embeddings");
    match Decision::first(name, sentence.limits.clone()) {
        Some((tokens, mut decision)) if tokens <= table => {
            decision.note_other(positions, (rows != tokens).then_some(rows));
            (tokens, decision)
        }
        found => {
            // The largest of them all, as there are no more positions.
            let overruled = found.map_or(Vec::new(), |(tokens, decision)| {
                let limits = decision.source.into_iter().chain(decision.agreeing);
                let limits = limits.map(|source| source.with(tokens));
                limits.chain(decision.overruled).collect()
            });
            let decision = Decision {
                source: Some(positions),
                note: if rows == table {
                    ""
                } else {
                    "less those before the first token's"
                },
                overruled,
                ..Decision::new(name, table.to_string())
            };
            (table, decision)
        }
    }
}

/// The pooling of the modules, else the configuration's, else the mean.
pub(super) fn pooling(
    config: &Settings<'_>,
    of_modules: Option<Vec<Pooling>>,
    decisions: &mut Vec<Decision>,
) -> Result<Vec<Pooling>> {
    let source = Source::new("config.json", "emb_pooler");
    let pooler = match config.get("emb_pooler") {
        None => None,
        Some(word) if word == "mean" => Some(Pooling::Mean),
        Some(word) if word == "cls" => Some(Pooling::Cls),
        Some(other) => {
            return Err(config.error(format!("emb_pooler is {other}; wanted null, \"mean\" or \"cls\"")));
        }
    };
    if let Some(modes) = of_modules {
        let decision = decisions.iter_mut().find(|decision| decision.name == "pooling");
        if let (Some(decision), Some(pooler)) = (decision, pooler) {
            decision.note_other(source, (decision.value != pooler.name()).then_some(pooler.name()));
        }
        return Ok(modes);
    }
    let mode = pooler.unwrap_or(Pooling::Mean);
    decisions.push(Decision {
        source: pooler.map(|_| source),
        note: if pooler.is_none() {
            "what is taken where no file says"
        } else {
            ""
        },
        ..Decision::new("pooling", mode.name())
    });
    Ok(vec![mode])
}

/// Follows a pooled vector's width through the modules; gives that of the embedding.
pub(super) fn widths(path: &Path, pooled: usize, head: &[HeadModule]) -> Result<usize> {
    let mut width = pooled;
    for (wanted, made) in head.iter().filter_map(HeadModule::widths) {
        if wanted != width {
            return Err(Error::model(
                path,
                format!(
                    "a vector has {width} numbers where a module after pooling wants {wanted}; their files are not of one \
                     model"
                ),
            ));
        }
        width = made;
    }
    Ok(width)
}

/// The sizes that the model was trained to be cut to.
pub(super) fn matryoshka(config: &Settings<'_>, family: Family, full: usize) -> Result<Vec<usize>> {
    let mut sizes = match config.get("matryoshka_dimensions") {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|size| match size.as_u64() {
                Some(n) if n >= 1 && n <= full as u64 => Ok(n as usize),
                _ => Err(config.error(format!(
                    "matryoshka_dimensions holds {size}; wanted whole numbers from 1 to {full}"
                ))),
            })
            .collect::<Result<Vec<_>>>()?,
        Some(_) => return Err(config.error("matryoshka_dimensions is not a list")),
    };
    sizes.sort_unstable();
    sizes.dedup();
    // The transformers layout's configuration has no list; the model is the same.
    if sizes.is_empty() && family == Family::JinaV3Native {
        let trained = [32, 64, 128, 256, 512, 768, 1024].into_iter();
        sizes = trained.filter(|&d| d <= full).collect();
    }
    Ok(sizes)
}

/// Where the width of an embedding comes from, and the sizes that it may be cut to.
pub(super) fn dimensions(
    config: &Settings<'_>,
    head: &[HeadModule],
    full: usize,
    matryoshka: &[usize],
) -> Decision {
    let (name, listed) = ("dimensions", "matryoshka_dimensions");
    let last = head.iter().rev().find_map(|module| match module {
        HeadModule::Dense { folder, .. } => {
            Some(Source::new(&format!("{folder}/config.json"), "out_features"))
        }
        _ => None,
    });
    let of_full = last.unwrap_or_else(|| Source::new("config.json", "hidden_size"));
    let smaller: Vec<String> = matryoshka
        .iter()
        .filter(|&&size| size < full)
        .map(usize::to_string)
        .collect();
    if smaller.is_empty() {
        return Decision {
            source: Some(of_full),
            ..Decision::new(name, format!("{full}; it was not trained to be cut"))
        };
    }
    let in_file = config.get(listed).is_some();
    Decision {
        source: Some(if in_file {
            Source::new("config.json", listed)
        } else {
            of_full
        }),
        note: if in_file {
            ""
        } else {
            "the sizes are those of the published model"
        },
        ..Decision::new(name, format!("{full}, or cut to {}", smaller.join(", ")))
    }
}
