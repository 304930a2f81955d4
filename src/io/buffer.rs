//! Memory that direct I/O can use: aligned to a block of the disk.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of direct I/O in memory, in the file and in length. 4,096 suits every disk sold with
/// 512-byte or 4-KiB sectors.
pub const BLOCK_BYTES: usize = 4096;

/// A zeroed, block-aligned buffer of fixed capacity, a whole number of blocks.
pub struct AlignedBuf {
    start: NonNull<u8>,
    capacity: usize,
}

impl AlignedBuf {
    /// `capacity` in bytes is rounded up to whole blocks; zero becomes one block.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is at least one block, never zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        AlignedBuf { start, capacity }
    }

    /// No memory at all: what is left in place of a buffer that is lent.
    pub fn empty() -> Self {
        AlignedBuf {
            start: NonNull::dangling(),
            capacity: 0,
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("capacity fits isize")
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `capacity` initialised bytes that this value owns; for an empty
        // one it is dangling and well aligned, as a slice of no bytes may be.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.capacity == 0 {
            return;
        }
        // SAFETY: allocated in `new` with this very layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

// SAFETY: the buffer owns its memory and has no shared state.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_whole_blocks() {
        let buffer = AlignedBuf::new(5000);
        assert_eq!(buffer.capacity(), 2 * BLOCK_BYTES);
        assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
        assert!(buffer.iter().all(|&byte| byte == 0));
    }
}
