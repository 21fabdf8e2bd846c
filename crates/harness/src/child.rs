//! The process of one test.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::Test;
use crate::checks::Before;

/// Asks a thread to print its stack.
const STACK_SIGNAL: libc::c_int = libc::SIGUSR2;
/// Of how many threads the stack is printed before the process ends itself, and of how many more.
const STACKS: usize = 4;
static TO_PRINT: AtomicUsize = AtomicUsize::new(STACKS);

/// Runs the test's function, then looks at what it left.
pub(crate) fn run(test: &Test) -> ExitCode {
    let handler: extern "C" fn(libc::c_int) = print_stack;
    // SAFETY: `print_stack` is an `extern "C" fn(c_int)`, as `signal` wants. It is not async-signal-safe; it runs
    // only in a process that hangs and is about to be killed.
    unsafe { libc::signal(STACK_SIGNAL, handler as libc::sighandler_t) };
    let before = Before::now();
    let body = test.run;
    let thread = thread::Builder::new().name("test".into()).spawn(body);
    let Ok(thread) = thread else {
        eprintln!("the test's thread could not be started");
        return ExitCode::FAILURE;
    };
    if thread.join().is_err() {
        // The panic's message is on stderr already.
        return ExitCode::FAILURE;
    }
    let found = before.compare(test, TO_PRINT.load(Ordering::Relaxed) < STACKS);
    for line in &found {
        eprintln!("left behind: {line}");
    }
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

extern "C" fn print_stack(_: libc::c_int) {
    if TO_PRINT.fetch_sub(1, Ordering::Relaxed) > 0 {
        let name = thread::current().name().unwrap_or("?").to_owned();
        eprintln!("stack of thread {name:?}:\n{}", std::backtrace::Backtrace::force_capture());
    }
}

/// Makes a thread of a hanging child print its stack.
pub(crate) fn ask_for_stack(pid: u32, tid: i32) {
    // SAFETY: no pointers; the signal goes to a child of ours that is not reaped yet.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, STACK_SIGNAL) };
}
