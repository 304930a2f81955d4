//! What recovery finds on a damaged disk: nothing that was not written, and everything whose bytes are
//! still there.
//!
//! A small spool is written; the input says which damage is done to it. With the first octet odd the
//! input is instead the content of a commit that is sealed with right checksums, as no relay wrote it.

use ringpost::message::{Envelope, Mailbox, MessageId, Recipient};
use ringpost::schedule::outcome::{Outcome, RecipientState};
use ringpost::spool::format::{
    COMMIT_HEADER_BYTES, CommitHeader, FinalMeta, Generation, Kind, MessageMeta, Nonce, RawExtent,
    Record, SegmentHeader, SegmentId, Usage, encode_outcome, sum_head,
};
use ringpost::spool::recovery::{Condition, Disk, FoundMessage, LogScan, ScanError, scan_logs};
use ringpost::time::WallTime;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::option;

const BLOCK: usize = 4096;
const SEGMENT_BYTES: usize = 16 * BLOCK;
const RECEIVED_AT: WallTime = WallTime(1_700_000_000_000);

pub fn run(mut input: &[u8]) {
    match option(&mut input) & 1 {
        0 => damaged(input),
        _ => sealed(input),
    }
}

#[derive(Clone, Default)]
struct Platters(BTreeMap<SegmentId, Vec<u8>>);

impl Disk for Platters {
    fn segments(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.0.keys().copied().collect())
    }

    fn read(&mut self, segment: SegmentId, position: u64, out: &mut [u8]) -> io::Result<usize> {
        let content = &self.0[&segment];
        let start = usize::try_from(position).map_or(content.len(), |it| it.min(content.len()));
        let count = (content.len() - start).min(out.len());
        out[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }
}

/// Where bytes lie that a message, or the word that it is finished, cannot do without.
type Place = (SegmentId, Range<usize>);

struct Truth {
    envelope: Envelope,
    body: Vec<u8>,
    places: Vec<Place>,
    finished: Option<Place>,
}

struct Written {
    platters: Platters,
    truths: BTreeMap<MessageId, Truth>,
}

/// One generation being written.
struct Writer {
    header: SegmentHeader,
    bytes: Vec<u8>,
    filled: usize,
    sequence: u64,
    previous: u32,
}

impl Writer {
    fn new(number: u32, usage: Usage) -> Self {
        let header = SegmentHeader {
            generation: Generation {
                segment: SegmentId { core: 0, number },
                number: 9,
            },
            usage,
            core: 0,
            run: 1,
            log_sequence: u64::from(number),
            segment_bytes: SEGMENT_BYTES as u64,
            nonce: Nonce([number as u8; 16]),
        };
        let mut bytes = vec![0; SEGMENT_BYTES];
        header.encode(&mut bytes);
        Writer {
            header,
            bytes,
            filled: BLOCK,
            sequence: 1,
            previous: 0,
        }
    }

    fn segment(&self) -> SegmentId {
        self.header.generation.segment
    }

