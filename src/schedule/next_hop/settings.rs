//! The limits of one delivery core's schedule, and their defaults.

use crate::schedule::retry::RetryPolicy;
use std::time::Duration;

/// A job has at least this long for a connection that opens or answers slowly, however short the retry interval is.
const QUEUE_WAIT_LEAST: Duration = Duration::from_secs(60);

/// Defaults of [`Settings`].
pub const CONNECTIONS_PER_HOP_MAX: u32 = 20;
pub const CONNECTIONS_MAX: u32 = 2000;
pub const IDLE_WAIT: Duration = Duration::from_secs(10);
pub const CROWDED_WAIT_MAX: Duration = Duration::from_secs(30);

/// The limits of one delivery core's schedule, or before [`Settings::share_of`] of all together.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Connections to a hop that has shown nothing yet, also while none of them was greeted. 1 to `window_max`.
    pub window_initial: u32,
    /// Most connections to one hop. At least 1.
    pub window_max: u32,
    /// Most connections of this core, idle ones included. At least 1. One hop alone gets at most
    /// half of them, so that there is always room for others.
    pub connections_max: u32,
    /// A further connection is opened for this many jobs that nobody is about to take: a
    /// handshake costs as much CPU as about five messages.
    pub jobs_per_new_connection: u32,
    /// ... and only when the oldest job has waited this long for a busy connection.
    pub reuse_wait: Duration,
    /// A job that has waited this long gets a further connection, however few wait with it.
    pub slow_wait: Duration,
    /// While more jobs wait than connections are opening, one more is opened this long after the last, also beyond the window
    /// if a connection was greeted. At most a second.
    pub join_wait: Duration,
    /// A connection without work is kept this long.
    pub idle_wait: Duration,
    /// Connection failures in a row (all hosts of the hop tried) until it counts as dead. At least 1.
    pub failures_until_dead: u32,
    /// Pause after the first connection that could not be opened; doubles with every further one, up to `probe_wait_min`.
    pub failure_wait_min: Duration,
    /// First pause of a dead hop; doubles with every failed probe.
    pub probe_wait_min: Duration,
    pub probe_wait_max: Duration,
    /// First pause after a refusal; doubles with every further one until a success.
    pub refusal_wait_min: Duration,
    pub refusal_wait_max: Duration,
    /// A job is handed back after this long at a hop that is dead or paused all the time.
    pub blocked_wait_max: Duration,
    /// A job is handed back after this long at a hop that is merely slow, so that it can expire.
    pub queue_wait_max: Duration,
    /// A hop is proven as long as neither opening a connection nor a transaction takes longer than this.
    pub proven_wait_max: Duration,
    /// How long a connection may take to open while a hop that has none, and has not failed, waits for room.
    pub crowded_wait_max: Duration,
    /// Jobs that a hop takes before it gives up a connection to a hop that has none, when the
    /// core's connections are all in use.
    pub jobs_per_turn: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            window_initial: 5,
            window_max: CONNECTIONS_PER_HOP_MAX,
            connections_max: CONNECTIONS_MAX,
            jobs_per_new_connection: 10,
            reuse_wait: Duration::from_millis(5),
            slow_wait: Duration::from_millis(100),
            join_wait: Duration::from_millis(500),
            idle_wait: IDLE_WAIT,
            failures_until_dead: 3,
            failure_wait_min: Duration::from_secs(1),
            probe_wait_min: Duration::from_secs(10),
            probe_wait_max: Duration::from_secs(300),
            refusal_wait_min: Duration::from_secs(5),
            refusal_wait_max: Duration::from_secs(300),
            blocked_wait_max: Duration::from_secs(60),
            queue_wait_max: Duration::from_secs(3600),
            proven_wait_max: Duration::from_secs(1),
            crowded_wait_max: CROWDED_WAIT_MAX,
            jobs_per_turn: 100,
        }
    }
}

impl Settings {
    /// What one of so many delivery cores gets of the connections of all. At least 1 core.
    pub fn share_of(mut self, cores: u32) -> Self {
        self.window_max = self.window_max.div_ceil(cores).max(1);
        self.window_initial = self.window_initial.min(self.window_max);
        self.connections_max = (self.connections_max / cores).max(1);
        self
    }

    /// With no pause longer than the retry interval asks for: who wants a try every second gets it
    /// also from a hop that is dead or paused. A hop that is slow has a minute all the same.
    pub fn within(mut self, retry: &RetryPolicy) -> Self {
        for wait in [
            &mut self.failure_wait_min,
            &mut self.probe_wait_min,
            &mut self.refusal_wait_min,
            &mut self.blocked_wait_max,
        ] {
            *wait = (*wait).min(retry.min);
        }
        let longest = retry.max.max(retry.min);
        for wait in [&mut self.probe_wait_max, &mut self.refusal_wait_max] {
            *wait = (*wait).min(longest);
        }
        self.queue_wait_max = self.queue_wait_max.min(longest.max(QUEUE_WAIT_LEAST));
        self
    }

    pub(super) fn assert_sound(&self) {
        assert!(1 <= self.window_initial && self.window_initial <= self.window_max);
        assert!(self.connections_max >= 1 && self.failures_until_dead >= 1);
        assert!(self.jobs_per_new_connection >= 1 && self.jobs_per_turn >= 1);
    }

    /// Hops that are not proven leave an eighth of the connections to those that are.
    pub(super) fn unproven_connections_max(&self) -> u32 {
        self.connections_max - self.connections_max / 8
    }
}
