//! Starts the cores, and brings them to their end.
//!
//! ```text
//! run: ports, user, keys, spool, sandbox -> one thread per core -> control until told to stop -> exit
//! ```

mod confinement;
mod control;
mod core;
pub mod log;
pub mod placement;
mod service;
mod shared;

use crate::config::relay::RelayPolicy;
use crate::config::{CertificateSource, Config, LogLevel, SpoolDurability};
use crate::handoff::job::{Job, Message, ToCore};
use crate::handoff::memory::Memory;
use crate::handoff::{Handoff, lanes};
use crate::io::file::Durability;
use crate::io::net::Bound;
use crate::io::{clock, cpu, handed_over, limits, runtime};
use crate::listener::{AddressCounts, Load};
use crate::log::{Line, Log, Shown, event};
use crate::metrics::{CoreMetrics, Counter};
use crate::privilege::{self, Identity, Sealed};
use crate::remote::route::RouteTable;
use crate::schedule::outcome::RecipientState;
use crate::session::rates::Rates;
use crate::spool::{self, RecoveredMessage};
use crate::tls::{self, ServerKeys, TrustAnchors};
use confinement::{Confinement, Process};
use control::{Control, Stopped};
use core::Seed;
use placement::{CoreSpec, Topology, explain, place};
use shared::Shared;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the last log lines may take to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// How long a port that is taken is waited for, ...
const PREDECESSOR_WAIT: Duration = Duration::from_secs(3);
/// ... and how long between two looks.
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// A socket of that name (`FileDescriptorName=`) speaks TLS from the first byte.
const IMPLICIT_TLS_NAME: &str = "smtps";

/// Why the relay did not start: what was tried, and what went wrong.
struct StartError(String);

impl StartError {
    fn new(what: impl fmt::Display) -> impl FnOnce(Box<dyn fmt::Display>) -> StartError {
        move |why| StartError(format!("{what}: {why}"))
    }
}

/// Adds what was being done to an error.
trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T, StartError>;
}

impl<T, E: fmt::Display + 'static> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, StartError> {
        self.map_err(|error| StartError::new(what)(Box::new(error)))
    }
}

/// Runs the relay until it is told to stop. Ends the process's threads by ending the process: the
/// rings are never dropped with operations in flight.
pub fn run(config: Config) -> ExitCode {
    let opened = privilege::harden(config.privileges.core_dumps)
        .and_then(|()| privilege::refuse_huge_pages())
        .context("the process")
        .and_then(|()| open_log(&config));
    let writer = match opened {
        Ok(writer) => writer,
        Err(StartError(complaint)) => {
            eprintln!("ringpost: {complaint}");
            return ExitCode::FAILURE;
        }
    };
    let log = writer.log();
    let code = match run_until_stopped(config, &writer, &log) {
        Ok(Stopped::Drained) => ExitCode::SUCCESS,
        Ok(Stopped::AtOnce) => ExitCode::SUCCESS,
        Err(StartError(complaint)) => {
            eprintln!("ringpost: {complaint}");
            ExitCode::FAILURE
        }
    };
    log.flush(clock::wall_time());
    writer.stop(LOG_PATIENCE);
    code
}

/// The log file is the relay's user's, so that it can be opened anew after a rotation.
fn open_log(config: &Config) -> Result<log::Writer, StartError> {
    let owner = confinement::future_identity(config, Process::Own)?;
    log::Writer::open(&config.log, &owner).context("cannot open the log")
}

fn run_until_stopped(
    config: Config,
    writer: &log::Writer,
    log: &Log,
) -> Result<Stopped, StartError> {
    // Before anything else: a signal that comes early must not end the process by its default.
    let control = Control::new().context("the control thread")?;
    let running = start(config, Process::Own, writer, log)?;
    let stopped = control.run(&running.shared, &running.handoff, writer, log);
    let mut line = log.line(LogLevel::Info, event::STOP, clock::wall_time());
    line.field(
        "how",
        match stopped {
            Stopped::Drained => "drained",
            Stopped::AtOnce => "at once; unfinished mail stays in the spool",
        },
    );
    drop(line);
    running.keep_lock();
    Ok(stopped)
}

/// A relay within another program, such as a benchmark. Signals are that program's own matter.
///
/// Its threads, drained or not, and its lock on the spool end with the process.
pub struct Relay {
    running: Running,
    writer: log::Writer,
    log: Log,
}

