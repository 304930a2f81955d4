//! The values that flags take besides numbers: addresses, networks, domains, CPUs.

use crate::domain::{Domain, DomainError};
use crate::message::unquoted;
use clap::ValueEnum;
use ipnet::IpNet;
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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
    match text.parse() {
        Ok(address) => with_scope(address),
        Err(_) if text.contains('%') => Err(scope_wanted(25)),
        Err(_) => Err(
            "allowed is an IP address and a port: 127.0.0.1:2525, 0.0.0.0:25 (all of IPv4) or \
             [::]:25 (all of IPv6)"
                .to_owned(),
        ),
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

/// Said of a link-local address where no interface can be named beside it.
pub const LINK_LOCAL: &str = "a link-local address (fe80::/10) is one of an interface, which cannot be named here; \
                              take another address";

/// With an interface or without.
pub fn is_link_local(text: &str) -> bool {
    let address = text.split('%').next().unwrap_or(text);
    let address = address.parse::<Ipv6Addr>();
    address.is_ok_and(|address| address.is_unicast_link_local())
}

/// An address to connect from.
pub fn source_address(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        _ if is_link_local(text) => Err(LINK_LOCAL.to_owned()),
        Ok(address) => Ok(address),
        Err(_) => Err("allowed is an IP address of this host: 192.0.2.1 or 2001:db8::1".to_owned()),
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
            "allowed is the IP address of a resolver (there is nobody yet to ask for its name): 192.0.2.53, \
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
            .map(|net| net.trunc())
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(ClientNet::Net)
            .map_err(|_| {
                "allowed is a network or an address: 10.0.0.0/8, 192.0.2.7, 2001:db8::/32, or none"
                    .to_owned()
            })
    }
}

/// A domain, or everything below one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DomainPattern {
    Exact(Domain<'static>),
    /// `.example.com` and `*.example.com`: any depth below, not the domain itself.
    Below(Domain<'static>),
}

impl DomainPattern {
    pub fn matches(&self, domain: &Domain<'_>) -> bool {
        match self {
            DomainPattern::Exact(name) => name == domain,
            DomainPattern::Below(parent) => domain.parents().any(|above| above == *parent),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |error: DomainError| {
            format!(
                "{error}; allowed is a domain: example.com, or .example.com (also *.example.com) \
                 for all below it"
            )
        };
        if let Some(address) = bare_address_literal(text) {
            return Ok(DomainPattern::Exact(Domain::of_address(address)));
        }
        match text.strip_prefix("*.").or_else(|| text.strip_prefix('.')) {
            Some(parent) => domain_name(parent).map(DomainPattern::Below),
            None => domain(text).map(DomainPattern::Exact),
        }
        .map_err(wrong)
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainPattern::Exact(domain) => write!(f, "{domain}"),
            DomainPattern::Below(domain) => write!(f, ".{domain}"),
        }
    }
}

/// `[2001:db8::1]`, which is no address literal in mail, but clear in a flag.
fn bare_address_literal(text: &str) -> Option<IpAddr> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse().ok()
}

/// A domain as a recipient may have it: a name, in whatever spelling, or an address literal.
pub fn domain(text: &str) -> Result<Domain<'static>, DomainError> {
    match text.starts_with('[') {
        true => text.parse(),
        false => domain_name(text),
    }
}

/// The domain of addresses of our own: a name.
pub fn mail_domain(text: &str) -> Result<Domain<'static>, String> {
    domain_name(text).map_err(|error| format!("{error}; allowed is a domain: example.com"))
}

fn domain_name(text: &str) -> Result<Domain<'static>, DomainError> {
    let name: Domain<'static> = text.parse()?;
    let hyphen_outside = |label: &str| label.starts_with('-') || label.ends_with('-');
    match name.address().is_some() || name.as_str().split('.').any(hyphen_outside) {
        true => Err(DomainError::Character),
        false => Ok(name),
    }
}

/// A host name that may stand in a greeting (RFC 5321 section 4.1.2, `Domain`): ASCII letters,
/// digits and hyphens.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_ascii() && !name.contains('_') && domain_name(name).is_ok() {
        Ok(name.to_owned())
    } else {
        Err(
            "allowed is a host name of letters, digits, hyphens and dots: mx1.example.com"
                .to_owned(),
        )
    }
}

