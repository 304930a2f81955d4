//! Every flag: name, unit, default, bounds, and what it costs. The only place that knows them:
//! the help, the environment variables and `--check` are derived from it.

// The help is plain text: `<Postmaster>` is an address there.
#![allow(rustdoc::invalid_html_tags)]

use super::bounds::Bounded;
use super::values::{self, AddressOrNone, ClientNet, CpuList, SpoolDurability, TlsFor};
use crate::domain::Domain;
use crate::domain::pattern::DomainPattern;
use crate::handoff::memory;
use crate::log::{LogFormat, LogLevel};
use crate::policy::rates;
use crate::privilege::UserName;
use crate::remote::resolve::{self, Families};
use crate::remote::{connection, route};
use crate::schedule::{next_hop, reports, retry};
use crate::smtp::data::BareLineEnds;
use crate::smtp::server;
use crate::text::units::{Bytes, Span};
use crate::tls::TlsLevel;
use crate::{delivery, listener, session, spool};
use clap::{ArgAction, Args, Command, CommandFactory, Parser, Subcommand};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The prefix of the environment variables: `--max-hops` is `RINGPOST_MAX_HOPS`.
pub const ENVIRONMENT_PREFIX: &str = "RINGPOST_";

/// Flags that mean something only on the command line.
const NOT_FROM_ENVIRONMENT: [&str; 3] = ["help", "version", "check"];

const ABOUT: &str = "\
A durable SMTP relay with automatic TLS.

Without any flag it listens on 127.0.0.1:2525, offers STARTTLS, relays for
this host, and finds the next hop by MX.";

const USAGE: &str = "\
ringpost [FLAGS] [@FILE]     run the relay until Ctrl-C or SIGTERM
       ringpost --check [FLAGS]     check flags and host, show the settings
       ringpost spool list [DIR|@FILE]
                                    show what waits in a stopped relay's spool
       ringpost spool verify [DIR|@FILE]
                                    check every record of that spool
       ringpost spool export TO [DIR|@FILE] [--take]
                                    write its mail to files in a new directory
       ringpost spool import FROM [DIR|@FILE]
                                    take such files into that spool";

const EPILOGUE: &str = "\
Values:
  <1s..7d>    a value in this range, bounds included
  durations   500ms, 90s, 5m, 4h, 5d, 1h30m
  sizes       bytes, or by 1,024: 64k, 50MiB, 2G
  lists       <A,...> takes several values with commas between them, or the
              flag several times

Where flags come from:
  command     ringpost --max-hops 50
  file        ringpost @/etc/ringpost.flags    one flag per line, # comments,
              and @OTHER to include another file
  variable    RINGPOST_MAX_HOPS=50             any flag: upper case, _ for -
  On the command line, files included, a later value replaces an earlier one,
  and lists grow. A variable counts if the command line does not set the flag,
  the default if neither does.

Examples:
  A smarthost for the hosts of one network:
    ringpost --listen 0.0.0.0:25 --relay-from 127.0.0.0/8,10.0.0.0/8
  A gateway in front of a mail server:
    ringpost --listen 0.0.0.0:25 --relay-domain example.com \\
             --route 'example.com=[10.0.0.5]'";

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "ringpost",
    version,
    about = ABOUT,
    override_usage = USAGE,
    after_help = EPILOGUE,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    next_line_help = true,
    max_term_width = 100
)]
pub struct Flags {
    #[command(flatten)]
    pub listening: Listening,
    #[command(flatten)]
    pub tls: Tls,
    #[command(flatten)]
    pub relaying: Relaying,
    #[command(flatten)]
    pub spool: Spool,
    #[command(flatten)]
    pub delivery: Delivery,
    #[command(flatten)]
    pub dns: Dns,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub timeouts: Timeouts,
    #[command(flatten)]
    pub cores: Cores,
    #[command(flatten)]
    pub logging: Logging,
    #[command(flatten)]
    pub privileges: Privileges,
    #[command(flatten)]
    pub general: General,
    #[command(subcommand)]
    pub action: Option<Action>,
}

#[derive(Subcommand, Debug)]
pub enum Action {
    /// Look into the spool of a stopped relay
    #[command(subcommand, hide = true)]
    Spool(SpoolAction),
}

