//! One outbound connection as a task: opens it, carries jobs, waits idle, closes.

use super::ahead::AheadPlace;
use super::settle::Session;
use super::{HopKey, Idle, Inner, TlsPeer, Told};
use crate::handoff::job::Job;
use crate::io::clock;
use crate::io::runtime::{self, spawn};
use crate::message::{BodyType, TlsSummary};
use crate::remote::connection::{Connection, Content, OpenError, Point, Target};
use crate::remote::resolve::{Attempt, Host};
use crate::schedule::ahead::Ahead;
use crate::schedule::dsn::Rendered;
use crate::schedule::judge::{
    self, Echoes, Event, Fallback, Finding, GoesOn, Situation, Trouble, Verdict,
};
use crate::schedule::limits;
use crate::schedule::next_hop::{HopId, Refusal, Take};
use crate::schedule::settle::parts::{Part, part};
use crate::schedule::settle::{self, After, FURTHER_CONNECTIONS_MAX, Over, indices, is_report};
use crate::schedule::tries::{Known, Tries, Try, Way};
use crate::smtp::client::{Cause, RecipientVerdict, Transaction, TransactionResult};
use crate::smtp::reply::{Reply, Stage};
use crate::text;
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

/// How long a session in plaintext goes on with a host that was too busy for TLS, which is not remembered.
const BUSY_FALLBACK_MAX: Duration = Duration::from_secs(30);

/// Octets of a reason that are remembered.
const REASON_BYTES_MAX: usize = 200;

/// Whom a connection is with, for outcomes and log lines.
pub struct Peer {
    pub host: Box<str>,
    /// Of its MX record.
    preference: u16,
    pub address: SocketAddr,
    /// Why there is no TLS; `None`: there is.
    pub plaintext: Option<Box<str>>,
    /// It offers TLS, which did not work.
    fallback: Option<PlaintextFallback>,
    /// A host that comes before it, and that was there, was left out.
    is_substitute: bool,
    /// Such a host was asked just before.
    is_after_busy: bool,
    /// Hosts that come before it whose TLS does not work: not yet asked in plaintext.
    better: Vec<Better>,
}

#[derive(Clone, Copy)]
struct PlaintextFallback {
    which: Fallback,
    /// `None`: as long as the failure is remembered.
    until: Option<Now>,
}

struct Better {
    host: Host,
    address: SocketAddr,
    trouble: TlsTrouble,
}

/// Why TLS with a host does not work.
#[derive(Clone)]
struct TlsTrouble {
    why: Rc<str>,
    /// It was found out before, and TLS was not tried again.
    is_remembered: bool,
    /// 4yz to STARTTLS: it may work the next time, so it is not remembered.
    is_busy: bool,
}

impl Peer {
    fn tls_peer(&self) -> TlsPeer {
        (self.address, self.host.clone())
    }

    /// Others come before it.
    fn before(mut self, better: Vec<Better>) -> Self {
        self.is_substitute = !better.is_empty();
        self.better = better;
        self
    }

    /// The best host that was there when this connection was opened, and would not talk, was of that preference.
    fn behind(mut self, busy: Option<u16>) -> Self {
        self.is_after_busy = busy.is_some_and(|preference| preference < self.preference);
        self.is_substitute |= self.is_after_busy;
        self
    }
}

impl TlsTrouble {
    fn said(&self) -> String {
        match (self.is_remembered, self.why.strip_prefix("TLS failed ")) {
            (false, _) => self.why.to_string(),
            (true, Some(how)) => format!("TLS failed before, {how}"),
            (true, None) => format!("TLS failed before: {}", self.why),
        }
    }
}

/// How one try to open a connection ended.
enum Tried {
    Open(Box<Connection>, Peer),
    Failed(Finding),
}

/// How one try of an address ended.
enum Ended {
    Open(Box<Connection>),
    /// And plaintext is allowed there.
    TlsFailed(TlsTrouble),
    Failed(Failed),
}

/// How a host failed that has no session with us.
struct Failed {
    finding: Finding,
    /// The connection stood.
    is_reached: bool,
}

/// What is said of a hop after several of its hosts have failed: what the most preferred one did.
#[derive(Default)]
struct MostTelling(Option<Failed>);

impl MostTelling {
    /// Of one host's addresses the last counts, unless it cannot be reached and one before it could.
    fn hear(&mut self, failed: Failed) {
        let is_kept = |before: &Failed| {
            before.finding.diagnosis().remote_host != failed.finding.diagnosis().remote_host
                || (before.is_reached && !failed.is_reached)
        };
        if !self.0.as_ref().is_some_and(is_kept) {
            self.0 = Some(failed);
        }
    }

