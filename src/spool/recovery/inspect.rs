//! Looking into a spool with the relay stopped: `ringpost spool list DIR` and `verify DIR`.
//!
//! Both take the lock, so that they never read what a relay is writing, and change nothing else.

use crate::message::{Mailbox, Recipient};
use crate::schedule::outcome::{Diagnosis, RecipientState, ReportKind};
use crate::spool::format::Usage;
use crate::spool::recovery::directory::OpenError;
use crate::spool::recovery::stopped::Stopped;
use crate::spool::recovery::{Condition, FoundMessage, RecoveryReport, ScannedSegment};
use crate::time::WallTime;
use std::fmt;
use std::path::Path;

/// What [`list`] found: one paragraph for each message, oldest first, then the numbers.
#[derive(Clone, Debug)]
pub struct Listing {
    pub messages: Vec<FoundMessage>,
    pub report: RecoveryReport,
}

/// What [`verify`] found: one line for each segment, then the numbers and the damages.
#[derive(Clone, Debug)]
pub struct Verification {
    pub segments: Vec<ScannedSegment>,
    pub report: RecoveryReport,
}

impl Verification {
    /// 0: sound, also after a crash. 1: something is damaged.
    pub fn exit_status(&self) -> u8 {
        u8::from(!self.report.is_sound())
    }
}

/// Reads the spool in `path` and lists the messages with open recipients.
pub fn list(path: &Path) -> Result<Listing, OpenError> {
    let mut found = Stopped::open(path)?.scan;
    found
        .messages
        .sort_by_key(|message| (message.received_at, message.id));
    Ok(Listing {
        messages: found.messages,
        report: found.report,
    })
}

/// Reads the spool in `path` and checks every segment, commit, record and body.
pub fn verify(path: &Path) -> Result<Verification, OpenError> {
    let found = Stopped::open(path)?.scan;
    Ok(Verification {
        segments: found.segments,
        report: found.report,
    })
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for message in &self.messages {
            write!(
                f,
                "{}  {}  {} bytes  from ",
                message.id,
                Calendar(message.received_at),
                message.body_bytes()
            )?;
            write_path(f, message.envelope.reverse_path.as_ref())?;
            writeln!(f)?;
            if message.is_damaged {
                writeln!(f, "    DAMAGED content: its sender will get a report")?;
            }
            for (recipient, state) in message.envelope.recipients.iter().zip(&message.states) {
                write_recipient(f, recipient, state)?;
            }
        }
        write!(f, "{}", self.report)
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, path: Option<&Mailbox>) -> fmt::Result {
    match path {
        Some(mailbox) => write!(f, "<{mailbox}>"),
        None => f.write_str("<>"),
    }
}

fn write_recipient(
    f: &mut fmt::Formatter<'_>,
    recipient: &Recipient,
    state: &RecipientState,
) -> fmt::Result {
    write!(f, "    to <{}>: ", recipient.forward_path)?;
    match state {
        RecipientState::Finished => writeln!(f, "finished"),
        RecipientState::Waiting {
            attempts: 0,
            last: None,
            ..
        } => writeln!(f, "not tried yet"),
        RecipientState::Waiting {
            attempts,
            due,
            last,
        } => {
            write!(f, "attempts: {attempts}, next {}", When(*due))?;
            write_diagnosis(f, last.as_ref())
        }
        RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts,
            due,
        } => {
            let kind = match kind {
                ReportKind::Failed => "failure",
                ReportKind::Relayed => "success",
            };
            write!(
                f,
                "a report of {kind} is owed, attempts: {attempts}, next {}",
                When(*due)
            )?;
            write_diagnosis(f, Some(diagnosis))
        }
    }
}

/// When the next try is due.
struct When(WallTime);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WallTime(0) => f.write_str("at once"),
            due => write!(f, "at {}", Calendar(due)),
        }
    }
}

fn write_diagnosis(f: &mut fmt::Formatter<'_>, diagnosis: Option<&Diagnosis>) -> fmt::Result {
    let Some(diagnosis) = diagnosis else {
        return writeln!(f);
    };
    write!(f, "\n        {}", diagnosis.text)?;
    match diagnosis.remote_host.is_empty() {
        true => writeln!(f),
        false => writeln!(f, " ({})", diagnosis.remote_host),
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            write!(f, "{}  ", segment.id)?;
            match &segment.condition {
                Condition::Blank => writeln!(f, "blank")?,
                Condition::Damaged => writeln!(f, "DAMAGED header")?,
                Condition::Generation(header) if header.usage == Usage::Free => {
                    writeln!(f, "free")?
                }
                Condition::Generation(header) => {
                    let usage = match header.usage {
                        Usage::Outcomes => "outcomes",
                        _ => "messages",
                    };
                    write!(
                        f,
                        "{usage} of core {}, run {}: {} commits, {} records",
                        header.core, header.run, segment.commits, segment.records
                    )?;
                    match header.usage {
                        Usage::Outcomes => write!(
                            f,
                            ", needed by {} segments of messages",
                            segment.refers_to.len()
                        )?,
                        _ => write!(f, ", {} messages open", segment.live)?,
                    }
                    writeln!(f, "{}", if segment.is_damaged { "  DAMAGED" } else { "" })?;
                }
            }
        }
        write!(f, "{}", self.report)
    }
}

/// A point on the calendar for people: RFC 3339 in UTC, whole seconds.
struct Calendar(WallTime);

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0.0 / 1000).unwrap_or(i64::MAX);
        match ::time::OffsetDateTime::from_unix_timestamp(seconds) {
            Ok(at) => write!(
                f,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
                at.year(),
                u8::from(at.month()),
                at.day(),
                at.hour(),
                at.minute(),
                at.second()
            ),
            Err(_) => f.write_str("beyond the calendar"),
        }
    }
}
