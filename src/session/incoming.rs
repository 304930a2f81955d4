//! The message that is being received: in memory while it is small, in the spool's log beyond.

use crate::handoff::job::BODY_OFFSET_BYTES;
use crate::handoff::memory::MemoryLevel;
use crate::io::clock;
use crate::io::net::SCRATCH_BYTES;
use crate::message::{Envelope, MessageId};
use crate::policy::shares::{ShareCharge, Weight, Who};
use crate::smtp::header;
use crate::smtp::refusal::Refusal;
use crate::smtp::refusals::{DESTINATION_HAS_SHARE, ORIGIN_HAS_SHARE};
use crate::spool::{Receipt, Spool, SpoolError, Writer};
use crate::time::WallTime;

/// Room that a body of unknown size begins with; most messages fit.
const BODY_CAPACITY_BYTES: usize = 16 * 1024;

/// Who has sent so much of a body is believed what it declared of the rest.
const TRUSTED_BODY_BYTES: usize = 64 * 1024;

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
    fn chunk_bytes_at(&self, level: MemoryLevel) -> usize {
        match level {
            MemoryLevel::Plenty => self.chunk_bytes,
            MemoryLevel::Warm => WARM_BODY_BYTES.min(self.chunk_bytes),
            MemoryLevel::Tight | MemoryLevel::Full | MemoryLevel::Spent => {
                TIGHT_BODY_BYTES.min(self.chunk_bytes)
            }
        }
    }
}

/// The text of a body that is in memory while it comes in, and what the log has of it.
pub struct Held {
    /// [`BODY_OFFSET_BYTES`] of padding, then the text, in wire form.
    pub body: Vec<u8>,
    /// What the client said of its size; 0: nothing.
    declared_bytes: u32,
    /// Of the text, what the log has already. The bounds on flags keep it small.
    written_bytes: u32,
    /// Text that only the log has.
    dropped_bytes: u64,
}

pub struct Incoming {
    pub id: MessageId,
    pub received_at: WallTime,
    pub held: Held,
    /// Present once the message has outgrown memory. In a box: few have, and sessions are to be small.
    spilled: Option<Box<Spilled>>,
    failed: Option<NotTaken>,
    /// What it holds of the shares.
    pub share: ShareCharge,
}

/// Why a message is not taken once its body has begun.
pub enum NotTaken {
    Spool(SpoolError),
    /// Whose share of the room does not have it.
    Share(Who),
}

impl NotTaken {
    /// What the sender is told.
    pub fn refusal(&self) -> Refusal {
        match self {
            NotTaken::Spool(error) => error.refusal(),
            NotTaken::Share(Who::Destination) => DESTINATION_HAS_SHARE,
            NotTaken::Share(Who::Origin) => ORIGIN_HAS_SHARE,
        }
    }
}

impl From<SpoolError> for NotTaken {
    fn from(error: SpoolError) -> Self {
        NotTaken::Spool(error)
    }
}

struct Spilled {
    writer: Writer,
    /// Looked for while the start of the body was in memory.
    message_id: Option<Box<[u8]>>,
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
    pub share: ShareCharge,
    message_id: Option<Box<[u8]>>,
}

impl Durable {
    /// The message's own `Message-ID` field, as it came.
    pub fn message_id(&self) -> Option<&[u8]> {
        match (&self.message_id, &self.body) {
            (Some(found), _) => Some(found),
            (None, Some(body)) => header::message_id(&body[BODY_OFFSET_BYTES..]),
            (None, None) => None,
        }
    }
}

impl Held {
    /// For a message that the client declared to have `declared_bytes` (0: nothing said). Growing copies the
    /// body again and again, so that is what it begins with; but nobody is believed at once beyond
    /// [`TRUSTED_BODY_BYTES`].
    pub fn new(declared_bytes: u32) -> Self {
        let capacity = match declared_bytes {
            0 => BODY_CAPACITY_BYTES,
            declared => capacity((declared as usize).min(TRUSTED_BODY_BYTES + SCRATCH_BYTES)),
        };
        Held {
            body: padding(capacity),
            declared_bytes,
            written_bytes: 0,
            dropped_bytes: 0,
        }
    }

