//! The JSON-lines form of requests and of embeddings: what `ropeway embed` reads and writes.
//!
//! A line in is an object with `text` or `input_ids`; every other key is optional, overrides the
//! option of that name for this line alone, and `null` sets it back to none:
//!
//! ```
//! use ropeway::Embed;
//! use ropeway_cli::jsonl;
//! let run = Embed::task("retrieval.passage").dimensions(256);
//! let line = jsonl::parse(r#"{"id": "q1", "text": "warm coats", "task": "retrieval.query"}"#, &run).unwrap();
//! assert_eq!(line.id.unwrap().as_json(), r#""q1""#);
//! assert_eq!(*line.request.options, Embed::task("retrieval.query").dimensions(256));
//! ```

mod read;
mod write;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use read::{BadLine, ENCODINGS, KEYS, Line, POOLINGS, check_mixture, parse};
pub use write::{Row, read_row, write_error, write_numbers, write_row};

/// What an input is called: a JSON string or number, kept as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

impl Id {
    /// The id of an input that has none: its running number, from 0.
    pub fn number(number: u64) -> Id {
        Id(number.to_string())
    }

    /// A string as an id.
    pub fn string(text: &str) -> Id {
        Id(serde_json::Value::from(text).to_string())
    }

    /// The id as JSON, byte for byte as it was given.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    fn read(raw: &RawValue) -> Option<Id> {
        let text = raw.get();
        let number = |c: char| c == '-' || c.is_ascii_digit();
        (text.starts_with('"') || text.starts_with(number)).then(|| Id(text.into()))
    }
}

/// The entries of a JSON object in their order, repeated keys included.
struct Pairs<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<V>, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Pairs(entries))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests;
