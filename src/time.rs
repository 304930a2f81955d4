//! Time as a number that is handed in. Pure rooms never read a clock.
//!
//! Promise: numbers only; sums and differences saturate.
//! Not here: the clocks (`io`).

pub mod flow;
pub mod pace;

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

/// When an age began, on the monotonic clock: perhaps long before this process. A calendar that
/// jumps makes nothing older or younger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Birth(i64);

impl Birth {
    /// Of what is this old now.
    pub fn of_age(age: Duration, now: Now) -> Birth {
        let age_us = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let now_us = i64::try_from(now.0).unwrap_or(i64::MAX);
        Birth(now_us.saturating_sub(age_us))
    }

    /// Zero before the birth.
    pub fn age(self, now: Now) -> Duration {
        let now_us = i64::try_from(now.0).unwrap_or(i64::MAX);
        let age_us = now_us.saturating_sub(self.0);
        Duration::from_micros(u64::try_from(age_us).unwrap_or(0))
    }
}

/// A point on the calendar: milliseconds since 1970-01-01T00:00:00Z.
/// For what outlives the process: arrival and retry times in the spool, trace headers, logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallTime(pub u64);

impl WallTime {
    /// The last millisecond that four digits of a year can say.
    pub const LAST: WallTime = WallTime(253_402_300_799_999);

    /// Day and time of day, to the second; what is later than [`WallTime::LAST`] reads as that.
    pub fn in_utc(self) -> ::time::UtcDateTime {
        let seconds = (self.min(Self::LAST).0 / 1000).cast_signed();
        // Every second of those years is one of that calendar.
        ::time::UtcDateTime::from_unix_timestamp(seconds).unwrap_or(::time::UtcDateTime::UNIX_EPOCH)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_goes_on_from_what_it_was() {
        let hour = Duration::from_secs(3600);
        let born = Birth::of_age(hour, Now(5));
        assert_eq!(born.age(Now(5)), hour);
        assert_eq!(born.age(Now(5) + hour), 2 * hour);
        assert_eq!(
            Birth::of_age(Duration::ZERO, Now(5)).age(Now(4)),
            Duration::ZERO
        );
        let endless = Birth::of_age(Duration::MAX, Now::NEVER);
        assert_eq!(
            endless.age(Now::NEVER),
            Duration::from_micros(i64::MAX as u64)
        );
    }
}
