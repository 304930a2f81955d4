//! Gathers the reports of a message on one core, whichever cores have delivered it or failed to, and sends them when
//! they are due.

use super::settle::age_of;
use super::{Delivery, Inner};
use crate::handoff::job::{Job, Message};
use crate::io::runtime::{sleep, yield_now};
use crate::io::{Bug, clock, planted};
use crate::message::Envelope;
use crate::schedule::dsn::Extent;
use crate::schedule::outcome::{RecipientState, ReportKind};
use crate::schedule::reports::{ByForm, Due, Times, by_form, tried_together};
use crate::schedule::settle::{self, Course, Recipients};
use std::rc::Rc;
use std::sync::Arc;

/// Takes owed reports to the core that gathers those of their message; `Some`: it is this one.
pub type PassOn = Box<dyn Fn(Job) -> Option<Job>>;

impl Delivery {
    /// Takes over a job that was read from the spool at start. Recipients that are not due wait, and so do reports; what is
    /// left of their window is known.
    pub fn resume(&self, job: Job) {
        if let Some(job) = self.0.without_lost_content(job) {
            self.0.resume(job);
        }
    }
}

impl Inner {
    fn resume(self: &Rc<Self>, job: Job) {
        let (job, recipients) = job.take_recipients();
        let (owed, waiting): (Recipients, Recipients) = recipients
            .into_iter()
            .partition(|(_, state)| is_owed(state));
        if let Some(due) = waiting.iter().map(|(_, state)| settle::due_of(state)).min() {
            self.defer(job.part(waiting), due);
        }
        let (tried, untried): (Recipients, Recipients) = owed
            .into_iter()
            .partition(|(_, state)| settle::attempts_of(state) > 0);
        self.gather(job.part(untried));
        let envelope = &job.message.envelope;
        for recipients in tried_together(split_by_form(envelope, tried)) {
            let due = settle::due_of(&recipients[0].1);
            self.defer(self.report(&job, recipients), due);
        }
    }

    /// A report is owed on these from now on.
    pub(super) fn owe_report(self: &Rc<Self>, job: Job) {
        if planted(Bug::ReportsUngathered) {
            let (job, recipients) = job.take_recipients();
            let of_forms = split_by_form(&job.message.envelope, recipients);
            let reports = of_forms.into_iter().filter(|it| !it.is_empty());
            return reports.for_each(|it| self.clone().submit(self.report(&job, it)));
        }
        if let Some(job) = (self.context.pass_on)(job) {
            self.gather(job);
        }
    }

    /// Keeps them until the window of their message is over, which is no later than one window from now: the calendar may
    /// have been set back since that was decided.
    pub(super) fn gather(&self, job: Job) {
        let (job, owed) = job.take_recipients();
        let Some(due) = owed.iter().map(|(_, state)| settle::due_of(state)).min() else {
            return;
        };
        if planted(Bug::GatheredForgotten) {
            return;
        }
        let settings = &self.context.settings;
        let wait = due.since(clock::wall_time()).min(settings.report_window);
        let message = &job.message;
        let now = clock::now();
        let times = Times {
            now,
            first_due: now + wait,
            end: now + settings.report_retry.left(age_of(message)),
        };
        let owed = split_by_form(&message.envelope, owed);
        let known = (message, message.reported.history());
        let mut gatherer = self.gatherer.borrow_mut();
        let deadline = gatherer.deadline();
        gatherer.add(message.id, known, owed, times);
        if gatherer.deadline() != deadline {
            self.gathered.notify_one();
        }
    }

    /// Sends what is due, until the drain begins: then it is left to the next start.
    pub(super) async fn send_reports(self: Rc<Self>) {
        while !self.draining.get() {
            let due = self.gatherer.borrow_mut().take(clock::now());
            if let Some(due) = due {
                self.send(due);
                yield_now().await;
                continue;
            }
            let deadline = self.gatherer.borrow().deadline();
            let wait = deadline.map(|it| it.since(clock::now()));
            tokio::select! {
                biased;
                () = self.drain_begun() => {}
                () = self.gathered.notified() => {}
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    fn send(self: &Rc<Self>, due: Due<Arc<Message>>) {
        due.message.reported.set(due.history);
        let job = Job {
            message: due.message,
            body: None,
            recipients: Recipients::new(),
            course: Course::default(),
        };
        for recipients in due.reports {
            let report = self.report(&job, recipients);
            if planted(Bug::ReportsRepeated) {
                self.clone().submit(report.part(report.recipients.clone()));
            }
            self.clone().submit(report);
        }
    }

    /// One report on these recipients of a job's message. Unless RET says more, or less, the content comes back once
    /// (RFC 3461 section 4.3 leaves it to us).
    fn report(&self, job: &Job, recipients: Recipients) -> Job {
        let message = &job.message;
        let returns_body = message.envelope.ret.is_none() && recipients.iter().any(is_failure);
        let has_it = returns_body && message.reported.returns_body();
        let mut report = job.part(recipients);
        report.course = Course::of_report(match has_it && !planted(Bug::BodiesRepeated) {
            true => Extent::Headers,
            false => Extent::Whole,
        });
        report
    }
}

fn is_owed(state: &RecipientState) -> bool {
    matches!(state, RecipientState::ReportOwed { .. })
}

fn is_failure((_, state): &(u32, RecipientState)) -> bool {
    matches!(
        state,
        RecipientState::ReportOwed {
            kind: ReportKind::Failed,
            ..
        }
    )
}

fn split_by_form(envelope: &Envelope, owed: Recipients) -> ByForm {
    match planted(Bug::FormsMixed) {
        true => [owed, Recipients::new()],
        false => by_form(envelope, owed),
    }
}
