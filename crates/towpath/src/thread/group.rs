//! Tasks whose results are collected, and that end together if one fails.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use super::children::Children;
use super::scope::{Data, Scope, ScopedJoinHandle};
use super::{Builder, Failure, JoinHandle};
use crate::cancel;
use crate::context::Current;
use crate::sync::mpmc::{Channel, Receiving};
use crate::wait::{Limit, block};

/// A group of tasks, in which the first failure cancels the others.
///
/// What the tasks return comes out in the order in which they end: one by one, since a group is an iterator, or all at
/// once by [`wait`](ScopedGroup::wait).
///
/// ```
/// use towpath::thread::Group;
///
/// # fn main() -> std::io::Result<()> {
/// let mut group = Group::new();
/// for n in 1..=3 {
///     group.spawn(move || Ok(n * n));
/// }
/// let squares: Vec<i32> = group.wait()?;
/// assert_eq!(squares.iter().sum::<i32>(), 14);
/// # Ok(())
/// # }
/// ```
///
/// # Failure
/// A task fails if it returns an `Err`, or panics. That cancels the others at once, also those that are spawned later: they
/// fail as well, unless they end well all the same. Not so in a group that [keeps going](ScopedGroup::keep_going).
///
/// # Cancellation
/// Waiting for the group passes cancellation on: if the current task is cancelled, or past a deadline, so is the group, and
/// the wait goes on for what its tasks bring then. [`select::next`](crate::select::next) waits without that.
///
/// # Dropped
/// A group that is dropped cancels its tasks and lets go of them, without waiting: a destructor might wait for ever for tasks
/// of its own worker. To be sure that they are over [`wait`](ScopedGroup::wait), or take a group [of a
/// scope](Scope::group), whose tasks may also borrow.
pub type Group<T, E = io::Error> = ScopedGroup<'static, T, E>;

/// A [`Group`] whose tasks belong to a [`Scope`], and may borrow what it may: see [`Scope::group`].
pub struct ScopedGroup<'scope, T, E = io::Error> {
    shared: Arc<Shared>,
    members: Members<'scope, T, E>,
    next_number: u64,
    limit: usize,
    keep_going: bool,
    /// `None`: `'scope` is `'static`.
    scope: Option<&'scope Arc<Data>>,
    /// Invariant: a group of tasks that outlive everything must not become one whose tasks may borrow.
    _scope: PhantomData<&'scope mut &'scope ()>,
}

/// What the members reach.
struct Shared {
    /// The numbers of those that have ended.
    ended: Channel<u64>,
    children: Children,
}

/// What the owner has.
struct Members<'scope, T, E> {
    /// Those whose result nobody has taken.
    handles: HashMap<u64, Handle<'scope, T, E>>,
    /// Those of them that are known to have ended, in that order.
    ended: VecDeque<u64>,
}

enum Handle<'scope, T, E> {
    Free(JoinHandle<Result<T, E>>),
    Scoped(ScopedJoinHandle<'scope, Result<T, E>>),
}

impl<T, E> Members<'_, T, E> {
    /// A member has ended. False if it never began: its spawn has failed.
    fn collect(&mut self, number: u64) -> bool {
        let known = self.handles.contains_key(&number);
        if known {
            self.ended.push_back(number);
        }
        known
    }

    /// How many have not ended yet, as far as is known.
    fn running(&self) -> usize {
        self.handles.len() - self.ended.len()
    }

    /// The next result, of those that have ended.
    fn take(&mut self) -> Option<Result<T, Failure<E>>> {
        let handle = self.handles.remove(&self.ended.pop_front()?)?;
        // It has left the member's closure: what there is to wait for is the end of its task.
        let joined = match handle {
            Handle::Free(handle) => handle.wait(),
            Handle::Scoped(handle) => handle.wait(),
        };
        Some(match joined {
            Ok(result) => result.map_err(Failure::Failed),
            Err(failure) => Err(failure.map(|never| match never {})),
        })
    }
}

/// In a member's closure: tells the group when that is over, or dropped.
struct Member {
    shared: Arc<Shared>,
    number: u64,
    /// Its end is no reason to cancel the others.
    harmless: bool,
}

