//! The delivery side of a core: stands in for `delivery/mod.rs` and `delivery/settle.rs`. The schedule and
//! every decision about recipients are the real ones; done in the same order as there.

use crate::canary::Canary;
use crate::job::{Job, Message};
use crate::relay::Core;
use crate::world::{Owner, sleep, until_or, yield_now};
use ringpost::handoff::job::Body;
use ringpost::message::{Notify, Recipient};
use ringpost::schedule::judge::{LastWord, Verdict};
use ringpost::schedule::next_hop::{Action, HopId};
use ringpost::schedule::outcome::{Diagnosis, Outcome, RecipientState};
use ringpost::schedule::settle::{
    Consequences, Decision, Facts, Recipients, addressee, decide_all, is_report, nobody_to_tell,
    postponed, split_by_count,
};
use ringpost::smtp::reply::EnhancedStatus;
use ringpost::time::Now;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What is kept with a hop as long as the schedule knows it.
#[derive(Default)]
pub struct HopState {
    pub idle: VecDeque<Rc<Cell<Option<Told>>>>,
    pub last: LastWord,
    /// For a planted bug.
    pub overheard: Option<Diagnosis>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Work,
    Close,
}

/// Where a recipient's next transaction goes: the site, and whether it is a report.
type Way = (bool, Result<usize, Box<str>>);

impl Core {
    /// Performs what the schedule asks for, then sleeps until it may ask again.
    pub async fn drive(self) {
        loop {
            let world = self.world().clone();
            let deadline = loop {
                let action = self.part().schedule.borrow_mut().poll(world.now());
                match action {
                    None => break self.part().schedule.borrow().deadline(),
                    Some(action) => self.act(action),
                }
            };
            // Whatever happens may have stirred it: it is asked again at once.
            let mut asked = false;
            let stirred = || {
                let asked_before = std::mem::replace(&mut asked, true);
                let now = world.now();
                let due = self.part().schedule.borrow().deadline();
                (asked_before && due.is_some_and(|due| due <= now)).then_some(())
            };
            until_or(&world, deadline.unwrap_or(Now::NEVER), stirred).await;
        }
    }

    fn act(&self, action: Action<Job>) {
        match action {
            Action::Open { hop } => self.open(hop),
            Action::Wake { hop } => self.tell_idle(hop, Told::Work),
            Action::Close { hop } => self.tell_idle(hop, Told::Close),
            Action::Postpone { hop, job } => self.postpone(hop, job),
            Action::Retry { job } => {
                self.world().seen.borrow_mut().retries += 1;
                self.submit(job);
            }
        }
    }

    fn tell_idle(&self, hop: HopId, told: Told) {
        let mut schedule = self.part().schedule.borrow_mut();
        let idle = schedule.context(hop).idle.pop_front();
        idle.expect("the schedule counts as we do").set(Some(told));
    }

    fn postpone(&self, hop: HopId, job: Job) {
        self.world().seen.borrow_mut().postponed += 1;
        if self.world().canary == Canary::DropsPostponed {
            return;
        }
        let overheard = self
            .part()
            .schedule
            .borrow_mut()
            .context(hop)
            .overheard
            .clone();
        if let Some(diagnosis) = overheard {
            let verdict = match diagnosis.status.class {
                5 => Verdict::Bounce,
                _ => Verdict::Defer,
            };
            return self.settle_all(job, verdict, &diagnosis);
        }
        let decisions = {
            let mut schedule = self.part().schedule.borrow_mut();
            let patience = schedule.settings().blocked_wait_max;
            let last = &schedule.context(hop).last;
            postponed(job.recipients(), last, self.world().now(), patience)
        };
        self.apply(job, decisions);
    }

    /// Takes over a job: recipients that wait for delivery are routed by their own domain, owed
    /// reports by that of the reverse-path.
    pub fn submit(&self, job: Job) {
        for ((_, site), part) in self.split_by_way(job) {
            let core = self.clone();
            match site {
                Ok(site) if self.world().one_in(2) => core.resolved(Ok(site), part),
                site => self.world().spawn(Owner::Relay, async move {
                    let wait = Duration::from_millis(core.world().below(30) as u64);
                    sleep(core.world(), wait).await;
                    core.resolved(site, part);
                }),
            }
        }
    }

    /// One job for each way to go, with the recipients that share it: they may share a transaction.
    fn split_by_way(&self, job: Job) -> Vec<(Way, Job)> {
        let (message, body, recipients) = job.dissolve();
        let part = |recipients| Job::new(message.clone(), body.clone(), recipients);
        let mut ways: BTreeMap<Way, Recipients> = BTreeMap::new();
        for (index, state) in recipients {
            let Some(mailbox) = addressee(&message.envelope, index, &state) else {
                self.forget_report(part(vec![(index, state)]));
                continue;
            };
            let is_report = matches!(state, RecipientState::ReportOwed { .. });
            let site = self.relay.network.site_of(mailbox.domain_as_written());
            let site = site.ok_or_else(|| mailbox.domain_as_written().into());
            let way = ways.entry((is_report, site)).or_default();
            way.push((index, state));
        }
        let ways = ways.into_iter();
        ways.map(|(way, recipients)| (way, part(recipients)))
            .collect()
    }

