//! The hosts that the sink plays: one, or the MX hosts of every domain, each with a name and an
//! address of its own. Names and addresses follow from numbers, so nobody stores them.
//! Not here: DNS messages (`dns`), conversations (`session`).
//!
//! ```text
//! domain d --> site d / shared --> hosts site * per_site ..  --> 127.1.0.0 + host
//! ```
//! A site is a set of MX hosts. The last site is that of the senders' domain and is always good.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::figures::sink::HostFigures;
use crate::mail::address::{Domain, DomainNames};
use crate::options::sink::MxOptions;

/// Address of host 0. What lies below is left to relay, name server and everybody else.
const FIRST_ADDRESS: u32 = 0x7F01_0000;
/// Most hosts in all: 12 bytes each, and far from the end of 127.0.0.0/8.
const HOSTS_MAX: u64 = 5_000_000;
/// Domain of the hosts' names.
pub const HOSTS_DOMAIN: &str = "mx.test";
/// Preference of a site's best host; the next ones have two, three, ... times as much.
const PREFERENCE_STEP: u16 = 10;

/// A host by its number.
pub type HostNumber = u32;

/// What kind of next hop the sink plays, and what it counts for each host.
pub struct Hosts {
    /// `None`: one host, whatever the address.
    mx: Option<Mx>,
    counts: Box<[HostCounts]>,
    /// Recipients whose message came to a host that is none of their domain's.
    pub misrouted: AtomicU64,
}

struct Mx {
    names: DomainNames,
    /// Hosts of a site.
    per_site: u32,
    /// Domains of a site.
    shared: u64,
    /// Sites of recipient domains.
    sites: u64,
    faulty_sites: u64,
    /// Hosts of a faulty site that are faulty.
    faulty_hosts: u32,
}

#[derive(Default)]
struct HostCounts {
    open: AtomicU32,
    open_max: AtomicU32,
    messages: AtomicU32,
}

/// A name that the DNS knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A domain; its MX hosts begin with this one.
    Domain(HostNumber),
    Host(HostNumber),
}

impl Hosts {
    /// One host for everything.
    pub fn one() -> Self {
        Self::with(None, 1)
    }

    /// Those that `options` ask for.
    pub fn new(names: &DomainNames, options: &MxOptions) -> Result<Self, String> {
        let Some(per_site) = options.mx_hosts else {
            return Ok(Self::one());
        };
        let sites = names.count().div_ceil(options.mx_shared);
        let hosts = (sites + 1).saturating_mul(u64::from(per_site));
        if hosts > HOSTS_MAX {
            return Err(format!("more than {HOSTS_MAX} MX hosts are too many"));
        }
        let share = options.faulty_domains.unwrap_or(1.0);
        let faulty = (sites as f64 * share).round() as u64;
        let mx = Mx {
            names: names.clone(),
            per_site,
            shared: options.mx_shared,
            sites,
            // Whoever asks for less than all gets a good one.
            faulty_sites: if share < 1.0 {
                faulty.min(sites - 1)
            } else {
                sites
            },
            faulty_hosts: options.faulty_hosts.unwrap_or(per_site),
        };
        Ok(Self::with(Some(mx), hosts as usize))
    }

    fn with(mx: Option<Mx>, hosts: usize) -> Self {
        Self {
            mx,
            counts: (0..hosts).map(|_| HostCounts::default()).collect(),
            misrouted: AtomicU64::new(0),
        }
    }

    /// The hosts have addresses of their own.
    pub fn is_by_mx(&self) -> bool {
        self.mx.is_some()
    }

    /// The host that lives at this address.
    pub fn at(&self, address: IpAddr) -> Option<HostNumber> {
        if self.mx.is_none() {
            return Some(0);
        }
        let IpAddr::V4(address) = address else {
            return None;
        };
        let host = u32::from(address).checked_sub(FIRST_ADDRESS)?;
        ((host as usize) < self.counts.len()).then_some(host)
    }

