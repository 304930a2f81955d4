//! Remembers whose TLS is broken, for a while, so that it is not tried in vain each time.
//! Pure: the time comes in.

use crate::time::Now;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Peers remembered; at the bound the whole memory starts afresh, which only costs attempts.
const PEERS_MAX: usize = 10_000;

struct Failures {
    count: u32,
    last: Now,
}

/// Counts failures per peer without a success in between.
pub struct FailureMemory<K> {
    peers: HashMap<K, Failures>,
    /// Failures after which a peer counts as broken.
    threshold: u32,
    /// How long after its last failure a peer is forgiven.
    remember: Duration,
}

impl<K: Hash + Eq> FailureMemory<K> {
    pub fn new(threshold: u32, remember: Duration) -> Self {
        FailureMemory {
            peers: HashMap::new(),
            threshold,
            remember,
        }
    }

    pub fn is_broken(&self, peer: &K, now: Now) -> bool {
        self.peers.get(peer).is_some_and(|failures| {
            failures.count >= self.threshold && now.since(failures.last) < self.remember
        })
    }

    pub fn failed(&mut self, peer: K, now: Now) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            self.peers.clear();
        }
        let remember = self.remember;
        let failures = self.peers.entry(peer).or_insert(Failures {
            count: 0,
            last: now,
        });
        if now.since(failures.last) >= remember {
            failures.count = 0;
        }
        failures.count += 1;
        failures.last = now;
    }

    pub fn succeeded(&mut self, peer: &K) {
        if !self.peers.is_empty() {
            self.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn broken_only_after_the_threshold_and_only_for_a_while() {
        let mut memory = FailureMemory::new(2, MINUTE);
        let start = Now(1);
        memory.failed("a", start);
        assert!(!memory.is_broken(&"a", start));
        memory.failed("a", start);
        assert!(memory.is_broken(&"a", start));
        assert!(!memory.is_broken(&"b", start));
        assert!(!memory.is_broken(&"a", start + MINUTE));
    }

    #[test]
    fn one_success_forgives_everything() {
        let mut memory = FailureMemory::new(1, MINUTE);
        memory.failed("a", Now(1));
        memory.succeeded(&"a");
        assert!(!memory.is_broken(&"a", Now(2)));
    }
}
