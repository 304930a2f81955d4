//! One core: its roles, and the pump that connects it with the others.

use super::home::Home;
use super::lane::ToCore;
use super::questions::{Asked, Question, Said};
use super::rules::{CoreRules, Rules};
use super::shared::Shared;
use crate::delivery::Delivery;
use crate::engine::placement::CoreSpec;
use crate::handoff::job::{Accepted, Body, Job, Message};
use crate::handoff::{Handoff, Inbox, Outbox};
use crate::io::clock;
use crate::io::net::{self, Bound, Direction, Listener};
use crate::io::runtime::{sleep, spawn, timeout, yield_now};
use crate::io::watch::{self, Noticed};
use crate::io::{Bug, planted};
use crate::listener::Ingress;
use crate::log::{Log, LogLevel, Shown, Throttle, event};
use crate::policy::port::Port;
use crate::schedule::outcome::RecipientState;
use crate::schedule::settle::Course;
use crate::session;
use crate::smtp::refusal::Refusal;
use crate::spool::{self, Note, Spool};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Items taken from the lanes before other tasks get their turn.
const PUMP_ITEMS: usize = 256;
/// How often a quiet core hands its log lines over and counts what its spool did.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How often it is asked whether connections run short.
const CROWD_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Lines about a loop that was late, that a core writes in a second.
const LATE_LINES_PER_SECOND: u32 = 1;
/// What a core that is told to end at once takes for its last clients and writes.
const LAST_WORK_WITHIN: Duration = Duration::from_secs(1);
/// ... and then for its last words, if the disk does not answer.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(300);
/// How often items that did not fit into a lane are tried again.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);

/// What a thread is given to become a core.
pub struct Seed {
    pub number: usize,
    pub spec: CoreSpec,
    pub shared: Arc<Shared>,
    pub rules: Rules,
    pub handoff: Handoff<ToCore>,
    pub spool: spool::CorePart,
    pub listeners: Vec<(Bound, Port)>,
    pub recovered: RecoveredJobs,
    /// Recovered messages that this core is home to.
    pub kept: Vec<Arc<Message>>,
    pub log: Log,
}

struct Core {
    number: usize,
    shared: Arc<Shared>,
    rules: CoreRules,
    outbox: Rc<Outbox<ToCore>>,
    spool: Spool,
    home: Rc<Home>,
    delivery: Option<Delivery>,
    ingress: RefCell<Option<Rc<Ingress>>>,
    log: Rc<Log>,
    /// Of the lines about a loop that was late.
    late_lines: RefCell<Throttle>,
    /// Takes turns over delivery cores for hops that all of them serve.
    turn: Cell<usize>,
}

/// Jobs of an earlier run. Those that a start which fails does not come to are left to the next one.
#[derive(Default)]
pub struct RecoveredJobs(pub Vec<Job>);

impl Drop for RecoveredJobs {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Job::leave_in_spool);
    }
}

/// Runs a core until the process ends. `started` is told once it works, or why it does not.
pub async fn run(seed: Seed, started: impl FnOnce(Result<(), String>)) {
    let Seed {
        number,
        spec,
        shared,
        rules,
        handoff: Handoff { outbox, inbox },
        spool,
        listeners,
        mut recovered,
        kept,
        log,
    } = seed;
    let (outbox, log) = (Rc::new(outbox), Rc::new(log));
    let spool = open_spool(spool, number, &shared, &outbox, &log);
    let built = build(number, spec, &shared, rules, &outbox, &spool, &log);
    let core = match built {
        Ok(core) => core,
        Err(complaint) => return started(Err(complaint)),
    };
    spawn(core.clone().run_housekeeping());
    kept.into_iter().for_each(|message| spool.keep(message));
    spool.ready().await;
    if let Some(delivery) = &core.delivery {
        let jobs = recovered.0.drain(..);
        jobs.for_each(|job| match planted(Bug::RecoveredForgotten) {
            true => job.leave_in_spool(),
            false => delivery.resume(job),
        });
    }
    core.start_ingress(listeners);
    started(Ok(()));
    core.pump(inbox).await;
}

