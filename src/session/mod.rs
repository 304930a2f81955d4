//! One inbound connection: drives `smtp::server` over a stream and makes messages durable.
//!
//! Promise: the machine says 250 only with a receipt of the spool in hand.
//! Not here: what happens to a message afterwards. It leaves through [`Context::accepted`].

mod incoming;
pub mod tls_memory;

use crate::handoff::current::Current;
use crate::handoff::job::{Body, Message, queued_bytes};
use crate::handoff::memory::{Budget, Charge, Level};
use crate::io::net::{SCRATCH_BYTES, Socket};
use crate::io::{clock, pool};
use crate::log::{Addressee, Log, LogLevel, Shown, Throttle, event};
use crate::message::{Envelope, Mailbox, SessionId, TlsSummary};
use crate::metrics::CoreMetrics;
use crate::policy::port::Port;
use crate::policy::rates::{Over, Rates, prefix_of};
use crate::policy::relaying::RelayPolicy;
use crate::smtp::refusal::Refusal;
use crate::smtp::server::{
    self, PeerInfo, Phase, Policy, RejectedAt, Rejection, Server, Spending, Step,
};
use crate::spool::Spool;
use crate::time::Now;
use crate::time::pace::{MinRate, Pace};
use crate::tls::server::ServerTls;
use crate::tls::session::TlsError;
use crate::tls::stream::{Received, Stream, StreamError};
use incoming::{Durable, Incoming};
pub use incoming::{Held, Room};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tls_memory::{Failure, TlsMemory};
use tokio::sync::{Notify, Semaphore};

/// How long a last word, such as 421, may take to be sent, and then to be read.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of a session's task, which is there as long as the connection; TLS comes on top.
#[cfg(test)]
const IDLE_BYTES_MAX: usize = 1232;

/// Sessions of a core that read message content at the same time while memory is tight.
pub const TURNS: usize = 4;

/// Memory of a session, and of its TLS, as it counts against the ceiling.
const SESSION_BYTES: usize = 2 * 1024;
const TLS_BYTES: usize = 4 * 1024;

/// Octets of commands that are received at once, and while memory is tight: what they are answered with is
/// sent before more is read, so this bounds the replies that wait for a client to read them.
const COMMANDS_BYTES: usize = 8 * 1024;
const COMMANDS_BYTES_WHEN_TIGHT: usize = 1024;

/// Replies of more octets than this count, with their whole buffer: fewer go out at once nearly always.
const REPLIES_BYTES_COUNTED: usize = 1024;

/// A session's memory is counted anew when it has changed by this much.
const WEIGHING_STEP_BYTES: u64 = 4 * 1024;

/// Lines about limits that a core writes in a second; more are counted.
pub const LIMIT_LINES_PER_SECOND: u32 = 10;

/// Lines about connections that could not be accepted: all say the same.
pub const FAILURE_LINES_PER_SECOND: u32 = 1;

/// A sender whose text may have ended, if bare line ends count, mostly waits for an answer.
const BODY_MAY_BE_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// While connections run short, a client that is not trusted has so many times `Timeouts::crowded` until it
/// begins to send a message.
const CROWDED_WAITS_PER_MESSAGE: u32 = 4;

/// Whether a conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    Close,
}

/// How long a client may take. Every wait has one of these; none is lifted by single bytes.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the next whole command (RFC 5321 section 4.5.3.2.7).
    pub command: Duration,
    /// For the next piece of a message.
    pub data: Duration,
    /// For a body as a whole. `None`: no limit but `data` and `session`.
    pub min_rate: Option<MinRate>,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the whole connection. `None`: no limit.
    pub session: Option<Duration>,
    /// While connections run short: for a command or the next piece of a message, if the client is
    /// not trusted.
    pub crowded: Duration,
}

/// Defaults of [`Timeouts`], [`MinRate`] and [`Room`].
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5 * 60);
pub const DATA_TIMEOUT: Duration = Duration::from_secs(5 * 60);
pub const MIN_DATA_RATE: u64 = 500;
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);
pub const CHUNK_BYTES: u64 = 256 << 10;
pub const IN_MEMORY_BYTES: u64 = 2 << 20;

/// What all sessions keep to, besides what their SMTP machine does.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub timeouts: Timeouts,
    pub body_room: Room,
    pub offers_starttls: bool,
}

/// How many sessions are open, and a word when the last one has ended.
#[derive(Default)]
pub struct Sessions {
    open: Cell<usize>,
    begun: Cell<u64>,
    ended: Notify,
}

impl Sessions {
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// The number of this one, from 0.
    pub fn begin(&self) -> u64 {
        self.open.set(self.open.get() + 1);
        self.begun.replace(self.begun.get() + 1)
    }

