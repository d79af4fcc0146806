//! The keys of a model's settings files, and what each may be.
//!
//! `config.json`: those of transformers 4.0 to 5.24 for BERT, RoBERTa, XLM-RoBERTa and jina-embeddings-v3
//! (`BertConfig`, `XLMRobertaConfig`, `JinaEmbeddingsV3Config`, `PreTrainedConfig`), and of the publisher's own code for
//! jina-embeddings-v3 (`XLMRobertaFlashConfig` and what its modelling code asks for). `tokenizer_config.json`: those that the
//! same versions write for their tokenizers. The others: sentence-transformers 0.3 to 6.2.

use super::Family;
use crate::model::settings::Rule::{Empty, Harmless, Null, Number, Object, Switch, Used, Words};
use crate::model::settings::Table;

const DECODER: &str = "tokens of a decoder see only those before them, and the vectors would be others; only encoders are \
                       supported";
const CROSS: &str = "a layer would read a second sequence; only encoders by themselves are supported";
const QUANTISED: &str = "quantised weights are not read; save the model in float32, float16 or bfloat16";
const PRUNED: &str = "pruned heads are not computed; save the model whole";
const PER_LAYER: &str = "all layers have the same settings here";
const ROTARY: &str = "rotary embeddings turn all dimensions of a head, in halves, unscaled";
const BIASES: &str = "the layers here are post-LayerNorm, with biases and plain attention over all tokens";

/// The tables of `config.json` for a family.
pub(super) fn config(family: Family) -> &'static [&'static Table] {
    match family {
        Family::JinaV3 => &[COMMON, NO_EFFECT, JINA],
        Family::JinaV3Native => &[COMMON, NO_EFFECT, NATIVE],
        Family::Bert | Family::XlmRoberta => &[COMMON, NO_EFFECT, LEARNED],
    }
}

/// Of all families: what is used, and what would change the vectors.
const COMMON: &Table = &[
    ("emb_pooler", Used),
    ("hidden_act", Used),
    ("hidden_size", Used),
    ("intermediate_size", Used),
    ("layer_norm_eps", Used),
    ("matryoshka_dimensions", Used),
    ("max_position_embeddings", Used),
    ("model_type", Used),
    ("num_attention_heads", Used),
    ("num_hidden_layers", Used),
    ("pad_token_id", Used),
    ("position_embedding_type", Used),
    ("tokenizer_class", Used),
    ("truncate_dim", Used),
    ("type_vocab_size", Used),
    ("vocab_size", Used),
    ("add_cross_attention", Switch(false, CROSS)),
    ("compression_config", Empty(QUANTISED)),
    // Of Google's BERT; transformers has never read it.
    ("directionality", Words(&["bidi"], DECODER)),
    ("is_decoder", Switch(false, DECODER)),
    ("is_encoder_decoder", Switch(false, CROSS)),
    ("per_layer_config", Empty(PER_LAYER)),
    ("pruned_heads", Empty(PRUNED)),
    ("quantization_config", Empty(QUANTISED)),
    ("rope_scaling", Empty(ROTARY)),
];

