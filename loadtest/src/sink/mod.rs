//! The far side: accepts connections, spreads them over its threads and counts.
//!
//! Promise: the book knows of a message before the relay reads its 250.
//! Not here: the SMTP conversation (`session`), what was sent (`source`).

pub mod dns;
pub mod hosts;
mod session;
pub mod shared;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::figures::histogram::Latencies;
use crate::figures::sink::SinkFigures;
use crate::host::clock::Clock;
use crate::host::workers::{self, Meter};
use crate::ledger::book::Book;
use crate::options::sink::SinkOptions;
use crate::options::values::default_threads;
use crate::sink::dns::NameServer;
use crate::sink::hosts::{HostNumber, Hosts};
use crate::sink::session::Session;
use crate::sink::shared::{Counters, Shared};
use crate::wire::tls;

const BACKLOG: u32 = 4096;
/// Pause after accept(2) failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The only interface on which the hosts' addresses are answered for.
const LOOPBACK_DEVICE: &[u8] = b"lo";

/// A running sink; it ends when dropped.
pub struct Sink {
    pub shared: Arc<Shared>,
    /// Where it listens; with hosts of its own, this port at each of their addresses.
    pub address: SocketAddr,
    dns: Option<NameServer>,
    pub meter: Meter,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a relay needs to know to find the sink.
#[derive(Clone, Copy, Debug)]
pub struct FarSide {
    pub sink: SocketAddr,
    /// The name server, if hosts are to be found by MX.
    pub dns: Option<SocketAddr>,
}

impl Sink {
    /// Listens on `address`; the port may be 0. With hosts that have addresses of their own, only
    /// the port counts, the loopback is listened on and nothing else, and a name server is started.
    pub fn start(
        options: &SinkOptions,
        address: SocketAddr,
        book: Book,
        clock: Clock,
        seed: u64,
        hosts: Hosts,
    ) -> io::Result<Self> {
        let count = options.sink_threads.unwrap_or_else(default_threads).max(1);
        let hosts = Arc::new(hosts);
        let shared = Arc::new(Shared {
            options: options.clone(),
            hosts: hosts.clone(),
            book,
            clock,
            tls: tls::server_config(!options.sink_no_tickets).map_err(io::Error::other)?,
            counters: Counters::default(),
            end_to_end: Latencies::new(count),
            end_to_end_good: Latencies::new(count),
            seed,
            open: (0..count).map(|_| AtomicUsize::new(0)).collect(),
        });
        let runtimes: Vec<Runtime> = (0..count)
            .map(|_| workers::new_runtime())
            .collect::<io::Result<_>>()?;
        let by_mx = hosts.is_by_mx();
        let listener = listen(&runtimes[0], address, by_mx)?;
        let dns = match by_mx {
            true => Some(NameServer::start(&options.mx, hosts)?),
            false => None,
        };
        let port = listener.local_addr()?.port();
        let mut sink = Self {
            shared,
            address: match by_mx {
                true => (Ipv4Addr::LOCALHOST, port).into(),
                false => listener.local_addr()?,
            },
            dns,
            meter: Meter::new(count),
            stop: watch::Sender::new(false),
            threads: Vec::new(),
        };
        sink.spawn_threads(runtimes, listener)?;
        Ok(sink)
    }

    /// Thread 0 accepts; each thread serves what it is handed.
    fn spawn_threads(&mut self, runtimes: Vec<Runtime>, listener: TcpListener) -> io::Result<()> {
        let mut lanes = Vec::new();
        let mut ends = Vec::new();
        for _ in &runtimes {
            let (lane, end) = mpsc::unbounded_channel();
            lanes.push(lane);
            ends.push(end);
        }
        let mut acceptor = Some((listener, lanes));
        for (index, (runtime, end)) in runtimes.into_iter().zip(ends).enumerate() {
            let shared = self.shared.clone();
            let accepting = acceptor
                .take()
                .map(|(l, lanes)| accept(shared.clone(), l, lanes));
            let mut stop = self.stop.subscribe();
            let work = async move {
                if let Some(accepting) = accepting {
                    tokio::spawn(accepting);
                }
                tokio::spawn(serve(shared, index, end));
                let _ = stop.wait_for(|&stop| stop).await;
            };
            let meter = self.meter.clone();
            self.threads
                .push(workers::spawn("sink", runtime, meter, index, work)?);
        }
        Ok(())
    }

    pub fn far_side(&self) -> FarSide {
        FarSide {
            sink: self.address,
            dns: self.dns.as_ref().map(|dns| dns.address),
        }
    }

