//! Numbers that make nonsense: not finite, or so large that all texts become one.

use std::path::Path;

use model_maker::{Family, Layout, ModelSpec};
use ropeway::{AdapterError, Chunking, Embed, Encoding, Error, Pooling, Request, RequestError};
use serde_json::json;

use crate::common::{Scratch, Table, copy_folder, edit_tensors, model, set_key, tiny};
use crate::{engine, open, weights};

/// A name, what breaks a folder, and what is said of it.
type Case = (&'static str, fn(&Path), &'static str);

const A: &str = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight";

#[test]
fn a_number_that_is_not_finite_is_an_error_when_a_model_opens() {
    let mut table = Table::new("not finite");
    for name in [
        "encoder.layer.0.intermediate.dense.bias",
        "encoder.layer.1.intermediate.dense.weight",
        "encoder.layer.0.attention.self.value.weight",
        "encoder.layer.1.output.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
        "embeddings.token_type_embeddings.weight",
    ] {
        for number in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN] {
            let scratch = Scratch::model(&tiny(Family::Bert));
            edit_tensors(&weights(scratch.path()), |t| {
                t.get_mut(name).unwrap().set(5, number)
            });
            let words = ["model.safetensors", name, &number.to_string(), "index 5"];
            table.refused(&format!("{name}: {number}"), &words, || open(scratch.path()));
        }
    }
    table.finish();
}

