use base64::Engine as _;

use super::*;
use crate::text::growth::tests::precompiled;

fn problem(file: Value) -> String {
    Settings::read(file.to_string().as_bytes())
        .err()
        .unwrap_or_default()
}

fn map(trie: u32, bytes: &[u8]) -> Value {
    let map = [&trie.to_le_bytes(), bytes].concat();
    json!({"type": "Precompiled", "precompiled_charsmap": base64::engine::general_purpose::STANDARD.encode(map)})
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn normalizers(steps: Vec<Value>) -> Value {
    json!({"normalizer": {"type": "Sequence", "normalizers": steps}})
}

fn bert(chinese: bool) -> Value {
    json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": chinese, "strip_accents": null,
            "lowercase": true})
}

fn growth(steps: Vec<Value>) -> f64 {
    let file = normalizers(steps).to_string();
    let settings = Settings::read(file.as_bytes()).unwrap_or_else(|problem| panic!("{problem}"));
    (settings.growth * 1000.0).round() / 1000.0
}

#[test]
fn a_normalizer_that_multiplies_its_input_is_refused() {
    let twice = replace(json!({"String": "a"}), "aa");
    assert_eq!(growth(vec![twice.clone(); 7]), 128.0);
    assert!(problem(normalizers(vec![twice.clone(); 8])).contains("up to 256 times"));
    let nested = json!({"type": "Sequence", "normalizers": vec![twice; 6]});
    assert!(problem(normalizers(vec![nested.clone(), nested])).contains("up to 4096 times"));
    for (steps, times) in [
        (vec![json!({"type": "ByteLevel"}); 30], "1073741824"),
        (vec![replace(json!({"Regex": "a"}), "aaa"); 4], "512"),
        (vec![replace(json!({"String": ""}), "aaa"); 4], "512"),
        (vec![replace(json!({"Regex": "a|b{2,}"}), "aa"); 5], "486"),
        (vec![json!({"type": "Prepend", "prepend": "aaa"}); 4], "256"),
        (vec![bert(true); 9], "447"),
        (
            vec![json!({"type": "NFKC"}), precompiled(&[("a", &"b".repeat(20))])],
            "220",
        ),
        (vec![precompiled(&[("a", &"b".repeat(129))])], "129"),
    ] {
        let problem = problem(normalizers(steps));
        assert!(
            problem.contains(&format!("up to {times} times as long")),
            "{times}: {problem}"
        );
    }
}

#[test]
fn the_normalizers_of_real_models_are_taken() {
    let unicode = |form: &str| json!({"type": form});
    let spaces = |to: &str| replace(json!({"Regex": " {2,}"}), to);
    // What SentencePiece's map does to U+FDFA: 33 bytes for three.
    let sentencepiece = precompiled(&[("a", &"b".repeat(11))]);
    let strip = json!({"type": "Strip", "strip_left": false, "strip_right": true});
    let quotes = [
        replace(json!({"String": "``"}), "\""),
        replace(json!({"String": "''"}), "\""),
    ];
    for (steps, times) in [
        // BERT, MiniLM, bge, gte, e5.
        (vec![bert(true)], 7.5),
        (vec![bert(false)], 4.5),
        // XLM-RoBERTa, multilingual-e5, bge-m3, jina-embeddings-v3; and in lower case.
        (vec![sentencepiece.clone(), spaces(" ")], 11.0),
        (
            vec![sentencepiece.clone(), strip.clone(), spaces("\u{2581}")],
            16.5,
        ),
        (
            vec![unicode("Lowercase"), sentencepiece.clone(), spaces("\u{2581}")],
            24.75,
        ),
        (
            vec![
                unicode("Nmt"),
                unicode("NFKC"),
                replace(json!({"Regex": r"\s+"}), " "),
                strip,
            ],
            11.0,
        ),
        // ModernBERT, RoBERTa, CLIP.
        (vec![unicode("NFC")], 3.0),
        (
            vec![
                unicode("NFC"),
                replace(json!({"Regex": r"\s+"}), " "),
                unicode("Lowercase"),
            ],
            4.5,
        ),
        // ALBERT and its kind.
        (
            [
                &quotes[..],
                &[
                    unicode("NFKD"),
                    unicode("StripAccents"),
                    unicode("Lowercase"),
                    sentencepiece,
                    spaces(" "),
                ],
            ]
            .concat(),
            121.0,
        ),
        // LLaMA's.
        (
            vec![
                json!({"type": "Prepend", "prepend": "\u{2581}"}),
                replace(json!({"String": " "}), "\u{2581}"),
            ],
            12.0,
        ),
        // Each of these takes a form that is there already.
        (
            vec![
                unicode("NFD"),
                unicode("NFKC"),
                unicode("Lowercase"),
                unicode("NFKD"),
            ],
            11.0,
        ),
    ] {
        assert_eq!(growth(steps.clone()), times, "{steps:?}");
    }
    assert_eq!(problem(json!({"normalizer": null})), "");
    assert_eq!(problem(json!({"normalizer": bert(true)})), "");
}

