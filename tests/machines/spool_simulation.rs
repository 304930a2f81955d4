//! The spool's pure machines against a disk that crashes, tears, reorders and fails.
//!
//! A simulated host has several cores, each with two commit machines and two books, over one disk
//! in memory. Everything random comes from one seed. A crash applies any subset of the sectors of
//! the writes in flight. After each, the scan's findings are held against what was promised.
//!
//! `RINGPOST_SIMULATION_SEED=n` replays one seed, `RINGPOST_SIMULATION_SEEDS=n` runs more of them.

#[path = "../support/simulated/mod.rs"]
mod simulated;

mod damage;

use ringpost::io::buffer::{AlignedBuf, BLOCK_BYTES};
use ringpost::message::{Envelope, Mailbox, MessageId, Recipient};
use ringpost::schedule::outcome::{Diagnosis, Outcome, RecipientState, ReportKind};
use ringpost::smtp::reply::EnhancedStatus;
use ringpost::spool::format::{
    CommitHeader, FinalMeta, Generation, Kind, MessageMeta, Nonce, RawExtent, Record,
    SegmentHeader, SegmentId, Usage, encode_outcome,
};
use ringpost::spool::live::liveness::{MessageLiveness, OutcomeLiveness};
use ringpost::spool::location::place::Part;
use ringpost::spool::location::progress::RecipientProgress;
use ringpost::spool::log::commit::{
    AfterFailure, Head, IN_FLIGHT_MAX, Machine, Release, Stored, WriteFailed,
};
use ringpost::spool::recovery::{Condition, LogScan, ScannedSegment, scan_logs};
use ringpost::time::WallTime;
use simulated::disk::VirtualDisk;
use simulated::random::Random;
use simulated::seeds;
use std::collections::{BTreeMap, BTreeSet};

const SEGMENT_BYTES: u64 = 64 * 1024;
const STAGING_BYTES: usize = 16 * 1024;
const SEEDS: u64 = 200;

/// What was promised about one message, and what was tried.
struct Truth {
    envelope: Envelope,
    body: Vec<u8>,
    /// The sender has its 250.
    released: bool,
    /// By recipient: what is known to be durable, and all that was ever written.
    durable: Vec<RecipientState>,
    tried: Vec<Vec<RecipientState>>,
    /// Where it lies, and with which snapshot it came there.
    parts: Vec<Part>,
    snapshot: u32,
    standing: RecipientProgress,
    home: usize,
    busy: bool,
    moving: bool,
}

impl Truth {
    fn may_be_finished(&self) -> bool {
        self.tried
            .iter()
            .all(|tried| tried.contains(&RecipientState::Finished))
    }

    fn is_finished(&self) -> bool {
        self.durable.iter().all(RecipientState::is_finished)
    }
}

enum Ticket {
    Message(MessageId, Vec<RawExtent>),
    /// With the number of the assembly that it belongs to.
    Chunk(MessageId, u64),
    Outcome(Lean),
    Copy(Copy),
}

/// An outcome, and what it leans on.
struct Lean {
    outcome: Outcome,
    generations: Vec<Generation>,
    is_covered: bool,
}

/// A copy of a message on its way.
struct Copy {
    id: MessageId,
    from: Vec<Part>,
    snapshot: u32,
    chunks: Vec<RawExtent>,
}

/// Segments that a message is in, and about how many bytes in each.
fn parts_of(chunks: &[RawExtent], stored: &Stored<Generation>) -> Vec<Part> {
    let mut parts: BTreeMap<Generation, u64> = BTreeMap::new();
    for extent in chunks {
        *parts.entry(extent.generation).or_default() += u64::from(extent.bytes);
    }
    *parts.entry(*stored.segment()).or_default() += u64::from(stored.body_bytes());
    parts.into_iter().collect()
}

fn generations_of(parts: &[Part]) -> Vec<Generation> {
    parts.iter().map(|(generation, _)| *generation).collect()
}

/// Copies say less of a deferred recipient than outcomes do.
fn without_reason(state: &RecipientState) -> RecipientState {
    match state {
        RecipientState::Waiting { attempts, due, .. } => RecipientState::Waiting {
            attempts: *attempts,
            due: *due,
            last: None,
        },
        state => state.clone(),
    }
}

struct Core {
    messages: Machine<Generation, Ticket>,
    outcomes: Machine<Generation, Ticket>,
    message_book: MessageLiveness,
    outcome_book: OutcomeLiveness,
    free: Vec<Generation>,
    next_number: u32,
    preparing: BTreeSet<Usage>,
    retiring: BTreeSet<Generation>,
    next_sequence: u64,
}

impl Core {
    fn new(next_number: u32) -> Self {
        let machine = |after| Machine::new(STAGING_BYTES, IN_FLIGHT_MAX, after);
        Core {
            messages: machine(AfterFailure::Fail),
            outcomes: machine(AfterFailure::WriteAgain),
            message_book: MessageLiveness::default(),
            outcome_book: OutcomeLiveness::default(),
            free: Vec::new(),
            next_number,
            preparing: BTreeSet::new(),
            retiring: BTreeSet::new(),
            next_sequence: 0,
        }
    }

    fn machine(&mut self, usage: Usage) -> &mut Machine<Generation, Ticket> {
        match usage {
            Usage::Outcomes => &mut self.outcomes,
            _ => &mut self.messages,
        }
    }
}

enum Work {
    Commit {
        usage: Usage,
        number: u64,
    },
    Begin {
        usage: Usage,
        header: SegmentHeader,
    },
    End {
        usage: Usage,
        generation: Generation,
        free: Generation,
    },
}

/// A write on its way to the disk.
struct Pending {
    core: usize,
    work: Work,
    segment: SegmentId,
    position: u64,
    length: usize,
    buffer: AlignedBuf,
}

