//! One clock for a run: wall time in microseconds, advanced by the monotonic clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// Anchored once to the wall clock, then monotonic: differences within a process are exact, and a
/// sink in another process (or on a host with a synchronised clock) can read the source's stamps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
    anchor_us: u64,
}

impl Clock {
    pub fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            anchor: Instant::now(),
            anchor_us: wall.as_micros() as u64,
        }
    }

    /// Microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        self.anchor_us + self.anchor.elapsed().as_micros() as u64
    }
}

/// A point in time as RFC 5322 section 3.3 writes it, always in UTC; one without a year of four digits is 1970's first.
pub fn rfc5322_date(unix_seconds: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(unix_seconds.cast_signed());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc2822).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_the_standard_writes_them() {
        assert_eq!(rfc5322_date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc5322_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(
            rfc5322_date(1_795_532_158),
            "Tue, 24 Nov 2026 14:55:58 +0000"
        );
    }
}
