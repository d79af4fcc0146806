//! Modules after pooling.

use std::fs;
use std::path::Path;

use ropeway::{Chunking, Embed, Output, Pooling};
use serde_json::json;

use crate::common::fixture::{Fixture, folder_of};
use crate::common::{Scratch, Table, set_key};
use crate::{engine, open};

/// A model with a dense module after pooling; the golden fixture has such ones that are sound.
fn with_dense(change: impl Fn(&Path)) -> Scratch {
    let fixture = Fixture::open("folders");
    let case = fixture
        .cases()
        .iter()
        .find(|case| case["name"] == "dense, normalised");
    let folder = folder_of(&fixture, case.unwrap());
    change(folder.path());
    folder
}

#[test]
fn modules_after_pooling_are_refused_by_what_is_wrong() {
    type Case = (&'static str, fn(&Path), &'static [&'static str]);
    let cases: [Case; 8] = [
        (
            "no weights",
            |m| fs::remove_file(m.join("2_Dense/model.safetensors")).unwrap(),
            &["2_Dense", "model.safetensors", "pytorch_model.bin", "safetensors"],
        ),
        (
            "pickled weights",
            |m| {
                let dense = m.join("2_Dense");
                fs::rename(dense.join("model.safetensors"), dense.join("pytorch_model.bin")).unwrap();
            },
            &["2_Dense", "pytorch_model.bin", "safe_serialization=True"],
        ),
        (
            "another width",
            |m| set_key(&m.join("2_Dense/config.json"), "in_features", json!(48)),
            &["a vector has 64 numbers", "wants 48"],
        ),
        (
            "another shape",
            |m| set_key(&m.join("2_Dense/config.json"), "out_features", json!(33)),
            &["2_Dense", "linear.weight", "[32, 64]", "[33, 64]"],
        ),
        (
            "another activation",
            |m| {
                let name = json!("torch.nn.modules.activation.SELU");
                set_key(&m.join("2_Dense/config.json"), "activation_function", name);
            },
            &["2_Dense/config.json", "activation.SELU", "Tanh"],
        ),
        (
            "another input",
            |m| {
                set_key(
                    &m.join("2_Dense/config.json"),
                    "module_input_name",
                    json!("token_embeddings"),
                )
            },
            &["2_Dense/config.json", "module_input_name"],
        ),
        (
            "no size",
            |m| set_key(&m.join("2_Dense/config.json"), "out_features", json!(0)),
            &["2_Dense/config.json", "out_features is 0"],
        ),
        (
            "no configuration",
            |m| fs::remove_file(m.join("2_Dense/config.json")).unwrap(),
            &["2_Dense/config.json", "No such file"],
        ),
    ];
    let mut table = Table::new("modules after pooling");
    for (name, change, words) in cases {
        let folder = with_dense(change);
        table.refused(name, words, || open(folder.path()));
    }
    table.finish();
    // A pooling of another width than the module takes is the request's fault, and the model's own still serves.
    let folder = with_dense(|m| {
        set_key(
            &m.join("1_Pooling/config.json"),
            "pooling_mode",
            json!(["cls", "max"]),
        );
        set_key(&m.join("2_Dense/config.json"), "in_features", json!(128));
        let dense = Fixture::open("folders");
        let two = dense
            .cases()
            .iter()
            .find(|case| case["name"] == "dense after two poolings");
        let other = folder_of(&dense, two.unwrap());
        fs::copy(
            other.path().join("2_Dense/model.safetensors"),
            m.join("2_Dense/model.safetensors"),
        )
        .unwrap();
    });
    let engine = engine(folder.path());
    assert_eq!(engine.config().embedding_size(), 32);
    let own = engine.embed(&["a"], &Embed::default()).unwrap();
    assert_eq!(own[0].as_f32().unwrap().len(), 32);
    let tokens = engine
        .embed(&["a"], &Embed::default().pooling(Pooling::None))
        .unwrap();
    assert!(matches!(&tokens[0].output, Output::Tokens(rows) if rows[0].as_f32().unwrap().len() == 64));
    let one = engine
        .embed(&["a"], &Embed::default().pooling(Pooling::Mean))
        .unwrap_err();
    assert!(one.to_string().contains("would have 64 numbers"), "{one}");
    let chunks = Embed::default().chunks(Chunking::Tokens(4));
    let chunks = engine.embed(&["a b c d e"], &chunks).unwrap_err();
    assert!(
        chunks.to_string().contains("chunks are pooled by their mean"),
        "{chunks}"
    );
}