#[test]
fn no_character_grows_further_than_its_bound() {
    use tokenizers::Normalizer;
    let steps = [
        "NFC",
        "Lowercase",
        "NFD",
        "Lowercase",
        "NFKC",
        "Lowercase",
        "NFKD",
        "Lowercase",
    ];
    let steps: Vec<NormalizerWrapper> = steps
        .map(|step| serde_json::from_value(json!({"type": step})).unwrap())
        .into();
    let normalize = |steps: &[NormalizerWrapper], text: &str| -> usize {
        let mut text = tokenizers::NormalizedString::from(text);
        steps.iter().for_each(|step| step.normalize(&mut text).unwrap());
        text.get().len()
    };
    let bert: NormalizerWrapper = serde_json::from_value(bert(true)).unwrap();
    for c in ('\u{80}'..'\u{20000}').chain('\u{2f800}'..'\u{2fa20}') {
        let text = c.to_string();
        for (steps, most) in [
            (&steps[..2], 4.5),
            (&steps[..4], 4.5),
            (&steps[..], 11.0),
            (std::slice::from_ref(&bert), 7.5),
        ] {
            let grown = normalize(steps, &text) as f64 / text.len() as f64;
            assert!(grown <= most, "{c:?} grows {grown} times");
        }
    }
}

#[test]
fn splitters_and_decoders_that_multiply_are_refused() {
    let bytes = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let marks = json!({"type": "Metaspace", "replacement": "\u{2581}", "add_prefix_space": true});
    let splitters =
        |steps: Vec<Value>| json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}});
    assert_eq!(
        problem(splitters(vec![json!({"type": "WhitespaceSplit"}), marks.clone()])),
        ""
    );
    assert_eq!(problem(json!({"pre_tokenizer": bytes(true)})), "");
    assert!(problem(splitters(vec![bytes(false); 6])).contains("pre_tokenizer: makes a text up to 64 times"));
    assert!(problem(splitters(vec![marks; 2])).contains("up to 36 times"));

    let decoders = |steps: Vec<Value>| json!({"decoder": {"type": "Sequence", "decoders": steps}});
    let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let llama = [
        replace(json!({"String": "\u{2581}"}), " "),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
        json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    ];
    assert_eq!(problem(decoders(llama.into())), "");
    assert_eq!(problem(json!({"decoder": word_piece.clone()})), "");
    for (steps, times) in [
        (
            vec![replace(json!({"String": "a"}), &"a".repeat(16)); 8],
            "4294967296",
        ),
        (vec![replace(json!({"Regex": "a"}), &"a".repeat(64))], "65"),
        (vec![word_piece; 7], "128"),
        (vec![json!({"type": "BPEDecoder", "suffix": ""}); 7], "128"),
    ] {
        let problem = problem(decoders(steps));
        assert!(
            problem.contains(&format!("decoder: makes tokens up to {times} times")),
            "{problem}"
        );
    }
}

#[test]
fn steps_are_counted_in_all_sequences_and_known_by_name() {
    let white = json!({"type": "Whitespace"});
    let splitters = |steps: Vec<Value>| json!({"type": "Sequence", "pretokenizers": steps});
    assert_eq!(
        problem(json!({"pre_tokenizer": splitters(vec![white.clone(); 32])})),
        ""
    );
    let nested = splitters(vec![
        splitters(vec![white.clone(); 16]),
        splitters(vec![white; 15]),
    ]);
    assert!(problem(json!({"pre_tokenizer": nested})).contains("pre_tokenizer: has 33 steps"));
    for (part, words) in [
        (
            json!({"normalizer": {"type": "New"}}),
            "normalizer: a step of the type \"New\" is not known",
        ),
        (
            json!({"decoder": {"type": "Sequence", "decoders": [{"type": "New"}]}}),
            "decoder: a step of the type",
        ),
        (
            json!({"pre_tokenizer": {"type": "Sequence"}}),
            "pre_tokenizer: a sequence has no \"pretokenizers\"",
        ),
        (
            json!({"post_processor": {"type": "New"}}),
            "post_processor: a step of the type \"New\"",
        ),
        // The library would take it for a replacement.
        (
            json!({"normalizer": {"pattern": {"String": "a"}, "content": "aa"}}),
            "has no `type`",
        ),
        (json!({"normalizer": [1]}), "has no `type`"),
    ] {
        let problem = problem(part);
        assert!(problem.contains(words), "{problem}");
    }
    // What the library takes for a replacement is one, whatever it says.
    let disguised = r#"{"type": "BertNormalizer", "pattern": {"String": "a"}, "content": "aa"}"#;
    let file = format!(
        r#"{{"normalizer": {{"type": "Sequence", "normalizers": [{}]}}}}"#,
        [disguised; 8].join(",")
    );
    assert!(
        Settings::read(file.as_bytes())
            .err()
            .unwrap()
            .contains("up to 256 times")
    );
    let twice = br#"{"normalizer": null, "normalizer": {"type": "NFC"}}"#;
    assert!(
        Settings::read(twice)
            .err()
            .unwrap()
            .contains("duplicate field `normalizer`")
    );
}

