//! SIGHUP: what was read again comes into force, and what is said of it.
//!
//! What cannot be read, or has something wrong in it, changes nothing. Reading is `reread`'s.

use super::asking::Asker;
use super::certificates;
use super::lane::ToCore;
use super::log::Writer;
use super::report;
use super::reread::{NewCertificates, NewLists, Reader, Reread};
use super::rules::{Lists, NewRule, Rules};
use super::service;
use super::shared::Shared;
use super::{StartError, hints, stderr};
use crate::config::ListFile;
use crate::handoff::Handoff;
use crate::io::clock;
use crate::log::{Log, LogLevel, Shown, event};
use crate::policy::list_change::ListChange;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Complaints about lists that have a line each; more are counted.
const COMPLAINTS_MAX: usize = 10;

/// How long the control thread waits for the log's thread, which may be busy with its disk.
const REOPEN_PATIENCE: Duration = Duration::from_secs(1);

/// What a stop leaves as it is.
const DURING_A_STOP: &str = "certificate and lists (the relay stops)";

/// What became of the log file at a SIGHUP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LogFile {
    /// There is none.
    Absent,
    Anew,
    Old,
}

/// Puts lists in force on all cores.
pub fn replace_lists(
    rules: &mut Rules,
    lists: Lists,
    cores: Range<usize>,
    handoff: &Handoff<ToCore>,
) {
    rules.replace_lists(lists);
    for core in cores {
        send(handoff, core, NewRule::Lists);
    }
}

fn send(handoff: &Handoff<ToCore>, core: usize, new: NewRule) {
    handoff.outbox.send(core, ToCore::Rule(Box::new(new)));
}

/// What SIGHUP does while the relay runs.
pub struct Reload<'a> {
    shared: &'a Arc<Shared>,
    rules: &'a mut Rules,
    handoff: &'a Handoff<ToCore>,
    writer: &'a Writer,
    log: &'a Log,
    reader: Reader,
    log_file: LogFile,
    /// Another SIGHUP came while the one before was served.
    once_more: bool,
    /// Of the lists in force.
    hints: Vec<String>,
}

impl<'a> Reload<'a> {
    pub fn new(
        shared: &'a Arc<Shared>,
        rules: &'a mut Rules,
        handoff: &'a Handoff<ToCore>,
        writer: &'a Writer,
        log: &'a Log,
    ) -> Self {
        let mut hints = hints::routes_to_itself(shared, &rules.lists.routes);
        hints.extend(shared.config.hints.iter().cloned());
        Reload {
            shared,
            rules,
            handoff,
            writer,
            log,
            reader: Reader::default(),
            log_file: LogFile::Absent,
            once_more: false,
            hints,
        }
    }

    /// Opens the log anew and begins to read the rest.
    pub fn begin(&mut self) {
        service::reloading(self.log);
        self.log_file = self.reopen_log();
        if self.reader.is_at_work() {
            self.once_more = true;
            self.log
                .answer(LogLevel::Info, event::RELOAD, clock::wall_time())
                .field(
                    "waits",
                    "the reload before still reads its files; all is read once more after it",
                );
            return;
        }
        self.reader.begin(self.shared, self.rules.in_force());
    }

    /// What was read, when that has come to its end. Nothing is lost if this is given up.
    pub async fn read(&mut self) -> Reread {
        self.reader.done().await
    }

    /// Puts it in force, and waits for a moment until all cores have it.
    pub async fn finish(&mut self, reread: Reread, asker: &mut Asker<'_>) {
        let mut again = Vec::new();
        if self.certificates(reread.certificates) {
            again.push("the certificate".to_owned());
        }
        if reread.lists.is_some_and(|lists| self.lists(lists)) {
            let files = self.shared.config.lists.files();
            again.extend(files.map(|list| list.to_string()));
        }
        let silent = asker.until_received().await;
        let effect = "what was read again is not in force there yet";
        report::log_silent(&silent, effect, self.log);
        self.rules.tidy();
        self.log_reload(again, None);
        match std::mem::take(&mut self.once_more) {
            true => self.reader.begin(self.shared, self.rules.in_force()),
            false => service::ready(self.log),
        }
    }

    /// What SIGHUP does during a stop.
    pub fn only_reopen_log(&mut self) {
        self.log_file = self.reopen_log();
        self.log_reload(Vec::new(), Some(DURING_A_STOP));
    }

    /// The relay stops: what is being read changes nothing any more.
    pub fn give_up(&mut self) {
        if self.reader.give_up() {
            self.log_reload(Vec::new(), Some(DURING_A_STOP));
        }
    }

