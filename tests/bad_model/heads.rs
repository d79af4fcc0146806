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

#[test]
fn chunks_go_through_the_modules_too() {
    let folder = with_dense(|_| {});
    let engine = engine(folder.path());
    let text = "The upper station stands at 2,841 metres.";
    let whole = engine.embed(&[text], &Embed::default()).unwrap();
    let whole = whole[0].as_f32().unwrap();
    let chunks = |options: Embed| {
        let embedded = engine.embed(&[text], &options).unwrap().remove(0);
        let chunks = embedded.into_chunks().unwrap().into_iter();
        chunks
            .map(|chunk| chunk.vector.into_f32().unwrap())
            .collect::<Vec<_>>()
    };
    // One chunk of all tokens is the text, whether in one window or, with other neighbours of each token, in several.
    let one = chunks(Embed::default().chunks(Chunking::Tokens(1000)));
    assert_eq!(one.len(), 1);
    let off = |a: &[f32]| {
        a.iter()
            .zip(whole)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    };
    assert!(one[0].len() == 32 && off(&one[0]) < 1e-6, "{}", off(&one[0]));
    let windows = chunks(
        Embed::default()
            .chunks(Chunking::Tokens(1000))
            .window(8)
            .overlap(2),
    );
    assert!(windows.len() == 1 && windows[0].len() == 32);
    let cosine: f32 = windows[0].iter().zip(whole).map(|(a, b)| a * b).sum();
    assert!(cosine > 0.9, "{cosine}");
    let cut = chunks(
        Embed::default()
            .chunks(Chunking::Tokens(1000))
            .dimensions(5)
            .any_dimensions(true),
    );
    assert_eq!(cut[0].len(), 5);
}
