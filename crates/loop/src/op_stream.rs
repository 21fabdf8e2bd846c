//! A stream as a value: its items wait until they are asked for, in pull or blocking style, or by a future.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::current;
use crate::event_loop::Loop;
use crate::flow::Flow;
use crate::op::Streaming;
use crate::operation::OpId;
use crate::wait::{Suspend, Wakeup};

/// A [stream of items](Streaming) under way, which can be taken
///
/// - in blocking style, as from any [`Iterator`]: `next` suspends the current task, or drives the loop on a plain thread;
/// - pull style, with [`try_next`](OpStream::try_next), while somebody drives the loop;
/// - by a future, with [`poll_next`](OpStream::poll_next), or with the feature `stream` as a `futures_core::Stream`.
///
/// Made by [`Loop::stream`], or by `into_iter` of an operation, and then begun with the first item that is asked for, on
/// the thread's [current loop](Loop::current).
///
/// Dropping it [removes](Loop::remove) the operation, and drops the items that were not taken. Taking items is
/// cancel-safe: one that was not returned is there for the next call.
#[must_use = "dropping a stream removes its operation"]
pub struct OpStream<O: Streaming + 'static> {
    state: State<O>,
}

enum State<O: Streaming + 'static> {
    Unbegun(O),
    Begun { loop_: Loop, id: OpId, flow: Rc<Flow>, shared: Rc<Shared<O::Item>> },
    Over,
}

/// What the loop's callback and the stream share.
struct Shared<T> {
    items: RefCell<VecDeque<io::Result<T>>>,
    ended: Cell<bool>,
    wake: Cell<Wake>,
}

/// Who waits for the next item.
#[derive(Default)]
enum Wake {
    #[default]
    Nobody,
    Task(Wakeup),
    Future(Waker),
}

impl<T> Shared<T> {
    fn notify(&self) {
        match self.wake.take() {
            Wake::Nobody => {}
            // SAFETY: by `Suspend`'s contract the wake-up is valid while the task is in the wait that asked for it: a wait
            // takes it out again before it returns.
            Wake::Task(Wakeup { data, wake }) => unsafe { wake(data) },
            Wake::Future(waker) => waker.wake(),
        }
    }
}

/// The callback's share: when it is dropped, there will be no more items, for whatever reason.
struct Feed<T>(Rc<Shared<T>>);

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        self.0.ended.set(true);
        self.0.notify();
    }
}

impl Loop {
    /// Begins a stream whose items are taken when it suits. Dropping it [removes](Loop::remove) the operation.
    pub fn stream<O: Streaming>(&self, op: O) -> OpStream<O::Owned>
    where
        O::Item: 'static,
    {
        let mut stream = OpStream::new(op.detach());
        stream.begin(self);
        stream
    }
}

