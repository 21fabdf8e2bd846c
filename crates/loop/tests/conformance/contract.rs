//! C: completion and cancellation. Exactly once; nothing lost; nobody writes to memory that is not theirs.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, IntoFuture};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as StdInstant};

use towpath_harness::{Rng, net, sys};
use towpath_loop::{Event, Instant, Loop, OpId, age_next_slot, is_canceled, op};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);
const NEVER: Duration = Duration::MAX;

/// C1: every operation completes exactly once, through a random sequence of all kinds, cancelled, removed or not.
pub fn c01_exactly_once() {
    let loop_ = new_loop();
    let mut rng = Rng::new(101);
    let pairs: Vec<_> = (0..32).map(|_| unix()).collect();
    let (listener, addr) = listener();
    let event = Event::new();
    // What became of each: its fate, its id, whether it was removed while it was in flight.
    let mut live: Vec<(Rc<Fate>, OpId, bool)> = Vec::new();
    let (mut begun, mut clients) = (0u64, Vec::new());
    let total = scaled(1_000_000);
    let check = |(fate, _, removed): &(Rc<Fate>, OpId, bool)| {
        let calls = fate.calls();
        assert_eq!(calls, u32::from(!removed), "removed: {removed}");
    };
    while begun < total {
        let (a, b) = &pairs[rng.below(32) as usize];
        let (fate, g) = Fate::new();
        let limit = if rng.once_in(3) { Duration::from_micros(rng.below(300)) } else { NEVER };
        let id = match rng.below(16) {
            0 => loop_.submit(op::next_tick(), move |_, _| g.call()),
            1 => loop_.submit(op::timer(Duration::from_micros(rng.below(2000))), move |_, _| g.call()),
            2..5 => loop_.submit(op::recv(a, vec![0; 64]).timeout(limit), move |_, _| g.call()),
            5..8 => loop_.submit(op::send(b, vec![1; 64]).timeout(limit), move |_, _| g.call()),
            8 => loop_.submit(op::recv_vectored(a, vec![vec![0; 4], vec![0; 60]]), move |_, _| g.call()),
            9 => loop_.submit(op::send_vectored(b, vec![vec![0; 4], vec![0; 60]]), move |_, _| g.call()),
            10 => loop_.submit(op::poll(a, libc::POLLIN).timeout(limit), move |_, _| g.call()),
            11 => loop_.submit(op::accept(&listener).timeout(limit), move |_, _| g.call()),
            12 => loop_.submit(op::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), move |_, _| g.call()),
            13 => loop_.submit(event.notified().timeout(limit), move |_, _| g.call()),
            14 => loop_.submit(op::recv(a, vec![0; 200]).all(true).timeout(limit), move |_, _| g.call()),
            _ if rng.once_in(20) => loop_.submit(op::blocking(|| ()), move |_, _| g.call()),
            _ => loop_.submit(op::send(b, [7u8; 16]).all(true), move |_, _| g.call()),
        };
        assert_eq!(fate.called(), 0, "inline");
        begun += 1;
        live.push((fate, id, false));
        if rng.once_in(3) {
            let at = rng.below(live.len() as u64) as usize;
            let (fate, id, removed) = &mut live[at];
            if rng.once_in(2) {
                let found = loop_.cancel(*id);
                assert!(!found || !fate.is_over(), "cancel found what was over");
            } else {
                let over = fate.is_over();
                let found = loop_.remove(*id);
                assert!(found != over || *removed, "remove said {found}, over: {over}");
                *removed |= found;
            }
        }
        if rng.once_in(50) {
            event.notify();
            if clients.len() < 64 {
                clients.push(TcpStream::connect(addr).unwrap());
            }
        }
        if rng.once_in(20) {
            poke(&loop_);
            live.retain(|entry| {
                let over = entry.0.is_over();
                if over {
                    check(entry);
                }
                !over
            });
        }
        if live.len() > 2000 {
            loop_.cancel_all();
        }
    }
    loop_.cancel_all();
    loop_.run().unwrap();
    live.iter().for_each(check);
    let stats = loop_.stats();
    assert_eq!((stats.submitted, stats.completed, stats.in_flight, stats.timers), (begun, begun, 0, 0));
}

