//! One outbound connection: drives `smtp::client` over a stream, from connect to QUIT.
//!
//! Promise: plaintext is used only where the level of the destination allows it.
//! Not here: which host, whose mail, and what a failure means for it.

use crate::io::buffer::AlignedBuf;
use crate::io::net::Socket;
use crate::io::{clock, pool};
use crate::message::TlsSummary;
use crate::schedule::dsn::{Extent, Taker};
use crate::smtp::client::{
    Cause, Client, ClientSettings, ClientStep, Failure, Features, Limits, OutOfStep, TlsWish,
    Transaction, TransactionResult,
};
use crate::smtp::reply::{Reply, Stage};
use crate::spool::{BodyReader, Place};
use crate::time::Now;
use crate::time::pace::{MinRate, Pace};
use crate::tls::client::ClientTls;
use crate::tls::policy::{Judge, Level};
use crate::tls::stream::{Received, Stream, StreamError};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a body that are read, encrypted and sent at once.
const BODY_SLICE_BYTES: usize = 64 * 1024;

/// How long the reason of a host that broke off is waited for: it was sent before.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a next hop may take (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub connect: Duration,
    pub greeting: Duration,
    /// EHLO, STARTTLS, MAIL and RCPT.
    pub command: Duration,
    pub handshake: Duration,
    /// The reply to DATA.
    pub data: Duration,
    /// Each block of the content.
    pub block: Duration,
    /// The content as a whole. `None`: no limit but `block`.
    pub min_rate: Option<MinRate>,
    /// The reply to the content.
    pub final_dot: Duration,
    pub quit: Duration,
    /// While others wait for a connection: each reply up to the content, and each of its blocks.
    pub crowded: Duration,
}

impl Timeouts {
    fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Connect => self.connect,
            Stage::Greeting => self.greeting,
            Stage::Ehlo | Stage::StartTls | Stage::Mail | Stage::Rcpt | Stage::Idle => self.command,
            Stage::Handshake => self.handshake,
            Stage::Data => self.data,
            Stage::Body => self.block,
            Stage::FinalDot => self.final_dot,
            Stage::Quit => self.quit,
        }
    }

    /// The same while others wait for a connection. Before the session stands, the schedule decides; behind
    /// the content a short wait would make doubles.
    fn in_crowd(&self, stage: Stage) -> Option<Duration> {
        match stage {
            Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body => Some(self.crowded),
            _ => None,
        }
    }
}

/// A deadline, and the one that counts while others wait for a connection.
#[derive(Clone, Copy)]
struct Due {
    at: Now,
    in_crowd: Now,
}

/// Which reply is waited for, and when it must be whole. What comes of it octet by octet or line by line
/// gains no time.
struct Awaited {
    replies_before: u64,
    stage: Stage,
    since: Now,
    due: Due,
}

/// Defaults of [`Settings`].
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5 * 60);
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5 * 60);
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
pub const SEND_TIMEOUT: Duration = Duration::from_secs(3 * 60);
pub const MIN_SEND_RATE: u64 = 1000;
pub const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long the answer to QUIT is waited for: nothing depends on it.
pub const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How next hops are spoken to.
#[derive(Clone, Debug)]
pub struct Settings {
    pub timeouts: Timeouts,
    pub sends_sni: bool,
    /// Connect from these; at most one per IP version.
    pub source_addresses: Vec<IpAddr>,
}

/// What all outbound connections of a core share.
pub struct Context {
    /// One for each [`TlsWish`], in the order of its variants.
    settings: [Rc<ClientSettings>; 3],
    tls: ClientTls,
    judge: Judge,
    timeouts: Timeouts,
    sends_sni: bool,
    sources: Vec<IpAddr>,
}

impl Context {
    pub fn new(hostname: &str, tls: ClientTls, judge: Judge, settings: Settings) -> Self {
        let of_client = |starttls| {
            Rc::new(ClientSettings {
                hostname: hostname.to_owned(),
                starttls,
                detect_loop: true,
            })
        };
        Context {
            settings: [TlsWish::Never, TlsWish::IfOffered, TlsWish::Required].map(of_client),
            tls,
            judge,
            timeouts: settings.timeouts,
            sends_sni: settings.sends_sni,
            sources: settings.source_addresses,
        }
    }

    /// How long an address that says nothing is waited for.
    pub fn connect_timeout(&self) -> Duration {
        self.timeouts.connect
    }

