//! How the recipients of an unfinished message stand, for a copy of it that will outlive the outcomes.
//!
//! When a message is moved, its copy takes the states of its recipients along. Outcomes that were
//! written before may then go together with the segment that the message was in. Which ones exactly
//! is decided here, by counting snapshots, with no clock:
//!
//! ```text
//! whoever records an outcome           home, when it moves the message
//! 1 note the states here               1 count the snapshot: it gets number n
//! 2 read how many snapshots began: e   2 read the states
//! 3 read the place; it says which      3 write the copy, durably
//!   snapshot made it: v                4 replace the place: it says v = n
//! 4 write the outcome, durably
//! ```
//!
//! A snapshot with a number above `e` was counted after step 2 on the left, so it sees what step 1
//! noted: those accesses are sequentially consistent. So an outcome is *covered* by every later copy
//! if `e <= v`. If `e > v`, a snapshot was under way or had failed: the copy that it became may
//! lack the outcome, and the outcome is needed for as long as that copy is; but not longer, because the
//! next snapshot is above `e`.

use crate::schedule::outcome::RecipientState;
use crate::spool::format::States;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One bit for each recipient.
enum Bits {
    /// Up to 64 recipients: nearly every message.
    Few(AtomicU64),
    Many(Box<[AtomicU64]>),
}

const WORD_BITS: usize = u64::BITS as usize;

impl Bits {
    fn new(count: usize) -> Self {
        match count <= WORD_BITS {
            true => Bits::Few(AtomicU64::new(0)),
            false => Bits::Many(
                (0..count.div_ceil(WORD_BITS))
                    .map(|_| AtomicU64::new(0))
                    .collect(),
            ),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        match self {
            Bits::Few(word) => std::slice::from_ref(word),
            Bits::Many(words) => words,
        }
    }

    fn set(&self, index: u32) {
        let index = index as usize;
        self.words()[index / WORD_BITS].fetch_or(1 << (index % WORD_BITS), Ordering::SeqCst);
    }

    /// All bits at about the same time.
    fn read(&self) -> Vec<u64> {
        let words = self.words().iter();
        words.map(|word| word.load(Ordering::SeqCst)).collect()
    }
}

fn is_set(words: &[u64], index: u32) -> bool {
    let index = index as usize;
    words[index / WORD_BITS] >> (index % WORD_BITS) & 1 == 1
}

/// What the cores that deliver a message tell the one that may move it.
pub struct RecipientProgress {
    recipients: u32,
    finished: Bits,
    /// Deferred recipients and owed reports. The lock is taken by failures, never by a delivery.
    open: Mutex<States>,
    snapshots: AtomicU32,
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
            finished: Bits::new(recipients),
            open: Mutex::new(Vec::new()),
            snapshots: AtomicU32::new(0),
        }
    }

    /// Of a message that was found at the start; one state for each recipient.
    pub fn of(states: &[RecipientState]) -> Self {
        let progress = RecipientProgress::fresh(states.len());
        for (index, state) in (0..).zip(states) {
            if *state != RecipientState::fresh() {
                progress.note_one(index, state);
            }
        }
        progress
    }

    /// Takes note of new states, *before* an outcome with them is written: a copy that says
    /// they are reached is true already. Returns how many snapshots had begun by then.
    pub fn note(&self, recipients: &[(u32, RecipientState)]) -> u32 {
        for (index, state) in recipients {
            self.note_one(*index, state);
        }
        self.snapshots.load(Ordering::SeqCst)
    }

    fn note_one(&self, index: u32, state: &RecipientState) {
        if index >= self.recipients {
            return;
        }
        let state = match state {
            RecipientState::Finished => return self.finished.set(index),
            // Why it was deferred the last time is known again after the next try.
            RecipientState::Waiting { attempts, due, .. } => RecipientState::Waiting {
                attempts: *attempts,
                due: *due,
                last: None,
            },
            owed @ RecipientState::ReportOwed { .. } => owed.clone(),
        };
        let mut open = self.open();
        match open.iter_mut().find(|(other, _)| *other == index) {
            Some((_, known)) => known.merge(state),
            None => open.push((index, state)),
        }
    }

    fn open(&self) -> MutexGuard<'_, States> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a snapshot and takes it.
    pub fn snapshot(&self) -> Snapshot {
        let number = self.snapshots.fetch_add(1, Ordering::SeqCst) + 1;
        let mut states = self.open().clone();
        let finished = self.finished.read();
        states.retain(|(index, _)| !is_set(&finished, *index));
        let open_ones = states.len();
        let done = (0..self.recipients).filter(|index| is_set(&finished, *index));
        states.extend(done.map(|index| (index, RecipientState::Finished)));
        Snapshot {
            number,
            is_finished: states.len() - open_ones == self.recipients as usize,
            states,
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

    /// The promise of the table above, on real threads.
    #[test]
    fn a_state_that_saw_no_snapshot_is_in_the_next() {
        for _ in 0..2000 {
            let progress = RecipientProgress::fresh(1);
            std::thread::scope(|scope| {
                let noted = scope.spawn(|| progress.note(&[(0, RecipientState::Finished)]));
                let snapshot = progress.snapshot();
                let began = noted.join().expect("it ends");
                assert!(began >= snapshot.number || snapshot.is_finished);
            });
        }
    }
}
