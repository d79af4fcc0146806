//! Every key of `adapter_config.json`: used, without effect, or refused by name.

use std::fs;

use model_maker::Family;
use serde_json::{Value, json};

use crate::common::{Scratch, Table, edit_json, edit_tensors, model, tiny};
use crate::engine;

const ADAPTER: &str = "adapter_config.json";

/// The keys that PEFT 0.7, 0.13, 0.17 and 0.21 write for LoRA, with values that leave it plain: the defaults first.
fn plain_adapter_settings() -> Vec<(&'static str, Vec<Value>)> {
    let null = || vec![json!(null)];
    let off = || vec![json!(false), json!(null)];
    let empty = || vec![json!(null), json!([]), json!({})];
    vec![
        ("alora_invocation_tokens", null()),
        ("alpha_pattern", vec![json!({}), json!(null)]),
        ("arrow_config", null()),
        (
            "auto_mapping",
            vec![json!(null), json!({"base_model_class": "BertModel"})],
        ),
        ("base_model_name_or_path", vec![json!("x/y"), json!(null)]),
        ("bias", vec![json!("none"), json!(null)]),
        ("corda_config", vec![json!(null), json!({"corda_method": "ipm"})]),
        ("ensure_weight_tying", off()),
        ("eva_config", vec![json!(null), json!({"rho": 2.0})]),
        (
            "exclude_modules",
            vec![json!(null), json!([]), json!(["key"]), json!(r".*\.key")],
        ),
        ("fan_in_fan_out", off()),
        ("inference_mode", vec![json!(true), json!(false)]),
        (
            "init_lora_weights",
            vec![
                json!(true),
                json!(false),
                json!("gaussian"),
                json!("eva"),
                json!("orthogonal"),
                json!("mica"),
            ],
        ),
        ("kasa_config", null()),
        ("layer_replication", null()),
        ("layers_pattern", vec![json!(null), json!([]), json!("")]),
        ("layers_to_transform", vec![json!(null), json!([0, 1]), json!([])]),
        ("loftq_config", vec![json!({}), json!({"loftq_bits": 4})]),
        ("lora_alpha", vec![json!(1), json!(16), json!(0.5)]),
        ("lora_bias", off()),
        ("lora_dropout", vec![json!(0.0), json!(0.1)]),
        ("lora_ga_config", vec![json!(null), json!({"direction": "ArB2r"})]),
        ("megatron_config", null()),
        ("megatron_core", vec![json!("megatron.core")]),
        ("modules_to_save", empty()),
        ("monteclora_config", null()),
        ("peft_type", vec![json!("LORA")]),
        ("peft_version", vec![json!("0.21.2")]),
        ("qalora_group_size", vec![json!(16)]),
        ("r", vec![json!(2)]),
        ("rank_pattern", vec![json!({}), json!(null)]),
        ("revision", vec![json!(null), json!("main")]),
        ("runtime_config", vec![json!({"ephemeral_gpu_offload": true})]),
        (
            "target_modules",
            vec![
                json!(["value", "query"]),
                json!(r".*\.(query|value)"),
                json!("all-linear"),
                json!(null),
            ],
        ),
        ("target_parameters", empty()),
        ("task_type", vec![json!(null), json!("FEATURE_EXTRACTION")]),
        ("trainable_token_indices", empty()),
        ("use_bdlora", null()),
        ("use_dora", off()),
        ("use_qalora", off()),
        ("use_rslora", vec![json!(false), json!(true), json!(null)]),
        ("velora_config", vec![json!(null), json!({"num_groups": 64})]),
        // Not PEFT's: off, or known to have no effect.
        (
            "a_key_of_tomorrow",
            vec![json!(null), json!(false), json!([]), json!({}), json!("")],
        ),
        ("unsloth_fixed", vec![json!(true)]),
    ]
}

#[test]
fn plain_lora_is_taken_with_every_key_that_peft_writes() {
    let base = model(&tiny(Family::Bert));
    let engine = engine(&base);
    let adapter = Scratch::adapter(&base, &["query", "value"]);
    let config = adapter.path().join(ADAPTER);
    let settings = plain_adapter_settings();
    edit_json(&config, |json| {
        for (key, values) in &settings {
            json.insert((*key).into(), values[0].clone());
        }
    });
    let whole = fs::read(&config).unwrap();
    for (key, values) in &settings {
        for value in values {
            edit_json(&config, |json| drop(json.insert((*key).into(), value.clone())));
            if let Err(error) = engine.add_adapter("plain", adapter.path()) {
                panic!("{key} = {value}: {error}");
            }
            engine.remove_adapter("plain").unwrap();
            fs::write(&config, &whole).unwrap();
        }
    }
}

