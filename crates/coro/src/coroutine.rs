//! The coroutine: a closure on a stack of its own, entered by `resume`, left by `suspend`.
//!
//! The switch itself is corosensei's. This file decides what is around it: how panics cross, who owns the stack and
//! until when, and what becomes of a coroutine that is dropped halfway.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{self, AssertUnwindSafe};

use corosensei::CoroutineResult;

use crate::overflow;
use crate::stack::{Extent, Stack};

/// What a panic carried, as from [`std::thread::JoinHandle::join`].
pub type Panic = Box<dyn Any + Send + 'static>;

/// What a coroutine did when it was resumed.
#[derive(Debug)]
pub enum State<Yield, Return> {
    /// It suspended itself and handed out this value.
    Suspended(Yield),
    /// It ended: with a value, or with the payload of the panic that ended it.
    Finished(Result<Return, Panic>),
}

type Inner<Input, Yield, Return> = corosensei::Coroutine<Input, Yield, Result<Return, Panic>, Extent>;

/// Closures above this size or alignment are boxed: corosensei writes the closure onto the new stack, without looking
/// at how much there is, and refuses any that is larger.
const CLOSURE_MAX: usize = 1024;
/// See [`CLOSURE_MAX`].
const CLOSURE_ALIGN_MAX: usize = 64;

/// A computation on a stack of its own, that can be suspended anywhere and resumed later.
///
/// ```
/// use towpath_coro::{Coroutine, Stack, State};
///
/// let mut sum = Coroutine::new(Stack::new(64 * 1024)?, |yielder, first: u32| {
///     let mut total = first;
///     while total < 10 {
///         total += yielder.suspend(total);
///     }
///     total
/// });
/// assert!(matches!(sum.resume(3), State::Suspended(3)));
/// assert!(matches!(sum.resume(4), State::Suspended(7)));
/// assert!(matches!(sum.resume(5), State::Finished(Ok(12))));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Threads
///
/// A coroutine stays on the thread that made it, for its frames may hold what is not `Send`, and compiled code may keep
/// the address of a thread-local across a suspension. The compiler sees to it:
///
/// ```compile_fail,E0277
/// fn send<T: Send>() {}
/// send::<towpath_coro::Coroutine<(), (), ()>>();
/// ```
///
/// # Panics in the coroutine
///
/// A panic unwinds the coroutine's stack down to its first frame, and no further; it arrives as
/// [`State::Finished`]`(Err(payload))`. Suspending while a panic unwinds (in a destructor) is possible, but
/// [`std::thread::panicking`] is a property of the thread, and stays true for everybody on it until the unwinding ends.
///
/// # Dropping
///
/// - Never resumed: the closure is dropped, the stack goes back where it came from.
/// - Finished: the stack goes back.
/// - Suspended: the stack is **leaked**, with everything on it; no destructor runs. Nothing else is safe to do
///   implicitly: something may still point into the frames (the kernel, a thread of a
///   [`scope`](std::thread::scope)), and unwinding runs code of the coroutine, which can block, swallow the unwinding,
///   or abort the process. Run it to its end, or call [`unwind`](Coroutine::unwind).
///
/// # What safe code can still break
///
/// Running two stacks on one thread defeats crates that keep a pointer to a stack frame in a thread-local and rely on
/// frames ending last in, first out: `scoped-tls` is the known one. Setting such a scoped variable, suspending within
/// it, and using or ending it from another coroutine is unsound, with this crate as with any that offers stackful
/// coroutines. A thread-local that is borrowed by [`LocalKey::with`](std::thread::LocalKey::with) across a suspension
/// is fine for as long as the coroutine is not resumed or unwound by that thread's thread-local destructors.
///
/// # Floating-point environment
///
/// Rounding mode and exception masks belong to the thread, and a switch leaves them alone, as a function call does. Rust
/// code may only run with the defaults, so that both sides of a switch have the same. C code that changes them must put
/// them back before it returns to Rust or calls it, with coroutines or without. (To save and compare them here would
/// more than triple the price of a switch.)
pub struct Coroutine<Input, Yield, Return> {
    /// Dropped by hand, because corosensei would unwind a suspended coroutine. Dropped before `stack`.
    inner: ManuallyDrop<Inner<Input, Yield, Return>>,
    /// What `inner` runs on. Moves on only when no frame is left on it.
    stack: ManuallyDrop<Stack>,
    /// Neither `Send` nor `Sync`, whatever corosensei is.
    pinned_to_thread: PhantomData<*mut ()>,
}

