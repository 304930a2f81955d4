//! The world that everything lives in: one clock, one source of chance, and tasks that are polled by hand.
//!
//! A task waits by [`until`] and [`until_or`] alone, which look whether something has happened. Nothing
//! wakes anybody: whoever's turn it is looks. When nobody finds anything, the clock goes on to the next
//! time that somebody waits for.

use crate::canary::Canary;
use crate::ledger::Ledger;
use crate::power::Power;
use crate::seen::Seen;
use crate::simulated::random::Random;
use ringpost::time::{Now, WallTime};
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The calendar when the world begins.
const BEGINNING: WallTime = WallTime(1_700_000_000_000);

/// Who a task belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Dies with the power.
    Relay,
    /// Clients and next hops: they live on, and find their connections gone.
    Outside,
}

/// What is done with the story.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Telling {
    Silent,
    /// Everything goes into a digest.
    Digested,
    /// The same, and to the reader.
    Aloud,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

pub struct World {
    pub canary: Canary,
    random: RefCell<Random>,
    now: Cell<Now>,
    /// The earliest time that a task waited for since this was last asked.
    awaited: Cell<Now>,
    /// Grows with everything that any task finds.
    progress: Cell<u64>,
    tasks: RefCell<Vec<(Owner, Task)>>,
    spawned: RefCell<Vec<(Owner, Task)>>,
    pub power: RefCell<Power>,
    pub ledger: RefCell<Ledger>,
    pub seen: RefCell<Seen>,
    /// From here on everything outside is well, and nothing new comes in.
    pub is_healed: Cell<bool>,
    telling: Telling,
    digest: Cell<u32>,
    broken: RefCell<Option<String>>,
}

impl World {
    pub fn new(seed: u64, canary: Canary, telling: Telling) -> Rc<World> {
        Rc::new(World {
            canary,
            random: RefCell::new(Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))),
            now: Cell::new(Now(1)),
            awaited: Cell::new(Now::NEVER),
            progress: Cell::new(0),
            tasks: RefCell::default(),
            spawned: RefCell::default(),
            power: RefCell::default(),
            ledger: RefCell::default(),
            seen: RefCell::default(),
            is_healed: Cell::new(false),
            telling,
            digest: Cell::new(0),
            broken: RefCell::default(),
        })
    }

    // ---- chance ----

    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next()
    }

    pub fn below(&self, bound: usize) -> usize {
        self.random.borrow_mut().below(bound)
    }

    pub fn one_in(&self, chances: usize) -> bool {
        self.random.borrow_mut().one_in(chances)
    }

    pub fn with_random<R>(&self, draw: impl FnOnce(&mut Random) -> R) -> R {
        draw(&mut self.random.borrow_mut())
    }

    pub fn pick<'a, T>(&self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    // ---- time ----

    pub fn now(&self) -> Now {
        self.now.get()
    }

    pub fn wall_time(&self) -> WallTime {
        BEGINNING + Duration::from_micros(self.now.get().0)
    }

    pub fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    /// Goes to the next time that anybody waits for. False if nobody waits for any.
    pub fn pass_to_next(&self) -> bool {
        let awaited = self.awaited.replace(Now::NEVER);
        if awaited == Now::NEVER {
            return false;
        }
        self.now.set(self.now.get().max(awaited));
        true
    }

    pub fn forget_awaited(&self) {
        self.awaited.set(Now::NEVER);
    }

    // ---- tasks ----

    pub fn spawn(&self, owner: Owner, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push((owner, Box::pin(task)));
        self.note_progress();
    }

    pub fn note_progress(&self) {
        self.progress.set(self.progress.get() + 1);
    }

    pub fn progress(&self) -> u64 {
        self.progress.get()
    }

    /// How many tasks there are, those just spawned included.
    pub fn tasks(&self) -> usize {
        let mut tasks = self.tasks.borrow_mut();
        tasks.append(&mut self.spawned.borrow_mut());
        tasks.len()
    }

    /// Lets one task look.
    pub fn poll(&self, index: usize) {
        // Out of the list: it may spawn others.
        let (owner, mut task) = self.tasks.borrow_mut().swap_remove(index);
        let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(()) => self.note_progress(),
            Poll::Pending => self.tasks.borrow_mut().push((owner, task)),
        }
    }

    /// Ends all tasks of an owner, wherever they are.
    pub fn end_tasks_of(&self, owner: Owner) {
        self.tasks();
        // What is dropped may look at the list.
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        let (ended, others): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|(of, _)| *of == owner);
        *self.tasks.borrow_mut() = others;
        drop(ended);
    }

    // ---- what is told ----

    /// One line of the story.
    pub fn tell(&self, line: impl FnOnce(&mut String)) {
        if self.telling == Telling::Silent {
            return;
        }
        let mut text = String::new();
        let _ = write!(text, "{:>12} ", self.now.get().0);
        line(&mut text);
        self.digest
            .set(crc32c::crc32c_append(self.digest.get(), text.as_bytes()));
        if self.telling == Telling::Aloud {
            println!("{text}");
        }
    }

    /// Of the whole story so far, and what is on the disk.
    pub fn digest(&self) -> (u32, u32) {
        (self.digest.get(), self.power.borrow().disk.digest())
    }

    /// Here an end that closes is noticed at once.
    pub fn hears_late(&self) -> bool {
        false
    }

    /// Those whose write fails are known one by one here.
    pub fn has_disk_trouble(&self) -> bool {
        false
    }

    /// A promise is broken. The first one counts.
    pub fn accuse(&self, story: String) {
        self.tell(|line| line.push_str(&story));
        self.broken.borrow_mut().get_or_insert(story);
    }

    pub fn verdict(&self) -> Result<(), String> {
        match &*self.broken.borrow() {
            Some(story) => Err(story.clone()),
            None => Ok(()),
        }
    }
}

/// A line of the story.
#[macro_export]
macro_rules! tell {
    ($world:expr, $($words:tt)*) => {
        $world.tell(|line| {
            use std::fmt::Write;
            let _ = write!(line, $($words)*);
        })
    };
}

/// Waits until `look` finds something.
pub async fn until<T>(world: &World, look: impl FnMut() -> Option<T>) -> T {
    until_or(world, Now::NEVER, look)
        .await
        .expect("that time never comes")
}

/// Waits until `look` finds something; `None` once it is `deadline` and it has not.
pub async fn until_or<T>(
    world: &World,
    deadline: Now,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    poll_fn(|_| {
        let found = look();
        if found.is_some() || world.now.get() >= deadline {
            world.note_progress();
            return Poll::Ready(found);
        }
        world.awaited.set(world.awaited.get().min(deadline));
        Poll::Pending
    })
    .await
}

pub async fn sleep(world: &World, time: Duration) {
    until_or(world, world.now() + time, || None::<()>).await;
}

/// Others get their turn.
pub async fn yield_now(world: &World) {
    let mut yielded = false;
    let look = || {
        // The next look finds something: this one has not found nothing.
        world.note_progress();
        std::mem::replace(&mut yielded, true).then_some(())
    };
    until(world, look).await;
}
