//! The operations in flight: a slab of slots that never move.
//!
//! A kernel holds addresses into a slot (a message header, a socket address), so slots live in chunks that stay
//! where they are. A slot is named by index and generation; a name whose generation is over finds nothing. What to
//! do on completion lies in the slot as well, together with the operation's own data, so that beginning an operation
//! allocates nothing while the two fit [`INLINE`] words; what does not fit goes to a block that is used again.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::mem::{self, MaybeUninit};
use std::ptr::NonNull;

use crate::event_loop::Loop;
use crate::op::{Extent, Outcome, Part};
use crate::operation::{GroupRef, OpId, Request};
use crate::prefetch::prefetch;
use crate::timer::{Node, Nodes};
use crate::wait::Waiting;

/// Words of an operation and its callback that fit into a slot: a callback of four words, as promised, beside an
/// operation with a socket and a `Vec`.
const INLINE: usize = 12;
/// Room for an operation with a message header and an address, and a callback of the same size.
const BLOCK: Layout = match Layout::from_size_align(512, 16) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};
/// Blocks kept for the next operation that needs one.
const SPARE_BLOCKS: usize = 256;
const CHUNK: usize = 64;

/// Room for a payload in a slot. Only ever reached through raw pointers: the kernel, or an attempt at a system call,
/// uses addresses into it while the loop goes on using the slot beside it.
type Room = UnsafeCell<MaybeUninit<[u64; INLINE]>>;

/// What to do with a payload, for the types it was made of. The first two move it out of its place, free the slot, and only
/// then run code that is not ours, so that a panic there loses nothing.
pub(crate) struct PayloadType {
    /// Delivers the outcome to the callback.
    pub(crate) deliver: unsafe fn(*mut u8, &Loop, OpId, Outcome),
    /// Gives the outcome to the operation, which cleans up, and drops the callback.
    pub(crate) discard: unsafe fn(*mut u8, &Loop, OpId, Outcome),
    /// Of a stream: delivers a part, or drops it if the flag says so. The payload stays.
    pub(crate) part: Option<DeliverPart>,
}

/// Delivers a part, or drops it.
pub(crate) type DeliverPart = unsafe fn(*mut u8, &Loop, OpId, Part, bool);

/// Where the outcome of an operation goes.
#[derive(Clone, Copy)]
pub(crate) enum Sink {
    /// The slot is free, or being filled in.
    None,
    /// To a frame that is frozen until the outcome has been written to it.
    Waiting(NonNull<Waiting>),
    /// To the group that it is a member of.
    Member { group: GroupRef, index: u32 },
    /// To an operation and callback at `place`.
    Payload { kind: &'static PayloadType, place: NonNull<u8>, room: Owner },
}

/// Who owns the memory of a payload.
#[derive(Clone, Copy)]
pub(crate) enum Owner {
    /// The slot's own room.
    Slot,
    /// A block, to be used again.
    Block,
    /// An allocation of this layout.
    Heap(Layout),
}

/// One operation in flight.
pub(crate) struct Slot {
    pub(crate) generation: u32,
    /// The backend's word for it.
    pub(crate) word: u32,
    pub(crate) phase: Phase,
    pub(crate) flags: Flags,
    pub(crate) node: Node,
    pub(crate) request: Request,
    /// Bytes that an `all` transfer has moved so far.
    pub(crate) progress: usize,
    pub(crate) sink: Sink,
}

/// Where an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Nowhere: the slot is free.
    Free,
    /// Being filled in.
    Starting,
    /// A member of a group whose turn has not come: not begun, or with the backend as part of a chain.
    Linked,
    /// With the backend.
    Backend,
    /// With the loop: a timer, something external, or (result kept in `word`) accepting held back.
    Loop,
    /// With the blocking pool, or on the way to it. (In `word`, how often it has been interrupted.)
    Pool,
    /// Over, its completion is queued.
    Ready,
}

/// What was asked of an operation in flight.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Flags {
    /// The caller wants it cancelled.
    pub(crate) canceled: bool,
    /// Its deadline has passed.
    pub(crate) timed_out: bool,
    /// Nobody wants the outcome.
    pub(crate) removed: bool,
    /// How far it goes.
    pub(crate) extent: Extent,
    /// What the backend has is a poll; the operation itself is for the pool.
    pub(crate) polling: bool,
    /// Its completion is queued, and means that it has to wait some other way: it can still be cancelled.
    pub(crate) unfinished: bool,
    /// The pool has had it.
    pub(crate) pooled: bool,
    /// Does not keep the loop running.
    pub(crate) background: bool,
    /// Does not count for the limit on operations.
    pub(crate) uncounted: bool,
}

