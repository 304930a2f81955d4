//! The plots of a run: over its time, and of its latencies.

use crate::figures::histogram::Percentiles;
use crate::figures::report::Report;
use crate::figures::timeline::Sample;
use crate::pages::Figure;
use crate::pages::plot::{Mark, Plot, Scale, Series, Shape, Tone, short_number, us_label};
use crate::text::grouped;

const WIDE: (u32, u32) = (1120, 270);

const WIDE_LOW: (u32, u32) = (1120, 170);

const HALF: (u32, u32) = (546, 250);

/// Rates are taken over at least so long; CPU over longer, for the threads of the load generator
/// note theirs every 100 ms, and time of children that ended comes in ticks of 10 ms.
const RATE_SECONDS: f64 = 0.2;

const CPU_SECONDS: f64 = 0.5;

/// And over at least this share of the run, so that curves of long runs can be read.
const WINDOW_SHARE: f64 = 0.01;

/// The samples up to when nothing moved any more.
pub struct Active<'a> {
    samples: &'a [Sample],
    seconds: f64,
}

impl<'a> Active<'a> {
    pub fn of(report: &'a Report) -> Self {
        let samples = &report.timeline[..];
        let moved = samples.windows(2).rposition(|pair| {
            pair[0].accepted != pair[1].accepted || pair[0].arrived != pair[1].arrived
        });
        let samples = &samples[..moved.map_or(samples.len(), |index| index + 2)];
        Self {
            samples,
            seconds: samples.last().map_or(0.0, |sample| sample.seconds),
        }
    }

    /// Pairs of samples at least `seconds` apart, or less in a run that is too short for it: one
    /// pair for each sample, as far as there is one before it.
    fn pairs(&self, seconds: f64) -> Vec<(&'a Sample, &'a Sample)> {
        let apart = seconds
            .max(self.seconds * WINDOW_SHARE)
            .min(self.seconds / 4.0);
        let mut first = 0;
        let mut pairs = Vec::new();
        for now in self.samples {
            let is_far = |sample: &Sample| now.seconds - sample.seconds >= apart - 1e-9;
            while self.samples.get(first + 1).is_some_and(is_far) {
                first += 1;
            }
            let before = &self.samples[first];
            if is_far(before) && now.seconds > before.seconds {
                pairs.push((before, now));
            }
        }
        pairs
    }

    /// What `count` grows by in a second, at the middle of each pair of samples.
    fn rate(&self, seconds: f64, count: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
        let pairs = self.pairs(seconds).into_iter();
        pairs
            .map(|(before, now)| {
                let grown = count(now).saturating_sub(count(before)) as f64;
                (middle(before, now), grown / (now.seconds - before.seconds))
            })
            .collect()
    }

    fn values(&self, value: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
        let samples = self.samples.iter();
        samples
            .map(|sample| (sample.seconds, value(sample) as f64))
            .collect()
    }

    fn most(&self, value: impl Fn(&Sample) -> u64) -> u64 {
        self.samples.iter().map(value).max().unwrap_or(0)
    }

    fn any(&self, value: impl Fn(&Sample) -> u64) -> bool {
        self.most(value) > 0
    }
}

fn middle(before: &Sample, now: &Sample) -> f64 {
    (before.seconds + now.seconds) / 2.0
}

/// A plot over the time of the run, with its kills.
fn over_time(
    report: &Report,
    timeline: &Active<'_>,
    (width, height): (u32, u32),
    series: Vec<Series>,
    label: impl Fn(f64) -> String,
) -> Plot {
    let series: Vec<Series> = series.into_iter().filter(|s| s.points.len() > 1).collect();
    let values = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|&(_, y)| y);
    Plot {
        width,
        height,
        x: Scale::time(timeline.seconds),
        y: Scale::from_zero(values, label),
        marks_x: kill_marks(report),
        marks_y: Vec::new(),
        series,
    }
}

fn kill_marks(report: &Report) -> Vec<Mark> {
    let rounds = report.kills.iter().flat_map(|kills| &kills.rounds);
    let timed = rounds.filter(|round| round.seconds > 0.0);
    timed
        .map(|round| Mark {
            at: round.seconds,
            label: format!("kill {}", round.round),
            tone: Tone::Problem,
        })
        .collect()
}

