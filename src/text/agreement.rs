//! Whether the files beside `tokenizer.json` agree with it.
//!
//! transformers reads both and changes what `tokenizer.json` says by the others: its versions 4 and 5 alike, or one of
//! them. What gives other tokens in either is refused, but for what is taken over with a warning: the settings of BERT's
//! normalizer, which both take from `tokenizer_config.json`, and the flags of added tokens, as in version 5.
//!
//! Version 5 makes some classes' tokenizers anew, from the vocabulary alone. `tokenizer.json` is taken as it stands, as in
//! version 4, with a warning where texts get other tokens by that. A class that is not known is a warning too.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{
    AddedToken, Encoding, Model, ModelWrapper, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PostProcessor, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, Token, Tokenizer,
};

use super::cut::{kind, steps};
use super::settings::Settings;
use crate::error::{Error, Result, list};
use crate::model::config::{Source, TokenizerSettings};

/// What a class of transformers makes of `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    /// It is taken as it is.
    Whole,
    /// BERT's normalizer gets the settings of `tokenizer_config.json`, or the class's own. Version 5 makes the rest anew, with
    /// these tokens around a text where the files name none.
    Bert([&'static str; 2]),
    /// Version 5 makes it anew.
    XlmRoberta,
    Roberta,
    /// The code of a language stands beside a text.
    Languages,
}

const BERT: Reader = Reader::Bert(["[CLS]", "[SEP]"]);

/// The classes, without the endings `Tokenizer` and `TokenizerFast`, that do the same in transformers 4 and 5 but for what
/// [`made_anew`] finds.
const CLASSES: &[(&str, Reader)] = &[
    ("Bert", BERT),
    ("DPRContextEncoder", BERT),
    ("DPRQuestionEncoder", BERT),
    ("DPRReader", BERT),
    ("DistilBert", BERT),
    ("Electra", BERT),
    ("LayoutLM", BERT),
    ("Lxmert", BERT),
    ("MBart", Reader::Languages),
    ("MBart50", Reader::Languages),
    ("MPNet", Reader::Bert(["<s>", "</s>"])),
    ("MobileBert", BERT),
    ("Nllb", Reader::Languages),
    ("PreTrained", Reader::Whole),
    ("Roberta", Reader::Roberta),
    ("SqueezeBert", BERT),
    ("XLMRoberta", Reader::XlmRoberta),
];

/// `None`: the class is not known.
fn reader(class: &str) -> Option<Reader> {
    if ["", "TokenizersBackend"].contains(&class) {
        return Some(Reader::Whole);
    }
    let name = class.strip_suffix("Tokenizer")?;
    CLASSES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, reader)| reader)
}

/// Holds the tokenizer against the files, and takes over the flags of added tokens and the settings of BERT's normalizer; says
/// whether the latter changed, for the caller to give to the tokenizer.
///
/// # Errors
/// The first difference that gives other tokens and is not taken over, with both places and values.
pub fn settle(
    config: &TokenizerSettings,
    settings: &mut Settings,
    tokenizer: &mut Tokenizer,
) -> Result<bool> {
    let (folder, class) = (config.folder.display(), &config.class);
    let reader = reader(class);
    match reader {
        None => {
            tracing::warn!(%folder, %class, "the tokenizer_class is not known: tokenizer.json is taken as it is, where transformers may give other tokens");
        }
        Some(Reader::Languages) => {
            return Err(error(
                config,
                &Source::new("tokenizer_config.json", "tokenizer_class"),
                format!(
                    " is {class}, which puts the code of a language beside a text, which is not supported; set it to \
                     PreTrainedTokenizerFast if the model was trained without"
                ),
            ));
        }
        _ => {}
    }
    if config.names_a_file {
        tracing::warn!(%folder, "tokenizer_config.json names a tokenizer_file, which transformers 4 reads in place of tokenizer.json: the latter is taken, as by transformers 5");
    }
    let reader = reader.unwrap_or(Reader::Whole);
    let changed = settle_normalizer(config, reader, settings)?;
    check_prefix_space(config, &setting(tokenizer.get_pre_tokenizer()))?;
    check_truncation(config, tokenizer)?;
    check_around(config, reader, &setting(tokenizer.get_post_processor()))?;
    let parts = made_anew(config, reader, settings, tokenizer);
    if !parts.is_empty() {
        let parts = parts.join(", ");
        tracing::warn!(%folder, %class, %parts, "transformers 5 makes these parts of tokenizer.json anew for the class, and gives other tokens than transformers 4: they are taken as they are, as by the latter");
    }
    settle_added(config, settings, tokenizer)?;
    Ok(changed)
}

