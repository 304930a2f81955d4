//! The spool on real files: both ways of writing, recycling, a full spool, restarts.

use ringpost::io::buffer::{AlignedBuf, BLOCK_BYTES};
use ringpost::io::file::Durability;
use ringpost::message::{Envelope, Mailbox, MessageId, Recipient};
use ringpost::schedule::outcome::{Diagnosis, Outcome, RecipientState, ReportKind};
use ringpost::smtp::reply::EnhancedStatus;
use ringpost::spool::format::{SegmentHeader, Usage};
use ringpost::spool::{
    self, BodyReader, MessageLocation, Movable, Note, OpenError, Opened, Place, RecoveredMessage,
    SEGMENT_BYTES_MIN, Settings, Spool, SpoolError,
};
use ringpost::time::WallTime;
use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const SEGMENT_BYTES: u64 = 256 * 1024;

fn settings(durability: Durability) -> Settings {
    Settings {
        segment_bytes: SEGMENT_BYTES,
        spool_bytes_max: None,
        message_bytes_max: 0,
        keep_free_bytes: 0,
        durability: Some(durability),
    }
}

fn envelope(recipients: usize) -> Envelope {
    Envelope {
        reverse_path: Some(Mailbox::new("sender", "a.test")),
        recipients: (0..recipients)
            .map(|n| Recipient::new(Mailbox::new(&format!("r{n}"), "b.test")))
            .collect(),
        ..Envelope::default()
    }
}

/// A body that differs from all others, of `bytes` bytes.
fn body(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Stores a message of one recipient.
async fn store(spool: &Spool, body: &[u8]) -> (MessageId, Place) {
    let id = spool.next_id();
    let envelope = envelope(1);
    let receipt = spool.append(id, WallTime(0), &envelope, body).await;
    (id, receipt.expect("room").into_place())
}

async fn read_back(place: &Place) -> std::io::Result<Vec<u8>> {
    let mut reader: BodyReader = place.reader();
    let mut buffer = AlignedBuf::new(16 * 1024);
    let mut body = Vec::new();
    loop {
        let (piece, returned) = reader.next(buffer).await;
        buffer = returned;
        let piece = piece?;
        if piece.is_empty() {
            return Ok(body);
        }
        body.extend_from_slice(&buffer[piece]);
    }
}

fn finished(id: MessageId, recipients: u32) -> Outcome {
    Outcome {
        message: id,
        recipients: (0..recipients)
            .map(|r| (r, RecipientState::Finished))
            .collect(),
    }
}

/// Records an outcome of a message that nobody moves.
async fn record(spool: &Spool, outcome: &Outcome, place: Place) {
    let location = MessageLocation::fresh(place, 2);
    record_durably(spool, outcome, &location).await;
}

/// Returns when the outcome is durable.
async fn record_durably(spool: &Spool, outcome: &Outcome, home: &MessageLocation) {
    let (told, durable) = oneshot::channel();
    spool.record(outcome, home, move || told.send(()).expect("awaited"));
    durable.await.expect("told");
}

async fn finish(spool: &Spool, id: MessageId, place: Place) {
    record(spool, &finished(id, 1), place).await;
    spool.message_finished(id);
}

fn open(path: &Path, settings: &Settings) -> Opened {
    spool::open(path, settings, 1).expect("the spool opens")
}

/// One run of the relay with one core.
fn run<R>(
    path: &Path,
    settings: &Settings,
    work: impl AsyncFnOnce(&Spool, Vec<spool::RecoveredMessage>) -> R,
) -> R {
    run_noting(path, settings, |_| {}, work)
}

fn run_noting<R>(
    path: &Path,
    settings: &Settings,
    sink: impl Fn(Note) + 'static,
    work: impl AsyncFnOnce(&Spool, Vec<spool::RecoveredMessage>) -> R,
) -> R {
    let mut opened = open(path, settings);
    let part = opened.parts.remove(0);
    let messages = opened.messages;
    tokio_uring::start(async move {
        let spool = Spool::start(part, sink);
        spool.ready().await;
        let result = work(&spool, messages).await;
        spool.close().await;
        result
    })
}

fn both(test: impl Fn(&Path, &Settings)) {
    for durability in [Durability::Direct, Durability::Buffered] {
        let directory = tempfile::tempdir().expect("a directory");
        test(&directory.path().join("spool"), &settings(durability));
    }
}

#[test]
fn what_got_a_receipt_is_there_after_a_restart() {
    both(|path, settings| {
        let bodies: Vec<Vec<u8>> = (0..40).map(|n| body(n, 100 + n as usize * 397)).collect();
        let ids = run(path, settings, async |spool, recovered| {
            assert!(recovered.is_empty());
            let mut ids = Vec::new();
            for body in &bodies {
                let id = spool.next_id();
                let receipt = spool
                    .append(id, WallTime(7), &envelope(2), body)
                    .await
                    .expect("room");
                assert_eq!(read_back(receipt.place()).await.unwrap(), *body);
                ids.push(id);
            }
            ids
        });
        run(path, settings, async |_, recovered| {
            assert_eq!(recovered.len(), bodies.len());
            for message in &recovered {
                let at = ids.iter().position(|id| *id == message.id).unwrap();
                assert_eq!(message.envelope, envelope(2));
                assert_eq!(message.received_at, WallTime(7));
                assert_eq!(message.states, vec![RecipientState::fresh(); 2]);
                assert_eq!(read_back(&message.place).await.unwrap(), bodies[at]);
            }
        });
    });
}

#[test]
fn sessions_at_the_same_time_share_commits() {
    both(|path, settings| {
        let stats = run(path, settings, async |spool, _| {
            let mut tasks = Vec::new();
            for n in 0..200 {
                let spool = spool.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    let id = spool.next_id();
                    let body = body(n, 500);
                    let receipt = spool.append(id, WallTime(0), &envelope(1), &body).await;
                    assert_eq!(read_back(receipt.unwrap().place()).await.unwrap(), body);
                }));
            }
            for task in tasks {
                task.await.unwrap();
            }
            spool.stats()
        });
        assert_eq!(stats.message_records, 200);
        assert!(stats.message_commits < 50, "{stats:?}");
    });
}

