//! The recovery test: the relay is killed at random moments under load and restarted on the same
//! spool. Everything it accepted must arrive at least once.

use std::time::{Duration, Instant};

use crate::commands::common::Common;
use crate::commands::output::write_files;
use crate::commands::progress::Goal;
use crate::commands::watch::Watch;
use crate::failure::Failure;
use crate::figures::report::{KillFigures, Report};
use crate::host::random::Random;
use crate::host::signals::StopFlag;
use crate::options::run::KillCommand;
use crate::options::shared::settings;
use crate::pages;
use crate::relay::under_test::UnderTest;

/// Runs, prints, and says whether nothing was lost.
pub fn kill_test(command: &KillCommand, stop: &StopFlag) -> Result<bool, Failure> {
    let (report, mut under_test) = measure(command, stop)?;
    let clean = report.is_clean();
    print!("{report}");
    write_files(&command.output, &report, pages::run::page)?;
    under_test.tidy(clean);
    Ok(clean)
}

/// The test itself.
pub fn measure(command: &KillCommand, stop: &StopFlag) -> Result<(Report, UnderTest), Failure> {
    let mut options = command.source.clone();
    // The load lasts as long as the killing, unless it was limited.
    options.messages = options.messages.or(Some(u64::MAX));
    let common = Common::new(&options)?;
    let sink = common.start_sink(&command.sink, "127.0.0.1:0".parse()?)?;
    let mut under_test = UnderTest::prepare(&command.start, sink.far_side())?;
    under_test.start()?;
    under_test.await_greeting(command.start.relay_start)?;
    eprintln!("seed {} ({} rounds)", common.seed, command.rounds);
    let mut source = common.start_source(&options, under_test.address)?;
    let goal = Goal {
        messages: command.source.messages,
        seconds: None,
    };
    let mut watch = Watch::new(&common, &source, &sink, stop, goal, command.output.quiet);
    let mut kills = KillFigures::default();
    let outcome = kill_rounds(command, &common, &mut watch, &mut under_test, &mut kills);
    watch.source.stop();
    watch.note.clear();
    outcome?;
    // What is under way may still be accepted, and counts.
    while !watch.source.is_finished() {
        watch.tick(&under_test);
    }
    watch.settle(&under_test, &command.judge);
    watch.linger(&under_test, &command.judge);
    let samples = watch.into_samples(&under_test);
    source.join();
    let relay_died = under_test.ended_by_itself();
    let relay_end = under_test.stop();
    let mut report = common.report(&source, &sink);
    report.timeline = samples;
    report.settings = settings(&options, &command.sink);
    report.note = command.output.note.clone();
    report.relay_version = under_test.version();
    report.relay_end = relay_end;
    report.relay_died = relay_died;
    report.interrupted = stop.is_set();
    // A relay that dies between a delivery and its note of it must deliver again.
    report.allow_duplicates = true;
    report.kills = Some(kills);
    report.finish();
    Ok((report, under_test))
}

fn kill_rounds(
    command: &KillCommand,
    common: &Common,
    watch: &mut Watch<'_>,
    under_test: &mut UnderTest,
    kills: &mut KillFigures,
) -> Result<(), Failure> {
    let mut random = Random::stream(common.seed, u64::MAX);
    let range = command.kill_after_ms;
    for round in 1..=command.rounds {
        let wait_ms = random.between(range.low, range.high);
        watch.note = format!("round {round} of {}", command.rounds);
        let deadline = Instant::now() + Duration::from_millis(wait_ms);
        while Instant::now() < deadline && !watch.is_interrupted() {
            let left = deadline.saturating_duration_since(Instant::now());
            watch.tick_at_most(under_test, left);
            if under_test.ended_by_itself() {
                let log = under_test.log_tail();
                return Err(format!("the relay ended by itself in round {round}:\n{log}").into());
            }
        }
        if watch.is_interrupted() {
            break;
        }
        kills.note(round, watch.seconds(), wait_ms, &common.ledger);
        if let Some(process) = &mut under_test.process {
            process.kill()?;
        }
        under_test.start()?;
    }
    // The last restart has to work, too.
    under_test.await_greeting_and(command.start.relay_start, |relay| watch.tick(relay))
}
