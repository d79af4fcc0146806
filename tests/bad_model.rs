//! Broken models, adapters and requests: each is refused with a message that names the place, what
//! was wanted and what was found. Nothing panics, and nothing else is lost.

mod common;

use std::fs;
use std::path::Path;

use common::{
    Scratch, Table, Tensor, edit_bytes, edit_header, edit_json, edit_tensors, model, set_key, tiny,
};
use model_maker::{Family, Layout, ModelSpec};
use ropeway::{Chunking, Device, Embed, Embedding, Encoding, Engine, Error, Output, Pooling, Request};
use serde_json::{Value, json};

fn open(path: &Path) -> ropeway::Result<Engine> {
    Engine::builder().device(Device::Cpu).threads(1).open(path)
}

fn engine(path: &Path) -> Engine {
    open(path).unwrap()
}

/// What breaks a copy of a model, and the words that the error must hold.
type Breakage = (&'static str, fn(&Path), &'static [&'static str]);

/// Breaks a copy of the model in every way and opens it.
fn break_model(name: &str, spec: &ModelSpec, cases: &[Breakage]) {
    let mut table = Table::new(name);
    for &(case, damage, words) in cases {
        let scratch = Scratch::model(spec);
        damage(scratch.path());
        table.refused(case, words, || open(scratch.path()));
    }
    table.finish();
}

fn weights(folder: &Path) -> std::path::PathBuf {
    folder.join("model.safetensors")
}

#[test]
fn a_path_that_is_no_model_is_refused() {
    let scratch = Scratch::empty();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("file"), "x").unwrap();
    let mut table = Table::new("paths");
    table.refused(
        "no such folder",
        &["nowhere", "there is no such folder", "hub id", "from_hub"],
        || open(&path("nowhere")),
    );
    for id in ["nowhere", "a/b/c", "owner/", "a b/c"] {
        table.refused(id, &[id, "is not a hub id", "`owner/name`"], || {
            Engine::builder().offline(true).from_hub(id)
        });
    }
    table.refused("a file", &["file", "give the model's folder"], || {
        open(&path("file"))
    });
    table.refused("an empty folder", &["empty/config.json", "No such file"], || {
        open(&path("empty"))
    });
    let only_pickle = Scratch::model(&tiny(Family::Bert));
    fs::rename(
        weights(only_pickle.path()),
        only_pickle.path().join("pytorch_model.bin"),
    )
    .unwrap();
    table.refused(
        "pickled weights",
        &["pytorch_model.bin", "safe_serialization"],
        || open(only_pickle.path()),
    );
    fs::remove_file(only_pickle.path().join("pytorch_model.bin")).unwrap();
    table.refused("no weights", &["neither model.safetensors nor"], || {
        open(only_pickle.path())
    });
    for text in ["", "{}", "[1", "\u{0}\u{1}"] {
        let scratch = Scratch::model(&tiny(Family::Bert));
        fs::write(scratch.path().join("tokenizer.json"), text).unwrap();
        table.refused(
            &format!("tokenizer.json {text:?}"),
            &["tokenizer.json", "is not a tokenizer that can be read"],
            || open(scratch.path()),
        );
    }
    table.finish();
}

#[test]
fn broken_weight_files_are_refused() {
    const WORD: &str = "embeddings.word_embeddings.weight";
    const FILE: &str = "model.safetensors";
    break_model(
        "weight files",
        &tiny(Family::Bert),
        &[
            (
                "empty",
                |m| fs::write(weights(m), "").unwrap(),
                &[FILE, "is empty", "fetch it again"],
            ),
            (
                "a few bytes",
                |m| fs::write(weights(m), "abc").unwrap(),
                &[FILE, "3 bytes", "header"],
            ),
            (
                "cut in the data",
                |m| edit_bytes(&weights(m), |b| b.truncate(b.len() - 10)),
                &[FILE, "its tensors take", "bytes, but", "fetch or save it again"],
            ),
            (
                "cut in the header",
                |m| edit_bytes(&weights(m), |b| b.truncate(100)),
                &[FILE, "its header takes", "but only 92 follow"],
            ),
            (
                "data past the end",
                |m| edit_bytes(&weights(m), |b| b.extend([0; 8])),
                &[FILE, "its tensors take", "follow the header"],
            ),
            (
                "huge header",
                |m| edit_bytes(&weights(m), |b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes())),
                &[FILE, "18446744073709551615 bytes"],
            ),
            (
                "header not JSON",
                |m| edit_bytes(&weights(m), |b| b[8] = b'!'),
                &[FILE, "not a valid safetensors file", "JSON"],
            ),
            (
                "header not UTF-8",
                |m| edit_bytes(&weights(m), |b| b[9] = 0xff),
                &[FILE, "not a valid safetensors file", "UTF-8"],
            ),
            (
                "entry without a shape",
                |m| {
                    edit_header(&weights(m), |h| {
                        drop(h[WORD].as_object_mut().unwrap().remove("shape"))
                    })
                },
                &[FILE, "shape"],
            ),
            (
                "negative size",
                |m| edit_header(&weights(m), |h| h[WORD]["shape"] = json!([-1, 64])),
                &[FILE, "-1"],
            ),
            (
                "overlap",
                |m| edit_header(&weights(m), |h| move_tensor(h, WORD, -4, 0)),
                &[FILE, WORD, "wanted its start at"],
            ),
            (
                "gap",
                |m| edit_header(&weights(m), |h| move_tensor(h, WORD, 4, 0)),
                &[FILE, WORD, "wanted its start at"],
            ),
            (
                "end before begin",
                |m| edit_header(&weights(m), |h| move_tensor(h, WORD, 0, -1 << 20)),
                &[FILE, "safetensors"],
            ),
            (
                "shape larger than the data",
                |m| edit_header(&weights(m), |h| h[WORD]["shape"] = json!([161, 64])),
                &[FILE, WORD, "[161, 64]", "bytes of data"],
            ),
            (
                "shape that overflows",
                |m| {
                    edit_header(&weights(m), |h| {
                        h[WORD]["shape"] = json!([1u64 << 40, 1u64 << 40])
                    })
                },
                &[FILE, WORD, "1099511627776"],
            ),
            (
                "misaligned",
                |m| {
                    edit_bytes(&weights(m), |bytes| {
                        let (header, data) = common::split(bytes);
                        let mut json = serde_json::to_vec(&header).unwrap();
                        json.resize(json.len().next_multiple_of(8) + 1, b' ');
                        let length = (json.len() as u64).to_le_bytes();
                        *bytes = [&length, json.as_slice(), &data].concat();
                    });
                },
                &[FILE, "tensor `", "not a multiple of 4"],
            ),
            (
                "wrong type",
                |m| {
                    edit_tensors(&weights(m), |t| {
                        let word = t.get_mut(WORD).unwrap();
                        (word.dtype, word.bytes) = ("I64".into(), vec![0; 160 * 64 * 8]);
                    });
                },
                &[WORD, "type I64", "wanted F32, F16 or BF16"],
            ),
            (
                "wrong shape",
                |m| edit_tensors(&weights(m), |t| t.get_mut(WORD).unwrap().shape = vec![64, 160]),
                &[WORD, "[64, 160]", "wants [160, 64]"],
            ),
            (
                "missing tensor",
                |m| {
                    edit_tensors(&weights(m), |t| {
                        drop(t.remove("encoder.layer.1.output.dense.bias"))
                    })
                },
                &["encoder.layer.1.output.dense.bias", "is missing"],
            ),
        ],
    );
}

