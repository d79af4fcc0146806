//! By how much the steps of a tokenizer multiply a text in the worst case.
//!
//! Steps come as the tokenizers library has read them. Each multiplies what the one before it made, so that a file of a
//! few lines could turn a word into gigabytes. Bounds are in bytes of UTF-8, to be multiplied by the bytes of a text and
//! one more, for what is put in once.

use base64::Engine as _;
use serde_json::Value;

use super::cut::{kind, shortest_run};

/// Unicode's forms, by <https://unicode.org/faq/normalization>: the canonical ones take U+0390 to three times its bytes,
/// the compatible ones U+FDFA to eleven times.
const CANONICAL: f64 = 3.0;
const COMPATIBLE: f64 = 11.0;

/// Lower case takes U+023A from two bytes to three.
pub const LOWER_CASE: f64 = 1.5;

/// The longest key of a precompiled map, in bytes: the library looks up graphemes of less than six.
const LONGEST_KEY: usize = 5;

/// Steps of Unicode that follow each other. What one of them has made, it makes no longer a second time, and nothing is
/// made longer by lower case and a compatible form than by the form alone.
#[derive(Clone, Copy)]
struct UnicodeRun {
    form: f64,
    case: f64,
}

impl UnicodeRun {
    const NONE: UnicodeRun = UnicodeRun { form: 1.0, case: 1.0 };

    fn growth(self) -> f64 {
        match self.form == COMPATIBLE {
            true => COMPATIBLE,
            false => self.form * self.case,
        }
    }
}

/// The most by which a normalizer's steps multiply a text.
///
/// # Errors
/// A precompiled map that does not parse.
pub fn of_normalizer(steps: &[&Value]) -> Result<f64, String> {
    let mut growth = 1.0;
    let mut run = UnicodeRun::NONE;
    let mut before_nothing = false;
    for step in steps {
        // What is neither of Unicode nor takes characters away makes new text for those that follow.
        let made = match kind(step) {
            "NFC" | "NFD" => {
                run.form = run.form.max(CANONICAL);
                continue;
            }
            "NFKC" | "NFKD" => {
                run.form = COMPATIBLE;
                continue;
            }
            "Lowercase" => {
                run.case = LOWER_CASE;
                continue;
            }
            "BertNormalizer" => {
                let lower_case = step["lowercase"] == true;
                // Accents go with lower case unless the file says otherwise; they are found by their canonical form.
                if step["strip_accents"].as_bool().unwrap_or(lower_case) {
                    run.form = run.form.max(CANONICAL);
                }
                if lower_case {
                    run.case = LOWER_CASE;
                }
                // A space on each side of an ideograph of three bytes, again in every such step.
                if step["handle_chinese_chars"] == true {
                    growth *= 5.0 / 3.0;
                }
                continue;
            }
            // Each takes characters away or puts a space in their place.
            "Strip" | "StripAccents" | "Nmt" => continue,
            // A byte that is no ASCII becomes a character of two.
            "ByteLevel" => 2.0,
            "Prepend" => 1.0 + length(&step["prepend"]),
            "Precompiled" => of_map(&PrecompiledMap::read(&step["precompiled_charsmap"])?),
            "Replace" => {
                before_nothing |= shortest_match(step).is_none();
                of_replace(step)
            }
            other => return Err(format!("normalizer: nothing is known of a step {other:?}")),
        };
        growth *= made * run.growth();
        run = UnicodeRun::NONE;
    }
    // The library loses its place at what was put in before nothing: a splitter that makes other bytes of it leaves what was
    // there as well.
    let left = if before_nothing { 2.0 } else { 1.0 };
    Ok(growth * run.growth() * left)
}

/// The most by which a splitter's steps multiply a text. Most leave it as it is.
pub fn of_splitter(steps: &[&Value]) -> f64 {
    let growth = |step: &&Value| match kind(step) {
        // A space before each word, and then two bytes for one.
        "ByteLevel" if step["add_prefix_space"] == true => 4.0,
        "ByteLevel" => 2.0,
        // A mark in place of each space, and one before each word.
        "Metaspace" if step["prepend_scheme"] == "never" => length(&step["replacement"]).max(1.0),
        "Metaspace" => 2.0 * length(&step["replacement"]).max(1.0),
        _ => 1.0,
    };
    steps.iter().map(growth).product()
}

