//! The receiving side of a session (RFC 5321 and the extensions that `extension` lists): octets
//! in; replies, body octets and [`Step`]s out. No socket and no clock.
//!
//! The driver's loop: pass what was read to [`Server::handle`] again and again, each time without
//! the consumed prefix, and do what the step says, until it is `NeedInput` (all is consumed: send
//! `out`, read more), `EndOfData` (commit, then [`Server::committed`] or
//! [`Server::not_committed`]), `StartTls` or `Close`.
//!
//! What is refused is refused by a reply, never by a guess:
//!
//! * Commands end at CRLF only. A bare LF in one is answered with 521 and the end of the session, at
//!   once: whoever sends it would otherwise wait for an answer to a line that has no end.
//! * Refused data is swallowed to its proper end and then answered. Where a dot on a line of its own
//!   suggests that the sender thinks it is done, the answer comes there and the session ends:
//!   what follows is never read as commands.
//! * After a DATA that got no 354, whatever was sent before our answer ends the session unread, be it a
//!   command or not: DATA is the last of what may be pipelined (RFC 2920 section 3.1), so it is text of a
//!   message whose sender did not wait. What comes later may be text all the same, for it may have been under
//!   way. So what comes at once with the first line ends the session where it is no command, and where it is
//!   BDAT, whose content may come unasked; and until a message is accepted, content that was there before
//!   its 354 was sent ends the session. A client that reads our answers does none of that. Not seen is a sender
//!   that never reads them, and pauses, for us to answer, just where a command in its text ends.
//! * A chunk whose size cannot be believed ends the session; any other refused chunk is swallowed.
//!
//! A transaction ends with the refusal of its data or of a chunk: the next command may be MAIL.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::message::{Envelope, Mailbox, MessageId, TlsSummary};
use crate::time::{Now, WallTime};

use super::data::{Content, Scanner, Swallower};
use super::extension::{Extension, Extensions};
use super::refusals::{
    END_OF_DATA, SHUTTING_DOWN, TEXT_WITHOUT_354, TIMED_OUT, TOO_MANY_ERRORS,
    TOO_MANY_IDLE_COMMANDS, TOO_MANY_REFUSALS, TOO_MANY_SMALL_CHUNKS, TOO_SLOW_IN_CROWD,
};
use super::trace;

mod answers;
mod body;
mod commands;
mod lines;
mod rejection;
mod settings;

use lines::LineReader;

pub use super::data::BareLineEnds;
pub use super::refusal::Refusal;
pub use answers::REFUSAL_TEXT_BYTES_MAX;
pub use rejection::{RejectedAt, Rejection};
pub use settings::{
    BANNER, COMMAND_LINE_BYTES_MIN, ERRORS_MAX, HOPS_MAX, MESSAGE_BYTES_MAX, RECIPIENTS_MAX,
    Settings, TEXT_LINE_BYTES_MIN,
};

/// Octets of refused content that are read on for the sake of an orderly reply. Beyond, the session ends.
pub const SWALLOWED_BYTES_MAX: u64 = 1 << 30;
/// Octets of a command line beyond its limit that are read on. Beyond, the session ends.
pub const LINE_SWALLOWED_BYTES_MAX: usize = 64 << 10;
/// A chunk below this, unless it is the last, counts as a small one.
pub const SMALL_CHUNK_BYTES: u64 = 512;
/// Small chunks since the last accepted message. At the limit: 421 4.7.0. Generous: a client may send a
/// message line by line, and there is no harm in it but the work.
pub const SMALL_CHUNKS_MAX: u32 = 10_000;
/// Recipients of a transaction that is given up count as a command that leads nowhere, so many as one.
const ABANDONED_RECIPIENTS_PER_COMMAND: usize = 100;
/// One command that leads nowhere is forgiven every so often: a client that keeps its connection open by
/// NOOP or RSET is no flood.
pub const IDLE_COMMAND_FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// Who is there.
#[derive(Clone, Copy, Debug)]
pub struct PeerInfo {
    pub address: IpAddr,
    /// May send to any domain; passed to [`Policy::recipient`].
    pub trusted: bool,
    /// TLS from the first octet (RFC 8314 section 3).
    pub tls: Option<TlsSummary>,
}