/// A part of the tokenizer as its file has it.
fn setting(part: Option<&impl serde::Serialize>) -> Value {
    // A part that cannot be written is one that no file has.
    part.and_then(|part| serde_json::to_value(part).ok())
        .unwrap_or_default()
}

fn error(config: &TokenizerSettings, source: &Source, problem: String) -> Error {
    Error::model(
        &config.folder.join(&source.file),
        format!("{}{problem}", source.key),
    )
}

/// The error of a setting (or what transformers takes where it is not set) that `tokenizer.json` has otherwise.
fn differs(
    config: &TokenizerSettings,
    key: &str,
    (set, taken): (Option<bool>, bool),
    there: bool,
    place: &str,
) -> Error {
    let is = match set {
        Some(set) => format!(" is {set}"),
        None => format!(" is not set, for which transformers takes {taken},"),
    };
    error(
        config,
        &Source::new("tokenizer_config.json", key),
        format!(
            "{is} and tokenizer.json has {there} ({place}), which gives other tokens; set both to what the model was \
             trained with (`save_pretrained` of transformers' tokenizer writes both alike)"
        ),
    )
}

/// The settings of BERT's normalizer, which transformers makes anew where they differ; whether they did.
fn settle_normalizer(config: &TokenizerSettings, reader: Reader, settings: &mut Settings) -> Result<bool> {
    let Reader::Bert(_) = reader else {
        return Ok(false);
    };
    let normalizer = &settings.normalizer;
    if kind(normalizer) != "BertNormalizer" {
        let lowers = steps(normalizer, "normalizers").into_iter().any(|step| {
            kind(step) == "Lowercase" || kind(step) == "BertNormalizer" && step["lowercase"] == true
        });
        return match config.do_lower_case {
            Some(wanted) if wanted != lowers => Err(differs(
                config,
                "do_lower_case",
                (Some(wanted), wanted),
                lowers,
                "normalizer",
            )),
            _ => Ok(false),
        };
    }
    let there = |key: &str, default: bool| normalizer[key].as_bool().unwrap_or(default);
    // What is not set means what these classes take for it.
    let lowers = there("lowercase", true);
    let lower = config.do_lower_case.unwrap_or(true);
    let strips = there("strip_accents", lowers);
    let strip = config.strip_accents.unwrap_or(lower);
    let splits = there("handle_chinese_chars", true);
    let split = config.tokenize_chinese_chars.unwrap_or(true);
    let mut wanted = normalizer.clone();
    let mut changed = Vec::new();
    for (key, name, taken, there) in [
        ("do_lower_case", "lowercase", lower, lowers),
        ("strip_accents", "strip_accents", strip, strips),
        ("tokenize_chinese_chars", "handle_chinese_chars", split, splits),
    ] {
        wanted[name] = json!(taken);
        if taken != there {
            changed.push(format!("{key} {taken}"));
        }
    }
    if changed.is_empty() {
        return Ok(false);
    }
    let (folder, taken) = (config.folder.display(), changed.join(", "));
    tracing::warn!(%folder, %taken, "tokenizer.json has other settings than tokenizer_config.json (or what that means where it does not say): the latter are taken, as by transformers");
    settings.set_normalizer(wanted).map_err(|problem| {
        let source = Source::new("tokenizer_config.json", "do_lower_case");
        error(config, &source, format!(": {problem}"))
    })?;
    Ok(true)
}

