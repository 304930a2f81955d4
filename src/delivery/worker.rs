//! One outbound connection as a task: opens it, carries jobs, waits idle, closes.

use super::settle::Session;
use super::{HopKey, Idle, Inner, Told};
use crate::handoff::job::Job;
use crate::io::clock;
use crate::io::runtime::{self, spawn};
use crate::message::{BodyType, TlsSummary};
use crate::remote::connection::{Connection, Content, OpenError, Point, Target};
use crate::remote::resolve::{Attempt, Host};
use crate::schedule::dsn::Rendered;
use crate::schedule::judge::{self, Event, Finding, Situation, Trouble, Verdict};
use crate::schedule::limits;
use crate::schedule::next_hop::{HopId, Refusal, Take};
use crate::schedule::settle::{After, indices, is_report};
use crate::schedule::tries::{Known, Tries, Try, Way};
use crate::smtp::client::{Cause, Transaction, TransactionResult};
use crate::smtp::reply::Stage;
use crate::time::Now;
use crate::tls::policy::Level;
use crate::tls::stream::StreamError;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Addresses tried for one connection, over all hosts of the hop, though none answers.
const SILENT_ADDRESSES_MAX: u32 = 10;

/// Addresses tried for one connection as long as that takes no longer than so many silent ones would.
const ADDRESSES_MAX: usize = 100;

/// Hosts that are waited for at a time while they answer QUIT and mail goes on to others; more are not waited for.
const FAREWELLS_MAX: usize = 64;

/// How often a connection that takes long to open asks whether others need its place.
const CROWD_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A wait for a connection that is given up after so long was one for a mute host.
const MUTE_AFTER: Duration = Duration::from_secs(2);

/// Whom a connection is with, for outcomes and log lines.
pub struct Peer {
    pub host: Box<str>,
    pub address: SocketAddr,
    /// Why there is no TLS; `None`: there is.
    pub plaintext: Option<Box<str>>,
}

/// How one try to open a connection ended.
enum Tried {
    Open(Box<Connection>, Peer),
    Failed(Finding),
}

/// How one try of an address ended.
enum Ended {
    Open(Box<Connection>),
    /// And plaintext is allowed there. Why, for the log.
    TlsFailed(String),
    Failed(Finding),
}

/// An address to try.
struct Candidate<'a> {
    attempt: Attempt<'a>,
    /// Why its TLS failed, a moment ago.
    tls_failure: Option<String>,
}

impl<'a> Candidate<'a> {
    fn new(attempt: Attempt<'a>) -> Self {
        Candidate {
            attempt,
            tls_failure: None,
        }
    }
}

fn open(tried: &Try<Candidate<'_>>, level: Level, connection: Box<Connection>) -> Tried {
    let Attempt { host, address } = tried.what.attempt;
    let peer = Peer {
        host: host.name.clone(),
        address,
        plaintext: why_plaintext(tried, level, &connection),
    };
    Tried::Open(connection, peer)
}

/// For whoever wonders why mail went out without TLS; `None` if it has TLS.
fn why_plaintext(
    tried: &Try<Candidate<'_>>,
    level: Level,
    connection: &Connection,
) -> Option<Box<str>> {
    if connection.tls().is_some() {
        return None;
    }
    if let Some(why) = &tried.what.tls_failure {
        return Some(why.as_str().into());
    }
    Some(match (tls_refused(connection), tried.way) {
        _ if !level.wants_tls() => "not wanted".into(),
        (Some(why), _) => why.into(),
        (None, Way::Usual) => "not offered".into(),
        (None, _) => "TLS failed before".into(),
    })
}

/// Remembers an address as mute if it is not heard of in time, also where the wait is given up.
struct Waiting<'a> {
    inner: &'a Inner,
    address: SocketAddr,
    since: Now,
}

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner, address: SocketAddr) -> Self {
        Waiting {
            inner,
            address,
            since: clock::now(),
        }
    }

    fn ended(self, in_silence: bool) {
        let mut mute = self.inner.mute.borrow_mut();
        match in_silence {
            true => mute.failed(self.address, clock::now()),
            false => mute.succeeded(&self.address),
        }
        drop(mute);
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = clock::now();
        if now.since(self.since) >= MUTE_AFTER {
            self.inner.mute.borrow_mut().failed(self.address, now);
        }
    }
}