/// What only the relay's configuration or state can answer. Answers are immediate. No method has a default:
/// who wraps a policy must pass on all of them.
pub trait Policy {
    /// May mail for `forward_path` come in? 554 5.7.1 if we do not relay for its domain, 550 5.1.1
    /// if it is known not to exist.
    fn recipient(&self, trusted: bool, forward_path: &Mailbox) -> Result<(), Refusal>;

    /// Who gets mail to `Postmaster` without a domain (RFC 5321 section 4.1.1.3), if it is taken.
    /// `None`: it stays as it is.
    fn postmaster(&self) -> Option<Mailbox>;

    /// Is there room for a message of `peer`? Asked at MAIL, and again at DATA or the first BDAT. 452 4.3.1
    /// if not.
    fn admit(&self, peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal>;

    /// May mail of so many declared octets (0: nothing was said) count at these shares of the room? 452 4.3.1 if one of
    /// them is used up.
    fn share(&self, peer: &PeerInfo, claim: Claim<'_>, declared_bytes: u64) -> Result<(), Refusal>;

    /// Is STARTTLS listed for a peer that gives this name? Asked at the first EHLO, once for the whole session:
    /// a no is used up by it. STARTTLS that comes without is accepted.
    fn lists_starttls(&self, peer: &PeerInfo, hello: &str) -> bool;

    /// May `peer` have one more of these in this time? A yes counts, and so this is asked last.
    /// What an error is answered with is the end of the session.
    fn spend(&self, peer: &PeerInfo, what: Spending) -> Result<(), Refusal>;

    /// Mail was refused: for a log. A message whose content is refused comes here when that is found,
    /// its reply at the end of the data.
    fn rejected(&self, rejection: &Rejection<'_>);
}

/// Whose share of the room mail wants a part of.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// At MAIL: that of its origin. `None`: the null reverse-path.
    Sender(Option<&'a Mailbox>),
    /// At RCPT: that of its destination.
    Recipient(&'a Mailbox),
    /// At DATA or the first BDAT: all of these once more, since others may have come in between.
    Message(&'a Envelope),
}

/// What a client may have only so often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spending {
    /// At STARTTLS. Over the limit the session ends: to go on in plaintext would let a flood
    /// decide who is encrypted.
    Handshake,
    /// At MAIL.
    Message,
    /// At RCPT.
    Recipient,
    /// A reply 5yz.
    Error,
}

/// What the driver has to do next.
#[derive(Debug)]
pub enum Step {
    /// All input is consumed: send `out`, read more.
    NeedInput,
    /// Send `out` (the 220), discard unread input, shake hands; then [`Server::tls_established`],
    /// or drop the connection.
    StartTls,
    /// A body begins: put the trace header ([`Server::trace`]) into `body`, call `handle` again.
    /// After DATA, `out` ends with the 354.
    BeginBody,
    /// The body that began is given up: drop what there is of it, call `handle` again. The rest of
    /// it is swallowed without a further step.
    BodyAborted,
    /// The body is complete, the final `.CRLF` included. Commit it, then call [`Server::committed`]
    /// or [`Server::not_committed`]. [`Server::content`] says more of it.
    EndOfData(Box<Envelope>),
    /// Send `out`, close. The peer may still be sending: shut down the sending side, read on for
    /// a moment, or a reset may destroy the reply before it is read.
    Close,
}

/// What the session waits for, so that the driver can choose a time-out (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// [`Server::greet`] is due.
    Greeting,
    /// A command, 5 minutes.
    Command,
    /// Message content, 3 minutes between two pieces.
    Body,
    /// Message content, but the last line was a dot between bare line ends. Few senders go on
    /// from here, most wait for an answer: some seconds. See [`Server::timed_out`].
    BodyMayBeOver,
    /// The commit, on our side.
    Commit,
    /// A TLS handshake.
    Handshake,
    /// Nothing.
    Closed,
}

/// Counters of a session, for its log line.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The last argument of EHLO or HELO, without control characters; empty if there was none. One
    /// word of ASCII unless the peer is trusted.
    pub hello: Box<str>,
    /// Commands that were well-formed.
    pub commands: u64,
    /// MAIL commands accepted.
    pub transactions: u64,
    /// Messages that got their 250.
    pub messages: u64,
    /// Recipients of those.
    pub recipients: u64,
    /// Octets of content of those.
    pub message_bytes: u64,
    /// Replies 4yz and 5yz.
    pub refusals: u64,
    /// The last such reply, one line without CRLF, printable.
    pub last_refusal: String,
    pub tls: Option<TlsSummary>,
    /// STARTTLS could be had, and was not listed for this peer.
    pub starttls_withdrawn: bool,
    /// Input was there behind STARTTLS before the handshake: a broken client, or somebody in the
    /// middle. It was not read.
    pub input_before_tls: bool,
}

/// What the peer said it is.
#[derive(Debug)]
struct Hello {
    name: Box<str>,
    is_esmtp: bool,
}

/// A state owns what it needs and nothing else: no transaction can be read where there is none.
#[derive(Debug)]
enum State {
    Greeting,
    /// No transaction.
    Ready,
    /// MAIL was accepted.
    Mail(Box<Envelope>),
    /// After 354.
    Data(Incoming),
    /// Data that is refused; what to say at its end.
    RefusedData(Refused),
    /// Between two chunks.
    BetweenChunks(Incoming),
    /// Octets of this chunk still to come.
    Chunk {
        incoming: Incoming,
        left: u64,
        last: bool,
    },
    /// Octets of a chunk that is refused; what to say behind it.
    RefusedChunk {
        left: u64,
        refusal: Refusal,
    },
    /// `EndOfData` was returned. Recipients of the message.
    Commit {
        content: Content,
        recipients: u64,
    },
    Handshake,
    Closed,
}

#[derive(Debug)]
struct Incoming {
    envelope: Box<Envelope>,
    scanner: Scanner,
}

#[derive(Debug)]
struct Refused {
    swallower: Swallower,
    refusal: Refusal,
    swallowed_bytes: u64,
}

/// After a DATA that got no 354, up to the next message: whether the client has shown that it waits for our
/// answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    /// There was no such DATA.
    Unasked,
    /// That DATA was the last command.
    Refused,
    /// And more had been sent before that was answered: text.
    WithText,
    /// What came at once behind it may be text, though it began with a command.
    Unknown,
    /// It has sent something after an answer of ours.
    ForReplies,
    /// Its next DATA has got 354, and no content has come.
    For354,
}

/// One session, from greeting to end.
#[derive(Debug)]
pub struct Server {
    settings: Rc<Settings>,
    peer: PeerInfo,
    hello: Option<Hello>,
    state: State,
    lines: LineReader,
    /// Replies 5yz since the last accepted message.
    errors: u32,
    /// Commands that lead nowhere since the last accepted message.
    idle_commands: u32,
    /// Small chunks since the last accepted message.
    small_chunks: u32,
    /// Up to when idle commands have been forgiven.
    forgiven_until: Option<Now>,
    /// Replies 4yz since the last accepted message.
    transient_refusals: u32,
    /// Memory of the envelope, about.
    envelope_bytes: usize,
    waits: Waits,
    /// The driver saw more come before it sent what `handle` answered.
    came_early: bool,
    has_quit: bool,
    /// Whether STARTTLS is listed, once that was asked.
    lists_starttls: Option<bool>,
    /// What the last MAIL declared, up to 4 GiB; 0 if nothing.
    declared_bytes: u32,
    summary: Summary,
}

/// What a command leads to: `None` is the next command.
type Next = Option<Step>;

impl Server {
    pub fn new(settings: Rc<Settings>, peer: PeerInfo) -> Self {
        Server {
            settings,
            peer,
            hello: None,
            state: State::Greeting,
            lines: LineReader::default(),
            errors: 0,
            idle_commands: 0,
            small_chunks: 0,
            forgiven_until: None,
            transient_refusals: 0,
            envelope_bytes: 0,
            waits: Waits::Unasked,
            came_early: false,
            has_quit: false,
            lists_starttls: None,
            declared_bytes: 0,
            summary: Summary {
                tls: peer.tls,
                ..Summary::default()
            },
        }
    }

