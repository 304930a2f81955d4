//! The clocks. The only place that reads them.

use crate::time::{Now, WallTime};
use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds on the monotonic clock since the first call in this process; never zero.
pub fn now() -> Now {
    Now(ORIGIN.elapsed().as_micros() as u64 + 1)
}

/// Milliseconds on the calendar; zero if the calendar stands before 1970.
pub fn wall_time() -> WallTime {
    WallTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
    )
}