impl Drop for Member {
    fn drop(&mut self) {
        // First, so that this failure comes before those that it causes.
        let sent = self.shared.ended.try_send(self.number);
        debug_assert!(sent.is_ok(), "there is no bound");
        if !self.harmless {
            self.shared.children.cancel(None);
        }
    }
}

impl<T, E> Group<T, E> {
    /// Without tasks.
    pub fn new() -> Group<T, E> {
        Group::within(None)
    }

    /// Of at most `limit` tasks at a time, at least 1: [`spawn`](ScopedGroup::spawn) waits until there is room.
    pub fn with_limit(limit: usize) -> Group<T, E> {
        Group::new().limit(limit)
    }
}

impl<'scope> Scope<'scope, '_> {
    /// A [`Group`] of tasks of this scope, which may borrow what its tasks may.
    ///
    /// ```
    /// use towpath::thread;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let words = ["one", "three"].map(String::from);
    /// let lengths = thread::scope(|s| {
    ///     let mut group = s.group().limit(8);
    ///     words.iter().for_each(|word| group.spawn(|| Ok(word.len())));
    ///     group.wait()
    /// })?;
    /// assert_eq!(lengths.iter().sum::<usize>(), 8);
    /// # std::io::Result::Ok(())
    /// # }
    /// ```
    pub fn group<T, E>(&'scope self) -> ScopedGroup<'scope, T, E> {
        ScopedGroup::within(Some(self.data()))
    }
}

impl<'scope, T, E> ScopedGroup<'scope, T, E> {
    fn within(scope: Option<&'scope Arc<Data>>) -> ScopedGroup<'scope, T, E> {
        ScopedGroup {
            shared: Arc::new(Shared { ended: Channel::new(None), children: Children::default() }),
            members: Members { handles: HashMap::new(), ended: VecDeque::new() },
            next_number: 0,
            limit: usize::MAX,
            keep_going: false,
            scope,
            _scope: PhantomData,
        }
    }

    /// Allows at most so many tasks at a time, at least 1: [`spawn`](ScopedGroup::spawn) waits until there is room.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.max(1);
        self
    }

    /// Whether tasks that are spawned from now on leave the others alone when they fail; by default they do not.
    pub fn keep_going(mut self, keep_going: bool) -> Self {
        self.keep_going = keep_going;
        self
    }

    /// Spawns a task of this group, as [`thread::spawn`](super::spawn) does; first waits until there is room for it, if the
    /// group has a [limit](ScopedGroup::limit). In a group that was cancelled it never starts.
    ///
    /// # Panics
    /// If the system refuses a thread, outside of any runtime.
    #[track_caller]
    pub fn spawn<F>(&mut self, f: F)
    where
        F: FnOnce() -> Result<T, E> + Send + 'scope,
        T: Send + 'scope,
        E: Send + 'scope,
    {
        Builder::new().spawn_in(self, f).expect("failed to spawn a thread");
    }

    /// [`spawn`](ScopedGroup::spawn), if that need not wait for room.
    ///
    /// # Errors
    /// Gives `f` back.
    ///
    /// # Panics
    /// As `spawn`.
    #[track_caller]
    pub fn try_spawn<F>(&mut self, f: F) -> Result<(), F>
    where
        F: FnOnce() -> Result<T, E> + Send + 'scope,
        T: Send + 'scope,
        E: Send + 'scope,
    {
        if !self.has_room() {
            return Err(f);
        }
        self.spawn(f);
        Ok(())
    }

    /// Waits until all tasks have ended, and returns what they returned, in the order in which they ended. Results that
    /// were taken before are not among it.
    ///
    /// # Errors
    /// The first failure. All tasks have ended by then; by default it has cancelled the others.
    pub fn wait(mut self) -> Result<Vec<T>, Failure<E>> {
        let mut values = Vec::with_capacity(self.len());
        let mut first = Ok(());
        for result in &mut self {
            match result {
                Ok(value) => values.push(value),
                Err(failure) => first = first.and(Err(failure)),
            }
        }
        first.map(|()| values)
    }

