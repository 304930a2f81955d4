//! Starts the cores, and brings them to their end.

mod control;
mod core;
pub mod log;
pub mod placement;
mod shared;
