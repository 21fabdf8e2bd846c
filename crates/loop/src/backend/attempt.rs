//! One non-blocking attempt at an operation: the system call behind each [`Request`].
//!
//! The readiness backends live on this; io_uring uses it for what a kernel's ring cannot do, and the blocking pool for
//! what has to block.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::slice;

use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::files;
use super::sigpipe::without_sigpipe;
use crate::operation::{CURSOR, Direction, Elsewhere, Handle, NOT_READY, Request, Splice, TRANSFER_MAX};

/// Tries once. `Some(result)` when it is over, `None` when it would block and should be tried again once its
/// [direction](Request::direction) is ready. `resumed` tells that an earlier attempt would have blocked.
///
/// Each system call made is added to `syscalls`.
///
/// # Safety
/// As for [`Backend::submit`](super::Backend::submit): what the request points to is valid and nobody else's.
pub(crate) unsafe fn attempt(request: &Request, resumed: bool, syscalls: &mut u64) -> Option<i32> {
    loop {
        *syscalls += 1;
        // SAFETY: passed on from this function's own contract.
        let result = unsafe { call(request) };
        return match result {
            Ok(value) => Some(value),
            Err(libc::EINTR) => continue,
            // The connection was reset before anybody accepted it: there may be another one behind it.
            Err(libc::ECONNABORTED) if matches!(request, Request::Accept { .. }) => continue,
            // A Unix listener whose backlog is full: there is no readiness to wait for.
            Err(libc::EAGAIN) if matches!(request, Request::Connect { .. }) => Some(-libc::ECONNREFUSED),
            Err(libc::EAGAIN) if would_wait(request) => None,
            Err(libc::EAGAIN) if request.second_handle().is_some() => Some(NOT_READY),
            // BSD's way to say that it ended well.
            Err(libc::EISCONN) if resumed && matches!(request, Request::Connect { .. }) => Some(0),
            Err(libc::EINPROGRESS | libc::EALREADY) if matches!(request, Request::Connect { .. }) => None,
            Err(errno) => Some(-errno),
        };
    }
}

fn would_wait(request: &Request) -> bool {
    matches!(request.kind().describe().elsewhere, Elsewhere::Ready(_))
}

