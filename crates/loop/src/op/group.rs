//! Several operations at once: batches, links, races. A group is an operation itself, with all that goes with it.

use std::fmt;

use super::{Begin, Detach, Operation, Options, Outcome, Started, in_place};
use crate::core::group::{Head, How, Member};
use crate::operation::{GroupRef, Link};

/// An operation and how the next one of its batch depends on it: see [`soft`](Operation::soft) and
/// [`hard`](Operation::hard).
#[derive(Clone, Copy, Debug)]
#[must_use = "a linked operation is part of a batch: hand it to `gather` or `multi`"]
pub struct Linked<O> {
    op: O,
    link: Link,
}

impl<O> Linked<O> {
    pub(super) fn new(op: O, link: Link) -> Linked<O> {
        Linked { op, link }
    }

    /// The same operation, with nothing linked to it: for the last of a `Vec` of linked ones.
    pub fn unlinked(self) -> Linked<O> {
        Linked { link: Link::None, ..self }
    }
}

/// A [batch](gather) of operations of one type, each linked to the next one by `link`.
///
/// ```
/// # use std::time::Duration;
/// # use towpath_loop::{Link, op};
/// let waits = (1..4).map(|ms| op::timer(Duration::from_millis(ms)));
/// assert_eq!(op::multi(op::chain(Link::Soft, waits)).len(), 3);
/// ```
pub fn chain<O: Operation>(link: Link, ops: impl IntoIterator<Item = O>) -> Vec<Linked<O>> {
    let mut members: Vec<_> = ops.into_iter().map(|op| Linked { op, link }).collect();
    if let Some(last) = members.last_mut() {
        last.link = Link::None;
    }
    members
}

/// What can be a member of a batch: an operation, or one that is [linked](Linked) to the next.
///
/// # Safety
/// Not to be implemented elsewhere.
pub unsafe trait Joins: Sized {
    /// The operation.
    type Op: Operation;
    #[doc(hidden)]
    fn link(&self) -> Link;
    #[doc(hidden)]
    fn op(&mut self) -> &mut Self::Op;
    #[doc(hidden)]
    fn into_op(self) -> Self::Op;
    #[doc(hidden)]
    fn member(&mut self) -> Member {
        let (link, op) = (self.link(), self.op());
        Member::new(op.options(), link, op.is_pure())
    }
}

// SAFETY: an operation is a member that nothing is linked to.
unsafe impl<O: Operation> Joins for O {
    type Op = O;
    fn link(&self) -> Link {
        Link::None
    }
    fn op(&mut self) -> &mut O {
        self
    }
    fn into_op(self) -> O {
        self
    }
}

// SAFETY: as its operation.
unsafe impl<O: Operation> Joins for Linked<O> {
    type Op = O;
    fn link(&self) -> Link {
        self.link
    }
    fn op(&mut self) -> &mut O {
        &mut self.op
    }
    fn into_op(self) -> O {
        self.op
    }
}

/// A [member](Joins) that holds no borrow, or can do without.
pub trait JoinsDetached: Joins {
    /// The same member without borrows.
    type Owned: Joins<Op: Operation<Output = <Self::Op as Operation>::Output>> + 'static;
    #[doc(hidden)]
    fn detach_member(self) -> Self::Owned;
}

impl<O: Detach> JoinsDetached for O {
    type Owned = O::Owned;
    fn detach_member(self) -> O::Owned {
        self.detach()
    }
}

impl<O: Detach> JoinsDetached for Linked<O> {
    type Owned = Linked<O::Owned>;
    fn detach_member(self) -> Linked<O::Owned> {
        Linked { op: self.op.detach(), link: self.link }
    }
}

