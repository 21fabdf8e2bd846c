//! L14: batches and links. The same order and the same cancellations on every backend.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use towpath_harness::net;
use towpath_loop::op::{self, Completed, JobError};
use towpath_loop::{Config, Event, Link, Loop, Socket, is_canceled};

use crate::common::*;

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A socket that nothing can be sent on.
fn broken() -> Socket {
    let (socket, _) = half_unix();
    op::shutdown(&socket, Shutdown::Both).wait().unwrap();
    socket
}

/// Three sends and the answer to them, in one batch, with borrowed buffers. On a ring it is one submission.
pub fn l14_sends_and_an_answer() {
    let loop_ = current_loop();
    for (socket, peer) in [unix(), tcp()] {
        let log = Log::new();
        let asked = log.clone();
        loop_.submit(op::recv(peer.clone(), vec![0; 10]).all(true), move |loop_, outcome| {
            asked.add(String::from_utf8(outcome.unwrap().1).unwrap());
            loop_.submit(op::send(&peer, b"fine".to_vec()), |_, outcome| assert_eq!(outcome.unwrap().0, 4));
        });
        poke(&loop_);
        let (mut buf, before) = ([0; 16], loop_.stats().syscalls);
        let (a, b, c, n) = op::multi((
            op::send(&socket, b"one ").all(true).soft(),
            op::send(&socket, b"two ").soft(),
            op::send(&socket, b"3!").hard(),
            op::recv(&socket, &mut buf),
        ));
        let calls = loop_.stats().syscalls - before;
        assert_eq!((a.unwrap(), b.unwrap(), c.unwrap(), n.unwrap()), (4, 4, 2, 4));
        assert_eq!((&buf[..4], log.all()), (&b"fine"[..], vec!["one two 3!".to_string()]));
        if loop_.backend() == "io_uring" {
            // The chain is handed over, the answer is, and the peer may be woken for each part of the question.
            assert!(calls <= 5, "{calls} system calls");
        }
        loop_.run().unwrap();
    }
    drop(Loop::take_current());
}

