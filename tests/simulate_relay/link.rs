//! A connection as clients and next hops use it: a real socket of the simulated network, with TLS on it or not. A task
//! moves the octets, so that whoever talks only looks at what has come.

use crate::world::World;
use ringpost::io::net::Socket;
use ringpost::io::runtime::timeout;
use ringpost::time::Now;
use ringpost::tls::stream::{self, Stream};
use ringpost::tls::{ServerTls, Session};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::sync::Notify;

/// The other end is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    Bytes,
    End,
    TimedOut,
}

/// How a connection comes to TLS.
pub enum Tls {
    None,
    /// By STARTTLS.
    Offered(Rc<ServerTls>),
    /// As a client, from the first octet.
    AtOnce(Session),
}

struct Pipe {
    world: Rc<World>,
    /// Whose this end is, and where the other one is: no other connection has both.
    own: IpAddr,
    peer: SocketAddr,
    outward: RefCell<Vec<u8>>,
    inward: RefCell<Vec<u8>>,
    /// Of a host that offers STARTTLS.
    keys: Option<Rc<ServerTls>>,
    is_encrypted: Cell<bool>,
    /// To be begun once what is outward has gone.
    handshake: RefCell<Option<Session>>,
    is_over: Cell<bool>,
    is_closed: Cell<bool>,
    to_mover: Notify,
    to_reader: Notify,
}

/// One end of a connection. Dropped, it is closed in good order: what was sent still arrives.
pub struct End(Rc<Pipe>);

/// Breaks a connection from outside, both ways.
pub struct Breaker(Rc<Pipe>);

impl End {
    pub fn new(
        world: &Rc<World>,
        socket: Socket,
        (own, peer): (IpAddr, SocketAddr),
        tls: Tls,
    ) -> End {
        let (keys, session) = match tls {
            Tls::None => (None, None),
            Tls::Offered(keys) => (Some(keys), None),
            Tls::AtOnce(session) => (None, Some(session)),
        };
        let pipe = Rc::new(Pipe {
            world: world.clone(),
            own,
            peer,
            outward: RefCell::default(),
            inward: RefCell::default(),
            keys,
            is_encrypted: Cell::new(false),
            handshake: RefCell::new(session),
            is_over: Cell::new(false),
            is_closed: Cell::new(false),
            to_mover: Notify::new(),
            to_reader: Notify::new(),
        });
        let moved = pipe.clone();
        world.spawn(async move { moved.carry(Stream::new(socket)).await });
        End(pipe)
    }

    pub fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        if self.0.is_over.get() {
            return Err(Gone);
        }
        self.0.outward.borrow_mut().extend_from_slice(bytes);
        self.0.to_mover.notify_one();
        Ok(())
    }

    /// There is a key for it.
    pub fn offers_tls(&self) -> bool {
        self.0.keys.is_some() && !self.0.is_encrypted.get()
    }

    /// Behind what was sent the peer's handshake is answered, and all that follows is encrypted.
    pub fn start_tls(&self) {
        let keys = self.0.keys.as_ref().expect("it was offered");
        let session = keys.accept().expect("a server has what it needs");
        self.0.is_encrypted.set(true);
        *self.0.handshake.borrow_mut() = Some(session);
        self.0.inward.borrow_mut().clear();
        self.0.to_mover.notify_one();
    }

    /// Appends what has come.
    pub async fn receive(&self, into: &mut Vec<u8>, deadline: Now) -> Received {
        loop {
            if !self.0.inward.borrow().is_empty() {
                into.append(&mut self.0.inward.borrow_mut());
                return Received::Bytes;
            }
            if self.0.is_over.get() {
                return Received::End;
            }
            let wait = deadline.since(self.0.world.now());
            if timeout(wait, self.0.to_reader.notified()).await.is_err() {
                return Received::TimedOut;
            }
        }
    }

    pub fn breaker(&self) -> Breaker {
        Breaker(self.0.clone())
    }

    /// The other end has closed, or the connection is broken.
    pub fn is_alone(&self) -> bool {
        self.0.is_over.get()
    }

    pub fn is_over(&self) -> bool {
        self.0.is_over.get()
    }

    /// Breaks the connection. True if the other end may not have read all.
    pub fn reset(self) -> bool {
        self.0.reset();
        true
    }
}

impl Breaker {
    /// Breaks the connection. True if there was one, and the other end may not have read all.
    pub fn reset(&self) -> bool {
        let is_open = !self.0.is_closed.get() && !self.0.is_over.get();
        self.0.reset();
        is_open
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.is_closed.set(true);
        self.0.to_mover.notify_one();
    }
}

impl Pipe {
    fn reset(&self) {
        let is_it = |local: SocketAddr, remote| local.ip() == self.own && remote == self.peer;
        self.world.host.reset(is_it);
    }

    /// Moves octets both ways until it is over.
    async fn carry(&self, mut stream: Stream) {
        if self.carry_until_over(&mut stream).await.is_err() {
            self.is_over.set(true);
            self.to_reader.notify_one();
            // The end is kept open until its owner lets go of it.
            while !self.is_closed.get() {
                self.to_mover.notified().await;
            }
        }
    }

    /// An error: there is nothing more to be had. Otherwise it was closed here.
    async fn carry_until_over(&self, stream: &mut Stream) -> Result<(), Gone> {
        let mut came = Vec::new();
        loop {
            if !came.is_empty() {
                self.inward.borrow_mut().append(&mut came);
                self.to_reader.notify_one();
            }
            let out = self.outward.take();
            if !out.is_empty() {
                stream.send(&out).await.map_err(|_| Gone)?;
                continue;
            }
            let handshake = self.handshake.take();
            if let Some(session) = handshake {
                let done = stream.handshake(session, &mut came).await;
                self.world.seen.borrow_mut().note_handshake(done.is_ok());
                done.map_err(|_| Gone)?;
                // The last flight would wait for a text of ours.
                stream.send(b"").await.map_err(|_| Gone)?;
                continue;
            }
            if self.is_closed.get() {
                stream.close(b"").await;
                return Ok(());
            }
            tokio::select! {
                biased;
                () = self.to_mover.notified() => {}
                received = stream.receive_unasked(&mut came) => match received {
                    Ok(stream::Received::Bytes) => {}
                    Ok(stream::Received::End { .. }) | Err(_) => {
                        self.inward.borrow_mut().append(&mut came);
                        return Err(Gone);
                    }
                },
            }
        }
    }
}
