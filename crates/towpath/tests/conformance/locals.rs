//! `task_local!`: a value for each task, made when it is needed, dropped when the task ends, inherited on request.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use towpath::thread::{self, Builder, Group, LocalKey, try_sleep};
use towpath::{Canceled, shield, task_local};

use crate::common::*;

static MADE: AtomicUsize = AtomicUsize::new(0);
static GONE: AtomicUsize = AtomicUsize::new(0);

/// Counts, and is not `Send`.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new() -> Counted {
        MADE.fetch_add(1, Ordering::SeqCst);
        Counted(Rc::default())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        GONE.fetch_add(1, Ordering::SeqCst);
    }
}

fn balance() -> (usize, usize) {
    (MADE.load(Ordering::SeqCst), GONE.load(Ordering::SeqCst))
}

task_local! {
    static COUNTED: Counted = Counted::new();
    static NUMBER: Cell<usize> = const { Cell::new(7) };
    static WORDS: RefCell<Vec<String>> = RefCell::new(vec!["first".into()]);
    static ON_DROP: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
    inherit static REQUEST: Cell<u32> = const { Cell::new(0) };
    inherit static SHARED: RefCell<Option<Arc<str>>> = RefCell::new(None);
}

/// On one worker, on two, and on a plain thread.
fn everywhere(check: fn()) {
    solo(check);
    duo(check);
    std::thread::spawn(check).join().unwrap();
}

/// Each task has its own, through waits and among many on one thread; all are dropped at the end, before the join.
pub fn j14_isolated_between_tasks() {
    everywhere(|| {
        let before = balance();
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                thread::spawn(move || {
                    COUNTED.with(|counted| counted.0.set(n));
                    thread::yield_now();
                    // A wait inside.
                    COUNTED.with(|counted| {
                        try_sleep(ms(n as u64 % 3)).unwrap();
                        assert_eq!(counted.0.get(), n);
                        COUNTED.with(|again| again.0.set(again.0.get() + 1));
                        assert_eq!(counted.0.get(), n + 1);
                    });
                })
            })
            .collect();
        for task in tasks {
            task.join().unwrap();
        }
        let (made, gone) = balance();
        assert_eq!((made - before.0, gone - before.1), (50, 50));
    });
}

/// What `std` has for cells.
pub fn j14_cells() {
    everywhere(|| {
        thread::spawn(|| {
            assert_eq!((NUMBER.get(), NUMBER.replace(8), NUMBER.take(), NUMBER.get()), (7, 7, 8, 0));
            NUMBER.set(3);
            NUMBER.update(|n| n * 2);
            assert_eq!(NUMBER.get(), 6);
            WORDS.with_borrow_mut(|words| words.push("second".into()));
            assert_eq!(WORDS.with_borrow(Vec::len), 2);
            assert_eq!(WORDS.replace(vec!["third".into()]), ["first", "second"]);
            assert_eq!((WORDS.take(), WORDS.take().len()), (vec!["third".to_owned()], 0));
        })
        .join()
        .unwrap();
        // Set, it is not made first.
        let made = balance().0;
        static LAZY: LocalKey<Cell<usize>> = LocalKey::new(|| panic!("made"));
        LAZY.set(1);
        assert_eq!((LAZY.get(), balance().0), (1, made));
    });
}

/// Destructors run in the reverse order on the task's own stack, may wait, and may use what is not gone; a task that is
/// joined is over with them.
pub fn j14_destructors() {
    task_local! {
        static FIRST: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
        static SECOND: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
        static LATE: Cell<u32> = const { Cell::new(1) };
    }
    everywhere(|| {
        let log = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (one, two, three) = (log.clone(), log.clone(), log.clone());
        let task = thread::spawn(move || {
            let id = thread::current().id();
            FIRST.set(Some(Box::new(OnDrop(move || {
                assert_eq!(thread::current().id(), id);
                // Gone are the later one, and this one itself.
                assert!(SECOND.try_with(|_| ()).is_err() && FIRST.try_with(|_| ()).is_err());
                // New ones are made, and go as well.
                LATE.set(LATE.get() + 1);
                try_sleep(ms(5)).unwrap();
                one.lock().unwrap().push("first");
            }))));
            SECOND.set(Some(Box::new(OnDrop(move || {
                FIRST.with_borrow(|first| assert!(first.is_some()));
                shield(|| thread::sleep(ms(1)));
                two.lock().unwrap().push("second");
                panic!("harms nobody");
            }))));
            three.lock().unwrap().push("body");
            // The result goes last, when all are gone.
            OnDrop(|| ())
        });
        drop(task.join().unwrap());
        assert_eq!(*log.lock().unwrap(), ["body", "second", "first"]);
    });
    // A result that nobody takes is dropped by the task, which has no locals then.
    solo(|| {
        let (seen, sees) = (Arc::new(AtomicUsize::new(0)), Drops::default());
        let (saw, guard) = (seen.clone(), sees.guard());
        drop(thread::spawn(move || {
            OnDrop(move || {
                let _guard = &guard;
                saw.store(1 + usize::from(COUNTED.try_with(|_| ()).is_ok()), Ordering::SeqCst);
            })
        }));
        until(|| seen.load(Ordering::SeqCst) == 1 && sees.count() == 1);
    });
}

