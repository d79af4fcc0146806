//! What a `tokenizer.json` says, checked before and beside the tokenizers library, which panics on some of it, takes some
//! by its keys alone, and bounds neither memory nor time.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenizers::{
    DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper,
};

use super::cut::{AddedToken, kind};
use super::{fenced, growth, pattern};

/// The settings that are checked here, as the library has read them. The vocabulary is not kept.
pub struct Settings {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub added_tokens: Vec<AddedToken>,
    /// The most by which normalizing multiplies a text.
    pub growth: f64,
    /// The most by which splitting multiplies what that has made.
    pub splitter_growth: f64,
    /// The most by which the decoder multiplies the bytes of tokens, with one more for each.
    pub decoder_growth: f64,
}

/// A text may become this many times as long when it is normalised. What XLM-RoBERTa's does takes 17 times, ALBERT's, with
/// a form of Unicode and its own, 121.
const LARGEST_GROWTH: f64 = 128.0;

/// The same for the splitter: the marks of SentencePiece take 6 times.
const LARGEST_SPLITTER_GROWTH: f64 = 32.0;

/// The same for tokens that become a text again.
const LARGEST_DECODER_GROWTH: f64 = 64.0;

/// Each step goes over the whole text, and real files have up to eight.
const MOST_STEPS: usize = 32;

/// JSON values of a file: each takes some 200 bytes while it is read. A vocabulary of 262,144 tokens and twice as many merges
/// has two million.
const MOST_VALUES: usize = 4 << 20;

/// The same for a part of the file beside the vocabulary. Real ones have some dozens.
const MOST_VALUES_OF_PART: usize = 16 << 10;

/// Added tokens, their bytes each and together, as they are written and as they are normalised: they go into a table of some
/// hundred bytes for each byte, and a text is read ahead by the longest.
const MOST_ADDED_TOKENS: usize = 64 << 10;
const LONGEST_ADDED_TOKEN: usize = 1 << 10;
const MOST_ADDED_BYTES: usize = 4 << 20;

/// What normalizing the added tokens could make of them on the way, in bytes: it takes time.
const MOST_NORMALISED_BYTES: f64 = (64 << 20) as f64;

/// WordPiece looks up every part of a word, which is cubic in its characters. BERT, and all that follow it, have 100.
const LONGEST_WORD: usize = 256;

/// Unigram looks up every start of the rest of a word up to its longest token, which is quadratic in that. XLM-RoBERTa has 48
/// bytes. BPE merges pairs instead, whose time does not depend on how long tokens are.
const LONGEST_PIECE: usize = 256;

/// Bytes of the longest token of the other vocabularies: each of a few ids may stand for it. Those of GPT-4 and LLaMA 3 have
/// 256, for 128 spaces.
const LONGEST_TOKEN: usize = 1 << 10;

/// Bytes of Unigram's tokens together. A million tokens have 10 MB.
const MOST_PIECE_BYTES: usize = 16 << 20;

/// They become a tree of one branch for each byte that two tokens do not begin with alike, of some 340 bytes each.
const MOST_BRANCHES: usize = 4 << 20;

/// Put before or in place of each part of a word that is looked up.
const LONGEST_AFFIX: usize = 256;

/// Special tokens that a template puts around a text: each place of one may stand for a list of them. BERT has 2.
const MOST_SPECIALS: usize = 1 << 10;

/// The parts of a file as they stand there. A part that is there twice is refused.
#[derive(Deserialize)]
struct Parts<'f> {
    #[serde(borrow, default)]
    normalizer: Option<&'f RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'f RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'f RawValue>,
    #[serde(borrow, default)]
    decoder: Option<&'f RawValue>,
    #[serde(borrow, default)]
    added_tokens: Option<&'f RawValue>,
    #[serde(borrow, default)]
    model: Option<&'f RawValue>,
}

/// A part that is a step or a sequence of them.
struct Part {
    name: &'static str,
    /// The key of a sequence's steps.
    list: &'static str,
    /// The names of steps that are known.
    kinds: &'static [&'static str],
    /// Its longest text.
    bytes: usize,
}

