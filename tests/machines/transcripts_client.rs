//! Conversations with the sending machine, each replayed with the peer's bytes split everywhere.
//!
//! A script is read line by line:
//! * `S:` the peer says this line. `S~` the same, ended with a bare LF.
//! * `C:` the next line that the machine says.
//! * `=` the next step: `ready`, `starttls`, `body`, `done ...`, `closed ...`, `failed ...`.
//!   `done` lists `index:verdict reply` divided by `|`, then `relayed`, and `!` if the connection
//!   cannot be used again.
//! * `>` the driver's part: `begin NAME`, `sent`, `tls`, `quit`, `gone` (the peer closed), `late`
//!   (timed out).
//! * `#` is a remark.

use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;
use ringpost::message::{BodyType, Envelope, Mailbox, Notify, Recipient, Ret};
use ringpost::smtp::client::{
    Cause, Client, ClientSettings, ClientStep, RecipientVerdict, TlsWish, Transaction,
    TransactionResult,
};
use ringpost::smtp::reply::Stage;

/// What `begin NAME` offers.
struct Mail {
    envelope: Envelope,
    recipients: Vec<u32>,
    body_bytes: u64,
    uncounted_bytes: u64,
    body_is_8bit: bool,
}

fn mailbox(address: &str) -> Mailbox {
    let (local_part, domain) = address.rsplit_once('@').expect("an address");
    Mailbox::new(local_part, domain)
}

/// From a@src.test, 100 bytes.
fn mail(to: &[&str]) -> Mail {
    Mail {
        envelope: Envelope {
            reverse_path: Some(mailbox("a@src.test")),
            recipients: to.iter().map(|to| Recipient::new(mailbox(to))).collect(),
            ..Envelope::default()
        },
        recipients: (0..to.len() as u32).collect(),
        body_bytes: 100,
        uncounted_bytes: 0,
        body_is_8bit: false,
    }
}

/// `one`, `two` (recipients), `three`, `null`, and those of the tests that need more.
fn named(name: &str) -> Mail {
    match name {
        "one" => mail(&["b@dst.test"]),
        "two" => mail(&["b@dst.test", "c@dst.test"]),
        "three" => mail(&["b@dst.test", "c@dst.test", "d@dst.test"]),
        "null" => {
            let mut null = mail(&["b@dst.test"]);
            null.envelope.reverse_path = None;
            null
        }
        "some" => Mail {
            recipients: vec![2, 0],
            ..named("three")
        },
        "large" => Mail {
            body_bytes: 1_001,
            ..named("one")
        },
        "dotted" => Mail {
            uncounted_bytes: 1,
            ..named("large")
        },
        "mixed" => mail(&["b@dst.test", "j\u{f6}rg@dst.test", "info@b\u{fc}cher.test"]),
        "local" => mail(&["j\u{f6}rg@dst.test"]),
        "idn" => {
            let mut idn = mail(&["info@b\u{fc}cher.test"]);
            idn.envelope.reverse_path = Some(mailbox("a@b\u{fc}cher.test"));
            idn.envelope.recipients[0].orcpt = Some("utf-8;info@b\u{fc}cher.test".into());
            idn
        }
        "8bit" => Mail {
            body_is_8bit: true,
            ..named("one")
        },
        "utf8" => {
            let mut utf8 = mail(&["b@dst.test"]);
            utf8.envelope.smtputf8 = true;
            utf8.envelope.body_type = BodyType::EightBitMime;
            utf8
        }
        "dsn" => dsn(),
        _ => panic!("no mail is called {name:?}"),
    }
}

fn dsn() -> Mail {
    let mut dsn = mail(&["b@dst.test", "c@dst.test", "d@dst.test"]);
    dsn.envelope.ret = Some(Ret::Headers);
    dsn.envelope.envid = Some("QQ+2B1".into());
    let recipients = &mut dsn.envelope.recipients;
    recipients[0].notify = Some(Notify {
        success: true,
        failure: true,
        delay: false,
    });
    recipients[0].orcpt = Some("rfc822;b@dst.test".into());
    recipients[1].notify = Some(Notify::NEVER);
    recipients[2].notify = Some(Notify {
        success: true,
        ..Notify::NEVER
    });
    dsn
}

/// Plays one script with the peer's bytes cut before byte `split`, or at every byte.
struct Player<'a> {
    client: Client,
    script: &'a str,
    /// Bytes of the peer that have arrived and are not consumed, and that come later.
    arrived: VecDeque<u8>,
    coming: VecDeque<u8>,
    /// Bytes that the peer has said so far.
    said: usize,
    split: Split,
    out: Vec<u8>,
    steps: VecDeque<ClientStep>,
    /// The script has seen the last step, which comes for ever.
    is_over: bool,
}

#[derive(Clone, Copy)]
enum Split {
    At(usize),
    Everywhere,
}

impl Player<'_> {
    fn say(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let is_cut = match self.split {
                Split::Everywhere => true,
                Split::At(at) => at <= self.said,
            };
            if is_cut || !self.coming.is_empty() {
                self.coming.push_back(byte);
            } else {
                self.arrived.push_back(byte);
            }
            self.said += 1;
        }
    }

    fn more_arrives(&mut self) -> bool {
        let count = match self.split {
            Split::Everywhere => 1,
            Split::At(_) => self.coming.len(),
        };
        let count = count.min(self.coming.len());
        self.arrived.extend(self.coming.drain(..count));
        count > 0
    }

    /// Handles what has arrived up to the next step, or all of it.
    fn pump(&mut self) {
        loop {
            let input: Vec<u8> = self.arrived.iter().copied().collect();
            let (consumed, step) = self.client.handle(&input, &mut self.out);
            assert!(consumed <= input.len());
            self.arrived.drain(..consumed);
            if step != ClientStep::NeedInput {
                return self.take(step);
            }
            assert!(self.arrived.is_empty(), "NeedInput leaves nothing");
            if !self.more_arrives() {
                return;
            }
        }
    }

    fn take(&mut self, step: ClientStep) {
        if step == ClientStep::StartTls {
            self.arrived.clear();
            self.coming.clear();
        }
        self.steps.push_back(step);
    }

    fn line(&mut self, line: &str) {
        match line.split_at(line.len().min(2)) {
            ("S:", text) => self.say(format!("{}\r\n", text.trim_start()).as_bytes()),
            ("S~", text) => self.say(format!("{}\n", text.trim_start()).as_bytes()),
            ("C:", text) => self.expect_line(text.trim_start()),
            ("= ", text) => self.expect_step(text),
            ("> ", text) => self.drive(text),
            ("# " | "", _) => {}
            _ => panic!("what is {line:?}?"),
        }
    }

    fn expect_line(&mut self, expected: &str) {
        if !self.out.contains(&b'\n') && self.steps.is_empty() {
            self.pump();
        }
        let end = self.out.iter().position(|&byte| byte == b'\n');
        let end = end.unwrap_or_else(|| panic!("nothing said, not {expected:?}"));
        let line: Vec<u8> = self.out.drain(..=end).collect();
        assert_eq!(String::from_utf8(line).unwrap(), format!("{expected}\r\n"));
    }

    fn expect_step(&mut self, expected: &str) {
        if self.steps.is_empty() {
            self.pump();
        }
        let step = self.steps.pop_front();
        let step = step.unwrap_or_else(|| panic!("no step, not {expected:?}"));
        assert_eq!(tell(&step), expected.trim());
        self.is_over = matches!(step, ClientStep::Closed(_) | ClientStep::Failed(_));
    }

    fn drive(&mut self, what: &str) {
        match what.split_once(' ').unwrap_or((what, "")) {
            ("begin", name) => self.begin(name),
            ("sent", _) => self.client.body_sent(),
            ("tls", _) => self.client.tls_established(&mut self.out),
            ("quit", _) => self.client.quit(&mut self.out),
            ("gone", _) => {
                self.pump();
                let step = self.client.peer_closed();
                self.take(step);
            }
            ("late", _) => {
                self.pump();
                let step = self.client.timed_out();
                self.take(step);
            }
            _ => panic!("what is {what:?}?"),
        }
    }

    fn begin(&mut self, name: &str) {
        let mail = named(name);
        let transaction = Transaction {
            envelope: &mail.envelope,
            recipients: &mail.recipients,
            body_bytes: mail.body_bytes,
            uncounted_bytes: mail.uncounted_bytes,
            body_is_8bit: mail.body_is_8bit,
        };
        assert!(self.client.can_begin(), "cannot begin {name}");
        if let Err(unfit) = self.client.begin(&transaction, &mut self.out) {
            let result = TransactionResult::unfit(&transaction, &unfit);
            self.steps.push_back(ClientStep::Done(result));
        }
    }

    fn play(&mut self) {
        for line in self.script.lines().map(str::trim) {
            self.line(line);
        }
        if self.steps.is_empty() {
            self.pump();
        }
        if self.is_over {
            self.steps.clear();
        }
        assert_eq!(self.steps, [], "steps nobody expected");
        assert_eq!(String::from_utf8_lossy(&self.out), "", "said at the end");
    }
}

