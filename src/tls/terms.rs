//! On what terms mail goes to a host: how much TLS is demanded, and whom its certificate must name.
//!
//! ```text
//! recipient domain -> Demand (known at once)  --.
//!                                                |--> Terms of one host (looked up, see `remote::terms`)
//! its site         -> Host (from the DNS)     --'
//! ```
//!
//! Not here: certificates and who is trusted ([`policy`](super::policy)).

use super::policy::TlsLevel;
use crate::domain::Domain;
use std::fmt;

/// What a recipient domain demands of its hosts. Mail with different demands shares no connection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Demand {
    pub level: TlsLevel,
    /// The certificate is judged against the host's name, but who vouches for that name is the domain.
    pub vouching_domain: Option<Domain<'static>>,
}

impl Demand {
    pub fn new(level: TlsLevel, domain: Domain<'_>) -> Self {
        Demand {
            level,
            vouching_domain: (level == TlsLevel::Verify).then(|| domain.into_owned()),
        }
    }
}

/// Nothing, where there is nothing particular.
impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.vouching_domain {
            Some(domain) => write!(f, " for {domain} ({})", self.level),
            None if self.level == TlsLevel::May => Ok(()),
            None => write!(f, " ({})", self.level),
        }
    }
}

/// On what terms one host is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms<'a> {
    pub level: TlsLevel,
    /// What its certificate must name, where the level asks for that: a host name or an address.
    pub certificate_name: &'a str,
}

impl Terms<'_> {
    /// Plaintext is what is left when TLS does not work.
    pub fn may_fall_back(&self) -> bool {
        self.level.wants_tls() && self.level.allows_plaintext()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_demands_a_name_vouches_for_it() {
        let demand = |level| Demand::new(level, "a.test".parse().unwrap());
        assert_eq!(demand(TlsLevel::May).to_string(), "");
        assert_eq!(demand(TlsLevel::Encrypt).to_string(), " (encrypt)");
        assert_eq!(demand(TlsLevel::Verify).to_string(), " for a.test (verify)");
        assert_eq!(
            demand(TlsLevel::May),
            Demand::new(TlsLevel::May, "b.test".parse().unwrap())
        );
        assert_ne!(
            demand(TlsLevel::Verify),
            Demand::new(TlsLevel::Verify, "b.test".parse().unwrap())
        );
    }
}
