//! The sending machine under whatever a next hop says, omits or cuts off: each recipient gets one
//! verdict, none is accepted whose content was not sent, and what is sent is commands and content only.

use ringpost::message::{Envelope, Mailbox, Recipient};
use ringpost::smtp::client::{
    Client, ClientSettings, ClientStep, RecipientVerdict, TlsWish, Transaction, TransactionResult,
};
use ringpost::smtp::reply::Stage;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Cuts, flights, is_printable, option};

const CONTENT: &[u8] = b"Subject: x\r\n\r\nx\r\n.\r\n";
/// Steps that one input may lead to: each needs octets, an event or a transaction.
const STEPS_MAX: usize = 100_000;
const TRANSACTIONS_MAX: usize = 8;

pub fn run(mut input: &[u8]) {
    let options = option(&mut input);
    let seed = option(&mut input);
    let found = Cuts::all(seed).map(|cuts| {
        let mut hop = Session::new(options);
        hop.converse(cuts, input);
        hop.finish(options & 4 == 4)
    });
    // A reply that comes before its command is known for that only where they are read together.
    if found.iter().all(|(_, is_out_of_step)| !is_out_of_step) {
        let [whole, others @ ..] = found;
        for other in others {
            assert_eq!(other, whole);
        }
    }
    with_events(options, input);
}

/// What was sent, and what became of each transaction.
type Found = (Vec<u8>, Vec<TransactionResult>, String);

struct Session {
    client: Client,
    options: u8,
    envelope: Envelope,
    recipients: Vec<u32>,
    /// Transactions begun and not done, oldest first: was the content sent?
    open: VecDeque<bool>,
    begun: usize,
    sends_late: bool,
    out: Vec<u8>,
    results: Vec<TransactionResult>,
    steps: usize,
    end: Option<ClientStep>,
}

impl Session {
    fn new(options: u8) -> Self {
        let starttls = [TlsWish::Never, TlsWish::IfOffered, TlsWish::Required];
        let settings = ClientSettings {
            hostname: "relay.test".to_owned(),
            starttls: starttls[usize::from(options & 3).min(2)],
            detect_loop: true,
        };
        let names = [
            Mailbox::new("a", "b.test"),
            Mailbox::new("\"c d\"", "[192.0.2.1]"),
        ];
        let count = 1 + usize::from(options >> 3 & 1);
        Session {
            client: Client::new(Rc::new(settings)),
            options,
            envelope: Envelope {
                reverse_path: Some(Mailbox::new("s", "src.test")),
                recipients: names.into_iter().map(Recipient::new).collect(),
                envid: Some("x+2By".into()),
                ..Envelope::default()
            },
            recipients: (0..count as u32).collect(),
            open: VecDeque::new(),
            begun: 0,
            sends_late: false,
            out: Vec::new(),
            results: Vec::new(),
            steps: 0,
            end: None,
        }
    }

    fn converse(&mut self, cuts: Cuts, input: &[u8]) {
        for flight in flights(input) {
            for piece in cuts.pieces(flight) {
                if !self.take(piece) {
                    break;
                }
            }
        }
    }

    /// False: the rest of the flight is not read.
    fn take(&mut self, mut piece: &[u8]) -> bool {
        while self.end.is_none() {
            let (consumed, step) = self.client.handle(piece, &mut self.out);
            piece = &piece[consumed..];
            match step {
                ClientStep::NeedInput => {
                    assert!(piece.is_empty());
                    return true;
                }
                ClientStep::StartTls => {
                    self.client.tls_established(&mut self.out);
                    return false;
                }
                step => self.follow(step),
            }
        }
        false
    }

