//! Every form that the spool has on disk: segment header, commit header, record, and what records hold.
//!
//! Pure: bytes in, values out, and back. What is read here comes from a disk, so it may be anything:
//! lengths are checked before they are believed, and nothing panics.
//!
//! ```text
//! segment   block 0: segment header, twice (sectors 0 and 4), each within one 512-byte sector
//!           block 1..: commits, each starting on a block
//! commit    header 64 | record | record | ... | zeros to the end of the block
//! record    head 40 | meta | body
//! ```
//!
//! Each byte is summed once. A record's head holds the checksum of its body; the head's own
//! checksum covers the head and the meta; the commit's checksum covers its header and the
//! checksums of all heads. So a commit whose checksum is right names exactly its records, and a
//! body that is damaged later costs that record and no other.

mod bytes;
mod commit_frame;
mod envelope;
mod header;
mod message_meta;
mod outcome_meta;
mod record;
#[cfg(test)]
mod tests;

pub use bytes::Malformed;
pub use commit_frame::{
    COMMIT_BYTES_MAX, COMMIT_HEADER_BYTES, CommitHeader, FoundCommit, sum_head,
};
pub use header::{FORMAT_VERSION, Generation, HeaderError, Nonce, SegmentHeader, SegmentId, Usage};
pub use message_meta::{FinalMeta, MessageMeta, RawExtent};
pub use outcome_meta::{OUTCOME_META_BYTES_MAX, States, decode_outcome, encode_outcome};
pub use record::{Kind, RECORD_HEAD_BYTES, Record, RecordView, Sums};
