//! Operations: what a loop can be asked to do, as values.
//!
//! A function builds one, methods adjust it (`.timeout(d)`, `.deadline(t)`, `.all(true)`), and then it is handed to
//! one of four ways to wait, which are the same for all of them:
//!
//! | | | buffers |
//! |---|---|---|
//! | callback | [`Loop::submit`](crate::Loop::submit)`(op, \|loop_, outcome\| …)` | owned |
//! | pull | [`Loop::start`](crate::Loop::start)`(op)`, and the outcome from the [`Ticket`](crate::Ticket) | owned |
//! | blocking | `op.wait()`, in a task or on a plain thread | borrowed or owned |
//! | future | `op.await` | owned |
//!
//! Two are [streams](Streaming), which bring many items before they end: [`accept_multi`] and [`recv_multi`].
//!
//! A time-out counts from where it is set. An operation that ends by it fails with `TimedOut`; one that was
//! cancelled fails with an error that [`is_canceled`](crate::is_canceled) recognises; a result that came first is
//! kept in either case. Bytes are never both reported as not transferred and gone.
//!
//! # A borrowed buffer cannot outlive its call
//! ```compile_fail
//! # use towpath_loop::{Loop, Socket, op};
//! fn lend(loop_: &Loop, socket: &Socket) {
//!     let mut buf = [0; 64];
//!     loop_.submit(op::recv(socket, &mut buf[..]), |_, _| ());
//! }
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::event_loop::forked;
use crate::instant::Instant;
use crate::operation::{GroupRef, Link, OpId, Request};
use crate::remote::Shared;

mod ancillary;
mod control;
mod directory;
mod entire;
mod file;
mod group;
mod message;
mod metadata;
mod open;
mod outside;
mod path;
mod place;
mod process;
mod sendfile;
mod splice;
mod stream;
mod time;
mod transfer;
mod vectors;
mod zero_copy;

pub use ancillary::{Control, Credentials, Message, RecvMsg, SendMsg, recv_msg, send_msg};
pub use control::{
    Accept, Bind, Close, Connect, Listen, NewSocket, NextTick, Poll, Shutdown, Timer, accept, bind, close,
    connect, listen, next_tick, poll, shutdown, socket, timer, timer_at,
};
pub use directory::{DirEntry, Entries, Iter, ReadDir, read_dir};
pub use entire::{
    ReadEntire, ReadEntireDir, StepError, WriteEntire, read_entire, read_entire_dir, write_entire,
};
pub use file::{
    Allocate, CopyRange, Pipe, Read, ReadVectored, SetLen, Sync, SyncData, Write, WriteVectored, allocate,
    copy_range, pipe, read, read_vectored, set_len, sync, sync_data, write, write_vectored,
};
pub use group::{
    Batch, Completed, DetachBatch, Gather, Joins, JoinsDetached, Linked, Race, Raced, Unlinked, chain,
    complete, gather, multi, race, single,
};
pub use message::{
    Datagram, RecvFrom, RecvVectored, SendTo, SendVectored, recv_from, recv_vectored, send_to, send_vectored,
};
pub use metadata::{FileType, Metadata, Stat, stat};
pub use open::{Open, create, open};
pub(crate) use outside::notified;
pub use outside::{Blocking, JobError, Notified, blocking};
pub use path::{
    Access, CreateDir, FileTime, HardLink, ReadLink, RealPath, Remove, Rename, SetOwner, SetPermissions,
    SetTimes, Symlink, access, create_dir, hard_link, read_link, real_path, remove_dir, remove_file, rename,
    set_owner, set_permissions, set_times, symlink,
};
pub use place::Place;
pub(crate) use process::received;
pub use process::{Received, WaitChild, wait_child};
pub use sendfile::{Progress, SendFile, sendfile};
pub use splice::{Splice, splice};
pub(crate) use stream::Part;
pub use stream::{AcceptMulti, RecvMulti, Streaming, accept_multi, recv_multi};
pub use time::{Clock, ClockTimer, Interval, MissedTicks, Tick, alarm, interval, interval_at, timer_on};
pub use transfer::{Recv, Send, recv, send};
pub use vectors::{IoVecs, IoVecsMut};
pub use zero_copy::{SendVectoredZc, SendZc, Sent, send_vectored_zc, send_zc};

