//! The message that is being received: in memory while it is small, in the spool's log beyond.

use crate::handoff::job::BODY_OFFSET_BYTES;
use crate::handoff::memory::Level;
use crate::io::clock;
use crate::io::net::SCRATCH_BYTES;
use crate::message::{Envelope, MessageId};
use crate::spool::{Receipt, Spool, SpoolError, Writer};
use crate::time::WallTime;

/// Room that a body of unknown size begins with; most messages fit.
pub const BODY_CAPACITY_BYTES: usize = 16 * 1024;

/// Room for the trace header in front of a body, and for the dots of its lines.
const TRACE_BYTES: usize = 1024;
const STUFFING_SHARE: usize = 64;

/// What a session keeps of a body in memory while that is warm, or tight; the rest goes to the log.
const WARM_BODY_BYTES: usize = 64 * 1024;
const TIGHT_BODY_BYTES: usize = 8 * 1024;
const _: () = assert!(TIGHT_BODY_BYTES < BODY_CAPACITY_BYTES);

/// What a body may take while it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Beyond this it goes to the log, in pieces of this size.
    pub chunk_bytes: usize,
    /// A body up to this size is held all the same until it is whole, and handed over in memory.
    pub whole_bytes: usize,
}

impl Room {
    fn chunk_bytes_at(&self, level: Level) -> usize {
        match level {
            Level::Plenty => self.chunk_bytes,
            Level::Warm => WARM_BODY_BYTES.min(self.chunk_bytes),
            Level::Tight | Level::Full => TIGHT_BODY_BYTES.min(self.chunk_bytes),
        }
    }
}

pub struct Incoming {
    pub id: MessageId,
    pub received_at: WallTime,
    /// [`BODY_OFFSET_BYTES`] of padding, then the text that is held, in wire form.
    pub body: Vec<u8>,
    /// What the client said of its size; 0: nothing.
    declared_bytes: u32,
    /// Of the text that is held, what the log has already.
    written_bytes: usize,
    /// Text that only the log has.
    dropped_bytes: u64,
    /// Present once the message has outgrown memory.
    writer: Option<Writer>,
    failed: Option<SpoolError>,
}

/// Room for text of that size, and for what comes on top.
fn capacity(text_bytes: usize) -> usize {
    BODY_OFFSET_BYTES + TRACE_BYTES + text_bytes + text_bytes / STUFFING_SHARE
}

fn padding(capacity: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(capacity);
    body.resize(BODY_OFFSET_BYTES, 0);
    body
}

/// A message that is durable: where, and its body if it is still in memory.
pub struct Durable {
    pub id: MessageId,
    pub received_at: WallTime,
    pub receipt: Receipt,
    /// With its padding, if it is held.
    pub body: Option<Vec<u8>>,
    pub body_bytes: u64,
}

impl Incoming {
    /// A message that the client declared to have `declared_bytes` (0: nothing said). Growing copies the body
    /// again and again, so that is what it begins with; but nobody is believed beyond a chunk before that has come.
    pub fn new(id: MessageId, declared_bytes: u32, room: Room) -> Self {
        let capacity = match declared_bytes {
            0 => BODY_CAPACITY_BYTES,
            declared => capacity((declared as usize).min(room.chunk_bytes + SCRATCH_BYTES)),
        };
        Incoming {
            id,
            received_at: clock::wall_time(),
            body: padding(capacity),
            declared_bytes,
            written_bytes: 0,
            dropped_bytes: 0,
            writer: None,
            failed: None,
        }
    }

    /// True if [`Self::spill`] is due, with so much memory left.
    pub fn has_outgrown(&self, room: Room, level: Level) -> bool {
        match self.may_be_held(room, level) {
            true => self.unwritten().len() > room.chunk_bytes,
            false => self.text().len() > room.chunk_bytes_at(level),
        }
    }

    /// Hands what is in memory to the log, and lets go of it unless the whole may be held. Waits
    /// while the log is behind: that is how a fast sender is slowed down. An error is kept for
    /// [`Self::commit`], since a reply is due only at the end of the data; until then the rest is
    /// dropped.
    pub async fn spill(&mut self, spool: &Spool, room: Room, level: Level) {
        if self.failed.is_none() {
            self.failed = self.write(spool).await.err();
        }
        if self.failed.is_none() && self.may_be_held(room, level) {
            self.written_bytes = self.text().len();
            let whole = capacity(self.declared_bytes as usize);
            self.body
                .reserve_exact(whole.saturating_sub(self.body.len()));
            return;
        }
        self.dropped_bytes += self.text().len() as u64;
        self.written_bytes = 0;
        self.body.truncate(BODY_OFFSET_BYTES);
        self.body.shrink_to(match level {
            Level::Plenty => capacity(room.chunk_bytes + SCRATCH_BYTES),
            _ => BODY_CAPACITY_BYTES,
        });
    }

    fn may_be_held(&self, room: Room, level: Level) -> bool {
        let expected = self.text().len().max(self.declared_bytes as usize);
        level == Level::Plenty && self.dropped_bytes == 0 && expected <= room.whole_bytes
    }

    fn text(&self) -> &[u8] {
        &self.body[BODY_OFFSET_BYTES..]
    }

    fn unwritten(&self) -> &[u8] {
        &self.text()[self.written_bytes..]
    }

    async fn write(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(spool.begin(self.id)),
        };
        let unwritten = &self.body[BODY_OFFSET_BYTES + self.written_bytes..];
        writer.chunk(unwritten).await
    }

    /// Makes the message durable with its envelope.
    pub async fn commit(
        mut self,
        spool: &Spool,
        envelope: &Envelope,
    ) -> Result<Durable, SpoolError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let body_bytes = self.dropped_bytes + self.text().len() as u64;
        let receipt = match self.writer.take() {
            None => {
                let body = self.text();
                spool
                    .append(self.id, self.received_at, envelope, body)
                    .await?
            }
            Some(mut writer) => {
                writer.chunk(self.unwritten()).await?;
                writer.finish(self.received_at, envelope).await?
            }
        };
        let is_whole = self.dropped_bytes == 0;
        Ok(Durable {
            id: self.id,
            received_at: self.received_at,
            receipt,
            body: is_whole.then_some(self.body),
            body_bytes,
        })
    }
}
