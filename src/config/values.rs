//! The values that flags take besides numbers: addresses, networks, domains, CPUs.

use crate::domain::Domain;
use crate::domain::pattern::{DomainPattern, domain_name};
use crate::io::file::Durability;
use crate::log::{LogFormat, LogLevel};
use crate::privilege::UserName;
use crate::remote::resolve::Families;
use crate::remote::route::{LINK_LOCAL, is_link_local};
use crate::smtp::data::BareLineEnds;
use crate::tls::TlsLevel;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// The words of a flag for the values of a room.
macro_rules! words {
    ($values:ty: $($value:expr => $word:literal $(or $other:literal)?),+) => {
        impl ValueEnum for $values {
            fn value_variants<'a>() -> &'a [Self] {
                &[$($value),+]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                let words = [$(($value, PossibleValue::new($word)$(.alias($other))?)),+];
                let own = words.into_iter().find(|(value, _)| value == self);
                own.map(|(_, word)| word)
            }
        }
    };
}

words!(LogFormat: LogFormat::Text => "text", LogFormat::Json => "json");
words!(LogLevel: LogLevel::Error => "error", LogLevel::Warn => "warn", LogLevel::Info => "info",
    LogLevel::Debug => "debug");
words!(TlsLevel: TlsLevel::None => "none", TlsLevel::May => "may", TlsLevel::Encrypt => "encrypt",
    TlsLevel::Verify => "verify");
words!(BareLineEnds: BareLineEnds::Refuse => "refuse",
    BareLineEnds::Normalise => "normalise" or "normalize");
words!(Families: Families::Ipv6First => "both", Families::Ipv4Only => "4", Families::Ipv6Only => "6");

/// `auto`, and what a spool can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpoolDurability(pub Option<Durability>);

words!(SpoolDurability: SpoolDurability(None) => "auto",
    SpoolDurability(Some(Durability::Direct)) => "direct",
    SpoolDurability(Some(Durability::Buffered)) => "buffered");

/// `ADDR:PORT`, IPv6 in brackets. Port 0 takes any free port.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(address) => with_scope(address),
        Err(_) if text.contains('%') => Err(scope_wanted(25)),
        Err(_) => Err(
            "expected an IP address and a port: 127.0.0.1:2525, 0.0.0.0:25 (all of IPv4) or \
             [::]:25 (all of IPv6)"
                .to_owned(),
        ),
    }
}

/// Where to listen, or `none`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressOrNone(pub Option<SocketAddr>);

impl FromStr for AddressOrNone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.eq_ignore_ascii_case("none") {
            true => Ok(AddressOrNone(None)),
            false => listen_address(text)
                .map(Some)
                .map(AddressOrNone)
                .map_err(|error| format!("{error}; or none")),
        }
    }
}

fn with_scope(address: SocketAddr) -> Result<SocketAddr, String> {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Err(scope_wanted(v6.port()))
        }
        address => Ok(address),
    }
}

fn scope_wanted(port: u16) -> String {
    format!(
        "a link-local address (fe80::/10) needs the number of its interface (ip link shows it): \
         [fe80::1%2]:{port}"
    )
}

/// Neither "any" nor a group.
fn is_of_a_host(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && !is_broadcast
}

/// An address to connect from.
pub fn source_address(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        _ if is_link_local(text) => Err(LINK_LOCAL.to_owned()),
        Ok(address) if is_of_a_host(address) => Ok(address),
        _ => Err("expected an IP address of this host: 192.0.2.1 or 2001:db8::1".to_owned()),
    }
}

/// `ADDR` or `ADDR:PORT`; the port is 53 unless given.
pub fn resolver_address(text: &str) -> Result<SocketAddr, String> {
    let bare = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((bare, _)) => bare,
        None => text,
    };
    if is_link_local(bare) {
        return Err(LINK_LOCAL.to_owned());
    }
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let address = text
        .parse::<SocketAddr>()
        .or_else(|_| inner.parse::<IpAddr>().map(|it| SocketAddr::new(it, 53)));
    address
        .ok()
        .filter(|address| is_of_a_host(address.ip()) && address.port() != 0)
        .ok_or_else(|| {
            "expected the IP address of a name server, not its name: 192.0.2.53, \
             127.0.0.1:5353 or [2001:db8::53]:53"
                .to_owned()
        })
}

