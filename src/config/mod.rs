//! Every setting of the relay, read once at start and from then on plain values.
//!
//! `flags` defines what can be set, `build` turns flags into a [`Config`] or says what is wrong,
//! `report` prints what they come to. A room gets its own part, never the whole.
//!
//! Not here: what routes mean (`remote` judges them, through [`Validators`]), and which thread
//! runs on which CPU (`engine::placement`).

mod argument_file;
mod build;
pub mod defaults;
mod flags;
pub mod relay;
mod report;
mod source;
mod surroundings;
mod units;
mod values;

pub use argument_file::Places;
pub use surroundings::Surroundings;
pub use units::{Bytes, Span};
pub use values::{
    BareLineEnds, ClientNet, CpuList, DomainPattern, IpVersion, KnownRecipient, LINK_LOCAL,
    LogFormat, LogLevel, SpoolDurability, TlsFor, TlsLevel, UserName, is_link_local,
};

use crate::domain::Domain;
use crate::message::Mailbox;
use clap::FromArgMatches;
use flags::{Action, Flags, SpoolAction};
use ipnet::IpNet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// All settings. Every value is inside the bounds of its flag and no two contradict each other.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: ListenConfig,
    pub session: SessionConfig,
    pub tls: TlsConfig,
    pub relay: RelayConfig,
    pub spool: SpoolConfig,
    pub delivery: DeliveryConfig,
    pub dns: DnsConfig,
    pub cores: CoreConfig,
    pub log: LogConfig,
    pub privileges: PrivilegeConfig,
    /// What works but is probably not meant, for the log at start.
    pub hints: Vec<String>,
    /// Which lines of files gave flags, for complaints of the start.
    pub places: Places,
    /// What is read at the start and never again, for people.
    pub read_once: Vec<String>,
}

/// For `listener`.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    pub plain: Vec<SocketAddr>,
    /// TLS from the first byte (RFC 8314 section 3.3).
    pub implicit_tls: Vec<SocketAddr>,
    pub backlog: u32,
    /// Open sessions of all listeners and cores.
    pub connections_max: u32,
    /// Of those, only for trusted clients.
    pub connections_reserved: u32,
    /// Per IPv4 address or IPv6 /64; trusted clients are exempt. `None`: no limit.
    pub connections_per_address_max: Option<u32>,
    pub rates: RateConfig,
    pub drain_timeout: Duration,
}

/// How often, for clients that are not trusted. `None`: no limit.
#[derive(Clone, Default, Debug)]
pub struct RateConfig {
    /// Per IPv4 address or IPv6 /64, and minute.
    pub connections: Option<u32>,
    pub handshakes: Option<u32>,
    pub messages: Option<u32>,
    pub recipients: Option<u32>,
    pub errors: Option<u32>,
    /// Of all together, per second.
    pub connections_total: Option<u32>,
    pub handshakes_total: Option<u32>,
}

/// For `session` and `smtp::server`.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub hostname: String,
    pub banner: String,
    pub offer_starttls: bool,
    /// Mail is taken only over TLS (530 5.7.0 otherwise).
    pub require_tls: bool,
    pub message_bytes_max: u64,
    pub recipients_max: u32,
    /// `None`: no limit.
    pub messages_max: Option<u32>,
    pub errors_max: u32,
    pub hops_max: u32,
    /// Octets of a body line with its CRLF. `None`: no limit.
    pub line_bytes_max: Option<u64>,
    pub bare_line_ends: BareLineEnds,
    pub offer_chunking: bool,
    /// What paths without a domain get, from clients that may relay. `None`: they are refused.
    pub qualify_domain: Option<Domain<'static>>,
    pub command_timeout: Duration,
    pub data_timeout: Duration,
    /// Bytes per second of a body, on average beyond `data_timeout`. `None`: no limit.
    pub min_data_rate: Option<u64>,
    pub handshake_timeout: Duration,
    /// `None`: no limit.
    pub session_timeout: Option<Duration>,
}

