//! One connection to a server that speaks OpenAI's `/v1/embeddings`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// No exchange takes longer.
const LONGEST: Duration = Duration::from_secs(60);

/// A server, and the model that is asked of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in the report.
    pub name: String,
    address: SocketAddr,
    /// What its requests name as their model.
    model: String,
}

impl Target {
    /// The server at this URL; it is asked for its first model.
    ///
    /// # Errors
    /// A URL that is not `http://HOST:PORT` on this machine; a server that does not answer.
    pub async fn at(name: &str, url: &str) -> Result<Target> {
        let address = loopback(url)?;
        let mut target = Target {
            name: name.to_owned(),
            address,
            model: String::new(),
        };
        let models = Connection::open(&target, None).await?.get("/v1/models").await;
        let (status, body) = models.with_context(|| url.to_owned())?;
        ensure!(status == StatusCode::OK, "{url}/v1/models: {status}");
        let models: Value =
            serde_json::from_slice(&body).with_context(|| format!("{url}/v1/models: not JSON"))?;
        target.model = models["data"][0]["id"]
            .as_str()
            .with_context(|| format!("{url}/v1/models: names no model"))?
            .to_owned();
        Ok(target)
    }

    /// A request's body. Numbers are asked for in base64, as OpenAI's clients do.
    pub fn body(&self, texts: &[&str]) -> Bytes {
        let input = match texts {
            [text] => json!(text),
            texts => json!(texts),
        };
        // `truncate` is known to ropeway and Jina; others cut what is too long without being told.
        let body =
            json!({"model": self.model, "input": input, "encoding_format": "base64", "truncate": true});
        body.to_string().into()
    }

    /// The vector of a text.
    ///
    /// # Errors
    /// Whatever is no vector.
    pub async fn vector(&self, text: &str) -> Result<Vec<f32>> {
        let exchanged = Connection::open(self, None).await?.post(self.body(&[text])).await;
        let (status, body) = exchanged.with_context(|| self.name.clone())?;
        let (name, said) = (&self.name, String::from_utf8_lossy(&body));
        ensure!(status == StatusCode::OK, "{name}: {status}: {said}");
        let answer: Value = serde_json::from_str(&said).with_context(|| format!("{name}: not JSON"))?;
        let packed = answer["data"][0]["embedding"].as_str();
        let packed = packed.with_context(|| format!("{name}: no embedding in base64"))?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(packed)?;
        Ok(bytes
            .as_chunks()
            .0
            .iter()
            .map(|&four| f32::from_le_bytes(four))
            .collect())
    }
}

/// The address of `http://HOST:PORT`, which must be of this machine: load is nothing to send to others.
fn loopback(url: &str) -> Result<SocketAddr> {
    let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let Some(authority) = authority.filter(|authority| !authority.contains('/')) else {
        bail!("{url}: wanted http://HOST:PORT")
    };
    let addresses = authority.to_socket_addrs().with_context(|| url.to_owned())?;
    let here = addresses.into_iter().find(|address| address.ip().is_loopback());
    here.with_context(|| format!("{url}: is not on this machine; load is sent to loopback addresses alone"))
}

/// See the module.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    /// Connects, from this address if one is given.
    ///
    /// # Errors
    /// A server that is not there, or does not take the connection in time.
    pub async fn open(target: &Target, from: Option<IpAddr>) -> Result<Connection> {
        let address = target.address;
        let connecting = async {
            match from {
                Some(from) => {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind(SocketAddr::new(from, 0))?;
                    socket.connect(address).await
                }
                None => TcpStream::connect(address).await,
            }
        };
        let stream = timeout(LONGEST, connecting)
            .await?
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // What breaks a connection is told to the request on it.
        tokio::spawn(async { drop(driver.await) });
        Ok(Connection {
            sender,
            host: address.to_string(),
        })
    }

    /// Whether the other side has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks for embeddings.
    pub async fn post(&mut self, body: Bytes) -> Result<(StatusCode, Bytes)> {
        self.exchange(Method::POST, "/v1/embeddings", body).await
    }

    /// Asks for anything else.
    pub async fn get(&mut self, path: &str) -> Result<(StatusCode, Bytes)> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let exchange = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        timeout(LONGEST, exchange).await.context("no answer in time")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_goes_to_this_machine_alone() {
        assert_eq!(loopback("http://127.0.0.1:80/").unwrap().port(), 80);
        for bad in [
            "127.0.0.1:80",
            "https://127.0.0.1:80",
            "http://127.0.0.1:80/v1",
            "http://192.0.2.1:80",
        ] {
            assert!(loopback(bad).is_err(), "{bad}");
        }
    }
}
