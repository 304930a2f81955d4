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
    ready: Arc<Mutex<VecDeque<u64>>>,
    next: u64,
    /// It comes to nothing, as one to which the kernel gives no CPU.
    pub still: Option<Owner>,
    last_owner: Option<Owner>,
}

impl Tasks {
    pub fn add(&mut self, owner: Owner, future: Future_) {
        let number = self.next;
        self.next += 1;
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
        ready.retain(|number| self.tasks.contains_key(number));
        let owner = |place: usize| self.tasks[&ready[place]].owner;
        let can: Vec<usize> = (0..ready.len())
            .filter(|place| Some(owner(*place)) != self.still)
            .collect();
        let first = *can.first()?;
        let among = |wanted: &dyn Fn(Owner) -> bool| -> Vec<usize> {
            let all = can.iter().copied();
            all.filter(|place| wanted(owner(*place))).collect()
        };
        let place = match order {
            Order::Fifo => first,
            Order::Any => can[draw(can.len())],
            Order::Starves(starved) => {
                let others = among(&|owner| owner != starved);
                match others.is_empty() || draw(50) == 0 {
                    true => can[draw(can.len())],
                    false => others[draw(others.len())],
                }
            }
            Order::WholeTurns => {
                let same = among(&|owner| Some(owner) == self.last_owner);
                let same = same.first().copied();
                same.unwrap_or_else(|| can[draw(can.len())])
            }
        };
        let number = ready.remove(place).expect("it is there");
        drop(ready);
        let task = self.tasks.remove(&number).expect("it was kept");
        self.last_owner = Some(task.owner);
        Some((number, task))
    }

    pub fn put_back(&mut self, number: u64, task: Task) {
        self.tasks.insert(number, task);
    }

    /// Takes out all tasks of those owners.
    pub fn take_all(&mut self, are_meant: impl Fn(Owner) -> bool) -> Vec<Task> {
        let all = std::mem::take(&mut self.tasks);
        let mut taken = Vec::new();
        for (number, task) in all {
            match are_meant(task.owner) {
                true => taken.push(task),
                false => drop(self.tasks.insert(number, task)),
            }
        }
        taken
    }

    pub fn count(&self, are_meant: impl Fn(Owner) -> bool) -> usize {
        self.tasks.values().filter(|it| are_meant(it.owner)).count()
    }
}
