//! The routes, and what goes around each of them: request ids, keys, counts, the log.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use ropeway::Engine;
use ropeway::service::{Health, Service};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

use crate::adapters::Admin;
use crate::body::Coding;
use crate::failure::{Failure, Family, Kind};
use crate::log::Log;
use crate::metrics::Counts;
use crate::names::{listed, shown};
use crate::room::{Room, Share};
use crate::routes::{Access, Route, routes};
use crate::{Limits, body};

/// The bodies of all requests that are being served, and their answers, may have together the bytes of so many of the largest.
const AT_A_TIME: usize = 8;

/// A model under the name that requests have for it.
pub struct Model {
    /// What requests call it.
    pub name: String,
    /// What embeds.
    pub service: Service,
}

impl Model {
    /// Its engine, unless its device is lost.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, Failure> {
        let lost = || {
            Failure::new(
                Kind::Unavailable,
                format!("model {}: its device is lost", self.name),
            )
        };
        self.service.engine().ok_or_else(lost)
    }
}

/// What all requests share.
pub struct App {
    pub models: Vec<Model>,
    pub api_keys: Vec<String>,
    pub admin: Option<Admin>,
    pub limits: Limits,
    pub started_unix: u64,
    pub draining: AtomicBool,
    pub counts: Counts,
    pub log: Option<Log>,
    /// Turns of requests that tokenise outside of the queue.
    pub tokenizing: Arc<Semaphore>,
    /// Turns of long bodies that are parsed.
    parsing: Semaphore,
    /// Room for the bodies of all requests.
    room: Arc<Room>,
    /// Room for what all requests get.
    answers: Arc<Room>,
    next_id: AtomicU64,
}

/// Who sends a request: callers of different names share fairly.
#[derive(Clone, Debug, Default)]
pub struct Caller(pub String);

/// A request on its way to its handler.
pub struct Call {
    pub app: Arc<App>,
    pub caller: Caller,
    pub headers: HeaderMap,
    body: Body,
    /// The room that the body takes: until the call is answered, since its texts wait in memory for as long.
    pub share: Share,
}

impl Call {
    /// The body's bytes, within the server's bounds.
    pub async fn bytes(&mut self) -> Result<Bytes, Failure> {
        let limits = &self.app.limits;
        let coding = Coding::of(&self.headers);
        let bytes = body::read(
            std::mem::take(&mut self.body),
            *coding.as_ref().unwrap_or(&Coding::Plain),
            limits.body_bytes,
            limits.body_time,
            &mut self.share,
        )
        .await;
        // Told when the body has been read: a client that is still writing does not read why it is refused.
        coding.and(bytes)
    }

    /// The body, parsed.
    pub async fn read<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let bytes = self.bytes().await?;
        self.app.parse(&bytes).await
    }
}

