//! Where a long text may be cut so that its parts have, one after the other, the tokens of the whole.
//!
//! A tokenizer normalises a text, splits it into words and gives each word's tokens. Between two words, cutting before
//! the white space changes neither the words nor their normal forms, if
//!
//! - every normalizer works on single characters and what combines with them, or on runs of white space. A run stays
//!   whole, since all of it goes to the second part, and the character before it does not become white space itself;
//! - the splitter ends a word at that white space: by dropping it, or by starting the next word with it. Its normal form
//!   still is what the splitter takes for white space;
//! - no added token holds white space, eats what stands behind it or depends on the character beside it, and none ends the
//!   word before or begins the next: what stands between added tokens is normalised on its own. Those that are found in the
//!   normalised text are known by their normal form.
//!
//! What the next word begins with does not matter else: it goes to the second part together with the white space, and
//! what combines with white space, or becomes some, does so there as in the whole.
//!
//! [`Cuts::new`] reads from `tokenizer.json` whether that is so. Tokenizers that it does not know are given whole texts.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};
use unicode_segmentation::UnicodeSegmentation;

/// The places between words where a tokenizer's texts can be cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// The white space before which a word ends.
    blanks: Vec<char>,
    /// Whether every ASCII punctuation character is a word.
    punctuation: bool,
    /// Pairs of such characters that an added token holds: not to be parted.
    joined: HashSet<[u8; 2]>,
    /// What stands beside an added token is normalised on its own: by their first characters.
    starts: HashMap<char, Beside>,
    /// By their last characters.
    ends: HashMap<char, Beside>,
}

/// The added tokens that begin, or end, with a character.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Beside {
    /// These as they stand there.
    These(Vec<String>),
    /// Too many to look for, or some that are found in the normalised text, which looks otherwise.
    Any,
}

/// More added tokens that begin with one character are not told apart.
const MOST_ALIKE: usize = 64;

