//! One core's spool on its ring: two logs, their writers, and the books.

mod allocator;
mod books;
mod compactor;
pub mod liveness;
mod log;
mod pool;
mod put;
mod release;
mod rewriter;
mod shared;
mod space;
pub(super) mod spool;
mod tickets;
mod watch;
pub(super) mod writer;
mod writers;