/// A large message whose chunks are being written.
struct Assembly {
    number: u64,
    /// It is a copy of one that lies here.
    from: Option<Vec<Part>>,
    core: usize,
    pieces: Vec<Vec<u8>>,
    next: usize,
    waiting: usize,
    extents: Vec<RawExtent>,
}

/// Ways in which the simulation itself is made wrong, to see that it notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Canary {
    None,
    /// The disk says yes to a commit of messages and writes nothing.
    DropsMessages,
    /// The same with outcomes.
    DropsOutcomes,
    /// Senders know the nonce.
    NonceLeaks,
    /// Outcomes are let go when a retirement is begun, not when it is durable.
    SendsNotesEarly,
    /// A segment is used again with the nonce and generation it had.
    RepeatsLaps,
    /// Outcome segments go without waiting for their messages.
    ForgetsOutcomesEarly,
    /// A moved message leaves its segment when its copy is begun, not when that is durable.
    LeavesEarly,
    /// Copies take no states along.
    CopiesForget,
    /// Outcomes are let go with the first segment, as if every copy had them.
    CoversTooMuch,
    /// A copy's segment may go before the original's.
    IgnoresHolds,
}

/// A message segment is gone: told by one core to another.
#[derive(Clone)]
struct Notice {
    from: usize,
    to: usize,
    generation: Generation,
    moved_to: Vec<Generation>,
}

struct Simulation {
    random: Random,
    canary: Canary,
    disk: VirtualDisk,
    run: u32,
    cores: Vec<Core>,
    pending: Vec<Pending>,
    notes: Vec<Notice>,
    pins: BTreeMap<Generation, usize>,
    bad: BTreeSet<Generation>,
    truths: BTreeMap<MessageId, Truth>,
    assemblies: BTreeMap<MessageId, Assembly>,
    /// All generations that were begun in this run.
    headers: BTreeMap<Generation, SegmentHeader>,
    /// Where each core's message log goes on, as a sender with very good eyes may know.
    tails: BTreeMap<usize, (Generation, u64)>,
    log_sequence: u64,
    /// How soon recipients are finished, and how often anything is done about them.
    patience: usize,
    outcome_weight: usize,
    /// One write of commits in so many fails.
    write_luck: usize,
    promised: u64,
    holes: u64,
    torn: u64,
    retired: u64,
    assembled: u64,
    moved: u64,
    duplicates: u64,
    /// Moves whose message was finished before, and whose write failed.
    overtaken: u64,
    doubtful: u64,
}

type Verdict = Result<(), String>;

impl Simulation {
    fn new(seed: u64, canary: Canary) -> Self {
        Simulation {
            random: Random(seed),
            canary,
            disk: VirtualDisk::default(),
            run: 0,
            cores: Vec::new(),
            pending: Vec::new(),
            notes: Vec::new(),
            pins: BTreeMap::new(),
            bad: BTreeSet::new(),
            truths: BTreeMap::new(),
            assemblies: BTreeMap::new(),
            headers: BTreeMap::new(),
            tails: BTreeMap::new(),
            log_sequence: 0,
            patience: 4,
            outcome_weight: 3,
            write_luck: 60,
            promised: 0,
            holes: 0,
            torn: 0,
            retired: 0,
            assembled: 0,
            moved: 0,
            duplicates: 0,
            overtaken: 0,
            doubtful: 0,
        }
    }

    /// Several runs, each ended by a crash.
    fn play(&mut self) -> Verdict {
        for _ in 0..4 {
            self.start()?;
            self.patience = 3 + self.random.below(20);
            self.outcome_weight = 2 + self.random.below(5);
            self.write_luck = [60, 60, 60, 10][self.random.below(4)];
            for _ in 0..200 + self.random.below(1200) {
                self.step();
            }
            self.crash();
        }
        let found = self.look()?;
        self.check(&found)
    }

    fn look(&mut self) -> Result<LogScan, String> {
        scan_logs(&mut self.disk).map_err(|error| format!("{error:?}"))
    }

    // ---- a run ----

    fn step(&mut self) {
        let core = self.random.below(self.cores.len());
        match self.random.below(15 + self.outcome_weight) {
            0..3 => self.append(core),
            3 => self.begin_large(core),
            4 => self.continue_large(),
            5 | 6 => self.write(core, Usage::Messages),
            7 | 8 => self.write(core, Usage::Outcomes),
            9..12 => self.complete(),
            12 => {
                self.retire(core);
                self.deliver_note();
                self.deliver_note();
            }
            13 | 14 => self.begin_move(core),
            _ => self.outcome(core),
        }
        for usage in [Usage::Messages, Usage::Outcomes] {
            self.prepare(core, usage);
        }
    }

    fn new_id(&mut self, core: usize) -> MessageId {
        let sequence = self.cores[core].next_sequence;
        self.cores[core].next_sequence += 1;
        MessageId {
            run: self.run,
            core: core as u16,
            sequence,
        }
    }

    fn envelope(&mut self) -> Envelope {
        let count = 1 + self.random.below(3);
        Envelope {
            reverse_path: (!self.random.one_in(4)).then(|| Mailbox::new("s", "a.test")),
            recipients: (0..count)
                .map(|n| Recipient::new(Mailbox::new(&format!("r{n}"), "b.test")))
                .collect(),
            ..Envelope::default()
        }
    }

    fn append(&mut self, core: usize) {
        let id = self.new_id(core);
        let envelope = self.envelope();
        let mut meta = Vec::new();
        MessageMeta::encode(WallTime(id.sequence), &envelope, &mut meta);
        let body = self.body(core, meta.len());
        let record = Record {
            kind: Kind::Message,
            id,
            meta: &meta,
            body: &body,
        };
        let ticket = Ticket::Message(id, Vec::new());
        let taken = self.cores[core].messages.append(&record, ticket);
        if taken.is_ok() {
            self.remember(id, envelope, body, core);
        }
    }

