//! One log: commits that many records share, and the segment files that they go to.

pub mod commit;
pub mod segment;
