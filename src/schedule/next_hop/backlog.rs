//! The jobs that wait at one hop, and which goes next.
//!
//! Three kinds: those that were taken and given back; *new* ones; and *old* ones, which have been tried, have come back
//! untried, or had been accepted long before they came here. What was given back goes first. Of new and old, three new ones
//! go for each old one, so that the backlog of a host that was down does not keep today's mail waiting.
//!
//! The new ones stand in *lanes* (`lanes.rs`), one for each party, and in each of them in one for each of its senders.

use super::lanes::{Entry, Jobs, Lanes, Queue, give_back_memory};
use crate::time::Now;

/// So many new jobs go for each old one.
const NEW_PER_OLD: u8 = 3;

/// Whose mail it is, where the mail of several takes turns. Hashes: who falls together takes turns together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct Origin {
    pub party: u32,
    /// One of the party's.
    pub sender: u32,
}

/// How a job stands among those that wait for the same hop.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rank {
    /// New jobs of different origins take turns.
    pub origin: Origin,
    /// What it costs its origin.
    pub recipients: u32,
    pub is_old: bool,
}

/// What can wait at a hop.
pub trait Queued {
    /// Asked once, when it begins to wait.
    fn rank(&self, now: Now) -> Rank;
}

/// Those of a sender wait in the lane of the sender, which is in that of the party.
type Senders<J> = Lanes<Jobs<J>, 10>;
/// A party sends about as many recipients as make a few transactions, and then it is the turn of the next.
type Parties<J> = Lanes<Senders<J>, 50>;

pub(super) struct Backlog<J> {
    given_back: Jobs<J>,
    new: Parties<J>,
    old: Jobs<J>,
    /// New jobs that went since an old one did, while there were both.
    new_since_old: u8,
    length: usize,
}

impl<J: Queued> Backlog<J> {
    pub fn new() -> Self {
        Backlog {
            given_back: Jobs::new(),
            new: Parties::default(),
            old: Jobs::new(),
            new_since_old: 0,
            length: 0,
        }
    }

    pub fn push(&mut self, job: J, now: Now) {
        let rank = job.rank(now);
        let entry = Entry {
            since: now,
            recipients: rank.recipients,
            job,
        };
        self.length += 1;
        match rank.is_old {
            true => self.old.push_back(entry),
            false => {
                let Origin { party, sender } = rank.origin;
                self.new.push(&[party, sender], entry);
            }
        }
    }

    /// It waits since then, and is the next.
    pub fn push_front(&mut self, job: J, since: Now) {
        self.length += 1;
        self.given_back.push_front(Entry {
            since,
            recipients: 0,
            job,
        });
    }

    pub fn pop(&mut self) -> Option<J> {
        let entry = self.given_back.pop_front().or_else(|| self.pop_in_turn())?;
        self.note_taken(entry)
    }

    fn pop_in_turn(&mut self) -> Option<Entry<J>> {
        let is_turn_of_old = self.new.is_empty() || self.new_since_old >= NEW_PER_OLD;
        if is_turn_of_old && let Some(entry) = self.old.pop_front() {
            self.new_since_old = 0;
            give_back_memory(&mut self.old);
            return Some(entry);
        }
        if !self.old.is_empty() {
            self.new_since_old += 1;
        }
        self.new.pop()
    }

    /// Takes out the one that has waited longest.
    pub fn pop_oldest(&mut self) -> Option<J> {
        let oldest = self.oldest()?;
        let is_it = |since: Option<Now>| since == Some(oldest);
        let entry = if is_it(self.given_back.oldest()) {
            self.given_back.pop_front()
        } else if is_it(self.old.oldest()) {
            self.old.pop_front()
        } else {
            self.new.pop_oldest()
        };
        self.note_taken(entry?)
    }

    fn note_taken(&mut self, entry: Entry<J>) -> Option<J> {
        self.length -= 1;
        Some(entry.job)
    }

    /// Since when the one waits that has waited longest.
    pub fn oldest(&self) -> Option<Now> {
        let oldest = [
            self.given_back.oldest(),
            self.new.oldest(),
            self.old.oldest(),
        ];
        oldest.into_iter().flatten().min()
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, VecDeque};

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Job {
        number: u32,
        rank: Rank,
    }

    impl Queued for Job {
        fn rank(&self, _: Now) -> Rank {
            self.rank
        }
    }

    fn job(number: u32, party: u32, recipients: u32, is_old: bool) -> Job {
        let rank = Rank {
            origin: Origin { party, sender: 0 },
            recipients,
            is_old,
        };
        Job { number, rank }
    }

    fn of_sender(number: u32, party: u32, sender: u32) -> Job {
        let mut job = job(number, party, 1, false);
        job.rank.origin.sender = sender;
        job
    }

