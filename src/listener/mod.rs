//! Accepts connections, admits or refuses them, and starts a session for each.
//!
//! ```text
//! accept -> (another core) -> identify -> admit -> serve
//!                                           \-> refuse
//! ```
//!
//! Promise: whoever is refused is told so with a 421, within bounds; a listener that is drained
//! leaves nobody in its queue unanswered.
//! Not here: what is said in a session, and the ports themselves (`engine` binds them).

mod admission;

pub use admission::{AddressCounts, Admission, Load};

use crate::handoff::job::Accepted;
use crate::io::net::{Listener, Socket};
use crate::io::runtime::{sleep, spawn};
use crate::io::{clock, limits};
use crate::log::{LogLevel, Shown, event};
use crate::policy::port::{Listening, Port};
use crate::policy::rates::prefix_of;
use crate::session::{self, Context, Sessions};
use crate::time::Now;
use crate::tls::stream::Stream;
use admission::{Admitted, Refused};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Connections accepted at once before other tasks get their turn.
const ACCEPT_BATCH: usize = 16;
/// Refused connections of a core that are held until their client has read why.
const REFUSALS_MAX: usize = 256;
/// ... and for how long at most.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long accepting pauses when the host is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Where we listen, and how many may be here.
#[derive(Clone, Debug)]
pub struct Settings {
    pub ports: Vec<Listening>,
    /// Connections that the kernel holds for a listener until it takes them.
    pub backlog: u32,
    /// Open sessions of all listeners and cores.
    pub connections_max: u32,
    /// Of those, only for trusted clients.
    pub connections_reserved: u32,
    /// Per IPv4 address or IPv6 /64; trusted clients are exempt. `None`: no limit.
    pub connections_per_address_max: Option<u32>,
    /// At a stop: how long open transactions may still take.
    pub drain_timeout: Duration,
}

impl Settings {
    /// True if other hosts can connect.
    pub fn is_outside(&self) -> bool {
        let mut ports = self.ports.iter();
        ports.any(|listening| !listening.address.ip().is_loopback())
    }
}

/// Defaults of [`Settings`].
pub const BACKLOG: u32 = 1024;
pub const CONNECTIONS_MAX: u32 = 10_000;
pub const CONNECTIONS_PER_ADDRESS_MAX: u32 = 100;
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// One in so many connections is for trusted clients only, unless it is said otherwise.
pub const RESERVED_SHARE: u32 = 8;

/// What the listeners of a core share.
pub struct Ingress {
    pub context: Rc<Context>,
    pub admission: Admission,
    /// Gives a connection to another core. The other core does not pass it on again.
    pub pass_on: Box<dyn Fn(usize, Box<Accepted>)>,
    pub draining: Cell<bool>,
    pub stopped: Notify,
    /// Rung when the core begins to drain: queues that others serve after us are left to them.
    pub leaving: Notify,
    /// Clients that are being told why they were refused.
    pub refusals: Rc<Sessions>,
}

/// A connection of which it is known who is there.
struct Caller {
    socket: Socket,
    peer: SocketAddr,
    port: Port,
    /// May relay anywhere.
    trusted: bool,
}

impl Ingress {
    /// Ends [`Ingress::listen`]: whoever is queued is answered, and the port is closed. While the
    /// core drains before that, new connections get their 421.
    pub fn stop(&self) {
        self.draining.set(true);
        self.stopped.notify_waiters();
    }

    /// Accepts on `listener` until the core has drained.
    pub async fn listen(self: Rc<Self>, listener: Listener, port: Port) {
        let end = match listener.is_shared() {
            true => &self.leaving,
            false => &self.stopped,
        };
        // One wait from the beginning: what is rung during a pause for want of descriptors is heard.
        tokio::select! {
            biased;
            () = end.notified() => {}
            () = self.accept_all(&listener, port) => {}
        }
        if listener.is_shared() {
            return;
        }
        // Closing the socket resets whoever is still in its queue.
        while let Ok(Some((descriptor, peer))) = listener.accept() {
            self.start(Accepted {
                descriptor,
                peer,
                port,
            });
        }
    }

