//! What held connections cost, as JSON has it, and its text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figures::histogram::{Percentiles, ms_of};
use crate::figures::machine::Machine;
use crate::figures::rates::per_second;
use crate::host::process::Resident;
use crate::ledger::Verdict;
use crate::text::{grouped, megabytes, rate_or_dash};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HoldReport {
    pub version: String,
    /// What the caller says of it.
    pub note: String,
    pub relay_version: Option<String>,
    pub command: Vec<String>,
    pub machine: Machine,
    pub asked: u32,
    pub messages_first: u32,
    /// Connections that came about and, at the end, still answered a NOOP.
    pub opened: u64,
    pub alive: u64,
    pub failure: Option<String>,
    pub open_seconds: f64,
    pub opened_per_second: f64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    /// CPU of the relay while they were opened (and sent their messages), per connection.
    pub relay_cpu_us_per_open: f64,
    pub memory: Memory,
    pub per_session: PerSession,
    /// Cores that the relay used: with nobody connected, and with all connections idle.
    pub cores_before: f64,
    pub cores_held: f64,
    pub honest_before: Honest,
    pub honest_beside: Honest,
    pub ledger: Verdict,
    pub relay_end: Option<String>,
    pub relay_died: bool,
    pub interrupted: bool,
}

/// The relay's, with so many connections open.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub none: Resident,
    pub half: Resident,
    pub all: Resident,
    /// After all have gone.
    pub after: Resident,
}

/// Bytes of a connection.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PerSession {
    pub anonymous_half_to_all: f64,
    pub anonymous_none_to_all: f64,
    pub rss_half_to_all: f64,
    pub rss_none_to_all: f64,
}

/// One client that sends message after message. Microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Honest {
    /// From MAIL to the 250 for the data.
    pub to_250_us: Percentiles,
    /// From connect(2) to ready for MAIL.
    pub to_ready_us: Percentiles,
    pub failed: u64,
}

impl HoldReport {
    /// To be called once all else is known.
    pub fn work_out(&mut self) {
        let opened = (self.opened as f64).max(1.0);
        self.opened_per_second = per_second(self.opened, self.open_seconds);
        self.relay_cpu_us_per_open /= opened;
        let half = (self.asked / 2) as f64;
        let Memory {
            none,
            half: mid,
            all,
            ..
        } = self.memory;
        let each =
            |from: u64, to: u64, sessions: f64| (to as f64 - from as f64) / sessions.max(1.0);
        self.per_session = PerSession {
            anonymous_half_to_all: each(mid.anonymous_bytes, all.anonymous_bytes, opened - half),
            anonymous_none_to_all: each(none.anonymous_bytes, all.anonymous_bytes, opened),
            rss_half_to_all: each(mid.rss_bytes, all.rss_bytes, opened - half),
            rss_none_to_all: each(none.rss_bytes, all.rss_bytes, opened),
        };
    }

    /// Why the figures are not to be believed.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.opened < u64::from(self.asked) {
            let why = self.failure.as_deref().unwrap_or("no reason known");
            problems.push(format!(
                "only {} connections came about: {why}",
                self.opened
            ));
        }
        if self.alive < self.opened {
            let dead = self.opened - self.alive;
            problems.push(format!("{dead} connections did not answer any more"));
        }
        let failed = self.honest_before.failed + self.honest_beside.failed;
        if failed > 0 {
            problems.push(format!("the honest client failed {failed} times"));
        }
        if !self.ledger.is_clean(false) {
            problems.push("the ledger is not clean".into());
        }
        if self.interrupted {
            problems.push("a signal ended it early".into());
        }
        if self.relay_died {
            problems.push("the relay ended by itself".into());
        }
        problems
    }
}

impl fmt::Display for HoldReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} connections in {:.1} s ({}/s, handshakes full {}, resumed {}; {:.0} us CPU of the relay each), {} messages each first",
            grouped(self.opened),
            self.open_seconds,
            rate_or_dash(self.opened_per_second),
            grouped(self.handshakes_full),
            grouped(self.handshakes_resumed),
            self.relay_cpu_us_per_open,
            self.messages_first,
        )?;
        let rows = [
            ("none", &self.memory.none),
            ("half", &self.memory.half),
            ("all", &self.memory.all),
            ("after", &self.memory.after),
        ];
        writeln!(
            f,
            "{:>14} {:>12} {:>12} {:>12} {:>12}",
            "open", "resident", "private", "anonymous", "descriptors"
        )?;
        for (name, memory) in rows {
            writeln!(
                f,
                "{name:>14} {:>12} {:>12} {:>12} {:>12}",
                megabytes(memory.rss_bytes),
                megabytes(memory.private_bytes),
                megabytes(memory.anonymous_bytes),
                grouped(memory.descriptors),
            )?;
        }
        writeln!(
            f,
            "user memory of a session: {:.0} bytes (half to all), {:.0} (none to all)",
            self.per_session.anonymous_half_to_all, self.per_session.anonymous_none_to_all,
        )?;
        writeln!(
            f,
            "idle CPU of the relay: {:.5} cores with none, {:.5} with all",
            self.cores_before, self.cores_held
        )?;
        self.honest_before.write(f, "before")?;
        self.honest_beside.write(f, "beside them")?;
        match self.problems() {
            problems if problems.is_empty() => writeln!(f, "all is well"),
            problems => writeln!(f, "NOT CLEAN: {}", problems.join("; ")),
        }
    }
}

impl Honest {
    fn write(&self, f: &mut fmt::Formatter<'_>, when: &str) -> fmt::Result {
        let (sent, ready) = (&self.to_250_us, &self.to_ready_us);
        writeln!(
            f,
            "honest client {when}: {} messages, to 250 p50 {} ms, p99 {} ms; {} connections, to ready p50 {} ms, p99 {} ms",
            grouped(sent.count),
            ms_of(sent, sent.p50),
            ms_of(sent, sent.p99),
            grouped(ready.count),
            ms_of(ready, ready.p50),
            ms_of(ready, ready.p99)
        )
    }
}
