//! Files on the ring, and what the kernel is asked of them: one call each, whatever comes of it.

use crate::io::buffer::AlignedBuf;
use crate::io::fs::File;
use io_uring::{cqueue, opcode, squeue, types};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

/// Writes that part of the buffer at `position`; how many bytes were written.
pub fn write(
    file: &Arc<File>,
    buffer: AlignedBuf,
    part: Range<usize>,
    position: u64,
) -> impl Future<Output = (io::Result<u32>, AlignedBuf)> + use<> {
    // SAFETY of the pointer: the part is checked to be the buffer's; the operation keeps the buffer.
    let bytes = &buffer[part];
    let entry = opcode::Write::new(fd(file), bytes.as_ptr(), length_of(bytes))
        .offset(position)
        .build();
    submit(file, buffer, entry)
}

/// Reads into that part of the buffer from `position`; how many bytes were read, none at the end of the file.
pub fn read(
    file: &Arc<File>,
    mut buffer: AlignedBuf,
    part: Range<usize>,
    position: u64,
) -> impl Future<Output = (io::Result<u32>, AlignedBuf)> + use<> {
    let bytes = &mut buffer[part];
    let entry = opcode::Read::new(fd(file), bytes.as_mut_ptr(), length_of(bytes))
        .offset(position)
        .build();
    submit(file, buffer, entry)
}

/// `fdatasync(2)`
pub fn sync_data(file: &Arc<File>) -> impl Future<Output = io::Result<u32>> + use<> {
    let entry = opcode::Fsync::new(fd(file))
        .flags(types::FsyncFlags::DATASYNC)
        .build();
    UnsubmittedOneshot::new(file.clone(), ResultOnly, entry).submit()
}

fn fd(file: &Arc<File>) -> types::Fd {
    types::Fd(file.as_raw_fd())
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("commits and reads are far below 4 GiB")
}

fn submit(
    file: &Arc<File>,
    buffer: AlignedBuf,
    entry: squeue::Entry,
) -> impl Future<Output = (io::Result<u32>, AlignedBuf)> + use<> {
    let keep = Keep {
        _file: file.clone(),
        buffer,
    };
    UnsubmittedOneshot::new(keep, WithBuffer, entry).submit()
}

/// Claims the disk space for the first `bytes` of the file.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes a valid descriptor and plain numbers.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets go of the pages of the file that are not dirty: they are read from the disk again.
pub fn forget_cached(file: &File) -> io::Result<()> {
    // SAFETY: takes a valid descriptor and plain numbers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Bytes of the file system that `path` is on: those that this user may still write, and all.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)))
}

fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` ends with a zero byte, `stat` is large enough; both live through the call.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the structure.
    Ok(unsafe { stat.assume_init() })
}

/// As `access(2)`, with the rights that files are opened with.
pub fn check_access(path: &Path, rights: libc::c_int) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` ends with a zero byte and lives through the call.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), rights, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's own file systems let root write everywhere and make nothing.
pub fn check_is_for_files(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a zero byte, `stat` is large enough; both live through the call.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the structure.
    match unsafe { stat.assume_init() }.f_type {
        libc::PROC_SUPER_MAGIC => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        libc::SYSFS_MAGIC => Err(io::Error::from_raw_os_error(libc::EPERM)),
        _ => Ok(()),
    }
}

/// What must outlive the operation: the descriptor stays open, the memory stays in place.
struct Keep {
    _file: Arc<File>,
    buffer: AlignedBuf,
}

fn result_of(entry: &cqueue::Entry) -> io::Result<u32> {
    u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()))
}

struct WithBuffer;

impl OneshotOutputTransform for WithBuffer {
    type Output = (io::Result<u32>, AlignedBuf);
    type StoredData = Keep;

    fn transform_oneshot_output(self, data: Keep, entry: cqueue::Entry) -> Self::Output {
        (result_of(&entry), data.buffer)
    }
}

struct ResultOnly;

impl OneshotOutputTransform for ResultOnly {
    type Output = io::Result<u32>;
    type StoredData = Arc<File>;

    fn transform_oneshot_output(self, _: Arc<File>, entry: cqueue::Entry) -> Self::Output {
        result_of(&entry)
    }
}
