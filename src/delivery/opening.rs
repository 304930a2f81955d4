//! A connection to one of a hop's hosts: which addresses are tried, in which order, with TLS or without.

use super::peer::{Better, Peer, Plaintext, PlaintextFallback, TlsFault, TlsTrouble};
use super::{HopKey, Inner};
use crate::io::clock;
use crate::io::runtime::{self, spawn};
use crate::io::{Bug, planted};
use crate::message::TlsSummary;
use crate::remote::connection::{Connection, OpenError, Target};
use crate::remote::resolve::Attempt;
use crate::remote::terms;
use crate::schedule::judge::{self, Echoes, Event, Fallback, Finding, Situation, Trouble, Verdict};
use crate::schedule::next_hop::{HopId, Refusal};
use crate::schedule::tries::{Known, Tries, Try, Way};
use crate::smtp::client::Cause;
use crate::smtp::reply::{Reply, Stage};
use crate::time::Now;
use crate::tls::stream::StreamError;
use crate::tls::terms::Terms;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Addresses tried for one connection, over all hosts of the hop, though none answers.
const SILENT_ADDRESSES_MAX: u32 = 10;

/// Addresses tried for one connection as long as that takes no longer than so many silent ones would.
const ADDRESSES_MAX: usize = 100;

/// How long a session in plaintext goes on with a host that was too busy for TLS, which is not remembered.
const BUSY_FALLBACK_MAX: Duration = Duration::from_secs(30);

/// Octets of a reason that are remembered.
const REASON_BYTES_MAX: usize = 200;

/// How often a connection that takes long to open asks whether others need its place.
const CROWD_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A wait for a connection that is given up after so long was one for a mute host.
const MUTE_AFTER: Duration = Duration::from_secs(2);

/// How one try to open a connection ended.
pub(super) enum Tried {
    Open(Box<Connection>, Peer),
    Failed(Finding),
}

/// How one try of an address ended.
pub(super) enum Ended {
    Open(Box<Connection>),
    /// And plaintext is allowed there.
    TlsFailed(TlsTrouble),
    Failed(Failed),
}

/// How a host failed that has no session with us.
pub(super) struct Failed {
    pub(super) error: OpenError,
    pub(super) finding: Finding,
}

impl Failed {
    /// The connection stood.
    fn is_reached(&self) -> bool {
        !matches!(self.error, OpenError::Unreachable(_))
    }
}

/// What is said of a hop after several of its hosts have failed: what the most preferred one did.
#[derive(Default)]
struct MostRelevant {
    failed: Option<Failed>,
    /// The preference of the best host that was there, and would not talk today.
    busy: Option<u16>,
}

impl MostRelevant {
    /// Of one host's addresses the last counts, unless it cannot be reached and one before it could.
    fn note(&mut self, failed: Failed, preference: u16) {
        if failed.is_reached() && !failed.finding.host_refuses() {
            self.busy = self.busy.into_iter().chain([preference]).min();
        }
        let is_kept = |before: &Failed| {
            before.finding.diagnosis().remote_host != failed.finding.diagnosis().remote_host
                || (before.is_reached() && !failed.is_reached())
        };
        if !self.failed.as_ref().is_some_and(is_kept) {
            self.failed = Some(failed);
        }
    }

    fn finding(self) -> Finding {
        let failed = self.failed.map(|failed| failed.finding);
        failed.unwrap_or_else(Finding::nobody_answered)
    }
}

