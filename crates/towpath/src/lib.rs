//! Blocking-style I/O on completion-based event loops.
//!
//! Plain, straight-line code: [`net`] and [`thread`] have the names, signatures and documented behaviour of `std`'s, but a
//! thread here is a [task](thread), with a stack of its own that costs a few KiB, and a read suspends the task, not the
//! thread below it. There is no `async`; a library that takes `impl Read + Write` runs on it as it is.
//!
//! ```
//! use std::io::{Read, Write};
//! use towpath::net::{TcpListener, TcpStream};
//! use towpath::thread;
//!
//! # fn main() -> std::io::Result<()> {
//! // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
//! let runtime = unsafe { towpath::Runtime::new() }?;
//! runtime.run(|| {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let addr = listener.local_addr()?;
//!     let server = thread::spawn(move || {
//!         let (mut stream, _) = listener.accept()?;
//!         stream.write_all(b"hello")
//!     });
//!     let mut text = String::new();
//!     TcpStream::connect(addr)?.read_to_string(&mut text)?;
//!     assert_eq!(text, "hello");
//!     server.join().unwrap()
//! })
//! # }
//! ```
//!
//! Everything also works on a plain thread, which it then blocks.

mod block_on;
mod cancel;
mod cells;
mod context;
pub mod dump;
mod idle;
mod join;
mod linger;
mod mail;
mod metrics;
pub mod net;
mod panics;
mod probe;
mod runtime;
pub mod select;
mod signals;
mod sigquit;
mod std_or_loom;
mod steal;
pub mod sync;
mod task;
pub mod thread;
pub mod time;
mod trace;
mod wait;
mod warning;
mod watchdog;
mod why;
mod worker;

use std::fmt;

pub use block_on::block_on;
pub use cancel::shield;
pub use dump::dump;
pub use metrics::Metrics;
pub use runtime::{Builder, Handle, Runtime};
pub use thread::{Group, blocking};
pub use towpath_loop::{BackendKind, Instant, is_canceled};
pub use warning::{Deadlock, Leftover, Stall, Warning};

/// What joining a task that was cancelled before it started, or refused by a runtime at its end, gives in place of a
/// panic's payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Canceled;

impl fmt::Display for Canceled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was cancelled before it started")
    }
}

impl std::error::Error for Canceled {}

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/CHANNELS.md")]
struct Channels;

#[cfg(doctest)]
#[doc = include_str!("../../../docs/TASKS.md")]
struct Tasks;