/// Of all families: what an embedding does not depend on.
const NO_EFFECT: &Table = &[
    // Training.
    ("attention_probs_dropout_prob", Harmless),
    ("classifier_dropout", Harmless),
    ("gradient_checkpointing", Harmless),
    ("hidden_dropout_prob", Harmless),
    ("initializer_range", Harmless),
    ("problem_type", Harmless),
    ("use_reentrant", Harmless),
    // Where the file comes from, and what loads it. The type of the weights stands in the weights' own file.
    ("_commit_hash", Harmless),
    ("_name_or_path", Harmless),
    ("architectures", Harmless),
    ("auto_map", Harmless),
    ("dtype", Harmless),
    ("model_name", Harmless),
    ("name_or_path", Harmless),
    ("torch_dtype", Harmless),
    ("torchscript", Harmless),
    ("transformers.js_config", Harmless),
    ("transformers_version", Harmless),
    ("use_bfloat16", Harmless),
    ("xla_device", Harmless),
    // How it is computed, and what else is handed out.
    ("_attn_implementation", Harmless),
    ("_attn_implementation_autoset", Harmless),
    ("_attn_implementation_internal", Harmless),
    ("_experts_implementation_internal", Harmless),
    ("attn_implementation", Harmless),
    ("chunk_size_feed_forward", Harmless),
    ("experts_implementation", Harmless),
    ("output_attentions", Harmless),
    ("output_hidden_states", Harmless),
    ("output_past", Harmless),
    ("return_dict", Harmless),
    ("tie_last_hidden_states", Harmless),
    ("use_cache", Harmless),
    // Heads on top of the encoder: classes, the masked language model, the pooler.
    ("_num_labels", Harmless),
    ("cross_attention_hidden_size", Harmless),
    ("finetuning_task", Harmless),
    ("id2label", Harmless),
    ("label2id", Harmless),
    ("num_labels", Harmless),
    ("pooler_fc_size", Harmless),
    ("pooler_num_attention_heads", Harmless),
    ("pooler_num_fc_layers", Harmless),
    ("pooler_size_per_head", Harmless),
    ("pooler_type", Harmless),
    ("sentence_transformers", Harmless),
    ("task_specific_params", Harmless),
    ("tf_legacy_loss", Harmless),
    ("tie_encoder_decoder", Harmless),
    ("tie_word_embeddings", Harmless),
    // Special tokens: tokenizer.json puts them in.
    ("bos_token_id", Harmless),
    ("cls_token_id", Harmless),
    ("decoder_start_token_id", Harmless),
    ("eos_token_id", Harmless),
    ("mask_token_id", Harmless),
    ("prefix", Harmless),
    ("sep_token_id", Harmless),
    ("unk_token_id", Harmless),
    // Text generation, which old versions wrote into every file.
    ("bad_words_ids", Harmless),
    ("begin_suppress_tokens", Harmless),
    ("diversity_penalty", Harmless),
    ("do_sample", Harmless),
    ("early_stopping", Harmless),
    ("encoder_no_repeat_ngram_size", Harmless),
    ("exponential_decay_length_penalty", Harmless),
    ("forced_bos_token_id", Harmless),
    ("forced_eos_token_id", Harmless),
    ("length_penalty", Harmless),
    ("max_length", Harmless),
    ("min_length", Harmless),
    ("no_repeat_ngram_size", Harmless),
    ("num_beam_groups", Harmless),
    ("num_beams", Harmless),
    ("num_return_sequences", Harmless),
    ("output_scores", Harmless),
    ("remove_invalid_values", Harmless),
    ("repetition_penalty", Harmless),
    ("return_dict_in_generate", Harmless),
    ("suppress_tokens", Harmless),
    ("temperature", Harmless),
    ("top_k", Harmless),
    ("top_p", Harmless),
    ("typical_p", Harmless),
];

/// Of models with learned positions.
const LEARNED: &Table = &[(
    "lora_adaptations",
    Empty("stacked adapters are those of jina-embeddings-v3 (model_type \"xlm-roberta\")"),
)];

/// Of jina-embeddings-v3 as on the hub.
const JINA: &Table = &[
    ("lora_adaptations", Used),
    ("lora_alpha", Used),
    ("lora_rank", Used),
    ("rotary_emb_base", Used),
    ("rotary_emb_dim", Used),
    ("task_instructions", Used),
    ("attn_dwconv", Switch(false, BIASES)),
    ("mlp_fc1_bias", Switch(true, BIASES)),
    ("mlp_fc2_bias", Switch(true, BIASES)),
    ("mlp_type", Words(&["mlp", "fused_mlp"], BIASES)),
    ("out_proj_bias", Switch(true, BIASES)),
    ("prenorm", Switch(false, BIASES)),
    ("qkv_proj_bias", Switch(true, BIASES)),
    ("rotary_emb_fraction", Number(1.0, ROTARY)),
    ("rotary_emb_interleaved", Switch(false, ROTARY)),
    ("rotary_emb_scale_base", Null(ROTARY)),
    ("use_alibi", Switch(false, BIASES)),
    ("use_qk_norm", Switch(false, BIASES)),
    // Training, and how the same is computed.
    ("dense_seq_output", Harmless),
    ("fused_bias_fc", Harmless),
    ("fused_dropout_add_ln", Harmless),
    ("fused_mlp", Harmless),
    ("last_layer_subset", Harmless),
    ("load_trained_adapters", Harmless),
    ("lora_dropout_p", Harmless),
    ("lora_main_params_trainable", Harmless),
    ("mlp_checkpoint_lvl", Harmless),
    ("pad_vocab_size_multiple", Harmless),
    ("use_flash_attn", Harmless),
    ("use_xentropy", Harmless),
];

