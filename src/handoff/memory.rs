//! How much memory mail and sessions hold, counted by core, and how near that is to the ceiling.
//!
//! Counted is what grows with peers and mail: sessions, envelopes, bodies that come in, bodies that
//! wait for delivery, messages in the queue. Not counted is what each thread has in any case.
//!
//! Promise: nothing is ever dropped for the sake of the ceiling. Whoever wants more asks for the
//! [`MemoryLevel`] first and waits, or refuses.

use crate::policy::shares::Room;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ceiling of all cores together unless it is said otherwise.
pub const BYTES_MAX: u64 = 512 << 20;

/// What other cores hold is summed up once in so many questions while there is plenty, up to this part.
const LOOKS_PER_SUM: u32 = 16;
const PLENTY_SIXTEENTHS: u64 = 6;

/// Where mail is refused to strangers, and to all.
const FULL_SIXTEENTHS: u64 = 14;
const SPENT_SIXTEENTHS: u64 = 15;

/// How full memory is. Each level includes what is said of those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MemoryLevel {
    Plenty,
    /// From 1/2: bodies are no longer kept for delivery, but read back when they are due, and those
    /// that come in go to the disk sooner.
    Warm,
    /// From 3/4: bodies that come in go to the disk at once, and only few sessions read at a time.
    Tight,
    /// From 7/8: 452 at MAIL, RCPT and DATA, 421 at connect, but not for trusted clients.
    Full,
    /// From 15/16: the same for trusted clients.
    Spent,
}

impl MemoryLevel {
    fn of(held_bytes: u64, max_bytes: u64) -> MemoryLevel {
        let sixteenths = held_bytes.saturating_mul(16) / max_bytes.max(1);
        match sixteenths {
            0..8 => MemoryLevel::Plenty,
            8..12 => MemoryLevel::Warm,
            12..FULL_SIXTEENTHS => MemoryLevel::Tight,
            FULL_SIXTEENTHS..SPENT_SIXTEENTHS => MemoryLevel::Full,
            _ => MemoryLevel::Spent,
        }
    }
}

/// What one core has charged. On a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Held(AtomicU64);

/// The counts of all cores, and the ceiling.
pub struct Memory {
    cores: Vec<Arc<Held>>,
    max_bytes: u64,
}

impl Memory {
    pub fn new(cores: usize, max_bytes: u64) -> Arc<Self> {
        Arc::new(Memory {
            cores: (0..cores).map(|_| Arc::default()).collect(),
            max_bytes,
        })
    }

    /// What all cores hold. Reads a cache line of each.
    pub fn held_bytes(&self) -> u64 {
        let of_cores = self.cores.iter().map(|held| held.0.load(Ordering::Relaxed));
        of_cores.sum()
    }

    /// How full it is. Reads a cache line of each core.
    pub fn level(&self) -> MemoryLevel {
        MemoryLevel::of(self.held_bytes(), self.max_bytes)
    }

    /// What was charged for one core.
    pub fn held_by(&self, core: usize) -> u64 {
        self.cores[core].0.load(Ordering::Relaxed)
    }

    /// Counts `bytes` as held for `core` until the charge is dropped.
    pub fn charge(&self, core: usize, bytes: u64) -> Charge {
        let held = self.cores[core].clone();
        held.0.fetch_add(bytes, Ordering::Relaxed);
        Charge {
            held,
            bytes: AtomicU64::new(bytes),
        }
    }
}

/// Memory as one core sees it.
pub struct Budget {
    memory: Arc<Memory>,
    core: usize,
    /// What the other cores held at the last look.
    others_bytes: Cell<u64>,
    looks: Cell<u32>,
}

impl Budget {
    pub fn new(memory: Arc<Memory>, core: usize) -> Self {
        Budget {
            memory,
            core,
            others_bytes: Cell::new(0),
            looks: Cell::new(0),
        }
    }

    pub fn charge(&self, bytes: u64) -> Charge {
        self.memory.charge(self.core, bytes)
    }

    /// How full memory would be with `more_bytes`.
    pub fn level_with(&self, more_bytes: u64) -> MemoryLevel {
        MemoryLevel::of(self.held_with(more_bytes), self.memory.max_bytes)
    }