#[test]
fn states_survive_and_finished_mail_does_not_come_back() {
    both(|path, settings| {
        let waiting = RecipientState::Waiting {
            attempts: 3,
            due: WallTime(99),
            last: None,
        };
        let (kept, gone) = run(path, settings, async |spool, _| {
            let (kept, gone) = (spool.next_id(), spool.next_id());
            let place = |id| async move {
                let envelope = envelope(2);
                let receipt = spool.append(id, WallTime(0), &envelope, b"x\r\n.\r\n");
                receipt.await.unwrap().into_place()
            };
            let outcome = Outcome {
                message: kept,
                recipients: vec![(0, RecipientState::Finished), (1, waiting.clone())],
            };
            record(spool, &outcome, place(kept).await).await;
            let place = place(gone).await;
            record(spool, &finished(gone, 2), place).await;
            spool.message_finished(gone);
            (kept, gone)
        });
        for _ in 0..3 {
            run(path, settings, async |_, recovered| {
                assert_eq!(recovered.len(), 1);
                assert_ne!(recovered[0].id, gone);
                assert_eq!(recovered[0].id, kept);
                let states = [RecipientState::Finished, waiting.clone()];
                assert_eq!(recovered[0].states, states);
            });
        }
    });
}

#[test]
fn segments_are_recycled_and_the_spool_does_not_grow() {
    both(|path, settings| {
        let settings = Settings {
            spool_bytes_max: Some(8 * SEGMENT_BYTES),
            ..settings.clone()
        };
        let stats = run(path, &settings, async |spool, _| {
            for n in 0..400u64 {
                let id = spool.next_id();
                let body = body(n, 20_000);
                let place = loop {
                    match spool.append(id, WallTime(n), &envelope(1), &body).await {
                        Ok(receipt) => break receipt.into_place(),
                        Err(SpoolError::Full) => {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                assert_eq!(read_back(&place).await.unwrap(), body);
                finish(spool, id, place).await;
            }
            spool.stats()
        });
        assert!(stats.segments_retired >= 20, "{stats:?}");
        let files = std::fs::read_dir(path.join("segments")).unwrap().count();
        assert!(files <= 9, "{files} segments");
        run(path, &settings, async |_, recovered| {
            assert!(recovered.is_empty());
        });
    });
}

/// Somebody tidies up by hand. Nothing was in those files, so nobody is refused; and what comes later is found.
#[test]
fn free_segments_that_were_removed_are_made_again() {
    both(|path, settings| {
        let settings = Settings {
            spool_bytes_max: Some(8 * SEGMENT_BYTES),
            ..settings.clone()
        };
        let notes = Rc::new(RefCell::new(Vec::new()));
        let sink = {
            let notes = notes.clone();
            move |note| notes.borrow_mut().push(format!("{note:?}"))
        };
        let left = run_noting(path, &settings, sink, async |spool, _| {
            let body = body(1, 20_000);
            let mail = fill(spool, &body).await;
            finish_all(spool, mail, &body).await;
            while spool.stats().segments_free < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            remove_free_segments(path);
            notes.borrow_mut().clear();
            let mail = fill(spool, &body).await;
            // Long enough for somebody to look at the names.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            mail.len()
        });
        let gone = |note: &String| note.starts_with("Gone");
        assert!(!notes.borrow().iter().any(gone), "{notes:?}");
        run(path, &settings, async |_, recovered| {
            assert_eq!(recovered.len(), left);
        });
    });
}

fn remove_free_segments(path: &Path) {
    for entry in std::fs::read_dir(path.join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let header = SegmentHeader::decode(&std::fs::read(&path).unwrap()[..BLOCK_BYTES]);
        if header.is_ok_and(|header| header.usage == Usage::Free) {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Stores messages until there is no room for another.
async fn fill(spool: &Spool, body: &[u8]) -> Vec<(MessageId, Place)> {
    let mut places = Vec::new();
    loop {
        let id = spool.next_id();
        match spool.append(id, WallTime(0), &envelope(1), body).await {
            Ok(receipt) => places.push((id, receipt.into_place())),
            Err(SpoolError::Full) => return places,
            Err(error) => panic!("{error}"),
        }
        assert!(places.len() < 1000);
    }
}

/// Finishes messages and waits until there is room for another.
async fn finish_all(spool: &Spool, places: Vec<(MessageId, Place)>, body: &[u8]) {
    for (id, place) in places {
        finish(spool, id, place).await;
    }
    let admitted = async {
        while spool.admit(Some(body.len() as u64)).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), admitted)
        .await
        .expect("admission opens again");
}

#[test]
fn a_full_spool_refuses_and_recovers_by_itself() {
    both(|path, settings| {
        let settings = Settings {
            spool_bytes_max: Some(6 * SEGMENT_BYTES),
            ..settings.clone()
        };
        run(path, &settings, async |spool, _| {
            let body = body(1, 30_000);
            let places = fill(spool, &body).await;
            assert_eq!(spool.admit(Some(30_000)), Err(SpoolError::Full));
            assert!(!places.is_empty());
            finish_all(spool, places, &body).await;
            let id = spool.next_id();
            let receipt = spool.append(id, WallTime(0), &envelope(1), &body).await;
            assert!(receipt.is_ok());
        });
    });
}

#[test]
fn restarts_of_a_full_spool_do_not_add_up() {
    both(|path, settings| {
        let settings = Settings {
            spool_bytes_max: Some(8 * SEGMENT_BYTES),
            ..settings.clone()
        };
        let body = body(1, 20_000);
        run(path, &settings, async |spool, _| {
            fill(spool, &body).await;
        });
        for restart in 0..12 {
            let stats = run(path, &settings, async |spool, recovered| {
                let message = &recovered[restart];
                let place = MessageLocation::recovered(message.place.clone(), &message.states);
                let deferred = Outcome {
                    message: message.id,
                    recipients: vec![(0, waiting(1))],
                };
                record_durably(spool, &deferred, &place).await;
                spool.stats()
            });
            assert!(stats.outcome_segments <= 2, "{restart}: {stats:?}");
            assert!(segment_files(path).len() <= 8, "{restart}");
        }
        run(path, &settings, async |spool, recovered| {
            let tried = |message: &&RecoveredMessage| message.states == [waiting(1)];
            assert_eq!(recovered.iter().filter(tried).count(), 12);
            let places = recovered.into_iter().map(|it| (it.id, it.place));
            finish_all(spool, places.collect(), &body).await;
        });
    });
}

#[test]
fn a_spool_that_exceeds_its_size_gives_the_rest_back() {
    both(|path, settings| {
        let body = body(1, 20_000);
        let large = Settings {
            spool_bytes_max: Some(16 * SEGMENT_BYTES),
            ..settings.clone()
        };
        let small = Settings {
            spool_bytes_max: Some(8 * SEGMENT_BYTES),
            ..settings.clone()
        };
        let mail = run(path, &large, async |spool, _| {
            fill(spool, &body).await.len()
        });
        let files = || segment_files(path).len();
        assert!(files() > 12, "{}", files());
        run(path, &small, async |spool, recovered| {
            assert_eq!(recovered.len(), mail);
            let places = recovered.into_iter().map(|it| (it.id, it.place));
            finish_all(spool, places.collect(), &body).await;
            let rest = async {
                while files() > 8 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let given_back = tokio::time::timeout(Duration::from_secs(10), rest).await;
            given_back.expect("it is given back");
        });
        // Nothing is in use any more.
        run(path, &large, async |spool, _| {
            let mail = fill(spool, &body).await;
            finish_all(spool, mail, &body).await;
        });
        run(path, &small, async |_, _| {
            assert!(files() <= 8, "{}", files())
        });
    });
}

#[test]
fn a_spool_that_has_reached_its_size_says_so_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = Settings {
        spool_bytes_max: Some(6 * SEGMENT_BYTES),
        ..settings(Durability::Buffered)
    };
    let notes: Rc<RefCell<Vec<Note>>> = Rc::default();
    let (sink, told) = (notes.clone(), notes.clone());
    let count = move |is: fn(&Note) -> bool| told.borrow().iter().filter(|note| is(note)).count();
    let is_full = |note: &Note| matches!(note, Note::NoSpace { .. });
    let has_room = |note: &Note| matches!(note, Note::SpaceAgain);
    run_noting(
        &directory.path().join("spool"),
        &settings,
        move |note| sink.borrow_mut().push(note),
        async |spool, _| {
            assert_eq!(spool.admit(Some(100 << 20)), Err(SpoolError::Full));
            assert_eq!(
                count(is_full),
                0,
                "who asks for too much is no want of room"
            );
            let body = body(1, 30_000);
            let places = fill(spool, &body).await;
            assert_eq!(count(is_full), 1, "whether a size was declared or not");
            for turn in 0..100 {
                let _ = spool.admit(Some(turn % 2 * 200_000));
            }
            finish_all(spool, places, &body).await;
            let told = async {
                while count(has_room) == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), told)
                .await
                .expect("it is told without a client");
            assert_eq!(count(is_full), 1, "{:?}", notes.borrow());
        },
    );
    let notes = notes.borrow();
    let reason = notes.iter().find_map(|note| match note {
        Note::NoSpace { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    assert_eq!(reason, Some("--spool-size 1536KiB is used up"));
}

/// With few segments the one at work may be the only one in use. When it is nearly full there is no room for mail,
/// and it stayed that way when all of its mail was delivered.
#[test]
fn a_small_spool_takes_mail_again_once_all_is_delivered() {
    both(|path, settings| {
        let settings = Settings {
            spool_bytes_max: Some(Settings::SEGMENTS_PER_CORE_MIN * SEGMENT_BYTES),
            ..settings.clone()
        };
        run(path, &settings, async |spool, _| {
            let body = body(1, 3000);
            let mut taken = 0;
            for _ in 0..5 {
                let places = fill(spool, &body).await;
                taken += places.len();
                finish_all(spool, places, &body).await;
            }
            assert!(taken > 100, "{taken}");
        });
    });
}

/// A message whose recipient was deferred some times, and then delivered.
async fn defer_and_finish(spool: &Spool, body: &[u8], attempts: u32) {
    let (id, place) = store(spool, body).await;
    let location = MessageLocation::fresh(place, 2);
    for attempt in 1..=attempts {
        let outcome = Outcome {
            message: id,
            recipients: vec![(0, waiting(attempt))],
        };
        record_durably(spool, &outcome, &location).await;
    }
    record_durably(spool, &finished(id, 1), &location).await;
    spool.message_finished(id);
}

/// A segment at work that is full of delivered mail kept the outcomes of that mail, and these kept every other segment, while
/// two spare ones were less room than a message may ask for: nobody had a reason to change that.
#[test]
fn an_empty_queue_never_refuses_mail_for_long() {
    for files in [5, 7] {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            segment_bytes: SEGMENT_BYTES_MIN,
            spool_bytes_max: Some(files * SEGMENT_BYTES_MIN),
            ..settings(Durability::Buffered)
        };
        run(
            &directory.path().join("spool"),
            &settings,
            async |spool, _| {
                for n in 0..30u64 {
                    let bytes = [300, 3000, 9000, 20_000][(n * 7 % 11 % 4) as usize];
                    let body = body(n, bytes);
                    let attempts = 10 + (n * 7 % 5 * 12) as u32;
                    tokio::time::timeout(Duration::from_secs(5), async {
                        while spool.admit(Some(bytes as u64)).is_err() {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    })
                    .await
                    .unwrap_or_else(|_| {
                        panic!("{files} segments, message {n}: {:?}", spool.stats())
                    });
                    defer_and_finish(spool, &body, attempts).await;
                }
            },
        );
    }
}

#[test]
fn large_messages_cross_segments_and_an_aborted_one_is_nothing() {
    both(|path, settings| {
        let large = body(5, 700_000);
        let id = run(path, settings, async |spool, _| {
            let mut aborted = spool.begin(spool.next_id());
            aborted.chunk(&body(9, 50_000)).await.unwrap();
            let id = spool.next_id();
            let mut writer = spool.begin(id);
            for piece in large.chunks(30_000) {
                writer.chunk(piece).await.unwrap();
            }
            drop(aborted);
            let receipt = writer.finish(WallTime(3), &envelope(1)).await.unwrap();
            assert_eq!(read_back(receipt.place()).await.unwrap(), large);
            let (whole, place) = store(spool, &large).await;
            assert_eq!(read_back(&place).await.unwrap(), large);
            finish(spool, whole, place).await;
            id
        });
        run(path, settings, async |spool, mut recovered| {
            assert_eq!(recovered.len(), 1);
            let message = recovered.remove(0);
            assert_eq!(message.id, id);
            assert_eq!(read_back(&message.place).await.unwrap(), large);
            finish(spool, id, message.place).await;
        });
        run(path, settings, async |_, recovered| {
            assert!(recovered.is_empty());
        });
    });
}

#[test]
fn a_held_place_keeps_its_segment_from_being_used_again() {
    both(|path, settings| {
        run(path, settings, async |spool, _| {
            let first = body(1, 10_000);
            let (id, place) = store(spool, &first).await;
            record(spool, &finished(id, 1), place.clone()).await;
            spool.message_finished(id);
            for n in 2..100 {
                let (id, place) = store(spool, &body(n, 20_000)).await;
                finish(spool, id, place).await;
            }
            assert!(spool.stats().segments_retired > 0);
            assert_eq!(read_back(&place).await.unwrap(), first);
        });
    });
}

#[test]
fn two_relays_cannot_open_one_spool() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Durability::Buffered);
    let first = open(directory.path(), &settings);
    match spool::open(directory.path(), &settings, 1) {
        Err(OpenError::InUse { holder, .. }) => {
            assert_eq!(holder, std::process::id().to_string());
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    assert_eq!(open(directory.path(), &settings).run, 2);
}

#[test]
fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Durability::Buffered);
    drop(open(directory.path(), &settings));
    std::fs::write(directory.path().join("version"), "99\n").unwrap();
    let error = spool::open(directory.path(), &settings, 1).unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { version: 99, .. }),
        "{error}"
    );
}

#[test]
fn what_crosses_threads_may() {
    fn is_send<T: Send>() {}
    is_send::<spool::CorePart>();
    is_send::<spool::RecoveredMessage>();
    is_send::<Place>();
    is_send::<Note>();
    is_send::<spool::Receipt>();
}

/// Changes the only segment in which `needle` is found, where it is found.
fn damage(path: &Path, needle: &[u8]) -> String {
    for entry in std::fs::read_dir(path.join("segments")).unwrap() {
        let file = entry.unwrap().path();
        let mut content = std::fs::read(&file).unwrap();
        let found = content.windows(needle.len()).position(|w| w == needle);
        if let Some(at) = found {
            content[at] ^= 1;
            std::fs::write(&file, content).unwrap();
            return file.file_name().unwrap().to_str().unwrap().to_owned();
        }
    }
    panic!("it is in no segment");
}

#[test]
fn inspection_lists_mail_and_names_damage() {
    both(|path, settings| {
        let marked = |mark: &str| [mark.as_bytes(), &body(3, 300)].concat();
        let ids = run(path, settings, async |spool, _| {
            let mut ids = Vec::new();
            for n in 0..6 {
                ids.push(store(spool, &marked(&format!("mark-{n}"))).await.0);
            }
            ids
        });
        let listing = spool::recovery::inspect::list(path).unwrap();
        assert_eq!(listing.messages.len(), 6);
        let text = listing.to_string();
        assert!(text.contains(&ids[2].to_string()), "{text}");
        assert!(text.contains("from <sender@a.test>"), "{text}");
        assert!(text.contains("to <r0@b.test>: not tried yet"), "{text}");
        assert_eq!(
            spool::recovery::inspect::verify(path)
                .unwrap()
                .exit_status(),
            0
        );

        let name = damage(path, b"mark-1");
        let found = spool::recovery::inspect::verify(path).unwrap();
        assert_eq!(found.exit_status(), 1);
        let text = found.to_string();
        assert!(
            text.contains(&format!("the content of message {}", ids[1])),
            "{text}"
        );
        run(path, settings, async |spool, recovered| {
            assert_eq!(recovered.len(), 6);
            for message in recovered {
                assert_eq!(message.is_damaged, message.id == ids[1]);
                finish(spool, message.id, message.place).await;
            }
            // Kept for somebody to look at, and in nobody's way.
            let aside = path.join("segments").join(format!("{name}.bad"));
            let set_aside = async {
                while !aside.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), set_aside)
                .await
                .expect("a damaged segment is set aside");
        });
        assert_eq!(
            spool::recovery::inspect::verify(path)
                .unwrap()
                .exit_status(),
            0
        );
    });
}

fn segment_files(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(path.join("segments")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_segment_whose_front_became_zeros_is_reported_and_left_alone() {
    both(|path, settings| {
        let marked = [b"here-lies-mail".as_slice(), &body(3, 3000)].concat();
        run(path, settings, async |spool, _| {
            for _ in 0..5 {
                store(spool, &marked).await;
            }
        });
        let holds_mail = |file: &std::path::PathBuf| {
            let content = std::fs::read(file).unwrap();
            content.windows(14).any(|it| it == b"here-lies-mail")
        };
        let mut files = segment_files(path);
        files.retain(holds_mail);
        for file in &files {
            let mut content = std::fs::read(file).unwrap();
            content[..2 * BLOCK_BYTES].fill(0);
            std::fs::write(file, content).unwrap();
        }
        let verified = spool::recovery::inspect::verify(path).expect("it reads");
        assert_eq!(verified.exit_status(), 1, "{verified}");
        let opened = open(path, settings);
        assert!(!opened.report.is_sound(), "{}", opened.report);
        assert!(files.iter().all(holds_mail), "it is left alone");
    });
}

#[test]
fn segments_that_were_cut_to_nothing_are_counted() {
    both(|path, settings| {
        run(path, settings, async |spool, _| {
            store(spool, &body(3, 3000)).await;
        });
        let files = segment_files(path);
        for file in &files {
            std::fs::File::create(file).expect("it is cut");
        }
        let opened = open(path, settings);
        assert_eq!(opened.report.blank, files.len() as u64);
        assert!(opened.report.to_string().contains("segments hold nothing"));
    });
}

#[test]
fn a_body_that_decays_later_is_not_handed_out_as_whole() {
    both(|path, settings| {
        run(path, settings, async |spool, _| {
            let body = [b"needle", &body(3, 40_000)[..]].concat();
            let (_, place) = store(spool, &body).await;
            damage(path, b"needle");
            let error = read_back(&place).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        });
    });
}

#[test]
fn who_leaves_before_the_receipt_has_not_sent() {
    both(|path, settings| {
        run(path, settings, async |spool, _| {
            let (gone, body) = (spool.next_id(), body(1, 300));
            let envelope = envelope(2);
            {
                let mut append = Box::pin(spool.append(gone, WallTime(0), &envelope, &body));
                let once = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(append.as_mut().poll(context).is_pending())
                });
                assert!(once.await);
            }
            let (_, _place) = store(spool, &body).await;
            while spool.stats().live_messages > 1 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(spool.stats().abandoned, 1);
        });
        run(path, settings, async |_, recovered| {
            assert_eq!(recovered.len(), 1);
        });
    });
}

#[test]
fn envelopes_too_long_for_a_commit_are_refused_by_name() {
    both(|path, settings| {
        run(path, settings, async |spool, _| {
            let id = spool.next_id();
            let envelope = envelope(20_000);
            let receipt = spool.append(id, WallTime(0), &envelope, b".\r\n");
            assert_eq!(receipt.await.unwrap_err(), SpoolError::TooLarge);
            store(spool, b"and it goes on\r\n.\r\n").await;
        });
    });
}

#[test]
fn mail_is_recovered_whatever_the_number_of_cores() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Durability::Buffered);
    for (cores, expected) in [(3u16, 0usize), (1, 30), (4, 40), (2, 80)] {
        let opened = spool::open(directory.path(), &settings, cores).unwrap();
        assert_eq!(opened.messages.len(), expected);
        assert!(opened.messages.iter().all(|m| m.home < cores));
        for part in opened.parts {
            tokio_uring::start(async move {
                let spool = Spool::start(part, |_| {});
                spool.ready().await;
                for n in 0..10 {
                    store(&spool, &body(n, 100)).await;
                }
                spool.close().await;
            });
        }
    }
}

