//! Every key of a model's settings files: used, without effect, or refused by name.

use std::fs;
use std::path::Path;

use model_maker::{Family, Layout, ModelSpec};
use ropeway::{Embed, Engine, Error, ModelConfig, Request, RequestError};
use serde_json::{Value, json};

use crate::common::{Scratch, Table, edit_json, edit_tensors, model, set_key, tiny};
use crate::{bad_keys, engine, open};

#[test]
fn settings_that_change_a_models_vectors_are_refused_by_their_key() {
    let bert = tiny(Family::Bert);
    let hub = tiny(Family::Jina);
    let native = ModelSpec {
        layout: Layout::Native,
        ..tiny(Family::Jina)
    };
    let all: [(&str, Value); 14] = [
        ("is_decoder", json!(true)),
        ("is_decoder", json!(1)),
        ("is_decoder", json!("false")),
        ("is_encoder_decoder", json!(true)),
        ("add_cross_attention", json!(true)),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"load_in_8bit": true})),
        ("per_layer_config", json!({"0": {"hidden_act": "relu"}})),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ("hidden_act", json!("relu")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("position_embedding_type", json!("relative_key_query")),
        ("position_embedding_type", json!(0)),
        ("layer_norm_eps", json!(true)),
    ];
    for spec in [&bert, &hub, &native] {
        let cases: Vec<(&str, Value, &[&str])> = all
            .iter()
            .map(|(key, value)| (*key, value.clone(), std::slice::from_ref(key)))
            .collect();
        bad_keys(spec, &cases);
    }
    bad_keys(
        &bert,
        &[
            (
                "lora_adaptations",
                json!(["a"]),
                &["lora_adaptations", "jina-embeddings-v3"],
            ),
            ("directionality", json!("unidi"), &["directionality"]),
        ],
    );
    bad_keys(
        &hub,
        &[
            (
                "position_embedding_type",
                json!("absolute"),
                &["\"absolute\"", "\"rotary\""],
            ),
            (
                "rotary_emb_dim",
                json!(8),
                &["rotary_emb_dim is 8", "16 dimensions"],
            ),
            ("rotary_emb_fraction", json!(0.5), &["rotary_emb_fraction is 0.5"]),
            ("rotary_emb_interleaved", json!(true), &["rotary_emb_interleaved"]),
            ("rotary_emb_scale_base", json!(512), &["rotary_emb_scale_base"]),
            ("qkv_proj_bias", json!(false), &["qkv_proj_bias"]),
            ("use_alibi", json!(true), &["use_alibi"]),
            ("prenorm", json!(true), &["prenorm"]),
            ("mlp_type", json!("glu"), &["mlp_type"]),
            ("task_instructions", json!("x"), &["task_instructions"]),
            (
                "task_instructions",
                json!({"separation": 3}),
                &["task_instructions", "`separation`"],
            ),
        ],
    );
    bad_keys(
        &native,
        &[
            ("rope_theta", json!("x"), &["rope_theta"]),
            ("partial_rotary_factor", json!(0.5), &["partial_rotary_factor"]),
            ("rope_parameters", json!(7), &["rope_parameters is 7"]),
            (
                "rope_parameters",
                json!({"partial_rotary_factor": 0.5}),
                &["partial_rotary_factor"],
            ),
            ("rope_parameters", json!({"factor": 8}), &["`factor`"]),
        ],
    );
}

