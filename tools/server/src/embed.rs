//! From the inputs of one HTTP request to their embeddings: each is a request of its own to the service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway::service::{Service, ServiceError, Submission, Ticket, Timing};
use ropeway::{Embed, Embedding};

use crate::failure::{Failure, Kind};
use crate::inputs::Text;

/// Who asks, and how much it hurries.
#[derive(Clone, Debug)]
pub struct Terms {
    pub caller: String,
    pub priority: i32,
    pub deadline: Option<Instant>,
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
    service: &Service,
    inputs: Vec<(Text, Embed)>,
    terms: &Terms,
) -> Result<Embedded, Failure> {
    let count = inputs.len();
    let caller: Arc<str> = terms.caller.as_str().into();
    let mut tickets: Vec<Ticket> = Vec::with_capacity(count);
    for (index, (text, options)) in inputs.into_iter().enumerate() {
        if index % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let submission = Submission::new(text.request(options))
            .caller(caller.clone())
            .priority(terms.priority)
            .deadline(terms.deadline);
        let ticket = loop {
            match service.submit(submission.clone()) {
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