    /// Cancels all tasks, also those that are spawned from now on: see [`JoinHandle::cancel`]. Their results are still to be
    /// had.
    pub fn cancel(&self) {
        self.shared.children.cancel(None);
    }

    /// [`cancel`](ScopedGroup::cancel), and says why: see [`JoinHandle::cancel_with`].
    pub fn cancel_with(&self, reason: impl Into<Box<dyn Error + Send + Sync>>) {
        self.shared.children.cancel(Some(reason.into().into()));
    }

    /// How many tasks there are whose result was not taken.
    pub fn len(&self) -> usize {
        self.members.handles.len()
    }

    /// Whether all results were taken.
    pub fn is_empty(&self) -> bool {
        self.members.handles.is_empty()
    }

    /// A new member: its number, and what its task does, which tells the group of its end.
    fn member<F: FnOnce() -> Result<T, E>>(
        &mut self,
        f: F,
    ) -> (u64, impl FnOnce() -> Result<T, E> + use<F, T, E>) {
        let number = self.next_number;
        self.next_number += 1;
        let mut member = Member { shared: self.shared.clone(), number, harmless: self.keep_going };
        let body = move || {
            let result = f();
            member.harmless |= result.is_ok();
            drop(member);
            result
        };
        (number, body)
    }

    /// Its task may run by now.
    fn admit(&mut self, number: u64, handle: Handle<'scope, T, E>) {
        let task = match &handle {
            Handle::Free(handle) => handle.task(),
            Handle::Scoped(handle) => handle.task(),
        };
        self.shared.children.add(task);
        self.members.handles.insert(number, handle);
    }

    fn has_room(&mut self) -> bool {
        while self.members.running() >= self.limit {
            match self.shared.ended.try_recv() {
                Ok(number) => self.members.collect(number),
                Err(_) => return false,
            };
        }
        true
    }

    /// Waits until one more task has ended, and passes cancellation on.
    fn collect_one(&mut self) {
        let mut limit = Limit::NONE;
        let number = loop {
            match block(&mut self.shared.ended.receiving(), limit) {
                Ok(received) => break received.expect("a group's channel stays open"),
                Err(_) => {
                    self.shared.children.cancel(cancel::reason());
                    limit = Limit::STUBBORN;
                }
            }
        };
        self.members.collect(number);
    }

    /// For `select!`: what there is to wait for, and what becomes of it.
    pub(crate) fn parts(&mut self) -> (Receiving<'_, u64>, impl Collect<Result<T, Failure<E>>>) {
        (self.shared.ended.receiving(), &mut self.members)
    }
}

/// Where a `select!` puts the ends that it sees, and takes a result from.
pub(crate) trait Collect<R> {
    /// A member has ended: whether there is a result now.
    fn collect(&mut self, number: u64) -> bool;
    /// Whether there is a result, or none to come.
    fn is_ready(&self) -> bool;
    fn take(&mut self) -> Option<R>;
}

impl<T, E> Collect<Result<T, Failure<E>>> for &mut Members<'_, T, E> {
    fn collect(&mut self, number: u64) -> bool {
        Members::collect(self, number)
    }

    fn is_ready(&self) -> bool {
        !self.ended.is_empty() || self.handles.is_empty()
    }

    fn take(&mut self) -> Option<Result<T, Failure<E>>> {
        Members::take(self)
    }
}

impl Builder {
    /// Spawns a task of a group with these options: see [`ScopedGroup::spawn`].
    ///
    /// # Errors
    /// As [`Builder::spawn`]. A group whose task is refused a thread is cancelled.
    #[track_caller]
    pub fn spawn_in<'scope, F, T, E>(self, group: &mut ScopedGroup<'scope, T, E>, f: F) -> io::Result<()>
    where
        F: FnOnce() -> Result<T, E> + Send + 'scope,
        T: Send + 'scope,
        E: Send + 'scope,
    {
        // Before there is a member, whose end would be a failure.
        self.check_here()?;
        while !group.has_room() {
            group.collect_one();
        }
        let (number, body) = group.member(f);
        // SAFETY: used in this frame, which is the task's.
        let current = unsafe { Current::get() };
        let late = cancel::is_canceled(&current).then(cancel::reason);
        let builder = self.canceled(group.shared.children.canceled().or(late));
        // SAFETY: both are `Send`. Without a scope `'scope` is `'static`, for nothing else makes such a group and the
        // lifetime is invariant; with one, that is there for `'scope`.
        let handle = unsafe {
            match group.scope {
                None => Handle::Free(builder.launch(body)?),
                Some(scope) => Handle::Scoped(scope.spawn(builder, body)?),
            }
        };
        group.admit(number, handle);
        Ok(())
    }
}

