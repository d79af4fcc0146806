//! Whether the files beside `tokenizer.json` agree with it.
//!
//! transformers reads both and changes what `tokenizer.json` says by the others: its versions 4 and 5 alike, or one of
//! them. What gives other tokens in either is refused, but for what is taken over with a warning: the settings of BERT's
//! normalizer, which both take from `tokenizer_config.json`, and the flags of added tokens, as in version 5.
//!
//! A class that is not known is a warning.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::utils::truncation::TruncationDirection;
use tokenizers::{AddedToken, Tokenizer};

use super::cut::{kind, steps};
use super::settings::Settings;
use crate::error::{Error, Result, list};
use crate::model::config::{Source, TokenizerSettings};

/// What a class of transformers makes of `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reader {
    /// It is taken as it is.
    Whole,
    /// BERT's normalizer gets the settings of `tokenizer_config.json`, or the class's own.
    Bert,
    /// It is taken as it is, but for the space before a text.
    XlmRoberta,
    Roberta,
    /// The code of a language stands beside a text.
    Languages,
}

const BERT: Reader = Reader::Bert;

/// The classes, without the endings `Tokenizer` and `TokenizerFast`, that are known.
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
    ("MPNet", BERT),
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
    let Reader::Bert = reader else {
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
            Reader::Bert => ("cls_token", "sep_token"),
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

    /// A golden model's `tokenizer.json` as it is changed.
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
            let like_bert = matches!(reader, Reader::Bert);
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
