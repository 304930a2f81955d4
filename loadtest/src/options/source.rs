//! Flags of the source.

use clap::{Args, ValueEnum};

use crate::options::values::{Range, name_of, parse_bytes, positive};

/// Most recipients in one message.
pub const RECIPIENTS_MAX: u32 = 1_000;

/// Smallest message: the header lines must fit.
pub const SIZE_BYTES_MIN: u64 = 512;

/// Largest message.
pub const SIZE_BYTES_MAX: u64 = 1 << 30;

/// Messages in a run that names neither a number nor a duration.
const MESSAGES_DEFAULT: u64 = 10_000;

#[derive(Args, Clone, Debug)]
pub struct SourceOptions {
    /// Connections open at the same time
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Messages in all (default 10000, or no limit with --duration and in a kill-test)
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Stop sending after this many seconds
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Messages sent over one connection before QUIT
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub messages_per_connection: u32,
    /// Size of a message in bytes, header included: fixed (10k) or uniform (1k-100k)
    #[arg(long, default_value = "10k", value_name = "SIZE[-SIZE]")]
    pub size: Range,
    /// TLS towards the relay
    #[arg(long, value_enum, default_value_t = SourceTls::Starttls)]
    pub source_tls: SourceTls,
    /// Newest TLS version that the source offers
    #[arg(long, value_enum, default_value_t = TlsVersion::V13)]
    pub source_tls_version: TlsVersion,
    /// Cipher that the source prefers. OpenSSL's clients prefer aes256 (with SHA-384), BoringSSL's
    /// and Go's aes128 (with SHA-256), whose handshakes cost less where only SHA-256 has hardware
    #[arg(long, value_enum, default_value_t = Cipher::Aes128)]
    pub source_cipher: Cipher,
    /// Handshakes of the source: always full, or resumed wherever the relay gives tickets
    #[arg(long, value_enum, default_value_t = Handshakes::Full)]
    pub handshakes: Handshakes,
    /// Send every command alone and await its reply
    #[arg(long)]
    pub lock_step: bool,
    /// Send bodies with BDAT (RFC 3030) instead of DATA
    #[arg(long)]
    pub bdat: bool,
    /// Bytes per BDAT chunk (0: the whole message in one)
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = parse_bytes, requires = "bdat")]
    pub bdat_chunk: u64,
    /// Recipients of each message
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RECIPIENTS_MAX)))]
    pub recipients: u32,
    /// Recipient domains; recipients go to them in turn
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub domains: u64,
    /// Recipient address: {m} message, {i} recipient in the message, {d} domain, {run} run
    #[arg(long, default_value = "user{i}@d{d}.test", value_name = "TEMPLATE")]
    pub rcpt: String,
    /// Domain of the reverse-path, to which bounces go
    #[arg(long, default_value = "source.test", value_name = "DOMAIN")]
    pub from_domain: String,
    /// Open loop: messages per second, each timed from when it should have been sent.
    /// Without it every connection sends as fast as it is answered
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Seconds until an unanswered connection attempt, handshake or message is given up
    #[arg(long, default_value_t = 120.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// Seconds without one successful connection after which the source gives up
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub give_up: f64,
    /// Threads of the source (default: a quarter of the CPUs)
    #[arg(long, value_name = "N")]
    pub source_threads: Option<usize>,
    /// Seed of everything that is drawn at random (default: a new one, printed)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SourceOptions {
    /// The number of messages after which the source stops by itself.
    pub fn message_limit(&self) -> u64 {
        match (self.messages, self.duration) {
            (Some(messages), _) => messages,
            (None, Some(_)) => u64::MAX,
            (None, None) => MESSAGES_DEFAULT,
        }
    }

    /// What clap cannot see: bounds that depend on a suffix or on each other.
    pub fn check(&self) -> Result<(), String> {
        if self.size.low < SIZE_BYTES_MIN || self.size.high > SIZE_BYTES_MAX {
            return Err(format!(
                "--size must lie between {SIZE_BYTES_MIN} and {SIZE_BYTES_MAX} bytes"
            ));
        }
        positive("--rate", self.rate)?;
        positive("--duration", self.duration)?;
        positive("--timeout", Some(self.timeout))?;
        positive("--give-up", Some(self.give_up))
    }
}

pub fn source_settings(source: &SourceOptions) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("connections", source.connections.to_string()),
        (
            "messages per connection",
            source.messages_per_connection.to_string(),
        ),
        ("message size", source.size.to_string()),
        ("recipients per message", source.recipients.to_string()),
        ("recipient domains", source.domains.to_string()),
        ("TLS towards the relay", name_of(source.source_tls)),
        ("newest TLS version", name_of(source.source_tls_version)),
        ("preferred cipher", name_of(source.source_cipher)),
        ("handshakes of the source", name_of(source.handshakes)),
        (
            "load",
            source.rate.map_or(
                "closed loop: each connection as fast as it is answered".to_string(),
                |rate| format!("open loop, {rate} messages/s"),
            ),
        ),
    ];
    if source.lock_step {
        settings.push(("commands", "one at a time, without pipelining".to_string()));
    }
    if source.bdat {
        settings.push(("bodies", "BDAT".to_string()));
    }
    settings
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceTls {
    None,
    Starttls,
    Implicit,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    #[value(name = "1.2")]
    V12,
    #[value(name = "1.3")]
    V13,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128,
    Aes256,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshakes {
    Full,
    Resumed,
}