/// An address to try.
pub(super) struct Candidate<'a> {
    pub(super) attempt: Attempt<'a>,
    pub(super) terms: Terms<'a>,
    pub(super) trouble: Option<TlsTrouble>,
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
            match this.unless_draining(connecting).await {
                Some(Tried::Open(connection, peer)) => {
                    let took = clock::now().since(started);
                    this.schedule.borrow_mut().connected(hop, took);
                    this.serve(hop, *connection, peer, started).await;
                }
                Some(Tried::Failed(finding)) => {
                    if planted(Bug::HopsTriedThrice) {
                        let _ = this.connect(hop, &[]).await;
                        let _ = this.connect(hop, &[]).await;
                    }
                    this.connect_failed(hop, &finding, started);
                }
                // Nobody asks the schedule any more, and the jobs are in the spool.
                None => {}
            }
            this.work_done();
            this.wake_scheduler();
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
        self.context.metrics.connections_out_failed.increment();
        let mut schedule = self.schedule.borrow_mut();
        let now = clock::now();
        if let Some(word) = finding.of_hop() {
            schedule.context(hop).last.heard(word, now);
        }
        if finding.throttles() {
            schedule.refused(hop, Refusal::Connection, now);
        }
        if !planted(Bug::WindowsKept) {
            schedule.connect_failed(hop, started, now);
        }
        drop(schedule);
        self.log_connect_failed(hop, finding.diagnosis());
    }

    /// Tries the hop's hosts in order of preference, and each address of a host in turn; plaintext at those
    /// whose TLS is broken comes after TLS at the others. `declined`: addresses that are left out.
    pub(super) async fn connect(self: &Rc<Self>, hop: HopId, declined: &[SocketAddr]) -> Tried {
        let key = self.schedule.borrow().key(hop).clone();
        let site = self.schedule.borrow_mut().context(hop).site.clone();
        let mut told = MostRelevant::default();
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
        let mut tries = Tries::new(self.candidates(&key, attempts).await);
        while let Some(tried) = tries.take() {
            let situation = Situation {
                more_hosts: tries.has_more(),
                may_recover,
                plaintext_allowed: tried.what.terms.level.allows_plaintext()
                    && tried.way == Way::Usual,
                ..Situation::default()
            };
            match self
                .connect_address(&key, &tried.what, tried.way, situation)
                .await
            {
                Ended::Open(connection) => match put_aside(&tries, &tried, &connection) {
                    None => {
                        let peer = self.peer(&tried.what, tried.way, &connection);
                        let better = better_than(&tries, &tried);
                        return Tried::Open(connection, peer.before(better).behind(told.busy));
                    }
                    Some(aside) => {
                        self.quit_in_background(*connection);
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
                    let Attempt { host, address } = tried.what.attempt;
                    self.log_host_failed(address, failed.finding.diagnosis());
                    told.note(failed, host.preference);
                }
                Ended::Failed(failed) if failed.finding.verdict() == Verdict::Defer => {
                    let Attempt { host, address } = tried.what.attempt;
                    if told.failed.is_some() {
                        self.log_host_failed(address, failed.finding.diagnosis());
                    }
                    told.note(failed, host.preference);
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

    /// Each address with the terms of its host, and what is known of it.
    async fn candidates<'a>(
        &self,
        key: &HopKey,
        attempts: Vec<Attempt<'a>>,
    ) -> Vec<(Candidate<'a>, Known)> {
        let mut candidates = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            let terms = terms::of_host(&key.demand, attempt.host).await;
            candidates.push(self.candidate(attempt, terms));
        }
        candidates
    }

    fn candidate<'a>(&self, attempt: Attempt<'a>, terms: Terms<'a>) -> (Candidate<'a>, Known) {
        let now = clock::now();
        let trouble = terms
            .may_fall_back()
            .then(|| self.remembered_trouble(attempt, now))
            .flatten();
        let known = Known {
            broken_tls: trouble.is_some(),
            mute: self.mute.borrow().has_failed(&attempt.address, now),
        };
        let candidate = Candidate {
            attempt,
            terms,
            trouble,
        };
        (candidate, known)
    }

    fn remembered_trouble(&self, attempt: Attempt<'_>, now: Now) -> Option<TlsTrouble> {
        let tls_peer = (attempt.address, attempt.host.name.clone());
        let memory = self.broken_tls.borrow();
        memory.why(&tls_peer, now).map(|fault| TlsTrouble {
            fault: fault.clone(),
            is_remembered: true,
        })
    }

    fn tls_failed<'a>(
        &self,
        tries: &mut Tries<Candidate<'a>>,
        mut tried: Try<Candidate<'a>>,
        trouble: TlsTrouble,
    ) {
        let Attempt { host, address } = tried.what.attempt;
        self.log_tls_failed(&host.name, address, &trouble.fault);
        if !trouble.fault.is_for_now() {
            let fault = trouble.fault.in_brief(REASON_BYTES_MAX);
            let tls_peer = (address, host.name.clone());
            let mut memory = self.broken_tls.borrow_mut();
            memory.failed(tls_peer, fault, clock::now());
        }
        tried.what.trouble = Some(trouble);
        tries.put_aside(tried);
    }

    /// A host demands TLS of a session that has none because TLS did not work: whatever is remembered, TLS comes first again.
    pub(super) fn tls_demanded(&self, peer: &Peer, reply: &Reply) {
        self.log_tls_demanded(peer, reply);
        self.broken_tls.borrow_mut().forget(&peer.tls_peer());
    }

    pub(super) fn peer(
        &self,
        candidate: &Candidate<'_>,
        way: Way,
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
            (Some(trouble), None) => Some(Plaintext::Trouble(trouble.clone())),
            (None, None) if !candidate.terms.level.wants_tls() => Some(Plaintext::NotWanted),
            (None, None) => Some(Plaintext::NotOffered),
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
        let is_brief = trouble.fault.is_for_now() || way == Way::Usual;
        PlaintextFallback {
            which: match trouble.is_remembered {
                true => Fallback::Remembered,
                false => Fallback::Now,
            },
            until: is_brief.then(|| clock::now() + span),
        }
    }

    pub(super) async fn connect_address(
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
            self.log_fallback(&host.name, address, &trouble.fault);
        }
        let target = Target {
            site: key.site.as_str(),
            host: &host.name,
            address,
            terms: candidate.terms,
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
                fault: tls_fault(&error, finding),
                is_remembered: false,
            }),
            _ => Ended::Failed(Failed { error, finding }),
        }
    }

    /// Opens a connection; if a resumed handshake fails, once more without the ticket.
    async fn open_address(self: &Rc<Self>, target: &Target<'_>) -> Result<Connection, OpenError> {
        let mut retried = false;
        loop {
            let waiting = Waiting::new(self, target.address);
            let opened = Connection::open(self.context.remote.clone(), target).await;
            waiting.ended(opened.as_ref().err().is_some_and(is_silence));
            self.attempt_ended(target, opened.as_ref());
            match opened {
                Err(OpenError::Tls(failure)) if failure.with_ticket && !retried => retried = true,
                opened => return opened,
            }
        }
    }

    /// Each attempt at an address ends here, with all that is known of it: on what terms, and what became of it.
    fn attempt_ended(&self, target: &Target<'_>, opened: Result<&Connection, &OpenError>) {
        match opened {
            Ok(connection) => self.opened(target, connection.tls()),
            Err(OpenError::Tls(_)) => self.context.metrics.handshakes_out_failed.increment(),
            Err(_) => {}
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
        (_, Some(detail)) => finding.with_remark(&detail),
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
        fault: TlsFault::StartTls {
            why: format!("STARTTLS was refused: {}", reply.one_line()).into(),
            for_now: reply.is_transient(),
        },
        is_remembered: false,
    })
}

/// Of an attempt after which plaintext is tried.
fn tls_fault(error: &OpenError, finding: Finding) -> TlsFault {
    match error {
        OpenError::Tls(failure) => TlsFault::Handshake {
            how: failure.how().into(),
        },
        error => TlsFault::StartTls {
            why: finding.into_diagnosis().text.into(),
            for_now: is_busy(error),
        },
    }
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
