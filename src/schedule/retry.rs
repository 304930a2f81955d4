//! When to try again, and when to give up (RFC 5321 section 4.5.4.1).
//!
//! In ages and waits, not in points of time: a calendar that jumps while the relay runs must neither
//! return the mail of years nor keep it for years. Only over a restart the calendar counts.

use super::outcome::Diagnosis;
use crate::smtp::reply::EnhancedStatus;
use std::time::Duration;

/// RFC 3463: X.4.7, delivery time expired.
pub const DELIVERY_TIME_EXPIRED: EnhancedStatus = EnhancedStatus::new(4, 4, 7);

/// Defaults of [`RetryPolicy`].
pub const MIN: Duration = Duration::from_secs(5 * 60);
pub const MAX: Duration = Duration::from_secs(60 * 60);
pub const LIFETIME: Duration = Duration::from_secs(5 * 24 * 60 * 60);

/// The calendar knows no less: a try that is due when the lifetime ends may come this much before. So the last one is due
/// this much behind it: else there would be one more after it, and one more, until the lifetime is over.
const CALENDAR_STEP: Duration = Duration::from_millis(1);

/// Exponential back-off with a lifetime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Wait after the first failure; doubles with every further one. At least 1 s makes sense.
    pub min: Duration,
    /// The wait grows no further than this. Equal to `min`: a flat interval, exactly.
    pub max: Duration,
    /// A recipient that could not be delivered this long after its arrival is returned.
    pub lifetime: Duration,
    /// The wait is drawn from this many percent around its value, but never outside of `min` to
    /// `max`. 0 to 100.
    pub jitter_percent: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            min: MIN,
            max: MAX,
            lifetime: LIFETIME,
            jitter_percent: 20,
        }
    }
}

/// What follows a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextTry {
    After(Duration),
    /// The lifetime is over: bounce with [`expired`].
    Expired,
}

impl RetryPolicy {
    /// After the try number `attempts` (1: the first) has failed at this age of the message. The last
    /// try is made when the lifetime ends, however late the back-off would place it. Whatever the age,
    /// a recipient has had the try that has just failed.
    ///
    /// `random` is any number, evenly distributed.
    pub fn after_failure(&self, attempts: u32, age: Duration, random: u64) -> NextTry {
        match self.left(age) {
            Duration::ZERO => NextTry::Expired,
            left => {
                let last = left + CALENDAR_STEP;
                NextTry::After(self.interval(attempts, random).min(last))
            }
        }
    }

    /// Of the lifetime, at this age of the message.
    pub fn left(&self, age: Duration) -> Duration {
        self.lifetime.saturating_sub(age)
    }

    /// The wait after `attempts` tries, from `min` to `max`.
    pub fn interval(&self, attempts: u32, random: u64) -> Duration {
        let doublings = attempts.saturating_sub(1);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let max = self.max.max(self.min);
        let middle = self.min.saturating_mul(factor).min(max);
        let spread = middle.saturating_mul(self.jitter_percent.min(100)) / 100;
        let low = middle.saturating_sub(spread).max(self.min);
        let high = middle.saturating_add(spread).min(max);
        low + fraction(high - low, random)
    }
}

/// Zero to all of `span`, as `random` goes from 0 to its maximum. In milliseconds.
fn fraction(span: Duration, random: u64) -> Duration {
    let steps = span.as_millis().min(u128::from(u64::MAX)) + 1;
    // At most u64::MAX steps times u64::MAX, which fits.
    Duration::from_millis(((steps * u128::from(random)) >> 64) as u64)
}

