//! Who may look up now: the slots of a resolver, and the line before them. Pure: the time comes in.
//!
//! Promise: whoever joins is told exactly once, by the sender that it brought: to ask, or why not.
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
//! **A slow name server and a dead one.** Waiting in line says nothing about the DNS, so as long
//! as answers come, a domain waits up to `wait_max` for its turn: at 1.5 s an answer and 200 slots,
//! 10,000 domains take two minutes, and none of them has failed. A dead server takes the
//! slots for a time-out each, which gives a line of 10,000 a quarter of an hour, all for nothing.
//! So when nothing was answered for `silence_max`, those who have waited that long are sent away
//! with a temporary failure, and so is who joins later, after the same time: mail waits in the
//! spool then. The slots go on asking in the order of the line, and the first answer ends the
//! silence. No timer is needed: places are looked over whenever a slot changes hands, and while
//! somebody is in line all slots are taken and each changes hands within its time-out.

use crate::time::Now;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;

/// The bounds of a line.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Look-ups at a time. At least 1.
    pub slots_max: usize,
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

struct Place {
    since: Now,
    turn: oneshot::Sender<Turn>,
}

pub(super) struct Line {
    limits: Limits,
    /// Slots taken, by class. Invariant: sum <= slots_max.
    taken: [usize; 2],
    /// By class, first come first. Who is no longer interested is still in it.
    places: [VecDeque<Place>; 2],
    proven_first: bool,
    /// When the first look-up ended without any answer, if none was answered since.
    silent_since: Option<Now>,
}

impl Line {
    pub fn new(limits: Limits) -> Self {
        assert!(limits.slots_max >= 1);
        Line {
            limits,
            taken: [0, 0],
            places: [VecDeque::new(), VecDeque::new()],
            proven_first: true,
            silent_since: None,
        }
    }

    /// Asks for a slot. Who is told `Ok` has one, and must [`Line::leave`] it.
    pub fn join(&mut self, class: Class, now: Now) -> oneshot::Receiver<Turn> {
        let (turn, told) = oneshot::channel();
        if self.waiting() >= self.limits.line_max && !self.has_slot(class) {
            _ = turn.send(Err(SentAway::LineFull));
            return told;
        }
        self.places[class as usize].push_back(Place { since: now, turn });
        self.advance();
        told
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
        self.send_away(now);
        self.advance();
    }

    /// Places in line.
    pub fn waiting(&self) -> usize {
        self.places.iter().map(VecDeque::len).sum()
    }

    fn is_dead(&self, now: Now) -> bool {
        self.silent_since
            .is_some_and(|since| now.since(since) >= self.limits.silence_max)
    }

    fn send_away(&mut self, now: Now) {
        let (wait_max, why) = match self.is_dead(now) {
            true => (self.limits.silence_max, SentAway::NobodyAnswers),
            false => (self.limits.wait_max, SentAway::WaitedTooLong),
        };
        for places in &mut self.places {
            let waited = places.partition_point(|place| now.since(place.since) >= wait_max);
            for place in places.drain(..waited) {
                _ = place.turn.send(Err(why));
            }
        }
    }

    fn has_slot(&self, class: Class) -> bool {
        let max = self.limits.slots_max;
        let [unproven, proven] = self.taken;
        unproven + proven < max && (class == Class::Proven || unproven < max - max / 8)
    }

    fn advance(&mut self) {
        while let Some(class) = self.next_class() {
            let Some(place) = self.places[class as usize].pop_front() else {
                return;
            };
            // An error: nobody waits there any more, and the slot is for the next.
            if place.turn.send(Ok(())).is_ok() {
                self.taken[class as usize] += 1;
                self.proven_first = class == Class::Unproven;
            }
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

    fn line(slots_max: usize, line_max: usize) -> Line {
        Line::new(Limits {
            slots_max,
            line_max,
            wait_max: 600 * SECOND,
            silence_max: 20 * SECOND,
        })
    }

    fn at(seconds: u64) -> Now {
        Now(seconds * 1_000_000)
    }

    /// `None`: still in line.
    fn told(receiver: &mut oneshot::Receiver<Turn>) -> Option<Turn> {
        receiver.try_recv().ok()
    }

    #[test]
    fn full_line_sends_the_next_away() {
        let mut line = line(1, 2);
        let mut all: Vec<_> = (0..4).map(|_| line.join(Unproven, at(0))).collect();
        let told: Vec<_> = all.iter_mut().map(told).collect();
        let full = Some(Err(SentAway::LineFull));
        assert_eq!(told, [Some(Ok(())), None, None, full]);
    }

    #[test]
    fn slow_answers_fail_nobody_before_the_wait_is_over() {
        let mut line = line(1, 1000);
        let mut all: Vec<_> = (0..1000).map(|_| line.join(Unproven, at(0))).collect();
        assert_eq!(told(&mut all[0]), Some(Ok(())));
        for (turn, next) in all[1..].iter_mut().enumerate() {
            line.leave(Unproven, Some(true), at(turn as u64));
            let expected = if turn < 600 {
                Ok(())
            } else {
                Err(SentAway::WaitedTooLong)
            };
            assert_eq!(told(next), Some(expected), "{turn}");
            if turn >= 600 {
                return;
            }
        }
        unreachable!("the wait was never over");
    }

    #[test]
    fn dead_name_server_sends_the_line_away_and_goes_on_asking() {
        let mut line = line(1, 1000);
        let mut first = line.join(Unproven, at(0));
        let mut early: Vec<_> = (0..100).map(|_| line.join(Unproven, at(0))).collect();
        assert_eq!(told(&mut first), Some(Ok(())));
        line.leave(Unproven, Some(false), at(9));
        assert_eq!(told(&mut early[0]), Some(Ok(())), "one silence is no death");
        let mut late = [line.join(Unproven, at(15)), line.join(Unproven, at(15))];
        line.leave(Unproven, Some(false), at(30));
        for place in &mut early[1..] {
            assert_eq!(told(place), Some(Err(SentAway::NobodyAnswers)));
        }
        assert_eq!(told(&mut late[0]), Some(Ok(())), "probes");
        line.leave(Unproven, Some(true), at(36));
        assert_eq!(told(&mut late[1]), Some(Ok(())), "an answer ends it");
        assert_eq!(line.waiting(), 0);
    }

    #[test]
    fn silent_domains_leave_slots_to_those_that_answer() {
        let mut line = line(8, 1000);
        let mut silent: Vec<_> = (0..100).map(|_| line.join(Unproven, at(0))).collect();
        let asking = silent.iter_mut().filter_map(told).count();
        assert_eq!(asking, 7);
        let mut good = line.join(Proven, at(0));
        assert_eq!(told(&mut good), Some(Ok(())));
        // And both take turns where both wait.
        let mut good = [line.join(Proven, at(1)), line.join(Proven, at(1))];
        line.leave(Unproven, Some(false), at(2));
        let asking = silent.iter_mut().filter_map(told).count();
        assert_eq!(asking + good.iter_mut().filter_map(told).count(), 1);
        line.leave(Proven, Some(true), at(3));
        line.leave(Proven, Some(true), at(3));
        assert!(line.taken[Unproven as usize] <= 7);
    }

    #[test]
    fn who_went_away_costs_no_slot() {
        let mut line = line(1, 10);
        let mut first = line.join(Unproven, at(0));
        drop(line.join(Unproven, at(0)));
        let mut third = line.join(Unproven, at(0));
        assert_eq!(told(&mut first), Some(Ok(())));
        line.leave(Unproven, None, at(1));
        assert_eq!(told(&mut third), Some(Ok(())));
    }
}
