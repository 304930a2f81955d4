//! Who may look up now: the slots of a resolver, and the line before them. Pure: the time comes in.
//!
//! Promise: whoever joins is told exactly once ([`Line::next_notification`]): to ask, or why not.
//! The line is bounded in places and in time, also when no name server answers.
//!
//! ```text
//! join --- slot free ---> Go --- leave (answered or silent) ---> slot for the next in line
//!   |                     ^
//!   |--> line ------------|---> Err: waited too long
//!   '--> Err: line full
//! ```
//!
//! **Two classes.** A domain whose last look-up was answered is expected to be answered again, and
//! soon; of all others nothing is known, or that they cost a slot for the whole of a time-out. The
//! others leave an eighth of the slots to the former, and both take turns, so that thousands of
//! domains whose name servers are dead cannot hold up mail for those that always answer. Within a
//! class it is first come, first served; a domain is in line once, however much mail waits for it.
//!
//! **Silent look-ups.** One to which nobody says anything for a while is set aside: it goes on, and its slot is for the
//! next. So a flood of new domains whose name servers are silent holds up the others for seconds. Only `aside_max`
//! are set aside; beyond that each keeps its slot to its end, and the newest in line and the oldest go by turns: a new
//! domain that answers waits for one time-out at most, and nobody is passed over for ever.
//!
//! **A slow name server and a dead one.** Waiting in line says nothing about the DNS, so as long
//! as answers come, a domain waits up to `wait_max` for its turn: at 1.5 s an answer and 200 slots,
//! 10,000 domains take two minutes, and none of them has failed. A dead server takes the
//! slots for a time-out each, which gives a line of 10,000 a quarter of an hour, all for nothing.
//! So when nothing was answered for `silence_max`, those who have waited that long are sent away
//! with a temporary failure, and so is who joins later, after the same time: mail waits in the
//! spool then. The slots go on asking in the order of the line, and the first answer ends the
//! silence. No timer is needed: places are looked over whenever a slot changes hands, and while
//! somebody is in line all slots are taken and each changes hands within its time-out.
//!
//! Not here: who waits, and how it is told (`turn`).

use crate::time::Now;
use std::collections::VecDeque;
use std::time::Duration;

/// The bounds of a line.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Look-ups at a time. At least 1.
    pub slots_max: usize,
    /// Look-ups that go on beside them, since no name server says anything to them.
    pub aside_max: usize,
    /// Places in line, both classes together.
    pub line_max: usize,
    pub wait_max: Duration,
    pub silence_max: Duration,
}

/// What is to be expected of a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    Unproven,
    /// The last one was answered.
    Proven,
}

/// Why somebody is sent away. Temporary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SentAway {
    LineFull,
    /// The DNS answers, but not fast enough for all.
    WaitedTooLong,
    /// No name server has answered for as long as that.
    NobodyAnswers,
}

impl SentAway {
    pub fn text(self) -> &'static str {
        match self {
            SentAway::LineFull => "too many look-ups wait already",
            SentAway::WaitedTooLong => "its turn did not come in time",
            SentAway::NobodyAnswers => "no name server answers",
        }
    }
}

/// Told to who has joined.
pub(super) type Turn = Result<(), SentAway>;

/// What one who has joined is to be told.
pub(super) struct Notification<W> {
    pub waiter: W,
    pub class: Class,
    pub turn: Turn,
}

struct Place<W> {
    since: Now,
    waiter: W,
}

pub(super) struct Line<W> {
    limits: Limits,
    /// Look-ups under way, by class. Invariant: sum <= slots_max + aside_max.
    taken: [usize; 2],
    /// Those of them to which no name server has said anything for a while.
    silent: [usize; 2],
    /// Whose turn it is where silent look-ups are too many.
    newest_first: bool,
    /// By class, first come first. Who is no longer interested is still in it.
    places: [VecDeque<Place<W>>; 2],
    /// Decided, and not told yet.
    notifications: VecDeque<Notification<W>>,
    proven_first: bool,
    /// When the first look-up ended without any answer, if none was answered since.
    silent_since: Option<Now>,
}

impl<W> Line<W> {
    pub fn new(limits: Limits) -> Self {
        assert!(limits.slots_max >= 1);
        Line {
            limits,
            taken: [0, 0],
            silent: [0, 0],
            newest_first: true,
            places: [VecDeque::new(), VecDeque::new()],
            notifications: VecDeque::new(),
            proven_first: true,
            silent_since: None,
        }
    }

    /// Asks for a slot. Who is told `Ok` has one, and must [`Line::leave`] it, also if nobody waits for it any more.
    pub fn join(&mut self, class: Class, waiter: W, now: Now) {
        if self.waiting() >= self.limits.line_max && !self.has_slot(class) {
            self.notify(class, waiter, Err(SentAway::LineFull));
            return;
        }
        let place = Place { since: now, waiter };
        self.places[class as usize].push_back(place);
        self.advance();
    }

