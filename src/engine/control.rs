//! The control thread, outside of the message path: signals, and the end.

use super::asking::Asker;
use super::lane::ToCore;
use super::log::Writer;
use super::reload::Reload;
use super::report;
use super::rules::Rules;
use super::service::{self, Watchdog};
use super::shared::Shared;
use crate::handoff::Handoff;
use crate::io::{clock, runtime};
use crate::log::{Log, LogLevel, Shown, event};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the control thread waits for the log's thread, which may be busy with its disk.
const REOPEN_PATIENCE: Duration = Duration::from_secs(1);

/// How the relay ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// Everything under way was brought to its end.
    Drained,
    /// The time for that was up, or a second signal came: the rest is in the spool.
    AtOnce,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    report: Signal,
    reload: Signal,
}

/// What a signal asks for.
enum Wish {
    Stop,
    Report,
    Reload,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            report: signal(SignalKind::user_defined1())?,
            reload: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
        biased;
                    _ = self.interrupt.recv() => Wish::Stop,
                    _ = self.terminate.recv() => Wish::Stop,
                    _ = self.report.recv() => Wish::Report,
                    _ = self.reload.recv() => Wish::Reload,
                }
    }
}

/// The control thread's loop, ready to receive signals.
pub struct Control {
    runtime: runtime::Control,
    signals: Signals,
}

impl Control {
    /// Takes over the handling of signals; what comes before [`Control::run`] is kept.
    pub fn new() -> io::Result<Self> {
        let runtime = runtime::control()?;
        let signals = runtime.run(async { Signals::new() })?;
        Ok(Control { runtime, signals })
    }

    /// Serves signals until the relay is told to stop and has. Runs on the calling thread.
    pub fn run(
        mut self,
        shared: &Arc<Shared>,
        rules: &mut Rules,
        handoff: &Handoff<ToCore>,
        writer: &Writer,
        log: &Log,
    ) -> Stopped {
        self.runtime.run(async {
            service::ready(log);
            serve_until_stop(shared, rules, handoff, writer, log, &mut self.signals).await;
            service::stopping(log);
            log.line(LogLevel::Info, event::STOPPING, clock::wall_time());
            log.flush(clock::wall_time());
            let stopped = end(
                drain(shared, handoff),
                shared.config.listen.drain_timeout,
                &mut self.signals,
            )
            .await;
            report::log_counters(&report::snapshot_of(shared), log);
            stopped
        })
    }
}

async fn serve_until_stop(
    shared: &Arc<Shared>,
    rules: &mut Rules,
    handoff: &Handoff<ToCore>,
    writer: &Writer,
    log: &Log,
    signals: &mut Signals,
) {
    let mut watchdog = Watchdog::new();
    let mut asker = Asker::new(handoff, shared.cores());
    loop {
        tokio::select! {
        biased;
                    () = watchdog.pause() => watchdog.look(&shared.heartbeats, log),
                    wish = signals.next() => match wish {
                        Wish::Stop => return,
                        Wish::Report => report::report(shared, &mut asker, log).await,
                        Wish::Reload => {
                            service::reloading(log);
                            let reopened = reopen(writer, log);
                            Reload { shared, rules, handoff, log }.run(reopened);
                            let silent = asker.until_received().await;
                            report::say_silent(&silent, "what was read again is not in force there yet", log);
                            rules.tidy();
                            service::ready(log);
                        }
                    },
                    () = handoff.inbox.wait() => {
                        handoff.inbox.drain(usize::MAX, drop);
                    }
                }
    }
}

/// True if that worked.
fn reopen(writer: &Writer, log: &Log) -> bool {
    let result = writer.reopen(REOPEN_PATIENCE);
    if let Err(error) = &result {
        log.line(LogLevel::Warn, event::LOG, clock::wall_time())
            .field("error", Shown(error))
            .field("effect", "the old file stays in use");
        // It may have been renamed or removed: then nobody reads there.
        eprintln!(
            "ringpost: {error}; the log file is not opened anew, and the old one stays in use"
        );
    }
    result.is_ok()
}

/// Has every core bring what is under way to its end. Resolves when all have.
pub async fn drain(shared: &Shared, handoff: &Handoff<ToCore>) {
    for core in shared.cores() {
        handoff.outbox.send(core, ToCore::Drain);
    }
    wait_for_cores(shared.cores().count(), handoff).await;
}

async fn wait_for_cores(cores: usize, handoff: &Handoff<ToCore>) {
    let mut drained = 0;
    loop {
        handoff.inbox.drain(usize::MAX, |item| {
            if let ToCore::Drained = item {
                drained += 1;
            }
        });
        if drained >= cores {
            return;
        }
        handoff.inbox.wait().await;
    }
}

async fn end(
    drained: impl Future<Output = ()>,
    timeout: Duration,
    signals: &mut Signals,
) -> Stopped {
    let second_signal = async { while !matches!(signals.next().await, Wish::Stop) {} };
    tokio::select! {
    biased;
            () = drained => Stopped::Drained,
            () = second_signal => Stopped::AtOnce,
            () = runtime::sleep(timeout) => Stopped::AtOnce,
        }
}
