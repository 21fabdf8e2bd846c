//! Streams on the ring: multishot entries, and what keeps them going.
//!
//! One entry of the kernel's makes any number of completions; all but the last carry `F_MORE`. The kernel ends such an
//! entry when it likes: the completion queue is full, the buffers are used up, too much came at once. Then the stream
//! is begun again under the same name, after what came with the last completion, so nothing is lost or out of order. A
//! receive picks its buffer from the ring of a pool ([`buffers`](crate::buffers)) when something arrives.
//!
//! Receives are multishot on sockets of the internet's families only. On Unix sockets a kernel may never tell of an end that
//! follows close upon the last bytes (liburing issue 1549, Linux 6.18 here; later ones may be repaired, and cannot be asked).
//! Those get one entry a piece, with buffers from the same ring.
//!
//! A stream that may bring nothing more at present is cancelled, and rests, still having its lane's turn. Every wait
//! looks whether one may go on.
//!
//! A kernel without multishot, or that will not register the buffers, is sent a poll instead, and the calls are made here
//! ([`parts`](crate::backend::parts)).

use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue};

use super::queue::Queue;
use super::{Cqe, Slot, Stage, Uring, cancel, readiness, sqe};
use crate::backend::Completions;
use crate::backend::attempt::attempt;
use crate::backend::parts::{Served, serve_parts};
use crate::buffers::Pool;
use crate::operation::{Flow, OpId, Request, Support};

/// What a stream needs of its backend.
pub(super) struct Rest<'a> {
    pub(super) backlog: &'a mut Queue,
    pub(super) resting: &'a mut std::collections::VecDeque<OpId>,
    pub(super) ways: &'a mut [Support],
    pub(super) syscalls: &'a mut u64,
    pub(super) done: &'a mut Completions,
    pub(super) flags: squeue::Flags,
}

impl Slot {
    /// Begins a stream, or goes on with it: the entry that does so. By hand, its calls are made when that completes, and
    /// only then, since they would bring parts.
    ///
    /// # Safety
    /// As for [`Backend::submit`](crate::backend::Backend::submit).
    pub(super) unsafe fn begin_stream(&mut self, ways: &[Support]) -> squeue::Entry {
        (self.pausing, self.fed) = (false, false);
        let native = ways[self.request.kind() as usize] == Support::Native;
        // SAFETY: passed on from this function's own contract.
        if native && unsafe { has_buffers(&self.request) } {
            self.stage = Stage::Multishot;
            // SAFETY: as above.
            unsafe { sqe::entry(&self.request) }
        } else {
            self.stage = Stage::Watching;
            opcode::Nop::new().build()
        }
    }

    /// Takes note of a stream's completion from the ring: the stream's result if it is over.
    #[cold]
    pub(super) fn take_part(&mut self, id: OpId, completion: &Cqe, rest: &mut Rest<'_>) -> Option<i32> {
        let over = match self.stage {
            Stage::Watching => self.watched(id, completion.result, rest),
            _ => self.shot(id, completion, rest),
        };
        if over.is_some() {
            self.stage = Stage::Free;
        }
        over
    }

    /// A poll has completed, or it is time for a first look.
    fn watched(&mut self, id: OpId, result: i32, rest: &mut Rest<'_>) -> Option<i32> {
        match -result {
            _ if self.cancelled => return Some(-libc::ECANCELED),
            libc::EINTR | libc::EAGAIN => self.watch(id, rest),
            // What cannot be polled is no socket: as the call would have said.
            libc::EPERM => return Some(-libc::ENOTSOCK),
            _ if result < 0 => return Some(result),
            // SAFETY: the stream has not completed, so its submitter's promise holds.
            _ => match unsafe { serve_parts(id, &self.request, true, rest.syscalls, rest.done) } {
                Served::Over(result) => return Some(result),
                Served::Resting => self.rest(id, rest),
                // If there is more, the poll completes at once.
                Served::Empty | Served::Short | Served::More => self.watch(id, rest),
            },
        }
        None
    }

