//! From files into the spool of a stopped relay, by the log that a relay writes.

use super::export::{said, sync};
use super::form::Head;
use super::{MAIL_SUFFIX, Summary};
use crate::io::runtime;
use crate::privilege::Identity;
use crate::schedule::outcome::{Outcome, RecipientState};
use crate::smtp::data::{BareLineEnds, Rules, Scanner};
use crate::spool::{self, INLINE_BODY_BYTES_MAX, MessageLocation, Spool, SpoolError};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// Messages that are written at a time: they share commits.
const MESSAGES_AT_A_TIME: usize = 64;

/// Of so many octets of files, or a single larger one.
const BYTES_AT_A_TIME: u64 = 64 << 20;

/// No line that an export writes is longer: 50,000 recipients, each with a long reply.
const HEAD_BYTES_MAX: u64 = 256 << 20;

/// Where the files of mail that is in the spool are moved to.
const DONE_DIRECTORY: &str = "imported";

/// What an import was asked for.
#[derive(Clone, Debug)]
pub struct Import {
    /// The directory of an export.
    pub from: PathBuf,
    /// The directory of the spool, which is made if it is missing.
    pub spool: PathBuf,
    pub settings: spool::Settings,
}

/// Where it is, and its length in octets.
type MailFile = (PathBuf, u64);

impl Import {
    /// Blocking; takes twice the memory of 64 MiB of files, or of the largest message. `say` gets a line for each message.
    ///
    /// # Errors
    /// In words. What was imported until then is in the spool, and its files are moved away: run again, it goes on.
    pub fn run(self, say: impl FnMut(&str)) -> Result<Summary, String> {
        let files = self.files()?;
        self.check_owner()?;
        let opened = spool::open(&self.spool, &self.settings, 1);
        let opened = opened.map_err(|error| error.to_string())?;
        let part = opened.parts.into_iter().next();
        let part = part.ok_or("the spool has no part for a thread")?;
        // The lock: until all is written.
        let _directory = opened.directory;
        let done = self.from.join(DONE_DIRECTORY);
        fs::create_dir_all(&done).map_err(|error| said(&done, error))?;
        let imported = runtime::run(async {
            let spool = Spool::start(part, |_| {});
            spool.stop_moving();
            spool.ready().await;
            let imported = import(&spool, &files, (&self.from, &done), say).await;
            spool.close().await;
            imported
        });
        imported.map_err(|error| format!("io_uring: {error}"))?
    }

