//! The page of a comparison: every round of every relay as a dot, and the ratios to the first
//! relay with their range.

use crate::figures::comparison::{ComparedFigure, ComparedWorkload, Comparison};
use crate::figures::spread::Spread;
use crate::host::clock::rfc5322_date;
use crate::pages::plot::{Mark, Plot, Scale, Series, Shape, Tone, short_number};
use crate::pages::{Figure, Page, shell_words};

const WIDTH: u32 = 546;
/// Pixels for one relay, and for the axis.
const ROW: u32 = 34;
const AXIS: u32 = 50;
const NAME_CHARS: usize = 11;
/// Figures that get plots, and their short names; the tables have all of them.
const PLOTTED: [(&str, &str); 4] = [
    ("cpu_us_per_message", "CPU"),
    ("delivered_per_second", "delivered"),
    ("to_250_p99_ms", "p99 to 250"),
    ("peak_memory_mb", "memory"),
];

pub fn page(comparison: &Comparison) -> String {
    let machine = &comparison.machine;
    let names: Vec<&str> = comparison
        .relays
        .iter()
        .map(|relay| &relay.name[..])
        .collect();
    let title = if comparison.note.is_empty() {
        names.join(", ")
    } else {
        comparison.note.clone()
    };
    let started = rfc5322_date(machine.started_unix_s);
    let (cpus, cpu, rounds) = (machine.cpus, &machine.cpu, comparison.rounds);
    let mut subtitle = format!("{started} · {rounds} rounds, relays in turn · {cpus} CPUs ({cpu})");
    for (relay, version) in versions(comparison) {
        subtitle.push_str(&format!(" · {relay}: {version}"));
    }
    let mut page = Page::new(&title, &subtitle);
    page.verdict(
        "Clean: in every run each accepted recipient was delivered once and intact.",
        &problems(comparison),
    );
    let ratio_axis = ratio_axis(comparison);
    for workload in &comparison.workloads {
        page.section(&workload.name);
        page.paragraph(&workload.description);
        let mut figures: Vec<Figure> = plotted(workload)
            .map(|(figure, _)| dots(workload, figure, &names))
            .collect();
        figures.extend((1..names.len()).map(|relay| ratios(workload, relay, &names, &ratio_axis)));
        page.plots(&figures);
        page.table(&heads(&names), &rows(workload, &names));
    }
    page.section("Setting");
    let mut items = vec![
        ("kernel".to_string(), format!("Linux {}", machine.kernel)),
        (
            "load generator".to_string(),
            format!("ringpost-loadtest {}", comparison.version),
        ),
        ("rounds".to_string(), rounds.to_string()),
        (
            "rounds of warm-up".to_string(),
            comparison.warm_up.to_string(),
        ),
    ];
    let relays = comparison.relays.iter();
    items.extend(relays.map(|relay| (relay.name.clone(), relay.command.clone())));
    page.list(&items);
    page.code(&shell_words(&comparison.command));
    page.finish()
}

fn problems(comparison: &Comparison) -> Vec<String> {
    let mut problems = comparison.warm_up_problems.clone();
    for workload in &comparison.workloads {
        for run in workload.runs.iter().filter(|run| !run.clean) {
            let relay = comparison
                .relays
                .get(run.relay)
                .map_or("", |relay| &relay.name);
            let what = run.problems.join("; ");
            problems.push(format!(
                "{relay}, {}, round {}: {what}",
                workload.name, run.round
            ));
        }
    }
    if comparison.interrupted {
        problems.push("a signal ended the comparison early".to_string());
    }
    if problems.is_empty() && !comparison.is_clean() {
        problems.push("not every run took place".to_string());
    }
    problems
}

/// What the relays say they are, as far as they do.
fn versions(comparison: &Comparison) -> Vec<(&str, &str)> {
    let relays = comparison.relays.iter().enumerate();
    relays
        .filter_map(|(index, relay)| {
            let runs = comparison
                .workloads
                .iter()
                .flat_map(|workload| &workload.runs);
            let version = runs
                .filter(|run| run.relay == index)
                .find_map(|run| run.report.relay_version.as_deref())?;
            Some((&*relay.name, version))
        })
        .collect()
}

