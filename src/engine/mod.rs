//! Starts the cores, and brings them to their end.
//!
//! ```text
//! run: ports, user, keys, spool, sandbox -> one thread per core -> control until told to stop -> exit
//! check: the same up to the threads, as far as it leaves no trace
//! ```
//!
//! Promise: a start that fails says why and leaves nothing running; a stop waits for what is under way, within a bound, and
//! what is left is in the spool.
//! Not here: what happens to a message; the cores hand it from room to room.

mod asking;
mod assemble;
mod certificates;
mod confinement;
mod control;
mod core;
mod hints;
mod home;
mod http;
mod lane;
pub mod log;
pub mod placement;
mod plan;
mod ports;
mod questions;
mod reload;
mod report;
mod reread;
mod routed;
mod rules;
mod service;
mod shared;
mod signals;
#[cfg(feature = "simulate")]
pub mod simulated;
mod spool_commands;
mod stderr;

pub use spool_commands::{spool_export, spool_import, spool_list, spool_verify};

use crate::config::Config;
use crate::handoff::Handoff;
use crate::io::whole::Kinds;
use crate::io::{clock, cpu, limits, runtime};
use crate::log::{Line, Log, LogLevel, Shown, event};
use crate::policy::port::Listening;
use crate::privilege::{self, Identity, Sealed};
use crate::smtp::extension::Extension;
use crate::spool::{self, RecoveryReport};
use crate::time::WallTime;
use asking::Asker;
use confinement::{Confinement, Process};
use control::{Control, Stopped};
use lane::ToCore;
use placement::{CoreSpec, explain};
use plan::{Intent, Plan};
use ports::Listeners;
use rules::Rules;
use shared::Shared;
use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the last log lines may take to be written.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// Why the relay did not start: what was tried, and what went wrong.
struct StartError(String);

impl StartError {
    fn new(what: impl fmt::Display) -> impl FnOnce(Box<dyn fmt::Display>) -> StartError {
        move |why| StartError(format!("{what}: {why}"))
    }
}

/// Adds what was being done to an error.
trait ErrorContext<T> {
    fn context(self, what: impl fmt::Display) -> Result<T, StartError>;
}

impl<T, E: fmt::Display + 'static> ErrorContext<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, StartError> {
        self.map_err(|error| StartError::new(what)(Box::new(error)))
    }
}

/// Runs the relay until it is told to stop. Ends the process's threads by ending the process: the
/// rings are never dropped with operations in flight.
pub fn run(config: Config) -> ExitCode {
    stderr::bound_panics();
    let places = config.places.clone();
    let opened = harden(&config).and_then(|()| open_log(&config));
    let writer = match opened {
        Ok(writer) => writer,
        Err(StartError(complaint)) => {
            complain(places.with_places(complaint));
            return ExitCode::FAILURE;
        }
    };
    let log = writer.log();
    let code = match run_until_stopped(config, &writer, &log) {
        Ok(Stopped::Drained | Stopped::AtOnce) => ExitCode::SUCCESS,
        Err(StartError(complaint)) => {
            complain(places.with_places(complaint));
            ExitCode::FAILURE
        }
    };
    log.flush(clock::wall_time());
    writer.stop(LOG_PATIENCE);
    code
}

/// Why there is no relay. Whoever does not listen sees the exit code.
fn complain(why: impl fmt::Display) {
    stderr::print_last(format!("ringpost: {why}\n"));
}

fn harden(config: &Config) -> Result<(), StartError> {
    privilege::harden(config.privileges.core_dumps)
        .and_then(|()| privilege::refuse_huge_pages())
        .context("the process")
}

/// The log file is the relay's user's, so that it can be opened anew after a rotation.
fn open_log(config: &Config) -> Result<log::Writer, StartError> {
    let owner = confinement::future_identity(config, Process::Own)?;
    log::Writer::open(&config.log, &owner).context("cannot open the log")
}

fn check_log(config: &Config) -> Result<(), StartError> {
    confinement::future_identity(config, Process::Own)?;
    log::Writer::check(&config.log).context("cannot open the log")
}

/// What `--check` has found out about a configuration that is good.
pub struct Checked {
    /// Where threads would run.
    pub threads: String,
    /// What works but is probably not meant.
    pub hints: Vec<String>,
}

