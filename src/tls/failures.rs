//! Remembers what failed with whom, for a while, so that it is not tried in vain each time.
//! Pure: the time comes in.

use crate::time::Now;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Peers remembered; at the bound those go whose time is over, and all if that leaves too many, which only costs attempts.
const PEERS_MAX: usize = 10_000;

struct Failure<W> {
    why: W,
    at: Now,
}

/// The last failure of each peer without a success since, and why it failed.
pub struct FailureMemory<K, W = ()> {
    peers: HashMap<K, Failure<W>>,
    /// How long after its last failure a peer is forgiven.
    remember: Duration,
}

impl<K: Hash + Eq, W> FailureMemory<K, W> {
    pub fn new(remember: Duration) -> Self {
        FailureMemory {
            peers: HashMap::new(),
            remember,
        }
    }

    pub fn has_failed(&self, peer: &K, now: Now) -> bool {
        self.why(peer, now).is_some()
    }

    /// Why the peer failed last; `None`: it is not remembered.
    pub fn why(&self, peer: &K, now: Now) -> Option<&W> {
        let failure = self.peers.get(peer)?;
        (now.since(failure.at) < self.remember).then_some(&failure.why)
    }

    pub fn failed(&mut self, peer: K, why: W, now: Now) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            self.make_room(now);
        }
        self.peers.insert(peer, Failure { why, at: now });
    }

    /// At least half, so that it is not looked for at each failure.
    fn make_room(&mut self, now: Now) {
        let remember = self.remember;
        self.peers
            .retain(|_, failure| now.since(failure.at) < remember);
        if self.peers.len() > PEERS_MAX / 2 {
            self.peers.clear();
        }
    }

    pub fn forget(&mut self, peer: &K) {
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
    fn a_failure_is_remembered_with_its_reason_and_only_for_a_while() {
        let mut memory = FailureMemory::new(MINUTE);
        let start = Now(1);
        memory.failed("a", "alert", start);
        memory.failed("a", "reset", start);
        assert_eq!(memory.why(&"a", start), Some(&"reset"));
        assert!(!memory.has_failed(&"b", start));
        assert!(!memory.has_failed(&"a", start + MINUTE));
    }

    #[test]
    fn one_success_forgives_everything() {
        let mut memory = FailureMemory::new(MINUTE);
        memory.failed("a", (), Now(1));
        memory.forget(&"a");
        assert!(!memory.has_failed(&"a", Now(2)));
    }

    #[test]
    fn however_many_fail_the_memory_is_bounded() {
        let mut memory = FailureMemory::new(MINUTE);
        for peer in 0..3 * PEERS_MAX {
            memory.failed(peer, (), Now(peer as u64));
            assert!(memory.peers.len() <= PEERS_MAX);
        }
        assert!(memory.has_failed(&(3 * PEERS_MAX - 1), Now(3 * PEERS_MAX as u64)));
    }
}
