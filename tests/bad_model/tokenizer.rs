//! A tokenizer that cannot be read, one whose files disagree, and a model without one.

use std::fs;
use std::path::Path;

use model_maker::{Family, ModelSpec};
use ropeway::{Embed, ModelConfig, Request};
use serde_json::{Value, json};

use crate::common::{Scratch, Table, edit_json, model, set_key, tiny};
use crate::{engine, open};

#[test]
fn a_broken_tokenizer_is_refused() {
    let mut table = Table::new("tokenizers");
    for text in ["", "{}", "[1", "\u{0}\u{1}"] {
        let scratch = Scratch::model(&tiny(Family::Bert));
        fs::write(scratch.path().join("tokenizer.json"), text).unwrap();
        table.refused(
            &format!("tokenizer.json {text:?}"),
            &["tokenizer.json", "is not a tokenizer that can be read"],
            || open(scratch.path()),
        );
    }
    table.finish();
}

#[test]
fn a_tokenizer_that_costs_out_of_proportion_is_refused() {
    let mut table = Table::new("tokenizers out of proportion");
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"});
    let lines = json!({"Regex": "^a"});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let template =
        json!({"type": "TemplateProcessing", "single": [text, text], "pair": [], "special_tokens": {}});
    for (key, value, words) in [
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": vec![json!({"type": "ByteLevel"}); 30]}),
            "normalizer: makes a text up to 1073741824 times",
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": lines, "behavior": "Isolated", "invert": false}),
            "pre_tokenizer: Split has the expression `^a`",
        ),
        (
            "decoder",
            json!({"type": "Sequence", "decoders": vec![replace; 8]}),
            "decoder: makes tokens up to 65536 times",
        ),
        (
            "post_processor",
            template,
            "post_processor: `single` has the text 2 times",
        ),
    ] {
        let scratch = Scratch::model(&tiny(Family::Bert));
        set_key(&scratch.path().join("tokenizer.json"), key, value);
        table.refused(key, &["tokenizer.json", words], || open(scratch.path()));
    }
    let scratch = Scratch::model(&tiny(Family::Bert));
    edit_json(&scratch.path().join("tokenizer.json"), |tokenizer| {
        tokenizer["model"]["max_input_chars_per_word"] = json!(1_000_000_000);
    });
    let words = [
        "tokenizer.json",
        "max_input_chars_per_word is 1000000000; at most 256",
    ];
    table.refused("model", &words, || open(scratch.path()));
    table.finish();
}

#[test]
fn a_model_without_a_tokenizer_serves_ids() {
    let spec = ModelSpec {
        tokenizer: false,
        ..tiny(Family::Jina)
    };
    let with = engine(&model(&tiny(Family::Jina)));
    let without = engine(&model(&spec));
    let default = Embed::default();
    let (text, ids) = (
        Request::text("x", &default),
        Request::ids(vec![0u32, 9, 2], &default),
    );
    let mut results = without.embed_batch(&[ids.clone(), text, ids.clone()]).into_iter();
    let mut next = || results.next().unwrap();
    let expected = with.embed_batch(&[ids]).remove(0).unwrap();
    assert_eq!(next().unwrap(), expected);
    let error = next().unwrap_err().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("ids"),
        "{error}"
    );
    assert_eq!(next().unwrap(), expected);
}

/// File, key and value.
type Change<'a> = (&'a str, &'a str, Value);