    /// One commit. Where it lies, and where the body of each record begins.
    fn commit(&mut self, records: &[Record<'_>]) -> (Range<usize>, Vec<RawExtent>) {
        let mut payload = Vec::new();
        let mut heads_checksum = 0;
        let mut extents = Vec::new();
        for record in records {
            let start = payload.len();
            payload.resize(start + record.bytes(), 0);
            let sums = record.encode(&mut payload[start..]);
            heads_checksum = sum_head(heads_checksum, sums.head);
            let body_at = self.filled + COMMIT_HEADER_BYTES + payload.len() - record.body.len();
            extents.push(RawExtent {
                generation: self.header.generation,
                offset: body_at as u64,
                bytes: record.body.len() as u32,
                checksum: sums.body,
            });
        }
        (self.seal(&payload, records.len(), heads_checksum), extents)
    }

    fn seal(&mut self, payload: &[u8], records: usize, heads_checksum: u32) -> Range<usize> {
        let header = CommitHeader {
            nonce: self.header.nonce,
            generation: self.header.generation.number,
            block: (self.filled / BLOCK) as u32,
            sequence: self.sequence,
            payload_bytes: payload.len() as u32,
            record_count: records as u32,
            previous: self.previous,
        };
        let start = self.filled;
        self.previous = header.encode(heads_checksum, &mut self.bytes[start..]);
        let end = start + COMMIT_HEADER_BYTES + payload.len();
        self.bytes[start + COMMIT_HEADER_BYTES..end].copy_from_slice(payload);
        self.sequence += 1;
        self.filled += header.bytes();
        start..end
    }
}

fn id(sequence: u64) -> MessageId {
    MessageId {
        run: 1,
        core: 0,
        sequence,
    }
}

fn envelope(sequence: u64) -> Envelope {
    Envelope {
        reverse_path: Some(Mailbox::new(&format!("s{sequence}"), "src.test")),
        recipients: vec![Recipient::new(Mailbox::new(
            &format!("r{sequence}"),
            "dst.test",
        ))],
        ..Envelope::default()
    }
}

fn body(sequence: u64, bytes: usize) -> Vec<u8> {
    let octets = (0..bytes).map(|at| (at as u64 * 31 + sequence * 7) as u8);
    octets.collect()
}

impl Written {
    /// Two segments of messages, with single, several and large ones, and one of outcomes.
    fn new() -> Self {
        let mut written = Written {
            platters: Platters::default(),
            truths: BTreeMap::new(),
        };
        let mut first = Writer::new(1, Usage::Messages);
        let mut second = Writer::new(2, Usage::Messages);
        let mut outcomes = Writer::new(3, Usage::Outcomes);
        written.small(&mut first, &[1]);
        written.small(&mut first, &[2, 3, 4]);
        written.large(&mut first, &mut second, 5);
        written.small(&mut second, &[6]);
        written.small(&mut first, &[7]);
        written.small(&mut second, &[8, 9]);
        written.finish(&mut outcomes, &[3, 8]);
        written.finish(&mut outcomes, &[5]);
        for writer in [first, second, outcomes] {
            written.platters.0.insert(writer.segment(), writer.bytes);
        }
        // Prepared, never used.
        let blank = SegmentId { core: 0, number: 4 };
        written.platters.0.insert(blank, vec![0; 2 * BLOCK]);
        written
    }

    fn small(&mut self, writer: &mut Writer, sequences: &[u64]) {
        let parts: Vec<_> = sequences
            .iter()
            .map(|&sequence| {
                let mut meta = Vec::new();
                MessageMeta::encode(RECEIVED_AT, &envelope(sequence), &mut meta);
                (
                    id(sequence),
                    meta,
                    body(sequence, 300 + 700 * sequence as usize),
                )
            })
            .collect();
        let record = |(id, meta, body)| Record {
            kind: Kind::Message,
            id,
            meta,
            body,
        };
        let records: Vec<_> = parts
            .iter()
            .map(|(id, meta, body)| record((*id, &meta[..], &body[..])))
            .collect();
        let (place, _) = writer.commit(&records);
        for (sequence, (_, _, body)) in sequences.iter().zip(parts) {
            let places = vec![(writer.segment(), place.clone())];
            self.know(*sequence, body, places);
        }
    }

    /// A body in two pieces, one in each segment.
    fn large(&mut self, first: &mut Writer, second: &mut Writer, sequence: u64) {
        let whole = body(sequence, 9000);
        let chunk = |body| Record {
            kind: Kind::Chunk,
            id: id(sequence),
            meta: &[],
            body,
        };
        let (place, extents) = first.commit(&[chunk(&whole[..5000])]);
        let (other_place, others) = second.commit(&[chunk(&whole[5000..])]);
        let extents = [extents, others].concat();
        let mut meta = Vec::new();
        FinalMeta::encode(RECEIVED_AT, &extents, &envelope(sequence), &mut meta);
        let last = Record {
            kind: Kind::Final,
            id: id(sequence),
            meta: &meta,
            body: &[],
        };
        let (last_place, _) = second.commit(&[last]);
        let places = vec![
            (first.segment(), place),
            (second.segment(), other_place),
            (second.segment(), last_place),
        ];
        self.know(sequence, whole, places);
    }

