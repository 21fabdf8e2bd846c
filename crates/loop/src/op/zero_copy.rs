//! Sends that do not copy.

use std::fmt;

use super::message::Header;
use super::vectors::{IoVecs, Vectors};
use super::{
    Begin, Detach, Extent, Operation, Options, Outcome, Started, extents, limits, message_flags, ways_to_wait,
};
use crate::buf::IoBuf;
use crate::descriptor::Target;
use crate::operation::Request;

/// What a zero-copy send gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Sent<D> {
    /// The number of bytes, and an owned buffer.
    pub sent: D,
    /// Whether the kernel has copied them, or some of them, all the same: always, over the loopback device and where there is
    /// no zero-copy send. If so, [`send`](super::send) is cheaper.
    pub copied: bool,
}

/// A send without a copy: see [`send_zc`].
#[derive(Debug)]
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct SendZc<'s, B> {
    target: Target<'s>,
    buf: B,
    flags: i32,
    uncopied: usize,
    options: Options,
}

/// Sends from a buffer as [`send`](super::send) does, and lets the network device read the buffer itself.
///
/// The outcome comes when the kernel has let go of the buffer, which for TCP means when the peer has acknowledged what is
/// in it: later than that of `send`, by a round trip at least. Sends that come after it do not wait for that. It pays for
/// large buffers (from some 10 KiB on) on real network devices; the outcome [tells](Sent::copied) whether it did.
///
/// Cancel-safe, like `send`. A cancel, or a limit, ends the sending. What is in the socket's queue by then is still sent, and the
/// operation, a close of the socket, and the drop of the loop still **wait until the kernel has let go of it**. A peer that is
/// there and takes nothing can hold that up for ever, unless the system is told when to give the connection up
/// (`TCP_USER_TIMEOUT`).
///
/// io_uring: `IORING_OP_SEND_ZC` (6.0; used with kernels from 6.2 on, which tell whether they copied). Elsewhere, on sockets
/// that cannot (those of Unix), and where no more memory may be locked (`RLIMIT_MEMLOCK`), the same as `send`.
///
/// ```
/// # use std::os::fd::OwnedFd;
/// # use towpath_loop::{Socket, op};
/// # let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let peer = std::net::TcpStream::connect(listener.local_addr()?)?;
/// # let socket = Socket::from(OwnedFd::from(listener.accept()?.0));
/// let page = vec![b'x'; 1 << 16];
/// let sent = op::send_zc(&socket, &page[..]).all(true).wait()?;
/// assert_eq!(sent.sent, 1 << 16);
/// # drop(peer);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn send_zc<'s, B: IoBuf>(target: impl Into<Target<'s>>, buf: B) -> SendZc<'s, B> {
    SendZc { target: target.into(), buf, flags: 0, uncopied: 0, options: Options::NONE }
}

impl<B: IoBuf> SendZc<'_, B> {
    limits!();
    extents!();
    message_flags!();
}

// SAFETY: the request points to the count in `self` and to the buffer, which by `IoBuf` stays valid and nobody else's while
// `self` is left alone; `target` keeps the descriptor open.
unsafe impl<B: IoBuf> Operation for SendZc<'_, B> {
    type Output = Result<Sent<B::Done>, B::Error>;
    fn options(&self) -> Options {
        self.options
    }
    fn is_pure(&self) -> bool {
        true
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let handle = match self.target.handle() {
            Ok(handle) => handle,
            Err(errno) => return Started::failed(errno),
        };
        let (buf, len) = self.buf.bytes();
        // An empty datagram is a datagram.
        if len == 0 && self.options.extent == Extent::All {
            return Started::Done(0);
        }
        let (flags, uncopied) =
            (whole(self.target.sending(self.flags), self.options), &raw mut self.uncopied);
        Started::Request(Request::SendZc { handle, buf, len, flags, uncopied })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.bytes() {
            (n, Ok(())) => Ok(Sent { sent: self.buf.done(n), copied: self.uncopied < n }),
            (n, Err(error)) => Err(self.buf.failed(n, error)),
        }
    }
}

