//! The fuzz targets `model`, `adapter`, `tokenizer`, `folder` and `hub`: their committed corpus, and mutations of it.

mod common;
mod fuzz_bodies;
#[path = "fuzz_bodies/replay.rs"]
mod replay;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use common::{Scratch, edit_bytes, edit_header, edit_json, edit_tensors, set_key};
use model_maker::{Dtype, Family, Layout, ModelSpec};
use replay::{Random, corpus, mutate, replay_and_mutate};
use serde_json::json;

#[test]
fn models() {
    replay_and_mutate("model", fuzz_bodies::model, mutate_files);
}

#[test]
fn adapters() {
    replay_and_mutate("adapter", fuzz_bodies::adapter, mutate_files);
}

#[test]
fn hub_answers() {
    replay_and_mutate("hub", fuzz_bodies::hub, mutate_either);
}

#[test]
fn tokenizers() {
    replay_and_mutate("tokenizer", fuzz_bodies::text::tokenizer, mutate_either);
}

#[test]
fn mutations_start_from_tokenizers_that_open() {
    for seed in ["word-piece", "bpe", "unigram", "map"] {
        let input = fs::read(corpus("tokenizer").join(seed)).unwrap();
        assert!(fuzz_bodies::text::opens(&input), "{seed}");
    }
}

#[test]
fn folders() {
    replay_and_mutate("folder", fuzz_bodies::text::folder, |random, input, other| {
        let (modules, rest) = fuzz_bodies::split(input);
        let (other_modules, other_rest) = fuzz_bodies::split(other);
        match random.below(3) {
            0 => fuzz_bodies::join(&mutate(random, modules, other_modules), rest),
            _ => fuzz_bodies::join(modules, &mutate_either(random, rest, other_rest)),
        }
    });
}

/// Changes one of an input's two files.
fn mutate_either(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let (first, second) = fuzz_bodies::split(input);
    let (other_first, other_second) = fuzz_bodies::split(other);
    match random.below(2) {
        0 => fuzz_bodies::join(&mutate(random, first, other_first), second),
        _ => fuzz_bodies::join(first, &mutate(random, second, other_second)),
    }
}

/// Changes the configuration, the header of the weights or their data, and sets the lengths right,
/// so that the change is read and not only the length refused; now and then just anything.
fn mutate_files(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let (config, weights) = fuzz_bodies::split(input);
    let (other_config, other_weights) = fuzz_bodies::split(other);
    let header = weights.split_first_chunk::<8>().and_then(|(length, rest)| {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        (length <= rest.len()).then(|| rest.split_at(length))
    });
    match (random.below(8), header) {
        (0, _) => mutate(random, input, other),
        (1..=3, _) => fuzz_bodies::join(&mutate(random, config, other_config), weights),
        (4..=6, Some((header, data))) => {
            let header = mutate(random, header, other_weights);
            let length = (header.len() as u64).to_le_bytes();
            fuzz_bodies::join(config, &[&length, header.as_slice(), data].concat())
        }
        (7, Some((header, data))) => {
            let mut data = data.to_vec();
            for _ in 0..1 + random.below(8) {
                let at = random.below(data.len());
                if let Some(byte) = data.get_mut(at) {
                    // The high bytes of NaN and infinity among others.
                    *byte = [0xff, 0x7f, 0x80, 0x00, random.next() as u8][random.below(5)];
                }
            }
            let length = (header.len() as u64).to_le_bytes();
            fuzz_bodies::join(config, &[&length, header, &data].concat())
        }
        _ => fuzz_bodies::join(config, &mutate(random, weights, other_weights)),
    }
}