    pub fn end(&self) {
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.ended.notify_waiters();
        }
    }

    /// Resolves when no session is open.
    pub async fn all_ended(&self) {
        while self.open.get() > 0 {
            self.ended.notified().await;
        }
    }
}

/// Takes over a durable message, and its body if that is still in memory.
pub type TakeOver = Box<dyn Fn(Arc<Message>, Option<Arc<Body>>)>;

/// Why mail for this recipient can only be returned, as far as that is known without asking anybody:
/// then it is not taken.
pub type DeadEnd = Box<dyn Fn(&Mailbox) -> Option<Refusal>>;

/// What all sessions of a core share.
pub struct Context {
    pub server: Rc<server::Settings>,
    pub settings: Settings,
    pub relay: Current<RelayPolicy>,
    pub dead_end: DeadEnd,
    pub spool: Spool,
    pub core: usize,
    pub tls: Current<ServerTls>,
    pub tls_memory: Arc<TlsMemory>,
    pub memory: Budget,
    /// Whose turn it is to read content while memory is tight: [`TURNS`] of them.
    pub turns: Semaphore,
    pub rates: Arc<Rates>,
    /// Of the lines about connections that were turned away.
    pub refusal_lines: RefCell<Throttle>,
    /// Of the lines about limits.
    pub limit_lines: RefCell<Throttle>,
    /// Of the lines about connections that could not be accepted.
    pub failure_lines: RefCell<Throttle>,
    /// Of the lines about refused mail: of strangers, and of trusted clients, who are not to be
    /// drowned by them.
    pub rejection_lines: [RefCell<Throttle>; 2],
    /// Takes over a message that is durable.
    pub accepted: TakeOver,
    pub draining: Cell<bool>,
    /// The last message or connection was refused for want of memory.
    pub is_out_of_memory: Cell<bool>,
    pub sessions: Sessions,
    pub metrics: Arc<CoreMetrics>,
    pub log: Rc<Log>,
}

/// What the machine asks; see [`Policy`].
impl Context {
    fn recipient(&self, trusted: bool, path: &Mailbox) -> Result<(), Refusal> {
        self.relay
            .get()
            .recipient(trusted, path)
            .map_err(|refused| {
                let (_, subject, detail) = refused.status();
                Refusal::new(refused.code(), subject, detail, refused.text())
            })?;
        match (self.dead_end)(path) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }

    fn postmaster(&self) -> Option<Mailbox> {
        self.relay.get().postmaster().cloned()
    }

    fn admit(&self, peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        if !self.has_memory_for(peer.trusted) {
            self.metrics.refused_for_memory.increment();
            return Err(OUT_OF_MEMORY);
        }
        let admitted = self.spool.admit(declared_bytes);
        admitted.map_err(|error| error.refusal())
    }

    fn lists_starttls(&self, peer: &PeerInfo, hello: &str) -> bool {
        // Without TLS such a client could not send at all.
        let withdrawn = !self.server.require_tls
            && self
                .tls_memory
                .take_withdrawal(peer.address, hello, clock::now());
        if withdrawn {
            self.metrics.starttls_withdrawn.increment();
        }
        !withdrawn
    }

    fn spend(&self, peer: &PeerInfo, what: Spending) -> Result<(), Refusal> {
        if what == Spending::Recipient && !self.has_memory_for(peer.trusted) {
            self.metrics.refused_for_memory.increment();
            return Err(OUT_OF_MEMORY);
        }
        if peer.trusted {
            return Ok(());
        }
        let now = clock::now();
        let spent = self.rates.spend(what, peer.address, now);
        spent.map_err(|over| self.over_limit(what, over, peer.address, now))
    }
}

const OUT_OF_MEMORY: Refusal = Refusal::new(452, 3, 1, "Insufficient system memory, try later");

impl Context {
    /// Whether new mail, or a new session, may come; what strangers may not have is there for trusted
    /// clients. Says so once when that changes.
    pub fn has_memory_for(&self, trusted: bool) -> bool {
        let level = self.memory.level();
        let is_full = level >= Level::Full;
        if is_full != self.is_out_of_memory.replace(is_full) {
            self.log_memory(is_full);
        }
        !is_full || trusted && level < Level::Spent
    }

    /// Says how many lines were suppressed where no later line of the kind has said it; `at_once` at the end.
    pub fn log_suppressed(&self, at_once: bool) {
        let [strangers, trusted] = &self.rejection_lines;
        let now = (clock::now(), clock::wall_time());
        for lines in [
            &self.limit_lines,
            &self.failure_lines,
            strangers,
            trusted,
            &self.refusal_lines,
        ] {
            lines.borrow_mut().say_unsaid(&self.log, now, at_once);
        }
    }