/// For `tls`, both sides.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub hostname: String,
    pub certificates: Certificates,
    pub out_level: TlsLevel,
    /// The first that matches counts; exact names stand before patterns.
    pub out_levels: Vec<(DomainPattern, TlsLevel)>,
    /// PEM. `None`: the roots of the system.
    pub roots: Option<PathBuf>,
    /// The roots of the system are not trusted.
    pub only_roots: bool,
    pub send_sni: bool,
    /// How long a host whose TLS failed at level `may` gets plaintext at once.
    pub broken_for: Duration,
}

/// Where the certificates for clients come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificates {
    /// In the order of preference; none: the generated one is for all clients.
    pub given: Vec<CertificateFiles>,
    /// Where one is kept that is generated once, for clients that can use none of those given. `None`, beside
    /// given ones only: no state directory is known.
    pub kept_in: Option<PathBuf>,
}

/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// Who may relay what where; [`relay::RelayPolicy`] answers from it.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    pub trusted_nets: Vec<IpNet>,
    pub domains: Vec<DomainPattern>,
    /// `None`: every recipient of a relay domain is taken.
    pub recipients: Option<Vec<KnownRecipient>>,
    /// Who gets mail to the bare `Postmaster` (RFC 5321 section 4.5.1).
    pub postmaster: Option<Mailbox>,
    pub routes: Vec<RouteText>,
}

/// A route as it was written; `remote::route` knows what it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteText {
    pub text: String,
    /// `--route`, or the file and line: for messages about it.
    pub source: String,
}

/// For `spool`.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    pub dir: PathBuf,
    /// `None`: as much as the file system has.
    pub bytes_max: Option<u64>,
    /// Left free on the file system. `None`: what suits its size.
    pub keep_free_bytes: Option<u64>,
    pub segment_bytes: u64,
    pub durability: SpoolDurability,
    pub chunk_bytes: u64,
    /// Messages up to this are delivered from memory.
    pub in_memory_bytes: u64,
    /// What sessions, bodies and the queue may hold, all cores together.
    pub memory_bytes_max: u64,
    /// The largest message that has to fit.
    pub message_bytes_max: u64,
}

/// For `delivery` and `remote`.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    pub hostname: String,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub queue_lifetime: Duration,
    pub bounce_lifetime: Duration,
    /// To one next hop, all cores together.
    pub connections_per_hop_max: u32,
    pub connections_max: u32,
    pub idle_timeout: Duration,
    pub messages_per_connection_max: u32,
    pub recipients_per_transaction_max: u32,
    pub mx_port: u16,
    pub ip_version: IpVersion,
    /// At most one per IP version.
    pub source_addresses: Vec<IpAddr>,
    pub connect_timeout: Duration,
    pub greeting_timeout: Duration,
    pub crowded_timeout: Duration,
    pub handshake_timeout: Duration,
    pub reply_timeout: Duration,
    pub send_timeout: Duration,
    /// Bytes per second of a body, on average beyond `send_timeout`. `None`: no limit.
    pub min_send_rate: Option<u64>,
    pub final_reply_timeout: Duration,
}

/// For the resolver in `remote`.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    pub timeout: Duration,
    pub ip_version: IpVersion,
}

/// For `engine::placement`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CoreConfig {
    /// CPU numbers with repeats. `None`: to be chosen.
    pub ingress: Option<Vec<usize>>,
    pub delivery: Option<Vec<usize>>,
    pub pin: bool,
}

/// For `engine::log`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
    /// `None`: standard error.
    pub file: Option<PathBuf>,
}

/// What the process gives up, for `engine::confinement`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrivilegeConfig {
    /// `None`: whoever started us.
    pub user: Option<UserName>,
    pub landlock: bool,
    /// A kernel without it is an error.
    pub require_landlock: bool,
    pub seccomp: bool,
    /// Any call that is not on the list is the end.
    pub strict_seccomp: bool,
    pub core_dumps: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// Judged and good: print this text, say where threads would run, and end.
    Check(Box<Config>, String),
    SpoolList(PathBuf),
    SpoolVerify(PathBuf),
}

