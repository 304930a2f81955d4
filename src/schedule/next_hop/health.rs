//! What a next hop has shown so far: how many connections it bears, and whether to leave it alone.

use super::{Refusal, Settings};
use crate::time::Now;
use std::time::Duration;

/// How a connection failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ConnectionFailure {
    NotOpened,
    Broke,
}

/// The window (additive increase, multiplicative decrease) and the pauses of one next hop.
///
/// Invariant: `1 <= window <= window_max`.
pub(super) struct Health {
    window: u32,
    window_max: u32,
    /// Successes since the window last changed.
    successes: u32,
    /// Connection failures since the last success.
    failures: u32,
    /// When the last of them was noticed.
    failed_at: Option<Now>,
    /// Refusals since the last success.
    refusals: u32,
    /// When the first failure or refusal since the last success was noticed; `NEVER`: there was none.
    pub troubled_since: Now,
    /// No new connection before this.
    pub opens_from: Now,
    /// No job is handed to any connection before this.
    pub takes_from: Now,
}

impl Health {
    pub fn new(settings: &Settings) -> Self {
        Health {
            window: settings.window_initial,
            window_max: settings.window_max,
            successes: 0,
            failures: 0,
            failed_at: None,
            refusals: 0,
            troubled_since: Now::NEVER,
            opens_from: Now(0),
            takes_from: Now(0),
        }
    }

    pub fn window(&self) -> u32 {
        self.window
    }

    pub fn window_max(&self) -> u32 {
        self.window_max
    }

    pub fn set_window_max(&mut self, window_max: u32) {
        self.window_max = window_max.max(1);
        self.window = self.window.min(self.window_max);
    }

    /// A connection failed, and there has been no success since.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Too many failures in a row: one connection at a time, and only now and then.
    pub fn is_dead(&self, settings: &Settings) -> bool {
        self.failures >= settings.failures_until_dead
    }

    /// Connections that the hop may have now.
    pub fn room(&self, settings: &Settings) -> u32 {
        if self.is_dead(settings) {
            1
        } else {
            self.window
        }
    }

    /// Whether the window may grow because jobs wait: the hop may be slow, but nothing speaks against it.
    pub fn may_widen(&self) -> bool {
        self.troubled_since == Now::NEVER && self.window < self.window_max
    }

    /// There are so many connections now, because jobs waited.
    pub fn widen(&mut self, connections: u32) {
        self.window = self.window.max(connections).min(self.window_max);
    }

    /// When every pause is over.
    pub fn paused_until(&self) -> Now {
        self.opens_from.max(self.takes_from)
    }

    /// The window grows by one for each window of successes.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.failed_at = None;
        self.refusals = 0;
        self.troubled_since = Now::NEVER;
        self.successes += 1;
        if self.successes >= self.window {
            self.successes = 0;
            self.window = (self.window + 1).min(self.window_max);
        }
    }

    /// A connection that began to open at `began` could not be made, or broke. What fails together is one failure: one within a
    /// pause, or of a connection that was there when the last one failed, counts no further.
    pub fn failed(
        &mut self,
        failure: ConnectionFailure,
        began: Now,
        now: Now,
        settings: &Settings,
    ) {
        let is_of_last = self.failed_at.is_some_and(|failed_at| began < failed_at);
        if self.opens_from > now || is_of_last {
            return;
        }
        self.shrink();
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        self.troubled_since = self.troubled_since.min(now);
        self.opens_from = now + self.failure_wait(failure, settings);
    }

    /// The first connection that breaks costs no pause: its host may just have been restarted.
    fn failure_wait(&self, failure: ConnectionFailure, settings: &Settings) -> Duration {
        if let Some(excess) = self.failures.checked_sub(settings.failures_until_dead) {
            return doubled(settings.probe_wait_min, excess, settings.probe_wait_max);
        }
        let before = self.failures - 1;
        match failure {
            ConnectionFailure::Broke if before == 0 => Duration::ZERO,
            ConnectionFailure::Broke => doubled(
                settings.failure_wait_min,
                before - 1,
                settings.probe_wait_min,
            ),
            ConnectionFailure::NotOpened => {
                doubled(settings.failure_wait_min, before, settings.probe_wait_min)
            }
        }
    }

    /// The host answers, but wants less. Refusals within a pause count no further.
    pub fn refused(&mut self, now: Now, refusal: Refusal, settings: &Settings) {
        let already = match refusal {
            Refusal::Session => return self.shrink(),
            Refusal::Connection => self.opens_from > now,
            Refusal::Mail => self.takes_from > now,
        };
        if already {
            return;
        }
        self.shrink();
        let wait = doubled(
            settings.refusal_wait_min,
            self.refusals,
            settings.refusal_wait_max,
        );
        self.refusals = self.refusals.saturating_add(1);
        self.troubled_since = self.troubled_since.min(now);
        self.opens_from = self.opens_from.max(now + wait);
        if refusal == Refusal::Mail {
            self.takes_from = now + wait;
        }
    }

    fn shrink(&mut self) {
        self.window = (self.window / 2).max(1);
        self.successes = 0;
    }
}

