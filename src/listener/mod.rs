//! Accepts connections, admits or refuses them, and starts a session for each.
//!
//! Promise: whoever is refused is told so with a 421, within bounds; a listener that is drained
//! leaves nobody in its queue unanswered.

mod admission;

pub use admission::{AddressCounts, Admission, Load};

use crate::config::LogLevel;
use crate::handoff::job::Accepted;
use crate::io::clock;
use crate::io::net::{Listener, Socket};
use crate::io::runtime::{sleep, spawn};
use crate::log::Shown;
use crate::session::{self, Context};
use admission::Refused;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Connections accepted at once before other tasks get their turn.
const ACCEPT_BATCH: usize = 16;
/// How long accepting pauses when the host is out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

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
}

impl Ingress {
    /// Ends [`Ingress::listen`]: whoever is queued is answered, and the port is closed. While the
    /// core drains before that, new connections get their 421.
    pub fn stop(&self) {
        self.draining.set(true);
        self.stopped.notify_waiters();
    }

    /// Accepts on `listener` until the core has drained.
    pub async fn listen(self: Rc<Self>, listener: Listener, implicit_tls: bool) {
        let end = match listener.is_shared() {
            true => &self.leaving,
            false => &self.stopped,
        };
        loop {
            let result = tokio::select! {
                biased;
                () = end.notified() => break,
                ready = listener.ready() => ready,
            };
            let result = result.and_then(|()| self.accept_batch(&listener, implicit_tls));
            if let Err(error) = result {
                self.context
                    .log
                    .line(LogLevel::Error, "accept-failed", clock::wall_time())
                    .field("error", Shown(&error))
                    .field("effect", "no connection is accepted for a moment");
                sleep(EXHAUSTED_PAUSE).await;
            }
        }
        if listener.is_shared() {
            return;
        }
        // Closing the socket resets whoever is still in its queue.
        while let Ok(Some((descriptor, peer))) = listener.accept() {
            self.start(Accepted {
                descriptor,
                peer,
                implicit_tls,
            });
        }
    }

    fn accept_batch(
        self: &Rc<Self>,
        listener: &Listener,
        implicit_tls: bool,
    ) -> std::io::Result<()> {
        for _ in 0..ACCEPT_BATCH {
            let Some((descriptor, peer)) = listener.accept()? else {
                return Ok(());
            };
            let accepted = Accepted {
                descriptor,
                peer,
                implicit_tls,
            };
            match self.admission.lighter_core() {
                Some(core) => (self.pass_on)(core, Box::new(accepted)),
                None => self.start(accepted),
            }
        }
        Ok(())
    }

    /// Starts the session of a connection that this core keeps.
    pub fn start(self: &Rc<Self>, accepted: Accepted) {
        let Accepted {
            descriptor,
            peer,
            implicit_tls,
        } = accepted;
        let socket = Socket::adopt(descriptor);
        let trusted = self.context.relay.is_trusted(peer.ip());
        match self
            .admission
            .admit(peer.ip(), trusted, self.draining.get())
        {
            Ok(admitted) => {
                let context = self.context.clone();
                spawn(session::serve(
                    context,
                    socket,
                    peer,
                    implicit_tls,
                    admitted,
                ));
            }
            Err(refused) => self.refuse(&socket, peer, refused, implicit_tls),
        }
    }

    /// One reply, if it fits into the socket's buffer, and the end. On a port of implicit TLS
    /// nobody could read it.
    fn refuse(&self, socket: &Socket, peer: SocketAddr, refused: Refused, implicit_tls: bool) {
        if !implicit_tls {
            let reply = refused.reply(&self.context.settings.hostname);
            let _ = socket.send_now(reply.as_bytes());
        }
        socket.finish_sending();
        self.context.metrics.sessions_refused.increment();
        self.context
            .log
            .line(LogLevel::Info, "refused", clock::wall_time())
            .field("client", peer)
            .field("reason", refused.reason());
    }
}
