//! One core's spool on its ring: two logs, their writers, and the books.
//!
//! Each log has as many writer tasks as it may have writes in flight. A writer takes the next
//! batch from the commit machine, makes it durable, and releases the tickets: all on this thread, so
//! waiting sessions are woken without a wake-up between threads.

use crate::io::buffer::AlignedBuf;
use crate::io::clock;
use crate::io::file::{Durability, File};
use crate::io::runtime::{sleep, spawn};
use crate::io::{Bug, planted};
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::{Outcome, RecipientState};
use crate::spool::format::{
    COMMIT_BYTES_MAX, FinalMeta, Kind, Lap, MessageMeta, RawExtent, Record, SegmentHeader, Usage,
    encode_outcome,
};
use crate::spool::live::allocator::{self, Pool};
use crate::spool::live::compactor::{self, Copy, MOVE_RESERVE_SEGMENTS};
use crate::spool::live::liveness::{Busy, MessageBook, OutcomeBook, Part};
use crate::spool::location::message_location::{Foothold, Movable, Residence};
use crate::spool::location::place::{Extent, Place, Receipt, SegmentFile};
use crate::spool::log::commit::{
    AfterFailure, Head, IN_FLIGHT_MAX, Machine, Refused, Release, Stored, Write, WriteFailed,
};
use crate::spool::presence::{self, Presence};
use crate::spool::recovery::recover::{CorePart, OldSegment};
use crate::spool::shortage::{ENOUGH_PART, Lack, Shortage, Trouble};
use crate::spool::{
    CHUNK_BYTES_MAX, INLINE_BODY_BYTES_MAX, Note, OUTCOME_FLUSH_BYTES, OUTCOME_STAGING_BYTES,
    Settings, SpoolError, SpoolStats,
};
use crate::time::{Now, WallTime};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, oneshot};

/// Other cores are asked for space no more often than this.
const ASK_PAUSE: Duration = Duration::from_secs(1);

type SegmentRef = Arc<SegmentFile>;

/// What waits for a record of the message log.
pub(in crate::spool) enum MessageTicket {
    /// A message's own or final record.
    Message {
        id: MessageId,
        recipients: u32,
        chunks: Vec<Extent>,
        answer: oneshot::Sender<Result<Receipt, SpoolError>>,
    },
    Chunk(Rc<Chunks>),
    /// The same of a copy.
    Copy {
        copy: Copy,
        answer: oneshot::Sender<Result<(), SpoolError>>,
    },
}

/// What waits for a record of the outcome log.
pub(in crate::spool) struct OutcomeTicket {
    home: Rc<Foothold>,
    /// Called when the record is durable; with the last record of an outcome.
    then: Option<Box<dyn FnOnce()>>,
}

/// The chunks of one large message.
#[derive(Default)]
pub(in crate::spool) struct Chunks {
    /// Durable ones, in their order.
    extents: RefCell<Vec<Extent>>,
    waiting: Cell<usize>,
    failed: Cell<bool>,
    changed: Notify,
}

/// One log: the machine and who waits for it.
pub(in crate::spool) struct Log<T> {
    pub machine: RefCell<Machine<SegmentRef, T>>,
    /// For the writers: something may be written now.
    work: Notify,
    /// For the one appender that holds the gate: there may be room now.
    room: Notify,
    /// Appenders that find no room queue here, in their order.
    gate: Mutex<()>,
    /// For those who wait until nothing waits or is in flight.
    idle: Notify,
    /// Waiting records are to be written although they are few. Always true for messages.
    due: Cell<bool>,
    /// Takes no more records, also of those who wait for room.
    ended: Cell<bool>,
}

impl<T> Log<T> {
    fn new(staging_bytes: usize, in_flight: usize, after_failure: AfterFailure, due: bool) -> Self {
        Log {
            machine: RefCell::new(Machine::new(staging_bytes, in_flight, after_failure)),
            work: Notify::new(),
            room: Notify::new(),
            gate: Mutex::new(()),
            idle: Notify::new(),
            due: Cell::new(due),
            ended: Cell::new(false),
        }
    }

    /// Takes the record if there is room and nobody waits for it, else gives the ticket back.
    fn put_now(&self, record: &Record<'_>, ticket: T) -> Result<(), T> {
        let Ok(_turn) = self.gate.try_lock() else {
            return Err(ticket);
        };
        let appended = self.machine.borrow_mut().append(record, ticket);
        appended.map_err(|(ticket, _)| ticket)
    }

    /// Takes the record, waiting for room in the order of the callers. `wait` decides whether a
    /// lack of segments is waited for.
    async fn put(
        &self,
        record: &Record<'_>,
        ticket: T,
        wait: impl Fn() -> bool,
    ) -> Result<(), SpoolError> {
        let _turn = match self.gate.try_lock() {
            Ok(turn) => turn,
            Err(_) => self.gate.lock().await,
        };
        let mut ticket = ticket;
        loop {
            if self.ended.get() {
                return Err(SpoolError::Closing);
            }
            let appended = self.machine.borrow_mut().append(record, ticket);
            match appended {
                Ok(()) => return Ok(()),
                Err((_, Refused::TooLarge)) => return Err(SpoolError::TooLarge),
                Err((_, Refused::NoSegment)) if !wait() => return Err(SpoolError::Full),
                Err((returned, _)) => ticket = returned,
            }
            self.work.notify_one();
            self.room.notified().await;
        }
    }
}

