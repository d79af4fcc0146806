//! Text to token ids: prompt, tokenise, cut at the limit, remember where each token came from.
//!
//! A tokenizer takes up to 450 bytes of memory for every byte that it is given, so that a long text goes through it in
//! parts (see [`cut`]), and no more of them than are needed.

mod agreement;
pub mod chunk;
mod cut;
mod growth;
mod pattern;
mod settings;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::{Encoding, ModelWrapper, NormalizerWrapper, Tokenizer};

use self::cut::Cuts;
use self::settings::Settings;
use crate::error::{Error, RequestError, Result, panic_message};
use crate::model::config::TokenizerSettings;
use crate::model::file;

/// The tokenizer of a model (`tokenizer.json`).
pub struct TextPipeline {
    tokenizer: Tokenizer,
    cuts: Cuts,
    /// The special tokens that stand before a text.
    leading: Vec<u32>,
    /// Those after it.
    trailing: Vec<u32>,
    /// The tokens of [`LETTER`] alone.
    letter: Vec<u32>,
    sizes: PartSizes,
    /// The most by which the decoder multiplies the bytes of tokens, with one more for each.
    decoder_growth: f64,
}

/// The parts in which long texts are tokenised, in bytes.
#[derive(Clone, Copy, Debug)]
struct PartSizes {
    /// Texts up to this size are tokenised whole.
    whole: usize,
    /// A part of a longer one ends at the first place after so much.
    part: usize,
    /// The longest part.
    longest: usize,
}

const PART_SIZES: PartSizes = PartSizes {
    whole: 64 << 10,
    part: 16 << 10,
    longest: 256 << 10,
};

/// A tokenizer whose normalizer can make a text longer than this gets smaller parts, so that what it makes of one fits into
/// memory all the same. XLM-RoBERTa's multiplies by up to 17, and by half as much again in lower case.
const GROWTH_OF_WHOLE_PARTS: f64 = 32.0;

/// The same for a splitter, whose growth comes on top: the marks of SentencePiece take 6 times.
const SPLITTER_GROWTH_OF_WHOLE_PARTS: f64 = 6.0;

/// Bytes of the longest text that ids may become: some hundred for each of as many tokens as a large document has.
const LONGEST_DECODED: usize = 64 << 20;

impl PartSizes {
    fn for_growth(self, settings: &Settings) -> PartSizes {
        let normalizer = settings.growth / GROWTH_OF_WHOLE_PARTS;
        let splitter = settings.splitter_growth / SPLITTER_GROWTH_OF_WHOLE_PARTS;
        // And one more, for a space that is put before a word.
        let looking = settings.growth_before_look_ahead().unwrap_or_default()
            * ((self.longest + 1) as f64 / pattern::LONGEST_LOOK_AHEAD);
        let times = (normalizer * splitter.max(1.0)).max(looking).max(1.0);
        let smaller = |bytes: usize| (bytes as f64 / times) as usize;
        PartSizes {
            whole: smaller(self.whole),
            part: smaller(self.part),
            longest: smaller(self.longest),
        }
    }
}

/// A word that every tokenizer takes. A part of a text stands behind it, since some white space at the start of a text is
/// treated otherwise.
const LETTER: &str = "a";

/// A tokenised text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// With special tokens and the prompt's.
    pub ids: Vec<u32>,
    /// For each id the code points `[start, end)` of the text (not of the prompt) that it stands
    /// for, without leading white space; `None` for special tokens and the prompt's.
    pub offsets: Vec<Option<(usize, usize)>>,
}

/// A token of a text: see [`Engine::tokenize`](crate::Engine::tokenize).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The code points `[start, end)` of the text that it stands for, without leading white space; `None` for special tokens.
    pub span: Option<(usize, usize)>,
    /// The name of a special token, such as `[CLS]`.
    pub name: Option<String>,
}

