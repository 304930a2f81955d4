//! Time as a number that is handed in. Pure rooms never read a clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock, in microseconds from an arbitrary origin.
/// Deadlines and due times in memory; means nothing after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Now(pub u64);

impl Now {
    /// The far future: no deadline.
    pub const NEVER: Now = Now(u64::MAX);

    /// Zero if `earlier` is in fact later.
    pub fn since(self, earlier: Now) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Now {
    type Output = Now;

    /// Saturates at [`Now::NEVER`].
    fn add(self, wait: Duration) -> Now {
        Now(self
            .0
            .saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A point on the calendar: milliseconds since 1970-01-01T00:00:00Z.
/// For what outlives the process: arrival and retry times in the spool, trace headers, logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Zero if `earlier` is in fact later: calendars jump.
    pub fn since(self, earlier: WallTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for WallTime {
    type Output = WallTime;

    fn add(self, wait: Duration) -> WallTime {
        WallTime(
            self.0
                .saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for WallTime {
    type Output = WallTime;

    fn sub(self, wait: Duration) -> WallTime {
        WallTime(
            self.0
                .saturating_sub(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}