    fn log_memory(&self, is_full: bool) {
        let now = clock::wall_time();
        match is_full {
            true => self
                .log
                .line(LogLevel::Error, event::MEMORY_FULL, now)
                .field("limit", "--memory-max")
                .field(
                    "effect",
                    "new mail gets 452 4.3.1 and new connections 421 until there is room; clients in \
                     --relay-from have the last sixteenth",
                ),
            false => &mut self.log.line(LogLevel::Info, event::MEMORY_HAS_ROOM, now),
        };
    }

    /// Counts and logs that an address is over a limit; what it is told.
    fn over_limit(&self, what: Spending, over: Over, address: IpAddr, now: Now) -> Refusal {
        let metrics = &self.metrics;
        let (counter, flag, code, text) = match (what, over) {
            (Spending::Handshake, Over::Address) => (
                &metrics.limited_handshakes,
                "--handshake-rate",
                421,
                "Too many TLS handshakes from your address, try later",
            ),
            (Spending::Handshake, Over::Total) => (
                &metrics.limited_handshakes,
                "--handshake-rate-total",
                421,
                "Too many TLS handshakes, try later",
            ),
            (Spending::Message, _) => (
                &metrics.limited_messages,
                "--message-rate",
                450,
                "Too many messages from your address, try later",
            ),
            (Spending::Recipient, _) => (
                &metrics.limited_recipients,
                "--recipient-rate",
                450,
                "Too many recipients from your address, try later",
            ),
            (Spending::Error, _) => (
                &metrics.limited_errors,
                "--error-rate",
                421,
                "Too many errors from your address, try later",
            ),
        };
        counter.increment();
        if let Some(suppressed) = self.limit_lines.borrow_mut().allow(prefix_of(address), now) {
            self.log
                .line(LogLevel::Info, event::LIMITED, clock::wall_time())
                .field("client", address.to_canonical())
                .field("limit", flag)
                .field("code", u64::from(code))
                .field("lines_suppressed", suppressed);
        }
        Refusal::new(code, 7, 0, text)
    }
}

/// What a session's machine asks, and who asks.
struct Asked<'a> {
    context: &'a Context,
    who: &'a Who,
}

/// Who is there, and the number of the session among those of its core.
struct Who {
    peer: SocketAddr,
    number: u64,
}

impl Who {
    /// As every line names it. A socket for both families tells of IPv4 within IPv6.
    fn client(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }
}

impl Policy for Asked<'_> {
    fn recipient(&self, trusted: bool, path: &Mailbox) -> Result<(), Refusal> {
        self.context.recipient(trusted, path)
    }

    fn postmaster(&self) -> Option<Mailbox> {
        self.context.postmaster()
    }

    fn admit(&self, peer: &PeerInfo, declared_bytes: Option<u64>) -> Result<(), Refusal> {
        self.context.admit(peer, declared_bytes)
    }

    fn lists_starttls(&self, peer: &PeerInfo, hello: &str) -> bool {
        self.context.lists_starttls(peer, hello)
    }

    fn spend(&self, peer: &PeerInfo, what: Spending) -> Result<(), Refusal> {
        self.context.spend(peer, what)
    }

    fn rejected(&self, rejection: &Rejection<'_>) {
        if matches!(rejection.at, RejectedAt::Content | RejectedAt::Commit) {
            self.context.metrics.messages_refused.increment();
        }
        let throttle = &self.context.rejection_lines[usize::from(rejection.peer.trusted)];
        let client = prefix_of(self.who.peer.ip());
        let Some(suppressed) = throttle.borrow_mut().allow(client, clock::now()) else {
            return;
        };
        let (log, now) = (&self.context.log, clock::wall_time());
        let mut line = log.line(LogLevel::Info, event::REJECTED, now);
        line.field("session", self.context.session_id(self.who))
            .field("client", self.who.client())
            .field("hello", rejection.hello)
            .field("at", rejection.at.name())
            .field("from", rejection.from)
            .field("to", Addressee(rejection.to));
        if !rejection.recipients.is_empty() {
            line.recipients(rejection.recipients);
        }
        line.field("reply", Shown(rejection.refusal))
            .field("lines_suppressed", suppressed);
    }
}

/// Why a conversation ended.
enum End {
    Closed,
    PeerGone {
        clean: bool,
    },
    Stream(StreamError),
    Handshake(StreamError),
    /// The body came more slowly than `--min-data-rate` allows.
    TooSlow,
    /// It waited longer than `--crowded-timeout` allows.
    CrowdedOut,
    /// Over a limit before the first word.
    Limited,
    Draining,
}

