//! The world that everything lives in.

use super::clockwork::Clockwork;
use super::disk::{Disk, Faults};
use super::executor::{Event, Order, Owner, Task, Tasks};
use super::names::Names;
use super::network::{Links, Network, Reach};
use crate::io::Bug;
use std::any::Any;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

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

fn is_core(owner: Owner) -> bool {
    matches!(owner, Owner::Core(_))
}

/// One clock, one source of chance, tasks, a disk, a network and what name servers know.
pub struct World {
    clockwork: Clockwork,
    tasks: RefCell<Tasks>,
    order: Cell<Order>,
    polls: Cell<u64>,
    pub(super) disk: RefCell<Disk>,
    names: RefCell<Names>,
    network: RefCell<Network>,
    locals: RefCell<BTreeMap<(Owner, usize), Rc<dyn Any>>>,
    planted: Cell<Option<Bug>>,
    /// The relay was ended from outside, and no core of a next one runs yet.
    has_ended: Cell<bool>,
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
        let tasks = self.end_tasks(|_| true);
        self.drop_tasks(tasks);
        let events = self.events.take();
        drop(events);
        self.network(|network| network.end_of(self, |_| true, true));
        self.events.take();
        drop(self.locals.take());
        CURRENT.set(None);
    }
}

impl Deref for World {
    type Target = Clockwork;

    fn deref(&self) -> &Clockwork {
        &self.clockwork
    }
}

impl World {
    /// The world of this thread from now on. With `is_told` its story is kept.
    pub fn begin(seed: u64, is_told: bool) -> Guard {
        let world = Rc::new(World {
            clockwork: Clockwork::new(seed, is_told),
            tasks: RefCell::default(),
            order: Cell::new(Order::Fifo),
            polls: Cell::new(0),
            disk: RefCell::default(),
            names: RefCell::default(),
            network: RefCell::default(),
            locals: RefCell::default(),
            planted: Cell::new(None),
            has_ended: Cell::new(false),
        });
        CURRENT.set(Some(world.clone()));
        Guard(world)
    }

