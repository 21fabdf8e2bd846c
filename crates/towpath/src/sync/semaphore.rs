//! Permits, of which one can take several at once.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::std_or_loom::{Lock, const_fn, lock};
use crate::wait::{Arm, Entered, Limit, Node, Queue, Waiter, Waiting, WakeList, block};
use crate::why::{Reason, Why};

/// A number of permits, to limit how much goes on at once.
///
/// First come, first served, however much each asks for: one who wants many is not overtaken for ever by those who want
/// few. [`try_acquire`](Semaphore::try_acquire) does not overtake either.
///
/// ```
/// use towpath::sync::{Arc, Semaphore};
/// use towpath::thread;
///
/// # fn main() -> std::io::Result<()> {
/// let downloads = Arc::new(Semaphore::new(4));
/// let tasks: Vec<_> = (0..20)
///     .map(|_| {
///         let downloads = downloads.clone();
///         thread::spawn(move || {
///             let _permit = downloads.acquire(1)?;
///             // At most four at a time.
///             std::io::Result::Ok(())
///         })
///     })
///     .collect();
/// for task in tasks {
///     task.join().unwrap()?;
/// }
/// assert_eq!(downloads.available_permits(), 4);
/// # Ok(())
/// # }
/// ```
pub struct Semaphore(Lock<State>);

struct State {
    permits: usize,
    closed: bool,
    queue: Queue<Demand>,
}

/// What a node asks for.
struct Demand {
    count: usize,
    /// What it was woken with; `Err` if the semaphore was closed.
    outcome: Result<(), Closed>,
}

/// Nothing is given out any more.
#[derive(Clone, Copy)]
pub(crate) struct Closed;

impl From<Closed> for io::Error {
    fn from(_: Closed) -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, "the semaphore is closed")
    }
}

impl Semaphore {
    /// The most permits that there can be.
    pub const MAX_PERMITS: usize = usize::MAX >> 3;

    const_fn! {
        /// With so many permits to give, at most [`MAX_PERMITS`](Semaphore::MAX_PERMITS).
        ///
        /// # Panics
        /// If there are more.
        pub const fn new(permits: usize) -> Semaphore {
            assert!(permits <= Semaphore::MAX_PERMITS, "too many permits");
            Semaphore(Lock::new(State { permits, closed: false, queue: Queue::new() }))
        }
    }

    /// Takes `count` permits at once, waiting until they are there.
    ///
    /// Cancel-safe: one who gives up has taken none, and holds nobody up.
    ///
    /// # Errors
    /// If the task is cancelled; `BrokenPipe` if the semaphore is closed; `InvalidInput` for more than
    /// [`MAX_PERMITS`](Semaphore::MAX_PERMITS). More than there are now is no error: some may be
    /// [added](Semaphore::add_permits).
    pub fn acquire(&self, count: usize) -> io::Result<SemaphorePermit<'_>> {
        self.wait(count, Limit::NONE)
    }

    /// As [`acquire`](Semaphore::acquire), waiting at most for `limit`.
    ///
    /// # Errors
    /// As there, and `TimedOut`.
    pub fn acquire_timeout(&self, count: usize, limit: Duration) -> io::Result<SemaphorePermit<'_>> {
        self.wait(count, Limit::after(limit))
    }

    /// As [`acquire`](Semaphore::acquire), as a future. Dropped, it leaves the queue.
    ///
    /// # Errors
    /// As there, but for being cancelled.
    pub async fn acquire_async(&self, count: usize) -> io::Result<SemaphorePermit<'_>> {
        Waiting::new(self.acquiring(count)?).await.map_err(io::Error::from)
    }

    /// Takes `count` permits if they are there, and nobody waits for some.
    ///
    /// # Errors
    /// `WouldBlock`, and as for [`acquire`](Semaphore::acquire).
    pub fn try_acquire(&self, count: usize) -> io::Result<SemaphorePermit<'_>> {
        match self.acquiring(count)?.attempt() {
            Some(result) => result.map_err(io::Error::from),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn wait(&self, count: usize, limit: Limit) -> io::Result<SemaphorePermit<'_>> {
        block(&mut self.acquiring(count)?, limit)?.map_err(io::Error::from)
    }

    pub(crate) fn acquiring(
        &self,
        count: usize,
    ) -> io::Result<impl Arm<Output = Result<SemaphorePermit<'_>, Closed>>> {
        if count > Semaphore::MAX_PERMITS {
            let error = format!("{count} permits are more than a semaphore can have");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        Ok(Acquiring { semaphore: self, node: Node::new(Demand { count, outcome: Ok(()) }) })
    }

    /// Adds permits to give.
    ///
    /// # Errors
    /// `InvalidInput` if there would be more than [`MAX_PERMITS`](Semaphore::MAX_PERMITS), not counting those that are
    /// taken; nothing is added then.
    pub fn add_permits(&self, count: usize) -> io::Result<()> {
        {
            let mut state = lock(&self.0);
            match state.permits.checked_add(count) {
                Some(sum) if sum <= Semaphore::MAX_PERMITS => state.permits = sum,
                _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many permits")),
            }
        }
        self.serve();
        Ok(())
    }

    /// How many permits could be taken, at the moment.
    pub fn available_permits(&self) -> usize {
        lock(&self.0).permits
    }

    /// Gives no more permits: whoever waits, and whoever comes, is refused. Those that are taken stay so until dropped.
    pub fn close(&self) {
        lock(&self.0).closed = true;
        self.serve();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Gives what there is to those who wait, in turn.
    fn serve(&self) {
        let mut wakes = WakeList::new();
        loop {
            let mut state = lock(&self.0);
            while !wakes.is_full() {
                let State { permits, closed, queue } = &mut *state;
                let Some(mut next) = queue.claim_if(|demand| *closed || demand.count <= *permits) else {
                    break;
                };
                let demand = next.data();
                if *closed {
                    demand.outcome = Err(Closed);
                } else {
                    *permits -= demand.count;
                }
                wakes.push(next.complete());
            }
            drop(state);
            let more = wakes.is_full();
            wakes.wake_all();
            if !more {
                return;
            }
        }
    }
}