/// Moves the ends of a tensor's data in a header.
fn move_tensor(header: &mut serde_json::Map<String, Value>, name: &str, begin: i64, end: i64) {
    let offsets = header[name]["data_offsets"].as_array_mut().unwrap();
    for (offset, by) in offsets.iter_mut().zip([begin, end]) {
        *offset = json!((offset.as_i64().unwrap() + by).max(0));
    }
}

#[test]
fn broken_shards_are_refused() {
    const INDEX: &str = "model.safetensors.index.json";
    let spec = ModelSpec {
        shards: 2,
        ..tiny(Family::Bert)
    };
    engine(&model(&spec));
    fn set(m: &Path, value: Value) {
        edit_json(&m.join(INDEX), |index| {
            let map = index["weight_map"].as_object_mut().unwrap();
            map.insert("embeddings.LayerNorm.bias".into(), value);
        });
    }
    break_model(
        "shards",
        &spec,
        &[
            (
                "missing shard",
                |m| fs::remove_file(m.join("model-00002-of-00002.safetensors")).unwrap(),
                &["model-00002-of-00002.safetensors", "No such file"],
            ),
            (
                "outside the folder",
                |m| set(m, json!("../model.safetensors")),
                &[INDEX, "`../model.safetensors`", "plain file name"],
            ),
            (
                "absolute",
                |m| set(m, json!("/etc/passwd")),
                &[INDEX, "`/etc/passwd`", "plain file name"],
            ),
            (
                "the parent",
                |m| set(m, json!("..")),
                &[INDEX, "`..`", "plain file name"],
            ),
            (
                "not a name",
                |m| set(m, json!(7)),
                &[INDEX, "embeddings.LayerNorm.bias", "not a file name"],
            ),
            (
                "no map",
                |m| fs::write(m.join(INDEX), "{}").unwrap(),
                &[INDEX, "weight_map"],
            ),
            (
                "empty map",
                |m| fs::write(m.join(INDEX), r#"{"weight_map": {}}"#).unwrap(),
                &[INDEX, "names no shards"],
            ),
            (
                "not JSON",
                |m| fs::write(m.join(INDEX), "{").unwrap(),
                &[INDEX, "not valid JSON", "line 1"],
            ),
            (
                "tensor in two shards",
                |m| {
                    let mut taken = None;
                    edit_tensors(&m.join("model-00001-of-00002.safetensors"), |t| {
                        taken = t.first_key_value().map(|(k, v)| (k.clone(), v.clone()));
                    });
                    edit_tensors(&m.join("model-00002-of-00002.safetensors"), |t| t.extend(taken));
                },
                &[
                    "model-00002-of-00002.safetensors",
                    "tensor `embeddings.LayerNorm.bias`",
                    "in two shards",
                ],
            ),
        ],
    );
}

/// Sets a key in a copy of the model's `config.json`; the error must name file, key and words.
fn bad_keys(spec: &ModelSpec, cases: &[(&str, Value, &[&str])]) {
    let mut table = Table::new("config.json");
    for (key, value, words) in cases {
        let scratch = Scratch::model(spec);
        set_key(&scratch.path().join("config.json"), key, value.clone());
        let words: Vec<&str> = words.iter().copied().chain(["config.json"]).collect();
        table.refused(&format!("{key} = {value}"), &words, || open(scratch.path()));
    }
    table.finish();
}

#[test]
fn a_config_of_nonsense_is_refused() {
    let spec = tiny(Family::Bert);
    let sizes = [
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ];
    let absurd = [
        (json!(null), "is missing"),
        (json!(0), "is 0; wanted 1 to"),
        (json!(-1), "is -1; wanted a whole number"),
        (json!(12.5), "is 12.5; wanted a whole number"),
        (json!(1e18), "is 1e+18; wanted a whole number"),
        (json!(u64::MAX), "is 18446744073709551615; wanted a whole number"),
        (json!("64"), "is \"64\"; wanted a whole number"),
        (json!([64]), "is [64]; wanted a whole number"),
    ];
    for key in sizes {
        let cases: Vec<(&str, Value, &[&str])> = absurd
            .iter()
            .map(|(value, words)| (key, value.clone(), std::slice::from_ref(words)))
            .collect();
        bad_keys(&spec, &cases);
    }
    bad_keys(
        &spec,
        &[
            (
                "hidden_size",
                json!(66),
                &["hidden_size 66", "num_attention_heads 4"],
            ),
            (
                "num_attention_heads",
                json!(65),
                &["num_attention_heads is 65", "up to 64"],
            ),
            ("layer_norm_eps", json!(-1.0), &["layer_norm_eps is -1"]),
            (
                "layer_norm_eps",
                json!("tiny"),
                &["layer_norm_eps is \"tiny\"", "a number"],
            ),
            ("type_vocab_size", json!(1e9), &["type_vocab_size is 1000000000"]),
            ("model_type", json!("gpt2"), &["\"gpt2\"", "supported are"]),
            ("model_type", json!(7), &["model_type"]),
            ("model_type", json!(null), &["model_type is missing"]),
            (
                "hidden_act",
                json!("gelu_new"),
                &["hidden_act is \"gelu_new\"", "\"gelu\""],
            ),
            ("hidden_act", json!(1), &["hidden_act is 1"]),
            (
                "position_embedding_type",
                json!("relative_key"),
                &["relative_key", "absolute"],
            ),
            (
                "matryoshka_dimensions",
                json!(32),
                &["matryoshka_dimensions is not a list"],
            ),
            (
                "matryoshka_dimensions",
                json!([0]),
                &["matryoshka_dimensions holds 0", "1 to 64"],
            ),
            (
                "matryoshka_dimensions",
                json!([65]),
                &["matryoshka_dimensions holds 65", "1 to 64"],
            ),
        ],
    );
    let xlm = tiny(Family::XlmRoberta);
    bad_keys(
        &xlm,
        &[
            ("pad_token_id", json!(-1), &["pad_token_id is -1"]),
            ("pad_token_id", json!(39), &["positions start at 40", "is 40"]),
            ("max_position_embeddings", json!(3), &["leave no room"]),
        ],
    );
}

#[test]
fn files_beside_the_weights_are_checked() {
    break_model(
        "other files",
        &tiny(Family::Bert),
        &[
            (
                "config missing",
                |m| fs::remove_file(m.join("config.json")).unwrap(),
                &["config.json", "No such file"],
            ),
            (
                "config not JSON",
                |m| fs::write(m.join("config.json"), "{\"a\": 1,\n}").unwrap(),
                &["config.json", "not valid JSON", "line 2"],
            ),
            (
                "config empty",
                |m| fs::write(m.join("config.json"), "").unwrap(),
                &["config.json", "not valid JSON"],
            ),
            (
                "config a list",
                |m| fs::write(m.join("config.json"), "[]").unwrap(),
                &["config.json"],
            ),
            (
                "config nested",
                |m| fs::write(m.join("config.json"), "[".repeat(1 << 20)).unwrap(),
                &["config.json", "recursion"],
            ),
            (
                "config endless",
                |m| {
                    fs::File::create(m.join("config.json"))
                        .unwrap()
                        .set_len(1 << 40)
                        .unwrap()
                },
                &["config.json", "1099511627776 bytes"],
            ),
            (
                "config a folder",
                |m| {
                    fs::remove_file(m.join("config.json")).unwrap();
                    fs::create_dir(m.join("config.json")).unwrap();
                },
                &["config.json"],
            ),
            (
                "module of another kind",
                |m| {
                    let modules =
                        json!([{"type": "sentence_transformers.models.LayerNorm", "path": "2_LayerNorm"}]);
                    fs::write(m.join("modules.json"), modules.to_string()).unwrap();
                },
                &["modules.json", "LayerNorm module"],
            ),
            (
                "prompt left out of the mean",
                |m| set_key(&m.join("1_Pooling/config.json"), "include_prompt", json!(false)),
                &["1_Pooling/config.json", "include_prompt"],
            ),
            (
                "lower case outside the tokenizer",
                |m| fs::write(m.join("sentence_bert_config.json"), "{\"do_lower_case\": true}").unwrap(),
                &["sentence_bert_config.json", "do_lower_case"],
            ),
            (
                "a default size",
                |m| set_key(&m.join("config.json"), "truncate_dim", json!(8)),
                &["config.json", "truncate_dim is 8"],
            ),
            (
                "modules no list",
                |m| fs::write(m.join("modules.json"), "{}").unwrap(),
                &["modules.json", "list"],
            ),
            (
                "pooling missing",
                |m| fs::remove_file(m.join("1_Pooling/config.json")).unwrap(),
                &["1_Pooling/config.json", "No such file"],
            ),
            (
                "pooling unsupported",
                |m| {
                    set_key(
                        &m.join("1_Pooling/config.json"),
                        "pooling_mode_lasttoken",
                        json!(true),
                    );
                },
                &["1_Pooling/config.json", "lasttoken", "mean and cls are"],
            ),
            (
                "two poolings",
                |m| {
                    set_key(
                        &m.join("1_Pooling/config.json"),
                        "pooling_mode_cls_token",
                        json!(true),
                    );
                },
                &["1_Pooling/config.json", "mean and cls together"],
            ),
            (
                "pooling named",
                |m| {
                    set_key(&m.join("1_Pooling/config.json"), "pooling_mode", json!("max"));
                },
                &["1_Pooling/config.json", "max"],
            ),
            (
                "no pooling",
                |m| fs::write(m.join("1_Pooling/config.json"), "{}").unwrap(),
                &["1_Pooling/config.json", "names no pooling"],
            ),
            (
                "pooling elsewhere",
                |m| {
                    fs::write(
                        m.join("modules.json"),
                        r#"[{"type": "x.Pooling", "path": "../1_Pooling"}]"#,
                    )
                    .unwrap()
                },
                &["modules.json", "`../1_Pooling`", "plain folder name"],
            ),
            (
                "dense module",
                |m| {
                    fs::write(
                        m.join("modules.json"),
                        r#"[{"type": "x.Dense", "path": "2_Dense"}]"#,
                    )
                    .unwrap()
                },
                &["modules.json", "Dense"],
            ),
        ],
    );
}

#[test]
fn broken_stacked_adapters_are_refused() {
    const A: &str = "roberta.encoder.layers.1.mlp.fc2.parametrizations.weight.0.lora_A";
    let spec = tiny(Family::Jina);
    bad_keys(
        &spec,
        &[
            (
                "lora_adaptations",
                json!("retrieval.query"),
                &["lora_adaptations is not a list of names"],
            ),
            (
                "lora_adaptations",
                json!(["a", 7]),
                &["lora_adaptations is not a list of names"],
            ),
            (
                "lora_adaptations",
                json!(["a", "b", "a"]),
                &["lora_adaptations", "\"a\" twice"],
            ),
            ("lora_adaptations", json!(["a", ""]), &["lora_adaptations"]),
            ("lora_rank", json!(null), &["lora_rank is missing"]),
            ("lora_rank", json!(0), &["lora_rank is 0"]),
            ("lora_rank", json!(5000), &["lora_rank is 5000", "4096"]),
            ("lora_alpha", json!(0), &["lora_alpha is 0"]),
            ("lora_alpha", json!(1e300), &["lora_alpha is 1e300"]),
            ("lora_alpha", json!("1"), &["lora_alpha is \"1\""]),
            ("rotary_emb_base", json!(0.0), &["rotary base is 0"]),
            ("rotary_emb_base", json!("x"), &["rotary_emb_base is \"x\""]),
            (
                "max_position_embeddings",
                json!(1 << 21),
                &["max_position_embeddings is 2097152"],
            ),
            ("num_attention_heads", json!(64), &["even head size", "not 1"]),
            ("emb_pooler", json!("max"), &["emb_pooler is \"max\"", "\"cls\""]),
            ("emb_pooler", json!(3), &["emb_pooler is 3", "\"cls\""]),
        ],
    );
    bad_keys(
        &ModelSpec {
            layout: Layout::Native,
            ..spec.clone()
        },
        &[
            (
                "rope_parameters",
                json!({"rope_type": "yarn"}),
                &["\"yarn\"", "default"],
            ),
            (
                "rope_parameters",
                json!({"rope_theta": []}),
                &["rope_theta is []"],
            ),
        ],
    );
    break_model(
        "stacked adapters",
        &spec,
        &[
            (
                "another rank",
                |m| set_key(&m.join("config.json"), "lora_rank", json!(3)),
                &["lora_A", "2", "3", "has shape"],
            ),
            (
                "one task more",
                |m| {
                    edit_json(&m.join("config.json"), |c| {
                        c["lora_adaptations"].as_array_mut().unwrap().push(json!("sixth"))
                    });
                },
                &["lora_", "has shape [5, ", "wants [6, "],
            ),
            (
                "NaN",
                |m| edit_tensors(&weights(m), |t| t.get_mut(A).unwrap().set(3, f32::NAN)),
                &["model.safetensors", A, "NaN", "index 3"],
            ),
            (
                "Inf",
                |m| edit_tensors(&weights(m), |t| t.get_mut(A).unwrap().set(0, f32::INFINITY)),
                &[A, "inf", "index 0"],
            ),
            (
                "missing",
                |m| edit_tensors(&weights(m), |t| drop(t.remove(A))),
                &[A, "is missing"],
            ),
        ],
    );
}

#[test]
fn verify_names_what_is_not_finite() {
    let scratch = Scratch::model(&tiny(Family::Bert));
    let name = "encoder.layer.0.output.dense.weight";
    edit_tensors(&weights(scratch.path()), |t| {
        t.get_mut(name).unwrap().set(70, f32::NEG_INFINITY)
    });
    let mut table = Table::new("verify");
    table.refused("-inf", &["model.safetensors", name, "-inf", "index 70"], || {
        ropeway::model::verify(scratch.path())
    });
    table.finish();
}

#[test]
fn broken_peft_adapters_are_refused() {
    const CONFIG: &str = "adapter_config.json";
    const FILE: &str = "adapter_model.safetensors";
    const A: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";
    const B: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight";
    let base = model(&tiny(Family::Bert));
    let engine = engine(&base);
    let good = Scratch::adapter(&base, &["query", "word_embeddings"]);
    engine.add_adapter("good", good.path()).unwrap();
    let embed = || {
        engine
            .embed(&["The kind of text."], &Embed::task("good"))
            .unwrap()
    };
    let before = embed();

    fn set(folder: &Path, key: &str, value: Value) {
        set_key(&folder.join(CONFIG), key, value);
    }
    fn tensors(folder: &Path, change: impl FnOnce(&mut std::collections::BTreeMap<String, Tensor>)) {
        edit_tensors(&folder.join(FILE), change);
    }
    fn rename(folder: &Path, part: &str, new: &str) {
        tensors(folder, |t| {
            *t = std::mem::take(t)
                .into_iter()
                .map(|(k, v)| (k.replace(part, new), v))
                .collect()
        });
    }
    let cases: &[Breakage] = &[
        (
            "packed and separate queries",
            |a| {
                tensors(a, |t| {
                    let (first, second) = (t[A].clone(), t[B].clone());
                    for module in ["mixer.Wqkv", "attention.self.key"] {
                        let mut b = second.clone();
                        if module == "mixer.Wqkv" {
                            b.shape[0] *= 3;
                            b.bytes = b.bytes.repeat(3);
                        }
                        t.insert(A.replace("attention.self.query", module), first.clone());
                        t.insert(B.replace("attention.self.query", module), b);
                    }
                })
            },
            &[FILE, "layer 0", "Wqkv"],
        ),
        (
            "no config",
            |a| fs::remove_file(a.join(CONFIG)).unwrap(),
            &[CONFIG, "No such file"],
        ),
        (
            "config not JSON",
            |a| fs::write(a.join(CONFIG), "?").unwrap(),
            &[CONFIG, "not valid JSON"],
        ),
        (
            "no weights",
            |a| fs::remove_file(a.join(FILE)).unwrap(),
            &[FILE, "No such file"],
        ),
        (
            "pickled weights",
            |a| fs::rename(a.join(FILE), a.join("adapter_model.bin")).unwrap(),
            &["adapter_model.bin", "safetensors"],
        ),
        (
            "empty weights",
            |a| fs::write(a.join(FILE), "").unwrap(),
            &[FILE, "is empty"],
        ),
        (
            "cut weights",
            |a| edit_bytes(&a.join(FILE), |b| b.truncate(b.len() - 1)),
            &[FILE, "its tensors take"],
        ),
        (
            "no tensors",
            |a| tensors(a, |t| t.clear()),
            &[FILE, "no LoRA factors"],
        ),
        (
            "unknown target",
            |a| rename(a, "self.query", "self.rotary"),
            &[FILE, "self.rotary", "supported targets are"],
        ),
        (
            "not a factor",
            |a| rename(a, ".lora_A.weight", ".magnitude"),
            &[FILE, "query.magnitude", "supported targets are"],
        ),
        (
            "layer too big",
            |a| rename(a, "layer.1.", "layer.2."),
            &[FILE, "layer.2.", "2 layers only"],
        ),
        (
            "layer absurd",
            |a| rename(a, "layer.1.", "layer.99999999999999999999."),
            &[FILE, "layer.99999999999999999999."],
        ),
        (
            "rank of the config",
            |a| set(a, "r", json!(3)),
            &[FILE, "lora_", "has shape", "want", "3"],
        ),
        (
            "rank missing",
            |a| set(a, "r", json!(null)),
            &[CONFIG, "r is missing", "1 to 4096"],
        ),
        (
            "rank 0",
            |a| set(a, "r", json!(0)),
            &[CONFIG, "r is 0", "1 to 4096"],
        ),
        (
            "rank of words",
            |a| set(a, "r", json!("two")),
            &[CONFIG, "r is \"two\"", "1 to 4096"],
        ),
        (
            "rank absurd",
            |a| set(a, "r", json!(1e18)),
            &[CONFIG, "r is 1e", "1 to 4096"],
        ),
        (
            "alpha missing",
            |a| set(a, "lora_alpha", json!(null)),
            &[CONFIG, "lora_alpha"],
        ),
        (
            "alpha absurd",
            |a| set(a, "lora_alpha", json!(1e300)),
            &[CONFIG, "lora_alpha"],
        ),
        (
            "wrong shape",
            |a| tensors(a, |t| t.get_mut(A).unwrap().shape = vec![64, 2]),
            &[FILE, A, "[64, 2]", "[2, 64]"],
        ),
        (
            "wrong type",
            |a| tensors(a, |t| t.get_mut(A).unwrap().dtype = "I32".into()),
            &[FILE, A, "I32", "wanted F32"],
        ),
        (
            "half a pair",
            |a| tensors(a, |t| drop(t.remove(B))),
            &[FILE, A, "no matching B"],
        ),
        (
            "the other half",
            |a| tensors(a, |t| drop(t.remove(A))),
            &[FILE, B, "no matching A"],
        ),
        (
            "given twice",
            |a| {
                tensors(a, |t| {
                    let x = t[A].clone();
                    t.insert(A.replace("base_model.model.", ""), x);
                })
            },
            &[
                FILE,
                "encoder.layer.0.attention.self.query.lora_A.weight",
                "means the same weight as",
            ],
        ),
        (
            "NaN",
            |a| tensors(a, |t| t.get_mut(A).unwrap().set(5, f32::NAN)),
            &[FILE, A, "NaN", "index 5"],
        ),
        (
            "Inf",
            |a| tensors(a, |t| t.get_mut(B).unwrap().set(7, f32::INFINITY)),
            &[FILE, B, "inf", "index 7"],
        ),
        (
            "DoRA",
            |a| set(a, "use_dora", json!(true)),
            &[CONFIG, "use_dora", "not supported"],
        ),
        (
            "bias",
            |a| set(a, "bias", json!("all")),
            &[CONFIG, "bias", "not supported"],
        ),
        (
            "LoRA bias",
            |a| set(a, "lora_bias", json!(true)),
            &[CONFIG, "lora_bias", "not supported"],
        ),
        (
            "ranks by pattern",
            |a| set(a, "rank_pattern", json!({"query": 4})),
            &[CONFIG, "rank_pattern", "not supported"],
        ),
        (
            "alphas by pattern",
            |a| set(a, "alpha_pattern", json!({"query": 4})),
            &[CONFIG, "alpha_pattern", "not supported"],
        ),
        (
            "whole modules",
            |a| set(a, "modules_to_save", json!(["pooler"])),
            &[CONFIG, "modules_to_save", "not supported"],
        ),
        (
            "another method",
            |a| set(a, "peft_type", json!("IA3")),
            &[CONFIG, "IA3", "LORA"],
        ),
        (
            "no method",
            |a| set(a, "peft_type", json!(null)),
            &[CONFIG, "peft_type is missing"],
        ),
    ];
    let mut table = Table::new("PEFT adapters");
    for &(case, damage, words) in cases {
        let adapter = Scratch::adapter(&base, &["query", "word_embeddings"]);
        damage(adapter.path());
        table.refused(case, words, || engine.add_adapter("broken", adapter.path()));
    }
    table.refused("no folder", &["nowhere", "No such file"], || {
        engine.add_adapter("broken", good.path().join("nowhere"))
    });
    let other = model(&ModelSpec {
        hidden: 32,
        ..tiny(Family::Bert)
    });
    let other = Scratch::adapter(&other, &["query"]);
    table.refused("another model's", &[FILE, "[2, 32]", "[2, 64]"], || {
        engine.add_adapter("broken", other.path())
    });
    for name in ["", "a,b", "a=b"] {
        table.refused(&format!("name {name:?}"), &["must not be empty"], || {
            engine.add_adapter(name, good.path())
        });
    }
    table.refused("name taken", &["`good`", "is taken"], || {
        engine.add_adapter("good", good.path())
    });
    table.refused("unknown name dropped", &["`broken`", "loaded are good"], || {
        engine.remove_adapter("broken")
    });
    table.finish();
    // Nothing that was refused left a trace.
    assert_eq!(engine.adapters(), ["good"]);
    assert_eq!(embed(), before);
}

#[test]
fn an_adapter_cannot_take_a_tasks_name() {
    let base = model(&tiny(Family::Jina));
    let engine = engine(&base);
    let adapter = Scratch::adapter(&base, &["q_proj"]);
    let mut table = Table::new("names");
    table.refused("a task", &["`separation`", "is the name of a task"], || {
        engine.add_adapter("separation", adapter.path())
    });
    engine.remove_adapter("separation").unwrap();
    table.refused(
        "a removed task",
        &["`separation`", "is the name of a task"],
        || engine.add_adapter("separation", adapter.path()),
    );
    table.refused("its use", &["separation", "was removed"], || {
        engine.embed(&["x"], &Embed::task("separation"))
    });
    table.finish();
}

#[test]
fn a_broken_task_folder_of_the_native_layout_is_refused() {
    let spec = ModelSpec {
        layout: Layout::Native,
        ..tiny(Family::Jina)
    };
    break_model(
        "native",
        &spec,
        &[
            (
                "no weights",
                |m| fs::remove_file(m.join("separation/adapter_model.safetensors")).unwrap(),
                &["separation/adapter_model.safetensors", "No such file"],
            ),
            (
                "wrong rank",
                |m| set_key(&m.join("retrieval_query/adapter_config.json"), "r", json!(4)),
                &["retrieval_query/adapter_model.safetensors", "lora_", "has shape"],
            ),
        ],
    );
}

fn good() -> Vec<(&'static str, Embed)> {
    vec![
        ("The first good text.", Embed::task("retrieval.query")),
        ("Another, without a task", Embed::default().dimensions(32)),
        ("One. Two. Three.", Embed::default().chunks(Chunking::Sentences)),
        ("Rows", Embed::task("separation").pooling(Pooling::None)),
    ]
}

/// A request that must fail: its text or ids, its options, and the words of its error.
type BadRequest = (
    &'static str,
    Result<&'static str, &'static [u32]>,
    Embed,
    &'static [&'static str],
);

