//! The hosts of a next hop, by DNS (RFC 5321 section 5.1, RFC 7505, RFC 5890).
//!
//! Promise: an answer is bounded in time, hosts and addresses, never leads back to this relay,
//! and a failure says whether waiting can help.
//! Not here: connecting. One [`Resolver`] per delivery core, not shared; it runs on the core's own
//! loop.
//!
//! | the DNS says | then |
//! |---|---|
//! | MX records | those hosts by preference; without address: skipped |
//! | no MX, but the name exists | the name itself is the host (implicit MX) |
//! | a single `.` as MX host | permanent, 5.1.10: takes no mail |
//! | no such name | permanent, 5.1.2 |
//! | failure, refusal, silence | temporary, 4.4.3; never the implicit MX |
//! | (not asked: its turn did not come) | temporary, 4.4.3; see `line` |
//! | none of the hosts has an address | 5.4.4, or 4.4.3 if that could not be learned for each |
//! | this relay among the hosts | it and all of equal or worse preference are dropped |
//! | nothing is left of them | permanent, 5.4.6: a loop |
//!
//! A stranger's MX may point to 127.0.0.1, 0.0.0.0 or an address of a private network. What leads to our own
//! listeners is a loop; other services of this host or its network get a greeting's worth of SMTP, as
//! from any other MTA that follows MX records.

mod cache;
mod line;
mod own;
mod pool;
pub mod probe;
mod servers;
mod site;

pub use own::OwnNames;
pub use pool::Notice;
pub use site::{Attempt, Families, Host, Site, SiteKey};

use crate::domain::Domain;
use crate::io::dns::{Denial, Kind, Question, Record};
use crate::io::runtime::timeout;
use crate::io::{clock, random};
use crate::remote::route::NextHop;
use crate::schedule::outcome::Diagnosis;
use crate::smtp::reply::EnhancedStatus;
use crate::time::Now;
use cache::Cache;
use crc32c::crc32c_append;
use line::{Class, Line, Turn};
use pool::{Heard, Pool};
use site::Mixer;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{OnceCell, oneshot};

/// How long a host's addresses of one family are waited for when those of the other are known.
const OTHER_FAMILY_WAIT: Duration = Duration::from_secs(1);

/// MX hosts that a site's key names; for further ones it has their number and a sum.
const HOSTS_IN_KEY_MAX: usize = 100;

/// Longest wait that an answer from a name server can ask for.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long what was drawn by lot is kept: the hosts and addresses left out have their turn soon.
const DRAWN_TTL_MAX: Duration = Duration::from_secs(60);

/// MX hosts whose addresses are remembered apart from the next hops: some take mail for very many domains.
/// About 100 bytes each.
const HOSTS_REMEMBERED_MAX: usize = 10_000;

/// Default of [`Settings::query_timeout`].
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How a delivery core resolves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name servers to ask; empty: those of /etc/resolv.conf, or the local host without that.
    pub name_servers: Vec<SocketAddr>,
    /// Wait for one answer.
    pub query_timeout: Duration,
    /// Times that all servers that were silent are asked again.
    pub query_retries: usize,
    /// Wait for everything that a next hop needs, from when it is asked for. Past it the answer is a
    /// temporary failure.
    pub resolve_timeout: Duration,
    pub families: Families,
    /// Hosts of a site that are used: the best, chosen by lot among equals at each look-up. At least 1.
    pub hosts_max: usize,
    /// Addresses of a host that are used, chosen by lot. At least 1.
    pub addresses_per_host_max: usize,
    /// An answer is believed at least this long, whatever its TTL.
    pub ttl_min: Duration,
    /// Denials (no such name, no such record) are believed no longer than this.
    pub negative_ttl_max: Duration,
    /// A failure to get an answer is remembered this long.
    pub failure_ttl: Duration,
    /// Next hops whose answers are remembered. What nobody asks for goes first.
    pub cache_entries_max: usize,
    /// Next hops that are resolved at a time; more wait in line. At least 1.
    pub lookups_max: usize,
    /// Next hops in line. One more is a temporary failure at once.
    pub line_max: usize,
    /// Longest wait in line while answers come. Past it: a temporary failure.
    pub line_wait_max: Duration,
    /// No answer to anybody for this long: who has waited as long in line gets a temporary failure.
    pub silence_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name_servers: Vec::new(),
            query_timeout: QUERY_TIMEOUT,
            query_retries: 2,
            resolve_timeout: Duration::from_secs(20),
            families: Families::default(),
            hosts_max: 20,
            addresses_per_host_max: 16,
            ttl_min: Duration::from_secs(1),
            negative_ttl_max: Duration::from_secs(300),
            failure_ttl: Duration::from_secs(10),
            cache_entries_max: 100_000,
            lookups_max: 200,
            line_max: 100_000,
            line_wait_max: Duration::from_secs(600),
            silence_max: Duration::from_secs(20),
        }
    }
}

