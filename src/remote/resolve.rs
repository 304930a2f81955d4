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
//! | none of the hosts has an address | 5.4.4, or 4.4.3 if that could not be learned of each; see `candidates` |
//! | this relay among the hosts | it and all of equal or worse preference are dropped |
//! | nothing is left of them | permanent, 5.4.6: a loop |
//!
//! A stranger's MX may point to 127.0.0.1, 0.0.0.0 or an address of a private network. What leads to our own
//! listeners is a loop; other services of this host or its network get a greeting's worth of SMTP, as
//! from any other MTA that follows MX records.

mod cache;
mod candidates;
mod error;
mod first;
mod flight;
mod hosts;
mod inquiry;
mod line;
mod own;
mod pool;
pub mod probe;
mod queries;
mod servers;
mod site;
mod turn;

pub use error::ResolveError;
pub use hosts::mx_hosts;
pub use own::OwnNames;
pub use pool::Notice;
pub use site::{Attempt, Families, Host, Site, SiteKey};

use crate::io::runtime::timeout;
use crate::io::{clock, random};
use crate::remote::route::NextHop;
use crate::time::Now;
use cache::Cache;
use error::no_answer;
use flight::{Flight, Flights};
use inquiry::{HostAddresses, Inquiry, LookUp};
use line::Class;
use pool::Pool;
use queries::Queries;
use site::Mixer;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use turn::{Slot, Slots};

/// MX hosts whose addresses are remembered apart from the next hops: some take mail for very many domains.
/// About 100 bytes each.
const HOSTS_REMEMBERED_MAX: usize = 10_000;

/// Default of [`Settings::query_timeout`].
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// A next hop takes several questions, one after the other: so many times what one server has for one, and no less than
/// [`RESOLVE_TIMEOUT_MIN`].
const QUERIES_PER_RESOLVE: u32 = 4;
const RESOLVE_TIMEOUT_MIN: Duration = Duration::from_secs(20);

/// A look-up to which no name server has said anything for so long leaves its slot to others, and goes on beside them.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// So many times [`Settings::lookups_max`] silent look-ups go on beside those that have the slots.
const ASIDE_PER_SLOT: usize = 3;

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
    /// Hosts of a site that are used: the best that have addresses, chosen by lot among equals at each look-up. As many
    /// are asked for at a time. At least 1.
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

impl Settings {
    /// For name servers that take so long for an answer. Whatever waits for several answers waits longer, too.
    pub fn of(query_timeout: Duration) -> Self {
        let patience = (QUERIES_PER_RESOLVE * query_timeout).max(RESOLVE_TIMEOUT_MIN);
        Settings {
            query_timeout,
            resolve_timeout: patience,
            silence_max: patience,
            ..Settings::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name_servers: Vec::new(),
            query_timeout: QUERY_TIMEOUT,
            query_retries: 2,
            resolve_timeout: RESOLVE_TIMEOUT_MIN,
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
            silence_max: RESOLVE_TIMEOUT_MIN,
        }
    }
}

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
    in_flight: Flights,
    slots: Slots,
    queries: Queries,
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
            slots: Slots::new(line_limits(&settings)),
            queries: Queries::new(),
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
                let look_up = LookUp::new(&self.queries);
                let inquiry = Inquiry::new(self, now, &look_up);
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

    /// Best first; by lot among equals (RFC 5321 section 5.1), so that each has its turn at some look-up.
    fn draw_order<T>(&self, hosts: &mut [T], preference: impl Fn(&T) -> u16) {
        let mut lots = self.lots.borrow_mut();
        hosts.sort_by_cached_key(|host| (preference(host), lots.next()));
    }

    /// Leaves `most`, each with the same chance, in the order they were in.
    fn draw<T>(&self, from: &mut Vec<T>, most: usize) {
        while from.len() > most {
            self.take_by_lot(from);
        }
    }

    fn take_by_lot<T>(&self, from: &mut Vec<T>) -> T {
        let at = self.lots.borrow_mut().next() % from.len() as u64;
        from.remove(at as usize)
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
        let mut slot = needs_dns.then(|| self.slots.join(self.class_of(next_hop)));
        if let Some(slot) = &mut slot
            && let Err(why) = slot.turn().await
        {
            // Not remembered: it says nothing about this next hop.
            return Err(Rc::new(no_answer(&next_hop.to_string(), why.text().into())));
        }
        // Boxed, so that those who wait in line are small.
        let (answer, ttl, answered) = Box::pin(self.ask(next_hop, now, slot.as_mut())).await;
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
        slot: Option<&mut Slot<'_>>,
    ) -> (Result<Site, ResolveError>, Duration, bool) {
        let look_up = LookUp::new(&self.queries);
        let words = &look_up.words;
        let inquiry = Inquiry::new(self, now, &look_up);
        let mut asking = pin!(inquiry.site(next_hop));
        let mut heard = 0;
        let answer = loop {
            match timeout(SILENT_AFTER, asking.as_mut()).await {
                Ok(answer) => break answer,
                Err(_) if words.get() != heard => heard = words.get(),
                Err(_) => {
                    if let Some(slot) = slot {
                        slot.set_aside();
                    }
                    break asking.await;
                }
            }
        };
        // Also where no name server said how long.
        if answer.as_ref().is_err_and(|error| !error.is_permanent()) {
            inquiry.keep(self.settings.failure_ttl);
        }
        (answer, inquiry.ttl.get(), words.get() > 0)
    }
}

fn line_limits(settings: &Settings) -> line::Limits {
    line::Limits {
        slots_max: settings.lookups_max.max(1),
        aside_max: settings.lookups_max.saturating_mul(ASIDE_PER_SLOT),
        line_max: settings.line_max,
        wait_max: settings.line_wait_max,
        silence_max: settings.silence_max,
    }
}

#[cfg(test)]
mod tests;
