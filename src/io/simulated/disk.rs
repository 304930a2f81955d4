//! A disk in memory, with what its cache holds and what would survive.

mod content;
mod in_flight;

use super::clockwork::Clockwork;
use crate::io::buffer::BLOCK_BYTES;
use content::Content;
use in_flight::{Kind, Operation};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

const SECTOR_BYTES: u64 = 512;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// What goes wrong from now on. Numbers: one in so many; 0: none.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Writes on the ring give an error, and any part of them may be there.
    pub write_errors: usize,
    pub short_writes: usize,
    pub interruptions: usize,
    pub read_errors: usize,
    /// Syncs fail, and forget what was dirty.
    pub sync_errors: usize,
    /// Calls of blocking work give an error, done in part.
    pub call_errors: usize,
    /// Operations on the ring take ten seconds.
    pub delays: usize,
    /// Nothing works any more.
    pub is_dead: bool,
    /// Writes on the ring succeed, and nothing is written. Breaks promises by itself.
    pub vanishing_writes: usize,
    /// What this file system cannot do.
    pub has_no_direct: bool,
    pub has_no_unnamed: bool,
    pub has_no_fallocate: bool,
}

pub fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[derive(Clone, Default)]
struct Inode {
    /// What a read sees.
    cache: Content,
    length: u64,
    /// What survives.
    stable: Content,
    stable_length: u64,
    /// Sectors of the cache that may not be stable.
    dirty: BTreeSet<u64>,
    /// Bytes that the file takes of the disk.
    allocated: u64,
    is_directory: bool,
    handles: u32,
    /// The handle that holds the lock.
    lock: Option<u64>,
}

/// An open file, as calls name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle {
    pub number: u64,
    pub inode: u64,
    pub is_direct: bool,
    /// Writes are durable when they have returned.
    pub is_synchronous: bool,
    /// Of which start; after a power cut it means nothing.
    start: u64,
}

/// How a call that changes something ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Landing {
    Whole,
    /// In part, and it gives an error.
    Torn,
}

pub struct Disk {
    pub faults: Faults,
    pub capacity: u64,
    pub of_others: u64,
    pub calls_left: Option<u32>,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<PathBuf, u64>,
    stable_names: BTreeMap<PathBuf, u64>,
    operations: BTreeMap<u64, Operation>,
    next: u64,
    starts: u64,
}

