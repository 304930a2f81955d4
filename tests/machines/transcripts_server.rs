//! Conversations with the receiving side. Every one is replayed with the client's octets cut at
//! every place, octet by octet, and pipelined in one piece: the result must always be the same.
//!
//! ```text
//! C: a line from the client
//! R: octets from the client, escaped, without a line end of their own
//! S: a line of a reply; `...` at the end stands for anything, `250 ...` also for many lines
//! B: the body of the next message that is accepted, escaped
//! E: an event: begin, abort, message, tls, close
//! T: what is told of refused mail; if there is one, all are listed
//! ```

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use proptest::prelude::*;
use ringpost::message::{BodyType, CertificateVerdict, Envelope, Mailbox, MessageId, TlsSummary};
use ringpost::smtp::extension::{Extension, Extensions};
use ringpost::smtp::server::{
    BareLineEnds, Claim, PeerInfo, Phase, Policy, Refusal, Rejection, Server, Settings, Spending,
    Step,
};
use ringpost::time::{Now, WallTime};

/// Relays for `c.test`, where `nobody` does not exist and `fill` fills the disk.
#[derive(Default)]
struct TestPolicy {
    is_full: Cell<bool>,
    /// What was told of refused mail.
    rejections: RefCell<Vec<String>>,
}

impl Policy for TestPolicy {
    fn recipient(&self, trusted: bool, forward_path: &Mailbox) -> Result<(), Refusal> {
        self.is_full.set(forward_path.local_part() == "fill");
        if forward_path.local_part() == "nobody" {
            return Err(Refusal::new(550, 1, 1, "No such user"));
        }
        if trusted || matches!(forward_path.domain_as_written(), "c.test" | "") {
            return Ok(());
        }
        Err(Refusal {
            text: format!("<{forward_path}>: relaying denied").into(),
            ..Refusal::new(554, 7, 1, "")
        })
    }

    fn postmaster(&self) -> Option<Mailbox> {
        None
    }

    fn admit(&self, _peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        if self.is_full.get() || declared_bytes > Some(900_000) {
            return Err(Refusal::new(452, 3, 1, "Disk full"));
        }
        Ok(())
    }

    fn rejected(&self, rejection: &Rejection<'_>) {
        let mut text = format!("{} {}", rejection.hello, rejection.at.name());
        text.extend(rejection.from.map(|from| format!(" from {from}")));
        text.extend(rejection.to.map(|to| format!(" to {to}")));
        let recipients = rejection.recipients.iter();
        text.extend(recipients.map(|it| format!(" to {}", it.forward_path)));
        let refusal = rejection.refusal;
        text.push_str(&format!(": {} {}", refusal.code, refusal.status));
        self.rejections.borrow_mut().push(text);
    }

    fn share(&self, _: &PeerInfo, claim: Claim<'_>, _: u64) -> Result<(), Refusal> {
        match claim {
            Claim::Recipient(path) if path.local_part() == "hog" => {
                Err(Refusal::new(452, 3, 1, "Enough for this destination"))
            }
            Claim::Sender(Some(path)) if path.local_part() == "hog" => {
                Err(Refusal::new(452, 3, 1, "Enough of yours"))
            }
            _ => Ok(()),
        }
    }

    fn lists_starttls(&self, _peer: &PeerInfo, _hello: &str) -> bool {
        true
    }

    fn spend(&self, _peer: &PeerInfo, _what: Spending) -> Result<(), Refusal> {
        Ok(())
    }
}

/// What came of a session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Outcome {
    replies: String,
    bodies: Vec<Vec<u8>>,
    events: Vec<&'static str>,
    envelopes: Vec<Envelope>,
    rejections: Vec<String>,
}

struct Session {
    server: Server,
    policy: TestPolicy,
    body: Vec<u8>,
    out: Vec<u8>,
    outcome: Outcome,
}

const TLS: TlsSummary = TlsSummary {
    version: "TLSv1.3",
    cipher: "TLS_AES_128_GCM_SHA256",
    key_exchange: "X25519",
    resumed: false,
    verdict: CertificateVerdict::Unasked,
};

fn peer() -> PeerInfo {
    PeerInfo {
        address: IpAddr::from([192, 0, 2, 1]),
        trusted: false,
        tls: None,
    }
}

fn settings() -> Settings {
    Settings {
        max_message_bytes: 1_000_000,
        ..Settings::new("mx.test")
    }
}

impl Session {
    fn new(settings: &Rc<Settings>, peer: PeerInfo) -> Self {
        let mut session = Session {
            server: Server::new(Rc::clone(settings), peer),
            policy: TestPolicy::default(),
            body: Vec::new(),
            out: Vec::new(),
            outcome: Outcome::default(),
        };
        session.server.greet(&mut session.out);
        session
    }

    /// What the real driver does, without a network.
    fn feed(&mut self, mut input: &[u8]) {
        loop {
            let (consumed, step) =
                self.server
                    .handle(input, &self.policy, &mut self.body, &mut self.out);
            input = &input[consumed..];
            match step {
                Step::NeedInput => return assert!(input.is_empty()),
                Step::Close => {
                    if self.outcome.events.last() != Some(&"close") {
                        self.outcome.events.push("close");
                    }
                    return;
                }
                Step::StartTls => {
                    self.outcome.events.push("tls");
                    self.server.tls_established(TLS);
                    return;
                }
                Step::BeginBody => {
                    assert!(self.body.is_empty());
                    self.outcome.events.push("begin");
                }
                Step::BodyAborted => {
                    self.body.clear();
                    self.outcome.events.push("abort");
                }
                Step::EndOfData(envelope) => self.commit(*envelope),
            }
        }
    }

    fn commit(&mut self, envelope: Envelope) {
        let body = std::mem::take(&mut self.body);
        let is_unlucky = envelope
            .reverse_path
            .as_ref()
            .is_some_and(|path| path.local_part() == "unlucky");
        if is_unlucky {
            let refusal = Refusal::new(452, 3, 1, "Disk full");
            self.server.not_committed(refusal, &mut self.out);
            return;
        }
        self.outcome.events.push("message");
        self.outcome.bodies.push(body);
        self.outcome.envelopes.push(envelope);
        let id = MessageId {
            run: 1,
            core: 0,
            sequence: self.outcome.bodies.len() as u64,
        };
        self.server.committed(id, &mut self.out);
    }

    fn replies(&mut self) -> String {
        let replies = String::from_utf8(std::mem::take(&mut self.out)).expect("replies are text");
        self.outcome.replies.push_str(&replies);
        replies
    }

    fn finish(mut self) -> Outcome {
        self.replies();
        self.outcome.rejections = self.policy.rejections.take();
        self.outcome
    }
}

/// What the client says before it waits, and what it expects then.
#[derive(Default)]
struct Exchange {
    input: Vec<u8>,
    expected: Vec<String>,
}

impl Exchange {
    /// The last that was said before the client waited is DATA.
    fn awaits_354(&self) -> bool {
        self.input.to_ascii_uppercase().ends_with(b"DATA\r\n")
    }
}

#[derive(Default)]
struct Transcript {
    exchanges: Vec<Exchange>,
    bodies: Vec<Vec<u8>>,
    events: Vec<String>,
    told: Vec<String>,
}

fn parse(text: &str) -> Transcript {
    let mut transcript = Transcript::default();
    transcript.exchanges.push(Exchange::default());
    for line in text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty())
    {
        let (kind, rest) = line.split_once(':').expect("a kind");
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let last = transcript.exchanges.last_mut().expect("at least one");
        match kind {
            "S" => last.expected.push(rest.to_owned()),
            "B" => transcript.bodies.push(unescape(rest)),
            "E" => transcript.events.push(rest.to_owned()),
            "T" => transcript.told.push(rest.to_owned()),
            "C" | "R" => {
                if !last.expected.is_empty() {
                    transcript.exchanges.push(Exchange::default());
                }
                let input = &mut transcript.exchanges.last_mut().expect("at least one").input;
                if kind == "C" {
                    input.extend_from_slice(rest.as_bytes());
                    input.extend_from_slice(b"\r\n");
                } else {
                    input.extend_from_slice(&unescape(rest));
                }
            }
            other => panic!("what is {other}?"),
        }
    }
    transcript
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b'0') => 0,
                Some(b'\\') => b'\\',
                Some(b'e') => 0xe9,
                other => panic!("what is \\{other:?}?"),
            },
            byte => byte,
        });
    }
    bytes
}

