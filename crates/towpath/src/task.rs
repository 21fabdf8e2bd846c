//! A task: a closure, the stack that it gets when it starts, and what others may do to it meanwhile.
//!
//! One allocation holds a [`Header`] that the scheduler knows, and behind it the closure and later its result, which
//! only the typed ends know: the spawner, the body, the join handle. Everything else sees a [`TaskRef`], a counted
//! pointer to the header.
//!
//! The header also serves threads that are no tasks, as the place where their park token and cancellation scopes are:
//! whatever waits in Towpath waits through one.
//!
//! ```text
//!   created ──► queued, not started ──► started on a worker: its home for ever ──► finished
//!               any worker may take it   suspended ◄─► queued ◄─► running
//! ```

use std::alloc::Layout;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::panic::Location;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use towpath_coro::{Coroutine, Yielder};
use towpath_loop::{Instant, Loop, Remote};

use crate::cancel::{Reason, Scope};
use crate::cells;
use crate::context;
use crate::join::JoinCell;
use crate::panics::{Sight, Sights};
use crate::signals::Signals;
use crate::std_or_loom::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use crate::thread::Locals;
use crate::trace;
use crate::why::Why;
use crate::worker::{self, Mailbox};

/// What the scheduler and other threads know of a task.
#[repr(C)]
pub(crate) struct Header {
    references: AtomicUsize,
    vtable: &'static VTable,
    /// The mailbox of the worker that it runs on, one count of its `Arc`; null until it starts, and for threads.
    home: AtomicPtr<Mailbox>,
    /// Next in its home's inbox.
    pub(crate) next_mail: AtomicPtr<Header>,
    /// In its home's inbox, or about to be.
    pub(crate) mailed: AtomicBool,
    signals: Signals,
    pub(crate) join: JoinCell,
    pub(crate) id: u64,
    /// Where it was spawned.
    pub(crate) site: &'static Location<'static>,
    /// What most tasks never have: null, or a box. Apart, since what is spawned by the thousand should be small. It is set
    /// once; `std`'s atomic, for nothing is ordered by it but what it leads to.
    rare: std::sync::atomic::AtomicPtr<Rare>,
    pub(crate) local: Local,
}

/// What a task has only if it is made with it, or comes to need it.
#[derive(Default)]
pub(crate) struct Rare {
    name: Option<Box<str>>,
    stack_size: Option<usize>,
    /// How to wake it if it is a thread, or carried out by one.
    outside: OnceLock<Outside>,
    /// Why it was cancelled, if that was said.
    reason: OnceLock<Reason>,
    /// Its task-locals: the spawner's before it starts, then only touched by the task itself.
    locals: Locals,
    /// Where it has panicked.
    sights: Sights,
}

impl Rare {
    /// What a task is made with: `None` where that is nothing.
    pub(crate) fn with(name: Option<Box<str>>, stack_size: Option<usize>) -> Option<Box<Rare>> {
        let any = name.is_some() || stack_size.is_some();
        any.then(|| Box::new(Rare { name, stack_size, ..Rare::default() }))
    }
}

/// A thread in the role of a task.
struct Outside {
    thread: Thread,
    /// What ends a wait of the thread for its own loop: the loop that it last waited for. Under a lock, so that whoever wakes it
    /// finds this, or has done before what the thread then looks for.
    remote: Mutex<Option<Remote>>,
}

/// What only the thread that runs the task touches.
pub(crate) struct Local {
    pub(crate) coroutine: UnsafeCell<Option<Coroutine<(), (), ()>>>,
    pub(crate) yielder: Cell<*const Yielder<(), ()>>,
    /// Where its frames were when it last suspended.
    pub(crate) frame: Cell<*const u8>,
    /// In the run queue.
    pub(crate) queued: Cell<bool>,
    pub(crate) finished: Cell<bool>,
    /// Its body is over, and its task-locals are gone.
    over: Cell<bool>,
    /// The innermost of its cancellation scopes, on its stack.
    pub(crate) scope: Cell<*const Scope>,
    /// Where it is among its worker's started tasks.
    pub(crate) place: Cell<u32>,
    /// When it last began to run, to a tick of its worker.
    pub(crate) ran: Cell<Instant>,
    /// What it last waited for that was not an operation.
    pub(crate) waits_for: Cell<Why>,
    pub(crate) spans: trace::Spans,
}

