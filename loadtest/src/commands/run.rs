//! One run: sink, relay and source together, from the first message until everything accepted has
//! arrived. Not here: what the figures look like (`report`).

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::commands::progress::{Beside, Goal, Progress};
use crate::figures::histogram::LatencyWatch;
use crate::figures::report::{RelayFigures, Report};
use crate::figures::timeline::{Sample, Timeline};
use crate::host::clock::{Clock, rfc5322_date};
use crate::host::files;
use crate::host::process::{Relay, RelayCommand, Usage, free_address, usage_of_tree};
use crate::host::random::fresh_seed;
use crate::ledger::Ledger;
use crate::mail::address::Addressing;
use crate::mail::message::Composer;
use crate::options::{
    JudgeOptions, RelayOptions, RunCommand, SinkOptions, SourceOptions, settings,
};
use crate::relay::log::{self, RelayCounters};
use crate::sink::hosts::Hosts;
use crate::sink::{Book, FarSide, Sink};
use crate::source::Source;

/// How often the run looks at what happens.
const TICK: Duration = Duration::from_millis(20);

/// How long a connection, and then a greeting, may take.
const GREETING_WAIT: Duration = Duration::from_secs(1);

pub type Failure = Box<dyn std::error::Error>;

/// Set by SIGINT and SIGTERM: the run stops sending, and reports what it has.
#[derive(Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Listens for signals on a thread of its own.
    pub fn on_signals() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let flag = Self::default();
        let setter = flag.clone();
        let runtime = crate::host::workers::new_runtime()?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        std::thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            setter.set();
        });
        Ok(flag)
    }
}

/// What source, sink and ledger need to agree on.
pub struct Common {
    pub clock: Clock,
    pub seed: u64,
    pub ledger: Arc<Ledger>,
    pub composer: Composer,
}

impl Common {
    pub fn new(options: &SourceOptions) -> Result<Self, Failure> {
        options.check()?;
        let clock = Clock::start();
        let seed = options.seed.unwrap_or_else(fresh_seed);
        // The seed may be repeated; the run must never be, for old spools may hold old messages.
        let run = format!("{:08x}", fresh_seed() as u32);
        let addressing = Addressing::new(&run, options)?;
        let date = rfc5322_date(clock.now_us() / 1_000_000);
        let composer = Composer::new(addressing.clone(), options.size, seed, date);
        Ok(Self {
            clock,
            seed,
            ledger: Arc::new(Ledger::new(addressing)),
            composer,
        })
    }

    pub fn start_sink(&self, options: &SinkOptions, address: SocketAddr) -> Result<Sink, Failure> {
        options.check()?;
        let book = Book::Run(self.ledger.clone());
        let hosts = match options.mx.mx_hosts {
            Some(_) => Hosts::new(&self.ledger.addressing.domain_names()?, &options.mx)?,
            None => Hosts::one(),
        };
        Ok(Sink::start(
            options, address, book, self.clock, self.seed, hosts,
        )?)
    }

    pub fn start_source(
        &self,
        options: &SourceOptions,
        address: SocketAddr,
    ) -> Result<Source, Failure> {
        let (ledger, composer) = (self.ledger.clone(), self.composer.clone());
        Ok(Source::start(
            options, address, ledger, composer, self.clock,
        )?)
    }
}

/// The relay under test: where it is, and what is known of its process.
pub struct UnderTest {
    pub address: SocketAddr,
    pub command: Option<RelayCommand>,
    pub process: Option<Relay>,
    pub pid: Option<u32>,
    scratch: Scratch,
}

impl UnderTest {
    /// Source straight into sink, or a relay that runs anyway.
    pub fn elsewhere(address: SocketAddr, pid: Option<u32>) -> Self {
        Self {
            address,
            command: None,
            process: None,
            pid,
            scratch: Scratch::default(),
        }
    }

    /// Prepares a spool and a log; `start` starts it.
    pub fn prepare(options: &RelayOptions, sink: FarSide) -> Result<Self, Failure> {
        let Some(command) = &options.relay_cmd else {
            return Err(
                "what is to be tested? --relay-cmd, or in a run --relay or --direct".into(),
            );
        };
        if options.relay_listen.port() == 0 && !command.contains("{listen") {
            return Err(
                "--relay-cmd says nowhere that the relay is to listen on {listen} (or \
                        {listen_ip} and {listen_port}); for a fixed address give --relay-listen"
                    .into(),
            );
        }
        let address = free_address(options.relay_listen)?;
        let mut scratch = Scratch::default();
        let spool = match &options.spool {
            Some(spool) => spool.clone(),
            None => scratch.directory()?.join("spool"),
        };
        fs::create_dir_all(&spool)?;
        let log = match &options.relay_log {
            Some(log) => log.clone(),
            None => scratch.directory()?.join("relay.log"),
        };
        let spool = spool.to_str().ok_or("the spool's path is not UTF-8")?;
        let command = RelayCommand::new(command, address, sink, spool, log)?;
        Ok(Self {
            address,
            command: Some(command),
            process: None,
            pid: None,
            scratch,
        })
    }