fn tell(step: &ClientStep) -> String {
    match step {
        ClientStep::NeedInput => "need input".into(),
        ClientStep::StartTls => "starttls".into(),
        ClientStep::Ready => "ready".into(),
        ClientStep::SendBody => "body".into(),
        ClientStep::Done(result) => tell_result(result),
        ClientStep::Closed(None) => "closed".into(),
        ClientStep::Closed(Some(reply)) => format!("closed {reply}"),
        ClientStep::Failed(failure) => {
            let stage = failure.stage.name();
            match &failure.cause {
                Cause::Refused(reply) => format!("failed {stage}: refused {reply}"),
                Cause::Unexpected(reply) => format!("failed {stage}: unexpected {reply}"),
                Cause::Loop(reply) => format!("failed {stage}: loop {reply}"),
                Cause::TlsUnavailable(None) => format!("failed {stage}: no TLS"),
                Cause::TlsUnavailable(Some(reply)) => format!("failed {stage}: no TLS {reply}"),
                Cause::PeerClosed => format!("failed {stage}: peer closed"),
                Cause::TimedOut => format!("failed {stage}: timed out"),
                Cause::Malformed(error) => format!("failed {stage}: {error}"),
            }
        }
    }
}

fn tell_result(result: &TransactionResult) -> String {
    let verdicts: Vec<String> = result
        .verdicts
        .iter()
        .map(|(index, verdict)| match verdict {
            RecipientVerdict::Accepted { reply } => format!("{index}:ok {reply}"),
            RecipientVerdict::Refused { stage, reply } => {
                format!("{index}:{} {reply}", stage.name())
            }
            RecipientVerdict::NotAttempted => format!("{index}:not-attempted"),
            RecipientVerdict::LostInBody => format!("{index}:lost-in-body"),
            RecipientVerdict::LostAfterData => format!("{index}:lost-after-data"),
            RecipientVerdict::Unfit(unfit) => format!("{index}:unfit {}", unfit.status),
        })
        .collect();
    let mut text = format!("done {}", verdicts.join(" | "));
    if !result.relayed.is_empty() {
        text.push_str(&format!(" relayed {:?}", result.relayed));
    }
    if !result.reusable {
        text.push_str(" !");
    }
    text
}

fn check_with(wish: TlsWish, script: &str) {
    let play = |split| {
        let settings = ClientSettings {
            hostname: "gw.test".into(),
            starttls: wish,
            detect_loop: true,
        };
        let mut player = Player {
            client: Client::new(Rc::new(settings)),
            script,
            arrived: VecDeque::new(),
            coming: VecDeque::new(),
            said: 0,
            split,
            out: Vec::new(),
            steps: VecDeque::new(),
            is_over: false,
        };
        player.play();
        player.said
    };
    let length = play(Split::At(usize::MAX));
    play(Split::Everywhere);
    for at in 0..length {
        play(Split::At(at));
    }
}

fn check(script: &str) {
    check_with(TlsWish::IfOffered, script);
}

/// A session with these features stands; then the script.
fn check_session(features: &[&str], script: &str) {
    let mut ehlo = String::new();
    for feature in features {
        ehlo.push_str(&format!("S: 250-{feature}\n"));
    }
    check_with(
        TlsWish::Never,
        &format!(
            "S: 220 mx.test ESMTP\nC: EHLO gw.test\nS: 250-mx.test\n{ehlo}S: 250 HELP\n= ready\n{script}"
        ),
    );
}

const PIPELINING: &[&str] = &["PIPELINING"];
const PLAIN: &[&str] = &[];

#[test]
fn postfix() {
    check(
        "S: 220 mail.dst.test ESMTP Postfix (Debian/GNU)
         C: EHLO gw.test
         S: 250-mail.dst.test
         S: 250-PIPELINING
         S: 250-SIZE 10240000
         S: 250-VRFY
         S: 250-ETRN
         S: 250-STARTTLS
         S: 250-ENHANCEDSTATUSCODES
         S: 250-8BITMIME
         S: 250-DSN
         S: 250-SMTPUTF8
         S: 250 CHUNKING
         C: STARTTLS
         S: 220 2.0.0 Ready to start TLS
         = starttls
         > tls
         C: EHLO gw.test
         S: 250-mail.dst.test
         S: 250-PIPELINING
         S: 250-SIZE 10240000
         S: 250-DSN
         S: 250 8BITMIME
         = ready
         > begin two
         C: MAIL FROM:<a@src.test> SIZE=100
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA
         S: 250 2.1.0 Ok
         S: 250 2.1.5 Ok
         S: 550 5.1.1 <c@dst.test>: Recipient address rejected: User unknown in local recipient table
         S: 354 End data with <CR><LF>.<CR><LF>
         = body
         > sent
         S: 250 2.0.0 Ok: queued as 3CF6B2AAE8
         = done 0:ok 250 2.0.0 Ok: queued as 3CF6B2AAE8 | 1:RCPT 550 5.1.1 <c@dst.test>: Recipient address rejected: User unknown in local recipient table
         > quit
         C: QUIT
         S: 221 2.0.0 Bye
         = closed 221 2.0.0 Bye",
    );
}