/// C2: never from inside `submit`, not even what is over at once.
pub fn c02_never_inline() {
    let loop_ = new_loop();
    let (a, b) = unix();
    let closed = a.clone();
    let (gone, _peer) = unix();
    let keep = gone.clone();
    loop_.submit(op::close(gone), |_, _| ());
    loop_.run().unwrap();
    let (event, inside, called) = (Event::new(), Rc::new(Cell::new(true)), Rc::new(Cell::new(0)));
    event.notify();
    let callback = || {
        let (inside, called) = (inside.clone(), called.clone());
        move || {
            assert!(!inside.get(), "delivered from inside submit or cancel");
            called.set(called.get() + 1);
        }
    };
    macro_rules! probe {
        ($($op:expr),* $(,)?) => {$(
            let f = callback();
            loop_.submit($op, move |_, _| f());
        )*};
    }
    probe!(
        op::next_tick(),
        op::timer(Duration::ZERO),
        op::send(&b, b"data".to_vec()),
        op::recv(&a, vec![0; 2]),
        op::recv(&a, vec![0; 0]).all(true),
        op::poll(&a, libc::POLLOUT),
        op::recv(&keep, vec![0; 2]),
        op::socket(-1, -1, -1),
        op::shutdown(&b, std::net::Shutdown::Write),
        op::blocking(|| ()),
        event.notified(),
        op::close(b),
        op::close(closed),
    );
    let f = callback();
    let id = loop_.submit(op::timer(NEVER), move |_, _| f());
    loop_.cancel(id);
    loop_.cancel_all();
    inside.set(false);
    loop_.run().unwrap();
    assert_eq!(called.get(), 14);
}

/// C3: cancelled before the loop ran: cancelled, and nothing was taken.
pub fn c03_cancel_before_run() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    let (listener, addr) = listener();
    let read = loop_.start(op::recv(&socket, vec![0; 8]));
    let accept = loop_.start(op::accept(&listener));
    let timer = loop_.start(op::timer(Duration::ZERO));
    for id in [read.id(), accept.id(), timer.id()] {
        assert!(loop_.cancel(id));
    }
    peer.write_all(b"data").unwrap();
    let client = TcpStream::connect(addr).unwrap();
    assert!(is_canceled(&error(read.take().unwrap())));
    assert!(is_canceled(&error(accept.take().unwrap())));
    assert!(is_canceled(&error(timer.take().unwrap())));
    let mut buf = [0; 8];
    assert_eq!(op::recv(&socket, &mut buf[..]).wait().unwrap(), 4);
    assert_eq!(&buf[..4], b"data");
    let (_, from) = op::accept(&listener).wait().unwrap();
    assert_eq!(from.to_std().unwrap(), client.local_addr().unwrap());

    // With data there, either is right, but the bytes are in one place.
    for _ in 0..200 {
        peer.write_all(b"more").unwrap();
        let ticket = loop_.start(op::recv(&socket, vec![0; 8]));
        loop_.cancel(ticket.id());
        if canceled(ticket.take().unwrap()) {
            assert_eq!(op::recv(&socket, &mut buf[..]).wait().unwrap(), 4);
        }
        assert_timed_out(
            op::recv(&socket, &mut buf[..]).flags(libc::MSG_PEEK).timeout(Duration::ZERO).wait(),
        );
    }
    drop(Loop::take_current());
}

/// C4: cancelling twice, too late, or under a name that never was, does nothing to anybody.
pub fn c04_cancel_what_is_not_there() {
    let loop_ = new_loop();
    let done = loop_.submit(op::next_tick(), |_, outcome| outcome.unwrap());
    loop_.run().unwrap();
    assert!(!loop_.cancel(done) && !loop_.remove(done));
    // Its slot is used again by now, by operations that must not notice.
    let (fate, fated) = Fate::new();
    let (socket, mut peer) = half_unix();
    let id = loop_.submit(op::recv(&socket, vec![0; 4]), move |_, outcome| {
        assert_eq!(outcome.unwrap().0, 1);
        fated.call();
    });
    let mut rng = Rng::new(4);
    for bits in [0, 1, u64::MAX, OpId::RESERVED, done.to_bits(), id.to_bits() ^ 1, id.to_bits() ^ 1 << 40] {
        assert!(
            bits == id.to_bits()
                || !loop_.cancel(OpId::from_bits(bits)) && !loop_.remove(OpId::from_bits(bits)),
            "{bits:#x}"
        );
    }
    for _ in 0..10_000 {
        let bits = rng.bits();
        assert!(bits == id.to_bits() || !loop_.cancel(OpId::from_bits(bits)));
    }
    peer.write_all(b"x").unwrap();
    loop_.run().unwrap();
    assert_eq!(fate.calls(), 1);
    let (fate, fated) = Fate::new();
    let id = loop_.submit(op::recv(&socket, vec![0; 4]), move |_, outcome| {
        assert!(canceled(outcome));
        fated.call();
    });
    assert!(loop_.cancel(id));
    loop_.cancel(id);
    poke(&loop_);
    loop_.cancel(id);
    loop_.run().unwrap();
    assert_eq!(fate.calls(), 1);
    assert!(!loop_.cancel(id));
}