    fn resolved(&self, site: Result<usize, Box<str>>, job: Job) {
        let world = self.world();
        let fails = !world.is_healed.get() && world.one_in(30);
        match site {
            Ok(_) if fails => {
                world.seen.borrow_mut().lookups_failed += 1;
                let later = diagnosis(EnhancedStatus::new(4, 4, 3), "no name server answered");
                self.settle_all(job, Verdict::Defer, &later);
            }
            Ok(site) => self.queue(site, job),
            Err(domain) => {
                let text = format!("{domain} does not exist");
                let never = diagnosis(EnhancedStatus::new(5, 1, 2), &text);
                self.settle_all(job, Verdict::Bounce, &never);
            }
        }
    }

    fn queue(&self, site: usize, job: Job) {
        let now = self.world().now();
        let (message, body, recipients) = job.dissolve();
        let most = self.relay.recipients_per_transaction;
        for recipients in split_by_count(recipients, most) {
            self.count_job(site, &message, &recipients);
            let part = Job::new(message.clone(), body.clone(), recipients);
            self.part().schedule.borrow_mut().push(&site, part, now);
        }
    }

    fn count_job(&self, site: usize, message: &Message, recipients: &Recipients) {
        let mut ledger = self.world().ledger.borrow_mut();
        let is_spotless = ledger.sites[site].is_spotless;
        let waits = |(index, state): &(u32, RecipientState)| {
            let waits = is_spotless && matches!(state, RecipientState::Waiting { .. });
            let path = &message.envelope.recipients[*index as usize].forward_path;
            waits.then(|| path.as_str())
        };
        let waiting = recipients.iter().filter_map(waits);
        let place = (self.number, site);
        ledger.bounds.queued(place, waiting, self.world().now());
    }

    pub fn defer(&self, mut job: Job, wait: Duration) {
        job.body = None;
        let due = self.world().now() + wait;
        self.part().schedule.borrow_mut().defer(job, due);
    }

    /// A report that nobody can be told: its recipients are finished.
    pub fn forget_report(&self, job: Job) {
        self.settle_all(job, Verdict::Bounce, &nobody_to_tell());
    }

    /// Gives all recipients of a job the same verdict, without a transaction.
    fn settle_all(&self, job: Job, verdict: Verdict, diagnosis: &Diagnosis) {
        let decisions = decide_all(job.recipients(), verdict, diagnosis);
        self.apply(job, decisions);
    }

    pub fn apply(&self, job: Job, decisions: Vec<(u32, Decision)>) {
        let world = self.world();
        let (message, body, recipients) = job.dissolve();
        let is_report = is_report(&recipients);
        for (index, decision) in &decisions {
            let id = message.id;
            tell!(
                world,
                "{id} recipient {index}: {:?}, {}",
                decision.verdict,
                decision.diagnosis.text
            );
            if is_report {
                continue;
            }
            let recipient = &message.envelope.recipients[*index as usize];
            let complaint = world.ledger.borrow_mut().decided(id, recipient, decision);
            complaint.into_iter().for_each(|it| world.accuse(it));
        }
        let mut envelope = message.envelope.clone();
        if world.canary == Canary::ReportsDespiteNever {
            let never = |recipient: &&mut Recipient| recipient.notify == Some(Notify::NEVER);
            let recipients = envelope.recipients.iter_mut().filter(never);
            recipients.for_each(|recipient| recipient.notify = None);
        }
        let facts = Facts {
            envelope: &envelope,
            age: world.wall_time().since(message.received_at),
            now: world.wall_time(),
            random: world.random(),
            retry: &self.relay.retry,
            report_retry: &self.relay.report_retry,
        };
        let mut consequences = Consequences::of(&facts, recipients, &decisions);
        self.record(&message, &mut consequences);
        self.queue_again(&message, body, consequences);
    }

    /// Writes the new states to the log of outcomes. Recipients count as finished once that is
    /// durable.
    pub fn record(&self, message: &Rc<Message>, consequences: &mut Consequences) {
        let recipients = std::mem::take(&mut consequences.recorded);
        if recipients.is_empty() {
            return;
        }
        let finished = consequences.finished as usize;
        message.finishing(finished);
        let outcome = Outcome {
            message: message.id,
            recipients,
        };
        let (core, message) = (self.clone(), message.clone());
        self.world().spawn(Owner::Relay, async move {
            yield_now(core.world()).await;
            core.spool().record(&outcome, &message).await;
            let world = core.world();
            let complaint =
                world
                    .ledger
                    .borrow_mut()
                    .recorded(world.now(), message.id, &outcome.recipients);
            complaint.into_iter().for_each(|it| world.accuse(it));
            if finished > 0 {
                core.finished(&message, finished);
            }
        });
    }

    fn queue_again(
        &self,
        message: &Rc<Message>,
        body: Option<Arc<Body>>,
        mut consequences: Consequences,
    ) {
        let seen = &self.world().seen;
        let job = |recipients, body| Job::new(message.clone(), body, recipients);
        let deferred = consequences.take_deferred();
        if !consequences.again.is_empty() {
            seen.borrow_mut().again += 1;
            self.submit(job(consequences.again, body));
        }
        if !consequences.reports.is_empty() {
            seen.borrow_mut().reports_owed += 1;
            self.submit(job(consequences.reports, None));
        }
        if let Some(due) = consequences.due {
            seen.borrow_mut().deferred += 1;
            let wait = due.since(self.world().wall_time());
            for recipients in deferred {
                self.defer(job(recipients, None), wait);
            }
        }
    }
}

fn diagnosis(status: EnhancedStatus, text: &str) -> Diagnosis {
    Diagnosis {
        status,
        text: text.into(),
        remote_host: "".into(),
    }
}
