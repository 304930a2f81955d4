//! Group commit: many messages, one sync.
//!
//! Promise: a [`Stored`] exists only for bytes that survive a power cut, and only this file can
//! make one.
//! Not here: file handles, the ring, the clock, random numbers. `log` drives this machine; the
//! simulator drives the same machine with faults.
//!
//! Records gather in the open batch. When fewer than two writes are in flight the open batch
//! becomes the next write: whatever arrived while the last commit ran goes into the next. Tickets
//! are released strictly in the order in which they were appended, also when the second write in
//! flight lands first.
//!
//! ```text
//! state of a record   on disk   ticket                    after a crash
//! in the open batch   no        waits                     gone, nothing was promised
//! in flight           perhaps   waits                     whole or not at all
//! write done          yes       waits for earlier writes  whole
//! released            yes       Ok(Stored)                whole
//! write failed        perhaps   Err, or written again     whole or not at all
//! ```
//!
//! After a failed write the segment is given up: nothing unreleased on it is believed, also if its
//! own write went well.

use crate::io::buffer::{AlignedBuf, BLOCK_BYTES};
use crate::spool::format::{
    COMMIT_BYTES_MAX, COMMIT_HEADER_BYTES, CommitHeader, Nonce, Record, Sums, sum_head,
};
use std::collections::VecDeque;

/// Writes that may be on their way to the disk at once, at most. What recovery says of a tail
/// that a crash left rests on it.
pub const IN_FLIGHT_MAX: usize = 2;

/// A segment's generation that commits can go to. Its header is durable.
#[derive(Clone, Debug)]
pub struct Head<S> {
    pub segment: S,
    pub nonce: Nonce,
    pub generation: u64,
    /// Of the segment, a whole number of blocks.
    pub segment_bytes: u64,
}

/// A generation that has commits already, and where its next one goes.
#[derive(Clone, Debug)]
pub struct Stop<S> {
    pub head: Head<S>,
    position: u64,
    previous: u32,
    next_sequence: u64,
}

/// What becomes of records whose write failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterFailure {
    /// Their tickets fail: the sender of a message still has it.
    Fail,
    /// They are written again on the next segment: nobody else has an outcome.
    WriteAgain,
}

/// A write to be made durable. Hand the buffer back with [`Machine::write_done`].
pub struct Write<S> {
    pub number: u64,
    pub segment: S,
    /// In bytes from the start of the segment; a whole number of blocks, as is `length`.
    pub position: u64,
    pub length: usize,
    pub buffer: AlignedBuf,
}

/// Why an append was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Can never be written: longer than a commit may be.
    TooLarge,
    /// The open batch is full. There is room after the next write began.
    BatchFull,
    /// There is no segment for it. There is room after [`Machine::supply`].
    NoSegment,
}

/// A record that is on stable storage.
#[derive(Debug)]
pub struct Stored<S> {
    segment: S,
    /// Of the body, from the start of the segment.
    body_offset: u64,
    body_bytes: u32,
    body_checksum: u32,
    /// Of the record's head, from the start of the segment.
    record_offset: u64,
    record_bytes: u32,
}

impl<S> Stored<S> {
    pub fn segment(&self) -> &S {
        &self.segment
    }

    pub fn body_offset(&self) -> u64 {
        self.body_offset
    }

    pub fn body_bytes(&self) -> u32 {
        self.body_bytes
    }

    pub fn body_checksum(&self) -> u32 {
        self.body_checksum
    }

    pub fn record_offset(&self) -> u64 {
        self.record_offset
    }

    pub fn record_bytes(&self) -> u32 {
        self.record_bytes
    }
}

/// The write failed and the record was not written elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteFailed<S> {
    /// Where it may have got to all the same. `None`: it was never sent on its way.
    pub segment: Option<S>,
}

/// A ticket that comes back, in the order of the appends.
pub struct Release<S, T> {
    pub ticket: T,
    pub result: Result<Stored<S>, WriteFailed<S>>,
}

