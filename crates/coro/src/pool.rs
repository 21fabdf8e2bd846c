//! A pool of equal stacks for one thread: address space in slabs, memory kept warm and given back in time.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::guard;
use crate::memory::Residency;
use crate::overflow;
use crate::registry::Layout;
use crate::slab::{Inbox, Slab, Slot};
use crate::stack::{DEFAULT_GUARD_SIZE, DEFAULT_STACK_SIZE, Stack, layout};

/// What a [`StackPool`]'s stacks are like, and how it grows.
///
/// ```
/// use towpath_coro::{Config, StackPool};
///
/// let pool = StackPool::new(Config::new().stack_size(64 * 1024))?;
/// assert_eq!(pool.stack_size(), 64 * 1024);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    stack_size: usize,
    guard_size: usize,
    first_slab: u32,
    largest_slab: u32,
    guards: guard::Kind,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            stack_size: DEFAULT_STACK_SIZE,
            guard_size: DEFAULT_GUARD_SIZE,
            first_slab: 16,
            largest_slab: 4096,
            guards: guard::Kind::Best,
        }
    }
}

impl Config {
    /// Stacks of [`DEFAULT_STACK_SIZE`] over guards of [`DEFAULT_GUARD_SIZE`], in slabs of 16 to 4096.
    pub fn new() -> Config {
        Config::default()
    }

    /// Usable bytes of each stack, rounded up to whole pages and to at least [`MIN_STACK_SIZE`](crate::MIN_STACK_SIZE).
    pub fn stack_size(mut self, bytes: usize) -> Config {
        self.stack_size = bytes;
        self
    }

    /// Bytes of guard below each stack, rounded up to whole pages and to at least one.
    ///
    /// Keep it large if coroutines call C code, which may step over a small one.
    pub fn guard_size(mut self, bytes: usize) -> Config {
        self.guard_size = bytes;
        self
    }

    /// How many stacks the first slab has, and how many the largest; each slab has twice as many as the one before.
    /// Both are at least 1.
    pub fn slab_stacks(mut self, first: u32, largest: u32) -> Config {
        self.first_slab = first.max(1);
        self.largest_slab = largest.max(self.first_slab);
        self
    }

    /// Makes guards by `mprotect` even where the kernel has a cheaper way. Each stack then needs two mappings of the
    /// process's `vm.max_map_count`. For tools that cannot cope with `MADV_GUARD_INSTALL`, and for tests.
    pub fn mprotect_guards(mut self, yes: bool) -> Config {
        self.guards = if yes { guard::Kind::Mprotect } else { guard::Kind::Best };
        self
    }
}

/// Counts of a [`StackPool`], from [`StackPool::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Slabs, each one mapping.
    pub slabs: usize,
    /// Stacks there is address space for.
    pub reserved: usize,
    /// Address space of all slabs, in bytes, guards included.
    pub reserved_bytes: usize,
    /// Stacks that were taken and have not come back. Leaked ones count.
    pub live: usize,
    /// Stacks that were used before and are ready to be taken.
    pub free: usize,
}

/// Memory of a [`StackPool`], from [`StackPool::usage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Bytes of physical memory in the stacks, live and free.
    pub resident_bytes: usize,
    /// The deepest that any of the stacks has been used, in bytes, whole pages. See [`Stack::high_water`].
    pub high_water: usize,
}

