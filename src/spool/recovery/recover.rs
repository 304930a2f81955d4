//! Opening a spool: lock, scan, begin a run, let go of what nothing needs, share out the rest.
//!
//! Blocking, before the rings start. The order is that of the running spool: message segments are
//! retired first, then the outcome segments that only they needed.

use crate::io::file::Durability;
use crate::io::{Bug, planted};
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::RecipientState;
use crate::spool::Settings;
use crate::spool::format::{Generation, RawExtent, SegmentHeader, SegmentId, Usage};
use crate::spool::location::place::Part;
use crate::spool::location::place::{Extent, Place, SegmentFile};
use crate::spool::log::segment::{FreeSegment, Purpose, Segments};
use crate::spool::presence::Presence;
use crate::spool::recovery::directory::{Directory, OpenError, exists, io_error};
use crate::spool::recovery::files::{scan_files, settle};
use crate::spool::recovery::fold::{Folded, fold};
use crate::spool::recovery::scan::FOLDED_PARTS;
use crate::spool::recovery::{
    Condition, FoundBody, FoundMessage, LogScan, RecoveryReport, ScannedSegment, What,
};
use crate::time::WallTime;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A message that an earlier run accepted and did not finish.
#[derive(Clone, Debug)]
pub struct RecoveredMessage {
    pub id: MessageId,
    pub received_at: WallTime,
    pub envelope: Envelope,
    /// One for each recipient of the envelope; at least one is not finished.
    pub states: Vec<RecipientState>,
    pub place: Place,
    /// The content is not what was written: nothing is left to deliver but a report.
    pub is_damaged: bool,
    /// The core whose [`Spool::message_finished`](crate::spool::Spool::message_finished) is to
    /// be told. New messages have `id.core` for that.
    pub home: u16,
}

/// An opened spool. Keep `directory` until the end: it holds the lock.
#[derive(Debug)]
pub struct Opened {
    pub directory: Directory,
    pub run: u32,
    pub messages: Vec<RecoveredMessage>,
    pub report: RecoveryReport,
    /// One for each core, in order; send each to its thread.
    pub parts: Vec<CorePart>,
}

/// What one core gets to start its [`Spool`](crate::spool::Spool) with.
#[derive(Debug)]
pub struct CorePart {
    pub(in crate::spool) core: u16,
    pub(in crate::spool) run: u32,
    pub(in crate::spool) settings: Settings,
    pub(in crate::spool) segments: Segments,
    pub(in crate::spool) presence: Arc<Presence>,
    /// All cores together may have this many segments; this is one core's share.
    pub(in crate::spool) segments_max: Option<u64>,
    pub(in crate::spool) next_number: u32,
    pub(in crate::spool) free: Vec<FreeSegment>,
    /// Oldest first.
    pub(in crate::spool) old_messages: Vec<OldSegment>,
    pub(in crate::spool) old_outcomes: Vec<(OldSegment, BTreeSet<Generation>)>,
    /// Where the log of outcomes goes on.
    pub(in crate::spool) folded: Option<Folded>,
    /// The last one that was given in this run.
    pub(in crate::spool) log_sequence: u64,
    /// Unfinished messages of this home.
    pub(in crate::spool) live: Vec<LiveMessage>,
}

impl CorePart {
    pub fn core(&self) -> u16 {
        self.core
    }

    /// All segments that it gets.
    fn files(&self) -> u64 {
        let in_use = self.old_messages.len() + self.old_outcomes.len();
        (in_use + self.free.len()) as u64 + u64::from(self.folded.is_some())
    }
}

/// An unfinished message, and the segments it needs.
#[derive(Debug)]
pub(in crate::spool) struct LiveMessage {
    pub id: MessageId,
    pub parts: Vec<Part>,
    pub recipients: u32,
}

/// A segment of an earlier run: read and retired here, never appended to.
#[derive(Debug)]
pub(in crate::spool) struct OldSegment {
    pub file: Arc<SegmentFile>,
    pub is_damaged: bool,
    /// Of a message segment: those that are to be retired before.
    pub held_by: BTreeSet<Generation>,
}

impl OldSegment {
    fn of(file: Arc<SegmentFile>) -> Self {
        OldSegment {
            file,
            is_damaged: false,
            held_by: BTreeSet::new(),
        }
    }
}

