//! Which outcome segments may go, and when what is needed of them is written again so that they may.
//!
//! Each attempt that defers a recipient is a record, and one message that waits keeps the segments with all of them. But states
//! are absolute, and the home of a message knows them. So once they are written again, nothing that stands in older segments
//! is needed: they are *rewritten*, message segment by message segment.
//!
//! ```text
//! state      old outcomes   written again   a crash finds
//! begun      all            some            what both say, joined
//! durable    all            all             the same
//! retiring   some           all             the same, less what is said twice
//! ```
//!
//! Of a message segment *all* messages are written again that may have a record there: those that wait with their states, and
//! those that are finished as finished, for the record of the message is still on the disk. Segments of earlier runs, and the
//! one that a start has folded, say things of messages that this run never knew. They are left to the next start.

use crate::spool::format::{Generation, RECORD_HEAD_BYTES};
use std::collections::{BTreeMap, BTreeSet};

/// So many sealed segments are not worth it.
const LEFT_ALONE: u64 = 2;

/// Of a recipient's state, before a first round has shown it.
const STATE_BYTES: u64 = 16;

/// One part in so many is added for the end of each commit.
const PADDING_PARTS: u64 = 16;

/// What there is that outcomes may name, and where more may be written.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Messages that may have a record in some message segment, and their recipients.
    pub messages: u64,
    pub recipients: u64,
    pub segment_bytes: u64,
    /// What the log of outcomes can take before it needs a segment that is not there.
    pub room_bytes: u64,
    /// No further segment is to be had.
    pub is_short: bool,
}

/// Outcome segments that are being rewritten.
#[derive(Debug)]
pub struct Round {
    pub outcomes: BTreeSet<Generation>,
    extent: Extent,
}

#[derive(Default, Debug)]
struct OutcomeSegment {
    /// Message segments whose messages are named here, and whether copies of those messages may
    /// lack what is said here.
    refers_to: BTreeMap<Generation, bool>,
    sealed: bool,
    /// All that it says is of messages that this run knows.
    is_of_this_run: bool,
}

/// The outcome segments of one core, and the message segments that they are needed for.
#[derive(Default, Debug)]
pub struct OutcomeLiveness {
    segments: BTreeMap<Generation, OutcomeSegment>,
    /// How many were ever sealed, and how many had been at the last round.
    sealed: u64,
    sealed_before: u64,
    /// Of a recipient's state, as the last round has shown it.
    state_bytes: Option<u64>,
}

impl OutcomeLiveness {
    /// A segment without outcomes.
    pub fn opened(&mut self, generation: Generation) {
        (self.segments.entry(generation).or_default()).is_of_this_run = true;
    }

    /// All that was written to the segment is durable and was named to [`Self::refers`], and it gets no more.
    pub fn sealed(&mut self, generation: Generation) {
        self.segments.entry(generation).or_default().sealed = true;
        self.sealed += 1;
    }

    /// An outcome in `generation` names a message that lies in `message_generations`. These must not be retired
    /// yet: whoever writes an outcome holds the message's place. `is_covered`: every later copy
    /// of the message says what the outcome says.
    pub fn refers(
        &mut self,
        generation: Generation,
        message_generations: &[Generation],
        is_covered: bool,
    ) {
        let segment = self.segments.entry(generation).or_default();
        for message_generation in message_generations {
            *segment.refers_to.entry(*message_generation).or_default() |= !is_covered;
        }
    }

    /// A message segment, of any core, was retired; copies of its messages are in `moved_to`. Notes
    /// of one core must come in their order.
    pub fn message_segment_retired(&mut self, retired: Generation, moved_to: &[Generation]) {
        for segment in self.segments.values_mut() {
            if segment.refers_to.remove(&retired) == Some(true) {
                for generation in moved_to {
                    segment.refers_to.entry(*generation).or_default();
                }
            }
        }
    }