    pub fn figures(&self) -> SinkFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.shared.counters;
        SinkFigures {
            threads: self.threads.len(),
            connections: get(&c.connections),
            connections_refused: get(&c.connections_refused),
            connections_open_max: get(&c.open_max),
            handshakes_full: get(&c.handshakes_full),
            handshakes_resumed: get(&c.handshakes_resumed),
            handshakes_failed: get(&c.handshakes_failed),
            messages: c.messages(),
            messages_without_tls: get(&c.messages_plain),
            bytes: get(&c.bytes),
            bounces: get(&c.bounces),
            faults_4xx: get(&c.faults_4xx),
            faults_5xx: get(&c.faults_5xx),
            faults_dropped: get(&c.faults_dropped),
            faults_broken_off: get(&c.faults_broken_off),
            faults_421: get(&c.faults_421),
            faults_connect: get(&c.faults_connect),
            protocol_errors: get(&c.protocol_errors),
            end_to_end_us: self.shared.end_to_end.figures(),
            end_to_end_good_us: self.shared.end_to_end_good.figures(),
            hosts: self.shared.hosts.figures(),
            dns: self.dns.as_ref().map(NameServer::figures),
            cpu_us: self.meter.cpu_us(),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// `all_loopback`: the port at every IPv4 address of the loopback, out of reach for other machines.
fn listen(runtime: &Runtime, address: SocketAddr, all_loopback: bool) -> io::Result<TcpListener> {
    let _context = runtime.enter();
    if all_loopback {
        if !address.ip().is_loopback() {
            return Err(io::Error::other(
                "MX hosts need --sink-listen on the loopback",
            ));
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind_device(Some(LOOPBACK_DEVICE))?;
        socket.bind((Ipv4Addr::UNSPECIFIED, address.port()).into())?;
        return socket.listen(BACKLOG);
    }
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A connection on its way to the thread that has the fewest.
enum Handed {
    Here(TcpStream),
    Elsewhere(std::net::TcpStream),
}

async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    lanes: Vec<mpsc::UnboundedSender<Handed>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let open = |index: &usize| shared.open[*index].load(Ordering::Relaxed);
        let index = (0..lanes.len()).min_by_key(open).unwrap_or(0);
        let handed = match index {
            0 => Ok(Handed::Here(stream)),
            _ => stream.into_std().map(Handed::Elsewhere),
        };
        if let Ok(handed) = handed {
            shared.open[index].fetch_add(1, Ordering::Relaxed);
            let _ = lanes[index].send(handed);
        }
    }
}

async fn serve(shared: Arc<Shared>, index: usize, mut end: mpsc::UnboundedReceiver<Handed>) {
    while let Some(handed) = end.recv().await {
        let stream = match handed {
            Handed::Here(stream) => Ok(stream),
            Handed::Elsewhere(stream) => TcpStream::from_std(stream),
        };
        let leave = Leave {
            shared: shared.clone(),
            index,
        };
        if let Ok(stream) = stream {
            tokio::spawn(async move {
                converse(&leave.shared, index, stream).await;
                drop(leave);
            });
        }
    }
}

/// Takes a connection off the count of its thread.
struct Leave {
    shared: Arc<Shared>,
    index: usize,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shared.open[self.index].fetch_sub(1, Ordering::Relaxed);
    }
}

async fn converse(shared: &Arc<Shared>, thread: usize, stream: TcpStream) {
    let counters = &shared.counters;
    let number = counters.connections.fetch_add(1, Ordering::Relaxed);
    let open: usize = shared
        .open
        .iter()
        .map(|open| open.load(Ordering::Relaxed))
        .sum();
    counters.open_max.fetch_max(open as u64, Ordering::Relaxed);
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let host = shared.hosts.at(local.ip());
    let session = Session::new(shared.clone(), thread, number, stream, host);
    let most = shared.options.max_connections_per_host;
    if open > shared.options.max_connections || host.is_some_and(|h| !shared.hosts.enter(h, most)) {
        counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        return session.refuse().await;
    }
    let _at_host = host.map(|host| AtHost {
        hosts: &shared.hosts,
        host,
    });
    // An error is the peer's way of leaving; the ledger shows what it means.
    let _ = session.run().await;
}

/// Takes a connection off the count of its host.
struct AtHost<'a> {
    hosts: &'a Hosts,
    host: HostNumber,
}

impl Drop for AtHost<'_> {
    fn drop(&mut self) {
        self.hosts.leave(self.host);
    }
}
