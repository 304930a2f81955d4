//! SIGUSR1: what the cores have counted, and the next hops that they have to do with.

use super::asking::{Asker, Silent};
use super::questions::{Question, Said};
use super::shared::Shared;
use crate::delivery::HopReport;
use crate::io::clock;
use crate::log::{Begin, Log, LogLevel, Shown, event};
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
    log_silent(&silent, "its counts may be a moment old", log);
    let snapshot = snapshot_of(shared);
    for text in snapshot.summary().lines() {
        log.answer(LogLevel::Info, event::METRICS, clock::wall_time())
            .field("text", text);
    }
    log_counters(&snapshot, log, Log::answer);
    let (hops, silent) = next_hops(asker).await;
    hops.log_hops(log);
    log_silent(&silent, "its next hops are not all here", log);
}

pub fn snapshot_of(shared: &Shared) -> Snapshot {
    Snapshot::of(shared.metrics.iter().map(|metrics| &**metrics))
}

/// All items in one line, for programs; of histograms how many values there were, and their sum.
pub fn log_counters(snapshot: &Snapshot, log: &Log, begin: Begin) {
    let mut line = begin(log, LogLevel::Info, event::COUNTERS, clock::wall_time());
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

/// Cores that were asked, because an operator asks, and have not answered.
pub fn log_silent(silent: &Silent, effect: &str, log: &Log) {
    if silent.is_empty() {
        return;
    }
    log.answer(LogLevel::Warn, event::CORE_SILENT, clock::wall_time())
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
    /// The others, without what their hosts have said. A host may come once from each core.
    others: BTreeMap<String, HopStatus>,
}

impl NextHops {
    /// One that several cores serve is one: their queues merge.
    fn add(&mut self, hop: HopReport) {
        let mut hop = match self.by_name.remove(&hop.name) {
            Some(same) => merge(hop, same),
            None => hop,
        };
        if let Some(status) = self.others.remove(&hop.name) {
            hop.status = both(hop.status, status);
        }
        self.by_name.insert(hop.name.clone(), hop);
        if self.by_name.len() > HOPS_KEPT_MAX {
            let fullest = self.take_fullest(2 * HOPS_MAX);
            self.by_name
                .extend(fullest.into_iter().map(|hop| (hop.name.clone(), hop)));
        }
    }

    /// So many, the fullest first. What is left out are the others.
    fn take_fullest(&mut self, most: usize) -> Vec<HopReport> {
        let mut hops: Vec<_> = std::mem::take(&mut self.by_name).into_values().collect();
        hops.sort_by_key(|hop| Reverse(hop.status.todo));
        let others = hops.drain(most.min(hops.len())..);
        self.others.extend(others.map(|hop| (hop.name, hop.status)));
        hops
    }

    fn log_hops(mut self, log: &Log) {
        let (now, wall_time) = (clock::now(), clock::wall_time());
        for hop in self.take_fullest(HOPS_MAX) {
            let status = hop.status;
            let pause = status.paused_until.since(now);
            let next_try = (status.paused_until > now).then(|| wall_time + pause);
            log.answer(LogLevel::Info, event::NEXT_HOP, wall_time)
                .field("hop", &hop.name)
                .field("state", state(&status, next_try.is_some()))
                .field("waiting", status.todo as u64)
                .field("connections", u64::from(connections(&status)))
                .field("next_try", next_try)
                .field("reply", hop.last_word.as_deref());
        }
        if !self.others.is_empty() {
            log.answer(LogLevel::Info, event::NEXT_HOP, wall_time)
                .field("left_out", self.others.len() as u64);
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

fn merge(a: HopReport, b: HopReport) -> HopReport {
    HopReport {
        name: a.name,
        status: both(a.status, b.status),
        last_word: a.last_word.or(b.last_word),
    }
}

fn both(a: HopStatus, b: HopStatus) -> HopStatus {
    HopStatus {
        todo: a.todo + b.todo,
        opening: a.opening + b.opening,
        busy: a.busy + b.busy,
        idle: a.idle + b.idle,
        window: a.window + b.window,
        paused_until: match (a.todo, b.todo) {
            // Nothing is tried there for a core without mail for it.
            (0, _) => b.paused_until,
            (_, 0) => a.paused_until,
            _ => a.paused_until.min(b.paused_until),
        },
        is_dead: a.is_dead || b.is_dead,
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
        assert_eq!(hops.others.len(), 900);
        let first = &fullest[0].status;
        assert_eq!((first.todo, first.busy), (1004, 2));
        assert_eq!(fullest[HOPS_MAX - 1].status.todo, 900);
    }

    #[test]
    fn hosts_that_two_cores_serve_are_left_out_once_and_none_of_their_mail_is_forgotten() {
        let mut hops = NextHops::default();
        for _ in 0..2 {
            (0..2500).for_each(|number| hops.add(hop(number, 1)));
            // It was not among the fullest before.
            hops.add(hop(2500, 1));
        }
        (0..50).for_each(|number| hops.add(hop(number, 3)));
        let fullest = hops.take_fullest(HOPS_MAX);
        assert_eq!(hops.others.len(), 2501 - HOPS_MAX);
        assert!(fullest[..50].iter().all(|hop| hop.status.todo == 5));
        assert!(fullest[50..].iter().all(|hop| hop.status.todo == 2));
    }

    #[test]
    fn the_next_try_is_the_first_one_of_any_core_that_has_mail() {
        let at = |todo, millis| HopStatus {
            paused_until: Now(millis),
            ..hop(0, todo).status
        };
        assert_eq!(both(at(1, 300), at(1, 200)).paused_until, Now(200));
        assert_eq!(both(at(1, 300), at(0, 200)).paused_until, Now(300));
        assert_eq!(both(at(0, 0), at(1, 200)).paused_until, Now(200));
    }
}
