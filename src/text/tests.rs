use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::config::{AddedToken, Source};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn settings(name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder(name).join("tokenizer.json")).unwrap()).unwrap()
}

fn open(tokenizer: &Value) -> Result<TextPipeline> {
    open_beside(tokenizer, &TokenizerSettings::default())
}

fn open_beside(tokenizer: &Value, beside: &TokenizerSettings) -> Result<TextPipeline> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Ok(TextPipeline::open(folder.path(), false, 40, beside)?.unwrap())
}

/// The tokenizers of the golden models, and those models' vocabularies behind other splitters.
fn pipelines() -> &'static [TextPipeline] {
    static PIPELINES: LazyLock<Vec<TextPipeline>> = LazyLock::new(|| {
        let marks = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
        let sequence =
            json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks("always")]});
        let spaces = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
        let normalizers = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, spaces]});
        let mut all = vec![settings("bert"), settings("xlm-roberta")];
        for splitter in [sequence, marks("first"), marks("never")] {
            let mut tokenizer = settings("xlm-roberta");
            tokenizer["normalizer"] = normalizers.clone();
            tokenizer["pre_tokenizer"] = splitter;
            all.push(tokenizer);
        }
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let mut tokenizer = settings("xlm-roberta");
        tokenizer["normalizer"] = Value::Null;
        tokenizer["pre_tokenizer"] = bytes;
        all.push(tokenizer);
        all.iter().map(|tokenizer| open(tokenizer).unwrap()).collect()
    });
    &PIPELINES
}

/// Tokenizers whose texts can be cut in few places or none.
fn odd_pipelines() -> &'static [TextPipeline] {
    static PIPELINES: LazyLock<Vec<TextPipeline>> = LazyLock::new(|| {
        let with = |name: &str, normalizers: Value, splitter: Option<&Value>| {
            let mut tokenizer = settings(name);
            tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers});
            if let Some(splitter) = splitter {
                tokenizer["pre_tokenizer"] = splitter.clone();
            }
            tokenizer
        };
        let runs = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
        let add = |mut tokenizer: Value, content: &str, flag: &str| {
            let mut token = json!({"id": 1000, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
            token[flag] = json!(true);
            tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
            tokenizer
        };
        let marks =
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true});
        let sequence = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]});
        let mut all: Vec<Value> = [(r"\s+", ""), (r"\s+", "x"), (" {2,}", "x"), (r"\s+", "\u{2581}")]
            .into_iter()
            .map(|(pattern, content)| with("bert", json!([runs(pattern, content)]), None))
            .collect();
        for splitter in [&marks, &sequence] {
            all.push(with(
                "xlm-roberta",
                json!([runs(r"\s+", "\u{2581}")]),
                Some(splitter),
            ));
        }
        all.push(with(
            "bert",
            json!([{"type": "Precompiled", "precompiled_charsmap": map_to_x(b' ')}]),
            None,
        ));
        all.push(add(settings("bert"), "-x", "single_word"));
        let forms = with("xlm-roberta", json!([{"type": "Nmt"}, {"type": "NFKC"}]), None);
        all.push(add(forms.clone(), "(\u{200b})", "normalized"));
        all.push(add(forms.clone(), "(\u{a8})", "normalized"));
        let mut all: Vec<_> = all.iter().map(|tokenizer| open(tokenizer).unwrap()).collect();
        // A file beside it sets the flags.
        let tokenizers = [
            (add(settings("bert"), "-x", "special"), "-x"),
            (add(forms, "(\u{200b})", "special"), "(\u{200b})"),
        ];
        for (tokenizer, content) in tokenizers {
            let token = AddedToken {
                content: content.into(),
                single_word: content == "-x",
                normalized: content != "-x",
                ..AddedToken::default()
            };
            let beside = TokenizerSettings {
                added: vec![(
                    Source::new("tokenizer_config.json", "added_tokens_decoder"),
                    token,
                )],
                ..TokenizerSettings::default()
            };
            all.push(open_beside(&tokenizer, &beside).unwrap());
        }
        all
    });
    &PIPELINES
}