/// Serves one connection from greeting to close, and writes its line to the log. `place`, which
/// the connection takes somewhere, is given up at the end.
pub fn serve(
    context: Rc<Context>,
    socket: Socket,
    peer: SocketAddr,
    port: Port,
    place: impl Sized + 'static,
) -> impl Future<Output = ()> + 'static {
    let number = context.sessions.begin();
    context.metrics.sessions.increment();
    // Made here and captured: arguments of an async function would stay in the task as well.
    let mut session = Session::new(context, socket, Who { peer, number }, port);
    async move {
        let end = match session.converse(port).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        };
        session.finish(&end).await;
        let context = session.context.clone();
        drop(session);
        context.sessions.end();
        drop(place);
    }
}

/// One connection. What it seldom waits for (handshake, commit, log) waits in boxes of its own:
/// a task is as large as the largest of its waits, and most sessions wait for a command.
struct Session {
    context: Rc<Context>,
    stream: Stream,
    who: Who,
    server: Server,
    started: Now,
    /// Received and not yet parsed: `input[parsed..]`.
    input: Vec<u8>,
    parsed: usize,
    /// What the machine wanted done while it received, before it works on.
    due: Option<Step>,
    /// Replies not yet sent.
    out: Vec<u8>,
    incoming: Option<Incoming>,
    /// Of the body that is coming, swallowed ones included.
    pace: Option<Pace>,
    memory: Charge,
    /// Of the wait that is under way, or the next one.
    deadline: Now,
    /// The same while connections run short.
    deadline_in_crowd: Now,
    /// When the last message was accepted, or the session began.
    last_message: Now,
}

impl Context {
    fn session_id(&self, who: &Who) -> SessionId {
        SessionId {
            run: self.spool.run(),
            core: self.core as u16,
            number: who.number,
        }
    }

    fn asked<'a>(&'a self, who: &'a Who) -> Asked<'a> {
        Asked { context: self, who }
    }

    fn peer_info(&self, address: IpAddr) -> PeerInfo {
        PeerInfo {
            address,
            trusted: self.relay.get().is_trusted(address),
            offer_starttls: false,
            tls: None,
        }
    }
}

impl Session {
    fn new(context: Rc<Context>, socket: Socket, who: Who, port: Port) -> Self {
        let started = clock::now();
        let info = PeerInfo {
            offer_starttls: !port.has_implicit_tls() && context.settings.offers_starttls,
            ..context.peer_info(who.peer.ip())
        };
        Session {
            server: Server::new(context.server.clone(), info),
            stream: Stream::new(socket),
            memory: context.memory.charge(SESSION_BYTES as u64),
            context,
            who,
            started,
            input: Vec::new(),
            parsed: 0,
            due: None,
            out: Vec::new(),
            incoming: None,
            pace: None,
            deadline: Now::NEVER,
            deadline_in_crowd: Now::NEVER,
            last_message: started,
        }
    }

    async fn converse(&mut self, port: Port) -> Result<(), End> {
        if port.has_implicit_tls() {
            let mut info = self.context.peer_info(self.who.peer.ip());
            let spent = self.context.spend(&info, Spending::Handshake);
            spent.map_err(|_| End::Limited)?;
            // TLS was there before the first word, so it belongs to who the peer is.
            info.tls = Some(Box::pin(self.handshake()).await?);
            self.server = Server::new(self.context.server.clone(), info);
        }
        self.server.greet(&mut self.out);
        self.flush().await?;
        loop {
            let flow = if self.parsed < self.input.len() {
                // With implicit TLS commands may have come with the client's last flight.
                self.serve_input().await?
            } else if self.must_take_turns() {
                Box::pin(self.serve_in_turn()).await?
            } else {
                self.receive().await?;
                self.serve_input().await?
            };
            if flow == Flow::Close {
                return Ok(());
            }
            self.flush().await?;
        }
    }

    /// Content is coming and memory is tight.
    fn must_take_turns(&self) -> bool {
        self.incoming.is_some()
            && self.server.phase() != Phase::Command
            && self.context.memory.level() >= Level::Tight
    }

    /// Receives one piece of content and brings it to the log, a few sessions at a time. Whoever
    /// waits for its turn leaves what has come in the kernel, which slows the sender down; and its
    /// time-outs stand still. Since a turn leaves little in memory, everybody's comes.
    async fn serve_in_turn(&mut self) -> Result<Flow, End> {
        let context = self.context.clone();
        self.set_deadlines();
        let readable = self.stream.socket().readable().await;
        readable.map_err(|error| self.failed(error.into()))?;
        self.stream.set_deadline(Now::NEVER);
        let came = clock::now();
        context.metrics.body_pauses.increment();
        let _turn = context.turns.acquire().await;
        self.excuse(came);
        self.stream.socket().set_receive_bytes_max(SCRATCH_BYTES);
        let received = self.stream.receive_unasked(&mut self.input).await;
        note_progress(&mut self.pace, self.input.len() - self.parsed);
        self.received(received)?;
        self.serve_input().await
    }

