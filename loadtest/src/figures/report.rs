//! What a run found out: text for people, JSON for machines.

use std::fmt::{self, Display, Formatter, Write as _};

use serde::{Deserialize, Serialize};

use crate::figures::histogram::Percentiles;
use crate::figures::machine::Machine;
use crate::figures::rates::{Rates, per_message, per_second};
use crate::figures::relay::{RelayCounters, RelayFigures};
use crate::figures::sink::SinkFigures;
use crate::figures::source::SourceFigures;
use crate::figures::timeline::Sample;
use crate::ledger::{Ledger, Verdict};
use crate::text::{cpu_of, decimal, grouped, megabytes, ms, rate_or_dash, volume, with_rate};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub version: String,
    /// What the caller says of the run, e.g. which version was under test.
    pub note: String,
    pub command: Vec<String>,
    pub machine: Machine,
    /// What the relay says of its version, and the commit of the tree that its program lies in.
    pub relay_version: Option<String>,
    pub seed: u64,
    pub run: String,
    /// Flags that shape the load, defaults included, in words.
    pub settings: Vec<(String, String)>,
    pub direct: bool,
    /// From the first message taken up to the last 250.
    pub accept_seconds: f64,
    /// From the first message taken up to the last arrival.
    pub deliver_seconds: f64,
    pub ledger: Verdict,
    pub source: SourceFigures,
    pub sink: SinkFigures,
    pub relay: Option<RelayFigures>,
    pub relay_end: Option<String>,
    /// What the relay counted itself, if it says so.
    pub relay_counters: Option<RelayCounters>,
    /// The relay was gone before it was told to stop.
    pub relay_died: bool,
    /// How many messages were to be sent, unless a duration ended the run.
    pub asked: Option<u64>,
    /// A signal ended the run early.
    pub interrupted: bool,
    pub allow_duplicates: bool,
    pub kills: Option<KillFigures>,
    pub rates: Rates,
    pub timeline: Vec<Sample>,
}

/// The recovery test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KillFigures {
    pub kills: u32,
    /// Kills that found accepted recipients which had not arrived yet.
    pub kills_with_mail_outstanding: u32,
    pub rounds: Vec<KillRound>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KillRound {
    pub round: u32,
    /// Since the load began.
    pub seconds: f64,
    pub after_ms: u64,
    pub accepted: u64,
    pub outstanding: u64,
}

impl KillFigures {
    /// To be called just before a kill, `seconds` after the load began.
    pub fn note(&mut self, round: u32, seconds: f64, after_ms: u64, ledger: &Ledger) {
        let (accepted, outstanding) = (ledger.accepted(), ledger.outstanding());
        self.kills += 1;
        self.kills_with_mail_outstanding += u32::from(outstanding > 0);
        self.rounds.push(KillRound {
            round,
            seconds,
            after_ms,
            accepted,
            outstanding,
        });
    }
}

impl Report {
    /// Takes off what the sink saw before the load began (the check that it greets).
    pub fn leave_out_connections(&mut self, before: &SinkFigures) {
        self.sink.connections -= before.connections.min(self.sink.connections);
        self.sink.cpu_us -= before.cpu_us.min(self.sink.cpu_us);
        // A proxy shakes hands with the sink as soon as somebody connects.
        self.sink.handshakes_full -= before.handshakes_full.min(self.sink.handshakes_full);
    }

    /// Works out the rates, once all figures are in.
    pub fn finish(&mut self) {
        let messages = self.source.accepted;
        let (accept, deliver) = (self.accept_seconds, self.deliver_seconds);
        let (source, sink) = (&self.source, &self.sink);
        let each = |count: u64| per_message(count, messages);
        self.rates = Rates {
            accepted_per_second: per_second(source.accepted, accept),
            delivered_per_second: per_second(sink.messages, deliver),
            accepted_bytes_per_second: per_second(source.bytes, accept),
            delivered_bytes_per_second: per_second(sink.bytes, deliver),
            handshakes_in_full_per_second: per_second(source.handshakes_full, accept),
            handshakes_in_resumed_per_second: per_second(source.handshakes_resumed, accept),
            handshakes_out_full_per_second: per_second(sink.handshakes_full, deliver),
            handshakes_out_resumed_per_second: per_second(sink.handshakes_resumed, deliver),
            handshakes_in_per_message: each(source.handshakes_full + source.handshakes_resumed),
            handshakes_out_per_message: each(sink.handshakes_full + sink.handshakes_resumed),
            relay_cpu_us_per_message: self
                .relay
                .filter(|_| messages > 0)
                .map(|relay| each(relay.user_us + relay.system_us)),
            relay_messages_per_commit: self
                .relay_counters
                .map(|counters| counters.messages_per_commit()),
            source_cpu_us_per_message: each(source.cpu_us),
            sink_cpu_us_per_message: each(sink.cpu_us),
        };
    }

