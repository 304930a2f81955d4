//! The sending side of a session, from greeting to QUIT (RFC 5321 section 3): bytes in, bytes and
//! steps out.
//!
//! ```text
//! Greeting -> Ehlo -> [StartTls -> Handshake -> Ehlo] -> Session -> Over
//!               \-> Helo ----------------------------------/
//! ```
//!
//! Within `Session` a queue of expected replies is all the state there is. With PIPELINING the
//! commands of a transaction go out in one piece, and those of the next one directly behind the
//! content of this one, before its final reply (RFC 2920 section 3.1); without it one at a time.
//!
//! A reply belongs to the oldest command that has none. A peer that says more than it was asked shifts
//! all that follow, and one recipient's refusal becomes the next one's. Only DATA gets 354, so that
//! proves the session to be in step; before it, what shows the contrary takes all verdicts back.
//!
//! Promise: every recipient offered gets exactly one verdict, whatever the peer sends or omits; and
//! never `Accepted` without a positive reply that came after the whole content was sent.
//! Not here: sockets, TLS, time, and what a failure means for the mail (`schedule::judge`).

mod ending;
mod features;
mod opening;
mod session;
mod transaction;

use crate::smtp::extension::Extension;
use crate::smtp::reply::{Reply, ReplyError, ReplyParser, Stage};
use std::collections::VecDeque;
use std::rc::Rc;

pub use features::{Features, Limits};
use transaction::{Body, Open};
pub use transaction::{RecipientVerdict, Transaction, TransactionResult, Unfit};

/// What the policy for this destination says about STARTTLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsWish {
    /// Plaintext, or TLS is already there (implicit TLS).
    Never,
    /// Use it if it is offered; go on in plaintext if it is not, or is refused.
    IfOffered,
    /// No TLS, no mail.
    Required,
}

/// Our own part of the configuration, shared by the sessions of a core.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Our name in EHLO.
    pub hostname: String,
    pub starttls: TlsWish,
    /// A peer that greets, or answers EHLO, with our own name is ourselves: give up.
    pub detect_loop: bool,
}

/// What the driver has to do next. After every step but `NeedInput`, `Closed` and `Failed`, call
/// [`Client::handle`] again with the rest of the input, which may be empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientStep {
    /// All input is consumed: flush `out`, read more.
    NeedInput,
    /// Flush `out`, throw away all unread input (RFC 3207 section 4.2), shake hands; then
    /// [`Client::tls_established`], or give the connection up.
    StartTls,
    /// The session stands: [`Client::begin`] or [`Client::quit`].
    Ready,
    /// Flush `out` and send the content in wire form; then [`Client::body_sent`]. Replies may be
    /// handled meanwhile: the peer may give up early.
    SendBody,
    /// The oldest transaction has ended.
    Done(TransactionResult),
    /// Over in good order: QUIT was answered, or the peer ended an idle session. Close.
    Closed(Option<Rc<Reply>>),
    /// Over. Whatever was open has had its `Done`. Flush `out` if that needs no waiting, close.
    Failed(Failure),
}

/// Why a session ended before its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub stage: Stage,
    pub cause: Cause,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// 4yz or 5yz where that ends the session: greeting, HELO, any 421.
    Refused(Rc<Reply>),
    /// A reply that this command cannot have, such as 250 to DATA.
    Unexpected(Rc<Reply>),
    /// The peer bears our own name (5.4.6).
    Loop(Rc<Reply>),
    /// TLS is required, and is not offered (`None`) or refused.
    TlsUnavailable(Option<Rc<Reply>>),
    PeerClosed,
    TimedOut,
    /// What came is no reply.
    Malformed(ReplyError),
}

impl Cause {
    pub fn reply(&self) -> Option<&Rc<Reply>> {
        match self {
            Cause::Refused(reply) | Cause::Unexpected(reply) | Cause::Loop(reply) => Some(reply),
            Cause::TlsUnavailable(reply) => reply.as_ref(),
            Cause::PeerClosed | Cause::TimedOut | Cause::Malformed(_) => None,
        }
    }
}

/// What showed that nobody knows to which command the replies belong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutOfStep {
    pub reply: Rc<Reply>,
    pub refuses_rset: bool,
}

#[derive(Debug)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Session,
    /// With the step that says so, for ever.
    Over(ClientStep),
}

/// A reply that the peer owes. Mail, Rcpt and Data of one transaction stand together and in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Rset,
    /// To the RSET behind a refusal, which counts once this has come.
    Proof,
    Mail,
    /// Position within the transaction's recipients.
    Rcpt(usize),
    Data,
    FinalDot,
    /// To the lone dot after a 354 that nobody wanted (RFC 2920 section 3.1).
    EmptyDot,
    Quit,
}

