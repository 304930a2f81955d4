//! Lanes that take turns, in one another.
//!
//! Promise: ten thousand jobs in one lane keep those of another waiting for one turn. A turn is counted in recipients. Beyond
//! [`LANES_MAX`] keys share lanes, and which ones share changes with the turns. Within a lane of jobs they go in the order in
//! which they came.
//! Not here: what a key stands for (`backlog`).

use crate::time::Now;
use std::collections::VecDeque;

/// There are as many lanes beside each other as that.
const LANES_MAX: usize = 64;
/// A queue that has grown past this gives its memory back when it is empty again.
const SPARE_CAPACITY_MAX: usize = 1024;

pub(super) struct Entry<J> {
    pub since: Now,
    pub recipients: u32,
    pub job: J,
}

pub(super) type Jobs<J> = VecDeque<Entry<J>>;

/// Jobs that wait, in an order of their own.
pub(super) trait Queue: Default {
    type Job;

    /// `keys`: of its lane, and of the lanes in that.
    fn push(&mut self, keys: &[u32], entry: Entry<Self::Job>);
    fn pop(&mut self) -> Option<Entry<Self::Job>>;
    /// Takes out the one that has waited longest.
    fn pop_oldest(&mut self) -> Option<Entry<Self::Job>>;
    /// Since when that one waits.
    fn oldest(&self) -> Option<Now>;
    fn is_empty(&self) -> bool;
}

impl<J> Queue for Jobs<J> {
    type Job = J;

    fn push(&mut self, _: &[u32], entry: Entry<J>) {
        self.push_back(entry);
    }

    fn pop(&mut self) -> Option<Entry<J>> {
        let entry = self.pop_front();
        give_back_memory(self);
        entry
    }

    fn pop_oldest(&mut self) -> Option<Entry<J>> {
        self.pop()
    }

    fn oldest(&self) -> Option<Now> {
        self.front().map(|entry| entry.since)
    }

    fn is_empty(&self) -> bool {
        VecDeque::is_empty(self)
    }
}

pub(super) fn give_back_memory<J>(jobs: &mut Jobs<J>) {
    if jobs.is_empty() && jobs.capacity() > SPARE_CAPACITY_MAX {
        *jobs = Jobs::new();
    }
}

struct Lane<Q> {
    key: u32,
    queue: Q,
    /// Recipients that it may send in this turn. A job may leave a debt.
    credit: i64,
    /// What the queue says, which may have to look at lanes of its own.
    oldest: Option<Now>,
}

/// A lane sends about `TURN` recipients, and then it is the turn of the next.
pub(super) struct Lanes<Q, const TURN: i64> {
    /// The first one's turn it is. None is empty, unless it is the only one.
    lanes: VecDeque<Lane<Q>>,
}

impl<Q, const TURN: i64> Default for Lanes<Q, TURN> {
    fn default() -> Self {
        Lanes {
            lanes: VecDeque::new(),
        }
    }
}

impl<Q: Queue, const TURN: i64> Lanes<Q, TURN> {
    fn lane_of(&mut self, key: u32) -> &mut Lane<Q> {
        let count = self.lanes.len();
        let found = self.lanes.iter().position(|lane| lane.key == key);
        let at = match found {
            Some(at) => at,
            None if count == 1 && self.lanes[0].queue.is_empty() => {
                self.lanes[0].key = key;
                self.lanes[0].credit = TURN;
                0
            }
            None if count < LANES_MAX => {
                self.lanes.push_back(Lane {
                    key,
                    queue: Q::default(),
                    credit: TURN,
                    oldest: None,
                });
                count
            }
            None => key as usize % LANES_MAX,
        };
        &mut self.lanes[at]
    }

    /// A job has left it. An empty lane goes, but for the last: most hops have mail of one origin at a time.
    fn leave_lane(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.oldest = lane.queue.oldest();
        if lane.oldest.is_none() && self.lanes.len() > 1 {
            self.lanes.remove(at);
        }
    }
}

impl<Q: Queue, const TURN: i64> Queue for Lanes<Q, TURN> {
    type Job = Q::Job;

    fn push(&mut self, keys: &[u32], entry: Entry<Q::Job>) {
        let (key, of_lane) = keys.split_first().expect("a key for each level");
        let lane = self.lane_of(*key);
        lane.oldest.get_or_insert(entry.since);
        lane.queue.push(of_lane, entry);
    }

    fn pop(&mut self) -> Option<Entry<Q::Job>> {
        let only = self.lanes.len() == 1;
        while !only && self.lanes.front()?.credit <= 0 {
            self.lanes.rotate_left(1);
            self.lanes.back_mut()?.credit += TURN;
        }
        let lane = self.lanes.front_mut()?;
        let entry = lane.queue.pop()?;
        if !only {
            lane.credit -= i64::from(entry.recipients);
        }
        self.leave_lane(0);
        Some(entry)
    }

    fn pop_oldest(&mut self) -> Option<Entry<Q::Job>> {
        let oldest = self.oldest()?;
        let mut lanes = self.lanes.iter();
        let at = lanes.position(|lane| lane.oldest == Some(oldest))?;
        let entry = self.lanes[at].queue.pop_oldest();
        self.leave_lane(at);
        entry
    }

    fn oldest(&self) -> Option<Now> {
        self.lanes.iter().filter_map(|lane| lane.oldest).min()
    }

    fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queue.is_empty())
    }
}
