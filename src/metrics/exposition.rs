//! A snapshot in the text format that Prometheus reads (version 0.0.4).
//!
//! `docs/counters.md` has the name of each item there: counters end in `_total`, and times are in seconds.

use super::{Distribution, Item, Snapshot, Value};
use std::fmt::{self, Write};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of a histogram's buckets, in microseconds: from what a commit takes to what mail may wait.
const BOUNDS_US: [u64; 20] = [
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    7_200_000_000,
    43_200_000_000,
];

/// Before all names.
const PREFIX: &str = "ringpost_";

/// What an item is called there.
pub fn name(item: &Item<'_>) -> String {
    match item.value {
        Value::Counter(_) => format!("{PREFIX}{}_total", item.name),
        Value::Gauge(_) => format!("{PREFIX}{}", item.name),
        Value::Histogram { .. } => {
            let time = item.name.strip_suffix("_us").unwrap_or(item.name);
            format!("{PREFIX}{time}_seconds")
        }
    }
}

/// All items, and which program it is that runs since when.
pub fn text(snapshot: &Snapshot, version: &str, started_s: f64) -> String {
    let mut text = String::with_capacity(16 << 10);
    // Writing to a string does not fail.
    let _ = write_all(&mut text, snapshot, version, started_s);
    text
}

fn write_all(text: &mut String, snapshot: &Snapshot, version: &str, started_s: f64) -> fmt::Result {
    head(
        text,
        "ringpost_build_info",
        "Which program this is.",
        "gauge",
    )?;
    writeln!(text, "ringpost_build_info{{version=\"{version}\"}} 1")?;
    let name_of_start = "ringpost_start_time_seconds";
    head(
        text,
        name_of_start,
        "When it started, in seconds since 1970.",
        "gauge",
    )?;
    writeln!(text, "{name_of_start} {started_s}")?;
    for item in snapshot.items() {
        let name = name(&item);
        match item.value {
            Value::Counter(value) => {
                head(text, &name, item.help, "counter")?;
                writeln!(text, "{name} {value}")?;
            }
            Value::Gauge(value) => {
                head(text, &name, item.help, "gauge")?;
                writeln!(text, "{name} {value}")?;
            }
            Value::Histogram { values, .. } => {
                head(text, &name, &in_seconds(item.help), "histogram")?;
                histogram(text, &name, values)?;
            }
        }
    }
    Ok(())
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) -> fmt::Result {
    let help = help.replace('\\', "\\\\");
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn in_seconds(help: &str) -> String {
    help.replace("Microseconds", "Seconds")
}

fn histogram(text: &mut String, name: &str, values: &Distribution) -> fmt::Result {
    for bound in BOUNDS_US {
        let count = values.at_most(bound);
        writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", seconds(bound))?;
    }
    let count = values.count();
    writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}")?;
    writeln!(
        text,
        "{name}_sum {}\n{name}_count {count}",
        seconds(values.sum)
    )
}

fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::CoreMetrics;
    use super::*;

    fn said(core: &CoreMetrics) -> String {
        text(&Snapshot::of([core]), "1.2.3", 1.5)
    }

    #[test]
    fn each_kind_has_its_form() {
        let core = CoreMetrics::default();
        core.messages_accepted.add(3);
        core.sessions_open.set(2);
        core.accept_us.record(700);
        core.accept_us.record(1 << 36);
        let said = said(&core);
        for lines in [
            "# HELP ringpost_messages_accepted_total Messages that got their 250.\n\
             # TYPE ringpost_messages_accepted_total counter\nringpost_messages_accepted_total 3\n",
            "# TYPE ringpost_sessions_open gauge\nringpost_sessions_open 2\n",
            "# HELP ringpost_accept_seconds Seconds from the end of a message's data to its 250.\n\
             # TYPE ringpost_accept_seconds histogram\nringpost_accept_seconds_bucket{le=\"0.00025\"} 0\n",
            "ringpost_accept_seconds_bucket{le=\"0.001\"} 1\n",
            "ringpost_accept_seconds_bucket{le=\"43200\"} 1\n\
             ringpost_accept_seconds_bucket{le=\"+Inf\"} 2\n",
            "ringpost_accept_seconds_count 2\n",
            "ringpost_build_info{version=\"1.2.3\"} 1\n",
            "ringpost_start_time_seconds 1.5\n",
        ] {
            assert!(said.contains(lines), "{lines}\n\n{said}");
        }
    }

    #[test]
    fn a_bound_counts_no_value_above_it() {
        let core = CoreMetrics::default();
        for bound in BOUNDS_US {
            core.accept_us.record(bound + 1);
        }
        let snapshot = Snapshot::of([&core]);
        for (place, bound) in BOUNDS_US.into_iter().enumerate() {
            assert!(snapshot.accept_us.at_most(bound) <= place as u64, "{bound}");
        }
    }
}
