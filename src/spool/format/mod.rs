//! Every form that the spool has on disk. Pure.

mod record;

pub use record::*;