const NORMALIZER: Part = Part {
    name: "normalizer",
    list: "normalizers",
    kinds: &[
        "Bert",
        "BertNormalizer",
        "ByteLevel",
        "Lowercase",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Nmt",
        "Precompiled",
        "Prepend",
        "Replace",
        "Sequence",
        "Strip",
        "StripAccents",
    ],
    // The map of SentencePiece takes 317 KB.
    bytes: 4 << 20,
};

const SPLITTER: Part = Part {
    name: "pre_tokenizer",
    list: "pretokenizers",
    kinds: &[
        "BertPreTokenizer",
        "ByteLevel",
        "CharDelimiterSplit",
        "Digits",
        "FixedLength",
        "Metaspace",
        "Punctuation",
        "Sequence",
        "Split",
        "UnicodeScripts",
        "Whitespace",
        "WhitespaceSplit",
    ],
    bytes: 64 << 10,
};

const POST_PROCESSOR: Part = Part {
    name: "post_processor",
    list: "processors",
    kinds: &[
        "BertProcessing",
        "ByteLevel",
        "RobertaProcessing",
        "Sequence",
        "TemplateProcessing",
    ],
    bytes: 64 << 10,
};

const DECODER: Part = Part {
    name: "decoder",
    list: "decoders",
    kinds: &[
        "BPEDecoder",
        "ByteFallback",
        "ByteLevel",
        "CTC",
        "Fuse",
        "Metaspace",
        "Replace",
        "Sequence",
        "Strip",
        "WordPiece",
    ],
    bytes: 64 << 10,
};

impl Part {
    /// The part as the library reads it, in a form that names every step: the library takes a step whose type it does not
    /// know, or that names it twice, for whichever its keys fit.
    fn read<T: DeserializeOwned + Serialize>(&self, part: Option<&RawValue>) -> Result<Value, String> {
        let Some(part) = part else {
            return Ok(Value::Null);
        };
        let Part { name, kinds, .. } = self;
        bounded(name, part, self.bytes, MOST_VALUES_OF_PART)?;
        let problem = |e: String| format!("{name}: {e}");
        let value: Value = serde_json::from_str(part.get()).map_err(|e| problem(e.to_string()))?;
        let mut count = 0;
        self.each(&value, &mut |step| {
            count += 1;
            match kind(step) {
                "" => Err(problem(
                    "a step has no `type`; give it one, or save the file with a newer library".into(),
                )),
                known if kinds.contains(&known) => Ok(()),
                other => Err(format!(
                    "{name}: a step of the type {other:?} is not known; there are {}",
                    kinds.join(", ")
                )),
            }?;
            match kind(step) {
                // The library's own words on a bad map do not say what is wrong.
                "Precompiled" => growth::PrecompiledMap::read(&step["precompiled_charsmap"]).map(drop),
                _ => Ok(()),
            }
        })?;
        if count > MOST_STEPS {
            return Err(format!(
                "{name}: has {count} steps, each of which goes over the whole text; at most {MOST_STEPS} are taken; leave \
                 out those that do nothing"
            ));
        }
        let read: T =
            fenced(|| serde_json::from_str(part.get()).map_err(|e| e.to_string())).map_err(problem)?;
        serde_json::to_value(&read).map_err(|e| problem(e.to_string()))
    }

    /// The steps that are no sequences, in their order, whatever sequences they stand in.
    fn steps<'v>(&self, part: &'v Value) -> Vec<&'v Value> {
        let mut steps = Vec::new();
        let all = self.each(part, &mut |step| {
            if kind(step) != "Sequence" {
                steps.push(step);
            }
            Ok(())
        });
        all.expect("nothing is refused");
        steps
    }

    /// Calls `visit` for the part, unless it is a sequence, and for everything in sequences.
    fn each<'v>(
        &self,
        part: &'v Value,
        visit: &mut impl FnMut(&'v Value) -> Result<(), String>,
    ) -> Result<(), String> {
        let steps = match (kind(part), &part[self.list]) {
            ("Sequence", Value::Array(steps)) => steps,
            ("Sequence", _) => return Err(format!("{}: a sequence has no {:?}", self.name, self.list)),
            (_, _) if part.is_null() => return Ok(()),
            _ => return visit(part),
        };
        for step in steps {
            if kind(step) == "Sequence" {
                visit(step)?;
            }
            self.each(step, visit)?;
        }
        Ok(())
    }
}