#[derive(Subcommand, Debug)]
pub enum SpoolAction {
    /// Print each message: id, age, sender, recipients, states
    List { dir: Option<PathBuf> },
    /// Check every record; exit code 1 if something is damaged
    Verify { dir: Option<PathBuf> },
    /// Write the mail of a stopped relay to files
    Export {
        /// Make this directory
        to: PathBuf,
        dir: Option<PathBuf>,
        /// Leave an empty spool behind, so that its next start delivers none of it
        #[arg(long)]
        take: bool,
    },
    /// Take exported mail into the spool of a stopped relay
    Import {
        /// The directory that an export has made
        from: PathBuf,
        dir: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Listening")]
pub struct Listening {
    /// Accept mail here, with STARTTLS offered
    #[arg(long, value_name = "ADDR:PORT,...", default_value = "127.0.0.1:2525",
          value_parser = values::listen_address, value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,

    /// Accept mail here, with TLS from the first byte (RFC 8314; usually port 465)
    #[arg(long, value_name = "ADDR:PORT,...",
          value_parser = values::listen_address, value_delimiter = ',')]
    pub listen_tls: Vec<SocketAddr>,

    /// Answer whoever looks at the relay here by HTTP: /metrics, /healthz, /readyz, /v1/status. Nobody is asked who
    /// it is, and nothing can be changed
    #[arg(long, value_name = "ADDR:PORT", default_value = super::HTTP_ADDRESS)]
    pub http: AddressOrNone,

    /// What this host calls itself in greetings, EHLO and trace headers [default: the host's
    /// full name]
    #[arg(long, value_name = "NAME", value_parser = values::host_name)]
    pub hostname: Option<String>,

    /// What the greeting says after the host name
    #[arg(long, value_name = "TEXT", default_value = server::BANNER,
          value_parser = values::banner)]
    pub banner: String,

    /// Connections that the kernel queues for a listener
    #[arg(long, count = "1..65535", default_value_t = listener::BACKLOG)]
    pub backlog: u32,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "TLS")]
pub struct Tls {
    /// Certificate chain for clients, PEM. May be repeated for other kinds of keys: a client gets the first that
    /// it can use [default: one is generated and kept]
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    pub tls_cert: Vec<PathBuf>,

    /// Key of --tls-cert, PEM; one for each certificate, in the same order. EC P-256 costs a sixth of the CPU of
    /// RSA-2048
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    pub tls_key: Vec<PathBuf>,

    /// Directory of the generated certificate, which is for clients that can use none of --tls-cert [default: tls
    /// in the state directory]
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,

    /// Do not offer STARTTLS to clients
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub no_starttls: bool,

    /// Accept mail only over TLS; otherwise 530 5.7.0
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub tls_require: bool,

    /// TLS towards next hops: 'may' uses TLS where it works; 'encrypt' and 'verify' never fall
    /// back to plaintext; 'verify' also checks the certificate
    #[arg(
        long,
        value_name = "none|may|encrypt|verify",
        hide_possible_values = true,
        default_value = "may",
        ignore_case = true
    )]
    pub tls_out: TlsLevel,

    /// Level of --tls-out for a recipient domain (.example.com: all below it)
    #[arg(long, value_name = "DOMAIN=LEVEL,...", value_delimiter = ',')]
    pub tls_out_for: Vec<TlsFor>,

    /// Trusted roots besides the system's, and certificates of single hosts, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Trust --tls-ca only, not the system's roots
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub tls_ca_only: bool,

    /// Do not send a server name (SNI) to next hops
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub no_sni: bool,

    /// How long TLS is not tried again with a host where it failed (level may)
    #[arg(long, span = "0s..7d", default_value_t = Span(delivery::BROKEN_TLS_REMEMBERED))]
    pub tls_broken_for: Span,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Relaying")]
