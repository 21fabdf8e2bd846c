//! Bytes as a script of operations, whose outcomes a model foretells: every backend has to agree with it.
//!
//! What may wait is only waited for once the model says that it is over, so no outcome depends on time. Checked besides:
//! every byte arrives once and in order, nothing stays in flight.

use std::cell::Cell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use towpath_loop::op;
use towpath_loop::{BufferPool, Failed, File, Loop, OpStream, Socket, Ticket, is_canceled};

type Recv = op::Recv<'static, Vec<u8>>;

/// How much may be under way to one side, so that no send ever waits.
const ROOM: usize = 4096;
const FILE: usize = 4096;

/// One end of a pair: what its socket has received is foretold by what the other one has sent.
struct Side {
    socket: Socket,
    /// Sent by the other side and not received.
    unread: VecDeque<u8>,
    waiting: VecDeque<(Ticket<Recv>, usize, bool)>,
    stream: Option<OpStream<op::RecvMulti<'static>>>,
    /// The next byte that it sends.
    next: u8,
}

struct Script<'a> {
    loop_: &'a Loop,
    input: std::slice::Iter<'a, u8>,
    pairs: Vec<[Side; 2]>,
    pool: BufferPool,
    file: File,
    content: Vec<u8>,
    errands: (Rc<Cell<u32>>, u32),
}

