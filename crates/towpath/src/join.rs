//! Where a task's end meets whoever joins it: finished, awaited, given up, in any order and on any threads.

use crate::std_or_loom::UnsafeCell;
use crate::std_or_loom::atomic::{AtomicU8, Ordering};
use crate::task::TaskRef;

/// The result is there.
const FINISHED: u8 = 1;
/// Somebody waits: `waiter` is theirs to be woken.
const AWAITED: u8 = 2;
/// The handle is gone; nobody will take the result.
const DETACHED: u8 = 4;

/// The state of a join.
pub(crate) struct JoinCell {
    state: AtomicU8,
    /// The handle's while `AWAITED` is not set, written by it; then the end's, which takes it. But for an end that came
    /// before the bit: that does not look at it any more.
    waiter: UnsafeCell<Option<TaskRef>>,
}

// SAFETY: `waiter` changes hands with the AWAITED bit, by acquire and release.
unsafe impl Sync for JoinCell {}

/// What is to be done about a result that has just been stored.
pub(crate) enum Finish {
    /// Nobody waits yet: it is kept for the handle.
    Kept,
    /// Nobody ever will: drop it.
    Detached,
    /// Wake this one.
    Wake(TaskRef),
}

impl JoinCell {
    pub(crate) fn new() -> JoinCell {
        JoinCell { state: AtomicU8::new(0), waiter: UnsafeCell::new(None) }
    }

    /// The result has been stored.
    pub(crate) fn finish(&self) -> Finish {
        let before = self.state.fetch_or(FINISHED, Ordering::AcqRel);
        if before & DETACHED != 0 {
            Finish::Detached
        } else if before & AWAITED != 0 {
            // SAFETY: the bit was set before FINISHED, so the handle touches the cell no more: see `start_waiting`.
            let waiter = self.waiter.with_mut(|waiter| unsafe { (*waiter).take() });
            Finish::Wake(waiter.expect("AWAITED comes with a waiter"))
        } else {
            Finish::Kept
        }
    }

