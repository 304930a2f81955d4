//! One seed: several runs of a relay, each ended by a power cut, a kill or a drain, each with another number of cores;
//! then everything heals, and whoever waits too long complains.

mod quiet;
mod spell;

use crate::bounds::Bounds;
use crate::client;
use crate::ledger::parse_address;
use crate::link::{End, Tls};
use crate::logged::Logged;
use crate::network::Network;
use crate::plan::{Choice, Plan};
use crate::relay::{Setting, keys, listens_at};
use crate::seen::Seen;
use crate::sites::{RESTARTING_SITE, SITES, SPOTLESS_SITE};
use crate::world::World;
use ringpost::engine::simulated::{Relay, open_spool};
use ringpost::io::Bug;
use ringpost::io::net::Socket;
use ringpost::io::simulated::{self, Faults, Guard, Links, Order, Owner};
use ringpost::log::LogLevel;
use ringpost::spool::{OpenError, Opened, RecoveredMessage};
use ringpost::time::Now;
use ringpost::tls::{ClientTls, ServerTls, Versions};
use std::cell::Cell;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

const CLIENTS_AT_ONCE: usize = 6;
const CLIENTS_IN_A_RUSH: usize = 20;
/// A core stands still for less than this.
const HOLD_US_MAX: usize = 2_000_000;
/// A drain lets transactions end; none takes longer than this here.
const DRAIN_MAX: Duration = Duration::from_secs(120);
/// The outcomes of so many recipients never wait for the disk at once, but when it is dead.
const RECIPIENTS_HELD_NEVER: usize = 1000;
/// A turn takes some microseconds, so this is far more than any time bound above.
const POLLS_MAX: u64 = 6_000_000;
const PLENTY: u64 = 1 << 40;

/// A network without fault.
fn quiet_links() -> Links {
    Links {
        window: 64 * 1024,
        latency_max: Duration::from_millis(1),
        ..Links::default()
    }
}

pub struct Play {
    pub host: Guard,
    pub world: Rc<World>,
    network: Rc<Network>,
    setting: Setting,
    tls: Option<Rc<ClientTls>>,
    /// What this host's file system cannot do.
    lacks: Faults,
    clients: Rc<()>,
    sources: Cell<u32>,
    relay: Option<Relay>,
    /// Of the relay that was started last.
    cores: u16,
    is_told: bool,
    /// `None`: nobody reads the log.
    logged: Option<Logged>,
}

impl Play {
    pub fn new(seed: u64, plan: &Plan, bug: Option<Bug>, is_told: bool) -> Play {
        let host = simulated::World::begin(plan.stream(seed), is_told);
        host.plant(bug);
        let is_log_read = seed.is_multiple_of(2);
        if is_log_read {
            host.keep_log();
        }
        let world = World::new(&host, plan);
        let setting = Setting::draw(&world);
        let server = || ServerTls::new(&keys(), Versions::default()).expect("it has a key");
        let client = || ClientTls::new(Versions::default()).expect("it needs nothing");
        let network = Network::new(&world, setting.has_tls.then(|| Rc::new(server())));
        host.spawn(Owner::Outside, ringpost::io::runtime::tick());
        let lacks = Faults {
            has_no_direct: world.may(Choice::Lacks, 4),
            has_no_unnamed: world.may(Choice::Lacks, 4),
            has_no_fallocate: world.may(Choice::Lacks, 4),
            ..Faults::default()
        };
        Play {
            tls: setting.has_tls.then(|| Rc::new(client())),
            host,
            world,
            network,
            setting,
            lacks,
            clients: Rc::new(()),
            sources: Cell::new(0),
            relay: None,
            cores: 0,
            is_told,
            logged: is_log_read.then(Logged::default),
        }
    }

    pub fn play(&mut self) -> Result<(), String> {
        self.choose_links();
        let runs = 1 + self.host.below(3);
        for _ in 0..runs.min(self.world.plan.most(Choice::Runs)) {
            self.choose_order();
            self.start()?;
            self.run()?;
            self.end()?;
        }
        self.host.set_order(Order::Fifo);
        self.heal()
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        let stats = self.world.ledger.borrow().stats;
        Seen {
            polls: self.host.polls(),
            simulated_s: self.host.now().0 / 1_000_000,
            deliveries: stats.deliveries,
            repetitions: stats.repetitions,
            reports: stats.reports,
            reports_of_many: stats.reports_of_many,
            for_newcomers: self.deliveries_for_newcomers(),
            ..*self.world.seen.borrow()
        }
    }