fn assert_replies(expected: &[String], actual: &str) {
    let mut lines = actual.split_terminator("\r\n").peekable();
    for pattern in expected {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("{pattern} never came:\n{actual}"));
        let matches = match pattern.strip_suffix("...") {
            Some(prefix) => line.starts_with(prefix) || line.starts_with(&prefix.replace(' ', "-")),
            None => line == pattern,
        };
        assert!(matches, "expected {pattern}, got {line} in\n{actual}");
        if pattern.ends_with(" ...") && line.as_bytes().get(3) == Some(&b'-') {
            while lines
                .next()
                .is_some_and(|line| line.as_bytes().get(3) == Some(&b'-'))
            {}
        }
    }
    assert_eq!(lines.next(), None, "more than expected in\n{actual}");
}

/// Cuts each exchange where `cut` says, from the first octet of the session.
fn replay(transcript: &Transcript, settings: &Rc<Settings>, peer: PeerInfo, cut: Cut) -> Outcome {
    let mut session = Session::new(settings, peer);
    let mut before = 0;
    for exchange in &transcript.exchanges {
        let input = &exchange.input;
        match cut {
            Cut::Octets => input.chunks(1).for_each(|octet| session.feed(octet)),
            Cut::At(at) if (before..before + input.len()).contains(&at) => {
                let (head, tail) = input.split_at(at - before);
                session.feed(head);
                session.feed(tail);
            }
            Cut::At(_) => session.feed(input),
        }
        before += input.len();
        assert_replies(&exchange.expected, &session.replies());
    }
    session.finish()
}

#[derive(Clone, Copy)]
enum Cut {
    At(usize),
    Octets,
}

fn check_with(settings: Settings, peer: PeerInfo, text: &str) -> Vec<Envelope> {
    let settings = Rc::new(settings);
    let mut transcript = parse(text);
    if transcript.exchanges[0].input.is_empty() {
        assert_replies(
            &transcript.exchanges[0].expected,
            "220 mx.test ESMTP ringpost\r\n",
        );
    } else {
        let greeting = Exchange {
            expected: vec!["220 mx.test ESMTP ringpost".into()],
            ..Exchange::default()
        };
        transcript.exchanges.insert(0, greeting);
    }

    let whole = replay(&transcript, &settings, peer, Cut::At(0));
    assert_eq!(whole.bodies.len(), whole.envelopes.len());
    for (expected, actual) in transcript.bodies.iter().zip(&whole.bodies) {
        assert_eq!(
            expected.escape_ascii().to_string(),
            actual.escape_ascii().to_string()
        );
    }
    if !transcript.events.is_empty() {
        assert_eq!(transcript.events, whole.events);
    }
    if !transcript.told.is_empty() {
        assert_eq!(transcript.told, whole.rejections);
    }
    let octets: usize = transcript
        .exchanges
        .iter()
        .map(|exchange| exchange.input.len())
        .sum();
    for at in 1..octets {
        let outcome = replay(&transcript, &settings, peer, Cut::At(at));
        assert_eq!(outcome, whole, "cut at {at}");
    }
    assert_eq!(
        replay(&transcript, &settings, peer, Cut::Octets),
        whole,
        "octet by octet"
    );
    if !whole.events.contains(&"tls") {
        let mut session = Session::new(&settings, peer);
        let mut pipelined = Vec::new();
        for exchange in &transcript.exchanges {
            pipelined.extend_from_slice(&exchange.input);
            // What a client sends behind DATA before it has seen 354 is no command.
            if exchange.awaits_354() {
                session.feed(&std::mem::take(&mut pipelined));
                session.replies();
            }
        }
        session.feed(&pipelined);
        assert_eq!(session.finish(), whole, "pipelined");
    }
    whole.envelopes
}

fn check(text: &str) -> Vec<Envelope> {
    check_with(settings(), peer(), text)
}

const HELLO: &str = "C: EHLO a.test\nS: 250 ...\n";
const ENVELOPE: &str = "C: EHLO a.test\n\
                        S: 250 ...\n\
                        C: MAIL FROM:<a@a.test>\n\
                        S: 250 2.1.0 ...\n\
                        C: RCPT TO:<b@c.test>\n\
                        S: 250 2.1.5 ...\n";

/// After EHLO.
fn greeted(text: &str) -> Vec<Envelope> {
    check(&format!("{HELLO}{text}"))
}

/// After EHLO, MAIL and RCPT.
fn addressed(text: &str) -> Vec<Envelope> {
    check(&format!("{ENVELOPE}{text}"))
}

fn addressed_normalising(text: &str) {
    let settings = Settings {
        bare_line_ends: BareLineEnds::Normalise,
        ..settings()
    };
    check_with(settings, peer(), &format!("{ENVELOPE}{text}"));
}

#[test]
fn a_first_message() {
    let envelopes = check(
        "S: 220 mx.test ESMTP ringpost
         C: EHLO a.test
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE 1000000
         S: 250-STARTTLS
         S: 250-ENHANCEDSTATUSCODES
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-DSN
         S: 250 CHUNKING
         C: MAIL FROM:<a@a.test> SIZE=100
         S: 250 2.1.0 Sender ok
         C: RCPT TO:<b@c.test>
         S: 250 2.1.5 Recipient ok
         C: DATA
         S: 354 End data with <CR><LF>.<CR><LF>
         C: Subject: x
         C:
         C: ..stuffed
         C: .
         S: 250 2.0.0 Ok: queued as 1-0-1
         C: QUIT
         S: 221 2.0.0 Bye
         B: Subject: x\\r\\n\\r\\n..stuffed\\r\\n.\\r\\n
         E: begin
         E: message
         E: close",
    );
    assert_eq!(envelopes[0].reverse_path, Some(Mailbox::new("a", "a.test")));
    assert_eq!(envelopes[0].recipients.len(), 1);
}

#[test]
fn helo_is_enough() {
    check(
        "C: HELO a.test
         S: 250 mx.test
         C: MAIL FROM:<>
         S: 250 2.1.0 ...
         C: RCPT TO:<Postmaster>
         S: 250 2.1.5 ...
         C: DATA
         S: 354 ...
         C: .
         S: 250 2.0.0 ...
         B: \\r\\n.\\r\\n",
    );
}

#[test]
fn two_messages_in_one_session() {
    addressed(
        "C: DATA
         C: one
         C: .
         C: MAIL FROM:<>
         C: RCPT TO:<d@c.test>
         C: DATA
         C: two
         C: .
         S: 354 ...
         S: 250 2.0.0 Ok: queued as 1-0-1
         S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 354 ...
         S: 250 2.0.0 Ok: queued as 1-0-2
         B: \\r\\none\\r\\n.\\r\\n
         B: \\r\\ntwo\\r\\n.\\r\\n",
    );
}

#[test]
fn parameters_travel_on() {
    let envelopes = greeted(
        "C: MAIL FROM: <é@a.test> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=q+2B1
         S: 250 2.1.0 ...
         C: RCPT TO:<@x.test,@y.test:ü@c.test> NOTIFY=DELAY,FAILURE ORCPT=utf-8;ü@c.test
         S: 250 2.1.5 ...
         C: RCPT TO:<\"q r\"@c.test> NOTIFY=NEVER
         S: 250 2.1.5 ...
         C: DATA
         S: 354 ...
         C: Subject: ü
         C: .
         S: 250 2.0.0 ...",
    );
    let envelope = &envelopes[0];
    assert!(envelope.smtputf8);
    assert_eq!(envelope.body_type, BodyType::EightBitMime);
    assert_eq!(envelope.envid.as_deref(), Some("q+2B1"));
    assert_eq!(envelope.recipients[0].forward_path.as_str(), "ü@c.test");
    assert_eq!(
        envelope.recipients[0].orcpt.as_deref(),
        Some("utf-8;ü@c.test")
    );
    assert_eq!(
        envelope.recipients[1].forward_path.as_str(),
        "\"q r\"@c.test"
    );
    assert!(!envelope.recipients[1].wants_failure_report());
}

