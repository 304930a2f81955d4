//! The spool of a relay that does not run: locked, and read through.
//!
//! Promise: nothing in it changes, but for [`Stopped::set_aside`].

use crate::io::file::Durability;
use crate::io::fs::{self, FileExt};
use crate::spool::SEGMENT_BYTES_DEFAULT;
use crate::spool::format::RawExtent;
use crate::spool::log::segment::Segments;
use crate::spool::recovery::directory::{Directory, OpenError, io_error};
use crate::spool::recovery::files::scan_files;
use crate::spool::recovery::{FoundMessage, LogScan};
use std::io;
use std::path::{Path, PathBuf};

/// Nobody else uses the spool while this lives.
pub struct Stopped {
    directory: Directory,
    segments: Segments,
    pub scan: LogScan,
}

impl Stopped {
    /// Locks the spool in `path`, and reads every log through. Blocking.
    ///
    /// # Errors
    /// There is none, it is in use, it is of a newer format, or the disk gives an error.
    pub fn open(path: &Path) -> Result<Stopped, OpenError> {
        let directory = Directory::open(path, false)?;
        // Only read: neither the size of new segments nor the way of writing matters.
        let segments = Segments::new(
            directory.segments(),
            SEGMENT_BYTES_DEFAULT,
            Some(Durability::Buffered),
        )
        .map_err(io_error(directory.segments().display()))?;
        let scan = scan_files(&segments)?;
        Ok(Stopped {
            directory,
            segments,
            scan,
        })
    }

    /// The body of a message of this scan, in wire form. Blocking; takes as much memory as the body.
    ///
    /// # Errors
    /// `InvalidData`: it is not what was written.
    pub fn body(&self, message: &FoundMessage) -> io::Result<Vec<u8>> {
        let mut body = Vec::with_capacity(usize::try_from(message.body_bytes()).unwrap_or(0));
        let mut extents = message.extents().iter();
        extents.try_for_each(|extent| self.read(extent, &mut body))?;
        Ok(body)
    }

    fn read(&self, extent: &RawExtent, body: &mut Vec<u8>) -> io::Result<()> {
        let segment = extent.generation.segment;
        let file = fs::File::open(self.segments.path().join(segment.file_name()))?;
        let start = body.len();
        body.resize(start + extent.bytes as usize, 0);
        file.read_exact_at(&mut body[start..], extent.offset)?;
        match crc32c::crc32c(&body[start..]) == extent.checksum {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "segment {segment}: the body at {} is damaged",
                    extent.offset
                ),
            )),
        }
    }

    /// Sets the logs aside, durably: the next start begins with an empty spool. Where they are now.
    pub fn set_aside(&self) -> Result<PathBuf, OpenError> {
        self.directory.set_segments_aside()
    }
}