#[test]
fn exchange_2019() {
    check(
        "S: 220 EX19.corp.test Microsoft ESMTP MAIL Service ready at Tue, 24 Nov 2026 10:00:00 +0100
         C: EHLO gw.test
         S: 250-EX19.corp.test Hello [192.0.2.10]
         S: 250-SIZE 37748736
         S: 250-PIPELINING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250-STARTTLS
         S: 250-X-ANONYMOUSTLS
         S: 250-AUTH NTLM
         S: 250-X-EXPS GSSAPI NTLM
         S: 250-8BITMIME
         S: 250-BINARYMIME
         S: 250-CHUNKING
         S: 250-SMTPUTF8
         S: 250 XRDST
         C: STARTTLS
         S: 220 2.0.0 SMTP server ready
         = starttls
         > tls
         C: EHLO gw.test
         S: 250-EX19.corp.test Hello [192.0.2.10]
         S: 250-SIZE 37748736
         S: 250-PIPELINING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250-AUTH NTLM LOGIN
         S: 250-X-EXPS GSSAPI NTLM
         S: 250-8BITMIME
         S: 250-BINARYMIME
         S: 250-CHUNKING
         S: 250-SMTPUTF8
         S: 250 XRDST
         = ready
         > begin dsn
         C: MAIL FROM:<a@src.test> SIZE=100 RET=HDRS ENVID=QQ+2B1
         C: RCPT TO:<b@dst.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@dst.test
         C: RCPT TO:<c@dst.test> NOTIFY=NEVER
         C: RCPT TO:<d@dst.test> NOTIFY=SUCCESS
         C: DATA
         S: 250 2.1.0 Sender OK
         S: 250 2.1.5 Recipient OK
         S: 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup
         S: 250 2.1.5 Recipient OK
         S: 354 Start mail input; end with <CRLF>.<CRLF>
         = body
         > sent
         S: 250 2.6.0 <1@src.test> [InternalId=68719476737, Hostname=EX19.corp.test] 1366 bytes in 0.110, 12,106 KB/sec Queued mail for delivery
         = done 0:ok 250 2.6.0 <1@src.test> [InternalId=68719476737, Hostname=EX19.corp.test] 1366 bytes in 0.110, 12,106 KB/sec Queued mail for delivery | 1:RCPT 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup | 2:ok 250 2.6.0 <1@src.test> [InternalId=68719476737, Hostname=EX19.corp.test] 1366 bytes in 0.110, 12,106 KB/sec Queued mail for delivery
         > quit
         C: QUIT
         S: 221 2.0.0 Service closing transmission channel
         = closed 221 2.0.0 Service closing transmission channel",
    );
}

#[test]
fn exchange_2016_under_back_pressure() {
    check(
        "S: 220 EX16.corp.test Microsoft ESMTP MAIL Service ready at Tue, 24 Nov 2026 10:00:00 +0100
         C: EHLO gw.test
         S: 250-EX16.corp.test Hello [192.0.2.10]
         S: 250-SIZE
         S: 250-PIPELINING
         S: 250-DSN
         S: 250-ENHANCEDSTATUSCODES
         S: 250-X-ANONYMOUSTLS
         S: 250-AUTH=LOGIN
         S: 250-8BITMIME
         S: 250-BINARYMIME
         S: 250-CHUNKING
         S: 250-XEXCH50
         S: 250-XRDST
         S: 250 XSHADOWREQUEST
         = ready
         > begin one
         C: MAIL FROM:<a@src.test> SIZE=100
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 452 4.3.1 Insufficient system resources (UsedDiskSpace[C:\\Queue])
         S: 503 5.5.2 Need mail command
         S: 503 5.5.2 Need mail command
         = done 0:MAIL 452 4.3.1 Insufficient system resources (UsedDiskSpace[C:\\Queue])
         > begin one
         C: MAIL FROM:<a@src.test> SIZE=100
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 2.1.0 Sender OK
         S: 451 4.7.0 Temporary server error. Please try again later. PRX2
         S: 503 5.5.2 Need rcpt command
         = done 0:RCPT 451 4.7.0 Temporary server error. Please try again later. PRX2",
    );
}

#[test]
fn mdaemon() {
    check(
        "S: 220 mail.corp.test ESMTP MDaemon 21.5.1; Tue, 24 Nov 2026 10:00:00 +0100
         C: EHLO gw.test
         S: 250-mail.corp.test Hello gw.test [192.0.2.10], pleased to meet you
         S: 250-ETRN
         S: 250-AUTH LOGIN CRAM-MD5 PLAIN
         S: 250-8BITMIME
         S: 250-ENHANCEDSTATUSCODES
         S: 250-STARTTLS
         S: 250 SIZE
         C: STARTTLS
         S: 220 Begin TLS negotiation
         = starttls
         > tls
         C: EHLO gw.test
         S: 250-mail.corp.test Hello gw.test [192.0.2.10], pleased to meet you
         S: 250-ETRN
         S: 250-AUTH LOGIN CRAM-MD5 PLAIN
         S: 250-8BITMIME
         S: 250-ENHANCEDSTATUSCODES
         S: 250 SIZE
         = ready
         > begin two
         C: MAIL FROM:<a@src.test> SIZE=100
         S: 250 2.1.0 Sender OK
         C: RCPT TO:<b@dst.test>
         S: 250 2.1.5 Recipient OK
         C: RCPT TO:<c@dst.test>
         S: 552 5.2.2 Mailbox full
         C: DATA
         S: 354 Enter mail, end with <CRLF>.<CRLF>
         = body
         > sent
         S: 250 2.6.0 Ok, message saved <Message-ID: 1@src.test>
         = done 0:ok 250 2.6.0 Ok, message saved <Message-ID: 1@src.test> | 1:RCPT 552 5.2.2 Mailbox full
         > quit
         C: QUIT
         S: 221 2.0.0 See ya in cyberspace
         = closed 221 2.0.0 See ya in cyberspace",
    );
}

#[test]
fn sendmail() {
    check(
        "S: 220 mail.dst.test ESMTP Sendmail 8.17.1/8.17.1/Debian-1; Tue, 24 Nov 2026 10:00:00 +0100; (No UCE/UBE) logging access from: gw.test
         C: EHLO gw.test
         S: 250-mail.dst.test Hello gw.test [192.0.2.10], pleased to meet you
         S: 250-ENHANCEDSTATUSCODES
         S: 250-PIPELINING
         S: 250-EXPN
         S: 250-VERB
         S: 250-8BITMIME
         S: 250-SIZE
         S: 250-DSN
         S: 250-ETRN
         S: 250-STARTTLS
         S: 250-DELIVERBY
         S: 250 HELP
         C: STARTTLS
         S: 454 4.3.3 TLS not available after start
         = ready
         > begin 8bit
         C: MAIL FROM:<a@src.test> SIZE=100 BODY=8BITMIME
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 2.1.0 <a@src.test>... Sender ok
         S: 250 2.1.5 <b@dst.test>... Recipient ok
         S: 354 Enter mail, end with \".\" on a line by itself
         = body
         > sent
         S: 250 2.0.0 6AOA00aB012345 Message accepted for delivery
         = done 0:ok 250 2.0.0 6AOA00aB012345 Message accepted for delivery
         > quit
         C: QUIT
         S: 221 2.0.0 mail.dst.test closing connection
         = closed 221 2.0.0 mail.dst.test closing connection",
    );
}