/// The machine. Holds at most one reply, the commands of one transaction, and verdicts.
#[derive(Debug)]
pub struct Client {
    settings: Rc<ClientSettings>,
    state: State,
    parser: ReplyParser,
    features: Features,
    tls: bool,
    /// A reply has come, since TLS was established if it was.
    has_heard: bool,
    starttls_refusal: Option<Rc<Reply>>,
    greeting: Box<str>,
    peer_name: Box<str>,
    expected: VecDeque<Expect>,
    /// Oldest first; at most two. Of two the first has sent its body, and `expected` begins with
    /// its final reply.
    open: VecDeque<Open>,
    /// Not yet returned.
    steps: VecDeque<ClientStep>,
    /// The peer may still hold a transaction that we have given up.
    needs_rset: bool,
    transactions_ended: u32,
    replies: u64,
    /// The next reply began before the command that waits for it was said.
    is_early: bool,
    out_of_step: Option<OutOfStep>,
}

impl Client {
    /// Bytes kept of greeting and host name, each.
    pub const NAME_BYTES_MAX: usize = 255;

    /// A session whose connection stands. With implicit TLS (RFC 8314) the handshake comes first
    /// and [`Client::tls_established`] is called before the greeting.
    pub fn new(settings: Rc<ClientSettings>) -> Client {
        Client {
            settings,
            state: State::Greeting,
            parser: ReplyParser::new(),
            features: Features::default(),
            tls: false,
            has_heard: false,
            starttls_refusal: None,
            greeting: Box::default(),
            peer_name: Box::default(),
            expected: VecDeque::new(),
            open: VecDeque::new(),
            steps: VecDeque::new(),
            needs_rset: false,
            transactions_ended: 0,
            replies: 0,
            is_early: false,
            out_of_step: None,
        }
    }

    /// Consumes a prefix of `input` up to the next step, appends commands to `out`. What comes
    /// between `StartTls` and [`Client::tls_established`] is thrown away.
    pub fn handle(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, ClientStep) {
        let mut consumed = 0;
        loop {
            if let Some(step) = self.next_step() {
                return (consumed, step);
            }
            if matches!(self.state, State::Handshake) {
                return (input.len(), ClientStep::NeedInput);
            }
            let (taken, result) = self.parser.feed(&input[consumed..]);
            consumed += taken;
            match result {
                Ok(None) => return (consumed, ClientStep::NeedInput),
                Ok(Some(reply)) => {
                    self.replies += 1;
                    let said_before = out.len();
                    self.on_reply(reply, out);
                    let is_said_now = self.expected.len() == 1 && out.len() > said_before;
                    self.is_early = is_said_now && consumed < input.len();
                }
                Err(error) => {
                    self.take_partial_reply();
                    self.end(Cause::Malformed(error));
                }
            }
        }
    }

    /// The handshake is done: forgets what EHLO said before it (RFC 3207 section 4.2), says EHLO.
    pub fn tls_established(&mut self, out: &mut Vec<u8>) {
        self.tls = true;
        self.has_heard = false;
        match self.state {
            State::Greeting => {}
            State::Handshake => {
                assert!(self.expected.is_empty() && !self.parser.is_mid_reply());
                self.send_ehlo(out);
            }
            _ => panic!("a handshake that the machine did not ask for"),
        }
    }

    /// True if [`Client::begin`] may be called now: nothing is open, or the peer does PIPELINING
    /// and the only open transaction has sent its body.
    pub fn can_begin(&self) -> bool {
        let room = match self.open.front() {
            None => true,
            Some(open) => {
                self.open.len() == 1
                    && open.body == Body::Sent
                    && self.features.has(Extension::Pipelining)
            }
        };
        room && matches!(self.state, State::Session) && !self.expected.contains(&Expect::Quit)
    }

    /// True once the session has ended, whether in good order or not.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }

    /// Begins a transaction: appends its first commands to `out`. `Err`: this session cannot carry
    /// the message; nothing has changed. Panics unless [`Client::can_begin`].
    ///
    /// With PIPELINING all commands go out at once: the driver must be ready to read while it
    /// writes if they could exceed the socket's buffers (RFC 2920 section 3.1).
    pub fn begin(&mut self, transaction: &Transaction<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        assert!(self.can_begin(), "begin: no transaction may begin now");
        assert!(!transaction.recipients.is_empty(), "begin: no recipients");
        let unfit = transaction::check(transaction, &self.features)?;
        let rset = std::mem::take(&mut self.needs_rset);
        let mut open = Open::new(transaction, unfit, &self.features, rset, out);
        if rset {
            self.expected.push_back(Expect::Rset);
        }
        if self.features.has(Extension::Pipelining) {
            self.expected.push_back(Expect::Mail);
            let rcpts = 0..open.recipient_count();
            self.expected.extend(rcpts.map(Expect::Rcpt));
            self.expected.push_back(Expect::Data);
        } else {
            open.send_next_command(out);
            if !rset {
                self.expected.push_back(Expect::Mail);
            }
        }
        self.open.push_back(open);
        Ok(())
    }

