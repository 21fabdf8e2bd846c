//! Task-locals: what each task has its own one of, under the names that `std::thread` has for thread-locals.
//!
//! A task's values are in a list of its own, which the task makes when it first needs one: whoever uses none pays nothing.
//! Outside of tasks the list is the thread's. Each value is counted, so that a destructor that comes to it while it goes,
//! or a wait inside [`with`](LocalKey::with), finds it or finds it gone, but never half there.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::context;

/// Declares task-locals: `static`s of type [`LocalKey`], as [`std::thread_local!`] does for threads.
///
/// ```
/// use std::cell::{Cell, RefCell};
/// use towpath::{task_local, thread};
///
/// task_local! {
///     static DEPTH: Cell<u32> = const { Cell::new(0) };
///     /// What this task has seen so far.
///     pub static SEEN: RefCell<Vec<String>> = RefCell::new(Vec::with_capacity(8));
///     /// Spawned tasks begin with a copy of it.
///     inherit static REQUEST: Cell<u64> = const { Cell::new(0) };
/// }
///
/// DEPTH.set(1);
/// REQUEST.set(17);
/// thread::spawn(|| {
///     assert_eq!((DEPTH.get(), REQUEST.get()), (0, 17));
///     SEEN.with_borrow_mut(|seen| seen.push("a task".to_owned()));
/// })
/// .join()
/// .unwrap();
/// assert!(DEPTH.get() == 1 && SEEN.take().is_empty());
/// ```
///
/// # Inheritance
/// A key that is declared with `inherit`, of a type that is `Clone + Send`, is inherited: a task that is spawned begins with a
/// clone of what the one that spawns it has at that moment, if that has one; unless it is spawned with
/// [`Builder::inherit_locals(false)`](crate::thread::Builder::inherit_locals).
#[macro_export]
macro_rules! task_local {
    () => {};
    ($(#[$attr:meta])* $vis:vis static $name:ident: $t:ty = const $init:block $(; $($rest:tt)*)?) => {
        $crate::__task_local!($(#[$attr])* $vis $name, $t, new, const $init);
        $($crate::task_local!($($rest)*);)?
    };
    ($(#[$attr:meta])* $vis:vis static $name:ident: $t:ty = $init:expr $(; $($rest:tt)*)?) => {
        $crate::__task_local!($(#[$attr])* $vis $name, $t, new, $init);
        $($crate::task_local!($($rest)*);)?
    };
    ($(#[$attr:meta])* $vis:vis inherit static $name:ident: $t:ty = const $init:block $(; $($rest:tt)*)?) => {
        $crate::__task_local!($(#[$attr])* $vis $name, $t, inherited, const $init);
        $($crate::task_local!($($rest)*);)?
    };
    ($(#[$attr:meta])* $vis:vis inherit static $name:ident: $t:ty = $init:expr $(; $($rest:tt)*)?) => {
        $crate::__task_local!($(#[$attr])* $vis $name, $t, inherited, $init);
        $($crate::task_local!($($rest)*);)?
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __task_local {
    ($(#[$attr:meta])* $vis:vis $name:ident, $t:ty, $new:ident, $($init:tt)*) => {
        $(#[$attr])*
        $vis static $name: $crate::thread::LocalKey<$t> = {
            fn __init() -> $t {
                $($init)*
            }
            $crate::thread::LocalKey::$new(__init)
        };
    };
}

/// A value of which each task has its own, and each thread that is no task: made by [`task_local!`](crate::task_local!).
///
/// It is made when a task first comes to it, by that task, and dropped when the task ends, on the task's own stack, before the
/// task's result can be had: later ones first. A destructor may wait, and its waits fail if the task is cancelled; one that
/// panics harms nobody else. It may use other keys, but not its own: that is gone. On a plain thread the values go when the
/// thread does, and once they have begun to go there is none any more.
///
/// A task that waits inside [`with`](LocalKey::with) keeps others from nothing, as they have values of their own. Finding a
/// value takes a look at each of those that the task has, of which there should be few.
pub struct LocalKey<T: 'static> {
    init: fn() -> T,
    clone: Option<CloneFn>,
}

/// Clones a value of which it knows the type.
type CloneFn = fn(&dyn Any) -> Rc<dyn Any>;

/// A task's values, or a thread's.
#[derive(Default)]
pub(crate) struct Locals(RefCell<Vec<Entry>>);

struct Entry {
    /// The address of the key, which is static.
    key: usize,
    /// `None` once it is gone.
    value: Option<Rc<dyn Any>>,
    /// How it is inherited, if it is.
    clone: Option<CloneFn>,
}

thread_local! {
    /// Those of the thread, when it runs no task.
    static OF_THREAD: Locals = const { Locals(RefCell::new(Vec::new())) };
}

/// Some value was made that is inherited: until then nobody who spawns need look.
static INHERITED: AtomicBool = AtomicBool::new(false);

impl Locals {
    /// The value of a key, if it is there; an error if it is gone.
    fn find(&self, key: usize) -> Result<Option<Rc<dyn Any>>, AccessError> {
        match self.0.borrow().iter().find(|entry| entry.key == key) {
            Some(entry) => entry.value.clone().map(Some).ok_or(AccessError),
            None => Ok(None),
        }
    }

    /// Puts others in, where there are none.
    pub(crate) fn fill(&self, others: &Locals) {
        self.0.swap(&others.0);
    }

    /// Drops the values, the newest first, and those that their destructors make meanwhile. There are none of these keys
    /// afterwards.
    #[cold]
    pub(crate) fn end(&self) {
        let next = || self.0.borrow_mut().iter_mut().rev().find_map(|entry| entry.value.take());
        while let Some(value) = next() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
                // The hook has told of it. Its own destructor might panic again.
                std::mem::forget(panic);
            }
        }
    }
}

impl Drop for Locals {
    fn drop(&mut self) {
        self.end();
    }
}

/// Calls `f` with the values of the current task, or else the thread.
fn with_current<R>(f: impl FnOnce(&Locals) -> R) -> Result<R, AccessError> {
    context::with_task(|task| match task {
        Some(task) => task.locals().map(f).ok_or(AccessError),
        None => OF_THREAD.try_with(f).map_err(|_| AccessError),
    })
}

/// What a task that is spawned here begins with; `None` if that is nothing.
#[inline]
pub(crate) fn inherited() -> Option<Locals> {
    if INHERITED.load(Ordering::Relaxed) { clones() } else { None }
}

#[cold]
fn clones() -> Option<Locals> {
    let kept = |entry: &Entry| Some((entry.key, entry.value.clone()?, entry.clone?));
    // Cloned with the list at rest: to clone is to run foreign code.
    let originals =
        with_current(|locals| locals.0.borrow().iter().filter_map(kept).collect::<Vec<_>>()).ok()?;
    let copy = |(key, value, clone): (usize, Rc<dyn Any>, CloneFn)| Entry {
        key,
        value: Some(clone(&*value)),
        clone: Some(clone),
    };
    let copies: Vec<_> = originals.into_iter().map(copy).collect();
    if copies.is_empty() { None } else { Some(Locals(RefCell::new(copies))) }
}

impl<T: 'static> LocalKey<T> {
    #[doc(hidden)]
    pub const fn new(init: fn() -> T) -> LocalKey<T> {
        LocalKey { init, clone: None }
    }

    #[doc(hidden)]
    pub const fn inherited(init: fn() -> T) -> LocalKey<T>
    where
        T: Clone + Send,
    {
        LocalKey {
            init,
            clone: Some(|value| Rc::new(value.downcast_ref::<T>().expect("of the key's type").clone())),
        }
    }

    /// Calls `f` with the value, which is made first if need be.
    ///
    /// # Panics
    /// If it is gone: the task or thread is ending.
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.try_with(f).expect("cannot access a task-local value during or after its destruction")
    }

    /// [`with`](LocalKey::with), if the value is not gone.
    ///
    /// # Errors
    /// If it is.
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        Ok(f(&*self.value(self.init)?))
    }

    /// The value, made by `make` if need be.
    fn value(&'static self, make: impl FnOnce() -> T) -> Result<Rc<T>, AccessError> {
        let key = std::ptr::from_ref(self).addr();
        let typed =
            |value: Rc<dyn Any>| value.downcast::<T>().unwrap_or_else(|_| unreachable!("of the key's type"));
        if let Some(value) = with_current(|locals| locals.find(key))?? {
            return Ok(typed(value));
        }
        // Foreign code, which may come here as well, for this value.
        let value = Rc::new(make());
        with_current(|locals| {
            if let Some(first) = locals.find(key)? {
                return Ok(typed(first));
            }
            if self.clone.is_some() {
                INHERITED.store(true, Ordering::Relaxed);
            }
            locals.0.borrow_mut().push(Entry { key, value: Some(value.clone()), clone: self.clone });
            Ok(value)
        })?
    }

    /// Makes it of `value`, or else calls `f` with the value that is there, and `value`.
    fn set_with<V>(&'static self, value: V, make: impl FnOnce(V) -> T, f: impl FnOnce(&T, V)) {
        let mut value = Some(value);
        let found = self.value(|| make(value.take().expect("taken once")));
        let place = found.expect("cannot access a task-local value during or after its destruction");
        if let Some(value) = value {
            f(&place, value);
        }
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    /// Sets the value; without making it first.
    ///
    /// # Panics
    /// If it is gone, here and below: see [`with`](LocalKey::with).
    pub fn set(&'static self, value: T) {
        self.set_with(value, Cell::new, Cell::set);
    }

    /// A copy of the value.
    ///
    /// # Panics
    /// If it is gone.
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// Takes the value and leaves the default.
    ///
    /// # Panics
    /// If it is gone.
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(Cell::take)
    }

    /// Replaces the value, and returns the former one.
    ///
    /// # Panics
    /// If it is gone.
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }

    /// Makes a new value of the present one.
    ///
    /// # Panics
    /// If it is gone.
    pub fn update(&'static self, f: impl FnOnce(T) -> T)
    where
        T: Copy,
    {
        self.with(|cell| cell.set(f(cell.get())));
    }
}

impl<T: 'static> LocalKey<RefCell<T>> {
    /// Calls `f` with the contents.
    ///
    /// # Panics
    /// If they are borrowed mutably, or gone.
    pub fn with_borrow<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| f(&cell.borrow()))
    }

    /// Calls `f` with the contents, to be changed.
    ///
    /// # Panics
    /// If they are borrowed, or gone.
    pub fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(|cell| f(&mut cell.borrow_mut()))
    }

    /// Sets the contents; without making them first.
    ///
    /// # Panics
    /// If they are borrowed, or gone.
    pub fn set(&'static self, value: T) {
        self.set_with(value, RefCell::new, |cell, value| *cell.borrow_mut() = value);
    }

    /// Takes the contents and leaves the default.
    ///
    /// # Panics
    /// If they are borrowed, or gone.
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }

    /// Replaces the contents, and returns the former ones.
    ///
    /// # Panics
    /// If they are borrowed, or gone.
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

/// A task-local value is gone: see [`LocalKey::try_with`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AccessError;

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("already destroyed")
    }
}

impl std::error::Error for AccessError {}
