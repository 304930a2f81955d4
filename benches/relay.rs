//! A message from its sender to its next hop, all in one process: the relay with its engine, a source and a sink on
//! loopback, TLS on both sides. The 10 KB message is durable before its 250.
//!
//! Connections in are kept for many messages, or made for each. One iteration is one message that the sink has taken.
//! Figures called CPU are those of the relay's own threads.
//!
//! Floor, measured with bare tokio-uring and rustls in lock-step on one core of a 2-core Zen 4 VM, without a spool: 34.5
//! us of CPU a message over connections that are kept; 451 with a connection in and a connection out for each.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`,
//! CPU a message: 144 us over kept connections (few messages each, so handshakes and wake-ups weigh), 558 us with a connection each.

mod common;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../tests/support/link.rs"]
mod link;

use common::{CpuTime, LINE_BYTES, content};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use link::Link;
use ringpost::config::{Command, Config};
use ringpost::engine::Relay;
use ringpost::smtp::data::to_wire_form;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The longest wait for an answer of anybody.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections of the source at once.
const CONNECTIONS: u64 = 8;
/// How the threads of the relay's cores are called.
const CORE_THREADS: &str = "ringpost-";

/// Takes everything and tells of every message.
fn sink() -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let address = listener.local_addr().expect("a bound socket");
    let (taken, messages) = channel();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let taken = taken.clone();
            // A relay may close as it likes.
            thread::spawn(move || drop(Link::new(socket).and_then(|link| take(link, &taken))));
        }
    });
    (address, messages)
}

fn take(mut link: Link, taken: &Sender<()>) -> io::Result<()> {
    link.send(b"220 hop.test ESMTP\r\n")?;
    while let Some(line) = link.line()? {
        match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" if link.is_tls() => link.send(b"250-hop.test\r\n250 PIPELINING\r\n")?,
            "EHLO" => link.send(b"250-hop.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n")?,
            "STARTTLS" => {
                link.send(b"220 Go ahead\r\n")?;
                link.start_tls_as_server()?;
            }
            "DATA" => {
                link.send(b"354 Go on\r\n")?;
                link.until(b"\r\n.\r\n")?;
                link.send(b"250 Taken\r\n")?;
                let _ = taken.send(());
            }
            "QUIT" => return link.send(b"221 Bye\r\n"),
            _ => link.send(b"250 Ok\r\n")?,
        }
    }
    Ok(())
}

/// Sends so many messages over one connection.
fn source(relay: SocketAddr, messages: u64, body: &[u8]) -> io::Result<()> {
    let mut link = Link::connect(relay)?;
    expect(&mut link, "220")?;
    link.send(b"EHLO client.test\r\n")?;
    expect(&mut link, "250")?;
    link.send(b"STARTTLS\r\n")?;
    expect(&mut link, "220")?;
    link.start_tls_as_client(b"")?;
    link.send(b"EHLO client.test\r\n")?;
    expect(&mut link, "250")?;
    for _ in 0..messages {
        link.send(b"MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\nDATA\r\n")?;
        for code in ["250", "250", "354"] {
            expect(&mut link, code)?;
        }
        link.send(body)?;
        expect(&mut link, "250")?;
    }
    link.send(b"QUIT\r\n")?;
    expect(&mut link, "221")
}

fn expect(link: &mut Link, code: &str) -> io::Result<()> {
    while let Some(line) = link.line()? {
        if !line.starts_with(code) {
            return Err(io::Error::other(line));
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(());
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn start_relay(home: &TempDir, sink: SocketAddr) -> Relay {
    let path = |name: &str| home.path().join(name).display().to_string();
    let flags = [
        ("--listen", "127.0.0.1:0"),
        ("--hostname", "relay.test"),
        ("--relay-from", "127.0.0.0/8"),
        ("--segment-size", "16MiB"),
        ("--route", &format!("*=[{}]:{}", sink.ip(), sink.port())),
        ("--spool", &path("spool")),
        ("--tls-dir", &path("tls")),
        ("--log-file", &path("log")),
    ];
    let arguments = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
    let arguments = std::iter::once("ringpost").chain(arguments).map(Into::into);
    match Config::from_args(arguments) {
        Ok(Command::Run(config)) => Relay::start(*config).expect("the relay starts"),
        _ => panic!("flags that do not ask for a relay"),
    }
}

/// What the source sends, and where.
struct Mail {
    relay: SocketAddr,
    body: Vec<u8>,
}

impl Mail {
    fn send(&self, messages: u64, per_connection: u64) {
        let mut left = messages;
        while left > 0 {
            let now = left.min(per_connection);
            source(self.relay, now, &self.body).expect("the relay takes it");
            left -= now;
        }
    }

    /// How long it takes until all are taken.
    fn relay(&self, messages: u64, per_connection: u64, taken: &Receiver<()>) -> Duration {
        let began = Instant::now();
        thread::scope(|scope| {
            for number in 0..CONNECTIONS.min(messages) {
                let share = messages / CONNECTIONS + u64::from(number < messages % CONNECTIONS);
                scope.spawn(move || self.send(share, per_connection));
            }
            for _ in 0..messages {
                taken.recv_timeout(PATIENCE).expect("one more message");
            }
        });
        began.elapsed()
    }
}

fn messages(c: &mut Criterion) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (sink, taken) = sink();
    let relay = start_relay(&home, sink);
    let mail = Mail {
        relay: relay.listening()[0].address,
        body: to_wire_form(&content(10_000, LINE_BYTES, false)),
    };
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Elements(1));
    for (name, per_connection) in [("kept connections", 1_000), ("a connection each", 1)] {
        group.bench_function(name, |b| {
            b.iter_custom(|messages| mail.relay(messages, per_connection, &taken));
        });
        group.bench_function(format!("{name}, CPU"), |b| {
            b.iter_custom(|messages| {
                let before = CpuTime::of_threads(CORE_THREADS);
                mail.relay(messages, per_connection, &taken);
                before.until(&CpuTime::of_threads(CORE_THREADS))
            });
        });
    }
    group.finish();
    assert!(relay.stop(), "the relay drains");
}

criterion_group! {
    name = relay;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    targets = messages
}
criterion_main!(relay);
