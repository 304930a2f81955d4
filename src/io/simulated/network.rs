//! A network: connections with windows and latency, queues of those who come, and hosts that refuse, are silent or
//! break off. The rules at an end, at a reset and of readiness are those of TCP on Linux:
//! `tests/conformance/sockets.rs` compares.

mod readiness;

use super::clockwork::Clockwork;
use super::executor::{Event, Owner};
use super::packet::{Arrival, Packet};
use crate::time::Now;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

/// Where the relay is, for those whom it connects to.
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// As Linux does by default: a first packet goes out again after 1, 2, 4 ... s, six times.
const SYN_AGAIN_MAX: u32 = 6;

const EPHEMERAL: std::ops::Range<u16> = 32768..60999;

/// What a network is like. Numbers: one in so many; 0: none.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Octets that are on their way or unread, of each direction of a connection.
    pub window: usize,
    /// One way, at most; each connection has one of its own.
    pub latency_max: Duration,
    /// A receive gives a part of what is there.
    pub short_reads: usize,
    /// A send takes a part of what there is room for.
    pub short_writes: usize,
    /// What a peer had not read yet is lost when its connection is reset.
    pub losses_at_reset: usize,
    /// The host has no descriptor for a connection that is to be accepted.
    pub accept_errors: usize,
}

impl Default for Links {
    fn default() -> Self {
        Links {
            window: 64 * 1024,
            latency_max: Duration::from_micros(100),
            short_reads: 0,
            short_writes: 0,
            losses_at_reset: 0,
            accept_errors: 0,
        }
    }
}

/// How a host is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Nothing comes back.
    Silent,
    /// Some router says that there is no way.
    Unreachable,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Open,
    /// There is no connection, or no longer.
    Gone,
}

struct End {
    owner: Owner,
    local: SocketAddr,
    remote: SocketAddr,
    state: State,
    other: Option<RawFd>,
    latency: Duration,
    /// Nothing that was sent to it arrives before this.
    last_arrival: Now,
    unread: VecDeque<u8>,
    /// What we have sent and the peer has not read.
    outstanding: usize,
    /// The peer sends nothing more.
    has_ended: bool,
    error: Option<i32>,
    reading_is_shut: bool,
    writing_is_shut: bool,
    syns: u32,
    polls: Vec<u64>,
}

struct Passive {
    owner: Owner,
    address: SocketAddr,
    backlog: Option<usize>,
    queue: VecDeque<RawFd>,
    polls: Vec<u64>,
}

struct Polled {
    /// The socket, and the descriptor that asks.
    socket: RawFd,
    events: u32,
    /// `None`: it has come to its end, and nobody has asked yet.
    file: Option<Rc<dyn Any>>,
    waker: Option<Waker>,
    is_abandoned: bool,
}

/// All sockets of a world. What is to be woken or dropped waits until nobody borrows it: see [`World::network`].
pub struct Network {
    pub links: Links,
    ends: BTreeMap<RawFd, End>,
    passives: BTreeMap<RawFd, Passive>,
    /// The socket of each descriptor that is a passive one.
    descriptors: BTreeMap<RawFd, RawFd>,
    reach: BTreeMap<IpAddr, Reach>,
    polls: BTreeMap<u64, Polled>,
    next: RawFd,
    next_port: u16,
    next_poll: u64,
    to_wake: Vec<Waker>,
    to_drop: Vec<Rc<dyn Any>>,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            links: Links::default(),
            ends: BTreeMap::new(),
            passives: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            reach: BTreeMap::new(),
            polls: BTreeMap::new(),
            next: 3,
            next_port: EPHEMERAL.start,
            next_poll: 0,
            to_wake: Vec::new(),
            to_drop: Vec::new(),
        }
    }
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn is_any(address: &SocketAddr) -> bool {
    address.ip().is_unspecified()
}

impl Network {
    /// Whom to wake and what to let go of, now that nobody borrows the network.
    pub fn take_effects(&mut self) -> (Vec<Waker>, Vec<Rc<dyn Any>>) {
        (
            std::mem::take(&mut self.to_wake),
            std::mem::take(&mut self.to_drop),
        )
    }

