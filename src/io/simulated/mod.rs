//! The host that tests run the relay on: one thread, one clock, a disk in memory, and a seed that decides all
//! that a real host leaves open. Chosen by the feature `simulate`, in the place of `kernel`.
//!
//! Promise: the same seed is the same world, to the poll and to the byte, in every process.
//! Not here yet: signals, which are still the kernel's, so a world has none.
//!
//! What may go wrong, and what all promises must survive together:
//!
//! ```text
//! order       any ready task is next; one core starves; one core runs on alone; one stands still for a while
//! time        a turn takes 0-8 us, now and then 20 ms; an operation of the disk up to 45 ms, rarely 10 s
//! writes      end in any order; short ones, EINTR; errors, after which any part may be there
//! sync        fails once, and what was dirty is forgotten; the next one succeeds
//! space       less than was asked for; another program takes it and gives it back
//! power cut   of what was not durable any subset of sectors, of names each by itself; also within a call
//! network     windows and latency; a part of what is there is received, or sent; a reset may lose what was not read;
//!             hosts are silent, unreachable, refuse, or reset all they have; no descriptor is left for a while
//! names       see `names`
//! dead disk   from some time on nothing works, until the next start
//! ```
//!
//! What may not be mixed with these, because it breaks a promise by itself: writes that vanish, blocks that decay.

pub mod clock;
mod clockwork;
mod disk;
pub mod dns;
mod executor;
pub mod fs;
pub mod interfaces;
mod locals;
mod names;
mod network;
pub mod operations;
mod packet;
pub mod random;
pub mod runtime;
pub mod sockets;
mod world;

pub use disk::Faults;
pub use executor::{Order, Owner};
pub use locals::PerCore;
pub use names::{Fault, Manner, Names};
pub use network::{Links, Reach};
pub use world::{Guard, World};

/// The relay's, whatever its run.
pub fn process_id() -> u32 {
    1
}

/// Where memory lies differs from process to process, so here the seed says it. Large memory often begins a page.
pub fn page_offset(_: &[u8]) -> usize {
    let world = world::current();
    match world.one_in(2) {
        true => 0,
        false => world.below(super::PAGE_BYTES),
    }
}