    /// The old ones stay if that fails. True if they are new.
    fn certificates(&mut self, read: Result<NewCertificates, StartError>) -> bool {
        let new = match read {
            Ok(new) => new,
            Err(error) => {
                self.log_bad_certificate(error, "the old one stays in use");
                return false;
            }
        };
        let hostname = &self.shared.config.hostname;
        certificates::log_certificates(&new.keys, hostname, self.log, Log::answer);
        if let Some(error) = new.spare_is_old {
            self.log_bad_certificate(error, "the old spare one stays in use");
        }
        self.rules.keys = new.keys;
        for (core, tls) in self.shared.cores().zip(new.of_cores) {
            send(self.handoff, core, NewRule::Tls(tls));
        }
        true
    }

    fn log_bad_certificate(&self, StartError(complaint): StartError, effect: &str) {
        self.log
            .answer(LogLevel::Error, event::CERTIFICATE, clock::wall_time())
            .field("error", complaint)
            .field("effect", effect);
    }

    /// True if they were read; a list that says the same is left alone.
    fn lists(&mut self, read: Result<NewLists, Vec<String>>) -> bool {
        let new = match read {
            Ok(new) => new,
            Err(complaints) => {
                self.log_bad_lists(&complaints);
                return false;
            }
        };
        let lists = &self.shared.config.lists;
        self.log_list(lists.relay_domains_file(), new.of_domains);
        self.log_list(lists.recipients_file(), new.of_recipients);
        self.log_list(lists.routes_file(), new.of_routes);
        if let Some(new) = new.changed {
            self.log_hints(new.hints);
            replace_lists(self.rules, new.lists, self.shared.cores(), self.handoff);
        }
        true
    }

    fn log_list(&self, list: Option<ListFile<'_>>, change: ListChange) {
        let Some(list) = list else {
            return;
        };
        self.log
            .answer(LogLevel::Info, event::LIST, clock::wall_time())
            .field("file", Shown(list))
            .field("entries", change.entries as u64)
            .field("added", change.added as u64)
            .field("removed", change.removed as u64);
    }

    fn log_bad_lists(&self, complaints: &[String]) {
        let places = &self.shared.config.places;
        let first = complaints.iter().take(COMPLAINTS_MAX);
        let first = first.map(|complaint| places.with_places(complaint.clone()));
        let more = match complaints.len().saturating_sub(COMPLAINTS_MAX) {
            0 => None,
            more => Some(format!("{more} more")),
        };
        for error in first.chain(more) {
            self.log
                .answer(LogLevel::Error, event::LIST, clock::wall_time())
                .field("error", error)
                .field("effect", "all lists stay as they were");
        }
    }

    /// Those that did not hold before.
    fn log_hints(&mut self, hints: Vec<String>) {
        for hint in hints.iter().filter(|hint| !self.hints.contains(hint)) {
            self.log
                .answer(LogLevel::Warn, event::HINT, clock::wall_time())
                .field("text", hint);
        }
        self.hints = hints;
    }

    fn reopen_log(&self) -> LogFile {
        if self.shared.config.log.file.is_none() {
            return LogFile::Absent;
        }
        let Err(error) = self.writer.reopen(REOPEN_PATIENCE) else {
            return LogFile::Anew;
        };
        let (error, effect) = match error.kind() {
            io::ErrorKind::TimedOut => (
                "--log-file: its disk does not answer".to_owned(),
                "the old file stays in use until it does",
            ),
            _ => (error.to_string(), "the old file stays in use"),
        };
        // It may have been renamed or removed: then nobody reads there.
        stderr::print(&format!("{error}; {effect}"));
        self.log
            .answer(LogLevel::Warn, event::LOG, clock::wall_time())
            .field("error", error)
            .field("effect", effect);
        LogFile::Old
    }

    /// What was read again, and what was not.
    fn log_reload(&self, mut again: Vec<String>, not_now: Option<&str>) {
        if self.log_file == LogFile::Anew {
            again.push("the log file, opened anew".to_owned());
        }
        let read_once = self.shared.config.read_once.iter().map(String::as_str);
        let mut not_again: Vec<&str> = read_once.collect();
        not_again.extend(not_now);
        not_again.extend((self.log_file == LogFile::Old).then_some("the log file"));
        let mut line = (self.log).answer(LogLevel::Info, event::RELOAD, clock::wall_time());
        if !again.is_empty() {
            line.field("read_again", again.join(", "));
        }
        line.field("not_read_again", not_again.join(", "))
            .field("remedy", "a restart reads all of it");
    }
}
