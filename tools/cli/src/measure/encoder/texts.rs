//! Texts of so many tokens.

use ropeway::inspect::Random;

/// Short and common, so that a large vocabulary has each as one token.
const WORDS: [&str; 48] = [
    "the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "by", "with", "from", "at", "are",
    "this", "have", "not", "city", "water", "house", "music", "river", "north", "road", "time", "year",
    "day", "people", "world", "life", "hand", "part", "place", "week", "case", "point", "number", "group",
    "problem", "fact", "night", "home", "room", "area", "money", "story", "book",
];

/// What may fill the last gap.
const SMALL: [&str; 8] = [".", ",", "a", "e", "i", "s", "1", "?"];

/// A text that `count` finds `tokens` tokens in, those that every text has included. `None` if there is no such
/// text of these words, or if `count` can count none.
pub fn of_tokens(tokens: usize, count: impl Fn(&str) -> Option<usize>) -> Option<String> {
    let mut random = Random::new(1);
    let mut text = String::new();
    let mut found = count(&text)?;
    while found < tokens {
        let drawn = WORDS[random.bits() as usize % WORDS.len()];
        // The one that was drawn, if it fits; else any that does.
        let longer = [drawn].into_iter().chain(WORDS).chain(SMALL).find_map(|word| {
            let longer = if text.is_empty() {
                word.to_owned()
            } else {
                format!("{text} {word}")
            };
            let count = count(&longer)?;
            (count > found && count <= tokens).then_some((longer, count))
        });
        (text, found) = longer?;
    }
    (found == tokens).then_some(text)
}

/// So many random words.
pub fn words(random: &mut Random, count: usize) -> String {
    let words: Vec<&str> = (0..count)
        .map(|_| WORDS[random.bits() as usize % WORDS.len()])
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_tokens() {
        // Two special tokens, one token per word.
        let words = |text: &str| Some(2 + text.split_whitespace().count());
        for tokens in [2, 3, 16, 512] {
            let text = of_tokens(tokens, words).unwrap();
            assert_eq!(text.split_whitespace().count() + 2, tokens, "{text}");
        }
        let text = of_tokens(64, words).unwrap();
        let mut different: Vec<&str> = text.split(' ').collect();
        different.sort();
        different.dedup();
        assert!(different.len() > 16, "{text}");
    }

    #[test]
    fn the_last_gap_is_filled_by_something_small() {
        // A token per letter or sign.
        let letters = |text: &str| Some(text.chars().filter(|c| *c != ' ').count());
        for tokens in [1, 2, 3, 50] {
            assert_eq!(letters(&of_tokens(tokens, letters).unwrap()), Some(tokens));
        }
    }

    #[test]
    fn what_cannot_be_is_none() {
        assert_eq!(of_tokens(1, |_| Some(2)), None, "a text has two tokens at least");
        let pairs = |text: &str| Some(2 * text.split_whitespace().count());
        assert_eq!(of_tokens(7, pairs), None);
        assert_eq!(of_tokens(7, |_| None), None);
    }
}
