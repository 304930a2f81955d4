//! Latencies, recorded per thread and added up when somebody asks.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::text::ms;

/// Longest time that is told apart, in microseconds: an hour.
const TIME_US_MAX: u64 = 3_600_000_000;
/// Points of a curve each time that the share of slower ones halves.
const CURVE_TICKS_PER_HALVING: u32 = 5;
/// Most points of a curve: enough for 2^40 times.
const CURVE_POINTS_MAX: usize = 200;

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
        Percentiles::of(&self.sum())
    }

    fn sum(&self) -> Histogram<u64> {
        let mut sum = empty();
        for histogram in &self.0 {
            let histogram = histogram.lock().unwrap_or_else(PoisonError::into_inner);
            // Cannot fail: all have the same bounds.
            let _ = sum.add(&*histogram);
        }
        sum
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_US_MAX, 3).expect("constant bounds are valid")
}

/// Looks at latencies from time to time and tells what is new.
pub struct LatencyWatch {
    before: Histogram<u64>,
    /// 99th percentile of all so far, in microseconds, as of the last look.
    pub p99_us: u64,
}

impl LatencyWatch {
    pub fn new() -> Self {
        Self {
            before: empty(),
            p99_us: 0,
        }
    }

    /// 99th percentile, in microseconds, of those recorded since the last call; 0 if none were.
    pub fn p99_us_since(&mut self, latencies: &Latencies) -> u64 {
        let sum = latencies.sum();
        self.p99_us = sum.value_at_quantile(0.99);
        let mut new = sum.clone();
        // Cannot fail: counts only grow, and all have the same bounds.
        let _ = new.subtract(&self.before);
        self.before = sum;
        if new.is_empty() {
            0
        } else {
            new.value_at_quantile(0.99)
        }
    }
}

/// Microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
    /// The share of times (0 to 1) that were at most so long, up to the longest; ever denser
    /// towards 1, as HdrHistogram's plots have it. Empty for old files.
    pub curve: Vec<(f64, u64)>,
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
            curve: histogram
                .iter_quantiles(CURVE_TICKS_PER_HALVING)
                .map(|point| (point.quantile_iterated_to(), point.value_iterated_to()))
                .take(CURVE_POINTS_MAX)
                .collect(),
        }
    }
}

/// The same of times that may be none: then a dash.
pub fn ms_of(times: &Percentiles, us: u64) -> String {
    match times.count {
        0 => "-".to_string(),
        _ => ms(us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_bounded_rises_and_ends_at_the_longest() {
        let latencies = Latencies::new(2);
        for us in 1..=100_000 {
            latencies.record((us % 2) as usize, us);
        }
        let figures = latencies.figures();
        let curve = &figures.curve;
        assert!(curve.len() < CURVE_POINTS_MAX, "{}", curve.len());
        assert!(
            curve
                .windows(2)
                .all(|w| w[0].0 <= w[1].0 && w[0].1 <= w[1].1)
        );
        let (share, us) = *curve.last().unwrap();
        assert_eq!(share, 1.0);
        assert!(us.abs_diff(figures.max) <= figures.max / 500, "{us}");
        assert!(Latencies::new(1).figures().curve.is_empty());
    }

    #[test]
    fn a_watch_tells_what_is_new() {
        let (latencies, mut watch) = (Latencies::new(1), LatencyWatch::new());
        assert_eq!(watch.p99_us_since(&latencies), 0);
        latencies.record(0, 1000);
        assert_eq!(watch.p99_us_since(&latencies), 1000);
        (0..200).for_each(|_| latencies.record(0, 10));
        assert_eq!(watch.p99_us_since(&latencies), 10);
        assert_eq!(watch.p99_us_since(&latencies), 0);
        assert_eq!(watch.p99_us, 10);
    }
}
