//! What may be the name of something: ids, revisions, commits, hashes, files. All of them become parts of paths, and all
//! but the id and the revision are chosen by a server, so each is held to its alphabet before it is used.

use std::fmt;

use crate::model::config::TRANSFORMER_FILES;

/// The longest part of an id, as on the hub.
const ID_PART_BYTES: usize = 96;

/// The longest name of a file or folder that common file systems take.
const COMPONENT_BYTES: usize = 255;

/// `owner/name` or `owner/name@revision`; the revision is `main` where none is given.
pub(super) fn parse_id(model: &str) -> Option<(&str, &str)> {
    let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
    let (owner, name) = id.split_once('/')?;
    // The hub forbids `--`, and the cache separates owner and name by it.
    let part = |part: &str| is_plain(part) && part.len() <= ID_PART_BYTES && !part.contains("--");
    // A branch may hold slashes (`refs/pr/1`); as a part of the cache's paths it stays inside them.
    (part(owner) && part(name) && revision.split('/').all(is_plain)).then_some((id, revision))
}

/// One component of a path, in letters that mean nothing to a file system, a URL or a terminal.
fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= COMPONENT_BYTES
        && !part.starts_with('.')
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A commit's full name: 40 digits of lower-case hexadecimal.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The hash of a file's contents that the hub names it by, and the cache its blob: SHA-256 for large files, the SHA-1 of
/// the git blob for those that are in git itself. 64 or 40 digits of lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ContentHash(String);

impl ContentHash {
    /// The hash that is written so; nothing else is one.
    pub(super) fn parse(text: &str) -> Option<ContentHash> {
        (is_hex(text, 64) || is_hex(text, 40)).then(|| ContentHash(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a SHA-256; else the SHA-1 of a git blob.
    pub(super) fn is_sha256(&self) -> bool {
        self.0.len() == 64
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the engine reads the file of this path in a model's repository. What is wanted has plain components alone and
/// stays in its folder.
pub(super) fn is_wanted(name: &str) -> bool {
    const ROOT: [&str; 8] = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "modules.json",
        "config_sentence_transformers.json",
        "model.safetensors.index.json",
    ];
    let is_of_transformer =
        |name: &str| ROOT.contains(&name) || TRANSFORMER_FILES.contains(&name) || is_weights(name);
    match name.split_once('/') {
        None => is_of_transformer(name),
        // Modules (`1_Pooling/config.json`, `2_Dense/model.safetensors`, `0_Transformer/…`) and PEFT folders.
        Some((folder, "adapter_config.json" | "adapter_model.safetensors")) => {
            // A folder in the place of one of the model's files would be in its way for ever; some file systems do not tell
            // letter cases apart.
            is_plain(folder) && !is_of_transformer(&folder.to_ascii_lowercase())
        }
        Some((folder, file)) => {
            is_plain(folder) && module_number(folder).is_some() && is_of_transformer(file)
        }
    }
}

/// The place of a module in the list of modules, by the name of its folder.
fn module_number(folder: &str) -> Option<u32> {
    folder.split_once('_')?.0.parse().ok()
}

/// When a file is downloaded: the later, the higher. A snapshot that has the encoder's weights is taken for one that has
/// the rest.
pub(super) fn download_rank(name: &str) -> u8 {
    match name.split_once('/') {
        _ if is_encoder_weights(name) => 2,
        Some((_, file)) if is_weights(file) => 1,
        _ => 0,
    }
}

/// The weights of the transformer, which the first module is, or a shard of them.
pub(super) fn is_encoder_weights(name: &str) -> bool {
    match name.split_once('/') {
        None => is_weights(name),
        Some((folder, file)) => module_number(folder) == Some(0) && is_weights(file),
    }
}

/// `model.safetensors` or a shard of it.
fn is_weights(name: &str) -> bool {
    let stem = name
        .strip_prefix("model")
        .and_then(|rest| rest.strip_suffix(".safetensors"));
    is_plain(name) && stem.is_some_and(|stem| stem.is_empty() || stem.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        assert_eq!(
            parse_id("jinaai/jina-embeddings-v3"),
            Some(("jinaai/jina-embeddings-v3", "main"))
        );
        assert_eq!(parse_id("a/b@v1.0"), Some(("a/b", "v1.0")));
        assert_eq!(parse_id("a/b@refs/pr/1"), Some(("a/b", "refs/pr/1")));
        let long = format!("a/{}", "b".repeat(97));
        for path in [
            "model",
            "./model",
            "../a/b",
            "/a/b",
            "a/b/c",
            "a/",
            "a/b@",
            "a b/c",
            "a/b@..",
            "a/b@/c",
            "a/b@c/../d",
            "a--b/c",
            "a/b\n",
            &long,
        ] {
            assert_eq!(parse_id(path), None, "{path}");
        }
    }

    #[test]
    fn commits_and_hashes_have_one_spelling() {
        let (sha1, sha256) = ("0a".repeat(20), "0b".repeat(32));
        assert!(is_commit(&sha1));
        assert!(ContentHash::parse(&sha256).unwrap().is_sha256());
        assert!(!ContentHash::parse(&sha1).unwrap().is_sha256());
        let wrong = [
            "".into(),
            "..".into(),
            "/etc/passwd".into(),
            "0A".repeat(20),
            "0g".repeat(20),
            "0a".repeat(19),
            "0a".repeat(21),
            format!("{}/", "0".repeat(39)),
            format!("{}\n", "0".repeat(39)),
            "٣".repeat(20),
        ];
        for text in wrong {
            assert!(
                !is_commit(&text) && ContentHash::parse(&text).is_none(),
                "{text:?}"
            );
        }
        assert!(!is_commit(&sha256));
    }

    #[test]
    fn only_files_the_engine_reads_are_wanted() {
        let yes = [
            "config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "1_Pooling/config.json",
            "sentence_bert_config.json",
            "sentence_xlm-roberta_config.json",
            "retrieval_query/adapter_model.safetensors",
            "2_Dense/model.safetensors",
            "0_Transformer/tokenizer.json",
            "0_Transformer/sentence_bert_config.json",
        ];
        let no = [
            "pytorch_model.bin",
            "onnx/model.onnx",
            "README.md",
            "sentence_other_config.json",
            "openvino/config.json",
            "a/b/config.json",
            "../adapter_model.safetensors",
            "/adapter_model.safetensors",
            "..\\..\\a/adapter_model.safetensors",
            "a\0b/adapter_model.safetensors",
            "\x1b[2J/adapter_model.safetensors",
            "model.safetensors/adapter_config.json",
            "Model-00001.safetensors/adapter_config.json",
            "modules.json/adapter_model.safetensors",
            "model-/../../x.safetensors",
            "2_Dense/pytorch_model.bin",
            "2_Dense/a/model.safetensors",
            "x_Dense/model.safetensors",
            "model-\x1b[2J.safetensors",
            "1_../../config.json",
            "1_/../config.json",
            ".ropeway-complete",
        ];
        assert!(yes.iter().all(|name| is_wanted(name)));
        for name in no {
            assert!(!is_wanted(name), "{name:?}");
        }
        let mut files = [
            "2_Dense/model.safetensors",
            "model.safetensors",
            "0_Transformer/config.json",
        ];
        files.sort_by_key(|name| download_rank(name));
        assert_eq!(
            files,
            [
                "0_Transformer/config.json",
                "2_Dense/model.safetensors",
                "model.safetensors"
            ]
        );
        assert!(is_encoder_weights(
            "0_Transformer/model-00001-of-00002.safetensors"
        ));
    }
}
