//! The real resolver among simulated name servers: some slow, lossy, silent or failing, for a while each, while
//! hundreds of next hops are asked for, and some questions given up. For a while all are silent, and of some mail hosts
//! nobody ever says anything.
//!
//! What is promised: a server's error or silence is no answer while another one can give it; what a domain has is
//! what comes out; only what all hosts say is final; silence is never final, and keeps no mail from the hosts that are
//! known; every question ends; and in quiet times everybody is answered at once.
//!
//! `RINGPOST_SIMULATION_SEED=n` plays one seed, `RINGPOST_SIMULATION_SEEDS=n` so many.

#[path = "support/simulated/mod.rs"]
mod simulated;

use ringpost::io::dns::{Code, Kind};
use ringpost::io::simulated::{Fault, Guard, Manner, Names, Order, Owner, World};
use ringpost::io::{Bug, clock, runtime};
use ringpost::remote::resolve::{Answer, OwnNames, Resolver, Settings};
use simulated::random::Random;
use simulated::seeds::{assert_noticed, play_all, seeds};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 200;
const DOMAINS: usize = 60;
const QUESTIONS: usize = 150;
const LOOK_UPS_MAX: usize = 4;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(20);

/// In quiet times what is known is answered within this: three rounds of queries of 30 ms each, and turns.
const QUIET_MAX: Duration = Duration::from_millis(500);

/// How it goes for the servers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    /// The last is well.
    Troubled,
    /// Nobody says anything, but that all others than the last may have lost their way.
    Silent,
    Quiet,
}