impl Relay {
    /// Starts a relay; it listens when this returns.
    ///
    /// # Errors
    /// What was tried, and what went wrong.
    pub fn start(config: Config) -> Result<Relay, String> {
        let writer = log::Writer::start(&config.log).map_err(|error| error.to_string())?;
        let log = writer.log();
        match start(config, Process::Host, &writer, &log) {
            Ok(running) => Ok(Relay {
                running,
                writer,
                log,
            }),
            Err(StartError(complaint)) => Err(complaint),
        }
    }

    /// Where it listens, and whether TLS comes first there.
    pub fn listening(&self) -> &[(SocketAddr, bool)] {
        &self.running.shared.listening
    }

    /// Brings everything under way to its end; false if that took longer than `--drain-timeout`.
    pub fn stop(self) -> bool {
        let Running {
            shared, handoff, ..
        } = &self.running;
        let drained = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .is_ok_and(|runtime| {
                let wait = shared.config.listen.drain_timeout;
                let drained =
                    async { tokio::time::timeout(wait, control::drain(shared, handoff)).await };
                runtime.block_on(drained).is_ok()
            });
        self.log.flush(clock::wall_time());
        self.writer.stop(LOG_PATIENCE);
        self.running.keep_lock();
        drained
    }
}

/// All cores are at work.
struct Running {
    shared: Arc<Shared>,
    /// Ours, as the one that tells cores to stop.
    handoff: Handoff<ToCore>,
    directory: spool::directory::Directory,
}

impl Running {
    /// The lock on the spool is held until the process has ended.
    fn keep_lock(self) {
        std::mem::forget(self.directory);
    }
}

fn start(
    config: Config,
    process: Process,
    writer: &log::Writer,
    log: &Log,
) -> Result<Running, StartError> {
    let descriptors = limits::raise_descriptors().context("raising the limit on descriptors")?;
    let topology = Topology::of_this_host().context("finding the CPUs")?;
    let specs = place(&config.cores, &topology).context("placing threads")?;
    // Whose threads are not tied shares its CPUs with others, which it may push off.
    let is_patient = process == Process::Own && config.cores.pin;
    let impatience = is_patient.then(cpu::wake_patiently).and_then(Result::err);
    let listeners = bind(&config, &specs)?;
    let given_keys = load_given_keys(&config, &confinement::future_identity(&config, process)?)?;
    let confinement = Confinement::begin(&config, process)?;
    let (keys, certificate) = match given_keys {
        Some(given) => given,
        None => load_keys(&config, confinement.identity())?,
    };
    let opened = open_spool(&config, specs.len())?;
    let identity = confinement.identity().clone();
    let shared = Arc::new(share(config, specs, identity, keys, &listeners)?);
    listen(&shared, &listeners)?;
    let sealed = confinement.finish(&shared.config)?;
    writer.begin().context("starting the thread of the log")?;

    say_hello(&shared, log, &certificate, &opened, |line| {
        line.field("descriptors", descriptors);
        say_privileges(line, confinement.identity(), sealed.as_ref());
    });
    let mut hints = confinement.hints().to_vec();
    hints.extend(impatience.map(|error| {
        format!(
            "the scheduling policy SCHED_BATCH was refused ({error}): mail costs a little more CPU; \
             whatever the relay runs in should allow the system call sched_setscheduler"
        )
    }));
    say_hints(&shared, &hints, log);
    let (mut handoffs, own_handoff) = all_lanes(&shared);
    let mut recovered = distribute(&shared, opened.messages);
    let (report, started) = mpsc::channel();
    let mut listeners = listeners.into_iter();
    for (number, part) in opened.parts.into_iter().enumerate() {
        let spec = shared.specs[number];
        let seed = Seed {
            number,
            spec,
            shared: shared.clone(),
            handoff: handoffs.remove(0),
            spool: part,
            listeners: match spec.ingress {
                true => listeners.next().unwrap_or_default(),
                false => Vec::new(),
            },
            recovered: std::mem::take(&mut recovered[number].jobs),
            kept: std::mem::take(&mut recovered[number].kept),
            log: writer.log(),
        };
        spawn_core(seed, report.clone())?;
    }
    drop(report);
    wait_for_start(&started, shared.specs.len())?;
    say_ready(&shared, log);
    Ok(Running {
        shared,
        handoff: own_handoff,
        directory: opened.directory,
    })
}

/// What only root may be able to read is read before root is given up.
fn load_given_keys(
    config: &Config,
    owner: &Identity,
) -> Result<Option<(ServerKeys, String)>, StartError> {
    match &config.tls.certificate {
        CertificateSource::Generated { .. } => Ok(None),
        CertificateSource::Files { .. } => load_keys(config, owner).map(Some),
    }
}

