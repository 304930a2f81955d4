//! What a log line costs the core that makes it.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! 0.26 us a line in text, 0.25 in JSON, 3 ns for one that nobody wants.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::config::{LogFormat, LogLevel};
use ringpost::log::event::Event;
use ringpost::log::{Chunk, Log, event};
use ringpost::message::{Mailbox, MessageId, TlsSummary, Verdict};
use ringpost::time::WallTime;
use std::hint::black_box;
use std::net::SocketAddr;

const DEBUG: &Event = &Event::with_any_fields("debug");

fn line_per_delivery(criterion: &mut Criterion) {
    let relay: SocketAddr = "192.0.2.1:25".parse().expect("an address");
    let to = Mailbox::new("somebody", "example.com");
    let id = MessageId {
        run: 7,
        core: 3,
        sequence: 123_456,
    };
    let tls = TlsSummary {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        key_exchange: "X25519",
        resumed: false,
        verdict: Verdict::Verified,
    };
    let mut group = criterion.benchmark_group("log/delivered");
    group.throughput(Throughput::Elements(1));
    for (name, format) in [("text", LogFormat::Text), ("json", LogFormat::Json)] {
        let log = Log::new(format, LogLevel::Info, Box::new(Chunk::written));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                log.line(
                    LogLevel::Info,
                    event::DELIVERED,
                    black_box(WallTime(1_790_000_000_123)),
                )
                .field("id", black_box(id))
                .field("from", "sender@example.net")
                .field("to", black_box(&to))
                .field("host", "mx1.example.com")
                .field("address", black_box(relay))
                .tls(Some(&tls))
                .field("delay_ms", black_box(1_234_u64))
                .field("transaction_ms", black_box(34_u64))
                .field("status", "2.0.0")
                .field("reply", "250 2.0.0 Ok: queued as 4Xyz");
            });
        });
        assert_eq!(log.dropped_total(), 0);
    }
    group.finish();
}

fn line_that_is_not_wanted(criterion: &mut Criterion) {
    let log = Log::new(LogFormat::Text, LogLevel::Info, Box::new(Chunk::written));
    criterion.bench_function("log/unwanted", |bencher| {
        bencher.iter(|| {
            log.line(LogLevel::Debug, DEBUG, WallTime(0))
                .field("number", black_box(1_u64));
        });
    });
}

criterion_group!(benches, line_per_delivery, line_that_is_not_wanted);
criterion_main!(benches);
