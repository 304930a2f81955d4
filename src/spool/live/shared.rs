//! What the tasks of one core's spool share.

use crate::io::{Bug, planted};
use crate::message::MessageId;
use crate::spool::format::{COMMIT_BYTES_MAX, Generation, SegmentHeader, Usage};
use crate::spool::live::books::Books;
use crate::spool::live::liveness::Busy;
use crate::spool::live::log::Log;
use crate::spool::live::pool::Pool;
use crate::spool::live::tickets::{MessageTicket, OutcomeTicket};
use crate::spool::location::message_location::Movable;
use crate::spool::location::place::{SegmentFile, SegmentRef};
use crate::spool::log::commit::{AfterFailure, Head};
use crate::spool::presence::{Presence, Watched};
use crate::spool::recovery::fold::Folded;
use crate::spool::recovery::recover::CorePart;
use crate::spool::shortage::Shortage;
use crate::spool::{Note, OUTCOME_STAGING_BYTES};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use tokio::sync::Notify;

/// What the tasks of one core's spool share.
pub(super) struct Shared {
    pub core: u16,
    pub run: u32,
    pub messages: Log<MessageTicket>,
    pub outcomes: Log<OutcomeTicket>,
    pub books: RefCell<Books>,
    pub pool: RefCell<Pool>,
    /// For the allocator: a segment may be wanted or idle.
    pub allocator: Notify,
    /// For the compactor: a segment is wanted.
    pub compactor: Notify,
    /// For the rewriter: outcomes may take more than they need.
    pub rewriter: Notify,
    /// Nothing is to be moved any more.
    pub resting: Cell<bool>,
    pub moved: Cell<u64>,
    pub rewritten: Cell<u64>,
    pub sink: Box<dyn Fn(Note)>,
    pub presence: Arc<Presence>,
    pub shortage: RefCell<Shortage>,
    /// The allocator has prepared what it wants or found that it cannot.
    pub is_prepared: Cell<bool>,
    pub prepared: Notify,
    pub next_sequence: Cell<u64>,
    /// Reused for encoding what precedes a body.
    pub scratch: RefCell<Vec<u8>>,
    /// Outcomes for whose records there is no room yet.
    pub outcomes_in_line: Cell<usize>,
    /// The other cores were just asked to make space.
    pub has_asked: Cell<bool>,
    pub closing: Cell<bool>,
    pub abandoned: Cell<u64>,
}

