//! Random events against a model of the driver. Every seed is replayed by its number.

use super::*;
use std::collections::HashSet;

const SEEDS: u64 = 60;
const STEPS: u32 = 3000;
const HOPS: u64 = 12;

/// xorshift64*: the same seed gives the same run on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Opening,
    Busy(Option<u32>),
    Idle,
    Closing,
}

/// How a hop behaves in this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    Fast,
    Refuses,
    Unreachable,
    Breaks,
}

struct World {
    random: Random,
    now: Now,
    schedule: Schedule<u64, u32>,
    /// With the time at which each began to open.
    connections: Vec<(HopId, State, Now)>,
    /// Jobs that are queued or deferred, by the account of this model.
    waiting: HashSet<u32>,
    finished: HashSet<u32>,
    next_job: u32,
    manners: Vec<Manner>,
    /// All hops are well from here on, nothing new comes in.
    healing: bool,
    seen: Seen,
}

/// How often each thing happened: a simulation that avoids a path proves nothing about it.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    open: u32,
    wake: u32,
    close_idle: u32,
    postpone: u32,
    retry: u32,
    take_close: u32,
    dead: u32,
    starved: u32,
    given_back: u32,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.open += other.open;
        self.wake += other.wake;
        self.close_idle += other.close_idle;
        self.postpone += other.postpone;
        self.retry += other.retry;
        self.take_close += other.take_close;
        self.dead += other.dead;
        self.starved += other.starved;
        self.given_back += other.given_back;
    }

    fn assert_everything(&self) {
        let Seen {
            open,
            wake,
            close_idle,
            postpone,
            retry,
            take_close,
            dead,
            starved,
            given_back,
        } = *self;
        let all = [
            open, wake, close_idle, postpone, retry, take_close, dead, starved, given_back,
        ];
        assert!(all.iter().all(|count| *count > 100), "{self:?}");
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let window_max = 1 + random.below(8) as u32;
        let settings = Settings {
            window_initial: 1 + random.below(u64::from(window_max)) as u32,
            window_max,
            connections_max: 1 + random.below(20) as u32,
            jobs_per_new_connection: 1 + random.below(4) as u32,
            jobs_per_turn: 1 + random.below(10) as u32,
            blocked_wait_max: Duration::from_secs(3 + random.below(60)),
            ..Settings::default()
        };
        let manners = [
            Manner::Fast,
            Manner::Refuses,
            Manner::Unreachable,
            Manner::Breaks,
        ];
        World {
            manners: (0..HOPS)
                .map(|_| manners[random.below(4) as usize])
                .collect(),
            schedule: Schedule::new(settings),
            random,
            now: Now(1),
            connections: Vec::new(),
            waiting: HashSet::new(),
            finished: HashSet::new(),
            next_job: 0,
            healing: false,
            seen: Seen::default(),
        }
    }

    fn manner(&self, hop: HopId) -> Manner {
        if self.healing {
            return Manner::Fast;
        }
        self.manners[*self.schedule.key(hop) as usize]
    }

    fn arrive(&mut self) {
        for _ in 0..self.random.below(20) {
            let job = self.next_job;
            self.next_job += 1;
            assert!(self.waiting.insert(job));
            self.push(job);
        }
    }

    fn push(&mut self, job: u32) {
        self.schedule
            .push(&(u64::from(job) * 7 % HOPS), job, self.now);
    }

    fn defer(&mut self, job: u32) {
        assert!(self.waiting.insert(job), "job {job} came twice");
        let wait = Duration::from_micros(self.random.below(600 * SECOND));
        self.schedule.defer(job, self.now + wait);
    }

    /// Follows the schedule's orders until it has none.
    fn obey(&mut self) {
        while let Some(action) = self.schedule.poll(self.now) {
            self.act(action);
            self.check();
        }
        assert!(self.schedule.deadline().is_none_or(|at| at > self.now));
    }

    fn act(&mut self, action: Action<u32>) {
        let count = match &action {
            Action::Open { .. } => &mut self.seen.open,
            Action::Wake { .. } => &mut self.seen.wake,
            Action::Close { .. } => &mut self.seen.close_idle,
            Action::Postpone { .. } => &mut self.seen.postpone,
            Action::Retry { .. } => &mut self.seen.retry,
        };
        *count += 1;
        match action {
            Action::Open { hop } => self.connections.push((hop, State::Opening, self.now)),
            Action::Wake { hop } => *self.idle_of(hop) = State::Busy(None),
            Action::Close { hop } => *self.idle_of(hop) = State::Closing,
            Action::Postpone { job, .. } => {
                assert!(self.waiting.remove(&job), "job {job} came twice");
                self.defer(job);
            }
            Action::Retry { job } => self.push(job),
        }
    }

    fn idle_of(&mut self, hop: HopId) -> &mut State {
        let mut of_hop = self.connections.iter_mut();
        let idle = of_hop.find(|(of, state, _)| *of == hop && *state == State::Idle);
        &mut idle.expect("an idle connection of that hop").1
    }

    /// Something happens to one connection.
    fn progress(&mut self) {
        if self.connections.is_empty() {
            return;
        }
        let index = self.random.below(self.connections.len() as u64) as usize;
        let (hop, state, began) = self.connections[index];
        let after = match state {
            State::Opening => self.opening(hop, began),
            State::Busy(None) => self.take(hop),
            State::Busy(Some(job)) => self.transaction(hop, job, began),
            State::Idle if self.random.one_in(20) => {
                self.schedule.idle_closed(hop);
                None
            }
            State::Idle => Some(State::Idle),
            State::Closing => {
                self.schedule.closed(hop);
                None
            }
        };
        match after {
            Some(state) => self.connections[index].1 = state,
            None => {
                self.connections.swap_remove(index);
            }
        }
    }

    fn opening(&mut self, hop: HopId, began: Now) -> Option<State> {
        if self.manner(hop) == Manner::Unreachable {
            self.schedule.connect_failed(hop, began, self.now);
            return None;
        }
        self.schedule.connected(hop, Duration::ZERO);
        Some(State::Busy(None))
    }

    fn take(&mut self, hop: HopId) -> Option<State> {
        match self.schedule.take(hop, self.now) {
            Take::Job(job) => {
                assert!(self.waiting.remove(&job), "job {job} came twice");
                Some(State::Busy(Some(job)))
            }
            Take::Wait { until } => {
                assert!(until > self.now);
                Some(State::Idle)
            }
            Take::Close => {
                self.seen.take_close += 1;
                Some(State::Closing)
            }
        }
    }

    fn transaction(&mut self, hop: HopId, job: u32, began: Now) -> Option<State> {
        if self.random.one_in(4)
            && let Some(ahead) = self.schedule.take_ahead(hop, self.now)
        {
            // The host takes long, and others may have it.
            self.schedule.give_back(hop, ahead, self.now);
            self.seen.given_back += 1;
        }
        match self.manner(hop) {
            Manner::Refuses if self.random.one_in(3) => {
                let refusal = if self.random.one_in(2) {
                    Refusal::Mail
                } else {
                    Refusal::Connection
                };
                self.schedule.refused(hop, refusal, self.now);
                self.defer(job);
                Some(State::Busy(None))
            }
            Manner::Breaks if self.random.one_in(2) => {
                self.schedule.broke(hop, began, self.now);
                self.defer(job);
                None
            }
            _ => {
                self.schedule.delivered(hop, Duration::ZERO);
                assert!(self.finished.insert(job), "job {job} delivered twice");
                Some(State::Busy(None))
            }
        }
    }

    fn check(&self) {
        let settings = self.schedule.settings();
        assert_eq!(self.schedule.len(), self.waiting.len());
        assert_eq!(self.schedule.connections() as usize, self.connections.len());
        assert!(self.schedule.connections() <= settings.connections_max);
        let mut sum = 0;
        for (key, (), status) in self.schedule.hops_in(0..usize::MAX) {
            let hop = self.schedule.hop(key).expect("known by its key");
            let of_hop = self.connections.iter().filter(|(of, _, _)| *of == hop);
            let count = |wanted: fn(&State) -> bool| {
                of_hop.clone().filter(|(_, state, _)| wanted(state)).count() as u32
            };
            assert_eq!(status.opening, count(|state| *state == State::Opening));
            assert_eq!(status.idle, count(|state| *state == State::Idle));
            let busy = count(|state| matches!(state, State::Busy(_) | State::Closing));
            assert_eq!(status.busy, busy);
            assert!(1 <= status.window && status.window <= settings.window_max);
            let all = status.opening + status.idle + status.busy;
            assert!(all <= settings.window_max, "{key}: {status:?}");
            sum += all;
        }
        assert_eq!(sum, self.schedule.connections());
        self.schedule.check();
    }

    fn step(&mut self) {
        if !self.healing && self.random.one_in(10) {
            self.arrive();
        }
        self.obey();
        self.progress();
        self.check();
        let mut hops = self.schedule.hops_in(0..usize::MAX);
        self.seen.dead += u32::from(hops.any(|(_, (), status)| status.is_dead));
        self.seen.starved += u32::from(self.schedule.starved.iter().any(|it| !it.is_empty()));
        drop(hops);
        self.now = self.now + Duration::from_micros(self.random.below(20 * MILLISECOND));
    }

    /// With every hop well and the clock moving only to deadlines when all connections rest,
    /// everything is delivered: no job is lost, no deadline is late, nobody starves.
    fn drain(&mut self) {
        self.healing = true;
        let mut quiet = 0;
        while !self.schedule.is_empty() || self.connections.iter().any(at_work) {
            self.obey();
            self.progress();
            self.check();
            quiet += 1;
            if !self.connections.iter().any(at_work) {
                self.obey();
                if let Some(at) = self.schedule.deadline() {
                    self.now = self.now.max(at);
                }
            }
            assert!(quiet < 1_000_000, "stuck with {} jobs", self.schedule.len());
        }
        assert_eq!(self.finished.len(), self.next_job as usize);
    }
}

