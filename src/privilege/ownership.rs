//! Whose the spool and the keys are, and who else may look at them.

use super::identity::user_name;
use super::{Complaint, Identity};
use crate::io::file;
use nix::unistd::Uid;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// What a group and others may do with a file or directory.
const GROUP_AND_OTHERS: u32 = 0o077;
/// A key of root's may be read by its group: that is how a user without privileges gets at it.
const MORE_THAN_GROUP_READ: u32 = 0o037;

/// Levels below the spool's directory at which owners are looked at: `segments/` and its files.
const LEVELS_CHECKED: u32 = 2;

/// What to do with an empty directory that others may enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loose {
    Close,
    Leave,
}

/// Makes `path` and what is missing above it, durably, all of it `owner`'s and nobody else's.
/// A directory that exists is left as it is.
///
/// # Errors
/// If it cannot be made or given away.
pub fn make_directory(path: &Path, owner: &Identity) -> Result<(), Complaint> {
    for directory in missing(path).into_iter().rev() {
        make_one(directory, owner).map_err(|error| not_made(directory, error))?;
    }
    Ok(())
}

/// Fails as [`make_directory`] would, and makes nothing.
///
/// # Errors
/// If it could not be made.
pub fn check_make_directory(path: &Path) -> Result<(), Complaint> {
    let Some(first) = missing(path).pop() else {
        return Ok(());
    };
    file::check_makeable_blocking(first).map_err(|error| not_made(first, error))
}

/// What is not there of a path, the deepest first.
fn missing(path: &Path) -> Vec<&Path> {
    path.ancestors()
        .take_while(|part| *part != Path::new("") && !part.exists())
        .collect()
}

fn not_made(directory: &Path, error: io::Error) -> Complaint {
    Complaint::new(format!("making {}", directory.display()), error)
}