    /// Our own address for a connection to `peer`, if one is set for its IP version.
    fn source_for(&self, peer: SocketAddr) -> Option<IpAddr> {
        let same_version = |source: &&IpAddr| source.is_ipv6() == peer.is_ipv6();
        self.sources.iter().find(same_version).copied()
    }

    fn settings(&self, wish: TlsWish) -> Rc<ClientSettings> {
        self.settings[wish as usize].clone()
    }
}

/// Whom to connect to, and how much TLS is demanded.
pub struct Target<'a> {
    pub site: &'a str,
    /// The MX host's name, or the address in brackets.
    pub host: &'a str,
    pub address: SocketAddr,
    pub level: Level,
    /// False after a failed handshake that the level forgives.
    pub try_tls: bool,
}

impl Target<'_> {
    fn wish(&self) -> TlsWish {
        match (self.level.wants_tls(), self.level.allows_plaintext()) {
            (true, false) => TlsWish::Required,
            (true, true) if self.try_tls => TlsWish::IfOffered,
            _ => TlsWish::Never,
        }
    }
}

/// Why no session came about.
#[derive(Debug)]
pub enum OpenError {
    /// The TCP connection failed.
    Unreachable(std::io::Error),
    /// The handshake failed or took too long, or TLS did before the first reply inside it.
    Tls(TlsFailure),
    /// The handshake worked, but not with the host that was meant.
    Untrusted(TlsSummary),
    /// The session ended before it was ready for mail.
    Session(Failure),
}

/// How TLS failed.
#[derive(Debug)]
pub struct TlsFailure {
    pub error: StreamError,
    /// The handshake was done on our side, and no reply had come inside it. A server with TLS 1.3 checks
    /// our last flight only then, so a refusal comes here as well.
    pub after_handshake: bool,
    /// It was to resume an earlier session. The tickets are forgotten: a full handshake may work.
    pub with_ticket: bool,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.after_handshake {
            true => "after",
            false => "in",
        };
        write!(f, "TLS failed {when} the handshake: {}", self.error)
    }
}

/// Where the content of a message comes from. Wire form.
pub enum Content<'a> {
    Memory(&'a [u8]),
    Spool(&'a Place),
}

/// The end of a content, with its final dot.
pub enum LastPiece<'a> {
    Memory(&'a [u8]),
    /// What lies in this range.
    Stored(AlignedBuf, Range<usize>),
}

impl LastPiece<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            LastPiece::Memory(bytes) => bytes,
            LastPiece::Stored(buffer, range) => &buffer[range.clone()],
        }
    }
}

/// Where a transaction stands.
#[derive(Debug)]
pub enum Point {
    /// The peer wants the content: [`Connection::send_body`], or its two parts.
    SendBody,
    /// Every recipient has a verdict; whether the connection lives on is told by `reusable`.
    Done(TransactionResult),
}

fn split_last_slice(bytes: &[u8]) -> (&[u8], &[u8]) {
    let most = bytes.len().saturating_sub(1) / BODY_SLICE_BYTES * BODY_SLICE_BYTES;
    bytes.split_at(most)
}

/// A session that is ready for a transaction.
pub struct Connection {
    context: Rc<Context>,
    stream: Stream,
    client: Client,
    input: Vec<u8>,
    parsed: usize,
    out: Vec<u8>,
    tls: Option<TlsSummary>,
    /// A step that the machine gave outside of `handle`.
    pending: Option<ClientStep>,
    awaited: Option<Awaited>,
    /// Of the content that is going out, or went out last.
    pace: Pace,
    /// Why the content could not be read from the spool.
    content_error: Option<std::io::Error>,
    /// How the connection ended, if it was not the machine that ended it.
    broke: Option<StreamError>,
    /// How long the peer was waited for in vain at last.
    waited: Option<Duration>,
    /// The handshake was to resume an earlier session.
    with_ticket: bool,
    /// If TLS does not work, plaintext is tried.
    may_fall_back: bool,
}

impl Connection {
    /// Connects, greets, and negotiates TLS as the target's level says.
    pub async fn open(context: Rc<Context>, target: &Target<'_>) -> Result<Connection, OpenError> {
        let deadline = clock::now() + context.timeouts.connect;
        let socket = Socket::connect(target.address, context.source_for(target.address), deadline)
            .await
            .map_err(OpenError::Unreachable)?;
        let client = Client::new(context.settings(target.wish()));
        let mut connection = Connection {
            context,
            stream: Stream::new(socket),
            client,
            input: Vec::new(),
            parsed: 0,
            out: Vec::new(),
            tls: None,
            pending: None,
            awaited: None,
            pace: Pace::new(deadline),
            content_error: None,
            broke: None,
            waited: None,
            with_ticket: false,
            may_fall_back: target.level.allows_plaintext(),
        };
        connection.negotiate(target).await?;
        Ok(connection)
    }

