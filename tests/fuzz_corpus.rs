//! The fuzz targets' committed corpus, and mutations of it from a fixed seed, on stable Rust.
//!
//! `ROPEWAY_FUZZ_SECONDS=300 cargo test --test fuzz_corpus` mutates for that long, from another seed each time.

mod common;
mod fuzz_bodies;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use common::{Scratch, edit_bytes, edit_header, edit_json, edit_tensors, set_key};
use model_maker::{Dtype, Family, Layout, ModelSpec};
use serde_json::json;

/// Mutations of each target in a normal run.
const MUTATIONS: usize = 2000;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tools/fuzz/corpus")
        .join(target)
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into(),
                fs::read(path).unwrap(),
            )
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

/// Replays the corpus, then mutates it. An input that fails is kept for a look.
fn replay_and_mutate(target: &str, body: fn(&[u8]), files: bool) {
    let seeds = seeds(target);
    let check = |what: &str, input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{target}"));
            fs::write(&kept, input).unwrap();
            panic!("{target}: {what} fails; it is kept as {}", kept.display());
        }
    };
    for (name, seed) in &seeds {
        check(name, seed);
    }
    let seconds: Option<u64> = std::env::var("ROPEWAY_FUZZ_SECONDS")
        .ok()
        .map(|s| s.parse().unwrap());
    let mut random = Random(match seconds {
        None => 0x9E37_79B9_7F4A_7C15,
        Some(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
    });
    let start = Instant::now();
    let mut count = 0;
    while match seconds {
        None => count < MUTATIONS,
        Some(seconds) => start.elapsed() < Duration::from_secs(seconds),
    } {
        let (name, seed) = &seeds[random.below(seeds.len())];
        let (_, other) = &seeds[random.below(seeds.len())];
        let input = if files {
            mutate_files(&mut random, seed, other)
        } else {
            mutate(&mut random, seed.clone(), other)
        };
        check(&format!("mutation {count} of {name}"), &input);
        count += 1;
    }
    println!(
        "{target}: {} seeds, {count} mutations in {:?}",
        seeds.len(),
        start.elapsed()
    );
    #[cfg(target_os = "linux")]
    {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let peak: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(
            peak < 512 << 10,
            "{target}: {peak} KiB at the peak, for files of a few KB"
        );
    }
}

#[test]
fn models() {
    replay_and_mutate("model", fuzz_bodies::model, true);
}

#[test]
fn adapters() {
    replay_and_mutate("adapter", fuzz_bodies::adapter, true);
}

#[test]
fn lines() {
    replay_and_mutate("jsonl", fuzz_bodies::jsonl, false);
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize) % limit.max(1)
    }
}

/// Numbers that are likely to be wrong, as JSON.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "5",
    "8",
    "16",
    "0.5",
    "1e3",
    "1e18",
    "1e300",
    "-0",
    "255",
    "4096",
    "65536",
    "1048576",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"x\"",
];

/// A few small changes anywhere.
fn mutate(random: &mut Random, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        let number = || bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i);
        match random.below(8) {
            _ if bytes.is_empty() => bytes.extend(other.iter().take(16)),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 if !other.is_empty() => {
                let from = random.below(other.len());
                let part = &other[from..(from + 1 + random.below(32)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            5 => bytes.truncate(at),
            // Most of what is read is JSON, and what matters in it are numbers.
            _ => {
                if let Some(first) = number() {
                    let digits = bytes[first..].iter().take_while(|b| b.is_ascii_digit()).count();
                    let new = NUMBERS[random.below(NUMBERS.len())].bytes();
                    bytes.splice(first..first + digits, new);
                }
            }
        }
    }
    bytes
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
        (0, _) => mutate(random, input.to_vec(), other),
        (1..=3, _) => fuzz_bodies::join(&mutate(random, config.to_vec(), other_config), weights),
        (4..=6, Some((header, data))) => {
            let header = mutate(random, header.to_vec(), other_weights);
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
        _ => fuzz_bodies::join(config, &mutate(random, weights.to_vec(), other_weights)),
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

    for (name, lines) in [
        (
            "text",
            r#"{"id": "q1", "text": "warm coats", "task": "retrieval.query", "dimensions": 256}"#,
        ),
        (
            "ids",
            r#"{"input_ids": [0, 5, 2], "pooling": "none", "normalize": false, "encoding": "int8"}"#,
        ),
        (
            "mixture",
            r#"{"id": 7, "text": "a", "adapters": {"a": 0.7, "b": 0.3}, "prompt": "p: ", "any_dimensions": true}"#,
        ),
        (
            "spans",
            r#"{"text": "one two", "spans": [[0, 3], [4, 7]], "window": 16, "overlap": 4, "truncate": false}"#,
        ),
        (
            "nulls",
            r#"{"id": null, "text": "x", "task": null, "adapters": null, "spans": null, "dimensions": null}"#,
        ),
        (
            "two",
            "{\"text\": \"caf\\u00e9 \\ud83d\\ude00\"}\n{\"text\": \"b\", \"chunk_tokens\": 5}\n",
        ),
        (
            "output",
            r#"{"id":"a","embedding":[0.5,-1e-3],"tokens":3,"truncated":false}"#,
        ),
        ("failed", r#"{"id":1,"error":"no"}"#),
        ("surrogate", r#"{"text": "\ud800"}"#),
        ("absurd", r#"{"text": "x", "dimensions": 1e18, "id": 1e999}"#),
        ("twice", r#"{"text": "x", "text": "y"}"#),
        ("both", r#"{"text": "x", "input_ids": [1]}"#),
        ("weights", r#"{"text": "x", "adapters": {"a": 1e999, "a": -1}}"#),
        ("unknown", r#"{"text": "x", "colour": "red"}"#),
        ("plain", "not JSON"),
        ("cut", r#"{"text": "x"#),
        ("list", r#"["text", "x"]"#),
        ("empty", ""),
    ] {
        put("jsonl", name, lines.as_bytes());
    }
    put("jsonl", "deep", "[".repeat(3000).as_bytes());
    put(
        "jsonl",
        "deep-value",
        format!(r#"{{"text": {}"#, "[".repeat(3000)).as_bytes(),
    );
    put("jsonl", "not-utf8", b"{\"text\": \"\xff\xfe\"}");
}
