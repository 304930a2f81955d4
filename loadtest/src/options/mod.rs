//! Every flag of the load generator, with its unit and default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::figures::report::grouped;
use crate::host::files;

/// Most recipients in one message.
pub const RECIPIENTS_MAX: u32 = 1_000;
/// Smallest message: the header lines must fit.
pub const SIZE_BYTES_MIN: u64 = 512;
/// Largest message.
pub const SIZE_BYTES_MAX: u64 = 1 << 30;
/// Longest name of a relay in a comparison.
const RELAY_NAME_BYTES_MAX: usize = 24;
/// Most MX hosts of one domain.
pub const MX_HOSTS_MAX: u32 = 50;
/// Messages in a run that names neither a number nor a duration.
const MESSAGES_DEFAULT: u64 = 10_000;

const EXAMPLES: &str = "\
Examples:
  The load generator's own limit, 10,000 messages of 10 KB over 50 connections:
    ringpost-loadtest run --direct --messages-per-connection 1
    ringpost-loadtest run --direct --messages-per-connection 100
  A relay that is started for the run, TLS in and out:
    ringpost-loadtest run --messages 100000 --relay-cmd \\
      'ringpost --listen {listen} --route *=[{sink_ip}]:{sink_port} --spool {spool}'
  The same to the MX hosts of 1,000 domains, two hosts each, as the sink's name server says:
    ringpost-loadtest run --domains 1000 --mx-hosts 2 --relay-cmd \\
      'ringpost --listen {listen} --dns {dns} --mx-port {sink_port} --spool {spool}'
  The same with one quick domain beside 999 slow ones: --faulty-domains 0.999 --latency 2000
  A relay that runs already and delivers to port 2525, at a fixed rate:
    ringpost-loadtest run --relay 127.0.0.1:25 --relay-pid 4711 --sink-listen 127.0.0.1:2525 \\
      --rate 2000 --duration 60 --json run.json --html run.html
  The page of an earlier run, from its figures:
    ringpost-loadtest html run.json > run.html
  Twenty kills under load; the relay's command should ask for short retries:
    ringpost-loadtest kill-test --rounds 20 --fault-4xx 0.05 --latency 5 \\
      --relay-cmd '...'
  Two builds, Postfix and the bare proxy, under three kinds of load:
    ringpost-loadtest compare --workload cold,warm,plain --floor both,in \\
      --relay-cmd 'old=old/ringpost ...' --relay-cmd 'new=new/ringpost ...' \\
      --relay-cmd 'loadtest/peers/postfix {listen} {sink} {spool}'
  The highest rate with 99 of 100 messages answered within 100 ms:
    ringpost-loadtest ramp --p99-ms 100 --relay-cmd '...'
  What 10,000 idle connections cost, each after one message:
    ringpost-loadtest hold --connections 10000 --messages-first 1 --relay-cmd '...'
  Two hosts: both write a ledger, which are compared afterwards:
    ringpost-loadtest sink 0.0.0.0:25 --ledger sink.txt
    ringpost-loadtest source 10.0.0.2:25 --ledger source.txt
    ringpost-loadtest check source.txt sink.txt

Exit status: 0 all is well, 1 something was lost, duplicated, corrupted or not sent, 2 no run";

#[derive(Parser, Debug)]
#[command(
    version,
    about = "SMTP load, a far side to receive it, and a ledger of every message",
    after_long_help = EXAMPLES
)]
pub struct Command {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Subcommand, Debug)]
pub enum Action {
    /// Send mail to ADDR and say what was accepted, and how fast
    #[command(args_override_self = true)]
    Source(SourceCommand),
    /// Receive mail, check it against its own marks, and say what arrived
    #[command(args_override_self = true)]
    Sink(SinkCommand),
    /// Source, relay under test and sink in one run, with a ledger of every message
    #[command(args_override_self = true)]
    Run(RunCommand),
    /// Kill the relay again and again under load; everything accepted must still arrive
    #[command(args_override_self = true)]
    KillTest(KillCommand),
    /// Make the page of a run, comparison or ramp from its JSON, and write it to stdout
    Html(HtmlCommand),
    /// Several relays (or builds, or the bare floor) under the same load, in turn, round after
    /// round; medians and paired ratios to the first one
    #[command(args_override_self = true)]
    Compare(CompareCommand),
    /// Find the highest fixed rate at which the relay keeps a bound on its times
    #[command(args_override_self = true)]
    Ramp(RampCommand),
    /// A bare proxy that copies bytes between two TLS connections and knows no SMTP: the floor of
    /// what a relay can cost on this machine
    #[command(args_override_self = true)]
    Proxy(ProxyCommand),
    /// Hold connections open and say what each costs the relay, and who is served beside them
    #[command(
        args_override_self = true,
        mut_arg("connections", |arg| arg.default_value("1000"))
    )]
    Hold(HoldCommand),
    /// Compare the ledger files of a source and a sink that ran on different hosts
    Check(CheckCommand),
}

