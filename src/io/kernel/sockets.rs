//! Sockets as the kernel has them: one call each, whatever comes of it, and the ring's word that one is ready.

use io_uring::{cqueue, opcode, types};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// A connection that was accepted and that no thread has taken over yet.
pub type Descriptor = OwnedFd;

/// A connection: reading and writing it never waits.
pub type Stream = TcpStream;

/// A socket that others connect to.
pub type Passive = socket2::Socket;

/// Begins to connect to `peer`, from `source` if given. True: that is still under way, and it has come to its end when the
/// stream can be written to.
pub fn connect(peer: SocketAddr, source: Option<IpAddr>) -> io::Result<(Stream, bool)> {
    let socket = socket2::Socket::new(
        Domain::for_address(peer),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(address) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(address, 0)))?;
    }
    let pending = match socket.connect(&SockAddr::from(peer)) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
        Err(error) => return Err(error),
    };
    Ok((TcpStream::from(OwnedFd::from(socket)), pending))
}

/// Binds with `SO_REUSEPORT`. Port 0 lets the kernel choose.
pub fn bind(address: SocketAddr) -> io::Result<Passive> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Takes over a listening socket.
///
/// # Errors
/// If it is no listening TCP socket.
pub fn adopt(descriptor: OwnedFd) -> io::Result<Passive> {
    let socket = socket2::Socket::from(descriptor);
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Fails if anybody else listens on `address`.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(1)
}

/// Where it is bound.
pub fn address_of(socket: &Passive) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// `accept4(2)`
pub fn accept(listener: RawFd) -> io::Result<(Descriptor, SocketAddr)> {
    // SAFETY: `try_init` hands out storage of the length that it states; the kernel fills it.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let fd = libc::accept4(
                listener,
                storage.cast(),
                length,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just given us this descriptor; nobody else has it.
            Ok(OwnedFd::from_raw_fd(fd))
        })
    }?;
    let peer = address.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((fd, peer))
}

/// Waits on the ring until one of `events` (or an error or hang-up) is true of `file`, which stays
/// open as long as the kernel watches it.
pub fn poll_for<F: AsRawFd + 'static>(
    file: Rc<F>,
    events: u32,
) -> impl Future<Output = io::Result<()>> {
    let entry = opcode::PollAdd::new(types::Fd(file.as_ref().as_raw_fd()), events).build();
    UnsubmittedOneshot::new(file, PollResult(std::marker::PhantomData), entry).submit()
}

struct PollResult<F>(std::marker::PhantomData<Rc<F>>);

impl<F: 'static> OneshotOutputTransform for PollResult<F> {
    type Output = io::Result<()>;
    type StoredData = Rc<F>;

    fn transform_oneshot_output(self, _: Rc<F>, entry: cqueue::Entry) -> io::Result<()> {
        if entry.result() < 0 {
            return Err(io::Error::from_raw_os_error(-entry.result()));
        }
        Ok(())
    }
}
