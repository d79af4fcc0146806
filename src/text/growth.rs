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
            "Replace" => of_replace(step),
            other => return Err(format!("normalizer: nothing is known of a step {other:?}")),
        };
        growth *= made * run.growth();
        run = UnicodeRun::NONE;
    }
    Ok(growth * run.growth())
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
    let pattern = &step["pattern"];
    let least = match pattern["Regex"].as_str() {
        Some(regex) => shortest_run(regex).map(|bytes| bytes as f64),
        None => Some(length(&pattern["String"])).filter(|&bytes| bytes > 0.0),
    };
    match least {
        Some(least) => (length(&step["content"]) / least).max(1.0),
        None => 1.0 + length(&step["content"]),
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