/// Why a next hop has no hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResolveError {
    /// RFC 7505: the domain declares that it takes no mail.
    NullMx { domain: Box<str> },
    /// NXDOMAIN, or a name that cannot be asked for.
    NoSuchDomain { domain: Box<str> },
    /// The DNS answers, but there is nothing to connect to.
    NoAddress { domain: Box<str> },
    /// No answer, or none that says anything. Temporary.
    NoAnswer { name: Box<str>, why: Box<str> },
    /// The best host that is left is this relay.
    MailLoop { next_hop: Box<str> },
}

impl ResolveError {
    /// False: waiting can help.
    pub fn is_permanent(&self) -> bool {
        self.status().class == 5
    }

    pub fn status(&self) -> EnhancedStatus {
        let (class, subject, detail) = match self {
            ResolveError::NullMx { .. } => (5, 1, 10),
            ResolveError::NoSuchDomain { .. } => (5, 1, 2),
            ResolveError::NoAddress { .. } => (5, 4, 4),
            ResolveError::NoAnswer { .. } => (4, 4, 3),
            ResolveError::MailLoop { .. } => (5, 4, 6),
        };
        EnhancedStatus::new(class, subject, detail)
    }

    pub fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            status: self.status(),
            text: self.to_string().into(),
            remote_host: "".into(),
        }
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::NullMx { domain } => write!(f, "{domain} takes no mail (null MX)"),
            ResolveError::NoSuchDomain { domain } => write!(f, "domain {domain} not found"),
            ResolveError::NoAddress { domain } => write!(f, "no address found for {domain}"),
            ResolveError::NoAnswer { name, why } => {
                write!(f, "DNS look-up of {name} failed: {why}")
            }
            ResolveError::MailLoop { next_hop } => {
                write!(f, "mail for {next_hop} loops back to this relay")
            }
        }
    }
}

impl std::error::Error for ResolveError {}

/// What became of a next hop.
pub type Answer = Result<Rc<Site>, Rc<ResolveError>>;

/// What is remembered about a next hop.
#[derive(Clone)]
struct Remembered {
    answer: Answer,
    /// Not by silence alone.
    answered: bool,
}

/// The resolver of one delivery core. Cheap to ask again: a remembered answer costs one look into a
/// table. Equal questions at the same time are asked once.
pub struct Resolver {
    settings: Settings,
    own: OwnNames,
    pool: Pool,
    lots: RefCell<Mixer>,
    /// What nobody asks for goes with time, see [`Resolver::tidy`].
    cache: RefCell<Cache<NextHop, Remembered>>,
    hosts: RefCell<Cache<Box<str>, HostAddresses>>,
    in_flight: RefCell<HashMap<NextHop, Rc<OnceCell<Answer>>>>,
    line: RefCell<Line>,
}

