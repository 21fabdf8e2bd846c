//! Wakers, which are code of the user's that runs wherever somebody is woken.

use std::pin::{Pin, pin};
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use towpath::select::{acquire, future, recv, set};
use towpath::sync::{Arc, Event, RwLock, Semaphore, mpsc};
use towpath::{select, thread};

use crate::common::{duo, solo, waiting};
use crate::parties;

/// One that is called between two who are woken with it, and waits meanwhile until the other has come to its end.
pub fn a_waker_that_lets_the_others_end() {
    solo(|| {
        for _ in 0..100 {
            let event = Arc::new(Event::new());
            let other = Arc::new(StdMutex::new(None));
            let waker = parties::waker({
                let other = other.clone();
                move || {
                    let task: thread::JoinHandle<()> = other.lock().unwrap().take().unwrap();
                    task.thread().unpark();
                    task.join().unwrap();
                    // Its memory is used again, by one that does not start before this one waits.
                    thread::spawn_local(thread::yield_now);
                }
            });
            let mut first = pin!(event.wait_async());
            assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            let task = waiting({
                let event = event.clone();
                move || event.wait().unwrap()
            });
            *other.lock().unwrap() = Some(task);
            event.set();
            thread::yield_now();
            assert!(parties::poll_once(first).is_ready());
        }
    });
}

/// One that waits for a task that is woken with it, on another thread: tasks are woken first, whoever came first.
pub fn one_that_waits_for_a_task_of_another_thread() {
    solo(|| {
        let (event, woken) = (Arc::new(Event::new()), Arc::new(std::sync::Barrier::new(2)));
        let meets = woken.clone();
        let waker = parties::waker(move || _ = meets.wait());
        let mut first = pin!(event.wait_async());
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let task = waiting({
            let event = event.clone();
            move || {
                event.wait().unwrap();
                woken.wait();
            }
        });
        let sets = event.clone();
        thread::blocking(move || sets.set()).unwrap();
        task.join().unwrap();
        assert!(parties::poll_once(first).is_ready());
    });
}

/// One that panics keeps nobody from being woken, however many they are, and the panic is not that of whoever wakes.
pub fn one_that_panics_harms_nobody() {
    let waker = parties::waker(|| panic!("the waker"));
    let mut context = Context::from_waker(&waker);
    let lock = RwLock::new(());
    let guard = lock.write().unwrap();
    let mut readers: Vec<_> = (0..100).map(|_| Box::pin(lock.read_async())).collect();
    readers.iter_mut().for_each(|reader| assert!(reader.as_mut().poll(&mut context).is_pending()));
    drop(guard);
    for mut reader in readers {
        assert!(reader.as_mut().poll(&mut context).is_ready());
    }
    assert!(lock.try_write().is_ok());
}

/// The same where a `select` leaves one queue, and is still in others.
pub fn one_that_panics_as_a_case_loses() {
    solo(|| {
        let waker = parties::waker(|| panic!("the waker"));
        for _ in 0..20 {
            let (permits, event) = (Arc::new(Semaphore::new(1)), Arc::new(Event::new()));
            let (sender, messages) = mpsc::channel();
            let selects = waiting({
                let (permits, event) = (permits.clone(), event.clone());
                move || {
                    let wait = acquire(&permits, 2).unwrap();
                    select! {
                        _ = wait => 1,
                        () = set(&event) => 2,
                        message = recv(&messages) => message.unwrap(),
                    }
                }
            });
            // Behind the one that wants more than there is.
            let mut small = pin!(permits.acquire_async(1));
            assert!(small.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            sender.send(3).unwrap();
            assert_eq!(selects.join().unwrap().unwrap(), 3);
            assert!(parties::poll_once(small).is_ready());
            event.set();
        }
    });
}

/// A future that wakes itself whenever it is polled, and waits for another task of its worker.
pub fn one_that_rings_at_once() {
    struct Impatient(Arc<AtomicUsize>);
    impl Future for Impatient {
        type Output = ();
        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            context.waker().wake_by_ref();
            if self.0.load(SeqCst) == 1 { Poll::Ready(()) } else { Poll::Pending }
        }
    }
    for run in [solo, duo] {
        run(|| {
            let done = Arc::new(AtomicUsize::new(0));
            let task = thread::spawn_local({
                let done = done.clone();
                move || done.store(1, SeqCst)
            });
            let event = Event::new();
            let mut impatient = Impatient(done);
            let won = select! {
                () = future(&mut impatient) => true,
                () = set(&event) => false,
            };
            assert!(won.unwrap());
            task.join().unwrap();
        });
    }
}
