//! What the engine says beside its results.

use std::fs;

use half::bf16;
use serde_json::{Value, json};

use crate::harness::{command, finish, ropeway, write_model};

#[test]
fn warnings_are_shown_and_more_or_less_on_request() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    write_model(&folder);
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["frobnication\u{1b}[0m"] = json!(3);
    fs::write(&path, config.to_string()).unwrap();
    let embed = ["embed", "a warm coat", "--model", folder.to_str().unwrap()];
    let run = |more: &[&str]| {
        let ended = ropeway(&[&embed[..], more].concat(), b"");
        assert_eq!(
            (ended.code, ended.out.lines().count()),
            (Some(0), 1),
            "{}",
            ended.err
        );
        ended.err
    };
    let said = run(&[]);
    assert!(
        said.starts_with("ropeway: warning: settings that are not known"),
        "{said}"
    );
    assert!(
        said.contains("frobnication") && !said.contains('\u{1b}'),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(run(&["--quiet"]), "");
    assert_eq!(run(&["--log-level", "off"]), "");
    let more = run(&["--log-level", "debug"]);
    assert!(more.contains("ropeway: batch (sequences: 1, tokens: "), "{more}");
    ropeway(&["devices", "--log-level", "loud"], b"").fails(2, &["loud", "--log-level"]);
    let mut from_environment = command(&embed);
    from_environment.env("ROPEWAY_LOG", "error");
    assert_eq!(finish(from_environment, b"").err, "");
}

/// A weight in whose rows one number is forty times the others, which int8 would have share its step.
#[test]
fn weights_that_int8_would_ruin_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("model");
    write_model(&folder);
    let run = |precision| {
        let model = folder.to_str().unwrap();
        let arguments = [
            "embed",
            "a warm coat",
            "--device",
            "cpu",
            "--precision",
            precision,
            "-m",
            model,
        ];
        let ended = ropeway(&arguments, b"");
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.err
    };
    assert_eq!(run("int8"), "");
    let file = folder.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let start = bytes.as_ptr() as usize;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let is_fc1 = |(name, _): &(String, safetensors::tensor::TensorView<'_>)| {
        name.contains("mlp.fc1") && name.ends_with("weight.original")
    };
    let (name, tensor) = tensors.tensors().into_iter().find(is_fc1).unwrap();
    let width = tensor.shape()[1] * 2;
    let first = tensor.data().as_ptr() as usize - start;
    let data = first..first + tensor.data().len();
    for row in bytes[data].chunks_exact_mut(width) {
        let numbers = row.as_chunks::<2>().0.iter();
        let square = |x: &[u8; 2]| bf16::from_le_bytes(*x).to_f32().powi(2);
        let mean = numbers.map(square).sum::<f32>() * 2.0 / width as f32;
        row[..2].copy_from_slice(&bf16::from_f32(40.0 * mean.sqrt()).to_le_bytes());
    }
    fs::write(&file, bytes).unwrap();
    let said = run("int8");
    assert!(said.starts_with("ropeway: warning: int8 rounds"), "{said}");
    assert!(said.contains(&name) && said.lines().count() == 1, "{said}");
    assert_eq!(run("bf16"), "");
}
