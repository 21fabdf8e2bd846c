//! What one system call tells about the next: which attempts are known to be in vain.

use std::os::fd::RawFd;

use super::record::Record;
use super::{ERR, HUP, IN, NVAL, OUT, PRI, RDHUP};
use crate::operation::{Request, TRANSFER_MAX};

/// Whether it reads ordinary data, with nothing special asked for.
#[inline]
pub(super) fn plain_receive(request: &Request) -> bool {
    matches!(
        request,
        Request::Recv { flags: 0, .. } | Request::RecvMsg { flags: 0, .. } | Request::RecvMulti { .. }
    )
}

/// Whether it reads urgent data.
#[inline]
pub(super) fn reads_urgent(request: &Request) -> bool {
    match request {
        Request::Recv { flags, .. } | Request::RecvMsg { flags, .. } => flags & libc::MSG_OOB != 0,
        _ => false,
    }
}

/// Whether it is a plain receive that got something, and less than it had room for.
///
/// # Safety
/// What `request` points to is valid.
#[inline]
pub(super) unsafe fn short_receive(request: &Request, result: i32) -> bool {
    let Ok(got @ 1..) = usize::try_from(result) else { return false };
    match *request {
        // A kernel never transfers more than TRANSFER_MAX: that much is not less than asked for.
        Request::Recv { len, flags: 0, .. } => got < len.min(TRANSFER_MAX),
        Request::RecvMsg { msg, flags: 0, .. } => {
            // SAFETY: `msg` and the vectors that it names are valid by the caller's promise. A null pointer goes with
            // a length of zero.
            let room = unsafe {
                #[allow(clippy::unnecessary_cast, reason = "not the same type with every libc")]
                let count = (*msg).msg_iovlen as usize;
                let vectors: &[libc::iovec] =
                    if count == 0 { &[] } else { std::slice::from_raw_parts((*msg).msg_iov, count) };
                vectors.iter().fold(0_usize, |room, vector| room.saturating_add(vector.iov_len))
            };
            got < room.min(TRANSFER_MAX)
        }
        _ => false,
    }
}

/// Whether the descriptor is a TCP socket. Asks the kernel once for each bearer of the number.
#[inline]
pub(super) fn is_tcp(record: &mut Record, request: &Request, syscalls: &mut u64) -> bool {
    if !record.has(Record::ASKED) {
        ask(record, request, syscalls);
    }
    record.has(Record::TCP)
}

#[cold]
fn ask(record: &mut Record, request: &Request, syscalls: &mut u64) {
    record.set(Record::ASKED);
    if let Some(handle) = request.handle() {
        let mut protocol: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        *syscalls += 1;
        // SAFETY: `protocol` is an int and `len` says so.
        let result = unsafe {
            let value = (&raw mut protocol).cast();
            libc::getsockopt(handle.fd, libc::SOL_SOCKET, libc::SO_PROTOCOL, value, &raw mut len)
        };
        if result == 0 && protocol == libc::IPPROTO_TCP {
            record.set(Record::TCP);
        }
    }
}

/// What `poll(2)` says at this moment: the bits that hold, zero for none, or a negated `errno`.
pub(super) fn poll_now(fd: RawFd, events: u16, syscalls: &mut u64) -> i32 {
    // The kernel passes over negative numbers in silence.
    if fd < 0 {
        return -libc::EBADF;
    }
    let mut entry = libc::pollfd { fd, events: events as libc::c_short, revents: 0 };
    loop {
        *syscalls += 1;
        // SAFETY: `entry` is one whole pollfd, and ours.
        if unsafe { libc::poll(&raw mut entry, 1, 0) } >= 0 {
            break;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => continue,
            errno => return -errno.unwrap_or(libc::EIO),
        }
    }
    match entry.revents as u16 {
        bits if bits & NVAL != 0 => -libc::EBADF,
        bits => i32::from(bits),
    }
}

/// What an event means to somebody who waits for `events`: the result, or `None` to wait on.
pub(super) fn poll_result(fd: RawFd, events: u16, bits: u16, syscalls: &mut u64) -> Option<i32> {
    if bits & NVAL != 0 {
        return Some(-libc::EBADF);
    }
    let result = if events & !(IN | OUT | PRI | RDHUP | ERR | HUP) == 0 {
        i32::from(bits & (events | ERR | HUP))
    } else {
        // Bands and the like, which a poller need not tell apart.
        poll_now(fd, events, syscalls)
    };
    (result != 0).then_some(result)
}