/// Judges of values that other rooms understand.
#[derive(Clone, Copy)]
pub struct Validators {
    /// Everything that is wrong with the routes, each complaint with its place.
    pub routes: fn(&[RouteText]) -> Vec<String>,
    /// Whether a spool of limited size serves as many threads as there will be.
    pub spool: fn(&SpoolConfig, &CoreConfig) -> Result<(), String>,
}

/// Why the program ends before it began: help, version, or a bad flag.
#[derive(Debug)]
pub enum Exit {
    Clap(clap::Error),
    /// The same, with the line of a file or the variable that is at fault.
    Placed(String, clap::Error),
    /// One or more complaints, each naming its flag.
    Refused(Vec<String>),
}

impl Exit {
    /// Prints to where it belongs; returns the exit code, 0 for help and version, 2 for errors.
    pub fn print(&self) -> u8 {
        match self {
            Exit::Placed(place, error) => {
                eprint!("{place}: ");
                let _ = error.print();
                u8::try_from(error.exit_code()).unwrap_or(2)
            }
            Exit::Clap(error) => {
                // Nothing can be done about a closed terminal.
                let _ = error.print();
                u8::try_from(error.exit_code()).unwrap_or(2)
            }
            Exit::Refused(complaints) => {
                for complaint in complaints {
                    eprintln!("error: {complaint}");
                }
                eprintln!("\nFor more information, try '--help'.");
                2
            }
        }
    }
}

impl Config {
    /// Reads the command line (the first argument is the program's name), files of flags, and the
    /// environment.
    ///
    /// # Errors
    /// [`Exit`] if help was asked for or a value is refused.
    pub fn from_args(
        arguments: impl IntoIterator<Item = OsString>,
        validators: &Validators,
    ) -> Result<Command, Exit> {
        Self::from_args_on(arguments, validators, &Surroundings::of_this_host())
    }

    /// As [`Config::from_args`], on a host that is described by `surroundings`.
    pub fn from_args_on(
        arguments: impl IntoIterator<Item = OsString>,
        validators: &Validators,
        surroundings: &Surroundings,
    ) -> Result<Command, Exit> {
        let refused = |complaint| Exit::Refused(vec![complaint]);
        let mut expanded = argument_file::expand(arguments).map_err(refused)?;
        let matches = flags::command()
            .try_get_matches_from(&expanded.arguments)
            .map_err(|error| match source::of(&error, &expanded) {
                Some(place) => Exit::Placed(place, error),
                None => Exit::Clap(error),
            })?;
        let mut flags = Flags::from_arg_matches(&matches).map_err(Exit::Clap)?;

        if let Some(Action::Spool(action)) = flags.action.take() {
            let (SpoolAction::List { dir } | SpoolAction::Verify { dir }) = &action;
            let dir = match dir {
                Some(named) => named.clone(),
                None => build::spool_to_look_into(&flags, surroundings).map_err(refused)?,
            };
            return Ok(match action {
                SpoolAction::List { .. } => Command::SpoolList(dir),
                SpoolAction::Verify { .. } => Command::SpoolVerify(dir),
            });
        }
        let check = flags.general.check;
        let given_in = std::mem::take(&mut expanded.given_in);
        let places = expanded.into_places();
        let mut config = build::config(flags, validators, surroundings).map_err(|complaints| {
            let placed = complaints.into_iter();
            Exit::Refused(placed.map(|text| places.with_places(text)).collect())
        })?;
        config.places = places;
        let config = Box::new(config);
        if !check {
            return Ok(Command::Run(config));
        }
        let report = report::effective(&config, &matches, &given_in);
        Ok(Command::Check(config, report))
    }
}
