//! Which hop is looked at, and what it may do.

use super::hop::Step;
use super::slots::{HopId, expect_hop};
use super::{Action, Queued, Schedule};
use crate::time::Now;
use std::hash::Hash;

impl<K: Clone + Hash + Eq, J: Queued, C: Default> Schedule<K, J, C> {
    pub(super) fn fire_timers(&mut self, now: Now) {
        while let Some((at, slot)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            let generation = self.slots[slot as usize].generation;
            let id = HopId { slot, generation };
            self.hop_mut(id).timer = Now::NEVER;
            self.list(id);
        }
    }

    /// Hops that wait for room go first, in turn; proven and unproven ones alternate.
    pub(super) fn poll_starved(&mut self, now: Now) -> Option<Action<J>> {
        for proven in [self.proven_first, !self.proven_first] {
            while self.has_room(proven) {
                let Some(id) = self.starved[usize::from(proven)].pop_front() else {
                    break;
                };
                let hop = self.hop_mut(id);
                hop.starved = false;
                // It had no connection, so it cannot have failed since.
                let has_failed = hop.health.has_failed();
                self.starved_unfailed -= u32::from(!has_failed);
                if let Some(action) = self.look_at(id, now, true) {
                    self.proven_first = !proven;
                    return Some(action);
                }
            }
        }
        None
    }

    pub(super) fn poll_ring(&mut self, now: Now) -> Option<Action<J>> {
        while let Some(id) = self.ring.pop_front() {
            self.hop_mut(id).listed = false;
            if let Some(action) = self.look_at(id, now, false) {
                return Some(action);
            }
        }
        None
    }

    /// Closes an idle connection for each hop that waits for room.
    pub(super) fn poll_room(&mut self) -> Option<Action<J>> {
        let slot = self.idle.first()?.1;
        let generation = self.slots[slot as usize].generation;
        let hop = HopId { slot, generation };
        if self.wanted_connections(self.known(hop).proven) <= self.closing {
            return None;
        }
        let action = self.close_idle(hop);
        self.list(hop);
        Some(action)
    }

    pub(super) fn look_at(&mut self, id: HopId, now: Now, its_turn: bool) -> Option<Action<J>> {
        let step = self.known(id).step(now, &self.settings);
        if matches!(step, Step::Open) && !self.may_open(id, its_turn) {
            self.starve(id, now);
            return None;
        }
        self.act(id, step, now)
    }

    pub(super) fn act(&mut self, hop: HopId, step: Step, now: Now) -> Option<Action<J>> {
        let action = match step {
            Step::Open => self.open(hop, now),
            Step::Wake => self.wake(hop),
            Step::CloseIdle => self.close_idle(hop),
            Step::Postpone => self.postpone(hop),
            Step::Wait(at) => {
                self.arm(hop, at);
                return None;
            }
            Step::Forget => {
                self.forget(hop);
                return None;
            }
        };
        self.list(hop);
        Some(action)
    }

    pub(super) fn open(&mut self, id: HopId, now: Now) -> Action<J> {
        let hop = expect_hop(&mut self.slots, id);
        self.connected_hops += u32::from(hop.connections() == 0);
        self.unproven_connections += u32::from(!hop.proven);
        hop.opening += 1;
        hop.opened_at = now;
        // Only a hop that is not troubled gets more than its window has.
        hop.health.widen(hop.staying());
        self.connections += 1;
        Action::Open { hop: id }
    }

    pub(super) fn wake(&mut self, id: HopId) -> Action<J> {
        self.leave_idle(id);
        let hop = self.hop_mut(id);
        hop.busy += 1;
        hop.woken += 1;
        Action::Wake { hop: id }
    }

    pub(super) fn close_idle(&mut self, id: HopId) -> Action<J> {
        self.leave_idle(id);
        let hop = self.hop_mut(id);
        hop.busy += 1;
        hop.closing += 1;
        self.closing += 1;
        Action::Close { hop: id }
    }

    pub(super) fn postpone(&mut self, id: HopId) -> Action<J> {
        let job = self
            .hop_mut(id)
            .todo
            .pop_oldest()
            .expect("a hop postpones what it has");
        self.queued -= 1;
        Action::Postpone { hop: id, job }
    }
}