fn build(
    number: usize,
    spec: CoreSpec,
    shared: &Arc<Shared>,
    rules: Rules,
    outbox: &Rc<Outbox<ToCore>>,
    spool: &Spool,
    log: &Rc<Log>,
) -> Result<Rc<Core>, String> {
    let rules = rules.on_core().map_err(|error| error.to_string())?;
    let home = Rc::new(Home::new(
        number,
        spool.clone(),
        shared.clone(),
        outbox.clone(),
    ));
    let pass_on = {
        let (shared, outbox) = (shared.clone(), outbox.clone());
        move |job: Job| match shared.gathering_core(job.message.home) {
            core if core == number => Some(job),
            core => {
                outbox.send(core, ToCore::Deliver(job));
                None
            }
        }
    };
    let delivery = match spec.delivery {
        false => None,
        true => Some(shared.delivery(
            number,
            &rules,
            log.clone(),
            Box::new(home.clone()),
            Box::new(pass_on),
        )?),
    };
    Ok(Rc::new(Core {
        number,
        shared: shared.clone(),
        rules,
        outbox: outbox.clone(),
        spool: spool.clone(),
        home,
        delivery,
        ingress: RefCell::new(None),
        log: log.clone(),
        late_lines: RefCell::new(Throttle::new(event::LOOP_LATE, LATE_LINES_PER_SECOND)),
        turn: Cell::new(number),
    }))
}

fn open_spool(
    part: spool::CorePart,
    number: usize,
    shared: &Arc<Shared>,
    outbox: &Rc<Outbox<ToCore>>,
    log: &Rc<Log>,
) -> Spool {
    let (shared, outbox, log) = (shared.clone(), outbox.clone(), log.clone());
    Spool::start(part, move |note: Note| match note {
        Note::SegmentRetired { .. } | Note::SpaceWanted => {
            for core in shared.cores().filter(|core| *core != number) {
                outbox.send(core, ToCore::Spool(note.clone()));
            }
        }
        _ => {
            if let Some(refuses) = refuses_mail(&note) {
                shared.metrics[number]
                    .spool_refusing
                    .set(u64::from(refuses));
            }
            log_note(&log, &shared.config.spool.dir, number, &note);
        }
    })
}

/// Whether mail is refused because of the spool, if this says something of it.
fn refuses_mail(note: &Note) -> Option<bool> {
    match note {
        Note::NoSpace { .. } | Note::DiskFails { .. } | Note::Gone { .. } => Some(true),
        Note::SpaceAgain | Note::DiskWorks | Note::ThereAgain => Some(false),
        Note::SegmentRetired { .. }
        | Note::SpaceWanted
        | Note::Unmovable { .. }
        | Note::SegmentFailed { .. } => None,
    }
}

fn log_note(log: &Log, dir: &Path, thread: usize, note: &Note) {
    let now = clock::wall_time();
    let of_spool = |level, event| {
        let mut line = log.line(level, event, now);
        line.field("thread", thread as u64)
            .field("dir", Shown(dir.display()));
        line
    };
    match note {
        Note::SegmentRetired { .. } | Note::SpaceWanted => {}
        Note::Unmovable {
            id,
            generation,
            error,
        } => {
            log.line(LogLevel::Error, event::SPOOL_MESSAGE_DAMAGED, now)
                .field("id", *id)
                .field("segment", Shown(generation))
                .field("error", error);
        }
        Note::SegmentFailed { generation, error } => {
            log.line(LogLevel::Error, event::SPOOL_SEGMENT_FAILED, now)
                .field("segment", Shown(generation))
                .field("error", error);
        }
        Note::NoSpace {
            reason,
            used_bytes,
            free_bytes,
        } => {
            of_spool(LogLevel::Error, event::SPOOL_FULL)
                .field("reason", reason)
                .field("used", used_bytes)
                .field("free", free_bytes)
                .field(
                    "effect",
                    "new mail at this thread gets 452 4.3.1 until mail is delivered and makes room",
                );
        }
        Note::SpaceAgain => drop(of_spool(LogLevel::Info, event::SPOOL_HAS_ROOM)),
        Note::DiskFails { error } => {
            of_spool(LogLevel::Error, event::SPOOL_DISK_FAILS)
                .field("error", error)
                .field(
                    "effect",
                    "new mail gets 451 4.3.0 once the prepared segments are full",
                );
        }
        Note::DiskWorks => drop(of_spool(LogLevel::Info, event::SPOOL_DISK_WORKS)),
        Note::Gone {
            error,
            messages,
            is_last,
        } => {
            let (effect, remedy) = effect_of_a_spool_that_is_gone(*is_last);
            of_spool(LogLevel::Error, event::SPOOL_GONE)
                .field("error", error)
                .field("messages", messages)
                .field("effect", effect)
                .field("remedy", remedy);
        }
        Note::ThereAgain => drop(of_spool(LogLevel::Info, event::SPOOL_THERE_AGAIN)),
    }
}

