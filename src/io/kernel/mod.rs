//! The host itself: the kernel's ring, clocks, files and random numbers.

pub mod clock;
pub mod fs;
pub mod operations;
pub mod random;
pub mod runtime;

/// As the kernel numbers this process.
pub fn process_id() -> u32 {
    std::process::id()
}
