//! What a core counts: counters, gauges and histograms, written by that core only, read by the control thread.
//!
//! One writer per value, so a count is a plain load and store, without a locked instruction.
//! Values of one snapshot were read one after the other: sums of different counters may be apart
//! by what happened in between.
//!
//! Promise: counting costs a message nothing that another core could feel. Every item says in `docs/counters.md` what
//! it is, in the words of its declaration.
//! Not here: who shows the numbers.

pub mod exposition;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that never falls. One thread changes it, any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes over a total that is counted elsewhere.
    pub fn set_total(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that rises and falls, such as open sessions. One thread sets it, any thread reads.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets to the power of two, each in 8 parts: a quantile is at most 12.5 % too high.
const PARTS: usize = 8;
const PARTS_BITS: u32 = PARTS.ilog2();

/// Values from here on share the last bucket: 2^36 us are 19 hours.
const VALUE_BITS_MAX: u32 = 36;

const BUCKETS: usize = (VALUE_BITS_MAX - PARTS_BITS + 1) as usize * PARTS;

/// How often which value occurred, and the sum of all; the unit is the user's, mostly microseconds. 2 KB.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: [const { Counter(AtomicU64::new(0)) }; BUCKETS],
            sum: Counter::default(),
        }
    }
}

impl Histogram {
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].increment();
        self.sum.add(value);
    }

    /// In microseconds.
    pub fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << VALUE_BITS_MAX) - 1);
    if value < PARTS as u64 {
        return value as usize;
    }
    let power = value.ilog2() - PARTS_BITS;
    let part = (value >> power) as usize - PARTS;
    (power as usize + 1) * PARTS + part
}

/// The largest value in a bucket.
fn largest_in(bucket: usize) -> u64 {
    if bucket < PARTS {
        return bucket as u64;
    }
    let (power, part) = (bucket / PARTS - 1, bucket % PARTS);
    (((PARTS + part + 1) as u64) << power) - 1
}

/// A histogram as it was at one time, of any number of cores.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Distribution {
    buckets: Vec<u64>,
    /// Of all values, exact.
    pub sum: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution {
            buckets: vec![0; BUCKETS],
            sum: 0,
        }
    }
}

impl Distribution {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.sum = self.sum.wrapping_add(histogram.sum.get());
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many values do not exceed `bound`; those within an eighth below it may be left out.
    pub fn at_most(&self, bound: u64) -> u64 {
        let buckets = self.buckets.iter().enumerate();
        let below = buckets.take_while(|(bucket, _)| largest_in(*bucket) <= bound);
        below.map(|(_, count)| count).sum()
    }

    /// The value that `share` (0 to 1) of all values do not exceed, at most 12.5 % too high; zero
    /// if there are none.
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.buckets
            .iter()
            .position(|count| {
                seen += count;
                seen >= rank
            })
            .map_or(0, largest_in)
    }
}

/// One number of a snapshot, or many: of what kind it is decides how it may be shown and added up.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Counter(u64),
    Gauge(u64),
    /// With the names of its count and its sum.
    Histogram {
        values: &'a Distribution,
        count_name: &'static str,
        sum_name: &'static str,
    },
}

/// One item of a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    pub name: &'static str,
    /// One sentence, from the declaration.
    pub help: &'static str,
    pub value: Value<'a>,
}

