//! The delivery side of a core: drives `schedule`, and lends its work to `remote`.
//!
//! ```text
//! submit -> route -> schedule -> worker (one per connection) -> settle -> spool, schedule
//! ```
//!
//! Promise: a job that was submitted ends with every recipient finished and recorded, or deferred
//! and recorded, or handed back to the schedule. Nothing is dropped on the way, because nothing
//! but [`settle`] ends a recipient.
//! Not here: SMTP, TLS and DNS (`remote`), and what a failure means (`schedule::judge`).

mod ahead;
mod gathering;
mod hand_over;
mod held;
mod opening;
mod peer;
mod report;
mod settle;
mod worker;

use self::ahead::Aheads;
pub use self::gathering::PassOn;
pub use self::hand_over::Homes;
use self::hand_over::Unrecorded;
use self::held::Held;
use self::peer::TlsFault;
use crate::domain::Domain;
use crate::handoff::current::Current;
use crate::handoff::job::{Job, Message};
use crate::handoff::memory::{Charge, Memory};
use crate::io::runtime::spawn;
use crate::io::{Bug, clock, planted, runtime};
use crate::log::Log;
use crate::metrics::CoreMetrics;
use crate::policy::shares::Shares;
use crate::remote::connection;
use crate::remote::resolve::{Answer, Resolver, Site, SiteKey};
use crate::remote::route::{NextHop, RouteTable, UnusableDomain};
use crate::schedule::gate::Gate;
use crate::schedule::judge::{LastWord, Verdict};
use crate::schedule::next_hop::{self, Action, HopId, HopStatus, Queued, Rank, Schedule};
use crate::schedule::outcome::{Diagnosis, RecipientState};
use crate::schedule::reports::{Gatherer, Windows};
use crate::schedule::retry::{NextTry, RetryPolicy};
use crate::schedule::settle as decide;
use crate::schedule::settle::Postponed;
use crate::time::{Now, WallTime};
use crate::tls::failures::FailureMemory;
use crate::tls::levels::LevelTable;
use crate::tls::terms::Demand;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Actions of the schedule that are performed before other tasks of the core get their turn.
const ACTIONS_PER_TURN: usize = 64;

/// Mail that was accepted longer ago than this, before it comes to its hop, is among the old there.
const NEW_FOR: Duration = Duration::from_secs(60);

/// A job that comes back untried waits at least for this, at its hop or apart from it.
const RETURNED_WAIT_MIN: Duration = Duration::from_secs(1);

/// While so many look-ups are under way, a job that comes back untried causes no further one.
const REROUTING_MAX: usize = 64;

/// How often memory that nobody uses any more is given back.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// How long a host that did not answer in time is asked only after plaintext was tried at a host whose
/// TLS is broken.
const MUTE_REMEMBERED: Duration = Duration::from_secs(60);

/// How long an address to which a content got lost comes behind the other addresses of its host.
const LOST_CONTENT_REMEMBERED: Duration = Duration::from_secs(3600);

/// About what a next hop takes in the schedule's tables and ours, its jobs and the answers of name servers
/// apart. A message to many domains has one for each.
const HOP_BYTES: u64 = 1_024;

/// Defaults of [`Settings`].
pub const RECIPIENTS_PER_TRANSACTION: u32 = 100;
pub const TRANSACTIONS_PER_CONNECTION: u32 = 1000;
pub const BROKEN_TLS_REMEMBERED: Duration = Duration::from_secs(10 * 60);
/// How long a report is tried beyond the lifetime of the mail.
pub const REPORT_LIFETIME: Duration = Duration::from_secs(5 * 24 * 60 * 60);

/// What an operator says about delivery, besides its schedule and its connections.
#[derive(Clone, Debug)]
pub struct Settings {
    pub retry: RetryPolicy,
    /// For reports, which nobody waits for.
    pub report_retry: RetryPolicy,
    /// How long failures of one message are gathered for its first report.
    pub report_window: Duration,
    pub recipients_per_transaction: usize,
    pub transactions_per_connection: u32,
    /// See [`Gate`].
    pub unrecorded_max: usize,
    /// How long outcomes wait for others before they are handed over to their home; zero: they do not.
    pub hand_over_delay: Duration,
    /// How long a host whose TLS is broken is spoken to in plaintext (level `may` only).
    pub broken_tls_remembered: Duration,
    /// How much TLS a recipient domain demands.
    pub levels: LevelTable,
}

