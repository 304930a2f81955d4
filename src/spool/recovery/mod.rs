//! Opening a spool on what an earlier run left, and looking at one that is not in use.

pub mod directory;
pub mod inspect;
pub mod recover;
pub mod scan;