// SAFETY: all fields but `local` are immutable or synchronised. `local` is only touched by the task itself and the worker
// that it lives on, which is one thread (`Header::local`'s users say why they are on it).
unsafe impl Send for Header {}
// SAFETY: as above.
unsafe impl Sync for Header {}

/// What the typed end of a task can do.
pub(crate) struct VTable {
    /// Runs the closure and keeps its result. Called once, on the thread that the task lives on.
    run: unsafe fn(NonNull<Header>),
    /// Drops the closure of a task that never ran, and leaves `Canceled` as its result.
    refuse: unsafe fn(NonNull<Header>, Box<dyn Any + Send>),
    /// Moves the result to `*mut thread::Result<T>`.
    take: unsafe fn(NonNull<Header>, *mut ()),
    /// Drops the result.
    drop_result: unsafe fn(NonNull<Header>),
    /// Frees the allocation, whose closure and result are gone.
    free: unsafe fn(NonNull<Header>),
}

/// A task with its closure and result.
#[repr(C)]
struct Cell_<F, T> {
    header: Header,
    stage: UnsafeCell<Stage<F, T>>,
}

impl<F, T> Cell_<F, T> {
    #[inline(always)]
    fn allocate(header: Header, stage: Stage<F, T>) -> NonNull<Header> {
        let layout = Layout::new::<Cell_<F, T>>();
        let place = context::with_cells(|cells| cells::take(cells, layout)).cast::<Cell_<F, T>>();
        // SAFETY: a block of this layout, and nobody else's.
        unsafe { place.write(Cell_ { header, stage: UnsafeCell::new(stage) }) };
        place.cast()
    }
}

/// Which of the two is there is known from the task's life: the closure until `run` or `refuse`, nothing while it runs,
/// the result from `JoinCell::finish` until somebody takes or drops it.
union Stage<F, T> {
    closure: ManuallyDrop<F>,
    result: ManuallyDrop<std::thread::Result<T>>,
    nothing: (),
}

struct Typed<F, T>(std::marker::PhantomData<(F, T)>);

impl<F: FnOnce() -> T, T> Typed<F, T> {
    const VTABLE: VTable = VTable {
        run: Self::run,
        refuse: Self::refuse,
        take: Self::take,
        drop_result: Self::drop_result,
        free: Self::free,
    };

    /// # Safety
    /// `header` is that of a `Cell_<F, T>`.
    unsafe fn stage(header: NonNull<Header>) -> *mut Stage<F, T> {
        // SAFETY: the header is the first field of the cell, and the pointer came from the whole cell's allocation.
        unsafe { UnsafeCell::raw_get(&raw const (*header.cast::<Cell_<F, T>>().as_ptr()).stage) }
    }

    unsafe fn run(header: NonNull<Header>) {
        // SAFETY: the caller runs it once, so the closure is there; nobody else looks at the stage before `finish`.
        unsafe {
            let stage = Self::stage(header);
            let closure = ManuallyDrop::take(&mut (*stage).closure);
            let result = catch_unwind(AssertUnwindSafe(closure));
            trace::ended(header.as_ref(), result.as_ref().err());
            ptr::write(stage, Stage { result: ManuallyDrop::new(result) });
            header.as_ref().end_locals();
        }
        finish(header);
    }

    unsafe fn refuse(header: NonNull<Header>, why: Box<dyn Any + Send>) {
        // SAFETY: the caller says that the closure never ran and never will.
        unsafe {
            let stage = Self::stage(header);
            // A destructor that panics must not take the worker with it.
            let closure = ManuallyDrop::take(&mut (*stage).closure);
            let _ = catch_unwind(AssertUnwindSafe(move || drop(closure)));
            ptr::write(stage, Stage { result: ManuallyDrop::new(Err(why)) });
            header.as_ref().end_locals();
            trace::over(header.as_ref());
        }
        finish(header);
    }