    /// A multishot entry has brought something, or has ended, or both.
    fn shot(&mut self, id: OpId, completion: &Cqe, rest: &mut Rest<'_>) -> Option<i32> {
        let Cqe { result, flags, .. } = *completion;
        // SAFETY: the stream has not completed, so its flow is valid.
        let flow = unsafe { flow(&self.request) };
        let receives = matches!(self.request, Request::RecvMulti { .. });
        // Nothing is received into a buffer that is somebody's, or beyond its end, or into none.
        let buffer =
            cqueue::buffer_select(flags).filter(|buffer| receives && flow.pool().is_in_ring(*buffer));
        if let Some(buffer) = buffer {
            flow.pool().picked(buffer);
        }
        let fits = !receives || (buffer.is_some() && result as usize <= flow.pool().size());
        let part = if receives { result > 0 } else { result >= 0 };
        if part && fits {
            rest.done.push_part(id, result, buffer, flow);
            self.fed = true;
        } else if let Some(buffer) = buffer {
            flow.give_back(buffer);
        }
        // Bytes went somewhere else: there is no going on as if they had not.
        self.broken |= part && !fits;
        if cqueue::more(flags) {
            if !((flow.is_open() && !self.broken) || self.pausing || self.cancelled) {
                self.pausing = true;
                rest.backlog.push(cancel(id, rest.flags));
            }
            return None;
        }
        if self.broken {
            return Some(-libc::EIO);
        }
        match -result {
            // Kernels before 6.5 say ENOBUFS when a receive is cancelled.
            libc::ECANCELED | libc::ENOBUFS | libc::EAGAIN | libc::EINTR if self.cancelled => {
                return Some(-libc::ECANCELED);
            }
            _ if part && self.cancelled => return Some(-libc::ECANCELED),
            _ if part => self.go_on(id, rest),
            libc::ENOBUFS if receives => {
                flow.pool().fill();
                self.rest(id, rest);
            }
            libc::ECANCELED if self.pausing => self.rest(id, rest),
            libc::EAGAIN | libc::EINTR => self.go_on(id, rest),
            libc::ECONNABORTED if !receives && !self.cancelled => self.go_on(id, rest),
            libc::EINVAL if !self.cancelled && is_unknown(&self.request, rest.syscalls) => {
                rest.ways[self.request.kind() as usize] = Support::Readiness;
                // Its buffers have to be taken out of the ring first.
                self.rest(id, rest);
            }
            _ => return Some(result),
        }
        None
    }

    /// Asks the kernel again, behind all that it has brought.
    fn go_on(&mut self, id: OpId, rest: &mut Rest<'_>) {
        // SAFETY: the stream has not completed, so its flow is valid.
        if !unsafe { flow(&self.request) }.is_open() {
            return self.rest(id, rest);
        }
        // SAFETY: as above, of all that it points to.
        let entry = unsafe { self.begin_stream(rest.ways) };
        self.entry = rest.backlog.push(entry.user_data(id.to_bits()));
    }

    /// Has the kernel tell when there may be more.
    fn watch(&mut self, id: OpId, rest: &mut Rest<'_>) {
        self.entry = rest.backlog.push(readiness(&self.request).user_data(id.to_bits()));
    }

    fn rest(&mut self, id: OpId, rest: &mut Rest<'_>) {
        self.stage = Stage::Resting;
        rest.resting.push_back(id);
    }
}

impl Uring {
    /// Lets streams go on that may. True if one is left that may, and has to wait for its turn: those who want a buffer go
    /// on as many at a time as there are buffers, and first those who got none the last time.
    pub(super) fn resume(&mut self) -> bool {
        let mut promised = Vec::new();
        // Not an "or" that spares the second.
        self.resume_some(false, &mut promised) | self.resume_some(true, &mut promised)
    }