/// Added tokens, with what is looked for, by one of the characters of that.
fn by_character(
    added: &[(&AddedToken, Cow<'_, str>)],
    character: fn(&str) -> Option<char>,
) -> HashMap<char, Beside> {
    let mut all = HashMap::new();
    for (token, found) in added {
        let Some(c) = character(found) else {
            continue;
        };
        let beside = all.entry(c).or_insert(Beside::These(Vec::new()));
        match beside {
            Beside::These(tokens) if !token.normalized && tokens.len() < MOST_ALIKE => {
                tokens.push(token.content.clone());
            }
            _ => *beside = Beside::Any,
        }
    }
    all
}

/// What a normalizer makes of a text by itself, if it makes anything.
fn normal_form(normalizer: Option<&NormalizerWrapper>, text: &str) -> Option<String> {
    let mut normal = NormalizedString::from(text);
    let mut apply =
        |n: &NormalizerWrapper| super::fenced(|| n.normalize(&mut normal).map_err(|e| e.to_string()));
    let done = normalizer.is_none_or(|n| apply(n).is_ok());
    done.then(|| normal.get().to_owned())
}

/// What splitters that drop white space take for it, of ASCII.
const BLANKS: &[char] = &[' ', '\n', '\t', '\r'];

impl Cuts {
    /// The places for a tokenizer with these settings (`normalizer`, also as it is `applied`, `pre_tokenizer` and
    /// `added_tokens` of its file).
    pub fn new(
        normalizer: &Value,
        applied: Option<&NormalizerWrapper>,
        splitter: &Value,
        added: &[AddedToken],
    ) -> Cuts {
        let normalizers = steps(normalizer, "normalizers");
        let splitters = steps(splitter, "pretokenizers");
        let first = splitters.first().map_or("", |first| kind(first));
        let drops_blanks = ["BertPreTokenizer", "Whitespace", "WhitespaceSplit"].contains(&first);
        let marks_blanks = match first {
            "Metaspace" => splitters[0]["split"] != false,
            "ByteLevel" => splitters[0]["use_regex"] != false,
            _ => false,
        };
        let local = |step: &&Value| match kind(step) {
            "BertNormalizer" | "Lowercase" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Nmt" | "Precompiled"
            | "StripAccents" => true,
            // White space at a part's start is dropped, where in the whole text it starts a word: the same if a mark is
            // put there, or if it is dropped later.
            "Strip" => drops_blanks || first == "Metaspace" && splitters[0]["prepend_scheme"] == "always",
            "Replace" => replaces_runs(step) || replaces_words(step),
            _ => false,
        };
        let mark = splitters
            .iter()
            .take(if drops_blanks { 2 } else { 1 })
            .find(|step| kind(step) == "Metaspace" && step["split"] != false)
            .and_then(|step| step["replacement"].as_str()?.chars().next());
        let ends_word = |c: char| c == ' ' || drops_blanks && c.is_whitespace() || mark == Some(c);
        let added: Option<Vec<(&AddedToken, Cow<'_, str>)>> = added
            .iter()
            .map(|token| match token.normalized {
                true => Some((token, Cow::from(normal_form(applied, &token.content)?))),
                false => Some((token, Cow::from(&token.content))),
            })
            .collect();
        let apart = |(token, found): &(&AddedToken, Cow<'_, str>)| {
            let letter = found.chars().next().is_some_and(char::is_alphanumeric);
            let holds_blank = found.contains(|c: char| c.is_whitespace() || token.normalized && ends_word(c));
            !token.rstrip && !token.single_word && !letter && !holds_blank
        };
        let known = normalizers.iter().all(local)
            && (drops_blanks || marks_blanks)
            && splitters.iter().all(|step| !kind(step).is_empty());
        let Some(added) = added.filter(|added| known && added.iter().all(apart)) else {
            return Cuts::default();
        };
        let lines_are_blanks = normalizers
            .iter()
            .any(|step| step["pattern"]["Regex"] == r"\s+" && step["content"] == " ");
        // Between words, alone and in a run.
        let stays_blank = |blank: &char| {
            [
                format!("{blank}"),
                format!("{blank}{blank}"),
                format!("{blank}\n"),
            ]
            .iter()
            .all(|run| {
                let normal = |text: &str| normal_form(applied, text);
                let (word, words) = (normal("a"), normal(&format!("a{run}a")));
                let run = word.zip(words).and_then(|(word, words)| {
                    let run = words.strip_prefix(&word)?.strip_suffix(&word)?;
                    run.chars().next()
                });
                run.is_some_and(ends_word)
            })
        };
        let blanks = match drops_blanks || lines_are_blanks {
            true => BLANKS,
            false => &BLANKS[..1],
        };
        Cuts {
            blanks: blanks.iter().copied().filter(stays_blank).collect(),
            punctuation: first == "BertPreTokenizer"
                && normalizers.iter().all(|step| kind(step) == "BertNormalizer"),
            joined: added
                .iter()
                .flat_map(|(_, found)| found.as_bytes().windows(2))
                .filter_map(|pair| pair.try_into().ok())
                .collect(),
            starts: by_character(&added, |content| content.chars().next()),
            ends: by_character(&added, |content| content.chars().next_back()),
        }
    }

    /// The first place at or after the byte `from`, and before the byte `end`, where the text can be cut.
    pub fn next(
        &self,
        normalizer: Option<&NormalizerWrapper>,
        text: &str,
        from: usize,
        end: usize,
    ) -> Option<usize> {
        let bytes = text.as_bytes();
        let between = |at: usize| {
            let pair = [bytes[at - 1], bytes[at]];
            self.punctuation && pair.iter().all(u8::is_ascii_punctuation) && !self.joined.contains(&pair)
        };
        (from.max(1)..end.min(text.len()))
            .find(|&at| between(at) || self.before_blank(bytes[at]) && self.ends_word(normalizer, text, at))
    }

    fn before_blank(&self, byte: u8) -> bool {
        byte.is_ascii() && self.blanks.contains(&char::from(byte))
    }

    /// Whether a word ends at `at`, before white space that another word follows.
    fn ends_word(&self, normalizer: Option<&NormalizerWrapper>, text: &str, at: usize) -> bool {
        let (before, after) = text.split_at(at);
        let Some(last) = before.chars().next_back().filter(|c| !c.is_whitespace()) else {
            return false;
        };
        let next_word = after.trim_start();
        let Some(next) = next_word.chars().next() else {
            return false;
        };
        let holds = |beside: Option<&Beside>, is_there: &dyn Fn(&String) -> bool| match beside {
            Some(Beside::These(tokens)) => tokens.iter().any(is_there),
            Some(Beside::Any) => true,
            None => false,
        };
        if holds(self.ends.get(&last), &|token| before.ends_with(token.as_str()))
            || holds(self.starts.get(&next), &|token| {
                next_word.starts_with(token.as_str())
            })
        {
            return false;
        }
        let normal = |c: char| normal_form(normalizer, &c.to_string()).unwrap_or_default();
        let of_word = |c: char, tokens: &HashMap<char, Beside>| {
            !c.is_whitespace() && tokens.get(&c) != Some(&Beside::Any)
        };
        // A character that combines with the space behind it, or that becomes nothing or white space, is not a word's
        // end. Nor is white space that a mark behind it may make something else.
        format!("{last} ").graphemes(true).count() == 2
            && (next_word.len() + 1 < after.len() || format!(" {next}").graphemes(true).count() == 2)
            && normal(last).chars().next_back().is_some_and(|c| of_word(c, &self.ends))
            // Nor does one begin a word that may become the start of an added token.
            && (next.is_alphanumeric()
                || normal(next).chars().next().is_some_and(|c| of_word(c, &self.starts)))
    }
}

/// A token of `added_tokens`.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct AddedToken {
    #[serde(default)]
    pub content: String,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
    /// Whether it is looked for in the normalised text. The library needs to be told.
    #[serde(default)]
    pub normalized: bool,
}

/// The steps of a setting that may be a sequence of them; those of a sequence in a sequence stay one.
pub fn steps<'v>(setting: &'v Value, list: &str) -> Vec<&'v Value> {
    match (setting, setting[list].as_array()) {
        (Value::Null, _) => Vec::new(),
        (_, Some(steps)) if kind(setting) == "Sequence" => steps.iter().collect(),
        _ => vec![setting],
    }
}

