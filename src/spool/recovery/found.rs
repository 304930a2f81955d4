//! What a scan finds: segments and the mail in them.

use crate::message::{Envelope, MessageId};
use crate::schedule::outcome::{Outcome, RecipientState};
use crate::spool::format::{Generation, RawExtent, SegmentHeader, SegmentId, States};
use crate::spool::location::place::Part;
use crate::time::WallTime;
use std::collections::BTreeSet;

/// What a segment's first block says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// It was being prepared; holds nothing.
    Blank,
    /// Nothing in it can be believed. It is left alone, so that somebody can look at it.
    Damaged,
    Generation(SegmentHeader),
}

#[derive(Clone, Debug)]
pub struct ScannedSegment {
    pub id: SegmentId,
    pub condition: Condition,
    pub commits: u64,
    pub records: u64,
    /// Messages that need this segment, damaged ones included.
    pub live: u64,
    /// Of an outcome segment: the message segments with messages for whose sake it is needed.
    pub refers_to: BTreeSet<Generation>,
    /// Of an outcome segment: all that it is needed for, if that is little and nothing in it is damaged.
    pub held: Vec<HeldOutcome>,
    /// What that takes in records of its own.
    pub held_bytes: u64,
    /// Of a message segment: older ones with other copies of messages that lie here. They must be
    /// retired first; see `liveness`.
    pub held_by: BTreeSet<Generation>,
    /// Holds damage that no crash explains.
    pub is_damaged: bool,
}

/// How recipients of a message stand, as one outcome segment says and no other one that is kept.
#[derive(Clone, Debug)]
pub struct HeldOutcome {
    pub outcome: Outcome,
    /// Message segments in which the message can be found.
    pub found_in: Vec<Generation>,
}

/// A message with an unfinished recipient.
#[derive(Clone, Debug)]
pub struct FoundMessage {
    pub id: MessageId,
    pub received_at: WallTime,
    pub envelope: Envelope,
    /// One for each recipient of the envelope.
    pub states: Vec<RecipientState>,
    pub body: FoundBody,
    /// The segment of the message's own or final record.
    pub generation: Generation,
    /// The content is not what was written, and there is no other copy: its sender must hear of it.
    pub is_damaged: bool,
    /// Newer segments with copies that are not whole. As long as those can be found, outcomes that name the
    /// message are needed: they count as its parts.
    pub doubtful: Vec<Generation>,
}

/// What a record is reckoned to take for each recipient besides its address, and for the rest.
const RECIPIENT_BYTES: u64 = 48;

#[derive(Clone, Debug)]
pub enum FoundBody {
    Inline(RawExtent),
    Chunks(Vec<RawExtent>),
}

impl FoundMessage {
    pub fn body_bytes(&self) -> u64 {
        self.extents().iter().map(|e| u64::from(e.bytes)).sum()
    }

    pub fn extents(&self) -> &[RawExtent] {
        match &self.body {
            FoundBody::Inline(extent) => std::slice::from_ref(extent),
            FoundBody::Chunks(extents) => extents,
        }
    }

    /// All segments that the message needs, each once, ascending.
    pub fn generations(&self) -> Vec<Generation> {
        let mut generations = generations_of(self.extents(), self.generation);
        generations.extend(&self.doubtful);
        generations.sort_unstable();
        generations.dedup();
        generations
    }

    /// About what the envelope takes, in a record of its own or before the body.
    pub fn envelope_bytes(&self) -> u64 {
        let recipients = self.envelope.recipients.iter();
        let addresses = recipients.map(|it| it.forward_path.as_str().len());
        addresses.fold(RECIPIENT_BYTES, |sum, it| sum + RECIPIENT_BYTES + it as u64)
    }

    /// The same, with about how many bytes of the message lie in each.
    pub fn parts(&self) -> Vec<Part> {
        let bytes_in = |generation: Generation| {
            let extents = self
                .extents()
                .iter()
                .filter(|extent| extent.generation == generation);
            let of_body: u64 = extents.map(|extent| u64::from(extent.bytes)).sum();
            match generation == self.generation {
                true => of_body + self.envelope_bytes(),
                false => of_body,
            }
        };
        let generations = self.generations().into_iter();
        generations
            .map(|generation| (generation, bytes_in(generation)))
            .collect()
    }
}

fn generations_of(extents: &[RawExtent], last: Generation) -> Vec<Generation> {
    let mut generations: Vec<Generation> = extents.iter().map(|extent| extent.generation).collect();
    generations.push(last);
    generations.sort_unstable();
    generations.dedup();
    generations
}

/// A message whose envelope is whole and whose content is not.
pub(super) struct Damaged {
    pub message: FoundMessage,
    /// What a copy took along.
    pub states: States,
}
