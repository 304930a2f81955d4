//! What a look-up yields: the hosts of a site, and the order to try them in.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which addresses of a host are used, and in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Families {
    /// In turn, an IPv6 address first.
    #[default]
    Ipv6First,
    /// In turn, an IPv4 address first.
    Ipv4First,
    Ipv4Only,
    Ipv6Only,
}

impl Families {
    pub fn uses_ipv4(self) -> bool {
        self != Families::Ipv6Only
    }

    pub fn uses_ipv6(self) -> bool {
        self != Families::Ipv4Only
    }
}

/// A host that takes mail for a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// A-labels, lower case, no final dot; the name that its certificate should have. The address in
    /// brackets where a route names an address.
    pub name: Box<str>,
    /// Of the MX record, lower is better; 0 without one.
    pub preference: u16,
    /// Not empty.
    pub addresses: Vec<SocketAddr>,
}

/// Names a site: two domains with equal keys have the same hosts in the same order of preference, and
/// may share connections.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SiteKey(Arc<str>);

impl SiteKey {
    pub(super) fn new(text: String) -> Self {
        SiteKey(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hosts of a next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    pub key: SiteKey,
    /// In order of preference. Not empty.
    pub hosts: Vec<Host>,
}

/// One address to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt<'a> {
    pub host: &'a Host,
    pub address: SocketAddr,
}

impl Site {
    /// All addresses in the order to try them: hosts by preference, equals shuffled (RFC 5321 section
    /// 5.1), each host's addresses rotated within their family and both families in turn.
    /// `random` is any number, evenly distributed.
    pub fn attempts(&self, families: Families, random: u64) -> Vec<Attempt<'_>> {
        let mut mixer = Mixer(random);
        let mut hosts: Vec<_> = self.hosts.iter().map(|host| (mixer.next(), host)).collect();
        hosts.sort_by_key(|(order, host)| (host.preference, *order));
        let attempts = hosts.into_iter().flat_map(|(order, host)| {
            let addresses = alternate_families(&host.addresses, families, order);
            addresses
                .into_iter()
                .map(move |address| Attempt { host, address })
        });
        attempts.collect()
    }
}

/// The addresses of both families in turn, each family rotated.
fn alternate_families(
    addresses: &[SocketAddr],
    families: Families,
    rotation: u64,
) -> Vec<SocketAddr> {
    let of_family = |ipv6: bool| {
        let mut of_family: Vec<_> = addresses
            .iter()
            .filter(|address| address.is_ipv6() == ipv6)
            .copied()
            .collect();
        if !of_family.is_empty() {
            let by = rotation % of_family.len() as u64;
            of_family.rotate_left(by as usize);
        }
        of_family
    };
    let ipv6_first = families.uses_ipv6() && families != Families::Ipv4First;
    let mut first = of_family(ipv6_first).into_iter();
    let mut second = of_family(!ipv6_first).into_iter();
    let mut all = Vec::with_capacity(addresses.len());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// splitmix64: many numbers from one.
pub(super) struct Mixer(pub u64);

impl Mixer {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn host(name: &str, preference: u16, addresses: &[&str]) -> Host {
        Host {
            name: name.into(),
            preference,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn site(hosts: Vec<Host>) -> Site {
        Site {
            key: SiteKey::new("test".into()),
            hosts,
        }
    }

    #[test]
    fn preference_first_and_equals_in_every_order() {
        let site = site(vec![
            host("a", 10, &["192.0.2.1:25"]),
            host("b", 10, &["192.0.2.2:25"]),
            host("c", 20, &["192.0.2.3:25"]),
        ]);
        let orders: HashSet<String> = (0..100)
            .map(|random| {
                let attempts = site.attempts(Families::default(), random);
                attempts.iter().map(|attempt| &*attempt.host.name).collect()
            })
            .collect();
        assert_eq!(orders, HashSet::from(["abc".into(), "bac".into()]));
    }

    #[test]
    fn families_take_turns_and_addresses_rotate() {
        let addresses = ["192.0.2.1:25", "192.0.2.2:25", "192.0.2.3:25", "[::2]:25"];
        let site = site(vec![host("a", 10, &addresses)]);
        let mut firsts = HashSet::new();
        for random in 0..100 {
            let attempts = site.attempts(Families::Ipv6First, random);
            let ipv6: Vec<bool> = attempts.iter().map(|it| it.address.is_ipv6()).collect();
            assert_eq!(ipv6, [true, false, false, false]);
            let attempts = site.attempts(Families::Ipv4First, random);
            assert!(attempts[1].address.is_ipv6());
            firsts.insert(attempts[0].address);
        }
        assert_eq!(firsts.len(), 3);
    }
}
