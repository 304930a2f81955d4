//! What verdicts mean for recipients: the next state of each, and what follows from it.
//!
//! Promise: whatever the verdict, a recipient ends in exactly one of four ways: finished, owed a
//! report, waiting with a due time, or queued again at once. The first three are to be recorded.
//! Promise: each has an [`Ending`], so that its last word in log and counters cannot be forgotten.
//! Not here: recording, queueing and telling; `delivery` does what is decided here.

pub mod parts;

use super::dsn::{self, Extent};
use super::ending::{Ending, Failure, Untold};
use super::judge::{
    self, Echoes, Fallback, Finding, HopDiagnosis, LastWord, Scope, Situation, Verdict,
};
use super::next_hop::{HopId, Refusal, Schedule};
use super::outcome::{Diagnosis, RecipientState, ReportKind};
use super::retry::{self, NextTry, RetryPolicy};
use crate::message::{Envelope, Mailbox};
use crate::smtp::client::{RecipientVerdict, TransactionResult};
use crate::smtp::reply::{EnhancedStatus, Reply, Stage};
use crate::time::{Now, WallTime};
use std::hash::Hash;
use std::rc::Rc;
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
pub const RECIPIENTS_PER_REPORT_MAX: usize = 100;

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
    /// What a report returns of the original, at most.
    pub original: Extent,
    /// Recipients that a report speaks of, at most.
    pub recipients_max: usize,
}

impl Default for Course {
    fn default() -> Self {
        Course {
            requeued: 0,
            original: Extent::Whole,
            recipients_max: RECIPIENTS_PER_REPORT_MAX,
        }
    }
}

impl Course {
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
    pub fn after(self, decisions: &mut [(u32, Decision)]) -> Course {
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

/// What a transaction decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// In the order in which the recipients were offered.
    pub decisions: Vec<(u32, Decision)>,
    pub accepted_any: bool,
    /// The hop took part to the end.
    pub answered: bool,
    /// The connection was lost in a way that speaks against the hop; one that ended between two
    /// transactions does not.
    pub broke: bool,
    /// The session is of no more use: what it refuses, another may take.
    is_spoilt: bool,
    /// The hop asks for less.
    pub throttle: Option<Refusal>,
    /// The session is in plaintext because TLS did not work, and this demands it.
    pub tls_demanded: Option<Rc<Reply>>,
    /// What is to be said of the hop to others that wait for it.
    of_hop: Option<HopDiagnosis>,
}

/// What becomes of a connection after a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    GoOn,
    Close,
    Broke,
}

/// A report that goes nowhere: on mail with the null reverse-path, or of which nothing is left to be told.
pub fn nobody_to_tell() -> Diagnosis {
    Diagnosis {
        status: EnhancedStatus::new(5, 0, 0),
        text: "there is nobody to report to".into(),
        remote_host: "".into(),
    }
}

/// A job that waited for connections that others used all the time. Nothing is wrong with the hop.
pub fn waited_in_vain() -> Diagnosis {
    Diagnosis {
        status: CONGESTION,
        text: "waited too long for its turn at the next hop".into(),
        remote_host: "".into(),
    }
}

