//! What may be let go, what may be moved, and when.
//!
//! Pure: what was stored, finished, moved and retired goes in; which segments may be retired comes out.
//!
//! The order of letting go: an outcome is durable; then its message is finished here; then a sealed
//! segment without live messages is retired by a durable overwrite of its header; only then
//! may outcomes that name its messages go. Messages and outcomes lie in separate segments, so
//! that this order has no cycles: messages wait for nothing but their own outcomes, outcomes wait
//! for nothing but messages.
//!
//! A message that moves from segment A to B, and what a crash finds. `old` are outcomes that every
//! later copy covers, `new` those that the copy in B may lack (see `progress`):
//!
//! ```text
//! state      in A   in B    outcomes     after a crash
//! stays      yes    no      old, new     one message
//! copying    yes    torn?   old, new     one message; the copy counts once it is whole
//! doubtful   yes    whole?  old, new     the write failed: perhaps two copies, one message
//! moved      yes    yes     old, new     two copies, one message: what they say is joined
//! A retired  no     yes     new          one message: B says what `old` said
//! B retired  no     no      none         nothing
//! ```
//!
//! Two rules keep out of this table what is not in it:
//!
//! * *B is held by A*: it is not retired before A. Else outcomes that name only B would go with it, and A's
//!   copy would bring back finished mail. The newer always waits for the older, so no circle forms.
//! * *A passes on*: when it is retired, outcomes that a copy may lack refer to the segments that A's
//!   messages moved to, whether the message is alive there or was finished meanwhile.

mod outcomes;

pub use outcomes::{Extent, OutcomeLiveness, Round};

use crate::message::MessageId;
use crate::spool::format::Generation;
use crate::spool::location::place::Part;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Sealed segments are worth emptying when less than one part in this many of them is live. So a
/// byte is copied for each that is gained, at most, and sealed segments take at most about twice
/// what is live in them.
///
/// What is gained is an estimate: a segment that is sealed before it is full, because the next commit had no room, or whose
/// commits are small, is less than half live although nothing of it has ended, and so is the next one that its mail is copied to. So each
/// copy is paid for: mail is copied once, as it came or was recovered; copies again when as much beside them has ended, or when the log of
/// outcomes has needed a further segment. Whatever the sizes, no more is copied than twice what has come, and a segment
/// for each of outcomes.
pub const WORTHWHILE_PARTS: u64 = 2;

/// Which segments the parts of a message lie in. Nearly always one.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Parts {
    One(Part),
    Many(Box<[Part]>),
}

impl Parts {
    fn of(parts: &[Part]) -> Self {
        match parts {
            [part] => Parts::One(*part),
            _ => Parts::Many(parts.into()),
        }
    }

    fn is_in(&self, generation: Generation) -> bool {
        self.as_slice()
            .iter()
            .any(|(other, _)| *other == generation)
    }

    fn as_slice(&self) -> &[Part] {
        match self {
            Parts::One(part) => std::slice::from_ref(part),
            Parts::Many(parts) => parts,
        }
    }
}

fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|(_, bytes)| bytes).sum()
}

/// May a segment's messages be moved?
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Moving {
    #[default]
    Yes,
    /// None of them could be moved; perhaps when something has changed.
    Later,
    /// One of them cannot be read.
    Never,
}

#[derive(Default, Debug)]
struct MessageSegment {
    live: u64,
    /// What moving the live messages would write, about: all parts of those that are partly here.
    live_bytes: u64,
    /// The same of all that was ever stored here, and of that the copies.
    stored_bytes: u64,
    copied_bytes: u64,
    /// Copies may be copied again, for the sake of outcomes.
    is_granted: bool,
    sealed: bool,
    /// Grows in the order in which segments are begun.
    order: u64,
    /// All messages that may ever have a record here, alive or not, in their order. One that is alive is named once: else it
    /// would be copied twice at a time.
    stored: Vec<Stored>,
    /// Of all of them.
    recipients: u64,
    /// So many copies came here, or may have.
    copies: u64,
    /// Older segments that are retired first: messages here have another copy there.
    held_by: BTreeSet<Generation>,
    /// Where copies of messages from here lie.
    moved_to: BTreeSet<Generation>,
    moving: Moving,
}