impl Resolver {
    /// Reads the system's configuration; call it within the core's runtime. The error says what is
    /// wrong with that configuration.
    pub fn new(settings: Settings, own: OwnNames) -> Result<Self, String> {
        Ok(Resolver {
            pool: Pool::new(&settings)?,
            lots: RefCell::new(Mixer(random::u64())),
            cache: RefCell::new(Cache::new(settings.cache_entries_max)),
            hosts: RefCell::new(Cache::new(HOSTS_REMEMBERED_MAX)),
            in_flight: RefCell::default(),
            line: RefCell::new(Line::new(line_limits(&settings))),
            settings,
            own,
        })
    }

    /// The hosts of a next hop; from memory if the answer is still good.
    pub async fn resolve(&self, next_hop: &NextHop) -> Answer {
        self.resolve_at(next_hop, clock::now()).await
    }

    /// The answer, if it is remembered and still good.
    pub fn remembered(&self, next_hop: &NextHop) -> Option<Answer> {
        self.remembered_at(next_hop, clock::now())
    }

    /// The answer, if it is remembered, or needs no name server.
    pub fn known(&self, next_hop: &NextHop) -> Option<Answer> {
        let now = clock::now();
        let remembered = self.remembered_at(next_hop, now);
        match next_hop {
            NextHop::Address(address) if remembered.is_none() => {
                let inquiry = Inquiry::new(self, now);
                let answer = inquiry.address_site(next_hop, *address);
                let answer = answer.map(Rc::new).map_err(Rc::new);
                let known = Remembered {
                    answer: answer.clone(),
                    answered: false,
                };
                let until = now + inquiry.ttl.get();
                self.cache
                    .borrow_mut()
                    .insert(next_hop.clone(), known, until);
                Some(answer)
            }
            _ => remembered,
        }
    }

    fn remembered_at(&self, next_hop: &NextHop, now: Now) -> Option<Answer> {
        let remembered = self.cache.borrow_mut().get(next_hop, now)?;
        Some(remembered.answer)
    }

    async fn resolve_at(&self, next_hop: &NextHop, now: Now) -> Answer {
        if let Some(answer) = self.remembered_at(next_hop, now) {
            return answer;
        }
        let flight = Flight::join(&self.in_flight, next_hop);
        let answer = flight.cell.get_or_init(|| self.look_up(next_hop, now));
        answer.await.clone()
    }

    /// The servers that are asked.
    pub fn name_servers(&self) -> &[SocketAddr] {
        self.pool.addresses()
    }

