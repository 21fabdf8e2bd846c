//! Completions out of readiness: try, wait until it would not block, try again.
//!
//! A [`Poller`] knows which descriptors are ready; `epoll` and `poll` are two, and a user may plug in another.
//! [`Readiness`] turns any of them into a [`Backend`].
//!
//! # How it works
//!
//! Every operation is tried at once, with one system call that does not block: a warm `recv` costs that one call. If
//! it would block, it goes into the queue of its descriptor and direction, and the poller is asked to watch. An event
//! makes `wait` try the queue from its head, until one would block again or the queue is empty. So operations of one
//! direction complete in the order in which they were submitted, and a new one never overtakes a waiting one.
//!
//! Three kinds do not queue, and wait beside the queues, each for itself: [`Request::Poll`], which takes nothing away
//! from anybody, and receiving urgent data or from the error queue (`MSG_OOB`, `MSG_ERRQUEUE`), which has nothing to
//! do with the stream of ordinary data.
//!
//! # Who an event is for
//!
//! There is a record for every descriptor's number, with a generation that grows whenever the
//! number changes hands. The generation is part of the key that the poller hands back, so an event of an earlier
//! bearer matches no record. For an edge-triggered poller that is all: nothing is removed before `close(2)`, for the
//! kernel forgets a descriptor when its last duplicate is closed, and until then a foreign duplicate costs one
//! unheeded event per change, and cannot spin.
//!
//! Descriptors without an [identity](Handle::identity) are watched only while something waits for them, and are
//! announced to the poller anew for each operation that has to wait, since anybody may have closed them in between.
//!
//! # What edges allow
//!
//! An edge-triggered poller reports every change, so what is known to be empty stays empty until the next event. Two
//! system calls follow from that: the one that would find nothing after a `recv` would have blocked, and the one
//! after a `recv` that got less than it asked for. The second conclusion holds for TCP alone (a datagram is always
//! short; a Unix stream stops short at passed descriptors), and not when the last event told of more than data: an
//! end of the stream is reported only once, and urgent data makes `recv` stop short at its mark. Such descriptors are
//! always tried. One case is out of sight: a process that reads urgent data past the loop, in a `SIGURG` handler.
//!
//! # Limits
//!
//! There is readiness that the kernel announces and does not have: an unconnected Unix datagram socket polls as
//! writable although the receiver's queue is full, and each vain attempt even makes an edge. Such descriptors are
//! tried again once every [`REST`], rather than without end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::attempt::attempt;
use super::warm::Warm;
use super::{Backend, Completions, Submitted, Wake};
use crate::operation::{Elsewhere, Handle, Kind, OpId, Request, Support};
use crate::prefetch::prefetch;

mod hint;
mod record;
mod stream;
#[cfg(test)]
mod tests;

use record::{LISTS, Nodes, Record, Waits};
use stream::Resting;

/// How long a descriptor that is announced as ready again and again, and is not, is left alone at most.
pub const REST: Duration = Duration::from_millis(1);

const IN: u16 = libc::POLLIN as u16;
const OUT: u16 = libc::POLLOUT as u16;
const PRI: u16 = libc::POLLPRI as u16;
const RDHUP: u16 = libc::POLLRDHUP as u16;
const ERR: u16 = libc::POLLERR as u16;
const HUP: u16 = libc::POLLHUP as u16;
const NVAL: u16 = libc::POLLNVAL as u16;

/// How a [`Poller`] reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Every change, once, in both directions, from [`add`](Poller::add) until [`remove`](Poller::remove) or until
    /// the kernel forgets the descriptor. `add` itself reports what holds already.
    Edge,
    /// What holds, once: an event undoes the whole `add`.
    OneShot,
}

/// What a poller has found out about one descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What [`Poller::add`] was given.
    pub key: u64,
    /// The `POLL*` bits of `poll(2)` that hold: `IN`, `OUT`, `PRI`, `RDHUP`, `ERR`, `HUP`, `NVAL`. `RDHUP` comes with
    /// `IN`, as in Linux; whoever translates from another mechanism sets both.
    pub bits: u16,
}

