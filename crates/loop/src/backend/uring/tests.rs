//! The backend driven directly, against real sockets.

mod chains;
mod construction;
mod outcomes;
mod queues;

use std::collections::HashMap;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::backend::Completion;
use crate::operation::Handle;

/// Nothing here takes that long: a wait that does is a bug.
const LONG: Duration = Duration::from_secs(20);

/// A backend and what it has reported.
struct World {
    uring: Uring,
    done: Completions,
    results: HashMap<OpId, i32>,
    ids: u32,
    /// Indices are used in turn, so that slots are used again.
    free: Vec<u32>,
}

impl World {
    fn new(options: &Options) -> World {
        let uring = Uring::new(options).expect("this machine has io_uring");
        World { uring, done: Completions::default(), results: HashMap::new(), ids: 0, free: Vec::new() }
    }

    fn submit(&mut self, request: Request) -> OpId {
        self.ids += 1;
        let index = self.free.pop().unwrap_or(self.ids);
        let id = OpId { index, generation: self.ids };
        // SAFETY: the tests keep what they point to, and their descriptors, until the result is in.
        match unsafe { self.uring.submit(id, &request) } {
            Submitted::Done(result) => assert!(self.results.insert(id, result).is_none()),
            Submitted::Pending(_) => {}
        }
        id
    }

    fn cancel(&mut self, id: OpId, request: Request) {
        if !self.results.contains_key(&id) {
            self.uring.cancel(id, 0, &request);
        }
    }

    /// One wait; how many results came with it.
    fn wait(&mut self, timeout: Option<Duration>) -> usize {
        self.uring.wait(timeout, &mut self.done).unwrap();
        let count = self.done.len();
        for Completion { id, result, .. } in mem::take(&mut self.done.queue) {
            assert!(self.results.insert(id, result).is_none(), "{id:?} completed twice");
            assert!(result != -libc::EAGAIN && result != -libc::EINTR);
        }
        count
    }

    fn result(&mut self, id: OpId) -> i32 {
        let end = Instant::now() + LONG;
        loop {
            if let Some(result) = self.results.remove(&id) {
                self.free.push(id.index);
                return result;
            }
            assert!(Instant::now() < end, "{id:?} never completes");
            self.wait(Some(LONG));
        }
    }

    fn run(&mut self, request: Request) -> i32 {
        let id = self.submit(request);
        self.result(id)
    }
}

fn handle(fd: &impl AsRawFd) -> Handle {
    Handle { fd: fd.as_raw_fd(), identity: 0 }
}

fn raw(fd: RawFd) -> Handle {
    Handle { fd, identity: 0 }
}

fn recv(fd: &impl AsRawFd, buf: &mut [u8]) -> Request {
    Request::Recv { handle: handle(fd), buf: buf.as_mut_ptr(), len: buf.len(), flags: 0 }
}

fn send(fd: &impl AsRawFd, buf: &[u8]) -> Request {
    Request::Send { handle: handle(fd), buf: buf.as_ptr(), len: buf.len(), flags: 0 }
}

fn readable(fd: &impl AsRawFd) -> Request {
    Request::Poll { handle: handle(fd), events: libc::POLLIN as u16 }
}

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

fn event(count: u32) -> OwnedFd {
    eventfd(count, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn small() -> Options {
    Options { entries: 8, cq_entries: Some(8), ..Options::default() }
}