/// Colours go to relays in their order; with more of them than colours the rows tell them apart.
fn tone(relay: usize) -> Tone {
    [Tone::Relay, Tone::In, Tone::Out, Tone::Queue, Tone::Muted][relay.min(4)]
}

fn plotted(workload: &ComparedWorkload) -> impl Iterator<Item = (&ComparedFigure, &'static str)> {
    PLOTTED.iter().filter_map(|(key, short)| {
        let figure = workload.figures.iter().find(|figure| figure.key == *key)?;
        Some((figure, *short))
    })
}

/// One axis for all ratios of the page, so that they can be compared by eye.
fn ratio_axis(comparison: &Comparison) -> Scale {
    let ratios = comparison.workloads.iter().flat_map(|workload| {
        let figures = plotted(workload);
        figures.flat_map(|(figure, _)| figure.relays.iter().skip(1).filter_map(|r| r.ratio))
    });
    let ends = ratios.flat_map(|ratio| [ratio.min, ratio.max]);
    Scale::log(ends.chain([1.0]), short_number)
}

/// Medians of a relay's ratios to the first one, and how far they lie apart.
fn ratios(workload: &ComparedWorkload, relay: usize, names: &[&str], axis: &Scale) -> Figure {
    let known: Vec<(Spread, &str)> = plotted(workload)
        .filter_map(|(figure, short)| Some((figure.relays.get(relay)?.ratio?, short)))
        .collect();
    let mut series = Vec::new();
    for (index, (ratio, short)) in known.iter().enumerate() {
        let row = (known.len() - 1 - index) as f64;
        let label = format!("{short}  {}", number(ratio.median));
        let range = vec![(ratio.min, row), (ratio.max, row)];
        series.push(Series::line(&label, tone(relay), range).shaped(Shape::Median));
        let median = vec![(ratio.median, row)];
        series.push(Series::line("", tone(relay), median).shaped(Shape::Dots));
    }
    let base = names.first().copied().unwrap_or_default();
    Figure {
        title: format!("{} / {base}", names[relay]),
        caption: "ratios within a round; dot: median, line: range".to_string(),
        wide: false,
        plot: Plot {
            width: WIDTH,
            height: AXIS + ROW * known.len() as u32,
            x: axis.clone(),
            y: Scale::rows(known.len()),
            series,
            marks_x: vec![Mark {
                at: 1.0,
                label: String::new(),
                tone: Tone::Muted,
            }],
            marks_y: Vec::new(),
        },
    }
}

fn dots(workload: &ComparedWorkload, figure: &ComparedFigure, names: &[&str]) -> Figure {
    let mut series = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let row = (names.len() - 1 - index) as f64;
        let values = workload.values(&figure.key, index).into_iter();
        let points: Vec<(f64, f64)> = values.map(|(_, value)| (value, row)).collect();
        series.push(Series::line("", tone(index), points).shaped(Shape::Dots));
        if let Some(spread) = figure.relays.get(index).and_then(|relay| relay.spread) {
            let label = format!("{}  {}", shortened(name), number(spread.median));
            let median = vec![(spread.median, row - 0.3), (spread.median, row + 0.3)];
            series.push(Series::line(&label, Tone::Ink, median).shaped(Shape::Median));
        }
    }
    let values = series
        .iter()
        .flat_map(|series| &series.points)
        .map(|&(value, _)| value);
    let x = Scale::from_zero(values, short_number);
    let better = if figure.lower_is_better {
        "less"
    } else {
        "more"
    };
    Figure {
        title: capitalised(figure.label.trim()),
        caption: format!("{}; line: median; {better} is better", unit(&figure.unit)),
        wide: false,
        plot: Plot {
            width: WIDTH,
            height: AXIS + ROW * names.len() as u32,
            x,
            y: Scale::rows(names.len()),
            series,
            marks_x: Vec::new(),
            marks_y: Vec::new(),
        },
    }
}

