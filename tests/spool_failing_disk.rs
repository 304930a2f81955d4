//! The spool when the kernel refuses its writes: a limit on file sizes, lowered while it runs, makes
//! every write behind it fail. One test, because the limit is the whole process's.

use ringpost::io::file::Durability;
use ringpost::message::{Envelope, Mailbox, MessageId, Recipient};
use ringpost::schedule::outcome::{Outcome, RecipientState};
use ringpost::spool::{self, MessageLocation, Note, Place, Settings, Spool, SpoolError};
use ringpost::time::WallTime;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

const SEGMENT_BYTES: u64 = 256 * 1024;
/// Half of every segment can be written.
const LIMIT_BYTES: u64 = SEGMENT_BYTES / 2;
const SIGXFSZ: i32 = 25;
const PATIENCE: Duration = Duration::from_secs(30);

fn limit_file_size(bytes: &str) -> bool {
    Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string()])
        .arg(format!("--fsize={bytes}:unlimited"))
        .status()
        .is_ok_and(|status| status.success())
}

fn envelope() -> Envelope {
    Envelope {
        reverse_path: None,
        recipients: vec![Recipient::new(Mailbox::new("r", "b.test"))],
        ..Envelope::default()
    }
}

async fn store(spool: &Spool) -> Result<(MessageId, Place), SpoolError> {
    let id = spool.next_id();
    let body = vec![b'x'; 20_000];
    let receipt = spool.append(id, WallTime(0), &envelope(), &body).await?;
    Ok((id, receipt.into_place()))
}

fn tried(id: MessageId, attempts: u32) -> Outcome {
    let state = RecipientState::Waiting {
        attempts,
        due: WallTime(0),
        last: None,
    };
    Outcome {
        message: id,
        recipients: vec![(0, state)],
    }
}

async fn play(spool: Spool, notes: Rc<RefCell<Vec<Note>>>) -> (BTreeSet<MessageId>, MessageId) {
    let mut kept = BTreeSet::new();
    let (first, place) = store(&spool).await.expect("all is well");
    kept.insert(first);
    assert!(limit_file_size(&LIMIT_BYTES.to_string()));
    let (mut failed, mut full) = (0, false);
    while !full {
        match store(&spool).await {
            Ok((id, _)) => assert!(kept.insert(id)),
            Err(SpoolError::WriteFailed) => failed += 1,
            Err(SpoolError::Full) => full = true,
            Err(error) => panic!("{error}"),
        }
        assert!(kept.len() + failed < 1000, "it never gets full");
    }
    assert!(failed > 0, "half of a segment refuses writes");
    // Outcomes go on: those that meet the limit are written again as soon as there is a segment.
    let recording = async {
        let mut all = Vec::new();
        for attempts in 1..=6000 {
            let (told, durable) = oneshot::channel();
            let location = MessageLocation::fresh(place.clone(), 1);
            let outcome = tried(first, attempts);
            spool.record(&outcome, &location, move || told.send(()).expect("awaited"));
            all.push(durable);
        }
        for durable in all {
            durable.await.expect("told");
        }
    };
    let lifting = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(limit_file_size("unlimited"));
    };
    let both = async { tokio::join!(recording, lifting) };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("outcomes are written in the end");
    let admitted = async {
        while spool.admit(Some(20_000)).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, admitted)
        .await
        .expect("admission opens by itself");
    kept.insert(store(&spool).await.expect("all is well again").0);
    assert!(spool.stats().write_failures > 0);
    let has = |what: fn(&Note) -> bool| notes.borrow().iter().any(what);
    let told = async {
        while !has(|note| matches!(note, Note::SpaceAgain)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .expect("that there is room again is told without a client");
    spool.close().await;
    assert!(has(|note| matches!(note, Note::SegmentFailed { .. })));
    assert!(has(|note| matches!(note, Note::NoSpace { .. })));
    (kept, first)
}

fn scene(path: &Path, durability: Durability) {
    let settings = Settings {
        segment_bytes: SEGMENT_BYTES,
        spool_bytes_max: None,
        message_bytes_max: 0,
        keep_free_bytes: 0,
        durability: Some(durability),
    };
    let mut opened = spool::open(path, &settings, 1).expect("the spool opens");
    let part = opened.parts.remove(0);
    let (kept, first) = tokio_uring::start(async move {
        let _handled = signal(SignalKind::from_raw(SIGXFSZ)).expect("the signal is ours");
        let notes: Rc<RefCell<Vec<Note>>> = Rc::default();
        let sink = notes.clone();
        let spool = Spool::start(part, move |note| sink.borrow_mut().push(note));
        spool.ready().await;
        play(spool, notes).await
    });
    drop(opened.directory);
    let opened = spool::open(path, &settings, 1).expect("the spool opens again");
    let found: BTreeSet<MessageId> = opened.messages.iter().map(|message| message.id).collect();
    assert!(kept.is_subset(&found), "a receipt was given in vain");
    let first = opened.messages.iter().find(|m| m.id == first).unwrap();
    assert!(
        matches!(
            first.states[0],
            RecipientState::Waiting { attempts: 6000, .. }
        ),
        "{:?}",
        first.states
    );
}

#[test]
fn a_failed_write_is_never_a_receipt_and_the_spool_goes_on() {
    if !limit_file_size("unlimited") {
        eprintln!("skipped: prlimit is not there to limit file sizes");
        return;
    }
    for durability in [Durability::Direct, Durability::Buffered] {
        let directory = tempfile::tempdir().expect("a directory");
        scene(&directory.path().join("spool"), durability);
    }
}