impl<O: Streaming + 'static> OpStream<O> {
    pub(crate) fn new(op: O) -> OpStream<O> {
        OpStream { state: State::Unbegun(op) }
    }

    fn begin(&mut self, loop_: &Loop) {
        let State::Unbegun(mut op) = std::mem::replace(&mut self.state, State::Over) else { return };
        let (items, ended, wake) = Default::default();
        let shared = Rc::new(Shared { items, ended, wake });
        let (flow, feed) = (op.flow().clone(), Feed(shared.clone()));
        let id = loop_.submit_detached(op, move |_, item| {
            if let Some(item) = item {
                feed.0.items.borrow_mut().push_back(item);
                feed.0.notify();
            }
            ControlFlow::Continue(())
        });
        self.state = State::Begun { loop_: loop_.clone(), id, flow, shared };
    }

    /// The loop that it is on, begun if it was not.
    fn loop_(&mut self) -> io::Result<Loop> {
        if let State::Begun { loop_, .. } = &self.state {
            return Ok(loop_.clone());
        }
        match current::get() {
            Ok(loop_) => {
                self.begin(&loop_);
                Ok(loop_)
            }
            Err(error) => {
                self.state = State::Over;
                Err(error)
            }
        }
    }

    /// The operation's id, for [`Loop::cancel`], once it has begun.
    pub fn id(&self) -> Option<OpId> {
        match &self.state {
            State::Begun { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// The next item, if it is there; `Ready(None)` after the last one. Somebody has to drive the loop meanwhile.
    pub fn try_next(&mut self) -> Poll<Option<io::Result<O::Item>>> {
        if let State::Unbegun(_) = self.state
            && let Err(error) = self.loop_()
        {
            return Poll::Ready(Some(Err(error)));
        }
        let State::Begun { flow, shared, .. } = &self.state else { return Poll::Ready(None) };
        let item = shared.items.borrow_mut().pop_front();
        match item {
            Some(item) => {
                flow.refund();
                Poll::Ready(Some(item))
            }
            None if shared.ended.get() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// The next item as a future asks for it; the last waker is woken when it is there.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<O::Item>>> {
        let next = self.try_next();
        if let (Poll::Pending, State::Begun { shared, .. }) = (&next, &self.state) {
            shared.wake.set(Wake::Future(cx.waker().clone()));
        }
        next
    }

    /// Suspends the current task until there is news, or it is cancelled.
    fn suspend(&self, hook: &'static dyn Suspend, wakeup: Wakeup) {
        let State::Begun { shared, .. } = &self.state else { return };
        shared.wake.set(Wake::Task(wakeup));
        while shared.items.borrow().is_empty() && !shared.ended.get() && !hook.is_canceled() {
            hook.suspend();
        }
        shared.wake.take();
    }
}

/// In blocking style: the next item, as soon as it is there.
///
/// Errors are items. Besides the operation's own there may be some of the wait, after which the stream is as it was:
/// [`is_canceled`](crate::is_canceled) if the current task is; `ResourceDeadlock` inside a callback of the loop, and in a
/// task that unwinds; those of [`Loop::tick`].
impl<O: Streaming + 'static> Iterator for OpStream<O> {
    type Item = io::Result<O::Item>;

    fn next(&mut self) -> Option<io::Result<O::Item>> {
        loop {
            let hook = current::hook();
            let waiter = hook.map(|hook| (hook, hook.current()));
            let task = waiter.and_then(|(hook, waiter)| Some((hook, waiter.task?)));
            let next = if waiter.is_some_and(|(_, waiter)| waiter.canceled) {
                Poll::Ready(Some(Err(canceled_error())))
            } else {
                self.try_next()
            };
            if let Poll::Ready(item) = next {
                if let Some((hook, _)) = task {
                    // A task that always finds something must not keep the others from running.
                    hook.completed_inline();
                }
                return item;
            }
            let loop_ = match self.loop_() {
                Ok(loop_) => loop_,
                Err(error) => return Some(Err(error)),
            };
            match task {
                Some((hook, wakeup)) if current::is_tasks_loop(&loop_) => {
                    if loop_.is_ticking() || std::thread::panicking() {
                        // Nobody else may run now, and it is others who bring items.
                        return Some(Err(io::Error::from_raw_os_error(libc::EDEADLK)));
                    }
                    self.suspend(hook, wakeup);
                }
                _ => {
                    if let Err(error) = loop_.tick(None) {
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}

fn canceled_error() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

#[cfg(feature = "stream")]
impl<O: Streaming + 'static> futures_core::Stream for OpStream<O> {
    type Item = io::Result<O::Item>;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<O::Item>>> {
        OpStream::poll_next(self.get_mut(), cx)
    }
}

// Nothing is pinned: the operation moves into the loop before it begins.
impl<O: Streaming + 'static> Unpin for OpStream<O> {}

impl<O: Streaming + 'static> Drop for OpStream<O> {
    fn drop(&mut self) {
        if let State::Begun { loop_, id, shared, .. } = &self.state {
            loop_.remove(*id);
            // The callback, which has the other share, is there until the operation is over.
            drop(shared.items.take());
        }
    }
}

impl<O: Streaming + 'static> std::fmt::Debug for OpStream<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpStream").field("id", &self.id()).finish_non_exhaustive()
    }
}
