//! A steady rate, and how much may come at once (the generic cell rate algorithm). Pure: the time comes in.

use super::Now;
use std::time::Duration;

/// A rate, and how much may come at once.
#[derive(Clone, Copy)]
pub struct Flow {
    /// Nanoseconds that one event takes to be forgotten.
    interval_ns: u64,
    burst_ns: u64,
}

impl Flow {
    pub fn new(limit: u32, period: Duration) -> Self {
        let period_ns = period.as_nanos() as u64;
        let interval_ns = period_ns / u64::from(limit.max(1));
        Flow {
            interval_ns,
            burst_ns: interval_ns * u64::from(limit.max(1)),
        }
    }

    /// When a bucket that is empty at `empty_ns` will be after one event more; `None`: it is full.
    pub fn add(self, empty_ns: u64, now_ns: u64) -> Option<u64> {
        let after = empty_ns.max(now_ns) + self.interval_ns;
        (after <= now_ns.saturating_add(self.burst_ns)).then_some(after)
    }
}

/// As flows count.
pub fn in_ns(now: Now) -> u64 {
    now.0.saturating_mul(1000)
}