/// Free segments that a core starts with, if there are so many: the next one for outcomes, and one in reserve.
const FREE_MIN: usize = 2;

/// Opens the spool in `path`, making it if need be, for `cores` cores whatever their number was
/// before. Blocking; reads every log through.
pub fn open(path: &Path, settings: &Settings, cores: u16) -> Result<Opened, OpenError> {
    settings.check(cores)?;
    let directory = Directory::open(path, true)?;
    let segments = Segments::new(
        directory.segments(),
        settings.segment_bytes,
        settings.durability,
    )
    .map_err(io_error(directory.segments().display()))?;
    let was_direct = directory.take_direct_mark()?;
    settle(&segments, was_direct)?;
    if segments.durability() == Durability::Direct || planted(Bug::DirectMarkKept) {
        directory.mark_direct();
    }
    let found = scan_files(&segments)?;
    let run = match planted(Bug::RunsNotCounted) {
        true => 1,
        false => directory.last_run()?.max(found.report.last_run) + 1,
    };
    directory.begin_run(run)?;
    let presence = directory.presence()?;
    let mut opening = Opening::new(&segments, presence, settings, (run, cores))?;
    opening.sort(&found, settings)?;
    let messages = opening.place(&found)?;
    let mut report = found.report;
    for (id, error) in opening.unwritable {
        report.damage(id, 0, What::Unwritable(error.to_string()));
    }
    Ok(Opened {
        directory,
        run,
        messages,
        report,
        parts: opening.parts,
    })
}

/// Fails as [`open`] would, short of taking the lock and reading the logs; changes nothing. With
/// `is_made_before` whoever starts the relay makes the directory if it is missing.
pub fn check(
    path: &Path,
    settings: &Settings,
    cores: u16,
    is_made_before: bool,
) -> Result<(), OpenError> {
    settings.check(cores)?;
    let segments_path = Directory::check(path, is_made_before)?;
    if is_made_before && !exists(path) {
        return Ok(());
    }
    let failed = || io_error(segments_path.display());
    let segments = Segments::check(
        segments_path.clone(),
        settings.segment_bytes,
        settings.durability,
    )
    .map_err(failed())?;
    if !exists(&segments_path) {
        return Ok(());
    }
    let (usable, _) = segments.list().map_err(failed())?;
    for id in usable {
        let opened = segments.open(id);
        opened.map_err(io_error(segments_path.join(id.file_name()).display()))?;
    }
    Ok(())
}

fn segments_of(found: &LogScan, usage: Usage) -> Vec<(&ScannedSegment, &SegmentHeader)> {
    let generations = found
        .segments
        .iter()
        .filter_map(|segment| match &segment.condition {
            Condition::Generation(header) => Some((segment, header)),
            _ => None,
        });
    generations
        .filter(|(_, header)| header.usage == usage)
        .collect()
}

/// The parts while they are being filled.
struct Opening<'a> {
    segments: &'a Segments,
    run: u32,
    parts: Vec<CorePart>,
    files: BTreeMap<Generation, Arc<SegmentFile>>,
    /// The core that each old message segment is at home on.
    homes: BTreeMap<Generation, usize>,
    /// Segments that the disk has refused a write to.
    unwritable: Vec<(SegmentId, io::Error)>,
}

impl<'a> Opening<'a> {
    fn new(
        segments: &'a Segments,
        presence: Presence,
        settings: &Settings,
        (run, cores): (u32, u16),
    ) -> Result<Self, OpenError> {
        let presence = Arc::new(presence);
        let (_, known) = segments
            .list()
            .map_err(io_error(segments.path().display()))?;
        let parts = (0..cores).map(|core| CorePart {
            core,
            run,
            settings: settings.clone(),
            segments: segments.clone(),
            presence: presence.clone(),
            segments_max: settings
                .spool_bytes_max
                .map(|bytes| bytes / settings.segment_bytes / u64::from(cores)),
            next_number: known
                .iter()
                .filter(|id| id.core == core)
                .map(|id| id.number + 1)
                .max()
                .unwrap_or(0),
            free: Vec::new(),
            old_messages: Vec::new(),
            old_outcomes: Vec::new(),
            folded: None,
            log_sequence: 0,
            live: Vec::new(),
        });
        Ok(Opening {
            segments,
            run,
            parts: parts.collect(),
            files: BTreeMap::new(),
            homes: BTreeMap::new(),
            unwritable: Vec::new(),
        })
    }

