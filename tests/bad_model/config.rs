//! `config.json` and the files that sentence-transformers puts beside it.

use std::fs;

use model_maker::Family;
use serde_json::{Value, json};

use crate::common::{set_key, tiny};
use crate::{bad_keys, break_model};

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
                    let modules = json!([{"type": "sentence_transformers.models.CNN", "path": "1_CNN"}]);
                    fs::write(m.join("modules.json"), modules.to_string()).unwrap();
                },
                &["modules.json", "CNN module"],
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
                    set_key(&m.join("1_Pooling/config.json"), "pooling_mode", json!("median"));
                },
                &[
                    "1_Pooling/config.json",
                    "\"median\" is not supported",
                    "cls, max, mean",
                ],
            ),
            (
                "many poolings",
                |m| {
                    let nine = json!(vec!["mean"; 9]);
                    set_key(&m.join("1_Pooling/config.json"), "pooling_mode", nine);
                },
                &["1_Pooling/config.json", "names 9 pooling modes", "1 to 8"],
            ),
            (
                "no pooling",
                |m| fs::write(m.join("1_Pooling/config.json"), "{}").unwrap(),
                &["1_Pooling/config.json", "names 0 pooling modes"],
            ),
            (
                "pooling elsewhere",
                |m| {
                    fs::write(
                        m.join("modules.json"),
                        r#"[{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "sentence_transformers.models.Pooling", "path": "../1_Pooling"}]"#,
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