    /// Name servers given up for others since this was last asked, for the log.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.pool.take_notices()
    }

    /// Leaves the best of the hosts, which come by preference; by lot among equals (RFC 5321 section 5.1), so that
    /// each has its turn at some look-up. True if some were left out.
    fn draw_hosts(&self, hosts: &mut Vec<(u16, Box<str>)>) -> bool {
        let most = self.settings.hosts_max.max(1);
        let Some((worst, _)) = hosts.get(most) else {
            return false;
        };
        let worst = *worst;
        let mut drawn = hosts.split_off(hosts.partition_point(|(other, _)| *other < worst));
        drawn.retain(|(other, _)| *other == worst);
        self.draw(&mut drawn, most - hosts.len());
        hosts.append(&mut drawn);
        true
    }

    /// Leaves `most`, each with the same chance, in the order they were in. True if some were left out.
    fn draw<T>(&self, from: &mut Vec<T>, most: usize) -> bool {
        let is_drawn = from.len() > most;
        let mut lots = self.lots.borrow_mut();
        while from.len() > most {
            let out = lots.next() % from.len() as u64;
            from.remove(out as usize);
        }
        is_drawn
    }

    /// The order for [`Site::attempts`].
    pub fn families(&self) -> Families {
        self.settings.families
    }

    /// Forgets all answers, as after a change in the network.
    pub fn clear(&self) {
        self.cache.borrow_mut().clear();
        self.hosts.borrow_mut().clear();
    }

    /// Lets go of what nobody has asked for lately. To be called now and then: memory that one busy
    /// hour needed is given back in the next.
    pub fn tidy(&self, now: Now) {
        self.cache.borrow_mut().tidy(now);
        self.hosts.borrow_mut().tidy(now);
        let mut in_flight = self.in_flight.borrow_mut();
        if in_flight.is_empty() {
            in_flight.shrink_to_fit();
        }
    }

    async fn look_up(&self, next_hop: &NextHop, now: Now) -> Answer {
        let started = clock::now();
        // Where an address is given there is nothing to ask.
        let needs_dns = !matches!(next_hop, NextHop::Address(_));
        let mut slot = needs_dns.then(|| Slot::join(&self.line, self.class_of(next_hop)));
        if let Some(slot) = &mut slot
            && let Err(why) = slot.turn().await
        {
            // Not remembered: it says nothing about this next hop.
            return Err(Rc::new(no_answer(&next_hop.to_string(), why.text().into())));
        }
        // Boxed, so that those who wait in line are small.
        let (answer, ttl, answered) = Box::pin(self.ask(next_hop, now)).await;
        if let Some(slot) = &mut slot {
            slot.answered = Some(answered);
        }
        let answer = answer.map(Rc::new).map_err(Rc::new);
        let took = clock::now().since(started);
        let until = now + took + ttl.max(self.settings.ttl_min);
        let remembered = Remembered {
            answer: answer.clone(),
            answered,
        };
        let mut cache = self.cache.borrow_mut();
        cache.insert(next_hop.clone(), remembered, until);
        answer
    }

    fn class_of(&self, next_hop: &NextHop) -> Class {
        match self.cache.borrow().last(next_hop) {
            Some(Remembered { answered: true, .. }) => Class::Proven,
            _ => Class::Unproven,
        }
    }

    /// The answer, how long it is good, and whether any name server said anything.
    async fn ask(
        &self,
        next_hop: &NextHop,
        now: Now,
    ) -> (Result<Site, ResolveError>, Duration, bool) {
        let inquiry = Inquiry::new(self, now);
        let limit = self.settings.resolve_timeout;
        let inquired = timeout(limit, inquiry.site(next_hop)).await;
        let answer = inquired.unwrap_or_else(|_| {
            inquiry.keep(self.settings.failure_ttl);
            Err(no_answer(&next_hop.to_string(), "no answer in time".into()))
        });
        (answer, inquiry.ttl.get(), inquiry.answered.get())
    }
}

/// A place in line, then a slot. Whoever goes away leaves it to the next.
struct Slot<'a> {
    line: &'a RefCell<Line>,
    class: Class,
    told: oneshot::Receiver<Turn>,
    is_taken: bool,
    answered: Option<bool>,
}

impl<'a> Slot<'a> {
    fn join(line: &'a RefCell<Line>, class: Class) -> Self {
        Slot {
            line,
            class,
            told: line.borrow_mut().join(class, clock::now()),
            is_taken: false,
            answered: None,
        }
    }

    async fn turn(&mut self) -> Turn {
        let turn = (&mut self.told).await;
        let turn = turn.expect("a line tells everybody before it goes");
        self.is_taken = turn.is_ok();
        turn
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // Its turn may have come a moment ago.
        if self.is_taken || matches!(self.told.try_recv(), Ok(Ok(()))) {
            let mut line = self.line.borrow_mut();
            line.leave(self.class, self.answered, clock::now());
        }
    }
}

/// One question under way, and those who wait for it. If the one who asks goes away, the next in
/// line asks again.
struct Flight<'a> {
    in_flight: &'a RefCell<HashMap<NextHop, Rc<OnceCell<Answer>>>>,
    next_hop: &'a NextHop,
    cell: Rc<OnceCell<Answer>>,
}

