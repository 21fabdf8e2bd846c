//! Overflows that say so, and faults that are none of our business. Each case dies in a process of its own.
#![cfg(unix)]

#[allow(dead_code, reason = "shared between test binaries")]
mod common;

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::ptr;

use common::{in_child, output_of_child};
use towpath_coro::{Config, Coroutine, Stack, StackPool, State, Yielder};

/// Needs more stack than there is, in small frames.
fn recurse(n: u64) -> u64 {
    let frame = black_box([n; 16]);
    if n == u64::MAX { frame[0] } else { recurse(n + 1) + black_box(frame)[3] }
}

/// Needs more than the stack and its guard have, in one frame.
#[inline(never)]
fn large_frame() -> u8 {
    let mut array = [0_u8; 200 * 1024];
    black_box(&mut array)[17]
}

/// A fault in no stack at all.
fn wild_write() {
    // SAFETY: none; that is the point. The child dies of it.
    unsafe { ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
}

fn run<R: 'static>(stack: Stack, f: impl FnOnce(&Yielder<(), ()>) -> R + 'static) -> R {
    let mut coroutine = Coroutine::<(), (), R>::new(stack, |yielder, ()| f(yielder));
    match coroutine.resume(()) {
        State::Finished(result) => result.unwrap(),
        State::Suspended(()) => panic!("suspended"),
    }
}

#[track_caller]
fn assert_overflow(output: &Output, name: &str, kib: usize) {
    let text = String::from_utf8_lossy(&output.stderr);
    let message = format!(
        "\ncoroutine '{name}' has overflowed its stack ({kib} KiB); \
         raise it with Builder::stack_size or move large values to the heap\n"
    );
    assert!(text.contains(&message), "{}: {text}", output.status);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{text}");
}

#[track_caller]
fn assert_killed(output: &Output, signal: c_int) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(signal), "{}: {text}", output.status);
    assert!(!text.contains("coroutine"), "{text}");
}

#[test]
fn recursion_is_named() {
    let output = output_of_child("recursion_is_named", || {
        let mut pool = StackPool::new(Config::default()).unwrap();
        let _below = pool.take().unwrap();
        let mut stack = pool.take().unwrap();
        stack.set_name("parser");
        run(stack, |_| recurse(0));
    });
    assert_overflow(&output, "parser", 256);
}

#[test]
fn the_unnamed_are_called_so() {
    let output = output_of_child("the_unnamed_are_called_so", || {
        run(Stack::new(64 * 1024).unwrap(), |_| recurse(0));
    });
    assert_overflow(&output, "<unnamed>", 64);
}

#[test]
fn a_name_ends_with_its_user() {
    let output = output_of_child("a_name_ends_with_its_user", || {
        let mut pool = StackPool::new(Config::default()).unwrap();
        for give in [true, false, true] {
            let mut stack = pool.take().unwrap();
            stack.set_name("somebody else");
            if give { pool.give(stack) } else { drop(stack) }
        }
        run(pool.take().unwrap(), |_| recurse(0));
    });
    assert_overflow(&output, "<unnamed>", 256);
}

#[test]
fn a_frame_larger_than_stack_and_guard_is_caught() {
    let output = output_of_child("a_frame_larger_than_stack_and_guard_is_caught", || {
        let mut pool = StackPool::new(Config::new().stack_size(64 * 1024)).unwrap();
        // A neighbour below, which would be overwritten if the guard were jumped.
        let _below = pool.take().unwrap();
        let mut stack = pool.take().unwrap();
        stack.set_name("large frame");
        run(stack, |_| large_frame());
    });
    assert_overflow(&output, "large frame", 64);
}

