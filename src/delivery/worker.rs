//! One outbound connection as a task: carries jobs, waits idle, closes.

use super::ahead::AheadPlace;
use super::opening::{Candidate, Ended, Tried};
use super::peer::{Better, Peer};
use super::settle::TransactionContext;
use super::{Idle, IdleSignal, Inner};
use crate::handoff::job::Job;
use crate::io::clock;
use crate::io::runtime::{self, spawn};
use crate::io::{Bug, planted};
use crate::message::BodyType;
use crate::remote::connection::{Connection, Content, Point};
use crate::remote::resolve::Attempt;
use crate::remote::terms;
use crate::schedule::ahead::Ahead;
use crate::schedule::dsn::Rendered;
use crate::schedule::judge::{self, GoesOn, Situation};
use crate::schedule::limits;
use crate::schedule::next_hop::{HopId, Take};
use crate::schedule::settle::parts::{Part, part};
use crate::schedule::settle::{self, After, FURTHER_CONNECTIONS_MAX, Over, indices, is_report};
use crate::schedule::tries::Way;
use crate::smtp::client::{RecipientVerdict, Transaction, TransactionResult};
use crate::time::Now;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Hosts that are waited for at a time while they answer QUIT and mail goes on to others; more are not waited for.
const FAREWELLS_MAX: usize = 64;

/// How long a drain waits for the answer to a QUIT: nothing depends on it, but RFC 5321 section 4.1.1.10 wants it heard.
const FAREWELL_TIMEOUT_AT_THE_END: Duration = Duration::from_secs(1);

impl Inner {
    /// Carries jobs until there is no more reason to keep the connection.
    pub(super) async fn serve(
        self: &Rc<Self>,
        hop: HopId,
        connection: Connection,
        peer: Peer,
        opened_at: Now,
    ) {
        let mut worker = Worker {
            inner: self.clone(),
            hop,
            connection,
            peer,
            opened_at,
            carried: 0,
            has_rested: false,
            is_detour: false,
            ahead: AheadPlace::new(hop),
        };
        loop {
            let after = match worker.next() {
                Take::Job(job) => worker.carry(job).await,
                Take::Close => After::Close,
                Take::Wait { until } => match self.wait(hop, &mut worker.connection, until).await {
                    // The peer may have closed, or the time may have been up, just before: then
                    // the job is for another connection.
                    Some(IdleSignal::Work) if worker.connection.is_quiet().await => {
                        worker.has_rested = true;
                        After::GoOn
                    }
                    Some(_) => After::Close,
                    None => {
                        self.wake_scheduler();
                        return self.quit_session(worker.connection).await;
                    }
                },
            };
            match after {
                After::GoOn => {}
                After::Close => {
                    self.schedule.borrow_mut().closed(hop);
                    self.wake_scheduler();
                    return self.quit_session(worker.connection).await;
                }
                After::Broke => {
                    let mut schedule = self.schedule.borrow_mut();
                    schedule.broke(hop, worker.opened_at, clock::now());
                    drop(schedule);
                    return self.wake_scheduler();
                }
            }
        }
    }

    /// Says QUIT, while whoever has no more use for the connection goes on.
    pub(super) fn quit_in_background(self: &Rc<Self>, connection: Connection) {
        if self.farewells.get() >= FAREWELLS_MAX {
            return connection.leave();
        }
        let this = self.clone();
        self.at_work.set(self.at_work.get() + 1);
        self.farewells.set(self.farewells.get() + 1);
        spawn(async move {
            this.quit_session(connection).await;
            this.farewells.set(this.farewells.get() - 1);
            this.work_done();
        });
    }

    /// Says QUIT and waits for its answer; while the relay stops, only for a moment.
    async fn quit_session(&self, connection: Connection) {
        let patience = async {
            self.drain_begun().await;
            runtime::sleep(FAREWELL_TIMEOUT_AT_THE_END).await;
        };
        tokio::select! {
            biased;
            () = connection.quit() => {}
            () = patience => {}
        }
    }

