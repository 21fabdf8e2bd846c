//! A kernel that says anything: completions out of order, twice, for operations that are over or were never there, with
//! results and flags that make no sense. The ring's side of the backend is fed with them, its own ring is never entered.
//!
//! What must hold: no panic; every operation completes once, and none before the ring has had it, or it was cancelled; no
//! buffer is lent twice, or longer than it is. What cannot be true is not believed. One thing only a kernel can know, and is
//! believed: that it is done with an operation that it has.
//!
//! Run by the unit tests over bytes at random, and by `fuzz/`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::buffers::BufferPool;
use crate::operation::{Flow, Handle, Link};

const BUFFERS: usize = 4;
const SIZE: usize = 32;

/// The results that it gives: sensible ones, and others.
const RESULTS: [i32; 23] = [
    0,
    1,
    7,
    SIZE as i32,
    SIZE as i32 + 1,
    4096,
    i32::MAX,
    i32::MIN,
    -libc::ECANCELED,
    -libc::EAGAIN,
    -libc::EINTR,
    -libc::ENOBUFS,
    -libc::ECONNABORTED,
    -libc::EINVAL,
    -libc::EPERM,
    -libc::EALREADY,
    -libc::ENOENT,
    -libc::EPIPE,
    -libc::ETIME,
    -512,
    -516,
    -4095,
    -100_000,
];

struct Live {
    request: Request,
    handed: bool,
    cancelled: bool,
    chained: bool,
}

struct World<'a> {
    input: std::slice::Iter<'a, u8>,
    uring: Uring,
    done: Completions,
    live: HashMap<OpId, Live>,
    ids: u32,
    free: Vec<u32>,
    /// Names that the "kernel" has, and all that it ever had.
    ring: Vec<u64>,
    seen: Vec<u64>,
    pool: BufferPool,
    /// What requests point to, until the end.
    #[allow(clippy::vec_box, reason = "their addresses are in requests")]
    flows: Vec<Box<Flow>>,
    memory: Box<[u8; SIZE]>,
    uncopied: Box<usize>,
    sockets: Vec<(UnixStream, UnixStream)>,
    listener: TcpListener,
    kept: Vec<u16>,
}

/// Has a kernel of which the bytes say what it does complete operations. Does nothing where there is no io_uring.
pub fn run(bytes: &[u8]) {
    let options = Options { entries: 8, cq_entries: Some(16), ..Options::default() };
    let Ok(uring) = Uring::new(&options) else { return };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    listener.set_nonblocking(true).expect("a socket");
    let sockets = (0..3).map(|_| {
        let pair = UnixStream::pair().expect("a pair");
        pair.0.set_nonblocking(true).expect("a socket");
        pair
    });
    let mut world = World {
        input: bytes.iter(),
        uring,
        done: Completions::default(),
        live: HashMap::new(),
        ids: 0,
        free: Vec::new(),
        ring: Vec::new(),
        seen: Vec::new(),
        pool: BufferPool::with_capacity(BUFFERS, SIZE).expect("a pool"),
        flows: Vec::new(),
        memory: Box::new([0; SIZE]),
        uncopied: Box::new(0),
        sockets: sockets.collect(),
        listener,
        kept: Vec::new(),
    };
    while let Some(what) = world.byte() {
        match what % 10 {
            0..3 => world.submit(),
            3 => world.hand_over(usize::from(what)),
            4..7 => world.complete(),
            7 => world.lie(),
            8 => world.cancel(),
            _ => world.look_around(),
        }
        world.take_completions();
    }
    world.finish();
}

