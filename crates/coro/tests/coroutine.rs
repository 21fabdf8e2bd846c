//! Coroutines by themselves: values, panics, ends of all kinds.

#[allow(dead_code, reason = "shared between test binaries")]
mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::rc::Rc;

use towpath_coro::{Config, Coroutine, Stack, StackPool, State, Yielder};

fn stack() -> Stack {
    Stack::new(64 * 1024).unwrap()
}

/// Counts how often it is dropped.
#[derive(Clone, Default)]
struct Dropped(Rc<Cell<u32>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Panics when dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_any("bomb");
    }
}

#[test]
fn values_go_in_and_out() {
    let mut echo = Coroutine::new(stack(), |yielder, mut word: String| {
        while word != "end" {
            word = yielder.suspend(word.len());
        }
        vec![1_u8, 2, 3]
    });
    assert!(!echo.is_started() && !echo.is_finished());
    for word in ["a", "", "four"] {
        let State::Suspended(len) = echo.resume(word.to_owned()) else { panic!("finished early") };
        assert_eq!(len, word.len());
        assert!(echo.is_started() && !echo.is_finished());
    }
    let State::Finished(Ok(bytes)) = echo.resume("end".to_owned()) else { panic!("not finished") };
    assert_eq!(bytes, [1, 2, 3]);
    assert!(echo.is_started() && echo.is_finished());
}

#[test]
fn large_and_overaligned_values_cross() {
    #[repr(align(128))]
    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Wide([u8; 512]);
    let mut echo = Coroutine::new(stack(), |yielder, mut wide: Wide| {
        loop {
            assert_eq!((&raw const wide).addr() % 128, 0);
            wide.0[0] += 1;
            wide = yielder.suspend(wide);
            if wide.0[0] == 9 {
                return wide;
            }
        }
    });
    let State::Suspended(one) = echo.resume(Wide([0; 512])) else { panic!() };
    assert_eq!((one.0[0], one.0[511]), (1, 0));
    let State::Finished(Ok(nine)) = echo.resume(Wide([9; 512])) else { panic!() };
    assert_eq!(nine, Wide([9; 512]));
    echo.unwind();
}

#[test]
fn closures_of_any_size_and_alignment_are_taken() {
    #[repr(align(65536))]
    struct Aligned(u8);
    let huge = [7_u8; 40_000];
    // Larger than the whole stack's smallest size, and than the guard's distance: must not be written across it.
    let mut coroutine =
        Coroutine::<(), (), u32>::new(stack(), move |_, ()| huge.iter().map(|b| u32::from(*b)).sum());
    assert!(matches!(coroutine.resume(()), State::Finished(Ok(280_000))));

    let larger_than_the_stack = [1_u8; 300_000];
    drop(Coroutine::<(), (), u8>::new(stack(), move |_, ()| larger_than_the_stack[5]));

    let aligned = Box::new(Aligned(3));
    let mut coroutine = Coroutine::<(), (), u8>::new(stack(), move |_, ()| aligned.0);
    assert!(matches!(coroutine.resume(()), State::Finished(Ok(3))));
    drop(Coroutine::<(), (), u8>::new(stack(), {
        let aligned = Aligned(3);
        move |_, ()| {
            let aligned = &aligned;
            aligned.0
        }
    }));
}

#[test]
fn a_panic_arrives_as_a_value() {
    let dropped = Dropped::default();
    let inside = dropped.clone();
    let mut coroutine = Coroutine::<(), (), ()>::new(stack(), move |yielder, ()| {
        let _inside = inside;
        yielder.suspend(());
        std::panic::resume_unwind(Box::new(42_u8));
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(())));
    let State::Finished(Err(payload)) = coroutine.resume(()) else { panic!("no panic arrived") };
    assert_eq!(*payload.downcast::<u8>().unwrap(), 42);
    assert_eq!(dropped.0.get(), 1);
    assert!(!std::thread::panicking());
    // The stack is as good as before.
    let mut next = Coroutine::<(), (), u8>::new(coroutine.into_stack(), |_, ()| 1);
    assert!(matches!(next.resume(()), State::Finished(Ok(1))));
}

#[test]
fn a_payload_whose_destructor_panics_does_no_harm() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    for _ in 0..3 {
        let mut coroutine = Coroutine::<(), (), ()>::new(pool.take().unwrap(), |_, ()| {
            std::panic::resume_unwind(Box::new(Bomb))
        });
        let State::Finished(Err(payload)) = coroutine.resume(()) else { panic!("no panic arrived") };
        pool.give(coroutine.into_stack());
        let second = catch_unwind(AssertUnwindSafe(|| drop(payload))).unwrap_err();
        assert_eq!(*second.downcast::<&str>().unwrap(), "bomb");
    }
    assert_eq!((pool.stats().live, pool.stats().free), (0, 1));
}