impl Action {
    pub fn output(&self) -> Option<&OutputOptions> {
        match self {
            Action::Source(command) => Some(&command.output),
            Action::Sink(command) => Some(&command.output),
            Action::Run(command) => Some(&command.output),
            Action::KillTest(command) => Some(&command.output),
            Action::Compare(command) => Some(&command.output),
            Action::Ramp(command) => Some(&command.run.output),
            Action::Hold(command) => Some(&command.output),
            Action::Html(_) | Action::Proxy(_) | Action::Check(_) => None,
        }
    }
}

#[derive(Args, Debug)]
pub struct SourceCommand {
    /// Where to send, e.g. 127.0.0.1:25
    pub addr: SocketAddr,
    #[command(flatten)]
    pub source: SourceOptions,
    /// Write one line per recipient: id, address, fate
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputOptions,
}

#[derive(Args, Debug)]
pub struct SinkCommand {
    /// Where to listen
    #[arg(default_value = "127.0.0.1:2525")]
    pub addr: SocketAddr,
    #[command(flatten)]
    pub sink: SinkOptions,
    /// Write one line per recipient that arrived: id, address, fate
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Stop after this many messages (otherwise on SIGINT or SIGTERM)
    #[arg(long, value_name = "N")]
    pub expect: Option<u64>,
    #[command(flatten)]
    pub output: OutputOptions,
}

#[derive(Args, Debug)]
pub struct CheckCommand {
    /// What the source wrote with --ledger
    pub source: PathBuf,
    /// What the sink wrote with --ledger
    pub sink: PathBuf,
    /// Recipients that got a message twice are reported, but are no failure
    #[arg(long)]
    pub allow_duplicates: bool,
}

#[derive(Args, Debug)]
pub struct HtmlCommand {
    /// What run, kill-test, compare or ramp wrote with --json
    pub json: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct RunCommand {
    #[command(flatten)]
    pub source: SourceOptions,
    #[command(flatten)]
    pub sink: SinkOptions,
    #[command(flatten)]
    pub start: RelayOptions,
    #[command(flatten)]
    pub judge: JudgeOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// No relay: source straight into sink, to show the load generator's own limit
    #[arg(long, conflicts_with_all = ["relay_cmd", "relay"])]
    pub direct: bool,
    /// A relay that is already running
    #[arg(long, value_name = "ADDR", conflicts_with = "relay_cmd")]
    pub relay: Option<SocketAddr>,
    /// Process whose CPU and memory are charged to the relay, with its children
    #[arg(long, value_name = "PID", requires = "relay")]
    pub relay_pid: Option<u32>,
    /// Where the sink listens (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub sink_listen: SocketAddr,
}

#[derive(Args, Debug)]
pub struct KillCommand {
    #[command(flatten)]
    pub source: SourceOptions,
    #[command(flatten)]
    pub sink: SinkOptions,
    #[command(flatten)]
    pub start: RelayOptions,
    #[command(flatten)]
    pub judge: JudgeOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// How often the relay is killed
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub rounds: u32,
    /// Milliseconds from a start of the relay to its kill -9, drawn anew each round
    #[arg(long, default_value = "20-2000", value_name = "MIN-MAX")]
    pub kill_after_ms: Range,
}

#[derive(Args, Debug)]
pub struct CompareCommand {
    #[command(flatten)]
    pub source: SourceOptions,
    #[command(flatten)]
    pub sink: SinkOptions,
    #[command(flatten)]
    pub judge: JudgeOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// A relay, to be given once for each: a name for the table, and the command as in `run`.
    /// Ratios are to the first. Without a name it is called as its program
    #[arg(long = "relay-cmd", value_name = "[NAME=]COMMAND", required = true, action = ArgAction::Append)]
    pub relays: Vec<NamedRelay>,
    /// Also the bare proxy, as the floor: TLS on both sides, or in only
    #[arg(long, value_enum, value_name = "TLS", value_delimiter = ',', num_args = 0..=1,
        default_missing_value = "both")]
    pub floor: Vec<ProxyTls>,
    /// Workloads that take the place of the flags they name (otherwise: the flags as they are)
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    pub workload: Vec<Workload>,
    /// Counted rounds; in each everybody runs once, and the next one begins
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Rounds before these, which are not counted: a first start fills its spool
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub warm_up: u32,
    /// Directory for the spools, one for each relay, kept between rounds (otherwise a temporary
    /// one, removed if all was clean)
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Seconds a relay may take to greet after its start
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub relay_start: f64,
}

