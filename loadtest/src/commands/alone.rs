//! Source and sink on their own, for two hosts, and the comparison of their ledgers afterwards.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::commands::common::Common;
use crate::commands::output::{self, write_json};
use crate::failure::Failure;
use crate::figures::rates::per_second;
use crate::figures::report::{write_latencies, write_ledger};
use crate::figures::sink::SinkFigures;
use crate::figures::source::SourceFigures;
use crate::host::clock::Clock;
use crate::host::random::fresh_seed;
use crate::host::signals::StopFlag;
use crate::ledger::arrivals::{self, ArrivalLog, ArrivalSums};
use crate::ledger::book::Book;
use crate::options::{CheckCommand, SinkCommand, SourceCommand};
use crate::relay::under_test::connect;
use crate::sink::Sink;
use crate::sink::hosts::Hosts;
use crate::text::{cpu_of, grouped, with_rate};

const TICK: Duration = Duration::from_millis(20);
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// Calls `line` once a second.
struct Progress {
    last: Instant,
    quiet: bool,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        Self {
            last: Instant::now(),
            quiet,
        }
    }

    fn tick(&mut self, line: impl Fn() -> String) {
        std::thread::sleep(TICK);
        if !self.quiet && self.last.elapsed() >= PROGRESS_PERIOD {
            self.last = Instant::now();
            eprintln!("{}", line());
        }
    }
}

/// True when everything was sent, and something was accepted.
pub fn source(command: &SourceCommand, stop: &StopFlag) -> Result<bool, Failure> {
    command.output.check_no_page()?;
    let common = Common::new(&command.source)?;
    connect(command.addr).map_err(|why| format!("{}: {why}", command.addr))?;
    let mut source = common.start_source(&command.source, command.addr)?;
    let began = Instant::now();
    let mut progress = Progress::new(command.output.quiet);
    while !source.is_finished() {
        progress.tick(|| {
            let accepted = grouped(common.ledger.accepted());
            format!(
                "{:6.1}s  accepted {accepted}",
                began.elapsed().as_secs_f64()
            )
        });
        let duration = command.source.duration.unwrap_or(f64::INFINITY);
        if stop.is_set() || began.elapsed().as_secs_f64() >= duration {
            source.stop();
        }
    }
    source.join();
    if let Some(path) = &command.ledger {
        output::write_ledger(&common.ledger, source.shared.taken(), path)?;
    }
    let figures = source.figures();
    print_source(&common, &figures, began.elapsed().as_secs_f64())?;
    write_json(command.output.json.as_deref(), &figures)?;
    Ok(figures.accepted > 0 && figures.unsent == 0)
}

fn print_source(common: &Common, figures: &SourceFigures, seconds: f64) -> Result<(), Failure> {
    let mut table = String::new();
    write_latencies(&mut table, figures, &SinkFigures::default())?;
    println!(
        "run {}, seed {}: messages accepted {}, refused {}, broken off {}, unsent {}{}",
        common.ledger.addressing.run,
        common.seed,
        with_rate(figures.accepted, per_second(figures.accepted, seconds)),
        grouped(figures.refused),
        grouped(figures.open),
        grouped(figures.unsent),
        figures
            .failure
            .as_ref()
            .map(|why| format!(" ({why})"))
            .unwrap_or_default()
    );
    print!("{table}");
    println!(
        "{} connections, handshakes full {}, resumed {}; {}",
        grouped(figures.connections),
        grouped(figures.handshakes_full),
        grouped(figures.handshakes_resumed),
        cpu_of(figures.accepted, figures.cpu_us)
    );
    Ok(())
}

#[derive(Serialize)]
struct AloneReport {
    sink: SinkFigures,
    arrivals: ArrivalSums,
}

/// True when nothing arrived twice or altered.
pub fn sink(command: &SinkCommand, stop: &StopFlag) -> Result<bool, Failure> {
    command.output.check_no_page()?;
    command.sink.check()?;
    if command.sink.mx.mx_hosts.is_some() {
        return Err(
            "--mx-hosts is for runs on one machine: its addresses are on the loopback".into(),
        );
    }
    let log = ArrivalLog::new(command.ledger.as_deref())?;
    let book = Book::Alone(Mutex::new(log));
    let sink = Sink::start(
        &command.sink,
        command.addr,
        book,
        Clock::start(),
        fresh_seed(),
        Hosts::one(),
    )?;
    eprintln!("listening on {}", sink.address);
    let counters = &sink.shared.counters;
    let mut progress = Progress::new(command.output.quiet);
    let enough = || {
        command
            .expect
            .is_some_and(|expected| counters.messages() >= expected)
    };
    while !stop.is_set() && !enough() {
        progress.tick(|| format!("messages {}", grouped(counters.messages())));
    }
    let Book::Alone(log) = &sink.shared.book else {
        return Ok(true);
    };
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.finish()?;
    let sums = log.sums;
    drop(log);
    let figures = sink.figures();
    print_sink(&figures, &sums)?;
    write_json(
        command.output.json.as_deref(),
        &AloneReport {
            sink: figures,
            arrivals: sums,
        },
    )?;
    Ok(sums.duplicated + sums.corrupted + sums.unwritten == 0)
}

fn print_sink(figures: &SinkFigures, sums: &ArrivalSums) -> Result<(), Failure> {
    let mut table = String::new();
    write_latencies(&mut table, &SourceFigures::default(), figures)?;
    println!(
        "messages {}; recipients {}, duplicated {}, corrupted {}; unknown messages {}",
        grouped(figures.messages),
        grouped(sums.delivered),
        grouped(sums.duplicated),
        grouped(sums.corrupted),
        grouped(sums.unknown)
    );
    print!("{table}");
    println!(
        "{} connections, handshakes full {}, resumed {}; {}",
        grouped(figures.connections),
        grouped(figures.handshakes_full),
        grouped(figures.handshakes_resumed),
        cpu_of(figures.messages, figures.cpu_us)
    );
    Ok(())
}

/// True when everything accepted arrived once and intact.
pub fn check(command: &CheckCommand) -> Result<bool, Failure> {
    let verdict = arrivals::check(&command.source, &command.sink)?;
    let mut text = String::new();
    write_ledger(&mut text, &verdict)?;
    print!("{text}");
    if verdict.accepted == 0 {
        println!(
            "NOT CLEAN   {} names no recipient that was accepted",
            command.source.display()
        );
    }
    Ok(verdict.accepted > 0 && verdict.is_clean(command.allow_duplicates))
}
