//! Where an unfinished message lies: a place that may change while other cores use it.

use crate::io::{Bug, planted};
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::RecipientState;
use crate::spool::format::States;
use crate::spool::location::place::Place;
use crate::spool::location::progress::{RecipientProgress, Snapshot};
use crate::time::WallTime;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// A message's place and how its recipients stand. All cores that deliver it read the place, which takes no lock. Only its
/// home moves it, and notes how its recipients stand.
pub struct MessageLocation {
    place: ArcSwap<Place>,
    progress: RecipientProgress,
}

/// What a message must show to be moved when its segment is wanted.
pub trait Movable: Send + Sync {
    fn id(&self) -> MessageId;
    fn received_at(&self) -> WallTime;
    fn envelope(&self) -> &Envelope;
    fn location(&self) -> &MessageLocation;
}

/// What an outcome leans on.
pub(in crate::spool) struct LocationPin {
    /// Pins the message's segments until the outcome is counted as referring to them.
    pub place: Arc<Place>,
    /// Every later copy of the message says what the outcome says.
    pub is_covered: bool,
}

impl MessageLocation {
    /// Of a message with so many recipients that was just accepted.
    pub fn fresh(place: Place, recipients: usize) -> Self {
        MessageLocation {
            place: ArcSwap::from_pointee(place),
            progress: RecipientProgress::fresh(recipients),
        }
    }

    /// Of a message that was found at the start; one state for each recipient.
    pub fn recovered(place: Place, states: &[RecipientState]) -> Self {
        MessageLocation {
            place: ArcSwap::from_pointee(place),
            progress: RecipientProgress::of(states),
        }
    }

    /// Where the message lies now. Holding it keeps the segments, also if the message moves.
    pub fn place(&self) -> Arc<Place> {
        self.place.load_full()
    }

    /// Length of the body in wire form, wherever it lies.
    pub fn body_bytes(&self) -> u64 {
        self.place.load().body_bytes()
    }

    /// In one turn: see [`RecipientProgress`].
    pub(in crate::spool) fn note(&self, recipients: &[(u32, RecipientState)]) -> LocationPin {
        let snapshots_begun = self.progress.note(recipients);
        let place = self.place.load_full();
        LocationPin {
            is_covered: snapshots_begun <= place.snapshot(),
            place,
        }
    }

    pub(in crate::spool) fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.progress.snapshot();
        if planted(Bug::CopiesForget) {
            snapshot.states.clear();
        }
        snapshot
    }

    /// What outcomes say of the recipients, if one of this run names the message, and what they lean on.
    pub(in crate::spool) fn named(&self) -> Option<(States, LocationPin)> {
        let states = self.progress.named()?;
        Some((states, self.note(&[])))
    }

    pub(in crate::spool) fn replace(&self, place: Place) {
        self.place.store(Arc::new(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::file::{Durability, File};
    use crate::spool::format::{Generation, SegmentId};
    use crate::spool::location::place::{Extent, SegmentFile};

    fn place() -> Place {
        let file = std::fs::File::open("/dev/null").expect("it is everywhere");
        let extent = Extent {
            segment: Arc::new(SegmentFile {
                generation: Generation {
                    segment: SegmentId { core: 0, number: 0 },
                    number: 1,
                },
                segment_bytes: 4096,
                file: File::new(file, Durability::Buffered),
            }),
            offset: 0,
            bytes: 1,
            checksum: 0,
        };
        Place::inline(extent, 0)
    }

    /// An outcome that a copy may lack must stay as long as that copy: recovery would find the recipient
    /// open again, and deliver twice.
    #[test]
    fn an_outcome_that_a_copy_under_way_may_lack_is_not_covered() {
        let location = MessageLocation::fresh(place(), 2);
        let finished = |index| location.note(&[(index, RecipientState::Finished)]);
        assert!(finished(0).is_covered, "every copy is still to come");
        let snapshot = location.snapshot();
        let behind = finished(1);
        assert!(!behind.is_covered, "the copy may have been read before");
        assert_eq!(behind.place.snapshot(), 0);
        location.replace(place().made_with(snapshot.number));
        assert!(finished(1).is_covered, "the next copy says it");
        // That one fails, and its segment may hold it all the same.
        location.snapshot();
        assert!(!finished(1).is_covered);
    }
}
