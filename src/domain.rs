//! The normal form of a domain: the only form in which domains are compared, hashed and looked up.
//!
//! A name is in A-labels (RFC 5890), lower case, without a final dot. An address literal is the
//! address in its shortest form (RFC 5952), an IPv4-mapped IPv6 address as the IPv4 address that
//! it leads to.
//!
//! ```text
//! BÜCHER.test.  bu\u{308}cher.test  XN--BCHER-KVA.test  ->  xn--bcher-kva.test
//! ｐartner.test  part\u{ad}ner.test                      ->  partner.test
//! [IPv6:2001:DB8:0::1]                                  ->  [IPv6:2001:db8::1]
//! ```
//!
//! Names are mapped as UTS 46 says (nontransitional: `ß` is a letter of its own). A name that UTS
//! 46 refuses has no normal form, and is never compared in another one.
//!
//! Promise: two domains are equal if and only if they lead to the same place in the DNS, or are the same address.
//! Not here: what a domain is for, and whether it exists.

pub mod pattern;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Octets of a name without its final dot (RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 253;
/// Octets of one label (RFC 1035 section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// What is given to the mapping: more octets than any name has that fits in the limits above.
const UNMAPPED_BYTES_MAX: usize = 4 * (NAME_BYTES_MAX + 1);

const ACE_PREFIX: &[u8] = b"xn--";
const IPV6_TAG: &str = "IPv6:";

/// A domain name or an address literal in its normal form.
///
/// Borrows from the text if that is in normal form already, as nearly all are; a clone of an
/// owned one shares the text.
#[derive(Clone)]
pub struct Domain<'a>(Text<'a>);

#[derive(Clone)]
enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

/// Why a text has no normal form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainError {
    EmptyLabel,
    NameTooLong,
    LabelTooLong,
    /// A character that names of hosts do not have.
    Character,
    /// UTS 46 refuses it, or its A-labels are not those that it makes of the U-labels.
    NotIdna,
    /// No top-level domain is a number (RFC 3696 section 2): an address, or a wrong one.
    Number,
    /// Brackets, but not around an address as RFC 5321 section 4.1.3 writes it.
    Literal,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainError::EmptyLabel => f.write_str("a name must not be empty or have empty labels"),
            DomainError::NameTooLong => {
                write!(f, "a name has at most {NAME_BYTES_MAX} bytes in A-labels")
            }
            DomainError::LabelTooLong => {
                write!(
                    f,
                    "a label has at most {LABEL_BYTES_MAX} bytes in its A-label form"
                )
            }
            DomainError::Character => {
                f.write_str("a name consists of letters, digits, '-' and '_'")
            }
            DomainError::Number => f.write_str(
                "no name ends in a number; an address is written in brackets: [192.0.2.1]",
            ),
            DomainError::NotIdna => f.write_str("not a valid internationalised name (UTS 46)"),
            DomainError::Literal => f.write_str("not an IPv4 or IPv6 address literal"),
        }
    }
}

impl std::error::Error for DomainError {}

impl<'a> Domain<'a> {
    /// The normal form of a name, with U-labels or not, or of an address literal. Allocates only if
    /// `text` is in another form.
    pub fn parse(text: &'a str) -> Result<Self, DomainError> {
        match is_normal(text) {
            true => Ok(Domain(Text::Borrowed(text))),
            false => Domain::normalise(text),
        }
    }

    fn normalise(text: &'a str) -> Result<Self, DomainError> {
        if text.starts_with('[') {
            return literal_address(text).map(Domain::of_address);
        }
        if text.is_ascii() && !has_a_label(text) {
            return Domain::from_dns(text);
        }
        if text.len() > UNMAPPED_BYTES_MAX {
            return Err(DomainError::NameTooLong);
        }
        let mapped = map(text)?;
        let name = without_final_dot(&mapped);
        check_name(name)?;
        // What the mapping makes must be its own normal form.
        if has_a_label(name) && map(name)? != name {
            return Err(DomainError::NotIdna);
        }
        Ok(Domain(Text::Shared(name.into())))
    }

