//! The page of a ramp: times against the rate, and where they leave their bound.

use crate::figures::histogram::ms_of;
use crate::figures::ramp::{Ramp, Step};
use crate::figures::report::Report;
use crate::host::clock::rfc5322_date;
use crate::pages::plot::{Mark, Plot, Scale, Series, Shape, Tone, short_number, us_label};
use crate::pages::{Figure, Page, Tile, shell_words};
use crate::text::{decimal, grouped, rate_or_dash};

const WIDE: (u32, u32) = (1120, 360);
const HALF: (u32, u32) = (546, 250);
/// The highest rate by the lowest, from which the axis is a logarithmic one.
const FAR: f64 = 20.0;

pub fn page(ramp: &Ramp) -> String {
    let machine = &ramp.machine;
    let title = if ramp.note.is_empty() {
        "Highest rate within bounds"
    } else {
        &ramp.note
    };
    let started = rfc5322_date(machine.started_unix_s);
    let (cpus, cpu) = (machine.cpus, &machine.cpu);
    let mut head = vec![started, format!("{cpus} CPUs ({cpu})")];
    let first = ramp.steps.first();
    head.extend(first.and_then(|step| step.report.relay_version.clone()));
    let mut page = Page::new(title, &head.join(" · "));
    page.verdict(&good_words(ramp), &problems(ramp));
    page.tiles(&tiles(ramp));
    page.section("Steps");
    page.plots(&[latency(ramp), delivered(ramp), cost(ramp)]);
    page.table(
        &[
            "messages/s",
            "to 250: p50 ms",
            "p99 ms",
            "end to end: p99 ms",
            "delivered/s",
            "CPU µs per message",
            "outcome",
        ],
        &ramp.steps.iter().map(row).collect::<Vec<_>>(),
    );
    page.section("Setting");
    let mut items = vec![
        ("kernel".to_string(), format!("Linux {}", machine.kernel)),
        (
            "load generator".to_string(),
            format!("ringpost-loadtest {}", ramp.version),
        ),
        ("each step".to_string(), format!("{} s", ramp.step_seconds)),
        ("bounds".to_string(), bounds(ramp)),
    ];
    let first = ramp.steps.first();
    let settings = first.into_iter().flat_map(|step| &step.report.settings);
    // Every step has a rate of its own.
    items.extend(settings.filter(|(name, _)| name != "load").cloned());
    page.list(&items);
    page.code(&shell_words(&ramp.command));
    page.finish()
}

fn best(ramp: &Ramp) -> Option<&Step> {
    ramp.steps.get(ramp.best?)
}

fn bounds(ramp: &Ramp) -> String {
    let bounds = [
        ("to 250", ramp.p99_ms_max),
        ("end to end", ramp.end_to_end_p99_ms_max),
    ];
    let given = bounds
        .iter()
        .filter_map(|(what, bound)| Some((what, (*bound)?)));
    let words: Vec<String> = given
        .map(|(what, ms)| format!("p99 {what} within {ms} ms"))
        .collect();
    words.join(", ")
}

fn good_words(ramp: &Ramp) -> String {
    best(ramp).map_or(String::new(), |step| {
        format!(
            "{}{} messages/s with {}",
            ramp.at_least(),
            grouped(step.rate.round() as u64),
            bounds(ramp)
        )
    })
}

fn problems(ramp: &Ramp) -> Vec<String> {
    let mut problems = Vec::new();
    match ramp.nothing_taken() {
        Some(step) => problems.push(step.nothing_was_taken()),
        None if ramp.best.is_none() => problems.push(format!("no rate kept {}", bounds(ramp))),
        None => {}
    }
    if ramp.interrupted {
        problems.push("a signal ended the ramp early".to_string());
    }
    problems
}

fn tiles(ramp: &Ramp) -> Vec<Tile> {
    let Some(step) = best(ramp) else {
        return Vec::new();
    };
    let (to_250, end_to_end) = (
        &step.report.source.to_250_us,
        &step.report.sink.end_to_end_us,
    );
    let mut tiles = vec![
        Tile {
            what: "Highest rate that held",
            value: grouped(step.rate.round() as u64),
            unit: "messages/s",
            detail: match ramp.is_open_ended() {
                true => format!("at least: no step failed; {}", bounds(ramp)),
                false => bounds(ramp),
            },
            tone: Tone::Ink,
        },
        Tile {
            what: "There, p99 to 250",
            value: ms_of(to_250, to_250.p99),
            unit: "ms",
            detail: format!("end to end {} ms", ms_of(end_to_end, end_to_end.p99)),
            tone: Tone::In,
        },
    ];
    tiles.extend(step.report.rates.relay_cpu_us_per_message.map(|us| Tile {
        what: "Relay: CPU per message",
        value: decimal(us),
        unit: "µs",
        detail: String::new(),
        tone: Tone::Relay,
    }));
    tiles
}

