//! One outbound connection: stands in for `delivery/worker.rs` and `remote/connection.rs`. The SMTP machine and
//! what its verdicts mean are the real ones.

use crate::ahead::AheadPlace;
use crate::canary::Canary;
use crate::delivery::Told;
use crate::job::Job;
use crate::relay::Core;
use crate::session_to_host::{Connection, Point};
use crate::world::{Owner, until_or};
use ringpost::message::BodyType;
use ringpost::schedule::ahead::Ahead;
use ringpost::schedule::dsn::{Extent, Owed, Taker};
use ringpost::schedule::judge::{self, Event, Finding, GoesOn, Situation, Trouble, Verdict};
use ringpost::schedule::next_hop::{HopId, Refusal, Take};
use ringpost::schedule::outcome::RecipientState;
use ringpost::schedule::settle::parts::{Part, part};
use ringpost::schedule::settle::{
    After, Consequences, Decision, FURTHER_CONNECTIONS_MAX, Over, indices, is_report,
    judge_transaction,
};
use ringpost::smtp::client::{RecipientVerdict, Transaction, TransactionResult};
use ringpost::smtp::reply::{EnhancedStatus, Stage};
use ringpost::time::Now;
use std::cell::Cell;
use std::rc::Rc;

/// How one try to open a connection ended.
enum Tried {
    Open(Box<Connection>, usize),
    Failed(Finding),
}

impl Core {
    /// The schedule wants one more connection to the hop.
    pub fn open(&self, hop: HopId) {
        let core = self.clone();
        let workers = &self.part().workers;
        workers.set(workers.get() + 1);
        let site = *self.part().schedule.borrow().key(hop);
        // Now, and not in its turn: a greeted connection may have ended by then.
        self.count_opening(site);
        self.world().spawn(Owner::Relay, async move {
            let world = core.world().clone();
            let started = world.now();
            let tried = core.connect(hop, &[]).await;
            core.count_opened(site, matches!(tried, Tried::Open(..)));
            match tried {
                Tried::Open(connection, host) => {
                    let took = world.now().since(started);
                    core.count_connection(hop);
                    core.part().schedule.borrow_mut().connected(hop, took);
                    core.serve(hop, *connection, host, started).await;
                }
                Tried::Failed(finding) => {
                    core.count_failure(hop);
                    if world.canary == Canary::TriesThrice {
                        core.try_twice_more(hop).await;
                    }
                    core.connect_failed(hop, &finding, started);
                }
            }
        });
    }

    fn count_opening(&self, site: usize) {
        let world = self.world();
        let complaint = world.ledger.borrow_mut().bounds.opens(self.number, site);
        complaint.into_iter().for_each(|it| world.accuse(it));
    }

    fn count_opened(&self, site: usize, is_greeted: bool) {
        let mut ledger = self.world().ledger.borrow_mut();
        ledger.bounds.has_opened(self.number, site, is_greeted);
    }

    fn count_connection(&self, hop: HopId) {
        let world = self.world();
        let site = *self.part().schedule.borrow().key(hop);
        let mut ledger = world.ledger.borrow_mut();
        let is_spotless = ledger.sites[site].is_spotless;
        let complaint = ledger.bounds.connected(self.number, site, is_spotless);
        drop(ledger);
        complaint.into_iter().for_each(|it| world.accuse(it));
    }

    fn count_failure(&self, hop: HopId) {
        let world = self.world();
        let schedule = self.part().schedule.borrow();
        let waiting = schedule.status(hop).map_or(0, |status| status.todo);
        let site = *schedule.key(hop);
        let mut ledger = world.ledger.borrow_mut();
        let bounds = &mut ledger.bounds;
        let complaint = bounds.connect_failed(self.number, site, waiting, world.now());
        drop(ledger);
        complaint.into_iter().for_each(|it| world.accuse(it));
    }

    async fn try_twice_more(&self, hop: HopId) {
        for _ in 0..2 {
            if let Tried::Failed(_) = self.connect(hop, &[]).await {
                self.count_failure(hop);
            }
        }
    }

    /// The schedule has been told that a connection is gone.
    fn worker_ends(&self) {
        let workers = &self.part().workers;
        workers.set(workers.get() - 1);
    }

