//! Requests to a hub: whom the token goes to, which redirects are followed, how long a server may take.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::address::{Origin, redirect};
use super::answers::{FileHeaders, Listing, listing, retry_after, shown};
use super::deadline::Deadline;
use super::failure::{Failure, Result, Tries};
use super::settings::{Network, Token};

/// Redirects that are followed; the hub itself needs up to three, for renamed models and large files.
const REDIRECTS: u32 = 10;

/// A slower body is taken for a stalled one: the rate over each download timeout.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// However its bytes are framed, a body ends after this, and a file is gone on with in another.
const BODY_TIMEOUT: Duration = Duration::from_secs(3600);

/// Bytes of the listing of a model; real ones have less than a hundredth of it.
const LISTING_BYTES: u64 = 16 << 20;

/// Bytes of status and headers of an answer.
const HEAD_BYTES: usize = 64 << 10;

/// Asks one hub.
pub(super) struct Client {
    agent: Agent,
    deadline: Deadline,
    network: Network,
}

impl Client {
    pub(super) fn new(network: Network) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // Each request has its own.
            .proxy(None)
            .accept_encoding("identity")
            .user_agent(concat!("ropeway/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(HEAD_BYTES)
            .timeout_recv_body(Some(BODY_TIMEOUT))
            .build();
        let deadline = Deadline::default();
        Client {
            agent: deadline.agent(config),
            deadline,
            network,
        }
    }

    /// The commit of a revision, and its files that the engine reads.
    pub(super) fn listing(&self, id: &str, revision: &str) -> Result<Listing> {
        let path = format!("api/models/{id}/revision/{}", revision.replace('/', "%2F"));
        let mut tries = Tries::default();
        loop {
            let read = || {
                let body = self.walk(&path)?.body(0)?;
                let json = body.read_all(LISTING_BYTES)?;
                listing(&json).map_err(|problem| Failure::Answer(format!("the answer {problem}")))
            };
            match read() {
                Ok(listing) => return Ok(listing),
                Err(failure) => tries.again(failure, 0, self.token())?,
            }
        }
    }

    /// The token that the hub gets.
    pub(super) fn token(&self) -> Option<&Token> {
        self.network.token.as_ref()
    }

    /// The way to a file at a commit.
    pub(super) fn file(&self, id: &str, commit: &str, name: &str) -> Result<Walk<'_>> {
        self.walk(&format!("{id}/resolve/{commit}/{name}"))
    }

    fn walk(&self, path: &str) -> Result<Walk<'_>> {
        let address = format!("{}/{path}", self.network.endpoint);
        let address = address
            .parse()
            .map_err(|_| Failure::Unreachable(format!("`{}` is not an address", shown(&address))))?;
        Ok(Walk {
            client: self,
            address,
            is_at_hub: true,
            redirects: 0,
            headers: FileHeaders::default(),
        })
    }
}

/// A way from the hub's address of something, along its redirects.
pub(super) struct Walk<'c> {
    client: &'c Client,
    address: Uri,
    /// Whether all of the way so far was on the hub's own origin. Others get no token, and their headers say nothing about
    /// the file; that holds for the rest of the way, if it leads back to the hub too.
    is_at_hub: bool,
    redirects: u32,
    headers: FileHeaders,
}