/// A message in a segment.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub id: MessageId,
    pub recipients: u32,
}

impl MessageSegment {
    fn names(&mut self, stored: Stored) {
        self.recipients += u64::from(stored.recipients);
        self.stored.push(stored);
    }

    fn is_worth_emptying(&self, segment_bytes: u64) -> bool {
        self.live_bytes * WORTHWHILE_PARTS < segment_bytes && self.is_paid()
    }

    fn is_paid(&self) -> bool {
        let ended = self.stored_bytes.saturating_sub(self.live_bytes);
        self.is_granted || self.live_bytes.min(self.copied_bytes) <= ended
    }
}

/// The message segments of one home core, and the messages alive in them.
#[derive(Default, Debug)]
pub struct MessageLiveness {
    segments: BTreeMap<Generation, MessageSegment>,
    live: HashMap<MessageId, Parts>,
    /// Segments that are sealed, have nothing live, and are not held.
    idle: BTreeSet<Generation>,
    orders: u64,
}

impl MessageLiveness {
    /// A segment of this core, empty or with messages that [`Self::stored`] will name.
    pub fn opened(&mut self, generation: Generation) {
        self.segment(generation);
    }

    fn segment(&mut self, generation: Generation) -> &mut MessageSegment {
        let orders = &mut self.orders;
        self.segments.entry(generation).or_insert_with(|| {
            *orders += 1;
            MessageSegment {
                order: *orders,
                ..MessageSegment::default()
            }
        })
    }

    /// The segment gets no more commits.
    pub fn sealed(&mut self, generation: Generation) {
        self.segment(generation).sealed = true;
        self.review(generation);
        for segment in self.segments.values_mut() {
            if segment.moving == Moving::Later {
                segment.moving = Moving::Yes;
            }
        }
    }

    /// Keeps `idle` true after a change to the segment.
    fn review(&mut self, generation: Generation) {
        let is_idle = self.segments.get(&generation).is_some_and(|segment| {
            segment.sealed && segment.live == 0 && segment.held_by.is_empty()
        });
        match is_idle {
            true => self.idle.insert(generation),
            false => self.idle.remove(&generation),
        };
    }

    /// A message is durable; `parts` are all segments that its parts lie in, each once.
    pub fn stored(&mut self, id: MessageId, parts: &[Part], recipients: u32) {
        assert!(!parts.is_empty());
        let bytes = total(parts);
        for (generation, _) in parts {
            let segment = self.count(*generation, bytes);
            segment.names(Stored { id, recipients });
        }
        let before = self.live.insert(id, Parts::of(parts));
        assert!(before.is_none(), "a message id is stored once");
    }

    /// Part of a message of so many bytes is in the segment.
    fn count(&mut self, generation: Generation, bytes: u64) -> &mut MessageSegment {
        self.idle.remove(&generation);
        let segment = self.segment(generation);
        segment.live += 1;
        segment.live_bytes += bytes;
        segment.stored_bytes += bytes;
        segment
    }

    /// All recipients are finished and that is durable. False if the message is not alive here.
    pub fn finished(&mut self, id: MessageId) -> bool {
        self.take(id).is_some()
    }

    /// Not alive any more: where it lay.
    fn take(&mut self, id: MessageId) -> Option<Parts> {
        let parts = self.live.remove(&id)?;
        let bytes = total(parts.as_slice());
        for (generation, _) in parts.as_slice() {
            let segment = self
                .segments
                .get_mut(generation)
                .expect("counted when stored");
            segment.live -= 1;
            segment.live_bytes -= bytes;
            self.review(*generation);
        }
        Some(parts)
    }