#[test]
fn eight_bit_content_is_told_to_the_next_hop() {
    let envelopes = addressed("C: DATA\nS: 354 ...\nR: \\e\\r\\n.\\r\\nS\nS: 250 2.0.0 ...\n");
    assert_eq!(envelopes[0].body_type, BodyType::EightBitMime);
}

#[test]
fn order_matters() {
    check(
        "C: MAIL FROM:<a@a.test>
         S: 503 5.5.1 EHLO first
         C: RCPT TO:<b@c.test>
         S: 503 5.5.1 ...
         C: EHLO a.test
         S: 250 ...
         C: RCPT TO:<b@c.test>
         S: 503 5.5.1 MAIL first
         C: DATA
         S: 503 5.5.1 MAIL first
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         C: MAIL FROM:<a@a.test>
         S: 503 5.5.1 ...
         C: STARTTLS
         S: 503 5.5.1 ...
         C: DATA
         S: 554 5.5.1 No valid recipients
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...",
    );
}

#[test]
fn a_body_behind_a_refused_data_does_not_run_as_commands() {
    let text = "C: MAIL FROM:<forged@a.test>\n\
                C: RCPT TO:<b@c.test>\n\
                C: DATA\n\
                C: Subject: forged\n\
                C:\n\
                C: .\n";
    greeted(&format!(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: DATA
         {text}S: 250 2.1.0 ...
         S: 550 5.1.1 ...
         S: 554 5.5.1 No valid recipients
         S: 521 5.5.1 Message text where a command was expected
         E: close"
    ));
    let long = format!("DATA{}", " ".repeat(2100));
    for refused in ["DATA", "data", "DATA x", "DATA\t", &long] {
        check(&format!(
            "C: {refused}\n{text}S: 50...\nS: 521 5.5.1 ...\nE: close"
        ));
    }
    // For want of room.
    greeted(&format!(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<fill@c.test>
         C: DATA
         {text}S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 452 4.3.1 ...
         S: 521 5.5.1 ...
         E: close"
    ));
}

/// The client has not waited for the refusal, but its text came only after it.
#[test]
fn a_message_in_text_that_comes_after_the_refusal_of_data_is_not_accepted() {
    let refused = "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: DATA
         S: 250 2.1.0 ...
         S: 550 5.1.1 ...
         S: 554 5.5.1 ...\n";
    let smuggled = "C: MAIL FROM:<evil@a.test>\nC: RCPT TO:<b@c.test>\n";
    let text = "C: Subject: smuggled\nC:\nC: .\n";
    greeted(&format!(
        "{refused}{smuggled}C: DATA\n{text}
         S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 354 ...
         S: 521 5.5.1 Message text where a command was expected
         E: begin
         E: close"
    ));
    greeted(&format!(
        "{refused}{smuggled}C: BDAT 22 LAST\n{text}
         S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 521 5.5.1 ...
         E: close"
    ));
    greeted(&format!(
        "{refused}C: RSET\nC: Subject: x\n{smuggled}
         S: 250 2.0.0 Ok
         S: 521 5.5.1 ...
         E: close"
    ));
}

/// It pipelines whatever may be pipelined.
#[test]
fn who_waits_for_replies_goes_on_after_a_refused_data() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: DATA
         S: 250 2.1.0 ...
         S: 550 5.1.1 ...
         S: 554 5.5.1 ...
         C: RSET
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<b@c.test>
         C: DATA
         S: 250 2.0.0 ...
         S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 354 ...
         C: Subject: x
         C:
         C: .
         S: 250 2.0.0 ...
         C: XUNKNOWN
         S: 500 5.5.1 ...
         C: MAIL FROM:<a@a.test>
         C: RCPT TO:<b@c.test>
         C: BDAT 12 LAST
         R: Subject: x\\r\\n
         S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 250 2.0.0 ...
         E: begin
         E: message
         E: begin
         E: message
         B: Subject: x\\r\\n\\r\\n.\\r\\n
         B: Subject: x\\r\\n.\\r\\n",
    );
}

#[test]
fn chunks_that_are_refused_are_swallowed_by_their_count() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: BDAT 20
         R: MAIL FROM:<x@a.test>
         C: BDAT 4 LAST
         R: QUIT
         C: NOOP
         S: 250 2.1.0 ...
         S: 550 5.1.1 ...
         S: 503 5.5.1 RCPT first
         S: 503 5.5.1 MAIL first
         S: 250 2.0.0 Ok",
    );
}

#[test]
fn who_waits_for_the_answer_to_data_goes_on_after_its_refusal() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: DATA
         S: 250 2.1.0 ...
         S: 550 5.1.1 ...
         S: 554 5.5.1 ...
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...",
    );
}

#[test]
fn content_does_not_continue_our_trace_field() {
    addressed(
        "C: DATA
         S: 354 ...
         C:  for <victim@c.test>; forged
         C: .
         S: 250 2.0.0 ...
         B: \\r\\n for <victim@c.test>; forged\\r\\n.\\r\\n",
    );
    addressed(
        "C: BDAT 9 LAST
         R: \tforged\\r\\n
         S: 250 2.0.0 ...
         B: \\r\\n\tforged\\r\\n.\\r\\n",
    );
}

#[test]
fn smtputf8_is_needed_by_header_fields_and_not_by_who_always_asks_for_it() {
    for (text, needs) in [
        ("Subject: x", false),
        ("Subject: \\e", true),
        ("Subject: x\\r\\n\\r\\n\\e", false),
    ] {
        let envelopes = check(&format!(
            "C: EHLO a.test
             S: 250 ...
             C: MAIL FROM:<a@a.test> SMTPUTF8
             S: 250 2.1.0 ...
             C: RCPT TO:<b@c.test>
             S: 250 2.1.5 ...
             C: DATA
             S: 354 ...
             R: {text}\\r\\n.\\r\\n
             S: 250 2.0.0 ..."
        ));
        assert_eq!(envelopes[0].smtputf8, needs, "{text}");
    }
}

#[test]
fn reset_drops_the_transaction() {
    addressed(
        "C: RSET
         S: 250 2.0.0 Ok
         C: DATA
         S: 503 5.5.1 ...
         C: MAIL FROM:<>
         S: 250 2.1.0 ...
         C: EHLO again.test
         S: 250 ...
         C: RCPT TO:<b@c.test>
         S: 503 5.5.1 ...",
    );
}

#[test]
fn what_leads_nowhere() {
    greeted(
        "C: NOOP x
         S: 250 2.0.0 Ok
         C: VRFY a
         S: 252 2.0.0 ...
         C: EXPN a
         S: 502 5.7.0 ...
         C: HELP
         S: 214 2.0.0 ...
         C: AUTH PLAIN AGEAYg==
         S: 502 5.5.1 ...
         C: TURN
         S: 500 5.5.1 Unknown command
         C: RSET now
         S: 501 5.5.4 ...
         C: EHLO
         S: 501 5.5.4 ...
         C: HELO a b
         S: 501 5.5.4 ...",
    );
}

#[test]
fn recipients_are_judged_one_by_one() {
    let envelopes = greeted(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: RCPT TO:<b@elsewhere.test>
         C: RCPT TO:<b@c.test>
         C: RCPT TO:<>
         C: RCPT TO:<é@c.test>
         C: RCPT TO:<b@c.test> NOTIFY=NEVER NOTIFY=NEVER
         C: RCPT TO:<b@c.test> X=Y
         C: DATA
         C: .
         S: 250 2.1.0 ...
         S: 550 5.1.1 No such user
         S: 554 5.7.1 <b@elsewhere.test>: relaying denied
         S: 250 2.1.5 ...
         S: 501 5.1.3 ...
         S: 553 5.6.7 ...
         S: 501 5.5.4 ...
         S: 555 5.5.4 ...
         S: 354 ...
         S: 250 2.0.0 ...",
    );
    assert_eq!(envelopes[0].recipients.len(), 1);
}

#[test]
fn trusted_peers_may_relay() {
    let trusted = PeerInfo {
        trusted: true,
        ..peer()
    };
    let text = format!(
        "{HELLO}C: MAIL FROM:<a@a.test>\nS: 250 ...\nC: RCPT TO:<b@elsewhere.test>\nS: 250 2.1.5 ...\n"
    );
    check_with(settings(), trusted, &text);
}

fn trusted() -> PeerInfo {
    PeerInfo {
        trusted: true,
        ..peer()
    }
}

