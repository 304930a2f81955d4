//! Byte vectors lent within a thread, so that only connections with work to do hold any.

use super::core_local;
use std::cell::RefCell;

/// Vectors kept for the next borrower.
const KEPT_MAX: usize = 64;
/// Capacity of a new vector, and the least that is kept: a full TLS record and a little more.
const FRESH_BYTES: usize = 20 * 1024;
/// The largest capacity that is kept.
const KEPT_BYTES_MAX: usize = 128 * 1024;

core_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty vector with room.
pub fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES))
}

/// Gives a vector back; what it holds is forgotten. One that grew up elsewhere and is small is not
/// kept: its next borrower would have to grow it.
pub fn give(mut buffer: Vec<u8>) {
    if !(FRESH_BYTES..=KEPT_BYTES_MAX).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT_MAX {
            pool.push(buffer);
        }
    });
}
