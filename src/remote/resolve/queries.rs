//! How many queries may be under way to name servers.
//!
//! Promise: those of a resolver are bounded ([`Settings::queries_max`]), since each takes descriptors that clients and
//! deliveries need; and each look-up has some for itself, so that none waits for the name servers of others.
//! Not here: how many look-ups go at a time (`line`), and when a question wants another query (`servers`).

use super::{ASIDE_PER_SLOT, Settings};
use crate::io::{Bug, dns, planted};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Queries of each look-up that wait for no other one's: for both families of a mail host.
const KEPT_FOR_EACH: usize = 2;

/// Queries that all look-ups have beside those, first come, first served: for ten domains with twenty hosts each.
const FOR_ALL: usize = 400;

impl Settings {
    /// Queries of a resolver that are under way at a time, at most.
    pub fn queries_max(&self) -> usize {
        let look_ups_max = self.lookups_max.max(1).saturating_mul(1 + ASIDE_PER_SLOT);
        look_ups_max
            .saturating_mul(KEPT_FOR_EACH)
            .saturating_add(FOR_ALL)
    }

    /// Sockets that a resolver has open at a time, at most.
    pub fn sockets_max(&self) -> usize {
        self.queries_max().saturating_mul(dns::SOCKETS_PER_QUERY)
    }
}

/// The queries of a resolver.
pub(super) struct Queries {
    for_all: Semaphore,
}

/// The queries that one look-up may send.
pub(super) struct Share<'a> {
    kept: Semaphore,
    for_all: &'a Semaphore,
}

/// Leave to have one query under way, until it is dropped.
pub(super) type Query<'a> = SemaphorePermit<'a>;

impl Queries {
    pub fn new() -> Self {
        let for_all = match planted(Bug::QueriesUnbounded) {
            true => Semaphore::MAX_PERMITS,
            false => FOR_ALL,
        };
        Queries {
            for_all: Semaphore::new(for_all),
        }
    }

    pub fn share(&self) -> Share<'_> {
        let kept = match planted(Bug::QueriesNotKept) {
            true => 0,
            false => KEPT_FOR_EACH,
        };
        Share {
            kept: Semaphore::new(kept),
            for_all: &self.for_all,
        }
    }
}

impl Share<'_> {
    /// Waits until there is one, if need be for the end of another one of this look-up.
    pub async fn take(&self) -> Query<'_> {
        let query = tokio::select! {
            biased;
            query = self.kept.acquire() => query,
            query = self.for_all.acquire() => query,
        };
        query.expect("neither is ever closed")
    }

    /// `None`: not now.
    pub fn try_take(&self) -> Option<Query<'_>> {
        let kept = self.kept.try_acquire();
        kept.or_else(|_| self.for_all.try_acquire()).ok()
    }
}