/// A map of SentencePiece that has an x for this character: units of 32 bits, as many bytes as they are, then what is put
/// there.
pub(super) fn map_to_x(from: u8) -> String {
    let mut units = [0u32; 1024];
    let there = 256 ^ usize::from(from);
    units[0] = 256 << 10;
    units[there] = 512 << 10 | 1 << 8 | u32::from(from);
    let mut map = 4096u32.to_le_bytes().to_vec();
    map.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    map.extend(b"x\0");
    base64::engine::general_purpose::STANDARD.encode(map)
}

/// With parts as small as the text allows.
fn in_parts(pipeline: &mut TextPipeline, limit: Option<usize>, prompt: &str, text: &str) -> Tokens {
    let sizes = PartSizes {
        whole: 0,
        part: 3,
        longest: 1 << 20,
    };
    let before = std::mem::replace(&mut pipeline.sizes, sizes);
    let tokens = pipeline.tokenize(prompt, text, true, limit).unwrap();
    pipeline.sizes = before;
    tokens
}

#[test]
fn these_tokenizers_take_texts_in_parts() {
    for pipeline in pipelines() {
        assert_eq!(pipeline.first_part("one two").unwrap(), "one two");
        let sizes = PartSizes {
            whole: 0,
            part: 1,
            longest: 100,
        };
        let small = TextPipeline {
            sizes,
            cuts: pipeline.cuts.clone(),
            ..open(&settings("bert")).unwrap()
        };
        assert_eq!(small.first_part("one two three").unwrap(), "one");
    }
}

proptest! {
    // Some forty for each tokenizer.
    #![proptest_config(ProptestConfig::with_cases(768))]
    #[test]
    fn the_parts_of_a_text_have_the_tokens_of_the_whole(
        text in "(?s)(a|ab|b|An|é|e\u{301}|\u{301}|-|\\(|\\)|\\[1\\]|<| \\[|> |\u{2581}|« |。|ﬁ|word|ab|x|-x|!|!!|\\.|,|  ?|\n|\t|\u{a0}|\u{3000}|\u{200b}|\u{600}|<s>|<mask>|\\[MASK\\]|中文|ab ab|\u{1f600}){0,40}",
        prompt in "(query: )?",
        limit in 2usize..40,
        which in 0usize..18,
    ) {
        let file = pipelines().iter().chain(odd_pipelines()).nth(which).unwrap();
        let mut pipeline = TextPipeline {
            tokenizer: file.tokenizer.clone(),
            cuts: file.cuts.clone(),
            leading: file.leading.clone(),
            letter: file.letter.clone(),
            trailing: file.trailing.clone(),
            sizes: PART_SIZES,
            decoder_growth: file.decoder_growth,
        };
        let mut whole = pipeline.tokenize(&prompt, &text, true, None).unwrap();
        prop_assert_eq!(&in_parts(&mut pipeline, None, &prompt, &text), &whole);
        let mut cut = in_parts(&mut pipeline, Some(limit), &prompt, &text);
        prop_assert!(cut.ids.len() <= whole.ids.len());
        prop_assert_eq!(pipeline.truncate(&mut cut, limit), pipeline.truncate(&mut whole, limit));
        prop_assert_eq!(cut, whole);
    }
}

#[test]
fn a_long_text_is_tokenised_no_further_than_its_limit() {
    let pipeline = &pipelines()[0];
    let text = "word ".repeat(1 << 20);
    let tokens = pipeline.tokenize("", &text, false, Some(100)).unwrap();
    assert!((101..20_000).contains(&tokens.ids.len()), "{}", tokens.ids.len());
    let marks = "!".repeat(1 << 20);
    assert!(pipeline.tokenize("", &marks, false, Some(100)).unwrap().ids.len() > 100);
}