    /// Whether the result is there.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.load(Ordering::Acquire) & FINISHED != 0
    }

    /// Registers the one who waits. False if there is nothing to wait for any more.
    /// Only the handle's owner calls this, and only while not registered.
    pub(crate) fn start_waiting(&self, waiter: TaskRef) -> bool {
        // The end may still be busy with one who has stopped waiting.
        if self.is_finished() {
            return false;
        }
        // SAFETY: neither FINISHED nor AWAITED is set, so the cell is the handle owner's, who is here.
        self.waiter.with_mut(|place| unsafe { *place = Some(waiter) });
        let before = self.state.fetch_or(AWAITED, Ordering::AcqRel);
        if before & FINISHED != 0 {
            // SAFETY: `finish` ran before the bit was set and did not look at the cell.
            self.waiter.with_mut(|place| unsafe { *place = None });
            return false;
        }
        true
    }

    /// Nobody waits any more, who did not take the result. Only the handle's owner calls this, after `start_waiting` that was
    /// true.
    pub(crate) fn stop_waiting(&self) {
        if self.state.fetch_and(!AWAITED, Ordering::AcqRel) & FINISHED == 0 {
            // SAFETY: the end has yet to come, and will not find AWAITED: the cell is the handle owner's again.
            self.waiter.with_mut(|place| unsafe { *place = None });
        }
    }

    /// The handle goes, without having taken the result. True if the result is there, for the caller to drop.
    pub(crate) fn detach(&self) -> bool {
        self.state.fetch_or(DETACHED, Ordering::AcqRel) & FINISHED != 0
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::thread;

    use crate::std_or_loom::model::{Value, check, mailbox, read, settled, value};
    use crate::task::TaskRef;
    use crate::thread::JoinHandle;

    /// A task with a result that loom watches, and its handle.
    fn task() -> (TaskRef, TaskRef) {
        let captured = value(7);
        // SAFETY: it borrows nothing, and both are `Send`.
        unsafe { TaskRef::new(None, move || value(read(&captured) + 1)) }
    }

    /// The end of a task: either way there is.
    fn end(task: &TaskRef, refuse: bool) {
        // SAFETY: called once for each task.
        unsafe {
            match refuse {
                true => task.refuse(Box::new(value(0))),
                false => task.run(),
            }
        }
    }

    /// What `JoinHandle::join` does in a task that a worker runs: waits, if it has to, until it is made ready and the
    /// other is over. `token` if it has a park token meanwhile, which is none of a join's business.
    fn join(refuse: bool, token: bool) {
        let (task, handle) = task();
        let home = mailbox();
        let me = settled(&home);
        if token {
            me.unpark();
            home.take_ready(drop);
            home.remote.wait();
        }
        let body = thread::spawn(move || end(&task, refuse));
        let mut waited = false;
        if !handle.join.is_finished() && handle.join.start_waiting(me.clone()) {
            waited = true;
            while !handle.join.is_finished() {
                let mut resumed = false;
                home.take_ready(|_| resumed = true);
                if !resumed {
                    home.remote.wait();
                }
            }
        }
        // SAFETY: it has finished, with a `Value`, and nobody else takes it.
        let result = unsafe { handle.take::<Value>() };
        assert_eq!(result.map(|value| read(&value)).ok(), if refuse { None } else { Some(8) });
        body.join().unwrap();
        home.take_ready(drop);
        assert_eq!(
            home.remote.rings(),
            usize::from(waited) + usize::from(token),
            "woken exactly if it waits"
        );
        assert_eq!(me.take_token(), token, "a join leaves the token as it is");
        drop(me);
        assert_eq!(std::sync::Arc::strong_count(&home), 1, "the waiter is not let go");
    }

    #[test]
    fn loom_a_join_takes_the_result_and_is_woken_if_it_waits() {
        check(None, || join(false, false));
    }

    #[test]
    fn loom_a_join_is_woken_also_with_a_token() {
        check(None, || join(false, true));
    }

    #[test]
    fn loom_a_join_of_a_refused_task_takes_its_reason() {
        check(None, || join(true, false));
    }

    /// loom sees a result that is leaked, or dropped twice.
    #[test]
    fn loom_a_dropped_handle_and_the_end_drop_the_result_once() {
        for refuse in [false, true] {
            check(None, move || {
                let (task, handle) = task();
                let body = thread::spawn(move || end(&task, refuse));
                drop(JoinHandle::<Value>::new(handle));
                body.join().unwrap();
            });
        }
    }

    /// As a `select!` does that another case wins, and the join after it.
    #[test]
    fn loom_one_who_stops_waiting_can_wait_again() {
        check(None, || {
            let (task, handle) = task();
            let home = mailbox();
            let me = settled(&home);
            let body = thread::spawn(move || end(&task, false));
            if handle.join.start_waiting(me.clone()) {
                handle.join.stop_waiting();
            }
            if handle.join.start_waiting(me.clone()) {
                while !handle.join.is_finished() {
                    home.take_ready(drop);
                    home.remote.wait();
                }
            }
            // SAFETY: as in `join`.
            assert_eq!(unsafe { handle.take::<Value>() }.map(|value| read(&value)).ok(), Some(8));
            body.join().unwrap();
            home.take_ready(drop);
            drop(me);
            assert_eq!(std::sync::Arc::strong_count(&home), 1, "the waiter is not let go");
        });
    }

    #[test]
    fn loom_who_sees_it_finished_sees_the_result() {
        check(None, || {
            let (task, handle) = task();
            let body = thread::spawn(move || end(&task, false));
            if handle.join.is_finished() {
                // SAFETY: as in `join`.
                assert_eq!(unsafe { handle.take::<Value>() }.map(|value| read(&value)).ok(), Some(8));
            } else {
                drop(JoinHandle::<Value>::new(handle));
            }
            body.join().unwrap();
        });
    }
}