pub struct Relaying {
    /// Trusted clients: they may send to any domain. Or none
    #[arg(
        long,
        value_name = "CIDR,...",
        default_value = "127.0.0.0/8,::1/128",
        value_delimiter = ','
    )]
    pub relay_from: Vec<ClientNet>,

    /// Domain to add to addresses without one (root), from clients in --relay-from [default: such
    /// addresses are refused, 501]
    #[arg(long, value_name = "NAME", value_parser = values::mail_domain)]
    pub qualify_domain: Option<Domain<'static>>,

    /// Domains that any client may send to (.example.com: all below it)
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub relay_domain: Vec<DomainPattern>,

    /// More relay domains, one per line. Read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub relay_domains_file: Option<PathBuf>,

    /// Recipients that exist in the relay domains, one per line (@example.com: all of that domain).
    /// Others get 550 5.1.1. Read again on SIGHUP [default: all are accepted]
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Option<PathBuf>,

    /// Who gets mail to <Postmaster> without a domain [default: refused with 550 5.1.1, unless a
    /// --route exists for the --hostname]
    #[arg(long, value_name = "USER@DOMAIN")]
    pub postmaster: Option<String>,

    /// Where mail for a domain goes instead of its MX hosts: example.com=relay.example:25 (by
    /// MX), 'example.com=[10.0.0.5]:25' (no MX), '*=[192.0.2.1]' (all the rest)
    #[arg(long, value_name = "DOMAIN=HOST;...", value_delimiter = ';')]
    pub route: Vec<String>,

    /// More routes, one per line. Read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub routes_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Spool")]
pub struct Spool {
    /// Directory of accepted mail that is not delivered yet [default: spool in $STATE_DIRECTORY;
    /// with --user in /var/lib/ringpost; else in $XDG_STATE_HOME/ringpost or
    /// ~/.local/state/ringpost]
    #[arg(long, value_name = "DIR", global = true)]
    pub spool: Option<PathBuf>,

    /// Maximum size of the spool. 0: what the file system has
    #[arg(long, size = "0..1024TiB", default_value = "0")]
    pub spool_size: Bytes,

    /// Space on the spool's file system that new mail leaves free [default: 256MiB, at most a
    /// twentieth of the file system]
    #[arg(long, size = "0..1024TiB")]
    pub spool_keep_free: Option<Bytes>,

    /// Size of a log segment. Each core keeps two open and some in reserve
    #[arg(long, size = "4MiB..1GiB", default_value_t = Bytes(spool::SEGMENT_BYTES_DEFAULT))]
    pub segment_size: Bytes,

    /// How commits reach the disk: 'direct' costs a third of the CPU of 'buffered'; 'auto' uses
    /// it where the file system can
    #[arg(
        long,
        value_name = "auto|direct|buffered",
        hide_possible_values = true,
        default_value = "auto",
        ignore_case = true
    )]
    pub spool_durability: SpoolDurability,

    /// Messages larger than this go to disk in pieces of this size as they come in. Also the maximum memory that
    /// a session takes for a body beyond --in-memory-size
    #[arg(long, size = "16KiB..4MiB", default_value_t = Bytes(session::CHUNK_BYTES))]
    pub chunk_size: Bytes,

    /// Messages up to this size are delivered from memory; larger ones are read back from disk
    #[arg(long, size = "0..16MiB", default_value_t = Bytes(session::IN_MEMORY_BYTES))]
    pub in_memory_size: Bytes,

    /// Ceiling for the memory of sessions, bodies and queue, all cores together. Near it, bodies
    /// go to disk at once and senders are slowed down; then new mail gets 452, new connections
    /// 421
    #[arg(long, size = "16MiB..1TiB", default_value_t = Bytes(memory::BYTES_MAX))]
    pub memory_max: Bytes,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct Delivery {
    /// Wait before the second attempt. It doubles with every attempt, with some jitter
    #[arg(long, span = "1s..7d", default_value_t = Span(retry::MIN))]
    pub retry_min: Span,

    /// Longest wait between attempts. Equal to --retry-min: a fixed interval
    #[arg(long, span = "1s..7d", default_value_t = Span(retry::MAX))]
    pub retry_max: Span,

    /// How long delivery is tried before the mail bounces. 0s: one attempt
    #[arg(long, span = "0s..90d", default_value_t = Span(retry::LIFETIME))]
    pub queue_lifetime: Span,

    /// How long beyond --queue-lifetime a bounce is tried before it is dropped
    #[arg(long, span = "0s..90d", default_value_t = Span(delivery::REPORT_LIFETIME))]
    pub bounce_lifetime: Span,

    /// How long the failures of one message are gathered for its first report to the sender. The second report
    /// comes no sooner than 10 times, each later one than 60 times as long after the one before. None waits for more
    /// than half of what is left of --queue-lifetime and --bounce-lifetime. 0s: at once
    #[arg(long, span = "0s..1h", default_value_t = Span(reports::WINDOW))]
    pub report_window: Span,

    /// Connections to one next hop, all cores together
    #[arg(long, count = "1..10000", default_value_t = next_hop::CONNECTIONS_PER_HOP_MAX)]
    pub delivery_connections: u32,

    /// Connections to all next hops, all cores together
    #[arg(long, count = "1..1000000", default_value_t = next_hop::CONNECTIONS_MAX)]
    pub delivery_connections_total: u32,

    /// How long an idle connection is kept for the next message. 0s: it is closed at once
    #[arg(long, span = "0s..5m", default_value_t = Span(next_hop::IDLE_WAIT))]
    pub idle_timeout: Span,

    /// Messages sent over one connection before it is closed
    #[arg(long, count = "1..1000000", default_value_t = delivery::TRANSACTIONS_PER_CONNECTION)]
    pub max_deliveries_per_connection: u32,

    /// Recipients in one transaction. Every host accepts 100 (RFC 5321)
    #[arg(long, count = "1..10000", default_value_t = delivery::RECIPIENTS_PER_TRANSACTION)]
    pub recipients_per_transaction: u32,

    /// Port of MX hosts; a route may name another
    #[arg(long, count = "1..65535", default_value_t = u32::from(route::SMTP_PORT))]
    pub mx_port: u32,

    /// Which addresses of next hops from DNS are used
    #[arg(
        long,
        value_name = "both|4|6",
        hide_possible_values = true,
        default_value = "both"
    )]
    pub ip_version: Families,

    /// Connect to next hops from this address; one per IP version
    #[arg(long, value_name = "ADDR,...",
          value_parser = values::source_address, value_delimiter = ',')]
    pub source_address: Vec<IpAddr>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "DNS")]