    /// Waits idle until told what to do. `None`: time is up, the peer has ended the session or the
    /// drain has begun, and the schedule has been told.
    async fn wait(
        &self,
        hop: HopId,
        connection: &mut Connection,
        until: Now,
    ) -> Option<IdleSignal> {
        let idle = Rc::new(Idle::default());
        self.schedule
            .borrow_mut()
            .context(hop)
            .idle
            .push_back(idle.clone());
        self.wake_scheduler();
        self.idle.set(self.idle.get() + 1);
        tokio::select! {
            biased;
            () = idle.notify.notified() => {}
            () = self.drain_begun() => {}
            () = connection.wait_idle(until) => {}
        }
        self.idle.set(self.idle.get() - 1);
        if let Some(signal) = idle.signal.get() {
            return Some(signal);
        }
        let mut schedule = self.schedule.borrow_mut();
        let waiting = &mut schedule.context(hop).idle;
        waiting.retain(|other| !Rc::ptr_eq(other, &idle));
        if !planted(Bug::IdleEndsUntold) {
            schedule.idle_closed(hop);
        }
        None
    }
}

/// A connection at work.
struct Worker {
    inner: Rc<Inner>,
    hop: HopId,
    connection: Connection,
    peer: Peer,
    /// When it began to open.
    opened_at: Now,
    /// Transactions begun on this connection.
    carried: u32,
    /// The session has been idle in between: it has worked before.
    has_rested: bool,
    /// It is with another host for the sake of one job, and ends with it.
    is_detour: bool,
    /// The job that was taken while the one before is under way.
    ahead: Rc<AheadPlace>,
}

/// How a job went.
struct Carried {
    result: TransactionResult,
    /// The session had worked before.
    has_worked: bool,
    /// It is a report, and has become smaller: it goes again.
    goes_again: bool,
}

impl Worker {
    fn may_carry_more(&self) -> bool {
        let most = self.inner.context.settings.transactions_per_connection;
        let most_here = self.connection.limits().mail_max.unwrap_or(most);
        let goes_elsewhere = self.carried > 0 && (self.is_detour || self.may_retry_tls());
        self.carried < most.min(most_here) && !self.inner.draining.get() && !goes_elsewhere
    }

    /// The session is in plaintext, and TLS is to be tried again by now.
    fn may_retry_tls(&self) -> bool {
        let now = clock::now();
        let memory = self.inner.broken_tls.borrow();
        match self.peer.fallback.map(|it| it.until) {
            None => false,
            Some(Some(until)) => now >= until,
            Some(None) => !memory.has_failed(&self.peer.tls_peer(), now),
        }
    }

