//! Operations on one buffer.

use super::{Begin, Detach, Extent, Operation, Options, Outcome, Started, extents, limits, ways_to_wait};
use crate::buf::{IoBuf, IoBufMut};
use crate::descriptor::Target;
use crate::operation::Request;

macro_rules! transfer {
    (
        $(#[$struct_doc:meta])* $type:ident<$bound:path>; $(#[$fn_doc:meta])* $name:ident;
        |$buf:ident| $bytes:expr; $request:ident, $flags:expr; $empty_is_done:expr
    ) => {
        $(#[$struct_doc])*
        #[derive(Debug)]
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s, B> {
            target: Target<'s>,
            buf: B,
            flags: i32,
            options: Options,
        }

        $(#[$fn_doc])*
        pub fn $name<'s, B: $bound>(target: impl Into<Target<'s>>, buf: B) -> $type<'s, B> {
            $type { target: target.into(), buf, flags: 0, options: Options::NONE }
        }

        impl<B: $bound> $type<'_, B> {
            limits!();
            extents!();

            /// The flags (`MSG_*`) of the system call. With `MSG_TRUNC` a receive may tell of more bytes than the buffer has
            /// room for, which are gone; with [`all`](Self::all) it counts those that it has.
            pub fn flags(mut self, flags: i32) -> Self {
                self.flags = flags;
                self
            }
        }

        // SAFETY: the request points to the buffer, which by `IoBuf` stays valid and nobody else's while `self` is
        // left alone; `target` keeps the descriptor open.
        unsafe impl<B: $bound> Operation for $type<'_, B> {
            type Output = Result<B::Done, B::Error>;
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
                let $buf = &mut self.buf;
                let (buf, len) = $bytes;
                if len == 0 && $empty_is_done(self) {
                    return Started::Done(0);
                }
                Started::Request(Request::$request { handle, buf, len, flags: $flags(self) })
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                match outcome.bytes() {
                    (n, Ok(())) => Ok(self.buf.done(n)),
                    (n, Err(error)) => Err(self.buf.failed(n, error)),
                }
            }
        }

        impl<B: $bound + 'static> Detach for $type<'_, B> {
            type Owned = $type<'static, B>;
            fn detach(self) -> $type<'static, B> {
                $type { target: self.target.detach(), buf: self.buf, flags: self.flags, options: self.options }
            }
        }

        ways_to_wait!($type<'s, B: $bound> => $type<'static, B>);
    };
}

transfer! {
    /// A receive: see [`recv`].
    Recv<IoBufMut>;
    /// Receives into a buffer, from its start; the outcome is the number of bytes, 0 at the end of a stream.
    ///
    /// An empty buffer receives nothing, at once, and is not told apart from the end; to drop a datagram unread, use
    /// [`recv_from`](super::recv_from).
    ///
    /// io_uring: `IORING_OP_RECV` (5.6); elsewhere `recv(2)`, and readiness to read while there is nothing.
    recv;
    // The kernel would wait for data before it transfers none of it.
    |buf| buf.bytes_mut(); Recv, |this: &Recv<'_, B>| this.flags; |this: &Recv<'_, B>| this.flags == 0
}

transfer! {
    /// A send: see [`send`].
    Send<IoBuf>;
    /// Sends from a buffer; the outcome is the number of bytes. A closed peer is an error (`BrokenPipe`), never a signal.
    ///
    /// io_uring: `IORING_OP_SEND` (5.6); elsewhere `send(2)`, and readiness to write while there is no room.
    send;
    // An empty datagram is a datagram.
    |buf| buf.bytes(); Send, |this: &Send<'_, B>| this.target.sending(this.flags); |this: &Send<'_, B>| this.options.extent == Extent::All
}
