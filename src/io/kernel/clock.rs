//! The clocks. The only place that reads them.

use crate::time::{Now, WallTime};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds on the monotonic clock.
pub fn now() -> Now {
    read(libc::CLOCK_MONOTONIC)
}

/// How long it is until a time that a library states by its own look at the clock; zero if that has passed.
pub(super) fn until(time: Instant) -> Duration {
    time.saturating_duration_since(Instant::now())
}

/// Milliseconds on the calendar; zero if the calendar stands before 1970.
pub fn wall_time() -> WallTime {
    WallTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
    )
}

/// The monotonic clock as it stood at the last tick of the kernel's timer, 1 to 10 ms before
/// [`now`], at a quarter of the cost.
pub fn coarse() -> Now {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Without `std::time::Instant`: a message reads the clock some forty times, and the conversions of
/// an `Instant` cost more than the reading.
fn read(clock: libc::clockid_t) -> Now {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure that we own. With these clocks it cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Now(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}
