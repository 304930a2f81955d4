//! The spool: what was accepted survives.
//!
//! Promise: a [`Receipt`] exists only for a message that survives `kill -9` and a power cut, and 250
//! is only said with a receipt in hand.
//! Not here: who delivers, when, and what the log says.
//!
//! ```text
//! format     the forms on disk (pure)
//! log        batch, sync, release (pure); files with headers
//! live       one core's spool on its ring: writers, what may be let go, segments made and emptied
//! location   where a message lies and how its recipients stand; reading it back
//! recovery   what a crash left (pure), opening the spool on it, looking at one that is not in use
//! shortage   why there is no room (pure)
//! presence   whether a next start would find the spool
//! ```
//!
//! Every core has two logs of its own, each a chain of segments: messages and outcomes.
//! How a message lives and goes:
//!
//! ```text
//! state      message   outcome   after a restart
//! written    whole?    no        dropped if torn, else delivered (250 was not said)
//! accepted   whole     no        delivered
//! deferred   whole     Waiting   tried again when due
//! settled    whole     Finished  nothing; its segment is retired when it is the last
//! moved      twice     Waiting   tried again when due: two copies are one message
//! retired    no        Finished  nothing; the outcome may go now
//! forgotten  no        no        nothing
//! ```

pub mod format;
pub mod live;
pub mod location;
pub mod log;
mod presence;
pub mod recovery;
mod shortage;

pub use format::{Generation, SegmentId};
pub use live::spool::Spool;
pub use live::writer::Writer;
pub use location::message_location::{MessageLocation, Movable};
pub use location::place::{BodyReader, Place, Receipt};
pub use recovery::RecoveryReport;
pub use recovery::directory::OpenError;
pub use recovery::recover::{CorePart, Opened, RecoveredMessage, check, open};

use crate::io::buffer::BLOCK_BYTES;
use crate::io::file::Durability;
use crate::message::MessageId;
use crate::smtp::refusal::Refusal;
use crate::smtp::refusals;
use crate::spool::format::{
    COMMIT_BYTES_MAX, COMMIT_HEADER_BYTES, OUTCOME_META_BYTES_MAX, RECORD_HEAD_BYTES,
};
use std::fmt;
use std::sync::Arc;

/// Smallest segment that makes sense; tests use it.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Offsets of commits are counted in blocks in 32 bits, and recovery reads a segment in one go.
pub const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Longer bodies are stored in chunks, so that one message does not hold up a whole commit.
pub const INLINE_BODY_BYTES_MAX: usize = 256 * 1024;
/// Longer chunks are split.
pub const CHUNK_BYTES_MAX: usize = 128 * 1024;
/// Bound on a commit of outcomes.
pub const OUTCOME_STAGING_BYTES: usize = 256 * 1024;

// Half a segment bounds a commit, and an outcome always fits into one.
const _: () = assert!(
    OUTCOME_META_BYTES_MAX + RECORD_HEAD_BYTES + COMMIT_HEADER_BYTES
        <= SEGMENT_BYTES_MIN as usize / 2
);
const _: () = assert!(OUTCOME_META_BYTES_MAX < OUTCOME_STAGING_BYTES);

/// What is left free on a large file system.
pub const KEEP_FREE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// ... and on a small one: this part of it.
const KEEP_FREE_PART: u64 = 20;

/// What is left free on the file system that holds `path`, if nobody says otherwise.
pub fn keep_free_bytes(path: &std::path::Path) -> u64 {
    crate::io::file::total_bytes_blocking(path).map_or(KEEP_FREE_BYTES_MAX, |total| {
        (total / KEEP_FREE_PART).min(KEEP_FREE_BYTES_MAX)
    })
}

/// How the spool is kept. One copy serves all cores.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size of a segment file in bytes, whole blocks, [`SEGMENT_BYTES_MIN`] to
    /// [`SEGMENT_BYTES_MAX`]. Each core has at least five, so 64 MiB cost 320 MiB per core.
    pub segment_bytes: u64,
    /// Bytes that all segments of all cores may take. `None`: what the file system has, less
    /// `keep_free_bytes`. Only outcomes of mail that was already accepted may exceed it.
    pub spool_bytes_max: Option<u64>,
    /// The largest message that must have room beside others.
    pub message_bytes_max: u64,
    /// Bytes that are left free on the file system. Only outcomes may use them.
    pub keep_free_bytes: u64,
    /// `None` asks the file system which one it can do.
    pub durability: Option<Durability>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            spool_bytes_max: None,
            message_bytes_max: 0,
            keep_free_bytes: KEEP_FREE_BYTES_MAX,
            durability: None,
        }
    }
}

impl Settings {
    /// Segments per core below which nothing works: a current and a spare one for each log, and one to
    /// move on to.
    pub const SEGMENTS_PER_CORE_MIN: u64 = 5;

    /// What records and commits take besides the body, where mail is admitted.
    fn bytes_beside_body(segment_bytes: u64) -> u64 {
        (COMMIT_BYTES_MAX as u64).min(segment_bytes) / 16
    }

    /// Largest messages that a spool of limited size must have room for.
    const MESSAGES_MIN: u64 = 4;

