//! What may be let go, and when.
//!
//! Pure: what was stored, finished and retired goes in; which segments may be retired comes out.
//!
//! The order of letting go: an outcome is durable; then its message is finished here; then a sealed
//! segment without live messages is retired by a durable overwrite of its header; only then
//! may outcomes that name its messages go. Messages and outcomes lie in separate segments, so
//! that this order has no cycles: messages wait for nothing but their own outcomes, outcomes wait
//! for nothing but messages.

use crate::message::MessageId;
use crate::spool::record::Lap;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Which segments the parts of a message lie in. Nearly always one.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Laps {
    One(Lap),
    Many(Box<[Lap]>),
}

impl Laps {
    fn as_slice(&self) -> &[Lap] {
        match self {
            Laps::One(lap) => std::slice::from_ref(lap),
            Laps::Many(laps) => laps,
        }
    }
}

#[derive(Default, Debug)]
struct MessageSegment {
    live: u64,
    sealed: bool,
}

/// The message segments of one home core, and the messages alive in them.
#[derive(Default, Debug)]
pub struct MessageBook {
    segments: BTreeMap<Lap, MessageSegment>,
    live: HashMap<MessageId, Laps>,
    /// Segments that are sealed and have nothing live.
    idle: BTreeSet<Lap>,
}

impl MessageBook {
    /// A segment of this core, empty or with messages that [`Self::stored`] will name.
    pub fn opened(&mut self, lap: Lap) {
        self.segments.entry(lap).or_default();
    }

    /// The segment gets no more commits.
    pub fn sealed(&mut self, lap: Lap) {
        let segment = self.segments.entry(lap).or_default();
        segment.sealed = true;
        if segment.live == 0 {
            self.idle.insert(lap);
        }
    }

    /// A message is durable; `laps` are all segments that its parts lie in, each once.
    pub fn stored(&mut self, id: MessageId, laps: &[Lap]) {
        assert!(!laps.is_empty());
        for lap in laps {
            self.segments.entry(*lap).or_default().live += 1;
            self.idle.remove(lap);
        }
        let laps = match laps {
            [lap] => Laps::One(*lap),
            _ => Laps::Many(laps.into()),
        };
        let before = self.live.insert(id, laps);
        assert!(before.is_none(), "a message id is stored once");
    }

    /// All recipients are finished and that is durable. False if the message is not alive here.
    pub fn finished(&mut self, id: MessageId) -> bool {
        let Some(laps) = self.live.remove(&id) else {
            return false;
        };
        for lap in laps.as_slice() {
            let segment = self.segments.get_mut(lap).expect("counted when stored");
            segment.live -= 1;
            if segment.live == 0 && segment.sealed {
                self.idle.insert(*lap);
            }
        }
        true
    }

    /// Segments that may be retired, unless somebody still reads from them.
    pub fn idle(&self) -> impl Iterator<Item = Lap> + '_ {
        self.idle.iter().copied()
    }

    /// The segment's header was durably overwritten.
    pub fn retired(&mut self, lap: Lap) {
        assert!(self.idle.remove(&lap), "only an idle segment is retired");
        self.segments.remove(&lap);
    }

    pub fn live_messages(&self) -> usize {
        self.live.len()
    }

    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

#[derive(Default, Debug)]
struct OutcomeSegment {
    /// Message segments whose messages are named here.
    refers_to: BTreeSet<Lap>,
    sealed: bool,
}

/// The outcome segments of one core, and the message segments that they are needed for.
#[derive(Default, Debug)]
pub struct OutcomeBook {
    segments: BTreeMap<Lap, OutcomeSegment>,
}

impl OutcomeBook {
    pub fn opened(&mut self, lap: Lap) {
        self.segments.entry(lap).or_default();
    }

    pub fn sealed(&mut self, lap: Lap) {
        self.segments.entry(lap).or_default().sealed = true;
    }

    /// An outcome in `lap` names a message that lies in `message_laps`. These must not be retired
    /// yet: whoever writes an outcome holds the message's place.
    pub fn refers(&mut self, lap: Lap, message_laps: &[Lap]) {
        let segment = self.segments.entry(lap).or_default();
        segment.refers_to.extend(message_laps);
    }

    /// A message segment, of any core, was retired.
    pub fn message_segment_retired(&mut self, retired: Lap) {
        for segment in self.segments.values_mut() {
            segment.refers_to.remove(&retired);
        }
    }

    /// Segments that may be retired.
    pub fn idle(&self) -> impl Iterator<Item = Lap> + '_ {
        self.segments
            .iter()
            .filter(|(_, segment)| segment.sealed && segment.refers_to.is_empty())
            .map(|(lap, _)| *lap)
    }

    pub fn retired(&mut self, lap: Lap) {
        let segment = self.segments.remove(&lap).expect("retired once");
        assert!(segment.sealed && segment.refers_to.is_empty());
    }

    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::record::SegmentId;

    fn lap(number: u32) -> Lap {
        Lap {
            segment: SegmentId { core: 0, number },
            generation: 1,
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
        let mut book = MessageBook::default();
        book.opened(lap(1));
        book.stored(id(1), &[lap(1)]);
        book.stored(id(2), &[lap(1), lap(2)]);
        book.sealed(lap(1));
        assert!(book.finished(id(1)));
        assert_eq!(book.idle().count(), 0);
        assert!(book.finished(id(2)));
        assert!(!book.finished(id(2)), "a second time changes nothing");
        assert_eq!(book.idle().collect::<Vec<_>>(), [lap(1)]);
        book.sealed(lap(2));
        book.retired(lap(1));
        assert_eq!(book.idle().collect::<Vec<_>>(), [lap(2)]);
    }

    #[test]
    fn outcomes_outlive_the_messages_they_name() {
        let mut book = OutcomeBook::default();
        book.opened(lap(7));
        book.refers(lap(7), &[lap(1), lap(2)]);
        book.sealed(lap(7));
        book.message_segment_retired(lap(1));
        assert_eq!(book.idle().count(), 0);
        book.message_segment_retired(lap(2));
        assert_eq!(book.idle().collect::<Vec<_>>(), [lap(7)]);
    }
}
