//! All that is asked for one next hop, and what is made of the answers.
//!
//! Not here: which server is asked (`pool`), and what is remembered of a next hop (`Resolver`).

use super::Resolver;
use super::candidates::{Candidates, Learned};
use super::error::{ResolveError, mail_loop, no_answer, no_such_domain};
use super::first::{Asking, first_of};
use super::hosts::{drop_from, mx_hosts, site_key};
use super::pool::Heard;
use super::queries::{Queries, Share};
use super::site::{Host, Site, SiteKey};
use crate::io::clock;
use crate::io::dns::{Denial, Kind, Question, Record};
use crate::io::runtime::timeout;
use crate::remote::route::NextHop;
use crate::time::Now;
use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long a host's addresses of one family are waited for when those of the other are known.
const OTHER_FAMILY_WAIT: Duration = Duration::from_secs(1);

/// Longest wait that an answer from a name server can ask for.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long what was drawn by lot is kept: the hosts and addresses left out have their turn soon.
const DRAWN_TTL_MAX: Duration = Duration::from_secs(60);

/// Everything that is asked for one next hop; remembers how long the answer is good.
pub(super) struct Inquiry<'a> {
    resolver: &'a Resolver,
    /// When it was asked for: what it learns is good from then on.
    now: Now,
    /// The end of its time, which runs from when its turn has come. The only clock: each step ends by it.
    end: Now,
    /// How long all of it is good.
    pub ttl: Cell<Duration>,
    look_up: &'a LookUp<'a>,
}

/// What all questions of one look-up share.
pub(super) struct LookUp<'a> {
    /// How often a name server said something, whatever it was.
    pub words: Cell<u32>,
    queries: Share<'a>,
}

impl<'a> LookUp<'a> {
    pub fn new(queries: &'a Queries) -> Self {
        LookUp {
            words: Cell::new(0),
            queries: queries.share(),
        }
    }
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

/// What is remembered about a host: its addresses, maybe none, and how long that is good.
pub(super) type HostAddresses = (Rc<[IpAddr]>, Now);

impl<'a> Inquiry<'a> {
    pub fn new(resolver: &'a Resolver, now: Now, look_up: &'a LookUp<'a>) -> Self {
        Inquiry {
            resolver,
            now,
            end: clock::now() + resolver.settings.resolve_timeout,
            ttl: Cell::new(TTL_MAX),
            look_up,
        }
    }

    pub fn keep(&self, ttl: Duration) {
        self.ttl.set(self.ttl.get().min(ttl));
    }

    fn note_word(&self) {
        let words = &self.look_up.words;
        words.set(words.get().saturating_add(1));
    }

    pub async fn site(&self, next_hop: &NextHop) -> Result<Site, ResolveError> {
        match next_hop {
            NextHop::Mx { domain, port } => self.mx_site(next_hop, domain.as_str(), *port).await,
            NextHop::Host { host, port } => {
                let key = SiteKey::new(next_hop.to_string());
                self.single_host(next_hop, host.as_str(), *port, key).await
            }
            NextHop::Address(address) => self.address_site(next_hop, *address),
        }
    }

