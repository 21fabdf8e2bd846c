//! Waiting for the first of several things: messages, room for one, locks, permits, events, notifications, the end of a task,
//! a time, and whatever a future brings.
//!
//! [`select!`](crate::select!) takes cases as in a `match`; [`Select`] takes any number of them at run time.
//!
//! ```
//! use std::time::Duration;
//! use towpath::select::{after, recv};
//! use towpath::sync::mpsc;
//! use towpath::{select, thread};
//!
//! # fn main() -> std::io::Result<()> {
//! let (sender, messages) = mpsc::channel();
//! thread::spawn(move || sender.send("hello"));
//! let text = select! {
//!     message = recv(&messages) => message.unwrap_or("nobody sends"),
//!     () = after(Duration::from_secs(5)) => "too late",
//! }?;
//! assert_eq!(text, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//! - **One case wins**, and only that has an effect: no message, permit or lock is taken by one that loses, and what a
//!   losing [`send`] would have sent is dropped with it. A [`future`] is borrowed and stays what it is: one that loses can be
//!   waited for again, and keeps what it brings until then. So operations of a loop take part without losing a byte.
//! - **Fair**: of several that are ready one is taken at random.
//! - **In order of queues**: while it waits it is in the queue of each of its cases, and is served in its turn.
//! - **From anywhere**: tasks and plain threads, waiting for each other and for futures.
//! - **Cancellation**: fails with an error that [`is_canceled`](crate::is_canceled) recognises, also if something is ready. A
//!   [`time::timeout`](crate::time::timeout) around it works as for every wait.

mod cases;
mod dynamic;

use std::cell::Cell;
use std::io;

use towpath_loop::Instant;

pub use self::cases::{
    Receive, SendTo, acquire, after, at, changed, counted_down, finished, future, lock, next, notified, read,
    recv, send, set, write,
};
pub use self::dynamic::Select;
use crate::cancel::{self, Alarm};
use crate::context::{self, Current};
use crate::wait::{GaveUp, Waiter};
use crate::why::Why;
use crate::worker::Worker;

/// One thing that [`select!`](crate::select!) or [`Select`] can wait for. Made by the functions of this module.
pub trait Case: sealed::Branch {
    /// What it brings when it wins.
    type Output;

    #[doc(hidden)]
    fn output(&mut self) -> Option<Self::Output>;
}

pub(crate) mod sealed {
    use super::{Instant, Waiter};

    /// A case as `run` sees it, whatever it brings.
    ///
    /// # Safety
    /// As for an `Arm` of a primitive.
    pub unsafe trait Branch {
        /// Does it now, if it can be, and keeps the output.
        fn attempt(&mut self) -> bool;
        /// Queues itself for `waiter`. False if it could be done, or perhaps could: then it is not queued.
        ///
        /// # Safety
        /// Both stay where they are until `leave`, or `finish` after a claim.
        unsafe fn enter(&mut self, waiter: &Waiter, index: usize) -> bool;
        /// Leaves, not having been claimed.
        fn leave(&mut self);
        /// Takes what it was claimed for, and keeps it. False if it has to be tried again.
        ///
        /// # Safety
        /// It was queued, has been claimed, and what it was claimed for is complete. (A method of `Case`, as far as
        /// generic code of others is concerned: it could make guards of locks that nobody has locked.)
        unsafe fn finish(&mut self) -> bool;
        /// When it can be done at the latest.
        fn deadline(&self) -> Instant {
            Instant::NEVER
        }
        /// Whether the thread's own loop may have to bring it about.
        fn needs_loop(&self) -> bool {
            false
        }
        /// Whether it can be done by now, where that makes no claim but wakes the task.
        fn is_ready(&self) -> bool {
            false
        }
    }
}

use sealed::Branch;

/// A branch, and its number.
type Numbered<'a> = (usize, &'a mut dyn Branch);

/// What [`select!`](crate::select!) does: waits for a branch to win, if `wait`, and says whether one has, which has its
/// output then.
#[doc(hidden)]
pub fn run<const N: usize>(branches: [&mut dyn Branch; N], wait: bool) -> io::Result<bool> {
    // The numbers are of no interest here: the output is where it belongs.
    Ok(choose(&mut branches.map(|branch| (0, branch)), wait)?.is_some())
}

