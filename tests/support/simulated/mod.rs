//! What the simulations share: one source of everything random, and a disk in memory.
#![allow(dead_code, reason = "every simulation uses its own part")]

pub mod disk;
pub mod random;

/// The seeds to run: `RINGPOST_SIMULATION_SEED=n` is one of them alone,
/// `RINGPOST_SIMULATION_SEEDS=n` so many from zero on, and `seeds` are those of an ordinary run.
pub fn seeds(seeds: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("RINGPOST_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGPOST_SIMULATION_SEEDS").unwrap_or(seeds),
    }
}
