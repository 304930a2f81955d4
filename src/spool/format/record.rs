//! Every form that the spool has on disk: segment header, commit header, record, and what records hold.
//!
//! Pure: bytes in, values out, and back. What is read here comes from a disk, so it may be anything:
//! lengths are checked before they are believed, and nothing panics.
//!
//! ```text
//! segment   block 0: segment header, twice (sectors 0 and 4), each within one 512-byte sector
//!           block 1..: commits, each starting on a block
//! commit    header 64 | record | record | ... | zeros to the end of the block
//! record    head 40 | meta | body
//! ```
//!
//! Each byte is summed once. A record's head holds the checksum of its body; the head's own
//! checksum covers the head and the meta; the commit's checksum covers its header and the
//! checksums of all heads. So a commit whose checksum is right names exactly its records, and a
//! body that is damaged later costs that record and no other.

use crate::io::buffer::BLOCK_BYTES;
use crate::message::{BodyType, Envelope, Mailbox, MessageId, Notify, Recipient, Ret};
use crate::schedule::outcome::{Diagnosis, Outcome, RecipientState, ReportKind};
use crate::smtp::reply::EnhancedStatus;
use crate::text;
use crate::time::WallTime;
use std::fmt;

/// Version of everything below. A newer one is refused, never guessed at.
pub const FORMAT_VERSION: u32 = 1;

/// First byte of every meta: lets one record change its form without a new [`FORMAT_VERSION`].
const META_VERSION: u8 = 1;
/// The same for a message that was moved: states of its recipients follow the envelope.
const COPY_META_VERSION: u8 = 2;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"RINGSEG\n");
const COMMIT_MAGIC: u64 = u64::from_le_bytes(*b"RINGCMT\n");

/// Where the two copies of the segment header start within block 0.
const HEADER_COPIES: [usize; 2] = [0, 2048];
const SEGMENT_HEADER_BYTES: usize = 80;

pub const COMMIT_HEADER_BYTES: usize = 64;
pub const RECORD_HEAD_BYTES: usize = 40;

/// No commit is longer, header included: what recovery must be able to hold at once.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// Recipients in one outcome record are split so that its meta stays below this.
pub const OUTCOME_META_BYTES_MAX: usize = 16 * 1024;

/// The domain name system's bound on a name, which a remote host's name cannot exceed.
const REMOTE_HOST_BYTES_MAX: usize = 255;

const _: () = assert!(SEGMENT_HEADER_BYTES <= 512);
const _: () = assert!(COMMIT_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

/// A secret of one lap. Whoever does not know it cannot forge a commit into it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(secret)")
    }
}

/// Names a segment file: the core that made it, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId {
    pub core: u16,
    pub number: u32,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}-{:08x}", self.core, self.number)
    }
}

impl SegmentId {
    /// The name in the `segments` directory.
    pub fn file_name(&self) -> String {
        format!("{self}.seg")
    }

    pub fn from_file_name(name: &str) -> Option<SegmentId> {
        let (core, number) = name.strip_suffix(".seg")?.split_once('-')?;
        let id = SegmentId {
            core: u16::from_str_radix(core, 16).ok()?,
            number: u32::from_str_radix(number, 16).ok()?,
        };
        (id.file_name() == name).then_some(id)
    }
}

/// One lap of a segment file: from its header to its retirement. Never comes again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lap {
    pub segment: SegmentId,
    /// Grows with every header written to the file; starts above every earlier run's.
    pub generation: u64,
}

impl fmt::Display for Lap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.segment, self.generation)
    }
}

/// What a segment's lap is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Usage {
    Free,
    Messages,
    Outcomes,
}

/// The first block of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub lap: Lap,
    pub usage: Usage,
    /// The log that this lap belongs to, which is not always the core that made the file.
    pub core: u16,
    pub run: u32,
    /// Position of this lap in its log, for people and for the order of compaction.
    pub log_sequence: u64,
    pub segment_bytes: u64,
    pub nonce: Nonce,
}

