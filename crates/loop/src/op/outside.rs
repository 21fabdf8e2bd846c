//! Operations that something outside the loop completes: a job on the blocking pool, an event.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Begin, Detach, Operation, Options, Outcome, Started, in_place, limits, ways_to_wait};
use crate::event::Event;
use crate::operation::{OpId, Request};
use crate::pool;
use crate::remote::{Message, Shared};

/// A wait for an [`Event`]: see [`Event::notified`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Notified {
    event: Event,
    options: Options,
    /// Where it is registered while it waits.
    registered: Option<(Arc<Shared>, OpId)>,
}

pub(crate) fn notified(event: Event) -> Notified {
    Notified { event, options: Options::NONE, registered: None }
}

impl Notified {
    limits!();
}

impl fmt::Debug for Notified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notified")
    }
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl Operation for Notified {
    type Output = io::Result<u32>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, begin: &Begin<'_>) -> Started {
        if let Some(count) = self.event.take_or_wait(begin.shared, begin.id) {
            return Started::Done(count);
        }
        self.registered = Some((begin.shared.clone(), begin.id));
        Started::Request(Request::External)
    }
    fn finish(mut self, outcome: Outcome) -> Self::Output {
        if let (Some((shared, id)), true) = (self.registered.take(), outcome.result < 0) {
            self.event.leave(&shared, id);
        }
        outcome.value().map(|count| count as u32)
    }
    fn discard(self, outcome: Outcome) {
        let event = self.event.clone();
        // What it was notified of is for others.
        if let Ok(count @ 1..) = self.finish(outcome) {
            event.give(count);
        }
    }
}

impl Detach for Notified {
    type Owned = Notified;
    fn detach(self) -> Notified {
        self
    }
}

ways_to_wait!(Notified => Notified);

/// A job for the blocking pool: see [`blocking`].
#[must_use = "operations do nothing until they are submitted or waited for"]
pub struct Blocking<F, T> {
    job: Arc<Mutex<Job<F, T>>>,
    options: Options,
}

/// Where a job is.
enum Job<F, T> {
    /// Not begun.
    Queued(F),
    Running,
    Over(std::thread::Result<T>),
    /// Nobody wants it any more.
    Abandoned,
}

/// Why a job gave no result.
pub enum JobError {
    /// It was cancelled, or no thread could be started for it. If it had begun by then, it runs to its end and its
    /// result is dropped.
    Failed(io::Error),
    /// It panicked, with this payload.
    Panicked(Box<dyn Any + Send>),
}

/// Runs `f`, which may block, on a thread of the process's pool; the outcome is what it returns.
///
/// Cancelled while it is queued, it never runs; cancelled while it runs, it runs on and its result is dropped. A cancel
/// takes effect with the loop's next tick: a job that is begun, and over, before that has its result.
///
/// The pool starts threads as needed, up to four for each CPU and at least 64, and keeps idle ones for 10 s. With 65 536 jobs
/// in its queue, it refuses one more with `EAGAIN`.
///
/// The same on every backend.
pub fn blocking<F, T>(f: F) -> Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Blocking { job: Arc::new(Mutex::new(Job::Queued(f))), options: Options::NONE }
}

impl<F, T> Blocking<F, T> {
    limits!();
}

impl<F, T> fmt::Debug for Blocking<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocking")
    }
}

/// Tells the loop when the job is over, one way or the other.
struct Report {
    shared: Arc<Shared>,
    id: OpId,
    result: i32,
}

impl Report {
    /// The job was carried out.
    fn done(mut self, result: i32) {
        self.result = result;
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // A loop that is gone does not wait for it.
        drop(self.shared.send(Message::Complete(self.id, self.result)));
    }
}

fn replace<F, T>(job: &Mutex<Job<F, T>>, with: Job<F, T>) -> Job<F, T> {
    // Nothing runs under this lock.
    std::mem::replace(&mut *job.lock().unwrap_or_else(PoisonError::into_inner), with)
}

/// The result for the loop; what the job itself gave, or that it panicked, is with the job.
fn carry_out<F: FnOnce() -> T, T>(job: &Mutex<Job<F, T>>) -> i32 {
    let f = match replace(job, Job::Running) {
        Job::Queued(f) => f,
        other => {
            drop(replace(job, other));
            return 0;
        }
    };
    let result = catch_unwind(AssertUnwindSafe(f));
    // A panic breaks a link.
    let code = if result.is_ok() { 0 } else { -libc::EIO };
    // If it was abandoned meanwhile, the result goes the same way, outside the lock.
    drop(replace(job, Job::Over(result)));
    code
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl<F, T> Operation for Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, JobError>;
    fn options(&self) -> Options {
        self.options
    }
    fn start(&mut self, begin: &Begin<'_>) -> Started {
        let job = self.job.clone();
        // A job that is dropped unrun still reports.
        let report = Report { shared: begin.shared.clone(), id: begin.id, result: -libc::EAGAIN };
        let queued = pool::run(Box::new(move || {
            let result = carry_out(&job);
            drop(job);
            report.done(result);
        }));
        match queued {
            Ok(()) => Started::Request(Request::External),
            Err(error) => Started::failed(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        }
    }
    fn finish(self, outcome: Outcome) -> Self::Output {
        match (replace(&self.job, Job::Abandoned), outcome.value()) {
            (Job::Over(Ok(value)), _) => Ok(value),
            (Job::Over(Err(panic)), _) => Err(JobError::Panicked(panic)),
            (_, Err(error)) => Err(JobError::Failed(error)),
            (_, Ok(_)) => unreachable!("a job that reports success is over"),
        }
    }
}

impl<F, T> Detach for Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Owned = Blocking<F, T>;
    fn detach(self) -> Blocking<F, T> {
        self
    }
}

impl<F, T> Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    in_place!();
}

impl<F, T> std::future::IntoFuture for Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = Result<T, JobError>;
    type IntoFuture = crate::future::OpFuture<Self>;

    /// Begins when first polled, on the polling thread's current loop.
    fn into_future(self) -> Self::IntoFuture {
        crate::future::OpFuture::new(self)
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            JobError::Panicked(_) => f.write_str("Panicked"),
        }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Failed(error) => error.fmt(f),
            JobError::Panicked(_) => f.write_str("the job panicked"),
        }
    }
}

impl std::error::Error for JobError {}

impl From<JobError> for io::Error {
    fn from(error: JobError) -> io::Error {
        match error {
            JobError::Failed(error) => error,
            JobError::Panicked(_) => io::Error::other("the blocking job panicked"),
        }
    }
}
