//! Reading request bodies, within bounds.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Kind};

/// A body that is too large is read on up to so many times the limit: a client that is still writing does not read why it is
/// refused.
const PATIENCE: usize = 4;

/// Reads a body of at most so many bytes (after decompression) that arrives within this time.
pub async fn read(body: Body, limit: usize, time: Duration) -> Result<Bytes, Failure> {
    tokio::time::timeout(time, collect(body, limit))
        .await
        .unwrap_or_else(|_| {
            Err(Failure::new(
                Kind::Slow,
                format!("the body did not arrive within {} s", time.as_secs()),
            ))
        })
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let broken = |_| {
            Failure::new(
                Kind::Malformed,
                "the body broke off, or is not what its headers say",
            )
        };
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            seen += data.len();
            match seen <= limit {
                true => bytes.extend_from_slice(&data),
                false => bytes = Vec::new(),
            }
            if seen / PATIENCE > limit {
                break;
            }
        }
    }
    match seen <= limit {
        true => Ok(bytes.into()),
        false => Err(Failure::new(
            Kind::TooLarge,
            format!("the body has more than {limit} bytes; send fewer inputs at a time"),
        )),
    }
}

/// A body of more bytes is not parsed by a thread that other clients wait for.
const LONG: usize = 128 << 10;

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
            format!("the body is not the JSON that this route takes: {error}"),
        )
    })
}
