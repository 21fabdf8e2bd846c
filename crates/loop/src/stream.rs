//! Streams in the core, and their callback face: one payload that is called for every part.

use std::cell::RefCell;
use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;

use crate::backend::Completion;
use crate::core::{Core, dispatch, is_exhaustion, take};
use crate::event_loop::Loop;
use crate::op::{Outcome, Part, Streaming};
use crate::operation::{OpId, Request};
use crate::slots::{PayloadType, Phase, Sink, Why};

impl Loop {
    /// Begins a stream; `callback` gets each item as it comes, later, on this thread, from [`tick`](Loop::tick) or
    /// [`run`](Loop::run), and at the end `None`, once. With `Break` it ends the stream, and is not called again; nor is
    /// it after [`remove`](Loop::remove), or if it panics. [`cancel`](Loop::cancel) makes the stream end with an error
    /// that [`is_canceled`](crate::is_canceled).
    ///
    /// Items that come after the end was asked for are dropped: connections are closed, buffers go back to their pool.
    ///
    /// ```
    /// # use std::{io::Write, net::TcpStream, ops::ControlFlow, os::fd::OwnedFd};
    /// # use towpath_loop::{Loop, Socket, op};
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let addr = listener.local_addr()?;
    /// let loop_ = Loop::new()?;
    /// let mut left = 2;
    /// loop_.submit_stream(op::accept_multi(Socket::from(OwnedFd::from(listener))), move |_, socket| {
    ///     assert!(socket.is_some_and(|socket| socket.is_ok()));
    ///     left -= 1;
    ///     if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    /// });
    /// let clients = [TcpStream::connect(addr)?, TcpStream::connect(addr)?];
    /// loop_.run()?; // until the stream has ended
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn submit_stream<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Streaming,
        F: FnMut(&Loop, Option<io::Result<O::Item>>) -> ControlFlow<()> + 'static,
    {
        let mut op = op.detach();
        // Every item is taken as it comes.
        let flow = op.flow();
        *flow = Rc::new(flow.with_bound(None));
        self.submit_detached(op, callback)
    }

    pub(crate) fn submit_detached<O, F>(&self, op: O, callback: F) -> OpId
    where
        O: Streaming + 'static,
        F: FnMut(&Loop, Option<io::Result<O::Item>>) -> ControlFlow<()> + 'static,
    {
        let mut core = self.0.core.borrow_mut();
        if self.is_child() {
            core.limit = 0;
        }
        core.begin_stream(op, callback)
    }

    /// Delivers a part, or drops it if nobody wants it any more.
    #[cold]
    pub(crate) fn deliver_part(&self, completion: Completion, discard: bool) {
        let Completion { id, result, .. } = completion;
        let part = Part { result, buffer: completion.buffer() };
        let found = self.0.core.borrow_mut().slots.get(id).map(|slot| (slot.sink, slot.flags.removed));
        let Some((Sink::Payload { kind, place, .. }, removed)) = found else {
            unreachable!("a part of {id:?}, which is over")
        };
        let run = kind.part.expect("only streams have parts");
        // SAFETY: the stream's completion comes after its parts, so its payload is still in its place; `kind` was made
        // for it.
        unsafe { run(place.as_ptr(), self, id, part, removed || discard) }
    }
}

impl Core {
    /// Begins a stream whose items go to a callback.
    fn begin_stream<O, F>(&mut self, op: O, callback: F) -> OpId
    where
        O: Streaming + 'static,
        F: FnMut(&Loop, Option<io::Result<O::Item>>) -> ControlFlow<()> + 'static,
    {
        let options = op.options();
        let id = self.slots.take();
        let payload = Payload { op, callback: Rc::new(RefCell::new(callback)) };
        let place = self.slots.place(id, payload_type::<O, F>(), payload);
        // SAFETY: just written, at the place that it keeps; nobody else refers to it yet.
        let op = unsafe { &mut (*place.as_ptr()).op };
        let started = self.admit(id, 0, |begin| op.start(begin));
        if let Some(result) = self.begin(id, started, options) {
            self.finish_later(id, result);
        }
        id
    }

