//! Adapters: those of the checkpoint, stacked or in folders, and those of users.

use std::fs;
use std::path::Path;

use model_maker::{Family, Layout, ModelSpec};
use ropeway::Embed;
use serde_json::{Value, json};

use crate::common::{Scratch, Table, Tensor, edit_bytes, edit_json, edit_tensors, model, set_key, tiny};
use crate::{Breakage, bad_keys, break_model, engine, weights};

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