#[test]
fn parts_that_would_take_memory_to_read_are_refused_unread() {
    let list =
        |element: &str, count: usize| format!("[{}{element}]", format!("{element},").repeat(count - 1));
    let many = |key: &str, element: &str, count| {
        format!(
            r#"{{"{key}": {{"type": "Sequence", "x": {}}}}}"#,
            list(element, count)
        )
    };
    for (file, words) in [
        (
            many("normalizer", "0", 20_000),
            "normalizer: has 20003 JSON values; at most 16384",
        ),
        (
            many("normalizer", "\"aaaaaaaaaaaaaaaaaaaaaaaa\"", 200_000),
            "normalizer: has 5400",
        ),
        (many("pre_tokenizer", "0", 40_000), "pre_tokenizer: has 80"),
        (many("post_processor", "[]", 40_000), "post_processor: has 120"),
        (many("decoder", "0", 40_000), "decoder: has 80"),
        (
            format!(r#"{{"added_tokens": {}}}"#, list("{}", 70_000)),
            "added_tokens: there are 70000; at most 65536",
        ),
        (
            format!(r#"{{"added_tokens": {}}}"#, list("{}", 600_000)),
            "added_tokens: has 1200001 JSON values",
        ),
        (
            format!(r#"{{"model": {}}}"#, list("0", 5_000_000)),
            "has some 5000002 JSON values, which would take 1000 MB",
        ),
    ] {
        let problem = Settings::read(file.as_bytes()).err().unwrap();
        assert!(problem.contains(words), "{words}: {problem}");
    }
    let added = |content: String, count: usize| {
        problem(json!({"added_tokens": vec![json!({"content": content}); count]}))
    };
    assert!(added("x".repeat(1025), 1).contains("added_tokens: number 0 has 1025 bytes"));
    assert!(added("x".repeat(1024), 4097).contains("added_tokens: they have 4195328 bytes"));
    assert_eq!(added("x".repeat(1024), 4096), "");
    assert_eq!(values(br#"{"a,[{\"": [1, 2], "b": {}}"#), 6);
}

#[test]
fn added_tokens_are_bounded_as_they_are_normalised() {
    let long = replace(json!({"String": "x"}), &"y".repeat(128));
    let added = |normalizer: &Value, contents: &[String]| {
        let tokens: Vec<Value> = contents
            .iter()
            .map(|content| json!({"content": content}))
            .collect();
        problem(json!({"normalizer": normalizer, "added_tokens": tokens}))
    };
    assert_eq!(added(&long, &["x".repeat(8)]), "");
    assert!(
        added(&long, &["x".repeat(9)])
            .contains("number 0 has 1152 bytes; at most 1024 are taken when they are normalised")
    );
    // What is far from the bound is taken.
    assert_eq!(added(&long, &["a".repeat(1024)]), "");
    let words: Vec<String> = (0..65_536).map(|n| format!("<w{n}>")).collect();
    assert_eq!(added(&bert(true), &words), "");
    let marks: Vec<String> = (0..5000).map(|n| format!("<w{n}>xxxxxxx")).collect();
    assert!(added(&long, &marks).contains("bytes; at most 4194304 are taken when they are normalised"));
    let long_ones = vec!["a".repeat(1000); 700];
    assert!(added(&long, &long_ones).contains("they may become 89689600 bytes; at most 67108864"));

    // The normalizer may become another one.
    let file = json!({"normalizer": null, "added_tokens": [{"content": "x".repeat(1000)}, {"content": "\u{23a}".repeat(500)}]});
    let mut settings = Settings::read(file.to_string().as_bytes()).ok().unwrap();
    assert!(
        settings
            .set_normalizer(long)
            .unwrap_err()
            .contains("128000 bytes")
    );
    settings.set_normalizer(Value::Null).unwrap();
    assert!(
        settings
            .add_lower_case()
            .unwrap_err()
            .contains("number 1 has 1500 bytes")
    );
}

#[test]
fn a_map_that_does_not_parse_is_named() {
    for (map, part) in [
        (map(400, b"0000"), "a trie of 400 bytes in 4 bytes"),
        (map(3, b"0000"), "a trie of 3 bytes"),
        (map(0, b"0000"), "a trie of 0 bytes"),
        (map(4, b"0000\xff"), "utf-8"),
        (
            json!({"type": "Precompiled", "precompiled_charsmap": "?"}),
            "Invalid",
        ),
        (
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            "is cut off",
        ),
        (json!({"type": "Precompiled"}), "is not a string"),
    ] {
        let problem = problem(json!({"normalizer": map}));
        assert!(
            problem.contains("precompiled_charsmap") && problem.contains(part),
            "{problem}"
        );
    }
}

#[test]
fn a_template_of_unknown_tokens_is_refused() {
    let template = |special: Value| {
        let single =
            json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
        let template =
            json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special});
        problem(json!({"post_processor": {"type": "Sequence", "processors": [template]}}))
    };
    assert_eq!(
        template(json!({"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}})),
        ""
    );
    assert!(template(json!({})).contains("names the token \"<s>\""));
    assert!(template(json!({"<s>": {"id": "<s>", "ids": [0], "tokens": []}})).contains("does not define"));
}

#[test]
fn the_special_tokens_of_a_template_are_counted() {
    let template = |places: usize, ids: usize| {
        let mut single = vec![json!({"SpecialToken": {"id": "X", "type_id": 0}}); places];
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        let special = json!({"X": {"id": "X", "ids": vec![0; ids], "tokens": vec![""; ids]}});
        let template =
            json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special});
        problem(json!({"post_processor": template}))
    };
    assert_eq!(template(2, 512), "");
    assert!(template(1, 1025).contains("puts 1025 special tokens around a text; at most 1024"));
    // Within the bytes of a part, and millions of tokens.
    assert!(template(700, 6000).contains("puts 4200000 special tokens"));
}

#[test]
fn a_template_has_its_text_once() {
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let template = |single: Vec<Value>| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}});
    let refused = |single: Vec<Value>| problem(json!({"post_processor": template(single)}));
    assert_eq!(refused(vec![text("A")]), "");
    assert!(refused(vec![text("A"); 2]).contains("has the text 2 times and a second text 0 times"));
    assert!(refused(vec![]).contains("has the text 0 times"));
    assert!(refused(vec![text("A"), text("B")]).contains("a second text 1 times"));
    let processors =
        |steps: Vec<Value>| problem(json!({"post_processor": {"type": "Sequence", "processors": steps}}));
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    assert_eq!(processors(vec![bytes, template(vec![text("A")])]), "");
    let bert = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    assert!(processors(vec![bert.clone(), bert]).contains("2 steps add special tokens"));
}

#[test]
fn what_makes_a_model_slow_is_refused() {
    let model = |model: Value| problem(json!({"model": model}));
    assert_eq!(
        model(json!({"type": "WordPiece", "max_input_chars_per_word": 256, "vocab": {}})),
        ""
    );
    assert!(model(json!({"max_input_chars_per_word": 257})).contains("is 257; at most 256"));
    let chain = |longest: usize| {
        (1..=longest)
            .map(|n| json!(["a".repeat(n), -1.0]))
            .collect::<Vec<_>>()
    };
    assert_eq!(model(json!({"type": "Unigram", "vocab": chain(256)})), "");
    assert!(
        model(json!({"type": "Unigram", "vocab": chain(257)})).contains("a token has 257 bytes; at most 256")
    );
    let many = vec![json!(["a".repeat(250), 0]); (16 << 20) / 250 + 1];
    assert!(model(json!({"vocab": many})).contains("the tokens have at least 16777250 bytes"));
    // Of 244 bytes, of which all but the first six are the same: behind different ones.
    let apart = |first: bool| {
        let same = "a".repeat(238);
        let token = |n: usize| match first {
            true => json!([format!("{n:06}{same}"), 0]),
            false => json!([format!("{same}{n:06}"), 0]),
        };
        model(json!({"vocab": (0..18_000).map(token).collect::<Vec<_>>()}))
    };
    assert!(apart(true).contains("the tokens have at least 4304001 branches of a tree; at most 4194304"));
    assert_eq!(apart(false), "");
    // BPE has runs of white space as tokens.
    assert_eq!(
        model(json!({"type": "BPE", "vocab": {" ".repeat(1000): 0}, "merges": []})),
        ""
    );
    for kind in ["BPE", "WordPiece", "WordLevel"] {
        let of = |bytes: usize| model(json!({"type": kind, "vocab": {"a": 0, "x".repeat(bytes): 1}}));
        assert_eq!(of(1024), "");
        let problem = of(1025);
        assert!(
            problem.contains("a token has 1025 bytes; at most 1024"),
            "{kind}: {problem}"
        );
    }
    for key in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
        assert!(model(json!({key: "x".repeat(257)})).contains(&format!("model: {key} has 257 bytes")));
    }
}