    fn resume_some(&mut self, fed: bool, promised: &mut Vec<(*const Pool, usize)>) -> bool {
        let mut left = false;
        for _ in 0..self.resting.len() {
            let Some(id) = self.resting.pop_front() else { break };
            let slot = &self.slots[id.index as usize];
            if slot.generation != id.generation || slot.stage != Stage::Resting {
                continue;
            }
            if slot.fed != fed {
                self.resting.push_back(id);
                continue;
            }
            // SAFETY: the stream has not completed, so its flow is valid.
            let flow = unsafe { flow(&slot.request) };
            if !flow.may_resume() {
                self.resting.push_back(id);
                continue;
            }
            if matches!(slot.request, Request::RecvMulti { .. }) {
                let pool = flow.pool().clone();
                let at =
                    promised.iter().position(|(other, _)| *other == Rc::as_ptr(&pool)).unwrap_or_else(|| {
                        promised.push((Rc::as_ptr(&pool), 0));
                        promised.len() - 1
                    });
                if promised[at].1 == pool.available() {
                    left = true;
                    self.resting.push_back(id);
                    continue;
                }
                promised[at].1 += 1;
                self.prepare(&pool);
            }
            let slot = &mut self.slots[id.index as usize];
            // SAFETY: as above, of all that it points to.
            let entry = unsafe { slot.begin_stream(&self.ways) };
            slot.entry = self.backlog.push(entry.user_data(id.to_bits()));
        }
        left
    }

    /// Sees to it that a pool is registered if the kernel can use it, and is not if it cannot.
    pub(super) fn prepare(&mut self, pool: &Rc<Pool>) {
        let native = self.ways[crate::operation::Kind::RecvMulti as usize] == Support::Native;
        if native == pool.group().is_some() {
            return;
        }
        if let Some(group) = pool.group() {
            self.withdraw(group);
            return;
        }
        for group in 0..self.pools.len() {
            // Nobody else has it any more.
            if self.pools[group].as_ref().is_some_and(|pool| Rc::strong_count(pool) == 1) {
                self.withdraw(group as u16);
            }
        }
        let free = self.pools.iter().position(Option::is_none);
        let Ok(group) = u16::try_from(free.unwrap_or(self.pools.len())) else { return };
        self.syscalls += 1;
        // SAFETY: the pool makes a ring of its free buffers, and keeps it, until `withdraw`; we keep the pool.
        let registered = pool
            .register(group, |start, entries| unsafe { self.ring.register_buffers(start, entries, group) });
        // Where it is refused, the streams are served by hand.
        if registered.is_ok() {
            match self.pools.get_mut(usize::from(group)) {
                Some(place) => *place = Some(pool.clone()),
                None => self.pools.push(Some(pool.clone())),
            }
        }
    }

    /// Takes the buffers of a group back from the kernel.
    fn withdraw(&mut self, group: u16) {
        let Some(pool) = self.pools[usize::from(group)].take() else { return };
        self.syscalls += 1;
        if self.ring.unregister_buffers(group).is_err() {
            // It has them still: leave them to it.
            std::mem::forget(pool);
            return;
        }
        pool.withdraw();
    }
}

impl Drop for Uring {
    /// Chunks may outlive the ring: they are given back to the pool.
    fn drop(&mut self) {
        for group in 0..self.pools.len() {
            self.withdraw(group as u16);
        }
    }
}

/// The flow of a stream.
///
/// # Safety
/// The stream has not completed.
unsafe fn flow<'a>(request: &Request) -> &'a Flow {
    // SAFETY: valid until the stream completes, by the contract of `submit`.
    unsafe { &*request.flow().expect("a stream has a flow") }
}

/// Whether the kernel finds the buffers of a stream, if it needs any.
///
/// # Safety
/// The stream has not completed.
unsafe fn has_buffers(request: &Request) -> bool {
    // SAFETY: the caller's promise.
    !matches!(request, Request::RecvMulti { .. }) || unsafe { flow(request) }.pool().group().is_some()
}

/// Whether EINVAL means that the kernel does not know of multishot, since it has nothing against the call itself.
pub(super) fn is_unknown(request: &Request, syscalls: &mut u64) -> bool {
    match *request {
        Request::RecvMulti { handle, .. } => {
            let mut byte = 0;
            let peek = Request::Recv { handle, buf: &raw mut byte, len: 1, flags: libc::MSG_PEEK };
            // SAFETY: `byte` is one, and ours; the descriptor is open, since the stream has not completed.
            unsafe { attempt(&peek, false, syscalls) != Some(-libc::EINVAL) }
        }
        Request::AcceptMulti { handle, .. } => {
            *syscalls += 1;
            // SAFETY: the descriptor is open, since the stream has not completed.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(handle.fd) };
            rustix::net::sockopt::socket_acceptconn(fd) == Ok(true)
        }
        _ => false,
    }
}
