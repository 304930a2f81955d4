//! Flags of `compare`, and of the bare proxy that is its floor.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};

use crate::options::shared::{JudgeOptions, OutputOptions};
use crate::options::sink::SinkOptions;
use crate::options::source::SourceOptions;

/// Longest name of a relay in a comparison.
const RELAY_NAME_BYTES_MAX: usize = 24;

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