/// What delivery needs to know, and whom to tell.
pub struct Context {
    pub hostname: String,
    pub settings: Settings,
    pub routes: Current<RouteTable>,
    pub resolver: Resolver,
    pub remote: Rc<connection::Context>,
    pub homes: Box<dyn Homes>,
    pub pass_on: PassOn,
    pub memory: Arc<Memory>,
    pub shares: Arc<Shares>,
    /// Which core's memory it is.
    pub core: usize,
    pub metrics: Arc<CoreMetrics>,
    pub log: Rc<Log>,
}

/// With whom TLS works or does not: an address, and the name that is asked for there. A handshake depends on both, and
/// anybody may give an address of somebody else's to a name of his own.
type TlsPeer = (SocketAddr, Box<str>);

/// A site on certain terms: what the schedule calls a hop. Domains of one site share connections
/// only at the same level of TLS, so that no connection carries mail that demands more than it was
/// opened with.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct HopKey {
    site: SiteKey,
    demand: Demand,
}

impl fmt::Display for HopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.site, self.demand)
    }
}

/// What is kept with a hop as long as the schedule knows it.
#[derive(Default)]
struct HopState {
    /// The latest answer about its hosts.
    site: Option<Rc<Site>>,
    idle: VecDeque<Rc<Idle>>,
    last: LastWord,
    /// For [`HOP_BYTES`], as long as there is mail for it.
    charge: Option<Charge>,
}

/// A next hop of one core, for people.
pub struct HopReport {
    pub name: String,
    pub status: HopStatus,
    /// What it last said or showed against itself; `None` after a success.
    pub last_word: Option<Box<str>>,
}

/// An idle connection that waits for a signal.
#[derive(Default)]
struct Idle {
    signal: Cell<Option<IdleSignal>>,
    notify: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IdleSignal {
    Work,
    Close,
}

/// How far the schedule's wishes were carried out.
enum Turn {
    /// There may be more.
    Unfinished,
    /// Nothing more before this time, or at all, unless something happens.
    Done(Option<Now>),
}

/// The delivery side of one core.
#[derive(Clone)]
pub struct Delivery(Rc<Inner>);

struct Inner {
    context: Context,
    schedule: RefCell<Schedule<HopKey, Job, HopState>>,
    /// Where TLS does not work, and why.
    broken_tls: RefCell<FailureMemory<TlsPeer, TlsFault>>,
    /// Addresses that did not answer in time.
    mute: RefCell<FailureMemory<SocketAddr>>,
    /// Addresses to which a content got lost.
    content_lost: RefCell<FailureMemory<SocketAddr>>,
    aheads: Aheads,
    gate: RefCell<Gate>,
    unrecorded: Unrecorded,
    /// While the gate is shut.
    held: Cell<Option<Held>>,
    gatherer: RefCell<Gatherer<Arc<Message>>>,
    /// Rings when reports wait that did not before.
    gathered: Notify,
    random: Cell<u64>,
    /// Rings when the schedule may have something to do.
    stirred: Notify,
    draining: Cell<bool>,
    /// Rings when the drain begins.
    leaving: Notify,
    /// Connections, look-ups and outcomes under way.
    at_work: Cell<usize>,
    /// Look-ups among them.
    looking_up: Cell<usize>,
    /// Connections among them that are idle.
    idle: Cell<usize>,
    /// Connections among them that only wait for the reply to QUIT.
    farewells: Cell<usize>,
    /// Rings when nothing is under way any more.
    rested: Notify,
}

impl Delivery {
    pub fn new(context: Context, mut settings: next_hop::Settings, seed: u64) -> Self {
        if planted(Bug::JoinsUnbounded) {
            settings.window_initial = settings.window_max;
        }
        if planted(Bug::ConnectionsNotJoined) {
            settings.join_wait = settings.queue_wait_max;
        }
        let windows = Windows(context.settings.report_window);
        let broken_tls = FailureMemory::new(context.settings.broken_tls_remembered);
        let gate = Gate::new(match planted(Bug::GateNeverShuts) {
            true => usize::MAX,
            false => context.settings.unrecorded_max,
        });
        let unrecorded = Unrecorded::new(context.settings.unrecorded_max);
        let delivery = Delivery(Rc::new(Inner {
            context,
            schedule: RefCell::new(Schedule::new(settings)),
            broken_tls: RefCell::new(broken_tls),
            mute: RefCell::new(FailureMemory::new(MUTE_REMEMBERED)),
            content_lost: RefCell::new(FailureMemory::new(LOST_CONTENT_REMEMBERED)),
            aheads: Aheads::default(),
            gate: RefCell::new(gate),
            unrecorded,
            held: Cell::new(None),
            gatherer: RefCell::new(Gatherer::new(windows)),
            gathered: Notify::new(),
            random: Cell::new(seed),
            stirred: Notify::new(),
            draining: Cell::new(false),
            leaving: Notify::new(),
            at_work: Cell::new(0),
            looking_up: Cell::new(0),
            idle: Cell::new(0),
            farewells: Cell::new(0),
            rested: Notify::new(),
        }));
        spawn(delivery.0.clone().drive());
        spawn(delivery.0.clone().tidy());
        spawn(delivery.0.clone().give_back_late());
        spawn(delivery.0.clone().send_reports());
        delivery
    }

