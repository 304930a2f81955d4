//! Files on the ring: positioned reads and writes with owned buffers.
//!
//! A buffer given to the kernel comes back with the result. A future that is dropped leaves its
//! buffer with the ring until the kernel is done with it.

use crate::io::buffer::AlignedBuf;
use crate::io::fs::{self, FileExt, OpenOptionsExt};
use crate::io::operations;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How writes become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// `O_DIRECT | O_DSYNC`: a write that has returned is durable.
    Direct,
    /// Buffered; [`File::sync_data`] after each write makes it durable.
    Buffered,
}

/// For `open(2)`: a pipe without a reader is an error, and nothing to wait for.
pub const WITHOUT_WAITING: i32 = libc::O_NONBLOCK;

/// Opens `path` for reading and, if `write`, writing. Blocks: for start and helper threads.
pub fn open_blocking(path: &Path, write: bool, durability: Durability) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags_of(durability) | libc::O_CLOEXEC)
        .open(path)
}

fn flags_of(durability: Durability) -> libc::c_int {
    match durability {
        Durability::Direct => libc::O_DIRECT | libc::O_DSYNC,
        Durability::Buffered => 0,
    }
}

/// Claims the disk space for the first `bytes` of the file, so that a full disk shows at once and
/// not in the middle. A file system that cannot is no error: the zeros that follow claim it then.
pub fn allocate_blocking(file: &fs::File, bytes: u64) -> io::Result<()> {
    match operations::allocate(file, bytes) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// Lets go of what the page cache has of the file, but for what is not yet on the disk.
pub fn forget_cached_blocking(file: &fs::File) -> io::Result<()> {
    operations::forget_cached(file)
}

/// Opens a file without a name in `directory`, for reading and writing; it is gone when it is closed.
/// `None` if this file system has no such files (`O_TMPFILE` in `open(2)`).
pub fn open_unnamed_blocking(
    directory: &Path,
    durability: Durability,
) -> io::Result<Option<fs::File>> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(flags_of(durability) | libc::O_TMPFILE)
        .open(directory);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EISDIR) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Fails as making a file in `directory` would, and leaves nothing behind.
pub fn check_writable_blocking(directory: &Path) -> io::Result<()> {
    match open_unnamed_blocking(directory, Durability::Buffered)? {
        Some(_) => Ok(()),
        None => operations::check_access(directory, libc::W_OK | libc::X_OK)
            .and_then(|()| operations::check_is_for_files(directory)),
    }
}

/// Fails as making the directory `path` would, with all that is missing above it, and leaves nothing
/// behind.
pub fn check_makeable_blocking(path: &Path) -> io::Result<()> {
    check_writable_blocking(existing_part(path))
}

/// Fails if this user cannot reach what is in `directory`.
pub fn check_enterable_blocking(directory: &Path) -> io::Result<()> {
    operations::check_access(directory, libc::X_OK)
}

/// The part of a path that is there already.
pub fn existing_part(path: &Path) -> &Path {
    path.ancestors()
        .find(|part| fs::exists(part).unwrap_or(false))
        .unwrap_or(Path::new("."))
}

/// Bytes that this user may still write to the file system that `path` is on.
pub fn free_bytes_blocking(path: &Path) -> io::Result<u64> {
    operations::space(path).map(|(free, _)| free)
}

/// Size of the file system that holds `path`, in bytes.
pub fn total_bytes_blocking(path: &Path) -> io::Result<u64> {
    operations::space(path).map(|(_, all)| all)
}

/// A file that any thread can use on its own ring: an operation goes to the ring of its caller.
#[derive(Clone, Debug)]
pub struct File {
    inner: Arc<fs::File>,
    durability: Durability,
}

impl File {
    pub fn new(file: fs::File, durability: Durability) -> Self {
        File {
            inner: Arc::new(file),
            durability,
        }
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// For blocking use off the ring, with the same flags.
    pub fn blocking(&self) -> Blocking<'_> {
        Blocking(&self.inner)
    }

    /// Writes the first `length` bytes of `buffer` at `position`, all of them or an error. With
    /// [`Durability::Direct`] both are whole blocks and the bytes are durable on `Ok`.
    pub async fn write_all_at(
        &self,
        buffer: AlignedBuf,
        length: usize,
        position: u64,
    ) -> (io::Result<()>, AlignedBuf) {
        assert!(length <= buffer.capacity());
        let mut buffer = buffer;
        let mut done = 0;
        while done < length {
            let part = done..length;
            let (result, returned) =
                operations::write(&self.inner, buffer, part, position + done as u64).await;
            buffer = returned;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(written) => done += written as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Reads up to `length` bytes at `position` into the front of `buffer`; how many were read,
    /// fewer only at the end of the file.
    pub async fn read_at(
        &self,
        buffer: AlignedBuf,
        length: usize,
        position: u64,
    ) -> (io::Result<usize>, AlignedBuf) {
        assert!(length <= buffer.capacity());
        let mut buffer = buffer;
        let mut done = 0;
        while done < length {
            let part = done..length;
            let (result, returned) =
                operations::read(&self.inner, buffer, part, position + done as u64).await;
            buffer = returned;
            match result {
                Ok(0) => break,
                Ok(read) => done += read as usize,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(done), buffer)
    }

    /// `fdatasync(2)`. After an error the file must be given up: the kernel may have dropped the
    /// dirty pages, and a second sync would succeed without them.
    pub async fn sync_data(&self) -> io::Result<()> {
        operations::sync_data(&self.inner).await.map(drop)
    }
}

/// A file on a helper thread, or before the rings start.
#[derive(Clone, Copy, Debug)]
pub struct Blocking<'a>(&'a fs::File);

impl Blocking<'_> {
    pub fn write_all_at(self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, position)
    }

    /// How many names it has, and its length in bytes.
    pub fn links_and_length(self) -> io::Result<(u64, u64)> {
        let metadata = self.0.metadata()?;
        Ok((fs::MetadataExt::nlink(&metadata), metadata.len()))
    }

    /// See [`File::sync_data`].
    pub fn sync_data(self) -> io::Result<()> {
        self.0.sync_data()
    }

    pub fn sync_all(self) -> io::Result<()> {
        self.0.sync_all()
    }
}
