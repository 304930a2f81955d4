//! A run is watched: samples for its timeline and its progress, and when it is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::commands::common::Common;
use crate::commands::progress::{Beside, Goal, Progress};
use crate::figures::histogram::LatencyWatch;
use crate::figures::timeline::{Sample, Timeline};
use crate::host::signals::StopFlag;
use crate::options::shared::JudgeOptions;
use crate::relay::under_test::UnderTest;
use crate::sink::Sink;
use crate::source::Source;

/// How often the run looks at what happens.
const TICK: Duration = Duration::from_millis(20);

/// CPU time of a relay that may be started anew, when its own count begins at zero again.
#[derive(Default)]
struct RisingCpu {
    before_us: u64,
    last_us: u64,
}

impl RisingCpu {
    /// The time of all its lives, given that of the present one.
    fn add(&mut self, now_us: u64) -> u64 {
        if now_us < self.last_us {
            self.before_us += self.last_us;
        }
        self.last_us = now_us;
        self.before_us + now_us
    }
}

/// Watches a run and keeps samples of it.
pub struct Watch<'a> {
    common: &'a Common,
    pub source: &'a Source,
    sink: &'a Sink,
    stop: &'a StopFlag,
    goal: Goal,
    began: Instant,
    progress: Progress,
    timeline: Timeline,
    to_250: LatencyWatch,
    end_to_end: LatencyWatch,
    relay_cpu: RisingCpu,
    /// Where the run is, in a few words, for the progress.
    pub note: String,
    pub peak_rss_bytes: u64,
}

impl<'a> Watch<'a> {
    pub fn new(
        common: &'a Common,
        source: &'a Source,
        sink: &'a Sink,
        stop: &'a StopFlag,
        goal: Goal,
        quiet: bool,
    ) -> Self {
        Self {
            common,
            source,
            sink,
            stop,
            goal,
            began: Instant::now(),
            progress: Progress::new(quiet),
            timeline: Timeline::new(),
            to_250: LatencyWatch::new(),
            end_to_end: LatencyWatch::new(),
            relay_cpu: RisingCpu::default(),
            note: String::new(),
            peak_rss_bytes: 0,
        }
    }

    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub fn is_interrupted(&self) -> bool {
        self.stop.is_set()
    }

    /// Waits a moment, and takes a sample when one is due.
    pub fn tick(&mut self, under_test: &UnderTest) {
        self.tick_at_most(under_test, TICK);
    }

    /// The same, but waits no longer than `limit`.
    pub fn tick_at_most(&mut self, under_test: &UnderTest, limit: Duration) {
        self.look(under_test);
        std::thread::sleep(TICK.min(limit));
    }

    /// Takes a sample for the timeline and for the progress, if either is due.
    fn look(&mut self, under_test: &UnderTest) {
        let keep = self.timeline.is_due(self.seconds());
        if !keep && !self.progress.is_due() {
            return;
        }
        let sample = self.sample(under_test);
        if keep {
            self.keep(sample);
        }
        if self.progress.is_due() {
            let beside = Beside {
                goal: self.goal,
                to_250_p99_us: self.to_250.p99_us,
                end_to_end_p99_us: self.end_to_end.p99_us,
                note: &self.note,
            };
            self.progress.show(&sample, &beside);
        }
    }

    fn keep(&mut self, mut sample: Sample) {
        sample.to_250_p99_us = self.to_250.p99_us_since(&self.source.shared.to_250);
        sample.end_to_end_p99_us = self.end_to_end.p99_us_since(&self.sink.shared.end_to_end);
        self.timeline.push(sample);
    }

    /// The samples, with a last one of now.
    pub fn into_samples(mut self, under_test: &UnderTest) -> Vec<Sample> {
        let last = self.sample(under_test);
        self.keep(last);
        self.timeline.into_samples()
    }

    fn sample(&mut self, under_test: &UnderTest) -> Sample {
        let usage = under_test.usage().unwrap_or_default();
        self.peak_rss_bytes = self.peak_rss_bytes.max(usage.peak_rss_bytes);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ledger = &self.common.ledger;
        let (source, sink) = (&self.source.shared.counters, &self.sink.shared.counters);
        Sample {
            seconds: self.seconds(),
            accepted: ledger.accepted(),
            arrived: ledger.arrivals(),
            outstanding: ledger.outstanding(),
            messages_accepted: get(&source.accepted),
            messages_arrived: sink.messages(),
            relay_cpu_us: self.relay_cpu.add(usage.cpu_us()),
            relay_rss_bytes: usage.rss_bytes,
            source_cpu_us: self.source.meter.cpu_us(),
            sink_cpu_us: self.sink.meter.cpu_us(),
            connections_in: get(&source.connections),
            connections_out: get(&sink.connections),
            handshakes_in_full: get(&source.handshakes_full),
            handshakes_in_resumed: get(&source.handshakes_resumed),
            handshakes_out_full: get(&sink.handshakes_full),
            handshakes_out_resumed: get(&sink.handshakes_resumed),
            errors: get(&source.connections_failed)
                + get(&source.refused)
                + get(&source.open)
                + get(&sink.handshakes_failed)
                + get(&sink.protocol_errors),
            ..Sample::default()
        }
    }

    /// Until everything accepted is settled, or nothing has moved for `settle` seconds.
    pub fn settle(&mut self, under_test: &UnderTest, judge: &JudgeOptions) {
        let ledger = &self.common.ledger;
        let patience = Duration::from_secs_f64(judge.settle);
        let mut settled = ledger.settled();
        let mut moved = Instant::now();
        while ledger.outstanding() > 0 && moved.elapsed() < patience && !self.is_interrupted() {
            self.tick(under_test);
            if ledger.settled() != settled {
                settled = ledger.settled();
                moved = Instant::now();
            }
        }
    }

    /// Until nothing more has arrived for the time that late duplicates may take.
    pub fn linger(&mut self, under_test: &UnderTest, judge: &JudgeOptions) {
        let patience = Duration::from_millis(judge.linger_ms);
        let mut arrived = self.common.ledger.arrivals();
        let mut moved = Instant::now();
        while moved.elapsed() < patience && !self.is_interrupted() {
            self.tick(under_test);
            if self.common.ledger.arrivals() != arrived {
                arrived = self.common.ledger.arrivals();
                moved = Instant::now();
            }
        }
    }
}
