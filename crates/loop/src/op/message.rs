//! Operations on messages: several buffers at once, and datagrams with an address.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;

use super::vectors::{IoVecs, IoVecsMut, Vectors, are_empty};
use super::{
    Begin, Detach, Extent, Operation, Options, Outcome, Started, extents, limits, message_flags, ways_to_wait,
};
use crate::addr::SockAddr;
use crate::buf::{IoBuf, IoBufMut};
use crate::descriptor::Target;
use crate::operation::{Request, VECTORS_MAX};

/// A message header and one vector, at the place that a kernel reads them from.
pub(super) struct Header {
    message: MaybeUninit<libc::msghdr>,
    vector: libc::iovec,
}

impl Header {
    pub(super) const fn new() -> Header {
        Header {
            message: MaybeUninit::zeroed(),
            vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
        }
    }

    /// A message of these vectors, or of as many as there may be, to or from this address, if any; and how many are left.
    pub(super) fn fill(
        &mut self,
        vectors: (*mut libc::iovec, usize),
        addr: Option<(*mut SockAddr, libc::socklen_t)>,
    ) -> (*mut libc::msghdr, usize) {
        let message = self.message_mut();
        let count = vectors.1.min(VECTORS_MAX);
        message.msg_iov = vectors.0;
        message.msg_iovlen = count as _;
        if let Some((addr, len)) = addr {
            // `storage` is the first field.
            message.msg_name = addr.cast();
            message.msg_namelen = len;
        }
        (self.message.as_mut_ptr(), vectors.1 - count)
    }

    /// A message of one buffer.
    fn fill_one(
        &mut self,
        buf: *mut u8,
        len: usize,
        addr: (*mut SockAddr, libc::socklen_t),
    ) -> *mut libc::msghdr {
        self.vector = libc::iovec { iov_base: buf.cast(), iov_len: len };
        let vector = &raw mut self.vector;
        self.fill((vector, 1), Some(addr)).0
    }

    fn message_mut(&mut self) -> &mut libc::msghdr {
        // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and lengths of zero. Filled in at most.
        unsafe { self.message.assume_init_mut() }
    }

    /// Where control messages are, or are to be written.
    pub(super) fn set_control(&mut self, (room, len): (*mut u8, usize)) {
        let message = self.message_mut();
        message.msg_control = if len == 0 { ptr::null_mut() } else { room.cast() };
        message.msg_controllen = len as _;
    }

    /// Writes control messages (level, kind, data) into room that was set and is large enough for them.
    pub(super) fn write_control<'a>(&mut self, all: impl Iterator<Item = (i32, i32, &'a [u8])>) {
        let message = ptr::from_mut(self.message_mut());
        // SAFETY: the room is valid, aligned and zeroed; these stay within it, or return null where it ends.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
        for (level, kind, data) in all {
            assert!(!at.is_null(), "room for all was made");
            // SAFETY: as above, and there is room for the data, as the header's place shows and the caller promises.
            unsafe {
                (*at).cmsg_level = level;
                (*at).cmsg_type = kind;
                (*at).cmsg_len = libc::CMSG_LEN(data.len() as u32) as _;
                ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(at), data.len());
                at = libc::CMSG_NXTHDR(message, at);
            }
        }
    }

    /// Shows each control message (level, kind, data) that was received.
    ///
    /// # Safety
    /// They are as a kernel wrote them, and where it wrote them.
    pub(super) unsafe fn each_control(&self, mut f: impl FnMut(i32, i32, &[u8])) {
        let message = self.message.as_ptr();
        // SAFETY: the caller's promise: headers and lengths are true.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(message);
            while !at.is_null() {
                let data = libc::CMSG_DATA(at);
                let head = data.offset_from(at.cast::<u8>()) as usize;
                let len = ((*at).cmsg_len as usize).saturating_sub(head);
                f((*at).cmsg_level, (*at).cmsg_type, std::slice::from_raw_parts(data, len));
                at = libc::CMSG_NXTHDR(message, at);
            }
        }
    }

    pub(super) fn name_len(&self) -> libc::socklen_t {
        // SAFETY: zeroed at first, filled in at most.
        unsafe { self.message.assume_init_ref() }.msg_namelen
    }

    pub(super) fn flags(&self) -> i32 {
        // SAFETY: as above.
        unsafe { self.message.assume_init_ref() }.msg_flags
    }
}

