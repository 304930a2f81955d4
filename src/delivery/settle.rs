//! Does what `schedule::settle` decides of recipients: records new states, and queues what goes on.

use super::peer::{Peer, TlsFault};
use super::{HopId, Inner};
use crate::handoff::job::{Job, Message, diagnosis_bytes_of};
use crate::handoff::settled::Settled;
use crate::io::clock;
use crate::io::{Bug, planted};
use crate::log::{LogLevel, Shown, event};
use crate::message::TlsSummary;
use crate::remote::connection::Connection;
use crate::schedule::ending::Ending;
use crate::schedule::judge::{Event, Finding, HopDiagnosis, Situation, Verdict};
use crate::schedule::next_hop::Refusal;
use crate::schedule::outcome::{Diagnosis, RecipientState};
use crate::schedule::settle::{
    After, Consequences, Course, Decision, Facts, Over, content_lost, decide_all, is_report,
    judge_transaction, judge_without_content, nobody_to_tell,
};
use crate::smtp::client::{OutOfStep, RecipientVerdict, TransactionResult};
use crate::smtp::reply::{Reply, Stage};
use crate::time::{Now, WallTime};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The session that a transaction went over.
pub(super) struct TransactionContext<'a> {
    pub connection: &'a Connection,
    pub peer: &'a Peer,
    /// When the transaction began.
    pub started: Now,
    pub over: Over<'a>,
    /// A report, which goes on smaller at once whatever was said of it.
    pub goes_again: bool,
}

/// How a transaction went, for the log.
#[derive(Default)]
struct AttemptContext<'a> {
    peer: Option<&'a Peer>,
    tls: Option<TlsSummary>,
    started: Option<Now>,
}

/// What is said of one recipient, or of a report, after an attempt.
struct Attempt<'a> {
    /// Index into the envelope; `None`: it was a report.
    recipient: Option<u32>,
    ending: Ending,
    decision: &'a Decision,
    /// Of the recipients that are deferred.
    next_try: Option<WallTime>,
}

/// Of a message.
pub(super) fn age_of(message: &Message) -> Duration {
    match planted(Bug::LifetimesIgnored) {
        true => Duration::ZERO,
        false => message.born.age(clock::now()),
    }
}

fn not_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// See [`Bug::BrokenIsDelivered`] and [`Bug::RepliesMixedUp`].
fn with_bugs(mut result: TransactionResult) -> TransactionResult {
    if planted(Bug::BrokenIsDelivered) {
        for (_, verdict) in &mut result.verdicts {
            if *verdict == RecipientVerdict::LostAfterData {
                let reply = Rc::new(Reply::new(250, "taken"));
                *verdict = RecipientVerdict::Accepted { reply };
            }
        }
    }
    if planted(Bug::RepliesMixedUp) {
        for at in 1..result.verdicts.len() {
            let before = result.verdicts[at - 1].1.clone();
            result.verdicts[at].1 = before;
        }
    }
    result
}

/// See [`Bug::RecipientsSpeakForHops`].
fn said_of_hop(diagnosis: &Diagnosis) -> HopDiagnosis {
    let reply = Reply::new(554, &diagnosis.text);
    let (event, situation) = (Event::Reply(&reply), Situation::default());
    let finding = Finding::of(Stage::Greeting, event, situation, &diagnosis.remote_host);
    finding.of_hop().expect("a greeting speaks of its host")
}

impl Inner {
    /// Settles what a transaction decided, and says what becomes of the connection.
    pub(super) fn settle(
        self: &Rc<Self>,
        hop: HopId,
        job: Job,
        result: TransactionResult,
        session: &TransactionContext<'_>,
    ) -> After {
        let TransactionContext {
            connection, peer, ..
        } = *session;
        let reusable = result.reusable && connection.lives();
        let result = with_bugs(result);
        let mut judged = judge_transaction(&job.message.envelope, &result, &session.over);
        if session.goes_again {
            let verdict = Verdict::NextTransaction;
            (judged.decisions.iter_mut()).for_each(|(_, it)| it.verdict = verdict);
        }
        if judged.accepted_any {
            let sent = job.message.location.place().body_bytes();
            self.context.metrics.bytes_delivered.add(sent);
        }
        if let Some(reply) = &judged.tls_demanded {
            self.tls_demanded(peer, reply);
        }
        let now = clock::now();
        let took = now.since(session.started);
        let mut schedule = self.schedule.borrow_mut();
        judged.update_schedule(&mut schedule, hop, (took, now), |hop| &mut hop.last);
        let is_put_off = |(_, it): &(u32, Decision)| it.diagnosis.status.class == 4;
        if planted(Bug::SendersPauseHops) && judged.decisions.iter().any(is_put_off) {
            schedule.refused(hop, Refusal::Mail, now);
        }
        let is_final = |(_, it): &&(u32, Decision)| it.verdict == Verdict::Bounce;
        if planted(Bug::RecipientsSpeakForHops)
            && let Some((_, refused)) = judged.decisions.iter().find(is_final)
        {
            let word = said_of_hop(&refused.diagnosis);
            schedule.context(hop).last.heard(word, now);
        }
        drop(schedule);
        self.wake_scheduler_if_wanted(hop, now);
        let context = AttemptContext {
            peer: Some(peer),
            tls: connection.tls().copied(),
            started: Some(session.started),
        };
        let after = judged.after(reusable);
        self.apply(job, judged.decisions, &context);
        after
    }

