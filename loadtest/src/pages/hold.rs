//! The page of held connections: what each costs the relay, and who is served beside them.

use crate::figures::histogram::ms_of;
use crate::figures::hold::{HoldReport, Honest};
use crate::host::clock::rfc5322_date;
use crate::host::process::Resident;
use crate::pages::plot::{Plot, Scale, Series, Shape, Tone, short_number};
use crate::pages::{Figure, Page, Tile, shell_words};
use crate::text::{grouped, megabytes, rate};

const HALF: (u32, u32) = (546, 250);

pub fn page(report: &HoldReport) -> String {
    let machine = &report.machine;
    let title = match report.note.is_empty() {
        true => "Open connections",
        false => &report.note,
    };
    let mut head = vec![rfc5322_date(machine.started_unix_s)];
    head.extend(report.relay_version.clone());
    head.push(format!("{} CPUs ({})", machine.cpus, machine.cpu));
    let mut page = Page::new(title, &head.join(" · "));
    let good = format!(
        "Clean: all of {} connections came about and lived, and the client beside them was served.",
        grouped(report.opened)
    );
    page.verdict(&good, &report.problems());
    page.tiles(&tiles(report));
    page.section("Memory");
    page.plots(&[memory(report)]);
    page.table(
        &[
            "connections open",
            "resident",
            "private",
            "anonymous",
            "descriptors",
        ],
        &memory_rows(report),
    );
    page.section("A client beside them");
    page.table(
        &[
            "milliseconds",
            "messages",
            "to 250: p50",
            "p99",
            "to ready: p50",
            "p99",
            "failed",
        ],
        &[
            honest_row("nobody else", &report.honest_before),
            honest_row("beside them", &report.honest_beside),
        ],
    );
    setting(&mut page, report);
    page.finish()
}

fn tiles(report: &HoldReport) -> Vec<Tile> {
    let bytes = |bytes: f64| format!("{:.1}", bytes / 1e3);
    vec![
        Tile {
            what: "Connections",
            value: grouped(report.opened),
            unit: "open",
            detail: match rate(report.opened_per_second) {
                Some(rate) => format!("{rate}/s while they were opened"),
                None => String::new(),
            },
            tone: Tone::In,
        },
        Tile {
            what: "Memory of one",
            value: bytes(report.per_session.anonymous_half_to_all),
            unit: "KB",
            detail: format!(
                "half to all; none to all {} KB",
                bytes(report.per_session.anonymous_none_to_all)
            ),
            tone: Tone::Relay,
        },
        Tile {
            what: "CPU while they rest",
            value: format!("{:.3}", report.cores_held),
            unit: "cores",
            detail: format!("{:.3} with none", report.cores_before),
            tone: Tone::Relay,
        },
    ]
}

/// None, half, all: the third point would lie on the line of the first two if only connections cost.
fn memory(report: &HoldReport) -> Figure {
    let opened = report.opened as f64;
    let half = f64::from(report.asked / 2).min(opened);
    let steps = [
        (0.0, &report.memory.none),
        (half, &report.memory.half),
        (opened, &report.memory.all),
    ];
    let of = |bytes: fn(&Resident) -> u64| -> Vec<(f64, f64)> {
        let points = steps.iter();
        points
            .map(|(open, memory)| (*open, bytes(memory) as f64 / 1e6))
            .collect()
    };
    let lines = [
        ("resident", Tone::Muted, of(|memory| memory.rss_bytes)),
        (
            "anonymous",
            Tone::Relay,
            of(|memory| memory.anonymous_bytes),
        ),
    ];
    let values = lines.iter().flat_map(|(_, _, points)| points);
    let y = Scale::from_zero(values.map(|&(_, megabytes)| megabytes), short_number);
    let series = lines.iter().flat_map(|(name, tone, points)| {
        let dots = Series::line("", *tone, points.clone()).shaped(Shape::Dots);
        [Series::line(name, *tone, points.clone()), dots]
    });
    Figure {
        title: "Memory".to_string(),
        caption: "MB, against open connections".to_string(),
        wide: false,
        plot: Plot {
            width: HALF.0,
            height: HALF.1,
            x: Scale::from_zero([opened].into_iter(), short_number),
            y,
            series: series.collect(),
            marks_x: Vec::new(),
            marks_y: Vec::new(),
        },
    }
}

fn memory_rows(report: &HoldReport) -> Vec<Vec<String>> {
    let memory = &report.memory;
    [
        ("none", &memory.none),
        ("half", &memory.half),
        ("all", &memory.all),
        ("after", &memory.after),
    ]
    .map(|(open, memory)| {
        vec![
            open.to_string(),
            megabytes(memory.rss_bytes),
            megabytes(memory.private_bytes),
            megabytes(memory.anonymous_bytes),
            grouped(memory.descriptors),
        ]
    })
    .to_vec()
}

fn honest_row(when: &str, honest: &Honest) -> Vec<String> {
    let (sent, ready) = (&honest.to_250_us, &honest.to_ready_us);
    vec![
        when.to_string(),
        grouped(sent.count),
        ms_of(sent, sent.p50),
        ms_of(sent, sent.p99),
        ms_of(ready, ready.p50),
        ms_of(ready, ready.p99),
        grouped(honest.failed),
    ]
}

fn setting(page: &mut Page, report: &HoldReport) {
    page.section("Setting");
    page.list(&[
        (
            "kernel".to_string(),
            format!("Linux {}", report.machine.kernel),
        ),
        (
            "load generator".to_string(),
            format!("ringpost-loadtest {}", report.version),
        ),
        (
            "handshakes".to_string(),
            format!(
                "full {}, resumed {}",
                grouped(report.handshakes_full),
                grouped(report.handshakes_resumed)
            ),
        ),
        (
            "messages each first".to_string(),
            report.messages_first.to_string(),
        ),
        (
            "the relay".to_string(),
            report.relay_end.clone().unwrap_or_default(),
        ),
    ]);
    page.code(&shell_words(&report.command));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_from_the_json_is_the_page_of_the_connections() {
        let mut report = HoldReport {
            asked: 10,
            opened: 10,
            alive: 10,
            open_seconds: 2.0,
            opened_per_second: 5.0,
            ..HoldReport::default()
        };
        report.memory.all.rss_bytes = 12_345_678;
        let json = serde_json::to_vec(&report).unwrap();
        let again: HoldReport = serde_json::from_slice(&json).unwrap();
        let html = page(&report);
        assert_eq!(html, page(&again));
        assert!(
            html.contains("12.3 MB") && html.matches("<svg").count() == 1,
            "{html}"
        );
    }
}
