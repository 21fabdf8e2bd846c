//! Operations that bring many items before they end: accepting, and receiving into buffers of a pool.

use std::io;
use std::rc::Rc;

use super::{Begin, Extent, Options, Outcome, Started, limits};
use crate::buffers::{BufferPool, Chunk};
use crate::descriptor::{Socket, Target, Traffic};
use crate::flow::Flow;
use crate::op_stream::OpStream;
use crate::operation::Request;

/// How many items may wait to be taken, unless somebody says otherwise.
const UNREAD: u32 = 64;

/// An operation that brings items, one after the other, until it ends. Implemented by [`AcceptMulti`] and [`RecvMulti`].
///
/// The same four ways to wait, for each item instead of once:
///
/// | | |
/// |---|---|
/// | callback | [`Loop::submit_stream`](crate::Loop::submit_stream)`(op, \|loop_, item\| …)` |
/// | pull | [`Loop::stream`](crate::Loop::stream)`(op)`, and [`OpStream::try_next`] |
/// | blocking | `for item in op`, in a task or on a plain thread |
/// | future | [`OpStream::poll_next`], or with the feature `stream` as a `futures_core::Stream` |
///
/// In the last three, items wait until they are taken, at most as many as `max_unread` says (64); then the stream rests
/// until half of them are gone. A limit of time (`timeout`, `deadline`) is for the whole stream.
///
/// # Safety
/// As for [`Operation`](super::Operation), but that `item` is called, any number of times, between `start` and `finish`,
/// and must not move what the request points to.
pub unsafe trait Streaming: Sized {
    /// What it brings.
    type Item;
    /// The same operation without borrows.
    type Owned: Streaming<Item = Self::Item> + 'static;

    #[doc(hidden)]
    fn detach(self) -> Self::Owned;
    #[doc(hidden)]
    fn options(&self) -> Options;
    #[doc(hidden)]
    fn flow(&mut self) -> &mut Rc<Flow>;
    #[doc(hidden)]
    fn start(&mut self, begin: &Begin<'_>) -> Started;
    #[doc(hidden)]
    fn item(&self, part: Part) -> io::Result<Self::Item>;
}

/// A part of a stream, in the kernel's terms.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub(crate) result: i32,
    pub(crate) buffer: Option<u16>,
}

macro_rules! stream {
    (
        $(#[$struct_doc:meta])* $type:ident => $item:ty;
        |$this:ident, $value:ident, $buffer:ident| $make:expr
    ) => {
        $(#[$struct_doc])*
        #[derive(Debug)]
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s> {
            target: Target<'s>,
            flow: Rc<Flow>,
            traffic: Traffic,
            options: Options,
        }

        impl<'s> $type<'s> {
            fn new(target: Target<'s>, pool: Option<BufferPool>) -> $type<'s> {
                let traffic = target.traffic();
                let flow = Flow::new(Some(UNREAD), pool, traffic == Traffic::Internet);
                $type { target, flow: Rc::new(flow), traffic, options: OPTIONS }
            }

            limits!();

            /// How many items may wait to be taken before the stream rests (64; at least one). Somewhat more may be
            /// under way by then. For the callback it does not matter: it takes each as it comes.
            pub fn max_unread(mut self, items: u32) -> Self {
                self.flow = Rc::new(self.flow.with_bound(Some(items)));
                self
            }
        }

        // SAFETY: the request points to the flow, which the operation owns a share of, and which has its buffers; `target`
        // keeps the descriptor open.
        unsafe impl Streaming for $type<'_> {
            type Item = $item;
            type Owned = $type<'static>;

            fn detach(self) -> $type<'static> {
                let $type { target, flow, traffic, options } = self;
                $type { target: target.detach(), flow, traffic, options }
            }
            fn options(&self) -> Options {
                self.options
            }
            fn flow(&mut self) -> &mut Rc<Flow> {
                &mut self.flow
            }
            fn start(&mut self, begin: &Begin<'_>) -> Started {
                if !self.flow.belongs_to(begin.shared) {
                    return Started::Done(Outcome::FOREIGN_POOL);
                }
                match self.target.handle() {
                    Ok(_) if self.traffic == Traffic::Datagrams => Started::failed(libc::EOPNOTSUPP),
                    Ok(handle) => Started::Request(Request::$type { handle, flow: Rc::as_ptr(&self.flow) }),
                    Err(errno) => Started::failed(errno),
                }
            }
            fn item(&self, part: Part) -> io::Result<$item> {
                let ($this, $buffer) = (self, part.buffer);
                let $value = Outcome { result: part.result, progress: 0 }.value()?;
                Ok($make)
            }
        }

        impl IntoIterator for $type<'_> {
            type Item = io::Result<$item>;
            type IntoIter = OpStream<$type<'static>>;

            /// Begins with the first item that is asked for, on the thread's current loop.
            fn into_iter(self) -> Self::IntoIter {
                OpStream::new(self.detach())
            }
        }
    };
}