    fn remember(&mut self, id: MessageId, envelope: Envelope, body: Vec<u8>, home: usize) {
        let recipients = envelope.recipients.len();
        let truth = Truth {
            envelope,
            body,
            released: false,
            durable: vec![RecipientState::fresh(); recipients],
            tried: vec![Vec::new(); recipients],
            parts: Vec::new(),
            snapshot: 0,
            standing: RecipientProgress::fresh(recipients),
            home,
            busy: false,
            moving: false,
        };
        self.truths.insert(id, truth);
    }

    /// Random bytes, or an attack: forged commits where a block of the disk will start.
    fn body(&mut self, core: usize, meta_bytes: usize) -> Vec<u8> {
        let bytes = self.random.below(6000);
        if !self.random.one_in(3) {
            return self.random.bytes(bytes);
        }
        let waiting = self.cores[core].messages.waiting_bytes().max(64);
        let start = waiting + 40 + meta_bytes;
        let aligned = start.next_multiple_of(BLOCK_BYTES);
        let mut body = vec![b'x'; aligned - start];
        for block in 0..1 + self.random.below(2) {
            body.extend(self.forgery(core, aligned + block * BLOCK_BYTES));
        }
        body
    }

    /// A block that looks like a commit of ours: an old one copied, or one made up.
    fn forgery(&mut self, core: usize, offset: usize) -> Vec<u8> {
        let Some((generation, tail)) = self.tails.get(&core).copied() else {
            return vec![0; BLOCK_BYTES];
        };
        let head = &self.headers[&generation];
        let segments: Vec<SegmentId> = self.disk.segments.keys().copied().collect();
        if self.random.one_in(2) && self.canary != Canary::NonceLeaks {
            let segment = segments[self.random.below(segments.len())];
            let start = self.random.below(16) * BLOCK_BYTES;
            let copied = &self.disk.segments[&segment][start..start + BLOCK_BYTES];
            // Spools do not leak blocks with a live nonce to senders; older generations they may know.
            let mut copied = copied.to_vec();
            copied[8..24].fill(7);
            return copied;
        }
        let nonce = match self.canary {
            Canary::NonceLeaks => head.nonce,
            _ => Nonce([0; 16]),
        };
        let mut block = vec![0; BLOCK_BYTES];
        let mut meta = Vec::new();
        let forged = Envelope {
            recipients: vec![Recipient::new(Mailbox::new("victim", "c.test"))],
            ..Envelope::default()
        };
        MessageMeta::encode(WallTime(1), &forged, &mut meta);
        let record = Record {
            kind: Kind::Message,
            id: MessageId {
                run: self.run,
                core: 77,
                sequence: self.random.next(),
            },
            meta: &meta,
            body: b"forged",
        };
        let sums = record.encode(&mut block[64..]);
        let header = CommitHeader {
            nonce,
            generation: head.generation.number,
            block: ((tail as usize + offset) / BLOCK_BYTES) as u32,
            sequence: 1,
            payload_bytes: record.bytes() as u32,
            record_count: 1,
            previous: 0,
        };
        header.encode(ringpost::spool::format::sum_head(0, sums.head), &mut block);
        block
    }

