//! Flags of `ramp`.

use clap::Args;

use crate::options::run::RunCommand;
use crate::options::values::positive;

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
