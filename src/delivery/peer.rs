//! Whom a connection is with, and what is known of TLS there.

use super::TlsPeer;
use crate::remote::resolve::Host;
use crate::schedule::judge::Fallback;
use crate::time::Now;
use std::net::SocketAddr;
use std::rc::Rc;

/// Whom a connection is with, for outcomes and log lines.
pub struct Peer {
    pub host: Box<str>,
    /// Of its MX record.
    pub(super) preference: u16,
    pub address: SocketAddr,
    /// Why there is no TLS; `None`: there is.
    pub plaintext: Option<Box<str>>,
    /// It offers TLS, which did not work.
    pub(super) fallback: Option<PlaintextFallback>,
    /// A host that comes before it, and that was there, was left out.
    pub(super) is_substitute: bool,
    /// Such a host was asked just before.
    pub(super) is_after_busy: bool,
    /// Hosts that come before it whose TLS does not work: not yet asked in plaintext.
    pub(super) better: Vec<Better>,
}

#[derive(Clone, Copy)]
pub(super) struct PlaintextFallback {
    pub(super) which: Fallback,
    /// `None`: as long as the failure is remembered.
    pub(super) until: Option<Now>,
}

pub(super) struct Better {
    pub(super) host: Host,
    pub(super) address: SocketAddr,
    pub(super) trouble: TlsTrouble,
}

/// Why TLS with a host does not work.
#[derive(Clone)]
pub(super) struct TlsTrouble {
    pub(super) why: Rc<str>,
    /// It was found out before, and TLS was not tried again.
    pub(super) is_remembered: bool,
    /// 4yz to STARTTLS: it may work the next time, so it is not remembered.
    pub(super) is_busy: bool,
}

impl Peer {
    pub(super) fn tls_peer(&self) -> TlsPeer {
        (self.address, self.host.clone())
    }

    /// Others come before it.
    pub(super) fn before(mut self, better: Vec<Better>) -> Self {
        self.is_substitute = !better.is_empty();
        self.better = better;
        self
    }

    /// The best host that was there when this connection was opened, and would not talk, was of that preference.
    pub(super) fn behind(mut self, busy: Option<u16>) -> Self {
        self.is_after_busy = busy.is_some_and(|preference| preference < self.preference);
        self.is_substitute |= self.is_after_busy;
        self
    }
}

impl TlsTrouble {
    pub(super) fn said(&self) -> String {
        match (self.is_remembered, self.why.strip_prefix("TLS failed ")) {
            (false, _) => self.why.to_string(),
            (true, Some(how)) => format!("TLS failed before, {how}"),
            (true, None) => format!("TLS failed before: {}", self.why),
        }
    }
}