impl Default for Disk {
    fn default() -> Self {
        let root = Inode {
            is_directory: true,
            ..Inode::default()
        };
        let names = BTreeMap::from([(PathBuf::from("/"), 0)]);
        Disk {
            faults: Faults::default(),
            capacity: 1 << 40,
            of_others: 0,
            calls_left: None,
            inodes: BTreeMap::from([(0, root)]),
            stable_names: names.clone(),
            names,
            operations: BTreeMap::new(),
            next: 1,
            starts: 0,
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Opening {
    pub may_create: bool,
    pub must_create: bool,
    pub truncates: bool,
    pub flags: i32,
}

// ---- names, at once ----

impl Disk {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A call of blocking work that changes something.
    fn call(&mut self, world: &Clockwork) -> io::Result<Landing> {
        if self.faults.is_dead {
            return Err(error(libc::EIO));
        }
        match &mut self.calls_left {
            Some(0) => Err(error(libc::EIO)),
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    world.tell(|| "[disk: the last call]".to_owned());
                }
                Ok(match left {
                    0 => Landing::Torn,
                    _ => Landing::Whole,
                })
            }
            None if world.one_in(self.faults.call_errors) => {
                world.tell(|| "[disk: a call fails]".to_owned());
                Ok(Landing::Torn)
            }
            None => Ok(Landing::Whole),
        }
    }

    /// Does something to names that happens or does not.
    fn change_names(
        &mut self,
        world: &Clockwork,
        change: impl FnOnce(&mut BTreeMap<PathBuf, u64>),
    ) -> io::Result<()> {
        let landing = self.call(world)?;
        if landing == Landing::Whole || world.one_in(2) {
            change(&mut self.names);
        }
        self.forget_unused();
        match landing {
            Landing::Whole => Ok(()),
            Landing::Torn => Err(error(libc::EIO)),
        }
    }

    fn forget_unused(&mut self) {
        let named: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.stable_names.values())
            .copied()
            .collect();
        self.inodes
            .retain(|number, inode| named.contains(number) || inode.handles > 0);
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| error(libc::ENOENT))
    }

    pub fn exists(&self, path: &Path) -> bool {
        self.names.contains_key(path)
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        self.find(path.parent().unwrap_or(Path::new("/"))).map(drop)
    }

    fn handle(&mut self, inode: u64, flags: i32) -> Handle {
        self.inodes.get_mut(&inode).expect("it is there").handles += 1;
        Handle {
            number: self.number(),
            inode,
            is_direct: flags & libc::O_DIRECT != 0,
            is_synchronous: flags & libc::O_DSYNC != 0,
            start: self.starts,
        }
    }

    pub fn open(&mut self, world: &Clockwork, path: &Path, how: Opening) -> io::Result<Handle> {
        if how.flags & libc::O_DIRECT != 0 && self.faults.has_no_direct {
            return Err(error(libc::EINVAL));
        }
        if how.flags & libc::O_TMPFILE == libc::O_TMPFILE {
            self.find(path)?;
            if self.faults.has_no_unnamed {
                return Err(error(libc::EOPNOTSUPP));
            }
            let inode = self.number();
            self.inodes.insert(inode, Inode::default());
            return Ok(self.handle(inode, how.flags));
        }
        if how.must_create && self.exists(path) {
            return Err(error(libc::EEXIST));
        }
        if !self.exists(path) && (how.may_create || how.must_create) {
            self.check_parent(path)?;
            let inode = self.number();
            self.inodes.insert(inode, Inode::default());
            let made = self.change_names(world, |names| {
                let _ = names.insert(path.to_owned(), inode);
            });
            if made.is_err() {
                self.forget_unused();
            }
            made?;
        }
        let inode = self.find(path)?;
        if how.truncates {
            self.set_length(world, inode, 0)?;
        }
        Ok(self.handle(inode, how.flags))
    }

    pub fn close(&mut self, handle: Handle) {
        if handle.start != self.starts {
            return;
        }
        let inode = self.inodes.get_mut(&handle.inode).expect("it is open");
        inode.handles -= 1;
        if inode.lock == Some(handle.number) {
            inode.lock = None;
        }
        let mut names = self.names.values().chain(self.stable_names.values());
        if inode.handles == 0 && !names.any(|it| *it == handle.inode) {
            self.inodes.remove(&handle.inode);
        }
    }

    /// The number of an open file, and by how many names it can be found.
    pub fn identity(&self, handle: Handle) -> (u64, u64) {
        let links = self.names.values().filter(|it| **it == handle.inode);
        (handle.inode, links.count() as u64)
    }

    pub fn length(&self, inode: u64) -> u64 {
        self.inodes.get(&inode).map_or(0, |inode| inode.length)
    }

    /// The same of a name.
    pub fn identity_of(&self, path: &Path) -> io::Result<(u64, u64)> {
        self.find(path).map(|inode| (inode, 1))
    }

    /// True if it is locked now.
    pub fn try_lock(&mut self, handle: Handle) -> io::Result<bool> {
        let lock = &mut self.inode(handle)?.lock;
        Ok(*lock.get_or_insert(handle.number) == handle.number)
    }

    pub fn make_directory(&mut self, world: &Clockwork, path: &Path) -> io::Result<()> {
        self.check_parent(path)?;
        if self.exists(path) {
            return Err(error(libc::EEXIST));
        }
        let number = self.number();
        let inode = Inode {
            is_directory: true,
            ..Inode::default()
        };
        self.inodes.insert(number, inode);
        self.change_names(world, |names| {
            let _ = names.insert(path.to_owned(), number);
        })
    }

    pub fn rename(&mut self, world: &Clockwork, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from)?;
        world.tell(|| format!("[disk: {inode} is renamed to {}]", to.display()));
        self.change_names(world, |names| {
            names.remove(from);
            names.insert(to.to_owned(), inode);
        })
    }

    pub fn remove(&mut self, world: &Clockwork, path: &Path) -> io::Result<()> {
        let inode = self.find(path)?;
        world.tell(|| format!("[disk: {inode} is removed as {}]", path.display()));
        self.change_names(world, |names| {
            let _ = names.remove(path);
        })
    }

    /// In an order of the disk's own.
    pub fn list(&self, world: &Clockwork, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.find(directory)?;
        let names = self.names.keys();
        let mut found: Vec<PathBuf> = names
            .filter(|path| path.parent() == Some(directory))
            .cloned()
            .collect();
        for place in (1..found.len()).rev() {
            found.swap(place, world.below(place + 1));
        }
        Ok(found)
    }

    pub fn names_in(&self, directory: &Path) -> Vec<String> {
        let names = self.names.keys();
        let within = names.filter(|path| path.parent() == Some(directory));
        within
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }
}

// ---- content, at once ----

impl Disk {
    fn inode(&mut self, handle: Handle) -> io::Result<&mut Inode> {
        match handle.start == self.starts {
            true => Ok(self.inodes.get_mut(&handle.inode).expect("it is open")),
            false => Err(error(libc::EIO)),
        }
    }

