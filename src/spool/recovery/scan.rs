//! Reading what a crash left. Pure over a [`Disk`].
//!
//! All outcomes of all logs are read before the first message, so their order does not matter. A
//! segment is read through one window; bodies are checked and not kept.
//!
//! A commit is believed if it carries the secret nonce and the generation of its segment's header,
//! its own place, and checksums that are right. Anything else at a block is passed over: zeros,
//! an older generation, a forgery in somebody's mail. So a hole that a crash left between two writes does
//! not hide the commit behind it.

use super::commits::{FoundRecords, SegmentScan, Suspect, extent_of};
use super::found::{Condition, Damaged, FoundBody, FoundMessage, ScannedSegment};
use super::known::Knowledge;
use super::report::{RecoveryReport, What};
use super::window::{Disk, WINDOW_BYTES, is_all_zeros};
use crate::io::buffer::BLOCK_BYTES;
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::RecipientState;
use crate::spool::format::{
    FinalMeta, Generation, HeaderError, Kind, MessageMeta, RecordView, SegmentHeader, SegmentId,
    Usage, decode_outcome,
};
use crate::spool::log::commit::IN_FLIGHT_MAX;
use crate::time::WallTime;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// What a segment of outcomes is needed for is little if it is no more than one part in this many.
pub const FOLDED_PARTS: u64 = 3;

/// All that was found.
#[derive(Clone, Debug)]
pub struct LogScan {
    pub segments: Vec<ScannedSegment>,
    pub messages: Vec<FoundMessage>,
    pub report: RecoveryReport,
}

/// Why a scan could not be made.
#[derive(Debug)]
pub enum ScanError {
    /// The first block of a segment cannot be read, or if none is named, the list of segments.
    Io(Option<SegmentId>, io::Error),
    Newer {
        segment: SegmentId,
        version: u32,
    },
}

/// Reads everything. Read errors behind a segment's first block are damage; an error at the first
/// block ends the scan, because a segment that cannot be read must not look empty.
pub fn scan_logs(disk: &mut dyn Disk) -> Result<LogScan, ScanError> {
    let mut scanner = Scanner::default();
    scanner.read_headers(disk)?;
    scanner.read_logs(disk, Usage::Outcomes);
    scanner.read_logs(disk, Usage::Messages);
    scanner.join_chunks();
    scanner.judge_damaged();
    scanner.decide();
    Ok(scanner.finish())
}

struct FoundFinal {
    id: MessageId,
    meta: FinalMeta,
    generation: Generation,
    position: u64,
}

/// A segment's index, and how many whole commits come before this one, which is whole but for its bodies.
type CommitAt = (usize, u64);

struct Torn {
    commit: CommitAt,
    position: u64,
    damaged: Damaged,
}

#[derive(Default)]
struct Scanner {
    segments: Vec<ScannedSegment>,
    index: BTreeMap<Generation, usize>,
    known: Knowledge,
    messages: Vec<FoundMessage>,
    /// The newest copy of every message: its segment.
    seen: HashMap<MessageId, Generation>,
    /// Whole chunks: generation and offset of the body; its length and checksum.
    chunks: HashMap<(Generation, u64), (u32, u32)>,
    finals: Vec<FoundFinal>,
    damaged: Vec<Damaged>,
    /// Such in the last commits of a generation.
    torn: Vec<Torn>,
    /// Commits with a body that is torn.
    unfinished: BTreeSet<CommitAt>,
    /// Where messages have copies that are not whole, newer than the one that counts.
    doubtful: HashMap<MessageId, Vec<Generation>>,
    report: RecoveryReport,
}

impl Scanner {
    fn read_headers(&mut self, disk: &mut dyn Disk) -> Result<(), ScanError> {
        let failed = |segment| move |error| ScanError::Io(segment, error);
        for id in disk.segments().map_err(failed(None))? {
            let mut block = vec![0; BLOCK_BYTES];
            let read = disk.read(id, 0, &mut block).map_err(failed(Some(id)))?;
            let condition = self.classify(disk, id, &block[..read])?;
            if condition == Condition::Blank {
                self.report.blank += 1;
            }
            if let Condition::Generation(header) = &condition {
                self.report.last_run = self.report.last_run.max(header.run);
                self.index.insert(header.generation, self.segments.len());
            }
            self.report.segments += 1;
            self.segments.push(ScannedSegment {
                id,
                is_damaged: condition == Condition::Damaged,
                condition,
                commits: 0,
                records: 0,
                live: 0,
                refers_to: BTreeSet::new(),
                held: Vec::new(),
                held_bytes: 0,
                held_by: BTreeSet::new(),
            });
        }
        Ok(())
    }

