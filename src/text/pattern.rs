//! Expressions of a `tokenizer.json` that mean the same here as where the model was trained, and take time in proportion
//! to a text.
//!
//! The published tokenizers library matches with Oniguruma, this engine's with fancy-regex. What the two read alike makes
//! up the expressions of the well-known models: GPT-2's, LLaMA's, Qwen's, BLOOM's. What they do not would give other
//! tokens without a word, so that it is refused: only what is known here is taken.
//!
//! Matching goes on behind each match. It takes linear time if no match reads much further than it goes, which an
//! expression's form must show: an alternative is a row of single characters, behind one that may be repeated without end
//! nothing else must follow, and nothing looks around. `.*b|.` would read the whole rest of a text for each character.
//! Splitters of well-known models do look ahead: those are taken as they are, with tests of their time. fancy-regex gives
//! up at a million steps back, and the library then takes the rest of a text for one word; these expressions get there
//! with long white space alone (see [`LONGEST_LOOK_AHEAD`]).

use super::cut::kind;
use serde_json::Value;

/// Letters that stand for one character of Unicode together (`ß`, `ﬀ`, `ﬆ` …) when case is ignored, there but not here.
const FOLDED_TOGETHER: [&str; 6] = ["ss", "st", "ff", "fi", "fl", "fj"];

/// Scripts; both libraries know categories of one or two letters as well.
const SCRIPTS: [&str; 14] = [
    "Arabic",
    "Armenian",
    "Bengali",
    "Cyrillic",
    "Devanagari",
    "Greek",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Katakana",
    "Latin",
    "Tamil",
    "Thai",
];

/// Splitters that look ahead. Each character of any text belongs to one of their alternatives, and what one of these reads
/// without a match is taken by one that follows.
const LOOKING_AHEAD: [&str; 6] = [
    // GPT-2, which the library has built in.
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    // LLaMA 3, of cl100k; Qwen 2; Qwen 3.5.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    // o200k; Mistral's Tekken.
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// Bytes of the longest text for these: `\s+(?!\S)` keeps a step for each character of white space, of which fancy-regex
/// takes a million.
pub const LONGEST_LOOK_AHEAD: f64 = 900_000.0;

/// Characters that all alternatives together match at the most, each repeated one without end counted once: as many places
/// an expression can be at for one character of a text. CLIP's has 48.
const MOST_CHARACTERS: usize = 64;

/// Bytes of an expression, of which classes that list characters take the most.
const LONGEST_PATTERN: usize = 4 << 10;

/// Whether a step of a splitter looks ahead.
pub fn looks_ahead(step: &Value) -> bool {
    match kind(step) {
        "ByteLevel" => step["use_regex"] != false,
        "Split" => step["pattern"]["Regex"]
            .as_str()
            .is_some_and(|pattern| LOOKING_AHEAD.contains(&pattern)),
        _ => false,
    }
}

/// Refuses the expressions of steps of a part that do not mean the same in both libraries, or may take long.
pub fn check(part: &str, steps: &[&Value]) -> Result<(), String> {
    for step in steps {
        let Some(pattern) = step["pattern"]["Regex"].as_str() else {
            continue;
        };
        let problem = |what: String| {
            Err(format!(
                "{part}: {} has the expression `{}`, in which {what}",
                kind(step),
                crate::error::printable(pattern, 200)
            ))
        };
        if let Some(difference) = difference(pattern) {
            return problem(format!(
                "{difference}, so that texts would get other tokens; write it without"
            ));
        }
        if !looks_ahead(step)
            && let Err(slow) = check_form(pattern)
        {
            return problem(format!(
                "{slow}, so that the time for a text may grow with its square; write it without (expressions that look ahead \
                 are taken in splitters, as GPT-2, LLaMA 3, Qwen, o200k and Tekken have them)"
            ));
        }
    }
    Ok(())
}

/// What the two libraries read differently, or is not known to be read alike.
fn difference(pattern: &str) -> Option<String> {
    let mut depth = 0;
    let mut chars = pattern.char_indices();
    while let Some((at, c)) = chars.next() {
        let (rest, in_class) = (&pattern[at..], depth > 0);
        match c {
            '\\' => {
                let (length, known) = escape(&rest[1..]);
                if !known {
                    let shown: String = rest.chars().take(12).collect();
                    return Some(format!(
                        "`{shown}` means something else to the library that it was made for"
                    ));
                }
                // What belongs to the escape, after the backslash.
                for _ in chars.by_ref().take(length) {}
            }
            '[' if in_class && rest.starts_with("[:") => {
                return Some("a class `[:…:]` has ASCII characters alone here".into());
            }
            '[' => {
                depth += 1;
                for _ in chars.by_ref().take(first_of_class(&rest[1..])) {}
            }
            ']' => depth = depth.max(1) - 1,
            '-' | '~' if in_class && (rest.starts_with("--") || rest.starts_with("~~")) => {
                return Some(format!("`{c}{c}` takes one class from another here alone"));
            }
            _ if in_class => {}
            '^' | '$' => {
                return Some(format!(
                    "`{c}` stands for the ends of lines there, and of the text here"
                ));
            }
            '(' if rest.starts_with("(?") => {
                const ALIKE: [&str; 6] = ["(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"];
                if let Some(scope) = rest.strip_prefix("(?i:") {
                    if !ignores_case_alike(scope_of(scope)) {
                        return Some("case is ignored in other ways for what stands in `(?i:…)`".into());
                    }
                } else if !ALIKE.iter().any(|group| rest.starts_with(group)) {
                    return Some(format!(
                        "`{}` is not known to mean the same",
                        rest.chars().take(4).collect::<String>()
                    ));
                }
                // The `?` is no quantifier.
                let _ = chars.next();
            }
            '{' if rest.starts_with("{,") => return Some("`{,` counts from nothing there alone".into()),
            '}' if rest.starts_with("}+") => {
                return Some("`}+` takes back what it has matched there, and not here".into());
            }
            _ => {}
        }
    }
    None
}

/// Refuses an expression whose form does not show that no match reads much further than it goes.
fn check_form(pattern: &str) -> Result<(), String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!(
            "there are {} bytes, more than {LONGEST_PATTERN}",
            pattern.len()
        ));
    }
    let mut form = Form {
        rest: pattern,
        characters: 0,
    };
    form.alternatives(false)?;
    match form.rest.is_empty() {
        true => Ok(()),
        false => Err("`)` closes nothing".into()),
    }
}