    fn deliveries_for_newcomers(&self) -> u64 {
        let ledger = self.world.ledger.borrow();
        let all = ledger.letters.values();
        let all = all.flat_map(|letter| letter.envelope.recipients.iter().zip(&letter.fates));
        let newcomers = self.network.sites.newcomers.borrow();
        let is_newcomers = |domain: &str| newcomers.iter().any(|it| it == domain);
        let theirs = all.filter(|(it, _)| is_newcomers(it.forward_path.domain_as_written()));
        theirs.map(|(_, fate)| u64::from(fate.deliveries)).sum()
    }

    fn choose_order(&self) {
        let starved = Owner::Core(self.host.below(3) as u16);
        self.host.set_order(match self.host.below(6) {
            _ if !self.world.plan.allows(Choice::Orders) => Order::Fifo,
            0 | 1 => Order::Fifo,
            2 => Order::WholeTurns,
            3 => Order::Starves(starved),
            _ => Order::Any,
        });
    }

    fn choose_links(&self) {
        let pick = |chances: [usize; 3]| chances[self.host.below(3)];
        let links = Links {
            window: pick([4, 64, 1024]) * 1024,
            latency_max: Duration::from_micros(pick([10, 1000, 20_000]) as u64),
            short_reads: pick([0, 4, 4]),
            short_writes: pick([0, 4, 40]),
            losses_at_reset: pick([0, 2, 2]),
            accept_errors: pick([0, 0, 20]),
        };
        self.host
            .set_links(match self.world.plan.allows(Choice::Links) {
                true => links,
                false => quiet_links(),
            });
    }

    // ---- the start ----

    fn start(&mut self) -> Result<(), String> {
        let cores = 1 + self.host.below(4);
        let cores = cores.min(self.world.plan.most(Choice::Cores)) as u16;
        self.start_with(cores)
    }

    fn start_with(&mut self, cores: u16) -> Result<(), String> {
        self.host.set_faults(self.lacks);
        self.host.set_space(PLENTY, 0);
        self.cores = cores;
        let opened = self.open(cores)?;
        self.check(&opened.messages)?;
        self.world.seen.borrow_mut().starts += 1;
        self.world.seen.borrow_mut().recovered += opened.messages.len() as u64;
        if let Some(logged) = &mut self.logged {
            logged.begin(&opened.messages);
        }
        let level = match self.is_told || self.logged.is_some() {
            true => LogLevel::Info,
            false => LogLevel::Error,
        };
        let config = self.setting.config.clone();
        tell!(self.world, "[{cores} cores start]");
        let mut ledger = self.world.ledger.borrow_mut();
        ledger.bounds = Bounds::default();
        ledger.told.begin_run(self.host.now());
        drop(ledger);
        let relay = Relay::start(&self.host, config, keys(), opened, level)?;
        self.relay = Some(relay);
        let is_ready = || self.relay.as_ref().expect("just started").is_ready();
        match self.pass(Duration::from_secs(10), || is_ready() == Ok(true))? {
            true => Ok(()),
            false => Err(format!("it does not start: {:?}", is_ready())),
        }
    }

    /// Perhaps only after the power has gone within that.
    fn open(&self, cores: u16) -> Result<Opened, String> {
        loop {
            let calls = self
                .world
                .may(Choice::Ends, 6)
                .then(|| self.host.below(40) as u32);
            self.host.set_calls_left(calls);
            let opened = open_spool(&self.setting.config, cores);
            let is_cut = self.host.is_out_of_calls();
            self.host.set_calls_left(None);
            if is_cut {
                drop(opened);
                self.host.cut_power();
                continue;
            }
            let opened = match opened {
                Ok(opened) => opened,
                Err(OpenError::Io(_, error)) if error.kind() == ErrorKind::StorageFull => {
                    self.host.set_space(PLENTY, 0);
                    continue;
                }
                Err(error) => return Err(format!("it does not start: {error}")),
            };
            return match opened.report.is_sound() {
                true => Ok(opened),
                false => Err(format!("a crash looks like damage:\n{}", opened.report)),
            };
        }
    }