/// Waits for permits.
struct Acquiring<'a> {
    semaphore: &'a Semaphore,
    node: Node<Demand>,
}

impl<'a> Acquiring<'a> {
    fn take(&mut self, state: &mut State) -> Option<Result<SemaphorePermit<'a>, Closed>> {
        let count = self.node.data().count;
        if state.closed {
            return Some(Err(Closed));
        }
        if !state.queue.is_empty() || state.permits < count {
            return None;
        }
        state.permits -= count;
        Some(Ok(SemaphorePermit { semaphore: self.semaphore, count }))
    }
}

// SAFETY: `leave` takes the node out; a claim has taken it out before.
unsafe impl<'a> Arm for Acquiring<'a> {
    type Output = Result<SemaphorePermit<'a>, Closed>;

    #[inline(always)]
    fn why(&self) -> Why {
        const SEMAPHORE: &Reason = &Reason::object("semaphore");
        Why::object(SEMAPHORE, self.semaphore)
    }

    fn attempt(&mut self) -> Option<Self::Output> {
        let mut state = lock(&self.semaphore.0);
        self.take(&mut state)
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize, alone: bool) -> Entered<Self::Output> {
        let semaphore = self.semaphore;
        let mut state = lock(&semaphore.0);
        match self.take(&mut state) {
            Some(output) if alone => Entered::Done(output),
            Some(output) => {
                if let Ok(permit) = output {
                    state.permits += permit.forget();
                }
                Entered::Ready
            }
            None => {
                // SAFETY: passed on to the caller.
                unsafe { state.queue.push(&self.node, waiter, index, false) };
                Entered::Queued
            }
        }
    }

    fn leave(&mut self) {
        lock(&self.semaphore.0).queue.remove(&self.node);
        // It may have been in the way of others who want less.
        self.semaphore.serve();
    }

    fn finish(&mut self) -> Option<Self::Output> {
        let Demand { count, outcome } = *self.node.data();
        Some(outcome.map(|()| SemaphorePermit { semaphore: self.semaphore, count }))
    }
}

/// Permits that are taken, until this is dropped.
#[must_use = "if unused the permits are given back at once"]
pub struct SemaphorePermit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

impl SemaphorePermit<'_> {
    /// How many they are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Does not give them back, ever. How many they were.
    pub fn forget(mut self) -> usize {
        std::mem::take(&mut self.count)
    }
}

impl Drop for SemaphorePermit<'_> {
    fn drop(&mut self) {
        if self.count > 0 {
            // More than `MAX_PERMITS` if some were added meanwhile: then there are enough of them.
            let _ = self.semaphore.add_permits(self.count);
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.0);
        f.debug_struct("Semaphore")
            .field("permits", &state.permits)
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SemaphorePermit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphorePermit").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::{check, poll_once};

    /// Two who want both permits, one who wants one and may give up: all permits are there in the end.
    #[test]
    fn loom_permits_are_neither_lost_nor_given_twice() {
        check(2, || {
            let permits = Arc::new(Semaphore::new(2));
            let both = thread::spawn({
                let permits = permits.clone();
                move || assert_eq!(block_on(permits.acquire_async(2)).unwrap().count(), 2)
            });
            let quitter = thread::spawn({
                let permits = permits.clone();
                move || {
                    let mut waiting = Box::pin(permits.acquire_async(1));
                    let _ = poll_once(waiting.as_mut());
                }
            });
            drop(block_on(permits.acquire_async(2)).unwrap());
            both.join().unwrap();
            quitter.join().unwrap();
            assert_eq!(permits.available_permits(), 2);
        });
    }

    #[test]
    fn loom_closing_refuses_whoever_waits() {
        check(3, || {
            let permits = Arc::new(Semaphore::new(0));
            let waiter = thread::spawn({
                let permits = permits.clone();
                move || assert!(block_on(permits.acquire_async(1)).is_err())
            });
            permits.close();
            waiter.join().unwrap();
        });
    }
}
