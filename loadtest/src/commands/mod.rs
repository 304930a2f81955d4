//! What each command does, from its flags to the exit status.
//!
//! Promise: a command that a signal interrupts reports what it has.
//! Not here: flags (`options`), the text of a report (`figures`), its page (`pages`).

pub mod alone;
pub mod common;
pub mod compare;
pub mod hold;
pub mod kill;
mod output;
mod progress;
pub mod proxy;
pub mod ramp;
pub mod run;
mod search;
mod watch;
