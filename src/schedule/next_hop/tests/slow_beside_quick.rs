//! Hundreds of slow hops and one quick one under a tight limit of connections, by seed, in time that is
//! counted and not waited for.

use super::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const CONNECTIONS_MAX: u32 = 40;
const SLOW_HOPS: u64 = 500;
/// Key of the quick hop.
const QUICK: u64 = 0;
/// The quick hop is new in this time, and waits among the others.
const WARM_UP: Now = Now(600 * SECOND);
const END: Now = Now(3600 * SECOND);

/// What happens to a connection, or by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Arrival { key: u64 },
    Opened { slot: u32 },
    Finished { slot: u32 },
    IdleOver { slot: u32 },
    Look,
}

/// Each hop answers after its own time, or not at all.
#[derive(Clone, Copy)]
enum Manner {
    Takes(Duration),
    /// Accepts, or not even that, and says nothing until the time is up.
    Hangs(Duration),
}

struct World {
    schedule: Schedule<u64, Now>,
    seed: u64,
    now: Now,
    events: BinaryHeap<Reverse<(Now, u64, Event)>>,
    sequence: u64,
    /// By slot; its job's arrival, if it has one.
    connections: HashMap<u32, (HopId, Option<Now>)>,
    next_slot: u32,
    /// When it is looked again if nothing happens; in the past: not arranged.
    look_at: Now,
    quick_gap: Duration,
    quick_waits: Vec<Duration>,
    slow_done: u32,
}