/// Counters of a machine's life.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    pub commits: u64,
    pub records: u64,
    /// Written, padding included.
    pub bytes: u64,
    pub failures: u64,
}

struct Entry<T> {
    ticket: T,
    /// Of the record's head, from the start of the commit.
    offset: u32,
    record_bytes: u32,
    body_bytes: u32,
    body_checksum: u32,
}

struct Batch<T> {
    /// `None` while the buffer is with the kernel.
    buffer: Option<AlignedBuf>,
    /// Bytes in use, header included. Invariant: `COMMIT_HEADER_BYTES <= filled <= staging_bytes`.
    filled: usize,
    heads_checksum: u32,
    entries: Vec<Entry<T>>,
}

impl<T> Batch<T> {
    fn length(&self) -> usize {
        self.filled.next_multiple_of(BLOCK_BYTES)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteState {
    Writing,
    Done,
    Failed,
}

struct Flight<S, T> {
    number: u64,
    head_number: u64,
    segment: S,
    position: u64,
    state: WriteState,
    /// Its segment was given up: nothing of it is believed, however its own write ends.
    doomed: bool,
    batch: Batch<T>,
}

struct Current<S> {
    head: Head<S>,
    number: u64,
    /// Where the next commit goes.
    position: u64,
    previous: u32,
}

impl<S> Current<S> {
    fn has_room(&self, length: usize) -> bool {
        self.position + length as u64 <= self.head.segment_bytes
    }
}

/// The commit machine of one log. `S` names a segment, `T` is the ticket that comes back.
pub struct Machine<S, T> {
    after_failure: AfterFailure,
    staging_bytes: usize,
    in_flight_max: usize,
    current: Option<Current<S>>,
    /// Segments prepared ahead, in the order of use.
    spares: VecDeque<Head<S>>,
    open: Option<Batch<T>>,
    /// Batches whose write failed; they go before `open`. Empty with [`AfterFailure::Fail`].
    again: VecDeque<Batch<T>>,
    /// Invariant: at most `in_flight_max`, in the order of the appends.
    in_flight: VecDeque<Flight<S, T>>,
    idle_buffers: Vec<AlignedBuf>,
    idle_entries: Vec<Vec<Entry<T>>>,
    /// Segments that get no more commits, with the number of their generation.
    sealing: Vec<(u64, S)>,
    next_sequence: u64,
    next_write: u64,
    next_head: u64,
    counters: Counters,
}

impl<S: Clone, T> Machine<S, T> {
    /// `staging_bytes` bounds a commit; it is rounded to blocks and kept within
    /// [`COMMIT_BYTES_MAX`]. At most three buffers of that size are ever allocated.
    pub fn new(staging_bytes: usize, in_flight_max: usize, after_failure: AfterFailure) -> Self {
        assert!((1..=IN_FLIGHT_MAX).contains(&in_flight_max));
        let staging_bytes = staging_bytes
            .clamp(BLOCK_BYTES, COMMIT_BYTES_MAX)
            .next_multiple_of(BLOCK_BYTES);
        Machine {
            after_failure,
            staging_bytes,
            in_flight_max,
            current: None,
            spares: VecDeque::new(),
            open: None,
            again: VecDeque::new(),
            in_flight: VecDeque::new(),
            idle_buffers: Vec::new(),
            idle_entries: Vec::new(),
            sealing: Vec::new(),
            next_sequence: 0,
            next_write: 0,
            next_head: 0,
            counters: Counters::default(),
        }
    }

    /// Gives the machine a generation to continue on when the present one is full.
    pub fn supply(&mut self, head: Head<S>) {
        assert!(head.segment_bytes >= (BLOCK_BYTES + self.staging_bytes) as u64);
        self.spares.push_back(head);
    }

    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// Where the log has stopped, for another machine to go on. `None`: it never began. Only when nothing waits or is
    /// in flight.
    pub fn stop(self) -> Option<Stop<S>> {
        assert!(self.is_idle());
        let current = self.current?;
        Some(Stop {
            head: current.head,
            position: current.position,
            previous: current.previous,
            next_sequence: self.next_sequence,
        })
    }

    /// Before the first append: goes on where another machine has stopped. Everything before is durable.
    pub fn go_on(&mut self, stop: Stop<S>) {
        assert!(self.current.is_none() && self.is_idle());
        self.next_sequence = stop.next_sequence;
        self.current = Some(Current {
            head: stop.head,
            number: self.next_head,
            position: stop.position,
            previous: stop.previous,
        });
        self.next_head += 1;
    }

    /// Copies the record into the open batch. The ticket comes back from [`Self::write_done`], or
    /// at once if the record is not taken.
    pub fn append(&mut self, record: &Record<'_>, ticket: T) -> Result<(), (T, Refused)> {
        if let Err(refused) = self.admit(record.bytes()) {
            return Err((ticket, refused));
        }
        let mut batch = match self.open.take() {
            Some(batch) => batch,
            None => self.new_batch(),
        };
        let offset = batch.filled;
        let buffer = batch.buffer.as_mut().expect("an open batch has its buffer");
        let Sums { head, body } = record.encode(&mut buffer[offset..]);
        batch.filled += record.bytes();
        batch.heads_checksum = sum_head(batch.heads_checksum, head);
        batch.entries.push(Entry {
            ticket,
            offset: offset as u32,
            record_bytes: record.bytes() as u32,
            body_bytes: record.body.len() as u32,
            body_checksum: body,
        });
        self.open = Some(batch);
        Ok(())
    }

    /// The longest record that can ever be taken, head included.
    pub fn record_bytes_max(&self) -> usize {
        self.staging_bytes - COMMIT_HEADER_BYTES
    }

    fn admit(&self, record_bytes: usize) -> Result<(), Refused> {
        if record_bytes > self.record_bytes_max() {
            return Err(Refused::TooLarge);
        }
        let filled = self
            .open
            .as_ref()
            .map_or(COMMIT_HEADER_BYTES, |batch| batch.filled);
        let length = (filled + record_bytes).next_multiple_of(BLOCK_BYTES);
        if length > self.staging_bytes {
            return Err(Refused::BatchFull);
        }
        let has_segment = !self.spares.is_empty()
            || (self.again.is_empty() && self.current.as_ref().is_some_and(|c| c.has_room(length)));
        has_segment.then_some(()).ok_or(Refused::NoSegment)
    }

    fn new_batch(&mut self) -> Batch<T> {
        let buffer = match self.idle_buffers.pop() {
            Some(buffer) => buffer,
            None => AlignedBuf::new(self.staging_bytes),
        };
        Batch {
            buffer: Some(buffer),
            filled: COMMIT_HEADER_BYTES,
            heads_checksum: 0,
            entries: self.idle_entries.pop().unwrap_or_default(),
        }
    }

    /// Bytes that wait for a write, headers included.
    pub fn waiting_bytes(&self) -> usize {
        self.again.iter().chain(&self.open).map(|b| b.filled).sum()
    }

    /// Nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.again.is_empty() && self.in_flight.is_empty()
    }

    /// Something waits for a write, and there is no segment for it.
    pub fn is_starved(&self) -> bool {
        let waiting = self.again.front().or(self.open.as_ref());
        waiting.is_some_and(|batch| {
            self.spares.is_empty()
                && !self
                    .current
                    .as_ref()
                    .is_some_and(|current| current.has_room(batch.length()))
        })
    }

    /// Bytes that can be written before another generation is needed.
    pub fn room_bytes(&self) -> u64 {
        let current = self
            .current
            .as_ref()
            .map_or(0, |c| c.head.segment_bytes - c.position);
        let spares: u64 = self
            .spares
            .iter()
            .map(|head| head.segment_bytes - BLOCK_BYTES as u64)
            .sum();
        (current + spares).saturating_sub(self.waiting_bytes() as u64)
    }

    /// The next write, if something waits, fewer than the maximum are in flight, and there is a
    /// segment for it.
    pub fn next_write(&mut self) -> Option<Write<S>> {
        if self.in_flight.len() >= self.in_flight_max || self.is_starved() {
            return None;
        }
        let mut batch = self.again.pop_front().or_else(|| self.open.take())?;
        let length = batch.length();
        let current = self.advance(length);
        let mut buffer = batch.buffer.take().expect("a waiting batch has its buffer");
        buffer[batch.filled..length].fill(0);
        let header = CommitHeader {
            nonce: current.head.nonce,
            generation: current.head.generation,
            block: (current.position / BLOCK_BYTES as u64) as u32,
            sequence: 0,
            payload_bytes: (batch.filled - COMMIT_HEADER_BYTES) as u32,
            record_count: batch.entries.len() as u32,
            previous: current.previous,
        };
        let (segment, position) = (current.head.segment.clone(), current.position);
        let head_number = current.number;
        current.position += length as u64;
        let header = CommitHeader {
            sequence: self.next_sequence,
            ..header
        };
        let checksum = header.encode(batch.heads_checksum, &mut buffer);
        self.current.as_mut().expect("advanced to it").previous = checksum;
        self.next_sequence += 1;
        let number = self.next_write;
        self.next_write += 1;
        self.in_flight.push_back(Flight {
            number,
            head_number,
            segment: segment.clone(),
            position,
            state: WriteState::Writing,
            doomed: false,
            batch,
        });
        Some(Write {
            number,
            segment,
            position,
            length,
            buffer,
        })
    }

    /// The generation for a commit of `length`: the present one, or the next spare.
    fn advance(&mut self, length: usize) -> &mut Current<S> {
        if !self.current.as_ref().is_some_and(|c| c.has_room(length)) {
            self.seal_current();
            let head = self.spares.pop_front().expect("the caller checked");
            self.current = Some(Current {
                head,
                number: self.next_head,
                position: BLOCK_BYTES as u64,
                previous: 0,
            });
            self.next_head += 1;
        }
        self.current.as_mut().expect("just made")
    }

    fn seal_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.sealing.push((current.number, current.head.segment));
        }
    }

    /// The generation at work and how much of it is used, if it may be left before it is full: at least half of it is used, nothing
    /// waits or is in flight, and another generation is prepared.
    pub fn leavable(&self) -> Option<(&S, u64)> {
        let is_free = self.is_idle() && !self.spares.is_empty();
        let current = self.current.as_ref().filter(|_| is_free)?;
        let used_bytes = current.position;
        (used_bytes * 2 >= current.head.segment_bytes)
            .then_some((&current.head.segment, used_bytes))
    }

    /// The generation at work, if there is anything in it, and nothing waits or is in flight.
    pub fn at_rest(&self) -> Option<&S> {
        let current = self.current.as_ref().filter(|_| self.is_idle())?;
        (current.position > BLOCK_BYTES as u64).then_some(&current.head.segment)
    }

    /// The generation at work gets no more commits. Only when it is [`Self::at_rest`].
    pub fn leave(&mut self) {
        assert!(self.at_rest().is_some());
        self.seal_current();
    }

    /// Takes back a write. With `ok` its bytes are on stable storage, whatever happens next.
    /// Releases what is due into `releases`.
    pub fn write_done(
        &mut self,
        number: u64,
        ok: bool,
        buffer: AlignedBuf,
        releases: &mut Vec<Release<S, T>>,
    ) {
        let flight = self
            .in_flight
            .iter_mut()
            .find(|flight| flight.number == number && flight.state == WriteState::Writing)
            .expect("every write is given back once");
        flight.batch.buffer = Some(buffer);
        if ok {
            flight.state = WriteState::Done;
        } else {
            flight.state = WriteState::Failed;
            let head_number = flight.head_number;
            self.give_up(head_number);
        }
        self.release(releases);
    }

    /// Nothing unreleased on this generation is believed any more, and nothing more is written to it.
    fn give_up(&mut self, head_number: u64) {
        self.counters.failures += 1;
        for flight in &mut self.in_flight {
            flight.doomed |= flight.head_number == head_number;
        }
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.number == head_number)
        {
            self.seal_current();
        }
    }

    fn release(&mut self, releases: &mut Vec<Release<S, T>>) {
        while self
            .in_flight
            .front()
            .is_some_and(|flight| flight.state != WriteState::Writing)
        {
            let flight = self.in_flight.pop_front().expect("just seen");
            if flight.doomed && self.after_failure == AfterFailure::WriteAgain {
                self.again.push_back(flight.batch);
            } else {
                self.release_flight(flight, releases);
            }
        }
    }

    fn release_flight(&mut self, flight: Flight<S, T>, releases: &mut Vec<Release<S, T>>) {
        let Flight {
            mut batch,
            segment,
            position,
            doomed,
            state,
            ..
        } = flight;
        assert!(doomed || state == WriteState::Done);
        if !doomed {
            self.counters.commits += 1;
            self.counters.records += batch.entries.len() as u64;
            self.counters.bytes += batch.length() as u64;
        }
        releases.extend(batch.entries.drain(..).map(|entry| Release {
            result: match doomed {
                true => Err(WriteFailed {
                    segment: Some(segment.clone()),
                }),
                false => Ok(entry.stored(segment.clone(), position)),
            },
            ticket: entry.ticket,
        }));
        self.idle_buffers.extend(batch.buffer);
        self.idle_entries.push(batch.entries);
    }

    /// Fails what waits for a segment that is not to be had. Only with [`AfterFailure::Fail`].
    pub fn fail_waiting(&mut self, releases: &mut Vec<Release<S, T>>) {
        assert!(self.after_failure == AfterFailure::Fail);
        if let Some(mut batch) = self.open.take() {
            releases.extend(batch.entries.drain(..).map(|entry| Release {
                ticket: entry.ticket,
                result: Err(WriteFailed { segment: None }),
            }));
            self.idle_buffers.extend(batch.buffer);
            self.idle_entries.push(batch.entries);
        }
    }

    /// Segments that got their last commit and have no write in flight. Each is named once.
    pub fn take_sealed(&mut self) -> Vec<S> {
        let in_flight = &self.in_flight;
        let (busy, done): (Vec<_>, Vec<_>) = std::mem::take(&mut self.sealing)
            .into_iter()
            .partition(|(number, _)| in_flight.iter().any(|f| f.head_number == *number));
        self.sealing = busy;
        done.into_iter().map(|(_, segment)| segment).collect()
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl<T> Entry<T> {
    fn stored<S>(&self, segment: S, position: u64) -> Stored<S> {
        let record_offset = position + u64::from(self.offset);
        let head_and_meta = self.record_bytes - self.body_bytes;
        Stored {
            segment,
            body_offset: record_offset + u64::from(head_and_meta),
            body_bytes: self.body_bytes,
            body_checksum: self.body_checksum,
            record_offset,
            record_bytes: self.record_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;
    use crate::spool::format::Kind;

    type TestMachine = Machine<u32, u32>;

    const STAGING: usize = 2 * BLOCK_BYTES;

    fn machine(after_failure: AfterFailure) -> TestMachine {
        let mut machine = Machine::new(STAGING, IN_FLIGHT_MAX, after_failure);
        machine.supply(head(1));
        machine
    }

    /// Room for four blocks of commits.
    fn head(segment: u32) -> Head<u32> {
        Head {
            segment,
            nonce: Nonce([segment as u8; 16]),
            generation: 1,
            segment_bytes: 5 * BLOCK_BYTES as u64,
        }
    }

    fn append_bytes(
        machine: &mut TestMachine,
        ticket: u32,
        bytes: usize,
    ) -> Result<(), (u32, Refused)> {
        let record = Record {
            kind: Kind::Chunk,
            id: MessageId {
                run: 1,
                core: 0,
                sequence: u64::from(ticket),
            },
            meta: &[],
            body: &vec![1; bytes],
        };
        machine.append(&record, ticket)
    }

    fn append(machine: &mut TestMachine, ticket: u32) {
        append_bytes(machine, ticket, 100).expect("there is room");
    }

    fn done(machine: &mut TestMachine, write: Write<u32>, ok: bool) -> Vec<(u32, Option<u32>)> {
        let mut releases = Vec::new();
        machine.write_done(write.number, ok, write.buffer, &mut releases);
        releases
            .into_iter()
            .map(|release| (release.ticket, release.result.ok().map(|s| *s.segment())))
            .collect()
    }

    #[test]
    fn a_lone_record_waits_for_nobody_and_later_ones_share() {
        let mut machine = machine(AfterFailure::Fail);
        append(&mut machine, 1);
        let first = machine.next_write().expect("at once");
        append(&mut machine, 2);
        append(&mut machine, 3);
        let second = machine.next_write().expect("two may be in flight");
        append(&mut machine, 4);
        assert!(machine.next_write().is_none(), "but not three");
        assert_eq!(done(&mut machine, first, true), [(1, Some(1))]);
        assert_eq!(
            done(&mut machine, second, true),
            [(2, Some(1)), (3, Some(1))]
        );
        assert!(machine.next_write().is_some());
    }

    #[test]
    fn the_second_write_waits_for_the_first() {
        let mut machine = machine(AfterFailure::Fail);
        append(&mut machine, 1);
        let first = machine.next_write().unwrap();
        append(&mut machine, 2);
        let second = machine.next_write().unwrap();
        assert_eq!(done(&mut machine, second, true), []);
        assert_eq!(
            done(&mut machine, first, true),
            [(1, Some(1)), (2, Some(1))]
        );
    }

    #[test]
    fn a_failed_write_takes_its_companion_with_it() {
        for first_fails in [true, false] {
            let mut machine = machine(AfterFailure::Fail);
            append(&mut machine, 1);
            let first = machine.next_write().unwrap();
            append(&mut machine, 2);
            let second = machine.next_write().unwrap();
            append(&mut machine, 3);
            let (bad, good) = match first_fails {
                true => (first, second),
                false => (second, first),
            };
            let mut released = done(&mut machine, bad, false);
            released.extend(done(&mut machine, good, true));
            assert_eq!(released, [(1, None), (2, None)]);
            assert_eq!(machine.take_sealed(), [1], "the segment is given up");
            assert!(machine.is_starved());
            machine.supply(head(2));
            let third = machine.next_write().unwrap();
            assert_eq!(done(&mut machine, third, true), [(3, Some(2))]);
        }
    }

    #[test]
    fn what_was_released_before_the_failure_stays() {
        let mut machine = machine(AfterFailure::Fail);
        append(&mut machine, 1);
        let first = machine.next_write().unwrap();
        append(&mut machine, 2);
        let second = machine.next_write().unwrap();
        assert_eq!(done(&mut machine, first, true), [(1, Some(1))]);
        assert_eq!(done(&mut machine, second, false), [(2, None)]);
    }

    #[test]
    fn outcomes_are_written_again_elsewhere() {
        let mut machine = machine(AfterFailure::WriteAgain);
        append(&mut machine, 1);
        let first = machine.next_write().unwrap();
        append(&mut machine, 2);
        let second = machine.next_write().unwrap();
        append(&mut machine, 3);
        let old_nonce = first.buffer[8..24].to_vec();
        assert_eq!(done(&mut machine, first, false), []);
        assert_eq!(done(&mut machine, second, true), []);
        machine.supply(head(2));
        for ticket in [1, 2, 3] {
            let write = machine.next_write().unwrap();
            assert_ne!(write.buffer[8..24], old_nonce[..]);
            assert_eq!(done(&mut machine, write, true), [(ticket, Some(2))]);
        }
        assert!(machine.is_idle());
    }

    #[test]
    fn a_full_segment_is_sealed_when_its_last_write_is_done() {
        let mut machine = machine(AfterFailure::Fail);
        machine.supply(head(2));
        for ticket in 0..3 {
            append(&mut machine, ticket);
            let write = machine.next_write().unwrap();
            done(&mut machine, write, true);
        }
        append(&mut machine, 3);
        let last = machine.next_write().unwrap();
        append(&mut machine, 4);
        let next = machine.next_write().unwrap();
        assert_eq!((next.segment, next.position), (2, BLOCK_BYTES as u64));
        assert!(machine.take_sealed().is_empty());
        done(&mut machine, last, true);
        assert_eq!(machine.take_sealed(), [1]);
        assert!(machine.take_sealed().is_empty());
    }

    #[test]
    fn a_generation_is_left_when_half_of_it_is_used_and_nothing_is_under_way() {
        let mut machine = machine(AfterFailure::Fail);
        machine.supply(head(2));
        for ticket in 0..2 {
            assert!(machine.leavable().is_none(), "{ticket} of 4 blocks used");
            append(&mut machine, ticket);
            let write = machine.next_write().unwrap();
            assert!(machine.leavable().is_none(), "in flight");
            done(&mut machine, write, true);
        }
        append(&mut machine, 2);
        assert!(machine.leavable().is_none(), "something waits");
        let write = machine.next_write().unwrap();
        done(&mut machine, write, true);
        let half = 2 * BLOCK_BYTES as u64;
        assert!(matches!(machine.leavable(), Some((1, used)) if used >= half));
        machine.leave();
        assert_eq!(machine.take_sealed(), [1]);
        append(&mut machine, 3);
        let write = machine.next_write().unwrap();
        assert_eq!((write.segment, write.position), (2, BLOCK_BYTES as u64));
        done(&mut machine, write, true);
        append_bytes(&mut machine, 4, BLOCK_BYTES).unwrap();
        let write = machine.next_write().unwrap();
        done(&mut machine, write, true);
        assert!(machine.leavable().is_none(), "there is no other");
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let mut machine = machine(AfterFailure::Fail);
        let most = machine.record_bytes_max() - crate::spool::format::RECORD_HEAD_BYTES;
        let refused = |result: Result<(), (u32, Refused)>| result.unwrap_err().1;
        assert_eq!(
            refused(append_bytes(&mut machine, 1, most + 1)),
            Refused::TooLarge
        );
        append_bytes(&mut machine, 1, most).unwrap();
        assert_eq!(
            refused(append_bytes(&mut machine, 2, 1)),
            Refused::BatchFull
        );
        let first = machine.next_write().unwrap();
        append_bytes(&mut machine, 2, most).unwrap();
        let second = machine.next_write().unwrap();
        assert_eq!(
            refused(append_bytes(&mut machine, 3, 1)),
            Refused::NoSegment
        );
        done(&mut machine, first, true);
        done(&mut machine, second, true);
        machine.supply(head(2));
        append_bytes(&mut machine, 3, 1).unwrap();
    }

    #[test]
    fn no_more_than_three_buffers_are_made() {
        let mut machine = machine(AfterFailure::WriteAgain);
        let mut flights = VecDeque::new();
        for ticket in 0..200 {
            if machine.spares() == 0 {
                machine.supply(head(ticket));
            }
            append(&mut machine, ticket);
            flights.extend(machine.next_write());
            if flights.len() == IN_FLIGHT_MAX {
                let write = flights.pop_front().unwrap();
                done(&mut machine, write, ticket % 7 != 0);
            }
            let held = machine.idle_buffers.len()
                + flights.len()
                + machine.again.len()
                + usize::from(machine.open.is_some());
            assert!(held <= 4, "{held} buffers");
        }
    }

    #[test]
    fn nothing_of_an_old_batch_is_left_in_the_padding() {
        let mut machine = machine(AfterFailure::Fail);
        append_bytes(&mut machine, 1, 3000).unwrap();
        let write = machine.next_write().unwrap();
        done(&mut machine, write, true);
        append(&mut machine, 2);
        let write = machine.next_write().unwrap();
        assert!(write.buffer[64 + 140..write.length].iter().all(|&b| b == 0));
    }
}
