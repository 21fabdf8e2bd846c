//! Sends without a copy: an entry with two completions.
//!
//! The first one tells what was sent: put into the socket's queue, as pages of the sender's. It carries `F_MORE` if a second
//! one follows, the *notification*, when the kernel needs these pages no more; for TCP that is when the peer has acknowledged
//! them. The operation is over then, and not before, since its buffer would be given back. The turn on the descriptor ends with
//! the first: what is sent next comes behind in the queue.
//!
//! Where a socket, or the limit on locked memory, does not allow it, the send is made with a copy.

use super::{Parts, Slot, Stage, advance, sqe};
use crate::backend::Completions;
use crate::backend::uring::lanes::LaneId;
use crate::operation::{OpId, Request};

/// The first of two completions: keeps its result, and lets the next transfer of that descriptor begin.
#[cold]
pub(super) fn hold(id: OpId, result: i32, parts: &mut Parts<'_>, done: &mut Completions) {
    let slot = &mut parts.slots[id.index as usize];
    debug_assert!(slot.is_zero_copy());
    slot.stage = Stage::Held;
    slot.held = result;
    // What is tried again, or has a rest to be sent, goes on before anybody else.
    if result < 0 || falls_short(&slot.request, result) {
        return;
    }
    let lane = std::mem::replace(&mut slot.lane, LaneId::NONE);
    if let Some(next) = parts.lanes.leave(id, lane) {
        advance(next, parts, done);
    }
}

/// Whether all was to be sent, and was not.
fn falls_short(request: &Request, result: i32) -> bool {
    matches!(*request, Request::SendZc { len, flags, .. }
        if flags & libc::MSG_WAITALL != 0 && (result as usize) < len)
}

impl Slot {
    /// Whether there may be two completions.
    pub(super) fn is_zero_copy(&self) -> bool {
        matches!(self.request, Request::SendZc { .. } | Request::SendMsgZc { .. })
    }

    /// The notification: the result that was kept. `usage` tells whether the kernel copied after all.
    #[cold]
    pub(super) fn let_go(&mut self, usage: i32) -> i32 {
        debug_assert!(self.stage == Stage::Held);
        self.stage = Stage::Native;
        if let Request::SendZc { uncopied, .. } | Request::SendMsgZc { uncopied, .. } = self.request
            && self.held > 0
            && usage as u32 & sqe::COPIED == 0
        {
            // SAFETY: the operation has not completed, so its submitter's promise holds.
            unsafe { *uncopied += self.held as usize };
        }
        self.held
    }
}

/// Whether a send may do with a copy, and cannot without: the socket knows of no such thing, or the kernel (before 6.2) not of
/// the report that is asked for; or there may be no more locked memory.
pub(super) fn is_refused(request: &Request, errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS)
        && matches!(request, Request::SendZc { .. } | Request::SendMsgZc { .. })
}