impl Walk<'_> {
    /// What the hub's answers have said of the file.
    pub(super) fn headers(&self) -> &FileHeaders {
        &self.headers
    }

    /// Follows redirects within the hub, until it answers with the file or sends the client elsewhere (`None`).
    pub(super) fn ask_hub(&mut self) -> Result<Option<FileBody>> {
        loop {
            let answer = self.step(0)?;
            if answer.is_some() || !self.is_at_hub {
                return Ok(answer);
            }
        }
    }

    /// Follows redirects from here to a body of the file from byte `start` on, or of all of it.
    pub(super) fn body(&mut self, start: u64) -> Result<FileBody> {
        loop {
            if let Some(body) = self.step(start)? {
                return Ok(body);
            }
        }
    }

    /// One request: a body, or a redirect of which the target is the next address.
    fn step(&mut self, start: u64) -> Result<Option<FileBody>> {
        let network = &self.client.network;
        let proxy = network.proxies.of(&self.address);
        let mut host = self.address.host().unwrap_or_default().to_owned();
        if let Some(proxy) = proxy {
            host += &format!(" by the proxy {}:{}", proxy.host(), proxy.port());
        }
        let timeout = match self.is_at_hub {
            true => network.answer_timeout,
            false => network.download_timeout,
        };
        let read_timeout = timeout.max(network.download_timeout);
        let mut request = self.client.agent.get(self.address.clone());
        if let (true, Some(token)) = (self.is_at_hub, &network.token) {
            request = request.header(header::AUTHORIZATION, token.header());
        }
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let request = request
            .config()
            .proxy(proxy.cloned())
            .timeout_resolve(Some(timeout))
            .timeout_connect(Some(timeout))
            .timeout_send_request(Some(timeout))
            .timeout_recv_response(Some(timeout))
            // The limit of each read holds for the head of the answer as well.
            .timeout_per_read(Some(read_timeout))
            .build();
        // Finding the address, connecting, and the head of the answer have `timeout` each.
        let limit = timeout.saturating_mul(3);
        let answer = self.client.deadline.limit(limit, || request.call());
        let answer = answer.map_err(|error| Failure::network(&host, error))?;
        if self.is_at_hub {
            self.headers.add(answer.headers());
        }
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                let deadline = self.client.deadline.clone();
                Ok(Some(FileBody::new(
                    answer,
                    host,
                    network.download_timeout,
                    deadline,
                )))
            }
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                self.redirects += 1;
                if self.redirects > REDIRECTS {
                    return Err(Failure::Answer(format!(
                        "{host}: more than {REDIRECTS} redirects"
                    )));
                }
                let to = redirect(&self.address, answer.headers())
                    .map_err(|problem| Failure::Answer(format!("{host}: the answer {problem}")))?;
                self.is_at_hub &= Origin::of(&to).as_ref() == Some(&network.origin);
                self.address = to;
                Ok(None)
            }
            status => Err(Failure::Status {
                status: status.as_u16(),
                wait: retry_after(answer.headers()),
                said: match answer.headers().get("x-error-message") {
                    Some(value) if self.is_at_hub => shown(&String::from_utf8_lossy(value.as_bytes())),
                    _ => String::new(),
                },
            }),
        }
    }
}

/// The body of an answer, as fast as it has to come.
pub(super) struct FileBody {
    answer: Response<ureq::BodyReader<'static>>,
    length: Option<u64>,
    host: String,
    timeout: Duration,
    deadline: Deadline,
    /// Time spent waiting in the current window, and the bytes that came in it.
    waited: Duration,
    window_bytes: u64,
}

impl FileBody {
    fn new(answer: Response<Body>, host: String, timeout: Duration, deadline: Deadline) -> FileBody {
        // ureq says of a length of 0 that there is no body.
        let is_empty = !answer.headers().contains_key(header::TRANSFER_ENCODING)
            && answer
                .headers()
                .get(header::CONTENT_LENGTH)
                .is_some_and(|length| length == "0");
        let length = answer.body().content_length().or_else(|| is_empty.then_some(0));
        FileBody {
            answer: answer.map(Body::into_reader),
            length,
            host,
            timeout,
            deadline,
            waited: Duration::ZERO,
            window_bytes: 0,
        }
    }

    /// The answer's status and headers.
    pub(super) fn answer(&self) -> &Response<ureq::BodyReader<'static>> {
        &self.answer
    }

    /// Bytes of the body, where they were announced.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Reads what is there; 0 bytes at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let start = Instant::now();
        let body = self.answer.body_mut();
        let read = self.deadline.limit(self.timeout, || body.read(buffer));
        let elapsed = start.elapsed();
        if elapsed >= self.timeout && read.is_err() {
            return Err(Failure::Timeout(format!(
                "{} sent nothing of the body in {} s",
                self.host,
                elapsed.as_secs()
            )));
        }
        let count = read.map_err(|e| Failure::body(&self.host, e))?;
        self.waited += elapsed;
        self.window_bytes += count as u64;
        if count > 0 && self.waited >= self.timeout {
            let wanted = MIN_BYTES_PER_SECOND.saturating_mul(self.timeout.as_secs());
            if self.window_bytes < wanted {
                return Err(Failure::Timeout(format!(
                    "{} sent {} bytes in {} s",
                    self.host,
                    self.window_bytes,
                    self.waited.as_secs()
                )));
            }
            (self.waited, self.window_bytes) = (Duration::ZERO, 0);
        }
        Ok(count)
    }

    /// The whole body, if it is not longer than `limit`.
    fn read_all(mut self, limit: u64) -> Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 16 << 10]);
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
            if all.len() as u64 > limit {
                return Err(Failure::Answer(format!(
                    "{}: the answer is longer than {limit} bytes",
                    self.host
                )));
            }
        }
    }
}
