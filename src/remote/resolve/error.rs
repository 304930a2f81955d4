//! Why a next hop has no hosts, and what that means for its mail.

use crate::remote::route::NextHop;
use crate::schedule::outcome::Diagnosis;
use crate::smtp::reply::EnhancedStatus;
use std::fmt;

/// Why a next hop has no hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResolveError {
    /// RFC 7505: the domain declares that it takes no mail.
    NullMx { domain: Box<str> },
    /// NXDOMAIN, or a name that cannot be asked for.
    NoSuchDomain { domain: Box<str> },
    /// The DNS answers, but there is nothing to connect to.
    NoAddress { domain: Box<str> },
    /// No answer, or none that says anything. Temporary.
    NoAnswer { name: Box<str>, why: Box<str> },
    /// The best host that is left is this relay.
    MailLoop { next_hop: Box<str> },
}

impl ResolveError {
    /// False: waiting can help.
    pub fn is_permanent(&self) -> bool {
        self.status().class == 5
    }

    pub fn status(&self) -> EnhancedStatus {
        let (class, subject, detail) = match self {
            ResolveError::NullMx { .. } => (5, 1, 10),
            ResolveError::NoSuchDomain { .. } => (5, 1, 2),
            ResolveError::NoAddress { .. } => (5, 4, 4),
            ResolveError::NoAnswer { .. } => (4, 4, 3),
            ResolveError::MailLoop { .. } => (5, 4, 6),
        };
        EnhancedStatus::new(class, subject, detail)
    }

    pub fn diagnosis(&self) -> Diagnosis {
        Diagnosis {
            status: self.status(),
            text: self.to_string().into(),
            remote_host: "".into(),
        }
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::NullMx { domain } => write!(f, "{domain} takes no mail (null MX)"),
            ResolveError::NoSuchDomain { domain } => write!(f, "domain {domain} not found"),
            ResolveError::NoAddress { domain } => write!(f, "no address found for {domain}"),
            ResolveError::NoAnswer { name, why } => {
                write!(f, "DNS look-up of {name} failed: {why}")
            }
            ResolveError::MailLoop { next_hop } => {
                write!(f, "mail for {next_hop} loops back to this relay")
            }
        }
    }
}

impl std::error::Error for ResolveError {}

pub(super) fn no_such_domain(domain: &str) -> ResolveError {
    ResolveError::NoSuchDomain {
        domain: domain.into(),
    }
}

pub(super) fn no_answer(name: &str, why: String) -> ResolveError {
    ResolveError::NoAnswer {
        name: name.into(),
        why: why.into(),
    }
}

pub(super) fn mail_loop(next_hop: &NextHop) -> ResolveError {
    ResolveError::MailLoop {
        next_hop: next_hop.to_string().into(),
    }
}
