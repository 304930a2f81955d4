//! The core's limit of connections: who may open one, who waits for room, and who makes room.

use super::slots::{HopId, expect_hop};
use super::{Queued, Schedule};
use crate::time::Now;
use std::hash::Hash;

impl<K: Clone + Hash + Eq, J: Queued, C: Default> Schedule<K, J, C> {
    pub(super) fn has_room(&self, proven: bool) -> bool {
        let unproven_max = self.settings.unproven_connections_max();
        self.connections < self.settings.connections_max
            && (proven || self.unproven_connections < unproven_max)
    }

    pub(super) fn may_open(&self, id: HopId, its_turn: bool) -> bool {
        let hop = self.known(id);
        if !self.has_room(hop.proven) {
            return false;
        }
        if hop.connections() == 0 {
            return its_turn || self.starved[usize::from(hop.proven)].is_empty();
        }
        // No hop has more connections than are left for all others.
        let left = self.settings.connections_max - self.connections;
        self.wanted_connections(true) == 0 && hop.connections() < left
    }

    /// A hop that may not open: without any connection it queues for room, otherwise it asks
    /// again when one of its connections wants work, or after `slow_wait`.
    pub(super) fn starve(&mut self, id: HopId, now: Now) {
        let hop = expect_hop(&mut self.slots, id);
        let stale_at = hop.stale_at(now, &self.settings);
        if hop.connections() > 0 {
            self.arm(id, stale_at.min(now + self.settings.slow_wait));
            return;
        }
        if !hop.starved {
            hop.starved = true;
            self.starved_unfailed += u32::from(!hop.health.has_failed());
            self.starved[usize::from(hop.proven)].push_back(id);
        }
        self.arm(id, stale_at);
    }

    /// Hops that could use the connection if a hop of that kind gave one up.
    pub(super) fn wanted_connections(&self, of_proven: bool) -> u32 {
        let [unproven, proven] = &self.starved;
        let unproven_max = self.settings.unproven_connections_max();
        let mut wanted = proven.len();
        if !of_proven || self.unproven_connections < unproven_max {
            wanted += unproven.len();
        }
        u32::try_from(wanted).unwrap_or(u32::MAX)
    }

    /// True if the hop should close this connection for the sake of another.
    pub(super) fn must_yield(&self, id: HopId) -> bool {
        let hop = self.known(id);
        let wanted = self.wanted_connections(hop.proven);
        if wanted <= self.closing {
            return false;
        }
        let share = self.settings.connections_max / self.connected_hops.saturating_add(wanted);
        !hop.has_work()
            || hop.staying() > share.max(1)
            || hop.turn_jobs >= self.settings.jobs_per_turn
    }
}
