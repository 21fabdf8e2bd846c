//! Several operations as one: batches, links, races.
//!
//! A group is an operation whose members are operations. Each has a slot of its own, whose sink is its place in the
//! group; what comes of it is kept in the group's own value, which lies still until all members are over, in a payload
//! or in a frozen frame, with the members' values inside.
//!
//! ```text
//!   slot of the group  ──Request::Group──▶ [ Head ]──▶ [ Member | Member | Member ]    in the value of `Gather`
//!          ▲                                  ▲              ▲
//!          └─── over, with the last ──────────┴── Sink::Member { group, index } ── slot of the member
//! ```
//!
//! # Links
//!
//! A member that is linked to the one before it is not [started](crate::op::Operation::start) before its turn. When a member
//! is over, [`Core::member_over`] begins the next one, or ends it as cancelled. That is all there is to it, on every backend.
//!
//! A backend may take a run of linked members [at once](crate::backend::Backend::submit_chain), so that one completes and
//! the next begins without the loop. It only ever gets operations whose `start` may be repeated: where the run is torn for
//! reasons of the backend's, the members that were not begun [come back](Core::come_back), and the loop begins them as above.

use std::ptr::NonNull;

use super::rest::advance;
use super::{Core, Settled};
use crate::backend::Chained;
use crate::op::{Begin, Extent, Options, Outcome, Started};
use crate::operation::{GroupRef, Link, OpId};
use crate::slots::{Phase, Sink, Why};

/// When a group is over, and what its first completion means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// All members run to their ends.
    Gather,
    /// The first that completes cancels the others.
    Race,
}

/// The loop's part of a group, inside the value of the operation.
#[derive(Debug)]
pub struct Head {
    how: How,
    /// The group's own operation, once it has begun.
    id: OpId,
    /// The members' values, and how to start one of them.
    batch: *mut (),
    start: StartMember,
    members: *mut Member,
    len: usize,
    over: usize,
    winner: Option<usize>,
    /// What the first failure was; 0 if there was none.
    result: i32,
}

/// Starts one member of a batch. Uses nothing of the others.
pub(crate) type StartMember = unsafe fn(*mut (), usize, &Begin<'_>) -> Started;

/// What the loop keeps of a member.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    pub(crate) options: Options,
    /// How the next one depends on it.
    pub(crate) link: Link,
    /// Whether starting it does nothing but fill the request in.
    pub(crate) pure: bool,
    id: OpId,
    place: Place,
    /// What came of it, once it is over.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) failed: bool,
}

/// How far a member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Its turn has not come.
    Waiting,
    /// With the backend as part of a chain, behind another member.
    Ahead,
    /// Its turn has come.
    Begun,
}

const NO_ID: OpId = OpId { index: u32::MAX, generation: 0 };

impl Member {
    pub(crate) fn new(options: Options, link: Link, pure: bool) -> Member {
        Member { options, link, pure, id: NO_ID, place: Place::Waiting, outcome: None, failed: false }
    }
}

impl Head {
    pub(crate) fn new(how: How, batch: *mut (), start: StartMember, members: &mut [Member]) -> Head {
        let (members, len) = (members.as_mut_ptr(), members.len());
        Head { how, id: NO_ID, batch, start, members, len, over: 0, winner: None, result: 0 }
    }

    /// Which member was over first.
    pub(crate) fn winner(&self) -> Option<usize> {
        self.winner
    }

    fn result(&self) -> i32 {
        match self.winner {
            Some(winner) if self.how == How::Race => {
                self.member(winner).outcome.map_or(0, |it| it.result.min(0))
            }
            _ => self.result,
        }
    }

    fn member(&self, index: usize) -> Member {
        assert!(index < self.len);
        // SAFETY: within the array, which lies beside the head for as long as the group is in flight.
        unsafe { *self.members.add(index) }
    }

    fn member_mut(&mut self, index: usize) -> &mut Member {
        assert!(index < self.len);
        // SAFETY: as above, and only the loop uses it meanwhile.
        unsafe { &mut *self.members.add(index) }
    }

    fn start(&self, index: usize, begin: &Begin<'_>) -> Started {
        // SAFETY: the batch lies still while the group is in flight; a member is started in its turn, or before and again,
        // if it is pure. Its value is used by nobody else: it has no request in flight.
        unsafe { (self.start)(self.batch, index, begin) }
    }
}