    /// What this peer may use now.
    fn offers(&self) -> Extensions {
        match self.peer.tls {
            Some(_) => self.settings.offers.without(Extension::StartTls),
            None => self.settings.offers,
        }
    }

    /// Of the message whose body is coming.
    pub fn envelope(&self) -> Option<&Envelope> {
        match &self.state {
            State::Data(incoming)
            | State::BetweenChunks(incoming)
            | State::Chunk { incoming, .. } => Some(&incoming.envelope),
            _ => None,
        }
    }

    pub fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// True if the session was closed by the client's QUIT: it will send nothing more.
    pub fn has_quit(&self) -> bool {
        self.has_quit
    }

    /// Appends the greeting. To be called once, before any `handle`.
    pub fn greet(&mut self, out: &mut Vec<u8>) {
        assert!(matches!(self.state, State::Greeting));
        out.extend_from_slice(b"220 ");
        out.extend_from_slice(self.settings.hostname.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.settings.banner.as_bytes());
        out.extend_from_slice(b"\r\n");
        self.state = State::Ready;
    }

    /// Consumes a prefix of `input`, appends replies to `out` and body octets in wire form to
    /// `body`. Returns the octets consumed, and what to do.
    ///
    /// Replies in `out` are not yet sent: the client has not seen them when it sent `input`.
    ///
    /// Must not be called between `EndOfData` and the word about the commit, nor between `StartTls`
    /// and [`Server::tls_established`].
    pub fn handle(
        &mut self,
        input: &[u8],
        policy: &dyn Policy,
        body: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let errors_before = self.errors;
            if self.is_unawaited(rest, out) {
                self.close(&TEXT_WITHOUT_354, out);
            }
            let (consumed, next) = match &mut self.state {
                State::Ready | State::Mail(_) | State::BetweenChunks(_) => {
                    self.handle_line(rest, policy, out)
                }
                State::Data(incoming) => {
                    let (consumed, progress) = incoming.scanner.feed(rest, body);
                    (consumed, Some(self.after_data(progress, policy)))
                }
                State::RefusedData(refused) => {
                    let (consumed, swallowed) = refused.swallower.feed(rest);
                    refused.swallowed_bytes += consumed as u64;
                    (consumed, self.after_refused_data(swallowed, out))
                }
                State::Chunk { .. } => self.handle_chunk(rest, policy, body, out),
                State::RefusedChunk { .. } => self.handle_refused_chunk(rest, out),
                State::Closed => (rest.len(), Some(Step::Close)),
                State::Greeting | State::Commit { .. } | State::Handshake => {
                    panic!("handle() called while the driver owes an answer")
                }
            };
            at += consumed;
            let next = self.charge_errors(next, errors_before, policy, out);
            if let Some(step) = self.enforce_limits(next, out) {
                return (at, step);
            }
        }
    }

