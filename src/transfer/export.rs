//! From the spool of a stopped relay to files.

use super::form::Head;
use super::{MAIL_SUFFIX, Summary};
use crate::smtp::data::from_wire_form;
use crate::spool::recovery::FoundMessage;
use crate::spool::recovery::stopped::Stopped;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What an export was asked for.
#[derive(Clone, Debug)]
pub struct Export {
    /// The directory of the spool.
    pub spool: PathBuf,
    /// The directory that is made.
    pub to: PathBuf,
    /// Afterwards the spool is empty: its logs are set aside.
    pub take: bool,
}

/// What was exported, and where the logs are if they were set aside.
#[derive(Debug)]
pub struct Exported {
    pub summary: Summary,
    pub aside: Option<PathBuf>,
}

impl Export {
    /// Blocking; takes as much memory as all envelopes and the largest body.
    ///
    /// # Errors
    /// In words. Nothing has changed then, but for what an export that was cut off leaves in `TO.part`.
    pub fn run(&self) -> Result<Exported, String> {
        let stopped = Stopped::open(&self.spool).map_err(|error| error.to_string())?;
        let part = self.make_part()?;
        let mut summary = Summary::default();
        for message in &stopped.scan.messages {
            match write(&stopped, message, &part) {
                Ok(head) => {
                    summary.messages += 1;
                    summary.bytes += head.content_bytes;
                    let open = head.states.iter().filter(|it| !it.is_finished());
                    summary.recipients += open.count() as u64;
                }
                Err(Failure::Unreadable(why)) => {
                    summary.left.push(format!("{}: {why}", message.id));
                }
                Err(Failure::Unwritable(why)) => return Err(why),
            }
        }
        let named = |error| said(&self.to, error);
        sync(&part).map_err(|error| said(&part, error))?;
        fs::rename(&part, &self.to).map_err(named)?;
        sync(parent(&self.to)).map_err(named)?;
        let aside = match self.take && summary.left.is_empty() {
            true => Some(stopped.set_aside().map_err(|error| error.to_string())?),
            false => None,
        };
        Ok(Exported { summary, aside })
    }

    /// The directory that is filled, and is called `to` when it is whole.
    fn make_part(&self) -> Result<PathBuf, String> {
        if self.to.exists() {
            return Err(format!(
                "{} is there already: name a directory that is not",
                self.to.display()
            ));
        }
        let mut name = self.to.clone().into_os_string();
        name.push(".part");
        let part = PathBuf::from(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&part);
        made.map(|()| part.clone())
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => format!(
                    "{} is what an export that was cut off has left: remove it",
                    part.display()
                ),
                _ => said(&part, error),
            })
    }
}

enum Failure {
    /// The message stays where it is.
    Unreadable(io::Error),
    Unwritable(String),
}

fn write(stopped: &Stopped, message: &FoundMessage, directory: &Path) -> Result<Head, Failure> {
    if message.is_damaged {
        let error = io::Error::new(io::ErrorKind::InvalidData, "the content is damaged");
        return Err(Failure::Unreadable(error));
    }
    let content = from_wire_form(&stopped.body(message).map_err(Failure::Unreadable)?);
    let head = Head {
        id: message.id,
        received_at: message.received_at,
        envelope: message.envelope.clone(),
        states: message.states.clone(),
        content_bytes: content.len() as u64,
        content_checksum: crc32c::crc32c(&content),
    };
    let path = directory.join(format!("{}.{MAIL_SUFFIX}", message.id));
    write_file(&path, &head, &content)
        .map(|()| head)
        .map_err(|error| Failure::Unwritable(said(&path, error)))
}

fn write_file(path: &Path, head: &Head, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut line = head.to_line();
    line.push('\n');
    file.write_all(line.as_bytes())?;
    file.write_all(content)?;
    file.sync_all()
}

pub(super) fn said(path: &Path, error: impl Display) -> String {
    format!("{}: {error}", path.display())
}

pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}
