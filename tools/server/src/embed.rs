//! From the inputs of one HTTP request to their embeddings: each is a request of its own to the service.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway::service::{ServiceError, Submission, Ticket, Timing};
use ropeway::{AdapterSelection, Chunking, Embed, Embedding, Output, Vector};

use crate::app::{App, Model};
use crate::failure::{Failure, Kind};
use crate::inputs::Text;
use crate::reply::NO_ROOM;
use crate::room::{Share, crowded};

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
    /// and names and spans are looked at for each.
    fn check(&self, count: usize, most: usize) -> Result<(), Failure> {
        let distinct = match self {
            Options::Shared(options) => std::slice::from_ref(options),
            Options::Each(each) => each,
        };
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
    /// The room that the embeddings take.
    pub share: Share,
}

/// Bytes that are kept for a vector besides its numbers: where it is, and what an answer says of it.
const BESIDE_VECTOR: usize = 128;

/// Bytes of an embedding's vectors, as float32.
fn bytes_of(embedding: &Embedding) -> usize {
    let of_one = |vector: &Vector| BESIDE_VECTOR + vector.as_f32().map_or(0, size_of_val);
    match &embedding.output {
        Output::Vector(vector) => of_one(vector),
        Output::Tokens(vectors) => vectors.iter().map(of_one).sum(),
        Output::Chunks(chunks) => chunks.iter().map(|chunk| of_one(&chunk.vector)).sum(),
        _ => 0,
    }
}

impl Embedded {
    /// Waits for one more of `count` embeddings. The first that finds no room ends the request, before all of them are made.
    async fn take(&mut self, mut ticket: Ticket, count: usize, most: usize) -> Result<(), Failure> {
        let index = self.embeddings.len();
        let served = (&mut ticket).await;
        let embedding = served.map_err(|error| Failure::from(error).of_input(index, count))?;
        let bytes = bytes_of(&embedding);
        if self.share.length() + bytes > most {
            let message = format!(
                "the vectors of {} of {count} inputs come to more than {most} bytes; send fewer inputs at a time, or ask for \
                 fewer vectors of each",
                index + 1
            );
            return Err(Failure::new(Kind::TooLarge, message));
        }
        if !self.share.holds_more(bytes) {
            return Err(crowded(NO_ROOM));
        }
        self.embeddings.push(embedding);
        if let Some(of_one) = ticket.timing() {
            self.timing.queue = self.timing.queue.max(of_one.queue);
            self.timing.tokenize = self.timing.tokenize.max(of_one.tokenize);
            self.timing.compute = self.timing.compute.max(of_one.compute);
            self.timing.total = self.timing.total.max(of_one.total);
        }
        Ok(())
    }

    /// Tokens of all inputs.
    pub fn tokens(&self) -> usize {
        self.embeddings.iter().map(|embedding| embedding.tokens).sum()
    }

    /// One vector of float32 per input, and the room that they take.
    pub fn vectors(self) -> Result<(Vec<Vec<f32>>, Share), Failure> {
        let vectors = self.embeddings.into_iter().map(Embedding::into_f32);
        let vectors = vectors.collect::<Result<_, _>>();
        let vectors = vectors.map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
        Ok((vectors, self.share))
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
    options.check(count, app.limits.body_bytes)?;
    let caller: Arc<str> = terms.caller.as_str().into();
    let most = app.limits.vector_bytes;
    let mut embedded = Embedded {
        embeddings: Vec::with_capacity(count),
        timing: Timing::default(),
        share: app.room_for_answer(&terms.caller),
    };
    let mut waiting: VecDeque<Ticket> = VecDeque::with_capacity(count);
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
                // When the first of its own is done there is room for another.
                Err(ServiceError::Overloaded { retry_after }) if index > 0 => match waiting.pop_front() {
                    Some(first) => embedded.take(first, count, most).await?,
                    None => tokio::time::sleep(retry_after.min(LONGEST_PAUSE)).await,
                },
                submitted => break submitted,
            }
        };
        waiting.push_back(ticket.map_err(|error| Failure::from(error).of_input(index, count))?);
    }
    for ticket in waiting {
        embedded.take(ticket, count, most).await?;
    }
    Ok(embedded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_inputs_is_bounded() {
        let options = Options::Shared(Embed::default().prompt("x".repeat(1000)));
        let kind = |count, most| options.check(count, most).err().map(|f| f.kind);
        assert_eq!(kind(1, 999), None);
        assert_eq!(kind(2, 2000), None);
        assert_eq!(kind(2, 1999), Some(Kind::TooLarge));
    }
}