    fn know(&mut self, sequence: u64, body: Vec<u8>, places: Vec<Place>) {
        let truth = Truth {
            envelope: envelope(sequence),
            body,
            places,
            finished: None,
        };
        self.truths.insert(id(sequence), truth);
    }

    fn finish(&mut self, writer: &mut Writer, sequences: &[u64]) {
        for &sequence in sequences {
            let outcome = Outcome {
                message: id(sequence),
                recipients: vec![(0, RecipientState::Finished)],
            };
            let metas = encode_outcome(&outcome);
            let record = Record {
                kind: Kind::Outcome,
                id: id(sequence),
                meta: &metas[0],
                body: &[],
            };
            let (place, _) = writer.commit(&[record]);
            let truth = self.truths.get_mut(&id(sequence)).expect("known");
            truth.finished = Some((writer.segment(), place));
        }
    }
}

/// Damages of five octets each: what, segment, block and offset within it, how much or by what.
fn damaged(input: &[u8]) {
    let written = Written::new();
    let mut platters = written.platters.clone();
    for damage in input.chunks_exact(5).take(64) {
        let &[what, segment, block, at, how] = damage else {
            unreachable!("chunks of five");
        };
        damage_once(&mut platters, what, segment, block, at, how);
    }
    match scan_logs(&mut platters) {
        Ok(found) => check(&written, &mut platters, &found),
        Err(ScanError::Newer { .. }) => {}
        Err(ScanError::Io(segment, error)) => panic!("{segment:?}: {error}"),
    }
}

fn damage_once(platters: &mut Platters, what: u8, segment: u8, block: u8, at: u8, how: u8) {
    let number = 1 + u32::from(segment) % 4;
    let content = platters
        .0
        .get_mut(&SegmentId { core: 0, number })
        .expect("made");
    let blocks = content.len() / BLOCK;
    if blocks == 0 {
        return;
    }
    let block = usize::from(block) % blocks * BLOCK;
    let at = block + usize::from(at) * 16 + usize::from(how & 15);
    let other = usize::from(how) % blocks * BLOCK;
    match what % 6 {
        // One bit; a sector or a block that is zero; a write that went elsewhere; a shorter file.
        0 => content[at] ^= 1 << (how >> 5),
        1 => content[block + usize::from(how & 7) * 512..][..512].fill(0),
        2 => content[block..][..BLOCK].fill(0),
        3 => content.copy_within(other..other + BLOCK, block),
        4 => content.truncate(at),
        _ => {
            let from = platters.0.values().next().expect("made").clone();
            let content = platters
                .0
                .values_mut()
                .nth(number as usize - 1)
                .expect("made");
            if let Some(bytes) = from.get(other..other + BLOCK) {
                content[block..][..BLOCK].copy_from_slice(bytes);
            }
        }
    }
}

fn check(written: &Written, platters: &mut Platters, found: &LogScan) {
    for message in &found.messages {
        let truth = written
            .truths
            .get(&message.id)
            .expect("no message is invented");
        assert_eq!(message.envelope, truth.envelope);
        assert_eq!(message.received_at, RECEIVED_AT);
        let mut places = truth.places.iter();
        let is_whole = places.all(|place| is_intact(written, platters, place));
        assert!(!(is_whole && message.is_damaged), "{}", message.id);
        match content_of(platters, message) {
            Some(content) if !message.is_damaged => {
                assert!(content == truth.body, "{}", message.id)
            }
            // What cannot be read now is found as it is: the disk may give it later.
            None => assert!(!is_whole, "{} cannot be read", message.id),
            Some(_) => {}
        }
        assert_eq!(
            found
                .messages
                .iter()
                .filter(|other| other.id == message.id)
                .count(),
            1
        );
    }
    for (id, truth) in &written.truths {
        let is_found = found.messages.iter().any(|message| message.id == *id);
        let whole = truth
            .places
            .iter()
            .all(|place| is_intact(written, platters, place));
        let finish = truth.finished.as_ref();
        if finish.is_some_and(|place| is_intact(written, platters, place)) {
            assert!(!is_found, "{id} was finished");
        } else if whole && finish.is_none_or(|place| !has_its_bytes(written, platters, place)) {
            assert!(is_found, "{id} is lost, though its bytes are there");
        }
    }
    let report = &found.report;
    assert_eq!(report.messages, found.messages.len() as u64);
    assert!(!report.to_string().is_empty());
}

fn has_its_bytes(written: &Written, platters: &Platters, (segment, range): &Place) -> bool {
    let (before, now) = (&written.platters.0[segment], &platters.0[segment]);
    now.get(range.clone()) == before.get(range.clone())
}

/// Nothing of it, nor of a copy of the segment's header, is another than it was written. A header
/// may be read all the same if it is not: what is changed may be none of its octets.
fn is_intact(written: &Written, platters: &Platters, (segment, range): &Place) -> bool {
    let (before, now) = (&written.platters.0[segment], &platters.0[segment]);
    let same = |range: Range<usize>| now.get(range.clone()) == before.get(range);
    // Commits are whole blocks: a file that ends within the padding is short of it.
    let is_long_enough = now.len() >= range.end.next_multiple_of(BLOCK);
    is_long_enough
        && same(range.clone())
        && (same(0..512) || same(2048..2560))
        && header_is_ours(now, *segment)
}

/// The copies may both be whole, and one of them another segment's.
fn header_is_ours(content: &[u8], segment: SegmentId) -> bool {
    let header = SegmentHeader::decode(content.get(..BLOCK).unwrap_or(content));
    header.is_ok_and(|header| header.generation.segment == segment)
}

/// `None`: not all of it can be read.
fn content_of(platters: &mut Platters, message: &FoundMessage) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    for extent in message.extents() {
        let mut piece = vec![0; extent.bytes as usize];
        let read = platters.read(extent.generation.segment, extent.offset, &mut piece);
        if read.ok()? < piece.len() {
            return None;
        }
        content.extend_from_slice(&piece);
    }
    Some(content)
}

