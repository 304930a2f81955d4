//! Which outcome segments may go.

use crate::spool::format::Generation;
use std::collections::BTreeMap;

#[derive(Default, Debug)]
struct OutcomeSegment {
    /// Message segments whose messages are named here, and whether copies of those messages may
    /// lack what is said here.
    refers_to: BTreeMap<Generation, bool>,
    sealed: bool,
}

/// The outcome segments of one core, and the message segments that they are needed for.
#[derive(Default, Debug)]
pub struct OutcomeLiveness {
    segments: BTreeMap<Generation, OutcomeSegment>,
}

impl OutcomeLiveness {
    pub fn opened(&mut self, generation: Generation) {
        self.segments.entry(generation).or_default();
    }

    pub fn sealed(&mut self, generation: Generation) {
        self.segments.entry(generation).or_default().sealed = true;
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
}
