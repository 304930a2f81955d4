//! Flags of `hold`.

use clap::Args;

use crate::options::shared::{OutputOptions, RelayOptions};
use crate::options::source::SourceOptions;
use crate::options::values::positive;

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