impl Event {
    /// Whether reading is worth a try. Errors and hang-ups are read too.
    pub fn is_readable(&self) -> bool {
        self.bits & (IN | PRI | RDHUP | ERR | HUP | NVAL) != 0
    }

    /// Whether writing is worth a try. Errors and hang-ups are found by writing too.
    pub fn is_writable(&self) -> bool {
        self.bits & (OUT | ERR | HUP | NVAL) != 0
    }
}

/// Knows which descriptors are ready: the smaller of the two seams at which a mechanism of your own plugs in.
///
/// Wrapped in [`Readiness`] it is a [`Backend`]. The adaptor does the bookkeeping: which operation waits for what,
/// which event is out of date. A poller remembers no more than the key of each descriptor.
///
/// Nothing here is unsafe: a poller that loses events makes operations wait for ever, and one that invents them
/// makes system calls for nothing.
///
/// # Descriptors
/// They are plain numbers and may be closed at any time behind the poller's back. A number that is not open, or a
/// second `add` of the same one, is no reason to panic.
pub trait Poller {
    /// The name that `TOWPATH_BACKEND` knows it by.
    fn name(&self) -> &'static str;

    /// How it reports. Always the same.
    fn mode(&self) -> Mode;

    /// Watches `fd`, instead of what an earlier `add` of the same number said, and reports it under `key`, which is
    /// never `u64::MAX`.
    ///
    /// `interest` is the `POLL*` bits that matter; `ERR`, `HUP` and `NVAL` always do. A [`Mode::Edge`] poller ignores
    /// it and watches for everything.
    ///
    /// # Errors
    /// The operation in whose name it is called ends with this error. For instance `EPERM`: a descriptor that cannot be
    /// waited for; `EBADF`: it is not open; `ENOSPC`, `ENOMEM`: too many are watched.
    fn add(&mut self, fd: RawFd, key: u64, interest: u16) -> io::Result<()>;

    /// Stops watching `fd`. Not called for every descriptor: a closed one is simply not spoken of any more, and a
    /// [`Mode::Edge`] poller may go on reporting it.
    fn remove(&mut self, fd: RawFd);

    /// Waits until there is something to report, the time is over, or somebody [woke](Poller::waker) it, and appends
    /// what there is to `events`.
    ///
    /// Waits at most `timeout` (`None`: as long as it takes; zero: not at all). Never returns for the time's sake
    /// before it is over, but may do so for no reason, and does so for a signal (`EINTR` is no error here).
    ///
    /// # Errors
    /// Nothing can be waited for any more: the loop gives up.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// The means to end a `wait` from any thread, see [`Wake`].
    fn waker(&self) -> Arc<dyn Wake>;

    /// A descriptor that polls as readable when a `wait` would find something; `None` where there is none.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// How many system calls it has made so far.
    fn syscalls(&self) -> u64;
}

/// A [`Backend`] over a [`Poller`]. See the [module](self).
pub struct Readiness<P: Poller> {
    poller: P,
    mode: Mode,
    /// What is remembered about each descriptor, by its number.
    records: Vec<Record>,
    /// Everything that waits.
    nodes: Nodes,
    /// What is over, and not yet told: cancelled, or failed outside of `wait`.
    finished: Vec<(OpId, i32)>,
    /// Queues to be tried without an event, by descriptor: their head was cancelled, and the next in line may not have been
    /// tried yet; or it is a stream that is new or may have more.
    orphaned: VecDeque<(usize, Waits)>,
    /// Streams that have to rest.
    idle: VecDeque<Resting>,
    /// Keys of descriptors that are announced as ready for nothing: see [`REST`].
    resting: Vec<u64>,
    /// When the rest of all of them is over, by [`now`](Backend::now).
    rest_until: u64,
    /// Keys of descriptors whose rest is over; kept for its memory.
    rested: Vec<u64>,
    /// What the poller reports into; kept for its memory.
    events: Vec<Event>,
    warm: Warm,
    /// Where the operation that is submitted next has to wait, as was just found out, and whether it was tried.
    has_to_wait: Option<(Waits, bool)>,
    syscalls: u64,
}

