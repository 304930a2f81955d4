//! The configured name servers, each with a resolver of the library for itself, and one without EDNS.
//!
//! Promise: a question is answered by whichever server can, in the order that `servers` decides, and its time
//! is bounded.
//! Not here: what an answer means for mail. The library's own pool is not used: its first error, of whichever
//! server, would be the answer.

use super::servers::{Ask, Course, GivenUp, Limits, Said, Servers};
use super::{Settings, TTL_MAX};
use crate::io::clock;
use crate::io::runtime::timeout;
use crate::time::Now;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The next server is asked as well when one has said nothing for so long, or a quarter of its time.
const HEDGE_AFTER: Duration = Duration::from_millis(300);

/// Servers that a failure names, so that a log line stays one.
const SERVERS_NAMED_MAX: usize = 3;

/// A server given up for another, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    pub server: SocketAddr,
    pub why: Box<str>,
    /// Who answered instead.
    pub other: SocketAddr,
    /// Others are asked first for so long.
    pub span: Duration,
}

/// What the servers said together.
pub(super) enum Heard {
    /// May be empty, as after an alias.
    Records {
        records: Vec<RData>,
        ttl: Duration,
    },
    Denied(NoRecords),
    /// `is_silence`: no server said anything at all.
    Failed {
        why: String,
        is_silence: bool,
    },
}

pub(super) struct Pool {
    addresses: Vec<SocketAddr>,
    with_edns: Vec<TokioResolver>,
    without: Vec<TokioResolver>,
    servers: RefCell<Servers>,
    notices: RefCell<Vec<Notice>>,
    query_timeout: Duration,
}

type Outcome = Result<(Vec<RData>, Duration), NetError>;
type Asking<'a> = Pin<Box<dyn Future<Output = (Ask, Outcome)> + 'a>>;

/// What is kept of a question's failures.
#[derive(Default)]
struct Failures {
    denial: Option<NoRecords>,
    /// By server, the last word of each.
    words: Vec<(usize, String)>,
    anybody_spoke: bool,
}

impl Pool {
    /// Reads the system's configuration where the settings name no server. The error says what is wrong with it.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let addresses = name_servers(settings);
        let hosts = Arc::new(Hosts::from_system().unwrap_or_default());
        let each = |edns| {
            let build = |address: &SocketAddr| resolver(*address, settings, edns, &hosts);
            addresses.iter().map(build).collect::<Result<Vec<_>, _>>()
        };
        let limits = Limits {
            query_timeout: settings.query_timeout,
            rounds_more: settings.query_retries,
            hedge_after: HEDGE_AFTER.min(settings.query_timeout / 4),
        };
        Ok(Pool {
            with_edns: each(true)?,
            without: each(false)?,
            servers: RefCell::new(Servers::new(addresses.len(), limits)),
            addresses,
            notices: RefCell::default(),
            query_timeout: settings.query_timeout,
        })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Servers given up since this was last asked; one at most for each.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.notices.take()
    }

    /// Asks one server after another until one answers. The name must be fully qualified.
    pub async fn ask(&self, name: &Name, record_type: RecordType) -> Heard {
        let mut course = self.servers.borrow_mut().begin(clock::now());
        let mut asking: Vec<Asking> = Vec::new();
        let mut failures = Failures::default();
        loop {
            let now = clock::now();
            while let Some(ask) = self.servers.borrow_mut().next(&mut course, now) {
                asking.push(Box::pin(self.ask_one(ask, name, record_type)));
            }
            if asking.is_empty() {
                return failures.into_heard(&self.addresses);
            }
            let deadline = self.servers.borrow().deadline(&course);
            let Some((ask, outcome)) = first_of(&mut asking, deadline).await else {
                continue;
            };
            let said = said(&outcome);
            failures.note(ask.server, &outcome);
            if self.heard(&mut course, ask, said, &failures) {
                return answer_of(outcome);
            }
        }
    }

    fn heard(&self, course: &mut Course, ask: Ask, said: Said, failures: &Failures) -> bool {
        let mut given_up = Vec::new();
        let mut servers = self.servers.borrow_mut();
        let is_over = servers.heard(course, ask, said, clock::now(), &mut given_up);
        for given_up in &given_up {
            self.note(given_up, failures);
        }
        is_over
    }

    fn note(&self, given_up: &GivenUp, failures: &Failures) {
        let notice = Notice {
            server: self.addresses[given_up.server],
            why: match given_up.said {
                Some(_) => failures.word_of(given_up.server).into(),
                None => "others answer long before it".into(),
            },
            other: self.addresses[given_up.other],
            span: given_up.span,
        };
        let mut notices = self.notices.borrow_mut();
        notices.retain(|other| other.server != notice.server);
        notices.push(notice);
    }

    async fn ask_one(&self, ask: Ask, name: &Name, record_type: RecordType) -> (Ask, Outcome) {
        let resolvers = match ask.edns {
            true => &self.with_edns,
            false => &self.without,
        };
        // The library bounds each query. Aliases that a server has not followed, and answers too large for
        // UDP, are further ones.
        let limit = 2 * self.query_timeout;
        let lookup = resolvers[ask.server].lookup(name.clone(), record_type);
        let outcome = match timeout(limit, lookup).await {
            Ok(Ok(lookup)) => {
                let answers = lookup.answers().iter();
                let wanted = answers.filter(|record| record.record_type() == record_type);
                let ttl = clock::until(lookup.valid_until());
                Ok((wanted.map(|record| record.data.clone()).collect(), ttl))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetError::Timeout),
        };
        (ask, outcome)
    }
}