    /// After the content could not be read from the spool: the hop is as it was, and the connection is over.
    pub(super) fn settle_without_content(
        self: &Rc<Self>,
        job: Job,
        result: &TransactionResult,
        error: &std::io::Error,
        session: &TransactionContext<'_>,
    ) -> After {
        let is_damaged = error.kind() == std::io::ErrorKind::InvalidData;
        let is_lost = job.message.content_failed(is_damaged);
        self.log_unreadable(&job, error, is_lost);
        let decisions =
            judge_without_content(&job.message.envelope, result, is_lost, &session.over);
        self.apply(job, decisions, &AttemptContext::default());
        After::Close
    }

    /// Of a job whose content is lost nothing is left to do but reports.
    pub(super) fn without_lost_content(self: &Rc<Self>, job: Job) -> Option<Job> {
        if job.body.is_some() || !job.message.is_content_lost() {
            return Some(job);
        }
        let (job, recipients) = job.take_recipients();
        let is_owed =
            |(_, state): &(u32, RecipientState)| matches!(state, RecipientState::ReportOwed { .. });
        let (owed, waiting): (Vec<_>, Vec<_>) = recipients.into_iter().partition(is_owed);
        let part = |recipients: Vec<_>| (!recipients.is_empty()).then(|| job.part(recipients));
        if let Some(waiting) = part(waiting) {
            self.settle_all(waiting, Verdict::Bounce, &content_lost());
        }
        part(owed)
    }

    /// Gives all recipients of a job the same verdict, without a transaction.
    pub(super) fn settle_all(self: &Rc<Self>, job: Job, verdict: Verdict, diagnosis: &Diagnosis) {
        let decisions = decide_all(&job.recipients, verdict, diagnosis);
        self.apply(job, decisions, &AttemptContext::default());
    }

    /// A job that no connection came to take.
    pub(super) fn settle_postponed(self: &Rc<Self>, job: Job, decisions: Vec<(u32, Decision)>) {
        self.apply(job, decisions, &AttemptContext::default());
    }

    /// A job comes back untried, for this reason. `next_try`: if it has a time of its own.
    pub(super) fn log_returned(&self, job: &Job, why: &Diagnosis, next_try: Option<WallTime>) {
        let is_report = is_report(&job.recipients);
        let decisions = decide_all(&job.recipients, Verdict::Defer, why);
        let told = match is_report {
            true => &decisions[..1],
            false => &decisions,
        };
        for (index, decision) in told {
            self.count(Ending::Returned, is_report, &job.message);
            let attempt = Attempt {
                recipient: (!is_report).then_some(*index),
                ending: Ending::Returned,
                decision,
                next_try,
            };
            self.log_attempt(&job.message, &attempt, &AttemptContext::default());
        }
    }

    fn apply(
        self: &Rc<Self>,
        job: Job,
        mut decisions: Vec<(u32, Decision)>,
        context: &AttemptContext<'_>,
    ) {
        let (mut job, recipients) = job.take_recipients();
        job.course = job.course.after(&mut decisions);
        let message = job.message.clone();
        let is_report = is_report(&recipients);
        let facts = Facts {
            envelope: &message.envelope,
            age: age_of(&message),
            now: clock::wall_time(),
            random: self.random(),
            retry: &self.context.settings.retry,
            report_retry: &self.context.settings.report_retry,
            report_window: self.context.settings.report_window,
        };
        let words_before = diagnosis_bytes_of(&recipients);
        let mut consequences = Consequences::of(&facts, recipients, &decisions);
        let words_after =
            diagnosis_bytes_of(&consequences.recorded) + diagnosis_bytes_of(&consequences.again);
        message.charge_diagnoses(words_before, words_after);
        // Of a report there is one ending for all that it speaks of.
        for ((index, decision), ending) in decisions.iter().zip(&consequences.endings) {
            self.count(*ending, is_report, &message);
            let attempt = Attempt {
                recipient: (!is_report).then_some(*index),
                ending: *ending,
                decision,
                next_try: consequences.due,
            };
            self.log_attempt(&message, &attempt, context);
        }
        if !is_report {
            let states = consequences.recorded.iter();
            message.ended(states.map(|(index, state)| (*index as usize, state)));
        }
        self.record(&message, &mut consequences);
        self.queue_again(job, consequences);
    }

