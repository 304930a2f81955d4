//! The world that everything lives in.

use super::disk::{Disk, Faults};
use super::executor::{Event, EventKey, Order, Owner, Tasks};
use super::names::Names;
use crate::io::Bug;
use crate::time::{Now, WallTime};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// The calendar when the world begins.
const BEGINNING: WallTime = WallTime(1_700_000_000_000);

/// A turn takes less than this.
const TURN_US: usize = 9;
/// One turn in so many takes as long as this.
const LONG_TURNS: usize = 4000;
const LONG_TURN: Duration = Duration::from_millis(20);

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world of this thread.
pub fn current() -> Rc<World> {
    CURRENT.with_borrow(|current| current.clone().expect("this thread plays a world"))
}

/// What ends after its world finds none.
pub fn if_any(act: impl FnOnce(&World)) {
    let current = CURRENT.try_with(|current| current.borrow().clone());
    if let Ok(Some(world)) = current {
        act(&world);
    }
}

/// One clock, one source of chance, tasks, a disk and what name servers know.
pub struct World {
    random: Cell<u64>,
    now: Cell<Now>,
    tasks: RefCell<Tasks>,
    events: RefCell<BTreeMap<EventKey, Event>>,
    events_made: Cell<u64>,
    owner: Cell<Owner>,
    order: Cell<Order>,
    polls: Cell<u64>,
    digest: Cell<u32>,
    pub(super) disk: RefCell<Disk>,
    names: RefCell<Names>,
    story: RefCell<Option<Vec<String>>>,
    planted: Cell<Option<Bug>>,
}

/// Ends its world: what lives in it holds it.
pub struct Guard(Rc<World>);

impl Deref for Guard {
    type Target = Rc<World>;

    fn deref(&self) -> &Rc<World> {
        &self.0
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let tasks = self.tasks.borrow_mut().take_all(|_| true);
        drop(tasks);
        let events = self.events.take();
        drop(events);
        CURRENT.set(None);
    }
}

impl World {
    /// The world of this thread from now on. With `is_told` its story is kept.
    pub fn begin(seed: u64, is_told: bool) -> Guard {
        let world = Rc::new(World {
            random: Cell::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            now: Cell::new(Now(1)),
            tasks: RefCell::default(),
            events: RefCell::default(),
            events_made: Cell::new(0),
            owner: Cell::new(Owner::Outside),
            order: Cell::new(Order::Fifo),
            polls: Cell::new(0),
            digest: Cell::new(0),
            disk: RefCell::default(),
            names: RefCell::default(),
            story: RefCell::new(is_told.then(Vec::new)),
            planted: Cell::new(None),
        });
        CURRENT.set(Some(world.clone()));
        Guard(world)
    }

    /// From now on the relay has this bug.
    pub fn plant(&self, bug: Option<Bug>) {
        self.planted.set(bug);
    }

    pub(in crate::io) fn has(bug: Bug) -> bool {
        CURRENT.with_borrow(|current| {
            let world = current.as_ref();
            world.is_some_and(|world| world.planted.get() == Some(bug))
        })
    }

    // ---- chance ----

