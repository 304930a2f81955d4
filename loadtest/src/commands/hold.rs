//! What connections cost that are open and do nothing: memory, descriptors and CPU of the relay,
//! and whether an honest client beside them is still served.
//!
//! Memory is read when none, half and all of the connections are open: between half and all nothing
//! is paid but connections. "Alone" is measured before anybody else is there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, HandshakeKind};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::commands::common::Common;
use crate::commands::output::write_files;
use crate::failure::Failure;
use crate::figures::histogram::Latencies;
use crate::figures::hold::{HoldReport, Honest};
use crate::figures::machine::Machine;
use crate::host::clock::Clock;
use crate::host::process::{Resident, ThreadTimes, resident_of_tree, usage_of_tree};
use crate::host::signals::StopFlag;
use crate::ledger::{Fate, Ledger};
use crate::mail::message::Composer;
use crate::options::hold::HoldCommand;
use crate::options::sink::SinkOptions;
use crate::options::values::default_threads;
use crate::pages;
use crate::relay::under_test::UnderTest;
use crate::sink::Sink;
use crate::source::link::{Link, Manner, OpenError};
use crate::text::grouped;
use crate::wire::tls;

/// How long the relay is left alone before its memory is read.
const REST: Duration = Duration::from_secs(2);
/// How long the relay may take to deliver what it accepted, and to notice that clients have gone.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(20);
/// The honest client: messages over one connection, and its pause before each.
const HONEST_MESSAGES: u32 = 10;
const HONEST_PAUSE: Duration = Duration::from_millis(10);
/// Descriptors more than at first that the relay may keep when all have gone: its own connections.
const LATE_DESCRIPTORS: u64 = 50;
/// Connection attempts and rounds of NOOP under way at the same time while all are asked.
const ASKING: usize = 200;

/// Holds, prints, and says whether all connections came about and lived, and no mail was lost.
pub fn hold(command: &HoldCommand, stop: &StopFlag) -> Result<bool, Failure> {
    let (report, mut under_test) = measure(command, stop)?;
    print!("{report}");
    write_files(&command.output, &report, pages::hold::page)?;
    let clean = report.problems().is_empty();
    under_test.tidy(clean);
    Ok(clean)
}

/// The measurement itself.
pub fn measure(command: &HoldCommand, stop: &StopFlag) -> Result<(HoldReport, UnderTest), Failure> {
    command.check()?;
    let common = Common::new(&command.source)?;
    let sink = start_sink(&common)?;
    let mut under_test = UnderTest::prepare(&command.start, sink.far_side())?;
    under_test.start()?;
    under_test.await_greeting(command.start.relay_start)?;
    let relay = under_test.pid.ok_or("the relay has no process")?;
    let shared = Shared::new(command, &common, under_test.address)?;
    let mut holder = Holder::new(command, shared, relay, stop)?;
    let mut report = holder.rounds()?;
    report.relay_version = under_test.version();
    report.relay_died = under_test.ended_by_itself();
    report.relay_end = under_test.stop();
    report.ledger = holder.shared.ledger.verdict(holder.shared.taken());
    report.interrupted = stop.is_set();
    Ok((report, under_test))
}