fn load_keys(config: &Config, owner: &Identity) -> Result<(ServerKeys, String), StartError> {
    confinement::check_keys(config, owner)?;
    match &config.tls.certificate {
        CertificateSource::Files { chain, key } => {
            let keys = tls::certificate::load(chain, key).context("the certificate for clients")?;
            Ok((keys, format!("from {}", chain.display())))
        }
        CertificateSource::Generated { dir } => {
            let (keys, origin) =
                tls::certificate::load_or_generate(dir, &config.tls.hostname, clock::wall_time())
                    .context("the certificate for clients")?;
            Ok((keys, origin.to_string()))
        }
    }
}

/// The part of a path that is there already.
fn existing_part(path: &Path) -> &Path {
    path.ancestors()
        .find(|part| part.exists())
        .unwrap_or(Path::new("."))
}

fn open_spool(config: &Config, cores: usize) -> Result<spool::Opened, StartError> {
    let cores = u16::try_from(cores).context("the number of threads")?;
    let settings = spool::Settings {
        segment_bytes: config.spool.segment_bytes,
        spool_bytes_max: config.spool.bytes_max,
        keep_free_bytes: config
            .spool
            .keep_free_bytes
            .unwrap_or_else(|| spool::keep_free_bytes(existing_part(&config.spool.dir))),
        durability: match config.spool.durability {
            SpoolDurability::Auto => None,
            SpoolDurability::Direct => Some(Durability::Direct),
            SpoolDurability::Buffered => Some(Durability::Buffered),
        },
        ..spool::Settings::default()
    };
    spool::open(&config.spool.dir, &settings, cores).context("the spool")
}

/// For each ingress core its sockets, with whether TLS comes first. Sockets that a service manager
/// hands over stand in the place of all that the flags name.
fn bind(config: &Config, specs: &[CoreSpec]) -> Result<Vec<Vec<(Bound, bool)>>, StartError> {
    let cores = specs.iter().filter(|spec| spec.ingress).count();
    let handed_over = handed_over::listeners().context("sockets of the service manager")?;
    match handed_over.is_empty() {
        true => bind_own(config, cores),
        false => share_out(handed_over, cores),
    }
}

/// All cores accept from the same queue: the ports may be out of our reach, so none gets one of
/// its own.
fn share_out(
    handed_over: Vec<(Bound, String)>,
    cores: usize,
) -> Result<Vec<Vec<(Bound, bool)>>, StartError> {
    let share = |(bound, name): &(Bound, String)| {
        let bound = bound
            .share()
            .context(format!("sharing {}", bound.address()))?;
        Ok((bound, name == IMPLICIT_TLS_NAME))
    };
    (0..cores)
        .map(|_| handed_over.iter().map(share).collect())
        .collect()
}

/// Every ingress core gets its own socket on each address.
fn bind_own(config: &Config, cores: usize) -> Result<Vec<Vec<(Bound, bool)>>, StartError> {
    let plain = config.listen.plain.iter().map(|address| (address, false));
    let implicit = config
        .listen
        .implicit_tls
        .iter()
        .map(|address| (address, true));
    let mut cores: Vec<Vec<(Bound, bool)>> = (0..cores).map(|_| Vec::new()).collect();
    for (address, implicit_tls) in plain.chain(implicit) {
        wait_until_free(*address).context(format!("listening on {address}"))?;
        let mut address = *address;
        for core in &mut cores {
            let bound = Bound::new(address).context(format!("listening on {address}"))?;
            // With port 0 the kernel chooses once, and the other cores follow.
            address = bound.address();
            core.push((bound, implicit_tls));
        }
    }
    Ok(cores)
}

/// A listener of a predecessor that was killed lives on until the kernel has taken its ring apart,
/// a moment after the process has gone; longer on a busy host.
fn wait_until_free(address: SocketAddr) -> io::Result<()> {
    let deadline = clock::now() + PREDECESSOR_WAIT;
    loop {
        match Bound::check_free(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::now() < deadline => {
                thread::sleep(PREDECESSOR_PAUSE);
            }
            result => return result,
        }
    }
}

/// Only now, with the spool recovered, somebody will answer soon.
fn listen(shared: &Shared, listeners: &[Vec<(Bound, bool)>]) -> Result<(), StartError> {
    for (bound, _) in listeners.iter().flatten() {
        bound
            .listen(shared.config.listen.backlog as i32)
            .context(format!("listening on {}", bound.address()))?;
    }
    Ok(())
}

