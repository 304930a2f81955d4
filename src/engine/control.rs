//! The control thread, outside of the message path: signals, and the end.
//!
//! Promise: it waits for nobody without a bound: no file, no reader of what it says, no core.

use super::asking::Asker;
use super::lane::ToCore;
use super::log::Writer;
use super::reload::Reload;
use super::report;
use super::rules::Rules;
use super::service::{self, Watchdog};
use super::shared::Shared;
use super::signals::{Signals, Wish};
use crate::handoff::Handoff;
use crate::io::{clock, runtime};
use crate::log::{Log, LogLevel, event};
use crate::time::Now;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Lines that found no room at the log's writer are handed over again after this time.
const HAND_OVER_AGAIN: Duration = Duration::from_millis(100);

/// What cores that have rested may take to end, if a drain has no more time left.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How the relay ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// Everything under way was brought to its end.
    Drained,
    /// The time for that was up, or a second signal came: the rest is in the spool.
    AtOnce,
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
        self,
        shared: &Arc<Shared>,
        rules: &mut Rules,
        handoff: &Handoff<ToCore>,
        writer: &Writer,
        log: &Log,
    ) -> Stopped {
        let Control { runtime, signals } = self;
        runtime.run(async {
            service::ready(log);
            let mut at_work = AtWork {
                shared,
                log,
                signals,
                watchdog: Watchdog::new(),
                asker: Asker::new(handoff, shared.cores()),
                reload: Reload::new(shared, rules, handoff, writer, log),
            };
            at_work.until_stop().await;
            let stopped = at_work.until_drained().await;
            report::log_counters(&report::snapshot_of(shared), log, Log::line);
            stopped
        })
    }
}

/// What the control thread works with. Each turn of its loops hands its lines over first.
///
/// What is there first in a `select!` must come to its end whatever others do. Signals come as often as somebody
/// likes, so they stand behind what ends a loop.
struct AtWork<'a> {
    shared: &'a Shared,
    log: &'a Log,
    signals: Signals,
    watchdog: Watchdog,
    asker: Asker<'a>,
    reload: Reload<'a>,
}

impl AtWork<'_> {
    async fn until_stop(&mut self) {
        loop {
            let has_lines_left = self.log.flush(clock::wall_time());
            tokio::select! {
                biased;
                () = self.watchdog.pause() => self.watchdog.look(&self.shared.heartbeats, self.log),
                reread = self.reload.read() => self.reload.finish(reread, &mut self.asker).await,
                wish = self.signals.next() => match wish {
                    Wish::Stop => return,
                    Wish::Report => report::report(self.shared, &mut self.asker, self.log).await,
                    Wish::Reload => self.reload.begin(),
                },
                () = self.asker.notified() => drop(self.asker.hear()),
                () = runtime::sleep(HAND_OVER_AGAIN), if has_lines_left => {}
            }
        }
    }

    /// Has the cores end what is under way, within `--drain-timeout`: first all transactions, then, as each core is home to
    /// what others deliver, the cores. Whoever is in the middle of a transaction after that, or after a second signal, is
    /// told so.
    async fn until_drained(&mut self) -> Stopped {
        service::stopping(self.log);
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        (self.log).line(LogLevel::Info, event::STOPPING, clock::wall_time());
        self.reload.give_up();
        self.asker.begin_drain();
        let end = clock::now() + self.shared.config.listen.drain_timeout;
        if self.until_all_or(Phase::Rest, end).await {
            self.asker.close();
            let end = end.max(clock::now() + CLOSE_WITHIN);
            if self.until_all_or(Phase::Close, end).await {
                return Stopped::Drained;
            }
        }
        let left = self.asker.end_at_once().await;
        left.log(self.log);
        Stopped::AtOnce
    }

    /// False if it is `end`, or a second signal has come, before all cores are so far.
    async fn until_all_or(&mut self, phase: Phase, end: Now) -> bool {
        loop {
            let has_lines_left = self.log.flush(clock::wall_time());
            tokio::select! {
                biased;
                () = phase.done(&mut self.asker) => return true,
                () = runtime::sleep_until(end) => return false,
                () = self.watchdog.pause() => self.watchdog.look(&self.shared.heartbeats, self.log),
                wish = self.signals.next() => match wish {
                    Wish::Stop => return false,
                    Wish::Report => tokio::select! {
                        biased;
                        () = runtime::sleep_until(end) => return false,
                        () = report::report(self.shared, &mut self.asker, self.log) => {}
                    },
                    Wish::Reload => self.reload.only_reopen_log(),
                },
                () = runtime::sleep(HAND_OVER_AGAIN), if has_lines_left => {}
            }
        }
    }
}

/// How far a drain is.
#[derive(Clone, Copy)]
enum Phase {
    /// Sessions and transactions end, and what was settled becomes durable.
    Rest,
    /// The cores end.
    Close,
}

impl Phase {
    async fn done(self, asker: &mut Asker<'_>) {
        match self {
            Phase::Rest => asker.rested().await,
            Phase::Close => asker.drained().await,
        }
    }
}
