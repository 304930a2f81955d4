//! Lanes between cores: bounded single-producer queues, and a bell that rings only for a sleeper.
//!
//! Promise: an item that was sent is received, in order for each pair of cores, and nobody ever
//! waits on a lane. What does not fit stays in the sender's backlog; it is already spooled, so
//! that is back-pressure, not loss.
//! Not here: what the items mean.

mod bell;
pub mod current;
pub mod job;
pub mod memory;
pub mod settled;

/// What `bell` is made of. `tests/interleavings.rs` has others in its place.
mod sync {
    pub use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use crate::io::{Bug, planted};
use bell::Sleeper;
use crossbeam::queue::ArrayQueue;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// Items that a lane holds before its sender keeps a backlog.
pub const LANE_ITEMS: usize = 256;

/// Tells a sleeping core that one of its lanes has items. Ringing costs a system call, so it is
/// rung only for one that sleeps.
struct Bell {
    sleeper: Sleeper,
    notify: Notify,
}

impl Default for Bell {
    fn default() -> Self {
        Bell {
            sleeper: Sleeper::awake(),
            notify: Notify::new(),
        }
    }
}

impl Bell {
    fn ring_if_sleeping(&self) {
        if planted(Bug::BellsUnrung) {
            return;
        }
        if self.sleeper.must_be_woken() {
            self.notify.notify_one();
        }
    }
}

struct Core<T> {
    /// One lane per sender; the index is the sender's core.
    lanes: Vec<ArrayQueue<T>>,
    bell: Bell,
}

/// Builds the lanes among `cores` cores: all pairs, a core with itself included.
pub fn lanes<T>(cores: usize) -> Vec<Handoff<T>> {
    let all: Arc<[Core<T>]> = (0..cores)
        .map(|_| Core {
            lanes: (0..cores).map(|_| ArrayQueue::new(LANE_ITEMS)).collect(),
            bell: Bell::default(),
        })
        .collect();
    (0..cores)
        .map(|core| Handoff {
            outbox: Outbox {
                core,
                all: all.clone(),
                backlogs: (0..cores).map(|_| RefCell::new(VecDeque::new())).collect(),
                kept: Cell::new(0),
            },
            inbox: Inbox {
                core,
                all: all.clone(),
            },
        })
        .collect()
}

/// One core's two ends: what it sends by and what it receives from.
pub struct Handoff<T> {
    pub outbox: Outbox<T>,
    pub inbox: Inbox<T>,
}

/// The sending end of a core's lanes. Used by one thread.
pub struct Outbox<T> {
    core: usize,
    all: Arc<[Core<T>]>,
    backlogs: Vec<RefCell<VecDeque<T>>>,
    kept: Cell<usize>,
}

impl<T> Outbox<T> {
    pub fn cores(&self) -> usize {
        self.all.len()
    }

    /// This core's own number.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Sends `item` to core `to`, behind what is kept for it already.
    pub fn send(&self, to: usize, item: T) {
        self.keep(to, item);
        self.flush_to(to);
    }

    fn keep(&self, to: usize, item: T) {
        self.backlogs[to].borrow_mut().push_back(item);
        self.kept.set(self.kept.get() + 1);
    }

    fn flush_to(&self, to: usize) {
        let mut backlog = self.backlogs[to].borrow_mut();
        let lane = &self.all[to].lanes[self.core];
        let mut moved = 0;
        while let Some(item) = backlog.pop_front() {
            if let Err(item) = lane.push(item) {
                backlog.push_front(item);
                // Our own loop must come back to it, also if nobody ever sends us anything.
                self.all[self.core].bell.ring_if_sleeping();
                break;
            }
            moved += 1;
        }
        if moved > 0 {
            self.kept.set(self.kept.get() - moved);
            self.all[to].bell.ring_if_sleeping();
        }
    }

    /// Moves what now fits from the backlogs to the lanes. Called by the core's own tick.
    pub fn flush(&self) {
        if self.kept.get() > 0 {
            (0..self.cores()).for_each(|to| self.flush_to(to));
        }
    }

    /// Items kept because their lane was full.
    pub fn backlog(&self) -> usize {
        self.kept.get()
    }
}

/// The receiving end of a core's lanes. Used by one thread.
pub struct Inbox<T> {
    core: usize,
    all: Arc<[Core<T>]>,
}

impl<T> Inbox<T> {
    fn own(&self) -> &Core<T> {
        &self.all[self.core]
    }

    /// Hands up to `most` items to `each`, taking a few from every lane in turn so that one busy
    /// sender does not starve the others; how many there were.
    pub fn drain(&self, most: usize, mut each: impl FnMut(T)) -> usize {
        const TURN_ITEMS: usize = 16;
        let mut drained = 0;
        loop {
            let before = drained;
            for lane in &self.own().lanes {
                for item in std::iter::from_fn(|| lane.pop()).take(TURN_ITEMS) {
                    each(item);
                    drained += 1;
                }
            }
            if drained == before || drained >= most {
                return drained;
            }
        }
    }

    /// Resolves when an item may be there; at once if one is.
    pub async fn wait(&self) {
        let core = self.own();
        let is_empty = || core.lanes.iter().all(ArrayQueue::is_empty);
        if core.bell.sleeper.may_sleep(is_empty) {
            core.bell.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::thread;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn overflow_stays_in_the_backlog_and_keeps_its_order() {
        let mut handoffs = lanes::<usize>(2);
        let receiver = handoffs.pop().unwrap();
        let sender = handoffs.pop().unwrap();
        let items = LANE_ITEMS * 2 + 5;
        (0..items).for_each(|item| sender.outbox.send(1, item));
        assert_eq!(sender.outbox.backlog(), LANE_ITEMS + 5);
        let mut seen = Vec::new();
        while seen.len() < items {
            receiver.inbox.drain(usize::MAX, |item| seen.push(item));
            sender.outbox.flush();
        }
        assert_eq!(seen, (0..items).collect::<Vec<_>>());
        assert_eq!(sender.outbox.backlog(), 0);
    }

    #[test]
    fn sender_with_a_backlog_does_not_sleep() {
        let mut handoffs = lanes::<usize>(2);
        let _receiver = handoffs.pop().unwrap();
        let sender = handoffs.pop().unwrap();
        runtime().block_on(async {
            let mut asleep = std::pin::pin!(sender.inbox.wait());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(asleep.as_mut().poll(&mut context).is_pending());
            (0..LANE_ITEMS).for_each(|item| sender.outbox.send(1, item));
            assert!(asleep.as_mut().poll(&mut context).is_pending());
            sender.outbox.send(1, LANE_ITEMS);
            assert!(asleep.as_mut().poll(&mut context).is_ready());
        });
    }

    #[test]
    fn no_wake_is_lost_between_two_threads() {
        const ITEMS: usize = 200_000;
        let mut handoffs = lanes::<usize>(2);
        let receiver = handoffs.pop().unwrap();
        let sender = handoffs.pop().unwrap();
        let producer = thread::spawn(move || {
            for item in 0..ITEMS {
                sender.outbox.send(1, item);
                if item % 1000 == 0 {
                    thread::yield_now();
                }
            }
            while sender.outbox.backlog() > 0 {
                sender.outbox.flush();
                thread::yield_now();
            }
        });
        let mut next = 0;
        runtime().block_on(async {
            while next < ITEMS {
                receiver.inbox.drain(usize::MAX, |item| {
                    assert_eq!(item, next);
                    next += 1;
                });
                if next < ITEMS {
                    receiver.inbox.wait().await;
                }
            }
        });
        producer.join().unwrap();
    }
}