/// The most by which a decoder's steps multiply the bytes of tokens, with one more for each token.
pub fn of_decoder(steps: &[&Value]) -> f64 {
    let empty = |key: &Value| key.as_str().is_none_or(str::is_empty);
    let growth = |step: &&Value| match kind(step) {
        "Replace" => of_replace(step),
        // A space before a token.
        "WordPiece" => 2.0,
        // Three bytes stand for a byte that is not UTF-8, which was a character of two.
        "ByteLevel" => 1.5,
        // Nothing stands between any two characters: a space is put there.
        "BPEDecoder" if empty(&step["suffix"]) => 2.0,
        "CTC" if empty(&step["word_delimiter_token"]) => 2.0,
        _ => 1.0,
    };
    steps.iter().map(growth).product()
}

/// A replacement may stand for what the pattern matches at the least. An expression that is not known to match anything
/// may match nothing, before each character and at the end.
fn of_replace(step: &Value) -> f64 {
    match shortest_match(step) {
        Some(least) => (length(&step["content"]) / least).max(1.0),
        None => 1.0 + length(&step["content"]),
    }
}

/// The fewest bytes that a replacement can stand for, where it is known to be for some.
fn shortest_match(step: &Value) -> Option<f64> {
    let pattern = &step["pattern"];
    match pattern["Regex"].as_str() {
        Some(regex) => shortest_run(regex).map(|bytes| bytes as f64),
        None => Some(length(&pattern["String"])).filter(|&bytes| bytes > 0.0),
    }
}

fn length(value: &Value) -> f64 {
    value.as_str().unwrap_or_default().len() as f64
}

/// A map as SentencePiece makes them: the size of a trie in bytes, the trie, and the replacements, each ended by a zero
/// byte.
pub struct PrecompiledMap {
    /// A double array, as in <https://github.com/s-yata/darts-clone>.
    trie: Vec<u32>,
    replacements: String,
}

impl PrecompiledMap {
    /// # Errors
    /// What is wrong with the map.
    pub fn read(map: &Value) -> Result<PrecompiledMap, String> {
        let problem = |what: &str| format!("normalizer: precompiled_charsmap: {what}");
        let text = map.as_str().ok_or_else(|| problem("is not a string"))?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|e| problem(&e.to_string()))?;
        let (size, rest) = bytes
            .split_first_chunk::<4>()
            .ok_or_else(|| problem("is cut off"))?;
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
            return Err(problem(&format!(
                "a trie of {size} bytes in {} bytes",
                rest.len()
            )));
        }
        let (trie, replacements) = rest.split_at(size);
        let (units, _) = trie.as_chunks::<4>();
        let replacements = std::str::from_utf8(replacements).map_err(|e| problem(&e.to_string()))?;
        Ok(PrecompiledMap {
            trie: units.iter().map(|&unit| u32::from_le_bytes(unit)).collect(),
            replacements: replacements.to_owned(),
        })
    }

    /// Every replacement that a text can meet: the bytes of the shortest key for it, and its own.
    fn lengths(&self) -> Vec<(usize, usize)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let unit = |at: usize| self.trie.get(at).copied().unwrap_or_default();
        let ends: Vec<usize> = self.replacements.match_indices('\0').map(|(at, _)| at).collect();
        let length = |start: usize| {
            let end = ends.get(ends.partition_point(|&end| end < start)).copied();
            end.unwrap_or(self.replacements.len()).saturating_sub(start)
        };
        let mut seen = vec![false; self.trie.len()];
        let mut found = Vec::new();
        // By the length of keys, so that a unit which several lead to is met with the shortest.
        let mut nodes = vec![offset(unit(0))];
        for key in 1..=LONGEST_KEY {
            let mut longer = Vec::new();
            for (node, byte) in nodes
                .iter()
                .flat_map(|&node| (1..256).map(move |byte| (node, byte)))
            {
                let at = node ^ byte;
                // A unit says in its lowest byte what leads to it.
                if unit(at) & (1 << 31 | 0xff) != byte as u32 || at >= seen.len() || seen[at] {
                    continue;
                }
                seen[at] = true;
                let next = at ^ offset(unit(at));
                match unit(at) >> 8 & 1 == 1 {
                    // The library takes the shortest key that a text starts with.
                    true => found.push((key, length((unit(next) & !(1 << 31)) as usize))),
                    false => longer.push(next),
                }
            }
            nodes = longer;
        }
        found
    }
}

