//! Flags of the sink, and of the small Internet that it plays.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use crate::options::values::{name_of, parse_bytes, parse_share};

/// Most MX hosts of one domain.
pub const MX_HOSTS_MAX: u32 = 50;

pub fn sink_settings(sink: &SinkOptions) -> Vec<(&'static str, String)> {
    let mut settings = vec![("TLS of the sink", name_of(sink.sink_tls))];
    let shares = [
        ("sink refuses for now", sink.fault_4xx),
        ("sink refuses for good", sink.fault_5xx),
        (
            "sink hangs up before its reply",
            sink.fault_drop_before_reply,
        ),
    ];
    for (name, share) in shares.into_iter().filter(|(_, share)| *share > 0.0) {
        settings.push((name, format!("{} % of transactions", share * 100.0)));
    }
    if sink.unknown_recipients > 0.0 {
        let share = format!("{} % of recipients", sink.unknown_recipients * 100.0);
        settings.push(("sink does not know", share));
    }
    if sink.latency > 0 {
        settings.push((
            "sink waits",
            format!("{} ms before its replies", sink.latency),
        ));
    }
    if sink.sink_no_tickets {
        settings.push(("session tickets of the sink", "none".to_string()));
    }
    settings
}

#[derive(Args, Clone, Debug)]
pub struct SinkOptions {
    /// TLS of the sink: absent, good, or broken in a chosen way
    #[arg(long, visible_alias = "tls", value_enum, default_value_t = SinkTls::Good)]
    pub sink_tls: SinkTls,
    /// The sink expects TLS from the first byte
    #[arg(long)]
    pub sink_implicit_tls: bool,
    /// The sink gives no session tickets, so every handshake is full
    #[arg(long)]
    pub sink_no_tickets: bool,
    /// The sink offers CHUNKING, so that it can be sent BDAT
    #[arg(long)]
    pub sink_chunking: bool,
    /// Share of transactions that the sink refuses for now (0 to 1), at MAIL, RCPT or end of data
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_4xx: f64,
    /// Share of transactions that the sink refuses for good (0 to 1); never that of a report, or
    /// nobody would hear of it. If the relay gathers reports, have it do so for a short time
    /// (--report-window 100ms)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_5xx: f64,
    /// Share of recipients that the sink does not know: 550 to RCPT, and at every attempt the same
    /// ones of a message. A report that names each must come back; see --fault-5xx
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub unknown_recipients: f64,
    /// Share of transactions in which the sink hangs up instead of answering the end of data;
    /// such a message does not count as delivered
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_drop_before_reply: f64,
    /// Share of transactions in which the sink hangs up at MAIL, at RCPT or within the content
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_drop: f64,
    /// Share of connections that the sink greets with 421
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_421: f64,
    /// Share of connections that the sink closes without a greeting
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_connect: f64,
    /// Milliseconds before each batch of replies of the sink
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub latency: u64,
    /// Milliseconds before the sink's part of a TLS handshake
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub tls_latency: u64,
    /// Bytes per second that the sink reads from a connection (0: as fast as it can)
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = parse_bytes)]
    pub read_rate: u64,
    /// Connections that the sink serves; others get 421
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub max_connections: usize,
    /// Connections that each host of the sink serves; others get 421
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    pub max_connections_per_host: u32,
    #[command(flatten)]
    pub mx: MxOptions,
    /// Threads of the sink (default: a quarter of the CPUs)
    #[arg(long, value_name = "N")]
    pub sink_threads: Option<usize>,
}

impl SinkOptions {
    pub fn check(&self) -> Result<(), String> {
        let transactions =
            self.fault_4xx + self.fault_5xx + self.fault_drop_before_reply + self.fault_drop;
        if transactions > 1.0 || self.fault_421 + self.fault_connect > 1.0 {
            return Err("the sink's fault shares add up to more than 1".into());
        }
        if self.mx.faulty_domains.is_some() && self.mx.mx_hosts.is_none() {
            return Err("--faulty-domains needs --mx-hosts".into());
        }
        Ok(())
    }
}

/// The small Internet behind the relay: name server, and hosts with addresses of their own.
#[derive(Args, Clone, Debug)]
pub struct MxOptions {
    /// MX hosts of each recipient domain (run and kill-test): the sink plays them all, each at an
    /// address of its own in 127.0.0.0/8 and all on one port, and answers DNS for them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MX_HOSTS_MAX)))]
    pub mx_hosts: Option<u32>,
    /// Domains that have the same MX hosts, as those of one provider do
    #[arg(long, default_value_t = 1, value_name = "N", requires = "mx_hosts", value_parser = clap::value_parser!(u64).range(1..))]
    pub mx_shared: u64,
    /// Share of those sets of hosts that have the sink's faults (broken TLS, refusals, latency, ...);
    /// all others are good, and their end-to-end times are reported apart. Without it all have them
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub faulty_domains: Option<f64>,
    /// How many hosts of a faulty domain have the faults, best first (otherwise all)
    #[arg(long, value_name = "N", requires = "faulty_domains")]
    pub faulty_hosts: Option<u32>,
    /// Where the name server listens, UDP and TCP (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub dns_listen: SocketAddr,
    /// Seconds for which its answers, also the negative ones, may be kept
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub dns_ttl: u32,
    /// Milliseconds before each of its answers
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub dns_latency: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkTls {
    /// STARTTLS is not offered
    None,
    /// STARTTLS works
    Good,
    /// STARTTLS is offered and answered 454
    Refuse,
    /// STARTTLS is answered 220, and the ClientHello with something that is not TLS
    Garbage,
    /// STARTTLS is answered 220, and the ClientHello with the alert handshake_failure
    Alert,
    /// STARTTLS is answered 220, then nothing comes
    Stall,
    /// STARTTLS is answered 220, then the connection is closed
    Close,
}
