//! Who runs next, and what happens when.

use super::packet::Packet;
use crate::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

/// Whose a task is. Cores lose their power together; who is outside goes on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    Core(u16),
    Outside,
}

/// In which order tasks that can run do so. On a real core it is the first; nothing promises that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// First come, first served.
    Fifo,
    Any,
    /// This one runs when nobody else can, and now and then.
    Starves(Owner),
    /// Whoever runs goes on as long as it can.
    WholeTurns,
}

/// Names an event that is to come.
pub type EventKey = (Now, u64);

/// What comes at its time.
pub enum Event {
    Wake(Waker),
    /// Blocking work; the power may go within it.
    Blocking(Box<dyn FnOnce()>),
    /// The operation of the disk of that number ends.
    Disk(u64),
    Network(Packet),
    /// The core that stands still goes on.
    GoesOn,
}

type Future_ = Pin<Box<dyn Future<Output = ()>>>;

pub struct Task {
    pub owner: Owner,
    pub future: Future_,
    pub waker: Arc<TaskWaker>,
}

pub struct TaskWaker {
    number: u64,
    is_ready: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            let mut ready = self.ready.lock().expect("nobody panics with it");
            ready.push_back(self.number);
        }
    }
}

impl TaskWaker {
    pub fn begin_turn(&self) {
        self.is_ready.store(false, Ordering::Relaxed);
    }
}

/// All tasks, and those that can run in the order in which they were woken.
#[derive(Default)]
pub struct Tasks {
    tasks: BTreeMap<u64, Task>,
    /// Whose each task is, by its number; `None`: it is over, or has its turn.
    owners: Vec<Option<Owner>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    /// It comes to nothing, as one to which the kernel gives no CPU.
    pub still: Option<Owner>,
    last_owner: Option<Owner>,
}

/// Places of tasks that can have the next turn. Looked at for every turn of a world, so no list is made.
struct Runnable<'a> {
    ready: &'a VecDeque<u64>,
    owners: &'a [Option<Owner>],
    still: Option<Owner>,
}

impl Runnable<'_> {
    fn places(&self, are_meant: impl Fn(Owner) -> bool) -> impl Iterator<Item = usize> {
        let is_meant = move |owner| Some(owner) != self.still && are_meant(owner);
        let places = self.ready.iter().enumerate();
        places
            .filter(move |(_, number)| self.owners[**number as usize].is_some_and(&is_meant))
            .map(|(place, _)| place)
    }

    fn count(&self, are_meant: impl Fn(Owner) -> bool) -> usize {
        self.places(are_meant).count()
    }

    fn nth(&self, count: usize, are_meant: impl Fn(Owner) -> bool) -> Option<usize> {
        self.places(are_meant).nth(count)
    }
}

impl Tasks {
    pub fn add(&mut self, owner: Owner, future: Future_) {
        let number = self.owners.len() as u64;
        self.owners.push(Some(owner));
        let waker = Arc::new(TaskWaker {
            number,
            is_ready: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        waker.wake_by_ref();
        let task = Task {
            owner,
            future,
            waker,
        };
        self.tasks.insert(number, task);
    }

    /// The next one to run, taken out for its turn. `draw` gives a number below its argument.
    pub fn take(
        &mut self,
        order: Order,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<(u64, Task)> {
        let mut ready = self.ready.lock().expect("nobody panics with it");
        ready.retain(|number| self.owners[*number as usize].is_some());
        let can = Runnable {
            ready: &ready,
            owners: &self.owners,
            still: self.still,
        };
        let (any, all) = (|_| true, can.count(|_| true));
        if all == 0 {
            return None;
        }
        let place = match order {
            Order::Fifo => can.nth(0, any),
            Order::Any => can.nth(draw(all), any),
            Order::Starves(starved) => {
                let is_other = |owner| owner != starved;
                let others = can.count(is_other);
                match others == 0 || draw(50) == 0 {
                    true => can.nth(draw(all), any),
                    false => can.nth(draw(others), is_other),
                }
            }
            Order::WholeTurns => {
                let same = can.nth(0, |owner| Some(owner) == self.last_owner);
                same.or_else(|| can.nth(draw(all), any))
            }
        };
        let number = ready.remove(place?).expect("it is there");
        drop(ready);
        self.owners[number as usize] = None;
        let task = self.tasks.remove(&number).expect("it was kept");
        self.last_owner = Some(task.owner);
        Some((number, task))
    }

    pub fn put_back(&mut self, number: u64, task: Task) {
        self.owners[number as usize] = Some(task.owner);
        self.tasks.insert(number, task);
    }

    /// Takes out all tasks of those owners.
    pub fn take_all(&mut self, are_meant: impl Fn(Owner) -> bool) -> Vec<Task> {
        let all = std::mem::take(&mut self.tasks);
        let mut taken = Vec::new();
        for (number, task) in all {
            match are_meant(task.owner) {
                true => {
                    self.owners[number as usize] = None;
                    taken.push(task);
                }
                false => drop(self.tasks.insert(number, task)),
            }
        }
        taken
    }

    pub fn count(&self, are_meant: impl Fn(Owner) -> bool) -> usize {
        self.tasks.values().filter(|it| are_meant(it.owner)).count()
    }
}