impl TextPipeline {
    /// Opens a folder's `tokenizer.json`; `None` where there is none (such a model takes ids). With `lower_case`, texts are
    /// put into lower case first; special tokens, which are found before that, keep their case. Of `max_tokens`, the model's
    /// limit, special tokens must leave some for the text. What the files beside it say has to agree with it.
    pub fn open(
        folder: &Path,
        lower_case: bool,
        max_tokens: usize,
        beside: &TokenizerSettings,
    ) -> Result<Option<TextPipeline>> {
        let path = folder.join("tokenizer.json");
        if !file::is_present(&path) {
            return Ok(None);
        }
        let bytes = file::read(&path, file::TOKENIZER_LIMIT)?;
        file::check_encoding(&path, &bytes)?;
        let refused =
            |problem: String| Error::model(&path, format!("is not a tokenizer that can be read: {problem}"));
        let mut settings = Settings::read(&bytes).map_err(refused)?;
        let mut tokenizer =
            fenced(|| Tokenizer::from_bytes(&bytes).map_err(|e| e.to_string())).map_err(refused)?;
        let settled = agreement::settle(beside, &mut settings, &mut tokenizer)?;
        let lowered = lower_case && settings.add_lower_case().map_err(refused)?;
        if settled || lowered {
            let normalizer = serde_json::from_value(settings.normalizer.clone());
            let normalizer: NormalizerWrapper = normalizer.map_err(|e| refused(e.to_string()))?;
            let changed = fenced(|| {
                tokenizer
                    .with_normalizer(Some(normalizer))
                    .map_err(|e| e.to_string())
                    .map(|_| ())
            });
            changed.map_err(refused)?;
        }
        // A file may carry the settings of whoever saved it; cutting is done here, padding never.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|e| Error::model(&path, format!("truncation cannot be switched off: {e}")))?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(ModelWrapper::BPE(model));
            tracing::warn!(path = %path.display(), "dropout of the tokenizer is for training: it is off");
        }
        let probe = fenced(|| tokenizer.encode(LETTER, true).map_err(|e| e.to_string()))
            .map_err(|e| Error::model(&path, format!("cannot tokenise a plain letter: {e}")))?;
        let specials = probe.get_special_tokens_mask();
        let run = |ends: &mut dyn Iterator<Item = &u32>| ends.take_while(|&&special| special == 1).count();
        let leading = run(&mut specials.iter());
        let trailing = run(&mut specials[leading..].iter().rev());
        let ids = probe.get_ids();
        // Without a token of the letter nothing tells the special tokens before a text from those after it.
        if leading == ids.len() {
            return Err(refused(format!(
                "model: has no token for the letter {LETTER:?}, and none for what is unknown; give it an unk_token, or use \
                 the tokenizer that the model was published with"
            )));
        }
        if leading + trailing >= max_tokens {
            return Err(refused(format!(
                "post_processor: puts {} special tokens around a text, and the model takes {max_tokens} in all, which leaves \
                 none for the text; use the tokenizer that the model was published with",
                leading + trailing
            )));
        }
        Ok(Some(TextPipeline {
            cuts: Cuts::new(
                &settings.normalizer,
                tokenizer.get_normalizer(),
                &settings.pre_tokenizer,
                &settings.added_tokens,
            ),
            leading: ids[..leading].to_vec(),
            letter: ids[leading..ids.len() - trailing].to_vec(),
            trailing: ids[ids.len() - trailing..].to_vec(),
            tokenizer,
            sizes: PART_SIZES.for_growth(&settings),
            decoder_growth: settings.decoder_growth,
        }))
    }

    /// Tokenises `prompt + text`. Offsets cost time, so they are kept only where they are needed.
    ///
    /// With a `limit`, a long text is not tokenised to its end: the ids are the first ones of all, more than `limit` where
    /// there are so many, and the special tokens after them.
    pub fn tokenize(&self, prompt: &str, text: &str, offsets: bool, limit: Option<usize>) -> Result<Tokens> {
        let joined;
        let input = if prompt.is_empty() {
            text
        } else {
            joined = [prompt, text].concat();
            &joined
        };
        let prompt_points = if offsets { prompt.chars().count() } else { 0 };
        let mut tokens = Tokens::default();
        if input.len() <= self.sizes.whole {
            let encoding = self.encode(input, true, offsets)?;
            tokens.ids.extend_from_slice(encoding.get_ids());
            if offsets {
                append_offsets(&mut tokens.offsets, &encoding, 0, input, 0, prompt_points);
            }
            return Ok(tokens);
        }
        let append_specials = |tokens: &mut Tokens, specials: &[u32]| {
            tokens.ids.extend_from_slice(specials);
            tokens
                .offsets
                .resize(if offsets { tokens.ids.len() } else { 0 }, None);
        };
        append_specials(&mut tokens, &self.leading);
        let enough = limit.map_or(usize::MAX, |limit| limit.saturating_sub(self.trailing.len()));
        let (mut rest, mut points) = (input, 0);
        let mut behind_letter = String::new();
        while !rest.is_empty() && tokens.ids.len() <= enough {
            let part = self.first_part(rest)?;
            let first = rest.len() == input.len();
            behind_letter.clear();
            behind_letter.extend([if first { "" } else { LETTER }, part]);
            let skipped = if first { &[][..] } else { &self.letter };
            let encoding = self.encode(&behind_letter, false, offsets)?;
            let ids = encoding.get_ids().strip_prefix(skipped);
            let ids = ids.ok_or_else(|| RequestError::Text("its parts cannot be told apart".into()))?;
            tokens.ids.extend_from_slice(ids);
            if offsets {
                let letters = behind_letter.len() - part.len();
                let skipped = skipped.len();
                append_offsets(
                    &mut tokens.offsets,
                    &encoding,
                    skipped,
                    &behind_letter,
                    points - letters,
                    prompt_points,
                );
                points += part.chars().count();
            }
            rest = &rest[part.len()..];
        }
        append_specials(&mut tokens, &self.trailing);
        Ok(tokens)
    }

    /// A text's tokens one by one, for people; `specials`: with the special tokens around it. `None` for a text of more
    /// tokens than `most`, besides those: it is not tokenised to its end.
    pub fn tokens(&self, text: &str, specials: bool, most: usize) -> Result<Option<Vec<Token>>> {
        let limit = most.saturating_add(self.leading.len() + self.trailing.len());
        let tokens = self.tokenize("", text, true, Some(limit))?;
        if tokens.ids.len() > limit {
            return Ok(None);
        }
        let kept = match specials {
            true => 0..tokens.ids.len(),
            false => self.leading.len()..tokens.ids.len() - self.trailing.len(),
        };
        let kept = tokens.ids[kept.clone()].iter().zip(&tokens.offsets[kept]);
        let token = |(&id, &span): (&u32, &Option<(usize, usize)>)| Token {
            id,
            span,
            name: span.is_none().then(|| self.tokenizer.id_to_token(id)).flatten(),
        };
        Ok(Some(kept.map(token).collect()))
    }

    /// The most bytes that a text of these tokens can have, by the lengths of the tokens and what the decoder may do.
    pub fn decoded_at_most(&self, ids: &[u32]) -> usize {
        let of_token = |&id: &u32| 1 + self.tokenizer.id_to_token(id).map_or(0, |token| token.len());
        (ids.iter().map(of_token).sum::<usize>() as f64 * self.decoder_growth) as usize
    }

    /// A text of these tokens, without the special ones or with them.
    pub fn decode(&self, ids: &[u32], without_specials: bool) -> Result<String> {
        let bytes = self.decoded_at_most(ids);
        if bytes > LONGEST_DECODED {
            return Err(RequestError::Text(format!(
                "{} ids stand for a text of up to {bytes} bytes; at most {LONGEST_DECODED} are made; give fewer at a time",
                ids.len()
            ))
            .into());
        }
        let decode = || {
            self.tokenizer
                .decode(ids, without_specials)
                .map_err(|e| e.to_string())
        };
        Ok(fenced(decode).map_err(RequestError::Text)?)
    }

    /// Tokens of a prompt alone, with the special tokens before it but not those after it, of which sentence-transformers
    /// takes away one.
    pub fn prompt_tokens(&self, prompt: &str, limit: usize) -> Result<usize> {
        let tokens = self.tokenize(prompt, "", false, Some(limit))?.ids.len();
        Ok(tokens.min(limit) - usize::from(!self.trailing.is_empty()))
    }

    fn encode(&self, text: &str, specials: bool, offsets: bool) -> Result<Encoding> {
        let encode = || match offsets {
            true => self.tokenizer.encode_char_offsets(text, specials),
            false => self.tokenizer.encode_fast(text, specials),
        };
        Ok(fenced(|| encode().map_err(|e| e.to_string())).map_err(RequestError::Text)?)
    }

    /// The part of a text that is tokenised first.
    fn first_part<'t>(&self, text: &'t str) -> Result<&'t str> {
        let PartSizes { part, longest, .. } = self.sizes;
        if text.len() <= part {
            return Ok(text);
        }
        let normalizer = self.tokenizer.get_normalizer();
        match self.cuts.next(normalizer, text, part, longest) {
            Some(cut) => Ok(&text[..cut]),
            None if text.len() <= longest => Ok(text),
            None => Err(RequestError::NoBlanks { limit: longest }.into()),
        }
    }

    /// Cuts to `limit` tokens at the end of the text, keeping the special tokens after it.
    /// Returns whether anything was cut.
    pub fn truncate(&self, tokens: &mut Tokens, limit: usize) -> bool {
        if tokens.ids.len() <= limit {
            return false;
        }
        let tail = self.trailing.len().min(limit);
        let cut = limit - tail..tokens.ids.len() - tail;
        tokens.ids.drain(cut.clone());
        if !tokens.offsets.is_empty() {
            tokens.offsets.drain(cut);
        }
        true
    }
}