/// Writes the corpus anew; inputs that a fuzzer found are left as they are.
#[test]
#[ignore = "writes tools/fuzz/corpus; run it by name"]
fn write_corpus() {
    type Damage = fn(&Path);
    fn weights(m: &Path) -> PathBuf {
        m.join("model.safetensors")
    }
    let put = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    };
    let spec = |family| ModelSpec {
        vocab: 8,
        hidden: 4,
        layers: 1,
        heads: 2,
        ffn: 4,
        max_positions: 8,
        rank: 2,
        dtype: Dtype::F32,
        tokenizer: false,
        ..ModelSpec::new(family)
    };
    let put_model = |name: &str, spec: &ModelSpec, damage: Damage| {
        let scratch = Scratch::model(spec);
        damage(scratch.path());
        let read = |file| fs::read(scratch.path().join(file)).unwrap();
        put(
            "model",
            name,
            &fuzz_bodies::join(&read("config.json"), &read("model.safetensors")),
        );
    };
    let jina = spec(Family::Jina);
    put_model("jina", &jina, |_| {});
    put_model(
        "jina-bf16",
        &ModelSpec {
            dtype: Dtype::Bf16,
            ..jina.clone()
        },
        |_| {},
    );
    put_model(
        "jina-native",
        &ModelSpec {
            layout: Layout::Native,
            ..jina.clone()
        },
        |_| {},
    );
    // Of two faults `verify` and opening may name one each.
    put_model("nan-and-name", &jina, |m| {
        const ADAPTED: &str = "roberta.embeddings.word_embeddings.parametrizations.weight.0.lora_B";
        const FC2: &str = "roberta.encoder.layers.0.mlp.fc2.parametrizations.weight.0.lora_B";
        edit_tensors(&weights(m), |t| {
            t.get_mut(ADAPTED).unwrap().set(0, f32::NAN);
            let renamed = t.remove(FC2).unwrap();
            t.insert(FC2.replace("weight.0", "weight.1"), renamed);
        });
    });
    put_model(
        "xlm-roberta-f16",
        &ModelSpec {
            dtype: Dtype::F16,
            ..spec(Family::XlmRoberta)
        },
        |_| {},
    );
    const WORD: &str = "embeddings.word_embeddings.weight";
    let damages: &[(&str, Damage)] = &[
        ("bert", |_| {}),
        ("empty-weights", |m| fs::write(weights(m), "").unwrap()),
        ("cut-data", |m| {
            edit_bytes(&weights(m), |b| b.truncate(b.len() - 10))
        }),
        ("cut-header", |m| edit_bytes(&weights(m), |b| b.truncate(100))),
        ("past-the-end", |m| edit_bytes(&weights(m), |b| b.extend([0; 8]))),
        ("huge-header", |m| edit_bytes(&weights(m), |b| b[7] = 0xff)),
        ("gap", |m| {
            edit_header(&weights(m), |h| h[WORD]["data_offsets"][0] = json!(4))
        }),
        ("overflow", |m| {
            edit_header(&weights(m), |h| {
                h[WORD]["shape"] = json!([1u64 << 40, 1u64 << 40])
            })
        }),
        ("wrong-shape", |m| {
            edit_tensors(&weights(m), |t| t.get_mut(WORD).unwrap().shape = vec![4, 8])
        }),
        ("wrong-type", |m| {
            edit_tensors(&weights(m), |t| t.get_mut(WORD).unwrap().dtype = "I32".into())
        }),
        ("nan", |m| {
            edit_tensors(&weights(m), |t| t.get_mut(WORD).unwrap().set(0, f32::NAN))
        }),
        ("no-config", |m| fs::write(m.join("config.json"), "").unwrap()),
        ("config-absurd", |m| {
            set_key(&m.join("config.json"), "num_hidden_layers", json!(1e18))
        }),
        ("config-odd", |m| {
            set_key(&m.join("config.json"), "hidden_size", json!(5))
        }),
    ];
    for (name, damage) in damages {
        put_model(name, &spec(Family::Bert), *damage);
    }

    let base = Scratch::empty();
    fs::write(base.path().join("config.json"), fuzz_bodies::BASE_CONFIG).unwrap();
    fn tensors(a: &Path) -> PathBuf {
        a.join("adapter_model.safetensors")
    }
    fn settings(a: &Path) -> PathBuf {
        a.join("adapter_config.json")
    }
    const A: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
    let damages: &[(&str, Damage)] = &[
        ("good", |_| {}),
        ("half", |a| edit_tensors(&tensors(a), |t| drop(t.remove(A)))),
        ("nan", |a| {
            edit_tensors(&tensors(a), |t| t.get_mut(A).unwrap().set(0, f32::NAN))
        }),
        ("layer", |a| {
            edit_tensors(&tensors(a), |t| {
                let tensor = t.remove(A).unwrap();
                t.insert(A.replace(".0.", ".9."), tensor);
            });
        }),
        ("rank", |a| set_key(&settings(a), "r", json!(3))),
        ("pattern", |a| {
            edit_json(&settings(a), |c| c["rank_pattern"] = json!({"query": 4}))
        }),
        ("cut", |a| edit_bytes(&tensors(a), |b| b.truncate(b.len() - 1))),
    ];
    for (name, damage) in damages {
        let adapter = Scratch::adapter(
            base.path(),
            &["query", "key", "value", "word_embeddings", "output.dense"],
        );
        edit_json(&settings(adapter.path()), |c| {
            drop(c.shift_remove("base_model_name_or_path"))
        });
        damage(adapter.path());
        let (config, weights) = (
            fs::read(settings(adapter.path())),
            fs::read(tensors(adapter.path())),
        );
        put(
            "adapter",
            name,
            &fuzz_bodies::join(&config.unwrap(), &weights.unwrap()),
        );
    }

    let commit = ropeway::hub::fuzzing::COMMIT;
    let listing = format!(
        r#"{{"_id":"1","sha":"{commit}","private":false,"siblings":[{{"rfilename":"config.json"}},
            {{"rfilename":"1_Pooling/config.json"}},{{"rfilename":"../x/adapter_config.json"}},
            {{"rfilename":"model-00001-of-00002.safetensors"}},{{"rfilename":"onnx/model.onnx"}}]}}"#
    );
    let (sha1, sha256) = ("5f".repeat(20), "a0".repeat(32));
    let answers = [
        (
            "file",
            format!("ETag: \"{sha1}\"\nX-Repo-Commit: {commit}\nContent-Length: 612\n"),
        ),
        (
            "redirect",
            format!(
                "Location: https://cdn.example/repos/1?Expires=9&Signature=a~b\nX-Linked-ETag: \"{sha256}\"\n\
                 X-Linked-Size: 90868376\nX-Repo-Commit: {commit}\nETag: W/\"x\"\n"
            ),
        ),
        (
            "relative",
            "Location: /api/resolve-cache/x/config.json?a=%2F#b\n".into(),
        ),
        ("downgrade", "Location: http://hub.example/x\n".into()),
        ("user", "Location: https://user:pass@hub.example:443/x\n".into()),
        (
            "part",
            "Content-Range: bytes 100-199/200\nRetry-After: 120\n".into(),
        ),
        (
            "path",
            "ETag: \"/home/user/.bashrc\"\nX-Repo-Commit: ../..\n".into(),
        ),
    ];
    for (name, head) in answers {
        put(
            "hub",
            name,
            &fuzz_bodies::join(listing.as_bytes(), head.as_bytes()),
        );
    }
    put(
        "hub",
        "page",
        &fuzz_bodies::join(b"<html></html>", b"Content-Type: text/html\n"),
    );

    let join = |a: &str, b: &str| fuzz_bodies::join(a.as_bytes(), b.as_bytes());
    // A vocabulary of a few words, so that mutations hit the settings.
    let words = json!({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "ab": 5, "##b": 6, "!": 7});
    let token = |content: &str, id: u32| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let special = |content: &str, id: u32| json!({"id": content, "ids": [id], "tokens": [content]});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"[CLS]": special("[CLS]", 2), "[SEP]": special("[SEP]", 3)},
    });
    let word_piece = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                            "max_input_chars_per_word": 100, "vocab": words});
    let bpe = json!({"type": "BPE", "dropout": 0.5, "unk_token": "[UNK]", "merges": [["a", "b"]],
                     "vocab": {"[UNK]": 1, "a": 4, "b": 6, "ab": 5}});
    let unigram = json!({"type": "Unigram", "unk_id": 1, "byte_fallback": false,
                         "vocab": [["<s>", 0.0], ["<unk>", 0.0], ["\u{2581}", -2.0], ["\u{2581}a", -1.0], ["b", -3.0]]});
    let marks =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let replace = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
    // A trie of nothing, which is looked up for every byte.
    let map = [&1024u32.to_le_bytes(), &[0; 1024][..], b"a\0"].concat();
    let map = base64::engine::general_purpose::STANDARD.encode(map);
    let map = json!({"type": "Precompiled", "precompiled_charsmap": map});
    let text = "a ab!  b \u{e9}\n[CLS] \u{4e2d}\u{6587} a";
    for (name, normalizer, splitter, model) in [
        (
            "word-piece",
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                              "strip_accents": null, "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            &word_piece,
        ),
        (
            "bpe",
            json!(null),
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            &bpe,
        ),
        (
            "unigram",
            json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, replace]}),
            marks,
            &unigram,
        ),
        ("map", map, json!({"type": "Whitespace"}), &word_piece),
    ] {
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [token("[PAD]", 0), token("[UNK]", 1), token("[CLS]", 2), token("[SEP]", 3)],
            "normalizer": normalizer, "pre_tokenizer": splitter, "post_processor": template, "decoder": null, "model": model,
        });
        put("tokenizer", name, &join(&file.to_string(), text));
    }

    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]);
    let pooling = json!({"word_embedding_dimension": 4, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true,
                         "include_prompt": true});
    for (name, settings) in [
        ("limit", json!({"max_seq_length": 6, "do_lower_case": false})),
        (
            "prompts",
            json!({"prompts": {"query": "q: "}, "default_prompt_name": "query", "similarity_fn_name": "cosine"}),
        ),
        (
            "tokenizer",
            json!({"model_max_length": 1e30, "do_lower_case": true}),
        ),
    ] {
        let rest = join(&pooling.to_string(), &settings.to_string());
        put(
            "folder",
            name,
            &fuzz_bodies::join(modules.to_string().as_bytes(), &rest),
        );
    }
}
