//! Pure machines and parsers: no clock, no disk, no network, whatever is tried on them.

mod fuzz_corpus;
mod spool_simulation;
mod transcripts_client;
mod transcripts_server;
