//! L15, L16: the pull queue; groups that wait for all or for the first, inside one another.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use towpath_harness::Rng;
use towpath_loop::op;
use towpath_loop::{Event, Instant, Loop, Queue, is_canceled};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Outcomes come in the order of completion, as many as one likes, and whatever is not wanted any more goes.
pub fn l15_queue() {
    let loop_ = new_loop();
    let queue: Queue<(usize, bool)> = Queue::new(&loop_);
    assert!(queue.next().unwrap().is_none() && queue.is_empty());
    let now = Instant::now();
    for at in [3, 1, 2] {
        queue.submit(op::timer_at(now + at * MS), move |outcome| (at as usize, outcome.is_ok()));
    }
    assert_eq!((queue.in_flight(), queue.len()), (3, 0));
    assert_eq!(queue.next().unwrap(), Some((1, true)));
    // More can be added at any time.
    queue.submit(op::next_tick(), |outcome| (9, outcome.is_ok()));
    // They come in the order in which they end, and where the new one stands among them depends on how long this took.
    let mut rest = queue.collect(3, None).unwrap();
    rest.retain(|end| *end != (9, true));
    assert_eq!(rest, [(2, true), (3, true)]);
    // A limit on the wait; what there is by then.
    let id = queue.submit(op::timer(DAY), |outcome| (4, is_canceled(&outcome.unwrap_err())));
    queue.submit(op::next_tick(), |_| (5, true));
    assert_eq!(queue.collect(2, Some(2 * MS)).unwrap(), [(5, true)]);
    assert!(queue.collect(1, Some(Duration::ZERO)).unwrap().is_empty());
    assert!(loop_.cancel(id));
    assert_eq!(queue.next().unwrap(), Some((4, true)));
    queue.submit(op::timer(DAY), |_| (6, true));
    queue.submit(op::timer(DAY), |_| (7, false));
    queue.cancel_all();
    assert_eq!(queue.collect(usize::MAX, None).unwrap(), [(6, true), (7, false)]);
    // One that is removed behind its back is not waited for.
    let id = queue.submit(op::timer(DAY), |_| unreachable!());
    assert!(loop_.remove(id));
    assert!(queue.next().unwrap().is_none());
    // Dropped, it takes along what is in flight.
    let (fate, fated) = Fate::new();
    let (socket, _peer) = half_unix();
    queue.submit(op::recv(&socket, vec![0; 8]), move |_| {
        fated.call();
        (8, true)
    });
    drop(queue);
    loop_.run().unwrap();
    assert_eq!(fate.calls(), 0);
}

/// A queue under load: many more operations than it takes at a time.
pub fn l15_queue_of_many() {
    let loop_ = new_loop();
    let queue = Queue::new(&loop_);
    let n = scaled(200_000) as usize;
    let pairs: Vec<_> = (0..16).map(|_| unix()).collect();
    let (mut begun, mut seen) = (0, vec![0_u8; n]);
    while begun < n || queue.in_flight() > 0 {
        while begun < n && queue.in_flight() < 64 {
            let (a, b) = &pairs[begun / 2 % 16];
            let key = begun;
            // A receive that waits, and the send that ends it.
            match begun % 2 {
                0 => queue.submit(op::recv(a, [0; 1]), move |outcome| (key, outcome.is_ok())),
                _ => queue.submit(op::send(b, [1]), move |outcome| (key, outcome.is_ok())),
            };
            begun += 1;
        }
        for (key, ok) in queue.collect(1, None).unwrap() {
            assert!(ok);
            seen[key] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count == 1));
}

