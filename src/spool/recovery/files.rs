//! Segments as a start finds them on the real disk.

use crate::io::fs::{self, FileExt};
use crate::spool::format::SegmentId;
use crate::spool::log::segment::{Segments, sync_directory};
use crate::spool::recovery::directory::{OpenError, io_error};
use crate::spool::recovery::{Disk, LogScan, ScanError, scan_logs};
use std::io;
use std::path::Path;

/// So that what is read from now on is what the disk has, names included. With `trusts_cache` it has all that is cached
/// once that is synced.
pub(super) fn settle(segments: &Segments, trusts_cache: bool) -> Result<(), OpenError> {
    let failed = |path: &Path| io_error(path.display().to_string());
    let path = segments.path();
    for id in segments.list().map_err(failed(path))?.0 {
        let settled = match trusts_cache {
            true => segments.sync(id).map(drop),
            false => segments.settle(id),
        };
        settled.map_err(failed(&path.join(id.file_name())))?;
    }
    sync_directory(path).map_err(failed(path))
}

pub(super) fn scan_files(segments: &Segments) -> Result<LogScan, OpenError> {
    scan_logs(&mut Files {
        segments,
        open: None,
    })
    .map_err(|error| match error {
        ScanError::Io(segment, error) => {
            let path = segments.path();
            let path = segment.map_or(path.to_owned(), |id| path.join(id.file_name()));
            OpenError::Io(format!("reading {}", path.display()), error)
        }
        ScanError::Newer { segment, version } => OpenError::Newer {
            what: segments.path().join(segment.file_name()),
            version,
        },
    })
}

/// The real disk, read through the page cache: recovery wants reading ahead, not durability.
struct Files<'a> {
    segments: &'a Segments,
    open: Option<(SegmentId, fs::File)>,
}

impl Disk for Files<'_> {
    fn segments(&mut self) -> io::Result<Vec<SegmentId>> {
        Ok(self.segments.list()?.0)
    }

    fn read(&mut self, segment: SegmentId, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.open.as_ref().is_none_or(|(id, _)| *id != segment) {
            let path = self.segments.path().join(segment.file_name());
            self.open = Some((segment, fs::File::open(path)?));
        }
        let (_, file) = self.open.as_ref().expect("just opened");
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
