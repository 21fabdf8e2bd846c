//! K1, K2: futures in tasks and on plain threads, and ours elsewhere.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use towpath::select::{after, future};
use towpath::sync::{Arc, Event, oneshot};
use towpath::{block_on, select, thread};
use towpath_loop::{Loop, op};

use crate::common::{Log, duo, ms, pair, scaled, solo, until, waiting};
use crate::parties;

/// K1: in a task `block_on` suspends that task only, also inside of another future; on a plain thread it blocks that.
pub fn k01_block_on() {
    solo(|| {
        let (sender, receiver) = oneshot::channel();
        let log = Log::new();
        let waits = log.clone();
        let task = waiting(move || {
            let n = block_on(async {
                // In the midst of another one's poll.
                let n = block_on(async { receiver.recv_async().await.unwrap() });
                op::timer(ms(1)).await.unwrap();
                n + 1
            });
            waits.add("over");
            n
        });
        thread::yield_now();
        log.add("others run");
        // It has no way to say that it was cancelled, and waits on.
        task.cancel();
        thread::yield_now();
        assert!(!task.is_finished());
        sender.send(6).unwrap();
        assert_eq!((task.join().unwrap(), log.all()), (7, vec!["others run", "over"]));
        // One that always wakes itself lets the others run all the same.
        let done = Rc::new(std::cell::Cell::new(false));
        let other = done.clone();
        let sets = thread::spawn_local(move || other.set(true));
        block_on(poll_fn(|context| {
            context.waker().wake_by_ref();
            if done.get() { Poll::Ready(()) } else { Poll::Pending }
        }));
        sets.join().unwrap();
    });
    let on_a_thread = || {
        let event = Arc::new(Event::new());
        let sets = event.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(ms(5));
            sets.set();
        });
        block_on(event.wait_async());
        other.join().unwrap();
        // Its own loop is driven for what takes place there, and the wait is not a spin: see the harness.
        let begun = Instant::now();
        block_on(async { op::timer(ms(20)).await.unwrap() });
        assert!(begun.elapsed() >= ms(20));
        // Woken from elsewhere while it waits for its loop.
        let event = Arc::new(Event::new());
        let sets = event.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(ms(5));
            sets.set();
        });
        let mut timer = pin!(op::timer(Duration::from_secs(3600)).into_future());
        block_on(async {
            let mut set = pin!(event.wait_async());
            poll_fn(|context| {
                assert!(timer.as_mut().poll(context).is_pending());
                set.as_mut().poll(context)
            })
            .await;
        });
        other.join().unwrap();
    };
    on_a_thread();
    std::thread::spawn(on_a_thread).join().unwrap();
}

/// K1: a plain thread is woken in the loop that it has now, not in the one that it had.
pub fn k01_block_on_after_another_loop() {
    for _ in 0..2 {
        drop(Loop::take_current());
        Loop::new().unwrap().make_current();
        block_on(async { op::timer(ms(1)).await.unwrap() });
        let (there, asked) = std::sync::mpsc::channel::<oneshot::Sender<u32>>();
        let answers =
            std::thread::spawn(move || asked.into_iter().for_each(|answer| answer.send(7).unwrap()));
        for _ in 0..scaled(1000) {
            let (sender, receiver) = oneshot::channel();
            there.send(sender).unwrap();
            assert_eq!(block_on(receiver.recv_async()), Ok(7));
        }
        drop(there);
        answers.join().unwrap();
    }
}

/// K1, R9: in a callback of the loop that would have to be driven there is an error, and no hang.
pub fn k01_waits_in_a_callback() {
    let loop_ = Loop::new().unwrap();
    loop_.make_current();
    let told = Rc::new(std::cell::Cell::new(0));
    let tells = told.clone();
    loop_.submit(op::timer(Duration::ZERO), move |_, _| {
        let hour = || op::timer(Duration::from_secs(3600));
        let blocked = std::panic::AssertUnwindSafe(|| block_on(async { hour().await }));
        assert!(std::panic::catch_unwind(blocked).is_err());
        let mut timer = pin!(hour().into_future());
        let waited = select! { _ = future(&mut timer) => () };
        assert_eq!(waited.unwrap_err().raw_os_error(), Some(libc::EDEADLK));
        // What need not be waited for is another matter.
        assert_eq!(block_on(async { 7 }), 7);
        tells.set(1);
    });
    loop_.run().unwrap();
    assert_eq!(told.get(), 1);
}

