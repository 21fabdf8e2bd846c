//! H: the limits of queues, descriptors and memory.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant as StdInstant};

use rustix::thread::gettid;
use towpath_harness::{net, patience, sys};
use towpath_loop::{Config, Loop, Socket, is_canceled, op};

use crate::common::*;

/// H2 asks for 100 000 completions; each is an operation with a slot, so a fifth of that overflows just as well.
const COMPLETIONS: usize = 20_000;
/// A ring that overflows at once. Other backends have none, and must do the same.
const SUBMISSIONS: u32 = 8;
const RING: u32 = 16;
/// Rounds of H4, each with an overflow and a wake.
const OVERFLOWS: usize = 400;

/// A loop on the backend under test, with the smallest queues.
fn tiny() -> Loop {
    let loop_ = Config::new().ring_entries(SUBMISSIONS).ring_completions(RING).build().unwrap();
    let wanted = std::env::var("TOWPATH_BACKEND").unwrap();
    assert_eq!(loop_.backend(), wanted);
    loop_
}

/// Which of `n` operations completed, and how often.
#[derive(Clone)]
struct Ledger(Rc<RefCell<Vec<u8>>>);

impl Ledger {
    fn new(n: usize) -> Ledger {
        Ledger(Rc::new(RefCell::new(vec![0; n])))
    }
    fn note(&self, at: usize) {
        self.0.borrow_mut()[at] += 1;
    }
    fn assert_each_once(&self) {
        for (at, times) in self.0.borrow().iter().enumerate() {
            assert_eq!(*times, 1, "operation {at}");
        }
    }
}

/// H1: ten thousand operations in one turn through a queue of eight; on each descriptor in their order.
pub fn h01_small_submission_queue() {
    const EACH: u32 = 1250;
    let loop_ = tiny();
    let ledger = Ledger::new(8 * EACH as usize);
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..4 {
        // TCP joins small sends, so that all fit into the buffer and none has to wait.
        senders.push(half_tcp());
        let (ours, mut peer) = half_unix();
        peer.write_all(&(0..EACH).flat_map(u32::to_ne_bytes).collect::<Vec<_>>()).unwrap();
        receivers.push((ours, peer));
    }
    let order = Rc::new(RefCell::new(vec![0; 8]));
    for at in 0..EACH {
        for fd in 0..4 {
            let (ledger2, order2) = (ledger.clone(), order.clone());
            loop_.submit(op::send(&senders[fd].0, at.to_ne_bytes()), move |_, outcome| {
                assert_eq!(outcome.unwrap().0, 4);
                ledger2.note(fd * EACH as usize + at as usize);
                order2.borrow_mut()[fd] += 1;
            });
            let (ledger, order) = (ledger.clone(), order.clone());
            loop_.submit(op::recv(&receivers[fd].0, [0; 4]), move |_, outcome| {
                let (n, bytes) = outcome.unwrap();
                assert_eq!(
                    (n, u32::from_ne_bytes(bytes)),
                    (4, at),
                    "receive {at} on {fd} got another's bytes"
                );
                ledger.note((4 + fd) * EACH as usize + at as usize);
                assert_eq!(order.borrow()[4 + fd], at, "receive {at} on {fd} completed out of order");
                order.borrow_mut()[4 + fd] += 1;
            });
        }
    }
    assert_eq!((loop_.in_flight(), order.borrow().iter().sum::<u32>()), (8 * EACH as usize, 0));
    loop_.run().unwrap();
    ledger.assert_each_once();
    for (_, peer) in &mut senders {
        let mut bytes = vec![0; 4 * EACH as usize];
        peer.read_exact(&mut bytes).unwrap();
        assert!(bytes.chunks(4).map(|four| u32::from_ne_bytes(four.try_into().unwrap())).eq(0..EACH));
    }
}

