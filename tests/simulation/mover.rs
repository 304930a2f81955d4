//! Moves mail out of segments that are nearly empty: stands in for `spool::live::compactor`.

use crate::place::{Copy, Extent};
use crate::spool::{Chunks, MessageTicket, SEGMENT_BYTES, STAGING_BYTES, Slot, Spool};
use crate::world::{sleep, until};
use ringpost::message::MessageId;
use ringpost::spool::SpoolError;
use ringpost::spool::format::{FinalMeta, Generation, Kind, MessageMeta, RawExtent, Record};
use std::rc::Rc;
use std::time::Duration;

const LOOK_PAUSE: Duration = Duration::from_millis(50);

impl Spool {
    pub async fn move_mail(&self) {
        loop {
            let generation = until(self.world(), || self.candidate()).await;
            let (mut cursor, mut moved) = (0, 0);
            while let Some(id) = self.next_to_move(generation, &mut cursor) {
                if self.move_one(id).await.is_err() {
                    break;
                }
                moved += 1;
            }
            if moved == 0 {
                self.message_book.borrow_mut().postpone_moving(generation);
            }
            sleep(self.world(), LOOK_PAUSE).await;
        }
    }

    fn candidate(&self) -> Option<Generation> {
        let scarce = !self.segment_may_come();
        // Fuller ones than would be worthwhile, too.
        let (bytes, room) = (2 * SEGMENT_BYTES, SEGMENT_BYTES);
        self.message_book.borrow().candidate(bytes, room, scarce)
    }

    fn next_to_move(&self, generation: Generation, cursor: &mut usize) -> Option<MessageId> {
        let book = self.message_book.borrow();
        book.next_to_move(generation, cursor).expect("few")
    }

    async fn move_one(&self, id: MessageId) -> Result<(), SpoolError> {
        let Some(message) = self.kept(id) else {
            return Ok(());
        };
        let from = message.place();
        let body = from.read(self.world());
        let mut chunks = Vec::new();
        if body.len() > STAGING_BYTES / 2 {
            let pieces = Rc::new(Chunks::default());
            self.chunk(id, 0, &body, &pieces, true).await?;
            chunks = self.durable_chunks(&pieces).await?;
        }
        let snapshot = message.standing.snapshot();
        if snapshot.is_finished {
            return Ok(());
        }
        let raw: Vec<RawExtent> = chunks.iter().map(Extent::raw).collect();
        let (received_at, envelope) = (message.received_at, &message.envelope);
        let mut meta = Vec::new();
        let states = &snapshot.states;
        let (kind, body) = match raw.is_empty() {
            true => {
                MessageMeta::encode_copy(received_at, envelope, states, &mut meta);
                (Kind::Message, &body[..])
            }
            false => {
                FinalMeta::encode_copy(received_at, &raw, envelope, states, &mut meta);
                (Kind::Final, &[][..])
            }
        };
        let record = Record {
            kind,
            id,
            meta: &meta,
            body,
        };
        let answer = Slot::default();
        let copy = Copy {
            message: message.clone(),
            from,
            snapshot: snapshot.number,
            chunks,
        };
        let ticket = MessageTicket::Copy {
            copy,
            answer: answer.clone(),
        };
        self.put(&record, ticket, true).await?;
        until(self.world(), || answer.borrow_mut().take()).await
    }
}
