//! A large message on its way into the log.

use crate::message::{Envelope, MessageId};
use crate::spool::format::{FinalMeta, Kind, RawExtent, Record};
use crate::spool::live::shared::Shared;
use crate::spool::live::tickets::{Chunks, MessageTicket};
use crate::spool::location::place::{Extent, Receipt};
use crate::spool::{CHUNK_BYTES_MAX, SpoolError};
use crate::time::WallTime;
use std::rc::Rc;

/// A large message on its way to the spool. Chunks count only once [`Writer::finish`] has its
/// receipt; dropped before, they are garbage that goes with its segments.
pub struct Writer {
    shared: Rc<Shared>,
    id: MessageId,
    chunks: Rc<Chunks>,
    next_index: u32,
    is_move: bool,
}

impl Writer {
    pub(super) fn of(shared: Rc<Shared>, id: MessageId) -> Writer {
        Writer {
            shared,
            id,
            chunks: Rc::default(),
            next_index: 0,
            is_move: false,
        }
    }

    /// Of a copy.
    pub(super) fn of_copy(shared: Rc<Shared>, id: MessageId) -> Writer {
        Writer {
            is_move: true,
            ..Writer::of(shared, id)
        }
    }

    /// Appends the next piece of the body (wire form), of any length. Waits while the log is
    /// behind, so the memory used is bounded. A message may have about 30,000 pieces: with pieces
    /// of 32 KiB that is 1 GB.
    pub async fn chunk(&mut self, piece: &[u8]) -> Result<(), SpoolError> {
        let log = &self.shared.messages;
        let most = CHUNK_BYTES_MAX.min(log.machine.borrow().record_bytes_max() / 2);
        for part in piece.chunks(most) {
            if self.chunks.failed.get() {
                return Err(SpoolError::WriteFailed);
            }
            let record = Record {
                kind: Kind::Chunk,
                id: self.id,
                meta: &self.next_index.to_le_bytes(),
                body: part,
            };
            let ticket = MessageTicket::Chunk(self.chunks.clone());
            match self.is_move {
                true => self.shared.put_move(&record, ticket).await?,
                false => self.shared.put(&record, ticket).await?,
            }
            // Not released yet: no other task ran since it was taken.
            self.chunks.waiting.set(self.chunks.waiting.get() + 1);
            self.next_index += 1;
        }
        Ok(())
    }

    /// Ends the message. The final record is written when all chunks are durable, and the receipt
    /// is there when the final record is.
    pub async fn finish(
        self,
        received_at: WallTime,
        envelope: &Envelope,
    ) -> Result<Receipt, SpoolError> {
        let extents = self.durable_chunks().await?;
        let raw: Vec<RawExtent> = extents.iter().map(Extent::raw).collect();
        let mut meta = Vec::new();
        FinalMeta::encode(received_at, &raw, envelope, &mut meta);
        let record = Record {
            kind: Kind::Final,
            id: self.id,
            meta: &meta,
            body: &[],
        };
        let receipt = self.shared.put_message(&record, envelope, extents).await?;
        receipt.await.unwrap_or(Err(SpoolError::Closing))
    }

    /// Waits until all chunks are durable, and takes them.
    pub(super) async fn durable_chunks(&self) -> Result<Vec<Extent>, SpoolError> {
        while self.chunks.waiting.get() > 0 {
            self.chunks.changed.notified().await;
        }
        match self.chunks.failed.get() {
            true => Err(SpoolError::WriteFailed),
            false => Ok(self.chunks.extents.take()),
        }
    }
}