/// Recipients of a relay domain that are known: one, or all of a domain.
///
/// Text form `user@example.com` or `@example.com`. Local-parts are compared without regard to case
/// and quoting. That is coarser than RFC 5321 section 2.4 allows, but no host of today tells
/// `User` from `user`, and a list must not refuse what the host behind it would take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownRecipient {
    /// What the local-part means, [`folded`]; `None`: all of the domain.
    pub local_part: Option<Box<str>>,
    pub domain: Domain<'static>,
}

impl FromStr for KnownRecipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "allowed is an address (user@example.com), or @example.com for all of it";
        // A quoted local-part may hold an '@', a domain never does.
        let (local_part, name) = text.rsplit_once('@').ok_or(wrong)?;
        let domain = domain(name).map_err(|error| format!("{error}; {wrong}"))?;
        if !is_local_part(local_part) {
            return Err(wrong.to_owned());
        }
        let local_part = match local_part {
            "" => None,
            local_part => Some(folded(&unquoted(local_part)).into()),
        };
        Ok(KnownRecipient { local_part, domain })
    }
}

/// Empty, a quoted string, or a text without what would have to be quoted.
fn is_local_part(text: &str) -> bool {
    let Some(quoted) = text.strip_prefix('"') else {
        return !text.contains(['"', '\\', '@']) && !text.contains(char::is_whitespace);
    };
    let mut escaped = false;
    let end = quoted.find(|character| {
        let is_end = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        is_end
    });
    end.is_some_and(|end| end + 1 == quoted.len())
}

/// A local-part as it is compared; borrowed while it is lower-case ASCII.
pub fn folded(local_part: &str) -> Cow<'_, str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    match local_part.bytes().all(is_lower) {
        true => Cow::Borrowed(local_part),
        false => Cow::Owned(local_part.to_lowercase()),
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
        let exact = |text: &str| Ok(DomainPattern::Exact(text.parse().unwrap()));
        let below = |text: &str| Ok(DomainPattern::Below(text.parse().unwrap()));
        assert_eq!("Example.COM.".parse(), exact("example.com"));
        assert_eq!(".example.com".parse(), below("example.com"));
        assert_eq!("*.example.com".parse(), below("example.com"));
        assert_eq!("[192.0.2.1]".parse(), exact("[192.0.2.1]"));
        assert_eq!("[2001:DB8::1]".parse(), exact("[IPv6:2001:db8::1]"));
        for spelling in [
            "bücher.example",
            "BÜCHER.example",
            "bu\u{308}cher.example",
            "xn--bcher-kva.example",
            "bücher\u{3002}example.",
        ] {
            let below_it = format!("*.{spelling}").parse();
            assert_eq!(below_it, below("xn--bcher-kva.example"), "{spelling}");
            assert_eq!(
                spelling.parse(),
                exact("xn--bcher-kva.example"),
                "{spelling}"
            );
        }
        for wrong in [
            "xn--a.example",
            "*.[192.0.2.1]",
            "a\u{200d}b.example",
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
    fn known_recipients_by_what_they_mean() {
        let known = |text: &str| -> KnownRecipient { text.parse().expect(text) };
        for same in [
            "A@B.test",
            "\"a\"@b.test.",
            "\"\\a\"@b.test",
            "\"A\"@\u{ff42}.test",
        ] {
            assert_eq!(known(same), known("a@b.test"), "{same}");
        }
        assert_eq!(known("ü@BÜCHER.test"), known("Ü@xn--bcher-kva.test"));
        let local_part = |text: &str| known(text).local_part;
        assert_eq!(
            local_part("\"a@c.test\"@b.test").as_deref(),
            Some("a@c.test")
        );
        assert_eq!(local_part("\"\"@b.test").as_deref(), Some(""));
        assert_eq!(local_part("@b.test"), None);
        for wrong in [
            "",
            "a",
            "a@",
            "a@*.b.test",
            "@.b.test",
            "a b@c.test",
            "a\"b@c.test",
            "\"a@c.test",
            "\"a\\\"@c.test",
            "\"a\"b\"@c.test",
            "a@b@c.test",
            "a@xn--a.test",
        ] {
            assert!(wrong.parse::<KnownRecipient>().is_err(), "{wrong}");
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