    fn number(&mut self) -> RawFd {
        self.next += 1;
        self.next
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = match port + 1 {
            next if EPHEMERAL.contains(&next) => next,
            _ => EPHEMERAL.start,
        };
        port
    }

    pub fn set_reach(&mut self, host: IpAddr, reach: Option<Reach>) {
        match reach {
            Some(reach) => drop(self.reach.insert(host, reach)),
            None => drop(self.reach.remove(&host)),
        }
    }

    /// Connections that are open or about to be, by whose they are.
    pub fn connections(&self, are_meant: impl Fn(Owner) -> bool) -> usize {
        let ends = self.ends.values().filter(|it| it.state != State::Gone);
        ends.filter(|it| are_meant(it.owner)).count()
    }

    // ---- those who are connected to ----

    pub fn bind(&mut self, owner: Owner, mut address: SocketAddr) -> RawFd {
        if address.port() == 0 {
            address.set_port(self.port());
        }
        let number = self.number();
        let passive = Passive {
            owner,
            address,
            backlog: None,
            queue: VecDeque::new(),
            polls: Vec::new(),
        };
        self.passives.insert(number, passive);
        self.descriptors.insert(number, number);
        number
    }

    fn passive(&mut self, descriptor: RawFd) -> io::Result<&mut Passive> {
        let socket = self.descriptors.get(&descriptor);
        let passive = socket.and_then(|it| self.passives.get_mut(it));
        passive.ok_or_else(|| error(libc::EBADF))
    }

    pub fn address_of(&mut self, descriptor: RawFd) -> io::Result<SocketAddr> {
        self.passive(descriptor).map(|it| it.address)
    }

    pub fn share(&mut self, descriptor: RawFd) -> io::Result<RawFd> {
        self.passive(descriptor)?;
        let socket = self.descriptors[&descriptor];
        let number = self.number();
        self.descriptors.insert(number, socket);
        Ok(number)
    }

    pub fn listen(&mut self, descriptor: RawFd, backlog: i32) -> io::Result<()> {
        self.passive(descriptor)?.backlog = Some(backlog.max(1) as usize);
        Ok(())
    }

    pub fn check_free(&self, address: SocketAddr) -> io::Result<()> {
        let mut passives = self.passives.values();
        match address.port() != 0 && passives.any(|it| it.address == address) {
            true => Err(error(libc::EADDRINUSE)),
            false => Ok(()),
        }
    }

    pub fn accept(
        &mut self,
        world: &Clockwork,
        descriptor: RawFd,
    ) -> io::Result<(RawFd, SocketAddr)> {
        let fails = world.one_in(self.links.accept_errors);
        let owner = world.owner();
        let queue = &mut self.passive(descriptor)?.queue;
        if !queue.is_empty() && fails {
            return Err(error(libc::EMFILE));
        }
        let number = queue.pop_front().ok_or_else(|| error(libc::EAGAIN))?;
        let end = self.ends.get_mut(&number).expect("it is in the queue");
        end.owner = owner;
        Ok((number, end.remote))
    }

    /// Whoever would get a connection to this address.
    fn listener_at(&self, world: &Clockwork, address: SocketAddr) -> Option<RawFd> {
        let listens = |it: &Passive| it.backlog.is_some() && it.address.port() == address.port();
        let at = |is_it: &dyn Fn(&SocketAddr) -> bool| -> Vec<RawFd> {
            let all = self.passives.iter();
            let found = all.filter(|(_, it)| listens(it) && is_it(&it.address));
            found.map(|(number, _)| *number).collect()
        };
        let exact = at(&|it| *it == address);
        let found = match exact.is_empty() {
            true => at(&|it| is_any(it) && it.is_ipv4() == address.is_ipv4()),
            false => exact,
        };
        (!found.is_empty()).then(|| found[world.below(found.len())])
    }

    // ---- connecting ----