#[test]
fn guards_by_mprotect_are_known_too() {
    let output = output_of_child("guards_by_mprotect_are_known_too", || {
        let config = Config::new().stack_size(64 * 1024).guard_size(4096).mprotect_guards(true);
        let mut pool = StackPool::new(config).unwrap();
        let _below = pool.take().unwrap();
        let mut coroutine = Coroutine::<(), (), u64>::new(pool.take().unwrap(), |yielder, ()| {
            yielder.suspend(());
            recurse(0)
        });
        assert!(matches!(coroutine.resume(()), State::Suspended(())));
        coroutine.set_name("named while suspended");
        coroutine.resume(());
    });
    assert_overflow(&output, "named while suspended", 64);
}

#[test]
fn the_right_one_of_nested_coroutines_is_named() {
    let output = output_of_child("the_right_one_of_nested_coroutines_is_named", || {
        let mut outer = Stack::new(64 * 1024).unwrap();
        outer.set_name("outer");
        run(outer, |_| {
            let mut inner = Stack::new(128 * 1024).unwrap();
            inner.set_name("inner");
            run(inner, |_| recurse(0))
        });
    });
    assert_overflow(&output, "inner", 128);
}

#[test]
fn another_thread_overflows_as_well() {
    let output = output_of_child("another_thread_overflows_as_well", || {
        let mut stack = Stack::new(64 * 1024).unwrap();
        stack.set_name("moved");
        std::thread::spawn(move || run(stack, |_| recurse(0))).join().unwrap();
    });
    assert_overflow(&output, "moved", 64);
}

#[test]
fn a_thread_of_c_overflows_as_well() {
    extern "C" fn start(_: *mut c_void) -> *mut c_void {
        let mut stack = Stack::new(64 * 1024).unwrap();
        stack.set_name("foreign");
        run(stack, |_| recurse(0));
        ptr::null_mut()
    }
    let output = output_of_child("a_thread_of_c_overflows_as_well", || {
        // SAFETY: plain creation and joining of a thread.
        unsafe {
            let mut thread = std::mem::zeroed();
            assert_eq!(libc::pthread_create(&raw mut thread, ptr::null(), start, ptr::null_mut()), 0);
            libc::pthread_join(thread, ptr::null_mut());
        }
    });
    assert_overflow(&output, "foreign", 64);
}

#[test]
fn the_stack_of_a_thread_is_still_stds() {
    let output = output_of_child("the_stack_of_a_thread_is_still_stds", || {
        towpath_coro::overflow::install().unwrap();
        let thread = std::thread::Builder::new().name("plain".to_owned());
        thread.spawn(|| recurse(0)).unwrap().join().unwrap();
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("'plain'") && text.contains("has overflowed its stack"), "{text}");
    assert!(!text.contains("coroutine"), "{text}");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
}

#[test]
fn a_wild_write_is_a_plain_fault() {
    let output = output_of_child("a_wild_write_is_a_plain_fault", || {
        run(Stack::new(64 * 1024).unwrap(), |_| wild_write());
    });
    assert_killed(&output, libc::SIGSEGV);
}

#[test]
fn a_fault_that_was_sent_still_kills() {
    let output = output_of_child("a_fault_that_was_sent_still_kills", || {
        // In place of std's handler, which lets the first one pass.
        install_user_handler(libc::SIG_DFL, 0);
        // SAFETY: sends a signal to ourselves.
        run(Stack::new(64 * 1024).unwrap(), |_| unsafe { libc::raise(libc::SIGSEGV) });
    });
    assert_killed(&output, libc::SIGSEGV);
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn a_wild_write_into_a_guard_is_not_called_an_overflow() {
    let output = output_of_child("a_wild_write_into_a_guard_is_not_called_an_overflow", || {
        let mut stack = Stack::new(64 * 1024).unwrap();
        stack.set_name("innocent");
        // SAFETY: none; the child dies of it.
        unsafe { ptr::without_provenance_mut::<u8>(stack.limit() - 1).write_volatile(1) };
    });
    assert_killed(&output, libc::SIGSEGV);
}

/// What the user's handler is given, by number; it ends the process if all is as it should be.
extern "C" fn user_with_info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: called as a signal handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr().addr() };
    let code = if signal == libc::SIGSEGV && address == 8 && !context.is_null() { 42 } else { 43 };
    // SAFETY: async-signal-safe, and so is all above.
    unsafe { libc::_exit(code) }
}

