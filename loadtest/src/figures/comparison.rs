//! What a comparison found out: every run, and each figure's medians and ratios. Plain data, and
//! its text for people. Not here: the runs (`compare`).

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::figures::histogram::Percentiles;
use crate::figures::machine::Machine;
use crate::figures::report::Report;
use crate::figures::spread::Spread;

/// A whole comparison, as `--json` has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Comparison {
    pub version: String,
    /// What the caller says of the comparison.
    pub note: String,
    pub command: Vec<String>,
    pub machine: Machine,
    pub rounds: u32,
    /// Rounds that ran before, and are not counted.
    pub warm_up: u32,
    /// In the order of the command line; the first is the base of all ratios.
    pub relays: Vec<ComparedRelay>,
    pub workloads: Vec<ComparedWorkload>,
    /// What was not clean before the first counted round.
    pub warm_up_problems: Vec<String>,
    /// A signal ended the comparison early.
    pub interrupted: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedRelay {
    pub name: String,
    /// With its placeholders.
    pub command: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedWorkload {
    pub name: String,
    /// For people: how many messages, how large, over what.
    pub description: String,
    /// Every counted run, in the order in which they took place.
    pub runs: Vec<ComparedRun>,
    pub figures: Vec<ComparedFigure>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedRun {
    /// From 1; 0 is the warm-up.
    pub round: u32,
    /// Index of the relay in `Comparison::relays`.
    pub relay: usize,
    pub clean: bool,
    pub problems: Vec<String>,
    pub report: Report,
}

/// One figure of all relays under one workload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ComparedFigure {
    pub key: String,
    pub label: String,
    pub unit: String,
    pub lower_is_better: bool,
    /// One for each of `Comparison::relays`.
    pub relays: Vec<FigureOfRelay>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FigureOfRelay {
    /// `None` where no run had this figure.
    pub spread: Option<Spread>,
    /// This relay by the base, in the same round; `None` for the base itself.
    pub ratio: Option<Spread>,
}

/// A figure that is compared, and how it is found in a report.
struct Figure {
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    lower_is_better: bool,
    of: fn(&Report) -> Option<f64>,
}

const fn cost(
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    of: fn(&Report) -> Option<f64>,
) -> Figure {
    Figure {
        key,
        label,
        unit,
        lower_is_better: true,
        of,
    }
}

const fn gain(
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    of: fn(&Report) -> Option<f64>,
) -> Figure {
    Figure {
        lower_is_better: false,
        ..cost(key, label, unit, of)
    }
}

const FIGURES: &[Figure] = &[
    cost("cpu_us_per_message", "CPU per message", "us", |r| {
        r.rates.relay_cpu_us_per_message
    }),
    cost("user_us_per_message", "  user", "us", |r| {
        Some(r.relay?.user_us as f64 / messages(r)?)
    }),
    cost("system_us_per_message", "  system", "us", |r| {
        Some(r.relay?.system_us as f64 / messages(r)?)
    }),
    cost("pair_us_per_message", "CPU of source + sink", "us", |r| {
        pair_us(r)
    }),
    cost("cpu_by_pair", "CPU by source + sink's", "", |r| {
        Some(r.rates.relay_cpu_us_per_message? / pair_us(r)?)
    }),
    gain("accepted_per_second", "accepted", "1/s", |r| {
        Some(r.rates.accepted_per_second)
    }),
    gain("delivered_per_second", "delivered", "1/s", |r| {
        Some(r.rates.delivered_per_second)
    }),
    cost("to_250_p50_ms", "to 250, p50", "ms", |r| {
        some_ms(&r.source.to_250_us, |times| times.p50)
    }),
    cost("to_250_p99_ms", "to 250, p99", "ms", |r| {
        some_ms(&r.source.to_250_us, |times| times.p99)
    }),
    cost("end_to_end_p50_ms", "end to end, p50", "ms", |r| {
        some_ms(&r.sink.end_to_end_us, |times| times.p50)
    }),
    cost("end_to_end_p99_ms", "end to end, p99", "ms", |r| {
        some_ms(&r.sink.end_to_end_us, |times| times.p99)
    }),
    cost("peak_memory_mb", "peak memory", "MB", |r| {
        Some(r.relay?.peak_rss_bytes as f64 / 1e6)
    }),
    cost("handshakes_in", "handshakes in", "/message", |r| {
        Some(r.rates.handshakes_in_per_message)
    }),
    cost("handshakes_out", "handshakes out", "/message", |r| {
        Some(r.rates.handshakes_out_per_message)
    }),
];

/// `None`: no message, so that nothing is for each.
fn messages(report: &Report) -> Option<f64> {
    let accepted = report.source.accepted;
    (accepted > 0).then_some(accepted as f64)
}

fn some_ms(times: &Percentiles, us: fn(&Percentiles) -> u64) -> Option<f64> {
    (times.count > 0).then(|| us(times) as f64 / 1e3)
}

/// The load generator's own CPU, which tells how fast the machine was just then.
fn pair_us(report: &Report) -> Option<f64> {
    let rates = &report.rates;
    let both = rates.source_cpu_us_per_message + rates.sink_cpu_us_per_message;
    messages(report).map(|_| both)
}

impl ComparedWorkload {
    /// What each run of this relay has for the figure of this key, with its round.
    pub fn values(&self, key: &str, relay: usize) -> Vec<(u32, f64)> {
        let figure = FIGURES.iter().find(|figure| figure.key == key);
        let runs = self.runs.iter().filter(|run| run.relay == relay);
        runs.filter_map(|run| Some((run.round, (figure?.of)(&run.report)?)))
            .collect()
    }

    fn finish(&mut self, relays: usize) {
        self.figures = FIGURES
            .iter()
            .map(|figure| ComparedFigure {
                key: figure.key.to_string(),
                label: figure.label.to_string(),
                unit: figure.unit.to_string(),
                lower_is_better: figure.lower_is_better,
                relays: (0..relays)
                    .map(|relay| self.figure(figure, relay))
                    .collect(),
            })
            .collect();
    }

    fn figure(&self, figure: &Figure, relay: usize) -> FigureOfRelay {
        let value = |run: &ComparedRun| (figure.of)(&run.report);
        let of_relay = |relay: usize| self.runs.iter().filter(move |run| run.relay == relay);
        let pairs = of_relay(relay).map(|run| {
            let base = of_relay(0).find(|base| base.round == run.round);
            (value(run), base.and_then(value))
        });
        FigureOfRelay {
            spread: Spread::of(of_relay(relay).filter_map(value)),
            ratio: (relay != 0).then(|| Spread::of_ratios(pairs)).flatten(),
        }
    }
}

impl Comparison {
    /// Keeps a run under the workload of this index. Of the warm-up only its problems count.
    pub fn add(&mut self, workload: usize, run: ComparedRun) {
        if run.round > 0 {
            self.workloads[workload].runs.push(run);
        } else if !run.clean {
            let (relay, workload) = (&self.relays[run.relay], &self.workloads[workload]);
            let problems = run.problems.join("; ");
            let (relay, workload) = (&relay.name, &workload.name);
            self.warm_up_problems
                .push(format!("{relay}, {workload}, warm-up: {problems}"));
        }
    }

    /// Works out the figures, once all runs are in.
    pub fn finish(&mut self) {
        let relays = self.relays.len();
        for workload in &mut self.workloads {
            workload.finish(relays);
        }
    }

    /// Everybody ran, and every ledger is clean.
    pub fn is_clean(&self) -> bool {
        let mut runs = self.workloads.iter().flat_map(|workload| &workload.runs);
        let wanted = self.workloads.len() * self.relays.len() * self.rounds as usize;
        !self.interrupted
            && self.warm_up_problems.is_empty()
            && runs.clone().count() == wanted
            && runs.all(|run| run.clean)
    }

    fn write_workload(&self, f: &mut Formatter<'_>, workload: &ComparedWorkload) -> fmt::Result {
        let width = self.relays.iter().map(|relay| relay.name.len()).max();
        let width = width.unwrap_or(0).max(5);
        writeln!(f, "\n{}: {}", workload.name, workload.description)?;
        writeln!(
            f,
            "{:<32}{:width$} {:>10} {:>10} {:>10}   {:>8} {:>8} {:>8}",
            "", "relay", "median", "min", "max", "ratio", "min", "max"
        )?;
        for figure in &workload.figures {
            let mut label = format!("{} {}", figure.label, figure.unit);
            for (relay, of_relay) in self.relays.iter().zip(&figure.relays) {
                write!(f, "{label:<32}{:width$}", relay.name)?;
                write_spread(f, of_relay.spread, 10)?;
                if of_relay.ratio.is_some() {
                    write!(f, "  ")?;
                    write_spread(f, of_relay.ratio, 8)?;
                }
                writeln!(f)?;
                label.clear();
            }
        }
        Ok(())
    }
}

fn write_spread(f: &mut Formatter<'_>, spread: Option<Spread>, width: usize) -> fmt::Result {
    let Some(spread) = spread else {
        return write!(f, " {:>width$}", "-");
    };
    for value in [spread.median, spread.min, spread.max] {
        write!(f, " {:>width$}", short(value))?;
    }
    Ok(())
}

/// About four digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        size if size < 0.01 => format!("{value:.5}"),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.2}"),
        size if size < 10_000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} CPUs ({}), Linux {}; {} rounds after {} of warm-up, relays in turn; ratio: by {} in the same round",
            machine.cpus,
            machine.cpu,
            machine.kernel,
            self.rounds,
            self.warm_up,
            self.relays.first().map_or("", |relay| &relay.name),
        )?;
        for workload in &self.workloads {
            self.write_workload(f, workload)?;
        }
        for workload in &self.workloads {
            for run in workload.runs.iter().filter(|run| !run.clean) {
                let relay = &self.relays[run.relay].name;
                let problems = run.problems.join("; ");
                let name = &workload.name;
                writeln!(
                    f,
                    "NOT CLEAN   {relay}, {name}, round {}: {problems}",
                    run.round
                )?;
            }
        }
        for problem in &self.warm_up_problems {
            writeln!(f, "NOT CLEAN   {problem}")?;
        }
        if self.interrupted {
            writeln!(f, "NOT CLEAN   a signal ended the comparison early")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::relay::RelayFigures;

    /// A run of 10 messages that cost the relay so much CPU in all.
    fn run(round: u32, relay: usize, user_us: u64) -> ComparedRun {
        let mut report = Report::default();
        report.source.accepted = 10;
        report.source.cpu_us = 600;
        report.sink.cpu_us = 400;
        report.relay = Some(RelayFigures {
            user_us,
            system_us: 0,
            peak_rss_bytes: 1_000_000,
        });
        report.finish();
        ComparedRun {
            round,
            relay,
            clean: report.is_clean(),
            problems: report.problems(),
            report,
        }
    }

    fn comparison(runs: Vec<ComparedRun>) -> Comparison {
        let mut workload = ComparedWorkload {
            name: "warm".into(),
            runs,
            ..ComparedWorkload::default()
        };
        workload.finish(2);
        let relay = |name: &str| ComparedRelay {
            name: name.into(),
            ..ComparedRelay::default()
        };
        Comparison {
            rounds: 2,
            relays: vec![relay("old"), relay("new")],
            workloads: vec![workload],
            ..Comparison::default()
        }
    }

    #[test]
    fn medians_and_ratios_of_two_relays() {
        // The second round was slow, and its order another one.
        let runs = vec![
            run(1, 0, 1000),
            run(1, 1, 500),
            run(2, 1, 2000),
            run(2, 0, 4000),
        ];
        let comparison = comparison(runs);
        let figure = |key: &str| {
            let figures = &comparison.workloads[0].figures;
            figures.iter().find(|figure| figure.key == key).unwrap()
        };
        let cpu = &figure("cpu_us_per_message").relays;
        assert_eq!(cpu[0].spread.unwrap().median, 250.0);
        assert!(cpu[0].ratio.is_none());
        let ratio = cpu[1].ratio.unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.5, 0.5, 0.5));
        // 100 us per message of the pair.
        assert_eq!(figure("cpu_by_pair").relays[0].spread.unwrap().min, 1.0);
        assert!(comparison.is_clean());
        assert!(comparison.to_string().contains("new"), "{comparison}");
    }

    #[test]
    fn canary_one_loss_or_one_missing_run_is_not_clean() {
        let mut lossy = run(2, 1, 1);
        lossy.report.ledger.lost = 1;
        lossy.clean = lossy.report.is_clean();
        lossy.problems = lossy.report.problems();
        let whole = vec![run(1, 0, 1), run(1, 1, 1), run(2, 0, 1)];
        let comparison_with_loss = comparison([whole.clone(), vec![lossy]].concat());
        assert!(!comparison_with_loss.is_clean());
        let text = comparison_with_loss.to_string();
        assert!(text.contains("NOT CLEAN   new, warm, round 2"), "{text}");
        assert!(!comparison(whole).is_clean());
    }
}
