//! What follows from decisions: the next state of each recipient, and how its attempt ended.

use super::{Decision, Recipients, attempts_of, is_report, split_by_count};
use crate::message::Envelope;
use crate::schedule::ending::{Ending, Failure, Unreported};
use crate::schedule::judge::Verdict;
use crate::schedule::outcome::{Diagnosis, RecipientState, ReportKind};
use crate::schedule::reports;
use crate::schedule::retry::{self, NextTry, RetryPolicy};
use crate::time::WallTime;
use std::time::Duration;

/// What the next states depend on, besides the decisions.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub envelope: &'a Envelope,
    /// Of the message.
    pub age: Duration,
    pub now: WallTime,
    /// Any number, evenly distributed: spreads retries.
    pub random: u64,
    pub retry: &'a RetryPolicy,
    /// For reports, which nobody waits for.
    pub report_retry: &'a RetryPolicy,
    /// How long a report waits for others to be spoken of in it, unless its lifetime is too short for that.
    pub report_window: Duration,
}

/// What follows from decisions for the recipients of a job. Every one of them is in exactly one of
/// `again`, `deferred` and `reports`, or is counted in `finished`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Consequences {
    /// How the attempt ended for each decision, in their order; for a report there is one.
    pub endings: Vec<Ending>,
    /// New states, to be made durable.
    pub recorded: Recipients,
    /// As they were, at once.
    pub again: Recipients,
    /// At `due`.
    pub deferred: Recipients,
    /// Owed a report from now on.
    pub reports: Recipients,
    pub finished: u32,
    /// The earliest of `deferred`.
    pub due: Option<WallTime>,
    /// Those of `deferred` that may have suffered again for another of them.
    pub suspects: usize,
}

impl Consequences {
    /// `decisions` has one for each of the recipients, in the same order. Of reports the first
    /// counts, and may be the only one: one transaction spoke of them all.
    pub fn of(facts: &Facts<'_>, recipients: Recipients, decisions: &[(u32, Decision)]) -> Self {
        let mut consequences = Consequences::default();
        if is_report(&recipients) {
            let (_, decision) = &decisions[0];
            for (index, state) in recipients {
                let (ending, next) = facts.next_of_report(&state, decision);
                consequences.add(index, state, next);
                // They are tried together, so they end together.
                consequences.endings = vec![ending];
            }
        } else {
            assert_eq!(recipients.len(), decisions.len());
            consequences.endings.reserve_exact(decisions.len());
            for ((index, state), (_, decision)) in recipients.into_iter().zip(decisions) {
                let (ending, next) = facts.next_of_recipient(index, &state, decision);
                let is_suspect = decision.may_be_for_another
                    && matches!(ending, Ending::Deferred { attempt } if attempt > 1);
                consequences.suspects += usize::from(is_suspect);
                consequences.add(index, state, next);
                consequences.endings.push(ending);
            }
        }
        consequences
    }

    /// Takes `deferred`, as the jobs in which it is to be tried. A recipient at whom the host ends the session takes all others of
    /// the transaction with it, each time, and nobody can tell which one it is. So once that has happened twice they go in as
    /// many transactions as each has recipients, roughly: of a thousand all but one are delivered at the sixth attempt.
    pub fn take_deferred(&mut self) -> Vec<Recipients> {
        let deferred = std::mem::take(&mut self.deferred);
        let most = match self.suspects {
            0 => deferred.len(),
            suspects => suspects.isqrt(),
        };
        split_by_count(deferred, most.max(1))
    }

    fn add(&mut self, index: u32, before: RecipientState, next: Option<RecipientState>) {
        let Some(state) = next else {
            return self.again.push((index, before));
        };
        self.recorded.push((index, state.clone()));
        match &state {
            RecipientState::Finished => self.finished += 1,
            RecipientState::ReportOwed { attempts: 0, .. } => self.reports.push((index, state)),
            RecipientState::Waiting { due, .. } | RecipientState::ReportOwed { due, .. } => {
                self.due = Some(self.due.map_or(*due, |earlier| earlier.min(*due)));
                self.deferred.push((index, state));
            }
        }
    }
}

