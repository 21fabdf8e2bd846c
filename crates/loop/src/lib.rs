//! The event loop of Towpath: operations in, completions out.
//!
//! An [operation](op) is a value: `recv(&socket, buf)`, `accept(&listener)`, `timer(d)`. A [`Loop`] carries it out on
//! `io_uring`, `epoll` or `poll`, whichever the system has, with the same results, and there are four ways to wait for it:
//!
//! ```
//! use std::time::Duration;
//! use towpath_loop::{Loop, op};
//!
//! // Blocking style, on any thread.
//! op::timer(Duration::from_millis(1)).wait()?;
//!
//! let loop_ = Loop::new()?;
//! // Callback: later, on the loop's thread.
//! loop_.submit(op::next_tick(), |_loop, outcome| assert!(outcome.is_ok()));
//! loop_.run()?;
//!
//! // Pull: ask for the outcome when it suits.
//! let ticket = loop_.start(op::timer(Duration::from_millis(1)));
//! ticket.take()??;
//!
//! // Future, under any executor that drives the thread's loop.
//! let future = async { op::next_tick().await };
//! # drop(future);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A borrowed buffer can only be waited for in place; the other three ways take the buffer and give it back. Every
//! operation that was begun completes exactly once, whatever is cancelled or dropped; until then its memory stays with
//! the loop.
//!
//! The crate knows nothing of tasks. A runtime makes `wait` suspend a task instead of blocking the thread by giving
//! [`set_hook`] a [`Suspend`].

mod addr;
pub mod backend;
mod buf;
mod buffers;
mod canceled;
mod child;
mod config;
mod core;
mod current;
mod descriptor;
mod event;
mod event_loop;
mod flow;
mod fork;
mod future;
mod inspect;
mod instant;
mod mpsc;
mod offload;
pub mod op;
mod op_stream;
pub mod operation;
mod pool;
mod prefetch;
mod progress;
mod pull;
mod remote;
mod signal;
mod slice;
mod slots;
mod stats;
mod stream;
mod sync;
mod ticket;
mod timer;
mod wait;

pub use addr::SockAddr;
#[doc(hidden)]
pub use backend::clock::monotonic_now;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use backend::uring::hostile::run as hostile_ring;
pub use buf::{Failed, IoBuf, IoBufMut};
pub use buffers::{BufferPool, Chunk};
pub use canceled::{canceled, is_canceled};
pub use child::Child;
pub use config::{BackendKind, Config};
pub use current::set_hook;
pub use descriptor::{Descriptor, File, Socket, Target};
pub use event::Event;
pub use event_loop::Loop;
#[doc(hidden)]
pub use event_loop::age_next_slot;
pub use future::OpFuture;
pub use inspect::InFlight;
pub use instant::Instant;
pub use op_stream::OpStream;
pub use operation::{Link, OPERATIONS, OpId};
#[doc(hidden)]
pub use prefetch::prefetch;
pub use pull::Queue;
pub use remote::{Closed, Remote};
pub use signal::Signals;
pub use slice::Slice;
pub use stats::Stats;
pub use ticket::Ticket;
pub use wait::{Suspend, Waiter, Wakeup};
