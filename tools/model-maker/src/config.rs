//! `config.json` and the other small JSON files, with the keys that the real ones have.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::{Family, Layout, ModelSpec, TASKS, create_folder, write_json};

const MATRYOSHKA: [usize; 7] = [32, 64, 128, 256, 512, 768, 1024];

/// `1`, not `1.0`, for a whole number: the way it stands in the published files.
pub fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e9 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

pub fn model_config(spec: &ModelSpec) -> Value {
    match (spec.family, spec.layout) {
        (Family::Jina, Layout::Hub) => jina_hub(spec),
        (Family::Jina, Layout::Native) => jina_native(spec),
        (Family::Bert, _) => bert(spec),
        (Family::XlmRoberta, _) => xlm_roberta(spec),
    }
}

/// The keys that all families share.
fn common(spec: &ModelSpec) -> Value {
    json!({
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": null,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": spec.hidden,
        "initializer_range": 0.02,
        "intermediate_size": spec.ffn,
        "max_position_embeddings": spec.max_positions,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "type_vocab_size": spec.family.token_types(),
        "use_cache": true,
        "vocab_size": spec.vocab,
    })
}

fn merged(mut base: Value, more: Value) -> Value {
    if let (Some(base), Value::Object(more)) = (base.as_object_mut(), more) {
        base.extend(more);
    }
    base
}

fn jina_hub(spec: &ModelSpec) -> Value {
    let mut dimensions: Vec<usize> = MATRYOSHKA.into_iter().filter(|&d| d <= spec.hidden).collect();
    if dimensions.last() != Some(&spec.hidden) {
        dimensions.push(spec.hidden);
    }
    merged(
        common(spec),
        json!({
            "architectures": ["XLMRobertaModel"],
            "bos_token_id": 0,
            "emb_pooler": null,
            "eos_token_id": 2,
            "layer_norm_eps": 1e-5,
            "load_trained_adapters": true,
            "lora_adaptations": TASKS,
            "lora_alpha": number(spec.alpha),
            "lora_dropout_p": 0.0,
            "lora_main_params_trainable": false,
            "lora_rank": spec.rank,
            "matryoshka_dimensions": dimensions,
            "model_type": "xlm-roberta",
            "output_past": true,
            "pad_token_id": 1,
            "position_embedding_type": "rotary",
            "rotary_emb_base": 20000.0,
            "task_instructions": {
                "classification": "",
                "retrieval.passage": "Represent the document for retrieval: ",
                "retrieval.query": "Represent the query for retrieving evidence documents: ",
                "separation": "",
                "text-matching": "",
            },
            "torch_dtype": spec.dtype.torch_name(),
            "truncate_dim": null,
            "use_flash_attn": true,
            "use_reentrant": false,
        }),
    )
}

fn jina_native(spec: &ModelSpec) -> Value {
    merged(
        common(spec),
        json!({
            "architectures": ["JinaEmbeddingsV3Model"],
            "bos_token_id": 0,
            "dtype": spec.dtype.torch_name(),
            "eos_token_id": 2,
            "layer_norm_eps": 1e-5,
            "model_type": "jina_embeddings_v3",
            "pad_token_id": 1,
            "rope_parameters": { "rope_theta": 20000.0, "rope_type": "default" },
            "tie_word_embeddings": true,
        }),
    )
}

fn bert(spec: &ModelSpec) -> Value {
    merged(
        common(spec),
        json!({
            "architectures": ["BertModel"],
            "layer_norm_eps": 1e-12,
            "model_type": "bert",
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "torch_dtype": spec.dtype.torch_name(),
        }),
    )
}

fn xlm_roberta(spec: &ModelSpec) -> Value {
    merged(
        common(spec),
        json!({
            "architectures": ["XLMRobertaModel"],
            "bos_token_id": 0,
            "eos_token_id": 2,
            "layer_norm_eps": 1e-5,
            "model_type": "xlm-roberta",
            "output_past": true,
            "pad_token_id": 1,
            "position_embedding_type": "absolute",
            "torch_dtype": spec.dtype.torch_name(),
        }),
    )
}

/// `modules.json`, `sentence_bert_config.json` and `1_Pooling/config.json`: mean over the tokens, then unit length.
pub fn write_sentence_transformers(spec: &ModelSpec, folder: &Path) -> Result<()> {
    let module = |idx: usize, path: &str, class: &str| json!({ "idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}") });
    let modules = json!([
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Normalize", "Normalize")
    ]);
    write_json(&folder.join("modules.json"), &modules)?;
    let transformer = json!({ "do_lower_case": false, "max_seq_length": spec.max_tokens() });
    write_json(&folder.join("sentence_bert_config.json"), &transformer)?;
    create_folder(&folder.join("1_Pooling"))?;
    let pooling = json!({
        "include_prompt": true,
        "pooling_mode_cls_token": false,
        "pooling_mode_lasttoken": false,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_mean_tokens": true,
        "pooling_mode_weightedmean_tokens": false,
        "word_embedding_dimension": spec.hidden,
    });
    write_json(&folder.join("1_Pooling/config.json"), &pooling)
}

/// The `adapter_config.json` of each task of a native jina model.
pub fn task_adapter_config(spec: &ModelSpec) -> Value {
    let targets = [
        "dense",
        "fc1",
        "fc2",
        "k_proj",
        "o_proj",
        "q_proj",
        "token_type_embeddings",
        "v_proj",
        "word_embeddings",
    ];
    peft_config(
        "JinaEmbeddingsV3Model",
        "jina_embeddings_v3",
        None,
        spec.rank,
        spec.alpha,
        &targets,
    )
}

/// An `adapter_config.json` with the keys that PEFT writes.
pub fn peft_config(
    class: &str,
    module: &str,
    base: Option<&str>,
    rank: usize,
    alpha: f64,
    targets: &[impl AsRef<str>],
) -> Value {
    let targets: Vec<&str> = targets.iter().map(AsRef::as_ref).collect();
    json!({
        "alpha_pattern": {},
        "auto_mapping": {
            "base_model_class": class,
            "parent_library": format!("transformers.models.{module}.modeling_{module}"),
        },
        "base_model_name_or_path": base,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": number(alpha),
        "lora_bias": false,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "target_parameters": null,
        "task_type": null,
        "trainable_token_indices": null,
        "use_dora": false,
        "use_rslora": false,
    })
}
