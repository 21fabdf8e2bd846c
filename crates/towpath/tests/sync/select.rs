//! L11, K6: the first of several.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::{Duration, Instant};

use towpath::select::{
    Select, acquire, after, at, counted_down, finished, future, lock, notified, read, recv, send, set, write,
};
use towpath::sync::{Arc, Event, Latch, Mutex, Notify, RwLock, Semaphore, mpmc, mpsc};
use towpath::{is_canceled, select, thread, time};
use towpath_loop::op;

use crate::common::{LONG, duo, ms, pair, scaled, solo, waiting};
use crate::parties;

/// L11: of 64 channels that always have something none is preferred by more than ten times.
pub fn l11_fair_over_64_channels() {
    solo(|| {
        let channels: Vec<_> = (0..64).map(|_| mpmc::channel()).collect();
        let mut wins = [0; 64];
        channels.iter().for_each(|(sender, _)| sender.send(()).unwrap());
        let rounds = scaled(1_000_000);
        for _ in 0..rounds {
            let mut select = Select::new();
            for (n, (_, receiver)) in channels.iter().enumerate() {
                select.on(recv(receiver), move |_| n);
            }
            let n = select.wait().unwrap().unwrap();
            assert_eq!(select.len(), 63);
            wins[n] += 1;
            channels[n].0.send(()).unwrap();
        }
        let (least, most) = (*wins.iter().min().unwrap(), *wins.iter().max().unwrap());
        assert!(least > 0 && most < 10 * least, "{wins:?}");
        // Also of two neighbours among many that have nothing.
        let mut wins = [0; 2];
        channels.iter().for_each(|(_, receiver)| receiver.try_iter().for_each(drop));
        for _ in 0..rounds / 10 {
            channels[7].0.send(()).unwrap();
            channels[8].0.send(()).unwrap();
            let mut select = Select::new();
            for (n, (_, receiver)) in channels.iter().enumerate() {
                select.on(recv(receiver), move |_| n);
            }
            wins[select.wait().unwrap().unwrap() - 7] += 1;
            channels[7].1.try_iter().chain(channels[8].1.try_iter()).for_each(drop);
        }
        assert!(wins[0] < 3 * wins[1] && wins[1] < 3 * wins[0], "{wins:?}");
    });
}

