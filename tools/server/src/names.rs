//! Names and words of clients and files, as they stand in messages.

/// Characters of the longest name that is shown.
const NAME: usize = 80;

/// Names of the longest list that is shown.
const LISTED: usize = 20;

/// A name, cut where it is long: who sent megabytes knows them.
pub fn shown(name: &str) -> String {
    shortened(name, NAME)
}

/// `a, b and 3 more`.
pub fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let first = names.iter().take(LISTED).map(|name| shown(name.as_ref()));
    let first = first.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A text of at most so many characters: of a longer one the middle is left out, so that the way out at a message's end
/// stays. Characters that control a terminal, that turn the direction of what follows, or that nobody sees, are written as
/// `\u{…}`.
pub fn shortened(text: &str, most: usize) -> String {
    let escaped = |text: &str| -> String {
        let escape = |c: char| match is_unsafe(c) {
            true => c.escape_unicode().to_string(),
            false => c.to_string(),
        };
        text.chars().map(escape).collect()
    };
    if text.chars().nth(most).is_none() {
        return escaped(text);
    }
    let (first, last) = (most * 2 / 3, most / 3);
    let start = text.char_indices().nth(first).map_or(text.len(), |(at, _)| at);
    let end = text
        .char_indices()
        .nth_back(last.saturating_sub(1))
        .map_or(0, |(at, _)| at);
    format!("{}…{}", escaped(&text[..start]), escaped(&text[end..]))
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_keep_both_ends_and_nothing_steers_a_terminal() {
        assert_eq!(shown("ä b"), "ä b");
        assert_eq!(shown("\u{1b}[31m\u{202e}"), "\\u{1b}[31m\\u{202e}");
        let long = shown(&format!("a{}z", "é".repeat(1 << 20)));
        assert_eq!(
            (long.chars().count(), &long[..1], &long[long.len() - 1..]),
            (80, "a", "z")
        );
        let names: Vec<String> = (0..30).map(|i| i.to_string()).collect();
        assert!(listed(&names).ends_with("18, 19 and 10 more"));
        assert_eq!(listed(&["a", "b"]), "a, b");
    }
}
