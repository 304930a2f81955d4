//! The relay in a simulated world: its cores are tasks, and its log is part of the story.
//!
//! What a start asks of the host (users, files of keys, the CPUs) is handed in; binding, the spool's recovery, lanes
//! and cores are those of every start.

use super::asking::Asker;
use super::assemble;
use super::core;
use super::lane::ToCore;
use super::placement::CoreSpec;
use super::plan::Plan;
use super::ports;
use super::reload;
use super::rules::{Lists, Rules};
use super::shared::Shared;
use crate::config::Config;
use crate::handoff::Handoff;
use crate::io::runtime;
use crate::io::simulated::{Owner, World};
use crate::log::{Chunk, Log, LogFormat, LogLevel};
use crate::metrics::Snapshot;
use crate::policy::relaying;
use crate::privilege::Identity;
use crate::remote::route::RouteTable;
use crate::spool::{self, OpenError, Opened};
use crate::tls::{ServerKeys, TrustAnchors};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// A relay of the world of this thread.
pub struct Relay {
    shared: Arc<Shared>,
    rules: RefCell<Rules>,
    handoff: Handoff<ToCore>,
    /// The lock on the spool.
    _directory: spool::recovery::directory::Directory,
    started: Rc<Cell<usize>>,
    failed: Rc<Cell<bool>>,
}

/// The spool of that configuration, recovered for so many cores.
///
/// # Errors
/// See [`spool::open`].
pub fn open_spool(config: &Config, cores: u16) -> Result<Opened, OpenError> {
    spool::open(&config.spool.dir, &config.spool.settings, cores)
}

impl Relay {
    /// Starts with what was recovered, one core for each part of the spool; each takes mail in and delivers.
    ///
    /// # Errors
    /// What was tried, and what went wrong.
    pub fn start(
        world: &Rc<World>,
        mut config: Config,
        keys: ServerKeys,
        opened: Opened,
        level: LogLevel,
    ) -> Result<Relay, String> {
        let specs = vec![
            CoreSpec {
                cpu: None,
                ingress: true,
                delivery: true,
            };
            opened.parts.len()
        ];
        let start = || {
            let listeners = ports::bind(&config, &specs).map_err(|error| error.0)?;
            let listening = ports::addresses_of(&listeners);
            let rules = Rules::new(&mut config, keys).map_err(|error| error.0)?;
            let plan = Plan {
                descriptors: 0,
                specs,
                anchors: TrustAnchors::none(),
                anchor_complaints: Vec::new(),
                hints: Vec::new(),
            };
            let shared = Arc::new(assemble::share(
                config,
                plan,
                Identity::current(),
                listening,
            ));
            ports::listen(&shared.config, &listeners).map_err(|error| error.0)?;
            let log = || Log::new(LogFormat::Text, level, Box::new(tell));
            let recovered = (opened.parts, opened.messages);
            let (seeds, handoff) = assemble::seeds((&shared, &rules), recovered, listeners, log);
            Ok::<_, String>((shared, rules, handoff, seeds))
        };
        let (shared, rules, handoff, seeds) = world.act_as(Owner::Core(0), start)?;
        let (started, failed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        for seed in seeds {
            let owner = Owner::Core(seed.number as u16);
            let (started, failed) = (started.clone(), failed.clone());
            world.spawn(owner, runtime::tick());
            world.spawn(owner, async move {
                let told = move |result: Result<(), String>| match result {
                    Ok(()) => started.set(started.get() + 1),
                    Err(_) => failed.set(true),
                };
                core::run(seed, told).await;
            });
        }
        Ok(Relay {
            shared,
            rules: RefCell::new(rules),
            handoff,
            _directory: opened.directory,
            started,
            failed,
        })
    }

    /// All cores work. An error: one of them does not.
    pub fn is_ready(&self) -> Result<bool, &'static str> {
        match self.failed.get() {
            true => Err("a core does not start"),
            false => Ok(self.started.get() == self.shared.specs.len()),
        }
    }

    /// As on SIGHUP, with these in the files.
    pub fn replace_lists(&self, settings: &relaying::Settings, routes: RouteTable) {
        let lists = Lists::new(settings, routes, &self.shared.config.hostname);
        let mut rules = self.rules.borrow_mut();
        reload::replace_lists(&mut rules, lists, self.shared.cores(), &self.handoff);
    }

    /// As on SIGTERM: ends when all that is under way has come to its end.
    pub async fn drain(&self) {
        Asker::new(&self.handoff, self.shared.cores()).drain().await;
    }

    /// What its cores have counted so far.
    pub fn counted(&self) -> Snapshot {
        Snapshot::of(self.shared.metrics.iter().map(Arc::as_ref))
    }

    /// No mail counts at any share.
    pub fn shares_are_given_back(&self) -> bool {
        self.shared.shares.are_given_back()
    }

    /// What sessions, bodies and the queue hold of the memory.
    pub fn memory_held(&self) -> u64 {
        self.shared.memory.held_bytes()
    }
}

fn tell(chunk: Chunk) {
    let world = World::of_this_thread();
    for line in String::from_utf8_lossy(chunk.bytes()).lines() {
        world.log(line);
    }
    chunk.written();
}