    /// The address of a host (by MX only).
    pub fn address(&self, host: HostNumber) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_ADDRESS + host)
    }

    /// What the DNS has under this name, without or with a final dot.
    pub fn find(&self, name: &str) -> Option<Known> {
        let mx = self.mx.as_ref()?;
        let domain = mx
            .names
            .find(name)
            .map(|domain| Known::Domain(mx.first_host(domain)));
        domain.or_else(|| mx.find_host(name).map(Known::Host))
    }

    /// Preference, name and number of a domain's hosts, best first; `first` is the first of them.
    pub fn mx_set(&self, first: HostNumber) -> impl Iterator<Item = (u16, String, HostNumber)> {
        let per_site = self.mx.as_ref().map_or(0, |mx| mx.per_site);
        (0..per_site).map(move |index| {
            let preference = PREFERENCE_STEP * (index as u16 + 1);
            let site = first / per_site;
            (
                preference,
                format!("mx{index}.s{site}.{HOSTS_DOMAIN}"),
                first + index,
            )
        })
    }

    /// Whether mail to this address may come to this host.
    pub fn takes(&self, host: Option<HostNumber>, address: &str) -> bool {
        let Some(mx) = &self.mx else {
            return true;
        };
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        let site = |host| u64::from(host / mx.per_site);
        let wanted = mx.names.find(domain).map(|domain| mx.site(domain));
        wanted.is_some() && wanted == host.map(site)
    }

    /// Whether this host has the sink's faults.
    pub fn is_faulty(&self, host: Option<HostNumber>) -> bool {
        let (Some(mx), Some(host)) = (&self.mx, host) else {
            return true;
        };
        mx.is_faulty_site(u64::from(host / mx.per_site)) && host % mx.per_site < mx.faulty_hosts
    }

    /// Whether none of the hosts of this host's domain is faulty, while those of others are.
    pub fn is_healthy_among_faulty(&self, host: Option<HostNumber>) -> bool {
        let (Some(mx), Some(host)) = (&self.mx, host) else {
            return false;
        };
        let site = u64::from(host / mx.per_site);
        mx.faulty_sites < mx.sites && site < mx.sites && !mx.is_faulty_site(site)
    }

    /// A connection to this host begins, unless `most` are open: then false.
    pub fn enter(&self, host: HostNumber, most: u32) -> bool {
        let counts = &self.counts[host as usize];
        let open = counts.open.fetch_add(1, Ordering::Relaxed) + 1;
        if open > most {
            self.leave(host);
            return false;
        }
        counts.open_max.fetch_max(open, Ordering::Relaxed);
        true
    }

    /// It ends. To be called once for each `enter` that returned true.
    pub fn leave(&self, host: HostNumber) {
        self.counts[host as usize]
            .open
            .fetch_sub(1, Ordering::Relaxed);
    }

    /// This host took a message.
    pub fn took_message(&self, host: HostNumber) {
        self.counts[host as usize]
            .messages
            .fetch_add(1, Ordering::Relaxed);
    }

    pub fn figures(&self) -> HostFigures {
        let most = self
            .counts
            .iter()
            .map(|c| c.open_max.load(Ordering::Relaxed))
            .max();
        let took = |counts: &HostCounts| counts.messages.load(Ordering::Relaxed) > 0;
        // The senders' hosts are no next hops that anybody asked for.
        let per_site = self.mx.as_ref().map_or(1, |mx| mx.per_site as usize);
        let ours = match &self.mx {
            Some(mx) => mx.sites as usize * per_site,
            None => 1,
        };
        let sites = self.counts[..ours].chunks(per_site);
        HostFigures {
            by_mx: self.is_by_mx(),
            sites: sites.len() as u64,
            sites_reached: sites.filter(|site| site.iter().any(took)).count() as u64,
            sites_faulty: self.mx.as_ref().map_or(0, |mx| match mx.faulty_sites {
                all if all == mx.sites => 0,
                some => some,
            }),
            hosts: ours as u64,
            hosts_reached: self.counts[..ours].iter().filter(|host| took(host)).count() as u64,
            connections_per_host_max: most.unwrap_or(0),
            misrouted: self.misrouted.load(Ordering::Relaxed),
        }
    }
}

impl Mx {
    fn site(&self, domain: Domain) -> u64 {
        match domain {
            Domain::Recipient(number) => number / self.shared,
            Domain::Sender => self.sites,
        }
    }

    /// Fits: the number of hosts is bounded.
    fn first_host(&self, domain: Domain) -> HostNumber {
        self.site(domain) as u32 * self.per_site
    }

    fn find_host(&self, name: &str) -> Option<HostNumber> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let rest = name.strip_suffix(HOSTS_DOMAIN)?.strip_suffix('.')?;
        let (index, site) = rest.strip_prefix("mx")?.split_once(".s")?;
        let (index, site): (u32, u64) = (plain(index)?, plain(site)?.into());
        let exists = index < self.per_site && site <= self.sites;
        exists.then_some(site as u32 * self.per_site + index)
    }

    /// Faulty sites are spread evenly over the numbers; site 0 is the last to become one.
    fn is_faulty_site(&self, site: u64) -> bool {
        let until = |site: u64| site * self.faulty_sites / self.sites;
        site < self.sites && until(site + 1) > until(site)
    }
}