fn at_work((_, state, _): &(HopId, State, Now)) -> bool {
    *state != State::Idle
}

fn run(seed: u64) -> (Now, Seen) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.drain();
    (world.now, world.seen)
}

#[test]
fn no_job_is_lost_or_doubled_whatever_happens() {
    let mut seen = Seen::default();
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "failed with seed {seed}");
        seen.add(outcome.expect("just seen to be well").1);
    }
    seen.assert_everything();
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    assert_eq!(run(4711), run(4711));
}

/// Every hop always has work, and there are fewer connections than hops: each hop is served
/// within a bounded number of jobs of the others.
#[test]
fn no_hop_starves_among_busy_ones() {
    let mut schedule: Schedule<u64, u64> = Schedule::new(Settings {
        connections_max: 10,
        jobs_per_turn: 5,
        ..Settings::default()
    });
    let hops = 40_u64;
    let mut last_served = vec![0_u64; hops as usize];
    let mut connections: VecDeque<HopId> = VecDeque::new();
    for job in 0..hops * 100 {
        schedule.push(&(job % hops), job, Now(0));
    }
    for round in 1..20_000_u64 {
        let now = Now(round * 100);
        while let Some(action) = schedule.poll(now) {
            let Action::Open { hop } = action else {
                panic!("{action:?}");
            };
            schedule.connected(hop, Duration::ZERO);
            connections.push_back(hop);
        }
        let hop = connections.pop_front().expect("a connection at work");
        match schedule.take(hop, now) {
            Take::Job(job) => {
                schedule.delivered(hop, Duration::ZERO);
                last_served[(job % hops) as usize] = round;
                schedule.push(&(job % hops), job, now);
                connections.push_back(hop);
            }
            Take::Wait { .. } => panic!("there is always work"),
            Take::Close => schedule.closed(hop),
        }
        let longest = last_served.iter().map(|served| round - served).max();
        assert!(longest < Some(hops * 20), "round {round}: {last_served:?}");
    }
}