struct Books {
    messages: MessageBook,
    outcomes: OutcomeBook,
    /// Segments of this core that are in use. The only reference that outlives a message.
    files: BTreeMap<Lap, SegmentRef>,
    /// Set aside when they are retired.
    bad: BTreeSet<Lap>,
    /// Unfinished messages of this home that can be moved.
    kept: HashMap<MessageId, Arc<dyn Movable>>,
}

/// What the tasks of one core's spool share.
pub(in crate::spool) struct Shared {
    core: u16,
    pub run: u32,
    outcome_delay: Duration,
    pub messages: Log<MessageTicket>,
    pub outcomes: Log<OutcomeTicket>,
    books: RefCell<Books>,
    pub pool: RefCell<Pool>,
    /// For the keeper: a segment may be wanted or idle.
    pub keeper: Notify,
    /// For the mover: a segment is wanted.
    pub mover: Notify,
    /// Nothing is to be moved any more.
    resting: Cell<bool>,
    moved: Cell<u64>,
    pub sink: Box<dyn Fn(Note)>,
    pub presence: Arc<Presence>,
    shortage: RefCell<Shortage>,
    /// The keeper has prepared what it wants or found that it cannot.
    is_settled: Cell<bool>,
    settled: Notify,
    next_sequence: Cell<u64>,
    /// Reused for encoding what precedes a body.
    scratch: RefCell<Vec<u8>>,
    /// Outcomes for whose records there is no room yet.
    outcomes_in_line: Cell<usize>,
    timer_runs: Cell<bool>,
    /// The other cores were just asked to make space.
    has_asked: Cell<bool>,
    closing: Cell<bool>,
    abandoned: Cell<u64>,
}

