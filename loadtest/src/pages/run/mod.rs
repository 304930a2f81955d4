//! The page of a run or a kill-test, made from its report and nothing else.

mod plots;

use crate::figures::histogram::Percentiles;
use crate::figures::report::{KillFigures, Report, commits, name_server, next_hops, troubles};
use crate::host::clock::rfc5322_date;
use crate::ledger::Verdict;
use crate::pages::plot::Tone;
use crate::pages::run::plots::{
    Active, connections, cores, cpu_per_message, handshakes, memory, p99_over_time,
    percentile_curves, queue, throughput,
};
use crate::pages::{Page, Tile, shell_words};
use crate::text::{decimal, grouped, megabytes, ms, rate_or_dash, volume};

pub fn page(report: &Report) -> String {
    let mut page = Page::new(&title(report), &subtitle(report));
    page.verdict(&good_words(report), &problem_words(report));
    page.tiles(&tiles(report));
    let timeline = Active::of(report);
    page.section("Over time");
    page.plots(&[throughput(report, &timeline), queue(report, &timeline)]);
    page.section("Latency");
    page.plots(&[percentile_curves(report), p99_over_time(report, &timeline)]);
    page.table(
        &["milliseconds", "count", "p50", "p90", "p99", "p99.9", "max"],
        &latency_rows(report),
    );
    page.section("CPU and memory");
    page.plots(&[
        cores(report, &timeline),
        cpu_per_message(report, &timeline),
        memory(report, &timeline),
    ]);
    page.table(
        &["", "CPU µs per message", "CPU s", "threads", "peak memory"],
        &cost_rows(report),
    );
    page.section("Connections and handshakes");
    page.plots(&[
        connections(report, &timeline),
        handshakes(report, &timeline),
    ]);
    page.table(
        &[
            "",
            "connections",
            "full handshakes",
            "resumed",
            "handshakes per message",
        ],
        &connection_rows(report),
    );
    page.list(&in_words(report));
    ledger(&mut page, report);
    kills(&mut page, report);
    setting(&mut page, report);
    page.finish()
}

fn title(report: &Report) -> String {
    if report.note.is_empty() {
        let what = if report.kills.is_some() {
            "Kill test"
        } else {
            "Load test"
        };
        what.to_string()
    } else {
        report.note.clone()
    }
}

fn subtitle(report: &Report) -> String {
    let machine = &report.machine;
    let mut parts = vec![
        rfc5322_date(machine.started_unix_s),
        format!("run {}", report.run),
        format!("{} CPUs ({})", machine.cpus, machine.cpu),
    ];
    parts.extend(report.relay_version.clone());
    if report.direct {
        parts.push("no relay: source straight into sink".to_string());
    }
    parts.join(" · ")
}

fn good_words(report: &Report) -> String {
    let accepted = grouped(report.ledger.accepted);
    let fate = if report.ledger.bounced > 0 {
        "was delivered intact or bounced"
    } else {
        "was delivered intact"
    };
    let once = match report.ledger.duplicated {
        0 if report.ledger.bounced > 0 => String::new(),
        0 => ", and once".to_string(),
        doubled => format!(
            "; {} came more than once, as this run allows",
            grouped(doubled)
        ),
    };
    let kills = report.kills.as_ref().map_or(String::new(), |kills| {
        format!(" The relay was killed {} times under load.", kills.kills)
    });
    format!("Clean: each of {accepted} accepted recipients {fate}{once}.{kills}")
}

/// What is wrong, the ledger's findings one by one.
fn problem_words(report: &Report) -> Vec<String> {
    let mut words = ledger_words(&report.ledger, report.allow_duplicates);
    let problems = report.problems().into_iter();
    let ledger_named = !words.is_empty();
    words
        .extend(problems.filter(|problem| !(ledger_named && problem == "the ledger is not clean")));
    if !words.is_empty() && !report.ledger.examples.is_empty() {
        let few: Vec<&str> = report
            .ledger
            .examples
            .iter()
            .take(3)
            .map(|e| &e[..])
            .collect();
        words.push(format!("for example {}", few.join("; ")));
    }
    words
}