    /// A copy of a message that lies in `from` is durable in `to`. False if the message was
    /// finished meanwhile: the copy is left to its segment. Nobody may have retired `from`.
    pub fn moved(&mut self, id: MessageId, from: &[Part], to: &[Part], recipients: u32) -> bool {
        for (old, _) in from {
            for (new, _) in to.iter().filter(|(new, _)| new != old) {
                self.pass_on(*old, *new);
                self.held(*new, *old);
            }
        }
        let stored = Stored { id, recipients };
        let Some(before) = self.take(id) else {
            let generations = to.iter().map(|(generation, _)| *generation);
            generations.for_each(|generation| self.copied(generation, stored));
            return false;
        };
        let bytes = total(to);
        for (generation, _) in to {
            let segment = self.count(*generation, bytes);
            segment.copied_bytes += bytes;
            match before.is_in(*generation) {
                true => segment.copies += 1,
                false => self.copied(*generation, stored),
            }
        }
        self.live.insert(id, Parts::of(to));
        true
    }

    /// Writing a copy to `to` failed, and perhaps it is there all the same: until the message
    /// is finished or has moved elsewhere, it is alive there, too. False if it was finished meanwhile.
    pub fn note_uncertain_copy(
        &mut self,
        id: MessageId,
        from: &[Part],
        to: Generation,
        recipients: u32,
    ) -> bool {
        for (old, _) in from {
            self.pass_on(*old, to);
        }
        self.copied(to, Stored { id, recipients });
        let Some(parts) = self.live.get_mut(&id) else {
            return false;
        };
        let bytes = total(parts.as_slice());
        let more: Vec<Part> = parts.as_slice().iter().copied().chain([(to, 0)]).collect();
        *parts = Parts::of(&more);
        self.count(to, bytes);
        true
    }

    /// A copy is or may be there. Outcomes that name the message lean on the segment from now on, also if it is finished.
    fn copied(&mut self, generation: Generation, stored: Stored) {
        let segment = self.segment(generation);
        segment.copies += 1;
        segment.names(stored);
    }

    fn pass_on(&mut self, from: Generation, to: Generation) {
        let segment = self.segments.get_mut(&from);
        segment.expect("it is pinned").moved_to.insert(to);
    }

    /// The segment is not retired before `by`, which may belong to another core.
    pub fn held(&mut self, generation: Generation, by: Generation) {
        self.segment(generation).held_by.insert(by);
        self.review(generation);
    }