/// Why a first block is no segment header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Zeros: the file was being prepared.
    Blank,
    /// Written by a newer version of the relay.
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    /// Fills `block` (at least [`BLOCK_BYTES`]) with both copies.
    pub fn encode(&self, block: &mut [u8]) {
        block[..BLOCK_BYTES].fill(0);
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        put_u64(&mut bytes, SEGMENT_MAGIC);
        put_u32(&mut bytes, FORMAT_VERSION);
        put_u16(&mut bytes, self.usage as u16);
        put_u16(&mut bytes, self.core);
        put_u32(&mut bytes, self.run);
        put_u16(&mut bytes, self.lap.segment.core);
        put_u16(&mut bytes, 0);
        put_u32(&mut bytes, self.lap.segment.number);
        put_u64(&mut bytes, self.lap.generation);
        put_u64(&mut bytes, self.log_sequence);
        put_u64(&mut bytes, self.segment_bytes);
        bytes.extend_from_slice(&self.nonce.0);
        let checksum = crc32c::crc32c(&bytes);
        put_u32(&mut bytes, checksum);
        for start in HEADER_COPIES {
            block[start..start + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Reads the newest whole copy. A write torn between the two leaves one of each, and either
    /// is a state that recovery may find.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let copies =
            HEADER_COPIES.map(|start| Self::decode_copy(block.get(start..).unwrap_or(&[])));
        let mut newest: Option<SegmentHeader> = None;
        for header in copies.iter().flatten() {
            if newest
                .as_ref()
                .is_none_or(|newest| header.lap.generation > newest.lap.generation)
            {
                newest = Some(header.clone());
            }
        }
        if let Some(newest) = newest {
            return Ok(newest);
        }
        if block.iter().all(|&byte| byte == 0) {
            return Err(HeaderError::Blank);
        }
        let newer = copies
            .into_iter()
            .filter_map(Result::err)
            .find(|error| matches!(error, HeaderError::Newer(_)));
        Err(newer.unwrap_or(HeaderError::Damaged))
    }

    fn decode_copy(bytes: &[u8]) -> Result<SegmentHeader, HeaderError> {
        let damaged = |Malformed| HeaderError::Damaged;
        let mut cursor = Cursor(bytes);
        if cursor.u64().map_err(damaged)? != SEGMENT_MAGIC {
            return Err(HeaderError::Damaged);
        }
        let version = cursor.u32().map_err(damaged)?;
        if version > FORMAT_VERSION {
            return Err(HeaderError::Newer(version));
        }
        Self::decode_body(&mut cursor, bytes).map_err(damaged)
    }

    fn decode_body(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<SegmentHeader, Malformed> {
        let usage = match cursor.u16()? {
            0 => Usage::Free,
            1 => Usage::Messages,
            2 => Usage::Outcomes,
            _ => return Err(Malformed),
        };
        let core = cursor.u16()?;
        let run = cursor.u32()?;
        let maker = cursor.u16()?;
        cursor.u16()?;
        let number = cursor.u32()?;
        let generation = cursor.u64()?;
        let log_sequence = cursor.u64()?;
        let segment_bytes = cursor.u64()?;
        let nonce = Nonce(cursor.array()?);
        let summed = bytes.len() - cursor.0.len();
        if cursor.u32()? != crc32c::crc32c(&bytes[..summed]) {
            return Err(Malformed);
        }
        Ok(SegmentHeader {
            lap: Lap {
                segment: SegmentId {
                    core: maker,
                    number,
                },
                generation,
            },
            usage,
            core,
            run,
            log_sequence,
            segment_bytes,
            nonce,
        })
    }
}

/// The first 64 bytes of a commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitHeader {
    pub nonce: Nonce,
    pub generation: u64,
    /// Where in the segment it was written, in blocks: a misplaced write is not believed.
    pub block: u32,
    /// Counts the commits of one log within one run.
    pub sequence: u64,
    /// Bytes of the records; the padding is not counted.
    pub payload_bytes: u32,
    pub record_count: u32,
    /// Checksum of the commit before this one in the lap; zero for the first.
    pub previous: u32,
}

impl CommitHeader {
    /// Writes the header into the front of `out` and returns its checksum. `heads_checksum` is
    /// [`sum_head`] over all records in their order.
    pub fn encode(&self, heads_checksum: u32, out: &mut [u8]) -> u32 {
        let mut bytes = Vec::with_capacity(COMMIT_HEADER_BYTES);
        put_u64(&mut bytes, COMMIT_MAGIC);
        bytes.extend_from_slice(&self.nonce.0);
        put_u64(&mut bytes, self.generation);
        put_u64(&mut bytes, self.sequence);
        put_u32(&mut bytes, self.block);
        put_u32(&mut bytes, self.payload_bytes);
        put_u32(&mut bytes, self.record_count);
        put_u32(&mut bytes, self.previous);
        put_u32(&mut bytes, heads_checksum);
        let checksum = crc32c::crc32c(&bytes);
        put_u32(&mut bytes, checksum);
        out[..bytes.len()].copy_from_slice(&bytes);
        checksum
    }

    /// True if `block` claims to start a commit, whoever wrote it. For telling a crash from decay.
    pub fn looks_like_one(block: &[u8]) -> bool {
        block.starts_with(&COMMIT_MAGIC.to_le_bytes())
    }

    /// The header at the front of `block` if it belongs to this lap and place, with the checksum
    /// of its records' heads and its own. `None` is anything else: zeros, an old lap, a forgery.
    pub fn decode(block: &[u8], lap: &SegmentHeader, position: u64) -> Option<FoundCommit> {
        let mut cursor = Cursor(block);
        (cursor.u64().ok()? == COMMIT_MAGIC).then_some(())?;
        let nonce = Nonce(cursor.array().ok()?);
        let generation = cursor.u64().ok()?;
        (nonce == lap.nonce && generation == lap.lap.generation).then_some(())?;
        let sequence = cursor.u64().ok()?;
        let number = cursor.u32().ok()?;
        let payload_bytes = cursor.u32().ok()?;
        let record_count = cursor.u32().ok()?;
        let previous = cursor.u32().ok()?;
        let heads_checksum = cursor.u32().ok()?;
        let summed = block.len() - cursor.0.len();
        let checksum = cursor.u32().ok()?;
        (checksum == crc32c::crc32c(&block[..summed])).then_some(())?;
        let header = CommitHeader {
            nonce,
            generation,
            block: number,
            sequence,
            payload_bytes,
            record_count,
            previous,
        };
        let fits = header.bytes() <= COMMIT_BYTES_MAX
            && position + header.bytes() as u64 <= lap.segment_bytes;
        (fits && u64::from(number) * BLOCK_BYTES as u64 == position).then_some(FoundCommit {
            header,
            heads_checksum,
            checksum,
        })
    }

    /// Header and records, in whole blocks.
    pub fn bytes(&self) -> usize {
        (COMMIT_HEADER_BYTES + self.payload_bytes as usize).next_multiple_of(BLOCK_BYTES)
    }
}

/// A commit header as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundCommit {
    pub header: CommitHeader,
    pub heads_checksum: u32,
    pub checksum: u32,
}

