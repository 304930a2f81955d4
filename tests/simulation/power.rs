//! The disk while the power is on: writes take time, end in any order, and may fail.

use crate::simulated::disk::VirtualDisk;
use crate::world::{World, until};
use ringpost::io::buffer::AlignedBuf;
use ringpost::spool::format::SegmentId;
use std::collections::BTreeMap;

/// A write on its way.
struct Pending {
    number: u64,
    segment: SegmentId,
    position: u64,
    length: usize,
    buffer: AlignedBuf,
    /// Only commits fail: what a failed header does is `spool_simulation`'s.
    may_fail: bool,
    may_vanish: bool,
}

/// The disk gave an error: some of the write may be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteError;

#[derive(Default)]
pub struct Power {
    pub disk: VirtualDisk,
    pending: Vec<Pending>,
    done: BTreeMap<u64, (AlignedBuf, Result<(), WriteError>)>,
    next: u64,
    /// One commit in so many fails; 0: none.
    pub write_luck: usize,
}

impl Power {
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Any of the writes in flight ends.
    pub fn complete_one(&mut self, world: &World) {
        if self.pending.is_empty() {
            return;
        }
        let pending = self.pending.remove(world.below(self.pending.len()));
        let Pending {
            segment,
            position,
            length,
            ..
        } = pending;
        let fails = pending.may_fail && self.write_luck > 0 && world.one_in(self.write_luck);
        let bytes = &pending.buffer[..length];
        if fails {
            world.seen.borrow_mut().write_errors += 1;
            world.with_random(|random| self.disk.write_torn(random, segment, position, bytes));
        } else if !(pending.may_vanish && world.one_in(10)) {
            self.disk.write(segment, position, bytes);
        }
        let result = if fails { Err(WriteError) } else { Ok(()) };
        self.done.insert(pending.number, (pending.buffer, result));
        world.note_progress();
    }

    /// The power goes: of each write in flight some sectors may be there.
    pub fn cut(&mut self, world: &World) {
        for pending in std::mem::take(&mut self.pending) {
            let bytes = &pending.buffer[..pending.length];
            let (segment, position) = (pending.segment, pending.position);
            world.seen.borrow_mut().writes_cut += 1;
            world.with_random(|random| self.disk.write_torn(random, segment, position, bytes));
        }
        self.done.clear();
    }
}

/// What kind of write it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    Header,
    Commit,
    /// The disk says yes and writes nothing, now and then.
    CommitThatVanishes,
}

/// Writes durably.
pub async fn write(
    world: &World,
    of: Of,
    segment: SegmentId,
    position: u64,
    (buffer, length): (AlignedBuf, usize),
) -> (AlignedBuf, Result<(), WriteError>) {
    let number = {
        let mut power = world.power.borrow_mut();
        power.next += 1;
        let number = power.next;
        power.pending.push(Pending {
            number,
            segment,
            position,
            length,
            buffer,
            may_fail: of != Of::Header,
            may_vanish: of == Of::CommitThatVanishes,
        });
        number
    };
    until(world, || world.power.borrow_mut().done.remove(&number)).await
}
