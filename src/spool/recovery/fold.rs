//! What little old outcome segments are needed for, written once more into one that this run goes on in.
//!
//! Each run begins outcome segments of its own, and one stays for as long as a message that it names can be found.
//! Without this a spool would need one more with every restart. What a crash leaves:
//!
//! ```text
//! state        old segments  new one  a crash finds
//! being made   all           part     the new one repeats what others say: it is not needed
//! made         all           whole    the same
//! retiring     some          whole    what they say, and what the new one says of those that are gone
//! done         none          whole    one segment, to which the run has added perhaps
//! ```
//!
//! So the room of one segment is enough, however often it is begun.

use crate::io::file::Durability;
use crate::spool::OUTCOME_STAGING_BYTES;
use crate::spool::format::{Generation, Kind, Record, encode_outcome};
use crate::spool::location::place::{SegmentFile, SegmentRef};
use crate::spool::log::commit::{AfterFailure, Head, Machine, Refused, Stop};
use crate::spool::log::segment::PreparedSegment;
use crate::spool::recovery::HeldOutcome;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// An outcome segment of this run.
#[derive(Debug)]
pub(in crate::spool) struct Folded {
    pub stop: Stop<SegmentRef>,
    /// Message segments with messages that it names.
    pub refers_to: BTreeSet<Generation>,
}

impl Folded {
    pub fn file(&self) -> &SegmentRef {
        &self.stop.head.segment
    }
}

/// Writes the outcomes into a segment that has nothing but its header. Durable when it returns.
///
/// # Errors
/// Also if they do not fit.
pub(super) fn fold<'a>(
    prepared: PreparedSegment,
    outcomes: impl IntoIterator<Item = &'a HeldOutcome>,
) -> io::Result<Folded> {
    let PreparedSegment { header, file } = prepared;
    let segment = Arc::new(SegmentFile {
        generation: header.generation,
        segment_bytes: header.segment_bytes,
        file,
    });
    let staging = OUTCOME_STAGING_BYTES.min((header.segment_bytes / 2) as usize);
    let mut machine = Machine::new(staging, 1, AfterFailure::Fail);
    machine.supply(Head {
        segment,
        nonce: header.nonce,
        generation: header.generation.number,
        segment_bytes: header.segment_bytes,
    });
    let mut refers_to = BTreeSet::new();
    for HeldOutcome { outcome, found_in } in outcomes {
        refers_to.extend(found_in);
        for meta in encode_outcome(outcome) {
            let record = Record {
                kind: Kind::Outcome,
                id: outcome.message,
                meta: &meta,
                body: &[],
            };
            append(&mut machine, &record)?;
        }
    }
    write(&mut machine)?;
    let stop = machine.stop().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Folded { stop, refers_to })
}

type FoldMachine = Machine<SegmentRef, ()>;

fn append(machine: &mut FoldMachine, record: &Record<'_>) -> io::Result<()> {
    let mut appended = machine.append(record, ());
    if let Err((_, Refused::BatchFull)) = appended {
        write(machine)?;
        appended = machine.append(record, ());
    }
    appended.map_err(|_| io::ErrorKind::StorageFull.into())
}

/// Makes what waits durable. One write at a time, so a crash leaves no more than the spool's own writers do.
fn write(machine: &mut FoldMachine) -> io::Result<()> {
    if machine.waiting_bytes() == 0 {
        return Ok(());
    }
    let write = machine.next_write().ok_or(io::ErrorKind::StorageFull)?;
    let file = &write.segment.file;
    let bytes = &write.buffer[..write.length];
    file.blocking().write_all_at(bytes, write.position)?;
    if file.durability() == Durability::Buffered {
        file.blocking().sync_data()?;
    }
    machine.write_done(write.number, true, write.buffer, &mut Vec::new());
    Ok(())
}