#[test]
fn every_key_that_transformers_writes_is_known() {
    // BertConfig of 4.0, 4.30, 4.57 and 5.24, and what a model on the hub may have beside.
    let written = r#"{
        "_attn_implementation_autoset": true, "_name_or_path": "x", "add_cross_attention": false,
        "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "bad_words_ids": null,
        "begin_suppress_tokens": null, "bos_token_id": null, "chunk_size_feed_forward": 16, "classifier_dropout": 0.1,
        "cross_attention_hidden_size": null, "decoder_start_token_id": 1, "directionality": "bidi",
        "diversity_penalty": 0.0, "do_sample": false, "dtype": "float32", "early_stopping": false,
        "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2, "exponential_decay_length_penalty": null,
        "finetuning_task": "x", "forced_bos_token_id": null, "forced_eos_token_id": null,
        "gradient_checkpointing": true, "hidden_dropout_prob": 0.1, "id2label": {"0": "LABEL_0"},
        "initializer_range": 0.02, "is_decoder": false, "is_encoder_decoder": false, "label2id": {"LABEL_0": 0},
        "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1,
        "num_beams": 1, "num_return_sequences": 1, "output_attentions": true, "output_hidden_states": true,
        "output_past": true, "output_scores": false, "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
        "prefix": "x", "problem_type": null, "pruned_heads": {}, "quantization_config": null,
        "remove_invalid_values": false, "repetition_penalty": 1.0, "return_dict": true,
        "return_dict_in_generate": false, "sep_token_id": 3, "suppress_tokens": null, "task_specific_params": {"a": 1},
        "temperature": 1.0, "tf_legacy_loss": false, "tie_encoder_decoder": false, "tie_word_embeddings": false,
        "tokenizer_class": "BertTokenizer", "top_k": 50, "top_p": 1.0, "torch_dtype": "float16", "torchscript": true,
        "transformers_version": "5.24.0", "typical_p": 1.0, "use_bfloat16": true, "use_cache": true,
        "unheard_of": null, "unheard_of_too": false
    }"#;
    let written: Value = serde_json::from_str(written).unwrap();
    // XLMRobertaFlashConfig, and what its modelling code asks for.
    let flash = json!({
        "auto_map": {"AutoModel": "x--y.z"}, "fused_bias_fc": true, "fused_mlp": true, "load_trained_adapters": true,
        "lora_dropout_p": 0.1, "lora_main_params_trainable": true, "mlp_checkpoint_lvl": 0, "rotary_emb_dim": 16,
        "rotary_emb_interleaved": false, "rotary_emb_scale_base": null, "use_flash_attn": false, "use_reentrant": false
    });
    let write = |folder: &Path, keys: &[&Value]| {
        edit_json(&folder.join("config.json"), |json| {
            for keys in keys {
                let keys = keys.as_object().unwrap();
                json.extend(keys.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        });
    };
    let unknown = |folder: &Path| ModelConfig::read(folder).unwrap().unknown_settings().to_vec();
    for (spec, keys) in [
        (tiny(Family::Bert), vec![&written]),
        (tiny(Family::XlmRoberta), vec![&written]),
        (tiny(Family::Jina), vec![&written, &flash]),
    ] {
        let scratch = Scratch::model(&spec);
        assert!(unknown(scratch.path()).is_empty());
        write(scratch.path(), &keys);
        assert_eq!(unknown(scratch.path()), Vec::<String>::new(), "{:?}", spec.family);
        engine(scratch.path());
        // A key of somebody's own is listed, and the model opens.
        write(scratch.path(), &[&json!({"my_own": 1, "nothing": []})]);
        assert_eq!(unknown(scratch.path()), ["config.json: my_own"]);
        engine(scratch.path());
    }
}

#[test]
fn settings_of_sentence_transformers_are_known_or_refused() {
    let bert = tiny(Family::Bert);
    let refused: &[(&str, &str, Value)] = &[
        ("sentence_bert_config.json", "do_lower_case", json!("false")),
        ("sentence_bert_config.json", "max_seq_length", json!("512")),
        ("sentence_bert_config.json", "max_seq_length", json!(-1)),
        (
            "sentence_bert_config.json",
            "transformer_task",
            json!("fill-mask"),
        ),
        ("sentence_bert_config.json", "module_output_name", json!("scores")),
        (
            "sentence_bert_config.json",
            "config_args",
            json!({"hidden_act": "relu"}),
        ),
        (
            "sentence_bert_config.json",
            "model_kwargs",
            json!({"attention_window": 5}),
        ),
        (
            "sentence_bert_config.json",
            "modality_config",
            json!({"text": {"method_output_name": "logits"}}),
        ),
        ("sentence_bert_config.json", "query_length", json!(32)),
        ("tokenizer_config.json", "model_max_length", json!("many")),
        ("config_sentence_transformers.json", "prompts", json!(["query: "])),
        (
            "config_sentence_transformers.json",
            "prompts",
            json!({"query": 5}),
        ),
        (
            "config_sentence_transformers.json",
            "default_prompt_name",
            json!("nobody's"),
        ),
        (
            "config_sentence_transformers.json",
            "model_type",
            json!("CrossEncoder"),
        ),
        ("config_sentence_transformers.json", "truncate_dim", json!(32)),
        ("1_Pooling/config.json", "pooling_mode_cls_token", json!(1)),
        ("1_Pooling/config.json", "include_prompt", json!(0)),
        ("1_Pooling/config.json", "pooling_mode_of_tomorrow", json!(true)),
        ("1_Pooling/config.json", "pooling_mode", json!(["mean", "sum"])),
        (
            "2_Normalize/config.json",
            "module_input_name",
            json!("token_embeddings"),
        ),
    ];
    let mut table = Table::new("sentence-transformers");
    for (file, key, value) in refused {
        let scratch = Scratch::model(&bert);
        put(scratch.path(), file, key, value.clone());
        // A pooling mode is named by its words.
        let key = key.strip_suffix("_mode").unwrap_or(key);
        table.refused(&format!("{file}: {key} = {value}"), &[file, key], || {
            open(scratch.path())
        });
    }
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let (transformer, pooling, normalize) = (
        module("Transformer", ""),
        module("Pooling", "1_Pooling"),
        module("Normalize", "2_Normalize"),
    );
    let named = |name: &str, module: &Value| {
        let mut module = module.clone();
        module["name"] = json!(name);
        module
    };
    for (case, modules) in [
        ("normalised first", json!([&transformer, &normalize, &pooling])),
        ("pooled twice", json!([&transformer, &pooling, &pooling])),
        (
            "elsewhere",
            json!([module("Transformer", "../0_Transformer"), &pooling]),
        ),
        ("another kind", json!([module("MLMTransformer", ""), &pooling])),
        ("no type", json!([{"path": ""}])),
        ("a type of another type", json!([{"type": 5}])),
        ("no object", json!(["Transformer"])),
        ("no modules", json!([])),
        ("no pooling", json!([&transformer])),
        (
            "a name twice",
            json!([&transformer, &named("1", &pooling), &named("1", &normalize)]),
        ),
        (
            "a name of another type",
            json!([&transformer, {"type": "x", "name": 1}]),
        ),
        (
            "pooling of somebody's own",
            json!([&transformer, {"type": "custom_st.Pooling", "path": "1_Pooling"}]),
        ),
        (
            "normalisation of somebody's own",
            json!([&transformer, &pooling, {"type": "mycode.Normalize", "path": "2_Normalize"}]),
        ),
        (
            "a transformer of somebody's own",
            json!([{"type": "mycode.Transformer", "path": ""}, &pooling]),
        ),
        (
            "a transformer in a module named like jina's",
            json!([{"type": "mycode.custom_st.Transformer", "path": ""}, &pooling]),
        ),
        (
            "pooling without a package",
            json!([&transformer, {"type": "Pooling", "path": "1_Pooling"}]),
        ),
    ] {
        let scratch = Scratch::model(&bert);
        fs::write(scratch.path().join("modules.json"), modules.to_string()).unwrap();
        table.refused(case, &["modules.json"], || open(scratch.path()));
    }
    table.finish();
    // The transformer of jina-embeddings-v3's own code reads the same files; models trained on from it name where it was loaded.
    for class in [
        "custom_st.Transformer",
        "transformers_modules.jinaai.jina-embeddings-v3.4be32c2f5d65b95e4bcce473545b7883ec8d2edd.custom_st.Transformer",
    ] {
        let scratch = Scratch::model(&bert);
        let own = json!([{"type": class, "path": "", "kwargs": ["task"]}, &named("1", &pooling)]);
        fs::write(scratch.path().join("modules.json"), own.to_string()).unwrap();
        engine(scratch.path());
    }

    let known: &[(&str, &str, Value)] = &[
        ("sentence_bert_config.json", "max_seq_length", json!(null)),
        (
            "sentence_bert_config.json",
            "transformer_task",
            json!("feature-extraction"),
        ),
        (
            "sentence_bert_config.json",
            "model_args",
            json!({"attn_implementation": "eager", "torch_dtype": "float16"}),
        ),
        (
            "sentence_bert_config.json",
            "modality_config",
            json!({"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
        ),
        ("tokenizer_config.json", "model_max_length", json!(1e30)),
        (
            "config_sentence_transformers.json",
            "similarity_fn_name",
            json!("cosine"),
        ),
        (
            "config_sentence_transformers.json",
            "__version__",
            json!({"pytorch": "2"}),
        ),
        ("1_Pooling/config.json", "pooling_mode", json!("cls")),
        ("2_Normalize/config.json", "module_output_name", json!(null)),
    ];
    for (file, key, value) in known {
        let scratch = Scratch::model(&bert);
        put(scratch.path(), file, key, value.clone());
        let config = ModelConfig::read(scratch.path());
        let config = config.unwrap_or_else(|error| panic!("{file}: {key} = {value}: {error}"));
        assert!(config.unknown_settings().is_empty(), "{file}: {key}");
    }
    let scratch = Scratch::model(&bert);
    put(
        scratch.path(),
        "config_sentence_transformers.json",
        "my_own",
        json!(1),
    );
    let config = ModelConfig::read(scratch.path()).unwrap();
    assert_eq!(
        config.unknown_settings(),
        ["config_sentence_transformers.json: my_own"]
    );
    // The first of the names that the transformer's file may have.
    fs::remove_file(scratch.path().join("sentence_bert_config.json")).unwrap();
    put(
        scratch.path(),
        "sentence_xlm-roberta_config.json",
        "max_seq_length",
        json!(9),
    );
    assert_eq!(ModelConfig::read(scratch.path()).unwrap().max_tokens, 9);
}

/// Each of them can bring a copy of one folder's weights.
#[test]
fn a_list_of_modules_has_a_limit() {
    let mut table = Table::new("modules");
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let many = |count: usize| {
        let mut modules = vec![module("Transformer", ""), module("Pooling", "1_Pooling")];
        modules.resize(count, module("Normalize", "2_Normalize"));
        json!(modules)
    };
    let scratch = Scratch::model(&tiny(Family::Bert));
    let write =
        |modules: &Value| fs::write(scratch.path().join("modules.json"), modules.to_string()).unwrap();
    write(&many(33));
    table.refused(
        "33 modules",
        &["modules.json", "33 modules", "at most 32"],
        || open(scratch.path()),
    );
    write(&many(32));
    engine(scratch.path());
    table.finish();
}

#[test]
fn tasks_and_prompts_have_a_limit() {
    let mut table = Table::new("tasks");
    let scratch = Scratch::model(&tiny(Family::Bert));
    let prompts = |count: usize| -> Value { (0..count).map(|i| (format!("p{i}"), json!("p: "))).collect() };
    let file = "config_sentence_transformers.json";
    put(scratch.path(), file, "prompts", prompts(1025));
    table.refused(
        "1025 prompts",
        &[file, "prompts has 1025 entries", "1024"],
        || open(scratch.path()),
    );
    put(scratch.path(), file, "prompts", prompts(1024));
    let names = |count: usize| json!((0..count).map(|i| format!("t{i}")).collect::<Vec<_>>());
    bad_keys(
        &tiny(Family::Jina),
        &[(
            "lora_adaptations",
            names(1025),
            &["lora_adaptations has 1025 names", "1024"],
        )],
    );
    // An error that is handed out per request carries few of the names.
    let engine = engine(scratch.path());
    let request = Request::text("x", Embed::task("nothing"));
    let error = engine.validate(&request).unwrap_err();
    let Error::Request(RequestError::UnknownTask { known, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!((known.first.len(), known.count), (20, 1024));
    assert!(error.to_string().contains("p19 and 1004 more"), "{error}");
    table.finish();
}

#[test]
fn a_byte_order_mark_is_named() {
    let mut table = Table::new("byte order marks");
    for file in [
        "config.json",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ] {
        let scratch = Scratch::model(&tiny(Family::Bert));
        let path = scratch.path().join(file);
        let text = fs::read(&path).unwrap();
        for (mark, name) in [
            (&b"\xef\xbb\xbf"[..], "UTF-8"),
            (b"\xff\xfe", "UTF-16"),
            (b"\xfe\xff", "UTF-16"),
        ] {
            fs::write(&path, [mark, &text].concat()).unwrap();
            let words = [file, "byte order mark", name, "save the file as UTF-8 without"];
            table.refused(&format!("{file}: {name}"), &words, || open(scratch.path()));
        }
    }
    table.finish();
}

/// Sets a key of a file, which is made if it is not there.
fn put(folder: &Path, file: &str, key: &str, value: Value) {
    let path = folder.join(file);
    if !path.exists() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{}").unwrap();
    }
    edit_json(&path, |json| drop(json.insert(key.into(), value)));
}

#[test]
fn a_missing_key_means_what_transformers_takes_for_it() {
    for (family, eps) in [
        (Family::Bert, 1e-12),
        (Family::XlmRoberta, 1e-12),
        (Family::Jina, 1e-5),
    ] {
        let scratch = Scratch::model(&tiny(family));
        set_key(&scratch.path().join("config.json"), "layer_norm_eps", json!(null));
        assert_eq!(
            ModelConfig::read(scratch.path()).unwrap().layer_norm_eps,
            eps,
            "{family:?}"
        );
    }
}

#[test]
fn text_from_files_comes_escaped_and_short() {
    let hostile = "a\u{1b}[2J\u{202e}b\n";
    let shows = |problem: ropeway::Result<Engine>| {
        let text = problem.unwrap_err().to_string();
        assert!(text.contains(r"\u{1b}") || text.contains(r"\u001b"), "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\n']), "{text:?}");
        assert!(text.len() < 5000, "{}", text.len());
    };
    let with = |change: &dyn Fn(&Path)| {
        let scratch = Scratch::model(&tiny(Family::Bert));
        change(scratch.path());
        shows(open(scratch.path()));
    };
    with(&|m| {
        set_key(
            &m.join("config.json"),
            "hidden_act",
            json!(hostile.repeat(10_000)),
        )
    });
    with(&|m| set_key(&m.join("config.json"), "model_type", json!(hostile)));
    with(&|m| put(m, "1_Pooling/config.json", hostile, json!(1)));
    with(&|m| {
        put(
            m,
            "config_sentence_transformers.json",
            "default_prompt_name",
            json!(hostile),
        )
    });
    with(&|m| {
        edit_tensors(&m.join("model.safetensors"), |tensors| {
            let mut odd = tensors["embeddings.LayerNorm.bias"].clone();
            odd.dtype = "F99".into();
            tensors.insert(hostile.into(), odd);
        })
    });
    with(&|m| {
        fs::remove_file(m.join("model.safetensors")).unwrap();
        put(
            m,
            "model.safetensors.index.json",
            "weight_map",
            json!({"x": format!("../{hostile}")}),
        )
    });
    let base = model(&tiny(Family::Jina));
    let error = engine(&base)
        .embed(&["x"], &Embed::task(hostile))
        .unwrap_err()
        .to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
}