impl Settings {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// What is wrong, in which part of the file.
    pub fn read(file: &[u8]) -> Result<Settings, String> {
        let values = values(file);
        if values > MOST_VALUES {
            return Err(format!(
                "has some {values} JSON values, which would take {} MB to read; at most {MOST_VALUES} are taken; use a \
                 smaller vocabulary",
                values / 5000
            ));
        }
        let parts: Parts = serde_json::from_slice(file).map_err(|e| e.to_string())?;
        let normalizer = NORMALIZER.read::<NormalizerWrapper>(parts.normalizer)?;
        let pre_tokenizer = SPLITTER.read::<PreTokenizerWrapper>(parts.pre_tokenizer)?;
        let post_processor = POST_PROCESSOR.read::<PostProcessorWrapper>(parts.post_processor)?;
        let decoder = DECODER.read::<DecoderWrapper>(parts.decoder)?;
        for (part, read) in [
            (&NORMALIZER, &normalizer),
            (&SPLITTER, &pre_tokenizer),
            (&DECODER, &decoder),
        ] {
            pattern::check(part.name, &part.steps(read))?;
        }
        check_processors(&POST_PROCESSOR.steps(&post_processor))?;
        parts.model.map_or(Ok(()), check_model)?;
        let settings = Settings {
            growth: at_most(
                LARGEST_GROWTH,
                growth::of_normalizer(&NORMALIZER.steps(&normalizer))?,
                "normalizer: makes a text",
            )?,
            decoder_growth: at_most(
                LARGEST_DECODER_GROWTH,
                growth::of_decoder(&DECODER.steps(&decoder)),
                "decoder: makes tokens",
            )?,
            added_tokens: parts.added_tokens.map_or(Ok(Vec::new()), added_tokens)?,
            splitter_growth: at_most(
                LARGEST_SPLITTER_GROWTH,
                growth::of_splitter(&SPLITTER.steps(&pre_tokenizer)),
                "pre_tokenizer: makes a text",
            )?,
            pre_tokenizer,
            normalizer,
        };
        settings.check_added()?;
        Ok(settings)
    }

    /// The most by which a text is multiplied before a step that looks ahead, if there is one.
    pub fn growth_before_look_ahead(&self) -> Option<f64> {
        let steps = SPLITTER.steps(&self.pre_tokenizer);
        let last = steps.iter().rposition(|step| pattern::looks_ahead(step))?;
        Some(self.growth * growth::of_splitter(&steps[..last]))
    }

    /// Refuses added tokens that are too long when they are normalised, as those are that say so, in this file or one
    /// beside it: the library then looks for that form.
    fn check_added(&self) -> Result<(), String> {
        let tokens = &self.added_tokens;
        let most = |token: &AddedToken| self.growth * (token.content.len() + 1) as f64;
        let bytes: f64 = tokens.iter().map(most).sum();
        let short = |token: &AddedToken| most(token) <= LONGEST_ADDED_TOKEN as f64;
        if self.normalizer.is_null() || bytes <= MOST_ADDED_BYTES as f64 && tokens.iter().all(short) {
            return Ok(());
        }
        let problem = |what: String| {
            Err(format!(
                "added_tokens: {what} when they are normalised; leave out those that the model was not trained with"
            ))
        };
        if bytes > MOST_NORMALISED_BYTES {
            return problem(format!(
                "they may become {bytes:.0} bytes; at most {MOST_NORMALISED_BYTES} are taken"
            ));
        }
        // The bound may be far from what these tokens become.
        let normalizer: NormalizerWrapper =
            serde_json::from_value(self.normalizer.clone()).map_err(|e| e.to_string())?;
        let mut bytes = 0;
        for (number, token) in tokens.iter().enumerate() {
            let mut text = NormalizedString::from(token.content.as_str());
            fenced(|| normalizer.normalize(&mut text).map_err(|e| e.to_string()))
                .map_err(|e| format!("added_tokens: number {number} cannot be normalised: {e}"))?;
            let length = text.get().len();
            if length > LONGEST_ADDED_TOKEN {
                return problem(format!(
                    "number {number} has {length} bytes; at most {LONGEST_ADDED_TOKEN} are taken"
                ));
            }
            bytes += length;
        }
        match bytes > MOST_ADDED_BYTES {
            true => problem(format!(
                "they have {bytes} bytes; at most {MOST_ADDED_BYTES} are taken"
            )),
            false => Ok(()),
        }
    }