impl Inner {
    /// The schedule wants one more connection to the hop.
    pub(super) fn open(self: &Rc<Self>, hop: HopId) {
        let this = self.clone();
        self.at_work.set(self.at_work.get() + 1);
        spawn(async move {
            let started = clock::now();
            let connecting = this.unless_crowded_out(hop, this.connect(hop, &[]));
            match this.unless_leaving(connecting).await {
                Some(Tried::Open(connection, peer)) => {
                    let took = clock::now().since(started);
                    this.schedule.borrow_mut().connected(hop, took);
                    this.serve(hop, *connection, peer, started).await;
                }
                Some(Tried::Failed(finding)) => this.connect_failed(hop, &finding, started),
                // Nobody asks the schedule any more, and the jobs are in the spool.
                None => {}
            }
            this.work_done();
            this.stir();
        });
    }

    /// Gives up a connection that takes long to open while other hops wait for its place.
    async fn unless_crowded_out(
        &self,
        hop: HopId,
        connecting: impl Future<Output = Tried>,
    ) -> Tried {
        let since = clock::now();
        let mut connecting = pin!(connecting);
        let mut patience = self.schedule.borrow().settings().crowded_wait_max;
        loop {
            tokio::select! {
                biased;
                tried = &mut connecting => return tried,
                () = runtime::sleep(patience) => {}
            }
            if self
                .schedule
                .borrow()
                .is_crowded_out(hop, since, clock::now())
            {
                return Tried::Failed(Finding::crowded_out());
            }
            patience = CROWD_LOOK_INTERVAL;
        }
    }

    fn connect_failed(&self, hop: HopId, finding: &Finding, started: Now) {
        self.log_connect_failed(hop, finding.diagnosis());
        self.context.metrics.connections_out_failed.increment();
        let mut schedule = self.schedule.borrow_mut();
        let now = clock::now();
        if let Some(word) = finding.of_hop() {
            schedule.context(hop).last.heard(word, now);
        }
        if finding.throttles() {
            schedule.refused(hop, Refusal::Connection, now);
        }
        schedule.connect_failed(hop, started, now);
    }

    /// Tries the hop's hosts in order of preference, and each address of a host in turn; plaintext at those
    /// whose TLS is broken comes after TLS at the others. `declined`: hosts that are left out.
    async fn connect(self: &Rc<Self>, hop: HopId, declined: &[Box<str>]) -> Tried {
        let (key, site) = {
            let mut schedule = self.schedule.borrow_mut();
            (
                schedule.key(hop).clone(),
                schedule.context(hop).site.clone(),
            )
        };
        let mut last = Finding::nobody_answered();
        let Some(site) = site else {
            return Tried::Failed(last);
        };
        let mut attempts = site.attempts(self.context.resolver.families(), self.random());
        attempts.retain(|attempt| !declined.contains(&attempt.host.name));
        // Those that are left out, or left over, may take the mail another time.
        let mut may_recover = !declined.is_empty() || attempts.len() > ADDRESSES_MAX;
        attempts.truncate(ADDRESSES_MAX);
        let patience = SILENT_ADDRESSES_MAX * self.context.remote.connect_timeout();
        let since = clock::now();
        let known = |attempt| (Candidate::new(attempt), self.known(&key, &attempt.address));
        let mut tries = Tries::new(attempts.into_iter().map(known));
        while let Some(tried) = tries.take() {
            let situation = Situation {
                more_hosts: tries.has_more(),
                may_recover,
                plaintext_allowed: key.level.allows_plaintext() && tried.way == Way::Usual,
                ..Situation::default()
            };
            match self.connect_address(&key, &tried, situation).await {
                Ended::Open(connection) if tries.may_have_tls() => match tls_refused(&connection) {
                    None => return open(&tried, key.level, connection),
                    Some(why) => {
                        self.take_leave(*connection);
                        self.tls_failed(&mut tries, tried, why);
                    }
                },
                Ended::Open(connection) => return open(&tried, key.level, connection),
                Ended::TlsFailed(why) => self.tls_failed(&mut tries, tried, why),
                Ended::Failed(failed) if failed.verdict() == Verdict::TryNextHost => {
                    may_recover |= !failed.host_refuses();
                    last = failed;
                }
                Ended::Failed(failed) => return Tried::Failed(failed),
            }
            if clock::now().since(since) >= patience {
                may_recover |= tries.has_more();
                tries.keep_only_plaintext();
            }
        }
        Tried::Failed(last.of_last_host())
    }

