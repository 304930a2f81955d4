//! Segment files: made, given a header, retired. Blocking: for start and for helper threads.
//!
//! A file is claimed and filled with zeros before it is used, so that a commit later overwrites
//! blocks that exist and the disk has no file system metadata to write. Its headers' generations
//! only grow; a retired file is used again as it is, because nothing in it has the next generation's nonce.

use crate::io::buffer::{AlignedBuf, BLOCK_BYTES};
use crate::io::file::{
    Durability, File, allocate_blocking, existing_part, forget_cached_blocking, open_blocking,
    open_unnamed_blocking,
};
use crate::io::fs::{self, DirBuilderExt, FileExt, OpenOptionsExt};
use crate::io::random;
use crate::io::{Bug, planted};
use crate::spool::format::{Generation, Nonce, SegmentHeader, SegmentId, Usage};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1024 * 1024;

/// Added to the name of a segment that is not to be trusted or used again.
const BAD_SUFFIX: &str = ".bad";

const PROBE_NAME: &str = "probe";

/// A retired segment that can be used again.
#[derive(Debug)]
pub struct FreeSegment {
    /// The generation that the free header belongs to.
    pub generation: Generation,
    pub file: File,
}

/// A segment with a durable header, ready for commits.
#[derive(Debug)]
pub struct PreparedSegment {
    pub header: SegmentHeader,
    pub file: File,
}

/// What the next generation is for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    pub usage: Usage,
    pub core: u16,
    pub run: u32,
    pub log_sequence: u64,
}

/// The directory of the segments. One copy per core.
#[derive(Clone, Debug)]
pub struct Segments {
    path: PathBuf,
    durability: Durability,
    segment_bytes: u64,
}

impl Segments {
    /// `path` exists. The disk is asked which durability it can do.
    ///
    /// # Errors
    /// Also if it cannot do what was wished for.
    pub fn new(path: PathBuf, segment_bytes: u64, wish: Option<Durability>) -> io::Result<Self> {
        let durability = durability_of(wish, || probe(&path))?;
        Ok(Segments {
            path,
            durability,
            segment_bytes,
        })
    }

    /// As [`Segments::new`], and leaves no trace: of a disk that tells only by a file with a name
    /// the best is believed. `path` need not exist.
    pub fn check(path: PathBuf, segment_bytes: u64, wish: Option<Durability>) -> io::Result<Self> {
        let durability = durability_of(wish, || match probe_existing(&path) {
            Some(durability) => Ok(durability),
            None => Ok(probe_unnamed(existing_part(&path))?.unwrap_or(Durability::Direct)),
        })?;
        Ok(Segments {
            path,
            durability,
            segment_bytes,
        })
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn path_of(&self, id: SegmentId) -> PathBuf {
        self.path.join(id.file_name())
    }

    /// Ids of all segments, and of all that ever were as far as the directory knows: the second
    /// list holds the bad ones too.
    pub fn list(&self) -> io::Result<(Vec<SegmentId>, Vec<SegmentId>)> {
        let (mut usable, mut known) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(id) = SegmentId::from_file_name(name) {
                usable.push(id);
                known.push(id);
            } else if let Some(name) = name.strip_suffix(BAD_SUFFIX) {
                known.extend(SegmentId::from_file_name(name));
            }
        }
        usable.sort_unstable();
        Ok((usable, known))
    }

    pub fn open(&self, id: SegmentId) -> io::Result<File> {
        let file = open_blocking(&self.path_of(id), true, self.durability)?;
        Ok(File::new(file, self.durability))
    }

    /// Makes durable what a relay that was killed, or whoever copied the segment, has left in the page cache.
    pub fn sync(&self, id: SegmentId) -> io::Result<fs::File> {
        let file = fs::File::open(self.path_of(id))?;
        file.sync_all()?;
        Ok(file)
    }

    /// As [`Segments::sync`], and lets go of what is cached: what is read from now on is what the disk has. After a sync
    /// that failed the cache has more than that, and nobody says so any more.
    pub fn settle(&self, id: SegmentId) -> io::Result<()> {
        forget_cached_blocking(&self.sync(id)?)
    }

