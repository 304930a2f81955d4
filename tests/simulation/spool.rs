//! One core's spool: stands in for `spool::live` on the virtual disk. The commit
//! machines, the books, the standing and the records are the real ones.

use crate::canary::Canary;
use crate::job::Message;
use crate::keeper::Pool;
use crate::place::{Copy, Extent, Place, SegmentRef};
use crate::power::{self, Of};
use crate::world::{Owner, World, sleep, until};
use ringpost::message::{Envelope, MessageId};
use ringpost::schedule::outcome::Outcome;
use ringpost::spool::SpoolError;
use ringpost::spool::format::{
    FinalMeta, Generation, Kind, MessageMeta, RawExtent, Record, encode_outcome,
};
use ringpost::spool::live::liveness::{MessageLiveness, OutcomeLiveness};
use ringpost::spool::log::commit::{
    AfterFailure, IN_FLIGHT_MAX, Machine, Refused, Release, Stored, Write, WriteFailed,
};
use ringpost::time::WallTime;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub const SEGMENT_BYTES: u64 = 64 * 1024;
pub const STAGING_BYTES: usize = 32 * 1024;
/// Outcomes wait this long for others.
const OUTCOME_DELAY: Duration = Duration::from_millis(5);

/// Something that somebody waits for.
pub type Slot<T> = Rc<RefCell<Option<T>>>;

pub enum MessageTicket {
    Message {
        id: MessageId,
        chunks: Vec<Extent>,
        answer: Slot<Result<Place, SpoolError>>,
    },
    Chunk(Rc<Chunks>),
    Copy {
        copy: Copy,
        answer: Slot<Result<(), SpoolError>>,
    },
}

pub struct OutcomeTicket {
    place: Rc<Place>,
    is_covered: bool,
    answer: Slot<()>,
}

/// The chunks of one large message.
#[derive(Default)]
pub struct Chunks {
    extents: RefCell<Vec<Extent>>,
    waiting: Cell<usize>,
    failed: Cell<bool>,
}

pub struct Spool {
    world: Rc<World>,
    pub core: u16,
    pub run: u32,
    pub messages: RefCell<Machine<SegmentRef, MessageTicket>>,
    pub outcomes: RefCell<Machine<SegmentRef, OutcomeTicket>>,
    outcomes_due: Cell<bool>,
    pub message_book: RefCell<MessageLiveness>,
    pub outcome_book: RefCell<OutcomeLiveness>,
    /// The only reference that outlives a message.
    pub files: RefCell<BTreeMap<Generation, SegmentRef>>,
    pub bad: RefCell<BTreeSet<Generation>>,
    kept: RefCell<BTreeMap<MessageId, Rc<Message>>>,
    pub pool: RefCell<Pool>,
    /// Told to the other cores, in their order.
    pub notes: RefCell<Vec<(Generation, Vec<Generation>)>>,
    next_sequence: Cell<u64>,
}

impl Spool {
    pub fn new(world: &Rc<World>, core: u16, run: u32, pool: Pool) -> Rc<Spool> {
        let in_flight = 1 + world.below(IN_FLIGHT_MAX);
        Rc::new(Spool {
            world: world.clone(),
            core,
            run,
            messages: RefCell::new(Machine::new(STAGING_BYTES, in_flight, AfterFailure::Fail)),
            outcomes: RefCell::new(Machine::new(
                STAGING_BYTES,
                in_flight,
                AfterFailure::WriteAgain,
            )),
            outcomes_due: Cell::new(false),
            message_book: RefCell::default(),
            outcome_book: RefCell::default(),
            files: RefCell::default(),
            bad: RefCell::default(),
            kept: RefCell::default(),
            pool: RefCell::new(pool),
            notes: RefCell::default(),
            next_sequence: Cell::new(0),
        })
    }