impl<P: Poller> Readiness<P> {
    /// A backend that watches with `poller`.
    pub fn new(poller: P) -> Readiness<P> {
        Readiness {
            mode: poller.mode(),
            poller,
            records: Vec::new(),
            nodes: Nodes::default(),
            finished: Vec::new(),
            orphaned: VecDeque::new(),
            idle: VecDeque::new(),
            resting: Vec::new(),
            rest_until: 0,
            rested: Vec::new(),
            events: Vec::new(),
            warm: Warm::default(),
            has_to_wait: None,
            syscalls: 0,
        }
    }

    /// Tries an operation that may have to wait, unless it is not its turn. Remembers whether it did, if it has to wait.
    ///
    /// # Safety
    /// As for [`Backend::attempt`].
    unsafe fn begin(&mut self, request: &Request, handle: Handle, waits: Waits) -> Option<i32> {
        if self.must_queue(waits, request, handle) {
            self.has_to_wait = Some((waits, false));
            return None;
        }
        // SAFETY: passed on from this function's own contract.
        let result = unsafe { attempt(request, false, &mut self.syscalls) };
        let fd = number(handle);
        match (result, fd) {
            // SAFETY: as above.
            (Some(result), _) => unsafe { self.learn(fd, request, result) },
            (None, Some(fd)) => self.learn_empty(fd, request),
            (None, None) => {}
        }
        if result.is_none() {
            self.has_to_wait = Some((waits, true));
        }
        result
    }

    /// Whether trying now would overtake somebody, or is known to be in vain.
    fn must_queue(&self, waits: Waits, request: &Request, handle: Handle) -> bool {
        let Some(record) = number(handle).and_then(|fd| self.records.get(fd)) else { return false };
        if record.identity != handle.identity && handle.identity != 0 {
            return false; // of an earlier bearer of the number
        }
        if waits != Waits::Loose && !record.is_empty(waits) {
            return true;
        }
        // What is known about a foreign descriptor may be about another one by now.
        handle.identity != 0 && record.is_drained() && hint::plain_receive(request)
    }

    /// Begins a [`Request::Poll`]: asks the kernel, and waits if nothing holds.
    fn begin_poll(&mut self, id: OpId, request: &Request, handle: Handle, events: u16) -> Submitted {
        // poll(2) gives the same answer for everything that has a number: files and directories that cannot be
        // watched, numbers that are not open, and what became ready before anybody watched.
        match hint::poll_now(handle.fd, events, &mut self.syscalls) {
            0 => self.enqueue(id, request, handle, Waits::Loose, true),
            result => Submitted::Done(result),
        }
    }

    /// Lets an operation wait. Its descriptor was open a moment ago, so its number is no fancy.
    fn enqueue(
        &mut self,
        id: OpId,
        request: &Request,
        handle: Handle,
        waits: Waits,
        tried: bool,
    ) -> Submitted {
        let Some(fd) = number(handle) else { return Submitted::Done(-libc::EBADF) };
        self.record(fd, handle);
        let word = self.nodes.push(&mut self.records[fd], waits, id, request, tried);
        // A foreign descriptor is announced every time: this may be another one than the last time.
        let announced = handle.identity != 0 && self.is_announced(fd);
        if !announced && let Err(errno) = self.announce(fd) {
            self.nodes.remove(&mut self.records[fd], word);
            self.settle(fd);
            return Submitted::Done(-errno);
        }
        Submitted::Pending(word)
    }