    unsafe fn take(header: NonNull<Header>, to: *mut ()) {
        // SAFETY: the caller has seen the task finished and is the only one to take; `to` is a `thread::Result<T>`.
        unsafe {
            to.cast::<std::thread::Result<T>>().write(ManuallyDrop::take(&mut (*Self::stage(header)).result))
        }
    }

    unsafe fn drop_result(header: NonNull<Header>) {
        // SAFETY: as for `take`.
        let result = unsafe { ManuallyDrop::take(&mut (*Self::stage(header)).result) };
        let _ = catch_unwind(AssertUnwindSafe(move || drop(result)));
    }

    unsafe fn free(header: NonNull<Header>) {
        let cell = header.cast::<Cell_<F, T>>();
        // SAFETY: the last reference is gone; the cell came from `Cell_::allocate`, and its stage needs no drop.
        unsafe {
            ptr::drop_in_place(cell.as_ptr());
            context::with_cells(|cells| cells::give(cells, cell.cast(), Layout::new::<Cell_<F, T>>()));
        }
    }
}

/// The result is there: tells whoever joins, or drops it if nobody will.
fn finish(header: NonNull<Header>) {
    // SAFETY: the caller of `run` or `refuse` holds a reference.
    let task = unsafe { header.as_ref() };
    match task.join.finish() {
        crate::join::Finish::Detached => {
            // SAFETY: no handle is left that could take it.
            unsafe { (task.vtable.drop_result)(header) }
        }
        crate::join::Finish::Wake(waiter) => waiter.wake(),
        crate::join::Finish::Kept => {}
    }
}

/// A counted pointer to a task, or to a thread in its role as one.
pub(crate) struct TaskRef(NonNull<Header>);

// SAFETY: a header may be shared between threads, see there; the count is atomic.
unsafe impl Send for TaskRef {}
// SAFETY: as above.
unsafe impl Sync for TaskRef {}

impl TaskRef {
    /// A new task, with two references: one for the scheduler, one for the join handle.
    ///
    /// # Safety
    /// What `f` and its result borrow outlives both. Where `f` is not `Send` the task must start on this thread, and
    /// where `T` is not, its handle must stay here.
    #[inline]
    #[track_caller]
    pub(crate) unsafe fn new<F: FnOnce() -> T, T>(rare: Option<Box<Rare>>, f: F) -> (TaskRef, TaskRef) {
        // SAFETY: passed on to the caller.
        unsafe { TaskRef::new_at(Location::caller(), rare, f) }
    }

    /// [`new`](TaskRef::new), spawned there.
    ///
    /// # Safety
    /// As `new`.
    #[inline]
    pub(crate) unsafe fn new_at<F: FnOnce() -> T, T>(
        site: &'static Location<'static>,
        rare: Option<Box<Rare>>,
        f: F,
    ) -> (TaskRef, TaskRef) {
        let header = Header::new(&Typed::<F, T>::VTABLE, rare, site, 2);
        let header = Cell_::<F, T>::allocate(header, Stage { closure: ManuallyDrop::new(f) });
        // SAFETY: it was just made, with two references.
        trace::spawned(unsafe { header.as_ref() });
        (TaskRef(header), TaskRef(header))
    }

    /// The calling thread, as something that waits.
    pub(crate) fn thread() -> TaskRef {
        let thread = std::thread::current();
        let rare = Rare::with(thread.name().map(Box::from), None);
        let header = Header::new(&Typed::<fn(), ()>::VTABLE, rare, Location::caller(), 1);
        let task = TaskRef(Cell_::<fn(), ()>::allocate(header, Stage { nothing: () }));
        task.settle_on_thread(thread);
        task
    }

    pub(crate) fn as_ptr(&self) -> NonNull<Header> {
        self.0
    }

    /// Gives the pointer up without counting down.
    pub(crate) fn into_raw(self) -> NonNull<Header> {
        ManuallyDrop::new(self).0
    }

    /// Takes a reference over that was given up with [`into_raw`](TaskRef::into_raw).
    ///
    /// # Safety
    /// There is such a reference.
    pub(crate) unsafe fn from_raw(header: NonNull<Header>) -> TaskRef {
        TaskRef(header)
    }

