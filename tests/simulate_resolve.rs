//! The real resolver among simulated name servers: some slow, lossy, silent or failing, for a while each, while
//! hundreds of next hops are asked for, and some questions given up.
//!
//! What is promised: a server's error or silence is no answer while another one can give it; what a domain has is
//! what comes out; only what all hosts say is final; every question ends; and in quiet times everybody is answered at once.
//!
//! `RINGPOST_SIMULATION_SEED=n` plays one seed, `RINGPOST_SIMULATION_SEEDS=n` so many.

#[path = "support/simulated/mod.rs"]
mod simulated;

use ringpost::io::dns::{Code, Kind};
use ringpost::io::simulated::{Fault, Guard, Manner, Names, Order, Owner, World};
use ringpost::io::{Bug, clock, runtime};
use ringpost::remote::resolve::{OwnNames, Resolver, Settings};
use simulated::{random::Random, seeds};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 200;
const DOMAINS: usize = 60;
const QUESTIONS: usize = 150;
const LOOK_UPS_MAX: usize = 4;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(20);

/// In quiet times a question is answered within this: three rounds of queries of 30 ms each, and turns.
const QUIET_MAX: Duration = Duration::from_millis(500);

/// A seed's servers take turns to be troubled. The last is always well.
struct Play {
    world: Guard,
    random: RefCell<Random>,
    servers: Vec<SocketAddr>,
}

/// What happened.
#[derive(Default)]
struct Seen {
    answered: Cell<usize>,
    given_up: Cell<usize>,
}

fn count(of: &Cell<usize>) {
    of.set(of.get() + 1);
}

/// What the DNS has for a domain, by its number.
enum Truth {
    Hosts(usize),
    /// So many hosts that have no address, and one that has: the worst, or one of many equal ones.
    Crowd {
        dead: usize,
        is_equal: bool,
    },
    Implicit,
    Null,
    NoSuchName,
}

fn truth(domain: usize) -> Truth {
    match domain % 8 {
        // More than are asked for at a time.
        3 if domain > 20 => Truth::Crowd {
            dead: 20 + domain / 2,
            is_equal: domain % 16 == 3,
        },
        0 => Truth::Null,
        1 => Truth::NoSuchName,
        2 => Truth::Implicit,
        other => Truth::Hosts(other - 2),
    }
}

fn fill(names: &mut Names) {
    for domain in 0..DOMAINS {
        let name = format!("d{domain}.test");
        match truth(domain) {
            Truth::Null => names.mx(&name, 0, "."),
            Truth::NoSuchName => {}
            Truth::Implicit => names.host(&name, address(domain, 0)),
            Truth::Crowd { dead, is_equal } => {
                for host in 0..=dead {
                    let preference = if is_equal { 10 } else { host as u16 };
                    names.mx(&name, preference, &format!("mx{host}.{name}"));
                }
                names.host(&format!("mx{dead}.{name}"), address(domain, dead));
            }
            Truth::Hosts(hosts) => {
                for host in 0..hosts {
                    let alias = format!("mx{host}.{name}");
                    let target = format!("h{host}.{name}");
                    names.mx(&name, host as u16, &alias);
                    names.alias(&alias, &target);
                    names.host(&target, address(domain, host));
                }
            }
        }
    }
}

fn address(domain: usize, host: usize) -> IpAddr {
    IpAddr::from([192, 0, domain as u8, host as u8 + 1])
}

/// The statuses or hosts that are right.
fn expected(domain: usize) -> String {
    let name = format!("d{domain}.test");
    match truth(domain) {
        Truth::Null => "5.1.10".into(),
        Truth::NoSuchName => "5.1.2".into(),
        Truth::Implicit => format!("{name}={}", address(domain, 0)),
        Truth::Crowd { dead, .. } => format!("mx{dead}.{name}={}", address(domain, dead)),
        Truth::Hosts(hosts) => {
            let each = (0..hosts).map(|host| format!("mx{host}.{name}={}", address(domain, host)));
            each.collect::<Vec<_>>().join(",")
        }
    }
}

fn manner(random: &mut Random) -> Manner {
    let fault = match random.below(8) {
        0 => Some(Fault::Code(Code::SERVFAIL)),
        1 => Some(Fault::Code(Code::REFUSED)),
        2 => Some(Fault::Referral),
        3 => Some(Fault::Silent),
        _ => None,
    };
    let slow = Duration::from_millis(random.below(6000) as u64);
    Manner {
        takes: match random.below(3) {
            0 => slow..slow * 2,
            _ => Manner::default().takes,
        },
        loses_one_in: [0, 2, 10][random.below(3)],
        fault,
        fault_of_edns: random.one_in(4).then_some(Fault::Code(Code::FORMERR)),
        denies_without_soa: false,
        has_tcp: true,
    }
}

