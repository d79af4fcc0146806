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

mod id;
mod read;
mod torn;
mod write;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

pub use id::Id;
pub use read::{BadLine, ENCODINGS, KEYS, Line, POOLINGS, check_mixture, parse};
pub use torn::is_row_begin;
pub use write::{Row, is_f16, read_row, read_row_start, write_error, write_numbers, write_row};

/// The first `LIMIT` entries of a JSON object in their order, repeated keys included.
struct Pairs<V, const LIMIT: usize> {
    entries: Vec<(String, V)>,
    /// The object has more.
    more: bool,
}

impl<'de, V: Deserialize<'de>, const LIMIT: usize> Deserialize<'de> for Pairs<V, LIMIT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V, const LIMIT: usize>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>, const LIMIT: usize> Visitor<'de> for Entries<V, LIMIT> {
            type Value = Pairs<V, LIMIT>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while entries.len() < LIMIT {
                    match map.next_entry()? {
                        Some(entry) => entries.push(entry),
                        None => {
                            return Ok(Pairs { entries, more: false });
                        }
                    }
                }
                let mut more = false;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Pairs { entries, more })
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// The entries of a line in or out. More keys than there are do not fit: a key past the last is unknown or repeated.
type LineEntries<'a> = Pairs<&'a RawValue, 64>;

#[cfg(test)]
mod tests;