fn effect_of_a_spool_that_is_gone(is_last: bool) -> (&'static str, &'static str) {
    match is_last {
        true => (
            "no start on this directory finds the messages of this thread that are not delivered",
            "if the files were moved or unmounted, bring them back before the next start",
        ),
        false => (
            "new mail gets 451 4.3.0; no start on this directory would find the messages that wait",
            "if the files were moved or unmounted, bring them back; if they were removed or cut, let the relay run \
             until nothing waits, and start it anew",
        ),
    }
}

impl Core {
    fn start_ingress(self: &Rc<Self>, listeners: Vec<(Bound, Port)>) {
        if listeners.is_empty() {
            return;
        }
        // The core has the ingress. One that is gone leaves the message to the spool.
        let core = Rc::downgrade(self);
        let accepted = Box::new(move |message, body| {
            if let Some(core) = core.upgrade() {
                core.accepted(message, body);
            }
        });
        let outbox = self.outbox.clone();
        let pass_on = Box::new(move |core, connection: Box<Accepted>| {
            outbox.send(core, ToCore::Connection(connection));
        });
        let (spool, log) = (self.spool.clone(), self.log.clone());
        let dead_end = self.dead_end();
        let context =
            (self.shared).session(self.number, &self.rules, spool, log, accepted, dead_end);
        let ingress = Rc::new(Ingress {
            context,
            admission: self.shared.admission(self.number),
            pass_on,
            draining: Cell::new(false),
            stopped: Notify::new(),
            leaving: Notify::new(),
            refusals: Rc::default(),
        });
        for (bound, port) in listeners {
            spawn(ingress.clone().listen(Listener::new(bound), port));
        }
        *self.ingress.borrow_mut() = Some(ingress);
    }

    /// What delivery would say of a recipient at once: it knows what the name servers have said, and
    /// which addresses are our own. A core that does not deliver knows nothing.
    fn dead_end(&self) -> session::DeadEnd {
        let (routes, delivery) = (self.rules.routes.clone(), self.delivery.clone());
        Box::new(move |recipient| {
            // Whether the bare Postmaster has a way is known from the start.
            let domain = recipient.domain().ok()?;
            let next_hop = routes.get().next_hop(&domain);
            let diagnosis = delivery.as_ref()?.dead_end(&next_hop)?;
            Some(Refusal {
                code: 550,
                status: diagnosis.status,
                text: String::from(diagnosis.text).into(),
            })
        })
    }

    /// What must be done now and then, however quiet or busy the core is.
    async fn run_housekeeping(self: Rc<Self>) {
        let mut crowd_due = clock::now();
        loop {
            sleep(HOUSEKEEPING).await;
            if clock::now() >= crowd_due {
                crowd_due = clock::now() + CROWD_LOOK_INTERVAL;
                self.end_long_waits();
            }
            self.shared.heartbeats[self.number].increment();
            self.note_turns(&watch::take());
            self.log_suppressed(false);
            self.log.flush(clock::wall_time());
            self.count();
            self.home.show();
        }
    }

    /// While connections run short, those that keep one without using it give it up.
    fn end_long_waits(&self) {
        let now = clock::now();
        if self.delivery.as_ref().is_some_and(Delivery::is_crowded) {
            net::sweep_crowd(Direction::Outbound, now);
        }
        let ingress = self.ingress.borrow();
        if ingress.as_ref().is_some_and(|it| it.is_crowded()) {
            net::sweep_crowd(Direction::Inbound, now);
        }
    }