    fn follow(&mut self, step: ClientStep) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "steps without an end");
        match step {
            ClientStep::Ready => self.begin(),
            ClientStep::SendBody if self.sends_late => {}
            ClientStep::SendBody => self.send_body(),
            ClientStep::Done(result) => {
                self.done(result);
                self.begin();
            }
            ClientStep::Closed(_) | ClientStep::Failed(_) => self.end = Some(step),
            ClientStep::NeedInput | ClientStep::StartTls => unreachable!("taken before"),
        }
    }

    fn begin(&mut self) {
        if !self.client.can_begin() {
            return;
        }
        if self.begun == TRANSACTIONS_MAX {
            return self.client.quit(&mut self.out);
        }
        let is_8bit = self.options & 16 == 16;
        let (envelope, recipients) = (&self.envelope, &self.recipients);
        let wire_bytes = CONTENT.len() as u64;
        let transaction = Transaction::of_wire_form(envelope, recipients, wire_bytes, is_8bit);
        self.begun += 1;
        if self.client.begin(&transaction, &mut self.out).is_ok() {
            self.open.push_back(false);
        }
    }

    fn send_body(&mut self) {
        self.out.extend_from_slice(CONTENT);
        self.client.body_sent();
        if let Some(was_sent) = self.open.front_mut() {
            *was_sent = true;
        }
        self.begin();
    }

    fn done(&mut self, result: TransactionResult) {
        let was_sent = self.open.pop_front().expect("it was begun");
        let judged: Vec<u32> = result.verdicts.iter().map(|(index, _)| *index).collect();
        assert_eq!(judged, self.recipients, "one verdict each, in order");
        for (_, verdict) in &result.verdicts {
            check_verdict(verdict, was_sent);
        }
        self.results.push(result);
    }

    /// The connection ends, and with it all that is open.
    /// Also, whether the client found the session out of step.
    fn finish(mut self, times_out: bool) -> (Found, bool) {
        let mut step = match times_out {
            true => self.client.timed_out(),
            false => self.client.peer_closed(),
        };
        while let ClientStep::Done(result) = step {
            assert!(self.end.is_none(), "nothing is done after the end");
            self.done(result);
            step = self.client.handle(b"", &mut self.out).1;
        }
        assert!(
            matches!(step, ClientStep::Closed(_) | ClientStep::Failed(_)),
            "{step:?}"
        );
        assert!(self.open.is_empty() && self.client.is_over() && !self.client.can_begin());
        check_sent(&self.out);
        let is_out_of_step = self.client.out_of_step().is_some();
        (
            (self.out, self.results, format!("{step:?}")),
            is_out_of_step,
        )
    }
}

fn check_verdict(verdict: &RecipientVerdict, was_sent: bool) {
    match verdict {
        RecipientVerdict::Accepted { reply } => assert!(was_sent && reply.is_positive()),
        RecipientVerdict::LostAfterData => assert!(was_sent),
        RecipientVerdict::LostInBody | RecipientVerdict::NotAttempted => {
            assert!(!was_sent, "what was sent may have been taken");
        }
        RecipientVerdict::Refused { reply, .. } => assert!(is_printable(&reply.one_line())),
        RecipientVerdict::Unfit(_) => {}
    }
}

/// Commands of ours, whole, and content.
fn check_sent(out: &[u8]) {
    let text = std::str::from_utf8(out).expect("ASCII");
    assert!(text.is_empty() || text.ends_with("\r\n"), "{text:?}");
    for line in text.split_terminator("\r\n") {
        assert!(
            line.bytes().all(|octet| matches!(octet, b' '..=b'~')),
            "{line:?}"
        );
        let verb = line.split(' ').next().unwrap_or("");
        let content = ["Subject:", "", "x", "."];
        let verbs = [
            "EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "RSET", "QUIT",
        ];
        assert!(verbs.contains(&verb) || content.contains(&verb), "{line}");
    }
}

/// The same with a driver that is slow: an octet above 0xf0 is an event, not something said.
fn with_events(options: u8, input: &[u8]) {
    let mut session = Session::new(options);
    session.sends_late = true;
    for part in input.chunk_by(|a, b| *a < 0xf0 && *b < 0xf0) {
        match part[0] {
            0xf0 if session.client.phase() == Stage::Body => session.send_body(),
            0xf1 => session.client.quit(&mut session.out),
            0xf2 => session.begin(),
            0xf3 | 0xf4 => break,
            0xf0..=0xff => {}
            _ => {
                session.take(part);
            }
        }
    }
    session.finish(input.contains(&0xf4));
}