    /// What is held, and what mail may still take, of trusted clients or of all.
    pub fn room(&self, trusted: bool) -> Room {
        let used = self.held_with(0);
        let full = match trusted {
            true => SPENT_SIXTEENTHS,
            false => FULL_SIXTEENTHS,
        };
        let most = self.memory.max_bytes / 16 * full;
        Room {
            used,
            left: most.saturating_sub(used),
        }
    }

    /// What all cores would hold with `more_bytes`. Mostly one load: the other cores are asked at every
    /// [`LOOKS_PER_SUM`]th question, and each time when there is no longer plenty, or soon may not be.
    fn held_with(&self, more_bytes: u64) -> u64 {
        let own = self.memory.cores[self.core].0.load(Ordering::Relaxed);
        let looks = self.looks.get();
        let known = own + self.others_bytes.get() + more_bytes;
        if looks > 0 && known < self.memory.max_bytes / 16 * PLENTY_SIXTEENTHS {
            self.looks.set(looks - 1);
            return known;
        }
        let all = self.memory.held_bytes();
        self.others_bytes.set(all.saturating_sub(own));
        self.looks.set(LOOKS_PER_SUM);
        all + more_bytes
    }

    pub fn level(&self) -> MemoryLevel {
        self.level_with(0)
    }
}

/// Bytes that count as held; any core may drop it.
pub struct Charge {
    held: Arc<Held>,
    bytes: AtomicU64,
}

impl Charge {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Holds `bytes` from now on.
    pub fn set(&mut self, bytes: u64) {
        let before = std::mem::replace(self.bytes.get_mut(), bytes);
        self.held.replace(before, bytes);
    }

    /// Part of what is held, `before` bytes, takes `after` bytes from now on. Also from another core than that
    /// which is charged.
    pub fn replace(&self, before: u64, after: u64) {
        Held::replace_in(&self.bytes, before, after);
        self.held.replace(before, after);
    }
}

impl Held {
    fn replace(&self, before: u64, after: u64) {
        Self::replace_in(&self.0, before, after);
    }

    fn replace_in(bytes: &AtomicU64, before: u64, after: u64) {
        match after.checked_sub(before) {
            Some(more) => bytes.fetch_add(more, Ordering::Relaxed),
            None => bytes.fetch_sub(before - after, Ordering::Relaxed),
        };
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.held
            .0
            .fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_come_and_go_and_levels_follow() {
        let memory = Memory::new(2, 800);
        let budget = Budget::new(memory.clone(), 0);
        let mut first = budget.charge(300);
        assert_eq!(budget.level(), MemoryLevel::Plenty);
        assert_eq!(budget.level_with(100), MemoryLevel::Warm);
        first.set(600);
        assert_eq!(budget.level(), MemoryLevel::Tight);
        let second = budget.charge(100);
        assert_eq!(budget.level(), MemoryLevel::Full);
        assert_eq!(budget.level_with(50), MemoryLevel::Spent);
        first.set(10);
        drop(second);
        assert_eq!(memory.held_bytes(), 10);
        drop(first);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[test]
    fn a_part_that_grows_and_shrinks_is_given_back_with_the_rest() {
        let memory = Memory::new(1, 800);
        let charge = memory.charge(0, 300);
        charge.replace(0, 200);
        charge.replace(200, 50);
        assert_eq!((charge.bytes(), memory.held_bytes()), (350, 350));
        drop(charge);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[test]
    fn what_other_cores_hold_is_seen_after_some_questions_at_the_latest() {
        let memory = Memory::new(2, 800);
        let (one, other) = (Budget::new(memory.clone(), 0), Budget::new(memory, 1));
        assert_eq!(one.level(), MemoryLevel::Plenty);
        let charge = other.charge(790);
        let seen = (0..=LOOKS_PER_SUM).position(|_| one.level() == MemoryLevel::Spent);
        assert!(seen.is_some());
        std::thread::spawn(move || drop(charge)).join().unwrap();
        assert_eq!(one.level(), MemoryLevel::Plenty);
    }
}