/// A peer that writes the numbers 0, 1, 2, … as bytes, in pieces, at moments that nobody can foresee.
fn counting_peer(
    mut peer: impl Write + Send + 'static,
    total: usize,
    seed: u64,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut rng = Rng::new(seed);
        let mut at = 0;
        while at < total {
            let piece: Vec<u8> = (at..total).take(1 + rng.below(3) as usize).map(|n| n as u8).collect();
            peer.write_all(&piece).unwrap();
            at += piece.len();
            rng.spin(4000);
        }
    })
}

/// Checks that bytes come in the order of [`counting_peer`].
struct Counted(usize);

impl Counted {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(*byte, self.0 as u8, "after {} bytes", self.0);
            self.0 += 1;
        }
    }
}

/// C5: cancel against arrival: bytes are never both reported as cancelled and gone.
pub fn c05_cancel_races_completion() {
    let rounds = scaled(1_000_000) as usize;
    for tcp in [false, true] {
        let loop_ = new_loop();
        let mut rng = Rng::new(5);
        let total = rounds / 2;
        let (socket, thread) = if tcp {
            let (socket, peer) = half_tcp();
            peer.set_nodelay(true).unwrap();
            (socket, counting_peer(peer, total, 55))
        } else {
            let (socket, peer) = half_unix();
            (socket, counting_peer(peer, total, 55))
        };
        let (mut seen, mut canceled_times) = (Counted(0), 0u32);
        loop {
            let ticket = loop_.start(op::recv(&socket, vec![0; 4]));
            match rng.below(3) {
                0 => {}
                1 => _ = poke(&loop_),
                _ => rng.spin(2000),
            }
            loop_.cancel(ticket.id());
            match ticket.take().unwrap() {
                Ok((0, _)) => break,
                Ok((n, buf)) => seen.take(&buf[..n]),
                Err(failed) => {
                    assert!(is_canceled(&failed.error), "{failed}");
                    canceled_times += 1;
                }
            }
        }
        thread.join().unwrap();
        assert_eq!(seen.0, total);
        assert!(canceled_times > 0, "nothing was ever cancelled: no race was run");
    }
}

/// C6: an operation whose ticket, future or loop is gone does not write to its buffer once that is freed.
pub fn c06_dropped_recv_leaves_memory_alone() {
    for way in 0..4 {
        for reaches_kernel in [false, true] {
            for round in 0..50 {
                let loop_ = current_loop();
                let (socket, mut peer) = half_unix();
                let (buf, watch) = Tracked::new(4096, 0);
                if way < 2 {
                    let ticket = loop_.start(op::recv(&socket, buf));
                    if reaches_kernel {
                        poke(&loop_);
                    }
                    if way == 0 {
                        drop(ticket);
                    } else {
                        loop_.remove(ticket.id());
                    }
                } else {
                    let mut future = pin!(op::recv(&socket, buf).into_future());
                    let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    assert!(polled.is_pending());
                    if reaches_kernel {
                        poke(&loop_);
                    }
                    if way == 2 {
                        // The pinned future is dropped at the end of this block, the loop first.
                        drop(Loop::take_current());
                    }
                }
                if round % 2 == 0 {
                    peer.write_all(&[1; 1000]).unwrap();
                }
                loop_.run().unwrap();
                assert_eq!(loop_.in_flight(), 0);
                // Whatever still pointed there would write now.
                peer.set_nonblocking(true).unwrap();
                let _ = peer.write(&[2; 1000]);
                poke(&loop_);
                poke(&loop_);
                watch.assert_intact();
                drop((loop_, Loop::take_current()));
                watch.assert_intact();
            }
        }
    }
}

