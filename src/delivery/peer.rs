//! Whom a connection is with, and what is known of TLS there.

use super::TlsPeer;
use crate::remote::resolve::Host;
use crate::schedule::judge::Fallback;
use crate::text;
use crate::time::Now;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

/// Whom a connection is with, for outcomes and log lines.
pub struct Peer {
    pub host: Box<str>,
    /// Of its MX record.
    pub(super) preference: u16,
    pub address: SocketAddr,
    /// Why there is no TLS; `None`: there is.
    pub(super) plaintext: Option<Plaintext>,
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

/// Why a session has no TLS.
pub(super) enum Plaintext {
    NotWanted,
    NotOffered,
    Trouble(TlsTrouble),
}

impl fmt::Display for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plaintext::NotWanted => f.write_str("not wanted"),
            Plaintext::NotOffered => f.write_str("not offered"),
            Plaintext::Trouble(trouble) => trouble.fmt(f),
        }
    }
}

/// How TLS with a host came to nothing.
#[derive(Clone)]
pub(super) enum TlsFault {
    /// STARTTLS was refused, or the session ended there.
    StartTls {
        why: Rc<str>,
        /// 4yz: it may work the next time, so it is not remembered.
        for_now: bool,
    },
    /// The handshake failed, or TLS did before the first reply inside it.
    Handshake { how: Rc<str> },
}

impl TlsFault {
    pub(super) fn is_for_now(&self) -> bool {
        matches!(self, TlsFault::StartTls { for_now: true, .. })
    }

    /// Its words cut to so many octets, to be remembered.
    pub(super) fn in_brief(&self, bytes_max: usize) -> TlsFault {
        match self {
            TlsFault::StartTls { why, for_now } => TlsFault::StartTls {
                why: text::front(why, bytes_max).into(),
                for_now: *for_now,
            },
            TlsFault::Handshake { how } => TlsFault::Handshake {
                how: text::front(how, bytes_max).into(),
            },
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFault::StartTls { why, .. } => f.write_str(why),
            TlsFault::Handshake { how } => write!(f, "TLS failed {how}"),
        }
    }
}

/// Why TLS with a host does not work.
#[derive(Clone)]
pub(super) struct TlsTrouble {
    pub(super) fault: TlsFault,
    /// It was found out before, and TLS was not tried again.
    pub(super) is_remembered: bool,
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

impl fmt::Display for TlsTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            fault if !self.is_remembered => fault.fmt(f),
            TlsFault::Handshake { how } => write!(f, "TLS failed before, {how}"),
            TlsFault::StartTls { why, .. } => write!(f, "TLS failed before: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_says_so() {
        let said = |fault: &TlsFault, is_remembered| {
            let fault = fault.in_brief(30);
            let trouble = TlsTrouble {
                fault,
                is_remembered,
            };
            trouble.to_string()
        };
        let handshake = TlsFault::Handshake {
            how: "in the handshake: alert 40, and more of that".into(),
        };
        assert_eq!(
            said(&handshake, false),
            "TLS failed in the handshake: alert 40, an"
        );
        assert_eq!(
            said(&handshake, true),
            "TLS failed before, in the handshake: alert 40, an"
        );
        let refused = TlsFault::StartTls {
            why: "STARTTLS was refused: 454 no".into(),
            for_now: true,
        };
        assert_eq!(
            said(&refused, true),
            "TLS failed before: STARTTLS was refused: 454 no"
        );
    }
}