    fn begin_large(&mut self, core: usize) {
        if self.assemblies.len() > 3 {
            return;
        }
        let id = self.new_id(core);
        let envelope = self.envelope();
        let mut pieces = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let bytes = self.random.below(6000);
            pieces.push(self.random.bytes(bytes));
        }
        self.remember(id, envelope, pieces.concat(), core);
        self.assemble(id, core, pieces, None);
    }

    fn assemble(
        &mut self,
        id: MessageId,
        core: usize,
        pieces: Vec<Vec<u8>>,
        from: Option<Vec<Part>>,
    ) {
        self.assembled += 1;
        let assembly = Assembly {
            number: self.assembled,
            from,
            core,
            pieces,
            next: 0,
            waiting: 0,
            extents: Vec::new(),
        };
        self.assemblies.insert(id, assembly);
    }

    fn continue_large(&mut self) {
        let ids: Vec<MessageId> = self.assemblies.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.below(ids.len())];
        let assembly = self.assemblies.get_mut(&id).expect("listed");
        let machine = &mut self.cores[assembly.core].messages;
        if let Some(piece) = assembly.pieces.get(assembly.next) {
            let record = Record {
                kind: Kind::Chunk,
                id,
                meta: &(assembly.next as u32).to_le_bytes(),
                body: piece,
            };
            if machine
                .append(&record, Ticket::Chunk(id, assembly.number))
                .is_ok()
            {
                assembly.next += 1;
                assembly.waiting += 1;
            }
        } else if assembly.waiting == 0 && assembly.from.is_some() {
            self.end_large_move(id);
        } else if assembly.waiting == 0 {
            let mut meta = Vec::new();
            let envelope = &self.truths[&id].envelope;
            FinalMeta::encode(WallTime(5), &assembly.extents, envelope, &mut meta);
            let record = Record {
                kind: Kind::Final,
                id,
                meta: &meta,
                body: &[],
            };
            let ticket = Ticket::Message(id, assembly.extents.clone());
            if machine.append(&record, ticket).is_ok() {
                self.assemblies.remove(&id);
            }
        }
    }

    // ---- moving ----

    /// The home moves a message out of a segment.
    fn begin_move(&mut self, core: usize) {
        // Segments that are fuller than is worthwhile, too.
        let segment_bytes = SEGMENT_BYTES * (1 + self.random.below(3) as u64);
        let scarce = self.random.one_in(2);
        let book = &self.cores[core].message_book;
        let Some(generation) = book.candidate(segment_bytes, segment_bytes, scarce) else {
            return;
        };
        let mut cursor = 0;
        let live: Vec<MessageId> =
            std::iter::from_fn(|| book.next_to_move(generation, &mut cursor).expect("few"))
                .filter(|id| !self.truths[id].moving)
                .collect();
        if live.is_empty() {
            return;
        }
        let id = live[self.random.below(live.len())];
        let truth = &self.truths[&id];
        let (from, body) = (truth.parts.clone(), truth.body.clone());
        if self.canary == Canary::LeavesEarly && truth.busy {
            return;
        }
        if body.len() < 8000 && !self.random.one_in(4) {
            return self.move_whole(id, from, &body);
        }
        self.pin(&generations_of(&from));
        self.truths.get_mut(&id).expect("it is there").moving = true;
        let most = 1 + self.random.below(6000);
        let pieces = body.chunks(most.max(1000)).map(<[u8]>::to_vec).collect();
        self.assemble(id, core, pieces, Some(from));
    }

    fn move_whole(&mut self, id: MessageId, from: Vec<Part>, body: &[u8]) {
        let Some((snapshot, states)) = self.snapshot(id) else {
            return;
        };
        let truth = &self.truths[&id];
        let mut meta = Vec::new();
        MessageMeta::encode_copy(WallTime(5), &truth.envelope, &states, &mut meta);
        let record = Record {
            kind: Kind::Message,
            id,
            meta: &meta,
            body,
        };
        self.pin(&generations_of(&from));
        self.put_copy(&record, from, snapshot, Vec::new());
    }

    fn end_large_move(&mut self, id: MessageId) {
        let assembly = self.assemblies.remove(&id).expect("it is there");
        let from = assembly.from.expect("it is a move");
        let Some((snapshot, states)) = self.snapshot(id) else {
            self.truths.get_mut(&id).expect("it is there").moving = false;
            self.unpin(&generations_of(&from));
            return assembly
                .extents
                .iter()
                .for_each(|e| self.unpin(&[e.generation]));
        };
        let mut meta = Vec::new();
        let envelope = &self.truths[&id].envelope;
        FinalMeta::encode_copy(WallTime(5), &assembly.extents, envelope, &states, &mut meta);
        let record = Record {
            kind: Kind::Final,
            id,
            meta: &meta,
            body: &[],
        };
        self.put_copy(&record, from, snapshot, assembly.extents);
    }

    /// `None`: nobody is left to move it for.
    fn snapshot(&self, id: MessageId) -> Option<(u32, Vec<(u32, RecipientState)>)> {
        let snapshot = self.truths[&id].standing.snapshot();
        let states = match self.canary {
            Canary::CopiesForget => Vec::new(),
            _ => snapshot.states,
        };
        (!snapshot.is_finished).then_some((snapshot.number, states))
    }

    /// `from` is pinned; so it stays until the copy is released, or it is not taken.
    fn put_copy(
        &mut self,
        record: &Record<'_>,
        from: Vec<Part>,
        snapshot: u32,
        chunks: Vec<RawExtent>,
    ) {
        let id = record.id;
        let truth = self.truths.get_mut(&id).expect("it is there");
        let copy = Copy {
            id,
            from,
            snapshot,
            chunks,
        };
        let core = &mut self.cores[truth.home];
        match core.messages.append(record, Ticket::Copy(copy)) {
            Ok(()) => {
                truth.moving = true;
                if self.canary == Canary::LeavesEarly && !truth.busy {
                    truth.busy = true;
                    core.message_book.finished(id);
                    let generations = generations_of(&truth.parts);
                    self.unpin(&generations);
                }
            }
            Err((Ticket::Copy(copy), _)) => {
                truth.moving = false;
                self.unpin(&generations_of(&copy.from));
                copy.chunks.iter().for_each(|e| self.unpin(&[e.generation]));
            }
            Err(_) => unreachable!("it was a copy"),
        }
    }

    fn copy_released(
        &mut self,
        copy: Copy,
        result: Result<Stored<Generation>, WriteFailed<Generation>>,
    ) {
        let Copy {
            id,
            from,
            snapshot,
            chunks,
        } = copy;
        for extent in &chunks {
            self.unpin(&[extent.generation]);
        }
        let truth = self.truths.get_mut(&id).expect("it is there");
        truth.moving = false;
        let book = &mut self.cores[truth.home].message_book;
        if self.canary == Canary::LeavesEarly && !book.is_live(id) {
            truth.busy = false;
            if let Ok(stored) = result {
                truth.parts = parts_of(&chunks, &stored);
            }
            return book.stored(id, &truth.parts, 1);
        }
        match result {
            Ok(stored) => {
                self.moved += 1;
                let to = parts_of(&chunks, &stored);
                if book.moved(id, &from, &to, 1) {
                    truth.parts = to;
                    truth.snapshot = snapshot;
                } else {
                    self.overtaken += 1;
                }
                if self.canary == Canary::IgnoresHolds {
                    from.iter()
                        .for_each(|(generation, _)| book.retired_elsewhere(*generation));
                }
            }
            Err(WriteFailed {
                segment: Some(segment),
            }) => {
                self.doubtful += 1;
                if book.note_uncertain_copy(id, &from, segment, 1) {
                    truth.parts.push((segment, 0));
                    truth.snapshot = snapshot;
                }
            }
            Err(_) => {}
        }
        self.unpin(&generations_of(&from));
    }

    fn pin(&mut self, generations: &[Generation]) {
        for generation in generations {
            *self.pins.entry(*generation).or_default() += 1;
        }
    }

    /// A delivery core, any, gets somewhere with a message.
    fn outcome(&mut self, core: usize) {
        let open: Vec<MessageId> = self
            .truths
            .iter()
            .filter(|(_, truth)| truth.released && !truth.busy && !truth.is_finished())
            .map(|(id, _)| *id)
            .collect();
        if open.is_empty() {
            return;
        }
        // Mostly the oldest, so that segments come to their end.
        let among = match self.random.one_in(4) {
            true => open.len(),
            false => open.len().min(6),
        };
        // News of a message that is just being moved are the hardest to keep.
        let moving: Vec<MessageId> = open
            .iter()
            .copied()
            .filter(|id| self.truths[id].moving)
            .collect();
        let id = match moving.is_empty() || self.random.one_in(2) {
            true => open[self.random.below(among)],
            false => moving[self.random.below(moving.len())],
        };
        let durable = self.truths[&id].durable.clone();
        let mut recipients = Vec::new();
        for (index, state) in durable.into_iter().enumerate() {
            if !state.is_finished() && !self.random.one_in(3) {
                recipients.push((index as u32, self.further(&state)));
            }
        }
        if recipients.is_empty() {
            return;
        }
        let outcome = Outcome {
            message: id,
            recipients,
        };
        let metas = encode_outcome(&outcome);
        assert_eq!(metas.len(), 1);
        let record = Record {
            kind: Kind::Outcome,
            id,
            meta: &metas[0],
            body: &[],
        };
        let truth = self.truths.get_mut(&id).expect("it is open");
        // Nothing can happen between this and taking note.
        let began = truth.standing.note(&[]);
        let generations = generations_of(&truth.parts);
        let ticket = Ticket::Outcome(Lean {
            outcome: outcome.clone(),
            generations: generations.clone(),
            is_covered: began <= truth.snapshot || self.canary == Canary::CoversTooMuch,
        });
        if self.cores[core].outcomes.append(&record, ticket).is_ok() {
            truth.standing.note(&outcome.recipients);
            truth.busy = true;
            for (index, state) in outcome.recipients {
                truth.tried[index as usize].push(state);
            }
            self.pin(&generations);
        }
    }

    fn further(&mut self, state: &RecipientState) -> RecipientState {
        let diagnosis = Diagnosis {
            status: EnhancedStatus::new(4, 2, 0),
            text: "450 later".into(),
            remote_host: "mx.b.test".into(),
        };
        let due = WallTime(self.random.next());
        match (state, self.random.below(self.patience)) {
            (_, 2..) => RecipientState::Finished,
            (RecipientState::Waiting { attempts, .. }, 0) => RecipientState::Waiting {
                attempts: attempts + 1,
                due,
                last: Some(diagnosis),
            },
            (RecipientState::ReportOwed { attempts, .. }, _) => RecipientState::ReportOwed {
                kind: ReportKind::Failed,
                diagnosis,
                attempts: attempts + 1,
                due,
            },
            _ => RecipientState::ReportOwed {
                kind: ReportKind::Failed,
                diagnosis,
                attempts: 0,
                due,
            },
        }
    }

    fn write(&mut self, core: usize, usage: Usage) {
        let Some(write) = self.cores[core].machine(usage).next_write() else {
            return;
        };
        if usage == Usage::Messages {
            let tail = write.position + write.length as u64;
            self.tails.insert(core, (write.segment, tail));
        }
        self.pending.push(Pending {
            core,
            work: Work::Commit {
                usage,
                number: write.number,
            },
            segment: write.segment.segment,
            position: write.position,
            length: write.length,
            buffer: write.buffer,
        });
    }

    /// Any of the writes in flight ends, well or badly.
    fn complete(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let pending = self.pending.remove(self.random.below(self.pending.len()));
        let bytes = &pending.buffer[..pending.length];
        let (segment, position) = (pending.segment, pending.position);
        let Work::Commit { usage, number } = pending.work else {
            self.disk.write(segment, position, bytes);
            return self.header_written(pending.core, pending.work);
        };
        let ok = !self.random.one_in(self.write_luck);
        let dropped = match self.canary {
            Canary::DropsMessages => usage == Usage::Messages && self.random.one_in(20),
            Canary::DropsOutcomes => usage == Usage::Outcomes && self.random.one_in(20),
            _ => false,
        };
        match ok {
            true if dropped => {}
            true => self.disk.write(segment, position, bytes),
            false => self
                .disk
                .write_torn(&mut self.random, segment, position, bytes),
        }
        let mut releases = Vec::new();
        let machine = self.cores[pending.core].machine(usage);
        machine.write_done(number, ok, pending.buffer, &mut releases);
        let sealed = machine.take_sealed();
        if !ok {
            self.bad.extend(self.generation_of(segment));
        }
        for release in releases {
            self.release(pending.core, release);
        }
        for generation in sealed {
            match usage {
                Usage::Outcomes => self.cores[pending.core].outcome_book.sealed(generation),
                _ => self.cores[pending.core].message_book.sealed(generation),
            }
        }
    }

    fn generation_of(&self, segment: SegmentId) -> Option<Generation> {
        let header = SegmentHeader::decode(&self.disk.segments[&segment][..BLOCK_BYTES]).ok()?;
        Some(header.generation)
    }

    fn release(&mut self, core: usize, release: Release<Generation, Ticket>) {
        match (release.ticket, release.result) {
            (Ticket::Copy(copy), result) => self.copy_released(copy, result),
            (Ticket::Message(id, extents), Ok(stored)) => {
                let parts = parts_of(&extents, &stored);
                for extent in &extents {
                    self.unpin(&[extent.generation]);
                }
                self.cores[core].message_book.stored(id, &parts, 1);
                let truth = self.truths.get_mut(&id).expect("remembered");
                truth.released = true;
                truth.parts = parts;
                self.promised += 1;
            }
            (Ticket::Message(_, extents), Err(_)) => {
                for extent in extents {
                    self.unpin(&[extent.generation]);
                }
            }
            (Ticket::Chunk(id, number), stored) => self.chunk_released(id, number, stored.ok()),
            (Ticket::Outcome(lean), stored) => {
                let stored = stored.expect("outcomes are written again");
                self.outcome_released(core, lean, *stored.segment());
            }
        }
    }

    fn chunk_released(&mut self, id: MessageId, number: u64, stored: Option<Stored<Generation>>) {
        let assembly = self.assemblies.get_mut(&id);
        let Some(assembly) = assembly.filter(|assembly| assembly.number == number) else {
            return;
        };
        let Some(stored) = stored else {
            let assembly = self.assemblies.remove(&id).expect("just seen");
            for extent in assembly.extents {
                self.unpin(&[extent.generation]);
            }
            if let Some(from) = assembly.from {
                self.truths.get_mut(&id).expect("it is there").moving = false;
                self.unpin(&generations_of(&from));
            }
            return;
        };
        assembly.waiting -= 1;
        assembly.extents.push(RawExtent {
            generation: *stored.segment(),
            offset: stored.body_offset(),
            bytes: stored.body_bytes(),
            checksum: stored.body_checksum(),
        });
        *self.pins.entry(*stored.segment()).or_default() += 1;
    }

    fn unpin(&mut self, generations: &[Generation]) {
        for generation in generations {
            *self.pins.get_mut(generation).expect("it was pinned") -= 1;
        }
    }

    fn outcome_released(&mut self, core: usize, lean: Lean, generation: Generation) {
        let Lean {
            outcome,
            generations,
            is_covered,
        } = lean;
        let truth = self.truths.get_mut(&outcome.message).expect("open");
        truth.busy = false;
        for (index, state) in outcome.recipients {
            truth.durable[index as usize].merge(state);
        }
        let (home, finished) = (truth.home, truth.is_finished());
        let book = &mut self.cores[core].outcome_book;
        book.refers(generation, &generations, is_covered);
        self.unpin(&generations);
        if finished {
            let known = self.cores[home].message_book.finished(outcome.message);
            assert!(known, "it was alive");
        }
    }

    /// Keeps a spare for each log.
    fn prepare(&mut self, core: usize, usage: Usage) {
        let at = &mut self.cores[core];
        if at.machine(usage).spares() > 0 || !at.preparing.insert(usage) {
            return;
        }
        let last = match self.random.below(4) {
            0 => None,
            _ => self.cores[core].free.pop(),
        };
        let last = last.unwrap_or_else(|| self.create(core));
        self.log_sequence += 1;
        let nonce = self.random.bytes(16).try_into().expect("16 bytes");
        let generation = (last.number + 1).max(u64::from(self.run) << 32);
        let (generation, nonce) = match self.canary {
            Canary::RepeatsLaps => (1, [1; 16]),
            _ => (generation, nonce),
        };
        let header = SegmentHeader {
            generation: Generation {
                segment: last.segment,
                number: generation,
            },
            usage,
            core: core as u16,
            run: self.run,
            log_sequence: self.log_sequence,
            segment_bytes: SEGMENT_BYTES,
            nonce: Nonce(nonce),
        };
        self.write_header(
            core,
            &header,
            Work::Begin {
                usage,
                header: header.clone(),
            },
        );
    }

    fn create(&mut self, core: usize) -> Generation {
        let number = self.cores[core].next_number;
        self.cores[core].next_number += 1;
        let segment = SegmentId {
            core: core as u16,
            number,
        };
        self.disk.create(segment, SEGMENT_BYTES);
        Generation { segment, number: 0 }
    }

    fn write_header(&mut self, core: usize, header: &SegmentHeader, work: Work) {
        let mut buffer = AlignedBuf::new(BLOCK_BYTES);
        header.encode(&mut buffer);
        self.pending.push(Pending {
            core,
            work,
            segment: header.generation.segment,
            position: 0,
            length: BLOCK_BYTES,
            buffer,
        });
    }

    fn header_written(&mut self, core: usize, work: Work) {
        match work {
            Work::Begin { usage, header } => {
                let at = &mut self.cores[core];
                at.preparing.remove(&usage);
                match usage {
                    Usage::Outcomes => at.outcome_book.opened(header.generation),
                    _ => at.message_book.opened(header.generation),
                }
                at.machine(usage).supply(Head {
                    segment: header.generation,
                    nonce: header.nonce,
                    generation: header.generation.number,
                    segment_bytes: SEGMENT_BYTES,
                });
                self.headers.insert(header.generation, header);
            }
            Work::End {
                usage,
                generation,
                free,
            } => {
                self.cores[core].free.push(free);
                self.segment_gone(core, usage, generation);
            }
            Work::Commit { .. } => unreachable!("no header"),
        }
    }

    fn segment_gone(&mut self, core: usize, usage: Usage, generation: Generation) {
        self.retired += 1;
        self.cores[core].retiring.remove(&generation);
        if usage == Usage::Outcomes {
            if self.canary != Canary::ForgetsOutcomesEarly {
                self.cores[core].outcome_book.retired(generation);
            }
            return;
        }
        let moved_to = self.cores[core].message_book.retired(generation);
        self.send_notes(core, generation, &moved_to);
    }

    fn send_notes(&mut self, from: usize, generation: Generation, moved_to: &[Generation]) {
        for to in 0..self.cores.len() {
            let moved_to = moved_to.to_vec();
            self.notes.push(Notice {
                from,
                to,
                generation,
                moved_to,
            });
        }
    }

    fn deliver_note(&mut self) {
        // Notes of one core arrive in order on another; over all cores any order will do.
        if self.notes.is_empty() {
            return;
        }
        let Notice { from, to, .. } = self.notes[self.random.below(self.notes.len())];
        let first = self
            .notes
            .iter()
            .position(|other| other.from == from && other.to == to);
        let Notice {
            generation,
            moved_to,
            ..
        } = self.notes.remove(first.expect("it is there"));
        let core = &mut self.cores[to];
        core.outcome_book
            .message_segment_retired(generation, &moved_to);
        core.message_book.retired_elsewhere(generation);
    }

    fn retire(&mut self, core: usize) {
        let at = &self.cores[core];
        let pinned =
            |generation: &Generation| self.pins.get(generation).is_some_and(|count| *count > 0);
        let mut idle: Vec<(Usage, Generation)> = at
            .message_book
            .idle()
            .filter(|generation| !pinned(generation))
            .map(|generation| (Usage::Messages, generation))
            .collect();
        idle.extend(
            at.outcome_book
                .idle()
                .map(|generation| (Usage::Outcomes, generation)),
        );
        if self.canary == Canary::ForgetsOutcomesEarly {
            idle.extend(self.full_outcome_segments(core));
        }
        for (usage, generation) in idle {
            if !self.cores[core].retiring.insert(generation) {
                continue;
            }
            if self.bad.contains(&generation) {
                self.disk.segments.remove(&generation.segment);
                self.segment_gone(core, usage, generation);
                continue;
            }
            let free = Generation {
                segment: generation.segment,
                number: generation.number + 1,
            };
            let header = free_header(free, self.run);
            if self.canary == Canary::SendsNotesEarly && usage == Usage::Messages {
                self.send_notes(core, generation, &[]);
            }
            self.write_header(
                core,
                &header,
                Work::End {
                    usage,
                    generation,
                    free,
                },
            );
        }
    }

    fn full_outcome_segments(&self, core: usize) -> Vec<(Usage, Generation)> {
        let is_old = |header: &SegmentHeader| {
            header.usage == Usage::Outcomes
                && header.run < self.run
                && usize::from(header.core) % self.cores.len() == core
        };
        self.disk
            .segments
            .values()
            .filter_map(|content| SegmentHeader::decode(&content[..BLOCK_BYTES]).ok())
            .filter(is_old)
            .map(|header| (Usage::Outcomes, header.generation))
            .collect()
    }

    // ---- between runs ----

    fn crash(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            let bytes = &pending.buffer[..pending.length];
            self.disk
                .write_torn(&mut self.random, pending.segment, pending.position, bytes);
        }
        self.cores.clear();
        self.notes.clear();
        self.pins.clear();
        self.bad.clear();
        self.assemblies.clear();
        self.headers.clear();
        self.tails.clear();
    }

    /// What `spool::open` does; a crash may come at any of its writes.
    fn start(&mut self) -> Verdict {
        let found = loop {
            let found = self.look()?;
            self.check(&found)?;
            if self.let_go(&found) {
                break found;
            }
        };
        self.holes += found.report.holes;
        self.torn += found.report.torn;
        self.duplicates += found.report.duplicates;
        self.run += 1;
        let cores = 1 + self.random.below(3);
        for core in 0..cores {
            let numbers = self.disk.segments.keys();
            let next_number = numbers
                .filter(|id| usize::from(id.core) == core)
                .map(|id| id.number + 1)
                .max()
                .unwrap_or(0);
            self.cores.push(Core::new(next_number));
        }
        let found = self.look()?;
        self.adopt(&found);
        Ok(())
    }

    /// Retires what nothing needs. False if the power went off meanwhile.
    fn let_go(&mut self, found: &LogScan) -> bool {
        self.let_go_beside(found, &[])
    }

    /// The same, and sets damaged segments aside.
    fn let_go_beside(&mut self, found: &LogScan, damaged: &[SegmentId]) -> bool {
        let mut retired = BTreeSet::new();
        for segment in &found.segments {
            if segment.condition == Condition::Blank {
                self.disk.segments.remove(&segment.id);
            }
        }
        let mut generations: Vec<_> = found.segments.iter().filter_map(in_use).collect();
        generations.sort_by_key(|(_, header)| {
            let is_outcomes = header.usage == Usage::Outcomes;
            (is_outcomes, header.run, header.log_sequence)
        });
        for (segment, header) in generations {
            let needs = segment.refers_to.union(&segment.held_by);
            if segment.live > 0
                || needs
                    .into_iter()
                    .any(|generation| !retired.contains(generation))
            {
                continue;
            }
            if damaged.contains(&segment.id) {
                self.disk.segments.remove(&segment.id);
                retired.insert(header.generation);
                continue;
            }
            let free = Generation {
                segment: segment.id,
                number: header.generation.number + 1,
            };
            let mut block = vec![0; BLOCK_BYTES];
            free_header(free, self.run + 1).encode(&mut block);
            if self.random.one_in(30) {
                self.disk
                    .write_torn(&mut self.random, segment.id, 0, &block);
                return false;
            }
            self.disk.write(segment.id, 0, &block);
            retired.insert(header.generation);
        }
        true
    }

    fn adopt(&mut self, found: &LogScan) {
        let cores = self.cores.len();
        let home = |core: u16| usize::from(core) % cores;
        let mut homes = BTreeMap::new();
        for segment in &found.segments {
            if let Condition::Generation(header) = &segment.condition {
                homes.insert(header.generation, home(header.core));
            }
        }
        for message in &found.messages {
            let truth = self.truths.get_mut(&message.id).expect("checked");
            truth.parts = message.parts();
            truth.snapshot = 0;
            truth.standing = RecipientProgress::of(&message.states);
            truth.moving = false;
            truth.home = homes[&message.generation];
            let book = &mut self.cores[truth.home].message_book;
            book.stored(message.id, &truth.parts, 1);
        }
        for segment in &found.segments {
            let Condition::Generation(header) = &segment.condition else {
                continue;
            };
            let core = &mut self.cores[homes[&header.generation]];
            match header.usage {
                Usage::Free => core.free.push(header.generation),
                Usage::Messages => {
                    for holder in &segment.held_by {
                        core.message_book.held(header.generation, *holder);
                    }
                    core.message_book.sealed(header.generation);
                }
                Usage::Outcomes => {
                    let refers_to: Vec<Generation> = segment.refers_to.iter().copied().collect();
                    core.outcome_book
                        .refers(header.generation, &refers_to, true);
                    core.outcome_book.sealed(header.generation);
                }
            }
        }
    }

    // ---- the promise ----

    /// Holds what was found against what was promised, and makes it the new truth.
    fn check(&mut self, found: &LogScan) -> Verdict {
        let mut present = BTreeSet::new();
        for message in &found.messages {
            let id = message.id;
            if !present.insert(id) {
                return Err(format!("{id} was found twice"));
            }
            let Some(truth) = self.truths.get_mut(&id) else {
                return Err(format!("{id} was never sent, or had gone"));
            };
            if truth.is_finished() {
                return Err(format!("{id} was finished and came back"));
            }
            let body: Vec<u8> = message
                .extents()
                .iter()
                .flat_map(|extent| self.disk.extent(extent).iter().copied())
                .collect();
            if body != truth.body || message.envelope != truth.envelope {
                return Err(format!("{id} is not what was sent"));
            }
            for (index, state) in message.states.iter().enumerate() {
                let mut merged = state.clone();
                merged.merge(truth.durable[index].clone());
                if merged != *state {
                    return Err(format!("{id}: recipient {index} went back to {state:?}"));
                }
                let fresh = *state == RecipientState::fresh();
                let wrote =
                    |tried: &RecipientState| tried == state || without_reason(tried) == *state;
                if !fresh && !truth.tried[index].iter().any(wrote) {
                    return Err(format!("{id}: nobody wrote {state:?}"));
                }
            }
            truth.released = true;
            truth.busy = false;
            truth.durable = message.states.clone();
        }
        for (id, truth) in &self.truths {
            if truth.released && !present.contains(id) && !truth.may_be_finished() {
                return Err(format!("{id} was accepted and is lost"));
            }
        }
        self.truths.retain(|id, _| present.contains(id));
        if !found.report.is_sound() {
            return Err(format!("a crash looks like damage:\n{}", found.report));
        }
        Ok(())
    }
}