    async fn negotiate(&mut self, target: &Target<'_>) -> Result<(), OpenError> {
        loop {
            match self.step().await {
                ClientStep::StartTls => self.start_tls(target).await?,
                ClientStep::Ready => return Ok(()),
                ClientStep::Failed(failure) => {
                    self.say_last_word();
                    return Err(self.failed(failure, target));
                }
                _ => {
                    return Err(OpenError::Session(Failure {
                        stage: self.client.phase(),
                        cause: Cause::PeerClosed,
                    }));
                }
            }
        }
    }

    /// Until a reply has come inside TLS, it is TLS that did not work.
    fn failed(&mut self, failure: Failure, target: &Target<'_>) -> OpenError {
        match self.broke.take() {
            Some(error) if self.tls.is_some() && !self.client.has_heard() => {
                self.tls_failed(error, true, target)
            }
            _ => OpenError::Session(failure),
        }
    }

    fn tls_failed(
        &self,
        error: StreamError,
        after_handshake: bool,
        target: &Target<'_>,
    ) -> OpenError {
        let Context { tls, sends_sni, .. } = &*self.context;
        if self.with_ticket {
            tls.forget_tickets(target.site, target.host, *sends_sni);
        }
        OpenError::Tls(TlsFailure {
            error,
            after_handshake,
            with_ticket: self.with_ticket,
        })
    }

    async fn start_tls(&mut self, target: &Target<'_>) -> Result<(), OpenError> {
        let shaken = self.handshake(target).await;
        let mut summary = shaken.map_err(|error| self.tls_failed(error, false, target))?;
        if let Some(session) = self.stream.session() {
            summary.verdict = self.context.judge.judge(
                session.peer_certificates(),
                target.host,
                clock::wall_time(),
            );
        }
        if !target.level.accepts(summary.verdict) {
            return Err(OpenError::Untrusted(summary));
        }
        self.tls = Some(summary);
        self.client.tls_established(&mut self.out);
        Ok(())
    }

    async fn handshake(&mut self, target: &Target<'_>) -> Result<TlsSummary, StreamError> {
        self.flush().await?;
        self.forget_input();
        let Context { tls, sends_sni, .. } = &*self.context;
        let session = tls
            .connect(target.site, target.host, *sends_sni)
            .map_err(StreamError::Tls)?;
        self.with_ticket = session.offers_ticket();
        self.stream
            .set_deadline(clock::now() + self.context.timeouts.handshake);
        self.stream.handshake(session, &mut self.input).await
    }

    /// The reply to STARTTLS, if the peer offered it, refused it, and was spoken to in plaintext then.
    pub fn starttls_refusal(&self) -> Option<&Reply> {
        self.client.starttls_refusal().map(Rc::as_ref)
    }

    /// What TLS this session has, with the verdict on the peer's certificate.
    pub fn tls(&self) -> Option<&TlsSummary> {
        self.tls.as_ref()
    }

    /// What the peer said that it takes.
    pub fn limits(&self) -> &Limits {
        &self.client.features().limits
    }

    /// The peer has named no extension: it refused EHLO, or had nothing to say to it.
    pub fn knows_no_extensions(&self) -> bool {
        *self.client.features() == Features::default()
    }

    /// What the peer takes of a report, and no more of its original than that.
    pub fn taker(&self, original: Extent) -> Taker {
        let features = self.client.features();
        Taker {
            eight_bit_mime: features.eight_bit_mime,
            bytes_max: features.size.unwrap_or(0),
            original,
        }
    }

    /// The content may have more octets than the peer takes, unless some of them do not count.
    pub fn may_be_too_small_for(&self, transaction: &Transaction<'_>) -> bool {
        let limit = self.client.features().size.filter(|&limit| limit > 0);
        limit.is_some_and(|limit| transaction.body_bytes > limit)
    }

    /// True while the session stands: another transaction may begin, or is under way.
    pub fn lives(&self) -> bool {
        !self.client.is_over()
    }