/// Goes through a start without one: whatever would keep [`run`] from getting ready is found, as
/// far as it is not another process's doing (a port or a spool in use) and does not lie in the
/// spool's logs. Nothing is bound, made or changed; the process itself is confined as a relay
/// would be, and good for nothing else afterwards.
///
/// # Errors
/// What [`run`] would say.
pub fn check(config: Config) -> Result<Checked, String> {
    let places = config.places.clone();
    let try_all = || {
        harden(&config)?;
        check_log(&config)?;
        Control::new().context("the control thread")?;
        let prepared = prepare(config, Process::Own, Intent::Check)?;
        let shared = &prepared.shared;
        start_cores(shared.specs.iter().zip(0..).map(|(spec, number)| {
            let shared = shared.clone();
            (*spec, number, move |report: Report| async move {
                let _ = report.send(shared.try_core(number));
            })
        }))?;
        Ok(Checked {
            threads: explain(&shared.specs),
            hints: prepared.all_hints(),
        })
    };
    try_all().map_err(|StartError(complaint)| places.with_places(complaint))
}

fn run_until_stopped(
    config: Config,
    writer: &log::Writer,
    log: &Log,
) -> Result<Stopped, StartError> {
    // Before anything else: a signal that comes early must not end the process by its default.
    let control = Control::new().context("the control thread")?;
    let mut running = start(config, Process::Own, writer, log)?;
    let Running {
        shared,
        rules,
        handoff,
        ..
    } = &mut running;
    let stopped = control.run(shared, rules, handoff, writer, log);
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
    pub fn listening(&self) -> &[Listening] {
        &self.running.shared.listening
    }

    /// Brings everything under way to its end; false if that took longer than `--drain-timeout`.
    pub fn stop(self) -> bool {
        let Running {
            shared, handoff, ..
        } = &self.running;
        let drained = runtime::control().is_ok_and(|thread| {
            let wait = shared.config.listen.drain_timeout;
            let mut asker = Asker::new(handoff, shared.cores());
            thread.run(async {
                let drained = runtime::timeout(wait, asker.drain()).await.is_ok();
                if !drained {
                    asker.end_at_once().await.log(&self.log);
                }
                drained
            })
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
    rules: Rules,
    /// Ours, as the one that tells cores to stop.
    handoff: Handoff<ToCore>,
    directory: spool::recovery::directory::Directory,
}

impl Running {
    /// The lock on the spool is held until the process has ended.
    fn keep_lock(self) {
        std::mem::forget(self.directory);
    }
}

/// Everything up to the first thread.
struct Prepared {
    shared: Arc<Shared>,
    rules: Rules,
    descriptors: u64,
    listeners: Vec<Listeners>,
    /// For whoever looks at the relay.
    http: Option<TcpListener>,
    /// `None` if the start is only judged.
    opened: Option<spool::Opened>,
    identity: Identity,
    sealed: Option<Sealed>,
    hints: Vec<String>,
}

impl Prepared {
    /// All that is worth a look, in a text for people.
    fn all_hints(&self) -> Vec<String> {
        let shared = &self.shared;
        let hostname = &shared.config.hostname;
        let hints = shared.config.hints.iter().chain(&self.hints).cloned();
        hints
            .chain(self.rules.keys.warnings(hostname, clock::wall_time()))
            .chain(shared.anchor_complaints.iter().cloned())
            .collect()
    }
}

/// The steps of a start in their order. [`Intent::Check`] goes through the same ones.
fn prepare(mut config: Config, process: Process, intent: Intent) -> Result<Prepared, StartError> {
    let plan = Plan::make(&config, process == Process::Host)?;
    let (listeners, listening) = match intent {
        Intent::Start => {
            let listeners = ports::bind(&config, &plan.specs)?;
            let listening = ports::addresses_of(&listeners);
            (listeners, listening)
        }
        Intent::Check => (Vec::new(), ports::check(&config)?),
    };
    // A relay within another program is looked at by that.
    let http = match (process, intent) {
        (Process::Host, _) => http::Bound::default(),
        (Process::Own, Intent::Start) => http::bind(config.http)?,
        (Process::Own, Intent::Check) => {
            http::check(config.http)?;
            http::Bound::default()
        }
    };
    let identity = confinement::future_identity(&config, process)?;
    let given_keys = certificates::load_given(&config, &identity, Kinds::Any)?;
    let confinement = Confinement::begin(&config, process, intent)?;
    let keys = match intent {
        Intent::Start => certificates::with_generated(&config, confinement.identity(), given_keys)?,
        Intent::Check => certificates::check_generated(&config, &confinement, given_keys)?,
    };
    let opened = open_spool(&config, &plan.specs, &confinement, intent)?;
    let descriptors = plan.descriptors;
    let mut hints = confinement.hints().to_vec();
    hints.extend(plan.hints.iter().cloned());
    hints.extend(http.hint);
    let rules = Rules::new(&mut config, keys)?;
    let shared = Arc::new(assemble::share(config, plan, identity.clone(), listening));
    hints.extend(hints::hints(&shared, &rules));
    ports::listen(&shared.config, &listeners)?;
    let sealed = confinement.finish(&shared.config)?;
    Ok(Prepared {
        shared,
        rules,
        descriptors,
        listeners,
        http: http.listener,
        opened,
        identity,
        sealed,
        hints,
    })
}

fn start(
    config: Config,
    process: Process,
    writer: &log::Writer,
    log: &Log,
) -> Result<Running, StartError> {
    let prepared = prepare(config, process, Intent::Start)?;
    let (shared, rules) = (prepared.shared, prepared.rules);
    let opened = prepared.opened.expect("a start opens the spool");
    writer.begin().context("starting the thread of the log")?;

    log_start(&shared, &rules, log, &opened, |line| {
        line.field("descriptors", prepared.descriptors);
        add_privileges(line, &prepared.identity, prepared.sealed.as_ref());
    });
    log_hints(&shared, &prepared.hints, log);
    // A start that hangs or is killed from here on is to be seen in the log.
    log.flush(clock::wall_time());
    let (seeds, own_handoff) = assemble::seeds(
        (&shared, &rules),
        (opened.parts, opened.messages),
        prepared.listeners,
        || writer.log(),
    );
    let threads = seeds.into_iter().map(|seed| {
        let (spec, number) = (seed.spec, seed.number);
        (spec, number, move |report: Report| {
            core::run(seed, move |result| {
                // Nobody listens any more if another core has failed.
                let _ = report.send(result);
            })
        })
    });
    start_cores(threads)?;
    let looked_at = prepared.http.as_ref().and_then(|it| it.local_addr().ok());
    if let Some(listener) = prepared.http {
        http::serve(listener, shared.clone()).context("the thread for --http")?;
    }
    log_ready(&shared, looked_at, log);
    Ok(Running {
        shared,
        rules,
        handoff: own_handoff,
        directory: opened.directory,
    })
}

fn open_spool(
    config: &Config,
    specs: &[CoreSpec],
    confinement: &Confinement,
    intent: Intent,
) -> Result<Option<spool::Opened>, StartError> {
    let settings = config.spool.settings.clone();
    let (dir, cores) = (&config.spool.dir, plan::number_of(specs));
    match intent {
        Intent::Start => spool::open(dir, &settings, cores).map(Some),
        Intent::Check => {
            spool::check(dir, &settings, cores, confinement.makes_directories()).map(|()| None)
        }
    }
    .context("the spool")
}

/// Where a core tells that it works, or why not.
type Report = mpsc::Sender<Result<(), String>>;

/// A thread with a ring for each core; returns when all have told that they work.
fn start_cores<F, R>(cores: impl Iterator<Item = (CoreSpec, usize, F)>) -> Result<(), StartError>
where
    F: FnOnce(Report) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    let (report, started) = mpsc::channel();
    let mut count = 0;
    for (spec, number, body) in cores {
        spawn_core(spec, number, body, report.clone())?;
        count += 1;
    }
    drop(report);
    wait_for_start(&started, count)
}

fn spawn_core<F, R>(
    spec: CoreSpec,
    number: usize,
    body: F,
    report: Report,
) -> Result<(), StartError>
where
    F: FnOnce(Report) -> R + Send + 'static,
    R: Future<Output = ()>,
{
    let name = format!("ringpost-{number}");
    let body = move || {
        if let Some(cpu) = spec.cpu
            && let Err(error) = cpu::pin_this_thread(cpu)
        {
            let _ = report.send(Err(format!("tying a thread to CPU {cpu}: {error}")));
            return;
        }
        let started = report.clone();
        // A future is made where it runs.
        let ended = runtime::run(async move { body(started).await });
        if let Err(error) = ended {
            let _ = report.send(Err(format!(
                "an io_uring cannot be made ({error}): {}",
                limits::remedy_without_ring(&error)
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

fn log_start(
    shared: &Shared,
    rules: &Rules,
    log: &Log,
    opened: &spool::Opened,
    more: impl FnOnce(&mut Line<'_>),
) {
    let now = clock::wall_time();
    let mut line = log.line(LogLevel::Info, event::START, now);
    line.field("version", env!("CARGO_PKG_VERSION"))
        .field("hostname", &shared.config.hostname)
        .field("threads", Shown(explain(&shared.specs)));
    more(&mut line);
    drop(line);
    certificates::log_certificates(&rules.keys, &shared.config.hostname, log, Log::line);
    log.line(LogLevel::Info, event::TRUSTED_ROOTS, now)
        .field("roots", shared.anchors.len() as u64)
        .field("left_out", shared.anchors.left_out() as u64);
    for complaint in &shared.anchor_complaints {
        log.line(LogLevel::Warn, event::TRUSTED_ROOTS, now)
            .field("warning", Shown(complaint));
    }
    log.line(LogLevel::Info, event::SPOOL, now)
        .field("dir", Shown(shared.config.spool.dir.display()))
        .field("run", u64::from(opened.run))
        .field("recovered_messages", opened.messages.len() as u64);
    log_recovery(&opened.report, log, now);
}

/// What was found in the spool; each damage is a line of its own.
fn log_recovery(report: &RecoveryReport, log: &Log, now: WallTime) {
    log.line(LogLevel::Info, event::RECOVERY, now)
        .field("messages", report.messages)
        .field("open_recipients", report.recipients_open)
        .field("finished_messages", report.finished)
        .field("segments", report.segments)
        .field("commits", report.commits)
        .field("outcomes", report.outcomes)
        .field("second_copies", not_zero(report.duplicates))
        .field("refused_messages", not_zero(report.let_go))
        .field("unfinished_commits", not_zero(report.torn + report.holes))
        .field("blank_segments", not_zero(report.blank));
    for damage in &report.damages {
        log.line(LogLevel::Error, event::RECOVERY, now)
            .field("id", damage.message())
            .field("damage", Shown(damage));
    }
    let unnamed = report.damages_count - report.damages.len() as u64;
    if unnamed > 0 {
        log.line(LogLevel::Error, event::RECOVERY, now)
            .field("damage", Shown(format!("{unnamed} more places")));
    }
}

fn not_zero(count: u64) -> Option<u64> {
    Some(count).filter(|count| *count > 0)
}

/// Who we are, and what is out of our reach.
fn add_privileges(line: &mut Line<'_>, identity: &Identity, sealed: Option<&Sealed>) {
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

fn log_hints(shared: &Shared, more: &[String], log: &Log) {
    for hint in shared.config.hints.iter().chain(more) {
        log.line(LogLevel::Warn, event::HINT, clock::wall_time())
            .field("text", hint);
    }
}

/// The last lines of the start: where to send mail, and how to send a first message.
fn log_ready(shared: &Shared, looked_at: Option<SocketAddr>, log: &Log) {
    let now = clock::wall_time();
    let offers_starttls = shared.config.server.offers.has(Extension::StartTls);
    let require_tls = shared.config.server.require_tls;
    for Listening { address, port } in &shared.listening {
        let tls = match (port.has_implicit_tls(), offers_starttls, require_tls) {
            (true, _, _) => "from the first byte",
            (false, false, _) => "not offered",
            (false, true, false) => "offered by STARTTLS",
            (false, true, true) => "demanded, by STARTTLS",
        };
        log.line(LogLevel::Info, event::LISTENING, now)
            .field("address", *address)
            .field("tls", tls);
    }
    if let Some(address) = looked_at {
        log.line(LogLevel::Info, event::HTTP, now)
            .field("address", address);
    }
    let mut line = log.line(LogLevel::Info, event::READY, now);
    let with_starttls = |it: &&Listening| !it.port.has_implicit_tls();
    if let Some(Listening { address, .. }) = shared.listening.iter().find(with_starttls) {
        let tls = if offers_starttls { "--tls " } else { "" };
        line.field(
            "try",
            Shown(format!(
                "swaks --server {address} {tls}--from you@example.com --to somebody@example.com"
            )),
        );
    }
    drop(line);
    log.flush(now);
}