    /// Takes over a job: recipients that wait for delivery are routed by their own domain, owed
    /// reports wait for others of their message.
    pub fn submit(&self, job: Job) {
        match decide::is_report(&job.recipients) {
            true => self.0.gather(job),
            false => self.0.clone().submit(job),
        }
    }

    /// Why mail that goes this way can only be returned, if that is known already.
    pub fn dead_end(&self, next_hop: &NextHop) -> Option<Diagnosis> {
        match self.0.context.resolver.known(next_hop)? {
            Err(error) if error.is_permanent() => Some(error.diagnosis()),
            _ => None,
        }
    }

    /// Outbound connections, in whatever state.
    pub fn connections(&self) -> u32 {
        self.0.schedule.borrow().connections()
    }

    /// The next hops in these places of the schedule's table, and where to go on; for people.
    pub fn hops(&self, places: Range<usize>) -> (Vec<HopReport>, Option<usize>) {
        let schedule = self.0.schedule.borrow();
        let hops = schedule.hops_in(places.clone());
        let hops = hops.map(|(key, state, status)| HopReport {
            name: key.to_string(),
            status,
            last_word: (state.last.diagnosis()).map(|word| word.diagnosis().text.clone()),
        });
        let next = (places.end < schedule.places()).then_some(places.end);
        (hops.collect(), next)
    }

    /// See [`Schedule::is_crowded`](crate::schedule::next_hop::Schedule::is_crowded).
    pub fn is_crowded(&self) -> bool {
        self.0.schedule.borrow().is_crowded()
    }

    /// Jobs queued, deferred or at work, and messages whose reports wait.
    pub fn pending(&self) -> usize {
        let jobs = self.0.schedule.borrow().len() + self.0.gatherer.borrow().waiting();
        jobs + self.0.at_work.get() - self.0.idle.get()
    }

    /// No new transaction begins from now on, nor is one waited for that has not begun; resolves
    /// when the last one has ended, its outcome is durable, and idle connections have said QUIT. What is left is in the
    /// spool.
    pub async fn drain(&self) {
        self.0.begin_drain();
        while self.0.at_work.get() > 0 {
            self.0.rested.notified().await;
        }
    }
}

/// Where a recipient's next transaction goes, and on what terms.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// A report on the recipient, to the reverse-path.
    is_report: bool,
    next_hop: NextHop,
    demand: Demand,
}

