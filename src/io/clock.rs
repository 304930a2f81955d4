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

/// The monotonic clock as it stood at the last tick of the kernel's timer, 1 to 10 ms coarse, and
/// a quarter of the cost. Microseconds; not to be mixed with [`now`].
pub fn coarse() -> Now {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure that we own. With this clock it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    Now(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}