    /// Makes room for all that will be held, once enough has come to believe what was declared, and
    /// while memory is plentiful.
    pub fn make_room(&mut self, room: Room, level: MemoryLevel) {
        let is_believed = self.text().len() >= TRUSTED_BODY_BYTES.min(room.chunk_bytes);
        if !is_believed || level != MemoryLevel::Plenty {
            return;
        }
        let declared = self.declared_bytes as usize;
        let held = match self.may_be_whole(room, level) {
            true => declared,
            false => declared.min(room.chunk_bytes + SCRATCH_BYTES),
        };
        let missing = capacity(held).saturating_sub(self.body.len());
        self.body.reserve_exact(missing);
    }

    /// True if what is unwritten is due to be written, with so much memory left.
    pub fn has_outgrown(&self, room: Room, level: MemoryLevel) -> bool {
        match self.may_be_whole(room, level) {
            true => self.unwritten().len() > room.chunk_bytes,
            false => self.text().len() > room.chunk_bytes_at(level),
        }
    }

    /// All is written, or (`is_lost`) will never be: lets go of it, unless the whole may be held.
    pub fn written(&mut self, room: Room, level: MemoryLevel, is_lost: bool) {
        if !is_lost && self.may_be_whole(room, level) {
            self.written_bytes = self.text().len() as u32;
            return;
        }
        self.dropped_bytes += self.text().len() as u64;
        self.written_bytes = 0;
        self.body.truncate(BODY_OFFSET_BYTES);
        self.body.shrink_to(match level {
            MemoryLevel::Plenty => capacity(room.chunk_bytes + SCRATCH_BYTES),
            _ => BODY_CAPACITY_BYTES,
        });
    }

    fn may_be_whole(&self, room: Room, level: MemoryLevel) -> bool {
        let expected = self.text().len().max(self.declared_bytes as usize);
        level == MemoryLevel::Plenty && self.dropped_bytes == 0 && expected <= room.whole_bytes
    }

    fn text(&self) -> &[u8] {
        &self.body[BODY_OFFSET_BYTES..]
    }

    pub fn unwritten(&self) -> &[u8] {
        &self.text()[self.written_bytes as usize..]
    }

    /// Of the whole body until now, wherever it is.
    pub fn body_bytes(&self) -> u64 {
        self.dropped_bytes + self.text().len() as u64
    }

    /// The body with its padding, if nothing of it was let go.
    pub fn into_whole(self) -> Option<Vec<u8>> {
        (self.dropped_bytes == 0).then_some(self.body)
    }
}

impl Incoming {
    pub fn new(id: MessageId, declared_bytes: u32, share: ShareCharge) -> Self {
        Incoming {
            id,
            received_at: clock::wall_time(),
            held: Held::new(declared_bytes),
            spilled: None,
            failed: None,
            share,
        }
    }

    /// It will not be taken: what comes of it is dropped, and counts at nobody's share.
    pub fn refuse(&mut self, why: NotTaken) {
        self.failed = Some(why);
        self.share.set(Weight::default());
    }

    pub fn is_refused(&self) -> bool {
        self.failed.is_some()
    }

    /// Hands what is in memory to the log. Waits while the log is behind: that is how a fast
    /// sender is slowed down. An error is kept for [`Self::commit`], since a reply is due only at
    /// the end of the data; until then the rest is dropped.
    pub async fn spill(&mut self, spool: &Spool, room: Room, level: MemoryLevel) {
        if !self.is_refused()
            && let Err(error) = self.write(spool).await
        {
            self.refuse(NotTaken::Spool(error));
        }
        self.held.written(room, level, self.failed.is_some());
    }

