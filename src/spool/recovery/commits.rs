//! One pass over the commits of a segment.

use super::found::Damaged;
use super::report::What;
use super::window::{Disk, Window, read_by_blocks};
use crate::io::buffer::BLOCK_BYTES;
use crate::spool::format::{
    CommitHeader, FoundCommit, RawExtent, RecordView, SegmentHeader, SegmentId,
};

pub(super) struct Suspect {
    pub position: u64,
    pub what: What,
    /// Whole commits of the generation before it.
    pub commits_before: u64,
    /// The message whose content it is.
    pub message: Option<Box<Damaged>>,
}

/// The records of a commit.
pub(super) struct FoundRecords<'a> {
    pub position: u64,
    pub records: &'a [RecordView<'a>],
    /// The disk did not give all of it: bodies may have zeros for what is missing.
    pub has_unread: bool,
}

pub(super) fn extent_of(
    header: &SegmentHeader,
    position: u64,
    record: &RecordView<'_>,
) -> RawExtent {
    RawExtent {
        generation: header.generation,
        offset: position + record.body_offset() as u64,
        bytes: record.body.len() as u32,
        checksum: record.body_checksum,
    }
}

pub(super) type Visit<'a> = dyn FnMut(&FoundRecords<'_>, &mut Vec<Suspect>, u64) + 'a;

/// One pass over a generation.
#[derive(Default)]
pub(super) struct SegmentScan {
    pub window: Window,
    pub commits: u64,
    pub suspects: Vec<Suspect>,
    /// The last commit that was seen: its sequence, and its checksum if it was whole.
    pub last: Option<(u64, Option<u32>)>,
    /// Where the next commit starts if nothing is missing.
    pub expected: u64,
}

impl SegmentScan {
    pub fn run(&mut self, disk: &mut dyn Disk, header: &SegmentHeader, visit: &mut Visit<'_>) {
        let mut position = BLOCK_BYTES as u64;
        self.expected = position;
        while position < header.segment_bytes {
            position += self.block(disk, header, position, visit);
        }
    }

    /// Looks at one block; returns how many bytes to go on by.
    fn block(
        &mut self,
        disk: &mut dyn Disk,
        header: &SegmentHeader,
        position: u64,
        visit: &mut Visit<'_>,
    ) -> u64 {
        let id = header.generation.segment;
        let found = match self.window.get(disk, id, position, BLOCK_BYTES) {
            Ok(block) => CommitHeader::decode(block, header, position),
            Err(error) => {
                self.suspect(position, What::Unreadable(error.to_string()));
                None
            }
        };
        let Some(found) = found else {
            return BLOCK_BYTES as u64;
        };
        self.look_back(position, &found);
        let length = found.header.bytes();
        self.expected = position + length as u64;
        let whole = self.visit_records(disk, id, position, &found, visit);
        self.last = Some((found.header.sequence, whole.then_some(found.checksum)));
        match whole {
            true => length as u64,
            false => {
                self.suspect(position, What::Commit);
                BLOCK_BYTES as u64
            }
        }
    }

    fn visit_records(
        &mut self,
        disk: &mut dyn Disk,
        id: SegmentId,
        position: u64,
        found: &FoundCommit,
        visit: &mut Visit<'_>,
    ) -> bool {
        let length = found.header.bytes();
        let error = self.window.get(disk, id, position, length).err();
        let patched;
        let bytes = match error {
            None => self.window.held(position, length),
            Some(_) => {
                patched = read_by_blocks(disk, id, position, length);
                Some(&patched[..])
            }
        };
        let Some(records) = bytes.and_then(|bytes| found.records(bytes)) else {
            return false;
        };
        let has_unread = error.is_some();
        let found = FoundRecords {
            position,
            records: &records,
            has_unread,
        };
        visit(&found, &mut self.suspects, self.commits);
        self.commits += 1;
        if let Some(error) = error {
            self.suspect(position, What::Unreadable(error.to_string()));
        }
        true
    }

    /// Does this commit follow the last one?
    fn look_back(&mut self, position: u64, found: &FoundCommit) {
        let sequence = found.header.sequence;
        let missing = match self.last {
            Some((last, _)) => sequence.wrapping_sub(last).wrapping_sub(1),
            None => u64::from(position != self.expected),
        };
        if missing > 0 || position != self.expected {
            self.suspect(position, What::Gap(missing.max(1)));
        } else if let Some((_, Some(checksum))) = self.last
            && checksum != found.header.previous
        {
            self.suspect(position, What::Chain);
        }
    }

    fn suspect(&mut self, position: u64, what: What) {
        self.suspects.push(Suspect {
            position,
            what,
            commits_before: self.commits,
            message: None,
        });
    }
}