    /// Makes a segment of zeros. On an error nothing of it is left.
    pub fn create(&self, id: SegmentId) -> io::Result<File> {
        let made = self.fill(id);
        if made.is_err() {
            // The first error matters; a file that stays behind is blank and goes at the next start.
            let _ = self.remove(id);
        }
        made?;
        self.open(id)
    }

    fn fill(&self, id: SegmentId) -> io::Result<()> {
        let direct = match self.durability {
            Durability::Direct => libc::O_DIRECT,
            Durability::Buffered => 0,
        };
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(direct | libc::O_CLOEXEC)
            .open(self.path_of(id))?;
        allocate_blocking(&file, self.segment_bytes)?;
        let zeros = AlignedBuf::new((self.segment_bytes as usize).min(FILL_BYTES));
        let mut position = 0;
        while position < self.segment_bytes {
            let length = (self.segment_bytes - position).min(zeros.len() as u64);
            file.write_all_at(&zeros[..length as usize], position)?;
            position += length;
        }
        file.sync_all()?;
        sync_directory(&self.path)
    }

    /// Begins the next generation of a segment, durably.
    pub fn begin_generation(
        &self,
        free: FreeSegment,
        purpose: Purpose,
    ) -> io::Result<PreparedSegment> {
        let mut header = SegmentHeader {
            generation: Generation {
                segment: free.generation.segment,
                number: next_generation(free.generation, purpose.run),
            },
            usage: purpose.usage,
            core: purpose.core,
            run: purpose.run,
            log_sequence: purpose.log_sequence,
            segment_bytes: self.segment_bytes,
            nonce: fresh_nonce()?,
        };
        if planted(Bug::GenerationsRepeated) {
            header.generation.number = 1;
            header.nonce = Nonce([1; 16]);
        }
        write_header(&free.file, &header)?;
        Ok(PreparedSegment {
            header,
            file: free.file,
        })
    }

    /// Ends a generation, durably: recovery finds nothing in it any more.
    pub fn end_generation(
        &self,
        generation: Generation,
        file: &File,
        run: u32,
    ) -> io::Result<FreeSegment> {
        let header = SegmentHeader {
            generation: Generation {
                segment: generation.segment,
                number: next_generation(generation, run),
            },
            usage: Usage::Free,
            core: generation.segment.core,
            run,
            log_sequence: 0,
            segment_bytes: self.segment_bytes,
            nonce: Nonce([0; 16]),
        };
        write_header(file, &header)?;
        Ok(FreeSegment {
            generation: header.generation,
            file: file.clone(),
        })
    }

    /// Sets a segment aside under another name, durably: nothing reads or uses it again. Also if it has that name
    /// already, or none, and if that was not durable yet.
    pub fn set_aside(&self, id: SegmentId) -> io::Result<()> {
        let aside = self.path.join(format!("{}{BAD_SUFFIX}", id.file_name()));
        self.make_durable(fs::rename(self.path_of(id), aside))
    }

    /// As [`Segments::set_aside`], and leaves no file.
    pub fn remove(&self, id: SegmentId) -> io::Result<()> {
        self.make_durable(fs::remove_file(self.path_of(id)))
    }

    /// The name may have gone in an earlier attempt, which then failed to make that durable.
    fn make_durable(&self, unnamed: io::Result<()>) -> io::Result<()> {
        match unnamed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.path),
        }
    }

    /// The same segment in a new file, if somebody has removed or cut it: nothing was in it. Its generations go on.
    pub fn restore(&self, free: FreeSegment, counts_links: bool) -> io::Result<FreeSegment> {
        let (links, length) = free.file.blocking().links_and_length()?;
        let has_name = !counts_links || links > 0;
        if has_name && length >= self.segment_bytes {
            return Ok(free);
        }
        let generation = free.generation;
        // What it takes of the disk is given back first.
        drop(free);
        if has_name {
            self.remove(generation.segment)?;
        }
        Ok(FreeSegment {
            generation,
            file: self.create(generation.segment)?,
        })
    }
}

