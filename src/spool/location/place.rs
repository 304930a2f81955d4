//! Where a message lies: receipts, places, and reading bodies back.

use crate::io::buffer::{AlignedBuf, BLOCK_BYTES};
use crate::io::file::File;
use crate::message::MessageId;
use crate::spool::format::{Generation, RawExtent};
use crate::spool::log::commit::Stored;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// One generation of an open segment file. While anybody but its home core holds it, it is not retired.
#[derive(Debug)]
pub struct SegmentFile {
    pub(in crate::spool) generation: Generation,
    pub(in crate::spool) segment_bytes: u64,
    pub(in crate::spool) file: File,
}

/// The books hold one of it, and so does everybody who reads from it.
pub(in crate::spool) type SegmentRef = Arc<SegmentFile>;

/// A segment, and how many bytes of a message lie in it.
pub type Part = (Generation, u64);

impl SegmentFile {
    pub fn generation(&self) -> Generation {
        self.generation
    }
}

/// A piece of a body on stable storage.
#[derive(Clone, Debug)]
pub(in crate::spool) struct Extent {
    pub segment: Arc<SegmentFile>,
    pub offset: u64,
    pub bytes: u32,
    pub checksum: u32,
}

impl Extent {
    pub fn of(stored: &Stored<Arc<SegmentFile>>) -> Extent {
        Extent {
            segment: stored.segment().clone(),
            offset: stored.body_offset(),
            bytes: stored.body_bytes(),
            checksum: stored.body_checksum(),
        }
    }

    pub fn raw(&self) -> RawExtent {
        RawExtent {
            generation: self.segment.generation,
            offset: self.offset,
            bytes: self.bytes,
            checksum: self.checksum,
        }
    }
}

#[derive(Clone, Debug)]
enum Extents {
    /// One record with its body.
    Inline(Extent),
    /// Chunks; `last` is the segment of the final record.
    Chunks {
        chunks: Arc<[Extent]>,
        last: Arc<SegmentFile>,
    },
}

/// Where a durable message lies. May be sent to any core and cloned; holding it keeps the segments
/// from being reused. Drop it when the message is finished.
#[derive(Clone, Debug)]
pub struct Place {
    extents: Extents,
    body_bytes: u64,
    /// What the message's own or final record takes besides a body.
    envelope_bytes: u32,
    /// The number of the snapshot that this copy of the message was made with; zero: the original.
    snapshot: u32,
    /// Segments that may hold another copy, because writing it failed.
    doubtful: Option<Arc<[Arc<SegmentFile>]>>,
}

impl Place {
    pub(in crate::spool) fn inline(extent: Extent, envelope_bytes: u32) -> Place {
        Place {
            body_bytes: u64::from(extent.bytes),
            envelope_bytes,
            extents: Extents::Inline(extent),
            snapshot: 0,
            doubtful: None,
        }
    }

    pub(in crate::spool) fn chunks(
        chunks: Vec<Extent>,
        last: Arc<SegmentFile>,
        envelope_bytes: u32,
    ) -> Place {
        Place {
            body_bytes: chunks.iter().map(|extent| u64::from(extent.bytes)).sum(),
            envelope_bytes,
            extents: Extents::Chunks {
                chunks: chunks.into(),
                last,
            },
            snapshot: 0,
            doubtful: None,
        }
    }

    /// A message's own or final record is `stored`; `chunks` are its earlier parts.
    pub(in crate::spool) fn of(stored: &Stored<Arc<SegmentFile>>, chunks: Vec<Extent>) -> Place {
        let envelope_bytes = stored.record_bytes() - stored.body_bytes();
        match chunks.is_empty() {
            true => Place::inline(Extent::of(stored), envelope_bytes),
            false => Place::chunks(chunks, stored.segment().clone(), envelope_bytes),
        }
    }

    /// A copy that was made with this snapshot.
    pub(in crate::spool) fn made_with(self, snapshot: u32) -> Place {
        Place { snapshot, ..self }
    }

    pub(in crate::spool) fn snapshot(&self) -> u32 {
        self.snapshot
    }

    /// The same place, with another segment that may hold a copy.
    pub(in crate::spool) fn with_possible_copy(&self, segment: Arc<SegmentFile>) -> Place {
        let known = self.doubtful.iter().flat_map(|segments| segments.iter());
        Place {
            doubtful: Some(known.cloned().chain([segment]).collect()),
            ..self.clone()
        }
    }

