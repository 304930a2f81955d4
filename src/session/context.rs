//! What all sessions of a core share: what they keep to, what they are linked with, and what is counted of them.

use super::incoming::Room;
use super::tls_memory::TlsMemory;
use crate::handoff::current::Current;
use crate::handoff::job::{Body, Message};
use crate::handoff::memory::{Budget, MemoryLevel};
use crate::io::clock;
use crate::log::{Log, LogLevel, Throttle, event};
use crate::message::Mailbox;
use crate::metrics::CoreMetrics;
use crate::policy::rates::Rates;
use crate::policy::relaying::RelayPolicy;
use crate::policy::shares::{View, Way};
use crate::smtp::refusal::Refusal;
use crate::smtp::server;
use crate::spool::Spool;
use crate::time::pace::MinRate;
use crate::tls::server::ServerTls;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// Sessions of a core that read message content at the same time while memory is tight.
const TURNS: usize = 4;

/// Lines about limits that a core writes in a second; more are counted.
const LIMIT_LINES_PER_SECOND: u32 = 10;

/// Lines about connections that could not be accepted: all say the same.
const FAILURE_LINES_PER_SECOND: u32 = 1;

/// Lines about shares that are used up: that lasts.
const SHARE_LINES_PER_SECOND: u32 = 1;

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

/// Where mail goes next.
pub trait Destinations {
    /// Where mail for this recipient counts.
    fn way(&self, recipient: &Mailbox) -> Way;

    /// The next hop as routed, for people.
    fn name(&self, recipient: &Mailbox) -> String;
}

/// What sessions keep to.
pub struct Terms {
    pub settings: Settings,
    pub server: Rc<server::Settings>,
    pub relay: Current<RelayPolicy>,
    pub tls: Current<ServerTls>,
}

/// What is counted and kept of the sessions of a core. Begins empty.
pub struct State {
    pub sessions: Sessions,
    pub draining: Cell<bool>,
    /// More than half of the room for mail was used at the last look: shares count.
    pub(super) is_scarce: Cell<bool>,
    /// The last message or connection was refused for want of memory.
    is_out_of_memory: Cell<bool>,
    /// Whose turn it is to read content while memory is tight: [`TURNS`] of them.
    pub(super) turns: Semaphore,
    pub lines: Lines,
}

/// Which lines that strangers can cause in floods are written.
pub struct Lines {
    /// Connections that were turned away.
    pub refused: RefCell<Throttle>,
    /// Limits.
    pub limited: RefCell<Throttle>,
    /// Connections that could not be accepted.
    pub failed: RefCell<Throttle>,
    /// Who has its share of the room.
    pub shares: RefCell<Throttle>,
    /// Refused mail: of strangers, and of trusted clients, who are not to be drowned by them.
    pub rejected: [RefCell<Throttle>; 2],
}

impl Default for State {
    fn default() -> Self {
        State {
            sessions: Sessions::default(),
            draining: Cell::new(false),
            is_scarce: Cell::new(false),
            is_out_of_memory: Cell::new(false),
            turns: Semaphore::new(TURNS),
            lines: Lines::default(),
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        let lines = |event, per_second| RefCell::new(Throttle::new(event, per_second));
        Lines {
            refused: lines(event::REFUSED, LIMIT_LINES_PER_SECOND),
            limited: lines(event::LIMITED, LIMIT_LINES_PER_SECOND),
            failed: lines(event::ACCEPT_FAILED, FAILURE_LINES_PER_SECOND),
            shares: lines(event::SHARE_REFUSED, SHARE_LINES_PER_SECOND),
            rejected: [
                lines(event::REJECTED, LIMIT_LINES_PER_SECOND),
                lines(event::REJECTED, LIMIT_LINES_PER_SECOND),
            ],
        }
    }
}

impl Lines {
    /// Says how many lines were suppressed where no later line of the kind has said it; `at_once` at the end.
    fn log_suppressed(&self, log: &Log, at_once: bool) {
        let [strangers, trusted] = &self.rejected;
        let now = (clock::now(), clock::wall_time());
        for lines in [
            &self.limited,
            &self.failed,
            strangers,
            trusted,
            &self.refused,
            &self.shares,
        ] {
            lines.borrow_mut().flush_suppressed(log, now, at_once);
        }
    }
}

/// What all sessions of a core share.
pub struct Context {
    pub terms: Terms,
    pub state: State,
    pub core: usize,
    pub spool: Spool,
    pub memory: Budget,
    pub shares: View,
    pub destinations: Box<dyn Destinations>,
    pub tls_memory: Arc<TlsMemory>,
    pub rates: Arc<Rates>,
    /// Takes over a message that is durable.
    pub accepted: TakeOver,
    pub dead_end: DeadEnd,
    pub metrics: Arc<CoreMetrics>,
    pub log: Rc<Log>,
}

impl Context {
    /// Whether new mail, or a new session, may come; what strangers may not have is there for trusted
    /// clients. Says so once when that changes.
    pub fn has_memory_for(&self, trusted: bool) -> bool {
        let level = self.memory.level();
        let is_full = level >= MemoryLevel::Full;
        if is_full != self.state.is_out_of_memory.replace(is_full) {
            self.log_memory(is_full);
        }
        !is_full || trusted && level < MemoryLevel::Spent
    }

    /// Says how many lines were suppressed where no later line of the kind has said it; `at_once` at the end.
    pub fn log_suppressed(&self, at_once: bool) {
        self.state.lines.log_suppressed(&self.log, at_once);
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
}