fn share(
    config: Config,
    specs: Vec<CoreSpec>,
    identity: Identity,
    keys: ServerKeys,
    listeners: &[Vec<(Bound, bool)>],
) -> Result<Shared, StartError> {
    let (anchors, complaints) =
        TrustAnchors::load(config.tls.roots.as_deref()).context("trusted certificates")?;
    let mut routes = RouteTable::new(config.delivery.mx_port);
    for route in &config.relay.routes {
        routes
            .add_entry(&route.text, &route.source)
            .context("routes")?;
    }
    let of_role = |role: fn(&CoreSpec) -> bool| -> Vec<usize> {
        (0..specs.len())
            .filter(|core| role(&specs[*core]))
            .collect()
    };
    let (ingress_cores, delivery_cores) = (of_role(|s| s.ingress), of_role(|s| s.delivery));
    Ok(Shared {
        relay: Arc::new(RelayPolicy::new(&config.relay)),
        routes: Arc::new(routes),
        identity,
        keys,
        anchors: Arc::new(anchors),
        anchor_complaints: complaints,
        listening: listeners
            .first()
            .map(|of_core| {
                of_core
                    .iter()
                    .map(|(bound, implicit_tls)| (bound.address(), *implicit_tls))
                    .collect()
            })
            .unwrap_or_default(),
        loads: ingress_cores.iter().map(|_| Load::default()).collect(),
        addresses: Arc::new(AddressCounts::default()),
        rates: Arc::new(Rates::new(&config.listen.rates)),
        memory: Memory::new(specs.len(), config.spool.memory_bytes_max),
        metrics: specs
            .iter()
            .map(|_| Arc::new(CoreMetrics::default()))
            .collect(),
        heartbeats: specs.iter().map(|_| Counter::default()).collect(),
        random_seed: tls::random_u64(),
        ingress_cores,
        delivery_cores,
        specs,
        config,
    })
}

fn all_lanes(shared: &Shared) -> (Vec<Handoff<ToCore>>, Handoff<ToCore>) {
    let mut handoffs = lanes(shared.specs.len() + 1);
    let control = handoffs.pop().expect("one more than there are cores");
    (handoffs, control)
}

/// What of the recovered mail a core gets.
#[derive(Default)]
struct Recovered {
    /// To deliver.
    jobs: Vec<Job>,
    /// To keep in its spool.
    kept: Vec<Arc<Message>>,
}

/// Recovered mail by the core that delivers it, and by the one that is home to it.
fn distribute(shared: &Shared, messages: Vec<RecoveredMessage>) -> Vec<Recovered> {
    let mut cores: Vec<Recovered> = shared.cores().map(|_| Recovered::default()).collect();
    let clocks = (clock::wall_time(), clock::now());
    for (turn, recovered) in messages.into_iter().enumerate() {
        let (message, states) = Message::recovered(recovered, &shared.memory, clocks);
        for (core, job) in recovered_jobs(shared, &message, states, turn) {
            cores[core].jobs.push(job);
        }
        cores[message.home].kept.push(message);
    }
    cores
}

fn recovered_jobs(
    shared: &Shared,
    message: &Arc<Message>,
    states: Vec<RecipientState>,
    turn: usize,
) -> Vec<(usize, Job)> {
    let anywhere = shared.delivery_cores[turn % shared.delivery_cores.len()];
    let recipients = (0..).zip(states).filter(|(_, s)| !s.is_finished());
    shared
        .split_by_core(message, recipients, anywhere)
        .into_iter()
        .map(|(core, recipients)| {
            let job = Job {
                message: message.clone(),
                body: None,
                recipients,
            };
            (core, job)
        })
        .collect()
}

fn spawn_core(seed: Seed, report: mpsc::Sender<Result<(), String>>) -> Result<(), StartError> {
    let name = format!("ringpost-{}", seed.number);
    let body = move || {
        if let Some(cpu) = seed.spec.cpu
            && let Err(error) = cpu::pin_this_thread(cpu)
        {
            let _ = report.send(Err(format!("tying a thread to CPU {cpu}: {error}")));
            return;
        }
        let started = report.clone();
        let ended = runtime::run(core::run(seed, move |result| {
            // Nobody listens any more if another core has failed.
            let _ = started.send(result);
        }));
        if let Err(error) = ended {
            let _ = report.send(Err(format!(
                "an io_uring cannot be made ({error}); it needs Linux 6.1 or newer, and \
                 /proc/sys/kernel/io_uring_disabled to be 0"
            )));
        }
    };
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map(drop)
        .context("starting a thread")
}