/// On a plain thread they are the thread's, and go with it; a runtime's tasks on the same thread have their own.
pub fn j14_on_plain_threads() {
    let before = balance();
    std::thread::spawn(move || {
        COUNTED.with(|counted| counted.0.set(5));
        runtime(1).run(|| {
            assert_eq!(COUNTED.with(|counted| counted.0.get()), 0);
            assert_eq!(balance(), (before.0 + 2, before.1));
        });
        assert_eq!(balance(), (before.0 + 2, before.1 + 1));
        assert_eq!(COUNTED.with(|counted| counted.0.get()), 5);
        // Its destructor comes when there are none any more.
        ON_DROP.with_borrow_mut(|list| {
            list.push(Box::new(OnDrop(|| assert!(NUMBER.try_with(Cell::get).is_err()))));
        });
    })
    .join()
    .unwrap();
    assert_eq!(balance(), (before.0 + 2, before.1 + 2));
}

/// Keys that are declared so begin with copies, in every way to spawn; others do not, nor does a task that shall not.
pub fn j14_inherited() {
    everywhere(|| {
        assert_eq!(thread::spawn(|| REQUEST.get()).join().unwrap(), 0);
        REQUEST.set(5);
        SHARED.set(Some("text".into()));
        NUMBER.set(1);
        let look = || (REQUEST.get(), SHARED.with_borrow(|text| text.as_deref().map(str::len)), NUMBER.get());
        let inherited = (5, Some(4), 7);
        assert_eq!(thread::spawn(look).join().unwrap(), inherited);
        assert_eq!(Builder::new().spawn(look).unwrap().join().unwrap(), inherited);
        assert_eq!(Builder::new().inherit_locals(false).spawn(look).unwrap().join().unwrap(), (0, None, 7));
        thread::scope(|s| assert_eq!(s.spawn(look).join().unwrap(), inherited));
        let mut group = Group::new();
        group.spawn(move || std::io::Result::Ok(look()));
        assert_eq!(group.wait().unwrap(), [inherited]);
        // A copy, which is passed on, and does not come back.
        let grandchild = thread::spawn(move || {
            REQUEST.set(6);
            thread::spawn(look).join().unwrap()
        });
        assert_eq!((grandchild.join().unwrap(), REQUEST.get()), ((6, Some(4), 7), 5));
        REQUEST.set(0);
        SHARED.set(None);
    });
    solo(|| {
        REQUEST.set(9);
        assert_eq!(thread::spawn_local(|| REQUEST.get()).join().unwrap(), 9);
    });
}

/// What a task inherits that never starts is dropped, once; a clone that panics leaves nothing behind.
pub fn j14_inherited_by_tasks_that_never_start() {
    struct Copied(Arc<AtomicUsize>);
    impl Clone for Copied {
        fn clone(&self) -> Copied {
            assert_ne!(self.0.load(Ordering::SeqCst), 100, "on purpose");
            self.0.fetch_add(1, Ordering::SeqCst);
            Copied(self.0.clone())
        }
    }
    impl Drop for Copied {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    task_local! {
        inherit static COPIED: RefCell<Option<Copied>> = const { RefCell::new(None) };
    }
    let count = Arc::new(AtomicUsize::new(1));
    duo(|| {
        COPIED.set(Some(Copied(count.clone())));
        let group = {
            let mut group = Group::<()>::new();
            group.cancel();
            (0..10).for_each(|_| group.spawn(|| Ok(())));
            group
        };
        assert_eq!(group.map(Result::unwrap_err).count(), 10);
        until(|| count.load(Ordering::SeqCst) == 1);
        let task = thread::spawn_local(|| ());
        assert_eq!(count.load(Ordering::SeqCst), 2);
        task.cancel();
        assert_eq!(task.join().unwrap_err().downcast_ref(), Some(&Canceled));
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let drops = Drops::default();
        let guard = drops.guard();
        count.store(100, Ordering::SeqCst);
        assert_eq!(panic_of(|| thread::spawn(move || drop(guard))).lines().count(), 3);
        assert_eq!(drops.count(), 1);
        count.store(1, Ordering::SeqCst);
    });
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

/// A runtime that is dropped ends its tasks, with their values.
pub fn j09_locals_of_suspended_tasks() {
    let before = balance();
    duo(|| {
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..1000 {
            let begun = begun.clone();
            drop(thread::spawn(move || {
                COUNTED.with(|counted| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    assert_canceled(try_sleep(LONG));
                    counted.0.set(1);
                });
            }));
        }
        until(|| begun.load(Ordering::SeqCst) == 1000);
    });
    let (made, gone) = balance();
    assert_eq!((made - before.0, gone - before.1), (1000, 1000));
}