impl Shared {
    fn new(part: CorePart, in_flight: usize, sink: Box<dyn Fn(Note)>) -> Self {
        let room = (part.segments.segment_bytes() / 2) as usize;
        let staging = COMMIT_BYTES_MAX.min(room);
        let outcome_staging = OUTCOME_STAGING_BYTES.min(room);
        let mut pool = Pool::new(
            part.segments,
            (part.core, part.run),
            &part.settings,
            part.segments_max,
            part.next_number,
        );
        pool.adopt(part.free, part.old_messages.len() + part.old_outcomes.len());
        Shared {
            core: part.core,
            run: part.run,
            outcome_delay: part.settings.outcome_delay,
            messages: Log::new(staging, in_flight, AfterFailure::Fail, true),
            outcomes: Log::new(outcome_staging, in_flight, AfterFailure::WriteAgain, false),
            books: RefCell::new(Books::of(part.live, part.old_messages, part.old_outcomes)),
            pool: RefCell::new(pool),
            keeper: Notify::new(),
            mover: Notify::new(),
            resting: Cell::new(false),
            moved: Cell::new(0),
            sink,
            presence: part.presence,
            shortage: RefCell::default(),
            is_settled: Cell::new(false),
            settled: Notify::new(),
            next_sequence: Cell::new(0),
            scratch: RefCell::new(Vec::new()),
            outcomes_in_line: Cell::new(0),
            timer_runs: Cell::new(false),
            has_asked: Cell::new(false),
            closing: Cell::new(false),
            abandoned: Cell::new(0),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closing.get()
            && self.messages.machine.borrow().is_idle()
            && self.has_no_outcomes_to_write()
    }

    fn has_no_outcomes_to_write(&self) -> bool {
        self.outcomes_in_line.get() == 0 && self.outcomes.machine.borrow().is_idle()
    }

    /// Gives a log the segment that was prepared for it.
    pub fn supply(&self, usage: Usage, header: SegmentHeader, file: SegmentRef) {
        let mut books = self.books.borrow_mut();
        books.files.insert(header.lap, file.clone());
        let head = Head {
            segment: file,
            nonce: header.nonce,
            generation: header.lap.generation,
            segment_bytes: header.segment_bytes,
        };
        match usage {
            Usage::Outcomes => {
                books.outcomes.opened(header.lap);
                books.messages.outcomes_grew();
                self.outcomes.machine.borrow_mut().supply(head);
                self.outcomes.room.notify_one();
                self.outcomes.work.notify_one();
            }
            _ => {
                books.messages.opened(header.lap);
                self.messages.machine.borrow_mut().supply(head);
                self.messages.room.notify_one();
                self.messages.work.notify_one();
            }
        }
    }

    /// No segment can be prepared now: the one at work is left for its space if that helps, and
    /// whoever waits for one is told.
    pub fn nothing_to_be_had(self: &Rc<Self>) {
        self.leave_for_space();
        if self.messages.machine.borrow().is_starved() && !self.pool.borrow().may_come() {
            let mut releases = Vec::new();
            self.messages
                .machine
                .borrow_mut()
                .fail_waiting(&mut releases);
            if !releases.is_empty() {
                self.tell_of_trouble();
            }
            let error = self.pool.borrow().lack().error();
            self.release_messages(releases, error);
        }
        self.messages.room.notify_one();
    }

    /// Why mail is refused. Whatever can make space is set going: the keeper may have all the segments
    /// that it wants, and would do nothing, while these are less room than the mail needs.
    fn refusal(self: &Rc<Self>) -> SpoolError {
        self.make_room();
        self.tell_of_trouble();
        self.pool.borrow().lack().error()
    }

    fn make_room(self: &Rc<Self>) {
        self.leave_for_space();
        self.mover.notify_one();
        self.ask_others_for_space();
    }

    /// Why mail that asks for more than is left is refused. Somebody who asks for much is no trouble while there
    /// is room for others.
    fn refusal_of_size(self: &Rc<Self>) -> SpoolError {
        if !self.has_enough_room() {
            return self.refusal();
        }
        self.make_room();
        self.pool.borrow().lack().error()
    }

    /// Says what keeps mail from being taken, once while that lasts.
    pub fn tell_of_trouble(&self) {
        let lack = self.pool.borrow().lack();
        let is_new = self
            .shortage
            .borrow_mut()
            .meet(lack.trouble(), clock::now());
        if is_new {
            (self.sink)(self.note_of(&lack));
        }
    }

    fn note_of(&self, lack: &Lack) -> Note {
        let error = lack.to_string();
        let pool = self.pool.borrow();
        match lack.trouble() {
            Trouble::Space => Note::NoSpace {
                reason: error,
                used_bytes: pool.used_bytes(),
                free_bytes: pool.free_bytes(),
            },
            Trouble::Disk => Note::DiskFails { error },
            Trouble::Gone => Note::Gone {
                error,
                messages: self.books.borrow().messages.live_messages() as u64,
                is_last: false,
            },
        }
    }

    /// What a look at the spool's names has found.
    pub fn seen(&self, lack: Option<Lack>) {
        let is_something = lack.is_some();
        self.pool.borrow_mut().seen(lack);
        if is_something {
            self.tell_of_trouble();
        }
    }

    /// Takes back what was said, if it is over. What can make room is set going, since perhaps no client asks any more.
    pub fn look_whether_over(self: &Rc<Self>, now: Now) {
        if !self.shortage.borrow().is_said() {
            return;
        }
        self.make_room();
        self.keeper.notify_one();
        let is_hindered = self.pool.borrow().hindrance().is_some();
        if is_hindered || !self.has_enough_room() || !self.outcomes_have_reserve() {
            return;
        }
        let passed = self.shortage.borrow_mut().passed(now);
        for trouble in passed {
            (self.sink)(match trouble {
                Trouble::Space => Note::SpaceAgain,
                Trouble::Disk => Note::DiskWorks,
                Trouble::Gone => Note::ThereAgain,
            });
        }
    }

    /// Files of the segments in use.
    pub fn files(&self) -> Vec<(Lap, File)> {
        let books = self.books.borrow();
        let files = books.files.iter();
        files.map(|(lap, it)| (*lap, it.file.clone())).collect()
    }

    pub fn has_file(&self, lap: Lap) -> bool {
        self.books.borrow().files.contains_key(&lap)
    }

    /// Outcomes of ours may lean on segments at work of other cores, whose mail is long gone as well.
    fn ask_others_for_space(self: &Rc<Self>) {
        if self.has_asked.replace(true) {
            return;
        }
        (self.sink)(Note::SpaceWanted);
        let shared = self.clone();
        spawn(async move {
            sleep(ASK_PAUSE).await;
            shared.has_asked.set(false);
        });
    }

    /// Else a segment would stay the one at work for ever whose mail is long gone, but which has too
    /// little room for new mail, or which outcomes lean on. One that is all dead costs two headers, whatever
    /// is used of it; one with live mail must be worth the copies.
    fn leave_for_space(&self) {
        if planted(Bug::SpaceNotLeft) {
            return;
        }
        let mut machine = self.messages.machine.borrow_mut();
        let helps = {
            let books = &self.books.borrow().messages;
            let segment_bytes = self.pool.borrow().segment_bytes();
            let is_dead = |segment: &SegmentRef| books.is_dead(segment.lap);
            let is_worth_it = |(segment, used): (&SegmentRef, u64)| {
                books.is_worth_leaving(segment.lap, used, segment_bytes)
            };
            machine.at_rest().is_some_and(is_dead) || machine.leavable().is_some_and(is_worth_it)
        };
        if !helps {
            return;
        }
        machine.leave();
        let sealed = machine.take_sealed();
        drop(machine);
        self.messages_sealed(sealed);
        self.mover.notify_one();
    }

    fn messages_sealed(&self, sealed: Vec<SegmentRef>) {
        for segment in sealed {
            self.books.borrow_mut().messages.sealed(segment.lap);
            self.keeper.notify_one();
        }
    }

    /// The keeper has nothing to prepare, or cannot.
    pub fn settle(&self) {
        if !self.is_settled.replace(true) {
            self.settled.notify_waiters();
        }
    }

    pub fn idle(&self, usage: Usage) -> Vec<Lap> {
        let books = self.books.borrow();
        match usage {
            Usage::Outcomes => books.outcomes.idle().collect(),
            _ => books.messages.idle().collect(),
        }
    }

    /// The segment, if nobody else holds it: from here on nobody can read from it.
    pub fn take_unread(&self, lap: Lap) -> Option<SegmentFile> {
        let mut books = self.books.borrow_mut();
        let file = books.files.remove(&lap)?;
        if planted(Bug::ReadersIgnored) {
            return Some(SegmentFile {
                lap,
                segment_bytes: file.segment_bytes,
                file: file.file.clone(),
            });
        }
        match Arc::try_unwrap(file) {
            Ok(segment) => Some(segment),
            Err(file) => {
                books.files.insert(lap, file);
                None
            }
        }
    }

    pub fn put_back(&self, segment: SegmentFile) {
        let mut books = self.books.borrow_mut();
        books.files.insert(segment.lap, Arc::new(segment));
    }

    pub fn mark_bad(&self, lap: Lap) {
        self.books.borrow_mut().bad.insert(lap);
    }

    pub fn is_bad(&self, lap: Lap) -> bool {
        self.books.borrow().bad.contains(&lap)
    }

    /// The segment is durably gone.
    pub fn segment_retired(&self, usage: Usage, lap: Lap) {
        let mut books = self.books.borrow_mut();
        books.bad.remove(&lap);
        match usage {
            Usage::Outcomes => books.outcomes.retired(lap),
            _ => {
                let moved_to: Arc<[Lap]> = books.messages.retired(lap).into();
                books.outcomes.message_segment_retired(lap, &moved_to);
                drop(books);
                (self.sink)(Note::SegmentRetired { lap, moved_to });
            }
        }
    }

    fn release_messages(
        self: &Rc<Self>,
        releases: Vec<Release<SegmentRef, MessageTicket>>,
        failure: SpoolError,
    ) {
        for Release { ticket, result } in releases {
            match ticket {
                MessageTicket::Chunk(chunks) => chunks.released(result.ok().as_ref()),
                MessageTicket::Copy { copy, answer } => {
                    let result = self.copy_released(copy, result).map_err(|()| failure);
                    // Whoever moved it may be gone; the copy stands all the same.
                    let _ = answer.send(result);
                }
                MessageTicket::Message {
                    id,
                    recipients,
                    chunks,
                    answer,
                } => {
                    let result = result
                        .map(|stored| self.message_stored(id, &stored, chunks))
                        .map_err(|_| failure);
                    if let Err(Ok(receipt)) = answer.send(result) {
                        self.abandon(receipt, recipients);
                    }
                }
            }
        }
    }

    fn message_stored(
        &self,
        id: MessageId,
        stored: &Stored<SegmentRef>,
        chunks: Vec<Extent>,
    ) -> Receipt {
        let receipt = Receipt::new(id, stored, chunks);
        let books = &mut self.books.borrow_mut().messages;
        receipt.place().with_parts(|parts| books.stored(id, parts));
        receipt
    }

    /// The books are right before anything else runs: no segment that has to do with the
    /// move can be retired in between.
    fn copy_released(
        &self,
        copy: Copy,
        result: Result<Stored<SegmentRef>, WriteFailed<SegmentRef>>,
    ) -> Result<(), ()> {
        let Copy {
            message,
            from,
            snapshot,
            chunks,
        } = copy;
        let id = message.id();
        // Of two copies under way the books would know only the last, and the other could be found again.
        assert!(
            Arc::ptr_eq(&from, &message.residence().place()),
            "a message is copied once at a time"
        );
        let books = &mut self.books.borrow_mut().messages;
        let (place, is_alive, result) = match result {
            Ok(stored) => {
                self.moved.set(self.moved.get() + 1);
                let place = Place::of(&stored, chunks);
                let moved = |from: &[Part]| {
                    let is_alive = place.with_parts(|to| books.moved(id, from, to));
                    if planted(Bug::HoldsIgnored) {
                        from.iter()
                            .for_each(|(lap, _)| books.retired_elsewhere(*lap));
                    }
                    is_alive
                };
                (place.clone(), from.with_parts(moved), Ok(()))
            }
            Err(WriteFailed {
                segment: Some(segment),
            }) => {
                let doubtful = |from: &[Part]| books.doubtful(id, from, segment.lap);
                let is_alive = from.with_parts(doubtful);
                (from.doubting(segment), is_alive, Err(()))
            }
            Err(WriteFailed { segment: None }) => return Err(()),
        };
        if is_alive {
            message.residence().replace(place.made_with(snapshot));
        }
        result
    }

    /// The session went away before its receipt, so 250 was not said: the message is let go.
    fn abandon(self: &Rc<Self>, receipt: Receipt, recipients: u32) {
        self.abandoned.set(self.abandoned.get() + 1);
        if planted(Bug::AbandonedKept) {
            return;
        }
        let id = receipt.id();
        let finished = |index| (index, RecipientState::Finished);
        let outcome = Outcome {
            message: id,
            recipients: (0..recipients).map(finished).collect(),
        };
        let residence = Residence::fresh(receipt.into_place(), recipients as usize);
        let spool = Spool::of(self.clone());
        let let_go = spool.clone();
        spool.record(&outcome, &residence, move || let_go.message_finished(id));
    }

    fn release_outcomes(&self, releases: Vec<Release<SegmentRef, OutcomeTicket>>) {
        for Release { ticket, result } in releases {
            let stored = result.expect("outcomes are written again until they are stored");
            let lap = stored.segment().lap();
            let OutcomeTicket { home, then } = ticket;
            let Foothold { place, is_covered } = &*home;
            let is_covered = &(*is_covered || planted(Bug::OutcomesCovered));
            let refers = |laps: &[Lap]| {
                let books = &mut self.books.borrow_mut().outcomes;
                if !planted(Bug::OutcomesForgotten) {
                    books.refers(lap, laps, *is_covered);
                }
            };
            place.with_laps(refers);
            if let Some(then) = then {
                then();
            }
        }
    }

    /// Outcomes are few and small: they wait a little for others.
    fn outcomes_wait(self: &Rc<Self>) {
        let log = &self.outcomes;
        let at_once = log.due.get() || self.outcome_delay.is_zero() || self.closing.get();
        if at_once || self.outcomes_fill_a_write() {
            log.due.set(true);
            log.work.notify_one();
        } else if !self.timer_runs.replace(true) {
            let shared = self.clone();
            spawn(async move {
                sleep(shared.outcome_delay).await;
                shared.timer_runs.set(false);
                shared.outcomes.due.set(true);
                shared.outcomes.work.notify_one();
            });
        }
    }

    fn outcomes_fill_a_write(&self) -> bool {
        let machine = self.outcomes.machine.borrow();
        machine.waiting_bytes() >= OUTCOME_FLUSH_BYTES.min(machine.record_bytes_max() / 2)
    }

    fn message_written(self: &Rc<Self>, write: Written) {
        let mut releases = Vec::new();
        let sealed = {
            let mut machine = self.messages.machine.borrow_mut();
            machine.write_done(
                write.number,
                write.result.is_ok(),
                write.buffer,
                &mut releases,
            );
            machine.take_sealed()
        };
        self.note_failure(write.segment.lap, write.result);
        drop(write.segment);
        self.release_messages(releases, SpoolError::WriteFailed);
        self.messages_sealed(sealed);
    }

    fn outcome_written(self: &Rc<Self>, write: Written) {
        let mut releases = Vec::new();
        let sealed = {
            let mut machine = self.outcomes.machine.borrow_mut();
            machine.write_done(
                write.number,
                write.result.is_ok(),
                write.buffer,
                &mut releases,
            );
            machine.take_sealed()
        };
        // Also if this write went well, and another one on its segment did not.
        if self.outcomes.machine.borrow().writes_again() {
            self.outcomes.due.set(true);
        }
        self.note_failure(write.segment.lap, write.result);
        drop(write.segment);
        self.release_outcomes(releases);
        for segment in sealed {
            self.books.borrow_mut().outcomes.sealed(segment.lap);
            self.keeper.notify_one();
        }
    }

    fn note_failure(&self, lap: Lap, result: io::Result<()>) {
        if let Err(error) = result {
            self.mark_bad(lap);
            let error = error.to_string();
            (self.sink)(Note::SegmentFailed { lap, error });
        }
    }
}

impl Chunks {
    fn released(&self, stored: Option<&Stored<SegmentRef>>) {
        self.waiting.set(self.waiting.get() - 1);
        match stored {
            Some(stored) => self.extents.borrow_mut().push(Extent::of(stored)),
            None => self.failed.set(true),
        }
        self.changed.notify_one();
    }
}

fn outcome_record(id: MessageId, meta: &[u8]) -> Record<'_> {
    Record {
        kind: Kind::Outcome,
        id,
        meta,
        body: &[],
    }
}

