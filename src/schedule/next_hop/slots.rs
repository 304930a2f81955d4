//! Where hops are kept: places that are used again, and the tables that name them.

use super::health::ConnectionFailure;
use super::hop::Hop;
use super::{Queued, Schedule, Take};
use crate::time::Now;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Names a hop as long as it has jobs, connections or a pause. Means nothing afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HopId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

pub(super) struct Slot<K, J, C> {
    pub(super) generation: u32,
    pub(super) hop: Option<Box<Hop<K, J, C>>>,
}

impl<K: Clone + Hash + Eq, J: Queued, C: Default> Schedule<K, J, C> {
    pub(super) fn add_hop(&mut self, key: &K) -> HopId {
        let slot = self.free.pop_first().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                hop: None,
            });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 hops")
        });
        self.generations = self.generations.wrapping_add(1);
        let generation = self.generations;
        let mut hop = Box::new(Hop::new(key.clone(), C::default(), &self.settings));
        hop.proven = self.proven.contains(name_of(key));
        self.slots[slot as usize] = Slot {
            generation,
            hop: Some(hop),
        };
        let id = HopId { slot, generation };
        self.by_key.insert(key.clone(), id);
        id
    }

    pub(super) fn forget(&mut self, id: HopId) {
        // It is still in a queue, and is looked at again from there.
        if self.known(id).starved || self.known(id).listed {
            return;
        }
        self.disarm(id);
        let slot = &mut self.slots[id.slot as usize];
        let hop = slot.hop.take().expect("a hop is forgotten once");
        assert!(hop.connections() == 0 && !hop.has_work());
        self.by_key.remove(&hop.key);
        if hop.proven {
            // Again, so that its time begins now.
            self.proven.insert(name_of(&hop.key));
        }
        self.free.insert(id.slot);
        while self.slots.last().is_some_and(|slot| slot.hop.is_none()) {
            self.slots.pop();
            self.free.pop_last();
        }
    }

    pub(super) fn list(&mut self, id: HopId) {
        let hop = expect_hop(&mut self.slots, id);
        if !hop.listed {
            hop.listed = true;
            self.ring.push_back(id);
        }
    }

    /// Looks at the hop again at `at`, unless that is arranged for an earlier time.
    pub(super) fn arm(&mut self, id: HopId, at: Now) {
        if at >= self.known(id).timer {
            return;
        }
        self.disarm(id);
        self.hop_mut(id).timer = at;
        self.timers.insert((at, id.slot));
    }

    pub(super) fn disarm(&mut self, id: HopId) {
        let hop = expect_hop(&mut self.slots, id);
        if hop.timer != Now::NEVER {
            self.timers.remove(&(hop.timer, id.slot));
            hop.timer = Now::NEVER;
        }
    }

    pub(super) fn rest(&mut self, id: HopId, now: Now) -> Take<J> {
        let hop = expect_hop(&mut self.slots, id);
        hop.busy -= 1;
        hop.idle += 1;
        if hop.idle_since.is_none() {
            hop.idle_since = Some(now);
            self.idle.insert((now, id.slot));
        }
        Take::Wait {
            until: now + self.settings.idle_wait,
        }
    }

    pub(super) fn leave_idle(&mut self, id: HopId) {
        let hop = expect_hop(&mut self.slots, id);
        assert!(hop.idle > 0);
        hop.idle -= 1;
        if hop.idle == 0
            && let Some(since) = hop.idle_since.take()
        {
            self.idle.remove(&(since, id.slot));
        }
    }

    pub(super) fn connection_gone(&mut self, id: HopId) {
        let hop = expect_hop(&mut self.slots, id);
        self.connections -= 1;
        self.unproven_connections -= u32::from(!hop.proven);
        self.connected_hops -= u32::from(hop.connections() == 0);
        self.list(id);
    }

    pub(super) fn failed(&mut self, id: HopId, failure: ConnectionFailure, began: Now, now: Now) {
        let hop = expect_hop(&mut self.slots, id);
        hop.health.failed(failure, began, now, &self.settings);
        self.set_proven(id, false);
    }

    pub(super) fn set_proven(&mut self, id: HopId, is_proven: bool) {
        let hop = expect_hop(&mut self.slots, id);
        if hop.proven == is_proven {
            return;
        }
        hop.proven = is_proven;
        let hash = name_of(&hop.key);
        if is_proven {
            self.unproven_connections -= hop.connections();
            self.proven.insert(hash);
        } else {
            self.unproven_connections += hop.connections();
            self.proven.remove(hash);
        }
    }

    pub(super) fn known(&self, id: HopId) -> &Hop<K, J, C> {
        let slot = &self.slots[id.slot as usize];
        assert_eq!(slot.generation, id.generation, "the hop is not known");
        slot.hop.as_deref().expect("the hop is known")
    }

    pub(super) fn hop_mut(&mut self, id: HopId) -> &mut Hop<K, J, C> {
        expect_hop(&mut self.slots, id)
    }
}

pub(super) fn expect_hop<K, J, C>(slots: &mut [Slot<K, J, C>], id: HopId) -> &mut Hop<K, J, C> {
    let slot = &mut slots[id.slot as usize];
    assert_eq!(slot.generation, id.generation, "the hop is not known");
    slot.hop.as_deref_mut().expect("the hop is known")
}

/// What a hop is remembered by once it is gone. The same in each run: a schedule goes by it. Who makes two hops fall
/// together gains next to nothing (see `proven`).
fn name_of(key: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