/// Whether the first word of a text gets a space before it.
fn check_prefix_space(config: &TokenizerSettings, splitter: &Value) -> Result<()> {
    let key = "add_prefix_space";
    if kind(splitter) == "ByteLevel" {
        let there = splitter[key] == true;
        let set = config.add_prefix_space;
        let taken = match set {
            None if config.class.is_empty() || config.class == "TokenizersBackend" => there,
            set => set.unwrap_or(false),
        };
        return match taken == there {
            true => Ok(()),
            false => Err(differs(config, key, (set, taken), there, "pre_tokenizer")),
        };
    }
    let Some(set) = config
        .add_prefix_space
        .filter(|_| config.class.starts_with("XLMRoberta"))
    else {
        return Ok(());
    };
    let marks = steps(splitter, "pretokenizers")
        .into_iter()
        .find(|step| kind(step) == "Metaspace");
    match marks.map(|step| step["prepend_scheme"] != "never") {
        Some(there) if there != set => Err(differs(
            config,
            key,
            (Some(set), set),
            there,
            "pre_tokenizer, prepend_scheme",
        )),
        _ => Ok(()),
    }
}

/// Long texts are cut at their end.
fn check_truncation(config: &TokenizerSettings, tokenizer: &Tokenizer) -> Result<()> {
    let left = tokenizer
        .get_truncation()
        .is_some_and(|truncation| matches!(truncation.direction, TruncationDirection::Left));
    match left && !config.truncates_right {
        false => Ok(()),
        true => Err(error(
            config,
            &Source::new("tokenizer.json", "truncation: direction"),
            " is Left, so that the end of a long text would be kept, which is not supported: only its start is; set it to \
             Right, or truncation_side in tokenizer_config.json to \"right\", which overrules it"
                .into(),
        )),
    }
}

