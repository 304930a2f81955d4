//! One core's spool on its ring: what sessions and delivery see of it.

use crate::io::file::Durability;
use crate::io::runtime::spawn;
use crate::io::{Bug, planted};
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::Outcome;
use crate::spool::format::{Kind, MessageMeta, Record};
use crate::spool::live::liveness::WORTHWHILE_PARTS;
use crate::spool::live::pool::MOVE_RESERVE_SEGMENTS;
use crate::spool::live::shared::Shared;
use crate::spool::live::writer::Writer;
use crate::spool::live::writers::{write_messages, write_outcomes};
use crate::spool::live::{allocator, compactor, rewriter, watch};
use crate::spool::location::message_location::{MessageLocation, Movable};
use crate::spool::location::place::Receipt;
use crate::spool::log::commit::IN_FLIGHT_MAX;
use crate::spool::recovery::recover::CorePart;
use crate::spool::shortage::{Lack, Trouble};
use crate::spool::{INLINE_BODY_BYTES_MAX, Note, SpoolError, SpoolStats};
use crate::time::WallTime;
use std::rc::Rc;
use std::sync::Arc;

/// Segments' worth of mail of which nobody has too large a share.
const SHARED_SEGMENTS_MIN: u64 = 4;

/// One core's spool. Clones are the same spool. Ends with [`Spool::close`].
#[derive(Clone)]
pub struct Spool {
    shared: Rc<Shared>,
}

impl Spool {
    /// Starts the spool of this thread's core on the ring that runs here. `sink` gets the notes for
    /// the other cores and the log; it must not call back into the spool.
    ///
    /// Mail is admitted as soon as the first segments are prepared: see [`Spool::ready`].
    pub fn start(part: CorePart, sink: impl Fn(Note) + 'static) -> Spool {
        let in_flight = match part.segments.durability() {
            Durability::Direct => IN_FLIGHT_MAX,
            // The kernel tells a failed sync to one caller per descriptor: with two at once the
            // wrong one may hear of it.
            Durability::Buffered => 1,
        };
        let spool = Spool {
            shared: Rc::new(Shared::new(part, in_flight, Box::new(sink))),
        };
        spawn(allocator::run(spool.shared.clone()));
        spawn(compactor::run(spool.shared.clone()));
        spawn(rewriter::run(spool.shared.clone()));
        spawn(watch::run(spool.shared.clone()));
        for _ in 0..in_flight {
            spawn(write_messages(spool.shared.clone()));
            spawn(write_outcomes(spool.shared.clone()));
        }
        spool
    }

    /// The run that this start of the relay began.
    pub fn run(&self) -> u32 {
        self.shared.run
    }

    /// A new message's id, never used before on this spool.
    pub fn next_id(&self) -> MessageId {
        let sequence = self.shared.next_sequence.get();
        self.shared.next_sequence.set(sequence + 1);
        MessageId {
            run: self.shared.run,
            core: self.shared.core,
            sequence,
        }
    }

    /// Stores a message whose body (wire form) is in memory. Resolves when it is durable; calls at
    /// the same time share a commit. Long bodies are stored in chunks.
    ///
    /// A caller that gives up before the receipt has not accepted the message, and it is let go.
    pub async fn append(
        &self,
        id: MessageId,
        received_at: WallTime,
        envelope: &Envelope,
        body: &[u8],
    ) -> Result<Receipt, SpoolError> {
        let mut meta = self.shared.scratch.take();
        meta.clear();
        MessageMeta::encode(received_at, envelope, &mut meta);
        let record = Record {
            kind: Kind::Message,
            id,
            meta: &meta,
            body,
        };
        let most = self.shared.messages.machine.borrow().record_bytes_max();
        if body.len() > INLINE_BODY_BYTES_MAX || record.bytes() > most {
            let mut writer = self.begin(id);
            writer.chunk(body).await?;
            return writer.finish(received_at, envelope).await;
        }
        let receipt = self.shared.put_message(&record, envelope, Vec::new()).await;
        self.shared.scratch.replace(meta);
        receipt?.await.unwrap_or(Err(SpoolError::Closing))
    }

    /// Begins a message that is too large to be held in memory.
    pub fn begin(&self, id: MessageId) -> Writer {
        Writer::of(self.shared.clone(), id)
    }

    /// Shows a message that this core is home to, so that it can be moved when its segment is
    /// wanted. It is let go by [`Spool::message_finished`]. A message that is never shown stays
    /// where it is, and so does its segment.
    pub fn keep(&self, message: Arc<dyn Movable>) {
        let mut books = self.shared.books.borrow_mut();
        if books.messages.is_live(message.id()) {
            books.unshown.remove(&message.id());
            books.kept.insert(message.id(), message);
        }
    }

    /// Moves no more mail: the relay is about to stop, and the next start needs none of it moved.
    pub fn stop_moving(&self) {
        self.shared.resting.set(true);
    }

    /// Makes new states of recipients durable, then calls `then`: the writer does, so its next write waits for it.
    /// `home` is where the message lies; it takes note of the states at once. Takes as long as the disk is full, and until
    /// the outcome is written elsewhere after a failed write; is never refused.
    pub fn record(&self, outcome: &Outcome, home: &MessageLocation, then: impl FnOnce() + 'static) {
        self.shared.record(outcome, home, then);
    }

    /// All recipients are finished, and that is durable. Only on the message's home core; a
    /// second call changes nothing. Drop all places of the message, too.
    pub fn message_finished(&self, id: MessageId) {
        self.shared.message_finished(id);
    }

