//! corosensei and a ready queue by hand: what no stackful runtime can undercut. No timers, no handles, one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::ptr;
use std::rc::Rc;
use std::time::Instant;

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::Options;
use crate::measure::*;

pub fn run(options: &Options) -> Outcome {
    match options.scenario.as_str() {
        "spawn" => spawn(Meter::new(options)),
        "yield" => yield_now(Meter::new(options)),
        _ => memory(sleepers(options)),
    }
}

const STACK: usize = 16 * 1024;

/// Part of a [`Slab`].
struct Piece {
    bottom: NonZeroUsize,
}

// SAFETY: it is aligned, larger than the least that a stack must be, and belongs to whoever has the `Piece`, since a
// slab hands out each place once and is never unmapped. There is no guard, which would cost: the tasks of this file
// need a fraction of it.
unsafe impl Stack for Piece {
    fn base(&self) -> StackPointer {
        self.bottom.saturating_add(STACK)
    }
    fn limit(&self) -> StackPointer {
        self.bottom
    }
}

/// Makes `count` stacks in one mapping.
fn slab(count: u64) -> io::Result<Vec<Piece>> {
    let len = count as usize * STACK;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, of nothing that is there already.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is ours. A huge page would hold many stacks, most of which nobody touches.
    unsafe { libc::madvise(start, len, libc::MADV_NOHUGEPAGE) };
    let pieces = (start as usize..start as usize + len).step_by(STACK);
    Ok(pieces.map(|at| Piece { bottom: NonZeroUsize::new(at).expect("no mapping at zero") }).collect())
}

type Task = Coroutine<(), (), (), Piece>;
type Body = fn(&Yielder<(), ()>, &Context);

/// What all tasks share.
struct Context {
    ready: RefCell<VecDeque<Task>>,
    stacks: RefCell<Vec<Piece>>,
    ended: Cell<u64>,
}

impl Context {
    fn new(stacks: u64) -> Rc<Context> {
        Rc::new(Context {
            ready: RefCell::default(),
            stacks: RefCell::new(slab(stacks).expect("the system has address space")),
            ended: Cell::new(0),
        })
    }

    fn spawn(self: &Rc<Self>, body: Body) {
        let stack = self.stacks.borrow_mut().pop().expect("a stack for each task");
        let context = self.clone();
        let task = Coroutine::with_stack(stack, move |yielder, ()| body(yielder, &context));
        self.ready.borrow_mut().push_back(task);
    }

    /// Runs until every task has ended, in turn.
    fn run(&self) {
        loop {
            let next = self.ready.borrow_mut().pop_front();
            let Some(mut task) = next else { return };
            match task.resume(()) {
                CoroutineResult::Yield(()) => self.ready.borrow_mut().push_back(task),
                CoroutineResult::Return(()) => self.stacks.borrow_mut().push(task.into_stack()),
            }
        }
    }
}

fn end(_: &Yielder<(), ()>, context: &Context) {
    context.ended.set(context.ended.get() + 1);
}

fn spawn(mut meter: Meter) -> Outcome {
    let context = Context::new(ROUND);
    while meter.more() {
        context.ended.set(0);
        for _ in 0..ROUND {
            context.spawn(end);
        }
        context.run();
        meter.count(ROUND, context.ended.get() == ROUND);
    }
    meter.outcome()
}

fn yield_now(mut meter: Meter) -> Outcome {
    let context = Context::new(2);
    while meter.more() {
        for _ in 0..2 {
            context.spawn(|yielder, _| (0..YIELDS).for_each(|_| yielder.suspend(())));
        }
        context.run();
        meter.count(2 * YIELDS, true);
    }
    meter.outcome()
}

/// Tasks that have each suspended themselves once.
fn memory(count: u64) -> Outcome {
    let before = rss_anon();
    let start = Instant::now();
    let context = Context::new(count);
    for _ in 0..count {
        context.spawn(|yielder, _| yielder.suspend(()));
    }
    let parked = context
        .ready
        .borrow_mut()
        .iter_mut()
        .map(|task| task.resume(()))
        .filter(|done| matches!(done, CoroutineResult::Yield(())))
        .count() as u64;
    let time = start.elapsed();
    let rss = rss_anon().saturating_sub(before);
    context.run();
    Outcome { rss_bytes: Some(rss), ..Outcome::new(count, time, parked == count) }
}
