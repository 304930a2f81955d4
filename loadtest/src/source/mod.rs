//! The load: threads with connection slots that take message after message, in a closed loop or at
//! a fixed rate.
//!
//! Promise: every message that is taken up has its fate in the ledger.
//! Not here: SMTP (`link`), what arrived (`sink`).

pub mod link;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, HandshakeKind};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::figures::histogram::Latencies;
use crate::figures::source::SourceFigures;
use crate::host::clock::Clock;
use crate::host::workers::{self, Meter};
use crate::ledger::{Fate, Ledger};
use crate::mail::message::Composer;
use crate::options::source::SourceOptions;
use crate::options::values::default_threads;
use crate::source::link::{Answer, Broken, Link, Manner, OpenError};
use crate::wire::tls;

/// Pause after a failed connection, doubled each time up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How often a message is tried on a new connection before it is given up.
const ATTEMPTS_MAX: u32 = 200;
/// How often the pacer of an open loop looks at the clock.
const PACE: Duration = Duration::from_micros(200);

/// What all threads of a source share.
pub struct Shared {
    options: SourceOptions,
    manner: Manner,
    ledger: Arc<Ledger>,
    composer: Composer,
    clock: Clock,
    next: AtomicU64,
    limit: u64,
    /// When message 0 is due, microseconds since 1970.
    start_us: u64,
    /// Messages that may be sent, in an open loop; closed when the source is to stop.
    permits: Option<Semaphore>,
    stopping: AtomicBool,
    /// When a connection last came about, or when the source began.
    connected_us: AtomicU64,
    failure: Mutex<Option<String>>,
    /// The reply to the first message that was refused.
    first_refusal: OnceLock<String>,
    pub counters: Counters,
    /// From when a message was taken up (closed loop) or due (open loop) to its 250.
    pub to_250: Latencies,
    /// From connect(2) to ready for MAIL.
    pub to_ready: Latencies,
}

#[derive(Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub open: AtomicU64,
    pub unsent: AtomicU64,
    pub left: AtomicU64,
    /// Sent again because the connection ended before the end of data.
    pub retried: AtomicU64,
    pub bytes: AtomicU64,
    pub connections: AtomicU64,
    pub connections_failed: AtomicU64,
    pub handshakes_full: AtomicU64,
    pub handshakes_resumed: AtomicU64,
    /// When the last 250 was read, microseconds since 1970.
    pub last_us: AtomicU64,
}

/// A message on its way.
#[derive(Clone, Copy)]
struct Job {
    n: u64,
    due_us: u64,
    /// Connections that ended before its end of data.
    attempts: u32,
}

/// A running source.
pub struct Source {
    pub shared: Arc<Shared>,
    pub meter: Meter,
    threads: Vec<JoinHandle<()>>,
    pacer: Option<JoinHandle<()>>,
}

impl Source {
    pub fn start(
        options: &SourceOptions,
        address: SocketAddr,
        ledger: Arc<Ledger>,
        composer: Composer,
        clock: Clock,
    ) -> io::Result<Self> {
        let slots = options.connections as usize;
        let count = options
            .source_threads
            .unwrap_or_else(default_threads)
            .clamp(1, slots);
        let now_us = clock.now_us();
        let shared = Arc::new(Shared {
            options: options.clone(),
            manner: Manner::new(address, options),
            limit: options.message_limit().min(ledger.messages_max()),
            ledger,
            composer,
            clock,
            next: AtomicU64::new(0),
            start_us: now_us,
            permits: options.rate.map(|_| Semaphore::new(0)),
            stopping: AtomicBool::new(false),
            connected_us: AtomicU64::new(now_us),
            failure: Mutex::new(None),
            first_refusal: OnceLock::new(),
            counters: Counters::default(),
            to_250: Latencies::new(count),
            to_ready: Latencies::new(count),
        });
        // The last place in the meter is the pacer's.
        let meter = Meter::new(count + 1);
        let mut source = Self {
            shared,
            meter,
            threads: Vec::new(),
            pacer: None,
        };
        for index in 0..count {
            let share = slots / count + usize::from(index < slots % count);
            source.spawn_thread(index, share)?;
        }
        if let Some(rate) = options.rate {
            let (shared, meter) = (source.shared.clone(), source.meter.clone());
            source.pacer = Some(std::thread::spawn(move || {
                pace(&shared, rate, || meter.note(count));
                meter.note(count);
            }));
        }
        Ok(source)
    }

