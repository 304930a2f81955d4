//! The tasks that write: each takes the next batch of its log, makes it durable, and releases the tickets.
//!
//! All on this thread, so waiting sessions are woken without a wake-up between threads.

use crate::io::buffer::AlignedBuf;
use crate::io::file::Durability;
use crate::io::{Bug, planted};
use crate::spool::format::Generation;
use crate::spool::live::log::Log;
use crate::spool::live::shared::Shared;
use crate::spool::location::place::SegmentRef;
use crate::spool::log::commit::Write;
use crate::spool::{Note, SpoolError};
use std::io;
use std::rc::Rc;

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

pub(super) async fn write_messages(shared: Rc<Shared>) {
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

pub(super) async fn write_outcomes(shared: Rc<Shared>) {
    let log = &shared.outcomes;
    while !shared.is_closed() {
        let write = log.machine.borrow_mut().next_write();
        let Some(write) = write else {
            log.work.notified().await;
            continue;
        };
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
            self.allocator.notify_one();
        }
    }

    /// After a write: the other writer, the allocator and those who close may have something to do.
    pub(super) fn turn_over<T>(&self, log: &Log<T>) {
        log.work.notify_one();
        log.room.notify_one();
        if log.machine.borrow().is_idle() {
            log.idle.notify_waiters();
        }
    }

    pub(super) fn wake_all(&self) {
        self.allocator.notify_one();
        self.compactor.notify_one();
        self.rewriter.notify_one();
        self.messages.work.notify_waiters();
        self.outcomes.work.notify_waiters();
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
        self.note_failure(write.segment.generation, write.result);
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
        self.note_failure(write.segment.generation, write.result);
        drop(write.segment);
        self.release_outcomes(releases);
        for segment in sealed {
            self.books.borrow_mut().outcomes.sealed(segment.generation);
            self.allocator.notify_one();
            self.rewriter.notify_one();
        }
    }

    fn note_failure(&self, generation: Generation, result: io::Result<()>) {
        if let Err(error) = result {
            self.mark_bad(generation);
            let error = error.to_string();
            (self.sink)(Note::SegmentFailed { generation, error });
        }
    }
}
