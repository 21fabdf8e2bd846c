//! The load on a server: one thread, raw epoll, every byte that comes back verified.

mod bulk;
mod churn;
mod closed;
mod echo;
mod epoll;
mod http;
mod idle;
mod meter;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::process::Process;

pub use meter::{Latency, Sample};

/// What is done to a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// Round trips of `size` bytes, `window` of them in flight on each connection.
    Echo { connections: usize, size: usize, window: usize },
    /// Keep-alive requests, `window` of them in flight on each connection.
    Http { connections: usize, window: usize },
    /// A stream to the server on each connection.
    Send { connections: usize },
    /// A stream from the server on each connection.
    Receive { connections: usize },
    /// Connections that last for one exchange of `size` bytes, so many at a time.
    Churn { connections: usize, size: usize },
    /// Connections that do nothing, and what they cost.
    Idle { connections: usize, size: usize },
    /// Datagrams, `window` of them in flight on each socket.
    Udp { sockets: usize, size: usize, window: usize },
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub warm_up: Duration,
    pub window: Duration,
    /// Bytes of a bulk transfer.
    pub bulk: u64,
    /// How long idle connections are watched.
    pub idle: Duration,
    /// How many files a process may have open.
    pub files: u64,
}

/// A server that listens, and how much to ask of it.
pub struct Target<'a> {
    pub server: &'a Process,
    pub address: SocketAddr,
    pub extent: Extent,
}

/// Measures once. [`Load::Idle`] gives two samples: before the first exchange and after it.
pub fn run(load: Load, target: &Target) -> io::Result<Vec<Sample>> {
    let sample = match load {
        Load::Echo { connections, size, window } => {
            closed::run(target, &echo::Echo { size }, connections, window)
        }
        Load::Http { connections, window } => closed::run(target, &http::Http, connections, window),
        Load::Send { connections } => bulk::send(target, connections),
        Load::Receive { connections } => bulk::receive(target, connections),
        Load::Churn { connections, size } => churn::run(target, connections, size),
        Load::Udp { sockets, size, window } => udp::run(target, sockets, size, window),
        Load::Idle { connections, size } => return idle::run(target, connections, size),
    };
    Ok(vec![sample?])
}

/// What came back is not what should have.
fn corrupt(what: std::fmt::Arguments) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("WRONG DATA: {what}"))
}

/// As in `read` and `write`: nothing now is no error.
fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