/// Equal stacks for the coroutines of one thread.
///
/// [`take`](StackPool::take) and [`give`](StackPool::give) make no system call and allocate nothing while there are
/// free stacks, and hand out the one given back last, which is the one still in the cache. When there are none, the
/// pool reserves a slab of address space, twice as large each time.
///
/// A pool belongs to one thread at a time. Its stacks may go anywhere and outlive it: one that is dropped elsewhere
/// comes back by itself, and the last stack of a slab unmaps it.
///
/// ```
/// use towpath_coro::{Config, Coroutine, StackPool, State};
///
/// let mut pool = StackPool::new(Config::default())?;
/// let mut hello = Coroutine::<(), (), &str>::new(pool.take()?, |_, ()| "hello");
/// assert!(matches!(hello.resume(()), State::Finished(Ok("hello"))));
/// pool.give(hello.into_stack());
/// assert_eq!(pool.stats().free, 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct StackPool {
    layout: Layout,
    guards: guard::Kind,
    largest_slab: u32,
    /// Slots of the next slab.
    next_slab: u32,

    /// Last in, first out. Its capacity is kept at no less than `reserved`, so that `give` never allocates.
    free: Vec<Slot>,
    /// The shortest `free` has been since the last [`decay`](StackPool::decay): what lies below was not needed.
    idle: usize,
    /// How many slots at the bottom of `free` hold no memory. Counts only up to `idle`; see `decay`.
    trimmed: usize,

    slabs: Vec<Arc<Slab>>,
    /// Opened slots of the newest slab. All older slabs are open to the last slot.
    opened_in_last: u32,
    /// Slots in all slabs.
    reserved: usize,
    /// Opened slots in all slabs.
    opened: usize,

    /// Where dropped stacks arrive.
    inbox: Arc<Inbox>,
    /// `Send`, but not `Sync`.
    not_sync: PhantomData<Cell<()>>,
}

impl StackPool {
    /// A pool without any stack yet. Installs the overflow handler, as [`overflow::install`] does.
    ///
    /// # Errors
    ///
    /// Those of [`overflow::install`]; [`io::ErrorKind::OutOfMemory`] if the sizes are beyond the address space.
    pub fn new(config: Config) -> io::Result<StackPool> {
        overflow::install()?;
        Ok(StackPool {
            layout: layout(config.stack_size, config.guard_size).ok_or(io::ErrorKind::OutOfMemory)?,
            guards: config.guards,
            largest_slab: config.largest_slab,
            next_slab: config.first_slab,
            free: Vec::new(),
            idle: 0,
            trimmed: 0,
            slabs: Vec::new(),
            opened_in_last: 0,
            reserved: 0,
            opened: 0,
            inbox: Inbox::open(),
            not_sync: PhantomData,
        })
    }

    /// Usable bytes of each stack.
    pub fn stack_size(&self) -> usize {
        self.layout.size
    }

    /// A stack: the one given back last, or else a new one.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when a new stack is needed and the system has no address space (`RLIMIT_AS`) or no mapping
    /// (`vm.max_map_count`) for it. Nothing is lost, and the pool works on: with the stacks that come back, and with
    /// new ones as soon as the system has room.
    #[inline]
    pub fn take(&mut self) -> io::Result<Stack> {
        if let Some(slot) = self.free.pop() {
            self.idle = self.idle.min(self.free.len());
            return Ok(Stack::from_slot(slot));
        }
        self.take_cold()
    }

    #[cold]
    fn take_cold(&mut self) -> io::Result<Stack> {
        self.idle = 0;
        if self.inbox.waiting() > 0 {
            self.inbox.drain_into(&mut self.free);
            if let Some(slot) = self.free.pop() {
                return Ok(Stack::from_slot(slot));
            }
        }
        self.open_slot().map(Stack::from_slot)
    }

    /// Takes a stack back. One that is not this pool's goes where it belongs, as if dropped.
    #[inline]
    pub fn give(&mut self, stack: Stack) {
        if stack.slot().belongs_to(&self.inbox) {
            debug_assert!(self.free.len() < self.free.capacity());
            self.free.push(stack.into_slot());
        }
    }

