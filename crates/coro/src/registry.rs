//! The registry of slabs: finds the stack whose guard an address lies in, from inside a signal handler.
//!
//! A handler may not lock, allocate, or trust thread-locals. So slabs are entered in an append-only list of chunks that
//! is never freed; entries are reused under a lock, and each carries a sequence number (odd while it is being changed)
//! by which a reader tells a torn entry from a whole one. An entry that is being changed belongs to a slab that is just
//! coming or going: nothing can be running on it, so that a reader may skip it.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// The longest name kept, in bytes; longer ones are cut at a character boundary.
pub(crate) const NAME_MAX: usize = 32;

/// A stack's name, as the handler can read it: atomics, because a wild access to a guard from another thread makes the
/// handler read it while its owner writes. The worst it can see is a mixture of two names.
#[derive(Debug, Default)]
pub(crate) struct Name {
    words: [AtomicU64; NAME_MAX / 8],
    len: AtomicU8,
}

impl Name {
    /// Replaces the name; an empty one means unnamed.
    pub(crate) fn set(&self, name: &str) {
        let name = &name.as_bytes()[..name.floor_char_boundary(NAME_MAX)];
        let mut bytes = [0; NAME_MAX];
        bytes[..name.len()].copy_from_slice(name);
        let (words, _) = bytes.as_chunks::<8>();
        for (word, bytes) in self.words.iter().zip(words) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        self.len.store(name.len() as u8, Ordering::Relaxed);
    }

    /// Makes it unnamed again.
    #[inline]
    pub(crate) fn clear(&self) {
        // Unnamed as a rule: the page the names are in then never has to be made.
        if self.len.load(Ordering::Relaxed) != 0 {
            self.len.store(0, Ordering::Relaxed);
        }
    }

    /// The bytes and how many of them count. Async-signal-safe.
    pub(crate) fn get(&self) -> ([u8; NAME_MAX], usize) {
        let mut bytes = [0; NAME_MAX];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, bytes) in self.words.iter().zip(words) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        (bytes, usize::from(self.len.load(Ordering::Relaxed)).min(NAME_MAX))
    }
}

/// How a slab is cut: equal slots, each a guard below a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Inaccessible bytes at the bottom of each slot.
    pub(crate) guard: usize,
    /// Usable bytes above them.
    pub(crate) size: usize,
}

impl Layout {
    /// Bytes from one slot to the next. [`Layout`]s are made only where this sum has been checked.
    pub(crate) fn slot(self) -> usize {
        self.guard + self.size
    }
}

/// What the handler needs to know of one slab. All zero means no slab.
#[derive(Debug, Default)]
struct Entry {
    /// Odd while the rest is being changed.
    sequence: AtomicUsize,
    start: AtomicUsize,
    slots: AtomicUsize,
    guard: AtomicUsize,
    size: AtomicUsize,
    names: AtomicPtr<Name>,
}