impl World<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.input.next().copied()
    }

    /// The next byte as an index below `len`.
    fn pick(&mut self, len: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % len
    }

    fn next_id(&mut self) -> OpId {
        self.ids += 1;
        OpId { index: self.free.pop().unwrap_or(self.ids), generation: self.ids }
    }

    fn request(&mut self) -> Request {
        let at = self.pick(self.sockets.len());
        // Half of them foreign, which have no lanes.
        let known = self.pick(2) as u64;
        let handle = Handle { fd: self.sockets[at].0.as_raw_fd(), identity: known * (at as u64 + 1) };
        let listening = Handle { fd: self.listener.as_raw_fd(), identity: 9 };
        let (buf, len) = (self.memory.as_mut_ptr(), SIZE);
        let kind = self.pick(8);
        let bound = Some(self.pick(4) as u32);
        match kind {
            0 => Request::Recv { handle, buf, len, flags: 0 },
            1 => Request::Send { handle, buf, len, flags: 0 },
            2 => Request::Poll { handle, events: libc::POLLIN as u16 },
            3 => Request::Accept { handle: listening, addr: std::ptr::null_mut() },
            4 => {
                let flags = if known == 0 { libc::MSG_WAITALL } else { 0 };
                Request::SendZc { handle, buf, len, flags, uncopied: &raw mut *self.uncopied }
            }
            5 => Request::AcceptMulti { handle: listening, flow: self.flow(Flow::new(bound, None, true)) },
            _ => {
                let flow = Flow::new(bound, Some(self.pool.clone()), kind == 6);
                Request::RecvMulti { handle, flow: self.flow(flow) }
            }
        }
    }

    fn flow(&mut self, flow: Flow) -> *const Flow {
        self.flows.push(Box::new(flow));
        &raw const **self.flows.last().expect("just pushed")
    }

    fn submit(&mut self) {
        if self.live.len() >= 24 || self.flows.len() >= 4096 {
            return;
        }
        if self.pick(8) == 0 {
            return self.submit_chain();
        }
        let (id, request) = (self.next_id(), self.request());
        // SAFETY: all that requests point to, and the descriptors, are there until the end.
        match unsafe { self.uring.submit(id, &request) } {
            Submitted::Done(_) => self.free.push(id.index),
            Submitted::Pending(_) => {
                self.live.insert(id, Live { request, handed: false, cancelled: false, chained: false });
            }
        }
    }

    fn submit_chain(&mut self) {
        let mut chain = Vec::new();
        for _ in 0..2 + self.pick(3) {
            let request = loop {
                let request = self.request();
                if request.flow().is_none() {
                    break request;
                }
                if self.input.len() == 0 {
                    return;
                }
            };
            let link = if self.pick(2) == 0 { Link::Soft } else { Link::Hard };
            chain.push(Chained { id: self.next_id(), request, link, all: self.pick(2) == 0, word: 0 });
        }
        // SAFETY: as in `submit`.
        let taken = unsafe { self.uring.submit_chain(&mut chain) };
        for (at, member) in chain.iter().enumerate() {
            if at < taken {
                let request = member.request;
                self.live.insert(member.id, Live { request, handed: false, cancelled: false, chained: true });
            } else {
                self.free.push(member.id.index);
            }
        }
    }

    /// The "kernel" takes entries.
    fn hand_over(&mut self, most: usize) {
        for _ in 0..most {
            // Of a chain, as of others, one at a time.
            let [entry, ..] = self.uring.backlog.first(usize::MAX) else { return };
            let name = entry.get_user_data();
            self.uring.backlog.pop(1);
            if name == CANCEL {
                continue;
            }
            self.ring.push(name);
            self.seen.push(name);
            if let Some(live) = self.live.get_mut(&OpId::from_bits(name)) {
                live.handed = true;
            }
        }
    }

    fn flags(&mut self) -> u32 {
        const BUFFER: u32 = 1;
        let byte = self.byte().unwrap_or(0);
        // F_BUFFER, F_MORE, F_SOCK_NONEMPTY, F_NOTIF and whatever else.
        let buffer = if u32::from(byte) & BUFFER == 0 { 0 } else { (self.pick(BUFFERS + 2) as u32) << 16 };
        u32::from(byte) | buffer
    }

    /// The "kernel" completes something that it has, perhaps only in part.
    fn complete(&mut self) {
        if self.ring.is_empty() {
            return;
        }
        let at = self.pick(self.ring.len());
        let (name, result, flags) = (self.ring[at], RESULTS[self.pick(RESULTS.len())], self.flags());
        if !cqueue::more(flags) {
            self.ring.swap_remove(at);
        }
        self.tell(name, result, flags);
    }

    /// The "kernel" completes something that it may not have.
    fn lie(&mut self) {
        let word =
            |world: &mut Self| (0..8).fold(0, |word, _| word << 8 | u64::from(world.byte().unwrap_or(0)));
        let name = match self.pick(4) {
            0 => word(self),
            1 if !self.seen.is_empty() => {
                let at = self.pick(self.seen.len());
                self.seen[at]
            }
            2 => u64::from(self.byte().unwrap_or(0)) << 32 | u64::from(self.byte().unwrap_or(0)),
            _ => OpId { index: self.ids, generation: self.ids }.to_bits() + self.pick(3) as u64,
        };
        let (result, flags) = (RESULTS[self.pick(RESULTS.len())], self.flags());
        self.tell(name, result, flags);
    }

    fn tell(&mut self, name: u64, result: i32, flags: u32) {
        let (_, mut reader) = self.uring.reader();
        reader.read(&Cqe::new(name, result, flags), &mut self.done);
    }

    fn cancel(&mut self) {
        // The loop cancels no member of a chain that may not have begun.
        let mut ids: Vec<OpId> =
            self.live.iter().filter(|(_, it)| !it.cancelled && !it.chained).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.pick(ids.len())];
        self.cancel_one(id);
    }

    fn cancel_one(&mut self, id: OpId) {
        let live = self.live.get_mut(&id).expect("in flight");
        live.cancelled = true;
        let request = live.request;
        self.uring.cancel(id, 0, &request);
    }

    /// What every wait begins with; and buffers come back.
    fn look_around(&mut self) {
        self.uring.report_unbegun(&mut self.done);
        self.uring.resume();
        if let Some(buffer) = self.kept.pop() {
            self.pool.0.give_back(buffer);
        }
    }

    fn take_completions(&mut self) {
        while let Some(completion) = self.done.queue.pop_front() {
            let live = self.live.get(&completion.id).expect("it is in flight, and has not completed before");
            if completion.is_part() {
                // SAFETY: flows are there until the end.
                let flow = unsafe { &*live.request.flow().expect("a stream's part") };
                flow.refund();
                if let Some(buffer) = completion.buffer() {
                    assert!(!self.kept.contains(&buffer), "lent twice");
                    assert!((1..=SIZE as i32).contains(&completion.result), "more than fits");
                    self.kept.push(buffer);
                } else {
                    assert!(matches!(live.request, Request::AcceptMulti { .. }) && completion.result >= 0);
                }
                continue;
            }
            assert!(live.handed || live.cancelled || live.chained, "nobody has had it");
            self.live.remove(&completion.id);
            self.free.push(completion.id.index);
        }
    }

    /// The "kernel" says the truth from now on: all comes to an end, and nothing is left.
    fn finish(&mut self) {
        let ids: Vec<OpId> =
            self.live.iter().filter(|(_, it)| !it.cancelled && !it.chained).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.cancel_one(id));
        for _ in 0..1000 {
            self.look_around();
            self.hand_over(usize::MAX);
            for name in std::mem::take(&mut self.ring) {
                if name != WAKER {
                    self.tell(name, -libc::ECANCELED, 0);
                }
            }
            self.take_completions();
            if self.live.is_empty() && self.kept.is_empty() {
                break;
            }
        }
        let left: Vec<_> = self.live.iter().map(|(id, live)| (id, live.request)).collect();
        assert!(left.is_empty(), "never completed: {left:?}");
        assert!(self.uring.slots.iter().all(|slot| slot.stage == Stage::Free));
        assert_eq!(self.pool.free(), BUFFERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use towpath_harness::Rng;

    #[test]
    fn bytes_at_random() {
        for seed in 0..3000 {
            let mut rng = Rng::new(seed);
            let len = rng.below(600);
            let bytes: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
            if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