impl FoundCommit {
    /// The records of the commit, if `bytes` (from its header on) holds exactly the heads that
    /// were written with it. A record's body may still be damaged: see [`RecordView::is_whole`].
    pub fn records<'a>(&self, bytes: &'a [u8]) -> Option<Vec<RecordView<'a>>> {
        let end = COMMIT_HEADER_BYTES + self.header.payload_bytes as usize;
        let mut rest = bytes.get(COMMIT_HEADER_BYTES..end)?;
        let mut records = Vec::new();
        let mut heads_checksum = 0;
        while !rest.is_empty() {
            let view = RecordView::decode(rest, end - rest.len())?;
            heads_checksum = sum_head(heads_checksum, view.head_checksum);
            rest = &rest[view.bytes()..];
            records.push(view);
        }
        let complete = records.len() == self.header.record_count as usize
            && heads_checksum == self.heads_checksum;
        complete.then_some(records)
    }
}

/// Adds one record's head checksum to the sum over the heads of a commit, which starts at zero.
pub fn sum_head(sum: u32, head_checksum: u32) -> u32 {
    crc32c::crc32c_append(sum, &head_checksum.to_le_bytes())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A message whole: [`MessageMeta`] and its body.
    Message = 1,
    /// A piece of a large message's body. Counts only through its [`Kind::Final`].
    Chunk = 2,
    /// Ends a large message: [`FinalMeta`].
    Final = 3,
    /// New states of recipients.
    Outcome = 4,
}

/// A record about to be written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub kind: Kind,
    pub id: MessageId,
    pub meta: &'a [u8],
    pub body: &'a [u8],
}

/// Checksums of a record that was written into a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sums {
    pub head: u32,
    pub body: u32,
}

impl Record<'_> {
    /// Head, meta and body.
    pub fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.meta.len() + self.body.len()
    }

    /// Writes the record into the front of `out`, which is large enough.
    pub fn encode(&self, out: &mut [u8]) -> Sums {
        let (head, rest) = out.split_at_mut(RECORD_HEAD_BYTES);
        let (meta, rest) = rest.split_at_mut(self.meta.len());
        meta.copy_from_slice(self.meta);
        rest[..self.body.len()].copy_from_slice(self.body);
        let body = crc32c::crc32c(self.body);
        head[0..4].copy_from_slice(&(self.bytes() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(self.kind as u32).to_le_bytes());
        head[8..12].copy_from_slice(&self.id.run.to_le_bytes());
        head[12..16].copy_from_slice(&u32::from(self.id.core).to_le_bytes());
        head[16..24].copy_from_slice(&self.id.sequence.to_le_bytes());
        head[24..28].copy_from_slice(&(self.meta.len() as u32).to_le_bytes());
        head[28..32].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        head[32..36].copy_from_slice(&body.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..36]), self.meta);
        head[36..40].copy_from_slice(&sum.to_le_bytes());
        Sums { head: sum, body }
    }
}

/// A record as it was found within a commit. Its head and meta are checked, its body is not yet.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    pub kind: Kind,
    pub id: MessageId,
    pub meta: &'a [u8],
    pub body: &'a [u8],
    pub head_checksum: u32,
    pub body_checksum: u32,
    /// From the start of the commit to the record's head.
    pub offset: usize,
}