/// A relay of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRelay {
    pub name: String,
    pub command: String,
}

impl FromStr for NamedRelay {
    type Err = String;

    /// What stands before the first `=` is a name if it could not be the beginning of a command.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
            !name.is_empty() && name.len() <= RELAY_NAME_BYTES_MAX && name.chars().all(fits)
        };
        let program = || {
            let path = text.split_whitespace().next()?;
            path.rsplit('/').next()
        };
        let (name, command) = match text.split_once('=') {
            Some((name, command)) if is_name(name) => (name, command),
            _ => (program().unwrap_or_default(), text),
        };
        if !is_name(name) || command.trim().is_empty() {
            return Err("should be NAME=COMMAND".into());
        }
        Ok(Self {
            name: name.to_string(),
            command: command.to_string(),
        })
    }
}

/// What is sent in a comparison.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One message per connection
    Cold,
    /// 100 messages per connection
    Warm,
    /// 100 messages per connection, no TLS on either side
    Plain,
    /// Messages of 1 MB, 100 per connection; a twentieth of --messages
    Large,
}

/// Where the bare proxy has TLS (implicit, never STARTTLS).
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyTls {
    Both,
    /// Plaintext out: without the outbound handshake per connection in that a relay avoids
    In,
    None,
}

#[derive(Args, Debug)]
pub struct ProxyCommand {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where to connect to, once for each connection in
    #[arg(long, value_name = "ADDR")]
    pub to: SocketAddr,
    #[arg(long, value_enum, default_value_t = ProxyTls::Both)]
    pub tls: ProxyTls,
    /// Threads (default: one for each CPU)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
}

#[derive(Args, Debug)]
pub struct RampCommand {
    #[command(flatten)]
    pub run: RunCommand,
    /// Bound on the 99th percentile of the time to 250
    #[arg(long, value_name = "MS", required_unless_present = "end_to_end_p99_ms")]
    pub p99_ms: Option<f64>,
    /// Bound on the 99th percentile of the time from end to end
    #[arg(long, value_name = "MS")]
    pub end_to_end_p99_ms: Option<f64>,
    /// Messages per second of the first step; doubled until a step fails
    #[arg(long, default_value_t = 500.0, value_name = "PER_SECOND")]
    pub from: f64,
    /// Messages per second that are not exceeded
    #[arg(long, default_value_t = 1e6, value_name = "PER_SECOND")]
    pub to: f64,
    /// Seconds that each step lasts
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub step: f64,
    /// The search ends when the rates that held and failed are this many percent apart
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    pub precision: f64,
    /// Steps after which the search ends in any case
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps_max: u32,
    /// How often a rate may fail before it counts as failed
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub tries: u32,
    /// Seconds of load at the first rate before the first step, which are not counted
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub warm_up: f64,
}

impl RampCommand {
    /// What clap cannot see.
    pub fn check(&self) -> Result<(), String> {
        let source = &self.run.source;
        if source.rate.is_some() || source.messages.is_some() || source.duration.is_some() {
            return Err("a ramp sets --rate and --duration itself, and sends no --messages".into());
        }
        if self.from > self.to {
            return Err("--from is more than --to".into());
        }
        if self.warm_up != 0.0 {
            positive("--warm-up", Some(self.warm_up))?;
        }
        positive("--p99-ms", self.p99_ms)?;
        positive("--end-to-end-p99-ms", self.end_to_end_p99_ms)?;
        positive("--from", Some(self.from))?;
        positive("--to", Some(self.to))?;
        positive("--step", Some(self.step))?;
        positive("--precision", Some(self.precision))
    }
}

#[derive(Args, Debug)]
pub struct HoldCommand {
    #[command(flatten)]
    pub source: SourceOptions,
    #[command(flatten)]
    pub start: RelayOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// Messages that each connection carries before it is left alone
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub messages_first: u32,
    /// Seconds that the connections are watched, once alone and once beside an honest client
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub hold: f64,
    /// Connections that are being opened at the same time
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub opening: u32,
    /// Most connections from one local address; beyond it they come from 127.0.0.2 and so on, if
    /// the relay is on the loopback. (Where more than half of its 28,000 ports are taken, the
    /// kernel searches long for a free one)
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=28_000))]
    pub per_local_address: u32,
}

impl HoldCommand {
    /// What clap cannot see; also refuses what a run has and this has not.
    pub fn check(&self) -> Result<(), String> {
        self.source.check()?;
        positive("--hold", Some(self.hold))?;
        let source = &self.source;
        if source.messages.is_some() || source.duration.is_some() || source.rate.is_some() {
            return Err("hold has no --messages, --duration or --rate".into());
        }
        Ok(())
    }
}

