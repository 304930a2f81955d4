//! The far side: accepts connections, spreads them over its threads and counts.
//! Not here: the SMTP conversation (`sink_session`).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::arrivals::ArrivalLog;
use crate::clock::Clock;
use crate::histogram::{Latencies, Percentiles};
use crate::ledger::Ledger;
use crate::options::{SinkOptions, default_threads};
use crate::sink_session::Session;
use crate::tls;
use crate::workers::{self, Meter};

const BACKLOG: u32 = 4096;
/// Pause after accept(2) failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is told of what arrives.
pub enum Book {
    /// The source runs in this process: every recipient is known beforehand.
    Run(Arc<Ledger>),
    /// The source is elsewhere.
    Alone(Mutex<ArrivalLog>),
}

/// What all threads of a sink share.
pub struct Shared {
    pub options: SinkOptions,
    pub book: Book,
    pub clock: Clock,
    pub tls: Arc<ServerConfig>,
    pub counters: Counters,
    /// From when a message should have been sent to its end of data here.
    pub end_to_end: Latencies,
    pub seed: u64,
    open: Vec<AtomicUsize>,
}

#[derive(Default)]
pub struct Counters {
    pub connections: AtomicU64,
    pub connections_refused: AtomicU64,
    pub handshakes_full: AtomicU64,
    pub handshakes_resumed: AtomicU64,
    pub handshakes_failed: AtomicU64,
    pub messages_tls: AtomicU64,
    pub messages_plain: AtomicU64,
    pub bytes: AtomicU64,
    pub bounces: AtomicU64,
    pub faults_4xx: AtomicU64,
    pub faults_5xx: AtomicU64,
    pub faults_dropped: AtomicU64,
    pub protocol_errors: AtomicU64,
    pub open_max: AtomicU64,
    /// When the last message arrived, microseconds since 1970.
    pub last_us: AtomicU64,
}

impl Counters {
    pub fn messages(&self) -> u64 {
        self.messages_tls.load(Ordering::Relaxed) + self.messages_plain.load(Ordering::Relaxed)
    }
}

/// A running sink; it ends when dropped.
pub struct Sink {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    pub meter: Meter,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Listens on `address`; the port may be 0.
    pub fn start(
        options: &SinkOptions,
        address: SocketAddr,
        book: Book,
        clock: Clock,
        seed: u64,
    ) -> io::Result<Self> {
        let count = options.sink_threads.unwrap_or_else(default_threads).max(1);
        let shared = Arc::new(Shared {
            options: options.clone(),
            book,
            clock,
            tls: tls::server_config(!options.sink_no_tickets).map_err(io::Error::other)?,
            counters: Counters::default(),
            end_to_end: Latencies::new(count),
            seed,
            open: (0..count).map(|_| AtomicUsize::new(0)).collect(),
        });
        let runtimes: Vec<Runtime> = (0..count)
            .map(|_| workers::new_runtime())
            .collect::<io::Result<_>>()?;
        let listener = listen(&runtimes[0], address)?;
        let mut sink = Self {
            shared,
            address: listener.local_addr()?,
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
            protocol_errors: get(&c.protocol_errors),
            end_to_end_us: self.shared.end_to_end.figures(),
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

fn listen(runtime: &Runtime, address: SocketAddr) -> io::Result<TcpListener> {
    let _context = runtime.enter();
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
    let session = Session::new(shared.clone(), thread, number, stream);
    if open > shared.options.max_connections {
        counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        return session.refuse().await;
    }
    // An error is the peer's way of leaving; the ledger shows what it means.
    let _ = session.run().await;
}

/// What the sink saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkFigures {
    pub threads: usize,
    pub connections: u64,
    pub connections_refused: u64,
    pub connections_open_max: u64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub handshakes_failed: u64,
    /// Transactions that ended with 250; a message to many recipients may come in several.
    pub messages: u64,
    pub messages_without_tls: u64,
    /// Content of those messages.
    pub bytes: u64,
    pub bounces: u64,
    pub faults_4xx: u64,
    pub faults_5xx: u64,
    pub faults_dropped: u64,
    pub protocol_errors: u64,
    pub end_to_end_us: Percentiles,
    pub cpu_us: u64,
}

impl Shared {
    /// Tells the book of a message, just before its 250.
    pub fn deliver(&self, thread: usize, delivery: &Delivery<'_>) {
        let counters = &self.counters;
        let tls = if delivery.tls {
            &counters.messages_tls
        } else {
            &counters.messages_plain
        };
        tls.fetch_add(1, Ordering::Relaxed);
        counters
            .bytes
            .fetch_add(delivery.found.bytes, Ordering::Relaxed);
        let now_us = self.clock.now_us();
        counters.last_us.store(now_us, Ordering::Relaxed);
        if let Some(mark) = &delivery.found.mark {
            self.end_to_end
                .record(thread, now_us.saturating_sub(mark.due_us).max(1));
        }
        if delivery.is_bounce {
            counters.bounces.fetch_add(1, Ordering::Relaxed);
        }
        match &self.book {
            Book::Run(ledger) => delivery.enter(ledger),
            Book::Alone(log) => log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(delivery),
        }
    }
}

/// A message that the sink takes.
pub struct Delivery<'a> {
    /// The reverse-path is null.
    pub is_bounce: bool,
    pub recipients: &'a [String],
    pub found: &'a crate::message::Found,
    pub tls: bool,
}

impl Delivery<'_> {
    fn enter(&self, ledger: &Ledger) {
        use crate::{address, ledger::Arrival, message};
        let found = self.found;
        if let Some(mark) = &found.mark {
            return ledger.arrived(&Arrival {
                run: &mark.run,
                n: mark.n,
                recipients: self.recipients,
                intact: found.intact,
            });
        }
        let sender = self
            .recipients
            .first()
            .and_then(|r| address::parse_sender(r));
        match sender.filter(|_| self.is_bounce) {
            Some((run, n)) => ledger.bounced(run, n, &message::failed_recipients(&found.body)),
            None => ledger.unknown_arrived(),
        }
    }
}