// SAFETY: the pointers are written by `start` and only mean something between `start` and `finish`, during which the
// value does not move, to another thread least of all.
unsafe impl Send for Header {}

macro_rules! vectored {
    (
        $(#[$struct_doc:meta])* $type:ident<$bound:path>; $(#[$fn_doc:meta])* $name:ident; $request:ident, receives: $receives:expr
    ) => {
        $(#[$struct_doc])*
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s, V> {
            target: Target<'s>,
            buffers: V,
            vectors: Vectors,
            header: Header,
            flags: i32,
            options: Options,
        }

        $(#[$fn_doc])*
        pub fn $name<'s, V: $bound>(target: impl Into<Target<'s>>, buffers: V) -> $type<'s, V> {
            let (vectors, header) = (Vectors::default(), Header::new());
            $type { target: target.into(), buffers, vectors, header, flags: 0, options: Options::NONE }
        }

        impl<V: $bound> $type<'_, V> {
            limits!();
            extents!();

            /// The flags (`MSG_*`) of the system call.
            pub fn flags(mut self, flags: i32) -> Self {
                self.flags = flags;
                self
            }
        }

        impl<V> fmt::Debug for $type<'_, V> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type)).field("target", &self.target).finish_non_exhaustive()
            }
        }

        // SAFETY: the request points to the header in `self`, that to the vectors, those to the buffers, which by
        // `IoVecs` stay valid while `self` is left alone; `target` keeps the descriptor open.
        unsafe impl<V: $bound> Operation for $type<'_, V> {
            type Output = Result<V::Done, V::Error>;
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
                // SAFETY: `vectors` are `count` descriptions of buffers, by `IoVecs`.
                let empty = unsafe { are_empty(vectors, count) };
                let all = self.options.extent == Extent::All;
                // The kernel would wait for data before it transfers none of it. An empty datagram is a datagram.
                if empty && (all || $receives && self.flags == 0) {
                    return Started::Done(0);
                }
                let (msg, more) = self.header.fill((vectors, count), None);
                let flags = if $receives { self.flags } else { self.target.sending(self.flags) };
                Started::Request(Request::$request { handle, msg, flags, more })
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                match outcome.bytes() {
                    (n, Ok(())) => Ok(self.buffers.done(n)),
                    (n, Err(error)) => Err(self.buffers.failed(n, error)),
                }
            }
        }

        impl<V: $bound + 'static> Detach for $type<'_, V> {
            type Owned = $type<'static, V>;
            fn detach(self) -> $type<'static, V> {
                let $type { target, buffers, vectors, header, flags, options } = self;
                $type { target: target.detach(), buffers, vectors, header, flags, options }
            }
        }

        ways_to_wait!($type<'s, V: $bound> => $type<'static, V>);
    };
}

vectored! {
    /// A receive into several buffers: see [`recv_vectored`].
    RecvVectored<IoVecsMut>;
    /// Receives into several buffers, filling one after the other; the outcome is the number of bytes. Of more than
    /// 1024 buffers, the first 1024 are used; with [`all`](RecvVectored::all), all of them. Without room it receives nothing, at
    /// once.
    ///
    /// io_uring: `IORING_OP_RECVMSG` (5.3); elsewhere `recvmsg(2)`, and readiness to read.
    recv_vectored; RecvMsg, receives: true
}

vectored! {
    /// A send from several buffers: see [`send_vectored`].
    SendVectored<IoVecs>;
    /// Sends several buffers, one after the other; the outcome is the number of bytes. Of more than 1024 buffers, the
    /// first 1024 are used; with [`all`](SendVectored::all), all of them.
    ///
    /// io_uring: `IORING_OP_SENDMSG` (5.3); elsewhere `sendmsg(2)`, and readiness to write.
    send_vectored; SendMsg, receives: false
}

/// A datagram that was received.
#[derive(Debug)]
#[non_exhaustive]
pub struct Datagram<D> {
    /// The number of bytes, and an owned buffer.
    pub received: D,
    /// Who sent it.
    pub from: SockAddr,
    /// Whether it was longer than the buffer: the rest is lost.
    pub truncated: bool,
}