/// The head of a group in flight.
///
/// Not a method of [`Core`]: it is no part of the core, but of the operation that the core keeps or waits for.
fn head<'a>(group: GroupRef) -> &'a mut Head {
    // SAFETY: a group's operation lies still from `start` until its outcome is taken, which is after its last member is
    // over, and nobody but the loop uses the head meanwhile. No reference outlives the use for which it was made, and
    // none is made while another one is used.
    unsafe { &mut *group.0.as_ptr() }
}

impl GroupRef {
    pub(crate) fn new(head: &mut Head) -> GroupRef {
        GroupRef(NonNull::from(head))
    }
}

impl Core {
    /// Begins the members that depend on nobody. `Some` if the whole group is over already.
    pub(super) fn begin_group(&mut self, id: OpId, group: GroupRef) -> Option<i32> {
        let len = head(group).len;
        if !self.has_room(len) {
            return Some(-libc::EDQUOT);
        }
        head(group).id = id;
        let background = self.slots.at(id.index).flags.background;
        for index in 0..len {
            let member = self.slots.take();
            let slot = self.slots.at(member.index);
            slot.phase = Phase::Linked;
            slot.sink = Sink::Member { group, index: index as u32 };
            slot.flags.background = background;
            self.background += usize::from(background);
            head(group).member_mut(index).id = member;
        }
        let mut over = if len == 0 { Some(0) } else { None };
        for index in 0..len {
            if index == 0 || head(group).member(index - 1).link == Link::None {
                let ended = self.begin_member(group, index).and_then(|member| self.note_over(member));
                over = over.or(ended.map(|(_, result)| result));
            }
        }
        over
    }

    /// Begins a member whose turn has come.
    fn begin_member(&mut self, group: GroupRef, index: usize) -> Option<Settled> {
        let member = head(group).member_mut(index);
        member.place = Place::Begun;
        let (id, link, pure, options) = (member.id, member.link, member.pure, member.options);
        let slot = self.slots.at(id.index);
        slot.phase = Phase::Starting;
        if slot.flags.ended() {
            self.stats.submitted += 1;
            return self.settle(id, -libc::ECANCELED);
        }
        if link != Link::None && pure && self.begin_chain(group, index) {
            return None;
        }
        let started = head(group).start(index, &Begin { id, shared: &self.shared });
        match self.begin(id, started, options) {
            None => None,
            Some(result) => self.settle(id, result),
        }
    }

    /// Lets the backend have the members from `first` on as one chain, if it takes them so.
    fn begin_chain(&mut self, group: GroupRef, first: usize) -> bool {
        let limit = self.backend.chain_limit();
        let mut chain = std::mem::take(&mut self.chain);
        chain.clear();
        while chain.len() < limit && first + chain.len() < head(group).len {
            let Member { id, link, pure, options, place, .. } = head(group).member(first + chain.len());
            // What was torn off an earlier chain comes back first.
            if !pure || place == Place::Ahead || self.slots.at(id.index).flags.ended() {
                break;
            }
            let started = head(group).start(first + chain.len(), &Begin { id, shared: &self.shared });
            let Started::Request(request) = started else { break };
            chain.push(Chained { id, request, link, all: options.extent == Extent::All, word: 0 });
            if link == Link::None {
                break;
            }
        }
        let taken = match chain.len() {
            0 | 1 => 0,
            // SAFETY: as in `dispatch`, for each.
            _ => unsafe { self.backend.submit_chain(&mut chain) },
        };
        for (ahead, Chained { id, request, all, word, .. }) in chain.drain(..taken).enumerate() {
            self.stats.submitted += 1;
            let slot = self.slots.at(id.index);
            (slot.request, slot.word) = (request, word);
            slot.flags.extent = if all { Extent::All } else { Extent::Once };
            slot.phase = Phase::Linked;
            if ahead == 0 {
                self.in_turn(group, first);
            } else {
                head(group).member_mut(first + ahead).place = Place::Ahead;
            }
        }
        self.chain = chain;
        taken > 0
    }

    /// It is the turn of a member that the backend has.
    fn in_turn(&mut self, group: GroupRef, index: usize) {
        let Member { id, options, .. } = head(group).member(index);
        // Also if its completion is at hand: there may be a rest to transfer.
        if options.deadline != crate::Instant::NEVER {
            self.wheel.arm(&mut self.slots, id.index, options.deadline.0);
        }
        let slot = self.slots.at(id.index);
        if slot.phase == Phase::Linked {
            slot.phase = Phase::Backend;
            let (ended, word, request) = (slot.flags.ended(), slot.word, slot.request);
            if ended {
                self.backend.cancel(id, word, &request);
            }
        }
    }