/// C7: a send whose ticket is gone sends what was there, or nothing; not what came to that memory later.
pub fn c07_dropped_send_sends_the_original() {
    for reaches_kernel in [false, true] {
        for _ in 0..20 {
            let loop_ = new_loop();
            let (socket, mut peer) = half_unix();
            let filled = net::fill(&socket, 0);
            let (buf, watch) = Tracked::new(300_000, 7);
            let ticket = loop_.start(op::send(&socket, buf).all(true));
            if reaches_kernel {
                poke(&loop_);
                // Room for a part of it.
                peer.read_exact(&mut vec![0; filled / 2]).unwrap();
                poke(&loop_);
            }
            drop(ticket);
            loop_.run().unwrap();
            assert!(watch.is_freed());
            drop(socket);
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).unwrap();
            let rest = bytes.iter().skip_while(|byte| **byte == 0);
            assert!(rest.clone().all(|byte| *byte == 7), "other bytes than the buffer's were sent");
        }
    }
}

/// C8: a forgotten future keeps its buffer for ever, and touches nothing else.
pub fn c08_forgotten_future() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    let (buf, watch) = Tracked::new(4096, 0);
    let mut future = Box::pin(op::recv(&socket, buf).into_future());
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    poke(&loop_);
    std::mem::forget(future);
    drop(socket);
    // Memory that may be where the future's parts would have been, had they been freed.
    let canaries: Vec<_> = (0..1000).map(|_| vec![CANARY; 4096].into_boxed_slice()).collect();
    peer.write_all(&[1; 4096]).unwrap();
    loop_.run().unwrap();
    assert!(canaries.iter().all(|memory| memory.iter().all(|byte| *byte == CANARY)));
    assert!(!watch.is_freed(), "the outcome is the forgotten future's");
    assert_eq!(loop_.in_flight(), 0);
    // The future holds a handle to the loop, so that is forgotten with it (see `leaks` in the list of tests).
    drop(Loop::take_current());
}

/// C9: a receive with a time-out, over and over: no byte is lost between two.
pub fn c09_timeouts_lose_nothing() {
    let total = scaled(100_000) as usize;
    let loop_ = current_loop();
    let (socket, peer) = half_unix();
    let thread = counting_peer(peer, total, 9);
    let (mut rng, mut seen, mut timeouts, mut partial) = (Rng::new(9), Counted(0), 0, 0);
    loop {
        let limit = Duration::from_nanos(rng.below(40_000));
        if rng.once_in(2) {
            // Borrowed, one call's worth.
            let mut buf = [0; 8];
            match op::recv(&socket, &mut buf[..]).timeout(limit).wait() {
                Ok(0) => break,
                Ok(n) => seen.take(&buf[..n]),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    timeouts += 1;
                }
            }
        } else {
            // Owned, all of it: what had come before the time-out is reported with it.
            match op::recv(&socket, vec![0; 16]).all(true).timeout(limit).started(&loop_) {
                Ok((n, buf)) => {
                    seen.take(&buf[..n]);
                    if n < 16 {
                        break;
                    }
                }
                Err(failed) => {
                    assert_eq!(failed.error.kind(), io::ErrorKind::TimedOut);
                    seen.take(&failed.buf.unwrap()[..failed.transferred]);
                    partial += usize::from(failed.transferred > 0);
                }
            }
        }
    }
    thread.join().unwrap();
    assert_eq!(seen.0, total);
    assert!(timeouts > 0 && partial > 0, "{timeouts} time-outs, {partial} in the middle: no race was run");
    drop(Loop::take_current());
}

/// `start` and `take` in one.
trait Started: towpath_loop::op::Detach
where
    Self::Output: 'static,
{
    fn started(self, loop_: &Loop) -> Self::Output {
        loop_.start(self).take().unwrap()
    }
}
impl<O: towpath_loop::op::Detach> Started for O where O::Output: 'static {}

