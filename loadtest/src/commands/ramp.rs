//! The highest rate that keeps a bound: steps at fixed rates, each a run of its own with its own
//! ledger, on one spool. Not here: which rate is next (`search`).

use crate::commands::output::write_files;
use crate::commands::run;
use crate::commands::search::Search;
use crate::failure::Failure;
use crate::figures::machine::Machine;
use crate::figures::ramp::{Ramp, Step};
use crate::figures::report::Report;
use crate::host::scratch::Scratch;
use crate::host::signals::StopFlag;
use crate::options::ramp::RampCommand;
use crate::options::run::RunCommand;
use crate::pages;
use crate::text::grouped;

/// A step must take up, and deliver, at least this share of its rate: a relay that accepts
/// everything in time while its queue grows does not hold the rate.
const PACE_MIN: f64 = 0.95;

/// Searches, prints, and says whether there is a rate that holds.
pub fn ramp(command: &RampCommand, stop: &StopFlag) -> Result<bool, Failure> {
    command.check()?;
    let mut scratch = Scratch::default();
    let run = on_one_spool(&command.run, &mut scratch)?;
    let ramp = climb(command, run, stop)?;
    print!("{ramp}");
    write_files(&command.run.output, &ramp, pages::ramp::page)?;
    let held = ramp.best.is_some() && !ramp.interrupted;
    scratch.tidy(held);
    Ok(held)
}

/// The relay of each step finds the spool of the last one, already filled with zeros.
fn on_one_spool(run: &RunCommand, scratch: &mut Scratch) -> Result<RunCommand, Failure> {
    let mut run = run.clone();
    if run.start.relay_cmd.is_some() {
        if run.start.spool.is_none() {
            run.start.spool = Some(scratch.directory()?.join("spool"));
        }
        if run.start.relay_log.is_none() {
            run.start.relay_log = Some(scratch.directory()?.join("relay.log"));
        }
    }
    run.output.quiet = true;
    Ok(run)
}

fn climb(command: &RampCommand, run: RunCommand, stop: &StopFlag) -> Result<Ramp, Failure> {
    let mut ramp = Ramp {
        version: env!("CARGO_PKG_VERSION").to_string(),
        note: command.run.output.note.clone(),
        command: std::env::args().collect(),
        machine: Machine::here(crate::host::clock::Clock::start().now_us() / 1_000_000),
        p99_ms_max: command.p99_ms,
        end_to_end_p99_ms_max: command.end_to_end_p99_ms,
        step_seconds: command.step,
        highest: Some(command.to),
        ..Ramp::default()
    };
    if command.warm_up > 0.0 {
        one_step(command, &run, command.from, command.warm_up, stop)?;
    }
    let precision = command.precision / 100.0;
    let mut search = Search::new(command.from, command.to, precision, command.steps_max);
    while let Some(rate) = search.next().filter(|_| !stop.is_set()) {
        let mut holds = false;
        for _ in 0..command.tries {
            let step = one_step(command, &run, rate, command.step, stop)?;
            if !command.run.output.quiet {
                eprintln!("{step}");
            }
            holds = step.reasons.is_empty();
            ramp.steps.push(step);
            if holds || stop.is_set() || ramp.nothing_taken().is_some() {
                break;
            }
        }
        if ramp.nothing_taken().is_some() {
            break;
        }
        if holds {
            ramp.best = Some(ramp.steps.len() - 1);
        }
        search.note(rate, holds);
    }
    ramp.interrupted = stop.is_set();
    Ok(ramp)
}

fn one_step(
    command: &RampCommand,
    run: &RunCommand,
    rate: f64,
    seconds: f64,
    stop: &StopFlag,
) -> Result<Step, Failure> {
    let mut run = run.clone();
    run.source.rate = Some(rate);
    run.source.duration = Some(seconds);
    let (report, mut under_test) = run::measure(&run, stop)?;
    under_test.tidy(report.is_clean());
    let bounds = Bounds {
        to_250_p99_us: command.p99_ms.map(|ms| ms * 1e3),
        end_to_end_p99_us: command.end_to_end_p99_ms.map(|ms| ms * 1e3),
        messages_min: rate * seconds * PACE_MIN,
        delivered_per_second_min: rate * PACE_MIN,
    };
    Ok(Step {
        rate,
        reasons: bounds.reasons(&report),
        report,
    })
}

/// What a step must keep.
struct Bounds {
    to_250_p99_us: Option<f64>,
    end_to_end_p99_us: Option<f64>,
    messages_min: f64,
    delivered_per_second_min: f64,
}

