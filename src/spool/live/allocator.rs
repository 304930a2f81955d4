//! Segments ahead of need, and away after use: one task per core.
//!
//! Works off the ring's thread for all that blocks: filling with zeros, headers. Outcomes come
//! first: mail is only admitted while outcomes have a segment in reserve, so that what was
//! accepted can always be finished.

use crate::io::file::free_bytes_blocking;
use crate::io::runtime::{blocking, sleep, timeout};
use crate::io::{Bug, planted};
use crate::spool::format::{Lap, SegmentId, Usage};
use crate::spool::live::driver::Shared;
use crate::spool::location::place::SegmentFile;
use crate::spool::log::segment::{FreeSegment, PreparedSegment, Purpose, Segments};
use crate::spool::shortage::Lack;
use crate::spool::{Note, Settings};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long after a failure, or while a reader still holds an idle segment, to try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Laps that messages have prepared ahead; outcomes have one.
const MESSAGE_SPARES: usize = 2;

/// Segments that messages leave for outcomes when space is bounded.
const OUTCOME_RESERVE: u64 = 1;

/// Where the next segment comes from.
#[derive(Debug)]
pub(in crate::spool) struct Pool {
    segments: Segments,
    core: u16,
    run: u32,
    free: VecDeque<FreeSegment>,
    /// Segment files of this core, whatever they are used for.
    files: u64,
    files_max: Option<u64>,
    /// The same of all cores, in bytes.
    bytes_max: Option<u64>,
    keep_free_bytes: u64,
    /// What the file system has, as of the last look at it. `None`: it does not say.
    free_bytes: Option<u64>,
    /// How many more files messages may make, as of that look; and whether the setting or the disk bounds them.
    creatable: u64,
    is_bound_by_size: bool,
    next_number: u32,
    next_log_sequence: u64,
    /// Why the last attempt to make or begin a segment failed, if it did.
    failing: Option<Lack>,
    /// Why the last look at the file system failed, if it did.
    blind: Option<Lack>,
    /// What the last look at the spool's names has found.
    astray: Option<Lack>,
    /// A segment for messages is being prepared.
    coming: bool,
    retired: u64,
}