fn make_one(directory: &Path, owner: &Identity) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(directory)?;
    // Not by name: what stands there now is given away only if it is still no link.
    let made = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits() | nix::fcntl::OFlag::O_DIRECTORY.bits())
        .open(directory)?;
    fchown(&made, Some(owner.uid()), Some(owner.gid()))?;
    made.sync_all()?;
    let parent = directory.parent().filter(|part| *part != Path::new(""));
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Gives a file that we have just made to `owner`.
///
/// # Errors
/// If the kernel refuses.
pub fn give_file(file: &File, owner: &Identity) -> io::Result<()> {
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// A directory with secrets in it, and what is in it, is `owner`'s, and nobody else may enter it.
/// One that does not exist is in order. One that is empty has given nothing away yet, and is closed
/// to others by [`Loose::Close`]: so a directory may be made by hand or by a program that knows
/// nothing of modes.
///
/// # Errors
/// [`Complaint`] with the command that puts it right.
pub fn check_directory(
    what: &str,
    path: &Path,
    owner: &Identity,
    if_empty: Loose,
) -> Result<(), Complaint> {
    let Some(metadata) = look(what, path)? else {
        return Ok(());
    };
    let loose = metadata.mode() & GROUP_AND_OTHERS;
    check_owner(what, path, &metadata, owner)?;
    if loose != 0 && is_empty(path) && if_empty == Loose::Leave {
        return Ok(());
    } else if loose != 0 && is_empty(path) {
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, closed)
            .map_err(|error| Complaint::new(format!("{what} {}", path.display()), error))?;
    } else if loose != 0 {
        return Err(Complaint::new(
            format!("{what} {}", path.display()),
            format!(
                "others may enter it (mode {:o}); to put that right: chmod 700 {}",
                metadata.mode() & 0o7777,
                quoted(path)
            ),
        ));
    }
    check_content(what, path, path, owner, LEVELS_CHECKED)
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn check_content(
    what: &str,
    top: &Path,
    directory: &Path,
    owner: &Identity,
    levels: u32,
) -> Result<(), Complaint> {
    let failed = |error| Complaint::new(format!("{what} {}", directory.display()), error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = match entry.metadata() {
            // Gone in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed)?,
        };
        if metadata.uid() != owner.uid() {
            return Err(belongs_to_another(
                what,
                &entry.path(),
                top,
                &metadata,
                owner,
            ));
        }
        if metadata.is_dir() && levels > 1 {
            check_content(what, top, &entry.path(), owner, levels - 1)?;
        }
    }
    Ok(())
}

fn check_owner(
    what: &str,
    path: &Path,
    metadata: &Metadata,
    owner: &Identity,
) -> Result<(), Complaint> {
    match metadata.uid() == owner.uid() {
        true => Ok(()),
        false => Err(belongs_to_another(what, path, path, metadata, owner)),
    }
}

fn belongs_to_another(
    what: &str,
    path: &Path,
    top: &Path,
    metadata: &Metadata,
    owner: &Identity,
) -> Complaint {
    Complaint::new(
        format!("{what} {}", path.display()),
        format!(
            "it belongs to {}, and the relay runs as {}; to put that right: chown -R {owner} {}",
            user_name(Uid::from_raw(metadata.uid())),
            owner.name(),
            quoted(top)
        ),
    )
}

/// The operator's private key: of the relay's user and for it alone, or root's, which a group may
/// read.
///
/// # Errors
/// [`Complaint`] with the command that puts it right. A key that cannot be looked at is left to
/// whoever reads it.
pub fn check_key(path: &Path, owner: &Identity) -> Result<(), Complaint> {
    let Some(metadata) = look("the key", path)? else {
        return Ok(());
    };
    let (forbidden, right) = match metadata.uid() {
        0 => (MORE_THAN_GROUP_READ, "640"),
        _ => (GROUP_AND_OTHERS, "600"),
    };
    if metadata.uid() != 0 {
        check_owner("the key", path, &metadata, owner)?;
    }
    check_key_mode(path, &metadata, forbidden, right)
}

/// A private key that the relay has made itself: its user's, and for nobody else.
///
/// # Errors
/// [`Complaint`] with the command that puts it right.
pub fn check_kept_key(path: &Path, owner: &Identity) -> Result<(), Complaint> {
    let Some(metadata) = look("the key", path)? else {
        return Ok(());
    };
    check_owner("the key", path, &metadata, owner)?;
    check_key_mode(path, &metadata, GROUP_AND_OTHERS, "600")
}

fn check_key_mode(
    path: &Path,
    metadata: &Metadata,
    forbidden: u32,
    right: &str,
) -> Result<(), Complaint> {
    if metadata.mode() & forbidden == 0 {
        return Ok(());
    }
    Err(Complaint::new(
        format!("the key {}", path.display()),
        format!(
            "others than its owner may read or change it (mode {:o}); to put that right: \
             chmod {right} {}",
            metadata.mode() & 0o7777,
            quoted(path)
        ),
    ))
}

/// `None` if there is nothing, or nothing that we may see.
fn look(what: &str, path: &Path) -> Result<Option<Metadata>, Complaint> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(Complaint::new(format!("{what} {}", path.display()), error)),
    }
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn loose_spools_are_refused_with_the_remedy() {
        let temp = tempfile::tempdir().unwrap();
        let (spool, owner) = (temp.path().join("a spool"), Identity::current());
        check_directory("the spool", &spool, &owner, Loose::Close).unwrap();
        make_directory(&spool.join("segments"), &owner).unwrap();
        check_directory("the spool", &spool, &owner, Loose::Close).unwrap();
        for mode in [0o750, 0o701, 0o720] {
            set_mode(&spool, mode);
            let complaint = check_directory("the spool", &spool, &owner, Loose::Close).unwrap_err();
            let command = format!("chmod 700 '{}'", spool.display());
            assert!(complaint.to_string().ends_with(&command), "{complaint}");
        }
    }

    #[test]
    fn empty_spool_that_was_made_by_hand_is_closed_to_others() {
        let temp = tempfile::tempdir().unwrap();
        set_mode(temp.path(), 0o755);
        check_directory("the spool", temp.path(), &Identity::current(), Loose::Close).unwrap();
        assert_eq!(fs::metadata(temp.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn keys_for_more_than_one_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let (key, owner) = (temp.path().join("key.pem"), Identity::current());
        check_key(&key, &owner).unwrap();
        fs::write(&key, "").unwrap();
        for mode in [0o604, 0o620, 0o644, 0o660, 0o601] {
            set_mode(&key, mode);
            let complaint = check_key(&key, &owner).unwrap_err().to_string();
            assert!(complaint.contains("chmod 6"), "{complaint}");
            check_kept_key(&key, &owner).unwrap_err();
        }
        for mode in [0o600, 0o400] {
            set_mode(&key, mode);
            check_key(&key, &owner).unwrap();
            check_kept_key(&key, &owner).unwrap();
        }
        // As other servers have it: root's key may have a group that reads it.
        set_mode(&key, 0o640);
        assert_eq!(check_key(&key, &owner).is_ok(), owner.is_root());
        check_kept_key(&key, &owner).unwrap_err();
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused_with_the_remedy() {
        if !Identity::current().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let spool = temp.path().join("spool");
        let (root, other) = (
            Identity::current(),
            Identity::named("nobody", None).unwrap(),
        );
        make_directory(&spool, &other).unwrap();
        check_directory("the spool", &spool, &other, Loose::Close).unwrap();
        let complaint = check_directory("the spool", &spool, &root, Loose::Close).unwrap_err();
        let command = format!("chown -R {root} {}", spool.display());
        assert!(complaint.to_string().ends_with(&command), "{complaint}");
        fs::write(spool.join("lock"), "").unwrap();
        let complaint = check_directory("the spool", &spool, &other, Loose::Close).unwrap_err();
        assert!(
            complaint.to_string().contains("/lock: it belongs to root"),
            "{complaint}"
        );
        assert!(
            complaint
                .to_string()
                .ends_with(&spool.display().to_string())
        );
    }
}
