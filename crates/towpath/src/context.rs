//! Who is running on this thread: a task on a worker, or the thread itself.

use std::cell::{Cell, OnceCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::time::Duration;

use towpath_loop::{Instant, Loop, Suspend, Waiter, Wakeup};

use crate::cancel::{self, Reason};
use crate::cells::Cells;
use crate::dump;
use crate::runtime::Shared;
use crate::task::{Header, TaskRef};
use crate::trace;
use crate::why::Why;
use crate::worker::Worker;

thread_local! {
    /// The task that runs now, null outside tasks.
    static TASK: Cell<*const Header> = const { Cell::new(ptr::null()) };
    /// The worker that this thread is now, null if it is none.
    static WORKER: Cell<*const Worker> = const { Cell::new(ptr::null()) };
    /// The task that is resumed is only to tell where it stands, see `dump`. Here rather than in the task, for a switch
    /// leaves no register from which that could be reached.
    static ASKED: Cell<bool> = const { Cell::new(false) };
    /// This thread in the role of a task.
    static THREAD: OnceCell<TaskRef> = const { OnceCell::new() };
}

/// The current task, or this thread in its role; kept alive for the caller.
pub(crate) fn current() -> TaskRef {
    match NonNull::new(TASK.get().cast_mut()) {
        // SAFETY: the task that runs is alive.
        Some(task) => unsafe { TaskRef::from_alive(task) },
        None => THREAD
            .try_with(|thread| {
                towpath_loop::set_hook(Some(&HOOK));
                thread.get_or_init(TaskRef::thread).clone()
            })
            // The thread's locals are going: it still waits, without memory of what was put round it before.
            .unwrap_or_else(|_| TaskRef::thread()),
    }
}

/// The task that runs, or this thread in its role: what [`current`] gives, uncounted where it is a task.
pub(crate) enum Current {
    Task(NonNull<Header>),
    Thread(TaskRef),
}

impl Current {
    /// # Safety
    /// It is used by the task's own frames only, as the reference of [`running`].
    #[inline(always)]
    pub(crate) unsafe fn get() -> Current {
        match NonNull::new(TASK.get().cast_mut()) {
            Some(task) => Current::Task(task),
            None => Current::Thread(current()),
        }
    }
}

impl std::ops::Deref for Current {
    type Target = Header;
    #[inline(always)]
    fn deref(&self) -> &Header {
        match self {
            // SAFETY: it runs, or waits in the frame that has this.
            Current::Task(task) => unsafe { task.as_ref() },
            Current::Thread(task) => task,
        }
    }
}

/// Whether this thread is the worker that a task lives on.
#[inline(always)]
pub(crate) fn is_home_of(task: &Header) -> bool {
    // SAFETY: as in `with_worker`.
    unsafe { WORKER.get().as_ref() }.is_some_and(|worker| task.lives_in(&worker.mailbox))
}

/// The current task, if one with a stack of its own is running.
///
/// No closure is called with it, here and below: that would be one more frame around a switch, see [`suspend`].
///
/// # Safety
/// The reference is used by the task's own frames only, while they last: the task is alive as long as it runs or is
/// suspended.
#[inline(always)]
unsafe fn running<'a>() -> Option<&'a Header> {
    // SAFETY: the task that runs is alive; for how long, the caller knows.
    unsafe { TASK.get().as_ref() }.filter(|task| task.has_stack())
}

/// Whether a task with a stack of its own is running.
#[inline(always)]
pub(crate) fn in_task() -> bool {
    // SAFETY: not used beyond this.
    unsafe { running() }.is_some()
}

/// Lets the other tasks of this worker run first. False if no task is running.
#[inline(always)]
pub(crate) fn yield_now() -> bool {
    // SAFETY: used in this frame, which is the task's.
    let Some(task) = (unsafe { running() }) else { return false };
    // While it unwinds nobody else may run.
    if !std::thread::panicking() {
        // SAFETY: a task with a stack runs on a worker, which outlives it.
        unsafe { &*WORKER.get() }.make_ready(task);
        suspend(task);
    }
    true
}

/// Calls `f` with the worker that this thread is, if it is one.
#[inline(always)]
pub(crate) fn with_worker<R>(f: impl FnOnce(&Worker) -> R) -> Option<R> {
    // SAFETY: a worker takes itself out of the cell before it goes, in `enter`.
    unsafe { WORKER.get().as_ref() }.map(f)
}

/// The runtime whose worker this thread is, if it is one's.
///
/// # Safety
/// The caller lets go of it before this thread ceases to be a worker.
#[inline(always)]
pub(crate) unsafe fn runtime<'a>() -> Option<&'a Shared> {
    // SAFETY: as in `with_worker`; the worker keeps its runtime's shared part. For how long, the caller knows.
    unsafe { WORKER.get().as_ref() }.map(|worker| &*worker.shared)
}

/// Calls `f` with the memory of this worker for tasks, if this thread is one.
#[inline(always)]
pub(crate) fn with_cells<R>(f: impl FnOnce(Option<&Cells>) -> R) -> R {
    // SAFETY: as in `with_worker`.
    f(unsafe { WORKER.get().as_ref() }.map(|worker| &worker.cells))
}

/// Makes this thread a worker while `f` runs.
pub(crate) fn enter<R>(worker: &Worker, f: impl FnOnce() -> R) -> R {
    struct Leave(*const Worker, *const Header);
    impl Drop for Leave {
        fn drop(&mut self) {
            WORKER.set(self.0);
            TASK.set(self.1);
        }
    }
    towpath_loop::set_hook(Some(&HOOK));
    // No task runs on this worker yet, whatever this thread was doing for another one.
    let _leave = Leave(WORKER.replace(worker), TASK.replace(ptr::null()));
    f()
}

/// Runs a task's body on this thread, which exists for it alone.
pub(crate) fn run_on_thread(task: &TaskRef) {
    towpath_loop::set_hook(Some(&HOOK));
    task.settle_on_thread(std::thread::current());
    let before = set_task(&raw const **task);
    if task.is_canceled() {
        // SAFETY: its body did not run and will not.
        unsafe { task.refuse(Box::new(crate::Canceled)) }
    } else {
        trace::resumes(task);
        // SAFETY: called once, on the thread that it lives on.
        unsafe { task.run() }
        trace::suspends(task);
    }
    set_task(before);
    trace::over(task);
}

/// The task that runs, with a stack of its own or not; null outside tasks.
#[inline(always)]
pub(crate) fn task() -> *const Header {
    TASK.get()
}

/// Calls `f`, which does not wait, with that task.
#[inline]
pub(crate) fn with_task<R>(f: impl FnOnce(Option<&Header>) -> R) -> R {
    // SAFETY: the task that runs is alive.
    f(unsafe { TASK.get().as_ref() })
}

/// Calls `f`, which does not wait, with that task, or else this thread in its role, if it has ever had to wait.
pub(crate) fn with_who_waits<R>(f: impl FnOnce(&Header) -> R) -> Option<R> {
    with_task(|task| match task {
        Some(task) => Some(f(task)),
        None => THREAD.try_with(|thread| thread.get().map(|thread| f(thread))).ok().flatten(),
    })
}

/// Whether tasks that are resumed from now on, on this thread, only tell where they stand.
pub(crate) fn set_asked(asked: bool) {
    ASKED.set(asked);
}

/// Names the task that runs, and returns who ran before.
#[inline(always)]
pub(crate) fn set_task(task: *const Header) -> *const Header {
    TASK.replace(task)
}

/// Waits until `ready`, giving way to others meanwhile; false if it was cancelled first (where `cancellable`) or
/// `until` has passed. `why` is for those who look.
#[inline(always)]
pub(crate) fn wait_until(
    task: &Header,
    why: Why,
    until: Instant,
    cancellable: bool,
    mut ready: impl FnMut() -> bool,
) -> bool {
    // No closure pauses: that would be one more frame around a switch.
    loop {
        match look(task, until, cancellable, &mut ready) {
            Ok(over) => return over,
            Err(until) => pause(task, why, until),
        }
    }
}

/// As [`wait_until`], for what the thread's own loop may have to bring about: a plain thread drives that meanwhile. It does not
/// unwind, whatever the loop's callbacks do.
pub(crate) fn drive_until(
    task: &Header,
    why: Why,
    until: Instant,
    cancellable: bool,
    mut ready: impl FnMut() -> bool,
) -> bool {
    if task.has_stack() {
        return wait_until(task, why, until, cancellable, ready);
    }
    let Some(loop_) = existing_loop() else {
        return wait_until(task, why, until, cancellable, ready);
    };
    // From here on whoever wakes it wakes the loop as well.
    task.waits_for(&loop_);
    loop {
        let until = match look(task, until, cancellable, &mut ready) {
            Ok(over) => return over,
            Err(until) => until,
        };
        let wait = (until != Instant::NEVER).then(|| until.saturating_duration_since(Instant::now()));
        match catch_unwind(AssertUnwindSafe(|| loop_.tick(wait))) {
            Ok(Ok(_)) => {}
            // It may be able to wait again, once there is memory, say; and others may wake the thread meanwhile.
            Ok(Err(_)) => pause(task, why, until.min(Instant::now() + TRY_AGAIN)),
            // A callback that panics ends there, as on a worker: the caller may be in queues, which it must not leave so. Nor may
            // the payload's destructor make it.
            Err(payload) => std::mem::forget(payload),
        }
    }
}

/// How long a loop that cannot wait is left alone.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Whether [`drive_until`] would have to drive a loop from within one of its callbacks, which cannot be.
pub(crate) fn is_in_callback(task: &Header) -> bool {
    !task.has_stack() && existing_loop().is_some_and(|loop_| loop_.is_ticking())
}

/// The loop of this thread, if it has one.
fn existing_loop() -> Option<Loop> {
    let loop_ = Loop::take_current()?;
    loop_.make_current();
    Some(loop_)
}

/// Whether the wait is over, and how; or until when to sleep.
#[inline(always)]
fn look(
    task: &Header,
    until: Instant,
    cancellable: bool,
    ready: &mut impl FnMut() -> bool,
) -> Result<bool, Instant> {
    if ready() {
        return Ok(true);
    }
    if cancellable && cancel::is_canceled(task) {
        // A loop that waits again and again must not keep the others from running.
        with_worker(Worker::charge);
        return Ok(false);
    }
    let until = if cancellable { until.min(cancel::deadline(task)) } else { until };
    if until != Instant::NEVER && Instant::now() >= until {
        return Ok(ready());
    }
    Err(until)
}

/// Sleeps until woken, or at most until `until`; for a task, the caller has arranged to be woken then.
#[inline(always)]
fn pause(task: &Header, why: Why, until: Instant) {
    if task.has_stack() {
        task.local.waits_for.set(why);
        suspend(task);
    } else if until == Instant::NEVER {
        std::thread::park();
    } else {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// Lets others run until the task is woken. Inlined, as all around a switch is: the processor predicts returns by a
/// stack of its own, which a switch makes wrong, so that every frame left after one costs a misprediction. While it
/// unwinds nobody else may run: the thread then waits for news in place.
#[inline(always)]
pub(crate) fn suspend(task: &Header) {
    if std::thread::panicking() {
        return wait_in_place(task);
    }
    let yielder = task.local.yielder.get();
    task.local.frame.set((&raw const yielder).cast());
    // What is in `errno` is the task's, though the place is the thread's, where the task comes back.
    // SAFETY: the place is this thread's own.
    let (errno, before) = unsafe {
        let errno = libc::__errno_location();
        (errno, *errno)
    };
    // SAFETY: the task runs, so its yielder is on its stack, below this frame.
    unsafe { &*yielder }.suspend(());
    while ASKED.get() {
        dump::answer();
    }
    // SAFETY: as above; it is the same thread.
    unsafe { *errno = before };
}

/// Calls `f`, which does not wait, where there is more stack than `task`, which runs, may have left: that is where the caller is
/// already if that is not on the task's stack, as in a panic in such an `f`. The frames there must not be overwritten.
#[cold]
pub(crate) fn on_a_large_stack<R>(task: &Header, f: impl FnOnce() -> R + Send) -> R {
    if !task.is_on_its_stack() {
        return f();
    }
    // SAFETY: a task that runs on its stack has its yielder there, below this frame.
    unsafe { &*task.local.yielder.get() }.on_parent_stack(f)
}

#[cold]
fn wait_in_place(task: &Header) {
    /// What is waited for may be told to this task without its loop being woken.
    const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(1);
    with_worker(Worker::collect_mail);
    let ticked = Loop::current().and_then(|loop_| loop_.tick_frames(Some(LOOK_AGAIN)));
    if let Err(error) = ticked {
        eprintln!("towpath: {} cannot wait while it unwinds: {error}", task.label());
        std::process::abort();
    }
}

/// The loop's way into tasks.
struct Hook;

static HOOK: Hook = Hook;

// SAFETY: `suspend` switches to the worker and comes back when the worker resumes this very frame, on this thread, as
// started tasks do not move. The wake-up is the task's header, which lives while the task waits.
unsafe impl Suspend for Hook {
    #[inline]
    fn current(&self) -> Waiter {
        // SAFETY: the loop uses it while the task waits in a frame of its own.
        match unsafe { running() } {
            Some(task) => Waiter {
                task: Some(Wakeup { data: ptr::from_ref(task).cast(), wake: wake_here }),
                canceled: cancel::is_canceled(task),
            },
            None => Waiter { task: None, canceled: thread_is_canceled() },
        }
    }

    #[inline]
    fn suspend(&self) {
        // SAFETY: used in this frame, which is the task's.
        if let Some(task) = unsafe { running() } {
            suspend(task);
        }
    }

    #[inline]
    fn is_canceled(&self) -> bool {
        // SAFETY: not used beyond this.
        unsafe { running() }.map_or_else(thread_is_canceled, cancel::is_canceled)
    }

    fn reason(&self) -> Option<Reason> {
        cancel::reason()
    }

    #[inline]
    fn completed_inline(&self) {
        with_worker(Worker::charge_operation);
    }
}

/// Whether this thread, which runs no task with a stack, should give up waiting.
fn thread_is_canceled() -> bool {
    // SAFETY: what TASK names is alive.
    match unsafe { TASK.get().as_ref() } {
        // A thread that was spawned as a task's stand-in.
        Some(task) => {
            if let Ok(loop_) = Loop::current() {
                task.waits_for(&loop_);
            }
            cancel::is_canceled(task)
        }
        None => {
            THREAD.try_with(|thread| thread.get().is_some_and(|t| cancel::is_canceled(t))).unwrap_or(false)
        }
    }
}

/// # Safety
/// `data` is the header of a task that is alive and lives on this thread.
unsafe fn wake_here(data: *const ()) {
    // SAFETY: the caller's promise.
    let task = unsafe { &*data.cast::<Header>() };
    with_worker(|worker| worker.make_ready(task));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Runtime;

    /// What runs on the worker's stack for a task, and asks for a large one itself, keeps its frames.
    #[test]
    fn large_stacks_nest() {
        let place = |of: &u8| ptr::from_ref(of).addr();
        // SAFETY: nothing here keeps a stack frame's address in a thread-local.
        let runtime = unsafe { Runtime::builder().workers(1).build() }.unwrap();
        runtime.run(|| {
            let task = current();
            let stack = task.stack();
            assert!(task.is_on_its_stack());
            let (outer, inner) = on_a_large_stack(&task, || {
                assert!(!task.is_on_its_stack());
                let frame = std::hint::black_box([7_u8; 4096]);
                let inner = on_a_large_stack(&task, || place(&std::hint::black_box([0_u8; 4096])[0]));
                assert!(std::hint::black_box(&frame).iter().all(|byte| *byte == 7));
                (place(&frame[0]), inner)
            });
            assert!(!stack.contains(&outer) && inner < outer, "{stack:x?} {outer:x} {inner:x}");
        });
    }
}