/// The results, in the order in which the tasks end. Waits for the next one; `None` if all were taken, until more are
/// spawned. Passes cancellation on: see [`Group`].
impl<T, E> Iterator for ScopedGroup<'_, T, E> {
    type Item = Result<T, Failure<E>>;

    fn next(&mut self) -> Option<Result<T, Failure<E>>> {
        while self.members.ended.is_empty() {
            if self.is_empty() {
                return None;
            }
            self.collect_one();
        }
        self.members.take()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl<T, E> Drop for ScopedGroup<'_, T, E> {
    fn drop(&mut self) {
        if !self.is_empty() {
            self.cancel();
        }
    }
}

impl<T, E> Default for Group<T, E> {
    fn default() -> Self {
        Group::new()
    }
}

impl<T, E> fmt::Debug for ScopedGroup<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::future::block_on;
    use loom::thread;

    use super::*;
    use crate::std_or_loom::model::check;
    use crate::task::TaskRef;
    use crate::wait::Waiting;

    type Strings = Group<u32, &'static str>;

    /// As `spawn_in`, but that a thread of the model runs the task.
    fn spawn<F>(group: &mut Strings, f: F) -> (TaskRef, thread::JoinHandle<()>)
    where
        F: FnOnce() -> Result<u32, &'static str> + Send + 'static,
    {
        let (number, body) = group.member(f);
        // SAFETY: it borrows nothing, and is `Send`.
        let (task, handle) = unsafe { TaskRef::new(None, body) };
        let runs = thread::spawn({
            let task = task.clone();
            // SAFETY: called once, and as a worker does: one that was cancelled does not start.
            move || unsafe {
                if task.is_canceled() { task.refuse(Box::new(crate::Canceled)) } else { task.run() }
            }
        });
        group.admit(number, Handle::Free(JoinHandle::new(handle)));
        (task, runs)
    }

    /// The next result, waited for as a thread of the model can.
    fn next(group: &mut Strings) -> Result<u32, Failure<&'static str>> {
        let number = block_on(Waiting::new(group.shared.ended.receiving())).unwrap();
        assert!(group.members.collect(number));
        let Handle::Free(handle) = &group.members.handles[&number] else { unreachable!("it has no scope") };
        while !handle.is_finished() {
            thread::yield_now();
        }
        group.members.take().unwrap()
    }

    /// One fails while the other is being spawned, or runs. Whatever becomes of that, it is cancelled, and what that leads to is
    /// not taken for the first failure.
    #[test]
    fn loom_the_first_failure_cancels_the_others_and_comes_first() {
        check(2, || {
            let mut group = Strings::new();
            let (_, first) = spawn(&mut group, || Err("first"));
            let shared = group.shared.clone();
            let (task, second) = spawn(&mut group, move || match shared.children.canceled() {
                Some(_) => Err("a consequence"),
                None => Ok(2),
            });
            let results = [next(&mut group), next(&mut group)];
            first.join().unwrap();
            second.join().unwrap();
            let failure = results.iter().find_map(|result| result.as_ref().err());
            assert!(matches!(failure, Some(Failure::Failed("first"))), "{results:?}");
            assert!(task.is_canceled() && group.is_empty());
        });
    }

    /// A group that is dropped while a member ends, which then has nobody to tell.
    #[test]
    fn loom_a_group_that_goes_cancels_what_runs() {
        check(2, || {
            let mut group = Strings::new().keep_going(true);
            let (task, runs) = spawn(&mut group, || Err("nobody minds"));
            drop(group);
            runs.join().unwrap();
            assert!(task.is_canceled() && task.join.is_finished());
        });
    }
}
