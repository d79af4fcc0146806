//! From the inputs of one HTTP request to their embeddings: each is a request of its own to the service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ropeway::service::{Service, ServiceError, Submission, Ticket, Timing};
use ropeway::{Embed, Embedding, Request};
use serde_json::Value;

use crate::failure::{Failure, Kind};

/// One input.
#[derive(Clone, Debug)]
pub enum Text {
    Words(String),
    Ids(Vec<u32>),
}

impl Text {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Text::Words(text) => text.is_empty(),
            Text::Ids(ids) => ids.is_empty(),
        }
    }

    /// Code points of a text, ids of ids.
    pub fn characters(&self) -> usize {
        match self {
            Text::Words(text) => text.chars().count(),
            Text::Ids(ids) => ids.len(),
        }
    }

    fn request(self, options: Embed) -> Request<'static> {
        match self {
            Text::Words(text) => Request::text(text, options),
            Text::Ids(ids) => Request::ids(ids, options),
        }
    }
}

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

/// Inputs as JSON has them: a string, ids, or an array of these; with Jina's `{"text": …}` for a string.
///
/// # Errors
/// Anything else, nothing, something empty, or more than `most`.
pub fn inputs(value: Value, field: &str, most: usize) -> Result<Vec<Text>, Failure> {
    let wrong = |what: &str| {
        let wanted = "wanted a string, an array of strings, or token ids";
        Failure::new(Kind::Malformed, format!("`{field}` {what}; {wanted}"))
    };
    let empty = || Failure::empty(field);
    let ids = |values: &[Value]| -> Option<Vec<u32>> {
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        values.iter().map(id).collect()
    };
    let one = |value: Value| -> Result<Text, Failure> {
        let text = match value {
            Value::String(text) => Text::Words(text),
            Value::Array(values) => Text::Ids(ids(&values).ok_or_else(|| wrong("holds something else"))?),
            Value::Object(mut object) => match object.remove("text") {
                Some(Value::String(text)) => Text::Words(text),
                _ => return Err(wrong("holds an object without `text`")),
            },
            _ => return Err(wrong("holds something else")),
        };
        if text.is_empty() {
            return Err(empty());
        }
        Ok(text)
    };
    match value {
        Value::Array(values) if values.is_empty() => Err(empty()),
        Value::Array(values) if values[0].is_number() => Ok(vec![one(Value::Array(values))?]),
        Value::Array(values) if values.len() > most => Err(Failure::too_many(field, values.len(), most)),
        Value::Array(values) => {
            let count = values.len();
            let numbered = values.into_iter().enumerate();
            numbered
                .map(|(index, value)| one(value).map_err(|failure| failure.of_input(index, count)))
                .collect()
        }
        Value::Null => Err(wrong("is missing")),
        value => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inputs_are_told_apart() {
        let read = |value| inputs(value, "input", 3);
        let shape = |value| -> Vec<String> {
            let name = |text: &Text| match text {
                Text::Words(words) => words.clone(),
                Text::Ids(ids) => format!("{ids:?}"),
            };
            read(value).unwrap().iter().map(name).collect()
        };
        assert_eq!(shape(json!("a")), ["a"]);
        assert_eq!(shape(json!(["a", {"text": "b"}])), ["a", "b"]);
        assert_eq!(shape(json!([1, 2, 3, 4])), ["[1, 2, 3, 4]"]);
        assert_eq!(shape(json!([[1], "b", [2, 3]])), ["[1]", "b", "[2, 3]"]);
        let kind = |value| read(value).unwrap_err().kind;
        for nothing in [json!(""), json!([]), json!(["a", ""]), json!([[]])] {
            assert_eq!(kind(nothing), Kind::Empty);
        }
        for wrong in [
            json!(null),
            json!(1),
            json!([1, -1]),
            json!([[1.5]]),
            json!([true]),
            json!({"url": "a"}),
        ] {
            assert_eq!(kind(wrong), Kind::Malformed);
        }
        assert_eq!(kind(json!(["a", "b", "c", "d"])), Kind::TooMany);
    }
}
