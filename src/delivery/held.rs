//! Mail is held back while the disk takes no outcomes: see [`Gate`](crate::schedule::gate::Gate).

use super::Inner;
use crate::io::{Bug, clock, planted};
use crate::log::{LogLevel, event};
use crate::time::Now;
use std::time::Duration;

/// The log says that mail is held once that has lasted so long.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// How often it is asked whether the disk is full, while mail is held.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Clone, Copy)]
pub(super) struct Held {
    since: Now,
    is_told: bool,
}

impl Inner {
    /// Outcomes of so many recipients go to the spool.
    pub(super) fn outcomes_handed_over(&self, recipients: usize) {
        let is_full = || self.context.spool.outcomes_lack_space();
        if self.gate.borrow_mut().handed_over(recipients, is_full) {
            self.schedule.borrow_mut().hold();
            self.held.set(Some(Held {
                since: clock::now(),
                is_told: false,
            }));
            self.wake_scheduler();
        }
    }

    /// They are durable.
    pub(super) fn outcomes_recorded(&self, recipients: usize) {
        if self.gate.borrow_mut().recorded(recipients) && !planted(Bug::GateNeverOpens) {
            self.mail_goes_on();
        }
    }

    fn mail_goes_on(&self) {
        self.schedule.borrow_mut().go_on();
        self.wake_scheduler();
        if let Some(held) = self.held.take()
            && held.is_told
        {
            let lasted = clock::now().since(held.since);
            let log = &self.context.log;
            log.line(LogLevel::Warn, event::DELIVERY_GOES_ON, clock::wall_time())
                .field("thread", self.context.core as u64)
                .field("held_ms", lasted.as_millis() as u64);
        }
    }

    /// Says that mail is held, if it is time for that, and lets it go if the disk is full. When to look again.
    pub(super) fn look_at_held(&self) -> Option<Now> {
        let held = self.held.get()?;
        let is_full = || self.context.spool.outcomes_lack_space();
        if self.gate.borrow_mut().look(is_full) {
            self.mail_goes_on();
            return None;
        }
        let now = clock::now();
        let again = Some(now + LOOK_INTERVAL);
        if held.is_told || now < held.since + TOLD_AFTER {
            return again;
        }
        self.held.set(Some(Held {
            is_told: true,
            ..held
        }));
        let log = &self.context.log;
        log.line(LogLevel::Error, event::DELIVERY_HELD, clock::wall_time())
            .field("thread", self.context.core as u64)
            .field("recipients", self.gate.borrow().unrecorded() as u64)
            .field(
                "effect",
                "what became of these recipients is not on the disk; no more mail goes out until it is",
            );
        again
    }
}
