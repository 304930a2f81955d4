//! What verdicts mean for recipients: the next state of each, recorded, and what follows from it.
//!
//! Promise: whatever the verdict, a recipient ends in exactly one of four ways: finished, owed a
//! report, waiting with a due time, or queued again at once. The first three are recorded.

use super::worker::{Peer, is_report};
use super::{HopId, Inner};
use crate::config::LogLevel;
use crate::handoff::job::{Job, Message};
use crate::io::clock;
use crate::io::runtime::spawn;
use crate::log::{Shown, event};
use crate::message::TlsSummary;
use crate::remote::connection::Connection;
use crate::schedule::judge::{self, Event, Scope, Situation, Trouble, Verdict};
use crate::schedule::next_hop::Refusal;
use crate::schedule::outcome::{Diagnosis, Outcome, RecipientState, ReportKind};
use crate::schedule::retry::{self, NextTry};
use crate::smtp::client::{RecipientVerdict, TransactionResult};
use crate::smtp::reply::Stage;
use crate::time::{Now, WallTime};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What is to happen to one recipient.
struct Decision {
    verdict: Verdict,
    diagnosis: Diagnosis,
    /// Delivered to a hop that will not report success, while success reports were asked for.
    relayed: bool,
}

/// How a transaction went, for the log.
#[derive(Default)]
struct Told<'a> {
    peer: Option<&'a Peer>,
    tls: Option<TlsSummary>,
    started: Option<Now>,
}

/// What follows from the new states of a job's recipients.
#[derive(Default)]
struct Consequences {
    recorded: Vec<(u32, RecipientState)>,
    again: Vec<(u32, RecipientState)>,
    deferred: Vec<(u32, RecipientState)>,
    reports: Vec<(u32, RecipientState)>,
    finished: u32,
    due: Option<WallTime>,
}

/// A job that never got to a host, and no host has said why.
pub(super) fn nobody_answered() -> Diagnosis {
    let event = Event::Trouble(Trouble::Unreachable);
    judge::diagnose(Stage::Connect, event, Verdict::Defer, "")
}