/// Of jina-embeddings-v3 as transformers has it.
const NATIVE: &Table = &[
    ("rope_parameters", Used),
    ("rope_theta", Used),
    ("task_instructions", Used),
    ("partial_rotary_factor", Number(1.0, ROTARY)),
    // Kept by a conversion from the hub's layout; transformers does not read it.
    ("rotary_emb_base", Harmless),
];

/// `rope_parameters` in it.
pub(super) const ROPE: &Table = &[
    ("rope_theta", Used),
    ("rope_type", Words(&["default"], "only \"default\" is supported")),
    ("type", Words(&["default"], "only \"default\" is supported")),
    ("partial_rotary_factor", Number(1.0, ROTARY)),
];

/// An entry of `modules.json`.
pub(super) const MODULE: &Table = &[
    ("name", Used),
    ("path", Used),
    ("type", Used),
    ("idx", Harmless),
    // Names of arguments that a call may pass on to the module.
    ("kwargs", Harmless),
];

const POOLING_MODE: &str = "sentence-transformers has not had it since its version 1.0";

/// `1_Pooling/config.json`.
pub(super) const POOLING: &Table = &[
    ("pooling_mode", Used),
    ("pooling_mode_cls_token", Used),
    ("pooling_mode_lasttoken", Used),
    ("pooling_mode_max_tokens", Used),
    ("pooling_mode_mean_sqrt_len_tokens", Used),
    ("pooling_mode_mean_tokens", Used),
    ("pooling_mode_weightedmean_tokens", Used),
    ("include_prompt", Used),
    // The width of the model, which its own file has.
    ("embedding_dimension", Harmless),
    ("word_embedding_dimension", Harmless),
    // Of a release before 1.0.
    ("pooling_mode_hierarchical", Switch(false, POOLING_MODE)),
];

const EMBEDDING: &str = "the embedding is what modules after pooling change";

/// `2_Normalize/config.json`.
pub(super) const NORMALIZE: &Table = &[
    ("module_input_name", Words(&["sentence_embedding"], EMBEDDING)),
    ("module_output_name", Words(&["sentence_embedding"], EMBEDDING)),
];

/// `2_Dense/config.json`.
pub(super) const DENSE: &Table = &[
    ("activation_function", Used),
    ("bias", Used),
    ("in_features", Used),
    ("out_features", Used),
    ("use_residual", Used),
    ("module_input_name", Words(&["sentence_embedding"], EMBEDDING)),
    ("module_output_name", Words(&["sentence_embedding"], EMBEDDING)),
];

/// `2_LayerNorm/config.json`.
pub(super) const LAYER_NORM: &Table = &[("dimension", Used)];

const ARGUMENTS: &str = "arguments that are passed on when the model is loaded are not";
const QUERIES: &str =
    "the model tells queries and documents apart by itself; put the difference into prompts";
const OUTPUT: &str = "an embedding is made of the last layer's tokens";

/// `sentence_bert_config.json` and its older names.
pub(super) const TRANSFORMER: &Table = &[
    ("max_seq_length", Used),
    ("do_lower_case", Used),
    ("config_args", Object(LOADING)),
    ("config_kwargs", Object(LOADING)),
    ("model_args", Object(LOADING)),
    ("model_kwargs", Object(LOADING)),
    ("processing_kwargs", Empty(ARGUMENTS)),
    ("processor_kwargs", Object(LOADING)),
    ("tokenizer_args", Object(LOADING)),
    ("document_length", Null(QUERIES)),
    ("query_expansion", Null(QUERIES)),
    ("query_length", Null(QUERIES)),
    (
        "modality_config",
        Object(&[("text", Object(TEXT)), ("message", Harmless)]),
    ),
    ("module_output_name", Words(&["token_embeddings"], OUTPUT)),
    (
        "tokenizer_name_or_path",
        Empty("the tokenizer is that of the model's folder; put its files there"),
    ),
    ("transformer_task", Words(&["feature-extraction"], OUTPUT)),
    ("unpad_inputs", Harmless),
];

/// Arguments of loading that change no vector.
const LOADING: &Table = &[
    ("add_pooling_layer", Harmless),
    ("attn_implementation", Harmless),
    ("cache_dir", Harmless),
    ("device_map", Harmless),
    ("dtype", Harmless),
    ("low_cpu_mem_usage", Harmless),
    ("torch_dtype", Harmless),
    ("trust_remote_code", Harmless),
    ("use_fast", Harmless),
    ("use_flash_attn", Harmless),
    ("use_memory_efficient_attention", Harmless),
    ("use_safetensors", Harmless),
];