/// An operation, ready to be handed to a loop. Implemented by the types of this module only.
///
/// # Safety
/// After `start` the value is neither moved nor used until `finish`, and `start` is called once (if it is pure, again as long as nothing has begun): addresses
/// into it may be in the kernel's hands. Whoever implements it sees to it that all it lets the request point to is
/// owned by the value or borrowed for its lifetime, the descriptor included.
pub unsafe trait Operation: Sized {
    /// What comes of it.
    type Output;

    #[doc(hidden)]
    fn options(&self) -> Options;
    /// Whether `start` does nothing but fill the request in, so that it may be called again before the operation has
    /// begun. Others are started in their turn when they are linked.
    #[doc(hidden)]
    fn is_pure(&self) -> bool {
        false
    }
    #[doc(hidden)]
    fn start(&mut self, begin: &Begin<'_>) -> Started;
    #[doc(hidden)]
    fn finish(self, outcome: Outcome) -> Self::Output;
    /// Nobody wants the outcome: by default it is dropped as what it is, so that an accepted socket closes.
    #[doc(hidden)]
    fn discard(self, outcome: Outcome) {
        drop(self.finish(outcome));
    }

    /// Links the next operation of a [batch](gather) to this one: it begins when this one has succeeded, and is cancelled if
    /// this one fails, or with `all(true)` falls short. See [`gather`].
    fn soft(self) -> Linked<Self> {
        Linked::new(self, Link::Soft)
    }

    /// Links the next operation of a [batch](gather) to this one: it begins when this one is over, whatever came of it.
    fn hard(self) -> Linked<Self> {
        Linked::new(self, Link::Hard)
    }

    /// Carries it out and waits for it: suspends the current task, or on a plain thread blocks it.
    ///
    /// Cancel-safe: where the task is cancelled meanwhile, the operation is cancelled and awaited, and a result that
    /// came all the same is returned.
    ///
    /// # Errors
    /// Besides the operation's own: [`is_canceled`](crate::is_canceled) if the current task is; `ResourceDeadlock`
    /// inside a callback of the loop that this thread would have to drive; the errors of
    /// [`Loop::new`](crate::Loop::new) if the thread has no loop and none can be made.
    fn wait(mut self) -> Self::Output {
        let outcome = crate::wait::wait(self.options(), |begin| self.start(begin));
        self.finish(outcome)
    }
}

/// An [`Operation`] that holds no borrow, or can do without: it may outlive the call that begins it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` borrows, so it can only be waited for in place",
    label = "holds a borrowed buffer",
    note = "use `.wait()`, or give the operation an owned buffer (`Vec<u8>`, `Box<[u8]>`, …)"
)]
pub trait Detach: Operation {
    /// The same operation without borrows.
    type Owned: Operation<Output = Self::Output> + 'static;

    #[doc(hidden)]
    fn detach(self) -> Self::Owned;
}

/// What all operations can be asked beside what they are.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub(crate) deadline: Instant,
    pub(crate) extent: Extent,
}

/// How far an operation goes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// To its first result.
    #[default]
    Once,
    /// Until all is transferred.
    All,
    /// Through any number of parts, to its end.
    Stream,
}

impl Options {
    pub(crate) const NONE: Options = Options { deadline: Instant::NEVER, extent: Extent::Once };

    pub(crate) fn set_all(&mut self, all: bool) {
        self.extent = if all { Extent::All } else { Extent::Once };
    }

    /// The earlier of two deadlines counts, so that an outer limit can be put on an operation that has one.
    pub(crate) fn limit(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }
}

