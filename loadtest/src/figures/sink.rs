//! What the sink, its hosts and their name server saw.

use serde::{Deserialize, Serialize};

use crate::figures::histogram::Percentiles;

/// What the sink saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkFigures {
    pub threads: usize,
    pub connections: u64,
    pub connections_refused: u64,
    pub connections_open_max: u64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub handshakes_failed: u64,
    /// Transactions that ended with 250; a message to many recipients may come in several.
    pub messages: u64,
    pub messages_without_tls: u64,
    /// Content of those messages.
    pub bytes: u64,
    pub bounces: u64,
    pub faults_4xx: u64,
    pub faults_5xx: u64,
    pub faults_dropped: u64,
    pub faults_broken_off: u64,
    pub faults_421: u64,
    pub faults_connect: u64,
    pub protocol_errors: u64,
    pub end_to_end_us: Percentiles,
    /// Only domains without a faulty host, where others have some.
    pub end_to_end_good_us: Percentiles,
    pub hosts: HostFigures,
    /// The name server, if there is one.
    pub dns: Option<DnsFigures>,
    pub cpu_us: u64,
}

/// The next hops, as the sink saw them. The senders' hosts are counted for connections only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFigures {
    pub by_mx: bool,
    /// Sets of MX hosts: what a relay can tell apart as next hops.
    pub sites: u64,
    pub sites_reached: u64,
    /// Those with faults, if others have none.
    pub sites_faulty: u64,
    pub hosts: u64,
    pub hosts_reached: u64,
    /// Most connections open to one host at a time.
    pub connections_per_host_max: u32,
    /// Recipients whose message came to a host that is none of their domain's.
    pub misrouted: u64,
}

/// What the name server did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsFigures {
    pub questions_udp: u64,
    pub questions_tcp: u64,
    /// Answers that say "no such name" or "no such record".
    pub negative: u64,
    /// Answers over UDP that were too long.
    pub truncated: u64,
    /// Questions that got no answer: not DNS, or too many at a time.
    pub dropped: u64,
    pub cpu_us: u64,
}
