//! A disk in memory that tears writes at a power cut, and decays.

use super::random::Random;
use ringpost::io::buffer::BLOCK_BYTES;
use ringpost::spool::format::{RawExtent, SegmentId};
use ringpost::spool::recovery::Disk;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

const SECTOR_BYTES: usize = 512;

/// What is on the platters.
#[derive(Clone, Default)]
pub struct VirtualDisk {
    pub segments: BTreeMap<SegmentId, Vec<u8>>,
    /// Blocks that give an error when they are read.
    pub unreadable: BTreeSet<(SegmentId, usize)>,
}

impl VirtualDisk {
    /// A file of zeros.
    pub fn create(&mut self, segment: SegmentId, bytes: u64) {
        self.segments.insert(segment, vec![0; bytes as usize]);
    }

    pub fn write(&mut self, segment: SegmentId, position: u64, bytes: &[u8]) {
        let content = self.segments.get_mut(&segment).expect("it was made");
        let start = position as usize;
        content[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Some sectors of a write, as a power cut leaves them.
    pub fn write_torn(
        &mut self,
        random: &mut Random,
        segment: SegmentId,
        position: u64,
        bytes: &[u8],
    ) {
        // All, none, a prefix, or any subset: each is common enough to be met.
        let way = random.below(5);
        let sectors = bytes.len() / SECTOR_BYTES;
        let prefix = random.below(sectors + 1);
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let lands = match way {
                0 => false,
                1 => true,
                2 => index < prefix,
                3 => index + 1 != prefix,
                _ => random.one_in(2),
            };
            if lands {
                self.write(segment, position + (index * SECTOR_BYTES) as u64, sector);
            }
        }
    }

    pub fn extent(&self, extent: &RawExtent) -> &[u8] {
        let start = extent.offset as usize;
        &self.segments[&extent.generation.segment][start..start + extent.bytes as usize]
    }

    pub fn digest(&self) -> u32 {
        self.segments
            .values()
            .fold(0, |sum, content| crc32c::crc32c_append(sum, content))
    }
}

impl Disk for VirtualDisk {
    fn segments(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.segments.keys().copied().collect())
    }

    fn read(&mut self, segment: SegmentId, position: u64, out: &mut [u8]) -> io::Result<usize> {
        let content = &self.segments[&segment][position as usize..];
        let count = content.len().min(out.len());
        let first = position as usize / BLOCK_BYTES;
        let last = (position as usize + count).div_ceil(BLOCK_BYTES);
        let mut read = self.unreadable.range((segment, first)..(segment, last));
        if read.next().is_some() {
            return Err(io::Error::other("input/output error"));
        }
        out[..count].copy_from_slice(&content[..count]);
        Ok(count)
    }
}
