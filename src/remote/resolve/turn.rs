//! The line for look-ups, and those who wait in it.

use super::line::{Class, Limits, Line, Turn};
use crate::io::{Bug, clock, planted};
use crate::time::Now;
use std::cell::RefCell;
use tokio::sync::oneshot;

/// The slots of a resolver, and the line before them.
pub(super) struct Slots(RefCell<Line<oneshot::Sender<Turn>>>);

impl Slots {
    pub fn new(limits: Limits) -> Self {
        Slots(RefCell::new(Line::new(limits)))
    }

    /// A place in line, or a slot at once.
    pub fn join(&self, class: Class) -> Slot<'_> {
        let (turn, told) = oneshot::channel();
        self.change(|line, now| line.join(class, turn, now));
        Slot {
            slots: self,
            class,
            told,
            is_taken: false,
            is_aside: false,
            answered: None,
        }
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.0.borrow().waiting()
    }

    fn change(&self, change: impl FnOnce(&mut Line<oneshot::Sender<Turn>>, Now)) {
        let now = clock::now();
        let mut line = self.0.borrow_mut();
        change(&mut line, now);
        while let Some(told) = line.next_notification() {
            // Where nobody waits any more, the slot is for the next.
            if told.waiter.send(told.turn).is_err() && told.turn.is_ok() {
                line.leave(told.class, None, now);
            }
        }
    }
}

/// A place in line, then a slot. Whoever goes away leaves it to the next.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    class: Class,
    told: oneshot::Receiver<Turn>,
    is_taken: bool,
    is_aside: bool,
    /// Whether a name server said something; `None` if the look-up was given up.
    pub answered: Option<bool>,
}

impl Slot<'_> {
    pub async fn turn(&mut self) -> Turn {
        let turn = (&mut self.told).await;
        let turn = turn.expect("a line tells everybody before it goes");
        self.is_taken = turn.is_ok();
        turn
    }
}

impl Slot<'_> {
    /// No name server says anything: others may go meanwhile.
    pub fn set_aside(&mut self) {
        if planted(Bug::SilentLookUpsKeepSlots) || self.is_aside {
            return;
        }
        self.is_aside = true;
        self.slots.change(|line, _| line.set_aside(self.class));
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if planted(Bug::LookUpSlotKept) && self.answered.is_none() {
            return;
        }
        // Its turn may have come a moment ago.
        if self.is_taken || matches!(self.told.try_recv(), Ok(Ok(()))) {
            self.slots.change(|line, now| {
                if self.is_aside {
                    line.take_back(self.class);
                }
                line.leave(self.class, self.answered, now);
            });
        }
    }
}
