//! What verdicts mean for recipients: the next state of each, and what follows from it.
//!
//! Promise: whatever the verdict, a recipient ends in exactly one of four ways: finished, owed a
//! report, waiting with a due time, or queued again at once. The first three are to be recorded.
//! Promise: each has an [`Ending`](super::ending::Ending), so that its last word in log and counters cannot be
//! forgotten.
//! Not here: recording, queueing and telling; `delivery` does what is decided here.

mod consequences;
mod judged;
pub mod parts;

pub use consequences::{Consequences, Facts};
pub use judged::{
    After, Judged, Over, decide_all, judge_transaction, judge_without_content, tls_demanded,
};

use super::dsn::{self, Extent};
use super::judge::{HopDiagnosis, LastWord, Verdict};
use super::outcome::{Diagnosis, RecipientState};
use crate::message::{Envelope, Mailbox};
use crate::smtp::client::TransactionResult;
use crate::smtp::reply::EnhancedStatus;
use crate::time::{Now, WallTime};
use std::time::Duration;

/// Recipients of one message, as indexes into its envelope, and where each stands.
pub type Recipients = Vec<(u32, RecipientState)>;

/// What is to happen to one recipient.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub verdict: Verdict,
    pub diagnosis: Diagnosis,
    /// Delivered to a hop that will not report success, while success reports were asked for.
    pub relayed: bool,
    /// The session ended while this recipient and others were offered, and any of them may be why.
    pub may_be_for_another: bool,
}

/// Recipients that one report speaks of. All that a message with many owes, in one report, may be larger than any host takes.
pub const RECIPIENTS_PER_REPORT_MAX: usize = 1_000;

/// How often a job is queued again at once though nothing of it has been done; then it is deferred. With a hop
/// that ends each session after one message, half of those that wait go on with each round.
pub const REQUEUED_MAX: u32 = 16;

/// Over how many further connections a job goes on at once, to other hosts or for the sake of a new session; then it is deferred.
pub const FURTHER_CONNECTIONS_MAX: u32 = 16;

/// What a job remembers of its way. A restart forgets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Course {
    /// How often it was queued again at once, since anything of it was last done or deferred.
    requeued: u32,
    /// It has come back untried since it was last tried: nobody could be asked about it.
    has_returned: bool,
    /// How often no name server could say where it goes, one time after the other.
    unresolved: u32,
    /// What a report returns of the original, at most.
    pub original: Extent,
    /// Recipients that a report speaks of, at most.
    pub recipients_max: usize,
}

impl Default for Course {
    fn default() -> Self {
        Course {
            requeued: 0,
            has_returned: false,
            unresolved: 0,
            original: Extent::Whole,
            recipients_max: RECIPIENTS_PER_REPORT_MAX,
        }
    }
}

impl Course {
    /// Of a report that returns no more of the original than this.
    pub fn of_report(original: Extent) -> Course {
        Course {
            original,
            ..Course::default()
        }
    }

    /// It comes back untried. True: for the first time since it was last tried.
    pub fn returns(&mut self) -> bool {
        !std::mem::replace(&mut self.has_returned, true)
    }

    /// No name server could say where it goes, for so many times now. What it waited for before does not count: the time
    /// between the questions begins anew.
    pub fn is_unresolved(&mut self) -> u32 {
        self.has_returned = true;
        self.unresolved = self.unresolved.saturating_add(1);
        self.unresolved
    }

    /// Its next hop is known.
    pub fn is_resolved(&mut self) {
        self.unresolved = 0;
    }

    /// Nobody could be asked about it when it was last to be tried.
    pub fn has_returned(&self) -> bool {
        self.has_returned
    }

    /// Of a report that was refused, and is to be smaller; `None`: it cannot be. `sent`: what it returned of the
    /// original. `count`: of how many recipients it spoke.
    pub fn smaller(self, result: &TransactionResult, sent: Extent, count: usize) -> Option<Course> {
        let smaller = match sent.less() {
            Some(original) if dsn::may_be_for_the_original(result) => Course { original, ..self },
            None if dsn::is_too_large(result) && count > 1 => Course {
                recipients_max: count / 2,
                ..self
            },
            _ => return None,
        };
        Some(smaller)
    }

    /// The same once the job has ended with these decisions. Those that would go on at once without end are
    /// deferred.
    pub fn after(mut self, decisions: &mut [(u32, Decision)]) -> Course {
        self.has_returned = false;
        self.unresolved = 0;
        let reconnects = |(_, it): &(u32, Decision)| it.verdict == Verdict::Reconnect;
        if !decisions.iter().any(reconnects) {
            return Course {
                requeued: 0,
                ..self
            };
        }
        let requeued = self.requeued + 1;
        if requeued <= REQUEUED_MAX {
            return Course { requeued, ..self };
        }
        for (_, decision) in decisions {
            if decision.verdict == Verdict::Reconnect {
                decision.verdict = Verdict::Defer;
            }
        }
        Course {
            requeued: 0,
            ..self
        }
    }
}

