//! A message in the queue, and jobs: stands in for `handoff::job`, and counts.

use crate::place::Place;
use ringpost::handoff::job::{Body, queued_bytes};
use ringpost::handoff::memory::{Charge, Memory};
use ringpost::message::{Envelope, MessageId};
use ringpost::schedule::outcome::RecipientState;
use ringpost::schedule::settle::Recipients;
use ringpost::spool::location::progress::RecipientProgress;
use ringpost::time::WallTime;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// The relay's recipients, counted in two ways that must agree.
#[derive(Default, Debug)]
pub struct Account {
    /// Of all messages: not finished, or not durably so.
    pub open: Cell<usize>,
    /// In jobs, wherever those are.
    pub in_jobs: Cell<usize>,
    /// Finished, and on their way to the disk.
    pub finishing: Cell<usize>,
}

impl Account {
    /// Accepted recipients are finished, waiting, or owed a report; nobody is forgotten or counted twice.
    pub fn check(&self) -> Result<(), String> {
        let (open, jobs, finishing) = (self.open.get(), self.in_jobs.get(), self.finishing.get());
        match open == jobs + finishing {
            true => Ok(()),
            false => Err(format!(
                "{open} recipients are open, but {jobs} in jobs and {finishing} being finished"
            )),
        }
    }
}

fn add(cell: &Cell<usize>, count: usize) {
    cell.set(cell.get() + count);
}

fn take(cell: &Cell<usize>, count: usize) {
    cell.set(cell.get().checked_sub(count).expect("never below zero"));
}

pub struct Message {
    pub id: MessageId,
    pub received_at: WallTime,
    pub envelope: Envelope,
    place: RefCell<Rc<Place>>,
    pub standing: RecipientProgress,
    pub home: usize,
    open: Cell<usize>,
    account: Rc<Account>,
    _memory: Charge,
}

impl Message {
    pub fn new(
        (id, received_at): (MessageId, WallTime),
        envelope: Envelope,
        states: &[RecipientState],
        place: Place,
        home: usize,
        (account, memory): (&Rc<Account>, &Memory),
    ) -> Rc<Message> {
        let open = states.iter().filter(|state| !state.is_finished()).count();
        add(&account.open, open);
        Rc::new(Message {
            id,
            received_at,
            _memory: memory.charge(home, queued_bytes(&envelope)),
            envelope,
            place: RefCell::new(Rc::new(place)),
            standing: RecipientProgress::of(states),
            home,
            open: Cell::new(open),
            account: account.clone(),
        })
    }

    pub fn place(&self) -> Rc<Place> {
        self.place.borrow().clone()
    }

    pub fn moved_to(&self, place: Place) {
        self.place.replace(Rc::new(place));
    }

    /// So many are about to be recorded as finished.
    pub fn finishing(&self, recipients: usize) {
        add(&self.account.finishing, recipients);
    }

    /// That is durable; true if these were the last.
    pub fn finish(&self, recipients: usize) -> bool {
        take(&self.account.finishing, recipients);
        take(&self.account.open, recipients);
        take(&self.open, recipients);
        self.open.get() == 0
    }
}

/// Recipients of one message that are to be delivered together, or reported on together.
pub struct Job {
    pub message: Rc<Message>,
    /// `None`: to be read back from the spool.
    pub body: Option<Arc<Body>>,
    recipients: Recipients,
}

impl Job {
    pub fn new(message: Rc<Message>, body: Option<Arc<Body>>, recipients: Recipients) -> Job {
        add(&message.account.in_jobs, recipients.len());
        Job {
            message,
            body,
            recipients,
        }
    }

    pub fn recipients(&self) -> &Recipients {
        &self.recipients
    }

    /// The job ends, and its recipients are somebody else's at once.
    pub fn dissolve(mut self) -> (Rc<Message>, Option<Arc<Body>>, Recipients) {
        let recipients = std::mem::take(&mut self.recipients);
        take(&self.message.account.in_jobs, recipients.len());
        (self.message.clone(), self.body.clone(), recipients)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        take(&self.message.account.in_jobs, self.recipients.len());
    }
}