impl<'a> Flight<'a> {
    fn join(
        in_flight: &'a RefCell<HashMap<NextHop, Rc<OnceCell<Answer>>>>,
        next_hop: &'a NextHop,
    ) -> Self {
        let cell = Rc::clone(
            in_flight
                .borrow_mut()
                .entry(next_hop.clone())
                .or_insert_with(|| Rc::new(OnceCell::new())),
        );
        Flight {
            in_flight,
            next_hop,
            cell,
        }
    }
}

impl Drop for Flight<'_> {
    /// Once answered, later questions are the cache's affair; unanswered, the last one to give up
    /// leaves nothing behind.
    fn drop(&mut self) {
        let mut in_flight = self.in_flight.borrow_mut();
        let current = in_flight.get(self.next_hop);
        let is_current = current.is_some_and(|cell| Rc::ptr_eq(cell, &self.cell));
        if is_current && (self.cell.initialized() || Rc::strong_count(&self.cell) == 2) {
            in_flight.remove(self.next_hop);
        }
    }
}

/// Everything that is asked for one next hop; remembers how long the answer is good.
struct Inquiry<'a> {
    resolver: &'a Resolver,
    /// When it was begun: what it learns is good from then on.
    now: Now,
    ttl: Cell<Duration>,
    /// A name server said something, whatever it was.
    answered: Cell<bool>,
}

/// What the DNS says about one name and type.
enum Found {
    /// Not empty.
    Records(Vec<Record>),
    /// The name exists, without such records.
    NoRecords,
    NoSuchName,
    Failed(String),
}

/// What the DNS says about a host's addresses. `Err(None)`: it has none.
type Addresses = Result<Vec<SocketAddr>, Option<ResolveError>>;

/// What is remembered about a host: its addresses, maybe none, and how long that is good.
type HostAddresses = (Rc<[IpAddr]>, Now);

impl<'a> Inquiry<'a> {
    fn new(resolver: &'a Resolver, now: Now) -> Self {
        Inquiry {
            resolver,
            now,
            ttl: Cell::new(TTL_MAX),
            answered: Cell::new(false),
        }
    }

    fn keep(&self, ttl: Duration) {
        self.ttl.set(self.ttl.get().min(ttl));
    }

    async fn site(&self, next_hop: &NextHop) -> Result<Site, ResolveError> {
        match next_hop {
            NextHop::Mx { domain, port } => self.mx_site(next_hop, domain.as_str(), *port).await,
            NextHop::Host { host, port } => {
                let key = SiteKey::new(next_hop.to_string());
                self.single_host(next_hop, host.as_str(), *port, key).await
            }
            NextHop::Address(address) => self.address_site(next_hop, *address),
        }
    }

    fn address_site(&self, next_hop: &NextHop, address: SocketAddr) -> Result<Site, ResolveError> {
        if self.resolver.own.is_own_address(address) {
            return Err(mail_loop(next_hop));
        }
        let host = Host {
            name: format!("[{}]", address.ip()).into(),
            preference: 0,
            addresses: vec![address],
        };
        Ok(Site {
            key: SiteKey::new(next_hop.to_string()),
            hosts: vec![host],
        })
    }

    async fn mx_site(
        &self,
        next_hop: &NextHop,
        domain: &str,
        port: u16,
    ) -> Result<Site, ResolveError> {
        let records = match self.query(domain, Kind::Mx).await {
            Found::Records(records) => records,
            Found::NoRecords => return self.implicit_mx(next_hop, domain, port).await,
            Found::NoSuchName => return Err(no_such_domain(domain)),
            Found::Failed(why) => return Err(no_answer(domain, why)),
        };
        let Some(mut hosts) = mx_hosts(&records) else {
            return Err(ResolveError::NullMx {
                domain: domain.into(),
            });
        };
        if hosts.is_empty() {
            return Err(no_address(domain));
        }
        let own = &self.resolver.own;
        drop_from(&mut hosts, |(_, name)| own.is_own_name(name));
        if hosts.is_empty() {
            return Err(mail_loop(next_hop));
        }
        // Of all hosts, so that it is the same whichever are used.
        let key = site_key(&hosts, port);
        if self.resolver.draw_hosts(&mut hosts) {
            self.keep(DRAWN_TTL_MAX);
        }
        let hosts = self.with_addresses(next_hop, domain, hosts, port).await?;
        Ok(Site { key, hosts })
    }

