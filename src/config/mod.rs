//! Every setting of the relay, read once at start and from then on plain values.
//!
//! `flags` defines what can be set, `build` turns flags into the settings of the rooms or says what is
//! wrong, `report` prints what they come to. A room owns its settings and their defaults, and gets its own part,
//! never the whole.
//!
//! Promise: a value that a flag cannot have, or that contradicts another that was given, is an error that names the
//! flag; all of them are said at once. A default gives way (`adjust`).
//! Not here: which thread runs on which CPU (`engine::placement`), and what only the host can say (`engine::plan`).

mod adjust;
mod argument_file;
mod bounds;
mod build;
mod contradictions;
mod flags;
mod hints;
mod lists;
mod places;
mod report;
mod source;
mod surroundings;
mod values;

pub use adjust::Adjusted;
pub use hints::first_of;
pub use lists::{ListFile, ListFlags};
pub use places::Places;
pub use surroundings::Surroundings;
pub use values::{ClientNet, CpuList, TlsFor};

use crate::log::{LogFormat, LogLevel};
use crate::policy::{rates, relaying};
use crate::remote::route::RouteTable;
use crate::remote::{connection, resolve};
use crate::schedule::next_hop;
use crate::smtp::server;
use crate::transfer::export::Export;
use crate::transfer::import::Import;
use crate::{delivery, listener, privilege, session, spool, tls};
use clap::FromArgMatches;
use clap::parser::ValueSource;
use flags::{Action, Flags, SpoolAction};
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

/// All settings. Every value is inside the bounds of its flag and no two contradict each other.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name in greetings, EHLO, trace fields, reports and the generated certificate.
    pub hostname: String,
    pub listen: listener::Settings,
    pub server: server::Settings,
    pub session: session::Settings,
    pub rates: rates::Limits,
    pub relaying: relaying::Settings,
    pub routes: RouteTable,
    /// To read both of them again.
    pub lists: ListFlags,
    pub tls: tls::Settings,
    pub spool: SpoolConfig,
    pub delivery: delivery::Settings,
    /// Of all delivery cores together.
    pub schedule: next_hop::Settings,
    pub connections: connection::Settings,
    pub resolver: resolve::Settings,
    pub cores: CoreConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
    pub privileges: privilege::Settings,
    /// Defaults that do not count, since they contradict what was given.
    pub gave_way: Vec<Adjusted>,
    /// What works but is probably not meant, for the log at start.
    pub hints: Vec<String>,
    /// Which lines of files and variables gave flags, for complaints of the start.
    pub places: Places,
    /// What is read at the start and never again, for people.
    pub read_once: Vec<String>,
}

/// The spool, and what the queue may take of the memory.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    pub dir: PathBuf,
    pub settings: spool::Settings,
    /// What sessions, bodies and the queue may hold, all cores together.
    pub memory_bytes_max: u64,
}

/// For `engine::placement`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CoreConfig {
    /// CPU numbers with repeats. `None`: to be chosen.
    pub ingress: Option<Vec<usize>>,
    pub delivery: Option<Vec<usize>>,
    pub pin: bool,
}

impl CoreConfig {
    /// How many threads these come to where so many of the usable CPUs may be busy at a time.
    pub fn threads(&self, cpus: &[usize], parallelism: usize) -> usize {
        // Where none is left, the other role has the same ones.
        let rest = |taken: &[usize]| cpus.iter().filter(|cpu| !taken.contains(cpu)).count();
        match (&self.ingress, &self.delivery) {
            (None, None) => parallelism.clamp(1, cpus.len().max(1)),
            (Some(one), None) | (None, Some(one)) => one.len() + rest(one),
            (Some(ingress), Some(delivery)) => {
                let mut shared = ingress.clone();
                let of_delivery_alone = delivery.iter().filter(|cpu| {
                    let place = shared.iter().position(|other| other == *cpu);
                    place.map(|place| shared.swap_remove(place)).is_none()
                });
                ingress.len() + of_delivery_alone.count()
            }
        }
    }
}

/// Where whoever looks at the relay is answered, unless it is said otherwise.
const HTTP_ADDRESS: &str = "127.0.0.1:2580";

/// For `engine::http`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpConfig {
    /// `None`: nobody is answered.
    pub address: Option<SocketAddr>,
    /// Nobody has asked for it: a relay that cannot have it does without.
    pub is_default: bool,
}