/// Canaries: the player must notice what is wrong.
mod canaries {
    use super::check_session;

    #[test]
    #[should_panic(expected = "steps nobody expected")]
    fn an_end_that_the_script_does_not_know() {
        check_session(super::PLAIN, "S: 421 bye");
    }

    #[test]
    #[should_panic(expected = "said at the end")]
    fn a_command_that_the_script_does_not_know() {
        check_session(super::PLAIN, "> quit");
    }

    #[test]
    #[should_panic(expected = "0:RCPT 550 no")]
    fn another_verdict() {
        check_session(
            super::PLAIN,
            "> begin one
             C: MAIL FROM:<a@src.test>
             S: 250 ok
             C: RCPT TO:<b@dst.test>
             S: 550 no
             = done 0:ok 250 ok",
        );
    }
}

#[test]
fn greeting_of_many_lines() {
    check(
        "S: 220-mx.test ESMTP
         S: 220-We do not authorize the use of this system
         S: 220 to transport unsolicited mail
         C: EHLO gw.test
         S: 250 mx.test
         = ready",
    );
}

#[test]
fn greeting_says_no() {
    for (greeting, quit) in [
        ("554 5.7.1 No SMTP service here", "C: QUIT"),
        ("450 4.3.2 later", "C: QUIT"),
        ("421 4.3.2 too many connections", ""),
    ] {
        check(&format!(
            "S: {greeting}
             = failed greeting: refused {greeting}
             {quit}"
        ));
    }
    check("S: 354 go on\n= failed greeting: unexpected 354 go on\nC: QUIT");
}

#[test]
fn what_greets_is_no_mail_server() {
    check("S: HTTP/1.1 400 Bad Request\n= failed greeting: malformed reply");
    check("S: SSH-2.0-OpenSSH_9.6\n= failed greeting: malformed reply");
    check("> gone\n= failed greeting: peer closed");
    check("S: 220-hello\n> late\n= failed greeting: timed out");
}

#[test]
fn bare_line_feeds_are_understood() {
    check(
        "S~ 220-mx.test
         S~ 220 hello
         C: EHLO gw.test
         S~ 250-mx.test
         S~ 250 PIPELINING
         = ready",
    );
}

#[test]
fn ehlo_refused_then_helo() {
    for refusal in ["500 what?", "502 5.5.1 no", "504 no", "550 no"] {
        check(&format!(
            "S: 220 old.test
             C: EHLO gw.test
             S: {refusal}
             C: HELO gw.test
             S: 250 old.test
             = ready
             > begin 8bit
             C: MAIL FROM:<a@src.test>
             S: 250 ok
             C: RCPT TO:<b@dst.test>
             S: 251 will forward
             C: DATA
             S: 354 go
             = body
             > sent
             S: 250 ok
             = done 0:ok 250 ok"
        ));
    }
    check(
        "S: 220 old.test
         C: EHLO gw.test
         S: 550 5.7.1 blocked
         C: HELO gw.test
         S: 550 5.7.1 blocked
         = failed EHLO: refused 550 5.7.1 blocked
         C: QUIT",
    );
    check(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 451 4.3.0 later
         = failed EHLO: refused 451 4.3.0 later
         C: QUIT",
    );
    check(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 421 4.3.2 shutting down
         = failed EHLO: refused 421 4.3.2 shutting down",
    );
}

#[test]
fn our_own_name_is_a_loop() {
    check(
        "S: 220 GW.test. ESMTP ringpost\n= failed greeting: loop 220 GW.test. ESMTP ringpost\nC: QUIT",
    );
    check(
        "S: 220 mx.test ESMTP
         C: EHLO gw.test
         S: 250-gw.test Hello
         S: 250 PIPELINING
         = failed EHLO: loop 250 gw.test Hello PIPELINING
         C: QUIT",
    );
    check("S: 220 gw.test.example ESMTP\nC: EHLO gw.test\nS: 250 x\n= ready");
}

#[test]
fn tls_required() {
    let require = |script: &str| check_with(TlsWish::Required, script);
    require(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 250 mx.test
         = failed EHLO: no TLS
         C: QUIT",
    );
    require(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 250-mx.test
         S: 250 STARTTLS
         C: STARTTLS
         S: 454 4.7.0 not now
         = failed STARTTLS: no TLS 454 4.7.0 not now
         C: QUIT",
    );
    require(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 502 no
         C: HELO gw.test
         S: 250 mx.test
         = failed EHLO: no TLS
         C: QUIT",
    );
}

#[test]
fn starttls_421_ends_the_session() {
    check(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 250-mx.test
         S: 250 STARTTLS
         C: STARTTLS
         S: 421 4.3.2 bye
         = failed STARTTLS: refused 421 4.3.2 bye",
    );
}

#[test]
fn handshake_that_the_peer_ends() {
    check(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 250-mx.test
         S: 250 STARTTLS
         C: STARTTLS
         S: 220 go
         = starttls
         > gone
         = failed TLS handshake: peer closed",
    );
}

/// What a man in the middle appends to the 220, and what EHLO said before TLS, counts for nothing.
#[test]
fn nothing_of_before_tls_is_kept() {
    check(
        "S: 220 mx.test
         C: EHLO gw.test
         S: 250-mx.test
         S: 250-PIPELINING
         S: 250-SIZE 10
         S: 250 STARTTLS
         C: STARTTLS
         S: 220 go
         S: 250-evil.test
         S: 250 PIPELINING
         S: 554 injected
         = starttls
         > tls
         C: EHLO gw.test
         S: 250 mx.test
         = ready
         > begin one
         C: MAIL FROM:<a@src.test>
         S: 250 ok
         C: RCPT TO:<b@dst.test>
         S: 550 no
         = done 0:RCPT 550 no",
    );
}

#[test]
fn implicit_tls() {
    check(
        "> tls
         S: 220 mx.test
         C: EHLO gw.test
         S: 250-mx.test
         S: 250 STARTTLS
         = ready
         > quit
         C: QUIT
         S: 221 bye
         = closed 221 bye",
    );
}

#[test]
fn null_reverse_path_and_a_choice_of_recipients() {
    check_session(
        PIPELINING,
        "> begin null
         C: MAIL FROM:<>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 250 ok
         = done 0:ok 250 ok
         > begin some
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<d@dst.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 550 d
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 250 fine
         = done 2:RCPT 550 d | 0:ok 250 fine",
    );
}

