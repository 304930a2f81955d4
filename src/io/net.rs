//! Sockets: readiness comes through the ring, bytes move by non-blocking calls.
//!
//! Waiting pins no buffer: an idle connection costs a poll entry, and all connections of a thread
//! receive into one scratch buffer. Since no read is ever pending, none can swallow bytes when a
//! deadline passes.
//!
//! Promise: a socket whose deadline has passed completes its pending wait with
//! [`std::io::ErrorKind::TimedOut`], at most one tick of [`sweep_deadlines`] late.

use super::core_local;
use super::sockets::{self, Passive, Stream, poll_for};
use crate::time::Now;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::mem;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

pub use super::sockets::Descriptor;

/// Most bytes taken from a socket at once: four full TLS records.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Whether a pending wait is for bytes to come or for room to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Reading,
    Writing,
}

/// Who connected to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The peer to us.
    Inbound,
    /// We to the peer.
    Outbound,
}

struct State {
    stream: Stream,
    direction: Direction,
    deadline: Cell<Now>,
    /// See [`Socket::set_deadlines`].
    deadline_in_crowd: Cell<Now>,
    expired: Cell<bool>,
    /// It was the deadline for crowded times.
    is_crowded_out: Cell<bool>,
    receive_bytes_max: Cell<usize>,
    waiting: Cell<Waiting>,
    interruptible: Cell<bool>,
}

