//! Why a command could not do its work.
//!
//! Promise: the words are for the terminal, and say what would help where that is known.
//! Not here: a test that was made and is not clean (`figures`).

pub type Failure = Box<dyn std::error::Error>;
