//! The receiving machine under whatever a client sends: the same for all cuts, replies that are
//! replies, and bodies and envelopes of which no next hop can make anything but one message.

use ringpost::message::{CertificateVerdict, Envelope, Mailbox, MessageId, TlsSummary};
use ringpost::smtp::extension::Extension;
use ringpost::smtp::server::{
    BareLineEnds, Claim, PeerInfo, Phase, Policy, Refusal, Rejection, Server, Settings, Spending,
    Step,
};
use ringpost::time::WallTime;
use std::net::IpAddr;
use std::rc::Rc;

use super::{
    Cuts, address, assert_replies, assert_wire_form, flights, option, relayed, same_for_all_cuts,
};

const TLS: TlsSummary = TlsSummary {
    version: "TLSv1.3",
    cipher: "TLS_AES_128_GCM_SHA256",
    key_exchange: "X25519",
    resumed: false,
    verdict: CertificateVerdict::Unasked,
};
const ID: MessageId = MessageId {
    run: 1,
    core: 2,
    sequence: 3,
};
/// RFC 5321 section 4.5.3.1.5, and the lines of the longest reply (to EHLO).
const REPLY_BYTES_MAX: usize = 512;

/// Refuses some recipients with their own words, and is at times full.
struct Host;

impl Policy for Host {
    fn recipient(&self, _trusted: bool, forward_path: &Mailbox) -> Result<(), Refusal> {
        match forward_path.local_part().as_bytes().first() {
            Some(b'n') => Err(Refusal {
                text: format!("<{forward_path}>: unknown").into(),
                ..Refusal::new(550, 1, 1, "")
            }),
            _ => Ok(()),
        }
    }

    fn postmaster(&self) -> Option<Mailbox> {
        None
    }

