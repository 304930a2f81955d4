//! What the relay asks of the host: the ring, its sockets and files, clocks, chance, threads' CPUs.
//!
//! Promise: nothing above waits, reads or writes, tells the time or draws a random number but through here
//! (`tests/layers.rs` watches that).
//! Not here: what bytes mean; and what is read once before the rings start, such as flags and keys.

pub mod buffer;
pub mod cpu;
pub mod file;
pub mod handed_over;
mod kernel;
pub mod limits;
pub mod net;
pub mod pool;
pub mod watch;

pub use kernel::{clock, fs, process_id, random, runtime};

/// Values that each core has for itself.
macro_rules! core_local {
    ($($values:tt)*) => { std::thread_local! { $($values)* } };
}
use core_local;
