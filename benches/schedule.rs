//! The schedule with a million queued recipients, over one hop and over 100,000.
//! One iteration is one recipient: every figure is the time for one call pair.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! 78 ns over one hop, 95 over 100,000; 0.87 us to defer and hand back one of a million.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::schedule::next_hop::{Action, HopId, Origin, Queued, Rank, Schedule, Settings, Take};
use ringpost::time::Now;
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

const QUEUED: u64 = 1_000_000;

/// Of a few origins, and new.
#[derive(Debug)]
struct Job(u64);

impl Queued for Job {
    fn rank(&self, _: Now) -> Rank {
        Rank {
            origin: Origin {
                party: (self.0 % 4) as u32,
                sender: 0,
            },
            recipients: 1,
            is_old: false,
        }
    }
}

type Jobs = Schedule<u64, Job>;

/// The connections of the schedule, all at work. As many as it wants.
type Connections = VecDeque<HopId>;

fn loaded(hops: u64) -> (Jobs, Connections) {
    let mut schedule = Jobs::new(Settings::default());
    for job in 0..QUEUED {
        schedule.push(&(job % hops), Job(job), Now(0));
    }
    let mut connections = Connections::new();
    obey(&mut schedule, &mut connections, Now(0));
    (schedule, connections)
}

fn obey(schedule: &mut Jobs, connections: &mut Connections, now: Now) {
    while let Some(action) = schedule.poll(now) {
        let Action::Open { hop } = action else {
            panic!("{action:?} while all connections are at work");
        };
        schedule.connected(hop, Duration::ZERO);
        connections.push_back(hop);
    }
}

/// Steady state: a connection takes a job and succeeds, another job comes in.
fn step(schedule: &mut Jobs, connections: &mut Connections, job: u64) {
    // Time moves slowly enough that nothing becomes stale.
    let now = Now(job / 1000);
    let hop = connections.pop_front().expect("a connection is open");
    match schedule.take(hop, now) {
        Take::Job(done) => {
            black_box(done);
            schedule.delivered(hop, Duration::ZERO);
            connections.push_back(hop);
        }
        Take::Close => schedule.closed(hop),
        Take::Wait { .. } => panic!("a million jobs wait"),
    }
    // The hop that was served gets the new job, so that none runs dry.
    let key = *schedule.key(hop);
    schedule.push(&key, Job(job), now);
    obey(schedule, connections, now);
}

fn steady(c: &mut Criterion) {
    for hops in [1, 100_000] {
        let (mut schedule, mut connections) = loaded(hops);
        let mut job = 0;
        let mut group = c.benchmark_group("push, take, delivered, poll");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{hops} hops"), |b| {
            b.iter(|| {
                job += 1;
                step(&mut schedule, &mut connections, job);
            });
        });
        group.finish();
    }
}

fn defer(c: &mut Criterion) {
    let mut schedule = Jobs::new(Settings::default());
    let spread = |tick: u64| tick.wrapping_mul(2_654_435_761) % 4_000_000_000;
    for job in 0..QUEUED {
        schedule.defer(Job(job), Now(spread(job)));
    }
    let mut now = Now(0);
    let mut tick = 0;
    let mut group = c.benchmark_group("defer, retry");
    group.throughput(Throughput::Elements(1));
    group.bench_function("1,000,000 deferred", |b| {
        b.iter(|| {
            tick += 1;
            now = now.max(schedule.deadline().expect("a million wait"));
            let Some(Action::Retry { job }) = schedule.poll(now) else {
                panic!("only deferred jobs are in this schedule");
            };
            schedule.defer(black_box(job), Now(now.0 + spread(tick)));
        });
    });
    group.finish();
}

criterion_group!(benches, steady, defer);
criterion_main!(benches);
