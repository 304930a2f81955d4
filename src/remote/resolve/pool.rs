//! The configured name servers, asked one after another.
//!
//! Promise: a question is answered by whichever server can, in the order that `servers` decides, and its time
//! is bounded.
//! Not here: what an answer means for mail; how one server is asked (`io::dns`).

use super::Settings;
use super::first::{Asking, first_of};
use super::queries::{Query, Share};
use super::servers::{Ask, Course, GivenUp, Limits, Said, Servers};
use crate::io::clock;
use crate::io::dns::{self, Code, Denial, Question, Record, Reply, Server};
use crate::io::runtime::timeout;
use crate::io::{Bug, planted};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
        records: Vec<Record>,
        ttl: Duration,
    },
    Denied(Denial),
    /// `is_silence`: no server said anything at all.
    Failed {
        why: String,
        is_silence: bool,
    },
}

pub(super) struct Pool {
    addresses: Vec<SocketAddr>,
    /// In the same order.
    asked: Vec<Server>,
    servers: RefCell<Servers>,
    notices: RefCell<Vec<Notice>>,
    query_timeout: Duration,
    hedge_after: Duration,
}

/// What is kept of a question's failures.
#[derive(Default)]
struct Failures {
    /// Without SOA.
    denial: Option<Denial>,
    /// By server, the last word of each.
    words: Vec<(usize, String)>,
    anybody_spoke: bool,
}

impl Pool {
    /// Reads the system's configuration where the settings name no server. The error says what is wrong with it.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let addresses = name_servers(settings);
        let hedge_after = HEDGE_AFTER.min(settings.query_timeout / 4);
        let limits = Limits {
            query_timeout: settings.query_timeout,
            rounds_more: settings.query_retries,
            hedge_after,
        };
        Ok(Pool {
            asked: dns::servers(&addresses, &dns_settings(settings))?,
            servers: RefCell::new(Servers::new(addresses.len(), limits)),
            addresses,
            notices: RefCell::default(),
            query_timeout: settings.query_timeout,
            hedge_after,
        })
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Servers given up since this was last asked; one at most for each.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.notices.take()
    }

    /// Asks one server after another until one answers.
    pub async fn ask(&self, question: &Question, queries: &Share<'_>) -> Heard {
        // To the end, for one query after the other. No server is to blame for the wait.
        let _query = queries.take().await;
        let mut course = self.servers.borrow_mut().begin(clock::now());
        let mut asking: Vec<Asking<(Ask, Reply)>> = Vec::new();
        let mut failures = Failures::default();
        loop {
            let all_sent = self.send(&mut course, &mut asking, question, queries);
            if asking.is_empty() {
                let is_denied = self.servers.borrow().is_denied(&course, clock::now());
                let is_believed = is_denied || planted(Bug::DenialsBelieved);
                return failures.into_heard(&self.addresses, is_believed);
            }
            let mut deadline = self.servers.borrow().deadline(&course);
            if !all_sent {
                deadline = deadline.max(clock::now() + self.hedge_after);
            }
            let Some((ask, reply)) = first_of(&mut asking, deadline).await else {
                continue;
            };
            let said = said(&reply);
            failures.note(ask.server, &reply);
            if self.heard(&mut course, ask, said, &failures) {
                return answer_of(reply);
            }
        }
    }

    /// Sends what is to be sent now. False: no query was left for what may have to be sent beside the others.
    fn send<'a>(
        &'a self,
        course: &mut Course,
        asking: &mut Vec<Asking<'a, (Ask, Reply)>>,
        question: &'a Question,
        queries: &'a Share<'_>,
    ) -> bool {
        loop {
            let mut beside = None;
            if !asking.is_empty() {
                beside = queries.try_take();
                if beside.is_none() {
                    return false;
                }
            }
            let Some(ask) = self.servers.borrow_mut().next(course, clock::now()) else {
                return true;
            };
            asking.push(Box::pin(self.ask_one(ask, question, beside)));
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

    async fn ask_one(
        &self,
        ask: Ask,
        question: &Question,
        _beside: Option<Query<'_>>,
    ) -> (Ask, Reply) {
        // Aliases that a server has not followed, and answers too large for UDP, are further queries.
        let limit = 2 * self.query_timeout;
        let reply = timeout(limit, self.asked[ask.server].ask(question, ask.edns)).await;
        (ask, reply.unwrap_or(Reply::Silence))
    }
}

impl Failures {
    fn note(&mut self, server: usize, reply: &Reply) {
        let word = match reply {
            Reply::Records { .. } => return,
            Reply::Denied(denial) => {
                let known = self.denial.get_or_insert_with(|| denial.clone());
                // Who knows the name knows more.
                known.name_exists |= denial.name_exists;
                "denies it without an SOA".to_owned()
            }
            Reply::Referral => "refers to other name servers".to_owned(),
            Reply::Code(code) => code.to_string(),
            Reply::Failed(why) => why.to_string(),
            Reply::Silence => "no answer in time".to_owned(),
        };
        self.anybody_spoke |= matches!(reply, Reply::Denied(_) | Reply::Referral | Reply::Code(_));
        self.words.retain(|(other, _)| *other != server);
        self.words.push((server, word));
    }

    fn word_of(&self, server: usize) -> &str {
        let word = self.words.iter().find(|it| it.0 == server);
        word.map_or("", |it| &it.1)
    }

    /// Nobody gave a sure answer. `is_believed`: a denial without SOA is.
    fn into_heard(self, addresses: &[SocketAddr], is_believed: bool) -> Heard {
        if is_believed && let Some(denial) = self.denial {
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

fn said(reply: &Reply) -> Said {
    match reply {
        Reply::Records { .. } => Said::Answer,
        Reply::Denied(denial) if denial.is_proven => Said::Answer,
        Reply::Denied(_) => Said::UnprovenDenial,
        Reply::Code(Code::FORMERR | Code::NOTIMP | Code::BADVERS) => Said::NotUnderstood,
        Reply::Code(_) | Reply::Referral | Reply::Failed(_) => Said::Error,
        Reply::Silence => Said::Silence,
    }
}

fn answer_of(reply: Reply) -> Heard {
    match reply {
        Reply::Records { records, ttl } => Heard::Records { records, ttl },
        Reply::Denied(denial) => Heard::Denied(denial),
        Reply::Referral | Reply::Code(_) | Reply::Failed(_) | Reply::Silence => {
            unreachable!("no server's failure ends a question")
        }
    }
}

fn name_servers(settings: &Settings) -> Vec<SocketAddr> {
    if !settings.name_servers.is_empty() {
        return settings.name_servers.clone();
    }
    let mut addresses = dns::configured();
    if addresses.is_empty() {
        // As the C library does.
        addresses.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53));
    }
    addresses
}

fn dns_settings(settings: &Settings) -> dns::Settings {
    dns::Settings {
        query_timeout: settings.query_timeout,
        queries_max: settings.queries_max(),
    }
}