/// What an operation may know when it begins.
#[doc(hidden)]
pub struct Begin<'a> {
    pub(crate) id: OpId,
    pub(crate) shared: &'a Arc<Shared>,
}

/// What an operation turned out to be.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Started {
    /// Something for the backend or the loop.
    Request(Request),
    /// Over before it began, with this result.
    Done(i32),
    /// The end of a descriptor that others are using.
    CloseShared { identity: u64 },
    /// Several operations.
    Group(GroupRef),
}

impl Started {
    pub(crate) fn failed(errno: i32) -> Started {
        Started::Done(-errno)
    }
}

/// How an operation ended, in the kernel's terms.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub(crate) result: i32,
    /// What an `all` transfer had moved before the last step.
    pub(crate) progress: usize,
}

impl Outcome {
    /// Not carried out, since its end was asked for.
    pub(crate) const CANCELED: i32 = -libc::ECANCELED;
    /// No kernel returns this: the loop is a forked child's.
    pub(crate) const FORKED: i32 = i32::MIN;
    /// Nor this: the operation's deadline has passed. `ETIMEDOUT` is a connection's own, after retries in vain.
    pub(crate) const TIMED_OUT: i32 = i32::MIN + 1;
    /// Nor this: the buffers are those of another loop.
    pub(crate) const FOREIGN_POOL: i32 = i32::MIN + 2;

    pub(crate) fn error(errno: i32) -> Outcome {
        Outcome { result: -errno, progress: 0 }
    }

    /// The value, or the error.
    pub(crate) fn value(self) -> io::Result<i32> {
        match self.result {
            Outcome::FORKED => Err(forked()),
            Outcome::TIMED_OUT => Err(io::ErrorKind::TimedOut.into()),
            Outcome::FOREIGN_POOL => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "the buffer pool is in use by another loop"))
            }
            Outcome::CANCELED => Err(crate::wait::canceled()),
            result if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            result => Ok(result),
        }
    }

    /// The bytes moved, and the error if there was one.
    pub(crate) fn bytes(self) -> (usize, io::Result<()>) {
        match self.value() {
            Ok(n) => (self.progress + n as usize, Ok(())),
            Err(error) => (self.progress, Err(error)),
        }
    }
}

/// The methods that set a limit, for a builder with a field `options`.
macro_rules! limits {
    () => {
        /// Ends the operation with `TimedOut` if it takes longer than `duration`, counted from this call.
        /// Of several limits the earliest counts. The error has no OS code; the `ETIMEDOUT` of a connection whose
        /// peer does not answer has.
        pub fn timeout(self, duration: ::std::time::Duration) -> Self {
            self.deadline(crate::Instant::now() + duration)
        }

        /// Ends the operation with `TimedOut` if it is not over at `deadline`. Of several limits the earliest counts.
        pub fn deadline(mut self, deadline: crate::Instant) -> Self {
            self.options.limit(deadline);
            self
        }
    };
}

/// The flags of a call on a socket, for a builder with a field `flags`.
macro_rules! message_flags {
    () => {
        /// The flags (`MSG_*`) of the system call.
        pub fn flags(mut self, flags: i32) -> Self {
            self.flags = flags;
            self
        }
    };
}

/// How far a transfer goes, for a builder with a field `options`.
macro_rules! extents {
    () => {
        /// Goes on until all of it is transferred, the file or stream ends, or there is an error. A limit covers the whole
        /// transfer.
        pub fn all(mut self, all: bool) -> Self {
            self.options.set_all(all);
            self
        }

        /// [Waits](Operation::wait), and tells how many bytes were transferred also where it failed.
        pub fn wait_counted(mut self) -> (usize, ::std::io::Result<()>) {
            crate::wait::wait(self.options, |begin| self.start(begin)).bytes()
        }
    };
}

