//! Late chunking (arXiv 2409.04701): which tokens of a document make which chunk, and the windows
//! a document longer than the context goes through.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::Tokens;
use crate::error::{Error, RequestError, Result};
use crate::request::Chunking;

/// A chunk: what the caller calls it, and its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Bounds in code points of the text (tokens, where ids were given), half-open.
    pub bounds: (usize, usize),
    /// Its tokens among the document's ids.
    pub tokens: Range<usize>,
}

/// Chunks of token ids: bounds are token numbers, nothing is added at the ends.
pub fn of_ids(count: usize, chunking: &Chunking) -> Result<Vec<Span>> {
    check(chunking, count, "tokens")?;
    let bounds: Vec<(usize, usize)> = match chunking {
        Chunking::Tokens(n) => (0..count)
            .step_by(*n)
            .map(|start| (start, count.min(start + n)))
            .collect(),
        Chunking::Sentences => {
            return Err(RequestError::SentencesOfIds.into());
        }
        Chunking::Spans(spans) => spans.clone(),
    };
    Ok(bounds
        .into_iter()
        .map(|(start, end)| Span {
            bounds: (start, end),
            tokens: start..end,
        })
        .collect())
}

/// Chunks of a tokenised text. A token belongs to the chunk its first code point (white space left
/// out) lies in. A chunk with the text's first token reaches back over the prompt and the special
/// tokens there; one with its last reaches over those after it.
pub fn of_text(text: &str, tokens: &Tokens, chunking: &Chunking) -> Result<Vec<Span>> {
    let points = text.chars().count();
    // (token number, its code points), text tokens alone.
    let places: Vec<(usize, (usize, usize))> = tokens
        .offsets
        .iter()
        .enumerate()
        .filter_map(|(i, offsets)| Some((i, (*offsets)?)))
        .collect();
    check(chunking, points, "code points")?;
    if places.is_empty() {
        // Nothing but special tokens and the prompt: one chunk of all there is.
        return match chunking {
            Chunking::Spans(spans) => spans.first().map_or(Ok(Vec::new()), |&span| Err(no_token(span))),
            _ => Ok(vec![Span {
                bounds: (0, points),
                tokens: 0..tokens.ids.len(),
            }]),
        };
    }
    // Chunks as ranges of `places`, with their bounds.
    let chunks: Vec<((usize, usize), Range<usize>)> = match chunking {
        Chunking::Tokens(n) => tile(points, &places, (0..places.len()).step_by(*n).collect()),
        Chunking::Sentences => {
            let mut starts = Vec::new();
            let mut point = 0;
            for sentence in text.split_sentence_bounds() {
                // The first token at or after the sentence's start opens its chunk; a sentence without
                // a token of its own joins its neighbour.
                let first = places.partition_point(|&(_, (start, _))| start < point);
                if first < places.len() && starts.last() != Some(&first) {
                    starts.push(first);
                }
                point += sentence.chars().count();
            }
            tile(points, &places, starts)
        }
        Chunking::Spans(spans) => spans
            .iter()
            .map(|&span| Ok((span, covered(span, &places).ok_or_else(|| no_token(span))?)))
            .collect::<Result<_>>()?,
    };
    let reach = |(bounds, range): ((usize, usize), Range<usize>)| {
        let start = if range.start == 0 {
            0
        } else {
            places[range.start].0
        };
        let end = if range.end == places.len() {
            tokens.ids.len()
        } else {
            places[range.end - 1].0 + 1
        };
        Span {
            bounds,
            tokens: start..end,
        }
    };
    Ok(chunks.into_iter().map(reach).collect())
}

/// Chunks that start at these places and together cover the text.
fn tile(
    points: usize,
    places: &[(usize, (usize, usize))],
    starts: Vec<usize>,
) -> Vec<((usize, usize), Range<usize>)> {
    let bound = |place: usize| {
        if place == 0 {
            0
        } else {
            places.get(place).map_or(points, |p| p.1.0)
        }
    };
    let ends = starts.iter().skip(1).copied().chain([places.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| ((bound(start), bound(end)), start..end))
        .collect()
}

/// The places whose token starts in the span; where none does, those that overlap it.
fn covered((start, end): (usize, usize), places: &[(usize, (usize, usize))]) -> Option<Range<usize>> {
    // Tokens stand in the order of the text.
    let first = places.partition_point(|&(_, (from, _))| from < start);
    let last = places.partition_point(|&(_, (from, _))| from < end);
    if first < last {
        return Some(first..last);
    }
    let before = first.checked_sub(1)?;
    (places[before].1.1 > start).then_some(before..first)
}

/// Checks what can be checked before the tokens are known to fit.
fn check(chunking: &Chunking, length: usize, unit: &'static str) -> Result<()> {
    match chunking {
        Chunking::Tokens(0) => Err(RequestError::ChunkSize.into()),
        Chunking::Spans(spans) => spans
            .iter()
            .try_for_each(|&span| check_bounds(span, length, unit)),
        Chunking::Tokens(_) | Chunking::Sentences => Ok(()),
    }
}

fn check_bounds((start, end): (usize, usize), length: usize, unit: &'static str) -> Result<()> {
    if start >= end || end > length {
        return Err(RequestError::Span {
            start,
            end,
            length,
            unit,
        }
        .into());
    }
    Ok(())
}

fn no_token((start, end): (usize, usize)) -> Error {
    RequestError::EmptySpan { start, end }.into()
}

/// One window of a long document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The document's tokens that go through the model together.
    pub tokens: Range<usize>,
    /// Those whose outputs count.
    pub kept: Range<usize>,
}