    /// True for what comes of a client that has not waited for our answer to DATA, and must not be
    /// read. Notes that it has waited for one, if it has.
    fn is_unawaited(&mut self, input: &[u8], out: &[u8]) -> bool {
        let is_over = self.waits == Waits::Unasked || matches!(self.state, State::Closed);
        if is_over || input.is_empty() {
            return false;
        }
        let came_before_answer = std::mem::take(&mut self.came_early) || !out.is_empty();
        match self.waits {
            Waits::WithText => return true,
            Waits::Refused | Waits::For354 if came_before_answer => return true,
            Waits::Unknown if came_before_answer => {}
            Waits::Unknown | Waits::For354 => self.waits = Waits::ForReplies,
            Waits::Unasked | Waits::Refused | Waits::ForReplies => {}
        }
        false
    }

    /// A line that is no command is the text of a message whose DATA was refused.
    fn text_may_follow(&self) -> bool {
        matches!(self.waits, Waits::Refused | Waits::Unknown)
    }

    /// True from a DATA that got no 354 to the next message: see [`Server::more_has_come`].
    pub fn has_refused_data(&self) -> bool {
        self.waits != Waits::Unasked
    }

    /// Input has come that is not yet received, before what `handle` answered was sent. Directly behind a
    /// refused DATA it is no command, whatever it looks like.
    pub fn more_has_come(&mut self) {
        self.came_early = self.has_refused_data();
        if self.waits == Waits::Refused {
            self.waits = Waits::WithText;
        }
    }

