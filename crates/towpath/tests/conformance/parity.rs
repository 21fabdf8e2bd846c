//! One program for `std::thread` and for `towpath::thread`: what compiles and holds with the one does with the other.

use crate::common::*;

macro_rules! program {
    ($name:ident, $thread:path, $thread_local:path) => {
        mod $name {
            use std::cell::{Cell, RefCell};
            use std::fmt::Debug;
            use std::panic::{RefUnwindSafe, UnwindSafe};
            use std::time::{Duration, Instant};

            use thread::{Builder, JoinHandle, LocalKey, Scope, ScopedJoinHandle, Thread, ThreadId};
            use $thread as thread;

            fn shared<T: Send + Sync>() {}
            fn unwinds<T: UnwindSafe + RefUnwindSafe>() {}
            fn shown<T: Debug>() {}

            $thread_local! {
                static COUNT: Cell<u32> = const { Cell::new(1) };
                pub(crate) static LIST: RefCell<Vec<u32>> = RefCell::new(vec![1]);
            }

            fn traits() {
                shared::<Thread>();
                shared::<ThreadId>();
                shared::<JoinHandle<u8>>();
                shared::<Scope<'static, 'static>>();
                shared::<ScopedJoinHandle<'static, u8>>();
                shared::<LocalKey<Cell<u8>>>();
                unwinds::<Thread>();
                shown::<Thread>();
                shown::<ThreadId>();
                shown::<JoinHandle<u8>>();
                shown::<ScopedJoinHandle<'static, u8>>();
                shown::<Scope<'static, 'static>>();
                shown::<Builder>();
                shown::<LocalKey<Cell<u8>>>();
                shown::<thread::AccessError>();
                fn error<T: std::error::Error + Clone + Copy + Eq>() {}
                error::<thread::AccessError>();
                fn key<T: Clone + Copy + Eq + std::hash::Hash>() {}
                key::<ThreadId>();
            }

            pub fn run() {
                traits();
                let handle: JoinHandle<u8> =
                    Builder::new().name("named".to_string()).stack_size(256 * 1024).spawn(|| 1).unwrap();
                assert_eq!(handle.thread().name(), Some("named"));
                let id = handle.thread().id();
                assert_ne!(id, thread::current().id());
                assert_eq!(handle.join().unwrap(), 1);

                let parked = thread::spawn(|| {
                    thread::park();
                    thread::park_timeout(Duration::from_millis(1));
                    thread::current().clone().id()
                });
                while !parked.is_finished() {
                    parked.thread().unpark();
                    thread::yield_now();
                }
                let id = parked.thread().id();
                assert_eq!(parked.join().unwrap(), id);

                let panic: thread::Result<()> =
                    thread::spawn(|| std::panic::resume_unwind(Box::new(7_u8))).join();
                assert_eq!(panic.unwrap_err().downcast_ref(), Some(&7_u8));
                assert!(!thread::panicking());
                assert!(thread::available_parallelism().unwrap().get() >= 1);

                let mut numbers = vec![1, 2, 3];
                let sum: i32 = thread::scope(|s| {
                    let one = s.spawn(|| numbers[0]);
                    let rest = Builder::new().spawn_scoped(s, || numbers[1..].iter().sum::<i32>()).unwrap();
                    assert!(one.thread().id() != rest.thread().id());
                    while !one.is_finished() {
                        thread::yield_now();
                    }
                    one.join().unwrap() + rest.join().unwrap()
                });
                numbers.push(sum);
                assert_eq!(numbers, [1, 2, 3, 6]);

                let begun = Instant::now();
                thread::sleep(Duration::from_millis(2));
                assert!(begun.elapsed() >= Duration::from_millis(2));

                COUNT.set(5);
                assert_eq!((COUNT.get(), COUNT.replace(6), COUNT.take()), (5, 5, 6));
                LIST.with_borrow_mut(|list| list.push(2));
                assert_eq!(LIST.replace(Vec::new()), [1, 2]);
                LIST.set(vec![3]);
                assert_eq!((LIST.with_borrow(Vec::len), LIST.take()), (1, vec![3]));
                assert_eq!(COUNT.with(Cell::get), 0);
                assert_eq!(COUNT.try_with(Cell::get), Ok(0));
                assert_eq!(thread::spawn(|| COUNT.get()).join().unwrap(), 1);
                COUNT.set(1);
                LIST.set(vec![1]);
            }
        }
    };
}

program!(with_std, std::thread, std::thread_local);
program!(with_towpath, towpath::thread, towpath::task_local);

/// With threads; with tasks; and with the threads that stand in for tasks.
pub fn one_program_for_threads_and_tasks() {
    with_std::run();
    with_towpath::run();
    solo(with_towpath::run);
    duo(with_towpath::run);
}