impl<'a> RecordView<'a> {
    /// `bytes` starts with the record; `offset` is remembered. `None` if head or meta are not
    /// as they were written, or the kind is unknown.
    pub fn decode(bytes: &'a [u8], offset: usize) -> Option<RecordView<'a>> {
        let mut cursor = Cursor(bytes);
        let record_bytes = cursor.u32().ok()? as usize;
        let kind = match cursor.u32().ok()? {
            1 => Kind::Message,
            2 => Kind::Chunk,
            3 => Kind::Final,
            4 => Kind::Outcome,
            _ => return None,
        };
        let run = cursor.u32().ok()?;
        let core = u16::try_from(cursor.u32().ok()?).ok()?;
        let sequence = cursor.u64().ok()?;
        let meta_bytes = cursor.u32().ok()? as usize;
        let body_bytes = cursor.u32().ok()? as usize;
        let body_checksum = cursor.u32().ok()?;
        let head_checksum = cursor.u32().ok()?;
        let meta = cursor.take(meta_bytes).ok()?;
        let body = cursor.take(body_bytes).ok()?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..36]), meta);
        let whole = record_bytes == bytes.len() - cursor.0.len() && sum == head_checksum;
        whole.then_some(RecordView {
            kind,
            id: MessageId {
                run,
                core,
                sequence,
            },
            meta,
            body,
            head_checksum,
            body_checksum,
            offset,
        })
    }

    pub fn bytes(&self) -> usize {
        RECORD_HEAD_BYTES + self.meta.len() + self.body.len()
    }

    /// From the start of the commit to the body.
    pub fn body_offset(&self) -> usize {
        self.offset + RECORD_HEAD_BYTES + self.meta.len()
    }

    pub fn is_whole(&self) -> bool {
        crc32c::crc32c(self.body) == self.body_checksum
    }
}

/// A piece of a body: which lap, where in it, how long, and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawExtent {
    pub lap: Lap,
    /// In bytes from the start of the segment.
    pub offset: u64,
    pub bytes: u32,
    pub checksum: u32,
}

/// How recipients stand: index into the envelope, and the state. Who is not named is fresh.
pub type States = Vec<(u32, RecipientState)>;

/// What a [`Kind::Message`] says besides the body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageMeta {
    pub received_at: WallTime,
    pub envelope: Envelope,
    /// What a moved message took along. Counts as an outcome does.
    pub states: States,
}

impl MessageMeta {
    /// Appends to `out`; takes references, so that nothing is copied to be written.
    pub fn encode(received_at: WallTime, envelope: &Envelope, out: &mut Vec<u8>) {
        out.push(META_VERSION);
        put_u64(out, received_at.0);
        put_envelope(out, envelope);
    }

    /// Of a message that is moved, with the states that it takes along.
    pub fn encode_copy(
        received_at: WallTime,
        envelope: &Envelope,
        states: &States,
        out: &mut Vec<u8>,
    ) {
        out.push(COPY_META_VERSION);
        put_u64(out, received_at.0);
        put_envelope(out, envelope);
        put_states(out, states);
    }

    pub fn decode(meta: &[u8]) -> Result<MessageMeta, Malformed> {
        let mut cursor = Cursor(meta);
        let is_copy = cursor.message_version()?;
        Ok(MessageMeta {
            received_at: WallTime(cursor.u64()?),
            envelope: cursor.envelope()?,
            states: cursor.last_states(is_copy)?,
        })
    }
}

/// What a [`Kind::Final`] says: the message, and where the pieces of its body are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FinalMeta {
    pub received_at: WallTime,
    pub body_bytes: u64,
    pub extents: Vec<RawExtent>,
    pub envelope: Envelope,
    /// What a moved message took along. Counts as an outcome does.
    pub states: States,
}

impl FinalMeta {
    pub fn encode(
        received_at: WallTime,
        extents: &[RawExtent],
        envelope: &Envelope,
        out: &mut Vec<u8>,
    ) {
        out.push(META_VERSION);
        Self::encode_rest(received_at, extents, envelope, out);
    }

    /// Of a message that is moved, with the states that it takes along.
    pub fn encode_copy(
        received_at: WallTime,
        extents: &[RawExtent],
        envelope: &Envelope,
        states: &States,
        out: &mut Vec<u8>,
    ) {
        out.push(COPY_META_VERSION);
        Self::encode_rest(received_at, extents, envelope, out);
        put_states(out, states);
    }

    fn encode_rest(
        received_at: WallTime,
        extents: &[RawExtent],
        envelope: &Envelope,
        out: &mut Vec<u8>,
    ) {
        put_u64(out, received_at.0);
        put_u64(out, extents.iter().map(|e| u64::from(e.bytes)).sum());
        put_u32(out, extents.len() as u32);
        for extent in extents {
            put_u16(out, extent.lap.segment.core);
            put_u32(out, extent.lap.segment.number);
            put_u64(out, extent.lap.generation);
            put_u64(out, extent.offset);
            put_u32(out, extent.bytes);
            put_u32(out, extent.checksum);
        }
        put_envelope(out, envelope);
    }

    pub fn decode(meta: &[u8]) -> Result<FinalMeta, Malformed> {
        let mut cursor = Cursor(meta);
        let is_copy = cursor.message_version()?;
        let received_at = WallTime(cursor.u64()?);
        let body_bytes = cursor.u64()?;
        let count = cursor.u32()?;
        let mut extents = Vec::new();
        for _ in 0..count {
            extents.push(cursor.extent()?);
        }
        let envelope = cursor.envelope()?;
        let states = cursor.last_states(is_copy)?;
        if extents.iter().map(|e| u64::from(e.bytes)).sum::<u64>() != body_bytes {
            return Err(Malformed);
        }
        Ok(FinalMeta {
            received_at,
            body_bytes,
            extents,
            envelope,
            states,
        })
    }
}