/// As much of a name as has room beside a plot.
fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name.to_string();
    }
    let begin: String = name.chars().take(NAME_CHARS - 1).collect();
    format!("{begin}…")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn unit(unit: &str) -> &str {
    match unit {
        "us" => "µs",
        "1/s" => "per second",
        "/message" => "per message",
        "" => "quotient",
        other => other,
    }
}

fn heads(names: &[&str]) -> Vec<String> {
    let mut heads = vec!["median (range)".to_string()];
    heads.extend(names.iter().map(|name| name.to_string()));
    let base = names.first().copied().unwrap_or_default();
    let others = names.iter().skip(1);
    heads.extend(others.map(|name| format!("{name} / {base}")));
    heads
}

/// Figures as rows; each relay's median and range, then the ratios of all but the first.
fn rows(workload: &ComparedWorkload, names: &[&str]) -> Vec<Vec<String>> {
    let figures = workload.figures.iter();
    let known = figures.filter(|figure| figure.relays.iter().any(|relay| relay.spread.is_some()));
    known
        .map(|figure| {
            let mut row = vec![format!("{} {}", figure.label.trim(), unit(&figure.unit))];
            row.extend(figure.relays.iter().map(|relay| words(relay.spread)));
            let others = figure.relays.iter().skip(1).take(names.len());
            row.extend(others.map(|relay| words(relay.ratio)));
            row
        })
        .collect()
}

fn words(spread: Option<Spread>) -> String {
    spread.map_or("–".to_string(), |spread| {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
        format!("{median} ({min}–{max})")
    })
}

/// About three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => crate::text::grouped(value.round() as u64),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        0.0 => "0".to_string(),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::comparison::{ComparedRelay, ComparedRun};

    fn comparison() -> Comparison {
        let relay = |name: &str| ComparedRelay {
            name: name.to_string(),
            ..ComparedRelay::default()
        };
        let mut comparison = Comparison {
            rounds: 2,
            relays: vec![relay("one"), relay("<two>")],
            workloads: vec![ComparedWorkload::default()],
            ..Comparison::default()
        };
        for (round, relay) in [(1, 0), (1, 1), (2, 1), (2, 0)] {
            let mut run = ComparedRun {
                round,
                relay,
                clean: true,
                ..ComparedRun::default()
            };
            run.report.source.to_250_us.count = 1;
            run.report.rates.relay_cpu_us_per_message = Some(100.1 * (relay + 1) as f64 / 3.0);
            run.report.rates.delivered_per_second = 1000.0 / f64::from(round);
            comparison.add(0, run);
        }
        comparison.finish();
        comparison
    }

    #[test]
    fn the_page_from_the_json_is_the_page_of_the_comparison() {
        let comparison = comparison();
        let json = serde_json::to_vec(&comparison).unwrap();
        let again: Comparison = serde_json::from_slice(&json).unwrap();
        let html = page(&comparison);
        assert_eq!(html, page(&again));
        assert!(html.contains("Clean: in every run"));
        assert!(html.contains("&lt;two&gt;") && !html.contains("<two>"));
        assert_eq!(
            html.matches("<circle").count(),
            3 * 4 + 2,
            "three figures of four runs, two ratios"
        );
        assert!(html.contains("2.00 (2.00–2.00)"), "{html}");
    }

    #[test]
    fn what_went_wrong_is_told() {
        let mut comparison = comparison();
        comparison.workloads[0].runs[1].clean = false;
        comparison.workloads[0].runs[1].problems = vec!["the ledger is not clean".to_string()];
        assert!(page(&comparison).contains("&lt;two&gt;, , round 1: the ledger is not clean"));
        assert!(!page(&Comparison::default()).contains("<svg"));
    }
}
