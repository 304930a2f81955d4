//! Jobs that wait for the clock: a heap by due time.

use crate::time::Now;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Hands jobs back in order of due time; equal times in the order they came.
pub(super) struct DueQueue<J> {
    heap: BinaryHeap<Entry<J>>,
    /// Grows with every push; breaks ties.
    sequence: u64,
}

struct Entry<J> {
    due: Now,
    sequence: u64,
    job: J,
}

impl<J> DueQueue<J> {
    pub fn new() -> Self {
        DueQueue {
            heap: BinaryHeap::new(),
            sequence: 0,
        }
    }

    pub fn push(&mut self, due: Now, job: J) {
        self.sequence += 1;
        self.heap.push(Entry {
            due,
            sequence: self.sequence,
            job,
        });
    }

    /// The earliest job, if it is due.
    pub fn pop(&mut self, now: Now) -> Option<J> {
        if self.deadline()? > now {
            return None;
        }
        self.heap.pop().map(|entry| entry.job)
    }

    pub fn deadline(&self) -> Option<Now> {
        self.heap.peek().map(|entry| entry.due)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }
}

impl<J> Entry<J> {
    fn rank(&self) -> (Now, u64) {
        (self.due, self.sequence)
    }
}

// Reversed: `BinaryHeap` hands out its greatest, the earliest is wanted.
impl<J> Ord for Entry<J> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.rank().cmp(&self.rank())
    }
}

impl<J> PartialOrd for Entry<J> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<J> PartialEq for Entry<J> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<J> Eq for Entry<J> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_equals_in_order() {
        let mut queue = DueQueue::new();
        queue.push(Now(20), "c");
        queue.push(Now(10), "a");
        queue.push(Now(10), "b");
        assert_eq!(queue.deadline(), Some(Now(10)));
        assert_eq!(queue.pop(Now(9)), None);
        assert_eq!(queue.pop(Now(10)), Some("a"));
        assert_eq!(queue.pop(Now(30)), Some("b"));
        assert_eq!(queue.pop(Now(30)), Some("c"));
        assert_eq!(queue.deadline(), None);
        assert_eq!(queue.len(), 0);
    }
}