extern "C" fn user_plain(signal: c_int) {
    // SAFETY: async-signal-safe.
    unsafe { libc::_exit(if signal == libc::SIGSEGV { 44 } else { 45 }) }
}

fn install_user_handler(handler: usize, flags: c_int) {
    // SAFETY: a handler of the kind that the flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()), 0);
    }
}

#[test]
fn earlier_handlers_get_what_is_not_ours() {
    let output = output_of_child("earlier_handlers_get_what_is_not_ours", || {
        install_user_handler(user_with_info as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        run(Stack::new(64 * 1024).unwrap(), |_| wild_write());
    });
    assert_eq!(output.status.code(), Some(42), "{output:?}");
}

#[test]
fn earlier_handlers_of_the_plain_kind_as_well() {
    let output = output_of_child("earlier_handlers_of_the_plain_kind_as_well", || {
        install_user_handler(user_plain as *const () as usize, libc::SA_ONSTACK);
        run(Stack::new(64 * 1024).unwrap(), |_| wild_write());
    });
    assert_eq!(output.status.code(), Some(44), "{output:?}");
}

#[test]
fn our_overflow_does_not_reach_earlier_handlers() {
    let output = output_of_child("our_overflow_does_not_reach_earlier_handlers", || {
        install_user_handler(user_plain as *const () as usize, libc::SA_ONSTACK);
        run(Stack::new(64 * 1024).unwrap(), |_| recurse(0));
    });
    assert_overflow(&output, "<unnamed>", 64);
}

#[test]
fn a_default_action_and_an_ignored_one_end_in_a_plain_fault() {
    let output = output_of_child("a_default_action_and_an_ignored_one_end_in_a_plain_fault", || {
        install_user_handler(libc::SIG_IGN, 0);
        // Sent ones are ignored, as before us...
        // SAFETY: sends a signal to ourselves.
        run(Stack::new(64 * 1024).unwrap(), |_| unsafe { libc::raise(libc::SIGSEGV) });
        eprintln!("still here");
        // ...but a fault cannot be.
        run(Stack::new(64 * 1024).unwrap(), |_| wild_write());
    });
    assert!(String::from_utf8_lossy(&output.stderr).contains("still here"), "{output:?}");
    assert_killed(&output, libc::SIGSEGV);
}

#[test]
fn a_handler_may_repair_the_fault_and_go_on() {
    extern "C" fn repair(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: called with SA_SIGINFO for a fault in the page mapped below; mprotect is a plain system call.
        unsafe {
            let page = (*info).si_addr().map_addr(|address| address & !4095);
            libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE);
        }
    }
    in_child("a_handler_may_repair_the_fault_and_go_on", || {
        install_user_handler(
            repair as *const () as usize,
            libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER,
        );
        let value = run(Stack::new(64 * 1024).unwrap(), |_| {
            // SAFETY: a new page, made accessible by the handler when it is touched.
            unsafe {
                let page = libc::mmap(
                    ptr::null_mut(),
                    4096,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
                .cast::<u8>();
                page.write_volatile(5);
                page.read_volatile()
            }
        });
        assert_eq!(value, 5);
    });
}

#[test]
fn signals_are_handled_on_the_alternate_stack() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static FRAME: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn note(_: c_int) {
        let frame = 0_u8;
        FRAME.store((&raw const frame).addr(), Ordering::Relaxed);
    }
    in_child("signals_are_handled_on_the_alternate_stack", || {
        // SAFETY: a handler of the plain kind.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut()), 0);
        }
        let stack = Stack::new(16 * 1024).unwrap();
        let range = stack.limit()..stack.base();
        // SAFETY: sends a signal to ourselves.
        run(stack, |_| unsafe { libc::raise(libc::SIGUSR1) });
        let frame = FRAME.load(Ordering::Relaxed);
        assert!(frame != 0 && !range.contains(&frame));
    });
}
