//! What is remembered about each descriptor, and the lists of what waits for it.
//!
//! The lists are doubly linked through a slab of nodes, by 32-bit indices: taking one out of the middle is O(1), and
//! nothing is allocated for an operation once the slab has grown to the load.

use super::{IN, OUT, PRI};
use crate::operation::{Direction, OpId, Request};

/// The end of a list.
const NONE: u32 = u32::MAX;

/// From how many nodes on the slab's memory is given back once it is empty.
const KEEP: usize = 4096;

/// Which of a descriptor's lists an operation waits in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waits {
    /// In line for reading.
    Read,
    /// In line for writing.
    Write,
    /// For itself, in no order.
    Loose,
}

/// All of a descriptor's lists.
pub(super) const LISTS: [Waits; 3] = [Waits::Read, Waits::Write, Waits::Loose];

impl Waits {
    /// Where a request waits; `None` if it never does.
    #[inline]
    pub(super) fn of(request: &Request) -> Option<Waits> {
        const APART: i32 = libc::MSG_OOB | libc::MSG_ERRQUEUE;
        match request {
            Request::Poll { .. } => Some(Waits::Loose),
            Request::Recv { flags, .. } | Request::RecvMsg { flags, .. } => {
                Some(if flags & APART != 0 { Waits::Loose } else { Waits::Read })
            }
            _ => request.direction().map(|direction| match direction {
                Direction::Read => Waits::Read,
                Direction::Write => Waits::Write,
            }),
        }
    }
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
}

/// What is remembered about the bearer of one number.
pub(super) struct Record {
    /// Which object has the number; 0: nobody that we know.
    pub(super) identity: u64,
    /// Grows whenever the number changes hands.
    generation: u32,
    /// What a one-shot poller was asked for.
    pub(super) armed: u16,
    flags: u16,
    lists: [List; 3],
}

// One for every number that was ever waited for: a million connections pay 40 MB.
const _: () = assert!(size_of::<Record>() == 40);

impl Default for Record {
    fn default() -> Record {
        let empty = List { head: NONE, tail: NONE };
        Record { identity: 0, generation: 0, armed: 0, flags: 0, lists: [empty; 3] }
    }
}

impl Record {
    /// The poller watches it.
    pub(super) const ANNOUNCED: u16 = 1;
    /// More than data has been seen: an end, an error, urgent data. It is always tried.
    pub(super) const TROUBLED: u16 = 2;
    /// There was nothing left to read, and no event has come since.
    pub(super) const DRAINED: u16 = 4;
    /// It is known whether it is a TCP socket.
    pub(super) const ASKED: u16 = 8;
    /// It is one.
    pub(super) const TCP: u16 = 16;
    /// The last event that made us try was for nothing.
    pub(super) const FALSE_ALARM: u16 = 32;
    /// Its queues are not tried before the rest is over.
    pub(super) const RESTING: u16 = 64;

    #[inline]
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flag: u16) {
        self.flags |= flag;
    }

    #[inline]
    pub(super) fn clear(&mut self, flag: u16) {
        self.flags &= !flag;
    }

    /// Whether reading ordinary data is known to be in vain until the next event.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.flags & (Record::DRAINED | Record::TROUBLED | Record::ANNOUNCED)
            == Record::DRAINED | Record::ANNOUNCED
    }

    /// What the poller hands back with an event. Never `u64::MAX`: a descriptor's number has 31 bits.
    #[inline]
    pub(super) fn key(&self, fd: usize) -> u64 {
        u64::from(self.generation) << 32 | fd as u64
    }

    /// From here on, what was asked of the poller concerns nobody. The lists stay.
    pub(super) fn retire(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.flags = 0;
        self.armed = 0;
    }

    #[inline]
    pub(super) fn head(&self, waits: Waits) -> Option<u32> {
        Some(self.lists[waits as usize].head).filter(|head| *head != NONE)
    }

    #[inline]
    pub(super) fn is_empty(&self, waits: Waits) -> bool {
        self.lists[waits as usize].head == NONE
    }

    /// Whether nothing waits for it.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        LISTS.iter().all(|waits| self.is_empty(*waits))
    }
}

/// An operation that waits. A free one has no `request`, and `next` is the next free one.
struct Node {
    id: OpId,
    request: Option<Request>,
    next: u32,
    previous: u32,
    waits: Waits,
    tried: bool,
    /// A stream that takes nothing at present.
    resting: bool,
}

/// The slab of all that wait.
pub(super) struct Nodes {
    slots: Vec<Node>,
    free: u32,
    live: usize,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes { slots: Vec::new(), free: NONE, live: 0 }
    }
}

impl Nodes {
    /// Puts an operation at the end of a list, and says where it is.
    #[inline]
    pub(super) fn push(
        &mut self,
        record: &mut Record,
        waits: Waits,
        id: OpId,
        request: &Request,
        tried: bool,
    ) -> u32 {
        let list = &mut record.lists[waits as usize];
        let node = Node {
            id,
            request: Some(*request),
            next: NONE,
            previous: list.tail,
            waits,
            tried,
            resting: false,
        };
        let word = if self.free == NONE {
            self.slots.push(node);
            u32::try_from(self.slots.len() - 1).expect("fewer operations than an OpId can name")
        } else {
            let word = self.free;
            self.free = self.slots[word as usize].next;
            self.slots[word as usize] = node;
            word
        };
        self.live += 1;
        match list.tail {
            NONE => list.head = word,
            tail => self.slots[tail as usize].next = word,
        }
        list.tail = word;
        word
    }

