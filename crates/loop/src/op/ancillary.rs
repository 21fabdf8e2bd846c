//! Messages with something beside their bytes: descriptors, credentials, and what else a socket tells.
//!
//! What a message carries that way is a list of *control messages* (`cmsg(3)`), in a buffer of their own. Whatever
//! descriptors arrive in it are owned by the outcome from the start, so that one that nobody wants closes them.

use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::message::Header;
use super::vectors::{IoVecs, IoVecsMut};
use super::{Begin, Detach, Operation, Options, Outcome, Started, limits, message_flags, ways_to_wait};
use crate::addr::SockAddr;
use crate::descriptor::Target;
use crate::operation::Request;

/// The most descriptors that one message carries on Linux (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;
/// The most room for control messages that is made; what a kernel sends is far below.
const CONTROL_MAX: usize = 64 * 1024;

/// Who sent a message, as the kernel vouches for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The process.
    pub pid: libc::pid_t,
    /// Its user.
    pub uid: libc::uid_t,
    /// Its group.
    pub gid: libc::gid_t,
}

/// A control message of a kind that has no type here: a time stamp, a hop limit, a segment size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// `SOL_SOCKET`, `IPPROTO_IP`, …
    pub level: i32,
    /// `SCM_TIMESTAMP`, `IP_TTL`, …
    pub kind: i32,
    /// The value, as the system lays it out.
    pub data: Vec<u8>,
}

/// Room for control messages, aligned as they have to be.
#[derive(Default)]
struct Room(Vec<libc::cmsghdr>);

impl Room {
    fn new(bytes: usize) -> Room {
        // SAFETY: all-zero bytes are a valid `cmsghdr`.
        let empty = unsafe { std::mem::zeroed::<libc::cmsghdr>() };
        Room(vec![empty; bytes.min(CONTROL_MAX).div_ceil(size_of::<libc::cmsghdr>())])
    }

    fn bytes(&mut self) -> (*mut u8, usize) {
        (self.0.as_mut_ptr().cast(), self.0.len() * size_of::<libc::cmsghdr>())
    }
}

/// The room that a control message with this much data takes.
fn space(data: usize) -> usize {
    // SAFETY: arithmetic. Callers' sizes are far below the range of the type.
    unsafe { libc::CMSG_SPACE(data as u32) as usize }
}

/// A message that was received.
#[derive(Debug)]
#[non_exhaustive]
pub struct Message<D> {
    /// The number of bytes, and owned buffers.
    pub received: D,
    /// Who sent it; `None` where the socket's kind does not say (a stream's peer is known anyway).
    pub from: Option<SockAddr>,
    /// Whether the datagram was longer than the buffers: the rest is lost.
    pub truncated: bool,
    /// Whether there were control messages for which there was no room. Descriptors among them have been closed.
    pub control_truncated: bool,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The sender, if the socket has `SO_PASSCRED` set.
    pub credentials: Option<Credentials>,
    /// All other control messages.
    pub control: Vec<Control>,
}

impl<D> Message<D> {
    /// Takes one control message in.
    ///
    /// # Safety
    /// It has just been received with this message: descriptors in it are nobody's yet.
    unsafe fn take(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let numbers = data.chunks_exact(size_of::<i32>());
                self.fds.extend(numbers.map(|number| {
                    let number = i32::from_ne_bytes(number.try_into().expect("chunks of that size"));
                    // SAFETY: the kernel has made this descriptor for the receiver of the message, by the caller's promise.
                    unsafe { OwnedFd::from_raw_fd(number) }
                }));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if data.len() >= size_of::<libc::ucred>() => {
                // SAFETY: there are enough bytes, of a type of which all are valid; they need not be aligned.
                let ucred = unsafe { data.as_ptr().cast::<libc::ucred>().read_unaligned() };
                self.credentials = Some(Credentials { pid: ucred.pid, uid: ucred.uid, gid: ucred.gid });
            }
            _ => self.control.push(Control { level, kind, data: data.to_vec() }),
        }
    }
}

/// A receive of a message: see [`recv_msg`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct RecvMsg<'s, V> {
    target: Target<'s>,
    buffers: V,
    vectors: Vec<libc::iovec>,
    addr: SockAddr,
    /// Bytes of control messages to make room for.
    wanted: usize,
    /// Descriptors to take, where that was said: room is padded, and may be enough for one more.
    most_fds: Option<usize>,
    room: Room,
    header: Header,
    flags: i32,
    options: Options,
}