/// The diagnosis of a recipient that was not delivered in time; quotes what was heard last.
pub fn expired(last: Option<&Diagnosis>) -> Diagnosis {
    let mut text = String::from("delivery time expired");
    if let Some(last) = last {
        text.push_str("; last: ");
        text.push_str(&last.text);
    }
    while text.len() > Diagnosis::TEXT_BYTES_MAX {
        text.pop();
    }
    Diagnosis {
        status: DELIVERY_TIME_EXPIRED,
        text: text.into_boxed_str(),
        remote_host: last.map_or("".into(), |last| last.remote_host.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF: u64 = 1 << 63;

    fn policy(min: u64, max: u64, lifetime: u64) -> RetryPolicy {
        RetryPolicy {
            min: Duration::from_secs(min),
            max: Duration::from_secs(max),
            lifetime: Duration::from_secs(lifetime),
            jitter_percent: 20,
        }
    }

    #[test]
    fn intervals_double_from_min_to_max() {
        // attempts, random, seconds
        let table = [
            (0, 0, 300.0),
            (1, 0, 300.0),
            (1, u64::MAX, 360.0),
            (2, 0, 480.0),
            (2, HALF, 600.0),
            (2, u64::MAX, 720.0),
            (3, HALF, 1200.0),
            (4, HALF, 2400.0),
            (5, 0, 3200.0),
            (5, u64::MAX, 4000.0),
            (90, u64::MAX, 4000.0),
        ];
        let policy = policy(300, 4000, 10_000);
        for (attempts, random, seconds) in table {
            let interval = policy.interval(attempts, random);
            assert_eq!(
                interval,
                Duration::from_secs_f64(seconds),
                "{attempts} {random}"
            );
        }
    }

    #[test]
    fn equal_min_and_max_give_a_flat_interval() {
        let policy = policy(1, 1, 100);
        for attempts in 0..70 {
            let random = u64::from(attempts).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(policy.interval(attempts, random), Duration::from_secs(1));
        }
    }

    #[test]
    fn last_try_is_made_when_the_lifetime_ends() {
        let policy = policy(300, 300, 1000);
        let after = |age_ms| policy.after_failure(1, Duration::from_millis(age_ms), 0);
        let wait = |ms| NextTry::After(Duration::from_millis(ms));
        assert_eq!(after(0), wait(300_000));
        assert_eq!(after(900_000), wait(100_001));
        assert_eq!(after(999_999), wait(2));
        assert_eq!(after(1_000_000), NextTry::Expired);
    }

    /// What waits until a time of the calendar may wait a fraction of a millisecond less.
    #[test]
    fn no_try_follows_the_last_one_at_once() {
        let policy = policy(300, 300, 1000);
        let failed_at = Duration::from_micros(900_000_700);
        let NextTry::After(wait) = policy.after_failure(1, failed_at, 0) else {
            panic!("the lifetime is not over");
        };
        let on_calendar = Duration::from_millis(failed_at.as_millis() as u64);
        let last = policy.after_failure(2, on_calendar + wait, 0);
        assert_eq!(last, NextTry::Expired);
    }

    #[test]
    fn expiry_quotes_the_last_diagnosis_within_its_bound() {
        let last = Diagnosis {
            status: EnhancedStatus::new(4, 2, 1),
            text: "451 4.2.1 later".into(),
            remote_host: "mx.a.test".into(),
        };
        let diagnosis = expired(Some(&last));
        assert_eq!(diagnosis.status.to_string(), "4.4.7");
        assert_eq!(
            &*diagnosis.text,
            "delivery time expired; last: 451 4.2.1 later"
        );
        assert_eq!(&*diagnosis.remote_host, "mx.a.test");
        assert_eq!(&*expired(None).text, "delivery time expired");

        let long = Diagnosis {
            text: "é".repeat(Diagnosis::TEXT_BYTES_MAX / 2).into(),
            ..last
        };
        assert!(expired(Some(&long)).text.len() <= Diagnosis::TEXT_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn interval_stays_within_its_bounds(
            min in 0_u64..u64::MAX / 1000, max in 0_u64..u64::MAX / 1000,
            jitter_percent in 0_u32..200, attempts: u32, random: u64,
        ) {
            let policy = RetryPolicy {
                jitter_percent,
                ..policy(min, max, 0)
            };
            let interval = policy.interval(attempts, random);
            prop_assert!(interval >= policy.min);
            prop_assert!(interval <= policy.max.max(policy.min));
        }

        #[test]
        fn next_try_is_to_come_and_within_the_lifetime(
            policy in (1_u64..5000, 0_u64..5000, 0_u64..1_000_000)
                .prop_map(|(min, more, lifetime)| policy(min, min + more, lifetime)),
            attempts: u32, age_ms in 0_u64..1 << 40, random: u64,
        ) {
            let age = Duration::from_millis(age_ms);
            match policy.after_failure(attempts, age, random) {
                NextTry::Expired => prop_assert!(age >= policy.lifetime),
                NextTry::After(wait) => {
                    prop_assert!(wait > Duration::ZERO);
                    prop_assert!(age + wait <= policy.lifetime + CALENDAR_STEP);
                }
            }
        }
    }
}