/// Why an operation is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    Canceled,
    TimedOut,
}

impl Flags {
    pub(crate) fn mark(&mut self, why: Why) {
        match why {
            Why::Canceled => self.canceled = true,
            Why::TimedOut => self.timed_out = true,
        }
    }

    /// Whether there are none. All are looked at, which is quicker than to stop at the first.
    #[inline]
    pub(crate) fn are_none(self) -> bool {
        let Flags {
            canceled,
            timed_out,
            removed,
            extent,
            polling,
            unfinished,
            pooled,
            background,
            uncounted,
        } = self;
        let any = canceled | timed_out | removed | polling | unfinished | pooled | background | uncounted;
        !any & (extent == Extent::default())
    }

    /// Whether its end was asked for.
    pub(crate) fn ended(self) -> bool {
        self.canceled || self.timed_out
    }
}

/// The slab.
#[derive(Default)]
pub(crate) struct Slots {
    chunks: Vec<Box<[Slot; CHUNK]>>,
    /// Beside each chunk, once one of its slots has a payload: frames that wait in place have none.
    rooms: Vec<Option<Box<[Room; CHUNK]>>>,
    /// The names that free slots will have.
    free: Vec<OpId>,
    spare_blocks: Vec<NonNull<u8>>,
    live: usize,
}

impl Nodes for Slots {
    fn prefetch(&self, index: u32) {
        let slot = &self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        prefetch(std::ptr::from_ref(slot).cast(), 2);
    }

    fn node(&mut self, index: u32) -> &mut Node {
        &mut self.at(index).node
    }
}