#[test]
fn all_recipients_refused_with_pipelining() {
    // DATA refused: the next transaction clears the open one first.
    check_session(
        PIPELINING,
        "> begin two
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA
         S: 250 ok
         S: 550 5.1.1 b
         S: 450 4.2.0 c
         S: 554 5.5.1 Error: no valid recipients
         = done 0:RCPT 550 5.1.1 b | 1:RCPT 450 4.2.0 c
         > begin one
         C: RSET
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 reset
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 250 ok
         = done 0:ok 250 ok",
    );
}

#[test]
fn data_granted_for_nobody_gets_a_lone_dot() {
    check_session(
        PIPELINING,
        "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 354 go
         C: .
         S: 554 no valid recipients
         = done 0:RCPT 550 no
         > begin null
         C: RSET
         C: MAIL FROM:<>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 250 ok
         = done 0:ok 250 ok",
    );
}

#[test]
fn data_granted_after_mail_was_refused_ends_the_session() {
    check_session(
        PIPELINING,
        "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 550 5.7.1 not you
         S: 250 ok
         S: 354 go
         = done 0:MAIL 550 5.7.1 not you !
         = failed DATA: unexpected 354 go",
    );
}

#[test]
fn refusals_without_pipelining() {
    check_session(
        PLAIN,
        "> begin two
         C: MAIL FROM:<a@src.test>
         S: 550 5.7.1 not you
         = done 0:MAIL 550 5.7.1 not you | 1:MAIL 550 5.7.1 not you
         > begin two
         C: MAIL FROM:<a@src.test>
         S: 250 ok
         C: RCPT TO:<b@dst.test>
         S: 550 b
         C: RCPT TO:<c@dst.test>
         S: 551 c
         = done 0:RCPT 550 b | 1:RCPT 551 c
         > begin one
         C: RSET
         S: 250 ok
         C: MAIL FROM:<a@src.test>
         S: 250 ok
         C: RCPT TO:<b@dst.test>
         S: 250 ok
         C: DATA
         S: 451 4.3.0 not now
         # The session has carried other mail, so this might be a neighbour's.
         C: RSET
         S: 250 ok
         = done 0:DATA 451 4.3.0 not now
         > quit
         C: QUIT
         S: 221 bye
         = closed 221 bye",
    );
}

#[test]
fn data_refused_after_recipients_were_accepted() {
    check_session(
        PIPELINING,
        "> begin two
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 550 5.1.1 c
         S: 554 5.7.1 policy
         = done 0:DATA 554 5.7.1 policy | 1:RCPT 550 5.1.1 c",
    );
}

#[test]
fn too_many_recipients() {
    check_session(
        PIPELINING,
        "> begin three
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: RCPT TO:<d@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 452 4.5.3 too many
         S: 452 4.5.3 too many
         S: 354 go
         = body
         > sent
         S: 250 ok
         = done 0:ok 250 ok | 1:RCPT 452 4.5.3 too many | 2:RCPT 452 4.5.3 too many",
    );
}

#[test]
fn content_refused() {
    check_session(
        PIPELINING,
        "> begin two
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 550-5.7.1 looks like
         S: 550 5.7.1 spam
         = done 0:end of data 550 5.7.1 looks like spam | 1:end of data 550 5.7.1 looks like spam
         > begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 452 4.3.1 full
         S: 503 x
         S: 503 x
         C: RSET
         S: 250 ok
         = done 0:MAIL 452 4.3.1 full",
    );
}

#[test]
fn the_next_transaction_follows_the_body() {
    check_session(
        PIPELINING,
        "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         > begin two
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA
         S: 250 first
         S: 250 ok
         S: 250 ok
         S: 550 c
         S: 354 go
         = done 0:ok 250 first
         = body
         > sent
         > begin null
         C: MAIL FROM:<>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 451 4.3.0 second
         = done 0:end of data 451 4.3.0 second | 1:RCPT 550 c
         S: 250 ok
         S: 550 b
         S: 503 none
         = done 0:RCPT 550 b
         > begin one
         C: RSET
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         > quit
         C: QUIT
         S: 250 last
         S: 221 bye
         = done 0:ok 250 last
         = closed 221 bye",
    );
}

/// With one body out and the next transaction's commands behind it, the first is in doubt and the
/// second is not.
const TWO_IN_FLIGHT: &str = "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         > begin two
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA";

#[test]
fn connection_lost_with_two_in_flight() {
    let then = |script: &str| check_session(PIPELINING, &format!("{TWO_IN_FLIGHT}\n{script}"));
    then(
        "> gone
         = done 0:lost-after-data !
         = done 0:not-attempted | 1:not-attempted !
         = failed end of data: peer closed",
    );
    then(
        "S: 250-half a rep
         > late
         = done 0:lost-after-data !
         = done 0:not-attempted | 1:not-attempted !
         = failed end of data: timed out",
    );
    then(
        "S: garbage
         = done 0:lost-after-data !
         = done 0:not-attempted | 1:not-attempted !
         = failed end of data: malformed reply",
    );
    then(
        "S: 421 4.3.2 shutting down
         = done 0:end of data 421 4.3.2 shutting down !
         = done 0:not-attempted | 1:not-attempted !
         = failed end of data: refused 421 4.3.2 shutting down",
    );
    then(
        "S: 250 first
         S: 250 ok
         S: 550 5.1.1 b
         = done 0:ok 250 first
         > gone
         = done 0:RCPT 550 5.1.1 b | 1:not-attempted !
         = failed RCPT: peer closed",
    );
    then(
        "S: 250 first
         S: 421 4.4.2 idle too long
         = done 0:ok 250 first
         = done 0:not-attempted | 1:not-attempted !
         = failed MAIL: refused 421 4.4.2 idle too long",
    );
    then(
        "S: 250 first
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         = done 0:ok 250 first
         = body
         > gone
         = done 0:lost-in-body | 1:lost-in-body !
         = failed message content: peer closed",
    );
    then(
        "S: 354 what
         = done 0:lost-after-data !
         = done 0:not-attempted | 1:not-attempted !
         = failed end of data: unexpected 354 what",
    );
}

#[test]
fn shutting_down_in_the_middle_of_recipients() {
    check_session(
        PIPELINING,
        "> begin three
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: RCPT TO:<d@dst.test>
         C: DATA
         S: 250 ok
         S: 550 5.1.1 b
         S: 250 ok
         S: 421 4.7.0 enough
         = done 0:RCPT 550 5.1.1 b | 1:RCPT 421 4.7.0 enough | 2:RCPT 421 4.7.0 enough !
         = failed RCPT: refused 421 4.7.0 enough",
    );
}

#[test]
fn idle_session_that_the_peer_ends() {
    check_session(PLAIN, "S: 421 4.4.2 idle\n= closed 421 4.4.2 idle");
    check_session(PLAIN, "> gone\n= closed");
    check_session(PLAIN, "S: 250 what for?\n= closed 250 what for?");
    check_session(PLAIN, "> quit\nC: QUIT\n> gone\n= closed");
    check_session(PLAIN, "> quit\nC: QUIT\n> late\n= closed");
}

#[test]
fn first_mail_refused_by_421_is_a_refusal() {
    check_session(
        PLAIN,
        "> begin one
         C: MAIL FROM:<a@src.test>
         S: 421 4.7.0 too much
         = done 0:MAIL 421 4.7.0 too much !
         = failed MAIL: refused 421 4.7.0 too much",
    );
}