    /// Who is to be told something. To be asked until there is nobody, after each [`Line::join`] and [`Line::leave`].
    pub fn next_notification(&mut self) -> Option<Notification<W>> {
        self.notifications.pop_front()
    }

    fn notify(&mut self, class: Class, waiter: W, turn: Turn) {
        self.notifications.push_back(Notification {
            waiter,
            class,
            turn,
        });
    }

    /// Gives a slot back. `answered`: a name server said something, whatever it was; `None` if the
    /// look-up was given up.
    pub fn leave(&mut self, class: Class, answered: Option<bool>, now: Now) {
        self.taken[class as usize] -= 1;
        match answered {
            Some(true) => self.silent_since = None,
            Some(false) => _ = self.silent_since.get_or_insert(now),
            None => {}
        }
        self.expire_waiting(now);
        self.advance();
    }

    /// No name server says anything to a look-up that has a slot: others may go meanwhile.
    pub fn set_aside(&mut self, class: Class) {
        self.silent[class as usize] += 1;
        self.advance();
    }

    /// To be said before one that was set aside leaves.
    pub fn take_back(&mut self, class: Class) {
        self.silent[class as usize] -= 1;
    }

    /// There are more silent look-ups than may go on beside the slots.
    fn is_crowded(&self) -> bool {
        self.silent.iter().sum::<usize>() >= self.limits.aside_max
    }

    /// Places in line.
    pub fn waiting(&self) -> usize {
        self.places.iter().map(VecDeque::len).sum()
    }

    fn is_dead(&self, now: Now) -> bool {
        self.silent_since
            .is_some_and(|since| now.since(since) >= self.limits.silence_max)
    }

    fn expire_waiting(&mut self, now: Now) {
        let (wait_max, why) = match self.is_dead(now) {
            true => (self.limits.silence_max, SentAway::NobodyAnswers),
            false => (self.limits.wait_max, SentAway::WaitedTooLong),
        };
        for class in [Class::Unproven, Class::Proven] {
            let places = &mut self.places[class as usize];
            let waited = places.partition_point(|place| now.since(place.since) >= wait_max);
            let told = places.drain(..waited).map(|place| Notification {
                waiter: place.waiter,
                class,
                turn: Err(why),
            });
            self.notifications.extend(told);
        }
    }

    fn has_slot(&self, class: Class) -> bool {
        let max = self.limits.slots_max;
        let aside_max = self.limits.aside_max;
        let aside = self.silent[Class::Unproven as usize].min(aside_max);
        let unproven = self.taken[Class::Unproven as usize] - aside;
        let aside = self.silent[Class::Proven as usize].min(aside_max - aside);
        let proven = self.taken[Class::Proven as usize] - aside;
        unproven + proven < max && (class == Class::Proven || unproven < max - max / 8)
    }

    fn advance(&mut self) {
        while let Some(class) = self.next_class() {
            let is_newest = self.is_crowded() && self.newest_first;
            self.newest_first = !is_newest;
            let places = &mut self.places[class as usize];
            let place = match is_newest {
                true => places.pop_back(),
                false => places.pop_front(),
            };
            let Some(place) = place else {
                return;
            };
            self.taken[class as usize] += 1;
            self.proven_first = class == Class::Unproven;
            self.notify(class, place.waiter, Ok(()));
        }
        for places in &mut self.places {
            if places.is_empty() {
                places.shrink_to(0);
            }
        }
    }

    fn next_class(&self) -> Option<Class> {
        let order = match self.proven_first {
            true => [Class::Proven, Class::Unproven],
            false => [Class::Unproven, Class::Proven],
        };
        let may_go =
            |class: &Class| !self.places[*class as usize].is_empty() && self.has_slot(*class);
        order.into_iter().find(may_go)
    }
}

#[cfg(test)]
mod tests {
    use super::Class::{Proven, Unproven};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn line(slots_max: usize, line_max: usize) -> Line<u32> {
        Line::new(Limits {
            slots_max,
            aside_max: 2,
            line_max,
            wait_max: 600 * SECOND,
            silence_max: 20 * SECOND,
        })
    }

    fn at(seconds: u64) -> Now {
        Now(seconds * 1_000_000)
    }

    /// Who was told to ask, and who was sent away.
    fn told(line: &mut Line<u32>) -> (Vec<u32>, Vec<(u32, SentAway)>) {
        let (mut asking, mut sent_away) = (Vec::new(), Vec::new());
        while let Some(told) = line.next_notification() {
            match told.turn {
                Ok(()) => asking.push(told.waiter),
                Err(why) => sent_away.push((told.waiter, why)),
            }
        }
        (asking, sent_away)
    }

