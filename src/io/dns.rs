//! One question to one name server, and what came of it.
//!
//! Promise: a reply is that server's own word, given in the time of one query, or of a few where it gives aliases one
//! by one or an answer too large for UDP. Nothing is remembered here.
//! Not here: which server is asked, how often and with what, and what a reply means for mail (`remote/resolve`).

pub use super::host::dns::{Server, configured, servers};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// How servers are asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Wait for one query.
    pub query_timeout: Duration,
    /// Queries under way at a time, at most. Who asks keeps to it: of one more by TCP nothing would come but a failure.
    pub queries_max: usize,
}

/// Sockets that a query has open, at most: while nothing comes it is sent again, twice, each time from another port.
pub const SOCKETS_PER_QUERY: usize = 3;

/// Which records of a name are asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    A,
    Aaaa,
    Mx,
}

/// A name and what is asked of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// Fully qualified.
    pub(in crate::io) name: Name,
    pub(in crate::io) kind: Kind,
}

impl Question {
    /// `None`: no name that can be asked for.
    pub fn new(name: &str, kind: Kind) -> Option<Self> {
        let mut name = Name::from_ascii(name).ok()?;
        name.set_fqdn(true);
        Some(Question { name, kind })
    }
}

/// What is read of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    Mx {
        preference: u16,
        /// As the DNS holds it, octets that are no letters or digits escaped; `.` is the root.
        exchange: Box<str>,
    },
    Address(IpAddr),
}

impl Record {
    /// `None`: of another type.
    pub fn of(data: &RData) -> Option<Self> {
        match data {
            RData::MX(mx) => Some(Record::Mx {
                preference: mx.preference,
                exchange: mx.exchange.to_ascii().into(),
            }),
            data => data.ip_addr().map(Record::Address),
        }
    }

    /// Of an A or AAAA record.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Record::Address(ip) => Some(*ip),
            Record::Mx { .. } => None,
        }
    }
}

/// What a server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Of the kind that was asked for; maybe none, behind an alias.
    Records {
        records: Vec<Record>,
        /// The least of those that led there.
        ttl: Duration,
    },
    Denied(Denial),
    /// The names of other servers: this one is no resolver, or not for this name.
    Referral,
    Code(Code),
    /// The server could not be asked, or what it said is nonsense.
    Failed(Box<str>),
    /// Nothing in its time; also where nobody listens.
    Silence,
}

/// There is no such name, or none with such records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    /// NOERROR: the name has records of other types, or names below it.
    pub name_exists: bool,
    /// How long that is good (RFC 2308), if the server says so.
    pub ttl: Option<Duration>,
    /// It came with the SOA of the zone.
    pub is_proven: bool,
    /// It speaks of another name, which an alias has led to.
    pub is_of_alias: bool,
}

/// A response code that is an error (RFC 6895 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub u16);

impl Code {
    pub const FORMERR: Code = Code(1);
    pub const SERVFAIL: Code = Code(2);
    pub const NOTIMP: Code = Code(4);
    pub const REFUSED: Code = Code(5);
    pub const BADVERS: Code = Code(16);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code: ResponseCode = self.0.into();
        code.fmt(f)
    }
}