/// Runs the script.
///
/// # Panics
/// If anything is not as the model foretells.
pub fn run(loop_: &Loop, bytes: &[u8]) {
    let memory = rustix::fs::memfd_create("script", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let mut script = Script {
        loop_,
        input: bytes.iter(),
        pairs: Vec::new(),
        pool: BufferPool::with_capacity(8, 32).expect("a pool"),
        file: File::from(memory),
        content: Vec::new(),
        errands: Default::default(),
    };
    script.open();
    while let Some(what) = script.byte() {
        script.step(what);
        script.check();
    }
    script.finish();
}

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.input.next().copied()
    }

    /// The next byte as a number below `end`.
    fn pick(&mut self, end: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % end
    }

    fn open(&mut self) {
        let (a, b) = UnixStream::pair().expect("a pair");
        self.pairs.push([a, b].map(|plain| {
            plain.set_nonblocking(true).expect("a socket");
            let socket = Socket::from(OwnedFd::from(plain));
            Side { socket, unread: VecDeque::new(), waiting: VecDeque::new(), stream: None, next: 0 }
        }));
    }

    fn step(&mut self, what: u8) {
        let (pair, side) = (self.pick(self.pairs.len()), self.pick(2));
        match what % 13 {
            0 if self.pairs.len() < 5 => self.open(),
            1 if self.pairs.len() > 1 => self.close(pair, side),
            2..5 => self.send(pair, side),
            5 | 6 => self.recv(pair, side),
            7 => self.cancel(pair, side, true),
            8 => self.cancel(pair, side, false),
            9 => self.stream(pair, side),
            10 => self.write_and_read(),
            11 => self.odds_and_ends(),
            _ => _ = self.loop_.tick(Some(Duration::ZERO)).expect("a tick"),
        }
    }

    /// One send, or several linked ones: they are in order.
    fn send(&mut self, pair: usize, side: usize) {
        let lens = [1 + self.pick(100), self.pick(3) * 20, self.pick(3) * 7];
        let [from, to] = sides(&mut self.pairs[pair], side);
        if to.unread.len() + lens.iter().sum::<usize>() > ROOM {
            return;
        }
        let mut take = |len: usize| -> Vec<u8> {
            let bytes: Vec<u8> = (0..len).map(|at| from.next.wrapping_add(at as u8)).collect();
            from.next = from.next.wrapping_add(len as u8);
            to.unread.extend(&bytes);
            bytes
        };
        let bytes = lens.map(&mut take);
        let [first, second, third] = bytes.map(|bytes| op::send(&from.socket, bytes).all(true));
        let batch = op::gather((first.soft(), second.hard(), third));
        let outcomes = <[_; 3]>::from(self.loop_.start(batch).take().expect("a tick"));
        for (outcome, len) in outcomes.into_iter().zip(lens) {
            assert_eq!(outcome.expect("there is room").0, len);
        }
    }

    fn recv(&mut self, pair: usize, side: usize) {
        let (len, all) = (1 + self.pick(60), self.pick(3) == 0);
        let [to, _] = sides(&mut self.pairs[pair], side);
        // Pieces of an `all` take turns with what was asked for after it.
        let alone = to.waiting.back().is_none_or(|(.., all)| !all);
        if to.stream.is_none() && to.waiting.len() < 4 && alone {
            let recv = op::recv(&to.socket, vec![0xee; len]).all(all).timeout(Duration::from_secs(60));
            to.waiting.push_back((self.loop_.start(recv), len, all));
        }
    }

    /// All that can be received is: what the model foretells, and no more.
    fn check(&mut self) {
        for side in self.pairs.iter_mut().flatten() {
            while let Some((_, len, all)) = side.waiting.front() {
                let enough = if *all { *len } else { 1 };
                if side.unread.len() < enough {
                    break;
                }
                let (ticket, len, all) = side.waiting.pop_front().expect("just seen");
                let (n, buf) = ticket.take().expect("a tick").expect("there is something");
                // Of linked sends it may have seen the first alone.
                let (least, most) = (if all { len } else { 1 }, len.min(side.unread.len()));
                assert!((least..=most).contains(&n), "{n} of {len}");
                assert!(side.unread.drain(..n).eq(buf[..n].iter().copied()), "not what was sent");
                assert!(buf[n..].iter().all(|byte| *byte == 0xee), "more than it says");
            }
            let Some(stream) = &mut side.stream else { continue };
            while !side.unread.is_empty() {
                let chunk = stream.next().expect("not the end").expect("no error");
                assert!(side.unread.drain(..chunk.len()).eq(chunk.iter().copied()), "not what was sent");
            }
            assert!(matches!(stream.try_next(), Poll::Pending), "more than was sent");
        }
        assert_eq!(self.pool.free(), self.pool.count());
    }

    /// Something that waits is cancelled, or dropped, from anywhere in the queue.
    fn cancel(&mut self, pair: usize, side: usize, told: bool) {
        let at = self.pick(4);
        let [of, _] = sides(&mut self.pairs[pair], side);
        if at == 3 {
            of.stream = None;
            // It is there until the loop has seen its end.
            return;
        }
        // One that has begun may have taken something: its outcome is not foretold.
        if !of.unread.is_empty() {
            return;
        }
        let Some((ticket, ..)) = of.waiting.remove(at) else { return };
        if !told {
            return;
        }
        assert!(self.loop_.cancel(ticket.id()));
        let outcome = ticket.take().expect("a tick");
        let Failed { error, transferred, buf } = outcome.expect_err("nothing was there");
        assert!(is_canceled(&error) && transferred == 0 && buf.is_some(), "{error}");
    }

    fn stream(&mut self, pair: usize, side: usize) {
        let [of, _] = sides(&mut self.pairs[pair], side);
        if of.waiting.is_empty() && of.stream.is_none() {
            of.stream = Some(self.loop_.stream(op::recv_multi(&of.socket, &self.pool)));
        }
    }

    /// Whoever waits is told so, and the other side comes to the end.
    fn close(&mut self, pair: usize, side: usize) {
        let [mut near, mut far] = self.pairs.swap_remove(pair);
        if side == 1 {
            std::mem::swap(&mut near, &mut far);
        }
        // What is closed unread resets the connection.
        let clean = near.unread.is_empty();
        self.loop_.start(op::close(near.socket)).take().expect("a tick").expect("it is open");
        for (ticket, ..) in near.waiting {
            let error = ticket.take().expect("a tick").expect_err("it is closed").error;
            assert!(is_canceled(&error), "{error}");
        }
        drop(near.stream);
        for (ticket, ..) in far.waiting {
            match ticket.take().expect("a tick") {
                Ok((n, buf)) => assert!(far.unread.drain(..n).eq(buf[..n].iter().copied())),
                Err(failed) => assert!(!clean, "{failed}"),
            }
        }
        if let Some(stream) = far.stream {
            for chunk in stream {
                match chunk {
                    Ok(chunk) => assert!(far.unread.drain(..chunk.len()).eq(chunk.iter().copied())),
                    Err(error) => assert!(!clean, "{error}"),
                }
            }
        }
        let rest = self.loop_.start(op::recv(&far.socket, vec![0; ROOM]).all(true)).take().expect("a tick");
        let n = rest.map_or_else(|failed| failed.transferred, |(n, _)| n);
        assert!(n == far.unread.len() || !clean, "{n} at the end");
    }

    fn write_and_read(&mut self) {
        let (at, len, byte) = (self.pick(256) * 8, 1 + self.pick(200), self.byte().unwrap_or(0));
        let end = (at + len).min(FILE);
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[at..end].fill(byte);
        let write = op::write(&self.file, vec![byte; end - at]).at(at as u64).all(true);
        assert_eq!(self.loop_.start(write).take().expect("a tick").expect("there is room").0, end - at);
        let (at, len) = (self.pick(256) * 16, 1 + self.pick(256));
        let read = op::read(&self.file, vec![0; len]).at(at as u64).all(true);
        let (n, buf) = self.loop_.start(read).take().expect("a tick").expect("it is readable");
        assert_eq!(buf[..n], self.content[at.min(self.content.len())..(at + len).min(self.content.len())]);
    }

    fn odds_and_ends(&mut self) {
        match self.pick(5) {
            0 => self.loop_.start(op::next_tick()).take().expect("a tick").expect("it comes"),
            1 => drop(self.loop_.start(op::timer(Duration::from_secs(60)))),
            2 => {
                let outcome = self.loop_.start(op::timer(Duration::ZERO)).take().expect("a tick");
                outcome.expect("it comes");
            }
            3 => {
                let (ran, wanted) = &mut self.errands;
                *wanted += 1;
                let (ran, id) =
                    (ran.clone(), self.loop_.submit(op::next_tick(), |_, _| unreachable!("removed")));
                assert!(self.loop_.remove(id) && !self.loop_.cancel(id));
                self.loop_.submit(op::next_tick(), move |_, _| ran.set(ran.get() + 1));
            }
            _ => {
                let race = op::race(vec![
                    op::timer(Duration::from_secs(60)),
                    op::timer(Duration::ZERO),
                    op::timer(Duration::from_secs(61)),
                ]);
                drop(self.loop_.start(race).take().expect("a tick"));
            }
        }
    }

    fn finish(mut self) {
        while !self.pairs.is_empty() {
            self.close(0, 0);
        }
        self.loop_.run().expect("a tick");
        assert_eq!(self.loop_.in_flight(), 0);
        assert_eq!(self.errands.0.get(), self.errands.1);
        assert_eq!(self.pool.free(), self.pool.count());
    }
}

/// The two sides of a pair, `first` first.
fn sides(pair: &mut [Side; 2], first: usize) -> [&mut Side; 2] {
    let [a, b] = pair;
    if first == 0 { [a, b] } else { [b, a] }
}
