//! Where the next segment comes from, and how many there may still be.

use crate::io::file::free_bytes_blocking;
use crate::spool::Settings;
use crate::spool::format::{Generation, SegmentId, Usage};
use crate::spool::log::segment::{FreeSegment, PreparedSegment, Purpose, Segments};
use crate::spool::shortage::Lack;
use std::collections::VecDeque;
use std::io;

/// Segments' worth of room that is left to moves when mail is refused: enough to empty two
/// segments that are worth it.
pub(super) const MOVE_RESERVE_SEGMENTS: u64 = 1;

/// Segments that messages leave for outcomes when space is bounded.
const OUTCOME_RESERVE: u64 = 1;

/// Where the next segment comes from.
#[derive(Debug)]
pub(super) struct Pool {
    pub segments: Segments,
    core: u16,
    run: u32,
    pub free: VecDeque<FreeSegment>,
    /// Segment files of this core, whatever they are used for.
    pub files: u64,
    files_max: Option<u64>,
    /// The same of all cores, in bytes.
    bytes_max: Option<u64>,
    keep_free_bytes: u64,
    /// What the file system has, as of the last look at it. `None`: it does not say.
    free_bytes: Option<u64>,
    /// How many more files messages may make, as of that look; and whether the setting or the disk bounds them.
    pub creatable: u64,
    is_bound_by_size: bool,
    next_number: u32,
    /// The last one that was given in this run.
    log_sequence: u64,
    /// Why the last attempt to make or begin a segment failed, if it did.
    pub failing: Option<Lack>,
    /// Why the last look at the file system failed, if it did.
    blind: Option<Lack>,
    /// What the last look at the spool's names has found.
    astray: Option<Lack>,
    /// A segment for messages is being prepared.
    pub coming: bool,
    pub retired: u64,
}

impl Pool {
    pub fn new(
        segments: Segments,
        (core, run): (u16, u32),
        settings: &Settings,
        files_max: Option<u64>,
        (next_number, log_sequence): (u32, u64),
    ) -> Self {
        Pool {
            segments,
            core,
            run,
            free: VecDeque::new(),
            files: 0,
            files_max,
            bytes_max: settings.spool_bytes_max,
            keep_free_bytes: settings.keep_free_bytes,
            free_bytes: None,
            creatable: 0,
            is_bound_by_size: false,
            next_number,
            log_sequence,
            failing: None,
            blind: None,
            astray: None,
            coming: false,
            retired: 0,
        }
    }

    pub fn adopt(&mut self, free: Vec<FreeSegment>, others: usize) {
        self.files += (free.len() + others) as u64;
        self.free.extend(free);
    }

    /// More than there may be, and some are free: what gets free now is given back.
    pub fn is_excessive(&self) -> bool {
        let exceeds = self.files_max.is_some_and(|most| self.files > most);
        exceeds && self.free.len() as u64 > OUTCOME_RESERVE
    }

    /// Segments that messages may still get, as far as we know.
    pub fn available(&self) -> u64 {
        let untried = match self.missing() {
            Some(_) => self.free.len() as u64,
            None => self.free.len() as u64 + self.creatable,
        };
        untried.saturating_sub(OUTCOME_RESERVE) + u64::from(self.coming)
    }

    /// The core has a number of segments to itself.
    pub fn is_bounded(&self) -> bool {
        self.files_max.is_some()
    }

    /// What messages could have if nothing else were there: the rest is for outcomes and for moves.
    pub fn bytes_for_messages(&self) -> u64 {
        let segments = self.files + self.creatable;
        segments.saturating_sub(Settings::SEGMENTS_PER_CORE_MIN) * self.segment_bytes()
    }

    /// What keeps new segments from being made, room aside.
    pub fn missing(&self) -> Option<&Lack> {
        let seen = self.astray.as_ref().or(self.failing.as_ref());
        seen.or(self.blind.as_ref())
    }

    /// Why mail cannot be taken while there is no segment for it.
    pub fn lack(&self) -> Lack {
        match (self.missing(), self.bytes_max) {
            (Some(lack), _) => lack.clone(),
            (None, Some(most)) if self.is_bound_by_size => Lack::Size(most),
            (None, _) => Lack::KeepFree(self.keep_free_bytes),
        }
    }

