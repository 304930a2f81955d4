//! The relay as a whole in a world of its own: clients, cores, a disk and next hops, without threads, sockets
//! or clocks. Everything random comes from one seed.
//!
//! Real are all the pure parts: `smtp::server` and `smtp::client`, the schedule with its retries, judgements,
//! outcomes and reports, the place of a job taken ahead, and of the spool the commit machines, the records, the books, the standing and the
//! survey; and what memory the queue is charged. Stand-ins, written anew for the virtual world, are the drivers
//! around them, each named in the head of its file in `simulation/`: for `session`, `delivery`, `remote::connection`,
//! the tasks of `spool::live`, `spool::recovery::recover`, and `engine::core`. They call the same pure functions in the same
//! order; what a verdict makes of a recipient is `schedule::settle`, here and there. Not here: TLS, DNS beyond a
//! yes, a no and a not now, damage (`spool_simulation`), and the drain.
//!
//! Clients and next hops share no code with the relay. They and the `ledger` know what really happened;
//! `promises` is what must be true of it.
//!
//! `RINGPOST_SIMULATION_SEED=n` replays one seed and tells its story (`-- --nocapture`),
//! `RINGPOST_SIMULATION_SEEDS=n` runs so many.

#[macro_use]
#[path = "support/simulated/mod.rs"]
mod simulated;

#[macro_use]
#[path = "simulation/world.rs"]
mod world;

#[path = "simulation/ahead.rs"]
mod ahead;
#[path = "simulation/bounds.rs"]
mod bounds;
#[path = "simulation/canary.rs"]
mod canary;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/delivery.rs"]
mod delivery;
#[path = "simulation/host.rs"]
mod host;
#[path = "simulation/job.rs"]
mod job;
#[path = "simulation/keeper.rs"]
mod keeper;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/link.rs"]
mod link;
#[path = "simulation/mover.rs"]
mod mover;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/place.rs"]
mod place;
#[path = "simulation/power.rs"]
mod power;
#[path = "simulation/promises.rs"]
mod promises;
#[path = "simulation/recovery.rs"]
mod recovery;
#[path = "simulation/relay.rs"]
mod relay;
#[path = "simulation/seen.rs"]
mod seen;
#[path = "simulation/session.rs"]
mod session;
#[path = "simulation/session_to_host.rs"]
mod session_to_host;
#[path = "simulation/sites.rs"]
mod sites;
#[path = "simulation/spool.rs"]
mod spool;
#[path = "simulation/trouble.rs"]
mod trouble;
#[path = "simulation/worker.rs"]
mod worker;

use canary::Canary;
use ledger::Stats;
use network::Network;
use relay::Relay;
use seen::Seen;
use simulated::seeds::{assert_noticed, play_all, seeds};
use sites::{RESTARTING_SITE, SPOTLESS_SITE};
use std::rc::Rc;
use std::time::Duration;
use world::{Owner, Telling, World};

/// Of an ordinary run.
const SEEDS: u64 = 2000;
/// Within so many seeds each planted bug must be found.
const SEEDS_TO_FIND_A_BUG: u64 = 400;
const CLIENTS_AT_ONCE: usize = 6;
const CLIENTS_IN_A_RUSH: usize = 20;
/// Turns that the last run may take until nothing is left.
const TURNS_MAX: u32 = 400_000;

struct Simulation {
    world: Rc<World>,
    network: Rc<Network>,
    relay: Rc<Relay>,
    runs: u32,
    clients: Rc<()>,
}

impl Simulation {
    fn new(seed: u64, canary: Canary, telling: Telling) -> Simulation {
        let world = World::new(seed, canary, telling);
        let network = Network::new(&world);
        let relay = recovery::start(&world, &network, 1);
        Simulation {
            world,
            network,
            relay,
            runs: 1,
            clients: Rc::new(()),
        }
    }

