//! The timers of a loop: exact to the nanosecond, in order, without an allocation for each.
//!
//! A timer is a [`Node`] inside whatever the loop keeps for an operation, known by a `u32` index; the [`Wheel`]
//! lists the indices. Time is cut into ticks of 2^16 ns (65.5 µs), and the number of a tick into eight
//! digits of six bits. The **cursor** is the tick up to which everything has been looked at. A deadline lies in
//! the level of the highest digit in which its tick differs from the cursor, in the slot which it names there:
//!
//! ```text
//!            bits of a deadline:  63..58  …  33..28   27..22   21..16 │ 15..0
//!                                 level 7    level 2  level 1  level 0│ inside a tick
//!
//!   level 2   [ . . . . # . . . . # . . . ]   a slot is 268 ms        # a list of timers in arming order,
//!                       │ opened: they go down at least a level           with the earliest deadline in it
//!   level 1   [ . . . . ▼ . . . . . # . . ]   a slot is 4.2 ms
//!                                   │
//!   level 0   [ . . . . . # . . . . ▼ . . ]   a slot is one tick
//!                         │
//!   heap            (deadline, sequence)      the ticks up to the cursor, and what was armed too late for them
//!                         │
//!                         ▼ pop: the earliest, if it is due
//! ```
//!
//! Why it is so:
//!
//! - **Exact and never early.** Slots sort coarsely; the heap sorts what is left of a tick to the nanosecond.
//!   It holds one tick's timers at a time; its storage alone can grow, and shrinks after a burst.
//! - **First armed, first fired** among equal deadlines. A slot's list is in arming order. Nodes with one
//!   deadline are never in two slots at once, for the place depends on the cursor alone and a slot is emptied
//!   downwards, in order, before the cursor enters it. So the order of entering the heap is the order of
//!   arming, and `sequence` counts that.
//! - **Lists are arrays**, of deadlines and indices. To go through one, as when a slot is opened, is then to go through
//!   memory in order; links in the nodes, which are anywhere, would be a cache miss for each. Whoever is disarmed
//!   leaves a hole; a list that is mostly holes is drawn together.
//! - **One sleep a timer.** A slot remembers its earliest deadline, so that [`Wheel::next`] names the very
//!   nanosecond instead of the beginning of a slot, and the cursor jumps straight there. Disarming leaves that
//!   note behind (to mend it would mean to search the list), which can cost one look in vain; that look opens
//!   the slot and mends it.
//! - **Bounded work.** Arming and disarming are O(1) (O(log n) inside the heap); a node moves down at most
//!   eight times.

/// What the wheel keeps in each operation slot. The default is a timer that is not armed.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// In nanoseconds of the loop's clock.
    deadline: u64,
    /// The position in the list or the heap.
    at: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Idle,
    /// Armed for [`NEVER`]: counted, but in no list.
    Never,
    Heap,
    /// Level and slot.
    Slot(u8, u8),
}

const _: () = assert!(size_of::<Node>() == 16);

impl Node {
    /// When it is due, if it is armed.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.is_armed().then_some(self.deadline)
    }

    #[inline]
    pub(crate) fn is_armed(&self) -> bool {
        self.place != Place::Idle
    }
}

/// Where the nodes live. The same index must give the same node for as long as that is armed.
pub(crate) trait Nodes {
    /// The node of `index`.
    fn node(&mut self, index: u32) -> &mut Node;
    /// It will be asked for soon.
    fn prefetch(&self, index: u32) {
        let _ = index;
    }
}

/// The deadline that does not come: it is counted by [`Wheel::len`] and can be disarmed, but it wakes nobody.
pub(crate) const NEVER: u64 = u64::MAX;

const TICK_BITS: u32 = 16;
const DIGIT_BITS: u32 = 6;
const SLOTS: usize = 1 << DIGIT_BITS;
const LEVELS: usize = ((u64::BITS - TICK_BITS) / DIGIT_BITS) as usize;
/// A hole in a list.
const NIL: u32 = u32::MAX;
/// A heap with room for this many is not worth giving back.
const HEAP_KEPT: usize = 64;
/// So many holes are no matter, nor is so much memory in a list that was emptied. There are some five hundred.
const HOLES: usize = 16;
/// The memory of so many lists is kept beside those, of lists with room for so many.
const SPARES: usize = 16;
const LIST_KEPT: usize = 256;

const fn tick(time: u64) -> u64 {
    time >> TICK_BITS
}

/// Timers in arming order.
struct List {
    /// Deadlines and indices, and holes.
    timers: Vec<(u64, u32)>,
    holes: usize,
    /// No deadline in the list is before this one. Exact until something is disarmed.
    earliest: u64,
}

