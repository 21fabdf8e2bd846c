//! Where tasks panic, seen as it happens.
//!
//! A payload tells what a panic says, not where it was; only the panic hook is told that, on the panicking stack, before it
//! unwinds. The hook is the process's own, which is why nothing is put there unless the program
//! [asks for it](crate::Builder::report_panics), and why the one that was there before is called as well.
//!
//! What the hook sees waits in the task for whoever joins it. A payload has nothing that could hold it, and a task that
//! catches its panics may have several: of those the last one is meant whose payload was such a one. That can be mistaken
//! only for another panic of the same task with the same text.

use std::any::{Any, TypeId};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use crate::context;
use crate::dump::{self, Who};
use crate::task::Header;
use crate::thread::ThreadId;
use crate::warning;

/// A task that catches panics for as long as it lives keeps no more of them.
const KEPT: usize = 4;

/// A panic as the hook saw it.
pub(crate) struct Sight {
    /// File, line and column.
    pub(crate) place: Option<Box<str>>,
    /// By which calls, innermost first; empty unless the environment asks for backtraces.
    pub(crate) addresses: Vec<usize>,
    kind: TypeId,
    message: Option<Box<str>>,
}

/// What the hook saw of one task's panics, oldest first.
#[derive(Default)]
pub(crate) struct Sights(Mutex<Vec<Sight>>);

impl Sights {
    fn add(&self, sight: Sight) {
        let mut sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sights.len() == KEPT {
            sights.remove(0);
        }
        sights.push(sight);
    }

    /// Calls `f` with all of them, and which one this payload came from, if that was seen.
    pub(crate) fn find<R>(
        &self,
        payload: &(dyn Any + Send),
        f: impl FnOnce(&mut Vec<Sight>, usize) -> R,
    ) -> Option<R> {
        let mut sights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |sight: &Sight| sight.kind == payload.type_id() && sight.message.as_deref() == message(payload);
        let which = sights.iter().rposition(is_it)?;
        Some(f(&mut sights, which))
    }
}

/// The text of a panic, if its payload is one.
pub(crate) fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Whether the environment asks for backtraces in libraries, by the rules of [`std::backtrace`].
fn backtraces_are_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| {
        let variables = ["RUST_LIB_BACKTRACE", "RUST_BACKTRACE"];
        variables.iter().find_map(std::env::var_os).is_some_and(|value| value != "0")
    })
}

/// Puts our hook before the one that is there; once for the process, and not while this thread panics, when hooks stay
/// what they are.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    if std::thread::panicking() {
        return;
    }
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            context::with_task(|task| task.into_iter().for_each(|task| note(task, info)));
            before(info);
        }));
    });
}

/// Notes that `task`, which runs, panics, and names it on stderr, where the message is going to be.
fn note(task: &Header, info: &PanicHookInfo<'_>) {
    // The frames on this stack, from here on. (A sanitizer may have locals elsewhere.)
    let (here, stack) = (0u8, task.stack());
    let here = (&raw const here).addr();
    let limit = if stack.contains(&here) { here } else { stack.start };
    let mut addresses = Vec::new();
    if backtraces_are_wanted() {
        // Unwinding takes some KiB of stack, which the task may not have left.
        context::on_a_large_stack(task, || dump::capture(limit, stack.end, &mut addresses));
    }
    let sight = Sight {
        place: info.location().map(|place| place.to_string().into()),
        addresses,
        kind: info.payload().type_id(),
        message: message(info.payload()).map(Box::from),
    };
    task.sights().add(sight);
    let who = Who(ThreadId::of(task.id), task.name());
    warning::say(&format_args!("{who}, spawned at {}, panics:", task.site));
}