    /// What the last transaction went over.
    fn over(&self, session_worked: bool) -> Over<'_> {
        Over {
            host: &self.peer.host,
            session_worked,
            knows_no_extensions: self.connection.knows_no_extensions(),
            fallback: self.peer.fallback.map(|it| it.which),
            is_substitute: self.peer.is_substitute,
        }
    }

    /// What of a job this peer takes in one transaction; the rest is queued for the hop again.
    fn fitting(&self, mut job: Job) -> Job {
        let limits = self.connection.limits();
        let recipients = std::mem::take(&mut job.recipients);
        let (recipients, rest) = limits::split(&job.message.envelope, recipients, limits);
        if !rest.is_empty() {
            let mut schedule = self.inner.schedule.borrow_mut();
            let key = schedule.key(self.hop).clone();
            schedule.push(&key, job.part(rest), clock::now());
            drop(schedule);
            self.inner.wake_scheduler();
        }
        job.recipients = recipients;
        job
    }

    fn next(&self) -> Take<Job> {
        if !self.may_carry_more() {
            return Take::Close;
        }
        let now = clock::now();
        let take = self.inner.schedule.borrow_mut().take(self.hop, now);
        self.inner.wake_scheduler_if_wanted(self.hop, now);
        take
    }

    /// Carries a job, and those that could be begun ahead meanwhile.
    async fn carry(&mut self, job: Job) -> After {
        let mut after = self.carry_one(job, false, clock::now()).await;
        while let Some(Ahead {
            job,
            begun,
            started,
        }) = self.ahead.take()
        {
            match after {
                After::GoOn if begun => after = self.carry_one(job, true, started).await,
                After::GoOn => after = self.carry_one(job, false, clock::now()).await,
                // How the connection ended was decided by the one before; this one only hears of it.
                _ if begun => _ = self.carry_one(job, true, started).await,
                // Not begun, and there is no session for it: it waits for another connection.
                After::Close | After::Broke => self.inner.clone().submit(job),
            }
        }
        match after {
            After::GoOn if self.ahead.is_void() => After::Close,
            after => after,
        }
    }

    /// One transaction, and what its verdicts mean for recipients, hop and connection. Recipients may go on with other hosts.
    async fn carry_one(&mut self, job: Job, begun: bool, started: Now) -> After {
        let mut job = match begun {
            true => job,
            false => self.fitting(job),
        };
        let mut carried = self.transact(&mut job, begun).await;
        let mut declined = Vec::new();
        let mut further = 0;
        loop {
            let Some(Carried {
                result: decided,
                has_worked,
                goes_again,
            }) = carried
            else {
                self.inner.forget_report(job);
                return After::GoOn;
            };
            if goes_again || self.connection.lacks_content() {
                return self.settle(job, decided, (started, has_worked, goes_again));
            }
            let over = self.over(has_worked);
            let situation = over.situation(&job.message.envelope, &decided);
            self.remember_content(&decided);
            let has_other = self.has_other_address(&declined);
            let is_after_busy = self.peer.is_after_busy && self.peer.better.is_empty();
            let goes_on = |verdict: &_| match judge::goes_on(verdict, situation) {
                Some(GoesOn::Session) => true,
                Some(GoesOn::Substitute) if is_after_busy => false,
                Some(_) => has_other,
                None => false,
            };
            let recipients = std::mem::take(&mut job.recipients);
            let of = |part: Part| (job.part(part.recipients), part.result);
            let (stays, goes) = part(recipients, decided, goes_on);
            let after = stays.map(|it| {
                let (job, decided) = of(it);
                self.settle(job, decided, (started, has_worked, false))
            });
            let Some((rest, decided)) = goes.map(of) else {
                return after.expect("one of the parts has recipients");
            };
            further += 1;
            if further > FURTHER_CONNECTIONS_MAX
                || !self.goes_on(&decided, situation, &mut declined).await
            {
                return self.settle(rest, decided, (started, has_worked, false));
            }
            job = self.fitting(rest);
            carried = self.transact(&mut job, false).await;
        }
    }

    /// `how`: when the transaction began, whether the session had worked before, and whether the job is a report that goes again.
    fn settle(&mut self, job: Job, result: TransactionResult, how: (Now, bool, bool)) -> After {
        let (started, has_worked, goes_again) = how;
        if let Some(reply) = self.connection.out_of_step() {
            self.inner.log_out_of_step(&self.peer, reply);
        }
        let content_error = self.connection.take_content_error();
        // A better host is asked at the next attempt, and this session not found again.
        let is_refused = |(_, it): &(u32, _)| matches!(it, RecipientVerdict::Refused { .. });
        let makes_way = self.peer.is_substitute && result.verdicts.iter().any(is_refused);
        let session = TransactionContext {
            connection: &self.connection,
            peer: &self.peer,
            started,
            over: self.over(has_worked),
            goes_again,
        };
        let after = match content_error {
            None => self.inner.settle(self.hop, job, result, &session),
            Some(error) => self
                .inner
                .settle_without_content(job, &result, &error, &session),
        };
        match after {
            After::GoOn if self.is_detour || makes_way => After::Close,
            after => after,
        }
    }

    /// The session has ended a transaction, or rested.
    fn has_worked(&self) -> bool {
        self.carried > 0 || self.has_rested
    }

    /// `None`: it is a report, and there is nobody to report to.
    async fn transact(&mut self, job: &mut Job, begun: bool) -> Option<Carried> {
        // What the job itself does here is no sign that the session takes mail.
        let has_worked = self.has_worked();
        self.carried += 1;
        match is_report(&job.recipients) {
            true => self.carry_report(job, has_worked).await,
            false => Some(Carried {
                result: self.carry_message(job, begun).await,
                has_worked,
                goes_again: false,
            }),
        }
    }

    /// Whether contents get through to this address.
    fn remember_content(&self, result: &TransactionResult) {
        let mut memory = self.inner.content_lost.borrow_mut();
        let address = self.peer.address;
        for (_, verdict) in &result.verdicts {
            match verdict {
                RecipientVerdict::LostInBody | RecipientVerdict::LostAfterData => {
                    return memory.failed(address, (), clock::now());
                }
                RecipientVerdict::Accepted { .. } => return memory.forget(&address),
                _ => {}
            }
        }
    }

    /// Whether there is an address that was not asked, of this host or another.
    fn has_other_address(&self, declined: &[SocketAddr]) -> bool {
        let is_other =
            |address: &SocketAddr| *address != self.peer.address && !declined.contains(address);
        let mut schedule = self.inner.schedule.borrow_mut();
        let site = schedule.context(self.hop).site.as_ref();
        let mut hosts = site.into_iter().flat_map(|site| &site.hosts);
        !self.peer.better.is_empty() || hosts.any(|host| host.addresses.iter().any(is_other))
    }

    /// After what this session, or its host, has done: goes on over a new connection. False: there is none that can be had, and
    /// this one is as it was.
    async fn goes_on(
        &mut self,
        result: &TransactionResult,
        situation: Situation,
        declined: &mut Vec<SocketAddr>,
    ) -> bool {
        let is_of_session =
            |(_, verdict): &(u32, _)| judge::goes_on(verdict, situation) == Some(GoesOn::Session);
        if result.verdicts.iter().any(is_of_session) {
            return self.goes_over_new_connection(declined).await;
        }
        if let Some((_, verdict)) = result.verdicts.first() {
            let finding = judge::find_of_recipient(verdict, situation, &self.peer.host);
            let address = self.peer.address;
            self.inner.log_host_failed(address, finding.diagnosis());
        }
        if let Some(reply) = settle::tls_demanded(result, situation) {
            self.inner.tls_demanded(&self.peer, &reply);
        }
        let better = std::mem::take(&mut self.peer.better);
        if !better.is_empty() {
            return self.goes_to_better_host(&better).await;
        }
        declined.push(self.peer.address);
        self.goes_over_new_connection(declined).await
    }

    /// A host that stands in for a better one refuses: it is not believed before the better one was asked in plaintext.
    async fn goes_to_better_host(&mut self, better: &[Better]) -> bool {
        let key = self.inner.schedule.borrow().key(self.hop).clone();
        for it in better {
            let Better {
                host,
                address,
                trouble,
            } = it;
            let opened_at = clock::now();
            let address = *address;
            let candidate = Candidate {
                attempt: Attempt { host, address },
                terms: terms::of_host(&key.demand, host).await,
                trouble: Some(trouble.clone()),
            };
            let way = Way::Plaintext;
            let inner = self.inner.clone();
            let connecting = inner.connect_address(&key, &candidate, way, Situation::default());
            match inner.unless_draining(connecting).await {
                Some(Ended::Open(connection)) => {
                    let peer = inner.peer(&candidate, way, &connection);
                    self.moves(*connection, peer, opened_at);
                    self.is_detour = true;
                    return true;
                }
                Some(Ended::Failed(failed)) => {
                    inner.log_host_failed(address, failed.finding.diagnosis());
                }
                Some(Ended::TlsFailed(_)) => unreachable!("TLS is not tried"),
                None => return false,
            }
        }
        false
    }

    /// To another address than those that have declined (RFC 5321 section 5.1): another one of the same host may be well.
    async fn goes_over_new_connection(&mut self, declined: &[SocketAddr]) -> bool {
        let opened_at = clock::now();
        let connecting = self.inner.connect(self.hop, declined);
        match self.inner.unless_draining(connecting).await {
            Some(Tried::Open(connection, mut peer)) => {
                let before = &self.peer;
                peer.is_substitute |= peer.preference > before.preference
                    || (before.is_substitute && peer.preference == before.preference);
                self.moves(*connection, peer, opened_at);
                true
            }
            Some(Tried::Failed(finding)) => {
                self.inner.log_connect_failed(self.hop, finding.diagnosis());
                false
            }
            None => false,
        }
    }

    fn moves(&mut self, connection: Connection, peer: Peer, opened_at: Now) {
        let before = std::mem::replace(&mut self.connection, connection);
        self.peer = peer;
        self.opened_at = opened_at;
        self.carried = 0;
        self.has_rested = false;
        self.ahead.moves();
        self.inner.quit_in_background(before);
    }

    async fn carry_message(&mut self, job: &Job, begun: bool) -> TransactionResult {
        if !begun {
            let recipients = indices(&job.recipients);
            let transaction = self.transaction(job, &recipients);
            if let Err(unfit) = self.connection.begin(&transaction).await {
                return unfit;
            }
        }
        let place;
        let content = match &job.body {
            Some(body) => Content::Memory(body),
            None => {
                self.inner.context.metrics.bodies_read_back.increment();
                place = job.message.location.place();
                Content::Spool(&place)
            }
        };
        loop {
            match self.connection.proceed().await {
                Point::SendBody => {
                    if planted(Bug::FinishedEarly) {
                        self.inner.finish_early(job);
                    }
                    self.send_body(&content).await;
                }
                Point::Done(result) => return result,
            }
        }
    }

    /// Sends the content, and the commands of the next job with its end if there is one.
    async fn send_body(&mut self, content: &Content<'_>) {
        let Some(last) = self.connection.send_all_but_last(content).await else {
            return;
        };
        if let Some(job) = self.take_ahead() {
            let recipients = indices(&job.recipients);
            let begun = !is_report(&job.recipients) && {
                let transaction = self.transaction(&job, &recipients);
                self.connection.begin_ahead(&transaction)
            };
            let started = clock::now();
            let ahead = Ahead {
                job,
                begun,
                started,
            };
            self.inner.aheads.put(&self.ahead, ahead);
        }
        self.connection.send_last(last).await;
    }

    /// The job whose commands may go out now, behind the content of another.
    fn take_ahead(&self) -> Option<Job> {
        let has_place = self.ahead.is_free();
        if !has_place || !self.connection.pipelines() || !self.may_carry_more() {
            return None;
        }
        let now = clock::now();
        let job = self.inner.schedule.borrow_mut().take_ahead(self.hop, now)?;
        Some(self.fitting(job))
    }

    /// `None`: there is nobody to report to. A report that is refused for what it returns of the
    /// original, or for its size, goes out again with less: here, or over another connection.
    async fn carry_report(&mut self, job: &mut Job, mut has_worked: bool) -> Option<Carried> {
        loop {
            let taker = self.connection.taker(job.course.original);
            let report = self.inner.render_report(job, taker).await?;
            let result = self.send_report(job, &report).await;
            let count = job.recipients.len();
            let smaller = job.course.smaller(&result, report.original, count);
            let is_less = smaller.is_some_and(|it| it.original < report.original);
            let goes_on_here = is_less && result.reusable && self.may_carry_more();
            if let Some(smaller) = smaller {
                job.course = smaller;
            }
            if !goes_on_here {
                return Some(Carried {
                    result,
                    has_worked,
                    goes_again: smaller.is_some(),
                });
            }
            // It is smaller now: that it comes here again has an end.
            has_worked = true;
            self.carried += 1;
        }
    }

    async fn send_report(&mut self, job: &Job, report: &Rendered) -> TransactionResult {
        let is_of_smtputf8 = job.message.envelope.smtputf8;
        let mut envelope = report.envelope();
        envelope.smtputf8 |= planted(Bug::ReportsNeedSmtputf8) && is_of_smtputf8;
        let is_8bit = report.body_type == BodyType::EightBitMime;
        let bytes = report.wire.len() as u64;
        let transaction = Transaction::of_wire_form(&envelope, &[0], bytes, is_8bit);
        let transaction = transaction.counted(&report.wire);
        if let Err(unfit) = self.connection.begin(&transaction).await {
            return unfit;
        }
        let content = Content::Memory(&report.wire);
        loop {
            match self.connection.proceed().await {
                Point::SendBody => self.connection.send_body(&content).await,
                Point::Done(result) => return result,
            }
        }
    }

    /// `recipients` of the job, with what can be known of the size of its content.
    fn transaction<'a>(&self, job: &'a Job, recipients: &'a [u32]) -> Transaction<'a> {
        let wire_bytes = job.message.location.body_bytes();
        let envelope = &job.message.envelope;
        let transaction = Transaction::of_wire_form(envelope, recipients, wire_bytes, false);
        match &job.body {
            Some(body) if self.connection.may_be_too_small_for(&transaction) => {
                transaction.counted(body)
            }
            _ => transaction,
        }
    }
}