    fn finding(self) -> Finding {
        let failed = self.0.map(|failed| failed.finding);
        failed.unwrap_or_else(Finding::nobody_answered)
    }
}

/// An address to try.
struct Candidate<'a> {
    attempt: Attempt<'a>,
    trouble: Option<TlsTrouble>,
}

/// What becomes of a session in plaintext when other addresses may do better.
enum Aside {
    TlsFailed(TlsTrouble),
    NotOffered,
}

/// Whether a host that has no TLS waits until others were asked. One that refused it does where another may have it; one that does
/// not offer it has its turn among those in plaintext.
fn put_aside(
    tries: &Tries<Candidate<'_>>,
    tried: &Try<Candidate<'_>>,
    connection: &Connection,
) -> Option<Aside> {
    if tried.way == Way::Plaintext || connection.tls().is_some() {
        return None;
    }
    let is_behind = tries.plaintext_before(tried).next().is_some();
    match tls_refused(connection) {
        Some(trouble) if is_behind || tries.may_have_tls() => Some(Aside::TlsFailed(trouble)),
        None if is_behind => Some(Aside::NotOffered),
        _ => None,
    }
}

/// The host may be less preferred than those whose TLS does not work; they are asked before it is believed.
fn better_than(tries: &Tries<Candidate<'_>>, tried: &Try<Candidate<'_>>) -> Vec<Better> {
    let preference = tried.what.attempt.host.preference;
    let better = |candidate: &Candidate<'_>| {
        let Attempt { host, address } = candidate.attempt;
        let trouble = candidate.trouble.clone()?;
        (host.preference < preference).then(|| Better {
            host: host.clone(),
            address,
            trouble,
        })
    };
    tries.plaintext_before(tried).filter_map(better).collect()
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
            true => mute.failed(self.address, (), clock::now()),
            false => mute.forget(&self.address),
        }
        drop(mute);
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = clock::now();
        if now.since(self.since) >= MUTE_AFTER {
            self.inner.mute.borrow_mut().failed(self.address, (), now);
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
    /// whose TLS is broken comes after TLS at the others. `declined`: addresses that are left out.
    async fn connect(self: &Rc<Self>, hop: HopId, declined: &[SocketAddr]) -> Tried {
        let (key, site) = {
            let mut schedule = self.schedule.borrow_mut();
            (
                schedule.key(hop).clone(),
                schedule.context(hop).site.clone(),
            )
        };
        let mut told = MostTelling::default();
        let Some(site) = site else {
            return Tried::Failed(told.finding());
        };
        let mut attempts = site.attempts(self.context.resolver.families(), self.random());
        attempts.retain(|attempt| !declined.contains(&attempt.address));
        self.put_last_where_content_got_lost(&mut attempts);
        // Those that are left out, or left over, may take the mail another time.
        let mut may_recover = !declined.is_empty() || attempts.len() > ADDRESSES_MAX;
        attempts.truncate(ADDRESSES_MAX);
        let patience = SILENT_ADDRESSES_MAX * self.context.remote.connect_timeout();
        let since = clock::now();
        // Of the best host that was there, and would not talk today.
        let mut busy: Option<u16> = None;
        let mut tries = Tries::new(attempts.into_iter().map(|it| self.candidate(&key, it)));
        while let Some(tried) = tries.take() {
            let situation = Situation {
                more_hosts: tries.has_more(),
                may_recover,
                plaintext_allowed: key.level.allows_plaintext() && tried.way == Way::Usual,
                ..Situation::default()
            };
            match self
                .connect_address(&key, &tried.what, tried.way, situation)
                .await
            {
                Ended::Open(connection) => match put_aside(&tries, &tried, &connection) {
                    None => {
                        let peer = self.peer(&tried.what, tried.way, key.level, &connection);
                        let better = better_than(&tries, &tried);
                        return Tried::Open(connection, peer.before(better).behind(busy));
                    }
                    Some(aside) => {
                        self.take_leave(*connection);
                        match aside {
                            Aside::TlsFailed(trouble) => {
                                self.tls_failed(&mut tries, tried, trouble)
                            }
                            Aside::NotOffered => tries.put_aside(tried),
                        }
                    }
                },
                Ended::TlsFailed(trouble) => self.tls_failed(&mut tries, tried, trouble),
                Ended::Failed(failed) if failed.finding.verdict() == Verdict::TryNextHost => {
                    may_recover |= !failed.finding.host_refuses();
                    if failed.is_reached && !failed.finding.host_refuses() {
                        let preference = tried.what.attempt.host.preference;
                        busy = busy.into_iter().chain([preference]).min();
                    }
                    let address = tried.what.attempt.address;
                    self.log_host_failed(address, failed.finding.diagnosis());
                    told.hear(failed);
                }
                Ended::Failed(failed) if failed.finding.verdict() == Verdict::Defer => {
                    let address = tried.what.attempt.address;
                    if told.0.is_some() {
                        self.log_host_failed(address, failed.finding.diagnosis());
                    }
                    told.hear(failed);
                    break;
                }
                Ended::Failed(failed) => return Tried::Failed(failed.finding),
            }
            if clock::now().since(since) >= patience {
                may_recover |= tries.has_more();
                tries.keep_only_plaintext();
            }
        }
        Tried::Failed(told.finding().of_last_host())
    }

    /// A path may take commands and no content. Over another address of the host there is another path.
    fn put_last_where_content_got_lost(&self, attempts: &mut [Attempt<'_>]) {
        let (memory, now) = (self.content_lost.borrow(), clock::now());
        let of_host = attempts.chunk_by_mut(|one, other| std::ptr::eq(one.host, other.host));
        for attempts in of_host.filter(|it| it.len() > 1) {
            attempts.sort_by_key(|it| memory.has_failed(&it.address, now));
        }
    }

    fn candidate<'a>(&self, key: &HopKey, attempt: Attempt<'a>) -> (Candidate<'a>, Known) {
        let now = clock::now();
        let may_do_without = key.level.wants_tls() && key.level.allows_plaintext();
        let trouble = may_do_without
            .then(|| self.remembered_trouble(attempt, now))
            .flatten();
        let known = Known {
            broken_tls: trouble.is_some(),
            mute: self.mute.borrow().has_failed(&attempt.address, now),
        };
        (Candidate { attempt, trouble }, known)
    }

    fn remembered_trouble(&self, attempt: Attempt<'_>, now: Now) -> Option<TlsTrouble> {
        let tls_peer = (attempt.address, attempt.host.name.clone());
        let memory = self.broken_tls.borrow();
        memory.why(&tls_peer, now).map(|why| TlsTrouble {
            why: why.clone(),
            is_remembered: true,
            is_busy: false,
        })
    }

    fn tls_failed<'a>(
        &self,
        tries: &mut Tries<Candidate<'a>>,
        mut tried: Try<Candidate<'a>>,
        trouble: TlsTrouble,
    ) {
        let Attempt { host, address } = tried.what.attempt;
        self.log_tls_failed(&host.name, address, &trouble.why);
        if !trouble.is_busy {
            let why = text::front(&trouble.why, REASON_BYTES_MAX);
            let tls_peer = (address, host.name.clone());
            let mut memory = self.broken_tls.borrow_mut();
            memory.failed(tls_peer, why.into(), clock::now());
        }
        tried.what.trouble = Some(trouble);
        tries.put_aside(tried);
    }

    /// A host demands TLS of a session that has none because TLS did not work: whatever is remembered, TLS comes first again.
    pub(super) fn tls_demanded(&self, peer: &Peer, reply: &Reply) {
        self.log_tls_demanded(peer, reply);
        self.broken_tls.borrow_mut().forget(&peer.tls_peer());
    }

    fn peer(
        &self,
        candidate: &Candidate<'_>,
        way: Way,
        level: Level,
        connection: &Connection,
    ) -> Peer {
        let Attempt { host, address } = candidate.attempt;
        let trouble = match connection.tls() {
            Some(_) => None,
            None => candidate
                .trouble
                .clone()
                .or_else(|| tls_refused(connection)),
        };
        let plaintext = match (&trouble, connection.tls()) {
            (_, Some(_)) => None,
            (Some(trouble), None) => Some(trouble.said().into()),
            (None, None) if !level.wants_tls() => Some("not wanted".into()),
            (None, None) => Some("not offered".into()),
        };
        Peer {
            host: host.name.clone(),
            preference: host.preference,
            address,
            plaintext,
            fallback: trouble.map(|trouble| self.fallback(&trouble, way)),
            is_substitute: false,
            is_after_busy: false,
            better: Vec::new(),
        }
    }

    /// A host that refused STARTTLS in this very session is as one that is too busy for it: nothing is remembered.
    fn fallback(&self, trouble: &TlsTrouble, way: Way) -> PlaintextFallback {
        let span = BUSY_FALLBACK_MAX.min(self.context.settings.broken_tls_remembered);
        let is_brief = trouble.is_busy || way == Way::Usual;
        PlaintextFallback {
            which: match trouble.is_remembered {
                true => Fallback::Remembered,
                false => Fallback::Now,
            },
            until: is_brief.then(|| clock::now() + span),
        }
    }

    async fn connect_address(
        self: &Rc<Self>,
        key: &HopKey,
        candidate: &Candidate<'_>,
        way: Way,
        situation: Situation,
    ) -> Ended {
        let Attempt { host, address } = candidate.attempt;
        if let Some(trouble) = &candidate.trouble
            && !trouble.is_remembered
        {
            self.log_fallback(&host.name, address, &trouble.why);
        }
        let target = Target {
            site: key.site.as_str(),
            host: &host.name,
            address,
            level: key.level,
            try_tls: way == Way::Usual,
        };
        let error = match self.open_address(&target).await {
            Ok(connection) => return Ended::Open(Box::new(connection)),
            Err(error) => error,
        };
        let fallback = candidate
            .trouble
            .as_ref()
            .map(|it| self.fallback(it, way).which);
        let situation = Situation {
            fallback,
            ..situation
        };
        if fallback.is_some() && demands_tls(&error) {
            let tls_peer = (address, host.name.clone());
            self.broken_tls.borrow_mut().forget(&tls_peer);
        }
        let finding = judge_opening(&error, &host.name, situation);
        match finding.verdict() {
            Verdict::TryPlaintext => Ended::TlsFailed(TlsTrouble {
                why: Rc::from(finding.into_diagnosis().text),
                is_remembered: false,
                is_busy: is_busy(&error),
            }),
            _ => Ended::Failed(Failed {
                finding,
                is_reached: !matches!(error, OpenError::Unreachable(_)),
            }),
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
                    self.opened(target, connection.tls());
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

    fn opened(&self, target: &Target<'_>, tls: Option<&TlsSummary>) {
        self.context.metrics.connections_out.increment();
        if let Some(tls) = tls {
            let tls_peer = (target.address, target.host.into());
            self.broken_tls.borrow_mut().forget(&tls_peer);
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
        let goes_elsewhere = self.carried > 0 && (self.is_detour || self.falls_back_no_more());
        self.carried < most.min(most_here) && !self.inner.draining.get() && !goes_elsewhere
    }

    /// The session is in plaintext, and TLS is to be tried again by now.
    fn falls_back_no_more(&self) -> bool {
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
        let session = Session {
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
                trouble: Some(trouble.clone()),
            };
            let way = Way::Plaintext;
            let inner = self.inner.clone();
            let connecting = inner.connect_address(&key, &candidate, way, Situation::default());
            match inner.unless_leaving(connecting).await {
                Some(Ended::Open(connection)) => {
                    let peer = inner.peer(&candidate, way, key.level, &connection);
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
        match self.inner.unless_leaving(connecting).await {
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
        self.inner.take_leave(before);
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

    /// Sends the content, and the commands of the next job with its end if there is one.
    async fn send_body(&mut self, content: &Content<'_>) {
        let Some(last) = self.connection.send_most(content).await else {
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
                Point::SendBody => self.connection.send_body(&content).await,
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
fn tls_refused(connection: &Connection) -> Option<TlsTrouble> {
    let reply = connection.starttls_refusal()?;
    Some(TlsTrouble {
        why: format!("STARTTLS was refused: {}", reply.one_line()).into(),
        is_remembered: false,
        is_busy: reply.is_transient(),
    })
}

/// 421 to STARTTLS; after other replies to it the session goes on.
fn is_busy(error: &OpenError) -> bool {
    matches!(error, OpenError::Session(failure) if matches!(failure.cause, Cause::Refused(_)))
}

fn demands_tls(error: &OpenError) -> bool {
    let OpenError::Session(failure) = error else {
        return false;
    };
    let reply = failure.cause.reply();
    reply.is_some_and(|reply| judge::demands_tls(failure.stage, reply, Echoes::NONE))
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
        OpenError::Session(failure) => match &failure.cause {
            Cause::TlsUnavailable(reply) => reply.as_ref().map(|reply| reply.one_line()),
            _ => None,
        },
        OpenError::Tls(_) => None,
    }
}