pub fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or_default()
}

/// Whether a `Replace` works on runs of white space, whole ones.
fn replaces_runs(step: &Value) -> bool {
    step["pattern"]["Regex"]
        .as_str()
        .is_some_and(|pattern| shortest_run(pattern).is_some())
}

/// The bytes of the shortest run of white space that the expression matches, if it is one for such runs.
pub fn shortest_run(pattern: &str) -> Option<usize> {
    match pattern {
        r"\s+" | " +" => Some(1),
        r"\s{2,}" | " {2,}" => Some(2),
        _ => None,
    }
}

/// Whether a `Replace` works within words.
fn replaces_words(step: &Value) -> bool {
    let word = |text: &str| !text.contains(|c: char| c.is_whitespace() || c == '\u{2581}');
    step["pattern"]["String"].as_str().is_some_and(word) && step["content"].as_str().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cuts(normalizer: Value, splitter: Value) -> Cuts {
        with_added(&normalizer, &splitter, &[])
    }

    fn with_added(normalizer: &Value, splitter: &Value, added: &[AddedToken]) -> Cuts {
        // One that the library does not know is not known here either.
        let applied: Option<NormalizerWrapper> = serde_json::from_value(normalizer.clone()).ok();
        Cuts::new(normalizer, applied.as_ref(), splitter, added)
    }

    fn all(cuts: &Cuts, text: &str) -> Vec<usize> {
        (1..text.len())
            .filter(|&at| cuts.next(None, text, at, at + 1).is_some())
            .collect()
    }

    #[test]
    fn cuts_stand_between_words_alone() {
        let bert = cuts(
            json!({"type": "BertNormalizer"}),
            json!({"type": "BertPreTokenizer"}),
        );
        assert_eq!(all(&bert, "one  two\nthree"), [3, 8]);
        assert_eq!(all(&bert, "a!! b ?"), [2, 3, 5]);
        let marks = cuts(
            Value::Null,
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"}),
        );
        assert_eq!(all(&marks, "one  two\nthree"), [3]);
        assert_eq!(all(&marks, "a!! <s> c"), [3, 7]);
        assert_eq!(all(&marks, "- | (\u{1f600} \u{ab}"), [1, 3, 9]);
        // U+0600 combines with what follows it.
        assert_eq!(all(&marks, "a\u{600} b"), [0usize; 0]);
    }

    #[test]
    fn unknown_settings_are_never_cut() {
        let bert = json!({"type": "BertPreTokenizer"});
        for (normalizer, splitter) in [
            (json!({"type": "Prepend", "prepend": "x"}), bert.clone()),
            (
                json!({"type": "Replace", "pattern": {"Regex": "a b"}, "content": "c"}),
                bert.clone(),
            ),
            (
                json!({"type": "Replace", "pattern": {"String": "b c"}, "content": ""}),
                bert.clone(),
            ),
            (
                json!({"type": "Sequence", "normalizers": [{"type": "New"}]}),
                bert.clone(),
            ),
            (Value::Null, Value::Null),
            (Value::Null, json!({"type": "Metaspace", "split": false})),
            (
                json!({"type": "Strip"}),
                json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never"}),
            ),
            (Value::Null, json!({"type": "Split", "pattern": {"Regex": "b c"}})),
        ] {
            assert_eq!(
                all(&cuts(normalizer.clone(), splitter), "aa bb cc!!"),
                [0usize; 0],
                "{normalizer}"
            );
        }
        let single = AddedToken {
            content: "-x".into(),
            single_word: true,
            ..AddedToken::default()
        };
        assert_eq!(
            all(&with_added(&Value::Null, &bert, &[single]), "aa bb cc!!"),
            [0usize; 0]
        );
        for (content, rstrip) in [("new york", false), ("<s>", true), ("word", false)] {
            let added = [AddedToken {
                content: content.into(),
                rstrip,
                ..AddedToken::default()
            }];
            assert_eq!(
                all(&with_added(&Value::Null, &bert, &added), "aa bb cc!!"),
                [0usize; 0]
            );
        }
    }

    #[test]
    fn white_space_has_to_stay_some() {
        let bert = json!({"type": "BertPreTokenizer"});
        let marks = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"});
        let both = json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]});
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        for (pattern, content, splitter, wanted) in [
            // A mark may make something else of the white space before it.
            (r"\s+", " ", &bert, &[3, 8, 21][..]),
            (r"\s+", "\n", &bert, &[3, 8, 21]),
            (r"\s+", "", &bert, &[]),
            (r"\s+", "x", &bert, &[]),
            (r"\s+", "\u{2581}", &bert, &[]),
            (" {2,}", "x", &bert, &[8, 21]),
            (r"\s+", "\u{2581}", &both, &[3, 8, 21]),
            (r"\s+", "\u{2581}", &marks, &[3]),
            (" {2,}", "\u{2581}", &marks, &[3]),
            // It marks spaces alone.
            (r"\s+", "\n", &marks, &[]),
            (r"\s+", "_", &marks, &[]),
            (r"\s+", "\u{2581}", &bytes, &[]),
        ] {
            let normalizer = json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
            assert_eq!(
                all(
                    &cuts(normalizer, splitter.clone()),
                    "one  two\nthree\t\u{301}four\tfive"
                ),
                wanted,
                "{pattern} {content:?} {splitter}"
            );
        }
    }

    #[test]
    fn a_normalizer_that_fails_on_an_added_token_is_never_cut() {
        let normalizer = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": ""}, {"type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": false, "strip_accents": null, "lowercase": false},
        ]});
        let applied: NormalizerWrapper = serde_json::from_value(normalizer.clone()).unwrap();
        assert_eq!(normal_form(Some(&applied), "zz"), None);
        let splitter = json!({"type": "WhitespaceSplit"});
        let cuts = with_added(&normalizer, &splitter, &added(&["zz"], true));
        assert_eq!(all(&cuts, "aa bb"), [0usize; 0]);
    }

    #[test]
    fn added_tokens_are_known_by_what_is_found() {
        let splitter = json!({"type": "WhitespaceSplit"});
        let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}]});
        for (content, normalized, wanted) in [
            ("(\u{200b})", true, &[][..]),
            ("(\u{200b})", false, &[2]),
            // Becomes a space and a mark.
            ("(\u{a8})", true, &[]),
            // Becomes a letter.
            ("\u{24d0}", true, &[]),
        ] {
            let added = added(&[content], normalized);
            assert_eq!(
                all(&with_added(&normalizer, &splitter, &added), "aa bb"),
                wanted,
                "{content}"
            );
        }
    }

    fn added(contents: &[&str], normalized: bool) -> Vec<AddedToken> {
        let token = |&content: &&str| AddedToken {
            content: content.into(),
            normalized,
            ..AddedToken::default()
        };
        contents.iter().map(token).collect()
    }

    #[test]
    fn added_tokens_of_punctuation_are_not_parted() {
        let normalizer = json!({"type": "BertNormalizer"});
        let splitter = json!({"type": "BertPreTokenizer"});
        let cuts = with_added(&normalizer, &splitter, &added(&["!?"], false));
        assert_eq!(all(&cuts, "a!!?!"), [2, 4]);
        // Thousands of them are looked up at once.
        let all: Vec<String> = (0..4000u32)
            .map(|n| format!("@{n:b}").replace('0', "#").replace('1', "$"))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let cuts = with_added(&normalizer, &splitter, &added(&all, false));
        assert_eq!(cuts.joined.len(), 6);
        assert_eq!(cuts.starts, HashMap::from([('@', Beside::Any)]));
    }

    #[test]
    fn words_are_not_parted_from_added_tokens() {
        let splitter = json!({"type": "WhitespaceSplit"});
        let cuts = |normalized| with_added(&Value::Null, &splitter, &added(&["[CLS]", "<s>"], normalized));
        assert_eq!(all(&cuts(false), "[1] [CLS] <s) <s> s> (s)"), [20]);
        assert_eq!(all(&cuts(true), "[1] [CLS] <s) <s> s> (s) 1"), [24]);
    }
}
