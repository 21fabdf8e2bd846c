//! One ring: the queues shared with the kernel, and the one system call that works them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{EnterFlags, IoUring, cqueue, squeue, types};

/// What `wait` may sleep at most. The kernel adds its own clock to a time-out without looking for an overflow.
const SLEEP_MAX: Duration = Duration::from_secs(1 << 31);

/// `IORING_REGISTER_RING_FDS` and `IORING_UNREGISTER_RING_FDS`.
///
/// The io-uring crate registers a descriptor too, but remembers it only in its short-lived `Submitter`.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// Of an eventfd, and of rings of buffers (5.19), and the reverse of both.
const REGISTER_EVENTFD: [u8; 2] = [4, 5];
const REGISTER_PBUF_RING: [u8; 2] = [22, 23];

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// A ring, bound to the thread that made it. [Unregisters](Drop) and closes itself.
pub(super) struct Ring {
    io: IoUring,
    /// The ring's place among the thread's registered rings: saves a look-up of the descriptor at every enter.
    index: Option<u32>,
    /// So many more enters, and it is worth the two calls to have such a place.
    to_register: u32,
}

/// A look-up costs some hundredth of a call.
pub(super) const REGISTERED_AFTER: u32 = 64;

impl Ring {
    /// Takes charge of a ring.
    pub(super) fn new(io: IoUring) -> Ring {
        Ring { io, index: None, to_register: REGISTERED_AFTER }
    }

    /// System calls that were made to register it.
    pub(super) fn registering(&self) -> u64 {
        u64::from(self.to_register == 0)
    }

    /// Registers its descriptor, where the kernel can (5.18) and has room (16 a thread).
    pub(super) fn register_itself(&mut self) {
        self.to_register = 0;
        let mut update = Update { offset: u32::MAX, reserved: 0, data: self.io.as_raw_fd() as u64 };
        if self.register(REGISTER_RING_FDS, &mut update).is_ok() {
            self.index = Some(update.offset);
        }
    }

