//! How the recipients of an unfinished message stand, for a copy of it that will outlive the outcomes.
//!
//! When a message is moved, its copy takes the states of its recipients along. Outcomes that were
//! written before may then go together with the segment that the message was in. Which ones exactly
//! is decided here, by counting snapshots, with no clock:
//!
//! ```text
//! to record an outcome                 to move the message
//! 1 note the states here               1 count the snapshot: it gets number n; read the states
//! 2 see how many snapshots began: e    2 write the copy, durably
//! 3 read the place; it says which      3 replace the place: it says v = n
//!   snapshot made it: v
//! 4 write the outcome, durably
//! ```
//!
//! The home does both, and writes of both are under way at once. The steps before a write are one turn. So an outcome is
//! *covered* by every later copy if `e <= v`. If `e > v`, a snapshot was under way or had failed: the copy that it became may
//! lack the outcome, and the outcome is needed for as long as that copy is; but not longer, because the
//! next snapshot is above `e`.

use crate::schedule::outcome::RecipientState;
use crate::spool::format::States;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One bit for each recipient.
enum Bits {
    /// Up to 64 recipients: nearly every message.
    Few(u64),
    Many(Box<[u64]>),
}

const WORD_BITS: usize = u64::BITS as usize;

impl Bits {
    fn new(count: usize) -> Self {
        match count <= WORD_BITS {
            true => Bits::Few(0),
            false => Bits::Many(vec![0; count.div_ceil(WORD_BITS)].into()),
        }
    }

    fn words(&self) -> &[u64] {
        match self {
            Bits::Few(word) => std::slice::from_ref(word),
            Bits::Many(words) => words,
        }
    }

    fn set(&mut self, index: u32) {
        let index = index as usize;
        let words = match self {
            Bits::Few(word) => std::slice::from_mut(word),
            Bits::Many(words) => words,
        };
        words[index / WORD_BITS] |= 1 << (index % WORD_BITS);
    }

    fn is_set(&self, index: u32) -> bool {
        let index = index as usize;
        self.words()[index / WORD_BITS] >> (index % WORD_BITS) & 1 == 1
    }
}

/// What the home of a message knows of its recipients.
pub struct RecipientProgress {
    recipients: u32,
    /// Nobody but the home looks, so nobody waits for it: the message as a whole is shared between cores.
    known: Mutex<Known>,
}

struct Known {
    finished: Bits,
    /// Deferred recipients and owed reports.
    open: States,
    /// So many have begun.
    snapshots: u32,
    /// Some outcome of this run names the message.
    is_named: bool,
}

/// All that was known when a message was about to be copied.
pub struct Snapshot {
    /// Grows from one on.
    pub number: u32,
    pub states: States,
    /// No recipient is open: there is nothing to copy.
    pub is_finished: bool,
}

impl RecipientProgress {
    /// Of a message with so many recipients that was just accepted.
    pub fn fresh(recipients: usize) -> Self {
        RecipientProgress {
            recipients: recipients as u32,
            known: Mutex::new(Known {
                finished: Bits::new(recipients),
                open: Vec::new(),
                snapshots: 0,
                is_named: false,
            }),
        }
    }

    /// Of a message that was found at the start; one state for each recipient.
    pub fn of(states: &[RecipientState]) -> Self {
        let progress = RecipientProgress::fresh(states.len());
        let mut known = progress.known();
        for (index, state) in (0..).zip(states) {
            if *state != RecipientState::fresh() {
                known.note(index, state);
            }
        }
        drop(known);
        progress
    }

    /// Takes note of new states, *before* an outcome with them is written: a copy that says
    /// they are reached is true already. Returns how many snapshots had begun by then.
    pub fn note(&self, recipients: &[(u32, RecipientState)]) -> u32 {
        let mut known = self.known();
        known.is_named = true;
        for (index, state) in recipients {
            if *index < self.recipients {
                known.note(*index, state);
            }
        }
        known.snapshots
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a snapshot and takes it.
    pub fn snapshot(&self) -> Snapshot {
        let mut known = self.known();
        known.snapshots += 1;
        let mut states = known.states(self.recipients);
        let is_finished = |(_, state): &(u32, RecipientState)| state.is_finished();
        let finished = states.iter().filter(|it| is_finished(it)).count();
        // A copy is no longer than it must be: why somebody was deferred the last time is known again after the next try.
        for (_, state) in &mut states {
            if let RecipientState::Waiting { last, .. } = state {
                *last = None;
            }
        }
        Snapshot {
            number: known.snapshots,
            is_finished: finished == self.recipients as usize,
            states,
        }
    }

    /// What outcomes say, if one of this run names the message.
    pub fn named(&self) -> Option<States> {
        let known = self.known();
        known.is_named.then(|| known.states(self.recipients))
    }
}

impl Known {
    fn states(&self, recipients: u32) -> States {
        let finished = &self.finished;
        let open = self.open.iter().filter(|it| !finished.is_set(it.0));
        let done = (0..recipients).filter(|index| finished.is_set(*index));
        let done = done.map(|index| (index, RecipientState::Finished));
        open.cloned().chain(done).collect()
    }

    /// What the cores that deliver a message hand over may come in another order than it happened: the state that is
    /// further counts.
    fn note(&mut self, index: u32, state: &RecipientState) {
        if state.is_finished() {
            return self.finished.set(index);
        }
        match self.open.iter_mut().find(|(other, _)| *other == index) {
            Some((_, known)) => known.merge(state.clone()),
            None => self.open.push((index, state.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::WallTime;

    fn waiting(attempts: u32) -> RecipientState {
        RecipientState::Waiting {
            attempts,
            due: WallTime(7),
            last: None,
        }
    }

    #[test]
    fn a_snapshot_has_what_was_noted_before_it() {
        let progress = RecipientProgress::fresh(70);
        assert_eq!(progress.note(&[(69, RecipientState::Finished)]), 0);
        progress.note(&[(3, waiting(1)), (4, waiting(2))]);
        progress.note(&[(3, waiting(2)), (4, RecipientState::Finished)]);
        let snapshot = progress.snapshot();
        assert_eq!(snapshot.number, 1);
        assert!(!snapshot.is_finished);
        let expected = [
            (3, waiting(2)),
            (4, RecipientState::Finished),
            (69, RecipientState::Finished),
        ];
        assert_eq!(snapshot.states, expected);
        assert_eq!(progress.note(&[]), 1);
    }

    #[test]
    fn what_was_found_at_the_start_is_known() {
        let found = [RecipientState::fresh(), RecipientState::Finished];
        let progress = RecipientProgress::of(&found);
        assert_eq!(progress.snapshot().states, [(1, RecipientState::Finished)]);
        progress.note(&[(0, RecipientState::Finished)]);
        assert!(progress.snapshot().is_finished);
    }
}
