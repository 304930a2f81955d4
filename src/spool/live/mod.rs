//! One core's spool on its ring.

mod allocator;
mod compactor;
pub(super) mod driver;
pub mod liveness;
