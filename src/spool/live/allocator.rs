//! Segments ahead of need, and away after use: one task per core.
//!
//! Works off the ring's thread for all that blocks: filling with zeros, headers. Outcomes come
//! first: mail is only admitted while outcomes have a segment in reserve, so that what was
//! accepted can always be finished.

use crate::io::runtime::{blocking, sleep, timeout};
use crate::io::{Bug, planted};
use crate::spool::Note;
use crate::spool::format::Usage;
use crate::spool::live::shared::Shared;
use crate::spool::location::place::SegmentFile;
use crate::spool::log::segment::{FreeSegment, PreparedSegment};
use crate::spool::shortage::Lack;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long after a failure, or while a reader still holds an idle segment, to try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Segments that messages have prepared ahead; outcomes have one.
const MESSAGE_SPARES: usize = 2;

/// The allocator's task: runs until the spool has closed.
pub(super) async fn run(shared: Rc<Shared>) {
    while !shared.is_closed() {
        let retired = retire(&shared).await;
        let prepared = prepare(&shared).await;
        if retired == Progress::Some || prepared == Progress::Some {
            continue;
        }
        let notified = shared.allocator.notified();
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
        shared.set_prepared();
        return Progress::Nothing;
    };
    let job = {
        let mut pool = shared.pool.borrow_mut();
        pool.look();
        if pool.is_short() {
            shared.compactor.notify_one();
        }
        pool.job(usage, shared.presence.counts_links())
    };
    let Some(job) = job else {
        shared.no_segment_available();
        shared.rewriter.notify_one();
        shared.set_prepared();
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
            shared.set_prepared();
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
        generation: header.generation,
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
    shared.report_trouble();
    shared.no_segment_available();
    shared.rewriter.notify_one();
}

/// Retires one segment that is idle and not read by anybody: many at once would keep others waiting for one of them.
async fn retire(shared: &Rc<Shared>) -> Progress {
    let mut progress = Progress::Nothing;
    for usage in [Usage::Messages, Usage::Outcomes] {
        for generation in shared.idle(usage) {
            let Some(segment) = shared.take_unread(generation) else {
                progress = Progress::Stuck;
                continue;
            };
            if planted(Bug::NotesEarly) && usage == Usage::Messages {
                let moved_to = Arc::new([]);
                (shared.sink)(Note::SegmentRetired {
                    generation,
                    moved_to,
                });
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
                    shared.segment_retired(usage, generation);
                    return Progress::Some;
                }
                Err((segment, error)) => {
                    shared.mark_bad(generation);
                    shared.put_back(segment);
                    let error = error.to_string();
                    (shared.sink)(Note::SegmentFailed { generation, error });
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
    let is_bad = shared.is_bad(segment.generation);
    let is_excessive = shared.pool.borrow().is_excessive();
    let run = shared.run;
    blocking(move || {
        let id = segment.generation.segment;
        let result = if is_bad {
            segments.set_aside(id).map(|()| None)
        } else if is_excessive || segment.segment_bytes != segments.segment_bytes() {
            segments.remove(id).map(|()| None)
        } else {
            let ended = segments.end_generation(segment.generation, &segment.file, run);
            match ended {
                Err(_) if planted(Bug::FailedRetirementTaken) => Ok(Some(FreeSegment {
                    generation: segment.generation,
                    file: segment.file.clone(),
                })),
                ended => ended.map(Some),
            }
        };
        result.map_err(|error| (segment, error))
    })
    .await
}
