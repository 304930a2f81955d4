//! Chance that nobody can guess, from the kernel; and hashes that nobody can aim at.

use ring::rand::{SecureRandom, SystemRandom};
use std::io;

/// Hashes with a key of its own: whoever does not know it cannot choose what falls together.
pub use std::hash::RandomState as Keyed;

/// Fills `bytes` with random ones.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| io::Error::other("the system has no random numbers"))
}

pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes).expect("the kernel gives random numbers, or nothing here is safe");
    u64::from_le_bytes(bytes)
}

/// For hashes that decide something: which cell, which of several. Maps of the standard library that only
/// look up need none.
pub fn keyed() -> Keyed {
    Keyed::new()
}
