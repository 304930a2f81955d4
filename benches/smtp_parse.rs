//! Commands, addresses and replies: what parsing costs.
//!
//! One iteration is one line, or one reply. Nothing here waits for anything, so a floor is what it costs to look
//! at each octet once and to allocate what is kept: a mailbox, or a line of a reply. It was not measured.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! DATA 26 ns, EHLO 33, MAIL 121, RCPT 197, with parameters 207 and 356, a mailbox 120-260, a reply of one line 97, of EHLO 587.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::smtp::reply::ReplyParser;
use ringpost::smtp::{address, command};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMMANDS: [(&str, &str); 8] = [
    ("EHLO", "EHLO mail.example.net"),
    ("MAIL", "MAIL FROM:<sender@example.net>"),
    (
        "MAIL with parameters",
        "MAIL FROM:<sender@example.net> SIZE=10240 BODY=8BITMIME RET=HDRS ENVID=QQ314159",
    ),
    ("RCPT", "RCPT TO:<recipient@example.com>"),
    (
        "RCPT with parameters",
        "RCPT TO:<recipient@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;recipient@example.com",
    ),
    ("DATA", "DATA"),
    ("BDAT", "BDAT 10240 LAST"),
    ("unknown", "GREETINGS to all of you"),
];

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for (name, line) in COMMANDS {
        group.throughput(Throughput::Bytes(line.len() as u64));
        assert_eq!(command::parse(line.as_bytes()).is_err(), name == "unknown");
        group.bench_function(name, |bench| {
            bench.iter(|| drop(black_box(command::parse(black_box(line.as_bytes())))));
        });
    }
    group.finish();
}

const PATHS: [(&str, &str); 5] = [
    ("dot-string", "<sender@example.net>"),
    ("quoted", "<\"a sender\\\" of mail\"@example.net>"),
    ("literal", "<sender@[IPv6:2001:db8::25]>"),
    ("utf8", "<sénder@exämple.net>"),
    ("source route", "<@a.example,@b.example:sender@example.net>"),
];

fn addresses(c: &mut Criterion) {
    let mut group = c.benchmark_group("address");
    for (name, path) in PATHS {
        group.throughput(Throughput::Bytes(path.len() as u64));
        assert!(address::forward_path(path).is_ok(), "{path}");
        group.bench_function(name, |bench| {
            bench.iter(|| drop(black_box(address::forward_path(black_box(path)))));
        });
    }
    group.finish();
}

const REPLIES: [(&str, &str, u64); 3] = [
    ("one line", "250 2.1.5 Ok\r\n", 1),
    (
        "EHLO",
        "250-mx.example.com greets you\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250-DSN\r\n250 SMTPUTF8\r\n",
        1,
    ),
    (
        "transaction",
        "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n\
         250 2.0.0 Ok: queued as 2F-3-DEADBEEF\r\n",
        4,
    ),
];

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("reply");
    for (name, text, count) in REPLIES {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut parser = ReplyParser::new();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut rest = black_box(text.as_bytes());
                let mut found = 0;
                while !rest.is_empty() {
                    let (consumed, reply) = parser.feed(rest);
                    rest = &rest[consumed..];
                    found += u64::from(black_box(reply).is_ok_and(|reply| reply.is_some()));
                }
                assert_eq!(found, count);
            });
        });
    }
    group.finish();
}

criterion_group!(parse, commands, addresses, replies);
criterion_main!(parse);