/// Waits for room.
async fn put_outcomes(
    shared: Rc<Shared>,
    id: MessageId,
    parts: VecDeque<(Vec<u8>, OutcomeTicket)>,
) {
    for (meta, ticket) in parts {
        let put = shared
            .outcomes
            .put(&outcome_record(id, &meta), ticket, || true)
            .await;
        put.expect("outcomes fit into a commit and are not refused");
        shared.outcomes_wait();
    }
    let in_line = &shared.outcomes_in_line;
    in_line.set(in_line.get() - 1);
}

/// A write that came back from the disk.
struct Written {
    number: u64,
    segment: SegmentRef,
    buffer: AlignedBuf,
    result: io::Result<()>,
}

/// Makes one batch durable.
async fn make_durable(write: Write<SegmentRef>) -> Written {
    let Write {
        number,
        segment,
        position,
        length,
        buffer,
    } = write;
    let file = segment.file.clone();
    let (mut result, buffer) = file.write_all_at(buffer, length, position).await;
    if result.is_ok() && file.durability() == Durability::Buffered {
        result = file.sync_data().await;
        if result.is_err() && planted(Bug::SecondSyncBelieved) {
            result = file.sync_data().await;
        }
    }
    if planted(Bug::WriteErrorSwallowed) {
        result = Ok(());
    }
    Written {
        number,
        segment,
        buffer,
        result,
    }
}