/// The metas of the records that `outcome` becomes: one, or several if it names very many recipients.
pub fn encode_outcome(outcome: &Outcome) -> Vec<Vec<u8>> {
    let mut parts = Vec::with_capacity(1);
    let mut part = vec![META_VERSION];
    for (index, state) in &outcome.recipients {
        if part.len() >= OUTCOME_META_BYTES_MAX - STATE_BYTES_MAX {
            parts.push(std::mem::replace(&mut part, vec![META_VERSION]));
        }
        put_u32(&mut part, *index);
        put_state(&mut part, state);
    }
    if part.len() > 1 {
        parts.push(part);
    }
    parts
}

/// Bound on one recipient in an outcome: index, tag, attempts, due, diagnosis.
const STATE_BYTES_MAX: usize = 64 + Diagnosis::TEXT_BYTES_MAX + REMOTE_HOST_BYTES_MAX;

pub fn decode_outcome(id: MessageId, meta: &[u8]) -> Result<Outcome, Malformed> {
    let mut cursor = Cursor(meta);
    cursor.version()?;
    Ok(Outcome {
        message: id,
        recipients: cursor.states()?,
    })
}

/// The bytes are not what this version writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len() as u32);
    out.extend_from_slice(text.as_bytes());
}

fn put_option_str(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(text.is_some().into());
    if let Some(text) = text {
        put_str(out, text);
    }
}

fn put_mailbox(out: &mut Vec<u8>, mailbox: &Mailbox) {
    put_str(out, mailbox.local_part());
    put_str(out, mailbox.domain_as_written());
}

fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    out.push(envelope.reverse_path.is_some().into());
    if let Some(reverse_path) = &envelope.reverse_path {
        put_mailbox(out, reverse_path);
    }
    out.push(matches!(envelope.body_type, BodyType::EightBitMime).into());
    out.push(envelope.smtputf8.into());
    out.push(match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    });
    put_option_str(out, envelope.envid.as_deref());
    put_u32(out, envelope.recipients.len() as u32);
    for recipient in &envelope.recipients {
        put_mailbox(out, &recipient.forward_path);
        out.push(match recipient.notify {
            None => 0,
            Some(notify) => {
                1 | u8::from(notify.success) << 1
                    | u8::from(notify.failure) << 2
                    | u8::from(notify.delay) << 3
            }
        });
        put_option_str(out, recipient.orcpt.as_deref());
    }
}

fn put_diagnosis(out: &mut Vec<u8>, diagnosis: &Diagnosis) {
    out.push(diagnosis.status.class);
    put_u16(out, diagnosis.status.subject);
    put_u16(out, diagnosis.status.detail);
    put_str(out, text::front(&diagnosis.text, Diagnosis::TEXT_BYTES_MAX));
    put_str(
        out,
        text::front(&diagnosis.remote_host, REMOTE_HOST_BYTES_MAX),
    );
}

fn put_state(out: &mut Vec<u8>, state: &RecipientState) {
    match state {
        RecipientState::Waiting {
            attempts,
            due,
            last,
        } => {
            out.push(if last.is_some() { 1 } else { 0 });
            put_u32(out, *attempts);
            put_u64(out, due.0);
            if let Some(last) = last {
                put_diagnosis(out, last);
            }
        }
        RecipientState::ReportOwed {
            kind,
            diagnosis,
            attempts,
            due,
        } => {
            out.push(match kind {
                ReportKind::Failed => 2,
                ReportKind::Relayed => 3,
            });
            put_u32(out, *attempts);
            put_u64(out, due.0);
            put_diagnosis(out, diagnosis);
        }
        RecipientState::Finished => out.push(4),
    }
}

fn put_states(out: &mut Vec<u8>, states: &States) {
    for (index, state) in states {
        put_u32(out, *index);
        put_state(out, state);
    }
}

