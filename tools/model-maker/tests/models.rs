//! Models of tiny shapes, read back with the crates that the engine reads them with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use model_maker::{AdapterSpec, Dtype, Family, Layout, ModelSpec, TASKS, task_folder, write, write_adapter};
use safetensors::SafeTensors;
use serde_json::Value;
use tokenizers::Tokenizer;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("make-model-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn tiny(family: Family) -> ModelSpec {
    ModelSpec {
        vocab: 300,
        hidden: 32,
        layers: 2,
        heads: 4,
        ffn: 48,
        max_positions: 64,
        dtype: Dtype::F32,
        ..ModelSpec::new(family)
    }
}

/// A tensor as its shape and its values.
type Loaded = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn load(path: &Path) -> Loaded {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
        let values = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&bytes| f32::from_le_bytes(bytes))
            .collect();
        (name, (view.shape().to_vec(), values))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every file under a folder, by its path inside it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(
                    path.strip_prefix(folder).unwrap().to_path_buf(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    all
}

#[test]
fn the_hub_layout_has_the_published_names_and_shapes() {
    let out = Folder::new("hub");
    let spec = tiny(Family::Jina);
    write(&spec, &out.0).unwrap();
    let model = load(&out.0.join("model.safetensors"));
    let (v, h, f, r) = (300, 32, 48, 4);
    let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut adapted = |name: &str, original: [usize; 2], a: [usize; 3], b: [usize; 3], bias: bool| {
        let level = format!("roberta.{name}.parametrizations.weight");
        expected.insert(format!("{level}.original"), original.into());
        expected.insert(format!("{level}.0.lora_A"), a.into());
        expected.insert(format!("{level}.0.lora_B"), b.into());
        if bias {
            expected.insert(format!("roberta.{name}.bias"), vec![original[0]]);
        }
    };
    adapted("embeddings.word_embeddings", [v, h], [5, v, r], [5, r, h], false);
    adapted(
        "embeddings.token_type_embeddings",
        [1, h],
        [5, 1, r],
        [5, r, h],
        false,
    );
    for n in 0..2 {
        let layer = format!("encoder.layers.{n}");
        adapted(
            &format!("{layer}.mixer.Wqkv"),
            [3 * h, h],
            [5, r, h],
            [5, 3 * h, r],
            true,
        );
        adapted(
            &format!("{layer}.mixer.out_proj"),
            [h, h],
            [5, r, h],
            [5, h, r],
            true,
        );
        adapted(&format!("{layer}.mlp.fc1"), [f, h], [5, r, h], [5, f, r], true);
        adapted(&format!("{layer}.mlp.fc2"), [h, f], [5, r, f], [5, h, r], true);
    }
    adapted("pooler.dense", [h, h], [5, r, h], [5, h, r], true);
    for norm in ["emb_ln", "encoder.layers.0.norm1", "encoder.layers.0.norm2"] {
        for end in ["weight", "bias"] {
            expected.insert(format!("roberta.{norm}.{end}"), vec![h]);
            expected.insert(
                format!("roberta.{norm}.{end}").replace("layers.0", "layers.1"),
                vec![h],
            );
        }
    }
    let shapes: BTreeMap<String, Vec<usize>> = model
        .into_iter()
        .map(|(name, (shape, _))| (name, shape))
        .collect();
    assert_eq!(shapes, expected);
    // The real model's 24 layers: 492 tensors.
    assert_eq!(shapes.len(), 12 + 2 * 20);

    let config = json(&out.0.join("config.json"));
    assert_eq!(config["model_type"], "xlm-roberta");
    assert_eq!(config["position_embedding_type"], "rotary");
    assert_eq!(config["rotary_emb_base"], 20000.0);
    assert_eq!(config["lora_adaptations"], serde_json::json!(TASKS));
    assert_eq!(config["matryoshka_dimensions"], serde_json::json!([32]));
}

#[test]
fn both_layouts_hold_the_same_model() {
    let (hub, native) = (Folder::new("same-hub"), Folder::new("same-native"));
    let spec = tiny(Family::Jina);
    write(&spec, &hub.0).unwrap();
    write(
        &ModelSpec {
            layout: Layout::Native,
            ..spec
        },
        &native.0,
    )
    .unwrap();
    let stacked = load(&hub.0.join("model.safetensors"));
    let base = load(&native.0.join("model.safetensors"));

    let plain: Loaded = stacked
        .iter()
        .filter(|(name, _)| !name.contains("lora_"))
        .map(|(name, tensor)| {
            let name = name
                .trim_start_matches("roberta.")
                .replace(".parametrizations.weight.original", ".weight");
            (name, tensor.clone())
        })
        .collect();
    assert!(plain == base);

    for (index, task) in TASKS.iter().enumerate() {
        let folder = native.0.join(task_folder(task));
        assert_eq!(json(&folder.join("adapter_config.json"))["r"], 4);
        let adapter = load(&folder.join("adapter_model.safetensors"));
        assert_eq!(adapter.len(), 2 * 12 + 6);
        // The task's matrix of a stack, with its two sizes.
        let slice = |name: &str, which: &str| -> (usize, usize, Vec<f32>) {
            let (shape, values) = &stacked[&format!("roberta.{name}.parametrizations.weight.0.lora_{which}")];
            let size = shape[1] * shape[2];
            (shape[1], shape[2], values[index * size..][..size].to_vec())
        };
        let peft = |name: &str| &adapter[&format!("base_model.model.{name}")];
        for name in ["embeddings.word_embeddings", "embeddings.token_type_embeddings"] {
            for which in ["A", "B"] {
                let (rows, cols, values) = slice(name, which);
                let (shape, turned) = peft(&format!("{name}.lora_embedding_{which}"));
                assert_eq!(shape, &[cols, rows]);
                assert!((0..rows * cols).all(|i| values[i] == turned[(i % cols) * rows + i / cols]));
            }
        }
        for n in 0..2 {
            let hub = format!("encoder.layers.{n}");
            let (_, _, packed_b) = slice(&format!("{hub}.mixer.Wqkv"), "B");
            for (i, module) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
                let module = format!("layers.{n}.self_attn.{module}");
                assert!(
                    slice(&format!("{hub}.mixer.Wqkv"), "A").2 == peft(&format!("{module}.lora_A.weight")).1
                );
                assert!(packed_b[i * 128..][..128] == peft(&format!("{module}.lora_B.weight")).1);
            }
            for (from, to) in [
                ("mixer.out_proj", "self_attn.o_proj"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ] {
                for which in ["A", "B"] {
                    let (rows, cols, values) = slice(&format!("{hub}.{from}"), which);
                    let (shape, same) = peft(&format!("layers.{n}.{to}.lora_{which}.weight"));
                    assert_eq!(shape, &[rows, cols]);
                    assert!(&values == same);
                }
            }
        }
    }
}

#[test]
fn adapters_are_as_strong_as_asked() {
    let out = Folder::new("strength");
    let spec = ModelSpec {
        adapter_strength: 0.5,
        rank: 8,
        alpha: 16.0,
        ..tiny(Family::Jina)
    };
    write(&spec, &out.0).unwrap();
    let model = load(&out.0.join("model.safetensors"));
    let level = "roberta.encoder.layers.0.mlp.fc1.parametrizations.weight";
    let (weight, a, b) = (
        &model[&format!("{level}.original")].1,
        &model[&format!("{level}.0.lora_A")].1,
        &model[&format!("{level}.0.lora_B")].1,
    );
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let mut delta = (0..48 * 32).map(|i| {
        (0..8)
            .map(|r| b[(i / 32) * 8 + r] * a[r * 32 + i % 32])
            .sum::<f32>()
            * 16.0
            / 8.0
    });
    let ratio = norm(&mut delta) / norm(&mut weight.iter().copied());
    assert!((0.35..0.65).contains(&ratio), "{ratio}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for (family, layout) in [
        (Family::Jina, Layout::Hub),
        (Family::Jina, Layout::Native),
        (Family::Bert, Layout::Hub),
    ] {
        let (one, two, other) = (Folder::new("one"), Folder::new("two"), Folder::new("other"));
        let spec = ModelSpec {
            layout,
            dtype: Dtype::Bf16,
            ..tiny(family)
        };
        write(&spec, &one.0).unwrap();
        write(&spec, &two.0).unwrap();
        write(&ModelSpec { seed: 1, ..spec }, &other.0).unwrap();
        let first = files(&one.0);
        assert!(first == files(&two.0));
        let other = files(&other.0);
        assert_eq!(first.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
        assert!(first[Path::new("model.safetensors")] != other[Path::new("model.safetensors")]);
    }
}

#[test]
fn shards_hold_the_same_tensors_as_one_file() {
    let (whole, sharded) = (Folder::new("whole"), Folder::new("sharded"));
    let spec = tiny(Family::XlmRoberta);
    write(&spec, &whole.0).unwrap();
    write(&ModelSpec { shards: 4, ..spec }, &sharded.0).unwrap();
    let index = json(&sharded.0.join("model.safetensors.index.json"));
    let mut parts = Loaded::new();
    for shard in 1..=4 {
        let file = format!("model-{shard:05}-of-00004.safetensors");
        let part = load(&sharded.0.join(&file));
        assert!(!part.is_empty());
        assert!(part.keys().all(|name| index["weight_map"][name] == *file));
        parts.extend(part);
    }
    assert!(parts == load(&whole.0.join("model.safetensors")));
    let size: usize = parts.values().map(|(_, values)| values.len() * 4).sum();
    assert_eq!(index["metadata"]["total_size"], size);
}

#[test]
fn bert_and_xlm_roberta_have_the_standard_tensors() {
    for (family, types) in [(Family::Bert, 2), (Family::XlmRoberta, 1)] {
        let out = Folder::new("standard");
        write(&tiny(family), &out.0).unwrap();
        let model = load(&out.0.join("model.safetensors"));
        assert_eq!(model.len(), 3 + 2 + 2 * 16 + 2);
        assert_eq!(model["embeddings.position_embeddings.weight"].0, [64, 32]);
        assert_eq!(model["embeddings.token_type_embeddings.weight"].0, [types, 32]);
        assert_eq!(model["encoder.layer.1.attention.self.query.weight"].0, [32, 32]);
        assert_eq!(model["encoder.layer.1.intermediate.dense.weight"].0, [48, 32]);
        assert_eq!(model["encoder.layer.1.output.dense.weight"].0, [32, 48]);
        assert_eq!(model["pooler.dense.bias"].0, [32]);
        assert_eq!(json(&out.0.join("modules.json")).as_array().unwrap().len(), 3);
        assert_eq!(
            json(&out.0.join("1_Pooling/config.json"))["pooling_mode_mean_tokens"],
            true
        );
    }
}

#[test]
fn the_unigram_tokenizer_loads_and_round_trips() {
    for vocab in [128, 300, 5000] {
        let out = Folder::new(&format!("unigram-{vocab}"));
        write(
            &ModelSpec {
                vocab,
                ..tiny(Family::Jina)
            },
            &out.0,
        )
        .unwrap();
        let tokenizer = Tokenizer::from_file(out.0.join("tokenizer.json")).unwrap();
        for (token, id) in [("<s>", 0), ("<pad>", 1), ("</s>", 2), ("<unk>", 3)] {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
        }
        let size = vocab.min(2000);
        assert_eq!(tokenizer.get_vocab_size(true), size);
        assert_eq!(tokenizer.token_to_id("<mask>"), Some(size as u32 - 1));
        for text in [
            "The old mill by the river.",
            "add(a, b) { return a + b; }",
            "Zebra 1234567890 ~ xyz!",
        ] {
            let encoding = tokenizer.encode(text, true).unwrap();
            let ids = encoding.get_ids();
            assert_eq!((ids[0], ids[ids.len() - 1]), (0, 2));
            assert!(!ids.contains(&3), "{text}");
            assert_eq!(tokenizer.decode(ids, true).unwrap(), text);
        }
    }
}

#[test]
fn a_large_vocabulary_knows_many_languages() {
    let out = Folder::new("languages");
    write(
        &ModelSpec {
            vocab: 2000,
            ..tiny(Family::Jina)
        },
        &out.0,
    )
    .unwrap();
    let tokenizer = Tokenizer::from_file(out.0.join("tokenizer.json")).unwrap();
    for text in [
        "Äpfel und Käse",
        "Поезд к морю",
        "市場ではりんご",
        "바다로 가는 기차는",
        "في السوق",
    ] {
        let encoding = tokenizer.encode(text, true).unwrap();
        assert!(
            !encoding.get_ids().contains(&3),
            "{text}: {:?}",
            encoding.get_tokens()
        );
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
    }
    let tokens = tokenizer.encode("the river", false).unwrap();
    assert!(tokens.len() <= 4, "{:?}", tokens.get_tokens());
}

#[test]
fn the_wordpiece_tokenizer_loads_and_lowers_case() {
    for vocab in [128, 300, 5000] {
        let out = Folder::new(&format!("wordpiece-{vocab}"));
        write(
            &ModelSpec {
                vocab,
                ..tiny(Family::Bert)
            },
            &out.0,
        )
        .unwrap();
        let tokenizer = Tokenizer::from_file(out.0.join("tokenizer.json")).unwrap();
        assert!(tokenizer.get_vocab_size(true) <= vocab);
        for (token, id) in [
            ("[PAD]", 0),
            ("[UNK]", 1),
            ("[CLS]", 2),
            ("[SEP]", 3),
            ("[MASK]", 4),
        ] {
            assert_eq!(tokenizer.token_to_id(token), Some(id));
        }
        let encoding = tokenizer.encode("The OLD mill, by the river", true).unwrap();
        let ids = encoding.get_ids();
        assert_eq!((ids[0], ids[ids.len() - 1]), (2, 3));
        assert!(!ids.contains(&1));
        assert_eq!(tokenizer.decode(ids, true).unwrap(), "the old mill, by the river");
    }
}

#[test]
fn user_adapters_follow_the_base() {
    for (family, layout, module) in [
        (Family::Bert, Layout::Hub, "encoder.layer.1.attention.self.query"),
        (
            Family::XlmRoberta,
            Layout::Hub,
            "encoder.layer.1.attention.self.query",
        ),
        (Family::Jina, Layout::Hub, "layers.1.self_attn.q_proj"),
        (Family::Jina, Layout::Native, "layers.1.self_attn.q_proj"),
    ] {
        let (base, out) = (Folder::new("base"), Folder::new("user"));
        write(
            &ModelSpec {
                layout,
                ..tiny(family)
            },
            &base.0,
        )
        .unwrap();
        let spec = AdapterSpec::new(&base.0);
        write_adapter(&spec, &out.0).unwrap();
        let adapter = load(&out.0.join("adapter_model.safetensors"));
        assert_eq!(adapter.len(), 2 * 2 * 2);
        assert_eq!(
            adapter[&format!("base_model.model.{module}.lora_A.weight")].0,
            [8, 32]
        );
        assert_eq!(
            adapter[&format!("base_model.model.{module}.lora_B.weight")].0,
            [32, 8]
        );
        let config = json(&out.0.join("adapter_config.json"));
        assert_eq!((&config["r"], &config["lora_alpha"]), (&8.into(), &16.into()));

        assert!(
            write_adapter(&spec, &out.0)
                .unwrap_err()
                .to_string()
                .contains("--force")
        );
        let named = AdapterSpec {
            name: Some("mine".into()),
            targets: vec!["word_embeddings".into(), "dense".into()],
            ..spec.clone()
        };
        let folder = write_adapter(&named, &out.0).unwrap();
        assert!(folder.ends_with("mine"));
        let adapter = load(&folder.join("adapter_model.safetensors"));
        assert_eq!(
            adapter["base_model.model.embeddings.word_embeddings.lora_embedding_A"].0,
            [8, 300]
        );
        assert_eq!(
            adapter["base_model.model.embeddings.word_embeddings.lora_embedding_B"].0,
            [32, 8]
        );
        assert!(adapter.contains_key("base_model.model.pooler.dense.lora_A.weight"));

        let wrong = AdapterSpec {
            targets: vec!["kuery".into()],
            force: true,
            ..spec
        };
        assert!(
            write_adapter(&wrong, &out.0)
                .unwrap_err()
                .to_string()
                .contains("end of no module")
        );
    }
}

#[test]
fn bad_specs_are_refused_with_the_option_at_fault() {
    let jina = tiny(Family::Jina);
    let out = Folder::new("bad");
    for (spec, says) in [
        (
            ModelSpec {
                heads: 5,
                ..jina.clone()
            },
            "--heads 5",
        ),
        (
            ModelSpec {
                heads: 32,
                ..jina.clone()
            },
            "odd",
        ),
        (
            ModelSpec {
                layers: 0,
                ..jina.clone()
            },
            "--layers 0",
        ),
        (
            ModelSpec {
                hidden: usize::MAX,
                ..jina.clone()
            },
            "--hidden",
        ),
        (
            ModelSpec {
                alpha: 0.0,
                ..jina.clone()
            },
            "--alpha",
        ),
        (
            ModelSpec {
                adapter_strength: f64::NAN,
                ..jina.clone()
            },
            "--adapter-strength",
        ),
        (
            ModelSpec {
                vocab: 100,
                ..jina.clone()
            },
            "--no-tokenizer",
        ),
        (
            ModelSpec {
                shards: 1000,
                ..jina.clone()
            },
            "at most",
        ),
        (
            ModelSpec {
                layout: Layout::Native,
                ..tiny(Family::Bert)
            },
            "--layout",
        ),
    ] {
        let error = write(&spec, &out.0).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(!out.0.exists(), "a refused spec leaves nothing behind");
    }
}

#[test]
fn a_folder_in_use_needs_force() {
    let out = Folder::new("force");
    fs::create_dir_all(&out.0).unwrap();
    fs::write(out.0.join("notes.json"), "{}").unwrap();
    let spec = ModelSpec {
        layout: Layout::Native,
        ..tiny(Family::Jina)
    };
    assert!(write(&spec, &out.0).unwrap_err().to_string().contains("--force"));
    write(&ModelSpec { force: true, ..spec }, &out.0).unwrap();
    write(
        &ModelSpec {
            force: true,
            ..tiny(Family::Bert)
        },
        &out.0,
    )
    .unwrap();
    assert!(out.0.join("notes.json").exists());
    assert!(!out.0.join("retrieval_query").exists());
}