pub struct Dns {
    /// Name servers to ask, in this order; if one fails, the next is asked [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDR[:PORT],...",
          value_parser = values::resolver_address, value_delimiter = ',')]
    pub dns: Vec<SocketAddr>,

    /// How long one name server has for an answer; all that a next hop takes has four times as long, and 20 s at least
    #[arg(long, span = "100ms..1m", default_value_t = Span(resolve::QUERY_TIMEOUT))]
    pub dns_timeout: Span,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Largest message, announced by SIZE; a larger one gets 552 5.3.4
    #[arg(long, size = "64KiB..4GiB", default_value_t = Bytes(server::MESSAGE_BYTES_MAX))]
    pub max_message_size: Bytes,

    /// Recipients of one message; more get 452 4.5.3
    #[arg(long, count = "100..50000", default_value_t = server::RECIPIENTS_MAX)]
    pub max_recipients: u32,

    /// Messages in one session; more get 421. 0: no limit
    #[arg(long, count = "0..1000000000", default_value = "0")]
    pub max_messages_per_session: u32,

    /// Wrong commands and refused recipients in one session; more get 421 4.7.0
    #[arg(long, count = "1..10000", default_value_t = server::ERRORS_MAX)]
    pub max_errors: u32,

    /// Number of Received: fields at which a message counts as looping (554 5.4.6)
    #[arg(long, count = "10..1000", default_value_t = server::HOPS_MAX)]
    pub max_hops: u32,

    /// Longest line of a message; a longer one gets 554 5.6.0. RFC 5321 says 1000, but real mail
    /// has longer ones and most hosts accept them. 0: no limit
    #[arg(long, size = "0..4GiB", default_value = "0")]
    pub max_line_length: Bytes,

    /// What to do with a bare CR or LF in a message. Use normalise for old clients inside only
    #[arg(
        long,
        value_name = "refuse|normalise",
        hide_possible_values = true,
        default_value = "refuse",
        ignore_case = true
    )]
    pub bare_line_ends: BareLineEnds,

    /// Do not offer CHUNKING. Some senders send bare LF in chunks only; without CHUNKING they
    /// correct or return such mail themselves
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub no_chunking: bool,

    /// Open sessions; more get 421. An idle one costs 6 KB of memory, 10 KB with TLS
    #[arg(long, count = "1..1000000", default_value_t = listener::CONNECTIONS_MAX)]
    pub max_connections: u32,

    /// Part of --max-connections that is kept for clients in --relay-from [default: an eighth]
    #[arg(long, count = "0..1000000")]
    pub reserved_connections: Option<u32>,

    /// Open sessions of one IPv4 address or IPv6 /64 outside --relay-from; an IPv6 /56 may have 4 times
    /// as many, a /48 or an IPv4 /24 16 times. 0: no limit
    #[arg(long, count = "0..1000000", default_value_t = listener::CONNECTIONS_PER_ADDRESS_MAX)]
    pub max_connections_per_address: u32,

    /// New connections of one address (or /64) outside --relay-from per minute, also all at once;
    /// more get 421 4.7.0. 0: no limit
    #[arg(long, count = "0..1000000000", default_value_t = rates::CONNECTIONS)]
    pub connection_rate: u32,

    /// New connections of all such addresses per second. 0: no limit
    #[arg(long, count = "0..1000000000", default_value = "0")]
    pub connection_rate_total: u32,

    /// TLS handshakes of one such address per minute; more get 421 4.7.0. 0: no limit
    #[arg(long, count = "0..1000000000", default_value_t = rates::HANDSHAKES)]
    pub handshake_rate: u32,

    /// TLS handshakes of all such addresses per second. 1000 take a tenth of a core and more. 0: no
    /// limit
    #[arg(long, count = "0..1000000000", default_value_t = rates::HANDSHAKES_TOTAL)]
    pub handshake_rate_total: u32,

    /// Messages of one such address per minute; more get 450 4.7.0. 0: no limit
    #[arg(long, count = "0..1000000000", default_value_t = rates::MESSAGES)]
    pub message_rate: u32,

    /// Recipients of one such address per minute; more get 450 4.7.0. 0: no limit
    #[arg(long, count = "0..1000000000", default_value_t = rates::RECIPIENTS)]
    pub recipient_rate: u32,

    /// Errors (replies 5yz) of one such address per minute; more get 421 4.7.0, also to new
    /// connections. 0: no limit
    #[arg(long, count = "0..1000000000", default_value_t = rates::ERRORS)]
    pub error_rate: u32,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Timeouts")]