/// Operations that go to a loop together: a tuple of up to twelve, or a `Vec` or an array of one type.
///
/// # Safety
/// Not to be implemented elsewhere. `start` uses nothing of the other members: they may be in flight.
pub unsafe trait Batch: Sized {
    /// What comes of all of them, in their order.
    type Outputs;
    #[doc(hidden)]
    type Table: AsMut<[Member]>;
    #[doc(hidden)]
    fn table(&mut self) -> Self::Table;
    /// # Safety
    /// `this` is a batch that lies still, `index` a member that has no request in flight.
    #[doc(hidden)]
    unsafe fn start(this: *mut Self, index: usize, begin: &Begin<'_>) -> Started;
    #[doc(hidden)]
    fn finish(self, outcome: impl FnMut(usize) -> Outcome) -> Self::Outputs;
    #[doc(hidden)]
    fn discard(self, outcome: impl FnMut(usize) -> Outcome);
}

/// A [`Batch`] of operations that are not linked.
pub trait Unlinked: Batch {}

/// A [`Batch`] that holds no borrow, or can do without.
pub trait DetachBatch: Batch {
    /// The same batch without borrows.
    type OwnedBatch: Batch<Outputs = Self::Outputs> + 'static;
    #[doc(hidden)]
    fn detach_batch(self) -> Self::OwnedBatch;
}

macro_rules! tuples {
    ($($count:literal: $($member:ident $index:tt)* ; $last:ident $last_index:tt;)*) => {$(
        // SAFETY: `start` goes by the address of the one field.
        unsafe impl<$($member: Joins,)* $last: Operation> Batch for ($($member,)* $last,) {
            type Outputs = ($(<$member::Op as Operation>::Output,)* $last::Output,);
            type Table = [Member; $count];
            fn table(&mut self) -> Self::Table {
                [$(self.$index.member(),)* self.$last_index.member()]
            }
            unsafe fn start(this: *mut Self, index: usize, begin: &Begin<'_>) -> Started {
                match index {
                    $(
                        // SAFETY: a field of a batch that lies still, used by nobody else by the caller's promise.
                        $index => unsafe { &mut (*this).$index }.op().start(begin),
                    )*
                    // SAFETY: as above.
                    $last_index => unsafe { &mut (*this).$last_index }.start(begin),
                    _ => unreachable!("it has {} members", $count),
                }
            }
            fn finish(self, mut outcome: impl FnMut(usize) -> Outcome) -> Self::Outputs {
                ($(self.$index.into_op().finish(outcome($index)),)* self.$last_index.finish(outcome($last_index)),)
            }
            fn discard(self, mut outcome: impl FnMut(usize) -> Outcome) {
                $(self.$index.into_op().discard(outcome($index));)*
                self.$last_index.discard(outcome($last_index));
            }
        }

        impl<$($member: Operation,)* $last: Operation> Unlinked for ($($member,)* $last,) {}

        impl<$($member: JoinsDetached,)* $last: Detach> DetachBatch for ($($member,)* $last,) {
            type OwnedBatch = ($($member::Owned,)* $last::Owned,);
            fn detach_batch(self) -> Self::OwnedBatch {
                ($(self.$index.detach_member(),)* self.$last_index.detach(),)
            }
        }
    )*};
}

tuples! {
    1: ; A 0;
    2: A 0; B 1;
    3: A 0 B 1; C 2;
    4: A 0 B 1 C 2; D 3;
    5: A 0 B 1 C 2 D 3; E 4;
    6: A 0 B 1 C 2 D 3 E 4; F 5;
    7: A 0 B 1 C 2 D 3 E 4 F 5; G 6;
    8: A 0 B 1 C 2 D 3 E 4 F 5 G 6; H 7;
    9: A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7; I 8;
    10: A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8; J 9;
    11: A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9; K 10;
    12: A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10; L 11;
}

// SAFETY: `start` goes by the address of the one element.
unsafe impl<M: Joins> Batch for Vec<M> {
    type Outputs = Vec<<M::Op as Operation>::Output>;
    type Table = Vec<Member>;
    fn table(&mut self) -> Vec<Member> {
        self.iter_mut().map(Joins::member).collect()
    }
    unsafe fn start(this: *mut Self, index: usize, begin: &Begin<'_>) -> Started {
        // SAFETY: the vector lies still; this uses where it keeps its elements, not the elements.
        let first = unsafe { &mut *this }.as_mut_ptr();
        // SAFETY: the index is one of the table's; nobody else uses the element, by the caller's promise.
        unsafe { &mut *first.add(index) }.op().start(begin)
    }
    fn finish(self, mut outcome: impl FnMut(usize) -> Outcome) -> Self::Outputs {
        self.into_iter().enumerate().map(|(index, member)| member.into_op().finish(outcome(index))).collect()
    }
    fn discard(self, mut outcome: impl FnMut(usize) -> Outcome) {
        for (index, member) in self.into_iter().enumerate() {
            member.into_op().discard(outcome(index));
        }
    }
}

impl<O: Operation> Unlinked for Vec<O> {}

impl<M: JoinsDetached> DetachBatch for Vec<M> {
    type OwnedBatch = Vec<M::Owned>;
    fn detach_batch(self) -> Vec<M::Owned> {
        self.into_iter().map(M::detach_member).collect()
    }
}

// SAFETY: as above.
unsafe impl<M: Joins, const N: usize> Batch for [M; N] {
    type Outputs = [<M::Op as Operation>::Output; N];
    type Table = [Member; N];
    fn table(&mut self) -> [Member; N] {
        self.each_mut().map(Joins::member)
    }
    unsafe fn start(this: *mut Self, index: usize, begin: &Begin<'_>) -> Started {
        // SAFETY: as for `Vec`; the elements are where the array is.
        unsafe { &mut *this.cast::<M>().add(index) }.op().start(begin)
    }
    fn finish(self, mut outcome: impl FnMut(usize) -> Outcome) -> Self::Outputs {
        let mut index = 0..N;
        self.map(|member| member.into_op().finish(outcome(index.next().expect("one for each"))))
    }
    fn discard(self, mut outcome: impl FnMut(usize) -> Outcome) {
        for (index, member) in self.into_iter().enumerate() {
            member.into_op().discard(outcome(index));
        }
    }
}

impl<O: Operation, const N: usize> Unlinked for [O; N] {}

impl<M: JoinsDetached, const N: usize> DetachBatch for [M; N] {
    type OwnedBatch = [M::Owned; N];
    fn detach_batch(self) -> [M::Owned; N] {
        self.map(M::detach_member)
    }
}

/// The part that gathering and racing have in common: the batch, and what the loop keeps of it.
struct Group<B: Batch> {
    batch: B,
    table: Option<B::Table>,
    head: Option<Head>,
    options: Options,
}

// SAFETY: `head` has pointers into the value itself, which only mean something between `start` and `finish`, during which
// the value does not move, to another thread least of all. What remains is the batch (the table is numbers).
unsafe impl<B: Batch + Send> Send for Group<B> {}

impl<B: Batch> Group<B> {
    fn new(batch: B) -> Group<B> {
        Group { batch, table: None, head: None, options: Options::NONE }
    }