/// H2: what completes while nobody reaps is not lost for want of room.
pub fn h02_completions_before_a_reap() {
    let loop_ = tiny();
    let (socket, _peer) = half_unix();
    let ledger = Ledger::new(COMPLETIONS);
    let mut endless = Vec::new();
    for at in 0..COMPLETIONS {
        let ledger = ledger.clone();
        // Two of three are over as soon as the kernel sees them.
        match at % 3 {
            0 => loop_.submit(op::poll(&socket, libc::POLLOUT), move |_, outcome| {
                assert_eq!(outcome.unwrap(), libc::POLLOUT);
                ledger.note(at);
            }),
            1 => loop_.submit(op::send(&socket, Vec::new()), move |_, outcome| {
                assert_eq!(outcome.unwrap().0, 0);
                ledger.note(at);
            }),
            _ => {
                endless.push(loop_.submit(op::recv(&socket, vec![0; 1]), move |_, outcome| {
                    assert!(canceled(outcome));
                    ledger.note(at);
                }));
                continue;
            }
        };
    }
    assert_eq!(loop_.in_flight(), COMPLETIONS);
    // Cancels among the rest.
    endless.into_iter().for_each(|id| assert!(loop_.cancel(id)));
    loop_.run().unwrap();
    ledger.assert_each_once();
    let stats = loop_.stats();
    assert_eq!((stats.completed, stats.in_flight), (COMPLETIONS as u64, 0));
}

/// H2: one event completes thousands of operations that the kernel has had for a while.
pub fn h02_burst_of_completions() {
    const N: usize = 5000;
    let loop_ = tiny();
    for _ in 0..3 {
        let (socket, mut peer) = half_unix();
        let ledger = Ledger::new(N);
        for at in 0..N {
            let ledger = ledger.clone();
            loop_.submit(op::poll(&socket, libc::POLLIN), move |_, outcome| {
                assert_eq!(outcome.unwrap(), libc::POLLIN);
                ledger.note(at);
            });
        }
        poke(&loop_);
        assert_eq!(loop_.in_flight(), N);
        peer.write_all(b"x").unwrap();
        loop_.run().unwrap();
        ledger.assert_each_once();
    }
}

/// H3: cancels get through a submission queue that is full, whatever else is in it.
pub fn h03_cancel_on_a_full_queue() {
    let loop_ = tiny();
    let (socket, mut peer) = half_unix();
    // With none to hundreds queued before the cancel: its entry meets every state of the queue.
    for queued in (0..2 * SUBMISSIONS as usize + 2).chain([100, 255, 256, 257, 1000]) {
        for turned in [false, true] {
            let (outcome, note) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(0)));
            let to = outcome.clone();
            let target =
                loop_.submit(op::recv(&socket, vec![0; 4]), move |_, result| to.set(Some(canceled(result))));
            if turned {
                poke(&loop_);
            }
            for _ in 0..queued {
                let note = note.clone();
                loop_.submit(op::poll(&socket, libc::POLLOUT), move |_, _| note.set(note.get() + 1));
            }
            assert!(loop_.cancel(target));
            loop_.run().unwrap();
            assert_eq!((outcome.get(), note.get()), (Some(true), queued), "{queued} queued");
        }
    }
    // A thousand cancels at once, of what may not even have left us.
    let log = Log::new();
    let ids: Vec<_> = (0..1000)
        .map(|_| {
            let log = log.clone();
            loop_.submit(op::recv(&socket, vec![0; 4]), move |_, result| log.add(canceled(result)))
        })
        .collect();
    ids.iter().for_each(|id| assert!(loop_.cancel(*id)));
    loop_.run().unwrap();
    assert_eq!(log.all(), vec![true; 1000]);
    // None of them took a byte.
    peer.write_all(b"all").unwrap();
    let (n, buf) = loop_.start(op::recv(&socket, vec![0; 4])).take().unwrap().unwrap();
    assert_eq!(&buf[..n], b"all");
}

/// H3: so they do while completions wait for room.
pub fn h03_cancel_among_overflown_completions() {
    let loop_ = tiny();
    let (socket, _peer) = half_unix();
    for _ in 0..20 {
        let log = Log::new();
        let pending: Vec<_> = (0..50)
            .map(|_| {
                let log = log.clone();
                loop_.submit(op::recv(&socket, vec![0; 4]), move |_, result| log.add(canceled(result)))
            })
            .collect();
        let count = Rc::new(Cell::new(0));
        for _ in 0..20 * RING {
            let count = count.clone();
            loop_.submit(op::poll(&socket, libc::POLLOUT), move |_, result| {
                result.unwrap();
                count.set(count.get() + 1);
            });
        }
        pending.iter().for_each(|id| assert!(loop_.cancel(*id)));
        loop_.run().unwrap();
        assert_eq!((log.all(), count.get()), (vec![true; 50], 20 * RING));
    }
}