/// Reads from the front; every read checks what is left.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn str(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.u32()? as usize;
        std::str::from_utf8(self.take(bytes)?).map_err(|_| Malformed)
    }

    fn option_str(&mut self) -> Result<Option<Box<str>>, Malformed> {
        Ok(match self.bool()? {
            true => Some(self.str()?.into()),
            false => None,
        })
    }

    fn version(&mut self) -> Result<(), Malformed> {
        (self.u8()? == META_VERSION).then_some(()).ok_or(Malformed)
    }

    /// Of a message's or final record: is it a copy?
    fn message_version(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            META_VERSION => Ok(false),
            COPY_META_VERSION => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// States up to the end.
    fn states(&mut self) -> Result<States, Malformed> {
        let mut states = Vec::new();
        while !self.0.is_empty() {
            let index = self.u32()?;
            states.push((index, self.state()?));
        }
        Ok(states)
    }

    /// The end of a message's or final meta.
    fn last_states(&mut self, is_copy: bool) -> Result<States, Malformed> {
        if is_copy {
            return self.states();
        }
        self.end()?;
        Ok(Vec::new())
    }

    fn end(&self) -> Result<(), Malformed> {
        self.0.is_empty().then_some(()).ok_or(Malformed)
    }

    fn mailbox(&mut self) -> Result<Mailbox, Malformed> {
        let local_part = self.str()?;
        Ok(Mailbox::new(local_part, self.str()?))
    }

    fn extent(&mut self) -> Result<RawExtent, Malformed> {
        Ok(RawExtent {
            lap: Lap {
                segment: SegmentId {
                    core: self.u16()?,
                    number: self.u32()?,
                },
                generation: self.u64()?,
            },
            offset: self.u64()?,
            bytes: self.u32()?,
            checksum: self.u32()?,
        })
    }

    fn envelope(&mut self) -> Result<Envelope, Malformed> {
        let reverse_path = match self.bool()? {
            true => Some(self.mailbox()?),
            false => None,
        };
        let body_type = match self.bool()? {
            true => BodyType::EightBitMime,
            false => BodyType::SevenBit,
        };
        let smtputf8 = self.bool()?;
        let ret = match self.u8()? {
            0 => None,
            1 => Some(Ret::Full),
            2 => Some(Ret::Headers),
            _ => return Err(Malformed),
        };
        let envid = self.option_str()?;
        let count = self.u32()?;
        let mut recipients = Vec::new();
        for _ in 0..count {
            recipients.push(self.recipient()?);
        }
        Ok(Envelope {
            reverse_path,
            body_type,
            smtputf8,
            ret,
            envid,
            recipients,
        })
    }

    fn recipient(&mut self) -> Result<Recipient, Malformed> {
        let forward_path = self.mailbox()?;
        let flags = self.u8()?;
        let notify = match flags {
            0 => None,
            1..16 if flags & 1 == 1 => Some(Notify {
                success: flags & 2 != 0,
                failure: flags & 4 != 0,
                delay: flags & 8 != 0,
            }),
            _ => return Err(Malformed),
        };
        Ok(Recipient {
            forward_path,
            notify,
            orcpt: self.option_str()?,
        })
    }

    fn diagnosis(&mut self) -> Result<Diagnosis, Malformed> {
        let class = self.u8()?;
        let subject = self.u16()?;
        let detail = self.u16()?;
        Ok(Diagnosis {
            status: EnhancedStatus::new(class, subject, detail),
            text: text::front(self.str()?, Diagnosis::TEXT_BYTES_MAX).into(),
            remote_host: text::front(self.str()?, REMOTE_HOST_BYTES_MAX).into(),
        })
    }

    fn state(&mut self) -> Result<RecipientState, Malformed> {
        let tag = self.u8()?;
        if tag == 4 {
            return Ok(RecipientState::Finished);
        }
        let attempts = self.u32()?;
        let due = WallTime(self.u64()?);
        let kind = match tag {
            0 | 1 => {
                let last = match tag {
                    1 => Some(self.diagnosis()?),
                    _ => None,
                };
                return Ok(RecipientState::Waiting {
                    attempts,
                    due,
                    last,
                });
            }
            2 => ReportKind::Failed,
            3 => ReportKind::Relayed,
            _ => return Err(Malformed),
        };
        Ok(RecipientState::ReportOwed {
            kind,
            diagnosis: self.diagnosis()?,
            attempts,
            due,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mailbox() -> impl Strategy<Value = Mailbox> {
        ("[^\\p{Cc}]{0,70}", "[a-z.\\-éü]{0,40}").prop_map(|(l, d)| Mailbox::new(&l, &d))
    }

    fn recipient() -> impl Strategy<Value = Recipient> {
        let notify = proptest::option::of((any::<bool>(), any::<bool>(), any::<bool>()));
        let orcpt = proptest::option::of("rfc822;[!-~]{0,40}");
        (mailbox(), notify, orcpt).prop_map(|(forward_path, notify, orcpt)| Recipient {
            forward_path,
            notify: notify.map(|(success, failure, delay)| Notify {
                success,
                failure,
                delay,
            }),
            orcpt: orcpt.map(Into::into),
        })
    }

    prop_compose! {
        fn envelope()(
            reverse_path in proptest::option::of(mailbox()),
            eight_bit in any::<bool>(),
            smtputf8 in any::<bool>(),
            ret in 0usize..3,
            envid in proptest::option::of("[!-~]{0,100}"),
            recipients in proptest::collection::vec(recipient(), 0..5),
        ) -> Envelope {
            Envelope {
                reverse_path,
                body_type: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
                smtputf8,
                ret: [None, Some(Ret::Full), Some(Ret::Headers)][ret],
                envid: envid.map(Into::into),
                recipients,
            }
        }
    }

    fn diagnosis() -> impl Strategy<Value = Diagnosis> {
        let status = (2u8..6, 0u16..1000, 0u16..1000);
        (status, "[ -~é]{0,120}", "[a-z.]{0,30}").prop_map(|((c, s, d), text, host)| Diagnosis {
            status: EnhancedStatus::new(c, s, d),
            text: text.into(),
            remote_host: host.into(),
        })
    }

    fn state() -> impl Strategy<Value = RecipientState> {
        let waiting = (
            any::<u32>(),
            any::<u64>(),
            proptest::option::of(diagnosis()),
        );
        let owed = (any::<bool>(), diagnosis(), any::<u32>(), any::<u64>());
        prop_oneof![
            waiting.prop_map(|(attempts, due, last)| RecipientState::Waiting {
                attempts,
                due: WallTime(due),
                last,
            }),
            owed.prop_map(|(failed, diagnosis, attempts, due)| {
                RecipientState::ReportOwed {
                    kind: if failed {
                        ReportKind::Failed
                    } else {
                        ReportKind::Relayed
                    },
                    diagnosis,
                    attempts,
                    due: WallTime(due),
                }
            }),
            Just(RecipientState::Finished),
        ]
    }

    fn lap(core: u16, number: u32, generation: u64) -> Lap {
        Lap {
            segment: SegmentId { core, number },
            generation,
        }
    }

    fn header() -> SegmentHeader {
        SegmentHeader {
            lap: lap(3, 9, 77),
            usage: Usage::Messages,
            core: 3,
            run: 2,
            log_sequence: 5,
            segment_bytes: 1 << 20,
            nonce: Nonce([9; 16]),
        }
    }

    const ID: MessageId = MessageId {
        run: 1,
        core: 2,
        sequence: 3,
    };

    /// A commit of these bodies at block 4 of the lap of [`header`].
    fn commit(bodies: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; COMMIT_HEADER_BYTES];
        let mut heads_checksum = 0;
        for body in bodies {
            let record = Record {
                kind: Kind::Chunk,
                id: ID,
                meta: b"meta",
                body,
            };
            let start = bytes.len();
            bytes.resize(start + record.bytes(), 0);
            let sums = record.encode(&mut bytes[start..]);
            heads_checksum = sum_head(heads_checksum, sums.head);
        }
        let header = CommitHeader {
            nonce: header().nonce,
            generation: header().lap.generation,
            block: 4,
            sequence: 1,
            payload_bytes: (bytes.len() - COMMIT_HEADER_BYTES) as u32,
            record_count: bodies.len() as u32,
            previous: 0,
        };
        header.encode(heads_checksum, &mut bytes);
        bytes.resize(header.bytes(), 0);
        bytes
    }

    proptest! {
        #[test]
        fn messages_read_back(envelope in envelope(), received_at in any::<u64>()) {
            let mut meta = Vec::new();
            let received_at = WallTime(received_at);
            MessageMeta::encode(received_at, &envelope, &mut meta);
            prop_assert_eq!(
                MessageMeta::decode(&meta),
                Ok(MessageMeta { received_at, envelope, states: Vec::new() })
            );
            for end in 0..meta.len() {
                prop_assert_eq!(MessageMeta::decode(&meta[..end]), Err(Malformed));
            }
        }

        #[test]
        fn copies_take_their_states_along(
            envelope in envelope(),
            states in proptest::collection::vec((any::<u32>(), state()), 0..5),
        ) {
            let mut meta = Vec::new();
            MessageMeta::encode_copy(WallTime(1), &envelope, &states, &mut meta);
            let read = MessageMeta::decode(&meta).expect("as it was written");
            prop_assert_eq!((&read.envelope, &read.states), (&envelope, &states));
            let mut meta = Vec::new();
            FinalMeta::encode_copy(WallTime(1), &[], &envelope, &states, &mut meta);
            let read = FinalMeta::decode(&meta).expect("as it was written");
            prop_assert_eq!((read.envelope, read.states), (envelope, states));
        }

        #[test]
        fn final_records_read_back(
            envelope in envelope(),
            extents in proptest::collection::vec(
                (any::<u16>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>()), 0..5),
        ) {
            let extents: Vec<RawExtent> = extents
                .into_iter()
                .map(|(core, number, generation, offset, bytes)| RawExtent {
                    lap: lap(core, number, generation),
                    offset,
                    bytes,
                    checksum: number,
                })
                .collect();
            let mut meta = Vec::new();
            FinalMeta::encode(WallTime(1), &extents, &envelope, &mut meta);
            let read = FinalMeta::decode(&meta).expect("as it was written");
            prop_assert_eq!(read.extents, extents);
            prop_assert_eq!(read.envelope, envelope);
        }

        #[test]
        fn outcomes_read_back(states in proptest::collection::vec((any::<u32>(), state()), 0..200)) {
            let outcome = Outcome { message: ID, recipients: states };
            let mut read = Vec::new();
            for meta in encode_outcome(&outcome) {
                prop_assert!(meta.len() <= OUTCOME_META_BYTES_MAX);
                read.extend(decode_outcome(ID, &meta).expect("as it was written").recipients);
            }
            prop_assert_eq!(read, outcome.recipients);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = SegmentHeader::decode(&bytes);
            let _ = MessageMeta::decode(&bytes);
            let _ = FinalMeta::decode(&bytes);
            let _ = decode_outcome(ID, &bytes);
            let _ = RecordView::decode(&bytes, 0);
            let _ = CommitHeader::decode(&bytes, &header(), 4096);
            // Past the version, so that the rest is reached, too.
            let versioned = [&[META_VERSION], &bytes[..]].concat();
            let _ = MessageMeta::decode(&versioned);
            let _ = FinalMeta::decode(&versioned);
            let _ = decode_outcome(ID, &versioned);
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..1000, bit in 0u32..8) {
            let whole = commit(&[&[7; 400], &[8; 432]]);
            let at = at % (COMMIT_HEADER_BYTES + 2 * 44 + 832);
            let mut bytes = whole.clone();
            bytes[at] ^= 1u8 << bit;
            let position = 4 * BLOCK_BYTES as u64;
            let found = CommitHeader::decode(&bytes, &header(), position);
            let all_whole = found
                .and_then(|found| found.records(&bytes).map(|records| {
                    records.iter().all(RecordView::is_whole)
                }))
                .unwrap_or(false);
            prop_assert!(!all_whole);
        }
    }

    #[test]
    fn a_damaged_body_costs_only_its_record() {
        let mut bytes = commit(&[&[7; 400], &[8; 432]]);
        bytes[COMMIT_HEADER_BYTES + 44 + 10] ^= 1;
        let found = CommitHeader::decode(&bytes, &header(), 4 * BLOCK_BYTES as u64).unwrap();
        let whole: Vec<bool> = found
            .records(&bytes)
            .unwrap()
            .iter()
            .map(RecordView::is_whole)
            .collect();
        assert_eq!(whole, [false, true]);
    }

    #[test]
    fn a_commit_is_believed_only_in_its_lap_and_place() {
        let bytes = commit(&[b"x"]);
        let at = 4 * BLOCK_BYTES as u64;
        let decode = |lap: &SegmentHeader, at| CommitHeader::decode(&bytes, lap, at).is_some();
        assert!(decode(&header(), at));
        assert!(!decode(&header(), at + BLOCK_BYTES as u64));
        let other_nonce = SegmentHeader {
            nonce: Nonce([8; 16]),
            ..header()
        };
        let later_lap = SegmentHeader {
            lap: lap(3, 9, 78),
            ..header()
        };
        let short = SegmentHeader {
            segment_bytes: at,
            ..header()
        };
        assert!(!decode(&other_nonce, at) && !decode(&later_lap, at) && !decode(&short, at));
    }

    #[test]
    fn segment_headers_read_back_and_survive_one_bad_copy() {
        let mut block = vec![1; BLOCK_BYTES];
        header().encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
        block[20] ^= 1;
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
        block[2048 + 20] ^= 1;
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Damaged));
        let blank = SegmentHeader::decode(&[0; BLOCK_BYTES]);
        assert_eq!(blank, Err(HeaderError::Blank));
    }

    #[test]
    fn a_newer_segment_is_told_from_a_damaged_one() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        for start in HEADER_COPIES {
            block[start + 8] = 9;
        }
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderError::Newer(9)));
    }

    #[test]
    fn a_header_torn_between_its_copies_is_the_newer_one() {
        let mut block = vec![0; BLOCK_BYTES];
        let mut next = vec![0; BLOCK_BYTES];
        let later = SegmentHeader {
            lap: lap(3, 9, 78),
            ..header()
        };
        header().encode(&mut block);
        later.encode(&mut next);
        block[2048..2560].copy_from_slice(&next[2048..2560]);
        assert_eq!(SegmentHeader::decode(&block), Ok(later));
    }

    #[test]
    fn segment_names_read_back() {
        let id = SegmentId {
            core: 0x1f,
            number: 0xabc,
        };
        assert_eq!(id.file_name(), "001f-00000abc.seg");
        assert_eq!(SegmentId::from_file_name(&id.file_name()), Some(id));
        for other in [
            "001f-abc.seg",
            "001F-00000abc.seg",
            "001f-00000abc.seg.bad",
            "x",
        ] {
            assert_eq!(SegmentId::from_file_name(other), None);
        }
    }

    #[test]
    fn forgotten_bounds_are_kept_at_the_last_moment() {
        let diagnosis = Diagnosis {
            status: EnhancedStatus::new(5, 0, 0),
            text: "é".repeat(3000).into(),
            remote_host: "h".repeat(9000).into(),
        };
        let outcome = Outcome {
            message: ID,
            recipients: (0..100)
                .map(|r| {
                    let last = Some(diagnosis.clone());
                    let due = WallTime(0);
                    (
                        r,
                        RecipientState::Waiting {
                            attempts: 1,
                            due,
                            last,
                        },
                    )
                })
                .collect(),
        };
        let metas = encode_outcome(&outcome);
        assert!(metas.len() > 1);
        assert!(
            metas
                .iter()
                .all(|meta| meta.len() <= OUTCOME_META_BYTES_MAX)
        );
        let read: usize = metas
            .iter()
            .map(|meta| decode_outcome(ID, meta).unwrap().recipients.len())
            .sum();
        assert_eq!(read, 100);
    }
}
