//! Slabs: one mapping cut into equal slots, each a guard with a stack above it.
//!
//! ```text
//!   start                                                          start + slots * (guard + size)
//!   | guard | stack 0           | guard | stack 1           | ...  |
//!           ^ limit             ^ base
//! ```
//!
//! A slab lives as long as anything holds one of its slots: every [`Slot`] counts as a reference, whether it lies in a
//! pool, carries a coroutine on some thread, or was leaked with frames on it. The mapping goes with the last one.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::guard;
use crate::memory::{self, Mapping, Residency};
use crate::registry::{self, Layout, Name, Registration};

/// One mapping full of slots.
#[derive(Debug)]
pub(crate) struct Slab {
    // Declaration order is drop order: first the signal handler forgets the slab, then what it would have read goes.
    _registration: Registration,
    names: Box<[Name]>,
    mapping: Mapping,
    layout: Layout,
    guards: guard::Kind,
    /// Where slots go whose stack is dropped; `None` for a slab that serves one stack alone.
    home: Option<Arc<Inbox>>,
}

impl Slab {
    /// Reserves a slab of `slots` slots. No guard is installed yet: that is done slot by slot, by [`Slab::open`].
    pub(crate) fn new(
        layout: Layout,
        slots: u32,
        guards: guard::Kind,
        home: Option<Arc<Inbox>>,
    ) -> io::Result<Arc<Slab>> {
        let len = layout.slot().checked_mul(slots as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping::reserve(len)?;
        // SAFETY: all-zero bytes are a valid `Name`: integers in atomics. (Zeroed rather than written, so that a name
        // nobody sets costs no memory.)
        let names = unsafe { Box::<[Name]>::new_zeroed_slice(slots as usize).assume_init() };
        // The kernel's signal frame and the context switch deal in plain addresses from here on.
        let start = mapping.start().as_ptr().expose_provenance();
        let registration = registry::register(start, slots as usize, layout, names.as_ptr());
        Ok(Arc::new(Slab { _registration: registration, names, mapping, layout, guards, home }))
    }

    /// Number of slots, open or not.
    pub(crate) fn slots(&self) -> u32 {
        self.names.len() as u32
    }

    /// Bytes of address space.
    pub(crate) fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Which pages of stack `index` are in memory, whoever owns it.
    pub(crate) fn residency(&self, index: u32) -> Residency {
        assert!(index < self.slots(), "slot {index} of a slab of {}", self.slots());
        // SAFETY: `index < slots`, and the guard is the lower part of the slot.
        let limit =
            unsafe { self.mapping.start().add(index as usize * self.layout.slot() + self.layout.guard) };
        memory::residency(limit, self.layout.size)
    }

    /// Installs the guard of slot `index` and hands the slot out.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when the guard needs a mapping of its own and the process has none left. The slot stays closed.
    ///
    /// # Safety
    ///
    /// Each slot of a slab may be opened once.
    pub(crate) unsafe fn open(self: &Arc<Slab>, index: u32) -> io::Result<Slot> {
        assert!(index < self.slots(), "slot {index} of a slab of {}", self.slots());
        // SAFETY: `index < slots`, so that the offset is inside the mapping.
        let bottom = unsafe { self.mapping.start().add(index as usize * self.layout.slot()) };
        // SAFETY: whole pages (both numbers of a layout are) of a slot that nobody has yet, by the caller's promise.
        unsafe { guard::install(bottom, self.layout.guard, self.guards)? };
        Ok(Slot { slab: Arc::clone(self), index })
    }
}

/// Exclusive ownership of one slot, guard in place. Dropping it forgets the slot for good (it is used again only
/// through its pool), and unmaps the slab if it was the last.
#[derive(Debug)]
pub(crate) struct Slot {
    slab: Arc<Slab>,
    index: u32,
}

impl Slot {
    /// Lowest address of the guard.
    pub(crate) fn bottom(&self) -> NonNull<u8> {
        // SAFETY: `index < slots`, checked by `open`; the mapping is alive because `self.slab` is.
        unsafe { self.slab.mapping.start().add(self.index as usize * self.slab.layout.slot()) }
    }

    /// Lowest usable address.
    pub(crate) fn limit(&self) -> NonNull<u8> {
        // SAFETY: the guard is the lower part of the slot.
        unsafe { self.bottom().add(self.slab.layout.guard) }
    }

    /// One past the highest usable address: where the stack starts.
    pub(crate) fn base(&self) -> NonNull<u8> {
        // SAFETY: the end of the slot is at most one past the end of the mapping.
        unsafe { self.bottom().add(self.slab.layout.slot()) }
    }

    /// Guard and usable bytes.
    pub(crate) fn layout(&self) -> Layout {
        self.slab.layout
    }

    /// The name shown by an overflow message.
    pub(crate) fn name(&self) -> &Name {
        &self.slab.names[self.index as usize]
    }

    /// Which of its pages are in memory.
    pub(crate) fn residency(&self) -> Residency {
        self.slab.residency(self.index)
    }

    /// Gives its memory back to the kernel; the address space stays.
    pub(crate) fn discard(&mut self) {
        // SAFETY: whole pages of the slab's mapping. `&mut` of the owner of the slot: no frame is on it, for a
        // coroutine that has frames never lends its stack out mutably.
        unsafe { memory::discard(self.limit(), self.slab.layout.size) }
    }

    /// Whether it was cut for the pool that owns `inbox`.
    pub(crate) fn belongs_to(&self, inbox: &Arc<Inbox>) -> bool {
        self.slab.home.as_ref().is_some_and(|home| Arc::ptr_eq(home, inbox))
    }

    /// Sends it back to the pool it was cut for, if that still exists.
    #[cold]
    pub(crate) fn go_home(self) {
        if let Some(home) = self.slab.home.clone() {
            home.post(self);
        }
    }
}

/// Where a pool finds the stacks that were dropped elsewhere: on another thread, or without thinking of the pool.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// `None` once the pool is gone.
    slots: Mutex<Option<Vec<Slot>>>,
    /// How many are in there: lets the owner look without locking. `Relaxed`: a hint, the lock orders the rest.
    waiting: AtomicUsize,
}

impl Inbox {
    /// An inbox that takes slots.
    pub(crate) fn open() -> Arc<Inbox> {
        Arc::new(Inbox { slots: Mutex::new(Some(Vec::new())), waiting: AtomicUsize::new(0) })
    }

    fn post(&self, slot: Slot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *slots {
            Some(waiting) => {
                waiting.push(slot);
                self.waiting.store(waiting.len(), Ordering::Relaxed);
            }
            // Its last reference may take the slab along: not under the lock.
            None => {
                drop(slots);
                drop(slot);
            }
        }
    }

    /// How many slots wait, give or take those that are just arriving.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Moves all that is there to the end of `to`, which must have the room (an allocation failure would lose them).
    pub(crate) fn drain_into(&self, to: &mut Vec<Slot>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = &mut *slots {
            to.append(waiting);
        }
        self.waiting.store(0, Ordering::Relaxed);
    }

    /// Takes no more from now on, and frees what it had.
    pub(crate) fn close(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(slots);
    }
}