    /// The client is not to blame for the time since `from`.
    fn excuse(&mut self, from: Now) {
        if let Some(pace) = &mut self.pace {
            pace.excuse(clock::now().since(from));
        }
    }

    fn received(&self, received: Result<Received, StreamError>) -> Result<(), End> {
        match received {
            Ok(Received::Bytes) => Ok(()),
            Ok(Received::End { clean }) => Err(End::PeerGone { clean }),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: StreamError) -> End {
        match error {
            StreamError::TimedOut if self.context.draining.get() => End::Draining,
            StreamError::TimedOut if self.stream.socket().is_crowded_out() => End::CrowdedOut,
            StreamError::TimedOut if self.is_too_slow() => End::TooSlow,
            error => End::Stream(error),
        }
    }

    fn is_too_slow(&self) -> bool {
        let due = self.pace_deadline();
        due <= self.deadline && due <= clock::now()
    }

    fn pace_deadline(&self) -> Now {
        match (&self.pace, self.context.settings.timeouts.min_rate) {
            (Some(pace), Some(rate)) => pace.deadline(rate),
            _ => Now::NEVER,
        }
    }

    /// Counts what the session holds against the ceiling.
    fn weigh(&mut self) {
        let tls = usize::from(self.stream.is_encrypted()) * TLS_BYTES;
        let body = self
            .incoming
            .as_ref()
            .map_or(0, |it| it.held.body.capacity());
        let bytes = SESSION_BYTES + tls + self.server.envelope_bytes() + body;
        let bytes = (bytes + self.input.capacity() + self.replies_bytes()) as u64;
        if bytes.abs_diff(self.memory.bytes()) >= WEIGHING_STEP_BYTES {
            self.memory.set(bytes);
        }
    }

    /// What the client has to read before it is heard again; with TLS, twice.
    fn replies_bytes(&self) -> usize {
        match self.out.len() {
            0..=REPLIES_BYTES_COUNTED => 0,
            _ => self.out.capacity() * (1 + usize::from(self.stream.is_encrypted())),
        }
    }

    /// How much is received at once.
    fn receive_bytes_max(&self) -> usize {
        match self.server.phase() {
            Phase::Command if self.context.memory.level() >= Level::Tight => {
                COMMANDS_BYTES_WHEN_TIGHT
            }
            Phase::Command => COMMANDS_BYTES,
            _ => SCRATCH_BYTES,
        }
    }

    /// Waits for input until the deadline of the machine's phase. An idle session holds no buffer.
    /// The machine works on what comes where it lies, up to the first step that it wants done;
    /// only what is behind that is kept.
    async fn receive(&mut self) -> Result<(), End> {
        let idle = self.server.is_idle();
        if idle && self.context.draining.get() {
            return Err(End::Draining);
        }
        self.set_deadlines();
        let most = self.receive_bytes_max();
        self.stream.socket().set_receive_bytes_max(most);
        self.stream.socket().set_interruptible(idle);
        let take = |text: &[u8]| {
            note_progress(&mut self.pace, text.len());
            if self.due.is_some() {
                return 0;
            }
            let machine = (&mut self.server, &mut self.incoming);
            let asked = self.context.asked(&self.who);
            let (taken, step) = work(machine, text, &asked, &mut self.out);
            self.due = Some(step).filter(|step| !matches!(step, Step::NeedInput));
            taken
        };
        let received = self.stream.receive_offering(&mut self.input, take).await;
        self.stream.socket().set_interruptible(false);
        self.received(received)
    }

    /// Does what the machine wants done, and lets it work until it wants more input.
    async fn serve_input(&mut self) -> Result<Flow, End> {
        loop {
            let step = match self.due.take() {
                Some(step) => step,
                None => {
                    let input = &self.input[self.parsed..];
                    let machine = (&mut self.server, &mut self.incoming);
                    let asked = self.context.asked(&self.who);
                    let (taken, step) = work(machine, input, &asked, &mut self.out);
                    self.parsed += taken;
                    step
                }
            };
            match step {
                Step::NeedInput => {
                    self.forget_input();
                    if self.server.has_refused_data() && self.stream.socket().has_bytes() {
                        self.server.more_has_come();
                    }
                    self.note_phase();
                    // Before and after: others go on while this one waits for the disk.
                    self.weigh();
                    self.spill().await;
                    self.weigh();
                    return Ok(Flow::Continue);
                }
                Step::BeginBody => self.begin_body(),
                Step::BodyAborted => self.incoming = None,
                Step::EndOfData(envelope) => Box::pin(self.commit(envelope)).await,
                Step::StartTls => {
                    self.forget_input();
                    self.flush().await?;
                    // What comes with the client's last flight is the first command over TLS.
                    let tls = Box::pin(self.handshake()).await?;
                    self.server.tls_established(tls);
                }
                Step::Close => return Ok(Flow::Close),
            }
        }
    }

    /// Drops what was received, parsed or not. After STARTTLS that is the promise of RFC 3207
    /// section 4.2; otherwise everything has been parsed.
    fn forget_input(&mut self) {
        pool::give(std::mem::take(&mut self.input));
        self.parsed = 0;
    }

    /// The clock of a body runs from the first reading in it to the end of the transaction, also
    /// between chunks, and also if the body is refused and swallowed.
    fn note_phase(&mut self) {
        let is_body = matches!(self.server.phase(), Phase::Body | Phase::BodyMayBeOver);
        if !is_body && self.incoming.is_none() {
            self.pace = None;
        } else if self.pace.is_none() {
            self.pace = Some(Pace::new(clock::now()));
        }
    }

    fn begin_body(&mut self) {
        let id = self.context.spool.next_id();
        let declared_bytes = self.server.declared_bytes();
        let mut incoming = Incoming::new(id, declared_bytes);
        self.server
            .trace(id, incoming.received_at, &mut incoming.held.body);
        self.incoming = Some(incoming);
    }

    /// Moves a body that has outgrown memory to the log.
    async fn spill(&mut self) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        let context = &self.context;
        self.stream.set_deadline(Now::NEVER);
        let level = context.memory.level();
        incoming.held.make_room(context.settings.body_room, level);
        if !incoming
            .held
            .has_outgrown(context.settings.body_room, level)
        {
            return;
        }
        let began = clock::now();
        Box::pin(incoming.spill(&context.spool, context.settings.body_room, level)).await;
        self.excuse(began);
    }