impl List {
    const EMPTY: List = List { timers: Vec::new(), holes: 0, earliest: NEVER };

    /// Takes the timers out, and leaves a list that is empty.
    fn take(&mut self) -> Vec<(u64, u32)> {
        (self.holes, self.earliest) = (0, NEVER);
        std::mem::take(&mut self.timers)
    }

    /// Makes a hole. True if nothing else is left, and the list is empty then.
    fn punch(&mut self, nodes: &mut impl Nodes, at: usize) -> bool {
        self.timers[at].1 = NIL;
        self.holes += 1;
        if self.holes == self.timers.len() {
            (self.holes, self.earliest) = (0, NEVER);
            self.timers.clear();
            return true;
        }
        if self.holes > HOLES && self.holes > self.timers.len() / 2 {
            self.timers.retain(|(_, index)| *index != NIL);
            self.holes = 0;
            for (at, (_, index)) in self.timers.iter().enumerate() {
                nodes.node(*index).at = at as u32;
            }
            if self.timers.len() < self.timers.capacity() / 4 {
                self.timers.shrink_to(self.timers.len() * 2);
            }
        }
        false
    }
}

/// Memory for lists that come into use as time goes on. So timers do not allocate, in whatever slots they come to lie.
#[derive(Default)]
struct Spare {
    /// Of lists that were opened.
    lists: Vec<Vec<(u64, u32)>>,
    /// Level and slot of the last list that was emptied, and has kept its memory.
    emptied: (u8, u8),
}

impl Spare {
    fn keep(&mut self, mut timers: Vec<(u64, u32)>) {
        if self.lists.len() < SPARES && timers.capacity() <= LIST_KEPT {
            timers.clear();
            self.lists.push(timers);
        }
    }

    #[cold]
    fn find(&mut self, slots: &mut [[List; SLOTS]; LEVELS]) -> Vec<(u64, u32)> {
        let emptied = &mut slots[self.emptied.0 as usize][self.emptied.1 as usize].timers;
        self.lists
            .pop()
            .unwrap_or_else(|| if emptied.is_empty() { std::mem::take(emptied) } else { Vec::new() })
    }
}

/// All armed timers of one loop.
pub(crate) struct Wheel {
    /// In ticks. Everything in a slot is later, everything in the heap is not.
    cursor: u64,
    armed: usize,
    /// For each level, which of its slots have a list.
    occupied: [u64; LEVELS],
    slots: Box<[[List; SLOTS]; LEVELS]>,
    spare: Spare,
    heap: Heap,
}

impl Wheel {
    /// An empty wheel at the time `now`.
    pub(crate) fn new(now: u64) -> Self {
        Wheel {
            cursor: tick(now),
            armed: 0,
            occupied: [0; LEVELS],
            slots: Box::new([const { [const { List::EMPTY }; SLOTS] }; LEVELS]),
            spare: Spare::default(),
            heap: Heap::default(),
        }
    }

    /// How many timers are armed, those for [`NEVER`] included.
    pub(crate) fn len(&self) -> usize {
        self.armed
    }

    /// Arms `index` for `deadline`, which may be in the past: then the next [`pop`](Wheel::pop) has it.
    ///
    /// `index` must not be armed and must not be `u32::MAX`.
    pub(crate) fn arm(&mut self, nodes: &mut impl Nodes, index: u32, deadline: u64) {
        debug_assert_ne!(index, NIL, "the index of a hole");
        let node = nodes.node(index);
        debug_assert_eq!(node.place, Place::Idle, "timer {index} is armed already");
        node.deadline = deadline;
        self.armed += 1;
        match deadline {
            NEVER => node.place = Place::Never,
            _ => self.place(nodes, index, deadline),
        }
    }

    /// Takes `index` out again. `false` if it was not armed, or has fired.
    #[inline]
    pub(crate) fn disarm(&mut self, nodes: &mut impl Nodes, index: u32) -> bool {
        nodes.node(index).is_armed() && self.take_out(nodes, index)
    }

    fn take_out(&mut self, nodes: &mut impl Nodes, index: u32) -> bool {
        let node = nodes.node(index);
        let (place, at) = (node.place, node.at as usize);
        node.place = Place::Idle;
        match place {
            Place::Idle => return false,
            Place::Never => {}
            Place::Heap => self.heap.remove(nodes, at),
            Place::Slot(level, slot) => {
                let list = &mut self.slots[level as usize][slot as usize];
                if list.punch(nodes, at) {
                    self.spare.emptied = (level, slot);
                    if list.timers.capacity() > HOLES {
                        self.spare.keep(list.take());
                    }
                    self.occupied[level as usize] &= !(1 << slot);
                }
            }
        }
        self.armed -= 1;
        true
    }

