//! What can be waited for, as cases of a `select!`.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, LockResult};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use towpath_loop::Instant;

use super::Case;
use super::sealed::Branch;
use crate::context;
use crate::std_or_loom::{Lock, lock as locked};
use crate::sync::mpmc::{self, RecvError, SendError};
use crate::sync::{
    Event, Latch, Mutex, MutexGuard, Notify, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore,
    SemaphorePermit, broadcast, mpsc, oneshot, watch,
};
use crate::thread::{Collect, Failure, JoinHandle, ScopedGroup};
use crate::wait::{Arm, Entered, Waiter, Wake};

/// An arm of a primitive, and what it brought, turned into what the case brings.
struct ArmCase<A: Arm, F> {
    arm: A,
    won: Option<A::Output>,
    turn: F,
}

// SAFETY: the arm's own.
unsafe impl<A: Arm, F> Branch for ArmCase<A, F> {
    fn attempt(&mut self) -> bool {
        self.won = self.arm.attempt();
        self.won.is_some()
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize) -> bool {
        // SAFETY: passed on to the caller.
        matches!(unsafe { self.arm.enter(waiter, index, false) }, Entered::Queued)
    }

    fn leave(&mut self) {
        self.arm.leave();
    }

    unsafe fn finish(&mut self) -> bool {
        // What has to be tried again is tried at once: should another case win meanwhile, the wake-up would be lost.
        self.won = self.arm.finish().or_else(|| self.arm.attempt());
        self.won.is_some()
    }
}

impl<A: Arm, T, F: FnMut(A::Output) -> T> Case for ArmCase<A, F> {
    type Output = T;

    fn output(&mut self) -> Option<T> {
        self.won.take().map(&mut self.turn)
    }
}

fn arm<A: Arm, T>(arm: A, turn: impl FnMut(A::Output) -> T) -> impl Case<Output = T> {
    ArmCase { arm, won: None, turn }
}

/// What [`recv`] takes: a shared reference to a receiver of [`mpsc`], [`mpmc`] or [`oneshot`], a mutable one to a receiver of
/// [`broadcast`].
pub trait Receive: Ends {
    /// What its `recv` gives.
    type Output;
    #[doc(hidden)]
    fn receiving(self) -> impl Case<Output = Self::Output>;
}

/// What [`send`] takes: the senders of [`mpmc`] and [`mpsc`].
pub trait SendTo<T>: Ends {
    #[doc(hidden)]
    fn sender(&self) -> &mpmc::Sender<T>;
}

mod ends {
    pub trait Ends {}
}
use ends::Ends;

impl<T> Ends for &mpmc::Receiver<T> {}
impl<T> Ends for &mpsc::Receiver<T> {}
impl<T> Ends for &oneshot::Receiver<T> {}
impl<T> Ends for &mut broadcast::Receiver<T> {}
impl<T> Ends for mpmc::Sender<T> {}
impl<T> Ends for mpsc::Sender<T> {}
impl<T> Ends for mpsc::SyncSender<T> {}

impl<T> Receive for &mpmc::Receiver<T> {
    type Output = Result<T, RecvError>;

    fn receiving(self) -> impl Case<Output = Self::Output> {
        arm(mpmc::Receiver::receiving(self), |received| received)
    }
}

impl<T> Receive for &mpsc::Receiver<T> {
    type Output = Result<T, RecvError>;

    fn receiving(self) -> impl Case<Output = Self::Output> {
        Receive::receiving(self.inner())
    }
}

impl<T> Receive for &oneshot::Receiver<T> {
    type Output = Result<T, RecvError>;

    fn receiving(self) -> impl Case<Output = Self::Output> {
        arm(oneshot::Receiver::receiving(self), |()| self.take())
    }
}

impl<T: Clone> Receive for &mut broadcast::Receiver<T> {
    type Output = Result<T, broadcast::RecvError>;

    fn receiving(self) -> impl Case<Output = Self::Output> {
        let (wait, receive) = broadcast::Receiver::receiving(self);
        arm(wait, receive)
    }
}

impl<T> SendTo<T> for mpmc::Sender<T> {
    fn sender(&self) -> &mpmc::Sender<T> {
        self
    }
}

impl<T> SendTo<T> for mpsc::Sender<T> {
    fn sender(&self) -> &mpmc::Sender<T> {
        self.inner()
    }
}

impl<T> SendTo<T> for mpsc::SyncSender<T> {
    fn sender(&self) -> &mpmc::Sender<T> {
        self.inner()
    }
}