    /// Several runs, all but the last ended by a power cut; then everything heals and drains.
    fn play(&mut self) -> Result<(), String> {
        for _ in 0..1 + self.world.below(3) {
            self.run()?;
            if self.world.one_in(4) {
                self.rush()?;
            }
            self.cut_power();
            self.world.verdict()?;
        }
        self.drain()?;
        self.finish()
    }

    fn run(&mut self) -> Result<(), String> {
        self.relay.start();
        let luck = *self.world.pick(&[0, 40, 200, 10]);
        self.world.power.borrow_mut().write_luck = luck;
        let clients = 1 + self.world.below(CLIENTS_AT_ONCE);
        for _ in 0..200 + self.world.below(1800) {
            self.step(clients);
            self.world.verdict()?;
            self.relay.check()?;
        }
        Ok(())
    }

    /// Many clients whose mail is mostly for one site, in real time: queues grow long, and hosts restart.
    fn rush(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        let favourite = *world.pick(&[SPOTLESS_SITE, RESTARTING_SITE, RESTARTING_SITE]);
        self.network.sites.favourite.set(Some(favourite));
        let mut to_come = CLIENTS_IN_A_RUSH;
        for _ in 0..300 + world.below(700) {
            if to_come > 0 && world.one_in(4) {
                to_come -= 1;
                self.visit();
            }
            // At the worst time, mostly.
            let is_worst = self.network.sites.receiving() > 0;
            if world.one_in(if is_worst { 8 } else { 400 }) {
                self.network.sites.restart(&world);
            }
            self.turn()?;
        }
        self.network.sites.favourite.set(None);
        Ok(())
    }

    /// Everybody has a look; then it is later. False: nobody waits for anything.
    fn turn(&mut self) -> Result<bool, String> {
        let world = &self.world;
        let before = world.progress();
        world.forget_awaited();
        (0..world.tasks()).rev().for_each(|task| self.poll(task));
        world.power.borrow_mut().complete_one(world);
        world.verdict()?;
        self.relay.check()?;
        if world.progress() == before {
            return Ok(world.pass_to_next());
        }
        world.pass(Duration::from_micros(100));
        Ok(true)
    }

    fn step(&mut self, clients: usize) {
        let world = self.world.clone();
        world.pass(Duration::from_micros(world.below(400) as u64));
        match world.below(40) {
            0 if Rc::strong_count(&self.clients) <= clients => self.visit(),
            6 if world.one_in(30) => self.network.sites.restart(&world),
            1..5 => world.power.borrow_mut().complete_one(&world),
            // A while in which nobody comes to anything.
            5 if world.one_in(4) => {
                world.forget_awaited();
                (0..world.tasks()).rev().for_each(|task| self.poll(task));
                let before = world.now();
                world.pass_to_next();
                let passed = world.now().since(before);
                world.ledger.borrow_mut().bounds.stood_still(passed);
            }
            _ => {
                let tasks = world.tasks();
                if tasks > 0 {
                    self.poll(world.below(tasks));
                }
            }
        }
    }

    /// A task may have ended those behind it.
    fn poll(&self, task: usize) {
        if task < self.world.tasks() {
            self.world.poll(task);
        }
    }

    fn visit(&self) {
        let (ours, theirs) = link::connect(&self.world);
        session::serve(self.relay.any_core(), theirs);
        let (world, network) = (self.world.clone(), self.network.clone());
        let present = self.clients.clone();
        self.world.spawn(Owner::Outside, async move {
            client::visit(world, network, ours).await;
            drop(present);
        });
    }

    fn cut_power(&mut self) {
        let world = self.world.clone();
        tell!(world, "the power is cut");
        world.seen.borrow_mut().power_cuts += 1;
        world.power.borrow_mut().cut(&world);
        world.end_tasks_of(Owner::Relay);
        world.ledger.borrow_mut().power_cut();
        self.runs += 1;
        self.relay = recovery::start(&world, &self.network, self.runs);
    }