impl Failures {
    fn note(&mut self, server: usize, outcome: &Outcome) {
        let Err(error) = outcome else { return };
        self.anybody_spoke |= matches!(error, NetError::Dns(_));
        match error {
            NetError::Dns(DnsError::NoRecordsFound(denial)) if !is_referral(denial) => {
                self.denial.get_or_insert_with(|| denial.clone());
            }
            _ => {
                self.words.retain(|(other, _)| *other != server);
                self.words.push((server, in_words(error)));
            }
        }
    }

    fn word_of(&self, server: usize) -> &str {
        let word = self.words.iter().find(|it| it.0 == server);
        word.map_or("", |it| &it.1)
    }

    /// Nobody gave a sure answer.
    fn into_heard(self, addresses: &[SocketAddr]) -> Heard {
        if let Some(denial) = self.denial {
            return Heard::Denied(denial);
        }
        let named = self.words.iter().take(SERVERS_NAMED_MAX);
        let named: Vec<_> = named
            .map(|(server, word)| format!("{}: {word}", addresses[*server]))
            .collect();
        let others = self.words.len().saturating_sub(SERVERS_NAMED_MAX);
        let others = match others {
            0 => String::new(),
            others => format!("; and {others} more"),
        };
        Heard::Failed {
            why: named.join("; ") + &others,
            is_silence: !self.anybody_spoke,
        }
    }
}

fn said(outcome: &Outcome) -> Said {
    match outcome {
        Ok(_) => Said::Answer,
        Err(NetError::Timeout) => Said::Silence,
        Err(NetError::Dns(DnsError::NoRecordsFound(denial))) => match denial {
            _ if is_referral(denial) => Said::Error,
            denial if denial.soa.is_some() => Said::Answer,
            _ => Said::UnprovenDenial,
        },
        Err(NetError::Dns(DnsError::ResponseCode(
            ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS,
        ))) => Said::NotUnderstood,
        Err(_) => Said::Error,
    }
}

/// Who is no resolver, or not for this name, points elsewhere.
fn is_referral(denial: &NoRecords) -> bool {
    denial.soa.is_none() && denial.ns.is_some()
}

fn answer_of(outcome: Outcome) -> Heard {
    match outcome {
        Ok((records, ttl)) => Heard::Records { records, ttl },
        Err(NetError::Dns(DnsError::NoRecordsFound(denial))) => Heard::Denied(denial),
        // Not reached: nothing else is an answer.
        Err(error) => Heard::Failed {
            why: in_words(&error),
            is_silence: false,
        },
    }
}

fn in_words(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no answer in time".to_owned(),
        NetError::Dns(DnsError::NoRecordsFound(_)) => "refers to other name servers".to_owned(),
        NetError::Dns(DnsError::ResponseCode(code)) => code.to_string(),
        error => error.to_string(),
    }
}

/// The first that is done; `None` once it is `deadline`.
async fn first_of<'a>(asking: &mut Vec<Asking<'a>>, deadline: Now) -> Option<(Ask, Outcome)> {
    let first = poll_fn(|context| {
        for index in 0..asking.len() {
            if let Poll::Ready(outcome) = asking[index].as_mut().poll(context) {
                drop(asking.swap_remove(index));
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    });
    if deadline == Now::NEVER {
        return Some(first.await);
    }
    let wait = deadline.since(clock::now());
    timeout(wait, first).await.ok()
}

fn name_servers(settings: &Settings) -> Vec<SocketAddr> {
    if !settings.name_servers.is_empty() {
        return settings.name_servers.clone();
    }
    let address_of = |server: &NameServerConfig| {
        let connection = server.connections.first()?;
        Some(SocketAddr::new(server.ip, connection.port))
    };
    let configured = read_system_conf().map(|(config, _)| config.name_servers);
    let mut addresses = Vec::new();
    for address in configured.iter().flatten().filter_map(address_of) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        // As the C library does.
        addresses.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53));
    }
    addresses
}

fn resolver(
    address: SocketAddr,
    settings: &Settings,
    edns: bool,
    hosts: &Arc<Hosts>,
) -> Result<TokioResolver, String> {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![
        at_port(ConnectionConfig::udp()),
        at_port(ConnectionConfig::tcp()),
    ];
    let server = NameServerConfig::new(address.ip(), true, connections);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options(settings, edns);
    let mut resolver = builder.build().map_err(|error| error.to_string())?;
    resolver.set_hosts(hosts.clone());
    Ok(resolver)
}

fn options(settings: &Settings, edns: bool) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = settings.query_timeout;
    // Who is asked again, and when, is decided in `servers`.
    options.attempts = 0;
    options.num_concurrent_reqs = 1;
    options.edns0 = edns;
    // All share one copy.
    options.use_hosts_file = ResolveHosts::Never;
    // Our own tables remember next hops and hosts, in a tenth of the memory.
    options.cache_size = 0;
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(settings.negative_ttl_max);
    // Each of our look-ups asks a few questions at once; the line is the limit.
    options.max_active_requests = settings.lookups_max.saturating_mul(2 * settings.hosts_max);
    options
}
