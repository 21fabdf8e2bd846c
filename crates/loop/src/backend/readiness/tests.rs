//! The backend's contract, over both pollers, with real sockets.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::super::epoll::Epoll;
use super::super::poll::Poll;
use super::*;
use crate::addr::SockAddr;
use crate::backend::Completion;

mod contract;
mod descriptors;
mod hints;

/// How long anything may take before it counts as lost. Never waited for where things work.
const LOST: Duration = Duration::from_secs(20);

const CANCELED: i32 = -libc::ECANCELED;

/// Makes a test of each function, over each poller.
macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod over_epoll {
            use super::super::*;
            $(#[test] fn $name() { super::$name(World::new(Epoll::new().unwrap())) })*
        }
        mod over_poll {
            use super::super::*;
            $(#[test] fn $name() { super::$name(World::new(Poll::new().unwrap())) })*
        }
    };
}
use over_both;

#[derive(Clone, Copy, Debug)]
struct Op {
    id: OpId,
    submitted: Submitted,
    request: Request,
}

/// An address that stays where it is.
struct OwnedAddr(Box<SockAddr>);

/// A backend, and everything that its operations point to.
struct World<P: Poller> {
    backend: Readiness<P>,
    done: Completions,
    results: HashMap<OpId, i32>,
    order: Vec<OpId>,
    buffers: HashMap<OpId, Box<[u8]>>,
    addrs: Vec<OwnedAddr>,
    next_id: u32,
    next_identity: u64,
}

impl<P: Poller> World<P> {
    fn new(poller: P) -> World<P> {
        World {
            backend: Readiness::new(poller),
            done: Completions::default(),
            results: HashMap::new(),
            order: Vec::new(),
            buffers: HashMap::new(),
            addrs: Vec::new(),
            next_id: 0,
            next_identity: 0,
        }
    }

    fn is_edge(&self) -> bool {
        self.backend.mode == Mode::Edge
    }

    fn handle(&mut self, of: &impl AsRawFd) -> Handle {
        self.next_identity += 1;
        Handle { fd: of.as_raw_fd(), identity: self.next_identity }
    }

    fn next_id(&self) -> OpId {
        OpId { index: self.next_id, generation: 1 }
    }

    fn submit(&mut self, request: Request) -> Op {
        let id = self.next_id();
        self.next_id += 1;
        // SAFETY: buffers and addresses are kept in this world until it is dropped, and are looked at only once the
        // operation has completed. The tests keep the descriptors open (or mean not to).
        let submitted = unsafe { self.backend.submit(id, &request) };
        if let Submitted::Done(result) = submitted {
            assert!(self.results.insert(id, result).is_none());
            self.order.push(id);
        }
        Op { id, submitted, request }
    }

    fn recv(&mut self, handle: Handle, len: usize, flags: i32) -> Op {
        let id = self.next_id();
        let buf = self.buffers.entry(id).or_insert(vec![0; len].into()).as_mut_ptr();
        self.submit(Request::Recv { handle, buf, len, flags })
    }

    fn send(&mut self, handle: Handle, bytes: &[u8]) -> Op {
        let id = self.next_id();
        let buf = self.buffers.entry(id).or_insert(bytes.into()).as_ptr();
        self.submit(Request::Send { handle, buf, len: bytes.len(), flags: 0 })
    }

    fn poll(&mut self, handle: Handle, events: u16) -> Op {
        self.submit(Request::Poll { handle, events })
    }

    fn accept(&mut self, handle: Handle) -> Op {
        self.submit(Request::Accept { handle, addr: std::ptr::null_mut() })
    }

    fn addr(&mut self, addr: SockAddr) -> *const SockAddr {
        self.addrs.push(OwnedAddr(Box::new(addr)));
        &raw const *self.addrs.last().unwrap().0
    }

    fn connect(&mut self, handle: Handle, addr: SocketAddr) -> Op {
        let addr = self.addr(addr.into());
        self.submit(Request::Connect { handle, addr })
    }

    /// Closes through the backend.
    fn close(&mut self, handle: Handle, owner: impl IntoRawFd) {
        assert_eq!(owner.into_raw_fd(), handle.fd);
        let op = self.submit(Request::Close { handle });
        assert_eq!(self.result(op), Some(0));
    }

    fn cancel(&mut self, op: Op) {
        if let Submitted::Pending(word) = op.submitted {
            self.backend.cancel(op.id, word, &op.request);
        }
    }

    /// One `wait`; how many operations it completed.
    fn tick(&mut self, timeout: Option<Duration>) -> usize {
        self.backend.wait(timeout, &mut self.done).unwrap();
        let count = self.done.len();
        for Completion { id, result, .. } in self.done.queue.drain(..) {
            assert!(result != -libc::EINTR && result != -libc::EAGAIN, "left the backend");
            assert!(self.results.insert(id, result).is_none(), "{id:?} completed twice");
            self.order.push(id);
        }
        count
    }

    fn result(&self, op: Op) -> Option<i32> {
        self.results.get(&op.id).copied()
    }

    /// Waits until it is over.
    fn finish(&mut self, op: Op) -> i32 {
        let begun = Instant::now();
        while self.result(op).is_none() {
            assert!(begun.elapsed() < LOST, "lost: {op:?}");
            self.tick(Some(LOST));
        }
        self.result(op).unwrap()
    }

    fn bytes(&mut self, op: Op) -> Vec<u8> {
        let len = self.finish(op);
        self.buffers[&op.id][..usize::try_from(len).expect("no error")].to_vec()
    }

    /// Takes what has happened so far, without sleeping.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.tick(Some(Duration::ZERO));
        }
    }

    /// Sleeps for some time, as a loop with nothing to do would, and says how often it was woken for nothing.
    fn idle(&mut self) -> u32 {
        let end = Instant::now() + Duration::from_millis(30);
        let mut early = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return early;
            }
            assert_eq!(self.tick(Some(left)), 0);
            early += u32::from(Instant::now() < end);
        }
    }
}

fn unix() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Allows as many descriptors as the tests use, if the machine lets us. How many there may be.
fn raise_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(25_000);
    match limit.current {
        Some(current) if current < wanted => {
            let more = Rlimit { current: Some(wanted), maximum: limit.maximum };
            setrlimit(Resource::Nofile, more).unwrap();
            wanted
        }
        current => current.unwrap_or(u64::MAX).min(25_000),
    }
}

fn errno<P: Poller>(world: &World<P>, op: Op) -> i32 {
    match op.submitted {
        Submitted::Done(result) => -result,
        Submitted::Pending(_) => panic!("still pending: {op:?}, {:?}", world.result(op)),
    }
}