#[derive(Args, Clone, Debug)]
pub struct RelayOptions {
    /// Command that starts the relay. Replaced in it: {listen} {listen_ip} {listen_port} {sink}
    /// {sink_ip} {sink_port} {spool}, and with --mx-hosts {dns} {dns_ip} {dns_port}. Words are
    /// split at blanks; quotes keep them together
    #[arg(long, value_name = "COMMAND")]
    pub relay_cmd: Option<String>,
    /// Directory for {spool} (otherwise a temporary one, removed after a clean run)
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Where the relay writes stdout and stderr (otherwise a file in the temporary directory)
    #[arg(long, value_name = "FILE")]
    pub relay_log: Option<PathBuf>,
    /// Address for {listen} (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub relay_listen: SocketAddr,
    /// Seconds the relay may take to greet after its start
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub relay_start: f64,
}

#[derive(Args, Clone, Debug)]
pub struct JudgeOptions {
    /// Seconds without any arrival after which what is still outstanding counts as lost
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub settle: f64,
    /// Milliseconds of silence to wait for late duplicates once everything arrived
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub linger_ms: u64,
    /// Recipients that got a message twice are reported, but are no failure
    #[arg(long)]
    pub allow_duplicates: bool,
}

#[derive(Args, Clone, Debug, Default)]
pub struct OutputOptions {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots, all in one file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Words for JSON and page: what was tested, e.g. its version and commit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub note: String,
    /// No progress
    #[arg(long)]
    pub quiet: bool,
}

impl OutputOptions {
    /// Before a test that would be for nothing.
    pub fn check_files(&self) -> std::io::Result<()> {
        let mut files = self.json.iter().chain(&self.html);
        files.try_for_each(|path| files::check_writable(path))
    }

    /// For commands that see one side only, and have no page.
    pub fn check_no_page(&self) -> Result<(), String> {
        if self.html.is_some() || !self.note.is_empty() {
            return Err("--html and --note are for run, kill-test, compare and ramp".into());
        }
        Ok(())
    }
}

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

/// What shaped the load, as names and values for a report.
pub fn settings(source: &SourceOptions, sink: &SinkOptions) -> Vec<(String, String)> {
    let mut settings = source_settings(source);
    settings.extend(sink_settings(sink));
    let texts = settings.into_iter();
    texts
        .map(|(name, value)| (name.to_string(), value))
        .collect()
}

fn source_settings(source: &SourceOptions) -> Vec<(&'static str, String)> {
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

fn sink_settings(sink: &SinkOptions) -> Vec<(&'static str, String)> {
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

/// A choice as it is written on the command line.
fn name_of(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value
        .map(|value| value.get_name().to_string())
        .unwrap_or_default()
}

fn positive(name: &str, value: Option<f64>) -> Result<(), String> {
    match value {
        Some(value) if !(value.is_finite() && value > 0.0 && value <= 1e9) => {
            Err(format!("{name} must be a positive number"))
        }
        _ => Ok(()),
    }
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
    /// nobody would hear of it
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = parse_share)]
    pub fault_5xx: f64,
    /// Share of recipients that the sink does not know: 550 to RCPT, and at every attempt the same
    /// ones of a message. A report that names each must come back
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

/// `N` or `MIN-MAX`, each with an optional k, M or G (1024s).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub low: u64,
    pub high: u64,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.low == self.high {
            write!(f, "{} bytes", grouped(self.low))
        } else {
            write!(
                f,
                "{} to {} bytes, uniform",
                grouped(self.low),
                grouped(self.high)
            )
        }
    }
}

impl FromStr for Range {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (parse_bytes(low)?, parse_bytes(high)?);
        if low > high {
            return Err(format!("{low} is more than {high}"));
        }
        Ok(Self { low, high })
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.chars().last() {
        Some('k' | 'K') => (&text[..text.len() - 1], 10),
        Some('m' | 'M') => (&text[..text.len() - 1], 20),
        Some('g' | 'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must lie between 0 and 1".into()),
    }
}

/// Threads for one side when none were asked for: a quarter of the CPUs, between 1 and 8, so that
/// the relay keeps at least half of the machine.
pub fn default_threads() -> usize {
    (std::thread::available_parallelism().map_or(1, |cpus| cpus.get()) / 4).clamp(1, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }

    #[test]
    fn sizes_and_ranges() {
        assert_eq!(
            "10k".parse(),
            Ok(Range {
                low: 10_240,
                high: 10_240
            })
        );
        assert_eq!(
            "1k-2M".parse(),
            Ok(Range {
                low: 1024,
                high: 2 << 20
            })
        );
        assert!("2k-1k".parse::<Range>().is_err());
        assert!("".parse::<Range>().is_err());
        assert!("99999999999G".parse::<Range>().is_err());
    }
}
