//! What the relay asks of the host: the ring, its sockets and files, clocks, chance, threads' CPUs.
//!
//! Promise: nothing above waits, reads or writes, tells the time or draws a random number but through here
//! (`tests/layers.rs` watches that).
//! Not here: what bytes mean; and what is read once before the rings start, such as flags and keys.

pub mod buffer;
pub mod clock;
pub mod cpu;
pub mod file;
pub mod fs;
pub mod handed_over;
pub mod limits;
pub mod net;
pub mod pool;
pub mod random;
pub mod runtime;
pub mod watch;

/// As the kernel numbers this process.
pub fn process_id() -> u32 {
    std::process::id()
}

/// Values that each core has for itself.
macro_rules! core_local {
    ($($values:tt)*) => { std::thread_local! { $($values)* } };
}
use core_local;
