//! Reading request bodies, within bounds, and writing JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Kind};

/// Reads a body of at most so many bytes (after decompression) that arrives within this time.
pub async fn read(body: Body, limit: usize, time: Duration) -> Result<Bytes, Failure> {
    let collected = tokio::time::timeout(time, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if is_too_large(&*error) => Err(Failure::new(
            Kind::TooLarge,
            format!("the body has more than {limit} bytes; send fewer inputs at a time"),
        )),
        Ok(Err(_)) => Err(Failure::new(
            Kind::Malformed,
            "the body broke off, or is not what its headers say",
        )),
        Err(_) => Err(Failure::new(
            Kind::Slow,
            format!("the body did not arrive within {} s", time.as_secs()),
        )),
    }
}

fn is_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if this.is::<LengthLimitError>() {
            return true;
        }
        error = this.source();
    }
    false
}

/// Parses JSON.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(
            Kind::Malformed,
            format!("the body is not the JSON that this route takes: {error}"),
        )
    })
}

/// A response of JSON.
pub fn json(value: &impl Serialize) -> Result<Response<Body>, Failure> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Failure::new(Kind::Internal, format!("the response cannot be written: {error}")))?;
    let mut response = Response::new(Body::from(bytes));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
