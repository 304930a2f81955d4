//! What is seen of a run while it goes on: samples, bounded in number however long it lasts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Between two samples of a run that is not long.
const PERIOD_FIRST: Duration = Duration::from_millis(100);
/// Most samples that are kept.
pub const SAMPLES_MAX: usize = 300;

/// One moment of a run. Everything but memory, the queue and the latencies counts from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    pub seconds: f64,
    /// Recipients, as are the next two.
    pub accepted: u64,
    pub arrived: u64,
    /// Accepted and not settled yet: the queue.
    pub outstanding: u64,
    /// Messages that got a 250.
    pub messages_accepted: u64,
    /// Transactions that the sink answered with 250.
    pub messages_arrived: u64,
    pub relay_cpu_us: u64,
    pub relay_rss_bytes: u64,
    pub source_cpu_us: u64,
    pub sink_cpu_us: u64,
    pub connections_in: u64,
    pub connections_out: u64,
    pub handshakes_in_full: u64,
    pub handshakes_in_resumed: u64,
    pub handshakes_out_full: u64,
    pub handshakes_out_resumed: u64,
    /// Failed connections, refused or broken off messages, failed handshakes, protocol errors.
    pub errors: u64,
    /// 99th percentile of those timed since the sample before; 0 when there were none. Where
    /// samples were merged, the larger one.
    pub to_250_p99_us: u64,
    pub end_to_end_p99_us: u64,
}

impl Sample {
    /// This sample, standing for the one before it as well.
    fn covering(self, before: &Sample) -> Sample {
        Sample {
            relay_rss_bytes: self.relay_rss_bytes.max(before.relay_rss_bytes),
            outstanding: self.outstanding.max(before.outstanding),
            to_250_p99_us: self.to_250_p99_us.max(before.to_250_p99_us),
            end_to_end_p99_us: self.end_to_end_p99_us.max(before.end_to_end_p99_us),
            ..self
        }
    }
}

/// Samples at equal distances, which double whenever there would be too many.
pub struct Timeline {
    samples: Vec<Sample>,
    period: Duration,
}

impl Timeline {
    pub fn new() -> Self {
        Self {
            samples: Vec::with_capacity(SAMPLES_MAX),
            period: PERIOD_FIRST,
        }
    }

    /// True when the sample after the last one should be taken, `seconds` into the run.
    pub fn is_due(&self, seconds: f64) -> bool {
        let last = self.samples.last().map(|sample| sample.seconds);
        last.is_none_or(|last| seconds - last >= self.period.as_secs_f64())
    }

    pub fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.merge_neighbours();
        }
        self.samples.push(sample);
    }

    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }

    /// The first sample stays alone: everything is counted from it.
    fn merge_neighbours(&mut self) {
        let (first, rest) = self.samples.split_at(1);
        let merged = rest.chunks(2).map(|pair| match pair {
            [before, after] => after.covering(before),
            rest => rest[0],
        });
        self.samples = first.iter().copied().chain(merged).collect();
        self.period *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_keeps_bounded_samples_that_reach_from_start_to_end() {
        let mut timeline = Timeline::new();
        let mut pushed = 0;
        for tenth in 0..864_000u32 {
            let seconds = f64::from(tenth) / 10.0;
            if timeline.is_due(seconds) {
                pushed += 1;
                timeline.push(Sample {
                    seconds,
                    accepted: u64::from(tenth),
                    outstanding: if pushed == 77 { 5 } else { 0 },
                    end_to_end_p99_us: if pushed == 78 { 9 } else { 1 },
                    ..Sample::default()
                });
            }
        }
        let period_s = timeline.period.as_secs_f64();
        let samples = timeline.into_samples();
        assert!(pushed < 10 * SAMPLES_MAX, "{pushed}");
        assert!((SAMPLES_MAX / 2..=SAMPLES_MAX).contains(&samples.len()));
        assert_eq!(samples[0].seconds, 0.0);
        assert!(samples.last().unwrap().seconds > 86_400.0 - 2.0 * period_s);
        assert!(samples.windows(2).all(|w| w[0].seconds < w[1].seconds));
        assert!(samples.windows(2).all(|w| w[0].accepted < w[1].accepted));
        // Peaks survive the merging.
        assert_eq!(samples.iter().map(|s| s.outstanding).max(), Some(5));
        assert_eq!(samples.iter().map(|s| s.end_to_end_p99_us).max(), Some(9));
    }
}
