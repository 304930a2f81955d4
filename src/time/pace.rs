//! How slowly a message may come in or go out: a total time that grows with what has moved, beside the
//! time between two pieces. Pure: the time comes in.

use super::Now;
use std::time::Duration;

/// The body of one message, from its first piece on, chunks and the commands between them
/// included.
pub struct Pace {
    started: Now,
    /// Time that passed on our account: the disk, or memory, was not ready for more.
    excused: Duration,
    moved_bytes: u64,
}

/// How much is asked of a body.
#[derive(Clone, Copy, Debug)]
pub struct MinRate {
    /// Time that a body may take in any case.
    pub grace: Duration,
    /// Average beyond that.
    pub bytes_per_s: u64,
}

impl Pace {
    pub fn new(now: Now) -> Self {
        Pace {
            started: now,
            excused: Duration::ZERO,
            moved_bytes: 0,
        }
    }

    pub fn moved(&mut self, bytes: usize) {
        self.moved_bytes += bytes as u64;
    }

    pub fn exclude(&mut self, waited: Duration) {
        self.excused += waited;
    }

    /// When more must have moved, or the body is too slow.
    pub fn deadline(&self, rate: MinRate) -> Now {
        let earned_us = u128::from(self.moved_bytes) * 1_000_000 / u128::from(rate.bytes_per_s);
        let earned = Duration::from_micros(u64::try_from(earned_us).unwrap_or(u64::MAX));
        self.started + rate.grace + self.excused + earned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: MinRate = MinRate {
        grace: Duration::from_secs(60),
        bytes_per_s: 500,
    };

    #[test]
    fn one_byte_now_and_then_gains_nothing() {
        let mut pace = Pace::new(Now(0));
        let mut now = Now(0);
        let mut pieces = 0;
        while now < pace.deadline(RATE) {
            now = now + Duration::from_secs(1);
            pace.moved(1);
            pieces += 1;
        }
        assert_eq!(pieces, 61);
    }

    #[test]
    fn a_body_at_the_least_rate_goes_on_for_ever() {
        let mut pace = Pace::new(Now(0));
        let mut now = Now(0);
        for _ in 0..100_000 {
            now = now + Duration::from_secs(1);
            pace.moved(500);
            assert!(now < pace.deadline(RATE));
        }
    }

    #[test]
    fn a_wait_of_ours_is_not_held_against_the_client() {
        let mut pace = Pace::new(Now(0));
        let before = pace.deadline(RATE);
        pace.exclude(Duration::from_secs(7));
        assert_eq!(pace.deadline(RATE), before + Duration::from_secs(7));
    }

    #[test]
    fn no_number_of_bytes_overflows() {
        let mut pace = Pace::new(Now(1));
        pace.moved(usize::MAX);
        let slowest = MinRate {
            bytes_per_s: 1,
            ..RATE
        };
        assert!(pace.deadline(slowest) > Now(1_000_000_000));
    }
}
