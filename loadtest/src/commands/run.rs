//! One run: sink, relay and source together, from the first message until everything accepted has
//! arrived. Not here: what the figures look like (`report`).

use crate::commands::common::Common;
use crate::commands::output::write_files;
use crate::commands::progress::Goal;
use crate::commands::watch::Watch;
use crate::failure::Failure;
use crate::figures::relay::RelayFigures;
use crate::figures::report::Report;
use crate::host::signals::StopFlag;
use crate::options::run::RunCommand;
use crate::options::shared::settings;
use crate::pages;
use crate::relay::under_test::UnderTest;
use crate::sink::FarSide;

/// Runs, prints, and says whether all is well.
pub fn run(command: &RunCommand, stop: &StopFlag) -> Result<bool, Failure> {
    let (report, mut under_test) = measure(command, stop)?;
    let clean = report.is_clean();
    print!("{report}");
    write_files(&command.output, &report, pages::run::page)?;
    under_test.tidy(clean);
    Ok(clean)
}

/// The run itself.
pub fn measure(command: &RunCommand, stop: &StopFlag) -> Result<(Report, UnderTest), Failure> {
    let common = Common::new(&command.source)?;
    let sink = common.start_sink(&command.sink, command.sink_listen)?;
    let mut under_test = under_test(command, sink.far_side())?;
    under_test.start()?;
    under_test.await_greeting(command.start.relay_start)?;
    let usage_before = under_test.usage();
    let sink_before = sink.figures();
    let mut source = common.start_source(&command.source, under_test.address)?;
    let limit = command.source.message_limit();
    let goal = Goal {
        messages: Some(limit).filter(|&limit| limit < u64::MAX),
        seconds: command.source.duration,
    };
    let mut watch = Watch::new(&common, &source, &sink, stop, goal, command.output.quiet);
    load(&mut watch, &mut under_test, command.source.duration);
    watch.settle(&under_test, &command.judge);
    let usage = under_test.usage();
    watch.linger(&under_test, &command.judge);
    let peak = watch.peak_rss_bytes;
    let samples = watch.into_samples(&under_test);
    source.join();
    let relay_died = under_test.ended_by_itself();
    let relay_end = under_test.stop();
    let relay = usage_before.zip(usage).map(|(before, after)| RelayFigures {
        user_us: after.user_us.saturating_sub(before.user_us),
        system_us: after.system_us.saturating_sub(before.system_us),
        peak_rss_bytes: peak.max(after.peak_rss_bytes),
    });
    let mut report = common.report(&source, &sink);
    report.leave_out_connections(&sink_before);
    report.relay = relay;
    report.relay_version = under_test.version();
    report.relay_end = relay_end;
    report.relay_counters = under_test.counters();
    report.timeline = samples;
    report.settings = settings(&command.source, &command.sink);
    report.note = command.output.note.clone();
    report.direct = command.direct;
    report.asked = command.source.duration.is_none().then_some(limit);
    report.relay_died = relay_died;
    report.interrupted = stop.is_set();
    report.allow_duplicates = command.judge.allow_duplicates;
    report.finish();
    Ok((report, under_test))
}

fn under_test(command: &RunCommand, sink: FarSide) -> Result<UnderTest, Failure> {
    if command.direct {
        if sink.dns.is_some() {
            return Err("--direct knows no MX hosts".into());
        }
        return Ok(UnderTest::elsewhere(sink.sink, None));
    }
    match command.relay {
        Some(address) => Ok(UnderTest::elsewhere(address, command.relay_pid)),
        None => UnderTest::prepare(&command.start, sink),
    }
}

/// Until the source is done: by itself, by its duration, by a signal, or because the relay died.
fn load(watch: &mut Watch<'_>, under_test: &mut UnderTest, duration: Option<f64>) {
    while !watch.source.is_finished() {
        watch.tick(under_test);
        let over = duration.is_some_and(|duration| watch.seconds() >= duration);
        if over || watch.is_interrupted() || under_test.ended_by_itself() {
            watch.source.stop();
        }
    }
}