    /// The smallest `spool_bytes_max` that works for so many cores. A message lies in the segments
    /// of one core.
    pub fn spool_bytes_min(&self, cores: u16) -> u64 {
        let block = BLOCK_BYTES as u64;
        // As `Spool::admit` asks for it, in an empty spool. The two blocks: of the segment that is left to moves, and
        // what a message may miss at the end of another.
        let bytes =
            self.message_bytes_max + Self::bytes_beside_body(self.segment_bytes) + 2 * block;
        let of_a_message = bytes.div_ceil(self.segment_bytes - block);
        let of_a_core = Self::SEGMENTS_PER_CORE_MIN + of_a_message - 1;
        let segments = of_a_core.saturating_mul(u64::from(cores));
        let of_messages = self.message_bytes_max.saturating_mul(Self::MESSAGES_MIN);
        segments.saturating_mul(self.segment_bytes).max(of_messages)
    }

    /// Names the setting that is wrong and what is allowed.
    pub fn check(&self, cores: u16) -> Result<(), OpenError> {
        let wrong = |text: String| Err(OpenError::Setting(text));
        if cores == 0 {
            return wrong("the spool needs at least one core".to_owned());
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
        {
            return wrong(format!(
                "the segment size is {} bytes; it must be a multiple of {BLOCK_BYTES} from \
                 {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            ));
        }
        let least = self.spool_bytes_min(cores);
        if self.spool_bytes_max.is_some_and(|most| most < least) {
            return wrong(format!(
                "the spool may take {} bytes; {cores} cores with segments of {} bytes and \
                 messages of {} bytes need at least {least}",
                self.spool_bytes_max.unwrap_or(0),
                self.segment_bytes,
                self.message_bytes_max
            ));
        }
        Ok(())
    }
}

/// Why a message was not made durable. The sender keeps it and tries again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpoolError {
    /// No room. Passes by itself when mail has left or the disk has room again: 452 4.3.1.
    Full,
    /// The disk refused the write; the segment was given up: 451 4.3.0.
    WriteFailed,
    /// The envelope is longer than a commit can hold: 552 5.3.4.
    TooLarge,
    /// The spool is closing: 421 4.3.2.
    Closing,
}

impl SpoolError {
    /// What the sender is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            SpoolError::Full => refusals::SPOOL_FULL,
            SpoolError::TooLarge => refusals::ENVELOPE_TOO_LARGE,
            SpoolError::Closing => refusals::SPOOL_CLOSING,
            SpoolError::WriteFailed => refusals::SPOOL_FAILED,
        }
    }
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpoolError::Full => "the spool is full",
            SpoolError::WriteFailed => "writing to the spool failed",
            SpoolError::TooLarge => "the envelope is too large for the spool",
            SpoolError::Closing => "the spool is closing",
        })
    }
}

impl std::error::Error for SpoolError {}

/// What one core's spool tells all others, and the log.
#[derive(Clone, Debug)]
pub enum Note {
    /// A message segment is gone: hand this to [`Spool::receive_note`] on every other core, in the
    /// order of the notes, which may then let go of outcomes. A note that is lost costs disk space until the next start.
    SegmentRetired {
        generation: Generation,
        /// Where copies of its messages lie: outcomes that they may lack are kept for them.
        moved_to: Arc<[Generation]>,
    },
    /// Mail was refused for want of space: hand this to [`Spool::receive_note`] on every other core, which may have
    /// a segment at work that holds nothing any more, and that outcomes of this core lean on.
    SpaceWanted,
    /// A message cannot be moved, because its body cannot be read. For the log only. It stays where it
    /// is, and is delivered or reported as far as that works.
    Unmovable {
        id: MessageId,
        generation: Generation,
        error: String,
    },
    /// A segment was given up after an error. For the log only.
    SegmentFailed {
        generation: Generation,
        error: String,
    },
    /// Mail is refused or no segment can be made, for want of space. For the log only; said once until it is over.
    NoSpace {
        reason: String,
        /// What this core's segments take, and what the file system has left.
        used_bytes: u64,
        free_bytes: Option<u64>,
    },
    /// There is room for all sorts of mail again.
    SpaceAgain,
    /// No segment can be made or begun, and space is not what is missing. As [`Note::NoSpace`].
    DiskFails { error: String },
    /// The disk takes segments again.
    DiskWorks,
    /// A next start would not find what is written now, nor this core's unfinished messages. As [`Note::NoSpace`],
    /// and once more at the end.
    Gone {
        error: String,
        messages: u64,
        is_last: bool,
    },
    /// It would find them.
    ThereAgain,
}

/// Counters of one core's spool since its start, and its present state.
#[derive(Clone, Copy, Default, Debug)]
pub struct SpoolStats {
    pub message_commits: u64,
    pub message_records: u64,
    pub message_bytes: u64,
    pub outcome_commits: u64,
    pub outcome_records: u64,
    pub outcome_bytes: u64,
    pub write_failures: u64,
    /// Segments that hold messages or outcomes, or are being filled.
    pub segments_in_use: u64,
    pub segments_prepared: u64,
    pub segments_free: u64,
    pub segments_retired: u64,
    pub live_messages: u64,
    /// Messages stored for a session that was gone before its receipt.
    pub abandoned: u64,
    /// Messages that were copied because their segment was wanted.
    pub moved: u64,
    /// Outcomes that were written again so that their segments may go.
    pub rewritten: u64,
    pub outcome_segments: u64,
}