    /// splitmix64
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&self, bound: usize) -> usize {
        (self.random() % bound as u64) as usize
    }

    /// Never, if there are no chances.
    pub fn one_in(&self, chances: usize) -> bool {
        chances > 0 && self.below(chances) == 0
    }

    // ---- time ----

    pub fn now(&self) -> Now {
        self.now.get()
    }

    pub fn wall_time(&self) -> WallTime {
        BEGINNING + Duration::from_micros(self.now.get().0)
    }

    pub(super) fn wake_at(&self, time: Now, waker: Waker) -> EventKey {
        self.event_at(time, Event::Wake(waker))
    }

    pub(super) fn event_in(&self, wait: Duration, event: Event) -> EventKey {
        self.event_at(self.now.get() + wait, event)
    }

    fn event_at(&self, time: Now, event: Event) -> EventKey {
        let number = self.events_made.get();
        self.events_made.set(number + 1);
        self.events.borrow_mut().insert((time, number), event);
        (time, number)
    }

    pub(super) fn cancel(&self, key: EventKey) {
        let event = self.events.borrow_mut().remove(&key);
        drop(event);
    }

    /// Blocking work takes up to 30 ms until it is done, at one instant.
    pub(super) fn do_blocking(&self, work: impl FnOnce() + 'static) {
        let wait = Duration::from_micros(self.below(30_000) as u64);
        self.event_in(wait, Event::Blocking(Box::new(work)));
    }

    /// Blocking work that is under way.
    pub fn helpers_at_work(&self) -> usize {
        let events = self.events.borrow();
        let works = events
            .values()
            .filter(|it| matches!(it, Event::Blocking(_)));
        works.count()
    }

    // ---- tasks ----

    pub fn set_order(&self, order: Order) {
        self.order.set(order);
    }

    pub fn owner(&self) -> Owner {
        self.owner.get()
    }

    pub fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().add(owner, Box::pin(future));
    }

    /// Tasks of cores.
    pub fn tasks_of_cores(&self) -> usize {
        self.tasks
            .borrow()
            .count(|owner| matches!(owner, Owner::Core(_)))
    }

    /// What is due happens, or a task has its turn, or it is later. False: nothing is ever to come.
    pub fn step(&self) -> bool {
        let due = {
            let mut events = self.events.borrow_mut();
            let is_due = events
                .first_key_value()
                .is_some_and(|((time, _), _)| *time <= self.now.get());
            is_due.then(|| events.pop_first().expect("just seen"))
        };
        if let Some((_, event)) = due {
            self.happen(event);
            return true;
        }
        if self.let_one_run() {
            return true;
        }
        let next = self.events.borrow().first_key_value().map(|(key, _)| key.0);
        if let Some(time) = next {
            self.now.set(time);
        }
        next.is_some()
    }

    fn happen(&self, event: Event) {
        match event {
            Event::Wake(waker) => waker.wake(),
            Event::Blocking(work) => work(),
            Event::Disk(number) => {
                let waker = self.disk.borrow_mut().finish(self, number);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    fn let_one_run(&self) -> bool {
        let draw = |bound| self.below(bound);
        let taken = self.tasks.borrow_mut().take(self.order.get(), draw);
        let Some((number, mut task)) = taken else {
            return false;
        };
        task.waker.begin_turn();
        self.owner.set(task.owner);
        let waker = Waker::from(task.waker.clone());
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            self.tasks.borrow_mut().put_back(number, task);
        }
        self.owner.set(Owner::Outside);
        self.polls.set(self.polls.get() + 1);
        self.note(&number.to_le_bytes());
        let took = match self.one_in(LONG_TURNS) {
            true => LONG_TURN,
            false => Duration::from_micros(self.below(TURN_US) as u64),
        };
        self.now.set(self.now.get() + took);
        true
    }

    /// As one of the cores, before it runs.
    pub fn act_as<R>(&self, owner: Owner, act: impl FnOnce() -> R) -> R {
        let before = self.owner.replace(owner);
        let result = act();
        self.owner.set(before);
        result
    }

    pub fn polls(&self) -> u64 {
        self.polls.get()
    }

    // ---- the disk ----

    pub fn set_faults(&self, faults: Faults) {
        self.disk.borrow_mut().faults = faults;
    }

    /// Bytes that the disk holds, and those that another program has taken of it.
    pub fn set_space(&self, capacity: u64, of_others: u64) {
        let mut disk = self.disk.borrow_mut();
        (disk.capacity, disk.of_others) = (capacity, of_others);
    }

    /// So many further calls of blocking work land, the last of them in part; then none does.
    pub fn set_calls_left(&self, calls: Option<u32>) {
        self.disk.borrow_mut().calls_left = calls;
    }

    /// True if no call is left.
    pub fn is_out_of_calls(&self) -> bool {
        self.disk.borrow().calls_left == Some(0)
    }

    /// The power goes: tasks of all cores end where they are, and of what was not durable anything may be left.
    pub fn cut_power(&self) {
        self.tell(|| "[the power is cut]".to_owned());
        let tasks = self
            .tasks
            .borrow_mut()
            .take_all(|owner| matches!(owner, Owner::Core(_)));
        // Helper threads have got as far as they have.
        let events = self.events.take();
        let mut kept = BTreeMap::new();
        let mut works = Vec::new();
        for (key, event) in events {
            match event {
                Event::Blocking(work) => works.push(work),
                Event::Disk(_) => {}
                Event::Wake(_) => drop(kept.insert(key, event)),
            }
        }
        *self.events.borrow_mut() = kept;
        for work in works {
            if self.one_in(2) {
                self.set_calls_left(Some(self.below(8) as u32));
                work();
            }
        }
        drop(tasks);
        let mut disk = self.disk.borrow_mut();
        disk.calls_left = None;
        disk.cut_power(self);
    }

    /// What a file of the disk holds.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        self.disk.borrow().content(path)
    }

    /// Names in a directory, in their order.
    pub fn names_in(&self, directory: &Path) -> Vec<String> {
        self.disk.borrow().names_in(directory)
    }

    // ---- names ----

    /// What name servers know; to be let go before anything is waited for.
    pub fn names(&self) -> RefMut<'_, Names> {
        self.names.borrow_mut()
    }

    // ---- what is told ----

    /// Into the digest of all that has happened.
    pub fn note(&self, bytes: &[u8]) {
        self.digest
            .set(crc32c::crc32c_append(self.digest.get(), bytes));
    }

    /// Of every turn and of what is on the disk.
    pub fn digest(&self) -> (u32, u32, u64) {
        (
            self.digest.get(),
            self.disk.borrow().digest(),
            self.now.get().0,
        )
    }

    /// A line of the story.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut *self.story.borrow_mut() {
            story.push(format!("{:>10} {}", self.now.get().0, line()));
        }
    }

    /// The last lines of the story.
    pub fn story(&self, lines: usize) -> String {
        let story = self.story.borrow();
        let story = story.as_deref().unwrap_or_default();
        story[story.len().saturating_sub(lines)..].join("\n")
    }
}
