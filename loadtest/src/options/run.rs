//! Flags of `run` and `kill-test`.

use std::net::SocketAddr;

use clap::Args;

use crate::options::shared::{JudgeOptions, OutputOptions, RelayOptions};
use crate::options::sink::SinkOptions;
use crate::options::source::SourceOptions;
use crate::options::values::Range;

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
