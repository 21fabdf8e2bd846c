//! Streams by hand: what [`attempt`] is for operations with one result.
//!
//! The readiness backends serve streams like this, and io_uring those for which its kernel has no multishot.

use super::Completions;
use super::attempt::attempt;
use crate::operation::{OpId, Request};

/// So many parts of one stream before anybody else is served.
const BUDGET: usize = 16;

/// How far a stream has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Served {
    /// It is over, with this result.
    Over(i32),
    /// There is nothing more: a call would have blocked.
    Empty,
    /// Less came than there was room for.
    Short,
    /// There may be more, but others come first.
    More,
    /// It has to rest: its flow is closed, or has no buffer.
    Resting,
}

/// Brings forth what there is of a stream, within a budget. With `until_short` it ends after a receive that did not fill
/// its buffer.
///
/// # Safety
/// As for [`Backend::submit`](super::Backend::submit).
pub(crate) unsafe fn serve_parts(
    id: OpId,
    request: &Request,
    until_short: bool,
    syscalls: &mut u64,
    done: &mut Completions,
) -> Served {
    // SAFETY: the flow is valid until the stream is over, by the caller's promise.
    let flow = unsafe { &*request.flow().expect("a stream has a flow") };
    for _ in 0..BUDGET {
        if !flow.is_open() {
            return Served::Resting;
        }
        match *request {
            Request::AcceptMulti { handle, .. } => {
                let accept = Request::Accept { handle, addr: std::ptr::null_mut() };
                // SAFETY: nothing to point to; the descriptor is open by the caller's promise.
                match unsafe { attempt(&accept, false, syscalls) } {
                    None => return Served::Empty,
                    Some(fd @ 0..) => done.push_part(id, fd, None, flow),
                    Some(error) => return Served::Over(error),
                }
            }
            Request::RecvMulti { handle, .. } => {
                let Some((buffer, buf, len)) = flow.take_buffer() else { return Served::Resting };
                let recv = Request::Recv { handle, buf, len, flags: 0 };
                // SAFETY: the buffer was lent for this call, and the descriptor is open.
                let result = unsafe { attempt(&recv, false, syscalls) };
                let Some(got @ 1..) = result else {
                    flow.give_back(buffer);
                    return result.map_or(Served::Empty, Served::Over);
                };
                done.push_part(id, got, Some(buffer), flow);
                if until_short && (got as usize) < len {
                    return Served::Short;
                }
            }
            _ => unreachable!("{:?} is no stream", request.kind()),
        }
    }
    Served::More
}