    /// Takes another normalizer.
    ///
    /// # Errors
    /// It multiplies a text too often, or makes an added token too long.
    pub fn set_normalizer(&mut self, normalizer: Value) -> Result<(), String> {
        let growth = growth::of_normalizer(&NORMALIZER.steps(&normalizer))?;
        self.growth = at_most(LARGEST_GROWTH, growth, "normalizer: makes a text")?;
        self.normalizer = normalizer;
        self.check_added()
    }

    /// Puts a step that makes lower case before the others, unless one of them does so by itself; whether it did.
    ///
    /// # Errors
    /// It makes an added token too long.
    pub fn add_lower_case(&mut self) -> Result<bool, String> {
        let old = match (kind(&self.normalizer), &self.normalizer) {
            (_, Value::Null) => Vec::new(),
            ("Sequence", normalizer) => normalizer["normalizers"].as_array().cloned().unwrap_or_default(),
            (_, normalizer) => vec![normalizer.clone()],
        };
        if old.iter().any(|step| kind(step) == "Lowercase") {
            return Ok(false);
        }
        let steps: Vec<Value> = [json!({"type": "Lowercase"})].into_iter().chain(old).collect();
        self.normalizer = json!({"type": "Sequence", "normalizers": steps});
        self.growth *= growth::LOWER_CASE;
        self.check_added()?;
        Ok(true)
    }
}

fn at_most(limit: f64, growth: f64, what: &str) -> Result<f64, String> {
    match growth <= limit {
        true => Ok(growth),
        false => Err(format!(
            "{what} up to {growth:.0} times as long; wanted at most {limit} times; replace by shorter strings, or in fewer \
             steps"
        )),
    }
}

