//! Whether a next start would find what is written now.
//!
//! Writes go to files that are open, and need no name. If the directory is removed, moved away or covered by another
//! file system, they still succeed, and what they make durable is lost with the process. So somebody looks at the
//! names now and then: one task per core, off the ring. Until it has looked, mail may be taken in vain.

use crate::io::clock;
use crate::io::file::File;
use crate::io::fs::{self, MetadataExt};
use crate::io::runtime::{blocking, sleep};
use crate::spool::format::Lap;
use crate::spool::live::driver::Shared;
use crate::spool::shortage::Lack;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long mail may be taken that is lost already.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The names by which a start finds the spool, with what they led to. Held open, so that nothing else gets the
/// inode's number.
#[derive(Debug)]
pub(in crate::spool) struct Presence {
    names: Vec<(PathBuf, fs::File)>,
    /// Some file systems in user space report no links at all.
    counts_links: bool,
}

/// What a look has found.
struct Found {
    lack: Option<Lack>,
    /// Segments that have no name any more.
    unlinked: Vec<Lap>,
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
    fn look(&self, segments: &[(Lap, File)]) -> Found {
        let lack = self
            .names
            .iter()
            .find_map(|(path, file)| astray(path, file));
        let is_unlinked = |file: &File| {
            let links = file.blocking().links();
            self.counts_links && links.is_ok_and(|links| links == 0)
        };
        let unlinked = segments.iter().filter(|(_, file)| is_unlinked(file));
        Found {
            lack,
            unlinked: unlinked.map(|(lap, _)| *lap).collect(),
        }
    }
}

/// Why `path` does not lead to `file` any more.
fn astray(path: &Path, file: &fs::File) -> Option<Lack> {
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

/// The task: runs until the spool has closed.
pub(in crate::spool) async fn watch(shared: Rc<Shared>) {
    loop {
        sleep(LOOK_INTERVAL).await;
        if shared.is_closed() {
            return;
        }
        look(&shared).await;
        shared.look_whether_over(clock::now());
    }
}

/// Looks at the names now.
pub(in crate::spool) async fn look(shared: &Rc<Shared>) {
    let presence: Arc<Presence> = shared.presence.clone();
    let segments = shared.files();
    let Found { lack, unlinked } = blocking(move || presence.look(&segments)).await;
    // Meanwhile the keeper may have removed one, as it should.
    let lost = unlinked.iter().filter(|lap| shared.has_file(**lap)).count();
    let lack = lack.or_else(|| {
        let text = || format!("{lost} segments that are in use were removed");
        (lost > 0).then(|| Lack::Gone(text()))
    });
    shared.seen(lack);
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