    /// A name as the DNS holds it: octets without regard to case. An A-label is not looked into,
    /// because a name that exists under it can be reached, whatever it decodes to.
    pub fn from_dns(text: &'a str) -> Result<Self, DomainError> {
        let name = without_final_dot(text);
        check_name(name)?;
        match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Ok(Domain(Text::Shared(name.to_ascii_lowercase().into()))),
            false => Ok(Domain(Text::Borrowed(name))),
        }
    }

    /// The literal of an address.
    pub fn of_address(address: IpAddr) -> Domain<'static> {
        let text = match address.to_canonical() {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[{IPV6_TAG}{address}]"),
        };
        Domain(Text::Shared(text.into()))
    }

    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }

    /// The same in every process and version (FNV-1a, its bits mixed once more: a core is chosen by the lowest ones).
    pub fn fixed_hash(&self) -> u64 {
        let hash = self
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        hash ^ (hash >> 32)
    }

    pub fn into_owned(self) -> Domain<'static> {
        Domain(Text::Shared(self.into_text()))
    }

    fn into_text(self) -> Arc<str> {
        match self.0 {
            Text::Borrowed(text) => text.into(),
            Text::Shared(text) => text,
        }
    }

    /// The address of a literal; `None` for a name.
    pub fn address(&self) -> Option<IpAddr> {
        match self.as_str().starts_with('[') {
            true => literal_address(self.as_str()).ok(),
            false => None,
        }
    }

    /// The domains above this one, the closest first. A literal has none.
    pub fn parents(&self) -> impl Iterator<Item = Domain<'_>> {
        let name = match self.as_str() {
            literal if literal.starts_with('[') => "",
            name => name,
        };
        name.match_indices('.')
            .map(|(dot, _)| Domain(Text::Borrowed(&name[dot + 1..])))
    }
}

impl PartialEq for Domain<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Domain<'_> {}

impl PartialOrd for Domain<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Domain<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Domain<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Domain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Domain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Domain<'static> {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        Domain::parse(text).map(Domain::into_owned)
    }
}

/// Values by domain. Only a [`Domain`] can be looked up.
#[derive(Clone, Debug)]
pub struct DomainMap<V>(HashMap<Arc<str>, V>);

impl<V> Default for DomainMap<V> {
    fn default() -> Self {
        DomainMap(HashMap::new())
    }
}

impl<V> DomainMap<V> {
    pub fn get(&self, domain: &Domain<'_>) -> Option<&V> {
        self.0.get(domain.as_str())
    }

    pub fn contains(&self, domain: &Domain<'_>) -> bool {
        self.get(domain).is_some()
    }

    /// What the domain had before.
    pub fn insert(&mut self, domain: Domain<'_>, value: V) -> Option<V> {
        self.0.insert(domain.into_text(), value)
    }

    pub fn get_or_default(&mut self, domain: Domain<'_>) -> &mut V
    where
        V: Default,
    {
        self.0.entry(domain.into_text()).or_default()
    }

    /// Names in their normal form, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// By the name's normal form.
    pub fn get_normal(&self, name: &str) -> Option<&V> {
        self.0.get(name)
    }

    /// In no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// True for a name without A-labels that is its own normal form, as nearly all are: found out in one
/// pass, because each message has several.
fn is_normal(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut label_at = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if IS_NORMAL[usize::from(byte)] {
            continue;
        }
        if byte != b'.' || !is_normal_label(&bytes[label_at..at]) {
            return false;
        }
        label_at = at + 1;
    }
    is_normal_label(&bytes[label_at..]) && bytes.len() <= NAME_BYTES_MAX
}

/// `label` has only octets of [`IS_NORMAL`].
fn is_normal_label(label: &[u8]) -> bool {
    let is_long_enough = (1..=LABEL_BYTES_MAX).contains(&label.len());
    is_long_enough && !label.starts_with(ACE_PREFIX)
}

static IS_NORMAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        byte += 1;
    }
    table
};

/// True if a label begins as an A-label does.
fn has_a_label(name: &str) -> bool {
    name.split('.').any(|label| {
        label
            .as_bytes()
            .get(..ACE_PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(ACE_PREFIX))
    })
}

fn map(name: &str) -> Result<Cow<'_, str>, DomainError> {
    // Which ASCII characters a name may have is checked in the outcome.
    idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::EMPTY)
        .map_err(|_| DomainError::NotIdna)
}

fn without_final_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Letters, digits, hyphens and underscores only: what names of mail hosts consist of, and nothing
/// that a resolver could read as an escape.
fn check_name(name: &str) -> Result<(), DomainError> {
    name.split('.').try_for_each(check_label)?;
    match name.len() > NAME_BYTES_MAX {
        true => Err(DomainError::NameTooLong),
        false => Ok(()),
    }
}

