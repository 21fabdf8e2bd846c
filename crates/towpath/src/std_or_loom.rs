//! The atomics, locks and cells of the parts that are model-checked: `std`'s, or `loom`'s under `cfg(loom)`.
//!
//! `Arc` stays `std`'s in both, and so does what the rest of the crate uses.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{Mutex, Mutex as Lock, atomic},
};
#[cfg(not(loom))]
pub(crate) use {
    crate::wait::Lock,
    std::sync::{Mutex, atomic},
};

/// Stores a value, and orders that before everything that the caller does next, by all threads' view.
#[inline]
pub(crate) fn store_and_fence(place: &atomic::AtomicUsize, value: usize) {
    if cfg!(loom) {
        // `loom` takes SeqCst for AcqRel but for fences.
        place.store(value, atomic::Ordering::Release);
        atomic::fence(atomic::Ordering::SeqCst);
    } else {
        // A locked exchange is half the price of a store and a fence on x86. To pair with it the other side needs a
        // fence, and the caller's next load must be SeqCst.
        place.swap(value, atomic::Ordering::SeqCst);
    }
}

/// Locks what protects a few links and words: nothing in there panics, or waits.
#[inline(always)]
pub(crate) fn lock<T>(lock: &Lock<T>) -> impl std::ops::DerefMut<Target = T> + '_ {
    #[cfg(loom)]
    return lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    #[cfg(not(loom))]
    lock.lock()
}

/// Between two looks at what another thread is about to do. Whoever has looked often gives way: first to who can run, then
/// to everybody, so that one who has lost its processor gets it back whatever the scheduler's policy.
pub(crate) fn give_way(looks: &mut u32) {
    #[cfg(not(loom))]
    {
        const SPINS: u32 = 64;
        const YIELDS: u32 = 128;
        match *looks {
            0..SPINS => std::hint::spin_loop(),
            SPINS..YIELDS => std::thread::yield_now(),
            _ => std::thread::sleep(std::time::Duration::from_micros(50)),
        }
    }
    #[cfg(loom)]
    loom::thread::yield_now();
    *looks = looks.saturating_add(1);
}

/// A function that is `const`, but under loom, whose types cannot be made in constants.
macro_rules! const_fn {
    ($(#[$meta:meta])* $vis:vis const fn $($rest:tt)*) => {
        $(#[$meta])* #[cfg(not(loom))] $vis const fn $($rest)*
        $(#[$meta])* #[cfg(loom)] $vis fn $($rest)*
    };
}
pub(crate) use const_fn;

/// What wakes a worker; in a model that is a flag.
#[cfg(all(test, loom))]
pub(crate) use model::Bell as Remote;
#[cfg(not(all(test, loom)))]
pub(crate) use towpath_loop::Remote;

/// `std`'s cell, with the interface of `loom`'s, which sees who is inside.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    /// Calls `f` with the place. To read it the caller must know that nobody writes it meanwhile.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with the place. To use it the caller must know that nobody else does meanwhile.
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// What the models share. Run them with `RUSTFLAGS="--cfg loom" cargo test -p towpath --release --lib loom_`.
#[cfg(all(test, loom))]
pub(crate) mod model {
    use std::sync::Arc;

    use loom::alloc::Track;
    use loom::cell::UnsafeCell;
    use loom::sync::{Condvar, Mutex};

    use crate::mail::Mailbox;
    use crate::task::TaskRef;

    /// Tries what can happen with at most so many preemptions, or with any number.
    pub(crate) fn check(preemptions: impl Into<Option<usize>>, body: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = preemptions.into();
        builder.check(body);
    }

    /// Polls a future once, with a waker that wakes nobody.
    pub(crate) fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    /// The doorbell of a loop: stays rung until somebody has waited for it. It counts how often it is rung.
    #[derive(Default)]
    pub(crate) struct Bell(Mutex<(bool, usize)>, Condvar);

    impl Bell {
        pub(crate) fn wake(&self) {
            let mut state = self.0.lock().unwrap();
            *state = (true, state.1 + 1);
            self.1.notify_one();
        }

        /// loom reports a deadlock if nobody ever rings.
        pub(crate) fn wait(&self) {
            let mut state = self.0.lock().unwrap();
            while !std::mem::take(&mut state.0) {
                state = self.1.wait(state).unwrap();
            }
        }

        /// As a loop's `Remote`; in no model.
        pub(crate) fn run(&self, _: impl FnOnce(&towpath_loop::Loop) + Send + 'static) -> Result<(), ()> {
            unreachable!("no loop runs in a model")
        }

        pub(crate) fn rings(&self) -> usize {
            self.0.lock().unwrap().1
        }
    }

    impl From<towpath_loop::Remote> for Bell {
        fn from(_: towpath_loop::Remote) -> Bell {
            unreachable!("no loop runs in a model")
        }
    }

    pub(crate) fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(Bell::default(), true))
    }

    /// A task that lives in `home` and that nobody runs: a model acts for it.
    pub(crate) fn settled(home: &Arc<Mailbox>) -> TaskRef {
        // SAFETY: it borrows nothing, and is `Send`.
        let (task, _) = unsafe { TaskRef::new(None, || ()) };
        task.settle(home.clone());
        task
    }

    /// A lock, and what it protects, which loom watches.
    pub(crate) struct Watched<L> {
        pub(crate) lock: L,
        value: UnsafeCell<usize>,
    }

    impl<L: 'static> Watched<L> {
        pub(crate) fn new(lock: L) -> Arc<Watched<L>> {
            Arc::new(Watched { lock, value: UnsafeCell::new(0) })
        }

        /// With the lock, for oneself.
        pub(crate) fn add(&self) {
            // SAFETY: the caller's guard; loom checks that.
            self.value.with_mut(|value| unsafe { *value += 1 });
        }

        /// With the lock, perhaps with others.
        pub(crate) fn get(&self) -> usize {
            // SAFETY: as above.
            self.value.with(|value| unsafe { *value })
        }

        /// Does something with it on another thread.
        pub(crate) fn spawn<R: 'static>(
            self: &Arc<Self>,
            f: impl FnOnce(&Watched<L>) -> R + 'static,
        ) -> loom::thread::JoinHandle<R> {
            let watched = self.clone();
            loom::thread::spawn(move || f(&watched))
        }
    }

    /// A value that loom watches: it must be written before it is read or dropped, and be dropped once.
    pub(crate) struct Value(Track<UnsafeCell<usize>>);

    impl Drop for Value {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                // Where results are dropped panics are caught, and loom's report would be with them.
                let watch = || read(self);
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(watch)).is_err() {
                    std::process::abort();
                }
            }
        }
    }

    pub(crate) fn value(n: usize) -> Value {
        let cell = UnsafeCell::new(0);
        // SAFETY: nobody else has it yet.
        cell.with_mut(|place| unsafe { *place = n });
        Value(Track::new(cell))
    }

    pub(crate) fn read(value: &Value) -> usize {
        // SAFETY: whoever has it is the only one; loom checks that nobody writes it meanwhile.
        value.0.get_ref().with(|place| unsafe { *place })
    }
}
