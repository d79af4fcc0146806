//! The keys of `adapter_config.json`, and what each may be for plain LoRA: those that PEFT 0.1 to 0.21 writes for it
//! (`LoraConfig`, `PeftConfig`), and a few of well-known training tools.

use crate::model::settings::Rule::{Empty, Harmless, Null, Switch, Used, Words};
use crate::model::settings::Table;

const PLAIN: &str = "only plain LoRA is; train the adapter without it";
const MERGE: &str =
    "only low-rank factors are; merge the adapter into its model (merge_and_unload) and open that";
const PATTERN: &str = "one rank and one alpha for all modules are; save the adapter with them equal";
const BIASES: &str = "adapters that train biases are not; train with bias \"none\" and without lora_bias";
const QUANTISED: &str =
    "the factors belong to quantised weights; train on the weights that the model is opened with";

/// The table of `adapter_config.json`.
pub(super) const ADAPTER: &Table = &[
    ("exclude_modules", Used),
    ("init_lora_weights", Used),
    ("layers_pattern", Used),
    ("layers_to_transform", Used),
    ("lora_alpha", Used),
    ("peft_type", Used),
    ("r", Used),
    ("target_modules", Used),
    ("use_rslora", Used),
    // What changes the formula.
    (
        "alora_invocation_tokens",
        Null("the adapter would apply to some tokens of a text alone; train it without them"),
    ),
    ("alpha_pattern", Empty(PATTERN)),
    (
        "arrow_config",
        Empty("which adapter applies would depend on the token; name the adapters with each request"),
    ),
    ("bias", Words(&["none"], BIASES)),
    ("enable_lora", Empty(PLAIN)),
    (
        "fan_in_fan_out",
        Switch(
            false,
            "the factors of linear layers are [rank, in] and [out, rank]; save them so",
        ),
    ),
    (
        "kasa_config",
        Empty("it changes the model's own weights; train the adapter without it"),
    ),
    (
        "layer_replication",
        Empty("the model has the layers that its own configuration says; merge and open that"),
    ),
    ("lora_bias", Switch(false, BIASES)),
    ("megatron_config", Empty(PLAIN)),
    ("modules_to_save", Empty(MERGE)),
    ("monteclora_config", Empty(PLAIN)),
    ("rank_pattern", Empty(PATTERN)),
    ("target_parameters", Empty(PLAIN)),
    ("trainable_token_indices", Empty(MERGE)),
    ("use_bdlora", Empty(PLAIN)),
    (
        "use_dora",
        Switch(
            false,
            "DoRA scales the columns too; merge the adapter into its model and open that",
        ),
    ),
    ("use_qalora", Switch(false, QUANTISED)),
    // Training: what the factors began with or how their gradients were made. Where that changed the model's own weights,
    // init_lora_weights says so.
    ("corda_config", Harmless),
    ("eva_config", Harmless),
    ("inference_mode", Harmless),
    ("loftq_config", Harmless),
    ("lora_dropout", Harmless),
    ("lora_ga_config", Harmless),
    ("loraplus_lr_embedding", Harmless),
    ("loraplus_lr_ratio", Harmless),
    ("qalora_group_size", Harmless),
    ("velora_config", Harmless),
    // Where it comes from, and how PEFT computes it.
    ("auto_mapping", Harmless),
    ("base_model_name_or_path", Harmless),
    ("ensure_weight_tying", Harmless),
    ("megatron_core", Harmless),
    ("merge_weights", Harmless),
    ("peft_version", Harmless),
    ("revision", Harmless),
    ("runtime_config", Harmless),
    ("task_type", Harmless),
    ("unsloth_fixed", Harmless),
];

/// The words of `init_lora_weights` that leave the model's own weights as they are, beside true and false.
pub(super) const PLAIN_INITIALISATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];
