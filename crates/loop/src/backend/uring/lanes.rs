//! One transfer at a time for each direction of a descriptor, in the order in which they were asked for.
//!
//! The kernel starts entries in order, but of several that would block it goes on with whichever it likes: two sends of
//! one stream could change places, two receives get each other's bytes. So the second waits here until the first is
//! over. Lanes are found by descriptor number and hold for one identity; foreign descriptors, of which nothing is known,
//! have none.

use crate::operation::{Direction, Handle, OpId, Request, TRANSFER_MAX};

/// After so many receives in a row that filled their buffers it is a stream that has more than is asked for, rather than
/// a message in several pieces.
const STREAM: u8 = 32;
/// So many bytes at most are sent by a call of their own: more than that may not find room.
const SHORT: usize = 16 * 1024;
/// After the n-th vain try in a row the next 2^n - 1 receives are left to the ring; n goes no further than this.
const MISSES: u8 = 6;
/// No operation.
const NONE: u32 = u32::MAX;

/// Which lane an operation keeps to: found once, when it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LaneId(u32);

impl LaneId {
    /// Of what may overtake and be overtaken.
    pub(super) const NONE: LaneId = LaneId(NONE);

    fn new(handle: Handle, direction: Direction) -> LaneId {
        match handle.fd {
            0.. if handle.identity != 0 => LaneId((handle.fd as u32) << 1 | direction as u32),
            _ => LaneId::NONE,
        }
    }

    fn number(self) -> usize {
        self.0 as usize >> 1
    }

    fn direction(self) -> usize {
        self.0 as usize & 1
    }
}

/// An operation's place in the queue of its lane.
#[derive(Clone, Copy)]
struct Link {
    generation: u32,
    next: u32,
    previous: u32,
}

#[derive(Clone, Copy)]
struct Lane {
    /// Whose turn it is, by index and generation.
    busy: Option<OpId>,
    first: u32,
    last: u32,
}

const FREE: Lane = Lane { busy: None, first: NONE, last: NONE };

#[derive(Clone, Copy)]
struct Pair {
    identity: u64,
    lanes: [Lane; 2],
    /// How many receives in a row have filled their buffers.
    full: u8,
    /// How many tries to receive were in vain in a row, and how many receives are not tried therefore.
    misses: u8,
    skips: u8,
}

impl Pair {
    fn new(identity: u64) -> Pair {
        Pair { identity, lanes: [FREE; 2], full: 0, misses: 0, skips: 0 }
    }
}

/// All lanes, by descriptor number.
#[derive(Default)]
pub(super) struct Lanes {
    pairs: Vec<Pair>,
    /// By the index of the operation.
    links: Vec<Link>,
}

/// The lane that a request must keep to, if any.
#[inline]
pub(super) fn lane_of(request: &Request) -> LaneId {
    /// These look elsewhere than at the head of the stream, or do not take what they see.
    const BESIDE: i32 = libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_PEEK;
    match *request {
        Request::Recv { handle, flags, .. } | Request::RecvMsg { handle, flags, .. }
            if flags & BESIDE == 0 =>
        {
            LaneId::new(handle, Direction::Read)
        }
        Request::Send { handle, flags, .. }
        | Request::SendMsg { handle, flags, .. }
        | Request::SendZc { handle, flags, .. }
        | Request::SendMsgZc { handle, flags, .. }
            if flags & BESIDE == 0 =>
        {
            LaneId::new(handle, Direction::Write)
        }
        Request::ReadStream { handle, .. } => LaneId::new(handle, Direction::Read),
        Request::WriteStream { handle, .. } => LaneId::new(handle, Direction::Write),
        Request::SendFile { handle, .. } => LaneId::new(handle, Direction::Write),
        // To its end, whatever it does meanwhile.
        Request::RecvMulti { handle, .. } => LaneId::new(handle, Direction::Read),
        // What was to be sent before it is sent before it.
        Request::Shutdown { handle, how } if how != libc::SHUT_RD => LaneId::new(handle, Direction::Write),
        _ => LaneId::NONE,
    }
}

impl Lanes {
    /// Whether it is an operation's turn at once. If not it is queued.
    #[inline]
    pub(super) fn enter(&mut self, id: OpId, lane: LaneId, request: &Request) -> bool {
        if lane == LaneId::NONE {
            return true;
        }
        let identity = request.handle().map_or(0, |handle| handle.identity);
        let number = lane.number();
        if number >= self.pairs.len() {
            self.pairs.resize(number + 1, Pair::new(0));
        }
        let pair = &mut self.pairs[number];
        if pair.identity != identity && pair.lanes.iter().all(|lane| lane.first == NONE) {
            // Another object has the number now. What is left of the old one's is over without being missed.
            *pair = Pair::new(identity);
        }
        let turn = &mut pair.lanes[lane.direction()];
        if turn.busy.is_none() {
            turn.busy = Some(id);
            return true;
        }
        self.queue(id, lane);
        false
    }

