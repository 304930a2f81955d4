use super::header::HEADER_COPIES;
use super::outcome_meta::META_VERSION;
use super::*;
use crate::io::buffer::BLOCK_BYTES;
use crate::message::{BodyType, Envelope, Mailbox, MessageId, Notify, Recipient, Ret};
use crate::schedule::outcome::{Diagnosis, Outcome, RecipientState, ReportKind};
use crate::smtp::reply::EnhancedStatus;
use crate::time::WallTime;
use proptest::prelude::*;

fn mailbox() -> impl Strategy<Value = Mailbox> {
    ("[^\\p{Cc}]{0,70}", "[a-z.\\-éü]{0,40}").prop_map(|(l, d)| Mailbox::new(&l, &d))
}

fn recipient() -> impl Strategy<Value = Recipient> {
    let notify = proptest::option::of((any::<bool>(), any::<bool>(), any::<bool>()));
    let orcpt = proptest::option::of("rfc822;[!-~]{0,40}");
    (mailbox(), notify, orcpt).prop_map(|(forward_path, notify, orcpt)| Recipient {
        forward_path,
        notify: notify.map(|(success, failure, delay)| Notify {
            success,
            failure,
            delay,
        }),
        orcpt: orcpt.map(Into::into),
    })
}

prop_compose! {
    fn envelope()(
        reverse_path in proptest::option::of(mailbox()),
        eight_bit in any::<bool>(),
        smtputf8 in any::<bool>(),
        ret in 0usize..3,
        envid in proptest::option::of("[!-~]{0,100}"),
        recipients in proptest::collection::vec(recipient(), 0..5),
    ) -> Envelope {
        Envelope {
            reverse_path,
            body_type: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8,
            ret: [None, Some(Ret::Full), Some(Ret::Headers)][ret],
            envid: envid.map(Into::into),
            recipients,
        }
    }
}

fn diagnosis() -> impl Strategy<Value = Diagnosis> {
    let status = (2u8..6, 0u16..1000, 0u16..1000);
    (status, "[ -~é]{0,120}", "[a-z.]{0,30}").prop_map(|((c, s, d), text, host)| Diagnosis {
        status: EnhancedStatus::new(c, s, d),
        text: text.into(),
        remote_host: host.into(),
    })
}

fn state() -> impl Strategy<Value = RecipientState> {
    let waiting = (
        any::<u32>(),
        any::<u64>(),
        proptest::option::of(diagnosis()),
    );
    let owed = (any::<bool>(), diagnosis(), any::<u32>(), any::<u64>());
    prop_oneof![
        waiting.prop_map(|(attempts, due, last)| RecipientState::Waiting {
            attempts,
            due: WallTime(due),
            last,
        }),
        owed.prop_map(|(failed, diagnosis, attempts, due)| {
            RecipientState::ReportOwed {
                kind: if failed {
                    ReportKind::Failed
                } else {
                    ReportKind::Relayed
                },
                diagnosis,
                attempts,
                due: WallTime(due),
            }
        }),
        Just(RecipientState::Finished),
    ]
}

fn generation(core: u16, segment: u32, number: u64) -> Generation {
    Generation {
        segment: SegmentId {
            core,
            number: segment,
        },
        number,
    }
}

fn header() -> SegmentHeader {
    SegmentHeader {
        generation: generation(3, 9, 77),
        usage: Usage::Messages,
        core: 3,
        run: 2,
        log_sequence: 5,
        segment_bytes: 1 << 20,
        nonce: Nonce([9; 16]),
    }
}

const ID: MessageId = MessageId {
    run: 1,
    core: 2,
    sequence: 3,
};

/// A commit of these bodies at block 4 of the generation of [`header`].
fn commit(bodies: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; COMMIT_HEADER_BYTES];
    let mut heads_checksum = 0;
    for body in bodies {
        let record = Record {
            kind: Kind::Chunk,
            id: ID,
            meta: b"meta",
            body,
        };
        let start = bytes.len();
        bytes.resize(start + record.bytes(), 0);
        let sums = record.encode(&mut bytes[start..]);
        heads_checksum = sum_head(heads_checksum, sums.head);
    }
    let header = CommitHeader {
        nonce: header().nonce,
        generation: header().generation.number,
        block: 4,
        sequence: 1,
        payload_bytes: (bytes.len() - COMMIT_HEADER_BYTES) as u32,
        record_count: bodies.len() as u32,
        previous: 0,
    };
    header.encode(heads_checksum, &mut bytes);
    bytes.resize(header.bytes(), 0);
    bytes
}

