//! What is sent: ordinary mail, and mail of somebody who would like his own commits in the log.

use crate::ledger::{Id, Stage};
use ringpost::io::buffer::BLOCK_BYTES;
use ringpost::io::fs::{self, FileExt};
use ringpost::io::simulated::World;
use ringpost::message::{Envelope, Mailbox, MessageId, Recipient};
use ringpost::schedule::outcome::{Diagnosis, RecipientState, ReportKind};
use ringpost::smtp::reply::EnhancedStatus;
use ringpost::spool::format::{
    COMMIT_HEADER_BYTES, CommitHeader, Kind, MessageMeta, Nonce, Record, SegmentHeader, Usage,
    sum_head,
};
use ringpost::time::WallTime;
use std::path::Path;

/// A record's head is about so long.
const HEAD_BYTES: usize = 40;

pub fn id_of(id: MessageId) -> Id {
    (id.run, id.core, id.sequence)
}

/// The envelope in words.
pub fn in_words(envelope: &Envelope) -> String {
    format!("{envelope:?}")
}

pub fn envelope(world: &World) -> Envelope {
    let recipients = 1 + world.below(3);
    Envelope {
        reverse_path: (!world.one_in(4)).then(|| Mailbox::new("s", "a.test")),
        recipients: (0..recipients)
            .map(|n| Recipient::new(Mailbox::new(&format!("r{n}"), "b.test")))
            .collect(),
        ..Envelope::default()
    }
}

/// Of about that length.
pub fn body(world: &World, bytes_max: usize) -> Vec<u8> {
    let length = world.below(bytes_max);
    let mut body = vec![0; length.next_multiple_of(8)];
    for eight in body.chunks_exact_mut(8) {
        eight.copy_from_slice(&world.random().to_le_bytes());
    }
    body.truncate(length);
    body
}

/// Forged commits where a block of the disk will start, if the message is alone in its commit.
pub fn attack(
    world: &World,
    (segments, core): (&Path, u16),
    envelope: &Envelope,
    knows_nonce: bool,
) -> Vec<u8> {
    let mut meta = Vec::new();
    MessageMeta::encode(WallTime(1), envelope, &mut meta);
    let start = COMMIT_HEADER_BYTES + HEAD_BYTES + meta.len();
    let aligned = start.next_multiple_of(BLOCK_BYTES);
    let mut body = vec![b'x'; aligned - start];
    let Some((header, tail)) = newest_log(segments, core) else {
        return body;
    };
    for block in 0..1 + world.below(2) {
        let place = tail + aligned + block * BLOCK_BYTES;
        body.extend(forgery(world, &header, place, knows_nonce));
    }
    body
}

/// The segment that mail of a core goes to, and where its last commit ends: the attacker has very good eyes.
fn newest_log(segments: &Path, core: u16) -> Option<(SegmentHeader, usize)> {
    let mut newest: Option<(SegmentHeader, fs::File)> = None;
    for entry in fs::read_dir(segments).ok()? {
        let file = fs::File::open(segments.join(entry.ok()?.file_name())).ok()?;
        let mut blocks = vec![0; 2 * BLOCK_BYTES];
        file.read_at(&mut blocks, 0).ok()?;
        let (first, second) = blocks.split_at(BLOCK_BYTES);
        let Ok(header) = SegmentHeader::decode(first) else {
            continue;
        };
        let is_at_work = header.usage == Usage::Messages
            && header.core == core
            && CommitHeader::decode(second, &header, BLOCK_BYTES as u64).is_some();
        if is_at_work
            && newest
                .as_ref()
                .is_none_or(|(other, _)| other.age() < header.age())
        {
            newest = Some((header, file));
        }
    }
    let (header, file) = newest?;
    let mut content = vec![0; header.segment_bytes as usize];
    file.read_at(&mut content, 0).ok()?;
    let mut position = BLOCK_BYTES;
    while let Some(commit) = content
        .get(position..)
        .and_then(|rest| CommitHeader::decode(rest, &header, position as u64))
    {
        position += commit.header.bytes().next_multiple_of(BLOCK_BYTES);
    }
    Some((header, position))
}

fn forgery(world: &World, header: &SegmentHeader, place: usize, knows_nonce: bool) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut meta = Vec::new();
    let forged = Envelope {
        recipients: vec![Recipient::new(Mailbox::new("victim", "c.test"))],
        ..Envelope::default()
    };
    MessageMeta::encode(WallTime(1), &forged, &mut meta);
    let record = Record {
        kind: Kind::Message,
        id: MessageId {
            run: header.run,
            core: 77,
            sequence: world.random(),
        },
        meta: &meta,
        body: b"forged",
    };
    let sums = record.encode(&mut block[COMMIT_HEADER_BYTES..]);
    let forged = CommitHeader {
        nonce: match knows_nonce {
            true => header.nonce,
            false => Nonce([7; 16]),
        },
        generation: header.generation.number,
        block: (place / BLOCK_BYTES) as u32,
        sequence: 1,
        payload_bytes: record.bytes() as u32,
        record_count: 1,
        previous: 0,
    };
    forged.encode(sum_head(0, sums.head), &mut block);
    block
}

pub fn stage_of(state: &RecipientState) -> Stage {
    match state {
        RecipientState::Waiting { attempts, due, .. } => Stage::Waiting(*attempts, due.0),
        RecipientState::ReportOwed { attempts, due, .. } => Stage::Owed(*attempts, due.0),
        RecipientState::Finished => Stage::Finished,
    }
}

/// What comes of the next try. `patience`: finished soon, or late.
pub fn next_state(world: &World, state: &RecipientState, patience: usize) -> RecipientState {
    let diagnosis = Diagnosis {
        status: EnhancedStatus::new(4, 2, 0),
        text: "450 later".into(),
        remote_host: "mx.b.test".into(),
    };
    let due = WallTime(world.random() >> 8);
    let owed = |attempts| RecipientState::ReportOwed {
        kind: ReportKind::Failed,
        diagnosis: diagnosis.clone(),
        attempts,
        due,
    };
    match (state, world.below(patience)) {
        (_, 2..) => RecipientState::Finished,
        (RecipientState::Waiting { attempts, .. }, 0) => RecipientState::Waiting {
            attempts: attempts + 1,
            due,
            last: Some(diagnosis),
        },
        (RecipientState::ReportOwed { attempts, .. }, _) => owed(attempts + 1),
        _ => owed(0),
    }
}
