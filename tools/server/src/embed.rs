//! From the inputs of one HTTP request to their embeddings: each is a request of its own to the service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway::service::{ServiceError, Submission, Ticket, Timing};
use ropeway::{AdapterSelection, Chunking, Embed, Embedding};

use crate::app::{App, Model};
use crate::failure::{Failure, Kind};
use crate::inputs::Text;

/// Who asks, and how much it hurries.
#[derive(Clone, Debug)]
pub struct Terms {
    pub caller: String,
    pub priority: i32,
    pub deadline: Option<Instant>,
}

/// The options of one HTTP request's inputs.
pub enum Options {
    /// All have the same. Clones share what is long in them.
    Shared(Embed),
    /// As many as there are inputs.
    Each(Vec<Embed>),
}

impl Options {
    fn of(&self, index: usize) -> &Embed {
        match self {
            Options::Shared(options) => options,
            Options::Each(each) => &each[index],
        }
    }

    /// Fails where the inputs come to far more work than the body has bytes: a prompt is tokenised with each of them anew,
    /// and names and spans are looked at for each. `max_tokens` is the model's; none while its device is opened anew.
    fn check(&self, count: usize, max_tokens: Option<usize>, most: usize) -> Result<(), Failure> {
        let distinct = match self {
            Options::Shared(options) => std::slice::from_ref(options),
            Options::Each(each) => each,
        };
        if let Some(max_tokens) = max_tokens {
            let prompts = distinct.iter().filter_map(Embed::get_prompt);
            let found = prompts.map(str::len).max().unwrap_or_default();
            let longest = max_tokens.saturating_mul(TOKEN_BYTES);
            if found > longest {
                let message = format!(
                    "`prompt` has {found} bytes; this model takes {max_tokens} tokens, for which a prompt may have at most \
                     {longest} bytes: shorten it"
                );
                return Err(Failure::new(Kind::Invalid, message));
            }
        }
        let bytes: usize = distinct.iter().map(bytes_beside).sum();
        let all = match self {
            Options::Shared(_) => bytes.saturating_mul(count),
            Options::Each(_) => bytes,
        };
        // Beside a single input they are within the body's limit already.
        if count > 1 && all > most {
            let message = format!(
                "`prompt`, `task`, `adapters` and `chunks` come to {all} bytes, counted for each of the {count} inputs; \
                 wanted at most {most}: send fewer inputs at a time"
            );
            return Err(Failure::new(Kind::TooLarge, message));
        }
        Ok(())
    }
}

/// A prompt of more bytes than this for each token that the model takes leaves no room for a text: the longest tokens of
/// vocabularies have 16 characters, of at most 4 bytes.
const TOKEN_BYTES: usize = 64;

/// Bytes of what a client asks for beside an input.
fn bytes_beside(options: &Embed) -> usize {
    let names = match options.get_adapters() {
        AdapterSelection::Task(name) => name.len(),
        AdapterSelection::Mixture(parts) => {
            let part = |(name, weight): &(String, f32)| name.len() + size_of_val(weight);
            parts.iter().map(part).sum()
        }
        _ => 0,
    };
    let spans = match options.get_chunks() {
        Some(Chunking::Spans(spans)) => size_of_val(&spans[..]),
        _ => 0,
    };
    options.get_prompt().map_or(0, str::len) + names + spans
}

/// The embeddings of one HTTP request.
pub struct Embedded {
    pub embeddings: Vec<Embedding>,
    /// The longest times of its inputs.
    pub timing: Timing,
}

impl Embedded {
    /// Tokens of all inputs.
    pub fn tokens(&self) -> usize {
        self.embeddings.iter().map(|embedding| embedding.tokens).sum()
    }

    /// One vector of float32 per input.
    pub fn vectors(self) -> Result<Vec<Vec<f32>>, Failure> {
        let vectors = self.embeddings.into_iter().map(Embedding::into_f32);
        vectors
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::new(Kind::Invalid, error.to_string()))
    }
}

/// The longest pause before an input is handed in again that had no room.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// After so many inputs the thread looks after other clients.
const TURN: usize = 64;

/// Embeds inputs. If one of them cannot be embedded the others are cancelled.
///
/// A request that has no room for its first input is refused. One with more inputs than there is room for hands in the
/// rest as it gets room.
pub async fn embed(
    app: &App,
    model: &Model,
    inputs: Vec<Text>,
    options: Options,
    terms: &Terms,
) -> Result<Embedded, Failure> {
    let count = inputs.len();
    // A service takes requests while it opens its device anew, and serves them then.
    let engine = model.service.engine();
    let max_tokens = engine.map(|engine| engine.config().max_tokens);
    options.check(count, max_tokens, app.limits.body_bytes)?;
    let caller: Arc<str> = terms.caller.as_str().into();
    let mut tickets: Vec<Ticket> = Vec::with_capacity(count);
    for (index, text) in inputs.into_iter().enumerate() {
        if index % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let submission = Submission::new(text.request(options.of(index).clone()))
            .caller(caller.clone())
            .priority(terms.priority)
            .deadline(terms.deadline);
        let ticket = loop {
            match model.service.submit(submission.clone()) {
                Err(ServiceError::Overloaded { retry_after }) if index > 0 => {
                    tokio::time::sleep(retry_after.min(LONGEST_PAUSE)).await;
                }
                submitted => break submitted,
            }
        };
        tickets.push(ticket.map_err(|error| Failure::from(error).of_input(index, count))?);
    }
    let mut embeddings = Vec::with_capacity(count);
    let mut timing = Timing::default();
    for (index, mut ticket) in tickets.into_iter().enumerate() {
        let served = (&mut ticket).await;
        embeddings.push(served.map_err(|error| Failure::from(error).of_input(index, count))?);
        if let Some(of_one) = ticket.timing() {
            timing.queue = timing.queue.max(of_one.queue);
            timing.tokenize = timing.tokenize.max(of_one.tokenize);
            timing.compute = timing.compute.max(of_one.compute);
            timing.total = timing.total.max(of_one.total);
        }
    }
    Ok(Embedded { embeddings, timing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_inputs_is_bounded_with_and_without_an_engine() {
        let options = Options::Shared(Embed::default().prompt("x".repeat(1000)));
        let kind = |count, max_tokens, most| options.check(count, max_tokens, most).err().map(|f| f.kind);
        assert_eq!(kind(2, Some(16), 2000), None);
        assert_eq!(kind(2, Some(15), 2000), Some(Kind::Invalid));
        for max_tokens in [None, Some(16)] {
            assert_eq!(kind(1, max_tokens, 999), None);
            assert_eq!(kind(2, max_tokens, 2000), None);
            assert_eq!(kind(2, max_tokens, 1999), Some(Kind::TooLarge));
        }
    }
}