impl Queued for Job {
    fn rank(&self, now: Now) -> Rank {
        let is_new = |(_, state): &(u32, RecipientState)| decide::attempts_of(state) == 0;
        let is_young = self.message.born.age(now) < NEW_FOR;
        Rank {
            origin: self.message.origin,
            recipients: self.recipients.len() as u32,
            is_old: !is_young || self.course.has_returned() || !self.recipients.iter().all(is_new),
        }
    }
}

impl Way {
    fn hop(&self, site: &Site) -> HopKey {
        HopKey {
            site: site.key.clone(),
            demand: self.demand.clone(),
        }
    }
}

impl Inner {
    /// Performs what the schedule asks for, then sleeps until it may ask again.
    async fn drive(self: Rc<Self>) {
        loop {
            match self.act() {
                Turn::Unfinished => runtime::yield_now().await,
                Turn::Done(None) => self.stirred.notified().await,
                Turn::Done(Some(deadline)) => {
                    let wait = deadline.since(clock::now());
                    tokio::select! {
                        biased;
                        () = self.stirred.notified() => {}
                        () = runtime::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// Lets go of what is remembered about names and hops that nobody has mail for.
    async fn tidy(self: Rc<Self>) {
        while self
            .unless_draining(runtime::sleep(TIDY_INTERVAL))
            .await
            .is_some()
        {
            let now = clock::now();
            self.context.resolver.tidy(now);
            self.schedule.borrow_mut().tidy(now);
        }
    }

    fn act(self: &Rc<Self>) -> Turn {
        for _ in 0..ACTIONS_PER_TURN {
            if self.draining.get() {
                return Turn::Done(None);
            }
            let action = self.schedule.borrow_mut().poll(clock::now());
            match action {
                None => {
                    let deadline = self.schedule.borrow().deadline();
                    return Turn::Done(self.look_at_held().or(deadline));
                }
                Some(Action::Open { hop }) => self.open(hop),
                Some(Action::Wake { hop }) => self.signal_idle(hop, IdleSignal::Work),
                Some(Action::Close { hop }) => self.signal_idle(hop, IdleSignal::Close),
                Some(Action::Postpone { hop, job }) => self.postpone(hop, job),
                Some(Action::Retry { job }) => self.clone().submit(job),
            }
        }
        Turn::Unfinished
    }

    fn wake_scheduler(&self) {
        self.stirred.notify_one();
    }

    /// After a connection has taken or ended a job: others may wait for a further connection.
    fn wake_scheduler_if_wanted(&self, hop: HopId, now: Now) {
        if self.schedule.borrow().needs_poll(hop, now) {
            self.wake_scheduler();
        }
    }

    fn signal_idle(&self, hop: HopId, signal: IdleSignal) {
        let idle = self
            .schedule
            .borrow_mut()
            .context(hop)
            .idle
            .pop_front()
            .expect("the schedule counts idle connections as we do");
        idle.signal.set(Some(signal));
        idle.notify.notify_one();
    }

    fn postpone(self: &Rc<Self>, hop: HopId, mut job: Job) {
        if planted(Bug::PostponedForgotten) {
            return job.leave_in_spool();
        }
        let is_too_old = self.is_too_old(&job);
        let (postponed, patience, opens_from) = {
            let mut schedule = self.schedule.borrow_mut();
            let patience = schedule.settings().blocked_wait_max;
            let last = &schedule.context(hop).last;
            let now = clock::now();
            let postponed = decide::postponed(&job.recipients, last, is_too_old, now, patience);
            let status = schedule.status(hop).expect("it has just named the hop");
            (postponed, patience, status.paused_until.max(now))
        };
        match postponed {
            Postponed::Decided(decisions) => self.settle_postponed(job, decisions),
            Postponed::Returned(why) => {
                let wait = RETURNED_WAIT_MIN.saturating_sub(patience);
                self.log_wait(&mut job, &why, opens_from);
                match wait.is_zero() {
                    true => self.wait_for_hop(hop, job),
                    false => self.schedule.borrow_mut().defer(job, clock::now() + wait),
                }
            }
        }
    }

    /// Once for each time that a job is tried: what the hop does then has lines of its own.
    fn log_wait(&self, job: &mut Job, why: &Diagnosis, next_try: Now) {
        job.body = None;
        if job.course.returns() {
            let next_try = clock::wall_time() + next_try.since(clock::now());
            self.log_returned(job, why, Some(next_try));
        }
    }

    /// The hop is no better than it was, and the job is routed again: its domain may have other hosts by now. But where the
    /// hosts are dead the name servers may be, too, and all jobs of the hop would wait for them at once.
    fn wait_for_hop(self: &Rc<Self>, hop: HopId, job: Job) {
        if self.looking_up.get() < REROUTING_MAX || self.is_way_known(&job) {
            return self.clone().submit(job);
        }
        let mut schedule = self.schedule.borrow_mut();
        let key = schedule.key(hop).clone();
        schedule.push(&key, job, clock::now());
    }

    fn is_way_known(&self, job: &Job) -> bool {
        let (index, state) = &job.recipients[0];
        let way = self.way(&job.message, *index, state);
        let is_known = |way: Way| self.context.resolver.remembered(&way.next_hop).is_some();
        way.is_ok_and(|way| way.is_none_or(is_known))
    }

    /// No name server could say where the job goes. It is asked for again as often as mail is tried.
    fn wait_for_names(self: &Rc<Self>, mut job: Job, why: &Diagnosis) {
        let policy = self.retry_of(&job);
        let times = job.course.is_unresolved();
        let age = settle::age_of(&job.message);
        match policy.after_failure(times, age, self.random()) {
            NextTry::Expired => self.settle_all(job, Verdict::Defer, why),
            NextTry::After(wait) => {
                let due = clock::wall_time() + wait;
                self.log_returned(&job, why, Some(due));
                self.defer(job, due);
            }
        }
    }

    fn retry_of(&self, job: &Job) -> &RetryPolicy {
        let settings = &self.context.settings;
        match decide::is_report(&job.recipients) {
            true => &settings.report_retry,
            false => &settings.retry,
        }
    }

    fn is_too_old(&self, job: &Job) -> bool {
        settle::age_of(&job.message) >= self.retry_of(job).lifetime
    }

    fn submit(self: Rc<Self>, job: Job) {
        let Some(job) = self.without_lost_content(job) else {
            return;
        };
        for (way, part) in self.split_by_way(job) {
            if let Some(answer) = self.context.resolver.remembered(&way.next_hop) {
                self.resolved(&way, answer, part);
                continue;
            }
            let this = self.clone();
            self.at_work.set(self.at_work.get() + 1);
            self.looking_up.set(self.looking_up.get() + 1);
            spawn(async move {
                let answer = this.context.resolver.resolve(&way.next_hop);
                let answer = this.unless_draining(answer).await;
                this.looking_up.set(this.looking_up.get() - 1);
                this.log_name_servers();
                if let (NextHop::Mx { domain, .. }, Some(Ok(site))) = (&way.next_hop, &answer) {
                    let site = site.key.as_str();
                    this.context.shares.learn(domain.as_str(), site);
                }
                match answer {
                    Some(answer) => this.resolved(&way, answer, part),
                    None => part.leave_in_spool(),
                }
                this.work_done();
            });
        }
    }

    /// One job for each way to go, with the recipients that share it: they may share a transaction.
    fn split_by_way(self: &Rc<Self>, job: Job) -> Vec<(Way, Job)> {
        if let [(index, state)] = &*job.recipients
            && let Ok(Some(way)) = self.way(&job.message, *index, state)
        {
            return vec![(way, job)];
        }
        let mut job = job;
        let recipients = std::mem::take(&mut job.recipients);
        let message = job.message.clone();
        let part = |recipients| job.part(recipients);
        let mut ways: BTreeMap<Way, Vec<(u32, RecipientState)>> = BTreeMap::new();
        for (index, state) in recipients {
            match self.way(&message, index, &state) {
                Ok(Some(way)) => ways.entry(way).or_default().push((index, state)),
                // Owed to nobody: its recipient is finished, or its segment is never let go.
                Ok(None) => self.forget_report(part(vec![(index, state)])),
                Err(domain) => self.unroutable(&domain, part(vec![(index, state)])),
            }
        }
        ways.into_iter()
            .map(|(way, recipients)| (way, part(recipients)))
            .collect()
    }

    /// `None` for a report on mail with the null reverse-path: it goes nowhere. No recipient of a
    /// job is finished.
    fn way(
        &self,
        message: &Message,
        index: u32,
        state: &RecipientState,
    ) -> Result<Option<Way>, UnusableDomain> {
        let Some(mailbox) = decide::addressee(&message.envelope, index, state) else {
            return Ok(None);
        };
        // Only the bare Postmaster has no domain: it is ours.
        let domain = Domain::parse(match mailbox.domain_as_written() {
            "" => &self.context.hostname,
            domain => domain,
        })?;
        let level = self.context.settings.levels.level(&domain);
        Ok(Some(Way {
            is_report: matches!(state, RecipientState::ReportOwed { .. }),
            next_hop: self.context.routes.get().next_hop(&domain),
            demand: Demand::new(level, domain),
        }))
    }

    fn resolved(self: &Rc<Self>, way: &Way, answer: Answer, job: Job) {
        match answer {
            Ok(site) => self.queue(way, site, job),
            Err(error) if error.is_permanent() => {
                self.settle_all(job, Verdict::Bounce, &error.diagnosis());
            }
            Err(error) => self.wait_for_names(job, &error.diagnosis()),
        }
    }

    fn unroutable(self: &Rc<Self>, domain: &UnusableDomain, job: Job) {
        self.settle_all(job, Verdict::Bounce, &domain.diagnosis());
    }

    fn begin_drain(&self) {
        self.draining.set(true);
        self.leaving.notify_waiters();
        self.wake_scheduler();
        self.hand_over_all();
    }

    /// Resolves when the drain begins.
    async fn drain_begun(&self) {
        if !self.draining.get() {
            self.leaving.notified().await;
        }
    }

    /// The result of preparations that a drain need not wait for; `None`: it has begun, and they
    /// were given up.
    async fn unless_draining<T>(&self, preparations: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.drain_begun() => None,
            result = preparations => Some(result),
        }
    }

    fn work_done(&self) {
        self.at_work.set(self.at_work.get() - 1);
        if self.at_work.get() == 0 {
            self.rested.notify_waiters();
        }
    }

    fn queue(&self, way: &Way, site: Rc<Site>, mut job: Job) {
        job.course.is_resolved();
        let key = way.hop(&site);
        let now = clock::now();
        let mut schedule = self.schedule.borrow_mut();
        let mut hop = None;
        let most = match way.is_report {
            true => job.course.recipients_max,
            false => self.context.settings.recipients_per_transaction,
        };
        let recipients = std::mem::take(&mut job.recipients);
        for recipients in decide::split_by_count(recipients, most) {
            hop = Some(schedule.push(&key, job.part(recipients), now));
        }
        if let Some(hop) = hop {
            let state = schedule.context(hop);
            state.site = Some(site);
            let charge = || self.context.memory.charge(self.context.core, HOP_BYTES);
            state.charge.get_or_insert_with(charge);
        }
        drop(schedule);
        self.wake_scheduler();
    }

    /// Tries again when `due`, but no later than the longest wait between attempts: the calendar may
    /// have been set back since that was decided.
    fn defer(&self, mut job: Job, due: WallTime) {
        job.body = None;
        let wait = due
            .since(clock::wall_time())
            .min(self.context.settings.retry.max);
        let due = clock::now() + wait;
        match planted(Bug::DeferredForgotten) {
            true => job.leave_in_spool(),
            false => self.schedule.borrow_mut().defer(job, due),
        }
        self.wake_scheduler();
    }

    /// Splitmix64: spreads retries and equal MX preferences; nothing depends on its quality.
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