/// The first cancels the others, which are awaited; what they brought all the same is given.
pub fn l16_race() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    let (_listener, addr) = listener();
    let raced = op::race((op::recv(&socket, vec![0; 4]), op::timer(MS), op::timer(DAY))).wait();
    assert_eq!(raced.winner, Some(1));
    assert!(canceled(raced.outputs.0) && raced.outputs.1.is_ok() && canceled(raced.outputs.2));
    peer.write_all(b"ab").unwrap();
    let raced = op::race((op::recv(&socket, vec![0; 1]), op::timer(DAY))).wait();
    assert_eq!((raced.winner, raced.outputs.0.unwrap().0), (Some(0), 1));
    // A failure is a completion as well. What is over at once keeps those after it from beginning.
    let event = Event::new();
    event.notify();
    let raced =
        op::race((op::bind(&socket, addr.into()), event.notified(), op::recv(&socket, vec![0; 1]))).wait();
    assert!(raced.outputs.0.is_err());
    match raced.winner {
        Some(0) => assert!(canceled(raced.outputs.1) && event.notified().wait().unwrap() == 1),
        winner => assert_eq!((winner, raced.outputs.1.unwrap()), (Some(1), 1)),
    }
    // Bytes that a loser got are its own, and not gone.
    let left = raced.outputs.2.map_or(0, |got| got.0);
    if left == 0 {
        assert_eq!(op::recv(&socket, vec![0; 4]).wait().unwrap().0, 1);
    }
    // All that win at one time.
    let raced = op::race((0..50).map(|_| op::next_tick()).collect::<Vec<_>>()).wait();
    assert_eq!(raced.winner, Some(0));
    let raced = op::race(Vec::<op::Timer>::new()).wait();
    assert!(raced.winner.is_none() && raced.outputs.is_empty());
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// Groups in groups, each with its own limit; the innermost that fires ends its own.
pub fn l16_nested() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    peer.write_all(b"x").unwrap();
    let ((got, raced), tail) = op::multi((
        op::gather((
            op::recv(&socket, vec![0; 1]),
            op::race((op::timer(DAY), op::gather((op::timer(MS), op::timer(2 * MS))))),
        ))
        .soft(),
        op::gather([op::timer(MS); 1]),
    ));
    assert_eq!((got.unwrap().0, raced.winner), (1, Some(1)));
    assert!(canceled(raced.outputs.0) && raced.outputs.1.0.is_ok() && raced.outputs.1.1.is_ok());
    assert!(tail[0].is_ok());
    // A deep nest, cancelled from outside.
    let nest = op::gather((
        op::timer(DAY),
        op::race((op::timer(DAY), op::gather((op::recv(&socket, vec![0; 1]),)))),
    ));
    let log = Log::new();
    let to = log.clone();
    let id = loop_.submit(nest, move |_, (timer, raced)| {
        to.add((canceled(timer), canceled(raced.outputs.0), canceled(raced.outputs.1.0)));
    });
    poke(&loop_);
    loop_.cancel(id);
    loop_.run().unwrap();
    assert_eq!(log.all(), [(true, true, true)]);
    drop(Loop::take_current());
}

/// C16: members that complete on other threads, while the group is cancelled or times out: it completes once, and no
/// notification is lost.
pub fn c16_groups_complete_once() {
    let loop_ = current_loop();
    let mut rng = Rng::new(16);
    for _ in 0..scaled(40_000) {
        let (event, (fate, fated)) = (Event::new(), Fate::new());
        let (given, taken) = (Arc::new(AtomicU32::new(0)), Rc::new(Cell::new(0)));
        let waits = [0, 1].map(|_| event.notified());
        let jobs = [0, 1].map(|_| {
            let (event, given) = (event.clone(), given.clone());
            op::blocking(move || {
                given.fetch_add(1, Ordering::Relaxed);
                event.notify();
            })
        });
        let limit = Instant::now() + Duration::from_nanos(rng.below(100_000));
        let count = taken.clone();
        let note = move |waits: [io::Result<u32>; 2]| {
            fated.call();
            count.set(waits.into_iter().flatten().sum());
        };
        if rng.once_in(2) {
            let all = op::gather((op::gather(waits), op::gather(jobs))).deadline(limit);
            loop_.submit(all, move |_, (waits, _)| note(waits));
        } else {
            let first = op::race((op::gather(waits), op::gather(jobs), op::timer_at(limit)));
            loop_.submit(first, move |_, raced| note(raced.outputs.0));
        }
        loop_.run().unwrap();
        assert_eq!(fate.calls(), 1);
        // Jobs run on after they were cancelled; their notifications stay with the event.
        while Arc::strong_count(&given) > 1 {
            std::thread::yield_now();
        }
        // Some may be on their way to a wait that is over, and come back one by one. A lost one would be waited for in vain.
        let mut sum = taken.get();
        while sum < given.load(Ordering::Relaxed) {
            sum += event.notified().wait().unwrap();
        }
        assert_eq!(sum, given.load(Ordering::Relaxed));
    }
    drop(Loop::take_current());
}

