//! Opening a spool: lock, scan, begin a run, let go of what nothing needs, share out the rest.
//!
//! Blocking, before the rings start. The order is that of the running spool: message segments are
//! retired first, then the outcome segments that only they needed.

use crate::io::fs::{self, FileExt};
use crate::io::{Bug, planted};
use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::RecipientState;
use crate::spool::Settings;
use crate::spool::format::{Generation, RawExtent, SegmentHeader, SegmentId, Usage};
use crate::spool::location::place::Part;
use crate::spool::location::place::{Extent, Place, SegmentFile};
use crate::spool::log::segment::{FreeSegment, Segments};
use crate::spool::presence::Presence;
use crate::spool::recovery::directory::{Directory, OpenError, exists, io_error};
use crate::spool::recovery::{
    Condition, Disk, FoundBody, FoundMessage, LogScan, RecoveryReport, ScanError, ScannedSegment,
    scan_logs,
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
    /// Unfinished messages of this home, and the segments they need.
    pub(in crate::spool) live: Vec<(MessageId, Vec<Part>)>,
}

impl CorePart {
    pub fn core(&self) -> u16 {
        self.core
    }
}

/// A segment of an earlier run: read and retired here, never appended to.
#[derive(Debug)]
pub(in crate::spool) struct OldSegment {
    pub file: Arc<SegmentFile>,
    pub is_damaged: bool,
    /// Of a message segment: those that are to be retired before.
    pub held_by: BTreeSet<Generation>,
}

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
    let found = scan_files(&segments)?;
    let run = match planted(Bug::RunsNotCounted) {
        true => 1,
        false => directory.last_run()?.max(found.report.last_run) + 1,
    };
    directory.begin_run(run)?;
    let presence = directory.presence()?;
    let mut opening = Opening::new(&segments, presence, settings, (run, cores))?;
    opening.sort(&found)?;
    let messages = opening.place(&found)?;
    Ok(Opened {
        directory,
        run,
        messages,
        report: found.report,
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

pub(in crate::spool) fn scan_files(segments: &Segments) -> Result<LogScan, OpenError> {
    scan_logs(&mut Files {
        segments,
        open: None,
    })
    .map_err(|error| match error {
        ScanError::Io(error) => {
            OpenError::Io(format!("reading {}", segments.path().display()), error)
        }
        ScanError::Newer { segment, version } => OpenError::Newer {
            what: segments.path().join(segment.file_name()),
            version,
        },
    })
}

/// The real disk, read through the page cache: recovery wants reading ahead, not durability.
struct Files<'a> {
    segments: &'a Segments,
    open: Option<(SegmentId, fs::File)>,
}

impl Disk for Files<'_> {
    fn segments(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.segments.list()?.0)
    }

    fn read(&mut self, segment: SegmentId, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.open.as_ref().is_none_or(|(id, _)| *id != segment) {
            let path = self.segments.path().join(segment.file_name());
            self.open = Some((segment, fs::File::open(path)?));
        }
        let (_, file) = self.open.as_ref().expect("just opened");
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

fn message_segments(found: &LogScan) -> Vec<(&ScannedSegment, &SegmentHeader)> {
    let generations = found
        .segments
        .iter()
        .filter_map(|segment| match &segment.condition {
            Condition::Generation(header) => Some((segment, header)),
            _ => None,
        });
    generations
        .filter(|(_, header)| header.usage == Usage::Messages)
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
            live: Vec::new(),
        });
        Ok(Opening {
            segments,
            run,
            parts: parts.collect(),
            files: BTreeMap::new(),
            homes: BTreeMap::new(),
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
    fn sort(&mut self, found: &LogScan) -> Result<(), OpenError> {
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
        let mut messages = message_segments(found);
        messages.sort_by_key(|(_, header)| (header.run, header.log_sequence));
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
        self.sort_outcomes(found, &retired)
    }

    fn sort_outcomes(
        &mut self,
        found: &LogScan,
        retired: &BTreeSet<Generation>,
    ) -> Result<(), OpenError> {
        for segment in &found.segments {
            let Condition::Generation(header) = &segment.condition else {
                continue;
            };
            if header.usage != Usage::Outcomes {
                continue;
            }
            let refers_to: BTreeSet<Generation> =
                segment.refers_to.difference(retired).copied().collect();
            if refers_to.is_empty() {
                self.retire(segment, header)?;
            } else {
                let old = self.old(segment, header)?;
                let home = self.home(header.core);
                self.parts[home].old_outcomes.push((old, refers_to));
            }
        }
        Ok(())
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
        // What was read may have come from the page cache; what follows relies on the disk.
        file.blocking().sync_all().map_err(self.error(id))?;
        Ok(OldSegment {
            file: Arc::new(SegmentFile {
                generation: header.generation,
                segment_bytes: header.segment_bytes,
                file,
            }),
            is_damaged: segment.is_damaged,
            held_by: BTreeSet::new(),
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
            let home = self.keep_live(message.id, parts);
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
    fn keep_live(&mut self, id: MessageId, parts: Vec<Part>) -> usize {
        let home = parts
            .first()
            .map_or(0, |(generation, _)| self.homes[generation]);
        assert!(
            parts
                .iter()
                .all(|(generation, _)| self.homes[generation] == home)
        );
        self.parts[home].live.push((id, parts));
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
            place.doubting(self.files[generation].clone())
        })
    }
}
