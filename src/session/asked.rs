//! What the machine of a session asks, and what it is answered: who may do what, and how often.

use super::context::Context;
use crate::io::clock;
use crate::log::{Addressee, LogLevel, Shown, event};
use crate::message::{Mailbox, SessionId};
use crate::policy::rates::{Over, prefix_of};
use crate::policy::relaying::NotRelayed;
use crate::smtp::refusal::Refusal;
use crate::smtp::refusals::{
    ERROR_RATE, MESSAGE_RATE, OUT_OF_MEMORY, RECIPIENT_RATE, TOO_MANY_HANDSHAKES,
    TOO_MANY_HANDSHAKES_OF_ALL,
};
use crate::smtp::server::{Claim, PeerInfo, Policy, RejectedAt, Rejection, Spending};
use crate::time::Now;
use std::net::{IpAddr, SocketAddr};

/// What a session's machine asks, and who asks.
pub(super) struct Asked<'a> {
    context: &'a Context,
    who: &'a Who,
}

/// Who is there, and the number of the session among those of its core.
pub(super) struct Who {
    pub(super) peer: SocketAddr,
    pub(super) number: u64,
}

impl Who {
    /// As every line names it. A socket for both families tells of IPv4 within IPv6.
    pub(super) fn client(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }
}

impl Policy for Asked<'_> {
    fn recipient(&self, trusted: bool, path: &Mailbox) -> Result<(), Refusal> {
        self.context.recipient(trusted, path)
    }

    fn postmaster(&self) -> Option<Mailbox> {
        self.context.postmaster()
    }

    fn admit(&self, peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        self.context.admit(peer, declared_bytes)
    }

    fn share(&self, peer: &PeerInfo, claim: Claim<'_>, declared_bytes: u64) -> Result<(), Refusal> {
        self.context.share(peer, claim, declared_bytes)
    }

    fn lists_starttls(&self, peer: &PeerInfo, hello: &str) -> bool {
        self.context.lists_starttls(peer, hello)
    }

    fn spend(&self, peer: &PeerInfo, what: Spending) -> Result<(), Refusal> {
        self.context.spend(peer, what)
    }

    fn rejected(&self, rejection: &Rejection<'_>) {
        if matches!(rejection.at, RejectedAt::Content | RejectedAt::Commit) {
            self.context.metrics.messages_refused.increment();
        }
        let throttle = &self.context.state.lines.rejected[usize::from(rejection.peer.trusted)];
        let client = prefix_of(self.who.peer.ip());
        let Some(suppressed) = throttle.borrow_mut().allow(client, clock::now()) else {
            return;
        };
        let (log, now) = (&self.context.log, clock::wall_time());
        let mut line = log.line(LogLevel::Info, event::REJECTED, now);
        line.field("session", self.context.session_id(self.who))
            .field("client", self.who.client())
            .field("hello", rejection.hello)
            .field("at", rejection.at.name())
            .field("from", rejection.from)
            .field("to", Addressee(rejection.to));
        if !rejection.recipients.is_empty() {
            line.recipients(rejection.recipients);
        }
        line.field("reply", Shown(rejection.refusal))
            .field("lines_suppressed", suppressed);
    }
}

/// What the machine asks; see [`Policy`].
impl Context {
    fn recipient(&self, trusted: bool, path: &Mailbox) -> Result<(), Refusal> {
        let relayed = self.terms.relay.get().recipient(trusted, path);
        relayed.map_err(NotRelayed::refusal)?;
        match (self.dead_end)(path) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    fn postmaster(&self) -> Option<Mailbox> {
        self.terms.relay.get().postmaster().cloned()
    }

    fn admit(&self, peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        if !self.has_memory_for(peer.trusted) {
            self.metrics.refused_for_memory.increment();
            return Err(OUT_OF_MEMORY);
        }
        let admitted = self.spool.admit(declared_bytes);
        admitted.map_err(|error| error.refusal())
    }

    fn lists_starttls(&self, peer: &PeerInfo, hello: &str) -> bool {
        // Without TLS such a client could not send at all.
        let withdrawn = !self.terms.server.require_tls
            && self
                .tls_memory
                .take_withdrawal(peer.address, hello, clock::now());
        if withdrawn {
            self.metrics.starttls_withdrawn.increment();
        }
        !withdrawn
    }

    pub(super) fn spend(&self, peer: &PeerInfo, what: Spending) -> Result<(), Refusal> {
        if what == Spending::Recipient && !self.has_memory_for(peer.trusted) {
            self.metrics.refused_for_memory.increment();
            return Err(OUT_OF_MEMORY);
        }
        if peer.trusted {
            return Ok(());
        }
        let now = clock::now();
        let spent = self.rates.spend(what, peer.address, now);
        spent.map_err(|over| self.over_limit(what, over, peer.address, now))
    }
}

impl Context {
    pub(super) fn asked<'a>(&'a self, who: &'a Who) -> Asked<'a> {
        Asked { context: self, who }
    }

    /// Counts and logs that an address is over a limit; what it is told.
    fn over_limit(&self, what: Spending, over: Over, address: IpAddr, now: Now) -> Refusal {
        let metrics = &self.metrics;
        let (counter, flag, refusal) = match (what, over) {
            (Spending::Handshake, Over::Address) => (
                &metrics.limited_handshakes,
                "--handshake-rate",
                TOO_MANY_HANDSHAKES,
            ),
            (Spending::Handshake, Over::Total) => (
                &metrics.limited_handshakes,
                "--handshake-rate-total",
                TOO_MANY_HANDSHAKES_OF_ALL,
            ),
            (Spending::Message, _) => (&metrics.limited_messages, "--message-rate", MESSAGE_RATE),
            (Spending::Recipient, _) => (
                &metrics.limited_recipients,
                "--recipient-rate",
                RECIPIENT_RATE,
            ),
            (Spending::Error, _) => (&metrics.limited_errors, "--error-rate", ERROR_RATE),
        };
        counter.increment();
        if let Some(suppressed) = self
            .state
            .lines
            .limited
            .borrow_mut()
            .allow(prefix_of(address), now)
        {
            self.log
                .line(LogLevel::Info, event::LIMITED, clock::wall_time())
                .field("client", address.to_canonical())
                .field("limit", flag)
                .field("code", u64::from(refusal.code))
                .field("lines_suppressed", suppressed);
        }
        refusal
    }

    pub(super) fn session_id(&self, who: &Who) -> SessionId {
        SessionId {
            run: self.spool.run(),
            core: self.core as u16,
            number: who.number,
        }
    }

    pub(super) fn peer_info(&self, address: IpAddr) -> PeerInfo {
        PeerInfo {
            address,
            trusted: self.terms.relay.get().is_trusted(address),
            tls: None,
        }
    }
}