    /// RFC 5321 section 5.1: a domain without MX records is its own host.
    async fn implicit_mx(
        &self,
        next_hop: &NextHop,
        domain: &str,
        port: u16,
    ) -> Result<Site, ResolveError> {
        if self.resolver.own.is_own_name(domain) {
            return Err(mail_loop(next_hop));
        }
        let key = site_key(&[(0, domain.into())], port);
        self.single_host(next_hop, domain, port, key).await
    }

    async fn single_host(
        &self,
        next_hop: &NextHop,
        name: &str,
        port: u16,
        key: SiteKey,
    ) -> Result<Site, ResolveError> {
        let host = vec![(0, name.into())];
        let hosts = self.with_addresses(next_hop, name, host, port).await?;
        Ok(Site { key, hosts })
    }

    /// Finds the addresses of all hosts at once. Not empty, and without this relay.
    async fn with_addresses(
        &self,
        next_hop: &NextHop,
        domain: &str,
        names: Vec<(u16, Box<str>)>,
        port: u16,
    ) -> Result<Vec<Host>, ResolveError> {
        let questions = names.iter().map(|(_, name)| self.addresses(name, port));
        let answers = all(questions.collect()).await;
        let mut hosts = Vec::new();
        let mut failure = None;
        let mut without = Vec::new();
        for ((preference, name), answer) in names.into_iter().zip(answers) {
            match answer {
                Ok(addresses) => hosts.push(Host {
                    name,
                    preference,
                    addresses,
                }),
                Err(Some(error)) => failure = Some(error),
                Err(None) => without.push(name),
            }
        }
        let own = &self.resolver.own;
        let is_own = |host: &Host| host.addresses.iter().any(|it| own.is_own_address(*it));
        let had_hosts = !hosts.is_empty();
        if let Some(at) = hosts.iter().position(is_own) {
            let preference = hosts[at].preference;
            hosts.retain(|host| host.preference < preference);
        }
        hosts.shrink_to_fit();
        match failure {
            _ if !hosts.is_empty() => Ok(hosts),
            // A better host that could not be asked for may exist all the same.
            Some(error) => Err(error),
            None if had_hosts => Err(mail_loop(next_hop)),
            None => Err(no_address_of(domain, &without)),
        }
    }

    async fn addresses(&self, name: &str, port: u16) -> Addresses {
        let hosts = &self.resolver.hosts;
        let now = self.now;
        let remembered = hosts.borrow_mut().get(name, now);
        let ips = if let Some((ips, until)) = remembered {
            self.keep(until.since(now));
            ips
        } else {
            // How long the answer about the host is good is its own affair.
            let inquiry = Inquiry::new(self.resolver, now);
            let found = inquiry.host_ips(name).await;
            self.keep(inquiry.ttl.get());
            self.answered
                .set(self.answered.get() || inquiry.answered.get());
            let ips: Rc<[IpAddr]> = found.map_err(Some)?.into();
            let until = now + inquiry.ttl.get();
            let mut hosts = hosts.borrow_mut();
            hosts.insert(name.into(), (ips.clone(), until), until);
            ips
        };
        match ips.is_empty() {
            true => Err(None),
            false => Ok(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()),
        }
    }

