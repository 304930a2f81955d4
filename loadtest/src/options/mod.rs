//! Every flag of the load generator, with its unit and default.
//!
//! Promise: what clap cannot see of a flag is checked by its command's `check`, before anything is started.
//! Not here: what the flags do (`commands`).

pub mod compare;
pub mod hold;
pub mod ramp;
pub mod run;
pub mod shared;
pub mod sink;
pub mod source;
pub mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::options::compare::{CompareCommand, ProxyTls};
use crate::options::hold::HoldCommand;
use crate::options::ramp::RampCommand;
use crate::options::run::{KillCommand, RunCommand};
use crate::options::shared::OutputOptions;
use crate::options::sink::SinkOptions;
use crate::options::source::SourceOptions;

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
  Twenty kills under load; the relay's command should ask for short retries, and reports soon:
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }
}
