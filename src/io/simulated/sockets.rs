//! Sockets of the world: one call each, whatever comes of it.

use super::world;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// Closes what it names when it is dropped.
#[derive(Debug)]
struct Number(RawFd);

impl Drop for Number {
    fn drop(&mut self) {
        world::if_any(|world| world.network(|network| network.close(world, self.0)));
    }
}

/// A connection that was accepted and that no core has taken over yet.
#[derive(Debug)]
pub struct Descriptor(Number);

/// A connection: reading and writing it never waits.
#[derive(Debug)]
pub struct Stream(Number);

/// A socket that others connect to.
#[derive(Debug)]
pub struct Passive(Number);

impl From<Descriptor> for Stream {
    fn from(descriptor: Descriptor) -> Self {
        Stream(descriptor.0)
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0
    }
}

impl AsRawFd for Passive {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0
    }
}

impl Stream {
    pub fn peek(&self, out: &mut [u8]) -> io::Result<usize> {
        self.receive(out, true)
    }

    fn receive(&self, out: &mut [u8], peeks: bool) -> io::Result<usize> {
        let world = world::current();
        world.network(|network| network.read(&world, self.0.0, out, peeks))
    }

    fn send(&self, bytes: &[&[u8]]) -> io::Result<usize> {
        let world = world::current();
        world.network(|network| network.write(&world, self.0.0, bytes))
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let world = world::current();
        world.network(|network| network.shut_down(&world, self.0.0, how))
    }

    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        world::current().network(|network| network.take_error(self.0.0))
    }
}

impl Read for &Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.receive(out, false)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(&[bytes])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts: Vec<&[u8]> = parts.iter().map(|it| &it[..]).collect();
        self.send(&parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Passive {
    pub fn try_clone(&self) -> io::Result<Passive> {
        let number = world::current().network(|network| network.share(self.0.0))?;
        Ok(Passive(Number(number)))
    }

    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        world::current().network(|network| network.listen(self.0.0, backlog))
    }

    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let world = world::current();
        world.network(|network| network.shut_down(&world, self.0.0, how))
    }
}

/// Begins to connect to `peer`, from `source` if given. It is always under way.
pub fn connect(peer: SocketAddr, source: Option<IpAddr>) -> io::Result<(Stream, bool)> {
    let world = world::current();
    let number = world.network(|network| network.connect(&world, peer, source));
    Ok((Stream(Number(number)), true))
}

/// Binds beside others at the same address. Port 0 lets the world choose.
pub fn bind(address: SocketAddr) -> io::Result<Passive> {
    let world = world::current();
    let number = world.network(|network| network.bind(world.owner(), address));
    Ok(Passive(Number(number)))
}

/// No service manager hands anything over in a world.
pub fn adopt(_: OwnedFd) -> io::Result<Passive> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Fails if anybody else is bound to `address`.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    world::current().network(|network| network.check_free(address))
}

/// Where it is bound.
pub fn address_of(socket: &Passive) -> io::Result<SocketAddr> {
    world::current().network(|network| network.address_of(socket.0.0))
}

/// The next of those who have connected.
pub fn accept(listener: RawFd) -> io::Result<(Descriptor, SocketAddr)> {
    let world = world::current();
    let (number, peer) = world.network(|network| network.accept(&world, listener))?;
    Ok((Descriptor(Number(number)), peer))
}

/// A watch that is under way. If it is dropped, it ends all the same.
struct Watch(Option<u64>);

impl Watch {
    async fn end(mut self) -> io::Result<()> {
        let number = self.0.expect("it is under way");
        poll_fn(|context| {
            let world = world::current();
            world.network(|network| network.poll(&world, number, context))
        })
        .await;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            world::if_any(|world| world.network(|network| network.abandon(world, number)));
        }
    }
}

/// Waits until one of `events` (or an error or hang-up) is true of `file`, which stays open as long as it is watched.
pub fn poll_for<F: AsRawFd + 'static>(
    file: Rc<F>,
    events: u32,
) -> impl Future<Output = io::Result<()>> {
    let descriptor = file.as_raw_fd();
    let number = world::current().network(|network| network.watch(descriptor, events, file));
    Watch(Some(number)).end()
}