#[test]
fn a_device_of_ours_may_call_itself_what_it_likes() {
    let lines = [
        "C: EHLO Scanner 3rd floor\nS: 250 ...\n",
        "C: EHLO müller-pc\nS: 250 ...\n",
        "R: HELO M\\eLLER PC\\r\\n\nS: 250 mx.test\n",
        "C: HELO (a) <b@c.test>; \"d\nS: 250 mx.test\n",
    ];
    let text = lines.concat();
    check_with(settings(), trusted(), &text);
    // Strangers say who they are, or are told how; a name is all that changes.
    check(
        "C: EHLO Scanner 3rd floor
         S: 501 5.5.4 ...
         C: EHLO müller-pc
         S: 501 5.5.4 ...
         R: HELO M\\eLLER\\r\\n
         S: 501 5.5.4 ...
         C: MAIL FROM:<>
         S: 503 5.5.1 EHLO first",
    );
    check_with(settings(), trusted(), "C: EHLO\nS: 501 5.5.4 ...\n");
    let long = "x ".repeat(128);
    let too_long = format!("C: EHLO {long}y\nS: 501 5.5.4 ...\n");
    check_with(settings(), trusted(), &too_long);
}

#[test]
fn whatever_a_device_calls_itself_the_trace_field_stays_ours() {
    let mut server = Server::new(Rc::new(settings()), trusted());
    let (mut body, mut out) = (Vec::new(), Vec::new());
    server.greet(&mut out);
    let input = b"EHLO a (b) <c@d>; e\\\"\xfc\r\nMAIL FROM:<>\r\nRCPT TO:<b@c.test>\r\nDATA\r\n";
    let (_, step) = server.handle(input, &TestPolicy::default(), &mut body, &mut out);
    assert!(matches!(step, Step::BeginBody), "{step:?}");
    let id = MessageId {
        run: 1,
        core: 2,
        sequence: 3,
    };
    server.trace(id, WallTime(0), &mut body);
    let text = String::from_utf8(body).unwrap();
    let first = text.lines().next().unwrap();
    assert_eq!(first, "Received: from a??b???c?d???e????? ([192.0.2.1])");
    assert_eq!(&*server.summary().hello, "a (b) <c@d>; e\\\"\u{fffd}");
}

#[test]
fn a_domain_is_added_for_ours_where_that_is_asked_for() {
    let qualifying = Settings {
        qualify_domain: "house.test".parse().ok(),
        ..settings()
    };
    let text = format!(
        "{HELLO}C: MAIL FROM:<root>
         S: 250 2.1.0 ...
         C: RCPT TO:<ops>
         S: 250 2.1.5 ...
         C: RCPT TO:<Postmaster>
         S: 250 2.1.5 ...
         C: DATA
         S: 354 ...
         C: .
         S: 250 2.0.0 ..."
    );
    let envelopes = check_with(qualifying.clone(), trusted(), &text);
    let sender = envelopes[0].reverse_path.as_ref().map(Mailbox::as_str);
    assert_eq!(sender, Some("root@house.test"));
    let to: Vec<&str> = envelopes[0]
        .recipients
        .iter()
        .map(|recipient| recipient.forward_path.as_str())
        .collect();
    assert_eq!(to, ["ops@house.test", "Postmaster"]);
    // Not for strangers, and not unless it is asked for.
    let refused = format!(
        "{HELLO}C: MAIL FROM:<root>
         S: 501 5.1.7 Sender address needs a domain (--qualify-domain ...
         C: MAIL FROM:<>
         S: 250 2.1.0 ...
         C: RCPT TO:<ops>
         S: 501 5.1.3 Recipient address needs a domain (--qualify-domain ..."
    );
    check_with(qualifying, peer(), &refused);
    check_with(settings(), trusted(), &refused);
}

#[test]
fn paths_and_parameters_of_careless_clients_are_understood() {
    let envelopes = greeted(
        "C: MAIL FROM:< a@a.test. > ENVID=a+b
         S: 250 2.1.0 ...
         C: RCPT TO:< b@c.test >
         S: 250 2.1.5 ...
         C: RCPT TO:<b@c.test.> ORCPT=rfc822;user+tag@c.test
         S: 250 2.1.5 ...
         C: RCPT TO:<b@c.test> ORCPT=rfc822;user+2btag@c.test
         S: 250 2.1.5 ...
         C: DATA
         S: 354 ...
         C: .
         S: 250 2.0.0 ...",
    );
    let envelope = &envelopes[0];
    let sender = envelope.reverse_path.as_ref().map(Mailbox::as_str);
    assert_eq!(sender, Some("a@a.test"));
    assert_eq!(envelope.envid.as_deref(), Some("a+2Bb"));
    for recipient in &envelope.recipients {
        assert_eq!(recipient.forward_path.as_str(), "b@c.test");
    }
    let orcpt = |position: usize| envelope.recipients[position].orcpt.as_deref();
    assert_eq!(orcpt(1), Some("rfc822;user+2Btag@c.test"));
    assert_eq!(orcpt(2), Some("rfc822;user+2Btag@c.test"));
    greeted("C: MAIL FROM:< >\nS: 250 2.1.0 ...\n");
}

#[test]
fn chunks_that_are_not_offered_are_swallowed() {
    let without = Settings {
        offers: Extensions::OURS.without(Extension::Chunking),
        ..settings()
    };
    let text = "C: EHLO a.test
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE 1000000
         S: 250-STARTTLS
         S: 250-ENHANCEDSTATUSCODES
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250 DSN
         C: MAIL FROM:<>
         S: 250 2.1.0 ...
         C: RCPT TO:<b@c.test>
         S: 250 2.1.5 ...
         C: BDAT 6 LAST
         R: QUIT\\r\\n
         S: 502 5.5.1 BDAT ...
         C: MAIL FROM:<>
         S: 250 2.1.0 ...";
    check_with(without, peer(), text);
}

#[test]
fn senders_that_are_refused() {
    greeted(
        "C: MAIL FROM:<a@a.test> SIZE=1000001
         S: 552 5.3.4 ...
         C: MAIL FROM:<a@a.test> SIZE=99999999999999999999
         S: 552 5.3.4 ...
         C: MAIL FROM:<a@a.test> SIZE=900001
         S: 452 4.3.1 ...
         C: MAIL FROM:<é@a.test>
         S: 553 5.6.7 ...
         C: MAIL FROM:<root>
         S: 501 5.1.7 ...
         C: MAIL FROM:<a@a.test> BODY=BINARYMIME
         S: 501 5.5.4 ...
         C: MAIL FROM:<a@a.test> AUTH=<>
         S: 555 5.5.4 ...",
    );
}

#[test]
fn no_room_at_data_or_commit() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         C: RCPT TO:<fill@c.test>
         S: 250 2.1.5 ...
         C: DATA
         S: 452 4.3.1 ...
         C: RSET
         S: 250 2.0.0 Ok",
    );
    greeted(
        "C: MAIL FROM:<unlucky@a.test>
         C: RCPT TO:<b@c.test>
         C: DATA
         C: .
         S: 250 2.1.0 ...
         S: 250 2.1.5 ...
         S: 354 ...
         S: 452 4.3.1 Disk full
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         E: begin",
    );
}

/// Who has its share is refused by itself: others of the message go on.
#[test]
fn a_destination_that_has_its_share_keeps_nobody_else_from_it() {
    let envelopes = greeted(
        "C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         C: RCPT TO:<hog@c.test>
         S: 452 4.3.1 Enough for this destination
         C: RCPT TO:<b@c.test>
         S: 250 2.1.5 ...
         C: RCPT TO:<hog@c.test>
         S: 452 4.3.1 Enough for this destination
         C: BDAT 4 LAST
         C: hi
         S: 250 2.0.0 ...",
    );
    assert_eq!(envelopes[0].recipients.len(), 1);
    greeted(
        "C: MAIL FROM:<hog@a.test>
         S: 452 4.3.1 Enough of yours
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         C: RCPT TO:<hog@c.test>
         C: DATA
         S: 452 4.3.1 Enough for this destination
         S: 554 5.5.1 ...",
    );
}

