//! ringpost: a durable SMTP relay with automatic TLS, one io_uring per thread.
//!
//! ```text
//! listener -> session -> spool -> handoff -> delivery -> remote
//!  accept     SMTP+TLS   commit   lane       schedule    SMTP+TLS to the next hop
//! ```
//!
//! A room imports only from rooms of a lower level. `tests/house/layers.rs` watches that, and holds the
//! short list of what may be imported within a level.
//!
//! | level | rooms | what they know |
//! |---|---|---|
//! | 0 | `text` `domain` `message` `time` `metrics` `log` | plain values; what a log line looks like |
//! | 1 | `smtp` `schedule` | pure machines: events and the time in, actions out |
//! | 2 | `io` `tls` `spool` `handoff` `policy` `privilege` | the ring, rustls, the disk, other threads, what clients may do, what the kernel lets us do |
//! | 3 | `listener` `session` `delivery` `remote` `transfer` | one connection, one next hop; mail as files |
//! | 4 | `config` | flags, and the settings of all rooms that they come to |
//! | 5 | `engine` | threads, start, drain; the list of all that cores share |
//!
//! Within level 3 `listener` imports `session`, and `delivery` imports `remote`. `session` and
//! `delivery` never import each other; they meet in `spool` and `handoff`.
//!
//! The files in each room, and why they are as they are: `ARCHITECTURE.md`.
//!
//! Absent on purpose: filtering and rewriting of mail, mailboxes and aliases, local submission by a
//! `sendmail` command, a 250 for mail that is only in memory, locks that cores contend for on a
//! message's path, and threads that take work from each other.

// They panic without a reader, and wait for a slow one.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod domain;
pub mod log;
pub mod message;
pub mod metrics;
pub mod text;
pub mod time;

pub mod schedule;
pub mod smtp;

pub mod handoff;
pub mod io;
pub mod policy;
pub mod privilege;
pub mod spool;
pub mod tls;

pub mod delivery;
pub mod listener;
pub mod remote;
pub mod session;
pub mod transfer;

pub mod config;

pub mod engine;
