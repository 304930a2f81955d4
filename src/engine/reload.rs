//! SIGHUP: what is read again, what of it is in force from then on, and what is said of it.
//!
//! What cannot be read, or has something wrong in it, changes nothing.

use super::certificates;
use super::hints;
use super::lane::ToCore;
use super::rules::{self, NewRule, Rules};
use super::shared::Shared;
use super::{Context as _, StartError};
use crate::config::{ListFile, ListFlags};
use crate::handoff::Handoff;
use crate::io::clock;
use crate::log::{Log, LogLevel, Shown, event};
use crate::policy::list_change::ListChange;
use crate::tls::{ServerKeys, ServerTls};

/// Complaints about lists that have a line each; more are counted.
const COMPLAINTS_MAX: usize = 10;

pub struct Reload<'a> {
    pub shared: &'a Shared,
    pub rules: &'a mut Rules,
    pub handoff: &'a Handoff<ToCore>,
    pub log: &'a Log,
}

impl Reload<'_> {
    /// Reads again, on the control thread. `reopened`: the log file is a new one.
    pub fn run(mut self, reopened: bool) {
        let mut again = Vec::new();
        if self.certificate() {
            again.push("the certificate".to_owned());
        }
        if self.lists() {
            let files = self.shared.config.lists.files();
            again.extend(files.map(|list| list.to_string()));
        }
        self.say(again, reopened);
    }

    /// The old one stays if that fails. True if it is a new one.
    fn certificate(&mut self) -> bool {
        match self.new_certificate() {
            Ok((keys, of_cores)) => {
                certificates::say(&keys, &self.shared.config.hostname, self.log);
                self.rules.keys = keys;
                for (core, tls) in self.shared.cores().zip(of_cores) {
                    self.send(core, NewRule::Tls(tls));
                }
                true
            }
            Err(StartError(complaint)) => {
                self.log
                    .line(LogLevel::Error, event::CERTIFICATE, clock::wall_time())
                    .field("error", complaint)
                    .field("effect", "the old one stays in use");
                false
            }
        }
    }

    fn new_certificate(&self) -> Result<(ServerKeys, Vec<ServerTls>), StartError> {
        let keys = certificates::reload(&self.shared.config, &self.shared.identity)?;
        let keys = keys.keeping_tickets_of(&self.rules.keys);
        let of_core = |_| rules::core_tls(&keys);
        let of_cores: Result<Vec<_>, _> = self.shared.cores().map(of_core).collect();
        let of_cores = of_cores.context("the certificate for clients")?;
        Ok((keys, of_cores))
    }

    /// Relay domains, recipients and routes. True if they were read; a list that says the same is left alone.
    fn lists(&mut self) -> bool {
        let lists = &self.shared.config.lists;
        if lists.files().next().is_none() {
            return false;
        }
        let (settings, routes) = match lists.read_again() {
            Ok(read) => read,
            Err(complaints) => {
                self.say_bad_lists(&complaints);
                return false;
            }
        };
        let hostname = &self.shared.config.hostname;
        let relaying = rules::relay_policy(&settings, &routes, hostname);
        let of_domains = relaying.domains_since(&self.rules.relaying);
        let of_recipients = relaying.recipients_since(&self.rules.relaying);
        let of_routes = routes.since(&self.rules.routes);
        self.say_list(lists.relay_domains_file(), of_domains);
        self.say_list(lists.recipients_file(), of_recipients);
        self.say_list(lists.routes_file(), of_routes);
        if [of_domains, of_recipients, of_routes]
            .iter()
            .all(ListChange::is_none)
        {
            return true;
        }
        self.say_hints(ListFlags::hints(
            &settings,
            &routes,
            self.shared.config.listen.is_outside(),
        ));
        self.say_hints(hints::routes_to_itself(self.shared, &routes));
        self.rules.replace_lists(relaying, routes);
        let cores = self.shared.cores();
        cores.for_each(|core| self.send(core, NewRule::Lists));
        true
    }

    fn send(&self, core: usize, new: NewRule) {
        self.handoff.outbox.send(core, ToCore::Rule(Box::new(new)));
    }

    fn say_list(&self, list: Option<ListFile<'_>>, change: ListChange) {
        let Some(list) = list else {
            return;
        };
        self.log
            .line(LogLevel::Info, event::LIST, clock::wall_time())
            .field("file", Shown(list))
            .field("entries", change.entries as u64)
            .field("added", change.added as u64)
            .field("removed", change.removed as u64);
    }

    fn say_bad_lists(&self, complaints: &[String]) {
        let places = &self.shared.config.places;
        for complaint in complaints.iter().take(COMPLAINTS_MAX) {
            self.log
                .line(LogLevel::Error, event::LIST, clock::wall_time())
                .field("error", places.with_places(complaint.clone()))
                .field("effect", "all lists stay as they were");
        }
        if let Some(more @ 1..) = complaints.len().checked_sub(COMPLAINTS_MAX) {
            self.log
                .line(LogLevel::Error, event::LIST, clock::wall_time())
                .field("error", Shown(format!("{more} more")))
                .field("effect", "all lists stay as they were");
        }
    }

    /// Those that were not said at the start.
    fn say_hints(&self, hints: Vec<String>) {
        let said = &self.shared.config.hints;
        for hint in hints.iter().filter(|hint| !said.contains(hint)) {
            self.log
                .line(LogLevel::Warn, event::HINT, clock::wall_time())
                .field("text", hint);
        }
    }

    /// What was read again, and what was not.
    fn say(&self, mut again: Vec<String>, reopened: bool) {
        let config = &self.shared.config;
        if config.log.file.is_some() && reopened {
            again.push("the log file, opened anew".to_owned());
        }
        let mut line = (self.log).line(LogLevel::Info, event::RELOAD, clock::wall_time());
        if !again.is_empty() {
            line.field("read_again", again.join(", "));
        }
        let log_file = (config.log.file.is_some() && !reopened).then_some("the log file");
        let not_again = config.read_once.iter().map(String::as_str).chain(log_file);
        line.field(
            "not_read_again",
            not_again.collect::<Vec<&str>>().join(", "),
        )
        .field("remedy", "a restart reads all of it");
        drop(line);
        self.log.flush(clock::wall_time());
    }
}
