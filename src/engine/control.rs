//! The control thread, outside of the message path: signals, and the end.

use super::certificates;
use super::log::Writer;
use super::service::{self, Watchdog};
use super::shared::Shared;
use crate::config::Config;
use crate::handoff::Handoff;
use crate::handoff::job::ToCore;
use crate::io::{clock, runtime};
use crate::log::{Log, LogLevel, Shown, event};
use crate::metrics::Snapshot;
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
        handoff: &Handoff<ToCore>,
        writer: &Writer,
        log: &Log,
    ) -> Stopped {
        self.runtime.run(async {
            service::ready(log);
            serve_until_stop(shared, handoff, writer, log, &mut self.signals).await;
            service::stopping(log);
            log.line(LogLevel::Info, event::STOPPING, clock::wall_time());
            log.flush(clock::wall_time());
            let stopped = end(
                drain(shared, handoff),
                shared.config.listen.drain_timeout,
                &mut self.signals,
            )
            .await;
            log_counters(&snapshot_of(shared), log);
            stopped
        })
    }
}

async fn serve_until_stop(
    shared: &Arc<Shared>,
    handoff: &Handoff<ToCore>,
    writer: &Writer,
    log: &Log,
    signals: &mut Signals,
) {
    let mut watchdog = Watchdog::new();
    loop {
        tokio::select! {
        biased;
                    () = watchdog.pause() => watchdog.look(&shared.heartbeats, log),
                    wish = signals.next() => match wish {
                        Wish::Stop => return,
                        Wish::Report => log_metrics(shared, log),
                        Wish::Reload => {
                            service::reloading(log);
                            let reopened = reopen(writer, log);
                            let has_new_keys = reload(shared, handoff, log);
                            log_reload(&shared.config, reopened, has_new_keys, log);
                            service::ready(log);
                        }
                    },
                    () = handoff.inbox.wait() => {
                        handoff.inbox.drain(usize::MAX, drop);
                    }
                }
    }
}

fn log_metrics(shared: &Shared, log: &Log) {
    let snapshot = snapshot_of(shared);
    for text in snapshot.summary().lines() {
        log.line(LogLevel::Info, event::METRICS, clock::wall_time())
            .field("text", text);
    }
    log_counters(&snapshot, log);
    log.flush(clock::wall_time());
}

fn snapshot_of(shared: &Shared) -> Snapshot {
    Snapshot::of(shared.metrics.iter().map(|metrics| &**metrics))
}

/// All counters in one line, for programs.
fn log_counters(snapshot: &Snapshot, log: &Log) {
    let mut line = log.line(LogLevel::Info, event::COUNTERS, clock::wall_time());
    for (name, count) in snapshot.counters() {
        line.field(name, count);
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

/// What was read again, and what was not.
fn log_reload(config: &Config, reopened: bool, has_new_keys: bool, log: &Log) {
    let mut again = Vec::new();
    if has_new_keys {
        again.push("the certificate");
    }
    if config.log.file.is_some() && reopened {
        again.push("the log file, opened anew");
    }
    let mut line = log.line(LogLevel::Info, event::RELOAD, clock::wall_time());
    if !again.is_empty() {
        line.field("read_again", again.join(", "));
    }
    let log_file = (config.log.file.is_some() && !reopened).then_some("the log file");
    let not_again = config
        .read_once
        .iter()
        .map(|it| it.as_ref())
        .chain(log_file);
    line.field(
        "not_read_again",
        not_again.collect::<Vec<&str>>().join(", "),
    )
    .field("remedy", "a restart reads all of it");
    drop(line);
    log.flush(clock::wall_time());
}

/// Reads the certificate for clients again; the old one stays if that fails. True if it is a new one.
fn reload(shared: &Shared, handoff: &Handoff<ToCore>, log: &Log) -> bool {
    let loaded = certificates::reload(&shared.config, &shared.identity);
    let now = clock::wall_time();
    let has_new_keys = loaded.is_ok();
    match loaded {
        Ok(keys) => {
            let keys = keys.keeping_tickets_of(&shared.keys);
            certificates::say(&keys, &shared.config.hostname, log);
            for core in shared.cores() {
                let keys = Box::new(keys.clone());
                handoff.outbox.send(core, ToCore::Keys(keys));
            }
        }
        Err(super::StartError(complaint)) => {
            log.line(LogLevel::Error, event::CERTIFICATE, now)
                .field("error", complaint)
                .field("effect", "the old one stays in use");
        }
    }
    has_new_keys
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
