//! What was read and found, in numbers, and what is wrong.

use crate::message::MessageId;
use crate::spool::format::SegmentId;
use std::fmt;

/// Damages that are named one by one; more are only counted.
const DAMAGES_MAX: usize = 1000;

/// A place where the disk does not hold what was written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub segment: SegmentId,
    /// In bytes from the segment's start.
    pub position: u64,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// The segment's header is unreadable: all that it held is lost.
    Header,
    /// The disk gave an error.
    Unreadable(String),
    /// The disk took no outcomes that were to go into it. Nothing is lost.
    Unwritable(String),
    /// A commit begins here and is not whole.
    Commit,
    /// This many commits (at least) are missing before this one.
    Gap(u64),
    /// This commit does not follow the one before it.
    Chain,
    /// The body of a message's record is not what was written.
    Body(MessageId),
    /// A record with right checksums that this version cannot read.
    Record(MessageId),
    /// Parts of a large message are missing.
    Parts(MessageId),
}

impl Damage {
    /// The message that it concerns, if it is one.
    pub fn message(&self) -> Option<MessageId> {
        match self.what {
            What::Body(id) | What::Record(id) | What::Parts(id) => Some(id),
            _ => None,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} at byte {}: ", self.segment, self.position)?;
        match &self.what {
            What::Header => f.write_str("the header is damaged, the segment is left alone"),
            What::Unreadable(error) => write!(f, "unreadable: {error}"),
            What::Unwritable(error) => {
                write!(f, "cannot be written, and is set aside: {error}")
            }
            What::Commit => f.write_str("a damaged commit"),
            What::Gap(missing) => write!(f, "{missing} commits are missing before this one"),
            What::Chain => f.write_str("the commit does not follow the one before"),
            What::Body(id) => write!(f, "the content of message {id} is damaged"),
            What::Record(id) => write!(f, "a record of message {id} cannot be read"),
            What::Parts(id) => write!(f, "parts of message {id} are missing"),
        }
    }
}

/// What was read and found, in numbers, and what is wrong.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct RecoveryReport {
    pub segments: u64,
    pub message_segments: u64,
    pub outcome_segments: u64,
    pub commits: u64,
    pub outcomes: u64,
    /// Messages with a recipient still open.
    pub messages: u64,
    pub recipients_open: u64,
    /// Messages that were complete and whose space was not yet used again.
    pub finished: u64,
    /// Second copies of a message.
    pub duplicates: u64,
    /// Large messages that were refused and of which parts are left.
    pub let_go: u64,
    /// Last commits that a crash left unfinished; their mail was never accepted.
    pub torn: u64,
    /// Unfinished commits with a whole one behind them, as two writes in flight can leave.
    pub holes: u64,
    /// Segments of zeros, or without any content. A crash leaves those that were being made.
    pub blank: u64,
    /// Named up to a bound; see `damages_count`.
    pub damages: Vec<Damage>,
    pub damages_count: u64,
    /// The highest run that left a segment here.
    pub last_run: u32,
}

impl RecoveryReport {
    pub(super) fn damage(&mut self, segment: SegmentId, position: u64, what: What) {
        self.damages_count += 1;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(Damage {
                segment,
                position,
                what,
            });
        }
    }

    /// Nothing is wrong that a crash does not explain.
    pub fn is_sound(&self) -> bool {
        self.damages_count == 0
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "read {} segments ({} of messages, {} of outcomes), {} commits, {} outcomes\n\
             {} messages with {} open recipients; {} more were finished",
            self.segments,
            self.message_segments,
            self.outcome_segments,
            self.commits,
            self.outcomes,
            self.messages,
            self.recipients_open,
            self.finished
        )?;
        if self.duplicates > 0 {
            write!(f, "\n{} second copies passed over", self.duplicates)?;
        }
        if self.let_go > 0 {
            write!(f, "\n{} refused messages with parts left", self.let_go)?;
        }
        if self.torn + self.holes > 0 {
            write!(
                f,
                "\n{} unfinished commits at the ends of logs, {} holes before a last commit: \
                 cut off by a crash, and then nothing in them was accepted; if there was none, they are damaged, \
                 and mail is lost",
                self.torn, self.holes
            )?;
        }
        if self.blank > 0 {
            write!(
                f,
                "\n{} segments hold nothing: a crash came while they were being made, and the next start removes \
                 them; if there was none, they were emptied, and mail is lost",
                self.blank
            )?;
        }
        for damage in &self.damages {
            write!(f, "\nDAMAGED {damage}")?;
        }
        if self.damages_count > self.damages.len() as u64 {
            let more = self.damages_count - self.damages.len() as u64;
            write!(f, "\nDAMAGED {more} more places")?;
        }
        Ok(())
    }
}
