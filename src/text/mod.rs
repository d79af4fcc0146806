//! Text to token ids: prompt, tokenise, cut at the limit, remember where each token came from.

pub mod chunk;

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, RequestError, Result};
use crate::model::file;

/// The tokenizer of a model (`tokenizer.json`).
pub struct TextPipeline {
    tokenizer: Tokenizer,
    /// Special tokens that stand after a text.
    trailing_specials: usize,
}

/// A tokenised text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// With special tokens and the prompt's.
    pub ids: Vec<u32>,
    /// For each id the code points `[start, end)` of the text (not of the prompt) that it stands
    /// for, without leading white space; `None` for special tokens and the prompt's.
    pub offsets: Vec<Option<(usize, usize)>>,
}

impl TextPipeline {
    /// Opens a folder's `tokenizer.json`; `None` where there is none (such a model takes ids).
    pub fn open(folder: &Path) -> Result<Option<TextPipeline>> {
        let path = folder.join("tokenizer.json");
        if !file::is_present(&path) {
            return Ok(None);
        }
        let bytes = file::read(&path, file::TOKENIZER_LIMIT)?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::model(&path, format!("is not a tokenizer that can be read: {e}")))?;
        // A file may carry the settings of whoever saved it; cutting is done here, padding never.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::model(&path, format!("truncation cannot be switched off: {e}")))?;
        let probe = tokenizer
            .encode("a", true)
            .map_err(|e| Error::model(&path, format!("cannot tokenise a plain letter: {e}")))?;
        let specials = probe.get_special_tokens_mask().iter().rev();
        let trailing_specials = specials.take_while(|&&special| special == 1).count();
        Ok(Some(TextPipeline {
            tokenizer,
            trailing_specials,
        }))
    }

    /// Tokenises `prompt + text`. Offsets cost time, so they are kept only where they are needed.
    pub fn tokenize(&self, prompt: &str, text: &str, offsets: bool) -> Result<Tokens> {
        let joined;
        let input = if prompt.is_empty() {
            text
        } else {
            joined = [prompt, text].concat();
            &joined
        };
        let failed = |e: tokenizers::Error| RequestError::Text(e.to_string());
        if !offsets {
            let encoding = self.tokenizer.encode_fast(input, true).map_err(failed)?;
            return Ok(Tokens {
                ids: encoding.get_ids().to_vec(),
                offsets: Vec::new(),
            });
        }
        let encoding = self.tokenizer.encode_char_offsets(input, true).map_err(failed)?;
        let points: Vec<char> = input.chars().collect();
        let prompt_points = prompt.chars().count();
        let offsets = encoding
            .get_offsets()
            .iter()
            .zip(encoding.get_special_tokens_mask())
            .map(|(&(start, end), &special)| {
                let (mut start, end) = (start.min(points.len()), end.min(points.len()));
                // Some tokenizers count the space before a word to it; the token that the prompt's
                // last space went into belongs to the text.
                while start < end && points[start].is_whitespace() {
                    start += 1;
                }
                let of_text = special == 0 && end > prompt_points;
                of_text.then(|| (start.max(prompt_points) - prompt_points, end - prompt_points))
            })
            .collect();
        Ok(Tokens {
            ids: encoding.get_ids().to_vec(),
            offsets,
        })
    }

    /// Cuts to `limit` tokens at the end of the text, keeping the special tokens after it.
    /// Returns whether anything was cut.
    pub fn truncate(&self, tokens: &mut Tokens, limit: usize) -> bool {
        if tokens.ids.len() <= limit {
            return false;
        }
        let tail = self.trailing_specials.min(limit);
        let cut = limit - tail..tokens.ids.len() - tail;
        tokens.ids.drain(cut.clone());
        if !tokens.offsets.is_empty() {
            tokens.offsets.drain(cut);
        }
        true
    }
}