    /// The peer takes commands without waiting for each reply (RFC 2920).
    pub fn pipelines(&self) -> bool {
        self.client.features().pipelining
    }

    /// Begins a transaction, when none is under way. `Err` is its result: this session cannot carry
    /// the message. Of a session that has carried other mail, nothing that came unasked may be left: it
    /// would be read as the reply to what is said now.
    pub async fn begin(&mut self, transaction: &Transaction<'_>) -> Result<(), TransactionResult> {
        if self.client.transactions_ended() > 0 && !self.is_quiet().await {
            self.hear_unasked();
            return Err(TransactionResult::not_attempted(transaction));
        }
        self.client
            .begin(transaction, &mut self.out)
            .map_err(|unfit| TransactionResult::unfit(transaction, &unfit))
    }

    /// The session ends, also if what came is not a whole reply.
    fn hear_unasked(&mut self) {
        let input = &self.input[self.parsed..];
        let (taken, step) = self.client.handle(input, &mut self.out);
        self.parsed += taken;
        self.pending = Some(match step {
            ClientStep::NeedInput => self.client.peer_closed(),
            step => step,
        });
    }

    /// The reply that showed that the peer says more, or other things, than it was asked.
    pub fn out_of_step(&self) -> Option<&OutOfStep> {
        self.client.out_of_step()
    }

    /// Brings the oldest transaction to its next point, waiting for the peer.
    pub async fn proceed(&mut self) -> Point {
        match self.step().await {
            ClientStep::SendBody => Point::SendBody,
            ClientStep::Done(mut result) => {
                result.waited = self.waited;
                Point::Done(result)
            }
            // The machine ends every open transaction with `Done` before anything else.
            step => unreachable!("{step:?} while a transaction is open"),
        }
    }

    /// Sends the content.
    pub async fn send_body(&mut self, content: &Content<'_>) {
        if let Some(last) = self.send_most(content).await {
            self.send_last(last).await;
        }
    }