/// A job has waited at its hop for too long, which counts as an attempt. It fails in the way the hop last
/// failed. A hop's refusal for good returns mail that was tried before, if the hop has said nothing else for half of `blocked_wait_max`:
/// a host that is being set up or repaired says much that passes.
pub fn postponed(
    recipients: &[(u32, RecipientState)],
    last: &LastWord,
    now: Now,
    blocked_wait_max: Duration,
) -> Vec<(u32, Decision)> {
    let refuses = last.refuses_since(blocked_wait_max / 2, now);
    let decide = |state: &RecipientState| match last.diagnosis() {
        None => (Verdict::Defer, waited_in_vain()),
        Some(word) if refuses && attempts_of(state) > 0 => {
            (Verdict::Bounce, word.diagnosis().clone())
        }
        Some(word) => (Verdict::Defer, word.for_now()),
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
    recipients.iter().map(decision).collect()
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

/// Judges a transaction that ended because the content could not be read: that speaks of no hop. `is_lost`: it
/// never will be read. Recipients that were refused before stay refused.
pub fn judge_without_content(
    envelope: &Envelope,
    result: &TransactionResult,
    is_lost: bool,
    over: &Over<'_>,
) -> Vec<(u32, Decision)> {
    let (verdict, diagnosis) = match is_lost {
        true => (Verdict::Bounce, content_lost()),
        false => (Verdict::Defer, content_unreadable()),
    };
    let mut decisions = judge_transaction(envelope, result, over).decisions;
    for ((_, decision), (_, recipient)) in decisions.iter_mut().zip(&result.verdicts) {
        if is_silence(recipient) {
            decision.verdict = verdict;
            decision.diagnosis = diagnosis.clone();
        }
    }
    decisions
}

/// Gives all recipients the same verdict, without a transaction.
pub fn decide_all(
    recipients: &[(u32, RecipientState)],
    verdict: Verdict,
    diagnosis: &Diagnosis,
) -> Vec<(u32, Decision)> {
    let decision = || Decision {
        verdict,
        diagnosis: diagnosis.clone(),
        relayed: false,
        may_be_for_another: false,
    };
    recipients
        .iter()
        .map(|(index, _)| (*index, decision()))
        .collect()
}

/// What a transaction went over.
#[derive(Clone, Copy, Debug)]
pub struct Over<'a> {
    /// Whom the session was with.
    pub host: &'a str,
    /// See [`Situation::session_worked`].
    pub session_worked: bool,
    /// See [`Situation::knows_no_extensions`].
    pub knows_no_extensions: bool,
    /// See [`Situation::fallback`].
    pub fallback: Option<Fallback>,
    /// See [`Situation::is_substitute`].
    pub is_substitute: bool,
}

impl<'a> Over<'a> {
    /// A session of which nothing is known.
    pub fn new(host: &'a str) -> Self {
        Over {
            host,
            session_worked: false,
            knows_no_extensions: false,
            fallback: None,
            is_substitute: false,
        }
    }

    /// Of a transaction, without regard to other hosts.
    pub fn situation(&self, envelope: &Envelope, result: &TransactionResult) -> Situation {
        let echoes = echoes_of(envelope, result);
        let verdicts = || result.verdicts.iter().map(|(_, it)| it);
        Situation {
            session_worked: self.session_worked,
            has_refused: verdicts().any(|it| is_own_refusal(it, echoes)),
            has_accepted: verdicts().any(was_accepted_at_rcpt),
            knows_no_extensions: self.knows_no_extensions,
            echoes,
            fallback: self.fallback,
            is_substitute: self.is_substitute,
            ..Situation::default()
        }
    }
}

/// Judges a transaction. `envelope`: of the message that it was for, or was a report on.
pub fn judge_transaction(
    envelope: &Envelope,
    result: &TransactionResult,
    over: &Over<'_>,
) -> Judged {
    let host = over.host;
    let situation = over.situation(envelope, result);
    let accepted_any = result
        .verdicts
        .iter()
        .any(|(_, verdict)| matches!(verdict, RecipientVerdict::Accepted { .. }));
    let unanswered = result.verdicts.iter().filter(|(_, it)| has_no_answer(it));
    let are_many_unanswered = unanswered.count() > 1;
    let mut judged = Judged {
        decisions: Vec::with_capacity(result.verdicts.len()),
        accepted_any,
        answered: true,
        broke: false,
        is_spoilt: false,
        throttle: None,
        tls_demanded: tls_demanded(result, situation),
        of_hop: None,
    };
    for (index, recipient) in &result.verdicts {
        let mut finding = judge::find_of_recipient(recipient, situation, host);
        if let Some(why) = judge::what_was_missed(result, recipient) {
            finding = finding.told(&why);
        }
        let verdict = match finding.verdict() {
            Verdict::NextTransaction if !accepted_any => Verdict::Defer,
            verdict => verdict,
        };
        let scope = finding.scope();
        judged.answered &= !is_silence(recipient);
        judged.broke |= is_silence(recipient) && verdict != Verdict::Reconnect;
        // The next attempt is to ask for extensions, and not to find this session.
        judged.is_spoilt |= scope == Scope::Session || verdict == Verdict::DeferOnce;
        judged.hear_of_hop(&finding);
        let is_unexplained = has_no_answer(recipient) && !finding.throttles();
        judged.decisions.push((
            *index,
            Decision {
                verdict,
                diagnosis: finding.into_diagnosis(),
                relayed: result.relayed.contains(index),
                may_be_for_another: are_many_unanswered && is_unexplained,
            },
        ));
    }
    if judged.broke && judged.of_hop.is_none() {
        judged.of_hop = Some(HopDiagnosis::sessions_break(host));
    }
    judged
}

/// What demands TLS of a session that has none because TLS did not work.
pub fn tls_demanded(result: &TransactionResult, situation: Situation) -> Option<Rc<Reply>> {
    situation.fallback?;
    let demand = |(_, verdict): &(u32, RecipientVerdict)| match verdict {
        RecipientVerdict::Refused { stage, reply } => {
            judge::demands_tls(*stage, reply, situation.echoes).then(|| reply.clone())
        }
        _ => None,
    };
    result.verdicts.iter().find_map(demand)
}

impl Judged {
    /// Keeps what a finding says of the hop: the most that it asks for, and why.
    fn hear_of_hop(&mut self, finding: &Finding) {
        let asks = match finding.scope() {
            Scope::NextHop if finding.throttles() => Some(Refusal::Mail),
            Scope::Connection => Some(Refusal::Session),
            _ => None,
        };
        let asks_for_more = asks == Some(Refusal::Mail) && self.throttle != asks;
        if self.of_hop.is_none() || asks_for_more {
            self.of_hop = finding.of_hop();
        }
        if asks_for_more || self.throttle.is_none() {
            self.throttle = asks;
        }
    }

    /// Tells the schedule how its hop did, in `took`. `last` finds the hop's last word in what is kept with it.
    pub fn tell<K: Clone + Hash + Eq, J, C: Default>(
        &self,
        schedule: &mut Schedule<K, J, C>,
        hop: HopId,
        (took, now): (Duration, Now),
        last: impl Fn(&mut C) -> &mut LastWord,
    ) {
        // A refusal is an answer, but no progress: pauses would begin anew with each.
        if self.answered && (self.throttle.is_none() || self.accepted_any) {
            schedule.delivered(hop, took);
            last(schedule.context(hop)).forget();
        }
        if let Some(refusal) = self.throttle {
            schedule.refused(hop, refusal, now);
        }
        if let Some(word) = &self.of_hop {
            last(schedule.context(hop)).heard(word.clone(), now);
        }
    }

    /// `reusable`: the session stands, and another transaction may follow.
    pub fn after(&self, reusable: bool) -> After {
        let is_spoilt = self.is_spoilt || self.tls_demanded.is_some();
        match (reusable && !is_spoilt, self.broke) {
            (true, _) => After::GoOn,
            (false, false) => After::Close,
            (false, true) => After::Broke,
        }
    }
}

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
    /// Owed a report from now on, which is due at once.
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
            Verdict::DeferOnce if was_so_before(state, diagnosis) => {
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
            Err(untold) => (Ending::Dropped(failure, untold), RecipientState::Finished),
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
    ) -> Result<RecipientState, Untold> {
        let recipient = &self.envelope.recipients[index as usize];
        let wanted = match kind {
            ReportKind::Failed => recipient.wants_failure_report(),
            ReportKind::Relayed => recipient.wants_success_report(),
        };
        if self.envelope.reverse_path.is_none() {
            return Err(Untold::NullReversePath);
        }
        if !wanted {
            return Err(Untold::NotWanted);
        }
        Ok(RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts: 0,
            due: WallTime(0),
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
            let ending = Ending::Dropped(failure, Untold::IsReport);
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

fn attempts_of(state: &RecipientState) -> u32 {
    match state {
        RecipientState::Waiting { attempts, .. } | RecipientState::ReportOwed { attempts, .. } => {
            *attempts
        }
        RecipientState::Finished => 0,
    }
}

/// The attempt before has ended in just the same way.
fn was_so_before(state: &RecipientState, diagnosis: &Diagnosis) -> bool {
    let before = match state {
        RecipientState::Waiting { last, .. } => last.as_ref(),
        RecipientState::ReportOwed { .. } | RecipientState::Finished => None,
    };
    before.is_some_and(|it| (it.status, &it.text) == (diagnosis.status, &diagnosis.text))
}

/// What the refusals of a transaction may repeat of what it said. Sought only where it matters.
fn echoes_of(envelope: &Envelope, result: &TransactionResult) -> Echoes {
    let may_pause = |verdict: &RecipientVerdict| matches!(verdict, RecipientVerdict::Refused { reply, .. } if reply.is_transient());
    if !result.verdicts.iter().any(|(_, it)| may_pause(it)) {
        return Echoes::default();
    }
    let of_index = |&(index, _): &(u32, _)| envelope.recipients.get(index as usize);
    Echoes::of(envelope, result.verdicts.iter().filter_map(of_index))
}

/// Of this recipient alone, in a session that went on.
fn is_own_refusal(verdict: &RecipientVerdict, echoes: Echoes) -> bool {
    let is_own = |stage: Stage, reply: &Reply| {
        stage == Stage::Rcpt && reply.code != 421 && !judge::speaks_of_session(reply, echoes)
    };
    matches!(verdict, RecipientVerdict::Refused { stage, reply } if is_own(*stage, reply))
}

/// Whatever became of it later.
fn was_accepted_at_rcpt(verdict: &RecipientVerdict) -> bool {
    match verdict {
        RecipientVerdict::Accepted { .. }
        | RecipientVerdict::LostInBody
        | RecipientVerdict::LostAfterData => true,
        RecipientVerdict::Refused { stage, .. } => {
            matches!(stage, Stage::Data | Stage::Body | Stage::FinalDot)
        }
        RecipientVerdict::NotAttempted | RecipientVerdict::Unfit(_) => false,
    }
}

/// The session ended before the content was asked for, at this recipient or at another one.
fn has_no_answer(verdict: &RecipientVerdict) -> bool {
    match verdict {
        RecipientVerdict::NotAttempted => true,
        RecipientVerdict::Refused { stage, reply } => {
            matches!(stage, Stage::Rcpt | Stage::Data) && reply.code == 421
        }
        _ => false,
    }
}

/// The connection ended without the answer that was due.
fn is_silence(verdict: &RecipientVerdict) -> bool {
    matches!(
        verdict,
        RecipientVerdict::NotAttempted
            | RecipientVerdict::LostInBody
            | RecipientVerdict::LostAfterData
    )
}

#[cfg(test)]
mod of_others;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Notify, Recipient};

    fn diagnosis() -> Diagnosis {
        Diagnosis {
            status: EnhancedStatus::new(5, 1, 1),
            text: "550 5.1.1 no such user".into(),
            remote_host: "mx.b.test".into(),
        }
    }

    /// Recipients with no NOTIFY, NEVER, and SUCCESS.
    fn envelope(reverse_path: Option<Mailbox>) -> Envelope {
        let notify = [
            None,
            Some(Notify::NEVER),
            Some(Notify {
                success: true,
                ..Notify::NEVER
            }),
        ];
        let recipient = |notify| Recipient {
            notify,
            ..Recipient::new(Mailbox::new("r", "b.test"))
        };
        Envelope {
            reverse_path,
            recipients: notify.into_iter().map(recipient).collect(),
            ..Envelope::default()
        }
    }

    fn settle(
        envelope: &Envelope,
        state: &RecipientState,
        verdict: Verdict,
        relayed: bool,
    ) -> Consequences {
        settle_at(envelope, state, verdict, relayed, Duration::from_secs(1))
    }

    fn settle_at(
        envelope: &Envelope,
        state: &RecipientState,
        verdict: Verdict,
        relayed: bool,
        age: Duration,
    ) -> Consequences {
        let retry = RetryPolicy::default();
        let facts = Facts {
            envelope,
            age,
            now: WallTime(1000),
            random: 0,
            retry: &retry,
            report_retry: &retry,
        };
        let recipients: Recipients = (0..3).map(|index| (index, state.clone())).collect();
        let mut decisions = decide_all(&recipients, verdict, &diagnosis());
        for (_, decision) in &mut decisions {
            decision.relayed = relayed;
        }
        Consequences::of(&facts, recipients, &decisions)
    }

    #[test]
    fn who_is_owed_a_report() {
        let told = envelope(Some(Mailbox::new("s", "a.test")));
        let fresh = RecipientState::fresh();
        let failed = settle(&told, &fresh, Verdict::Bounce, false);
        assert_eq!((indices(&failed.reports), failed.finished), (vec![0], 2));
        let relayed = settle(&told, &fresh, Verdict::Delivered, true);
        assert_eq!((indices(&relayed.reports), relayed.finished), (vec![2], 2));
        let delivered = settle(&told, &fresh, Verdict::Delivered, false);
        assert_eq!(delivered.finished, 3);
        let nobody = settle(&envelope(None), &fresh, Verdict::Bounce, false);
        assert_eq!(nobody.finished, 3);
    }

    #[test]
    fn a_report_is_delivered_deferred_or_dropped() {
        let told = envelope(Some(Mailbox::new("s", "a.test")));
        let owed = RecipientState::ReportOwed {
            kind: ReportKind::Failed,
            diagnosis: diagnosis(),
            attempts: 0,
            due: WallTime(0),
        };
        for verdict in [Verdict::Delivered, Verdict::Bounce] {
            assert_eq!(settle(&told, &owed, verdict, false).finished, 3);
        }
        let later = settle(&told, &owed, Verdict::Defer, false);
        assert_eq!(indices(&later.deferred), [0, 1, 2]);
        assert_eq!(later.due, Some(WallTime(301_000)));
        let again = settle(&told, &owed, Verdict::Reconnect, false);
        assert_eq!(
            (indices(&again.again), again.recorded.len()),
            (vec![0, 1, 2], 0)
        );
    }

    /// A host that did not know EHLO a moment ago offered no SMTPUTF8 either.
    #[test]
    fn mail_that_needs_what_a_host_lacks_with_ehlo_is_returned_at_the_second_time() {
        let told = envelope(Some(Mailbox::new("s", "a.test")));
        let fresh = RecipientState::fresh();
        let first = settle(&told, &fresh, Verdict::DeferOnce, false);
        assert_eq!(indices(&first.deferred), [0, 1, 2]);
        let (_, state) = &first.deferred[0];
        let again = settle(&told, state, Verdict::DeferOnce, false);
        assert_eq!(again.endings[0], Ending::Bounced);
        let RecipientState::Waiting { attempts, due, .. } = state.clone() else {
            panic!("{state:?}");
        };
        let otherwise = RecipientState::Waiting {
            attempts,
            due,
            last: Some(waited_in_vain()),
        };
        let later = settle(&told, &otherwise, Verdict::DeferOnce, false);
        assert_eq!(indices(&later.deferred), [0, 1, 2]);
    }

    #[test]
    fn content_that_cannot_be_read_speaks_of_the_message_and_leaves_refusals_alone() {
        let told = envelope(None);
        let refused = RecipientVerdict::Refused {
            stage: Stage::Rcpt,
            reply: std::rc::Rc::new(crate::smtp::reply::Reply::new(550, "5.1.1 nobody")),
        };
        let result = TransactionResult {
            verdicts: vec![(0, refused), (2, RecipientVerdict::LostInBody)],
            relayed: Vec::new(),
            reusable: false,
            cut_short: None,
            waited: None,
        };
        let verdicts = |is_lost| {
            let decisions = judge_without_content(&told, &result, is_lost, &Over::new("h"));
            let told = decisions.into_iter().map(|(index, decision)| {
                let Decision {
                    verdict, diagnosis, ..
                } = decision;
                (index, verdict, diagnosis.status)
            });
            told.collect::<Vec<_>>()
        };
        let nobody = (0, Verdict::Bounce, EnhancedStatus::new(5, 1, 1));
        let lost = (2, Verdict::Bounce, EnhancedStatus::new(5, 3, 0));
        let later = (2, Verdict::Defer, EnhancedStatus::new(4, 3, 0));
        assert_eq!(verdicts(true), [nobody, lost]);
        assert_eq!(verdicts(false), [nobody, later]);
    }

    /// One recipient of each kind, and what is said of it when its lifetime ends or it is refused.
    #[test]
    fn whoever_is_gone_without_a_report_is_said_to_be_dropped() {
        use Ending::{Bounced, Delivered, Dropped, Expired};
        use Untold::{NotWanted, NullReversePath};
        let (told, null) = (envelope(Some(Mailbox::new("s", "a.test"))), envelope(None));
        let fresh = RecipientState::fresh();
        let endings =
            |envelope, verdict, age| settle_at(envelope, &fresh, verdict, false, age).endings;
        let (young, old) = (Duration::from_secs(1), Duration::from_secs(6 * 24 * 3600));
        let undeliverable = |untold| Dropped(Failure::Undeliverable, untold);
        let expired = |untold| Dropped(Failure::Expired, untold);
        assert_eq!(
            endings(&told, Verdict::Bounce, young),
            [Bounced, undeliverable(NotWanted), undeliverable(NotWanted)]
        );
        assert_eq!(
            endings(&told, Verdict::Defer, old),
            [Expired, expired(NotWanted), expired(NotWanted)]
        );
        assert_eq!(
            endings(&null, Verdict::Bounce, young),
            [undeliverable(NullReversePath); 3]
        );
        assert_eq!(
            endings(&null, Verdict::Defer, old),
            [expired(NullReversePath); 3]
        );
        assert_eq!(endings(&null, Verdict::Delivered, old), [Delivered; 3]);
        assert_eq!(
            endings(&told, Verdict::Defer, young),
            [Ending::Deferred { attempt: 1 }; 3]
        );
        assert_eq!(
            endings(&told, Verdict::Reconnect, old),
            [Ending::Requeued; 3]
        );
    }

    #[test]
    fn a_report_has_one_ending_for_all_that_it_speaks_of() {
        let told = envelope(Some(Mailbox::new("s", "a.test")));
        let owed = RecipientState::ReportOwed {
            kind: ReportKind::Failed,
            diagnosis: diagnosis(),
            attempts: 2,
            due: WallTime(0),
        };
        let old = Duration::from_secs(6 * 24 * 3600);
        let dropped = |failure| vec![Ending::Dropped(failure, Untold::IsReport)];
        let table = [
            (Verdict::Delivered, Duration::ZERO, vec![Ending::Delivered]),
            (
                Verdict::Bounce,
                Duration::ZERO,
                dropped(Failure::Undeliverable),
            ),
            (Verdict::Defer, old, dropped(Failure::Expired)),
            (
                Verdict::Defer,
                Duration::ZERO,
                vec![Ending::Deferred { attempt: 3 }],
            ),
            (Verdict::Reconnect, old, vec![Ending::Requeued]),
        ];
        for (verdict, age, endings) in table {
            assert_eq!(
                settle_at(&told, &owed, verdict, false, age).endings,
                endings
            );
        }
    }

    /// A final ending and the end of delivery are the same: nothing ends without a last word.
    #[test]
    fn who_is_finished_or_owed_a_report_had_a_final_ending() {
        let verdicts = [
            Verdict::Delivered,
            Verdict::Reconnect,
            Verdict::TryPlaintext,
            Verdict::TryNextHost,
            Verdict::NextTransaction,
            Verdict::Defer,
            Verdict::DeferOnce,
            Verdict::Throttle,
            Verdict::Bounce,
        ];
        for reverse_path in [None, Some(Mailbox::new("s", "a.test"))] {
            let envelope = envelope(reverse_path);
            for (verdict, days) in verdicts.iter().flat_map(|v| [(*v, 0), (*v, 6)]) {
                let age = Duration::from_secs(days * 24 * 3600);
                let settled = settle_at(&envelope, &RecipientState::fresh(), verdict, true, age);
                let is_final = settled.endings.iter().filter(|ending| ending.is_final());
                assert_eq!(
                    is_final.count(),
                    settled.finished as usize + settled.reports.len(),
                    "{verdict:?}"
                );
            }
        }
    }

    #[test]
    fn what_goes_again_at_once_without_progress_is_deferred_in_the_end() {
        let mut course = Course::default();
        let decisions =
            |verdict| decide_all(&[(0, RecipientState::fresh())], verdict, &diagnosis());
        let mut verdicts = |verdict, times: u32| {
            let once = |_| {
                let mut decisions = decisions(verdict);
                course = course.after(&mut decisions);
                decisions[0].1.verdict
            };
            (0..times).map(once).collect::<Vec<_>>()
        };
        let most = REQUEUED_MAX as usize;
        let mut expected = vec![Verdict::Reconnect; most];
        expected.push(Verdict::Defer);
        assert_eq!(verdicts(Verdict::Reconnect, REQUEUED_MAX + 1), expected);
        assert_eq!(
            verdicts(Verdict::Reconnect, 1),
            [Verdict::Reconnect],
            "anew"
        );
        // Others of the job are delivered each time.
        let full = verdicts(Verdict::NextTransaction, 2 * REQUEUED_MAX);
        assert_eq!(full, vec![Verdict::NextTransaction; 2 * most]);
        expected.pop();
        assert_eq!(verdicts(Verdict::Reconnect, REQUEUED_MAX), expected);
    }

    #[test]
    fn a_report_that_is_too_large_becomes_smaller_until_it_speaks_of_one_recipient() {
        let refused = |code, text: &str| TransactionResult {
            verdicts: vec![(
                0,
                RecipientVerdict::Refused {
                    stage: crate::smtp::reply::Stage::FinalDot,
                    reply: std::rc::Rc::new(crate::smtp::reply::Reply::new(code, text)),
                },
            )],
            relayed: Vec::new(),
            reusable: true,
            cut_short: None,
            waited: None,
        };
        let smaller = |result: &TransactionResult| {
            let (mut course, mut count, mut seen) = (Course::default(), 70, Vec::new());
            while let Some(next) = course.smaller(result, course.original, count) {
                course = next;
                count = count.min(course.recipients_max);
                seen.push((course.original, count));
            }
            seen
        };
        let mut expected = vec![(Extent::Headers, 70), (Extent::Nothing, 70)];
        assert_eq!(smaller(&refused(554, "5.7.1 spam")), expected);
        let halves = [35, 17, 8, 4, 2, 1];
        expected.extend(halves.map(|count| (Extent::Nothing, count)));
        assert_eq!(smaller(&refused(552, "5.3.4 too large")), expected);
        assert_eq!(smaller(&refused(451, "4.3.0 not now")), []);
    }

    #[test]
    fn recipients_and_reports_are_split_by_count() {
        let fresh: Recipients = (0..5)
            .map(|index| (index, RecipientState::fresh()))
            .collect();
        let parts = split_by_count(fresh, 2);
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        let owed = RecipientState::ReportOwed {
            kind: ReportKind::Failed,
            diagnosis: diagnosis(),
            attempts: 0,
            due: WallTime(0),
        };
        let owed: Recipients = (0..5).map(|index| (index, owed.clone())).collect();
        assert_eq!(split_by_count(owed, 2).len(), 3);
    }
}
