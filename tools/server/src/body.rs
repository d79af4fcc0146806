//! Reading request bodies, within bounds.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Kind};
use crate::names::shortened;
use crate::room::Share;

/// A body that is not taken is read on, and thrown away, up to so many times the limit: a client that is still writing does not read why it is
/// refused.
const PATIENCE: usize = 4;

/// When somebody may come back for whose body there was no room. Bodies that arrive as fast as networks bring them are gone
/// by then.
const BACK_AFTER: Duration = Duration::from_secs(1);

/// Reads a body of at most so many bytes (after decompression) that arrives within this time, for as long as there is room
/// for it.
pub async fn read(body: Body, limit: usize, time: Duration, share: &mut Share) -> Result<Bytes, Failure> {
    tokio::time::timeout(time, collect(body, limit, share))
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                Kind::Slow,
                format!("the body did not arrive within {} s", time.as_secs()),
            ))
        })
}

/// Takes what arrives of a body, for as long as it may be kept.
struct Arrived<'s> {
    bytes: Vec<u8>,
    /// Bytes that came, kept or not.
    seen: usize,
    limit: usize,
    share: &'s mut Share,
    /// There was no room for all of it.
    crowded: bool,
}

impl Arrived<'_> {
    fn push(&mut self, data: &[u8]) {
        self.seen += data.len();
        self.crowded |= self.seen <= self.limit && !self.share.holds(self.seen);
        match self.seen <= self.limit && !self.crowded {
            true => self.bytes.extend_from_slice(data),
            false => {
                self.bytes = Vec::new();
                self.share.give_back();
            }
        }
    }

    /// Whether its sender has had the time to read why it is refused.
    fn is_past_patience(&self) -> bool {
        self.seen / PATIENCE > self.limit
    }

    fn finish(self) -> Result<Bytes, Failure> {
        if self.seen > self.limit {
            let message = format!(
                "the body has more than {} bytes; send fewer inputs at a time",
                self.limit
            );
            return Err(Failure::new(Kind::TooLarge, message));
        }
        if self.crowded {
            let message = "the bodies that are being served leave no room for this one; send it again later, or with fewer inputs";
            return Err(Failure {
                retry_after: Some(BACK_AFTER),
                ..Failure::new(Kind::Overloaded, message)
            });
        }
        Ok(self.bytes.into())
    }
}

async fn collect(mut body: Body, limit: usize, share: &mut Share) -> Result<Bytes, Failure> {
    let mut arrived = Arrived {
        bytes: Vec::new(),
        seen: 0,
        limit,
        share,
        crowded: false,
    };
    while let Some(frame) = body.frame().await {
        let broken = |_| {
            Failure::new(
                Kind::Malformed,
                "the body broke off, or is not what its headers say",
            )
        };
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            arrived.push(&data);
            if arrived.is_past_patience() {
                break;
            }
        }
    }
    arrived.finish()
}

/// A body of more bytes is not parsed by a thread that other clients wait for.
const LONG: usize = 128 << 10;

/// Characters of what the parser says, which holds the words of the body that it does not know.
const PROBLEM: usize = 400;

/// Parses JSON.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let read = || serde_json::from_slice(bytes);
    let parsed = match bytes.len() > LONG {
        true => tokio::task::block_in_place(read),
        false => read(),
    };
    parsed.map_err(|error| {
        Failure::new(
            Kind::Malformed,
            format!(
                "the body is not the JSON that this route takes: {}",
                shortened(&error.to_string(), PROBLEM)
            ),
        )
    })
}