    /// Empty: the host has no address. An error: that could not be learned.
    async fn host_ips(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let families = self.resolver.settings.families;
        let ipv4 = async {
            match families.uses_ipv4() {
                true => self.query(name, Kind::A).await,
                false => Found::NoRecords,
            }
        };
        let ipv6 = async {
            match families.uses_ipv6() {
                true => self.query(name, Kind::Aaaa).await,
                false => Found::NoRecords,
            }
        };
        let (ipv4, ipv6) = self.both_families(name, ipv4, ipv6).await;
        let mut ips = Vec::new();
        let mut failure = None;
        for found in [ipv6, ipv4] {
            match found {
                Found::Records(records) => {
                    // Each family keeps its half, so that neither crowds out the other.
                    let most = self.resolver.settings.addresses_per_host_max.div_ceil(2);
                    let mut of_family: Vec<_> =
                        records.iter().filter_map(Record::address).collect();
                    if self.resolver.draw(&mut of_family, most.max(1)) {
                        self.keep(DRAWN_TTL_MAX);
                    }
                    ips.extend(of_family);
                }
                Found::Failed(why) => failure = Some(no_answer(name, why)),
                Found::NoRecords | Found::NoSuchName => {}
            }
        }
        match failure {
            Some(error) if ips.is_empty() => Err(error),
            _ => Ok(ips),
        }
    }

    /// Where one family has addresses, the other is not waited for long: there are name servers that never answer
    /// one of the two questions.
    async fn both_families(
        &self,
        name: &str,
        ipv4: impl Future<Output = Found>,
        ipv6: impl Future<Output = Found>,
    ) -> (Found, Found) {
        let late = |found: Result<Found, _>| {
            found.unwrap_or_else(|_| self.failed(format!("no answer about {name} in time")))
        };
        let wait = |found: &Found| match found {
            Found::Records(_) => OTHER_FAMILY_WAIT,
            _ => self.resolver.settings.resolve_timeout,
        };
        let (mut ipv4, mut ipv6) = (pin!(ipv4), pin!(ipv6));
        tokio::select! {
            biased;
            found = &mut ipv4 => {
                let other = timeout(wait(&found), ipv6).await;
                (found, late(other))
            }
            found = &mut ipv6 => {
                let other = timeout(wait(&found), ipv4).await;
                (late(other), found)
            }
        }
    }

    /// Aliases (CNAME) are followed, a bounded number of them.
    async fn query(&self, name: &str, kind: Kind) -> Found {
        let Some(question) = Question::new(name, kind) else {
            return Found::NoSuchName;
        };
        match self.resolver.pool.ask(&question).await {
            Heard::Records { records, ttl } => {
                self.answered.set(true);
                self.keep(ttl);
                match records.is_empty() {
                    true => Found::NoRecords,
                    false => Found::Records(records),
                }
            }
            Heard::Denied(denial) => {
                self.answered.set(true);
                match ends_in_alias(&denial) && kind != Kind::Mx {
                    true => self.failed("its aliases come to no end".into()),
                    false => self.denied(&denial),
                }
            }
            Heard::Failed { why, is_silence } => {
                self.answered.set(self.answered.get() || !is_silence);
                self.failed(why)
            }
        }
    }

    fn denied(&self, denial: &Denial) -> Found {
        let settings = &self.resolver.settings;
        self.keep(match denial.ttl {
            Some(ttl) => ttl.min(settings.negative_ttl_max),
            None => settings.failure_ttl,
        });
        match denial.name_exists {
            true => Found::NoRecords,
            false => Found::NoSuchName,
        }
    }

    fn failed(&self, why: String) -> Found {
        self.keep(self.resolver.settings.failure_ttl);
        Found::Failed(why)
    }
}

/// Eight aliases that are given one by one are followed, and then there seem to be no records. Who has learned that there are
/// none has the SOA as well; of MX too little hangs on it, because the addresses are asked for next.
fn ends_in_alias(denial: &Denial) -> bool {
    denial.name_exists && !denial.is_proven && denial.is_of_alias
}

fn no_such_domain(domain: &str) -> ResolveError {
    ResolveError::NoSuchDomain {
        domain: domain.into(),
    }
}

fn no_answer(name: &str, why: String) -> ResolveError {
    ResolveError::NoAnswer {
        name: name.into(),
        why: why.into(),
    }
}