    fn classify(
        &mut self,
        disk: &mut dyn Disk,
        id: SegmentId,
        block: &[u8],
    ) -> Result<Condition, ScanError> {
        match SegmentHeader::decode(block) {
            Ok(header) if header.generation.segment == id => Ok(Condition::Generation(header)),
            Err(HeaderError::Newer(version)) => Err(ScanError::Newer {
                segment: id,
                version,
            }),
            // Its first header is written last. Behind one that decay took there may be mail.
            Err(HeaderError::Blank) if is_all_zeros(disk, id) => Ok(Condition::Blank),
            _ => {
                self.report.damage(id, 0, What::Header);
                Ok(Condition::Damaged)
            }
        }
    }

    /// Older segments first.
    fn read_logs(&mut self, disk: &mut dyn Disk, usage: Usage) {
        let mut of_usage: Vec<(usize, SegmentHeader)> = (self.segments.iter().enumerate())
            .filter_map(|(index, segment)| match &segment.condition {
                Condition::Generation(header) if header.usage == usage => {
                    Some((index, header.clone()))
                }
                _ => None,
            })
            .collect();
        of_usage.sort_by_key(|(_, header)| header.age());
        for (index, header) in of_usage {
            match usage {
                Usage::Messages => self.report.message_segments += 1,
                _ => self.report.outcome_segments += 1,
            }
            self.read_segment(disk, index, &header);
        }
    }

    fn read_segment(&mut self, disk: &mut dyn Disk, index: usize, header: &SegmentHeader) {
        let window_bytes = header.segment_bytes.min(WINDOW_BYTES as u64);
        let mut scan = SegmentScan::default();
        scan.window.buffer.resize(window_bytes as usize, 0);
        scan.run(disk, header, &mut |found, suspects, commits| {
            let FoundRecords {
                position, records, ..
            } = *found;
            self.report.commits += 1;
            self.segments[index].commits += 1;
            self.segments[index].records += records.len() as u64;
            for record in records {
                if let Err(what) = self.take(header, found, record) {
                    let at = position + record.offset as u64;
                    let message = Self::envelope_of(header, position, record, &what);
                    suspects.push(Suspect {
                        position: at,
                        what,
                        commits_before: commits,
                        message,
                    });
                }
            }
        });
        for suspect in scan.suspects {
            self.judge(index, scan.commits, suspect);
        }
    }

    /// Tells what a crash leaves from what it cannot: only the last writes of a generation can be
    /// unfinished, as many as are in flight at once.
    fn judge(&mut self, index: usize, commits: u64, suspect: Suspect) {
        let behind = commits - suspect.commits_before;
        let in_flight = IN_FLIGHT_MAX as u64;
        let commit = (index, suspect.commits_before);
        match suspect.what {
            What::Commit if behind < in_flight => self.report.torn += 1,
            // The damaged record's own commit is counted among those behind. If a crash cut it off is known
            // when all is read.
            What::Body(_) if behind <= in_flight => match suspect.message {
                Some(damaged) => self.torn.push(Torn {
                    commit,
                    position: suspect.position,
                    damaged: *damaged,
                }),
                None => _ = self.unfinished.insert(commit),
            },
            What::Gap(missing) if behind < in_flight && missing < in_flight => {
                self.report.holes += 1;
            }
            what => {
                self.name_damage(index, suspect.position, what);
                self.damaged.extend(suspect.message.map(|damaged| *damaged));
            }
        }
    }

    fn name_damage(&mut self, index: usize, position: u64, what: What) {
        self.segments[index].is_damaged = true;
        let id = self.segments[index].id;
        self.report.damage(id, position, what);
    }

    /// What a record with a damaged body still says of its message.
    fn envelope_of(
        header: &SegmentHeader,
        position: u64,
        record: &RecordView<'_>,
        what: &What,
    ) -> Option<Box<Damaged>> {
        let is_message = header.usage == Usage::Messages && record.kind == Kind::Message;
        if !is_message || !matches!(what, What::Body(_)) {
            return None;
        }
        let meta = MessageMeta::decode(record.meta).ok()?;
        let extent = extent_of(header, position, record);
        Some(Box::new(Damaged {
            message: FoundMessage {
                id: record.id,
                received_at: meta.received_at,
                envelope: meta.envelope,
                states: Vec::new(),
                body: FoundBody::Inline(extent),
                generation: header.generation,
                is_damaged: true,
                doubtful: Vec::new(),
            },
            states: meta.states,
        }))
    }