/// An expression while its form is read.
struct Form<'p> {
    rest: &'p str,
    characters: usize,
}

impl Form<'_> {
    /// Alternatives up to the end, or up to the parenthesis that closes a group: that one has words alone.
    fn alternatives(&mut self, in_group: bool) -> Result<(), String> {
        loop {
            let (mut must, mut endless) = (false, false);
            while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
                let before = self.characters;
                let is_group = self.atom(in_group)?;
                let (least, most) = self.quantifier()?;
                if (least, most) != (1, Some(1)) && (in_group || is_group && (least, most) != (0, Some(1))) {
                    return Err("something in a group, or a group, is repeated".into());
                }
                if endless && least > 0 {
                    return Err("something must follow what may be repeated without end".into());
                }
                endless |= most.is_none();
                must |= least > 0;
                let times = most.unwrap_or(least).max(1);
                self.characters = before + (self.characters - before).saturating_mul(times);
                if self.characters > MOST_CHARACTERS {
                    return Err(format!("there are more than {MOST_CHARACTERS} characters"));
                }
            }
            if !must {
                return Err("an alternative may match nothing".into());
            }
            match self.rest.strip_prefix('|') {
                Some(rest) => self.rest = rest,
                None => return Ok(()),
            }
        }
    }

    /// A character, a class of them, or a group; whether it is a group.
    fn atom(&mut self, in_group: bool) -> Result<bool, String> {
        let rest = self.rest;
        let length = match rest.chars().next() {
            Some('(') => {
                let words = ["(?:", "(?i:", "("]
                    .iter()
                    .find_map(|start| rest.strip_prefix(start));
                self.rest = words
                    .filter(|words| !words.starts_with('?') && !in_group)
                    .ok_or_else(|| {
                        format!(
                            "`{}` is no group of words",
                            rest.chars().take(4).collect::<String>()
                        )
                    })?;
                self.alternatives(true)?;
                self.rest = self.rest.strip_prefix(')').ok_or("a group is not closed")?;
                return Ok(true);
            }
            Some('[') => class_length(rest).ok_or("a class is not closed")?,
            // What belongs to an escape is ASCII.
            Some('\\') => 1 + escape(&rest[1..]).0,
            Some(c @ ('*' | '+' | '?' | '{' | '}' | ']')) => {
                return Err(format!("`{c}` has nothing before it to repeat or close"));
            }
            c => c.map_or(0, char::len_utf8),
        };
        self.characters += 1;
        self.rest = &rest[length..];
        Ok(false)
    }

    /// How often what stands before is matched.
    fn quantifier(&mut self) -> Result<(usize, Option<usize>), String> {
        let (times, length) = match self.rest.chars().next() {
            Some('?') => ((0, Some(1)), 1),
            Some('*') => ((0, None), 1),
            Some('+') => ((1, None), 1),
            Some('{') => {
                let counts = self.rest[1..]
                    .split_once('}')
                    .and_then(|(counts, _)| {
                        let (least, most) = counts.split_once(',').unwrap_or((counts, counts));
                        let most = match most {
                            "" => None,
                            most => Some(most.parse().ok()?),
                        };
                        Some(((least.parse().ok()?, most), counts.len() + 2))
                    })
                    .filter(|&((least, most), _)| most.is_none_or(|most| least <= most));
                counts.ok_or("`{` counts nothing")?
            }
            _ => return Ok((1, Some(1))),
        };
        self.rest = &self.rest[length..];
        match self.rest.starts_with(['?', '*', '+', '{']) {
            true => {
                Err("a repetition is repeated, or takes as little as it can, or keeps what it has".into())
            }
            false => Ok(times),
        }
    }
}

