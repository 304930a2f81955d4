//! Chance, from the seed.

use super::world;
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::io;

/// Hashes with a key from the seed.
#[derive(Clone, Debug)]
pub struct Keyed(u64);

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// Fills `bytes` with random ones.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    bytes.fill_with(|| u64() as u8);
    Ok(())
}

pub fn u64() -> u64 {
    world::current().random()
}

pub fn keyed() -> Keyed {
    Keyed(u64())
}