    /// Sends the content but for its last piece, which [`Connection::send_last`] must send now. `None`: the session is over.
    pub async fn send_most<'a>(&mut self, content: &Content<'a>) -> Option<LastPiece<'a>> {
        if self.is_refused_early() {
            return None;
        }
        self.pace = Pace::new(clock::now());
        let sent = match content {
            Content::Memory(bytes) => {
                let (most, last) = split_last_slice(bytes);
                let sent = self.send_slices(most).await;
                sent.map(|()| LastPiece::Memory(last))
            }
            Content::Spool(place) => self.send_stored(place).await,
        };
        match sent {
            Ok(last) => {
                self.client.body_sent();
                Some(last)
            }
            Err(error) => {
                self.body_broke_off(&error).await;
                None
            }
        }
    }

    /// Before the last piece of a content: begins the transaction behind it, whose commands go out with that piece (RFC 2920
    /// section 3.1). False: it cannot be begun there.
    pub fn begin_ahead(&mut self, next: &Transaction<'_>) -> bool {
        self.client.can_begin() && self.client.begin(next, &mut self.out).is_ok()
    }

    pub async fn send_last(&mut self, last: LastPiece<'_>) {
        let last = last.as_slice();
        self.arm_for_block();
        let sent = self.stream.send_both(last, &self.out).await;
        self.pace.moved(last.len());
        self.out.clear();
        if let Err(error) = sent {
            self.body_broke_off(&error).await;
        }
    }

    async fn body_broke_off(&mut self, error: &StreamError) {
        self.client.body_broke_off();
        if self.content_error.is_some() || !self.hears_why().await {
            self.lost(error);
        }
    }

    /// Handles what has come behind 354 before the content was sent: a refusal, which ends the
    /// session, or nothing good.
    fn is_refused_early(&mut self) -> bool {
        let input = &self.input[self.parsed..];
        if input.is_empty() {
            return false;
        }
        let (taken, step) = self.client.handle(input, &mut self.out);
        self.parsed += taken;
        let is_refused = step != ClientStep::NeedInput;
        if is_refused {
            self.pending = Some(step);
        }
        is_refused
    }

    /// After the content could not be sent: a host that finds a message too large half way answers
    /// and closes, and its reply is still there to be read.
    async fn hears_why(&mut self) -> bool {
        let deadline = clock::now() + LAST_WORD_TIMEOUT;
        loop {
            self.forget_input();
            self.stream.set_deadline(deadline);
            match self.stream.receive(&mut self.input).await {
                Ok(Received::Bytes) if self.is_refused_early() => return true,
                Ok(Received::Bytes) => {}
                _ => return false,
            }
        }
    }

    async fn send_slices(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        for slice in bytes.chunks(BODY_SLICE_BYTES) {
            self.arm_for_block();
            self.stream.send(slice).await?;
            self.pace.moved(slice.len());
        }
        Ok(())
    }

    /// One time for each block as a whole, and one for all of the content.
    fn arm_for_block(&mut self) {
        let due = self.due(Stage::Body);
        self.awaited = Some(Awaited {
            replies_before: self.client.replies(),
            stage: Stage::Body,
            since: clock::now(),
            due,
        });
        self.stream
            .set_deadlines(due.at.min(self.pace_due()), due.in_crowd);
    }

    /// When more of the content must have been taken, or the peer is too slow.
    fn pace_due(&self) -> Now {
        let rate = self.context.timeouts.min_rate;
        rate.map_or(Now::NEVER, |rate| self.pace.deadline(rate))
    }

    /// Streams the content from the spool, all but its last piece. If the spool cannot give it whole, the connection must end
    /// without the final dot.
    async fn send_stored(&mut self, place: &Place) -> Result<LastPiece<'static>, StreamError> {
        let mut buffer = AlignedBuf::empty();
        let mut reader = place.reader();
        let mut piece = self.read_piece(&mut reader, &mut buffer).await?;
        let mut next = AlignedBuf::new(BODY_SLICE_BYTES);
        loop {
            let following = self.read_piece(&mut reader, &mut next).await?;
            if following.is_empty() {
                return Ok(LastPiece::Stored(buffer, piece));
            }
            self.send_slices(&buffer[piece]).await?;
            std::mem::swap(&mut buffer, &mut next);
            piece = following;
        }
    }

    async fn read_piece(
        &mut self,
        reader: &mut BodyReader,
        buffer: &mut AlignedBuf,
    ) -> Result<Range<usize>, StreamError> {
        let lent = match buffer.capacity() {
            0 => AlignedBuf::new(BODY_SLICE_BYTES),
            _ => std::mem::replace(buffer, AlignedBuf::empty()),
        };
        let began = clock::now();
        let (read, returned) = reader.next(lent).await;
        self.pace.excuse(clock::now().since(began));
        *buffer = returned;
        read.map_err(|error| {
            self.content_error = Some(error);
            StreamError::Gone(std::io::ErrorKind::InvalidData.into())
        })
    }

    /// The content of the last transaction could not be read.
    pub fn lacks_content(&self) -> bool {
        self.content_error.is_some()
    }

    /// Why the content of the last transaction could not be read, if that was its trouble.
    pub fn take_content_error(&mut self) -> Option<std::io::Error> {
        self.content_error.take()
    }

    /// The next step of the machine; waits for the peer as long as the phase allows.
    async fn step(&mut self) -> ClientStep {
        loop {
            if let Some(step) = self.pending.take()
                && step != ClientStep::NeedInput
            {
                return step;
            }
            let (taken, step) = self
                .client
                .handle(&self.input[self.parsed..], &mut self.out);
            self.parsed += taken;
            if step != ClientStep::NeedInput {
                return step;
            }
            self.forget_input();
            if let Err(error) = self.exchange().await {
                self.lost(&error);
                self.broke = Some(error);
            }
        }
    }

    async fn exchange(&mut self) -> Result<(), StreamError> {
        match self.flush().await {
            Err(StreamError::Gone(error)) => self.hears_last_word(error).await,
            Err(error) => Err(error),
            Ok(()) => {
                self.arm_deadline();
                self.receive().await
            }
        }
    }

    async fn receive(&mut self) -> Result<(), StreamError> {
        match self.stream.receive(&mut self.input).await? {
            Received::Bytes => Ok(()),
            Received::End { .. } => {
                Err(StreamError::Gone(std::io::ErrorKind::UnexpectedEof.into()))
            }
        }
    }

    /// Who closed before our command had come may have said why: by a reply, or by an alert.
    async fn hears_last_word(&mut self, gone: std::io::Error) -> Result<(), StreamError> {
        self.stream.set_deadline(clock::now() + LAST_WORD_TIMEOUT);
        match self.receive().await {
            Err(StreamError::Gone(_) | StreamError::TimedOut) => Err(StreamError::Gone(gone)),
            heard => heard,
        }
    }

    /// Tells the machine how the connection ended; its steps follow from `handle`.
    fn lost(&mut self, error: &StreamError) {
        self.out.clear();
        let first = match error {
            StreamError::TimedOut => {
                let since = self.awaited.as_ref().map(|awaited| awaited.since);
                self.waited = since.map(|since| clock::now().since(since));
                self.client.timed_out()
            }
            StreamError::Gone(_) | StreamError::Tls(_) => self.client.peer_closed(),
        };
        self.pending = Some(first);
    }

    /// The first reply inside TLS ends the handshake: a server with TLS 1.3 checks our last flight only then, and one that answered EHLO
    /// a moment ago needs no more time now. Where plaintext is allowed, it is as far off as the handshake's end.
    fn time_for(&self, stage: Stage) -> Duration {
        let Timeouts {
            command, handshake, ..
        } = self.context.timeouts;
        let is_first_inside = self.tls.is_some() && !self.client.has_heard();
        match stage {
            Stage::Ehlo if self.may_fall_back && is_first_inside => command.min(handshake),
            stage => self.context.timeouts.of(stage),
        }
    }

    fn due(&self, stage: Stage) -> Due {
        let (now, timeouts) = (clock::now(), &self.context.timeouts);
        Due {
            at: now + self.time_for(stage),
            in_crowd: timeouts
                .in_crowd(stage)
                .map_or(Now::NEVER, |wait| now + wait),
        }
    }

    /// The time for the next reply runs from when it was first waited for.
    fn arm_deadline(&mut self) {
        let (replies, stage) = (self.client.replies(), self.client.phase());
        let is_same =
            |awaited: &Awaited| (awaited.replies_before, awaited.stage) == (replies, stage);
        let due = match &self.awaited {
            Some(awaited) if is_same(awaited) => awaited.due,
            _ => {
                let (since, due) = (clock::now(), self.due(stage));
                self.awaited = Some(Awaited {
                    replies_before: replies,
                    stage,
                    since,
                    due,
                });
                due
            }
        };
        self.stream.set_deadlines(due.at, due.in_crowd);
    }

    async fn flush(&mut self) -> Result<(), StreamError> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.arm_deadline();
        let sent = self.stream.send(&self.out).await;
        self.out.clear();
        sent
    }

    fn forget_input(&mut self) {
        pool::give(std::mem::take(&mut self.input));
        self.parsed = 0;
    }

    /// Sends what the machine still wanted to say, if that needs no waiting.
    fn say_last_word(&mut self) {
        if !self.stream.is_encrypted() {
            let _ = self.stream.socket().send_now(&self.out);
        }
        self.out.clear();
    }

    /// Waits until the peer says something unasked or closes, or the time is up: in any case the
    /// session should end. Dropping the future changes nothing.
    pub async fn wait_idle(&mut self, until: Now) {
        if !self.has_heard_all() {
            return;
        }
        self.stream.set_deadline(until);
        while let Ok(Received::Bytes) = self.stream.receive_unasked(&mut self.input).await {
            if !self.input.is_empty() {
                return;
            }
        }
    }

    /// True if nothing was received that has not been handled; gives the buffer back then.
    fn has_heard_all(&mut self) -> bool {
        let has_heard_all = self.parsed == self.input.len();
        if has_heard_all {
            self.forget_input();
        }
        has_heard_all
    }

    /// True if the peer has neither said anything nor closed since the last transaction, and no
    /// deadline has passed: the next one may begin. Does not wait.
    pub async fn is_quiet(&mut self) -> bool {
        if !self.has_heard_all() {
            return false;
        }
        self.stream
            .set_deadline(clock::now() + self.context.timeouts.command);
        while self.stream.socket().has_news() {
            match self.stream.receive_unasked(&mut self.input).await {
                // TLS's own business, such as a ticket.
                Ok(Received::Bytes) if self.input.is_empty() => {}
                _ => return false,
            }
        }
        self.input.is_empty()
    }

    /// Says QUIT, if that needs no waiting, and closes.
    pub fn leave(mut self) {
        self.client.quit(&mut self.out);
        self.say_last_word();
    }

    /// Ends the session with QUIT, waiting only briefly for its answer.
    pub async fn quit(mut self) {
        self.client.quit(&mut self.out);
        if !self.out.is_empty() {
            while !matches!(
                self.step().await,
                ClientStep::Closed(_) | ClientStep::Failed(_)
            ) {}
        }
        self.stream.close(&[]).await;
    }
}