    /// The world of this thread.
    ///
    /// # Panics
    /// If there is none.
    pub fn of_this_thread() -> Rc<World> {
        current()
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

    // ---- time ----

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

    pub fn spawn(&self, owner: Owner, future: impl Future<Output = ()> + 'static) {
        if is_core(owner) {
            self.has_ended.set(false);
        }
        self.tasks.borrow_mut().add(owner, Box::pin(future));
    }

    /// This core comes to nothing for so long. One at a time does.
    pub fn hold(&self, core: Owner, time: Duration) {
        let before = self.tasks.borrow_mut().still.replace(core);
        assert_eq!(before, None, "another one stands still");
        self.event_in(time, Event::GoesOn);
    }

    pub fn is_any_held(&self) -> bool {
        self.tasks.borrow().still.is_some()
    }

    /// Tasks of cores.
    pub fn tasks_of_cores(&self) -> usize {
        self.tasks.borrow().count(is_core)
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
        if self.run_one() {
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
            Event::GoesOn => self.tasks.borrow_mut().still = None,
            Event::Network(packet) => self.network(|network| network.arrive(self, packet)),
            Event::Disk(number) => {
                let waker = self.disk.borrow_mut().finish(self, number);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }

    fn run_one(&self) -> bool {
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

    // ---- the network ----

    /// Does something to sockets; who is to know is told afterwards.
    pub(super) fn network<R>(&self, act: impl FnOnce(&mut Network) -> R) -> R {
        let mut network = self.network.borrow_mut();
        let result = act(&mut network);
        let (to_wake, to_drop) = network.take_effects();
        drop(network);
        to_wake.into_iter().for_each(Waker::wake);
        drop(to_drop);
        result
    }

    /// What the network is like from now on. Windows are those of all connections.
    pub fn set_links(&self, links: Links) {
        self.network.borrow_mut().links = links;
    }

    /// How a host is reached from now on; `None`: as it should be.
    pub fn set_reach(&self, host: IpAddr, reach: Option<Reach>) {
        self.network.borrow_mut().set_reach(host, reach);
    }

    /// Connections are reset in one instant, those for which `are_meant` is true of their own and the other address. How
    /// many there were.
    pub fn reset(&self, are_meant: impl Fn(SocketAddr, SocketAddr) -> bool) -> usize {
        self.network(|network| network.reset(self, are_meant))
    }

    /// Connections of cores.
    pub fn connections_of_cores(&self) -> usize {
        self.network.borrow().connections(is_core)
    }

    // ---- what each core has ----

    /// The value of that name of whoever runs.
    pub(super) fn local<T: 'static>(&self, name: usize, make: fn() -> T) -> Rc<T> {
        let key = (self.owner.get(), name);
        let found = self.locals.borrow().get(&key).cloned();
        let value = found.unwrap_or_else(|| {
            let value: Rc<dyn Any> = Rc::new(make());
            self.locals.borrow_mut().insert(key, value.clone());
            value
        });
        value.downcast().expect("a name has one type")
    }

    // ---- the power ----

    /// The power goes: tasks of all cores end where they are, and of what was not durable anything may be left.
    pub fn cut_power(&self) {
        self.tell(|| "[the power is cut]".to_owned());
        self.end_cores(true);
        let mut disk = self.disk.borrow_mut();
        disk.calls_left = None;
        disk.cut_power(self);
    }

    /// The relay is killed: its tasks end where they are. What it has written stays, and its sockets are closed.
    pub fn kill(&self) {
        self.tell(|| "[the relay is killed]".to_owned());
        self.end_cores(false);
        self.disk.borrow_mut().calls_left = None;
    }

    fn end_cores(&self, is_power: bool) {
        let tasks = self.end_tasks(is_core);
        // Helper threads have got as far as they have.
        let events = self.events.take();
        let mut kept = BTreeMap::new();
        let mut works = Vec::new();
        for (key, event) in events {
            match event {
                Event::Blocking(work) => works.push(work),
                Event::GoesOn => self.tasks.borrow_mut().still = None,
                Event::Disk(_) if is_power => {}
                // A ring that goes waits for what the disk has been told.
                Event::Disk(number) => drop(self.disk.borrow_mut().finish(self, number)),
                Event::Wake(_) | Event::Network(_) => drop(kept.insert(key, event)),
            }
        }
        *self.events.borrow_mut() = kept;
        for work in works {
            if self.one_in(2) {
                if is_power {
                    self.set_calls_left(Some(self.below(8) as u32));
                }
                work();
            }
        }
        self.network(|network| network.end_of(self, is_core, is_power));
        self.drop_tasks(tasks);
    }

    fn end_tasks(&self, which: impl Fn(Owner) -> bool) -> Vec<Task> {
        self.has_ended.set(true);
        self.tasks.borrow_mut().take_all(which)
    }

    /// Each as its owner: what it holds is its core's.
    fn drop_tasks(&self, tasks: Vec<Task>) {
        let mut panicked = None;
        for task in tasks {
            let dropped = || self.act_as(task.owner, || drop(task));
            if let Err(panic) = catch_unwind(AssertUnwindSafe(dropped)) {
                panicked = Some(panic);
            }
        }
        self.locals
            .borrow_mut()
            .retain(|(owner, _), _| !is_core(*owner));
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
    }

    /// Whether it has, until cores run again: tasks are dropped by force, then what was shared by them.
    pub(in crate::io) fn has_relay_ended() -> bool {
        CURRENT.with_borrow(|current| {
            let world = current.as_ref();
            world.is_none_or(|world| world.has_ended.get())
        })
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

    /// Of every turn and of what is on the disk.
    pub fn digest(&self) -> (u32, u32, u64) {
        (
            self.digest.get(),
            self.disk.borrow().digest(),
            self.now.get().0,
        )
    }
}
