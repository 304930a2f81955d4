//! The message that is being received: in memory while it is small, in the spool's log beyond.

use crate::io::clock;
use crate::message::{Envelope, MessageId};
use crate::spool::{Receipt, Spool, SpoolError, Writer};
use crate::time::WallTime;

/// Room that a body begins with; most messages fit.
const BODY_CAPACITY_BYTES: usize = 16 * 1024;

pub struct Incoming {
    pub id: MessageId,
    pub received_at: WallTime,
    /// Wire form, not yet handed to the spool.
    pub body: Vec<u8>,
    /// Present once the message has outgrown memory.
    writer: Option<Writer>,
    written_bytes: u64,
    failed: Option<SpoolError>,
}

/// A message that is durable: where, and its body if it is still in memory.
pub struct Durable {
    pub id: MessageId,
    pub received_at: WallTime,
    pub receipt: Receipt,
    pub body: Option<Vec<u8>>,
    pub body_bytes: u64,
}

impl Incoming {
    pub fn new(id: MessageId) -> Self {
        Incoming {
            id,
            received_at: clock::wall_time(),
            body: Vec::with_capacity(BODY_CAPACITY_BYTES),
            writer: None,
            written_bytes: 0,
            failed: None,
        }
    }

    /// Hands what is in memory to the log if it is more than `most` bytes. Waits while the log
    /// is behind: that is how a fast sender is slowed down. An error is kept for [`Self::commit`],
    /// since a reply is due only at the end of the data; until then the rest is dropped.
    pub async fn spill(&mut self, spool: &Spool, most: usize) {
        if self.body.len() > most {
            if self.failed.is_none() {
                self.failed = self.write(spool).await.err();
            }
            self.written_bytes += self.body.len() as u64;
            self.body.clear();
        }
    }

    async fn write(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(spool.begin(self.id)),
        };
        writer.chunk(&self.body).await
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
        let body_bytes = self.written_bytes + self.body.len() as u64;
        let (receipt, body) = match self.writer.take() {
            None => {
                let receipt = spool
                    .append(self.id, self.received_at, envelope, &self.body)
                    .await?;
                (receipt, Some(self.body))
            }
            Some(mut writer) => {
                writer.chunk(&self.body).await?;
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
