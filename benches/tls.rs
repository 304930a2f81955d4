//! What TLS costs: handshakes of either side, and records. With the relay's allocator.
//!
//! Floors, measured with bare rustls 0.23.46 and ring on a Zen 4 VM (CPU us):
//!
//! | case | server | client |
//! |---|---|---|
//! | TLS 1.3, EC P-256, full | 104 | 141, chain not checked |
//! | TLS 1.3, resumed | 96 | 92 |
//! | TLS 1.2, full / resumed | 94 / 13.7 | 129 / 14.0 |
//!
//! 16 KB with AES-128-GCM: encrypt 2.4 (6.8 with the text on a page boundary), decrypt 2.0.
//! A chain check costs 53; a remembered one should cost little more than its SHA-256.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! TLS 1.3 full 98 as server and 134 as client, resumed 84 and 81; TLS 1.2 94 and 131, resumed 8.7 each. 16 KB: encrypt 2.7 (7.4 on a page
//! boundary), decrypt 2.6.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::CertificateVerdict;
use ringpost::time::WallTime;
use ringpost::tls::session::{PLAIN_OFFSET_BYTES, RECORD_PLAIN_BYTES_MAX};
use ringpost::tls::{
    ClientTls, Judge, ServerKeys, ServerTls, Session, TrustAnchors, Versions, certificate,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: WallTime = WallTime(1_780_000_000_000); // in 2026
const PAGE_BYTES: usize = 4096;

fn keys() -> ServerKeys {
    let directory = tempfile::tempdir().unwrap();
    certificate::load_or_generate(directory.path(), "mx.test", NOW)
        .unwrap()
        .0
}

/// One handshake; how long each side was busy.
fn handshake(client: &ClientTls, server: &ServerTls) -> (Duration, Duration, Session, Session) {
    let (mut to_server, mut to_client) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
    let mut plain = Vec::new();
    let mut busy = [Duration::ZERO; 2];

    let began = Instant::now();
    let mut a = client.connect("site", "mx.test", true).unwrap();
    a.start(&mut to_server);
    busy[0] += began.elapsed();

    let began = Instant::now();
    let mut b = server.accept().unwrap();
    busy[1] += began.elapsed();
    while !to_server.is_empty() || !to_client.is_empty() {
        let began = Instant::now();
        b.receive(&mut to_server, &mut plain, &mut to_client)
            .unwrap();
        busy[1] += began.elapsed();
        to_server.clear();

        let began = Instant::now();
        a.receive(&mut to_client, &mut plain, &mut to_server)
            .unwrap();
        busy[0] += began.elapsed();
        to_client.clear();
    }
    (busy[0], busy[1], a, b)
}

fn handshakes(c: &mut Criterion) {
    let keys = keys();
    let server = ServerTls::new(&keys, Versions::default()).unwrap();
    let mut group = c.benchmark_group("handshake");
    group.throughput(Throughput::Elements(1));
    for versions in [Versions::Tls13Only, Versions::Tls12Only] {
        for resumed in [false, true] {
            for side in ["client", "server"] {
                let kind = if resumed { "resumed" } else { "full" };
                let name = BenchmarkId::new(format!("{versions:?} {kind}"), side);
                group.bench_function(name, |bench| {
                    let mut client = ClientTls::new(versions).unwrap();
                    handshake(&client, &server);
                    bench.iter_custom(|rounds| {
                        let mut busy = Duration::ZERO;
                        for _ in 0..rounds {
                            if !resumed {
                                client = ClientTls::new(versions).unwrap();
                            }
                            let (at_client, at_server, session, _) = handshake(&client, &server);
                            assert_eq!(session.summary().unwrap().resumed, resumed);
                            busy += if side == "client" {
                                at_client
                            } else {
                                at_server
                            };
                        }
                        busy
                    });
                });
            }
        }
    }
    group.finish();
}

/// `bytes` of text that starts `offset` bytes into a page; and how to slice it.
fn text(bytes: usize, offset: usize) -> (Vec<u8>, usize) {
    let buffer = vec![b'x'; bytes + 2 * PAGE_BYTES];
    let start = buffer.as_ptr().align_offset(PAGE_BYTES) + offset;
    (buffer, start)
}

fn records(c: &mut Criterion) {
    let server = ServerTls::new(&keys(), Versions::default()).unwrap();
    let mut group = c.benchmark_group("record");
    for versions in [Versions::Tls13Only, Versions::Tls12Only] {
        let client = ClientTls::new(versions).unwrap();
        for bytes in [200, 10_000, RECORD_PLAIN_BYTES_MAX, 64 * 1024] {
            let (_, _, mut sender, _) = handshake(&client, &server);
            group.throughput(Throughput::Bytes(bytes as u64));
            for offset in [0, PLAIN_OFFSET_BYTES] {
                let (buffer, start) = text(bytes, offset);
                let mut out = Vec::with_capacity(bytes + 4096);
                let name = format!("{versions:?} encrypt, text at +{offset}");
                group.bench_function(BenchmarkId::new(name, bytes), |bench| {
                    bench.iter(|| {
                        out.clear();
                        let plain = black_box(&buffer[start..start + bytes]);
                        sender.encrypt(plain, &mut out).unwrap();
                    });
                });
            }
            // Not with the sender above: its records were never sent.
            let (_, _, mut sender, mut receiver) = handshake(&client, &server);
            let mut plain = Vec::with_capacity(bytes);
            let mut nothing = Vec::new();
            let name = format!("{versions:?} decrypt");
            group.bench_function(BenchmarkId::new(name, bytes), |bench| {
                let text = vec![b'x'; bytes];
                bench.iter_batched_ref(
                    || {
                        let mut cipher = Vec::new();
                        sender.encrypt(&text, &mut cipher).unwrap();
                        cipher
                    },
                    |cipher| {
                        plain.clear();
                        receiver.receive(cipher, &mut plain, &mut nothing).unwrap();
                        assert_eq!(plain.len(), bytes);
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

fn verdicts(c: &mut Criterion) {
    let server = ServerTls::new(&keys(), Versions::default()).unwrap();
    let client = ClientTls::new(Versions::default()).unwrap();
    let (_, _, session, _) = handshake(&client, &server);
    let chain = session.peer_certificates();
    let mut trusted = TrustAnchors::none();
    trusted.add(&chain[0], NOW);
    let judge = Judge::new(Arc::new(trusted));
    let mut group = c.benchmark_group("verdict");
    group.throughput(Throughput::Elements(1));
    group.bench_function("remembered", |bench| {
        bench.iter(|| {
            let verdict = judge.judge(black_box(chain), "mx.test", NOW);
            assert_eq!(verdict, CertificateVerdict::Verified);
        });
    });
    group.finish();
}

criterion_group! {
    name = tls;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = handshakes, records, verdicts
}
criterion_main!(tls);
