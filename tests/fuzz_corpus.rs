//! The fuzz targets `model`, `adapter` and `hub`: their committed corpus, and mutations of it.

mod common;
mod fuzz_bodies;
#[path = "fuzz_bodies/replay.rs"]
mod replay;

use std::fs;
use std::path::{Path, PathBuf};

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
    replay_and_mutate("hub", fuzz_bodies::hub, |random, input, other| {
        let (json, head) = fuzz_bodies::split(input);
        let (other_json, other_head) = fuzz_bodies::split(other);
        match random.below(2) {
            0 => fuzz_bodies::join(&mutate(random, json, other_json), head),
            _ => fuzz_bodies::join(json, &mutate(random, head, other_head)),
        }
    });
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
    put_model(
        "xlm-roberta-f16",
        &ModelSpec {
            dtype: Dtype::F16,
            ..spec(Family::XlmRoberta)
        },
        |_| {},
    );
    fn weights(m: &Path) -> PathBuf {
        m.join("model.safetensors")
    }
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
}
