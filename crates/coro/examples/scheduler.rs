//! A scheduler of one's own in a few lines: tasks take turns, sleep for a number of turns, and start others.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use towpath_coro::{Config, Coroutine, StackPool, State, Yielder};

/// What a task may use: how to wait, and how to start others.
struct Context<'a> {
    yielder: &'a Yielder<(), u32>,
    spawned: Rc<RefCell<Vec<Task>>>,
}

type Task = Box<dyn FnOnce(&Context<'_>)>;

impl Context<'_> {
    /// Lets `turns` rounds of the others pass.
    fn sleep(&self, turns: u32) {
        self.yielder.suspend(turns);
    }

    fn spawn(&self, task: impl FnOnce(&Context<'_>) + 'static) {
        self.spawned.borrow_mut().push(Box::new(task));
    }
}

/// Runs `first` and all that it starts, in turn, until none is left.
fn run(first: impl FnOnce(&Context<'_>) + 'static) -> io::Result<()> {
    let mut pool = StackPool::new(Config::new().stack_size(64 * 1024))?;
    let spawned = Rc::new(RefCell::new(vec![Box::new(first) as Task]));
    let mut ready = VecDeque::new();
    loop {
        for task in spawned.take() {
            let spawned = Rc::clone(&spawned);
            let body = move |yielder: &Yielder<(), u32>, ()| task(&Context { yielder, spawned });
            ready.push_back((0, Coroutine::new(pool.take()?, body)));
        }
        let Some((turns, mut task)) = ready.pop_front() else { return Ok(()) };
        if turns > 0 {
            ready.push_back((turns - 1, task));
            continue;
        }
        match task.resume(()) {
            State::Suspended(turns) => ready.push_back((turns, task)),
            State::Finished(result) => {
                if result.is_err() {
                    eprintln!("a task panicked; the others go on");
                }
                pool.give(task.into_stack());
            }
        }
    }
}

fn main() -> io::Result<()> {
    let log = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&log);
    run(move |context| {
        for name in ["tick", "tock"] {
            let log = Rc::clone(&log);
            context.spawn(move |context| {
                for round in 1..=3 {
                    log.borrow_mut().push(format!("{name} {round}"));
                    context.sleep(if name == "tick" { 0 } else { 1 });
                }
            });
        }
    })?;
    println!("{}", seen.borrow().join(", "));
    assert_eq!(seen.borrow().len(), 6);
    Ok(())
}