    /// See [`Bug::FinishedEarly`].
    pub(super) fn finish_early(self: &Rc<Self>, job: &Job) {
        let finished = |(index, _): &(u32, RecipientState)| (*index, RecipientState::Finished);
        let mut consequences = Consequences {
            recorded: job.recipients.iter().map(finished).collect(),
            ..Consequences::default()
        };
        self.record(&job.message, &mut consequences);
    }

    /// A report that nobody can be told: its recipients are finished.
    pub(super) fn forget_report(self: &Rc<Self>, job: Job) {
        self.settle_all(job, Verdict::Bounce, &nobody_to_tell());
    }

    fn record(self: &Rc<Self>, message: &Arc<Message>, consequences: &mut Consequences) {
        let recipients = std::mem::take(&mut consequences.recorded);
        if !recipients.is_empty() {
            self.hand_over(Settled {
                message: message.clone(),
                recipients,
                finished: consequences.finished,
            });
        }
    }

    /// `job`: what those that go on were part of.
    fn queue_again(self: &Rc<Self>, mut job: Job, mut consequences: Consequences) {
        let deferred = consequences.take_deferred();
        if !consequences.again.is_empty() {
            self.clone().submit(job.part(consequences.again));
        }
        job.body = None;
        if !consequences.reports.is_empty() {
            let mut reports = job.part(consequences.reports);
            reports.course = Course::default();
            self.owe_report(reports);
        }
        if let Some(due) = consequences.due {
            for recipients in deferred {
                self.defer(job.part(recipients), due);
            }
        }
    }

    fn count(&self, ending: Ending, is_report: bool, message: &Message) {
        let metrics = &self.context.metrics;
        let counter = match (ending, is_report) {
            (Ending::Requeued, _) => return,
            (Ending::Deferred { .. } | Ending::Returned, false) => &metrics.deferred,
            (Ending::Delivered, false) => {
                let took = clock::wall_time().since(message.received_at);
                metrics.delivery_us.record_duration(took);
                &metrics.delivered
            }
            (Ending::Bounced, _) => &metrics.bounced,
            (Ending::Expired, _) => &metrics.expired,
            (Ending::Dropped(..), false) => &metrics.dropped,
            (Ending::Deferred { .. } | Ending::Returned, true) => &metrics.reports_deferred,
            (Ending::Delivered, true) => &metrics.reports_delivered,
            (Ending::Dropped(..), true) => &metrics.reports_dropped,
        };
        counter.increment();
    }

    fn log_attempt(&self, message: &Message, attempt: &Attempt<'_>, context: &AttemptContext<'_>) {
        let is_second = attempt.recipient.is_some_and(|it| it % 2 == 1);
        if planted(Bug::LastWordsLost) && is_second && attempt.ending.is_final() {
            return;
        }
        let (event, level) = match attempt.ending {
            Ending::Delivered => (event::DELIVERED, LogLevel::Info),
            Ending::Deferred { .. } | Ending::Returned => (event::DEFERRED, LogLevel::Info),
            Ending::Bounced => (event::BOUNCED, LogLevel::Info),
            Ending::Expired => (event::EXPIRED, LogLevel::Info),
            Ending::Dropped(..) => (event::DROPPED, LogLevel::Warn),
            Ending::Requeued => (event::REQUEUED, LogLevel::Debug),
        };
        let envelope = &message.envelope;
        let mut line = self.context.log.line(level, event, clock::wall_time());
        line.field("id", message.id);
        match attempt.recipient {
            Some(index) => line
                .field("from", envelope.from_field())
                .field("to", &envelope.recipients[index as usize].forward_path),
            None => line
                .field("from", "<>")
                .field("to", envelope.reverse_path.as_ref())
                .field("report", "yes"),
        };
        let diagnosis = &attempt.decision.diagnosis;
        match context.peer {
            Some(peer) => line
                .field("host", &peer.host)
                .field("address", peer.address)
                .tls(context.tls.as_ref())
                .field("plaintext", peer.plaintext.as_ref().map(Shown)),
            // The host of an earlier connection, if any.
            None => line.field("host", not_empty(&diagnosis.remote_host)),
        };
        if let Ending::Deferred { attempt } = attempt.ending {
            line.field("attempt", attempt);
        }
        let delay = clock::wall_time().since(message.received_at);
        line.field("delay_ms", delay.as_millis() as u64);
        if let Some(started) = context.started {
            let took = clock::now().since(started);
            line.field("transaction_ms", took.as_millis() as u64);
        }
        line.field("reason", attempt.ending.drop_reason())
            .field("status", Shown(diagnosis.status))
            .field("reply", &diagnosis.text);
        if !attempt.ending.is_final() {
            line.field("next_try", attempt.next_try);
        }
    }

