//! Files on the ring of the world, and what the host is asked of them.

use super::fs::File;
use super::world;
use crate::io::buffer::AlignedBuf;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// An operation that is under way. If it is dropped, it ends all the same.
struct Submitted(Option<u64>);

impl Submitted {
    async fn end(mut self) -> io::Result<Vec<u8>> {
        let number = self.0.expect("it was submitted");
        let result = poll_fn(|context| {
            let world = world::current();
            world.disk.borrow_mut().poll(number, context)
        })
        .await;
        self.0 = None;
        result
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            world::if_any(|world| world.disk.borrow_mut().abandon(number));
        }
    }
}

/// Writes that part of the buffer at `position`; how many bytes were written.
pub fn write(
    file: &Arc<File>,
    buffer: AlignedBuf,
    part: Range<usize>,
    position: u64,
) -> impl Future<Output = (io::Result<u32>, AlignedBuf)> + use<> {
    let world = world::current();
    let mut disk = world.disk.borrow_mut();
    let number = disk.submit_write(&world, file.handle(), position, &buffer[part]);
    let (submitted, file) = (Submitted(Some(number)), file.clone());
    async move {
        let result = submitted.end().await;
        drop(file);
        (result.map(|bytes| bytes.len() as u32), buffer)
    }
}

/// Reads into that part of the buffer from `position`; how many bytes were read, none at the end of the file.
pub fn read(
    file: &Arc<File>,
    mut buffer: AlignedBuf,
    part: Range<usize>,
    position: u64,
) -> impl Future<Output = (io::Result<u32>, AlignedBuf)> + use<> {
    let world = world::current();
    let mut disk = world.disk.borrow_mut();
    let number = disk.submit_read(&world, file.handle(), position, &buffer[part.clone()]);
    let (submitted, file) = (Submitted(Some(number)), file.clone());
    async move {
        let result = submitted.end().await.map(|bytes| {
            buffer[part][..bytes.len()].copy_from_slice(&bytes);
            bytes.len() as u32
        });
        drop(file);
        (result, buffer)
    }
}

/// `fdatasync(2)`
pub fn sync_data(file: &Arc<File>) -> impl Future<Output = io::Result<u32>> + use<> {
    let world = world::current();
    let number = world.disk.borrow_mut().submit_sync(&world, file.handle());
    let (submitted, file) = (Submitted(Some(number)), file.clone());
    async move {
        let result = submitted.end().await;
        drop(file);
        result.map(|_| 0)
    }
}

/// Claims the disk space for the first `bytes` of the file.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let world = world::current();
    let mut disk = world.disk.borrow_mut();
    disk.allocate(&world, file.handle(), bytes)
}

pub fn forget_cached(file: &File) -> io::Result<()> {
    let world = world::current();
    world.disk.borrow_mut().forget_cached(file.handle())
}

/// Bytes of the file system that `path` is on: those that this user may still write, and all.
pub fn space(_: &Path) -> io::Result<(u64, u64)> {
    Ok(world::current().disk.borrow().space())
}

/// Everybody may do everything here.
pub fn check_access(path: &Path, _: libc::c_int) -> io::Result<()> {
    match super::fs::exists(path)? {
        true => Ok(()),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

/// There are no file systems of the kernel's own.
pub fn check_is_for_files(_: &Path) -> io::Result<()> {
    Ok(())
}