    /// Whether a member is with the backend as part of a chain, and so may come back.
    pub(super) fn is_ahead(&self, group: GroupRef, index: u32) -> bool {
        head(group).member(index as usize).place == Place::Ahead
    }

    /// The backend gives a member of a chain back that it did not begin. What it is in the end, if it is over with that.
    pub(super) fn come_back(&mut self, group: GroupRef, index: u32) -> Option<Settled> {
        let index = index as usize;
        let id = head(group).member(index).id;
        self.stats.submitted -= 1;
        self.wheel.disarm(&mut self.slots, id.index);
        let before = head(group).member(index - 1);
        head(group).member_mut(index).place = Place::Waiting;
        let slot = self.slots.at(id.index);
        (slot.phase, slot.flags.extent) = (Phase::Linked, Extent::Once);
        before.outcome?;
        self.turn(group, index, before.link == Link::Soft && before.failed)
    }

    /// It is a member's turn: begins it, or ends it if the one before has `broken` the link. What came of it if it is over.
    fn turn(&mut self, group: GroupRef, index: usize, broken: bool) -> Option<Settled> {
        let Member { id, place, outcome, .. } = head(group).member(index);
        if outcome.is_some() {
            return None;
        }
        match place {
            Place::Begun => unreachable!("a member has one turn"),
            Place::Waiting if broken => {
                head(group).member_mut(index).place = Place::Begun;
                self.stats.submitted += 1;
                self.slots.at(id.index).phase = Phase::Starting;
                self.settle(id, -libc::ECANCELED)
            }
            Place::Waiting => self.begin_member(group, index),
            Place::Ahead => {
                // Its completion is on its way, or at hand; that of a link that broke says so.
                if !broken {
                    self.in_turn(group, index);
                }
                None
            }
        }
    }

    /// A member is over. The group, if it is over with that.
    pub(crate) fn member_over(&mut self, member: Settled) -> Option<Settled> {
        let (group, result) = self.note_over(member)?;
        self.settle(group, result)
    }

    /// A member is over: frees its slot, and begins whoever waited for it. The group's id and result, if it is over.
    fn note_over(&mut self, mut settled: Settled) -> Option<(OpId, i32)> {
        loop {
            let Settled { id, sink, outcome, .. } = settled;
            let Sink::Member { group, index } = sink else { unreachable!("a member's sink is its group") };
            let index = index as usize;
            let slot = self.slots.at(id.index);
            // SAFETY: its value has not been taken out, so what the request points to is there.
            let short = slot.flags.extent == Extent::All && unsafe { advance(&mut slot.request, 0) }.1;
            self.slots.vacate(id);
            let head = head(group);
            let member = head.member_mut(index);
            (member.outcome, member.failed) = (Some(outcome), outcome.result < 0 || short);
            let (link, failed) = (member.link, member.failed);
            head.over += 1;
            if failed && head.result == 0 {
                // Of a transfer that was too short only the fact matters: its own outcome tells more.
                head.result = if short { -libc::ENODATA } else { outcome.result };
            }
            let first = head.winner.is_none();
            head.winner = head.winner.or(Some(index));
            if first && head.how == How::Race {
                self.cancel_members(group, Why::Canceled);
            }
            let next = match link {
                Link::None => None,
                link => self.turn(group, index + 1, link == Link::Soft && failed),
            };
            let head = self::head(group);
            if head.over == head.len {
                debug_assert!(next.is_none());
                return Some((head.id, head.result()));
            }
            settled = next?;
        }
    }

    /// Asks for the end of all members that are not over.
    pub(super) fn cancel_members(&mut self, group: GroupRef, why: Why) {
        for index in 0..head(group).len {
            let Member { id, outcome, .. } = head(group).member(index);
            if outcome.is_none() {
                self.cancel(id, why);
            }
        }
    }

    /// Lets the members of a group not keep the loop running, or again.
    pub(super) fn set_members_background(&mut self, group: GroupRef, on: bool) {
        for index in 0..head(group).len {
            let Member { id, outcome, .. } = head(group).member(index);
            if outcome.is_none() {
                self.set_background(id, on);
            }
        }
    }

    /// Whether what an operation completes is waited for by a frame.
    pub(crate) fn is_for_frame(&mut self, mut id: OpId) -> bool {
        loop {
            match self.slots.get(id).map(|slot| slot.sink) {
                Some(Sink::Member { group, .. }) => id = head(group).id,
                Some(Sink::Payload { .. }) => return false,
                Some(Sink::Waiting(_) | Sink::None) | None => return true,
            }
        }
    }
}