macro_rules! metrics {
    (
        counters { $($(#[doc = $counter_help:literal])+ $counter:ident,)* }
        gauges { $($(#[doc = $gauge_help:literal])+ $gauge:ident,)* }
        histograms { $($(#[doc = $histogram_help:literal])+ $histogram:ident,)* }
    ) => {
        /// What one core counts. Padded, so that no two cores write to one cache line; 128 bytes
        /// because processors fetch lines in pairs.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct CoreMetrics {
            $($(#[doc = $counter_help])+ pub $counter: Counter,)*
            $($(#[doc = $gauge_help])+ pub $gauge: Gauge,)*
            $($(#[doc = $histogram_help])+ pub $histogram: Histogram,)*
        }

        /// The sums over some cores at one time.
        #[derive(Clone, PartialEq, Eq, Debug, Default)]
        pub struct Snapshot {
            $($(#[doc = $counter_help])+ pub $counter: u64,)*
            $($(#[doc = $gauge_help])+ pub $gauge: u64,)*
            $($(#[doc = $histogram_help])+ pub $histogram: Distribution,)*
        }

        impl Snapshot {
            fn add(&mut self, core: &CoreMetrics) {
                $(self.$counter += core.$counter.get();)*
                $(self.$gauge += core.$gauge.get();)*
                $(self.$histogram.add(&core.$histogram);)*
            }

            /// Every item, for log lines and whoever collects them.
            pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
                let item = |name, help: &'static str, value| Item { name, help: help.trim(), value };
                [
                    $(item(
                        stringify!($counter),
                        concat!($($counter_help),+),
                        Value::Counter(self.$counter),
                    ),)*
                    $(item(
                        stringify!($gauge),
                        concat!($($gauge_help),+),
                        Value::Gauge(self.$gauge),
                    ),)*
                    $(item(
                        stringify!($histogram),
                        concat!($($histogram_help),+),
                        Value::Histogram {
                            values: &self.$histogram,
                            count_name: concat!(stringify!($histogram), "_count"),
                            sum_name: concat!(stringify!($histogram), "_sum"),
                        },
                    ),)*
                ]
                .into_iter()
            }
        }
    };
}

metrics! {
    counters {
        /// Inbound sessions begun.
        sessions,
        /// Connections refused by a limit (421).
        sessions_refused,
        /// Sessions ended because the client let a wait run out.
        sessions_timed_out,
        /// Sessions ended because a body came too slowly.
        sessions_too_slow,
        /// Connections of addresses over their rate.
        limited_connections,
        /// TLS handshakes of addresses over their rate.
        limited_handshakes,
        /// Messages of addresses over their rate.
        limited_messages,
        /// Recipients of addresses over their rate.
        limited_recipients,
        /// Errors of addresses over their rate.
        limited_errors,
        /// Replies 452 and 421 because `--memory-max` was near.
        refused_for_memory,
        /// Replies 452 because a destination or an origin had its share of the room for mail.
        refused_for_share,
        /// Times that a session waited with content until it was its turn, memory being short.
        body_pauses,
        /// Turns of a thread's loop that took too long by their own doing.
        loop_stalls,
        /// Turns of a thread's loop that took too long because the thread was not given a CPU.
        loop_preempted,
        /// Ticks of a thread that were late, whatever the reason.
        loop_late_ticks,
        /// Messages that got their 250.
        messages_accepted,
        /// Messages that got a 4xx or 5xx after DATA or BDAT.
        messages_refused,
        /// Body bytes of accepted messages.
        bytes_accepted,
        /// Recipients of accepted messages.
        recipients_accepted,
        /// Replies 4yz and 5yz to clients.
        refusals,
        /// Recipients delivered. Each recipient is counted once, at its end: here or in one of the next three.
        delivered,
        /// Recipients that are undeliverable, with a report to the sender.
        bounced,
        /// Recipients not delivered within their lifetime, with a report to the sender.
        expired,
        /// Recipients that are undeliverable or not delivered within their lifetime, without a report.
        dropped,
        /// Attempts that failed and are to be repeated.
        deferred,
        /// Reports delivered.
        reports_delivered,
        /// Reports that could not be delivered.
        reports_dropped,
        /// Attempts to deliver a report that failed and are to be repeated.
        reports_deferred,
        /// Body bytes sent to next hops.
        bytes_delivered,
        /// Transactions whose body was read back from the spool.
        bodies_read_back,
        /// Inbound TLS handshakes, full ones.
        handshakes_in_full,
        /// Inbound TLS handshakes that resumed a session.
        handshakes_in_resumed,
        /// Inbound TLS handshakes that failed.
        handshakes_in_failed,
        /// Sessions that were not offered STARTTLS, since their client's handshakes had failed.
        starttls_withdrawn,
        /// Outbound TLS handshakes, full ones.
        handshakes_out_full,
        /// Outbound TLS handshakes that resumed a session.
        handshakes_out_resumed,
        /// Outbound TLS handshakes that failed.
        handshakes_out_failed,
        /// Outbound connections begun.
        connections_out,
        /// Outbound connections that never stood.
        connections_out_failed,
        /// Group commits of messages.
        commits,
        /// Messages in group commits.
        commit_messages,
        /// Bytes in group commits of messages.
        commit_bytes,
        /// Log lines dropped.
        log_lines_dropped,
    }
    gauges {
        /// Inbound sessions open.
        sessions_open,
        /// Memory that sessions and mail hold, in bytes.
        memory_held_bytes,
        /// Octets of mail in the spool that counts against shares, and of mail that comes in.
        mail_held_bytes,
        /// Threads that refuse mail because of their part of the spool.
        spool_refusing,
        /// Outbound connections open.
        connections_out_open,
        /// Items that wait outside full lanes between threads.
        lane_backlog,
        /// Transactions that wait or are under way.
        queue_jobs,
    }
    histograms {
        /// Microseconds from the end of a message's data to its 250.
        accept_us,
        /// Microseconds from a message's 250 to its delivery.
        delivery_us,
    }
}

impl Snapshot {
    pub fn of<'a>(cores: impl IntoIterator<Item = &'a CoreMetrics>) -> Self {
        let mut snapshot = Snapshot::default();
        for core in cores {
            snapshot.add(core);
        }
        snapshot
    }

    /// A few lines for people, without a final line end.
    pub fn summary(&self) -> String {
        [
            self.summary_in(),
            self.summary_out(),
            self.summary_tls(),
            self.summary_times(),
            format!(
                "behind: {} items outside lanes, {} log lines dropped; {} turns of a loop too long, \
                 {} more for want of a CPU, {} late ticks",
                self.lane_backlog,
                self.log_lines_dropped,
                self.loop_stalls,
                self.loop_preempted,
                self.loop_late_ticks
            ),
            self.summary_limits(),
        ]
        .join("\n")
    }

    fn summary_in(&self) -> String {
        format!(
            "in: {} messages, {} bytes, {} recipients; {} sessions, {} open; {} messages \
             refused at their end, {} refusals in all",
            self.messages_accepted,
            self.bytes_accepted,
            self.recipients_accepted,
            self.sessions,
            self.sessions_open,
            self.messages_refused,
            self.refusals,
        )
    }

    fn summary_limits(&self) -> String {
        format!(
            "limits: over a rate {} connections, {} handshakes, {} messages, {} recipients, {} errors; \
             {} sessions timed out, {} too slow; memory {} bytes held, {} refusals, {} pauses",
            self.limited_connections,
            self.limited_handshakes,
            self.limited_messages,
            self.limited_recipients,
            self.limited_errors,
            self.sessions_timed_out,
            self.sessions_too_slow,
            self.memory_held_bytes,
            self.refused_for_memory,
            self.body_pauses,
        )
    }

    fn summary_out(&self) -> String {
        format!(
            "out: {} recipients delivered, {} bounced, {} expired, {} dropped; {} attempts deferred; \
             reports: {} delivered, {} dropped, {} deferred; {} transactions waiting, {} bodies read back; \
             {} connections, {} open, {} failed",
            self.delivered,
            self.bounced,
            self.expired,
            self.dropped,
            self.deferred,
            self.reports_delivered,
            self.reports_dropped,
            self.reports_deferred,
            self.queue_jobs,
            self.bodies_read_back,
            self.connections_out,
            self.connections_out_open,
            self.connections_out_failed,
        )
    }

    fn summary_tls(&self) -> String {
        format!(
            "TLS: in {} full, {} resumed, {} failed; out {} full, {} resumed, {} failed",
            self.handshakes_in_full,
            self.handshakes_in_resumed,
            self.handshakes_in_failed,
            self.handshakes_out_full,
            self.handshakes_out_resumed,
            self.handshakes_out_failed,
        )
    }

    /// Half of all and 99 of 100 took at most these times.
    fn summary_times(&self) -> String {
        let times =
            |times: &Distribution| format!("{}/{} us", times.quantile(0.5), times.quantile(0.99));
        format!(
            "times (p50/p99): to 250 {}, to delivery {}; {} commits of {:.1} messages",
            times(&self.accept_us),
            times(&self.delivery_us),
            self.commits,
            self.commit_messages as f64 / self.commits.max(1) as f64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_over_cores() {
        let cores = [CoreMetrics::default(), CoreMetrics::default()];
        cores[0].messages_accepted.add(3);
        cores[1].messages_accepted.increment();
        cores[0].sessions_open.set(2);
        cores[0].sessions_open.set(0);
        cores[1].sessions_open.set(1);
        cores[0].accept_us.record(100);
        cores[1].accept_us.record_duration(Duration::from_millis(3));
        let snapshot = Snapshot::of(&cores);
        assert_eq!(snapshot.messages_accepted, 4);
        assert_eq!(snapshot.sessions_open, 1);
        assert_eq!(snapshot.accept_us.count(), 2);
        assert_eq!(snapshot.accept_us.sum, 3_100);
        let item = snapshot.items().find(|it| it.name == "messages_accepted");
        let item = item.unwrap();
        assert!(matches!(item.value, Value::Counter(4)), "{item:?}");
        assert_eq!(item.help, "Messages that got their 250.");
        assert!(
            snapshot
                .summary()
                .starts_with("in: 4 messages, 0 bytes, 0 recipients")
        );
    }

    #[test]
    fn quantiles_of_known_values() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.record(value));
        let mut distribution = Distribution::default();
        assert_eq!(distribution.quantile(0.5), 0);
        distribution.add(&histogram);
        assert_eq!(distribution.quantile(0.5), 511);
        assert_eq!(distribution.quantile(1.0), 1023);
        assert_eq!(distribution.quantile(0.001), 1);
    }

    #[test]
    fn no_two_cores_share_a_cache_line() {
        assert_eq!(align_of::<CoreMetrics>(), 128);
        assert_eq!(size_of::<CoreMetrics>() % 128, 0);
    }

    #[test]
    fn the_largest_value_has_a_bucket() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_an_eighth_wide(value in 0..1_u64 << VALUE_BITS_MAX) {
            let bucket = bucket_of(value);
            let largest = largest_in(bucket);
            prop_assert!(value <= largest && largest - value <= value / 8);
            prop_assert!(bucket == 0 || largest_in(bucket - 1) < value);
        }
    }
}