/// C10: an accept is dropped just as a client connects: the client is accepted by another or sees the end; no
/// descriptor is lost.
pub fn c10_dropped_accept() {
    let rounds = scaled(100_000);
    let loop_ = new_loop();
    let (listener, addr) = listener();
    let fds = sys::fd_count();
    let client = std::thread::spawn(move || {
        let (mut served, mut ended) = (0, 0);
        for _ in 0..rounds {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(towpath_harness::patience(Duration::from_secs(3)))).unwrap();
            match stream.read(&mut [0; 1]) {
                Ok(1) => served += 1,
                Ok(_) => ended += 1,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => ended += 1,
                Err(error) => panic!("a client hangs: {error}"),
            }
        }
        (served, ended)
    });
    let mut rng = Rng::new(10);
    while !client.is_finished() {
        let mut ticket = loop_.start(op::accept(&listener));
        if rng.once_in(2) {
            poke(&loop_);
        }
        rng.spin(3000);
        if rng.once_in(2) {
            drop(ticket);
            continue;
        }
        poke(&loop_);
        if let Some(accepted) = ticket.try_take() {
            let socket = accepted.unwrap().0;
            loop_.submit(op::send(socket, vec![1]), |_, _| ());
        }
    }
    let (served, ended) = client.join().unwrap();
    loop_.run().unwrap();
    assert_eq!(served + ended, rounds);
    assert!(served > 0);
    assert_eq!(sys::fd_count(), fds);
}

/// C11: operations that make a descriptor, dropped in flight, make none in the end.
pub fn c11_dropped_socket_and_open() {
    let loop_ = new_loop();
    poke(&loop_);
    let fds = sys::fds();
    let mut rng = Rng::new(11);
    for round in 0..10_000 {
        let ticket = loop_.start(op::socket(libc::AF_INET, libc::SOCK_STREAM, 0));
        let job = (round % 20 == 0).then(|| loop_.start(op::blocking(|| File::open("/dev/null").unwrap())));
        match rng.below(3) {
            0 => _ = poke(&loop_),
            1 => rng.spin(2000),
            _ => {}
        }
        drop((ticket, job));
    }
    loop_.run().unwrap();
    // Jobs that had begun run on without the loop; the last of the descriptors closes when they end.
    let deadline = StdInstant::now() + towpath_harness::patience(Duration::from_secs(2));
    while sys::fds() != fds {
        assert!(StdInstant::now() < deadline, "{:?}", sys::fds());
        std::thread::yield_now();
    }
}

/// C13: the first of a batch drops all the others of it: none of those is called.
pub fn c13_first_of_a_batch_drops_the_rest() {
    for by_ticket in [false, true] {
        let loop_ = new_loop();
        let pairs: Vec<_> = (0..26).map(|_| half_unix()).collect();
        let calls = Rc::new(Cell::new(0));
        let ids = Rc::new(RefCell::new(Vec::new()));
        let tickets = Rc::new(RefCell::new(Vec::new()));
        let mut watches = Vec::new();
        if by_ticket {
            for (socket, _) in &pairs[1..] {
                let (buf, watch) = Tracked::new(64, 0);
                tickets.borrow_mut().push(loop_.start(op::recv(socket, buf)));
                watches.push(watch);
            }
        }
        for (socket, _) in if by_ticket { &pairs[..1] } else { &pairs[..] } {
            let (calls, ids2, tickets) = (calls.clone(), ids.clone(), tickets.clone());
            let (buf, watch) = Tracked::new(64, 0);
            watches.push(watch);
            let id = loop_.submit(op::recv(socket, buf), move |loop_, _| {
                calls.set(calls.get() + 1);
                for id in ids2.borrow().iter() {
                    loop_.remove(*id);
                }
                tickets.take().clear();
            });
            ids.borrow_mut().push(id);
        }
        poke(&loop_);
        for (_, peer) in &pairs {
            (&*peer).write_all(b"x").unwrap();
        }
        loop_.run().unwrap();
        assert_eq!((calls.get(), loop_.in_flight()), (1, 0));
        for (_, peer) in &pairs {
            (&*peer).write_all(b"later").unwrap();
        }
        poke(&loop_);
        watches.iter().for_each(Watch::assert_intact);
    }
}