impl Shared {
    pub fn new(part: CorePart, in_flight: usize, sink: Box<dyn Fn(Note)>) -> Self {
        let room = (part.segments.segment_bytes() / 2) as usize;
        let staging = COMMIT_BYTES_MAX.min(room);
        let outcome_staging = OUTCOME_STAGING_BYTES.min(room);
        let mut pool = Pool::new(
            part.segments,
            (part.core, part.run),
            &part.settings,
            part.segments_max,
            (part.next_number, part.log_sequence),
        );
        let in_use = part.old_messages.len() + part.old_outcomes.len();
        pool.adopt(part.free, in_use + usize::from(part.folded.is_some()));
        let mut books = Books::of(part.live, part.old_messages, part.old_outcomes);
        let outcomes = Log::new(outcome_staging, in_flight, AfterFailure::WriteAgain);
        if let Some(Folded { stop, refers_to }) = part.folded {
            books.go_on(stop.head.segment.clone(), refers_to);
            outcomes.machine.borrow_mut().go_on(stop);
        }
        Shared {
            core: part.core,
            run: part.run,
            messages: Log::new(staging, in_flight, AfterFailure::Fail),
            outcomes,
            books: RefCell::new(books),
            pool: RefCell::new(pool),
            allocator: Notify::new(),
            compactor: Notify::new(),
            rewriter: Notify::new(),
            resting: Cell::new(false),
            moved: Cell::new(0),
            rewritten: Cell::new(0),
            sink,
            presence: part.presence,
            shortage: RefCell::default(),
            is_prepared: Cell::new(false),
            prepared: Notify::new(),
            next_sequence: Cell::new(0),
            scratch: RefCell::new(Vec::new()),
            outcomes_in_line: Cell::new(0),
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

    pub fn has_no_outcomes_to_write(&self) -> bool {
        self.outcomes_in_line.get() == 0 && self.outcomes.machine.borrow().is_idle()
    }

    /// Gives a log the segment that was prepared for it.
    pub fn supply(&self, usage: Usage, header: SegmentHeader, file: SegmentRef) {
        let mut books = self.books.borrow_mut();
        books.files.insert(header.generation, file.clone());
        let head = Head {
            segment: file,
            nonce: header.nonce,
            generation: header.generation.number,
            segment_bytes: header.segment_bytes,
        };
        match usage {
            Usage::Outcomes => {
                books.outcomes.opened(header.generation);
                books.messages.outcomes_grew();
                self.outcomes.machine.borrow_mut().supply(head);
                self.outcomes.room.notify_one();
                self.outcomes.work.notify_one();
            }
            _ => {
                books.messages.opened(header.generation);
                self.messages.machine.borrow_mut().supply(head);
                self.messages.room.notify_one();
                self.messages.work.notify_one();
            }
        }
    }

    /// Segments in use. One that was found damaged may have been cut before.
    pub fn files(&self) -> Vec<Watched> {
        let books = self.books.borrow();
        let watched = books.files.iter().map(|(generation, it)| Watched {
            generation: *generation,
            bytes: match books.bad.contains(generation) {
                true => 0,
                false => it.segment_bytes,
            },
            file: it.file.clone(),
        });
        watched.collect()
    }

    pub fn has_file(&self, generation: Generation) -> bool {
        self.books.borrow().files.contains_key(&generation)
    }

    pub(super) fn messages_sealed(&self, sealed: Vec<SegmentRef>) {
        for segment in sealed {
            self.books.borrow_mut().messages.sealed(segment.generation);
            self.allocator.notify_one();
        }
    }

    /// The allocator has nothing to prepare, or cannot.
    pub fn set_prepared(&self) {
        if !self.is_prepared.replace(true) {
            self.prepared.notify_waiters();
        }
    }

    pub fn idle(&self, usage: Usage) -> Vec<Generation> {
        let books = self.books.borrow();
        match usage {
            Usage::Outcomes => books.outcomes.idle().collect(),
            _ => books.messages.idle().collect(),
        }
    }

    /// The segment, if nobody else holds it: from here on nobody can read from it.
    pub fn take_unread(&self, generation: Generation) -> Option<SegmentFile> {
        let mut books = self.books.borrow_mut();
        let file = books.files.remove(&generation)?;
        if planted(Bug::ReadersIgnored) {
            return Some(SegmentFile {
                generation,
                segment_bytes: file.segment_bytes,
                file: file.file.clone(),
            });
        }
        match Arc::try_unwrap(file) {
            Ok(segment) => Some(segment),
            Err(file) => {
                books.files.insert(generation, file);
                None
            }
        }
    }

    pub fn put_back(&self, segment: SegmentFile) {
        let mut books = self.books.borrow_mut();
        books.files.insert(segment.generation, Arc::new(segment));
    }

    pub fn mark_bad(&self, generation: Generation) {
        self.books.borrow_mut().bad.insert(generation);
    }

    pub fn is_bad(&self, generation: Generation) -> bool {
        self.books.borrow().bad.contains(&generation)
    }

    /// The segment is durably gone.
    pub fn segment_retired(&self, usage: Usage, generation: Generation) {
        let mut books = self.books.borrow_mut();
        books.bad.remove(&generation);
        match usage {
            Usage::Outcomes => books.outcomes.retired(generation),
            _ => {
                let moved_to: Arc<[Generation]> = books.messages.retired(generation).into();
                books
                    .outcomes
                    .message_segment_retired(generation, &moved_to);
                drop(books);
                (self.sink)(Note::SegmentRetired {
                    generation,
                    moved_to,
                });
            }
        }
    }
}

impl Shared {
    /// No more moves are begun.
    pub fn rests(&self) -> bool {
        self.resting.get() || self.closing.get()
    }

    /// The segment that is to be emptied, if a segment is wanted and one is worth it.
    pub fn candidate(&self) -> Option<Generation> {
        let pool = self.pool.borrow();
        let books = self.books.borrow();
        books
            .messages
            .candidate(pool.segment_bytes(), self.room(), pool.is_scarce())
    }

    pub fn next_to_move(
        &self,
        generation: Generation,
        cursor: &mut usize,
    ) -> Result<Option<MessageId>, Busy> {
        self.books
            .borrow()
            .messages
            .next_to_move(generation, cursor)
    }

    pub fn postpone_moving(&self, generation: Generation) {
        self.books.borrow_mut().messages.postpone_moving(generation);
    }

    pub fn forbid_moving(&self, generation: Generation) {
        self.books.borrow_mut().messages.forbid_moving(generation);
    }

    pub fn kept(&self, id: MessageId) -> Option<Arc<dyn Movable>> {
        self.books.borrow().kept.get(&id).cloned()
    }
}