/// What is changed, and the words of the error.
type Case<'a> = (&'a [Change<'a>], &'a [&'a str]);

const CONFIG: &str = "tokenizer_config.json";
const TOKENIZER: &str = "tokenizer.json";

/// Sets keys of files, each made if it is not there; `null` is written as it is.
fn put(folder: &Path, changes: &[Change<'_>]) {
    for (file, key, value) in changes {
        let path = folder.join(file);
        if !path.exists() {
            fs::write(&path, "{}").unwrap();
        }
        edit_json(&path, |json| drop(json.insert((*key).into(), value.clone())));
    }
}

/// The parts of `tokenizer.json` that a test changes, as BERT has them.
fn normalizer(key: &str, value: Value) -> Value {
    let mut normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
    });
    normalizer[key] = value;
    normalizer
}

fn truncation(direction: &str) -> Value {
    json!({"direction": direction, "max_length": 5, "strategy": "LongestFirst", "stride": 0})
}

fn hello() -> Value {
    json!({"content": "hello", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false, "special": false})
}

/// What transformers 4 or 5, or both, tokenise otherwise than `tokenizer.json` says.
#[test]
fn files_that_disagree_with_the_tokenizer_are_refused_by_name() {
    let single =
        json!([{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 1}}]);
    let specials = json!({"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}});
    let template =
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": specials});
    let bert: &[Case<'_>] = &[
        (
            &[(CONFIG, "do_lower_case", json!("x"))],
            &[CONFIG, "do_lower_case", "true or false"],
        ),
        (
            &[
                (
                    TOKENIZER,
                    "normalizer",
                    json!({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}),
                ),
                (CONFIG, "do_lower_case", json!(false)),
            ],
            &[CONFIG, "do_lower_case is false"],
        ),
        (
            &[(CONFIG, "truncation_side", json!("left"))],
            &[CONFIG, "truncation_side", "left"],
        ),
        (
            &[(CONFIG, "truncation_side", json!(1))],
            &[CONFIG, "truncation_side"],
        ),
        (
            &[(TOKENIZER, "truncation", truncation("Left"))],
            &[TOKENIZER, "truncation: direction", "Left"],
        ),
        (
            &[(CONFIG, "split_special_tokens", json!(true))],
            &[CONFIG, "split_special_tokens"],
        ),
        (&[(CONFIG, "init_inputs", json!(["x"]))], &[CONFIG, "init_inputs"]),
        (
            &[(CONFIG, "added_tokens_decoder", json!({"159": hello()}))],
            &[CONFIG, "added_tokens_decoder, 159", "\"hello\""],
        ),
        (
            &[(CONFIG, "added_tokens_decoder", json!({"159": 5}))],
            &[CONFIG, "added_tokens_decoder, 159", "a token"],
        ),
        (
            &[(
                CONFIG,
                "added_tokens_decoder",
                json!({"4": {"content": "[MASK]", "lstrip": 1}}),
            )],
            &[CONFIG, "added_tokens_decoder, 4", "lstrip is 1"],
        ),
        (
            &[(CONFIG, "additional_special_tokens", json!(["hello"]))],
            &[CONFIG, "additional_special_tokens", "hello"],
        ),
        (
            &[(CONFIG, "extra_special_tokens", json!({"image": "hello"}))],
            &[CONFIG, "extra_special_tokens, image"],
        ),
        (
            &[(CONFIG, "extra_special_tokens", json!(3))],
            &[CONFIG, "extra_special_tokens"],
        ),
        (
            &[(
                "special_tokens_map.json",
                "additional_special_tokens",
                json!(["hello"]),
            )],
            &["special_tokens_map.json", "hello"],
        ),
        (
            &[(
                "special_tokens_map.json",
                "image_token",
                json!({"content": "hello"}),
            )],
            &["special_tokens_map.json", "image_token"],
        ),
        (
            &[("special_tokens_map.json", "cls_token", json!("[MASK]"))],
            &["special_tokens_map.json", "cls_token", "[CLS]"],
        ),
        (
            &[("special_tokens_map.json", "sep_token", json!("hello"))],
            &["special_tokens_map.json", "sep_token", "hello"],
        ),
        (
            &[("added_tokens.json", "hello", json!(159))],
            &["added_tokens.json", "hello"],
        ),
        (
            &[("added_tokens.json", "hello", json!("x"))],
            &["added_tokens.json", "hello", "whole number"],
        ),
        (
            &[(TOKENIZER, "post_processor", template)],
            &[TOKENIZER, "post_processor", "type_id 1"],
        ),
        (
            &[(CONFIG, "tokenizer_class", json!(7))],
            &[CONFIG, "tokenizer_class"],
        ),
    ];
    let class = (CONFIG, "tokenizer_class", json!("XLMRobertaTokenizerFast"));
    let xlm: &[Case<'_>] = &[
        (
            &[class.clone(), (CONFIG, "add_prefix_space", json!(false))],
            &[CONFIG, "add_prefix_space is false", "pre_tokenizer"],
        ),
        (
            &[(CONFIG, "tokenizer_class", json!("MBartTokenizerFast"))],
            &[CONFIG, "tokenizer_class is MBartTokenizer", "language"],
        ),
        (
            &[class, ("special_tokens_map.json", "bos_token", json!("<pad>"))],
            &["special_tokens_map.json", "bos_token", "<s>"],
        ),
    ];
    let mut table = Table::new("tokenizer files");
    for (family, cases) in [(Family::Bert, bert), (Family::XlmRoberta, xlm)] {
        for (changes, words) in cases {
            let scratch = Scratch::model(&tiny(family));
            put(scratch.path(), changes);
            table.refused(&format!("{changes:?}"), words, || open(scratch.path()));
        }
    }
    table.finish();
}

/// As published models have them: what agrees, what transformers does not read, and what is overruled.
#[test]
fn files_that_agree_with_the_tokenizer_are_taken() {
    let whole = r#"{
        "add_bos_token": false, "additional_special_tokens": [], "auto_map": {"AutoTokenizer": [null, "x"]},
        "backend": "tokenizers", "chat_template": null, "clean_text": true, "clean_up_tokenization_spaces": true,
        "cls_token": {"__type": "AddedToken", "content": "[CLS]", "lstrip": false, "normalized": true, "rstrip": false,
            "single_word": false},
        "do_basic_tokenize": true, "do_lower_case": true, "errors": "replace", "extra_special_tokens": {}, "is_local": true,
        "local_files_only": true, "mask_token": "[MASK]", "max_length": 128, "model_input_names": ["input_ids"],
        "model_max_length": 1000000000000000019884624838656.0, "name_or_path": "x", "never_split": null,
        "pad_to_multiple_of": null, "pad_token": "[PAD]", "pad_token_type_id": 0, "padding_side": "right",
        "processor_class": "X", "sep_token": "[SEP]", "sp_model_kwargs": {}, "special_tokens_map_file": "/x/y.json",
        "split_special_tokens": false, "stride": 0, "strip_accents": null, "tokenize_chinese_chars": true,
        "tokenizer_class": "BertTokenizer", "tokenizer_file": null, "trim_offsets": true, "truncation_side": "right",
        "truncation_strategy": "longest_first", "unk_token": "[UNK]", "use_fast": true, "verbose": false,
        "vocab_file": "vocab.txt", "wordpieces_prefix": "@@"
    }"#;
    let whole: Value = serde_json::from_str(whole).unwrap();
    let open = |family: Family, changes: &[Change<'_>], unknown: &[&str]| {
        let scratch = Scratch::model(&tiny(family));
        put(scratch.path(), changes);
        let config = ModelConfig::read(scratch.path()).unwrap();
        assert_eq!(config.unknown_settings(), unknown, "{changes:?}");
        open(scratch.path()).unwrap_or_else(|error| panic!("{changes:?}: {error}"))
    };
    let keys: Vec<Change<'_>> = whole
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (CONFIG, key.as_str(), value.clone()))
        .collect();
    open(Family::Bert, &keys, &[]);
    let cased = (TOKENIZER, "normalizer", normalizer("lowercase", json!(false)));
    let decoder = |content: &str| json!({"4": {"content": content, "special": true}});
    let agreeing: &[&[Change<'_>]] = &[
        &[cased.clone(), (CONFIG, "do_lower_case", json!(false))],
        &[(TOKENIZER, "normalizer", normalizer("strip_accents", json!(true)))],
        &[(CONFIG, "strip_accents", json!(true))],
        // A class that takes tokenizer.json as it is.
        &[
            (CONFIG, "tokenizer_class", json!("PreTrainedTokenizerFast")),
            (CONFIG, "do_lower_case", json!(false)),
        ],
        &[
            (CONFIG, "tokenizer_class", json!("PreTrainedTokenizerFast")),
            cased,
        ],
        // So is it with a warning for one that is not known.
        &[
            (CONFIG, "tokenizer_class", json!("FooTokenizer")),
            (CONFIG, "do_lower_case", json!(false)),
        ],
        &[(CONFIG, "tokenizer_file", json!("/x/tokenizer.json"))],
        &[(TOKENIZER, "truncation", truncation("Right"))],
        &[
            (TOKENIZER, "truncation", truncation("Left")),
            (CONFIG, "truncation_side", json!("right")),
        ],
        &[(CONFIG, "added_tokens_decoder", decoder("[MASK]"))],
        // Where the tokens are listed, the other files are not read.
        &[
            (CONFIG, "added_tokens_decoder", decoder("[MASK]")),
            (
                "special_tokens_map.json",
                "additional_special_tokens",
                json!(["hello"]),
            ),
            ("added_tokens.json", "hello", json!(159)),
        ],
        &[("added_tokens.json", "[MASK]", json!(4))],
        // The later file's counts.
        &[(CONFIG, "cls_token", json!("hello"))],
    ];
    for changes in agreeing {
        open(Family::Bert, changes, &[]);
    }
    // XLM-RoBERTa's tokenizer does not read BERT's settings.
    let lower = [
        (CONFIG, "do_lower_case", json!(true)),
        (CONFIG, "add_prefix_space", json!(true)),
    ];
    open(Family::XlmRoberta, &lower, &[]);
    open(
        Family::Bert,
        &[
            (CONFIG, "my_own", json!(1)),
            ("special_tokens_map.json", "mine", json!([1])),
        ],
        &["tokenizer_config.json: my_own", "special_tokens_map.json: mine"],
    );
}

/// As transformers does, which makes BERT's normalizer anew where its settings differ.
#[test]
fn settings_of_berts_normalizer_are_taken_over() {
    let tokens = |changes: &[Change<'_>], text: &str| -> Vec<u32> {
        let scratch = Scratch::model(&tiny(Family::Bert));
        put(scratch.path(), changes);
        let tokens = open(scratch.path()).unwrap().tokenize(text, true).unwrap();
        tokens.iter().map(|token| token.id).collect()
    };
    let is_same = |changes: &[Change<'_>], a: &str, b: &str| tokens(changes, a) == tokens(changes, b);
    let set = |key, value| [(CONFIG, key, value)];
    let there = |key: &str| (TOKENIZER, "normalizer", normalizer(key, json!(false)));
    let (cased, accents) = (there("lowercase"), there("strip_accents"));
    for (changes, upper, accent) in [
        (&[][..], true, true),
        (&set("do_lower_case", json!(false)), false, false),
        (&set("strip_accents", json!(false)), true, false),
        // What is not set has a default.
        (
            &[cased.clone(), (CONFIG, "do_lower_case", json!(null))],
            true,
            true,
        ),
        (&[accents, (CONFIG, "strip_accents", json!(null))], true, true),
        (
            &[
                cased,
                (CONFIG, "do_lower_case", json!(false)),
                (CONFIG, "strip_accents", json!(true)),
            ],
            false,
            true,
        ),
    ] {
        assert_eq!(is_same(changes, "ABE", "abe"), upper, "{changes:?}");
        assert_eq!(is_same(changes, "ab\u{e9}", "abe"), accent, "{changes:?}");
    }
    let words = |changes: &[Change<'_>]| tokens(changes, "\u{4e2d}\u{4e2d}").len();
    assert!(words(&[]) > words(&set("tokenize_chinese_chars", json!(false))));
}

/// As transformers 5 does, which adds a token anew whose flags differ.
#[test]
fn flags_of_added_tokens_are_taken_over() {
    let scratch = Scratch::model(&tiny(Family::Bert));
    let tokens = |text: &str| -> Vec<u32> {
        let tokens = open(scratch.path()).unwrap().tokenize(text, true).unwrap();
        tokens.iter().map(|token| token.id).collect()
    };
    let (mask, small) = (tokens("[MASK]"), tokens("[mask]"));
    assert_eq!(mask, [2, 4, 3]);
    assert_ne!(small, mask);
    let mut token = hello();
    token["content"] = json!("[MASK]");
    put(
        scratch.path(),
        &[(CONFIG, "added_tokens_decoder", json!({"4": token}))],
    );
    assert_eq!(tokens("[MASK]"), mask);
    assert_eq!(
        tokens("[mask]"),
        mask,
        "the token is found in the normalised text"
    );
}
