//! Jobs that were taken ahead of their turn, and go back: stands in for `delivery/ahead.rs`.

use crate::canary::Canary;
use crate::job::Job;
use crate::relay::Core;
use crate::world::{until, until_or};
use ringpost::schedule::ahead::{Ahead, Place};
use ringpost::schedule::next_hop::HopId;
use ringpost::time::Now;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Beyond the time after which a job goes back: tasks of this world look when it is their turn.
const LATE_MAX: Duration = Duration::from_millis(500);

/// Where a connection keeps it.
pub struct AheadPlace {
    hop: HopId,
    place: RefCell<Place<Job>>,
    /// How long the world had stood still when it was put there.
    stood_still: Cell<Duration>,
}

impl AheadPlace {
    pub fn new(hop: HopId) -> Rc<Self> {
        Rc::new(AheadPlace {
            hop,
            place: RefCell::default(),
            stood_still: Cell::default(),
        })
    }

    pub fn is_free(&self) -> bool {
        self.place.borrow().is_free()
    }

    pub fn is_void(&self) -> bool {
        self.place.borrow().is_void()
    }

    pub fn moves(&self) {
        self.place.borrow_mut().moves();
    }

    fn waits_since(&self) -> Option<Now> {
        self.place.borrow().waits_since()
    }
}

impl Core {
    pub fn put_ahead(&self, place: &Rc<AheadPlace>, ahead: Ahead<Job>) {
        place.stood_still.set(self.stood_still());
        let put = place.place.borrow_mut().put(ahead);
        let is_planted = self.world().canary == Canary::TakesTwoAhead;
        assert!(put.is_ok() || is_planted, "a job waits here already");
        self.part().aheads.borrow_mut().push(place.clone());
    }

    /// The job, if it is still there. It has not waited for long, whatever came before it.
    pub fn take_ahead_from(&self, place: &AheadPlace) -> Option<Ahead<Job>> {
        let ahead = place.place.borrow_mut().take()?;
        self.look_at_wait(place, &ahead);
        Some(ahead)
    }

    fn look_at_wait(&self, place: &AheadPlace, ahead: &Ahead<Job>) {
        let excused = self.stood_still() - place.stood_still.get();
        let waited = self.world().now().since(ahead.started) - excused;
        if waited > self.ahead_patience() + LATE_MAX {
            let id = ahead.job.message.id;
            self.world()
                .accuse(format!("{id}, begun ahead, has waited {waited:?}"));
        }
    }

    fn stood_still(&self) -> Duration {
        self.world().ledger.borrow().bounds.stood_still
    }

    fn ahead_patience(&self) -> Duration {
        self.part().schedule.borrow().settings().proven_wait_max
    }

    /// Gives back what was taken ahead and has waited for longer than a quick hop takes.
    pub async fn give_back_late(self) {
        let world = self.world().clone();
        let (patience, aheads) = (self.ahead_patience(), &self.part().aheads);
        if world.canary == Canary::KeepsAhead {
            return;
        }
        loop {
            let first = || {
                let mut aheads = aheads.borrow_mut();
                aheads.retain(|place| place.waits_since().is_some());
                aheads.iter().filter_map(|place| place.waits_since()).min()
            };
            let first = until(&world, first).await;
            until_or(&world, first + patience, || None::<()>).await;
            let is_late = |place: &Rc<AheadPlace>| {
                let since = place.waits_since();
                since.is_some_and(|since| world.now().since(since) >= patience)
            };
            let late: Vec<_> = aheads
                .borrow_mut()
                .extract_if(.., |it| is_late(it))
                .collect();
            late.iter().for_each(|place| self.give_back(place));
        }
    }

    fn give_back(&self, place: &AheadPlace) {
        let (patience, now) = (self.ahead_patience(), self.world().now());
        let Some(ahead) = place.place.borrow_mut().take_late(patience, now) else {
            return;
        };
        self.look_at_wait(place, &ahead);
        tell!(self.world(), "{} goes back", ahead.job.message.id);
        self.world().seen.borrow_mut().given_back += 1;
        let mut schedule = self.part().schedule.borrow_mut();
        let site = *schedule.key(place.hop);
        schedule.give_back(place.hop, ahead.job, ahead.started);
        // It may have a connection of its own now.
        let mut ledger = self.world().ledger.borrow_mut();
        let (at, nobody) = ((self.number, site), std::iter::empty());
        ledger.bounds.queued(at, nobody, self.world().now());
    }
}