fn bad_requests() -> Vec<BadRequest> {
    let text = Ok("One, two and three.");
    let spans = |spans: &[(usize, usize)]| Embed::default().chunks(Chunking::Spans(spans.to_vec()));
    let long: &str = "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h i j k l m n o p";
    vec![
        (
            "unknown task",
            text,
            Embed::task("translation"),
            &["`translation`", "retrieval.query", "text-matching"],
        ),
        (
            "unknown adapter",
            text,
            Embed::mixture([("nobody", 1.0)]),
            &["`nobody`", "separation"],
        ),
        (
            "NaN weight",
            text,
            Embed::mixture([("separation", f32::NAN)]),
            &["`separation`", "NaN", "finite"],
        ),
        (
            "Inf weight",
            text,
            Embed::mixture([("separation", f32::INFINITY)]),
            &["`separation`", "inf", "finite"],
        ),
        (
            "adapter twice",
            text,
            Embed::mixture([("separation", 0.5), ("separation", 0.5)]),
            &["`separation`", "twice"],
        ),
        (
            "no dimensions",
            text,
            Embed::default().dimensions(0),
            &["dimensions is 0", "1 to 64"],
        ),
        (
            "too many dimensions",
            text,
            Embed::default().dimensions(65).any_dimensions(true),
            &["dimensions is 65", "1 to 64"],
        ),
        (
            "absurd dimensions",
            text,
            Embed::default().dimensions(usize::MAX).any_dimensions(true),
            &["dimensions", "1 to 64"],
        ),
        (
            "untrained size",
            text,
            Embed::default().dimensions(33),
            &["dimensions is 33", "32 and 64", "any_dimensions"],
        ),
        (
            "binary of 12",
            text,
            Embed::default()
                .dimensions(12)
                .any_dimensions(true)
                .encoding(Encoding::Binary),
            &["multiple of 8", "12"],
        ),
        (
            "too long",
            Ok(long),
            Embed::default().truncate(false),
            &["tokens", "40", "allow truncation"],
        ),
        (
            "too many ids",
            Err(&[5; 41]),
            Embed::default().truncate(false),
            &["41 tokens", "40", "allow truncation"],
        ),
        ("no ids", Err(&[]), Embed::default(), &["no token ids"]),
        (
            "id past the vocabulary",
            Err(&[0, 160, 2]),
            Embed::default(),
            &["token id 160", "position 1", "vocabulary of 160"],
        ),
        (
            "id absurd",
            Err(&[u32::MAX]),
            Embed::default(),
            &["token id 4294967295", "position 0"],
        ),
        (
            "span outside",
            text,
            spans(&[(0, 3), (4, 20)]),
            &["[4, 20)", "19 code points"],
        ),
        (
            "span absurd",
            text,
            spans(&[(0, usize::MAX)]),
            &["[0, 18446744073709551615)", "19 code points"],
        ),
        ("span empty", text, spans(&[(3, 3)]), &["[3, 3)", "empty"]),
        ("span backwards", text, spans(&[(3, 1)]), &["[3, 1)"]),
        (
            "span of a space",
            text,
            spans(&[(4, 5)]),
            &["[4, 5)", "white space"],
        ),
        (
            "span of ids",
            Err(&[5; 4]),
            spans(&[(0, 5)]),
            &["[0, 5)", "4 tokens"],
        ),
        (
            "span of nothing",
            Ok(""),
            spans(&[(0, 1)]),
            &["[0, 1)", "0 code points"],
        ),
        (
            "chunks of 0",
            text,
            Embed::default().chunks(Chunking::Tokens(0)),
            &["chunks of 0 tokens", "1 or more"],
        ),
        (
            "sentences of ids",
            Err(&[5; 4]),
            Embed::default().chunks(Chunking::Sentences),
            &["no sentences", "spans"],
        ),
        (
            "chunks by CLS",
            text,
            Embed::default().chunks(Chunking::Sentences).pooling(Pooling::Cls),
            &["mean"],
        ),
        (
            "window too large",
            text,
            Embed::default().chunks(Chunking::Sentences).window(41).overlap(0),
            &["41", "1 to 40"],
        ),
        (
            "window of 0",
            text,
            Embed::default().chunks(Chunking::Sentences).window(0).overlap(0),
            &["0 tokens", "1 to 40"],
        ),
        (
            "all overlap",
            Ok(long),
            Embed::default().chunks(Chunking::Sentences).window(8).overlap(8),
            &["overlap by 8", "wanted up to"],
        ),
        (
            "absurd overlap",
            Ok(long),
            Embed::default()
                .chunks(Chunking::Sentences)
                .window(8)
                .overlap(usize::MAX),
            &["overlap"],
        ),
    ]
}

