//! Futures in blocking code.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use towpath_loop::Instant;

use crate::context;
use crate::std_or_loom::atomic::{AtomicBool, Ordering};
use crate::task::TaskRef;
use crate::why::{Reason, Why};
use crate::worker::Worker;

/// Waits for a future, and returns what it brings. In a task that suspends the task, and nothing else; a plain thread blocks,
/// and drives its [current loop](towpath_loop::Loop::current) meanwhile, if it has one, callbacks included; one that panics ends there, as on
/// a worker.
///
/// The operations of the loop are futures, and so are the `_async` forms of [`sync`](crate::sync); a future of another
/// runtime that wants that runtime's threads or context needs them here as well. It works inside of another future, which is then
/// not polled on until this is over.
///
/// # Cancellation
/// Not cancellable: there is nothing to return. With `future(&mut pinned)` as its only case, [`select!`](crate::select!) is.
///
/// ```
/// use towpath::sync::oneshot;
/// use towpath::thread;
///
/// let (sender, receiver) = oneshot::channel();
/// thread::spawn(move || sender.send(3));
/// let sum = towpath::block_on(async { receiver.recv_async().await.unwrap() + 4 });
/// assert_eq!(sum, 7);
/// ```
///
/// # Panics
/// As the future does. In a callback of the thread's current loop, if the future is not ready at once: the loop, which may have to bring
/// that about, cannot be driven there.
pub fn block_on<F: Future>(future: F) -> F::Output {
    const FUTURE: &Reason = &Reason::plain("a future");
    let mut future = pin!(future);
    let me = context::current();
    let bell = Arc::new(Bell { rung: AtomicBool::new(false), task: me.clone() });
    let waker = Waker::from(bell.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        assert!(
            !context::is_in_callback(&me),
            "block_on was called in a callback of the loop that it would have to drive"
        );
        // One that wakes itself whenever it is polled must not keep the others from running.
        context::with_worker(Worker::charge);
        let rung = || bell.rung.swap(false, Ordering::AcqRel);
        context::drive_until(&me, Why::plain(FUTURE), Instant::NEVER, false, rung);
    }
}

/// What a future is given to wake its task by. It may outlive both.
struct Bell {
    /// Since the last poll.
    rung: AtomicBool,
    task: TaskRef,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever finds it rung comes before the look that takes that.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }
}