    /// Length of the body in wire form, its final `.` line included.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    fn extents(&self) -> &[Extent] {
        match &self.extents {
            Extents::Inline(extent) => std::slice::from_ref(extent),
            Extents::Chunks { chunks, .. } => chunks,
        }
    }

    /// Shows `see` all segments that parts of the message lie in or may lie in, each once,
    /// ascending, and about how many bytes it takes there.
    pub(in crate::spool) fn with_parts<R>(&self, see: impl FnOnce(&[Part]) -> R) -> R {
        let bytes = |extent: &Extent| u64::from(extent.bytes);
        let envelope_bytes = u64::from(self.envelope_bytes);
        let mut parts: Vec<Part> = match &self.extents {
            Extents::Inline(extent) => {
                let part = (extent.segment.generation, envelope_bytes + bytes(extent));
                if self.doubtful.is_none() {
                    return see(&[part]);
                }
                vec![part]
            }
            Extents::Chunks { chunks, last } => chunks
                .iter()
                .map(|extent| (extent.segment.generation, bytes(extent)))
                .chain([(last.generation, envelope_bytes)])
                .collect(),
        };
        let doubtful = self.doubtful.iter().flat_map(|segments| segments.iter());
        parts.extend(doubtful.map(|segment| (segment.generation, 0)));
        parts.sort_unstable();
        parts.dedup_by(|next, part| {
            let same = next.0 == part.0;
            part.1 += if same { next.1 } else { 0 };
            same
        });
        see(&parts)
    }

    /// The segments of [`Self::with_parts`].
    pub(in crate::spool) fn with_generations<R>(&self, see: impl FnOnce(&[Generation]) -> R) -> R {
        self.with_parts(|parts| match parts {
            [(generation, _)] => see(&[*generation]),
            _ => see(&parts
                .iter()
                .map(|(generation, _)| *generation)
                .collect::<Vec<_>>()),
        })
    }

    /// Reads the body from its start, in pieces, checking it against its checksums.
    pub fn reader(&self) -> BodyReader {
        BodyReader {
            place: self.clone(),
            extent: 0,
            offset: 0,
            checksum: 0,
        }
    }
}

/// Streams a body back from the spool; see [`BodyReader::next`].
pub struct BodyReader {
    place: Place,
    /// Index of the extent being read, and how far into it.
    extent: usize,
    offset: u64,
    /// Over the first `offset` bytes of the extent.
    checksum: u32,
}

impl BodyReader {
    /// Reads the next piece into `buffer` and says where in it the piece is; an empty range is
    /// the end of the body. The piece is as long as the buffer allows, up to a block less.
    ///
    /// An error of the kind `InvalidData` says that the disk no longer holds what was written: the
    /// piece at fault is not handed out, so that a damaged body never looks complete.
    pub async fn next(&mut self, buffer: AlignedBuf) -> (io::Result<Range<usize>>, AlignedBuf) {
        let Some(extent) = self.skip_empty() else {
            return (Ok(0..0), buffer);
        };
        let start = extent.offset + self.offset;
        let block_start = start - start % BLOCK_BYTES as u64;
        let skip = (start - block_start) as usize;
        let left = u64::from(extent.bytes) - self.offset;
        let wanted = left.min((buffer.capacity() - skip) as u64) as usize;
        let length = (skip + wanted).next_multiple_of(BLOCK_BYTES);
        let (result, buffer) = extent
            .segment
            .file
            .read_at(buffer, length, block_start)
            .await;
        let result = match result {
            Ok(read) if read < skip + wanted => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.check(&extent, &buffer[skip..skip + wanted]),
            Err(error) => Err(error),
        };
        (result.map(|()| skip..skip + wanted), buffer)
    }

    fn skip_empty(&mut self) -> Option<Extent> {
        loop {
            let extent = self.place.extents().get(self.extent)?;
            if extent.bytes > 0 {
                return Some(extent.clone());
            }
            self.extent += 1;
        }
    }

    fn check(&mut self, extent: &Extent, piece: &[u8]) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, piece);
        self.offset += piece.len() as u64;
        if self.offset < u64::from(extent.bytes) {
            return Ok(());
        }
        if self.checksum != extent.checksum {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "segment {}: the body at {} is damaged",
                    extent.segment.generation, extent.offset
                ),
            ));
        }
        (self.extent, self.offset, self.checksum) = (self.extent + 1, 0, 0);
        Ok(())
    }
}

/// Proof that a message is on stable storage: the only way to it is a durable write's
/// [`Stored`], and the only way to a 250 is through it.
#[must_use = "a receipt is what 250 answers for"]
#[derive(Debug)]
pub struct Receipt {
    id: MessageId,
    place: Place,
}

impl Receipt {
    /// `stored` is the message's own or final record, `chunks` are its earlier parts.
    pub(in crate::spool) fn new(
        id: MessageId,
        stored: &Stored<Arc<SegmentFile>>,
        chunks: Vec<Extent>,
    ) -> Self {
        let place = Place::of(stored, chunks);
        Receipt { id, place }
    }

    pub fn id(&self) -> MessageId {
        self.id
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn into_place(self) -> Place {
        self.place
    }
}
