//! What all threads of a sink share: its counters, and how its hosts behave.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;

use crate::figures::histogram::Latencies;
use crate::host::clock::Clock;
use crate::ledger::book::Book;
use crate::ledger::delivery::Delivery;
use crate::mail::address;
use crate::options::sink::{SinkOptions, SinkTls};
use crate::sink::hosts::{HostNumber, Hosts};

/// What all threads of a sink share.
pub struct Shared {
    pub options: SinkOptions,
    pub hosts: Arc<Hosts>,
    pub book: Book,
    pub clock: Clock,
    pub tls: Arc<ServerConfig>,
    pub counters: Counters,
    /// From when a message should have been sent to its end of data here.
    pub end_to_end: Latencies,
    /// The same, of domains that have no faulty host while others have.
    pub end_to_end_good: Latencies,
    pub seed: u64,
    /// Connections of each thread.
    pub open: Vec<AtomicUsize>,
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
    pub faults_broken_off: AtomicU64,
    pub faults_421: AtomicU64,
    pub faults_connect: AtomicU64,
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

/// How a host treats its clients. Shares are of 1.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    pub tls: SinkTls,
    pub tls_latency: Duration,
    pub fault_4xx: f64,
    pub fault_5xx: f64,
    pub fault_drop_before_reply: f64,
    pub fault_drop: f64,
    pub fault_421: f64,
    pub fault_connect: f64,
    /// Of recipients.
    pub unknown: f64,
    pub latency: Duration,
    /// Bytes per second; 0: no limit.
    pub read_rate: u64,
}

impl Behaviour {
    const GOOD: Self = Self {
        tls: SinkTls::Good,
        tls_latency: Duration::ZERO,
        fault_4xx: 0.0,
        fault_5xx: 0.0,
        fault_drop_before_reply: 0.0,
        fault_drop: 0.0,
        fault_421: 0.0,
        fault_connect: 0.0,
        unknown: 0.0,
        latency: Duration::ZERO,
        read_rate: 0,
    };

    /// That of a host with all faults that were asked for.
    fn faulty(options: &SinkOptions) -> Self {
        Self {
            tls: options.sink_tls,
            tls_latency: Duration::from_millis(options.tls_latency),
            fault_4xx: options.fault_4xx,
            fault_5xx: options.fault_5xx,
            fault_drop_before_reply: options.fault_drop_before_reply,
            fault_drop: options.fault_drop,
            fault_421: options.fault_421,
            fault_connect: options.fault_connect,
            unknown: options.unknown_recipients,
            latency: Duration::from_millis(options.latency),
            read_rate: options.read_rate,
        }
    }
}

impl Shared {
    /// How this host behaves.
    pub fn behaviour(&self, host: Option<HostNumber>) -> Behaviour {
        match self.hosts.is_faulty(host) {
            true => Behaviour::faulty(&self.options),
            false => Behaviour::GOOD,
        }
    }

    /// Tells the book whom the sink is about to refuse for good: these recipients of the message of
    /// this reverse-path or (`None`) all of them.
    pub fn refuse_for_good(&self, reverse_path: &str, recipients: Option<&[String]>) {
        let sender = address::parse_sender(reverse_path);
        if let (Book::Run(ledger), Some((run, n))) = (&self.book, sender) {
            ledger.refused_for_good(run, n, recipients);
        }
    }

    /// Tells the book of a message that came to `host`, just before its 250.
    pub fn deliver(&self, thread: usize, host: Option<HostNumber>, delivery: &Delivery<'_>) {
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
            let took_us = now_us.saturating_sub(mark.due_us).max(1);
            self.end_to_end.record(thread, took_us);
            if self.hosts.is_healthy_among_faulty(host) {
                self.end_to_end_good.record(thread, took_us);
            }
        }
        if let Some(host) = host {
            self.hosts.took_message(host);
        }
        let is_wrong = |to: &&String| !self.hosts.takes(host, to);
        let misrouted = delivery.recipients.iter().filter(is_wrong).count() as u64;
        self.hosts.misrouted.fetch_add(misrouted, Ordering::Relaxed);
        if delivery.is_bounce {
            counters.bounces.fetch_add(1, Ordering::Relaxed);
        }
        match &self.book {
            Book::Run(ledger) => {
                ledger.misdelivered(misrouted);
                delivery.enter(ledger);
            }
            Book::Alone(log) => log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(delivery),
        }
    }
}
