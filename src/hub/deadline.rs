//! A limit for all that one call reads from a connection.
//!
//! ureq limits how long the socket is waited for each time. Where it waits for it again and again that is not enough: for what
//! a proxy answers to CONNECT, in a record of TLS, and in a body that comes in chunks while what comes is not of the body,
//! digits of a chunk's length or lines after the last chunk. Ending the connection from another thread does not help either:
//! what a fast sender has sent already can still be read, and while that is read there comes more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    SocksConnector, TcpConnector, Transport, time,
};
use ureq::{Agent, Error};

/// When the call under way has to be done; calls of one agent come one after another.
#[derive(Clone, Debug, Default)]
pub(super) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    /// Makes a call, in which nothing is read once this time has passed.
    pub(super) fn limit<T>(&self, time: Duration, call: impl FnOnce() -> T) -> T {
        self.set(Instant::now().checked_add(time));
        let result = call();
        self.set(None);
        result
    }

    fn set(&self, to: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// The time that is left, if there is an end to it.
    fn left(&self) -> Option<Duration> {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// An agent whose connections keep it: directly above the socket, so that no layer between waits for longer.
    pub(super) fn agent(&self, config: Config) -> Agent {
        let connector =
            ().chain(SocksConnector::default())
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(self.clone())
                .chain(RustlsConnector::default());
        Agent::with_parts(config, connector, DefaultResolver::default())
    }
}

impl<T: Transport> Connector<T> for Deadline {
    type Out = Limited<T>;

    fn connect(&self, _: &ConnectionDetails<'_>, socket: Option<T>) -> Result<Option<Limited<T>>, Error> {
        let deadline = self.clone();
        Ok(socket.map(|socket| Limited { socket, deadline }))
    }
}

/// A connection of which nothing is read past the deadline.
#[derive(Debug)]
pub(super) struct Limited<T> {
    socket: T,
    deadline: Deadline,
}

impl<T: Transport> Transport for Limited<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.socket.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.socket.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        if let Some(left) = self.deadline.left() {
            if left.is_zero() {
                return Err(Error::Timeout(timeout.reason));
            }
            timeout.after = timeout.after.min(time::Duration::Exact(left));
        }
        self.socket.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.socket.is_open()
    }

    fn is_tls(&self) -> bool {
        self.socket.is_tls()
    }
}