    pub fn start(&mut self) -> Result<(), Failure> {
        let Some(command) = &self.command else {
            return Ok(());
        };
        let relay = command
            .start()
            .map_err(|error| format!("cannot start the relay: {error}"))?;
        self.pid = Some(relay.pid());
        self.process = Some(relay);
        Ok(())
    }

    /// What the relay under test is, if it says so.
    pub fn version(&self) -> Option<String> {
        self.command.as_ref().and_then(RelayCommand::version)
    }

    /// Waits until the relay greets.
    pub fn await_greeting(&mut self, seconds: f64) -> Result<(), Failure> {
        self.await_greeting_and(seconds, |_| std::thread::sleep(TICK))
    }

    /// The same, and does something else (which takes a moment) between its attempts.
    pub fn await_greeting_and(
        &mut self,
        seconds: f64,
        mut meanwhile: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        let mut why = String::new();
        while Instant::now() < deadline {
            if self.ended_by_itself() {
                return Err(format!("the relay ended at once:\n{}", self.log_tail()).into());
            }
            match greets(self.address) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
            meanwhile(self);
        }
        let log = self.log_tail();
        Err(format!("{} does not greet: {why}\n{log}", self.address)
            .trim_end()
            .into())
    }

    pub fn ended_by_itself(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_some())
    }

    /// The last lines of what the relay wrote.
    pub fn log_tail(&self) -> String {
        self.command
            .as_ref()
            .map(RelayCommand::log_tail)
            .unwrap_or_default()
    }

    /// What the relay said of itself when it ended.
    pub fn counters(&self) -> Option<RelayCounters> {
        let command = self.command.as_ref()?;
        log::last_counters(&command.log).ok().flatten()
    }

    pub fn usage(&self) -> Option<Usage> {
        self.pid.and_then(usage_of_tree)
    }

    /// Stops the relay, if it was started here; says how it went.
    pub fn stop(&mut self) -> Option<String> {
        let stopped = self.process.as_mut()?.stop();
        self.process = None;
        Some(stopped.to_string())
    }

    /// See [`Scratch::tidy`].
    pub fn tidy(&mut self, clean: bool) {
        self.scratch.tidy(clean);
    }
}

/// A temporary directory for spools and logs, made when it is first asked for.
#[derive(Default)]
pub struct Scratch(Option<PathBuf>);

impl Scratch {
    pub fn directory(&mut self) -> io::Result<&Path> {
        let path = match self.0.take() {
            Some(path) => path,
            None => scratch_directory()?,
        };
        Ok(self.0.insert(path))
    }

    /// Removes the directory after a clean run; otherwise (also when dropped without this) says
    /// where it is.
    pub fn tidy(&mut self, clean: bool) {
        let Some(path) = self.0.take() else {
            return;
        };
        if clean {
            let _ = fs::remove_dir_all(path);
        } else {
            eprintln!("spool and log of the relay are kept in {}", path.display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.tidy(false);
    }
}

fn scratch_directory() -> io::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("ringpost-loadtest-{:016x}", fresh_seed()));
    fs::create_dir(&path)?;
    Ok(path)
}

/// A connection, or what to do about none.
pub fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect_timeout(&address, GREETING_WAIT).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the connection was refused: nobody listens there (ss -ltn shows who listens where)"
                .to_string()
        }
        _ => format!("no connection: {error}"),
    })
}

fn greets(address: SocketAddr) -> Result<(), String> {
    let mut stream = connect(address)?;
    // With implicit TLS nothing is said before the handshake; that counts as ready, too.
    let mut greeting = [0; 3];
    let _ = stream.set_read_timeout(Some(GREETING_WAIT));
    match stream.read(&mut greeting) {
        Ok(0) => Err("the connection is closed without a greeting".to_string()),
        Ok(read) if greeting[..read] == b"220"[..read] => Ok(()),
        Ok(read) => {
            let code = String::from_utf8_lossy(&greeting[..read]);
            Err(format!("its greeting begins with {code:?}"))
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(()),
            _ => Err(error.to_string()),
        },
    }
}

/// CPU time of a relay that may be started anew, when its own count begins at zero again.
#[derive(Default)]
struct RisingCpu {
    before_us: u64,
    last_us: u64,
}