    /// A new reference to a task that the caller knows to be alive.
    ///
    /// # Safety
    /// Some reference to it exists.
    pub(crate) unsafe fn from_alive(header: NonNull<Header>) -> TaskRef {
        let borrowed = ManuallyDrop::new(TaskRef(header));
        TaskRef::clone(&borrowed)
    }

    /// Runs the task's body.
    ///
    /// # Safety
    /// Called once for a task, on the thread that it is to live on, and never after `refuse`.
    pub(crate) unsafe fn run(&self) {
        // SAFETY: passed on to the caller.
        unsafe { Header::run(self.0) }
    }

    /// Ends a task that never started; its joiner gets `why` as if it were a panic's payload.
    ///
    /// # Safety
    /// It was not `run` and never will be.
    pub(crate) unsafe fn refuse(&self, why: Box<dyn Any + Send>) {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.refuse)(self.0, why) }
    }

    /// Takes the result out.
    ///
    /// # Safety
    /// The task has finished, its result is a `thread::Result<T>`, and nobody has taken it.
    pub(crate) unsafe fn take<T>(&self) -> std::thread::Result<T> {
        let mut result = std::mem::MaybeUninit::<std::thread::Result<T>>::uninit();
        // SAFETY: passed on to the caller; `take` writes the whole result.
        unsafe {
            (self.vtable.take)(self.0, result.as_mut_ptr().cast());
            result.assume_init()
        }
    }

    /// Drops the result.
    ///
    /// # Safety
    /// The task has finished, and nobody has taken the result.
    pub(crate) unsafe fn drop_result(&self) {
        // SAFETY: passed on to the caller.
        unsafe { (self.vtable.drop_result)(self.0) }
    }
}

impl Clone for TaskRef {
    fn clone(&self) -> TaskRef {
        let before = self.references.fetch_add(1, Ordering::Relaxed);
        // As `Arc`: a count that comes round would free what is in use.
        if before > isize::MAX as usize {
            std::process::abort();
        }
        TaskRef(self.0)
    }
}

impl Drop for TaskRef {
    #[inline]
    fn drop(&mut self) {
        // The last one need not write that it was: with no other reference nobody can make one. Acquire: what was done
        // with the others happened before.
        if self.references.load(Ordering::Acquire) != 1 {
            if self.references.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        // SAFETY: this was the last reference.
        unsafe { (self.vtable.free)(self.0) }
    }
}

impl std::ops::Deref for TaskRef {
    type Target = Header;
    fn deref(&self) -> &Header {
        // SAFETY: this reference keeps it alive, and nobody has it mutably.
        unsafe { self.0.as_ref() }
    }
}

impl Header {
    #[inline(always)]
    fn new(
        vtable: &'static VTable,
        rare: Option<Box<Rare>>,
        site: &'static Location<'static>,
        references: usize,
    ) -> Header {
        Header {
            references: AtomicUsize::new(references),
            vtable,
            home: AtomicPtr::new(ptr::null_mut()),
            next_mail: AtomicPtr::new(ptr::null_mut()),
            mailed: AtomicBool::new(false),
            signals: Signals::new(),
            join: JoinCell::new(),
            id: next_id(),
            site,
            rare: std::sync::atomic::AtomicPtr::new(rare.map_or(ptr::null_mut(), Box::into_raw)),
            local: Local {
                coroutine: UnsafeCell::new(None),
                yielder: Cell::new(ptr::null()),
                frame: Cell::new(ptr::null()),
                queued: Cell::new(false),
                finished: Cell::new(false),
                over: Cell::new(false),
                scope: Cell::new(ptr::null()),
                place: Cell::new(u32::MAX),
                ran: Cell::new(Instant::NEVER),
                waits_for: Cell::new(Why::NOTHING),
                spans: trace::Spans::default(),
            },
        }
    }

    /// Runs its body.
    ///
    /// # Safety
    /// As [`TaskRef::run`]; and it stays alive meanwhile.
    #[inline]
    pub(crate) unsafe fn run(this: NonNull<Header>) {
        // SAFETY: passed on to the caller.
        unsafe { (this.as_ref().vtable.run)(this) }
    }