#[test]
fn replies_while_the_body_goes_out() {
    let until_body = "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body";
    let then = |script: &str| check_session(PIPELINING, &format!("{until_body}\n{script}"));
    then(
        "S: 552 5.3.4 too large
         = done 0:message content 552 5.3.4 too large !
         = failed message content: refused 552 5.3.4 too large
         > sent",
    );
    then(
        "S: 421 4.3.1 disk full
         = done 0:message content 421 4.3.1 disk full !
         = failed message content: refused 421 4.3.1 disk full",
    );
    // Nobody can have accepted what was not yet sent.
    then(
        "S: 250 ok
         = done 0:lost-in-body !
         = failed message content: unexpected 250 ok",
    );
}

#[test]
fn replies_out_of_place() {
    check_session(
        PIPELINING,
        "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 accepted, really
         = done 0:DATA 250 accepted, really !
         = failed DATA: unexpected 250 accepted, really",
    );
    check_session(
        PLAIN,
        "> begin one
         C: MAIL FROM:<a@src.test>
         S: 354 go
         = done 0:MAIL 354 go !
         = failed MAIL: unexpected 354 go",
    );
}

/// Recipients of an earlier transaction were all refused.
const REFUSED_BEFORE: &str = "> begin one
     C: MAIL FROM:<a@src.test>
     C: RCPT TO:<b@dst.test>
     C: DATA
     S: 250 ok
     S: 550 5.1.1 b
     S: 554 nobody
     = done 0:RCPT 550 5.1.1 b
     > begin one
     C: RSET
     C: MAIL FROM:<a@src.test>
     C: RCPT TO:<b@dst.test>
     C: DATA";

#[test]
fn a_refused_rset_is_no_verdict_on_the_mail_behind_it() {
    for reply in [
        "550 5.7.1 too many errors",
        "503 5.5.1 not available",
        "451 no",
    ] {
        let script = format!(
            "{REFUSED_BEFORE}
             S: {reply}
             S: 250 ok
             = done 0:not-attempted !
             = failed MAIL: unexpected {reply}"
        );
        check_session(PIPELINING, &script);
    }
    check_session(
        PLAIN,
        "> begin one
         C: MAIL FROM:<a@src.test>
         S: 250 ok
         C: RCPT TO:<b@dst.test>
         S: 550 b
         = done 0:RCPT 550 b
         > begin one
         C: RSET
         S: 502 what?
         = done 0:not-attempted !
         = failed MAIL: unexpected 502 what?",
    );
}

/// A message whose commands went out behind the content of the one before. The dot has got two replies.
const ANSWERED_TWICE: &str = "> begin one
     C: MAIL FROM:<a@src.test>
     C: RCPT TO:<b@dst.test>
     C: DATA
     S: 250 ok
     S: 250 ok
     S: 354 go
     = body
     > sent
     > begin three
     C: MAIL FROM:<a@src.test>
     C: RCPT TO:<b@dst.test>
     C: RCPT TO:<c@dst.test>
     C: RCPT TO:<d@dst.test>
     C: DATA
     S: 250 taken
     = done 0:ok 250 taken";

#[test]
fn a_reply_too_many_gives_nobody_a_neighbours_refusal() {
    let then = |script: &str| check_session(PIPELINING, &format!("{ANSWERED_TWICE}\n{script}"));
    // To MAIL and the three: 250 250 550 250.
    then(
        "S: 250 taken twice
         S: 250 ok
         S: 250 b
         S: 550 c
         S: 250 d
         = done 0:not-attempted | 1:not-attempted | 2:not-attempted !
         = failed DATA: unexpected 250 d",
    );
    // 250 250 250 550, and DATA's own reply to what is sent then.
    then(
        "S: 250 taken twice
         S: 250 ok
         S: 250 b
         S: 250 c
         S: 550 d
         C: RSET
         S: 354 go
         = done 0:not-attempted | 1:not-attempted | 2:not-attempted !
         = failed MAIL: unexpected 354 go",
    );
    // The reply too many is itself a refusal.
    then(
        "S: 554 5.7.1 a filter's second thought
         S: 250 ok
         S: 250 b
         S: 250 c
         S: 550 d
         C: RSET
         S: 354 go
         = done 0:not-attempted | 1:not-attempted | 2:not-attempted !
         = failed MAIL: unexpected 354 go",
    );
}

#[test]
fn a_reply_that_comes_before_its_command_ends_the_session() {
    let settings = ClientSettings {
        hostname: "gw.test".into(),
        starttls: TlsWish::Never,
        detect_loop: true,
    };
    let mut client = Client::new(Rc::new(settings));
    let mut out = Vec::new();
    let mail = named("two");
    let transaction = Transaction {
        envelope: &mail.envelope,
        recipients: &mail.recipients,
        body_bytes: 1,
        uncounted_bytes: 0,
        body_is_8bit: false,
    };
    client.handle(b"220 mx.test\r\n", &mut out);
    client.handle(b"250 mx.test\r\n", &mut out);
    client.begin(&transaction, &mut out).expect("fit");
    let (_, step) = client.handle(b"250 of the mail before\r\n250 ok\r\n", &mut out);
    let told = "done 0:RCPT 250 ok | 1:RCPT 250 ok !";
    assert_eq!(tell(&step), told, "in its first transaction it is said");
    let reply = client.out_of_step().expect("it is").reply.one_line();
    assert_eq!((reply.as_str(), client.is_over()), ("250 ok", true));
}

#[test]
fn dots_of_stuffing_do_not_count_against_the_size_of_a_next_hop() {
    // 1,001 octets, of which 1 may be a dot of stuffing.
    check_session(
        &["SIZE 1000"],
        "> begin dotted\nC: MAIL FROM:<a@src.test> SIZE=1000",
    );
    check_session(
        &["SIZE 1001"],
        "> begin dotted\nC: MAIL FROM:<a@src.test> SIZE=1001",
    );
    check_session(&["SIZE 999"], "> begin dotted\n= done 0:unfit 5.3.4");
    // Its refusal is believed.
    check_session(
        &["SIZE 1000", "PIPELINING"],
        "> begin dotted
         C: MAIL FROM:<a@src.test> SIZE=1000
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 552 5.3.4 too large
         = done 0:end of data 552 5.3.4 too large",
    );
}

#[test]
fn the_dots_of_content_that_is_at_hand_are_counted() {
    let envelope = named("one").envelope;
    for (wire, octets) in [
        (&b".\r\n"[..], 0),
        (b"a\r\n.\r\n", 3),
        (b"..\r\n.\r\n", 3),
        (b"a\r\n..b\r\n..\r\n.c\r\n.\r\n", 3 + 4 + 3 + 3),
    ] {
        let bytes = wire.len() as u64;
        let unsure = Transaction::of_wire_form(&envelope, &[0], bytes, false);
        let sure = unsure.counted(wire);
        assert_eq!((sure.body_bytes, sure.uncounted_bytes), (octets, 0));
        let least = unsure.body_bytes - unsure.uncounted_bytes.min(unsure.body_bytes);
        assert!((least..=unsure.body_bytes).contains(&octets), "{wire:?}");
    }
}

