//! Records on their way into a log.

use crate::io::runtime::spawn;
use crate::io::{Bug, planted};
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::Outcome;
use crate::spool::SpoolError;
use crate::spool::format::{Kind, RECORD_HEAD_BYTES, Record, encode_outcome};
use crate::spool::live::shared::Shared;
use crate::spool::live::tickets::{LeansOn, MessageTicket, OutcomeTicket};
use crate::spool::location::message_location::MessageLocation;
use crate::spool::location::place::{Extent, Receipt};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::sync::oneshot;

impl Shared {
    pub(super) async fn put_message(
        self: &Rc<Self>,
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

    pub(super) async fn put(
        self: &Rc<Self>,
        record: &Record<'_>,
        ticket: MessageTicket,
    ) -> Result<(), SpoolError> {
        if !self.has_room_for_mail(record.bytes() as u64) {
            return Err(self.refusal());
        }
        self.put_move(record, ticket).await
    }

    /// Of a copy: it may use the reserve.
    pub(super) async fn put_move(
        self: &Rc<Self>,
        record: &Record<'_>,
        ticket: MessageTicket,
    ) -> Result<(), SpoolError> {
        let segment_may_come = || self.pool.borrow().may_come();
        let log = &self.messages;
        match log.put(record, ticket, segment_may_come).await {
            Ok(()) if planted(Bug::AppendWakesNobody) => {}
            Ok(()) => log.work.notify_one(),
            Err(SpoolError::Full) => return Err(self.refusal()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes new states of recipients durable, then calls `then`: the writer does, so its next write waits for it.
    /// `home` is where the message lies; it takes note of the states at once. Takes as long as the disk is full, and until
    /// the outcome is written elsewhere after a failed write; is never refused.
    pub fn record(
        self: &Rc<Self>,
        outcome: &Outcome,
        home: &MessageLocation,
        then: impl FnOnce() + 'static,
    ) {
        self.books.borrow_mut().named(outcome.message);
        let pin = LeansOn::Message(home.note(&outcome.recipients));
        self.put_outcome(outcome, pin, then);
    }

    /// The same of an outcome that leans on this. How many bytes its records take.
    pub(super) fn put_outcome(
        self: &Rc<Self>,
        outcome: &Outcome,
        leans_on: LeansOn,
        then: impl FnOnce() + 'static,
    ) -> usize {
        let id = outcome.message;
        let leans_on = Rc::new(leans_on);
        let mut metas = encode_outcome(outcome);
        let bytes = metas.iter().map(|it| RECORD_HEAD_BYTES + it.len()).sum();
        let Some(last) = metas.pop() else {
            then();
            return bytes;
        };
        let ticket = |then| OutcomeTicket {
            leans_on: leans_on.clone(),
            then,
        };
        // Tickets come back in their order, so the last record is the last to be durable.
        let mut parts: VecDeque<_> = metas.into_iter().map(|meta| (meta, ticket(None))).collect();
        parts.push_back((last, ticket(Some(Box::new(then)))));
        while let Some((meta, ticket)) = parts.pop_front() {
            match self.outcomes.put_now(&outcome_record(id, &meta), ticket) {
                Ok(()) => self.outcomes.work.notify_one(),
                Err(ticket) => {
                    parts.push_front((meta, ticket));
                    let in_line = &self.outcomes_in_line;
                    in_line.set(in_line.get() + 1);
                    spawn(put_outcomes(self.clone(), id, parts));
                    return bytes;
                }
            }
        }
        bytes
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
        shared.outcomes.work.notify_one();
    }
    let in_line = &shared.outcomes_in_line;
    in_line.set(in_line.get() - 1);
}
