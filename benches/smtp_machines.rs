//! Both SMTP machines: a transaction of one 10 KB message from MAIL to the final 250, without socket, TLS and disk.
//! What the server is fed ends in a body, so its figures include those of `smtp_data`.
//!
//! Last measured: 2-core Zen 4 VM (AMD EPYC, x86-64), Linux 6.18, November 2026, release build, `cargo bench -- --quick`:
//! the server 2.3 us in lock-step, 3.0 pipelined or by BDAT, 0.30 for a session without mail; the client 0.54-0.69 us for one
//! recipient, 11-15 us for a hundred.

mod common;

use common::{LINE_BYTES, content, envelope};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::{Mailbox, MessageId};
use ringpost::smtp::client::{Client, ClientSettings, ClientStep, TlsWish, Transaction};
use ringpost::smtp::data::to_wire_form;
use ringpost::smtp::server::{
    Claim, PeerInfo, Policy, Refusal, Rejection, Server, Settings, Spending, Step,
};
use ringpost::time::WallTime;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::rc::Rc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ID: MessageId = MessageId {
    run: 47,
    core: 3,
    sequence: 0xdead_beef,
};
const NOW: WallTime = WallTime(1_780_000_000_000);
const BYTES: usize = 10_000;

struct Everything;

impl Policy for Everything {
    fn recipient(&self, _: bool, _: &Mailbox) -> Result<(), Refusal> {
        Ok(())
    }

    fn postmaster(&self) -> Option<Mailbox> {
        None
    }

    fn admit(&self, _: &PeerInfo, _: Option<u64>) -> Result<(), Refusal> {
        Ok(())
    }

    fn share(&self, _: &PeerInfo, _: Claim<'_>, _: u64) -> Result<(), Refusal> {
        Ok(())
    }

    fn lists_starttls(&self, _peer: &PeerInfo, _hello: &str) -> bool {
        true
    }

    fn spend(&self, _peer: &PeerInfo, _what: Spending) -> Result<(), Refusal> {
        Ok(())
    }

    fn rejected(&self, _rejection: &Rejection<'_>) {}
}

/// The receiving machine, and a driver that has a disk of no cost.
struct Receiver {
    server: Server,
    body: Vec<u8>,
    out: Vec<u8>,
    messages: u64,
}

impl Receiver {
    fn new() -> Self {
        let peer = PeerInfo {
            address: Ipv4Addr::new(192, 0, 2, 7).into(),
            trusted: true,
            tls: None,
        };
        let settings = Rc::new(Settings::new("mx.example.com"));
        let mut receiver = Receiver {
            server: Server::new(settings, peer),
            body: Vec::with_capacity(2 * BYTES),
            out: Vec::with_capacity(4096),
            messages: 0,
        };
        receiver.server.greet(&mut receiver.out);
        receiver.receive(b"EHLO client.example.net\r\n");
        receiver
    }

