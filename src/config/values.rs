//! The values that flags take besides numbers: addresses, networks, domains, CPUs.

use clap::ValueEnum;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// How much TLS a destination must have before mail goes to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum)]
pub enum TlsLevel {
    /// Never use TLS.
    None,
    /// Use TLS where it is offered and works, plaintext otherwise.
    May,
    /// TLS or no delivery; any certificate will do.
    Encrypt,
    /// TLS with a certificate that names the host and leads to a trusted root.
    Verify,
}

impl fmt::Display for TlsLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsLevel::None => "none",
            TlsLevel::May => "may",
            TlsLevel::Encrypt => "encrypt",
            TlsLevel::Verify => "verify",
        })
    }
}

/// How commits to the spool become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SpoolDurability {
    /// Direct where the file system can do it, buffered otherwise.
    Auto,
    /// `O_DIRECT | O_DSYNC`, or no start.
    Direct,
    /// Buffered writes, each followed by `fdatasync(2)`.
    Buffered,
}

/// What happens to a bare CR or LF in a message (RFC 5321 section 2.3.8 forbids both).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BareLineEnds {
    /// The message gets a 5xx reply.
    Refuse,
    /// The message is passed on with CRLF in their place.
    #[value(alias = "normalize")]
    Normalise,
}

/// Which addresses of a next hop are tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum IpVersion {
    Both,
    #[value(name = "4")]
    V4,
    #[value(name = "6")]
    V6,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Which log lines are written: those of this level and of the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// `ADDR:PORT`, IPv6 in brackets. Port 0 takes any free port.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "allowed is an IP address and a port: 127.0.0.1:2525, 0.0.0.0:25 (all of IPv4) or \
         [::]:25 (all of IPv6)"
            .to_owned()
    })
}

/// `ADDR` or `ADDR:PORT`; the port is 53 unless given.
pub fn resolver_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, 53))
        .map_err(|_| {
            "allowed is the IP address of a resolver: 192.0.2.53, 127.0.0.1:5353 or [2001:db8::53]:53"
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
            .map(|net| net.trunc())
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(ClientNet::Net)
            .map_err(|_| {
                "allowed is a network or an address: 10.0.0.0/8, 192.0.2.7, 2001:db8::/32, or none"
                    .to_owned()
            })
    }
}

/// A domain, or everything below one. Lower case, without a final dot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DomainPattern {
    Exact(Box<str>),
    /// `.example.com` and `*.example.com`: any depth below, not the domain itself.
    Below(Box<str>),
}

impl DomainPattern {
    /// True if the pattern means `domain`, which may be upper case or end in a dot.
    pub fn matches(&self, domain: &str) -> bool {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        match self {
            DomainPattern::Exact(name) => domain.eq_ignore_ascii_case(name),
            DomainPattern::Below(parent) => domain
                .len()
                .checked_sub(parent.len() + 1)
                .and_then(|dot| domain.get(dot..))
                .is_some_and(|end| end.starts_with('.') && end[1..].eq_ignore_ascii_case(parent)),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "allowed is a domain: example.com, or .example.com (also *.example.com) for all below it"
                .to_owned()
        };
        let lower = text.strip_suffix('.').unwrap_or(text).to_lowercase();
        if is_address_literal(&lower) {
            return Ok(DomainPattern::Exact(lower.into()));
        }
        let below = lower.strip_prefix("*.").or_else(|| lower.strip_prefix('.'));
        match below {
            Some(domain) if is_domain(domain) => Ok(DomainPattern::Below(domain.into())),
            None if is_domain(&lower) => Ok(DomainPattern::Exact(lower.into())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainPattern::Exact(domain) => f.write_str(domain),
            DomainPattern::Below(domain) => write!(f, ".{domain}"),
        }
    }
}

fn is_address_literal(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return false;
    };
    let inner = inner.strip_prefix("ipv6:").unwrap_or(inner);
    inner.parse::<IpAddr>().is_ok()
}

/// Labels of 1 to 63 octets, 253 in all (RFC 1035 section 2.3.4). Letters beyond ASCII pass, for
/// SMTPUTF8 domains, and so does the underscore that some hosts carry.
fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c) || is_beyond_ascii(c))
        })
}

/// Combining marks belong to letters of many scripts without being alphanumeric, so this asks
/// only what a name must not hold.
fn is_beyond_ascii(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// A host name that may stand in a greeting (RFC 5321 section 4.1.2, `Domain`): ASCII letters,
/// digits and hyphens.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_ascii() && !name.contains('_') && is_domain(name) {
        Ok(name.to_owned())
    } else {
        Err(
            "allowed is a host name of letters, digits, hyphens and dots: mx1.example.com"
                .to_owned(),
        )
    }
}

/// A switch, for the environment: a flag on the command line takes no value.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("allowed are 1, true, yes, on and 0, false, no, off".to_owned()),
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
            "allowed is 1 to {BANNER_BYTES_MAX} printable ASCII characters"
        ))
    }
}

/// `NAME[:GROUP]`: who the relay becomes when root has started it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserName {
    pub user: String,
    /// `None`: the user's own first group.
    pub group: Option<String>,
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
        return Err("allowed is a user's name, or USER:GROUP".to_owned());
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
            "allowed is DOMAIN=LEVEL with the level none, may, encrypt or verify: example.com=verify"
                .to_owned()
        };
        let (domain, level) = text.rsplit_once('=').ok_or_else(wrong)?;
        Ok(TlsFor {
            domain: domain.parse()?,
            level: TlsLevel::from_str(level, true).map_err(|_| wrong())?,
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
        let wrong = || {
            "allowed is a list of CPU numbers: 0-3,8 or, for two threads each, 0,0,1,1".to_owned()
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last {
                return Err(wrong());
            }
            if last - first >= THREADS_MAX || cpus.len() + (last - first) >= THREADS_MAX {
                return Err(format!("allowed are at most {THREADS_MAX} threads"));
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
    fn domain_patterns() {
        let exact = |text: &str| Ok(DomainPattern::Exact(text.into()));
        let below = |text: &str| Ok(DomainPattern::Below(text.into()));
        assert_eq!("Example.COM.".parse(), exact("example.com"));
        assert_eq!(".example.com".parse(), below("example.com"));
        assert_eq!("*.example.com".parse(), below("example.com"));
        assert_eq!("[192.0.2.1]".parse(), exact("[192.0.2.1]"));
        assert_eq!("bücher.example".parse(), exact("bücher.example"));
        for wrong in [
            "",
            ".",
            "*",
            "*.",
            "a..b",
            "a b",
            "-a.b",
            "a@b",
            "a\u{7f}.b",
        ] {
            assert!(wrong.parse::<DomainPattern>().is_err(), "{wrong:?}");
        }
        let too_long = format!("{}.example", "a".repeat(64));
        assert!(too_long.parse::<DomainPattern>().is_err());
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