/// The special tokens around a text, and the types of all.
fn check_around(config: &TokenizerSettings, reader: Reader, post_processor: &Value) -> Result<()> {
    for processor in steps(post_processor, "processors") {
        if kind(processor) != "TemplateProcessing" {
            continue;
        }
        let single: Vec<&Value> = processor["single"].as_array().into_iter().flatten().collect();
        for piece in &single {
            let inner = piece.as_object().and_then(|piece| piece.values().next());
            if let Some(other) = inner
                .map(|inner| &inner["type_id"])
                .filter(|id| id.as_u64() != Some(0))
            {
                return Err(error(
                    config,
                    &Source::new("tokenizer.json", "post_processor: single"),
                    format!(
                        " has type_id {other}, which is not supported: all tokens of a text have type 0; set it to 0 if the \
                         model was trained with that"
                    ),
                ));
            }
        }
        // transformers 5 makes the template anew of these.
        let (first, last) = match reader {
            Reader::Bert(_) => ("cls_token", "sep_token"),
            Reader::XlmRoberta => ("bos_token", "eos_token"),
            _ => continue,
        };
        for (name, piece) in [(first, single.first()), (last, single.last())] {
            let there = piece.and_then(|piece| piece["SpecialToken"]["id"].as_str());
            if let (Some((source, set)), Some(there)) = (config.token(name), there)
                && set != there
            {
                return Err(error(
                    config,
                    source,
                    format!(
                        " is {set:?}, and tokenizer.json puts {there:?} there (post_processor), which gives other tokens; \
                         set both to what the model was trained with"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// An ordinary text, to see whether a normalizer and a splitter make the same pieces of it as others.
const ORDINARY: &str = "  H\u{e9}llo w\u{f6}rld, don't  stop!\n\nA snake_case\tof \u{fb01}ve: 3.5% \u{ff10}\u{ff11} \
                        \u{4e2d}\u{6587}\u{ff0c}x\u{a0}y\u{3000}(z)\u{200b}e\u{301} ";

/// The pieces that they make of [`ORDINARY`].
fn pieces(normalizer: &Value, splitter: &Value) -> std::result::Result<Vec<String>, String> {
    let normalizer: Option<NormalizerWrapper> =
        serde_json::from_value(normalizer.clone()).map_err(|e| e.to_string())?;
    let splitter: Option<PreTokenizerWrapper> =
        serde_json::from_value(splitter.clone()).map_err(|e| e.to_string())?;
    let mut text = PreTokenizedString::from(ORDINARY);
    super::fenced(|| {
        normalizer
            .map_or(Ok(()), |n| text.normalize(|text| n.normalize(text)))
            .and_then(|()| splitter.map_or(Ok(()), |splitter| splitter.pre_tokenize(&mut text)))
            .map_err(|e| e.to_string())
    })?;
    let pieces = text.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(pieces.into_iter().map(|(piece, _, _)| piece.to_owned()).collect())
}

/// The tokens that classes name by themselves.
const NAMED: [&str; 10] = [
    "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>",
];

/// The parts of `tokenizer.json` in whose place transformers 5 makes others for the class, which give other tokens: of its
/// normalizer and splitter, of ordinary texts.
fn made_anew(
    config: &TokenizerSettings,
    reader: Reader,
    settings: &Settings,
    tokenizer: &Tokenizer,
) -> Vec<&'static str> {
    let bytes = |space| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true});
    let (normalizer, splitter, around) = match reader {
        Reader::Bert([first, last]) => (
            json!({
                "type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": config.tokenize_chinese_chars.unwrap_or(true),
                "strip_accents": config.strip_accents,
                // Those of DPR do not pass the setting on.
                "lowercase": config.do_lower_case.unwrap_or(true) || config.class.starts_with("DPR"),
            }),
            json!({"type": "BertPreTokenizer"}),
            [("cls_token", first), ("sep_token", last)],
        ),
        Reader::XlmRoberta => {
            let maps = steps(&settings.normalizer, "normalizers");
            let map = maps.into_iter().find(|step| kind(step) == "Precompiled");
            let scheme = match config.add_prefix_space {
                Some(false) => "never",
                _ => "always",
            };
            let marks = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
            let splitters = json!([{"type": "WhitespaceSplit"}, marks]);
            (
                map.cloned().unwrap_or_default(),
                json!({"type": "Sequence", "pretokenizers": splitters}),
                [("bos_token", "<s>"), ("eos_token", "</s>")],
            )
        }
        Reader::Roberta => (
            Value::Null,
            bytes(config.add_prefix_space == Some(true)),
            [("cls_token", "<s>"), ("sep_token", "</s>")],
        ),
        Reader::Whole | Reader::Languages => return Vec::new(),
    };
    let named = |name: &str, default| config.token(name).map_or(default, |(_, token)| token.as_str());
    let mut parts = Vec::new();
    let (old, new) = (&settings.normalizer, &settings.pre_tokenizer);
    let same = *old == normalizer && *new == splitter || pieces(old, new) == pieces(&normalizer, &splitter);
    if !same {
        // The one to blame, or both.
        let splitter_alone = pieces(old, &splitter) == pieces(&normalizer, &splitter);
        let normalizer_alone = pieces(&normalizer, new) == pieces(&normalizer, &splitter);
        parts.extend((!splitter_alone).then_some("normalizer"));
        parts.extend((!normalizer_alone || splitter_alone).then_some("pre_tokenizer"));
    }
    let model_is_same = match (reader, tokenizer.get_model()) {
        (Reader::Bert(_), ModelWrapper::WordPiece(model)) => {
            model.unk_token == named("unk_token", "[UNK]")
                && model.continuing_subword_prefix == "##"
                && model.max_input_chars_per_word == 100
        }
        // A character that no vocabulary has.
        (Reader::XlmRoberta, ModelWrapper::Unigram(model)) => {
            let unknown = super::fenced(|| model.tokenize("\u{10fffd}").map_err(|e| e.to_string()));
            unknown.is_ok_and(|tokens| matches!(&tokens[..], [token] if token.id == 3))
        }
        (Reader::Roberta, ModelWrapper::BPE(model)) => {
            let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
            !model.ignore_merges && affixes.into_iter().flatten().all(String::is_empty)
        }
        _ => false,
    };
    parts.extend((!model_is_same).then_some("model"));
    let text = u32::MAX;
    let letter = Encoding::from_tokens(vec![Token::new(text, super::LETTER.into(), (0, 1))], 0);
    let processed = match tokenizer.get_post_processor() {
        None => Ok(letter),
        Some(processor) => super::fenced(|| processor.process(letter, None, true).map_err(|e| e.to_string())),
    };
    let [first, last] = around.map(|(name, default)| tokenizer.token_to_id(named(name, default)));
    let wanted = [first, Some(text), last];
    // One that fails is refused later.
    let around_is_same = processed.map_or(true, |found| found.get_ids().iter().copied().map(Some).eq(wanted));
    parts.extend((!around_is_same).then_some("post_processor"));
    let listed: HashMap<&str, Option<u32>> = config
        .added
        .iter()
        .map(|(_, token)| (token.content.as_str(), token.id))
        .collect();
    // A class adds those that have a name, or are its own, by itself.
    let named: HashSet<&str> = config
        .tokens
        .iter()
        .map(|(_, content)| content.as_str())
        .collect();
    let added_is_same = |(id, token): (&u32, &AddedToken)| {
        let content = token.content.as_str();
        let is_named = || NAMED.contains(&content) || named.contains(content);
        listed
            .get(content)
            .map_or_else(is_named, |listed| *listed == Some(*id))
    };
    let added_are_same = listed.is_empty() || tokenizer.get_added_tokens_decoder().iter().all(added_is_same);
    parts.extend((!added_are_same).then_some("added_tokens"));
    parts
}

/// Tokens that are found in a text before the tokenizer's own: all must be in `tokenizer.json`.
fn settle_added(
    config: &TokenizerSettings,
    settings: &mut Settings,
    tokenizer: &mut Tokenizer,
) -> Result<()> {
    let there = tokenizer.get_added_tokens_decoder();
    let there: HashMap<&str, &AddedToken> = there
        .values()
        .map(|token| (token.content.as_str(), token))
        .collect();
    let added = config
        .added
        .iter()
        .map(|(source, token)| (source, &token.content));
    let named = config.tokens.iter().map(|(source, content)| (source, content));
    for (source, content) in added.chain(named) {
        // An empty one is not added.
        if !content.is_empty() && !there.contains_key(content.as_str()) {
            return Err(error(
                config,
                source,
                format!(
                    ": the token {content:?} is not one of added_tokens in tokenizer.json, and texts that hold it would get \
                     other tokens; save the tokenizer anew (`save_pretrained` of transformers' tokenizer), or take it out"
                ),
            ));
        }
    }
    let mut changed = Vec::new();
    for (_, token) in &config.added {
        let new = AddedToken {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        };
        if there.get(token.content.as_str()).is_some_and(|old| **old != new) {
            changed.push(new);
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = changed.iter().map(|token| token.content.as_str()).collect();
    let (folder, tokens) = (config.folder.display(), list(&names));
    tracing::warn!(%folder, %tokens, "tokens whose flags in tokenizer_config.json are not those in tokenizer.json: the former are taken, as by transformers 5");
    let flags: HashMap<&str, &AddedToken> = changed
        .iter()
        .map(|token| (token.content.as_str(), token))
        .collect();
    for token in &mut settings.added_tokens {
        if let Some(new) = flags.get(token.content.as_str()) {
            (token.rstrip, token.single_word) = (new.rstrip, new.single_word);
            token.normalized = new.normalized;
        }
    }
    super::fenced(|| {
        tokenizer
            .add_tokens(changed.clone())
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
    .map_err(|problem| {
        error(
            config,
            &Source::new("tokenizer_config.json", "added_tokens_decoder"),
            format!(": the flags of its tokens cannot be taken over: {problem}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::AddedToken as Listed;

    /// A golden model's `tokenizer.json` as it is changed, and its class.
    fn parts(
        name: &str,
        class: &str,
        set: impl FnOnce(&mut TokenizerSettings),
        change: impl FnOnce(&mut Value),
    ) -> Vec<&'static str> {
        let mut config = TokenizerSettings {
            class: class.into(),
            ..TokenizerSettings::default()
        };
        set(&mut config);
        let (mut settings, tokenizer) = open(name, change);
        let reader = reader(class).unwrap();
        settle_normalizer(&config, reader, &mut settings).unwrap();
        made_anew(&config, reader, &settings, &tokenizer)
    }

    fn open(name: &str, change: impl FnOnce(&mut Value)) -> (Settings, Tokenizer) {
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let file = std::fs::read(golden.join(name).join("tokenizer.json")).unwrap();
        let mut file: Value = serde_json::from_slice(&file).unwrap();
        change(&mut file);
        let file = file.to_string();
        (
            Settings::read(file.as_bytes()).unwrap(),
            Tokenizer::from_bytes(file.as_bytes()).unwrap(),
        )
    }

    fn put(keys: &[&str], value: Value) -> impl FnOnce(&mut Value) {
        let mut keys: Vec<String> = keys.iter().map(|&key| key.into()).collect();
        move |file| {
            let last = keys.pop().unwrap();
            keys.iter().fold(file, |value, key| &mut value[key])[last] = value;
        }
    }

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
    }

    fn marks(scheme: &str) -> Value {
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true})
    }

    fn processing(kind: &str, first: (&str, u32), last: (&str, u32)) -> Value {
        json!({"type": kind, "cls": first, "sep": last, "trim_offsets": true, "add_prefix_space": false})
    }

    #[test]
    fn parts_of_bert_that_version_5_makes_anew_are_named() {
        let one = |keys: &[&str], value: Value| parts("bert", "BertTokenizer", |_| (), put(keys, value));
        assert!(parts("bert", "BertTokenizer", |_| (), |_| ()).is_empty());
        let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
        let sequence = json!({"type": "Sequence", "normalizers": [bert]});
        assert!(one(&["normalizer"], sequence.clone()).is_empty());
        let mut forms = sequence;
        forms["normalizers"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"type": "NFKC"}));
        assert_eq!(one(&["normalizer"], forms), ["normalizer"]);
        assert_eq!(one(&["normalizer"], json!({"type": "Lowercase"})), ["normalizer"]);
        assert_eq!(one(&["normalizer"], Value::Null), ["normalizer"]);
        assert_eq!(one(&["normalizer", "clean_text"], json!(false)), ["normalizer"]);
        for splitter in ["WhitespaceSplit", "Whitespace"] {
            assert_eq!(
                one(&["pre_tokenizer"], json!({"type": splitter})),
                ["pre_tokenizer"]
            );
        }
        let pieces = |key: &str, value: Value| one(&["model", key], value);
        assert_eq!(pieces("max_input_chars_per_word", json!(8)), ["model"]);
        assert_eq!(pieces("continuing_subword_prefix", json!("@@")), ["model"]);
        assert_eq!(pieces("unk_token", json!("[PAD]")), ["model"]);
        assert_eq!(pieces("type", json!("WordLevel")), ["model"]);
        let same = processing("BertProcessing", ("[CLS]", 2), ("[SEP]", 3));
        assert!(one(&["post_processor"], same).is_empty());
        let other = processing("BertProcessing", ("[CLS]", 2), ("[MASK]", 4));
        assert_eq!(one(&["post_processor"], other), ["post_processor"]);
        assert_eq!(one(&["post_processor"], Value::Null), ["post_processor"]);
        let ids = json!({"id": "[CLS]", "ids": [7], "tokens": ["[CLS]"]});
        assert_eq!(
            one(&["post_processor", "special_tokens", "[CLS]"], ids),
            ["post_processor"]
        );
        // As their own settings have it.
        let cased = |config: &mut TokenizerSettings| config.do_lower_case = Some(false);
        assert!(parts("bert", "BertTokenizer", cased, |_| ()).is_empty());
        assert_eq!(parts("bert", "DPRReaderTokenizer", cased, |_| ()), ["normalizer"]);
        assert!(
            parts(
                "bert",
                "PreTrainedTokenizer",
                cased,
                put(&["normalizer"], Value::Null)
            )
            .is_empty()
        );
    }

    #[test]
    fn added_tokens_that_version_5_leaves_out_are_named() {
        let with = |listed: &[(u32, &str)]| {
            let set = |config: &mut TokenizerSettings| {
                config.added = listed
                    .iter()
                    .map(|&(id, content)| {
                        let token = Listed {
                            id: Some(id),
                            content: content.into(),
                            ..Listed::default()
                        };
                        (
                            Source::new("tokenizer_config.json", "added_tokens_decoder"),
                            token,
                        )
                    })
                    .collect();
            };
            parts("bert", "BertTokenizer", set, |file| {
                let token = json!({"id": 600, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
                file["added_tokens"].as_array_mut().unwrap().push(token);
            })
        };
        assert!(with(&[]).is_empty());
        assert!(with(&[(4, "[MASK]"), (600, "<new>")]).is_empty());
        assert_eq!(with(&[(4, "[MASK]")]), ["added_tokens"]);
        assert_eq!(with(&[(4, "[MASK]"), (601, "<new>")]), ["added_tokens"]);
    }

    #[test]
    fn xlm_roberta_as_it_is_published_is_the_same_in_version_5() {
        let one = |normalizers: Value, splitter: Value| {
            parts(
                "xlm-roberta",
                "XLMRobertaTokenizer",
                |_| (),
                |file| {
                    file["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers});
                    file["pre_tokenizer"] = splitter;
                },
            )
        };
        let map = json!({"type": "Precompiled", "precompiled_charsmap": crate::text::tests::map_to_x(b'!')});
        let both = |scheme| json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks(scheme)]});
        assert!(one(json!([map]), both("always")).is_empty());
        assert_eq!(one(json!([map]), both("first")), ["pre_tokenizer"]);
        // That of newer conversions, whose map makes a space of each of these.
        let spaces = replace("[\\n\\t\u{a0}\u{3000}]", " ");
        let strip = json!({"type": "Strip", "strip_left": false, "strip_right": true});
        let newer = json!([map, spaces, strip, replace(" {2,}", "\u{2581}")]);
        assert!(one(newer, marks("always")).is_empty());
        assert_eq!(one(json!([map]), marks("always")), ["pre_tokenizer"]);
        assert_eq!(one(json!([{"type": "NFKC"}]), both("always")), ["normalizer"]);
        assert!(one(json!([]), both("always")).is_empty());
        let plain = |change: &dyn Fn(&mut Value)| {
            parts(
                "xlm-roberta",
                "XLMRobertaTokenizer",
                |_| (),
                |file| {
                    file["normalizer"] = Value::Null;
                    file["pre_tokenizer"] = both("always");
                    change(file);
                },
            )
        };
        assert!(plain(&|_| ()).is_empty());
        assert_eq!(plain(&|file| file["model"]["unk_id"] = json!(5)), ["model"]);
        assert_eq!(
            plain(&|file| file["post_processor"] = Value::Null),
            ["post_processor"]
        );
        let same = processing("RobertaProcessing", ("<s>", 0), ("</s>", 2));
        assert!(plain(&|file| file["post_processor"] = same.clone()).is_empty());
    }

    #[test]
    fn roberta_has_no_normalizer_in_version_5() {
        let one = |change: fn(&mut Value)| {
            parts(
                "bert",
                "RobertaTokenizer",
                |_| (),
                |file| {
                    file["normalizer"] = Value::Null;
                    file["pre_tokenizer"] = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
                    file["model"] = json!({
                        "type": "BPE", "continuing_subword_prefix": "", "end_of_word_suffix": "", "merges": [],
                        "vocab": {"<s>": 0, "</s>": 2, "a": 5},
                    });
                    file["post_processor"] = processing("RobertaProcessing", ("<s>", 0), ("</s>", 2));
                    file["added_tokens"] = json!([]);
                    change(file);
                },
            )
        };
        assert!(one(|_| ()).is_empty());
        assert_eq!(
            one(|file| file["normalizer"] = json!({"type": "Lowercase"})),
            ["normalizer"]
        );
        assert_eq!(
            one(|file| file["model"]["end_of_word_suffix"] = json!("</w>")),
            ["model"]
        );
    }

    #[test]
    fn classes_like_bert_take_its_settings_and_others_do_not() {
        let taken = |class: &str, set: Option<bool>| {
            let config = TokenizerSettings {
                class: class.into(),
                do_lower_case: set,
                ..TokenizerSettings::default()
            };
            let (mut settings, _) = open("bert", put(&["normalizer", "lowercase"], json!(false)));
            let reader = reader(class).unwrap_or(Reader::Whole);
            settle_normalizer(&config, reader, &mut settings).unwrap();
            settings.normalizer["lowercase"] == true
        };
        for (name, reader) in CLASSES {
            let like_bert = matches!(reader, Reader::Bert(_));
            let class = format!("{name}Tokenizer");
            assert_eq!(taken(&class, None), like_bert, "{name}");
            assert_eq!(taken(&class, Some(true)), like_bert, "{name}");
            assert!(!taken(&class, Some(false)), "{name}");
        }
        for class in [
            "HerbertTokenizer",
            "ConvBertTokenizer",
            "FooTokenizer",
            "Bert",
            "BERTTokenizer",
        ] {
            assert_eq!(reader(class), None);
            assert!(!taken(class, Some(true)));
        }
    }
}