/// Above the last one, and above all of earlier runs: a file that was lost and made anew never
/// repeats a generation.
fn next_generation(last: Generation, run: u32) -> u64 {
    (last.number + 1).max(u64::from(run) << 32)
}

fn fresh_nonce() -> io::Result<Nonce> {
    let mut nonce = [0; 16];
    random::fill(&mut nonce)?;
    Ok(Nonce(nonce))
}

fn write_header(file: &File, header: &SegmentHeader) -> io::Result<()> {
    let mut block = AlignedBuf::new(BLOCK_BYTES);
    header.encode(&mut block);
    file.blocking().write_all_at(&block, 0)?;
    match file.durability() {
        Durability::Direct => Ok(()),
        Durability::Buffered => file.blocking().sync_data(),
    }
}

fn durability_of(
    wish: Option<Durability>,
    probe: impl FnOnce() -> io::Result<Durability>,
) -> io::Result<Durability> {
    match wish {
        Some(Durability::Buffered) => Ok(Durability::Buffered),
        Some(Durability::Direct) => match probe()? {
            Durability::Direct => Ok(Durability::Direct),
            Durability::Buffered => Err(io::Error::other(
                "this file system has no direct writes (O_DIRECT), which --spool-durability direct \
                 asks for; auto uses them where they are",
            )),
        },
        None => probe(),
    }
}

/// Writes one block as a commit would be written, to learn whether the file system lets us. Where there are segments,
/// one of them is read: a start needs no room then.
fn probe(directory: &Path) -> io::Result<Durability> {
    if let Some(durability) = probe_existing(directory) {
        return Ok(durability);
    }
    match probe_unnamed(directory)? {
        Some(durability) => Ok(durability),
        None => probe_named(directory),
    }
}

/// `None` if no segment tells.
fn probe_existing(directory: &Path) -> Option<Durability> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let is_segment = |name: &OsStr| name.to_str().and_then(SegmentId::from_file_name).is_some();
    let mut names = entries.map(|entry| entry.file_name());
    names.find_map(|name| {
        if !is_segment(&name) {
            return None;
        }
        let opened = open_blocking(&directory.join(name), true, Durability::Direct);
        let mut block = AlignedBuf::new(BLOCK_BYTES);
        match opened.and_then(|file| file.read_at(&mut block, 0)) {
            Ok(_) => Some(Durability::Direct),
            Err(error) if refuses_direct(&error) => Some(Durability::Buffered),
            Err(_) => None,
        }
    })
}

/// `None` if that takes a file with a name.
fn probe_unnamed(directory: &Path) -> io::Result<Option<Durability>> {
    if open_unnamed_blocking(directory, Durability::Buffered)?.is_none() {
        return Ok(None);
    }
    let written = open_unnamed_blocking(directory, Durability::Direct)
        .and_then(|file| file.map(|file| write_and_read(&file)).transpose());
    match written {
        Ok(written) => Ok(written.map(|()| Durability::Direct)),
        Err(error) if refuses_direct(&error) => Ok(Some(Durability::Buffered)),
        Err(error) => Err(error),
    }
}

fn write_and_read(file: &fs::File) -> io::Result<()> {
    let mut block = AlignedBuf::new(BLOCK_BYTES);
    file.write_all_at(&block, 0)?;
    file.read_exact_at(&mut block, 0)
}

fn probe_named(directory: &Path) -> io::Result<Durability> {
    let path = directory.join(PROBE_NAME);
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    let direct =
        open_blocking(&path, true, Durability::Direct).and_then(|file| write_and_read(&file));
    fs::remove_file(&path)?;
    match direct {
        Ok(()) => Ok(Durability::Direct),
        Err(error) if refuses_direct(&error) => Ok(Durability::Buffered),
        Err(error) => Err(error),
    }
}

fn refuses_direct(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
    )
}

/// Makes names within the directory durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Makes a directory that only its owner may enter, durably; one that exists is left as it is.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Perhaps made just before a crash. A parent that we may not read is not our making.
            let _ = sync_directory(parent);
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => sync_directory(parent),
    }
}
