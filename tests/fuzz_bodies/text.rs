//! The fuzz targets of what surrounds a model: its tokenizer and the files of sentence-transformers.

use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Once;

use ropeway::{Chunking, Device, Embed, Engine, ModelConfig, Request};
use tempfile::TempDir;

use super::{readable, split};

/// A `tokenizer.json`, and a text for it: one text has one vector, however it is called, and the tokens of its chunks.
pub fn tokenizer(input: &[u8]) {
    opens(input);
}

/// The same; whether the file was taken.
pub fn opens(input: &[u8]) -> bool {
    silence_the_library();
    let (file, text) = split(input);
    let text = String::from_utf8_lossy(text);
    let folder = TempDir::new().unwrap();
    // The targets of `tools/fuzz` are two folders below.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [
        root.join("tests/golden/bert"),
        root.join("../../tests/golden/bert"),
    ];
    let bert = places.iter().find(|place| place.exists()).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(bert.join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("tokenizer.json"), file).unwrap();
    // A class that takes the file as it is: BERT's would have its normalizer and no space before a text.
    let class = r#"{"tokenizer_class": "TokenizersBackend"}"#;
    fs::write(folder.path().join("tokenizer_config.json"), class).unwrap();
    let engine = match Engine::builder()
        .device(Device::Cpu)
        .threads(1)
        .open(folder.path())
    {
        Ok(engine) => engine,
        Err(error) => {
            assert!(error.to_string().contains("tokenizer.json"), "{error}");
            readable(&error.to_string());
            return false;
        }
    };
    let (plain, chunked) = (
        Embed::default(),
        Embed::default().chunks(Some(Chunking::Tokens(3))),
    );
    let ids = Request::ids(vec![2u32, 9, 3], &plain);
    let good = engine.embed_batch(std::slice::from_ref(&ids)).remove(0).unwrap();
    let text = |options| Request::text(&*text, options);
    let mut results = engine
        .embed_batch(&[text(&plain), ids, text(&plain), text(&chunked)])
        .into_iter();
    let mut next = || results.next().unwrap();
    let first = next().map_err(|error| error.to_string());
    // What one text does is nothing to the next.
    assert_eq!(next().unwrap(), good);
    assert_eq!(next().map_err(|error| error.to_string()), first);
    for error in [first.err(), next().err().map(|error| error.to_string())]
        .into_iter()
        .flatten()
    {
        readable(&error);
    }
    true
}

/// The engine makes the tokenizers library's panics errors. They are many here, and each would be told by the hook, which
/// for a fuzzer is the end.
fn silence_the_library() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let of_library = |file: &str| {
                ["tokenizers-", "spm_precompiled-", "daachorse-"]
                    .iter()
                    .any(|name| file.contains(name))
            };
            if !info.location().is_some_and(|at| of_library(at.file())) {
                hook(info);
            }
        }));
    });
}

/// `modules.json`, and then `1_Pooling/config.json` and `sentence_bert_config.json`.
pub fn folder(input: &[u8]) {
    let (modules, rest) = split(input);
    let (pooling, sentence) = split(rest);
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    for (name, bytes) in [
        ("config.json", super::BASE_CONFIG.as_bytes()),
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", sentence),
        ("config_sentence_transformers.json", sentence),
        ("tokenizer_config.json", sentence),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    match ModelConfig::read(folder.path()) {
        Ok(config) => assert!((1..=8).contains(&config.max_tokens), "{}", config.max_tokens),
        Err(error) => readable(&error.to_string()),
    }
}
