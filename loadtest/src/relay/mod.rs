//! The relay under test.
//!
//! Promise: it is known by its command, its process and its log only.
//! Not here: any code of a relay, SMTP.

pub mod log;
pub mod process;
pub mod under_test;
