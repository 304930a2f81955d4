//! What a service manager is told and asked: `sd_notify(3)`, the watchdog. Without one, nothing.

use crate::io::{clock, runtime};
use crate::log::{Log, LogLevel, Shown, event};
use crate::metrics::Counter;
use crate::time::Now;
use sd_notify::NotifyState;
use std::time::Duration;

/// The manager may be told so often within the time that it gives us.
const TELLS_PER_LIMIT: u32 = 3;
/// Cores are not looked at more often than they can be expected to have moved.
const WATCH_WAIT_MIN: Duration = Duration::from_secs(1);

/// Mail is taken from now on.
pub fn ready(log: &Log) {
    tell(log, &[NotifyState::Ready, NotifyState::Status("relaying")]);
}

/// Certificate and lists are being read; [`ready`] ends it.
pub fn reloading(log: &Log) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(log, &[NotifyState::Reloading, now]),
        Err(error) => complain(log, &error),
    }
}

/// No more mail is taken; what is under way is brought to its end.
pub fn stopping(log: &Log) {
    let draining = NotifyState::Status("draining");
    tell(log, &[NotifyState::Stopping, draining]);
}

fn tell(log: &Log, states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        complain(log, &error);
    }
}

fn complain(log: &Log, error: &std::io::Error) {
    log.line(LogLevel::Warn, event::SERVICE_MANAGER, clock::wall_time())
        .field("error", Shown(error));
}

/// Tells the manager that all cores are alive, if it wants to know: their heartbeats, which they
/// give from their own loops, have moved since it was told last.
pub struct Watchdog {
    /// How often to tell; `None`: nobody asks.
    wait: Option<Duration>,
    /// When to tell next. What else happens until then puts it off by nothing.
    due: Now,
    seen: Vec<u64>,
}

impl Watchdog {
    pub fn new() -> Self {
        let limit = sd_notify::watchdog_enabled();
        let wait = limit.map(|limit| (limit / TELLS_PER_LIMIT).max(WATCH_WAIT_MIN));
        Watchdog {
            wait,
            due: clock::now() + wait.unwrap_or_default(),
            seen: Vec::new(),
        }
    }

    /// Until the next look; for ever if nobody asks.
    pub async fn pause(&self) {
        match self.wait {
            Some(_) => runtime::sleep_until(self.due).await,
            None => std::future::pending().await,
        }
    }

    /// Looks at the cores. One that stands still makes the manager wait, and then act.
    pub fn look(&mut self, heartbeats: &[Counter], log: &Log) {
        let now: Vec<u64> = heartbeats.iter().map(Counter::get).collect();
        let stuck = stuck(&self.seen, &now);
        match stuck.is_empty() {
            true => tell(log, &[NotifyState::Watchdog]),
            false => {
                log.line(LogLevel::Error, event::CORE_STUCK, clock::wall_time())
                    .field("cores", Shown(format!("{stuck:?}")))
                    .field("effect", "the service manager gets no sign of life");
            }
        }
        self.seen = now;
        self.due = clock::now() + self.wait.unwrap_or_default();
    }
}

/// Cores that have not moved. At the first look there is nothing to compare with.
fn stuck(seen: &[u64], now: &[u64]) -> Vec<usize> {
    let pairs = seen.iter().zip(now).enumerate();
    pairs
        .filter(|(_, (before, after))| before == after)
        .map(|(core, _)| core)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::stuck;

    #[test]
    fn a_core_that_stands_still_is_seen() {
        assert!(stuck(&[], &[0, 0]).is_empty());
        assert!(stuck(&[1, 2], &[2, 3]).is_empty());
        assert_eq!(stuck(&[1, 2, 3], &[2, 2, 3]), [1, 2]);
    }
}