    pub fn connect(
        &mut self,
        world: &Clockwork,
        remote: SocketAddr,
        source: Option<IpAddr>,
    ) -> RawFd {
        let own = match remote.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => OWN_V4.into(),
            IpAddr::V6(_) => OWN_V6.into(),
        };
        let local = SocketAddr::new(source.unwrap_or(own), self.port());
        let most = self.links.latency_max.as_micros() as usize;
        let latency = Duration::from_micros(1 + world.below(most.max(1)) as u64);
        let number = self.number();
        let end = End::new(world.owner(), (local, remote), latency);
        self.ends.insert(number, end);
        self.send(world, number, number, latency, Arrival::Syn);
        number
    }

    fn send(
        &mut self,
        world: &Clockwork,
        from: RawFd,
        to: RawFd,
        latency: Duration,
        arrival: Arrival,
    ) {
        let mut wait = latency;
        if let Some(end) = self.ends.get_mut(&to) {
            // Nothing overtakes.
            let time = (world.now() + latency).max(end.last_arrival);
            end.last_arrival = time;
            wait = time.since(world.now());
        }
        let packet = Packet { to, from, arrival };
        world.event_in(wait, Event::Network(packet));
    }

    /// From one end to the other, if there still is one.
    fn send_over(&mut self, world: &Clockwork, from: RawFd, arrival: Arrival) {
        if let Some(end) = self.ends.get(&from)
            && let (Some(other), latency) = (end.other, end.latency)
        {
            self.send(world, from, other, latency, arrival);
        }
    }

    /// The first packet is where it was to go, perhaps.
    fn syn(&mut self, world: &Clockwork, number: RawFd) {
        let end = &self.ends[&number];
        if end.state != State::Connecting {
            return;
        }
        let (local, remote, latency) = (end.local, end.remote, end.latency);
        let answer = match self.reach.get(&remote.ip()) {
            Some(Reach::Silent) => return self.syn_again(world, number),
            Some(Reach::Unreachable) => Some(libc::EHOSTUNREACH),
            None => None,
        };
        let listener = self.listener_at(world, remote);
        let Some(listener) = listener.filter(|_| answer.is_none()) else {
            let code = answer.unwrap_or(libc::ECONNREFUSED);
            return self.send(world, number, number, latency, Arrival::SynAnswer(code));
        };
        let passive = self.passives.get_mut(&listener).expect("just found");
        if passive.queue.len() > passive.backlog.unwrap_or(0) {
            return self.syn_again(world, number);
        }
        let theirs = End {
            state: State::Open,
            other: Some(number),
            ..End::new(passive.owner, (remote, local), latency)
        };
        let other = self.number();
        self.ends.insert(other, theirs);
        self.ends.get_mut(&number).expect("it connects").other = Some(other);
        let passive = self.passives.get_mut(&listener).expect("just found");
        passive.queue.push_back(other);
        self.look_at(world, listener);
        self.send(world, other, number, latency, Arrival::SynAnswer(0));
    }

    fn syn_again(&mut self, world: &Clockwork, number: RawFd) {
        let end = self.ends.get_mut(&number).expect("it connects");
        let wait = Duration::from_secs(1 << end.syns);
        end.syns += 1;
        let arrival = match end.syns > SYN_AGAIN_MAX {
            true => Arrival::SynAnswer(libc::ETIMEDOUT),
            false => Arrival::Syn,
        };
        self.send(world, number, number, wait, arrival);
    }

    // ---- what arrives ----

    pub fn arrive(&mut self, world: &Clockwork, packet: Packet) {
        let Packet { to, from, arrival } = packet;
        let Some(end) = self.ends.get_mut(&to) else {
            // Whoever sends to one that is closed hears so.
            if matches!(arrival, Arrival::Bytes(_)) && self.ends.contains_key(&from) {
                let latency = self.ends[&from].latency;
                self.send(world, to, from, latency, Arrival::Reset);
            }
            return;
        };
        match arrival {
            Arrival::Syn => return self.syn(world, to),
            Arrival::SynAnswer(code) if end.state == State::Connecting => match code {
                0 => end.state = State::Open,
                code => end.fail(code),
            },
            Arrival::Bytes(_) if end.reading_is_shut && end.writing_is_shut => {
                self.send_over(world, to, Arrival::Reset);
                let end = self.ends.get_mut(&to).expect("just seen");
                if end.state == State::Open {
                    end.fail(libc::ECONNRESET);
                }
            }
            Arrival::Bytes(bytes) => end.unread.extend(bytes),
            Arrival::End => end.has_ended = true,
            Arrival::Reset if end.state == State::Open => {
                if world.one_in(self.links.losses_at_reset) {
                    end.unread.clear();
                }
                end.fail(match end.has_ended {
                    true => libc::EPIPE,
                    false => libc::ECONNRESET,
                });
            }
            Arrival::Reset if end.state == State::Connecting => end.fail(libc::ECONNREFUSED),
            Arrival::Room(bytes) => end.outstanding -= bytes,
            Arrival::SynAnswer(_) | Arrival::Reset => {}
        }
        self.look_at(world, to);
    }

    // ---- octets ----

    fn end(&mut self, number: RawFd) -> io::Result<&mut End> {
        let end = self.ends.get_mut(&number);
        end.ok_or_else(|| error(libc::EBADF))
    }

    pub fn read(
        &mut self,
        world: &Clockwork,
        number: RawFd,
        out: &mut [u8],
        peeks: bool,
    ) -> io::Result<usize> {
        let is_short = world.one_in(self.links.short_reads);
        let window = self.links.window;
        let end = self.end(number)?;
        let there = end.unread.len().min(out.len());
        if there == 0 {
            return end.read_nothing();
        }
        let taken = match is_short && !peeks {
            true => 1 + world.below(there),
            false => there,
        };
        let (first, second) = end.unread.as_slices();
        let of_first = first.len().min(taken);
        out[..of_first].copy_from_slice(&first[..of_first]);
        out[of_first..taken].copy_from_slice(&second[..taken - of_first]);
        if peeks {
            return Ok(taken);
        }
        end.unread.drain(..taken);
        let other = end.other;
        if let Some(sender) = other.and_then(|it| self.ends.get_mut(&it)) {
            // Nobody waits for room while there is plenty.
            match sender.outstanding > window / 2 {
                true => self.send_over(world, number, Arrival::Room(taken)),
                false => sender.outstanding -= taken,
            }
        }
        Ok(taken)
    }

    pub fn write(
        &mut self,
        world: &Clockwork,
        number: RawFd,
        bytes: &[&[u8]],
    ) -> io::Result<usize> {
        let (window, is_short) = (self.links.window, world.one_in(self.links.short_writes));
        let end = self.end(number)?;
        if let Some(code) = end.error.take() {
            return Err(error(code));
        }
        if end.writing_is_shut || end.state == State::Gone {
            return Err(error(libc::EPIPE));
        }
        let room = window.saturating_sub(end.outstanding);
        if end.state == State::Connecting || room == 0 {
            return Err(error(libc::EAGAIN));
        }
        let all: usize = bytes.iter().map(|it| it.len()).sum();
        let taken = match all.min(room) {
            0 => return Ok(0),
            most if is_short => 1 + world.below(most),
            most => most,
        };
        end.outstanding += taken;
        let mut sent = Vec::with_capacity(taken);
        for part in bytes {
            sent.extend_from_slice(&part[..part.len().min(taken - sent.len())]);
        }
        // What TLS makes of a text is another one each time, of the same length.
        world.note(&taken.to_le_bytes());
        self.send_over(world, number, Arrival::Bytes(sent));
        Ok(taken)
    }

    pub fn take_error(&mut self, number: RawFd) -> io::Result<Option<io::Error>> {
        Ok(self.end(number)?.error.take().map(error))
    }

    // ---- the end ----

    pub fn shut_down(&mut self, world: &Clockwork, number: RawFd, how: Shutdown) -> io::Result<()> {
        if let Some(socket) = self.descriptors.get(&number).copied() {
            let passive = self.passives.get_mut(&socket).expect("it has a descriptor");
            passive.backlog = None;
            self.drop_accept_queue(world, socket);
            self.look_at(world, socket);
            return Ok(());
        }
        let end = self.end(number)?;
        match end.state {
            State::Gone => return Err(error(libc::ENOTCONN)),
            State::Connecting => {
                end.state = State::Gone;
                (end.reading_is_shut, end.writing_is_shut) = (true, true);
                self.send_over(world, number, Arrival::Reset);
            }
            State::Open => {
                end.reading_is_shut |= how != Shutdown::Write;
                let ends = how != Shutdown::Read && !end.writing_is_shut;
                end.writing_is_shut |= ends;
                if ends {
                    self.send_over(world, number, Arrival::End);
                }
            }
        }
        self.look_at(world, number);
        Ok(())
    }

    /// The last descriptor is closed.
    pub fn close(&mut self, world: &Clockwork, number: RawFd) {
        if let Some(socket) = self.descriptors.remove(&number) {
            return self.close_passive(world, socket);
        }
        let Some(end) = self.ends.get(&number) else {
            return;
        };
        if end.state == State::Connecting || !end.unread.is_empty() {
            self.send_over(world, number, Arrival::Reset);
        } else if end.state == State::Open && !end.writing_is_shut {
            self.send_over(world, number, Arrival::End);
        }
        self.ends.remove(&number);
    }

    fn close_passive(&mut self, world: &Clockwork, socket: RawFd) {
        let is_shared = self.descriptors.values().any(|it| *it == socket);
        if !is_shared {
            self.drop_accept_queue(world, socket);
            self.passives.remove(&socket);
        }
    }

    /// Nobody will take these any more.
    fn drop_accept_queue(&mut self, world: &Clockwork, socket: RawFd) {
        let passive = self.passives.get_mut(&socket).expect("just seen");
        for number in std::mem::take(&mut passive.queue) {
            self.send_over(world, number, Arrival::Reset);
            self.ends.remove(&number);
        }
    }

    /// Connections are reset in one instant, each at the end whose addresses are meant. How many there were.
    pub fn reset(
        &mut self,
        world: &Clockwork,
        are_meant: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) -> usize {
        let meant = self
            .ends
            .iter()
            .filter(|(_, it)| are_meant(it.local, it.remote));
        let numbers: Vec<RawFd> = meant.map(|(number, _)| *number).collect();
        for number in &numbers {
            self.send_over(world, *number, Arrival::Reset);
            let end = self.ends.get_mut(number).expect("just seen");
            end.fail(libc::ECONNRESET);
            self.look_at(world, *number);
        }
        numbers.len()
    }

    /// Whoever that is is no more: without its power, or because it was killed, and the kernel closes what it had.
    pub fn end_of(&mut self, world: &Clockwork, are_meant: impl Fn(Owner) -> bool, is_power: bool) {
        let passives = self.passives.iter().filter(|(_, it)| are_meant(it.owner));
        let passives: Vec<RawFd> = passives.map(|(number, _)| *number).collect();
        for socket in passives {
            self.drop_accept_queue(world, socket);
            self.passives.remove(&socket);
            self.descriptors.retain(|_, it| *it != socket);
        }
        let ends = self.ends.iter().filter(|(_, it)| are_meant(it.owner));
        let ends: Vec<RawFd> = ends.map(|(number, _)| *number).collect();
        for number in ends {
            match is_power {
                // Once it is there again, it knows of no connection.
                true => self.send_over(world, number, Arrival::Reset),
                false => self.close(world, number),
            }
            self.ends.remove(&number);
        }
        let (ends, passives) = (&self.ends, &self.passives);
        let is_there =
            |it: &Polled| ends.contains_key(&it.socket) || passives.contains_key(&it.socket);
        let polls = std::mem::take(&mut self.polls);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            polls.into_iter().partition(|(_, it)| is_there(it));
        self.polls = kept;
        self.to_drop
            .extend(gone.into_values().filter_map(|it| it.file));
    }
}

impl End {
    /// Of one who connects.
    fn new(owner: Owner, (local, remote): (SocketAddr, SocketAddr), latency: Duration) -> Self {
        End {
            owner,
            local,
            remote,
            state: State::Connecting,
            other: None,
            latency,
            last_arrival: Now(0),
            unread: VecDeque::new(),
            outstanding: 0,
            has_ended: false,
            error: None,
            reading_is_shut: false,
            writing_is_shut: false,
            syns: 0,
            polls: Vec::new(),
        }
    }

    fn fail(&mut self, code: i32) {
        self.state = State::Gone;
        self.error = Some(code);
        self.other = None;
    }

    fn read_nothing(&mut self) -> io::Result<usize> {
        if self.has_ended {
            return Ok(0);
        }
        if let Some(code) = self.error.take() {
            return Err(error(code));
        }
        match self.reading_is_shut || self.state == State::Gone {
            true => Ok(0),
            false => Err(error(libc::EAGAIN)),
        }
    }
}