impl<Input: 'static, Yield: 'static, Return: 'static> Coroutine<Input, Yield, Return> {
    /// A coroutine that will run `f` on `stack` when it is first resumed, with what `resume` is given.
    ///
    /// The closure is stored on the stack, without allocating; only one larger than 1 KiB, or aligned to more than 64
    /// bytes, is boxed.
    ///
    /// # Panics
    ///
    /// If the calling thread has no alternate signal stack (std's threads do) and none can be made for it. `stack` and
    /// `f` are dropped.
    pub fn new<F>(stack: Stack, f: F) -> Self
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'static,
    {
        // A coroutine runs on the thread that makes it.
        overflow::ensure_alt_stack().expect("cannot make an alternate signal stack for this thread");
        if size_of::<F>() > CLOSURE_MAX || align_of::<F>() > CLOSURE_ALIGN_MAX {
            let f = Box::new(f);
            Self::with_small_closure(stack, move |yielder, input| f(yielder, input))
        } else {
            Self::with_small_closure(stack, f)
        }
    }

    #[inline]
    fn with_small_closure<F>(stack: Stack, f: F) -> Self
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'static,
    {
        // SAFETY: `stack` moves into the same `Coroutine` as `inner`, and leaves it only in `into_stack`, `unwind` and
        // `drop`: after `inner` has finished or was never started, and then `inner` is not used any more. A move of
        // the `Stack` value does not move its memory.
        let extent = unsafe { Extent::of(&stack) };
        let inner = Inner::with_stack(extent, move |yielder, input| {
            // Caught here rather than around `resume`: the switch stays a plain one that can be inlined.
            panic::catch_unwind(AssertUnwindSafe(|| f(Yielder::wrap(yielder), input)))
        });
        Coroutine {
            inner: ManuallyDrop::new(inner),
            stack: ManuallyDrop::new(stack),
            pinned_to_thread: PhantomData,
        }
    }
}

impl<Input, Yield, Return> Coroutine<Input, Yield, Return> {
    /// Runs the coroutine until it suspends itself or ends. `input` becomes the argument of its closure, or the result
    /// of the [`suspend`](Yielder::suspend) it waits in.
    ///
    /// Coroutines nest: one may resume another.
    ///
    /// # Panics
    ///
    /// If the coroutine has finished. Panics of the coroutine itself are values, see [`State::Finished`].
    #[inline]
    pub fn resume(&mut self, input: Input) -> State<Yield, Return> {
        match self.inner.resume(input) {
            CoroutineResult::Yield(value) => State::Suspended(value),
            CoroutineResult::Return(result) => State::Finished(result),
        }
    }

    /// Whether it has been resumed at least once.
    #[inline]
    pub fn is_started(&self) -> bool {
        self.inner.started()
    }

    /// Whether it has ended. It can then not be resumed.
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.inner.done()
    }

    /// The stack, to be given back to its pool or used for another coroutine.
    ///
    /// # Panics
    ///
    /// If the coroutine has not finished; it is then dropped, see [Dropping](Coroutine#dropping).
    #[inline]
    pub fn into_stack(self) -> Stack {
        assert!(self.is_finished(), "a coroutine that has not finished cannot give up its stack");
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so that each field is taken once. `inner` has finished: no frame is left on
        // the stack, dropping it runs nothing.
        unsafe {
            ManuallyDrop::drop(&mut this.inner);
            ManuallyDrop::take(&mut this.stack)
        }
    }

    /// The stack it runs on: where it is, and how much of it has been used.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Names the coroutine for the overflow message. See [`Stack::set_name`].
    pub fn set_name(&mut self, name: &str) {
        self.stack.set_name(name);
    }

    /// Ends the coroutine now and gives back its stack.
    ///
    /// A suspended one unwinds: the [`suspend`](Yielder::suspend) it waits in raises a panic (without calling the panic
    /// hook), and all destructors run, each before this returns. Values it yields on the way, what it returns, and the
    /// payload of a panic of its own are dropped. One that was never resumed only drops its closure.
    ///
    /// Meant for generators and the like, whose code is known. Do not call it on a coroutine whose frames have been
    /// lent to somebody who relies on `suspend` not to unwind, such as a kernel with I/O in flight.
    ///
    /// - Code that catches the panic and suspends again is sent another one, as often as it does so: a coroutine that
    ///   never stops doing it keeps this from returning.
    /// - With `panic = "abort"`, the process aborts, as with every panic.
    ///
    /// # Panics
    ///
    /// If the destructor of a value dropped here panics. The stack is then reused if the coroutine had come to its end,
    /// leaked otherwise.
    pub fn unwind(mut self) -> Stack {
        if self.is_started() {
            self.inner.force_unwind();
        } else {
            self.drop_closure();
        }
        self.into_stack()
    }

    /// Drops the closure of a coroutine that was never resumed, and marks it as finished.
    fn drop_closure(&mut self) {
        debug_assert!(!self.is_started());
        // If the closure's destructor panics, corosensei still believes in the closure and would drop it again.
        struct Finish<'a, I, Y, R>(&'a mut Inner<I, Y, R>);
        impl<I, Y, R> Drop for Finish<'_, I, Y, R> {
            fn drop(&mut self) {
                // SAFETY: the coroutine never ran, so that its stack holds no frame; the closure, the only thing on it,
                // has been dropped, as far as it let itself.
                unsafe { self.0.force_reset() };
            }
        }
        Finish(&mut self.inner).0.force_unwind();
    }
}