/// K1: wakes from two threads, each for one poll at least, none lost.
pub fn k01_wakes_are_not_lost() {
    duo(|| {
        for _ in 0..scaled(20_000) {
            let (left, place) =
                (Arc::new(AtomicUsize::new(2)), Arc::new(std::sync::Mutex::new(None::<Waker>)));
            let wakes = [(); 2].map(|()| {
                let (left, place) = (left.clone(), place.clone());
                thread::spawn(move || {
                    until(|| place.lock().unwrap().is_some());
                    left.fetch_sub(1, SeqCst);
                    let waker = place.lock().unwrap().clone();
                    waker.unwrap().wake();
                })
            });
            block_on(poll_fn(|context| {
                *place.lock().unwrap() = Some(context.waker().clone());
                if left.load(SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
            }));
            wakes.into_iter().for_each(|wakes| wakes.join().unwrap());
            // It outlives the wait, and wakes nobody.
            place.lock().unwrap().take().unwrap().wake();
        }
    });
}

/// K2: our operations polled by an executor of somebody else, on a thread that drives its loop; and what needs no loop, anywhere.
pub fn k02_in_a_foreign_executor() {
    let foreign = || {
        let loop_ = Loop::current().unwrap();
        let (near, far) = pair();
        let near = towpath_loop::Socket::from(std::os::fd::OwnedFd::from(std::net::TcpStream::from(near)));
        let mut read = pin!(async {
            let (n, buf) = op::recv(&near, vec![0; 16]).await.unwrap();
            op::timer(ms(1)).await.unwrap();
            buf[..n].to_vec()
        });
        let other = std::thread::spawn(move || {
            let mut far = std::net::TcpStream::from(far);
            std::io::Write::write_all(&mut far, b"hello").unwrap();
            far
        });
        let text = loop {
            match read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(text) => break text,
                Poll::Pending => _ = loop_.tick(None).unwrap(),
            }
        };
        assert_eq!(text, b"hello");
        other.join().unwrap();
    };
    std::thread::spawn(foreign).join().unwrap();
    let (sender, receiver) = oneshot::channel();
    let executor = std::thread::spawn(move || parties::block_on(receiver.recv_async()));
    solo(move || sender.send(5).unwrap());
    assert_eq!(executor.join().unwrap(), Ok(5));
}

/// R9: a plain thread that selects drives its loop for the futures among the cases, and is woken for the others.
pub fn r09_select_with_operations_on_a_plain_thread() {
    let mut slow = pin!(op::timer(Duration::from_secs(3600)).into_future());
    let mut quick = pin!(op::timer(ms(5)).into_future());
    let won = select! {
        _ = future(&mut slow) => "slow",
        _ = future(&mut quick) => "quick",
        () = after(Duration::from_secs(60)) => "after",
    };
    assert_eq!(won.unwrap(), "quick");
    let late = select! {
        _ = future(&mut slow) => false,
        () = after(ms(5)) => true,
    };
    assert!(late.unwrap());
    let event = Arc::new(Event::new());
    let sets = event.clone();
    let other = std::thread::spawn(move || {
        std::thread::sleep(ms(5));
        sets.set();
    });
    let set = select! {
        _ = future(&mut slow) => false,
        () = select::set(&event) => true,
    };
    assert!(set.unwrap());
    other.join().unwrap();
    // A callback that panics meanwhile is no business of what is waited for, whose queues are left in order.
    let event = Event::new();
    let loop_ = Loop::current().unwrap();
    loop_.submit(op::timer(ms(1)), |_, _| panic!("on purpose"));
    let quick = &mut pin!(op::timer(ms(5)).into_future());
    let won = select! {
        () = select::set(&event) => false,
        _ = future(quick) => true,
    };
    assert!(won.unwrap());
    event.set();
}