/// Adds where the tokens of a part stand in the text, but for the first `skipped`: the part starts `start` code points
/// after the start of a prompt of `prompt` code points.
fn append_offsets(
    offsets: &mut Vec<Option<(usize, usize)>>,
    encoding: &Encoding,
    skipped: usize,
    part: &str,
    part_start: usize,
    prompt: usize,
) {
    let points: Vec<char> = part.chars().collect();
    let specials = encoding.get_special_tokens_mask();
    let tokens = encoding.get_offsets().iter().zip(specials).skip(skipped);
    // BPE that falls back to bytes takes those of a prefix for the text's, so that a word seems to end behind its end and
    // the next goes back: here tokens stand in the order of the text.
    let mut before = 0;
    offsets.extend(tokens.map(|(&(start, end), &special)| {
        let mut start = start.min(points.len()).max(before);
        let end = end.min(points.len()).max(start);
        // Some tokenizers count the space before a word to it; the token that the prompt's last space went into belongs
        // to the text.
        while start < end && points[start].is_whitespace() {
            start += 1;
        }
        before = start;
        let (start, end) = (part_start + start, part_start + end);
        let of_text = special == 0 && end > prompt;
        of_text.then(|| (start.max(prompt) - prompt, end - prompt))
    }));
}

/// The result of a call to the tokenizers library, which panics on some files and texts.
fn fenced<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What a panic could leave half done is the call's own.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(format!(
            "the tokenizers library failed ({})",
            panic_message(&*panic)
        ))
    })
}

#[cfg(test)]
mod tests;