impl FromRequest<Arc<App>> for Call {
    type Rejection = Infallible;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Call, Infallible> {
        let (mut parts, body) = request.into_parts();
        let caller: Caller = parts.extensions.remove().unwrap_or_default();
        Ok(Call {
            app: app.clone(),
            share: Share::new(app.room.clone(), caller.0.clone()),
            caller,
            headers: parts.headers,
            body,
        })
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer(pub String);

/// What a handler gives.
pub type Answer = Result<Response<Body>, Failure>;

impl App {
    pub fn new(models: Vec<Model>, api_keys: Vec<String>, limits: Limits, log: Option<Log>) -> App {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        App {
            room: Arc::new(Room::new(limits.body_bytes.saturating_mul(AT_A_TIME))),
            answers: Arc::new(Room::new(limits.vector_bytes.saturating_mul(AT_A_TIME))),
            models,
            api_keys,
            admin: None,
            limits,
            log,
            started_unix: started.as_secs(),
            draining: AtomicBool::new(false),
            counts: Counts::default(),
            tokenizing: Arc::new(Semaphore::new(2)),
            parsing: Semaphore::new(2),
            // Other runs have other ids.
            next_id: AtomicU64::new(started.as_nanos() as u64),
        }
    }

    /// The room that a caller's answer takes, until it is sent.
    pub fn room_for_answer(&self, caller: &str) -> Share {
        Share::new(self.answers.clone(), caller.to_owned())
    }

    /// The model of this name; without one, the first.
    pub fn model(&self, name: Option<&str>) -> Result<&Model, Failure> {
        let Some(name) = name else {
            return Ok(&self.models[0]);
        };
        let found = self.models.iter().find(|model| model.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            let message = format!(
                "there is no model `{}`; there are {}",
                shown(name),
                listed(&names)
            );
            Failure::new(Kind::UnknownModel, message)
        })
    }

    /// Parses a body. Two long ones at a time: before its inputs are counted, an array of a million short ones takes ten times
    /// the room of its text.
    pub async fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Failure> {
        let _turn = match bytes.len() > body::LONG {
            true => Some(self.parsing.acquire().await.map_err(Failure::internal)?),
            false => None,
        };
        body::parse(bytes)
    }

    /// An id that no other request of this process has.
    pub fn new_id(&self) -> String {
        format!("rw-{:016x}", self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub fn count_tokens(&self, tokens: usize) {
        self.counts.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// Why requests cannot be served now. A full queue is no reason.
    pub fn not_ready(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("the server ends".into());
        }
        // The reason may name files of the server. It is in the log.
        let lost = |model: &Model| {
            let problem = match model.service.health() {
                Health::Ready => return None,
                Health::Reopening { .. } => "its device was lost; it is opened anew",
                Health::Lost { .. } => "its device is lost; the server's log says why",
                _ => "it is not ready",
            };
            Some(format!("model {}: {problem}", model.name))
        };
        self.models.iter().find_map(lost)
    }

    /// The number of the key that a request has, where a route wants one.
    fn key_for(&self, access: Access, headers: &HeaderMap) -> Result<Option<usize>, Failure> {
        let (keys, name) = match (access, &self.admin) {
            (Access::Public, _) => return Ok(None),
            (Access::Key, _) if self.api_keys.is_empty() => return Ok(None),
            (Access::Key, _) => (&self.api_keys[..], "API key"),
            (Access::Admin, Some(admin)) => (&admin.keys[..], "admin key"),
            (Access::Admin, None) => (&[][..], "admin key, which this server has not,"),
        };
        let header = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let found = header.and_then(bearer).and_then(|given| {
            // All are looked at, whichever it is.
            let same = keys.iter().map(|key| same(key.as_bytes(), given));
            same.collect::<Vec<bool>>().iter().position(|&same| same)
        });
        match found {
            Some(number) => Ok(Some(number)),
            None => Err(Failure::new(
                Kind::Unauthorized,
                format!("the {name} is missing or wrong; send it as `Authorization: Bearer KEY`"),
            )),
        }
    }
}

/// The key of a header's value: bytes, which need not be ASCII.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, key) = value.split_at(space);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| key.trim_ascii())
}

/// Compares in a time that depends on the lengths alone.
fn same(secret: &[u8], given: &[u8]) -> bool {
    let differences = given
        .iter()
        .zip(secret.iter().cycle())
        .fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differences) == 0 && given.len() == secret.len() && !secret.is_empty()
}

/// A failure on its way to [`around`], which knows the shape that it must have.
impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

/// What is done around every route.
async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> axum::response::Response {
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("other".to_owned(), |path| path.as_str().to_owned());
    let given = request.headers().get("x-request-id").cloned();
    // Ids of others go into the log: short ones of plain characters alone.
    let sound = |id: &HeaderValue| {
        id.len() <= 128
            && id
                .as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
    };
    let id = given
        .filter(sound)
        .unwrap_or_else(|| HeaderValue::from_str(&app.new_id()).unwrap_or(HeaderValue::from_static("rw")));
    let key = app.key_for(access_to(&method, &route), request.headers());
    let mut response = match key {
        Err(failure) => failure.into_response(),
        Ok(key) => {
            let caller = match (key, request.extensions().get::<Peer>()) {
                (Some(number), _) => format!("key {number}"),
                (None, Some(peer)) => peer.0.clone(),
                (None, None) => String::new(),
            };
            request.extensions_mut().insert(Caller(caller));
            next.run(request).await
        }
    };
    if let Some(failure) = failure_of(&mut response) {
        let mut told = failure.response(Family::of(&path));
        if let Some(allowed) = response.headers_mut().remove(header::ALLOW) {
            told.headers_mut().insert(header::ALLOW, allowed);
        }
        response = told;
    }
    let status = response.status().as_u16();
    app.counts
        .request(&route, status, response.extensions().get::<Kind>().copied());
    if let Some(log) = &app.log {
        log.line(line(&id, &method, &route, status, start.elapsed()));
    }
    response.headers_mut().insert("x-request-id", id);
    response
}

/// A request's line in the log. Nothing in it is as long as its client likes: methods that HTTP does not know are a word of the
/// client's, as long as a head.
fn line(id: &HeaderValue, method: &Method, route: &str, status: u16, time: Duration) -> String {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ];
    let line = json!({
        "id": id.to_str().unwrap_or_default(),
        "method": if KNOWN.contains(method) { method.as_str() } else { "other" },
        "route": route,
        "status": status,
        "ms": (time.as_secs_f64() * 1e5).round() / 100.0,
    });
    line.to_string()
}