    /// Something was accepted, everything was sent, and the ledger is clean.
    pub fn is_clean(&self) -> bool {
        self.problems().is_empty()
    }

    /// Why the run is not clean.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.ledger.is_clean(self.allow_duplicates) {
            problems.push("the ledger is not clean".to_string());
        }
        if self.source.accepted == 0 {
            problems.push(match &self.source.first_refusal {
                Some(reply) => format!("nothing was accepted; the first refusal: {reply}"),
                None => "nothing was accepted".to_string(),
            });
        }
        if let Some(kills) = &self.kills
            && kills.kills_with_mail_outstanding == 0
        {
            let remedy = match kills.rounds.iter().all(|round| round.accepted == 0) {
                true => {
                    "all came before the relay took any: later ones, such as --kill-after-ms 1500-4000, find some"
                }
                false => "a slower sink, such as --latency 50, leaves some",
            };
            problems.push(format!(
                "none of {} kills met accepted mail that had not arrived yet: nothing was put to \
                 the test ({remedy})",
                kills.kills
            ));
        }
        if self.source.unsent > 0 {
            let why = self.source.failure.as_deref().unwrap_or("no reason known");
            problems.push(format!(
                "{} messages could not be sent: {why}",
                self.source.unsent
            ));
        }
        if let Some(asked) = self.asked.filter(|&asked| self.source.taken < asked) {
            problems.push(format!(
                "only {} of {asked} messages were taken up",
                self.source.taken
            ));
        }
        if self.interrupted {
            problems.push("a signal ended the run early".to_string());
        }
        if self.relay_died {
            problems.push("the relay ended by itself".to_string());
        }
        problems
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        write_setting(f, self)?;
        write_ledger(f, &self.ledger)?;
        write_rates(f, self)?;
        write_latencies(f, &self.source, &self.sink)?;
        write_connections(f, self)?;
        write_cost(f, self)?;
        if let Some(kills) = &self.kills {
            write_kills(f, kills)?;
        }
        for problem in self.problems() {
            writeln!(f, "NOT CLEAN   {problem}")?;
        }
        Ok(())
    }
}

fn write_setting(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let machine = &report.machine;
    writeln!(
        f,
        "run         {}, seed {}; {} CPUs ({}), Linux {}{}",
        report.run,
        report.seed,
        machine.cpus,
        machine.cpu,
        machine.kernel,
        if report.direct {
            "; NO RELAY, source straight into sink"
        } else {
            ""
        }
    )
}

/// The ledger, as the report shows it.
pub fn write_ledger(f: &mut impl fmt::Write, ledger: &Verdict) -> fmt::Result {
    writeln!(
        f,
        "recipients  accepted {}, delivered {}, bounced {}, lost {}, duplicated {}, corrupted {}",
        grouped(ledger.accepted),
        grouped(ledger.delivered),
        grouped(ledger.bounced),
        grouped(ledger.lost),
        grouped(ledger.duplicated),
        grouped(ledger.corrupted)
    )?;
    let rest: Vec<String> = ledger
        .seldom()
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{what} {}", grouped(*count)))
        .collect();
    if !rest.is_empty() {
        writeln!(f, "            {}", rest.join(", "))?;
    }
    ledger
        .shown_examples()
        .try_for_each(|example| writeln!(f, "            {example}"))
}

fn write_rates(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let rates = &report.rates;
    let part = |what: &str, rate: f64, volume: String| match rate > 0.0 {
        true => format!("{what} {} ({volume})", rate_or_dash(rate)),
        false => format!("{what} {volume}"),
    };
    writeln!(
        f,
        "messages/s  {}, {}",
        part(
            "accepted",
            rates.accepted_per_second,
            volume(
                report.source.accepted,
                report.accept_seconds,
                rates.accepted_bytes_per_second
            )
        ),
        part(
            "delivered",
            rates.delivered_per_second,
            volume(
                report.sink.messages,
                report.deliver_seconds,
                rates.delivered_bytes_per_second
            )
        ),
    )
}

/// The table of times, in milliseconds.
pub fn write_latencies(
    f: &mut impl fmt::Write,
    source: &SourceFigures,
    sink: &SinkFigures,
) -> fmt::Result {
    let rows = [
        ("to 250", &source.to_250_us),
        ("end to end", &sink.end_to_end_us),
        ("good hosts", &sink.end_to_end_good_us),
        ("connect", &source.to_ready_us),
    ];
    if rows.iter().all(|(_, times)| times.count == 0) {
        return Ok(());
    }
    writeln!(
        f,
        "ms               p50       p90       p99     p99.9       max"
    )?;
    rows.iter()
        .try_for_each(|(what, times)| write_percentiles(f, what, times))
}

