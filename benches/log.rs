//! What a log line costs the core that makes it.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! 0.26 us a line in text, 0.25 in JSON, 3 ns for one that nobody wants.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::log::event::Event;
use ringpost::log::{Chunk, Log, event};
use ringpost::log::{LogFormat, LogLevel};
use ringpost::message::{
    CertificateVerdict, Envelope, Mailbox, MessageId, Recipient, SessionId, TlsSummary,
};
use ringpost::smtp::header;
use ringpost::time::WallTime;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

const DEBUG: &Event = &Event::with_any_fields("debug");

const TLS: TlsSummary = TlsSummary {
    version: "TLSv1.3",
    cipher: "TLS_AES_128_GCM_SHA256",
    key_exchange: "X25519",
    resumed: false,
    verdict: CertificateVerdict::Verified,
};

/// As a mail has it that came through two relays.
const HEADER: &str = "Received: from a.example.net (a.example.net [192.0.2.7])
\tby b.example.net with ESMTPS id 4Xyz1234567890
\t(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384);
\tSun, 29 Nov 2026 20:14:02 +0000
Received: from [10.0.0.5] (unknown [10.0.0.5])
\tby a.example.net with ESMTPSA id 7Abc1234567890
\tfor <somebody@example.com>; Sun, 29 Nov 2026 20:14:01 +0000
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net;
\ts=2026; t=1796000000; h=from:from:reply-to:subject:subject:date:date:
\t message-id:message-id:to:to:cc:mime-version:mime-version:content-type;
\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;
\tb=Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFy
\t Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFy
From: Sender <sender@example.net>
To: Somebody <somebody@example.com>
Date: Sun, 29 Nov 2026 20:14:00 +0000
Subject: the figures that you asked for
MIME-Version: 1.0
Message-ID: <0123456789abcdef0123456789abcdef@example.net>
Content-Type: text/plain; charset=utf-8

";

fn line_per_delivery(criterion: &mut Criterion) {
    let relay: SocketAddr = "192.0.2.1:25".parse().expect("an address");
    let to = Mailbox::new("somebody", "example.com");
    let id = MessageId {
        run: 7,
        core: 3,
        sequence: 123_456,
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
                .tls(Some(&TLS))
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

/// The line of the message path, and the search for its Message-ID.
fn line_per_message(criterion: &mut Criterion) {
    let envelope = Envelope {
        reverse_path: Some(Mailbox::new("sender", "example.net")),
        recipients: vec![Recipient::new(Mailbox::new("somebody", "example.com"))],
        ..Envelope::default()
    };
    let many = vec![Recipient::new(Mailbox::new("somebody", "example.com")); 100];
    let id = MessageId {
        run: 7,
        core: 3,
        sequence: 123_456,
    };
    let session = SessionId {
        run: 7,
        core: 3,
        number: 123,
    };
    let content = HEADER.replace('\n', "\r\n");
    let client: IpAddr = "192.0.2.1".parse().expect("an address");
    let mut group = criterion.benchmark_group("log/accepted");
    group.throughput(Throughput::Elements(1));
    for (name, recipients) in [("one", &envelope.recipients), ("hundred", &many)] {
        let log = Log::new(LogFormat::Json, LogLevel::Info, Box::new(Chunk::written));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                log.line(LogLevel::Info, event::ACCEPTED, black_box(WallTime(7)))
                    .field("id", black_box(id))
                    .field("session", black_box(session))
                    .field("from", envelope.from_field())
                    .recipients(black_box(recipients))
                    .field(
                        "message_id",
                        header::message_id(black_box(content.as_bytes())),
                    )
                    .field("bytes", 10_240_u64)
                    .field("client", client)
                    .tls(Some(&TLS));
            });
        });
    }
    let log = Log::new(LogFormat::Json, LogLevel::Info, Box::new(Chunk::written));
    group.bench_function("without what finds it", |bencher| {
        bencher.iter(|| {
            log.line(LogLevel::Info, event::ACCEPTED, black_box(WallTime(7)))
                .field("id", black_box(id))
                .field("from", envelope.from_field())
                .field("recipients", 1_u64)
                .field("to", black_box(&envelope.recipients[0].forward_path))
                .field("bytes", 10_240_u64)
                .field("client", client)
                .tls(Some(&TLS));
        });
    });
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

criterion_group!(
    benches,
    line_per_delivery,
    line_per_message,
    line_that_is_not_wanted
);
criterion_main!(benches);
