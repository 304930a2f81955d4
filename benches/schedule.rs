//! The schedule with a million queued recipients, over one hop and over 100,000.
//! One iteration is one recipient: every figure is the time for one call pair.

use criterion::{Criterion, criterion_group, criterion_main};
use ringpost::schedule::next_hop::{Action, HopId, Schedule, Settings, Take};
use ringpost::time::Now;
use std::hint::black_box;

const QUEUED: u64 = 1_000_000;

type Jobs = Schedule<u64, u64>;

/// A million jobs wait; connections are open as far as the schedule wants them.
fn loaded(hops: u64) -> (Jobs, Vec<HopId>) {
    let mut schedule = Jobs::new(Settings::default());
    for job in 0..QUEUED {
        schedule.push(&(job % hops), job, Now(0));
    }
    let mut connections = Vec::new();
    while let Some(action) = schedule.poll(Now(0)) {
        if let Action::Open { hop } = action {
            schedule.connected(hop);
            connections.push(hop);
        }
    }
    (schedule, connections)
}

/// Steady state: a connection takes a job and succeeds, another job comes in.
fn step(schedule: &mut Jobs, connection: HopId, hops: u64, tick: u64) {
    // Time moves slowly enough that nothing becomes stale.
    let now = Now(tick / 1000);
    match schedule.take(connection, now) {
        Take::Job(job) => _ = black_box(job),
        take => panic!("{take:?} while a million jobs wait"),
    }
    schedule.delivered(connection);
    // The hop that was served gets the new job, so that none runs dry.
    let key = *schedule.key(connection);
    schedule.push(&(key % hops), tick, now);
    while let Some(action) = schedule.poll(now) {
        black_box(&action);
    }
}

fn steady(c: &mut Criterion) {
    for hops in [1, 100_000] {
        let (mut schedule, connections) = loaded(hops);
        let mut turn = connections.into_iter().cycle();
        let mut tick = 0;
        c.bench_function(&format!("push, take, delivered, poll: {hops} hops"), |b| {
            b.iter(|| {
                tick += 1;
                let connection = turn.next().expect("a connection is open");
                step(&mut schedule, connection, hops, tick);
            });
        });
    }
}

fn defer(c: &mut Criterion) {
    let mut schedule = Jobs::new(Settings::default());
    let spread = |tick: u64| tick.wrapping_mul(2_654_435_761) % 4_000_000_000;
    for job in 0..QUEUED {
        schedule.defer(job, Now(spread(job)));
    }
    let mut now = Now(0);
    let mut tick = 0;
    c.bench_function("defer, retry: 1,000,000 deferred", |b| {
        b.iter(|| {
            tick += 1;
            now = now.max(schedule.deadline().expect("a million wait"));
            let Some(Action::Retry { job }) = schedule.poll(now) else {
                panic!("only deferred jobs are in this schedule");
            };
            schedule.defer(black_box(job), Now(now.0 + spread(tick)));
        });
    });
}

criterion_group!(benches, steady, defer);
criterion_main!(benches);
