//! Reading request bodies, within bounds.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Kind};
use crate::names::shortened;
use crate::room::{Share, crowded};

/// A body that is not taken is read on, and thrown away, up to so many times the limit: a client that is still writing does not
/// read why it is refused.
const PATIENCE: usize = 4;

/// How a body is written on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Gzip,
}

impl Coding {
    /// What the headers say, in upper or lower case.
    ///
    /// # Errors
    /// Another coding, or several.
    pub fn of(headers: &HeaderMap) -> Result<Coding, Failure> {
        let values = headers.get_all(header::CONTENT_ENCODING).iter();
        let words = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        let mut words = words
            .map(<[u8]>::trim_ascii)
            .filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case(b"identity"));
        match (words.next(), words.next()) {
            (None, _) => Ok(Coding::Plain),
            (Some(word), None)
                if [&b"gzip"[..], b"x-gzip"]
                    .iter()
                    .any(|w| word.eq_ignore_ascii_case(w)) =>
            {
                Ok(Coding::Gzip)
            }
            _ => {
                let message =
                    "the body has a `content-encoding` that is not read here; send it plain, or as gzip";
                Err(Failure::new(Kind::Encoding, message))
            }
        }
    }
}

/// Reads a body of at most so many bytes (after decompression) that arrives within this time, for as long as there is room
/// for it.
pub async fn read(
    body: Body,
    coding: Coding,
    limit: usize,
    time: Duration,
    share: &mut Share,
) -> Result<Bytes, Failure> {
    tokio::time::timeout(time, collect(body, coding, limit, share))
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
            return Err(too_large(self.limit));
        }
        if self.crowded {
            return Err(crowded(
                "the bodies that are being served leave no room for this one; send it again later, or with fewer inputs",
            ));
        }
        Ok(self.bytes.into())
    }
}

impl Write for Arrived<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.push(data);
        match self.is_past_patience() {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(data.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// So much of a gzip body is unpacked before other clients have their turn: it comes to a thousand times as many bytes at the
/// most.
const PART: usize = 4 << 10;

async fn collect(mut body: Body, coding: Coding, limit: usize, share: &mut Share) -> Result<Bytes, Failure> {
    let mut arrived = Arrived {
        bytes: Vec::new(),
        seen: 0,
        limit,
        share,
        crowded: false,
    };
    if coding == Coding::Plain {
        while let Some(data) = next(&mut body).await? {
            arrived.push(&data);
            if arrived.is_past_patience() {
                break;
            }
        }
        return arrived.finish();
    }
    // All members, one after another, as RFC 1952 has it; what stands behind them and is none is an error.
    let mut unpacked = MultiGzDecoder::new(arrived);
    let mut packed = 0_usize;
    while let Some(data) = next(&mut body).await? {
        packed += data.len();
        for part in data.chunks(PART) {
            let written = unpacked.write_all(part);
            // Empty members come to nothing, however many they are.
            if unpacked.get_ref().is_past_patience() || packed / PATIENCE > limit {
                return Err(too_large(limit));
            }
            written.map_err(|_| broken())?;
            tokio::task::yield_now().await;
        }
    }
    unpacked.finish().map_err(|_| broken())?.finish()
}

/// The next bytes of a body.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| broken())?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn broken() -> Failure {
    Failure::new(
        Kind::Malformed,
        "the body broke off, or is not what its headers say",
    )
}

fn too_large(limit: usize) -> Failure {
    Failure::new(
        Kind::TooLarge,
        format!("the body has more than {limit} bytes; send fewer inputs at a time"),
    )
}

/// A body of more bytes is not parsed by a thread that other clients wait for.
pub const LONG: usize = 128 << 10;

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