    /// The record of a number, made over to the given bearer.
    fn record(&mut self, fd: usize, handle: Handle) -> &mut Record {
        if fd >= self.records.len() {
            self.records.resize_with(fd + 1, Record::default);
        }
        let record = &mut self.records[fd];
        // Somebody who uses the bare number of a descriptor that we know joins it.
        if handle.identity != 0 && record.identity != handle.identity {
            self.make_over(fd, handle.identity);
        }
        &mut self.records[fd]
    }

    /// The number has another bearer than we thought. Nothing of the earlier one should be pending; if it is, it ends
    /// here rather than touch a stranger. Operations on the bare number stay: they were never bound to a bearer.
    #[cold]
    fn make_over(&mut self, fd: usize, identity: u64) {
        let was_announced = self.records[fd].has(Record::ANNOUNCED);
        for waits in LISTS {
            let mut next = self.records[fd].head(waits);
            while let Some(word) = next {
                next = self.nodes.after(word);
                if self.nodes.identity(word) != 0 {
                    let id = self.nodes.remove(&mut self.records[fd], word);
                    self.finished.push((id, -libc::ECANCELED));
                }
            }
        }
        self.records[fd].retire();
        self.records[fd].identity = identity;
        if !self.records[fd].is_idle() {
            if let Err(errno) = self.announce(fd) {
                self.fail_all(fd, errno);
            }
        } else if was_announced && self.mode == Mode::OneShot {
            self.poller.remove(fd as RawFd);
        }
    }

    fn is_announced(&self, fd: usize) -> bool {
        let record = &self.records[fd];
        record.has(Record::ANNOUNCED)
            && (self.mode == Mode::Edge || self.nodes.interest(record) & !record.armed == 0)
    }

    /// Tells the poller to watch, for all that waits.
    fn announce(&mut self, fd: usize) -> Result<(), i32> {
        let record = &mut self.records[fd];
        let interest = self.nodes.interest(record);
        self.poller
            .add(fd as RawFd, record.key(fd), interest)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        record.armed = interest;
        record.set(Record::ANNOUNCED);
        Ok(())
    }

    /// Everything that waits here is over. Told by the next `wait`, or by the present one at its end.
    fn fail_all(&mut self, fd: usize, errno: i32) {
        for waits in LISTS {
            while let Some(word) = self.records[fd].head(waits) {
                let id = self.nodes.remove(&mut self.records[fd], word);
                self.finished.push((id, -errno));
            }
        }
    }

    /// The descriptor is about to be closed: whatever comes under its number later is not for it.
    fn forget(&mut self, handle: Handle) {
        let Some(fd) = number(handle).filter(|fd| *fd < self.records.len()) else { return };
        let foreign = self.records[fd].identity == 0;
        self.fail_all(fd, libc::ECANCELED);
        if self.records[fd].has(Record::ANNOUNCED) && (foreign || self.mode == Mode::OneShot) {
            self.poller.remove(fd as RawFd);
        }
        self.records[fd].retire();
        self.records[fd].identity = 0;
    }

    /// Lets go of what nobody waits for any more and asks for what somebody still waits for.
    fn settle(&mut self, fd: usize) {
        let asleep = self.is_asleep(fd);
        let record = &mut self.records[fd];
        if asleep && self.mode == Mode::OneShot {
            // An error or a hang-up would be reported over and over while nobody heeds it.
            if record.has(Record::ANNOUNCED) {
                record.clear(Record::ANNOUNCED);
                self.poller.remove(fd as RawFd);
            }
        } else if record.is_idle() {
            // Of descriptors that we know, an edge-triggered poller may keep its memory: that is what makes them warm.
            if record.has(Record::ANNOUNCED) && (record.identity == 0 || self.mode == Mode::OneShot) {
                record.retire();
                self.poller.remove(fd as RawFd);
            }
        } else if !self.is_announced(fd)
            && let Err(errno) = self.announce(fd)
        {
            self.fail_all(fd, errno);
        }
    }

