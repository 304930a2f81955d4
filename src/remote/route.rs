//! Where the mail for a domain goes: routes from the flags and the routes file, else its MX.
//!
//! ```text
//! example.com=relay.example:25          the MX hosts of relay.example
//! example.com=[relay.example]:25        the addresses of relay.example
//! example.com=[192.0.2.1]:2526          that address; [2001:db8::1] and [IPv6:2001:db8::1] too
//! .example.com=...  *.example.com=...   every subdomain of example.com, not itself
//! *=[192.0.2.1]                         everything else: a smarthost
//! ```
//!
//! The most particular route wins: the domain itself, then the longest wildcard, then `*`. A domain
//! without a route goes to its MX hosts, an address literal to its address. Domains are compared in their normal
//! form: [`Domain`].

use crate::domain::{Domain, DomainError, DomainMap};
use crate::policy::list_change::ListChange;
use crate::schedule::outcome::Diagnosis;
use crate::smtp::reply::EnhancedStatus;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Said of a link-local address where no interface can be named beside it.
pub const LINK_LOCAL: &str = "a link-local address (fe80::/10) is one of an interface, which cannot be named here; \
                              take another address";

/// With an interface or without.
pub fn is_link_local(text: &str) -> bool {
    let address = text.split('%').next().unwrap_or(text);
    let address = address.parse::<Ipv6Addr>();
    address.is_ok_and(|address| address.is_unicast_link_local())
}

/// RFC 5321 section 4.5.1: mail between hosts.
pub const SMTP_PORT: u16 = 25;

/// Where mail goes next. Its text form is the right side of a route.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NextHop {
    /// The MX hosts of a domain, which is a name.
    Mx {
        domain: Domain<'static>,
        port: u16,
    },
    /// The A and AAAA records of a host, which is a name.
    Host {
        host: Domain<'static>,
        port: u16,
    },
    Address(SocketAddr),
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHop::Mx { domain, port } => write!(f, "{domain}:{port}"),
            NextHop::Host { host, port } => write!(f, "[{host}]:{port}"),
            NextHop::Address(address) => write!(f, "[{}]:{}", address.ip(), address.port()),
        }
    }
}

const BARE_ADDRESS: &str = "an address is written in brackets: [192.0.2.1]:25";

impl FromStr for NextHop {
    type Err = String;

    /// The error says what is wrong, without the value.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('[') else {
            return parse_mx(text);
        };
        let (inner, rest) = rest.split_once(']').ok_or("a ']' is missing")?;
        let port = match rest.strip_prefix(':') {
            Some(port) => parse_port(port)?,
            None if rest.is_empty() => SMTP_PORT,
            None => return Err("after ']' only ':PORT' may follow".into()),
        };
        if is_link_local(untagged(inner).unwrap_or(inner)) {
            return Err(LINK_LOCAL.into());
        }
        if let Some(ip) = parse_ip(inner) {
            return Ok(NextHop::Address(SocketAddr::new(ip, port)));
        }
        let host = name_of_host(inner)?;
        Ok(NextHop::Host { host, port })
    }
}

fn parse_mx(text: &str) -> Result<NextHop, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(BARE_ADDRESS.into());
    }
    let (domain, port) = match text.split_once(':') {
        Some((domain, port)) => (domain, parse_port(port)?),
        None => (text, SMTP_PORT),
    };
    let domain = name_of_host(domain)?;
    Ok(NextHop::Mx { domain, port })
}

/// An address may look like a name, for instance with a final dot, and a wrong address like one, too: no top-level
/// domain is a number (RFC 3696 section 2).
fn name_of_host(text: &str) -> Result<Domain<'static>, String> {
    let name = domain_name(text)?;
    let last_label = name.as_str().rsplit('.').next().unwrap_or_default();
    if name.as_str().parse::<IpAddr>().is_ok() {
        return Err(BARE_ADDRESS.into());
    }
    match last_label.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Err("neither an address nor the name of a host".into()),
        false => Ok(name),
    }
}

fn domain_name(text: &str) -> Result<Domain<'static>, String> {
    let domain: Domain<'static> = text.parse().map_err(|why: DomainError| why.to_string())?;
    match domain.address() {
        Some(_) => Err(DomainError::Character.to_string()),
        None => Ok(domain),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("the port must be a number from 1 to 65535".into()),
        Ok(port) => Ok(port),
    }
}

/// An address without or with the tag of RFC 5321 section 4.1.3.
fn parse_ip(text: &str) -> Option<IpAddr> {
    match untagged(text) {
        Some(ip) => ip.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => text.parse().ok(),
    }
}

