//! Names on the disk and what is read and written at once: what the relay uses of the standard library's.

use super::disk::{Handle, Opening};
use super::world;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use std::fs::TryLockError;

/// An open file or directory.
#[derive(Debug)]
pub struct File {
    handle: Handle,
    path: PathBuf,
    /// Where the next read or write without a position goes.
    at: AtomicU64,
}

impl File {
    pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        let world = world::current();
        let disk = world.disk.borrow();
        let (inode, links) = disk.identity(self.handle);
        let length = disk.length(inode);
        Ok(Metadata {
            inode,
            links,
            length,
        })
    }

    pub fn sync_all(&self) -> io::Result<()> {
        let world = world::current();
        world
            .disk
            .borrow_mut()
            .sync(&world, self.handle, &self.path)
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        let world = world::current();
        world
            .disk
            .borrow_mut()
            .truncate(&world, self.handle, length)
    }

    pub fn try_lock(&self) -> Result<(), TryLockError> {
        match world::current().disk.borrow_mut().try_lock(self.handle) {
            Ok(true) => Ok(()),
            Ok(false) => Err(TryLockError::WouldBlock),
            Err(error) => Err(TryLockError::Error(error)),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        world::if_any(|world| world.disk.borrow_mut().close(self.handle));
    }
}

impl Read for File {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(out, self.at.load(Ordering::Relaxed))?;
        self.at.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all_at(bytes, self.at.load(Ordering::Relaxed))?;
        self.at.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As `std::os::unix::fs::FileExt`.
pub trait FileExt {
    fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize>;
    fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<()>;
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn read_at(&self, out: &mut [u8], position: u64) -> io::Result<usize> {
        let world = world::current();
        world.disk.borrow_mut().read(self.handle, position, out)
    }

    fn read_exact_at(&self, out: &mut [u8], position: u64) -> io::Result<()> {
        match self.read_at(out, position)? {
            read if read == out.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let world = world::current();
        let mut disk = world.disk.borrow_mut();
        disk.write(&world, self.handle, position, bytes)
    }
}

/// As `std::fs::OpenOptions`. Rights and modes are not simulated.
#[derive(Clone, Default, Debug)]
pub struct OpenOptions(Opening);

impl OpenOptions {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn read(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn write(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn create(&mut self, yes: bool) -> &mut Self {
        self.0.may_create = yes;
        self
    }

    pub fn create_new(&mut self, yes: bool) -> &mut Self {
        self.0.must_create = yes;
        self
    }

    pub fn truncate(&mut self, yes: bool) -> &mut Self {
        self.0.truncates = yes;
        self
    }

    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let (world, path) = (world::current(), path.as_ref());
        let handle = world.disk.borrow_mut().open(&world, path, self.0)?;
        Ok(File {
            handle,
            path: path.to_owned(),
            at: AtomicU64::new(0),
        })
    }
}

/// As `std::os::unix::fs::OpenOptionsExt`.
pub trait OpenOptionsExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
    fn custom_flags(&mut self, flags: i32) -> &mut Self;
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }

    fn custom_flags(&mut self, flags: i32) -> &mut Self {
        self.0.flags = flags;
        self
    }
}

/// As `std::fs::DirBuilder`.
#[derive(Default, Debug)]
pub struct DirBuilder(());

impl DirBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn create(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let world = world::current();
        let mut disk = world.disk.borrow_mut();
        disk.make_directory(&world, path.as_ref())
    }
}

/// As `std::os::unix::fs::DirBuilderExt`.
pub trait DirBuilderExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
}

impl DirBuilderExt for DirBuilder {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}

/// What is known of a name.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    inode: u64,
    links: u64,
    length: u64,
}

impl Metadata {
    #[expect(
        clippy::len_without_is_empty,
        reason = "so it is in the standard library"
    )]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// There are no links.
    pub fn is_symlink(&self) -> bool {
        false
    }
}

/// As `std::os::unix::fs::MetadataExt`.
pub trait MetadataExt {
    fn dev(&self) -> u64;
    fn ino(&self) -> u64;
    fn nlink(&self) -> u64;
}

impl MetadataExt for Metadata {
    fn dev(&self) -> u64 {
        1
    }

    fn ino(&self) -> u64 {
        self.inode
    }

    fn nlink(&self) -> u64 {
        self.links
    }
}

pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let world = world::current();
    let disk = world.disk.borrow();
    let (inode, links) = disk.identity_of(path.as_ref())?;
    Ok(Metadata {
        inode,
        links,
        length: disk.length(inode),
    })
}

pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    metadata(path)
}

pub fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    Ok(world::current().disk.borrow().exists(path.as_ref()))
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let world = world::current();
    let mut disk = world.disk.borrow_mut();
    disk.rename(&world, from.as_ref(), to.as_ref())
}

pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let world = world::current();
    let mut disk = world.disk.borrow_mut();
    disk.remove(&world, path.as_ref())
}

/// A name in a directory.
#[derive(Debug)]
pub struct DirEntry(PathBuf);

impl DirEntry {
    pub fn file_name(&self) -> OsString {
        self.0.file_name().unwrap_or_default().to_owned()
    }
}

pub fn read_dir(path: impl AsRef<Path>) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    let world = world::current();
    let names = world.disk.borrow().list(&world, path.as_ref())?;
    Ok(names.into_iter().map(|path| Ok(DirEntry(path))))
}
