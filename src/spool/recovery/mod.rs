//! Opening a spool on what an earlier run left, and looking at one that is not in use.

mod commits;
pub mod directory;
mod files;
pub(in crate::spool) mod fold;
mod found;
pub mod inspect;
mod known;
pub mod recover;
mod report;
mod scan;
pub mod stopped;
mod window;

pub use found::{Condition, FoundBody, FoundMessage, HeldOutcome, ScannedSegment};
pub use report::{Damage, RecoveryReport, What};
pub use scan::{LogScan, ScanError, scan_logs};
pub use window::Disk;