    /// By name, and how long each is.
    fn files(&self) -> Result<Vec<MailFile>, String> {
        let failed = |error| said(&self.from, error);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if path.extension().is_some_and(|it| it == MAIL_SUFFIX) {
                files.push((path, entry.metadata().map_err(failed)?.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// A relay could not open what another user has made.
    fn check_owner(&self) -> Result<(), String> {
        let user = Identity::current();
        match fs::metadata(&self.spool) {
            Ok(metadata) if metadata.uid() != user.user_id() => Err(format!(
                "{} belongs to user {}: import as that user, since the relay could not read what another one writes",
                self.spool.display(),
                metadata.uid()
            )),
            _ => Ok(()),
        }
    }
}

/// So many of them are written at a time, at least one if there is one.
fn some_of(files: &[MailFile]) -> usize {
    let sums = files.iter().scan(0, |sum, (_, bytes)| {
        *sum += bytes;
        Some(*sum)
    });
    let fit = sums.take_while(|sum| *sum <= BYTES_AT_A_TIME).count();
    fit.clamp(1, MESSAGES_AT_A_TIME).min(files.len())
}

/// Some messages at a time, since a write for each would take long.
async fn import(
    spool: &Spool,
    mut files: &[MailFile],
    (from, done): (&Path, &Path),
    mut say: impl FnMut(&str),
) -> Result<Summary, String> {
    let mut summary = Summary::default();
    while !files.is_empty() {
        let (some, rest) = files.split_at(some_of(files));
        files = rest;
        let begin = |path: &PathBuf| runtime::spawn_joined(store(spool.clone(), path.clone()));
        let stored: Vec<_> = some.iter().map(|(path, _)| begin(path)).collect();
        let mut no_room = None;
        for ((path, _), stored) in some.iter().zip(stored) {
            match stored.await {
                Ok(stored) => {
                    let name = path.file_name().unwrap_or_default();
                    fs::rename(path, done.join(name)).map_err(|error| said(path, error))?;
                    summary.messages += 1;
                    summary.recipients += stored.recipients;
                    summary.bytes += stored.bytes;
                    say(&stored.line);
                }
                Err(Failure::File(why)) => summary.left.push(said(path, why)),
                Err(Failure::Spool(error)) => no_room = Some(error),
            }
        }
        // Else a power cut would bring the files of much that is in the spool back.
        for directory in [done, from] {
            sync(directory).map_err(|error| said(directory, error))?;
        }
        if let Some(error) = no_room {
            return Err(format!(
                "{error}; {} messages were imported, the others wait in the directory: make room and import it again",
                summary.messages
            ));
        }
    }
    Ok(summary)
}

struct Stored {
    recipients: u64,
    bytes: u64,
    line: String,
}

enum Failure {
    /// This message stays in its file.
    File(String),
    /// Nothing more can be written.
    Spool(SpoolError),
}

async fn store(spool: Spool, path: PathBuf) -> Result<Stored, Failure> {
    let (head, body) = read(&path).map_err(Failure::File)?;
    let id = spool.next_id();
    let (received_at, envelope) = (head.received_at, &head.envelope);
    let receipt = match body.len() <= INLINE_BODY_BYTES_MAX {
        true => spool.append(id, received_at, envelope, &body).await,
        false => {
            let mut writer = spool.begin(id);
            let chunked = writer.chunk(&body).await;
            match chunked {
                Ok(()) => writer.finish(received_at, envelope).await,
                Err(error) => Err(error),
            }
        }
    };
    let location = receipt.map_err(Failure::Spool)?.into_place();
    let recipients = head.states.len();
    let location = MessageLocation::fresh(location, recipients);
    let fresh = RecipientState::fresh();
    let states = (0..).zip(head.states);
    let tried: Vec<_> = states.filter(|(_, state)| *state != fresh).collect();
    if !tried.is_empty() {
        let outcome = Outcome {
            message: id,
            recipients: tried,
        };
        let (is_durable, durable) = oneshot::channel();
        spool.record(&outcome, &location, move || {
            let _ = is_durable.send(());
        });
        // Only a spool that closes forgets it, and this one closes later.
        let _ = durable.await;
    }
    Ok(Stored {
        recipients: recipients as u64,
        bytes: head.content_bytes,
        line: format!("{id} was {}: {recipients} recipients", head.id),
    })
}

/// What the file says, and the body in wire form.
fn read(path: &Path) -> Result<(Head, Vec<u8>), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut line = String::new();
    let mut front = (&mut file).take(HEAD_BYTES_MAX);
    front.read_line(&mut line).map_err(failed)?;
    let head = Head::from_line(&line)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(failed)?;
    if (content.len() as u64, crc32c::crc32c(&content))
        != (head.content_bytes, head.content_checksum)
    {
        return Err(
            "the content is not what was exported: its length or checksum differs".to_owned(),
        );
    }
    let body = in_wire_form(&content)?;
    Ok((head, body))
}

fn in_wire_form(content: &[u8]) -> Result<Vec<u8>, String> {
    let mut scanner = Scanner::for_chunks(Rules {
        bare_line_ends: BareLineEnds::Refuse,
        message_bytes_max: u64::MAX,
        line_bytes_max: usize::MAX,
        hops_max: u32::MAX,
    });
    let mut body = Vec::with_capacity(content.len() + content.len() / 64 + 8);
    let (consumed, _) = scanner.feed(content, &mut body);
    let ended = scanner.finish_chunks(&mut body);
    match ended.is_ok() && consumed == content.len() {
        true => Ok(body),
        false => Err("its lines do not all end in CRLF, or it has a NUL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_at_a_time_is_bounded_in_number_and_in_octets() {
        let files = |count: usize, bytes| vec![(PathBuf::new(), bytes); count];
        assert_eq!(some_of(&files(3, 1)), 3);
        assert_eq!(some_of(&files(100, 1)), MESSAGES_AT_A_TIME);
        assert_eq!(some_of(&files(100, BYTES_AT_A_TIME / 2)), 2);
        assert_eq!(some_of(&files(100, BYTES_AT_A_TIME + 1)), 1);
    }

    #[test]
    fn content_that_a_client_could_not_have_sent_is_not_taken() {
        assert_eq!(
            in_wire_form(b"a\r\n.b\r\n"),
            Ok(b"a\r\n..b\r\n.\r\n".to_vec())
        );
        for content in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"a\0\r\n"] {
            assert!(in_wire_form(content).is_err(), "{content:?}");
        }
    }
}