impl Bounds {
    /// Why the step fails; empty if it holds.
    fn reasons(&self, report: &Report) -> Vec<String> {
        let mut reasons = report.problems();
        let times = [
            ("to 250", self.to_250_p99_us, &report.source.to_250_us),
            (
                "end to end",
                self.end_to_end_p99_us,
                &report.sink.end_to_end_us,
            ),
        ];
        for (what, bound, percentiles) in times {
            if bound.is_some_and(|bound| percentiles.p99 as f64 > bound) {
                let ms = percentiles.p99 as f64 / 1e3;
                reasons.push(format!("{what}: p99 is {ms:.1} ms"));
            }
        }
        if (report.source.accepted as f64) < self.messages_min {
            let accepted = grouped(report.source.accepted);
            reasons.push(format!("only {accepted} messages were accepted"));
        } else if report.rates.delivered_per_second < self.delivered_per_second_min {
            let delivered = report.rates.delivered_per_second;
            reasons.push(format!("delivered only {delivered:.0}/s: the queue grows"));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            to_250_p99_us: Some(10_000.0),
            end_to_end_p99_us: None,
            messages_min: 95.0,
            delivered_per_second_min: 9.5,
        }
    }

    fn good() -> Report {
        let mut report = Report::default();
        report.source.accepted = 100;
        report.sink.messages = 100;
        (report.accept_seconds, report.deliver_seconds) = (10.0, 10.0);
        report.source.to_250_us.p99 = 9_999;
        report.finish();
        report
    }

    #[test]
    fn a_ramp_that_was_cut_by_its_steps_asks_for_more_of_them() {
        let ramp = |to| Ramp {
            highest: Some(to),
            steps: vec![step(400.0, &[])],
            best: Some(0),
            ..Ramp::default()
        };
        assert!(ramp(400.0).to_string().contains("a higher --to"));
        assert!(ramp(1e6).to_string().contains("a larger --steps-max"));
    }

    #[test]
    fn a_step_holds_within_its_bounds() {
        assert_eq!(bounds().reasons(&good()), [""; 0]);
    }

    fn step(rate: f64, reasons: &[&str]) -> Step {
        Step {
            rate,
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            report: good(),
        }
    }

    #[test]
    fn a_ramp_without_a_failed_step_says_at_least() {
        let mut ramp = Ramp {
            steps: vec![
                step(1000.0, &["too slow"]),
                step(1000.0, &[]),
                step(2000.0, &[]),
            ],
            best: Some(2),
            p99_ms_max: Some(10.0),
            ..Ramp::default()
        };
        assert!(
            ramp.to_string()
                .contains("HIGHEST     at least 2,000 messages/s")
        );
        ramp.steps.push(step(2100.0, &["too slow"]));
        assert!(ramp.to_string().contains("HIGHEST     2,000 messages/s"));
    }

    #[test]
    fn a_ramp_in_which_all_is_refused_says_so_and_no_rate() {
        let mut refused = step(
            500.0,
            &["nothing was accepted; the first refusal: 554 5.7.1 no"],
        );
        refused.report = Report::default();
        refused.report.source.refused = 250;
        let ramp = Ramp {
            steps: vec![refused],
            p99_ms_max: Some(10.0),
            ..Ramp::default()
        };
        let text = ramp.to_string();
        assert!(
            text.contains("to 250: p50        -, p99        - ms"),
            "{text}"
        );
        assert!(
            text.contains("NOT CLEAN   the ramp ended at 500 messages/s"),
            "{text}"
        );
        assert!(
            text.ends_with("the first refusal: 554 5.7.1 no\n"),
            "{text}"
        );
        assert!(!text.contains("HIGHEST"), "{text}");
    }

    #[test]
    fn canary_slow_lossy_short_and_lagging_steps_fail() {
        type Spoil = fn(&mut Report);
        let spoils: [(&str, Spoil); 4] = [
            ("p99 is 10.0 ms", |r| r.source.to_250_us.p99 = 10_001),
            ("ledger", |r| r.ledger.lost = 1),
            ("accepted", |r| r.source.accepted = 90),
            ("queue grows", |r| r.deliver_seconds = 20.0),
        ];
        for (reason, spoil) in spoils {
            let mut report = good();
            spoil(&mut report);
            report.finish();
            let reasons = bounds().reasons(&report);
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            assert!(reasons[0].contains(reason), "{reasons:?}");
        }
    }
}
