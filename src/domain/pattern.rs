//! Domains as lists of an operator name them: one, or everything below one.

use super::{Domain, DomainError};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

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
                "{error}; expected a domain: example.com, or .example.com (also *.example.com) \
                 for all below it"
            )
        };
        if let Some(address) = bare_address_literal(text) {
            return Ok(DomainPattern::Exact(Domain::of_address(address)));
        }
        match text.strip_prefix("*.").or_else(|| text.strip_prefix('.')) {
            Some(parent) => domain_name(parent).map(DomainPattern::Below),
            None => recipient_domain(text).map(DomainPattern::Exact),
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
pub fn recipient_domain(text: &str) -> Result<Domain<'static>, DomainError> {
    match text.starts_with('[') {
        true => text.parse(),
        false => domain_name(text),
    }
}

/// A name, and no address literal; no label begins or ends with a hyphen.
pub fn domain_name(text: &str) -> Result<Domain<'static>, DomainError> {
    let name: Domain<'static> = text.parse()?;
    let hyphen_outside = |label: &str| label.starts_with('-') || label.ends_with('-');
    if name.address().is_some() || name.as_str().split('.').any(hyphen_outside) {
        return Err(DomainError::Character);
    }
    let last_label = name.as_str().rsplit_once('.').map(|(_, last)| last);
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    match last_label.is_some_and(is_number) {
        true => Err(DomainError::Number),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
