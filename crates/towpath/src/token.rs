//! The park token: there is at most one, whoever puts it, and the task takes it.

use crate::sync::atomic::{AtomicBool, Ordering};

/// At most one permission to go on.
pub(crate) struct Token(AtomicBool);

impl Token {
    pub(crate) fn new() -> Token {
        Token(AtomicBool::new(false))
    }

    /// Puts the token there. True if it was not: then its task must be woken to see it.
    pub(crate) fn put(&self) -> bool {
        // A read-modify-write also where it is there already, so that what the caller did before is seen by the task
        // that takes it. SeqCst against the task's home, see `Header::settle`.
        !self.0.swap(true, Ordering::SeqCst)
    }

    /// Takes the token, if it is there.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use loom::thread;

    use crate::mail::Mailbox;
    use crate::sync::model::{check, mailbox, settled};
    use crate::task::{Header, Options, TaskRef};

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
            let (task, other) = unsafe { TaskRef::new(Options::default(), || ()) };
            let waker = thread::spawn(move || other.unpark());
            task.settle(&home);
            run_until(&home, || task.take_token());
            waker.join().unwrap();
        });
    }

    #[test]
    fn loom_a_cancel_of_a_task_without_a_home_is_seen_by_its_first_look() {
        check(None, || {
            let home = mailbox();
            // SAFETY: it borrows nothing, and is `Send`.
            let (task, other) = unsafe { TaskRef::new(Options::default(), || ()) };
            let waker = thread::spawn(move || other.cancel());
            task.settle(&home);
            run_until(&home, || Header::is_canceled(&task));
            waker.join().unwrap();
        });
    }
}