/// A message, or what else the receiver's own `recv` gives.
pub fn recv<R: Receive>(receiver: R) -> impl Case<Output = R::Output> {
    receiver.receiving()
}

/// Room for `message`, which is sent then; `Err`, with the message, if there is no receiver left. Dropped if it loses.
pub fn send<'a, T: 'a>(
    sender: &'a impl SendTo<T>,
    message: T,
) -> impl Case<Output = Result<(), SendError<T>>> {
    arm(sender.sender().sending(message), |sent| sent)
}

/// A value that was set once more than its watcher has seen, which has seen it then; `Err` if there is no sender left.
pub fn changed<T>(watcher: &mut watch::Receiver<T>) -> impl Case<Output = Result<(), RecvError>> {
    let (wait, update) = watcher.changing();
    arm(wait, update)
}

/// A lock, which is locked then.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> impl Case<Output = LockResult<MutexGuard<'_, T>>> {
    arm(mutex.locking(), |()| mutex.locked())
}

/// A lock, which is read then.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> impl Case<Output = LockResult<RwLockReadGuard<'_, T>>> {
    arm(lock.reading(), |()| RwLockReadGuard::new(lock))
}

/// A lock, which is written then.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> impl Case<Output = LockResult<RwLockWriteGuard<'_, T>>> {
    arm(lock.writing(), |()| RwLockWriteGuard::new(lock))
}

/// So many permits at once. As for [`Semaphore::acquire`], what fails at once is an error of this function.
pub fn acquire(
    semaphore: &Semaphore,
    count: usize,
) -> std::io::Result<impl Case<Output = std::io::Result<SemaphorePermit<'_>>>> {
    Ok(arm(semaphore.acquiring(count)?, |acquired| acquired.map_err(std::io::Error::from)))
}

/// An event that is set.
pub fn set(event: &Event) -> impl Case<Output = ()> {
    arm(event.waiting(), |()| ())
}

/// A notification, which is taken then.
pub fn notified(notify: &Notify) -> impl Case<Output = ()> {
    arm(notify.waiting(), |_| ())
}

/// A latch that has come to zero.
pub fn counted_down(latch: &Latch) -> impl Case<Output = ()> {
    arm(latch.waiting(), |()| ())
}

/// The time when so much of it has passed, from now on.
pub fn after(duration: Duration) -> impl Case<Output = ()> {
    at(Instant::now() + duration)
}

/// A time.
pub fn at(time: Instant) -> impl Case<Output = ()> {
    Time { at: time, over: false }
}

struct Time {
    at: Instant,
    over: bool,
}

// SAFETY: it is in no queue.
unsafe impl Branch for Time {
    fn attempt(&mut self) -> bool {
        self.over = self.at != Instant::NEVER && Instant::now() >= self.at;
        self.over
    }

    unsafe fn enter(&mut self, _: &Waiter, _: usize) -> bool {
        true
    }

    fn leave(&mut self) {}

    unsafe fn finish(&mut self) -> bool {
        false
    }

    fn deadline(&self) -> Instant {
        self.at
    }
}

impl Case for Time {
    type Output = ();

    fn output(&mut self) -> Option<()> {
        std::mem::take(&mut self.over).then_some(())
    }
}

/// The end of a task: joining it does not wait then.
pub fn finished<T>(task: &mut JoinHandle<T>) -> impl Case<Output = ()> {
    Finished { task, won: false }
}

struct Finished<'a, T> {
    task: &'a mut JoinHandle<T>,
    won: bool,
}

// SAFETY: it is in no queue; the end of the task wakes the one who waits, whom it knows by a counted reference.
unsafe impl<T> Branch for Finished<'_, T> {
    fn attempt(&mut self) -> bool {
        self.won = self.task.is_finished();
        self.won
    }

    unsafe fn enter(&mut self, _: &Waiter, _: usize) -> bool {
        self.task.start_waiting(context::current())
    }

    fn leave(&mut self) {
        self.task.stop_waiting();
    }

    unsafe fn finish(&mut self) -> bool {
        false
    }

    fn is_ready(&self) -> bool {
        self.task.is_finished()
    }
}

impl<T> Case for Finished<'_, T> {
    type Output = ();

    fn output(&mut self) -> Option<()> {
        std::mem::take(&mut self.won).then_some(())
    }
}

/// The next result of a [`Group`](crate::thread::Group); `None` if all were taken. Unlike the group's own waits it does not
/// cancel the group when the current task is cancelled, and what loses stays for the next time.
pub fn next<T, E>(group: &mut ScopedGroup<'_, T, E>) -> impl Case<Output = Option<Result<T, Failure<E>>>> {
    let (arm, results) = group.parts();
    next_of(arm, results)
}