pub fn throughput(report: &Report, timeline: &Active<'_>) -> Figure {
    // Old files count recipients only.
    let messages = timeline.any(|sample| sample.messages_accepted);
    let accepted = |s: &Sample| {
        if messages {
            s.messages_accepted
        } else {
            s.accepted
        }
    };
    let arrived = |s: &Sample| {
        if messages {
            s.messages_arrived
        } else {
            s.arrived
        }
    };
    let series = vec![
        Series::line("accepted", Tone::In, timeline.rate(RATE_SECONDS, accepted)),
        Series::line("delivered", Tone::Out, timeline.rate(RATE_SECONDS, arrived)),
    ];
    let what = if messages { "messages" } else { "recipients" };
    Figure {
        title: "Throughput".to_string(),
        caption: format!("{what} per second"),
        wide: true,
        plot: over_time(report, timeline, WIDE, series, short_number),
    }
}

pub fn queue(report: &Report, timeline: &Active<'_>) -> Figure {
    let points = timeline.values(|sample| sample.outstanding);
    let mut series = vec![Series::line("", Tone::Queue, points).shaped(Shape::Area)];
    series.retain(|_| timeline.any(|sample| sample.outstanding));
    Figure {
        title: "Queue".to_string(),
        caption: format!(
            "recipients accepted but not delivered yet; at most {}",
            grouped(timeline.most(|sample| sample.outstanding))
        ),
        wide: true,
        plot: over_time(report, timeline, WIDE_LOW, series, short_number),
    }
}

pub fn percentile_curves(report: &Report) -> Figure {
    let (to_250, end_to_end) = (&report.source.to_250_us, &report.sink.end_to_end_us);
    let curves = [
        ("end to end", Tone::Out, end_to_end),
        ("to 250", Tone::In, to_250),
    ];
    let series: Vec<Series> = curves
        .into_iter()
        .filter(|(_, _, times)| times.curve.len() > 1)
        .map(|(name, tone, times)| Series::line(name, tone, curve(times)))
        .collect();
    let values = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|&(_, us)| us);
    Figure {
        title: "Distribution".to_string(),
        caption: "so many messages took at most so long".to_string(),
        wide: false,
        plot: Plot {
            width: HALF.0,
            height: HALF.1,
            x: Scale::percentiles(to_250.count.max(end_to_end.count)),
            y: Scale::log(values, us_label),
            series,
            marks_x: Vec::new(),
            marks_y: Vec::new(),
        },
    }
}

/// A curve ends where one more message would be needed to tell the next share: the longest time
/// has the share `1 - 1/count`.
fn curve(times: &Percentiles) -> Vec<(f64, f64)> {
    let last = 1.0 - 1.0 / times.count.max(1) as f64;
    let below = times.curve.iter().filter(|(share, _)| *share < last);
    let points = below.map(|&(share, us)| (share, us as f64));
    points.chain([(last, times.max as f64)]).collect()
}

pub fn p99_over_time(report: &Report, timeline: &Active<'_>) -> Figure {
    let points = |value: fn(&Sample) -> u64| -> Vec<(f64, f64)> {
        let points = timeline.values(value).into_iter();
        points
            .map(|(seconds, us)| (seconds, if us > 0.0 { us } else { f64::NAN }))
            .collect()
    };
    let series = vec![
        Series::line(
            "end to end",
            Tone::Out,
            points(|sample| sample.end_to_end_p99_us),
        ),
        Series::line("to 250", Tone::In, points(|sample| sample.to_250_p99_us)),
    ];
    let values: Vec<f64> = series
        .iter()
        .flat_map(|s| &s.points)
        .map(|&(_, us)| us)
        .collect();
    let mut plot = over_time(report, timeline, HALF, series, short_number);
    plot.y = Scale::log(values.into_iter(), us_label);
    Figure {
        title: "99th percentile".to_string(),
        caption: "of the messages of each moment".to_string(),
        wide: false,
        plot,
    }
}

/// Series of what used CPU: the relay, if it is known, source and sink.
fn by_process(
    report: &Report,
    timeline: &Active<'_>,
    points: impl Fn(&dyn Fn(&Sample) -> u64) -> Vec<(f64, f64)>,
) -> Vec<Series> {
    let mut series = Vec::new();
    if !report.direct && timeline.any(|sample| sample.relay_cpu_us) {
        let relay = points(&|sample| sample.relay_cpu_us);
        series.push(Series::line("relay", Tone::Relay, relay));
    }
    let source = points(&|sample| sample.source_cpu_us);
    series.push(Series::line("source", Tone::In, source));
    series.push(Series::line(
        "sink",
        Tone::Out,
        points(&|sample| sample.sink_cpu_us),
    ));
    series
}

pub fn cores(report: &Report, timeline: &Active<'_>) -> Figure {
    let points = |count: &dyn Fn(&Sample) -> u64| {
        let mut points = timeline.rate(CPU_SECONDS, count);
        points
            .iter_mut()
            .for_each(|(_, us_per_second)| *us_per_second /= 1e6);
        points
    };
    let series = by_process(report, timeline, points);
    Figure {
        title: "CPU".to_string(),
        caption: format!("cores in use, of {}", report.machine.cpus),
        wide: false,
        plot: over_time(report, timeline, HALF, series, short_number),
    }
}

