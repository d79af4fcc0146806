//! What the fuzz targets do with an input. `tools/fuzz` runs them under libFuzzer; `fuzz_corpus.rs`
//! replays the committed corpus and mutations of it on stable Rust.
//!
//! A body panics where the engine does, or where an error is not one line that a person can read.
#![allow(dead_code)] // A fuzz target uses one of them.

pub mod text;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use ropeway::model::{Adapter, verify};
use ropeway::{Chunking, Device, Embed, Engine, Error, ModelConfig, Pooling, Request};
use tempfile::TempDir;

/// Two files in one input: the length of the first (four bytes, little endian), then both.
pub fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u32).to_le_bytes(), first, second].concat()
}

/// The two files of an input; whatever its bytes are, it has two.
pub fn split(input: &[u8]) -> (&[u8], &[u8]) {
    match input.split_first_chunk::<4>() {
        Some((length, rest)) => rest.split_at(rest.len().min(u32::from_le_bytes(*length) as usize)),
        None => (input, &[]),
    }
}

/// A model folder of `config.json` and `model.safetensors`.
pub fn model(input: &[u8]) {
    with_folder(["config.json", "model.safetensors"], input, |folder| {
        let config = match ModelConfig::read(folder) {
            Ok(config) => config,
            Err(error) => return readable(&error.to_string()),
        };
        let verified = verify(folder);
        if let Err(error) = &verified {
            readable(&error.to_string());
            // Opening does not read all numbers of the tables, and may stop at another fault before it comes to one
            // that is not finite.
            if !is_of_a_number(error) {
                return;
            }
        }
        // The rest must not fail, so it is kept to what a model this small can take.
        if config.max_tokens * config.head_dim > 1 << 16 || config.intermediate_size > 1 << 12 {
            return;
        }
        let engine = match Engine::builder().device(Device::Cpu).threads(1).open(folder) {
            Ok(engine) => engine,
            Err(error) => {
                readable(&error.to_string());
                assert!(verified.is_err(), "{error}");
                return;
            }
        };
        let ids = [0u32, 1, config.vocab_size as u32 - 1, 2];
        let options = [
            Embed::default(),
            Embed::default().pooling(Pooling::None),
            Embed::default().chunks(Chunking::Tokens(2)),
            config
                .tasks
                .last()
                .map_or(Embed::default(), |task| Embed::task(&task.name)),
        ];
        let requests: Vec<Request<'_>> = options.iter().map(|o| Request::ids(&ids[..], o)).collect();
        for result in engine.embed_batch(&requests) {
            let wanted_ids = ids.iter().all(|&id| (id as usize) < config.vocab_size);
            match result {
                Ok(_) => assert!(wanted_ids),
                Err(error) => {
                    readable(&error.to_string());
                    // Mutated weights may well overflow.
                    assert!(!wanted_ids || error.to_string().contains("not finite"), "{error}");
                }
            }
        }
    });
}

/// `config.json` of the model that adapters are read for: 2 heads of 2, 2 layers.
pub const BASE_CONFIG: &str = r#"{"model_type": "bert", "hidden_size": 4, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 6, "vocab_size": 8, "type_vocab_size": 2,
    "max_position_embeddings": 8, "pad_token_id": 0}"#;

/// A PEFT folder of `adapter_config.json` and `adapter_model.safetensors`.
pub fn adapter(input: &[u8]) {
    static BASE: OnceLock<ModelConfig> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), BASE_CONFIG).unwrap();
        ModelConfig::read(folder.path()).unwrap()
    });
    with_folder(
        ["adapter_config.json", "adapter_model.safetensors"],
        input,
        |folder| match Adapter::read_peft("fuzzed", folder, base) {
            Ok(adapter) => {
                for parts in adapter.layers.iter().flatten() {
                    for part in parts {
                        assert_eq!(part.bt.len(), part.rank * part.width);
                        assert!(part.scale.is_finite() && part.a.iter().all(|x| x.is_finite()));
                    }
                }
            }
            Err(error) => readable(&error.to_string()),
        },
    );
}

/// A folder of an input's two files. It is another one for each input: the files are mapped.
fn with_folder(names: [&str; 2], input: &[u8], then: impl FnOnce(&Path)) {
    let folder = TempDir::new().unwrap();
    let (first, second) = split(input);
    fs::write(folder.path().join(names[0]), first).unwrap();
    fs::write(folder.path().join(names[1]), second).unwrap();
    then(folder.path());
}

/// Whether a tensor is all right but for a number in it that is not finite.
fn is_of_a_number(error: &Error) -> bool {
    matches!(error, Error::Tensor { problem, .. } if problem.starts_with("holds ") && problem.contains(" at index "))
}

fn readable(text: &str) {
    assert!(
        !text.trim().is_empty() && !text.contains('\n'),
        "not one line: {text:?}"
    );
    assert!(text.len() < 4096, "{} bytes of text: {:.200}", text.len(), text);
}

/// What a hub answers: a listing, and the headers of a file.
pub fn hub(input: &[u8]) {
    use ropeway::hub::fuzzing::parse;
    let (json, head) = split(input);
    let parsed = parse(json, head);
    let is_hex = |text: &str, digits: &[usize]| {
        digits.contains(&text.len()) && text.bytes().all(|b| b"0123456789abcdef".contains(&b))
    };
    match parsed.listing {
        Ok((commit, files)) => {
            assert!(is_hex(&commit, &[40]), "{commit:?}");
            for file in files {
                let plain = |part: &str| {
                    let letter = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                    !part.is_empty() && !part.starts_with('.') && part.bytes().all(letter)
                };
                assert!(
                    file.split('/').count() <= 2 && file.split('/').all(plain),
                    "{file:?}"
                );
            }
        }
        Err(error) => readable(&error),
    }
    match parsed.file {
        Ok((hash, _)) => assert!(is_hex(&hash, &[40, 64]), "{hash:?}"),
        Err(error) => readable(&error),
    }
    if let Some(hash) = parsed.etag {
        assert!(is_hex(&hash, &[40, 64]), "{hash:?}");
    }
    match parsed.range {
        Ok((start, total)) => assert!(total.is_none_or(|total| start < total)),
        Err(error) => readable(&error),
    }
    match parsed.redirect {
        Ok(to) => {
            let rest = to.strip_prefix("https://").unwrap_or_else(|| panic!("{to:?}"));
            let authority = rest.split(['/', '?']).next().unwrap();
            assert!(!authority.is_empty() && !authority.contains('@'), "{to:?}");
        }
        Err(error) => readable(&error),
    }
}