/// A number without sign or leading zeros.
fn plain(digits: &str) -> Option<u32> {
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::mail::address::Addressing;
    use crate::mail::address::tests::source_options;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        mx: MxOptions,
    }

    pub fn hosts(domains: u64, flags: &str) -> Hosts {
        let options = source_options(&format!("--domains {domains}"));
        let names = Addressing::new("r", &options)
            .unwrap()
            .domain_names()
            .unwrap();
        Hosts::new(&names, &self::options(flags)).unwrap()
    }

    pub fn options(flags: &str) -> MxOptions {
        let words = std::iter::once("sink").chain(flags.split_whitespace());
        Flags::try_parse_from(words).unwrap().mx
    }

    fn domain(hosts: &Hosts, name: &str) -> HostNumber {
        match hosts.find(name) {
            Some(Known::Domain(first)) => first,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn names_addresses_and_numbers_lead_to_each_other() {
        let hosts = hosts(100_000, "--mx-hosts 3");
        for d in [0, 1, 77, 99_999] {
            let name = format!("d{d:04}.test");
            for (preference, host_name, host) in hosts.mx_set(domain(&hosts, &name)) {
                assert!((10..=30).contains(&preference));
                assert_eq!(
                    hosts.find(&format!("{host_name}.")),
                    Some(Known::Host(host))
                );
                assert_eq!(hosts.at(hosts.address(host).into()), Some(host));
                assert!(hosts.address(host).is_loopback());
                assert!(hosts.takes(Some(host), &format!("user0@{name}")));
                assert!(!hosts.takes(Some(host), "user0@d0002.test"));
                assert!(!hosts.takes(Some(host), "somebody@else.test"));
            }
        }
        for strange in [
            "d100000.test",
            "mx3.s0.mx.test",
            "mx0.s100001.mx.test",
            "mx00.s0.mx.test",
        ] {
            assert_eq!(hosts.find(strange), None, "{strange}");
        }
        assert_eq!(hosts.at("127.0.0.1".parse().unwrap()), None);
        assert!(!hosts.takes(None, "user0@d0000.test"));
    }

    #[test]
    fn bounces_have_a_good_host_of_their_own() {
        let hosts = hosts(4, "--mx-hosts 2");
        let first = domain(&hosts, "source.test");
        assert_eq!(first, 8);
        assert!(hosts.takes(Some(first), "l-r-1@source.test"));
        assert!(!hosts.takes(Some(first), "user0@d0003.test"));
        assert!(!hosts.is_faulty(Some(first)) && hosts.is_faulty(Some(0)));
        assert!(!hosts.is_healthy_among_faulty(Some(first)));
    }

    #[test]
    fn domains_may_share_their_hosts() {
        let hosts = hosts(10, "--mx-hosts 2 --mx-shared 4");
        assert_eq!(domain(&hosts, "d0000.test"), domain(&hosts, "d0003.test"));
        assert_ne!(domain(&hosts, "d0003.test"), domain(&hosts, "d0004.test"));
        assert_eq!(hosts.figures().sites, 3);
        assert_eq!(hosts.figures().hosts, 6);
    }

    #[test]
    fn as_many_sites_are_faulty_as_asked() {
        for (share, faulty) in [
            ("0", 0),
            ("0.1", 100),
            ("0.29", 290),
            ("0.999", 999),
            ("0.9999", 999),
            ("1", 1000),
        ] {
            let hosts = hosts(1000, &format!("--mx-hosts 2 --faulty-domains {share}"));
            let count = (0..2000)
                .filter(|&host| hosts.is_faulty(Some(host)))
                .count();
            assert_eq!(count, 2 * faulty, "{share}");
            let healthy = (0..2000)
                .filter(|&h| hosts.is_healthy_among_faulty(Some(h)))
                .count();
            assert_eq!(
                healthy,
                if faulty == 1000 { 0 } else { 2000 - count },
                "{share}"
            );
        }
        let first = hosts(10, "--mx-hosts 3 --faulty-domains 1 --faulty-hosts 1");
        let faulty: Vec<_> = (0..30)
            .filter(|&host| first.is_faulty(Some(host)))
            .collect();
        assert_eq!(faulty, (0..30).step_by(3).collect::<Vec<_>>());
    }

    #[test]
    fn connections_to_a_host_are_limited_and_counted() {
        let hosts = hosts(2, "--mx-hosts 1");
        assert!(hosts.enter(1, 2) && hosts.enter(1, 2) && hosts.enter(0, 2));
        assert!(!hosts.enter(1, 2));
        hosts.leave(1);
        assert!(hosts.enter(1, 2));
        hosts.took_message(1);
        let figures = hosts.figures();
        assert_eq!(figures.connections_per_host_max, 2);
        assert_eq!((figures.sites_reached, figures.hosts_reached), (1, 1));
    }

    #[test]
    fn without_mx_there_is_one_host_for_all() {
        let hosts = Hosts::one();
        let host = hosts.at("192.0.2.1".parse().unwrap());
        assert_eq!(host, Some(0));
        assert!(hosts.takes(host, "a@b.test") && hosts.is_faulty(host));
        assert_eq!(hosts.find("d0000.test"), None);
        assert_eq!(hosts.figures().sites, 1);
    }
}