impl World {
    fn new(seed: u64, quick_gap: Duration) -> Self {
        let schedule = Schedule::new(Settings {
            connections_max: CONNECTIONS_MAX,
            ..Settings::default()
        });
        let mut world = World {
            schedule,
            seed,
            now: Now(0),
            events: BinaryHeap::new(),
            sequence: 0,
            connections: HashMap::new(),
            next_slot: 0,
            look_at: Now(0),
            quick_gap,
            quick_waits: Vec::new(),
            slow_done: 0,
        };
        for key in 0..=SLOW_HOPS {
            let at = Duration::from_micros(world.random() % (10 * SECOND));
            world.at(at, Event::Arrival { key });
        }
        world
    }

    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    }

    fn at(&mut self, wait: Duration, event: Event) {
        self.sequence += 1;
        let entry = (self.now + wait, self.sequence, event);
        self.events.push(Reverse(entry));
    }

    fn manner(key: u64) -> Manner {
        match key {
            QUICK => Manner::Takes(Duration::from_millis(20)),
            key if key % 3 == 0 => Manner::Hangs(Duration::from_secs(30)),
            key => Manner::Takes(Duration::from_secs(2 + key % 5)),
        }
    }

    fn run(&mut self) {
        while self.now < END {
            let Reverse((at, _, event)) = self.events.pop().expect("arrivals never end");
            self.now = at;
            self.happen(event);
            self.obey();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look => {}
            Event::Arrival { key } => {
                self.schedule.push(&key, self.now, self.now);
                let gap = match key {
                    QUICK => self.quick_gap,
                    _ => Duration::from_secs(60),
                };
                let jitter = self.random() % (gap.as_micros() as u64);
                self.at(
                    gap / 2 + Duration::from_micros(jitter),
                    Event::Arrival { key },
                );
            }
            Event::Opened { slot } => self.opened(slot),
            Event::Finished { slot } => self.finished(slot),
            Event::IdleOver { slot } => {
                if let Some((hop, None)) = self.connections.remove(&slot) {
                    self.schedule.idle_closed(hop);
                }
            }
        }
    }

    fn opened(&mut self, slot: u32) {
        let (hop, began) = self.connections[&slot];
        let began = began.expect("it was opening");
        match Self::manner(*self.schedule.key(hop)) {
            Manner::Hangs(_) => {
                self.connections.remove(&slot);
                self.schedule.connect_failed(hop, began, self.now);
            }
            Manner::Takes(took) => {
                self.schedule.connected(hop, took);
                self.take(slot, hop);
            }
        }
    }

    fn take(&mut self, slot: u32, hop: HopId) {
        match self.schedule.take(hop, self.now) {
            Take::Job(arrived) => {
                let Manner::Takes(took) = Self::manner(*self.schedule.key(hop)) else {
                    panic!("a hop that hangs has no session");
                };
                self.connections.insert(slot, (hop, Some(arrived)));
                self.at(took, Event::Finished { slot });
            }
            Take::Wait { until } => {
                self.connections.insert(slot, (hop, None));
                // Its slot is renamed when it is woken, so that this is for nobody then.
                self.at(until.since(self.now), Event::IdleOver { slot });
            }
            Take::Close => {
                self.connections.remove(&slot);
                self.schedule.closed(hop);
            }
        }
    }

    fn finished(&mut self, slot: u32) {
        let (hop, job) = self.connections[&slot];
        let arrived = job.expect("it was at work");
        let key = *self.schedule.key(hop);
        let Manner::Takes(took) = Self::manner(key) else {
            panic!("a hop that hangs finishes nothing");
        };
        self.schedule.delivered(hop, took);
        match key {
            QUICK if arrived > WARM_UP => self.quick_waits.push(self.now.since(arrived)),
            QUICK => {}
            _ => self.slow_done += 1,
        }
        self.take(slot, hop);
    }

    fn idle_of(&mut self, hop: HopId) -> u32 {
        let mut idle: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, it)| **it == (hop, None))
            .map(|(slot, _)| *slot)
            .collect();
        idle.sort_unstable();
        let slot = idle[0];
        self.connections.remove(&slot);
        slot
    }

    fn obey(&mut self) {
        while let Some(action) = self.schedule.poll(self.now) {
            self.schedule.check();
            match action {
                Action::Open { hop } => {
                    let slot = self.new_slot();
                    let (Manner::Takes(took) | Manner::Hangs(took)) =
                        Self::manner(*self.schedule.key(hop));
                    // Not idle: it has a job as far as the table is concerned.
                    self.connections.insert(slot, (hop, Some(self.now)));
                    self.at(took, Event::Opened { slot });
                }
                Action::Wake { hop } => {
                    _ = self.idle_of(hop);
                    let slot = self.new_slot();
                    self.take(slot, hop);
                }
                Action::Close { hop } => {
                    _ = self.idle_of(hop);
                    self.schedule.closed(hop);
                }
                // The driver would defer it; here it counts as done.
                Action::Postpone { .. } => {}
                Action::Retry { .. } => panic!("nothing is deferred"),
            }
        }
        if let Some(deadline) = self.schedule.deadline()
            && (self.look_at <= self.now || deadline < self.look_at)
        {
            self.look_at = deadline;
            self.at(deadline.since(self.now), Event::Look);
        }
    }

    fn new_slot(&mut self) -> u32 {
        self.next_slot += 1;
        self.next_slot
    }
}

/// Steady mail, and one now and then: in between the hop has no connection, and is forgotten.
#[test]
fn quick_hop_does_not_wait_for_slow_ones() {
    for (seed, gap_ms) in [(1, 100), (2, 1_000), (3, 30_000), (4, 120_000)] {
        let mut world = World::new(seed, Duration::from_millis(gap_ms));
        world.run();
        let waits = &world.quick_waits;
        let longest = waits.iter().max().expect("quick jobs");
        assert!(
            *longest < Duration::from_millis(500),
            "seed {seed}: {longest:?} of {}",
            waits.len()
        );
        assert!(world.slow_done > 5_000, "{}", world.slow_done);
    }
}

/// Without the memory of who is quick and the reserve, the same world keeps it waiting: this is
/// what the test above is worth.
#[test]
fn unproven_hop_waits_among_the_slow() {
    let mut world = World::new(1, Duration::from_millis(1_000));
    world.schedule.settings.proven_wait_max = Duration::ZERO;
    world.run();
    let longest = world.quick_waits.iter().max().expect("quick jobs");
    assert!(*longest > Duration::from_secs(5), "{longest:?}");
}
