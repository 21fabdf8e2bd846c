//! Entries on their way to the ring, which until then can be taken back.
//!
//! A tick's entries gather here and move into the ring when it is handed over, as far as there is room. So an operation
//! that is cancelled before that never reaches the kernel, and a ring that is full loses nothing.

use std::collections::VecDeque;

use io_uring::{opcode, squeue};

use super::CANCEL;

/// Entries that the ring has not, oldest first.
#[derive(Default)]
pub(super) struct Queue {
    entries: VecDeque<squeue::Entry>,
    /// How many have left: the number of the oldest.
    left: u64,
    /// Where chains begin, and how many entries they have, oldest first.
    chains: VecDeque<(u64, u32)>,
}

impl Queue {
    /// Queues an entry and returns its number.
    #[inline]
    pub(super) fn push(&mut self, entry: squeue::Entry) -> u64 {
        self.entries.push_back(entry);
        self.left + self.entries.len() as u64 - 1
    }

    /// The next `len` entries go to the kernel together.
    pub(super) fn begin_chain(&mut self, len: usize) {
        self.chains.push_back((self.left + self.entries.len() as u64, len as u32));
    }

    /// The oldest entries, as many as a ring with room for so many takes: of a chain all or none, since the kernel takes the end
    /// of what it is handed for the end of the chain.
    pub(super) fn first(&self, room: usize) -> &[squeue::Entry] {
        let count = match self.chains.front() {
            Some((first, len)) if *first == self.left => {
                Some(*len as usize).filter(|len| *len <= room).unwrap_or(0)
            }
            Some((first, _)) => room.min((first - self.left) as usize),
            None => room,
        };
        let (front, _) = self.entries.as_slices();
        &front[..count.min(front.len())]
    }

    /// Takes so many of the oldest entries out.
    pub(super) fn pop(&mut self, count: usize) {
        self.entries.drain(..count);
        self.left += count as u64;
        // Of one that has begun to leave the rest follows, for which there is room.
        if self.chains.front().is_some_and(|(first, _)| *first < self.left) {
            self.chains.pop_front();
        }
    }

    /// How many entries have left: those whose numbers are below this.
    #[inline]
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Makes nothing of the entry with this number. False if it has left.
    pub(super) fn revoke(&mut self, number: u64) -> bool {
        let Some(at) = number.checked_sub(self.left) else { return false };
        match self.entries.get_mut(at as usize) {
            Some(entry) => {
                *entry = opcode::Nop::new().build().user_data(CANCEL);
                true
            }
            None => false,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a ring with room for so many takes, by name.
    fn take(queue: &mut Queue, room: usize) -> Vec<u64> {
        let names: Vec<_> = queue.first(room).iter().map(squeue::Entry::get_user_data).collect();
        if !names.is_empty() {
            queue.pop(names.len());
        }
        names
    }

    #[test]
    fn chains_leave_whole_and_others_as_there_is_room() {
        let mut queue = Queue::default();
        // Wherever the ends of what a queue of this size has in memory are.
        for n in 0..50 {
            let first = queue.left();
            assert_eq!(first, n * 9);
            let push = |queue: &mut Queue, count: u64| {
                (0..count).for_each(|_| {
                    let name = queue.left() + queue.entries.len() as u64;
                    assert_eq!(queue.push(opcode::Nop::new().build().user_data(name)), name);
                });
            };
            push(&mut queue, 2);
            queue.begin_chain(3);
            push(&mut queue, 3);
            queue.begin_chain(4);
            push(&mut queue, 4);
            // Not into the first chain, although there is room; nor into the second; nor a part of one.
            let mut taken = Vec::new();
            while taken.len() < 2 {
                taken.extend(take(&mut queue, 4 - taken.len()));
            }
            assert_eq!(taken.len(), 2);
            assert!(take(&mut queue, 2).is_empty());
            while taken.len() < 5 {
                taken.extend(take(&mut queue, 8 - taken.len()));
            }
            assert_eq!(taken.len(), 5);
            assert!(take(&mut queue, 3).is_empty());
            while taken.len() < 9 {
                taken.extend(take(&mut queue, 9 - taken.len()));
            }
            assert_eq!(taken, (first..first + 9).collect::<Vec<_>>());
            assert!(queue.is_empty() && queue.chains.is_empty());
        }
    }
}
