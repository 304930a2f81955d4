//! What the load generator stands on: clock, randomness, files, threads, and processes as the kernel
//! sees them.
//!
//! Promise: other rooms ask the kernel for nothing but sockets and a relay to start.
//! Not here: SMTP, mail, the relay under test.

pub mod clock;
pub mod cpu;
pub mod files;
pub mod process;
pub mod random;
pub mod scratch;
pub mod signals;
pub mod workers;
