//! Responses of JSON, whose vectors are written while they are sent.
//!
//! A vector takes three times as much room in JSON as in memory. So a response is first written with a [`Slot`] in place of
//! each vector, which is short; the numbers follow in frames of some size, each made when the connection has room for it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, header};
use hyper::body::Frame;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::ser::{Formatter, Serializer as JsonSerializer};
use tokio::task::{JoinHandle, yield_now};

use crate::failure::{Failure, Kind};
use crate::room::{Share, crowded};
use crate::vectors::NumberType;

/// A frame is sent when it has so many bytes, or is the last: a system call for each costs little, and many clients' frames
/// take little memory. It is what a connection writes, and compresses, in one turn of its thread.
const FRAME: usize = 64 << 10;

/// What is told where there is no room for an answer.
pub const NO_ROOM: &str =
    "the answers that are being sent leave no room for this one; send it again later, or with fewer inputs";

/// Stands before a slot's number. JSON has no such byte: in strings it is escaped.
const MARK: u8 = 1;

/// Bytes of a slot's number.
const NUMBER: usize = size_of::<u64>();

/// Stands for a vector in a response that is being written.
#[derive(Debug)]
pub struct Slot(u64);

impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.to_le_bytes())
    }
}

impl JsonSchema for Slot {
    fn schema_name() -> Cow<'static, str> {
        "Vector".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A vector, in the type that was asked for: numbers, or base64 of little-endian float32.",
            "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
        })
    }
}

/// JSON without white space, and marks for slots, the only bytes that responses hold.
struct Marks;

impl Formatter for Marks {
    fn write_byte_array<W: ?Sized + io::Write>(&mut self, writer: &mut W, number: &[u8]) -> io::Result<()> {
        writer.write_all(&[MARK])?;
        writer.write_all(number)
    }
}

/// The vectors of a response.
#[derive(Default)]
pub struct Vectors {
    all: Vec<(Arc<[f32]>, NumberType)>,
    /// The room that they take, until they are sent.
    share: Option<Share>,
}

impl Vectors {
    /// Vectors that have this room.
    pub fn within(share: Share) -> Vectors {
        Vectors {
            all: Vec::new(),
            share: Some(share),
        }
    }

    /// Takes a vector, to be written in this type where the slot is.
    ///
    /// # Errors
    /// A type that cannot hold a vector of so many dimensions.
    pub fn slot(&mut self, vector: Arc<[f32]>, number: NumberType) -> Result<Slot, Failure> {
        number.check(vector.len())?;
        self.all.push((vector, number));
        Ok(Slot(self.all.len() as u64 - 1))
    }

    /// The response: this value, with the vectors in their slots. A small one goes out whole, with its length.
    pub fn response(self, value: &impl Serialize) -> Result<Response<Body>, Failure> {
        let mut written = Written::new(self, value).map_err(Failure::internal)?;
        let length = written.text.len();
        if let Some(share) = &mut written.vectors.share
            && !share.holds_more(length)
        {
            return Err(crowded(NO_ROOM));
        }
        Ok(written.response())
    }
}

/// A response of JSON that holds no vectors.
pub fn json(value: &impl Serialize) -> Result<Response<Body>, Failure> {
    Vectors::default().response(value)
}

/// A response of JSON that is made part by part: it takes room as it grows, and ends where it has none, before the rest is
/// made.
pub struct Growing {
    json: Vec<u8>,
    share: Share,
    most: usize,
    /// Why it does not grow any more.
    failure: Option<Failure>,
}

impl Growing {
    /// One of at most so many bytes, which takes its room from this share.
    pub fn within(share: Share, most: usize) -> Growing {
        Growing {
            json: Vec::new(),
            share,
            most,
            failure: None,
        }
    }

    /// By how many bytes it may still grow.
    pub fn left(&self) -> usize {
        self.most - self.json.len()
    }

    /// Why it is not made where it would be longer than it may be. No other time is better for that.
    pub fn too_large(&self) -> Failure {
        let most = self.most;
        let message =
            format!("the answer could have more than {most} bytes; send fewer or shorter inputs at a time");
        Failure::new(Kind::TooLarge, message)
    }

    /// Adds a value.
    pub fn add(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let added = serde_json::to_writer(&mut *self, value);
        added.map_err(|error| self.why(error))
    }

    /// Adds a list, whose elements are added one by one.
    pub fn list<T>(
        &mut self,
        elements: impl IntoIterator<Item = T>,
        mut add: impl FnMut(&mut Growing, T) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut before = &b"["[..];
        for element in elements {
            self.put(before)?;
            add(self, element)?;
            before = b",";
        }
        if before == b"[" {
            self.put(before)?;
        }
        self.put(b"]")
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        io::Write::write_all(self, bytes).map_err(|error| self.why(error))
    }

