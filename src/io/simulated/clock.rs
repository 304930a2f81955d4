//! The clocks of the world.

use super::world;
use crate::time::{Now, WallTime};

/// Microseconds since the world began; never zero.
pub fn now() -> Now {
    world::current().now()
}

/// Milliseconds on the calendar.
pub fn wall_time() -> WallTime {
    world::current().wall_time()
}

/// The same as [`now`].
pub fn coarse() -> Now {
    now()
}
