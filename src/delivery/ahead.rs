//! Jobs that were taken ahead of their turn, and come back to their next hop if that turn takes long to come.
//!
//! With the end of a content go the commands of the next job (RFC 2920 section 3.1). The host answers them behind the content,
//! for which it may take minutes, while other connections are free, or may be opened. So a job that has waited for longer
//! than a quick hop takes goes back into the hop's queue. A report, or what else could not be begun, waits and goes back as well.
//!
//! What was sent of a job that has gone back is *void*. DATA is part of it, behind which only the content or the end of the
//! connection can come: the connection carries nothing more, and ends when the message before has its reply.
//! A host takes no message without its final dot, so the job is not delivered twice.

use super::Inner;
use crate::handoff::job::Job;
use crate::io::{clock, runtime};
use crate::schedule::ahead::{Ahead, Place};
use crate::schedule::next_hop::HopId;
use crate::time::Now;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Where a connection keeps the job that it has taken ahead.
pub(super) struct AheadPlace {
    hop: HopId,
    place: RefCell<Place<Job>>,
    /// Among those that are looked at.
    is_listed: Cell<bool>,
}

impl AheadPlace {
    pub fn new(hop: HopId) -> Rc<Self> {
        Rc::new(AheadPlace {
            hop,
            place: RefCell::default(),
            is_listed: Cell::new(false),
        })
    }

    pub fn is_free(&self) -> bool {
        self.place.borrow().is_free()
    }

    pub fn take(&self) -> Option<Ahead<Job>> {
        self.place.borrow_mut().take()
    }

    pub fn is_void(&self) -> bool {
        self.place.borrow().is_void()
    }

    pub fn moves(&self) {
        self.place.borrow_mut().moves();
    }
}

/// The places of a core that have had a job since they were last looked at.
#[derive(Default)]
pub(super) struct Aheads {
    listed: RefCell<Vec<Rc<AheadPlace>>>,
    /// Rings when there is one again.
    filled: Notify,
}

impl Aheads {
    /// The place is free.
    pub fn put(&self, place: &Rc<AheadPlace>, ahead: Ahead<Job>) {
        let put = place.place.borrow_mut().put(ahead);
        assert!(put.is_ok(), "a job waits here already");
        if place.is_listed.replace(true) {
            return;
        }
        let mut listed = self.listed.borrow_mut();
        listed.push(place.clone());
        if listed.len() == 1 {
            self.filled.notify_one();
        }
    }

    /// Takes out what has waited for so long, and forgets the places without a job. Since when the first of the others waits.
    fn look(
        &self,
        patience: Duration,
        now: Now,
        mut give_back: impl FnMut(HopId, Ahead<Job>),
    ) -> Option<Now> {
        let mut first: Option<Now> = None;
        self.listed.borrow_mut().retain(|place| {
            let late = place.place.borrow_mut().take_overdue(patience, now);
            late.into_iter().for_each(|it| give_back(place.hop, it));
            let stays = place.place.borrow().waits_since();
            first = first.into_iter().chain(stays).min();
            place.is_listed.set(stays.is_some());
            stays.is_some()
        });
        first
    }
}

impl Inner {
    /// Gives back what was taken ahead and has waited for longer than a quick hop takes. About one look a second, and none
    /// where nothing is taken ahead.
    pub(super) async fn give_back_late(self: Rc<Self>) {
        let patience = self.schedule.borrow().settings().proven_wait_max;
        loop {
            let now = clock::now();
            let give_back = |hop, Ahead { job, started, .. }| {
                self.schedule.borrow_mut().give_back(hop, job, started);
                self.wake_scheduler();
            };
            let wait = match self.aheads.look(patience, now, give_back) {
                Some(first) => (first + patience).since(now),
                None => {
                    let filled = self.aheads.filled.notified();
                    if self.unless_draining(filled).await.is_none() {
                        return;
                    }
                    patience
                }
            };
            // A drain lets transactions end that have begun.
            if self.unless_draining(runtime::sleep(wait)).await.is_none() {
                return;
            }
        }
    }
}