    /// Everything outside is well, and nothing new comes in: all that was accepted must go.
    fn drain(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        world.is_healed.set(true);
        world.power.borrow_mut().write_luck = 0;
        self.relay.lift_limits();
        self.relay.start();
        for _ in 0..TURNS_MAX {
            let is_alive = self.turn()?;
            if self.is_drained() {
                return self.empty();
            }
            if !is_alive {
                return Err(format!("nothing happens: {}", self.relay.describe()));
            }
        }
        Err(format!("it does not drain: {}", self.relay.describe()))
    }

    fn is_drained(&self) -> bool {
        Rc::strong_count(&self.clients) == 1
            && self.relay.is_drained()
            && !self.world.power.borrow().has_pending()
    }

    /// Whoever is still about to let go of a message does.
    fn empty(&self) -> Result<(), String> {
        for _ in 0..100 {
            (0..self.world.tasks())
                .rev()
                .for_each(|task| self.poll(task));
            self.world.power.borrow_mut().complete_one(&self.world);
        }
        self.relay.check_drained()
    }

    fn finish(&mut self) -> Result<(), String> {
        let world = &self.world;
        let complaints = world.ledger.borrow().at_the_end(world.now());
        complaints.into_iter().for_each(|it| world.accuse(it));
        tell!(world, "{}", world.ledger.borrow().describe());
        world.verdict()
    }
}

impl Drop for Simulation {
    /// The tasks hold the world that holds them.
    fn drop(&mut self) {
        self.world.end_tasks_of(Owner::Relay);
        self.world.end_tasks_of(Owner::Outside);
    }
}

/// Plays one seed. What was seen, or the story of a broken promise.
fn play(seed: u64, canary: Canary, telling: Telling) -> Result<(Seen, Stats, (u32, u32)), String> {
    let mut simulation = Simulation::new(seed, canary, telling);
    simulation.play()?;
    let world = &simulation.world;
    let (seen, stats) = (*world.seen.borrow(), world.ledger.borrow().stats);
    Ok((seen, stats, world.digest()))
}

/// A panic is a broken promise, too.
fn play_safely(seed: u64, canary: Canary) -> Result<(Seen, Stats), String> {
    let telling = match std::env::var("RINGPOST_SIMULATION_SEED") {
        Ok(_) => Telling::Aloud,
        Err(_) => Telling::Silent,
    };
    let played = std::panic::catch_unwind(|| play(seed, canary, telling));
    let (seen, stats, _) = played.unwrap_or_else(|_| Err("a panic".to_owned()))?;
    Ok((seen, stats))
}

#[test]
fn every_promise_holds_whatever_happens() {
    let all = seeds(SEEDS);
    let play = |seed| play_safely(seed, Canary::None);
    let (seen, stats) = play_all(&all, play, |sum: &mut (Seen, Stats), (seen, stats)| {
        sum.0.add(seen);
        sum.1.add(stats);
    });
    println!("{} seeds: {stats:?} {seen:?}", all.end - all.start);
    // Nothing is avoided.
    if all.end - all.start >= SEEDS {
        let rare = seen.rarer_than(5);
        assert!(rare.is_empty(), "these happen too seldom: {rare:?}");
        assert!(stats.repetitions > SEEDS / 2 && stats.reports > SEEDS);
        let stored = seen.accepted + seen.recovered;
        assert!(seen.moves < 2 * stored, "{} of {stored}", seen.moves);
    }
}

#[test]
fn a_seed_gives_the_same_world_twice() {
    for seed in 0..40 {
        let play = || play(seed, Canary::None, Telling::Digested).expect("it plays");
        assert_eq!(play(), play(), "seed {seed}");
    }
}

/// Each of these breaks a promise, so the checks must notice each, some sooner than others.
#[test]
fn planted_bugs_are_noticed() {
    let canaries = Canary::ALL.map(|canary| (canary, 0));
    assert_noticed(&canaries, SEEDS_TO_FIND_A_BUG, play_safely);
}