/// What stands behind the tag, if there is one.
fn untagged(text: &str) -> Option<&str> {
    const TAG: &str = "IPv6:";
    let (tag, ip) = text.split_at_checked(TAG.len())?;
    tag.eq_ignore_ascii_case(TAG).then_some(ip)
}

/// The domain of a recipient is no name to look up: permanent, 5.1.2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnusableDomain {
    pub why: DomainError,
}

impl From<DomainError> for UnusableDomain {
    fn from(why: DomainError) -> Self {
        UnusableDomain { why }
    }
}

impl UnusableDomain {
    pub fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            status: EnhancedStatus::new(5, 1, 2),
            text: self.to_string().into(),
            remote_host: "".into(),
        }
    }
}

impl fmt::Display for UnusableDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unusable domain: {}", self.why)
    }
}

impl std::error::Error for UnusableDomain {}

/// A route that cannot be used: where it stands, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteError {
    /// The flag with its value, or file and line.
    pub place: String,
    pub why: String,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

impl std::error::Error for RouteError {}

/// All routes. Built once, then read by every core.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// Of MX hosts and address literals that no route names.
    mx_port: u16,
    /// By domain, or by address literal.
    exact: DomainMap<Route>,
    /// By the domain whose subdomains are meant.
    wildcard: DomainMap<Route>,
    everything: Option<Route>,
}

#[derive(Clone, Debug)]
struct Route {
    next_hop: NextHop,
    place: String,
}

impl Default for RouteTable {
    fn default() -> Self {
        RouteTable::new(SMTP_PORT)
    }
}

impl RouteTable {
    /// No routes: mail goes to the MX hosts of its domain, at `mx_port`.
    pub fn new(mx_port: u16) -> Self {
        RouteTable {
            mx_port,
            exact: DomainMap::default(),
            wildcard: DomainMap::default(),
            everything: None,
        }
    }

    /// Adds one route from wherever it came: `PATTERN=NEXTHOP` or `PATTERN NEXTHOP`. `place` says
    /// where it stands, for complaints.
    pub fn add_entry(&mut self, text: &str, place: &str) -> Result<(), RouteError> {
        let parts = text
            .split_once('=')
            .or_else(|| text.trim().split_once(char::is_whitespace));
        let place = format!("{place} {text}");
        let added = match parts {
            Some((pattern, next_hop)) => self.add(pattern.trim(), next_hop.trim(), &place),
            None => Err("expected PATTERN=NEXTHOP".into()),
        };
        added.map_err(|why| RouteError { place, why })
    }

    fn add(&mut self, pattern: &str, next_hop: &str, place: &str) -> Result<(), String> {
        let next_hop = next_hop
            .parse()
            .map_err(|why| format!("next hop \"{next_hop}\": {why}"))?;
        let route = Route {
            next_hop,
            place: place.into(),
        };
        let in_pattern = |why| format!("pattern \"{pattern}\": {why}");
        let earlier = if pattern == "*" {
            self.everything.replace(route)
        } else if let Some(parent) = wildcard_parent(pattern) {
            let name = domain_name(parent).map_err(in_pattern)?;
            self.wildcard.insert(name, route)
        } else {
            let domain: Result<_, DomainError> = pattern.parse();
            let domain = domain.map_err(|why| in_pattern(why.to_string()))?;
            self.exact.insert(domain, route)
        };
        match earlier {
            Some(earlier) => Err(in_pattern(format!(
                "has a route already ({})",
                earlier.place
            ))),
            None => Ok(()),
        }
    }

    /// Where mail for this domain goes.
    pub fn next_hop(&self, domain: &Domain<'_>) -> NextHop {
        if let Some(next_hop) = self.route(domain) {
            return next_hop.clone();
        }
        match domain.address() {
            Some(address) => NextHop::Address(SocketAddr::new(address, self.mx_port)),
            None => NextHop::Mx {
                domain: domain.clone().into_owned(),
                port: self.mx_port,
            },
        }
    }

    /// Where the routes say that mail for this domain goes; `None`: they say nothing about it.
    pub fn route(&self, domain: &Domain<'_>) -> Option<&NextHop> {
        let route = self.exact.get(domain);
        let route = route.or_else(|| self.longest_wildcard(domain));
        let route = route.or(self.everything.as_ref())?;
        Some(&route.next_hop)
    }

    fn longest_wildcard(&self, domain: &Domain<'_>) -> Option<&Route> {
        if self.wildcard.is_empty() {
            return None;
        }
        let mut parents = domain.parents();
        parents.find_map(|parent| self.wildcard.get(&parent))
    }