impl<Input, Yield, Return> Drop for Coroutine<Input, Yield, Return> {
    fn drop(&mut self) {
        if !self.is_started() {
            // If a destructor in the closure panics, the stack leaks, which is sound.
            self.drop_closure();
        }
        if self.is_finished() {
            // SAFETY: `drop` runs once and nothing uses the fields after it. There is no frame on the stack.
            unsafe {
                ManuallyDrop::drop(&mut self.inner);
                ManuallyDrop::drop(&mut self.stack);
            }
        }
        // Otherwise it is suspended: both fields are leaked. The stack's slot is never handed out again, and keeps its
        // slab mapped.
    }
}

impl<Input, Yield, Return> fmt::Debug for Coroutine<Input, Yield, Return> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.is_started(), self.is_finished()) {
            (_, true) => "finished",
            (true, false) => "suspended",
            (false, false) => "not started",
        };
        f.debug_struct("Coroutine").field("state", &state).field("stack", &*self.stack).finish()
    }
}

/// What a coroutine suspends itself with: its closure's first argument.
///
/// It can be passed down by reference, so that any function called from the coroutine can suspend it.
#[repr(transparent)]
pub struct Yielder<Input, Yield>(corosensei::Yielder<Input, Yield>);

impl<Input, Yield> Yielder<Input, Yield> {
    #[inline]
    fn wrap(inner: &corosensei::Yielder<Input, Yield>) -> &Self {
        // SAFETY: `Self` is a transparent wrapper.
        unsafe { &*(&raw const *inner).cast::<Self>() }
    }

    /// Stops here: [`Coroutine::resume`] returns [`State::Suspended`]`(value)`. The next call of `resume` continues
    /// from here, with its argument as the result.
    ///
    /// Where `errno` matters, read it before: others run in between.
    ///
    /// # Panics
    ///
    /// When the owner of the coroutine ends it by [`Coroutine::unwind`], and never otherwise.
    #[inline]
    pub fn suspend(&self, value: Yield) -> Input {
        self.0.suspend(value)
    }

    /// Calls `f` on the stack of whoever resumed the coroutine: for what may need more stack than the coroutine has left.
    /// It costs a frame of a few words here. What `f` calls may not suspend this coroutine, for which it has no
    /// yielder, as that is not `Sync`.
    ///
    /// ```
    /// # use towpath_coro::{Coroutine, Stack};
    /// let mut deep = Coroutine::<(), (), _>::new(Stack::new(16 * 1024)?, |yielder, ()| {
    ///     yielder.on_parent_stack(|| std::hint::black_box([1u8; 64 * 1024]).iter().map(|n| *n as u32).sum::<u32>())
    /// });
    /// assert!(matches!(deep.resume(()), towpath_coro::State::Finished(Ok(65536))));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Panics
    /// As `f` does.
    pub fn on_parent_stack<R>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.0.on_parent_stack(f)
    }
}

impl<Input, Yield> fmt::Debug for Yielder<Input, Yield> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Yielder").finish_non_exhaustive()
    }
}