    /// The schedule has been told that a connection is gone that was greeted.
    fn connection_ends(&self, site: usize) {
        let mut ledger = self.world().ledger.borrow_mut();
        ledger.bounds.ended(self.number, site);
        drop(ledger);
        self.worker_ends();
    }

    fn connect_failed(&self, hop: HopId, finding: &Finding, started: Now) {
        let world = self.world();
        world.seen.borrow_mut().connects_failed += 1;
        tell!(world, "no connection: {}", finding.diagnosis().text);
        let mut schedule = self.part().schedule.borrow_mut();
        if let Some(word) = finding.of_hop() {
            schedule.context(hop).last.heard(word, world.now());
        }
        if finding.throttles() {
            schedule.refused(hop, Refusal::Connection, world.now());
        }
        schedule.connect_failed(hop, started, world.now());
        self.worker_ends();
    }

    /// Tries the hop's hosts in order of preference. `declined`: hosts that are left out.
    async fn connect(&self, hop: HopId, declined: &[usize]) -> Tried {
        let site = *self.part().schedule.borrow().key(hop);
        let mut hosts = self.relay.network.hosts_of(site);
        hosts.retain(|host| !declined.contains(host));
        let mut last = Finding::nobody_answered();
        let mut may_recover = !declined.is_empty();
        for (number, host) in hosts.iter().enumerate() {
            let situation = Situation {
                more_hosts: number + 1 < hosts.len(),
                may_recover,
                ..Situation::default()
            };
            match self.connect_host(*host, situation).await {
                Tried::Failed(failed) if failed.verdict() == Verdict::TryNextHost => {
                    may_recover |= !failed.host_refuses();
                    last = failed;
                }
                tried => return tried,
            }
        }
        Tried::Failed(last)
    }

    async fn connect_host(&self, host: usize, situation: Situation) -> Tried {
        let name = self.relay.network.name_of(host);
        let opened = match self.relay.network.connect(host) {
            Some(end) => Connection::open(self.world(), end).await,
            None => Err(None),
        };
        let failure = match opened {
            Ok(connection) => {
                self.world().seen.borrow_mut().connects += 1;
                return Tried::Open(Box::new(connection), host);
            }
            Err(failure) => failure,
        };
        let (stage, event) = match &failure {
            None => (Stage::Connect, Event::Trouble(Trouble::Unreachable)),
            Some(failure) => (failure.stage, judge::event_of_cause(&failure.cause)),
        };
        Tried::Failed(Finding::of(stage, event, situation, &name))
    }

    /// Carries jobs until there is no more reason to keep the connection.
    async fn serve(&self, hop: HopId, connection: Connection, host: usize, opened_at: Now) {
        let site = *self.part().schedule.borrow().key(hop);
        let mut worker = Worker {
            core: self.clone(),
            hop,
            connection,
            host,
            opened_at,
            carried: 0,
            has_rested: false,
            had_worked: false,
            is_substitute: false,
            ahead: AheadPlace::new(hop),
            before: None,
        };
        loop {
            let after = match worker.next() {
                Take::Job(job) => worker.carry(job).await,
                Take::Close => After::Close,
                Take::Wait { until } => match self.wait(hop, &worker.connection, until).await {
                    Some(Told::Work) if worker.connection.is_quiet() => {
                        worker.has_rested = true;
                        After::GoOn
                    }
                    Some(_) => After::Close,
                    None => {
                        self.connection_ends(site);
                        return worker.connection.quit().await;
                    }
                },
            };
            match after {
                After::GoOn => {}
                After::Close => {
                    self.part().schedule.borrow_mut().closed(hop);
                    self.connection_ends(site);
                    return worker.connection.quit().await;
                }
                After::Broke => {
                    let now = self.world().now();
                    let mut schedule = self.part().schedule.borrow_mut();
                    schedule.broke(hop, worker.opened_at, now);
                    drop(schedule);
                    self.world().seen.borrow_mut().broke += 1;
                    return self.connection_ends(site);
                }
            }
        }
    }