    /// Whether a stream of connections goes on after this result: it was one connection's trouble, or a want that time
    /// may mend. Then it is held back, and its error becomes an item.
    pub(crate) fn outlives(request: &Request, result: i32) -> bool {
        let one_connections = matches!(
            result.wrapping_neg(),
            libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
        );
        matches!(request, Request::AcceptMulti { .. }) && (one_connections || is_exhaustion(result))
    }

    /// The moment for which a stream of connections was held back is over: tells why, and goes on. Unless it was the
    /// stream's last.
    pub(crate) fn accept_again(&mut self, id: OpId) {
        let deadline = match self.held.iter().position(|(held, _)| *held == id) {
            Some(at) => self.held.swap_remove(at).1,
            None => u64::MAX,
        };
        if deadline <= self.now {
            self.cancel(id, Why::TimedOut);
            return;
        }
        if deadline != u64::MAX {
            self.wheel.arm(&mut self.slots, id.index, deadline);
        }
        let slot = self.slots.at(id.index);
        let result = slot.word as i32;
        if let Some(flow) = slot.request.flow() {
            // SAFETY: the operation is in flight, so its payload has the flow.
            self.done.push_part(id, result, None, unsafe { &*flow });
        }
        slot.phase = Phase::Starting;
        if let Some(result) = dispatch(&mut *self.backend, &mut self.offload, id, slot, false) {
            self.finish_later(id, result);
        }
    }
}

/// A stream and what is to be done with its items. The callback is shared with the call that is under way, for a callback
/// may close the loop, and thereby end the stream.
struct Payload<O, F> {
    op: O,
    callback: Rc<RefCell<F>>,
}

fn payload_type<O, F>() -> &'static PayloadType
where
    O: Streaming + 'static,
    F: FnMut(&Loop, Option<io::Result<O::Item>>) -> ControlFlow<()> + 'static,
{
    /// # Safety
    /// As [`take`], of a payload of these types.
    unsafe fn deliver<O, F>(place: *mut u8, loop_: &Loop, id: OpId, outcome: Outcome)
    where
        O: Streaming,
        F: FnMut(&Loop, Option<io::Result<O::Item>>) -> ControlFlow<()>,
    {
        // SAFETY: the caller's promise.
        let Payload { op, callback } = unsafe { take::<Payload<O, F>>(place, loop_, id) };
        drop(op);
        let mut callback = callback.borrow_mut();
        if let Err(error) = outcome.value()
            && callback(loop_, Some(Err(error))).is_break()
        {
            return;
        }
        let _ = callback(loop_, None);
    }
    /// # Safety
    /// As [`take`], of a payload of these types.
    unsafe fn discard<O, F>(place: *mut u8, loop_: &Loop, id: OpId, _: Outcome) {
        // SAFETY: the caller's promise.
        drop(unsafe { take::<Payload<O, F>>(place, loop_, id) });
    }
    /// # Safety
    /// `place` holds a payload of these types.
    unsafe fn part<O, F>(place: *mut u8, loop_: &Loop, id: OpId, part: Part, discard: bool)
    where
        O: Streaming,
        F: FnMut(&Loop, Option<io::Result<O::Item>>) -> ControlFlow<()>,
    {
        // SAFETY: the caller's promise. It is referred to no more when the callback runs, which may end it.
        let Payload { op, callback } = unsafe { &*place.cast::<Payload<O, F>>() };
        let item = op.item(part);
        if discard {
            return;
        }
        let callback = callback.clone();
        let ending = Ending { loop_, id };
        let flow = callback.borrow_mut()(loop_, Some(item));
        if flow.is_continue() {
            std::mem::forget(ending);
        }
    }
    const { &PayloadType { deliver: deliver::<O, F>, discard: discard::<O, F>, part: Some(part::<O, F>) } }
}

/// Ends a stream when dropped: its callback wants no more, or has panicked.
struct Ending<'a> {
    loop_: &'a Loop,
    id: OpId,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.loop_.remove(self.id);
    }
}