    /// Asks for the memory that the next events are about.
    fn prefetch_for(&self, events: &[Event]) {
        let record = |ahead: usize| self.records.get((events.get(ahead)?.key as u32) as usize);
        if let Some(record) = record(4) {
            prefetch(std::ptr::from_ref(record).cast(), 1);
        }
        if let Some(word) = record(2).and_then(|record| record.head(Waits::Read)) {
            prefetch(self.nodes.address(word), 2);
        }
    }

    /// Deals with what the poller has found out.
    fn handle(&mut self, event: Event, done: &mut Completions) {
        let fd = (event.key as u32) as usize;
        let Some(record) = self.records.get_mut(fd) else { return };
        if record.key(fd) != event.key || !record.has(Record::ANNOUNCED) {
            return; // of an earlier bearer of the number
        }
        if self.mode == Mode::OneShot {
            record.clear(Record::ANNOUNCED);
        }
        if event.bits & (PRI | RDHUP | ERR | HUP) != 0 {
            record.set(Record::TROUBLED);
        }
        if event.is_readable() {
            record.clear(Record::DRAINED);
        }
        // A one-shot poller reports only what has been asked for since.
        let resting = self.mode == Mode::Edge && record.has(Record::RESTING);
        let before = done.len();
        self.serve_loose(fd, event.bits, done);
        let mut vain = self.mode == Mode::OneShot;
        for (waits, ready) in [(Waits::Read, event.is_readable()), (Waits::Write, event.is_writable())] {
            // While it rests, the end of the rest tries everything.
            if ready && !resting && !self.records[fd].is_empty(waits) {
                self.serve(fd, waits, done);
                // A stream that has to rest was not tried.
                vain = !self.nodes.rests(&self.records[fd], waits);
            }
        }
        let record = &mut self.records[fd];
        if done.len() > before {
            record.clear(Record::FALSE_ALARM);
        } else if vain && (self.mode == Mode::OneShot || record.has(Record::FALSE_ALARM)) {
            return self.rest(fd);
        } else if vain {
            // Once is no habit: somebody else may have been quicker, or urgent data arrived.
            record.set(Record::FALSE_ALARM);
        }
        self.settle(fd);
    }

    /// Announced as ready, and not for us: asking, or trying, again at once might go on like this for ever.
    fn rest(&mut self, fd: usize) {
        if self.records[fd].is_idle() || self.is_asleep(fd) {
            return self.settle(fd);
        }
        if self.resting.is_empty() {
            self.rest_until = self.now() + REST.as_nanos() as u64;
        }
        if self.records[fd].has(Record::RESTING) {
            return;
        }
        self.records[fd].set(Record::RESTING);
        self.resting.push(self.records[fd].key(fd));
    }

    /// Ends the rest of all whose time has come.
    fn end_rest(&mut self, done: &mut Completions) {
        if self.resting.is_empty() || self.now() < self.rest_until {
            return;
        }
        std::mem::swap(&mut self.rested, &mut self.resting);
        while let Some(key) = self.rested.pop() {
            let fd = (key as u32) as usize;
            if self.records[fd].key(fd) != key {
                continue;
            }
            self.records[fd].clear(Record::RESTING);
            if self.mode == Mode::Edge {
                let before = done.len();
                self.serve(fd, Waits::Read, done);
                self.serve(fd, Waits::Write, done);
                if done.len() == before {
                    self.rest(fd);
                    continue;
                }
            }
            self.settle(fd);
        }
    }