    /// When to look again: never later than the earliest deadline, and exactly that unless a timer has been
    /// disarmed. `None` if nothing is going to be due.
    pub(crate) fn next(&self) -> Option<u64> {
        match self.heap.entries.first() {
            Some(entry) => Some(entry.deadline),
            None => self.first_slot().map(|(level, slot)| self.slots[level][slot].earliest),
        }
    }

    /// Takes the earliest timer out if it is due at `now`: ask until there is none. A clock may go back.
    /// What is armed in between for a time that has come is found as well: who re-arms while popping has to count.
    pub(crate) fn pop(&mut self, nodes: &mut impl Nodes, now: u64) -> Option<u32> {
        // All of the heap is before all of the slots.
        while self.heap.entries.is_empty() && self.open_slot(nodes, now) {}
        let first = *self.heap.entries.first()?;
        if first.deadline > now {
            return None;
        }
        self.heap.remove(nodes, 0);
        nodes.node(first.index).place = Place::Idle;
        self.armed -= 1;
        Some(first.index)
    }

    /// The earliest slot with a list: in the lowest level that has any, for those above lie beyond all of it.
    fn first_slot(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        Some((level, self.occupied[level].trailing_zeros() as usize))
    }

    /// Moves the cursor into the earliest slot and that slot's nodes downwards. `false` if it has nothing due
    /// at `now`.
    fn open_slot(&mut self, nodes: &mut impl Nodes, now: u64) -> bool {
        let Some((level, slot)) = self.first_slot() else {
            // Nothing on the way: the nearer the cursor, the fewer levels the next timers have to come down.
            self.cursor = self.cursor.max(tick(now));
            return false;
        };
        let list = &mut self.slots[level][slot];
        if list.earliest > now {
            // The cursor must not enter the slot unopened, and need not: this is a matter of speed alone.
            let start = tick(list.earliest) & !((1 << (level as u32 * DIGIT_BITS)) - 1);
            self.cursor = self.cursor.max(tick(now).min(start - 1));
            return false;
        }
        /// How far ahead nodes are asked for.
        const AHEAD: usize = 8;
        self.cursor = tick(list.earliest);
        let timers = list.take();
        self.occupied[level] &= !(1 << slot);
        for (at, (deadline, index)) in timers.iter().enumerate() {
            if let Some((_, ahead)) = timers.get(at + AHEAD)
                && *ahead != NIL
            {
                nodes.prefetch(*ahead);
            }
            if *index != NIL {
                self.place(nodes, *index, *deadline);
            }
        }
        self.spare.keep(timers);
        true
    }

    /// Puts a node where its deadline belongs, seen from the cursor, behind those that are there.
    fn place(&mut self, nodes: &mut impl Nodes, index: u32, deadline: u64) {
        let at = tick(deadline);
        if at <= self.cursor {
            return self.heap.push(nodes, index, deadline);
        }
        // Not zero, so there is a highest bit; at most 48 bits long, so there is a level.
        let level = ((at ^ self.cursor).ilog2() / DIGIT_BITS) as usize;
        let slot = (at >> (level as u32 * DIGIT_BITS)) as usize % SLOTS;
        if self.slots[level][slot].timers.capacity() == 0 {
            self.slots[level][slot].timers = self.spare.find(&mut self.slots);
        }
        let list = &mut self.slots[level][slot];
        list.earliest = list.earliest.min(deadline);
        self.occupied[level] |= 1 << slot;
        let node = nodes.node(index);
        (node.at, node.place) = (list.timers.len() as u32, Place::Slot(level as u8, slot as u8));
        list.timers.push((deadline, index));
    }
}

#[derive(Clone, Copy)]
struct Entry {
    deadline: u64,
    /// When it entered the heap: first in, first out among equals.
    sequence: u64,
    index: u32,
}

impl Entry {
    fn before(&self, other: &Entry) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

/// A binary heap whose entries know, through their nodes, where they are.
#[derive(Default)]
struct Heap {
    entries: Vec<Entry>,
    sequence: u64,
}

impl Heap {
    fn push(&mut self, nodes: &mut impl Nodes, index: u32, deadline: u64) {
        let entry = Entry { deadline, sequence: self.sequence, index };
        self.sequence += 1;
        nodes.node(index).place = Place::Heap;
        self.entries.push(entry);
        self.rise(nodes, self.entries.len() - 1, entry);
    }