    fn error(&self, id: SegmentId) -> impl FnOnce(io::Error) -> OpenError + use<> {
        io_error(
            self.segments
                .path()
                .join(id.file_name())
                .display()
                .to_string(),
        )
    }

    /// Every segment finds its use. Messages before outcomes: see the module's order.
    fn sort(&mut self, found: &LogScan, settings: &Settings) -> Result<(), OpenError> {
        let mut retired = BTreeSet::new();
        for segment in &found.segments {
            match &segment.condition {
                Condition::Damaged => {}
                Condition::Blank => self
                    .segments
                    .remove(segment.id)
                    .map_err(self.error(segment.id))?,
                Condition::Generation(header) if header.usage == Usage::Free => {
                    self.keep_free(header)?;
                }
                Condition::Generation(_) => {}
            }
        }
        let mut messages = segments_of(found, Usage::Messages);
        messages.sort_by_key(|(_, header)| header.age());
        for (segment, header) in messages {
            let held_by: BTreeSet<Generation> =
                segment.held_by.difference(&retired).copied().collect();
            if segment.live > 0 || !held_by.is_empty() {
                self.adopt_messages(segment, header, held_by)?;
            } else {
                self.retire(segment, header)?;
                retired.insert(header.generation);
            }
        }
        self.sort_outcomes(found, &retired)?;
        self.distribute(settings)
    }

    fn sort_outcomes(
        &mut self,
        found: &LogScan,
        retired: &BTreeSet<Generation>,
    ) -> Result<(), OpenError> {
        let mut unneeded = Vec::new();
        for (segment, header) in segments_of(found, Usage::Outcomes) {
            let refers_to: BTreeSet<Generation> =
                segment.refers_to.difference(retired).copied().collect();
            if refers_to.is_empty() {
                unneeded.push((segment, header));
            } else {
                let old = self.old(segment, header)?;
                let home = self.home(header.core);
                self.parts[home].old_outcomes.push((old, refers_to));
            }
        }
        // Only now: what is repeated elsewhere is on the disk there.
        for (segment, header) in unneeded {
            self.retire(segment, header)?;
        }
        self.fold_outcomes(found, retired)
    }

    /// So that restarts do not add up: see [`fold`](super::fold).
    fn fold_outcomes(
        &mut self,
        found: &LogScan,
        retired: &BTreeSet<Generation>,
    ) -> Result<(), OpenError> {
        if planted(Bug::OutcomesNotFolded) {
            return Ok(());
        }
        for home in 0..self.parts.len() {
            let is_here = |header: &SegmentHeader| {
                let old = self.parts[home].old_outcomes.iter();
                let mut generations = old.map(|(old, _)| old.file.generation);
                generations.any(|generation| generation == header.generation)
            };
            let mut folding = segments_of(found, Usage::Outcomes);
            folding.retain(|(segment, header)| !segment.held.is_empty() && is_here(header));
            folding.sort_by_key(|(segment, _)| segment.held_bytes);
            while self.fold_some(home, &mut folding, retired)? {}
        }
        Ok(())
    }