/// What becomes of four operations of which the second fails: by the link after it.
pub fn l14_links_break_or_hold() {
    let loop_ = current_loop();
    let (idle, _peer) = half_unix();
    for slow in [false, true] {
        for hard in [false, true] {
            let (socket, mut peer) = half_unix();
            // An error at once, or a time-out.
            let doomed =
                if slow { op::recv(&idle, vec![0; 8]).timeout(MS) } else { op::recv(closed(), vec![0; 8]) };
            let doomed = if hard { doomed.hard() } else { doomed.soft() };
            let (a, b, c, d) = op::multi((
                op::send(&socket, b"a").soft(),
                doomed,
                op::send(&socket, b"c").soft(),
                op::send(&socket, b"d"),
            ));
            assert_eq!(a.unwrap(), 1);
            if slow {
                assert_timed_out(b)
            } else {
                assert_eq!(errno(b), libc::EBADF)
            }
            assert_eq!((canceled(c), canceled(d)), (!hard, !hard));
            drop(socket);
            let mut got = String::new();
            peer.read_to_string(&mut got).unwrap();
            assert_eq!(got, if hard { "acd" } else { "a" });
        }
    }
    // Failures that the kernel finds.
    for hard in [false, true] {
        let (socket, broken) = (half_unix(), broken());
        let second = op::send(&broken, [2; 3]);
        let second = if hard { second.hard() } else { second.soft() };
        let (a, b, c) = op::multi((op::send(&socket.0, [1; 3]).soft(), second, op::send(&socket.0, [3; 3])));
        assert_eq!((a.unwrap().0, errno(b), canceled(c)), (3, libc::EPIPE, !hard));
    }
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// A socket that was closed: known as such before anything begins.
fn closed() -> Socket {
    let (socket, _) = half_unix();
    op::close(socket.clone()).wait().unwrap();
    socket
}

/// A receive that asked for all and came to the end has not succeeded; one that asked for what there is has.
pub fn l14_short_of_all() {
    let loop_ = current_loop();
    for all in [false, true] {
        let (socket, mut peer) = half_unix();
        let (out, mut read) = half_unix();
        peer.write_all(b"abc").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut buf = [0; 8];
        let (got, sent, end) = op::multi((
            op::recv(&socket, &mut buf).all(all).soft(),
            op::send(&out, b"then").all(true).soft(),
            op::recv(&socket, vec![0; 8]),
        ));
        assert_eq!((got.unwrap(), &buf[..3]), (3, &b"abc"[..]));
        if all {
            assert!(canceled(sent) && canceled(end));
        } else {
            assert_eq!((sent.unwrap(), end.unwrap().0), (4, 0));
            read.read_exact(&mut [0; 4]).unwrap();
        }
    }
    // A large one is whole before the next one begins.
    let (socket, mut peer) = half_tcp();
    net::set_send_buffer(&socket, 8192);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).map(|_| got)
    });
    let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    let (a, b, c) = op::multi((
        op::send(&socket, &data[..]).all(true).soft(),
        op::send(&socket, b"|").all(true).hard(),
        op::shutdown(&socket, Shutdown::Write),
    ));
    assert_eq!((a.unwrap(), b.unwrap()), (data.len(), 1));
    c.unwrap();
    let got = reader.join().unwrap().unwrap();
    assert!(got[..data.len()] == data && got[data.len()..] == *b"|");
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// Everything can be linked to everything: what is no transfer begins in its turn, and not before.
pub fn l14_each_in_its_turn() {
    let loop_ = current_loop();
    let (socket, mut peer) = half_unix();
    let (event, ran) = (Event::new(), Arc::new(AtomicBool::new(false)));
    event.notify();
    let (listener, addr) = listener();
    let client = op::socket(libc::AF_INET, libc::SOCK_STREAM, 0).wait().unwrap();
    let (job, never) = (peer.try_clone().unwrap(), ran.clone());
    let (sent, job, got, news, timer, connected, accepted, inner, closed, again, never, nor) = op::multi((
        op::send(&socket, b"x").soft(),
        op::blocking(move || {
            let mut byte = [0];
            (&job).read_exact(&mut byte).unwrap();
            (&job).write_all(b"answer").unwrap();
            byte[0]
        })
        .soft(),
        op::recv(&socket, vec![0; 16]).soft(),
        event.notified().hard(),
        op::timer(MS).soft(),
        op::connect(&client, addr.into()).soft(),
        op::accept(&listener).soft(),
        op::gather((op::next_tick(), op::send(&client, b"y"))).soft(),
        op::close(listener.clone()).soft(),
        op::accept(&listener).soft(),
        op::blocking(move || never.store(true, Ordering::Relaxed)).soft(),
        event.notified(),
    ));
    assert_eq!((sent.unwrap(), job.unwrap(), got.unwrap().0, news.unwrap()), (1, b'x', 6, 1));
    timer.and(connected).and(inner.0).and(closed).unwrap();
    let (server, _) = accepted.unwrap();
    assert_eq!(inner.1.unwrap(), 1);
    assert_eq!(op::recv(&server, &mut [0; 8]).wait().unwrap(), 1);
    assert_eq!(errno(again), libc::EBADF);
    assert!(matches!(never, Err(JobError::Failed(error)) if is_canceled(&error)));
    assert!(!ran.load(Ordering::Relaxed) && canceled(nor));
    // A job that panics has not succeeded.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let (panicked, next) = op::multi((op::blocking(|| panic!("as it should")).soft(), op::next_tick()));
    std::panic::set_hook(hook);
    assert!(matches!(panicked, Err::<(), _>(JobError::Panicked(_))) && canceled(next));
    // What was not begun took nothing away, and what was given to it is let go.
    event.notify();
    assert_eq!(event.notified().wait().unwrap(), 1);
    let (sent, end) = op::multi((op::send(broken(), b"x").soft(), op::close(socket)));
    assert!(errno(sent) == libc::EPIPE && canceled(end));
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "a close that is not begun closes");
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// Files in a batch: what is done to them and to their names is done one after the other, as far as it goes.
pub fn l14_files() {
    let loop_ = current_loop();
    let dir = std::env::temp_dir().join(format!("towpath-batch-{}", std::process::id()));
    let name = |name: &str| dir.join(name);
    std::fs::create_dir(&dir).unwrap();
    let create = || op::create(name("new")).read(true).wait().unwrap();
    let parts = || vec![b"head\n".to_vec(), vec![b'x'; 100_000], b"tail\n".to_vec()];
    let file = create();
    let (written, synced, renamed, linked, found, closed) = op::multi((
        op::write_vectored(&file, parts()).all(true).soft(),
        op::sync(&file).soft(),
        op::rename(name("new"), name("old")).soft(),
        op::hard_link(name("old"), name("other")).soft(),
        op::stat(name("other")).hard(),
        op::poll(&file, libc::POLLOUT),
    ));
    assert_eq!(written.unwrap().0, 100_010);
    synced.and(renamed).and(linked).unwrap();
    assert_eq!((found.unwrap().len(), closed.unwrap()), (100_010, libc::POLLOUT));
    assert!(std::fs::read(name("old")).unwrap() == parts().concat());
    let mut buf = [0; 8];
    let (first, second, read, synced) = op::multi((
        op::write(&file, b"HEAD").at(0).all(true).soft(),
        op::write_vectored(&file, vec![b"-".to_vec(), b"line".to_vec()]).at(4).all(true).hard(),
        op::read(&file, &mut buf).at(1).all(true).soft(),
        op::sync_data(&file),
    ));
    assert_eq!((first.unwrap(), second.unwrap().0, read.unwrap(), &buf), (4, 5, 8, b"EAD-line"));
    synced.unwrap();
    let reads = (0..20).map(|at| op::read(&file, vec![0; 8]).at(at).all(at % 2 == 0));
    let reads = op::multi(op::chain(Link::Hard, reads));
    assert!(reads.into_iter().all(|read| read.unwrap().0 == 8));
    op::close(file).wait().unwrap();
    // What fails keeps the rest from happening, but the close; and it is known which it was.
    for (broken, path) in [(0, "new"), (1, "no/such"), (1, &"n".repeat(5000)), (1, ""), (2, "new")] {
        let file = create();
        let to_write =
            if broken == 0 { std::fs::File::open(name("new")).unwrap().into() } else { file.clone() };
        let path = if path.is_empty() { PathBuf::new() } else { name(path) };
        let (written, renamed, synced, removed, read) = op::multi((
            op::write(&to_write, b"12345".to_vec()).all(true).soft(),
            op::rename(path, name("renamed")).soft(),
            op::sync_data(&file).soft(),
            op::remove_file(name("renamed")).hard(),
            // Short of all, which makes no difference behind a hard link.
            op::read(&file, vec![0; 8]).at(2),
        ));
        assert_eq!(written.is_err(), broken == 0);
        match broken {
            0 => assert!(canceled(renamed)),
            1 => assert!([libc::ENOENT, libc::ENAMETOOLONG].contains(&errno(renamed))),
            _ => renamed.unwrap(),
        }
        assert_eq!([canceled(synced), canceled(removed)], [broken < 2; 2]);
        assert_eq!(read.is_ok_and(|(n, _)| n == 3), broken > 0);
    }
    // A read that falls short of all.
    let file = create();
    op::write(&file, b"12345").wait().unwrap();
    for all in [false, true] {
        let (read, next) = op::multi((op::read(&file, vec![0; 8]).at(1).all(all).soft(), op::sync(&file)));
        assert_eq!((read.unwrap().0, canceled(next)), (4, all));
        let (read, next) = op::multi((op::read(&file, vec![0; 8]).at(1).all(all).hard(), op::sync(&file)));
        assert_eq!((read.unwrap().0, canceled(next)), (4, false));
    }
    std::fs::remove_dir_all(dir).unwrap();
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// Chains longer than every queue keep their order, on small rings as well.
pub fn l14_long_chains() {
    for entries in [1, 8, 256] {
        let loop_ = loop_with(&Config::new().ring_entries(entries));
        loop_.make_current();
        let (socket, mut peer) = half_unix();
        // In the way, so that the queue is not empty.
        let polls: Vec<_> = (0..5).map(|_| loop_.start(op::poll(&socket, libc::POLLIN))).collect();
        for link in [Link::Soft, Link::Hard] {
            let sends = op::chain(link, (0..200_u8).map(|at| op::send(&socket, [at; 2])));
            let (members, last) = op::multi((op::gather(sends).soft(), op::send(&socket, b"!!")));
            assert!(members.len() == 200 && members.into_iter().all(|outcome| outcome.unwrap().0 == 2));
            assert_eq!(last.unwrap(), 2);
            let mut got = [0; 402];
            peer.read_exact(&mut got).unwrap();
            assert!((0..200).all(|at| got[2 * at..2 * at + 2] == [at as u8; 2]) && got[400..] == *b"!!");
        }
        drop(polls);
        loop_.run().unwrap();
    }
    drop(Loop::take_current());
}

/// A batch is submitted as a whole or not at all, and a last link is linked to something or an error.
pub fn l14_all_or_nothing() {
    let loop_ = Config::new().max_operations(4).build().unwrap();
    loop_.make_current();
    let (socket, mut peer) = half_unix();
    let send = |byte: u8| op::send(&socket, [byte]);
    // The batch itself is an operation as well.
    let outcomes = op::multi([send(1), send(2), send(3), send(4)]);
    assert!(outcomes.into_iter().all(|outcome| errno(outcome) == libc::EDQUOT));
    let dangling = vec![send(5).soft(), send(6).soft()];
    assert!(op::multi(dangling).into_iter().all(|outcome| errno(outcome) == libc::EINVAL));
    assert!(op::multi(Vec::<op::NextTick>::new()).is_empty());
    assert_eq!(op::multi([send(7), send(8), send(9)]).map(|outcome| outcome.unwrap().0), [1, 1, 1]);
    assert_eq!(op::single(send(10)).unwrap().0, 1);
    drop(socket);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, [7, 8, 9, 10], "unlinked sends of one socket keep their order");
    // Counted.
    let counts = op::complete((op::next_tick().soft(), op::send(broken(), b"x").soft(), op::next_tick()));
    assert_eq!(counts, Completed { completed: 3, failed: 2 });
    assert_eq!(loop_.in_flight(), 0);
    drop(Loop::take_current());
}