fn mail_loop(next_hop: &NextHop) -> ResolveError {
    ResolveError::MailLoop {
        next_hop: next_hop.to_string().into(),
    }
}

fn no_address(domain: &str) -> ResolveError {
    ResolveError::NoAddress {
        domain: domain.into(),
    }
}

/// The hosts are what the domain's owner has to look at.
fn no_address_of(domain: &str, hosts: &[Box<str>]) -> ResolveError {
    match hosts {
        [host] if **host == *domain => no_address(domain),
        [] => no_address(domain),
        [host] => no_address(&format!("{host}, the mail host of {domain}")),
        [host, ..] => no_address(&format!("{host}, nor for the other mail hosts of {domain}")),
    }
}

/// What is made of MX records: preference and name, best first, equals by name. What cannot be the name
/// of a host is left out. `None`: the null MX, whose only host is the root (RFC 7505).
pub fn mx_hosts(records: &[Record]) -> Option<Vec<(u16, Box<str>)>> {
    let is_null =
        |record: &Record| matches!(record, Record::Mx { exchange, .. } if **exchange == *".");
    if records.iter().all(is_null) {
        return None;
    }
    let mut hosts: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Mx {
                preference,
                exchange,
            } => {
                let name = Domain::from_dns(exchange).ok()?;
                Some((*preference, name.as_str().into()))
            }
            Record::Address(_) => None,
        })
        .collect();
    hosts.sort();
    hosts.dedup();
    Some(hosts)
}

/// RFC 5321 section 5.1: where this relay is among the hosts, only better ones remain.
fn drop_from(hosts: &mut Vec<(u16, Box<str>)>, is_own: impl Fn(&(u16, Box<str>)) -> bool) {
    if let Some(own) = hosts.iter().position(is_own) {
        let preference = hosts[own].0;
        hosts.retain(|(other, _)| *other < preference);
    }
}

/// `a.test,b.test;c.test:25`: hosts of equal preference between commas.
fn site_key(hosts: &[(u16, Box<str>)], port: u16) -> SiteKey {
    let mut text = String::new();
    let named = hosts.iter().take(HOSTS_IN_KEY_MAX);
    for (index, (preference, name)) in named.enumerate() {
        if index > 0 {
            let equal = hosts[index - 1].0 == *preference;
            text.push(if equal { ',' } else { ';' });
        }
        text.push_str(name);
    }
    match hosts.len().saturating_sub(HOSTS_IN_KEY_MAX) {
        0 => {}
        more => text.push_str(&format!(
            "+{more}:{:08x}",
            sum_of(&hosts[HOSTS_IN_KEY_MAX..])
        )),
    }
    text.push_str(&format!(":{port}"));
    SiteKey::new(text)
}

fn sum_of(hosts: &[(u16, Box<str>)]) -> u32 {
    hosts.iter().fold(0, |sum, (preference, name)| {
        let sum = crc32c_append(sum, &preference.to_be_bytes());
        crc32c_append(sum, name.as_bytes())
    })
}

/// Runs all at once, and returns when the last is done.
async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    enum Slot<F: Future> {
        Running(Pin<Box<F>>),
        Done(F::Output),
    }
    let mut slots: Vec<Slot<F>> = futures
        .into_iter()
        .map(|future| Slot::Running(Box::pin(future)))
        .collect();
    poll_fn(|context| {
        let mut running = false;
        for slot in &mut slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *slot = Slot::Done(output),
                    Poll::Pending => running = true,
                }
            }
        }
        match running {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    })
    .await;
    let done = slots.into_iter().filter_map(|slot| match slot {
        Slot::Done(output) => Some(output),
        Slot::Running(_) => None,
    });
    done.collect()
}

fn line_limits(settings: &Settings) -> line::Limits {
    line::Limits {
        slots_max: settings.lookups_max.max(1),
        line_max: settings.line_max,
        wait_max: settings.line_wait_max,
        silence_max: settings.silence_max,
    }
}

#[cfg(test)]
mod tests;