fn start_sink(common: &Common) -> Result<Sink, Failure> {
    #[derive(clap::Parser)]
    struct Defaults {
        #[command(flatten)]
        sink: SinkOptions,
    }
    let defaults: Defaults = clap::Parser::try_parse_from(["sink"])?;
    common.start_sink(&defaults.sink, SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// What all tasks share.
struct Shared {
    manner: Manner,
    tls: Arc<ClientConfig>,
    ledger: Arc<Ledger>,
    composer: Composer,
    clock: Clock,
    per_local_address: u32,
    limit: Duration,
    /// The next message.
    next: AtomicU64,
    /// Connections taken up so far.
    begun: AtomicU64,
}

impl Shared {
    fn new(command: &HoldCommand, common: &Common, relay: SocketAddr) -> Result<Self, Failure> {
        Ok(Self {
            manner: Manner::new(relay, &command.source),
            tls: tls::client_config(&command.source).map_err(|error| error.to_string())?,
            ledger: common.ledger.clone(),
            composer: common.composer.clone(),
            clock: common.clock,
            per_local_address: command.per_local_address,
            limit: Duration::from_secs_f64(command.source.timeout),
            next: AtomicU64::new(0),
            begun: AtomicU64::new(0),
        })
    }

    fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Opens one more connection, which sends `messages` and then rests.
    async fn open_one(&self, messages: u32) -> Result<Link, String> {
        let opening = async {
            let mut link = self.connect().await.map_err(|error| error.to_string())?;
            for _ in 0..messages {
                self.send(&mut link).await?;
            }
            link.rest();
            Ok(link)
        };
        let opened = timeout(self.limit, opening).await;
        opened.unwrap_or_else(|_| Err("timed out".into()))
    }

    async fn connect(&self) -> Result<Link, OpenError> {
        let index = self.begun.fetch_add(1, Ordering::Relaxed);
        let stream = match self.local_address(index) {
            None => TcpStream::connect(self.manner.address).await?,
            Some(local) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(local.into(), 0))?;
                socket.connect(self.manner.address).await?
            }
        };
        Link::over(stream, &self.manner, self.tls.clone()).await
    }

    /// Where connection `index` comes from, if that matters: a local address has only so many
    /// ports towards one port of the relay.
    fn local_address(&self, index: u64) -> Option<Ipv4Addr> {
        let block = u32::try_from(index / u64::from(self.per_local_address)).ok()?;
        match self.manner.address.ip() {
            IpAddr::V4(relay) if relay.is_loopback() && block > 0 => {
                Some(Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + block))
            }
            _ => None,
        }
    }

    /// Sends a message and writes its fate down; an error if it was not accepted.
    async fn send(&self, link: &mut Link) -> Result<(), String> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let now_us = self.clock.now_us();
        let sent = link.send(&self.manner, &self.composer, n, now_us).await;
        let fate = match &sent {
            Ok(answer) if answer.is_accepted() => Fate::Accepted,
            Ok(_) => Fate::Refused,
            Err(_) => Fate::Open,
        };
        for i in 0..self.composer.addressing.recipients {
            self.ledger.source_says(n, i, fate);
        }
        match sent {
            Ok(answer) if answer.is_accepted() => Ok(()),
            Ok(answer) => Err(format!("a message was refused: {}", answer.refusal)),
            Err(_) => Err("the connection broke within a message".into()),
        }
    }
}

struct Holder<'a> {
    command: &'a HoldCommand,
    stop: &'a StopFlag,
    shared: Arc<Shared>,
    relay: u32,
    runtime: Runtime,
    links: Vec<Link>,
    report: HoldReport,
}