impl<B: IoBuf + 'static> Detach for SendZc<'_, B> {
    type Owned = SendZc<'static, B>;
    fn detach(self) -> SendZc<'static, B> {
        let SendZc { target, buf, flags, uncopied, options } = self;
        SendZc { target: target.detach(), buf, flags, uncopied, options }
    }
}

ways_to_wait!(SendZc<'s, B: IoBuf> => SendZc<'static, B>);

/// The flags of a send that is to go on until all is sent: the ring then does so by itself. A step of ours would begin only
/// when the peer has acknowledged the one before.
fn whole(flags: i32, options: Options) -> i32 {
    if options.extent == Extent::All { flags | libc::MSG_WAITALL } else { flags }
}

/// A send of several buffers without a copy: see [`send_vectored_zc`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct SendVectoredZc<'s, V> {
    target: Target<'s>,
    buffers: V,
    vectors: Vectors,
    header: Header,
    flags: i32,
    uncopied: usize,
    options: Options,
}

/// Sends several buffers, one after the other, as [`send_vectored`](super::send_vectored) does, without a copy: see
/// [`send_zc`].
///
/// io_uring: `IORING_OP_SENDMSG_ZC` (6.1). Elsewhere, and where that is not possible, the same as `send_vectored`.
pub fn send_vectored_zc<'s, V: IoVecs>(target: impl Into<Target<'s>>, buffers: V) -> SendVectoredZc<'s, V> {
    let (vectors, header) = (Vectors::default(), Header::new());
    SendVectoredZc {
        target: target.into(),
        buffers,
        vectors,
        header,
        flags: 0,
        uncopied: 0,
        options: Options::NONE,
    }
}

impl<V: IoVecs> SendVectoredZc<'_, V> {
    limits!();
    extents!();
    message_flags!();
}

impl<V> fmt::Debug for SendVectoredZc<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendVectoredZc").field("target", &self.target).finish_non_exhaustive()
    }
}

// SAFETY: the request points to count and header in `self`, that to the vectors, those to the buffers, which by `IoVecs` stay
// valid while `self` is left alone; `target` keeps the descriptor open.
unsafe impl<V: IoVecs> Operation for SendVectoredZc<'_, V> {
    type Output = Result<Sent<V::Done>, V::Error>;
    fn options(&self) -> Options {
        self.options
    }
    fn is_pure(&self) -> bool {
        true
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let handle = match self.target.handle() {
            Ok(handle) => handle,
            Err(errno) => return Started::failed(errno),
        };
        let (vectors, count) = self.vectors.several(&mut self.buffers, self.options.extent);
        if count == 0 && self.options.extent == Extent::All {
            return Started::Done(0);
        }
        let (msg, more) = self.header.fill((vectors, count), None);
        let (flags, uncopied) =
            (whole(self.target.sending(self.flags), self.options), &raw mut self.uncopied);
        Started::Request(Request::SendMsgZc { handle, msg, flags, more, uncopied })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.bytes() {
            (n, Ok(())) => Ok(Sent { sent: self.buffers.done(n), copied: self.uncopied < n }),
            (n, Err(error)) => Err(self.buffers.failed(n, error)),
        }
    }
}

impl<V: IoVecs + 'static> Detach for SendVectoredZc<'_, V> {
    type Owned = SendVectoredZc<'static, V>;
    fn detach(self) -> SendVectoredZc<'static, V> {
        let SendVectoredZc { target, buffers, vectors, header, flags, uncopied, options } = self;
        SendVectoredZc { target: target.detach(), buffers, vectors, header, flags, uncopied, options }
    }
}

ways_to_wait!(SendVectoredZc<'s, V: IoVecs> => SendVectoredZc<'static, V>);