/// The next of `results`, which have been told of in the channel of `arm`.
pub(super) fn next_of<R>(
    arm: mpmc::Receiving<'_, u64>,
    results: impl Collect<R>,
) -> impl Case<Output = Option<R>> {
    Next { arm, results, won: false, _result: PhantomData }
}

struct Next<'a, C, R> {
    arm: mpmc::Receiving<'a, u64>,
    results: C,
    won: bool,
    _result: PhantomData<R>,
}

impl<C: Collect<R>, R> Next<'_, C, R> {
    /// Puts down who has ended. Whether there is something to be had.
    fn collect(&mut self, ended: Option<Result<u64, RecvError>>) -> bool {
        if let Some(Ok(number)) = ended {
            self.results.collect(number);
        }
        self.won = self.results.is_ready();
        self.won
    }
}

// SAFETY: the arm's own.
unsafe impl<C: Collect<R>, R> Branch for Next<'_, C, R> {
    fn attempt(&mut self) -> bool {
        self.collect(None) || {
            let ended = self.arm.attempt();
            self.collect(ended)
        }
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize) -> bool {
        // SAFETY: passed on to the caller.
        matches!(unsafe { self.arm.enter(waiter, index, false) }, Entered::Queued)
    }

    fn leave(&mut self) {
        self.arm.leave();
    }

    unsafe fn finish(&mut self) -> bool {
        let ended = self.arm.finish();
        self.collect(ended)
    }
}

impl<C: Collect<R>, R> Case for Next<'_, C, R> {
    type Output = Option<R>;

    fn output(&mut self) -> Option<Option<R>> {
        std::mem::take(&mut self.won).then(|| self.results.take())
    }
}

/// What a future brings. It is borrowed, and may be waited for again if it loses; one that is [`Unpin`], as `pin!` makes
/// it, or a `Box::pin`. One that has won must not be waited for again.
///
/// The operations of a loop are futures, so that `future(&mut op)` waits for I/O: what has been read while another case won
/// is there the next time. A plain thread drives its loop for that, as [`block_on`](crate::block_on) does.
pub fn future<F: Future + Unpin>(future: &mut F) -> impl Case<Output = F::Output> {
    Polled { future, bell: Arc::new(Bell(Lock::new(Rings::default()))), won: None }
}

struct Polled<'a, F: Future> {
    future: &'a mut F,
    bell: Arc<Bell>,
    won: Option<F::Output>,
}

/// The waker of a future that takes part in a `select!`: it may outlive that.
struct Bell(Lock<Rings>);

#[derive(Default)]
struct Rings {
    /// Woken since it was last polled.
    rung: bool,
    /// Whom to claim, as which of its arms, while somebody waits.
    waiter: Option<(*const Waiter, usize)>,
}

// SAFETY: waiters may be shared; this one stays until it is taken out under the lock.
unsafe impl Send for Rings {}

impl std::task::Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wake = {
            let mut rings = locked(&self.0);
            rings.rung = true;
            match rings.waiter.take() {
                // SAFETY: it is there until `leave`, which needs the lock, or until it is completed.
                Some((waiter, index)) if unsafe { (*waiter).claim(index) } => unsafe {
                    Waiter::complete(waiter)
                },
                _ => Wake::NOBODY,
            }
        };
        wake.wake();
    }
}

impl<F: Future + Unpin> Polled<'_, F> {
    fn poll(&mut self) -> bool {
        locked(&self.bell.0).rung = false;
        let waker = Waker::from(self.bell.clone());
        if let Poll::Ready(output) = Pin::new(&mut *self.future).poll(&mut Context::from_waker(&waker)) {
            self.won = Some(output);
        }
        self.won.is_some()
    }
}

// SAFETY: `leave` takes the waiter out, and a claim has.
unsafe impl<F: Future + Unpin> Branch for Polled<'_, F> {
    fn attempt(&mut self) -> bool {
        self.poll()
    }

    unsafe fn enter(&mut self, waiter: &Waiter, index: usize) -> bool {
        let mut rings = locked(&self.bell.0);
        if !rings.rung {
            rings.waiter = Some((waiter, index));
        }
        !rings.rung
    }

    fn leave(&mut self) {
        locked(&self.bell.0).waiter = None;
    }

    unsafe fn finish(&mut self) -> bool {
        self.poll()
    }

    fn needs_loop(&self) -> bool {
        true
    }
}

impl<F: Future + Unpin> Case for Polled<'_, F> {
    type Output = F::Output;

    fn output(&mut self) -> Option<F::Output> {
        self.won.take()
    }
}