    /// As many as one segment has room for, and two if there are two. False if there is nothing to do, or no segment for it.
    fn fold_some(
        &mut self,
        home: usize,
        folding: &mut Vec<(&ScannedSegment, &SegmentHeader)>,
        retired: &BTreeSet<Generation>,
    ) -> Result<bool, OpenError> {
        let segment_bytes = self.segments.segment_bytes();
        let room = segment_bytes - segment_bytes / FOLDED_PARTS;
        let sums = folding.iter().scan(0, |sum, (segment, _)| {
            *sum += segment.held_bytes;
            Some(*sum)
        });
        let count = sums.take_while(|sum| *sum <= room).count();
        let some: Vec<_> = folding.drain(..count).collect();
        if some.is_empty() {
            return Ok(false);
        }
        let Some(free) = self.take_free(home) else {
            return Ok(false);
        };
        if planted(Bug::FoldedEarly) {
            self.retire_folded(home, &some)?;
        }
        let id = free.generation.segment;
        let part = &mut self.parts[home];
        part.log_sequence += 1;
        let purpose = Purpose {
            usage: Usage::Outcomes,
            core: part.core,
            run: self.run,
            log_sequence: part.log_sequence,
        };
        let outcomes = some.iter().flat_map(|(segment, _)| &segment.held);
        let outcomes = outcomes.filter(|it| it.found_in.iter().any(|it| !retired.contains(it)));
        let prepared = self.segments.begin_generation(free, purpose);
        match prepared.and_then(|prepared| fold(prepared, outcomes)) {
            Ok(mut folded) => {
                folded.refers_to.retain(|it| !retired.contains(it));
                let full = self.parts[home].folded.replace(folded);
                let full = full.map(|it| (OldSegment::of(it.file().clone()), it.refers_to));
                self.parts[home].old_outcomes.extend(full);
                self.retire_folded(home, &some)?;
                Ok(true)
            }
            Err(error) => {
                // The old ones stay. What is in this one they say, too.
                let _ = self.segments.set_aside(id);
                self.unwritable.push((id, error));
                Ok(false)
            }
        }
    }

    fn retire_folded(
        &mut self,
        home: usize,
        some: &[(&ScannedSegment, &SegmentHeader)],
    ) -> Result<(), OpenError> {
        for (segment, header) in some {
            let old_outcomes = &mut self.parts[home].old_outcomes;
            old_outcomes.retain(|(old, _)| old.file.generation != header.generation);
            self.retire(segment, header)?;
        }
        Ok(())
    }

    /// Of this core, else of another one, else a new one.
    fn take_free(&mut self, home: usize) -> Option<FreeSegment> {
        let core_with_most_spares = self.core_with_most_spares();
        let own = self.parts[home].free.pop();
        if let Some(free) = own.or_else(|| self.parts[core_with_most_spares].free.pop()) {
            return Some(free);
        }
        let part = &mut self.parts[home];
        let segment = SegmentId {
            core: part.core,
            number: part.next_number,
        };
        part.next_number += 1;
        Some(FreeSegment {
            file: self.segments.create(segment).ok()?,
            generation: Generation { segment, number: 0 },
        })
    }

    fn core_with_most_spares(&self) -> usize {
        let parts = self.parts.iter().enumerate();
        let core_with_most_spares = parts.max_by_key(|(_, part)| part.free.len());
        core_with_most_spares.map_or(0, |(core, _)| core)
    }

    /// Free segments above the bound go. A core without any gets some of another's: it could not begin on a full disk.
    fn distribute(&mut self, settings: &Settings) -> Result<(), OpenError> {
        let most = settings.spool_bytes_max.unwrap_or(u64::MAX) / settings.segment_bytes;
        let mut files: u64 = self.parts.iter().map(CorePart::files).sum();
        loop {
            let core_with_most_spares = self.core_with_most_spares();
            if self.parts[core_with_most_spares].free.len() <= FREE_MIN {
                return Ok(());
            }
            let poor = self
                .parts
                .iter()
                .position(|part| part.free.len() < FREE_MIN);
            if files <= most && poor.is_none() {
                return Ok(());
            }
            let Some(free) = self.parts[core_with_most_spares].free.pop() else {
                return Ok(());
            };
            match poor {
                Some(poor) => self.parts[poor].free.push(free),
                None => {
                    let id = free.generation.segment;
                    self.segments.remove(id).map_err(self.error(id))?;
                    files -= 1;
                }
            }
        }
    }

    fn home(&self, core: u16) -> usize {
        usize::from(core) % self.parts.len()
    }

    fn keep_free(&mut self, header: &SegmentHeader) -> Result<(), OpenError> {
        let id = header.generation.segment;
        if header.segment_bytes != self.segments.segment_bytes() {
            return self.segments.remove(id).map_err(self.error(id));
        }
        let file = self.segments.open(id).map_err(self.error(id))?;
        let length = file.blocking().links_and_length();
        if length.map_err(self.error(id))?.1 < header.segment_bytes {
            return self.segments.remove(id).map_err(self.error(id));
        }
        let free = FreeSegment {
            generation: header.generation,
            file,
        };
        let home = self.home(id.core);
        self.parts[home].free.push(free);
        Ok(())
    }