impl Slots {
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// The slot at `index`, whatever is in it.
    #[inline]
    pub(crate) fn at(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    /// The slot of an operation in flight; `None` if it is over.
    #[inline]
    pub(crate) fn get(&mut self, id: OpId) -> Option<&mut Slot> {
        let chunk = self.chunks.get_mut(id.index as usize / CHUNK)?;
        let slot = &mut chunk[id.index as usize % CHUNK];
        (slot.generation == id.generation && slot.phase != Phase::Free).then_some(slot)
    }

    /// What [`take`](Slots::take) would return now.
    #[inline]
    pub(crate) fn next(&mut self) -> OpId {
        if self.free.is_empty() {
            self.grow();
        }
        *self.free.last().expect("just grown")
    }

    /// Takes a free slot. The caller fills it in.
    #[inline]
    pub(crate) fn take(&mut self) -> OpId {
        let id = self.next();
        self.take_prepared(id).request = Request::Nop;
        id
    }

    /// Writes the request of the slot that is [`next`](Slots::next), which stays free.
    #[inline(always)]
    pub(crate) fn prepare(&mut self, id: OpId, request: Request) -> &mut Request {
        let slot = self.at(id.index);
        debug_assert_eq!(slot.phase, Phase::Free);
        slot.request = request;
        &mut slot.request
    }

    /// Takes the slot that is next, with the request that was written. The caller fills the rest in.
    #[inline(always)]
    pub(crate) fn take_prepared(&mut self, id: OpId) -> &mut Slot {
        let next = self.free.pop();
        debug_assert_eq!(next, Some(id));
        self.live += 1;
        let slot = self.at(id.index);
        debug_assert!(slot.phase == Phase::Free && slot.generation == id.generation);
        slot.phase = Phase::Starting;
        slot.flags = Flags::default();
        slot.word = 0;
        slot.progress = 0;
        slot
    }

    /// Frees a slot, whose sink has been taken out.
    #[inline]
    pub(crate) fn free(&mut self, id: OpId) {
        let slot = self.at(id.index);
        debug_assert!(slot.generation == id.generation && slot.phase != Phase::Free);
        debug_assert!(matches!(slot.sink, Sink::None));
        slot.phase = Phase::Free;
        // After 2^32 uses of one slot a generation comes round; an id kept for that long may name a stranger's
        // operation. Retiring the slot instead costs 200 bytes every four billion operations.
        slot.generation = slot.generation.wrapping_add(1);
        let next = OpId { index: id.index, generation: slot.generation };
        self.live -= 1;
        if next.generation != 0 {
            self.free.push(next);
        }
    }

    #[cold]
    fn grow(&mut self) {
        let first = u32::try_from(self.chunks.len() * CHUNK).expect("fewer than 2^32 operations");
        assert!(first < u32::MAX - CHUNK as u32, "fewer than 2^32 operations in flight");
        let chunk: Vec<Slot> = (0..CHUNK).map(|_| Slot::vacant()).collect();
        let chunk: Box<[Slot]> = chunk.into_boxed_slice();
        self.chunks.push(chunk.try_into().unwrap_or_else(|_| unreachable!("a chunk has CHUNK slots")));
        self.rooms.push(None);
        // Lowest first, so that a loop with few operations stays within few cache lines.
        self.free.extend((first..first + CHUNK as u32).rev().map(|index| OpId { index, generation: 0 }));
    }

    /// Puts an operation and its callback to the place that they keep until completion, and returns that place.
    #[inline]
    pub(crate) fn place<P>(&mut self, id: OpId, kind: &'static PayloadType, payload: P) -> NonNull<P> {
        let layout = Layout::new::<P>();
        let (place, room) = if size_of::<P>() <= size_of::<Room>() && align_of::<P>() <= align_of::<Room>() {
            let rooms = self.rooms[id.index as usize / CHUNK]
                .get_or_insert_with(|| Box::new([const { UnsafeCell::new(MaybeUninit::uninit()) }; CHUNK]));
            let room = &rooms[id.index as usize % CHUNK];
            // SAFETY: `UnsafeCell::get` of a reference is never null.
            (unsafe { NonNull::new_unchecked(room.get()) }.cast::<u8>(), Owner::Slot)
        } else if size_of::<P>() <= BLOCK.size() && align_of::<P>() <= BLOCK.align() {
            (self.spare_blocks.pop().unwrap_or_else(|| allocate(BLOCK)), Owner::Block)
        } else {
            (allocate(layout), Owner::Heap(layout))
        };
        let typed = place.cast::<P>();
        // SAFETY: `place` has the size and alignment of a `P` by the checks above, and is this slot's alone: its
        // own room is in use only while its sink says so, and the other two have just been taken.
        unsafe { typed.write(payload) };
        self.at(id.index).sink = Sink::Payload { kind, place, room };
        typed
    }

    /// Frees the slot, and the room of its payload, which has been moved out.
    #[inline]
    pub(crate) fn vacate(&mut self, id: OpId) {
        match mem::replace(&mut self.at(id.index).sink, Sink::None) {
            Sink::Payload { place, room: Owner::Block, .. } => {
                if self.spare_blocks.len() < SPARE_BLOCKS {
                    self.spare_blocks.push(place);
                } else {
                    // SAFETY: allocated with this layout in `place`, and moved out of.
                    unsafe { dealloc(place.as_ptr(), BLOCK) }
                }
            }
            // SAFETY: allocated with this layout in `place`, and moved out of. (No zero-sized payload gets here.)
            Sink::Payload { place, room: Owner::Heap(layout), .. } => unsafe {
                dealloc(place.as_ptr(), layout)
            },
            Sink::Payload { room: Owner::Slot, .. } | Sink::None | Sink::Waiting(_) | Sink::Member { .. } => {
            }
        }
        self.free(id);
    }

    /// The operations in flight for which `pred` holds.
    pub(crate) fn select(&mut self, mut pred: impl FnMut(&Slot) -> bool) -> Vec<OpId> {
        let mut found = Vec::new();
        for (c, chunk) in self.chunks.iter().enumerate() {
            for (s, slot) in chunk.iter().enumerate() {
                if slot.phase != Phase::Free && pred(slot) {
                    found.push(OpId { index: (c * CHUNK + s) as u32, generation: slot.generation });
                }
            }
        }
        found
    }

    /// Makes the next use of a slot one of a later generation.
    pub(crate) fn age_next(&mut self, generation: u32) {
        let OpId { index, .. } = self.next();
        self.at(index).generation = generation;
        self.free.last_mut().expect("just seen").generation = generation;
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: only called for payloads too large for a slot, so the size is not zero.
    let place = unsafe { alloc(layout) };
    NonNull::new(place).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Drop for Slots {
    fn drop(&mut self) {
        for block in self.spare_blocks.drain(..) {
            // SAFETY: spare blocks were allocated with this layout and hold nothing.
            unsafe { dealloc(block.as_ptr(), BLOCK) }
        }
    }
}

impl Slot {
    fn vacant() -> Slot {
        Slot {
            generation: 0,
            word: 0,
            phase: Phase::Free,
            flags: Flags::default(),
            node: Node::default(),
            request: Request::Nop,
            progress: 0,
            sink: Sink::None,
        }
    }
}
