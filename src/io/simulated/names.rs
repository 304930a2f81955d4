//! What the name servers of a world know, and how each of them answers.
//!
//! ```text
//! of a server    quick or slow; loses one query in so many; fails for every question, or for those with EDNS;
//!                denies without SOA; cuts off what is large by UDP, and answers by TCP or not
//! of a name      a code, a referral or silence, whichever server is asked
//! ```

use crate::io::dns::{Code, Denial, Kind, Record, Reply};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

/// Aliases that are followed before there seems to be no end.
const ALIASES_MAX: usize = 8;

/// What a server does instead of answering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Code(Code),
    Referral,
    Silent,
    /// It has lost its way: no name exists, without SOA.
    Lost,
}

/// How a server answers.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Time for a query and its reply.
    pub takes: Range<Duration>,
    /// One query in so many gets no reply; 0: each gets one.
    pub loses_one_in: usize,
    pub fault: Option<Fault>,
    pub fault_of_edns: Option<Fault>,
    pub denies_without_soa: bool,
    /// Takes connections, for answers too large for UDP.
    pub has_tcp: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Manner {
            takes: Duration::from_micros(200)..Duration::from_millis(30),
            loses_one_in: 0,
            fault: None,
            fault_of_edns: None,
            denies_without_soa: false,
            has_tcp: true,
        }
    }
}

/// What the name servers of a world know.
pub struct Names {
    records: BTreeMap<Box<str>, Vec<Held>>,
    faults: BTreeMap<(Box<str>, Kind), Fault>,
    servers: BTreeMap<SocketAddr, Manner>,
    asked: BTreeMap<(Box<str>, Kind), usize>,
    under_way: usize,
    queries_peak: usize,
    /// Of every record and denial.
    pub ttl: Duration,
}

#[derive(Clone)]
enum Held {
    Record(Record),
    Alias(Box<str>),
}

impl Default for Names {
    fn default() -> Self {
        Names {
            records: BTreeMap::new(),
            faults: BTreeMap::new(),
            servers: BTreeMap::new(),
            asked: BTreeMap::new(),
            under_way: 0,
            queries_peak: 0,
            ttl: Duration::from_secs(3600),
        }
    }
}

/// Lower case, without a final dot.
fn normal(name: &str) -> Box<str> {
    name.trim_end_matches('.').to_ascii_lowercase().into()
}

impl Names {
    /// From now on there is a server with that address, and it answers so.
    pub fn serve(&mut self, address: SocketAddr, manner: Manner) {
        self.servers.insert(address, manner);
    }

    pub(super) fn query_begins(&mut self) {
        self.under_way += 1;
        self.queries_peak = self.queries_peak.max(self.under_way);
    }

    pub(super) fn query_ends(&mut self) {
        self.under_way -= 1;
    }

    /// The most queries that were under way at a time, to all servers together.
    pub fn queries_peak(&self) -> usize {
        self.queries_peak
    }

    /// The server is gone: nothing listens there.
    pub fn stop(&mut self, address: SocketAddr) {
        self.servers.remove(&address);
    }

    /// `host` may be `.`: the null MX.
    pub fn mx(&mut self, domain: &str, preference: u16, host: &str) {
        let exchange = match host {
            "." => ".".into(),
            host => format!("{}.", normal(host)).into(),
        };
        let record = Record::Mx {
            preference,
            exchange,
        };
        self.add(domain, Held::Record(record));
    }

    /// An A or AAAA record.
    pub fn host(&mut self, name: &str, address: IpAddr) {
        self.add(name, Held::Record(Record::Address(address)));
    }

    pub fn alias(&mut self, name: &str, target: &str) {
        self.add(name, Held::Alias(normal(target)));
    }

    fn add(&mut self, name: &str, held: Held) {
        let records = self.records.entry(normal(name)).or_default();
        records.push(held);
    }

    /// Forgets all records and faults of a name.
    pub fn remove(&mut self, name: &str) {
        let name = normal(name);
        self.records.remove(&name);
        self.faults.retain(|(other, _), _| *other != name);
    }

    pub fn fail(&mut self, name: &str, kind: Kind, fault: Fault) {
        self.faults.insert((normal(name), kind), fault);
    }

    /// Where servers are.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.servers.keys().copied().collect()
    }

    /// How the server there will answer this. `None`: there is none.
    pub fn ask(&mut self, address: SocketAddr, name: &str, kind: Kind) -> Option<Manner> {
        let manner = self.servers.get(&address)?.clone();
        *self.asked.entry((normal(name), kind)).or_default() += 1;
        Some(manner)
    }

    /// How often servers were asked this, whatever they said.
    pub fn asked(&self, name: &str, kind: Kind) -> usize {
        let asked = self.asked.get(&(normal(name), kind));
        asked.copied().unwrap_or_default()
    }

    /// What a server of that manner says now.
    pub fn reply(&self, manner: &Manner, name: &str, kind: Kind, edns: bool) -> Reply {
        let name = &*normal(name);
        let of_edns = manner.fault_of_edns.filter(|_| edns);
        let of_name = self.faults.get(&(name.into(), kind)).copied();
        match manner.fault.or(of_edns).or(of_name) {
            None => self.answer(manner, name, kind),
            Some(Fault::Code(code)) => Reply::Code(code),
            Some(Fault::Referral) => Reply::Referral,
            Some(Fault::Silent) => Reply::Silence,
            Some(Fault::Lost) => Reply::Denied(Denial {
                name_exists: false,
                ttl: None,
                is_proven: false,
                is_of_alias: false,
            }),
        }
    }

    fn answer(&self, manner: &Manner, asked: &str, kind: Kind) -> Reply {
        let mut name = asked;
        for _ in 0..=ALIASES_MAX {
            let Some(held) = self.records.get(name) else {
                let below = format!(".{name}");
                let exists = self.records.keys().any(|other| other.ends_with(&below));
                return self.deny(manner, exists, name != asked);
            };
            let alias = held.iter().find_map(|it| match it {
                Held::Alias(target) => Some(target),
                Held::Record(_) => None,
            });
            if let Some(target) = alias {
                name = target;
                continue;
            }
            let records: Vec<Record> = held.iter().filter_map(|it| of_kind(it, kind)).collect();
            return match records.is_empty() {
                true => self.deny(manner, true, name != asked),
                false => Reply::Records {
                    records,
                    ttl: self.ttl,
                },
            };
        }
        Reply::Denied(Denial {
            name_exists: true,
            ttl: None,
            is_proven: false,
            is_of_alias: true,
        })
    }

    fn deny(&self, manner: &Manner, name_exists: bool, is_of_alias: bool) -> Reply {
        let is_proven = !manner.denies_without_soa;
        Reply::Denied(Denial {
            name_exists,
            ttl: is_proven.then_some(self.ttl),
            is_proven,
            is_of_alias,
        })
    }
}

fn of_kind(held: &Held, kind: Kind) -> Option<Record> {
    let Held::Record(record) = held else {
        return None;
    };
    let is_wanted = match record {
        Record::Mx { .. } => kind == Kind::Mx,
        Record::Address(IpAddr::V4(_)) => kind == Kind::A,
        Record::Address(IpAddr::V6(_)) => kind == Kind::Aaaa,
    };
    is_wanted.then(|| record.clone())
}