    fn take(
        &mut self,
        header: &SegmentHeader,
        found: &FoundRecords<'_>,
        record: &RecordView<'_>,
    ) -> Result<(), What> {
        // What the disk would not give now it may give later: whoever needs the body will see.
        if !found.has_unread && !record.is_whole() {
            return Err(What::Body(record.id));
        }
        let position = found.position;
        let unreadable = |_| What::Record(record.id);
        let extent = extent_of(header, position, record);
        match (header.usage, record.kind) {
            (Usage::Messages, Kind::Message) => {
                let meta = MessageMeta::decode(record.meta).map_err(unreadable)?;
                self.known.learn(None, record.id, meta.states);
                let body = FoundBody::Inline(extent);
                self.found(
                    record.id,
                    meta.received_at,
                    meta.envelope,
                    body,
                    header.generation,
                );
            }
            (Usage::Messages, Kind::Chunk) => {
                let sums = (extent.bytes, extent.checksum);
                self.chunks.insert((extent.generation, extent.offset), sums);
            }
            (Usage::Messages, Kind::Final) => {
                let mut meta = FinalMeta::decode(record.meta).map_err(unreadable)?;
                self.known
                    .learn(None, record.id, std::mem::take(&mut meta.states));
                self.finals.push(FoundFinal {
                    id: record.id,
                    meta,
                    generation: header.generation,
                    position: position + record.offset as u64,
                });
            }
            (Usage::Outcomes, Kind::Outcome) => {
                let outcome = decode_outcome(record.id, record.meta).map_err(unreadable)?;
                self.report.outcomes += 1;
                let index = self.index[&header.generation];
                self.known.learn(Some(index), record.id, outcome.recipients);
            }
            _ => return Err(What::Record(record.id)),
        }
        Ok(())
    }

    fn found(
        &mut self,
        id: MessageId,
        received_at: WallTime,
        envelope: Envelope,
        body: FoundBody,
        generation: Generation,
    ) {
        self.note_references(id, generation);
        let is_newest = self.is_newest(id, generation);
        let states = self.known.states(id, envelope.recipients.len());
        if states.iter().all(RecipientState::is_finished) || !is_newest {
            return;
        }
        self.messages.push(FoundMessage {
            id,
            received_at,
            envelope,
            states,
            body,
            generation,
            is_damaged: false,
            doubtful: Vec::new(),
        });
    }

    /// Messages whose content is damaged, unless there is another copy. A copy that is not whole can be found
    /// again as well: what says that its message is finished must outlive it.
    fn judge_damaged(&mut self) {
        for torn in std::mem::take(&mut self.torn) {
            let Torn {
                commit,
                position,
                damaged,
            } = torn;
            let id = damaged.message.id;
            let was_accepted = self.known.is_named(id);
            // Its head is whole, so what a copy says of its recipients is true. Outcomes that it covers may be gone.
            self.known.learn(None, id, damaged.states.clone());
            if !was_accepted || self.is_not_needed(&damaged.message) {
                self.unfinished.insert(commit);
                self.note_partial_copy(damaged.message.id, damaged.message.generation);
            } else {
                self.name_damage(commit.0, position, What::Body(damaged.message.id));
                self.damaged.push(damaged);
            }
        }
        self.report.torn += self.unfinished.len() as u64;
        for Damaged { message, states } in std::mem::take(&mut self.damaged) {
            let (id, generation) = (message.id, message.generation);
            self.known.learn(None, id, states);
            self.note_partial_copy(id, generation);
            if let Entry::Vacant(entry) = self.seen.entry(id) {
                entry.insert(generation);
                self.messages.push(message);
            }
        }
    }

    /// Of one in the last commits that was accepted, as an outcome that names it says: copies are made of what is
    /// whole elsewhere, or was until the last recipient was finished.
    fn is_not_needed(&self, message: &FoundMessage) -> bool {
        let states = self
            .known
            .states(message.id, message.envelope.recipients.len());
        self.seen.contains_key(&message.id) || states.iter().all(RecipientState::is_finished)
    }

    /// In `generation` is a copy of the message that is not whole.
    fn note_partial_copy(&mut self, id: MessageId, generation: Generation) {
        self.note_references(id, generation);
        let Some(&counts) = self.seen.get(&id) else {
            return;
        };
        self.report.duplicates += 1;
        if self.age(generation) > self.age(counts) {
            self.doubtful.entry(id).or_default().push(generation);
        } else {
            self.hold_newer(generation, counts);
        }
    }

    /// Two copies of one id are one message: the newest is used, and goes last.
    fn is_newest(&mut self, id: MessageId, generation: Generation) -> bool {
        let Some(other) = self.seen.insert(id, generation) else {
            return true;
        };
        self.report.duplicates += 1;
        let newer = self.hold_newer(other, generation);
        self.seen.insert(id, newer);
        self.age(other) < self.age(generation)
    }

    /// Of two segments with copies of one message: the newer one, which goes last.
    fn hold_newer(&mut self, one: Generation, other: Generation) -> Generation {
        let (older, newer) = match self.age(one) < self.age(other) {
            true => (one, other),
            false => (other, one),
        };
        if older != newer {
            let index = self.index[&newer];
            self.segments[index].held_by.insert(older);
        }
        newer
    }

