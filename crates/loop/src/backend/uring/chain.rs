//! Chains: operations that the kernel begins one after the other by itself.
//!
//! `IOSQE_IO_LINK` makes the next entry of the same submission wait until this one has succeeded, and fail with
//! `ECANCELED` if it has not; `IOSQE_IO_HARDLINK` only makes it wait. For the kernel a transfer has succeeded if it moved
//! anything, or with `MSG_WAITALL` everything, which is our own rule, with `all` for the flag. It goes on with a short transfer
//! by itself then.
//!
//! # What goes into a chain
//!
//! Whatever the ring carries out in one entry, the first of which need not wait for its turn on its descriptor
//! ([`Lanes`](super::lanes)). What the kernel calls a failure, and what it does not, need not be the same to us:
//!
//! - What fails may have to be tried again (`EAGAIN`, `EINTR`, a short transfer of `all`). So the link is soft where that can
//!   be, also if ours is a hard one: the chain tears, and the loop begins the rest of it anew, in its turn. That only costs time.
//!   Transfers on sockets that the kernel polls do not fail with these two, so they may be hard.
//! - A short read or write is a failure to the kernel, and not to us unless it was to be `all`: likewise.
//! - A sync that fails, a rename and the like (since 6.0), the kernel takes for a success. They end the chain.
//! - An entry that the kernel does not even take (a path that is too long) fails those before it as well. It stays outside.
//!
//! # Turns
//!
//! A member gets its turn on its descriptor when the one before it is over: before anybody else where that had the same
//! turn, or else behind those who wait, although the kernel has begun it already. So there is no order between it and them,
//! and nobody waits for an operation that waits for something else.

use std::ffi::c_char;

use io_uring::squeue;

use super::lanes::{LaneId, lane_of};
use super::{Parts, Slot, Stage, Uring, advance, sqe};
use crate::backend::{Chained, Completions};
use crate::operation::{Link, OpId, Request, Support, TRANSFER_MAX, VECTORS_MAX};

/// More would only be prepared in vain more often.
pub(super) const LIMIT: usize = 64;

/// Whether the kernel may have it as a member of a chain.
///
/// # Safety
/// What the request points to is valid.
unsafe fn joins(request: &Request, ways: &[Support]) -> bool {
    /// Its results mean something else with these.
    const APART: i32 = libc::MSG_WAITALL | libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    let fits = match *request {
        Request::Recv { flags, .. }
        | Request::Send { flags, .. }
        | Request::RecvMsg { flags, .. }
        | Request::SendMsg { flags, .. } => flags & APART == 0,
        // The kernel makes the same of them as we do, at once or in its own time.
        Request::Bind { .. }
        | Request::Listen { .. }
        | Request::Accept { .. }
        | Request::Connect { .. }
        | Request::Close { .. }
        | Request::Poll { .. }
        | Request::Read { .. }
        | Request::Write { .. }
        | Request::ReadStream { .. }
        | Request::WriteStream { .. }
        | Request::Sync { .. }
        | Request::SetLen { .. }
        | Request::Allocate { .. } => true,
        Request::Open { path, .. }
        | Request::OpenResolved { path, .. }
        | Request::Remove { path, .. }
        | Request::CreateDir { path, .. } => {
            // SAFETY: valid by this function's contract.
            unsafe { is_taken(path) }
        }
        // Of an open file the path is empty.
        Request::Stat { path, flags, .. } => {
            // SAFETY: as above.
            flags & libc::AT_EMPTY_PATH != 0 || unsafe { is_taken(path) }
        }
        Request::Rename { path, to, .. } | Request::HardLink { path, to, .. } => {
            // SAFETY: as above.
            unsafe { is_taken(path) && is_taken((*to).path) }
        }
        Request::Symlink { path, original, .. } => {
            // SAFETY: as above.
            unsafe { is_taken(path) && is_taken(original) }
        }
        _ => false,
    };
    fits && ways[request.kind() as usize] == Support::Native
}

/// Whether the kernel takes a path, wherever it leads.
///
/// # Safety
/// It is a C string.
unsafe fn is_taken(path: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    (1..libc::PATH_MAX as usize).contains(&unsafe { libc::strlen(path) })
}

/// The flag that links the next entry to this one, if the kernel understands the same by it as we do.
///
/// # Safety
/// What the request points to is valid.
unsafe fn link_flag(member: &Chained) -> Option<squeue::Flags> {
    let soft = match member.request {
        Request::Recv { .. }
        | Request::Send { .. }
        | Request::RecvMsg { .. }
        | Request::SendMsg { .. }
        | Request::Bind { .. }
        | Request::Listen { .. }
        | Request::Close { .. } => member.all || member.link == Link::Soft,
        Request::Accept { .. }
        | Request::Connect { .. }
        | Request::Poll { .. }
        | Request::Read { .. }
        | Request::Write { .. }
        | Request::WriteStream { .. }
        | Request::Open { .. }
        | Request::OpenResolved { .. } => true,
        // Hardly ever as much as there is room for.
        Request::ReadStream { .. } if member.all => true,
        _ => return None,
    };
    // SAFETY: passed on from this function's own contract.
    if member.link == Link::None || (member.all && !unsafe { is_one_step(&member.request) }) {
        return None;
    }
    Some(if soft { squeue::Flags::IO_LINK } else { squeue::Flags::IO_HARDLINK })
}

