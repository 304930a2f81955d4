//! Segments ahead of need, and away after use: stands in for `spool::live::allocator`.

use crate::place::{SegmentFile, SegmentRef};
use crate::recovery;
use crate::spool::{MessageTicket, SEGMENT_BYTES, STAGING_BYTES, Spool};
use crate::world::until;
use ringpost::message::MessageId;
use ringpost::spool::SpoolError;
use ringpost::spool::format::{Generation, SegmentHeader, Usage};
use ringpost::spool::location::place::Part;
use ringpost::spool::log::commit::{Head, Machine};
use std::rc::Rc;

/// A segment for the next generation of a log, or a free one.
#[derive(Default)]
pub struct Pool {
    pub free: Vec<Generation>,
    /// Files that this core may have; none when the disk is full.
    pub files: usize,
    pub files_max: usize,
    pub next_number: u32,
    pub log_sequence: u64,
}

impl Pool {
    pub fn has_more_than(&self, segments: usize) -> bool {
        self.free.len() + self.files_max.saturating_sub(self.files) > segments
    }
}

/// What there is to do for segments.
enum Chore {
    Retire(Usage, Generation),
    Prepare(Usage),
    /// No segment is to be had, and the one at work is mostly of no use any more.
    Leave,
    /// Mail waits for a segment that is not to be had.
    Fail,
}

impl Spool {
    /// Prepares what the logs want next, and retires what is idle and not read by anybody.
    pub async fn keep_segments(&self) {
        loop {
            match until(self.world(), || self.chore()).await {
                Chore::Retire(usage, generation) => self.retire(usage, generation).await,
                Chore::Prepare(usage) => self.prepare(usage).await,
                Chore::Leave => self.leave_segment(),
                Chore::Fail => self.fail_without_segments(),
            }
        }
    }

    fn chore(&self) -> Option<Chore> {
        if let Some((usage, generation)) = self.take_idle() {
            return Some(Chore::Retire(usage, generation));
        }
        let messages = self.messages.borrow();
        if self.outcomes.borrow().spares() == 0 && self.pool.borrow().has_more_than(0) {
            Some(Chore::Prepare(Usage::Outcomes))
        } else if messages.spares() < 2 && self.segment_may_come() {
            Some(Chore::Prepare(Usage::Messages))
        } else if self.segment_may_come() {
            None
        } else if messages.spares() < 2 && self.may_leave_segment(&messages) {
            Some(Chore::Leave)
        } else {
            messages.is_starved().then_some(Chore::Fail)
        }
    }

    fn may_leave_segment(&self, messages: &Machine<SegmentRef, MessageTicket>) -> bool {
        let book = self.message_book.borrow();
        let segment = messages.leavable();
        segment.is_some_and(|(segment, used_bytes)| {
            book.is_worth_leaving(segment.generation, used_bytes, SEGMENT_BYTES)
        })
    }

    fn leave_segment(&self) {
        self.world().seen.borrow_mut().segments_left += 1;
        let mut messages = self.messages.borrow_mut();
        messages.leave();
        for segment in messages.take_sealed() {
            self.message_book.borrow_mut().sealed(segment.generation);
        }
    }

    fn fail_without_segments(&self) {
        self.world().seen.borrow_mut().disk_full += 1;
        let mut releases = Vec::new();
        self.messages.borrow_mut().fail_waiting(&mut releases);
        releases.into_iter().for_each(|it| self.release_message(it));
    }

    async fn prepare(&self, usage: Usage) {
        let header = {
            let pool = &mut self.pool.borrow_mut();
            let last = match pool.free.pop() {
                Some(free) => free,
                None => recovery::create(self.world(), self.core, pool),
            };
            pool.log_sequence += 1;
            recovery::begin_header(self.world(), self, usage, last, pool.log_sequence)
        };
        recovery::write_header(self.world(), &header).await;
        let file = Rc::new(SegmentFile {
            generation: header.generation,
        });
        self.files
            .borrow_mut()
            .insert(header.generation, file.clone());
        let head = Head {
            segment: file,
            nonce: header.nonce,
            generation: header.generation.number,
            segment_bytes: SEGMENT_BYTES,
        };
        match usage {
            Usage::Outcomes => {
                self.outcome_book.borrow_mut().opened(header.generation);
                self.message_book.borrow_mut().outcomes_grew();
                self.outcomes.borrow_mut().supply(head);
            }
            _ => {
                self.message_book.borrow_mut().opened(header.generation);
                self.messages.borrow_mut().supply(head);
            }
        }
    }

    /// A segment that nothing needs and nobody reads: from here on nobody can.
    fn take_idle(&self) -> Option<(Usage, Generation)> {
        let (messages, outcomes) = (self.message_book.borrow(), self.outcome_book.borrow());
        let idle = messages
            .idle()
            .map(|generation| (Usage::Messages, generation));
        let mut idle = idle.chain(
            outcomes
                .idle()
                .map(|generation| (Usage::Outcomes, generation)),
        );
        let files = &mut self.files.borrow_mut();
        let found = idle.find(|(_, generation)| {
            let file = files.get(generation);
            file.is_some_and(|file| Rc::strong_count(file) == 1)
        })?;
        files.remove(&found.1);
        Some(found)
    }

    async fn retire(&self, usage: Usage, generation: Generation) {
        if self.bad.borrow_mut().remove(&generation) {
            self.world()
                .power
                .borrow_mut()
                .disk
                .segments
                .remove(&generation.segment);
            self.pool.borrow_mut().files -= 1;
        } else {
            let free: SegmentHeader = recovery::free_header(generation, self.run);
            recovery::write_header(self.world(), &free).await;
            self.pool.borrow_mut().free.push(free.generation);
        }
        self.world().seen.borrow_mut().segments_retired += 1;
        if usage == Usage::Outcomes {
            return self.outcome_book.borrow_mut().retired(generation);
        }
        let moved_to = self.message_book.borrow_mut().retired(generation);
        self.receive_note(generation, &moved_to);
        self.notes.borrow_mut().push((generation, moved_to));
    }

    /// A message segment of any core is gone.
    pub fn receive_note(&self, generation: Generation, moved_to: &[Generation]) {
        let outcomes = &mut self.outcome_book.borrow_mut();
        outcomes.message_segment_retired(generation, moved_to);
        self.message_book.borrow_mut().retired_elsewhere(generation);
    }

    /// What recovery found of messages that this core is home to.
    pub fn adopt(&self, id: MessageId, parts: &[Part]) {
        self.message_book.borrow_mut().stored(id, parts);
    }

    pub fn mark_bad(&self, generation: Generation) {
        self.bad.borrow_mut().insert(generation);
    }

    pub fn has_room_for_mail(&self, bytes: u64) -> bool {
        let pool = self.pool.borrow();
        let available = pool.free.len() + pool.files_max.saturating_sub(pool.files);
        let room = self.messages.borrow().room_bytes()
            + available.saturating_sub(1) as u64 * SEGMENT_BYTES;
        room >= bytes + SEGMENT_BYTES
    }

    pub fn admit(&self, bytes: Option<u64>) -> Result<(), SpoolError> {
        let outcomes_have_reserve = self.outcomes.borrow().room_bytes() >= SEGMENT_BYTES / 2;
        let wanted = bytes.unwrap_or(0) + STAGING_BYTES as u64 / 16;
        match outcomes_have_reserve && self.has_room_for_mail(wanted) {
            true => Ok(()),
            false => Err(SpoolError::Full),
        }
    }
}