#[test]
fn a_long_stretch_without_white_space_is_an_error_of_its_text() {
    let long = "x".repeat(PART_SIZES.longest + 1);
    for pipeline in pipelines() {
        let error = pipeline.tokenize("", &long, false, Some(8)).unwrap_err();
        assert!(
            matches!(error, Error::Request(RequestError::NoBlanks { limit }) if limit == PART_SIZES.longest)
        );
        assert!(pipeline.tokenize("", &long[2..], false, Some(8)).is_ok());
        assert!(
            pipeline
                .tokenize("", &format!("one {long}"), false, Some(8))
                .is_err()
        );
    }
}

#[test]
fn white_space_is_found_beside_all_kinds_of_characters() {
    for unit in [
        "! ",
        "- | ",
        "\u{1f600} ",
        "(a) ",
        "[1] ",
        "\"word\", ",
        "中文。 ",
        "< ",
    ] {
        let text = unit.repeat((PART_SIZES.longest + (64 << 10)) / unit.len());
        for (number, pipeline) in pipelines().iter().enumerate() {
            let tokens = pipeline.tokenize("", &text, false, Some(100));
            let tokens = tokens.unwrap_or_else(|e| panic!("{unit:?} of tokenizer {number}: {e}"));
            let start = pipeline
                .tokenize("", &text[..unit.len() * 200], false, None)
                .unwrap();
            assert_eq!(
                tokens.ids[..100],
                start.ids[..100],
                "{unit:?} of tokenizer {number}"
            );
        }
    }
}

#[test]
fn dropout_of_a_tokenizer_is_off() {
    let mut tokenizer = settings("bert");
    tokenizer["model"] = json!({
        "type": "BPE", "dropout": 0.5, "unk_token": "[UNK]", "merges": [["a", "b"], ["ab", "a"]],
        "vocab": {"[UNK]": 1, "a": 5, "b": 6, "ab": 7, "aba": 8},
    });
    let pipeline = open(&tokenizer).unwrap();
    for _ in 0..50 {
        assert_eq!(
            pipeline.tokenize("", "abab", false, None).unwrap().ids,
            [2, 7, 7, 3]
        );
    }
}

#[test]
fn a_tokenizer_without_a_token_for_a_letter_is_refused() {
    let mut tokenizer = settings("bert");
    tokenizer["model"] = json!({"type": "BPE", "vocab": {"x": 5, "y": 6}, "merges": []});
    let error = open(&tokenizer).err().unwrap().to_string();
    assert!(
        error.contains("model: has no token for the letter \"a\""),
        "{error}"
    );
    tokenizer["model"]["vocab"]["[UNK]"] = json!(1);
    tokenizer["model"]["unk_token"] = json!("[UNK]");
    let pipeline = open(&tokenizer).unwrap();
    let mut tokens = pipeline.tokenize("", "xyxyxy", false, None).unwrap();
    assert!(pipeline.truncate(&mut tokens, 4));
    assert_eq!(tokens.ids, [2, 5, 6, 3]);
}

#[test]
fn tokens_stand_in_the_order_of_the_text() {
    let mut vocab = json!({"[UNK]": 1, "a": 5, "b": 6, "x": 7});
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = json!(300 + byte);
    }
    let mut tokenizer = settings("bert");
    tokenizer["pre_tokenizer"] = json!({"type": "WhitespaceSplit"});
    tokenizer["model"] = json!({"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "[UNK]", "byte_fallback": true,
                                "continuing_subword_prefix": "##"});
    let pipeline = open(&tokenizer).unwrap();
    let text = "ab\u{4e2d}b x\u{e9}a. ab bbb x \u{4e2d} ab";
    let points = text.chars().count();
    let tokens = pipeline.tokenize("", text, true, None).unwrap();
    let spans: Vec<_> = tokens.offsets.iter().flatten().collect();
    assert!(spans.is_sorted_by_key(|(start, _)| start), "{spans:?}");
    assert!(
        spans.iter().all(|(start, end)| start <= end && *end <= points),
        "{spans:?}"
    );
}

