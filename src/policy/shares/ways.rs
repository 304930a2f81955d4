//! Where the mail for each recipient of a message counts, and which of these ways are still open.
//!
//! Promise: a way is done once, with the last of its recipients.
//! Not here: what a way holds.

use super::Party;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where mail for a recipient counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub party: Party,
    /// The domain of a site: its mail counted there until the site was known.
    pub before: Option<Party>,
}

impl Way {
    /// Whether a message on this way may be charged at `party`: it is from when its body begins, and the site may have
    /// become known since.
    pub fn counts_at(&self, party: Party) -> bool {
        [Some(self.party), self.before].contains(&Some(party))
    }
}

impl From<Party> for Way {
    fn from(party: Party) -> Way {
        Way {
            party,
            before: None,
        }
    }
}

/// Recipients of a message that go the same way, and how many are not done.
pub(super) struct Open {
    pub(super) way: Party,
    recipients: AtomicU32,
}

impl Open {
    fn new(way: Party, recipients: usize) -> Self {
        Open {
            way,
            recipients: AtomicU32::new(recipients as u32),
        }
    }

    /// One of them is done. True if it was the last.
    pub(super) fn done(&self) -> bool {
        let less = |recipients: u32| recipients.checked_sub(1);
        let before = (self.recipients).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before == Ok(1)
    }

    pub(super) fn is_open(&self) -> bool {
        self.recipients.load(Ordering::Relaxed) > 0
    }
}

/// The ways that the recipients of a message go. Nearly always one.
pub struct Ways(Which);

enum Which {
    One(Open),
    Many(Box<Many>),
}

struct Many {
    /// By recipient: its place in `ways`.
    places: Box<[u32]>,
    ways: Box<[Open]>,
}

impl Ways {
    /// Of so many recipients in the order of the envelope. Allocates if they go more than one way.
    pub fn of(recipients: usize, party: impl Fn(usize) -> Party) -> Ways {
        let first = match recipients {
            0 => Party(0),
            _ => party(0),
        };
        if (1..recipients).all(|index| party(index) == first) {
            return Ways(Which::One(Open::new(first, recipients)));
        }
        let parties: Vec<Party> = (0..recipients).map(party).collect();
        let mut sorted = parties.clone();
        sorted.sort_unstable();
        let ways = sorted.chunk_by(|one, other| one == other);
        let ways: Box<[Open]> = ways.map(|same| Open::new(same[0], same.len())).collect();
        let place = |party: &Party| {
            let found = ways.binary_search_by_key(party, |open| open.way);
            found.expect("it is one of them") as u32
        };
        let places = parties.iter().map(place).collect();
        Ways(Which::Many(Box::new(Many { places, ways })))
    }

    pub(super) fn all(&self) -> &[Open] {
        match &self.0 {
            Which::One(open) => std::slice::from_ref(open),
            Which::Many(many) => &many.ways,
        }
    }

    pub(super) fn of_recipient(&self, index: usize) -> &Open {
        match &self.0 {
            Which::One(open) => open,
            Which::Many(many) => &many.ways[many.places[index] as usize],
        }
    }
}
