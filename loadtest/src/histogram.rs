//! Latencies, recorded per thread and added up when somebody asks.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest time that is told apart, in microseconds: an hour.
const TIME_US_MAX: u64 = 3_600_000_000;

/// One histogram per thread: its lock is only contended by reports.
pub struct Latencies(Vec<Mutex<Histogram<u64>>>);

impl Latencies {
    pub fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Mutex::new(empty())).collect())
    }

    pub fn record(&self, thread: usize, us: u64) {
        let mut histogram = self.0[thread]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(us);
    }

    pub fn figures(&self) -> Percentiles {
        let mut sum = empty();
        for histogram in &self.0 {
            let histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
            // Cannot fail: all have the same bounds.
            let _ = sum.add(&*histogram);
        }
        Percentiles::of(&sum)
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_US_MAX, 3).expect("constant bounds are valid")
}

/// Microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}
