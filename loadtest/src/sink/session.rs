//! One SMTP conversation of the sink (RFC 5321, with PIPELINING, SIZE, 8BITMIME, STARTTLS), with the
//! faults that were asked for. Not here: what a message means (`message`, `ledger`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::net::TcpStream;

use crate::host::random::Random;
use crate::ledger::delivery::Delivery;
use crate::mail::address;
use crate::mail::message::DataReader;
use crate::options::sink::SinkTls;
use crate::sink::hosts::HostNumber;
use crate::sink::shared::{Behaviour, Shared};
use crate::wire::Wire;

const READ_BYTES: usize = 32 << 10;
/// A longer command line ends the connection.
const COMMAND_BYTES_MAX: usize = 4096;
// What waits is at most such a line, so there is always room to read.
const _: () = assert!(COMMAND_BYTES_MAX < READ_BYTES);
const RECIPIENTS_MAX: usize = 10_000;
/// A host that reads slowly does so in this many pieces a second.
const SLOW_READS_PER_SECOND: u64 = 10;
/// The TLS alert of that name, fatal, in a record of its own (RFC 8446 sections 5.1 and 6.2).
const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];

pub struct Session {
    shared: Arc<Shared>,
    host: Option<HostNumber>,
    behaviour: Behaviour,
    thread: usize,
    wire: Wire,
    input: Input,
    out: Vec<u8>,
    transaction: Transaction,
    /// The last MAIL was.
    mail_refused: bool,
    body: Body,
    random: Random,
}

/// Bytes read and not yet consumed: `bytes[from..filled]`.
struct Input {
    bytes: Vec<u8>,
    from: usize,
    filled: usize,
}

#[derive(Default)]
struct Transaction {
    open: bool,
    /// Empty: that of a report.
    reverse_path: String,
    recipients: Vec<String>,
    /// What came in earlier BDAT chunks.
    chunks: Option<DataReader>,
    fault: Option<Fault>,
}

/// What the input is, other than commands.
enum Body {
    None,
    /// After 354.
    Data(DataReader),
    /// A BDAT chunk with `left` bytes to come.
    Chunk {
        reader: DataReader,
        left: u64,
        is_last: bool,
    },
    /// A chunk that was refused.
    Refused {
        left: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Mail,
    Rcpt,
    EndOfData,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Temporary(Stage),
    Permanent(Stage),
    /// Hangs up: at a command, or within the content.
    Drop(Stage),
    DropBeforeReply,
}

/// What is to be done once the input is used up.
#[derive(PartialEq, Eq)]
enum Next {
    Read,
    StartTls,
    /// Say what is in `out`, then close.
    Close,
    /// Close without another word.
    Drop,
}

impl Transaction {
    fn is_report(&self) -> bool {
        self.reverse_path.is_empty()
    }
}

impl Session {
    /// `host`: which of the sink's hosts the client came to.
    pub fn new(
        shared: Arc<Shared>,
        thread: usize,
        number: u64,
        stream: TcpStream,
        host: Option<HostNumber>,
    ) -> Self {
        Self {
            behaviour: shared.behaviour(host),
            host,
            random: Random::stream(shared.seed, number),
            shared,
            thread,
            wire: Wire::Plain(stream),
            input: Input {
                bytes: vec![0; READ_BYTES],
                from: 0,
                filled: 0,
            },
            out: Vec::new(),
            transaction: Transaction::default(),
            mail_refused: false,
            body: Body::None,
        }
    }

    /// One connection too many.
    pub async fn refuse(mut self) {
        let _ = self
            .wire
            .write(b"421 4.7.0 sink.test too many connections\r\n")
            .await;
        let _ = self.wire.shutdown().await;
    }

