//! Jobs that were taken ahead of their turn, and go back: stands in for `delivery/ahead.rs`.

use crate::canary::Canary;
use crate::job::Job;
use crate::relay::Core;
use crate::world::{until, until_or};
use ringpost::schedule::next_hop::HopId;
use ringpost::time::Now;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Beyond the time after which a job goes back: tasks of this world look when it is their turn.
const LATE_MAX: Duration = Duration::from_millis(500);

/// A job that was taken while the one before was under way.
pub struct Ahead {
    pub job: Job,
    /// Its commands have been sent; else it is begun in its turn.
    pub begun: bool,
    pub started: Now,
}

/// Where a connection keeps it.
pub struct AheadPlace {
    hop: HopId,
    ahead: RefCell<Option<Ahead>>,
    is_void: Cell<bool>,
}

impl AheadPlace {
    pub fn new(hop: HopId) -> Rc<Self> {
        Rc::new(AheadPlace {
            hop,
            ahead: RefCell::default(),
            is_void: Cell::new(false),
        })
    }

    pub fn is_void(&self) -> bool {
        self.is_void.get()
    }

    pub fn moves(&self) {
        self.is_void.set(false);
        if let Some(ahead) = &mut *self.ahead.borrow_mut() {
            ahead.begun = false;
        }
    }

    fn waits_since(&self) -> Option<Now> {
        self.ahead.borrow().as_ref().map(|ahead| ahead.started)
    }
}

impl Core {
    pub fn put_ahead(&self, place: &Rc<AheadPlace>, ahead: Ahead) {
        place.ahead.replace(Some(ahead));
        self.part().aheads.borrow_mut().push(place.clone());
    }

    /// The job, if it is still there. It has not waited for long, whatever came before it.
    pub fn take_ahead_from(&self, place: &AheadPlace) -> Option<Ahead> {
        let ahead = place.ahead.take()?;
        let waited = self.world().now().since(ahead.started);
        if waited > self.ahead_patience() + LATE_MAX {
            let id = ahead.job.message.id;
            self.world()
                .accuse(format!("{id}, begun ahead, has waited {waited:?}"));
        }
        Some(ahead)
    }

    fn ahead_patience(&self) -> Duration {
        self.part().schedule.borrow().settings().proven_wait_max
    }

    /// Gives back what was taken ahead and has waited for longer than a quick hop takes.
    pub async fn give_back_late(self) {
        let world = self.world().clone();
        let (patience, aheads) = (self.ahead_patience(), &self.part().aheads);
        while world.canary != Canary::KeepsAhead {
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
        let Some(ahead) = self.take_ahead_from(place) else {
            return;
        };
        tell!(self.world(), "{} goes back", ahead.job.message.id);
        self.world().seen.borrow_mut().given_back += 1;
        place.is_void.set(place.is_void() || ahead.begun);
        let mut schedule = self.part().schedule.borrow_mut();
        schedule.give_back(place.hop, ahead.job, ahead.started);
    }
}