proptest! {
    #[test]
    fn messages_read_back(envelope in envelope(), received_at in any::<u64>()) {
        let mut meta = Vec::new();
        let received_at = WallTime(received_at);
        MessageMeta::encode(received_at, &envelope, &mut meta);
        prop_assert_eq!(
            MessageMeta::decode(&meta),
            Ok(MessageMeta { received_at, envelope, states: Vec::new() })
        );
        for end in 0..meta.len() {
            prop_assert_eq!(MessageMeta::decode(&meta[..end]), Err(Malformed));
        }
    }

    #[test]
    fn copies_take_their_states_along(
        envelope in envelope(),
        states in proptest::collection::vec((any::<u32>(), state()), 0..5),
    ) {
        let mut meta = Vec::new();
        MessageMeta::encode_copy(WallTime(1), &envelope, &states, &mut meta);
        let read = MessageMeta::decode(&meta).expect("as it was written");
        prop_assert_eq!((&read.envelope, &read.states), (&envelope, &states));
        let mut meta = Vec::new();
        FinalMeta::encode_copy(WallTime(1), &[], &envelope, &states, &mut meta);
        let read = FinalMeta::decode(&meta).expect("as it was written");
        prop_assert_eq!((read.envelope, read.states), (envelope, states));
    }

    #[test]
    fn final_records_read_back(
        envelope in envelope(),
        extents in proptest::collection::vec(
            (any::<u16>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>()), 0..5),
    ) {
        let extents: Vec<RawExtent> = extents
            .into_iter()
            .map(|(core, segment, number, offset, bytes)| RawExtent {
                generation: generation(core, segment, number),
                offset,
                bytes,
                checksum: segment,
            })
            .collect();
        let mut meta = Vec::new();
        FinalMeta::encode(WallTime(1), &extents, &envelope, &mut meta);
        let read = FinalMeta::decode(&meta).expect("as it was written");
        prop_assert_eq!(read.extents, extents);
        prop_assert_eq!(read.envelope, envelope);
    }

    #[test]
    fn outcomes_read_back(states in proptest::collection::vec((any::<u32>(), state()), 0..200)) {
        let outcome = Outcome { message: ID, recipients: states };
        let mut read = Vec::new();
        for meta in encode_outcome(&outcome) {
            prop_assert!(meta.len() <= OUTCOME_META_BYTES_MAX);
            read.extend(decode_outcome(ID, &meta).expect("as it was written").recipients);
        }
        prop_assert_eq!(read, outcome.recipients);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = SegmentHeader::decode(&bytes);
        let _ = MessageMeta::decode(&bytes);
        let _ = FinalMeta::decode(&bytes);
        let _ = decode_outcome(ID, &bytes);
        let _ = RecordView::decode(&bytes, 0);
        let _ = CommitHeader::decode(&bytes, &header(), 4096);
        // Past the version, so that the rest is reached, too.
        let versioned = [&[META_VERSION], &bytes[..]].concat();
        let _ = MessageMeta::decode(&versioned);
        let _ = FinalMeta::decode(&versioned);
        let _ = decode_outcome(ID, &versioned);
    }

    #[test]
    fn a_flipped_bit_is_noticed(at in 0usize..1000, bit in 0u32..8) {
        let whole = commit(&[&[7; 400], &[8; 432]]);
        let at = at % (COMMIT_HEADER_BYTES + 2 * 44 + 832);
        let mut bytes = whole.clone();
        bytes[at] ^= 1u8 << bit;
        let position = 4 * BLOCK_BYTES as u64;
        let found = CommitHeader::decode(&bytes, &header(), position);
        let all_whole = found
            .and_then(|found| found.records(&bytes).map(|records| {
                records.iter().all(RecordView::is_whole)
            }))
            .unwrap_or(false);
        prop_assert!(!all_whole);
    }
}