    /// What was accepted now would not be found by a next start.
    pub fn is_gone(&self) -> bool {
        matches!(self.astray, Some(Lack::Gone(_)))
    }

    /// What a look at the names has found.
    pub fn seen(&mut self, lack: Option<Lack>) {
        self.astray = lack;
    }

    pub fn used_bytes(&self) -> u64 {
        self.files * self.segment_bytes()
    }

    pub fn free_bytes(&self) -> Option<u64> {
        self.free_bytes
    }

    /// It makes sense to wait for a segment for messages.
    pub fn may_come(&self) -> bool {
        self.available() > 0
    }

    /// The next segment for messages may be the last for a while.
    pub fn is_scarce(&self) -> bool {
        self.available() <= 1
    }

    /// A segment for messages would have to be made, or is not to be had.
    pub fn is_short(&self) -> bool {
        self.free.is_empty() || self.is_scarce()
    }

    /// No further segment is to be had, not for outcomes either.
    pub fn is_exhausted(&self) -> bool {
        self.free.is_empty() && (self.creatable == 0 || self.missing().is_some())
    }

    pub fn segment_bytes(&self) -> u64 {
        self.segments.segment_bytes()
    }

    pub fn free_segments(&self) -> u64 {
        self.free.len() as u64
    }

    pub fn retired_segments(&self) -> u64 {
        self.retired
    }

    /// Asks the file system how many more files there may be.
    pub fn look(&mut self) {
        let by_setting = match self.files_max {
            Some(most) => most.saturating_sub(self.files),
            None => u64::MAX,
        };
        let asked = free_bytes_blocking(self.segments.path());
        self.blind = match &asked {
            Ok(_) => None,
            Err(error) => Some(Lack::of(self.segments.path().display(), error)),
        };
        self.free_bytes = asked.ok();
        // Unknown space is no space: nothing is made until the question is answered.
        let free_bytes = self.free_bytes.unwrap_or(0);
        let by_disk = free_bytes.saturating_sub(self.keep_free_bytes) / self.segment_bytes();
        self.creatable = by_setting.min(by_disk);
        self.is_bound_by_size = by_setting <= by_disk;
    }

    /// What a helper thread needs to prepare a segment; `None` if there is none to be had.
    pub fn job(&mut self, usage: Usage, counts_links: bool) -> Option<Job> {
        let untried = self.free.len() as u64 + self.creatable;
        if usage == Usage::Messages && untried <= OUTCOME_RESERVE {
            return None;
        }
        self.coming = usage == Usage::Messages;
        let source = match self.free.pop_front() {
            Some(free) => Source::Free(free),
            None => Source::New(self.new_id()),
        };
        self.log_sequence += 1;
        Some(Job {
            segments: self.segments.clone(),
            source,
            counts_links,
            purpose: Purpose {
                usage,
                core: self.core,
                run: self.run,
                log_sequence: self.log_sequence,
            },
        })
    }

    fn new_id(&mut self) -> SegmentId {
        let number = self.next_number;
        self.next_number += 1;
        self.files += 1;
        SegmentId {
            core: self.core,
            number,
        }
    }
}

enum Source {
    Free(FreeSegment),
    New(SegmentId),
}

pub(super) struct Job {
    segments: Segments,
    source: Source,
    /// If the file system tells how many names a file has.
    counts_links: bool,
    purpose: Purpose,
}

impl Job {
    /// Blocking. On an error the file is gone or set aside, as far as the disk lets us.
    pub fn run(self) -> Result<PreparedSegment, Lack> {
        let directory = self.segments.path().to_owned();
        let what = format!("a segment cannot be made in {}", directory.display());
        self.prepare().map_err(|error| Lack::of(what, &error))
    }

    fn prepare(self) -> io::Result<PreparedSegment> {
        let free = match self.source {
            Source::Free(free) => self.segments.restore(free, self.counts_links)?,
            Source::New(id) => FreeSegment {
                generation: Generation {
                    segment: id,
                    number: 0,
                },
                file: self.segments.create(id)?,
            },
        };
        let id = free.generation.segment;
        let prepared = self.segments.begin_generation(free, self.purpose);
        if prepared.is_err() {
            // A header that may or may not be there: recovery finds an empty generation, or nothing.
            let _ = self.segments.set_aside(id);
        }
        prepared
    }
}
