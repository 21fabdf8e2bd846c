//! The example `linked` says what it should, on every backend; queues and tickets wait in tasks as well.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use towpath::{BackendKind, Runtime, thread};
use towpath_loop::{Loop, Queue, op};

#[path = "../examples/linked.rs"]
mod linked;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn each_backend(f: impl Fn(&Runtime)) {
    for kind in BackendKind::ALL.iter().filter(|kind| kind.is_available()) {
        // SAFETY: no crate in this program keeps a stack frame's address in a thread-local.
        f(&unsafe { Runtime::builder().workers(1).backend(*kind).build() }.unwrap());
    }
}

#[test]
fn the_conversation() {
    each_backend(|runtime| {
        linked::converse(runtime, 0, |what, bytes| {
            SAID.lock().unwrap().push(format!("{what}: {}", String::from_utf8_lossy(bytes)));
        })
        .unwrap();
        let mut said = std::mem::take(&mut *SAID.lock().unwrap());
        // The two that come of one exchange may be told in either order.
        said[..2].sort();
        let expected = [
            "got reply from client: dude, I don't care",
            "got reply from server: hey I'm doing multiple IO ops at once how cool is that?",
            "got final words from server: ok bye",
        ];
        assert_eq!(said, expected, "{}", runtime.handle().backend());
        if runtime.handle().backend() == "io_uring" {
            // Two to open the ring, and six enters; a busy machine may need some more.
            let calls = runtime.metrics().syscalls;
            assert!(calls <= 12, "{calls} system calls");
        }
    });
}

#[test]
fn queues_and_tickets_suspend_the_task() {
    each_backend(|runtime| {
        runtime.run(|| {
            let loop_ = Loop::current().unwrap();
            let queue = Queue::new(&loop_);
            for ms in [3, 1] {
                queue.submit(op::timer(Duration::from_millis(ms)), move |outcome| outcome.map(|()| ms));
            }
            let ticket = loop_.start(op::timer(Duration::from_millis(2)));
            // Another task runs meanwhile.
            let other = thread::spawn_local(|| op::timer(Duration::from_micros(100)).wait());
            assert_eq!(queue.next().unwrap().unwrap().unwrap(), 1);
            assert!(other.is_finished());
            ticket.take().unwrap().unwrap();
            assert!(queue.collect(1, Some(Duration::ZERO)).unwrap().len() <= 1);
            queue.submit(op::timer(Duration::from_secs(3600)), |_| unreachable!());
            let begun = std::time::Instant::now();
            assert!(queue.collect(3, Some(Duration::from_millis(5))).unwrap().len() <= 1);
            assert!(begun.elapsed() >= Duration::from_millis(5));
            // A cancelled task gives up waiting.
            let started = Rc::new(Cell::new(false));
            let flag = started.clone();
            let waiting = thread::spawn_local(move || {
                flag.set(true);
                queue.next()?;
                queue.next().map(|_| ())
            });
            while !started.get() {
                thread::yield_now();
            }
            waiting.cancel();
            assert!(towpath::is_canceled(&waiting.join().unwrap().unwrap_err()));
            let raced =
                op::race((op::timer(Duration::from_millis(1)), op::timer(Duration::from_secs(3600)))).wait();
            assert_eq!(raced.winner, Some(0));
        });
    });
}