/// L11: receivers that select, senders that select, all at once on few channels: each message arrives once.
pub fn l11_nothing_is_lost_or_taken_twice() {
    let each = scaled(200_000);
    for bound in [0, 1, 3] {
        duo(move || {
            let channels: Arc<[_; 3]> = Arc::new(std::array::from_fn(|_| mpmc::sync_channel::<usize>(bound)));
            let (sum, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let (total, count) = (sum.clone(), received.clone());
            // Two parties of each kind send, two receive; threads for futures, since a select blocks.
            parties::all(6, move |_, n| {
                let [(s0, r0), (s1, r1), (s2, r2)] = &*channels;
                if n < 3 {
                    for k in 0..each {
                        let message = n * each + k + 1;
                        // In different orders, so that two can meet each other on two channels.
                        let sent = if n == 1 {
                            select! {
                                sent = send(s2, message) => sent,
                                sent = send(s0, message) => sent,
                            }
                        } else {
                            select! {
                                sent = send(s0, message) => sent,
                                sent = send(s1, message) => sent,
                                sent = send(s2, message) => sent,
                            }
                        };
                        sent.unwrap().unwrap();
                    }
                } else {
                    while count.load(SeqCst) < 3 * each {
                        let message = select! {
                            message = recv(r1) => Some(message.unwrap()),
                            message = recv(r0) => Some(message.unwrap()),
                            message = recv(r2) => Some(message.unwrap()),
                            () = after(ms(5)) => None,
                        };
                        if let Some(message) = message.unwrap() {
                            total.fetch_add(message, SeqCst);
                            count.fetch_add(1, SeqCst);
                        }
                    }
                }
            });
            assert_eq!(received.load(SeqCst), 3 * each);
            assert_eq!(sum.load(SeqCst), 3 * each * (3 * each + 1) / 2, "each once");
        });
    }
}

/// Both directions of one rendezvous channel in one select: it does not meet itself, and two of them do meet.
pub fn sending_to_and_receiving_from_one_channel() {
    solo(|| {
        let (sender, receiver) = mpmc::sync_channel(0);
        let both = || {
            select! {
                sent = send(&sender, 1) => sent.map(|()| 0).unwrap(),
                message = recv(&receiver) => message.unwrap(),
            }
        };
        let alone = time::timeout(ms(2), both);
        assert_eq!(alone.unwrap_err().kind(), io::ErrorKind::TimedOut);
        thread::scope(|scope| {
            let others = [(); 2].map(|()| scope.spawn(both));
            let mut outcomes = others.map(|other| other.join().unwrap().unwrap());
            outcomes.sort();
            assert_eq!(outcomes, [0, 1]);
        });
    });
}

/// Each kind of case wins when it is its turn, ready at once or later, and the losers are as they were.
pub fn every_case() {
    solo(|| {
        for later in [false, true] {
            let mutex = Arc::new(Mutex::new(0));
            let permits = Arc::new(Semaphore::new(0));
            let event = Arc::new(Event::new());
            let (full, drain) = mpmc::sync_channel(1);
            full.send("first").unwrap();
            let (sender, empty) = mpsc::channel();
            let go = Arc::new(Event::new());
            let mut task = thread::spawn({
                let go = go.clone();
                move || go.wait().map(|()| 7)
            });
            for turn in 0..7 {
                let guard = (turn != 0).then(|| mutex.lock().unwrap());
                let change = || match turn {
                    1 => permits.add_permits(2).unwrap(),
                    2 => event.set(),
                    3 => assert_eq!(drain.recv(), Ok("first")),
                    4 => sender.send("hello").unwrap(),
                    5 => go.set(),
                    _ => {}
                };
                let held = (turn == 0 && later).then(|| mutex.lock().unwrap());
                let won = thread::scope(|scope| {
                    if !later {
                        change();
                        if turn == 5 {
                            crate::common::until(|| task.is_finished());
                        }
                    } else if turn > 0 {
                        scope.spawn(change);
                    } else {
                        // Unlocked by a task that has nothing but this to do.
                        return thread::scope(|scope| {
                            let waits = scope.spawn(|| select! { guard = lock(&mutex) => *guard.unwrap() });
                            thread::yield_now();
                            drop(held);
                            waits.join().unwrap()
                        });
                    }
                    let wait = acquire(&permits, 2)?;
                    select! {
                        guard = lock(&mutex) => *guard.unwrap(),
                        permit = wait => {
                            assert_eq!(permit.unwrap().forget(), 2);
                            1
                        }
                        () = set(&event) => {
                            event.reset();
                            2
                        }
                        sent = send(&full, "second") => {
                            sent.unwrap();
                            3
                        }
                        message = recv(&empty) => {
                            assert_eq!(message, Ok("hello"));
                            4
                        }
                        () = finished(&mut task) => 5,
                        () = after(if turn == 6 { ms(1) } else { LONG }) => 6,
                    }
                });
                assert_eq!(won.unwrap(), turn, "later: {later}");
                drop(guard);
                if turn == 5 {
                    // It has ended, and would win again.
                    task = waiting({
                        let event = Arc::new(Event::new());
                        move || event.wait().map(|()| 8)
                    });
                }
            }
            assert_eq!(drain.recv(), Ok("second"));
            assert_eq!(
                (permits.available_permits(), event.is_set(), *mutex.try_lock().unwrap()),
                (0, false, 0)
            );
            task.cancel();
            assert!(is_canceled(&task.join().unwrap().unwrap_err()));
        }
    });
}

/// A future that loses keeps what it brings: bytes that were read while another case won are there the next time.
pub fn operations_lose_no_byte() {
    solo(|| {
        let (near, mut far) = pair();
        let near = towpath_loop::Socket::from(std::os::fd::OwnedFd::from(std::net::TcpStream::from(near)));
        let (sender, receiver) = mpsc::channel();
        let mut read = Box::pin(op::recv(&near, vec![0; 16]).into_future());
        sender.send(1).unwrap();
        io::Write::write_all(&mut far, b"hello").unwrap();
        // Begun, and perhaps complete by now; the message wins in at least one of these.
        let mut messages = 0;
        let mut text = None;
        while messages == 0 || text.is_none() {
            let mut others = Select::new();
            others.on(recv(&receiver), |_| None);
            if text.is_none() {
                others.on(future(&mut read), Some);
            }
            match others.wait().unwrap().unwrap() {
                None => messages += 1,
                Some(read) => {
                    let (n, buf) = read.unwrap();
                    text = Some(buf[..n].to_vec());
                }
            }
        }
        assert_eq!((text.unwrap().as_slice(), messages), (&b"hello"[..], 1));
    });
}

/// The cases of locks to read or write, of notifications and latches: each waits, wins, and has no effect where it loses.
pub fn locks_notifications_and_latches() {
    solo(|| {
        let (rw, notify, latch) =
            (Arc::new(RwLock::new(1)), Arc::new(Notify::new()), Arc::new(Latch::new(1)));
        let any = || {
            let (rw, notify, latch) = (rw.clone(), notify.clone(), latch.clone());
            waiting(move || {
                select! {
                    value = write(&rw) => { *value.unwrap() += 1; "write" },
                    () = notified(&notify) => "notified",
                    () = counted_down(&latch) => "counted down",
                }
                .unwrap()
            })
        };
        let guard = rw.read().unwrap();
        // Who waits to write keeps readers out, and lets them in when something else wins.
        let first = any();
        let reader = waiting({
            let rw = rw.clone();
            move || select! { value = read(&rw) => *value.unwrap() }.unwrap()
        });
        thread::yield_now();
        assert!(!first.is_finished() && !reader.is_finished());
        notify.notify_one();
        assert_eq!((first.join().unwrap(), reader.join().unwrap()), ("notified", 1));
        let second = any();
        drop(guard);
        assert_eq!(second.join().unwrap(), "write");
        let guard = rw.write().unwrap();
        assert_eq!(*guard, 2);
        let third = any();
        latch.count_down(1);
        assert_eq!(third.join().unwrap(), "counted down");
        let both = waiting({
            let rw = rw.clone();
            move || {
                select! {
                    value = read(&rw) => *value.unwrap(),
                    value = write(&rw) => *value.unwrap(),
                }
                .unwrap()
            }
        });
        drop(guard);
        assert_eq!(both.join().unwrap(), 2);
        assert!(rw.try_write().is_ok());
        // What was not taken is there.
        notify.notify_one();
        let _write = rw.write().unwrap();
        select! { () = counted_down(&latch) => (), _ = read(&rw) => unreachable!() }.unwrap();
        select! { () = notified(&notify) => () }.unwrap();
        let idle = select! { () = notified(&notify) => false, _ = read(&rw) => false, default => true };
        assert!(idle.unwrap());
    });
}

/// K6: the branch that loses, a million times, leaves nothing behind.
pub fn k06_losers_leave_nothing_behind() {
    solo(|| {
        let (ticks, ticked) = mpmc::channel();
        let (_idle, silent) = mpmc::channel::<()>();
        let event = Event::new();
        let mut pending = std::future::pending::<()>();
        for _ in 0..scaled(1_000_000) {
            ticks.send(()).unwrap();
            let won = select! {
                () = set(&event) => false,
                _ = recv(&silent) => false,
                () = future(&mut pending) => false,
                () = after(LONG) => false,
                tick = recv(&ticked) => tick.is_ok(),
            };
            assert!(won.unwrap());
        }
    });
}

/// A time that is over wins, early or late, and never before it is over.
pub fn times() {
    solo(|| {
        let begun = Instant::now();
        let limit = ms(5);
        let event = Event::new();
        assert!(select! { () = set(&event) => false, () = after(limit) => true }.unwrap());
        assert!(begun.elapsed() >= limit);
        assert!(select! { () = set(&event) => false, () = at(towpath::Instant::now()) => true }.unwrap());
        let none = select! { () = after(LONG) => 1, default => 2 };
        assert_eq!(none.unwrap(), 2);
        // The earliest counts.
        let first =
            select! { () = after(LONG) => 1, () = after(Duration::ZERO) => 2, () = after(ms(100)) => 3 };
        assert_eq!(first.unwrap(), 2);
    });
    // On a plain thread as well.
    let event = Event::new();
    assert!(select! { () = set(&event) => false, () = after(ms(2)) => true }.unwrap());
}

/// A cancelled select takes nothing, also where something is there; a deadline around it ends it.
pub fn cancelled_selects() {
    duo(|| {
        let rounds = scaled(200_000);
        let (sender, receiver) = mpmc::sync_channel(1);
        let (_silence, silent) = mpmc::sync_channel::<()>(1);
        for round in 0..rounds {
            let task = thread::spawn({
                let (receiver, silent) = (receiver.clone(), silent.clone());
                move || {
                    select! {
                        message = recv(&receiver) => message.unwrap(),
                        _ = recv(&silent) => unreachable!("nobody sends"),
                    }
                }
            });
            if round % 2 == 0 {
                thread::yield_now();
            }
            sender.send(round).unwrap();
            task.cancel();
            // One that never started has taken nothing.
            let received = task.join().unwrap_or(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
            match (received, receiver.try_recv()) {
                (Ok(n), Err(_)) | (Err(_), Ok(n)) => assert_eq!(n, round),
                other => panic!("round {round}: {other:?}"),
            }
        }
    });
}

/// The macro's forms: blocks with and without commas, `default` anywhere, patterns, control flow out of it.
pub fn forms() {
    let (sender, receiver) = mpsc::channel();
    let (_silence, silent) = mpsc::channel::<()>();
    let next = || -> io::Result<i32> {
        let n = select! {
            default => { -1 }
            _ = recv(&silent) => {
                return Ok(-2);
            },
            message = recv(&receiver) => {
                let (n, text) = message.unwrap();
                assert_eq!(text, "text");
                n
            }
        }?;
        Ok(n + 1)
    };
    sender.send((1, "text")).unwrap();
    assert_eq!((next().unwrap(), next().unwrap()), (2, 0));
    let mut turns = 0;
    loop {
        turns += 1;
        select! {
            () = after(Duration::ZERO) => if turns == 3 { break },
            _ = recv(&silent) => unreachable!(),
        }
        .unwrap();
    }
    assert_eq!(select! { default => 5 }.unwrap(), 5);
    assert!(Select::<()>::new().wait().unwrap().is_none());
}

/// A future that is polled by hand takes part in no select any more, and wakes nobody.
pub fn wakers_that_outlive_the_select() {
    solo(|| {
        struct Kept(Option<std::task::Waker>);
        impl Future for Kept {
            type Output = ();
            fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<()> {
                self.0 = Some(context.waker().clone());
                Poll::Pending
            }
        }
        let mut kept = Kept(None);
        for _ in 0..1000 {
            assert!(select! { () = future(&mut kept) => false, () = after(Duration::ZERO) => true }.unwrap());
            // Not polled where it came second.
            let Some(waker) = kept.0.take() else { continue };
            waker.wake_by_ref();
            std::thread::spawn(move || waker.wake()).join().unwrap();
        }
    });
}