    fn start(&mut self, how: How) -> Started {
        /// # Safety
        /// As [`Batch::start`]; `batch` is a `B`.
        unsafe fn start<B: Batch>(batch: *mut (), index: usize, begin: &Begin<'_>) -> Started {
            // SAFETY: passed on from this function's own contract.
            unsafe { B::start(batch.cast(), index, begin) }
        }
        let table = self.table.insert(self.batch.table()).as_mut();
        if table.last().is_some_and(|last| last.link != Link::None) {
            // There is nothing that it could be linked to.
            return Started::failed(libc::EINVAL);
        }
        let head = Head::new(how, (&raw mut self.batch).cast(), start::<B>, table);
        Started::Group(GroupRef::new(self.head.insert(head)))
    }

    fn winner(&self) -> Option<usize> {
        self.head.as_ref().and_then(Head::winner)
    }

    /// The batch, and what came of each member: its own outcome, or why the group did not begin.
    fn take(self, of_group: Outcome) -> (B, impl FnMut(usize) -> Outcome) {
        let Group { batch, mut table, .. } = self;
        (batch, move |index| {
            let member = table.as_mut().and_then(|table| table.as_mut()[index].outcome);
            member.unwrap_or(of_group)
        })
    }

    fn finish(self, of_group: Outcome) -> B::Outputs {
        let (batch, outcome) = self.take(of_group);
        batch.finish(outcome)
    }

