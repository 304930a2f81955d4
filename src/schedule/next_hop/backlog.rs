//! The jobs that wait at one hop, and which goes next.
//!
//! Three kinds: those that were taken and given back; *new* ones; and *old* ones, which have been tried, have come back
//! untried, or had been accepted long before they came here. What was given back goes first. Of new and old, three new ones
//! go for each old one, so that the backlog of a host that was down does not keep today's mail waiting.
//!
//! The new ones stand in *lanes*, one for each origin. The lanes take turns, by recipients, so that ten thousand messages
//! of one client do not keep those of another waiting. Beyond [`LANES_MAX`] origins share lanes, and which ones share
//! changes with the turns. Within a lane, and among the old, jobs go in the order in which they came.

use crate::time::Now;
use std::collections::VecDeque;

/// A hop has as many lanes as that.
const LANES_MAX: usize = 64;
/// A lane sends about so many recipients, and then it is the turn of the next.
const QUANTUM: i64 = 50;
/// So many new jobs go for each old one.
const NEW_PER_OLD: u8 = 3;
/// A queue that has grown past this gives its memory back when it is empty again.
const SPARE_CAPACITY_MAX: usize = 1024;

/// How a job stands among those that wait for the same hop.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rank {
    /// Whose mail it is: new jobs of different origins take turns.
    pub origin: u64,
    /// What it costs its origin.
    pub recipients: u32,
    pub is_old: bool,
}

/// What can wait at a hop.
pub trait Queued {
    /// Asked once, when it begins to wait.
    fn rank(&self, now: Now) -> Rank;
}

struct Entry<J> {
    since: Now,
    recipients: u32,
    job: J,
}

type Jobs<J> = VecDeque<Entry<J>>;

struct Lane<J> {
    origin: u64,
    jobs: Jobs<J>,
    /// Recipients that it may send in this turn. A job may leave a debt.
    credit: i64,
}

pub(super) struct Backlog<J> {
    given_back: Jobs<J>,
    /// The first one's turn it is. None is empty, unless it is the only one.
    lanes: VecDeque<Lane<J>>,
    old: Jobs<J>,
    /// New jobs that went since an old one did, while there were both.
    new_since_old: u8,
    length: usize,
}

impl<J: Queued> Backlog<J> {
    pub fn new() -> Self {
        Backlog {
            given_back: Jobs::new(),
            lanes: VecDeque::new(),
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
            false => self.lane_of(rank.origin).jobs.push_back(entry),
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

    fn lane_of(&mut self, origin: u64) -> &mut Lane<J> {
        let count = self.lanes.len();
        let found = self.lanes.iter().position(|lane| lane.origin == origin);
        let at = match found {
            Some(at) => at,
            None if count == 1 && self.lanes[0].jobs.is_empty() => {
                self.lanes[0].origin = origin;
                self.lanes[0].credit = QUANTUM;
                0
            }
            None if count < LANES_MAX => {
                self.lanes.push_back(Lane {
                    origin,
                    jobs: Jobs::new(),
                    credit: QUANTUM,
                });
                count
            }
            None => (origin % LANES_MAX as u64) as usize,
        };
        &mut self.lanes[at]
    }

    pub fn pop(&mut self) -> Option<J> {
        let entry = self.given_back.pop_front().or_else(|| self.pop_in_turn())?;
        self.note_taken(entry)
    }

    fn pop_in_turn(&mut self) -> Option<Entry<J>> {
        let has_new = self.lanes.front().is_some_and(|lane| !lane.jobs.is_empty());
        let is_turn_of_old = !has_new || self.new_since_old >= NEW_PER_OLD;
        if is_turn_of_old && let Some(entry) = self.old.pop_front() {
            self.new_since_old = 0;
            give_back_memory(&mut self.old);
            return Some(entry);
        }
        if !self.old.is_empty() {
            self.new_since_old += 1;
        }
        let only = self.lanes.len() == 1;
        while !only && self.lanes.front()?.credit <= 0 {
            self.lanes.rotate_left(1);
            self.lanes.back_mut()?.credit += QUANTUM;
        }
        let lane = self.lanes.front_mut()?;
        let entry = lane.jobs.pop_front()?;
        if !only {
            lane.credit -= i64::from(entry.recipients);
        }
        self.leave_lane(0);
        Some(entry)
    }

    /// Takes out the one that has waited longest.
    pub fn pop_oldest(&mut self) -> Option<J> {
        let oldest = self.oldest()?;
        let is_it = |jobs: &Jobs<J>| jobs.front().is_some_and(|entry| entry.since == oldest);
        let entry = if is_it(&self.given_back) {
            self.given_back.pop_front()
        } else if is_it(&self.old) {
            self.old.pop_front()
        } else {
            let at = self.lanes.iter().position(|lane| is_it(&lane.jobs))?;
            let entry = self.lanes[at].jobs.pop_front();
            self.leave_lane(at);
            entry
        };
        self.note_taken(entry?)
    }

    fn note_taken(&mut self, entry: Entry<J>) -> Option<J> {
        self.length -= 1;
        Some(entry.job)
    }

    /// An empty lane goes, but for the last: most hops have mail of one origin at a time.
    fn leave_lane(&mut self, at: usize) {
        if !self.lanes[at].jobs.is_empty() {
            return;
        }
        match self.lanes.len() {
            1 => give_back_memory(&mut self.lanes[0].jobs),
            _ => _ = self.lanes.remove(at),
        }
    }

    /// Since when the one waits that has waited longest.
    pub fn oldest(&self) -> Option<Now> {
        let lanes = self.lanes.iter().map(|lane| &lane.jobs);
        let fronts = lanes.chain([&self.given_back, &self.old]);
        fronts
            .filter_map(|jobs| jobs.front())
            .map(|it| it.since)
            .min()
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

fn give_back_memory<J>(jobs: &mut Jobs<J>) {
    if jobs.is_empty() && jobs.capacity() > SPARE_CAPACITY_MAX {
        *jobs = Jobs::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

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

    fn job(number: u32, origin: u64, recipients: u32, is_old: bool) -> Job {
        let rank = Rank {
            origin,
            recipients,
            is_old,
        };
        Job { number, rank }
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
            steps in prop::collection::vec((0_u64..60, 1_u32..300, any::<bool>(), 0_u8..4), 1..300),
        ) {
            let mut backlog = Backlog::new();
            let mut waiting: BTreeMap<(bool, u64), VecDeque<u32>> = BTreeMap::new();
            let gone = |job: Option<Job>, waiting: &mut BTreeMap<(bool, u64), VecDeque<u32>>| {
                let job = job.expect("there is one");
                let key = (job.rank.is_old, if job.rank.is_old { 0 } else { job.rank.origin });
                let first = waiting.get_mut(&key).and_then(VecDeque::pop_front);
                prop_assert_eq!(first, Some(job.number));
                Ok(())
            };
            for (number, (origin, recipients, is_old, pops)) in (0..).zip(steps) {
                let key = (is_old, if is_old { 0 } else { origin });
                waiting.entry(key).or_default().push_back(number);
                backlog.push(job(number, origin, recipients, is_old), Now(u64::from(number)));
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