const OPTIONS: Options = Options { extent: Extent::Stream, ..Options::NONE };

stream! {
    /// Accepting, again and again: see [`accept_multi`].
    AcceptMulti => Socket;
    |this, fd, _buffer| Socket::adopt_known(fd, this.traffic)
}

stream! {
    /// Receiving, piece by piece: see [`recv_multi`].
    RecvMulti => Chunk;
    |this, len, buffer| this.flow.chunk(buffer.expect("bytes come in a buffer"), len as usize)
}

/// Accepts connections, one after the other, until it is cancelled or the listener fails: sockets as those of
/// [`accept`](super::accept), without the peers' addresses.
///
/// As with `std`'s `incoming`, an error of one connection, or a want of descriptors or memory, is an item, and the
/// stream goes on, after a pause of 10 ms. An error of the listener itself is the last item. Connections that were
/// accepted and not taken when the stream is dropped are closed; those in the listener's queue stay there.
///
/// io_uring: multishot `IORING_OP_ACCEPT` (5.19), one entry for any number of connections; elsewhere `accept4(2)`, and
/// readiness to read while there is none, at most 16 in a row before others are served.
///
/// ```no_run
/// # use towpath_loop::{Socket, op};
/// # fn serve(listener: Socket) -> std::io::Result<()> {
/// for socket in op::accept_multi(&listener) {
///     op::send(&socket?, b"hello").wait()?;
/// }
/// # Ok(()) }
/// ```
pub fn accept_multi<'s>(listener: impl Into<Target<'s>>) -> AcceptMulti<'s> {
    AcceptMulti::new(listener.into(), None)
}

/// Receives from a stream socket until its end: what has arrived, as [`Chunk`]s in buffers of `pool`, in order. An error
/// is the last item; the end of the stream is just the end.
///
/// A buffer is in use from when something arrives until the chunk is dropped; a stream that waits has none. While the
/// pool has none left, what arrives stays in the socket. A dropped stream may have chunks that were not taken: their
/// bytes are gone.
///
/// It takes the socket's turn to receive until it has ended: a [`recv`](super::recv) meanwhile waits for that.
///
/// io_uring: multishot `IORING_OP_RECV` over a registered ring of buffers (6.0), one entry for any number of pieces;
/// on sockets that are not of the internet's, one entry a piece. Elsewhere `recv(2)`, and readiness to read while there is
/// nothing, at most 16 pieces in a row before others are served.
///
/// # Errors
/// `Unsupported` for a socket with datagrams, in which nothing would tell an end from an empty one; `InvalidInput` if the
/// pool is in use by another loop.
///
/// ```
/// # use std::{io::Write, os::unix::net::UnixStream, os::fd::OwnedFd};
/// # use towpath_loop::{BufferPool, Socket, op};
/// let (near, mut far) = UnixStream::pair()?;
/// far.write_all(b"some bytes")?;
/// drop(far);
/// let (socket, pool) = (Socket::from(OwnedFd::from(near)), BufferPool::new()?);
/// let mut received = Vec::new();
/// for chunk in op::recv_multi(&socket, &pool) {
///     received.extend_from_slice(&chunk?);
/// }
/// assert_eq!(received, b"some bytes");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn recv_multi<'s>(socket: impl Into<Target<'s>>, pool: &BufferPool) -> RecvMulti<'s> {
    RecvMulti::new(socket.into(), Some(pool.clone()))
}