/// The clients that may relay anywhere: networks, or `none`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientNet {
    None,
    Net(IpNet),
}

impl FromStr for ClientNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(ClientNet::None);
        }
        text.parse::<IpNet>()
            .map(|net| in_its_family(net.trunc()))
            .or_else(|_| {
                text.parse::<IpAddr>()
                    .map(|it| IpNet::from(it.to_canonical()))
            })
            .map(ClientNet::Net)
            .map_err(|_| {
                "expected a network or an address: 10.0.0.0/8, 192.0.2.7, 2001:db8::/32, or none"
                    .to_owned()
            })
    }
}

/// Clients of IPv4 are compared as such, whichever socket they come by.
fn in_its_family(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(of_v6) = net else {
        return net;
    };
    let address = of_v6.network().to_ipv4_mapped();
    let prefix = of_v6.prefix_len().checked_sub(MAPPED_BITS);
    let of_v4 = address
        .zip(prefix)
        .map(|(address, prefix)| Ipv4Net::new(address, prefix));
    match of_v4 {
        Some(Ok(of_v4)) => IpNet::V4(of_v4),
        _ => net,
    }
}

/// The domain of addresses of our own: a name.
pub fn mail_domain(text: &str) -> Result<Domain<'static>, String> {
    domain_name(text).map_err(|error| format!("{error}; expected a domain: example.com"))
}

/// A host name that may stand in a greeting (RFC 5321 section 4.1.2, `Domain`): ASCII letters,
/// digits and hyphens.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_ascii() && !name.contains('_') && domain_name(name).is_ok() {
        Ok(name.to_owned())
    } else {
        Err("expected a host name of letters, digits, hyphens and dots: mx1.example.com".to_owned())
    }
}

/// A switch, for the environment: a flag on the command line takes no value.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("expected 1, true, yes, on and 0, false, no, off".to_owned()),
    }
}

/// The words after the host name in the greeting: printable ASCII.
pub fn banner(text: &str) -> Result<String, String> {
    const BANNER_BYTES_MAX: usize = 200;
    let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if printable && !text.is_empty() && text.len() <= BANNER_BYTES_MAX {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "expected 1 to {BANNER_BYTES_MAX} printable ASCII characters"
        ))
    }
}

/// Whether there is such a user is known at the start only.
pub fn user(text: &str) -> Result<UserName, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes.all(|byte| byte.is_ascii_graphic() && !b":/,".contains(&byte)) && !name.is_empty()
    };
    if !is_name(user) || !group.is_none_or(is_name) {
        return Err("expected a user's name, or USER:GROUP".to_owned());
    }
    Ok(UserName {
        user: user.to_owned(),
        group: group.map(str::to_owned),
    })
}

/// `DOMAIN=LEVEL`: the TLS that one destination must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFor {
    pub domain: DomainPattern,
    pub level: TlsLevel,
}

impl FromStr for TlsFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "expected DOMAIN=LEVEL with the level none, may, encrypt or verify: example.com=verify"
                .to_owned()
        };
        let (domain, level) = text.rsplit_once('=').ok_or_else(wrong)?;
        Ok(TlsFor {
            domain: domain.parse()?,
            level: <TlsLevel as ValueEnum>::from_str(level, true).map_err(|_| wrong())?,
        })
    }
}

/// CPU numbers in the order given, repeats kept: `0-3,8` or `0,0,1,1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuList(pub Vec<usize>);

/// The most threads of one role. A message id keeps the number of its core in 16 bits; this
/// stays far below, and above any host sold today.
pub const THREADS_MAX: usize = 1024;

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected a list of CPU numbers: 0-3,8 or, for two threads each, 0,0,1,1".to_owned();
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last {
                return Err(wrong());
            }
            if last - first >= THREADS_MAX || cpus.len() + (last - first) >= THREADS_MAX {
                return Err(format!("expected at most {THREADS_MAX} threads"));
            }
            cpus.extend(first..=last);
        }
        Ok(CpuList(cpus))
    }
}