#[test]
fn too_large_is_said_before_sending() {
    check_session(&["SIZE 1000"], "> begin large\n= done 0:unfit 5.3.4");
    check_session(
        &["SIZE 1001"],
        "> begin large\nC: MAIL FROM:<a@src.test> SIZE=1001",
    );
    check_session(
        &["SIZE 0"],
        "> begin large\nC: MAIL FROM:<a@src.test> SIZE=1001",
    );
    check_session(
        &["SIZE"],
        "> begin large\nC: MAIL FROM:<a@src.test> SIZE=1001",
    );
    check_session(PLAIN, "> begin large\nC: MAIL FROM:<a@src.test>");
}

#[test]
fn a_refusal_of_ten_kilobytes_is_heard_like_any_other() {
    let settings = ClientSettings {
        hostname: "gw.test".into(),
        starttls: TlsWish::Never,
        detect_loop: false,
    };
    let mut client = Client::new(Rc::new(settings));
    let mut out = Vec::new();
    let greeting = b"220 mx.test\r\n250-mx.test\r\n250 PIPELINING\r\n";
    assert_eq!(client.handle(greeting, &mut out).1, ClientStep::Ready);
    let mail = named("two");
    let transaction = Transaction {
        envelope: &mail.envelope,
        recipients: &mail.recipients,
        body_bytes: 100,
        uncounted_bytes: 0,
        body_is_8bit: false,
    };
    client
        .begin(&transaction, &mut out)
        .expect("nothing special");
    let long = "x".repeat(5_000);
    let lines = "550-5.1.1 more\r\n".repeat(400);
    let refusal = format!("550-5.1.1 {long}\r\n{lines}550 5.1.1 end\r\n");
    let replies = format!("250 ok\r\n250 ok\r\n{refusal}354 go\r\n");
    let (consumed, step) = client.handle(replies.as_bytes(), &mut out);
    assert_eq!((consumed, step), (replies.len(), ClientStep::SendBody));
    client.body_sent();
    let (_, step) = client.handle(b"250 taken\r\n", &mut out);
    let ClientStep::Done(result) = step else {
        panic!("{step:?}");
    };
    let told = tell_result(&result);
    assert!(told.contains("| 1:RCPT 550 5.1.1 xxx"), "{told}");
}

#[test]
fn a_refusal_without_its_end_is_heard_before_the_connection_is_lost() {
    let begun = "> begin two
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: DATA
         S: 250 ok
         S: 550-5.1.1 no such user";
    check_session(
        PIPELINING,
        &format!(
            "{begun}
         > gone
         = done 0:RCPT 550 5.1.1 no such user | 1:not-attempted !
         = failed RCPT: peer closed"
        ),
    );
    check_session(
        PIPELINING,
        &format!(
            "{begun}
         S: who should that be?
         > late
         = done 0:RCPT 550 5.1.1 no such user who should that be? | 1:not-attempted !
         = failed RCPT: timed out"
        ),
    );
    check_session(
        PIPELINING,
        &format!(
            "{begun}
         S: who should that be?
         S: 250 ok
         = done 0:RCPT 550 5.1.1 no such user who should that be? | 1:not-attempted !
         = failed RCPT: malformed reply"
        ),
    );
    // Half an acceptance is none.
    check_session(
        PIPELINING,
        "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 250-ok
         > gone
         = done 0:lost-after-data !
         = failed end of data: peer closed",
    );
}

#[test]
fn a_final_refusal_without_its_end_is_no_lost_message() {
    check_session(
        PIPELINING,
        "> begin one
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 554-5.7.1 spam
         > gone
         = done 0:end of data 554 5.7.1 spam
         = closed",
    );
    check("S: 554-go away\n> gone\n= failed greeting: refused 554 go away");
}

#[test]
fn smtputf8() {
    check_session(&["8BITMIME"], "> begin utf8\n= done 0:unfit 5.6.7");
    check_session(
        &["8BITMIME", "smtputf8"],
        "> begin utf8\nC: MAIL FROM:<a@src.test> BODY=8BITMIME SMTPUTF8",
    );
}

#[test]
fn a_domain_goes_out_in_a_labels_where_there_is_no_smtputf8() {
    check_session(
        &["8BITMIME", "PIPELINING", "DSN"],
        "> begin idn
         C: MAIL FROM:<a@xn--bcher-kva.test>
         C: RCPT TO:<info@xn--bcher-kva.test> ORCPT=utf-8;info@b\\x{FC}cher.test
         C: DATA",
    );
    check_session(
        &["8BITMIME", "PIPELINING", "SMTPUTF8"],
        "> begin idn
         C: MAIL FROM:<a@b\u{fc}cher.test> SMTPUTF8
         C: RCPT TO:<info@b\u{fc}cher.test>
         C: DATA",
    );
}

#[test]
fn only_who_needs_smtputf8_is_refused_for_the_lack_of_it() {
    check_session(
        PIPELINING,
        "> begin mixed
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<info@xn--bcher-kva.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go
         = body
         > sent
         S: 250 taken
         = done 0:ok 250 taken | 1:unfit 5.6.7 | 2:ok 250 taken",
    );
    check_session(
        PLAIN,
        "> begin mixed
         C: MAIL FROM:<a@src.test>
         S: 250 ok
         C: RCPT TO:<b@dst.test>
         S: 550 5.1.1 b
         C: RCPT TO:<info@xn--bcher-kva.test>
         S: 550 5.1.1 info
         = done 0:RCPT 550 5.1.1 b | 1:unfit 5.6.7 | 2:RCPT 550 5.1.1 info",
    );
    check_session(PIPELINING, "> begin local\n= done 0:unfit 5.6.7");
    check_session(
        &["PIPELINING", "SMTPUTF8"],
        "> begin mixed
         C: MAIL FROM:<a@src.test> SMTPUTF8
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<j\u{f6}rg@dst.test>
         C: RCPT TO:<info@b\u{fc}cher.test>
         C: DATA",
    );
}

#[test]
fn success_reports_are_owed_where_the_peer_has_no_dsn() {
    check_session(
        PIPELINING,
        "> begin dsn
         C: MAIL FROM:<a@src.test>
         C: RCPT TO:<b@dst.test>
         C: RCPT TO:<c@dst.test>
         C: RCPT TO:<d@dst.test>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 550 d
         S: 354 go
         = body
         > sent
         S: 250 ok
         = done 0:ok 250 ok | 1:ok 250 ok | 2:RCPT 550 d relayed [0]",
    );
}