/// Multiplies every number of a tensor.
fn scale(file: &Path, name: &str, by: f32) {
    edit_tensors(file, |tensors| {
        let tensor = tensors.get_mut(name).unwrap();
        let numbers: Vec<f32> = tensor
            .bytes
            .chunks_exact(4)
            .map(|b| by * f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        numbers
            .into_iter()
            .enumerate()
            .for_each(|(i, x)| tensor.set(i, x));
    });
}

/// The last LayerNorm scales what is pooled.
fn with_outputs_times(factor: f32) -> Scratch {
    let scratch = Scratch::model(&tiny(Family::Bert));
    for part in ["weight", "bias"] {
        let name = format!("encoder.layer.1.output.LayerNorm.{part}");
        scale(&weights(scratch.path()), &name, factor);
    }
    scratch
}

#[test]
fn vectors_are_normalised_whatever_their_size() {
    let embed = |folder: &Path| {
        let embedding = engine(folder).embed(&["Some text."], &Embed::default());
        embedding.unwrap().remove(0).into_f32().unwrap()
    };
    let plain = embed(with_outputs_times(1.0).path());
    for factor in [1e-35, 1e-30, 1e-20, 1e10, 1e19, 1e30] {
        let scaled = embed(with_outputs_times(factor).path());
        let error = scaled.iter().zip(&plain).map(|(x, y)| (x - y).abs());
        let error = error.fold(0f32, f32::max);
        assert!(error < 1e-5, "{factor:e}: {error}");
    }
}

#[test]
fn numbers_that_an_encoding_cannot_hold_are_an_error() {
    let scratch = with_outputs_times(1e6);
    let engine = engine(scratch.path());
    let raw = Embed::default().normalize(false);
    for pooling in [None, Some(Pooling::None), Some(Pooling::Max)] {
        let options = raw.clone().pooling(pooling).encoding(Encoding::F16);
        let request = Request::text("Some text.", options);
        let error = engine.embed_batch(&[request]).remove(0).unwrap_err();
        let fits = matches!(
            &error,
            Error::Request(RequestError::DoesNotFit { encoding: "float16" })
        );
        assert!(fits, "{error}");
        assert!(error.to_string().contains("ask for f32"), "{error}");
    }
    let chunks = raw.clone().chunks(Chunking::Tokens(2)).encoding(Encoding::F16);
    assert!(engine.embed(&["Some text."], &chunks).is_err());
    engine.embed(&["Some text."], &raw).unwrap();
    let normalised = Embed::default().encoding(Encoding::F16);
    engine.embed(&["Some text."], &normalised).unwrap();
    // One input's numbers are not another's.
    let requests = [
        Request::text("Some text.", raw.encoding(Encoding::F16)),
        Request::text("Some text.", normalised),
    ];
    let results = engine.embed_batch(&requests);
    assert!(results[0].is_err() && results[1].is_ok());
}

#[test]
fn an_adapter_out_of_all_proportion_is_refused_with_the_numbers() {
    let base = model(&tiny(Family::Bert));
    let engine = engine(&base);
    let mut table = Table::new("proportion");
    let cases: [Case; 4] = [
        (
            "alpha",
            |a| set_key(&a.join("adapter_config.json"), "lora_alpha", json!(1e20)),
            "layer 0",
        ),
        (
            "alpha, downwards",
            |a| set_key(&a.join("adapter_config.json"), "lora_alpha", json!(-1e9)),
            "layer 0",
        ),
        (
            "a factor",
            |a| scale(&a.join("adapter_model.safetensors"), A, 1e9),
            "the Qkv weight of layer 0",
        ),
        (
            "a table",
            |a| {
                let name = "base_model.model.embeddings.word_embeddings.lora_embedding_B";
                scale(&a.join("adapter_model.safetensors"), name, 1e9);
            },
            "the word embeddings",
        ),
    ];
    for (case, damage, target) in cases {
        let adapter = Scratch::adapter(&base, &["query", "word_embeddings"]);
        damage(adapter.path());
        let words = [
            "adapter `large`",
            target,
            "has norm",
            "e",
            "1000 times",
            "lora_alpha",
        ];
        table.refused(case, &words, || engine.add_adapter("large", adapter.path()));
    }
    table.finish();
    // Large, and in proportion.
    let adapter = Scratch::adapter(&base, &["query"]);
    set_key(
        &adapter.path().join("adapter_config.json"),
        "lora_alpha",
        json!(64),
    );
    engine.add_adapter("fine", adapter.path()).unwrap();
    assert_eq!(engine.adapters(), ["fine"]);
}

#[test]
fn a_models_own_adapters_are_held_to_the_same() {
    let stacked = Scratch::model(&tiny(Family::Jina));
    set_key(&stacked.path().join("config.json"), "lora_alpha", json!(1e20));
    let native = Scratch::model(&ModelSpec {
        layout: Layout::Native,
        ..tiny(Family::Jina)
    });
    set_key(
        &native.path().join("separation/adapter_config.json"),
        "lora_alpha",
        json!(1e20),
    );
    for scratch in [stacked, native] {
        match open(scratch.path()).unwrap_err() {
            Error::Adapter {
                problem:
                    AdapterError::TooLarge {
                        change,
                        weight,
                        limit,
                        ..
                    },
                ..
            } => assert!(change > limit * weight && weight > 0.0, "{change} {weight}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn outputs_that_make_no_sense_are_found() {
    for (family, layout) in [
        (Family::Bert, Layout::Hub),
        (Family::XlmRoberta, Layout::Hub),
        (Family::Jina, Layout::Hub),
        (Family::Jina, Layout::Native),
    ] {
        let spec = ModelSpec {
            layout,
            ..tiny(family)
        };
        engine(&model(&spec)).verify_outputs().unwrap();
    }
    let cases: [Case; 5] = [
        (
            "a bias that outweighs all else",
            |m| {
                edit_tensors(&weights(m), |t| {
                    t.get_mut("encoder.layer.1.output.LayerNorm.bias")
                        .unwrap()
                        .set(7, 1e4)
                })
            },
            "the same vector for different inputs",
        ),
        (
            "biases of a hidden layer that outweigh all else",
            |m| {
                edit_tensors(&weights(m), |t| {
                    let bias = t.get_mut("encoder.layer.1.intermediate.dense.bias").unwrap();
                    (0..bias.shape[0]).for_each(|i| bias.set(i, 1e4));
                })
            },
            "the same vector for different inputs",
        ),
        (
            "a bias near the largest number",
            |m| {
                edit_tensors(&weights(m), |t| {
                    t.get_mut("encoder.layer.1.output.dense.bias")
                        .unwrap()
                        .set(7, 1e18)
                })
            },
            "the same vector for different inputs",
        ),
        (
            "a bias that overflows",
            |m| {
                edit_tensors(&weights(m), |t| {
                    t.get_mut("encoder.layer.1.output.dense.bias")
                        .unwrap()
                        .set(7, 3e38)
                })
            },
            "",
        ),
        (
            "zeros",
            |m| {
                scale(&weights(m), "encoder.layer.1.output.LayerNorm.weight", 0.0);
                scale(&weights(m), "encoder.layer.1.output.LayerNorm.bias", 0.0);
            },
            "vectors of zeros",
        ),
    ];
    let mut table = Table::new("outputs");
    for (case, damage, said) in cases {
        let scratch = Scratch::model(&tiny(Family::Bert));
        damage(scratch.path());
        // Every number is finite: only what they come to is wrong.
        ropeway::model::verify(scratch.path()).unwrap();
        let words = ["the model gives", said, "far too large"];
        table.refused(case, &words, || engine(scratch.path()).verify_outputs());
    }
    table.finish();
}

#[test]
fn a_mixture_has_the_same_bits_whatever_was_loaded_before_it() {
    let base = model(&tiny(Family::Bert));
    let folders: Vec<Scratch> = [
        ["query", "word_embeddings"],
        ["query", "intermediate.dense"],
        ["query", "value"],
    ]
    .iter()
    .enumerate()
    .map(|(i, targets)| {
        let adapter = Scratch::adapter(&base, targets);
        let config = adapter.path().join("adapter_config.json");
        set_key(&config, "lora_alpha", json!(7 + 5 * i));
        let copy = Scratch::empty();
        copy_folder(adapter.path(), copy.path());
        copy
    })
    .collect();
    let names = ["c", "a", "b"];
    let embed = |order: [usize; 3], parts: [usize; 3]| {
        let engine = engine(&base);
        for i in order {
            engine.add_adapter(names[i], folders[i].path()).unwrap();
        }
        let parts = parts.map(|i| (names[i], [0.3, 0.7, -1.1][i]));
        engine
            .embed(&["The order in which they were loaded."], &Embed::mixture(parts))
            .unwrap()
    };
    let expected = embed([0, 1, 2], [0, 1, 2]);
    for order in [[0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
        for parts in [[0, 1, 2], [2, 0, 1]] {
            assert_eq!(embed(order, parts), expected, "{order:?} {parts:?}");
        }
    }
}

#[test]
fn other_loaded_adapters_change_no_bit() {
    let base = model(&tiny(Family::Bert));
    let adapter = Scratch::adapter(&base, &["query", "value", "word_embeddings"]);
    let engine = engine(&base);
    let embed = || {
        engine
            .embed(&["Some text."], &Embed::mixture([("x", 0.7), ("y", -0.2)]))
            .unwrap()
    };
    engine.add_adapter("y", adapter.path()).unwrap();
    engine.add_adapter("x", adapter.path()).unwrap();
    let before = embed();
    for i in 0..40 {
        engine.add_adapter(&format!("other{i}"), adapter.path()).unwrap();
    }
    assert_eq!(embed(), before);
    engine.remove_adapter("y").unwrap();
    engine.add_adapter("y", adapter.path()).unwrap();
    assert_eq!(embed(), before);
}