/// What is cached may stay then. A start that fails to settle leaves no mark, and neither does a buffered run.
#[test]
fn a_start_knows_whether_the_run_before_wrote_directly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let mark = path.join("direct");
    let ways = [Durability::Direct, Durability::Buffered, Durability::Direct];
    for way in ways {
        drop(open(&path, &settings(way)));
        assert_eq!(mark.exists(), way == Durability::Direct, "after {way:?}");
    }
    let unreadable = path.join("segments").join("0000-00000000.seg");
    std::os::unix::fs::symlink("nothing", unreadable).unwrap();
    spool::open(&path, &settings(Durability::Direct), 1).expect_err("it cannot be synced");
    assert!(!mark.exists(), "after a sync that failed");
}

/// The power went while the tenth start wrote its number over the ninth's.
#[test]
fn a_number_of_a_run_that_has_the_length_of_the_next_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Durability::Buffered);
    drop(open(directory.path(), &settings));
    std::fs::write(directory.path().join("run"), b"9\n\0").unwrap();
    assert_eq!(open(directory.path(), &settings).run, 10);
}

#[test]
fn outcomes_of_another_core_go_when_its_note_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(Durability::Buffered);
    let mut opened = spool::open(directory.path(), &settings, 2).unwrap();
    let (b, a) = (opened.parts.pop().unwrap(), opened.parts.pop().unwrap());
    tokio_uring::start(async move {
        let notes: Rc<RefCell<Vec<Note>>> = Rc::default();
        let sink = notes.clone();
        let home = Spool::start(a, move |note| sink.borrow_mut().push(note));
        let delivery = Spool::start(b, |_| {});
        home.ready().await;
        delivery.ready().await;
        for n in 0..4000u64 {
            let id = home.next_id();
            let receipt = home
                .append(id, WallTime(0), &envelope(1), &body(n, 400))
                .await;
            let place = receipt.unwrap().into_place();
            let outcome = Outcome {
                message: id,
                recipients: vec![(0, RecipientState::Finished)],
            };
            record(&delivery, &outcome, place).await;
            home.message_finished(id);
            for note in notes.take() {
                delivery.receive_note(&note);
            }
            if delivery.stats().segments_retired > 0 {
                break;
            }
        }
        assert!(home.stats().segments_retired > 0);
        assert!(delivery.stats().segments_retired > 0);
        home.close().await;
        delivery.close().await;
    });
}