impl Facts<'_> {
    /// How the attempt ended for a recipient that waited, and its next state; `None`: as it was, at
    /// once again.
    fn next_of_recipient(
        &self,
        index: u32,
        state: &RecipientState,
        decision: &Decision,
    ) -> (Ending, Option<RecipientState>) {
        let diagnosis = &decision.diagnosis;
        match decision.verdict {
            Verdict::Delivered if decision.relayed => {
                let owed = self.report_owed(index, ReportKind::Relayed, diagnosis.clone());
                let state = owed.unwrap_or(RecipientState::Finished);
                (Ending::Delivered, Some(state))
            }
            Verdict::Delivered => (Ending::Delivered, Some(RecipientState::Finished)),
            Verdict::Bounce => self.failed(index, Failure::Undeliverable, diagnosis.clone()),
            Verdict::Reconnect | Verdict::NextTransaction => (Ending::Requeued, None),
            Verdict::DeferOnce if is_as_before(state, diagnosis) => {
                let diagnosis = Diagnosis {
                    status: diagnosis.status.with_class(5),
                    ..diagnosis.clone()
                };
                self.failed(index, Failure::Undeliverable, diagnosis)
            }
            _ => self.deferred(index, state, diagnosis),
        }
    }

    fn deferred(
        &self,
        index: u32,
        state: &RecipientState,
        diagnosis: &Diagnosis,
    ) -> (Ending, Option<RecipientState>) {
        let attempts = attempts_of(state) + 1;
        match self.next_try(self.retry, attempts) {
            NextTry::After(wait) => {
                let waiting = RecipientState::Waiting {
                    attempts,
                    due: self.now + wait,
                    last: Some(diagnosis.clone()),
                };
                (Ending::Deferred { attempt: attempts }, Some(waiting))
            }
            NextTry::Expired => {
                self.failed(index, Failure::Expired, retry::expired(Some(diagnosis)))
            }
        }
    }

    /// Delivery has failed for good.
    fn failed(
        &self,
        index: u32,
        failure: Failure,
        diagnosis: Diagnosis,
    ) -> (Ending, Option<RecipientState>) {
        let (ending, state) = match self.report_owed(index, ReportKind::Failed, diagnosis) {
            Ok(owed) => (
                match failure {
                    Failure::Undeliverable => Ending::Bounced,
                    Failure::Expired => Ending::Expired,
                },
                owed,
            ),
            Err(unreported) => (
                Ending::Dropped(failure, unreported),
                RecipientState::Finished,
            ),
        };
        (ending, Some(state))
    }

    fn next_try(&self, policy: &RetryPolicy, attempts: u32) -> NextTry {
        policy.after_failure(attempts, self.age, self.random)
    }

    /// A report is owed if somebody can be told, and wants to be.
    fn report_owed(
        &self,
        index: u32,
        kind: ReportKind,
        diagnosis: Diagnosis,
    ) -> Result<RecipientState, Unreported> {
        let recipient = &self.envelope.recipients[index as usize];
        let wanted = match kind {
            ReportKind::Failed => recipient.wants_failure_report(),
            ReportKind::Relayed => recipient.wants_success_report(),
        };
        if self.envelope.reverse_path.is_none() {
            return Err(Unreported::NullReversePath);
        }
        if !wanted {
            return Err(Unreported::NotWanted);
        }
        let left = self.report_retry.left(self.age);
        Ok(RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts: 0,
            due: self.now + reports::shortened(self.report_window, left),
        })
    }

    /// How the attempt ended for a report, and the next state of a recipient that is owed it. A report
    /// that cannot be delivered is dropped (RFC 5321 section 6.1).
    fn next_of_report(
        &self,
        state: &RecipientState,
        decision: &Decision,
    ) -> (Ending, Option<RecipientState>) {
        let dropped = |failure| {
            let ending = Ending::Dropped(failure, Unreported::IsReport);
            (ending, Some(RecipientState::Finished))
        };
        let RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts,
            ..
        } = state
        else {
            return dropped(Failure::Undeliverable);
        };
        match decision.verdict {
            Verdict::Delivered => (Ending::Delivered, Some(RecipientState::Finished)),
            Verdict::Bounce => dropped(Failure::Undeliverable),
            Verdict::Reconnect | Verdict::NextTransaction => (Ending::Requeued, None),
            _ => {
                let attempts = attempts + 1;
                let NextTry::After(wait) = self.next_try(self.report_retry, attempts) else {
                    return dropped(Failure::Expired);
                };
                let owed = RecipientState::ReportOwed {
                    kind: *kind,
                    diagnosis: diagnosis.clone(),
                    attempts,
                    due: self.now + wait,
                };
                (Ending::Deferred { attempt: attempts }, Some(owed))
            }
        }
    }
}

/// The attempt before has ended in just the same way.
fn is_as_before(state: &RecipientState, diagnosis: &Diagnosis) -> bool {
    let before = match state {
        RecipientState::Waiting { last, .. } => last.as_ref(),
        RecipientState::ReportOwed { .. } | RecipientState::Finished => None,
    };
    before.is_some_and(|it| (it.status, &it.text) == (diagnosis.status, &diagnosis.text))
}
