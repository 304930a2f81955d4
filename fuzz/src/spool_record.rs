//! What is read from a disk: no bytes panic, and what can be read is written back as the same.

use ringpost::message::MessageId;
use ringpost::spool::format::{
    CommitHeader, FinalMeta, Generation, MessageMeta, Nonce, Record, RecordView, SegmentHeader,
    SegmentId, Usage, decode_outcome, encode_outcome,
};

use super::option;

const ID: MessageId = MessageId {
    run: 1,
    core: 2,
    sequence: 3,
};

pub fn run(mut input: &[u8]) {
    match option(&mut input) % 6 {
        0 => message(input),
        1 => last_of_large(input),
        2 => outcome(input),
        3 => segment_header(input),
        4 => commit_header(input),
        _ => record(input),
    }
}

fn message(meta: &[u8]) {
    if let Ok(found) = MessageMeta::decode(meta) {
        let mut written = Vec::new();
        MessageMeta::encode_copy(
            found.received_at,
            &found.envelope,
            &found.states,
            &mut written,
        );
        assert_eq!(MessageMeta::decode(&written), Ok(found));
    }
}

fn last_of_large(meta: &[u8]) {
    if let Ok(found) = FinalMeta::decode(meta) {
        let mut written = Vec::new();
        let FinalMeta {
            received_at,
            extents,
            envelope,
            states,
            ..
        } = &found;
        FinalMeta::encode_copy(*received_at, extents, envelope, states, &mut written);
        assert_eq!(FinalMeta::decode(&written), Ok(found));
    }
}

fn outcome(meta: &[u8]) {
    if let Ok(found) = decode_outcome(ID, meta) {
        let mut recipients = Vec::new();
        for part in encode_outcome(&found) {
            recipients.extend(
                decode_outcome(ID, &part)
                    .expect("it was just written")
                    .recipients,
            );
        }
        let bounded = recipients.len() == found.recipients.len();
        assert!(bounded, "each state is written");
    }
}

fn segment_header(block: &[u8]) {
    if let Ok(found) = SegmentHeader::decode(block) {
        let mut written = vec![0; 4096];
        found.encode(&mut written);
        assert_eq!(SegmentHeader::decode(&written), Ok(found));
    }
}

/// The generation that commit headers of the corpus belong to.
fn generation() -> SegmentHeader {
    SegmentHeader {
        generation: Generation {
            segment: SegmentId { core: 0, number: 1 },
            number: 7,
        },
        usage: Usage::Messages,
        core: 0,
        run: 1,
        log_sequence: 1,
        segment_bytes: 1 << 20,
        nonce: Nonce(*b"sixteen octets!!"),
    }
}

fn commit_header(block: &[u8]) {
    if let Some(found) = CommitHeader::decode(block, &generation(), 4096) {
        assert!(4096 + found.header.bytes() as u64 <= generation().segment_bytes);
        for record in found.records(block).unwrap_or_default() {
            assert!(record.body_offset() + record.body.len() <= block.len());
        }
    }
}

fn record(bytes: &[u8]) {
    if let Some(found) = RecordView::decode(bytes, 64) {
        assert!(found.bytes() <= bytes.len());
        let again = Record {
            kind: found.kind,
            id: found.id,
            meta: found.meta,
            body: found.body,
        };
        let mut written = vec![0; again.bytes()];
        let sums = again.encode(&mut written);
        assert_eq!(found.is_whole(), sums.body == found.body_checksum);
        assert!(!found.is_whole() || written == bytes[..found.bytes()]);
    }
}