async fn write_messages(shared: Rc<Shared>) {
    let log = &shared.messages;
    while !shared.is_closed() {
        let write = log.machine.borrow_mut().next_write();
        let Some(write) = write else {
            log.work.notified().await;
            continue;
        };
        shared.write_began(log);
        let written = make_durable(write).await;
        shared.message_written(written);
        shared.turn_over(log);
    }
    shared.wake_all();
}

async fn write_outcomes(shared: Rc<Shared>) {
    let log = &shared.outcomes;
    while !shared.is_closed() {
        let write = match log.due.get() {
            true => log.machine.borrow_mut().next_write(),
            false => None,
        };
        let Some(write) = write else {
            if log.machine.borrow().waiting_bytes() == 0 {
                log.due.set(false);
            }
            log.work.notified().await;
            continue;
        };
        // What a batch that is written again leaves behind was due as well.
        log.due.set(log.machine.borrow().waiting_bytes() > 0);
        shared.write_began(log);
        let written = make_durable(write).await;
        shared.outcome_written(written);
        shared.turn_over(log);
    }
    shared.wake_all();
}

impl Shared {
    /// The batch left its place to the next one, and perhaps a segment behind.
    fn write_began<T>(&self, log: &Log<T>) {
        log.room.notify_one();
        // Another writer may take what did not fit into this batch.
        log.work.notify_one();
        if log.machine.borrow().spares() <= 1 {
            self.keeper.notify_one();
        }
    }

