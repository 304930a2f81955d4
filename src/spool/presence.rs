//! Whether a next start would find what is written now.
//!
//! Writes go to files that are open, and need no name. If the directory is removed, moved away or covered by another
//! file system, they still succeed, and what they make durable is lost with the process. So somebody looks at the
//! names now and then: one task per core, off the ring. Until it has looked, mail may be taken in vain.

use crate::io::file::File;
use crate::io::fs::{self, MetadataExt};
use crate::spool::format::Generation;
use crate::spool::shortage::Lack;
use std::io;
use std::path::{Path, PathBuf};

/// The names by which a start finds the spool, with what they led to. Held open, so that nothing else gets the
/// inode's number.
#[derive(Debug)]
pub(in crate::spool) struct Presence {
    names: Vec<(PathBuf, fs::File)>,
    /// Some file systems in user space report no links at all.
    counts_links: bool,
}

/// A segment that is to keep its name and its length.
pub(in crate::spool) struct Watched {
    pub generation: Generation,
    pub bytes: u64,
    pub file: File,
}

/// What a look has found.
pub(in crate::spool) struct Found {
    pub lack: Option<Lack>,
    /// Segments that have no name any more, or were cut.
    pub spoilt: Vec<Generation>,
}

impl Presence {
    /// Blocking.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Presence> {
        let mut counts_links = true;
        let mut names = Vec::new();
        for path in paths {
            let file = fs::File::open(&path)?;
            counts_links &= file.metadata()?.nlink() > 0;
            names.push((path, file));
        }
        Ok(Presence {
            names,
            counts_links,
        })
    }

    pub fn counts_links(&self) -> bool {
        self.counts_links
    }

    /// Blocking.
    pub fn look(&self, segments: &[Watched]) -> Found {
        let lack = self
            .names
            .iter()
            .find_map(|(path, file)| path_mismatch(path, file));
        let is_spoilt = |watched: &&Watched| {
            let found = watched.file.blocking().links_and_length();
            found.is_ok_and(|(links, length)| {
                self.counts_links && links == 0 || length < watched.bytes
            })
        };
        let spoilt = segments.iter().filter(is_spoilt);
        Found {
            lack,
            spoilt: spoilt.map(|watched| watched.generation).collect(),
        }
    }
}

/// Why `path` does not lead to `file` any more.
fn path_mismatch(path: &Path, file: &fs::File) -> Option<Lack> {
    let described = || path.display();
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(Lack::Gone(format!("{} is not there any more", described())));
        }
        Err(error) => return Some(Lack::of(described(), &error)),
    };
    match file.metadata() {
        Ok(ours) if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) => None,
        Ok(_) => Some(Lack::Gone(format!(
            "{} is not what it was when the relay started",
            described()
        ))),
        Err(error) => Some(Lack::of(described(), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::shortage::Trouble;

    #[test]
    fn a_directory_that_was_moved_covered_or_removed_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let (spool, aside) = (home.path().join("spool"), home.path().join("aside"));
        fs::create_dir(&spool).unwrap();
        let presence = Presence::of([spool.clone()]).unwrap();
        let trouble = || presence.look(&[]).lack.map(|lack| lack.trouble());
        assert_eq!(trouble(), None);
        fs::rename(&spool, &aside).unwrap();
        assert_eq!(trouble(), Some(Trouble::Gone));
        fs::create_dir(&spool).unwrap();
        assert_eq!(trouble(), Some(Trouble::Gone), "another one stands there");
        fs::remove_dir(&spool).unwrap();
        fs::rename(&aside, &spool).unwrap();
        assert_eq!(trouble(), None, "it is back");
        fs::remove_dir(&spool).unwrap();
        assert_eq!(trouble(), Some(Trouble::Gone));
        fs::create_dir(&spool).unwrap();
        assert_eq!(trouble(), Some(Trouble::Gone), "whatever its number");
    }
}