fn write_percentiles(f: &mut impl fmt::Write, what: &str, times: &Percentiles) -> fmt::Result {
    if times.count == 0 {
        return Ok(());
    }
    write!(f, "{what:<11}")?;
    for us in [times.p50, times.p90, times.p99, times.p999, times.max] {
        write!(f, " {:>9}", ms(us))?;
    }
    writeln!(f)
}

fn write_connections(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let (source, sink, rates) = (&report.source, &report.sink, &report.rates);
    let each = |rate: f64| match source.accepted {
        0 => String::new(),
        _ => format!(", {rate:.3} per message"),
    };
    writeln!(
        f,
        "in          {} connections; handshakes: full {}, resumed {}{}",
        grouped(source.connections),
        with_rate(source.handshakes_full, rates.handshakes_in_full_per_second),
        with_rate(
            source.handshakes_resumed,
            rates.handshakes_in_resumed_per_second
        ),
        each(rates.handshakes_in_per_message),
    )?;
    writeln!(
        f,
        "out         {} connections, at most {} open; handshakes: full {}, resumed {}{}",
        grouped(sink.connections),
        grouped(sink.connections_open_max),
        with_rate(sink.handshakes_full, rates.handshakes_out_full_per_second),
        with_rate(
            sink.handshakes_resumed,
            rates.handshakes_out_resumed_per_second
        ),
        each(rates.handshakes_out_per_message),
    )?;
    write_hosts(f, sink)?;
    write_troubles(f, source, sink)
}

/// The next hops, if there is more than one.
fn write_hosts(f: &mut impl fmt::Write, sink: &SinkFigures) -> fmt::Result {
    if let Some(text) = next_hops(sink) {
        writeln!(f, "next hops   {text}")?;
    }
    if let Some(text) = name_server(sink) {
        writeln!(f, "DNS         {text}")?;
    }
    Ok(())
}

/// How many of the MX hosts were reached, in words, if mail went by MX.
pub fn next_hops(sink: &SinkFigures) -> Option<String> {
    let hosts = &sink.hosts;
    if !hosts.by_mx {
        return None;
    }
    let mut text = format!(
        "{} of {} reached ({} of {} MX hosts), at most {} connections open to one host",
        grouped(hosts.sites_reached),
        grouped(hosts.sites),
        grouped(hosts.hosts_reached),
        grouped(hosts.hosts),
        grouped(hosts.connections_per_host_max.into()),
    );
    if hosts.sites_faulty > 0 {
        text += &format!("; {} with faults", grouped(hosts.sites_faulty));
    }
    Some(text)
}

/// What the sink's name server was asked, in words.
pub fn name_server(sink: &SinkFigures) -> Option<String> {
    let dns = sink.dns.as_ref()?;
    Some(format!(
        "{} questions ({} by TCP), {} answered that there is none, {} truncated, {} dropped; {:.2} s CPU",
        grouped(dns.questions_udp + dns.questions_tcp),
        grouped(dns.questions_tcp),
        grouped(dns.negative),
        grouped(dns.truncated),
        grouped(dns.dropped),
        dns.cpu_us as f64 / 1e6,
    ))
}

/// What the relay wrote to stable storage, in words, if it says so itself.
pub fn commits(report: &Report) -> Option<String> {
    let counters = report.relay_counters.as_ref()?;
    Some(format!(
        "{} commits of {:.1} messages",
        grouped(counters.commits),
        counters.messages_per_commit(),
    ))
}