#[test]
fn what_the_library_panics_on_is_an_error() {
    let mut tokenizer = settings("bert");
    tokenizer["post_processor"]["special_tokens"] = json!({});
    let error = open(&tokenizer).err().unwrap().to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains("post_processor"),
        "{error}"
    );
    assert_eq!(fenced(|| Ok::<_, String>(1)), Ok(1));
    let panicked = fenced(|| -> Result<(), String> { panic!("of a {}", "text") });
    assert_eq!(panicked, Err("the tokenizers library failed (of a text)".into()));
}

#[test]
fn special_tokens_leave_room_for_the_text() {
    let mut tokenizer = settings("bert");
    tokenizer["post_processor"]["special_tokens"]["[CLS]"] =
        json!({"id": "[CLS]", "ids": vec![2; 38], "tokens": vec!["[CLS]"; 38]});
    assert!(open(&tokenizer).is_ok());
    tokenizer["post_processor"]["special_tokens"]["[CLS]"] =
        json!({"id": "[CLS]", "ids": vec![2; 39], "tokens": vec!["[CLS]"; 39]});
    let error = open(&tokenizer).err().unwrap().to_string();
    assert!(
        error.contains("puts 40 special tokens around a text, and the model takes 40"),
        "{error}"
    );
}

#[test]
fn what_is_made_of_a_part_is_bounded() {
    let mut tokenizer = settings("bert");
    let sizes = |tokenizer: &Value| {
        let PartSizes { whole, part, longest } = open(tokenizer).unwrap().sizes;
        (whole, part, longest)
    };
    let eight = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"});
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![eight; 2]});
    assert_eq!(sizes(&tokenizer), (32 << 10, 8 << 10, 128 << 10));
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
    let marks =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [marks, bytes]});
    assert_eq!(sizes(&tokenizer), (8 << 10, 2 << 10, 32 << 10));
    tokenizer["pre_tokenizer"] = bytes;
    assert_eq!(sizes(&tokenizer), (32 << 10, 8 << 10, 128 << 10));
    // What looks ahead takes no more than a million characters.
    tokenizer["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    assert!((13_000..14_100).contains(&sizes(&tokenizer).2));
    tokenizer["normalizer"] = json!({"type": "NFC"});
    assert_eq!(sizes(&tokenizer).2, PART_SIZES.longest);
    // XLM-RoBERTa's grow by 17 times and 6 times, and its texts stay whole.
    assert_eq!(
        sizes(&settings("xlm-roberta")),
        (PART_SIZES.whole, PART_SIZES.part, PART_SIZES.longest)
    );
}

#[test]
fn ids_that_stand_for_too_long_a_text_are_refused() {
    let mut tokenizer = settings("bert");
    // Of each byte of a token, and of the one that is counted for it, 64.
    let long = "x".repeat(64);
    tokenizer["decoder"] = json!({"type": "Replace", "pattern": {"String": "x"}, "content": long});
    let pipeline = open(&tokenizer).unwrap();
    assert_eq!(pipeline.decode(&[5, 6], false).unwrap(), "!\"");
    assert_eq!(pipeline.decoded_at_most(&[5, 6]), 2 * 2 * 64);
    let error = pipeline.decode(&[5; 600_000], false).unwrap_err().to_string();
    assert!(
        error.contains("600000 ids stand for a text of up to 76800000 bytes"),
        "{error}"
    );
}

#[test]
fn a_text_of_more_tokens_than_are_wanted_is_not_tokenised_to_its_end() {
    let pipeline = &pipelines()[0];
    let whole = pipeline.tokens("a b c", true, usize::MAX).unwrap().unwrap();
    assert_eq!(whole.len(), 5);
    assert_eq!(pipeline.tokens("a b c", true, 3).unwrap().unwrap(), whole);
    assert_eq!(pipeline.tokens("a b c", false, 3).unwrap().unwrap(), whole[1..4]);
    for specials in [true, false] {
        assert!(pipeline.tokens("a b c", specials, 2).unwrap().is_none());
    }
    // Its end cannot be tokenised.
    let text = "word ".repeat(1 << 20) + &"x".repeat(PART_SIZES.longest + 1);
    assert!(pipeline.tokens(&text, true, 100).unwrap().is_none());
    assert!(pipeline.tokens(&text, true, usize::MAX).is_err());
}
