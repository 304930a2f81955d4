//! Lines of a log that may come in floods.

use super::event::{self, Event};
use super::{Log, Pen, Value};
use crate::log::LogLevel;
use crate::time::flow::{Flow, in_ns};
use crate::time::{Now, WallTime};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

const LINE_CELLS: usize = 256;

/// Of the lines that a throttle lets through an address may have so many in this time, two a second, and as many
/// at once: a flood from one, or from a few, leaves room for what befalls others.
const LINES_OF_ADDRESS: u32 = 3;
const LINES_OF_ADDRESS_IN: Duration = Duration::from_millis(1500);

/// What was suppressed is said by the next line of its kind, or after this time by a line of its own.
const SUPPRESSED_UNSAID_FOR: Duration = Duration::from_secs(1);

/// A few lines a second are written, fewer of one address, the others counted.
pub struct Throttle {
    event: &'static Event,
    hasher: RandomState,
    all: Flow,
    all_empty_ns: u64,
    of_address: Flow,
    /// Who shares a cell shares its lines.
    empty_ns: [u64; LINE_CELLS],
    suppressed: u64,
    suppressed_at: Now,
}

/// How many lines were not written before one. 0 is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suppressed(pub u64);

impl Value for Suppressed {
    fn write(&self, pen: &mut Pen<'_>) {
        self.0.write(pen);
    }

    fn is_absent(&self) -> bool {
        self.0 == 0
    }
}

impl Throttle {
    pub fn new(event: &'static Event, per_second: u32) -> Self {
        Throttle {
            event,
            hasher: RandomState::new(),
            all: Flow::new(per_second, SECOND),
            all_empty_ns: 0,
            of_address: Flow::new(LINES_OF_ADDRESS, LINES_OF_ADDRESS_IN),
            empty_ns: [0; LINE_CELLS],
            suppressed: 0,
            suppressed_at: Now(0),
        }
    }

    /// Whether to write a line about this (an address, or what else repeats itself), and how many were not written
    /// before it.
    pub fn allow(&mut self, about: impl Hash, now: Now) -> Option<Suppressed> {
        let cell = self.hasher.hash_one(about) as usize % LINE_CELLS;
        let Some(after) = self.of_address.add(self.empty_ns[cell], in_ns(now)) else {
            return self.suppress(now);
        };
        let allowed = self.allow_of_nobody(now);
        if allowed.is_some() {
            self.empty_ns[cell] = after;
        }
        allowed
    }

    /// The same for a line about no address.
    pub fn allow_of_nobody(&mut self, now: Now) -> Option<Suppressed> {
        let Some(after) = self.all.add(self.all_empty_ns, in_ns(now)) else {
            return self.suppress(now);
        };
        self.all_empty_ns = after;
        Some(Suppressed(std::mem::take(&mut self.suppressed)))
    }

    fn suppress<T>(&mut self, now: Now) -> Option<T> {
        self.suppressed += 1;
        self.suppressed_at = now;
        None
    }

    /// Says how many lines were suppressed where no later line has said it: once nothing more has come for a
    /// while, or `at_once`. To be called now and then, and at the end.
    pub fn flush_suppressed(&mut self, log: &Log, (now, at): (Now, WallTime), at_once: bool) {
        if let Some(suppressed) = self.take_suppressed(now, at_once) {
            log.line(LogLevel::Info, event::SUPPRESSED, at)
                .field("of", self.event.name())
                .field("lines_suppressed", suppressed);
        }
    }

    fn take_suppressed(&mut self, now: Now, at_once: bool) -> Option<Suppressed> {
        let is_due = at_once || now >= self.suppressed_at + SUPPRESSED_UNSAID_FOR;
        let is_due = is_due && self.suppressed > 0;
        is_due.then(|| Suppressed(std::mem::take(&mut self.suppressed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now(1_000_000);

    fn allowed(throttle: &mut Throttle, address: u32, now: Now) -> Option<u64> {
        let suppressed = throttle.allow(address, now)?;
        Some(suppressed.0)
    }

    #[test]
    fn lines_that_are_not_written_are_counted() {
        let mut throttle = Throttle::new(event::REJECTED, 3);
        let written: Vec<_> = (0..5).map(|n| allowed(&mut throttle, n, START)).collect();
        assert_eq!(written, [Some(0), Some(0), Some(0), None, None]);
        let later = START + Duration::from_secs(1);
        assert_eq!(allowed(&mut throttle, 1, later), Some(2));
        assert_eq!(allowed(&mut throttle, 1, later), Some(0));
    }

    #[test]
    fn why_a_customer_was_refused_is_found_beside_a_dictionary_attack() {
        let mut throttle = Throttle::new(event::REJECTED, 10);
        let mut now = START;
        let mut found = 0;
        for turn in 0..400 {
            now = now + Duration::from_millis(25);
            for attacker in 1..=3 {
                allowed(&mut throttle, attacker, now);
            }
            let is_customer = turn % 20 == 0;
            found += u32::from(is_customer && allowed(&mut throttle, 100, now).is_some());
        }
        assert_eq!(found, 20, "one each half second");
    }

    #[test]
    fn what_no_later_line_tells_of_is_told_in_the_end() {
        let mut throttle = Throttle::new(event::REFUSED, 10);
        let written = |throttle: &mut Throttle, lines: u32| {
            let lines = (0..lines).filter_map(|_| allowed(throttle, 1, START));
            lines.count()
        };
        assert_eq!(written(&mut throttle, 6), 3);
        let take_suppressed = |throttle: &mut Throttle, after_ms, at_once| {
            let now = START + Duration::from_millis(after_ms);
            Some(throttle.take_suppressed(now, at_once)?.0)
        };
        assert_eq!(take_suppressed(&mut throttle, 500, false), None);
        assert_eq!(take_suppressed(&mut throttle, 1000, false), Some(3));
        assert_eq!(take_suppressed(&mut throttle, 5000, true), None);
        assert_eq!(written(&mut throttle, 3), 0);
        assert_eq!(take_suppressed(&mut throttle, 0, true), Some(3));
    }
}