fn ledger_words(ledger: &Verdict, allow_duplicates: bool) -> Vec<String> {
    if ledger.is_clean(allow_duplicates) {
        return Vec::new();
    }
    let doubled = if allow_duplicates {
        0
    } else {
        ledger.duplicated
    };
    let findings = [
        (
            ledger.lost,
            "accepted with 250, but never arrived, and nobody was told: lost",
        ),
        (doubled, "arrived more than once"),
        (ledger.corrupted, "arrived with another body than was sent"),
        (
            ledger.misdelivered,
            "arrived at an address the message was not sent to",
        ),
        (
            ledger.refused_but_delivered,
            "refused, and delivered all the same",
        ),
        (
            ledger.delivered_and_bounced,
            "delivered, and reported as undeliverable as well",
        ),
        (
            ledger.bounced_without_cause,
            "reported as undeliverable, though nobody refused them for good",
        ),
        (
            ledger.reported_again,
            "reported as undeliverable more than once",
        ),
        (
            ledger.unknown,
            "messages arrived that belong to no message of this run",
        ),
    ];
    let found = findings.iter().filter(|(count, _)| *count > 0);
    found
        .map(|(count, words)| {
            let who = match (words.starts_with("messages"), *count) {
                (true, _) => "",
                (false, 1) => " recipient",
                (false, _) => " recipients",
            };
            format!("{}{who}: {words}", grouped(*count))
        })
        .collect()
}

fn tiles(report: &Report) -> Vec<Tile> {
    let rates = &report.rates;
    let mut tiles = vec![
        Tile {
            what: "Accepted",
            value: rate_or_dash(rates.accepted_per_second),
            unit: "messages/s",
            detail: volume(
                report.source.accepted,
                report.accept_seconds,
                rates.accepted_bytes_per_second,
            ),
            tone: Tone::In,
        },
        Tile {
            what: "Delivered",
            value: rate_or_dash(rates.delivered_per_second),
            unit: "messages/s",
            detail: volume(
                report.sink.messages,
                report.deliver_seconds,
                rates.delivered_bytes_per_second,
            ),
            tone: Tone::Out,
        },
    ];
    tiles.extend(relay_tile(report));
    tiles.extend(latency_tile(
        "To 250: p50 / p99",
        Tone::In,
        &report.source.to_250_us,
    ));
    tiles.extend(latency_tile(
        "End to end: p50 / p99",
        Tone::Out,
        &report.sink.end_to_end_us,
    ));
    tiles.extend(report.kills.as_ref().map(kills_tile));
    tiles.push(ledger_tile(report));
    tiles
}

fn relay_tile(report: &Report) -> Option<Tile> {
    let relay = report.relay.as_ref()?;
    let cpu = report.rates.relay_cpu_us_per_message?;
    Some(Tile {
        what: "Relay: CPU per message",
        value: decimal(cpu),
        unit: "µs",
        detail: format!(
            "user {:.2} s, system {:.2} s; peak memory {}",
            relay.user_us as f64 / 1e6,
            relay.system_us as f64 / 1e6,
            megabytes(relay.peak_rss_bytes)
        ),
        tone: Tone::Relay,
    })
}

fn latency_tile(what: &'static str, tone: Tone, times: &Percentiles) -> Option<Tile> {
    (times.count > 0).then(|| Tile {
        what,
        value: format!("{} / {}", ms(times.p50), ms(times.p99)),
        unit: "ms",
        detail: format!("p99.9 {} ms, at most {} ms", ms(times.p999), ms(times.max)),
        tone,
    })
}

fn kills_tile(kills: &KillFigures) -> Tile {
    Tile {
        what: "kill -9",
        value: grouped(kills.kills.into()),
        unit: "times",
        detail: format!(
            "{} of them with accepted mail outstanding",
            kills.kills_with_mail_outstanding
        ),
        tone: Tone::Ink,
    }
}

fn ledger_tile(report: &Report) -> Tile {
    let ledger = &report.ledger;
    let clean = report.is_clean();
    Tile {
        what: "Ledger",
        value: if clean { "clean" } else { "NOT clean" }.to_string(),
        unit: "",
        detail: format!(
            "lost {}, duplicated {}, corrupted {}",
            grouped(ledger.lost),
            grouped(ledger.duplicated),
            grouped(ledger.corrupted)
        ),
        tone: if clean { Tone::Ink } else { Tone::Problem },
    }
}

fn latency_rows(report: &Report) -> Vec<Vec<String>> {
    let rows = [
        ("to 250", &report.source.to_250_us),
        ("end to end", &report.sink.end_to_end_us),
        ("connect, up to ready for MAIL", &report.source.to_ready_us),
    ];
    let counted = rows.into_iter().filter(|(_, times)| times.count > 0);
    counted
        .map(|(what, times)| {
            let mut row = vec![what.to_string(), grouped(times.count)];
            row.extend([times.p50, times.p90, times.p99, times.p999, times.max].map(ms));
            row
        })
        .collect()
}