#[test]
fn bad_requests_are_refused_and_do_not_hurt_good_ones() {
    let engine = engine(&model(&tiny(Family::Jina)));
    let good = good();
    let bad = bad_requests();
    let request = |input: &Result<&'static str, &'static [u32]>, options| match *input {
        Ok(text) => Request::text(text, options),
        Err(ids) => Request::ids(ids, options),
    };
    let alone: Vec<Embedding> = good
        .iter()
        .map(|(text, options)| {
            engine
                .embed_batch(&[Request::text(*text, options)])
                .remove(0)
                .unwrap()
        })
        .collect();
    let mut table = Table::new("requests");
    for (case, input, options, words) in &bad {
        let request = request(input, options);
        table.refused(case, words, || engine.validate(&request));
        table.refused(case, words, || {
            engine.embed_batch(std::slice::from_ref(&request)).remove(0)
        });
    }
    table.finish();

    // All of them in one call, every bad one between two good ones.
    let mut requests = Vec::new();
    for (i, (_, input, options, _)) in bad.iter().enumerate() {
        let (text, good_options) = &good[i % good.len()];
        requests.extend([Request::text(*text, good_options), request(input, options)]);
    }
    let results = engine.embed_batch(&requests);
    assert_eq!(results.len(), requests.len());
    for (i, result) in results.iter().enumerate() {
        if i % 2 == 0 {
            let expected = &alone[i / 2 % good.len()];
            assert_eq!(result.as_ref().unwrap(), expected, "beside {}", bad[i / 2].0);
        } else {
            assert!(result.is_err(), "{}", bad[i / 2].0);
        }
    }
    // `embed` names the first bad text.
    let texts = ["short", "t ".repeat(99).leak()];
    let error = engine
        .embed(&texts, &Embed::default().truncate(false))
        .unwrap_err();
    assert!(matches!(error, Error::Input { index: 1, .. }), "{error}");
}

