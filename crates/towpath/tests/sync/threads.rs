//! Plain threads that wait where a thread seldom does.

use std::cell::RefCell;

use towpath::select::{future, recv, set};
use towpath::sync::{Arc, Event, Mutex, mpsc};
use towpath::{select, thread};

use crate::common::{LONG, solo};

/// In the destructors of thread-locals, when those of Towpath may be gone: for locks, messages, futures, with and without
/// a time.
pub fn thread_local_destructors_wait() {
    struct AtExit(Option<Box<dyn FnOnce()>>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            (self.0.take().unwrap())();
        }
    }
    thread_local! {
        static BEFORE: RefCell<Option<AtExit>> = const { RefCell::new(None) };
        static AFTER: RefCell<Option<AtExit>> = const { RefCell::new(None) };
    }
    let (mutex, event) = (Arc::new(Mutex::new(0)), Arc::new(Event::new()));
    let waits = |receiver: mpsc::Receiver<i32>| {
        let (mutex, event) = (mutex.clone(), event.clone());
        move || {
            *mutex.lock().unwrap() += 1;
            *mutex.lock_timeout(LONG).unwrap() += 1;
            let sum = receiver.recv().unwrap() + receiver.recv_timeout(LONG).unwrap();
            let never = Event::new();
            let mut set_then = Box::pin(event.wait_async());
            let last = select! {
                () = set(&never) => 0,
                () = future(&mut set_then) => 3,
                _ = recv(&receiver) => 0,
            };
            *mutex.lock().unwrap() += sum + last.unwrap();
        }
    };
    let channels = [(); 2].map(|()| mpsc::channel());
    let [(before, first), (after, second)] = channels;
    let (first, second) = (waits(first), waits(second));
    let guard = mutex.lock().unwrap();
    let ends = std::thread::spawn(move || {
        BEFORE.set(Some(AtExit(Some(Box::new(first)))));
        // What Towpath keeps of a thread is between the two, whichever is dropped first.
        thread::current();
        AFTER.set(Some(AtExit(Some(Box::new(second)))));
    });
    solo(|| thread::sleep(crate::common::ms(5)));
    drop(guard);
    for n in 1..=2 {
        before.send(n).unwrap();
        after.send(n).unwrap();
    }
    event.set();
    ends.join().unwrap();
    assert_eq!(*mutex.lock().unwrap(), 16);
}