impl fmt::Display for CpuList {
    /// Three neighbours and more as a range.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(&first) = rest.first() {
            let run = rest
                .iter()
                .enumerate()
                .take_while(|(step, cpu)| **cpu == first + step)
                .count();
            let shown = if run >= 3 { run } else { 1 };
            match shown {
                1 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{}", first + run - 1)?,
            }
            comma = ",";
            rest = &rest[shown..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_read_and_show() {
        let list: CpuList = "0-3,8".parse().unwrap();
        assert_eq!(list.0, [0, 1, 2, 3, 8]);
        assert_eq!(list.to_string(), "0-3,8");
        let twice: CpuList = "0,0,1,1".parse().unwrap();
        assert_eq!(twice.0, [0, 0, 1, 1]);
        assert_eq!(twice.to_string(), "0,0,1,1");
        for wrong in ["", "a", "3-1", "1,", "-1", "0-99999999999", "0-1024"] {
            assert!(wrong.parse::<CpuList>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn client_networks() {
        let net = |text: &str| text.parse::<ClientNet>();
        assert_eq!(net("none"), Ok(ClientNet::None));
        assert_eq!(net("10.1.2.3/8"), net("10.0.0.0/8"));
        assert_eq!(net("192.0.2.7"), net("192.0.2.7/32"));
        assert!(net("::1").is_ok());
        assert!(net("10.0.0.0/33").is_err());
        assert!(net("example.com").is_err());
        assert_eq!(net("::ffff:127.0.0.0/104"), net("127.0.0.0/8"));
        assert_eq!(net("::ffff:192.0.2.7"), net("192.0.2.7"));
        assert_eq!(
            net("::/0").map(|it| it == net("0.0.0.0/0").unwrap()),
            Ok(false)
        );
    }

    #[test]
    fn what_is_no_address_of_a_host_is_refused() {
        for wrong in ["127.0.0.1:0", "224.0.0.1", "0.0.0.0", "[::]:53", "ff02::1"] {
            assert!(resolver_address(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255"] {
            assert!(source_address(wrong).is_err(), "{wrong}");
        }
        for wrong in ["192.0.2.1", "1.2.3", "relay.1"] {
            assert!(host_name(wrong).is_err(), "{wrong}");
            assert!(wrong.parse::<DomainPattern>().is_err(), "{wrong}");
        }
        assert!(host_name("42").is_ok(), "containers have such names");
    }

    #[test]
    fn addresses() {
        assert_eq!(
            resolver_address("192.0.2.53").unwrap().to_string(),
            "192.0.2.53:53"
        );
        assert_eq!(resolver_address("::1").unwrap().to_string(), "[::1]:53");
        assert_eq!(resolver_address("[::1]").unwrap().to_string(), "[::1]:53");
        assert_eq!(
            resolver_address("[::1]:5353").unwrap().to_string(),
            "[::1]:5353"
        );
        assert!(resolver_address("dns.example").is_err());
        assert!(listen_address("[::1]:25").is_ok());
        for wrong in ["25", ":25", "localhost:25", "127.0.0.1", "::1:25:x"] {
            assert!(listen_address(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn host_names() {
        assert_eq!(
            host_name("mx1.Example.com").as_deref(),
            Ok("mx1.Example.com")
        );
        assert_eq!(host_name("localhost").as_deref(), Ok("localhost"));
        for wrong in ["", "a_b", "a b", "mx\r\nx", "bücher.example", "[1.2.3.4]"] {
            assert!(host_name(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn tls_levels_per_domain() {
        let parsed: TlsFor = ".example.com=verify".parse().unwrap();
        assert_eq!(parsed.level, TlsLevel::Verify);
        assert_eq!(parsed.domain.to_string(), ".example.com");
        assert!("example.com".parse::<TlsFor>().is_err());
        assert!("example.com=strict".parse::<TlsFor>().is_err());
    }
}