    fn queue(&mut self, id: OpId, lane: LaneId) {
        let lane = &mut self.pairs[lane.number()].lanes[lane.direction()];
        let index = id.index as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, Link { generation: 0, next: NONE, previous: NONE });
        }
        self.links[index] = Link { generation: id.generation, next: NONE, previous: lane.last };
        match lane.last {
            NONE => lane.first = id.index,
            last => self.links[last as usize].next = id.index,
        }
        lane.last = id.index;
    }

    /// Takes the turn, if it would be an operation's at once. An operation without a lane always may.
    pub(super) fn enter_if_free(&mut self, id: OpId, lane: LaneId, request: &Request) -> bool {
        // Of an object that is gone, perhaps: that is not worth finding out.
        let pair = self.pairs.get(lane.number()).filter(|_| lane != LaneId::NONE);
        pair.is_none_or(|pair| pair.lanes[lane.direction()].busy.is_none()) && self.enter(id, lane, request)
    }

    /// An operation whose turn it was is over: it is `to`'s turn before anybody else's. False if it was not its turn.
    pub(super) fn hand_on(&mut self, from: OpId, lane: LaneId, to: OpId) -> bool {
        let Some(pair) = self.pairs.get_mut(lane.number()).filter(|_| lane != LaneId::NONE) else {
            return false;
        };
        let turn = &mut pair.lanes[lane.direction()];
        let its = turn.busy == Some(from);
        if its {
            turn.busy = Some(to);
        }
        its
    }

    /// An operation whose turn it was is over: whose turn it is now.
    #[inline]
    pub(super) fn leave(&mut self, id: OpId, lane: LaneId) -> Option<OpId> {
        if lane == LaneId::NONE {
            return None;
        }
        let turn = &mut self.pairs[lane.number()].lanes[lane.direction()];
        if turn.busy != Some(id) {
            return None;
        }
        turn.busy = None;
        if turn.first == NONE {
            return None;
        }
        let index = turn.first;
        let Link { generation, next, .. } = self.links[index as usize];
        turn.first = next;
        match next {
            NONE => turn.last = NONE,
            next => self.links[next as usize].previous = NONE,
        }
        turn.busy = Some(OpId { index, generation });
        turn.busy
    }

    /// Takes note of how a plain receive ended.
    #[inline]
    pub(super) fn note(&mut self, request: &Request, result: i32) {
        let Request::Recv { handle, len, flags: 0, .. } = *request else { return };
        let more = usize::try_from(result).is_ok_and(|got| got > 0 && got == len.min(TRANSFER_MAX));
        if let Some(pair) = usize::try_from(handle.fd).ok().and_then(|number| self.pairs.get_mut(number))
            && pair.identity == handle.identity
        {
            pair.full = if more { pair.full.saturating_add(1) } else { 0 };
        }
    }

    /// Whether a plain receive is likely to get something, and would overtake nobody.
    #[inline]
    pub(super) fn has_more(&self, request: &Request) -> bool {
        let Request::Recv { handle, flags: 0, .. } = *request else { return false };
        usize::try_from(handle.fd).ok().and_then(|number| self.pairs.get(number)).is_some_and(|pair| {
            pair.full >= STREAM
                && pair.identity == handle.identity
                && pair.lanes[Direction::Read as usize].busy.is_none()
        })
    }

    /// Whether a transfer may well be over at once, and would overtake nobody.
    pub(super) fn is_worth_a_try(&mut self, request: &Request) -> bool {
        let lane = match *request {
            Request::Recv { flags: 0, .. } | Request::RecvMsg { flags: 0, .. } => lane_of(request),
            Request::Send { flags: 0, len: 0..=SHORT, .. } | Request::SendMsg { flags: 0, .. } => {
                lane_of(request)
            }
            _ => return false,
        };
        let identity = request.handle().map(|handle| handle.identity);
        let Some(pair) = self.pairs.get_mut(lane.number()).filter(|pair| Some(pair.identity) == identity)
        else {
            return false;
        };
        if pair.lanes[lane.direction()].busy.is_some() {
            return false;
        }
        let skipped = lane.direction() == Direction::Read as usize && pair.skips > 0;
        pair.skips -= u8::from(skipped);
        !skipped
    }

    /// Takes note of whether a try to receive brought anything.
    pub(super) fn note_try(&mut self, request: &Request, brought: bool) {
        let lane = lane_of(request);
        if lane.direction() == Direction::Read as usize
            && let Some(pair) = self.pairs.get_mut(lane.number())
        {
            pair.misses = if brought { 0 } else { (pair.misses + 1).min(MISSES) };
            pair.skips = (1 << pair.misses) - 1;
        }
    }

    /// Takes an operation that waits for its turn out of the queue.
    pub(super) fn give_up(&mut self, id: OpId, lane: LaneId) {
        let lane = &mut self.pairs[lane.number()].lanes[lane.direction()];
        let Link { next, previous, .. } = self.links[id.index as usize];
        match previous {
            NONE => lane.first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NONE => lane.last = previous,
            next => self.links[next as usize].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(fd: i32, identity: u64) -> Request {
        Request::Send { handle: Handle { fd, identity }, buf: std::ptr::null(), len: 0, flags: 0 }
    }

    fn enter(lanes: &mut Lanes, id: OpId, request: &Request) -> bool {
        lanes.enter(id, lane_of(request), request)
    }

    fn id(index: u32) -> OpId {
        OpId { index, generation: 7 }
    }

    #[test]
    fn turns_come_in_order_and_can_be_given_up() {
        let mut lanes = Lanes::default();
        let request = send(3, 1);
        assert!(enter(&mut lanes, id(0), &request));
        for index in 1..5 {
            assert!(!enter(&mut lanes, id(index), &request));
        }
        for gone in [4, 2] {
            lanes.give_up(id(gone), lane_of(&request));
        }
        assert_eq!(lanes.leave(id(3), lane_of(&request)), None, "not its turn");
        assert_eq!(lanes.leave(id(0), lane_of(&request)), Some(id(1)));
        lanes.give_up(id(3), lane_of(&request));
        assert_eq!(lanes.leave(id(1), lane_of(&request)), None);
        assert!(enter(&mut lanes, id(9), &request), "the lane is free again");
    }

    #[test]
    fn receives_that_fill_their_buffers_tell_of_more_to_come() {
        let mut lanes = Lanes::default();
        let recv = |identity, flags| Request::Recv {
            handle: Handle { fd: 3, identity },
            buf: std::ptr::null_mut(),
            len: 8,
            flags,
        };
        let (plain, peek) = (recv(1, 0), recv(1, libc::MSG_PEEK));
        assert!(!lanes.has_more(&plain), "nothing is known");
        assert!(enter(&mut lanes, id(0), &plain));
        let fill = |lanes: &mut Lanes| (0..STREAM).for_each(|_| lanes.note(&plain, 8));
        fill(&mut lanes);
        assert!(!lanes.has_more(&plain), "it would overtake the one that is under way");
        lanes.leave(id(0), lane_of(&plain));
        assert!(lanes.has_more(&plain) && !lanes.has_more(&peek) && !lanes.has_more(&send(3, 1)));
        assert!(
            !lanes.has_more(&recv(2, 0)) && !lanes.has_more(&recv(0, 0)),
            "another object, or nobody knows which"
        );
        lanes.note(&peek, 3);
        assert!(lanes.has_more(&plain), "a look takes nothing");
        for result in [7, 0, -libc::ECONNRESET] {
            fill(&mut lanes);
            lanes.note(&plain, result);
            assert!(!lanes.has_more(&plain), "{result}");
            (1..STREAM).for_each(|_| lanes.note(&plain, 8));
            assert!(!lanes.has_more(&plain), "a message in pieces");
        }
    }

    #[test]
    fn what_was_tried_in_vain_is_tried_less_and_less() {
        let mut lanes = Lanes::default();
        let recv = Request::Recv {
            handle: Handle { fd: 3, identity: 1 },
            buf: std::ptr::null_mut(),
            len: 8,
            flags: 0,
        };
        assert!(!lanes.is_worth_a_try(&recv), "nothing is known of it");
        assert!(enter(&mut lanes, id(0), &recv));
        assert!(!lanes.is_worth_a_try(&recv), "it would overtake the one that is under way");
        assert!(lanes.is_worth_a_try(&send(3, 1)), "the other direction");
        lanes.leave(id(0), lane_of(&recv));
        for left_alone in [1, 3, 7, 15, 31, 63, 63] {
            assert!(lanes.is_worth_a_try(&recv));
            lanes.note_try(&recv, false);
            assert!((0..left_alone).all(|_| !lanes.is_worth_a_try(&recv)));
        }
        assert!(lanes.is_worth_a_try(&recv));
        lanes.note_try(&recv, true);
        assert!(lanes.is_worth_a_try(&recv));
        assert!(!lanes.is_worth_a_try(&send(3, 2)) && !lanes.is_worth_a_try(&send(3, 0)));
    }

    #[test]
    fn another_object_with_the_number_waits_for_nobody() {
        let mut lanes = Lanes::default();
        assert!(enter(&mut lanes, id(0), &send(3, 1)));
        assert!(enter(&mut lanes, id(1), &send(3, 2)));
        assert_eq!(lanes.leave(id(0), lane_of(&send(3, 1))), None);
        assert!(!enter(&mut lanes, id(2), &send(3, 2)), "still the second one's turn");
        assert!(enter(&mut lanes, id(3), &send(4, 0)) && enter(&mut lanes, id(4), &send(4, 0)), "foreign");
    }
}