core_local! {
    /// Every socket of this thread, for the deadline sweep.
    static SOCKETS: RefCell<Slab<Rc<State>>> = const { RefCell::new(Slab::new()) };
    /// No socket of this thread has an earlier deadline. It may be too early: a deadline that was
    /// moved or dropped is noticed by the next sweep.
    static EARLIEST: Cell<Now> = const { Cell::new(Now::NEVER) };
    /// The receive buffer that all sockets of this thread share. Out on loan only between awaits.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Ends the waits of all sockets of this thread whose deadline has passed. Called by the thread's
/// tick. Looks at the sockets only when the earliest deadline is due: ten thousand idle ones cost
/// a look at each once in a command time-out, not ten times a second.
pub fn sweep_deadlines(now: Now) {
    if EARLIEST.get() > now {
        return;
    }
    let mut earliest = Now::NEVER;
    SOCKETS.with_borrow(|sockets| {
        for (_, state) in sockets {
            if state.deadline.get() <= now {
                state.expire();
            }
            earliest = earliest.min(state.deadline.get());
        }
    });
    EARLIEST.set(earliest);
}

/// Ends the waits of this thread's sockets whose deadline for crowded times has passed. To be called now
/// and then while connections of that direction run short; looks at every socket.
pub fn sweep_crowd(direction: Direction, now: Now) {
    SOCKETS.with_borrow(|sockets| {
        for (_, state) in sockets {
            if state.direction == direction && state.deadline_in_crowd.get() <= now {
                state.is_crowded_out.set(true);
                state.expire();
            }
        }
    });
}

/// Ends the waits of this thread's sockets that are [`Socket::set_interruptible`]: for a drain.
pub fn interrupt_idle() {
    SOCKETS.with_borrow(|sockets| {
        for (_, state) in sockets {
            if state.interruptible.get() {
                state.expire();
            }
        }
    });
}

/// Ends the waits of all of this thread's sockets of that direction, and those that they begin later: for the end of a
/// drain.
pub fn interrupt_all(direction: Direction) {
    SOCKETS.with_borrow(|sockets| {
        let of_direction = sockets.iter().map(|(_, state)| state);
        of_direction
            .filter(|state| state.direction == direction)
            .for_each(|state| state.expire());
    });
}

impl State {
    fn expire(&self) {
        self.deadline.set(Now::NEVER);
        self.deadline_in_crowd.set(Now::NEVER);
        self.expired.set(true);
        // A reader still wants to say 421, so only its receiving half is closed. The shutdown
        // makes the pending poll complete. An error means that the peer is gone already.
        let half = match self.waiting.get() {
            Waiting::Reading => Shutdown::Read,
            Waiting::Writing => Shutdown::Both,
        };
        let _ = self.stream.shutdown(half);
    }
}

/// A connected TCP socket of this thread.
pub struct Socket {
    state: Rc<State>,
    key: usize,
}

impl Socket {
    fn new(stream: Stream, direction: Direction) -> Self {
        let state = Rc::new(State {
            stream,
            direction,
            deadline: Cell::new(Now::NEVER),
            deadline_in_crowd: Cell::new(Now::NEVER),
            expired: Cell::new(false),
            is_crowded_out: Cell::new(false),
            receive_bytes_max: Cell::new(SCRATCH_BYTES),
            waiting: Cell::new(Waiting::Reading),
            interruptible: Cell::new(false),
        });
        let key = SOCKETS.with_borrow_mut(|sockets| sockets.insert(state.clone()));
        Socket { state, key }
    }

    /// Takes over a descriptor that another thread accepted.
    pub fn adopt(fd: Descriptor) -> Self {
        Socket::new(Stream::from(fd), Direction::Inbound)
    }

    /// Connects to `peer`, from `source` if given; gives up at `deadline`.
    pub async fn connect(
        peer: SocketAddr,
        source: Option<std::net::IpAddr>,
        deadline: Now,
    ) -> io::Result<Socket> {
        let (stream, pending) = sockets::connect(peer, source)?;
        let socket = Socket::new(stream, Direction::Outbound);
        socket.set_deadline(deadline);
        if pending {
            socket.writable().await?;
            if let Some(error) = socket.state.stream.take_error()? {
                return Err(error);
            }
        }
        Ok(socket)
    }

    /// When the next wait ends with `TimedOut`; [`Now::NEVER`] lifts the deadline. A deadline
    /// that has already passed stays passed.
    pub fn set_deadline(&self, deadline: Now) {
        self.set_deadlines(deadline, Now::NEVER);
    }

    /// The same with an earlier one, which counts while connections of this socket's direction run
    /// short ([`sweep_crowd`]).
    pub fn set_deadlines(&self, deadline: Now, in_crowd: Now) {
        self.state.deadline.set(deadline);
        self.state.deadline_in_crowd.set(in_crowd);
        if deadline < EARLIEST.get() {
            EARLIEST.set(deadline);
        }
    }

    /// How much [`Socket::receive_with`] takes at once, up to [`SCRATCH_BYTES`]; the rest stays in the kernel.
    pub fn set_receive_bytes_max(&self, bytes: usize) {
        self.state.receive_bytes_max.set(bytes.min(SCRATCH_BYTES));
    }

    /// True if the deadline for crowded times has ended a wait.
    pub fn is_crowded_out(&self) -> bool {
        self.state.is_crowded_out.get()
    }

    /// Whether [`interrupt_idle`] may end this socket's wait as if its deadline had passed.
    pub fn set_interruptible(&self, interruptible: bool) {
        self.state.interruptible.set(interruptible);
    }

    /// Resolves when a receive would not block: bytes, end of stream or an error are there.
    pub async fn readable(&self) -> io::Result<()> {
        self.wait(Waiting::Reading, libc::POLLIN).await
    }

    async fn writable(&self) -> io::Result<()> {
        self.wait(Waiting::Writing, libc::POLLOUT).await
    }

    async fn wait(&self, waiting: Waiting, events: libc::c_short) -> io::Result<()> {
        if self.state.expired.get() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.state.waiting.set(waiting);
        poll(self.state.clone(), events).await?;
        if self.state.expired.get() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Receives what is there; 0 is the end of the stream, `WouldBlock` means wait again.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.state.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// True if bytes are there that were not yet received.
    pub fn has_bytes(&self) -> bool {
        let peeked = self.state.stream.peek(&mut [0]);
        peeked.is_ok_and(|bytes| bytes > 0)
    }

    /// True if a receive would not block: bytes, end of stream or an error are there.
    pub fn has_news(&self) -> bool {
        let peeked = self.state.stream.peek(&mut [0]);
        self.state.expired.get()
            || !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits for bytes, receives them into the thread's scratch and hands them to `each`, empty at
    /// the end of the stream.
    pub async fn receive_with<R>(&self, each: impl FnOnce(&mut [u8]) -> R) -> io::Result<R> {
        loop {
            self.readable().await?;
            let mut scratch = SCRATCH.take();
            scratch.resize(SCRATCH_BYTES, 0);
            let most = self.state.receive_bytes_max.get();
            let result = self
                .receive(&mut scratch[..most])
                .map(|received| (received, &mut scratch));
            match result {
                Ok((received, bytes)) => {
                    let value = each(&mut bytes[..received]);
                    SCRATCH.set(scratch);
                    return Ok(value);
                }
                Err(error) => {
                    SCRATCH.set(scratch);
                    if error.kind() != io::ErrorKind::WouldBlock {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends everything, waiting for room in between.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.state.stream).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends `first` and then `second`, with one call if the socket has room for both.
    pub async fn send_both(&self, first: &[u8], second: &[u8]) -> io::Result<()> {
        if second.is_empty() {
            return self.send_all(first).await;
        }
        let both = [IoSlice::new(first), IoSlice::new(second)];
        let sent = match (&self.state.stream).write_vectored(&both) {
            Ok(sent) => sent,
            Err(error) if is_for_now(&error) => 0,
            Err(error) => return Err(error),
        };
        match sent.checked_sub(first.len()) {
            Some(of_second) => self.send_all(&second[of_second..]).await,
            None => {
                self.send_all(&first[sent..]).await?;
                self.send_all(second).await
            }
        }
    }

    /// Sends what fits without waiting; how much that was.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match (&self.state.stream).write(bytes) {
            Err(error) if is_for_now(&error) => Ok(0),
            result => result,
        }
    }

    /// No more bytes will be sent; the peer sees the end of the stream.
    pub fn finish_sending(&self) {
        let _ = self.state.stream.shutdown(Shutdown::Write);
    }
}

/// The same call may succeed later.
fn is_for_now(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl Drop for Socket {
    fn drop(&mut self) {
        SOCKETS.with_borrow_mut(|sockets| sockets.remove(self.key));
        // A wait that was dropped before it completed keeps the descriptor open until it
        // completes; the shutdown makes it.
        if Rc::strong_count(&self.state) > 1 {
            let _ = self.state.stream.shutdown(Shutdown::Both);
        }
    }
}

/// A bound, listening socket that has not been given to a thread yet.
pub struct Bound {
    socket: Passive,
    address: SocketAddr,
    /// Others hold the same socket, and its queue goes on without us.
    is_shared: bool,
}

impl Bound {
    /// Binds with `SO_REUSEPORT`, so that every ingress core has its own queue of connections on
    /// the same address. Port 0 lets the kernel choose.
    pub fn new(address: SocketAddr) -> io::Result<Bound> {
        let socket = sockets::bind(address)?;
        let address = sockets::address_of(&socket)?;
        Ok(Bound {
            socket,
            address,
            is_shared: false,
        })
    }

    /// Takes over a listening socket from whoever started us, who keeps it as well.
    ///
    /// # Errors
    /// If it is no listening TCP socket.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Bound> {
        let socket = sockets::adopt(descriptor)?;
        let address = sockets::address_of(&socket)?;
        Ok(Bound {
            socket,
            address,
            is_shared: true,
        })
    }

    /// The same socket with the same queue for another core.
    pub fn share(&self) -> io::Result<Bound> {
        Ok(Bound {
            socket: self.socket.try_clone()?,
            address: self.address,
            is_shared: true,
        })
    }

    /// From now on clients can connect.
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        match self.is_shared {
            // It has a queue already, whose length is its owner's matter.
            true => Ok(()),
            false => self.socket.listen(backlog),
        }
    }

    /// Fails if anybody else listens on `address`. `SO_REUSEPORT` alone would let two relays of
    /// one user share a port without a word.
    pub fn check_free(address: SocketAddr) -> io::Result<()> {
        sockets::check_free(address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A listening socket of this thread.
pub struct Listener {
    socket: Rc<Passive>,
    address: SocketAddr,
    is_shared: bool,
}

impl Listener {
    pub fn new(bound: Bound) -> Listener {
        Listener {
            socket: Rc::new(bound.socket),
            address: bound.address,
            is_shared: bound.is_shared,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True if the queue is not ours alone, and is served by others after us.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Waits until there is a connection to accept. Of all who wait on a shared queue a new
    /// connection wakes one.
    pub async fn ready(&self) -> io::Result<()> {
        let exclusive = match self.is_shared {
            true => libc::EPOLLEXCLUSIVE as u32,
            false => 0,
        };
        poll_for(self.socket.clone(), libc::POLLIN as u32 | exclusive).await
    }

    /// Takes one queued connection; `None` if there is none. An error is the host's (descriptors
    /// used up, memory): the caller pauses before it tries again.
    pub fn accept(&self) -> io::Result<Option<(Descriptor, SocketAddr)>> {
        loop {
            match sockets::accept(self.socket.as_raw_fd()) {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // The peer was gone before we came; others may wait behind it.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A wait that was dropped would keep the port open until the kernel has taken the ring
        // apart, a moment after the process has gone. One that is shared stays open in any case.
        if !self.is_shared {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}

/// Waits on the ring until one of `events` (or an error or hang-up) is true of `file`, which stays
/// open as long as the kernel watches it.
fn poll<F: AsRawFd + 'static>(
    file: Rc<F>,
    events: libc::c_short,
) -> impl Future<Output = io::Result<()>> {
    poll_for(file, events as u32)
}

impl AsRawFd for State {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

const _: () = assert!(mem::size_of::<Socket>() <= 16);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn connected() -> (Socket, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        (Socket::new(stream, Direction::Inbound), peer)
    }

    fn expired(socket: &Socket) -> bool {
        socket.state.expired.get()
    }

    #[test]
    fn a_deadline_is_kept_however_it_was_moved_before() {
        let ((first, _one), (second, _other)) = (connected(), connected());
        first.set_deadline(Now(100));
        second.set_deadline(Now(200));
        sweep_deadlines(Now(99));
        assert!(!expired(&first) && !expired(&second));
        first.set_deadline(Now(300));
        sweep_deadlines(Now(150));
        assert!(!expired(&first) && !expired(&second));
        first.set_deadline(Now(170));
        sweep_deadlines(Now(170));
        assert!(expired(&first) && !expired(&second));
        sweep_deadlines(Now(200));
        assert!(expired(&second));
    }

    #[test]
    fn crowded_times_end_long_waits_of_their_direction_and_no_others() {
        let ((first, _one), (second, _other)) = (connected(), connected());
        first.set_deadlines(Now(100), Now(10));
        second.set_deadline(Now(100));
        sweep_crowd(Direction::Inbound, Now(9));
        sweep_crowd(Direction::Outbound, Now(50));
        assert!(!expired(&first));
        sweep_crowd(Direction::Inbound, Now(10));
        assert!(expired(&first) && !expired(&second));
    }

    #[test]
    fn a_deadline_that_is_set_anew_lifts_the_one_for_crowded_times() {
        let (socket, _peer) = connected();
        socket.set_deadlines(Now(100), Now(10));
        socket.set_deadline(Now(100));
        sweep_crowd(Direction::Inbound, Now(50));
        assert!(!expired(&socket));
    }

    #[test]
    fn a_sweep_after_which_nothing_is_due_does_not_hide_what_comes_later() {
        let (socket, _peer) = connected();
        socket.set_deadline(Now(10));
        socket.set_deadline(Now::NEVER);
        sweep_deadlines(Now(20));
        assert!(!expired(&socket));
        socket.set_deadline(Now(15));
        sweep_deadlines(Now(20));
        assert!(expired(&socket));
    }
}