    /// Does not end by itself.
    async fn accept_all(self: &Rc<Self>, listener: &Listener, port: Port) {
        loop {
            let ready = listener.ready().await;
            if let Err(error) = ready.and_then(|()| self.accept_batch(listener, port)) {
                self.log_failure(&error);
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }

    /// As long as others hold all descriptors this comes ten times a second.
    fn log_failure(&self, error: &std::io::Error) {
        let context = &self.context;
        let allowed = context
            .state
            .lines
            .failed
            .borrow_mut()
            .allow_of_nobody(clock::now());
        let Some(suppressed) = allowed else {
            return;
        };
        let (log, now) = (&context.log, clock::wall_time());
        let mut line = log.line(LogLevel::Error, event::ACCEPT_FAILED, now);
        line.field("error", Shown(error))
            .field("effect", "no connection is accepted for a moment");
        if let Some(remedy) = limits::remedy(error) {
            line.field("remedy", remedy);
        }
        line.field("lines_suppressed", suppressed);
    }

    fn accept_batch(self: &Rc<Self>, listener: &Listener, port: Port) -> std::io::Result<()> {
        for _ in 0..ACCEPT_BATCH {
            let Some((descriptor, peer)) = listener.accept()? else {
                return Ok(());
            };
            let accepted = Accepted {
                descriptor,
                peer,
                port,
            };
            match self.admission.lighter_core() {
                Some(core) => (self.pass_on)(core, Box::new(accepted)),
                None => self.start(accepted),
            }
        }
        Ok(())
    }

    /// Takes a connection, which this core keeps, from who it is to its session or its refusal.
    pub fn start(self: &Rc<Self>, accepted: Accepted) {
        let caller = self.identify(accepted);
        let now = clock::now();
        match self.admit(&caller, now) {
            Ok(admitted) => self.serve(caller, admitted),
            Err(refused) => self.refuse(caller, refused, now),
        }
    }

    /// Whose connection it is, by its address.
    fn identify(&self, accepted: Accepted) -> Caller {
        Caller {
            socket: Socket::adopt(accepted.descriptor),
            peer: accepted.peer,
            port: accepted.port,
            trusted: (self.context.terms.relay.get()).is_trusted(accepted.peer.ip()),
        }
    }

    /// `admitted` is given up when the session ends.
    fn serve(&self, caller: Caller, admitted: Admitted) {
        let context = self.context.clone();
        let Caller {
            socket, peer, port, ..
        } = caller;
        spawn(session::serve(context, socket, peer, port, admitted));
    }

    /// True if strangers should hurry: connections run short, or memory, so that others are refused.
    pub fn is_crowded(&self) -> bool {
        self.admission.is_crowded() || !self.context.has_memory_for(false)
    }

    fn admit(&self, caller: &Caller, now: Now) -> Result<Admitted, Refused> {
        if self.draining.get() {
            return Err(Refused::Draining);
        }
        if !self.context.has_memory_for(caller.trusted) {
            return Err(Refused::Memory);
        }
        (self.admission).admit(caller.peer.ip(), caller.trusted, now)
    }

    /// One reply, and the end. On a port of implicit TLS nobody could read it.
    fn refuse(&self, caller: Caller, refused: Refused, now: Now) {
        let Caller {
            socket, peer, port, ..
        } = caller;
        self.note_refusal(peer, refused, now);
        if port.has_implicit_tls() {
            return;
        }
        let reply = refused.reply(&self.context.terms.server.hostname);
        if self.refusals.open() >= REFUSALS_MAX {
            // What fits into the socket's buffer. A client that has already spoken may not see it.
            let _ = socket.send_now(reply.as_bytes());
            return socket.finish_sending();
        }
        self.refusals.begin();
        let refusals = self.refusals.clone();
        spawn(async move {
            let mut stream = Stream::new(socket);
            stream.linger(reply.as_bytes(), now + REFUSAL_TIMEOUT).await;
            drop(stream);
            refusals.end();
        });
    }

    fn note_refusal(&self, peer: SocketAddr, refused: Refused, now: Now) {
        let metrics = &self.context.metrics;
        metrics.sessions_refused.increment();
        match refused {
            Refused::TooFast => metrics.limited_connections.increment(),
            Refused::TooManyErrors => metrics.limited_errors.increment(),
            Refused::Memory => metrics.refused_for_memory.increment(),
            Refused::TooMany
            | Refused::TooManyStrangers
            | Refused::TooManyOfAddress
            | Refused::Draining => {}
        }
        let lines = &self.context.state.lines.refused;
        if let Some(suppressed) = lines.borrow_mut().allow(prefix_of(peer.ip()), now) {
            let log = &self.context.log;
            log.line(LogLevel::Info, event::REFUSED, clock::wall_time())
                .field("client", peer.ip().to_canonical())
                .field("client_port", peer.port())
                .field("reason", &*refused.reason())
                .field("lines_suppressed", suppressed);
        }
    }
}