    /// Segments that may be retired, unless somebody still reads from them.
    pub fn idle(&self) -> impl Iterator<Item = Generation> + '_ {
        self.idle.iter().copied()
    }

    /// The segment's header was durably overwritten. Returns what outcomes may refer to in its
    /// place: see [`OutcomeLiveness::message_segment_retired`].
    pub fn retired(&mut self, generation: Generation) -> Vec<Generation> {
        assert!(
            self.idle.remove(&generation),
            "only an idle segment is retired"
        );
        let segment = self.segments.remove(&generation).expect("it was idle");
        self.retired_elsewhere(generation);
        segment.moved_to.into_iter().collect()
    }

    /// The same of another core's segment.
    pub fn retired_elsewhere(&mut self, generation: Generation) {
        let mut released = Vec::new();
        for (other, segment) in &mut self.segments {
            segment.moved_to.remove(&generation);
            if segment.held_by.remove(&generation) {
                released.push(*other);
            }
        }
        released.into_iter().for_each(|other| self.review(other));
    }

    // ---- moving ----

    /// The segment whose messages are moved next, if that is worthwhile. When space is not yet
    /// `scarce`, all sealed segments together must be, and the newest is left alone: its mail may
    /// be on its way out. It is one whose messages have `room`: half a move gains nothing.
    pub fn candidate(&self, segment_bytes: u64, room: u64, scarce: bool) -> Option<Generation> {
        let sealed = || self.segments.iter().filter(|(_, s)| s.sealed && s.live > 0);
        let newest = sealed().map(|(_, segment)| segment.order).max()?;
        let live_bytes: u64 = sealed().map(|(_, segment)| segment.live_bytes).sum();
        let occupied = sealed().count() as u64 * segment_bytes;
        if !scarce && live_bytes * WORTHWHILE_PARTS >= occupied {
            return None;
        }
        sealed()
            .filter(|(_, segment)| {
                segment.moving == Moving::Yes
                    && segment.held_by.is_empty()
                    && segment.is_worth_emptying(segment_bytes)
                    && segment.live_bytes <= room
                    && (scarce || segment.order < newest)
            })
            .min_by_key(|(_, segment)| (segment.live_bytes, segment.order))
            .map(|(generation, _)| *generation)
    }

    /// Sealed, the segment at work could be emptied, or is empty, and of what is used of it more is gained than is copied.
    pub fn is_worth_leaving(
        &self,
        generation: Generation,
        used_bytes: u64,
        segment_bytes: u64,
    ) -> bool {
        let segment = self.segments.get(&generation);
        segment.is_some_and(|segment| {
            segment.live_bytes * WORTHWHILE_PARTS < used_bytes
                && segment.is_worth_emptying(segment_bytes)
        })
    }

    /// The log of outcomes has needed a further segment. The oldest copies may be what it keeps outcomes for.
    pub fn outcomes_grew(&mut self) {
        let unpaid = self.segments.values_mut();
        let unpaid = unpaid.filter(|segment| segment.sealed && !segment.is_paid());
        if let Some(segment) = unpaid.min_by_key(|segment| segment.order) {
            segment.is_granted = true;
        }
    }

    /// Nothing in the segment is alive.
    pub fn is_dead(&self, generation: Generation) -> bool {
        self.segments
            .get(&generation)
            .is_none_or(|segment| segment.live == 0)
    }

    /// The next live message of a segment. `cursor` starts at zero; `Err` says that many dead ones
    /// were passed and that it is somebody else's turn.
    pub fn next_to_move(
        &self,
        generation: Generation,
        cursor: &mut usize,
    ) -> Result<Option<MessageId>, Busy> {
        let left = self.stored_in(generation).get(*cursor..);
        let left = left.unwrap_or_default();
        for Stored { id, .. } in left.iter().take(LOOK_MAX) {
            *cursor += 1;
            let parts = self.live.get(id);
            if parts.is_some_and(|parts| parts.is_in(generation)) {
                return Ok(Some(*id));
            }
        }
        match left.len() > LOOK_MAX {
            true => Err(Busy),
            false => Ok(None),
        }
    }

    /// Nothing in the segment could be moved: not again before another one is sealed.
    pub fn postpone_moving(&mut self, generation: Generation) {
        if let Some(segment) = self.segments.get_mut(&generation)
            && segment.moving == Moving::Yes
        {
            segment.moving = Moving::Later;
        }
    }

    /// A message in the segment cannot be read: it stays, and so does the segment.
    pub fn forbid_moving(&mut self, generation: Generation) {
        if let Some(segment) = self.segments.get_mut(&generation) {
            segment.moving = Moving::Never;
        }
    }

    // ---- what outcomes name ----

    /// All messages that may have a record in the segment, alive or not, in the order in which they came there.
    pub fn stored_in(&self, generation: Generation) -> &[Stored] {
        let segment = self.segments.get(&generation);
        segment.map_or(&[], |segment| &segment.stored)
    }

    /// How many copies came to the segment, or may have.
    pub fn copies_in(&self, generation: Generation) -> u64 {
        let segment = self.segments.get(&generation);
        segment.map_or(0, |segment| segment.copies)
    }

    /// All segments, and of their messages in all: how many, with how many recipients.
    pub fn all_stored(&self) -> (Vec<Generation>, u64, u64) {
        let segments = || self.segments.values();
        let messages = segments().map(|segment| segment.stored.len() as u64).sum();
        let recipients = segments().map(|segment| segment.recipients).sum();
        (
            self.segments.keys().copied().collect(),
            messages,
            recipients,
        )
    }

    pub fn is_live(&self, id: MessageId) -> bool {
        self.live.contains_key(&id)
    }

    pub fn live_messages(&self) -> usize {
        self.live.len()
    }

    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

