//! What clients and next hops see of the world: its clock and its chance, what they have found out, and whether all is well.

use crate::ledger::Ledger;
use crate::plan::{Choice, Plan};
use crate::seen::Seen;
use ringpost::io::runtime;
use ringpost::io::simulated::{self, Owner};
use ringpost::time::{Now, WallTime};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

pub struct World {
    pub host: Rc<simulated::World>,
    pub ledger: RefCell<Ledger>,
    pub seen: RefCell<Seen>,
    pub plan: Plan,
    /// From here on everything outside is well, and nothing new comes in.
    pub is_healed: Cell<bool>,
    /// Operations of the disk fail.
    pub has_disk_trouble: Cell<bool>,
    broken: RefCell<Option<String>>,
}

impl World {
    pub fn new(host: &Rc<simulated::World>, plan: &Plan) -> Rc<World> {
        Rc::new(World {
            host: host.clone(),
            ledger: RefCell::default(),
            seen: RefCell::default(),
            plan: plan.clone(),
            is_healed: Cell::new(false),
            has_disk_trouble: Cell::new(false),
            broken: RefCell::default(),
        })
    }

    pub fn below(&self, bound: usize) -> usize {
        self.host.below(bound)
    }

    pub fn one_in(&self, chances: usize) -> bool {
        self.host.one_in(chances)
    }

    /// One in so many, if the plan allows it. Chance goes the same way in any case.
    pub fn may(&self, choice: Choice, chances: usize) -> bool {
        self.one_in(chances) && self.plan.allows(choice)
    }

    pub fn pick<'a, T>(&self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }

    pub fn now(&self) -> Now {
        self.host.now()
    }

    pub fn wall_time(&self) -> WallTime {
        self.host.wall_time()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.host.spawn(Owner::Outside, task);
    }

    /// Ends that a relay of before may not have heard of stay unclear until it says something.
    pub fn hears_late(&self) -> bool {
        true
    }

    /// What was refused may be on the disk all the same.
    pub fn has_disk_trouble(&self) -> bool {
        self.has_disk_trouble.get()
    }

    /// One line of the story.
    pub fn tell(&self, line: impl FnOnce(&mut String)) {
        self.host.tell(|| {
            let mut text = String::new();
            line(&mut text);
            text
        });
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

/// Waits until `look` finds something, looking now and then.
pub async fn until<T>(world: &World, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        match look() {
            Some(found) => return found,
            None => sleep(world, Duration::from_millis(100)).await,
        }
    }
}

pub async fn sleep(_: &World, time: Duration) {
    runtime::sleep(time).await;
}

/// Others get their turn.
pub async fn yield_now(_: &World) {
    runtime::yield_now().await;
}