    /// Bytes that may still be written, and all.
    pub fn space(&self) -> (u64, u64) {
        let used: u64 = self.inodes.values().map(|inode| inode.allocated).sum();
        let free = self.capacity.saturating_sub(self.of_others + used);
        (free, self.capacity)
    }

    fn claim(&mut self, inode: u64, end: u64) -> io::Result<()> {
        let (free, _) = self.space();
        let inode = self.inodes.get_mut(&inode).expect("it is there");
        let end = end.next_multiple_of(BLOCK);
        match end.saturating_sub(inode.allocated) {
            more if more > free => Err(error(libc::ENOSPC)),
            more => {
                inode.allocated += more;
                Ok(())
            }
        }
    }

    pub fn allocate(&mut self, world: &Clockwork, handle: Handle, bytes: u64) -> io::Result<()> {
        if self.faults.has_no_fallocate {
            return Err(error(libc::EOPNOTSUPP));
        }
        let landing = self.call(world)?;
        self.inode(handle)?;
        self.claim(handle.inode, bytes)?;
        let inode = self.inode(handle)?;
        inode.length = inode.length.max(bytes);
        match landing {
            Landing::Whole => Ok(()),
            Landing::Torn => Err(error(libc::EIO)),
        }
    }

    fn set_length(&mut self, world: &Clockwork, inode: u64, length: u64) -> io::Result<()> {
        let landing = self.call(world)?;
        let inode = self.inodes.get_mut(&inode).expect("it is there");
        if landing == Landing::Whole || world.one_in(2) {
            if length < inode.length {
                let rest = length..length.next_multiple_of(BLOCK);
                inode
                    .cache
                    .write(length, &vec![0; (rest.end - rest.start) as usize]);
                inode
                    .dirty
                    .extend(rest.start / SECTOR_BYTES..rest.end / SECTOR_BYTES);
            }
            inode.length = length;
            inode.cache.0.retain(|block, _| block * BLOCK < length);
            inode.allocated = inode.allocated.min(length.next_multiple_of(BLOCK));
        }
        match landing {
            Landing::Whole => Ok(()),
            Landing::Torn => Err(error(libc::EIO)),
        }
    }

    pub fn truncate(&mut self, world: &Clockwork, handle: Handle, length: u64) -> io::Result<()> {
        self.inode(handle)?;
        self.set_length(world, handle.inode, length)
    }

    pub fn write(
        &mut self,
        world: &Clockwork,
        handle: Handle,
        position: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        check_alignment(handle, position, bytes.as_ptr() as usize, bytes.len());
        let landing = self.call(world)?;
        self.inode(handle)?;
        self.claim(handle.inode, position + bytes.len() as u64)?;
        world.tell(|| format!("[disk: {} is written at {position}]", handle.inode));
        match landing {
            Landing::Whole => {
                self.land(handle, position, bytes);
                Ok(())
            }
            Landing::Torn => {
                self.tear(world, handle, position, bytes);
                Err(error(libc::EIO))
            }
        }
    }

    pub fn read(&mut self, handle: Handle, position: u64, out: &mut [u8]) -> io::Result<usize> {
        if self.faults.is_dead {
            return Err(error(libc::EIO));
        }
        let inode = self.inode(handle)?;
        let left = inode.length.saturating_sub(position);
        let length = left.min(out.len() as u64) as usize;
        inode.cache.read(position, &mut out[..length]);
        Ok(length)
    }

    /// Of a file's content, or of the names in a directory.
    pub fn sync(&mut self, world: &Clockwork, handle: Handle, directory: &Path) -> io::Result<()> {
        let landing = self.call(world)?;
        if self.inode(handle)?.is_directory {
            return match landing {
                Landing::Whole => {
                    self.sync_names(directory);
                    Ok(())
                }
                Landing::Torn => Err(error(libc::EIO)),
            };
        }
        match landing {
            Landing::Whole => self.sync_content(world, handle),
            Landing::Torn => {
                let inode = self.inode(handle)?;
                let part: Vec<u64> = inode.dirty.iter().copied().collect();
                for sector in part.into_iter().filter(|_| world.one_in(2)) {
                    inode.stable.copy_sector(&inode.cache, sector);
                }
                Err(error(libc::EIO))
            }
        }
    }

    fn sync_names(&mut self, directory: &Path) {
        let is_within = |path: &Path| path.parent() == Some(directory);
        self.stable_names.retain(|path, _| !is_within(path));
        let names = self.names.iter().filter(|(path, _)| is_within(path));
        let names = names.map(|(path, inode)| (path.clone(), *inode));
        self.stable_names.extend(names);
        self.forget_unused();
    }

