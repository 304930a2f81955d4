//! The home of messages: the core whose spool holds them writes how their recipients stand, whichever core has delivered
//! them.
//!
//! Promise: `Recorded` goes back for what is durable, once for each hand-over.

use super::lane::ToCore;
use super::shared::Shared;
use crate::delivery::Homes;
use crate::handoff::Outbox;
use crate::handoff::job::Message;
use crate::handoff::settled::{Recorded, Settled};
use crate::io::{Bug, planted};
use crate::schedule::outcome::Outcome;
use crate::spool::Spool;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// One core as a home, and its way to the others.
pub struct Home {
    number: usize,
    spool: Spool,
    shared: Arc<Shared>,
    outbox: Rc<Outbox<ToCore>>,
    /// For [`Bug::OutcomesLost`].
    settled: Cell<u64>,
}

/// A hand-over that is not all durable.
struct Recording {
    spool: Spool,
    outbox: Rc<Outbox<ToCore>>,
    /// Who is told.
    from: usize,
    left: Cell<usize>,
    recorded: Recorded,
}

impl Home {
    pub fn new(
        number: usize,
        spool: Spool,
        shared: Arc<Shared>,
        outbox: Rc<Outbox<ToCore>>,
    ) -> Self {
        Home {
            number,
            spool,
            shared,
            outbox,
            settled: Cell::new(0),
        }
    }

    /// Makes durable what core `from` has settled of messages with this home, and tells it.
    pub fn record(&self, from: usize, settled: Vec<Settled>) {
        let recording = Rc::new(Recording {
            spool: self.spool.clone(),
            outbox: self.outbox.clone(),
            from,
            left: Cell::new(settled.len()),
            recorded: Recorded::of(self.number, &settled),
        });
        if planted(Bug::RecordedEarly) {
            recording.tell();
        }
        for Settled {
            message,
            recipients,
            finished,
        } in settled
        {
            self.settled.set(self.settled.get() + 1);
            if planted(Bug::OutcomesLost) && self.settled.get().is_multiple_of(2) {
                recording.is_durable(&message, finished);
                continue;
            }
            let outcome = Outcome {
                message: message.id,
                recipients,
            };
            let (recording, kept) = (recording.clone(), message.clone());
            let then = move || recording.is_durable(&kept, finished);
            self.spool.record(&outcome, &message.location, then);
        }
        self.show();
    }

    /// Lets the other cores see how this home stands.
    pub fn show(&self) {
        let signs = &self.shared.homes[self.number];
        signs.show(self.spool.outcomes_lack_space());
    }
}

impl Recording {
    fn is_durable(&self, message: &Message, finished: u32) {
        if finished > 0 && message.finish(finished) {
            self.spool.message_finished(message.id);
        }
        self.left.set(self.left.get() - 1);
        if self.left.get() == 0 && !planted(Bug::RecordedEarly) {
            self.tell();
        }
    }

    fn tell(&self) {
        (self.outbox).send(self.from, ToCore::Recorded(self.recorded));
    }
}

impl Homes for Rc<Home> {
    fn hand_over(&self, home: usize, settled: Vec<Settled>) {
        let home = match planted(Bug::HomesMistaken) {
            true => (home + 1) % self.shared.cores().len(),
            false => home,
        };
        if home != self.number {
            let from = self.number;
            return self.outbox.send(home, ToCore::Settled { from, settled });
        }
        match planted(Bug::OwnHandOverLost) {
            true => (self.outbox).send(home, ToCore::Recorded(Recorded::of(home, &settled))),
            false => self.record(home, settled),
        }
    }

    fn lacks_space(&self, home: usize) -> bool {
        match home == self.number {
            true => self.spool.outcomes_lack_space(),
            false => self.shared.homes[home].lacks_space(),
        }
    }

    fn blame(&self, home: usize) -> bool {
        self.shared.homes[home].blame()
    }

    fn forgive(&self, home: usize) {
        self.shared.homes[home].forgive();
    }
}
