//! Weight files, whole or in shards: broken headers, wrong tensors, numbers that are not finite.

use std::fs;
use std::path::Path;

use model_maker::{Family, ModelSpec};
use serde_json::{Value, json};

use crate::common::{Scratch, Table, edit_bytes, edit_header, edit_json, edit_tensors, model, set_key, tiny};
use crate::{break_model, engine, weights};

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
                        let (header, data) = crate::common::split(bytes);
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
                "layers past the configuration's",
                |m| set_key(&m.join("config.json"), "num_hidden_layers", json!(1)),
                &["encoder.layer.1.", "num_hidden_layers", "is 1", "set it to 2"],
            ),
            (
                "the last layer that there can be",
                |m| {
                    edit_tensors(&weights(m), |t| {
                        let bias = t["encoder.layer.1.output.dense.bias"].clone();
                        drop(t.insert(format!("encoder.layer.{}.output.dense.bias", usize::MAX), bias))
                    })
                },
                &[
                    "encoder.layer.18446744073709551615.output.dense.bias",
                    "num_hidden_layers",
                    "is 2",
                ],
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
