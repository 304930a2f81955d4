//! The clocks of the world.

use super::world;
use crate::time::{Now, WallTime};
use std::time::{Duration, Instant};

/// Microseconds since the world began; never zero.
pub fn now() -> Now {
    world::current().now()
}

/// For libraries that keep time by themselves; there are none in a world.
pub fn until(time: Instant) -> Duration {
    time.saturating_duration_since(Instant::now())
}

/// Milliseconds on the calendar.
pub fn wall_time() -> WallTime {
    world::current().wall_time()
}

/// The same as [`now`].
pub fn coarse() -> Now {
    now()
}
