//! One log of a core: its commit machine, and who waits for it.

use crate::spool::SpoolError;
use crate::spool::format::Record;
use crate::spool::location::place::SegmentRef;
use crate::spool::log::commit::{AfterFailure, Machine, Refused};
use std::cell::{Cell, RefCell};
use tokio::sync::{Mutex, Notify};

/// One log: the machine and who waits for it.
pub(super) struct Log<T> {
    pub machine: RefCell<Machine<SegmentRef, T>>,
    /// For the writers: something may be written now.
    pub work: Notify,
    /// For the one appender that holds the gate: there may be room now.
    pub room: Notify,
    /// Appenders that find no room queue here, in their order.
    gate: Mutex<()>,
    /// For those who wait until nothing waits or is in flight.
    pub idle: Notify,
    /// Takes no more records, also of those who wait for room.
    pub ended: Cell<bool>,
}

impl<T> Log<T> {
    pub fn new(staging_bytes: usize, in_flight: usize, after_failure: AfterFailure) -> Self {
        Log {
            machine: RefCell::new(Machine::new(staging_bytes, in_flight, after_failure)),
            work: Notify::new(),
            room: Notify::new(),
            gate: Mutex::new(()),
            idle: Notify::new(),
            ended: Cell::new(false),
        }
    }

    /// Waits until that is so; looked at whenever nothing waits or is in flight.
    pub async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let idle = self.idle.notified();
            if is_so() {
                return;
            }
            self.work.notify_one();
            idle.await;
        }
    }

    /// Takes the record if there is room and nobody waits for it, else gives the ticket back.
    pub fn put_now(&self, record: &Record<'_>, ticket: T) -> Result<(), T> {
        let Ok(_turn) = self.gate.try_lock() else {
            return Err(ticket);
        };
        let appended = self.machine.borrow_mut().append(record, ticket);
        appended.map_err(|(ticket, _)| ticket)
    }

    /// Takes the record, waiting for room in the order of the callers. `wait` decides whether a
    /// lack of segments is waited for.
    pub async fn put(
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