    /// After a write: the other writer, the keeper and those who close may have something to do.
    fn turn_over<T>(&self, log: &Log<T>) {
        log.work.notify_one();
        log.room.notify_one();
        if log.machine.borrow().is_idle() {
            log.idle.notify_waiters();
        }
    }

    fn wake_all(&self) {
        self.keeper.notify_one();
        self.mover.notify_one();
        self.messages.work.notify_waiters();
        self.outcomes.work.notify_waiters();
    }
}

impl Shared {
    /// Half a segment: the spare has just been begun, and the next one is being prepared.
    fn outcomes_have_reserve(&self) -> bool {
        let room = self.outcomes.machine.borrow().room_bytes();
        room >= self.pool.borrow().segment_bytes() / 2
    }

    /// Records and commits cost some bytes besides the body.
    fn least_room_bytes(&self) -> u64 {
        Settings::bytes_beside_body(self.pool.borrow().segment_bytes())
    }

    /// Is there room for all sorts of mail?
    fn has_enough_room(&self) -> bool {
        let segment_bytes = self.pool.borrow().segment_bytes();
        self.has_room_for_mail((segment_bytes / ENOUGH_PART).max(self.least_room_bytes()))
    }

    /// Is there room for a record of mail? The rest is for moves.
    fn has_room_for_mail(&self, bytes: u64) -> bool {
        if self.pool.borrow().is_gone() {
            return false;
        }
        let reserve = MOVE_RESERVE_SEGMENTS * self.pool.borrow().segment_bytes();
        self.room() >= bytes.saturating_add(reserve)
    }

    /// Bytes that the log of messages may still take, as far as we know.
    fn room(&self) -> u64 {
        let pool = self.pool.borrow();
        let machine = self.messages.machine.borrow();
        machine.room_bytes() + pool.available().saturating_mul(pool.segment_bytes())
    }

    /// No more moves are begun.
    pub fn rests(&self) -> bool {
        self.resting.get() || self.closing.get()
    }

    /// The segment that is to be emptied, if a segment is wanted and one is worth it.
    pub fn candidate(&self) -> Option<Lap> {
        let pool = self.pool.borrow();
        let books = self.books.borrow();
        books
            .messages
            .candidate(pool.segment_bytes(), self.room(), pool.is_scarce())
    }

    pub fn next_to_move(&self, lap: Lap, cursor: &mut usize) -> Result<Option<MessageId>, Busy> {
        self.books.borrow().messages.next_to_move(lap, cursor)
    }