/// Records whose metas and bodies are the input's, in commits that are sealed properly: four octets
/// for each (usage and kind, id, lengths of meta and body), and then these.
fn sealed(input: &[u8]) {
    let mut writers = [
        Writer::new(1, Usage::Messages),
        Writer::new(2, Usage::Outcomes),
    ];
    let mut rest = input;
    let mut written = 0;
    while let Some((&[how, sequence, meta_bytes, body_bytes], after)) = rest.split_first_chunk() {
        let (meta, after) = after.split_at(usize::from(meta_bytes).min(after.len()));
        let (body, after) = after.split_at(usize::from(body_bytes).min(after.len()));
        rest = after;
        let kinds = [Kind::Message, Kind::Chunk, Kind::Final, Kind::Outcome];
        let record = Record {
            kind: kinds[usize::from(how >> 1 & 3)],
            id: id(u64::from(sequence & 7)),
            meta,
            body,
        };
        let writer = &mut writers[usize::from(how & 1)];
        if writer.filled + 2 * BLOCK <= SEGMENT_BYTES {
            writer.commit(&[record]);
            written += 1;
        }
    }
    let mut platters = Platters::default();
    for writer in writers {
        platters.0.insert(writer.segment(), writer.bytes);
    }
    let found = scan_logs(&mut platters).expect("it can be read");
    assert_eq!(found.report.commits, written, "what is sealed is believed");
    assert!(
        found
            .segments
            .iter()
            .all(|it| matches!(it.condition, Condition::Generation(_)))
    );
    assert!(found.messages.len() as u64 <= written);
    for message in &found.messages {
        assert!(content_of(&mut platters, message).is_some());
        assert_eq!(message.states.len(), message.envelope.recipients.len());
    }
}