    fn popped(backlog: &mut Backlog<Job>, count: usize) -> Vec<u32> {
        let next = || backlog.pop().map(|job| job.number);
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn three_new_ones_go_for_each_old_one() {
        let mut backlog = Backlog::new();
        for number in 0..4 {
            backlog.push(job(number, 0, 1, true), Now(0));
        }
        for number in 10..17 {
            backlog.push(job(number, 0, 1, false), Now(1));
        }
        let order = [10, 11, 12, 0, 13, 14, 15, 1, 16, 2, 3];
        assert_eq!(popped(&mut backlog, 20), order);
    }

    #[test]
    fn what_was_given_back_is_the_next() {
        let mut backlog = Backlog::new();
        backlog.push(job(1, 0, 1, false), Now(5));
        backlog.push_front(job(2, 0, 1, true), Now(3));
        assert_eq!(backlog.oldest(), Some(Now(3)));
        assert_eq!(popped(&mut backlog, 2), [2, 1]);
    }

    #[test]
    fn a_flood_of_one_client_keeps_another_waiting_for_one_turn() {
        let mut backlog = Backlog::new();
        for number in 0..10_000 {
            backlog.push(job(number, 1, 1, false), Now(0));
        }
        backlog.push(job(10_000, 2, 1, false), Now(1));
        let order = popped(&mut backlog, 60);
        assert!(order.contains(&10_000), "{order:?}");
    }

    /// Each message of a list has a reverse-path of its own, and nothing tells that they are one list's but their domain.
    #[test]
    fn a_list_with_a_sender_for_each_message_keeps_nobody_waiting() {
        let mut backlog = Backlog::new();
        for number in 0..4_000 {
            backlog.push(of_sender(number, 1, number), Now(0));
        }
        backlog.push(of_sender(10_000, 2, 0), Now(1));
        let order = popped(&mut backlog, 60);
        assert!(order.contains(&10_000), "{order:?}");
    }

    #[test]
    fn a_flood_of_one_sender_keeps_others_of_its_domain_waiting_for_one_turn() {
        let mut backlog = Backlog::new();
        for number in 0..4_000 {
            backlog.push(of_sender(number, 1, 1), Now(0));
        }
        backlog.push(of_sender(10_000, 1, 2), Now(1));
        let order = popped(&mut backlog, 12);
        assert!(order.contains(&10_000), "{order:?}");
    }

    #[test]
    fn turns_are_counted_in_recipients() {
        let mut backlog = Backlog::new();
        for number in 0..40 {
            backlog.push(job(number, 1, 100, false), Now(0));
            backlog.push(job(100 + number, 2, 10, false), Now(0));
        }
        let recipients = |order: &[u32], of: bool| {
            let mine = order.iter().filter(|number| (**number < 100) == of);
            mine.count() * if of { 100 } else { 10 }
        };
        let order = popped(&mut backlog, 33);
        let [large, small] = [true, false].map(|of| recipients(&order, of));
        assert!(large.abs_diff(small) <= 100, "{large} and {small}");
    }

    #[test]
    fn the_one_that_has_waited_longest_is_found_wherever_it_stands() {
        let mut backlog = Backlog::new();
        backlog.push(job(1, 1, 1, false), Now(4));
        backlog.push(job(2, 2, 1, false), Now(2));
        backlog.push(job(3, 0, 1, true), Now(3));
        let oldest = || backlog.pop_oldest().map(|job| job.number);
        assert_eq!(std::iter::from_fn(oldest).collect::<Vec<_>>(), [2, 3, 1]);
        assert!(backlog.is_empty());
    }

    proptest! {
        /// Whatever comes in goes out once, in its order within origin and kind, and no lane waits for ever.
        #[test]
        fn nothing_is_lost_and_each_lane_keeps_its_order(
            steps in prop::collection::vec(
                ((0_u32..20, 0_u32..20), 1_u32..300, any::<bool>(), 0_u8..4),
                1..300,
            ),
        ) {
            type Waiting = BTreeMap<(bool, u32, u32), VecDeque<u32>>;
            let key_of = |rank: Rank| match rank.is_old {
                true => (true, 0, 0),
                false => (false, rank.origin.party, rank.origin.sender),
            };
            let mut backlog = Backlog::new();
            let mut waiting = Waiting::new();
            let gone = |job: Option<Job>, waiting: &mut Waiting| {
                let job = job.expect("there is one");
                let key = key_of(job.rank);
                let first = waiting.get_mut(&key).and_then(VecDeque::pop_front);
                prop_assert_eq!(first, Some(job.number));
                Ok(())
            };
            for (number, ((party, sender), recipients, is_old, pops)) in (0..).zip(steps) {
                let rank = Rank { origin: Origin { party, sender }, recipients, is_old };
                waiting.entry(key_of(rank)).or_default().push_back(number);
                backlog.push(Job { number, rank }, Now(u64::from(number)));
                if pops == 3 {
                    gone(backlog.pop(), &mut waiting)?;
                }
                if pops == 2 {
                    gone(backlog.pop_oldest(), &mut waiting)?;
                }
                let left: usize = waiting.values().map(VecDeque::len).sum();
                prop_assert_eq!(backlog.len(), left);
                let oldest = waiting.values().filter_map(|it| it.front()).min().copied();
                prop_assert_eq!(backlog.oldest(), oldest.map(|it| Now(u64::from(it))));
            }
            while !backlog.is_empty() {
                gone(backlog.pop(), &mut waiting)?;
            }
        }
    }
}