fn in_use(segment: &ScannedSegment) -> Option<(&ScannedSegment, &SegmentHeader)> {
    match &segment.condition {
        Condition::Generation(header) if header.usage != Usage::Free => Some((segment, header)),
        _ => None,
    }
}

fn free_header(generation: Generation, run: u32) -> SegmentHeader {
    SegmentHeader {
        generation,
        usage: Usage::Free,
        core: generation.segment.core,
        run,
        log_sequence: 0,
        segment_bytes: SEGMENT_BYTES,
        nonce: Nonce([0; 16]),
    }
}

#[test]
fn nothing_promised_is_lost_whenever_the_power_goes() {
    let (mut promised, mut holes, mut torn, mut retired) = (0, 0, 0, 0);
    let (mut moved, mut duplicates, mut overtaken, mut doubtful) = (0, 0, 0, 0);
    for seed in seeds(SEEDS) {
        let mut simulation = Simulation::new(seed, Canary::None);
        if let Err(story) = simulation.play() {
            panic!("seed {seed}: {story}\nreplay with RINGPOST_SIMULATION_SEED={seed}");
        }
        promised += simulation.promised;
        holes += simulation.holes;
        torn += simulation.torn;
        retired += simulation.retired;
        moved += simulation.moved;
        duplicates += simulation.duplicates;
        overtaken += simulation.overtaken;
        doubtful += simulation.doubtful;
    }
    println!("{promised} receipts, {holes} holes, {torn} torn commits, {retired} segments retired");
    println!(
        "{moved} moves, {overtaken} too late, {doubtful} doubtful, {duplicates} second copies"
    );
    // The simulation has to meet what it is for.
    if seeds(SEEDS).count() as u64 >= SEEDS {
        assert!(promised > 10_000 && holes > 50 && torn > 200 && retired > 500);
        assert!(moved > 2000 && duplicates > 500 && overtaken > 50 && doubtful > 50);
    }
}