/// What is usually zero.
pub fn troubles(source: &SourceFigures, sink: &SinkFigures) -> [(&'static str, u64); 16] {
    [
        ("messages refused", source.refused),
        ("messages broken off", source.open),
        ("sent again", source.retried),
        ("connections in failed", source.connections_failed),
        ("handshakes out failed", sink.handshakes_failed),
        ("delivered without TLS", sink.messages_without_tls),
        ("connections out refused", sink.connections_refused),
        ("faults 4xx", sink.faults_4xx),
        ("faults 5xx", sink.faults_5xx),
        ("dropped before the reply", sink.faults_dropped),
        ("broken off", sink.faults_broken_off),
        ("greeted with 421", sink.faults_421),
        ("closed without a greeting", sink.faults_connect),
        ("recipients at a wrong host", sink.hosts.misrouted),
        ("bounces", sink.bounces),
        ("protocol errors at the sink", sink.protocol_errors),
    ]
}

fn write_troubles(
    f: &mut impl fmt::Write,
    source: &SourceFigures,
    sink: &SinkFigures,
) -> fmt::Result {
    let troubles = troubles(source, sink);
    let mut line = String::new();
    for (what, count) in troubles.iter().filter(|(_, count)| *count > 0) {
        let comma = if line.is_empty() { "" } else { ", " };
        write!(line, "{comma}{what} {}", grouped(*count))?;
    }
    if line.is_empty() {
        Ok(())
    } else {
        writeln!(f, "also        {line}")
    }
}

fn write_cost(f: &mut Formatter<'_>, report: &Report) -> fmt::Result {
    let rates = &report.rates;
    if let (Some(relay), Some(cpu)) = (&report.relay, rates.relay_cpu_us_per_message) {
        writeln!(
            f,
            "relay       {} us CPU per message (user {:.2} s, system {:.2} s), peak memory {}",
            decimal(cpu),
            relay.user_us as f64 / 1e6,
            relay.system_us as f64 / 1e6,
            megabytes(relay.peak_rss_bytes),
        )?;
    }
    if let Some(text) = commits(report) {
        writeln!(f, "            {text}")?;
    }
    if let Some(end) = &report.relay_end {
        writeln!(f, "            {end}")?;
    }
    let threads = |count, cpu_us: u64| match report.source.accepted {
        0 => format!(" ({count} threads)"),
        _ => format!(" ({count} threads, {:.2} s)", cpu_us as f64 / 1e6),
    };
    writeln!(
        f,
        "loadtest    source {}{}, sink {}{}",
        cpu_of(report.source.accepted, report.source.cpu_us),
        threads(report.source.threads, report.source.cpu_us),
        cpu_of(report.source.accepted, report.sink.cpu_us),
        threads(report.sink.threads, report.sink.cpu_us),
    )
}

fn write_kills(f: &mut Formatter<'_>, kills: &KillFigures) -> fmt::Result {
    writeln!(
        f,
        "kill -9     {} times, {} of them with accepted mail outstanding (at most {} recipients)",
        kills.kills,
        kills.kills_with_mail_outstanding,
        grouped(
            kills
                .rounds
                .iter()
                .map(|round| round.outstanding)
                .max()
                .unwrap_or(0)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_a_report_with_a_loss_or_without_mail_is_not_clean() {
        let mut report = Report::default();
        assert!(!report.is_clean());
        report.source.accepted = 5;
        assert!(report.is_clean());
        report.ledger.lost = 1;
        report.allow_duplicates = true;
        assert!(!report.is_clean());
        assert!(report.to_string().contains("NOT CLEAN"));
    }

    #[test]
    fn a_kill_test_that_met_no_outstanding_mail_is_not_clean() {
        let mut report = Report::default();
        report.source.accepted = 5;
        let mut kills = KillFigures {
            kills: 20,
            ..KillFigures::default()
        };
        report.kills = Some(kills.clone());
        assert!(report.to_string().contains("NOT CLEAN   none of 20 kills"));
        assert!(report.to_string().contains("--kill-after-ms"));
        kills.rounds = vec![KillRound {
            accepted: 1,
            ..KillRound::default()
        }];
        report.kills = Some(kills.clone());
        assert!(report.to_string().contains("--latency 50"));
        kills.kills_with_mail_outstanding = 1;
        report.kills = Some(kills);
        assert!(report.is_clean());
    }

    #[test]
    fn when_all_is_refused_the_reply_is_shown() {
        let mut report = Report::default();
        report.source.refused = 9;
        report.source.first_refusal = Some("554 5.7.1 Relaying denied".to_string());
        assert!(report.to_string().contains("554 5.7.1 Relaying denied"));
    }

    #[test]
    fn where_nothing_was_accepted_nothing_is_said_of_each_message() {
        let mut report = Report::default();
        report.source.cpu_us = 1_000_000;
        report.finish();
        let text = report.to_string();
        for absurd in ["NaN", "inf", "per message", "p50", "us CPU"] {
            assert!(!text.contains(absurd), "{absurd} in {text}");
        }
        assert!(text.contains("source 1.00 s CPU"), "{text}");
    }

    #[test]
    fn what_took_no_time_has_no_rate() {
        let mut report = Report::default();
        report.source.handshakes_full = 50;
        report.source.accepted = 50;
        report.source.cpu_us = 1_000_000;
        report.finish();
        let text = report.to_string();
        assert!(!text.contains("000,000"), "{text}");
        assert!(text.contains("full 50, resumed 0,"), "{text}");
        report.source.accepted = 0;
        report.finish();
        assert_eq!(report.rates.source_cpu_us_per_message, 0.0);
    }
}