    /// Tries a queue from its head until one would block. It ends: nothing is submitted meanwhile.
    fn serve(&mut self, fd: usize, waits: Waits, done: &mut Completions) {
        while let Some(word) = self.records[fd].head(waits) {
            let (request, tried) = self.nodes.request(word);
            if request.flow().is_some() {
                if self.serve_stream(fd, waits, word, &request, done) {
                    continue;
                }
                break;
            }
            // SAFETY: the operation was submitted and is not completed, so what its request points to is valid and
            // nobody else's, by the contract of `submit`.
            let result = unsafe { attempt(&request, tried, &mut self.syscalls) };
            let Some(result) = result else {
                self.nodes.set_tried(word);
                self.learn_empty(fd, &request);
                break;
            };
            // SAFETY: as above; it completes only now.
            unsafe { self.learn(Some(fd), &request, result) };
            let id = self.nodes.remove(&mut self.records[fd], word);
            done.push(id, result);
        }
    }

    /// Looks at each that waits beside the queues.
    fn serve_loose(&mut self, fd: usize, bits: u16, done: &mut Completions) {
        let mut next = self.records[fd].head(Waits::Loose);
        while let Some(word) = next {
            next = self.nodes.after(word);
            let (request, tried) = self.nodes.request(word);
            let result = match request {
                Request::Poll { events, .. } => {
                    hint::poll_result(fd as RawFd, events, bits, &mut self.syscalls)
                }
                // SAFETY: as in `serve`: submitted and not completed.
                _ => unsafe { attempt(&request, tried, &mut self.syscalls) },
            };
            if let Some(result) = result {
                // SAFETY: as above; it completes only now.
                unsafe { self.learn(Some(fd), &request, result) };
                let id = self.nodes.remove(&mut self.records[fd], word);
                done.push(id, result);
            }
        }
    }

    /// What a completed operation tells about the next one.
    ///
    /// # Safety
    /// What `request` points to is still valid.
    unsafe fn learn(&mut self, fd: Option<usize>, request: &Request, result: i32) {
        if self.mode != Mode::Edge || !matches!(request, Request::Recv { .. } | Request::RecvMsg { .. }) {
            return;
        }
        if hint::reads_urgent(request) && result >= 0 {
            // The mark stays in the stream when the kernel no longer tells of it. That must be remembered from now
            // on, hence the record, even if nothing has ever waited here.
            if let (Some(fd), Some(handle)) = (fd, request.handle()) {
                self.record(fd, handle).set(Record::TROUBLED);
            }
            return;
        }
        let Some(record) = fd.and_then(|fd| self.records.get_mut(fd)) else { return };
        // Without a watch there is no edge to wait for.
        let identity = request.handle().map_or(0, |handle| handle.identity);
        if !record.has(Record::ANNOUNCED) || record.has(Record::TROUBLED) || record.identity != identity {
            return;
        }
        // SAFETY: passed on from this function's own contract.
        if unsafe { hint::short_receive(request, result) }
            && hint::is_tcp(record, request, &mut self.syscalls)
        {
            record.set(Record::DRAINED);
        }
    }

    /// An operation would have blocked.
    fn learn_empty(&mut self, fd: usize, request: &Request) {
        let Some(record) = self.records.get_mut(fd) else { return };
        let identity = request.handle().map_or(0, |handle| handle.identity);
        if self.mode == Mode::Edge
            && record.has(Record::ANNOUNCED)
            && record.identity == identity
            && hint::plain_receive(request)
        {
            record.set(Record::DRAINED);
        }
    }

    fn flush(&mut self, done: &mut Completions) {
        for (id, result) in self.finished.drain(..) {
            done.push(id, result);
        }
    }
}

/// The number as an index; `None` if it is negative, and so nobody's.
fn number(handle: Handle) -> Option<usize> {
    usize::try_from(handle.fd).ok()
}