#[test]
fn an_unstarted_one_drops_its_closure_and_frees_its_stack() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let dropped = Dropped::default();
    for n in 1..=3 {
        let inside = dropped.clone();
        drop(Coroutine::<(), (), ()>::new(pool.take().unwrap(), move |_, ()| drop(inside)));
        assert_eq!(dropped.0.get(), n);
    }
    let inside = dropped.clone();
    let stack = Coroutine::<(), (), ()>::new(pool.take().unwrap(), move |_, ()| drop(inside)).unwind();
    pool.give(stack);
    assert_eq!(dropped.0.get(), 4);
    assert_eq!(pool.stats().live, 0);
}

#[test]
fn a_closure_whose_destructor_panics_is_dropped_once() {
    for unwind in [false, true] {
        let (dropped, bomb) = (Dropped::default(), Bomb);
        let inside = dropped.clone();
        let coroutine = Coroutine::<(), (), ()>::new(stack(), move |_, ()| {
            let _both = (inside, bomb);
        });
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            if unwind {
                coroutine.unwind();
            } else {
                drop(coroutine);
            }
        }));
        assert!(panicked.is_err());
        assert_eq!(dropped.0.get(), 1);
    }
}

#[test]
fn a_suspended_one_is_leaked_when_dropped() {
    let mut pool = StackPool::new(Config::default()).unwrap();
    let dropped = Dropped::default();
    let inside = dropped.clone();
    let mut coroutine = Coroutine::new(pool.take().unwrap(), move |yielder: &Yielder<(), *const u64>, ()| {
        let _inside = inside;
        let on_the_stack = 0x5eed_u64;
        yielder.suspend(&raw const on_the_stack);
    });
    let State::Suspended(pointer) = coroutine.resume(()) else { panic!("finished") };
    drop(coroutine);
    assert_eq!(dropped.0.get(), 0);
    assert_eq!(pool.stats().live, 1);
    // Neither other stacks nor the end of the pool take the frame away.
    let base = pool.take().unwrap().base();
    assert!(!(base - pool.stack_size()..base).contains(&pointer.addr()));
    drop(pool);
    // SAFETY: the frame it points into was leaked; that it is still there is what is being tested.
    assert_eq!(unsafe { pointer.read_volatile() }, 0x5eed);
}

#[test]
fn unwind_runs_destructors_in_order() {
    struct Note(u8, Rc<RefCell<Vec<u8>>>);
    impl Drop for Note {
        fn drop(&mut self) {
            self.1.borrow_mut().push(self.0);
        }
    }
    let notes = Rc::new(RefCell::new(Vec::new()));
    let inside = Rc::clone(&notes);
    let mut coroutine = Coroutine::<(), u8, u8>::new(stack(), move |yielder, ()| {
        let _first = Note(1, Rc::clone(&inside));
        let _second = Note(2, Rc::clone(&inside));
        // Swallowing the first attempt does not help.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _third = Note(3, Rc::clone(&inside));
            yielder.suspend(0)
        }));
        let _fourth = Note(4, inside);
        yielder.suspend(1);
        unreachable!("a coroutine being unwound got past suspend");
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(0)));
    let stack = coroutine.unwind();
    assert_eq!(*notes.borrow(), [3, 4, 2, 1]);
    assert_eq!(stack.size(), 64 * 1024);
    assert!(!std::thread::panicking());
}

#[test]
fn unwind_drops_what_the_coroutine_returns_instead() {
    let dropped = Dropped::default();
    let inside = dropped.clone();
    let mut coroutine = Coroutine::<(), (), Dropped>::new(stack(), move |yielder, ()| {
        let _ = catch_unwind(AssertUnwindSafe(|| yielder.suspend(())));
        inside
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(())));
    coroutine.unwind();
    assert_eq!(dropped.0.get(), 1);

    // And if that value's destructor panics, the panic comes out once, with the stack in order.
    let mut pool = StackPool::new(Config::default()).unwrap();
    let mut coroutine = Coroutine::<(), (), Bomb>::new(pool.take().unwrap(), move |yielder, ()| {
        let _ = catch_unwind(AssertUnwindSafe(|| yielder.suspend(())));
        Bomb
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(())));
    assert!(catch_unwind(AssertUnwindSafe(|| coroutine.unwind())).is_err());
    assert_eq!(pool.stats().live, 0);
}

#[test]
fn coroutines_nest() {
    let mut outer = Coroutine::<u32, u32, u32>::new(stack(), |outer, start| {
        let mut inner = Coroutine::<u32, u32, u32>::new(stack(), |inner, mut n| {
            for _ in 0..3 {
                n = inner.suspend(n + 1);
            }
            n * 100
        });
        let mut n = start;
        loop {
            match inner.resume(n) {
                State::Suspended(value) => n = outer.suspend(value * 10),
                State::Finished(result) => return result.unwrap(),
            }
        }
    });
    let mut seen = Vec::new();
    let mut n = 0;
    let last = loop {
        match outer.resume(n) {
            State::Suspended(value) => {
                seen.push(value);
                n = value;
            }
            State::Finished(result) => break result.unwrap(),
        }
    };
    assert_eq!((seen, last), (vec![10, 110, 1110], 111_000));
}

