//! What others tell a task: that it may go on, once (its park token), and that it is cancelled.
//!
//! Both are in one word, so that one read-modify-write settles against all of them where the task can be reached from
//! then on: see [`Signals::settle`].

use crate::std_or_loom::atomic::{AtomicU8, Ordering};

/// The park token: at most one permission to go on, whoever puts it.
const TOKEN: u8 = 1;
/// Every wait that is not shielded fails from now on.
const CANCELED: u8 = 2;

pub(crate) struct Signals(AtomicU8);

impl Signals {
    pub(crate) fn new() -> Signals {
        Signals(AtomicU8::new(0))
    }

    /// Puts the token there. True if it was not: then its task must be woken to see it.
    pub(crate) fn put_token(&self) -> bool {
        // A read-modify-write also where it is there already, so that what the caller did before is seen by the task
        // that takes it.
        self.0.fetch_or(TOKEN, Ordering::AcqRel) & TOKEN == 0
    }

    /// Takes the token, if it is there. A look that comes too early is not the last one: whoever puts it wakes the task.
    #[inline]
    pub(crate) fn take_token(&self) -> bool {
        self.0.load(Ordering::Acquire) & TOKEN != 0 && self.0.fetch_and(!TOKEN, Ordering::AcqRel) & TOKEN != 0
    }

    /// Cancels. Its task must be woken to see it.
    pub(crate) fn cancel(&self) {
        self.0.fetch_or(CANCELED, Ordering::AcqRel);
    }

    #[inline]
    pub(crate) fn is_canceled(&self) -> bool {
        self.0.load(Ordering::Acquire) & CANCELED != 0
    }

    /// To be called after the task has said where it can be woken. Who signals comes before or after this, being a
    /// read-modify-write of the same word: if before, the task sees it from here on; if after, they see the place.
    #[inline]
    pub(crate) fn settle(&self) {
        self.0.fetch_or(0, Ordering::AcqRel);
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use loom::thread;

    use crate::mail::Mailbox;
    use crate::std_or_loom::model::{check, mailbox, settled};
    use crate::task::{Header, TaskRef};

    /// What a worker with one task does, whose body is `until condition() { pause() }`: it looks when it is resumed,
    /// and sleeps when no mail has come.
    fn run_until(home: &Mailbox, mut condition: impl FnMut() -> bool) {
        while !condition() {
            loop {
                let mut resumed = false;
                home.take_ready(|_| {
                    assert!(!resumed, "the task is in the list twice");
                    resumed = true;
                });
                if resumed {
                    break;
                }
                home.remote.wait();
            }
        }
    }

    fn flags() -> Arc<[AtomicBool; 2]> {
        Arc::new([AtomicBool::new(false), AtomicBool::new(false)])
    }

    /// `count` threads set a flag each and unpark; the task parks until it has seen all. What was done before an
    /// unpark that found the token there is seen as well.
    fn park(count: usize) {
        let (home, flags) = (mailbox(), flags());
        let task = settled(&home);
        let threads: Vec<_> = (0..count)
            .map(|n| {
                let (task, flags) = (task.clone(), flags.clone());
                thread::spawn(move || {
                    flags[n].store(true, Relaxed);
                    task.unpark();
                })
            })
            .collect();
        while !flags[..count].iter().all(|flag| flag.load(Relaxed)) {
            run_until(&home, || task.take_token());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        home.take_ready(drop);
        drop(task);
        assert_eq!(Arc::strong_count(&home), 1, "a reference to the task is lost");
    }

    #[test]
    fn loom_an_unpark_ends_a_park() {
        check(None, || park(1));
    }

    #[test]
    fn loom_two_unparks_are_one_token_and_both_are_seen() {
        check(3, || park(2));
    }

    #[test]
    fn loom_an_unpark_of_a_task_without_a_home_is_seen_by_its_first_look() {
        check(None, || {
            let home = mailbox();
            // SAFETY: it borrows nothing, and is `Send`.
            let (task, other) = unsafe { TaskRef::new(None, || ()) };
            let waker = thread::spawn(move || other.unpark());
            task.settle(home.clone());
            run_until(&home, || task.take_token());
            waker.join().unwrap();
        });
    }

    #[test]
    fn loom_a_cancel_of_a_task_without_a_home_is_seen_by_its_first_look() {
        check(None, || {
            let home = mailbox();
            // SAFETY: it borrows nothing, and is `Send`.
            let (task, other) = unsafe { TaskRef::new(None, || ()) };
            let waker = thread::spawn(move || other.cancel());
            task.settle(home.clone());
            run_until(&home, || Header::is_canceled(&task));
            waker.join().unwrap();
        });
    }
}
