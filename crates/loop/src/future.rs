//! Future style: an operation with owned buffers as a [`Future`].
//!
//! The loop keeps the operation, so the future may be dropped, or forgotten, at any moment: the kernel never writes to
//! freed memory, and what a late result brings is cleaned up.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::current;
use crate::event_loop::Loop;
use crate::op::{Operation, Outcome};
use crate::operation::OpId;

/// An operation as a future. Begins when first polled, on the polling thread's [current loop](Loop::current), which
/// somebody has to drive. Dropping it [removes](Loop::remove) the operation.
///
/// Not `Send`: the loop belongs to its thread.
///
/// # Panics
/// When polled again after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct OpFuture<O: Operation + 'static> {
    state: State<O>,
}

enum State<O: Operation + 'static> {
    Unpolled(O),
    Pending { loop_: Loop, id: OpId, shared: Rc<RefCell<Shared<O::Output>>> },
    Done,
}

struct Shared<T> {
    output: Option<T>,
    waker: Waker,
}

// Nothing is pinned: the operation moves into the loop before it begins.
impl<O: Operation + 'static> Unpin for OpFuture<O> {}

impl<O: Operation + 'static> OpFuture<O> {
    pub(crate) fn new(op: O) -> OpFuture<O> {
        OpFuture { state: State::Unpolled(op) }
    }
}

impl<O: Operation + 'static> Future for OpFuture<O> {
    type Output = O::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let this = self.get_mut();
        match std::mem::replace(&mut this.state, State::Done) {
            State::Unpolled(op) => {
                let loop_ = match current::get() {
                    Ok(loop_) => loop_,
                    Err(error) => {
                        return Poll::Ready(
                            op.finish(Outcome::error(error.raw_os_error().unwrap_or(libc::EIO))),
                        );
                    }
                };
                let shared = Rc::new(RefCell::new(Shared { output: None, waker: cx.waker().clone() }));
                let to = shared.clone();
                let id = loop_.submit_owned(op, move |_, output| {
                    let waker = {
                        let mut to = to.borrow_mut();
                        to.output = Some(output);
                        std::mem::replace(&mut to.waker, Waker::noop().clone())
                    };
                    waker.wake();
                });
                this.state = State::Pending { loop_, id, shared };
                Poll::Pending
            }
            State::Pending { loop_, id, shared } => {
                let output = {
                    let mut shared = shared.borrow_mut();
                    if shared.output.is_none() {
                        shared.waker.clone_from(cx.waker());
                    }
                    shared.output.take()
                };
                match output {
                    Some(output) => Poll::Ready(output),
                    None => {
                        this.state = State::Pending { loop_, id, shared };
                        Poll::Pending
                    }
                }
            }
            State::Done => panic!("an operation's future was polled after it was ready"),
        }
    }
}

impl<O: Operation + 'static> Drop for OpFuture<O> {
    fn drop(&mut self) {
        if let State::Pending { loop_, id, .. } = &self.state {
            loop_.remove(*id);
        }
    }
}

impl<O: Operation + 'static> std::fmt::Debug for OpFuture<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpFuture")
    }
}