fn of_map(map: &PrecompiledMap) -> f64 {
    let growth = |(key, replacement): (usize, usize)| replacement as f64 / key as f64;
    map.lengths().into_iter().map(growth).fold(1.0, f64::max)
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::{
        Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential,
        OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    };

    use super::*;
    use crate::text::fenced;

    /// A precompiled map that puts these in place of their keys.
    pub fn precompiled(replacements: &[(&str, &str)]) -> Value {
        // Each node has 256 units of its own, and what stands for a key is in the first of them.
        let mut trie = vec![0u32; 512];
        trie[0] = 256 << 10;
        let mut strings = String::new();
        for (key, replacement) in replacements {
            let mut node = 256;
            let mut last = 0;
            for byte in key.bytes() {
                last = node | usize::from(byte);
                if trie[last] == 0 {
                    let next = trie.len();
                    trie[last] = ((last ^ next) as u32) << 10 | u32::from(byte);
                    trie.resize(next + 256, 0);
                }
                node = last ^ (trie[last] >> 10) as usize;
            }
            trie[last] |= 1 << 8;
            trie[node] = strings.len() as u32 | 1 << 31;
            strings += replacement;
            strings.push('\0');
        }
        let bytes: Vec<u8> = trie.into_iter().flat_map(u32::to_le_bytes).collect();
        let map = [
            &(bytes.len() as u32).to_le_bytes(),
            bytes.as_slice(),
            strings.as_bytes(),
        ]
        .concat();
        json!({"type": "Precompiled", "precompiled_charsmap": base64::engine::general_purpose::STANDARD.encode(map)})
    }

    /// What a step puts in, or looks for.
    fn piece() -> impl Strategy<Value = String> {
        "(a|A| |\u{2581}|\u{fdfa}|\u{390}|\u{130}|中|xyz){0,4}"
    }

    const KEYS: &[&str] = &["a", "ab", " ", "x", "\u{e9}", "\u{fdfa}", "\u{4e2d}", "\u{1f600}"];

    fn replacement() -> impl Strategy<Value = Value> {
        let patterns = prop_oneof![
            piece().prop_map(|text| json!({"String": text})),
            prop::sample::select(vec![
                r"\s+", " +", r"\s{2,}", " {2,}", "a*", "(?=a)", "(?!a)", "x?", "(?<=a)", r"\p{L}", ".",
                "a|",
            ])
            .prop_map(|regex| json!({"Regex": regex})),
        ];
        (patterns, piece())
            .prop_map(|(pattern, content)| json!({"type": "Replace", "pattern": pattern, "content": content}))
    }

    fn normalizer() -> impl Strategy<Value = Value> {
        let plain = [
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Lowercase",
            "StripAccents",
            "Nmt",
            "ByteLevel",
        ];
        prop_oneof![
            4 => prop::sample::select(plain.to_vec()).prop_map(|kind| json!({"type": kind})),
            1 => any::<(bool, bool)>()
                .prop_map(|(left, right)| json!({"type": "Strip", "strip_left": left, "strip_right": right})),
            2 => any::<(bool, bool, bool, Option<bool>)>().prop_map(|(clean, chinese, lower, accents)| json!({
                "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "lowercase": lower,
                "strip_accents": accents,
            })),
            // The library fails at words behind an empty one.
            1 => piece().prop_map(|text| json!({"type": "Prepend", "prepend": text + "a"})),
            2 => replacement(),
            2 => prop::collection::vec((prop::sample::select(KEYS), piece()), 1..4).prop_map(|all| {
                let all: Vec<_> = all.iter().map(|(key, text)| (*key, text.as_str())).collect();
                precompiled(&all)
            }),
        ]
    }

    fn splitter() -> impl Strategy<Value = Value> {
        let schemes = prop::sample::select(vec!["first", "never", "always"]);
        prop_oneof![
            any::<(bool, bool)>().prop_map(|(space, regex)| json!({
                "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex,
            })),
            (
                prop::sample::select(vec!["\u{2581}", "_", "\u{1f600}"]),
                schemes,
                any::<bool>()
            )
                .prop_map(|(mark, scheme, split)| json!({
                    "type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": split,
                })),
            prop::sample::select(vec!["BertPreTokenizer", "Whitespace", "WhitespaceSplit"])
                .prop_map(|kind| json!({"type": kind})),
            Just(json!({"type": "Punctuation", "behavior": "Isolated"})),
            Just(json!({"type": "Digits", "individual_digits": true})),
            Just(
                json!({"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": false})
            ),
        ]
    }

    fn decoder() -> impl Strategy<Value = Value> {
        prop_oneof![
            replacement(),
            any::<bool>()
                .prop_map(|cleanup| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup})),
            Just(
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
            ),
            Just(json!({"type": "ByteFallback"})),
            Just(json!({"type": "Fuse"})),
            Just(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0})),
            "(|</w>|a)".prop_map(|suffix| json!({"type": "BPEDecoder", "suffix": suffix})),
            (("(|<pad>|a)"), ("(|\\||a)"), any::<bool>()).prop_map(|(pad, word, cleanup)| json!({
                "type": "CTC", "pad_token": pad, "word_delimiter_token": word, "cleanup": cleanup,
            })),
            (prop::sample::select(vec!["\u{2581}", "_"]), any::<bool>()).prop_map(|(mark, split)| json!({
                "type": "Metaspace", "replacement": mark, "prepend_scheme": "always", "split": split,
            })),
        ]
    }

    /// What grows the most under one step or another, and any characters at all.
    fn text() -> impl Strategy<Value = String> {
        const GROWS: &str = "(a|A|aa|xyz| |  |\t|\n|\u{2581}|\u{390}|\u{fdfa}|\u{23a}|\u{130}|\u{1e9b}\u{323}|\u{fb03}|中|\u{20000}|\u{3c7}\u{345}|\u{1d160}|\u{3243}|\u{e9}|\u{ac00}|\u{1f600}|5|!)";
        let mixed = prop::collection::vec(GROWS, 0..24).prop_map(|all| all.concat());
        let alike = (GROWS, 1usize..24).prop_map(|(text, times)| text.repeat(times));
        prop_oneof![2 => mixed, 2 => alike, 1 => any::<String>()]
    }

    /// What comes of a text under these steps, or nothing where the library panics, which fails a text.
    fn split(normalizers: &[Value], splitters: &[Value], text: &str) -> Option<(usize, usize)> {
        let made = fenced(|| {
            let mut normal = NormalizedString::from(text);
            for step in normalizers {
                let step: NormalizerWrapper = serde_json::from_value(step.clone()).unwrap();
                step.normalize(&mut normal).map_err(|e| e.to_string())?;
            }
            let grown = normal.get().len();
            let mut split = PreTokenizedString::from(normal);
            for step in splitters {
                let step: PreTokenizerWrapper = serde_json::from_value(step.clone()).unwrap();
                step.pre_tokenize(&mut split).map_err(|e| e.to_string())?;
            }
            let words = split.get_splits(OffsetReferential::Normalized, OffsetType::None);
            Ok((grown, words.iter().map(|(word, ..)| word.len()).sum()))
        });
        made.ok()
    }

    fn decoded(steps: &[Value], tokens: &[String]) -> Option<usize> {
        let made = fenced(|| {
            let mut made = tokens.to_vec();
            for step in steps {
                let step: DecoderWrapper = serde_json::from_value(step.clone()).unwrap();
                made = step.decode_chain(made).map_err(|e| e.to_string())?;
            }
            Ok(made.iter().map(String::len).sum())
        });
        made.ok()
    }

    fn refs(steps: &[Value]) -> Vec<&Value> {
        steps.iter().collect()
    }

    #[test]
    fn what_is_put_in_before_nothing_may_stay_there_too() {
        let mark = json!({"type": "Replace", "pattern": {"String": ""}, "content": "\u{2581}"});
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let (grown, length) = split(std::slice::from_ref(&mark), std::slice::from_ref(&bytes), " ").unwrap();
        assert_eq!((grown, length), (7, 17));
        assert!(length as f64 <= of_normalizer(&[&mark]).unwrap() * of_splitter(&[&bytes]) * 2.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn no_text_grows_more_than_is_predicted(
            normalizers in prop::collection::vec(normalizer(), 0..4),
            splitters in prop::collection::vec(splitter(), 0..3),
            text in text(),
        ) {
            let Some((grown, length)) = split(&normalizers, &splitters, &text) else { return Ok(()) };
            let growth = of_normalizer(&refs(&normalizers)).unwrap();
            let most = growth * (text.len() + 1) as f64;
            prop_assert!(grown as f64 <= most, "{grown} bytes of {}, at most {most}", text.len());
            let most = most * of_splitter(&refs(&splitters));
            prop_assert!(length as f64 <= most, "{length} bytes of {}, at most {most}", text.len());
        }

        #[test]
        fn no_tokens_become_longer_than_is_predicted(
            decoders in prop::collection::vec(decoder(), 0..4),
            tokens in prop::collection::vec(text(), 1..6),
        ) {
            let bytes: usize = tokens.iter().map(String::len).sum();
            let most = of_decoder(&refs(&decoders)) * (bytes + tokens.len()) as f64;
            let Some(length) = decoded(&decoders, &tokens) else { return Ok(()) };
            prop_assert!(length as f64 <= most, "{length} bytes of {bytes}, at most {most}");
        }
    }
}