    fn register(&self, opcode: libc::c_uint, update: &mut Update) -> io::Result<()> {
        // SAFETY: both opcodes read and write one `io_uring_rsrc_update`, which `update` is, during the call only.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_register, self.io.as_raw_fd(), opcode, &raw mut *update, 1)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The numbers of the registrations that are made below, with those of `buffers` or without: what this ring is asked for
    /// from now on.
    pub(super) fn registrations(&self, buffers: bool) -> impl Iterator<Item = u8> {
        let itself = self.index.map(|_| UNREGISTER_RING_FDS as u8);
        let buffers = buffers.then_some(REGISTER_PBUF_RING).into_iter().flatten();
        REGISTER_EVENTFD.into_iter().chain(itself).chain(buffers)
    }

    /// Allows this and nothing else, and enables the ring, which was opened disabled: it becomes this thread's.
    pub(super) fn restrict(&self, allowed: &mut [Restriction]) -> io::Result<()> {
        self.io.submitter().register_restrictions(allowed)?;
        self.io.submitter().register_enable_rings()
    }

    /// Queues entries for the next [`enter`](Ring::enter); `false` if there is no [room](Ring::room) for all.
    ///
    /// # Safety
    /// What the entries point to stays valid and otherwise unused until their completion.
    pub(super) unsafe fn push(&mut self, entries: &[squeue::Entry]) -> bool {
        // SAFETY: passed on from this function's own contract.
        unsafe { self.io.submission().push_multiple(entries).is_ok() }
    }

    /// How many entries could be pushed now.
    pub(super) fn room(&mut self) -> u32 {
        let queue = self.io.submission();
        (queue.capacity() - queue.len()) as u32
    }

    /// How many entries the kernel has not taken yet.
    pub(super) fn pending(&mut self) -> u32 {
        self.io.submission().len() as u32
    }

    /// Whether the kernel holds completions back that only an enter brings forth: work deferred to it, or an
    /// overflown queue.
    pub(super) fn due(&mut self) -> bool {
        let queue = self.io.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Whether completions wait in the kernel's memory because the completion queue was full.
    pub(super) fn overflown(&mut self) -> bool {
        self.io.submission().cq_overflow()
    }

    /// The completions that have arrived. A snapshot: what arrives meanwhile is for the next time.
    pub(super) fn completions(&mut self) -> cqueue::CompletionQueue<'_> {
        self.io.completion()
    }

    /// Hands the queued entries to the kernel, and does nothing else.
    pub(super) fn submit(&mut self) -> io::Result<u32> {
        let pending = self.pending();
        self.call(pending, 0, EnterFlags::empty(), None)
    }

    /// Hands the queued entries to the kernel and lets it bring completions forth, without sleeping.
    pub(super) fn reap(&mut self) -> io::Result<u32> {
        let pending = self.pending();
        self.call(pending, 0, EnterFlags::GETEVENTS, None)
    }

    /// The same, for all that is ready, where [`reap`](Ring::reap) leaves off.
    pub(super) fn reap_all(&mut self) -> io::Result<u32> {
        let pending = self.pending();
        let all = self.io.params().cq_entries();
        match self.call(pending, all, EnterFlags::GETEVENTS, Some(Duration::ZERO)) {
            // There were fewer.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(0),
            result => result,
        }
    }

    /// The same as `reap`, and sleeps until there is a completion or the time is over. Not if the kernel did not take all
    /// entries.
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<u32> {
        let pending = self.pending();
        self.call(pending, 1, EnterFlags::GETEVENTS, timeout)
    }

    /// `io_uring_enter(2)`: how many entries the kernel took.
    fn call(
        &mut self,
        submit: u32,
        want: u32,
        flags: EnterFlags,
        timeout: Option<Duration>,
    ) -> io::Result<u32> {
        if self.to_register > 0 {
            self.to_register -= 1;
            if self.to_register == 0 {
                self.register_itself();
            }
        }
        let (fd, flags) = match self.index {
            Some(index) => (index as i32, flags | EnterFlags::REGISTERED_RING),
            None => (self.io.as_raw_fd(), flags),
        };
        let time;
        let mut arguments = types::SubmitArgs::new();
        if let Some(timeout) = timeout {
            time = types::Timespec::from(timeout.min(SLEEP_MAX));
            arguments = arguments.timespec(&time);
        }
        // SAFETY: `SubmitArgs` is a `struct io_uring_getevents_arg`, whose size stands beside it, as EXT_ARG wants;
        // it and the time-out that it points to are read during the call only. What the entries point to is valid
        // by the contract of `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                submit,
                want,
                (flags | EnterFlags::EXT_ARG).bits(),
                &raw const arguments,
                size_of_val(&arguments),
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as u32) }
    }

    /// Registers a ring of `entries` buffers at `start` as a group. (5.19)
    ///
    /// # Safety
    /// The ring is one, of buffers that nobody else uses while they are in it, and both stay valid until the group is
    /// unregistered.
    pub(super) unsafe fn register_buffers(&self, start: u64, entries: u16, group: u16) -> io::Result<()> {
        // SAFETY: passed on from this function's own contract.
        unsafe { self.io.submitter().register_buf_ring_with_flags(start, entries, group, 0) }
    }

    /// The reverse: the kernel lets go of the ring, and of the buffers in it.
    pub(super) fn unregister_buffers(&self, group: u16) -> io::Result<()> {
        self.io.submitter().unregister_buf_ring(group)
    }

    /// Has the kernel signal this eventfd at every completion.
    pub(super) fn register_bell(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.io.submitter().register_eventfd(fd.as_raw_fd())
    }

    /// The reverse.
    pub(super) fn unregister_bell(&self) -> io::Result<()> {
        self.io.submitter().unregister_eventfd()
    }

    /// The ring's descriptor: readable when there are completions.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `io` owns the descriptor and lives as long as the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.io.as_raw_fd()) }
    }

    /// Whether a `wait` would find something: a completion, due work, or entries to hand over.
    pub(super) fn has_news(&self) -> bool {
        // SAFETY: the ring is on one thread, and no method lets a queue that it borrowed outlive the borrow of `self`;
        // so nobody holds another.
        let (submissions, completions) =
            unsafe { (self.io.submission_shared(), self.io.completion_shared()) };
        !completions.is_empty()
            || !submissions.is_empty()
            || submissions.taskrun()
            || submissions.cq_overflow()
    }

    /// Whether the kernel knows the ring without its descriptor.
    #[cfg(test)]
    pub(super) fn is_registered(&self) -> bool {
        self.index.is_some()
    }

    /// The flags and features that the kernel gave.
    pub(super) fn params(&self) -> &io_uring::Parameters {
        self.io.params()
    }
}

impl Drop for Ring {
    /// A registered ring outlives its descriptor: it would stay until the thread ends.
    fn drop(&mut self) {
        if let Some(index) = self.index {
            let _ = self.register(UNREGISTER_RING_FDS, &mut Update { offset: index, reserved: 0, data: 0 });
        }
    }
}
