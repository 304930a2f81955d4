//! `kill -9` at any moment: a child process uses a spool and tells what it was promised, the parent
//! kills it, opens the spool, and holds one against the other.

use ringpost::io::buffer::AlignedBuf;
use ringpost::io::file::Durability;
use ringpost::message::{Envelope, Mailbox, MessageId, Recipient};
use ringpost::schedule::outcome::{Outcome, RecipientState};
use ringpost::spool::{self, MessageLocation, Opened, Place, Settings, Spool};
use ringpost::time::WallTime;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::oneshot;

const DIRECTORY: &str = "RINGPOST_TEST_SPOOL";
const BUFFERED: &str = "RINGPOST_TEST_BUFFERED";
const SESSIONS: u64 = 30;
const ROUNDS: u64 = 6;

/// A session that is refused so often in a row gives up, and the child ends: 1 ms lies between two of them.
const REFUSALS_MAX: u32 = 10_000;

fn settings(durability: Durability) -> Settings {
    Settings {
        segment_bytes: 1024 * 1024,
        // Nobody shows the mail to the mover here, so each unfinished message keeps its segment: room
        // for more than all rounds can leave.
        spool_bytes_max: Some(400 * 1024 * 1024),
        message_bytes_max: 0,
        keep_free_bytes: 0,
        durability: Some(durability),
    }
}

/// Anybody can tell from the id what the body must be.
fn body(id: MessageId) -> Vec<u8> {
    let mut state = (u64::from(id.run) << 32 | id.sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bytes = match id.sequence % 50 {
        0 => 600_000,
        length => length as usize * 211,
    };
    (0..bytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn say(word: &str, id: MessageId) {
    let line = format!("{word} {id}\n");
    std::io::stdout()
        .write_all(line.as_bytes())
        .expect("the parent listens");
}

async fn session(spool: Spool, number: u64) {
    let envelope = Envelope {
        recipients: vec![Recipient::new(Mailbox::new("r", "b.test"))],
        ..Envelope::default()
    };
    let mut refusals = 0;
    loop {
        let id = spool.next_id();
        let body = body(id);
        let appended = spool.append(id, WallTime(number), &envelope, &body).await;
        let receipt = match appended {
            Ok(receipt) => receipt,
            Err(error) if refusals == REFUSALS_MAX => {
                eprintln!("session {number} was refused too often: {error}");
                std::process::exit(1);
            }
            Err(_) => {
                refusals += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        refusals = 0;
        say("accepted", id);
        if id.sequence % 40 != 7 {
            finish(&spool, id, receipt.into_place()).await;
        }
    }
}

async fn finish(spool: &Spool, id: MessageId, place: Place) {
    let outcome = Outcome {
        message: id,
        recipients: vec![(0, RecipientState::Finished)],
    };
    say("finishing", id);
    let (told, durable) = oneshot::channel();
    let home = MessageLocation::fresh(place, 1);
    spool.record(&outcome, &home, move || told.send(()).expect("awaited"));
    durable.await.expect("told");
    say("finished", id);
    spool.message_finished(id);
}

/// Not a test of its own: what the parent starts and kills.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let durability = match std::env::var_os(BUFFERED) {
        Some(_) => Durability::Buffered,
        None => Durability::Direct,
    };
    let mut opened = spool::open(Path::new(&directory), &settings(durability), 1).expect("opens");
    let part = opened.parts.remove(0);
    tokio_uring::start(async move {
        let spool = Spool::start(part, |_| {});
        spool.ready().await;
        for number in 0..SESSIONS {
            tokio::task::spawn_local(session(spool.clone(), number));
        }
        std::future::pending::<()>().await;
    });
}

/// What the child said of each message, the last word counting.
fn listen_and_kill(
    path: &Path,
    durability: Durability,
    lines_max: usize,
) -> BTreeMap<String, String> {
    let mut command = Command::new(std::env::current_exe().expect("we run"));
    command
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, path)
        .stdout(Stdio::piped());
    if durability == Durability::Buffered {
        command.env(BUFFERED, "1");
    }
    let mut child = command.spawn().expect("the child starts");
    let mut said = BTreeMap::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut hear = |line: std::io::Result<String>| {
        let line = line.expect("text");
        if let Some((word, id)) = line.rsplit_once(' ')
            && let Some(word) = ["accepted", "finishing", "finished"]
                .into_iter()
                .find(|known| word.ends_with(known))
        {
            said.insert(id.to_owned(), word.to_owned());
        }
    };
    for _ in 0..lines_max {
        hear(lines.next().expect("the child goes on until it is killed"));
    }
    child.kill().expect("it can be killed");
    // What was said before the kill counts as well.
    lines.for_each(&mut hear);
    child.wait().expect("it ended");
    said
}

fn check(opened: &Opened, said: &BTreeMap<String, String>, before: &BTreeSet<MessageId>) {
    let found: BTreeSet<MessageId> = opened.messages.iter().map(|m| m.id).collect();
    assert!(before.is_subset(&found), "mail of an earlier run is gone");
    for (id, word) in said {
        // A line that the kill cut in two names nobody.
        let Ok(id) = id.parse::<MessageId>() else {
            continue;
        };
        match word.as_str() {
            "accepted" => assert!(found.contains(&id), "{id} was accepted and is lost"),
            "finished" => assert!(!found.contains(&id), "{id} was finished and came back"),
            _ => {}
        }
    }
}

async fn check_bodies(opened: Opened) -> BTreeSet<MessageId> {
    let mut buffer = AlignedBuf::new(64 * 1024);
    let mut ids = BTreeSet::new();
    for message in opened.messages {
        let mut reader = message.place.reader();
        let mut read = Vec::new();
        loop {
            let (piece, returned) = reader.next(buffer).await;
            buffer = returned;
            let piece = piece.expect("readable");
            if piece.is_empty() {
                break;
            }
            read.extend_from_slice(&buffer[piece]);
        }
        assert_eq!(read, body(message.id), "{}", message.id);
        ids.insert(message.id);
    }
    ids
}

#[test]
fn kill_dash_nine_loses_nothing_that_has_a_receipt() {
    for durability in [Durability::Direct, Durability::Buffered] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("spool");
        let mut before = BTreeSet::new();
        for round in 0..ROUNDS {
            let lines_max = 20 + (round * 977 % 1500) as usize;
            let said = listen_and_kill(&path, durability, lines_max);
            assert!(said.len() > 3, "the child says something");
            let opened = spool::open(&path, &settings(durability), 1).expect("it opens");
            assert!(opened.report.is_sound(), "{}", opened.report);
            check(&opened, &said, &before);
            before = tokio_uring::start(check_bodies(opened));
        }
    }
}
