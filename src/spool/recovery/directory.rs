//! The spool's directory: one relay at a time, one format, and the number of the run.
//!
//! ```text
//! lock        held with flock while a relay or an inspection uses the spool; names the holder
//! version     the format; a newer one is refused
//! run         how often a relay was started here; part of every message id
//! direct      there if the last run wrote directly
//! segments/   the logs
//! exported-N/ logs whose mail was exported, for nobody but people
//! ```
//!
//! After a buffered sync that failed, the page cache has what the disk has not, and no later sync says so. Therefore a
//! start syncs all segments and then drops what is cached of them. Direct writes leave nothing of that kind, so after
//! `direct` the cache may stay, and a start need not read everything from the disk again.
//!
//! A start removes `direct` first, and makes it again when all is settled and this run writes directly, before it writes.
//! Neither is synced. A kill loses no change of a name. The power takes the page cache with it: a mark that comes back
//! then tells of an empty cache, and one that is lost costs a slow start. Segments are synced in any case, since a
//! copied spool, mark included, may be in the cache alone; if a sync fails the mark has gone.

use crate::io::file::{check_enterable_blocking, check_writable_blocking, existing_part};
use crate::io::fs::{self, FileExt, OpenOptionsExt, TryLockError};
use crate::io::process_id;
use crate::spool::format::FORMAT_VERSION;
use crate::spool::log::segment::{create_directory, sync_directory};
use crate::spool::presence::Presence;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const LOCK_NAME: &str = "lock";
const VERSION_NAME: &str = "version";
const RUN_NAME: &str = "run";
const DIRECT_NAME: &str = "direct";
const SEGMENTS_NAME: &str = "segments";
const SET_ASIDE_NAME: &str = "exported";

/// None of our small files is longer.
const SMALL_FILE_BYTES_MAX: u64 = 64;

/// Why a spool cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Another process has it; its id as far as it left one.
    InUse { path: PathBuf, holder: String },
    /// Written by a newer version of the relay.
    Newer { what: PathBuf, version: u32 },
    /// There is no spool at this path, and none is to be made.
    Absent(PathBuf),
    /// A setting that cannot be used.
    Setting(String),
    /// Doing what, and what the system said.
    Io(String, io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse { path, holder } => write!(
                f,
                "the spool {} is in use by process {holder}; one spool serves one relay at a time",
                path.display()
            ),
            OpenError::Newer { what, version } => write!(
                f,
                "{} has format {version}, written by a newer ringpost; this one knows formats up \
                 to {FORMAT_VERSION}",
                what.display()
            ),
            OpenError::Absent(path) => write!(f, "there is no spool at {}", path.display()),
            OpenError::Setting(text) => f.write_str(text),
            OpenError::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

pub(in crate::spool) fn io_error(what: impl fmt::Display) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io(what.to_string(), error)
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink())
}

pub(in crate::spool) fn exists(path: &Path) -> bool {
    fs::exists(path).unwrap_or(false)
}

/// Nothing can be made where such a link stands, and what it led to may hold mail.
fn refuse_dangling_link(path: &Path) -> Result<(), OpenError> {
    match is_link(path) && !exists(path) {
        true => Err(OpenError::Setting(format!(
            "{} is a link to nothing: mount or make what it should lead to, or name another place",
            path.display()
        ))),
        false => Ok(()),
    }
}

/// A spool's directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: fs::File,
}

impl Directory {
    /// Locks the spool at `path`, and makes it first if `create` says so.
    pub fn open(path: &Path, create: bool) -> Result<Directory, OpenError> {
        let describe = |path: &Path| format!("spool {}", path.display());
        if create {
            refuse_dangling_link(path)?;
            create_all(path).map_err(io_error(describe(path)))?;
        } else if !fs::exists(path.join(VERSION_NAME)).map_err(io_error(describe(path)))? {
            return Err(OpenError::Absent(path.to_owned()));
        }
        let lock = lock(path)?;
        let directory = Directory {
            path: path.to_owned(),
            _lock: lock,
        };
        directory.check_version()?;
        create_directory(&directory.segments()).map_err(io_error(describe(path)))?;
        Ok(directory)
    }

    /// Fails as [`Directory::open`] would fail to make or use the spool at `path`, without taking
    /// its lock or changing anything; where its segments are or would be. With `is_made_before`
    /// whoever starts the relay makes what is missing.
    pub fn check(path: &Path, is_made_before: bool) -> Result<PathBuf, OpenError> {
        let segments = path.join(SEGMENTS_NAME);
        let described = || format!("spool {}", path.display());
        if !exists(path) {
            refuse_dangling_link(path)?;
            let existing = existing_part(path);
            match is_made_before {
                true => check_enterable_blocking(existing),
                false => check_writable_blocking(existing),
            }
            .map_err(io_error(described()))?;
            return Ok(segments);
        }
        check_small_file(path, LOCK_NAME)?;
        check_format(path)?;
        last_run(path)?;
        check_writable_blocking(path).map_err(io_error(path.join(RUN_NAME).display()))?;
        Ok(segments)
    }

    /// The names by which a next start finds this spool. Without the lock's another relay could start on it.
    pub(in crate::spool) fn presence(&self) -> Result<Presence, OpenError> {
        Presence::of([self.path.join(LOCK_NAME), self.segments()])
            .map_err(io_error(format!("spool {}", self.path.display())))
    }

    pub fn segments(&self) -> PathBuf {
        self.path.join(SEGMENTS_NAME)
    }

