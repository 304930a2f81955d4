//! What encloses the records of one commit.

use super::bytes::{Cursor, put_u32, put_u64};
use super::header::{Nonce, SegmentHeader};
use super::record::RecordView;
use crate::io::buffer::BLOCK_BYTES;

const COMMIT_MAGIC: u64 = u64::from_le_bytes(*b"RINGCMT\n");

pub const COMMIT_HEADER_BYTES: usize = 64;

/// No commit is longer, header included: what recovery must be able to hold at once.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

const _: () = assert!(COMMIT_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

/// The first 64 bytes of a commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitHeader {
    pub nonce: Nonce,
    pub generation: u64,
    /// Where in the segment it was written, in blocks: a misplaced write is not believed.
    pub block: u32,
    /// Counts the commits of one log within one run.
    pub sequence: u64,
    /// Bytes of the records; the padding is not counted.
    pub payload_bytes: u32,
    pub record_count: u32,
    /// Checksum of the commit before this one in the generation; zero for the first.
    pub previous: u32,
}

impl CommitHeader {
    /// Writes the header into the front of `out` and returns its checksum. `heads_checksum` is
    /// [`sum_head`] over all records in their order.
    pub fn encode(&self, heads_checksum: u32, out: &mut [u8]) -> u32 {
        let mut bytes = Vec::with_capacity(COMMIT_HEADER_BYTES);
        put_u64(&mut bytes, COMMIT_MAGIC);
        bytes.extend_from_slice(&self.nonce.0);
        put_u64(&mut bytes, self.generation);
        put_u64(&mut bytes, self.sequence);
        put_u32(&mut bytes, self.block);
        put_u32(&mut bytes, self.payload_bytes);
        put_u32(&mut bytes, self.record_count);
        put_u32(&mut bytes, self.previous);
        put_u32(&mut bytes, heads_checksum);
        let checksum = crc32c::crc32c(&bytes);
        put_u32(&mut bytes, checksum);
        out[..bytes.len()].copy_from_slice(&bytes);
        checksum
    }

    /// The header at the front of `block` if it belongs to this generation and place, with the checksum
    /// of its records' heads and its own. `None` is anything else: zeros, an old generation, a forgery.
    pub fn decode(block: &[u8], segment: &SegmentHeader, position: u64) -> Option<FoundCommit> {
        let mut cursor = Cursor(block);
        (cursor.u64().ok()? == COMMIT_MAGIC).then_some(())?;
        let nonce = Nonce(cursor.array().ok()?);
        let generation = cursor.u64().ok()?;
        (nonce == segment.nonce && generation == segment.generation.number).then_some(())?;
        let sequence = cursor.u64().ok()?;
        let number = cursor.u32().ok()?;
        let payload_bytes = cursor.u32().ok()?;
        let record_count = cursor.u32().ok()?;
        let previous = cursor.u32().ok()?;
        let heads_checksum = cursor.u32().ok()?;
        let summed = block.len() - cursor.0.len();
        let checksum = cursor.u32().ok()?;
        (checksum == crc32c::crc32c(&block[..summed])).then_some(())?;
        let header = CommitHeader {
            nonce,
            generation,
            block: number,
            sequence,
            payload_bytes,
            record_count,
            previous,
        };
        let fits = header.bytes() <= COMMIT_BYTES_MAX
            && position + header.bytes() as u64 <= segment.segment_bytes;
        (fits && u64::from(number) * BLOCK_BYTES as u64 == position).then_some(FoundCommit {
            header,
            heads_checksum,
            checksum,
        })
    }

    /// Header and records, in whole blocks.
    pub fn bytes(&self) -> usize {
        (COMMIT_HEADER_BYTES + self.payload_bytes as usize).next_multiple_of(BLOCK_BYTES)
    }
}

/// A commit header as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundCommit {
    pub header: CommitHeader,
    pub heads_checksum: u32,
    pub checksum: u32,
}

impl FoundCommit {
    /// The records of the commit, if `bytes` (from its header on) holds exactly the heads that
    /// were written with it. A record's body may still be damaged: see [`RecordView::is_whole`].
    pub fn records<'a>(&self, bytes: &'a [u8]) -> Option<Vec<RecordView<'a>>> {
        let end = COMMIT_HEADER_BYTES + self.header.payload_bytes as usize;
        let mut rest = bytes.get(COMMIT_HEADER_BYTES..end)?;
        let mut records = Vec::new();
        let mut heads_checksum = 0;
        while !rest.is_empty() {
            let view = RecordView::decode(rest, end - rest.len())?;
            heads_checksum = sum_head(heads_checksum, view.head_checksum);
            rest = &rest[view.bytes()..];
            records.push(view);
        }
        let complete = records.len() == self.header.record_count as usize
            && heads_checksum == self.heads_checksum;
        complete.then_some(records)
    }
}

/// Adds one record's head checksum to the sum over the heads of a commit, which starts at zero.
pub fn sum_head(sum: u32, head_checksum: u32) -> u32 {
    crc32c::crc32c_append(sum, &head_checksum.to_le_bytes())
}
