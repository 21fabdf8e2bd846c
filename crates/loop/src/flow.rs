//! How much of a stream may come: what its backend and whoever takes its items agree on.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::buffers::{BufferPool, Chunk, Pool};
use crate::remote::Shared;

/// A stream's flow, seen from both ends. The backend asks it before it brings anything more forth, notes what it has
/// brought, and lets the stream rest while it may not; what is taken at the other end opens it again.
pub struct Flow {
    /// How many unread items there may be; `None`: any number.
    bound: Option<u32>,
    /// How many of those may still come. Below zero by what was under way when it got to zero.
    credit: Cell<i64>,
    pool: Option<BufferPool>,
    /// Whether a kernel may be asked once for all its pieces.
    multishot: bool,
}

impl Flow {
    pub(crate) fn new(bound: Option<u32>, pool: Option<BufferPool>, multishot: bool) -> Flow {
        let bound = bound.map(|bound| bound.max(1));
        Flow { bound, credit: Cell::new(bound.unwrap_or(0).into()), pool, multishot }
    }

    /// The same with another bound, before it is in use.
    pub(crate) fn with_bound(&self, bound: Option<u32>) -> Flow {
        Flow::new(bound, self.pool.clone(), self.multishot)
    }

    /// Whether another item may come.
    pub fn is_open(&self) -> bool {
        self.bound.is_none() || self.credit.get() > 0
    }

    /// Whether a stream that rests should go on: there is a buffer, and room for more than one item in the long run.
    pub fn may_resume(&self) -> bool {
        let room = self.bound.is_none_or(|bound| self.credit.get() >= i64::from(bound.div_ceil(2)));
        room && self.pool.as_ref().is_none_or(|pool| pool.free() > 0)
    }

    pub(crate) fn is_multishot(&self) -> bool {
        self.multishot
    }

    /// An item has come.
    pub fn spend(&self) {
        if self.bound.is_some() {
            self.credit.set(self.credit.get() - 1);
        }
    }

    /// An item was taken at the other end.
    pub(crate) fn refund(&self) {
        if self.bound.is_some() {
            self.credit.set(self.credit.get() + 1);
        }
    }

    /// Takes a buffer for a receive: its number, where it is and how long. `None` if there is none.
    pub fn take_buffer(&self) -> Option<(u16, *mut u8, usize)> {
        let pool = self.pool();
        let id = pool.take()?;
        Some((id, pool.place(id), pool.size()))
    }

    /// Gives back a buffer that was [taken](Flow::take_buffer), and into which nothing was received.
    pub fn give_back(&self, id: u16) {
        self.pool().give_back(id);
    }

    /// Whether its buffers, if it has any, are for this loop.
    pub(crate) fn belongs_to(&self, shared: &Arc<Shared>) -> bool {
        self.pool.as_ref().is_none_or(|pool| pool.0.belongs_to(shared))
    }

    /// # Panics
    /// If it is no stream of receives.
    pub(crate) fn pool(&self) -> &Rc<Pool> {
        &self.pool.as_ref().expect("a stream of receives has a pool").0
    }

    /// What was received into a buffer.
    pub(crate) fn chunk(&self, buffer: u16, len: usize) -> Chunk {
        Chunk::new(self.pool(), buffer, len)
    }
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flow")
            .field("bound", &self.bound)
            .field("credit", &self.credit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_closes_at_the_bound_and_opens_at_half_of_it() {
        let flow = Flow::new(Some(4), None, true);
        (0..4).for_each(|_| flow.spend());
        assert!(!flow.is_open() && !flow.may_resume());
        flow.refund();
        assert!(flow.is_open() && !flow.may_resume(), "not for every single item");
        flow.refund();
        assert!(flow.may_resume());
        let least = Flow::new(Some(0), None, true);
        assert!(least.is_open() && least.may_resume(), "a bound of nothing would be a stream of nothing");
        let endless = Flow::new(None, None, true);
        (0..4).for_each(|_| endless.spend());
        assert!(endless.is_open() && endless.may_resume());
    }

    #[test]
    fn without_a_buffer_it_does_not_go_on() {
        let pool = BufferPool::with_capacity(1, 8).unwrap();
        let flow = Flow::new(None, Some(pool), true);
        let (id, _, len) = flow.take_buffer().unwrap();
        assert!(len == 8 && !flow.may_resume() && flow.take_buffer().is_none());
        flow.give_back(id);
        assert!(flow.may_resume());
    }
}