/// A message as the relay keeps it while it is not finished.
struct Kept {
    id: MessageId,
    received_at: WallTime,
    envelope: Envelope,
    location: MessageLocation,
}

impl Movable for Kept {
    fn id(&self) -> MessageId {
        self.id
    }

    fn received_at(&self) -> WallTime {
        self.received_at
    }

    fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    fn location(&self) -> &MessageLocation {
        &self.location
    }
}

fn keep(spool: &Spool, kept: Kept) -> Arc<Kept> {
    let kept = Arc::new(kept);
    spool.keep(kept.clone());
    kept
}

fn keep_recovered(spool: &Spool, found: RecoveredMessage) -> Arc<Kept> {
    let kept = Kept {
        id: found.id,
        received_at: found.received_at,
        envelope: found.envelope,
        location: MessageLocation::recovered(found.place, &found.states),
    };
    keep(spool, kept)
}

/// Stores messages of so many recipients until there is no room for another.
async fn fill_with_kept(spool: &Spool, recipients: usize, body: &[u8]) -> Vec<Arc<Kept>> {
    let mut kept = Vec::new();
    loop {
        let (id, envelope) = (spool.next_id(), envelope(recipients));
        let appended = spool.append(id, WallTime(0), &envelope, body).await;
        let Ok(receipt) = appended else {
            return kept;
        };
        let message = Kept {
            id,
            received_at: WallTime(0),
            location: MessageLocation::fresh(receipt.into_place(), recipients),
            envelope,
        };
        kept.push(keep(spool, message));
    }
}