#[test]
fn the_same_seed_leaves_the_same_disk() {
    for seed in 0..10 {
        let mut digests = [0, 0];
        for digest in &mut digests {
            let mut simulation = Simulation::new(seed, Canary::None);
            simulation.play().expect("it plays");
            *digest = simulation.disk.digest();
        }
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

/// Each of these breaks a promise, so the check must notice each, some sooner than others.
#[test]
fn planted_bugs_are_noticed() {
    for canary in [
        Canary::DropsMessages,
        Canary::DropsOutcomes,
        Canary::NonceLeaks,
        Canary::SendsNotesEarly,
        Canary::RepeatsLaps,
        Canary::ForgetsOutcomesEarly,
        Canary::LeavesEarly,
        Canary::CopiesForget,
        Canary::CoversTooMuch,
        Canary::IgnoresHolds,
    ] {
        let noticed = (0..1000).find_map(|seed| {
            std::panic::catch_unwind(|| Simulation::new(seed, canary).play())
                .unwrap_or_else(|_| Err("an assertion of the books".to_owned()))
                .err()
        });
        let story = noticed.unwrap_or_else(|| panic!("{canary:?} was not noticed"));
        println!("{canary:?}: {story}");
    }
}

/// Decay, not a crash: whatever bits turn, nothing false is believed and nothing panics.
#[test]
fn flipped_bits_never_make_mail() {
    for seed in 0..40 {
        let mut simulation = Simulation::new(seed, Canary::None);
        simulation.start().expect("it starts");
        for _ in 0..500 {
            simulation.step();
        }
        simulation.crash();
        let whole = simulation.look().expect("it reads");
        let mut disk = simulation.disk.clone();
        let random = &mut simulation.random;
        for content in disk.segments.values_mut() {
            for _ in 0..random.below(6) {
                let at = random.below(content.len());
                content[at] ^= 1 << random.below(8);
            }
        }
        let Ok(found) = scan_logs(&mut disk) else {
            continue;
        };
        for message in &found.messages {
            let truth = &simulation.truths[&message.id];
            let body: Vec<u8> = message
                .extents()
                .iter()
                .flat_map(|extent| disk.extent(extent).iter().copied())
                .collect();
            assert!(message.is_damaged || body == truth.body, "seed {seed}");
            assert_eq!(message.envelope, truth.envelope, "seed {seed}");
        }
        let _ = format!("{}", found.report);
        assert!(whole.report.is_sound());
    }
}