/// The number of the branch that wins, if one does. `wait`: until one does.
fn choose(branches: &mut [Numbered<'_>], wait: bool) -> io::Result<Option<usize>> {
    // SAFETY: used in this frame, which is the task's.
    let current = unsafe { Current::get() };
    context::with_worker(Worker::charge);
    if cancel::is_canceled(&current) {
        return Err(GaveUp::Canceled.into());
    }
    shuffle(branches);
    let mut alarm = None;
    loop {
        for (number, branch) in branches.iter_mut() {
            if branch.attempt() {
                return Ok(Some(*number));
            }
        }
        if !wait {
            return Ok(None);
        }
        if branches.iter().any(|(_, branch)| branch.needs_loop()) && context::is_in_callback(&current) {
            return Err(io::Error::from_raw_os_error(libc::EDEADLK));
        }
        let until = branches.iter().map(|(_, branch)| branch.deadline()).min().unwrap_or(Instant::NEVER);
        alarm = alarm.or_else(|| Alarm::wake_at(until, &current));
        if let Some(winner) = wait_once(branches, &current, until) {
            return Ok(Some(winner));
        }
        if cancel::is_canceled(&current) {
            return Err(GaveUp::Canceled.into());
        }
        // A future that wakes itself whenever it is polled may wait for a task that is to run here.
        context::with_worker(Worker::charge);
    }
}

/// Queues in all of them, and waits for one. `None`: look again.
#[inline(always)]
fn wait_once(branches: &mut [Numbered<'_>], current: &Current, until: Instant) -> Option<usize> {
    let waiter = Waiter::of(current, branches.len() == 1);
    // SAFETY: all stay where they are until they have left, below.
    let queued = unsafe { queue(branches, &waiter) };
    if queued == branches.len() {
        let over = || waiter.done().is_some() || branches.iter().any(|(_, branch)| branch.is_ready());
        if branches.iter().any(|(_, branch)| branch.needs_loop()) {
            context::drive_until(current, Why::SELECT, until, true, over);
        } else {
            context::wait_until(current, Why::SELECT, until, true, over);
        }
    }
    if !waiter.give_up() {
        // Whoever claimed it is about to complete it.
        context::wait_until(current, Why::SELECT, Instant::NEVER, false, || waiter.done().is_some());
    }
    // SAFETY: these are queued for it, which has been completed, or gave up.
    unsafe { leave(&mut branches[..queued], waiter.done()) }
}

/// Queues in all of them, up to one that could be done. How many are queued.
///
/// # Safety
/// All stay where they are until they have [left](leave).
unsafe fn queue(branches: &mut [Numbered<'_>], waiter: &Waiter) -> usize {
    let mut places = branches.iter_mut().enumerate();
    // SAFETY: passed on to the caller.
    let ready = places.position(|(place, (_, branch))| unsafe { !branch.enter(waiter, place) });
    ready.unwrap_or(branches.len())
}

/// Leaves all of them, but for the one that was claimed. Its number, if it brings something.
///
/// # Safety
/// They are queued, for a waiter of which this is [`Waiter::done`].
unsafe fn leave(queued: &mut [Numbered<'_>], claimed: Option<usize>) -> Option<usize> {
    for (place, (_, branch)) in queued.iter_mut().enumerate() {
        if claimed != Some(place) {
            branch.leave();
        }
    }
    let (number, branch) = &mut queued[claimed?];
    // SAFETY: the waiter is done, by this one.
    unsafe { branch.finish() }.then_some(*number)
}

/// Brings them into any order, so that none is preferred. The same each time for the same program: what is random comes
/// from a generator that starts alike on each thread.
fn shuffle(branches: &mut [Numbered<'_>]) {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) };
    }
    let mut state = STATE.get();
    for rest in (2..=branches.len()).rev() {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        branches.swap(rest - 1, (state % rest as u64) as usize);
    }
    STATE.set(state);
}

/// Waits for the first of several cases, and runs what stands behind it.
///
/// Each line is `pattern = case => expression`, where the case is one of [`select`](mod@crate::select)'s and the pattern
/// takes what it brings. With `default => expression` nothing is waited for: that is taken if nothing is ready.
///
/// The cases are made from top to bottom, whichever wins. All expressions have one type, `T`; the whole is an
/// `io::Result<T>`. How it is fair, and what becomes of those that lose: see [`select`](mod@crate::select).
///
/// # Errors
/// If the task is cancelled, or past a deadline around this. `EDEADLK` in a callback of the loop that an operation among the cases
/// waits for.
///
/// ```
/// use towpath::select::{recv, send};
/// use towpath::{select, sync::mpsc};
///
/// let (requests, inbox) = mpsc::sync_channel::<u32>(1);
/// let (outbox, answers) = mpsc::sync_channel::<u32>(1);
/// requests.send(7).unwrap();
/// for _ in 0..2 {
///     select! {
///         request = recv(&inbox) => assert_eq!(request, Ok(7)),
///         sent = send(&outbox, 8) => assert!(sent.is_ok()),
///     }
///     .unwrap();
/// }
/// let idle = select! {
///     _ = recv(&inbox) => false,
///     default => true,
/// };
/// assert!(idle.unwrap());
/// assert_eq!(answers.recv(), Ok(8));
/// ```
#[macro_export]
macro_rules! select {
    ($($cases:tt)*) => { $crate::__select!(@sort [] [] $($cases)*) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __select {
    // Takes the cases apart, and the `default`, wherever it stands.
    (@sort [$($sorted:tt)*] [] default => $body:block, $($rest:tt)*) => {
        $crate::__select!(@sort [$($sorted)*] [$body] $($rest)*)
    };
    (@sort [$($sorted:tt)*] [] default => $body:block $($rest:tt)*) => {
        $crate::__select!(@sort [$($sorted)*] [$body] $($rest)*)
    };
    (@sort [$($sorted:tt)*] [] default => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@sort [$($sorted)*] [$body] $($($rest)*)?)
    };
    (@sort [$($sorted:tt)*] [$($default:expr)?] $pattern:pat = $case:expr => $body:block, $($rest:tt)*) => {
        $crate::__select!(@sort [$($sorted)* ($pattern, $case, $body)] [$($default)?] $($rest)*)
    };
    (@sort [$($sorted:tt)*] [$($default:expr)?] $pattern:pat = $case:expr => $body:block $($rest:tt)*) => {
        $crate::__select!(@sort [$($sorted)* ($pattern, $case, $body)] [$($default)?] $($rest)*)
    };
    (@sort [$($sorted:tt)*] [$($default:expr)?] $pattern:pat = $case:expr => $body:expr $(, $($rest:tt)*)?) => {
        $crate::__select!(@sort [$($sorted)* ($pattern, $case, $body)] [$($default)?] $($($rest)*)?)
    };
    (@sort [$(($pattern:pat, $case:expr, $body:expr))*] [$($default:expr)?]) => {
        $crate::__select!(@name [] [a b c d e f g h i j k l m n o p q r s t] $(($pattern, $case, $body))* ; $($default)?)
    };
    // Gives each a name.
    (@name [$($named:tt)*] [$name:ident $($names:ident)*] ($pattern:pat, $case:expr, $body:expr) $($rest:tt)*) => {
        $crate::__select!(@name [$($named)* ($name, $pattern, $case, $body)] [$($names)*] $($rest)*)
    };
    (@name [$(($name:ident, $pattern:pat, $case:expr, $body:expr))*] [$($names:ident)*] ; $($default:expr)?) => {{
        #[allow(non_camel_case_types)]
        enum __Won<$($name),*> {
            $($name($name),)*
            __Nothing,
        }
        // The cases are gone before the expression of the one that won runs.
        let __won = {
            $(let mut $name = $case;)*
            let __wait = $crate::__select!(@wait $($default)?);
            $crate::select::run([$(&mut $name),*], __wait).map(|_| {
                let __won = ::std::option::Option::None;
                $(let __won = __won.or_else(|| $crate::select::Case::output(&mut $name).map(__Won::$name));)*
                __won.unwrap_or(__Won::__Nothing)
            })
        };
        match __won {
            ::std::result::Result::Err(__error) => ::std::io::Result::Err(__error),
            ::std::result::Result::Ok(__won) => ::std::io::Result::Ok(match __won {
                $(__Won::$name($pattern) => $body,)*
                __Won::__Nothing => $crate::__select!(@default $($default)?),
            }),
        }
    }};
    (@wait $default:expr) => { false };
    (@wait) => { true };
    (@default $default:expr) => { $default };
    (@default) => { ::std::unreachable!("something has won") };
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use loom::future::block_on;
    use loom::thread;

    use super::cases::next_of;
    use super::*;
    use crate::std_or_loom::model::check;
    use crate::sync::{Event, Mutex, Semaphore, mpmc};
    use crate::thread::Collect;

    /// What `choose` does, waiting as a future does.
    fn first<const N: usize>(branches: [&mut dyn Branch; N]) -> usize {
        let mut branches: Vec<_> = branches.into_iter().enumerate().collect();
        loop {
            if let Some((number, _)) = branches.iter_mut().find_map(|(n, b)| b.attempt().then_some((*n, ())))
            {
                return number;
            }
            let mut waiter = None;
            let mut queued = 0;
            let claimed = block_on(std::future::poll_fn(|context: &mut Context<'_>| {
                if waiter.is_none() {
                    let waiter = waiter.insert(Box::new(Waiter::future(context.waker())));
                    // SAFETY: all stay where they are, and leave below.
                    queued = unsafe { queue(&mut branches, waiter) };
                }
                let waiter = waiter.as_ref().expect("just made");
                if queued < branches.len() {
                    waiter.end();
                    return Poll::Ready(waiter.done());
                }
                if waiter.poll(context.waker()) { Poll::Ready(waiter.done()) } else { Poll::Pending }
            }));
            // SAFETY: as in `wait_once`.
            if let Some(number) = unsafe { leave(&mut branches[..queued], claimed) } {
                return number;
            }
        }
    }

    /// Two that can meet on either of two channels, which each tries in its own order: one message crosses, once.
    #[test]
    fn loom_two_selects_meet_once() {
        check(2, || {
            let channels: Arc<[_; 2]> = Arc::new(std::array::from_fn(|_| mpmc::sync_channel(0)));
            let other = thread::spawn({
                let channels = channels.clone();
                move || {
                    let [(first_sender, _), (second_sender, _)] = &*channels;
                    let (mut one, mut two) = (send(second_sender, 2), send(first_sender, 1));
                    let won = first([&mut one, &mut two]);
                    let sent = if won == 0 { one.output() } else { two.output() };
                    assert_eq!(sent, Some(Ok(())));
                    2 - won
                }
            });
            let [(_, first_receiver), (_, second_receiver)] = &*channels;
            let (mut one, mut two) = (recv(first_receiver), recv(second_receiver));
            let won = first([&mut one, &mut two]);
            let message = if won == 0 { one.output() } else { two.output() };
            assert_eq!(message, Some(Ok(other.join().unwrap())));
            assert_eq!(message, Some(Ok(won + 1)));
        });
    }

    /// Both kinds of arms, given something at once: what the one does not take is there for others.
    #[test]
    fn loom_who_loses_takes_nothing() {
        check(2, || {
            let (sender, receiver) = mpmc::channel();
            let permits = Arc::new(Semaphore::new(0));
            let giver = thread::spawn({
                let permits = permits.clone();
                move || {
                    permits.add_permits(1).unwrap();
                    sender.send(()).unwrap();
                }
            });
            let (mut permit, mut message) = (acquire(&permits, 1).unwrap(), recv(&receiver));
            let won = first([&mut message, &mut permit]);
            giver.join().unwrap();
            let (permit, message) = (permit.output(), message.output());
            assert_eq!((permit.is_some(), message.is_some()), (won == 1, won == 0));
            assert_eq!((permits.available_permits(), receiver.len()), if won == 1 { (0, 1) } else { (1, 0) });
        });
    }

    /// One who is told to try for a lock again, and has something else by then: the next in the queue gets the lock.
    #[test]
    fn loom_a_wake_up_is_not_lost_with_the_case() {
        check(2, || {
            let (mutex, event) = (Arc::new(Mutex::new(())), Arc::new(Event::new()));
            let held = mutex.lock().unwrap();
            let next = thread::spawn({
                let mutex = mutex.clone();
                move || drop(block_on(mutex.lock_async()))
            });
            let selects = thread::spawn({
                let (mutex, event) = (mutex.clone(), event.clone());
                move || {
                    let (mut locked, mut set) = (lock(&mutex), set(&event));
                    first([&mut set, &mut locked]);
                    drop(locked.output());
                }
            });
            drop(held);
            event.set();
            selects.join().unwrap();
            next.join().unwrap();
            assert!(mutex.try_lock().is_ok());
        });
    }

    /// What a group keeps of the ends of its tasks, without tasks.
    struct Ends(Vec<u64>);

    impl Collect<u64> for &mut Ends {
        fn collect(&mut self, number: u64) -> bool {
            self.0.push(number);
            true
        }

        fn is_ready(&self) -> bool {
            !self.0.is_empty()
        }

        fn take(&mut self) -> Option<u64> {
            self.0.pop()
        }
    }

    /// A task of a group ends as something else happens: whichever wins, the end is there once.
    #[test]
    fn loom_the_end_of_a_groups_task_is_told_once() {
        check(2, || {
            let (channel, event) = (Arc::new(mpmc::Channel::new(None)), Arc::new(Event::new()));
            let ends = thread::spawn({
                let channel = channel.clone();
                move || (1..=2).for_each(|number| channel.try_send(number).unwrap())
            });
            let sets = thread::spawn({
                let event = event.clone();
                move || event.set()
            });
            let (mut results, mut taken) = (Ends(Vec::new()), Vec::new());
            for _ in 0..2 {
                let (mut next, mut set) = (next_of(channel.receiving(), &mut results), set(&event));
                if first([&mut set, &mut next]) == 1 {
                    taken.push(next.output().flatten().unwrap());
                } else {
                    assert!(set.output().is_some() && next.output().is_none());
                }
            }
            ends.join().unwrap();
            sets.join().unwrap();
            taken.append(&mut results.0);
            taken.extend(std::iter::from_fn(|| channel.try_recv().ok()));
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
        });
    }
}