impl Pool {
    pub fn new(
        segments: Segments,
        (core, run): (u16, u32),
        settings: &Settings,
        files_max: Option<u64>,
        next_number: u32,
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
            next_log_sequence: 0,
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

    /// Segments that messages may still get, as far as we know.
    pub fn available(&self) -> u64 {
        let untried = match self.hindrance() {
            Some(_) => self.free.len() as u64,
            None => self.free.len() as u64 + self.creatable,
        };
        untried.saturating_sub(OUTCOME_RESERVE) + u64::from(self.coming)
    }

    /// What keeps new segments from being made, room aside.
    pub fn hindrance(&self) -> Option<&Lack> {
        let seen = self.astray.as_ref().or(self.failing.as_ref());
        seen.or(self.blind.as_ref())
    }

    /// Why mail cannot be taken while there is no segment for it.
    pub fn lack(&self) -> Lack {
        match (self.hindrance(), self.bytes_max) {
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
    fn is_short(&self) -> bool {
        self.free.is_empty() || self.is_scarce()
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
    fn look(&mut self) {
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
    fn job(&mut self, usage: Usage, counts_links: bool) -> Option<Job> {
        let untried = self.free.len() as u64 + self.creatable;
        if usage == Usage::Messages && untried <= OUTCOME_RESERVE {
            return None;
        }
        self.coming = usage == Usage::Messages;
        let source = match self.free.pop_front() {
            Some(free) => Source::Free(free),
            None => Source::New(self.new_id()),
        };
        self.next_log_sequence += 1;
        Some(Job {
            segments: self.segments.clone(),
            source,
            counts_links,
            purpose: Purpose {
                usage,
                core: self.core,
                run: self.run,
                log_sequence: self.next_log_sequence,
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

struct Job {
    segments: Segments,
    source: Source,
    /// If the file system tells how many names a file has.
    counts_links: bool,
    purpose: Purpose,
}

impl Job {
    /// Blocking. On an error the file is gone or set aside, as far as the disk lets us.
    fn run(self) -> Result<PreparedSegment, Lack> {
        let directory = self.segments.path().to_owned();
        let what = format!("a segment cannot be made in {}", directory.display());
        self.prepare().map_err(|error| Lack::of(what, &error))
    }

    fn prepare(self) -> io::Result<PreparedSegment> {
        let free = match self.source {
            Source::Free(free) if self.counts_links => self.segments.restore(free)?,
            Source::Free(free) => free,
            Source::New(id) => FreeSegment {
                lap: Lap {
                    segment: id,
                    generation: 0,
                },
                file: self.segments.create(id)?,
            },
        };
        let id = free.lap.segment;
        let prepared = self.segments.begin_lap(free, self.purpose);
        if prepared.is_err() {
            // A header that may or may not be there: recovery finds an empty lap, or nothing.
            let _ = self.segments.set_aside(id);
        }
        prepared
    }
}

/// The keeper's task: runs until the spool has closed.
pub(in crate::spool) async fn keep(shared: Rc<Shared>) {
    while !shared.is_closed() {
        let retired = retire(&shared).await;
        let prepared = prepare(&shared).await;
        if retired == Progress::Some || prepared == Progress::Some {
            continue;
        }
        let notified = shared.keeper.notified();
        match retired == Progress::Stuck || prepared == Progress::Stuck {
            true => drop(timeout(RETRY_DELAY, notified).await),
            false => notified.await,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing to do.
    Nothing,
    /// Something was done; there may be more.
    Some,
    /// Something is to be done that cannot be done now.
    Stuck,
}

/// Prepares the one segment that is wanted most.
async fn prepare(shared: &Rc<Shared>) -> Progress {
    let usage = if shared.outcomes.machine.borrow().spares() == 0 {
        Usage::Outcomes
    } else if shared.messages.machine.borrow().spares() < MESSAGE_SPARES {
        Usage::Messages
    } else {
        shared.settle();
        return Progress::Nothing;
    };
    let job = {
        let mut pool = shared.pool.borrow_mut();
        pool.look();
        if pool.is_short() {
            shared.mover.notify_one();
        }
        pool.job(usage, shared.presence.counts_links())
    };
    let Some(job) = job else {
        shared.nothing_to_be_had();
        shared.settle();
        return Progress::Stuck;
    };
    let result = blocking(move || job.run()).await;
    shared.pool.borrow_mut().coming = false;
    match result {
        Ok(prepared) => {
            supply(shared, usage, prepared);
            Progress::Some
        }
        Err(lack) => {
            failed(shared, lack);
            shared.settle();
            // Not at once: a disk that refuses everything would cost a segment each turn.
            sleep(RETRY_DELAY).await;
            Progress::Stuck
        }
    }
}

fn supply(shared: &Rc<Shared>, usage: Usage, prepared: PreparedSegment) {
    shared.pool.borrow_mut().failing = None;
    let PreparedSegment { header, file } = prepared;
    let file = Arc::new(SegmentFile {
        lap: header.lap,
        segment_bytes: header.segment_bytes,
        file,
    });
    shared.supply(usage, header, file);
    shared.pool.borrow_mut().look();
}

fn failed(shared: &Rc<Shared>, lack: Lack) {
    {
        let mut pool = shared.pool.borrow_mut();
        // A new file that failed was removed; an old one is set aside and is not ours any more.
        pool.files = pool.files.saturating_sub(1);
        pool.creatable = 0;
        pool.failing = Some(lack);
    }
    shared.tell_of_trouble();
    shared.nothing_to_be_had();
}

/// Retires what is idle and not read by anybody.
async fn retire(shared: &Rc<Shared>) -> Progress {
    let mut progress = Progress::Nothing;
    for usage in [Usage::Messages, Usage::Outcomes] {
        for lap in shared.idle(usage) {
            let Some(segment) = shared.take_unread(lap) else {
                progress = Progress::Stuck;
                continue;
            };
            if planted(Bug::NotesEarly) && usage == Usage::Messages {
                let moved_to = Arc::new([]);
                (shared.sink)(Note::SegmentRetired { lap, moved_to });
            }
            match retire_one(shared, segment).await {
                Ok(free) => {
                    let mut pool = shared.pool.borrow_mut();
                    pool.retired += 1;
                    match free {
                        Some(free) => pool.free.push_back(free),
                        None => pool.files -= 1,
                    }
                    pool.look();
                    drop(pool);
                    shared.segment_retired(usage, lap);
                    progress = Progress::Some;
                }
                Err((segment, error)) => {
                    shared.mark_bad(lap);
                    shared.put_back(segment);
                    let error = error.to_string();
                    (shared.sink)(Note::SegmentFailed { lap, error });
                    return Progress::Stuck;
                }
            }
        }
    }
    progress
}

/// Durable when it returns. `None`: the file is not to be used again.
async fn retire_one(
    shared: &Rc<Shared>,
    segment: SegmentFile,
) -> Result<Option<FreeSegment>, (SegmentFile, io::Error)> {
    let segments = shared.pool.borrow().segments.clone();
    let is_bad = shared.is_bad(segment.lap);
    let run = shared.run;
    blocking(move || {
        let id = segment.lap.segment;
        let result = if is_bad {
            segments.set_aside(id).map(|()| None)
        } else if segment.segment_bytes != segments.segment_bytes() {
            segments.remove(id).map(|()| None)
        } else {
            let ended = segments.end_lap(segment.lap, &segment.file, run);
            match ended {
                Err(_) if planted(Bug::FailedRetirementTaken) => Ok(Some(FreeSegment {
                    lap: segment.lap,
                    file: segment.file.clone(),
                })),
                ended => ended.map(Some),
            }
        };
        result.map_err(|error| (segment, error))
    })
    .await
}
