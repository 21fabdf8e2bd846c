//! Who takes part: tasks of two workers, plain threads, and futures that are polled by an executor of no runtime.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use towpath::thread::{self, JoinHandle};

use crate::common::until;

/// Polls a future on this thread until it is ready.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

/// Polls a future once, with a waker that wakes nobody.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A waker that calls `f`.
pub fn waker(f: impl Fn() + Send + Sync + 'static) -> Waker {
    struct Calls<F>(F);
    impl<F: Fn() + Send + Sync + 'static> Wake for Calls<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
    }
    Waker::from(Arc::new(Calls(f)))
}

/// Who does something.
#[derive(Clone, Copy, Debug)]
pub enum Party {
    /// A task, on whichever worker.
    Task,
    /// A thread of no runtime.
    Thread,
    /// A future, on a thread of no runtime.
    Future,
}

pub const PARTIES: [Party; 3] = [Party::Task, Party::Thread, Party::Future];

/// Lets `count` parties, of all kinds in turn, do their part at the same time. To be called in a task.
pub fn all(count: usize, part: impl Fn(Party, usize) + Send + Sync + 'static) {
    let part = Arc::new(part);
    let mut tasks = Vec::new();
    let mut threads = Vec::new();
    for n in 0..count {
        let (party, part) = (PARTIES[n % PARTIES.len()], part.clone());
        match party {
            Party::Task => tasks.push(towpath::thread::spawn(move || part(party, n))),
            _ => threads.push(std::thread::spawn(move || part(party, n))),
        }
    }
    for task in tasks {
        task.join().unwrap();
    }
    for thread in threads {
        towpath::thread::blocking(move || thread.join().unwrap()).unwrap();
    }
}

/// So many tasks, each with its own clone of `shared`, that have all begun: those that are going to wait do so, or are about to.
pub fn crowd<S, T>(count: usize, shared: &S, part: fn(S) -> T) -> Vec<JoinHandle<T>>
where
    S: Clone + Send + 'static,
    T: Send + 'static,
{
    let begun = Arc::new(AtomicUsize::new(0));
    let start = |_| {
        let (shared, begun) = (shared.clone(), begun.clone());
        thread::spawn(move || {
            begun.fetch_add(1, SeqCst);
            part(shared)
        })
    };
    let tasks = (0..count).map(start).collect();
    until(|| begun.load(SeqCst) == count);
    tasks
}
