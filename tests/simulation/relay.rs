//! The cores of one run of the relay, and the lanes between them: stands in for `engine::core`.

use crate::ahead::AheadPlace;
use crate::canary::Canary;
use crate::delivery::HopState;
use crate::job::{Account, Job, Message};
use crate::network::Network;
use crate::sites::SITES;
use crate::spool::Spool;
use crate::world::{Owner, World, until};
use ringpost::handoff::job::Body;
use ringpost::handoff::memory::{Budget, Memory};
use ringpost::message::MessageId;
use ringpost::schedule::next_hop::{Schedule, Settings};
use ringpost::schedule::outcome::RecipientState;
use ringpost::schedule::retry::RetryPolicy;
use ringpost::schedule::settle::{Recipients, due_of};
use ringpost::session::Room;
use ringpost::spool::Generation;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use crate::session::RECIPIENTS_MAX;

pub const HOSTNAME: &str = "relay.test";

/// What the queue may hold, small enough to be full now and then.
const MEMORY_BYTES: [u64; 3] = [60_000, 400_000, 10_000_000];

/// What one core tells another.
enum Item {
    Deliver(Job),
    Finished(MessageId),
    Retired(Generation, Vec<Generation>),
}

pub struct Part {
    pub spool: Rc<Spool>,
    pub schedule: RefCell<Schedule<usize, Job, HopState>>,
    pub budget: Budget,
    /// Connections that may have a job ahead of its turn.
    pub aheads: RefCell<Vec<Rc<AheadPlace>>>,
    /// Connections that the schedule knows of.
    pub workers: Cell<u32>,
}

pub struct Relay {
    pub world: Rc<World>,
    pub network: Rc<Network>,
    parts: Vec<Part>,
    lanes: RefCell<Vec<(usize, usize, Item)>>,
    memory: Arc<Memory>,
    account: Rc<Account>,
    pub retry: RetryPolicy,
    pub report_retry: RetryPolicy,
    /// Bodies beyond go to the log in pieces as they come.
    pub body_room: Room,
    pub recipients_per_transaction: usize,
    pub transactions_per_connection: u32,
}

/// One core of the relay.
#[derive(Clone)]
pub struct Core {
    pub relay: Rc<Relay>,
    pub number: usize,
}

impl Relay {
    pub fn new(world: &Rc<World>, network: &Rc<Network>, spools: Vec<Rc<Spool>>) -> Rc<Relay> {
        let memory = Memory::new(spools.len(), *world.pick(&MEMORY_BYTES));
        let retry = network.retry;
        let window_max = 1 + world.below(6) as u32;
        let window_initial = 1 + world.below(window_max as usize) as u32;
        world.ledger.borrow_mut().bounds.opening_max = window_initial;
        let settings = Settings {
            window_initial: match world.canary {
                Canary::JoinsWithoutLimit => window_max,
                _ => window_initial,
            },
            window_max,
            connections_max: 2 + world.below(8) as u32,
            jobs_per_new_connection: 1 + world.below(3) as u32,
            idle_wait: Duration::from_secs(2),
            ..Settings::default()
        };
        world.ledger.borrow_mut().bounds.has_room_for_all =
            settings.connections_max >= SITES as u32;
        let part = |(number, spool)| Part {
            spool,
            schedule: RefCell::new(Schedule::new(settings.clone().within(&retry))),
            budget: Budget::new(memory.clone(), number),
            aheads: RefCell::default(),
            workers: Cell::new(0),
        };
        Rc::new(Relay {
            world: world.clone(),
            network: network.clone(),
            parts: spools.into_iter().enumerate().map(part).collect(),
            lanes: RefCell::default(),
            account: Rc::default(),
            retry,
            report_retry: network.report_retry,
            body_room: Room {
                chunk_bytes: 1000 + world.below(20_000),
                whole_bytes: *world.pick(&[0, 2000, 100_000]),
            },
            recipients_per_transaction: 1 + world.below(4),
            transactions_per_connection: 1 + world.below(6) as u32,
            memory,
        })
    }

    pub fn start(self: &Rc<Self>) {
        for core in self.each_core() {
            core.spool().start();
            let world = &self.world;
            world.spawn(Owner::Relay, core.clone().give_back_late());
            world.spawn(Owner::Relay, async move { core.drive().await });
        }
        let relay = self.clone();
        let pump = async move { relay.pump().await };
        self.world.spawn(Owner::Relay, pump);
    }

    fn each_core(self: &Rc<Self>) -> Vec<Core> {
        let core = |number| Core {
            relay: self.clone(),
            number,
        };
        (0..self.parts.len()).map(core).collect()
    }

    pub fn any_core(self: &Rc<Self>) -> Core {
        Core {
            relay: self.clone(),
            number: self.world.below(self.parts.len()),
        }
    }

    pub fn cores(&self) -> usize {
        self.parts.len()
    }

    pub fn spool(&self, core: usize) -> &Rc<Spool> {
        &self.parts[core].spool
    }

    /// Where messages are counted.
    pub fn books(&self) -> (&Rc<Account>, &Memory) {
        (&self.account, &self.memory)
    }

    // ---- lanes ----

    /// Takes what any core has sent to another; of one to one in order.
    async fn pump(self: Rc<Self>) {
        loop {
            let (from, to, item) = until(&self.world, || self.take_from_lanes()).await;
            let core = Core {
                relay: self.clone(),
                number: to,
            };
            match item {
                Item::Deliver(job) => core.submit(job),
                Item::Finished(id) => core.spool().message_finished(id),
                Item::Retired(generation, moved_to) => {
                    assert_ne!(from, to);
                    core.spool().receive_note(generation, &moved_to);
                }
            }
        }
    }