    /// Makes the received message durable and lets the machine answer.
    async fn commit(&mut self, envelope: Box<Envelope>) {
        self.weigh();
        let incoming = self
            .incoming
            .take()
            .expect("a body ends only after it began");
        self.pace = None;
        self.stream.set_deadline(Now::NEVER);
        let complete = clock::now();
        match incoming.commit(&self.context.spool, &envelope).await {
            Ok(durable) => {
                let took = clock::now().since(complete);
                self.context.metrics.accept_us.record_duration(took);
                self.last_message = clock::now();
                self.server.committed(durable.id, &mut self.out);
                self.hand_over(durable, *envelope);
            }
            Err(error) => {
                let refusal = error.refusal();
                let at = RejectedAt::Commit;
                let rejection = self.server.rejection_of(&envelope, at, &refusal);
                self.context.asked(&self.who).rejected(&rejection);
                self.server.not_committed(refusal, &mut self.out);
            }
        }
    }

    fn hand_over(&mut self, durable: Durable, envelope: Envelope) {
        let context = &self.context;
        let metrics = &context.metrics;
        metrics.messages_accepted.increment();
        metrics.bytes_accepted.add(durable.body_bytes);
        metrics
            .recipients_accepted
            .add(envelope.recipients.len() as u64);
        self.log_accepted(&durable, &envelope);
        let memory = context.memory.charge(queued_bytes(&envelope));
        let message = Message::new(
            durable.id,
            (durable.received_at, clock::now()),
            envelope,
            durable.receipt.into_place(),
            context.core,
            memory,
        );
        let is_small = durable.body_bytes <= context.settings.body_room.whole_bytes as u64;
        let body = durable.body.filter(|_| is_small);
        let body = body.and_then(|body| Body::keep(body, &context.memory));
        (context.accepted)(message, body);
    }

    async fn handshake(&mut self) -> Result<TlsSummary, End> {
        let context = self.context.clone();
        let now = clock::now();
        self.stream
            .set_deadline(now + context.settings.timeouts.handshake);
        let session = context.tls.get().accept();
        let result = match session {
            Ok(session) => self.stream.handshake(session, &mut self.input).await,
            Err(error) => Err(StreamError::Tls(error)),
        };
        match result {
            Ok(summary) => {
                let hello = &self.server.summary().hello;
                context.tls_memory.succeeded(self.who.peer.ip(), hello, now);
                match summary.resumed {
                    true => context.metrics.handshakes_in_resumed.increment(),
                    false => context.metrics.handshakes_in_full.increment(),
                }
                self.arm_deadline();
                Ok(summary)
            }
            Err(error) => {
                self.note_failed_handshake(&error);
                context.metrics.handshakes_in_failed.increment();
                Err(End::Handshake(error))
            }
        }
    }

