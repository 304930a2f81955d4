//! What a client keeps of its sessions with one server, for the next one.

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// TLS 1.3 tickets kept per server; each is used once (RFC 8446 appendix C.4), so this is how
/// many connections can be opened at once without a full handshake.
pub const TICKETS_PER_HOST_MAX: usize = 4;

/// Every ticket keeps a copy of the server's chain. No tickets are kept from servers whose chain
/// is longer than this.
pub const TICKET_CHAIN_BYTES_MAX: usize = 16 * 1024;

/// The tickets of one server. The mutex is there because rustls asks for `Sync`; only the threads
/// of one core take it, so it is never contended.
#[derive(Default)]
pub struct HostTickets(Mutex<Tickets>);

#[derive(Default)]
struct Tickets {
    key_exchange: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// Oldest first. Invariant: len() <= TICKETS_PER_HOST_MAX.
    tls13: VecDeque<Tls13ClientSessionValue>,
    refuses: bool,
}

impl HostTickets {
    fn lock(&self) -> MutexGuard<'_, Tickets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told after each handshake how large the server's chain is.
    pub fn bound(&self, chain_bytes: usize) {
        let mut tickets = self.lock();
        tickets.refuses = chain_bytes > TICKET_CHAIN_BYTES_MAX;
        if tickets.refuses {
            tickets.tls12 = None;
            tickets.tls13.clear();
        }
    }

    pub fn is_any(&self) -> bool {
        let tickets = self.lock();
        tickets.tls12.is_some() || !tickets.tls13.is_empty()
    }

    pub fn forget(&self) {
        let mut tickets = self.lock();
        tickets.tls12 = None;
        tickets.tls13.clear();
    }
}

impl fmt::Debug for HostTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostTickets").finish_non_exhaustive()
    }
}

impl ClientSessionStore for HostTickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.lock().key_exchange = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().key_exchange
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        let mut tickets = self.lock();
        if !tickets.refuses {
            tickets.tls12 = Some(value);
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.lock().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.lock().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.lock();
        if tickets.refuses {
            return;
        }
        if tickets.tls13.len() == TICKETS_PER_HOST_MAX {
            tickets.tls13.pop_front();
        }
        tickets.tls13.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.lock().tls13.pop_back()
    }
}