    /// Takes an operation out of its list, wherever in it it stands. `record` is its descriptor's.
    #[inline]
    pub(super) fn remove(&mut self, record: &mut Record, word: u32) -> OpId {
        let node = &mut self.slots[word as usize];
        debug_assert!(node.request.is_some(), "a node is removed once");
        node.request = None;
        let Node { id, next, previous, waits, .. } = *node;
        node.next = self.free;
        self.free = word;
        self.live -= 1;
        let list = &mut record.lists[waits as usize];
        match previous {
            NONE => list.head = next,
            previous => self.slots[previous as usize].next = next,
        }
        match next {
            NONE => list.tail = previous,
            next => self.slots[next as usize].previous = previous,
        }
        id
    }

    /// Whether this operation waits there.
    #[inline]
    pub(super) fn holds(&self, word: u32, id: OpId) -> bool {
        self.slots.get(word as usize).is_some_and(|node| node.id == id && node.request.is_some())
    }

    #[inline]
    pub(super) fn after(&self, word: u32) -> Option<u32> {
        Some(self.slots[word as usize].next).filter(|next| *next != NONE)
    }

    /// What is asked for, and whether it has been tried before.
    #[inline]
    pub(super) fn request(&self, word: u32) -> (Request, bool) {
        let node = &self.slots[word as usize];
        (node.request.expect("a node in a list is in use"), node.tried)
    }

    pub(super) fn id(&self, word: u32) -> OpId {
        self.slots[word as usize].id
    }

    pub(super) fn is_resting(&self, word: u32) -> bool {
        self.slots[word as usize].resting
    }

    pub(super) fn set_resting(&mut self, word: u32, resting: bool) {
        self.slots[word as usize].resting = resting;
    }

    /// Whether the head of a list is a stream that takes nothing at present.
    pub(super) fn rests(&self, record: &Record, waits: Waits) -> bool {
        record.head(waits).is_some_and(|word| self.is_resting(word))
    }

    pub(super) fn set_tried(&mut self, word: u32) {
        self.slots[word as usize].tried = true;
    }

    pub(super) fn identity(&self, word: u32) -> u64 {
        self.request(word).0.handle().map_or(0, |handle| handle.identity)
    }

    /// Where a node is.
    pub(super) fn address(&self, word: u32) -> *const u8 {
        std::ptr::from_ref(&self.slots[word as usize]).cast()
    }

    /// The `POLL*` bits that all who wait for a descriptor need. Ordinary reading does not ask for urgent data or
    /// ends: the latter are readable anyway, and the former would be reported over and over while it cannot read
    /// them.
    pub(super) fn interest(&self, record: &Record) -> u16 {
        let mut interest = 0;
        if !record.is_empty(Waits::Read) && !self.rests(record, Waits::Read) {
            interest |= IN;
        }
        if !record.is_empty(Waits::Write) {
            interest |= OUT;
        }
        let mut next = record.head(Waits::Loose);
        while let Some(word) = next {
            next = self.after(word);
            interest |= match self.request(word).0 {
                Request::Poll { events, .. } => events,
                Request::Recv { flags, .. } | Request::RecvMsg { flags, .. }
                    if flags & libc::MSG_OOB != 0 =>
                {
                    PRI
                }
                _ => 0, // the error queue: reported unasked
            };
        }
        interest
    }

    /// Gives memory back after a burst.
    pub(super) fn give_back(&mut self) {
        if self.live == 0 && self.slots.len() > KEEP {
            *self = Nodes::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Handle;

    fn id(index: u32) -> OpId {
        OpId { index, generation: 1 }
    }

    fn poll(index: u32) -> (OpId, Request) {
        (id(index), Request::Poll { handle: Handle { fd: 3, identity: 1 }, events: 1 << index })
    }

    fn order(nodes: &Nodes, record: &Record) -> Vec<u32> {
        let mut order = Vec::new();
        let mut next = record.head(Waits::Loose);
        while let Some(word) = next {
            order.push(nodes.slots[word as usize].id.index);
            next = nodes.after(word);
        }
        order
    }

    #[test]
    fn lists_keep_their_order_when_taken_from_anywhere() {
        for gone in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            let (mut nodes, mut record) = (Nodes::default(), Record::default());
            let words: Vec<_> = (0..3)
                .map(|index| {
                    let (id, request) = poll(index);
                    nodes.push(&mut record, Waits::Loose, id, &request, false)
                })
                .collect();
            assert_eq!(nodes.interest(&record), 0b111);
            let mut left = vec![0, 1, 2];
            for index in gone {
                assert!(nodes.holds(words[index], id(index as u32)));
                assert_eq!(nodes.remove(&mut record, words[index]), id(index as u32));
                assert!(!nodes.holds(words[index], id(index as u32)));
                left.retain(|other| *other != index as u32);
                assert_eq!(order(&nodes, &record), left);
            }
            assert!(record.is_idle());
            assert_eq!(nodes.live, 0);
        }
    }

    #[test]
    fn slots_are_used_again_and_given_back_after_a_burst() {
        let (mut nodes, mut record) = (Nodes::default(), Record::default());
        let burst = |nodes: &mut Nodes, record: &mut Record, count: usize| {
            let (id, request) = poll(0);
            let words: Vec<_> =
                (0..count).map(|_| nodes.push(record, Waits::Loose, id, &request, true)).collect();
            for word in words {
                nodes.remove(record, word);
            }
        };
        for _ in 0..3 {
            burst(&mut nodes, &mut record, KEEP);
            nodes.give_back();
            assert_eq!(nodes.slots.len(), KEEP);
        }
        burst(&mut nodes, &mut record, KEEP + 1);
        nodes.give_back();
        assert_eq!(nodes.slots.capacity(), 0);
    }
}