    /// Lets go of a segment that nothing needs. One with damage is set aside for somebody to see.
    fn retire(
        &mut self,
        segment: &ScannedSegment,
        header: &SegmentHeader,
    ) -> Result<(), OpenError> {
        let id = segment.id;
        if segment.is_damaged {
            return self.segments.set_aside(id).map_err(self.error(id));
        }
        if header.segment_bytes != self.segments.segment_bytes() {
            return self.segments.remove(id).map_err(self.error(id));
        }
        let file = self.segments.open(id).map_err(self.error(id))?;
        let free = self
            .segments
            .end_generation(header.generation, &file, self.run)
            .map_err(self.error(id))?;
        let home = self.home(id.core);
        self.parts[home].free.push(free);
        Ok(())
    }

    fn old(
        &mut self,
        segment: &ScannedSegment,
        header: &SegmentHeader,
    ) -> Result<OldSegment, OpenError> {
        let id = segment.id;
        let file = self.segments.open(id).map_err(self.error(id))?;
        let file = Arc::new(SegmentFile {
            generation: header.generation,
            segment_bytes: header.segment_bytes,
            file,
        });
        Ok(OldSegment {
            is_damaged: segment.is_damaged,
            ..OldSegment::of(file)
        })
    }

    fn adopt_messages(
        &mut self,
        segment: &ScannedSegment,
        header: &SegmentHeader,
        held_by: BTreeSet<Generation>,
    ) -> Result<(), OpenError> {
        let old = OldSegment {
            held_by,
            ..self.old(segment, header)?
        };
        let home = self.home(header.core);
        self.files.insert(header.generation, old.file.clone());
        self.homes.insert(header.generation, home);
        self.parts[home].old_messages.push(old);
        Ok(())
    }

    /// Places for all messages, and their homes' books.
    fn place(&mut self, found: &LogScan) -> Result<Vec<RecoveredMessage>, OpenError> {
        let mut messages = Vec::with_capacity(found.messages.len());
        for message in &found.messages {
            let mut parts = message.parts();
            // A copy of a time with another number of cores may be in another's log.
            parts.retain(|(generation, _)| {
                self.homes[generation] == self.homes[&message.generation]
            });
            let home = self.keep_live(message.id, parts, message.states.len() as u32);
            messages.push(RecoveredMessage {
                id: message.id,
                received_at: message.received_at,
                envelope: message.envelope.clone(),
                states: message.states.clone(),
                place: self.place_of(message),
                is_damaged: message.is_damaged,
                home: home as u16,
            });
        }
        Ok(messages)
    }

    /// All parts of a message are in one log, so they have one home.
    fn keep_live(&mut self, id: MessageId, parts: Vec<Part>, recipients: u32) -> usize {
        let home = parts
            .first()
            .map_or(0, |(generation, _)| self.homes[generation]);
        assert!(
            parts
                .iter()
                .all(|(generation, _)| self.homes[generation] == home)
        );
        let live = LiveMessage {
            id,
            parts,
            recipients,
        };
        self.parts[home].live.push(live);
        home
    }

    fn place_of(&self, message: &FoundMessage) -> Place {
        let extent = |raw: &RawExtent| Extent {
            segment: self.files[&raw.generation].clone(),
            offset: raw.offset,
            bytes: raw.bytes,
            checksum: raw.checksum,
        };
        let envelope_bytes = u32::try_from(message.envelope_bytes()).unwrap_or(u32::MAX);
        let place = match &message.body {
            FoundBody::Inline(raw) => Place::inline(extent(raw), envelope_bytes),
            FoundBody::Chunks(raw) => Place::chunks(
                raw.iter().map(extent).collect(),
                self.files[&message.generation].clone(),
                envelope_bytes,
            ),
        };
        let is_home =
            |generation: &&Generation| self.homes[generation] == self.homes[&message.generation];
        let doubtful = message.doubtful.iter().filter(is_home);
        doubtful.fold(place, |place, generation| {
            place.with_possible_copy(self.files[generation].clone())
        })
    }
}