    /// Counts and logs that the loop of this thread was kept from turning.
    fn note_turns(&self, noticed: &Noticed) {
        if !noticed.is_something() {
            return;
        }
        let metrics = &self.shared.metrics[self.number];
        metrics.loop_stalls.add(noticed.stalls);
        metrics.loop_preempted.add(noticed.preempted);
        metrics.loop_late_ticks.add(noticed.late_ticks);
        let Some(suppressed) = self.late_lines.borrow_mut().allow_of_nobody(clock::now()) else {
            return;
        };
        let (log, now) = (&self.log, clock::wall_time());
        // A busy host alone is no news: the counters tell.
        let level = match noticed.stalls + noticed.late_ticks {
            0 => LogLevel::Debug,
            _ => LogLevel::Warn,
        };
        let mut line = log.line(level, event::LOOP_LATE, now);
        line.field("thread", self.number as u64)
            .field("stalls", noticed.stalls)
            .field("preempted", noticed.preempted)
            .field("longest_turn_ms", noticed.longest.as_millis() as u64)
            .field("task", noticed.longest_task)
            .field("late_tick_ms", noticed.latest_tick.as_millis() as u64)
            .field("lines_suppressed", suppressed);
    }

    /// Says how many lines were suppressed where no later line of the kind has said it.
    fn log_suppressed(&self, at_once: bool) {
        let now = (clock::now(), clock::wall_time());
        let mut late_lines = self.late_lines.borrow_mut();
        late_lines.flush_suppressed(&self.log, now, at_once);
        if let Some(ingress) = &*self.ingress.borrow() {
            ingress.context.log_suppressed(at_once);
        }
    }

    fn count(&self) {
        let metrics = &self.shared.metrics[self.number];
        let spool = self.spool.stats();
        metrics.commits.set_total(spool.message_commits);
        metrics.commit_messages.set_total(spool.message_records);
        metrics.commit_bytes.set_total(spool.message_bytes);
        metrics
            .memory_held_bytes
            .set(self.shared.memory.held_by(self.number));
        let mail = self.shared.shares.held_by(self.number);
        metrics.mail_held_bytes.set(mail.all.spool);
        metrics.lane_backlog.set(self.outbox.backlog() as u64);
        metrics
            .log_lines_dropped
            .set_total(self.log.dropped_total());
        if let Some(delivery) = &self.delivery {
            metrics.queue_jobs.set(delivery.pending() as u64);
            let open = u64::from(delivery.connections());
            metrics.connections_out_open.set(open);
        }
        if let Some(ingress) = &*self.ingress.borrow() {
            let open = ingress.context.state.sessions.open();
            metrics.sessions_open.set(open as u64);
        }
    }

    /// Receives from the other cores, for ever.
    async fn pump(self: Rc<Self>, inbox: Inbox<ToCore>) {
        loop {
            let drained = inbox.drain(PUMP_ITEMS, |item| self.receive(item));
            self.outbox.flush();
            if drained >= PUMP_ITEMS {
                yield_now().await;
            } else if self.outbox.backlog() > 0 {
                sleep(BACKLOG_RETRY).await;
            } else {
                inbox.wait().await;
            }
        }
    }

    fn receive(self: &Rc<Self>, item: ToCore) {
        match item {
            ToCore::Deliver(job) => {
                // It was taken by lists that may be newer than ours.
                if !planted(Bug::RulesOfBefore) {
                    self.rules.catch_up();
                }
                self.deliver(job);
            }
            ToCore::Settled { from, settled } => self.home.record(from, settled),
            ToCore::Recorded(recorded) => {
                if let Some(delivery) = &self.delivery {
                    delivery.recorded(recorded);
                }
            }
            ToCore::Spool(note) => self.spool.receive_note(&note),
            ToCore::Rule(new) => self.rules.replace(*new),
            ToCore::Connection(accepted) => {
                if let Some(ingress) = &*self.ingress.borrow() {
                    ingress.start(*accepted);
                }
            }
            ToCore::Drain => self.clone().drain(),
            ToCore::Close => self.clone().close(),
            ToCore::Dismiss => self.clone().end_at_once(),
            ToCore::Ask(asked) => self.answer(asked),
            ToCore::Rested | ToCore::Drained | ToCore::Dismissed(_) | ToCore::Answer(_) => {}
        }
    }

    fn answer(&self, asked: Asked) {
        let said = match asked.question {
            Question::Counts => {
                self.count();
                Said::Counted
            }
            Question::NextHops(from) => {
                let delivery = self.delivery.as_ref();
                let hops = delivery.map(|delivery| delivery.hops(Asked::places(from)));
                let (hops, next) = hops.unwrap_or_default();
                Said::NextHops { hops, next }
            }
        };
        let answer = Box::new(asked.answer(self.number, said));
        (self.outbox).send(self.shared.control(), ToCore::Answer(answer));
    }