/// A receive of a datagram: see [`recv_from`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct RecvFrom<'s, B> {
    target: Target<'s>,
    buf: B,
    addr: SockAddr,
    header: Header,
    flags: i32,
    options: Options,
}

/// Receives a datagram and its sender's address.
///
/// io_uring: `IORING_OP_RECVMSG` (5.3); elsewhere `recvmsg(2)`, and readiness to read.
pub fn recv_from<'s, B: IoBufMut>(target: impl Into<Target<'s>>, buf: B) -> RecvFrom<'s, B> {
    let (addr, header) = (SockAddr::empty(), Header::new());
    RecvFrom { target: target.into(), buf, addr, header, flags: 0, options: Options::NONE }
}

impl<B: IoBufMut> RecvFrom<'_, B> {
    limits!();
    message_flags!();
}

impl<B> fmt::Debug for RecvFrom<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvFrom").field("target", &self.target).finish_non_exhaustive()
    }
}

// SAFETY: the request points to the header and address in `self`, and to the buffer, which by `IoBuf` stays valid while
// `self` is left alone; `target` keeps the descriptor open.
unsafe impl<B: IoBufMut> Operation for RecvFrom<'_, B> {
    type Output = Result<Datagram<B::Done>, B::Error>;
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
        let (buf, len) = self.buf.bytes_mut();
        let room = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let msg = self.header.fill_one(buf, len, (&raw mut self.addr, room));
        Started::Request(Request::RecvMsg { handle, msg, flags: self.flags, more: 0 })
    }
    fn finish(mut self, outcome: Outcome) -> Self::Output {
        match outcome.bytes() {
            (n, Ok(())) => {
                self.addr.len = self.header.name_len();
                let truncated = self.header.flags() & libc::MSG_TRUNC != 0;
                Ok(Datagram { received: self.buf.done(n), from: self.addr, truncated })
            }
            (n, Err(error)) => Err(self.buf.failed(n, error)),
        }
    }
}

impl<B: IoBufMut + 'static> Detach for RecvFrom<'_, B> {
    type Owned = RecvFrom<'static, B>;
    fn detach(self) -> RecvFrom<'static, B> {
        let RecvFrom { target, buf, addr, header, flags, options } = self;
        RecvFrom { target: target.detach(), buf, addr, header, flags, options }
    }
}

ways_to_wait!(RecvFrom<'s, B: IoBufMut> => RecvFrom<'static, B>);

/// A send of a datagram: see [`send_to`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct SendTo<'s, B> {
    target: Target<'s>,
    buf: B,
    addr: SockAddr,
    header: Header,
    flags: i32,
    options: Options,
}

/// Sends a datagram to an address.
///
/// io_uring: `IORING_OP_SENDMSG` (5.3); elsewhere `sendmsg(2)`, and readiness to write.
pub fn send_to<'s, B: IoBuf>(
    target: impl Into<Target<'s>>,
    buf: B,
    addr: impl Into<SockAddr>,
) -> SendTo<'s, B> {
    let (addr, header) = (addr.into(), Header::new());
    SendTo { target: target.into(), buf, addr, header, flags: 0, options: Options::NONE }
}

impl<B: IoBuf> SendTo<'_, B> {
    limits!();
    message_flags!();
}

impl<B> fmt::Debug for SendTo<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendTo")
            .field("target", &self.target)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

// SAFETY: as for `RecvFrom`; a send only reads.
unsafe impl<B: IoBuf> Operation for SendTo<'_, B> {
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
        let (buf, len) = self.buf.bytes();
        let msg = self.header.fill_one(buf.cast_mut(), len, (&raw mut self.addr, self.addr.len));
        Started::Request(Request::SendMsg { handle, msg, flags: self.target.sending(self.flags), more: 0 })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.bytes() {
            (n, Ok(())) => Ok(self.buf.done(n)),
            (n, Err(error)) => Err(self.buf.failed(n, error)),
        }
    }
}

impl<B: IoBuf + 'static> Detach for SendTo<'_, B> {
    type Owned = SendTo<'static, B>;
    fn detach(self) -> SendTo<'static, B> {
        let SendTo { target, buf, addr, header, flags, options } = self;
        SendTo { target: target.detach(), buf, addr, header, flags, options }
    }
}

ways_to_wait!(SendTo<'s, B: IoBuf> => SendTo<'static, B>);
