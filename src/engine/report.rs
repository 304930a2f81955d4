//! SIGUSR1: what the cores have counted, and the next hops that they have to do with.

use super::asking::{Asker, Silent};
use super::questions::{Question, Said};
use super::shared::Shared;
use crate::delivery::HopReport;
use crate::io::clock;
use crate::log::{Log, LogLevel, Shown, event};
use crate::metrics::{Snapshot, Value};
use crate::schedule::next_hop::HopStatus;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Next hops that have a line each: those with most mail waiting.
const HOPS_MAX: usize = 100;
/// How many are kept until those with less are left out.
const HOPS_KEPT_MAX: usize = 10 * HOPS_MAX;

/// Writes all of it.
pub async fn report(shared: &Shared, asker: &mut Asker<'_>, log: &Log) {
    let silent = asker.ask(Question::Counts, |_, _| None).await;
    say_silent(&silent, "its counts may be a moment old", log);
    let snapshot = snapshot_of(shared);
    for text in snapshot.summary().lines() {
        log.line(LogLevel::Info, event::METRICS, clock::wall_time())
            .field("text", text);
    }
    log_counters(&snapshot, log);
    let (hops, silent) = next_hops(asker).await;
    hops.say(log);
    say_silent(&silent, "its next hops are not all here", log);
    log.flush(clock::wall_time());
}

pub fn snapshot_of(shared: &Shared) -> Snapshot {
    Snapshot::of(shared.metrics.iter().map(|metrics| &**metrics))
}

/// All items in one line, for programs; of histograms how many values there were, and their sum.
pub fn log_counters(snapshot: &Snapshot, log: &Log) {
    let mut line = log.line(LogLevel::Info, event::COUNTERS, clock::wall_time());
    for item in snapshot.items() {
        match item.value {
            Value::Counter(number) | Value::Gauge(number) => {
                line.field(item.name, number);
            }
            Value::Histogram {
                values,
                count_name,
                sum_name,
            } => {
                line.field(count_name, values.count());
                line.field(sum_name, values.sum);
            }
        }
    }
}

/// Cores that were asked and have not answered.
pub fn say_silent(silent: &Silent, effect: &str, log: &Log) {
    if silent.is_empty() {
        return;
    }
    log.line(LogLevel::Warn, event::CORE_SILENT, clock::wall_time())
        .field("cores", Shown(format!("{silent:?}")))
        .field("effect", effect);
}

async fn next_hops(asker: &mut Asker<'_>) -> (NextHops, Silent) {
    let mut found = NextHops::default();
    let silent = asker
        .ask(Question::NextHops(0), |_, said| match said {
            Said::NextHops { hops, next } => {
                hops.into_iter().for_each(|hop| found.add(hop));
                next.map(Question::NextHops)
            }
            Said::Counted => None,
        })
        .await;
    (found, silent)
}

/// The next hops with most mail waiting, of all cores.
#[derive(Default)]
struct NextHops {
    /// By their names; at most [`HOPS_KEPT_MAX`].
    by_name: BTreeMap<String, HopReport>,
    left_out: u64,
}

impl NextHops {
    /// One that several cores serve is one: their queues together.
    fn add(&mut self, hop: HopReport) {
        let hop = match self.by_name.remove(&hop.name) {
            Some(same) => together(hop, same),
            None => hop,
        };
        self.by_name.insert(hop.name.clone(), hop);
        if self.by_name.len() > HOPS_KEPT_MAX {
            let fullest = self.take_fullest(2 * HOPS_MAX);
            self.by_name
                .extend(fullest.into_iter().map(|hop| (hop.name.clone(), hop)));
        }
    }

    /// So many, the fullest first. The others are counted.
    fn take_fullest(&mut self, most: usize) -> Vec<HopReport> {
        let mut hops: Vec<_> = std::mem::take(&mut self.by_name).into_values().collect();
        hops.sort_by_key(|hop| Reverse(hop.status.todo));
        self.left_out += hops.len().saturating_sub(most) as u64;
        hops.truncate(most);
        hops
    }

    fn say(mut self, log: &Log) {
        let (now, wall_time) = (clock::now(), clock::wall_time());
        for hop in self.take_fullest(HOPS_MAX) {
            let status = hop.status;
            let pause = status.paused_until.since(now);
            let next_try = (status.paused_until > now).then(|| wall_time + pause);
            log.line(LogLevel::Info, event::NEXT_HOP, wall_time)
                .field("hop", &hop.name)
                .field("state", state(&status, next_try.is_some()))
                .field("waiting", status.todo as u64)
                .field("connections", u64::from(connections(&status)))
                .field("next_try", next_try)
                .field("reply", hop.last_word.as_deref());
        }
        if self.left_out > 0 {
            log.line(LogLevel::Info, event::NEXT_HOP, wall_time)
                .field("left_out", self.left_out);
        }
    }
}

fn connections(status: &HopStatus) -> u32 {
    status.opening + status.busy + status.idle
}

fn state(status: &HopStatus, is_paused: bool) -> &'static str {
    match (status.is_dead, is_paused, connections(status)) {
        (true, _, _) => "failing",
        (false, true, _) => "paused",
        (false, false, 0) => "waiting",
        (false, false, _) => "connected",
    }
}

fn together(a: HopReport, b: HopReport) -> HopReport {
    HopReport {
        name: a.name,
        status: HopStatus {
            todo: a.status.todo + b.status.todo,
            opening: a.status.opening + b.status.opening,
            busy: a.status.busy + b.status.busy,
            idle: a.status.idle + b.status.idle,
            window: a.status.window + b.status.window,
            paused_until: a.status.paused_until.max(b.status.paused_until),
            is_dead: a.status.is_dead || b.status.is_dead,
        },
        last_word: a.last_word.or(b.last_word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Now;

    fn hop(name: usize, todo: usize) -> HopReport {
        HopReport {
            name: format!("host-{name}"),
            status: HopStatus {
                todo,
                opening: 0,
                busy: 1,
                idle: 0,
                window: 1,
                paused_until: Now(0),
                is_dead: false,
            },
            last_word: None,
        }
    }

    #[test]
    fn what_several_cores_serve_is_one_hop_and_the_fullest_are_kept() {
        let mut hops = NextHops::default();
        (0..1000).for_each(|number| hops.add(hop(number, number)));
        hops.add(hop(999, 5));
        let fullest = hops.take_fullest(HOPS_MAX);
        assert_eq!(fullest.len(), HOPS_MAX);
        assert_eq!(hops.left_out, 900);
        let first = &fullest[0].status;
        assert_eq!((first.todo, first.busy), (1004, 2));
        assert_eq!(fullest[HOPS_MAX - 1].status.todo, 900);
    }
}
