//! What waited for a write, and what the books learn of it.

use crate::io::{Bug, planted};
use crate::message::MessageId;
use crate::schedule::outcome::{Outcome, RecipientState};
use crate::spool::SpoolError;
use crate::spool::format::Generation;
use crate::spool::live::shared::Shared;
use crate::spool::live::tickets::{Copy, LeansOn, MessageTicket, OutcomeTicket};
use crate::spool::location::message_location::{LocationPin, MessageLocation};
use crate::spool::location::place::{Extent, Part, Place, Receipt, SegmentRef};
use crate::spool::log::commit::{Release, Stored, WriteFailed};
use std::rc::Rc;
use std::sync::Arc;

impl Shared {
    pub(super) fn release_messages(
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
                        .map(|stored| self.message_stored((id, recipients), &stored, chunks))
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
        (id, recipients): (MessageId, u32),
        stored: &Stored<SegmentRef>,
        chunks: Vec<Extent>,
    ) -> Receipt {
        let receipt = Receipt::new(id, stored, chunks);
        let books = &mut self.books.borrow_mut().messages;
        (receipt.place()).with_parts(|parts| books.stored(id, parts, recipients));
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
        let recipients = match planted(Bug::FinishedCopiesNotRewritten) {
            true => 0,
            false => message.envelope().recipients.len() as u32,
        };
        // Of two copies under way the books would know only the last, and the other could be found again.
        assert!(
            Arc::ptr_eq(&from, &message.location().place()),
            "a message is copied once at a time"
        );
        let books = &mut self.books.borrow_mut().messages;
        let (place, is_alive, result) = match result {
            Ok(stored) => {
                self.moved.set(self.moved.get() + 1);
                let place = Place::of(&stored, chunks);
                let moved = |from: &[Part]| {
                    let is_alive = place.with_parts(|to| books.moved(id, from, to, recipients));
                    if planted(Bug::HoldsIgnored) {
                        from.iter()
                            .for_each(|(generation, _)| books.retired_elsewhere(*generation));
                    }
                    is_alive
                };
                (place.clone(), from.with_parts(moved), Ok(()))
            }
            Err(WriteFailed {
                segment: Some(segment),
            }) => {
                let doubtful = |from: &[Part]| {
                    books.note_uncertain_copy(id, from, segment.generation, recipients)
                };
                let is_alive = from.with_parts(doubtful);
                (from.with_possible_copy(segment), is_alive, Err(()))
            }
            Err(WriteFailed { segment: None }) => return Err(()),
        };
        if is_alive {
            message.location().replace(place.made_with(snapshot));
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
        let location = MessageLocation::fresh(receipt.into_place(), recipients as usize);
        let shared = self.clone();
        self.record(&outcome, &location, move || shared.message_finished(id));
    }

    pub(super) fn release_outcomes(&self, releases: Vec<Release<SegmentRef, OutcomeTicket>>) {
        for Release { ticket, result } in releases {
            let stored = result.expect("outcomes are written again until they are stored");
            let generation = stored.segment().generation();
            let OutcomeTicket { leans_on, then } = ticket;
            let refers = |generations: &[Generation], is_covered| {
                let books = &mut self.books.borrow_mut().outcomes;
                let is_covered = is_covered || planted(Bug::OutcomesCovered);
                if !planted(Bug::OutcomesForgotten) {
                    books.refers(generation, generations, is_covered);
                }
            };
            match &*leans_on {
                LeansOn::Message(LocationPin { place, is_covered }) => {
                    place.with_generations(|generations| refers(generations, *is_covered));
                }
                LeansOn::Segment(segment) => refers(&[segment.generation], false),
            }
            if let Some(then) = then {
                then();
            }
        }
    }

    /// All recipients are finished, and that is durable. Only on the message's home core; a
    /// second call changes nothing. Drop all places of the message, too.
    pub fn message_finished(&self, id: MessageId) {
        let mut books = self.books.borrow_mut();
        let kept = books.kept.remove(&id);
        if kept.is_none() {
            books.unshown.remove(&id);
        }
        let finished = books.messages.finished(id);
        drop(books);
        drop(kept);
        if finished {
            self.allocator.notify_one();
        }
    }
}