/// Mail comes that there is no room for. How many messages are moved meanwhile.
async fn moves_while_refused(spool: &Spool, times: u32) -> u64 {
    let before = spool.stats().moved;
    for _ in 0..times {
        let _ = spool.admit(Some(SEGMENT_BYTES));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    spool.stats().moved - before
}

/// A spool that is full three times over, of mail of which a third ends each time. Messages that are moved in the end, while
/// nothing comes and nothing ends.
async fn moves_in_the_end(spool: &Spool, recipients: usize, body: &[u8]) -> u64 {
    let mut kept = Vec::new();
    for round in 0..4u64 {
        kept.extend(fill_with_kept(spool, recipients, body).await);
        let all = std::mem::take(&mut kept).into_iter().enumerate();
        for (number, message) in all {
            let lot = (number as u64 + round * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
            if lot % 100 < 30 {
                let id = message.id;
                record_durably(spool, &finished(id, recipients as u32), &message.location).await;
                drop(message);
                spool.message_finished(id);
            } else {
                kept.push(message);
            }
        }
        moves_while_refused(spool, 30).await;
    }
    moves_while_refused(spool, 50).await;
    moves_while_refused(spool, 50).await
}

/// The one at work was left half full, all of it copied into the next one, and so on: at each mail that was refused. And where
/// commits are large beside a segment, segments were sealed half full, and copied for that.
#[test]
fn a_full_spool_does_not_move_its_mail_for_ever() {
    let cases = [
        (5, SEGMENT_BYTES_MIN, 1, 3000),
        (6, SEGMENT_BYTES_MIN, 1, 30_000),
        (8, SEGMENT_BYTES_MIN, 1, 3000),
        (6, SEGMENT_BYTES_MIN, 300, 300),
        (12, SEGMENT_BYTES, 1, 100_000),
    ];
    for (files, segment_bytes, recipients, bytes) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = Settings {
            segment_bytes,
            spool_bytes_max: Some(files * segment_bytes),
            ..settings(Durability::Buffered)
        };
        let path = directory.path().join("spool");
        let moves = run(&path, &settings, async |spool, _| {
            moves_in_the_end(spool, recipients, &body(1, bytes)).await
        });
        assert_eq!(
            moves, 0,
            "{files} segments, {bytes} bytes, {recipients} recipients"
        );
    }
}

/// Stores a message as soon as there is room; gives up after a while.
async fn keep_new(spool: &Spool, number: u64, recipients: usize, body: &[u8]) -> Arc<Kept> {
    let (id, envelope) = (spool.next_id(), envelope(recipients));
    for _ in 0..20_000 {
        match spool.append(id, WallTime(number), &envelope, body).await {
            Ok(receipt) => {
                let kept = Kept {
                    id,
                    received_at: WallTime(number),
                    location: MessageLocation::fresh(receipt.into_place(), recipients),
                    envelope,
                };
                return keep(spool, kept);
            }
            Err(SpoolError::Full) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the spool stays full: {:?}", spool.stats());
}

async fn record_kept(spool: &Spool, kept: &Kept, recipient: u32, state: RecipientState) {
    let outcome = Outcome {
        message: kept.id,
        recipients: vec![(recipient, state)],
    };
    record_durably(spool, &outcome, &kept.location).await;
}

fn waiting(attempts: u32) -> RecipientState {
    RecipientState::Waiting {
        attempts,
        due: WallTime(u64::from(attempts)),
        last: None,
    }
}

fn owed() -> RecipientState {
    RecipientState::ReportOwed {
        kind: ReportKind::Relayed,
        diagnosis: Diagnosis {
            status: EnhancedStatus::new(2, 0, 0),
            text: "250 ok".into(),
            remote_host: "mx.b.test".into(),
        },
        attempts: 0,
        due: WallTime(0),
    }
}

const DEFERRED_BYTES: usize = 3000;
/// Every so many messages there is one that stays: more than one in each segment.
const DEFERRED_EVERY: u64 = 25;

/// Lets mail flow, and leaves some of it deferred: one recipient finished, one owed a report, one
/// waiting.
async fn flow(spool: &Spool, numbers: std::ops::Range<u64>, deferred: &mut Vec<Arc<Kept>>) {
    for number in numbers {
        if number % DEFERRED_EVERY == 0 {
            let kept = keep_new(spool, number, 3, &body(number, DEFERRED_BYTES)).await;
            record_kept(spool, &kept, 0, RecipientState::Finished).await;
            record_kept(spool, &kept, 1, owed()).await;
            record_kept(spool, &kept, 2, waiting(1)).await;
            deferred.push(kept);
        } else {
            let kept = keep_new(spool, number, 1, &body(number, 8000)).await;
            record_kept(spool, &kept, 0, RecipientState::Finished).await;
            let id = kept.id;
            drop(kept);
            spool.message_finished(id);
        }
        let stats = spool.stats();
        assert!(stats.outcome_segments <= 8, "{stats:?}");
    }
}

// ---- durable means durable ----

/// The flags of every segment file that this process has open, by path: `/proc/self/fdinfo`.
fn open_segments(path: &Path) -> Vec<(std::path::PathBuf, i32)> {
    let directory = path.join("segments").canonicalize().expect("the segments");
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("proc");
    let flags_of = |descriptor: std::io::Result<std::fs::DirEntry>| {
        let name = descriptor.ok()?.file_name().into_string().ok()?;
        let file = std::fs::read_link(format!("/proc/self/fd/{name}")).ok()?;
        let is_ours = file.parent() == Some(&directory);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{name}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
        is_ours.then_some((file, flags))
    };
    descriptors.filter_map(flags_of).collect()
}

/// Without `O_DSYNC` a write past the page cache may still wait in the disk's own cache.
#[test]
fn direct_segments_are_open_for_synchronous_writes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("spool");
    run(&path, &settings(Durability::Direct), async |spool, _| {
        store(spool, b"text").await;
        let open = open_segments(&path);
        // One that is being filled with zeros is synced as a whole.
        let is_in_use = |(_, flags): &(_, i32)| flags & libc::O_ACCMODE == libc::O_RDWR;
        let in_use: Vec<_> = open.into_iter().filter(is_in_use).collect();
        assert!(in_use.len() >= 2, "{in_use:?}");
        for (file, flags) in in_use {
            let wanted = libc::O_DIRECT | libc::O_DSYNC;
            assert_eq!(flags & wanted, wanted, "{}: {flags:o}", file.display());
        }
    });
}

/// KiB of the file that are in the page cache and not yet on the disk.
fn dirty_kib(file: &std::fs::File) -> u64 {
    use std::os::fd::AsRawFd;
    let length = file.metadata().expect("our own file").len() as usize;
    // SAFETY: a new mapping that is only read, of a file that nobody shortens; taken away below.
    let start = unsafe {
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_POPULATE);
        libc::mmap(
            std::ptr::null_mut(),
            length,
            read,
            shared,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    let head = format!("{:x}-", start as usize);
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("proc");
    let ours = maps.lines().skip_while(|line| !line.starts_with(&head));
    let kib = |line: &str| -> u64 {
        let number = line.trim().trim_end_matches("kB").trim();
        number.parse().expect("a number")
    };
    let dirty = ours
        .skip(1)
        .take_while(|line| !line.starts_with("VmFlags"))
        .filter_map(|line| {
            let shared = line.strip_prefix("Shared_Dirty:");
            shared.or(line.strip_prefix("Private_Dirty:"))
        });
    let dirty = dirty.map(kib).sum();
    // SAFETY: the mapping from above, which nobody else knows.
    unsafe { libc::munmap(start, length) };
    dirty
}

/// A receipt comes after `fdatasync`: nothing of the message is left in the page cache only.
#[test]
fn buffered_segments_are_on_the_disk_when_a_receipt_comes() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut options = std::fs::File::options();
    options.create(true).truncate(true).read(true).write(true);
    let sample = options.open(directory.path().join("sample"));
    let sample = sample.expect("a file");
    sample.set_len(4096).expect("room");
    std::os::unix::fs::FileExt::write_all_at(&sample, b"text", 0).expect("a write");
    assert!(dirty_kib(&sample) > 0, "the kernel tells what is dirty");
    sample.sync_data().expect("a sync");
    if dirty_kib(&sample) > 0 {
        return println!("skipped: this file system has no disk behind it");
    }
    let path = directory.path().join("spool");
    run(&path, &settings(Durability::Buffered), async |spool, _| {
        for number in 0..20 {
            let body = body(number, 10_000);
            store(spool, &body).await;
            // Others may be prepared just now.
            let holds = |file: &Path| {
                let content = std::fs::read(file).expect("our own file");
                content.windows(16).any(|piece| piece == &body[..16])
            };
            let segments = open_segments(&path).into_iter();
            let segment = segments.map(|(file, _)| file).find(|file| holds(file));
            let segment = segment.expect("it lies somewhere");
            let segment = std::fs::File::open(&segment).expect("our own file");
            assert_eq!(dirty_kib(&segment), 0, "message {number}");
        }
    });
}

/// One run of a spool that is far too small for all the segments that a deferred message was in.
fn run_with_little_room(path: &Path, settings: &Settings, numbers: std::ops::Range<u64>) -> u64 {
    let settings = Settings {
        spool_bytes_max: Some(14 * SEGMENT_BYTES),
        ..settings.clone()
    };
    let stats = run(path, &settings, async |spool, recovered| {
        assert_eq!(
            recovered.len() as u64,
            numbers.start.div_ceil(DEFERRED_EVERY)
        );
        let mut deferred: Vec<Arc<Kept>> = recovered
            .into_iter()
            .map(|found| {
                assert_eq!(found.received_at.0 % DEFERRED_EVERY, 0);
                assert_eq!(found.states, [RecipientState::Finished, owed(), waiting(1)]);
                keep_recovered(spool, found)
            })
            .collect();
        flow(spool, numbers, &mut deferred).await;
        for kept in &deferred {
            let whole = read_back(&kept.location.place()).await.unwrap();
            assert_eq!(whole, body(kept.received_at.0, DEFERRED_BYTES));
        }
        spool.stats()
    });
    let files = std::fs::read_dir(path.join("segments")).unwrap().count();
    assert!(files <= 15, "{files} segments");
    stats.moved
}

#[test]
fn deferred_mail_does_not_keep_the_segments_of_its_neighbours() {
    both(|path, settings| {
        let mut moved = 0;
        for numbers in [0..1500, 1500..1501, 1501..3000, 3000..3001] {
            moved += run_with_little_room(path, settings, numbers.clone());
        }
        assert!(moved > 200, "{moved} moves");
        assert_eq!(
            spool::recovery::inspect::verify(path)
                .unwrap()
                .exit_status(),
            0
        );
    });
}

#[test]
fn large_deferred_mail_moves_in_chunks_and_can_be_read_meanwhile() {
    both(|path, settings| {
        let settings = Settings {
            spool_bytes_max: Some(14 * SEGMENT_BYTES),
            ..settings.clone()
        };
        let large = body(77, 90_000);
        run(path, &settings, async |spool, _| {
            let kept = keep_new(spool, 77, 2, &large).await;
            record_kept(spool, &kept, 1, RecipientState::Finished).await;
            let first = kept.location.place();
            flow(spool, 1..900, &mut Vec::new()).await;
            assert_eq!(read_back(&first).await.unwrap(), large);
            drop(first);
            flow(spool, 901..1800, &mut Vec::new()).await;
            assert!(spool.stats().moved > 30);
            assert_eq!(read_back(&kept.location.place()).await.unwrap(), large);
        });
        run(path, &settings, async |_, recovered| {
            let found = recovered.iter().find(|found| found.received_at.0 == 77);
            let found = found.expect("it is there");
            let states = [RecipientState::fresh(), RecipientState::Finished];
            assert_eq!(found.states, states);
            assert_eq!(read_back(&found.place).await.unwrap(), large);
        });
    });
}

/// Of thousands of segments an operator must know which one to look at.
#[test]
fn a_start_that_cannot_read_a_segment_names_it() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("spool");
    drop(spool::open(&path, &settings(Durability::Buffered), 1).expect("it opens"));
    let segment = path.join("segments/0000-00000077.seg");
    std::fs::create_dir(&segment).expect("it is made");
    let opened = spool::open(&path, &settings(Durability::Buffered), 1);
    let error = opened.expect_err("a directory is no segment").to_string();
    assert!(error.contains("0000-00000077.seg"), "{error}");
}