#[test]
fn text_after_refused_data_ends_the_session() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         C: RCPT TO:<nobody@c.test>
         C: DATA
         C: Subject: x
         C: MAIL FROM:<evil@a.test>
         S: 250 2.1.0 ...
         S: 550 5.1.1 ...
         S: 554 5.5.1 No valid recipients
         S: 521 5.5.1 ...
         E: close",
    );
    greeted(
        "C: DATA
         S: 503 5.5.1 ...
         C: QUIT
         S: 221 2.0.0 ...",
    );
}

#[test]
fn command_lines_end_at_crlf_only() {
    greeted("R: NOOP\\nQUIT\\r\\n\nS: 521 5.5.2 ...\nE: close");
    greeted("R: \\nNOOP\\r\\n\nS: 521 5.5.2 ...\nE: close");
    greeted("R: NOOP\\rNOOP\\r\\n\nS: 500 5.5.2 ...");
    greeted("R: NO\\0OP\\r\\n\nS: 500 5.5.2 ...");
    greeted("R: NOOP \\e\\r\\n\nS: 500 5.5.2 ...");
}

#[test]
fn long_lines() {
    let text = format!(
        "C: NOOP {}\nS: 500 5.5.2 Line too long\nC: NOOP\nS: 250 2.0.0 Ok",
        "x".repeat(2042)
    );
    greeted(&text);
    greeted(&format!("C: NOOP {}\nS: 250 2.0.0 Ok", "x".repeat(2041)));
}

#[test]
fn other_protocols_are_sent_away() {
    check("C: GET / HTTP/1.1\nC: EHLO a.test\nS: 521 5.5.1 ...\nE: close");
    check("C: POST / HTTP/1.1\nS: 521 5.5.1 ...\nE: close");
}

#[test]
fn starttls_forgets_what_was_said() {
    check(
        "C: EHLO a.test
         S: 250 ...
         C: STARTTLS now
         S: 501 5.5.4 ...
         C: STARTTLS
         S: 220 2.0.0 Ready to start TLS
         C: MAIL FROM:<a@a.test>
         S: 503 5.5.1 EHLO first
         C: EHLO a.test
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE 1000000
         S: 250-ENHANCEDSTATUSCODES
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-DSN
         S: 250 CHUNKING
         C: STARTTLS
         S: 503 5.5.1 TLS is already active
         E: tls",
    );
}

#[test]
fn starttls_that_is_not_offered() {
    let without = Settings {
        offers: Extensions::OURS.without(Extension::StartTls),
        ..settings()
    };
    check_with(
        without,
        peer(),
        &format!("{HELLO}C: STARTTLS\nS: 502 5.5.1 ...\n"),
    );
}

#[test]
fn commands_injected_before_tls_are_not_read() {
    let mut session = Session::new(&Rc::new(settings()), peer());
    let input = b"EHLO a.test\r\nSTARTTLS\r\nMAIL FROM:<evil@a.test>\r\n";
    session.feed(input);
    assert!(session.server.summary().input_before_tls);
    assert!(
        session
            .replies()
            .ends_with("220 2.0.0 Ready to start TLS\r\n")
    );
    session.feed(b"EHLO a.test\r\nRCPT TO:<b@c.test>\r\n");
    assert!(session.replies().ends_with("\r\n503 5.5.1 MAIL first\r\n"));
    assert_eq!(session.server.summary().tls, Some(TLS));
}

#[test]
fn tls_may_be_required() {
    let settings = Settings {
        require_tls: true,
        ..settings()
    };
    check_with(
        settings,
        peer(),
        "C: EHLO a.test
         S: 250 ...
         C: MAIL FROM:<a@a.test>
         S: 530 5.7.0 Must issue a STARTTLS command first
         C: BDAT 6 LAST
         R: QUIT\\r\\n
         S: 530 5.7.0 ...
         C: NOOP
         S: 250 2.0.0 Ok
         C: STARTTLS
         S: 220 2.0.0 ...
         C: EHLO a.test
         S: 250 ...
         C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...",
    );
}

/// The body as sent after 354, refused at its proper end; the session goes on.
fn refused_then_on(body: &str, reply: &str) {
    addressed(&format!(
        "C: DATA\nS: 354 ...\nR: {body}\nS: {reply}\nC: RCPT TO:<b@c.test>\nS: 503 5.5.1 MAIL first\n\
         E: begin\nE: abort\n"
    ));
}

/// The body as sent after 354, which ends the session because of how it seems to end.
fn refused_and_closed(body: &str, reply: &str) {
    addressed(&format!(
        "C: DATA\nS: 354 ...\nR: {body}MAIL FROM:<evil@a.test>\\r\\n\nS: {reply}\n\
         E: begin\nE: abort\nE: close\n"
    ));
}

#[test]
fn bare_lf_does_not_end_data() {
    refused_and_closed("x\\n.\\n", "550 5.6.0 Bare <LF> ...");
}

#[test]
fn lf_dot_crlf_does_not_end_data() {
    refused_and_closed("x\\n.\\r\\n", "550 5.6.0 Bare <LF> ...");
}

#[test]
fn crlf_dot_lf_does_not_end_data() {
    refused_and_closed("x\\r\\n.\\n", "550 5.6.0 Bare <LF> ...");
}

#[test]
fn cr_dot_cr_does_not_end_data() {
    refused_then_on(
        "x\\r.\\rMAIL FROM:<evil@a.test>\\r\\n.\\r\\n",
        "550 5.6.0 Bare <CR> ...",
    );
}

#[test]
fn cr_dot_crlf_does_not_end_data() {
    refused_then_on(
        "x\\r.\\r\\nMAIL FROM:<evil@a.test>\\r\\n.\\r\\n",
        "550 5.6.0 Bare <CR> ...",
    );
}

#[test]
fn crlf_dot_cr_does_not_end_data() {
    refused_then_on(
        "x\\r\\n.\\rMAIL FROM:<evil@a.test>\\r\\n.\\r\\n",
        "550 5.6.0 Bare <CR> ...",
    );
}

#[test]
fn crlf_nul_dot_crlf_does_not_end_data() {
    refused_then_on(
        "x\\r\\n\\0.\\r\\nMAIL FROM:<evil@a.test>\\r\\n.\\r\\n",
        "550 5.6.0 NUL ...",
    );
    refused_then_on(
        "x\\r\\n.\\0\\r\\nMAIL FROM:<evil@a.test>\\r\\n.\\r\\n",
        "550 5.6.0 NUL ...",
    );
}

#[test]
fn bare_lf_in_a_line_is_refused_at_the_end() {
    refused_then_on("x\\ny\\r\\n.\\r\\n", "550 5.6.0 Bare <LF> ...");
    refused_then_on("x\\r\\r\\n.\\r\\n", "550 5.6.0 Bare <CR> ...");
}

#[test]
fn normalising_stuffs_again() {
    addressed_normalising(
        "C: DATA
         S: 354 ...
         R: x\\n.\\nMAIL FROM:<evil@a.test>\\r\\ny\\rz\\r\\r\\n.\\r\\n
         S: 250 2.0.0 ...
         B: \\r\\nx\\r\\n..\\r\\nMAIL FROM:<evil@a.test>\\r\\ny z\\r\\n.\\r\\n",
    );
}