/// Whether the kernel can transfer all of it at once.
///
/// # Safety
/// What the request points to is valid.
#[allow(clippy::unnecessary_cast, reason = "not the same type with every libc")]
unsafe fn is_one_step(request: &Request) -> bool {
    let (vectors, count) = match *request {
        Request::Recv { len, .. } | Request::Send { len, .. } => return len <= TRANSFER_MAX,
        Request::Read { vectors, count, .. }
        | Request::Write { vectors, count, .. }
        | Request::ReadStream { vectors, count, .. }
        | Request::WriteStream { vectors, count, .. } => (vectors.cast_const(), count),
        Request::RecvMsg { msg, more, .. } => {
            // SAFETY: valid by this function's contract.
            let msg = unsafe { &*msg };
            (msg.msg_iov.cast_const(), msg.msg_iovlen as usize + more)
        }
        Request::SendMsg { msg, more, .. } => {
            // SAFETY: as above.
            let msg = unsafe { &*msg };
            (msg.msg_iov.cast_const(), msg.msg_iovlen as usize + more)
        }
        _ => return true,
    };
    // SAFETY: as above; a null pointer goes with a count of zero.
    let vectors = if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(vectors, count) } };
    let total = vectors.iter().fold(0_usize, |sum, vector| sum.saturating_add(vector.iov_len));
    count <= VECTORS_MAX && total <= TRANSFER_MAX
}

/// The same request for a kernel that is to transfer all of it, or call it a failure.
fn whole(mut request: Request) -> Request {
    if let Request::Recv { flags, .. }
    | Request::Send { flags, .. }
    | Request::RecvMsg { flags, .. }
    | Request::SendMsg { flags, .. } = &mut request
    {
        *flags |= libc::MSG_WAITALL;
    }
    request
}

impl Uring {
    /// See [`Backend::submit_chain`](crate::backend::Backend::submit_chain).
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn link(&mut self, chain: &[Chained]) -> usize {
        // SAFETY: passed on from this function's own contract.
        let fits = |at: &usize| unsafe { joins(&chain[*at].request, &self.ways) };
        // SAFETY: as above.
        let linked = |at: &usize| *at == 0 || unsafe { link_flag(&chain[*at - 1]) }.is_some();
        let taken = (0..chain.len()).take_while(|at| fits(at) && linked(at)).count();
        if taken < 2 || !self.lanes.enter_if_free(chain[0].id, lane_of(&chain[0].request), &chain[0].request)
        {
            return 0;
        }
        self.backlog.begin_chain(taken);
        for (at, member) in chain[..taken].iter().enumerate() {
            let last = at + 1 == taken;
            let request = if member.all && !last { whole(member.request) } else { member.request };
            // SAFETY: passed on from this function's own contract.
            let entry = unsafe { sqe::entry(&request) }.user_data(member.id.to_bits());
            // SAFETY: as above.
            let flag = if last { None } else { unsafe { link_flag(member) } };
            let entry = entry.flags(flag.unwrap_or(squeue::Flags::empty()));
            let slot = super::slot_for(&mut self.slots, member.id);
            *slot = Slot {
                request: member.request,
                generation: member.id.generation,
                stage: Stage::Native,
                lane: lane_of(&member.request),
                entry: self.backlog.push(entry),
                behind: at > 0,
                next: (!last).then(|| chain[at + 1].id),
                ..Slot::free()
            };
        }
        taken
    }

    /// Takes all that follow an entry out of the backlog as well, where it was: it would not hold them up any more.
    pub(super) fn revoke_followers(&mut self, of: usize) {
        let mut next = self.slots[of].next.take();
        while let Some(id) = next {
            let slot = &mut self.slots[id.index as usize];
            self.backlog.revoke(slot.entry);
            slot.stage = Stage::Free;
            (slot.behind, slot.lane) = (false, LaneId::NONE);
            self.unbegun.push(id);
            next = slot.next.take();
        }
    }
}

/// An operation is over: lets whoever waited for its turn have it.
pub(super) fn give_way(id: OpId, parts: &mut Parts<'_>, done: &mut Completions) {
    let slot = &mut parts.slots[id.index as usize];
    // One that was torn off never had a turn.
    let lane = if std::mem::take(&mut slot.behind) { LaneId::NONE } else { slot.lane };
    let next = slot.next.take();
    if std::mem::take(&mut slot.queued) {
        parts.lanes.give_up(id, lane);
    }
    // It may have been torn off, and begun anew meanwhile.
    let next = next.filter(|next| {
        let slot = &parts.slots[next.index as usize];
        slot.generation == next.generation && slot.behind
    });
    if let Some(next) = next {
        let follower = &mut parts.slots[next.index as usize];
        follower.behind = false;
        if follower.lane == lane && parts.lanes.hand_on(id, lane, next) {
            return;
        }
    }
    if let Some(waiting) = parts.lanes.leave(id, lane) {
        advance(waiting, parts, done);
    }
    if let Some(next) = next {
        let follower = &mut parts.slots[next.index as usize];
        follower.queued = !parts.lanes.enter(next, follower.lane, &follower.request);
    }
}