/// PEFT takes query and value of these models where no modules are named, and drops factors of others.
#[test]
fn modules_that_are_not_named_are_those_of_the_models_type() {
    let mut table = Table::new("target_modules");
    for family in [Family::Bert, Family::XlmRoberta] {
        let base = model(&tiny(family));
        let engine = engine(&base);
        for value in [json!(null), json!(false)] {
            let adapter = Scratch::adapter(&base, &["query", "key"]);
            let config = adapter.path().join(ADAPTER);
            edit_json(&config, |json| match &value {
                Value::Null => drop(json.insert("target_modules".into(), json!(null))),
                _ => drop(json.shift_remove("target_modules")),
            });
            let words = ["attention.self.key", "target_modules"];
            table.refused(&format!("{family:?} {value}"), &words, || {
                engine.add_adapter("odd", adapter.path())
            });
        }
    }
    let base = model(&tiny(Family::Jina));
    let adapter = Scratch::adapter(&base, &["q_proj"]);
    edit_json(&adapter.path().join(ADAPTER), |json| {
        drop(json.shift_remove("target_modules"));
    });
    let engine = engine(&base);
    table.refused("no default", &[ADAPTER, "target_modules is missing"], || {
        engine.add_adapter("odd", adapter.path())
    });
    table.finish();
}

/// Names that PEFT matches with no module of the model.
#[test]
fn factors_of_other_names_are_refused() {
    let mut table = Table::new("factors");
    let base = model(&tiny(Family::Bert));
    let engine = engine(&base);
    let linear = "base_model.model.encoder.layer.1.attention.self.query";
    let table_of = "base_model.model.embeddings.word_embeddings";
    let renames: [(&str, &str, &str, &str); 6] = [
        (linear, ".lora_A.weight", ".lora_embedding_A", "an embedding"),
        (linear, ".lora_B.weight", ".lora_embedding_B", "an embedding"),
        (table_of, ".lora_embedding_A", ".lora_A.weight", "a linear layer"),
        (linear, "layer.1.", "layer.+1.", "is not a LoRA factor"),
        (linear, "layer.1.", "layer.01.", "is not a LoRA factor"),
        (linear, "layer.1.", "layer.-1.", "is not a LoRA factor"),
    ];
    for (module, from, to, words) in renames {
        let adapter = Scratch::adapter(&base, &["query", "word_embeddings"]);
        edit_tensors(&adapter.path().join("adapter_model.safetensors"), |tensors| {
            let names: Vec<String> = tensors.keys().cloned().collect();
            for name in names
                .iter()
                .filter(|name| name.starts_with(module) && name.contains(from))
            {
                let tensor = tensors.remove(name).unwrap();
                tensors.insert(name.replace(from, to), tensor);
            }
        });
        table.refused(&format!("{from} {to}"), &[words], || {
            engine.add_adapter("odd", adapter.path())
        });
    }
    table.finish();
}

/// A text as target_modules says by itself which layers it means, and every linear layer is no embedding.
#[test]
fn settings_that_peft_does_not_take_together_are_refused() {
    let mut table = Table::new("settings together");
    let base = model(&tiny(Family::Bert));
    let engine = engine(&base);
    let cases = [
        (
            json!({"target_modules": ".*", "layers_to_transform": [0, 1]}),
            "layers_to_transform",
        ),
        (
            json!({"target_modules": "all-linear", "layers_to_transform": 0}),
            "layers_to_transform",
        ),
        (
            json!({"target_modules": ".*", "layers_to_transform": [0, 1], "layers_pattern": "layer"}),
            "target_modules",
        ),
        (
            json!({"target_modules": "all-linear", "layers_pattern": ["layer"]}),
            "layers_pattern",
        ),
        (json!({"target_modules": "all-linear"}), "word_embeddings"),
    ];
    for (settings, word) in cases {
        let adapter = Scratch::adapter(&base, &["query", "word_embeddings"]);
        edit_json(&adapter.path().join(ADAPTER), |json| {
            json.extend(settings.as_object().unwrap().clone())
        });
        table.refused(&settings.to_string(), &[word, "PEFT"], || {
            engine.add_adapter("odd", adapter.path())
        });
    }
    table.finish();
    let adapter = Scratch::adapter(&base, &["query", "value"]);
    edit_json(&adapter.path().join(ADAPTER), |json| {
        json.insert("target_modules".into(), json!(["query", "value"]));
        json.insert("layers_to_transform".into(), json!([0, 1]));
        json.insert("layers_pattern".into(), json!("layer"));
    });
    engine.add_adapter("sound", adapter.path()).unwrap();
}