/// C14: after four billion uses of a slot, an old name still finds nothing.
pub fn c14_generations_come_round() {
    let loop_ = new_loop();
    let mut old: Vec<OpId> = Vec::new();
    let mut uses = |n| {
        for _ in 0..n {
            let id = loop_.submit(op::next_tick(), |_, outcome| outcome.unwrap());
            assert!(!old.contains(&id), "{id:?} was used before");
            old.push(id);
            loop_.run().unwrap();
        }
        old.clone()
    };
    let first = uses(4);
    assert!(
        first.windows(2).any(|ids| ids[0].to_bits() >> 32 == ids[1].to_bits() >> 32),
        "slots are not reused"
    );
    age_next_slot(&loop_, u32::MAX - 2);
    let old = uses(10);
    let (fate, fated) = Fate::new();
    let (socket, mut peer) = half_unix();
    let live = loop_.submit(op::recv(&socket, vec![0; 1]), move |_, outcome| {
        outcome.unwrap();
        fated.call();
    });
    for id in old {
        assert!(id != live && !loop_.cancel(id) && !loop_.remove(id), "{id:?} finds the operation {live:?}");
    }
    peer.write_all(b"x").unwrap();
    loop_.run().unwrap();
    assert_eq!(fate.calls(), 1);
}

/// C15: ten thousand pending operations cancelled at once, again and again.
pub fn c15_cancel_storm() {
    let loop_ = new_loop();
    let pairs: Vec<_> = (0..2500).map(|_| unix()).collect();
    let done = Rc::new(Cell::new(0));
    for round in 0..scaled(100) {
        for at in 0..10_000 {
            let done = done.clone();
            let socket = &pairs[at % pairs.len()].0;
            loop_.submit(op::recv(socket, [0u8; 8]).timeout(Duration::from_secs(60)), move |_, outcome| {
                assert!(canceled(outcome));
                done.set(done.get() + 1);
            });
        }
        poke(&loop_);
        let begun = StdInstant::now();
        loop_.cancel_all();
        loop_.run().unwrap();
        let took = begun.elapsed();
        assert!(took < towpath_harness::patience(Duration::from_secs(1)), "round {round} took {took:?}");
        assert_eq!(done.replace(0), 10_000);
    }
    assert_eq!(loop_.stats().timers, 0);
}

/// C17: a job that is cancelled while it is queued never runs; one that runs, runs on; one that blocks for ever does
/// not keep the loop from ending.
pub fn c17_cancel_blocking_jobs() {
    let loop_ = new_loop();
    let barrier = Arc::new(Barrier::new(2));
    let ended = Arc::new(AtomicBool::new(false));
    let (there, done) = (barrier.clone(), ended.clone());
    let running = loop_.start(op::blocking(move || {
        there.wait();
        there.wait();
        done.store(true, Ordering::Release);
        vec![0u8; 1000]
    }));
    barrier.wait();
    assert!(loop_.cancel(running.id()));
    assert!(is_canceled(&error(running.take().unwrap())), "it cannot have ended");
    assert!(!ended.load(Ordering::Acquire));
    barrier.wait();
    let deadline = StdInstant::now() + towpath_harness::patience(Duration::from_secs(2));
    while !ended.load(Ordering::Acquire) {
        assert!(StdInstant::now() < deadline, "a running job did not run to its end");
        std::thread::yield_now();
    }

    // As many as the pool has threads, and more: all block in `read` on a pipe. The last ones are queued.
    let (reader, writer) = io::pipe().unwrap();
    let reader = Arc::new(reader);
    let ran = Arc::new(AtomicUsize::new(0));
    let begin = |ran: &Arc<AtomicUsize>| {
        let (reader, ran) = (reader.clone(), ran.clone());
        loop_.start(op::blocking(move || {
            ran.fetch_add(1, Ordering::AcqRel);
            (&*reader).read(&mut [0; 1]).unwrap()
        }))
    };
    let threads = std::thread::available_parallelism().map_or(64, |cpus| (cpus.get() * 4).max(64));
    let blocked: Vec<_> = (0..threads).map(|_| begin(&ran)).collect();
    while ran.load(Ordering::Acquire) < threads {
        assert!(StdInstant::now() < deadline, "{} of {threads} run", ran.load(Ordering::Acquire));
        std::thread::yield_now();
    }
    let late = Arc::new(AtomicUsize::new(0));
    let queued: Vec<_> = (0..10).map(|_| begin(&late)).collect();
    for ticket in queued {
        loop_.cancel(ticket.id());
        assert!(is_canceled(&error(ticket.take().unwrap())));
    }
    let begun = StdInstant::now();
    blocked.into_iter().for_each(drop);
    drop(loop_);
    assert!(begun.elapsed() < towpath_harness::patience(Duration::from_millis(500)), "{:?}", begun.elapsed());
    drop(writer);
    // Every thread is free again; had a queued job not been undone, it would run before this one.
    let loop_ = new_loop();
    let after: Vec<_> = (0..threads).map(|_| loop_.start(op::blocking(|| ()))).collect();
    after.into_iter().for_each(|ticket| ticket.take().unwrap().unwrap());
    assert_eq!(late.load(Ordering::Acquire), 0, "a job ran that was cancelled in the queue");
}