/// For `engine::log`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
    /// `None`: standard error.
    pub file: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    Run(Box<Config>),
    /// Judged and good: print this text, say where threads would run, and end.
    Check(Box<Config>, String),
    SpoolList(PathBuf),
    SpoolVerify(PathBuf),
    SpoolExport(Export),
    SpoolImport(Import),
}

/// Why the program ends before it began: help, version, or a bad flag.
#[derive(Debug)]
pub enum Exit {
    Clap(clap::Error),
    /// The same, with the line of a file or the variable that is at fault.
    Placed(String, clap::Error),
    /// One or more complaints, each naming its flag.
    Refused(Vec<String>),
}

impl Exit {
    /// Prints to where it belongs; returns the exit code, 0 for help and version, 2 for errors.
    pub fn print(&self) -> u8 {
        match self {
            Exit::Placed(place, error) => {
                let _ = write!(io::stderr(), "{place}: ");
                let _ = error.print();
                u8::try_from(error.exit_code()).unwrap_or(2)
            }
            Exit::Clap(error) => {
                // Nothing can be done about a closed terminal.
                let _ = error.print();
                u8::try_from(error.exit_code()).unwrap_or(2)
            }
            Exit::Refused(complaints) => {
                let mut text = String::new();
                for complaint in complaints {
                    text.push_str(&format!("error: {complaint}\n"));
                }
                let _ = writeln!(io::stderr(), "{text}\nFor more information, try '--help'.");
                2
            }
        }
    }
}

impl Config {
    /// Reads the command line (the first argument is the program's name), files of flags, and the
    /// environment.
    ///
    /// # Errors
    /// [`Exit`] if help was asked for or a value is refused.
    pub fn from_args(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Exit> {
        Self::from_args_on(arguments, &Surroundings::of_this_host())
    }

    /// As [`Config::from_args`], on a host that is described by `surroundings`.
    pub fn from_args_on(
        arguments: impl IntoIterator<Item = OsString>,
        surroundings: &Surroundings,
    ) -> Result<Command, Exit> {
        let refused = |complaint| Exit::Refused(vec![complaint]);
        let expanded = argument_file::expand(arguments).map_err(refused)?;
        let matches = flags::command()
            .try_get_matches_from(&expanded.arguments)
            .map_err(|error| match source::of(&error, &expanded) {
                Some(place) => Exit::Placed(place, error),
                None => Exit::Clap(error),
            })?;
        let mut flags = Flags::from_arg_matches(&matches).map_err(Exit::Clap)?;

        if let Some(Action::Spool(action)) = flags.action.take() {
            return of_spool(action, &flags, surroundings).map_err(refused);
        }
        let check = flags.general.check;
        let given_in = expanded.given_in;
        let places = Places::new(expanded.lines, &given_in, &matches);
        let cores = build::cores(&flags);
        let gave_way = adjust::adjust_defaults(&mut flags, &matches, &cores, surroundings);
        let mut config = build::config(flags, gave_way, surroundings).map_err(|complaints| {
            let placed = complaints.into_iter();
            Exit::Refused(placed.map(|text| places.with_places(text)).collect())
        })?;
        config.places = places;
        config.http.is_default = matches.value_source("http") == Some(ValueSource::DefaultValue);
        let config = Box::new(config);
        if !check {
            return Ok(Command::Run(config));
        }
        let report = report::effective(&config, &matches, &given_in);
        Ok(Command::Check(config, report))
    }
}

fn of_spool(
    action: SpoolAction,
    flags: &Flags,
    surroundings: &Surroundings,
) -> Result<Command, String> {
    let named = |dir: Option<PathBuf>| match dir {
        Some(named) => Ok(named),
        None => build::spool_to_look_into(flags, surroundings),
    };
    Ok(match action {
        SpoolAction::List { dir } => Command::SpoolList(named(dir)?),
        SpoolAction::Verify { dir } => Command::SpoolVerify(named(dir)?),
        SpoolAction::Export { to, dir, take } => Command::SpoolExport(Export {
            spool: named(dir)?,
            to,
            take,
        }),
        SpoolAction::Import { from, dir } => {
            let spool = named(dir)?;
            Command::SpoolImport(Import {
                from,
                settings: build::spool_settings(flags, &spool),
                spool,
            })
        }
    })
}