fn cost_rows(report: &Report) -> Vec<Vec<String>> {
    let rates = &report.rates;
    let mut rows = Vec::new();
    if let (Some(relay), Some(cpu)) = (&report.relay, rates.relay_cpu_us_per_message) {
        rows.push(vec![
            "relay".to_string(),
            decimal(cpu),
            format!("{:.2}", (relay.user_us + relay.system_us) as f64 / 1e6),
            String::new(),
            megabytes(relay.peak_rss_bytes),
        ]);
    }
    let own = [
        (
            "source",
            rates.source_cpu_us_per_message,
            report.source.cpu_us,
            report.source.threads,
        ),
        (
            "sink",
            rates.sink_cpu_us_per_message,
            report.sink.cpu_us,
            report.sink.threads,
        ),
    ];
    rows.extend(own.map(|(name, per_message, cpu_us, threads)| {
        vec![
            name.to_string(),
            match report.source.accepted {
                0 => "-".to_string(),
                _ => decimal(per_message),
            },
            format!("{:.2}", cpu_us as f64 / 1e6),
            threads.to_string(),
            String::new(),
        ]
    }));
    rows
}

fn connection_rows(report: &Report) -> Vec<Vec<String>> {
    let (source, sink, rates) = (&report.source, &report.sink, &report.rates);
    let row = |name: &str, connections, full, resumed, per_message: f64| {
        vec![
            name.to_string(),
            grouped(connections),
            grouped(full),
            grouped(resumed),
            format!("{per_message:.3}"),
        ]
    };
    vec![
        row(
            "in",
            source.connections,
            source.handshakes_full,
            source.handshakes_resumed,
            rates.handshakes_in_per_message,
        ),
        row(
            "out",
            sink.connections,
            sink.handshakes_full,
            sink.handshakes_resumed,
            rates.handshakes_out_per_message,
        ),
    ]
}

/// What has no plot.
fn in_words(report: &Report) -> Vec<(String, String)> {
    let items = [
        ("next hops", next_hops(&report.sink)),
        ("name server", name_server(&report.sink)),
        ("spool", commits(report)),
    ];
    items
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_string(), text?)))
        .collect()
}

fn ledger(page: &mut Page, report: &Report) {
    let ledger = &report.ledger;
    page.section("Ledger");
    let always = [
        ("accepted", ledger.accepted),
        ("delivered", ledger.delivered),
        ("bounced", ledger.bounced),
        ("lost", ledger.lost),
        ("duplicated", ledger.duplicated),
        ("corrupted", ledger.corrupted),
    ];
    let seen = |(_, count): &(&str, u64)| *count > 0;
    let items = always
        .into_iter()
        .chain(ledger.seldom().into_iter().filter(seen));
    let seldom = troubles(&report.source, &report.sink);
    let items = items.chain(seldom.into_iter().filter(seen));
    let items: Vec<(String, String)> = items
        .map(|(name, count)| (name.to_string(), grouped(count)))
        .collect();
    page.list(&items);
    if !ledger.examples.is_empty() {
        page.paragraph("The first findings:");
        page.code(&ledger.shown_examples().collect::<Vec<_>>().join("\n"));
    }
}

fn kills(page: &mut Page, report: &Report) {
    let Some(kills) = &report.kills else {
        return;
    };
    page.section("Kills");
    page.paragraph(&format!(
        "kill -9 at random moments, {} times, {} of them with accepted mail that had not arrived yet.",
        kills.kills, kills.kills_with_mail_outstanding
    ));
    let rows: Vec<Vec<String>> = kills
        .rounds
        .iter()
        .map(|round| {
            vec![
                round.round.to_string(),
                format!("{:.2}", round.seconds),
                grouped(round.after_ms),
                grouped(round.accepted),
                grouped(round.outstanding),
            ]
        })
        .collect();
    let heads = [
        "kill",
        "second of the run",
        "ms after its start",
        "recipients accepted",
        "in the queue",
    ];
    page.table(&heads, &rows);
}