    pub async fn run(mut self) -> io::Result<()> {
        let drawn = self.random.share();
        let Behaviour {
            fault_connect,
            fault_421,
            ..
        } = self.behaviour;
        if drawn < fault_connect {
            count(&self.shared.counters.faults_connect);
            return Ok(());
        }
        if drawn < fault_connect + fault_421 {
            count(&self.shared.counters.faults_421);
            self.refuse().await;
            return Ok(());
        }
        if self.shared.options.sink_implicit_tls {
            self.handshake().await?;
        }
        self.out.extend_from_slice(b"220 sink.test ESMTP\r\n");
        self.flush().await?;
        loop {
            if !self.fill().await? {
                return Ok(());
            }
            match self.process() {
                Next::Read => self.flush().await?,
                Next::StartTls => self.start_tls().await?,
                Next::Close => {
                    self.flush().await?;
                    return self.wire.shutdown().await;
                }
                Next::Drop => return Ok(()),
            }
        }
    }

    /// Reads once, no faster than this host does; false at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        let rate = self.behaviour.read_rate;
        if rate == 0 {
            return Ok(self.input.fill(&mut self.wire, READ_BYTES).await? > 0);
        }
        let most = usize::try_from(rate / SLOW_READS_PER_SECOND).unwrap_or(READ_BYTES);
        let read = self.input.fill(&mut self.wire, most.max(1)).await?;
        tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
        Ok(read > 0)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if !self.behaviour.latency.is_zero() {
            tokio::time::sleep(self.behaviour.latency).await;
        }
        self.wire.write(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn handshake(&mut self) -> io::Result<()> {
        if !self.behaviour.tls_latency.is_zero() {
            tokio::time::sleep(self.behaviour.tls_latency).await;
        }
        let counters = &self.shared.counters;
        let result = self.wire.accept_tls(self.shared.tls.clone()).await;
        count(match result {
            Ok(HandshakeKind::Resumed) => &counters.handshakes_resumed,
            Ok(_) => &counters.handshakes_full,
            Err(_) => &counters.handshakes_failed,
        });
        result.map(|_| ())
    }

    /// After STARTTLS. What was sent before the handshake is thrown away (RFC 3207 section 4.2).
    async fn start_tls(&mut self) -> io::Result<()> {
        self.input.clear();
        self.flush().await?;
        match self.behaviour.tls {
            SinkTls::Good | SinkTls::None | SinkTls::Refuse => {}
            SinkTls::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
            SinkTls::Stall => return self.swallow().await,
            SinkTls::Garbage => {
                let garbage = b"250 this is no TLS record, and never will be\r\n";
                return self.answer_client_hello(garbage).await;
            }
            SinkTls::Alert => return self.answer_client_hello(&HANDSHAKE_FAILURE).await,
        }
        self.transaction = Transaction::default();
        self.handshake().await
    }

    /// Only once the ClientHello is there: earlier bytes would be thrown away as text.
    async fn answer_client_hello(&mut self, answer: &[u8]) -> io::Result<()> {
        self.wire.read(&mut [0; 1024]).await?;
        self.wire.write(answer).await?;
        self.swallow().await
    }

    /// Reads without answering until the peer gives up.
    async fn swallow(&mut self) -> io::Result<()> {
        let mut scratch = [0; 1024];
        while self.wire.read(&mut scratch).await? > 0 {}
        count(&self.shared.counters.handshakes_failed);
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// Uses up what was read; replies are gathered in `out`.
    fn process(&mut self) -> Next {
        loop {
            let next = match std::mem::replace(&mut self.body, Body::None) {
                Body::None => self.process_command(),
                Body::Data(reader) => self.process_data(reader),
                Body::Chunk {
                    reader,
                    left,
                    is_last,
                } => self.process_chunk(reader, left, is_last),
                Body::Refused { left } => self.process_refused(left),
            };
            match next {
                Some(Next::Read) => {}
                Some(other) => return other,
                None => return Next::Read,
            }
        }
    }

    /// `None`: more input is needed.
    fn process_data(&mut self, mut reader: DataReader) -> Option<Next> {
        if let Some(next) = self.broken_off(Stage::EndOfData) {
            return Some(next);
        }
        let (consumed, ended) = reader.consume(self.input.waiting());
        self.input.from += consumed;
        if ended {
            return Some(self.end_of_data(reader));
        }
        self.body = Body::Data(reader);
        None
    }

    /// `None`: more input is needed.
    fn process_chunk(&mut self, mut reader: DataReader, left: u64, is_last: bool) -> Option<Next> {
        if let Some(next) = self.broken_off(Stage::EndOfData) {
            return Some(next);
        }
        let part = self.input.at_most(left);
        reader.take(part);
        let left = left - part.len() as u64;
        self.input.from += part.len();
        if left > 0 {
            self.body = Body::Chunk {
                reader,
                left,
                is_last,
            };
            return None;
        }
        if is_last {
            return Some(self.end_of_data(reader));
        }
        self.transaction.chunks = Some(reader);
        Some(self.say("250 2.0.0 go on"))
    }

    /// `None`: more input is needed.
    fn process_refused(&mut self, left: u64) -> Option<Next> {
        let part = self.input.at_most(left).len();
        self.input.from += part;
        let left = left - part as u64;
        if left > 0 {
            self.body = Body::Refused { left };
            return None;
        }
        Some(self.without_transaction())
    }

    fn end_of_data(&mut self, reader: DataReader) -> Next {
        let transaction = std::mem::take(&mut self.transaction);
        match transaction.fault {
            Some(Fault::DropBeforeReply) => {
                count(&self.shared.counters.faults_dropped);
                return Next::Drop;
            }
            Some(Fault::Temporary(Stage::EndOfData)) => {
                return self.refuse_for_now("451 4.3.0 not now");
            }
            Some(Fault::Permanent(Stage::EndOfData)) => {
                let recipients = Some(&transaction.recipients[..]);
                let shared = self.shared.clone();
                shared.refuse_for_good(&transaction.reverse_path, recipients);
                return self.refuse_for_good("554 5.6.0 not like this");
            }
            _ => {}
        }
        self.shared.deliver(
            self.thread,
            self.host,
            &Delivery {
                is_bounce: transaction.is_report(),
                recipients: &transaction.recipients,
                found: &reader.finish(),
                tls: self.wire.is_tls(),
            },
        );
        self.say("250 2.0.0 taken")
    }

    /// `None`: more input is needed.
    fn process_command(&mut self) -> Option<Next> {
        let waiting = self.input.waiting();
        let Some(end) = memchr::memchr(b'\n', waiting) else {
            if waiting.len() > COMMAND_BYTES_MAX {
                count(&self.shared.counters.protocol_errors);
                self.say("500 5.5.2 line too long");
                return Some(Next::Close);
            }
            return None;
        };
        let line = String::from_utf8_lossy(waiting[..end].trim_ascii_end()).into_owned();
        self.input.from += end + 1;
        Some(self.command(&line))
    }

    fn command(&mut self, line: &str) -> Next {
        let verb = line
            .split([' ', ':'])
            .next()
            .unwrap_or("")
            .to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.ehlo(),
            "HELO" => self.say("250 sink.test"),
            "MAIL" => self.mail(line),
            "RCPT" => self.rcpt(line),
            "DATA" => self.data(),
            "BDAT" if self.shared.options.sink_chunking => self.bdat(line),
            "STARTTLS" => self.starttls(),
            "RSET" => {
                self.transaction = Transaction::default();
                self.say("250 2.0.0 forgotten")
            }
            "NOOP" => self.say("250 2.0.0 ok"),
            "QUIT" => {
                self.say("221 2.0.0 bye");
                Next::Close
            }
            _ => self.complain("500 5.5.1 not known here"),
        }
    }

    fn ehlo(&mut self) -> Next {
        self.transaction = Transaction::default();
        self.out.extend_from_slice(
            b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 1073741824\r\n250-8BITMIME\r\n",
        );
        if self.shared.options.sink_chunking {
            self.out.extend_from_slice(b"250-CHUNKING\r\n");
        }
        if self.offers_tls() {
            self.out.extend_from_slice(b"250-STARTTLS\r\n");
        }
        self.say("250 ENHANCEDSTATUSCODES")
    }

    fn offers_tls(&self) -> bool {
        self.behaviour.tls != SinkTls::None && !self.wire.is_tls()
    }

    fn starttls(&mut self) -> Next {
        if !self.offers_tls() {
            return self.complain("503 5.5.1 not offered");
        }
        if self.behaviour.tls == SinkTls::Refuse {
            return self.say("454 4.7.0 TLS is not available");
        }
        self.say("220 2.0.0 go ahead");
        Next::StartTls
    }

    fn mail(&mut self, line: &str) -> Next {
        let Some(path) = path(line) else {
            return self.complain("501 5.5.4 no reverse-path");
        };
        if self.transaction.open {
            return self.complain("503 5.5.1 one at a time");
        }
        let is_permanent = |fault: &Fault| matches!(fault, Fault::Permanent(_));
        let drawn = self.draw_fault();
        let fault = drawn.filter(|fault| !(path.is_empty() && is_permanent(fault)));
        match fault {
            Some(Fault::Drop(Stage::Mail)) => {
                self.transaction.fault = fault;
                return self.broken_off(Stage::Mail).unwrap_or(Next::Drop);
            }
            Some(Fault::Temporary(Stage::Mail)) => {
                self.mail_refused = true;
                return self.refuse_for_now("451 4.3.0 not now");
            }
            Some(Fault::Permanent(Stage::Mail)) => {
                self.shared.refuse_for_good(path, None);
                self.mail_refused = true;
                return self.refuse_for_good("550 5.7.1 not from you");
            }
            _ => {}
        }
        self.mail_refused = false;
        self.transaction.open = true;
        self.transaction.fault = fault;
        self.transaction.reverse_path = path.to_string();
        self.say("250 2.1.0 ok")
    }

    /// One draw per transaction; it happens at a random stage.
    fn draw_fault(&mut self) -> Option<Fault> {
        let behaviour = self.behaviour;
        let stage = match self.random.between(0, 2) {
            0 => Stage::Mail,
            1 => Stage::Rcpt,
            _ => Stage::EndOfData,
        };
        let faults = [
            (behaviour.fault_4xx, Fault::Temporary(stage)),
            (behaviour.fault_5xx, Fault::Permanent(stage)),
            (behaviour.fault_drop, Fault::Drop(stage)),
            (behaviour.fault_drop_before_reply, Fault::DropBeforeReply),
        ];
        let mut drawn = self.random.share();
        let hit = faults.iter().find(|(share, _)| {
            drawn -= share;
            drawn < 0.0
        });
        hit.map(|(_, fault)| *fault)
    }

    /// Hangs up, if this is where the transaction is to break off.
    fn broken_off(&self, stage: Stage) -> Option<Next> {
        if self.transaction.fault != Some(Fault::Drop(stage)) {
            return None;
        }
        count(&self.shared.counters.faults_broken_off);
        Some(Next::Drop)
    }

    fn rcpt(&mut self, line: &str) -> Next {
        if !self.transaction.open {
            return self.without_transaction();
        }
        let Some(path) = path(line).filter(|path| !path.is_empty()) else {
            return self.complain("501 5.5.4 no forward-path");
        };
        if self.transaction.recipients.len() >= RECIPIENTS_MAX {
            return self.say("452 4.5.3 too many recipients");
        }
        if let Some(next) = self.broken_off(Stage::Rcpt) {
            return next;
        }
        match self.transaction.fault {
            Some(Fault::Temporary(Stage::Rcpt)) => {
                self.transaction.fault = None;
                self.refuse_for_now("450 4.2.1 not now")
            }
            Some(Fault::Permanent(Stage::Rcpt)) => {
                self.transaction.fault = None;
                self.refuse_recipient(path)
            }
            _ if self.is_unknown(path) => self.refuse_recipient(path),
            _ => {
                self.transaction.recipients.push(path.to_string());
                self.say("250 2.1.5 ok")
            }
        }
    }

    /// Decided by message and address, so that every attempt ends alike.
    fn is_unknown(&self, forward_path: &str) -> bool {
        let share = self.behaviour.unknown;
        let Some((_, n)) = address::parse_sender(&self.transaction.reverse_path) else {
            return false;
        };
        let address = u64::from(crc32fast::hash(forward_path.as_bytes()));
        share > 0.0 && Random::stream(self.shared.seed ^ address, n).share() < share
    }

    fn refuse_recipient(&mut self, forward_path: &str) -> Next {
        let recipient = [forward_path.to_string()];
        let reverse_path = &self.transaction.reverse_path;
        self.shared.refuse_for_good(reverse_path, Some(&recipient));
        self.refuse_for_good("550 5.1.1 nobody of that name")
    }

    fn data(&mut self) -> Next {
        if !self.transaction.open {
            return self.without_transaction();
        }
        if self.transaction.recipients.is_empty() {
            // Normal for a pipelining client whose recipients were all refused.
            self.transaction = Transaction::default();
            return self.say("554 5.5.1 no valid recipients");
        }
        self.body = Body::Data(DataReader::new(self.transaction.is_report()));
        self.say("354 go ahead")
    }

    /// RFC 3030 section 2. A refused chunk is swallowed before its reply.
    fn bdat(&mut self, line: &str) -> Next {
        let mut words = line.split_ascii_whitespace().skip(1);
        let Some(left) = words.next().and_then(|bytes| bytes.parse().ok()) else {
            self.complain("501 5.5.4 BDAT needs a number of bytes");
            return Next::Close;
        };
        let is_last = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if self.transaction.recipients.is_empty() {
            self.body = Body::Refused { left };
            return Next::Read;
        }
        let reader = self.transaction.chunks.take();
        let keep_body = self.transaction.is_report();
        let reader = reader.unwrap_or_else(|| DataReader::new(keep_body));
        self.body = Body::Chunk {
            reader,
            left,
            is_last,
        };
        Next::Read
    }

    fn refuse_for_now(&mut self, reply: &str) -> Next {
        count(&self.shared.counters.faults_4xx);
        self.say(reply)
    }

    fn refuse_for_good(&mut self, reply: &str) -> Next {
        count(&self.shared.counters.faults_5xx);
        self.say(reply)
    }

    /// Behind a MAIL that was refused a pipelining client is in order (RFC 2920).
    fn without_transaction(&mut self) -> Next {
        match self.mail_refused {
            true => self.say("503 5.5.1 MAIL first"),
            false => self.complain("503 5.5.1 MAIL first"),
        }
    }

    fn complain(&mut self, reply: &str) -> Next {
        count(&self.shared.counters.protocol_errors);
        self.say(reply)
    }

    fn say(&mut self, reply: &str) -> Next {
        self.out.extend_from_slice(reply.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        Next::Read
    }
}

impl Input {
    fn waiting(&self) -> &[u8] {
        &self.bytes[self.from..self.filled]
    }

    /// What waits, but no more than `limit` bytes of it.
    fn at_most(&self, limit: u64) -> &[u8] {
        let waiting = self.waiting();
        &waiting[..waiting
            .len()
            .min(usize::try_from(limit).unwrap_or(usize::MAX))]
    }

    fn clear(&mut self) {
        (self.from, self.filled) = (0, 0);
    }

    /// Reads at most `most` bytes; 0 at the end of the stream.
    async fn fill(&mut self, wire: &mut Wire, most: usize) -> io::Result<usize> {
        self.bytes.copy_within(self.from..self.filled, 0);
        self.filled -= self.from;
        self.from = 0;
        let end = self.bytes.len().min(self.filled + most);
        let read = wire.read(&mut self.bytes[self.filled..end]).await?;
        self.filled += read;
        Ok(read)
    }
}

/// What stands between `<` and `>` after MAIL FROM: or RCPT TO:.
fn path(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