// SAFETY: results are those of system calls, or the ring's, for the very request; a request is forgotten with its
// completion.
unsafe impl<P: Poller> Backend for Readiness<P> {
    fn name(&self) -> &'static str {
        self.poller.name()
    }

    fn support(&self, kind: Kind) -> Support {
        match kind.describe().elsewhere {
            Elsewhere::Loop | Elsewhere::Direct => Support::Direct,
            Elsewhere::Ready(_) | Elsewhere::Ends | Elsewhere::Wait => Support::Readiness,
            Elsewhere::Pool => Support::Pool,
        }
    }

    unsafe fn submit(&mut self, id: OpId, request: &Request) -> Submitted {
        match *request {
            Request::Poll { handle, events } => return self.begin_poll(id, request, handle, events),
            Request::AcceptMulti { handle, .. } | Request::RecvMulti { handle, .. } => {
                return self.begin_stream(id, request, handle);
            }
            _ => {}
        }
        if let (Some(waits), Some(handle)) = (Waits::of(request), request.handle()) {
            if self.has_to_wait.is_none() {
                // SAFETY: passed on from this function's own contract.
                if let Some(result) = unsafe { self.begin(request, handle, waits) } {
                    return Submitted::Done(result);
                }
            }
            let (waits, tried) = self.has_to_wait.take().expect("just found out");
            return self.enqueue(id, request, handle, waits, tried);
        }
        if let Request::Close { handle } = *request {
            self.forget(handle);
        }
        // SAFETY: as above.
        let result = unsafe { attempt(request, false, &mut self.syscalls) };
        Submitted::Done(result.expect("only what waits for readiness would block"))
    }

    unsafe fn attempt(&mut self, request: &Request) -> Option<i32> {
        match *request {
            Request::Poll { .. } => None,
            // SAFETY: passed on from this function's own contract.
            Request::Read { .. } => unsafe { self.warm.attempt(request, &mut self.syscalls) },
            // SAFETY: as above.
            _ => unsafe { self.begin(request, request.handle()?, Waits::of(request)?) },
        }
    }

    fn cancel(&mut self, id: OpId, word: u32, request: &Request) {
        let fd = request.handle().and_then(number);
        // Whoever is late finds the slot empty or another's: the operation has completed already.
        let Some(fd) = fd.filter(|_| self.nodes.holds(word, id)) else { return };
        let waits = Waits::of(request).expect("it waits");
        let was_head = self.records[fd].head(waits) == Some(word);
        self.nodes.remove(&mut self.records[fd], word);
        self.finished.push((id, -libc::ECANCELED));
        if was_head && waits != Waits::Loose && !self.records[fd].is_empty(waits) {
            // The next in line may be able to do what the first was not, and no event need come for it.
            self.orphaned.push_back((fd, waits));
        }
        self.settle(fd);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Completions) -> io::Result<()> {
        let before = done.len();
        self.flush(done);
        for _ in 0..self.orphaned.len() {
            let Some((fd, waits)) = self.orphaned.pop_front() else { break };
            self.serve(fd, waits, done);
            self.settle(fd);
        }
        self.resume_streams(done);
        self.end_rest(done);
        let timeout = if done.len() > before || !self.orphaned.is_empty() {
            Some(Duration::ZERO)
        } else if self.resting.is_empty() {
            timeout
        } else {
            let rest = Duration::from_nanos(self.rest_until.saturating_sub(self.now()));
            Some(timeout.map_or(rest, |timeout| timeout.min(rest)))
        };

        let mut events = std::mem::take(&mut self.events);
        let waited = self.poller.wait(timeout, &mut events);
        for (at, event) in events.iter().enumerate() {
            self.prefetch_for(&events[at..]);
            self.handle(*event, done);
        }
        events.clear();
        self.events = events;
        self.flush(done);
        self.nodes.give_back();
        waited
    }

    fn due(&self) -> Option<u64> {
        if !self.finished.is_empty() || !self.orphaned.is_empty() {
            return Some(0);
        }
        (!self.resting.is_empty()).then_some(self.rest_until)
    }

    fn now(&self) -> u64 {
        super::clock::monotonic_now()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.poller.waker()
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.poller.as_fd()
    }

    fn syscalls(&self) -> u64 {
        self.syscalls + self.poller.syscalls()
    }
}