#[test]
fn parameters_cannot_smuggle_commands() {
    let settings = ClientSettings {
        hostname: "gw.test".into(),
        starttls: TlsWish::Never,
        detect_loop: false,
    };
    let mut client = Client::new(Rc::new(settings));
    let mut out = Vec::new();
    let input = b"220 mx.test\r\n250-mx.test\r\n250-PIPELINING\r\n250 DSN\r\n";
    assert_eq!(
        client.handle(input, &mut out),
        (input.len(), ClientStep::Ready)
    );
    out.clear();
    let mut evil = dsn();
    evil.envelope.envid = Some("x\r\nRSET".into());
    evil.envelope.recipients[0].orcpt = Some("rfc822;x y".into());
    let transaction = Transaction {
        envelope: &evil.envelope,
        recipients: &[0],
        body_bytes: 1,
        uncounted_bytes: 0,
        body_is_8bit: false,
    };
    client.begin(&transaction, &mut out).expect("fit");
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "MAIL FROM:<a@src.test> RET=HDRS\r\nRCPT TO:<b@dst.test> NOTIFY=SUCCESS,FAILURE\r\nDATA\r\n"
    );
}

#[test]
fn phases_follow_the_session() {
    let settings = ClientSettings {
        hostname: "gw.test".into(),
        starttls: TlsWish::Never,
        detect_loop: true,
    };
    let mut client = Client::new(Rc::new(settings));
    let mut out = Vec::new();
    let mail = named("one");
    let transaction = Transaction {
        envelope: &mail.envelope,
        recipients: &mail.recipients,
        body_bytes: 1,
        uncounted_bytes: 0,
        body_is_8bit: false,
    };
    let mut feed = |client: &mut Client, line: &str| {
        client.handle(format!("{line}\r\n").as_bytes(), &mut out);
        client.phase()
    };
    assert_eq!(client.phase(), Stage::Greeting);
    assert_eq!(feed(&mut client, "220 mx.test hello"), Stage::Ehlo);
    assert_eq!(feed(&mut client, "250 MX.test hello"), Stage::Idle);
    assert_eq!(
        (client.greeting(), client.peer_name()),
        ("mx.test hello", "MX.test")
    );
    client.begin(&transaction, &mut Vec::new()).expect("fit");
    assert_eq!(client.phase(), Stage::Mail);
    assert_eq!(feed(&mut client, "250 ok"), Stage::Rcpt);
    assert_eq!(feed(&mut client, "250 ok"), Stage::Data);
    assert_eq!(feed(&mut client, "354 ok"), Stage::Body);
    client.body_sent();
    assert_eq!(client.phase(), Stage::FinalDot);
    assert_eq!(feed(&mut client, "250 ok"), Stage::Idle);
    client.quit(&mut Vec::new());
    assert_eq!(client.phase(), Stage::Quit);
}

/// Lines that a peer may say, in any order, and noise.
fn peer_piece() -> impl Strategy<Value = Vec<u8>> {
    let lines = [
        "220 mx.test\r\n",
        "250-mx.test\r\n250-STARTTLS\r\n250 PIPELINING\r\n",
        "250 mx.test\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "250 ok\r\n250 ok\r\n",
        "354 go\r\n",
        "354 go\r\n",
        "250 ok\r\n250 ok\r\n354 go\r\n",
        "250-ok\r\n",
        "550 no\r\n",
        "452 4.5.3 many\r\n",
        "421 bye\r\n",
        "221 bye\r\n",
        "25",
    ];
    prop_oneof![
        20 => prop::sample::select(lines.to_vec()).prop_map(|line| line.as_bytes().to_vec()),
        1 => any::<Vec<u8>>(),
    ]
}

#[derive(Default)]
struct Ledger {
    /// Recipients of the transactions begun and not yet done, oldest first, and whether the body
    /// was sent.
    open: VecDeque<(Vec<u32>, bool)>,
}

impl Ledger {
    fn begin(&mut self, client: &mut Client, name: &str, out: &mut Vec<u8>) {
        let mail = named(name);
        let transaction = Transaction {
            envelope: &mail.envelope,
            recipients: &mail.recipients,
            body_bytes: mail.body_bytes,
            uncounted_bytes: mail.uncounted_bytes,
            body_is_8bit: mail.body_is_8bit,
        };
        if client.begin(&transaction, out).is_ok() {
            self.open.push_back((mail.recipients, false));
        }
    }

    fn done(&mut self, result: &TransactionResult) {
        let (recipients, was_sent) = self.open.pop_front().expect("begun before");
        let judged: Vec<u32> = result.verdicts.iter().map(|(index, _)| *index).collect();
        assert_eq!(judged, recipients, "one verdict each, in order");
        for (_, verdict) in &result.verdicts {
            match verdict {
                RecipientVerdict::Accepted { reply } => {
                    assert!(
                        was_sent && reply.is_positive(),
                        "accepted without its content"
                    );
                }
                RecipientVerdict::LostAfterData => assert!(was_sent),
                RecipientVerdict::LostInBody | RecipientVerdict::NotAttempted => {
                    assert!(!was_sent, "what was sent may have been taken");
                }
                RecipientVerdict::Refused { .. } | RecipientVerdict::Unfit(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_recipient_gets_one_verdict_whatever_the_peer_says(
        pieces in prop::collection::vec((peer_piece(), any::<[bool; 3]>()), 0..40),
        names in prop::collection::vec(prop::sample::select(vec!["one", "two", "some", "null"]), 40),
        wish in prop::sample::select(vec![TlsWish::Never, TlsWish::IfOffered, TlsWish::Required]),
        ends_late in any::<bool>(),
    ) {
        let settings = ClientSettings { hostname: "gw.test".into(), starttls: wish, detect_loop: true };
        let mut client = Client::new(Rc::new(settings));
        let mut ledger = Ledger::default();
        let mut names = names.into_iter().cycle();
        let mut out = Vec::new();
        let mut is_over = false;
        for (piece, [begins, sends_late, quits]) in &pieces {
            let mut rest = &piece[..];
            let mut step = None;
            loop {
                let next = step.take().unwrap_or_else(|| {
                    let (consumed, step) = client.handle(rest, &mut out);
                    rest = &rest[consumed..];
                    step
                });
                match next {
                    ClientStep::NeedInput => break,
                    ClientStep::StartTls => { rest = &[]; client.tls_established(&mut out); }
                    ClientStep::Ready => {}
                    ClientStep::SendBody => if !sends_late {
                        client.body_sent();
                        ledger.open[0].1 = true;
                    },
                    ClientStep::Done(result) => ledger.done(&result),
                    ClientStep::Closed(_) | ClientStep::Failed(_) => { is_over = true; break; }
                }
                if *begins && client.can_begin() {
                    ledger.begin(&mut client, names.next().expect("endless"), &mut out);
                } else if *quits {
                    client.quit(&mut out);
                }
            }
            if client.phase() == Stage::Body {
                client.body_sent();
                ledger.open[0].1 = true;
            }
        }
        let mut step = if ends_late { client.timed_out() } else { client.peer_closed() };
        while let ClientStep::Done(result) = &step {
            prop_assert!(!is_over, "nothing is done after the end");
            ledger.done(result);
            step = client.handle(&[], &mut out).1;
        }
        prop_assert!(matches!(step, ClientStep::Closed(_) | ClientStep::Failed(_)));
        prop_assert!(ledger.open.is_empty());
    }
}