/// H4: the waker's own completion meets a full queue, again and again; the next wake still arrives.
pub fn h04_waker_survives_overflow() {
    let loop_ = tiny();
    let remote = loop_.remote();
    let sleeper = gettid().as_raw_nonzero().get();
    let (rounds, round) = std::sync::mpsc::channel::<Option<std::os::unix::net::UnixStream>>();
    let waker = std::thread::spawn(move || {
        for (at, peer) in round.iter().enumerate() {
            sys::wait_until_asleep(sleeper);
            // The burst before the wake, after it, around it, and in its absence.
            let burst = || {
                if let Some(peer) = &peer {
                    (&*peer).write_all(b"x").unwrap();
                }
            };
            match at % 3 {
                0 => {
                    burst();
                    remote.wake();
                }
                1 => {
                    remote.wake();
                    burst();
                }
                _ => burst(),
            }
            remote.run(|loop_| loop_.stop()).unwrap();
        }
    });
    for at in 0..OVERFLOWS {
        let (socket, peer) = half_unix();
        let ledger = Ledger::new(100);
        for at in 0..100 {
            let ledger = ledger.clone();
            loop_.submit(op::poll(&socket, libc::POLLIN), move |_, outcome| {
                outcome.unwrap();
                ledger.note(at);
            });
        }
        // Keeps `run` going until the thread stops it.
        let endless = loop_.start(op::timer_at(towpath_loop::Instant::NEVER));
        rounds.send(Some(peer)).unwrap();
        loop_.run().unwrap();
        tick_until(&loop_, || loop_.in_flight() == 1);
        ledger.assert_each_once();
        // And a wake with nothing else going on.
        if at % 10 == 0 {
            rounds.send(None).unwrap();
            loop_.run().unwrap();
        }
        drop(endless);
        poke(&loop_);
    }
    drop(rounds);
    waker.join().unwrap();
}

/// H5: out of descriptors, accepting tells so without spinning; the rest goes on, and so does accepting, once there
/// are descriptors again.
pub fn h05_accept_without_descriptors() {
    const CLIENTS: usize = 10;
    let loop_ = new_loop();
    let (listener, addr) = listener();
    let clients: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let (a, b) = unix();
    let accepted = Log::new();
    let failures = Log::new();
    // Accepts for ever, as a server does.
    fn accept_next(loop_: &Loop, listener: Socket, accepted: Log<Socket>, failures: Log<StdInstant>) {
        loop_.submit(op::accept(listener.clone()), move |loop_, outcome| {
            match outcome {
                Ok((socket, _)) => accepted.add(socket),
                Err(error) if is_canceled(&error) => return,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                    failures.add(StdInstant::now());
                }
            }
            accept_next(loop_, listener, accepted, failures);
        });
    }
    let (filler, limit) = sys::spare_fds(3);
    accept_next(&loop_, listener, accepted.clone(), failures.clone());
    let cpu = sys::thread_cpu_time();
    let begun = StdInstant::now();
    let mut echoes = 0;
    let lasting = Duration::from_millis(400);
    while begun.elapsed() < lasting {
        // Meanwhile, another connection and timers do not notice.
        let sent = StdInstant::now();
        let recv = loop_.start(op::recv(&b, vec![0; 4]));
        loop_.start(op::send(&a, b"ping".to_vec())).take().unwrap().unwrap();
        assert_eq!(recv.take().unwrap().unwrap().1, b"ping");
        assert!(sent.elapsed() < patience(Duration::from_millis(50)), "{:?}", sent.elapsed());
        loop_.start(op::timer(Duration::from_millis(5))).take().unwrap().unwrap();
        echoes += 1;
    }
    let cpu = sys::thread_cpu_time() - cpu;
    assert!(cpu < begun.elapsed() / 5, "{cpu:?} of {:?}", begun.elapsed());
    assert!(echoes > 10, "{echoes}");
    assert_eq!(accepted.len(), 3, "not all descriptors were used");
    // It is told, and not more often than documented.
    let told = failures.all();
    assert!(!told.is_empty() && told.len() <= 45, "{} errors in {lasting:?}", told.len());
    assert!(told.windows(2).all(|two| two[1] - two[0] >= Duration::from_millis(9)), "{told:?}");
    drop((limit, filler));
    tick_until(&loop_, || accepted.len() == CLIENTS);
    loop_.cancel_all();
    loop_.run().unwrap();
    for (socket, mut client) in accepted.take().into_iter().zip(clients) {
        loop_.start(op::send(&socket, b"!".to_vec())).take().unwrap().unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}