    pub fn start(self: &Rc<Self>) {
        for _ in 0..IN_FLIGHT_MAX {
            self.spawn(|spool| async move { spool.write_messages().await });
            self.spawn(|spool| async move { spool.write_outcomes().await });
        }
        self.spawn(|spool| async move { spool.flush_outcomes().await });
        self.spawn(|spool| async move { spool.keep_segments().await });
        self.spawn(|spool| async move { spool.move_mail().await });
    }

    fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, task: impl FnOnce(Rc<Self>) -> F) {
        self.world.spawn(Owner::Relay, task(self.clone()));
    }

    pub fn world(&self) -> &Rc<World> {
        &self.world
    }

    pub fn kept(&self, id: MessageId) -> Option<Rc<Message>> {
        self.kept.borrow().get(&id).cloned()
    }

    pub fn next_id(&self) -> MessageId {
        let sequence = self.next_sequence.get();
        self.next_sequence.set(sequence + 1);
        MessageId {
            run: self.run,
            core: self.core,
            sequence,
        }
    }

    // ---- mail comes in ----

    pub async fn append(
        &self,
        id: MessageId,
        received_at: WallTime,
        envelope: &Envelope,
        body: &[u8],
    ) -> Result<Place, SpoolError> {
        let mut meta = Vec::new();
        MessageMeta::encode(received_at, envelope, &mut meta);
        let record = Record {
            kind: Kind::Message,
            id,
            meta: &meta,
            body,
        };
        if record.bytes() > self.messages.borrow().record_bytes_max() {
            let chunks = Rc::new(Chunks::default());
            self.chunk(id, 0, body, &chunks, false).await?;
            return self.finish(id, received_at, envelope, &chunks).await;
        }
        self.put_message(&record, Vec::new()).await
    }

    async fn put_message(
        &self,
        record: &Record<'_>,
        chunks: Vec<Extent>,
    ) -> Result<Place, SpoolError> {
        let answer = Slot::default();
        let ticket = MessageTicket::Message {
            id: record.id,
            chunks,
            answer: answer.clone(),
        };
        self.put(record, ticket, false).await?;
        until(&self.world, || answer.borrow_mut().take()).await
    }

    /// Waits for room in the log. Moves may use the reserve.
    pub async fn put(
        &self,
        record: &Record<'_>,
        ticket: MessageTicket,
        is_move: bool,
    ) -> Result<(), SpoolError> {
        if !is_move && !self.has_room_for_mail(record.bytes() as u64) {
            return Err(SpoolError::Full);
        }
        let mut ticket = Some(ticket);
        until(&self.world, || {
            let taken = ticket.take().expect("it comes back");
            match self.messages.borrow_mut().append(record, taken) {
                Ok(()) => Some(Ok(())),
                Err((_, Refused::TooLarge)) => Some(Err(SpoolError::TooLarge)),
                Err((_, Refused::NoSegment)) if !self.segment_may_come() => {
                    Some(Err(SpoolError::Full))
                }
                Err((returned, _)) => {
                    ticket = Some(returned);
                    None
                }
            }
        })
        .await
    }

    /// For messages: the last one is for outcomes.
    pub fn segment_may_come(&self) -> bool {
        self.pool.borrow().has_more_than(1)
    }

    /// Appends the next piece of a large body, its chunks numbered from `index` on; the next number.
    pub async fn chunk(
        &self,
        id: MessageId,
        mut index: u32,
        piece: &[u8],
        chunks: &Rc<Chunks>,
        is_move: bool,
    ) -> Result<u32, SpoolError> {
        for part in piece.chunks(STAGING_BYTES / 2 - 100) {
            if chunks.failed.get() {
                return Err(SpoolError::WriteFailed);
            }
            let record = Record {
                kind: Kind::Chunk,
                id,
                meta: &index.to_le_bytes(),
                body: part,
            };
            let ticket = MessageTicket::Chunk(chunks.clone());
            self.put(&record, ticket, is_move).await?;
            // Not released yet: no other task ran since it was taken.
            chunks.waiting.set(chunks.waiting.get() + 1);
            index += 1;
        }
        Ok(index)
    }

    pub async fn finish(
        &self,
        id: MessageId,
        received_at: WallTime,
        envelope: &Envelope,
        chunks: &Rc<Chunks>,
    ) -> Result<Place, SpoolError> {
        let extents = self.durable_chunks(chunks).await?;
        let raw: Vec<RawExtent> = extents.iter().map(Extent::raw).collect();
        let mut meta = Vec::new();
        FinalMeta::encode(received_at, &raw, envelope, &mut meta);
        let record = Record {
            kind: Kind::Final,
            id,
            meta: &meta,
            body: &[],
        };
        self.put_message(&record, extents).await
    }

    pub async fn durable_chunks(&self, chunks: &Rc<Chunks>) -> Result<Vec<Extent>, SpoolError> {
        until(&self.world, || (chunks.waiting.get() == 0).then_some(())).await;
        match chunks.failed.get() {
            true => Err(SpoolError::WriteFailed),
            false => Ok(chunks.extents.take()),
        }
    }

    // ---- outcomes ----

    /// Makes new states durable: they are when this returns.
    pub async fn record(&self, outcome: &Outcome, message: &Message) {
        if self.world.canary == Canary::LosesOutcomes && self.world.one_in(10) {
            return sleep(&self.world, OUTCOME_DELAY).await;
        }
        // The order of these steps matters: see `spool::location::progress`.
        let begun = message.standing.note(&outcome.recipients);
        let place = message.place();
        let is_covered = begun <= place.snapshot;
        let mut answers = Vec::new();
        for meta in encode_outcome(outcome) {
            let record = Record {
                kind: Kind::Outcome,
                id: outcome.message,
                meta: &meta,
                body: &[],
            };
            let answer = Slot::default();
            let mut ticket = Some(OutcomeTicket {
                place: place.clone(),
                is_covered,
                answer: answer.clone(),
            });
            until(&self.world, || {
                let taken = ticket.take().expect("it comes back");
                match self.outcomes.borrow_mut().append(&record, taken) {
                    Ok(()) => Some(()),
                    Err((_, Refused::TooLarge)) => panic!("outcomes fit into a commit"),
                    Err((returned, _)) => {
                        ticket = Some(returned);
                        None
                    }
                }
            })
            .await;
            answers.push(answer);
        }
        for answer in answers {
            until(&self.world, || answer.borrow_mut().take()).await;
        }
    }

    async fn flush_outcomes(&self) {
        loop {
            let waits = || (self.outcomes.borrow().waiting_bytes() > 0).then_some(());
            until(&self.world, waits).await;
            sleep(&self.world, OUTCOME_DELAY).await;
            self.outcomes_due.set(true);
            let written = || (!self.outcomes_due.get()).then_some(());
            until(&self.world, written).await;
        }
    }

    // ---- writers ----

    async fn make_durable<T>(
        &self,
        of: Of,
        write: Write<SegmentRef>,
        machine: &RefCell<Machine<SegmentRef, T>>,
    ) -> (Vec<Release<SegmentRef, T>>, Vec<SegmentRef>) {
        let Write {
            number,
            segment,
            position,
            length,
            buffer,
        } = write;
        let id = segment.generation.segment;
        let (buffer, result) = power::write(&self.world, of, id, position, (buffer, length)).await;
        let mut releases = Vec::new();
        let mut machine = machine.borrow_mut();
        machine.write_done(number, result.is_ok(), buffer, &mut releases);
        if result.is_err() {
            self.bad.borrow_mut().insert(segment.generation);
        }
        (releases, machine.take_sealed())
    }

    async fn write_messages(&self) {
        let of = match self.world.canary {
            Canary::WritesVanish => Of::CommitThatVanishes,
            _ => Of::Commit,
        };
        loop {
            let next = || self.messages.borrow_mut().next_write();
            let write = until(&self.world, next).await;
            let (releases, sealed) = self.make_durable(of, write, &self.messages).await;
            for release in releases {
                self.release_message(release);
            }
            for segment in sealed {
                self.message_book.borrow_mut().sealed(segment.generation);
            }
        }
    }

    async fn write_outcomes(&self) {
        loop {
            let next = || match self.outcomes_due.get() {
                true => self.outcomes.borrow_mut().next_write(),
                false => None,
            };
            let write = until(&self.world, next).await;
            self.outcomes_due
                .set(self.outcomes.borrow().waiting_bytes() > 0);
            let (releases, sealed) = self.make_durable(Of::Commit, write, &self.outcomes).await;
            // What failed waits again, and is not to wait for others.
            if self.outcomes.borrow().waiting_bytes() > 0 {
                self.outcomes_due.set(true);
            }
            for Release { ticket, result } in releases {
                let stored = result.expect("outcomes are written again until they are stored");
                let generation = stored.segment().generation;
                let book = &mut self.outcome_book.borrow_mut();
                book.refers(generation, &ticket.place.generations(), ticket.is_covered);
                *ticket.answer.borrow_mut() = Some(());
            }
            for segment in sealed {
                self.outcome_book.borrow_mut().sealed(segment.generation);
            }
        }
    }

    pub fn release_message(&self, release: Release<SegmentRef, MessageTicket>) {
        let Release { ticket, result } = release;
        match ticket {
            MessageTicket::Chunk(chunks) => {
                chunks.waiting.set(chunks.waiting.get() - 1);
                match result {
                    Ok(stored) => chunks.extents.borrow_mut().push(Extent::of(&stored)),
                    Err(_) => chunks.failed.set(true),
                }
            }
            MessageTicket::Message { id, chunks, answer } => {
                if result.is_err() {
                    self.world.ledger.borrow_mut().may_surface(id);
                }
                let place = result.map_err(|_| SpoolError::WriteFailed).map(|stored| {
                    let place = Place::of(&stored, chunks);
                    self.message_book.borrow_mut().stored(id, &place.parts());
                    place
                });
                *answer.borrow_mut() = Some(place);
            }
            MessageTicket::Copy { copy, answer } => {
                let result = self.copy_released(copy, result);
                *answer.borrow_mut() = Some(result);
            }
        }
    }

    fn copy_released(
        &self,
        copy: Copy,
        result: Result<Stored<SegmentRef>, WriteFailed<SegmentRef>>,
    ) -> Result<(), SpoolError> {
        let Copy {
            message,
            from,
            snapshot,
            chunks,
        } = copy;
        let book = &mut self.message_book.borrow_mut();
        let (place, is_alive, result) = match result {
            Ok(stored) => {
                self.world.seen.borrow_mut().moves += 1;
                let place = Place::of(&stored, chunks);
                let is_alive = book.moved(message.id, &from.parts(), &place.parts());
                (place, is_alive, Ok(()))
            }
            Err(WriteFailed {
                segment: Some(segment),
            }) => {
                let is_alive = book.doubtful(message.id, &from.parts(), segment.generation);
                (
                    from.doubting(segment),
                    is_alive,
                    Err(SpoolError::WriteFailed),
                )
            }
            Err(WriteFailed { segment: None }) => return Err(SpoolError::WriteFailed),
        };
        if is_alive {
            message.moved_to(place.made_with(snapshot));
        }
        result
    }

    /// All recipients are finished, and that is durable.
    pub fn message_finished(&self, id: MessageId) {
        self.kept.borrow_mut().remove(&id);
        self.message_book.borrow_mut().finished(id);
    }

    pub fn keep(&self, message: &Rc<Message>) {
        if self.message_book.borrow().is_live(message.id) {
            self.kept.borrow_mut().insert(message.id, message.clone());
        }
    }

    pub fn describe(&self) -> String {
        let outcomes = self.outcomes.borrow();
        format!(
            "{} messages in the spool, {} bytes of outcomes wait (due: {}), {} writes of them",
            self.live_messages(),
            outcomes.waiting_bytes(),
            self.outcomes_due.get(),
            outcomes.in_flight()
        )
    }

    pub fn live_messages(&self) -> usize {
        self.message_book.borrow().live_messages()
    }
}