/// `min` doubled `times` times, at most `max`.
fn doubled(min: Duration, times: u32, max: Duration) -> Duration {
    min.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
        .min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Now {
        Now(count * 1_000_000)
    }

    #[test]
    fn window_grows_by_one_per_window_and_stops_at_the_maximum() {
        let settings = Settings {
            window_initial: 2,
            window_max: 4,
            ..Settings::default()
        };
        let mut health = Health::new(&settings);
        let mut seen = Vec::new();
        for _ in 0..12 {
            health.succeeded();
            seen.push(health.window());
        }
        assert_eq!(seen, [2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn five_connections_failing_together_are_one_round() {
        let settings = Settings {
            failures_until_dead: 1,
            probe_wait_min: Duration::from_secs(10),
            probe_wait_max: Duration::from_secs(35),
            ..Settings::default()
        };
        let mut health = Health::new(&settings);
        for _ in 0..5 {
            health.failed(
                ConnectionFailure::NotOpened,
                seconds(1),
                seconds(1),
                &settings,
            );
        }
        assert_eq!(health.opens_from, seconds(11));
        health.failed(
            ConnectionFailure::NotOpened,
            seconds(11),
            seconds(11),
            &settings,
        );
        assert_eq!(health.opens_from, seconds(31));
        health.failed(
            ConnectionFailure::NotOpened,
            seconds(31),
            seconds(31),
            &settings,
        );
        assert_eq!(health.opens_from, seconds(66));
        assert!(health.is_dead(&settings));
        health.succeeded();
        assert!(!health.is_dead(&settings));
        assert_eq!(health.window(), 2, "one success at a window of one");
    }

    #[test]
    fn connections_that_were_open_together_break_once() {
        let settings = Settings::default();
        let mut health = Health::new(&settings);
        for _ in 0..20 {
            health.failed(ConnectionFailure::Broke, seconds(1), seconds(75), &settings);
        }
        // One that notices late, as a peer that is silent and not gone.
        health.failed(
            ConnectionFailure::Broke,
            seconds(74),
            seconds(300),
            &settings,
        );
        assert!(!health.is_dead(&settings));
        assert_eq!((health.window(), health.opens_from), (2, seconds(75)));
        health.failed(
            ConnectionFailure::Broke,
            seconds(76),
            seconds(301),
            &settings,
        );
        assert_eq!(
            health.opens_from,
            seconds(302),
            "one that came after it counts"
        );
        health.succeeded();
        health.failed(
            ConnectionFailure::Broke,
            seconds(1),
            seconds(303),
            &settings,
        );
        assert_eq!(
            health.troubled_since,
            seconds(303),
            "and any after a success"
        );
    }

    #[test]
    fn failures_to_open_are_spread_over_time() {
        let settings = Settings::default();
        let mut health = Health::new(&settings);
        let mut now = seconds(0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            health.failed(ConnectionFailure::NotOpened, now, now, &settings);
            waits.push(health.opens_from.since(now).as_secs());
            now = health.opens_from;
        }
        assert_eq!(waits, [1, 2, 10, 20, 40, 80]);
    }

    #[test]
    fn refused_connection_leaves_the_others_at_work() {
        let settings = Settings::default();
        let mut health = Health::new(&settings);
        health.refused(seconds(1), Refusal::Connection, &settings);
        assert!(health.opens_from > seconds(1));
        assert_eq!(health.takes_from, Now(0));
        health.refused(seconds(1), Refusal::Mail, &settings);
        assert!(health.takes_from > seconds(1));
        assert_eq!(health.window(), 1);
    }

    #[test]
    fn a_session_that_ends_without_a_reason_halves_the_window_and_pauses_nothing() {
        let settings = Settings::default();
        let mut health = Health::new(&settings);
        for _ in 0..5 {
            health.refused(seconds(1), Refusal::Session, &settings);
        }
        assert_eq!((health.window(), health.paused_until()), (1, Now(0)));
        assert!(health.may_widen(), "as soon as jobs wait");
    }

    #[test]
    fn doubling_never_overflows() {
        let hour = Duration::from_secs(3600);
        assert_eq!(doubled(Duration::from_secs(1), 200, hour), hour);
        assert_eq!(doubled(Duration::ZERO, 200, hour), Duration::ZERO);
    }
}