    fn spawn_thread(&mut self, index: usize, slots: usize) -> io::Result<()> {
        let options = &self.shared.options;
        let shared = self.shared.clone();
        let configs: Vec<Arc<ClientConfig>> = (0..slots)
            .map(|_| tls::client_config(options))
            .collect::<Result<_, _>>()
            .map_err(io::Error::other)?;
        let work = async move {
            let tasks: Vec<_> = configs
                .into_iter()
                .map(|tls| tokio::spawn(slot(shared.clone(), index, tls)))
                .collect();
            for task in tasks {
                let _ = task.await;
            }
        };
        let meter = self.meter.clone();
        self.threads.push(workers::spawn(
            "source",
            workers::new_runtime()?,
            meter,
            index,
            work,
        )?);
        Ok(())
    }

    /// No new messages; those under way are finished.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// All slots are done.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|thread| thread.is_finished())
    }

    /// Waits for all slots, after `stop` or when everything was sent.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.shared.stop();
        if let Some(pacer) = self.pacer.take() {
            let _ = pacer.join();
        }
    }

    pub fn figures(&self) -> SourceFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.shared.counters;
        SourceFigures {
            threads: self.meter.threads() - 1,
            taken: self.shared.taken(),
            accepted: get(&c.accepted),
            refused: get(&c.refused),
            open: get(&c.open),
            unsent: get(&c.unsent),
            left: get(&c.left),
            retried: get(&c.retried),
            bytes: get(&c.bytes),
            connections: get(&c.connections),
            connections_failed: get(&c.connections_failed),
            handshakes_full: get(&c.handshakes_full),
            handshakes_resumed: get(&c.handshakes_resumed),
            to_250_us: self.shared.to_250.figures(),
            to_ready_us: self.shared.to_ready.figures(),
            failure: self.shared.failure(),
            first_refusal: self.shared.first_refusal.get().cloned(),
            cpu_us: self.meter.cpu_us(),
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(permits) = &self.permits {
            permits.close();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// When the load began, microseconds since 1970.
    pub fn start_us(&self) -> u64 {
        self.start_us
    }

    /// Messages taken up so far.
    pub fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(self.limit)
    }

    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note_failure(&self, failure: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// The next message, when it is due; `None` when there is none any more.
    async fn take(&self) -> Option<Job> {
        if let Some(permits) = &self.permits {
            permits.acquire().await.ok()?.forget();
        }
        if self.is_stopping() {
            return None;
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        (n < self.limit).then(|| Job {
            n,
            due_us: self.due_us(n),
            attempts: 0,
        })
    }

    fn due_us(&self, n: u64) -> u64 {
        match self.options.rate {
            Some(rate) => self.start_us + (n as f64 * 1e6 / rate) as u64,
            None => self.clock.now_us(),
        }
    }

    /// Nothing has come about for too long, or can.
    fn gives_up(&self, error: &OpenError) -> bool {
        if matches!(error, OpenError::Lacks(_)) {
            self.stop();
            return true;
        }
        let since = self
            .clock
            .now_us()
            .saturating_sub(self.connected_us.load(Ordering::Relaxed));
        since as f64 > self.options.give_up * 1e6
    }
}

/// Releases the messages of an open loop when they are due.
fn pace(shared: &Shared, rate: f64, note_cpu: impl Fn()) {
    let Some(permits) = &shared.permits else {
        return;
    };
    let began = Instant::now();
    let mut released = 0;
    while !shared.is_stopping() && released < shared.limit {
        let due = (began.elapsed().as_secs_f64() * rate) as u64 + 1;
        let due = due.min(shared.limit);
        permits.add_permits((due - released) as usize);
        released = due;
        note_cpu();
        std::thread::sleep(PACE);
    }
    // Everything was released: whoever waits for more waits in vain.
    while !shared.is_stopping() && permits.available_permits() > 0 {
        std::thread::sleep(PACE);
    }
    permits.close();
}

/// One connection after the other, until there is nothing left to send.
async fn slot(shared: Arc<Shared>, thread: usize, tls: Arc<ClientConfig>) {
    let mut waiting = None;
    let mut pause = PAUSE_MIN;
    loop {
        let job = match waiting.take() {
            Some(job) => job,
            None => match shared.take().await {
                Some(job) => job,
                None => return,
            },
        };
        match open(&shared, thread, &tls).await {
            Ok(link) => {
                let (left, sent) = converse(&shared, thread, link, job).await;
                if sent > 0 {
                    pause = PAUSE_MIN;
                }
                match left {
                    None => continue,
                    Some(job) if job.attempts > ATTEMPTS_MAX => {
                        shared.note_failure("connections end before the message is sent".into());
                        shared.counters.unsent.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    left => waiting = left,
                }
            }
            Err(error) => {
                shared
                    .counters
                    .connections_failed
                    .fetch_add(1, Ordering::Relaxed);
                shared.note_failure(error.to_string());
                if shared.is_stopping() {
                    shared.counters.left.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                if shared.gives_up(&error) {
                    shared.counters.unsent.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                waiting = Some(job);
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn open(shared: &Shared, thread: usize, tls: &Arc<ClientConfig>) -> Result<Link, OpenError> {
    let began = Instant::now();
    let limit = Duration::from_secs_f64(shared.options.timeout);
    let opening = timeout(limit, Link::open(&shared.manner, tls.clone()));
    let link = opening
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let counters = &shared.counters;
    counters.connections.fetch_add(1, Ordering::Relaxed);
    shared
        .connected_us
        .store(shared.clock.now_us(), Ordering::Relaxed);
    shared
        .to_ready
        .record(thread, began.elapsed().as_micros().max(1) as u64);
    match link.handshake {
        Some(HandshakeKind::Resumed) => counters.handshakes_resumed.fetch_add(1, Ordering::Relaxed),
        Some(_) => counters.handshakes_full.fetch_add(1, Ordering::Relaxed),
        None => 0,
    };
    Ok(link)
}

/// Sends `job` and what follows, until the connection has done its share or broke. Returns a
/// message that is still to be sent, and how many were answered.
async fn converse(
    shared: &Shared,
    thread: usize,
    mut link: Link,
    mut job: Job,
) -> (Option<Job>, u32) {
    let limit = Duration::from_secs_f64(shared.options.timeout);
    let mut sent = 0;
    loop {
        let sending = link.send(&shared.manner, &shared.composer, job.n, job.due_us);
        // A timeout may fall between end of data and answer, so the fate stays open.
        match timeout(limit, sending)
            .await
            .unwrap_or(Err(Broken::AfterEndOfData))
        {
            Ok(answer) => settle(shared, thread, job, &answer),
            Err(Broken::AfterEndOfData) => {
                leave_open(shared, job);
                return (None, sent);
            }
            Err(Broken::BeforeEndOfData) => {
                shared.counters.retried.fetch_add(1, Ordering::Relaxed);
                return (
                    Some(Job {
                        attempts: job.attempts + 1,
                        ..job
                    }),
                    sent,
                );
            }
        }
        sent += 1;
        if sent == shared.options.messages_per_connection {
            break;
        }
        match shared.take().await {
            Some(next) => job = next,
            None => break,
        }
    }
    let _ = timeout(limit, link.quit()).await;
    (None, sent)
}

/// Writes an answer into the ledger.
fn settle(shared: &Shared, thread: usize, job: Job, answer: &Answer) {
    let now_us = shared.clock.now_us();
    let counters = &shared.counters;
    for i in 0..shared.ledger.addressing.recipients {
        let yes = answer.recipients.get(i as usize) == Some(&true);
        let fate = if yes && answer.is_accepted() {
            Fate::Accepted
        } else {
            Fate::Refused
        };
        shared.ledger.source_says(job.n, i, fate);
    }
    if !answer.is_accepted() {
        counters.refused.fetch_add(1, Ordering::Relaxed);
        shared.first_refusal.get_or_init(|| answer.refusal.clone());
        return;
    }
    counters.accepted.fetch_add(1, Ordering::Relaxed);
    counters
        .bytes
        .fetch_add(answer.content_bytes as u64, Ordering::Relaxed);
    counters.last_us.store(now_us, Ordering::Relaxed);
    shared
        .to_250
        .record(thread, now_us.saturating_sub(job.due_us).max(1));
}

fn leave_open(shared: &Shared, job: Job) {
    shared.counters.open.fetch_add(1, Ordering::Relaxed);
    for i in 0..shared.ledger.addressing.recipients {
        shared.ledger.source_says(job.n, i, Fate::Open);
    }
}