#[test]
fn what_is_not_plain_lora_is_refused_by_its_key() {
    let base = model(&tiny(Family::Bert));
    let engine = engine(&base);
    let adapter = Scratch::adapter(&base, &["query", "value"]);
    let config = adapter.path().join(ADAPTER);
    let whole = fs::read(&config).unwrap();
    let cases = [
        (
            "alora_invocation_tokens",
            vec![json!([5, 6]), json!([]), json!("x")],
        ),
        ("alpha_pattern", vec![json!({"query": 4}), json!(4)]),
        ("arrow_config", vec![json!({"top_k": 3})]),
        ("bias", vec![json!("all"), json!("lora_only"), json!(true)]),
        (
            "exclude_modules",
            vec![
                json!(["query"]),
                json!(r".*\.query"),
                json!(7),
                json!([7]),
                json!("("),
            ],
        ),
        ("fan_in_fan_out", vec![json!(true), json!(1), json!("true")]),
        (
            "init_lora_weights",
            vec![
                json!("pissa"),
                json!("pissa_niter_16"),
                json!("olora"),
                json!("corda"),
                json!("loftq"),
                json!("lora_ga"),
                json!("unheard of"),
                json!(1),
            ],
        ),
        ("kasa_config", vec![json!({"beta": 1e-4})]),
        ("layer_replication", vec![json!([[0, 2]])]),
        ("layers_pattern", vec![json!(5), json!("layer"), json!(["layer"])]),
        (
            "layers_to_transform",
            vec![json!([0]), json!(1), json!("0"), json!([-1])],
        ),
        (
            "lora_alpha",
            vec![json!("16"), json!(null), json!(true), json!(1e300)],
        ),
        ("lora_bias", vec![json!(true), json!("false")]),
        ("megatron_config", vec![json!({"a": 1})]),
        ("modules_to_save", vec![json!(["pooler"]), json!("pooler")]),
        ("monteclora_config", vec![json!({"num_samples": 8})]),
        ("peft_type", vec![json!("ADALORA"), json!(1), json!(null)]),
        ("r", vec![json!(0), json!("2"), json!(2.0), json!(true)]),
        ("rank_pattern", vec![json!({"query": 4})]),
        (
            "target_modules",
            vec![
                json!(["value"]),
                json!([]),
                json!(r".*\.key"),
                json!(""),
                json!("query"),
                json!(2),
            ],
        ),
        ("target_parameters", vec![json!(["a.b"])]),
        (
            "trainable_token_indices",
            vec![json!([1, 2]), json!({"word_embeddings": [1]})],
        ),
        ("use_bdlora", vec![json!({"nblocks": 2})]),
        ("use_dora", vec![json!(true), json!(1), json!("true"), json!(0)]),
        ("use_qalora", vec![json!(true)]),
        ("use_rslora", vec![json!("true"), json!(1), json!([])]),
        (
            "a_key_of_tomorrow",
            vec![json!(true), json!(0), json!("on"), json!([0]), json!({"a": 1})],
        ),
    ];
    let mut table = Table::new(ADAPTER);
    for (key, values) in cases {
        for value in values {
            edit_json(&config, |json| drop(json.insert(key.into(), value.clone())));
            table.refused(&format!("{key} = {value}"), &[key, "adapter_config.json"], || {
                engine.add_adapter("odd", adapter.path())
            });
            fs::write(&config, &whole).unwrap();
        }
    }
    table.finish();
    assert!(engine.adapters().is_empty());
}