const TEXT: &Table = &[
    ("method", Words(&["forward"], OUTPUT)),
    ("method_output_name", Words(&["last_hidden_state"], OUTPUT)),
];

/// `config_sentence_transformers.json`.
pub(super) const SENTENCE: &Table = &[
    ("default_prompt_name", Used),
    ("prompts", Used),
    ("__version__", Harmless),
    (
        "model_type",
        Words(
            &["SentenceTransformer"],
            "only models that embed one text at a time are",
        ),
    ),
    ("similarity_fn_name", Harmless),
    (
        "truncate_dim",
        Null("set it to null and ask for `dimensions` with each request instead"),
    ),
];

const SIDE: &str = "a long text keeps its start; set it to \"right\" if the model was trained with that";
const SPLIT: &str = "special tokens that a text spells are taken for special tokens; set it to false if the model was \
                     trained with that";

/// `tokenizer_config.json`, but for tokens by name (`cls_token` and others that end so).
pub(super) const TOKENIZER: &Table = &[
    ("add_prefix_space", Used),
    ("added_tokens_decoder", Used),
    ("additional_special_tokens", Used),
    ("do_lower_case", Used),
    ("extra_special_tokens", Used),
    ("max_len", Used),
    ("model_max_length", Used),
    ("strip_accents", Used),
    ("tokenize_chinese_chars", Used),
    ("tokenizer_class", Used),
    ("tokenizer_file", Used),
    (
        "init_inputs",
        Empty("arguments without a name are for a tokenizer's own code; save the tokenizer anew"),
    ),
    ("split_special_tokens", Switch(false, SPLIT)),
    ("truncation_side", Words(&["right"], SIDE)),
    // Of tokenizers in Python, which build themselves from a vocabulary: what transformers builds from tokenizer.json does
    // not read it.
    ("clean_text", Harmless),
    ("do_basic_tokenize", Harmless),
    ("merges_file", Harmless),
    ("never_split", Harmless),
    ("sp_model_kwargs", Harmless),
    ("vocab_file", Harmless),
    ("wordpieces_prefix", Harmless),
    // With tokenizer.json its post_processor puts the special tokens around a text.
    ("add_bos_token", Harmless),
    ("add_eos_token", Harmless),
    // Arguments of single calls, which embedding gives itself; padding is masked out.
    ("max_length", Harmless),
    ("pad_to_multiple_of", Harmless),
    ("pad_token_type_id", Harmless),
    ("padding_side", Harmless),
    ("stride", Harmless),
    ("truncation_strategy", Harmless),
    // Where the files come from, and what loads them.
    ("_commit_hash", Harmless),
    ("_name_or_path", Harmless),
    ("auto_map", Harmless),
    ("backend", Harmless),
    ("is_local", Harmless),
    ("local_files_only", Harmless),
    ("name_or_path", Harmless),
    ("processor_class", Harmless),
    ("special_tokens_map_file", Harmless),
    ("trust_remote_code", Harmless),
    ("use_fast", Harmless),
    ("verbose", Harmless),
    // From tokens to text, spans of tokens, conversations, names of inputs.
    ("chat_template", Harmless),
    ("clean_up_tokenization_spaces", Harmless),
    ("errors", Harmless),
    ("model_input_names", Harmless),
    ("trim_offsets", Harmless),
];

/// `special_tokens_map.json`, but for tokens by name.
pub(super) const SPECIAL_TOKENS: &Table = &[
    ("additional_special_tokens", Used),
    ("extra_special_tokens", Used),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_key_stands_in_two_rows() {
        let families = [
            Family::Bert,
            Family::XlmRoberta,
            Family::JinaV3,
            Family::JinaV3Native,
        ];
        let other: [&[&Table]; 11] = [
            &[NORMALIZE],
            &[DENSE],
            &[LAYER_NORM],
            &[ROPE],
            &[MODULE],
            &[POOLING],
            &[TRANSFORMER],
            &[LOADING],
            &[SENTENCE],
            &[TOKENIZER],
            &[SPECIAL_TOKENS],
        ];
        for tables in families.map(config).into_iter().chain(other) {
            let mut seen = HashSet::new();
            for (key, _) in tables.iter().copied().flatten() {
                assert!(seen.insert(key), "{key}");
            }
        }
    }
}
