//! From a [`Request`] to the entry that asks the kernel for it.

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use crate::operation::{Request, TRANSFER_MAX};

/// The descriptors that we make are as `std` makes them, and non-blocking for the calls that bypass the ring.
const NEW_FD: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

/// The entry for a request, without a name (`user_data`) yet.
///
/// # Safety
/// What the request points to is valid and nobody else's; the entry may be submitted while it stays so.
#[inline]
pub(super) unsafe fn entry(request: &Request) -> squeue::Entry {
    match *request {
        Request::Nop | Request::Timer | Request::External | Request::Shutdown { .. } => {
            unreachable!("{:?} has no opcode", request.kind())
        }
        Request::Socket { domain, kind, protocol } => {
            opcode::Socket::new(domain, kind | NEW_FD, protocol).build()
        }
        Request::Bind { handle, addr } => {
            // SAFETY: `addr` is valid by this function's contract.
            let (addr, len) = unsafe { (&raw const (*addr).storage, (*addr).len) };
            opcode::Bind::new(Fd(handle.fd), addr.cast(), len).build()
        }
        Request::Listen { handle, backlog } => opcode::Listen::new(Fd(handle.fd), backlog).build(),
        Request::Accept { handle, addr } => {
            let (addr, len) = if addr.is_null() {
                (std::ptr::null_mut(), std::ptr::null_mut())
            } else {
                // SAFETY: `addr` is not null, so valid and ours to write to by this function's contract.
                unsafe {
                    (*addr).len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                    ((&raw mut (*addr).storage).cast(), &raw mut (*addr).len)
                }
            };
            opcode::Accept::new(Fd(handle.fd), addr, len).flags(NEW_FD).build()
        }
        Request::Connect { handle, addr } => {
            // SAFETY: `addr` is valid by this function's contract.
            let (addr, len) = unsafe { (&raw const (*addr).storage, (*addr).len) };
            opcode::Connect::new(Fd(handle.fd), addr.cast(), len).build()
        }
        Request::Recv { handle, buf, len, flags } => {
            opcode::Recv::new(Fd(handle.fd), buf, transfer(len)).flags(waiting(flags)).build()
        }
        Request::Send { handle, buf, len, flags } => {
            opcode::Send::new(Fd(handle.fd), buf, transfer(len)).flags(sending(flags)).build()
        }
        Request::RecvMsg { handle, msg, flags } => {
            opcode::RecvMsg::new(Fd(handle.fd), msg).flags(waiting(flags) as u32).build()
        }
        Request::SendMsg { handle, msg, flags } => {
            opcode::SendMsg::new(Fd(handle.fd), msg).flags(sending(flags) as u32).build()
        }
        Request::Close { handle } => opcode::Close::new(Fd(handle.fd)).build(),
        Request::Poll { handle, events } => poll(handle.fd, events),
    }
}

/// The entry for a one-shot poll.
pub(super) fn poll(fd: i32, events: u16) -> squeue::Entry {
    opcode::PollAdd::new(Fd(fd), u32::from(events)).build()
}

fn transfer(len: usize) -> u32 {
    len.min(TRANSFER_MAX) as u32
}

/// With MSG_DONTWAIT the kernel would say EAGAIN instead of waiting, and waiting is what it is here for.
fn waiting(flags: i32) -> i32 {
    flags & !libc::MSG_DONTWAIT
}

fn sending(flags: i32) -> i32 {
    waiting(flags) | libc::MSG_NOSIGNAL
}