    fn discard(self, of_group: Outcome) {
        let (batch, outcome) = self.take(of_group);
        batch.discard(outcome);
    }
}

/// All of several operations: see [`gather`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Gather<B: Batch>(Group<B>);

/// The first of several operations: see [`race`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Race<B: Batch>(Group<B>);

/// How a [`race`] ended.
#[derive(Clone, Copy, Debug)]
pub struct Raced<T> {
    /// Which operation was over first, counted from zero. `None` if none was begun.
    pub winner: Option<usize>,
    /// What came of each. Those that lost were cancelled, or have succeeded all the same.
    pub outputs: T,
}

/// Several operations as one, which is over when all of them are; the outcome is theirs, in their order.
///
/// A batch is a tuple, a `Vec` or an array. It is submitted as a whole or not at all: where the loop's limit leaves no
/// room for it, each of its operations fails with `QuotaExceeded`.
///
/// # Links
/// An operation that is not the last can be *linked* to the next one, which then begins when it is over:
/// [`soft`](Operation::soft)ly, if it succeeded (else the next one is cancelled, and what is linked to that), or
/// [`hard`](Operation::hard), whatever came of it. An operation has succeeded if its result is no error and, with
/// `all(true)`, nothing is left to transfer. A limit (`.timeout(d)`) on a linked operation ends it, once it has begun, and so
/// breaks a soft link; a limit on the group ends all of it.
///
/// ```
/// # use towpath_loop::{Socket, op};
/// # use std::os::{fd::OwnedFd, unix::net::UnixStream};
/// # let (a, b) = UnixStream::pair()?;
/// # let (socket, peer) = (Socket::from(OwnedFd::from(a)), Socket::from(OwnedFd::from(b)));
/// # op::send(&peer, b"reply").wait()?;
/// let mut reply = [0; 16];
/// let (asked, also, got) = op::multi((
///     op::send(&socket, b"ask ").all(true).soft(),
///     op::send(&socket, b"again").all(true).soft(),
///     op::recv(&socket, &mut reply),
/// ));
/// assert_eq!((asked?, also?, got?), (4, 5, 5));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Cancelling
/// Cancelling or removing the group, or a limit that passes, does so to each operation in it, and the group is over when
/// they are. The outcome tells of each what became of it. Groups are operations, so they can be members of others.
///
/// # Each backend
/// The loop counts. A run of linked transfers, reads and writes, with a sync or a renaming behind them, goes to `io_uring` in one
/// piece (`IOSQE_IO_LINK`, 5.18), so that the kernel begins one after the other by itself; elsewhere, and for other operations,
/// the loop begins the next one as soon as the one before it is over.
///
/// What is submitted apart from a batch while it is under way has no order to those of its members that have not begun.
pub fn gather<B: Batch>(batch: B) -> Gather<B> {
    Gather(Group::new(batch))
}

/// Several operations as one; the first that is over, whatever came of it, cancels the others, which are awaited. The
/// outcome tells who was first, and what came of each: nothing is lost of a result that came all the same.
///
/// Operations that are over as soon as they begin win over those after them, which are not begun then.
///
/// ```
/// # use std::time::Duration;
/// # use towpath_loop::{is_canceled, op};
/// let day = Duration::from_secs(86_400);
/// let raced = op::race((op::timer(day), op::timer(Duration::from_millis(1)))).wait();
/// assert_eq!(raced.winner, Some(1));
/// assert!(is_canceled(&raced.outputs.0.unwrap_err()));
/// ```
pub fn race<B: Unlinked>(batch: B) -> Race<B> {
    Race(Group::new(batch))
}

/// Begins a batch and waits for all of it: [`gather`]`(batch).wait()`.
pub fn multi<B: Batch>(batch: B) -> B::Outputs {
    gather(batch).wait()
}

/// Carries one operation out and waits for it: `op.wait()`.
pub fn single<O: Operation>(op: O) -> O::Output {
    Operation::wait(op)
}

/// How many operations of a batch succeeded and failed: see [`complete`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Completed {
    /// How many are over: all of them.
    pub completed: usize,
    /// How many of these have not succeeded: failed, cancelled, or short of `all(true)`.
    pub failed: usize,
}