    /// Renames the directory of the logs, durably; where they are now. The next start makes an empty one.
    pub(in crate::spool) fn set_segments_aside(&self) -> Result<PathBuf, OpenError> {
        let name = |number: u32| self.path.join(format!("{SET_ASIDE_NAME}-{number}"));
        let aside = (1..).map(name).find(|path| !exists(path));
        let aside = aside.expect("a directory has fewer entries");
        fs::rename(self.segments(), &aside)
            .and_then(|()| sync_directory(&self.path))
            .map_err(io_error(aside.display()))?;
        Ok(aside)
    }

    fn check_version(&self) -> Result<(), OpenError> {
        match check_format(&self.path)? {
            Some(_) => Ok(()),
            None => write_number(&self.path, VERSION_NAME, FORMAT_VERSION)
                .map_err(io_error(self.path.join(VERSION_NAME).display())),
        }
    }

    /// The number of the last run as the file has it; zero before the first.
    pub fn last_run(&self) -> Result<u32, OpenError> {
        last_run(&self.path)
    }

    /// Whether the last run wrote directly; false also if nobody knows. The mark goes, until this start has
    /// settled what it found and [`Directory::mark_direct`] says so.
    pub(in crate::spool) fn take_direct_mark(&self) -> Result<bool, OpenError> {
        let path = self.path.join(DIRECT_NAME);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error(path.display())(error)),
        }
    }

    /// Tells the next start that this run writes directly. Without it that start takes longer, so an error is none.
    pub(in crate::spool) fn mark_direct(&self) {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        drop(options.open(self.path.join(DIRECT_NAME)));
    }

    /// Begins a run, durably, before anything is written in its name.
    pub fn begin_run(&self, run: u32) -> Result<(), OpenError> {
        write_number(&self.path, RUN_NAME, run)
            .map_err(io_error(self.path.join(RUN_NAME).display()))
    }
}

/// The format of the spool at `directory`, which we know; `None` if it has none yet.
fn check_format(directory: &Path) -> Result<Option<u32>, OpenError> {
    let path = directory.join(VERSION_NAME);
    match read_number(&path).map_err(io_error(path.display()))? {
        Some(version) if version > FORMAT_VERSION => Err(OpenError::Newer {
            what: path,
            version,
        }),
        known => Ok(known),
    }
}

fn last_run(directory: &Path) -> Result<u32, OpenError> {
    let path = directory.join(RUN_NAME);
    let number = read_number(&path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => OpenError::Setting(format!(
            "{} holds no number: write one into it that is above the first part (before the '-') of every id that \
             was given, for instance of the ids in the log",
            path.display()
        )),
        _ => OpenError::Io(path.display().to_string(), error),
    })?;
    Ok(number.unwrap_or(0))
}

/// Fails if the file is there and cannot be written, or is not there and cannot be made.
fn check_small_file(directory: &Path, name: &str) -> Result<(), OpenError> {
    let path = directory.join(name);
    let opened = fs::OpenOptions::new().read(true).write(true).open(&path);
    match opened {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_writable_blocking(directory),
        Err(error) => Err(error),
    }
    .map_err(io_error(path.display()))
}

fn create_all(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent()
        && parent != Path::new("")
        && !exists(parent)
    {
        create_all(parent)?;
    }
    create_directory(path)
}

fn lock(path: &Path) -> Result<fs::File, OpenError> {
    let file = path.join(LOCK_NAME);
    let failed = || io_error(file.display().to_string());
    let lock = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file)
        .map_err(failed())?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message: an unreadable holder is a nameless one.
            let _ = lock.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut holder);
            return Err(OpenError::InUse {
                path: path.to_owned(),
                holder: match holder.trim() {
                    "" => "unknown".to_owned(),
                    holder => holder.to_owned(),
                },
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed()(error)),
    }
    let holder = format!("{}\n", process_id());
    let named = lock.write_all_at(holder.as_bytes(), 0);
    let named = named.and_then(|()| lock.set_len(holder.len() as u64));
    match named {
        // On a full disk whoever is refused is not told who has it.
        Err(error) if is_full(&error) => lock.set_len(0).map_err(failed())?,
        named => named.map_err(failed())?,
    }
    Ok(lock)
}

/// `None` if there is no such file; a file without a number is an error, never zero.
fn read_number(path: &Path) -> io::Result<Option<u32>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    // A crash may leave a longer number's length with the bytes of the one before.
    text.trim_end_matches('\0')
        .trim()
        .parse()
        .map(Some)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "holds no number"))
}

/// A new file in the place of the old one: a crash leaves either. Without room for a new one the old one is written
/// over. Its number never gets shorter, so it needs no more room, and a sector of the disk holds all of it.
fn write_number(directory: &Path, name: &str, number: u32) -> io::Result<()> {
    let (path, fresh) = (directory.join(name), directory.join(format!("{name}.new")));
    let text = format!("{number}\n");
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(0o600);
    match write_text(options.clone().create(true).truncate(true), &fresh, &text) {
        Ok(()) => fs::rename(&fresh, &path)?,
        Err(error) if is_full(&error) && exists(&path) => {
            // It is in nobody's way if it stays.
            let _ = fs::remove_file(&fresh);
            write_text(&options, &path, &text)?;
        }
        Err(error) => return Err(error),
    }
    sync_directory(directory)
}

fn write_text(options: &fs::OpenOptions, path: &Path, text: &str) -> io::Result<()> {
    let file = options.open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all()
}

fn is_full(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