/// C13 for groups: in one batch, the first completion drops groups whose members are complete as well.
pub fn c13_groups_dropped_in_the_batch_that_completes_them() {
    let loop_ = new_loop();
    let pairs: Vec<_> = (0..20).map(|_| half_unix()).collect();
    let ids = Rc::new(RefCell::new(Vec::new()));
    let log = Log::new();
    for (at, (socket, _)) in pairs.iter().enumerate() {
        let (ids2, log) = (ids.clone(), log.clone());
        let reads =
            op::gather((op::recv(socket, vec![0; 1]).soft(), op::next_tick(), op::recv(socket, vec![0; 1])));
        let id = loop_.submit(reads, move |loop_, _| {
            log.add(at);
            for id in ids2.take() {
                loop_.remove(id);
            }
        });
        ids.borrow_mut().push(id);
    }
    poke(&loop_);
    for (_, peer) in &pairs {
        (&*peer).write_all(b"xy").unwrap();
    }
    loop_.run().unwrap();
    assert_eq!(log.len(), 1);
}

/// C15 for groups: thousands of batches that wait, cancelled together, again and again.
pub fn c15_storm_of_groups() {
    let loop_ = new_loop();
    let pairs: Vec<_> = (0..100).map(|_| unix()).collect();
    for round in 0..5 {
        let count = Rc::new(Cell::new(0));
        for at in 0..1000 {
            let (socket, count) = (&pairs[at % 100].0, count.clone());
            let reads =
                (op::recv(socket, vec![0; 8]).soft(), op::recv(socket, vec![0; 8]).hard(), op::timer(DAY));
            loop_.submit(op::gather(reads), move |_, (a, b, c)| {
                count.set(
                    count.get()
                        + usize::from(canceled(a))
                        + usize::from(canceled(b))
                        + usize::from(canceled(c)),
                );
            });
        }
        if round % 2 == 1 {
            poke(&loop_);
        }
        loop_.cancel_all();
        loop_.run().unwrap();
        assert_eq!(count.get(), 3000);
    }
}

/// C18: limits of operations, of groups and of groups around those: the nearest fires, and only that.
pub fn c18_limits_of_groups() {
    let loop_ = current_loop();
    let (socket, _peer) = half_unix();
    for (inner, outer) in [(1, 30), (30, 1), (1, 1)] {
        let begun = std::time::Instant::now();
        let read = op::recv(&socket, vec![0; 8]).timeout(DAY);
        let (group, other) = op::multi((
            op::gather((read, op::timer(DAY))).timeout(inner * MS),
            op::race([op::timer(3 * MS)]).timeout(DAY),
        ));
        assert!(other.outputs[0].is_ok() && begun.elapsed() >= 3 * MS);
        assert_timed_out(group.0);
        assert_timed_out(group.1);
        let (group, other) =
            op::gather((op::gather((op::recv(&socket, vec![0; 8]),)).timeout(inner * MS), op::timer(DAY)))
                .timeout(outer * MS)
                .wait();
        assert_timed_out(group.0);
        assert_timed_out(other);
    }
    // A cancel by the caller beats a limit that has passed as well.
    let log = Log::new();
    let to = log.clone();
    let id = loop_.submit(
        op::gather((op::recv(&socket, vec![0; 8]),)).timeout(Duration::ZERO),
        move |_, (read,)| {
            to.add(canceled(read));
        },
    );
    loop_.cancel(id);
    loop_.run().unwrap();
    assert_eq!(log.all(), [true]);
    drop(Loop::take_current());
}