    /// Segments that may be retired.
    pub fn idle(&self) -> impl Iterator<Item = Generation> + '_ {
        self.segments
            .iter()
            .filter(|(_, segment)| segment.sealed && segment.refers_to.is_empty())
            .map(|(generation, _)| *generation)
    }

    pub fn retired(&mut self, generation: Generation) {
        let segment = self.segments.remove(&generation).expect("retired once");
        assert!(segment.sealed && segment.refers_to.is_empty());
    }

    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    // ---- rewriting ----

    /// What is rewritten, if that is worth it: what is needed of these segments is less than half of them, or, where no
    /// further segment is to be had, has room and frees half of one. Not twice before another one was sealed, so
    /// that nothing is written again and again for nothing.
    pub fn begin_round(&mut self, extent: Extent) -> Option<Round> {
        let can_go = |it: &OutcomeSegment| it.sealed && it.is_of_this_run;
        let outcomes = self.segments.iter().filter(|(_, it)| can_go(it));
        let outcomes: BTreeSet<Generation> = outcomes.map(|(generation, _)| *generation).collect();
        if outcomes.is_empty() || self.sealed == self.sealed_before {
            return None;
        }
        let segment_bytes = extent.segment_bytes;
        let taken = outcomes.len() as u64 * segment_bytes;
        let needed = self.needed_bytes(extent);
        let is_worth_it = taken >= 2 * needed + LEFT_ALONE * segment_bytes;
        let has_room = needed + segment_bytes / PADDING_PARTS <= extent.room_bytes;
        let helps = extent.is_short && has_room && taken >= needed + segment_bytes / 2;
        (is_worth_it || helps).then(|| {
            self.sealed_before = self.sealed;
            Round { outcomes, extent }
        })
    }

    /// About what it takes to say how all recipients stand.
    fn needed_bytes(&self, extent: Extent) -> u64 {
        let of_messages = extent.messages * RECORD_HEAD_BYTES as u64;
        let state_bytes = self.state_bytes.unwrap_or(STATE_BYTES);
        let bytes = of_messages + extent.recipients * state_bytes;
        bytes + bytes / PADDING_PARTS
    }

    /// How all messages of that segment stand is durable in outcome segments behind those of the round.
    pub fn restated(&mut self, round: &Round, message_generation: Generation) {
        for generation in &round.outcomes {
            if let Some(segment) = self.segments.get_mut(generation) {
                segment.refers_to.remove(&message_generation);
            }
        }
    }

    /// There was no room for the rest. The next look may begin another one.
    pub fn give_up_round(&mut self) {
        self.sealed_before = 0;
    }

    /// All of the round is written; that took so many bytes.
    pub fn end_round(&mut self, round: &Round, bytes: u64) {
        let Extent {
            messages,
            recipients,
            ..
        } = round.extent;
        let of_states = bytes.saturating_sub(messages * RECORD_HEAD_BYTES as u64);
        self.state_bytes = Some((of_states / recipients.max(1)).max(STATE_BYTES));
    }
}

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

    #[test]
    fn outcomes_outlive_the_messages_they_name() {
        let mut book = OutcomeLiveness::default();
        book.opened(generation(7));
        book.refers(generation(7), &[generation(1), generation(2)], true);
        book.sealed(generation(7));
        book.message_segment_retired(generation(1), &[]);
        assert_eq!(book.idle().count(), 0);
        book.message_segment_retired(generation(2), &[]);
        assert_eq!(book.idle().collect::<Vec<_>>(), [generation(7)]);
    }

    const SEGMENT: u64 = 64 * 1024;

    fn extent(recipients: u64) -> Extent {
        Extent {
            messages: recipients,
            recipients,
            segment_bytes: SEGMENT,
            room_bytes: SEGMENT,
            is_short: false,
        }
    }

    /// So many sealed segments that lean on two message segments.
    fn sealed(count: u32) -> OutcomeLiveness {
        let mut book = OutcomeLiveness::default();
        for number in 10..10 + count {
            book.opened(generation(number));
            book.refers(generation(number), &[generation(1), generation(2)], false);
            book.sealed(generation(number));
        }
        book
    }

    #[test]
    fn segments_go_when_all_that_they_lean_on_is_written_again() {
        let mut book = sealed(3);
        let round = book.begin_round(extent(100)).expect("it is worth it");
        book.opened(generation(20));
        book.refers(generation(20), &[generation(1)], true);
        book.restated(&round, generation(1));
        assert_eq!(book.idle().count(), 0);
        // A copy went from one to another meanwhile.
        book.message_segment_retired(generation(2), &[generation(3)]);
        book.restated(&round, generation(2));
        assert_eq!(book.idle().count(), 0);
        book.message_segment_retired(generation(3), &[]);
        assert_eq!(book.idle().count(), 3);
        book.sealed(generation(20));
        assert_eq!(book.idle().count(), 3, "that one is needed");
    }

    #[test]
    fn nothing_is_written_again_for_nothing() {
        assert!(sealed(2).begin_round(extent(100)).is_none());
        assert!(sealed(3).begin_round(extent(10_000)).is_none());
        let mut book = sealed(3);
        let round = book.begin_round(extent(100)).expect("it is worth it");
        assert!(book.begin_round(extent(100)).is_none(), "nothing has come");
        // States take more than was reckoned with.
        book.end_round(&round, 65_000);
        book.opened(generation(20));
        book.sealed(generation(20));
        assert!(book.begin_round(extent(100)).is_none());
        book.opened(generation(21));
        book.sealed(generation(21));
        assert!(book.begin_round(extent(10)).is_some());
    }

    #[test]
    fn where_no_segment_is_to_be_had_half_of_one_is_worth_it() {
        let short = |recipients| Extent {
            is_short: true,
            ..extent(recipients)
        };
        assert!(sealed(1).begin_round(short(100)).is_some());
        assert!(sealed(1).begin_round(short(1_000)).is_none());
        assert!(sealed(2).begin_round(short(1_200)).is_none(), "no room");
    }

    #[test]
    fn segments_of_earlier_runs_are_left_alone() {
        let mut book = sealed(3);
        book.refers(generation(9), &[generation(1)], true);
        book.sealed(generation(9));
        let round = book.begin_round(extent(1)).expect("it is worth it");
        assert!(!round.outcomes.contains(&generation(9)));
    }
}
