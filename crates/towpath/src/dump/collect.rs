//! Asking the workers, and putting together what they say.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use towpath_loop::{InFlight, Instant};

use super::backtrace::{Names, capture};
use super::{Backtrace, Dump, Found, Place, State, Task, Wait, Which};
use crate::cancel::Alarm;
use crate::context;
use crate::metrics::Counters;
use crate::probe;
use crate::runtime::Shared;
use crate::task::{Header, TaskRef};
use crate::thread::{ThreadId, blocking};
use crate::why::{self, Why};
use crate::worker::Worker;

/// How long workers have to answer, or to get on with answering.
const PATIENCE: Duration = Duration::from_secs(1);

/// The runtimes of this process, by their numbers.
static RUNTIMES: Mutex<Vec<(usize, Weak<Shared>)>> = Mutex::new(Vec::new());

/// Makes a runtime known.
pub(crate) fn register(runtime: &Arc<Shared>) {
    let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    runtimes.retain(|(_, runtime)| runtime.strong_count() > 0);
    let free = (0..).find(|number| runtimes.iter().all(|(taken, _)| taken != number));
    let free = free.expect("numbers enough");
    runtime.number.store(free, Ordering::Relaxed);
    runtimes.push((free, Arc::downgrade(runtime)));
}

fn runtimes() -> Vec<(usize, Arc<Shared>)> {
    let runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    runtimes.iter().filter_map(|(number, runtime)| Some((*number, runtime.upgrade()?))).collect()
}

pub(super) fn all() -> Dump {
    collect(&runtimes())
}

/// Of one runtime only.
pub(crate) fn of_runtime(runtime: &Shared) -> Dump {
    let mut runtimes = runtimes();
    runtimes.retain(|(_, other)| std::ptr::eq(&**other, runtime));
    collect(&runtimes)
}

/// A task as its worker sees it.
struct Seen {
    id: u64,
    name: Option<Box<str>>,
    spawned_at: Option<&'static std::panic::Location<'static>>,
    state: State,
    idle: Duration,
    canceled: bool,
    /// Where its addresses are in those of the worker.
    addresses: std::ops::Range<usize>,
}

/// What a worker has answered.
pub(crate) struct Part {
    place: Place,
    tasks: Vec<Seen>,
    addresses: Vec<usize>,
}

/// What is asked of the workers, and who asks.
struct Question {
    parts: Mutex<Vec<Part>>,
    /// Workers that have not answered.
    left: AtomicUsize,
    asker: TaskRef,
}

impl Question {
    fn answer(&self, part: Part) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.asker.wake();
        }
    }
}

impl Question {
    /// Waits until all have answered, or none of them has done anything about it, or about another dump, for long.
    fn wait(&self, runtimes: &[(usize, Arc<Shared>)]) {
        let described = || {
            let counters = runtimes.iter().flat_map(|(_, runtime)| &runtime.counters);
            counters.map(|counters| counters.described()).fold(0, usize::wrapping_add)
        };
        let mut before = described();
        loop {
            let until = Instant::now() + PATIENCE;
            let alarm = Alarm::wake_at(until, &self.asker);
            let answered = || self.left.load(Ordering::Acquire) == 0;
            if context::wait_until(&self.asker, Why::DUMP, until, false, answered) {
                return;
            }
            drop(alarm);
            let now = described();
            if now == before {
                return;
            }
            before = now;
        }
    }
}

fn collect(runtimes: &[(usize, Arc<Shared>)]) -> Dump {
    let begun = Instant::now();
    let question =
        Arc::new(Question { parts: Mutex::default(), left: AtomicUsize::new(0), asker: context::current() });
    // Tasks that have not started stay where they are, so that none is overlooked.
    let standing: Vec<_> = runtimes.iter().map(|(_, runtime)| runtime.pause_stealing()).collect();
    for (number, runtime) in runtimes {
        ask(&question, *number, runtime);
    }
    question.wait(runtimes);
    drop(standing);
    let parts = std::mem::take(&mut *question.parts.lock().unwrap_or_else(PoisonError::into_inner));
    let workers = runtimes.iter().flat_map(|(number, runtime)| {
        let parts = &parts;
        (0..runtime.mailboxes.len()).map(move |worker| {
            let place = Place { runtime: *number, worker };
            let answered = parts.iter().any(|part| part.place == place);
            describe(runtime, place, answered)
        })
    });
    let workers: Vec<_> = workers.collect();
    let held: Vec<_> = runtimes.iter().flat_map(|(_, runtime)| held(runtime, &workers)).collect();
    // Names are looked for elsewhere: that takes time, and more stack than a task may have. It is not cut short, and
    // where no thread can be had the rest of the dump is worth having all the same.
    let parts = Arc::new(Mutex::new(parts));
    let take =
        |parts: &Mutex<Vec<Part>>| std::mem::take(&mut *parts.lock().unwrap_or_else(PoisonError::into_inner));
    let named = crate::shield(|| {
        let parts = parts.clone();
        blocking(move || {
            let mut parts = take(&parts);
            parts.extend(held.into_iter().map(Held::look));
            finish(parts, true)
        })
    });
    let tasks = named.unwrap_or_else(|_| finish(take(&parts), false));
    Dump { workers, tasks, took: begun.elapsed() }
}

