//! Expressions of a `tokenizer.json` that mean the same here as where the model was trained.
//!
//! The published tokenizers library matches with Oniguruma, this engine's with fancy-regex. What the two read alike makes
//! up the expressions of the well-known models: GPT-2's, LLaMA's, Qwen's, BLOOM's. What they do not would give other
//! tokens without a word, so that it is refused: only what is known here is taken.

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

/// Refuses the expressions of steps of a part that do not mean the same in both libraries.
pub fn check(part: &str, steps: &[&Value]) -> Result<(), String> {
    for step in steps {
        let Some(pattern) = step["pattern"]["Regex"].as_str() else {
            continue;
        };
        if let Some(difference) = difference(pattern) {
            return Err(format!(
                "{part}: {} has the expression `{}`, in which {difference}, so that texts would get other tokens; write it \
                 without",
                kind(step),
                crate::error::printable(pattern, 200)
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
                // These two can be the first of a class.
                let first = rest[1..].strip_prefix('^').map_or(0, |_| 1);
                let bracket = usize::from(rest[1 + first..].starts_with(']'));
                for _ in chars.by_ref().take(first + bracket) {}
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
        Some('s' | 'S' | 'd' | 'D' | 'n' | 'r' | 't' | 'A' | 'z') => (1, true),
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
            // GPT-2, which the library has built in.
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            // LLaMA 3, of cl100k; Qwen 2.
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            // o200k.
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++",
            // CLIP, BLOOM, Falcon.
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            " ?[^(\\s|[.,!?…。，、।۔،])]+",
            "[0-9][0-9][0-9]",
            // Normalizers of SentencePiece and others.
            r"\s+",
            " {2,}",
            r"[\r\n]",
            r"\p{Han}|\x{200b}|[\]\[-]|[]a]|(?<=a)b",
        ] {
            assert_eq!(difference(pattern), None, "{pattern}");
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
