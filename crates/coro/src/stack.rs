//! A stack: the exclusive right to one slot of a slab.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;

use crate::guard;
use crate::memory;
use crate::overflow;
use crate::registry::Layout;
use crate::slab::{Slab, Slot};

/// The smallest stack that is handed out, in bytes: smaller requests are rounded up to it.
///
/// It leaves room for a `println!` and for a signal frame with the widest vector registers. A panic that prints a
/// backtrace needs twice as much.
pub const MIN_STACK_SIZE: usize = 16 * 1024;

/// The stack size a [`Config`](crate::Config) starts with, in bytes.
///
/// It is address space, not memory: a coroutine that uses one page of it occupies one page.
pub const DEFAULT_STACK_SIZE: usize = 256 * 1024;

/// The guard below each stack, in bytes, unless configured otherwise.
///
/// One page would do for Rust code, which touches every page of a large frame in turn. C code is often compiled
/// without such probes and can step over a small guard.
pub const DEFAULT_GUARD_SIZE: usize = 64 * 1024;

/// Memory for a coroutine to run on, with a guard below it.
///
/// It comes from a [`StackPool`](crate::StackPool) or from [`Stack::new`]. Dropping it is always sound, on any thread:
/// a pool's stack finds its way back to its pool, others are unmapped. Giving it to its pool by
/// [`give`](crate::StackPool::give) is cheaper.
///
/// The memory is not cleared between uses.
///
/// ```
/// use towpath_coro::Stack;
///
/// let stack = Stack::new(64 * 1024)?;
/// assert_eq!(stack.size(), 64 * 1024);
/// assert_eq!(stack.base() - stack.limit(), 64 * 1024);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Stack {
    /// Taken out by `into_slot` and by `drop`, and at no other time.
    slot: ManuallyDrop<Slot>,
}

impl Stack {
    /// Maps a stack of its own, outside any pool, with a guard of [`DEFAULT_GUARD_SIZE`].
    ///
    /// `size` is in bytes, rounded up to whole pages and to at least [`MIN_STACK_SIZE`]. Costs a few system calls and
    /// a mapping; a [`StackPool`](crate::StackPool) is the way to have many. Installs the overflow handler, as
    /// [`overflow::install`] does.
    ///
    /// # Errors
    ///
    /// What `mmap`, `mprotect` and `sigaltstack` say, `ENOMEM` as a rule; [`io::ErrorKind::OutOfMemory`] if `size` is
    /// beyond the address space.
    pub fn new(size: usize) -> io::Result<Stack> {
        overflow::install()?;
        let layout = layout(size, DEFAULT_GUARD_SIZE).ok_or(io::ErrorKind::OutOfMemory)?;
        let slab = Slab::new(layout, 1, guard::Kind::Best, None)?;
        // SAFETY: the only slot of a new slab, opened once.
        let slot = unsafe { slab.open(0)? };
        Ok(Stack::from_slot(slot))
    }

    #[inline]
    pub(crate) fn from_slot(slot: Slot) -> Stack {
        Stack { slot: ManuallyDrop::new(slot) }
    }

    #[inline]
    pub(crate) fn into_slot(self) -> Slot {
        let mut stack = ManuallyDrop::new(self);
        stack.slot.name().clear();
        // SAFETY: `stack` is not used or dropped afterwards, so that the slot has one owner.
        unsafe { ManuallyDrop::take(&mut stack.slot) }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The lowest usable address. The guard lies below it.
    pub fn limit(&self) -> usize {
        self.slot.limit().addr().get()
    }

    /// One past the highest usable address: where the stack starts, growing downwards. A multiple of the page size.
    pub fn base(&self) -> usize {
        self.slot.base().addr().get()
    }

    /// Usable bytes between [`limit`](Stack::limit) and [`base`](Stack::base).
    pub fn size(&self) -> usize {
        self.slot.layout().size
    }

    /// Bytes of guard below [`limit`](Stack::limit).
    pub fn guard_size(&self) -> usize {
        self.slot.layout().guard
    }

    /// How deep this stack has been used since it was mapped or last trimmed, in bytes.
    ///
    /// Counted in whole pages, from the lowest one that is resident: one byte used counts as a page. Pages that the
    /// system has swapped out do not count. A stack from a pool remembers earlier users, unless
    /// [trimmed](Stack::trim). One or more system calls (`mincore`). Always 0 on systems other than Linux.
    pub fn high_water(&self) -> usize {
        self.slot.residency().high_water
    }

    /// Gives the memory back to the system; the addresses and the guard stay. The next use starts from zeroed pages.
    ///
    /// Best effort: memory locked by `mlock` stays. One system call.
    pub fn trim(&mut self) {
        self.slot.discard();
    }

    /// Names the stack for the overflow message: up to 32 bytes, longer names are cut, the empty name means none.
    ///
    /// Names do not survive a return to the pool.
    pub fn set_name(&mut self, name: &str) {
        self.slot.name().set(name);
    }
}

/// Rounds a stack and its guard to what is possible; `None` if that is more than there are addresses.
pub(crate) fn layout(size: usize, guard: usize) -> Option<Layout> {
    let size = memory::round_to_pages(size.max(MIN_STACK_SIZE))?;
    let guard = memory::round_to_pages(guard.max(1))?;
    // No object is larger than `isize::MAX`: pointer arithmetic relies on it.
    let slot = size.checked_add(guard)?;
    (isize::try_from(slot).is_ok()).then_some(Layout { guard, size })
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.slot.name().clear();
        // SAFETY: `drop` runs once, and nothing uses the field after it.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        slot.go_home();
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("base", &format_args!("{:#x}", self.base()))
            .field("size", &self.size())
            .field("guard_size", &self.guard_size())
            .finish()
    }
}

/// The addresses of a stack, as `corosensei` wants them. The coroutine that holds one also holds the [`Stack`].
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    base: NonZeroUsize,
    bottom: NonZeroUsize,
}

impl Extent {
    /// # Safety
    ///
    /// Nothing may use the extent after `stack` is moved to another owner or dropped.
    pub(crate) unsafe fn of(stack: &Stack) -> Extent {
        Extent { base: stack.slot.base().addr(), bottom: stack.slot.bottom().addr() }
    }
}

// SAFETY: from `Stack`: an open slot has its guard in place; its usable part is at least `MIN_STACK_SIZE`, more than
// corosensei asks for; both ends are multiples of the page size, which every stack alignment divides. That the memory
// stays for as long as the extent is used is the promise made to `Extent::of`.
unsafe impl corosensei::stack::Stack for Extent {
    #[inline]
    fn base(&self) -> NonZeroUsize {
        self.base
    }

    #[inline]
    fn limit(&self) -> NonZeroUsize {
        self.bottom
    }
}

const _: () = assert!(MIN_STACK_SIZE >= corosensei::stack::MIN_STACK_SIZE);
