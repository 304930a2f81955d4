//! What a ramp found out, as JSON has it, and its text.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::figures::histogram::ms_of;
use crate::figures::machine::Machine;
use crate::figures::report::Report;
use crate::text::{decimal, grouped};

/// Every step of a ramp, and where it ended; as `--json` has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ramp {
    pub version: String,
    /// What the caller says of the ramp.
    pub note: String,
    pub command: Vec<String>,
    pub machine: Machine,
    pub p99_ms_max: Option<f64>,
    pub end_to_end_p99_ms_max: Option<f64>,
    pub step_seconds: f64,
    /// The rate that was not to be exceeded.
    pub highest: Option<f64>,
    /// In the order in which they took place; a rate that failed may occur again.
    pub steps: Vec<Step>,
    /// Index of the step with the highest rate that held.
    pub best: Option<usize>,
    pub interrupted: bool,
}

impl Ramp {
    /// No higher rate failed: the highest one that held is no bound of the relay.
    pub fn is_open_ended(&self) -> bool {
        let best = self.best.and_then(|best| self.steps.get(best));
        best.is_some_and(|best| {
            let mut failed = self.steps.iter().filter(|step| !step.reasons.is_empty());
            !failed.any(|step| step.rate > best.rate)
        })
    }

    /// The search ended at its highest rate, or with its last step.
    fn what_would_tell_more(&self) -> &'static str {
        let best = self.best.and_then(|best| self.steps.get(best));
        let had_more = best
            .zip(self.highest)
            .is_some_and(|(best, to)| best.rate < to);
        match had_more {
            true => "a larger --steps-max",
            false => "a higher --to",
        }
    }

    /// The step, the last one, at which no message was accepted: no other rate would change that.
    pub fn nothing_taken(&self) -> Option<&Step> {
        let last = self.steps.last();
        last.filter(|step| step.report.source.accepted == 0)
    }

    /// `at least ` before a rate that is no upper bound.
    pub fn at_least(&self) -> &'static str {
        match self.is_open_ended() {
            true => "at least ",
            false => "",
        }
    }
}

/// One rate, tried once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Messages per second asked for.
    pub rate: f64,
    /// Empty if the rate held.
    pub reasons: Vec<String>,
    pub report: Report,
}

impl Step {
    pub fn nothing_was_taken(&self) -> String {
        let reason = self.reasons.first().map_or("", String::as_str);
        let rate = grouped(self.rate.ceil() as u64);
        format!("the ramp ended at {rate} messages/s, since another rate would not help: {reason}")
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        let (to_250, end_to_end) = (&report.source.to_250_us, &report.sink.end_to_end_us);
        write!(
            f,
            "{:>9}/s  to 250: p50 {:>8}, p99 {:>8} ms; end to end: p99 {:>8} ms; ",
            grouped(self.rate.round() as u64),
            ms_of(to_250, to_250.p50),
            ms_of(to_250, to_250.p99),
            ms_of(end_to_end, end_to_end.p99),
        )?;
        if let Some(us) = report.rates.relay_cpu_us_per_message {
            write!(f, "{:>7} us CPU; ", decimal(us))?;
        }
        match self.reasons.as_slice() {
            [] => write!(f, "holds"),
            reasons => write!(f, "fails: {}", reasons.join("; ")),
        }
    }
}

impl Display for Ramp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} CPUs ({}), Linux {}; steps of {} s",
            machine.cpus, machine.cpu, machine.kernel, self.step_seconds
        )?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        let bounds = [
            ("to 250", self.p99_ms_max),
            ("end to end", self.end_to_end_p99_ms_max),
        ];
        let bounds: Vec<String> = bounds
            .iter()
            .filter_map(|(what, bound)| Some(format!("p99 {what} within {} ms", (*bound)?)))
            .collect();
        let bounds = bounds.join(", ");
        if let Some(step) = self.nothing_taken() {
            writeln!(f, "NOT CLEAN   {}", step.nothing_was_taken())?;
        }
        match self.best.map(|best| &self.steps[best]) {
            None if self.nothing_taken().is_some() => {}
            Some(best) => {
                let cpu = best.report.rates.relay_cpu_us_per_message;
                let cpu =
                    cpu.map(|us| format!(", {} us CPU of the relay per message", decimal(us)));
                let (rate, cpu) = (best.rate, cpu.unwrap_or_default());
                let at_least = self.at_least();
                let rate = grouped(rate.round() as u64);
                writeln!(
                    f,
                    "HIGHEST     {at_least}{rate} messages/s with {bounds}{cpu}"
                )?;
                if self.is_open_ended() {
                    let remedy = self.what_would_tell_more();
                    writeln!(f, "            no step failed: {remedy} would tell more")?;
                }
            }
            None => writeln!(f, "HIGHEST     none: no rate kept {bounds}")?,
        }
        if self.interrupted {
            writeln!(f, "NOT CLEAN   a signal ended the ramp early")?;
        }
        Ok(())
    }
}