/// The length of a class, which others may stand in.
fn class_length(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let mut skipped = 0;
        match c {
            '\\' => skipped = escape(&text[at + 1..]).0,
            '[' => {
                depth += 1;
                skipped = first_of_class(&text[at + 1..]);
            }
            ']' if depth == 1 => return Some(at + 1),
            ']' => depth -= 1,
            _ => {}
        }
        for _ in chars.by_ref().take(skipped) {}
    }
    None
}

/// The characters after a `[` that belong to it, or are the first of a class where they cannot be anything else.
fn first_of_class(rest: &str) -> usize {
    let first = rest.strip_prefix('^').map_or(0, |_| 1);
    first + usize::from(rest[first..].starts_with(']'))
}

/// For what stands after a backslash: how many characters belong to it, and whether it means the same in both.
fn escape(rest: &str) -> (usize, bool) {
    let braced = |rest: &str| {
        rest.strip_prefix('{')
            .and_then(|name| Some(name.split_once('}')?.0.to_owned()))
    };
    match rest.chars().next() {
        Some('p' | 'P') => match braced(&rest[1..]) {
            Some(name) => {
                let category = name.len() <= 2 && name.chars().all(|c| c.is_ascii_alphabetic());
                (
                    name.chars().count() + 3,
                    category || SCRIPTS.contains(&name.as_str()),
                )
            }
            None => (1, false),
        },
        Some('x') => match braced(&rest[1..]) {
            Some(digits) => (
                digits.chars().count() + 3,
                digits.chars().all(|c| c.is_ascii_hexdigit()),
            ),
            None => (1, false),
        },
        // Words have `²` there and a zero-width joiner here: `w` and `b` are not among these.
        Some('s' | 'S' | 'd' | 'D' | 'n' | 'r' | 't') => (1, true),
        // `\<` and `\>` are the ends of words here.
        Some(c) => (1, c.is_ascii_punctuation() && c != '<' && c != '>' || c == ' '),
        None => (0, false),
    }
}

/// The text up to the parenthesis that closes a group; all of it where none does.
fn scope_of(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 0 => return &text[..at],
            ')' => depth -= 1,
            _ => {}
        }
    }
    text
}