    /// Whether it has started on a stack of its own. Asked on the thread that it runs on.
    pub(crate) fn has_stack(&self) -> bool {
        !self.local.yielder.get().is_null()
    }

    /// The addresses of its frames: its own stack, or for a thread all that there are. Asked on the thread that it runs on.
    pub(crate) fn stack(&self) -> Range<usize> {
        // The yielder lies at the base.
        let stack = self.has_stack().then(|| towpath_coro::stack_around(self.local.yielder.get().addr()));
        stack.flatten().unwrap_or(0..usize::MAX)
    }

    /// Whether the caller's frame lies on a stack of its own: who runs for it may do so on the worker's.
    pub(crate) fn is_on_its_stack(&self) -> bool {
        let here = 0u8;
        let here = (&raw const here).addr();
        let stack = self.has_stack().then(|| towpath_coro::stack_around(self.local.yielder.get().addr()));
        stack.flatten().is_some_and(|stack| stack.contains(&here))
    }

    fn rare(&self) -> &Rare {
        self.try_rare().unwrap_or_else(|| self.make_rare())
    }

    #[inline]
    fn try_rare(&self) -> Option<&Rare> {
        // SAFETY: null, or a box that goes with the header.
        unsafe { self.rare.load(Ordering::Acquire).as_ref() }
    }

    #[cold]
    fn make_rare(&self) -> &Rare {
        let made = Box::into_raw(Box::default());
        match self.rare.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it goes with the header from now on.
            Ok(_) => unsafe { &*made },
            Err(there) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: as in `try_rare`, and not null.
                unsafe { &*there }
            }
        }
    }

    fn outside(&self) -> Option<&Outside> {
        self.try_rare()?.outside.get()
    }

    /// Gives it the task-locals that it inherits. Before it is queued.
    #[inline]
    pub(crate) fn inherit(&self, locals: Option<Locals>) {
        if let Some(locals) = locals {
            self.rare().locals.fill(&locals);
        }
    }

    /// Its task-locals, `None` once they are gone. For the task itself.
    pub(crate) fn locals(&self) -> Option<&Locals> {
        if self.local.over.get() { None } else { Some(&self.rare().locals) }
    }

    /// Drops its task-locals. Afterwards it has none. For the task itself, or who refuses it.
    #[inline]
    fn end_locals(&self) {
        if let Some(rare) = self.try_rare() {
            rare.locals.end();
        }
        self.local.over.set(true);
    }

    /// Where it has panicked.
    pub(crate) fn sights(&self) -> &Sights {
        &self.rare().sights
    }

    /// Where the panic was that left this payload, if that was seen; then that is forgotten.
    pub(crate) fn sight_of(&self, payload: &(dyn Any + Send)) -> Option<Sight> {
        self.try_rare()?.sights.find(payload, Vec::remove)
    }

    /// Only where that was: file, line and column.
    #[cfg(feature = "tracing")]
    pub(crate) fn place_of(&self, payload: &(dyn Any + Send)) -> Option<Box<str>> {
        self.try_rare()?.sights.find(payload, |sights, which| sights[which].place.clone())?
    }

    /// Whether it has a home: it did not, if it was refused.
    pub(crate) fn has_started(&self) -> bool {
        !self.home.load(Ordering::Relaxed).is_null() || self.outside().is_some()
    }

    /// Makes the calling thread its home.
    pub(crate) fn settle_on_thread(&self, thread: Thread) {
        let settled = self.rare().outside.set(Outside { thread, remote: Mutex::new(None) });
        debug_assert!(settled.is_ok(), "a task starts once");
        self.signals.settle();
    }

    /// Gives it its home, for ever.
    #[inline]
    pub(crate) fn settle(&self, home: Arc<Mailbox>) {
        debug_assert!(self.home.load(Ordering::Relaxed).is_null(), "a task starts once");
        self.home.store(Arc::into_raw(home).cast_mut(), Ordering::Release);
        self.signals.settle();
    }

    /// Whether it has its home there.
    #[inline]
    pub(crate) fn lives_in(&self, mailbox: &Mailbox) -> bool {
        ptr::eq(self.home.load(Ordering::Relaxed), mailbox)
    }

    /// Before a thread waits for its loop: whatever wakes it from now on ends the wait, and what has come before is seen.
    pub(crate) fn waits_for(&self, loop_: &Loop) {
        if let Some(outside) = self.outside() {
            let mut remote = outside.remote.lock().unwrap_or_else(PoisonError::into_inner);
            if !remote.as_ref().is_some_and(|remote| remote.is_of(loop_)) {
                *remote = Some(loop_.remote());
            }
        }
    }

    /// Makes it run again, or keep running, to look at what has changed. From any thread.
    pub(crate) fn wake(&self) {
        if self.join.is_finished() {
            return;
        }
        if let Some(outside) = self.outside() {
            outside.thread.unpark();
            // Not called under the lock: a backend may be somebody else's.
            let remote = outside.remote.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(remote) = remote {
                remote.wake();
            }
            return;
        }
        let home = self.home.load(Ordering::Acquire);
        if !home.is_null() {
            // SAFETY: the header owns a count of the mailbox, from `settle` until it is freed itself.
            worker::wake(unsafe { &*home }, self);
        }
    }

    /// Cancels it.
    pub(crate) fn cancel(&self) {
        self.signals.cancel();
        self.wake();
    }

    /// Cancels it, and says why. If it is cancelled already the reason stays what it was.
    pub(crate) fn cancel_with(&self, reason: Option<Reason>) {
        if let Some(reason) = reason
            && !self.is_canceled()
        {
            // Of two at the same time one wins.
            let _ = self.rare().reason.set(reason);
        }
        self.cancel();
    }

    /// Why it is cancelled, if that was said.
    pub(crate) fn reason(&self) -> Option<&Reason> {
        self.try_rare()?.reason.get()
    }

    pub(crate) fn is_canceled(&self) -> bool {
        self.signals.is_canceled()
    }

    /// Gives it its park token.
    pub(crate) fn unpark(&self) {
        if self.signals.put_token() {
            self.wake();
        }
    }

    /// Takes the park token, if it is there.
    pub(crate) fn take_token(&self) -> bool {
        self.signals.take_token()
    }

    /// A new counted reference to it.
    pub(crate) fn to_ref(&self) -> TaskRef {
        // SAFETY: it is alive, being borrowed.
        unsafe { TaskRef::from_alive(NonNull::from(self)) }
    }

    /// Its name, if it was given one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.try_rare()?.name.as_deref()
    }

    /// The size of its stack, if it was given one.
    pub(crate) fn stack_size(&self) -> Option<usize> {
        self.try_rare()?.stack_size
    }

    /// Its name, or what stands for it.
    pub(crate) fn label(&self) -> String {
        match self.name() {
            Some(name) => name.to_string(),
            None => format!("task {}", self.id),
        }
    }
}