impl Inner {
    /// Settles what a transaction decided. True if the connection was lost in a way that speaks
    /// against the hop; one that ended between two transactions does not.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, each a fact of its own"
    )]
    pub(super) fn settle(
        self: &Rc<Self>,
        hop: HopId,
        job: Job,
        result: TransactionResult,
        connection: &Connection,
        peer: &Peer,
        started: Now,
        session_worked: bool,
    ) -> bool {
        let situation = Situation {
            session_worked,
            ..Situation::default()
        };
        let accepted_any = result
            .verdicts
            .iter()
            .any(|(_, verdict)| matches!(verdict, RecipientVerdict::Accepted { .. }));
        if accepted_any {
            let sent = job.message.residence.place().body_bytes();
            self.context.metrics.bytes_delivered.add(sent);
        }
        let mut answered = true;
        let mut broke = false;
        let mut throttle = None;
        let mut decisions = Vec::with_capacity(result.verdicts.len());
        for (index, recipient) in &result.verdicts {
            let (scope, verdict) = judge::judge_recipient(recipient, situation);
            let verdict = match verdict {
                Verdict::NextTransaction if !accepted_any => Verdict::Defer,
                verdict => verdict,
            };
            if verdict == Verdict::Throttle && scope == Scope::NextHop {
                throttle = Some(Refusal::Mail);
            } else if is_421(recipient) {
                throttle.get_or_insert(Refusal::Connection);
            }
            answered &= !is_silence(recipient);
            broke |= is_silence(recipient) && verdict != Verdict::Reconnect;
            let (stage, event) = judge::event_of(recipient);
            decisions.push((
                *index,
                Decision {
                    verdict,
                    diagnosis: judge::diagnose(stage, event, verdict, &peer.host),
                    relayed: result.relayed.contains(index),
                },
            ));
        }
        let took = clock::now().since(started);
        self.tell_schedule(hop, &decisions, answered.then_some(took), throttle);
        let told = Told {
            peer: Some(peer),
            tls: connection.tls().copied(),
            started: Some(started),
        };
        self.apply(job, decisions, &told);
        broke
    }

    fn tell_schedule(
        &self,
        hop: HopId,
        decisions: &[(u32, Decision)],
        answered_after: Option<Duration>,
        throttle: Option<Refusal>,
    ) {
        let mut schedule = self.schedule.borrow_mut();
        if let Some(took) = answered_after {
            schedule.delivered(hop, took);
            // What went wrong before says nothing about who waits too long from now on; a 5yz
            // greeting of an hour ago must not return mail.
            schedule.context(hop).last = None;
        }
        if let Some(refusal) = throttle {
            schedule.refused(hop, refusal, clock::now());
        }
        let unhappy = decisions
            .iter()
            .find(|(_, decision)| decision.verdict != Verdict::Delivered);
        if let Some((_, decision)) = unhappy
            && answered_after.is_none()
        {
            schedule.context(hop).last = Some(decision.diagnosis.clone());
        }
    }

    /// Gives all recipients of a job the same verdict, without a transaction.
    pub(super) fn settle_all(self: &Rc<Self>, job: Job, verdict: Verdict, diagnosis: &Diagnosis) {
        let decisions = job
            .recipients
            .iter()
            .map(|(index, _)| {
                let decision = Decision {
                    verdict,
                    diagnosis: diagnosis.clone(),
                    relayed: false,
                };
                (*index, decision)
            })
            .collect();
        self.apply(job, decisions, &Told::default());
    }

    fn apply(self: &Rc<Self>, job: Job, decisions: Vec<(u32, Decision)>, told: &Told<'_>) {
        let message = job.message.clone();
        let random = self.random();
        let mut consequences = Consequences::default();
        if is_report(&job) {
            // One transaction spoke of them all.
            let Some((_, decision)) = decisions.into_iter().next() else {
                return;
            };
            self.log_attempt(&message, None, &decision, told);
            for (index, state) in job.recipients {
                let next = self.next_of_report(&message, &state, &decision, random);
                consequences.add(index, state, next);
            }
        } else {
            for ((index, state), (_, decision)) in job.recipients.into_iter().zip(decisions) {
                self.log_attempt(&message, Some(index), &decision, told);
                let next = self.next_of_recipient(&message, index, &state, decision, random);
                consequences.add(index, state, next);
            }
        }
        self.record(&message, &mut consequences);
        self.queue_again(&message, job.body, consequences);
    }

    /// A report that nobody can be told: its recipients are finished.
    pub(super) fn forget_report(self: &Rc<Self>, job: Job) {
        self.settle_all(job, Verdict::Bounce, &nobody_answered());
    }

    /// The next state of a recipient that waited; `None`: as it was, at once again.
    fn next_of_recipient(
        &self,
        message: &Message,
        index: u32,
        state: &RecipientState,
        decision: Decision,
        random: u64,
    ) -> Option<RecipientState> {
        let Decision {
            verdict,
            diagnosis,
            relayed,
        } = decision;
        match verdict {
            Verdict::Delivered if relayed => {
                Some(self.report_owed(message, index, ReportKind::Relayed, diagnosis))
            }
            Verdict::Delivered => Some(RecipientState::Finished),
            Verdict::Bounce => {
                Some(self.report_owed(message, index, ReportKind::Failed, diagnosis))
            }
            Verdict::Reconnect | Verdict::NextTransaction => None,
            _ => Some(self.deferred(message, index, state, diagnosis, random)),
        }
    }

    fn deferred(
        &self,
        message: &Message,
        index: u32,
        state: &RecipientState,
        diagnosis: Diagnosis,
        random: u64,
    ) -> RecipientState {
        let attempts = attempts_of(state) + 1;
        let age = message.born.age(clock::now());
        match self.context.retry.after_failure(attempts, age, random) {
            NextTry::After(wait) => RecipientState::Waiting {
                attempts,
                due: clock::wall_time() + wait,
                last: Some(diagnosis),
            },
            NextTry::Expired => {
                let expired = retry::expired(Some(&diagnosis));
                self.report_owed(message, index, ReportKind::Failed, expired)
            }
        }
    }

    /// A report is owed if somebody can be told, and wants to be.
    fn report_owed(
        &self,
        message: &Message,
        index: u32,
        kind: ReportKind,
        diagnosis: Diagnosis,
    ) -> RecipientState {
        let recipient = &message.envelope.recipients[index as usize];
        let wanted = match kind {
            ReportKind::Failed => recipient.wants_failure_report(),
            ReportKind::Relayed => recipient.wants_success_report(),
        };
        if message.envelope.reverse_path.is_none() || !wanted {
            return RecipientState::Finished;
        }
        RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts: 0,
            due: WallTime(0),
        }
    }

    /// The next state of a recipient whose report was tried. A report that cannot be delivered is
    /// dropped (RFC 5321 section 6.1): the log has the line.
    fn next_of_report(
        &self,
        message: &Message,
        state: &RecipientState,
        decision: &Decision,
        random: u64,
    ) -> Option<RecipientState> {
        let RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts,
            ..
        } = state
        else {
            return Some(RecipientState::Finished);
        };
        match decision.verdict {
            Verdict::Delivered | Verdict::Bounce => Some(RecipientState::Finished),
            Verdict::Reconnect | Verdict::NextTransaction => None,
            _ => {
                let attempts = attempts + 1;
                let age = message.born.age(clock::now());
                let retry = &self.context.report_retry;
                Some(match retry.after_failure(attempts, age, random) {
                    NextTry::After(wait) => RecipientState::ReportOwed {
                        kind: *kind,
                        diagnosis: diagnosis.clone(),
                        attempts,
                        due: clock::wall_time() + wait,
                    },
                    NextTry::Expired => RecipientState::Finished,
                })
            }
        }
    }

    /// Writes the new states to the log of outcomes. Recipients count as finished once that is
    /// durable; until then a crash would only repeat them.
    fn record(self: &Rc<Self>, message: &Arc<Message>, consequences: &mut Consequences) {
        let recipients = std::mem::take(&mut consequences.recorded);
        if recipients.is_empty() {
            return;
        }
        let outcome = Outcome {
            message: message.id,
            recipients,
        };
        let finished = consequences.finished;
        let (this, message) = (self.clone(), message.clone());
        self.at_work.set(self.at_work.get() + 1);
        spawn(async move {
            this.context
                .spool
                .record(&outcome, &message.residence)
                .await;
            if finished > 0 {
                (this.context.finished)(&message, finished);
            }
            this.work_done();
        });
    }

    fn queue_again(
        self: &Rc<Self>,
        message: &Arc<Message>,
        body: Option<Arc<crate::handoff::job::Body>>,
        consequences: Consequences,
    ) {
        let job = |recipients, body| Job {
            message: message.clone(),
            body,
            recipients,
        };
        if !consequences.again.is_empty() {
            self.clone().submit(job(consequences.again, body));
        }
        if !consequences.reports.is_empty() {
            self.clone().submit(job(consequences.reports, None));
        }
        if let Some(due) = consequences.due {
            self.defer(job(consequences.deferred, None), due);
        }
    }

    fn log_attempt(
        &self,
        message: &Message,
        index: Option<u32>,
        decision: &Decision,
        told: &Told<'_>,
    ) {
        let metrics = &self.context.metrics;
        let (name, level) = match decision.verdict {
            Verdict::Delivered => {
                let took = clock::wall_time().since(message.received_at);
                metrics.delivery_us.record_duration(took);
                metrics.delivered.increment();
                (event::DELIVERED, LogLevel::Info)
            }
            Verdict::Bounce => {
                metrics.bounced.increment();
                (event::BOUNCED, LogLevel::Info)
            }
            Verdict::Reconnect | Verdict::NextTransaction => ("requeued", LogLevel::Debug),
            _ => {
                metrics.deferred.increment();
                (event::DEFERRED, LogLevel::Info)
            }
        };
        let to = match index {
            Some(index) => Some(&message.envelope.recipients[index as usize].forward_path),
            None => message.envelope.reverse_path.as_ref(),
        };
        let mut line = self.context.log.line(level, name, clock::wall_time());
        line.field("id", message.id);
        match (index, &message.envelope.reverse_path) {
            (Some(_), Some(from)) => line.field("from", from),
            _ => line.field("from", "<>"),
        };
        if let Some(to) = to {
            line.field("to", to);
        }
        if index.is_none() {
            line.field("report", "yes");
        }
        if let Some(peer) = told.peer {
            line.field("host", &peer.host)
                .field("address", peer.address);
        }
        if told.peer.is_some() {
            line.tls(told.tls.as_ref());
        }
        let delay = clock::wall_time().since(message.received_at);
        line.field("delay_ms", delay.as_millis() as u64);
        if let Some(started) = told.started {
            let took = clock::now().since(started);
            line.field("transaction_ms", took.as_millis() as u64);
        }
        line.field("status", Shown(decision.diagnosis.status))
            .field("reply", &decision.diagnosis.text);
    }

    pub(super) fn log_connect_failed(&self, hop: HopId, diagnosis: &Diagnosis) {
        let log = &self.context.log;
        log.line(LogLevel::Info, "connect-failed", clock::wall_time())
            .field("hop", Shown(self.schedule.borrow().key(hop)))
            .field("host", &diagnosis.remote_host)
            .field("status", Shown(diagnosis.status))
            .field("reply", &diagnosis.text);
    }

    pub(super) fn log_unreadable(&self, job: &Job, error: &std::io::Error) {
        let log = &self.context.log;
        log.line(LogLevel::Error, "content-unreadable", clock::wall_time())
            .field("id", job.message.id)
            .field("error", Shown(error))
            .field("effect", "tried again later; see ringpost spool verify");
    }

    pub(super) fn log_fallback(&self, host: &str, address: SocketAddr, why: &str) {
        let log = &self.context.log;
        log.line(LogLevel::Info, "plaintext-fallback", clock::wall_time())
            .field("host", host)
            .field("address", address)
            .field("reason", why);
    }
}

impl Consequences {
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

fn attempts_of(state: &RecipientState) -> u32 {
    match state {
        RecipientState::Waiting { attempts, .. } | RecipientState::ReportOwed { attempts, .. } => {
            *attempts
        }
        RecipientState::Finished => 0,
    }
}

/// The hop goes away, or wants us to: whatever command that answers, no connection is to follow
/// at once.
fn is_421(verdict: &RecipientVerdict) -> bool {
    matches!(verdict, RecipientVerdict::Refused { reply, .. } if reply.code == 421)
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