    fn take_from_lanes(&self) -> Option<(usize, usize, Item)> {
        let lanes = &mut *self.lanes.borrow_mut();
        for (from, part) in self.parts.iter().enumerate() {
            for (generation, moved_to) in part.spool.notes.take() {
                for to in (0..self.parts.len()).filter(|to| *to != from) {
                    lanes.push((from, to, Item::Retired(generation, moved_to.clone())));
                }
            }
        }
        if lanes.is_empty() {
            return None;
        }
        let (from, to, _) = lanes[self.world.below(lanes.len())];
        let first = lanes.iter().position(|it| (it.0, it.1) == (from, to));
        Some(lanes.remove(first.expect("it is there")))
    }

    fn send(&self, from: usize, to: usize, item: Item) {
        self.lanes.borrow_mut().push((from, to, item));
    }

    /// The core that delivers a recipient: the one that its domain is for. A report goes the way of
    /// the reverse-path, from whichever core owes it.
    fn split_by_core(
        &self,
        message: &Message,
        recipients: Recipients,
    ) -> BTreeMap<usize, Recipients> {
        let mut split: BTreeMap<usize, Recipients> = BTreeMap::new();
        for (index, state) in recipients {
            let forward_path = &message.envelope.recipients[index as usize].forward_path;
            let hash = crc32c::crc32c(forward_path.domain_as_written().as_bytes());
            let core = hash as usize % self.parts.len();
            split.entry(core).or_default().push((index, state));
        }
        split
    }

    /// Mail that an earlier run accepted: recipients that are not due wait.
    pub fn resume(self: &Rc<Self>, message: &Rc<Message>, recipients: Recipients) {
        for (number, recipients) in self.split_by_core(message, recipients) {
            let core = Core {
                relay: self.clone(),
                number,
            };
            let due = recipients.iter().map(|(_, state)| due_of(state)).min();
            let wait = due.map_or(Duration::ZERO, |due| due.since(self.world.wall_time()));
            core.defer(Job::new(message.clone(), None, recipients), wait);
        }
    }

    // ---- what must always hold ----

    pub fn check(&self) -> Result<(), String> {
        self.account.check()?;
        for part in &self.parts {
            let schedule = part.schedule.borrow();
            let settings = schedule.settings();
            if schedule.connections() > settings.connections_max {
                return Err(format!("{} connections", schedule.connections()));
            }
            if schedule.connections() != part.workers.get() {
                let (known, there) = (schedule.connections(), part.workers.get());
                return Err(format!("{known} connections are known, {there} are there"));
            }
            for (hop, _, status) in schedule.hops_in(0..schedule.places()) {
                let all = status.opening + status.busy + status.idle;
                let window = 1..=settings.window_max;
                if all > settings.window_max || !window.contains(&status.window) {
                    return Err(format!("hop {hop} is out of its window: {status:?}"));
                }
            }
        }
        Ok(())
    }

    /// The disk is large from here on.
    pub fn lift_limits(&self) {
        for part in &self.parts {
            part.spool.pool.borrow_mut().files_max = 1000;
        }
    }

    /// Nothing waits, nothing is on its way, and nobody is connected.
    pub fn is_drained(&self) -> bool {
        let is_drained = |part: &Part| {
            let schedule = part.schedule.borrow();
            schedule.is_empty() && part.workers.get() == 0 && part.spool.live_messages() == 0
        };
        self.parts.iter().all(is_drained)
            && self.account.open.get() == 0
            && self.lanes.borrow().is_empty()
    }

    /// Of a relay that is drained and serves nobody.
    pub fn check_drained(&self) -> Result<(), String> {
        match self.memory.held_bytes() {
            0 => Ok(()),
            held => Err(format!("nothing is there, and {held} bytes are held")),
        }
    }

    pub fn describe(&self) -> String {
        let part = |part: &Part| {
            let schedule = part.schedule.borrow();
            format!(
                "{} jobs ({} deferred), {} connections, {}; ",
                schedule.len(),
                schedule.deferred(),
                part.workers.get(),
                part.spool.describe()
            )
        };
        let parts: String = self.parts.iter().map(part).collect();
        format!("{parts}{:?}", self.account)
    }
}

impl Core {
    pub fn part(&self) -> &Part {
        &self.relay.parts[self.number]
    }

    pub fn spool(&self) -> &Rc<Spool> {
        &self.part().spool
    }

    pub fn world(&self) -> &Rc<World> {
        &self.relay.world
    }

    /// A message is durable: its recipients go to the cores that deliver them.
    pub fn accepted(&self, message: &Rc<Message>, body: Option<Arc<Body>>) {
        let count = message.envelope.recipients.len() as u32;
        let fresh = (0..count).map(|index| (index, RecipientState::fresh()));
        self.spool().keep(message);
        for (core, recipients) in self.relay.split_by_core(message, fresh.collect()) {
            let job = Job::new(message.clone(), body.clone(), recipients);
            match core == self.number {
                true => self.submit(job),
                false => self.relay.send(self.number, core, Item::Deliver(job)),
            }
        }
    }

    /// So many more recipients of a message are finished, and that is durable.
    pub fn finished(&self, message: &Rc<Message>, recipients: usize) {
        if !message.finish(recipients) {
            return;
        }
        if self.world().canary == Canary::LeaksMemory {
            std::mem::forget(message.clone());
        }
        match message.home == self.number {
            true => self.spool().message_finished(message.id),
            false => {
                let item = Item::Finished(message.id);
                self.relay.send(self.number, message.home, item);
            }
        }
    }
}