    /// What was found must be allowed by what happened outside, and nothing may be missing.
    fn check(&self, messages: &[RecoveredMessage]) -> Result<(), String> {
        let now = self.world.now();
        let mut ledger = self.world.ledger.borrow_mut();
        ledger.begin_check();
        let mut complaints = Vec::new();
        for found in messages {
            let path = &found.envelope.recipients[0].forward_path;
            if let Some((_, number)) = parse_address(path.local_part()) {
                ledger.by_id.insert(found.id, number);
            }
            let complaint = ledger.found(now, found.id, &found.envelope, &found.states);
            complaints.extend(complaint);
        }
        complaints.extend(ledger.end_check(now));
        drop(ledger);
        complaints.into_iter().for_each(|it| self.world.accuse(it));
        self.world.verdict()
    }

    // ---- a run ----

    fn faults(&self) -> Faults {
        let host = &self.host;
        let pick = |chances: [usize; 4]| chances[host.below(4)];
        let faults = Faults {
            write_errors: pick([0, 0, 0, 60]),
            short_writes: pick([0, 4, 4, 4]),
            interruptions: pick([0, 20, 20, 20]),
            read_errors: pick([0, 0, 0, 50]),
            sync_errors: pick([0, 0, 0, 20]),
            call_errors: pick([0, 0, 0, 30]),
            delays: pick([0, 0, 0, 100]),
            ..self.lacks
        };
        match self.world.plan.allows(Choice::DiskFaults) {
            true => faults,
            false => self.lacks,
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let faults = self.faults();
        self.host.set_faults(faults);
        let is_narrow = self.setting.config.delivery.unrecorded_max < RECIPIENTS_HELD_NEVER;
        if is_narrow && faults.write_errors + faults.sync_errors + faults.delays > 0 {
            // Mail may be held for the disk.
            self.world.ledger.borrow_mut().bounds.held_until = Now::NEVER;
        }
        // A sync that is interrupted counts as failed.
        let of_writes = faults.write_errors + faults.call_errors;
        let of_syncs = faults.sync_errors + faults.interruptions;
        self.world.has_disk_trouble.set(of_writes + of_syncs > 0);
        if self.world.may(Choice::Spells, 3) {
            return self.have_spell();
        }
        let length = Duration::from_millis(200 + self.host.below(6000) as u64);
        let until = self.host.now() + length;
        let is_rush = self.host.one_in(4);
        let most = match is_rush {
            true => CLIENTS_IN_A_RUSH,
            false => 1 + self.host.below(CLIENTS_AT_ONCE),
        };
        if is_rush {
            let sites = [SPOTLESS_SITE, RESTARTING_SITE, RESTARTING_SITE];
            self.network
                .sites
                .favourite
                .set(Some(*self.world.pick(&sites)));
        }
        while self.host.now() < until {
            if Rc::strong_count(&self.clients) <= most {
                self.visit();
            }
            // At the worst time, mostly.
            let is_worst = self.network.sites.receiving() > 0;
            let chances = if is_worst { 8 } else { 100 };
            if self.world.may(Choice::Restarts, chances) {
                self.network.restart();
            }
            if self.world.may(Choice::Reloads, 30) {
                self.reload();
            }
            let pause = Duration::from_micros(self.host.below(100_000) as u64);
            self.pass(pause, || false)?;
        }
        self.network.sites.favourite.set(None);
        Ok(())
    }

    /// As on SIGHUP, with one domain more, which name servers know nothing of: only its route leads anywhere. Clients
    /// have waited for it, and a core may hear of it late.
    fn reload(&mut self) {
        self.world.seen.borrow_mut().reloads += 1;
        let site = self.host.below(SITES);
        let newcomers = &self.network.sites.newcomers;
        let number = newcomers.borrow().len();
        let domain = format!("d{site}-new{number}.test");
        tell!(self.world, "[SIGHUP: {domain} is new]");
        self.setting.add_domain(&domain, &format!("d{site}.test"));
        newcomers.borrow_mut().push(domain);
        if self.world.may(Choice::Holds, 2) && !self.host.is_any_held() {
            self.world.seen.borrow_mut().holds += 1;
            let core = Owner::Core(self.host.below(3) as u16);
            let time = Duration::from_micros(self.host.below(HOLD_US_MAX) as u64);
            tell!(self.world, "[{core:?} stands still for {time:?}]");
            self.host.hold(core, time);
            let bounds = &mut self.world.ledger.borrow_mut().bounds;
            bounds.held_until = bounds.held_until.max(self.host.now() + time);
        }
        let config = &self.setting.config;
        let relay = self.relay.as_ref().expect("it runs");
        relay.replace_lists(&config.relaying, config.routes.clone());
        (0..1 + self.host.below(3)).for_each(|_| self.visit());
    }

    /// An end of a connection to the relay, once there is one.
    fn connect<F: Future<Output = ()> + 'static>(
        &self,
        go_on: impl FnOnce(Rc<World>, End) -> F + 'static,
    ) {
        let number = self.sources.get();
        self.sources.set(number + 1);
        let [high, low] = (number as u16).to_be_bytes();
        let source = IpAddr::from([198, 18, high, low]);
        let (world, tls) = (self.world.clone(), self.tls.clone());
        let present = self.clients.clone();
        let is_encrypted = tls.is_some() && self.host.one_in(2);
        self.world.spawn(async move {
            let peer = listens_at()[usize::from(is_encrypted)];
            let deadline = world.now() + Duration::from_secs(10);
            let Ok(socket) = Socket::connect(peer, Some(source), deadline).await else {
                return;
            };
            socket.set_deadline(ringpost::time::Now::NEVER);
            let tls = match tls.filter(|_| is_encrypted) {
                Some(tls) => {
                    let session = tls.connect("relay", crate::relay::HOSTNAME, true);
                    Tls::AtOnce(session.expect("a name"))
                }
                None => Tls::None,
            };
            let end = End::new(&world, socket, (source, peer), tls);
            go_on(world, end).await;
            drop(present);
        });
    }