/// Single letters ignore case alike, `ſ` and the sign of Kelvin among them. Categories, and letters that stand for one
/// character together, do not.
fn ignores_case_alike(scope: &str) -> bool {
    let lower = scope.to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || "'’|?[] ".contains(c);
    scope.chars().all(plain) && !FOLDED_TOGETHER.iter().any(|letters| lower.contains(letters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_expressions_of_well_known_models_are_taken() {
        for pattern in [
            // CLIP, BLOOM, Falcon.
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            " ?[^(\\s|[.,!?…。，、।۔،])]+",
            "[0-9][0-9][0-9]",
            // Normalizers of SentencePiece and others.
            r"\s+",
            " {2,}",
            r"[\r\n]",
            r"\s{2,}|[\n\r\t]",
            r"\p{Han}|\x{200b}|[\]\[-]|[]a]",
            r"a{2}[bc]{0,3}d*(?:e|fg)?|(?i:[sd]|ll)x",
        ] {
            assert_eq!(check("normalizer", &[&step("Replace", pattern)]), Ok(()));
        }
        for pattern in LOOKING_AHEAD {
            assert_eq!(check("pre_tokenizer", &[&step("Split", pattern)]), Ok(()));
            assert!(check("normalizer", &[&step("Replace", pattern)]).is_err());
        }
    }

    fn step(kind: &str, pattern: &str) -> Value {
        json!({"type": kind, "pattern": {"Regex": pattern}})
    }

    #[test]
    fn the_longest_white_space_before_a_word_is_split() {
        use tokenizers::{PreTokenizedString, PreTokenizer, PreTokenizerWrapper};
        for pattern in LOOKING_AHEAD {
            let mut split = step("Split", pattern);
            split["behavior"] = json!("Isolated");
            split["invert"] = json!(false);
            let split: PreTokenizerWrapper = serde_json::from_value(split).unwrap();
            let pieces = |length: f64| {
                let mut text = PreTokenizedString::from(" ".repeat(length as usize) + "x");
                split.pre_tokenize(&mut text).unwrap();
                text.get_splits(
                    tokenizers::OffsetReferential::Normalized,
                    tokenizers::OffsetType::None,
                )
                .len()
            };
            assert_eq!(pieces(LONGEST_LOOK_AHEAD), 2, "{pattern}");
            // What would come of a longer one.
            assert_eq!(pieces(1.2 * LONGEST_LOOK_AHEAD), 1, "{pattern}");
        }
    }

    #[test]
    fn expressions_that_may_take_long_are_refused() {
        let many = (0..65)
            .map(|n| format!("\\x{{{n:x}}}"))
            .collect::<Vec<_>>()
            .join("|");
        let long = format!("[{}]", "a".repeat(4095));
        for (pattern, words) in [
            (".*!|.", "must follow"),
            (r"\s*[\r\n]+", "must follow"),
            (r"a{2,}b?c", "must follow"),
            ("a(?=.*b)|.", "`(?=.` is no group"),
            ("(?<=a)(?:a*b)|a", "`(?<=` is no group"),
            ("(?:(?=a)a)*b|.", "`(?=a` is no group"),
            (r"\s+(?!\S)|\s+", "`(?!\\` is no group"),
            ("(?>ab)", "`(?>a` is no group"),
            ("(?:a(?:b))", "`(?:b` is no group"),
            ("(?:ab)+", "is repeated"),
            ("(?:a+b)", "is repeated"),
            ("a++", "a repetition is repeated"),
            ("a+?b", "a repetition is repeated"),
            ("a{1}?b", "a repetition is repeated"),
            ("a{2}{2}", "a repetition is repeated"),
            ("a+{2}", "a repetition is repeated"),
            ("a*", "may match nothing"),
            ("b|a{0,}", "may match nothing"),
            ("a|", "may match nothing"),
            ("", "may match nothing"),
            ("(?:|a)b", "may match nothing"),
            ("()a", "may match nothing"),
            ("a{33}|b{32}", "more than 64 characters"),
            ("(?:abc){0,30}", "is repeated"),
            (&many, "more than 64 characters"),
            (&long, "there are 4097 bytes"),
            ("a{x}", "`{` counts nothing"),
            ("a{2", "`{` counts nothing"),
            ("a{3,2}", "`{` counts nothing"),
            ("a{99999999999999999999}", "`{` counts nothing"),
            ("*a", "`*` has nothing before it"),
            ("a|+", "`+` has nothing before it"),
            ("a]", "`]` has nothing before it"),
            ("a)", "`)` closes nothing"),
            ("(a", "a group is not closed"),
            ("[a", "a class is not closed"),
        ] {
            let problem = check("pre_tokenizer", &[&step("Split", pattern)]).unwrap_err();
            assert!(problem.contains(words), "{pattern}: {problem}");
        }
    }

    #[test]
    fn expressions_that_mean_something_else_are_refused() {
        for (pattern, words) in [
            ("[[:alpha:]]+", "[:"),
            ("[^[:word:]]", "[:"),
            (r"^\s", "`^`"),
            (r"\s+$", "`$`"),
            ("(?m).+", "(?m)"),
            ("(?i)strasse", "(?i)"),
            ("(?i:strasse)", "case"),
            ("(?i:é)", "case"),
            (r"(?i:\p{Lu})", "case"),
            (r"\w+|[^\w\s]+", r"\w"),
            (r"\bb", r"\b"),
            (r"\<a", r"\<"),
            (r"\p{Alpha}+", r"\p{Alpha}"),
            (r"\p{^L}+", r"\p{^L}"),
            (r"\pL", r"\pL"),
            (r"(a)\1", r"\1"),
            ("(?<name>a)", "(?<n"),
            ("[a-z--b]", "`--`"),
            ("a{1,2}+", "`}+`"),
            ("x{,3}", "`{,`"),
            ("a\\", "\\"),
        ] {
            let difference = difference(pattern).unwrap_or_default();
            assert!(difference.contains(words), "{pattern}: {difference:?}");
        }
        let split = json!({"type": "Split", "pattern": {"Regex": "^a\u{1b}"}, "behavior": "Isolated", "invert": false});
        let problem = check("pre_tokenizer", &[&split]).unwrap_err();
        assert!(
            problem.starts_with("pre_tokenizer: Split has the expression `^a\\u{1b}`, in which `^`"),
            "{problem}"
        );
    }
}