/// Asks the workers of a runtime.
fn ask(question: &Arc<Question>, number: usize, runtime: &Arc<Shared>) {
    for (worker, mailbox) in runtime.mailboxes.iter().enumerate() {
        let place = Place { runtime: number, worker };
        let is_here = || {
            context::with_worker(|here| Arc::ptr_eq(&here.mailbox, mailbox)) == Some(true)
                && !context::in_task()
        };
        if is_here() {
            // A callback of its loop asks, so that it would not come round to answering.
            question.left.fetch_add(1, Ordering::Relaxed);
            context::with_worker(|here| question.answer(here.describe(place)));
        } else if worker > 0 || runtime.is_first_there() {
            question.left.fetch_add(1, Ordering::Relaxed);
            let asked = question.clone();
            let sent = mailbox.remote.run(move |_| {
                context::with_worker(|worker| asked.answer(worker.describe(place)));
            });
            if sent.is_err() {
                question.left.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

fn describe(runtime: &Shared, place: Place, answered: bool) -> super::Worker {
    let counters = &runtime.counters[place.worker];
    let mailbox = &runtime.mailboxes[place.worker];
    let found = match counters.running().0 {
        _ if answered => Found::Answered,
        _ if place.worker == 0 && !runtime.is_first_there() => Found::Absent,
        0 => Found::Silent,
        task => Found::Busy(ThreadId::of(task)),
    };
    let tasks = mailbox.live.load(Ordering::Relaxed) + mailbox.unstarted();
    let in_flight = counters.read(tasks).in_flight;
    super::Worker { place, backend: runtime.backend, tasks, in_flight, found }
}

/// A task that holds its worker.
struct Held {
    task: u64,
    switches: u64,
    name: Option<Box<str>>,
    place: Place,
    counters: Arc<Counters>,
}

/// The tasks of a runtime for which its workers have not answered.
fn held(runtime: &Shared, workers: &[super::Worker]) -> Vec<Held> {
    let number = runtime.number.load(Ordering::Relaxed);
    let held = workers.iter().filter(|worker| worker.place.runtime == number).filter_map(|worker| {
        let counters = &runtime.counters[worker.place.worker];
        let (task, switches) = counters.running();
        let name = runtime.watched.as_ref().and_then(|watched| watched.name(task));
        let held = Held { task, switches, name, place: worker.place, counters: counters.clone() };
        (worker.found == Found::Busy(ThreadId::of(task))).then_some(held)
    });
    held.collect()
}

impl Held {
    /// Where it is, if that can be told.
    fn look(self) -> Part {
        let Held { task, switches, name, place, counters } = self;
        let addresses = probe::addresses(counters.thread()).unwrap_or_default();
        // Otherwise it has gone on, and the addresses are somebody else's.
        let addresses = if counters.running() == (task, switches) { addresses } else { Vec::new() };
        let seen = Seen {
            id: task,
            name,
            spawned_at: None,
            state: State::Running,
            idle: Duration::ZERO,
            canceled: false,
            addresses: 0..addresses.len(),
        };
        Part { place, tasks: vec![seen], addresses }
    }
}

/// The tasks that workers have described, with names for where they stand.
pub(crate) fn names_of(parts: Vec<Part>) -> Vec<Task> {
    finish(parts, true)
}

/// A backtrace of these addresses, with names.
pub(crate) fn resolve(addresses: &[usize]) -> Arc<Backtrace> {
    let backtrace = Names::new(true).resolve(addresses);
    ::backtrace::clear_symbol_cache();
    backtrace
}

/// Gives the backtraces names, each that occurs once, and puts the tasks into order.
fn finish(parts: Vec<Part>, named: bool) -> Vec<Task> {
    let mut names = Names::new(named);
    let mut known: HashMap<&[usize], Arc<Backtrace>> = HashMap::new();
    let mut tasks = Vec::new();
    for part in &parts {
        for seen in &part.tasks {
            let addresses = &part.addresses[seen.addresses.clone()];
            let backtrace = (!addresses.is_empty())
                .then(|| known.entry(addresses).or_insert_with(|| names.resolve(addresses)).clone());
            tasks.push(Task {
                id: ThreadId::of(seen.id),
                name: seen.name.clone(),
                spawned_at: seen.spawned_at,
                place: part.place,
                state: seen.state.clone(),
                idle: seen.idle,
                canceled: seen.canceled,
                backtrace,
            });
        }
    }
    if named {
        // The debug information of the program may be large, and is seldom asked for.
        ::backtrace::clear_symbol_cache();
    }
    // One that was stolen just then, and seen by both: where it has come to counts.
    tasks.sort_by_key(|task| (task.id.number(), task.state == State::Unstarted));
    tasks.dedup_by_key(|task| task.id);
    tasks
}

impl Worker {
    /// What its tasks do. Called on its thread, between two tasks or in a task that ticks the loop by hand.
    pub(crate) fn describe(&self, place: Place) -> Part {
        let now = self.loop_.clock();
        let mut operations: HashMap<*const (), InFlight> = HashMap::new();
        self.loop_.inspect(|operation| {
            if let Some(task) = operation.task {
                operations.insert(task, operation);
            }
        });
        let mut part = Part { place, tasks: Vec::new(), addresses: Vec::new() };
        let running = context::task();
        for task in self.live.borrow().iter() {
            let header: *const Header = &raw const **task;
            let state = if header == running {
                State::Running
            } else if task.local.queued.get() {
                State::Ready
            } else {
                State::Waiting(wait_of(task, operations.get(&header.cast()), now))
            };
            let mut seen = Seen::new(task, state);
            seen.idle = now.saturating_duration_since(task.local.ran.get());
            let from = part.addresses.len();
            // While the thread unwinds no task is resumed.
            if header != running && !std::thread::panicking() {
                self.walk(task, &mut part.addresses);
            }
            seen.addresses = from..part.addresses.len();
            part.tasks.push(seen);
        }
        part.tasks.extend(self.local.borrow().iter().map(|task| Seen::new(task, State::Unstarted)));
        self.for_each_unstarted(|task| part.tasks.push(Seen::new(task, State::Unstarted)));
        part
    }

    /// Lets a suspended task walk its own stack: see [`answer`].
    fn walk(&self, task: &Header, addresses: &mut Vec<usize>) {
        self.addresses.replace(std::mem::take(addresses));
        context::set_asked(true);
        self.resume_to_ask(task);
        context::set_asked(false);
        *addresses = self.addresses.take();
        self.counters.has_described();
    }

    /// The part of [`walk`](Worker::walk) on the worker's stack, above which the task's frames are seen.
    fn note(&self) {
        let (limit, base) = self.asked_stack.get();
        capture(limit, base, &mut self.addresses.borrow_mut());
    }
}

/// In a task that was resumed to be asked where it is: walks its stack, and suspends again. The unwinder needs some KiB of
/// stack, which a task may not have left: it runs on the worker's.
#[cold]
#[inline(never)]
pub(crate) fn answer() {
    // SAFETY: the task runs, so that it is alive, and its yielder is on its stack, below this frame.
    let yielder = unsafe { &*(*context::task()).local.yielder.get() };
    yielder.on_parent_stack(|| context::with_worker(Worker::note));
    yielder.suspend(());
}

impl Seen {
    fn new(task: &Header, state: State) -> Seen {
        Seen {
            id: task.id,
            name: task.name().map(Box::from),
            spawned_at: Some(task.site),
            state,
            idle: Duration::ZERO,
            canceled: task.is_canceled(),
            addresses: 0..0,
        }
    }
}

/// What a task waits for: the operation that it waits for, or else what it said when it suspended.
fn wait_of(task: &Header, operation: Option<&InFlight>, now: Instant) -> Wait {
    if let Some(operation) = operation {
        let due_in = (operation.deadline != Instant::NEVER).then(|| operation.deadline - now);
        let which = operation.fd.map_or(Which::Unknown, Which::Descriptor);
        return Wait { what: operation.operation.name, which, due_in };
    }
    let Why { reason, which } = task.local.waits_for.get();
    let which = match reason.which {
        why::Which::Nothing => Which::Unknown,
        why::Which::Task => Which::Task(ThreadId::of(which as u64)),
        why::Which::Object => Which::Object(which),
    };
    Wait { what: reason.name, which, due_in: None }
}
