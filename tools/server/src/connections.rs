//! Connections: accepted within bounds, given time for their heads, and finished when the server ends.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tower_service::Service as _;

use crate::app::{App, Peer, router};
use crate::{Address, Limits};

/// What is listened on.
pub enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, std::path::PathBuf, FileId),
}

/// Device and inode.
#[cfg(unix)]
type FileId = (u64, u64);

#[cfg(unix)]
fn file_id(path: &std::path::Path) -> io::Result<FileId> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Listener {
    pub async fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            #[cfg(unix)]
            Address::Unix(path) => {
                use std::os::unix::fs::FileTypeExt as _;
                let is_socket =
                    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
                // Another error says nothing about who listens: a socket of datagrams cannot be connected to in this way.
                let is_left = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
                if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(is_left) {
                    std::fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                let own = file_id(path)?;
                Ok(Listener::Unix(listener, path.clone(), own))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this system has no sockets in the file system; take a port",
            )),
        }
    }

    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(error) => error.to_string(),
            },
            #[cfg(unix)]
            Listener::Unix(_, path, _) => path.display().to_string(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Listener::Unix(_, path, own) = self
            // Another server's may stand there by now.
            && file_id(path).is_ok_and(|found| found == *own)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Open files besides connections: models, libraries, sockets of the runtime.
#[cfg(unix)]
const OTHER_FILES: u64 = 512;

/// Asks for as many open files as connections may take: a process often starts with a limit of 1024, and may raise it.
pub fn allow_files(connections: usize) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let found = getrlimit(Resource::Nofile);
        let wanted = connections as u64 + OTHER_FILES;
        let wanted = found.maximum.map_or(wanted, |most| most.min(wanted));
        if found.current.is_some_and(|current| current < wanted) {
            let raised = Rlimit {
                current: Some(wanted),
                ..found
            };
            // Without it connections wait, as they do past their own limit.
            let _ = setrlimit(Resource::Nofile, raised);
        }
    }
}

/// Ends when the process is told to end.
pub async fn signalled() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// What a client without a key is told apart by: its IPv4 address, however it is written, or the /64 of an IPv6 address. A host
/// has all of a /64 to itself, and may come from another address of it each time.
fn network_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            format!("{}/64", Ipv6Addr::from_bits(network))
        }
    }
}

/// Serves until `end`, then lets connections finish their requests.
pub async fn serve(listener: Listener, app: Arc<App>, end: impl Future<Output = ()>) -> io::Result<()> {
    let limits = app.limits.clone();
    let router = router(app);
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut end = pin!(end);
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
            () = &mut end => break,
        };
        let connection = Connection {
            router: router.clone(),
            limits: limits.clone(),
            watcher: graceful.watcher(),
            place,
        };
        // A client that is gone before it is accepted, or want of file handles, passes.
        let accepted = match &listener {
            Listener::Tcp(listener) => tokio::select! {
                accepted = listener.accept() => accepted.map(|(stream, peer)| {
                    // An answer is written at once and not held back for more.
                    let _ = stream.set_nodelay(true);
                    connection.spawn(stream, network_of(peer.ip()));
                }),
                () = &mut end => break,
            },
            #[cfg(unix)]
            Listener::Unix(listener, ..) => tokio::select! {
                accepted = listener.accept() => accepted.map(|(stream, _)| connection.spawn(stream, String::new())),
                () = &mut end => break,
            },
        };
        if accepted.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(limits.drain_time.max(Duration::from_secs(1))) => {}
    }
    Ok(())
}

/// A stream whose other end has to take what is written within some time, or is gone.
struct Timed<S> {
    stream: S,
    time: Duration,
    /// When what waits to be written must have gone on.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Timed<S> {
    /// The result of a write, or the deadline's.
    fn or_late<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let time = self.time;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(time)));
        deadline
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_late(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.or_late(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Bytes of the longest head of a request, and of what is read ahead of a body: each connection may hold as much.
const BUFFER: usize = 64 << 10;

struct Connection {
    router: axum::Router,
    limits: Limits,
    watcher: Watcher,
    place: OwnedSemaphorePermit,
}

impl Connection {
    fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: String) {
        let Connection {
            router,
            limits,
            watcher,
            place,
        } = self;
        let peer = Peer(peer);
        // A router is always ready.
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.clone().call(request)
        });
        let stream = Timed {
            stream,
            time: limits.body_time,
            deadline: None,
        };
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_time)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        let served = watcher.watch(served);
        tokio::spawn(async move {
            // A connection that breaks is the client's affair.
            let _ = served.await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_caller_whichever_of_its_addresses_it_takes() {
        let of = |address: &str| network_of(address.parse().unwrap());
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_ne!(of("192.0.2.8"), of("192.0.2.7"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2:ffff::"), "2001:db8:1:2::/64");
        assert_ne!(of("2001:db8:1:3::"), of("2001:db8:1:2::"));
    }
}