    pub fn address_site(
        &self,
        next_hop: &NextHop,
        address: SocketAddr,
    ) -> Result<Site, ResolveError> {
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
        let left = self.end.since(clock::now());
        let found = timeout(left, self.query(domain, Kind::Mx)).await;
        let found = found.unwrap_or_else(|_| self.failed("no answer in time".into()));
        let records = match found {
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
        let own = &self.resolver.own;
        let had_hosts = !hosts.is_empty();
        drop_from(&mut hosts, |(_, name)| own.is_own_name(name));
        if had_hosts && hosts.is_empty() {
            return Err(mail_loop(next_hop));
        }
        // Of all hosts, so that it is the same whichever are used.
        let key = site_key(&hosts, port);
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

    /// The best hosts that have addresses, of those that come by preference. Not empty, and without this relay.
    async fn with_addresses(
        &self,
        next_hop: &NextHop,
        domain: &str,
        mut names: Vec<(u16, Box<str>)>,
        port: u16,
    ) -> Result<Vec<Host>, ResolveError> {
        let at_a_time = self.resolver.settings.hosts_max.max(1);
        if names.len() > at_a_time {
            self.resolver.draw_order(&mut names, |(it, _)| *it);
        }
        let mut candidates = Candidates::new(&names, at_a_time, clock::now(), self.end);
        let mut asking: Vec<Asking<(usize, Learned)>> = Vec::new();
        loop {
            for index in candidates.ask(clock::now()) {
                let name = &names[index].1;
                asking.push(Box::pin(async move {
                    (index, self.addresses(name, port).await)
                }));
            }
            if candidates.is_over(clock::now()) {
                break;
            }
            let deadline = candidates.deadline();
            if let Some((index, learned)) = first_of(&mut asking, deadline).await {
                candidates.learn(index, learned, clock::now());
            }
        }
        if candidates.has_unanswered() {
            self.keep(self.resolver.settings.failure_ttl);
        }
        if candidates.leaves_out() {
            self.keep(DRAWN_TTL_MAX);
        }
        candidates.outcome(next_hop, domain)
    }

    async fn addresses(&self, name: &str, port: u16) -> Learned {
        let hosts = &self.resolver.hosts;
        let now = self.now;
        let remembered = hosts.borrow_mut().get(name, now);
        let ips = if let Some((ips, until)) = remembered {
            self.keep(until.since(now));
            ips
        } else {
            // How long the answer about the host is good is its own affair.
            let inquiry = Inquiry::new(self.resolver, now, self.look_up);
            let found = inquiry.host_ips(name).await;
            self.keep(inquiry.ttl.get());
            let ips: Rc<[IpAddr]> = match found {
                Ok(ips) => ips.into(),
                Err(error) => return Learned::Failed(error),
            };
            let until = now + inquiry.ttl.get();
            let mut hosts = hosts.borrow_mut();
            hosts.insert(name.into(), (ips.clone(), until), until);
            ips
        };
        let own = &self.resolver.own;
        let addresses: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        match addresses.is_empty() {
            true => Learned::NoAddress,
            false if addresses.iter().any(|it| own.is_own_address(*it)) => Learned::IsThisRelay,
            false => Learned::Addresses(addresses),
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
                    let of_family = records.iter().filter_map(Record::address).collect();
                    ips.extend(self.draw_addresses(of_family, most.max(1)));
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

    /// Leaves `most` by lot; but what leads back here stays, or nobody would know that it does.
    fn draw_addresses(&self, addresses: Vec<IpAddr>, most: usize) -> Vec<IpAddr> {
        if addresses.len() <= most {
            return addresses;
        }
        self.keep(DRAWN_TTL_MAX);
        let own = &self.resolver.own;
        let (mut drawn, mut others): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|it| own.has_address(*it));
        drawn.truncate(most);
        self.resolver.draw(&mut others, most - drawn.len());
        drawn.append(&mut others);
        drawn
    }

    /// Where one family has addresses, the other is not waited for long: there are name servers that never answer
    /// one of the two questions.
    async fn both_families(
        &self,
        name: &str,
        ipv4: impl Future<Output = Found>,
        ipv6: impl Future<Output = Found>,
    ) -> (Found, Found) {
        let (mut ipv4, mut ipv6) = (pin!(ipv4), pin!(ipv6));
        tokio::select! {
            biased;
            found = &mut ipv4 => {
                let other = self.other_family(name, &found, ipv6).await;
                (found, other)
            }
            found = &mut ipv6 => {
                let other = self.other_family(name, &found, ipv4).await;
                (other, found)
            }
        }
    }

    async fn other_family(
        &self,
        name: &str,
        found: &Found,
        other: impl Future<Output = Found>,
    ) -> Found {
        match found {
            Found::Records(_) => {
                let other = timeout(OTHER_FAMILY_WAIT, other).await;
                other.unwrap_or_else(|_| self.failed(format!("no answer about {name} in time")))
            }
            _ => other.await,
        }
    }

    /// Aliases (CNAME) are followed, a bounded number of them.
    async fn query(&self, name: &str, kind: Kind) -> Found {
        let Some(question) = Question::new(name, kind) else {
            return Found::NoSuchName;
        };
        let queries = &self.look_up.queries;
        match self.resolver.pool.ask(&question, queries).await {
            Heard::Records { records, ttl } => {
                self.note_word();
                self.keep(ttl);
                match records.is_empty() {
                    true => Found::NoRecords,
                    false => Found::Records(records),
                }
            }
            Heard::Denied(denial) => {
                self.note_word();
                match ends_in_alias(&denial) && kind != Kind::Mx {
                    true => self.failed("its aliases come to no end".into()),
                    false => self.denied(&denial),
                }
            }
            Heard::Failed { why, is_silence } => {
                if !is_silence {
                    self.note_word();
                }
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