impl<'a> Holder<'a> {
    fn new(
        command: &'a HoldCommand,
        shared: Shared,
        relay: u32,
        stop: &'a StopFlag,
    ) -> Result<Self, Failure> {
        let threads = command.source.source_threads;
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.unwrap_or_else(default_threads))
            .enable_all()
            .build()?;
        let report = HoldReport {
            version: env!("CARGO_PKG_VERSION").to_string(),
            note: command.output.note.clone(),
            command: std::env::args().collect(),
            machine: Machine::here(shared.clock.now_us() / 1_000_000),
            asked: command.source.connections,
            messages_first: command.messages_first,
            ..HoldReport::default()
        };
        Ok(Self {
            command,
            stop,
            shared: Arc::new(shared),
            relay,
            runtime,
            links: Vec::new(),
            report,
        })
    }

    fn rounds(&mut self) -> Result<HoldReport, Failure> {
        let all = self.command.source.connections as usize;
        // Also warms the relay up, so that what it needs once is not charged to connections.
        self.report.honest_before = self.honest();
        self.report.memory.none = self.resident()?;
        self.report.cores_before = self.cores();
        self.say("opening connections");
        self.open(all / 2)?;
        self.report.memory.half = self.resident()?;
        self.open(all)?;
        self.report.memory.all = self.resident()?;
        self.say("watching them");
        self.report.cores_held = self.cores();
        self.report.honest_beside = self.honest();
        self.report.opened = self.links.len() as u64;
        self.report.alive = self.ask_all();
        self.close_all();
        self.report.memory.after = self.resident()?;
        let mut report = std::mem::take(&mut self.report);
        report.work_out();
        Ok(report)
    }

    fn say(&self, what: &str) {
        if !self.command.output.quiet {
            eprintln!("{what} ({} open)", grouped(self.links.len() as u64));
        }
    }

    /// Opens connections until `wanted` are there, or one fails.
    fn open(&mut self, wanted: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let cpu_us = self.cpu_us();
        let mut left = wanted.saturating_sub(self.links.len());
        let messages = self.command.messages_first;
        let (shared, links) = (&self.shared, &mut self.links);
        let opening = self.command.opening as usize;
        let stop = self.stop;
        let failure = self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            loop {
                while left > 0 && tasks.len() < opening && !stop.is_set() {
                    left -= 1;
                    let shared = shared.clone();
                    tasks.spawn(async move { shared.open_one(messages).await });
                }
                match tasks.join_next().await {
                    None => return None,
                    Some(Ok(Ok(link))) => links.push(link),
                    Some(Ok(Err(error))) => return Some(error),
                    Some(Err(error)) => return Some(error.to_string()),
                }
            }
        });
        self.report.open_seconds += began.elapsed().as_secs_f64();
        self.report.relay_cpu_us_per_open += (self.cpu_us() - cpu_us) as f64;
        self.report.failure = self.report.failure.take().or(failure);
        match &self.report.failure {
            Some(why) if self.links.is_empty() => Err(why.clone().into()),
            _ => Ok(()),
        }
    }

    fn cpu_us(&self) -> u64 {
        usage_of_tree(self.relay).map_or(0, |usage| usage.cpu_us())
    }

    /// Memory once everything accepted has arrived and the relay has had a rest.
    fn resident(&self) -> Result<Resident, Failure> {
        let began = Instant::now();
        while self.shared.ledger.outstanding() > 0 && began.elapsed() < PATIENCE {
            std::thread::sleep(TICK);
        }
        std::thread::sleep(REST);
        Ok(resident_of_tree(self.relay).ok_or("the relay is gone")?)
    }

    /// Cores that the relay uses while nobody does anything.
    fn cores(&self) -> f64 {
        let (began, before) = (Instant::now(), ThreadTimes::of_tree(self.relay));
        self.wait(Duration::from_secs_f64(self.command.hold));
        let used = ThreadTimes::of_tree(self.relay).since(&before);
        used.as_secs_f64() / began.elapsed().as_secs_f64()
    }

    fn wait(&self, most: Duration) {
        let deadline = Instant::now() + most;
        while Instant::now() < deadline && !self.stop.is_set() {
            std::thread::sleep(TICK);
        }
    }

    /// An honest client, for the time that connections are watched.
    fn honest(&self) -> Honest {
        let deadline = Instant::now() + Duration::from_secs_f64(self.command.hold);
        let (to_250, to_ready) = (Latencies::new(1), Latencies::new(1));
        let shared = &self.shared;
        let mut failed = 0;
        self.runtime.block_on(async {
            while Instant::now() < deadline && !self.stop.is_set() {
                let served = be_honest(shared, &to_250, &to_ready);
                let served = timeout(shared.limit, served).await;
                failed += u64::from(!matches!(served, Ok(Ok(()))));
            }
        });
        Honest {
            to_250_us: to_250.figures(),
            to_ready_us: to_ready.figures(),
            failed,
        }
    }

    /// NOOP over every connection; how many were answered.
    fn ask_all(&mut self) -> u64 {
        let (limit, links) = (self.shared.limit, &mut self.links);
        for link in links.iter() {
            match link.handshake {
                Some(HandshakeKind::Resumed) => self.report.handshakes_resumed += 1,
                Some(_) => self.report.handshakes_full += 1,
                None => {}
            }
        }
        self.runtime.block_on(async {
            let mut waiting = std::mem::take(links).into_iter();
            let mut tasks = JoinSet::new();
            let mut alive = 0;
            loop {
                while let Some(mut link) = (tasks.len() < ASKING).then(|| waiting.next()).flatten()
                {
                    tasks.spawn(async move {
                        let answered = timeout(limit, link.is_alive()).await;
                        (link, answered.unwrap_or(false))
                    });
                }
                match tasks.join_next().await {
                    None => return alive,
                    Some(Ok((link, answered))) => {
                        links.push(link);
                        alive += u64::from(answered);
                    }
                    Some(Err(_)) => {}
                }
            }
        })
    }

    /// Closes all, and waits until the relay has noticed.
    fn close_all(&mut self) {
        let links = std::mem::take(&mut self.links);
        self.runtime.block_on(async { drop(links) });
        let before = self.report.memory.none.descriptors;
        let began = Instant::now();
        let open = || resident_of_tree(self.relay).map_or(0, |memory| memory.descriptors);
        while open() > before + LATE_DESCRIPTORS && began.elapsed() < PATIENCE {
            std::thread::sleep(TICK * 5);
        }
    }
}

async fn be_honest(
    shared: &Shared,
    to_250: &Latencies,
    to_ready: &Latencies,
) -> Result<(), String> {
    let began = Instant::now();
    let mut link = shared.connect().await.map_err(|error| error.to_string())?;
    to_ready.record(0, began.elapsed().as_micros() as u64);
    for _ in 0..HONEST_MESSAGES {
        sleep(HONEST_PAUSE).await;
        let began = Instant::now();
        shared.send(&mut link).await?;
        to_250.record(0, began.elapsed().as_micros() as u64);
    }
    link.quit().await;
    Ok(())
}