pub struct Timeouts {
    /// Clients: wait for the next command. RFC 5321 asks for at least 5m
    #[arg(long, span = "1s..1h", default_value_t = Span(session::COMMAND_TIMEOUT))]
    pub command_timeout: Span,

    /// Clients: wait for the next bytes of a message
    #[arg(long, span = "1s..1h", default_value_t = Span(session::DATA_TIMEOUT))]
    pub data_timeout: Span,

    /// Clients: average bytes per second that a message must have once it has taken --data-timeout;
    /// a slower one gets 421 4.4.2. 0: no limit
    #[arg(long, size = "0..1GiB", default_value_t = Bytes(session::MIN_DATA_RATE))]
    pub min_data_rate: Bytes,

    /// Clients: the whole session; then 421 4.4.2. 0s: no limit
    #[arg(long, span = "0s..7d", default_value_t = Span(session::SESSION_TIMEOUT))]
    pub session_timeout: Span,

    /// Both sides: a TLS handshake. Next hops: also the first reply after it, where plaintext is allowed
    #[arg(long, span = "1s..10m", default_value_t = Span(connection::HANDSHAKE_TIMEOUT))]
    pub handshake_timeout: Span,

    /// Next hops: opening a connection
    #[arg(long, span = "1s..10m", default_value_t = Span(connection::CONNECT_TIMEOUT))]
    pub connect_timeout: Span,

    /// Next hops: the whole greeting
    #[arg(long, span = "1s..1h", default_value_t = Span(connection::GREETING_TIMEOUT))]
    pub greeting_timeout: Span,

    /// While connections run short. Next hops: until one is ready for mail, and each reply before the message.
    /// Clients outside --relay-from: wait for the next command or bytes
    #[arg(long, span = "1s..1h", default_value_t = Span(next_hop::CROWDED_WAIT_MAX))]
    pub crowded_timeout: Span,

    /// Next hops: the whole reply to a command
    #[arg(long, span = "1s..1h", default_value_t = Span(connection::REPLY_TIMEOUT))]
    pub reply_timeout: Span,

    /// Next hops: accepting the next 64 KiB of a message
    #[arg(long, span = "1s..1h", default_value_t = Span(connection::SEND_TIMEOUT))]
    pub send_timeout: Span,