/// Who may call what: what is no route wants a key, so that nobody without one can ask for what there is.
fn access_to(method: &Method, path: &str) -> Access {
    static ACCESS: LazyLock<HashMap<(Method, &str), Access>> = LazyLock::new(|| {
        let routes = routes().into_iter();
        routes
            .map(|route| ((route.method, route.path), route.access))
            .collect()
    });
    // What answers GET answers HEAD.
    let method = match *method {
        Method::HEAD => Method::GET,
        _ => method.clone(),
    };
    ACCESS.get(&(method, path)).copied().unwrap_or(Access::Key)
}

/// Why there is no result: what a handler says, or what axum and its layers refuse by a status alone.
fn failure_of(response: &mut axum::response::Response) -> Option<Failure> {
    let told = response.extensions_mut().remove::<Failure>();
    told.or_else(|| {
        let kind = match response.status() {
            // Bodies are read by handlers, which say what is wrong with them: what axum reads is a path.
            StatusCode::BAD_REQUEST => return Some(Failure::new(Kind::Malformed, BAD_PATH)),
            StatusCode::METHOD_NOT_ALLOWED => Kind::Method,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Kind::Encoding,
            status if status.is_client_error() => Kind::Malformed,
            status if status.is_server_error() => Kind::Internal,
            _ => return None,
        };
        Some(Failure::new(kind, kind.about()))
    })
}

const BAD_PATH: &str = "the path is not UTF-8 where its %XX are put into bytes; write names in UTF-8, each byte that is no plain \
                        letter as %XX";

/// The answer to a handler's panic, which is a bug.
fn panicked(_: Box<dyn std::any::Any + Send>) -> Response<Body> {
    Failure::new(Kind::Internal, "the server failed; its log says why").into_response()
}

/// Answers are compressed by the threads that talk to all clients, so as fast as may be: vectors are noise, whose numbers
/// become 44% of their text so, and 39% with the usual level, which takes nine times as long.
pub fn compression() -> CompressionLayer {
    CompressionLayer::new().quality(CompressionLevel::Fastest)
}

/// All routes, and what goes around them.
pub fn router(app: Arc<App>) -> Router {
    let add = |router: Router<Arc<App>>, route: Route| router.route(route.path, route.handler);
    // From the outside to the inside. In one piece: axum boxes what it is given one by one, for each request.
    let layers = (
        compression(),
        from_fn_with_state(app.clone(), around),
        CatchPanicLayer::custom(panicked),
    );
    routes()
        .into_iter()
        .fold(Router::new(), add)
        .fallback(async || Failure::new(Kind::NotFound, "there is no such route"))
        .layer(layers)
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_or_not() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secre", b"secrets", b"secretsecret", b""] {
            assert!(!same(b"secret", other));
        }
        assert!(!same(b"", b"") && !same(b"", b"a"));
    }

    #[test]
    fn a_line_of_the_log_is_short_whatever_the_method_is() {
        let of = |method: &[u8]| {
            let id = HeaderValue::from_static("a");
            let method = Method::from_bytes(method).unwrap();
            line(&id, &method, "/embed", 200, Duration::from_micros(1234))
        };
        let wanted = of(b"POST");
        assert!(wanted.contains(r#""method":"POST""#), "{wanted}");
        for other in [&b"post"[..], b"PROPFIND", &[b'A'; 60_000]] {
            assert_eq!(of(other), wanted.replace("POST", "other"));
        }
    }
}