    fn visit(&self) {
        if self.sources.get() as usize >= self.world.plan.most(Choice::Clients) {
            return;
        }
        let network = self.network.clone();
        self.connect(|world, end| client::visit(world, network, end));
    }

    // ---- the end of a run ----

    fn end(&mut self) -> Result<(), String> {
        self.note_counted();
        self.read_log()?;
        match self.host.below(5) {
            _ if !self.world.plan.allows(Choice::Ends) => return self.kill(),
            0 => {
                // All that is known is durable, so nothing comes twice for that.
                self.drain()?;
                self.read_log()?;
                return self.stop();
            }
            1 => return self.kill(),
            _ => {}
        }
        self.world.seen.borrow_mut().power_cuts += 1;
        self.world.ledger.borrow_mut().power_cut();
        self.host.cut_power();
        self.relay = None;
        Ok(())
    }

    fn kill(&mut self) -> Result<(), String> {
        self.world.seen.borrow_mut().kills += 1;
        self.world.ledger.borrow_mut().power_cut();
        self.host.kill();
        self.relay = None;
        Ok(())
    }

    /// Of all that has been written so far.
    fn read_log(&mut self) -> Result<(), String> {
        let lines = self.host.take_log();
        let ledger = self.world.ledger.borrow();
        let logged = self.logged.as_mut();
        match logged.and_then(|it| it.read(&lines, &ledger)) {
            Some(complaint) => Err(complaint),
            None => Ok(()),
        }
    }

    fn note_counted(&self) {
        let relay = self.relay.as_ref().expect("it runs");
        let mut seen = self.world.seen.borrow_mut();
        seen.add_counted(&relay.counted());
    }

    fn stop(&mut self) -> Result<(), String> {
        match self.host.one_in(2) {
            true => self.host.kill(),
            false => self.host.cut_power(),
        }
        Ok(())
    }

    /// As on SIGTERM, with a disk that is well again.
    fn drain(&mut self) -> Result<(), String> {
        self.world.seen.borrow_mut().drains += 1;
        self.host.set_faults(self.lacks);
        tell!(self.world, "[the relay is told to stop]");
        // What is not begun is left for the next start.
        self.world.ledger.borrow_mut().bounds.held_until = Now::NEVER;
        let relay = Rc::new(self.relay.take().expect("it runs"));
        let has_drained = Rc::new(Cell::new(false));
        let (draining, drained) = (relay.clone(), has_drained.clone());
        self.world.spawn(async move {
            draining.drain().await;
            drained.set(true);
        });
        match self.pass(DRAIN_MAX, || has_drained.get())? {
            true => Ok(()),
            false => Err(format!("it does not drain in {DRAIN_MAX:?}")),
        }
    }

    /// Lets time pass until that or until something is so. True if it is.
    fn pass(&self, time: Duration, mut is_so: impl FnMut() -> bool) -> Result<bool, String> {
        let until = self.host.now() + time;
        while self.host.now() < until {
            if is_so() {
                return Ok(true);
            }
            let is_alive = self.host.step();
            self.world.verdict()?;
            if !is_alive {
                return Err("it stands still".to_owned());
            }
            if self.host.polls() > POLLS_MAX {
                return Err("it runs without end".to_owned());
            }
        }
        Ok(is_so())
    }
}