#[test]
fn sender_that_ends_with_bare_lf_is_told_so() {
    let settings = Rc::new(Settings {
        bare_line_ends: BareLineEnds::Normalise,
        ..settings()
    });
    let mut session = Session::new(&settings, peer());
    session.feed(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@c.test>\r\nDATA\r\nx\n.\n");
    assert_eq!(session.server.phase(), Phase::BodyMayBeOver);
    session.out.clear();
    session.server.timed_out(&mut session.out);
    assert!(session.replies().starts_with("521 5.5.2 Data ends with"));
    assert_eq!(session.server.phase(), Phase::Closed);
}

#[test]
fn limits_of_content() {
    let hops = "Received: x\\r\\n".repeat(101);
    refused_then_on(&format!("{hops}\\r\\n.\\r\\n"), "554 5.4.6 ...");
    let settings = Settings {
        max_text_line_bytes: 998,
        max_message_bytes: 3000,
        ..settings()
    };
    let line = "x".repeat(998);
    let text = format!(
        "{ENVELOPE}C: DATA\nS: 354 ...\nC: {line}x\nC: .\nS: 554 5.6.0 ...\n\
         C: MAIL FROM:<>\nC: RCPT TO:<b@c.test>\nC: DATA\n\
         C: {line}\nC: {line}\nC: {line}\nC: .\n\
         S: 250 ...\nS: 250 ...\nS: 354 ...\nS: 250 2.0.0 ...\n\
         C: MAIL FROM:<>\nC: RCPT TO:<b@c.test>\nC: DATA\n\
         C: {line}\nC: {line}\nC: {line}\nC:\nC: .\n\
         S: 250 ...\nS: 250 ...\nS: 354 ...\nS: 552 5.3.4 ...\n"
    );
    check_with(settings, peer(), &text);
}

#[test]
fn chunks_become_a_body() {
    addressed(
        "C: BDAT 7
         R: one\\r\\n.
         R: a
         S: 250 2.0.0 ...
         C: BDAT 0
         S: 250 2.0.0 ...
         C: BDAT 5 LAST
         R: \\r\\n.\\r\\n
         S: 250 2.0.0 Ok: queued as ...
         B: \\r\\none\\r\\n..a\\r\\n..\\r\\n.\\r\\n
         E: begin
         E: message",
    );
    addressed("C: BDAT 0 LAST\nS: 250 2.0.0 ...\nB: \\r\\n.\\r\\n");
    addressed("C: bdat 1 last\nR: x\nS: 250 2.0.0 ...\nB: \\r\\nx\\r\\n.\\r\\n");
}

#[test]
fn crlf_split_over_chunks() {
    addressed(
        "C: BDAT 2\nR: x\\r\nS: 250 2.0.0 ...\nC: BDAT 2 LAST\nR: \\n.\nS: 250 2.0.0 ...\nB: \\r\\nx\\r\\n..\\r\\n.\\r\\n",
    );
    addressed(
        "C: BDAT 2\nR: x\\r\nS: 250 2.0.0 ...\nC: BDAT 1 LAST\nR: y\nS: 550 5.6.0 Bare <CR> ...",
    );
    addressed(
        "C: BDAT 2\nR: x\\r\nS: 250 2.0.0 ...\nC: BDAT 0 LAST\nS: 550 5.6.0 Bare <CR> ...\nE: begin\nE: abort",
    );
}

#[test]
fn refused_chunks_are_swallowed() {
    check(
        "C: BDAT 6 LAST
         R: QUIT\\r\\n
         S: 503 5.5.1 EHLO first
         C: EHLO a.test
         S: 250 ...
         C: BDAT 6 LAST
         R: QUIT\\r\\n
         S: 503 5.5.1 MAIL first
         C: MAIL FROM:<>
         S: 250 2.1.0 ...
         C: BDAT 6
         R: QUIT\\r\\n
         S: 503 5.5.1 RCPT first
         C: MAIL FROM:<>
         S: 250 2.1.0 ...",
    );
    addressed(
        "C: BDAT 6
         R: a\\nIT\\r\\n
         C: BDAT 6 LAST
         R: QUIT\\r\\n
         C: NOOP
         S: 550 5.6.0 Bare <LF> ...
         S: 503 5.5.1 MAIL first
         S: 250 2.0.0 Ok
         E: begin
         E: abort",
    );
}

#[test]
fn chunk_larger_than_any_message() {
    addressed("C: BDAT 18446744073709551615 LAST\nC: NOOP\nS: 552 5.3.4 ...\nE: close");
    addressed("C: BDAT 18446744073709551616 LAST\nC: NOOP\nS: 521 5.5.4 ...\nE: close");
    addressed(
        "C: BDAT 1\nR: x\nS: 250 2.0.0 ...\nC: BDAT 18446744073709551615\nS: 552 5.3.4 ...\nE: begin\nE: close",
    );
    let settings = Settings {
        max_message_bytes: 10,
        ..settings()
    };
    let text = format!(
        "{ENVELOPE}C: BDAT 6\nR: abcdef\nC: BDAT 6\nR: QUIT\\r\\n\nC: NOOP\n\
         S: 250 2.0.0 ...\nS: 552 5.3.4 ...\nS: 250 2.0.0 Ok\nE: begin\nE: abort\n"
    );
    check_with(settings, peer(), &text);
}

#[test]
fn chunk_without_a_size_ends_the_session() {
    for line in ["BDAT", "BDAT x", "BDAT 5 FIRST", "BDAT -1 LAST"] {
        addressed(&format!(
            "C: {line}\nC: MAIL FROM:<evil@a.test>\nS: 521 5.5.4 ...\nE: close"
        ));
    }
    let long = format!(
        "C: BDAT {}\nC: NOOP\nS: 521 5.5.4 ...\nE: close",
        "1".repeat(2048)
    );
    addressed(&long);
}

#[test]
fn chunks_and_data_do_not_mix() {
    addressed(
        "C: BDAT 1
         R: x
         S: 250 2.0.0 ...
         C: MAIL FROM:<>
         S: 503 5.5.1 ...
         C: RCPT TO:<d@c.test>
         S: 503 5.5.1 ...
         C: DATA
         S: 503 5.5.1 Not among chunks: BDAT or RSET
         E: begin
         E: abort",
    );
}

#[test]
fn reset_among_chunks_gives_the_body_up() {
    addressed(
        "C: BDAT 1
         R: x
         S: 250 2.0.0 ...
         C: RSET
         S: 250 2.0.0 Ok
         C: BDAT 1 LAST
         R: x
         S: 503 5.5.1 MAIL first
         E: begin
         E: abort",
    );
}

#[test]
fn false_ends_of_data_within_chunks_are_refused() {
    for (false_end, octets, what) in [
        ("\\n.\\n", 3, "Bare <LF>"),
        ("\\n.\\r\\n", 4, "Bare <LF>"),
        ("\\r\\n.\\n", 4, "Bare <LF>"),
        ("\\r.\\r", 3, "Bare <CR>"),
        ("\\r\\n.\\r", 4, "Bare <CR>"),
        ("\\r\\n\\0.\\r\\n", 6, "NUL"),
        ("\\r\\n.\\0\\r\\n", 6, "NUL"),
    ] {
        let evil = "MAIL FROM:<evil@a.test>\\r\\n";
        addressed(&format!(
            "C: BDAT {} LAST\nR: x{false_end}{evil}\nS: 550 5.6.0 {what} ...\n\
             C: RCPT TO:<b@c.test>\nS: 503 5.5.1 MAIL first\nE: begin\nE: abort",
            1 + octets + 25
        ));
    }
}

#[test]
fn chunk_that_is_shorter_than_its_message_leaves_no_message() {
    // What is left over is read as commands, and is none.
    addressed(
        "C: BDAT 5
         R: Subje
         S: 250 2.0.0 Chunk ok
         R: ct: x\\r\\n
         S: 500 5.5.1 Unknown command
         C: BDAT 0 LAST
         S: 250 2.0.0 Ok: queued as ...
         B: \\r\\nSubje\\r\\n.\\r\\n",
    );
}

#[test]
fn chunk_that_is_longer_than_its_message_swallows_commands() {
    addressed(
        "C: BDAT 13
         R: x\\r\\n
         R: BDAT 0 LAST\\r\\n
         S: 250 2.0.0 Chunk ok
         S: 500 5.5.1 Unknown command
         C: BDAT 0 LAST
         S: 250 2.0.0 Ok: queued as ...
         B: \\r\\nx\\r\\nBDAT 0 LAS\\r\\n.\\r\\n",
    );
}

#[test]
fn addresses_with_controls_or_eight_bits_are_refused() {
    for octet in ["\\0", "\\e", "\\r", "\u{7f}", "\t"] {
        greeted(&format!(
            "R: MAIL FROM:<a{octet}b@a.test>\\r\\n\nS: 500 5.5.2 ..."
        ));
        greeted(&format!(
            "R: MAIL FROM:<\"a\\\\{octet}b\"@a.test>\\r\\n\nS: 500 5.5.2 ..."
        ));
    }
    for address in ["é@a.test", "a@é.test", "\"é\"@a.test"] {
        greeted(&format!("C: MAIL FROM:<{address}>\nS: 553 5.6.7 ..."));
        greeted(&format!(
            "C: MAIL FROM:<>\nS: 250 2.1.0 ...\nC: RCPT TO:<{address}>\nS: 553 5.6.7 ..."
        ));
    }
    greeted("C: MAIL FROM:<a\u{85}b@a.test> SMTPUTF8\nS: 501 5.1.7 ...");
    greeted("C: MAIL FROM:<a@b\u{3002}test> SMTPUTF8\nS: 501 5.1.7 ...");
}

#[test]
fn arguments_that_are_too_long_are_refused() {
    let (x64, x129) = ("x".repeat(64), "x".repeat(129));
    let domain = "abcdefg.".repeat(32) + "test";
    check(&format!("C: EHLO {}\nS: 501 5.5.4 ...", "x".repeat(256)));
    for address in [
        format!("{x129}@a.test"),
        format!("a@{x64}.test"),
        format!("a@{domain}"),
        format!("\"{x129}\"@a.test"),
    ] {
        greeted(&format!("C: MAIL FROM:<{address}>\nS: 501 5.1.7 ..."));
    }
    greeted(&format!("C: MAIL FROM:<> ENVID={x129}\nS: 501 5.5.4 ..."));
    let orcpt = "x".repeat(501);
    greeted(&format!(
        "C: MAIL FROM:<>\nS: 250 2.1.0 ...\nC: RCPT TO:<a@c.test> ORCPT=rfc822;{orcpt}\nS: 501 5.5.4 ..."
    ));
}

#[test]
fn errors_are_counted() {
    let settings = || Settings {
        max_errors: 3,
        ..settings()
    };
    check_with(
        settings(),
        peer(),
        "C: A
         C: B
         C: C
         C: NOOP
         S: 500 5.5.1 ...
         S: 500 5.5.1 ...
         S: 500 5.5.1 ...
         S: 421 4.7.0 Too many errors
         E: close",
    );
    let text = format!(
        "{ENVELOPE}C: A\nC: B\nC: DATA\nC: .\nC: A\nC: B\nS: 500 ...\nS: 500 ...\nS: 354 ...\nS: 250 2.0.0 ...\nS: 500 ...\nS: 500 ...\n"
    );
    check_with(settings(), peer(), &text);
}

#[test]
fn idling_is_counted() {
    let settings = Settings {
        max_idle_commands: 3,
        ..settings()
    };
    let text = format!(
        "{HELLO}C: NOOP\nC: RSET\nC: NOOP\nS: 250 ...\nS: 250 ...\nS: 421 4.7.0 ...\nE: close"
    );
    check_with(settings, peer(), &text);
}

#[test]
fn chunks_of_nothing_are_idling() {
    let settings = Settings {
        max_idle_commands: 3,
        ..settings()
    };
    let text = format!(
        "{ENVELOPE}C: BDAT 0\nC: BDAT 0\nS: 250 2.0.0 ...\n\
         S: 421 4.7.0 ...\nE: begin\nE: close"
    );
    check_with(settings, peer(), &text);
}

/// What a session may say until it is ended, `flood` again and again behind `opening`.
fn said_until_closed(opening: &str, flood: &str) -> usize {
    let mut session = Session::new(&Rc::new(settings()), peer());
    session.feed(format!("EHLO a.test\r\n{opening}").as_bytes());
    (0..100_000)
        .find(|_| {
            session.feed(flood.as_bytes());
            session.out.clear();
            session.body.clear();
            session.outcome.events.last() == Some(&"close")
        })
        .expect("nobody goes on for ever")
}

#[test]
fn a_flood_without_effect_is_ended_whatever_it_is_made_of() {
    let envelope = "MAIL FROM:<a@b.test>\r\nRCPT TO:<b@c.test>\r\n";
    let recipients = "RCPT TO:<b@c.test>\r\n".repeat(1000);
    let many = format!("MAIL FROM:<a@b.test>\r\n{recipients}RSET\r\n");
    for (opening, flood, most) in [
        ("", "NOOP\r\n", 100),
        ("", "RSET\r\n", 100),
        ("", "HELP\r\n", 100),
        ("", "VRFY a\r\n", 100),
        ("", "EHLO a.test\r\n", 100),
        ("", "HELO a.test\r\n", 100),
        ("", "\r\n", 20),
        ("", "EXPN a\r\n", 20),
        ("", "DATA\r\n", 20),
        ("", "BDAT 0\r\n", 20),
        ("", "BDAT 3\r\nabc", 20),
        (envelope, "STARTTLS\r\n", 20),
        ("", "MAIL FROM:<a@b.test>\r\nRSET\r\n", 100),
        ("", "MAIL FROM:<a@b.test>\r\nEHLO a.test\r\n", 100),
        ("", "MAIL FROM:<a@b.test>\r\nDATA\r\n", 20),
        ("", &many, 10),
        (envelope, "BDAT 0\r\n", 100),
        (envelope, "BDAT 1\r\nx", 10_000),
        (envelope, "RCPT TO:<b@c.test>\r\n", 11_000),
    ] {
        let said = said_until_closed(opening, flood);
        assert!(said <= most, "{flood:.40?}: {said}");
    }
}

#[test]
fn a_connection_that_is_kept_open_by_noop_lives_on() {
    let mut session = Session::new(&Rc::new(settings()), peer());
    session.feed(b"EHLO a.test\r\n");
    for command in 1..10_000u64 {
        session.server.note_time(Now(command * 10_000_000));
        session.feed(b"NOOP\r\n");
        assert_ne!(session.outcome.events.last(), Some(&"close"), "{command}");
    }
}

/// A client that sends its messages line by line, and one with an RSET around each message.
#[test]
fn odd_but_honest_clients_are_no_flood() {
    let line = "BDAT 60\r\n0123456789012345678901234567890123456789012345678901234567\r\n";
    let mail = "MAIL FROM:<a@b.test>\r\nRCPT TO:<b@c.test>\r\n";
    let message = format!(
        "RSET\r\n{mail}{}BDAT 0 LAST\r\nRSET\r\n",
        line.repeat(2_000)
    );
    let mut session = Session::new(&Rc::new(settings()), peer());
    session.feed(b"EHLO a.test\r\n");
    for _ in 0..50 {
        session.feed(message.as_bytes());
    }
    assert_eq!(session.server.summary().messages, 50);
}

#[test]
fn endless_transient_refusals_are_counted() {
    let settings = Settings {
        max_transient_refusals: 2,
        ..settings()
    };
    let text = format!(
        "{HELLO}C: MAIL FROM:<a@b.test> SIZE=900001\nS: 452 4.3.1 ...\n\
         C: MAIL FROM:<a@b.test> SIZE=900001\nS: 452 4.3.1 ...\nS: 421 4.7.0 ...\nE: close"
    );
    check_with(settings, peer(), &text);
}

#[test]
fn recipients_and_transactions_are_counted() {
    let settings = Settings {
        max_recipients: 2,
        max_transactions: 2,
        ..settings()
    };
    let text = format!(
        "{ENVELOPE}C: RCPT TO:<d@c.test>\nS: 250 2.1.5 ...\nC: RCPT TO:<e@c.test>\nS: 452 4.5.3 ...\n\
         C: DATA\nC: .\nS: 354 ...\nS: 250 2.0.0 ...\nC: MAIL FROM:<>\nS: 250 2.1.0 ...\n\
         C: RSET\nS: 250 ...\nC: MAIL FROM:<>\nS: 421 4.7.0 ...\nE: begin\nE: message\nE: close"
    );
    check_with(settings, peer(), &text);
}

#[test]
fn summary_tells_the_session() {
    let mut session = Session::new(&Rc::new(settings()), peer());
    assert!(session.server.is_idle());
    session
        .feed(b"EHLO a.test\r\nMAIL FROM:<>\r\nRCPT TO:<b@c.test>\r\nRCPT TO:<nobody@c.test>\r\n");
    assert!(!session.server.is_idle());
    session.feed(b"DATA\r\nabc\r\n.\r\nNO");
    assert!(!session.server.is_idle());
    session.feed(b"OP\r\n");
    assert!(session.server.is_idle());
    let summary = session.server.summary();
    assert_eq!(&*summary.hello, "a.test");
    assert_eq!(
        (summary.messages, summary.recipients, summary.message_bytes),
        (1, 1, 5)
    );
    assert_eq!((summary.transactions, summary.refusals), (1, 1));
    assert_eq!(summary.last_refusal, "550 5.1.1 No such user");
    session.out.clear();
    session.server.shutting_down(&mut session.out);
    assert_eq!(session.replies(), "421 4.3.2 Shutting down\r\n");
}

#[test]
fn trace_header_is_that_of_the_session() {
    let settings = Rc::new(settings());
    let mut server = Server::new(settings, peer());
    let (mut body, mut out) = (Vec::new(), Vec::new());
    server.greet(&mut out);
    let input = b"EHLO a.test\r\nMAIL FROM:<>\r\nRCPT TO:<b@c.test>\r\nDATA\r\nx\r\n.\r\n";
    let (consumed, step) = server.handle(input, &TestPolicy::default(), &mut body, &mut out);
    assert!(matches!(step, Step::BeginBody));
    let id = MessageId {
        run: 1,
        core: 2,
        sequence: 3,
    };
    server.trace(id, WallTime(0), &mut body);
    let (_, step) = server.handle(
        &input[consumed..],
        &TestPolicy::default(),
        &mut body,
        &mut out,
    );
    assert!(matches!(step, Step::EndOfData(_)));
    assert_eq!(
        String::from_utf8(body).unwrap(),
        "Received: from a.test ([192.0.2.1])\r\n\tby mx.test (ringpost) with ESMTP\r\n\
         \tid 1-2-3\r\n\tfor <b@c.test>;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n\r\nx\r\n.\r\n"
    );
}

/// Octets as they come from somebody who means harm: commands, pieces of them, and noise.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"EHLO a.test\r\n".to_vec()),
        Just(b"MAIL FROM:<a@a.test>\r\n".to_vec()),
        Just(b"RCPT TO:<b@c.test>\r\n".to_vec()),
        Just(b"RCPT TO:<\xc2\x85b@x>\r\n".to_vec()),
        Just(b"RCPT TO:<b@\xc3\xa9.test>\r\n".to_vec()),
        Just(b"DATA\r\n".to_vec()),
        Just(b"BDAT 5 LAST\r\n".to_vec()),
        Just(b"BDAT 3\r\n".to_vec()),
        Just(b"BDAT".to_vec()),
        Just(b"RSET\r\n".to_vec()),
        Just(b"\r\n.\r\n".to_vec()),
        Just(b".".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"abc".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn run_all(settings: &Rc<Settings>, pieces: &[&[u8]]) -> Outcome {
    let trusted = PeerInfo {
        trusted: true,
        ..peer()
    };
    let mut session = Session::new(settings, trusted);
    session.feed(b"EHLO a.test\r\n");
    pieces.iter().for_each(|piece| session.feed(piece));
    session.finish()
}

proptest! {
    #[test]
    fn no_input_panics_or_depends_on_its_cuts(input in hostile(), normalise: bool) {
        let bare_line_ends = if normalise { BareLineEnds::Normalise } else { BareLineEnds::Refuse };
        let settings = Rc::new(Settings { bare_line_ends, max_message_bytes: 20, ..settings() });
        let whole = run_all(&settings, &[&input]);
        for at in 0..=input.len() {
            let (head, tail) = input.split_at(at);
            prop_assert_eq!(&run_all(&settings, &[head, tail]), &whole, "cut at {}", at);
        }
        let octets: Vec<&[u8]> = input.chunks(1).collect();
        prop_assert_eq!(&run_all(&settings, &octets), &whole);
        prop_assert!(whole.replies.ends_with("\r\n"));
        for line in whole.replies.split_terminator("\r\n") {
            prop_assert!(line.len() <= 510);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", line);
            prop_assert!(line.as_bytes()[..3].iter().all(u8::is_ascii_digit));
        }
        for body in &whole.bodies {
            let text = [b"\r\n", &body[..]].concat();
            prop_assert!(text.ends_with(b"\r\n.\r\n"));
            prop_assert_eq!(text.windows(5).filter(|window| window == b"\r\n.\r\n").count(), 1);
        }
    }

    #[test]
    fn peer_text_in_replies_is_printable(address in "[ -~\u{80}-\u{9f}é\u{1}\r\n]{0,40}") {
        let line = format!("MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<{address}@x.test>\r\n");
        let mut session = Session::new(&Rc::new(settings()), peer());
        session.feed(b"EHLO a.test\r\n");
        session.feed(line.as_bytes());
        let replies = session.replies();
        for line in replies.split_terminator("\r\n") {
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", line);
        }
    }
}

// ---- What is told of refused mail ----

#[test]
fn a_refused_sender_is_told_of() {
    check(
        "C: MAIL FROM:<a@a.test>
         S: 503 ...
         C: EHLO a.test
         S: 250 ...
         C: MAIL FROM:<a@a.test> SIZE=1000001
         S: 552 5.3.4 ...
         C: MAIL FROM:<> SIZE=950000
         S: 452 4.3.1 ...
         C: MAIL FROM:<root>
         S: 501 5.1.7 ...
         C: mail from:<a b@a.test>
         S: 501 ...
         C: MAIL FROM:<a@a.test> X=Y
         S: 555 ...
         T:  MAIL from a@a.test: 503 5.5.1
         T: a.test MAIL from a@a.test: 552 5.3.4
         T: a.test MAIL from <>: 452 4.3.1
         T: a.test MAIL from <root>: 501 5.1.7
         T: a.test MAIL from <a b@a.test>: 501 5.1.7
         T: a.test MAIL from <a@a.test> X=Y: 555 5.5.4",
    );
}

#[test]
fn a_refused_recipient_is_told_of() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         C: RCPT TO:<nobody@c.test>
         S: 550 5.1.1 ...
         C: RCPT TO:<x@elsewhere.test>
         S: 554 5.7.1 ...
         C: RCPT TO:<é@c.test>
         S: 553 5.6.7 ...
         C: RCPT TO:<x y@c.test>
         S: 501 5.1.3 ...
         C: DATA
         S: 554 5.5.1 ...
         T: a.test RCPT from a@a.test to nobody@c.test: 550 5.1.1
         T: a.test RCPT from a@a.test to x@elsewhere.test: 554 5.7.1
         T: a.test RCPT from a@a.test to é@c.test: 553 5.6.7
         T: a.test RCPT from a@a.test to <x y@c.test>: 501 5.1.3",
    );
}