#[test]
fn a_damaged_body_costs_only_its_record() {
    let mut bytes = commit(&[&[7; 400], &[8; 432]]);
    bytes[COMMIT_HEADER_BYTES + 44 + 10] ^= 1;
    let found = CommitHeader::decode(&bytes, &header(), 4 * BLOCK_BYTES as u64).unwrap();
    let whole: Vec<bool> = found
        .records(&bytes)
        .unwrap()
        .iter()
        .map(RecordView::is_whole)
        .collect();
    assert_eq!(whole, [false, true]);
}

#[test]
fn a_commit_is_believed_only_in_its_generation_and_place() {
    let bytes = commit(&[b"x"]);
    let at = 4 * BLOCK_BYTES as u64;
    let decode = |segment: &SegmentHeader, at| CommitHeader::decode(&bytes, segment, at).is_some();
    assert!(decode(&header(), at));
    assert!(!decode(&header(), at + BLOCK_BYTES as u64));
    let other_nonce = SegmentHeader {
        nonce: Nonce([8; 16]),
        ..header()
    };
    let later_generation = SegmentHeader {
        generation: generation(3, 9, 78),
        ..header()
    };
    let short = SegmentHeader {
        segment_bytes: at,
        ..header()
    };
    assert!(!decode(&other_nonce, at) && !decode(&later_generation, at) && !decode(&short, at));
}

#[test]
fn segment_headers_read_back_and_survive_one_bad_copy() {
    let mut block = vec![1; BLOCK_BYTES];
    header().encode(&mut block);
    assert_eq!(SegmentHeader::decode(&block), Ok(header()));
    block[20] ^= 1;
    assert_eq!(SegmentHeader::decode(&block), Ok(header()));
    block[2048 + 20] ^= 1;
    assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Damaged));
    let blank = SegmentHeader::decode(&[0; BLOCK_BYTES]);
    assert_eq!(blank, Err(HeaderError::Blank));
}

#[test]
fn a_newer_segment_is_told_from_a_damaged_one() {
    let mut block = vec![0; BLOCK_BYTES];
    header().encode(&mut block);
    for start in HEADER_COPIES {
        block[start + 8] = 9;
    }
    assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Newer(9)));
}

#[test]
fn a_header_torn_between_its_copies_is_the_newer_one() {
    let mut block = vec![0; BLOCK_BYTES];
    let mut next = vec![0; BLOCK_BYTES];
    let later = SegmentHeader {
        generation: generation(3, 9, 78),
        ..header()
    };
    header().encode(&mut block);
    later.encode(&mut next);
    block[2048..2560].copy_from_slice(&next[2048..2560]);
    assert_eq!(SegmentHeader::decode(&block), Ok(later));
}

#[test]
fn segment_names_read_back() {
    let id = SegmentId {
        core: 0x1f,
        number: 0xabc,
    };
    assert_eq!(id.file_name(), "001f-00000abc.seg");
    assert_eq!(SegmentId::from_file_name(&id.file_name()), Some(id));
    for other in [
        "001f-abc.seg",
        "001F-00000abc.seg",
        "001f-00000abc.seg.bad",
        "x",
    ] {
        assert_eq!(SegmentId::from_file_name(other), None);
    }
}

#[test]
fn forgotten_bounds_are_kept_at_the_last_moment() {
    let diagnosis = Diagnosis {
        status: EnhancedStatus::new(5, 0, 0),
        text: "é".repeat(3000).into(),
        remote_host: "h".repeat(9000).into(),
    };
    let outcome = Outcome {
        message: ID,
        recipients: (0..100)
            .map(|r| {
                let last = Some(diagnosis.clone());
                let due = WallTime(0);
                (
                    r,
                    RecipientState::Waiting {
                        attempts: 1,
                        due,
                        last,
                    },
                )
            })
            .collect(),
    };
    let metas = encode_outcome(&outcome);
    assert!(metas.len() > 1);
    assert!(
        metas
            .iter()
            .all(|meta| meta.len() <= OUTCOME_META_BYTES_MAX)
    );
    let read: usize = metas
        .iter()
        .map(|meta| decode_outcome(ID, meta).unwrap().recipients.len())
        .sum();
    assert_eq!(read, 100);
}