/// A seed's servers take turns to be troubled.
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
    /// Nobody says anything about the best host. There may be a second one.
    SilentHost {
        has_second: bool,
    },
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
        4 => Truth::SilentHost {
            has_second: domain % 16 == 4,
        },
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
            Truth::SilentHost { has_second } => {
                let (silent, second) = (format!("mx0.{name}"), format!("mx1.{name}"));
                names.mx(&name, 0, &silent);
                names.fail(&silent, Kind::A, Fault::Silent);
                names.fail(&silent, Kind::Aaaa, Fault::Silent);
                if has_second {
                    names.mx(&name, 1, &second);
                    names.host(&second, address(domain, 1));
                }
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

fn show(answer: &Answer) -> String {
    match answer {
        Ok(site) => {
            let hosts = site.hosts.iter();
            let hosts = hosts.map(|host| format!("{}={}", host.name, host.addresses[0].ip()));
            hosts.collect::<Vec<_>>().join(",")
        }
        Err(error) => error.status().to_string(),
    }
}

fn is_right(domain: usize, said: &str, times: Times) -> bool {
    let expected = expected(domain);
    match times {
        Times::Quiet => said == expected,
        Times::Silent => said == "4.4.3" || is_best_part(said, &expected),
        Times::Troubled => is_best_part(said, &expected),
    }
}

/// Worse hosts that are late may be left out.
fn is_best_part(said: &str, expected: &str) -> bool {
    let rest = expected.strip_prefix(said);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
}

/// In quiet times a question is answered within this.
fn bound(domain: usize) -> Duration {
    match truth(domain) {
        Truth::SilentHost { has_second: true } => RESOLVE_TIMEOUT / 2 + QUIET_MAX,
        Truth::SilentHost { has_second: false } => RESOLVE_TIMEOUT + QUIET_MAX,
        _ => QUIET_MAX,
    }
}

/// The statuses or hosts that are right.
fn expected(domain: usize) -> String {
    let name = format!("d{domain}.test");
    match truth(domain) {
        Truth::Null => "5.1.10".into(),
        Truth::NoSuchName => "5.1.2".into(),
        Truth::Implicit => format!("{name}={}", address(domain, 0)),
        Truth::Crowd { dead, .. } => format!("mx{dead}.{name}={}", address(domain, dead)),
        Truth::SilentHost { has_second: false } => "4.4.3".into(),
        Truth::SilentHost { has_second: true } => format!("mx1.{name}={}", address(domain, 1)),
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
        4 => Some(Fault::Lost),
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
        denies_without_soa: random.one_in(4),
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

    fn begin(&self, times: Times) {
        let is_lost = self.below(2) == 0;
        let last = self.servers.last().copied();
        for server in &self.servers {
            let manner = match times {
                Times::Troubled if Some(*server) != last => manner(&mut self.random.borrow_mut()),
                Times::Silent => Manner {
                    fault: match last {
                        Some(last) if is_lost && last != *server => Some(Fault::Lost),
                        _ => Some(Fault::Silent),
                    },
                    ..Manner::default()
                },
                _ => Manner::default(),
            };
            self.world.names().serve(*server, manner);
        }
    }

    fn wait(&self, time: Duration) -> Result<(), String> {
        let until = self.world.now() + time;
        self.world.spawn(Owner::Outside, runtime::sleep(time));
        self.run_until(|| self.world.now() >= until)
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
        // Those of the flag, also such as leave no time for a second server.
        let query_timeout = [1, 5, 5, 7, 10, 19, 20, 21, 60][self.below(9)];
        let settings = Settings {
            query_timeout: Duration::from_secs(query_timeout),
            name_servers: self.servers.clone(),
            resolve_timeout: RESOLVE_TIMEOUT,
            lookups_max: LOOK_UPS_MAX,
            ..Settings::default()
        };
        let make = || Resolver::new(settings, OwnNames::default());
        let resolver = Rc::new(self.world.act_as(Owner::Core(0), make)?);
        let (seen, complaints) = (Rc::new(Seen::default()), Rc::default());
        for _ in 0..5 {
            self.begin(Times::Troubled);
            self.ask(
                QUESTIONS / 5,
                &resolver,
                &seen,
                &complaints,
                Times::Troubled,
            )?;
            if self.below(4) == 0 {
                self.begin(Times::Silent);
                self.ask(QUESTIONS / 5, &resolver, &seen, &complaints, Times::Silent)?;
                self.begin(Times::Quiet);
                // What failed is forgotten after a while.
                self.wait(Duration::from_secs(15))?;
            }
        }
        self.begin(Times::Quiet);
        // And silence is no reason to go on with it.
        self.wait(Duration::from_secs(400))?;
        self.ask(
            2 * LOOK_UPS_MAX,
            &resolver,
            &seen,
            &complaints,
            Times::Quiet,
        )?;
        match complaints.borrow().first() {
            Some(complaint) => Err(Clone::clone(complaint)),
            None => Ok(Rc::into_inner(seen).expect("all have ended")),
        }
    }

    /// So many questions, at about the same time. In quiet times none is given up, and each ends soon.
    fn ask(
        &self,
        questions: usize,
        resolver: &Rc<Resolver>,
        seen: &Rc<Seen>,
        complaints: &Rc<RefCell<Vec<String>>>,
        times: Times,
    ) -> Result<(), String> {
        let open = Rc::new(Cell::new(questions));
        for _ in 0..questions {
            let domain = self.below(DOMAINS);
            let starts_in = Duration::from_millis(self.below(3000) as u64);
            let patience = match times != Times::Quiet && self.below(2) == 0 {
                true => Duration::from_millis(self.below(400) as u64),
                false => Duration::from_secs(3600),
            };
            let is_route = matches!(truth(domain), Truth::Implicit) && self.below(2) == 0;
            let next_hop = match is_route {
                true => format!("[d{domain}.test]"),
                false => format!("d{domain}.test"),
            };
            let (resolver, seen, open) = (resolver.clone(), seen.clone(), open.clone());
            let complaints = complaints.clone();
            self.world.spawn(Owner::Core(0), async move {
                runtime::sleep(starts_in).await;
                let began = clock::now();
                let parsed = next_hop.parse().expect("a next hop");
                let answer = runtime::timeout(patience, resolver.resolve(&parsed)).await;
                let took = clock::now().since(began);
                match answer.map(|answer| show(&answer)) {
                    Err(_) => count(&seen.given_up),
                    Ok(said) if is_right(domain, &said, times) => count(&seen.answered),
                    Ok(said) => complaints
                        .borrow_mut()
                        .push(format!("{next_hop}: {said} in {took:?}")),
                }
                if times == Times::Quiet && took > bound(domain) {
                    let late = format!("{next_hop} took {took:?} in quiet times");
                    complaints.borrow_mut().push(late);
                }
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
    let all = seeds(SEEDS);
    let play_one = |seed| {
        let seen = Play::new(seed, None).play()?;
        Ok([seen.answered.get(), seen.given_up.get()])
    };
    let add = |sum: &mut [usize; 2], of_seed: &[usize; 2]| {
        (sum.iter_mut().zip(of_seed)).for_each(|(sum, of_seed)| *sum += of_seed);
    };
    let [answered, given_up] = play_all(&all, play_one, add);
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

/// How it goes with 50 domains that answer.
struct Behind {
    /// The longest wait of one. `MAX`: one is put off.
    wait: Duration,
    /// The most queries at a time, for all domains.
    queries: usize,
}

/// Asked for behind so many domains of which nobody says anything.
fn wait_behind_silent(silent: usize, bug: Option<Bug>) -> Duration {
    let silence = |names: &mut Names, domain: &str| names.fail(domain, Kind::Mx, Fault::Silent);
    behind(silent, silence, bug).wait
}

/// Asked for behind so many domains with 50 mail hosts each, of which nobody says anything.
fn behind_silent_hosts(silent: usize, bug: Option<Bug>) -> Behind {
    let silence = |names: &mut Names, domain: &str| {
        for number in 0..50 {
            let host = format!("mx{number}.{domain}");
            names.mx(domain, number, &host);
            names.fail(&host, Kind::A, Fault::Silent);
            names.fail(&host, Kind::Aaaa, Fault::Silent);
        }
    };
    behind(silent, silence, bug)
}

fn behind(silent: usize, silence: impl Fn(&mut Names, &str), bug: Option<Bug>) -> Behind {
    let world = World::begin(1, false);
    world.plant(bug);
    let server = SocketAddr::from(([192, 0, 2, 0], 53));
    world.names().serve(server, Manner::default());
    for domain in 0..silent {
        silence(&mut world.names(), &format!("s{domain}.test"));
    }
    for domain in 0..50 {
        let name = format!("g{domain}.test");
        world.names().host(&name, address(domain, 0));
    }
    let settings = Settings {
        name_servers: vec![server],
        ..Settings::default()
    };
    let make = || Resolver::new(settings, OwnNames::default());
    let resolver = world.act_as(Owner::Core(0), make).expect("a resolver");
    let resolver = Rc::new(resolver);
    let (open, longest) = (Rc::new(Cell::new(50)), Rc::new(Cell::new(Duration::ZERO)));
    let silent = (0..silent).map(|it| format!("s{it}.test"));
    for name in silent.chain((0..50).map(|it| format!("g{it}.test"))) {
        let (resolver, open, longest) = (resolver.clone(), open.clone(), longest.clone());
        world.spawn(Owner::Core(0), async move {
            let is_good = name.starts_with('g');
            // After a while, so that the line is there.
            runtime::sleep(Duration::from_secs(if is_good { 8 } else { 0 })).await;
            let began = clock::now();
            let answer = resolver.resolve(&name.parse().expect("a next hop")).await;
            if is_good {
                let took = match answer {
                    Ok(_) => clock::now().since(began),
                    Err(_) => Duration::MAX,
                };
                longest.set(longest.get().max(took));
                open.set(open.get() - 1);
            }
        });
    }
    while open.get() > 0 {
        assert!(world.step(), "somebody waits for ever");
    }
    let queries = world.names().queries_peak();
    Behind {
        wait: longest.get(),
        queries,
    }
}

#[test]
fn many_silent_domains_hold_up_a_new_one_for_seconds() {
    for (silent, most) in [(100, 1), (600, 1), (3000, 20)] {
        let wait = wait_behind_silent(silent, None);
        println!("behind {silent}: {wait:?}");
        assert!(wait <= Duration::from_secs(most), "{silent}: {wait:?}");
    }
    let wait = wait_behind_silent(600, Some(Bug::SilentLookUpsKeepSlots));
    println!("behind 600, each with its slot: {wait:?}");
    assert!(wait > Duration::from_secs(5));
}

/// Each query takes descriptors from clients and deliveries.
#[test]
fn silent_mail_hosts_take_a_bounded_number_of_queries_and_none_from_other_domains() {
    let queries_max = Settings::default().queries_max();
    let [bounded, unbounded, not_kept] =
        [None, Some(Bug::QueriesUnbounded), Some(Bug::QueriesNotKept)].map(|bug| {
            let behind = behind_silent_hosts(150, bug);
            println!("{bug:?}: {:?}, {} queries", behind.wait, behind.queries);
            behind
        });
    assert!(bounded.queries <= queries_max);
    assert!(bounded.wait <= Duration::from_secs(1));
    assert!(unbounded.queries > 5 * queries_max);
    assert!(not_kept.wait > Duration::from_secs(5));
}

/// An operator who gives them more time expects that they have it for each question that a domain takes.
#[test]
fn slow_name_servers_have_their_time_for_each_question() {
    let world = World::begin(1, false);
    let server = SocketAddr::from(([192, 0, 2, 0], 53));
    let takes = Duration::from_secs(12)..Duration::from_secs(13);
    let manner = Manner {
        takes,
        ..Manner::default()
    };
    world.names().serve(server, manner);
    fill(&mut world.names());
    let settings = Settings {
        name_servers: vec![server],
        ..Settings::of(Duration::from_secs(15))
    };
    let make = || Resolver::new(settings, OwnNames::default());
    let resolver = world.act_as(Owner::Core(0), make).expect("a resolver");
    let said = Rc::new(RefCell::new(None));
    let answer = said.clone();
    world.spawn(Owner::Core(0), async move {
        let next_hop = "d7.test".parse().expect("a next hop");
        *answer.borrow_mut() = Some(show(&resolver.resolve(&next_hop).await));
    });
    while said.borrow().is_none() {
        assert!(world.step(), "somebody waits for ever");
    }
    assert_eq!(said.take(), Some(expected(7)));
}

#[test]
fn planted_bugs_are_noticed() {
    let bugs = [
        (Bug::LookUpSlotKept, 0),
        (Bug::PartSpeaksForAll, 0),
        (Bug::SilenceSpeaksForHost, 0),
        (Bug::SilentHostHoldsOthers, 0),
        (Bug::FirstHostWins, 0),
        (Bug::DenialsBelieved, 0),
    ];
    assert_noticed(&bugs, SEEDS, |seed, bug| Play::new(seed, Some(bug)).play());
}
