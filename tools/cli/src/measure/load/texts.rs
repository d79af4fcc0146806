//! What is sent: random common words, the same in every run.

use ropeway::inspect::Random;

use crate::measure::encoder::texts::words;

/// Kinds of texts.
pub struct Texts {
    /// Of 4 to 12 words.
    pub queries: Vec<String>,
    /// Of 4 words to about what the model takes, or 200, log-uniform.
    pub mixed: Vec<String>,
    /// As long as the model takes.
    pub documents: Vec<String>,
}

impl Texts {
    /// So many of a kind, for a model of so many tokens.
    pub fn new(count: usize, max_tokens: usize) -> Texts {
        let mut random = Random::new(14);
        let longest = max_tokens.saturating_sub(8).clamp(5, 200) as f64;
        let of = |random: &mut Random, least: f64, most: f64| {
            let length = least * (most / least).powf(random.unit());
            words(random, length.round() as usize)
        };
        Texts {
            queries: (0..count).map(|_| of(&mut random, 4.0, 12.0)).collect(),
            mixed: (0..count).map(|_| of(&mut random, 4.0, longest)).collect(),
            // A token per word at least, so that they are cut to what the model takes.
            documents: (0..8).map(|_| words(&mut random, max_tokens.min(8192))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_their_kinds() {
        let texts = Texts::new(256, 512);
        let count = |text: &String| text.split(' ').count();
        assert!(texts.queries.iter().all(|text| (4..=12).contains(&count(text))));
        let mut mixed: Vec<usize> = texts.mixed.iter().map(count).collect();
        mixed.sort_unstable();
        assert!(mixed[0] < 8 && mixed[255] > 150, "{mixed:?}");
        assert!(texts.documents.iter().all(|text| count(text) == 512));
    }
}
