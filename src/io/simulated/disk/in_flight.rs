//! Operations as a ring has them: submitted, carried out at their time, in any order, and fetched.

use super::{Disk, Handle, check_alignment, error};
use crate::io::buffer::BLOCK_BYTES;
use crate::io::simulated::clockwork::Clockwork;
use crate::io::simulated::executor::Event;
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(super) enum Kind {
    Write { position: u64, bytes: Vec<u8> },
    Read { position: u64, length: usize },
    Sync,
}

pub(super) struct Operation {
    pub(super) handle: Handle,
    pub(super) kind: Kind,
    waker: Option<Waker>,
    is_abandoned: bool,
    pub(super) result: Option<io::Result<Vec<u8>>>,
}

impl Disk {
    fn submit(&mut self, world: &Clockwork, handle: Handle, kind: Kind) -> u64 {
        let number = self.number();
        let operation = Operation {
            handle,
            kind,
            waker: None,
            is_abandoned: false,
            result: None,
        };
        self.operations.insert(number, operation);
        let wait = if world.one_in(self.faults.delays) {
            Duration::from_secs(10)
        } else if world.one_in(20) {
            Duration::from_micros(world.below(45_000) as u64)
        } else {
            Duration::from_micros(80 + world.below(300) as u64)
        };
        world.event_in(wait, Event::Disk(number));
        number
    }

    pub fn submit_write(
        &mut self,
        world: &Clockwork,
        handle: Handle,
        position: u64,
        bytes: &[u8],
    ) -> u64 {
        check_alignment(handle, position, bytes.as_ptr() as usize, bytes.len());
        let bytes = bytes.to_vec();
        self.submit(world, handle, Kind::Write { position, bytes })
    }

    pub fn submit_read(
        &mut self,
        world: &Clockwork,
        handle: Handle,
        position: u64,
        bytes: &[u8],
    ) -> u64 {
        let length = bytes.len();
        check_alignment(handle, position, bytes.as_ptr() as usize, length);
        self.submit(world, handle, Kind::Read { position, length })
    }

    pub fn submit_sync(&mut self, world: &Clockwork, handle: Handle) -> u64 {
        self.submit(world, handle, Kind::Sync)
    }

    /// What was read, or as many bytes as were written.
    pub fn poll(&mut self, number: u64, context: &Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        // One that the power cut away never ends.
        let Some(operation) = self.operations.get_mut(&number) else {
            return Poll::Pending;
        };
        match operation.result.take() {
            Some(result) => {
                self.operations.remove(&number);
                Poll::Ready(result)
            }
            None => {
                operation.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Nobody waits for it any more; it ends all the same.
    pub fn abandon(&mut self, number: u64) {
        let Some(operation) = self.operations.get_mut(&number) else {
            return;
        };
        operation.is_abandoned = true;
        if operation.result.is_some() {
            self.operations.remove(&number);
        }
    }

    /// The operation ends.
    pub fn finish(&mut self, world: &Clockwork, number: u64) -> Option<Waker> {
        let operation = self.operations.remove(&number)?;
        let result = self.carry_out(world, operation.handle, &operation.kind);
        if operation.is_abandoned {
            return None;
        }
        let waker = operation.waker;
        let ended = Operation {
            waker: None,
            result: Some(result),
            kind: Kind::Sync,
            ..operation
        };
        self.operations.insert(number, ended);
        waker
    }

    fn carry_out(&mut self, world: &Clockwork, handle: Handle, kind: &Kind) -> io::Result<Vec<u8>> {
        if self.faults.is_dead {
            return Err(error(libc::EIO));
        }
        if world.one_in(self.faults.interruptions) {
            return Err(error(libc::EINTR));
        }
        match kind {
            Kind::Sync => self.sync_content(world, handle).map(|()| Vec::new()),
            Kind::Read { position, length } => {
                if world.one_in(self.faults.read_errors) {
                    return Err(error(libc::EIO));
                }
                let mut bytes = vec![0; *length];
                let read = self.read(handle, *position, &mut bytes)?;
                bytes.truncate(read);
                Ok(bytes)
            }
            Kind::Write { position, bytes } => {
                self.carry_out_write(world, handle, *position, bytes)
            }
        }
    }

    fn carry_out_write(
        &mut self,
        world: &Clockwork,
        handle: Handle,
        position: u64,
        bytes: &[u8],
    ) -> io::Result<Vec<u8>> {
        self.inode(handle)?;
        if world.one_in(self.faults.write_errors) {
            world.tell(|| format!("[disk: a write of {} fails at {position}]", handle.inode));
            self.tear(world, handle, position, bytes);
            return Err(error(libc::EIO));
        }
        if world.one_in(self.faults.vanishing_writes) {
            return Ok(bytes.to_vec());
        }
        let blocks = bytes.len() / BLOCK_BYTES;
        let bytes = match blocks > 1 && world.one_in(self.faults.short_writes) {
            true => &bytes[..(1 + world.below(blocks - 1)) * BLOCK_BYTES],
            false => bytes,
        };
        self.claim(handle.inode, position + bytes.len() as u64)?;
        self.land(handle, position, bytes);
        Ok(bytes.to_vec())
    }
}
