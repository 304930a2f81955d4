//! Byte vectors lent within a thread, so that only connections with work to do hold any.

use std::cell::RefCell;

/// Vectors kept for the next borrower, and the largest that is kept.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: usize = 128 * 1024;
/// Capacity of a new vector: a full TLS record and a little more.
const FRESH_BYTES: usize = 20 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty vector with room.
pub fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES))
}

/// Gives a vector back; what it holds is forgotten.
pub fn give(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() == 0 || buffer.capacity() > KEPT_BYTES_MAX {
        return;
    }
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT_MAX {
            pool.push(buffer);
        }
    });
}