    fn deliver(&self, job: Job) {
        match &self.delivery {
            Some(delivery) => delivery.submit(job),
            None => self
                .outbox
                .send(self.shared.delivery_cores[0], ToCore::Deliver(job)),
        }
    }

    /// A message is durable: its recipients go to the cores that deliver them.
    fn accepted(&self, message: Arc<Message>, body: Option<Arc<Body>>) {
        let recipients = message.envelope.recipients.len() as u32;
        let fresh = (0..recipients).map(|index| (index, RecipientState::fresh()));
        let anywhere = self.any_delivery_core();
        self.spool.keep(message.clone());
        let parts = {
            let routes = self.rules.routes.get();
            self.shared
                .split_by_core(&routes, &message, fresh, anywhere)
        };
        for (core, recipients) in parts {
            let job = Job {
                course: Course::default(),
                message: message.clone(),
                body: body.clone(),
                recipients,
            };
            match core == self.number {
                true => self.deliver(job),
                false => self.outbox.send(core, ToCore::Deliver(job)),
            }
        }
    }

    /// For hops that every delivery core serves: this one if it delivers, else each in turn.
    fn any_delivery_core(&self) -> usize {
        if self.delivery.is_some() {
            return self.number;
        }
        let cores = &self.shared.delivery_cores;
        self.turn.set(self.turn.get().wrapping_add(1));
        cores[self.turn.get() % cores.len()]
    }

    fn stop_accepting(&self) {
        if let Some(ingress) = &*self.ingress.borrow() {
            ingress.draining.set(true);
            ingress.leaving.notify_waiters();
            ingress.context.state.draining.set(true);
            net::interrupt_idle();
        }
    }

    /// Ends sessions, then deliveries, then waits for the last outcomes; tells the control thread.
    fn drain(self: Rc<Self>) {
        self.stop_accepting();
        self.spool.stop_moving();
        spawn(async move {
            self.sessions_ended().await;
            if let Some(delivery) = &self.delivery {
                delivery.drain().await;
            }
            (self.outbox).send(self.shared.control(), ToCore::Rested);
        });
    }

    /// No core hands anything over any more, but what mail that came last was refused for; tells the control thread.
    fn close(self: Rc<Self>) {
        spawn(async move {
            if let Some(delivery) = &self.delivery {
                delivery.drain().await;
            }
            self.spool.flush().await;
            if let Some(ingress) = &*self.ingress.borrow() {
                ingress.stop();
            }
            // The listeners are closed in their own turn, before the word that all is done.
            yield_now().await;
            let ingress = self.ingress.borrow().clone();
            if let Some(ingress) = ingress {
                ingress.refusals.all_ended().await;
            }
            self.say_last_words().await;
            (self.outbox).send(self.shared.control(), ToCore::Drained);
        });
    }

    /// Ends what a drain has left of sessions (RFC 5321 section 3.8), and waits a moment for what was settled; tells the
    /// control thread.
    fn end_at_once(self: Rc<Self>) {
        self.stop_accepting();
        self.spool.stop_moving();
        net::interrupt_all(Direction::Inbound);
        spawn(async move {
            let outcomes = async {
                if let Some(delivery) = &self.delivery {
                    delivery.outcomes_recorded().await;
                }
                self.spool.flush().await;
            };
            let all = async { tokio::join!(self.sessions_ended(), outcomes) };
            let _ = timeout(LAST_WORK_WITHIN, all).await;
            let _ = timeout(LAST_WORDS_WITHIN, self.say_last_words()).await;
            let unrecorded = self.delivery.as_ref().map_or(0, Delivery::unrecorded);
            let dismissed = ToCore::Dismissed(unrecorded);
            (self.outbox).send(self.shared.control(), dismissed);
        });
    }

    async fn sessions_ended(&self) {
        let ingress = self.ingress.borrow().clone();
        if let Some(ingress) = ingress {
            ingress.context.state.sessions.all_ended().await;
        }
    }

    /// What is said and counted at the end, however it comes.
    async fn say_last_words(&self) {
        self.count();
        self.log_suppressed(true);
        self.log.flush(clock::wall_time());
        self.spool.warn_if_lost().await;
        self.log.flush(clock::wall_time());
    }
}