#[test]
fn what_only_follows_from_a_refusal_is_not_told() {
    greeted(
        "C: MAIL FROM:<a@a.test> SIZE=1000001
         S: 552 5.3.4 ...
         C: RCPT TO:<b@c.test>
         S: 503 ...
         C: BDAT 3 LAST
         R: abc
         S: 503 ...
         C: NOTHING
         S: 500 ...
         T: a.test MAIL from a@a.test: 552 5.3.4",
    );
}

#[test]
fn mail_without_the_tls_that_is_demanded_is_told_of() {
    let settings = Settings {
        require_tls: true,
        ..settings()
    };
    let text = "C: EHLO a.test
                S: 250 ...
                C: MAIL FROM:<a@a.test>
                S: 530 5.7.0 ...
                C: RCPT TO:<b@c.test>
                S: 530 5.7.0 ...
                T: a.test MAIL from a@a.test: 530 5.7.0";
    check_with(settings, peer(), text);
}

#[test]
fn refused_content_is_told_of_with_its_recipients() {
    addressed(
        r"C: RCPT TO:<d@c.test>
          S: 250 2.1.5 ...
          C: DATA
          S: 354 ...
          R: bare\nlf\r\n.\r\n
          S: 550 5.6.0 ...
          T: a.test content from a@a.test to b@c.test to d@c.test: 550 5.6.0",
    );
    addressed(
        r"C: BDAT 9 LAST
          R: bare\nlf\r\n
          S: 550 5.6.0 ...
          T: a.test content from a@a.test to b@c.test: 550 5.6.0",
    );
    addressed(
        r"C: BDAT 1 LAST
          R: \r
          S: 550 5.6.0 ...
          T: a.test content from a@a.test to b@c.test: 550 5.6.0",
    );
}

#[test]
fn a_full_disk_is_told_of_at_data() {
    greeted(
        "C: MAIL FROM:<a@a.test>
         S: 250 2.1.0 ...
         C: RCPT TO:<fill@c.test>
         S: 250 2.1.5 ...
         C: DATA
         S: 452 4.3.1 ...
         T: a.test DATA from a@a.test to fill@c.test: 452 4.3.1",
    );
}
