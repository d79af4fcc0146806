//! What a `tokenizer.json` says beside its vocabulary, checked before the tokenizers library, which panics on some of it,
//! is given the file.

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cut::{AddedToken, kind, steps};

/// The settings that are checked here. The vocabulary is not kept.
#[derive(Deserialize)]
pub struct Settings {
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
}

/// A text may become this many times as long when it is normalised. Unicode's own forms take 11 times; the normal form
/// of XLM-RoBERTa, where the longest replacement is assumed for every byte, 50.
const LARGEST_GROWTH: f64 = 64.0;

impl Settings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// What is wrong, in which part of the file.
    pub fn read(file: &[u8]) -> Result<Settings, String> {
        let settings: Settings = serde_json::from_slice(file).map_err(|e| e.to_string())?;
        settings.check_normalizer()?;
        steps(&settings.post_processor, "processors")
            .into_iter()
            .try_for_each(check_template)?;
        Ok(settings)
    }

    /// Puts a step that makes lower case before the others, unless one of them does so by itself; whether it did.
    pub fn add_lower_case(&mut self) -> bool {
        let old = match (kind(&self.normalizer), &self.normalizer) {
            (_, Value::Null) => Vec::new(),
            ("Sequence", normalizer) => normalizer["normalizers"].as_array().cloned().unwrap_or_default(),
            (_, normalizer) => vec![normalizer.clone()],
        };
        if old.iter().any(|step| kind(step) == "Lowercase") {
            return false;
        }
        let steps: Vec<Value> = [json!({"type": "Lowercase"})].into_iter().chain(old).collect();
        self.normalizer = json!({"type": "Sequence", "normalizers": steps});
        true
    }

    /// A chain of replacements may multiply the text in every step.
    fn check_normalizer(&self) -> Result<(), String> {
        let growth = growth(&self.normalizer)?;
        if growth > LARGEST_GROWTH {
            return Err(format!(
                "normalizer: makes a text up to {growth:.0} times as long; wanted at most {LARGEST_GROWTH} times"
            ));
        }
        Ok(())
    }
}

/// The most by which a normalizer's replacements multiply the bytes of a text.
fn growth(normalizer: &Value) -> Result<f64, String> {
    let length = |value: &Value| value.as_str().unwrap_or_default().len() as f64;
    match kind(normalizer) {
        "Sequence" => {
            let steps = normalizer["normalizers"].as_array().into_iter().flatten();
            steps.map(growth).product()
        }
        "Replace" => {
            let pattern = &normalizer["pattern"];
            // The least that a pattern matches; most expressions can match one byte.
            let least = match pattern["Regex"].as_str() {
                Some(regex) if regex.ends_with("{2,}") => 2.0,
                Some(_) => 1.0,
                None => length(&pattern["String"]).max(1.0),
            };
            Ok((length(&normalizer["content"]) / least).max(1.0))
        }
        // Put before a text once.
        "Prepend" => Ok(length(&normalizer["prepend"]).max(1.0)),
        "Precompiled" => {
            longest_replacement(&normalizer["precompiled_charsmap"]).map(|bytes| bytes.max(1) as f64)
        }
        _ => Ok(1.0),
    }
}

/// The longest replacement of a map as SentencePiece makes them, in bytes: the size of a trie in bytes, the trie, and the
/// replacements, each ended by a zero byte.
fn longest_replacement(map: &Value) -> Result<usize, String> {
    let problem = |what: &str| format!("normalizer: precompiled_charsmap: {what}");
    let text = map.as_str().ok_or_else(|| problem("is not a string"))?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|e| problem(&e.to_string()))?;
    let (size, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| problem("is cut off"))?;
    let size = u32::from_le_bytes(*size) as usize;
    if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
        return Err(problem(&format!(
            "a trie of {size} bytes in {} bytes",
            rest.len()
        )));
    }
    let replacements = std::str::from_utf8(&rest[size..]).map_err(|e| problem(&e.to_string()))?;
    Ok(replacements.split('\0').map(str::len).max().unwrap_or(0))
}

/// A template's special tokens must be defined beside it.
fn check_template(processor: &Value) -> Result<(), String> {
    if kind(processor) != "TemplateProcessing" {
        return Ok(());
    }
    for list in ["single", "pair"] {
        for piece in processor[list].as_array().into_iter().flatten() {
            let Some(name) = piece["SpecialToken"]["id"].as_str() else {
                continue;
            };
            let defined = &processor["special_tokens"][name];
            let (ids, tokens) = (defined["ids"].as_array(), defined["tokens"].as_array());
            if ids.is_none() || ids.map(Vec::len) != tokens.map(Vec::len) {
                return Err(format!(
                    "post_processor: `{list}` names the token {name:?}, which `special_tokens` does not define"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problem(file: Value) -> String {
        Settings::read(file.to_string().as_bytes())
            .err()
            .unwrap_or_default()
    }

    fn map(trie: u32, bytes: &[u8]) -> Value {
        let map = [&trie.to_le_bytes(), bytes].concat();
        json!({"type": "Precompiled", "precompiled_charsmap": base64::engine::general_purpose::STANDARD.encode(map)})
    }

    #[test]
    fn a_normalizer_that_multiplies_its_input_is_refused() {
        let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let twice = replace(json!({"String": "a"}), "aa");
        let sequence = |steps: Vec<Value>| json!({"normalizer": {"type": "Sequence", "normalizers": steps}});
        assert_eq!(problem(sequence(vec![twice.clone(); 6])), "");
        assert!(problem(sequence(vec![twice.clone(); 7])).contains("up to 128 times"));
        let nested = json!({"type": "Sequence", "normalizers": vec![twice; 6]});
        assert!(problem(sequence(vec![nested.clone(), nested])).contains("up to 4096 times"));
        let spaces = replace(json!({"Regex": " {2,}"}), "\u{2581}");
        assert_eq!(problem(sequence(vec![map(4, b"0000abc\0defg\0"), spaces])), "");
        let long = [b"0000", "x".repeat(65).as_bytes(), b"\0"].concat();
        assert!(problem(json!({"normalizer": map(4, &long)})).contains("up to 65 times"));
    }

    #[test]
    fn a_map_that_does_not_parse_is_named() {
        for (map, part) in [
            (map(400, b"0000"), "a trie of 400 bytes in 4 bytes"),
            (map(3, b"0000"), "a trie of 3 bytes"),
            (map(0, b"0000"), "a trie of 0 bytes"),
            (map(4, b"0000\xff"), "utf-8"),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": "?"}),
                "Invalid",
            ),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": ""}),
                "is cut off",
            ),
            (json!({"type": "Precompiled"}), "is not a string"),
        ] {
            let problem = problem(json!({"normalizer": map}));
            assert!(
                problem.contains("precompiled_charsmap") && problem.contains(part),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_template_of_unknown_tokens_is_refused() {
        let template = |special: Value| {
            let single = json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
            let template = json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special});
            problem(json!({"post_processor": {"type": "Sequence", "processors": [template]}}))
        };
        assert_eq!(
            template(json!({"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}})),
            ""
        );
        assert!(template(json!({})).contains("names the token \"<s>\""));
        assert!(
            template(json!({"<s>": {"id": "<s>", "ids": [0], "tokens": []}})).contains("does not define")
        );
    }
}