    /// What failed here, and what no name was given for, says nothing of the client.
    fn note_failed_handshake(&self, error: &StreamError) {
        let hello = &self.server.summary().hello;
        let is_ours = matches!(error, StreamError::Tls(TlsError::Ours(_)));
        if hello.is_empty() || is_ours {
            return;
        }
        let failure = Failure {
            fingerprint: self.stream.failed_hello(),
            said_why: match error {
                StreamError::Tls(TlsError::Alert(alert)) => **alert != *"CloseNotify",
                StreamError::Tls(_) => true,
                StreamError::Gone(_) | StreamError::TimedOut => false,
            },
            began: self.started,
        };
        let memory = &self.context.tls_memory;
        memory.failed(self.who.peer.ip(), hello, failure, clock::now());
    }

    /// The next wait's deadline starts to run. Called when the machine has answered something or
    /// more of a message has come, not for every byte of a slow command.
    fn arm_deadline(&mut self) {
        let now = clock::now();
        self.server.note_time(now);
        let timeouts = &self.context.settings.timeouts;
        let wait = match self.server.phase() {
            Phase::Body => timeouts.data,
            Phase::BodyMayBeOver => timeouts.data.min(BODY_MAY_BE_OVER_TIMEOUT),
            _ => timeouts.command,
        };
        let whole = timeouts
            .session
            .map_or(Now::NEVER, |most| self.started + most);
        self.deadline = (now + wait).min(whole).min(self.pace_deadline());
        self.deadline_in_crowd = self.deadline_in_crowd(now);
    }

    /// Nobody keeps a place by a word now and then: without a message there are only so many waits, and a
    /// body has to come at its least rate from the first of them on.
    fn deadline_in_crowd(&self, now: Now) -> Now {
        if self.server.peer().trusted {
            return Now::NEVER;
        }
        let wait = self.context.settings.timeouts.crowded;
        match (&self.pace, self.context.settings.timeouts.min_rate) {
            (Some(pace), Some(rate)) => {
                let rate = MinRate {
                    grace: wait.min(rate.grace),
                    ..rate
                };
                (now + wait).min(pace.deadline(rate))
            }
            (Some(_), None) => now + wait,
            (None, _) => (now + wait).min(self.last_message + wait * CROWDED_WAITS_PER_MESSAGE),
        }
    }