    /// The message that `EndOfData` handed out is durable: 250.
    pub fn committed(&mut self, id: MessageId, out: &mut Vec<u8>) {
        let (content, recipients) = self.end_commit();
        self.summary.messages += 1;
        self.summary.recipients += recipients;
        self.summary.message_bytes += content.message_bytes;
        self.errors = 0;
        self.idle_commands = 0;
        self.small_chunks = 0;
        self.transient_refusals = 0;
        self.waits = Waits::Unasked;
        out.extend_from_slice(b"250 2.0.0 Ok: queued as ");
        id.push_to(out);
        out.extend_from_slice(b"\r\n");
    }

    /// The message that `EndOfData` handed out is not durable.
    pub fn not_committed(&mut self, refusal: Refusal, out: &mut Vec<u8>) {
        self.end_commit();
        self.refuse(&refusal, out);
    }

    fn end_commit(&mut self) -> (Content, u64) {
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Commit {
                content,
                recipients,
            } => {
                self.envelope_bytes = 0;
                (content, recipients)
            }
            other => panic!("no message is to be committed in {other:?}"),
        }
    }

    /// The handshake after `StartTls` succeeded: what was said before is forgotten (RFC 3207
    /// section 4.2).
    pub fn tls_established(&mut self, tls: TlsSummary) {
        assert!(matches!(self.state, State::Handshake));
        self.state = State::Ready;
        self.hello = None;
        self.waits = Waits::Unasked;
        self.lines = LineReader::default();
        self.peer.tls = Some(tls);
        self.summary.tls = Some(tls);
    }

    /// The peer took too long: 421, or, where it may believe that its message is complete, what is
    /// wrong with that. The driver closes.
    pub fn timed_out(&mut self, out: &mut Vec<u8>) {
        let refusal = match self.phase() {
            Phase::BodyMayBeOver => END_OF_DATA,
            _ => TIMED_OUT,
        };
        self.close(&refusal, out);
    }

    /// The peer took longer than there is time while room is short: 421, and the driver closes.
    pub fn crowded_out(&mut self, out: &mut Vec<u8>) {
        self.close(&TOO_SLOW_IN_CROWD, out);
    }

    /// We are going away: 421. The driver closes. Does nothing while a commit is under way: its
    /// outcome must be said first.
    pub fn shutting_down(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.state, State::Commit { .. }) {
            self.close(&SHUTTING_DOWN, out);
        }
    }

    /// Tells the time now and then: commands that lead nowhere are forgiven with time, one after each
    /// [`IDLE_COMMAND_FORGIVEN_AFTER`].
    pub fn note_time(&mut self, now: Now) {
        let since = *self.forgiven_until.get_or_insert(now);
        let each_us = IDLE_COMMAND_FORGIVEN_AFTER.as_micros() as u64;
        let forgiven = now.since(since).as_micros() as u64 / each_us;
        self.forgiven_until = Some(Now(since.0 + forgiven * each_us));
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.idle_commands = self.idle_commands.saturating_sub(forgiven);
    }

    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Greeting => Phase::Greeting,
            State::Ready | State::Mail(_) | State::BetweenChunks(_) => Phase::Command,
            State::Data(incoming) if incoming.scanner.may_be_over() => Phase::BodyMayBeOver,
            State::Data(_)
            | State::RefusedData(_)
            | State::Chunk { .. }
            | State::RefusedChunk { .. } => Phase::Body,
            State::Commit { .. } => Phase::Commit,
            State::Handshake => Phase::Handshake,
            State::Closed => Phase::Closed,
        }
    }

    /// No transaction is open, and no command half received: a 421 costs nothing now.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Ready | State::Greeting) && self.lines.is_empty()
    }

    /// Of the body that `EndOfData` ended, until the commit is over; of the body so far before.
    pub fn content(&self) -> Content {
        match &self.state {
            State::Commit { content, .. } => *content,
            State::Data(incoming)
            | State::BetweenChunks(incoming)
            | State::Chunk { incoming, .. } => incoming.scanner.content(),
            _ => Content::default(),
        }
    }

    /// The size that the last MAIL declared (RFC 1870), 4 GiB at most; 0 if none.
    pub fn declared_bytes(&self) -> u32 {
        self.declared_bytes
    }

    /// Appends the trace header of the message whose body begins (after `BeginBody`).
    pub fn trace(&self, id: MessageId, now: WallTime, body: &mut Vec<u8>) {
        let (State::Data(incoming) | State::Chunk { incoming, .. }) = &self.state else {
            panic!("a trace header belongs to a body");
        };
        let hello = self.hello.as_ref();
        let origin = trace::Origin {
            hello: hello.map_or("", |hello| &hello.name),
            is_esmtp: hello.is_some_and(|hello| hello.is_esmtp),
            address: self.peer.address,
            tls: self.peer.tls.as_ref(),
            hostname: &self.settings.hostname,
        };
        trace::write_received(&origin, &incoming.envelope, id, now, body);
    }

    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Ends the session of a peer that does nothing but err, or nothing at all.
    fn enforce_limits(&mut self, next: Next, out: &mut Vec<u8>) -> Next {
        let is_over = |count: u32, limit: u32| limit > 0 && count >= limit;
        if matches!(self.state, State::Closed) {
            next
        } else if is_over(self.errors, self.settings.max_errors) {
            self.close(&TOO_MANY_ERRORS, out)
        } else if is_over(self.idle_commands, self.settings.max_idle_commands) {
            self.close(&TOO_MANY_IDLE_COMMANDS, out)
        } else if self.small_chunks >= SMALL_CHUNKS_MAX {
            self.close(&TOO_MANY_SMALL_CHUNKS, out)
        } else if is_over(
            self.transient_refusals,
            self.settings.max_transient_refusals,
        ) {
            self.close(&TOO_MANY_REFUSALS, out)
        } else {
            next
        }
    }

    /// Counts a new error against the address, which may have erred in many sessions.
    fn charge_errors(
        &mut self,
        next: Next,
        errors_before: u32,
        policy: &dyn Policy,
        out: &mut Vec<u8>,
    ) -> Next {
        if self.errors <= errors_before || matches!(self.state, State::Closed) {
            return next;
        }
        match policy.spend(&self.peer, Spending::Error) {
            Ok(()) => next,
            Err(refusal) => self.close(&refusal, out),
        }
    }

    /// Memory of the transaction that is open, about; its body is the driver's.
    pub fn envelope_bytes(&self) -> usize {
        self.envelope_bytes
    }

    /// Says no, and counts.
    fn refuse(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        let start = out.len();
        answers::write_refusal(refusal, out);
        self.errors += u32::from(refusal.is_permanent());
        self.transient_refusals += u32::from(!refusal.is_permanent());
        self.summary.refusals += 1;
        self.summary.last_refusal.clear();
        let written = String::from_utf8_lossy(&out[start..]);
        self.summary.last_refusal.push_str(written.trim_end());
    }

    /// Says no for the last time.
    fn close(&mut self, refusal: &Refusal, out: &mut Vec<u8>) -> Next {
        self.refuse(refusal, out);
        self.state = State::Closed;
        Some(Step::Close)
    }

    /// Drops the transaction (RFC 5321 sections 4.1.1.1 and 4.1.1.5), and says so if a body had
    /// begun.
    fn reset(&mut self) -> Next {
        self.envelope_bytes = 0;
        match std::mem::replace(&mut self.state, State::Ready) {
            State::Data(_) | State::BetweenChunks(_) | State::Chunk { .. } => {
                Some(Step::BodyAborted)
            }
            State::Mail(envelope) => {
                let given_up = envelope.recipients.len() / ABANDONED_RECIPIENTS_PER_COMMAND;
                self.idle_commands += given_up as u32;
                None
            }
            _ => None,
        }
    }
}
