//! Waiting as a future, for one thing.

use std::future::Future;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Arm, Entered, Waiter};

/// The future of an arm. Dropped, it leaves its queue, and gives back what it was given at that moment.
pub(crate) struct Waiting<A: Arm> {
    arm: A,
    /// There while it is queued.
    waiter: Option<Waiter>,
    finished: bool,
    /// The queue knows the arm's address.
    _pinned: PhantomPinned,
}

impl<A: Arm> Waiting<A> {
    pub(crate) fn new(arm: A) -> Waiting<A> {
        Waiting { arm, waiter: None, finished: false, _pinned: PhantomPinned }
    }
}

impl<A: Arm> Future for Waiting<A> {
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A::Output> {
        // SAFETY: neither arm nor waiter is moved while it is queued.
        let this = unsafe { self.get_unchecked_mut() };
        assert!(!this.finished, "polled after it was ready");
        if let Some(waiter) = &this.waiter {
            if !waiter.poll(context.waker()) {
                return Poll::Pending;
            }
            this.waiter = None;
            if let Some(output) = this.arm.finish() {
                this.finished = true;
                return Poll::Ready(output);
            }
        }
        let done = this.arm.attempt().or_else(|| {
            let waiter = this.waiter.insert(Waiter::future(context.waker()));
            // SAFETY: pinned, and `drop` leaves the queue.
            match unsafe { this.arm.enter(waiter, 0, true) } {
                Entered::Done(output) => {
                    this.waiter = None;
                    Some(output)
                }
                Entered::Queued => None,
                Entered::Ready => unreachable!("an arm that is alone is done if it can be"),
            }
        });
        match done {
            Some(output) => {
                this.finished = true;
                Poll::Ready(output)
            }
            None => Poll::Pending,
        }
    }
}

impl<A: Arm> Drop for Waiting<A> {
    fn drop(&mut self) {
        let Some(waiter) = &self.waiter else { return };
        if !waiter.end() {
            self.arm.leave();
        } else if let Some(output) = self.arm.finish() {
            self.arm.give_back(output);
        } else {
            // It was told to try again: so that the next one is told, it does.
            if let Some(output) = self.arm.attempt() {
                self.arm.give_back(output);
            }
        }
    }
}