/// The windows of a document: `size` tokens each, every `size − overlap` tokens; the first
/// `overlap` outputs of every window but the first are dropped. One window where all fits.
pub fn windows(count: usize, size: usize, overlap: usize) -> Vec<Window> {
    assert!(overlap < size, "checked with the request");
    let mut windows = Vec::new();
    let mut start = 0;
    loop {
        let end = count.min(start + size);
        let kept = if start == 0 { 0 } else { start + overlap };
        windows.push(Window {
            tokens: start..end,
            kept: kept..end,
        });
        if end == count {
            return windows;
        }
        start += size - overlap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `<s>`, two prompt tokens, one token per word, `</s>`.
    fn words(text: &str) -> Tokens {
        let mut offsets = vec![None; 3];
        let mut start = None;
        for (i, c) in text.chars().chain([' ']).enumerate() {
            match (c.is_whitespace(), start) {
                (false, None) => start = Some(i),
                (true, Some(s)) => {
                    offsets.push(Some((s, i)));
                    start = None;
                }
                _ => {}
            }
        }
        offsets.push(None);
        Tokens {
            ids: vec![9; offsets.len()],
            offsets,
        }
    }

    #[test]
    fn sentences_reach_over_the_special_tokens_at_both_ends() {
        let text = "Héllo there. How are you?  Fine!";
        let spans = of_text(text, &words(text), &Chunking::Sentences).unwrap();
        assert_eq!(
            spans,
            [
                Span {
                    bounds: (0, 13),
                    tokens: 0..5
                },
                Span {
                    bounds: (13, 27),
                    tokens: 5..8
                },
                Span {
                    bounds: (27, 32),
                    tokens: 8..10
                },
            ]
        );
    }

    #[test]
    fn given_spans_may_overlap_and_leave_gaps() {
        let text = "one two three four";
        let spans = Chunking::Spans(vec![(4, 13), (0, 5), (9, 10)]);
        let spans = of_text(text, &words(text), &spans).unwrap();
        let tokens: Vec<_> = spans.iter().map(|s| s.tokens.clone()).collect();
        // The last lies inside a token and takes it whole.
        assert_eq!(tokens, [4..6, 0..5, 5..6]);
    }

    #[test]
    fn bad_spans_are_refused() {
        let text = "one   two";
        for (span, problem) in [
            ((3, 3), "empty"),
            ((2, 1), "empty"),
            ((0, 10), "9 code points"),
            ((4, 5), "white space"),
        ] {
            let error = of_text(text, &words(text), &Chunking::Spans(vec![span])).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
        assert!(of_ids(3, &Chunking::Spans(vec![(0, 4)])).is_err());
        assert!(of_ids(3, &Chunking::Sentences).is_err());
        assert!(of_ids(3, &Chunking::Tokens(0)).is_err());
        assert!(of_text(text, &words(text), &Chunking::Tokens(0)).is_err());
    }

    #[test]
    fn empty_text_is_one_chunk_of_the_special_tokens() {
        let spans = of_text("", &words(""), &Chunking::Sentences).unwrap();
        assert_eq!(
            spans,
            [Span {
                bounds: (0, 0),
                tokens: 0..4
            }]
        );
    }

    proptest! {
        #[test]
        fn chunks_by_tokens_and_sentences_tile_text_and_tokens(text in "[a-zé .!?\n]{0,60}", n in 1usize..9) {
            let tokens = words(&text);
            for chunking in [Chunking::Tokens(n), Chunking::Sentences] {
                let spans = of_text(&text, &tokens, &chunking).unwrap();
                let (mut point, mut token) = (0, 0);
                for span in &spans {
                    prop_assert_eq!(span.bounds.0, point);
                    prop_assert_eq!(span.tokens.start, token);
                    prop_assert!(!span.tokens.is_empty());
                    (point, token) = (span.bounds.1, span.tokens.end);
                }
                prop_assert_eq!(point, text.chars().count());
                prop_assert_eq!(token, tokens.ids.len());
            }
        }

        #[test]
        fn windows_keep_every_token_once(count in 0usize..500, size in 1usize..60, overlap in 0usize..59) {
            let overlap = overlap % size;
            let windows = windows(count, size, overlap);
            let mut token = 0;
            for (i, window) in windows.iter().enumerate() {
                prop_assert_eq!(window.tokens.start, i * (size - overlap));
                prop_assert!(window.tokens.len() <= size);
                prop_assert_eq!(window.kept.start, token);
                prop_assert!(window.kept.end == window.tokens.end);
                token = window.kept.end;
            }
            prop_assert_eq!(token, count);
        }
    }
}