    fn set_deadlines(&self) {
        self.stream
            .set_deadlines(self.deadline, self.deadline_in_crowd);
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            pool::give(std::mem::take(&mut self.out));
            if matches!(self.server.phase(), Phase::Body | Phase::BodyMayBeOver) {
                self.arm_deadline();
            }
            return Ok(());
        }
        self.arm_deadline();
        self.set_deadlines();
        let counts = self.replies_bytes() > 0;
        if counts {
            if self.context.memory.level() >= Level::Tight {
                self.out.shrink_to_fit();
            }
            self.weigh();
        }
        let sent = self.stream.send(&self.out).await;
        pool::give(std::mem::take(&mut self.out));
        if counts {
            self.weigh();
        }
        sent.map_err(|error| self.failed(error))
    }

    /// Says the last word where one is due, closes, and writes the session's line.
    async fn finish(&mut self, end: &End) {
        let limit = self.limit_of_wait(end);
        match end {
            End::Stream(StreamError::TimedOut) => {
                self.context.metrics.sessions_timed_out.increment();
                self.server.timed_out(&mut self.out);
            }
            End::CrowdedOut => {
                self.context.metrics.sessions_timed_out.increment();
                self.server.crowded_out(&mut self.out);
            }
            End::TooSlow => {
                self.context.metrics.sessions_too_slow.increment();
                self.server.timed_out(&mut self.out);
            }
            End::Draining => self.server.shutting_down(&mut self.out),
            _ => {}
        }
        self.note_withdrawal();
        self.log_end(end, limit);
        let last_words = std::mem::take(&mut self.out);
        let last_words_due = clock::now() + LAST_WORD_TIMEOUT;
        let peer_may_be_sending = match end {
            End::Closed => !self.server.has_quit(),
            End::PeerGone { .. } | End::Limited => false,
            End::TooSlow | End::CrowdedOut => true,
            End::Stream(error) | End::Handshake(error) => !matches!(error, StreamError::Gone(_)),
            End::Draining => true,
        };
        if peer_may_be_sending {
            self.stream.linger(&last_words, last_words_due).await;
        } else {
            self.stream.set_deadline(last_words_due);
            self.stream.close(&last_words).await;
        }
        pool::give(last_words);
    }

    fn note_withdrawal(&self) {
        let summary = self.server.summary();
        if summary.starttls_withdrawn && summary.transactions == 0 {
            let memory = &self.context.tls_memory;
            memory.withdrawn_in_vain(self.who.peer.ip(), &summary.hello);
        }
    }

    fn log_accepted(&self, durable: &Durable, envelope: &Envelope) {
        let log = &self.context.log;
        if !log.wants(LogLevel::Info) {
            return;
        }
        let now = clock::wall_time();
        let mut line = log.line(LogLevel::Info, event::ACCEPTED, now);
        line.field("id", durable.id)
            .field("session", self.context.session_id(&self.who))
            .field("from", envelope.from_field())
            .recipients(&envelope.recipients)
            .field("message_id", durable.message_id())
            .field("bytes", durable.body_bytes)
            .field("client", self.who.client());
        line.tls(self.server.summary().tls.as_ref());
    }

    /// The flag that bounds the wait that was too long.
    fn limit_of_wait(&self, end: &End) -> &'static str {
        let session = self.context.settings.timeouts.session;
        let is_whole = session.is_some_and(|most| clock::now() >= self.started + most);
        match (end, self.server.phase()) {
            (End::Handshake(StreamError::TimedOut), _) => " (--handshake-timeout)",
            (End::Stream(StreamError::TimedOut), _) if is_whole => " (--session-timeout)",
            (End::Stream(StreamError::TimedOut), Phase::Body) => " (--data-timeout)",
            (End::Stream(StreamError::TimedOut), Phase::BodyMayBeOver) => {
                " (the message may have ended with bare line ends)"
            }
            (End::Stream(StreamError::TimedOut), _) => " (--command-timeout)",
            _ => "",
        }
    }

    fn log_end(&self, end: &End, limit: &str) {
        let summary = self.server.summary();
        self.context.metrics.refusals.add(summary.refusals);
        let now = clock::wall_time();
        let mut line = self.context.log.line(LogLevel::Info, event::SESSION, now);
        line.field("session", self.context.session_id(&self.who))
            .field("client", self.who.client())
            .field("client_port", self.who.peer.port())
            .field("hello", &*summary.hello);
        line.tls(summary.tls.as_ref());
        line.field("messages", summary.messages)
            .field("recipients", summary.recipients)
            .field("bytes", summary.message_bytes);
        if summary.refusals > 0 {
            line.field("refusals", summary.refusals)
                .field("last_refusal", &summary.last_refusal);
        }
        if summary.input_before_tls {
            line.field("violation", "input behind STARTTLS, discarded");
        }
        if summary.starttls_withdrawn {
            line.field("starttls", "not listed: the last handshakes failed");
        }
        let seconds = clock::now().since(self.started).as_millis() as u64;
        line.field("duration_ms", seconds)
            .field("end", Shown(format_args!("{end}{limit}")));
    }
}

/// Content has come, if it is content.
fn note_progress(pace: &mut Option<Pace>, bytes: usize) {
    if let Some(pace) = pace {
        pace.moved(bytes);
    }
}

/// Lets the machine work on `input` up to its next step, content going to the body that is under way.
fn work(
    (server, incoming): (&mut Server, &mut Option<Incoming>),
    input: &[u8],
    asked: &Asked<'_>,
    out: &mut Vec<u8>,
) -> (usize, Step) {
    let mut nowhere = Vec::new();
    let body = match incoming {
        Some(incoming) => &mut incoming.held.body,
        None => &mut nowhere,
    };
    if out.capacity() == 0 {
        *out = pool::take();
    }
    server.handle(input, asked, body, out)
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Closed => f.write_str("closed"),
            End::PeerGone { clean: true } => f.write_str("closed by client"),
            End::PeerGone { clean: false } => f.write_str("closed by client without TLS close"),
            End::Stream(error) => write!(f, "{error}"),
            End::Handshake(error) => write!(f, "handshake failed: {error}"),
            End::TooSlow => f.write_str("message came slower than --min-data-rate"),
            End::CrowdedOut => f.write_str(
                "waited longer than --crowded-timeout, and connections or memory run short",
            ),
            End::Limited => f.write_str("over a limit"),
            End::Draining => f.write_str("shutting down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, E, F: Future>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_that_waits_for_a_command_is_small() {
        let bytes = future_bytes::<_, _, _, _, (), _>(serve);
        assert!(bytes <= IDLE_BYTES_MAX, "{bytes} bytes");
    }
}
