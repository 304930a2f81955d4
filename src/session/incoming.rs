//! The message that is being received: in memory while it is small, in the spool's log beyond.

use crate::handoff::job::BODY_OFFSET_BYTES;
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

pub struct Incoming {
    pub id: MessageId,
    pub received_at: WallTime,
    /// [`BODY_OFFSET_BYTES`] of padding, then what is not yet handed to the spool, in wire form.
    pub body: Vec<u8>,
    /// Present once the message has outgrown memory.
    writer: Option<Writer>,
    written_bytes: u64,
    failed: Option<SpoolError>,
}

/// Room for a message of `declared_bytes` whose body goes to the log in pieces of `chunk_bytes`. Growing
/// would copy it again and again; the declaration is a hint and binds nobody.
fn capacity(declared_bytes: u32, chunk_bytes: usize) -> usize {
    if declared_bytes == 0 {
        return BODY_CAPACITY_BYTES;
    }
    let text = (declared_bytes as usize).min(chunk_bytes + SCRATCH_BYTES);
    BODY_OFFSET_BYTES + TRACE_BYTES + text + text / STUFFING_SHARE
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
    /// With its padding.
    pub body: Option<Vec<u8>>,
    pub body_bytes: u64,
}

impl Incoming {
    /// A message that the client declared to have `declared_bytes` (0: nothing said), and whose body is spilled beyond
    /// `chunk_bytes`.
    pub fn new(id: MessageId, declared_bytes: u32, chunk_bytes: usize) -> Self {
        Incoming {
            id,
            received_at: clock::wall_time(),
            body: padding(capacity(declared_bytes, chunk_bytes)),
            writer: None,
            written_bytes: 0,
            failed: None,
        }
    }

    /// More than `most` bytes are in memory: [`Self::spill`] is due.
    pub fn has_outgrown(&self, most: usize) -> bool {
        self.unwritten() > most
    }

    /// Hands what is in memory to the log. Waits while the log is behind: that is how a fast
    /// sender is slowed down. An error is kept for [`Self::commit`], since a reply is due only at
    /// the end of the data; until then the rest is dropped.
    pub async fn spill(&mut self, spool: &Spool) {
        if self.failed.is_none() {
            self.failed = self.write(spool).await.err();
        }
        self.written_bytes += self.unwritten() as u64;
        self.body.truncate(BODY_OFFSET_BYTES);
    }

    fn unwritten(&self) -> usize {
        self.body.len() - BODY_OFFSET_BYTES
    }

    async fn write(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(spool.begin(self.id)),
        };
        writer.chunk(&self.body[BODY_OFFSET_BYTES..]).await
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
        let body_bytes = self.written_bytes + self.unwritten() as u64;
        let (receipt, body) = match self.writer.take() {
            None => {
                let body = &self.body[BODY_OFFSET_BYTES..];
                let receipt = spool
                    .append(self.id, self.received_at, envelope, body)
                    .await?;
                (receipt, Some(self.body))
            }
            Some(mut writer) => {
                writer.chunk(&self.body[BODY_OFFSET_BYTES..]).await?;
                (writer.finish(self.received_at, envelope).await?, None)
            }
        };
        Ok(Durable {
            id: self.id,
            received_at: self.received_at,
            receipt,
            body,
            body_bytes,
        })
    }
}