impl Play {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let world = World::begin(seed, false);
        let mut random = Random(seed ^ 0x5eed);
        world.plant(bug);
        world.set_order(match random.below(4) {
            0 => Order::Fifo,
            1 => Order::WholeTurns,
            _ => Order::Any,
        });
        let servers = 1 + random.below(3);
        let servers = (0..servers).map(|it| SocketAddr::from(([192, 0, 2, it as u8], 53)));
        let servers: Vec<_> = servers.collect();
        fill(&mut world.names());
        Play {
            world,
            random: RefCell::new(random),
            servers,
        }
    }

    fn below(&self, bound: usize) -> usize {
        self.random.borrow_mut().below(bound)
    }

    fn trouble(&self, is_quiet: bool) {
        let well = self.servers.last().copied();
        for server in &self.servers {
            let manner = match is_quiet || Some(*server) == well {
                true => Manner::default(),
                false => manner(&mut self.random.borrow_mut()),
            };
            self.world.names().serve(*server, manner);
        }
    }

    fn run_until(&self, is_over: impl Fn() -> bool) -> Result<(), String> {
        while !is_over() {
            if !self.world.step() {
                return Err("somebody waits for ever".into());
            }
        }
        Ok(())
    }

    fn play(&self) -> Result<Seen, String> {
        let settings = Settings {
            name_servers: self.servers.clone(),
            resolve_timeout: RESOLVE_TIMEOUT,
            lookups_max: LOOK_UPS_MAX,
            ..Settings::default()
        };
        let make = || Resolver::new(settings, OwnNames::default());
        let resolver = Rc::new(self.world.act_as(Owner::Core(0), make)?);
        let (seen, complaints) = (Rc::new(Seen::default()), Rc::default());
        for _ in 0..5 {
            self.trouble(false);
            self.ask(QUESTIONS / 5, &resolver, &seen, &complaints, None)?;
        }
        self.trouble(true);
        // What failed is forgotten after a while, and silence is no reason to go on with it.
        let until = self.world.now() + Duration::from_secs(400);
        self.world
            .spawn(Owner::Outside, runtime::sleep(Duration::from_secs(400)));
        self.run_until(|| self.world.now() >= until)?;
        self.ask(
            2 * LOOK_UPS_MAX,
            &resolver,
            &seen,
            &complaints,
            Some(QUIET_MAX),
        )?;
        match complaints.borrow().first() {
            Some(complaint) => Err(Clone::clone(complaint)),
            None => Ok(Rc::into_inner(seen).expect("all have ended")),
        }
    }

    /// So many questions, at about the same time. With a bound, none is given up, and each ends within that.
    fn ask(
        &self,
        questions: usize,
        resolver: &Rc<Resolver>,
        seen: &Rc<Seen>,
        complaints: &Rc<RefCell<Vec<String>>>,
        bound: Option<Duration>,
    ) -> Result<(), String> {
        let open = Rc::new(Cell::new(questions));
        for _ in 0..questions {
            let domain = self.below(DOMAINS);
            let starts_in = Duration::from_millis(self.below(3000) as u64);
            let patience = match bound.is_none() && self.below(2) == 0 {
                true => Duration::from_millis(self.below(400) as u64),
                false => Duration::from_secs(3600),
            };
            let (resolver, seen, open) = (resolver.clone(), seen.clone(), open.clone());
            let complaints = complaints.clone();
            self.world.spawn(Owner::Core(0), async move {
                runtime::sleep(starts_in).await;
                let began = clock::now();
                let next_hop = format!("d{domain}.test").parse().expect("a next hop");
                let answer = runtime::timeout(patience, resolver.resolve(&next_hop)).await;
                let took = clock::now().since(began);
                let said = match &answer {
                    Err(_) => None,
                    Ok(Ok(site)) => Some(
                        site.hosts
                            .iter()
                            .map(|host| format!("{}={}", host.name, host.addresses[0].ip()))
                            .collect::<Vec<_>>()
                            .join(","),
                    ),
                    Ok(Err(error)) => Some(error.status().to_string()),
                };
                let mut complaints = complaints.borrow_mut();
                match said.as_deref() {
                    None => count(&seen.given_up),
                    Some(said) if said == expected(domain) => count(&seen.answered),
                    Some(said) => complaints.push(format!("d{domain}.test: {said} in {took:?}")),
                }
                if bound.is_some_and(|bound| took > bound) {
                    complaints.push(format!("d{domain}.test took {took:?} in quiet times"));
                }
                drop(complaints);
                open.set(open.get() - 1);
            });
        }
        // Far more than any question may take: a line of questions, one after the other.
        let until = self.world.now() + 100 * RESOLVE_TIMEOUT;
        let world = &self.world;
        self.run_until(|| open.get() == 0 || world.now() > until)?;
        match open.get() {
            0 => Ok(()),
            open => Err(format!("{open} questions have no end")),
        }
    }
}

#[test]
fn every_question_has_the_right_answer_in_its_time() {
    let (mut answered, mut given_up) = (0, 0);
    let all = seeds(SEEDS);
    for seed in all.clone() {
        let play = Play::new(seed, None);
        let seen = play
            .play()
            .unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        answered += seen.answered.get();
        given_up += seen.given_up.get();
    }
    println!("{answered} answers, {given_up} given up");
    if all.end - all.start >= SEEDS {
        assert!(given_up > 100 && answered > 1000);
    }
}

#[test]
fn a_seed_gives_the_same_world_again() {
    for seed in 0..20 {
        let digest = || {
            let play = Play::new(seed, None);
            play.play().expect("it plays");
            (
                play.world.digest(),
                play.world.names().asked("d3.test", Kind::Mx),
            )
        };
        assert_eq!(digest(), digest(), "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_noticed() {
    for bug in [Bug::LookUpSlotKept, Bug::PartSpeaksForAll] {
        let found = (0..SEEDS).find_map(|seed| {
            let play = Play::new(seed, Some(bug));
            Some((seed, play.play().err()?))
        });
        let (seed, complaint) = found.unwrap_or_else(|| panic!("{bug:?} is not noticed"));
        println!("{bug:?}, seed {seed}: {complaint}");
    }
}
