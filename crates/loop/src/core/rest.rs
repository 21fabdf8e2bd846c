//! What is left of a transfer that is to go on until all is done.

use crate::operation::{CURSOR, Request, VECTORS_MAX};

/// Moves a transfer's request past the `n` bytes that are done. How many it was moved by, and whether anything is left.
///
/// A receive may report more than it had room for (`MSG_TRUNC`): then it has filled its buffer.
///
/// # Safety
/// It is the request of an `all` transfer that nobody is carrying out: what it points to is valid, and the operation's own.
pub(super) unsafe fn advance(request: &mut Request, n: usize) -> (usize, bool) {
    match request {
        Request::Recv { buf, len, .. } => {
            let moved = shorten(len, n);
            // SAFETY: `moved` of the bytes that were at `buf` are done.
            *buf = unsafe { buf.add(moved) };
            (moved, *len > 0)
        }
        Request::Send { buf, len, .. } | Request::SendZc { buf, len, .. } => {
            let moved = shorten(len, n);
            // SAFETY: as above.
            *buf = unsafe { buf.add(moved) };
            (moved, *len > 0)
        }
        Request::Read { vectors, count, at, .. }
        | Request::Write { vectors, count, at, .. }
        | Request::ReadStream { vectors, count, at, .. }
        | Request::WriteStream { vectors, count, at, .. } => {
            // SAFETY: the vectors of an `all` transfer are the operation's own, and the kernel is done with them.
            let moved = unsafe { pass(vectors, count, n) };
            shift(at, moved);
            (moved, *count > 0)
        }
        Request::RecvMsg { msg, more, .. } => {
            // SAFETY: as above, the header as well.
            unsafe { pass_message(*msg, more, n) }
        }
        Request::SendMsg { msg, more, .. } | Request::SendMsgZc { msg, more, .. } => {
            // SAFETY: as above.
            unsafe { pass_message(msg.cast_mut(), more, n) }
        }
        Request::SendFile { at, len, .. } => {
            let moved = shorten(len, n);
            shift(at, moved);
            (moved, *len > 0)
        }
        Request::Splice { args, .. } | Request::SpliceFile { args, .. } => {
            // SAFETY: the arguments are the operation's own, and nobody carries it out now.
            let args = unsafe { &mut **args };
            let moved = shorten(&mut args.len, n);
            shift(&mut args.from_at, moved);
            shift(&mut args.to_at, moved);
            args.wait.vain = 0;
            (moved, args.len > 0)
        }
        Request::CopyRange { args } => {
            // SAFETY: the arguments are the operation's own, and nobody carries it out now.
            let args = unsafe { &mut **args };
            let moved = shorten(&mut args.len, n);
            shift(&mut args.from_at, moved);
            shift(&mut args.to_at, moved);
            (moved, args.len > 0)
        }
        _ => (n, false),
    }
}

/// Shortens what is left by as much of `n` as there is.
fn shorten(left: &mut usize, n: usize) -> usize {
    let moved = n.min(*left);
    *left -= moved;
    moved
}

fn shift(offset: &mut u64, n: usize) {
    if *offset != CURSOR {
        *offset += n as u64;
    }
}

/// Leaves vectors behind, and shortens the first that is left, by as much of `n` as there is.
///
/// # Safety
/// They are valid, and nobody else uses them.
unsafe fn pass(vectors: &mut *mut libc::iovec, count: &mut usize, n: usize) -> usize {
    let mut left = n;
    while *count > 0 {
        // SAFETY: the caller's promise.
        let vector = unsafe { &mut **vectors };
        let moved = shorten(&mut vector.iov_len, left);
        left -= moved;
        // SAFETY: `moved` of the bytes that were there are done.
        vector.iov_base = unsafe { vector.iov_base.add(moved) };
        if vector.iov_len > 0 {
            break;
        }
        // SAFETY: to the next one, or behind the last.
        *vectors = unsafe { vectors.add(1) };
        *count -= 1;
    }
    n - left
}

/// The same for a message, behind whose vectors there are `more`.
///
/// # Safety
/// As `pass`, the header as well.
unsafe fn pass_message(msg: *mut libc::msghdr, more: &mut usize, n: usize) -> (usize, bool) {
    // SAFETY: the caller's promise.
    let msg = unsafe { &mut *msg };
    #[allow(clippy::unnecessary_cast, reason = "not the same type with every libc")]
    let mut count = msg.msg_iovlen as usize + *more;
    // SAFETY: as above.
    let moved = unsafe { pass(&mut msg.msg_iov, &mut count, n) };
    let now = count.min(VECTORS_MAX);
    (msg.msg_iovlen, *more) = (now as _, count - now);
    (moved, count > 0)
}