/// Receives a message with what it carries beside its bytes: descriptors, credentials, other control messages.
///
/// Without [`fds`](RecvMsg::fds), [`credentials`](RecvMsg::credentials) or [`control`](RecvMsg::control) there is room
/// for none, and the outcome says if there were any. Of more than 1024 buffers, the first 1024 are used.
///
/// ```
/// use std::io::{IoSlice, IoSliceMut};
/// use std::os::fd::{AsFd, OwnedFd};
/// use std::os::unix::net::UnixStream;
/// use towpath_loop::{Socket, op};
///
/// let (here, there) = UnixStream::pair()?;
/// let (here, there) = (Socket::from(OwnedFd::from(here)), Socket::from(OwnedFd::from(there)));
/// let file = std::fs::File::open("/dev/null")?;
/// op::send_msg(&here, &[IoSlice::new(b"a file")][..]).fd(file.as_fd()).wait()?;
///
/// let mut buf = [0; 16];
/// let message = op::recv_msg(&there, &mut [IoSliceMut::new(&mut buf)][..]).fds(1).wait()?;
/// assert_eq!((message.received, message.fds.len()), (6, 1));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// io_uring: `IORING_OP_RECVMSG` (5.3); elsewhere `recvmsg(2)`, and readiness to read. Descriptors are received
/// close-on-exec; those of a message that nobody wants any more, or for which there was no room, are closed.
pub fn recv_msg<'s, V: IoVecsMut>(target: impl Into<Target<'s>>, buffers: V) -> RecvMsg<'s, V> {
    RecvMsg {
        target: target.into(),
        buffers,
        vectors: Vec::new(),
        addr: SockAddr::empty(),
        wanted: 0,
        most_fds: None,
        room: Room::default(),
        header: Header::new(),
        flags: 0,
        options: Options::NONE,
    }
}

impl<V: IoVecsMut> RecvMsg<'_, V> {
    limits!();
    message_flags!();

    /// Takes so many descriptors, at most 253.
    pub fn fds(mut self, most: usize) -> Self {
        self.most_fds = Some(most.min(FDS_MAX));
        self.control(space(most.min(FDS_MAX) * size_of::<i32>()))
    }

    /// Makes room for the sender's credentials, which arrive if the socket has `SO_PASSCRED` set.
    pub fn credentials(self) -> Self {
        self.control(space(size_of::<libc::ucred>()))
    }

    /// Makes room for so many more bytes of control messages, headers included, at most 64 KiB in all.
    pub fn control(mut self, bytes: usize) -> Self {
        self.wanted = self.wanted.saturating_add(bytes).min(CONTROL_MAX);
        self
    }
}

impl<V> fmt::Debug for RecvMsg<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvMsg").field("target", &self.target).finish_non_exhaustive()
    }
}

// SAFETY: the request points to the header in `self`, that to the address, the room for control messages, which `self`
// owns, and the vectors, those to the buffers, which by `IoVecs` stay valid while `self` is left alone; `target` keeps the
// descriptor open.
unsafe impl<V: IoVecsMut> Operation for RecvMsg<'_, V> {
    type Output = Result<Message<V::Done>, V::Error>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let handle = match self.target.handle() {
            Ok(handle) => handle,
            Err(errno) => return Started::failed(errno),
        };
        let (vectors, count) = self.buffers.vectors(&mut self.vectors);
        let addr_len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        self.room = Room::new(self.wanted);
        self.header.set_control(self.room.bytes());
        let (msg, _) = self.header.fill((vectors, count), Some((&raw mut self.addr, addr_len)));
        Started::Request(Request::RecvMsg {
            handle,
            msg,
            flags: self.flags | libc::MSG_CMSG_CLOEXEC,
            more: 0,
        })
    }
    fn finish(mut self, outcome: Outcome) -> Self::Output {
        let n = match outcome.bytes() {
            (n, Ok(())) => n,
            (n, Err(error)) => return Err(self.buffers.failed(n, error)),
        };
        self.addr.len = self.header.name_len();
        let flags = self.header.flags();
        let mut message = Message {
            received: self.buffers.done(n),
            from: (self.addr.len > 0).then_some(self.addr),
            truncated: flags & libc::MSG_TRUNC != 0,
            control_truncated: flags & libc::MSG_CTRUNC != 0,
            fds: Vec::new(),
            credentials: None,
            control: Vec::new(),
        };
        // SAFETY: the receive has succeeded, so that the control messages are the kernel's; their room has not moved.
        unsafe { self.header.each_control(|level, kind, data| message.take(level, kind, data)) };
        if let Some(most) = self.most_fds
            && message.fds.len() > most
        {
            message.fds.truncate(most);
            message.control_truncated = true;
        }
        Ok(message)
    }
}

impl<V: IoVecsMut + 'static> Detach for RecvMsg<'_, V> {
    type Owned = RecvMsg<'static, V>;
    fn detach(self) -> RecvMsg<'static, V> {
        RecvMsg { target: self.target.detach(), ..self }
    }
}

ways_to_wait!(RecvMsg<'s, V: IoVecsMut> => RecvMsg<'static, V>);

/// A send of a message: see [`send_msg`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct SendMsg<'s, V> {
    target: Target<'s>,
    buffers: V,
    vectors: Vec<libc::iovec>,
    addr: Option<SockAddr>,
    fds: Vec<Target<'s>>,
    control: Vec<Control>,
    room: Room,
    header: Header,
    flags: i32,
    options: Options,
}

