//! Streams over readiness: at the head of their queue they bring forth what there is, and stay there until they are over.

use super::record::{Record, Waits};
use super::{Completions, Handle, Mode, OpId, Poller, Readiness, Request, Submitted, hint};
use crate::backend::parts::{Served, serve_parts};

/// A stream that has to rest.
pub(super) struct Resting {
    fd: usize,
    word: u32,
    id: OpId,
}

impl<P: Poller> Readiness<P> {
    /// Lets a stream wait for its turn, which may be at once: the next `wait` sees, as there are no parts before it.
    pub(super) fn begin_stream(&mut self, id: OpId, request: &Request, handle: Handle) -> Submitted {
        let submitted = self.enqueue(id, request, handle, Waits::Read, false);
        if submitted == Submitted::Done(-libc::EPERM) {
            // What cannot be watched is no socket: as the call would have said.
            return Submitted::Done(-libc::ENOTSOCK);
        }
        if let (Submitted::Pending(_), Ok(fd)) = (submitted, usize::try_from(handle.fd)) {
            self.orphaned.push_back((fd, Waits::Read));
        }
        submitted
    }

    /// Serves the stream at the head of a queue. True if it is over.
    pub(super) fn serve_stream(
        &mut self,
        fd: usize,
        waits: Waits,
        word: u32,
        request: &Request,
        done: &mut Completions,
    ) -> bool {
        if self.nodes.is_resting(word) {
            return false;
        }
        let id = self.nodes.id(word);
        let level = self.mode == Mode::OneShot;
        let until_short = level || self.ends_short(fd, request);
        // SAFETY: the stream was submitted and has not completed.
        match unsafe { serve_parts(id, request, until_short, &mut self.syscalls, done) } {
            Served::Over(result) => {
                self.nodes.remove(&mut self.records[fd], word);
                done.push(id, result);
                return true;
            }
            Served::Empty => self.learn_empty(fd, request),
            Served::Short if level => {}
            Served::Short => self.records[fd].set(Record::DRAINED),
            Served::More => self.orphaned.push_back((fd, waits)),
            Served::Resting => {
                self.nodes.set_resting(word, true);
                self.idle.push_back(Resting { fd, word, id });
            }
        }
        false
    }

    /// Whether a receive that does not fill its buffer has emptied the socket for certain: see "What edges allow".
    fn ends_short(&mut self, fd: usize, request: &Request) -> bool {
        let record = &mut self.records[fd];
        let identity = request.handle().map_or(0, |handle| handle.identity);
        matches!(request, Request::RecvMulti { .. })
            && identity != 0
            && record.identity == identity
            && record.has(Record::ANNOUNCED)
            && !record.has(Record::TROUBLED)
            && hint::is_tcp(record, request, &mut self.syscalls)
    }

    /// Whether all that waits for a descriptor is behind a stream that rests.
    pub(super) fn is_asleep(&self, fd: usize) -> bool {
        let record = &self.records[fd];
        self.nodes.rests(record, Waits::Read)
            && record.is_empty(Waits::Write)
            && record.is_empty(Waits::Loose)
    }

    /// Lets streams go on that may.
    pub(super) fn resume_streams(&mut self, done: &mut Completions) {
        for _ in 0..self.idle.len() {
            let Some(resting) = self.idle.pop_front() else { return };
            let Resting { fd, word, id } = resting;
            if !self.nodes.holds(word, id) {
                continue;
            }
            let flow = self.nodes.request(word).0.flow().expect("only streams rest");
            // SAFETY: the stream was submitted and has not completed, so its flow is valid.
            if !unsafe { &*flow }.may_resume() {
                self.idle.push_back(resting);
                continue;
            }
            self.nodes.set_resting(word, false);
            self.serve(fd, Waits::Read, done);
            self.settle(fd);
        }
    }
}
