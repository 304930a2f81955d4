//! Hands what was settled over to the homes of the messages, which make it durable: nobody else writes how recipients stand.

use super::{Delivery, Inner};
use crate::handoff::settled::{Recorded, Settled};
use crate::io::runtime::{sleep, spawn};
use crate::io::{Bug, planted};
use crate::schedule::hand_over::HandOver;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The homes of messages, for a core that delivers.
pub trait Homes {
    /// This was settled of messages with that home.
    fn hand_over(&self, home: usize, settled: Vec<Settled>);

    /// The disk is full, and outcomes of that home wait for room. Of another core it may be known a little later.
    fn lacks_space(&self, home: usize) -> bool;

    /// Mail is held because that home does not record. False if another core has said so already.
    fn blame(&self, home: usize) -> bool;

    /// What [`Homes::blame`] has let be said is over.
    fn forgive(&self, home: usize);
}

/// What was settled and is not durable.
pub(super) struct Unrecorded {
    waiting: RefCell<HandOver<Settled>>,
    /// What waits is handed over soon.
    timer_runs: Cell<bool>,
    /// Whether it waits or was handed over.
    recipients: Cell<usize>,
}

impl Unrecorded {
    pub fn new(unrecorded_max: usize) -> Self {
        Unrecorded {
            waiting: RefCell::new(HandOver::new(unrecorded_max)),
            timer_runs: Cell::new(false),
            recipients: Cell::new(0),
        }
    }
}

impl Delivery {
    /// A home has made that durable.
    pub fn recorded(&self, recorded: Recorded) {
        self.0.recorded(&recorded);
    }

    /// Recipients whose outcomes are not durable.
    pub fn unrecorded(&self) -> usize {
        self.0.unrecorded.recipients.get()
    }

    /// No transaction begins any more, and what is settled is handed over at once. Resolves when all of it is durable,
    /// whatever is still under way.
    pub async fn outcomes_recorded(&self) {
        self.0.begin_drain();
        while self.unrecorded() > 0 {
            self.0.rested.notified().await;
        }
    }
}

impl Inner {
    /// Recipients count as finished once their home has made that durable; until then a crash would only repeat them.
    pub(super) fn hand_over(self: &Rc<Self>, settled: Settled) {
        let (home, recipients) = (settled.message.home, settled.recipients.len());
        let unrecorded = &self.unrecorded;
        unrecorded
            .recipients
            .set(unrecorded.recipients.get() + recipients);
        self.at_work.set(self.at_work.get() + 1);
        self.outcomes_handed_over(home, settled.repeated());
        let added = (unrecorded.waiting.borrow_mut()).add(home, settled, recipients);
        if let Some(batch) = added {
            self.send_home(home, batch);
        } else if self.draining.get() || self.context.settings.hand_over_delay.is_zero() {
            self.hand_over_all();
        } else if !unrecorded.timer_runs.replace(true) {
            let this = self.clone();
            spawn(async move {
                sleep(this.context.settings.hand_over_delay).await;
                this.unrecorded.timer_runs.set(false);
                this.hand_over_all();
            });
        }
    }

    pub(super) fn hand_over_all(&self) {
        loop {
            let next = self.unrecorded.waiting.borrow_mut().take();
            match next {
                Some((home, batch)) => self.send_home(home, batch),
                None => return,
            }
        }
    }

    fn send_home(&self, home: usize, batch: Vec<Settled>) {
        if planted(Bug::HandOverForgottenAtDrain) && self.draining.get() {
            return self.recorded(&Recorded::of(home, &batch));
        }
        self.context.homes.hand_over(home, batch);
    }

    fn recorded(&self, recorded: &Recorded) {
        let recipients = &self.unrecorded.recipients;
        recipients.set(recipients.get() - recorded.recipients);
        self.outcomes_recorded(recorded.home, recorded.repeated);
        self.at_work.set(self.at_work.get() - recorded.settled);
        if self.at_work.get() == 0 || recipients.get() == 0 {
            self.rested.notify_waiters();
        }
    }
}