    /// A host of a next hop could not be reached, or would not talk, or not begin: others come before the next word on the hop.
    pub(super) fn log_host_failed(&self, address: SocketAddr, diagnosis: &Diagnosis) {
        let log = &self.context.log;
        log.line(LogLevel::Info, event::HOST_FAILED, clock::wall_time())
            .field("host", &diagnosis.remote_host)
            .field("address", address)
            .field("status", Shown(diagnosis.status))
            .field("reply", &diagnosis.text);
    }

    pub(super) fn log_tls_demanded(&self, peer: &Peer, reply: &Reply) {
        let log = &self.context.log;
        log.line(LogLevel::Warn, event::TLS_DEMANDED, clock::wall_time())
            .field("host", &peer.host)
            .field("address", peer.address)
            .field("reply", reply.one_line())
            .field("reason", peer.plaintext.as_ref().map(Shown))
            .field("effect", "TLS is tried again, and then the mail");
    }

    /// The schedule knows of it.
    pub(super) fn log_connect_failed(&self, hop: HopId, diagnosis: &Diagnosis) {
        let schedule = self.schedule.borrow();
        let status = schedule.status(hop).expect("it has just failed");
        let wall_time = clock::wall_time();
        let next_try = wall_time + status.paused_until.since(clock::now());
        let log = &self.context.log;
        log.line(LogLevel::Info, event::CONNECT_FAILED, wall_time)
            .field("hop", Shown(schedule.key(hop)))
            .field("host", &diagnosis.remote_host)
            .field("status", Shown(diagnosis.status))
            .field("reply", &diagnosis.text)
            .field("waiting", status.todo as u64)
            .field("next_try", next_try);
    }

    /// One line for each connection, which this ends.
    pub(super) fn log_out_of_step(&self, peer: &Peer, out_of_step: &OutOfStep) {
        let effect = match out_of_step.refuses_rset {
            true => {
                "it refused RSET, so its state is unknown; the connection is closed, and the mail goes over a new one"
            }
            false => {
                "it sent a reply that does not answer the command; the connection is closed, and no mail is judged by it"
            }
        };
        let log = &self.context.log;
        log.line(LogLevel::Warn, event::OUT_OF_STEP, clock::wall_time())
            .field("host", &peer.host)
            .field("address", peer.address)
            .field("reply", out_of_step.reply.one_line())
            .field("effect", effect);
    }

    /// One line for each name server that was given up; the pauses of each, which double, are its limit.
    pub(super) fn log_name_servers(&self) {
        let log = &self.context.log;
        for notice in self.context.resolver.take_notices() {
            log.line(
                LogLevel::Warn,
                event::NAME_SERVER_FAILED,
                clock::wall_time(),
            )
            .field("thread", self.context.core as u64)
            .field("server", notice.server)
            .field("reason", &notice.why)
            .field("answered_by", notice.other)
            .field(
                "effect",
                Shown(format_args!(
                    "other name servers are asked first for {} s",
                    notice.span.as_secs()
                )),
            );
        }
    }

    fn log_unreadable(&self, job: &Job, error: &std::io::Error, is_lost: bool) {
        let log = &self.context.log;
        log.line(
            LogLevel::Error,
            event::CONTENT_UNREADABLE,
            clock::wall_time(),
        )
        .field("id", job.message.id)
        .field("error", Shown(error))
        .field(
            "effect",
            match is_lost {
                true => {
                    "the message is given up, its sender gets a report; see ringpost spool verify"
                }
                false => "the message is tried again later; see ringpost spool verify",
            },
        );
    }

    pub(super) fn log_tls_failed(&self, host: &str, address: SocketAddr, fault: &TlsFault) {
        let log = &self.context.log;
        log.line(LogLevel::Warn, event::TLS_FAILED, clock::wall_time())
            .field("host", host)
            .field("address", address)
            .field("reason", Shown(fault))
            .field("effect", "another host or plaintext is tried");
    }

    pub(super) fn log_fallback(&self, host: &str, address: SocketAddr, fault: &TlsFault) {
        let log = &self.context.log;
        log.line(
            LogLevel::Info,
            event::PLAINTEXT_FALLBACK,
            clock::wall_time(),
        )
        .field("host", host)
        .field("address", address)
        .field("reason", Shown(fault));
    }
}