    fn age(&self, generation: Generation) -> (u32, u64) {
        match &self.segments[self.index[&generation]].condition {
            Condition::Generation(header) => header.age(),
            _ => unreachable!("only generations are indexed"),
        }
    }

    /// Everything is read: now it is certain what is known of each message and which copy of it counts.
    fn decide(&mut self) {
        let found = std::mem::take(&mut self.messages);
        for mut message in found {
            if self.seen.get(&message.id) != Some(&message.generation) {
                continue;
            }
            message.states = self
                .known
                .states(message.id, message.envelope.recipients.len());
            let open = message.states.iter().filter(|s| !s.is_finished()).count();
            if open == 0 {
                continue;
            }
            message.doubtful = self.doubtful.remove(&message.id).unwrap_or_default();
            self.report.messages += 1;
            self.report.recipients_open += open as u64;
            self.count_live(&message.generations());
            self.messages.push(message);
        }
        self.report.finished = self.seen.len() as u64 - self.report.messages;
    }

    /// As long as the message can be found again, outcomes that name it are needed.
    fn note_references(&mut self, id: MessageId, generation: Generation) {
        let segments = &self.segments;
        let says_more = |index: usize| segments[index].is_damaged;
        for index in self.known.found(id, generation, says_more) {
            self.segments[index].refers_to.insert(generation);
        }
    }

    fn count_live(&mut self, generations: &[Generation]) {
        for generation in generations {
            if let Some(&index) = self.index.get(generation) {
                self.segments[index].live += 1;
            }
        }
    }

    fn join_chunks(&mut self) {
        let mut incomplete = Vec::new();
        for last in std::mem::take(&mut self.finals) {
            if self.is_complete(&last) {
                let body = FoundBody::Chunks(last.meta.extents);
                let FoundFinal { id, generation, .. } = last;
                self.found(
                    id,
                    last.meta.received_at,
                    last.meta.envelope,
                    body,
                    generation,
                );
            } else {
                incomplete.push(last);
            }
        }
        for last in incomplete {
            self.note_references(last.id, last.generation);
            let extents = &last.meta.extents;
            if let Some(&counts) = self.seen.get(&last.id) {
                // It has moved, and parts of the old copy went first; or parts of the new one are damaged.
                self.report.duplicates += 1;
                if self.age(last.generation) > self.age(counts) {
                    self.doubtful
                        .entry(last.id)
                        .or_default()
                        .push(last.generation);
                }
            } else if extents
                .iter()
                .any(|e| !self.is_message_generation(e.generation))
            {
                // A segment goes only when nothing in it is needed: the final record's write
                // failed, its sender was told so, and yet it reached the disk.
                self.report.let_go += 1;
            } else {
                self.seen.insert(last.id, last.generation);
                self.lose(last);
            }
        }
    }

    fn is_message_generation(&self, generation: Generation) -> bool {
        self.index.get(&generation).is_some_and(|&index| {
            matches!(&self.segments[index].condition,
                Condition::Generation(header) if header.usage == Usage::Messages)
        })
    }

    /// Parts of a finished message may be gone already: they are let go one by one.
    fn is_complete(&self, last: &FoundFinal) -> bool {
        let FinalMeta {
            extents, envelope, ..
        } = &last.meta;
        let mut states = self
            .known
            .states(last.id, envelope.recipients.len())
            .into_iter();
        states.all(|state| state.is_finished())
            || extents.iter().all(|extent| {
                self.chunks.get(&(extent.generation, extent.offset))
                    == Some(&(extent.bytes, extent.checksum))
            })
    }

    /// A large message of which parts are missing.
    fn lose(&mut self, last: FoundFinal) {
        let segment = last.generation.segment;
        self.report
            .damage(segment, last.position, What::Parts(last.id));
        self.messages.push(FoundMessage {
            id: last.id,
            received_at: last.meta.received_at,
            envelope: last.meta.envelope,
            states: Vec::new(),
            body: FoundBody::Chunks(last.meta.extents),
            generation: last.generation,
            is_damaged: true,
            doubtful: Vec::new(),
        });
    }

    fn finish(mut self) -> LogScan {
        for (index, held) in self.known.held() {
            let segment = &mut self.segments[index];
            let Condition::Generation(header) = &segment.condition else {
                continue;
            };
            if !segment.is_damaged && held.bytes * FOLDED_PARTS <= header.segment_bytes {
                segment.held_bytes = held.bytes;
                segment.held = held.outcomes;
            }
        }
        LogScan {
            segments: self.segments,
            messages: self.messages,
            report: self.report,
        }
    }
}