/// About how many values a JSON text has: all but the first of a list or an object follow a comma.
fn values(json: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (1, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

/// Refuses a part that would take too much memory to read.
fn bounded(name: &str, part: &RawValue, most_bytes: usize, most_values: usize) -> Result<(), String> {
    let (bytes, values) = (part.get().len(), values(part.get().as_bytes()));
    let too_many = |number: usize, unit: &str, most: usize| {
        Err(format!(
            "{name}: has {number} {unit}; at most {most} are taken; use the tokenizer that the model was published with"
        ))
    };
    match (bytes > most_bytes, values > most_values) {
        (true, _) => too_many(bytes, "bytes", most_bytes),
        (_, true) => too_many(values, "JSON values", most_values),
        _ => Ok(()),
    }
}

fn added_tokens(part: &RawValue) -> Result<Vec<AddedToken>, String> {
    // Each has seven values, and some 200 bytes where it is written in lines.
    bounded("added_tokens", part, 32 << 20, 16 * MOST_ADDED_TOKENS)?;
    let tokens: Vec<AddedToken> =
        serde_json::from_str(part.get()).map_err(|e| format!("added_tokens: {e}"))?;
    let problem = |what: String| {
        Err(format!(
            "added_tokens: {what}; leave out those that the model was not trained with"
        ))
    };
    let (count, bytes) = (
        tokens.len(),
        tokens.iter().map(|token| token.content.len()).sum::<usize>(),
    );
    if count > MOST_ADDED_TOKENS {
        return problem(format!(
            "there are {count}; at most {MOST_ADDED_TOKENS} are taken"
        ));
    }
    if let Some(number) = tokens
        .iter()
        .position(|token| token.content.len() > LONGEST_ADDED_TOKEN)
    {
        return problem(format!(
            "number {number} has {} bytes; at most {LONGEST_ADDED_TOKEN} are taken",
            tokens[number].content.len()
        ));
    }
    if bytes > MOST_ADDED_BYTES {
        return problem(format!(
            "they have {bytes} bytes; at most {MOST_ADDED_BYTES} are taken"
        ));
    }
    Ok(tokens)
}

/// What the time and memory of the model proper depend on.
#[derive(Deserialize)]
struct Model<'f> {
    #[serde(borrow, default)]
    vocab: Option<&'f RawValue>,
    #[serde(default)]
    max_input_chars_per_word: Option<usize>,
    #[serde(borrow, default)]
    unk_token: Option<Cow<'f, str>>,
    #[serde(borrow, default)]
    continuing_subword_prefix: Option<Cow<'f, str>>,
    #[serde(borrow, default)]
    end_of_word_suffix: Option<Cow<'f, str>>,
}

fn check_model(part: &RawValue) -> Result<(), String> {
    let model: Model = serde_json::from_str(part.get()).map_err(|e| format!("model: {e}"))?;
    if let Some(longest) = model
        .max_input_chars_per_word
        .filter(|&longest| longest > LONGEST_WORD)
    {
        return Err(format!(
            "model: max_input_chars_per_word is {longest}; at most {LONGEST_WORD} are taken, since the time for a word grows \
             with its third power; BERT has 100"
        ));
    }
    for (key, affix) in [
        ("unk_token", &model.unk_token),
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        let bytes = affix.as_ref().map_or(0, |affix| affix.len());
        if bytes > LONGEST_AFFIX {
            return Err(format!(
                "model: {key} has {bytes} bytes; at most {LONGEST_AFFIX} are taken, since it is copied for every token of a \
                 text; give a shorter one"
            ));
        }
    }
    let Some(vocab) = model.vocab else {
        return Ok(());
    };
    // Unigram's is a list; the others map tokens to ids.
    if !vocab.get().starts_with('[') {
        return check_tokens(vocab);
    }
    let Pieces { tokens, bytes } =
        serde_json::from_str(vocab.get()).map_err(|e| format!("model: vocab: {e}"))?;
    if let Some(token) = tokens.iter().find(|token| token.len() > LONGEST_PIECE) {
        return Err(format!(
            "model: a token has {} bytes; at most {LONGEST_PIECE} are taken for Unigram, since the time for a text \
             grows with the square of the longest; leave the token out of `vocab`",
            token.len()
        ));
    }
    let (number, unit, most) = match bytes > MOST_PIECE_BYTES {
        true => (bytes, "bytes", MOST_PIECE_BYTES),
        // There are no more branches than bytes, and few vocabularies have so many of these.
        false if bytes > MOST_BRANCHES => (branches(tokens), "branches of a tree", MOST_BRANCHES),
        false => return Ok(()),
    };
    match number > most {
        true => Err(format!(
            "model: the tokens have at least {number} {unit}; at most {most} are taken for Unigram, whose tree of them would \
             not fit into memory; use a smaller vocabulary"
        )),
        false => Ok(()),
    }
}

fn check_tokens(vocab: &RawValue) -> Result<(), String> {
    let Longest(bytes) = serde_json::from_str(vocab.get()).map_err(|e| format!("model: vocab: {e}"))?;
    match bytes > LONGEST_TOKEN {
        true => Err(format!(
            "model: a token has {bytes} bytes; at most {LONGEST_TOKEN} are taken, since a few ids could stand for a text that \
             does not fit into memory; leave the token out of `vocab`"
        )),
        false => Ok(()),
    }
}

/// The branches of the tree of these tokens, each of one byte.
fn branches(mut tokens: Vec<String>) -> usize {
    tokens.sort_unstable();
    let mut before = "";
    let mut branches = 0;
    for token in &tokens {
        let alike = before
            .bytes()
            .zip(token.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        branches += token.len() - alike;
        before = token;
    }
    branches
}

/// The bytes of the longest of tokens that are mapped to ids.
struct Longest(usize);

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Longest, D::Error> {
        struct Collector;
        impl<'de> Visitor<'de> for Collector {
            type Value = Longest;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("a map of tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Longest, A::Error> {
                let mut longest = 0;
                while let Some((token, _)) = map.next_entry::<Cow<'de, str>, IgnoredAny>()? {
                    longest = longest.max(token.len());
                }
                Ok(Longest(longest))
            }
        }
        deserializer.deserialize_map(Collector)
    }
}