    async fn write(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            None => self.spilled.insert(Box::new(Spilled {
                writer: spool.begin(self.id),
                message_id: header::message_id(self.held.text()).map(Box::from),
            })),
        };
        spilled.writer.chunk(self.held.unwritten()).await
    }

    /// Makes the message durable with its envelope.
    pub async fn commit(mut self, spool: &Spool, envelope: &Envelope) -> Result<Durable, NotTaken> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let rest = self.held.unwritten();
        let mut message_id = None;
        let receipt = match self.spilled.take() {
            None => {
                spool
                    .append(self.id, self.received_at, envelope, rest)
                    .await?
            }
            Some(spilled) => {
                let mut writer = spilled.writer;
                message_id = spilled.message_id;
                writer.chunk(rest).await?;
                writer.finish(self.received_at, envelope).await?
            }
        };
        Ok(Durable {
            id: self.id,
            received_at: self.received_at,
            receipt,
            body_bytes: self.held.body_bytes(),
            share: self.share,
            message_id,
            body: self.held.into_whole(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        chunk_bytes: 1000,
        whole_bytes: 5000,
    };

    /// Takes in so many bytes, which are written when that is due.
    fn receive(held: &mut Held, bytes: usize, level: MemoryLevel) -> bool {
        held.body.extend(vec![b'x'; bytes]);
        let is_due = held.has_outgrown(ROOM, level);
        if is_due {
            held.written(ROOM, level, false);
        }
        is_due
    }

    #[test]
    fn a_body_is_held_until_it_is_whole_although_it_is_written_in_pieces() {
        let mut held = Held::new(0);
        let due = [900, 200, 900, 200].map(|bytes| receive(&mut held, bytes, MemoryLevel::Plenty));
        assert_eq!(due, [false, true, false, true]);
        assert_eq!((held.unwritten().len(), held.body_bytes()), (0, 2200));
        let whole = held.into_whole().expect("it fits");
        assert_eq!(whole.len(), BODY_OFFSET_BYTES + 2200);
    }

    #[test]
    fn what_a_client_declares_is_believed_once_it_has_sent_enough() {
        const ROOM: Room = Room {
            chunk_bytes: 256 * 1024,
            whole_bytes: 2 << 20,
        };
        let mut held = Held::new(1 << 20);
        let modest = held.body.capacity();
        held.body.extend(vec![b'x'; TRUSTED_BODY_BYTES - 1]);
        held.make_room(ROOM, MemoryLevel::Plenty);
        assert_eq!(held.body.capacity(), modest);
        held.body.push(b'x');
        held.make_room(ROOM, MemoryLevel::Warm);
        assert!(held.body.capacity() < 2 * modest);
        held.make_room(ROOM, MemoryLevel::Plenty);
        assert!(held.body.capacity() >= 1 << 20);
    }

    #[test]
    fn a_body_that_is_too_large_is_let_go_and_not_held_again() {
        let mut held = Held::new(0);
        assert!(receive(&mut held, 4000, MemoryLevel::Plenty));
        assert!(receive(&mut held, 1001, MemoryLevel::Plenty));
        assert_eq!(held.body.len(), BODY_OFFSET_BYTES);
        assert!(!receive(&mut held, 1000, MemoryLevel::Plenty));
        assert_eq!((held.unwritten().len(), held.body_bytes()), (1000, 6001));
        assert!(held.into_whole().is_none());
    }

    #[test]
    fn who_declares_too_much_is_not_held_at_all() {
        let mut held = Held::new(5001);
        assert!(receive(&mut held, 1001, MemoryLevel::Plenty));
        assert_eq!(held.body.len(), BODY_OFFSET_BYTES);
    }

    #[test]
    fn what_is_held_is_let_go_when_memory_is_no_longer_plentiful() {
        let mut held = Held::new(0);
        assert!(receive(&mut held, 1001, MemoryLevel::Plenty));
        assert!(receive(&mut held, 1, MemoryLevel::Warm));
        assert_eq!(held.body.len(), BODY_OFFSET_BYTES);
        assert!(held.body.capacity() <= BODY_CAPACITY_BYTES);
        assert_eq!(held.body_bytes(), 1002);
    }

    #[test]
    fn what_could_not_be_written_is_not_held() {
        let mut held = Held::new(0);
        held.body.extend([b'x'; 1001]);
        held.written(ROOM, MemoryLevel::Plenty, true);
        assert_eq!((held.unwritten().len(), held.body_bytes()), (0, 1001));
        assert!(held.into_whole().is_none());
    }
}