/// Dead messages that are passed in one turn.
const LOOK_MAX: usize = 1000;

/// There is more, in the next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::format::SegmentId;

    fn generation(number: u32) -> Generation {
        Generation {
            segment: SegmentId { core: 0, number },
            number: 1,
        }
    }

    fn id(sequence: u64) -> MessageId {
        MessageId {
            run: 1,
            core: 0,
            sequence,
        }
    }

    #[test]
    fn a_segment_is_idle_when_sealed_and_all_finished() {
        let mut book = MessageLiveness::default();
        book.opened(generation(1));
        book.stored(id(1), &[(generation(1), 10)], 1);
        book.stored(id(2), &[(generation(1), 10), (generation(2), 5)], 1);
        book.sealed(generation(1));
        assert!(book.finished(id(1)));
        assert_eq!(book.idle().count(), 0);
        assert!(book.finished(id(2)));
        assert!(!book.finished(id(2)), "a second time changes nothing");
        assert_eq!(book.idle().collect::<Vec<_>>(), [generation(1)]);
        book.sealed(generation(2));
        book.retired(generation(1));
        assert_eq!(book.idle().collect::<Vec<_>>(), [generation(2)]);
    }

    fn sealed(generation: Generation, book: &mut MessageLiveness) {
        book.opened(generation);
        book.sealed(generation);
    }

    #[test]
    fn the_copy_waits_for_the_original() {
        let mut book = MessageLiveness::default();
        book.stored(id(1), &[(generation(1), 10)], 1);
        book.stored(id(2), &[(generation(1), 10)], 1);
        sealed(generation(1), &mut book);
        assert!(book.moved(id(1), &[(generation(1), 10)], &[(generation(2), 10)], 1));
        sealed(generation(2), &mut book);
        assert!(book.finished(id(1)));
        assert_eq!(
            book.idle().count(),
            0,
            "generation 2 is held by generation 1"
        );
        assert!(book.finished(id(2)));
        assert_eq!(book.idle().collect::<Vec<_>>(), [generation(1)]);
        assert_eq!(book.retired(generation(1)), [generation(2)]);
        assert_eq!(book.idle().collect::<Vec<_>>(), [generation(2)]);
        assert_eq!(book.retired(generation(2)), []);
    }

    #[test]
    fn mail_that_finished_while_it_was_copied_leaves_its_copy_behind() {
        let mut book = MessageLiveness::default();
        book.stored(id(1), &[(generation(1), 10)], 1);
        sealed(generation(1), &mut book);
        assert!(book.finished(id(1)));
        assert!(!book.moved(id(1), &[(generation(1), 10)], &[(generation(2), 10)], 1));
        assert_eq!(book.retired(generation(1)), [generation(2)]);
        let mut outcomes = OutcomeLiveness::default();
        outcomes.refers(generation(7), &[generation(1)], false);
        outcomes.refers(generation(8), &[generation(1)], true);
        outcomes.sealed(generation(7));
        outcomes.sealed(generation(8));
        outcomes.message_segment_retired(generation(1), &[generation(2)]);
        assert_eq!(outcomes.idle().collect::<Vec<_>>(), [generation(8)]);
        outcomes.message_segment_retired(generation(2), &[]);
        assert_eq!(
            outcomes.idle().collect::<Vec<_>>(),
            [generation(7), generation(8)]
        );
    }

    #[test]
    fn a_copy_whose_write_failed_is_reckoned_with() {
        let mut book = MessageLiveness::default();
        book.stored(id(1), &[(generation(1), 10)], 1);
        sealed(generation(1), &mut book);
        assert!(book.note_uncertain_copy(id(1), &[(generation(1), 10)], generation(2), 1));
        sealed(generation(2), &mut book);
        assert_eq!(book.idle().count(), 0);
        assert!(book.moved(
            id(1),
            &[(generation(1), 10), (generation(2), 0)],
            &[(generation(3), 10)],
            1
        ));
        assert_eq!(
            book.idle().collect::<Vec<_>>(),
            [generation(1), generation(2)]
        );
        assert_eq!(book.retired(generation(1)), [generation(2), generation(3)]);
    }

    /// Else it would be copied twice at a time, and the books would know of one copy only.
    #[test]
    fn a_message_is_named_once_to_those_who_move_it_although_a_copy_failed() {
        let mut book = MessageLiveness::default();
        book.stored(id(1), &[(generation(1), 10)], 1);
        sealed(generation(1), &mut book);
        let mut from = vec![(generation(1), 10)];
        for (number, failed) in (2..).zip(0..3) {
            assert!(book.note_uncertain_copy(id(1), &from, generation(number), 1));
            from.push((generation(number), 0));
            let mut cursor = 0;
            let mut next = || book.next_to_move(generation(1), &mut cursor);
            assert_eq!(next(), Ok(Some(id(1))), "{failed}");
            assert_eq!(next(), Ok(None), "{failed}");
        }
        assert!(book.finished(id(1)));
        for number in 2..5 {
            sealed(generation(number), &mut book);
        }
        assert_eq!(book.idle().count(), 4);
    }

    /// A long message begins in one segment and ends in the next; its copy goes behind its end.
    #[test]
    fn a_message_that_moved_within_a_segment_is_named_once() {
        let mut book = MessageLiveness::default();
        let from = [(generation(1), 10), (generation(2), 5)];
        book.stored(id(1), &from, 1);
        sealed(generation(1), &mut book);
        assert!(book.moved(id(1), &from, &[(generation(2), 15)], 1));
        sealed(generation(2), &mut book);
        let mut cursor = 0;
        assert_eq!(
            book.next_to_move(generation(2), &mut cursor),
            Ok(Some(id(1)))
        );
        assert_eq!(book.next_to_move(generation(2), &mut cursor), Ok(None));
    }

    #[test]
    fn a_message_that_has_left_a_segment_is_not_moved_for_its_sake() {
        let mut book = MessageLiveness::default();
        for n in [1, 2] {
            book.stored(id(n), &[(generation(1), 10)], 1);
        }
        sealed(generation(1), &mut book);
        assert!(book.moved(id(1), &[(generation(1), 10)], &[(generation(2), 10)], 1));
        let mut cursor = 0;
        assert_eq!(
            book.next_to_move(generation(1), &mut cursor),
            Ok(Some(id(2)))
        );
        assert_eq!(book.next_to_move(generation(1), &mut cursor), Ok(None));
    }

    #[test]
    fn the_emptiest_segment_is_moved_when_that_is_worthwhile() {
        let mut book = MessageLiveness::default();
        for (number, bytes) in [(1, 30), (2, 10), (3, 5)] {
            book.stored(id(u64::from(number)), &[(generation(number), bytes)], 1);
            sealed(generation(number), &mut book);
        }
        assert_eq!(
            book.candidate(100, 100, false),
            Some(generation(2)),
            "not the newest"
        );
        assert_eq!(book.candidate(100, 100, true), Some(generation(3)));
        assert_eq!(book.candidate(100, 4, true), None);
        assert_eq!(book.candidate(30, 100, false), None);
        assert_eq!(book.candidate(25, 100, true), Some(generation(3)));
        assert!(book.is_worth_leaving(generation(2), 25, 25));
        assert!(
            !book.is_worth_leaving(generation(2), 20, 25),
            "half is live"
        );
        assert!(!book.is_worth_leaving(generation(2), 20, 20));
        assert!(
            !book.is_worth_leaving(generation(9), 100, 100),
            "there is none"
        );
        book.postpone_moving(generation(3));
        assert_eq!(book.candidate(25, 100, true), Some(generation(2)));
        book.forbid_moving(generation(2));
        assert_eq!(book.candidate(25, 100, true), None);
        sealed(generation(4), &mut book);
        assert_eq!(book.candidate(25, 100, true), Some(generation(3)));
    }

    /// Two messages in generation 2, copied from generation 1.
    fn copied() -> MessageLiveness {
        let mut book = MessageLiveness::default();
        for n in [1, 2] {
            book.stored(id(n), &[(generation(1), 10)], 1);
        }
        sealed(generation(1), &mut book);
        assert_eq!(book.candidate(100, 100, true), Some(generation(1)));
        for n in [1, 2] {
            assert!(book.moved(id(n), &[(generation(1), 10)], &[(generation(2), 10)], 1));
        }
        book.retired(generation(1));
        sealed(generation(2), &mut book);
        book
    }

    #[test]
    fn copies_are_not_copied_again_before_as_much_has_ended() {
        let mut book = copied();
        assert_eq!(book.candidate(100, 100, true), None);
        assert!(!book.is_worth_leaving(generation(2), 100, 100));
        assert!(book.finished(id(1)));
        assert_eq!(book.candidate(100, 100, true), Some(generation(2)));
        assert!(book.moved(id(2), &[(generation(2), 10)], &[(generation(3), 10)], 1));
        sealed(generation(3), &mut book);
        book.retired(generation(2));
        assert_eq!(book.candidate(100, 100, true), None);
    }

    #[test]
    fn mail_beside_copies_is_copied_once_and_a_failed_copy_pays_for_nothing() {
        let mut book = MessageLiveness::default();
        book.stored(id(1), &[(generation(1), 10)], 1);
        sealed(generation(1), &mut book);
        assert!(book.moved(id(1), &[(generation(1), 10)], &[(generation(2), 10)], 1));
        book.stored(id(2), &[(generation(2), 10)], 1);
        book.retired(generation(1));
        sealed(generation(2), &mut book);
        assert_eq!(book.candidate(100, 100, true), None);
        assert!(book.note_uncertain_copy(id(2), &[(generation(2), 10)], generation(3), 1));
        assert_eq!(book.candidate(100, 100, true), None);
        assert!(book.finished(id(2)));
        assert_eq!(book.candidate(100, 100, true), Some(generation(2)));
    }

    #[test]
    fn outcomes_that_need_a_further_segment_have_the_oldest_copies_copied_again() {
        let mut book = copied();
        book.outcomes_grew();
        assert_eq!(book.candidate(100, 100, true), Some(generation(2)));
        for n in [1, 2] {
            assert!(book.moved(id(n), &[(generation(2), 10)], &[(generation(3), 10)], 1));
        }
        book.retired(generation(2));
        sealed(generation(3), &mut book);
        assert_eq!(book.candidate(100, 100, true), None);
    }

    #[test]
    fn dead_messages_are_passed_in_turns() {
        let mut book = MessageLiveness::default();
        for n in 0..2500 {
            book.stored(id(n), &[(generation(1), 1)], 1);
            assert!(n == 2400 || book.finished(id(n)));
        }
        let mut cursor = 0;
        assert_eq!(book.next_to_move(generation(1), &mut cursor), Err(Busy));
        assert_eq!(book.next_to_move(generation(1), &mut cursor), Err(Busy));
        assert_eq!(
            book.next_to_move(generation(1), &mut cursor),
            Ok(Some(id(2400)))
        );
        assert_eq!(book.next_to_move(generation(1), &mut cursor), Ok(None));
    }
}