/// The system call itself, as `Ok(value)` or `Err(errno)`.
///
/// # Safety
/// As for [`attempt`].
pub(super) unsafe fn call(request: &Request) -> Result<i32, i32> {
    let value = match *request {
        Request::Nop
        | Request::Timer
        | Request::External
        | Request::Group(_)
        | Request::Poll { .. }
        | Request::AcceptMulti { .. }
        | Request::RecvMulti { .. } => {
            unreachable!("{:?} is not one system call", request.kind())
        }
        Request::Socket { domain, kind, protocol } => {
            // SAFETY: no pointers.
            unsafe {
                libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) as isize
            }
        }
        Request::Bind { handle, addr } => {
            // SAFETY: `addr` is valid by the caller's promise.
            unsafe { libc::bind(handle.fd, (&raw const (*addr).storage).cast(), (*addr).len) as isize }
        }
        Request::Listen { handle, backlog } => {
            // SAFETY: no pointers.
            unsafe { libc::listen(handle.fd, backlog) as isize }
        }
        Request::Accept { handle, addr } => {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: `addr` is null or valid for writes by the caller's promise, with its length beside it.
            unsafe {
                if addr.is_null() {
                    libc::accept4(handle.fd, std::ptr::null_mut(), std::ptr::null_mut(), flags) as isize
                } else {
                    (*addr).len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                    let storage = &raw mut (*addr).storage;
                    libc::accept4(handle.fd, storage.cast(), &raw mut (*addr).len, flags) as isize
                }
            }
        }
        Request::Connect { handle, addr } => {
            // Called again it tells how the connect ended that was in progress, and that it was heard: a socket to which
            // nobody has listened takes a third one for success.
            // SAFETY: `addr` is valid by the caller's promise.
            unsafe { libc::connect(handle.fd, (&raw const (*addr).storage).cast(), (*addr).len) as isize }
        }
        Request::Recv { handle, buf, len, flags } => {
            let flags = RecvFlags::from_bits_retain((flags | libc::MSG_DONTWAIT) as u32);
            // SAFETY: `buf` is valid for writes of `len` bytes by the caller's promise.
            let buf =
                unsafe { slice::from_raw_parts_mut(buf.cast::<MaybeUninit<u8>>(), len.min(TRANSFER_MAX)) };
            return moved(rustix::net::recv(borrow(handle)?, buf, flags).map(|(_, n)| n));
        }
        Request::Send { handle, buf, len, flags } | Request::SendZc { handle, buf, len, flags, .. } => {
            let flags = (flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
            // SAFETY: `buf` is valid for reads of `len` bytes by the caller's promise.
            let buf = unsafe { slice::from_raw_parts(buf.cast::<u8>(), len.min(TRANSFER_MAX)) };
            return moved(rustix::net::send(borrow(handle)?, buf, SendFlags::from_bits_retain(flags)));
        }
        Request::RecvMsg { handle, msg, flags, .. } => {
            // SAFETY: `msg` and all it points to are valid by the caller's promise.
            unsafe { libc::recvmsg(handle.fd, msg, flags | libc::MSG_DONTWAIT) }
        }
        Request::SendMsg { handle, msg, flags, .. } | Request::SendMsgZc { handle, msg, flags, .. } => {
            // SAFETY: `msg` and all it points to are valid by the caller's promise.
            unsafe { libc::sendmsg(handle.fd, msg, flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
        }
        Request::SendFile { handle, file, at, len, .. } => {
            let mut offset = at as libc::off_t;
            let place = if at == CURSOR { std::ptr::null_mut() } else { &raw mut offset };
            let len = len.min(TRANSFER_MAX);
            // SAFETY: `place` is null or ours.
            return without_sigpipe(len, || match unsafe { libc::sendfile(handle.fd, file, place, len) } {
                n if n >= 0 => Ok(n as i32),
                _ => Err(errno()),
            });
        }
        Request::Splice { from, to, args } | Request::SpliceFile { from, to, args } => {
            // SAFETY: `args` is valid by the caller's promise.
            return splice(from, to, unsafe { &*args });
        }
        Request::Shutdown { handle, how } => {
            // SAFETY: no pointers.
            unsafe { libc::shutdown(handle.fd, how) as isize }
        }
        Request::Close { handle } => {
            // SAFETY: the loop gives up the descriptor with this request; nobody else closes it.
            let result = unsafe { libc::close(handle.fd) as isize };
            // Linux has let the number go even when it says EINTR: trying again would close a stranger's.
            if result < 0 && errno() == libc::EINTR {
                return Ok(0);
            }
            result
        }
        Request::Signal { watcher, .. } => return watcher.take().ok_or(libc::EAGAIN),
        Request::WaitChild { handle } => {
            return exited(WaitId::PidFd(borrow(handle)?), WaitIdOptions::NOHANG);
        }
        Request::WaitProcess { pid } => {
            return exited(WaitId::Pid(Pid::from_raw(pid).ok_or(libc::ECHILD)?), WaitIdOptions::empty());
        }
        // SAFETY: passed on from this function's own contract.
        _ => return unsafe { files::call(request) },
    };
    if value < 0 { Err(errno()) } else { Ok(i32::try_from(value).expect("at most TRANSFER_MAX")) }
}

/// `splice(2)`, without waiting for a pipe.
fn splice(from: Handle, to: Handle, args: &Splice) -> Result<i32, i32> {
    let place = |at: &mut libc::loff_t| if *at < 0 { std::ptr::null_mut() } else { std::ptr::from_mut(at) };
    let (mut from_at, mut to_at) = (args.from_at as libc::loff_t, args.to_at as libc::loff_t);
    let (in_, out) = (place(&mut from_at), place(&mut to_at));
    let (len, flags) = (args.len.min(TRANSFER_MAX), args.flags | libc::SPLICE_F_NONBLOCK);
    // SAFETY: the offsets are null or on this frame.
    without_sigpipe(len, || match unsafe { libc::splice(from.fd, in_, to.fd, out, len, flags) } {
        n if n >= 0 => Ok(n as i32),
        _ => Err(errno()),
    })
}

/// Whether a child has ended. It stays to be reaped by whoever hears of it.
fn exited(id: WaitId<'_>, options: WaitIdOptions) -> Result<i32, i32> {
    match waitid(id, options | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
        Ok(Some(_)) => Ok(0),
        Ok(None) => Err(libc::EAGAIN),
        Err(error) => Err(error.raw_os_error()),
    }
}

/// The descriptor, for calls that go past the C library: its versions can be cancelled by `pthread_cancel`, which nobody
/// does, and pay for that each time.
pub(crate) fn borrow<'a>(handle: Handle) -> Result<BorrowedFd<'a>, i32> {
    if handle.fd < 0 {
        return Err(libc::EBADF);
    }
    // SAFETY: not negative; that it is open is the promise of who submits. It is used for one call.
    Ok(unsafe { BorrowedFd::borrow_raw(handle.fd) })
}

pub(super) fn moved(result: rustix::io::Result<usize>) -> Result<i32, i32> {
    match result {
        Ok(n) => Ok(i32::try_from(n).expect("at most TRANSFER_MAX")),
        Err(error) => Err(error.raw_os_error()),
    }
}

pub(super) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

impl Direction {
    /// The `poll(2)` bits that mean "try again" in this direction; errors and hang-ups always do.
    pub(crate) fn events(self) -> u16 {
        let bits = match self {
            // Not POLLPRI: urgent data that stands would wake an ordinary read again and again.
            Direction::Read => libc::POLLIN | libc::POLLRDHUP,
            Direction::Write => libc::POLLOUT,
        };
        bits as u16
    }
}
