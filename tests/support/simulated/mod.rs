//! What the simulations share: one source of everything random, a disk in memory, what is counted, and what is asked of
//! their seeds.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "every simulation uses its own part"
)]

pub mod disk;
pub mod random;
#[macro_use]
pub mod seen;
pub mod seeds;
pub mod shrink;

pub use seeds::seeds;