fn wait_for_start(
    started: &mpsc::Receiver<Result<(), String>>,
    cores: usize,
) -> Result<(), StartError> {
    for _ in 0..cores {
        match started.recv() {
            Ok(Ok(())) => {}
            Ok(Err(complaint)) => return Err(StartError(complaint)),
            Err(_) => return Err(StartError("a core has ended at its start".to_owned())),
        }
    }
    Ok(())
}

fn say_hello(
    shared: &Shared,
    log: &Log,
    certificate: &str,
    opened: &spool::Opened,
    more: impl FnOnce(&mut Line<'_>),
) {
    let now = clock::wall_time();
    let mut line = log.line(LogLevel::Info, event::START, now);
    line.field("version", env!("CARGO_PKG_VERSION"))
        .field("hostname", &shared.config.session.hostname)
        .field("threads", Shown(explain(&shared.specs)));
    more(&mut line);
    drop(line);
    log.line(LogLevel::Info, event::CERTIFICATE, now)
        .field("source", certificate)
        .field("sha256", Shown(shared.keys.fingerprint()))
        .field("trusted_roots", shared.anchors.len() as u64);
    for warning in shared.keys.warnings(&shared.config.tls.hostname, now) {
        log.line(LogLevel::Error, event::CERTIFICATE, now)
            .field("warning", Shown(warning));
    }
    for complaint in &shared.anchor_complaints {
        log.line(LogLevel::Error, event::TRUSTED_ROOTS, now)
            .field("warning", Shown(complaint));
    }
    log.line(LogLevel::Info, event::SPOOL, now)
        .field("dir", Shown(shared.config.spool.dir.display()))
        .field("run", u64::from(opened.run))
        .field("recovered_messages", opened.messages.len() as u64);
    for text in opened.report.to_string().lines() {
        log.line(LogLevel::Info, event::RECOVERY, now)
            .field("report", Shown(text));
    }
}

/// Who we are, and what is out of our reach.
fn say_privileges(line: &mut Line<'_>, identity: &Identity, sealed: Option<&Sealed>) {
    line.field("user", Shown(identity));
    let Some(sealed) = sealed else {
        return;
    };
    line.field("capabilities", "none")
        .field("no_new_privs", "on")
        .field("landlock", Shown(sealed.landlock))
        .field("seccomp", Shown(sealed.seccomp))
        .field("core_dumps", if sealed.core_dumps { "on" } else { "off" });
}

fn say_hints(shared: &Shared, more: &[String], log: &Log) {
    for hint in shared.config.hints.iter().chain(more) {
        log.line(LogLevel::Info, event::HINT, clock::wall_time())
            .field("hint", Shown(hint));
    }
}

/// The last lines of the start: where to send mail, and how to send a first message.
fn say_ready(shared: &Shared, log: &Log) {
    let now = clock::wall_time();
    for (address, implicit_tls) in &shared.listening {
        log.line(LogLevel::Info, event::LISTENING, now)
            .field("address", *address)
            .field(
                "tls",
                match implicit_tls {
                    true => "from the first byte",
                    false => "offered by STARTTLS",
                },
            );
    }
    let mut line = log.line(LogLevel::Info, event::READY, now);
    if let Some((address, _)) = shared.listening.iter().find(|(_, implicit)| !implicit) {
        line.field(
            "try",
            Shown(format!(
                "swaks --server {address} --tls --from you@example.com --to somebody@example.com"
            )),
        );
    }
    drop(line);
    log.flush(now);
}

/// `ringpost spool list`: the mail that waits in the spool of a stopped relay.
pub fn spool_list(dir: &Path) -> ExitCode {
    print(spool::inspect::list(dir).map(|listing| (listing.to_string(), 0)))
}

/// `ringpost spool verify`: checks every record; a failure if something is damaged.
pub fn spool_verify(dir: &Path) -> ExitCode {
    print(spool::inspect::verify(dir).map(|found| (found.to_string(), found.exit_status())))
}

fn print(result: Result<(String, u8), spool::OpenError>) -> ExitCode {
    match result {
        Ok((text, code)) => {
            // A reader that went away has seen enough.
            let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("ringpost: {error}");
            ExitCode::FAILURE
        }
    }
}