fn check_label(label: &str) -> Result<(), DomainError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if label.is_empty() {
        return Err(DomainError::EmptyLabel);
    }
    if !label.bytes().all(allowed) {
        return Err(DomainError::Character);
    }
    match label.len() > LABEL_BYTES_MAX {
        true => Err(DomainError::LabelTooLong),
        false => Ok(()),
    }
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
fn literal_address(text: &str) -> Result<IpAddr, DomainError> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or(DomainError::Literal)?;
    let address = match inner.split_at_checked(IPV6_TAG.len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case(IPV6_TAG) => {
            address.parse::<Ipv6Addr>().map(IpAddr::from)
        }
        _ => inner.parse::<Ipv4Addr>().map(IpAddr::from),
    };
    address
        .map(|address| address.to_canonical())
        .map_err(|_| DomainError::Literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(text: &str) -> Result<String, DomainError> {
        Domain::parse(text).map(|domain| domain.to_string())
    }

    #[test]
    fn all_spellings_of_a_domain_have_one_normal_form() {
        let table = [
            ("partner.test", "partner.test"),
            ("PARTNER.Test.", "partner.test"),
            ("ｐartner.test", "partner.test"),
            ("ＰＡＲＴＮＥＲ.test", "partner.test"),
            ("part\u{ad}ner.test", "partner.test"),
            ("part\u{200b}ner.test", "partner.test"),
            ("partner\u{3002}test", "partner.test"),
            ("partner\u{ff0e}test", "partner.test"),
            ("partner\u{ff61}test\u{3002}", "partner.test"),
            ("\u{1d429}artner.test", "partner.test"),
            ("bücher.test", "xn--bcher-kva.test"),
            ("BÜCHER.test", "xn--bcher-kva.test"),
            ("bu\u{308}cher.test", "xn--bcher-kva.test"),
            ("BU\u{308}CHER.TEST.", "xn--bcher-kva.test"),
            ("xn--bcher-kva.test", "xn--bcher-kva.test"),
            ("XN--BCHER-KVA.TEST", "xn--bcher-kva.test"),
            ("ｘn--bcher-kva.test", "xn--bcher-kva.test"),
            ("xn--bcher-kva.TEST.", "xn--bcher-kva.test"),
            ("a.bücher.test", "a.xn--bcher-kva.test"),
            // Nontransitional: these are not fass.test and not a name without the joiner.
            ("faß.test", "xn--fa-hia.test"),
            ("FAẞ.test", "xn--fa-hia.test"),
            ("fass.test", "fass.test"),
            ("\u{915}\u{94d}\u{200d}\u{937}.test", "xn--11b2ezcw70k.test"),
            ("例子.test", "xn--fsqu00a.test"),
            ("under_score.test", "under_score.test"),
            ("r3---sn.test", "r3---sn.test"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[IPv6:2001:DB8:0:0::1]", "[IPv6:2001:db8::1]"),
            ("[ipv6:::1]", "[IPv6:::1]"),
            ("[IPv6:::FFFF:192.0.2.1]", "[192.0.2.1]"),
            ("[IPv6:::ffff:c000:201]", "[192.0.2.1]"),
        ];
        for (text, expected) in table {
            assert_eq!(normal(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_normal_form_is_refused() {
        let long_label = format!("{}.test", "a".repeat(64));
        let long_u_label = format!("{}.test", "ü".repeat(63));
        let long_name = format!("{}test", "a.".repeat(127));
        let endless = "ü.".repeat(100_000);
        let table = [
            ("", DomainError::EmptyLabel),
            (".", DomainError::EmptyLabel),
            ("a..test", DomainError::EmptyLabel),
            (".a.test", DomainError::EmptyLabel),
            ("a.test..", DomainError::EmptyLabel),
            ("bücher.test.\u{3002}", DomainError::EmptyLabel),
            ("\u{ad}.test", DomainError::EmptyLabel),
            ("a b.test", DomainError::Character),
            ("a\\.test", DomainError::Character),
            ("a@b", DomainError::Character),
            ("*.a.test", DomainError::Character),
            ("bücher@b", DomainError::Character),
            ("bücher\u{ff0f}b", DomainError::Character),
            ("bücher\0.test", DomainError::Character),
            ("xn--.test", DomainError::NotIdna),
            ("xn--a.test", DomainError::NotIdna),
            ("xn--abc-.test", DomainError::NotIdna),
            ("xn--\u{fc}.test", DomainError::NotIdna),
            // Of "bÜcher" and of a decomposed "bücher": not what UTS 46 makes of them.
            ("xn--bcher-2pa.test", DomainError::NotIdna),
            ("xn--bucher-xyd.test", DomainError::NotIdna),
            ("xn--999999999.test", DomainError::NotIdna),
            ("a\u{200d}b.test", DomainError::NotIdna),
            ("a\u{200c}b.test", DomainError::NotIdna),
            ("\u{308}a.test", DomainError::NotIdna),
            ("a\u{fffd}.test", DomainError::NotIdna),
            ("\u{5d0}a.test", DomainError::NotIdna),
            (&long_label, DomainError::LabelTooLong),
            (&long_u_label, DomainError::LabelTooLong),
            (&long_name, DomainError::NameTooLong),
            (&endless, DomainError::NameTooLong),
            ("[::1]", DomainError::Literal),
            ("[foo]", DomainError::Literal),
            ("[1.2.3.4", DomainError::Literal),
            ("[1.2.3]", DomainError::Literal),
            ("[IPv6:1.2.3.4]", DomainError::Literal),
            ("[IPv6:fe80::1%eth0]", DomainError::Literal),
            ("[192.0.2.1].", DomainError::Literal),
        ];
        for (text, expected) in table {
            let text: &str = text;
            assert_eq!(normal(text), Err(expected), "{text:.60}");
        }
    }

    #[test]
    fn a_name_of_the_dns_is_taken_octet_by_octet() {
        let from_dns = |text| Domain::from_dns(text).map(|name| name.to_string());
        assert_eq!(from_dns("MX.Test.").as_deref(), Ok("mx.test"));
        assert_eq!(from_dns("xn--a.test").as_deref(), Ok("xn--a.test"));
        assert_eq!(from_dns("bücher.test"), Err(DomainError::Character));
    }

    #[test]
    fn a_text_in_normal_form_is_borrowed() {
        for text in ["example.com", "example.com.", "localhost"] {
            let domain = Domain::parse(text).unwrap();
            assert!(matches!(domain.0, Text::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn parents_are_the_domains_above() {
        let parents = |text: &str| -> Vec<String> {
            let domain = Domain::parse(text).unwrap();
            domain.parents().map(|it| it.to_string()).collect()
        };
        assert_eq!(parents("a.b.test"), ["b.test", "test"]);
        assert_eq!(parents("test"), [""; 0]);
        assert_eq!(parents("[192.0.2.1]"), [""; 0]);
    }

    #[test]
    fn literals_have_an_address() {
        let address = |text| Domain::parse(text).unwrap().address();
        assert_eq!(address("[IPv6:::1]"), Some("::1".parse().unwrap()));
        assert_eq!(address("192.0.2.1"), None);
    }

    proptest! {
        #[test]
        fn the_short_way_finds_what_the_long_one_finds(
            text in "((xn--|XN--)?[a-zA-Z0-9_.-]{0,70}[.]?){0,5}|[a-z.]{250,256}|[\\PC.]{0,20}",
        ) {
            prop_assert_eq!(Domain::parse(&text), Domain::normalise(&text), "{}", text);
        }

        /// Whatever a text becomes, that is its own normal form.
        #[test]
        fn a_normal_form_is_its_own(text in r"\[?[\PC.\-xn0-9a-zA-Zßüｘ。\u{ad}\u{200d}\u{308}]{0,24}\]?") {
            if let Ok(domain) = Domain::parse(&text) {
                let again = Domain::parse(domain.as_str());
                prop_assert_eq!(again.as_ref(), Ok(&domain));
                prop_assert!(domain.as_str().is_ascii());
            }
        }

        #[test]
        fn u_labels_and_a_labels_are_equal(label in r"[a-zA-Zßüöé\u{4e00}-\u{4f00}\u{3b1}-\u{3c9}]{1,12}") {
            let name = format!("{label}.test");
            let domain = Domain::parse(&name).unwrap();
            let (unicode, good) = idna::domain_to_unicode(domain.as_str());
            prop_assert!(good.is_ok());
            prop_assert_eq!(Domain::parse(&unicode).unwrap(), domain.clone());
            let upper = domain.as_str().to_ascii_uppercase();
            prop_assert_eq!(Domain::parse(&upper).unwrap(), domain);
        }
    }
}