/// RFC 3463: X.4.5, mail system congestion.
const CONGESTION: EnhancedStatus = EnhancedStatus::new(4, 4, 5);

/// A report that goes nowhere: on mail with the null reverse-path, or of which nothing is left to be told.
pub fn nobody_to_tell() -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(5, 0, 0),
        text: "there is nobody to report to".into(),
        remote_host: "".into(),
    }
}

/// A job that waited for connections that others used all the time. Nothing is wrong with the hop.
pub fn no_connection_available() -> Diagnosis {
    Diagnosis {
        status: CONGESTION,
        text: "waited too long for its turn at the next hop".into(),
        remote_host: "".into(),
    }
}

/// What becomes of a job that has waited at its hop for too long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Postponed {
    /// Nobody was asked about it: it waits on, as it was, and this is why. No attempt is counted, and nothing recorded, so
    /// a hop that is dead for days costs no space of the spool.
    Returned(Diagnosis),
    /// The hop's refusal is an answer, or the lifetime is over: that is an attempt.
    Decided(Vec<(u32, Decision)>),
}

/// A job has waited at its hop for too long, whatever the hop last said. A hop's refusal for good counts as an attempt, and
/// returns mail that was tried before, if the hop has said nothing else for half of `blocked_wait_max`: a host that is being
/// set up or repaired says much that passes. `is_too_old`: its lifetime is over, and what the hop last said is why.
pub fn postponed(
    recipients: &[(u32, RecipientState)],
    last: &LastWord,
    is_too_old: bool,
    now: Now,
    blocked_wait_max: Duration,
) -> Postponed {
    let refuses = last.refuses_since(blocked_wait_max / 2, now);
    let for_now = last
        .diagnosis()
        .map_or_else(no_connection_available, HopDiagnosis::for_now);
    if !refuses && !is_too_old {
        return Postponed::Returned(for_now);
    }
    let decide = |state: &RecipientState| match last.diagnosis() {
        Some(word) if refuses && attempts_of(state) > 0 => {
            (Verdict::Bounce, word.diagnosis().clone())
        }
        _ => (Verdict::Defer, for_now.clone()),
    };
    let decision = |(index, state): &(u32, RecipientState)| {
        let (verdict, diagnosis) = decide(state);
        (
            *index,
            Decision {
                verdict,
                diagnosis,
                relayed: false,
                may_be_for_another: false,
            },
        )
    };
    Postponed::Decided(recipients.iter().map(decision).collect())
}

/// The content is not what was accepted, or the disk has given only errors for it.
pub fn content_lost() -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(5, 3, 0),
        text: "the content of the message was damaged on this host's disk and cannot be delivered"
            .into(),
        remote_host: "".into(),
    }
}

/// The disk gave an error for the content, and is asked again.
pub fn content_unreadable() -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(4, 3, 0),
        text: "the content of the message could not be read from this host's disk".into(),
        remote_host: "".into(),
    }
}

/// Of which recipients these are the states.
pub fn indices(recipients: &[(u32, RecipientState)]) -> Vec<u32> {
    recipients.iter().map(|(index, _)| *index).collect()
}

/// Are these owed reports? A job has either only those or none.
pub fn is_report(recipients: &[(u32, RecipientState)]) -> bool {
    matches!(
        recipients.first(),
        Some((_, RecipientState::ReportOwed { .. }))
    )
}

/// Whom the next transaction for a recipient goes to: itself, or the reverse-path that is owed a
/// report. `None` for a report on mail with the null reverse-path, which goes nowhere, and for
/// a finished one.
pub fn addressee<'a>(
    envelope: &'a Envelope,
    index: u32,
    state: &RecipientState,
) -> Option<&'a Mailbox> {
    match state {
        RecipientState::Waiting { .. } => Some(&envelope.recipients[index as usize].forward_path),
        RecipientState::ReportOwed { .. } => envelope.reverse_path.as_ref(),
        RecipientState::Finished => None,
    }
}

/// Parts of at most `most` recipients each.
pub fn split_by_count(mut recipients: Recipients, most: usize) -> Vec<Recipients> {
    let mut parts = Vec::new();
    while recipients.len() > most {
        let rest = recipients.split_off(most);
        parts.push(std::mem::replace(&mut recipients, rest));
    }
    parts.push(recipients);
    parts
}

/// When a recipient is to be looked at again.
pub fn due_of(state: &RecipientState) -> WallTime {
    match state {
        RecipientState::Waiting { due, .. } | RecipientState::ReportOwed { due, .. } => *due,
        RecipientState::Finished => WallTime(0),
    }
}

/// How often it was tried in vain: its delivery, or its report.
pub fn attempts_of(state: &RecipientState) -> u32 {
    match state {
        RecipientState::Waiting { attempts, .. } | RecipientState::ReportOwed { attempts, .. } => {
            *attempts
        }
        RecipientState::Finished => 0,
    }
}

#[cfg(test)]
mod of_others;

#[cfg(test)]
mod tests;