    /// The content is written, to its last byte. May come after the session has ended.
    pub fn body_sent(&mut self) {
        if let Some(open) = self.open.front_mut() {
            assert_eq!(open.body, Body::Asked, "a body that nobody asked for");
            open.body = Body::Sent;
        }
    }

    /// The content that [`Client::body_sent`] spoke of could not be written whole after all: what
    /// comes now can be no acceptance of it.
    pub fn body_broke_off(&mut self) {
        if let Some(open) = self.open.front_mut()
            && open.body == Body::Sent
        {
            open.body = Body::Asked;
        }
    }

    /// Says QUIT. Where [`Client::can_begin`] holds; with PIPELINING that may be directly behind
    /// the content. Otherwise nothing happens: close the connection instead.
    pub fn quit(&mut self, out: &mut Vec<u8>) {
        if self.can_begin() {
            out.extend_from_slice(b"QUIT\r\n");
            self.expected.push_back(Expect::Quit);
        }
    }

    /// The peer has closed or the connection broke, reading or writing. Returns the first step;
    /// [`Client::handle`] with no input returns the others.
    pub fn peer_closed(&mut self) -> ClientStep {
        self.take_partial_reply();
        self.end(Cause::PeerClosed);
        self.next_step().unwrap_or(ClientStep::NeedInput)
    }

    /// The deadline for this [`Client::phase`] has passed. Steps as with [`Client::peer_closed`].
    pub fn timed_out(&mut self) -> ClientStep {
        self.take_partial_reply();
        self.end(Cause::TimedOut);
        self.next_step().unwrap_or(ClientStep::NeedInput)
    }

    /// What the session waits for. The driver maps it to a timeout (RFC 5321 section 4.5.3.2).
    pub fn phase(&self) -> Stage {
        match self.state {
            State::Greeting => Stage::Greeting,
            State::Ehlo | State::Helo => Stage::Ehlo,
            State::StartTls => Stage::StartTls,
            State::Handshake => Stage::Handshake,
            State::Over(_) => Stage::Idle,
            State::Session => match self.expected.front() {
                None => Stage::Idle,
                Some(Expect::Rset | Expect::Proof | Expect::Mail) => Stage::Mail,
                Some(Expect::Rcpt(_)) => Stage::Rcpt,
                Some(Expect::Data) => Stage::Data,
                Some(Expect::FinalDot) if self.body_is_going_out() => Stage::Body,
                Some(Expect::FinalDot | Expect::EmptyDot) => Stage::FinalDot,
                Some(Expect::Quit) => Stage::Quit,
            },
        }
    }

    /// What the last EHLO offered; nothing before it, or after HELO.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// True once the peer has said something; after a handshake, once it has said something inside
    /// TLS.
    pub fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// What the peer said instead of the go-ahead, when it had offered STARTTLS and could be done without.
    pub fn starttls_refusal(&self) -> Option<&Rc<Reply>> {
        self.starttls_refusal.as_ref()
    }

    /// The first line of the greeting, without its code.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// The name that the peer gave itself in its EHLO or HELO reply.
    pub fn peer_name(&self) -> &str {
        &self.peer_name
    }

    /// Transactions that this session has ended, whatever their verdicts.
    pub fn transactions_ended(&self) -> u32 {
        self.transactions_ended
    }

    /// The reply that showed that the peer says more, or other things, than it was asked. It ended the
    /// session, and is no verdict.
    pub fn out_of_step(&self) -> Option<&OutOfStep> {
        self.out_of_step.as_ref()
    }

    /// Replies that have come whole: with [`Client::phase`] it tells which one is waited for.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    fn next_step(&mut self) -> Option<ClientStep> {
        self.steps.pop_front().or_else(|| match &self.state {
            State::Over(step) => Some(step.clone()),
            _ => None,
        })
    }

    fn body_is_going_out(&self) -> bool {
        self.open
            .front()
            .is_some_and(|open| open.body == Body::Asked)
    }

    fn on_reply(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.has_heard = true;
        match self.state {
            State::Session => self.on_session_reply(reply, out),
            State::Handshake | State::Over(_) => {}
            _ if reply.code == 421 => self.end(Cause::Refused(Rc::new(reply))),
            State::Greeting => self.on_greeting(reply, out),
            State::Ehlo => self.on_ehlo(reply, out),
            State::Helo => self.on_helo(reply, out),
            State::StartTls => self.on_starttls(reply, out),
        }
    }
}