    /// Waits idle until told what to do. `None`: time is up or the peer has ended the session, and
    /// the schedule has been told.
    async fn wait(&self, hop: HopId, connection: &Connection, until: Now) -> Option<Told> {
        let idle = Rc::new(Cell::new(None));
        let schedule = &self.part().schedule;
        {
            let mut schedule = schedule.borrow_mut();
            schedule.context(hop).idle.push_back(idle.clone());
        }
        let rested = until_or(self.world(), until, || {
            (idle.get().is_some() || connection.has_news()).then_some(())
        });
        rested.await;
        if let Some(told) = idle.get() {
            return Some(told);
        }
        self.world().seen.borrow_mut().idle_ended += 1;
        let mut schedule = schedule.borrow_mut();
        let waiting = &mut schedule.context(hop).idle;
        waiting.retain(|other| !Rc::ptr_eq(other, &idle));
        schedule.idle_closed(hop);
        None
    }
}

/// A connection at work.
struct Worker {
    core: Core,
    hop: HopId,
    connection: Connection,
    host: usize,
    /// When it began to open.
    opened_at: Now,
    /// Transactions begun on this connection.
    carried: u32,
    has_rested: bool,
    /// Before the last transaction began, the session had ended one, or rested.
    had_worked: bool,
    /// A better host was left out.
    is_substitute: bool,
    ahead: Rc<AheadPlace>,
    /// Of the transaction before; for a planted bug.
    before: Option<TransactionResult>,
}

impl Worker {
    fn may_carry_more(&self) -> bool {
        self.carried < self.core.relay.transactions_per_connection
    }

    fn next(&self) -> Take<Job> {
        if !self.may_carry_more() {
            return Take::Close;
        }
        let world = self.core.world();
        let mut schedule = self.core.part().schedule.borrow_mut();
        let take = schedule.take(self.hop, world.now());
        if matches!(take, Take::Close) && self.carried == 0 {
            let site = *schedule.key(self.hop);
            let mut ledger = world.ledger.borrow_mut();
            ledger.bounds.gave_way(self.core.number, site);
        }
        take
    }

    /// Carries a job, and those that could be begun ahead meanwhile.
    async fn carry(&mut self, job: Job) -> After {
        let now = |worker: &Self| worker.core.world().now();
        let mut after = self.carry_one(job, false, now(self)).await;
        while let Some(Ahead {
            job,
            begun,
            started,
        }) = self.core.take_ahead_from(&self.ahead)
        {
            match after {
                After::GoOn if begun => after = self.carry_one(job, true, started).await,
                After::GoOn => after = self.carry_one(job, false, now(self)).await,
                // How the connection ended was decided by the one before; this one only hears of it.
                _ if begun => _ = self.carry_one(job, true, started).await,
                // Not begun, and there is no session for it: it waits for another connection.
                After::Close | After::Broke => self.core.submit(job),
            }
        }
        match after {
            After::GoOn if self.ahead.is_void() => After::Close,
            after => after,
        }
    }

    /// One transaction, and what its verdicts mean for recipients, hop and connection. Recipients may go on with other hosts.
    async fn carry_one(&mut self, mut job: Job, begun: bool, started: Now) -> After {
        let mut result = self.transact(&job, begun).await;
        let mut declined = Vec::new();
        let mut further = 0;
        loop {
            let Some(decided) = result else {
                self.core.forget_report(job);
                return After::GoOn;
            };
            let name = self.core.relay.network.name_of(self.host);
            let situation = self.over(&name).situation(&job.message.envelope, &decided);
            let has_other = self.has_other_host(&declined);
            let goes_on = |verdict: &_| match judge::goes_on(verdict, situation) {
                Some(GoesOn::Session) => true,
                Some(_) => has_other,
                None => false,
            };
            let (message, body, recipients) = job.dissolve();
            let of = |part: Part| {
                let job = Job::new(message.clone(), body.clone(), part.recipients);
                (job, part.result)
            };
            let (stays, goes) = part(recipients, decided, goes_on);
            let after = stays.map(|it| {
                let (job, decided) = of(it);
                self.settle(job, decided, started)
            });
            let Some((rest, decided)) = goes.map(of) else {
                return after.expect("one of the parts has recipients");
            };
            let is_of_session = |(_, verdict): &(u32, _)| {
                judge::goes_on(verdict, situation) == Some(GoesOn::Session)
            };
            let is_of_host = !decided.verdicts.iter().any(is_of_session);
            if is_of_host {
                declined.push(self.host);
            }
            further += 1;
            if further > FURTHER_CONNECTIONS_MAX || !self.goes_over_new_connection(&declined).await
            {
                return self.settle(rest, decided, started);
            }
            self.core.world().seen.borrow_mut().other_hosts += u64::from(is_of_host);
            job = rest;
            result = self.transact(&job, false).await;
        }
    }