/// Unigram's tokens, up to a bit more than may be.
#[derive(Default)]
struct Pieces {
    tokens: Vec<String>,
    bytes: usize,
}

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pieces, D::Error> {
        struct Collector;
        impl<'de> Visitor<'de> for Collector {
            type Value = Pieces;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("a list of tokens and their scores")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pieces, A::Error> {
                let mut pieces = Pieces::default();
                while let Some((token, _)) = list.next_element::<(String, f64)>()? {
                    pieces.bytes += token.len();
                    if pieces.bytes <= MOST_PIECE_BYTES || pieces.tokens.is_empty() {
                        pieces.tokens.push(token);
                    }
                }
                Ok(pieces)
            }
        }
        deserializer.deserialize_seq(Collector)
    }
}

/// One step alone may add special tokens: the library fails where a second gets what the first has made. A template must
/// have its text once, and its special tokens defined beside it.
fn check_processors(steps: &[&Value]) -> Result<(), String> {
    let adding: Vec<&str> = steps
        .iter()
        .map(|step| kind(step))
        .filter(|&kind| kind != "ByteLevel")
        .collect();
    if adding.len() > 1 {
        return Err(format!(
            "post_processor: {} steps add special tokens ({}); wanted one; keep the one that the model was trained with",
            adding.len(),
            adding.join(", ")
        ));
    }
    let templates = steps.iter().filter(|step| kind(step) == "TemplateProcessing");
    templates.copied().try_for_each(check_template)
}

fn check_template(template: &Value) -> Result<(), String> {
    let pieces = |list: &str| template[list].as_array().into_iter().flatten();
    let mut specials = 0;
    for (list, piece) in ["single", "pair"]
        .into_iter()
        .flat_map(|list| pieces(list).map(move |piece| (list, piece)))
    {
        let Some(name) = piece["SpecialToken"]["id"].as_str() else {
            continue;
        };
        let defined = &template["special_tokens"][name];
        let (ids, tokens) = (defined["ids"].as_array(), defined["tokens"].as_array());
        if ids.is_none() || ids.map(Vec::len) != tokens.map(Vec::len) {
            return Err(format!(
                "post_processor: `{list}` names the token {name:?}, which `special_tokens` does not define"
            ));
        }
        if list == "single" {
            specials += ids.map_or(0, Vec::len);
        }
    }
    if specials > MOST_SPECIALS {
        return Err(format!(
            "post_processor: `single` puts {specials} special tokens around a text; at most {MOST_SPECIALS} are taken; use \
             the tokenizer that the model was published with"
        ));
    }
    let texts = |id: &str| {
        pieces("single")
            .filter(|piece| piece["Sequence"]["id"] == id)
            .count()
    };
    match (texts("A"), texts("B")) {
        (1, 0) => Ok(()),
        (first, second) => Err(format!(
            "post_processor: `single` has the text {first} times and a second text {second} times; wanted the text once, \
             as {{\"Sequence\": {{\"id\": \"A\", \"type_id\": 0}}}}, and no second one"
        )),
    }
}

#[cfg(test)]
mod tests;
