//! The first block of a segment file.

use super::bytes::{Cursor, Malformed, put_u16, put_u32, put_u64};
use crate::io::buffer::BLOCK_BYTES;
use std::fmt;

/// Version of all that the spool has on disk. A newer one is refused, never guessed at.
pub const FORMAT_VERSION: u32 = 1;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"RINGSEG\n");

/// Where the two copies of the segment header start within block 0.
pub(super) const HEADER_COPIES: [usize; 2] = [0, 2048];
const SEGMENT_HEADER_BYTES: usize = 80;

const _: () = assert!(SEGMENT_HEADER_BYTES <= 512);

/// A secret of one generation. Whoever does not know it cannot forge a commit into it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(secret)")
    }
}

/// Names a segment file: the core that made it, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId {
    pub core: u16,
    pub number: u32,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}-{:08x}", self.core, self.number)
    }
}

impl SegmentId {
    /// The name in the `segments` directory.
    pub fn file_name(&self) -> String {
        format!("{self}.seg")
    }

    pub fn from_file_name(name: &str) -> Option<SegmentId> {
        let (core, number) = name.strip_suffix(".seg")?.split_once('-')?;
        let id = SegmentId {
            core: u16::from_str_radix(core, 16).ok()?,
            number: u32::from_str_radix(number, 16).ok()?,
        };
        (id.file_name() == name).then_some(id)
    }
}

/// One use of a segment file, from its header to its retirement. Never comes again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation {
    pub segment: SegmentId,
    /// Grows with every header written to the file; starts above every earlier run's.
    pub number: u64,
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.segment, self.number)
    }
}

/// What a segment's generation is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Usage {
    Free,
    Messages,
    Outcomes,
}

/// The first block of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub generation: Generation,
    pub usage: Usage,
    /// The log that this generation belongs to, which is not always the core that made the file.
    pub core: u16,
    pub run: u32,
    /// Position of this generation in its log: see [`SegmentHeader::age`].
    pub log_sequence: u64,
    pub segment_bytes: u64,
    pub nonce: Nonce,
}

/// Why a first block is no segment header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Zeros: the file was being prepared.
    Blank,
    /// Written by a newer version of the relay.
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    /// Grows from segment to segment of one log. A copy is only ever made in a later segment.
    pub fn age(&self) -> (u32, u64) {
        (self.run, self.log_sequence)
    }

    /// Fills `block` (at least [`BLOCK_BYTES`]) with both copies.
    pub fn encode(&self, block: &mut [u8]) {
        block[..BLOCK_BYTES].fill(0);
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        put_u64(&mut bytes, SEGMENT_MAGIC);
        put_u32(&mut bytes, FORMAT_VERSION);
        put_u16(&mut bytes, self.usage as u16);
        put_u16(&mut bytes, self.core);
        put_u32(&mut bytes, self.run);
        put_u16(&mut bytes, self.generation.segment.core);
        put_u16(&mut bytes, 0);
        put_u32(&mut bytes, self.generation.segment.number);
        put_u64(&mut bytes, self.generation.number);
        put_u64(&mut bytes, self.log_sequence);
        put_u64(&mut bytes, self.segment_bytes);
        bytes.extend_from_slice(&self.nonce.0);
        let checksum = crc32c::crc32c(&bytes);
        put_u32(&mut bytes, checksum);
        for start in HEADER_COPIES {
            block[start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Reads the newest whole copy. A write torn between the two leaves one of each, and either
    /// is a state that recovery may find.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let copies =
            HEADER_COPIES.map(|start| Self::decode_copy(block.get(start..).unwrap_or(&[])));
        let mut newest: Option<SegmentHeader> = None;
        for header in copies.iter().flatten() {
            if newest
                .as_ref()
                .is_none_or(|newest| header.generation.number > newest.generation.number)
            {
                newest = Some(header.clone());
            }
        }
        if let Some(newest) = newest {
            return Ok(newest);
        }
        if block.iter().all(|&byte| byte == 0) {
            return Err(HeaderError::Blank);
        }
        let newer = copies
            .into_iter()
            .filter_map(Result::err)
            .find(|error| matches!(error, HeaderError::Newer(_)));
        Err(newer.unwrap_or(HeaderError::Damaged))
    }

    fn decode_copy(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let damaged = |Malformed| HeaderError::Damaged;
        let mut cursor = Cursor(bytes);
        if cursor.u64().map_err(damaged)? != SEGMENT_MAGIC {
            return Err(HeaderError::Damaged);
        }
        let version = cursor.u32().map_err(damaged)?;
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        Self::decode_body(&mut cursor, bytes).map_err(damaged)
    }

    fn decode_body(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<SegmentHeader, Malformed> {
        let usage = match cursor.u16()? {
            0 => Usage::Free,
            1 => Usage::Messages,
            2 => Usage::Outcomes,
            _ => return Err(Malformed),
        };
        let core = cursor.u16()?;
        let run = cursor.u32()?;
        let maker = cursor.u16()?;
        cursor.u16()?;
        let number = cursor.u32()?;
        let generation = cursor.u64()?;
        let log_sequence = cursor.u64()?;
        let segment_bytes = cursor.u64()?;
        let nonce = Nonce(cursor.array()?);
        let summed = bytes.len() - cursor.0.len();
        if cursor.u32()? != crc32c::crc32c(&bytes[..summed]) {
            return Err(Malformed);
        }
        Ok(SegmentHeader {
            generation: Generation {
                segment: SegmentId {
                    core: maker,
                    number,
                },
                number: generation,
            },
            usage,
            core,
            run,
            log_sequence,
            segment_bytes,
            nonce,
        })
    }
}