/// One point for each step that has the value, by rate.
fn by_rate(ramp: &Ramp, value: impl Fn(&Report) -> Option<f64>) -> Vec<(f64, f64)> {
    let steps = ramp.steps.iter();
    let mut points: Vec<(f64, f64)> = steps
        .filter_map(|step| Some((step.rate, value(&step.report)?)))
        .collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

fn line_and_dots(name: &str, tone: Tone, points: Vec<(f64, f64)>) -> [Series; 2] {
    let dots = Series::line("", tone, points.clone()).shaped(Shape::Dots);
    [Series::line(name, tone, points), dots]
}

/// A search that went far up or down is shown by doublings.
fn rates(ramp: &Ramp) -> Scale {
    let rates = ramp.steps.iter().map(|step| step.rate);
    let (least, most) = (
        rates.clone().fold(f64::INFINITY, f64::min),
        rates.clone().fold(0.0, f64::max),
    );
    if most > least * FAR {
        Scale::log(rates, short_number)
    } else {
        Scale::from_zero(rates, short_number)
    }
}

fn plot(ramp: &Ramp, (width, height): (u32, u32), y: Scale, series: Vec<Series>) -> Plot {
    Plot {
        width,
        height,
        x: rates(ramp),
        y,
        series,
        marks_x: Vec::new(),
        marks_y: Vec::new(),
    }
}

fn latency(ramp: &Ramp) -> Figure {
    let p99 = |times: &crate::figures::histogram::Percentiles| {
        (times.count > 0).then_some(times.p99 as f64)
    };
    let end_to_end = by_rate(ramp, |report| p99(&report.sink.end_to_end_us));
    let to_250 = by_rate(ramp, |report| p99(&report.source.to_250_us));
    let bounds = [
        ("to 250", ramp.p99_ms_max),
        ("end to end", ramp.end_to_end_p99_ms_max),
    ];
    let bounds = bounds
        .into_iter()
        .filter_map(|(what, ms)| Some((what, ms? * 1e3)));
    let values = end_to_end.iter().chain(&to_250).map(|&(_, us)| us);
    let y = Scale::log(values.chain(bounds.clone().map(|(_, us)| us)), us_label);
    let series = [
        line_and_dots("end to end", Tone::Out, end_to_end),
        line_and_dots("to 250", Tone::In, to_250),
    ];
    let mut plot = plot(ramp, WIDE, y, series.concat());
    plot.marks_y = bounds
        .map(|(what, us)| Mark {
            at: us,
            label: format!("bound {what}: {}", us_label(us)),
            tone: Tone::Problem,
        })
        .collect();
    plot.marks_x = best(ramp)
        .map(|step| Mark {
            at: step.rate,
            label: format!(
                "held: {}{}/s",
                ramp.at_least(),
                grouped(step.rate.round() as u64)
            ),
            tone: Tone::Ink,
        })
        .into_iter()
        .collect();
    Figure {
        title: "99th percentile".to_string(),
        caption: "against messages per second asked for".to_string(),
        wide: true,
        plot,
    }
}

fn delivered(ramp: &Ramp) -> Figure {
    let points = by_rate(ramp, |report| Some(report.rates.delivered_per_second));
    let asked: Vec<(f64, f64)> = points.iter().map(|&(rate, _)| (rate, rate)).collect();
    let values = points.iter().chain(&asked).map(|&(_, rate)| rate);
    let y = Scale::from_zero(values, short_number);
    let asked = Series::line("asked for", Tone::Muted, asked).shaped(Shape::Dashed);
    let mut series = vec![asked];
    series.extend(line_and_dots("delivered", Tone::Out, points));
    Figure {
        title: "Delivered".to_string(),
        caption: "messages per second, against those asked for".to_string(),
        wide: false,
        plot: plot(ramp, HALF, y, series),
    }
}

fn cost(ramp: &Ramp) -> Figure {
    let points = by_rate(ramp, |report| report.rates.relay_cpu_us_per_message);
    let y = Scale::from_zero(points.iter().map(|&(_, us)| us), short_number);
    Figure {
        title: "CPU per message".to_string(),
        caption: "µs of the relay, against messages per second asked for".to_string(),
        wide: false,
        plot: plot(
            ramp,
            HALF,
            y,
            line_and_dots("relay", Tone::Relay, points).to_vec(),
        ),
    }
}

fn row(step: &Step) -> Vec<String> {
    let report = &step.report;
    let (to_250, end_to_end) = (&report.source.to_250_us, &report.sink.end_to_end_us);
    let cpu = report.rates.relay_cpu_us_per_message;
    vec![
        grouped(step.rate.round() as u64),
        ms_of(to_250, to_250.p50),
        ms_of(to_250, to_250.p99),
        ms_of(end_to_end, end_to_end.p99),
        rate_or_dash(report.rates.delivered_per_second),
        cpu.map_or(String::new(), decimal),
        if step.reasons.is_empty() {
            "held".to_string()
        } else {
            step.reasons.join("; ")
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rate: f64, p99: u64) -> Step {
        let mut step = Step {
            rate,
            ..Step::default()
        };
        step.report.source.to_250_us.count = 10;
        step.report.source.to_250_us.p99 = p99;
        step.report.sink.end_to_end_us = step.report.source.to_250_us.clone();
        step.report.rates.delivered_per_second = rate / 3.0;
        step
    }

    #[test]
    fn the_page_from_the_json_is_the_page_of_the_ramp() {
        let mut ramp = Ramp {
            p99_ms_max: Some(50.0),
            steps: vec![step(1000.0, 5_000), step(2000.0, 90_000)],
            best: Some(0),
            ..Ramp::default()
        };
        ramp.steps[1].reasons = vec!["to 250: <too> long".to_string()];
        let json = serde_json::to_vec(&ramp).unwrap();
        let again: Ramp = serde_json::from_slice(&json).unwrap();
        let html = page(&ramp);
        assert_eq!(html, page(&again));
        assert_eq!(html.matches("<figure").count(), 2, "no relay, no CPU");
        assert!(html.contains("&lt;too&gt;") && html.contains("bound to 250: 50 ms"));
    }

    #[test]
    fn a_ramp_without_steps_has_no_plot() {
        let html = page(&Ramp::default());
        assert!(!html.contains("<svg") && html.contains("no rate kept"));
    }
}