    #[test]
    fn full_line_sends_the_next_away() {
        let mut line = line(1, 2);
        for waiter in 0..4 {
            line.join(Unproven, waiter, at(0));
        }
        assert_eq!(told(&mut line), (vec![0], vec![(3, SentAway::LineFull)]));
    }

    #[test]
    fn slow_answers_fail_nobody_before_the_wait_is_over() {
        let mut line = line(1, 1000);
        for waiter in 0..1000 {
            line.join(Unproven, waiter, at(0));
        }
        assert_eq!(told(&mut line), (vec![0], vec![]));
        for turn in 1..600 {
            line.leave(Unproven, Some(true), at(u64::from(turn)));
            assert_eq!(told(&mut line), (vec![turn], vec![]));
        }
        line.leave(Unproven, Some(true), at(600));
        let (asking, sent_away) = told(&mut line);
        let others = (600..1000).map(|waiter| (waiter, SentAway::WaitedTooLong));
        assert_eq!((asking, sent_away), (vec![], others.collect()));
    }

    #[test]
    fn dead_name_server_sends_the_line_away_and_goes_on_asking() {
        let mut line = line(1, 1000);
        for waiter in 0..100 {
            line.join(Unproven, waiter, at(0));
        }
        assert_eq!(told(&mut line).0, [0]);
        line.leave(Unproven, Some(false), at(9));
        let one_silence_is_no_death = (vec![1], vec![]);
        assert_eq!(told(&mut line), one_silence_is_no_death);
        for late in [100, 101] {
            line.join(Unproven, late, at(15));
        }
        line.leave(Unproven, Some(false), at(30));
        let (probes, sent_away) = told(&mut line);
        let early = (2..100).map(|waiter| (waiter, SentAway::NobodyAnswers));
        assert_eq!((probes, sent_away), (vec![100], early.collect()));
        line.leave(Unproven, Some(true), at(36));
        let an_answer_ends_it = (vec![101], vec![]);
        assert_eq!(told(&mut line), an_answer_ends_it);
        assert_eq!(line.waiting(), 0);
    }

    #[test]
    fn silent_domains_leave_slots_to_those_that_answer() {
        let mut line = line(8, 1000);
        for waiter in 0..100 {
            line.join(Unproven, waiter, at(0));
        }
        assert_eq!(told(&mut line).0.len(), 7);
        line.join(Proven, 200, at(0));
        assert_eq!(told(&mut line).0, [200]);
        // And both take turns where both wait.
        line.join(Proven, 201, at(1));
        line.join(Proven, 202, at(1));
        line.leave(Unproven, Some(false), at(2));
        assert_eq!(told(&mut line).0.len(), 1);
        line.leave(Proven, Some(true), at(3));
        line.leave(Proven, Some(true), at(3));
        assert!(line.taken[Unproven as usize] <= 7);
    }

    #[test]
    fn silent_look_ups_leave_their_slots_and_then_the_newest_go_by_turns() {
        let mut line = line(1, 1000);
        for waiter in 0..6 {
            line.join(Unproven, waiter, at(0));
        }
        assert_eq!(told(&mut line).0, [0]);
        line.set_aside(Unproven);
        assert_eq!(told(&mut line).0, [1]);
        line.set_aside(Unproven);
        let newest = (vec![5], vec![]);
        assert_eq!(told(&mut line), newest);
        line.set_aside(Unproven);
        assert!(told(&mut line).0.is_empty(), "no more than two go on aside");
        for (next, class) in [(2, Unproven), (4, Unproven), (3, Unproven)] {
            line.take_back(class);
            line.leave(class, Some(false), at(1));
            let asking = told(&mut line).0;
            assert_eq!(asking, [next]);
            line.set_aside(class);
        }
        for _ in 0..3 {
            line.take_back(Unproven);
            line.leave(Unproven, Some(false), at(2));
        }
        assert_eq!((line.taken, line.silent), ([0, 0], [0, 0]));
    }

    /// A turn that nobody takes is left like any other, and says nothing about the name servers.
    #[test]
    fn a_look_up_that_was_given_up_leaves_its_slot_and_proves_no_silence() {
        let mut line = line(1, 10);
        for waiter in 0..3 {
            line.join(Unproven, waiter, at(0));
        }
        assert_eq!(told(&mut line).0, [0]);
        line.leave(Unproven, None, at(100));
        assert_eq!(told(&mut line), (vec![1], vec![]));
        line.leave(Unproven, None, at(200));
        assert_eq!(told(&mut line), (vec![2], vec![]));
    }
}