    pub fn move_later(&self, lap: Lap) {
        self.books.borrow_mut().messages.move_later(lap);
    }

    pub fn move_never(&self, lap: Lap) {
        self.books.borrow_mut().messages.move_never(lap);
    }

    pub fn kept(&self, id: MessageId) -> Option<Arc<dyn Movable>> {
        self.books.borrow().kept.get(&id).cloned()
    }
}

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
        spawn(allocator::keep(spool.shared.clone()));
        spawn(compactor::run(spool.shared.clone()));
        spawn(presence::watch(spool.shared.clone()));
        for _ in 0..in_flight {
            spawn(write_messages(spool.shared.clone()));
            spawn(write_outcomes(spool.shared.clone()));
        }
        spool
    }

    /// A new message's id, never used before on this spool.
    /// The run that this start of the relay began.
    pub fn run(&self) -> u32 {
        self.shared.run
    }

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
        let receipt = self.put_message(&record, envelope, Vec::new()).await;
        self.shared.scratch.replace(meta);
        receipt?.await.unwrap_or(Err(SpoolError::Closing))
    }

    /// Begins a message that is too large to be held in memory.
    pub fn begin(&self, id: MessageId) -> Writer {
        Writer {
            spool: self.clone(),
            id,
            chunks: Rc::default(),
            next_index: 0,
            is_move: false,
        }
    }

    /// The same for a copy.
    pub(in crate::spool) fn begin_move(&self, id: MessageId) -> Writer {
        Writer {
            is_move: true,
            ..self.begin(id)
        }
    }

    pub(in crate::spool) fn of(shared: Rc<Shared>) -> Spool {
        Spool { shared }
    }

    /// Shows a message that this core is home to, so that it can be moved when its segment is
    /// wanted. It is let go by [`Spool::message_finished`]. A message that is never shown stays
    /// where it is, and so does its segment.
    pub fn keep(&self, message: Arc<dyn Movable>) {
        let mut books = self.shared.books.borrow_mut();
        if books.messages.is_live(message.id()) {
            books.kept.insert(message.id(), message);
        }
    }

    /// Moves no more mail: the relay is about to stop, and the next start needs none of it moved.
    pub fn stop_moving(&self) {
        self.shared.resting.set(true);
    }

    async fn put_message(
        &self,
        record: &Record<'_>,
        envelope: &Envelope,
        chunks: Vec<Extent>,
    ) -> Result<oneshot::Receiver<Result<Receipt, SpoolError>>, SpoolError> {
        let (answer, receipt) = oneshot::channel();
        let ticket = MessageTicket::Message {
            id: record.id,
            recipients: envelope.recipients.len() as u32,
            chunks,
            answer,
        };
        self.put(record, ticket).await?;
        Ok(receipt)
    }

    async fn put(&self, record: &Record<'_>, ticket: MessageTicket) -> Result<(), SpoolError> {
        if !self.shared.has_room_for_mail(record.bytes() as u64) {
            return Err(self.shared.refusal());
        }
        self.put_move(record, ticket).await
    }

    /// Of a copy: it may use the reserve.
    pub(in crate::spool) async fn put_move(
        &self,
        record: &Record<'_>,
        ticket: MessageTicket,
    ) -> Result<(), SpoolError> {
        let segment_may_come = || self.shared.pool.borrow().may_come();
        let log = &self.shared.messages;
        match log.put(record, ticket, segment_may_come).await {
            Ok(()) if planted(Bug::AppendWakesNobody) => {}
            Ok(()) => log.work.notify_one(),
            Err(SpoolError::Full) => return Err(self.shared.refusal()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes new states of recipients durable, then calls `then`: the writer does, so its next write waits for it.
    /// `home` is where the message lies; it takes note of the states at once. Takes as long as the disk is full, and until
    /// the outcome is written elsewhere after a failed write; is never refused.
    pub fn record(&self, outcome: &Outcome, home: &Residence, then: impl FnOnce() + 'static) {
        let id = outcome.message;
        let home = Rc::new(home.note(&outcome.recipients));
        let mut metas = encode_outcome(outcome);
        let Some(last) = metas.pop() else {
            return then();
        };
        let ticket = |then| OutcomeTicket {
            home: home.clone(),
            then,
        };
        // Tickets come back in their order, so the last record is the last to be durable.
        let mut parts: VecDeque<_> = metas.into_iter().map(|meta| (meta, ticket(None))).collect();
        parts.push_back((last, ticket(Some(Box::new(then)))));
        while let Some((meta, ticket)) = parts.pop_front() {
            match self
                .shared
                .outcomes
                .put_now(&outcome_record(id, &meta), ticket)
            {
                Ok(()) => self.shared.outcomes_wait(),
                Err(ticket) => {
                    parts.push_front((meta, ticket));
                    let in_line = &self.shared.outcomes_in_line;
                    in_line.set(in_line.get() + 1);
                    spawn(put_outcomes(self.shared.clone(), id, parts));
                    return;
                }
            }
        }
    }

    /// All recipients are finished, and that is durable. Only on the message's home core; a
    /// second call changes nothing. Drop all places of the message, too.
    pub fn message_finished(&self, id: MessageId) {
        let mut books = self.shared.books.borrow_mut();
        let kept = books.kept.remove(&id);
        let finished = books.messages.finished(id);
        drop(books);
        drop(kept);
        if finished {
            self.shared.keeper.notify_one();
        }
    }

    /// A note of another core's spool.
    pub fn receive_note(&self, note: &Note) {
        match note {
            Note::SegmentRetired { lap, .. }
                if planted(Bug::NotesLost) && lap.generation.is_multiple_of(2) => {}
            Note::SegmentRetired { lap, moved_to } => {
                let mut books = self.shared.books.borrow_mut();
                books.outcomes.message_segment_retired(*lap, moved_to);
                books.messages.retired_elsewhere(*lap);
                self.shared.keeper.notify_one();
            }
            Note::SpaceWanted => self.shared.leave_for_space(),
            // For the log only.
            _ => {}
        }
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

    /// Before the end: looks whether a next start will find what is not delivered, and says so if not.
    pub async fn say_what_is_lost(&self) {
        presence::look(&self.shared).await;
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
            let settled = self.shared.settled.notified();
            if self.shared.is_settled.get() {
                return;
            }
            settled.await;
        }
    }

    /// Waits until all outcomes handed in so far are durable.
    pub async fn flush(&self) {
        loop {
            let idle = self.shared.outcomes.idle.notified();
            if self.shared.has_no_outcomes_to_write() {
                return;
            }
            self.shared.outcomes.due.set(true);
            self.shared.outcomes.work.notify_one();
            idle.await;
        }
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
        loop {
            let idle = self.shared.messages.idle.notified();
            if self.shared.messages.machine.borrow().is_idle() {
                break;
            }
            self.shared.messages.work.notify_one();
            idle.await;
        }
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
            outcome_segments: books.outcomes.segments() as u64,
        }
    }
}

impl Books {
    /// What earlier runs left to this core.
    fn of(
        live: Vec<(MessageId, Vec<Part>)>,
        old_messages: Vec<OldSegment>,
        old_outcomes: Vec<(OldSegment, BTreeSet<Lap>)>,
    ) -> Self {
        let mut books = Books {
            messages: MessageBook::default(),
            outcomes: OutcomeBook::default(),
            files: BTreeMap::new(),
            bad: BTreeSet::new(),
            kept: HashMap::new(),
        };
        // Oldest first: that is the order in which the book learns of them.
        for old in &old_messages {
            books.messages.opened(old.file.lap);
            for holder in &old.held_by {
                books.messages.held(old.file.lap, *holder);
            }
        }
        for (id, parts) in live {
            books.messages.stored(id, &parts);
        }
        for old in old_messages {
            books.messages.sealed(old.file.lap);
            books.adopt(old.file, old.is_damaged);
        }
        for (old, refers_to) in old_outcomes {
            let refers_to: Vec<Lap> = refers_to.into_iter().collect();
            // Whatever they say is known to the messages from the start.
            books.outcomes.refers(old.file.lap, &refers_to, true);
            books.outcomes.sealed(old.file.lap);
            books.adopt(old.file, old.is_damaged);
        }
        books
    }

    fn adopt(&mut self, file: SegmentRef, is_damaged: bool) {
        if is_damaged {
            self.bad.insert(file.lap);
        }
        self.files.insert(file.lap, file);
    }
}

/// A large message on its way to the spool. Chunks count only once [`Writer::finish`] has its
/// receipt; dropped before, they are garbage that goes with its segments.
pub struct Writer {
    spool: Spool,
    id: MessageId,
    chunks: Rc<Chunks>,
    next_index: u32,
    is_move: bool,
}

impl Writer {
    /// Appends the next piece of the body (wire form), of any length. Waits while the log is
    /// behind, so the memory used is bounded. A message may have about 30,000 pieces: with pieces
    /// of 32 KiB that is 1 GB.
    pub async fn chunk(&mut self, piece: &[u8]) -> Result<(), SpoolError> {
        let log = &self.spool.shared.messages;
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
                true => self.spool.put_move(&record, ticket).await?,
                false => self.spool.put(&record, ticket).await?,
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
        let receipt = self.spool.put_message(&record, envelope, extents).await?;
        receipt.await.unwrap_or(Err(SpoolError::Closing))
    }

    /// Waits until all chunks are durable, and takes them.
    pub(in crate::spool) async fn durable_chunks(&self) -> Result<Vec<Extent>, SpoolError> {
        while self.chunks.waiting.get() > 0 {
            self.chunks.changed.notified().await;
        }
        match self.chunks.failed.get() {
            true => Err(SpoolError::WriteFailed),
            false => Ok(self.chunks.extents.take()),
        }
    }
}
