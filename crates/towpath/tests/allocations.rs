//! What tasks allocate for their input and output once they are warm: nothing, on every backend.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use towpath::net::{TcpListener, TcpStream};
use towpath::sync::{Arc, Barrier, Condvar, Mutex, Notify, RwLock};
use towpath::{BackendKind, Runtime, thread};
use towpath_harness::allocations::{Counting, none};
use towpath_loop::{Event, op};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a test in a task of a worker, which is this thread, on each backend that there is.
fn each_backend(test: fn()) {
    for kind in BackendKind::ALL.iter().filter(|kind| kind.is_available()) {
        // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
        unsafe { Runtime::builder().workers(1).backend(*kind).build() }.unwrap().run(test);
    }
}

#[test]
fn an_echo() {
    each_backend(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn_local(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut buf = [0; 64];
            while let n @ 1.. = stream.read(&mut buf).unwrap() {
                stream.write_all(&buf[..n]).unwrap();
            }
        });
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        for limit in [None, Some(Duration::from_secs(60))] {
            stream.set_read_timeout(limit).unwrap();
            none("echo", || {
                let mut buf = [7; 64];
                stream.write_all(&buf).unwrap();
                stream.read_exact(&mut buf).unwrap();
            });
        }
        stream.set_read_timeout(Some(Duration::from_micros(1))).unwrap();
        none("read in vain", || {
            assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        });
        drop(stream);
        server.join().unwrap();
    });
}

#[test]
fn timers_and_events() {
    each_backend(|| {
        none("sleep", || thread::sleep(Duration::from_micros(150)));
        none("yield", thread::yield_now);
        let event = Event::new();
        none("event", || {
            event.notify();
            assert_eq!(event.notified().wait().unwrap(), 1);
        });
        none("timer", || op::timer(Duration::from_micros(150)).wait().unwrap());
    });
}

#[derive(Default)]
struct Shared {
    rwlock: RwLock<()>,
    turn: Mutex<bool>,
    condvar: Condvar,
    notify: Notify,
    over: AtomicBool,
}

#[test]
fn waiting_for_each_other() {
    each_backend(|| {
        let shared = Arc::new((Shared::default(), Barrier::new(2)));
        let other = thread::spawn_local({
            let shared = shared.clone();
            move || {
                let (Shared { rwlock, turn, condvar, notify, over }, barrier) = &*shared;
                loop {
                    barrier.wait();
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let guard = rwlock.write().unwrap();
                    // The other waits to read.
                    notify.notified().unwrap();
                    drop(guard);
                    *turn.lock().unwrap() = true;
                    condvar.notify_one();
                }
            }
        });
        let (Shared { rwlock, turn, condvar, notify, over }, barrier) = &*shared;
        let limit = Duration::from_secs(60);
        none("meetings, locks and notifications", || {
            barrier.wait();
            thread::yield_now();
            notify.notify_one();
            drop(rwlock.read().unwrap());
            let mut turn = condvar.wait_timeout_while(turn.lock().unwrap(), limit, |turn| !*turn).unwrap().0;
            *turn = false;
        });
        over.store(true, Ordering::Relaxed);
        barrier.wait();
        other.join().unwrap();
    });
}