pub fn cpu_per_message(report: &Report, timeline: &Active<'_>) -> Figure {
    let pairs = timeline.pairs(CPU_SECONDS);
    // A message is half done when it is accepted, and done when all its recipients have it.
    let recipients =
        report.ledger.accepted.max(1) as f64 / (report.source.accepted as f64).max(1.0);
    let done = |(before, now): &(&Sample, &Sample)| {
        let halves = |sample: &Sample| sample.accepted + sample.arrived;
        halves(now).saturating_sub(halves(before)) as f64 / 2.0 / recipients
    };
    let most = pairs.iter().map(done).fold(0.0, f64::max);
    let points = |count: &dyn Fn(&Sample) -> u64| -> Vec<(f64, f64)> {
        let pairs = pairs.iter().copied();
        pairs
            .map(|(before, now)| {
                let used = count(now).saturating_sub(count(before)) as f64;
                let done = done(&(before, now));
                // Where next to nothing moved, the share of idle costs is no message's.
                let is_busy = done > most / 20.0;
                (
                    middle(before, now),
                    if is_busy { used / done } else { f64::NAN },
                )
            })
            .collect()
    };
    let series = by_process(report, timeline, points);
    Figure {
        title: "CPU per message".to_string(),
        caption: "µs, by messages accepted and delivered meanwhile".to_string(),
        wide: false,
        plot: over_time(report, timeline, HALF, series, short_number),
    }
}

pub fn memory(report: &Report, timeline: &Active<'_>) -> Figure {
    let mut series = Vec::new();
    if timeline.any(|sample| sample.relay_rss_bytes) {
        let mut points = timeline.values(|sample| sample.relay_rss_bytes);
        points.iter_mut().for_each(|(_, bytes)| *bytes /= 1e6);
        series.push(Series::line("", Tone::Relay, points).shaped(Shape::Area));
    }
    Figure {
        title: "Memory".to_string(),
        caption: "MB resident, all processes of the relay".to_string(),
        wide: true,
        plot: over_time(report, timeline, WIDE_LOW, series, short_number),
    }
}

pub fn connections(report: &Report, timeline: &Active<'_>) -> Figure {
    let rate = |count: fn(&Sample) -> u64| timeline.rate(RATE_SECONDS, count);
    let mut series = Vec::new();
    if timeline.any(|sample| sample.connections_in + sample.connections_out) {
        series.push(Series::line(
            "in",
            Tone::In,
            rate(|sample| sample.connections_in),
        ));
        series.push(Series::line(
            "out",
            Tone::Out,
            rate(|sample| sample.connections_out),
        ));
    }
    Figure {
        title: "Connections".to_string(),
        caption: "new ones per second, into and out of the relay".to_string(),
        wide: false,
        plot: over_time(report, timeline, HALF, series, short_number),
    }
}

pub fn handshakes(report: &Report, timeline: &Active<'_>) -> Figure {
    type Count = fn(&Sample) -> u64;
    let counts: [(&str, Tone, Shape, Count); 4] = [
        ("in, full", Tone::In, Shape::Line, |s| s.handshakes_in_full),
        ("in, resumed", Tone::In, Shape::Dashed, |s| {
            s.handshakes_in_resumed
        }),
        ("out, full", Tone::Out, Shape::Line, |s| {
            s.handshakes_out_full
        }),
        ("out, resumed", Tone::Out, Shape::Dashed, |s| {
            s.handshakes_out_resumed
        }),
    ];
    let made = counts
        .into_iter()
        .filter(|(_, _, _, count)| timeline.any(count));
    let series = made
        .map(|(name, tone, shape, count)| {
            Series::line(name, tone, timeline.rate(RATE_SECONDS, count)).shaped(shape)
        })
        .collect();
    Figure {
        title: "TLS handshakes".to_string(),
        caption: "per second; dashed: resumed".to_string(),
        wide: false,
        plot: over_time(report, timeline, HALF, series, short_number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::run::tests::report;

    #[test]
    fn the_time_after_the_last_arrival_is_left_out() {
        let mut report = report();
        let last = *report.timeline.last().unwrap();
        report.timeline.extend((20..60).map(|tenth| Sample {
            seconds: f64::from(tenth) / 10.0,
            ..last
        }));
        let timeline = Active::of(&report);
        assert_eq!(timeline.seconds, 1.9);
        let rate = timeline.rate(0.2, |sample| sample.accepted);
        assert!(rate.iter().all(|&(_, rate)| (rate - 1_000.0).abs() < 1e-6));
    }
}
