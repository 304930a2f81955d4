//! One record: what it is of, and the checksums of its parts.

use super::bytes::Cursor;
use crate::message::MessageId;

pub const RECORD_HEAD_BYTES: usize = 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A message whole: [`MessageMeta`](super::MessageMeta) and its body.
    Message = 1,
    /// A piece of a large message's body. Counts only through its [`Kind::Final`].
    Chunk = 2,
    /// Ends a large message: [`FinalMeta`](super::FinalMeta).
    Final = 3,
    /// New states of recipients.
    Outcome = 4,
}

/// A record about to be written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub kind: Kind,
    pub id: MessageId,
    pub meta: &'a [u8],
    pub body: &'a [u8],
}

/// Checksums of a record that was written into a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    pub head: u32,
    pub body: u32,
}

impl Record<'_> {
    /// Head, meta and body.
    pub fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.meta.len() + self.body.len()
    }

    /// Writes the record into the front of `out`, which is large enough.
    pub fn encode(&self, out: &mut [u8]) -> Sums {
        let (head, rest) = out.split_at_mut(RECORD_HEAD_BYTES);
        let (meta, rest) = rest.split_at_mut(self.meta.len());
        meta.copy_from_slice(self.meta);
        rest[..self.body.len()].copy_from_slice(self.body);
        let body = crc32c::crc32c(self.body);
        head[0..4].copy_from_slice(&(self.bytes() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        head[8..12].copy_from_slice(&self.id.run.to_le_bytes());
        head[12..16].copy_from_slice(&u32::from(self.id.core).to_le_bytes());
        head[16..24].copy_from_slice(&self.id.sequence.to_le_bytes());
        head[24..28].copy_from_slice(&(self.meta.len() as u32).to_le_bytes());
        head[28..32].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        head[32..36].copy_from_slice(&body.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..36]), self.meta);
        head[36..40].copy_from_slice(&sum.to_le_bytes());
        Sums { head: sum, body }
    }
}

/// A record as it was found within a commit. Its head and meta are checked, its body is not yet.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub kind: Kind,
    pub id: MessageId,
    pub meta: &'a [u8],
    pub body: &'a [u8],
    pub head_checksum: u32,
    pub body_checksum: u32,
    /// From the start of the commit to the record's head.
    pub offset: usize,
}

impl<'a> RecordView<'a> {
    /// `bytes` starts with the record; `offset` is remembered. `None` if head or meta are not
    /// as they were written, or the kind is unknown.
    pub fn decode(bytes: &'a [u8], offset: usize) -> Option<RecordView<'a>> {
        let mut cursor = Cursor(bytes);
        let record_bytes = cursor.u32().ok()? as usize;
        let kind = match cursor.u32().ok()? {
            1 => Kind::Message,
            2 => Kind::Chunk,
            3 => Kind::Final,
            4 => Kind::Outcome,
            _ => return None,
        };
        let run = cursor.u32().ok()?;
        let core = u16::try_from(cursor.u32().ok()?).ok()?;
        let sequence = cursor.u64().ok()?;
        let meta_bytes = cursor.u32().ok()? as usize;
        let body_bytes = cursor.u32().ok()? as usize;
        let body_checksum = cursor.u32().ok()?;
        let head_checksum = cursor.u32().ok()?;
        let meta = cursor.take(meta_bytes).ok()?;
        let body = cursor.take(body_bytes).ok()?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..36]), meta);
        let whole = record_bytes == bytes.len() - cursor.0.len() && sum == head_checksum;
        whole.then_some(RecordView {
            kind,
            id: MessageId {
                run,
                core,
                sequence,
            },
            meta,
            body,
            head_checksum,
            body_checksum,
            offset,
        })
    }

    pub fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.meta.len() + self.body.len()
    }

    /// From the start of the commit to the body.
    pub fn body_offset(&self) -> usize {
        self.offset + RECORD_HEAD_BYTES + self.meta.len()
    }

    pub fn is_whole(&self) -> bool {
        crc32c::crc32c(self.body) == self.body_checksum
    }
}