#[test]
fn deep_nesting_and_a_panic_at_the_bottom() {
    fn descend(depth: u32) -> u32 {
        if depth == 0 {
            panic_any(7_u32);
        }
        let mut below = Coroutine::<(), (), u32>::new(stack(), move |yielder, ()| {
            yielder.suspend(());
            descend(depth - 1)
        });
        assert!(matches!(below.resume(()), State::Suspended(())));
        match below.resume(()) {
            State::Finished(Err(payload)) => *payload.downcast::<u32>().unwrap() + 1,
            State::Finished(Ok(n)) => n + 1,
            State::Suspended(()) => unreachable!("it suspends once"),
        }
    }
    assert_eq!(descend(50), 57);
}

#[test]
fn a_destructor_may_suspend_while_unwinding() {
    struct Suspend<'a>(&'a Yielder<(), u8>);
    impl Drop for Suspend<'_> {
        fn drop(&mut self) {
            self.0.suspend(u8::from(std::thread::panicking()));
        }
    }
    let mut coroutine = Coroutine::<(), u8, ()>::new(stack(), |yielder, ()| {
        let _suspend = Suspend(yielder);
        panic_any("first");
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(1)));
    // Others run and panic meanwhile.
    let mut other = Coroutine::<(), (), ()>::new(stack(), |_, ()| panic_any("second"));
    assert!(matches!(other.resume(()), State::Finished(Err(_))));
    let State::Finished(Err(payload)) = coroutine.resume(()) else { panic!("no panic arrived") };
    assert_eq!(*payload.downcast::<&str>().unwrap(), "first");
    assert!(!std::thread::panicking());
}

#[test]
fn a_panic_while_unwinding_aborts() {
    use std::os::unix::process::ExitStatusExt;
    let output = common::output_of_child("a_panic_while_unwinding_aborts", || {
        let mut coroutine = Coroutine::<(), (), ()>::new(Stack::new(256 * 1024).unwrap(), |_, ()| {
            let _bomb = Bomb;
            panic_any("first");
        });
        coroutine.resume(());
    });
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("panic in a destructor during cleanup"), "{text}");
}

#[test]
fn resuming_a_finished_one_panics() {
    let mut coroutine = Coroutine::<(), (), ()>::new(stack(), |_, ()| ());
    assert!(matches!(coroutine.resume(()), State::Finished(Ok(()))));
    assert!(catch_unwind(AssertUnwindSafe(|| coroutine.resume(()))).is_err());
    assert!(coroutine.is_finished());
}

#[test]
fn into_stack_refuses_an_unfinished_one() {
    let dropped = Dropped::default();
    let inside = dropped.clone();
    let coroutine = Coroutine::<(), (), ()>::new(stack(), move |_, ()| drop(inside));
    assert!(catch_unwind(AssertUnwindSafe(|| coroutine.into_stack())).is_err());
    assert_eq!(dropped.0.get(), 1);
}

#[test]
fn a_scope_that_is_suspended_and_leaked_keeps_what_its_threads_borrow() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (done, finished) = std::sync::mpsc::channel();
    let mut coroutine = Coroutine::<(), (), ()>::new(stack(), move |yielder, ()| {
        let numbers = [1_u64, 2, 3];
        std::thread::scope(|scope| {
            let numbers = &numbers;
            scope.spawn(move || {
                receiver.recv().unwrap();
                done.send(numbers.iter().sum::<u64>()).unwrap();
            });
            yielder.suspend(());
        });
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(())));
    drop(coroutine);
    sender.send(()).unwrap();
    assert_eq!(finished.recv().unwrap(), 6);
}

#[test]
fn backtraces_end() {
    let mut coroutine = Coroutine::<(), (), String>::new(Stack::new(256 * 1024).unwrap(), |yielder, ()| {
        yielder.suspend(());
        std::backtrace::Backtrace::force_capture().to_string()
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(())));
    let State::Finished(Ok(trace)) = coroutine.resume(()) else { panic!("not finished") };
    assert!(trace.contains("backtraces_end"), "{trace}");
    assert!(trace.lines().count() < 300, "{trace}");
}

#[test]
fn errno_is_the_threads_own() {
    // Documented: read it before suspending.
    let mut coroutine = Coroutine::<(), (), Option<i32>>::new(stack(), |yielder, ()| {
        // SAFETY: closing a descriptor that cannot exist fails with EBADF and does nothing.
        unsafe { libc::close(-1) };
        let kept = std::io::Error::last_os_error().raw_os_error();
        yielder.suspend(());
        kept
    });
    assert!(matches!(coroutine.resume(()), State::Suspended(())));
    assert!(std::fs::File::open("/nonexistent").is_err());
    assert!(matches!(coroutine.resume(()), State::Finished(Ok(Some(libc::EBADF)))));
}
