//! A remembered answer: what every message pays for its next hop.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`: 0.27 us.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::domain::Domain;
use ringpost::remote::resolve::{OwnNames, Resolver, Settings};
use ringpost::remote::route::RouteTable;
use std::hint::black_box;

fn remembered(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    // Nobody is asked: the answer for an address is made once, then remembered like any other.
    let resolver = runtime
        .block_on(async { Resolver::new(Settings::default(), OwnNames::default()) })
        .expect("a resolver");
    let mut routes = RouteTable::default();
    routes
        .add_entry("*=[192.0.2.1]", "--route")
        .expect("a route");
    let mut group = c.benchmark_group("route and resolve");
    group.throughput(Throughput::Elements(1));
    group.bench_function("remembered", |b| {
        b.iter(|| {
            let domain = Domain::parse(black_box("example.com")).expect("a name");
            let next_hop = routes.next_hop(&domain);
            let answer = runtime.block_on(resolver.resolve(&next_hop));
            black_box(answer.expect("an address"));
        });
    });
    group.finish();
}

criterion_group!(benches, remembered);
criterion_main!(benches);