    fn over<'a>(&self, host: &'a str) -> Over<'a> {
        Over {
            session_worked: self.had_worked,
            knows_no_extensions: self.connection.knows_no_extensions(),
            is_substitute: self.is_substitute,
            ..Over::new(host)
        }
    }

    fn settle(&mut self, job: Job, mut result: TransactionResult, started: Now) -> After {
        self.mix_up(&mut result);
        let reusable = result.reusable && self.connection.lives();
        let name = self.core.relay.network.name_of(self.host);
        let judged = judge_transaction(&job.message.envelope, &result, &self.over(&name));
        let now = self.core.world().now();
        let took = now.since(started);
        let mut schedule = self.core.part().schedule.borrow_mut();
        judged.tell(&mut schedule, self.hop, (took, now), |hop| &mut hop.last);
        match self.core.world().canary {
            Canary::RecipientSpeaksForAll => {
                let overheard = &mut schedule.context(self.hop).overheard;
                let is_refused = |it: &&(u32, Decision)| it.1.verdict == Verdict::Bounce;
                let refused = judged.decisions.iter().find(is_refused);
                match refused {
                    _ if judged.answered => *overheard = None,
                    Some((_, decision)) => *overheard = Some(decision.diagnosis.clone()),
                    None => {}
                }
            }
            Canary::SenderPausesAll if result.verdicts.iter().any(is_disliked) => {
                schedule.refused(self.hop, Refusal::Mail, now);
            }
            _ => {}
        }
        drop(schedule);
        let after = judged.after(reusable);
        self.core.apply(job, judged.decisions);
        after
    }

    fn mix_up(&mut self, result: &mut TransactionResult) {
        if self.core.world().canary != Canary::MixesUpReplies {
            return;
        }
        let own = result.clone();
        if let Some(before) = &self.before {
            for (verdict, other) in result.verdicts.iter_mut().zip(&before.verdicts) {
                verdict.1 = other.1.clone();
            }
        }
        self.before = Some(own);
    }

    /// `None`: it is a report, and there is nobody to report to.
    async fn transact(&mut self, job: &Job, begun: bool) -> Option<TransactionResult> {
        self.had_worked = self.carried > 0 || self.has_rested;
        self.carried += 1;
        match is_report(job.recipients()) {
            true => self.carry_report(job).await,
            false => Some(self.carry_message(job, begun).await),
        }
    }

    fn has_other_host(&self, declined: &[usize]) -> bool {
        let site = *self.core.part().schedule.borrow().key(self.hop);
        let hosts = self.core.relay.network.hosts_of(site);
        let is_other = |host: &usize| *host != self.host && !declined.contains(host);
        hosts.iter().any(is_other)
    }

    /// To another host than those that have declined. False: there is none that can be reached, and this connection is as it was.
    async fn goes_over_new_connection(&mut self, declined: &[usize]) -> bool {
        let opened_at = self.core.world().now();
        match self.core.connect(self.hop, declined).await {
            Tried::Open(connection, host) => {
                let before = std::mem::replace(&mut self.connection, *connection);
                // Hosts are numbered by preference.
                self.is_substitute &= host == self.host;
                self.is_substitute |= host > self.host;
                self.host = host;
                self.opened_at = opened_at;
                self.carried = 0;
                self.has_rested = false;
                self.ahead.moves();
                before.quit().await;
                true
            }
            Tried::Failed(_) => false,
        }
    }

    async fn carry_message(&mut self, job: &Job, begun: bool) -> TransactionResult {
        if !begun {
            let recipients = indices(job.recipients());
            if let Err(unfit) = self.connection.begin(&transaction(job, &recipients)) {
                return unfit;
            }
        }
        let content = self.content(job);
        loop {
            match self.connection.proceed().await {
                Point::SendBody => self.send_body(job, &content).await,
                Point::Done(result) => return result,
            }
        }
    }

    fn content(&self, job: &Job) -> Vec<u8> {
        let world = self.core.world();
        match &job.body {
            Some(body) => body.to_vec(),
            None => {
                world.seen.borrow_mut().read_back += 1;
                let content = job.message.place().read(world);
                if world.canary == Canary::MixesUpContent {
                    let other = world.ledger.borrow().content_of_another(job.message.id);
                    return other.unwrap_or(content);
                }
                content
            }
        }
    }

    /// Sends the content, and the commands of the next job with its end if there is one.
    async fn send_body(&mut self, job: &Job, content: &[u8]) {
        let world = self.core.world().clone();
        if world.canary == Canary::SettlesEarly {
            self.settle_early(job);
        }
        if !self.connection.send_most(content).await {
            return;
        }
        if let Some(job) = self.take_ahead() {
            let recipients = indices(job.recipients());
            let begun = !is_report(job.recipients())
                && self.connection.begin_ahead(&transaction(&job, &recipients));
            world.seen.borrow_mut().begun_ahead += u64::from(begun);
            let started = world.now();
            let ahead = Ahead {
                job,
                begun,
                started,
            };
            self.core.put_ahead(&self.ahead, ahead);
        }
        self.connection.send_last(content).await;
    }

    /// The job whose commands may go out now, behind the content of another.
    fn take_ahead(&self) -> Option<Job> {
        let canary = self.core.world().canary;
        let has_place = self.ahead.is_free() || canary == Canary::TakesTwoAhead;
        if !has_place || !self.connection.pipelines() || !self.may_carry_more() {
            return None;
        }
        let mut schedule = self.core.part().schedule.borrow_mut();
        schedule.take_ahead(self.hop, self.core.world().now())
    }

    fn settle_early(&self, job: &Job) {
        let finished = |(index, _): &(u32, RecipientState)| (*index, RecipientState::Finished);
        let mut consequences = Consequences {
            recorded: job.recipients().iter().map(finished).collect(),
            ..Consequences::default()
        };
        self.core.record(&job.message, &mut consequences);
    }

    /// `None`: there is nobody to report to.
    async fn carry_report(&mut self, job: &Job) -> Option<TransactionResult> {
        let world = self.core.world();
        let message = &job.message;
        let place = message.place();
        let owed = Owed {
            hostname: crate::relay::HOSTNAME,
            id: message.id,
            received_at: message.received_at,
            envelope: &message.envelope,
            recipients: job.recipients(),
            body_bytes: place.body_bytes(),
        };
        let mut original = place.read(world);
        original.truncate(owed.original_bytes_wanted());
        let taker = Taker {
            eight_bit_mime: true,
            bytes_max: 0,
            original: Extent::Whole,
        };
        let report = owed.render(&original, world.wall_time(), taker)?;
        let mut envelope = report.envelope();
        if world.canary == Canary::ReportsNeedSmtputf8 {
            let recipients = &message.envelope.recipients;
            let is_utf8 = recipients.iter().any(|it| it.forward_path.needs_smtputf8());
            envelope.smtputf8 |= is_utf8 || message.envelope.smtputf8;
        }
        let is_8bit = report.body_type == BodyType::EightBitMime;
        let bytes = report.wire.len() as u64;
        let transaction = Transaction::of_wire_form(&envelope, &[0], bytes, is_8bit);
        if let Err(unfit) = self.connection.begin(&transaction) {
            return Some(unfit);
        }
        loop {
            match self.connection.proceed().await {
                Point::SendBody => self.connection.send_body(&report.wire).await,
                Point::Done(result) => return Some(result),
            }
        }
    }
}

/// MAIL was refused for now, for the sender.
fn is_disliked((_, verdict): &(u32, RecipientVerdict)) -> bool {
    let RecipientVerdict::Refused { stage, reply } = verdict else {
        return false;
    };
    let is_policy = |status: EnhancedStatus| (status.class, status.subject) == (4, 7);
    *stage == Stage::Mail && reply.code != 421 && reply.status.is_some_and(is_policy)
}

fn transaction<'a>(job: &'a Job, recipients: &'a [u32]) -> Transaction<'a> {
    let wire_bytes = job.message.place().body_bytes();
    Transaction::of_wire_form(&job.message.envelope, recipients, wire_bytes, false)
}