    fn known(&self, key: &HopKey, address: &SocketAddr) -> Known {
        let now = clock::now();
        Known {
            broken_tls: key.level.wants_tls()
                && key.level.allows_plaintext()
                && self.broken_tls.borrow().is_broken(address, now),
            mute: self.mute.borrow().is_broken(address, now),
        }
    }

    fn tls_failed<'a>(
        &self,
        tries: &mut Tries<Candidate<'a>>,
        mut tried: Try<Candidate<'a>>,
        why: String,
    ) {
        let Attempt { host, address } = tried.what.attempt;
        self.log_tls_failed(&host.name, address, &why);
        self.broken_tls.borrow_mut().failed(address, clock::now());
        tried.what.tls_failure = Some(why);
        tries.tls_failed(tried);
    }

    async fn connect_address(
        self: &Rc<Self>,
        key: &HopKey,
        tried: &Try<Candidate<'_>>,
        situation: Situation,
    ) -> Ended {
        let Attempt { host, address } = tried.what.attempt;
        if let Some(why) = &tried.what.tls_failure {
            self.log_fallback(&host.name, address, why);
        }
        let target = Target {
            site: key.site.as_str(),
            host: &host.name,
            address,
            level: key.level,
            try_tls: tried.way == Way::Usual,
        };
        let error = match self.open_address(&target).await {
            Ok(connection) => return Ended::Open(Box::new(connection)),
            Err(error) => error,
        };
        let finding = judge_opening(&error, &host.name, situation);
        match finding.verdict() {
            Verdict::TryPlaintext => Ended::TlsFailed(finding.into_diagnosis().text.into()),
            _ => Ended::Failed(finding),
        }
    }

    /// Opens a connection; if a resumed handshake fails, once more without the ticket.
    async fn open_address(self: &Rc<Self>, target: &Target<'_>) -> Result<Connection, OpenError> {
        let mut retried = false;
        loop {
            let waiting = Waiting::new(self, target.address);
            let opened = Connection::open(self.context.remote.clone(), target).await;
            waiting.ended(opened.as_ref().err().is_some_and(is_silence));
            match opened {
                Ok(connection) => {
                    self.opened(target.address, connection.tls());
                    return Ok(connection);
                }
                Err(OpenError::Tls(failure)) => {
                    self.context.metrics.handshakes_out_failed.increment();
                    if !failure.with_ticket || retried {
                        return Err(OpenError::Tls(failure));
                    }
                    retried = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn opened(&self, address: SocketAddr, tls: Option<&TlsSummary>) {
        self.context.metrics.connections_out.increment();
        if let Some(tls) = tls {
            self.broken_tls.borrow_mut().succeeded(&address);
            match tls.resumed {
                true => self.context.metrics.handshakes_out_resumed.increment(),
                false => self.context.metrics.handshakes_out_full.increment(),
            }
        }
    }

    /// Carries jobs until there is no more reason to keep the connection.
    async fn serve(
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
            ahead: None,
        };
        loop {
            let after = match worker.next() {
                Take::Job(job) => worker.carry(job).await,
                Take::Close => After::Close,
                Take::Wait { until } => match self.wait(hop, &mut worker.connection, until).await {
                    // The peer may have closed, or the time may have been up, just before: then
                    // the job is for another connection.
                    Some(Told::Work) if worker.connection.is_quiet().await => {
                        worker.has_rested = true;
                        After::GoOn
                    }
                    Some(_) => After::Close,
                    None => {
                        self.stir();
                        return worker.connection.quit().await;
                    }
                },
            };
            match after {
                After::GoOn => {}
                After::Close => {
                    self.schedule.borrow_mut().closed(hop);
                    self.stir();
                    return worker.connection.quit().await;
                }
                After::Broke => {
                    let mut schedule = self.schedule.borrow_mut();
                    schedule.broke(hop, worker.opened_at, clock::now());
                    drop(schedule);
                    return self.stir();
                }
            }
        }
    }

    /// Says QUIT, while whoever has no more use for the connection goes on.
    fn take_leave(self: &Rc<Self>, connection: Connection) {
        if self.farewells.get() >= FAREWELLS_MAX {
            return connection.leave();
        }
        let this = self.clone();
        self.at_work.set(self.at_work.get() + 1);
        self.farewells.set(self.farewells.get() + 1);
        spawn(async move {
            connection.quit().await;
            this.farewells.set(this.farewells.get() - 1);
            this.work_done();
        });
    }

    /// Waits idle until told what to do. `None`: time is up, the peer has ended the session or the
    /// drain has begun, and the schedule has been told.
    async fn wait(&self, hop: HopId, connection: &mut Connection, until: Now) -> Option<Told> {
        let idle = Rc::new(Idle::default());
        self.schedule
            .borrow_mut()
            .context(hop)
            .idle
            .push_back(idle.clone());
        self.stir();
        self.idle.set(self.idle.get() + 1);
        tokio::select! {
            biased;
            () = idle.notify.notified() => {}
            () = self.leave() => {}
            () = connection.wait_idle(until) => {}
        }
        self.idle.set(self.idle.get() - 1);
        if let Some(told) = idle.told.get() {
            return Some(told);
        }
        let mut schedule = self.schedule.borrow_mut();
        let waiting = &mut schedule.context(hop).idle;
        waiting.retain(|other| !Rc::ptr_eq(other, &idle));
        schedule.idle_closed(hop);
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
    ahead: Option<Ahead>,
}

/// How a job went.
struct Carried {
    result: TransactionResult,
    /// The session had worked before.
    has_worked: bool,
    /// It is a report, and has become smaller: it goes again.
    goes_again: bool,
}

/// A job that was taken while the one before was under way.
struct Ahead {
    job: Job,
    /// Its commands have been sent; else it is begun in its turn.
    begun: bool,
    started: Now,
}

impl Worker {
    fn may_carry_more(&self) -> bool {
        let most = self.inner.context.transactions_per_connection;
        let most_here = self.connection.limits().mail_max.unwrap_or(most);
        self.carried < most.min(most_here) && !self.inner.draining.get()
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
            self.inner.stir();
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
        self.inner.stir_if_wanted(self.hop, now);
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
        after
    }

    /// One transaction, and what its verdicts mean for recipients, hop and connection.
    async fn carry_one(&mut self, job: Job, begun: bool, started: Now) -> After {
        let mut job = match begun {
            true => job,
            false => self.fitting(job),
        };
        let mut carried = self.transact(&mut job, begun).await;
        let mut declined = Vec::new();
        while let Some(refused) = &carried {
            if refused.goes_again {
                break;
            }
            if !judge::is_of_session(&refused.result, refused.has_worked) {
                if !judge::is_for_next_host(&refused.result) {
                    break;
                }
                declined.push(self.peer.host.clone());
            }
            if !self.goes_over_new_connection(&declined).await {
                break;
            }
            job = self.fitting(job);
            carried = self.transact(&mut job, false).await;
        }
        let Some(Carried {
            result,
            has_worked,
            goes_again,
        }) = carried
        else {
            self.inner.forget_report(job);
            return After::GoOn;
        };
        if let Some(reply) = self.connection.out_of_step() {
            self.inner.log_out_of_step(&self.peer, reply);
        }
        let content_error = self.connection.take_content_error();
        let session = Session {
            connection: &self.connection,
            peer: &self.peer,
            started,
            has_worked,
            goes_again,
        };
        match content_error {
            None => self.inner.settle(self.hop, job, result, &session),
            Some(error) => self
                .inner
                .settle_without_content(job, &result, &error, &session),
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

    /// After a session would not begin a transaction: goes on with a new connection, to another host than those that have
    /// declined (RFC 5321 section 5.1). False: there is none that can be reached, and this connection
    /// is as it was.
    async fn goes_over_new_connection(&mut self, declined: &[Box<str>]) -> bool {
        let has_other = {
            let mut schedule = self.inner.schedule.borrow_mut();
            let site = schedule.context(self.hop).site.as_ref();
            let is_other = |host: &Host| !declined.contains(&host.name);
            site.is_some_and(|site| site.hosts.iter().any(is_other))
        };
        if !has_other {
            return false;
        }
        let opened_at = clock::now();
        let connecting = self.inner.connect(self.hop, declined);
        match self.inner.unless_leaving(connecting).await {
            Some(Tried::Open(connection, peer)) => {
                let before = std::mem::replace(&mut self.connection, *connection);
                self.peer = peer;
                self.opened_at = opened_at;
                self.carried = 0;
                self.has_rested = false;
                self.inner.take_leave(before);
                true
            }
            Some(Tried::Failed(finding)) => {
                self.inner.log_connect_failed(self.hop, finding.diagnosis());
                false
            }
            None => false,
        }
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
                place = job.message.residence.place();
                Content::Spool(&place)
            }
        };
        loop {
            match self.connection.proceed().await {
                Point::SendBody => self.send_body(&content).await,
                Point::Done(result) => return result,
            }
        }
    }

    /// Sends the content, and the commands of the next job with it if there is one.
    async fn send_body(&mut self, content: &Content<'_>) {
        let next = match self.connection.pipelines() && self.may_carry_more() {
            true => {
                let mut schedule = self.inner.schedule.borrow_mut();
                schedule.take_ahead(self.hop, clock::now())
            }
            false => None,
        };
        let Some(job) = next else {
            self.connection.send_body(content, None).await;
            return;
        };
        let job = self.fitting(job);
        let recipients = indices(&job.recipients);
        let ahead = self.transaction(&job, &recipients);
        let ahead = (!is_report(&job.recipients)).then_some(&ahead);
        let begun = self.connection.send_body(content, ahead).await;
        self.ahead = Some(Ahead {
            job,
            begun,
            started: clock::now(),
        });
    }

    /// `None`: there is nobody to report to. A report that is refused for what it returns of the
    /// original, or for its size, goes out again with less: here, or over another connection.
    async fn carry_report(&mut self, job: &mut Job, mut has_worked: bool) -> Option<Carried> {
        loop {
            let taker = self.connection.taker(job.course.original);
            let report = self.inner.render_report(job, taker).await?;
            let result = self.send_report(&report).await;
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

    async fn send_report(&mut self, report: &Rendered) -> TransactionResult {
        let envelope = report.envelope();
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
                Point::SendBody => _ = self.connection.send_body(&content, None).await,
                Point::Done(result) => return result,
            }
        }
    }

    /// `recipients` of the job, with what can be known of the size of its content.
    fn transaction<'a>(&self, job: &'a Job, recipients: &'a [u32]) -> Transaction<'a> {
        let wire_bytes = job.message.residence.body_bytes();
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

/// What a failed opening means, for the next try and for those that wait.
fn judge_opening(error: &OpenError, host: &str, situation: Situation) -> Finding {
    let (stage, event) = match error {
        OpenError::Unreachable(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            (Stage::Connect, Event::Trouble(Trouble::TimedOut))
        }
        OpenError::Unreachable(_) => (Stage::Connect, Event::Trouble(Trouble::Unreachable)),
        OpenError::Tls(failure) => {
            let trouble = handshake_trouble(&failure.error);
            (Stage::Handshake, Event::Trouble(trouble))
        }
        OpenError::Untrusted(_) => (Stage::Handshake, Event::Trouble(Trouble::TlsUntrusted)),
        OpenError::Session(failure) => (failure.stage, judge::event_of_cause(&failure.cause)),
    };
    let finding = Finding::of(stage, event, situation, host);
    match (error, detail_of(error)) {
        (OpenError::Tls(failure), _) => finding.told(&failure.to_string()),
        (_, Some(detail)) => finding.remarked(&detail),
        (_, None) => finding,
    }
}

/// The host did not answer in time, before a word of it was heard.
fn is_silence(error: &OpenError) -> bool {
    match error {
        OpenError::Unreachable(error) => error.kind() == std::io::ErrorKind::TimedOut,
        OpenError::Session(failure) => {
            failure.stage == Stage::Greeting && failure.cause == Cause::TimedOut
        }
        _ => false,
    }
}

/// Why a connection that could have TLS has none, though STARTTLS was offered.
fn tls_refused(connection: &Connection) -> Option<String> {
    let reply = connection.starttls_refusal()?;
    Some(format!("STARTTLS was refused: {}", reply.one_line()))
}

fn handshake_trouble(error: &StreamError) -> Trouble {
    match error {
        StreamError::TimedOut => Trouble::TimedOut,
        StreamError::Gone(_) => Trouble::PeerClosed,
        StreamError::Tls(_) => Trouble::HandshakeFailed,
    }
}

fn detail_of(error: &OpenError) -> Option<String> {
    match error {
        OpenError::Unreachable(error) => Some(error.to_string()),
        OpenError::Untrusted(tls) => Some(format!("certificate {}", tls.verdict)),
        OpenError::Tls(_) | OpenError::Session(_) => None,
    }
}