/// What can be done with an operation where it stands, without importing a trait.
macro_rules! in_place {
    () => {
        /// Carries it out and waits for it: see [`Operation::wait`](crate::op::Operation::wait).
        pub fn wait(self) -> <Self as crate::op::Operation>::Output {
            crate::op::Operation::wait(self)
        }

        /// Links the next operation of a batch: see [`Operation::soft`](crate::op::Operation::soft).
        pub fn soft(self) -> crate::op::Linked<Self> {
            crate::op::Operation::soft(self)
        }

        /// Links the next operation of a batch: see [`Operation::hard`](crate::op::Operation::hard).
        pub fn hard(self) -> crate::op::Linked<Self> {
            crate::op::Operation::hard(self)
        }
    };
}

/// `.wait()` and `.await` for a builder: the first without importing a trait, the second through its owned form.
macro_rules! ways_to_wait {
    ($type:ident => $owned:ty) => {
        crate::op::ways_to_wait!(@ [] $type [] => $owned);
    };
    ($type:ident<$life:lifetime> => $owned:ty) => {
        crate::op::ways_to_wait!(@ [$life] $type<$life> [] => $owned);
    };
    ($type:ident<$life:lifetime, $param:ident: $bound:path> => $owned:ty) => {
        crate::op::ways_to_wait!(@ [$life, $param: $bound] $type<$life, $param> [$param: 'static] => $owned);
    };
    (@ [$($generics:tt)*] $type:ty [$($owned_if:tt)*] => $owned:ty) => {
        impl<$($generics)*> $type {
            crate::op::in_place!();
        }

        impl<$($generics)*> ::std::future::IntoFuture for $type where $($owned_if)* {
            type Output = <Self as crate::op::Operation>::Output;
            type IntoFuture = crate::future::OpFuture<$owned>;

            /// Begins when first polled, on the polling thread's current loop.
            fn into_future(self) -> Self::IntoFuture {
                crate::future::OpFuture::new(crate::op::Detach::detach(self))
            }
        }
    };
}

/// Declares an operation on a target whose request is an expression of its parameters and whose result is nothing.
macro_rules! on_target {
    (
        $(#[$struct_doc:meta])* $type:ident;
        $(#[$fn_doc:meta])* $name:ident($($field:ident: $ty:ty),*);
        |$this:ident, $handle:ident| $request:expr
    ) => {
        $(#[$struct_doc])*
        #[derive(Debug)]
        #[must_use = "operations do nothing until they are submitted or waited for"]
        pub struct $type<'s> {
            target: Target<'s>,
            $($field: $ty,)*
            options: Options,
        }

        $(#[$fn_doc])*
        pub fn $name<'s>(target: impl Into<Target<'s>> $(, $field: $ty)*) -> $type<'s> {
            $type { target: target.into(), $($field,)* options: Options::NONE }
        }

        impl $type<'_> {
            limits!();
        }

        // SAFETY: the request points into `self` at most, and `target` keeps the descriptor open.
        unsafe impl Operation for $type<'_> {
            type Output = io::Result<()>;
            fn options(&self) -> Options {
                self.options
            }
            fn is_pure(&self) -> bool {
                true
            }
            fn start(&mut self, _: &Begin<'_>) -> Started {
                let $this = self;
                match $this.target.handle() {
                    Ok($handle) => Started::Request($request),
                    Err(errno) => Started::failed(errno),
                }
            }
            fn finish(self, outcome: Outcome) -> Self::Output {
                outcome.value().map(drop)
            }
        }

        impl Detach for $type<'_> {
            type Owned = $type<'static>;
            fn detach(self) -> $type<'static> {
                $type { target: self.target.detach(), $($field: self.$field,)* options: self.options }
            }
        }

        ways_to_wait!($type<'s> => $type<'static>);
    };
}

pub(crate) use {extents, in_place, limits, message_flags, on_target, ways_to_wait};

/// The deadline `duration` from now.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration
}