    /// One flight: ends when the machine wants to answer.
    fn receive(&mut self, mut input: &[u8]) {
        self.out.clear();
        loop {
            let (body, out) = (&mut self.body, &mut self.out);
            let (consumed, step) = self.server.handle(input, &Everything, body, out);
            input = &input[consumed..];
            match step {
                Step::NeedInput => return,
                Step::BeginBody => {
                    body.clear();
                    self.server.trace(ID, NOW, body);
                }
                Step::EndOfData(envelope) => {
                    drop(black_box(envelope));
                    self.server.committed(ID, out);
                    self.messages += 1;
                }
                other => panic!("{other:?}: {}", String::from_utf8_lossy(out)),
            }
        }
    }
}

/// What a client sends for one message, flight by flight.
fn flights(by: &str) -> Vec<Vec<u8>> {
    const MAIL: &str = "MAIL FROM:<sender@example.net> SIZE=10240\r\n";
    const RCPT: &str = "RCPT TO:<recipient@example.com>\r\n";
    let content = content(BYTES, LINE_BYTES, false);
    let data = to_wire_form(&content);
    let text = |text: &str| text.as_bytes().to_vec();
    match by {
        "lock-step" => vec![text(MAIL), text(RCPT), text("DATA\r\n"), data],
        "pipelined" => vec![text(&format!("{MAIL}{RCPT}DATA\r\n")), data],
        _ => {
            let commands = format!("{MAIL}{RCPT}BDAT {} LAST\r\n", content.len());
            vec![[commands.as_bytes(), &content].concat()]
        }
    }
}

fn server(c: &mut Criterion) {
    let mut group = c.benchmark_group("server");
    group.throughput(Throughput::Elements(1));
    for by in ["lock-step", "pipelined", "BDAT"] {
        let flights = flights(by);
        group.bench_function(by, |bench| {
            let mut receiver = Receiver::new();
            let mut sent = 0;
            bench.iter(|| {
                for flight in &flights {
                    receiver.receive(black_box(flight));
                }
                sent += 1;
            });
            assert_eq!(receiver.messages, sent);
        });
    }
    group.bench_function("a session without mail", |bench| {
        bench.iter(|| black_box(Receiver::new()).out.len());
    });
    group.finish();
}

/// The sending machine with a session that stands.
fn sender(keywords: &str) -> Client {
    let settings = ClientSettings {
        hostname: "mx.example.com".to_owned(),
        starttls: TlsWish::Never,
        detect_loop: true,
    };
    let mut client = Client::new(Rc::new(settings));
    let mut out = Vec::new();
    let offers = format!("220 hop.test ESMTP\r\n250-hop.test\r\n{keywords}250 8BITMIME\r\n");
    let (_, step) = client.handle(offers.as_bytes(), &mut out);
    assert_eq!(step, ClientStep::Ready);
    client
}

/// One transaction; `replies` are those before the content, flight by flight.
fn send(
    client: &mut Client,
    transaction: &Transaction<'_>,
    replies: &[Vec<u8>],
    out: &mut Vec<u8>,
) -> usize {
    client.begin(transaction, out).expect("nothing special");
    let mut last = ClientStep::NeedInput;
    for reply in replies {
        assert_eq!(last, ClientStep::NeedInput);
        out.clear();
        last = client.handle(black_box(reply), out).1;
    }
    assert_eq!(last, ClientStep::SendBody);
    client.body_sent();
    let accepted = b"250 2.0.0 Ok: queued as 2F-3-DEADBEEF\r\n";
    match client.handle(accepted, out) {
        (_, ClientStep::Done(result)) => black_box(result).verdicts.len(),
        (_, other) => panic!("{other:?}"),
    }
}

fn client(c: &mut Criterion) {
    const GO_AHEAD: &[u8] = b"354 End data with <CR><LF>.<CR><LF>\r\n";
    let mut group = c.benchmark_group("client");
    for (by, keywords) in [("lock-step", ""), ("pipelined", "250-PIPELINING\r\n")] {
        for recipients in [1, 100] {
            let envelope = envelope(recipients);
            let indexes: Vec<u32> = (0..recipients as u32).collect();
            let transaction = Transaction {
                envelope: &envelope,
                recipients: &indexes,
                body_bytes: BYTES as u64,
                uncounted_bytes: 0,
                body_is_8bit: false,
            };
            let mut replies = vec![b"250 2.1.0 Ok\r\n".to_vec()];
            replies.extend(indexes.iter().map(|_| b"250 2.1.5 Ok\r\n".to_vec()));
            replies.push(GO_AHEAD.to_vec());
            if by == "pipelined" {
                replies = vec![replies.concat()];
            }
            group.throughput(Throughput::Elements(recipients as u64));
            group.bench_function(format!("{by}, recipients: {recipients}"), |bench| {
                let mut client = sender(keywords);
                let mut out = Vec::with_capacity(16 * 1024);
                bench.iter(|| {
                    let verdicts = send(&mut client, &transaction, &replies, &mut out);
                    assert_eq!(verdicts, recipients);
                });
            });
        }
    }
    group.finish();
}

criterion_group!(machines, server, client);
criterion_main!(machines);