    /// A note of another core's spool.
    pub fn receive_note(&self, note: &Note) {
        match note {
            Note::SegmentRetired { generation, .. }
                if planted(Bug::NotesLost) && generation.number.is_multiple_of(2) => {}
            Note::SegmentRetired {
                generation,
                moved_to,
            } => {
                let mut books = self.shared.books.borrow_mut();
                books
                    .outcomes
                    .message_segment_retired(*generation, moved_to);
                books.messages.retired_elsewhere(*generation);
                self.shared.allocator.notify_one();
            }
            Note::SpaceWanted => self.shared.leave_for_space(),
            // For the log only.
            _ => {}
        }
    }

    /// Outcomes wait for a segment, and none can be made because the disk is full.
    pub fn outcomes_lack_space(&self) -> bool {
        let pool = self.shared.pool.borrow();
        let failing = pool.failing.as_ref().map(Lack::trouble);
        let is_starved = || self.shared.outcomes.machine.borrow().is_starved();
        failing == Some(Trouble::Space) && (self.shared.outcomes_in_line.get() > 0 || is_starved())
    }

    /// Is there room for a message of about `bytes`? Cheap. A yes is no promise: an append may
    /// still find the spool full.
    pub fn admit(&self, bytes: Option<u64>) -> Result<(), SpoolError> {
        if self.shared.closing.get() {
            return Err(SpoolError::Closing);
        }
        let least = self.shared.least_room_bytes();
        let wanted = bytes.unwrap_or(0).saturating_add(least);
        let shared = &self.shared;
        let have_reserve = shared.outcomes_have_reserve();
        if have_reserve && shared.has_room_for_mail(wanted) {
            return Ok(());
        }
        match have_reserve && shared.has_room_for_mail(least) {
            true => Err(shared.refusal_of_size()),
            false => Err(shared.refusal()),
        }
    }

    /// About how many octets of mail there is room for, of which the mail of this core that is not done takes
    /// `live_bytes`; and whether that is this core's alone. What dead mail takes counts as far as moves would free it.
    /// `u64::MAX`: it takes little, and if there is no room all the same, that is none of its doing: see [`Spool::admit`].
    pub fn room_for_mail(&self, live_bytes: u64) -> (u64, bool) {
        let pool = self.shared.pool.borrow();
        let reserve = MOVE_RESERVE_SEGMENTS * pool.segment_bytes() + self.shared.least_room_bytes();
        let room = self.shared.room().saturating_sub(reserve);
        let by_moves = pool.bytes_for_messages() / WORTHWHILE_PARTS;
        let left = match pool.is_gone() {
            true => 0,
            false if live_bytes < SHARED_SEGMENTS_MIN * pool.segment_bytes() => u64::MAX,
            false => room.max(by_moves.saturating_sub(live_bytes)),
        };
        (left, pool.is_bounded())
    }

    /// Before the end: looks whether a next start will find what is not delivered, and says so if not.
    pub async fn warn_if_lost(&self) {
        watch::look(&self.shared).await;
        let lack = self.shared.pool.borrow().lack();
        let messages = self.shared.books.borrow().messages.live_messages() as u64;
        if lack.trouble() == Trouble::Gone && messages > 0 {
            (self.shared.sink)(Note::Gone {
                error: lack.to_string(),
                messages,
                is_last: true,
            });
        }
    }

    /// Waits until the first segments are prepared, or it is clear that there is no room for them:
    /// [`Spool::admit`] tells which.
    pub async fn ready(&self) {
        loop {
            let prepared = self.shared.prepared.notified();
            if self.shared.is_prepared.get() {
                return;
            }
            prepared.await;
        }
    }

    /// Waits until all outcomes handed in so far are durable, and all messages durable or refused.
    pub async fn flush(&self) {
        let shared = &self.shared;
        let messages = &shared.messages;
        (messages.until(|| messages.machine.borrow().is_idle())).await;
        (shared.outcomes.until(|| shared.has_no_outcomes_to_write())).await;
    }

    /// Takes no more mail, writes what waits, and ends the tasks. Await it before the ring's
    /// runtime ends: no write may be in flight then. Waits as long as a full disk makes outcomes
    /// wait: bound it in time, and end the process without dropping the runtime past that. An
    /// outcome handed in later is never durable, and its future does not resolve.
    pub async fn close(&self) {
        self.flush().await;
        self.shared.closing.set(true);
        self.shared.messages.ended.set(true);
        self.shared.messages.room.notify_one();
        self.flush().await;
        self.shared.wake_all();
    }

    pub fn stats(&self) -> SpoolStats {
        let shared = &self.shared;
        let messages = shared.messages.machine.borrow();
        let outcomes = shared.outcomes.machine.borrow();
        let (books, pool) = (shared.books.borrow(), shared.pool.borrow());
        let (m, o) = (messages.counters(), outcomes.counters());
        let prepared = (messages.spares() + outcomes.spares()) as u64;
        SpoolStats {
            message_commits: m.commits,
            message_records: m.records,
            message_bytes: m.bytes,
            outcome_commits: o.commits,
            outcome_records: o.records,
            outcome_bytes: o.bytes,
            write_failures: m.failures + o.failures,
            segments_in_use: (books.files.len() as u64).saturating_sub(prepared),
            segments_prepared: prepared,
            segments_free: pool.free_segments(),
            segments_retired: pool.retired_segments(),
            live_messages: books.messages.live_messages() as u64,
            abandoned: shared.abandoned.get(),
            moved: shared.moved.get(),
            rewritten: shared.rewritten.get(),
            outcome_segments: books.outcomes.segments() as u64,
        }
    }
}