/// Sends a message with something beside its bytes: descriptors, credentials, other control messages. The outcome is the
/// number of bytes; what goes beside them goes with the first. (A stream carries nothing beside no bytes.)
///
/// At most 253 descriptors (`ETOOMANYREFS` or `EINVAL` beyond that). They stay open here: the receiver gets duplicates.
/// Of more than 1024 buffers, the first 1024 are used.
///
/// io_uring: `IORING_OP_SENDMSG` (5.3); elsewhere `sendmsg(2)`, and readiness to write. Never raises SIGPIPE.
pub fn send_msg<'s, V: IoVecs>(target: impl Into<Target<'s>>, buffers: V) -> SendMsg<'s, V> {
    SendMsg {
        target: target.into(),
        buffers,
        vectors: Vec::new(),
        addr: None,
        fds: Vec::new(),
        control: Vec::new(),
        room: Room::default(),
        header: Header::new(),
        flags: 0,
        options: Options::NONE,
    }
}

impl<'s, V: IoVecs> SendMsg<'s, V> {
    limits!();
    message_flags!();

    /// Where to, for a socket that is not connected.
    pub fn to(mut self, addr: impl Into<SockAddr>) -> Self {
        self.addr = Some(addr.into());
        self
    }

    /// Passes a descriptor on: a socket of ours, or a borrowed one (which is duplicated if the operation outlives the
    /// call that begins it). Once for each.
    pub fn fd(mut self, fd: impl Into<Target<'s>>) -> Self {
        self.fds.push(fd.into());
        self
    }

    /// Vouches for the sender with these, instead of what the kernel says. Others than one's own take privileges.
    pub fn credentials(self, credentials: Credentials) -> Self {
        let Credentials { pid, uid, gid } = credentials;
        let data = [pid.to_ne_bytes(), uid.to_ne_bytes(), gid.to_ne_bytes()].concat();
        self.control(Control { level: libc::SOL_SOCKET, kind: libc::SCM_CREDENTIALS, data })
    }

    /// Adds a control message. Not one that holds descriptors: those are for [`fd`](SendMsg::fd), which keeps them open.
    pub fn control(mut self, control: Control) -> Self {
        self.control.push(control);
        self
    }

    /// Writes the control messages down, or says why that cannot be (an `errno`).
    fn write_control(&mut self) -> Result<(), i32> {
        let is_rights =
            |control: &Control| control.level == libc::SOL_SOCKET && control.kind == libc::SCM_RIGHTS;
        if self.fds.len() > FDS_MAX || self.control.iter().any(is_rights) {
            return Err(libc::EINVAL);
        }
        let mut numbers = Vec::with_capacity(self.fds.len() * size_of::<i32>());
        for fd in &self.fds {
            numbers.extend(fd.handle()?.fd.as_raw_fd().to_ne_bytes());
        }
        let rights = Control { level: libc::SOL_SOCKET, kind: libc::SCM_RIGHTS, data: numbers };
        let all = || (!self.fds.is_empty()).then_some(&rights).into_iter().chain(&self.control);
        let mut needed = 0_usize;
        for control in all() {
            if control.data.len() > CONTROL_MAX {
                return Err(libc::EMSGSIZE);
            }
            needed += space(control.data.len());
        }
        if needed > CONTROL_MAX {
            return Err(libc::EMSGSIZE);
        }
        if needed > 0 {
            let mut room = Room::new(needed);
            self.header.set_control((room.bytes().0, needed));
            self.header.write_control(all().map(|control| (control.level, control.kind, &control.data[..])));
            self.room = room;
        }
        Ok(())
    }
}

impl<V> fmt::Debug for SendMsg<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendMsg")
            .field("target", &self.target)
            .field("fds", &self.fds.len())
            .finish_non_exhaustive()
    }
}

// SAFETY: as for `RecvMsg`; a send only reads. `fds` keeps the descriptors that are passed on open.
unsafe impl<V: IoVecs> Operation for SendMsg<'_, V> {
    type Output = Result<V::Done, V::Error>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, _: &Begin<'_>) -> Started {
        let handle = match self.target.handle().and_then(|handle| self.write_control().map(|()| handle)) {
            Ok(handle) => handle,
            Err(errno) => return Started::failed(errno),
        };
        let (vectors, count) = self.buffers.vectors(&mut self.vectors);
        let addr = self.addr.as_mut().map(|addr| {
            let len = addr.len;
            (ptr::from_mut(addr), len)
        });
        let (msg, _) = self.header.fill((vectors, count), addr);
        Started::Request(Request::SendMsg { handle, msg, flags: self.target.sending(self.flags), more: 0 })
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match outcome.bytes() {
            (n, Ok(())) => Ok(self.buffers.done(n)),
            (n, Err(error)) => Err(self.buffers.failed(n, error)),
        }
    }
}

impl<V: IoVecs + 'static> Detach for SendMsg<'_, V> {
    type Owned = SendMsg<'static, V>;
    fn detach(self) -> SendMsg<'static, V> {
        let SendMsg { target, buffers, vectors, addr, fds, control, room, header, flags, options } = self;
        let (target, fds) = (target.detach(), fds.into_iter().map(Target::detach).collect());
        SendMsg { target, buffers, vectors, addr, fds, control, room, header, flags, options }
    }
}

ways_to_wait!(SendMsg<'s, V: IoVecs> => SendMsg<'static, V>);
