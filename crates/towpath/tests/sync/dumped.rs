//! R12: what a dump says of those who wait for each other.

use towpath::dump::State;
use towpath::sync::{Arc, Barrier, Condvar, Latch, Mutex, Notify, Once, RwLock};

use crate::common::{solo, waiting};

struct Things {
    mutex: Mutex<()>,
    condvar: Condvar,
    rwlock: RwLock<()>,
    notify: Notify,
    latch: Latch,
    barrier: Barrier,
    once: Once,
}

pub fn r12_what_is_waited_for_by_name() {
    solo(|| {
        let things = Arc::new(Things {
            mutex: Mutex::new(()),
            condvar: Condvar::new(),
            rwlock: RwLock::new(()),
            notify: Notify::new(),
            latch: Latch::new(1),
            barrier: Barrier::new(2),
            once: Once::new(),
        });
        let task = |wait: fn(&Things)| {
            let things = things.clone();
            waiting(move || wait(&things))
        };
        let reads = things.rwlock.read().unwrap();
        let tasks = [
            (task(|things| drop(things.condvar.wait(things.mutex.lock().unwrap()))), "condvar"),
            (task(|things| drop(things.rwlock.write())), "rwlock, to write"),
            (task(|things| drop(things.rwlock.read())), "rwlock, to read"),
            (task(|things| things.notify.notified().unwrap()), "notification"),
            (task(|things| things.latch.wait().unwrap()), "latch"),
            (task(|things| assert!(!things.barrier.wait().is_leader())), "barrier"),
            (task(|things| things.once.wait()), "once"),
        ];
        let dump = towpath::dump();
        for (task, what) in &tasks {
            let found = dump.tasks.iter().find(|found| found.id == task.thread().id()).expect("it is there");
            assert!(matches!(&found.state, State::Waiting(wait) if wait.what == *what), "{what} in\n{dump}");
        }
        drop(reads);
        things.condvar.notify_all();
        things.notify.notify_one();
        things.latch.count_down(1);
        assert!(things.barrier.wait().is_leader());
        things.once.call_once(|| ());
        tasks.into_iter().for_each(|(task, _)| task.join().unwrap());
    });
}