#[test]
fn requests_at_the_edges_are_served() {
    let engine = engine(&model(&tiny(Family::Jina)));
    let one = |request: Request<'_>| engine.embed_batch(&[request]).remove(0).unwrap();
    let default = Embed::default();

    assert!(engine.embed_batch(&[]).is_empty());
    assert!(engine.embed::<&str>(&[], &default).unwrap().is_empty());

    // Empty text is the embedding of the special tokens.
    let empty = one(Request::text("", &default));
    assert_eq!(empty, one(Request::ids(&[0u32, 2][..], &default)));
    assert_eq!((empty.tokens, empty.truncated), (2, false));
    let norm: f32 = empty.as_f32().unwrap().iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    let chunked = Embed::default().chunks(Chunking::Tokens(usize::MAX));
    assert_eq!(one(Request::text("", &chunked)).chunks().unwrap().len(), 1);

    // Any size when asked for, and whole bytes of bits.
    let three = Embed::default().dimensions(3).any_dimensions(true);
    assert_eq!(one(Request::text("x", &three)).as_f32().unwrap().len(), 3);
    let bits = Embed::default()
        .dimensions(16)
        .any_dimensions(true)
        .encoding(Encoding::Binary);
    let Output::Vector(ropeway::Vector::Binary(bytes)) = one(Request::text("x", &bits)).output else {
        panic!("not binary")
    };
    assert_eq!(bytes.len(), 2);

    // Cut at the limit, and said so; ids keep their first tokens.
    let cut = one(Request::text("word ".repeat(60), &default));
    assert_eq!((cut.tokens, cut.truncated), (40, true));
    let cut = one(Request::ids(vec![7u32; 41], &default));
    assert_eq!((cut.tokens, cut.truncated), (40, true));
    assert_eq!(
        cut.output,
        one(Request::ids(vec![7u32; 40], default.clone().truncate(false))).output
    );

    // No adapter at all: an empty mixture, and weights of zero.
    let base = one(Request::text("base", Embed::default()));
    for mixture in [vec![], vec![("separation", 0.0)], vec![("separation", -0.0)]] {
        assert_eq!(one(Request::text("base", Embed::mixture(mixture))), base);
    }

    // No chunks asked for: none come back.
    let none = Embed::default().chunks(Chunking::Spans(Vec::new()));
    assert!(
        one(Request::text("some text", &none))
            .chunks()
            .unwrap()
            .is_empty()
    );

    // A document past the context, in windows.
    let windows = Embed::default().chunks(Chunking::Tokens(7)).window(16).overlap(5);
    let document = one(Request::ids(vec![9u32; 100], &windows));
    assert_eq!((document.chunks().unwrap().len(), document.tokens), (15, 100));
    assert!(!document.truncated);
    // The default overlap is larger than this model's context; half the context is taken then.
    let default = Embed::default().chunks(Chunking::Tokens(7));
    let half = default.clone().window(40).overlap(20);
    let document = vec![9u32; 100];
    assert_eq!(
        one(Request::ids(&document, &default)),
        one(Request::ids(&document, &half))
    );
}

#[test]
fn a_model_without_a_tokenizer_serves_ids() {
    let spec = ModelSpec {
        tokenizer: false,
        ..tiny(Family::Jina)
    };
    let with = engine(&model(&tiny(Family::Jina)));
    let without = engine(&model(&spec));
    let default = Embed::default();
    let (text, ids) = (
        Request::text("x", &default),
        Request::ids(vec![0u32, 9, 2], &default),
    );
    let mut results = without.embed_batch(&[ids.clone(), text, ids.clone()]).into_iter();
    let mut next = || results.next().unwrap();
    let expected = with.embed_batch(&[ids]).remove(0).unwrap();
    assert_eq!(next().unwrap(), expected);
    let error = next().unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("ids"),
        "{error}"
    );
    assert_eq!(next().unwrap(), expected);
}
