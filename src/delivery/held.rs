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
    /// It was said, and that this home is to blame.
    is_told: Option<usize>,
}

impl Inner {
    /// Outcomes of so many recipients go to their home.
    pub(super) fn outcomes_handed_over(&self, home: usize, recipients: usize) {
        let lacks_space = |home| self.context.homes.lacks_space(home);
        if (self.gate.borrow_mut()).handed_over(home, recipients, lacks_space) {
            self.schedule.borrow_mut().hold();
            self.held.set(Some(Held {
                since: clock::now(),
                is_told: None,
            }));
            self.wake_scheduler();
        }
    }

    /// They are durable.
    pub(super) fn outcomes_recorded(&self, home: usize, recipients: usize) {
        let lacks_space = |home| self.context.homes.lacks_space(home);
        let opens = (self.gate.borrow_mut()).recorded(home, recipients, lacks_space);
        if opens && !planted(Bug::GateNeverOpens) {
            self.mail_goes_on();
        }
    }

    fn mail_goes_on(&self) {
        self.schedule.borrow_mut().go_on();
        self.wake_scheduler();
        if let Some(held) = self.held.take()
            && let Some(home) = held.is_told
        {
            self.context.homes.forgive(home);
            let lasted = clock::now().since(held.since);
            let log = &self.context.log;
            log.line(LogLevel::Warn, event::DELIVERY_GOES_ON, clock::wall_time())
                .field("thread", self.context.core as u64)
                .field("home", home as u64)
                .field("held_ms", lasted.as_millis() as u64);
        }
    }

    /// Says that mail is held, if it is time for that, and lets it go if the disk is full. When to look again.
    pub(super) fn look_at_held(&self) -> Option<Now> {
        let held = self.held.get()?;
        let lacks_space = |home| self.context.homes.lacks_space(home);
        if self.gate.borrow_mut().look(lacks_space) {
            self.mail_goes_on();
            return None;
        }
        let now = clock::now();
        let again = Some(now + LOOK_INTERVAL);
        let home = self.gate.borrow().slowest();
        let is_early = now < held.since + TOLD_AFTER;
        if held.is_told.is_some() || is_early || !self.context.homes.blame(home) {
            return again;
        }
        self.held.set(Some(Held {
            is_told: Some(home),
            ..held
        }));
        let log = &self.context.log;
        log.line(LogLevel::Error, event::DELIVERY_HELD, clock::wall_time())
            .field("thread", self.context.core as u64)
            .field("home", home as u64)
            .field("recipients", self.gate.borrow().unrecorded() as u64)
            .field(
                "effect",
                "what became of these recipients is not on the disk; no more mail goes out until it is",
            );
        again
    }
}
