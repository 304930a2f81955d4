//! What the records of a message say besides its body.

use super::bytes::{Cursor, Malformed, put_u16, put_u32, put_u64};
use super::envelope::put_envelope;
use super::header::{Generation, SegmentId};
use super::outcome_meta::{META_VERSION, States, put_states};
use crate::message::Envelope;
use crate::time::WallTime;

/// First byte of the meta of a message that was moved: states of its recipients follow the envelope.
const COPY_META_VERSION: u8 = 2;

/// A piece of a body: which generation, where in it, how long, and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawExtent {
    pub generation: Generation,
    /// In bytes from the start of the segment.
    pub offset: u64,
    pub bytes: u32,
    pub checksum: u32,
}

/// What a [`Kind::Message`](super::Kind::Message) says besides the body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageMeta {
    pub received_at: WallTime,
    pub envelope: Envelope,
    /// What a moved message took along. Counts as an outcome does.
    pub states: States,
}

impl MessageMeta {
    /// Appends to `out`; takes references, so that nothing is copied to be written.
    pub fn encode(received_at: WallTime, envelope: &Envelope, out: &mut Vec<u8>) {
        out.push(META_VERSION);
        put_u64(out, received_at.0);
        put_envelope(out, envelope);
    }

    /// Of a message that is moved, with the states that it takes along.
    pub fn encode_copy(
        received_at: WallTime,
        envelope: &Envelope,
        states: &States,
        out: &mut Vec<u8>,
    ) {
        out.push(COPY_META_VERSION);
        put_u64(out, received_at.0);
        put_envelope(out, envelope);
        put_states(out, states);
    }

    pub fn decode(meta: &[u8]) -> Result<MessageMeta, Malformed> {
        let mut cursor = Cursor(meta);
        let is_copy = cursor.message_version()?;
        Ok(MessageMeta {
            received_at: WallTime(cursor.u64()?),
            envelope: cursor.envelope()?,
            states: cursor.last_states(is_copy)?,
        })
    }
}

/// What a [`Kind::Final`](super::Kind::Final) says: the message, and where the pieces of its body are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinalMeta {
    pub received_at: WallTime,
    pub body_bytes: u64,
    pub extents: Vec<RawExtent>,
    pub envelope: Envelope,
    /// What a moved message took along. Counts as an outcome does.
    pub states: States,
}

impl FinalMeta {
    pub fn encode(
        received_at: WallTime,
        extents: &[RawExtent],
        envelope: &Envelope,
        out: &mut Vec<u8>,
    ) {
        out.push(META_VERSION);
        Self::encode_rest(received_at, extents, envelope, out);
    }

    /// Of a message that is moved, with the states that it takes along.
    pub fn encode_copy(
        received_at: WallTime,
        extents: &[RawExtent],
        envelope: &Envelope,
        states: &States,
        out: &mut Vec<u8>,
    ) {
        out.push(COPY_META_VERSION);
        Self::encode_rest(received_at, extents, envelope, out);
        put_states(out, states);
    }

    fn encode_rest(
        received_at: WallTime,
        extents: &[RawExtent],
        envelope: &Envelope,
        out: &mut Vec<u8>,
    ) {
        put_u64(out, received_at.0);
        put_u64(out, extents.iter().map(|e| u64::from(e.bytes)).sum());
        put_u32(out, extents.len() as u32);
        for extent in extents {
            put_u16(out, extent.generation.segment.core);
            put_u32(out, extent.generation.segment.number);
            put_u64(out, extent.generation.number);
            put_u64(out, extent.offset);
            put_u32(out, extent.bytes);
            put_u32(out, extent.checksum);
        }
        put_envelope(out, envelope);
    }

    pub fn decode(meta: &[u8]) -> Result<FinalMeta, Malformed> {
        let mut cursor = Cursor(meta);
        let is_copy = cursor.message_version()?;
        let received_at = WallTime(cursor.u64()?);
        let body_bytes = cursor.u64()?;
        let count = cursor.u32()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push(cursor.extent()?);
        }
        let envelope = cursor.envelope()?;
        let states = cursor.last_states(is_copy)?;
        if extents.iter().map(|e| u64::from(e.bytes)).sum::<u64>() != body_bytes {
            return Err(Malformed);
        }
        Ok(FinalMeta {
            received_at,
            body_bytes,
            extents,
            envelope,
            states,
        })
    }
}

impl Cursor<'_> {
    /// Of a message's or final record: is it a copy?
    fn message_version(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            META_VERSION => Ok(false),
            COPY_META_VERSION => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// The end of a message's or final meta.
    fn last_states(&mut self, is_copy: bool) -> Result<States, Malformed> {
        if is_copy {
            return self.states();
        }
        self.end()?;
        Ok(Vec::new())
    }

    fn extent(&mut self) -> Result<RawExtent, Malformed> {
        Ok(RawExtent {
            generation: Generation {
                segment: SegmentId {
                    core: self.u16()?,
                    number: self.u32()?,
                },
                number: self.u64()?,
            },
            offset: self.u64()?,
            bytes: self.u32()?,
            checksum: self.u32()?,
        })
    }
}