impl RisingCpu {
    /// The time of all its lives, given that of the present one.
    fn add(&mut self, now_us: u64) -> u64 {
        if now_us < self.last_us {
            self.before_us += self.last_us;
        }
        self.last_us = now_us;
        self.before_us + now_us
    }
}

/// Watches a run and keeps samples of it.
pub struct Watch<'a> {
    common: &'a Common,
    pub source: &'a Source,
    sink: &'a Sink,
    stop: &'a StopFlag,
    goal: Goal,
    began: Instant,
    progress: Progress,
    timeline: Timeline,
    to_250: LatencyWatch,
    end_to_end: LatencyWatch,
    relay_cpu: RisingCpu,
    /// Where the run is, in a few words, for the progress.
    pub note: String,
    pub peak_rss_bytes: u64,
}

impl<'a> Watch<'a> {
    pub fn new(
        common: &'a Common,
        source: &'a Source,
        sink: &'a Sink,
        stop: &'a StopFlag,
        goal: Goal,
        quiet: bool,
    ) -> Self {
        Self {
            common,
            source,
            sink,
            stop,
            goal,
            began: Instant::now(),
            progress: Progress::new(quiet),
            timeline: Timeline::new(),
            to_250: LatencyWatch::new(),
            end_to_end: LatencyWatch::new(),
            relay_cpu: RisingCpu::default(),
            note: String::new(),
            peak_rss_bytes: 0,
        }
    }

    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub fn is_interrupted(&self) -> bool {
        self.stop.is_set()
    }

    /// Waits a moment, and takes a sample when one is due.
    pub fn tick(&mut self, under_test: &UnderTest) {
        self.tick_at_most(under_test, TICK);
    }

    /// The same, but waits no longer than `limit`.
    pub fn tick_at_most(&mut self, under_test: &UnderTest, limit: Duration) {
        self.look(under_test);
        std::thread::sleep(TICK.min(limit));
    }

    /// Takes a sample for the timeline and for the progress, if either is due.
    fn look(&mut self, under_test: &UnderTest) {
        let keep = self.timeline.is_due(self.seconds());
        if !keep && !self.progress.is_due() {
            return;
        }
        let sample = self.sample(under_test);
        if keep {
            self.keep(sample);
        }
        if self.progress.is_due() {
            let beside = Beside {
                goal: self.goal,
                to_250_p99_us: self.to_250.p99_us,
                end_to_end_p99_us: self.end_to_end.p99_us,
                note: &self.note,
            };
            self.progress.show(&sample, &beside);
        }
    }

    fn keep(&mut self, mut sample: Sample) {
        sample.to_250_p99_us = self.to_250.p99_us_since(&self.source.shared.to_250);
        sample.end_to_end_p99_us = self.end_to_end.p99_us_since(&self.sink.shared.end_to_end);
        self.timeline.push(sample);
    }

    /// The samples, with a last one of now.
    pub fn into_samples(mut self, under_test: &UnderTest) -> Vec<Sample> {
        let last = self.sample(under_test);
        self.keep(last);
        self.timeline.into_samples()
    }

    fn sample(&mut self, under_test: &UnderTest) -> Sample {
        let usage = under_test.usage().unwrap_or_default();
        self.peak_rss_bytes = self.peak_rss_bytes.max(usage.peak_rss_bytes);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ledger = &self.common.ledger;
        let (source, sink) = (&self.source.shared.counters, &self.sink.shared.counters);
        Sample {
            seconds: self.seconds(),
            accepted: ledger.accepted(),
            arrived: ledger.arrivals(),
            outstanding: ledger.outstanding(),
            messages_accepted: get(&source.accepted),
            messages_arrived: sink.messages(),
            relay_cpu_us: self.relay_cpu.add(usage.cpu_us()),
            relay_rss_bytes: usage.rss_bytes,
            source_cpu_us: self.source.meter.cpu_us(),
            sink_cpu_us: self.sink.meter.cpu_us(),
            connections_in: get(&source.connections),
            connections_out: get(&sink.connections),
            handshakes_in_full: get(&source.handshakes_full),
            handshakes_in_resumed: get(&source.handshakes_resumed),
            handshakes_out_full: get(&sink.handshakes_full),
            handshakes_out_resumed: get(&sink.handshakes_resumed),
            errors: get(&source.connections_failed)
                + get(&source.refused)
                + get(&source.open)
                + get(&sink.handshakes_failed)
                + get(&sink.protocol_errors),
            ..Sample::default()
        }
    }