impl Local {
    /// Whether the task has ended, rather than been given up.
    pub(crate) fn coroutine_is_gone(&self) -> bool {
        // SAFETY: asked by its worker, outside of tasks.
        unsafe { (*self.coroutine.get()).is_none() }
    }
}

impl Drop for Header {
    #[inline]
    fn drop(&mut self) {
        let rare = *self.rare.get_mut();
        if !rare.is_null() {
            // SAFETY: the box that `rare` made, or that it was made with.
            drop(unsafe { Box::from_raw(rare) });
        }
        let home = self.home.load(Ordering::Relaxed);
        if !home.is_null() {
            // SAFETY: the count that `settle` put there.
            worker::leave(unsafe { Arc::from_raw(home) });
        }
    }
}

fn next_id() -> u64 {
    thread_local! {
        static IDS: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    }
    use std::sync::atomic::AtomicU64;
    static NEXT: AtomicU64 = AtomicU64::new(1);
    /// Taken by a thread at once, so that spawning does not contend for the counter.
    const BATCH: u64 = 1024;
    let take = |ids: &Cell<(u64, u64)>| {
        let (mut next, mut end) = ids.get();
        if next == end {
            next = NEXT.fetch_add(BATCH, std::sync::atomic::Ordering::Relaxed);
            end = next + BATCH;
        }
        ids.set((next + 1, end));
        next
    };
    IDS.with(take)
}