fn setting(page: &mut Page, report: &Report) {
    let machine = &report.machine;
    page.section("Setting");
    let mut items = vec![
        (
            "machine".to_string(),
            format!("{} CPUs, {}", machine.cpus, machine.cpu),
        ),
        ("kernel".to_string(), format!("Linux {}", machine.kernel)),
        (
            "load generator".to_string(),
            format!("ringpost-loadtest {}", report.version),
        ),
        ("seed".to_string(), report.seed.to_string()),
        ("run".to_string(), report.run.clone()),
        (
            "the relay".to_string(),
            report.relay_end.clone().unwrap_or_default(),
        ),
    ];
    items.extend(report.settings.iter().cloned());
    page.list(&items);
    page.code(&shell_words(&report.command));
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::figures::relay::RelayFigures;
    use crate::figures::report::KillRound;
    use crate::figures::timeline::Sample;

    fn sample(tenth: u64) -> Sample {
        Sample {
            seconds: tenth as f64 / 10.0,
            accepted: tenth * 100,
            arrived: tenth * 90,
            outstanding: tenth * 10,
            messages_accepted: tenth * 100,
            messages_arrived: tenth * 90,
            relay_cpu_us: tenth * 9_000,
            relay_rss_bytes: 50_000_000,
            source_cpu_us: tenth * 3_000,
            sink_cpu_us: tenth * 2_000,
            connections_in: tenth,
            handshakes_in_full: tenth,
            to_250_p99_us: 1_000 + tenth,
            end_to_end_p99_us: 3_000,
            ..Sample::default()
        }
    }

    pub fn report() -> Report {
        let times = Percentiles {
            count: 1_000,
            p50: 800,
            p99: 2_000,
            max: 3_000,
            curve: vec![(0.0, 100), (0.5, 800), (0.99, 2_000), (1.0, 3_000)],
            ..Percentiles::default()
        };
        let mut report = Report {
            command: vec!["loadtest".to_string(), "--note=<b>".to_string()],
            timeline: (0..20).map(sample).collect(),
            accept_seconds: 1.9 / 7.0,
            deliver_seconds: 0.1 + 0.2,
            relay: Some(RelayFigures {
                user_us: 1_000_000,
                ..RelayFigures::default()
            }),
            ..Report::default()
        };
        report.source.accepted = 1_900;
        report.ledger.accepted = 1_900;
        report.source.to_250_us = times.clone();
        report.sink.end_to_end_us = times;
        report.finish();
        report
    }

    #[test]
    fn the_page_from_the_json_is_the_page_of_the_run() {
        let report = report();
        let json = serde_json::to_vec_pretty(&report).unwrap();
        let again: Report = serde_json::from_slice(&json).unwrap();
        assert_eq!(page(&report), page(&again));
    }

    #[test]
    fn every_plot_is_there_when_there_is_data() {
        let html = page(&report());
        assert_eq!(html.matches("<figure").count(), 9);
        assert!(html.contains("Clean: each of 1,900"));
        assert!(html.contains("loadtest '--note=&lt;b&gt;'"), "{html}");
    }

    #[test]
    fn absent_data_leaves_no_broken_plot() {
        let html = page(&Report::default());
        assert!(!html.contains("<svg") && !html.contains("NaN"));
        assert!(html.contains("nothing was accepted"));
        let mut direct = report();
        direct.direct = true;
        direct.relay = None;
        for sample in &mut direct.timeline {
            sample.relay_cpu_us = 0;
            sample.relay_rss_bytes = 0;
            sample.handshakes_in_full = 0;
        }
        let html = page(&direct);
        assert_eq!(html.matches("<figure").count(), 7);
        assert!(!html.contains(">relay<") && !html.contains("handshakes per second"));
        direct.timeline.truncate(1);
        direct.source.to_250_us.curve.clear();
        direct.sink.end_to_end_us.curve.clear();
        assert!(!page(&direct).contains("<svg"));
    }

    #[test]
    fn a_loss_and_kills_are_told_in_words() {
        let mut report = report();
        report.ledger.lost = 2;
        report.ledger.examples = vec!["lost: <user@d.test>".to_string()];
        let rounds = vec![KillRound {
            round: 1,
            seconds: 0.7,
            ..KillRound::default()
        }];
        report.kills = Some(KillFigures {
            kills: 1,
            rounds,
            ..KillFigures::default()
        });
        let html = page(&report);
        assert!(html.contains("2 recipients: accepted with 250, but never arrived"));
        assert!(html.contains("lost: &lt;user@d.test&gt;"));
        // In the wide plots over time: throughput, queue, memory.
        assert_eq!(html.matches("\nkill 1\n").count(), 3);
        assert!(html.contains("NOT clean"));
    }
}
