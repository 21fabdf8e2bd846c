//! The threads that do what blocks, so that loops do not.
//!
//! One pool a process. Threads are started when a job finds none idle, up to a limit, and end when they have been
//! idle for a while. Jobs beyond the limit queue. A job is a closure, or a request whose system call blocks.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fork::Birth;

mod interrupt;
mod task;

pub(crate) use task::Task;

type Closure = Box<dyn FnOnce() + Send>;

enum Job {
    Closure(Closure),
    Request(Arc<Task>),
}

impl Job {
    fn run(self) {
        match self {
            Job::Closure(closure) => closure(),
            Job::Request(task) => task.run(),
        }
    }

    /// Lets whoever waits for it know that it will not be run.
    fn refuse(self) {
        match self {
            // Dropping it tells.
            Job::Closure(closure) => drop(closure),
            Job::Request(task) => task.refuse(),
        }
    }
}

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);
/// How many jobs may wait for a thread. Requests are bounded by the loops, each of which has a few of them here only.
const QUEUE: usize = 1 << 16;
/// Small: what blocks is system calls, not recursion. Untouched stack costs nothing.
const STACK: usize = 1 << 20;

struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// The process whose threads these are; known from the first use on.
    birth: Option<Birth>,
}

static POOL: Mutex<State> = Mutex::new(State { queue: VecDeque::new(), threads: 0, idle: 0, birth: None });
static WORK: Condvar = Condvar::new();

/// How many threads the pool may have: four for each CPU, as blocked threads use none, and no fewer than 64, so that
/// a few jobs that wait for each other do not lock up.
fn limit() -> usize {
    std::thread::available_parallelism().map_or(64, |cpus| (cpus.get() * 4).max(64))
}

fn lock() -> MutexGuard<'static, State> {
    // Jobs run outside the lock, and a panic of theirs is caught.
    let mut state = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if state.birth.as_ref().is_some_and(Birth::is_child) {
        // The threads stayed with the parent, and so did its jobs: theirs to run and to drop.
        std::mem::forget(std::mem::take(&mut state.queue));
        (state.threads, state.idle, state.birth) = (0, 0, None);
    }
    state
}

/// Runs a closure on a thread of the pool.
///
/// # Errors
/// The system's, if there is no thread at all and none can be started; `EAGAIN` if 65 536 jobs wait already. The closure is
/// dropped unrun.
pub(crate) fn run(closure: Closure) -> io::Result<()> {
    push(Job::Closure(closure))
}

/// Carries a request out on a thread of the pool. It completes through its loop's inbox, also where there is no thread.
pub(crate) fn submit(task: Arc<Task>) {
    // The error has been told: the task was refused.
    let _ = push(Job::Request(task));
}

/// Takes a request back: true if no thread has begun it, and none will.
pub(crate) fn withdraw(task: &Arc<Task>) -> bool {
    let mut state = lock();
    let found = state.queue.iter().position(|job| matches!(job, Job::Request(it) if Arc::ptr_eq(it, task)));
    found.is_some_and(|at| state.queue.remove(at).is_some())
}

fn push(job: Job) -> io::Result<()> {
    let mut state = lock();
    if matches!(job, Job::Closure(_)) && state.queue.len() >= QUEUE {
        drop(state);
        drop(job);
        return Err(io::Error::from_raw_os_error(libc::EAGAIN));
    }
    if state.birth.is_none() {
        match Birth::now() {
            Ok(birth) => state.birth = Some(birth),
            Err(error) => {
                drop(state);
                job.refuse();
                return Err(error);
            }
        }
    }
    state.queue.push_back(job);
    if state.idle >= state.queue.len() {
        WORK.notify_one();
        return Ok(());
    }
    if state.threads >= limit() {
        return Ok(());
    }
    state.threads += 1;
    drop(state);
    let started = std::thread::Builder::new().name("towpath-blocking".into()).stack_size(STACK).spawn(work);
    let Err(error) = started else { return Ok(()) };
    let mut state = lock();
    state.threads -= 1;
    if state.threads > 0 {
        // The threads that there are get to it in time.
        return Ok(());
    }
    let stranded = std::mem::take(&mut state.queue);
    drop(state);
    stranded.into_iter().for_each(Job::refuse);
    Err(error)
}

fn work() {
    interrupt::allow();
    let mut state = lock();
    loop {
        if let Some(job) = state.queue.pop_front() {
            drop(state);
            // A job reports its own panic; this is for the destructors of what it leaves behind.
            drop(catch_unwind(AssertUnwindSafe(|| job.run())));
            state = lock();
            continue;
        }
        state.idle += 1;
        let (guard, timeout) = WORK.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state = guard;
        state.idle -= 1;
        if timeout.timed_out() && state.queue.is_empty() {
            state.threads -= 1;
            return;
        }
    }
}

/// How many threads there are, and how many jobs wait for one.
pub(crate) fn load() -> (usize, usize) {
    let state = lock();
    (state.threads, state.queue.len())
}