/// H11: with a limit, operations beyond it are refused untried, and give their buffers back.
pub fn h11_limit_on_operations() {
    const LIMIT: usize = 100;
    let loop_ = Config::new().max_operations(LIMIT).build().unwrap();
    loop_.make_current();
    let (socket, mut peer) = half_unix();
    let log = Log::new();
    let ids: Vec<_> = (0..LIMIT)
        .map(|_| {
            assert!(!loop_.is_full());
            let log = log.clone();
            loop_.submit(op::recv(&socket, vec![0; 1]), move |_, outcome| log.add(canceled(outcome)))
        })
        .collect();
    assert!(loop_.is_full());
    // Refused, of each sort, and never inline.
    let quota = |error: &io::Error| assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded, "{error}");
    let failed = loop_.start(op::send(&socket, b"never sent".to_vec())).take().unwrap().unwrap_err();
    quota(&failed.error);
    assert_eq!((failed.transferred, failed.buf), (0, Some(b"never sent".to_vec())));
    quota(&loop_.start(op::timer(Duration::ZERO)).take().unwrap().unwrap_err());
    quota(&loop_.start(op::next_tick()).take().unwrap().unwrap_err());
    quota(&error(loop_.start(op::blocking(|| panic!("it ran"))).take().unwrap()));
    quota(&loop_.start(op::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).take().unwrap().unwrap_err());
    quota(&op::send(&socket, b"never sent").wait().unwrap_err());
    // A close that is refused closes all the same: the descriptor was given up.
    let (closed, witness) = half_unix();
    quota(&loop_.start(op::close(closed)).take().unwrap().unwrap_err());
    assert_eq!((&witness).read(&mut [0]).unwrap(), 0);
    // From another thread.
    let (remote, (tell, told)) = (loop_.remote(), std::sync::mpsc::channel());
    remote.submit(op::next_tick(), move |_, outcome| tell.send(outcome).unwrap()).unwrap();
    while loop_.tick(Some(Duration::ZERO)).unwrap() == 0 {}
    quota(&told.recv().unwrap().unwrap_err());
    assert_eq!((loop_.in_flight(), log.len()), (LIMIT, 0));
    // One goes, one may come. What was refused did not happen.
    assert!(loop_.cancel(ids[7]));
    tick_until(&loop_, || log.len() == 1);
    assert!(!loop_.is_full());
    loop_.start(op::send(&socket, b"sent".to_vec())).take().unwrap().unwrap();
    let mut bytes = [0; 4];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"sent");
    loop_.cancel_all();
    loop_.run().unwrap();
    assert_eq!(log.all(), vec![true; LIMIT]);
    drop(Loop::take_current());
}

/// H11: who looks at `is_full` before each submit keeps memory bounded, however much there is to do.
pub fn h11_backpressure_bounds_memory() {
    let loop_ = Config::new().max_operations(64).build().unwrap();
    let (a, mut peer) = half_unix();
    let total = scaled(2_000_000);
    let reader = std::thread::spawn(move || {
        let mut count = 0;
        let mut chunk = vec![0; 1 << 16];
        loop {
            match peer.read(&mut chunk).unwrap() {
                0 => return count,
                n => count += n as u64,
            }
        }
    });
    let done = Rc::new(Cell::new(0));
    for _ in 0..total {
        while loop_.is_full() {
            loop_.tick(None).unwrap();
        }
        let done = done.clone();
        loop_.submit(op::send(&a, vec![1; 100]).all(true), move |_, outcome| {
            assert_eq!(outcome.unwrap().0, 100);
            done.set(done.get() + 1);
        });
        assert!(loop_.in_flight() <= 64);
    }
    loop_.run().unwrap();
    assert_eq!(done.get(), total);
    drop(a);
    assert_eq!(reader.join().unwrap(), 100 * total);
    drop(net::unix_pair());
}
