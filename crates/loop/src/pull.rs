//! Pull style, for many: operations go in at any time, outcomes come out in the order of completion.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::current::is_tasks_loop;
use crate::event_loop::{Inner, Loop};
use crate::instant::Instant;
use crate::op::{Begin, Detach, Operation, Options, Outcome, Started};
use crate::operation::{OpId, Request};

/// Tells those who wait for outcomes that there is one.
pub(crate) struct Bell {
    /// Not kept alive by what it is to tell.
    loop_: Weak<Inner>,
    /// The operations of those who wait in tasks.
    waiting: RefCell<Vec<OpId>>,
}

impl Bell {
    pub(crate) fn new(loop_: &Loop) -> Bell {
        Bell { loop_: Rc::downgrade(&loop_.0), waiting: RefCell::default() }
    }

    /// Lets all who wait look again.
    pub(crate) fn ring(&self) {
        let waiting = self.waiting.take();
        if let (false, Some(inner)) = (waiting.is_empty(), self.loop_.upgrade()) {
            let loop_ = Loop(inner);
            for id in waiting {
                loop_.complete_external(id, 0);
            }
        }
    }

    /// Waits until there may be something to see, or until `deadline`. On a plain thread that takes a tick.
    pub(crate) fn wait(&self, loop_: &Loop, deadline: Instant) -> io::Result<()> {
        if is_tasks_loop(loop_) {
            // The worker below ticks it.
            let waited = Rung { bell: self, deadline, id: Cell::new(None) }.wait();
            return match waited {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
                result => result,
            };
        }
        let wait = match deadline {
            Instant::NEVER => None,
            deadline => Some(deadline - loop_.clock()),
        };
        loop_.tick(wait).map(drop)
    }
}

/// A wait for a [`Bell`], as an operation.
struct Rung<'b> {
    bell: &'b Bell,
    deadline: Instant,
    id: Cell<Option<OpId>>,
}

// SAFETY: the request has no pointers and no descriptor.
unsafe impl Operation for Rung<'_> {
    type Output = io::Result<()>;
    fn options(&self) -> Options {
        Options { deadline: self.deadline, ..Options::NONE }
    }
    fn start(&mut self, begin: &Begin<'_>) -> Started {
        self.id.set(Some(begin.id));
        self.bell.waiting.borrow_mut().push(begin.id);
        Started::Request(Request::External)
    }
    fn finish(self, outcome: Outcome) -> io::Result<()> {
        self.bell.waiting.borrow_mut().retain(|id| Some(*id) != self.id.get());
        outcome.value().map(drop)
    }
}

/// Operations of one loop under way, and what has come of those that are over, to be taken when it suits.
///
/// Each is submitted with a function that makes one type of the outcomes, and adds whatever tells them apart. Dropping the
/// queue [removes](Loop::remove) what is in flight.
///
/// The queue goes on by itself whenever its loop does, not only in [`next`](Queue::next): also while something else is waited
/// for in place (`op.wait()`), in a task or on a plain thread whose [current](Loop::current) loop it is. What came meanwhile is there
/// for the next `next`.
///
/// ```
/// # use std::time::Duration;
/// # use towpath_loop::{Loop, Queue, op};
/// let queue = Queue::new(&Loop::new()?);
/// for (name, ms) in [("late", 5), ("soon", 1)] {
///     queue.submit(op::timer(Duration::from_millis(ms)), move |outcome| (name, outcome));
/// }
/// while let Some((name, outcome)) = queue.next()? {
///     outcome?;
///     println!("{name}"); // soon, late
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Queue<T> {
    loop_: Loop,
    shared: Rc<Shared<T>>,
}

struct Shared<T> {
    ready: RefCell<VecDeque<T>>,
    /// By the order of submission.
    in_flight: RefCell<BTreeMap<u64, OpId>>,
    submitted: Cell<u64>,
    bell: Bell,
}

/// Held by the callback of an operation in flight, which may be dropped uncalled.
struct InFlight<T> {
    shared: Weak<Shared<T>>,
    number: u64,
}

impl<T> Drop for InFlight<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.in_flight.borrow_mut().remove(&self.number);
            shared.bell.ring();
        }
    }
}

impl<T: 'static> Queue<T> {
    /// An empty queue of operations on `loop_`.
    pub fn new(loop_: &Loop) -> Queue<T> {
        let shared = Rc::new(Shared {
            ready: RefCell::default(),
            in_flight: RefCell::default(),
            submitted: Cell::default(),
            bell: Bell::new(loop_),
        });
        Queue { loop_: loop_.clone(), shared }
    }

    /// Begins an operation; what `map` makes of its outcome can be taken later. `map` runs on the loop's thread, in a tick.
    pub fn submit<O: Detach>(&self, op: O, map: impl FnOnce(O::Output) -> T + 'static) -> OpId {
        let number = self.shared.submitted.get();
        self.shared.submitted.set(number + 1);
        let own = InFlight { shared: Rc::downgrade(&self.shared), number };
        let id = self.loop_.submit(op, move |_, output| {
            let item = map(output);
            if let Some(to) = own.shared.upgrade() {
                to.ready.borrow_mut().push_back(item);
            }
        });
        self.shared.in_flight.borrow_mut().insert(number, id);
        id
    }

    /// The oldest outcome that nobody has taken, if there is one. Somebody has to drive the loop meanwhile.
    pub fn try_next(&self) -> Option<T> {
        self.shared.ready.borrow_mut().pop_front()
    }

    /// The oldest outcome that nobody has taken; waits for one if there is none, by driving the loop, or, in a task of the
    /// worker whose loop it is, by suspending the task. `None` if nothing is in flight.
    ///
    /// # Errors
    /// As [`Loop::tick`], and [`is_canceled`](crate::is_canceled) if the task is. Nothing is lost.
    pub fn next(&self) -> io::Result<Option<T>> {
        loop {
            if let Some(item) = self.try_next() {
                return Ok(Some(item));
            }
            if self.in_flight() == 0 {
                return Ok(None);
            }
            self.shared.bell.wait(&self.loop_, Instant::NEVER)?;
        }
    }

    /// Takes all outcomes that there are, once they are `min`, or nothing is in flight, or `wait` is over (`None`: as long as
    /// it takes; zero: looks once, without sleeping).
    ///
    /// # Errors
    /// As [`next`](Queue::next).
    pub fn collect(&self, min: usize, wait: Option<Duration>) -> io::Result<Vec<T>> {
        let deadline = wait.map_or(Instant::NEVER, |wait| self.loop_.clock() + wait);
        let mut looked = false;
        while self.len() < min && self.in_flight() > 0 {
            if looked && deadline != Instant::NEVER && self.loop_.clock() >= deadline {
                break;
            }
            looked = true;
            self.shared.bell.wait(&self.loop_, deadline)?;
        }
        Ok(self.drain())
    }

    /// Takes all outcomes that there are, without waiting.
    pub fn drain(&self) -> Vec<T> {
        self.shared.ready.borrow_mut().drain(..).collect()
    }

    /// How many outcomes can be taken.
    pub fn len(&self) -> usize {
        self.shared.ready.borrow().len()
    }

    /// Whether there is no outcome to take.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many operations are in flight.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.borrow().len()
    }

    /// [Cancels](Loop::cancel) all that is in flight; the outcomes come.
    pub fn cancel_all(&self) {
        for id in self.shared.in_flight.borrow().values() {
            self.loop_.cancel(*id);
        }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        for (_, id) in self.shared.in_flight.take() {
            self.loop_.remove(id);
        }
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