    /// Until everything accepted is settled, or nothing has moved for `settle` seconds.
    pub fn settle(&mut self, under_test: &UnderTest, judge: &JudgeOptions) {
        let ledger = &self.common.ledger;
        let patience = Duration::from_secs_f64(judge.settle);
        let mut settled = ledger.settled();
        let mut moved = Instant::now();
        while ledger.outstanding() > 0 && moved.elapsed() < patience && !self.is_interrupted() {
            self.tick(under_test);
            if ledger.settled() != settled {
                settled = ledger.settled();
                moved = Instant::now();
            }
        }
    }

    /// Until nothing more has arrived for the time that late duplicates may take.
    pub fn linger(&mut self, under_test: &UnderTest, judge: &JudgeOptions) {
        let patience = Duration::from_millis(judge.linger_ms);
        let mut arrived = self.common.ledger.arrivals();
        let mut moved = Instant::now();
        while moved.elapsed() < patience && !self.is_interrupted() {
            self.tick(under_test);
            if self.common.ledger.arrivals() != arrived {
                arrived = self.common.ledger.arrivals();
                moved = Instant::now();
            }
        }
    }
}

/// Runs, prints, and says whether all is well.
pub fn run(command: &RunCommand, stop: &StopFlag) -> Result<bool, Failure> {
    let (report, mut under_test) = measure(command, stop)?;
    let clean = report.is_clean();
    print!("{report}");
    report.write_files(&command.output)?;
    under_test.tidy(clean);
    Ok(clean)
}

/// The run itself.
pub fn measure(command: &RunCommand, stop: &StopFlag) -> Result<(Report, UnderTest), Failure> {
    let common = Common::new(&command.source)?;
    let sink = common.start_sink(&command.sink, command.sink_listen)?;
    let mut under_test = under_test(command, sink.far_side())?;
    under_test.start()?;
    under_test.await_greeting(command.start.relay_start)?;
    let usage_before = under_test.usage();
    let sink_before = sink.figures();
    let mut source = common.start_source(&command.source, under_test.address)?;
    let limit = command.source.message_limit();
    let goal = Goal {
        messages: Some(limit).filter(|&limit| limit < u64::MAX),
        seconds: command.source.duration,
    };
    let mut watch = Watch::new(&common, &source, &sink, stop, goal, command.output.quiet);
    load(&mut watch, &mut under_test, command.source.duration);
    watch.settle(&under_test, &command.judge);
    let usage = under_test.usage();
    watch.linger(&under_test, &command.judge);
    let peak = watch.peak_rss_bytes;
    let samples = watch.into_samples(&under_test);
    source.join();
    let relay_died = under_test.ended_by_itself();
    let relay_end = under_test.stop();
    let relay = usage_before.zip(usage).map(|(before, after)| RelayFigures {
        user_us: after.user_us.saturating_sub(before.user_us),
        system_us: after.system_us.saturating_sub(before.system_us),
        peak_rss_bytes: peak.max(after.peak_rss_bytes),
    });
    let mut report = Report::new(&common, &source, &sink);
    report.leave_out_connections(&sink_before);
    report.relay = relay;
    report.relay_version = under_test.version();
    report.relay_end = relay_end;
    report.relay_counters = under_test.counters();
    report.timeline = samples;
    report.settings = settings(&command.source, &command.sink);
    report.note = command.output.note.clone();
    report.direct = command.direct;
    report.asked = command.source.duration.is_none().then_some(limit);
    report.relay_died = relay_died;
    report.interrupted = stop.is_set();
    report.allow_duplicates = command.judge.allow_duplicates;
    report.finish();
    Ok((report, under_test))
}

fn under_test(command: &RunCommand, sink: FarSide) -> Result<UnderTest, Failure> {
    if command.direct {
        if sink.dns.is_some() {
            return Err("--direct knows no MX hosts".into());
        }
        return Ok(UnderTest::elsewhere(sink.sink, None));
    }
    match command.relay {
        Some(address) => Ok(UnderTest::elsewhere(address, command.relay_pid)),
        None => UnderTest::prepare(&command.start, sink),
    }
}

/// Until the source is done: by itself, by its duration, by a signal, or because the relay died.
fn load(watch: &mut Watch<'_>, under_test: &mut UnderTest, duration: Option<f64>) {
    while !watch.source.is_finished() {
        watch.tick(under_test);
        let over = duration.is_some_and(|duration| watch.seconds() >= duration);
        if over || watch.is_interrupted() || under_test.ended_by_itself() {
            watch.source.stop();
        }
    }
}

/// Writes a source's ledger file.
pub fn write_ledger(ledger: &Ledger, messages: u64, path: &Path) -> io::Result<()> {
    let mut out = io::BufWriter::new(files::create(path)?);
    ledger.write_fates(messages, &mut out)?;
    io::Write::flush(&mut out)
}