    fn why(&mut self, error: impl std::fmt::Display) -> Failure {
        self.failure.take().unwrap_or_else(|| Failure::internal(error))
    }

    /// The response.
    pub fn response(mut self) -> Response<Body> {
        self.json.shrink_to_fit();
        let written = Written {
            text: self.json,
            at: 0,
            vectors: Vectors::within(self.share),
        };
        written.response()
    }
}

impl io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.left() {
            self.failure = Some(self.too_large());
        } else if !self.share.holds(self.json.len() + bytes.len()) {
            self.failure = Some(crowded(NO_ROOM));
        } else {
            self.json.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        Err(io::ErrorKind::OutOfMemory.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A response that is made frame by frame.
struct Written {
    /// The JSON, with marks.
    text: Vec<u8>,
    /// How much of it has been written.
    at: usize,
    vectors: Vectors,
}

impl Written {
    fn new(vectors: Vectors, value: &impl Serialize) -> serde_json::Result<Written> {
        let mut text = Vec::new();
        value.serialize(&mut JsonSerializer::with_formatter(&mut text, Marks))?;
        Ok(Written { text, at: 0, vectors })
    }

    fn is_done(&self) -> bool {
        self.at == self.text.len()
    }

    fn response(mut self) -> Response<Body> {
        let first = self.next().unwrap_or_default();
        let body = match self.is_done() {
            true => Body::from(first),
            false => Body::new(Frames {
                first: Some(first),
                rest: self,
                pause: None,
            }),
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl Iterator for Written {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        while !self.is_done() && frame.len() < FRAME {
            let rest = &self.text[self.at..];
            let near = &rest[..rest.len().min(FRAME)];
            let plain = near.iter().position(|&byte| byte == MARK);
            frame.extend_from_slice(&near[..plain.unwrap_or(near.len())]);
            self.at += plain.unwrap_or(near.len());
            if let Some(plain) = plain {
                let number = rest[plain + 1..]
                    .first_chunk()
                    .map(|bytes| u64::from_le_bytes(*bytes));
                self.at += 1 + NUMBER;
                let slot = number.and_then(|number| self.vectors.all.get(usize::try_from(number).ok()?));
                let (vector, number) = slot.expect("slots are those of the vectors");
                number.write(vector, &mut frame);
            }
        }
        (!frame.is_empty()).then_some(frame)
    }
}

/// A [`Written`] as a body, its first frame made already.
///
/// Between frames the thread looks after others: a client that reads fast takes frame after frame, and compressing them takes
/// many times as long as sending them.
struct Frames {
    first: Option<Vec<u8>>,
    rest: Written,
    /// A task that ends when the thread has looked after others. To answer `Pending` once would not do: what compresses asks
    /// again in the same turn.
    pause: Option<JoinHandle<()>>,
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause {
            // It only fails where the server ends.
            let _ = ready!(Pin::new(pause).poll(cx));
            self.pause = None;
        }
        let frame = self.first.take().or_else(|| self.rest.next());
        if !self.is_end_stream() {
            self.pause = Some(tokio::spawn(yield_now()));
        }
        Poll::Ready(frame.map(|frame| Ok(Frame::data(frame.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::compression;
    use crate::room::{FREE, Room};
    use axum::Router;
    use axum::extract::Request;
    use axum::routing::get;
    use hyper::body::Body as _;
    use serde_json::{Value, json};
    use std::future::poll_fn;
    use tower_service::Service as _;

    fn written(count: usize, vector: &[f32]) -> Written {
        let vector: Arc<[f32]> = vector.into();
        let mut vectors = Vectors::default();
        let slots: Vec<Slot> = (0..count)
            .map(|_| vectors.slot(vector.clone(), NumberType::Float).unwrap())
            .collect();
        Written::new(vectors, &slots).unwrap()
    }

    #[test]
    fn vectors_stand_in_their_slots_whatever_the_text_is() {
        let mut vectors = Vectors::default();
        let one = vectors.slot([1.0, -2.0].into(), NumberType::Base64).unwrap();
        let two = vectors.slot([0.5, 1.0].into(), NumberType::Float).unwrap();
        let value = json!({"text": "\u{1}01234567\u{0}\"", "long": "x".repeat(2 * FRAME)});
        let all: Vec<u8> = Written::new(vectors, &(two, &value, one))
            .unwrap()
            .flatten()
            .collect();
        let read: Value = serde_json::from_slice(&all).unwrap();
        assert_eq!(read, json!([[0.5, 1.0], value, "AACAPwAAAMA="]));
        assert_eq!(written(0, &[]).flatten().collect::<Vec<u8>>(), b"[]");
    }

    #[test]
    fn what_is_held_does_not_grow_with_the_numbers() {
        let vector = vec![-0.123_456_79; 1024];
        let of_one = written(1, &vector).flatten().count();
        let mut whole = 0;
        let mut response = written(4000, &vector);
        // A slot in place of 12 KiB of numbers.
        assert!(
            response.text.len() <= 4000 * (NUMBER + 2) + 2,
            "{}",
            response.text.len()
        );
        for frame in &mut response {
            assert!(frame.len() <= FRAME + of_one, "{}", frame.len());
            whole += frame.len();
        }
        assert!(response.is_done() && whole > 40 << 20, "{whole}");
    }

    #[test]
    fn a_type_that_cannot_hold_a_vector_is_told_before_anything_is_sent() {
        let failure = Vectors::default().slot([1.0; 7].into(), NumberType::Binary);
        assert_eq!(failure.unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn what_grows_past_its_bound_is_too_large_and_past_the_room_too_early() {
        let room = Arc::new(Room::new(16 * FREE));
        let growing =
            |caller: &str, most: usize| Growing::within(Share::new(room.clone(), caller.into()), most);
        let fill = |growing: &mut Growing, count: usize| {
            growing.list(0..count, |json, _| json.add(&"x".repeat(FREE - 3)))
        };
        let mut small = growing("a", 100);
        small
            .list(["a\n", "b"], |json, one| {
                json.list([one], |json, one| json.add(&one))
            })
            .unwrap();
        small.list([0; 0], |_, _| Ok(())).unwrap();
        assert_eq!(small.left(), 100 - small.json.len());
        assert_eq!(small.json, br#"[["a\n"],["b"]][]"#);
        let kind = |failed: Result<(), Failure>| failed.unwrap_err().kind;
        let mut large = growing("a", 4 * FREE);
        assert_eq!(kind(fill(&mut large, 5)), Kind::TooLarge);
        assert!(large.json.len() <= 4 * FREE);
        drop(large);
        let mut held = growing("a", 9 * FREE);
        fill(&mut held, 8).unwrap();
        assert_eq!(kind(fill(&mut growing("a", 9 * FREE), 8)), Kind::Overloaded);
        drop(held);
        fill(&mut growing("a", 9 * FREE), 8).unwrap();
        // Escapes count, and nothing is made of what does not fit.
        let mut escaped = growing("a", 4 * FREE);
        assert_eq!(kind(escaped.add(&"\u{1}".repeat(FREE))), Kind::TooLarge);
        assert!(escaped.json.len() <= 4 * FREE);
    }

    /// The bytes that a body gives until its thread has to look after others; whether it has ended.
    async fn turn(body: &mut Body) -> (usize, bool) {
        let mut bytes = 0;
        poll_fn(|cx| {
            loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(frame)) => bytes += frame.unwrap().into_data().unwrap().len(),
                    Poll::Ready(None) => return Poll::Ready((bytes, true)),
                    Poll::Pending => return Poll::Ready((bytes, false)),
                }
            }
        })
        .await
    }

    #[test]
    fn a_turn_of_the_thread_sends_one_frame_compressed_or_not() {
        const FRAMES: usize = 20;
        // Not to be compressed to less than half.
        let noise: Vec<f32> = (0..4096u32)
            .map(|i| (i.wrapping_mul(2_654_435_769) >> 8) as f32 / 1e8)
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for coding in ["identity", "gzip"] {
                let noise = noise.clone();
                let answer = async move || {
                    let vector: Arc<[f32]> = noise.into();
                    let mut vectors = Vectors::default();
                    let slots: Vec<Slot> = (0..2 * FRAMES)
                        .map(|_| vectors.slot(vector.clone(), NumberType::Float).unwrap())
                        .collect();
                    vectors.response(&slots)
                };
                let mut router: Router = Router::new().route("/", get(answer)).layer(compression());
                let request = Request::get("/").header(header::ACCEPT_ENCODING, coding);
                let response = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
                let is_gzip = response.headers().contains_key(header::CONTENT_ENCODING);
                assert_eq!(is_gzip, coding == "gzip");
                let mut body = response.into_body();
                let (mut turns, mut whole) = (0, 0);
                loop {
                    let (bytes, ended) = turn(&mut body).await;
                    assert!(bytes <= 2 * FRAME, "{coding}: {bytes} bytes in a turn");
                    whole += bytes;
                    turns += usize::from(bytes > 0);
                    if ended {
                        break;
                    }
                    yield_now().await;
                }
                assert!(
                    turns >= FRAMES && whole > FRAMES * FRAME / 4,
                    "{coding}: {turns} turns, {whole} bytes"
                );
            }
        });
    }
}