/// C18: of several limits the earliest ends it; the caller's own cancel beats them.
pub fn c18_nested_deadlines() {
    let loop_ = current_loop();
    let (socket, _peer) = unix();
    let (near, far) = (3 * MS, Duration::from_secs(60));
    for (inner, outer) in [(near, far), (far, near), (near, near)] {
        let begun = StdInstant::now();
        let result = op::recv(&socket, &mut [0; 8]).timeout(inner).timeout(outer).wait();
        assert_eq!(error(result).kind(), io::ErrorKind::TimedOut);
        let took = begun.elapsed();
        assert!(took >= near && took < towpath_harness::patience(Duration::from_secs(1)), "{took:?}");
        let result = op::recv(&socket, &mut [0; 8]).deadline(Instant::now() + inner).timeout(outer).wait();
        assert_eq!(error(result).kind(), io::ErrorKind::TimedOut);
    }
    for after_deadline in [false, true] {
        let deadline = Instant::now() + MS;
        let ticket = loop_.start(op::recv(&socket, vec![0; 8]).deadline(deadline));
        poke(&loop_);
        while after_deadline && Instant::now() <= deadline {}
        assert!(loop_.cancel(ticket.id()));
        while Instant::now() <= deadline {}
        assert!(is_canceled(&error(ticket.take().unwrap())), "the deadline beat the caller");
    }
    // Also where a tick has seen the deadline pass, as long as the operation is in flight.
    let deadline = Instant::now() + MS;
    let ticket = loop_.start(op::recv(&socket, vec![0; 8]).deadline(deadline));
    poke(&loop_);
    while Instant::now() <= deadline {}
    poke(&loop_);
    let in_flight = loop_.cancel(ticket.id());
    let error = error(ticket.take().unwrap());
    assert!(
        is_canceled(&error) == in_flight && (in_flight || error.kind() == io::ErrorKind::TimedOut),
        "{error}"
    );
    drop(Loop::take_current());
}

/// C20: a cancelled transfer of everything says how much of it was done.
pub fn c20_cancel_tells_the_progress() {
    let loop_ = new_loop();
    let (socket, mut peer) = half_unix();
    let ticket = loop_.start(op::send(&socket, vec![3; 8 << 20]).all(true));
    let mut got = 0;
    for _ in 0..5 {
        poke(&loop_);
        let mut piece = vec![0; 50_000];
        got += peer.read(&mut piece).unwrap();
    }
    loop_.cancel(ticket.id());
    let failed = ticket.take().unwrap().unwrap_err();
    assert!(is_canceled(&failed.error));
    assert_eq!(failed.buf.unwrap().len(), 8 << 20);
    drop(socket);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert!(failed.transferred > 0);
    assert_eq!(failed.transferred, got + rest.len());
    // And a receive: what had come is in the buffer.
    let (socket, mut peer) = half_unix();
    let ticket = loop_.start(op::recv(&socket, vec![0; 100]).all(true));
    peer.write_all(b"some").unwrap();
    poke(&loop_);
    poke(&loop_);
    loop_.cancel(ticket.id());
    let failed = ticket.take().unwrap().unwrap_err();
    assert_eq!((failed.transferred, &failed.buf.unwrap()[..4]), (4, &b"some"[..]));
}

/// A future that nobody drives is simply not there yet; polled after its end it panics.
pub fn c21_future_polled_after_its_end() {
    let loop_ = current_loop();
    let mut future = Box::pin(op::next_tick().into_future());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    poke(&loop_);
    assert!(matches!(future.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
    let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
    assert!(again.is_err());
    drop((future, Loop::take_current()));
}
