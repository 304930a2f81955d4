//! Message content on its way in: found whole, checked, copied.
//!
//! Floor: a copy of 10 KB is 0.25 us, and one pass of 16-octet comparisons 0.5 us.
//!
//! Last measured: 2-core VM (Intel Xeon with AVX2, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`,
//! 10 KB, whole / in segments of 1,448 octets: lines of 72 octets 0.76 / 1.03 us, of 30 0.79 / 1.08, of 998 0.77 / 1.03, a dot on
//! each line 2.4 / 1.6.

mod common;

use common::{LINE_BYTES, content};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::smtp::data::{BareLineEnds, Progress, Rules, Scanner, to_wire_form};
use std::hint::black_box;

const RULES: Rules = Rules {
    bare_line_ends: BareLineEnds::Refuse,
    message_bytes_max: 50 << 20,
    line_bytes_max: 1 << 20,
    hops_max: 100,
};

const BYTES: usize = 10_000;
/// What one segment of a network with an MTU of 1,500 carries.
const SEGMENT_BYTES: usize = 1_448;

/// Scans all of `input` in pieces of so many octets into `body`.
fn scan(mut scanner: Scanner, input: &[u8], piece_bytes: usize, body: &mut Vec<u8>) -> Progress {
    body.clear();
    let mut last = Progress::More;
    for piece in input.chunks(piece_bytes) {
        last = scanner.feed(piece, body).1;
    }
    if last == Progress::More {
        scanner.finish_chunks(body).expect("whole lines");
    }
    last
}

fn texts() -> [(&'static str, Vec<u8>); 4] {
    [
        ("lines of 72", content(BYTES, LINE_BYTES, false)),
        ("lines of 30", content(BYTES, 30, false)),
        ("lines of 998", content(BYTES, 998, false)),
        ("a dot on each line", content(BYTES, LINE_BYTES, true)),
    ]
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("DATA");
    for (name, text) in texts() {
        let input = to_wire_form(&text);
        let mut body = Vec::with_capacity(2 * BYTES);
        group.throughput(Throughput::Bytes(input.len() as u64));
        for piece_bytes in [input.len(), SEGMENT_BYTES] {
            group.bench_function(BenchmarkId::new(name, piece_bytes), |bench| {
                bench.iter(|| {
                    let scanner = Scanner::for_data(RULES);
                    let last = scan(scanner, black_box(&input), piece_bytes, &mut body);
                    assert_eq!(last, Progress::End);
                });
            });
        }
    }
    group.finish();
}

fn bdat(c: &mut Criterion) {
    let mut group = c.benchmark_group("BDAT");
    for (name, input) in texts() {
        let mut body = Vec::with_capacity(2 * BYTES);
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let scanner = Scanner::for_chunks(RULES);
                let last = scan(scanner, black_box(&input), input.len(), &mut body);
                assert_eq!(last, Progress::More);
            });
        });
    }
    group.finish();
}

/// Data that was refused is read to its end all the same.
fn swallowed(c: &mut Criterion) {
    let input = to_wire_form(&content(BYTES, LINE_BYTES, false));
    let mut group = c.benchmark_group("refused");
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("lines of 72", |bench| {
        bench.iter(|| {
            let mut swallower = Scanner::for_data(RULES).into_swallower();
            let (consumed, _) = swallower.feed(black_box(&input));
            assert_eq!(consumed, input.len());
        });
    });
    group.finish();
}

/// The least that must be done with content that is kept.
fn copy(c: &mut Criterion) {
    let input = to_wire_form(&content(BYTES, LINE_BYTES, false));
    let mut body = Vec::with_capacity(2 * BYTES);
    let mut group = c.benchmark_group("floor");
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("copied", |bench| {
        bench.iter(|| {
            body.clear();
            body.extend_from_slice(black_box(&input));
            black_box(&body);
        });
    });
    group.finish();
}

criterion_group!(benches, data, bdat, swallowed, copy);
criterion_main!(benches);