    /// Next hops: average bytes per second that they must accept once a message has taken
    /// --send-timeout; a slower one is tried again later. 0: no limit
    #[arg(long, size = "0..1GiB", default_value_t = Bytes(connection::MIN_SEND_RATE))]
    pub min_send_rate: Bytes,

    /// Next hops: the reply after the message. A short timeout makes duplicates
    #[arg(long, span = "1s..2h", default_value_t = Span(connection::FINAL_REPLY_TIMEOUT))]
    pub final_reply_timeout: Span,

    /// At a stop: how long open transactions may go on
    #[arg(long, span = "0s..1h", default_value_t = Span(listener::DRAIN_TIMEOUT))]
    pub drain_timeout: Span,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Cores")]
pub struct Cores {
    /// CPUs that accept mail: 0-3,8. A number that stands twice makes two threads. On a CPU in
    /// both lists, one thread does both [default: chosen, see --check]
    #[arg(long, value_name = "LIST")]
    pub ingress_cores: Option<CpuList>,

    /// CPUs that deliver mail
    #[arg(long, value_name = "LIST")]
    pub delivery_cores: Option<CpuList>,

    /// Do not pin threads to CPUs; the lists then only say how many. For hosts that share their CPUs with other
    /// programs: a thread that wakes up then preempts them at once
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub no_pin: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub struct Logging {
    /// key=value for people, or one JSON object per line
    #[arg(
        long,
        value_name = "text|json",
        hide_possible_values = true,
        default_value = "text",
        ignore_case = true
    )]
    pub log_format: LogFormat,

    /// 'info' has one line per session and per delivery attempt. Answers to signals are logged at any level
    #[arg(
        long,
        value_name = "error|warn|info|debug",
        hide_possible_values = true,
        default_value = "info",
        ignore_case = true
    )]
    pub log_level: LogLevel,

    /// File to append to; reopened on SIGHUP [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Privileges")]
pub struct Privileges {
    /// Started as root: become this user once ports are bound and the key is read [default: stay
    /// root, but without root's capabilities]
    #[arg(long, value_name = "NAME[:GROUP]", value_parser = values::user)]
    pub user: Option<UserName>,

    /// Do not use Landlock. It denies the process all files except spool, certificates, lists, log and the
    /// resolver's settings
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub no_landlock: bool,

    /// Do not start if the kernel lacks Landlock or a part of it (complete from Linux 6.12 on)
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub require_landlock: bool,

    /// Do not use seccomp. It denies the process system calls that it does not need
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub no_seccomp: bool,

    /// Kill the process at any system call that a relay does not make. Otherwise only the worst
    /// ones kill it, and others fail as if the kernel did not have them
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub strict_seccomp: bool,

    /// Let a crash write a core dump, with keys and mail in it. If core_pattern is a file, also set
    /// --no-landlock
    #[arg(long, value_parser = values::boolean, action = ArgAction::SetTrue)]
    pub core_dumps: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "General")]
pub struct General {
    /// Check everything that a start needs, print the effective settings, and exit: 0 if a start
    /// would work, 2 if not. Ports and a spool in use are not checked
    #[arg(long)]
    pub check: bool,

    /// Print this help
    #[arg(short, long, action = ArgAction::HelpShort, global = true)]
    pub help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    pub version: Option<bool>,
}

/// The command as clap sees it: every flag gets its environment variable, and one that is set
/// but empty counts as not set.
pub fn command() -> Command {
    Flags::command().mut_args(|arg| {
        let Some(long) = arg.get_long() else {
            return arg;
        };
        let variable = variable_of(long);
        if NOT_FROM_ENVIRONMENT.contains(&long)
            || std::env::var_os(&variable).is_none_or(|value| value.is_empty())
        {
            return arg;
        }
        arg.env(variable).hide_env(true)
    })
}

/// The command as it is without any environment.
pub fn command_without_variables() -> Command {
    Flags::command()
}

/// The environment variable of a flag, given its name without the dashes.
pub fn variable_of(long: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}{}",
        long.to_uppercase().replace('-', "_")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_help_and_a_heading() {
        for arg in command().get_arguments() {
            assert!(arg.get_help().is_some(), "--{}", arg.get_id());
            assert!(arg.get_help_heading().is_some(), "--{}", arg.get_id());
        }
    }

    #[test]
    fn variables_are_named_after_flags() {
        assert_eq!(variable_of("max-hops"), "RINGPOST_MAX_HOPS");
    }
}