    /// Whatever the domain, mail goes to one next hop.
    pub fn leads_one_way(&self) -> bool {
        let everything = self.everything.as_ref();
        everything.is_some_and(|all| self.next_hops().all(|(it, _)| *it == all.next_hop))
    }

    /// Each route's next hop, and where the route stands.
    pub fn next_hops(&self) -> impl Iterator<Item = (&NextHop, &str)> {
        let all = self.exact.values().chain(self.wildcard.values());
        let all = all.chain(&self.everything);
        all.map(|route| (&route.next_hop, route.place.as_str()))
    }

    /// How it differs from `old`, wherever its routes stand.
    pub fn since(&self, old: &RouteTable) -> ListChange {
        let kept = |(route, old): (&Route, Option<&Route>)| {
            old.is_some_and(|old| old.next_hop == route.next_hop)
        };
        let exact = self.exact.iter();
        let exact = exact.map(|(name, route)| (route, old.exact.get_normal(name)));
        let wildcard = self.wildcard.iter();
        let wildcard = wildcard.map(|(name, route)| (route, old.wildcard.get_normal(name)));
        let everything = self.everything.iter();
        let everything = everything.map(|route| (route, old.everything.as_ref()));
        ListChange::new(exact.chain(wildcard).chain(everything).map(kept), old.len())
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len() + usize::from(self.everything.is_some())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn wildcard_parent(pattern: &str) -> Option<&str> {
    pattern
        .strip_prefix('*')
        .unwrap_or(pattern)
        .strip_prefix('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(routes: &[&str]) -> RouteTable {
        let mut table = RouteTable::default();
        for route in routes {
            table.add_entry(route, "--route").expect(route);
        }
        table
    }

    /// The next hop in its text form, or the error.
    fn hop(table: &RouteTable, domain: &str) -> String {
        let domain = Domain::parse(domain).expect(domain);
        table.next_hop(&domain).to_string()
    }

    #[test]
    fn next_hops_read_and_print() {
        let table = [
            ("relay.example:25", "relay.example:25"),
            ("Relay.Example.", "relay.example:25"),
            ("relay.example:587", "relay.example:587"),
            ("[relay.example]", "[relay.example]:25"),
            ("[127.0.0.1]:2526", "[127.0.0.1]:2526"),
            ("[::1]:2525", "[::1]:2525"),
            ("[IPv6:::1]", "[::1]:25"),
            ("[ipv6:2001:db8::1]:26", "[2001:db8::1]:26"),
            ("bücher.example", "xn--bcher-kva.example:25"),
        ];
        for (text, printed) in table {
            let next_hop: NextHop = text.parse().expect(text);
            assert_eq!(next_hop.to_string(), printed);
            assert_eq!(printed.parse(), Ok(next_hop));
        }
    }

    #[test]
    fn brackets_mean_no_mx() {
        let mx: NextHop = "a.test".parse().unwrap();
        let host: NextHop = "[a.test]".parse().unwrap();
        let address: NextHop = "[127.0.0.1]".parse().unwrap();
        assert!(matches!(mx, NextHop::Mx { .. }));
        assert!(matches!(host, NextHop::Host { .. }));
        assert!(matches!(address, NextHop::Address(_)));
    }

    #[test]
    fn bad_routes_are_refused_with_the_value_and_the_reason() {
        let table = [
            ("a.test", "expected PATTERN=NEXTHOP"),
            ("=b.test", "must not be empty"),
            ("a.test=", "must not be empty"),
            ("a.test=192.0.2.1", "written in brackets"),
            ("a.test=[fe80::1]:25", "link-local"),
            ("a.test=[IPv6:fe80::1]", "link-local"),
            ("a.test=[fe80::1%eth0]", "link-local"),
            ("a.test=192.0.2.1:25", "written in brackets"),
            ("a.test=::1", "written in brackets"),
            ("a.test=192.0.2.1.", "written in brackets"),
            ("a.test=[192.0.2.1.]", "written in brackets"),
            ("a.test=b.test:0", "from 1 to 65535"),
            ("a.test=b.test:65536", "from 1 to 65535"),
            ("a.test=[::1]25", "only ':PORT'"),
            ("a.test=[::1", "']' is missing"),
            ("a.test=[IPv6:1.2.3.4]", "letters, digits"),
            ("a..test=b.test", "empty labels"),
            ("a b=b.test", "letters, digits"),
            ("*a.test=b.test", "letters, digits"),
            ("*.=b.test", "must not be empty"),
        ];
        for (value, why) in table {
            let error = RouteTable::default()
                .add_entry(value, "--route")
                .unwrap_err();
            assert_eq!(error.place, format!("--route {value}"));
            assert!(error.why.contains(why), "{value}: {}", error.why);
        }
    }

    #[test]
    fn most_particular_route_wins() {
        let table = table(&[
            "*=[192.0.2.1]",
            ".example.com=wild.test",
            "*.deep.example.com=deeper.test",
            "example.com=exact.test",
            "one.example.com=one.test",
        ]);
        assert_eq!(table.len(), 5);
        assert_eq!(hop(&table, "example.com"), "exact.test:25");
        assert_eq!(hop(&table, "ONE.Example.Com"), "one.test:25");
        assert_eq!(hop(&table, "two.example.com"), "wild.test:25");
        assert_eq!(hop(&table, "a.b.example.com"), "wild.test:25");
        assert_eq!(hop(&table, "deep.example.com"), "wild.test:25");
        assert_eq!(hop(&table, "a.deep.example.com"), "deeper.test:25");
        assert_eq!(hop(&table, "badexample.com"), "[192.0.2.1]:25");
        assert_eq!(hop(&table, "[198.51.100.7]"), "[192.0.2.1]:25");
    }

    #[test]
    fn without_a_route_the_domain_is_its_own_next_hop() {
        let table = RouteTable::default();
        assert_eq!(hop(&table, "Example.COM"), "example.com:25");
        assert_eq!(hop(&table, "[127.0.0.1]"), "[127.0.0.1]:25");
        assert_eq!(hop(&table, "[IPv6:2001:DB8::1]"), "[2001:db8::1]:25");
    }

    #[test]
    fn u_label_and_a_label_are_the_same_domain() {
        let table = table(&["BÜCHER.example=books.test"]);
        assert_eq!(hop(&table, "bücher.example"), "books.test:25");
        assert_eq!(hop(&table, "bu\u{308}cher.example."), "books.test:25");
        assert_eq!(hop(&table, "XN--BCHER-KVA.example"), "books.test:25");
    }

    #[test]
    fn address_literal_can_have_a_route() {
        let table = table(&["[IPv6:::1]=[127.0.0.1]:2526"]);
        assert_eq!(hop(&table, "[IPv6:0:0:0:0:0:0:0:1]"), "[127.0.0.1]:2526");
    }

    #[test]
    fn what_no_resolver_may_see_is_unusable() {
        let long = "a".repeat(64) + ".test";
        let longer = "a.".repeat(127) + "test";
        for domain in [
            "",
            ".",
            "a..test",
            "a\\.test",
            "a@b",
            "[::1]",
            "[foo]",
            "[1.2.3.4",
            "[Foo:bar]",
            &long,
            &longer,
        ] {
            assert!(Domain::parse(domain).is_err(), "{domain}");
        }
    }

    #[test]
    fn lines_of_a_file_separate_by_blanks() {
        let mut table = RouteTable::default();
        for line in ["a.test [127.0.0.1]:26", ".b.test\tmx.b.test"] {
            table.add_entry(line, "routes, line 1").expect(line);
        }
        assert_eq!(hop(&table, "a.test"), "[127.0.0.1]:26");
        assert_eq!(hop(&table, "x.b.test"), "mx.b.test:25");
        let error = table
            .add_entry("c.test mx:x", "routes, line 3")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("routes, line 3 c.test mx:x: next hop \"mx:x\"")
        );
    }

    #[test]
    fn second_route_for_a_pattern_is_refused() {
        let mut table = table(&["a.test=b.test", "*=c.test"]);
        let error = table
            .add_entry("A.test d.test", "routes, line 1")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "routes, line 1 A.test d.test: pattern \"A.test\": has a route already (--route a.test=b.test)"
        );
        assert!(table.add_entry("*=e.test", "--route").is_err());
        for (first, second) in [
            ("BÜCHER.test", "bu\u{308}cher.test."),
            ("*.bücher.test", ".xn--bcher-kva.test"),
            ("[IPv6:::ffff:192.0.2.1]", "[192.0.2.1]"),
        ] {
            let mut table = RouteTable::default();
            table
                .add_entry(&format!("{first}=a.test"), "")
                .expect(first);
            assert!(
                table.add_entry(&format!("{second}=a.test"), "").is_err(),
                "{second}"
            );
        }
    }

    #[test]
    fn table_may_be_shared_between_cores() {
        fn shared<T: Send + Sync>() {}
        shared::<RouteTable>();
        shared::<NextHop>();
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_or_reads_back(text in "\\PC{0,60}") {
            if let Ok(next_hop) = text.parse::<NextHop>() {
                prop_assert_eq!(next_hop.to_string().parse(), Ok(next_hop));
            }
            if let Ok(domain) = Domain::parse(&text) {
                let _ = RouteTable::default().next_hop(&domain);
            }
        }
    }
}
