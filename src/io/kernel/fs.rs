//! Names on the disk and what is read and written at once: the standard library's, which blocks. For the start
//! and for helper threads.

pub use std::fs::*;
pub use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
