//! Where a message lies: stands in for `spool::location::place`. Whoever holds a place pins its segments.

use crate::job::Message;
use crate::world::World;
use ringpost::spool::format::{Generation, RawExtent};
use ringpost::spool::location::place::Part;
use ringpost::spool::log::commit::Stored;
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Debug)]
pub struct SegmentFile {
    pub generation: Generation,
}

pub type SegmentRef = Rc<SegmentFile>;

#[derive(Clone)]
pub struct Extent {
    segment: SegmentRef,
    raw: RawExtent,
}

impl Extent {
    pub fn of(stored: &Stored<SegmentRef>) -> Extent {
        Extent {
            segment: stored.segment().clone(),
            raw: RawExtent {
                generation: stored.segment().generation,
                offset: stored.body_offset(),
                bytes: stored.body_bytes(),
                checksum: stored.body_checksum(),
            },
        }
    }

    pub fn found(raw: RawExtent, segment: SegmentRef) -> Extent {
        Extent { segment, raw }
    }

    pub fn raw(&self) -> RawExtent {
        self.raw
    }
}

#[derive(Clone)]
pub struct Place {
    extents: Vec<Extent>,
    /// Of the message's own or final record.
    last: SegmentRef,
    /// The number of the snapshot that this copy was made with; zero: the original.
    pub snapshot: u32,
    /// Segments that may hold another copy, because writing it failed.
    doubtful: Vec<SegmentRef>,
}

/// What a message is reckoned to take besides its body.
const ENVELOPE_BYTES: u64 = 256;

impl Place {
    pub fn of(stored: &Stored<SegmentRef>, chunks: Vec<Extent>) -> Place {
        let extents = match chunks.is_empty() {
            true => vec![Extent::of(stored)],
            false => chunks,
        };
        Place::found(extents, stored.segment().clone())
    }

    pub fn found(extents: Vec<Extent>, last: SegmentRef) -> Place {
        Place {
            extents,
            last,
            snapshot: 0,
            doubtful: Vec::new(),
        }
    }

    pub fn made_with(self, snapshot: u32) -> Place {
        Place { snapshot, ..self }
    }

    pub fn doubting(&self, segment: SegmentRef) -> Place {
        let mut place = self.clone();
        place.doubtful.push(segment);
        place
    }

    pub fn body_bytes(&self) -> u64 {
        let bytes = self
            .extents
            .iter()
            .map(|extent| u64::from(extent.raw.bytes));
        bytes.sum()
    }

    /// All segments that parts of the message lie in or may lie in, each once, ascending.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: BTreeMap<Generation, u64> = BTreeMap::new();
        for extent in &self.extents {
            *parts.entry(extent.segment.generation).or_default() += u64::from(extent.raw.bytes);
        }
        *parts.entry(self.last.generation).or_default() += ENVELOPE_BYTES;
        for segment in &self.doubtful {
            parts.entry(segment.generation).or_default();
        }
        parts.into_iter().collect()
    }

    pub fn generations(&self) -> Vec<Generation> {
        self.parts()
            .into_iter()
            .map(|(generation, _)| generation)
            .collect()
    }

    /// The body, checked.
    pub fn read(&self, world: &World) -> Vec<u8> {
        let mut body = Vec::new();
        let power = world.power.borrow();
        for extent in &self.extents {
            let piece = power.disk.extent(&extent.raw);
            if crc32c::crc32c(piece) != extent.raw.checksum {
                world.accuse(format!(
                    "a body at {:?} is not what was written",
                    extent.raw
                ));
            }
            body.extend_from_slice(piece);
        }
        body
    }
}

/// What waits for the record that makes a copy count.
pub struct Copy {
    pub message: Rc<Message>,
    /// Pins the message where it lies until the books know of the copy.
    pub from: Rc<Place>,
    pub snapshot: u32,
    pub chunks: Vec<Extent>,
}
