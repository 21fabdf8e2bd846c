//! Splices: what waits for two descriptors.
//!
//! A splice is tried first. Where it would wait, nobody tells for which of its ends, and either may change while the other
//! is waited for. So the loop has the backend poll the source, then the destination, and then tries again. It has no place in
//! the queue of either descriptor: another transfer may come first.
//!
//! What is said to be ready and is not, again and again, is left to a thread of the pool, which rests for a moment after
//! each try.

use super::hand_to_pool;
use crate::backend::{Backend, Submitted};
use crate::offload::Offload;
use crate::operation::{Direction, NOT_READY, OpId, Request, Splice, SpliceWait};
use crate::slots::{Phase, Slot};

/// What the loop keeps in a splice.
fn wait(request: &mut Request) -> &mut SpliceWait {
    // SAFETY: the arguments are the operation's own, which is in flight, and nobody carries it out just now: it is about to
    // begin, or has come back.
    unsafe { &mut (*place(request)).wait }
}

fn place(request: &Request) -> *mut Splice {
    let (Request::Splice { args, .. } | Request::SpliceFile { args, .. }) = *request else {
        unreachable!("{:?} is no splice", request.kind())
    };
    args
}

/// Hands a splice to who carries it out. `Some` if it is over already.
pub(super) fn begin(
    backend: &mut dyn Backend,
    offload: &mut Offload,
    id: OpId,
    slot: &mut Slot,
) -> Option<i32> {
    if wait(&mut slot.request).blocks {
        wait(&mut slot.request).end = None;
        return next_end(backend, offload, id, slot);
    }
    carry_out(backend, offload, id, slot)
}

fn carry_out(backend: &mut dyn Backend, offload: &mut Offload, id: OpId, slot: &mut Slot) -> Option<i32> {
    if offload.takes(slot.request.kind()) || wait(&mut slot.request).is_in_vain() {
        return hand_to_pool(offload, id, slot);
    }
    // SAFETY: as in `dispatch`.
    match unsafe { backend.submit(id, &slot.request) } {
        Submitted::Done(NOT_READY) => await_ends(backend, offload, id, slot),
        Submitted::Done(result) => Some(result),
        Submitted::Pending(word) => {
            slot.phase = Phase::Backend;
            slot.word = word;
            None
        }
    }
}

/// A splice would have had to wait. `Some` if it is over all the same.
pub(super) fn await_ends(
    backend: &mut dyn Backend,
    offload: &mut Offload,
    id: OpId,
    slot: &mut Slot,
) -> Option<i32> {
    let wait = wait(&mut slot.request);
    wait.vain = wait.vain.saturating_add(1);
    wait.end = None;
    next_end(backend, offload, id, slot)
}

/// One end is ready, or none was asked yet: goes on with the next one, and behind the last with the splice.
pub(super) fn next_end(
    backend: &mut dyn Backend,
    offload: &mut Offload,
    id: OpId,
    slot: &mut Slot,
) -> Option<i32> {
    loop {
        let wait = wait(&mut slot.request);
        wait.end = match wait.end {
            None => Some(Direction::Read),
            Some(Direction::Read) => Some(Direction::Write),
            Some(Direction::Write) => None,
        };
        let Some(poll) = poll(&slot.request) else { return carry_out(backend, offload, id, slot) };
        // SAFETY: no pointers; the descriptors are kept open by the `Target`s of the operation.
        match unsafe { backend.submit(id, &poll) } {
            // Ready, or of no kind that can be polled.
            Submitted::Done(result) if result >= 0 || result == -libc::EPERM => {}
            Submitted::Done(result) => return Some(result),
            Submitted::Pending(word) => {
                slot.phase = Phase::Backend;
                slot.flags.polling = true;
                slot.word = word;
                return None;
            }
        }
    }
}

/// The poll for the end that a splice waits for, if it does.
pub(super) fn poll(request: &Request) -> Option<Request> {
    let (from, to) = (request.handle()?, request.second_handle()?);
    // SAFETY: as in `wait`.
    let end = unsafe { (*place(request)).wait.end }?;
    let handle = if end == Direction::Read { from } else { to };
    Some(Request::Poll { handle, events: end.events() })
}
