//! Segments as they are read, piece by piece.

use crate::io::buffer::BLOCK_BYTES;
use crate::spool::format::{COMMIT_BYTES_MAX, SegmentId};
use std::io;

/// Read at once. Holds the longest commit from wherever it starts.
pub(super) const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// The same where zeros are looked for.
const ZEROS_BYTES: usize = 1024 * 1024;
const _: () = assert!(WINDOW_BYTES >= COMMIT_BYTES_MAX);

/// What a scan reads from: real files, or a simulator's.
pub trait Disk {
    /// All segments, in an order that is the same each time.
    fn segments(&mut self) -> io::Result<Vec<SegmentId>>;

    /// Reads into `buffer` from `position`; how many bytes, fewer only at the segment's end.
    fn read(&mut self, segment: SegmentId, position: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// What the disk gives of a commit, with zeros for the blocks that it does not give: heads may be whole
/// although a body is not.
pub(super) fn read_by_blocks(
    disk: &mut dyn Disk,
    segment: SegmentId,
    position: u64,
    length: usize,
) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let blocks = bytes.chunks_mut(BLOCK_BYTES);
    for (at, block) in (position..).step_by(BLOCK_BYTES).zip(blocks) {
        if disk.read(segment, at, block).is_err() {
            block.fill(0);
        }
    }
    bytes
}

/// Nothing was ever written to the segment but zeros. False if it cannot be read.
pub(super) fn is_all_zeros(disk: &mut dyn Disk, segment: SegmentId) -> bool {
    let mut piece = vec![0; ZEROS_BYTES];
    let mut position = 0;
    loop {
        match disk.read(segment, position, &mut piece) {
            Ok(0) => return true,
            Ok(read) if piece[..read].iter().all(|byte| *byte == 0) => position += read as u64,
            _ => return false,
        }
    }
}

/// A piece of a segment in memory.
#[derive(Default)]
pub(super) struct Window {
    pub buffer: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Window {
    /// `length` bytes from `position`, at most [`WINDOW_BYTES`].
    pub fn get(
        &mut self,
        disk: &mut dyn Disk,
        segment: SegmentId,
        position: u64,
        length: usize,
    ) -> io::Result<&[u8]> {
        if self.held(position, length).is_none() {
            self.fill(disk, segment, position, length)?;
        }
        self.held(position, length)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// The same, if it is here.
    pub fn held(&self, position: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.buffer[..self.filled].get(from..from.checked_add(length)?)
    }

    /// Reads ahead; where that fails, no further than is needed.
    fn fill(
        &mut self,
        disk: &mut dyn Disk,
        segment: SegmentId,
        position: u64,
        length: usize,
    ) -> io::Result<()> {
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        (self.start, self.filled) = (position, 0);
        self.filled = match disk.read(segment, position, &mut self.buffer) {
            Ok(read) => read,
            Err(_) => disk.read(segment, position, &mut self.buffer[..length])?,
        };
        Ok(())
    }
}