    /// Takes an entry out; its node is the caller's to mark.
    fn remove(&mut self, nodes: &mut impl Nodes, at: usize) {
        let Some(last) = self.entries.pop() else { return };
        if at < self.entries.len() {
            // The last one fills the hole, from which it may have to go either way.
            match at > 0 && last.before(&self.entries[(at - 1) / 2]) {
                true => self.rise(nodes, at, last),
                false => self.sink(nodes, at, last),
            }
        }
        // A burst is over: give its memory back, by halves, so that this costs a constant a removal.
        let room = self.entries.capacity();
        if room > HEAP_KEPT && self.entries.len() < room / 4 {
            self.entries.shrink_to(room / 2);
        }
    }

    /// Moves the hole at `at` up until `entry` fits.
    fn rise(&mut self, nodes: &mut impl Nodes, mut at: usize, entry: Entry) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if !entry.before(&self.entries[parent]) {
                break;
            }
            self.put(nodes, at, self.entries[parent]);
            at = parent;
        }
        self.put(nodes, at, entry);
    }

    /// Moves the hole at `at` down until `entry` fits.
    fn sink(&mut self, nodes: &mut impl Nodes, mut at: usize, entry: Entry) {
        let len = self.entries.len();
        loop {
            let mut child = 2 * at + 1;
            if child >= len {
                break;
            }
            child += usize::from(child + 1 < len && self.entries[child + 1].before(&self.entries[child]));
            if !self.entries[child].before(&entry) {
                break;
            }
            self.put(nodes, at, self.entries[child]);
            at = child;
        }
        self.put(nodes, at, entry);
    }

    fn put(&mut self, nodes: &mut impl Nodes, at: usize, entry: Entry) {
        self.entries[at] = entry;
        nodes.node(entry.index).at = at as u32;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Nodes for Vec<Node> {
        fn node(&mut self, index: u32) -> &mut Node {
            &mut self[index as usize]
        }
    }

    fn nodes(count: usize) -> Vec<Node> {
        (0..count).map(|_| Node::default()).collect()
    }

    fn due(wheel: &mut Wheel, nodes: &mut Vec<Node>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop(nodes, now)).collect()
    }

    #[test]
    fn fires_at_the_nanosecond_and_not_before() {
        for shift in 0..63 {
            for start in [0, 1, 0xffff, 1 << 40, 0x0123_4567_89ab_cdef] {
                let (mut wheel, mut nodes) = (Wheel::new(start), nodes(1));
                let deadline = start + (1 << shift);
                wheel.arm(&mut nodes, 0, deadline);
                assert_eq!(wheel.next(), Some(deadline));
                assert_eq!(wheel.pop(&mut nodes, deadline - 1), None);
                assert_eq!(wheel.next(), Some(deadline));
                assert_eq!(wheel.pop(&mut nodes, deadline), Some(0));
                assert_eq!((wheel.next(), wheel.len(), nodes[0].deadline()), (None, 0, None));
            }
        }
    }

    #[test]
    fn equal_deadlines_fire_in_arming_order_across_cascades() {
        let (mut wheel, mut nodes) = (Wheel::new(0), nodes(6));
        let deadline = 70_000_000_123;
        for (index, left) in (0..).zip([70_000_000_123, 10_000_000_000, 100_000_000, 124, 23]) {
            assert_eq!(wheel.pop(&mut nodes, deadline - left), None);
            wheel.arm(&mut nodes, index, deadline);
        }
        wheel.arm(&mut nodes, 5, 5); // long past: it was never too late for it
        assert_eq!(due(&mut wheel, &mut nodes, deadline), [5, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn never_wakes_nobody_and_can_be_disarmed() {
        let (mut wheel, mut nodes) = (Wheel::new(7), nodes(2));
        wheel.arm(&mut nodes, 0, NEVER);
        wheel.arm(&mut nodes, 1, NEVER - 1);
        assert_eq!((wheel.next(), wheel.len()), (Some(NEVER - 1), 2));
        assert_eq!(due(&mut wheel, &mut nodes, NEVER), [1]);
        assert_eq!((wheel.next(), wheel.len()), (None, 1));
        assert!(wheel.disarm(&mut nodes, 0) && !wheel.disarm(&mut nodes, 0));
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let (mut wheel, mut nodes) = (Wheel::new(0), nodes(100_000));
        for fire in [true, false] {
            (0..100_000).for_each(|index| wheel.arm(&mut nodes, index, 99 - u64::from(index % 100)));
            assert!(wheel.heap.entries.capacity() >= 100_000);
            match fire {
                true => assert_eq!(due(&mut wheel, &mut nodes, 99).len(), 100_000),
                false => (0..100_000).for_each(|index| assert!(wheel.disarm(&mut nodes, index))),
            }
            assert!(wheel.heap.entries.capacity() <= HEAP_KEPT, "{}", wheel.heap.entries.capacity());
        }
    }

    #[test]
    fn one_look_a_timer_and_one_more_for_a_slot_disarmed_in() {
        let (mut wheel, mut nodes) = (Wheel::new(0), nodes(1000));
        for index in 0..1000 {
            wheel.arm(&mut nodes, index, 30_000_000_000 + u64::from(index));
        }
        (0..999).for_each(|index| assert!(wheel.disarm(&mut nodes, index)));
        let stale = wheel.next().unwrap();
        assert_eq!((stale, wheel.pop(&mut nodes, stale)), (30_000_000_000, None));
        assert_eq!(wheel.next(), Some(30_000_000_999));
    }

    #[derive(Clone, Debug)]
    enum Act {
        /// Arms the lowest idle node for what this makes of the time and the number.
        Arm(fn(u64, u64) -> u64, u64),
        Disarm(prop::sample::Index),
        Advance(u64),
        /// Sleeps until `next` says so, as a loop does.
        Sleep,
    }

    fn acts() -> impl Strategy<Value = Act> {
        let power = (0..64u32, 0..3u64).prop_map(|(shift, low)| (1u64 << shift).saturating_add(low));
        // All magnitudes alike, and often the same values.
        let spans = prop_oneof![0..4u64, power, any::<u64>()];
        let fixed = prop_oneof![Just(0), Just(NEVER), Just(NEVER - 1), (1..4u64).prop_map(|n| n << 30)];
        prop_oneof![
            6 => spans.clone().prop_map(|span| Act::Arm(u64::saturating_add, span)),
            1 => spans.clone().prop_map(|span| Act::Arm(u64::saturating_sub, span)),
            2 => fixed.prop_map(|time| Act::Arm(|_, time| time, time)),
            3 => any::<prop::sample::Index>().prop_map(Act::Disarm),
            1 => spans.prop_map(Act::Advance),
            4 => Just(Act::Sleep),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]
        #[test]
        fn agrees_with_a_sorted_map(shift in 0..64u32, acts in prop::collection::vec(acts(), 1..200)) {
            let mut now = u64::MAX >> shift;
            let (mut wheel, mut nodes) = (Wheel::new(now), nodes(200));
            let mut model: BTreeMap<(u64, usize), u32> = BTreeMap::new();
            let (mut disarmed, mut in_vain) = (0, 0);
            for (sequence, act) in acts.into_iter().enumerate() {
                let mut sleep = false;
                match act {
                    Act::Arm(deadline, number) => {
                        let deadline = deadline(now, number);
                        let index = nodes.iter().position(|node| node.deadline().is_none()).unwrap() as u32;
                        wheel.arm(&mut nodes, index, deadline);
                        model.insert((deadline, sequence), index);
                        prop_assert_eq!(nodes[index as usize].deadline(), Some(deadline));
                        continue; // several at once, before anyone looks
                    }
                    Act::Disarm(which) => {
                        let index = which.index(nodes.len().min(16)) as u32;
                        let known = model.iter().find(|entry| *entry.1 == index).map(|entry| *entry.0);
                        known.map(|key| model.remove(&key));
                        disarmed += u32::from(known.is_some());
                        prop_assert_eq!(wheel.disarm(&mut nodes, index), known.is_some());
                        continue;
                    }
                    Act::Advance(span) => now = now.saturating_add(span),
                    Act::Sleep => match wheel.next() {
                        None => prop_assert!(model.keys().all(|key| key.0 == NEVER)),
                        Some(time) => {
                            let earliest = model.keys().next().map_or(NEVER, |key| key.0);
                            prop_assert!(time == earliest || time < earliest && disarmed > 0, "{time} {earliest}");
                            (sleep, now) = (time > now, now.max(time));
                        }
                    },
                }
                let fired = due(&mut wheel, &mut nodes, now);
                let mut later = model.split_off(&(now, usize::MAX));
                later.extend(model.extract_if(.., |key, _| key.0 == NEVER));
                let expected: Vec<u32> = std::mem::replace(&mut model, later).into_values().collect();
                in_vain += u32::from(sleep && fired.is_empty());
                prop_assert_eq!(fired, expected);
                prop_assert_eq!(wheel.len(), model.len());
            }
            prop_assert!(in_vain <= disarmed, "{in_vain} looks in vain for {disarmed} disarmed");
        }
    }
}