/// The other three ways to wait; cancelled, removed, dropped and timed out as one, at any stage of a chain.
pub fn l14_batches_end_as_one() {
    let loop_ = new_loop();
    let (socket, mut peer) = half_unix();
    for turned in [false, true] {
        for how in 0..4 {
            let (fate, fated) = Fate::new();
            let (buffer, watch) = Tracked::new(16, 1);
            let mut batch = op::gather((
                op::send(&socket, b"sent".to_vec()).soft(),
                op::recv(&socket, buffer).soft(),
                op::recv(&socket, vec![0; 4]).hard(),
                op::blocking(|| unreachable!("a cancelled batch begins nothing")),
            ));
            if how == 3 {
                batch = batch.timeout(if turned { 3 * MS } else { Duration::ZERO });
            }
            let result = Log::new();
            let to = result.clone();
            let id = loop_.submit(batch, move |_, (sent, first, second, job)| {
                fated.call();
                let ends = [error(first), error(second), error(job)];
                to.add((sent.is_ok(), ends.map(|error| (error.kind(), is_canceled(&error)))));
            });
            if turned {
                poke(&loop_);
                poke(&loop_);
            }
            match how {
                0 => assert!(loop_.cancel(id)),
                1 => assert!(loop_.remove(id)),
                2 => loop_.cancel_all(),
                _ => {}
            }
            loop_.run().unwrap();
            assert_eq!(fate.calls(), u32::from(how != 1));
            assert!(watch.is_freed());
            for (sent, ends) in result.all() {
                assert!(sent || !turned);
                for (kind, canceled) in ends {
                    assert_eq!((kind == std::io::ErrorKind::TimedOut, canceled), (how == 3, how != 3));
                }
            }
        }
    }
    // Bytes that come now are for others.
    peer.write_all(b"later").unwrap();
    let ticket = loop_.start(op::gather((op::recv(&socket, vec![0; 8]), op::next_tick())));
    let (got, _) = ticket.take().unwrap();
    assert_eq!(got.unwrap().0, 5);
    // Dropped with the loop, with a timer that would take long.
    drop(loop_.start(op::gather((op::timer(DAY).soft(), op::next_tick()))));
    let mut future =
        Box::pin(std::future::IntoFuture::into_future(op::gather([op::timer(DAY), op::timer(DAY)])));
    loop_.make_current();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    drop(future);
    drop(Loop::take_current());
    loop_.submit(op::gather((op::recv(&socket, vec![0; 8]).soft(), op::timer(DAY))), |_, _| unreachable!());
    drop(loop_);
}
