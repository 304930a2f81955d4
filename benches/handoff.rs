//! What it costs to hand something to another core, busy and asleep.
//!
//! Floors, measured on a 2-core Zen 4 VM: busy, a single-producer ring costs 3-4 ns an item, crossbeam's `ArrayQueue` 21-35; push,
//! fence and look at a flag 4.7. A thread asleep on its ring takes 43 us to wake, and that costs the
//! two threads 15-26 us of CPU.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! 31 ns on one core, 85 between two busy ones; there and back between sleepers 53 us, 32 us of CPU for both.

mod common;

use common::{CpuTime, RingThread};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::handoff::{Handoff, lanes};
use std::hint::{black_box, spin_loop};
use std::thread;
use std::time::{Duration, Instant};

/// As large as what the relay hands on.
type Item = [u64; 8];

fn pair() -> [Handoff<Item>; 2] {
    let both: Result<[Handoff<Item>; 2], _> = lanes(2).try_into();
    both.ok().expect("two cores have two ends")
}

/// The same thread sends and receives, one item at a time: no cache line moves, nobody sleeps.
fn alone(c: &mut Criterion) {
    let [sender, receiver] = pair();
    let mut group = c.benchmark_group("handoff");
    group.throughput(Throughput::Elements(1));
    group.bench_function("send and drain on one core", |bench| {
        bench.iter(|| {
            sender.outbox.send(1, black_box([1; 8]));
            let looked_at = |item| {
                black_box::<Item>(item);
            };
            receiver.inbox.drain(1, looked_at)
        });
    });
    group.finish();
}

/// Until `items` have gone from one thread to the other; both look without a pause.
fn stream(items: u64) -> Duration {
    let [sender, receiver] = pair();
    let began = Instant::now();
    let producer = thread::spawn(move || {
        for item in 0..items {
            while sender.outbox.backlog() > 0 {
                sender.outbox.flush();
                spin_loop();
            }
            sender.outbox.send(1, [item; 8]);
        }
        while sender.outbox.backlog() > 0 {
            sender.outbox.flush();
        }
    });
    let mut next = 0;
    while next < items {
        receiver.inbox.drain(256, |item| {
            assert_eq!(item[0], next);
            next += 1;
        });
    }
    let took = began.elapsed();
    producer.join().expect("the producer does not panic");
    took
}

fn busy(c: &mut Criterion) {
    let mut group = c.benchmark_group("handoff");
    group.throughput(Throughput::Elements(1));
    group.bench_function("between two busy cores", |bench| {
        bench.iter_custom(stream);
    });
    group.finish();
}

/// Sends back what it receives, and sleeps in between.
async fn echo(handoff: &Handoff<Item>, items: u64) {
    let mut left = items;
    while left > 0 {
        let drained = handoff.inbox.drain(1, |item| handoff.outbox.send(0, item));
        left -= drained as u64;
        if drained == 0 {
            handoff.inbox.wait().await;
        }
    }
}

async fn ask(handoff: &Handoff<Item>, items: u64) {
    for item in 0..items {
        handoff.outbox.send(1, [item; 8]);
        while handoff.inbox.drain(1, |back| assert_eq!(back[0], item)) == 0 {
            handoff.inbox.wait().await;
        }
    }
}

fn idle(c: &mut Criterion) {
    let [a, b] = pair();
    let asking = RingThread::start(|| a);
    let answering = RingThread::start(|| b);
    let round_trips = |rounds: u64| {
        thread::scope(|scope| {
            scope.spawn(|| answering.run(async move |end: &Handoff<Item>| echo(end, rounds).await));
            asking.run(async move |end: &Handoff<Item>| {
                let began = Instant::now();
                ask(end, rounds).await;
                began.elapsed()
            })
        })
    };
    let mut group = c.benchmark_group("handoff");
    group.throughput(Throughput::Elements(2));
    group.bench_function("there and back between sleepers", |bench| {
        bench.iter_custom(round_trips);
    });
    group.bench_function("the same, CPU of both", |bench| {
        bench.iter_custom(|rounds| {
            let before = CpuTime::of_all_threads();
            round_trips(rounds);
            before.until(&CpuTime::of_all_threads())
        });
    });
    group.finish();
}

criterion_group! {
    name = handoff;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = alone, busy, idle
}
criterion_main!(handoff);
