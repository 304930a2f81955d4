//! Which hops have shown that they are quick, also while they have neither jobs nor connections.

use crate::time::Now;
use std::collections::HashSet;
use std::time::Duration;

/// Hops remembered per core. Beyond it those go that have shown nothing for longest.
const HOPS_MAX: usize = 100_000;

/// A hop is remembered for one to two of these after its last success.
const GENERATION_SPAN: Duration = Duration::from_secs(3600);

/// Two generations of hashes: some ten bytes a hop. Two hops with one hash are taken for one, which
/// at worst lends a slow one a place in the reserve until it has been slow once.
#[derive(Default)]
pub(super) struct Proven {
    young: HashSet<u64>,
    old: HashSet<u64>,
    young_since: Now,
}

impl Proven {
    pub fn contains(&self, hash: u64) -> bool {
        self.young.contains(&hash) || self.old.contains(&hash)
    }

    pub fn insert(&mut self, hash: u64) {
        if self.young.len() >= HOPS_MAX / 2 && !self.young.contains(&hash) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
    }

    pub fn remove(&mut self, hash: u64) {
        self.young.remove(&hash);
        self.old.remove(&hash);
    }

    pub fn tidy(&mut self, now: Now) {
        if now.since(self.young_since) >= GENERATION_SPAN {
            self.old = std::mem::take(&mut self.young);
            self.young_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_forgotten_in_time() {
        let mut proven = Proven::default();
        for hash in 0..1_000_000 {
            proven.insert(hash);
            assert!(proven.young.len() + proven.old.len() <= HOPS_MAX);
        }
        assert!(proven.contains(999_999) && !proven.contains(0));
        let hours = |count| Now(0) + GENERATION_SPAN * count;
        proven.tidy(hours(1));
        assert!(proven.contains(999_999));
        proven.tidy(hours(2));
        assert!(!proven.contains(999_999));
    }
}