/// Begins a batch, waits for all of it, and counts. What the operations give (sockets, owned buffers) is dropped.
pub fn complete<B: Batch>(batch: B) -> Completed {
    let mut gather = gather(batch);
    let outcome = crate::wait::wait(gather.0.options, |begin| gather.start(begin));
    let members = gather.0.table.as_mut().map_or(&mut [][..], |table| table.as_mut());
    let failed = members.iter().filter(|member| member.outcome.is_none() || member.failed).count();
    let completed = members.len();
    gather.discard(outcome);
    Completed { completed, failed }
}

macro_rules! groups {
    ($($type:ident: $output:ty; |$this:ident, $outcome:ident| $finish:expr;)*) => {$(
        impl<B: Batch> $type<B> {
            /// Ends the whole group if it takes longer than `duration`, counted from this call: what is not over by then
            /// fails with `TimedOut`. Of several limits the earliest counts.
            pub fn timeout(self, duration: std::time::Duration) -> Self {
                self.deadline(crate::Instant::now() + duration)
            }

            /// Ends the whole group if it is not over at `deadline`: what is not over by then fails with `TimedOut`.
            pub fn deadline(mut self, deadline: crate::Instant) -> Self {
                self.0.options.limit(deadline);
                self
            }

            in_place!();
        }

        impl<B: Batch> fmt::Debug for $type<B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($type))
            }
        }

        // SAFETY: the request points to the head in `self`, that to the members beside it. These keep to the contract each for
        // itself: they start where they lie, and are finished when the group is over, which is when they all are.
        unsafe impl<B: Batch> Operation for $type<B> {
            type Output = $output;
            fn options(&self) -> Options {
                self.0.options
            }
            fn start(&mut self, _: &Begin<'_>) -> Started {
                self.0.start(How::$type)
            }
            fn finish(self, $outcome: Outcome) -> Self::Output {
                let $this = self.0;
                $finish
            }
            fn discard(self, outcome: Outcome) {
                self.0.discard(outcome);
            }
        }

        impl<B: DetachBatch> Detach for $type<B> {
            type Owned = $type<B::OwnedBatch>;
            fn detach(self) -> Self::Owned {
                $type(Group { options: self.0.options, ..Group::new(self.0.batch.detach_batch()) })
            }
        }

        impl<B: DetachBatch> std::future::IntoFuture for $type<B> {
            type Output = $output;
            type IntoFuture = crate::future::OpFuture<$type<B::OwnedBatch>>;

            /// Begins when first polled, on the polling thread's current loop.
            fn into_future(self) -> Self::IntoFuture {
                crate::future::OpFuture::new(self.detach())
            }
        }
    )*};
}

groups! {
    Gather: B::Outputs; |group, outcome| group.finish(outcome);
    Race: Raced<B::Outputs>; |group, outcome| {
        Raced { winner: group.winner(), outputs: group.finish(outcome) }
    };
}
