//! What has become of a recipient: the state that outlives a restart.
//!
//! States are absolute, not steps, so that recovery is a union in any order: of two states of one
//! recipient the one that is [further](RecipientState::merge) wins, and `Finished` is absorbing.

use crate::message::MessageId;
use crate::smtp::reply::EnhancedStatus;
use crate::time::WallTime;

/// Why a recipient is where it is, for reports and logs. Text from a peer is already printable
/// ASCII or UTF-8 without control characters and at most [`Diagnosis::TEXT_BYTES_MAX`] long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnosis {
    pub status: EnhancedStatus,
    /// The reply as one line with its code (`550 5.1.1 no such user`), or our own words.
    pub text: Box<str>,
    /// The host that said so; empty if no host did (DNS, expiry, our own policy).
    pub remote_host: Box<str>,
}

impl Diagnosis {
    pub const TEXT_BYTES_MAX: usize = 1000;
}

/// What a report (RFC 3464) tells the reverse-path about a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReportKind {
    /// Refused for good, or not delivered within the queue's lifetime.
    Failed,
    /// Handed to a next hop that has no DSN, while NOTIFY=SUCCESS was asked for (RFC 3461 section 5.2.2).
    Relayed,
}

/// Where one recipient of one message stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecipientState {
    /// Still to be handed to its next hop; next try not before `due`.
    Waiting {
        attempts: u32,
        due: WallTime,
        last: Option<Diagnosis>,
    },
    /// Done at the next hop, but the reverse-path is owed a report. Counts as unfinished.
    ReportOwed {
        kind: ReportKind,
        diagnosis: Diagnosis,
        /// Attempts to deliver the report itself.
        attempts: u32,
        due: WallTime,
    },
    /// Nothing more will ever be done.
    Finished,
}

impl RecipientState {
    /// A recipient that was just accepted.
    pub fn fresh() -> Self {
        RecipientState::Waiting {
            attempts: 0,
            due: WallTime(0),
            last: None,
        }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self, RecipientState::Finished)
    }

    fn rank(&self) -> (u8, u32) {
        match self {
            RecipientState::Waiting { attempts, .. } => (0, *attempts),
            RecipientState::ReportOwed { attempts, .. } => (1, *attempts),
            RecipientState::Finished => (2, 0),
        }
    }

    /// Keeps the further of the two states. Commutative and associative up to ties, and
    /// idempotent; ties keep `self`.
    pub fn merge(&mut self, other: RecipientState) {
        if self.is_behind(&other) {
            *self = other;
        }
    }

    /// Merged with it, it becomes the other one.
    pub fn is_behind(&self, other: &RecipientState) -> bool {
        self.rank() < other.rank()
    }
}

/// What the home of a message writes to its log: new states of some of its recipients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub message: MessageId,
    /// Index into the envelope's recipients, and the state reached.
    pub recipients: Vec<(u32, RecipientState)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(attempts: u32) -> RecipientState {
        RecipientState::Waiting {
            attempts,
            due: WallTime(7),
            last: None,
        }
    }

    #[test]
    fn finished_is_absorbing_in_any_order() {
        let mut early = waiting(3);
        early.merge(RecipientState::Finished);
        let mut late = RecipientState::Finished;
        late.merge(waiting(9));
        assert!(early.is_finished() && late.is_finished());
    }

    #[test]
    fn more_attempts_win() {
        let mut state = waiting(2);
        state.merge(waiting(5));
        state.merge(waiting(4));
        assert_eq!(state, waiting(5));
    }
}