    /// Makes sure that the next `stacks` calls of [`take`](StackPool::take) make no system call, and take no page fault
    /// for the first page of the stack.
    ///
    /// # Errors
    ///
    /// As [`take`](StackPool::take). What was prepared until then stays.
    pub fn prewarm(&mut self, stacks: usize) -> io::Result<()> {
        self.collect();
        let missing = stacks.saturating_sub(self.free.len());
        // Below those that are free already: they are warm, and shall be taken first.
        let warm = self.free.len();
        let mut result = Ok(());
        for _ in 0..missing {
            match self.open_slot() {
                Ok(slot) => self.free.push(slot),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for slot in &self.free {
            // SAFETY: the last byte of a free slot: mapped, writable, used by nobody, and not worth keeping.
            unsafe { slot.base().sub(1).write_volatile(0) };
        }
        self.free.rotate_left(warm);
        self.idle = 0;
        self.trimmed = 0;
        result
    }

    /// Gives back the memory of free stacks that were not needed since the last call; returns how many those are.
    ///
    /// Call it once per interval: a stack is trimmed after it has lain idle for one whole interval, and costs a page
    /// fault when it is used again. What is needed regularly stays warm. One system call per stack trimmed; the address
    /// space is kept.
    pub fn decay(&mut self) -> usize {
        self.collect();
        // `free` is a stack itself: the lowest `idle` of it were touched by nobody, those below `trimmed` have
        // nothing to give.
        let trimmed = self.trimmed.min(self.idle);
        for slot in &mut self.free[trimmed..self.idle] {
            slot.discard();
        }
        let count = self.idle - trimmed;
        self.trimmed = self.idle;
        self.idle = self.free.len();
        count
    }

    /// Stacks that were ever taken or prepared: those that are out, leaked ones among them, and those that are free. What
    /// [`stats`](StackPool::stats) has as `live` and `free` together, for less.
    #[inline]
    pub fn opened(&self) -> usize {
        self.opened
    }

    /// Counts. Cheap.
    pub fn stats(&self) -> Stats {
        let free = self.free.len() + self.inbox.waiting();
        Stats {
            slabs: self.slabs.len(),
            reserved: self.reserved,
            reserved_bytes: self.slabs.iter().map(|slab| slab.len()).sum(),
            live: self.opened.saturating_sub(free),
            free,
        }
    }

    /// What the stacks occupy now, live and free: asks the kernel about every page, which takes about a microsecond per
    /// stack. Both numbers are 0 on systems other than Linux.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let newest = self.slabs.len().saturating_sub(1);
        for (index, slab) in self.slabs.iter().enumerate() {
            let opened = if index == newest { self.opened_in_last } else { slab.slots() };
            for slot in 0..opened {
                let Residency { high_water, resident } = slab.residency(slot);
                usage.resident_bytes += resident;
                usage.high_water = usage.high_water.max(high_water);
            }
        }
        usage
    }

    /// Puts what was dropped elsewhere under what is free here.
    fn collect(&mut self) {
        if self.inbox.waiting() > 0 {
            let before = self.free.len();
            self.inbox.drain_into(&mut self.free);
            // They count as used just now; but their place at the bottom is what `decay` goes by.
            self.free.rotate_left(before);
            self.idle = 0;
            self.trimmed = 0;
        }
    }

    /// A slot that was never used, from the newest slab or a new one.
    fn open_slot(&mut self) -> io::Result<Slot> {
        if self.slabs.last().is_none_or(|slab| self.opened_in_last == slab.slots()) {
            self.grow()?;
        }
        let slab = self.slabs.last().expect("a pool that grew has a slab");
        // SAFETY: slots of the newest slab are opened in order, each once: the counter moves on with every success.
        // (A slot whose guard failed is still closed and is tried again.)
        let slot = unsafe { slab.open(self.opened_in_last)? };
        self.opened_in_last += 1;
        self.opened += 1;
        Ok(slot)
    }

    /// Reserves one more slab, a smaller one if the system has no room for a large one.
    fn grow(&mut self) -> io::Result<()> {
        let mut slots = self.next_slab;
        loop {
            let total = self.reserved + slots as usize;
            let room = self.free.try_reserve_exact(total.saturating_sub(self.free.len()));
            let slab = match room {
                Ok(()) => Slab::new(self.layout, slots, self.guards, Some(Arc::clone(&self.inbox))),
                Err(_) => Err(io::ErrorKind::OutOfMemory.into()),
            };
            match slab {
                Ok(slab) => {
                    self.slabs.push(slab);
                    self.opened_in_last = 0;
                    self.reserved = total;
                    // From what was possible: after a refusal the next step is a modest one.
                    self.next_slab = slots.saturating_mul(2).min(self.largest_slab);
                    return Ok(());
                }
                Err(error) if slots == 1 => return Err(error),
                Err(_) => slots = (slots / 4).max(1),
            }
        }
    }
}

impl Drop for StackPool {
    fn drop(&mut self) {
        // Stacks that are still out keep their slab; from now on they free it themselves.
        self.inbox.close();
    }
}