    fn sync_content(&mut self, world: &Clockwork, handle: Handle) -> io::Result<()> {
        let fails = world.one_in(self.faults.sync_errors);
        let inode = self.inode(handle)?;
        let dirty = std::mem::take(&mut inode.dirty);
        if fails {
            world.tell(|| "[disk: a sync fails]".to_owned());
            return Err(error(libc::EIO));
        }
        for sector in dirty {
            inode.stable.copy_sector(&inode.cache, sector);
        }
        inode.stable_length = inode.length;
        Ok(())
    }

    pub fn forget_cached(&mut self, handle: Handle) -> io::Result<()> {
        let inode = self.inode(handle)?;
        if inode.dirty.is_empty() {
            inode.cache = inode.stable.clone();
        }
        Ok(())
    }

    fn land(&mut self, handle: Handle, position: u64, bytes: &[u8]) {
        let inode = self.inodes.get_mut(&handle.inode).expect("it is open");
        let end = position + bytes.len() as u64;
        inode.cache.write(position, bytes);
        inode.length = inode.length.max(end);
        if handle.is_synchronous {
            inode.stable.write(position, bytes);
            inode.stable_length = inode.stable_length.max(end);
        } else {
            let sectors = position / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
            inode.dirty.extend(sectors);
        }
    }

    /// Some sectors of a write: all, none, a prefix, all but one, or any.
    fn tear(&mut self, world: &Clockwork, handle: Handle, position: u64, bytes: &[u8]) {
        let sectors = bytes.len().div_ceil(SECTOR_BYTES as usize);
        let (way, prefix) = (world.below(5), world.below(sectors + 1));
        for (index, sector) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
            let lands = match way {
                0 => false,
                1 => true,
                2 => index < prefix,
                3 => index + 1 != prefix,
                _ => world.one_in(2),
            };
            if lands {
                self.land(handle, position + index as u64 * SECTOR_BYTES, sector);
            }
        }
    }
}

fn check_alignment(handle: Handle, position: u64, address: usize, length: usize) {
    let is_aligned = |number: usize| number.is_multiple_of(BLOCK_BYTES);
    assert!(
        !handle.is_direct
            || [position as usize, address, length]
                .into_iter()
                .all(is_aligned),
        "direct I/O is by whole blocks"
    );
}

// ---- the power ----

impl Disk {
    pub fn cut_power(&mut self, world: &Clockwork) {
        for operation in std::mem::take(&mut self.operations).into_values() {
            if let (Kind::Write { position, bytes }, None) = (operation.kind, operation.result) {
                self.tear(world, operation.handle, position, &bytes);
            }
        }
        self.starts += 1;
        let paths: BTreeSet<PathBuf> = self
            .names
            .keys()
            .chain(self.stable_names.keys())
            .cloned()
            .collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let (live, stable) = (self.names.get(&path), self.stable_names.get(&path));
            let left = match live == stable || world.one_in(2) {
                true => live,
                false => stable,
            };
            let has_parent = path
                .parent()
                .is_none_or(|parent| names.contains_key(parent));
            if let (Some(inode), true) = (left, has_parent) {
                names.insert(path, *inode);
            }
        }
        self.stable_names = names.clone();
        self.names = names;
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
            inode.lock = None;
            inode.lose_power(world);
        }
        self.forget_unused();
    }

    pub fn content(&self, path: &Path) -> Vec<u8> {
        let Some(inode) = self.names.get(path).map(|inode| &self.inodes[inode]) else {
            return Vec::new();
        };
        let mut bytes = vec![0; inode.length as usize];
        inode.cache.read(0, &mut bytes);
        bytes
    }

    pub fn digest(&self) -> u32 {
        let mut sum = 0;
        for (path, inode) in &self.names {
            sum = crc32c::crc32c_append(sum, path.as_os_str().as_encoded_bytes());
            for (number, block) in &self.inodes[inode].cache.0 {
                sum = crc32c::crc32c_append(sum, &number.to_le_bytes());
                sum = crc32c::crc32c_append(sum, &block[..]);
            }
        }
        sum
    }
}

impl Inode {
    fn lose_power(&mut self, world: &Clockwork) {
        let dirty = std::mem::take(&mut self.dirty);
        let way = world.below(4);
        for sector in dirty {
            if way == 0 || (way > 1 && world.one_in(2)) {
                self.stable.copy_sector(&self.cache, sector);
            }
        }
        if self.length != self.stable_length && world.one_in(2) {
            self.stable_length = self.length;
        }
        let length = self.stable_length;
        self.stable.0.retain(|block, _| block * BLOCK < length);
        self.cache = self.stable.clone();
        self.length = length;
    }
}
