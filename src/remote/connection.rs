//! One outbound connection: drives `smtp::client` over a stream, from connect to QUIT.
//!
//! Promise: plaintext is used only where the level of the destination allows it.
//! Not here: which host, whose mail, and what a failure means for it.

mod content;
mod deadlines;
mod opening;

pub use content::{Content, LastPiece};
pub use deadlines::{
    CONNECT_TIMEOUT, FINAL_REPLY_TIMEOUT, GREETING_TIMEOUT, HANDSHAKE_TIMEOUT, MIN_SEND_RATE,
    QUIT_TIMEOUT, REPLY_TIMEOUT, SEND_TIMEOUT, Timeouts,
};
pub use opening::{OpenError, Target, TlsFailure};

use crate::io::net::Socket;
use crate::io::{clock, pool};
use crate::message::TlsSummary;
use crate::schedule::dsn::{Extent, Taker};
use crate::smtp::client::{
    Client, ClientSettings, ClientStep, Features, Limits, OutOfStep, TlsWish, Transaction,
    TransactionResult,
};
use crate::smtp::extension::Extension;
use crate::smtp::reply::Reply;
use crate::time::Now;
use crate::time::pace::Pace;
use crate::tls::client::ClientTls;
use crate::tls::policy::Judge;
use crate::tls::stream::{Received, Stream, StreamError};
use deadlines::Awaited;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// How long the reason of a host that broke off is waited for: it was sent before.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Where a transaction stands.
#[derive(Debug)]
pub enum Point {
    /// The peer wants the content: [`Connection::send_body`], or its two parts.
    SendBody,
    /// Every recipient has a verdict; whether the connection lives on is told by `reusable`.
    Done(TransactionResult),
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
            may_fall_back: target.terms.level.allows_plaintext(),
        };
        connection.negotiate(target).await?;
        Ok(connection)
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
            eight_bit_mime: features.has(Extension::EightBitMime),
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
        self.client.features().has(Extension::Pipelining)
    }

    /// Begins a transaction, when none is under way. `Err` is its result: this session cannot carry
    /// the message. Of a session that has carried other mail, nothing that came unasked may be left: it
    /// would be read as the reply to what is said now.
    pub async fn begin(&mut self, transaction: &Transaction<'_>) -> Result<(), TransactionResult> {
        if self.client.transactions_ended() > 0 && !self.is_quiet().await {
            self.take_unsolicited();
            return Err(TransactionResult::not_attempted(transaction));
        }
        self.client
            .begin(transaction, &mut self.out)
            .map_err(|unfit| TransactionResult::unfit(transaction, &unfit))
    }

    /// The session ends, also if what came is not a whole reply.
    fn take_unsolicited(&mut self) {
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
            Err(StreamError::Gone(error)) => self.read_last_reply(error).await,
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
    async fn read_last_reply(&mut self, gone: std::io::Error) -> Result<(), StreamError> {
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
                // It is kept until another host has been found, and its peer is to know that nobody waits for it.
                self.stream.socket().finish_sending();
                self.client.timed_out()
            }
            StreamError::Gone(_) | StreamError::Tls(_) => self.client.peer_closed(),
        };
        self.pending = Some(first);
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
    fn send_pending(&mut self) {
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
        self.send_pending();
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