impl Entry {
    /// Writes the entry. The caller is its only writer: it was handed out by [`register`] and not given back.
    fn write(&self, start: usize, slots: usize, layout: Layout, names: *const Name) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Readers that see any of the stores below see the odd number too (it pairs with their fence).
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.slots.store(slots, Ordering::Relaxed);
        self.guard.store(layout.guard, Ordering::Relaxed);
        self.size.store(layout.size, Ordering::Relaxed);
        self.names.store(names.cast_mut(), Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The stack whose guard `address` lies in, if it is in this slab.
    fn find(&self, address: usize) -> Option<Hit> {
        self.slot(address).filter(|hit| address < hit.base - hit.size)
    }

    /// The stack in whose slot `address` lies, guard and all, if it is in this slab.
    fn slot(&self, address: usize) -> Option<Hit> {
        let sequence = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let slots = self.slots.load(Ordering::Relaxed);
        let layout =
            Layout { guard: self.guard.load(Ordering::Relaxed), size: self.size.load(Ordering::Relaxed) };
        let names = self.names.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if !sequence.is_multiple_of(2) || self.sequence.load(Ordering::Relaxed) != sequence || slots == 0 {
            return None;
        }
        let offset = address.checked_sub(start)?;
        let index = offset / layout.slot();
        if index >= slots {
            return None;
        }
        let bottom = start + index * layout.slot();
        Some(Hit { bottom, base: bottom + layout.slot(), size: layout.size, name: names.wrapping_add(index) })
    }
}

/// A stack, as found by an address.
#[derive(Debug)]
pub(crate) struct Hit {
    /// Lowest address of the guard.
    pub(crate) bottom: usize,
    /// Where the stack starts (its highest address).
    pub(crate) base: usize,
    /// Usable bytes.
    pub(crate) size: usize,
    /// Valid as long as the stack's slab is.
    pub(crate) name: *const Name,
}

/// Entries come in chunks that live for ever, so that readers need no protection.
struct Chunk {
    entries: [Entry; 32],
    next: *const Chunk,
}

/// The newest chunk; the others hang off it. Written under the lock of `VACANT` only.
static CHUNKS: AtomicPtr<Chunk> = AtomicPtr::new(ptr::null_mut());

/// Entries that no slab uses.
static VACANT: Mutex<Vec<&'static Entry>> = Mutex::new(Vec::new());

/// A slab's place in the registry; dropping it takes the slab out.
#[derive(Debug)]
pub(crate) struct Registration(&'static Entry);

/// Enters a slab of `slots` slots at `start`. `names` has one element a slot and outlives the registration.
pub(crate) fn register(start: usize, slots: usize, layout: Layout, names: *const Name) -> Registration {
    let mut vacant = VACANT.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = vacant.pop().unwrap_or_else(|| {
        let next = CHUNKS.load(Ordering::Relaxed);
        let chunk: &'static mut Chunk = Box::leak(Box::new(Chunk { entries: Default::default(), next }));
        let chunk: &'static Chunk = chunk;
        CHUNKS.store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
        vacant.extend(&chunk.entries);
        vacant.pop().expect("a chunk has entries")
    });
    drop(vacant);
    entry.write(start, slots, layout, names);
    Registration(entry)
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.write(0, 0, Layout { guard: 0, size: 0 }, ptr::null());
        VACANT.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// The stack whose guard `address` lies in. Async-signal-safe: atomic loads only.
pub(crate) fn find(address: usize) -> Option<Hit> {
    search(|entry| entry.find(address))
}

/// The usable part of the stack that `address` lies in: from its lowest address to one past its highest. Of any coroutine of
/// this process; `None` for all other addresses, guards among them.
///
/// Async-signal-safe: a signal handler may ask for the stack that it has interrupted. The answer holds for as long as the
/// stack is there, which that one is.
///
/// ```
/// let stack = towpath_coro::Stack::new(64 * 1024)?;
/// let found = towpath_coro::stack_around(stack.limit() + 100).unwrap();
/// assert_eq!(found, stack.limit()..stack.base());
/// assert_eq!(towpath_coro::stack_around(stack.limit() - 1), None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn stack_around(address: usize) -> Option<Range<usize>> {
    let hit = search(|entry| entry.slot(address))?;
    let limit = hit.base - hit.size;
    (address >= limit).then_some(limit..hit.base)
}

fn search(mut look: impl FnMut(&Entry) -> Option<Hit>) -> Option<Hit> {
    let mut next: *const Chunk = CHUNKS.load(Ordering::Acquire);
    // SAFETY: chunks are leaked before they are linked, and never freed or changed but through atomics.
    while let Some(chunk) = unsafe { next.as_ref() } {
        if let Some(hit) = chunk.entries.iter().find_map(&mut look) {
            return Some(hit);
        }
        next = chunk.next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_guards_and_nothing_else() {
        let names: Vec<Name> = (0..3).map(|_| Name::default()).collect();
        let layout = Layout { guard: 0x1000, size: 0x4000 };
        // Addresses no slab of another test can have.
        let start = usize::MAX / 2;
        let registration = register(start, 3, layout, names.as_ptr());
        for (index, name) in names.iter().enumerate() {
            let bottom = start + index * 0x5000;
            for address in [bottom, bottom + 0xfff] {
                let hit = find(address).unwrap();
                assert_eq!((hit.bottom, hit.base, hit.size), (bottom, bottom + 0x5000, 0x4000));
                assert_eq!(hit.name, &raw const *name);
            }
            assert!(find(bottom + 0x1000).is_none());
            assert!(find(bottom + 0x4fff).is_none());
        }
        assert!(find(start - 1).is_none());
        assert!(find(start + 3 * 0x5000).is_none());
        drop(registration);
        assert!(find(start).is_none());
    }

    #[test]
    fn readers_never_see_a_torn_entry() {
        let layouts = [Layout { guard: 0x1000, size: 0x1000 }, Layout { guard: 0x9000, size: 0x7000 }];
        let starts = [usize::MAX / 4, usize::MAX / 4 - 0x1_0000];
        let names = [Name::default(), Name::default()];
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while seen < 20_000 {
                    // In the guard of both slabs, at different places.
                    if let Some(hit) = find(usize::MAX / 4) {
                        let is = |i: usize| {
                            hit.size == layouts[i].size && hit.base - hit.bottom == layouts[i].slot()
                        };
                        assert!(is(0) && hit.bottom == starts[0] || is(1) && hit.bottom > starts[1]);
                        seen += 1;
                    }
                }
            });
            while !reader.is_finished() {
                for i in 0..2 {
                    drop(register(starts[i], i + 1, layouts[i], &raw const names[i]));
                }
            }
            reader.join().unwrap();
        });
    }

    #[test]
    fn names_are_cut_at_a_character() {
        let name = Name::default();
        assert_eq!(name.get().1, 0);
        name.set(&"é".repeat(40));
        let (bytes, len) = name.get();
        assert_eq!(&bytes[..len], "é".repeat(16).as_bytes());
        name.set(&format!("x{}", "é".repeat(40)));
        assert_eq!(name.get().1, 31);
        name.clear();
        assert_eq!(name.get().1, 0);
    }
}