    fn admit(&self, _peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        match declared_bytes {
            Some(77) => Err(Refusal::new(452, 3, 1, "Full")),
            _ => Ok(()),
        }
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

#[derive(PartialEq, Eq, Debug, Default)]
struct Found {
    replies: Vec<u8>,
    messages: Vec<(Envelope, Vec<u8>)>,
    steps: Vec<&'static str>,
    refusals: u64,
}

pub fn run(mut input: &[u8]) {
    let options = option(&mut input);
    let seed = option(&mut input);
    let settings = Rc::new(settings(options));
    let found = same_for_all_cuts(seed, |cuts| {
        Session::new(&settings, options).converse(cuts, input)
    });
    check_replies(&found, input, &settings);
    for (envelope, body) in &found.messages {
        check_message(envelope, body, &settings);
    }
}

fn settings(options: u8) -> Settings {
    let mut settings = Settings::new("mx.test");
    if options & 1 == 1 {
        settings.bare_line_ends = BareLineEnds::Normalise;
    }
    if options & 2 == 2 {
        settings.max_message_bytes = 300;
        settings.max_recipients = 2;
        settings.max_transactions = 3;
        settings.max_hops = 1;
        settings.max_command_line_bytes = 512;
        settings.max_text_line_bytes = 998;
    }
    settings.require_tls = options & 4 == 4;
    if options & 8 == 8 {
        settings.offers = settings.offers.without(Extension::StartTls);
    }
    settings
}

struct Session {
    server: Server,
    body: Vec<u8>,
    found: Found,
    /// Every other commit fails.
    fails: bool,
}

impl Session {
    fn new(settings: &Rc<Settings>, options: u8) -> Self {
        let peer = PeerInfo {
            address: IpAddr::from([192, 0, 2, 1]),
            trusted: true,
            tls: None,
        };
        Session {
            server: Server::new(settings.clone(), peer),
            body: Vec::new(),
            found: Found::default(),
            fails: options & 16 == 16,
        }
    }

    fn converse(mut self, cuts: Cuts, input: &[u8]) -> Found {
        self.server.greet(&mut self.found.replies);
        for flight in flights(input) {
            for piece in cuts.pieces(flight) {
                if !self.take(piece) {
                    break;
                }
            }
        }
        if self.server.phase() != Phase::Closed {
            self.server.timed_out(&mut self.found.replies);
        }
        self.found.refusals = self.server.summary().refusals;
        self.found
    }

    /// As the driver does. False: the rest of the flight is not read.
    fn take(&mut self, mut piece: &[u8]) -> bool {
        loop {
            let replies = &mut self.found.replies;
            let (consumed, step) = self.server.handle(piece, &Host, &mut self.body, replies);
            piece = &piece[consumed..];
            match step {
                Step::NeedInput => {
                    assert!(piece.is_empty());
                    return true;
                }
                Step::Close => return false,
                Step::StartTls => {
                    self.found.steps.push("tls");
                    self.server.tls_established(TLS);
                    return false;
                }
                Step::BeginBody => {
                    assert!(self.body.is_empty());
                    self.found.steps.push("begin");
                    self.server
                        .trace(ID, WallTime(1_700_000_000_000), &mut self.body);
                    check_trace(&self.body);
                }
                Step::BodyAborted => {
                    self.found.steps.push("abort");
                    self.body.clear();
                }
                Step::EndOfData(envelope) => self.commit(*envelope),
            }
        }
    }

    fn commit(&mut self, envelope: Envelope) {
        let body = std::mem::take(&mut self.body);
        self.found.messages.push((envelope, body));
        let is_odd = self.found.messages.len() % 2 == 1;
        match self.fails && is_odd {
            true => {
                let refusal = Refusal::new(451, 3, 0, "Not written");
                self.server.not_committed(refusal, &mut self.found.replies);
            }
            false => self.server.committed(ID, &mut self.found.replies),
        }
    }
}

/// One field: the lines after the first are folded.
fn check_trace(trace: &[u8]) {
    let text = std::str::from_utf8(trace).expect("text");
    assert!(
        text.starts_with("Received: ") && text.ends_with("\r\n"),
        "{text}"
    );
    for line in text.trim_end_matches("\r\n").split("\r\n").skip(1) {
        assert!(line.starts_with([' ', '\t']), "{text}");
    }
    let is_text = |c: char| !c.is_control() || matches!(c, '\r' | '\n' | '\t');
    assert!(text.chars().all(is_text), "{text:?}");
    assert_eq!(
        text.matches(['\r', '\n']).count(),
        2 * text.matches("\r\n").count()
    );
}

fn check_replies(found: &Found, input: &[u8], settings: &Settings) {
    let replies = assert_replies(&found.replies);
    let lines = input.iter().filter(|&&octet| octet == b'\n').count();
    assert!(replies <= lines + 3, "{replies} replies to {lines} lines");
    assert!(found.replies.len() <= (lines + 3) * REPLY_BYTES_MAX);
    let text = String::from_utf8_lossy(&found.replies);
    let refusals = text
        .lines()
        .filter(|line| matches!(line.as_bytes(), [b'4' | b'5', ..]));
    let refused = refusals.count() as u64;
    assert_eq!(refused, found.refusals, "{text}");
    let queued = text.matches("Ok: queued as").count();
    let not = text.matches("451 4.3.0 Not written").count();
    assert!(
        queued + not >= found.messages.len(),
        "each message has its word"
    );
    assert!(
        refused <= u64::from(settings.max_errors) * (found.messages.len() as u64 + 1) * 100 + 200
    );
}

fn check_message(envelope: &Envelope, body: &[u8], settings: &Settings) {
    assert_wire_form(body);
    assert!(body.len() as u64 <= 2 * settings.max_message_bytes + 2000);
    let recipients = envelope.recipients.len();
    assert!((1..=settings.max_recipients).contains(&recipients));
    envelope.reverse_path.iter().for_each(address::check);
    for recipient in &envelope.recipients {
        address::check(&recipient.forward_path);
    }
    relayed::check(envelope, body);
}
